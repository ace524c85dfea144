//! `--only`, `--until`, `--from`, and finding nodes by their ids.

use dagrun_plan::{JobEdge, PlanOptions};

use crate::world::{World, ids};

const JOBS: &str = r#"
a: {matrix: {x: [1, 2]}, outputs: {o: o}, run: [a, "${{ matrix.x }}"]}
b: {needs: a, for_each: x, outputs: {o: o}, run: [b, "${{ needs.a.outputs.o }}", "${{ matrix.x }}"]}
c: {needs: b, run: [c, "${{ needs.b.outputs.o }}"]}
side: {needs: a, run: [side]}
alone: {run: [alone]}
"#;

fn check(change: impl FnOnce(&mut PlanOptions), expected: &[&str]) {
    let all = World::jobs(JOBS).plan();
    let plan = World::jobs(JOBS).with(change).plan();
    assert_eq!(ids(&plan), expected);
    for node in plan.nodes() {
        let id = plan.id(node);
        assert_eq!(
            Some(plan.key(node)),
            all.find(&id).map(|node| all.key(node)),
            "keys are the same as without"
        );
    }
}

#[test]
fn until_keeps_what_is_needed() {
    check(
        |o| o.until = vec!["b".into()],
        &["a[x=1]", "a[x=2]", "b[x=1]", "b[x=2]"],
    );
    check(|o| o.until = vec!["b[x=2]".into()], &["a[x=2]", "b[x=2]"]);
    check(
        |o| o.only = vec!["b[x=2]".into(), "alone".into()],
        &["a[x=2]", "b[x=2]", "alone"],
    );
}

#[test]
fn from_keeps_what_comes_after_and_what_that_needs() {
    check(
        |o| o.from = vec!["b[x=1]".into()],
        &["a[x=1]", "a[x=2]", "b[x=1]", "b[x=2]", "c"],
    );
    check(|o| o.from = vec!["alone".into()], &["alone"]);
    check(
        |o| {
            o.from = vec!["a[x=1]".into()];
            o.until = vec!["b".into()];
        },
        &["a[x=1]", "b[x=1]"],
    );
}

#[test]
fn unknown_names_are_errors() {
    for (name, expected) in [
        ("bb", "there is no job `bb`"),
        ("b[y=1]", "job `b` has no axis `y`"),
        ("b[x=7]", "the axis `x` of job `b` has no value `7`"),
        ("b[x=7]", "its values are 1, 2"),
        ("b[xx=1]", "did you mean `x`?"),
        ("alone[x=1]", "it has no axes: write `alone`"),
        ("b[x=1,x=2]", "the nearest is `b[x=1]`"),
        ("b[", "a selector is `job` or `job[axis=value,...]`"),
        ("b[x]", "a selector is `job` or `job[axis=value,...]`"),
        ("", "a selector is `job` or `job[axis=value,...]`"),
    ] {
        let errors = World::jobs(JOBS)
            .with(|o| o.until = vec![name.into()])
            .try_plan()
            .map(|_| ())
            .expect_err("no such node");
        let said = format!("{} {:?}", errors[0].message, errors[0].help);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn files_of_what_is_left_out_are_not_asked_for() {
    let world = World::jobs("a: {inputs: [gone.txt], run: [a]}\nb: {run: [b]}\n");
    assert!(world.try_plan().is_err());
    assert_eq!(
        ids(&world.with(|o| o.until = vec!["b".into()]).plan()),
        ["b"]
    );
}

#[test]
fn edges_between_jobs_are_counted() {
    let plan = World::jobs(JOBS).plan();
    let shown: Vec<String> = plan
        .job_edges()
        .into_iter()
        .map(
            |JobEdge {
                 from,
                 to,
                 edges,
                 data,
                 gather,
             }| {
                let name = |job| plan.pipeline().job(job).name.value.clone();
                format!(
                    "{} -> {}: {edges}, data {data}, gather {gather}",
                    name(from),
                    name(to)
                )
            },
        )
        .collect();
    assert_eq!(
        shown,
        [
            "a -> b: 2, data true, gather false",
            "b -> c: 2, data true, gather true",
            "a -> side: 2, data false, gather true",
        ]
    );
}

#[test]
fn ids_are_found_again() {
    let plan = World::jobs(JOBS).plan();
    for node in plan.nodes() {
        assert_eq!(plan.find(&plan.id(node)), Some(node));
    }
    for id in ["a", "a[x=3]", "a[y=1]", "none", "b[x=1,x=1]"] {
        assert_eq!(plan.find(id), None, "{id}");
    }
}
