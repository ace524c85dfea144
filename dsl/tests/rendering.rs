//! What people see: a few diagnostics in full.

use dagrun_dsl::{NoFiles, parse, render};

fn check(text: &str, wanted: &str) {
    let parsed = parse("flow.yaml", text, &NoFiles);
    let found = render(&parsed.diagnostics, &parsed.sources, false);
    assert_eq!(found, wanted, "\n{found}");
}

#[test]
fn an_unknown_key_with_its_mend() {
    check(
        "jobs:\n  a:\n    run: make\n    neds: b\n",
        r#"error[unknown-key]: a job has no key `neds`
 --> flow.yaml:4:5
  |
4 |     neds: b
  |     ^^^^
  |
help: did you mean `needs`?
  |
4 |     needs: b
  |       +

1 error
"#,
    );
}

#[test]
fn a_place_with_another_one() {
    check(
        "jobs:\n  a: {run: x}\n  a: {run: y}\n",
        r#"error[duplicate-key]: `a` stands twice in this map
 --> flow.yaml:3:3
  |
2 |   a: {run: x}
  |   - first here
3 |   a: {run: y}
  |   ^ again here
  |
  = help: remove one of them

1 error
"#,
    );
}

#[test]
fn a_template_that_yaml_cuts() {
    check(
        "jobs:\n  a:\n    run: x\n    env:\n      A: ${{ 'ü # b' }}\n",
        r#"error[template-cut]: ` #` begins a comment and cuts the template
 --> flow.yaml:5:17
  |
5 |       A: ${{ 'ü # b' }}
  |          ------ ^ YAML reads no further than this
  |          |
  |          the template opens here
  |
help: put the whole value in quotes
  |
5 -       A: ${{ 'ü # b' }}
5 +       A: "${{ 'ü # b' }}"
  |

1 error
"#,
    );
}

#[test]
fn errors_and_warnings_in_the_order_of_the_file() {
    check(
        "jobs:\n  a:\n    run: x\n    resources: {cpuss: 2}\n    timeout: soon\n",
        r#"warning[near-name]: `cpuss` is a resource of its own, not `cpus`
 --> flow.yaml:4:17
  |
4 |     resources: {cpuss: 2}
  |                 ^^^^^
  |
help: did you mean `cpus`?
  |
4 -     resources: {cpuss: 2}
4 +     resources: {cpus: 2}
  |

error[bad-duration]: `soon` is not a duration; write a number with ms, s, m, h or d, such as `90s` or `1h30m`
 --> flow.yaml:5:14
  |
5 |     timeout: soon
  |              ^^^^

1 error, 1 warning
"#,
    );
}

/// What people write first: each mistake names its place and what to write.
#[test]
fn first_mistakes_have_remedies() {
    let job = |rest: &str| format!("jobs:\n  a:\n    run: x\n    {rest}\n");
    for (text, place, remedy) in [
        (
            job("outputs: [o.txt]"),
            "4:14",
            "= help: give each path a name: `outputs: {table: table.csv}`",
        ),
        (
            job("outputs: o.txt"),
            "4:14",
            "= help: give each path a name",
        ),
        (
            job("matrix: [1, 2]"),
            "4:13",
            "= help: give each axis a name: `matrix: {size: [1, 2, 3]}`",
        ),
        (
            job("env: [A=1]"),
            "4:10",
            "= help: write names and values: `env: {THREADS: 1}`",
        ),
        (
            "jobs:\n  - a: {run: x}\n".into(),
            "2:3",
            "without `-` before it",
        ),
        (
            "params: [x]\njobs: {a: {run: x}}\n".into(),
            "1:9",
            "`params: {trials: 20}`",
        ),
        (
            job("matrix: {n: \"${{ range(3) }}\"}"),
            "4:22",
            "`range(FIRST, LAST)`",
        ),
        (
            job("matrix: {n: \"${{ linspace(0, 1) }}\"}"),
            "4:22",
            "`linspace(FIRST, LAST, COUNT)`",
        ),
        (job("timeout: 5 minutes"), "4:14", "write `5m`"),
        (
            job("replicates: {n: 3, seed: 7}"),
            "4:24",
            "write `seeds: {base: 7}`",
        ),
        (
            job("seed: 7"),
            "4:5",
            "`replicates: {n: 3, seeds: {base: 7}}`",
        ),
        (
            "jobs:\nsim:\n  run: x\n".into(),
            "2:1",
            "move it and what is below it to the right",
        ),
        (
            "jobs:\nsim:\n  run: x\n".into(),
            "1:5",
            "each further to the right than `jobs`",
        ),
    ] {
        let parsed = parse("flow.yaml", &text, &NoFiles);
        let said = render(&parsed.diagnostics, &parsed.sources, false);
        let said_there = said.split("\n\n").any(|part| {
            part.contains(remedy) && part.contains(&format!("--> flow.yaml:{place}\n"))
        });
        assert!(said_there, "{text}\n{said}");
        assert!(!said.contains("this is null"), "{said}");
    }
}

#[test]
fn colour_is_a_choice() {
    let parsed = parse("flow.yaml", "jobs: {a: {rn: x}}\n", &NoFiles);
    assert!(render(&parsed.diagnostics, &parsed.sources, true).contains("\x1b["));
    assert!(!render(&parsed.diagnostics, &parsed.sources, false).contains('\x1b'));
    assert_eq!(render(&[], &parsed.sources, true), "");
}

#[test]
fn long_lines_are_cut_around_the_place() {
    let text = format!(
        "jobs:\n  a: {{run: x, env: {{A: \"{}\"}}, neds: b, env2: \"{}\"}}\n",
        "y".repeat(5000),
        "z".repeat(5000)
    );
    let parsed = parse("flow.yaml", &text, &NoFiles);
    let rendered = render(&parsed.diagnostics, &parsed.sources, false);
    assert!(rendered.len() < 3000, "{} bytes", rendered.len());
    assert!(rendered.contains("neds: b"), "{rendered}");
}
