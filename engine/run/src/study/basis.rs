//! What the trials of a study depend on beside their points, kept in its log: a study that refuses to go on names what has changed,
//! whatever the cache and the history still know.

use std::collections::BTreeMap;

use dagrun_model::{Digest, NodeIx};
use dagrun_plan::{Plan, TrialPoint};
use dagrun_study::{Basis, BasisPart, Study};
use rustc_hash::FxHashSet;

use super::{FactCache, plan_trial};
use crate::{board::Board, view::View};

/// Nodes of a trial that are looked at.
const NODES: usize = 1000;
/// Changes that are named.
const NAMED: usize = 3;
/// Parts that follow from others.
const FOLLOWING: [&str; 3] = ["need", "seed", "axis"];
/// How many nodes a job has.
const COUNT: &str = "nodes";

/// What a trial depends on. Inputs that other nodes make are left out: those nodes have parts of their own.
pub(crate) fn basis(plan: &Plan, trial: u64) -> Basis {
    let board = {
        let mut board = Board::new("basis");
        board.grow(plan.len());
        board
    };
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let mut values: BTreeMap<(&str, String, String), Vec<String>> = BTreeMap::new();
    for (at, node) in all_read(plan).into_iter().enumerate() {
        let job = View::job_name(plan, node);
        *counts.entry(job).or_default() += 1;
        if at >= NODES {
            continue;
        }
        for row in View::manifest(plan, node, &board) {
            if !FOLLOWING.contains(&row.kind.as_str()) {
                let of_part = values.entry((job, row.kind, row.name)).or_default();
                of_part.push(row.value);
            }
        }
    }
    let part = |job: &str, kind: &str, name: &str, value: String| BasisPart {
        job: job.to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        value,
    };
    let counts = counts.iter();
    let mut parts: Vec<BasisPart> = counts
        .map(|(job, n)| part(job, COUNT, "", n.to_string()))
        .collect();
    for ((job, kind, name), mut of_part) in values {
        of_part.sort_unstable();
        of_part.dedup();
        let value = match of_part.as_slice() {
            [only] => only.clone(),
            several => Digest::of(several.join("\n").as_bytes()).to_string(),
        };
        parts.push(part(job, &kind, &name, value));
    }
    for (kind, name, digest) in plan.objective_parts() {
        parts.push(part("", kind, &name, digest.to_string()));
    }
    Basis { trial, parts }
}

/// The nodes that objectives read, and all that these need.
fn all_read(plan: &Plan) -> Vec<NodeIx> {
    let mut open = plan.objective_nodes();
    let mut found: FxHashSet<NodeIx> = open.iter().copied().collect();
    while let Some(node) = open.pop() {
        open.extend(plan.upstream(node).filter(|it| found.insert(*it)));
    }
    let mut found: Vec<NodeIx> = found.into_iter().collect();
    found.sort_unstable();
    found
}

/// What is not as the study's log has it, in words; nothing where the log does not say, or nothing else is to be seen.
pub(super) fn what_changed(
    study: &Study,
    planner: &dagrun_plan::StudyPlanner,
    facts: &mut FactCache,
) -> Option<String> {
    let then = study.basis()?;
    let row = study.row(then.trial)?;
    let point = TrialPoint {
        number: row.trial,
        values: std::sync::Arc::new(study.definition().space.values(row.point)),
        replicates: None,
    };
    let plan = plan_trial(planner, point, facts, None).ok()?;
    let changes = changes(&then.parts, &basis(&plan, then.trial).parts);
    if changes.is_empty() {
        return None;
    }
    let more = changes.len().saturating_sub(NAMED);
    let mut text = changes[..changes.len() - more].join(", ");
    if more > 0 {
        text.push_str(&format!(", and {more} more"));
    }
    Some(text)
}

fn changes(then: &[BasisPart], now: &[BasisPart]) -> Vec<String> {
    let value = |parts: &[BasisPart], like: &BasisPart| {
        let mut parts = parts.iter();
        let same =
            parts.find(|it| (&it.job, &it.kind, &it.name) == (&like.job, &like.kind, &like.name));
        same.map(|it| it.value.clone())
    };
    let has_job = |parts: &[BasisPart], job: &str| parts.iter().any(|it| it.job == job);
    let mut changes = Vec::new();
    for part in now.iter().filter(|it| has_job(then, &it.job)) {
        match value(then, part) {
            Some(former) if former == part.value => {}
            former => changes.push(words(part, former.as_deref(), Some(&part.value))),
        }
    }
    for part in then.iter().filter(|it| has_job(now, &it.job)) {
        if value(now, part).is_none() {
            changes.push(words(part, Some(&part.value), None));
        }
    }
    for (parts, others, what) in [(now, then, "is new"), (then, now, "is gone")] {
        let jobs = parts.iter().filter(|it| it.kind == COUNT);
        let only = jobs.filter(|it| !has_job(others, &it.job));
        changes.extend(only.map(|it| format!("job `{}` {what}", it.job)));
    }
    changes
}

/// A change in words.
fn words(part: &BasisPart, then: Option<&str>, now: Option<&str>) -> String {
    let BasisPart {
        job, kind, name, ..
    } = part;
    if kind == COUNT {
        let count = |n: Option<&str>| n.unwrap_or("0").to_owned();
        let nodes = if then == Some("1") { "node" } else { "nodes" };
        return format!(
            "job `{job}` had {} {nodes} a trial and has {}",
            count(then),
            count(now)
        );
    }
    let what = match name.is_empty() {
        true => kind.clone(),
        false => format!("{kind} `{name}`"),
    };
    let how = match (then, now) {
        (None, _) => "is new",
        (_, None) => "is gone",
        _ => "changed",
    };
    match job.is_empty() {
        true => format!("{what} {how}"),
        false => format!("{what} {how} (job `{job}`)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(words: &str) -> BasisPart {
        let words: Vec<&str> = words.split(' ').collect();
        let [job, kind, name, value] = words[..] else {
            panic!("four words")
        };
        BasisPart {
            job: job.into(),
            kind: kind.into(),
            name: name.into(),
            value: value.into(),
        }
    }

    #[test]
    fn every_change_is_named_with_its_job() {
        let parts = |lines: &[&str]| lines.iter().map(|it| part(it)).collect::<Vec<_>>();
        let then = parts(&[
            "sim nodes  2",
            "old nodes  1",
            "sim command  a",
            "sim input m.py 1",
            "sim env A 1",
            "old command  x",
            " objective loss 1",
        ]);
        assert_eq!(changes(&then, &then), Vec::<String>::new());
        let now = parts(&[
            "sim nodes  3",
            "new nodes  1",
            "sim command  b",
            "sim input m.py 2",
            "sim param p 2",
            "new command  x",
            " objective loss 2",
        ]);
        assert_eq!(
            changes(&then, &now),
            [
                "job `sim` had 2 nodes a trial and has 3",
                "command changed (job `sim`)",
                "input `m.py` changed (job `sim`)",
                "param `p` is new (job `sim`)",
                "objective `loss` changed",
                "env `A` is gone (job `sim`)",
                "job `new` is new",
                "job `old` is gone",
            ]
        );
    }
}
