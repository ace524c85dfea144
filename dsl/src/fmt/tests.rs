//! What `fmt` does to text, as tables, and that it changes no value.

use dagrun_model::FileIx;
use proptest::prelude::*;

use super::{fmt, same};
use crate::yaml;

fn check(before: &str, after: &str) {
    let formatted = fmt(before).expect("the test document is valid");
    assert_eq!(formatted, after, "from\n{before}");
    assert_eq!(fmt(after).expect("it is still valid"), after, "twice");
}

fn stays(text: &str) {
    check(text, text);
}

#[test]
fn spaces_between_values() {
    check("a: [ 1,2 ,3 ]", "a: [1, 2, 3]\n");
    check("a: { b : 1,c: [ ] }\n", "a: {b: 1, c: []}\n");
    check("a: {\"b\":1, 'c' : 2}\n", "a: {\"b\": 1, 'c': 2}\n");
    check(
        "x: &x 1\na: {b:  *x ,c: [*x,*x]}\n",
        "x: &x 1\na: {b: *x, c: [*x, *x]}\n",
    );
    check("a: [&b  c,!!str 1]\n", "a: [&b c, !!str 1]\n");
    check("a: [[1,2],{b:   c}]\n", "a: [[1, 2], {b: c}]\n");
    stays("a: [\"a,b\", 'c:  d', \"{ x }\"]\n");
    stays("a: \"${{ x }}\"\nb: ${{ [ 1,2 ] }}\n");
}

#[test]
fn lines() {
    check("\n\na: 1   \n\n\n\nb: 2\n\n\n", "a: 1\n\nb: 2\n");
    check("a: 1\r\nb: 2\r\n", "a: 1\nb: 2\n");
    check("\u{feff}a: 1", "a: 1\n");
    check("#a\n\n\n#  b\n", "# a\n\n#  b\n");
    check(
        "#!/usr/bin/env dagrun\n#--- x\n##y\na: 1 #z\n",
        "#!/usr/bin/env dagrun\n#--- x\n##y\na: 1 # z\n",
    );
}

#[test]
fn indentation() {
    check(
        "a:\n    b:\n        c: 1\n    d: 2\n",
        "a:\n  b:\n    c: 1\n  d: 2\n",
    );
    check(
        "a:\n- 1\n-   b: 2\n    c: 3\nd: 4\n",
        "a:\n  - 1\n  - b: 2\n    c: 3\nd: 4\n",
    );
    check("a:\n -\n   b: 1\n", "a:\n  -\n    b: 1\n");
    check("-   - 1\n    - 2\n-   3\n", "- - 1\n  - 2\n- 3\n");
    check("a:\n     text\n", "a:\n  text\n");
    check("a:\n    b: [1,\n        2]\n", "a:\n  b: [1,\n      2]\n");
    check("a:\n    b: one\n      two\n", "a:\n  b: one\n    two\n");
    stays("a: [\n  1,\n\n  2, # two\n]\n");
}

#[test]
fn block_scalars() {
    check(
        "a:\n    b: |\n          x\n            y  \n\n\n          z\n    c: 1\n",
        "a:\n  b: |\n    x\n      y  \n\n\n    z\n  c: 1\n",
    );
    check(
        "a:\n    b: |2\n        x\n      y\n",
        "a:\n  b: |2\n      x\n    y\n",
    );
    check("- |\n     x\n- >-\n     y\n", "- |\n  x\n- >-\n  y\n");
    stays("a: |+\n  x\n\n\nb: 1\n");
    stays("a: |\n\n\n  x\nb: 1\n");
    stays("a: |+\n  x\n\n\n");
    stays("a: |\n  # no comment\n  x: [ 1,2 ]   \nb: 1\n");
    stays("a: |\nb: 1\n");
}

#[test]
fn comments_keep_their_place() {
    check(
        "# top\na:\n    # over b\n    b: 1   # beside b\n    # after b\n# over c\nc:\n    - 1\n    # over 2\n    - 2\n    # end\n",
        "# top\na:\n  # over b\n  b: 1   # beside b\n  # after b\n# over c\nc:\n  - 1\n  # over 2\n  - 2\n  # end\n",
    );
}

