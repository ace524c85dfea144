//! What the scheduler tells people.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dagrun_events::{CachedNode, NodeOutcome, OutputRows, RunEvent, output_rows};
use dagrun_model::NodeIx;
use dagrun_plan::UpstreamEnd;
use dagrun_sched::{NodeEnd, Notice, Obstacle, WhyWaiting};

use super::{Driver, MOST_FAILURES};
use crate::Failure;

impl Driver<'_> {
    pub(super) fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::NodeDone { node, end } => self.node_done(node, end),
            Notice::WillRetry { node, at, lost } => {
                let delay = at.0.saturating_sub(self.now().0) as f64 / 1e6;
                let node = self.plan.id(node);
                self.record(RunEvent::Retrying { node, delay, lost });
            }
            Notice::Speculated { node } => {
                let node = self.plan.id(node);
                self.record(RunEvent::Speculated { node });
            }
            Notice::Adopted { node, attempt } => self.adopted(node, attempt),
            Notice::Rewound { node } => self.rewind(node),
            Notice::Stuck { nodes } => self.stuck(&nodes),
        }
    }

    /// A node that was done has to run again.
    pub(super) fn rewind(&mut self, node: NodeIx) {
        self.rewound.insert(node);
        let mut was_hit = false;
        match self.board.end_of(node) {
            Some(UpstreamEnd::Succeeded) if self.ran_nodes.remove(&node) => {
                self.counts.remove(NodeOutcome::Succeeded);
            }
            Some(UpstreamEnd::Succeeded) => {
                was_hit = true;
                self.counts.remove(NodeOutcome::Cached);
            }
            _ => {}
        }
        self.board.set_end(node, None);
        if let Some(study) = &mut self.study {
            study.rewound(node, was_hit);
        }
        let node = self.plan.id(node);
        self.record(RunEvent::Rewound { node });
    }

    /// Nodes that no worker can take: the run is over, or waits a while for one that can.
    fn stuck(&mut self, nodes: &[NodeIx]) {
        let patience = self.executor.as_ref().map(|it| it.patience());
        match patience.filter(|patience| !patience.is_zero()) {
            Some(patience) => {
                self.tell_stuck(nodes, patience);
                self.stuck = Some((Instant::now() + patience, nodes.to_vec()));
            }
            None => {
                self.tell_stuck(nodes, Duration::ZERO);
                self.give_up(nodes);
            }
        }
    }

    fn tell_stuck(&mut self, nodes: &[NodeIx], patience: Duration) {
        let stuck = RunEvent::Stuck {
            nodes: nodes.iter().map(|node| self.plan.id(*node)).collect(),
            why: self.why_stuck(nodes),
            patience: patience.as_secs_f64(),
        };
        self.record(stuck);
    }

    /// Gives up where no worker came in time.
    pub(super) fn look_at_the_stuck(&mut self) {
        let late = self.stuck.take_if(|(until, _)| *until <= Instant::now());
        if let Some((_, nodes)) = late
            && !self.sched.awaits_a_worker()
        {
            self.give_up(&nodes);
        }
    }

    fn give_up(&mut self, nodes: &[NodeIx]) {
        self.fatal = Some(self.why_stuck(nodes));
    }

    /// What nodes ask for that no worker has, and the remedy.
    fn why_stuck(&self, nodes: &[NodeIx]) -> String {
        let first = nodes.first().map(|node| self.plan.id(*node));
        let first = first.unwrap_or_default();
        let others = match nodes.len() {
            0 | 1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        if !self.sched.has_a_worker() {
            return format!(
                "no worker is left for `{first}`{others}; the same command goes on where this run stopped"
            );
        }
        let what = nodes
            .first()
            .and_then(|node| self.too_small(*node))
            .unwrap_or_else(|| "more than any worker has".into());
        let more = match (
            self.config.awaits_workers,
            self.most_slots < u64::from(u32::MAX),
        ) {
            (false, _) => "give the run more with `-j`, `memory` or `resources` in dagrun.toml",
            (true, true) => "give the run more with `-j`, or join a worker that has so much",
            (true, false) => "join a worker that has so much",
        };
        format!("`{first}`{others} asks for {what}; lower its `resources`, or {more}")
    }

    /// What a node asks for and the worker that has most of it has.
    fn too_small(&self, node: NodeIx) -> Option<String> {
        let WhyWaiting::NoWorker(unfits) = self.sched.explain(node) else {
            return None;
        };
        unfits
            .into_iter()
            .filter_map(|unfit| match unfit.obstacle {
                Obstacle::TooSmall {
                    resource,
                    needed,
                    has,
                } => Some((has, resource, needed)),
                _ => None,
            })
            .max()
            .map(|(has, resource, needed)| {
                let (asked, there) = (amount_text(&resource, needed), amount_text(&resource, has));
                format!("{asked}, and the largest worker has {there}")
            })
    }

    fn node_done(&mut self, node: NodeIx, end: NodeEnd) {
        if self.is_known(node) {
            return;
        }
        let outcome = outcome_of(end);
        self.counts.add(outcome);
        self.board.set_end(node, Some(upstream_end(end)));
        match end {
            NodeEnd::Cached => self.node_cached(node),
            NodeEnd::Succeeded => {
                self.ran_nodes.insert(node);
                self.ended += 1;
                self.board.set_order(node, self.ended);
                self.tell_done(node, outcome, None);
            }
            NodeEnd::Failed => self.node_failed(node),
            NodeEnd::Skipped { because } => {
                self.blame(node, because);
                self.tell_done(node, outcome, Some(because));
            }
            NodeEnd::ConditionFalse | NodeEnd::Cancelled => self.tell_done(node, outcome, None),
        }
        self.trial_node_done(node, outcome);
    }

    /// In a later round, most nodes end again as they had ended.
    fn is_known(&self, node: NodeIx) -> bool {
        self.settled.is_some() && self.board.end_of(node).is_some()
    }

    fn node_cached(&mut self, node: NodeIx) {
        if self.board.outputs_of(node).is_none() {
            self.take_shared(node);
        }
        let outputs = self.outputs(node);
        self.cached.push(CachedNode {
            node: self.plan.id(node),
            also: self.plan.also(node),
            outputs,
        });
    }

    /// A node that waited for an equal action has that one's result.
    fn take_shared(&mut self, node: NodeIx) {
        let Ok(Some(digest)) = self.plan.action_digest(node, &self.board) else {
            return;
        };
        let found = self.store.lookup_outputs(&[digest]);
        if let Some(Some(outputs)) = found.ok().and_then(|mut found| found.pop()) {
            self.board.set_outputs(node, Arc::new(outputs));
        }
    }

    fn outputs(&self, node: NodeIx) -> OutputRows {
        self.board
            .outputs_of(node)
            .map_or_else(OutputRows::new, |outputs| output_rows(outputs))
    }

    fn node_failed(&mut self, node: NodeIx) {
        self.tell_done(node, NodeOutcome::Failed, None);
        let last = self.last_ends.remove(&node);
        let (attempt, host, attempts, command, values) = match last {
            Some(last) => (
                Some(last.summary),
                last.host,
                last.number,
                last.command,
                last.values,
            ),
            None => (None, None, 0, String::new(), Vec::new()),
        };
        let failure = Failure {
            node,
            id: self.plan.id(node),
            cause: self.causes.get(&node).cloned(),
            attempt,
            host,
            attempts,
            command,
            values,
            blocked: 0,
        };
        if self.failures.len() < MOST_FAILURES {
            self.failures.push(failure);
        } else {
            self.last_failure = Some(failure);
        }
    }

    /// What is known of a node that has just failed.
    pub(super) fn failure_of(&self, node: NodeIx) -> Option<&Failure> {
        let mut latest = self.last_failure.iter().chain(self.failures.iter().rev());
        latest.find(|failure| failure.node == node)
    }

    fn blame(&mut self, node: NodeIx, because: NodeIx) {
        let root = self.blame.get(&because).copied().unwrap_or(because);
        self.blame.insert(node, root);
        *self.blocked.entry(root).or_default() += 1;
    }

    fn tell_done(&mut self, node: NodeIx, end: NodeOutcome, because: Option<NodeIx>) {
        self.write_history_end(node, end);
        let cause = match end {
            NodeOutcome::Failed => self.causes.get(&node).cloned().or_else(|| {
                let last = self.last_ends.get(&node)?;
                last.summary.cause.clone()
            }),
            _ => None,
        };
        let outputs = match end {
            NodeOutcome::Succeeded => self.outputs(node),
            _ => OutputRows::new(),
        };
        self.record(RunEvent::NodeDone {
            node: self.plan.id(node),
            also: self.plan.also(node),
            end,
            because: because.map(|node| self.plan.id(node)),
            cause,
            outputs,
        });
    }
}

