//! The three pipelines that the language is described by.

use dagrun_dsl::{NoFiles, Parsed, parse};
use dagrun_model::{
    Command, Direction, DistributionKind, OrderSpec, Pipeline, Recipe, SamplerKind, Toolchain,
};

fn read(name: &str, text: &str) -> Parsed {
    parse(&format!("pipelines/{name}"), text, &NoFiles)
}

fn valid(name: &str, text: &str) -> Pipeline {
    let parsed = read(name, text);
    let rendered = dagrun_dsl::render(&parsed.diagnostics, &parsed.sources, false);
    assert_eq!(rendered, "", "{name}");
    parsed.pipeline.expect("no diagnostics, so a pipeline")
}

#[test]
fn sweep() {
    let pipeline = valid("sweep.yaml", include_str!("fixtures/sweep.yaml"));
    assert_eq!(pipeline.name.value, "sir-sweep");
    let names: Vec<&str> = pipeline.jobs.keys().map(String::as_str).collect();
    assert_eq!(names, ["population", "simulate", "summary", "figure"]);
    let simulate = &pipeline.jobs["simulate"];
    assert_eq!(simulate.needs[0].job.index(), 0);
    assert_eq!(simulate.matrix.axes.len(), 2);
    assert_eq!(simulate.matrix.exclude.len(), 1);
    assert_eq!(
        simulate.inputs[1]
            .name
            .as_ref()
            .expect("inputs are named")
            .value,
        "people"
    );
    assert_eq!(simulate.env["OMP_NUM_THREADS"].as_text(), Some("1"));
    let summary = &pipeline.jobs["summary"];
    assert_eq!(summary.for_each[0].value, "scenario");
    let Recipe::Run(Command::Argv(words, _)) = &summary.recipe else {
        panic!("a list of words");
    };
    assert_eq!(words.len(), 7);
    assert_eq!(pipeline.export.len(), 1);
}

#[test]
fn ci() {
    let pipeline = valid("ci.yaml", include_str!("fixtures/ci.yaml"));
    let lint = &pipeline.jobs["lint"];
    assert_eq!(lint.inputs.len(), 4);
    assert!(
        matches!(&lint.toolchain[0], Toolchain::Command(words) if words.value == ["rustc", "-Vv"])
    );
    assert_eq!(lint.timeout.as_ref().and_then(|t| t.as_text()), Some("20m"));
    let test = &pipeline.jobs["test"];
    assert_eq!(test.inputs.len(), 5, "the alias is flattened into the list");
    assert!(test.outputs["junit"].optional);
    assert_eq!(test.retry.max, 1);
    let package = &pipeline.jobs["package"];
    assert!(package.condition.is_some());
    assert_eq!(package.needs.len(), 2);
    assert!(pipeline.report.github_annotations);
}

#[test]
fn calibrate() {
    let pipeline = valid("calibrate.yaml", include_str!("fixtures/calibrate.yaml"));
    let study = pipeline.study.as_ref().expect("it has a study");
    let names: Vec<&str> = study.space.keys().map(String::as_str).collect();
    assert_eq!(names, ["beta", "p_acute", "immunity", "carriers", "season"]);
    assert_eq!(study.space["beta"].kind.value, DistributionKind::LogUniform);
    assert!(study.space["immunity"].digits.is_some());
    assert_eq!(study.sampler.kind.value, SamplerKind::Tpe);
    let options: Vec<&str> = study.sampler.options.keys().map(String::as_str).collect();
    assert_eq!(options, ["seed", "startup"]);
    assert!(study.in_flight.is_none(), "auto");
    assert!(matches!(study.order, OrderSpec::Lag(_)));
    let [objective] = study.objectives.as_slice() else {
        panic!("one objective");
    };
    assert_eq!(objective.name, "loss");
    assert_eq!(objective.direction, Direction::Minimize);
    assert_eq!(
        study.stop.wall.as_ref().and_then(|t| t.as_text()),
        Some("4h")
    );
    assert!(study.stop.no_gain.is_some() && study.stop.failures.is_none());
}

#[test]
fn functions_in_warm_processes_wait_for_a_later_version() {
    let text = include_str!("fixtures/calibrate.yaml").replace(
        "    inputs: [models/]\n",
        "    call: models/typhoid.py:run\n    with: {params: 1}\n",
    );
    let parsed = read("calibrate.yaml", &text);
    let [error] = parsed.diagnostics.as_slice() else {
        panic!("{:#?}", parsed.diagnostics);
    };
    assert_eq!(error.code, "not-in-this-version");
    assert!(error.help[0].contains("`run:`"), "{error:?}");
}
