//! Attempts that their workers have already when they join: after a restart of the coordinator, or after a worker was taken
//! for lost too early.
//!
//! Such an attempt is booked at once, so that its room is not given to others. What its node makes of it is decided when the cache has
//! said that the node must run; an end that comes earlier is kept until then.

use dagrun_model::{AttemptId, NodeIx, WorkerIx};

use crate::{
    Action, AttemptEnd, Held, Mutant, NodeState, Notice, Scheduler, attempts::Attempt,
    flights::short, lanes::Shape,
};

/// An attempt at a node that was not looked up yet.
#[derive(Clone, Debug)]
pub(crate) struct Adopted {
    pub(crate) attempt: AttemptId,
    /// The action that it does, or 0, as the table of actions has it.
    action: u128,
    /// How it ended, where it has.
    pub(crate) end: Option<(Attempt, AttemptEnd)>,
}

impl Scheduler {
    /// Whether an attempt that succeeded may still be asked for by [`Action::Commit`], though it was not at once.
    pub fn keeps(&self, node: NodeIx, attempt: AttemptId) -> bool {
        let adopted = self.adopted.get(&node);
        adopted.is_some_and(|adopted| adopted.attempt == attempt)
    }

    /// Takes over an attempt that a worker has, where its node can use it.
    pub(crate) fn adopt(&mut self, worker: WorkerIx, held: Held) {
        let Held {
            attempt: id, node, ..
        } = held;
        if self.attempts.contains_key(&id.0) || self.mutant(Mutant::AdoptForgotten) {
            return;
        }
        self.next_attempt = self.next_attempt.max(id.0 + 1);
        if !self.book(worker, &held) {
            // It takes nothing here, and nothing follows from its end.
            self.out.push(Action::Cancel {
                attempt: id,
                kill: true,
            });
            return;
        }
        let digest = held.action.map(|digest| digest.0);
        let adopted = Adopted {
            attempt: id,
            action: digest.map_or(0, short),
            end: None,
        };
        let other = self.adopted.get(&node).map(|other| other.attempt);
        match self.graph.node(node).state {
            NodeState::Waiting | NodeState::LookingUp if other.is_none_or(|other| other == id) => {
                self.adopted.insert(node, adopted);
            }
            NodeState::Ready { .. } | NodeState::BackingOff { .. } => {
                self.adopted.insert(node, adopted);
                self.run_adopted(node, self.actions[node.index()]);
            }
            NodeState::Sharing => {
                self.adopted.insert(node, adopted);
                if let Some(leader) = self.leader(node) {
                    self.share_adopted(node, leader);
                }
            }
            _ => self.cancel(id, true),
        }
    }

    /// Books a held attempt on its worker, if its node is there and it fits.
    fn book(&mut self, worker: WorkerIx, held: &Held) -> bool {
        let (node, id) = (held.node, held.attempt);
        let free = &self.hosts.known(worker).free;
        if !self.graph.is_live(node) || !held.resources.fits(free) {
            return false;
        }
        let profile = self.graph.class(node).executor.clone();
        let shape = self
            .lanes
            .shape(Shape::new(held.resources.clone(), profile));
        self.hosts.take(worker, id, &held.resources);
        let n = &mut self.graph.nodes[node.index()];
        n.attempts = n.attempts.max(held.number);
        let attempt = Attempt {
            node,
            worker,
            shape,
            since: self.now,
            before: held.ran,
            started: true,
            alone: false,
            paired: false,
            cancelled: None,
            queued: false,
            recalled: false,
            withdrawn: false,
            expected: 0,
        };
        self.attempt_begins(id, attempt);
        true
    }

    /// Runs a node that must do an action as the attempt that it has, if that does the same.
    pub(crate) fn run_adopted(&mut self, node: NodeIx, action: u128) -> bool {
        let Some(adopted) = self.adopted.get(&node) else {
            return false;
        };
        let other = adopted.action != action && !self.mutant(Mutant::AdoptAnyAction);
        // What is never shared may have read what is no longer there: nothing says that it is the same.
        if other || action == 0 {
            self.forsake(node);
            return false;
        }
        let Some(Adopted { attempt, end, .. }) = self.adopted.remove(&node) else {
            return false;
        };
        self.resting.remove(&node);
        let second = None;
        self.set_state(node, NodeState::Running { attempt, second });
        self.emit(Notice::Adopted { node, attempt });
        if let Some((ended, end)) = end {
            self.remember_growth(node, ended.shape);
            self.late_ends.push_back((attempt, ended, end));
        } else if let Some(known) = self.attempts.get(&attempt.0).copied() {
            self.remember_growth(node, known.shape);
            let host = self.hosts.host_of(known.worker);
            self.bind(None, self.graph.node(node).kin, host);
            self.watch(attempt, &known);
        }
        true
    }

    /// Acts on kept ends, one after the other, as if each were an event of its own.
    pub(crate) fn act_on_late_ends(&mut self) {
        while let Some((id, attempt, end)) = self.late_ends.pop_front() {
            self.after_attempt(id, attempt, end);
            self.settle();
        }
    }

    /// An attempt that got more memory than its node asks for is one after an out-of-memory kill: the next gets no less.
    fn remember_growth(&mut self, node: NodeIx, shape: u32) {
        let demand = self.lanes.demand(shape).clone();
        if demand.memory > self.demand_of(node).memory {
            let mut asked = self.lanes.shapes[self.shape_of(node) as usize].clone();
            asked.demand = demand;
            self.ask_for(node, asked);
        }
    }

    /// A waiter with an attempt leads where its leader has not begun, and has no use for it otherwise.
    pub(crate) fn share_adopted(&mut self, node: NodeIx, leader: NodeIx) {
        let action = self.actions[node.index()];
        let Some(adopted) = self.adopted.get(&node) else {
            return;
        };
        let leads = self.graph.node(leader).state;
        let idle = matches!(
            leads,
            NodeState::Ready { .. } | NodeState::BackingOff { .. }
        );
        if !idle || adopted.action != action {
            self.forsake(node);
            return;
        }
        self.take_over(node, leader);
        self.run_adopted(node, action);
    }

    /// Keeps the end of an attempt whose node was not looked up yet.
    pub(crate) fn ended_early(
        &mut self,
        id: AttemptId,
        attempt: &Attempt,
        end: &AttemptEnd,
    ) -> bool {
        let adopted = self.adopted.get_mut(&attempt.node);
        let Some(adopted) = adopted.filter(|adopted| adopted.attempt == id) else {
            return false;
        };
        adopted.end = Some((*attempt, end.clone()));
        if self.mutant(Mutant::EarlyEndForgotten) {
            self.adopted.remove(&attempt.node);
        }
        true
    }

    /// Cancels the attempt of a node that has no use for it.
    pub(crate) fn forsake(&mut self, node: NodeIx) {
        if let Some(adopted) = self.adopted.remove(&node) {
            self.cancel(adopted.attempt, true);
        }
    }
}
