//! Where the time of a run went, by job and by phase.

use std::collections::BTreeMap;

use dagrun_events::{AttemptOutcome, AttemptRow, AttemptSummary, NodeOutcome, NodeRow, RunState};
use dagrun_model::{LogRef, Phases};
use rustc_hash::FxHashMap;
use serde_json::{Value, json};

use crate::plural;

/// A run in figures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// The jobs in the order of the pipeline; jobs that the journal does not list, in the order in which they were first heard of.
    pub jobs: Vec<JobStatistics>,
    /// Seconds that attempts took in all, without queueing.
    pub busy: f64,
    /// Seconds in each phase, of all attempts.
    pub phases: Phases,
    /// `busy`, without what attempts did before they were taken over from an earlier run, over the seconds that slots were there; none
    /// where nothing ran.
    pub utilisation: Option<f64>,
    /// The attempts that took longest: node and seconds, at most ten.
    pub slowest: Vec<(String, f64)>,
    /// The chain of nodes that ended last, each with the seconds from its first start to its end: with any number of slots,
    /// the run can only be shorter if one of these is.
    pub critical_path: Vec<(String, f64)>,
}

/// A job in figures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobStatistics {
    /// Its name.
    pub name: String,
    /// Attempts that ended.
    pub attempts: u64,
    /// Attempts under way when the journal ended.
    pub running: u64,
    /// Nodes taken from the cache.
    pub cached: u64,
    /// Attempts that failed or timed out.
    pub unsuccessful: u64,
    /// Attempts that their worker or host failed.
    pub lost: u64,
    /// Attempts that were told to stop: they did not fail.
    pub cancelled: u64,
    /// Nodes that failed.
    pub failed_nodes: u64,
    /// Nodes that did not run because of another, or because their `if` is false.
    pub skipped: u64,
    /// Seconds of each attempt without queueing, sorted.
    pub seconds: Vec<f64>,
    /// Seconds in each phase, of all attempts.
    pub phases: Phases,
    /// CPU seconds in all.
    pub cpu: f64,
    /// The greatest peak memory of one attempt, in bytes.
    pub peak_memory: u64,
    /// Bytes of inputs staged.
    pub bytes_in: u64,
    /// Bytes of outputs stored.
    pub bytes_out: u64,
}

impl JobStatistics {
    /// The `q`-quantile (0 to 1) of the seconds: the smallest value that at least a share `q` of the attempts do not exceed.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        quantile(&self.seconds, q)
    }

    /// The mean of the seconds.
    pub fn mean(&self) -> Option<f64> {
        let n = self.seconds.len();
        (n > 0).then(|| self.seconds.iter().sum::<f64>() / n as f64)
    }
}

/// How many attempts a run has started, and of how many of them nothing came that counts: with more of them than nodes ran, a reader
/// sees where the others are.
pub fn attempts_text(state: &RunState) -> String {
    let of = |outcome: AttemptOutcome| {
        let results = state.attempts.iter().filter_map(|it| it.result.as_ref());
        results.filter(|result| result.outcome == outcome).count()
    };
    let without = [
        (of(AttemptOutcome::Cancelled), "cancelled"),
        (of(AttemptOutcome::Lost), "lost"),
    ];
    let without: Vec<String> = (without.iter().filter(|(n, _)| *n > 0))
        .map(|(n, word)| format!("{n} {word}"))
        .collect();
    let attempts = plural(state.executed, "attempt");
    match without.is_empty() {
        true => attempts,
        false => format!("{attempts} ({})", without.join(", ")),
    }
}

/// The `q`-quantile (0 to 1) of sorted values: the smallest one that at least a share `q` of them do not exceed.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let rank = (q * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank - 1).or(sorted.last()).copied()
}

impl Statistics {
    /// The jobs as a person wants to see them: those with failures, then those that were not finished, then the others.
    pub fn jobs_by_concern(&self) -> Vec<&JobStatistics> {
        let mut jobs: Vec<&JobStatistics> = self.jobs.iter().collect();
        jobs.sort_by_key(|job| match job {
            job if job.failed_nodes > 0 => 0,
            job if job.running + job.cancelled > 0 => 1,
            _ => 2,
        });
        jobs
    }

    /// About how many seconds of work the cache saved: hits, each at its job's mean time in this run, else in former ones
    /// (`paces`: mean seconds by job). None where a job with hits has no time at all.
    pub fn saved(&self, paces: &BTreeMap<String, f64>) -> Option<f64> {
        let hits = self.jobs.iter().filter(|job| job.cached > 0);
        hits.map(|job| {
            let pace = job.mean().or_else(|| paces.get(&job.name).copied());
            pace.map(|pace| job.cached as f64 * pace)
        })
        .sum()
    }
}

