//! Joins and gathers against a slow reading of the rules, on random pipelines.

use std::collections::{BTreeMap, BTreeSet};

use dagrun_plan::Plan;
use proptest::prelude::*;

use crate::world::World;

/// A job of a random pipeline: sizes of its axes by letter, its needs, points it leaves out.
#[derive(Clone, Debug)]
struct RandomJob {
    axes: BTreeMap<char, u32>,
    needs: Vec<usize>,
    excluded: Vec<BTreeMap<char, u32>>,
    skipped: Option<(char, u32)>,
    reads: bool,
}

type Point = BTreeMap<char, u32>;

fn job(ix: usize) -> impl Strategy<Value = RandomJob> {
    let axes = proptest::collection::btree_map(
        prop_oneof![Just('p'), Just('q'), Just('r')],
        1u32..4,
        0..3,
    );
    let needs = proptest::collection::btree_set(0..ix.max(1), 0..=ix.min(2));
    (axes, needs, any::<(u8, u8, bool, u8)>()).prop_map(
        move |(axes, needs, (a, b, reads, skip))| {
            let pick = |by: u8| {
                let (axis, size) = axes.iter().nth(usize::from(by) % axes.len().max(1))?;
                Some((*axis, u32::from(by) % size + 1))
            };
            let excluded = match (pick(a), pick(b)) {
                (Some(one), Some(other)) if one.0 != other.0 => {
                    vec![[one, other].into_iter().collect()]
                }
                _ => Vec::new(),
            };
            RandomJob {
                needs: if ix == 0 {
                    Vec::new()
                } else {
                    needs.into_iter().collect()
                },
                excluded,
                skipped: (skip < 60).then(|| pick(skip)).flatten(),
                reads,
                axes,
            }
        },
    )
}

fn jobs() -> impl Strategy<Value = Vec<RandomJob>> {
    (job(0), job(1), job(2), job(3)).prop_map(|(a, b, c, d)| vec![a, b, c, d])
}

fn text(jobs: &[RandomJob]) -> String {
    jobs.iter()
        .enumerate()
        .map(|(ix, job)| one(ix, job))
        .collect()
}

fn one(ix: usize, job: &RandomJob) -> String {
    let mut text = String::new();
    text.push_str(&format!("j{ix}:\n  outputs: {{o: o}}\n"));
    let needs: Vec<String> = job
        .needs
        .iter()
        .map(|need| format!("{{job: j{need}, missing: drop}}"))
        .collect();
    text.push_str(&format!("  needs: [{}]\n", needs.join(", ")));
    let mut words = vec![format!("j{ix}")];
    if !job.axes.is_empty() {
        text.push_str("  matrix:\n");
        for (axis, size) in &job.axes {
            let values: Vec<String> = (1..=*size).map(|value| value.to_string()).collect();
            text.push_str(&format!("    {axis}: [{}]\n", values.join(", ")));
            words.push(format!("'${{{{ matrix.{axis} }}}}'"));
        }
        for point in &job.excluded {
            let axes: Vec<String> = point
                .iter()
                .map(|(axis, value)| format!("{axis}: {value}"))
                .collect();
            text.push_str(&format!("    exclude: [{{{}}}]\n", axes.join(", ")));
        }
    }
    if let Some((axis, value)) = job.skipped {
        text.push_str(&format!("  if: ${{{{ matrix.{axis} != {value} }}}}\n"));
    }
    if job.reads {
        words.extend(
            job.needs
                .iter()
                .map(|need| format!("'${{{{ needs.j{need}.outputs.o }}}}'")),
        );
    }
    text.push_str(&format!("  run: [{}]\n", words.join(", ")));
    text
}

/// The points of a job in plan order.
fn points(job: &RandomJob) -> Vec<Point> {
    let mut points = vec![Point::new()];
    for (axis, size) in &job.axes {
        points = points
            .into_iter()
            .flat_map(|point| {
                (1..=*size).map(move |value| {
                    let mut point = point.clone();
                    point.insert(*axis, value);
                    point
                })
            })
            .collect();
    }
    let out = |point: &Point| {
        job.excluded
            .iter()
            .any(|left| left.iter().all(|(axis, value)| point[axis] == *value))
    };
    points.retain(|point| !out(point));
    points
}

fn id(ix: usize, point: &Point) -> String {
    let axes: Vec<String> = point
        .iter()
        .map(|(axis, value)| format!("{axis}={value}"))
        .collect();
    match axes.is_empty() {
        true => format!("j{ix}"),
        false => format!("j{ix}[{}]", axes.join(",")),
    }
}

