//! Attempts and what follows from their ends: commit, retry, loss, rewind.
//!
//! Knows nothing of where attempts are placed.

use dagrun_model::{AttemptId, HostIx, NodeIx, Resources, RetryCause, WorkerIx};

use crate::{
    Action, AttemptEnd, Mutant, NodeEnd, NodeState, Notice, Scheduler, Time, TimerId, graph::Fate,
    mix, replicas::Replicas,
};

/// A live attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) node: NodeIx,
    pub(crate) worker: WorkerIx,
    pub(crate) shape: u32,
    /// When its process started, or when it was submitted.
    pub(crate) since: Time,
    /// How long it had run before that, in microseconds, where it was adopted.
    pub(crate) before: u64,
    pub(crate) started: bool,
    /// It has its worker for itself: if that is lost, it was this attempt.
    pub(crate) alone: bool,
    /// Another attempt at its node ran beside it.
    pub(crate) paired: bool,
    /// The strongest cancellation that was asked for.
    pub(crate) cancelled: Option<bool>,
    /// Its worker has no room for it yet.
    pub(crate) queued: bool,
    /// It was asked back.
    pub(crate) recalled: bool,
    /// It was asked back where no worker knows of it.
    pub(crate) withdrawn: bool,
    /// How long it was expected to run when it was given ahead, in microseconds.
    pub(crate) expected: u64,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Timer {
    Retry(NodeIx),
    Straggler(AttemptId),
    Held(u32),
    Rescue,
    Spread,
}

impl Scheduler {
    pub(crate) fn attempt_begins(&mut self, id: AttemptId, attempt: Attempt) {
        self.graph.nodes[attempt.node.index()].live += 1;
        self.attempts.insert(id.0, attempt);
    }

    /// Takes an attempt out that is over; nothing where it is not known.
    fn take_attempt(&mut self, id: AttemptId) -> Option<Attempt> {
        let attempt = self.attempts.remove(&id.0)?;
        self.graph.nodes[attempt.node.index()].live -= 1;
        self.recalled -= u32::from(attempt.recalled);
        Some(attempt)
    }

    pub(crate) fn attempt_ended(&mut self, id: AttemptId, end: AttemptEnd, ran: u64) {
        let Some(attempt) = self.take_attempt(id) else {
            return;
        };
        if let AttemptEnd::Succeeded { .. } = end {
            self.learn_length(attempt.node, ran);
            self.learn_time(&attempt);
        }
        let leak = end == AttemptEnd::Lost && self.mutant(Mutant::LeakSlot);
        if attempt.queued {
            self.hosts.unqueue(attempt.worker, id, attempt.expected);
        } else if !leak {
            self.hosts
                .release(attempt.worker, id, self.lanes.demand(attempt.shape));
        }
        self.promote(attempt.worker);
        self.after_attempt(id, attempt, end);
    }

    pub(crate) fn worker_lost(&mut self, worker: WorkerIx) {
        let drained = self.hosts.get(worker).is_some_and(|known| known.draining);
        let Some(lost) = self.hosts.lose(worker) else {
            return;
        };
        self.stuck_told = false;
        // One that drained and has nothing left went as it was told to.
        if !drained || !lost.is_empty() {
            self.note_death(&lost);
        }
        for id in lost {
            if self.mutant(Mutant::StaleAccepted) {
                let Some(attempt) = self.attempts.get(&id.0).copied() else {
                    continue;
                };
                self.after_attempt(id, attempt, AttemptEnd::Lost);
            } else if let Some(attempt) = self.take_attempt(id) {
                self.after_attempt(id, attempt, AttemptEnd::Lost);
            }
        }
        self.host_weakened(worker);
        self.rooms_changed();
    }

    pub(crate) fn worker_draining(&mut self, worker: WorkerIx) {
        if self.hosts.drain(worker) {
            self.stuck_told = false;
            self.recall_all(worker);
            self.host_weakened(worker);
            self.rooms_changed();
        }
    }

