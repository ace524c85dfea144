//! Whole pipelines with one mistake each.

use dagrun_model::Diagnostic;

use crate::{NoFiles, parse};

/// A pipeline to put mistakes into: `job` takes `size` over from `make` and gathers its other axes.
const BASE: &str = r#"
dagrun: 1
name: test
params:
  n: {type: int, default: 3}
  branch: {type: string, default: main}
  flag: {type: bool, default: true}
  items: {type: list, default: [1, 2]}
secrets: [TOKEN]
env: {MODE: fast}
jobs:
  make:
    matrix:
      size: [1, 2]
      scenario: [{name: a, coverage: 0.5}, {name: b, coverage: 0.8}]
    replicates: 2
    inputs: {code: a.py}
    outputs: {file: out.csv, loss: {json: loss.json, pointer: /loss}}
    run: [python3, a.py]
  single: {run: [echo], outputs: {log: log.txt, maybe: {path: x, optional: true}}}
  elsewhere: {run: [echo]}
  job:
    needs: [make, single]
    for_each: size
    inputs: {code: b.py, data: "${{ needs.make.outputs.file }}", log: "${{ needs.single.outputs.log }}"}
    outputs: {table: t.csv}
"#;

/// The mistakes of the pipeline with `lines` added to its last job, and its text.
fn mistakes(lines: &str) -> (String, Vec<Diagnostic>) {
    let run = if lines.contains("run:") || lines.contains("steps:") {
        ""
    } else {
        "    run: [echo]\n"
    };
    let lines: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    let text = format!("{BASE}{run}{lines}");
    let parsed = parse("test.yaml", &text, &NoFiles);
    (text, parsed.diagnostics)
}

/// Each addition, the code of its one mistake, the text that is underlined, and a part of the message or help.
fn check(table: &[(&str, &str, &str, &str)]) {
    for (lines, code, place, words) in table {
        let (text, found) = mistakes(lines);
        let [error] = found.as_slice() else {
            panic!("not one mistake but {}: {lines}\n{found:#?}", found.len());
        };
        assert_eq!(error.code, *code, "{lines}\n{error:#?}");
        let underlined = &text[error.span.start as usize..error.span.end as usize];
        assert_eq!(underlined, *place, "{lines}\n{error:#?}");
        let said = format!("{} {}", error.message, error.help.join(" "));
        assert!(said.contains(words), "{lines}\n{said}");
    }
}

#[test]
fn good_expressions_pass() {
    for lines in [
        "run: echo ${{ params.n + 1 }} ${{ matrix.size * 2 }} ${{ env.MODE }} ${{ git.commit }}",
        "run: cat ${{ inputs.data }} ${{ inputs.log }} \"${{ inputs.log }}\" ${{ inputs.data.list }} > ${{ outputs.table }}",
        "run: [echo, \"${{ needs.make.outputs.loss }}\", \"${{ mean(needs.make.outputs.loss) }}\", \"${{ toJSON(needs.make.points) }}\"]",
        "run: echo ${{ needs.*.result }} ${{ needs.make.outputs.loss[0] + 1 }} ${{ join(params.items, ' ') }}",
        "run: echo ${{ default(needs.single.outputs.maybe, 'none') }} ${{ hashFiles('*.py', params.branch) }}",
        "if: params.branch == 'main' && (always() || failure()) && needs.make.result == 'success'",
        "if: ${{ max(needs.make.outputs.loss) < 0.5 || params.flag }}",
        "if: true",
        "matrix: {x: \"${{ range(1, params.n) }}\", y: [\"${{ params.branch }}\", b]}\nrun: echo ${{ matrix.y == 'b' }} ${{ matrix.x + 1 }}",
        "matrix: {x: [{name: a}, {name: b}], include: [{x: a, tag: t}]}\nrun: echo ${{ matrix.x.name }} ${{ matrix.tag }}",
        "replicates: {n: \"${{ params.n }}\", seeds: {base: 1}}\nrun: echo ${{ replicate.seed + replicate.index }}",
        "resources: {cpus: \"${{ params.n }}\"}\ntimeout: ${{ params.n }}m\nrun: echo",
        "cache: never\nrun: echo ${{ attempt }} ${{ run.id }}",
        "env: {X: \"${{ env.MODE }}-${{ matrix.size }}\"}\nrun: echo",
        "steps: [{run: \"echo ${{ inputs.code }}\", if: \"${{ matrix.size > 1 }}\", env: {A: \"${{ outputs.table }}\"}}]",
        "outputs: {table: t.csv, other: \"o-${{ matrix.size }}.csv\"}",
        "run: echo ${{ fromJSON('{\"a\":1}').a }} ${{ params.items[0] }} ${{ params['n'] }}",
    ] {
        let (_, found) = if lines.starts_with("outputs") {
            // The outputs of the base are replaced, not doubled.
            let text = BASE.replace("    outputs: {table: t.csv}\n", "")
                + &format!("    {lines}\n    run: [echo]\n");
            let parsed = parse("test.yaml", &text, &NoFiles);
            (text, parsed.diagnostics)
        } else {
            mistakes(lines)
        };
        assert_eq!(found, [], "{lines}");
    }
}