/// An amount of a resource in words: thousandths, or bytes of memory.
fn amount_text(resource: &str, amount: u64) -> String {
    match resource {
        "memory" => format!("{} of memory", dagrun_model::format_bytes(amount)),
        "cpu" if amount == 1000 => "1 CPU".into(),
        "cpu" => format!("{} CPUs", amount as f64 / 1000.0),
        name => format!("{} `{}`", amount as f64 / 1000.0, name.trim_matches('`')),
    }
}

fn outcome_of(end: NodeEnd) -> NodeOutcome {
    match end {
        NodeEnd::Cached => NodeOutcome::Cached,
        NodeEnd::Succeeded => NodeOutcome::Succeeded,
        NodeEnd::Failed => NodeOutcome::Failed,
        NodeEnd::Skipped { .. } => NodeOutcome::Skipped,
        NodeEnd::ConditionFalse => NodeOutcome::ConditionFalse,
        NodeEnd::Cancelled => NodeOutcome::Cancelled,
    }
}

fn upstream_end(end: NodeEnd) -> UpstreamEnd {
    match end {
        NodeEnd::Cached | NodeEnd::Succeeded => UpstreamEnd::Succeeded,
        NodeEnd::Failed => UpstreamEnd::Failed,
        NodeEnd::Skipped { .. } => UpstreamEnd::Skipped,
        NodeEnd::ConditionFalse => UpstreamEnd::ConditionFalse,
        NodeEnd::Cancelled => UpstreamEnd::Cancelled,
    }
}
