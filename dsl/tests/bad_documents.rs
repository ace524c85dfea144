//! Documents with one mistake each: the code of the error and its place, marked by `‸` in the text.

mod marked;

use dagrun_dsl::{NoFiles, parse};

use marked::{check_all, verdict};

/// Checks that a document gives exactly one error, of this code and at the mark.
fn check(code: &str, marked: &str) {
    if let Err(words) = verdict(code, marked) {
        panic!("{words}");
    }
}

/// A document with one job.
fn job(marked: &str) -> String {
    let mut text = String::from("jobs:\n  a:\n");
    for line in marked.lines() {
        text.push_str(&format!("    {line}\n"));
    }
    text
}

#[test]
fn yaml_that_cannot_be_read() {
    check_all(
        [
            ("empty-file", "‸"),
            ("empty-file", "‸# only a comment\n"),
            ("nul", "jobs:\n  a: {run: x‸\0}\n"),
            ("tab", "jobs:\n‸\ta:\n"),
            ("tab", "jobs:\n  a:\n  ‸\trun: x\n"),
            ("several-documents", "jobs: {a: {run: x}}\n‸---\njobs: {}\n"),
            ("unclosed-bracket", "jobs: ‸{a: {run: x}\n"),
            ("unclosed-bracket", "jobs: {a: {run: ‸[x}}\n"),
            ("unclosed-quote", "name: ‸\"x\njobs: {a: {run: x}}\n"),
            ("text-after-quote", "name: \"x\" ‸y\njobs: {a: {run: x}}\n"),
            ("unknown-escape", "name: \"a‸\\qb\"\njobs: {a: {run: x}}\n"),
            ("reserved-character", "jobs:\n  a:\n    run: ‸@x\n"),
            ("reserved-character", "jobs:\n  a:\n    run: ‸`x`\n"),
            ("indentation", "jobs:\n  a:\n    run: x\n   ‸needs: b\n"),
            ("indentation", "jobs:\n  a:\n    run: x\n      needs‸: b\n"),
            ("duplicate-key", "jobs:\n  a: {run: x}\n  ‸a: {run: y}\n"),
            ("duplicate-key", "jobs:\n  a: {run: x, ‸\"run\": y}\n"),
            ("unknown-anchor", "jobs:\n  a: {run: x, inputs: ‸*src}\n"),
            (
                "unknown-anchor",
                "jobs:\n  a:\n    run: x\n    inputs:\n      - ‸*.csv\n",
            ),
            (
                "recursive-alias",
                "jobs:\n  a: &a\n    run: x\n    needs: [‸*a]\n",
            ),
            (
                "key-is-no-text",
                "jobs:\n  a:\n    run: x\n    env: {‸[a]: b}\n",
            ),
            ("yaml-syntax", "jobs:\n  a:\n    run: ‸- x\n"),
            ("yaml-syntax", "jobs:\n  a:\n    run: x\n    ‸needs\n"),
        ]
        .map(|(code, text)| (code, text.to_owned())),
    );
}

#[test]
fn what_yaml_makes_of_templates() {
    check_all(
        [
            ("template-cut", "run: [echo]\nenv:\n  X: ${{ 'x ‸# y' }}"),
            ("template-cut", "run: echo ${{ 'x ‸# y' }}"),
            ("template-cut", "run: x\nif: ${{ 'x' == 'a ‸# b' }}"),
            ("template-in-flow", "run: x\ninputs: [‸a_${{ params.x }}]"),
            ("template-in-flow", "run: x\ninputs: [b, ‸${{ params.x }}]"),
            ("template-in-flow", "run: x\nenv: {A: ‸${{ params.x }}}"),
            ("expression-is-tag", "run: x\nif: ‸!success()"),
            ("expression-is-tag", "run: x\nif: ‸!success() && params.x"),
            ("colon-in-value", "run: echo a‸: b"),
            ("colon-in-value", "run: x\nenv:\n  A: ${{ true ? 1 ‸: 2 }}"),
            ("braces-without-dollar", "run: x\nif: ‸{{ params.x }}"),
            (
                "braces-without-dollar",
                "run: x\ninputs: [\"a/‸{{ params.x }}\"]",
            ),
            ("unknown-tag", "run: x\ntimeout: ‸!seconds 3"),
        ]
        .map(|(code, text)| (code, job(text))),
    );
}