#[test]
fn unknown_names_are_found() {
    check(&[
        (
            "run: echo ${{ parms.n }}",
            "unknown-context",
            "parms",
            "did you mean `params`?",
        ),
        ("run: echo ${{ n }}", "unknown-context", "n", "`params.n`"),
        (
            "run: echo ${{ size }}",
            "unknown-context",
            "size",
            "`matrix.size`",
        ),
        (
            "run: echo ${{ data }}",
            "unknown-context",
            "data",
            "`inputs.data`",
        ),
        (
            "run: echo ${{ github.sha }}",
            "unknown-context",
            "github",
            "git.commit",
        ),
        (
            "run: echo ${{ steps.a.outputs.b }}",
            "unknown-context",
            "steps",
            "one node",
        ),
        (
            "run: echo ${{ main }}",
            "unknown-context",
            "main",
            "`'main'`",
        ),
        (
            "run: echo ${{ params.branc }}",
            "unknown-param",
            "branc",
            "`branch`",
        ),
        (
            "run: echo ${{ params['branc'] }}",
            "unknown-param",
            "['branc']",
            "`branch`",
        ),
        (
            "run: echo ${{ params.n-x }}",
            "unknown-param",
            "n-x",
            "`n - x`",
        ),
        (
            "run: echo ${{ params.zzz }}",
            "unknown-param",
            "zzz",
            "declare it",
        ),
        (
            "run: echo ${{ matrix.sise }}",
            "unknown-axis",
            "sise",
            "`size`",
        ),
        (
            "run: echo ${{ matrix.scenario }}",
            "unknown-axis",
            "scenario",
            "`for_each: scenario`",
        ),
        (
            "run: echo ${{ matrix.scenario.name }}",
            "unknown-axis",
            "scenario",
            "gathered",
        ),
        (
            "run: echo ${{ env.MOD }}",
            "unknown-variable",
            "MOD",
            "`MODE`",
        ),
        (
            "run: echo ${{ env.HOME }}",
            "unknown-variable",
            "HOME",
            "`pass_env`",
        ),
        (
            "run: echo ${{ inputs.cod }}",
            "unknown-input",
            "cod",
            "`code`",
        ),
        (
            "run: echo ${{ inputs.figure }}",
            "unknown-input",
            "figure",
            "name the input",
        ),
        (
            "run: echo ${{ outputs.tabel }}",
            "unknown-output",
            "tabel",
            "`table`",
        ),
        (
            "run: echo ${{ needs.mak.outputs.file }}",
            "unknown-job",
            "mak",
            "`make`",
        ),
        (
            "run: echo ${{ needs.elsewhere.result }}",
            "not-needed",
            "elsewhere",
            "add `elsewhere`",
        ),
        (
            "run: echo ${{ needs.make.outputs.fil }}",
            "unknown-output",
            "fil",
            "`file`",
        ),
        (
            "run: echo ${{ needs.make.output.file }}",
            "unknown-member",
            "output",
            "`outputs`",
        ),
        (
            "run: echo ${{ needs.make.seed }}",
            "unknown-member",
            "seed",
            "`points`",
        ),
        (
            "run: echo ${{ needs.*.outputs.fil }}",
            "unknown-member",
            "fil",
            "`file`",
        ),
        (
            "run: echo ${{ git.sha }}",
            "unknown-member",
            "sha",
            "`commit`",
        ),
        (
            "run: echo ${{ inputs.data.lists }}",
            "type",
            "inputs.data",
            "is a list",
        ),
        ("for_each: scenari", "duplicate-key", "for_each", ""),
        (
            "replicates: 3\nrun: echo ${{ replicate.sed }}",
            "unknown-member",
            "sed",
            "`seed`",
        ),
        (
            "run: echo ${{ replicate.seed }}",
            "no-replicates",
            "replicate.seed",
            "`for_each: replicate`",
        ),
        (
            "matrix: {x: [{name: a}]}\nrun: echo ${{ matrix.x.b }}",
            "unknown-member",
            "b",
            "`name`",
        ),
        (
            "matrix: {x: [1, 2], exclude: [{y: 1}]}",
            "unknown-axis",
            "{y: 1}",
            "no axis",
        ),
        (
            "matrix: {size: [1, 2]}",
            "duplicate-name",
            "size",
            "remove one",
        ),
        (
            "run: echo ${{ foo(1) }}",
            "unknown-function",
            "foo",
            "functions are",
        ),
        ("run: echo ${{ len() }}", "arguments", "len()", "1 argument"),
    ]);
}