    pub(crate) fn after_attempt(&mut self, id: AttemptId, attempt: Attempt, end: AttemptEnd) {
        if self.ended_early(id, &attempt, &end) {
            return;
        }
        let node = attempt.node;
        let stale = self.mutant(Mutant::StaleAccepted) || self.mutant(Mutant::DupCommit);
        let other = match self.graph.node(node).state {
            NodeState::Queued { attempt } if attempt == id => None,
            NodeState::Running { attempt, second } if attempt == id => second,
            NodeState::Running { attempt, second } if second == Some(id) => Some(attempt),
            // The other attempt of the pair was faster.
            _ => {
                self.count_loser(&attempt);
                if stale && let AttemptEnd::Succeeded { .. } = end {
                    self.out.push(Action::Commit { node, attempt: id });
                }
                return;
            }
        };
        match end {
            AttemptEnd::Succeeded { bytes } => self.succeeded(id, attempt, bytes, other),
            AttemptEnd::Failed(cause) => self.failed(node, cause, other),
            AttemptEnd::NoRoom => self.no_room(&attempt, other),
            AttemptEnd::Cancelled if self.stop.is_some() => self.came_back(&attempt, other),
            AttemptEnd::Lost | AttemptEnd::Cancelled if self.never_began(&attempt, &end) => {
                self.came_back(&attempt, other);
            }
            AttemptEnd::Lost | AttemptEnd::Cancelled => self.lost(&attempt, other),
            AttemptEnd::InputsMissing(producers) => self.inputs_missing(&attempt, producers, other),
        }
    }

    /// An attempt is over as if it had never been.
    fn came_back(&mut self, attempt: &Attempt, other: Option<AttemptId>) {
        let node = attempt.node;
        match other {
            Some(other) => self.run_alone(node, other),
            None if self.stop.is_some() => self.end(node, NodeEnd::Cancelled),
            // It has waited for a better host already.
            None if attempt.withdrawn => self.queue_again_since(node, attempt.since),
            None => self.queue_again(node),
        }
    }

    pub(crate) fn run_alone(&mut self, node: NodeIx, attempt: AttemptId) {
        self.set_state(
            node,
            NodeState::Running {
                attempt,
                second: None,
            },
        );
    }

    fn succeeded(&mut self, id: AttemptId, attempt: Attempt, bytes: u64, other: Option<AttemptId>) {
        let node = attempt.node;
        let host = self.hosts.host_of(attempt.worker);
        let second = matches!(self.graph.node(node).state, NodeState::Running { second, .. } if second == Some(id));
        self.speculation.won += u64::from(second);
        let n = &mut self.graph.nodes[node.index()];
        n.bytes = bytes;
        n.replicas = Replicas::One(host);
        if let Some(other) = other
            && !self.mutant(Mutant::DupCommit)
        {
            self.cancel(other, true);
        }
        self.set_state(node, NodeState::Committing { attempt: id });
        self.out.push(Action::Commit { node, attempt: id });
        if self.mutant(Mutant::AckBeforeSync) {
            self.end(node, NodeEnd::Succeeded);
        }
    }

    pub(crate) fn failed(
        &mut self,
        node: NodeIx,
        cause: Option<RetryCause>,
        other: Option<AttemptId>,
    ) {
        let n = &mut self.graph.nodes[node.index()];
        n.failures = n.failures.saturating_add(1);
        if !self.may_retry(node, cause) {
            self.end(node, NodeEnd::Failed);
            if let Some(other) = other {
                self.cancel(other, true);
            }
            return;
        }
        if cause == Some(RetryCause::OutOfMemory) && !self.mutant(Mutant::GrowthForgotten) {
            self.grow_memory(node);
        }
        if let Some(other) = other {
            self.run_alone(node, other);
            return;
        }
        let until = Time(self.now.0.saturating_add(self.backoff(node)));
        self.emit(Notice::WillRetry {
            node,
            at: until,
            lost: false,
        });
        if until > self.now {
            self.resting.insert(node, until);
        }
        self.queue_again(node);
    }

    fn may_retry(&self, node: NodeIx, cause: Option<RetryCause>) -> bool {
        let class = self.graph.class(node);
        let Some(cause) = cause else { return false };
        let named = class.retry_when.is_empty()
            || class.retry_when.contains(&cause)
            || self.mutant(Mutant::CauseIgnored);
        let (failures, losses) = self.charged(node);
        let left = failures <= class.max_retries && losses < self.config.max_losses;
        self.stop.is_none() && named && left
    }