#[test]
fn top_level() {
    check_all([
        ("wrong-type", "‸just text\n"),
        ("wrong-type", "‸[a, b]\n"),
        ("unknown-key", "‸job: {a: {run: x}}\n"),
        ("missing-key", "‸name: x\n"),
        ("empty-value", "jobs: ‸{}\n"),
        (
            "unknown-word",
            "jobs:\n  a: {run: x}\n  b: {run: x, needs: {a: {missing: ‸keep}}}\n",
        ),
        (
            "duplicate-name",
            "jobs:\n  a: {run: x, matrix: {m: [1]}}\n  b: {run: x, needs: a, for_each: [m, ‸m]}\n",
        ),
        (
            "duplicate-name",
            "jobs:\n  a: {run: x}\n  b: {run: x, needs: [a, ‸a]}\n",
        ),
        ("unknown-version", "dagrun: ‸2\njobs: {a: {run: x}}\n"),
        ("bad-name", "name: ‸a/b\njobs: {a: {run: x}}\n"),
        ("bad-name", "jobs:\n  ‸2a: {run: x}\n"),
        ("bad-name", "jobs:\n  ‸a.b: {run: x}\n"),
        ("wrong-type", "jobs:\n  a: ‸text\n"),
        ("empty-value", "jobs:\n  ‸a:\n"),
        ("empty-value", "params:\n  ‸x:\njobs: {a: {run: x}}\n"),
        ("unknown-word", "params:\n  x: {type: ‸integer}\njobs: {a: {run: x}}\n"),
        ("bad-default", "params:\n  x: {type: int, default: ‸a}\njobs: {a: {run: x}}\n"),
        ("bad-default", "params:\n  x: {type: int, default: ‸0, min: 1}\njobs: {a: {run: x}}\n"),
        ("bad-default", "params:\n  x: {default: ‸c, choices: [a, b]}\njobs: {a: {run: x}}\n"),
        ("bad-range", "params:\n  x: {type: int, min: ‸2, max: 1}\njobs: {a: {run: x}}\n"),
        ("template-not-allowed", "params:\n  x: ‸${{ 1 }}\njobs: {a: {run: x}}\n"),
        ("bad-name", "env: {‸A-B: x}\njobs: {a: {run: x}}\n"),
        ("empty-value", "env:\n  ‸A:\njobs: {a: {run: x}}\n"),
        ("bad-name", "secrets: [‸a b]\njobs: {a: {run: x}}\n"),
        ("shell-in-toolchain", "toolchain: [‸a | b]\njobs: {a: {run: x}}\n"),
        ("unknown-key", "defaults: {‸needs: b}\njobs: {a: {run: x}}\n"),
        (
            "bad-duration",
            "defaults: {timeout: ‸soon}\njobs: {a: {run: x, timeout: 1s}}\n",
        ),
        (
            "wrong-type",
            "defaults: {speculate: ‸maybe}\njobs: {a: {run: x}}\n",
        ),
        ("bad-path", "report: {junit: ‸../x.xml}\njobs: {a: {run: x}}\n"),
        ("unknown-word", "report: {annotations: ‸gitlab}\njobs: {a: {run: x}}\n"),
        (
            "bad-path",
            "jobs: {a: {run: x, outputs: {o: p}}}\nexport:\n  ‸../x: ${{ jobs.a.outputs.o }}\n",
        ),
        (
            "bad-path",
            "jobs: {a: {run: x, outputs: {o: p}}}\nexport:\n  ‸/x: ${{ jobs.a.outputs.o }}\n",
        ),
        (
            "duplicate-path",
            "jobs: {a: {run: x, outputs: {o: p}}}\nexport:\n  x: ${{ jobs.a.outputs.o }}\n  ‸./X: ${{ jobs.a.outputs.o }}\n",
        ),
    ].map(|(code, text)| (code, text.to_owned())));
}