#[test]
fn names_have_their_places() {
    check(&[
        (
            "matrix: {x: \"${{ needs.make.outputs.loss }}\"}",
            "context",
            "needs.make.outputs.loss",
            "later version",
        ),
        (
            "matrix: {x: [\"${{ matrix.size }}\"]}",
            "context",
            "matrix.size",
            "only use `params`",
        ),
        (
            "matrix: {x: [\"${{ env.MODE }}\"]}",
            "context",
            "env.MODE",
            "only use `params`",
        ),
        (
            "matrix: {x: [\"${{ secrets.TOKEN }}\"]}",
            "secret-in-expression",
            "secrets.TOKEN",
            "never",
        ),
        (
            "replicates: ${{ matrix.size }}",
            "context",
            "matrix.size",
            "only use `params`",
        ),
        (
            "replicates: {n: 2, seeds: {base: \"${{ git.commit }}\"}}",
            "context",
            "git.commit",
            "only use `params`",
        ),
        (
            "if: inputs.data == 'x'",
            "context",
            "inputs.data",
            "where a node runs",
        ),
        (
            "timeout: ${{ needs.make.outputs.loss }}s",
            "context",
            "needs.make.outputs.loss",
            "when they have run",
        ),
        (
            "resources: {cpus: \"${{ inputs.code }}\"}",
            "context",
            "inputs.code",
            "where a node runs",
        ),
        (
            "run: echo ${{ jobs.make.outputs.file }}",
            "context",
            "jobs.make.outputs.file",
            "needs.JOB",
        ),
        (
            "run: echo ${{ secrets.TOKEN }}",
            "secret-in-expression",
            "secrets.TOKEN",
            "`secrets: [TOKEN]`",
        ),
        (
            "secrets: [TOKEN]\nrun: echo ${{ secrets.TOKEN }}",
            "secret-in-expression",
            "secrets.TOKEN",
            "`$TOKEN`",
        ),
        (
            "env: {T: \"${{ secrets.TOKEN }}\"}",
            "secret-in-expression",
            "secrets.TOKEN",
            "`secrets: [TOKEN]`",
        ),
        (
            "run: echo ${{ attempt }}",
            "needs-cache-never",
            "attempt",
            "DAGRUN_ATTEMPT",
        ),
        (
            "run: echo ${{ run.id }}",
            "needs-cache-never",
            "run.id",
            "`cache: never`",
        ),
        (
            "cache: never\nrun: echo ${{ run.number }}",
            "unknown-member",
            "number",
            "`id`",
        ),
        (
            "if: attempt > 1",
            "context",
            "attempt",
            "in `run` and `env`",
        ),
        (
            "run: echo ${{ trial.beta }}",
            "no-study",
            "trial.beta",
            "has no study",
        ),
        (
            "run: echo ${{ study.best }}",
            "no-study",
            "study.best",
            "declare it",
        ),
        (
            "run: echo ${{ success() }}",
            "status-function",
            "success()",
            "`if` of a job",
        ),
        (
            "steps: [{run: echo, if: failure()}]",
            "status-function",
            "failure()",
            "job of its own",
        ),
        (
            "matrix: {x: [\"${{ hashFiles('a') }}\"]}",
            "context",
            "hashFiles('a')",
            "`run` or `env`",
        ),
        (
            "run: echo ${{ hashFiles(inputs.data) }}",
            "context",
            "inputs.data",
            "when the plan is made",
        ),
    ]);
}

