//! Studies: what is read, and what is wrong with them. Mistakes are marked by `‸`.

mod marked;

use std::fmt::Write as _;

use dagrun_dsl::{NoFiles, Parsed, fmt, parse, render};
use dagrun_model::{Direction, OrderSpec, Pipeline, SamplerKind, Study, Value, ValueTemplate};
use marked::check_all;

const SPACE: &str = "space: {a: {uniform: [0, 1]}, b: {int: [0, 9]}, c: {choice: [x, y]}}";
const REST: &str = "trials: 10\nminimize: jobs.score.outputs.loss\n";
const JOBS: &str = "\
params: {n: 3, word: w, items: [1, 2]}
jobs:
  data: {run: make data, outputs: {file: d.csv, rows: {json: d.json}}}
  simulate:
    needs: data
    run: [sim, \"${{ toJSON(trial) }}\"]
    replicates: 2
    outputs: {curve: c.csv, peak: {json: p.json, pointer: /peak}}
  score:
    needs: simulate
    run: [score, \"${{ needs.simulate.outputs.curve }}\"]
    outputs: {file: s.txt, loss: {json: l.json}, good: {json: l.json, type: bool}, why: {json: l.json, type: string}}
";

/// A document with these lines in its `study`.
fn study(lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("  {line}\n")).collect();
    format!("study:\n{lines}{JOBS}")
}

/// A document with a good study, and these lines as one more job.
fn job(lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    format!("{}  more:\n{lines}", study(&format!("{SPACE}\n{REST}")))
}

fn valid(text: &str) -> Pipeline {
    let parsed = parse("p.yaml", text, &NoFiles);
    let rendered = render(&parsed.diagnostics, &parsed.sources, false);
    assert_eq!(rendered, "", "{text}");
    parsed.pipeline.expect("no diagnostics, so a pipeline")
}

fn valid_study(lines: &str) -> Study {
    valid(&study(lines)).study.expect("it has a study")
}

fn codes(parsed: &Parsed) -> Vec<&'static str> {
    parsed.diagnostics.iter().map(|d| d.code).collect()
}

fn int(value: &ValueTemplate) -> Option<i64> {
    match value {
        ValueTemplate::Value(value) => value.value.as_i64(),
        _ => None,
    }
}