/// The figures of a run.
pub fn statistics(state: &RunState) -> Statistics {
    let mut figures = Statistics::default();
    let mut at = FxHashMap::default();
    for job in &state.jobs {
        job_at(&mut figures, &mut at, job);
    }
    for node in &state.nodes {
        let ix = job_at(&mut figures, &mut at, job_of(&node.id));
        let job = &mut figures.jobs[ix];
        match node.outcome {
            Some(NodeOutcome::Cached) => job.cached += 1,
            Some(NodeOutcome::Failed) => job.failed_nodes += 1,
            Some(NodeOutcome::Skipped | NodeOutcome::ConditionFalse) => job.skipped += 1,
            _ => {}
        }
    }
    for id in &state.skipped {
        let ix = job_at(&mut figures, &mut at, job_of(id));
        figures.jobs[ix].skipped += 1;
    }
    let mut here = 0.0;
    for attempt in &state.attempts {
        let id = &state.nodes[attempt.node].id;
        let job = &mut figures.jobs[at[job_of(id)]];
        let Some(result) = &attempt.result else {
            job.running += u64::from(state.exit_code.is_none());
            continue;
        };
        let seconds = result.phases.busy();
        job.attempts += 1;
        match result.outcome {
            AttemptOutcome::Succeeded => {}
            AttemptOutcome::Cancelled => job.cancelled += 1,
            AttemptOutcome::Failed | AttemptOutcome::TimedOut => job.unsuccessful += 1,
            AttemptOutcome::Lost => job.lost += 1,
        }
        job.seconds.push(seconds);
        job.cpu += result.usage.cpu;
        job.peak_memory = job.peak_memory.max(result.usage.peak_memory);
        job.bytes_in += result.usage.bytes_in;
        job.bytes_out += result.usage.bytes_out;
        add(&mut job.phases, &result.phases);
        add(&mut figures.phases, &result.phases);
        figures.busy += seconds;
        here += seconds * attempt.part_in_run();
        figures.slowest.push((id.clone(), seconds));
    }
    for job in &mut figures.jobs {
        job.seconds.sort_by(f64::total_cmp);
    }
    figures
        .slowest
        .sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    figures.slowest.truncate(10);
    let there = state.slot_seconds();
    if there > 0.0 && figures.busy > 0.0 {
        figures.utilisation = Some(here / there);
    }
    figures.critical_path = critical_path(state);
    figures
}

fn job_at<'s>(
    figures: &mut Statistics,
    at: &mut FxHashMap<&'s str, usize>,
    name: &'s str,
) -> usize {
    *at.entry(name).or_insert_with(|| {
        figures.jobs.push(JobStatistics {
            name: name.into(),
            ..JobStatistics::default()
        });
        figures.jobs.len() - 1
    })
}

/// The hosts of a run as JSON.
pub(crate) fn hosts_json(hosts: &[(String, f64)]) -> Value {
    let rows = hosts.iter();
    rows.map(|(host, slots)| json!({"host": host, "slots": slots}))
        .collect()
}

/// The hosts of a run by name, each with the most slots that it had at a time: a worker that was lost and came back counts once.
pub(crate) fn hosts_of(state: &RunState) -> Vec<(String, f64)> {
    let mut hosts: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for worker in state.workers.values() {
        let (from, to) = state.presence(worker);
        let changes = [(from, worker.slots), (to, -worker.slots)];
        hosts.entry(&worker.host).or_default().extend(changes);
    }
    let most = |mut changes: Vec<(f64, f64)>| {
        // Who goes at the time at which another one comes has gone before.
        changes.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let mut now = 0.0;
        let there = changes.into_iter().map(|(_, by)| {
            now += by;
            now
        });
        there.fold(0.0, f64::max)
    };
    hosts
        .into_iter()
        .map(|(host, changes)| (host.to_owned(), most(changes)))
        .collect()
}

fn last_result<'s>(state: &'s RunState, node: &NodeRow) -> Option<&'s AttemptSummary> {
    state.last_attempt(node)?.result.as_ref()
}

/// What the last attempt of a node wrote to its standard error.
pub(crate) fn stderr<'s>(state: &'s RunState, node: &NodeRow) -> Option<&'s LogRef> {
    last_result(state, node)?.stderr.as_ref()
}

pub(crate) fn add(sum: &mut Phases, phases: &Phases) {
    add_part(sum, phases, 1.0);
}

/// Adds a part of each phase.
pub(crate) fn add_part(sum: &mut Phases, phases: &Phases, part: f64) {
    sum.queue += phases.queue * part;
    sum.start += phases.start * part;
    sum.fetch += phases.fetch * part;
    sum.decode += phases.decode * part;
    sum.compute += phases.compute * part;
    sum.encode += phases.encode * part;
    sum.store += phases.store * part;
}