#[test]
fn types_are_checked() {
    check(&[
        (
            "run: echo ${{ params.branch + 1 }}",
            "type",
            "params.branch",
            "arithmetic",
        ),
        (
            "run: echo ${{ 'a' + params.branch }}",
            "type",
            "'a'",
            "format",
        ),
        (
            "run: echo ${{ params.items * 2 }}",
            "type",
            "params.items",
            "sum(list)",
        ),
        (
            "run: echo ${{ -params.flag }}",
            "type",
            "params.flag",
            "needs a number",
        ),
        (
            "if: needs.single.outputs.log == 'done'",
            "type",
            "needs.single.outputs.log",
            "log: {json: FILE",
        ),
        (
            "if: \"!needs.make.outputs.file || params.flag\"",
            "type",
            "needs.make.outputs.file",
            "`needs.make.result`",
        ),
        (
            "if: needs.single.outputs.maybe > 3",
            "type",
            "needs.single.outputs.maybe",
            "has no value in `if`",
        ),
        (
            "if: params.n == '3'",
            "type",
            "params.n == '3'",
            "without quotes",
        ),
        (
            "if: params.flag == 'true'",
            "type",
            "params.flag == 'true'",
            "without quotes",
        ),
        (
            "if: params.items == 1",
            "type",
            "params.items == 1",
            "contains",
        ),
        (
            "if: params.branch < 3",
            "type",
            "params.branch < 3",
            "no order",
        ),
        (
            "if: matrix.size == 'a'",
            "type",
            "matrix.size == 'a'",
            "never equal",
        ),
        (
            "run: echo ${{ params.n.x }}",
            "type",
            "params.n",
            "no member `x`",
        ),
        (
            "run: echo ${{ params.items.x }}",
            "type",
            "params.items",
            "`.*.x`",
        ),
        (
            "run: echo ${{ params.n[0] }}",
            "type",
            "params.n",
            "cannot be indexed",
        ),
        (
            "run: echo ${{ params.items[params.branch] }}",
            "type",
            "params.branch",
            "indexed by an integer",
        ),
        (
            "run: echo ${{ params.branch.* }}",
            "type",
            "params.branch",
            "`.*` needs",
        ),
        (
            "run: echo ${{ sum(params.branch) }}",
            "type",
            "params.branch",
            "needs numbers",
        ),
        (
            "run: echo ${{ len(params.n) }}",
            "type",
            "params.n",
            "`len` needs",
        ),
        (
            "run: echo ${{ fromJSON(params.n) }}",
            "type",
            "params.n",
            "needs a string",
        ),
        (
            "run: echo ${{ range(1, params.branch) }}",
            "type",
            "params.branch",
            "needs numbers",
        ),
        (
            "run: echo ${{ 1 / 0 }}",
            "type",
            "1 / 0",
            "division by zero",
        ),
        (
            "run: echo ${{ format('{1}', 1) }}",
            "type",
            "format('{1}', 1)",
            "only 1 values",
        ),
        (
            "matrix: {x: \"${{ range(1, 3, 0) }}\"}",
            "type",
            "range(1, 3, 0)",
            "step",
        ),
        (
            "matrix: {x: \"${{ params.n }}\"}",
            "type",
            "params.n",
            "needs a list",
        ),
        (
            "replicates: ${{ params.branch }}",
            "type",
            "params.branch",
            "must be a number",
        ),
        (
            "run: echo \"${{ inputs.data }}\"",
            "type",
            "inputs.data",
            "between quotes",
        ),
        (
            "run: echo '${{ params.items }}'",
            "type",
            "params.items",
            "between quotes",
        ),
        (
            "run: [echo, \"x=${{ inputs.data }}\"]",
            "type",
            "inputs.data",
            "join",
        ),
        ("run: [echo, \"${{ matrix }}\"]", "type", "matrix", "toJSON"),
        (
            "env: {X: \"${{ params.items }}\"}",
            "type",
            "params.items",
            "join",
        ),
        (
            "if: ${{ 'false' }}",
            "constant-condition",
            "'false'",
            "without quotes",
        ),
        (
            "if: params.branch == 'a' || 'b'",
            "constant-condition",
            "'b'",
            "x == 'b'",
        ),
        ("if: 1", "constant-condition", "1", "always true"),
        (
            "if: \"!(params.flag && 'x')\"",
            "constant-condition",
            "'x'",
            "always true",
        ),
    ]);
}

