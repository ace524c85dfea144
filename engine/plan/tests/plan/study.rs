//! Pipelines with a study: what is planned before, in and after its trials, and what a trial came to.

use std::sync::Arc;

use dagrun_model::{Digest, Map, NodeIx, Value};
use dagrun_plan::{
    JobPhase, Phase, Plan, StudyPlanner, TrialPoint, TrialValues, UpstreamEnd, job_phases,
};

use crate::world::{Results, World, action, file, ids, node, staged, value};

/// A stochastic model whose replicates two targets score: 12 nodes a trial without deduplication, 7 with it, 6 units.
const CALIBRATE: &str = r#"
dagrun: 1
name: calibrate
params: {n: {type: int, default: 5}, weight: {type: float, default: 1}}
study:
  space: {beta: {uniform: [0, 1]}, gamma: {uniform: [0, 1]}, season: {choice: [flat, monsoon]}}
  sampler: {random: {seed: 1}}
  trials: 10
  minimize: ${{ params.weight * sum(jobs.score.outputs.loss) }}
jobs:
  prepare:
    run: prepare data/ > table.csv
    inputs: [data/]
    outputs: {table: table.csv}
  simulate:
    needs: prepare
    run: simulate ${{ trial.beta }} ${{ replicate.seed }} ${{ needs.prepare.outputs.table }}
    replicates: ${{ params.n }}
    outputs: {series: series.csv}
  score:
    needs: simulate
    matrix: {target: [incidence, deaths]}
    run: score ${{ matrix.target }} ${{ needs.simulate.outputs.series }}
    outputs: {loss: {json: loss.json, pointer: /loss}}
  plot:
    needs: study
    run: plot ${{ study.best.params.beta }} ${{ inputs.table }}
    inputs: {table: "${{ study.table }}"}
    outputs: {figure: figure.svg}
export:
  scores/: ${{ jobs.score.outputs.loss }}
  tables/table.csv: ${{ jobs.prepare.outputs.table }}
  figure.svg: ${{ jobs.plot.outputs.figure }}
"#;

fn calibrate() -> World {
    World::text(CALIBRATE).file("data/cases.csv", "1")
}

fn changed(from: &str, to: &str) -> World {
    assert!(CALIBRATE.contains(from), "{from}");
    World::text(&CALIBRATE.replace(from, to)).file("data/cases.csv", "1")
}

fn map(values: &[(&str, Value)]) -> Arc<Map> {
    let entries = values
        .iter()
        .map(|(name, value)| ((*name).into(), value.clone()));
    Arc::new(entries.collect())
}

fn point(number: u64, beta: f64, gamma: f64) -> TrialPoint {
    TrialPoint {
        number,
        values: map(&[
            ("beta", Value::Float(beta)),
            ("gamma", Value::Float(gamma)),
            ("season", Value::str("flat")),
        ]),
        replicates: None,
    }
}

fn in_phase(world: &World, phase: Phase) -> Plan {
    world.clone().with(|options| options.phase = phase).plan()
}

fn trial(world: &World, point: TrialPoint) -> Plan {
    in_phase(world, Phase::Trial(point))
}

fn counts(plan: &Plan) -> [u64; 3] {
    let counts = plan.counts();
    [counts.naive, counts.nodes, counts.units]
}

fn keys(plan: &Plan, job: &str) -> Vec<Digest> {
    let nodes = plan
        .nodes()
        .filter(|node| plan.pipeline().job(plan.job(*node)).name.value == job);
    nodes.map(|node| plan.key(node)).collect()
}

/// The simulations succeed, and the scores give these losses.
fn scored(plan: &Plan, losses: [serde_json::Value; 2]) -> Results {
    let mut results = crate::world::all_succeed(plan);
    for (target, loss) in ["incidence", "deaths"].into_iter().zip(losses) {
        results.succeed(score(plan, target), [("loss", value(loss))]);
    }
    results
}

fn score(plan: &Plan, target: &str) -> NodeIx {
    let number = plan.trial().expect("a plan of a trial").number;
    node(plan, &format!("score[trial={number},target={target}]"))
}