    /// Microseconds until the next try: doubled with each failure, at most an hour, and up to a quarter more at random.
    fn backoff(&self, node: NodeIx) -> u64 {
        let failures = self.charged(node).0;
        let base = self
            .graph
            .class(node)
            .backoff
            .as_micros()
            .min(3_600_000_000) as u64;
        let doubled = base
            .saturating_mul(1 << (failures - 1).min(32))
            .min(3_600_000_000);
        let random = mix(self.config.seed, u64::from(node.0), u64::from(failures)) >> 54;
        doubled + (doubled / 4096) * random
    }

    fn grow_memory(&mut self, node: NodeIx) {
        let percent = u64::from(self.graph.class(node).memory_percent);
        let mut shape = self.lanes.shapes[self.shape_of(node) as usize].clone();
        let group = self.bound_host(node);
        let demand = &mut shape.demand;
        let largest = self
            .hosts
            .largest_memory(demand, shape.profile.as_deref(), group);
        let grown =
            (u128::from(demand.memory) * u128::from(percent) / 100).min(u128::from(u64::MAX));
        // More than any worker has would wait for ever; all that the largest has is worth a try.
        let memory = (grown as u64).min(largest.max(demand.memory));
        if memory > demand.memory {
            demand.memory = memory;
            self.ask_for(node, shape);
        }
    }

    fn lost(&mut self, attempt: &Attempt, other: Option<AttemptId>) {
        let node = attempt.node;
        let as_failure = self.mutant(Mutant::LossCountsAsFailure);
        let reset = self.mutant(Mutant::RetryReset);
        let charged = self.is_charged(attempt) && !self.mutant(Mutant::LossesUncounted);
        let n = &mut self.graph.nodes[node.index()];
        n.losses = n.losses.saturating_add(u16::from(charged));
        n.failures = if reset {
            0
        } else {
            n.failures.saturating_add(u16::from(as_failure))
        };
        if let Some(other) = other {
            self.run_alone(node, other);
        } else if self.stop.is_some() {
            self.end(node, NodeEnd::Cancelled);
        } else if self.charged(node).1 >= self.config.max_losses
            || as_failure && self.charged(node).0 > self.graph.class(node).max_retries
        {
            self.end(node, NodeEnd::Failed);
        } else {
            self.emit(Notice::WillRetry {
                node,
                at: self.now,
                lost: true,
            });
            if !self.mutant(Mutant::NoRequeueOnLoss) {
                self.queue_again(node);
            }
        }
    }

    /// Queues a node that ran and must run again, unless its needs are no longer there, or were made anew: then it may
    /// have become another action.
    pub(crate) fn queue_again(&mut self, node: NodeIx) {
        self.queue_again_since(node, self.now);
    }

    fn queue_again_since(&mut self, node: NodeIx, since: Time) {
        let out_of_date = std::mem::take(&mut self.graph.nodes[node.index()].ask_again);
        if self.graph.node(node).open == 0 && !out_of_date {
            self.enqueue(node, since);
        } else {
            self.set_state(node, NodeState::Waiting);
            self.hand_over(node);
            self.go_on(node);
        }
    }

    fn inputs_missing(
        &mut self,
        attempt: &Attempt,
        producers: Vec<NodeIx>,
        other: Option<AttemptId>,
    ) {
        if self.stop.is_some() {
            return self.came_back(attempt, other);
        }
        let node = attempt.node;
        let bounded = !self.mutant(Mutant::RewindLoop);
        let max = self.config.max_rewinds;
        let rewindable: Vec<NodeIx> = producers
            .into_iter()
            .filter(|p| {
                let state = self.state(*p);
                let is_good = matches!(
                    state,
                    Some(NodeState::Done(NodeEnd::Succeeded | NodeEnd::Cached))
                );
                is_good && self.graph.is_live(*p)
            })
            .collect();
        let worn_out = rewindable
            .iter()
            .any(|p| self.graph.node(*p).rewinds >= max);
        let n = &mut self.graph.nodes[node.index()];
        if rewindable.is_empty() && n.open == 0 {
            n.stalls = n.stalls.saturating_add(1);
        }
        if bounded && (worn_out || n.stalls > max) {
            self.end(node, NodeEnd::Failed);
            if let Some(other) = other {
                self.cancel(other, true);
            }
            return;
        }
        for producer in rewindable {
            self.rewind(producer);
        }
        match other {
            Some(other) => self.run_alone(node, other),
            None => self.queue_again(node),
        }
    }

