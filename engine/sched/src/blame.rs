//! Which losses are charged to a node: workers die of nodes, and of much else.
//!
//! Where a worker dies, all that it had is suspect, also what nobody has heard to have begun: a node may be quicker than its news. So
//! the loss is charged to each, the last try of a node has a worker for itself, and only that convicts it. What an executor hands back
//! instead, since it never reached a worker, is charged to nobody. Where other workers were lost at about the same time, as when a
//! rack loses its power, a loss is let pass, but not for ever: a node that was near so many runs alone too, and from then on a
//! worker that it has for itself tells enough.

use std::collections::VecDeque;

use dagrun_model::{AttemptId, NodeIx, WorkerIx};

use crate::{Mutant, Scheduler, Time, attempts::Attempt};

/// Of more workers that were lost lately, the oldest are forgotten.
const MOST: usize = 64;

/// The workers that were lost lately.
#[derive(Debug, Default)]
pub(crate) struct Deaths {
    /// When, and the nodes that had attempts there, sorted.
    lately: VecDeque<(Time, Vec<NodeIx>)>,
}

impl Deaths {
    fn add(&mut self, now: Time, mut nodes: Vec<NodeIx>) {
        nodes.sort_unstable();
        if self.lately.len() == MOST {
            self.lately.pop_front();
        }
        self.lately.push_back((now, nodes));
    }

    /// Whether a worker was lost since a moment that had no attempt of the node.
    fn without(&self, node: NodeIx, since: Time) -> bool {
        let lately = self.lately.iter().rev();
        lately
            .take_while(|(at, _)| *at >= since)
            .any(|(_, nodes)| nodes.binary_search(&node).is_err())
    }
}

impl Scheduler {
    /// A worker died with these attempts.
    pub(crate) fn note_death(&mut self, attempts: &[AttemptId]) {
        let known = attempts.iter().filter_map(|id| self.attempts.get(&id.0));
        let nodes = known.map(|attempt| attempt.node).collect();
        self.deaths.add(self.now, nodes);
    }

    /// Whether the next attempt of a node has a worker for itself: it has been near so many losses that the next may tell whose they are.
    pub(crate) fn runs_alone(&self, node: NodeIx) -> bool {
        let n = self.graph.node(node);
        let last = n.losses > 0 && u32::from(n.losses) + 1 >= self.config.max_losses;
        last || u32::from(n.excused) >= self.config.max_losses
    }

    /// Whether a worker was lost that may have died of a node.
    pub(crate) fn was_lost(&self, node: NodeIx) -> bool {
        let n = self.graph.node(node);
        n.losses > 0 || n.excused > 0
    }

    /// Whether a loss is charged to its node.
    pub(crate) fn is_charged(&mut self, attempt: &Attempt) -> bool {
        let node = attempt.node;
        let suspect = self.runs_alone(node) && !self.mutant(Mutant::NeighbourBlamed);
        if suspect && !attempt.alone {
            return false;
        }
        let weak = self.is_weak(attempt);
        let n = &mut self.graph.nodes[node.index()];
        if weak && u32::from(n.excused) < self.config.max_losses {
            n.excused = n.excused.saturating_add(1);
            return false;
        }
        true
    }

    /// Whether a loss says little about its node. What a live worker says of its attempts is always evidence.
    fn is_weak(&self, attempt: &Attempt) -> bool {
        if self.is_alive(attempt.worker) {
            return false;
        }
        let burst = self.config.burst.as_micros() as u64;
        let since = Time(self.now.0.saturating_sub(burst));
        self.deaths.without(attempt.node, since) && !self.mutant(Mutant::BurstBlamed)
    }

    fn is_alive(&self, worker: WorkerIx) -> bool {
        self.hosts.get(worker).is_some_and(|known| known.alive)
    }
}
