//! Files that are made to exhaust a reader: each ends in one clear error, with nothing unfolded.

use std::fmt::Write as _;

use dagrun_dsl::{MAX_BYTES, NoFiles, Parsed, parse};

fn codes(parsed: &Parsed) -> Vec<&'static str> {
    parsed.diagnostics.iter().map(|d| d.code).collect()
}

fn check(code: &str, place: (usize, usize), text: &str) {
    let parsed = parse("p.yaml", text, &NoFiles);
    assert!(parsed.pipeline.is_none());
    let first = parsed.diagnostics.first().expect("an error");
    let found = parsed.sources.line_column(first.span);
    assert_eq!((first.code, found), (code, place), "{}", first.message);
    assert!(parsed.diagnostics.len() <= 2000);
    let rendered = dagrun_dsl::render(&parsed.diagnostics, &parsed.sources, false);
    assert!(rendered.len() < 200_000, "{} bytes", rendered.len());
}

/// A job whose matrix has the axis `x: value`, after some lines at the top level.
fn job(top: &str, value: &str) -> String {
    format!("{top}jobs:\n  a:\n    run: x\n    matrix:\n      x: {value}\n")
}

#[test]
fn billion_laughs() {
    let mut top = String::from("x-0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for i in 1..10 {
        let items = vec![format!("*a{}", i - 1); 9].join(", ");
        let _ = writeln!(top, "x-{i}: &a{i} [{items}]");
    }
    check("too-many-nodes", (15, 10), &job(&top, "*a9"));
    let parsed = parse("p.yaml", &job(&top, "[1]"), &NoFiles);
    assert_eq!(
        codes(&parsed),
        Vec::<&str>::new(),
        "what is not used costs nothing"
    );
}

#[test]
fn quadratic_aliases() {
    let zeros = vec!["0"; 20_000].join(",");
    let aliases = vec!["*a"; 16_000].join(",");
    let text = job(&format!("x-a: &a [{zeros}]\n"), &format!("[{aliases}]"));
    assert_eq!(text.len() / 1000, 88);
    let parsed = parse("p.yaml", &text, &NoFiles);
    assert_eq!(codes(&parsed), ["too-many-nodes"]);
}

#[test]
fn deep_nesting() {
    check("too-deep", (5, 74), &job("", &"[".repeat(200_000)));
    check("too-deep", (5, 74), &job("", &"{".repeat(20_000)));
    check("too-deep", (1, 129), &"- ".repeat(100_000));
    let mut chain = String::from("x-0: &a0 [x]\n");
    for i in 1..1000 {
        let _ = writeln!(chain, "x-{i}: &a{i} [*a{}]", i - 1);
    }
    check("too-deep", (64, 13), &job(&chain, "*a999"));
}

#[test]
fn merge_bombs() {
    let mut top = String::from("x-0: &a0 {k: v}\n");
    for i in 1..25 {
        let merges = vec![format!("*a{}", i - 1); 9].join(", ");
        let _ = writeln!(top, "x-{i}: &a{i} {{<<: [{merges}]}}");
    }
    let parsed = parse(
        "p.yaml",
        &format!("{top}env: *a24\njobs: {{a: {{run: x}}}}\n"),
        &NoFiles,
    );
    assert_eq!(codes(&parsed), ["too-many-nodes"]);
}

#[test]
fn merge_chains_are_followed() {
    let mut top = String::from("x-0: &a0 {K0: v}\n");
    for i in 1..40 {
        let _ = writeln!(top, "x-{i}: &a{i} {{<<: *a{}, K{i}: v}}", i - 1);
    }
    let parsed = parse(
        "p.yaml",
        &format!("{top}env: *a39\njobs: {{a: {{run: x}}}}\n"),
        &NoFiles,
    );
    assert_eq!(codes(&parsed), Vec::<&str>::new());
    let pipeline = parsed.pipeline.expect("it is valid");
    assert_eq!(pipeline.jobs["a"].env.len(), 40);
}

#[test]
fn size() {
    let big = format!("name: x\n{}", "# y\n".repeat(50 << 18));
    assert!(big.len() > 50 << 20);
    check("file-too-big", (1, 1), &big);
    // Just below the limit it is the number of values that counts.
    let many = job("", &format!("[{}1]", "1,".repeat((MAX_BYTES - 100) / 2)));
    let parsed = parse("p.yaml", &many, &NoFiles);
    assert_eq!(codes(&parsed), ["too-many-nodes"]);
}

