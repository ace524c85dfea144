//! Ending a run early.

use dagrun_model::{AttemptId, NodeIx};

use crate::{Mutant, NodeEnd, NodeState, Scheduler, Stop};

impl Scheduler {
    /// Starts nothing any more. What has not started ends; what runs is left, terminated or killed.
    pub(crate) fn request_stop(&mut self, stop: Stop) {
        if self.stop.is_some_and(|before| before >= stop) {
            return;
        }
        let first = self.stop.replace(stop).is_none();
        if first {
            self.cancel_unstarted();
            for worker in self.hosts.alive.clone() {
                if stop == Stop::Drain && !self.mutant(Mutant::AheadIgnoresStop) {
                    self.recall_all(worker);
                }
            }
            if stop == Stop::Drain {
                self.withdraw_all();
            }
        }
        if stop > Stop::Drain {
            for attempt in self.hosts.live_attempts() {
                self.cancel(attempt, stop == Stop::Kill);
            }
        }
    }

    fn cancel_unstarted(&mut self) {
        // Waiters first: no leader that ends here hands its action over.
        for pass in [true, false] {
            let nodes: Vec<usize> = self.graph.live_nodes().collect();
            for node in nodes.into_iter().map(NodeIx::from_index) {
                let state = self.graph.node(node).state;
                let unstarted = match state {
                    NodeState::Sharing => true,
                    NodeState::BackingOff { .. } if self.mutant(Mutant::CancelRace) => false,
                    NodeState::Waiting
                    | NodeState::LookingUp
                    | NodeState::Ready { .. }
                    | NodeState::BackingOff { .. } => !pass,
                    NodeState::Queued { .. }
                    | NodeState::Running { .. }
                    | NodeState::Committing { .. }
                    | NodeState::Done(_) => false,
                };
                if unstarted {
                    self.end(node, NodeEnd::Cancelled);
                }
            }
        }
    }

    /// Whether a stop forbids starts.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.is_some() && !self.mutant(Mutant::CancelRace)
    }
}

/// Sorted, so that the order of live attempts is that of their starts.
pub(crate) fn sorted(mut attempts: Vec<AttemptId>) -> Vec<AttemptId> {
    attempts.sort_unstable();
    attempts
}
