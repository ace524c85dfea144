//! Valid pipelines with damage: whatever comes out, it is an answer, and its places are in the file.

use dagrun_dsl::{NoFiles, fmt, parse, render};
use proptest::prelude::*;

const FILES: [&str; 3] = [
    include_str!("fixtures/sweep.yaml"),
    include_str!("fixtures/ci.yaml"),
    include_str!("fixtures/calibrate.yaml"),
];

/// Pieces that mean something to YAML, to templates or to the language.
const PIECES: [&str; 28] = [
    "", " ", "\n", "\n  ", "\t", ": ", "- ", "[", "]", "{", "}", "\"", "'", "#", "&a ", "*a",
    "!x ", "|\n", "${{ ", " }}", "null", "<<: *src", "3.10", "../", "\0", "ü", "? ", "---\n",
];

fn check(text: &str) {
    let parsed = parse("p.yaml", text, &NoFiles);
    assert_eq!(
        parsed.pipeline.is_none(),
        parsed.diagnostics.iter().any(|d| d.is_error())
    );
    for diagnostic in &parsed.diagnostics {
        let places = diagnostic.related.iter().map(|(span, _)| span);
        let fix = diagnostic.fix.iter().map(|(span, _)| span);
        for span in places.chain(fix).chain([&diagnostic.span]) {
            let (start, end) = (span.start as usize, span.end as usize);
            assert!(text.get(start..end).is_some(), "{diagnostic:?} in {text:?}");
        }
        assert!(
            !diagnostic.message.is_empty() && !diagnostic.message.contains('\n'),
            "{diagnostic:?}"
        );
    }
    render(&parsed.diagnostics, &parsed.sources, true);
    if let Ok(formatted) = fmt(text) {
        let again = parse("p.yaml", &formatted, &NoFiles);
        assert_eq!(
            again.pipeline.is_some(),
            parsed.pipeline.is_some(),
            "{text:?}"
        );
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_is_answered(
        file in 0..FILES.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..12_usize, 0..PIECES.len()), 1..4),
    ) {
        let mut text = FILES[file].to_owned();
        for (at, length, piece) in edits {
            let start = floor(&text, at.index(text.len()));
            let end = floor(&text, (start + length).min(text.len()));
            text.replace_range(start..end.max(start), PIECES[piece]);
        }
        check(&text);
    }
}
