//! The pipelines that must run as they stand.

use dagrun_model::{InputSource, Value};
use dagrun_plan::{Counts, Plan};

use crate::world::{World, action, all_succeed, ids, node, staged};

pub(crate) fn sweep() -> World {
    World::text(include_str!("../fixtures/sweep.yaml"))
        .file("make_population.py", "make")
        .file("sir.py", "sir")
        .file("summarise.py", "summarise")
        .file("plot.py", "plot")
}

fn ci() -> World {
    let mut world = World::text(include_str!("../fixtures/ci.yaml"))
        .file("Cargo.toml", "[package]")
        .file("Cargo.lock", "lock")
        .file("src/lib.rs", "lib")
        .file("tests/a.rs", "test");
    world.tools.insert("rustc -Vv".into(), "rustc 1.90".into());
    world
}

fn counts(plan: &Plan) -> [u64; 3] {
    let Counts {
        naive,
        nodes,
        units,
    } = plan.counts();
    [naive, nodes, units]
}

#[test]
fn sweep_has_184_nodes() {
    let plan = sweep().plan();
    assert_eq!(counts(&plan), [184, 184, 184]);
    let ids = ids(&plan);
    assert_eq!(ids[0], "population");
    assert_eq!(ids[1], "simulate[beta=0.1,scenario=baseline,replicate=0]");
    assert_eq!(ids[21], "simulate[beta=0.2,scenario=baseline,replicate=0]");
    assert_eq!(ids[41], "simulate[beta=0.2,scenario=vaccine,replicate=0]");
    assert_eq!(ids[181], "summary[scenario=baseline]");
    assert_eq!(ids[183], "figure");
    for (ix, id) in ids.iter().enumerate() {
        assert_eq!(node(&plan, id).index(), ix);
    }
}

#[test]
fn sweep_becomes_commands() {
    let plan = sweep().plan();
    let results = all_succeed(&plan);
    let simulate = action(
        &plan,
        "simulate[beta=0.3,scenario=vaccine,replicate=7]",
        &results,
    );
    assert_eq!(
        staged(&simulate),
        ["in/people/population.csv <- file", "sir.py <- sir.py"]
    );
    let [command] = simulate.commands.as_slice() else {
        panic!("one command");
    };
    assert_eq!(
        command.argv,
        ["bash", "--noprofile", "--norc", "-euo", "pipefail"]
    );
    let values: Vec<&str> = command
        .env
        .iter()
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(values[..3], ["in/people/population.csv", "0.3", "0.8"]);
    assert_eq!(values[4], "series.csv");
    assert_eq!(
        simulate.env,
        [("OMP_NUM_THREADS".to_owned(), "1".to_owned())]
    );

    let summary = action(&plan, "summary[scenario=vaccine]", &results);
    let argv = &summary.commands[0].argv;
    assert_eq!(
        argv[..5],
        [
            "python3",
            "summarise.py",
            "--out",
            "summary.json",
            "--points"
        ]
    );
    let points: serde_json::Value = serde_json::from_str(&argv[5]).expect("points are JSON");
    assert_eq!(points.as_array().map(Vec::len), Some(80));
    assert_eq!(
        points[0],
        serde_json::json!({"beta": 0.2, "scenario": {"name": "vaccine", "coverage": 0.8}, "replicate": 0})
    );
    assert_eq!(argv.len(), 86);
    assert_eq!(argv[6], "in/series/000000/series.csv");
    assert_eq!(argv[85], "in/series/000079/series.csv");
    assert!(matches!(summary.inputs[0].source, InputSource::Stored(_)));
}

#[test]
fn common_seeds_are_shared_between_points() {
    let plan = sweep().plan();
    let results = all_succeed(&plan);
    let seed = |id: &str| action(&plan, id, &results).commands[0].env[3].1.clone();
    let one = seed("simulate[beta=0.1,scenario=baseline,replicate=3]");
    assert_eq!(one, seed("simulate[beta=0.5,scenario=vaccine,replicate=3]"));
    assert_ne!(
        one,
        seed("simulate[beta=0.1,scenario=baseline,replicate=4]")
    );
    assert!(one.parse::<u32>().is_ok_and(|seed| seed < 1 << 31));
}

#[test]
fn sweep_exports_its_figure() {
    let exports = sweep().plan().exports();
    let [export] = exports.as_slice() else {
        panic!("one export");
    };
    assert_eq!(export.target, "results/sweep.svg");
    assert_eq!(export.output, "figure");
}

#[test]
fn ci_has_9_nodes() {
    let plan = ci().plan();
    assert_eq!(counts(&plan), [9, 9, 9]);
    assert_eq!(
        ids(&plan),
        [
            "lint",
            "build[profile=dev,features=default]",
            "build[profile=release,features=default]",
            "build[profile=release,features=\"tls,compression\"]",
            "test[profile=dev,shard=1]",
            "test[profile=dev,shard=2]",
            "test[profile=dev,shard=3]",
            "test[profile=dev,shard=4]",
            "package",
        ]
    );
    let results = all_succeed(&plan);
    let lint = action(&plan, "lint", &results);
    let names: Vec<&str> = lint
        .commands
        .iter()
        .map(|command| command.name.as_str())
        .collect();
    assert_eq!(names, ["fmt", "clippy"]);
    assert_eq!(
        plan.action_digest(node(&plan, "package"), &results),
        Ok(None)
    );
    assert_eq!(
        action(&plan, "package", &results).secrets,
        ["REGISTRY_TOKEN"]
    );
}

#[test]
fn ci_skips_package_on_other_branches() {
    let plan = ci().param("branch", "feature").plan();
    assert_eq!(counts(&plan), [8, 8, 8]);
    assert_eq!(plan.skipped(), ["package"]);
    assert_eq!(plan.params()["branch"].value, Value::str("feature"));
}

/// As `calibrate`: R replicates, T targets that each read all of them.
fn scored(replicates: u32, targets: u32) -> World {
    World::jobs(&format!(
        r#"
simulate:
  replicates: {replicates}
  outputs: {{out: out.csv}}
  run: [simulate, "${{{{ replicate.seed }}}}"]
score:
  needs: simulate
  matrix: {{target: "${{{{ range(1, {targets}) }}}}"}}
  inputs: {{sims: "${{{{ needs.simulate.outputs.out }}}}"}}
  outputs: {{loss: {{json: loss.json, pointer: /loss}}}}
  run: [score, "${{{{ matrix.target }}}}", "${{{{ inputs.sims }}}}"]
"#
    ))
}

#[test]
fn calibration_is_counted_in_three_ways() {
    let check = |replicates, targets, expected| {
        assert_eq!(
            counts(&scored(replicates, targets).plan()),
            expected,
            "{replicates} x {targets}"
        );
    };
    check(5, 2, [12, 7, 6]);
    check(10, 2, [22, 12, 11]);
    check(1, 1, [2, 2, 2]);
    check(5, 1, [6, 6, 6]);
}

#[test]
fn sets_are_objects() {
    let plan = scored(1000, 200).plan();
    let delta = plan.delta();
    assert_eq!(counts(&plan), [1200 + 199 * 1000, 1200, 1001]);
    assert_eq!(delta.set_members.len() + delta.node_sets.len(), 1200);
    assert_eq!(delta.sets.len(), 1);
    assert_eq!(delta.groups.len(), 1);
    assert_eq!(delta.groups[0].members.len(), 200);
    assert_eq!(plan.consumers(delta.set_members[0]).len(), 200);
}

/// The driver shares a plan between threads.
#[test]
fn plans_can_be_shared() {
    fn shared<T: Send + Sync>() {}
    shared::<Plan>();
}