/// For each node the ids that each need gives it; cells that are no nodes are left out.
fn expected(jobs: &[RandomJob]) -> BTreeMap<String, Vec<Vec<String>>> {
    let mut nodes: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    for (ix, job) in jobs.iter().enumerate() {
        'points: for point in points(job) {
            if job
                .skipped
                .is_some_and(|(axis, value)| point[&axis] == value)
            {
                continue;
            }
            let mut given = Vec::new();
            for need in &job.needs {
                let upstream = &jobs[*need];
                let joined: Vec<Point> = points(upstream)
                    .into_iter()
                    .filter(|other| {
                        other
                            .iter()
                            .all(|(axis, value)| point.get(axis).is_none_or(|mine| mine == value))
                    })
                    .collect();
                if joined.is_empty() {
                    continue;
                }
                let live: Vec<String> = joined
                    .iter()
                    .map(|other| id(*need, other))
                    .filter(|id| nodes.contains_key(id))
                    .collect();
                if live.is_empty() {
                    continue 'points;
                }
                given.push(live);
            }
            nodes.insert(id(ix, &point), given);
        }
    }
    nodes
}

fn found(plan: &Plan) -> BTreeMap<String, Vec<Vec<String>>> {
    let mut nodes = BTreeMap::new();
    for node in plan.nodes() {
        let sets = plan.sets(node).iter();
        let given = sets.map(|set| {
            plan.members(*set)
                .iter()
                .map(|member| plan.id(*member))
                .collect()
        });
        nodes.insert(plan.id(node), given.collect());
    }
    nodes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plans_agree_with_the_rules(jobs in jobs()) {
        let plan = World::jobs(&text(&jobs)).plan();
        prop_assert_eq!(found(&plan), expected(&jobs), "{}", text(&jobs));
        check_delta(&plan);
        check_selection(&plan, &text(&jobs));
    }

    #[test]
    fn keys_do_not_depend_on_the_order_of_jobs(jobs in jobs()) {
        let plan = World::jobs(&text(&jobs)).plan();
        let turned: Vec<String> = (0..jobs.len()).rev().map(|ix| one(ix, &jobs[ix])).collect();
        let other = World::jobs(&turned.concat()).plan();
        prop_assert_eq!(keys(&plan), keys(&other));
    }

    #[test]
    fn without_deduplication_there_are_as_many_nodes_as_are_counted(jobs in jobs()) {
        let world = World::jobs(&text(&jobs));
        let counted = world.plan().counts().naive;
        let plan = world.with(|options| options.apart = true).plan();
        let counts = plan.counts();
        prop_assert_eq!([counts.naive, counts.nodes, counts.units], [counted; 3], "{}", text(&jobs));
        prop_assert_eq!(plan.len() as u64, counted);
        check_delta(&plan);
        let distinct: BTreeSet<_> = plan.nodes().map(|node| plan.key(node).0).collect();
        prop_assert_eq!(distinct.len() as u64, counted, "no node is another one");
        for node in plan.nodes() {
            prop_assert_eq!(plan.find(&plan.id(node)), Some(node));
        }
        // What a node gathers and reads, it alone gathers.
        let mut gathered = BTreeSet::new();
        for node in plan.nodes().filter(|node| !plan.is_copy(*node)) {
            let reads = jobs[plan.job(node).index()].reads;
            let gathers = plan.sets(node).iter().filter(|set| plan.members(**set).len() > 1);
            for member in gathers.filter(|_| reads).flat_map(|set| plan.members(*set)) {
                prop_assert!(gathered.insert(*member), "{}", plan.id(*member));
            }
        }
    }
}

fn keys(plan: &Plan) -> BTreeMap<String, dagrun_model::Digest> {
    let ids = plan
        .nodes()
        .flat_map(|node| plan.ids(node).into_iter().map(move |id| (id, node)));
    ids.map(|(id, node)| (id, plan.key(node))).collect()
}

/// What is left after a selection is what it was without.
fn check_selection(plan: &Plan, text: &str) {
    let all = (keys(plan), found(plan));
    for job in ["j1", "j3"] {
        let part = World::jobs(text)
            .with(|options| options.until = vec![job.into()])
            .plan();
        for (id, key) in keys(&part) {
            assert_eq!(all.0.get(&id), Some(&key), "{id}");
        }
        for (id, given) in found(&part) {
            assert_eq!(all.1.get(&id), Some(&given), "{id}");
        }
        let wanted = all.1.keys().filter(|id| id.starts_with(job)).count();
        assert_eq!(
            found(&part).keys().filter(|id| id.starts_with(job)).count(),
            wanted
        );
    }
}

/// What the scheduler relies on.
fn check_delta(plan: &Plan) {
    let delta = plan.delta();
    for (ix, node) in delta.nodes.iter().enumerate() {
        let (start, len) = node.sets;
        for set in &delta.node_sets[start as usize..(start + len) as usize] {
            let spec = &delta.sets[set.index()];
            let (start, len) = spec.members;
            let members = &delta.set_members[start as usize..(start + len) as usize];
            assert!(
                members.iter().all(|member| member.index() < ix),
                "everything that is read comes before"
            );
            assert!(spec.gather || members.len() == 1);
        }
        assert!((node.class as usize) < delta.classes.len());
    }
    for (ix, group) in delta.groups.iter().enumerate() {
        assert!(group.members.len() > 1);
        for member in &group.members {
            assert_eq!(
                delta.nodes[member.index()].group.map(|group| group.index()),
                Some(ix)
            );
        }
    }
}