#[test]
fn jobs() {
    check_all(
        [
            ("unknown-key", "run: x\n‸neds: b"),
            ("not-in-this-version", "run: x\n‸call: f.py:run"),
            ("reserved-key", "run: x\n‸image: a@b"),
            ("unknown-job", "run: x\nneeds: ‸b"),
            ("unknown-job", "run: x\nneeds: [{job: ‸b}]"),
            ("need-of-itself", "run: x\nneeds: ‸a"),
            ("one-of", "run: x\n‸steps: [{run: y}]"),
            ("empty-value", "run: ‸[]"),
            ("empty-value", "run: ‸\"\""),
            ("wrong-type", "run: ‸{a: b}"),
            ("wrong-type", "steps: ‸x"),
            ("empty-value", "steps: ‸[]"),
            ("wrong-type", "steps: [‸x]"),
            ("missing-key", "steps: [‸{name: y}]"),
            ("unknown-key", "steps: [{run: y, ‸needs: z}]"),
            ("wrong-type", "run: x\nmatrix: {a: ‸1}"),
            ("empty-axis", "run: x\nmatrix: {a: ‸[]}"),
            ("equal-values", "run: x\nmatrix: {a: [1, ‸1.0]}"),
            ("wrong-type", "run: x\nmatrix: {a: [{name: ‸[b]}]}"),
            ("reserved-name", "run: x\nmatrix: {‸replicate: [1]}"),
            ("bad-name", "run: x\nmatrix: {‸a b: [1]}"),
            ("wrong-type", "run: x\nmatrix: {a: [1], exclude: [‸1]}"),
            ("wrong-type", "run: x\nmatrix: {a: [1], include: ‸{a: 2}}"),
            ("wrong-type", "run: x\nmatrix: ‸${{ fromJSON('{}') }}"),
            ("wrong-type", "run: x\nreplicates: ‸0"),
            ("wrong-type", "run: x\nreplicates: ‸many"),
            ("missing-key", "run: x\nreplicates: {n: 2, grow: ‸{to: 4}}"),
            (
                "unknown-word",
                "run: x\nreplicates: {n: 2, seeds: {policy: ‸random}}",
            ),
            (
                "bad-seeds",
                "run: x\nreplicates: {n: 2, seeds: {‸values: [1, 2]}}",
            ),
            (
                "wrong-type",
                "run: x\nreplicates: {n: 1, seeds: {policy: list, values: [‸-1]}}",
            ),
            ("wrong-type", "run: x\ncontinue_on_error: ‸yes"),
            ("wrong-type", "run: x\ncache: ‸false"),
            ("unknown-word", "run: x\ncache: ‸nevr"),
            ("bad-duration", "run: x\ntimeout: ‸5 parsecs"),
            ("bad-duration", "run: x\ntimeout: ‸0"),
            ("bad-size", "run: x\nresources: {memory: ‸lots}"),
            ("wrong-type", "run: x\nresources: {cpus: ‸two}"),
            ("near-name", "run: x\nresources: {‸cpu: 1}"),
            ("near-name", "run: x\nresources: {‸mem: 1GiB}"),
            ("near-name", "run: x\nresources: {‸Memory: 1GiB}"),
            ("near-name", "run: x\nresources: {‸memroy: 1}"),
            ("wrong-type", "run: x\nretry: ‸-1"),
            ("missing-key", "run: x\nretry: ‸{when: oom}"),
            ("unknown-word", "run: x\nretry: {max: 1, when: [‸crash]}"),
            ("bad-factor", "run: x\nretry: {max: 1, memory: ‸0.5x}"),
            ("wrong-type", "run: x\nthreads: ‸0"),
            ("unknown-secret", "run: x\nsecrets: [‸TOKEN]"),
            ("needs-uses", "run: x\n‸with: {a: b}"),
            ("cannot-read", "uses: ‸./other.yaml"),
            ("bad-path", "uses: ‸../other.yaml"),
            ("empty-value", "run: x\nif‸:"),
        ]
        .map(|(code, text)| (code, job(text))),
    );
}

