//! A run as the fold of its events.

use std::collections::BTreeMap;

use dagrun_model::{Digest, FailureCause, NodePattern, Phases, Usage};
use rustc_hash::FxHashMap;

use crate::{
    AttemptOutcome, AttemptSummary, NodeCounts, NodeOutcome, OutputRows, PlanCounts, Record,
    RunEvent, RunStarted, StopKind, StudyRow, trial_of,
};

/// The exit code of a run that could not go on.
const GAVE_UP: i32 = 3;

/// A run, as far as its events tell.
#[derive(Clone, Debug, Default)]
pub struct RunState {
    /// What it is; none before its first record.
    pub started: Option<RunStarted>,
    /// When it began, in seconds since the epoch.
    pub started_at: f64,
    /// When the last event happened.
    pub last_at: f64,
    /// How many nodes its plan has.
    pub plan: PlanCounts,
    /// Warnings in order.
    pub warnings: Vec<String>,
    /// Ids of nodes whose `if` was false before anything ran.
    pub skipped: Vec<String>,
    /// The pipeline's jobs in its order; empty where the run was made before journals had them.
    pub jobs: Vec<String>,
    /// Workers by id.
    pub workers: BTreeMap<u32, WorkerRow>,
    /// Nodes in the order in which they were first heard of.
    pub nodes: Vec<NodeRow>,
    /// How nodes ended so far.
    pub counts: NodeCounts,
    /// Attempts started.
    pub executed: u64,
    /// Attempts in the order in which they were started.
    pub attempts: Vec<AttemptRow>,
    /// Its study, where it has one.
    pub study: Option<Box<StudyRow>>,
    /// Exports done: target, node, output.
    pub exported: Vec<(String, String, String)>,
    /// Exports not done: target and reason.
    pub kept_back: Vec<(String, String)>,
    /// Non-determinism that was seen: node and output.
    pub non_determinism: Vec<(String, String)>,
    /// How it was told to stop.
    pub stop: Option<StopKind>,
    /// Its exit code; none where it was cut off.
    pub exit_code: Option<i32>,
    /// Why it could not go on.
    pub gave_up: Option<String>,
    /// Wall seconds; to the last event where it did not end by itself.
    pub wall: f64,
    by_id: FxHashMap<String, usize>,
    by_attempt: FxHashMap<u64, usize>,
}

/// A worker of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerRow {
    /// The name of its host.
    pub host: String,
    /// Its slots.
    pub slots: f64,
    /// When it joined.
    pub joined: f64,
    /// When it was lost or had left; none while it is there.
    pub left: Option<f64>,
    /// What tells its process from others.
    pub process: String,
}

/// A node of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeRow {
    /// Its first logical id.
    pub id: String,
    /// Its other logical ids.
    pub also: Vec<String>,
    /// How it ended; none while it has not.
    pub outcome: Option<NodeOutcome>,
    /// The node to blame for its skip.
    pub because: Option<String>,
    /// Why it failed.
    pub cause: Option<FailureCause>,
    /// Its outputs.
    pub outputs: OutputRows,
    /// Positions of its attempts in [`RunState::attempts`].
    pub attempts: Vec<usize>,
    /// Failures charged against its retries, those of an interrupted run among them.
    pub charged: u32,
    /// Its key, where it was attempted.
    pub key: Option<Digest>,
    /// When it ended, in seconds since the epoch.
    pub done_at: f64,
}

/// An attempt of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptRow {
    /// The position of its node in [`RunState::nodes`].
    pub node: usize,
    /// Its id.
    pub attempt: u64,
    /// Its number at the node, from 1.
    pub number: u32,
    /// Where it ran.
    pub worker: u32,
    /// The node among those it needs that ended last, where that one ran.
    pub after: Option<String>,
    /// The run that had started it, where it was taken over.
    pub adopted: Option<String>,
    /// When it was handed to the worker, or taken over.
    pub started: f64,
    /// When its end was known.
    pub ended: Option<f64>,
    /// How it ended.
    pub result: Option<AttemptSummary>,
}