/// The phases in which something happens, in the order in which they do.
pub(crate) fn steps(phases: &Phases) -> [(&'static str, f64); 6] {
    [
        ("fetch", phases.fetch),
        ("start", phases.start),
        ("decode", phases.decode),
        ("compute", phases.compute),
        ("encode", phases.encode),
        ("store", phases.store),
    ]
}

/// Failed nodes of the same job for the same reason, in the order of the first of each, with that reason. Nodes of trials are
/// not among them, unless their study has failed: a trial that failed is a value.
pub fn failure_groups(state: &RunState) -> Vec<(Vec<&NodeRow>, String)> {
    grouped(state.nodes.iter().filter_map(|node| {
        let why = why_failed(state, node).filter(|_| !is_value(state, node))?;
        Some((node, why))
    }))
}

/// Nodes of the same job that lost an attempt on the same host for the same reason, in the order of the first of each, with both.
pub fn loss_groups(state: &RunState) -> Vec<(Vec<&NodeRow>, String)> {
    grouped(state.nodes.iter().flat_map(|node| {
        losses_of(state, node).map(move |(attempt, result)| {
            let host = state.workers.get(&attempt.worker).map(|it| &it.host);
            let on = host.map_or(String::new(), |host| format!(" on {host}"));
            let cause = result.cause.as_ref();
            let why = cause.map_or("lost".to_owned(), ToString::to_string);
            (node, format!("an attempt{on}: {why}"))
        })
    }))
}

/// Nodes of the same job with the same words, each once, in the order of the first of each.
fn grouped<'s>(
    rows: impl Iterator<Item = (&'s NodeRow, String)>,
) -> Vec<(Vec<&'s NodeRow>, String)> {
    let mut groups: Vec<(Vec<&NodeRow>, String)> = Vec::new();
    let mut at = BTreeMap::new();
    for (node, words) in rows {
        let group = *at
            .entry((job_of(&node.id), words.clone()))
            .or_insert(groups.len());
        if group == groups.len() {
            groups.push((Vec::new(), words));
        }
        let nodes = &mut groups[group].0;
        if nodes.last().is_none_or(|last| last.id != node.id) {
            nodes.push(node);
        }
    }
    groups
}

/// The attempts at a node that were lost, and how.
pub(crate) fn losses_of<'s>(
    state: &'s RunState,
    node: &'s NodeRow,
) -> impl Iterator<Item = (&'s AttemptRow, &'s AttemptSummary)> {
    let attempts = node.attempts.iter().map(|at| &state.attempts[*at]);
    let ended = attempts.filter_map(|attempt| Some((attempt, attempt.result.as_ref()?)));
    ended.filter(|(_, result)| result.outcome == AttemptOutcome::Lost)
}

/// Whether a node's failure is a value of the study, and none of the run.
pub(crate) fn is_value(state: &RunState, node: &NodeRow) -> bool {
    let study = state.study.as_ref();
    study.is_some_and(|study| !study.has_failed()) && state.trial_of(node).is_some()
}

/// Why a node failed, in one fragment; none where it did not fail.
pub(crate) fn why_failed(state: &RunState, node: &NodeRow) -> Option<String> {
    if node.outcome != Some(NodeOutcome::Failed) {
        return None;
    }
    Some(match (last_result(state, node), &node.cause) {
        (Some(result), _) => result.describe(),
        (None, Some(cause)) => cause.to_string(),
        (None, None) => "failed".into(),
    })
}

/// Follows back from the node that ended last which need it had waited for.
fn critical_path(state: &RunState) -> Vec<(String, f64)> {
    let ran = |node: &&NodeRow| !node.attempts.is_empty() && node.outcome.is_some();
    let by_end = |a: &&NodeRow, b: &&NodeRow| a.done_at.total_cmp(&b.done_at);
    let mut at = state.nodes.iter().filter(ran).max_by(by_end);
    let mut path = Vec::new();
    while let Some(node) = at
        && path.len() < state.nodes.len()
    {
        let first = &state.attempts[node.attempts[0]];
        path.push((node.id.clone(), (node.done_at - first.started).max(0.0)));
        let need = first.after.as_deref().and_then(|id| state.find(id));
        at = need.filter(ran);
    }
    path.reverse();
    path
}

