//! Pipelines of several files.

use std::collections::BTreeMap;

use dagrun_dsl::{Loader, Parsed, parse};
use dagrun_model::{Command, Expr, ExprKind, Recipe, RelPath, ScriptPart, Value};

struct Files(BTreeMap<&'static str, &'static str>);

impl Loader for Files {
    fn load(&self, path: &RelPath) -> Result<String, String> {
        self.0
            .get(path.as_str())
            .map(|text| (*text).to_owned())
            .ok_or_else(|| "no such file".into())
    }
}

fn read(text: &str, files: &[(&'static str, &'static str)]) -> Parsed {
    parse(
        "proj/main.yaml",
        text,
        &Files(files.iter().copied().collect()),
    )
}

fn valid(text: &str, files: &[(&'static str, &'static str)]) -> dagrun_model::Pipeline {
    let parsed = read(text, files);
    let rendered = dagrun_dsl::render(&parsed.diagnostics, &parsed.sources, false);
    assert_eq!(rendered, "");
    parsed.pipeline.expect("it is valid")
}

fn fails(text: &str, files: &[(&'static str, &'static str)], code: &str, place: &str) {
    let parsed = read(text, files);
    let found: Vec<_> = parsed
        .diagnostics
        .iter()
        .map(|d| (d.code, parsed.sources.locate(d.span)))
        .collect();
    assert_eq!(
        found,
        [(code, place.to_owned())],
        "{:?}",
        parsed.diagnostics
    );
}

/// The expressions of the script of a job.
fn exprs(pipeline: &dagrun_model::Pipeline, job: &str) -> Vec<Expr> {
    let Recipe::Run(Command::Script(script)) = &pipeline.jobs[job].recipe else {
        panic!("a script");
    };
    script
        .parts
        .iter()
        .filter_map(|part| match part {
            ScriptPart::Value { expr, .. } => Some(expr.clone()),
            ScriptPart::Text(_) => None,
        })
        .collect()
}

const PREP: &str = "\
params:
  size: {type: int, default: 3}
  label: {type: string}