#[test]
fn everything_has_its_place() {
    let study = valid_study(
        "space:
  u: {uniform: [0.5, 2], digits: 3}
  l: {log_uniform: [1e-4, \"${{ params.n }}\"]}
  i: {int: [-3, 3]}
  j: {log_int: [1, 1000]}
  c: {choice: [exact, 3, true, {name: deep}]}
  d: {choice: \"${{ params.items }}\"}
  n: {normal: [0, 1], when: \"${{ trial.c == 'exact' && trial.i > params.n }}\"}
  b: {beta: [2, 5], when: trial.u < 1}
  s: {steps: [0, 1, 0.1]}
sampler: {cmaes: {seed: \"${{ params.n }}\", population: 12, sigma: 0.3}}
trials: ${{ params.n * 10 }}
in_flight: 4
order: {batched: 8}
minimize: {fit: \"${{ mean(jobs.simulate.outputs.peak) + jobs.score.outputs.loss }}\"}
maximize: [jobs.score.outputs.loss, trial.u * jobs.score.outputs.loss]
constraints: [jobs.score.outputs.good, trial.u + trial.i - 1, \"${{ max(jobs.simulate.outputs.peak) <= params.n }}\"]
stop: {wall: \"${{ params.n }}h\", failures: 5}
enqueue: [{u: 1, c: exact}, {c: {name: deep}, n: null}, {u: \"${{ params.n / 3 }}\"}]",
    );
    let names: Vec<_> = study.objectives.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(names, ["fit", "score_1", "score_2"]);
    let directions: Vec<_> = study.objectives.iter().map(|o| o.direction).collect();
    use Direction::{Maximize, Minimize};
    assert_eq!(directions, [Minimize, Maximize, Maximize]);
    assert_eq!(study.constraints.len(), 3);
    assert_eq!(study.enqueue.len(), 3);
    assert_eq!(study.in_flight.as_ref().and_then(int), Some(4));
    assert!(matches!(&study.order, OrderSpec::Batched(n) if int(n) == Some(8)));
    assert!(study.space["n"].when.is_some() && study.space["u"].when.is_none());
}

#[test]
fn what_is_left_out_has_a_default() {
    let plain = valid_study(&format!("{SPACE}\n{REST}"));
    assert_eq!(plain.sampler.kind.value, SamplerKind::Tpe);
    assert!(plain.sampler.options.is_empty());
    assert!(plain.in_flight.is_none());
    assert!(matches!(plain.order, OrderSpec::Async));
    assert_eq!(plain.objectives[0].name, "loss");
    let grid = valid_study(&format!(
        "{SPACE}\nsampler: grid\nmaximize: [jobs.score.outputs.loss]"
    ));
    assert_eq!(grid.objectives[0].name, "score");
    let ValueTemplate::Value(trials) = &grid.trials else {
        panic!("no expression");
    };
    assert!(
        matches!(trials.value, Value::Null),
        "as many as the grid has"
    );
}

#[test]
fn samplers_have_two_forms() {
    for kind in SamplerKind::ALL {
        let name = kind.name();
        let forms = match kind {
            SamplerKind::Exec => vec!["{exec: [python3, \"${{ params.word }}.py\"]}".to_owned()],
            _ => vec![name.to_owned(), format!("{{{name}: {{}}}}")],
        };
        for form in forms {
            let study = valid_study(&format!("{SPACE}\nsampler: {form}\n{REST}"));
            assert_eq!(study.sampler.kind.value, *kind, "{form}");
        }
    }
    for levels in ["5", "{a: 5, b: \"${{ params.n }}\"}"] {
        let study = valid_study(&format!(
            "{SPACE}\nsampler: {{grid: {{levels: {levels}}}}}\n{REST}"
        ));
        assert!(study.sampler.options.contains_key("levels"));
    }
    let study = valid_study(&format!(
        "{SPACE}\nsampler: {{optuna: {{sampler: NSGAIISampler, seed: 3, storage: \"sqlite:///o.db\", python: .venv/bin/python, options: {{population_size: 20}}}}}}\n{REST}"
    ));
    let options: Vec<_> = study.sampler.options.keys().map(String::as_str).collect();
    assert_eq!(options, ["sampler", "seed", "storage", "python", "options"]);
}

#[test]
fn mistakes_in_the_space() {
    let table = [
        ("empty-value", "space: ‸{}"),
        ("wrong-type", "space: ‸[a, b]"),
        ("wrong-type", "space: {a: ‸[0, 1]}"),
        ("wrong-type", "space: {a: ‸0.5}"),
        ("wrong-type", "space: {a: ‸null}"),
        ("missing-key", "space: {a: ‸{}}"),
        ("missing-key", "space: {a: ‸{digits: 3}}"),
        ("unknown-key", "space: {a: {‸unifrom: [0, 1]}}"),
        ("unknown-key", "space: {a: {‸loguniform: [0, 1]}}"),
        ("unknown-key", "space: {a: {‸categorical: [x, y]}}"),
        ("unknown-key", "space: {a: {uniform: [0, 1], ‸step: 0.1}}"),
        ("one-of", "space: {a: {uniform: [0, 1], ‸int: [0, 1]}}"),
        ("bad-name", "space: {‸1a: {uniform: [0, 1]}}"),
        ("arguments", "space: {a: {uniform: ‸[0]}}"),
        ("arguments", "space: {a: {uniform: ‸[0, 1, 2]}}"),
        ("arguments", "space: {a: {steps: ‸[0, 1]}}"),
        ("arguments", "space: {a: {int: ‸[]}}"),
        ("wrong-type", "space: {a: {uniform: ‸{low: 0, high: 1}}}"),
        ("wrong-type", "space: {a: {uniform: ‸1}}"),
        ("wrong-type", "space: {a: {uniform: [0, ‸x]}}"),
        ("wrong-type", "space: {a: {uniform: [0, ‸\"1\"]}}"),
        ("wrong-type", "space: {a: {uniform: [0, ‸.inf]}}"),
        ("wrong-type", "space: {a: {uniform: [‸.nan, 1]}}"),
        ("wrong-type", "space: {a: {uniform: [0, ‸[1]]}}"),
        (
            "wrong-type",
            "space: {a: {uniform: [0, ‸\"1${{ params.n }}\"]}}",
        ),
        ("wrong-type", "space: {a: {int: [0, ‸1.5]}}"),
        ("wrong-type", "space: {a: {int: [0, ‸9007199254740993]}}"),
        ("bad-distribution", "space: {a: {uniform: ‸[1, 0]}}"),
        ("bad-distribution", "space: {a: {uniform: ‸[1, 1.0]}}"),
        (
            "bad-distribution",
            "space: {a: {uniform: ‸[-1.7e308, 1.7e308]}}",
        ),
        ("bad-distribution", "space: {a: {int: ‸[3, 3]}}"),
        ("bad-distribution", "space: {a: {log_uniform: ‸[0, 1]}}"),
        ("bad-distribution", "space: {a: {log_int: ‸[-1, 4]}}"),
        ("bad-distribution", "space: {a: {normal: ‸[0, 0]}}"),
        ("bad-distribution", "space: {a: {beta: ‸[0, 1]}}"),
        ("bad-distribution", "space: {a: {steps: ‸[0, 1, 0]}}"),
        ("bad-distribution", "space: {a: {steps: ‸[0, 1, 2]}}"),
        ("bad-distribution", "space: {a: {steps: ‸[0, 1, 1e-300]}}"),
        ("bad-distribution", "space: {a: {int: [0, 9], ‸digits: 2}}"),
        (
            "bad-distribution",
            "space: {a: {steps: [0, 9, 1], ‸digits: 2}}",
        ),
        (
            "bad-distribution",
            "space: {a: {uniform: [0.001, 0.002], digits: ‸1}}",
        ),
        ("wrong-type", "space: {a: {uniform: [0, 1], digits: ‸-1}}"),
        ("wrong-type", "space: {a: {uniform: [0, 1], digits: ‸many}}"),
        ("empty-value", "space: {a: {choice: ‸[]}}"),
        ("bad-value", "space: {a: {choice: [x, ‸null]}}"),
        ("equal-values", "space: {a: {choice: [1, ‸1.0]}}"),
        ("wrong-type", "space: {a: {choice: ‸x}}"),
        (
            "unknown-param",
            "space: {a: {uniform: [0, \"${{ params.‸m }}\"]}}",
        ),
        (
            "type",
            "space: {a: {uniform: [0, \"${{ ‸params.word }}\"]}}",
        ),
        ("type", "space: {a: {choice: ‸\"${{ params.n }}\"}}"),
        (
            "context",
            "space: {a: {uniform: [0, \"${{ ‸trial.b }}\"]}, b: {uniform: [0, 1]}}",
        ),
        (
            "context",
            "space: {a: {uniform: [0, \"${{ ‸jobs.score.outputs.loss }}\"]}}",
        ),
        (
            "bad-when",
            "space: {a: {uniform: [0, 1], when: ‸trial.b > 1}, b: {int: [0, 3]}}",
        ),
        (
            "bad-when",
            "space: {a: {uniform: [0, 1], when: ‸trial.a > 1}}",
        ),
        (
            "bad-when",
            "space: {b: {int: [0, 3]}, a: {uniform: [0, 1], when: \"len(‸trial) > 1\"}}",
        ),
        (
            "unknown-parameter",
            "space: {bb: {int: [0, 3]}, a: {uniform: [0, 1], when: trial.‸b > 1}}",
        ),
        (
            "context",
            "space: {a: {uniform: [0, 1], when: ‸jobs.score.outputs.loss > 1}}",
        ),
        (
            "type",
            "space: {c: {choice: [x, y]}, a: {uniform: [0, 1], when: ‸trial.c == 1}}",
        ),
        (
            "constant-condition",
            "space: {c: {choice: [x, y]}, a: {uniform: [0, 1], when: \"trial.c == 'x' || ‸'y'\"}}",
        ),
    ];
    check_all(table.map(|(code, space)| (code, study(&format!("{space}\n{REST}")))));
}

#[test]
fn mistakes_in_the_study() {
    let table = [
        (
            "missing-key",
            "‸sampler: tpe",
            "trials: 10\nminimize: jobs.score.outputs.loss",
        ),
        ("unknown-word", "sampler: ‸tpee", REST),
        ("unknown-word", "sampler: ‸TPESampler", REST),
        ("missing-key", "sampler: ‸exec", REST),
        ("missing-key", "sampler: ‸{}", REST),
        ("wrong-type", "sampler: ‸[tpe]", REST),
        ("unknown-key", "sampler: {‸tpe2: {}}", REST),
        ("unknown-key", "sampler: {tpe: {‸sed: 1}}", REST),
        (
            "unknown-key",
            "sampler: {tpe: {‸n_startup_trials: 1}}",
            REST,
        ),
        (
            "one-of",
            "sampler: {tpe: {seed: 1}, ‸random: {seed: 1}}",
            REST,
        ),
        ("empty-value", "sampler: {tpe‸: }", REST),
        ("empty-value", "sampler: {exec: ‸[]}", REST),
        ("wrong-type", "sampler: {exec: ‸python3 x.py}", REST),
        ("wrong-type", "sampler: {exec: [python3, ‸[x]]}", REST),
        ("wrong-type", "sampler: {tpe: {seed: ‸-1}}", REST),
        ("wrong-type", "sampler: {cmaes: {population: ‸1}}", REST),
        ("wrong-type", "sampler: {cmaes: {sigma: ‸0}}", REST),
        ("wrong-type", "sampler: {optuna: {options: ‸[a]}}", REST),
        (
            "context",
            "sampler: {tpe: {seed: \"${{ ‸trial.a }}\"}}",
            REST,
        ),
        ("unknown-key", "‸n_trials: 4", REST),
        ("unknown-key", "‸stops: {wall: 4h}", REST),
        ("missing-key", "", "‸minimize: jobs.score.outputs.loss"),
        ("missing-key", "", "‸trials: 10"),
        (
            "wrong-type",
            "",
            "trials: ‸0\nminimize: jobs.score.outputs.loss",
        ),
        (
            "wrong-type",
            "",
            "trials: ‸many\nminimize: jobs.score.outputs.loss",
        ),
        (
            "type",
            "",
            "trials: ${{ ‸params.word }}\nminimize: jobs.score.outputs.loss",
        ),
        ("wrong-type", "in_flight: ‸all", REST),
        ("wrong-type", "in_flight: ‸0", REST),
        ("missing-key", "order: ‸lag", REST),
        ("unknown-word", "order: ‸asynch", REST),
        ("missing-key", "order: ‸{}", REST),
        ("one-of", "order: ‸{lag: 3, batched: 3}", REST),
        ("wrong-type", "order: {lag: ‸0}", REST),
        ("unknown-key", "order: {‸leg: 4}", REST),
        ("bad-duration", "stop: {wall: ‸4 fortnights}", REST),
        ("bad-duration", "stop: {wall: ‸0s}", REST),
        ("wrong-type", "stop: {no_gain: ‸0}", REST),
        ("wrong-type", "stop: {target: ‸low}", REST),
        ("unknown-key", "stop: {‸no_gains: 3}", REST),
        (
            "several-objectives",
            "stop: {‸target: 3}\nmaximize: jobs.score.outputs.loss",
            REST,
        ),
        (
            "several-objectives",
            "stop: {‸no_gain: 3}\nmaximize: jobs.score.outputs.loss",
            REST,
        ),
        ("wrong-type", "sampler: {grid: {levels: ‸0}}", REST),
        ("wrong-type", "sampler: {grid: {levels: {a: ‸0}}}", REST),
        ("wrong-type", "enqueue: ‸{a: 1}", REST),
        ("wrong-type", "enqueue: [‸1]", REST),
        ("unknown-parameter", "enqueue: [{‸d: 1}]", REST),
        ("bad-value", "enqueue: [{a: ‸2}]", REST),
        ("bad-value", "enqueue: [{a: ‸x}]", REST),
        ("bad-value", "enqueue: [{a: ‸null}]", REST),
        ("bad-value", "enqueue: [{b: ‸1.5}]", REST),
        ("bad-value", "enqueue: [{c: ‸z}]", REST),
        (
            "bad-value",
            "enqueue: ‸[{a: 0}, {a: 1}]",
            "trials: 1\nminimize: jobs.score.outputs.loss",
        ),
        ("context", "enqueue: [{a: \"${{ ‸trial.b }}\"}]", REST),
    ];
    check_all(table.map(|(code, lines, rest)| {
        let space = if lines.contains("‸sampler: tpe") {
            ""
        } else {
            SPACE
        };
        // The place of a missing key is that of the map, which begins with the space.
        let (mark, rest) = match (code, lines) {
            ("missing-key", "") => ("‸", rest.replace('‸', "")),
            _ => ("", rest.to_owned()),
        };
        (
            code,
            study(&format!("{mark}{space}\n{lines}\n{rest}")).replace("study:\n  \n", "study:\n"),
        )
    }));
}

#[test]
fn mistakes_in_objectives() {
    let table = [
        ("empty-value", "minimize: ‸[]", ""),
        ("bad-name", "minimize: {‸1: jobs.score.outputs.loss}", ""),
        (
            "duplicate-name",
            "minimize: {x: jobs.score.outputs.loss}\nmaximize: {‸x: jobs.score.outputs.loss}",
            "",
        ),
        ("objective-without-trial", "minimize: ‸3", ""),
        ("objective-without-trial", "minimize: ‸trial.a", ""),
        ("unknown-job", "minimize: jobs.‸scor.outputs.loss", ""),
        ("unknown-output", "minimize: jobs.score.outputs.‸los", ""),
        ("not-of-trial", "minimize: ‸jobs.data.outputs.rows", ""),
        ("type", "minimize: ‸jobs.score.outputs.file", ""),
        ("type", "minimize: ‸jobs.score.outputs.good", ""),
        ("type", "minimize: ‸jobs.score.outputs.why", ""),
        ("type", "minimize: ‸jobs.simulate.outputs.peak", ""),
        ("context", "minimize: ‸jobs.score.outputs", ""),
        ("context", "minimize: ‸needs.score.outputs.loss", ""),
        (
            "context",
            "minimize: ‸study.value + jobs.score.outputs.loss",
            "",
        ),
        (
            "unknown-parameter",
            "minimize: trial.‸d + jobs.score.outputs.loss",
            "",
        ),
        (
            "type",
            "maximize: jobs.score.outputs.loss",
            "constraints: [‸jobs.score.outputs.why]",
        ),
        (
            "type",
            "maximize: jobs.score.outputs.loss",
            "constraints: ‸jobs.simulate.outputs.peak",
        ),
        (
            "not-of-trial",
            "maximize: jobs.score.outputs.loss",
            "constraints: [‸jobs.data.outputs.rows > 1]",
        ),
        (
            "context",
            "maximize: jobs.score.outputs.loss",
            "constraints: [‸env.X]",
        ),
    ];
    check_all(table.map(|(code, objective, more)| {
        (
            code,
            study(&format!("{SPACE}\ntrials: 10\n{objective}\n{more}")),
        )
    }));
}

#[test]
fn names_out_of_their_context_are_named_with_it() {
    let lists = "replicates: 2\nrun: x\noutputs: {each: {json: e.json}}";
    let objective = |written: &str| {
        let lines = format!("{SPACE}\ntrials: 10\nminimize: {written}\n");
        job(lists).replace(&study(&format!("{SPACE}\n{REST}")), &study(&lines))
    };
    for (text, help) in [
        (objective("loss"), "write `jobs.score.outputs.loss`"),
        (
            objective("each"),
            "write `jobs.more.outputs.each`, a list of which `sum` or `mean` makes one number",
        ),
        (
            objective("rmse"),
            "an objective reads outputs of jobs: `jobs.JOB.outputs.NAME`",
        ),
        (
            job("run: x ${{ matrix.b }}"),
            "`b` is a parameter of the study's space: write `trial.b`",
        ),
    ] {
        let parsed = parse("p.yaml", &text, &NoFiles);
        let said = render(&parsed.diagnostics, &parsed.sources, false);
        assert!(said.contains(&format!("help: {help}\n")), "{help}: {said}");
    }
}

#[test]
fn jobs_may_follow_the_study() {
    for lines in [
        "needs: study\ninputs: {table: \"${{ study.table }}\"}\nrun: plot ${{ inputs.table }} ${{ study.trials }} ${{ study.failed }}",
        "needs: [study, data]\nif: study.best != null\nrun: [show, \"${{ study.best.params.a + study.best.value }}\", \"${{ study.best.trial }}\"]",
        "needs: {study: {}, data: {}}\nrun: [show, \"${{ toJSON(study.front) }}\", \"${{ study.front[0].values.loss }}\"]",
        "needs: [{job: study}]\nenv: {B: \"${{ toJSON(study.best) }}\"}\nmatrix: {k: [1, 2]}\nrun: x ${{ matrix.k }}",
    ] {
        let pipeline = valid(&job(lines));
        assert!(pipeline.jobs["more"].after_study.is_some(), "{lines}");
        assert!(pipeline.jobs["score"].after_study.is_none(), "{lines}");
    }
    // `needs: data` of the job before is no need of the study.
    let pipeline = valid(&job("needs: data\nrun: x"));
    assert!(pipeline.jobs["more"].after_study.is_none());
}

#[test]
fn mistakes_in_jobs_of_a_study() {
    let table = [
        ("unknown-parameter", "run: x ${{ trial.‸aa }}"),
        ("unknown-parameter", "run: x ${{ trial.‸word }}"),
        ("unknown-context", "run: x ${{ ‸a }}"),
        ("type", "run: x ${{ ‸trial }}"),
        ("type", "if: ‸trial.c == 1\nrun: x"),
        ("context", "matrix: {k: [\"${{ ‸trial.a }}\"]}\nrun: x"),
        ("context", "replicates: ${{ ‸trial.b }}\nrun: x"),
        ("reserved-name", "matrix: {‸trial: [1, 2]}\nrun: x"),
        ("unknown-axis", "needs: simulate\nfor_each: ‸trial\nrun: x"),
        ("unknown-key", "‸trial: a\nrun: x"),
        ("not-needed", "run: x ${{ ‸study.best.value }}"),
        ("not-needed", "needs: score\nrun: x ${{ ‸study.trials }}"),
        ("context", "needs: study\nrun: x ${{ ‸study.table }}"),
        (
            "unknown-member",
            "needs: study\nrun: x ${{ study.‸tables }}",
        ),
        ("unknown-member", "needs: study\nrun: x ${{ study.‸value }}"),
        (
            "unknown-member",
            "needs: study\nrun: x ${{ study.best.‸values }}",
        ),
        (
            "unknown-member",
            "needs: study\nrun: x ${{ study.best.params.‸aa }}",
        ),
        (
            "unknown-member",
            "needs: study\nrun: x ${{ study.front[0].values.‸los }}",
        ),
        (
            "context",
            "needs: study\nmatrix: {k: \"${{ ‸study.front }}\"}\nrun: x",
        ),
        ("trial-after-study", "needs: ‸study\nrun: x ${{ trial.a }}"),
        ("trial-after-study", "needs: [score, ‸study]\nrun: x"),
        ("duplicate-name", "needs: [study, ‸study]\nrun: x"),
        ("bad-need", "needs: {study: {‸min: 3}}\nrun: x"),
        (
            "bad-grow",
            "replicates: {n: 4, grow: {to: ‸4, when: trial.a > 1}}\nrun: x ${{ trial.a }}",
        ),
        (
            "bad-grow",
            "replicates: {n: 4, grow: ‸{to: 8, when: true}}\nrun: x",
        ),
        (
            "missing-key",
            "replicates: {n: 4, grow: ‸{when: true}}\nrun: x",
        ),
        (
            "unknown-member",
            "replicates: {n: 4, grow: {to: 8, when: study.‸trials > 1}}\nrun: x ${{ trial.a }}",
        ),
        (
            "context",
            "replicates: {n: 4, grow: {to: 8, when: ‸replicate.index > 1}}\nrun: x ${{ trial.a }}",
        ),
        (
            "constant-condition",
            "replicates: {n: 4, grow: {to: 8, when: ‸1}}\nrun: x ${{ trial.a }}",
        ),
        ("context", "run: x ${{ ‸jobs.score.outputs.loss }}"),
    ];
    check_all(table.map(|(code, lines)| (code, job(lines))));
    check_all([
        ("reserved-name", "jobs:\n  ‸study: {run: x}\n".to_owned()),
        (
            "no-study",
            "jobs:\n  a: {run: x, needs: ‸study}\n".to_owned(),
        ),
        (
            "no-study",
            "jobs:\n  a: {run: \"x ${{ ‸trial.x }}\"}\n".to_owned(),
        ),
        (
            "no-study",
            "jobs:\n  a: {run: x, replicates: {n: 2, grow: ‸{to: 3, when: true}}}\n".to_owned(),
        ),
        (
            "export",
            format!(
                "{}export: {{‸loss.json: \"${{{{ jobs.score.outputs.loss }}}}\"}}\n",
                job("run: x")
            ),
        ),
        (
            "trial-after-study",
            format!(
                "{}  last: {{needs: [more, ‸tail], run: x}}\n  tail: {{needs: study, run: x}}\n",
                job("needs: score\nrun: x")
            ),
        ),
        (
            "unknown-member",
            job("needs: study\nrun: x ${{ study.‸best.value }}").replace(
                "minimize: jobs",
                "maximize: jobs.score.outputs.loss\n  minimize: jobs",
            ),
        ),
        (
            "unused-parameter",
            study(&format!("{SPACE}\n{REST}"))
                .replace("toJSON(trial)", "trial.a")
                .replace("c: {choice", "‸c: {choice")
                .replace("minimize: ", "minimize: trial.b + "),
        ),
    ]);
}

#[test]
fn exports_of_trials_are_folders() {
    let text =
        job("needs: study\nrun: x") + "export: {losses/: \"${{ jobs.score.outputs.loss }}\"}\n";
    assert_eq!(valid(&text).export.len(), 1);
}

#[test]
fn grown_replicates() {
    let lines = "replicates: {n: \"${{ params.n }}\", grow: {to: 20, when: \"study.best == null || study.value < 2 * study.best.value && trial.a > params.n\"}}\nrun: x ${{ trial.a }}";
    let pipeline = valid(&job(lines));
    let replicates = pipeline.jobs["more"]
        .replicates
        .as_ref()
        .expect("it has some");
    assert_eq!(
        int(&replicates.grow.as_ref().expect("it grows").to),
        Some(20)
    );
}

#[test]
fn all_mistakes_come_at_once() {
    let text = study(
        "space: {a: {unifrom: [0, 1]}, b: {int: [9, 0]}}\nsampler: tpp\ntrials: 0\norder: lag\nminimize: jobs.scor.outputs.loss\nstop: {wall: soon}\nenqueue: [{x: 1}]",
    );
    let parsed = parse("p.yaml", &text, &NoFiles);
    assert_eq!(
        codes(&parsed),
        [
            "unknown-key",
            "bad-distribution",
            "unknown-word",
            "wrong-type",
            "missing-key",
            "unknown-job",
            "bad-duration",
            "unknown-parameter"
        ]
    );
}

#[test]
fn a_study_that_cannot_be_read_makes_no_further_mistakes() {
    for (text, code) in [
        (
            study(&format!("{SPACE}\n{REST}")).replace("study:", "stduy:"),
            "unknown-key",
        ),
        (
            study(&format!("{SPACE}\n{REST}")).replace("space:", "spac:"),
            "unknown-key",
        ),
        (format!("study: soon\n{JOBS}"), "wrong-type"),
    ] {
        let parsed = parse("p.yaml", &text, &NoFiles);
        assert_eq!(codes(&parsed), [code], "{text}");
    }
}

#[test]
fn a_formatted_study_is_the_same_study() {
    let text = study(&format!(
        "{SPACE}   # three\nsampler: {{tpe:   {{seed: 1}}}}\n{REST}"
    ));
    let formatted = fmt(&text).expect("it can be formatted");
    assert!(formatted.contains("# three"), "{formatted}");
    assert_eq!(fmt(&formatted).as_deref(), Ok(formatted.as_str()));
    assert_eq!(valid(&formatted).study.expect("a study").space.len(), 3);
}

#[test]
fn huge_spaces_are_refused() {
    let mut space = String::from("space:\n");
    for i in 0..9_000 {
        let _ = writeln!(space, "  p{i}: {{uniform: [0, 1], when: trial.p0 > 1}}");
    }
    let parsed = parse("p.yaml", &study(&format!("{space}{REST}")), &NoFiles);
    assert_eq!(codes(&parsed)[0], "space-too-large");
    let many = vec!["jobs.score.outputs.loss"; 20_000].join(", ");
    let parsed = parse(
        "p.yaml",
        &study(&format!("{SPACE}\ntrials: 10\nminimize: [{many}]")),
        &NoFiles,
    );
    assert_eq!(codes(&parsed), ["too-many-objectives"]);
    let long: Vec<String> = (0..100_001).map(|i| i.to_string()).collect();
    let text = study(&format!(
        "space: {{a: {{choice: [{}]}}}}\n{REST}",
        long.join(",")
    ));
    assert_eq!(
        codes(&parse("p.yaml", &text, &NoFiles)),
        ["space-too-large"]
    );
}

#[test]
fn deep_and_long_values_end() {
    let deep = format!("{}1{}", "[".repeat(50), "]".repeat(50));
    let text = study(&format!(
        "space: {{a: {{choice: [{deep}]}}}}\nenqueue: [{{a: {deep}}}]\n{REST}"
    ));
    assert!(codes(&parse("p.yaml", &text, &NoFiles)).is_empty());
    let deeper = "[".repeat(20_000);
    let text = study(&format!("space: {{a: {{choice: {deeper}"));
    assert_eq!(codes(&parse("p.yaml", &text, &NoFiles))[0], "too-deep");
    let points = vec!["{zz: 1}"; 100_000].join(", ");
    let text = study(&format!("{SPACE}\nenqueue: [{points}]\n{REST}"));
    let parsed = parse("p.yaml", &text, &NoFiles);
    assert!(parsed.pipeline.is_none() && parsed.diagnostics.len() <= 2000);
}