#[test]
fn exports_are_outputs() {
    for (value, code, place) in [
        ("${{ jobs.make.outputs.fil }}", "unknown-output", "fil"),
        ("${{ jobs.mak.outputs.file }}", "unknown-job", "mak"),
        ("${{ jobs.make.outputs }}", "export", "jobs.make.outputs"),
        (
            "${{ jobs.make.outputs.file[0] }}",
            "export",
            "jobs.make.outputs.file[0]",
        ),
        ("${{ params.branch }}", "context", "params.branch"),
        ("${{ 'a.csv' }}", "export", "'a.csv'"),
        (
            "${{ basename(jobs.make.outputs.file) }}",
            "export",
            "basename(jobs.make.outputs.file)",
        ),
        (
            "${{ needs.make.outputs.file }}",
            "context",
            "needs.make.outputs.file",
        ),
    ] {
        let text = format!("{BASE}    run: [echo]\nexport: {{out.csv: \"{value}\"}}\n");
        let parsed = parse("test.yaml", &text, &NoFiles);
        let [error] = parsed.diagnostics.as_slice() else {
            panic!("{value}: {:#?}", parsed.diagnostics);
        };
        assert_eq!(error.code, code, "{value}: {error:#?}");
        assert_eq!(
            &text[error.span.start as usize..error.span.end as usize],
            place
        );
    }
}

#[test]
fn several_mistakes_come_at_once() {
    let (_, found) = mistakes("if: params.a\nrun: echo ${{ params.b + matrix.c }} ${{ inputs.d }}");
    let codes: Vec<_> = found.iter().map(|error| error.code).collect();
    assert_eq!(
        codes,
        [
            "unknown-param",
            "unknown-param",
            "unknown-axis",
            "unknown-input"
        ]
    );
}

#[test]
fn the_number_of_mistakes_is_bounded() {
    let lines = format!("run: echo {}", "${{ params.x }} ".repeat(5000));
    let (_, found) = mistakes(&lines);
    assert!((100..=201).contains(&found.len()), "{}", found.len());
}

#[test]
fn expressions_of_any_legal_depth_are_checked() {
    let chain = vec!["params.n"; 250].join(" + ");
    let brackets = format!("{}params.n{}", "(".repeat(60), ")".repeat(60));
    let indices = format!("{}0{}", "params.items[".repeat(60), "]".repeat(60));
    let calls = format!("{}params.n{}", "round(".repeat(60), ")".repeat(60));
    let choices = "params.flag ? 1 : ".repeat(60) + "2";
    for expr in [chain, brackets, indices, calls, choices] {
        let (_, found) = mistakes(&format!("run: [echo, \"${{{{ {expr} }}}}\"]"));
        assert_eq!(found, []);
    }
}

#[test]
fn large_constants_are_not_evaluated_for_ever() {
    let lines = format!(
        "run: [{}]",
        vec!["\"${{ len(range(1, 900000)) }}\""; 2000].join(", ")
    );
    let (_, found) = mistakes(&lines);
    assert_eq!(found, []);
}

/// Expressions out of likely parts, most of them wrong.
fn likely() -> impl proptest::strategy::Strategy<Value = String> {
    let parts = [
        "params",
        "matrix",
        "needs",
        "inputs",
        "outputs",
        "env",
        "git",
        "replicate",
        ".n",
        ".size",
        ".make",
        ".outputs",
        ".loss",
        ".*",
        "[0]",
        "['a']",
        "[params.n]",
        " + ",
        " == ",
        " && ",
        " || ",
        " ? ",
        " : ",
        "!",
        "-",
        "(",
        ")",
        "[",
        "]",
        ", ",
        "1",
        "0.5",
        "'a'",
        "true",
        "null",
        "len(",
        "sum(",
        "range(",
        "format(",
        "default(",
        "toJSON(",
        "fromJSON(",
        "join(",
        "always()",
        "hashFiles(",
        "round(",
    ];
    use proptest::strategy::Strategy;
    proptest::collection::vec(proptest::sample::select(parts.to_vec()), 1..12)
        .prop_map(|parts| parts.concat())
}

proptest::proptest! {
    #[test]
    fn checking_never_panics(text in likely()) {
        let (source, found) = mistakes(&format!("if: \"{text}\"\nrun: [echo, \"${{{{ {text} }}}}\"]"));
        for error in found {
            proptest::prop_assert!(source.get(error.span.start as usize..error.span.end as usize).is_some());
        }
    }
}