#[test]
fn the_reference_pipelines_stay_valid() {
    for text in [
        include_str!("../../tests/fixtures/sweep.yaml"),
        include_str!("../../tests/fixtures/ci.yaml"),
        include_str!("../../tests/fixtures/calibrate.yaml"),
    ] {
        check_properties(text);
        let formatted = fmt(text).expect("it is valid");
        assert_eq!(formatted, text, "they are in this spelling");
    }
}

fn check_properties(text: &str) {
    let Ok(Some(before)) = yaml::read(FileIx(0), text) else {
        return;
    };
    let once = fmt(text).unwrap_or_else(|e| panic!("{e:?} in {text:?}"));
    let after = yaml::read(FileIx(0), &once)
        .expect("it is still valid")
        .expect("it has a value");
    assert!(same(&before, text, &after, &once), "{text:?} -> {once:?}");
    let comments = |text: &str| text.matches('#').count();
    assert_eq!(comments(&once), comments(text), "{text:?} -> {once:?}");
    let twice = fmt(&once).expect("it can be formatted again");
    assert_eq!(twice, once, "from {text:?}");
}

/// Documents of lines with all that the formatter has to look at.
fn document() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("1".to_owned()),
        Just("text here".to_owned()),
        Just("[ a,b , {c : 1} ]".to_owned()),
        Just("{ x: [1,2],\"y\":2 }".to_owned()),
        Just("\"a  b # c\"".to_owned()),
        Just("'it''s'".to_owned()),
        Just("[a, # note\n          b]".to_owned()),
        Just("&anchor v".to_owned()),
        Just("|\n            block\n              text\n\n            end".to_owned()),
        Just(">-\n             folded\n\n\n             end".to_owned()),
        Just("|+\n            keep\n\n".to_owned()),
        Just("one\n            two".to_owned()),
        Just("".to_owned()),
        Just("1 #note".to_owned()),
    ];
    let line = (
        0..5_usize,
        prop::bool::ANY,
        prop::bool::ANY,
        value,
        0..3_usize,
        prop_oneof![
            8 => Just(""), 1 => Just("#c\n"), 1 => Just("\n\n\n"), 1 => Just("      # d\n"), 1 => Just("   \n")
        ],
    );
    prop::collection::vec(line, 1..12).prop_map(|lines| {
        let mut text = String::new();
        for (i, (indent, dash, key, value, blanks, before)) in lines.into_iter().enumerate() {
            text.push_str(before);
            text.push_str(&" ".repeat(indent));
            if dash {
                text.push_str(&format!("-{}", " ".repeat(blanks + 1)));
            }
            if key {
                text.push_str(&format!("k{i}: "));
            }
            text.push_str(&value);
            text.push_str(&" ".repeat(blanks));
            text.push('\n');
        }
        text
    })
}

/// The same, but indented so that it is valid most of the time.
fn nested() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just(" 1".to_owned()),
        Just("   [ a,b ]  # x".to_owned()),
        Just(" { a : 1 }".to_owned()),
        Just(" \"x # y\"".to_owned()),
        Just("".to_owned()),
    ];
    (
        prop::collection::vec((0..3_i32, prop::bool::ANY, leaf, 0..4_usize), 1..15),
        1..6_usize,
    )
        .prop_map(|(lines, width)| {
            let mut depth = 0_i32;
            let mut text = String::new();
            for (i, (step, comment, leaf, blank)) in lines.into_iter().enumerate() {
                let indent = " ".repeat(depth as usize * width);
                if comment {
                    text.push_str(&format!("{indent}#c{i}\n"));
                }
                text.push_str(&"\n".repeat(blank / 2));
                if step == 1 {
                    text.push_str(&format!("{indent}k{i}:\n"));
                    depth += 1;
                } else {
                    text.push_str(&format!("{indent}k{i}:{leaf}\n"));
                    depth = (depth - step).max(0);
                }
            }
            text
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_document_keeps_its_values(text in document()) {
        check_properties(&text);
    }

    #[test]
    fn nested_documents_keep_their_values(text in nested()) {
        check_properties(&text);
    }

    #[test]
    fn any_text_is_no_trouble(text in "[a-c:#\\[\\]{},&*!|>'\"%@`\\-? \n\t0-9]{0,60}") {
        check_properties(&text);
        let _ = crate::parse("p.yaml", &text, &crate::NoFiles);
    }
}