impl AttemptRow {
    /// Which part of its time fell into this run: all of it, but for one that was taken over from an earlier one.
    pub fn part_in_run(&self) -> f64 {
        let (Some(_), Some(result), Some(ended)) = (&self.adopted, &self.result, self.ended) else {
            return 1.0;
        };
        let busy = result.phases.busy();
        let here = (ended - self.started).max(0.0);
        if here < busy { here / busy } else { 1.0 }
    }
}

impl RunState {
    /// Folds records in order.
    pub fn fold<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut state = Self::default();
        for record in records {
            state.apply(record);
        }
        state
    }

    /// Takes one more event.
    pub fn apply(&mut self, record: &Record) {
        let at = record.at;
        self.last_at = at;
        if self.exit_code.is_none() && self.started.is_some() {
            self.wall = (at - self.started_at).max(0.0);
        }
        match &record.event {
            RunEvent::RunStarted(started) => {
                self.started_at = at;
                self.started = Some((**started).clone());
                // A run of a coordinator goes on in another journal.
                (self.exit_code, self.gave_up) = (None, None);
            }
            RunEvent::Planned {
                counts,
                warnings,
                skipped,
                jobs,
            } => {
                self.plan = *counts;
                self.warnings.extend(warnings.iter().cloned());
                self.skipped.clone_from(skipped);
                self.jobs.clone_from(jobs);
            }
            RunEvent::WorkerJoined {
                worker,
                host,
                slots,
                process,
                ..
            } => {
                let row = WorkerRow {
                    host: host.clone(),
                    slots: *slots,
                    joined: at,
                    left: None,
                    process: process.clone(),
                };
                self.workers.insert(*worker, row);
            }
            RunEvent::NodesCached { nodes } => {
                for node in nodes {
                    let ix = self.node_ix(&node.node);
                    self.nodes[ix].also.clone_from(&node.also);
                    self.nodes[ix].outputs.clone_from(&node.outputs);
                    // A coordinator that started again finds what the run itself has made before.
                    let end = match self.has_made(ix) {
                        true => NodeOutcome::Succeeded,
                        false => NodeOutcome::Cached,
                    };
                    self.end_node(ix, end, at);
                }
            }
            RunEvent::AttemptStarted {
                node,
                key,
                attempt,
                number,
                worker,
                after,
                adopted,
            } => {
                let row = AttemptRow {
                    node: self.node_ix(node),
                    attempt: *attempt,
                    number: *number,
                    worker: *worker,
                    after: after.clone(),
                    adopted: adopted.clone(),
                    started: at,
                    ended: None,
                    result: None,
                };
                self.start_attempt(row, *key);
            }
            RunEvent::AttemptEnded {
                node,
                key,
                attempt,
                result,
            } => self.end_attempt(at, node, *key, *attempt, result),
            RunEvent::NodeDone {
                node,
                also,
                end,
                because,
                cause,
                outputs,
            } => {
                let ix = self.node_ix(node);
                let row = &mut self.nodes[ix];
                row.also.clone_from(also);
                row.because.clone_from(because);
                row.cause.clone_from(cause);
                row.outputs.clone_from(outputs);
                self.end_node(ix, *end, at);
            }
            RunEvent::Restored {
                node,
                key,
                failures,
            } => {
                let ix = self.node_ix(node);
                self.nodes[ix].key = Some(*key);
                self.nodes[ix].charged = *failures;
            }
            RunEvent::Rewound { node } => {
                let ix = self.node_ix(node);
                if let Some(end) = self.nodes[ix].outcome.take() {
                    self.counts.remove(end);
                }
            }
            RunEvent::NonDeterminism { node, output, .. } => {
                self.non_determinism.push((node.clone(), output.clone()));
            }
            RunEvent::Exported {
                target,
                node,
                output,
            } => self
                .exported
                .push((target.clone(), node.clone(), output.clone())),
            RunEvent::ExportKept { target, reason } => {
                self.kept_back.push((target.clone(), reason.clone()));
            }
            RunEvent::Warning { message } => self.warnings.push(message.clone()),
            RunEvent::StopRequested { stop } => self.stop = Some(*stop),
            RunEvent::RunEnded {
                exit_code,
                plan,
                wall,
                ..
            } => {
                self.exit_code = Some(*exit_code);
                self.plan = plan.unwrap_or(self.plan);
                self.wall = *wall;
            }
            RunEvent::GaveUp { why } => {
                self.exit_code = Some(GAVE_UP);
                self.gave_up = Some(why.clone());
            }
            event @ (RunEvent::StudyOpened { .. }
            | RunEvent::TrialStarted { .. }
            | RunEvent::TrialEnded { .. }
            | RunEvent::StudyEnded { .. }) => {
                self.study.get_or_insert_default().apply(at, event);
            }
            RunEvent::WorkerLost { worker, .. } => {
                if let Some(row) = self.workers.get_mut(worker) {
                    row.left = Some(at);
                }
            }
            RunEvent::Retrying { node, lost, .. } => {
                if *lost {
                    self.was_lost(node);
                }
            }
            RunEvent::Speculated { .. }
            | RunEvent::InputMissing { .. }
            | RunEvent::Leaked { .. }
            | RunEvent::Stuck { .. }
            | RunEvent::Unknown => {}
        }
    }

    /// What ended last of a node is tried again as a loss, whatever its worker said: the host had failed it.
    fn was_lost(&mut self, node: &str) {
        let ix = self.node_ix(node);
        let row = &mut self.nodes[ix];
        let last = row.attempts.iter().copied();
        let last = last.max_by(|a, b| {
            let ended = |at: &usize| self.attempts[*at].ended.unwrap_or(f64::MIN);
            ended(a).total_cmp(&ended(b))
        });
        let Some(result) = last.and_then(|at| self.attempts[at].result.as_mut()) else {
            return;
        };
        if result.outcome == AttemptOutcome::Failed {
            row.charged -= u32::from(result.is_charged());
            row.cause = None;
            result.outcome = AttemptOutcome::Lost;
        }
    }

    /// The time of a worker in the run, from and to, in seconds since the epoch. One that nothing outlives the run of is there from
    /// its start: what was planned before it joined kept it waiting. One that came after another was lost takes its place.
    pub fn presence(&self, worker: &WorkerRow) -> (f64, f64) {
        let end = self.started_at + self.wall;
        let was_lost = |other: &WorkerRow| other.left.is_some_and(|left| left <= worker.joined);
        let from = match worker.process.is_empty() && !self.workers.values().any(was_lost) {
            true => self.started_at,
            false => worker.joined.max(self.started_at),
        };
        (from, worker.left.unwrap_or(end).clamp(from, end.max(from)))
    }

    /// Seconds that all slots were there, together.
    pub fn slot_seconds(&self) -> f64 {
        let seconds = self.workers.values().map(|worker| {
            let (from, to) = self.presence(worker);
            worker.slots * (to - from)
        });
        seconds.sum()
    }

    /// The trial that a node is of, where the run has a study.
    pub fn trial_of(&self, node: &NodeRow) -> Option<u64> {
        self.study.as_ref().and_then(|_| trial_of(&node.id))
    }

    /// The node of a logical id, also of one that is not its first.
    pub fn find(&self, id: &str) -> Option<&NodeRow> {
        match self.by_id.get(id) {
            Some(ix) => Some(&self.nodes[*ix]),
            None => self
                .nodes
                .iter()
                .find(|node| node.also.iter().any(|also| also == id)),
        }
    }

    /// The nodes that a logical id names, or a part of one as in [`NodePattern`].
    pub fn named(&self, name: &str) -> Vec<&NodeRow> {
        if let Some(node) = self.find(name) {
            return vec![node];
        }
        let Some(pattern) = NodePattern::parse(name) else {
            return Vec::new();
        };
        let nodes = self.nodes.iter();
        nodes
            .filter(|node| {
                let mut ids = std::iter::once(&node.id).chain(&node.also);
                ids.any(|id| pattern.matches(id))
            })
            .collect()
    }

    /// The last attempt of a node that ended.
    pub fn last_attempt(&self, node: &NodeRow) -> Option<&AttemptRow> {
        node.attempts
            .iter()
            .rev()
            .map(|ix| &self.attempts[*ix])
            .find(|attempt| attempt.result.is_some())
    }

    /// The phases of the attempt whose result a node has; zeros for a hit.
    pub fn phases(&self, node: &NodeRow) -> Phases {
        self.last_result(node)
            .map_or_else(Phases::default, |r| r.phases)
    }

    /// What the attempt whose result a node has used; zeros for a hit.
    pub fn usage(&self, node: &NodeRow) -> Usage {
        self.last_result(node)
            .map_or_else(Usage::default, |r| r.usage)
    }

    fn last_result(&self, node: &NodeRow) -> Option<&AttemptSummary> {
        self.last_attempt(node).and_then(|a| a.result.as_ref())
    }

    fn node_ix(&mut self, id: &str) -> usize {
        if let Some(ix) = self.by_id.get(id) {
            return *ix;
        }
        let ix = self.nodes.len();
        self.nodes.push(NodeRow {
            id: id.into(),
            ..NodeRow::default()
        });
        self.by_id.insert(id.into(), ix);
        ix
    }

    /// Whether an attempt of this run has made the result of a node.
    fn has_made(&self, ix: usize) -> bool {
        let results = self.nodes[ix].attempts.iter();
        let mut results = results.filter_map(|it| self.attempts[*it].result.as_ref());
        results.any(|result| result.outcome == AttemptOutcome::Succeeded)
    }

    fn end_node(&mut self, ix: usize, end: NodeOutcome, at: f64) {
        let row = &mut self.nodes[ix];
        row.done_at = at;
        if let Some(former) = row.outcome.replace(end) {
            self.counts.remove(former);
        }
        self.counts.add(end);
    }

    fn start_attempt(&mut self, row: AttemptRow, key: Digest) {
        let ix = self.attempts.len();
        self.by_attempt.insert(row.attempt, ix);
        self.nodes[row.node].attempts.push(ix);
        self.nodes[row.node].key = Some(key);
        self.executed += u64::from(row.adopted.is_none());
        self.attempts.push(row);
    }

    fn end_attempt(
        &mut self,
        at: f64,
        node: &str,
        key: Digest,
        attempt: u64,
        result: &AttemptSummary,
    ) {
        let node = self.node_ix(node);
        self.nodes[node].key = Some(key);
        if result.is_charged() {
            self.nodes[node].charged += 1;
        }
        if result.outcome == AttemptOutcome::Failed {
            self.nodes[node].cause.clone_from(&result.cause);
        }
        if let Some(ix) = self.by_attempt.get(&attempt) {
            self.attempts[*ix].ended = Some(at);
            self.attempts[*ix].result = Some(result.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use dagrun_model::{AttemptResult, Outcome};

    use super::*;

    fn fold(events: Vec<RunEvent>) -> RunState {
        let records: Vec<Record> = events
            .into_iter()
            .enumerate()
            .map(|(i, event)| Record {
                at: 100.0 + i as f64,
                event,
            })
            .collect();
        RunState::fold(&records)
    }

    fn started(node: &str, attempt: u64, number: u32) -> RunEvent {
        RunEvent::AttemptStarted {
            node: node.into(),
            key: Digest::of(node.as_bytes()),
            attempt,
            number,
            worker: 0,
            after: None,
            adopted: None,
        }
    }

    fn ended(node: &str, attempt: u64, outcome: Outcome) -> RunEvent {
        RunEvent::AttemptEnded {
            node: node.into(),
            key: Digest::of(node.as_bytes()),
            attempt,
            result: Box::new(AttemptSummary::from(&AttemptResult::bare(outcome))),
        }
    }

    fn done(node: &str, end: NodeOutcome) -> RunEvent {
        RunEvent::NodeDone {
            node: node.into(),
            also: Vec::new(),
            end,
            because: None,
            cause: None,
            outputs: OutputRows::new(),
        }
    }

    fn exit(code: i32) -> Outcome {
        Outcome::Failed(FailureCause::Exit {
            code,
            step: String::new(),
        })
    }

    #[test]
    fn counts_follow_the_ends_of_nodes() {
        let state = fold(vec![
            RunEvent::RunStarted(Box::default()),
            started("a", 1, 1),
            ended("a", 1, exit(1)),
            started("a", 2, 2),
            ended("a", 2, Outcome::Succeeded(Default::default())),
            done("a", NodeOutcome::Succeeded),
            done("b", NodeOutcome::Skipped),
            done("c", NodeOutcome::ConditionFalse),
        ]);
        assert_eq!(state.executed, 2);
        assert_eq!((state.counts.succeeded, state.counts.skipped), (1, 2));
        assert_eq!(state.find("a").unwrap().charged, 1);
        assert_eq!(state.exit_code, None);
        assert_eq!(state.wall, 7.0);
    }

    #[test]
    fn a_rewound_node_is_counted_once() {
        let state = fold(vec![
            RunEvent::RunStarted(Box::default()),
            RunEvent::NodesCached {
                nodes: vec![crate::CachedNode {
                    node: "a".into(),
                    also: vec!["also-a".into()],
                    outputs: OutputRows::new(),
                }],
            },
            RunEvent::Rewound { node: "a".into() },
            started("a", 1, 1),
            ended("a", 1, Outcome::Succeeded(Default::default())),
            done("a", NodeOutcome::Succeeded),
        ]);
        assert_eq!(state.counts.total(), 1);
        assert_eq!(state.counts.succeeded, 1);
    }

    /// After a restart of its coordinator a run finds in the cache what it has made itself.
    #[test]
    fn what_the_run_has_made_is_no_hit_after_a_restart() {
        let cached = |node: &str| RunEvent::NodesCached {
            nodes: vec![crate::CachedNode {
                node: node.into(),
                also: Vec::new(),
                outputs: OutputRows::new(),
            }],
        };
        let state = fold(vec![
            RunEvent::RunStarted(Box::default()),
            started("a", 1, 1),
            ended("a", 1, Outcome::Succeeded(Default::default())),
            started("b", 2, 1),
            ended("b", 2, exit(1)),
            RunEvent::RunStarted(Box::default()),
            cached("a"),
            cached("b"),
            cached("c"),
        ]);
        assert_eq!(
            state.find("a").unwrap().outcome,
            Some(NodeOutcome::Succeeded)
        );
        assert_eq!((state.counts.succeeded, state.counts.cached), (1, 2));
    }

    #[test]
    fn a_loss_is_not_charged_but_a_restored_failure_is() {
        let state = fold(vec![
            RunEvent::RunStarted(Box::default()),
            RunEvent::Restored {
                node: "a".into(),
                key: Digest::empty(),
                failures: 2,
            },
            started("a", 1, 3),
            ended("a", 1, Outcome::Lost("gone".into())),
            started("a", 2, 3),
            ended("a", 2, exit(1)),
        ]);
        assert_eq!(state.find("a").unwrap().charged, 3);
    }

    #[test]
    fn what_its_host_failed_is_lost() {
        let full = FailureCause::DiskFull { path: "/x".into() };
        let trouble = FailureCause::Engine {
            message: "no".into(),
        };
        let again = |lost| RunEvent::Retrying {
            node: "a".into(),
            delay: 0.0,
            lost,
        };
        let state = fold(vec![
            RunEvent::RunStarted(Box::default()),
            started("a", 1, 3),
            ended("a", 1, exit(1)),
            again(false),
            started("a", 2, 3),
            ended("a", 2, Outcome::Failed(full)),
            again(true),
            started("a", 3, 3),
            ended("a", 3, Outcome::Failed(trouble)),
            again(true),
        ]);
        let ends = state.attempts.iter().map(|it| it.result.as_ref().unwrap());
        let ends: Vec<String> = ends.map(AttemptSummary::describe).collect();
        let lost = ["lost: disk full at `/x`", "lost: engine trouble: no"];
        assert_eq!(ends, ["exit code 1", lost[0], lost[1]]);
        let row = state.find("a").unwrap();
        assert_eq!((row.charged, row.cause.as_ref()), (1, None));
    }
}
