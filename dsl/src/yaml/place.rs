//! From a decoded scalar back to the bytes of the source: which byte of the text stands where.

use super::{Kind, NodeId, Style, Tree};
use crate::text::SourceText;

/// The text of a scalar with the places of its bytes.
pub(crate) fn source_text(tree: &Tree, id: NodeId, source: &str) -> SourceText {
    let span = tree.span(id);
    let node = tree.node(id);
    let (style, text) = match &node.kind {
        Kind::Scalar(style, Some(text)) => (*style, text),
        _ => return SourceText::plain(span.file, tree.text(id, source), node.start as usize),
    };
    let raw = &source[node.range()];
    let segments = match style {
        Style::Double => double_quoted(text, raw),
        Style::Single => unchanged_characters(text, raw, 1, true),
        _ => unchanged_characters(text, raw, 0, false),
    };
    let base = node.start;
    let segments = segments
        .into_iter()
        .map(|(at, offset)| (at, offset + base))
        .collect();
    SourceText::mapped(span.file, text.to_string(), segments, span)
}

/// Notes a pair of offsets where the distance between text and source changes.
struct Segments {
    pairs: Vec<(u32, u32)>,
    delta: Option<i64>,
}

impl Segments {
    fn new() -> Self {
        Self {
            pairs: Vec::new(),
            delta: None,
        }
    }

    fn note(&mut self, text: usize, source: usize) {
        let delta = source as i64 - text as i64;
        if self.delta != Some(delta) {
            self.delta = Some(delta);
            self.pairs.push((text as u32, source as u32));
        }
    }
}

/// Aligns a text whose characters, but for white space, stand in the source in the same order.
fn unchanged_characters(text: &str, raw: &str, start: usize, doubled: bool) -> Vec<(u32, u32)> {
    let mut segments = Segments::new();
    let mut at = start;
    for (i, c) in text.char_indices() {
        if is_blank(c) {
            if raw[at..].chars().next().is_some_and(is_blank) {
                segments.note(i, at);
                at += raw[at..].chars().next().map_or(0, char::len_utf8);
            } else {
                segments.note(i, at);
            }
            continue;
        }
        while let Some(r) = raw[at..].chars().next().filter(|r| *r != c) {
            at += r.len_utf8();
        }
        segments.note(i, at);
        at += c.len_utf8();
        if doubled && c == '\'' {
            at += 1;
        }
        at = at.min(raw.len());
    }
    segments.pairs
}

fn double_quoted(text: &str, raw: &str) -> Vec<(u32, u32)> {
    let mut segments = Segments::new();
    let mut at = 1;
    for (i, c) in text.char_indices() {
        while skips(&raw[at..], c) {
            at += raw[at..].chars().next().map_or(1, char::len_utf8);
        }
        // An escaped line break gives no character.
        while raw[at..].starts_with("\\\n") || raw[at..].starts_with("\\\r\n") {
            at += raw[at..].find('\n').map_or(2, |n| n + 1);
            at += raw[at..].len() - raw[at..].trim_start_matches([' ', '\t']).len();
        }
        segments.note(i, at);
        at += step(&raw[at..]);
        at = at.min(raw.len());
    }
    segments.pairs
}

/// Whether the source has a blank here that the text has not.
fn skips(raw: &str, c: char) -> bool {
    raw.chars()
        .next()
        .is_some_and(|r| is_blank(r) && !is_blank(c))
}

/// How many bytes of the source make one character.
fn step(raw: &str) -> usize {
    let mut chars = raw.chars();
    match chars.next() {
        Some('\\') => match chars.next() {
            Some('x') => 4,
            Some('u')
                if raw.get(2..3).is_some_and(|d| d.eq_ignore_ascii_case("d"))
                    && raw.get(6..8) == Some("\\u") =>
            {
                12
            }
            Some('u') => 6,
            Some('U') => 10,
            Some(c) => 1 + c.len_utf8(),
            None => 1,
        },
        Some(c) => c.len_utf8(),
        None => 0,
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

#[cfg(test)]
mod tests {
    use dagrun_model::FileIx;

    use super::*;
    use crate::yaml::read;

    /// Reads `a: <yaml>` and checks that each `needle` of the decoded text points at the same word in the source.
    fn check(yaml: &str, needles: &[&str]) {
        let tree = read(FileIx(0), yaml)
            .expect("the test document is valid")
            .expect("it is not empty");
        let Kind::Map(entries) = &tree.node(tree.root()).kind else {
            panic!("a map");
        };
        let text = source_text(&tree, entries[0].1, yaml);
        for needle in needles {
            let at = text
                .text()
                .find(needle)
                .unwrap_or_else(|| panic!("{needle} in {:?}", text.text()));
            let span = text.span_of(at..at + needle.len());
            let found = &yaml[span.start as usize..];
            assert!(found.starts_with(needle), "{needle}: {found:?} in {yaml:?}");
        }
    }

    #[test]
    fn every_style_points_at_its_source() {
        check("a: plain words here", &["plain", "here"]);
        check("a: plain\n  words\n\n  here", &["plain", "words", "here"]);
        check("a: 'it''s a ''word'' here'", &["word", "here"]);
        check(
            "a: \"t\\tab \\u00e9 \\x41 word \\\n   here\"",
            &["ab", "word", "here"],
        );
        check("a: \"\\uD834\\uDD1E word\"", &["word"]);
        check(
            "a: |\n  one\n    two\n\n  three\n",
            &["one", "two", "three"],
        );
        check(
            "a: >- # note\n  one\n  two\n\n  three\n",
            &["one", "two", "three"],
        );
        check("a: |2\n    one\n  two\n", &["one", "two"]);
        check("a: |\r\n  one\r\n  two\r\n", &["one", "two"]);
        check("a: 'üñ ''x'' word'", &["word"]);
    }
}