#[test]
fn jobs_belong_to_what_they_use() {
    let text = CALIBRATE.replace(
        "export:",
        "  frame: {needs: plot, run: frame}\n  tidy: {needs: prepare, run: tidy}\nexport:",
    );
    let parsed = dagrun_dsl::parse("pipeline.yaml", &text, &dagrun_dsl::NoFiles);
    let pipeline = parsed
        .pipeline
        .unwrap_or_else(|| panic!("{:#?}", parsed.diagnostics));
    let phases = job_phases(&pipeline);
    let of = |job: &str| phases[pipeline.job_ix(job).expect("a job").index()];
    let parts = ["prepare", "simulate", "score", "plot", "frame", "tidy"].map(of);
    use JobPhase::{After, Before, Trial};
    assert_eq!(parts, [Before, Trial, Trial, After, After, Before]);
}

#[test]
fn each_part_has_its_own_nodes() {
    let world = calibrate();
    for phase in [Phase::Whole, Phase::Before] {
        assert_eq!(ids(&in_phase(&world, phase)), ["prepare"]);
    }
    let plan = trial(&world, point(12, 0.25, 0.5));
    assert_eq!(
        ids(&plan),
        [
            "prepare",
            "simulate[trial=12,replicate=0]",
            "simulate[trial=12,replicate=1]",
            "simulate[trial=12,replicate=2]",
            "simulate[trial=12,replicate=3]",
            "simulate[trial=12,replicate=4]",
            "score[trial=12,target=incidence]",
            "score[trial=12,target=deaths]",
        ]
    );
    assert_eq!(plan.find("score[trial=11,target=deaths]"), None);
    let own = plan.nodes().filter(|node| plan.is_own(*node)).count();
    assert_eq!(own, 7);
    let before = in_phase(&world, Phase::Before);
    assert_eq!(keys(&before, "prepare"), keys(&plan, "prepare"));
}

#[test]
fn a_trial_is_counted_without_what_it_shares() {
    let of = |n: &str| counts(&trial(&calibrate().param("n", n), point(1, 0.5, 0.5)));
    assert_eq!(of("5"), [12, 7, 6]);
    assert_eq!(of("10"), [22, 12, 11]);
    assert_eq!(counts(&in_phase(&calibrate(), Phase::Before)), [1, 1, 1]);
}

#[test]
fn gathers_of_what_came_before_are_not_counted_again_nor_fused_with_it() {
    let text = r#"
        before: {run: "echo ${{ matrix.a }}", matrix: {a: [1, 2]}, outputs: {o: f}}
        all: {needs: before, run: "cat ${{ needs.before.outputs.o }}", outputs: {o: f}}
        one: {needs: before, run: "a ${{ trial.x }} ${{ needs.before.outputs.o }}", outputs: {v: {json: f}}}
        two: {needs: before, run: "b ${{ trial.x }} ${{ needs.before.outputs.o }}", outputs: {v: {json: f}}}"#;
    let study = "study: {space: {x: {uniform: [0, 1]}}, sampler: random, trials: 3, minimize: \"${{ jobs.one.outputs.v }}\"}";
    let world = World::text(&format!("dagrun: 1\nname: t\n{study}\njobs:{text}\n"));
    let point = TrialPoint {
        number: 1,
        values: map(&[("x", Value::Float(0.5))]),
        replicates: None,
    };
    let plan = trial(&world, point);
    assert_eq!(counts(&plan), [2, 2, 1]);
    let groups: Vec<Vec<String>> = plan
        .nodes()
        .filter_map(|node| plan.group_of(node))
        .map(|group| {
            plan.group(group)
                .iter()
                .map(|node| plan.id(*node))
                .collect()
        })
        .collect();
    assert_eq!(groups, vec![vec!["one[trial=1]", "two[trial=1]"]; 2]);
    assert_eq!(counts(&in_phase(&world, Phase::Before)), [3, 3, 3]);
}

#[test]
fn scores_gather_the_replicates_of_their_trial_and_are_fused() {
    let plan = trial(&calibrate(), point(3, 0.25, 0.5));
    let node = score(&plan, "deaths");
    let read: Vec<String> = plan.upstream(node).map(|node| plan.id(node)).collect();
    let simulations = (0..5).map(|ix| format!("simulate[trial=3,replicate={ix}]"));
    assert_eq!(read, simulations.collect::<Vec<_>>());
    assert_eq!(
        plan.group_of(node),
        plan.group_of(score(&plan, "incidence"))
    );
    assert!(plan.group_of(node).is_some());
    let results = crate::world::all_succeed(&plan);
    let shown = staged(&action(&plan, "score[trial=3,target=deaths]", &results));
    assert_eq!(shown.len(), 5, "{shown:?}");
}

