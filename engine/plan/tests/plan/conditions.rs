//! `if`, skipped cells, `min`, and what a node sees of failed ones.

use dagrun_model::{NodeIx, Trigger};
use dagrun_plan::{Plan, UpstreamEnd};

use crate::world::{Results, World, action, all_succeed, file, ids, node, value};

fn trigger(plan: &Plan, node: NodeIx) -> Trigger {
    plan.delta().nodes[node.index()].trigger
}

#[test]
fn cells_whose_if_is_false_drop_out_of_gathers() {
    let plan = World::jobs(
        r#"
a:
  matrix: {x: [1, 2, 3]}
  if: ${{ matrix.x != 2 }}
  outputs: {o: o}
  run: [a, "${{ matrix.x }}"]
each:
  needs: a
  for_each: x
  outputs: {o: o}
  run: [each, "${{ matrix.x }}"]
all:
  needs: a
  run: [all, "${{ needs.a.outputs.o }}", "${{ needs.a.points.*.x }}"]
late:
  needs: each
  if: ${{ always() }}
  for_each: x
  run: [late, "${{ matrix.x }}", "${{ needs.each.result }}"]
"#,
    )
    .plan();
    assert_eq!(plan.skipped(), ["a[x=2]", "each[x=2]"]);
    assert_eq!(
        ids(&plan),
        [
            "a[x=1]",
            "a[x=3]",
            "each[x=1]",
            "each[x=3]",
            "all",
            "late[x=1]",
            "late[x=2]",
            "late[x=3]"
        ]
    );
    let results = all_succeed(&plan);
    assert_eq!(
        action(&plan, "all", &results).commands[0].argv,
        ["all", "in/a.o/000000/o", "in/a.o/000001/o", "1", "3"]
    );
    let late = node(&plan, "late[x=2]");
    assert_eq!(trigger(&plan, late), Trigger::Terminal);
    assert_eq!(plan.condition(late, &results), Ok(true));
    assert_eq!(
        action(&plan, "late[x=2]", &results).commands[0].argv,
        ["late", "2", "skipped"]
    );
    assert_eq!(
        action(&plan, "late[x=3]", &results).commands[0].argv,
        ["late", "3", "success"]
    );
}

#[test]
fn a_gather_of_nothing_but_skipped_cells_is_skipped() {
    let plan = World::jobs(
        "a: {matrix: {x: [1, 2]}, if: '${{ matrix.x > 5 }}', run: [a, '${{ matrix.x }}']}\nb: {needs: a, run: [b]}\nc: {needs: b, run: [c]}\nd: {run: [d]}\n",
    )
    .plan();
    assert_eq!(plan.skipped(), ["a[x=1]", "a[x=2]", "b", "c"]);
    assert_eq!(ids(&plan), ["d"]);
}

#[test]
fn conditions_on_outputs_are_decided_when_needs_have_succeeded() {
    let plan = World::jobs(
        "a: {outputs: {v: {json: v.json}}, run: [a]}\nb: {needs: a, if: '${{ needs.a.outputs.v > 3 }}', run: [b]}\n",
    )
    .plan();
    let (a, b) = (node(&plan, "a"), node(&plan, "b"));
    assert_eq!(trigger(&plan, b), Trigger::Succeeded);
    for (number, expected) in [(2, false), (4, true)] {
        let mut results = Results::default();
        results.succeed(a, [("v", value(number.into()))]);
        assert_eq!(plan.condition(b, &results), Ok(expected), "{number}");
    }
    let mut results = Results::default();
    results.succeed(a, [("v", value("text".into()))]);
    assert!(plan.condition(b, &results).is_err());
}

#[test]
fn status_functions_look_at_all_that_came_before() {
    let plan = World::jobs(
        r#"
a: {run: [a]}
b: {needs: a, run: [b]}
ok: {needs: b, if: "${{ success() }}", run: [ok]}
bad: {needs: b, if: "${{ failure() }}", run: [bad]}
stopped: {needs: b, if: "${{ cancelled() }}", run: [stopped]}
any: {needs: b, if: "${{ always() }}", run: [any]}
"#,
    )
    .plan();
    let check = |a: UpstreamEnd, b: UpstreamEnd, expected: [bool; 4]| {
        let mut results = Results::default();
        for (id, end) in [("a", a), ("b", b)] {
            match end {
                UpstreamEnd::Succeeded => results.succeed(node(&plan, id), []),
                end => results.end(node(&plan, id), end),
            }
        }
        let found = ["ok", "bad", "stopped", "any"].map(|id| {
            plan.condition(node(&plan, id), &results)
                .expect("a condition")
        });
        assert_eq!(found, expected, "{a:?} {b:?}");
    };
    use UpstreamEnd::{Cancelled, ConditionFalse, Failed, Skipped, Succeeded};
    check(Succeeded, Succeeded, [true, false, false, true]);
    check(Succeeded, Failed, [false, true, false, true]);
    check(Failed, Skipped, [false, true, false, true]);
    check(Succeeded, Cancelled, [false, false, true, true]);
    check(ConditionFalse, Skipped, [false, false, false, true]);
}

#[test]
fn continue_on_error_counts_as_success() {
    let plan = World::jobs(
        "a: {continue_on_error: true, run: [a]}\nb: {needs: a, if: \"${{ needs.a.result == 'success' && success() }}\", run: [b]}\n",
    )
    .plan();
    let mut results = Results::default();
    results.end(node(&plan, "a"), UpstreamEnd::Failed);
    assert_eq!(plan.condition(node(&plan, "b"), &results), Ok(true));
}

#[test]
fn min_lets_a_gather_go_on_with_those_that_succeeded() {
    let plan = World::jobs(
        r#"
a: {replicates: {n: 4, min: 3}, outputs: {o: "o-${{ replicate.index }}"}, run: [a]}
b: {needs: a, inputs: {all: "${{ needs.a.outputs.o }}"}, run: [b, "${{ inputs.all }}", "${{ needs.a.points.*.replicate }}"]}
"#,
    )
    .plan();
    assert_eq!(plan.delta().sets[0].min, Some(3));
    let mut results = Results::default();
    for ix in [0, 2, 3] {
        results.succeed(
            node(&plan, &format!("a[replicate={ix}]")),
            [("o", file(&ix.to_string()))],
        );
    }
    let partial = plan.action_digest(node(&plan, "b"), &results);
    results.end(node(&plan, "a[replicate=1]"), UpstreamEnd::Failed);
    assert_eq!(
        action(&plan, "b", &results).commands[0].argv,
        [
            "b",
            "in/all/000000/o-0",
            "in/all/000001/o-2",
            "in/all/000002/o-3",
            "0",
            "2",
            "3"
        ]
    );
    let complete = all_succeed(&plan);
    assert_ne!(plan.action_digest(node(&plan, "b"), &complete), partial);
}

#[test]
fn a_need_may_say_its_own_min() {
    let plan = World::jobs(
        "a: {matrix: {x: [1, 2, 3]}, run: [a, '${{ matrix.x }}']}\nb: {needs: [{job: a, min: 2}], run: [b]}\n",
    )
    .plan();
    let delta = plan.delta();
    assert_eq!((delta.sets[0].gather, delta.sets[0].min), (true, Some(2)));
}

#[test]
fn nodes_with_different_conditions_are_not_merged() {
    let plan = World::jobs(
        "a: {outputs: {v: {json: v.json}}, run: [a]}\nb: {needs: a, run: [x]}\nc: {needs: a, if: '${{ needs.a.outputs.v > 3 }}', run: [x]}\n",
    )
    .plan();
    assert_eq!(ids(&plan), ["a", "b", "c"]);
}