env: {LANG: C}
jobs:
  fetch: {run: \"fetch ${{ params.size }} ${{ params.label }}\", outputs: {raw: raw.csv}}
  clean: {needs: fetch, run: \"clean ${{ needs.fetch.outputs.raw }}\", outputs: {table: t.csv}}
";

#[test]
fn jobs_of_a_module_come_in_under_its_name() {
    let text = "\
jobs:
  setup: {run: x, outputs: {o: o.txt}}
  prep: {uses: ./lib/prep.yaml, needs: setup, with: {size: 7, label: \"${{ needs.setup.outputs.o }}\"}}
  fit: {needs: prep/clean, run: \"fit ${{ needs['prep/clean'].outputs.table }}\"}
  all: {needs: prep, run: x}
";
    let pipeline = valid(text, &[("lib/prep.yaml", PREP)]);
    let names: Vec<&str> = pipeline.jobs.keys().map(String::as_str).collect();
    assert_eq!(names, ["setup", "prep/fetch", "prep/clean", "fit", "all"]);
    let needs = |job: &str| {
        pipeline.jobs[job]
            .needs
            .iter()
            .map(|n| n.job.index())
            .collect::<Vec<_>>()
    };
    assert_eq!(needs("prep/fetch"), [0]);
    assert_eq!(needs("prep/clean"), [1, 0]);
    assert_eq!(needs("fit"), [2]);
    assert_eq!(needs("all"), [1, 2]);
    let fetch = exprs(&pipeline, "prep/fetch");
    assert_eq!(fetch[0].kind, ExprKind::Literal(Value::Int(7)));
    assert_eq!(
        fetch[1].as_path(),
        Some(vec!["needs", "setup", "outputs", "o"])
    );
    assert_eq!(
        exprs(&pipeline, "prep/clean")[0].as_path(),
        Some(vec!["needs", "prep/fetch", "outputs", "raw"])
    );
    assert_eq!(pipeline.jobs["prep/clean"].env["LANG"].as_text(), Some("C"));
    assert!(pipeline.jobs["setup"].env.is_empty());
    assert_eq!(pipeline.params.len(), 0);
}

#[test]
fn modules_use_modules_from_their_own_folder() {
    let outer = "params: {n: 1}\njobs:\n  inner: {uses: ../other/inner.yaml, with: {m: \"a${{ params.n }}b\"}}\n";
    let inner = "params: {m: x}\njobs:\n  leaf: {run: \"echo ${{ params.m }}\"}\n";
    let pipeline = valid(
        "jobs:\n  o: {uses: lib/outer.yaml, with: {n: 5}, if: \"${{ 1 == 1 }}\"}\n",
        &[("lib/outer.yaml", outer), ("other/inner.yaml", inner)],
    );
    let leaf = &exprs(&pipeline, "o/inner/leaf")[0];
    let ExprKind::Call(dagrun_model::Function::Format, arguments) = &leaf.kind else {
        panic!("{leaf:?}");
    };
    assert_eq!(arguments[0].kind, ExprKind::Literal(Value::str("a{0}b")));
    assert_eq!(arguments[1].kind, ExprKind::Literal(Value::Int(5)));
    assert!(pipeline.jobs["o/inner/leaf"].condition.is_some());
}

#[test]
fn one_module_can_be_used_twice() {
    let module = "params: {n: 1}\njobs: {j: {run: \"echo ${{ params.n }}\"}}\n";
    let pipeline = valid(
        "jobs:\n  a: {uses: m.yaml}\n  b: {uses: m.yaml, with: {n: 2}}\n",
        &[("m.yaml", module)],
    );
    assert_eq!(
        exprs(&pipeline, "a/j")[0].kind,
        ExprKind::Literal(Value::Int(1))
    );
    assert_eq!(
        exprs(&pipeline, "b/j")[0].kind,
        ExprKind::Literal(Value::Int(2))
    );
    assert_eq!(pipeline.sources.iter().count(), 2);
}

#[test]
fn mistakes_stand_in_their_own_file() {
    let uses = "jobs:\n  p: {uses: m.yaml}\n";
    fails(
        uses,
        &[("m.yaml", "jobs:\n  j: {rn: x}\n")],
        "unknown-key",
        "proj/m.yaml:2:7",
    );
    fails(
        uses,
        &[("m.yaml", "jobs: [\n")],
        "unclosed-bracket",
        "proj/m.yaml:1:7",
    );
    fails(uses, &[], "cannot-read", "proj/main.yaml:2:13");
    fails(
        "jobs:\n  p: {uses: ../m.yaml}\n",
        &[],
        "bad-path",
        "proj/main.yaml:2:13",
    );
    fails(
        "jobs:\n  p: {uses: /m.yaml}\n",
        &[],
        "bad-path",
        "proj/main.yaml:2:13",
    );
    fails(
        "jobs:\n  p: {uses: \"https://a/m.yaml\"}\n",
        &[],
        "bad-path",
        "proj/main.yaml:2:13",
    );
    fails(
        uses,
        &[("m.yaml", "secrets: [T]\njobs: {j: {run: x}}\n")],
        "unknown-secret",
        "proj/main.yaml:2:13",
    );
    fails(
        uses,
        &[("m.yaml", "params: {a: {type: int}}\njobs: {j: {run: x}}\n")],
        "missing-param",
        "proj/main.yaml:2:13",
    );
    fails(
        uses,
        &[("m.yaml", "jobs: {j: {run: \"echo ${{ params.a }}\"}}\n")],
        "unknown-param",
        "proj/m.yaml:1:27",
    );
    fails(
        "jobs:\n  p: {uses: m.yaml, with: {b: 1}}\n",
        &[("m.yaml", "params: {a: 1}\njobs: {j: {run: x}}\n")],
        "unknown-param",
        "proj/main.yaml:2:28",
    );
    fails(
        "jobs:\n  p: {uses: m.yaml, with: {a: b}}\n",
        &[("m.yaml", "params: {a: 1}\njobs: {j: {run: x}}\n")],
        "wrong-type",
        "proj/main.yaml:2:31",
    );
    fails(
        "jobs:\n  p: {uses: m.yaml, matrix: {a: [1]}}\n",
        &[("m.yaml", "jobs: {j: {run: x}}\n")],
        "one-of",
        "proj/main.yaml:2:21",
    );
}

#[test]
fn circles_and_floods_are_refused() {
    fails(
        "jobs:\n  p: {uses: main.yaml}\n",
        &[("main.yaml", "jobs: {}\n")],
        "include-cycle",
        "proj/main.yaml:2:13",
    );
    fails(
        "jobs:\n  p: {uses: a.yaml}\n",
        &[
            ("a.yaml", "jobs:\n  p: {uses: b.yaml}\n"),
            ("b.yaml", "jobs:\n  p: {uses: a.yaml}\n"),
        ],
        "include-cycle",
        "proj/b.yaml:2:13",
    );
    let doubling = |next: &str| {
        let text = format!("jobs:\n  a: {{uses: {next}}}\n  b: {{uses: {next}}}\n");
        &*Box::leak(text.into_boxed_str())
    };
    let files: Vec<(&'static str, &'static str)> = (0..20)
        .map(|i| {
            let name: &'static str = Box::leak(format!("m{i}.yaml").into_boxed_str());
            (name, doubling(&format!("m{}.yaml", i + 1)))
        })
        .chain([("m20.yaml", "jobs: {j: {run: x}}\n")])
        .collect();
    let parsed = read(doubling("m0.yaml"), &files);
    assert!(
        parsed
            .diagnostics
            .iter()
            .all(|d| d.code == "too-many-files"),
        "{:?}",
        parsed.diagnostics
    );
    assert!(!parsed.diagnostics.is_empty());
}

#[test]
fn jobs_of_a_module_take_part_in_a_study() {
    let study = "study: {space: {x: {uniform: [0, 1]}}, trials: 3, minimize: \"sum(jobs['m/fit'].outputs.loss)\"}\n";
    let fit = "\
params: {most: 4}
jobs:
  fit:
    run: fit ${{ trial.x }}
    replicates: {n: 2, grow: {to: \"${{ params.most }}\", when: study.value < params.most}}
    outputs: {loss: {json: l.json}}
";
    let text = format!("{study}jobs: {{m: {{uses: ./fit.yaml, with: {{most: 6}}}}}}\n");
    let pipeline = valid(&text, &[("fit.yaml", fit)]);
    let replicates = pipeline.jobs["m/fit"].replicates.as_ref();
    let grow = replicates.and_then(|r| r.grow.as_ref()).expect("it grows");
    let mut params = 0;
    let mut count = |expr: &Expr| {
        expr.walk(&mut |expr| {
            params += usize::from(matches!(&expr.kind, ExprKind::Context(c) if &**c == "params"));
        });
    };
    grow.to.walk_exprs(&mut count);
    count(&grow.when);
    assert_eq!(params, 0, "parameters of a module are put in place");

    let after =
        format!("{study}jobs: {{m: {{uses: ./fit.yaml}}, r: {{uses: ./r.yaml, needs: study}}}}\n");
    let report = "jobs: {table: {run: \"show ${{ study.best.value }}\"}}\n";
    let pipeline = valid(&after, &[("fit.yaml", fit), ("r.yaml", report)]);
    assert!(pipeline.jobs["r/table"].after_study.is_some());

    let inner = "study: {space: {x: {int: [0, 1]}}, trials: 3, minimize: jobs.a.outputs.l}\njobs: {a: {run: \"x ${{ trial.x }}\", outputs: {l: {json: l}}}}\n";
    fails(
        "jobs: {m: {uses: ./inner.yaml}, n: {run: x}}\nstudy: {space: {x: {int: [0, 1]}}, trials: 1, minimize: \"jobs['m/a'].outputs.l\"}\n",
        &[("inner.yaml", inner)],
        "study-in-module",
        "proj/main.yaml:1:18",
    );
}