#[test]
fn a_key_sees_what_is_used_of_a_trial_and_not_its_number() {
    let base = trial(&calibrate(), point(1, 0.25, 0.5));
    let all = |plan: &Plan| (keys(plan, "simulate"), keys(plan, "score"));
    assert_eq!(all(&base), all(&trial(&calibrate(), point(7, 0.25, 0.5))));
    // `gamma` is not used by any recipe.
    assert_eq!(all(&base), all(&trial(&calibrate(), point(2, 0.25, 0.75))));
    let other = trial(&calibrate(), point(3, 0.75, 0.5));
    for (a, b) in keys(&base, "simulate").iter().zip(keys(&other, "simulate")) {
        assert_ne!(*a, b);
    }
    assert_ne!(keys(&base, "score"), keys(&other, "score"));
    // The whole of `trial` has all of its values.
    let whole = changed("${{ trial.beta }}", "'${{ toJSON(trial) }}'");
    let whole = |gamma| keys(&trial(&whole, point(1, 0.25, gamma)), "simulate");
    assert_ne!(whole(0.5), whole(0.75));
}

#[test]
fn points_of_a_need_do_not_bring_the_trial_into_keys() {
    let world = changed(
        "score ${{ matrix.target }}",
        "score '${{ toJSON(needs.simulate.points) }}' ${{ matrix.target }}",
    );
    let of = |number, gamma| keys(&trial(&world, point(number, 0.25, gamma)), "score");
    assert_eq!(of(1, 0.5), of(2, 0.75));
    let plan = trial(&world, point(1, 0.25, 0.5));
    let results = crate::world::all_succeed(&plan);
    let action = action(&plan, "score[trial=1,target=deaths]", &results);
    let text = format!("{:?}", action);
    assert!(
        text.contains(r#"[{\"replicate\":0},"#) || text.contains(r#"[{\\\"replicate\\\":0},"#),
        "{text}"
    );
}

#[test]
fn seeds_are_common_unless_they_are_asked_for_per_trial() {
    let seeds = |world: &World, point| {
        let plan = trial(world, point);
        let manifest = |replicate: u32| {
            let id = format!(
                "simulate[trial={},replicate={replicate}]",
                plan.trial().unwrap().number
            );
            let manifest = plan.manifest(node(&plan, &id), &Results::default());
            let seed = manifest
                .parts
                .iter()
                .find(|part| part.kind.name() == "seed");
            seed.expect("a seed").value.clone()
        };
        [0, 1, 2].map(manifest)
    };
    let common = calibrate();
    let first = seeds(&common, point(1, 0.25, 0.5));
    assert_eq!(first, seeds(&common, point(2, 0.75, 0.5)));
    let per_trial = changed(
        "replicates: ${{ params.n }}",
        "replicates: {n: 5, seeds: {policy: per_trial}}",
    );
    let a = seeds(&per_trial, point(1, 0.25, 0.5));
    assert_eq!(
        a,
        seeds(&per_trial, point(9, 0.25, 0.5)),
        "the number is no part of it"
    );
    assert_ne!(
        a,
        seeds(&per_trial, point(1, 0.25, 0.75)),
        "all parameters are"
    );
    assert_ne!(a, first);
}

#[test]
fn grown_trials_have_more_replicates_and_the_same_first_ones() {
    let world = changed(
        "replicates: ${{ params.n }}",
        "replicates: {n: 3, grow: {to: 5, when: \"${{ study.best == null || study.value < study.best.value * 2 }}\"}}",
    );
    let small = trial(&world, point(4, 0.25, 0.5));
    let grown = TrialPoint {
        replicates: small.grow_to(),
        ..point(4, 0.25, 0.5)
    };
    let large = trial(&world, grown);
    assert_eq!(keys(&small, "simulate"), keys(&large, "simulate")[..3]);
    assert_eq!(keys(&large, "simulate").len(), 5);
    assert_ne!(keys(&small, "score"), keys(&large, "score"));

    let results = Results::default();
    let study = |value: f64, best: Value| {
        Value::Map(map(&[("value", Value::Float(value)), ("best", best)]))
    };
    let best = |value: f64| Value::Map(map(&[("value", Value::Float(value))]));
    let grows = |plan: &Plan, study| plan.grow(&results, &study).expect("a boolean");
    assert!(grows(&small, study(1.0, Value::Null)));
    assert!(grows(&small, study(1.0, best(0.75))));
    assert!(!grows(&small, study(1.0, best(0.25))));
    assert!(
        !grows(&large, study(1.0, Value::Null)),
        "it has grown already"
    );
    assert!(!grows(
        &trial(&calibrate(), point(1, 0.5, 0.5)),
        study(1.0, Value::Null)
    ));
}

#[test]
fn without_deduplication_each_target_has_its_own_simulations() {
    let world = calibrate();
    let apart = world.clone().with(|options| options.apart = true);
    assert_eq!(counts(&trial(&world, point(1, 0.25, 0.5))), [12, 7, 6]);
    let plan = trial(&apart, point(1, 0.25, 0.5));
    assert_eq!(counts(&plan), [12, 12, 12]);
    let second = "simulate[trial=1,replicate=3,copy=1]";
    let (own, copy) = (
        node(&plan, "simulate[trial=1,replicate=3]"),
        node(&plan, second),
    );
    assert_eq!(plan.id(copy), second);
    let deaths: Vec<_> = plan.upstream(score(&plan, "deaths")).collect();
    let incidence: Vec<_> = plan.upstream(score(&plan, "incidence")).collect();
    assert!(deaths.contains(&copy) && !deaths.contains(&own));
    assert!(incidence.contains(&own) && !incidence.contains(&copy));

    // They do the same, and yet none takes the result of another: neither here nor of another trial with the same values.
    let results = crate::world::all_succeed(&plan);
    let digest = |plan: &Plan, node| plan.action_digest(node, &results).unwrap().unwrap();
    let [first, again] = [own, copy].map(|node| plan.action(node, &results).unwrap());
    assert_eq!(
        (&first.commands, &first.inputs),
        (&again.commands, &again.inputs)
    );
    assert_ne!(digest(&plan, own), digest(&plan, copy));
    let other = trial(&apart, point(2, 0.25, 0.5));
    let same = node(&other, "simulate[trial=2,replicate=3]");
    assert_ne!(plan.key(own), other.key(same));
    // What ran before the trials is one node for all of them.
    let before = in_phase(&apart, Phase::Before);
    assert_eq!(keys(&before, "prepare"), keys(&plan, "prepare"));
    assert_eq!(keys(&before, "prepare"), keys(&other, "prepare"));
}

#[test]
fn growing_is_checked() {
    let check = |replicates: &str, expected: &str| {
        let world = changed("replicates: ${{ params.n }}", replicates);
        let world = world.with(|options| options.phase = Phase::Trial(point(1, 0.5, 0.5)));
        let errors = world.errors();
        assert!(
            errors.iter().any(|error| error.contains(expected)),
            "{errors:?}"
        );
    };
    check(
        "replicates: {n: \"${{ params.n }}\", grow: {to: \"${{ params.n }}\", when: \"${{ true }}\"}}",
        "`grow.to` is 5, and there are 5 replicates",
    );
    check(
        "replicates: {n: 2, seeds: {policy: list, values: [1, 2]}, grow: {to: \"${{ params.n }}\", when: \"${{ true }}\"}}",
        "2 seeds are listed for 5 replicates",
    );
}

#[test]
fn parameters_that_are_not_active_are_null() {
    let world = changed("${{ trial.beta }}", "${{ default(trial.beta, 'none') }}");
    let world = World::text(&world.text.replace(
        "beta: {uniform: [0, 1]}, gamma: {uniform: [0, 1]}, season: {choice: [flat, monsoon]}",
        "season: {choice: [flat, monsoon]}, gamma: {uniform: [0, 1]}, beta: {uniform: [0, 1], when: \"${{ trial.season == 'monsoon' }}\"}",
    ))
    .file("data/cases.csv", "1");
    let with = |beta: Value| {
        let values = map(&[
            ("season", Value::str("flat")),
            ("gamma", Value::Float(0.5)),
            ("beta", beta),
        ]);
        keys(
            &trial(
                &world,
                TrialPoint {
                    number: 1,
                    values,
                    replicates: None,
                },
            ),
            "simulate",
        )
    };
    assert_eq!(with(Value::Null), with(Value::Null));
    assert_ne!(with(Value::Null), with(Value::Float(0.5)));
}

#[test]
fn a_changed_target_changes_its_own_key_alone() {
    let base = trial(&calibrate(), point(1, 0.25, 0.5));
    let check = |world: World, simulation: bool, incidence: bool, objective: bool| {
        let plan = trial(&world, point(1, 0.25, 0.5));
        let same = [
            base.simulation_key() == plan.simulation_key(),
            base.key(score(&base, "incidence")) == plan.key(score(&plan, "incidence")),
            base.objective_key() == plan.objective_key(),
        ];
        assert_eq!(same, [simulation, incidence, objective], "{}", world.text);
    };
    check(calibrate(), true, true, true);
    check(changed("deaths]", "mortality]"), true, true, false);
    check(changed("run: score", "run: score2"), true, false, false);
    check(
        changed("run: simulate", "run: simulate2"),
        false,
        false,
        false,
    );
    check(calibrate().param("weight", "2"), true, true, false);
    check(
        changed("params.weight * sum(", "params.weight  *  sum( "),
        true,
        true,
        true,
    );
    check(changed("* sum(", "* max("), true, true, false);
    check(changed("minimize", "maximize"), true, true, false);
    check(calibrate().param("n", "6"), false, false, false);
}

#[test]
fn objectives_read_scores_and_scores_read_simulations() {
    let plan = trial(&calibrate(), point(1, 0.25, 0.5));
    let named = |nodes: Vec<NodeIx>| {
        nodes
            .into_iter()
            .map(|node| plan.id(node))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        named(plan.objective_nodes()),
        [
            "score[trial=1,target=incidence]",
            "score[trial=1,target=deaths]"
        ]
    );
    let simulations = (0..5).map(|ix| format!("simulate[trial=1,replicate={ix}]"));
    assert_eq!(
        named(plan.simulation_nodes()),
        simulations.collect::<Vec<_>>()
    );
    // Where an objective reads the simulation itself there is nothing that could be scored again.
    let world = changed(
        "{series: series.csv}",
        "{series: series.csv, loss: {json: l.json}}",
    );
    let world = World::text(
        &world
            .text
            .replace("jobs.score.outputs.loss", "jobs.simulate.outputs.loss"),
    )
    .file("data/cases.csv", "1");
    let plan = trial(&world, point(1, 0.25, 0.5));
    assert_eq!(plan.objective_nodes(), plan.simulation_nodes());
}

fn come_to(world: &World, results: impl FnOnce(&Plan) -> Results) -> Result<TrialValues, String> {
    let plan = trial(world, point(12, 0.25, 0.5));
    plan.trial_objective(&results(&plan))
        .map_err(|cause| cause.to_string())
}

#[test]
fn a_trial_comes_to_its_objectives_and_constraints() {
    let world = changed(
        "  minimize:",
        "  constraints: [\"${{ max(jobs.score.outputs.loss) - 1 }}\", \"${{ trial.beta > 0.5 }}\", \"${{ trial.beta > 0 }}\"]\n  maximize: {spread: \"${{ trial.gamma + max(jobs.score.outputs.loss) }}\"}\n  minimize:",
    );
    let world = World::text(&world.text.replace("study.best.params.beta", "study.failed"))
        .file("data/cases.csv", "1");
    let scored = |plan: &Plan| scored(plan, [1.5.into(), 2.into()]);
    let mut values = come_to(&world, scored).expect("values");
    values.values.sort_by(f64::total_cmp);
    assert_eq!(
        values,
        TrialValues {
            values: vec![2.5, 3.5],
            violation: 2.0
        }
    );
    assert_eq!(
        come_to(&calibrate(), scored),
        Ok(TrialValues {
            values: vec![3.5],
            violation: 0.0
        })
    );
}

#[test]
fn a_job_without_other_axes_gives_a_scalar() {
    let world = changed("    matrix: {target: [incidence, deaths]}\n", "");
    let text = world.text.replace("${{ matrix.target }}", "").replace(
        "params.weight * sum(jobs.score.outputs.loss)",
        "jobs.score.outputs.loss * 2",
    );
    let world = World::text(&text).file("data/cases.csv", "1");
    let plan = trial(&world, point(12, 0.25, 0.5));
    let mut results = crate::world::all_succeed(&plan);
    results.succeed(
        node(&plan, "score[trial=12]"),
        [("loss", value(1.25.into()))],
    );
    let values = plan.trial_objective(&results).expect("values");
    assert_eq!(values.values, [2.5]);
    results.end(node(&plan, "score[trial=12]"), UpstreamEnd::Failed);
    let error = plan
        .trial_objective(&results)
        .expect_err("no value")
        .to_string();
    assert_eq!(
        error,
        "objective `loss` has no value: `score[trial=12]` failed"
    );
}

#[test]
fn a_trial_without_a_number_says_which_node_is_to_blame() {
    let check = |losses: [serde_json::Value; 2], expected: &str| {
        let error = come_to(&calibrate(), |plan| scored(plan, losses)).expect_err("no number");
        assert_eq!(error, expected);
    };
    check(
        [1.0.into(), "NaN".into()],
        "objective `loss` is NaN: `score[trial=12,target=deaths]` gave NaN",
    );
    check(
        [serde_json::Value::Null, "x".into()],
        "objective `loss` has no value: `sum` needs numbers, and one of them is null: `score[trial=12,target=incidence]` gave null, and 1 more are no numbers",
    );
    check([1e308.into(), 1e308.into()], "objective `loss` is Infinity");
    let end = |end: UpstreamEnd| {
        come_to(&calibrate(), |plan| {
            let mut results = scored(plan, [1.into(), 2.into()]);
            results.end(score(plan, "deaths"), end);
            results
        })
    };
    let failed = "objective `loss` has no value: `score[trial=12,target=deaths]`";
    assert_eq!(end(UpstreamEnd::Failed), Err(format!("{failed} failed")));
    assert_eq!(
        end(UpstreamEnd::Cancelled),
        Err(format!("{failed} was stopped"))
    );
    assert_eq!(
        end(UpstreamEnd::Skipped),
        Err(format!(
            "{failed} was not run, because a node before it failed"
        ))
    );
    // A target that does not apply is left out, as from a gather.
    let values = end(UpstreamEnd::ConditionFalse).expect("values");
    assert_eq!(values.values, [1.0]);
    let optional = come_to(&calibrate(), |plan| {
        let mut results = scored(plan, [1.into(), 2.into()]);
        results.succeed(score(plan, "deaths"), [("other", file(""))]);
        results
    });
    assert_eq!(
        optional,
        Err(format!("{failed} has not written its output `loss`"))
    );
    let none = come_to(&calibrate(), |plan| {
        let mut results = scored(plan, [1.into(), 2.into()]);
        for target in ["incidence", "deaths"] {
            results.end(score(plan, target), UpstreamEnd::ConditionFalse);
        }
        results
    });
    assert_eq!(
        none,
        Err("objective `loss` has no value: no node of job `score` has run".into())
    );
}

#[test]
fn a_missing_output_can_have_a_default() {
    let world = changed(
        "sum(jobs.score.outputs.loss)",
        "sum(default(jobs.score.outputs.loss, [99]))",
    );
    let values = come_to(&world, |plan| {
        let mut results = scored(plan, [1.into(), 2.into()]);
        results.end(score(plan, "deaths"), UpstreamEnd::Failed);
        results
    });
    assert_eq!(values.expect("values").values, [99.0]);
}

#[test]
fn enough_replicates_are_enough_for_an_objective() {
    let text = r#"
dagrun: 1
name: t
study: {space: {x: {uniform: [0, 1]}}, sampler: random, trials: 3, minimize: "${{ mean(jobs.sim.outputs.v) }}"}
jobs:
  sim: {run: "sim ${{ trial.x }} ${{ replicate.seed }}", replicates: {n: 4, min: 3}, outputs: {v: {json: f}}}
"#;
    let values = map(&[("x", Value::Float(0.5))]);
    let plan = trial(
        &World::text(text),
        TrialPoint {
            number: 1,
            values,
            replicates: None,
        },
    );
    let mut results = Results::default();
    for ix in 0..4 {
        let node = node(&plan, &format!("sim[trial=1,replicate={ix}]"));
        results.succeed(node, [("v", value(ix.into()))]);
    }
    results.end(node(&plan, "sim[trial=1,replicate=3]"), UpstreamEnd::Failed);
    assert_eq!(
        plan.trial_objective(&results).expect("a value").values,
        [1.0]
    );
    results.end(node(&plan, "sim[trial=1,replicate=1]"), UpstreamEnd::Failed);
    let error = plan
        .trial_objective(&results)
        .expect_err("too few")
        .to_string();
    assert_eq!(
        error,
        "objective `loss` has no value: `sim[trial=1,replicate=1]` failed; so is it with 1 more"
    );
}

#[test]
fn jobs_after_the_study_read_it() {
    let study = |beta: f64| {
        let params = Value::Map(map(&[("beta", Value::Float(beta))]));
        let best = Value::Map(map(&[("trial", Value::Int(3)), ("params", params)]));
        map(&[("table", Value::str("study.csv")), ("best", best)])
    };
    let world = calibrate().file("study.csv", "trial,beta");
    let plan = in_phase(&world, Phase::After(study(0.25)));
    assert_eq!(ids(&plan), ["plot"]);
    assert_eq!(counts(&plan), [1, 1, 1]);
    let action = action(&plan, "plot", &Results::default());
    assert!(format!("{:?}", action).contains("0.25"), "{action:?}");
    assert_eq!(staged(&action), ["study.csv <- study.csv"]);
    let other = in_phase(&world, Phase::After(study(0.5)));
    assert_ne!(keys(&plan, "plot"), keys(&other, "plot"));
}

#[test]
fn each_part_exports_what_is_its_own() {
    let world = calibrate().file("study.csv", "trial,beta");
    let targets = |phase: Phase| {
        let plan = in_phase(&world, phase);
        let exports = plan.exports().into_iter();
        exports
            .map(|export| format!("{} <- {}", export.target, plan.id(export.node)))
            .collect::<Vec<_>>()
    };
    assert_eq!(targets(Phase::Before), ["tables/table.csv <- prepare"]);
    assert_eq!(
        targets(Phase::Trial(point(12, 0.25, 0.5))),
        [
            "scores/trial=12,target=incidence.json <- score[trial=12,target=incidence]",
            "scores/trial=12,target=deaths.json <- score[trial=12,target=deaths]",
        ]
    );
    let best = Value::Map(map(&[(
        "params",
        Value::Map(map(&[("beta", Value::Float(0.5))])),
    )]));
    let study = map(&[("table", Value::str("study.csv")), ("best", best)]);
    assert_eq!(targets(Phase::After(study)), ["figure.svg <- plot"]);
    for phase in [Phase::Before, Phase::Trial(point(1, 0.25, 0.5))] {
        let world = world.clone().with(|options| options.phase = phase);
        assert_eq!(world.warnings(), Vec::<String>::new());
    }
}

#[test]
fn a_matrix_that_includes_points_keeps_them_in_a_trial() {
    let world = changed(
        "{target: [incidence, deaths]}",
        "{target: [incidence], include: [{target: deaths}, {target: incidence, note: x}]}",
    );
    let plan = trial(&world, point(2, 0.25, 0.5));
    assert_eq!(counts(&plan), [12, 7, 6]);
    assert_eq!(
        plan.id(score(&plan, "deaths")),
        "score[trial=2,target=deaths]"
    );
}

#[test]
fn nodes_of_a_trial_take_over_axes() {
    let world = changed(
        "    needs: simulate\n",
        "    needs: simulate\n    for_each: [replicate]\n",
    );
    let plan = trial(&world, point(2, 0.25, 0.5));
    let node = node(&plan, "score[trial=2,replicate=3,target=deaths]");
    let read: Vec<String> = plan.upstream(node).map(|node| plan.id(node)).collect();
    assert_eq!(read, ["simulate[trial=2,replicate=3]"]);
    assert_eq!(counts(&plan)[1], 15);
}

#[test]
fn a_study_runs_its_trials_whole_and_a_part_of_one_can_be_planned_beside_it() {
    let world = calibrate().with(|options| options.until = vec!["score".into()]);
    let errors = world.errors();
    assert!(
        errors[0].contains("job `score` is part of each trial"),
        "{errors:?}"
    );
    let world = calibrate().with(|options| options.until = vec!["prepare".into()]);
    assert_eq!(ids(&world.plan()), ["prepare"]);
    let whole = planner(&world)
        .trial(point(1, 0.5, 0.5))
        .expect("an expansion");
    let facts = world.facts(&whole.facts_needed());
    let (plan, _) = whole.finish(facts).expect("a plan");
    assert_eq!(counts(&plan), [12, 7, 6]);
    let world =
        calibrate().with(|options| options.until = vec!["simulate[trial=3,replicate=2]".into()]);
    let part = planner(&world)
        .trial_part(point(3, 0.5, 0.5))
        .expect("an expansion");
    let facts = world.facts(&part.facts_needed());
    let (plan, _) = part.finish(facts).expect("a plan");
    assert_eq!(ids(&plan), ["prepare", "simulate[trial=3,replicate=2]"]);
}

fn planner(world: &World) -> StudyPlanner {
    let parsed = dagrun_dsl::parse("pipeline.yaml", &world.text, &dagrun_dsl::NoFiles);
    let pipeline = Arc::new(parsed.pipeline.expect("a pipeline"));
    StudyPlanner::new(pipeline, world.options.clone())
}

/// Plans as a run does; says how often facts were asked for.
fn planned_in_turn(world: &World, points: Vec<TrialPoint>) -> usize {
    let planner = planner(world);
    let mut asked = 0;
    for point in points {
        let expansion = planner.trial(point.clone()).expect("an expansion");
        let facts = expansion.known_facts().unwrap_or_else(|| {
            asked += 1;
            Arc::new(world.facts(&expansion.facts_needed()))
        });
        let (plan, _) = expansion.finish(facts).expect("a plan");
        let alone = trial(world, point);
        assert_eq!(ids(&plan), ids(&alone));
        assert_eq!(plan.counts(), alone.counts());
        for node in plan.nodes() {
            assert_eq!(plan.key(node), alone.key(node), "{}", plan.id(node));
        }
        let results = crate::world::all_succeed(&plan);
        for node in plan.nodes() {
            let action = |plan: &Plan| plan.action(node, &results).expect("an action");
            assert_eq!(action(&plan), action(&alone));
        }
    }
    asked
}

#[test]
fn a_planner_gives_the_same_plans_and_asks_for_facts_once() {
    let grown = |point: TrialPoint| TrialPoint {
        replicates: Some(7),
        ..point
    };
    let points = || {
        let all = [(1, 0.25), (2, 0.5), (3, 0.25), (4, 0.75)];
        let mut points: Vec<_> = all.map(|(number, beta)| point(number, beta, 0.5)).into();
        points.insert(2, grown(point(2, 0.5, 0.5)));
        points.push(grown(point(4, 0.75, 0.5)));
        points
    };
    let n = "replicates: ${{ params.n }}";
    let grow = "replicates: {n: 3, grow: {to: 7, when: \"${{ true }}\"}}";
    // Once for each number of replicates: inputs may be named by it.
    assert_eq!(planned_in_turn(&changed(n, grow), points()), 2);
    let per_trial =
        "replicates: {n: 3, seeds: {policy: per_trial}, grow: {to: 7, when: \"${{ true }}\"}}";
    assert_eq!(planned_in_turn(&changed(n, per_trial), points()), 2);
    let inputs = format!("inputs: [\"data/${{{{ trial.season }}}}.csv\", data/]\n    {grow}");
    let world = changed(n, &inputs).file("data/flat.csv", "2");
    assert_eq!(planned_in_turn(&world, points()), 6);
    let named = format!(
        "inputs: {{a: data/, b: data/cases.csv, s: \"${{{{ trial.season }}}}.csv\"}}\n    {grow}"
    );
    let world = changed(n, &named).file("flat.csv", "2");
    assert_eq!(planned_in_turn(&world, points()), 6);
}

#[test]
fn a_missing_file_is_said_for_each_trial() {
    let world = World::text(
        CALIBRATE
            .replace("inputs: [data/]", "inputs: [nothing.csv]")
            .as_str(),
    );
    let planner = planner(&world);
    for number in [1, 2] {
        let expansion = planner
            .trial(point(number, 0.5, 0.5))
            .expect("an expansion");
        let facts = expansion.known_facts();
        let facts = facts.unwrap_or_else(|| world.facts(&expansion.facts_needed()).into());
        let errors = expansion
            .finish(facts)
            .map(|_| ())
            .expect_err("no such file");
        assert_eq!(errors[0].code, "missing-input");
    }
}

#[test]
fn a_manifest_names_the_values_of_the_trial_that_are_used() {
    let values = |world: &World| {
        let plan = trial(world, point(1, 0.25, 0.5));
        let node = node(&plan, "simulate[trial=1,replicate=0]");
        let parts = plan.manifest(node, &Results::default()).parts;
        let of_trial = parts.iter().filter(|part| part.name.starts_with("trial."));
        of_trial
            .map(|part| format!("{} {}", part.name, part.value))
            .collect::<Vec<_>>()
    };
    assert_eq!(values(&calibrate()), ["trial.beta 0.25"]);
    let whole = changed("${{ trial.beta }}", "'${{ toJSON(trial) }}'");
    assert_eq!(
        values(&whole),
        ["trial.beta 0.25", "trial.gamma 0.5", "trial.season flat"]
    );
}