    /// Makes a node that succeeded pending again.
    fn rewind(&mut self, node: NodeIx) {
        let is_done = |state| matches!(state, NodeState::Done(_));
        if !self.graph.is_live(node) || !is_done(self.graph.node(node).state) {
            return;
        }
        self.set_state(node, NodeState::Waiting);
        self.emit(Notice::Rewound { node });
        let mut sets = self.graph.memberships(node);
        while let Some(set) = self.graph.next_membership(&mut sets) {
            if self.mutant(Mutant::RewindForgets) {
                break;
            }
            self.hosts.count_bytes(set, self.graph.node(node), false);
            let bytes = self.graph.node(node).bytes;
            let s = &mut self.graph.sets[set.index()];
            s.pending += 1;
            s.good -= 1;
            s.bytes -= bytes;
            self.set_changed(set);
        }
        let n = &mut self.graph.nodes[node.index()];
        n.rewinds = n.rewinds.saturating_add(1);
        n.fate = Fate::Pending;
        n.ask_again = false;
        n.bytes = 0;
        n.replicas = Replicas::None;
        self.go_on(node);
    }

    pub(crate) fn committed(&mut self, node: NodeIx, durable: bool) {
        if let Some(NodeState::Committing { .. }) = self.state(node) {
            self.end(
                node,
                if durable {
                    NodeEnd::Succeeded
                } else {
                    NodeEnd::Failed
                },
            );
        }
    }

    pub(crate) fn restore(&mut self, node: NodeIx, failures: u32, losses: u32) {
        if self.mutant(Mutant::RestoreIgnored) {
            return;
        }
        if let Some(n) = self.graph.nodes.get_mut(node.index()) {
            let clamp = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
            n.failures = n.failures.max(clamp(failures));
            n.losses = n.losses.max(clamp(losses));
            n.attempts = n.attempts.max(failures.saturating_add(losses));
        }
    }

    pub(crate) fn replica(&mut self, node: NodeIx, host: HostIx, added: bool) {
        let Some(n) = self.graph.nodes.get_mut(node.index()) else {
            return;
        };
        let changed = match added {
            true => n.replicas.add(host),
            false => n.replicas.drop(host),
        };
        if changed && n.fate == Fate::Good {
            let mut sets = self.graph.memberships(node);
            while let Some(set) = self.graph.next_membership(&mut sets) {
                self.hosts
                    .replica_bytes(set, host, self.graph.node(node).bytes, added);
            }
        }
    }

    pub(crate) fn timer_fired(&mut self, id: TimerId) {
        match self.timers.remove(&id.0) {
            Some(Timer::Retry(node)) => {
                if let Some(NodeState::BackingOff { timer, .. }) = self.state(node)
                    && timer == id
                {
                    self.queue_again(node);
                }
            }
            Some(Timer::Straggler(attempt)) => self.maybe_straggling(attempt),
            Some(Timer::Held(lane)) => self.lanes.release_held(lane),
            Some(Timer::Rescue) => self.rescue_slow(),
            Some(Timer::Spread) => self.may_spread_again(),
            None => {}
        }
    }

    pub(crate) fn cancel(&mut self, id: AttemptId, kill: bool) {
        let Some(attempt) = self.attempts.get_mut(&id.0) else {
            return;
        };
        if attempt.cancelled.is_none_or(|killed| kill && !killed) {
            attempt.cancelled = Some(kill);
            self.out.push(Action::Cancel { attempt: id, kill });
        }
    }

    pub(crate) fn demand_of(&self, node: NodeIx) -> &Resources {
        self.lanes.demand(self.shape_of(node))
    }

    pub(crate) fn shape_of(&self, node: NodeIx) -> u32 {
        let n = self.graph.node(node);
        self.lanes.shape_of(node, n.class, n.grown)
    }
}