/// The job of a logical id.
pub fn job_of(id: &str) -> &str {
    id.split('[').next().unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use dagrun_events::{NodeOutcome, RunEvent};
    use dagrun_model::{AttemptResult, FailureCause, Outcome};

    use super::*;
    use crate::kit::{done, ended, fold, start};

    #[test]
    fn the_critical_path_is_the_chain_that_ended_last() {
        let state = fold([
            (0.0, start("a", 1, None)),
            (0.0, start("b", 2, None)),
            (1.0, done("a", NodeOutcome::Succeeded)),
            (4.0, done("b", NodeOutcome::Succeeded)),
            (4.0, start("c", 3, Some("b"))),
            (6.0, done("c", NodeOutcome::Succeeded)),
        ]);
        let path = statistics(&state).critical_path;
        assert_eq!(path, [("b".to_string(), 4.0), ("c".to_string(), 2.0)]);
    }

    #[test]
    fn a_host_counts_the_slots_that_it_had_at_a_time() {
        let joined = |worker: u32, host: &str, process: &str| RunEvent::WorkerJoined {
            worker,
            host: host.into(),
            slots: 4.0,
            memory: 0,
            process: process.into(),
        };
        let lost = |worker: u32| RunEvent::WorkerLost {
            worker,
            reason: "gone".into(),
        };
        let run = |process: &str| {
            fold([
                (0.0, RunEvent::RunStarted(Box::default())),
                (1.0, joined(0, "a", process)),
                (1.0, joined(1, "b", process)),
                (1.0, joined(2, "b", process)),
                (3.0, lost(0)),
                (3.0, joined(3, "a", process)),
                (4.0, lost(3)),
                (6.0, joined(4, "a", process)),
                (8.0, done("x", NodeOutcome::Succeeded)),
            ])
        };
        let expected = [("a".to_owned(), 4.0), ("b".to_owned(), 8.0)];
        for process in ["p", ""] {
            let state = run(process);
            assert_eq!(hosts_of(&state), expected, "{process:?}");
        }
        // A worker that is started again after another died was not there before.
        let seconds = run("").slot_seconds();
        assert_eq!(seconds, 4.0 * (3.0 + 8.0 + 8.0 + 1.0 + 2.0));
    }

    #[test]
    fn jobs_stand_in_the_order_of_the_pipeline_and_concerns_come_first() {
        let planned = RunEvent::Planned {
            counts: Default::default(),
            warnings: Vec::new(),
            skipped: Vec::new(),
            jobs: vec!["z".into(), "b".into()],
        };
        let figures = statistics(&fold(
            [
                planned,
                done("b", NodeOutcome::Failed),
                done("a[x=1]", NodeOutcome::Succeeded),
                done("z[x=1]", NodeOutcome::Cached),
                done("z[x=2]", NodeOutcome::Cached),
            ]
            .map(|event| (1.0, event)),
        ));
        let names = |jobs: Vec<&JobStatistics>| -> Vec<String> {
            jobs.iter().map(|job| job.name.clone()).collect()
        };
        assert_eq!(names(figures.jobs.iter().collect()), ["z", "b", "a"]);
        assert_eq!(names(figures.jobs_by_concern()), ["b", "z", "a"]);
        assert_eq!(figures.saved(&BTreeMap::new()), None);
        assert_eq!(figures.saved(&[("z".to_string(), 1.5)].into()), Some(3.0));
    }

    #[test]
    fn attempts_that_were_lost_are_told_apart_with_why() {
        let joined = RunEvent::WorkerJoined {
            worker: 0,
            host: "h".into(),
            slots: 4.0,
            memory: 0,
            process: String::new(),
        };
        let full = Outcome::Failed(FailureCause::DiskFull { path: "/x".into() });
        let full = AttemptResult::bare(full);
        let again = |node: &str| RunEvent::Retrying {
            node: node.into(),
            delay: 0.0,
            lost: true,
        };
        let state = fold(
            [
                joined,
                start("a[n=1]", 1, None),
                start("a[n=2]", 2, None),
                ended("a[n=1]", 1, &full),
                again("a[n=1]"),
                ended("a[n=2]", 2, &full),
                again("a[n=2]"),
            ]
            .map(|event| (1.0, event)),
        );
        let groups = loss_groups(&state);
        let [(nodes, why)] = &groups[..] else {
            panic!("{groups:?}")
        };
        assert_eq!(nodes.len(), 2);
        assert_eq!(why, "an attempt on h: disk full at `/x`");
        let job = &statistics(&state).jobs[0];
        assert_eq!((job.attempts, job.unsuccessful, job.lost), (2, 0, 2));
        let shown = crate::show(&state);
        assert_eq!(
            shown["nodes"][0]["lost"],
            json!([{"number": 1, "host": "h", "cause": "disk_full", "message": "lost: disk full at `/x`"}])
        );
    }

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let job = JobStatistics {
            seconds: vec![1.0, 2.0, 3.0, 4.0],
            ..JobStatistics::default()
        };
        assert_eq!(job.quantile(0.5), Some(2.0));
        assert_eq!(job.quantile(0.95), Some(4.0));
        assert_eq!(job.quantile(0.0), Some(1.0));
        assert_eq!(JobStatistics::default().quantile(0.5), None);
    }
}