#[test]
fn long_axes() {
    check(
        "matrix-too-large",
        (5, 10),
        &job("", &format!("[{}1]", "1,".repeat(200_000))),
    );
}

#[test]
fn products() {
    let axis = |n: usize| {
        format!(
            "[{}]",
            (0..n).map(|i| i.to_string()).collect::<Vec<_>>().join(",")
        )
    };
    let text = format!(
        "jobs:\n  a:\n    run: x\n    matrix:\n      a: {0}\n      b: {0}\n      c: {0}\n",
        axis(200)
    );
    check("matrix-too-large", (5, 7), &text);
}

#[test]
fn many_mistakes_are_counted() {
    let text = format!(
        "jobs:\n  a:\n    run: x\n    inputs: [{}]\n",
        vec!["../x"; 100_000].join(",")
    );
    let parsed = parse("p.yaml", &text, &NoFiles);
    assert_eq!(parsed.diagnostics.len(), 2000);
    let rendered = dagrun_dsl::render(&parsed.diagnostics, &parsed.sources, false);
    assert!(
        rendered.ends_with("and 1950 more\n2000 errors\n"),
        "{}",
        &rendered[rendered.len() - 200..]
    );
}

#[test]
fn a_byte_order_mark_is_no_matter() {
    let parsed = parse("p.yaml", "\u{feff}jobs: {a: {run: x}}\n", &NoFiles);
    assert_eq!(codes(&parsed), Vec::<&str>::new());
}

#[test]
fn bytes_that_are_no_text() {
    let (diagnostic, sources) =
        dagrun_dsl::decode_utf8("p.yaml", b"name: x\nb: \xff\n".to_vec()).expect_err("not UTF-8");
    assert_eq!(
        (diagnostic.code, sources.line_column(diagnostic.span)),
        ("not-utf8", (2, 4))
    );
    let (diagnostic, _) =
        dagrun_dsl::decode_utf8("p.yaml", b"\xff\xfea\0".to_vec()).expect_err("UTF-16");
    assert!(diagnostic.message.contains("UTF-16"));
    assert_eq!(
        dagrun_dsl::decode_utf8("p.yaml", b"a: b".to_vec()).expect("UTF-8"),
        "a: b"
    );
}

#[test]
fn a_file_cannot_write_to_the_terminal() {
    let text = "jobs:\n  a:\n    run: x\n    \"\\e[31mne\x1b[2Jeds\u{202e}\": b\n";
    let parsed = parse("p\x1b[2J.yaml", text, &NoFiles);
    let rendered = dagrun_dsl::render(&parsed.diagnostics, &parsed.sources, false);
    assert!(!rendered.contains(['\x1b', '\u{202e}']), "{rendered:?}");
    assert!(rendered.contains("\\u{1b}[2J"), "{rendered}");
}

/// What is large in one respect alone, and nowhere wrong.
#[test]
fn names_jobs_and_long_values() {
    let many = |count: usize, line: &str| -> String {
        (0..count)
            .map(|i| line.replace('#', &i.to_string()))
            .collect()
    };
    let jobs = format!("jobs:\n{}", many(20_000, "  j#: {run: x}\n"));
    check("too-many-names", (2, 3), &jobs);
    let outputs = many(20_000, "      o#: f#\n");
    let text = format!("jobs:\n  a:\n    run: x\n    outputs:\n{outputs}");
    check("too-many-names", (5, 7), &text);
    let text = format!("jobs:\n  a: {{run: [x, '{}']}}\n", "x".repeat(2 << 20));
    check("value-too-long", (2, 16), &text);
}

/// The outputs of a job are compared by maps: each with each would take minutes.
#[test]
fn thousands_of_outputs_are_checked_at_once() {
    let outputs: String = (0..4_900)
        .map(|i| format!("      o{i}: f{i}\n      j{i}: {{json: all.json, pointer: /v{i}}}\n"))
        .collect();
    let text = format!("dagrun: 1\nname: many\njobs:\n  a:\n    run: x\n    outputs:\n{outputs}");
    let began = std::time::Instant::now();
    let parsed = parse("p.yaml", &text, &NoFiles);
    assert_eq!(codes(&parsed), Vec::<&str>::new());
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}
