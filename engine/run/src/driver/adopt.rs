//! Attempts that former drivers of this run started, and whose ends no journal has.
//!
//! Where workers outlive whoever drives them, such an attempt may still run. Its node's miss is kept from the scheduler until its
//! worker has said what it holds, or has had its time to do so: else it would be started a second time.

use std::sync::Arc;

use dagrun_events::{AttemptSummary, Inherited, RunEvent};
use dagrun_executor_api::{HeldAttempt, WorkerInfo};
use dagrun_model::{AttemptId, AttemptResult, NodeIx, NodeKey, Outcome};
use dagrun_sched::{CacheAnswer, Held};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    Driver,
    attempts::{Live, command_text, command_values},
    behind::May,
};

/// What is left of former drivers.
#[derive(Debug, Default)]
pub(super) struct Inheritance {
    open: Vec<Inherited>,
    /// Nodes of this plan, by the keys of these attempts.
    nodes: FxHashMap<NodeKey, NodeIx>,
    /// Nodes that one of them may do.
    awaited: FxHashSet<NodeIx>,
    /// Nodes among them that the cache does not have.
    misses: Vec<NodeIx>,
}

impl Inheritance {
    pub(super) fn new(open: Vec<Inherited>) -> Self {
        Self {
            open,
            ..Self::default()
        }
    }

    /// Finds the nodes of attempts among new ones.
    pub(super) fn learn(
        &mut self,
        nodes: impl Iterator<Item = NodeIx>,
        key: impl Fn(NodeIx) -> NodeKey,
    ) {
        if self.open.is_empty() {
            return;
        }
        let keys: FxHashSet<NodeKey> = self.open.iter().map(|it| it.key).collect();
        for node in nodes {
            let key = key(node);
            if keys.contains(&key) {
                self.nodes.entry(key).or_insert(node);
            }
        }
        self.look_again();
    }

    /// Takes out those that something holds for.
    fn take(&mut self, is: impl Fn(&Inherited) -> bool) -> Vec<Inherited> {
        let taken = self.open.extract_if(.., |it| is(it)).collect();
        self.look_again();
        taken
    }

    fn look_again(&mut self) {
        let nodes = self.open.iter().filter_map(|it| self.nodes.get(&it.key));
        self.awaited = nodes.copied().collect();
    }

    /// Nodes that nobody waits for any more.
    fn released(&mut self) -> Vec<NodeIx> {
        let awaited = &self.awaited;
        let over = |node: &mut NodeIx| !awaited.contains(node);
        self.misses.extract_if(.., over).collect()
    }
}

impl Driver<'_> {
    /// Keeps back misses of nodes that may still run somewhere.
    pub(super) fn withhold(&mut self, answers: &mut Vec<(NodeIx, CacheAnswer)>) {
        let inherited = &mut self.inherited;
        if inherited.awaited.is_empty() {
            return;
        }
        let may_run = |(node, answer): &mut (NodeIx, CacheAnswer)| {
            matches!(answer, CacheAnswer::Miss { .. }) && inherited.awaited.contains(node)
        };
        let kept: Vec<_> = answers.extract_if(.., may_run).collect();
        inherited
            .misses
            .extend(kept.into_iter().map(|(node, _)| node));
    }

    /// Asks again about nodes that nobody waits for any more.
    pub(super) fn answer_released(&mut self) {
        let released = self.inherited.released();
        if !released.is_empty() {
            self.look_up_again(released, May::Nothing);
        }
    }

    /// Takes over what a worker that joins has of this run. What else it was thought to have is lost.
    pub(super) fn take_over(&mut self, info: &mut WorkerInfo) -> Vec<Held> {
        let offered = std::mem::take(&mut info.held);
        let mut expected = self.inherited.take(|it| it.process == info.process);
        let (mut wanted, mut unwanted, mut held) = (Vec::new(), Vec::new(), Vec::new());
        for found in offered {
            let is_it = |it: &Inherited| *it.run == *found.run && it.attempt == found.attempt.0;
            let at = expected.iter().position(is_it);
            match at.and_then(|at| Some((at, self.usable(&expected[at], &found)?))) {
                Some((at, node)) => {
                    let known = expected.swap_remove(at);
                    held.push(self.begin_adopted(&known, node, &found, info));
                    wanted.push(found);
                }
                None => unwanted.push(found),
            }
        }
        self.lose(expected, "its worker came back without it");
        if let Some(executor) = &self.executor {
            if !wanted.is_empty() {
                executor.adopt(info.worker, wanted);
            }
            if !unwanted.is_empty() {
                executor.disown(unwanted);
            }
        }
        held
    }

    /// The node that can use a held attempt. What has not begun is started anew: that costs nothing. What is never cached may have read
    /// what is not there any more.
    fn usable(&self, known: &Inherited, found: &HeldAttempt) -> Option<NodeIx> {
        let node = *self.inherited.nodes.get(&known.key)?;
        let usable = found.began
            && !self.never_cached.contains(&node)
            && !self.live.contains_key(&found.attempt);
        usable.then_some(node)
    }

    fn begin_adopted(
        &mut self,
        known: &Inherited,
        node: NodeIx,
        found: &HeldAttempt,
        info: &WorkerInfo,
    ) -> Held {
        self.record(RunEvent::AttemptStarted {
            node: self.plan.id(node),
            key: known.key,
            attempt: found.attempt.0,
            number: known.number,
            worker: info.worker.0,
            after: None,
            adopted: Some(known.run.clone()),
        });
        let live = Live::adopted(node, known.number, info.worker, found.action);
        self.live.insert(found.attempt, live);
        Held {
            attempt: found.attempt,
            node,
            number: known.number,
            action: Some(found.action),
            resources: found.resources.clone(),
            ran: found.ran,
        }
    }

    /// A node runs as an attempt that was taken over: what its commands are is known now.
    pub(super) fn adopted(&mut self, node: NodeIx, attempt: AttemptId) {
        self.fresh.push(node);
        let live = self.live.get(&attempt).map(Live::number);
        // It may have ended meanwhile.
        let ended = self.last_ends.get(&node).map(|last| last.number);
        let Some(number) = live.or(ended) else {
            return;
        };
        self.board.set_attempt(node, number);
        // The cache was asked for it by then: it is one.
        let Ok(action) = self.plan.action(node, &self.board) else {
            return;
        };
        if let Some(last) = self.last_ends.get_mut(&node) {
            last.command = command_text(&action);
            last.values = command_values(&action);
        }
        if let Some(live) = self.live.get_mut(&attempt) {
            live.learn(Arc::new(action));
        }
    }

    /// No more workers come back.
    pub(super) fn rejoined(&mut self) {
        let lost = self.inherited.take(|_| true);
        self.lose(lost, "its worker did not come back");
    }

    /// Attempts of former drivers are lost: the journal has their ends from now on.
    fn lose(&mut self, lost: Vec<Inherited>, why: &str) {
        let result = AttemptResult::bare(Outcome::Lost(why.into()));
        for attempt in lost {
            self.record(RunEvent::AttemptEnded {
                node: attempt.node,
                key: attempt.key,
                attempt: attempt.attempt,
                result: Box::new(AttemptSummary::from(&result)),
            });
        }
    }
}