#[test]
fn inputs_and_outputs() {
    let long = format!("run: x\noutputs: {{o: ‸{}}}", "n".repeat(256));
    check("bad-path", &job(&long));
    check_all(
        [
            ("path-outside", "run: x\ninputs: [‸../a]"),
            ("path-outside", "run: x\ninputs: [‸/etc/passwd]"),
            ("path-outside", "run: x\ninputs: [‸https://a.b/c]"),
            ("path-outside", "run: x\ninputs: {i: [a, ‸b/../../c]}"),
            ("bad-path", "run: x\ninputs: [‸-rf]"),
            ("bad-path", "run: x\ninputs: [‸\"a\\nb\"]"),
            ("bad-path", "run: x\ninputs: [‸\"a\\0b\"]"),
            ("bad-name", "run: x\ninputs: {‸a b: c}"),
            ("missing-key", "run: x\ninputs: [‸{external: true}]"),
            (
                "wrong-type",
                "run: x\ninputs: [{path: a, external: ‸maybe}]",
            ),
            ("bad-path", "run: x\noutputs: {o: ‸../a}"),
            ("bad-path", "run: x\noutputs: {o: ‸/a}"),
            ("bad-path", "run: x\noutputs: {o: ‸-a}"),
            ("bad-path", "run: x\noutputs: {o: ‸\"\"}"),
            ("bad-path", "run: x\noutputs: {o: ‸\"a\\0b\"}"),
            ("bad-name", "run: x\noutputs: {‸../x: a}"),
            ("case-collision", "run: x\noutputs: {o: a, ‸O: b}"),
            ("case-collision", "run: x\noutputs: {o: a.csv, p: ‸A.csv}"),
            ("duplicate-path", "run: x\noutputs: {o: a.csv, p: ‸./a.csv}"),
            ("one-of", "run: x\noutputs: {o: {path: a, json: ‸b}}"),
            ("missing-key", "run: x\noutputs: {o: ‸{optional: true}}"),
            (
                "needs-json",
                "run: x\noutputs: {o: {path: a, ‸pointer: /b}}",
            ),
            (
                "bad-pointer",
                "run: x\noutputs: {o: {json: a, pointer: ‸b.c}}",
            ),
            (
                "unknown-word",
                "run: x\noutputs: {o: {json: a, type: ‸double}}",
            ),
            ("wrong-type", "run: x\noutputs: ‸[a]"),
        ]
        .map(|(code, text)| (code, job(text))),
    );
}

#[test]
fn words_of_other_tools_are_translated() {
    let text = "jobs:\n  a:\n    runs-on: x\n    command: y\n    export: x\n    run: z\n";
    let parsed = parse("p.yaml", text, &NoFiles);
    let help: Vec<&str> = parsed
        .diagnostics
        .iter()
        .map(|d| d.help[0].as_str())
        .collect();
    assert_eq!(
        help,
        [
            "a job runs where there is room; `executor:` binds it to a profile",
            "write `run:`",
            "`export` is a key of the pipeline, beside `jobs`: `FILE: ${{ jobs.JOB.outputs.NAME }}` below it"
        ]
    );
}

#[test]
fn an_axis_of_one_value_is_told_how_to_be_a_list() {
    for (value, help) in [
        ("0.4", "write `[0.4]`"),
        ("lin space(1)", "write `[lin space(1)]`"),
        (
            "linspace(0.4, 0.8, 5)",
            r#"write `"${{ linspace(0.4, 0.8, 5) }}"`"#,
        ),
    ] {
        let text = format!("jobs:\n  a:\n    matrix:\n      beta: {value}\n    run: x\n");
        let parsed = parse("p.yaml", &text, &NoFiles);
        assert_eq!(parsed.diagnostics[0].help, [help]);
    }
}

#[test]
fn a_mistake_behind_an_alias_is_said_once() {
    check(
        "path-outside",
        "defaults: {inputs: &src [‸../a]}\njobs:\n  a: {run: x}\n  b: {run: x, inputs: *src}\n",
    );
}

#[test]
fn all_errors_come_at_once() {
    let text = "nme: x\njobs:\n  a: {run: x, neds: b, timeout: soon}\n  b: {needs: c, run: []}\n";
    let parsed = parse("p.yaml", text, &NoFiles);
    let codes: Vec<&str> = parsed.diagnostics.iter().map(|d| d.code).collect();
    assert_eq!(
        codes,
        [
            "unknown-key",
            "unknown-key",
            "bad-duration",
            "unknown-job",
            "empty-value"
        ]
    );
    assert!(parsed.pipeline.is_none());
}
