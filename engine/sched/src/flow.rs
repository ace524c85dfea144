//! The way of a node: sets, look-up, single flight, attempts, retries, commit, rewind.
//!
//! Knows nothing of where attempts are placed.

use dagrun_model::{
    AttemptId, HostIx, NodeIx, PlanDelta, Resources, RetryCause, SetIx, Trigger, WorkerIx,
};

use crate::{
    Action, AttemptEnd, CacheAnswer, Mutant, NodeEnd, NodeState, Notice, Scheduler, Time, TimerId,
    graph::{Fate, NONE, Status},
    mix,
    straggle::JobTimes,
};

/// A live attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) node: NodeIx,
    pub(crate) worker: WorkerIx,
    pub(crate) shape: u32,
    /// When its process started, or when it was submitted.
    pub(crate) since: Time,
    pub(crate) started: bool,
    /// The strongest cancellation that was asked for.
    pub(crate) cancelled: Option<bool>,
}

/// An action that is under way: who does it, and the end of the list of those who wait for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flight {
    pub(crate) leader: NodeIx,
    tail: NodeIx,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Timer {
    Retry(NodeIx),
    Straggler(AttemptId),
    Held(u32),
}

impl Scheduler {
    pub(crate) fn extend(&mut self, delta: PlanDelta) {
        let first = delta.first_node as usize;
        self.graph.extend(delta);
        self.lanes.add_classes(&self.graph.classes);
        self.hosts.resize(&self.graph);
        let nodes = self.graph.nodes.len();
        self.actions.resize(nodes, 0);
        self.counts.waiting += (nodes - first) as u64;
        let jobs = self.graph.nodes[first..]
            .iter()
            .map(|n| n.job.index() + 1)
            .max()
            .unwrap_or(0);
        if jobs > self.times.len() {
            self.times.resize_with(jobs, JobTimes::default);
        }
        for node in first..nodes {
            self.count_open(NodeIx::from_index(node));
        }
        for node in (first..nodes).map(NodeIx::from_index) {
            if self.graph.node(node).state != NodeState::Waiting {
                continue;
            }
            if self.stop.is_some() {
                self.end(node, NodeEnd::Cancelled);
            } else {
                self.go_on(node);
            }
        }
    }

    fn count_open(&mut self, node: NodeIx) {
        let trigger = self.graph.node(node).trigger;
        let sets = &self.graph.sets;
        let closed = |set: &SetIx| sets[set.index()].status.closed_for(trigger);
        let open = self
            .graph
            .sets_of(node)
            .iter()
            .filter(|set| !closed(set))
            .count();
        self.graph.nodes[node.index()].open = open as u32;
    }

    /// Looks up, skips or leaves a waiting node, whatever its sets say.
    fn go_on(&mut self, node: NodeIx) {
        let n = self.graph.node(node);
        if n.trigger == Trigger::Succeeded
            && let Some(set) = self.graph.broken_set(node)
        {
            self.skip(node, set);
        } else if self.graph.node(node).open == 0 {
            self.set_state(node, NodeState::LookingUp);
            self.to_look_up.push(node);
        }
    }

    fn skip(&mut self, node: NodeIx, set: SetIx) {
        let culprit = NodeIx(self.graph.sets[set.index()].culprit);
        self.end(node, NodeEnd::Skipped { because: culprit });
    }

    // --- ends ---------------------------------------------------------------------------------

    /// Makes a node terminal; its sets hear of it when the event's own work is done.
    pub(crate) fn end(&mut self, node: NodeIx, end: NodeEnd) {
        let was = self.graph.node(node).state;
        debug_assert!(
            !matches!(was, NodeState::Done(_)),
            "{node:?} ends twice: {:?}",
            self.story(node)
        );
        if was == NodeState::Sharing && self.actions[node.index()] != 0 {
            self.leave_waiters(node);
        }
        self.set_state(node, NodeState::Done(end));
        let fate = self.fate_of(node, end);
        self.graph.nodes[node.index()].fate = fate;
        self.ended.push_back(node);
        self.emit(Notice::NodeDone { node, end });
        self.land(node, end);
        if end == NodeEnd::Failed && fate == Fate::Bad && self.config.fail_fast {
            self.fail_fast_tripped = true;
        }
    }

    fn fate_of(&self, node: NodeIx, end: NodeEnd) -> Fate {
        match end {
            NodeEnd::Cached | NodeEnd::Succeeded => Fate::Good,
            NodeEnd::Failed
                if self.graph.class(node).continue_on_error
                    && !self.mutant(Mutant::ContinueIgnored) =>
            {
                Fate::Good
            }
            NodeEnd::ConditionFalse if self.mutant(Mutant::ConditionFails) => Fate::Bad,
            NodeEnd::ConditionFalse => Fate::Dropped,
            NodeEnd::Skipped { because } => match self.graph.node(because).fate {
                Fate::Dropped => Fate::Dropped,
                _ => Fate::Bad,
            },
            NodeEnd::Failed | NodeEnd::Cancelled => Fate::Bad,
        }
    }

    /// Tells sets of their members' ends, and their consumers, until nothing changes any more.
    pub(crate) fn settle(&mut self) {
        while let Some(node) = self.ended.pop_front() {
            let fate = self.graph.node(node).fate;
            let mut sets = self.graph.memberships(node);
            while let Some(set) = self.graph.next_membership(&mut sets) {
                self.member_ended(set, node, fate);
            }
        }
    }

    fn member_ended(&mut self, at: SetIx, member: NodeIx, fate: Fate) {
        self.hosts.count_bytes(at, self.graph.node(member), true);
        let bytes = self.graph.node(member).bytes;
        let set = &mut self.graph.sets[at.index()];
        set.pending -= 1;
        match fate {
            Fate::Good => {
                set.good += 1;
                set.bytes += bytes;
            }
            Fate::Dropped => set.dropped += 1,
            Fate::Bad | Fate::Pending => set.bad += 1,
        }
        let breaks =
            fate == Fate::Bad || fate == Fate::Dropped && (!set.gather || set.min.is_some());
        if breaks && set.culprit == NONE {
            set.culprit = member.0;
        }
        self.set_changed(at);
    }

    fn set_changed(&mut self, at: SetIx) {
        let min_ignored = self.mutant(Mutant::MinIgnored);
        let early = self.mutant(Mutant::GatherEarly);
        let set = &mut self.graph.sets[at.index()];
        let was = set.status;
        set.status = set.evaluate(min_ignored);
        if early && set.gather && set.pending == 1 && set.status == Status::Open {
            set.status = Status::Satisfied;
        }
        let is = set.status;
        if was == is {
            return;
        }
        let mut consumers = self.graph.consumers(at);
        while let Some(node) = self.graph.next_consumer(&mut consumers) {
            self.need_changed(node, at, was, is);
        }
    }

    fn need_changed(&mut self, node: NodeIx, set: SetIx, was: Status, is: Status) {
        let ignored = self.mutant(Mutant::TriggerIgnored);
        let n = &mut self.graph.nodes[node.index()];
        let trigger = if ignored {
            Trigger::Succeeded
        } else {
            n.trigger
        };
        match (was.closed_for(trigger), is.closed_for(trigger)) {
            (false, true) => n.open -= 1,
            (true, false) => n.open += 1,
            _ => {}
        }
        let (open, state) = (n.open, n.state);
        if trigger == Trigger::Succeeded && is.broken() {
            if matches!(state, NodeState::Waiting | NodeState::LookingUp)
                && !(self.mutant(Mutant::SkipForgets) && self.skipped_by(set))
            {
                self.skip(node, set);
            }
        } else if open == 0 {
            if state == NodeState::Waiting {
                self.go_on(node);
            }
        } else if !is.closed_for(trigger) {
            self.retract(node);
        }
    }

    fn skipped_by(&self, set: SetIx) -> bool {
        let culprit = NodeIx(self.graph.sets[set.index()].culprit);
        matches!(
            self.graph.node(culprit).state,
            NodeState::Done(NodeEnd::Skipped { .. })
        )
    }

    /// Takes a node back that has not started, because one of its sets was opened again.
    fn retract(&mut self, node: NodeIx) {
        match self.graph.node(node).state {
            NodeState::LookingUp | NodeState::Running { .. } => {
                self.graph.nodes[node.index()].ask_again = true;
            }
            NodeState::Sharing => {
                self.leave_waiters(node);
                self.set_state(node, NodeState::Waiting);
            }
            state @ (NodeState::Ready { .. } | NodeState::BackingOff { .. }) => {
                if let NodeState::BackingOff { until, .. } = state {
                    self.resting.insert(node, until);
                }
                self.set_state(node, NodeState::Waiting);
                self.hand_over(node);
            }
            _ => {}
        }
    }

    // --- the cache and equal actions ----------------------------------------------------------

    pub(crate) fn cache_answered(&mut self, node: NodeIx, answer: CacheAnswer) {
        if self.state(node) != Some(NodeState::LookingUp) {
            return;
        }
        if std::mem::take(&mut self.graph.nodes[node.index()].ask_again) {
            self.set_state(node, NodeState::Waiting);
            self.go_on(node);
            return;
        }
        match answer {
            CacheAnswer::Hit { bytes } => {
                self.graph.nodes[node.index()].bytes = bytes;
                self.end(node, NodeEnd::Cached);
            }
            CacheAnswer::Miss { action } => self.missed(node, action.map(|digest| digest.0)),
            CacheAnswer::ConditionFalse => match self.graph.broken_set(node) {
                Some(set) => self.skip(node, set),
                None => self.end(node, NodeEnd::ConditionFalse),
            },
            CacheAnswer::Unrunnable => self.end(node, NodeEnd::Failed),
        }
    }

    fn missed(&mut self, node: NodeIx, action: Option<[u8; 32]>) {
        let (failures, losses) = self.charged(node);
        if failures > self.graph.class(node).max_retries || losses >= self.config.max_losses {
            self.end(node, NodeEnd::Failed);
            return;
        }
        let Some(digest) = action.filter(|_| !self.mutant(Mutant::SingleFlightLost)) else {
            self.actions[node.index()] = 0;
            self.enqueue(node);
            return;
        };
        let full = u128::from_le_bytes(digest[..16].try_into().expect("a digest has 32 bytes"));
        let flight = self.flights.get(&(full as u64)).copied();
        match flight {
            None => {
                self.actions[node.index()] = full;
                self.flights.insert(
                    full as u64,
                    Flight {
                        leader: node,
                        tail: node,
                    },
                );
                self.enqueue(node);
            }
            Some(flight) if self.actions[flight.leader.index()] == full => {
                self.actions[node.index()] = full;
                self.graph.nodes[flight.tail.index()].next_waiter = node.0;
                self.flights.insert(
                    full as u64,
                    Flight {
                        tail: node,
                        ..flight
                    },
                );
                self.set_state(node, NodeState::Sharing);
            }
            // Two actions share 64 bits of their digests: this one runs for itself.
            Some(_) => {
                self.actions[node.index()] = 0;
                self.enqueue(node);
            }
        }
    }

    fn flight_led_by(&self, node: NodeIx) -> Option<Flight> {
        let key = self.actions[node.index()];
        let flight = self.flights.get(&(key as u64)).copied();
        flight.filter(|flight| key != 0 && flight.leader == node)
    }

    pub(crate) fn leader(&self, node: NodeIx) -> Option<NodeIx> {
        let key = self.actions[node.index()];
        self.flights.get(&(key as u64)).map(|flight| flight.leader)
    }

    /// Ends the flight that a terminal node led: its waiters have the same result, or the first of them tries.
    fn land(&mut self, node: NodeIx, end: NodeEnd) {
        if self.flight_led_by(node).is_none() {
            return;
        }
        if end != NodeEnd::Succeeded && end != NodeEnd::Cached {
            self.hand_over(node);
            return;
        }
        self.flights.remove(&(self.actions[node.index()] as u64));
        let (bytes, replicas) = (self.graph.node(node).bytes, self.graph.node(node).replicas);
        let mut next = std::mem::replace(&mut self.graph.nodes[node.index()].next_waiter, NONE);
        while next != NONE {
            let waiter = &mut self.graph.nodes[next as usize];
            let after = std::mem::replace(&mut waiter.next_waiter, NONE);
            waiter.bytes = bytes;
            waiter.replicas = replicas;
            self.actions[next as usize] = 0;
            self.end(NodeIx(next), NodeEnd::Cached);
            next = after;
        }
    }

    /// The first waiter takes over from a leader that will not do the action now.
    fn hand_over(&mut self, node: NodeIx) {
        let Some(flight) = self.flight_led_by(node) else {
            return;
        };
        let key = self.actions[node.index()] as u64;
        self.actions[node.index()] = 0;
        let first = std::mem::replace(&mut self.graph.nodes[node.index()].next_waiter, NONE);
        if first == NONE || self.mutant(Mutant::WaitersForgotten) {
            self.flights.remove(&key);
            return;
        }
        self.flights.insert(
            key,
            Flight {
                leader: NodeIx(first),
                ..flight
            },
        );
        self.enqueue(NodeIx(first));
    }

    fn leave_waiters(&mut self, node: NodeIx) {
        let key = self.actions[node.index()] as u64;
        let after = std::mem::replace(&mut self.graph.nodes[node.index()].next_waiter, NONE);
        self.actions[node.index()] = 0;
        let Some(flight) = self.flights.get_mut(&key) else {
            return;
        };
        let mut at = flight.leader.0;
        while at != NONE && self.graph.nodes[at as usize].next_waiter != node.0 {
            at = self.graph.nodes[at as usize].next_waiter;
        }
        if at != NONE {
            self.graph.nodes[at as usize].next_waiter = after;
            if flight.tail == node {
                flight.tail = NodeIx(at);
            }
        }
    }

    /// Makes a node ready, or lets it rest first where its last failure was too short ago.
    fn enqueue(&mut self, node: NodeIx) {
        if let Some(until) = self.resting.remove(&node)
            && until > self.now
        {
            self.rest(node, until);
            return;
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        self.set_state(
            node,
            NodeState::Ready {
                since: self.now,
                seq,
            },
        );
    }

    fn rest(&mut self, node: NodeIx, until: Time) {
        let timer = self.set_timer(until, Timer::Retry(node));
        self.set_state(node, NodeState::BackingOff { timer, until });
    }

    // --- attempts -----------------------------------------------------------------------------

    pub(crate) fn attempt_ended(&mut self, id: AttemptId, end: AttemptEnd) {
        let Some(attempt) = self.attempts.remove(&id.0) else {
            return;
        };
        let leak = end == AttemptEnd::Lost && self.mutant(Mutant::LeakSlot);
        if !leak {
            self.hosts
                .release(attempt.worker, id, self.lanes.demand(attempt.shape));
        }
        self.after_attempt(id, attempt, end);
    }

    pub(crate) fn worker_lost(&mut self, worker: WorkerIx) {
        let Some(lost) = self.hosts.lose(worker) else {
            return;
        };
        self.stuck_told = false;
        for id in lost {
            if self.mutant(Mutant::StaleAccepted) {
                let Some(attempt) = self.attempts.get(&id.0).copied() else {
                    continue;
                };
                self.after_attempt(id, attempt, AttemptEnd::Lost);
            } else if let Some(attempt) = self.attempts.remove(&id.0) {
                self.after_attempt(id, attempt, AttemptEnd::Lost);
            }
        }
        self.host_weakened(worker);
    }

    pub(crate) fn worker_draining(&mut self, worker: WorkerIx) {
        if self.hosts.drain(worker) {
            self.stuck_told = false;
            self.host_weakened(worker);
        }
    }

    fn after_attempt(&mut self, id: AttemptId, attempt: Attempt, end: AttemptEnd) {
        let node = attempt.node;
        let stale = self.mutant(Mutant::StaleAccepted) || self.mutant(Mutant::DupCommit);
        let other = match self.graph.node(node).state {
            NodeState::Running { attempt, second } if attempt == id => second,
            NodeState::Running { attempt, second } if second == Some(id) => Some(attempt),
            // The other attempt of the pair was faster.
            _ => {
                if stale && let AttemptEnd::Succeeded { .. } = end {
                    self.out.push(Action::Commit { node, attempt: id });
                }
                return;
            }
        };
        match end {
            AttemptEnd::Succeeded { bytes } => self.succeeded(id, attempt, bytes, other),
            AttemptEnd::Failed(cause) => self.failed(node, cause, other),
            AttemptEnd::Lost => self.lost(node, other),
            AttemptEnd::Cancelled if self.stop.is_some() => match other {
                Some(other) => self.run_alone(node, other),
                None => self.end(node, NodeEnd::Cancelled),
            },
            AttemptEnd::Cancelled => self.lost(node, other),
            AttemptEnd::InputsMissing(producers) => self.inputs_missing(node, producers, other),
        }
    }

    fn run_alone(&mut self, node: NodeIx, attempt: AttemptId) {
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
        self.learn_time(&attempt);
        let host = self.hosts.host_of(attempt.worker);
        let n = &mut self.graph.nodes[node.index()];
        n.bytes = bytes;
        n.replicas = bit(host);
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

    fn failed(&mut self, node: NodeIx, cause: Option<RetryCause>, other: Option<AttemptId>) {
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
        let mut demand = self.lanes.demand(self.shape_of(node)).clone();
        let profile = self.graph.class(node).executor.clone();
        let group = self.bound_host(node);
        let largest = self
            .hosts
            .largest_memory(&demand, profile.as_deref(), group);
        let grown =
            (u128::from(demand.memory) * u128::from(percent) / 100).min(u128::from(u64::MAX));
        // More than any worker has would wait for ever; all that the largest has is worth a try.
        let memory = (grown as u64).min(largest.max(demand.memory));
        if memory > demand.memory {
            demand.memory = memory;
            self.lanes.grow(node, demand, profile);
            self.graph.nodes[node.index()].grown = true;
        }
    }

    fn lost(&mut self, node: NodeIx, other: Option<AttemptId>) {
        let uncounted = self.mutant(Mutant::LossesUncounted);
        let as_failure = self.mutant(Mutant::LossCountsAsFailure);
        let reset = self.mutant(Mutant::RetryReset);
        let n = &mut self.graph.nodes[node.index()];
        n.losses = n.losses.saturating_add(u16::from(!uncounted));
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
    fn queue_again(&mut self, node: NodeIx) {
        let out_of_date = std::mem::take(&mut self.graph.nodes[node.index()].ask_again);
        if self.graph.node(node).open == 0 && !out_of_date {
            self.enqueue(node);
        } else {
            self.set_state(node, NodeState::Waiting);
            self.hand_over(node);
            self.go_on(node);
        }
    }

    fn inputs_missing(&mut self, node: NodeIx, producers: Vec<NodeIx>, other: Option<AttemptId>) {
        if self.stop.is_some() {
            match other {
                Some(other) => self.run_alone(node, other),
                None => self.end(node, NodeEnd::Cancelled),
            }
            return;
        }
        let bounded = !self.mutant(Mutant::RewindLoop);
        let max = self.config.max_rewinds;
        let rewindable: Vec<NodeIx> = producers
            .into_iter()
            .filter(|p| {
                let state = self.state(*p);
                matches!(
                    state,
                    Some(NodeState::Done(NodeEnd::Succeeded | NodeEnd::Cached))
                )
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
        if !matches!(self.graph.node(node).state, NodeState::Done(_)) {
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
        n.replicas = 0;
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
        let before = n.replicas;
        n.replicas = if added {
            before | bit(host)
        } else {
            before & !bit(host)
        };
        let changed = n.replicas != before;
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
                if let NodeState::BackingOff { timer, .. } = self.graph.node(node).state
                    && timer == id
                {
                    self.queue_again(node);
                }
            }
            Some(Timer::Straggler(attempt)) => self.maybe_straggling(attempt),
            Some(Timer::Held(lane)) => self.lanes.release_held(lane),
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

/// The bit of a host in [`crate::graph::Node::replicas`]; hosts beyond the 64th have none.
pub(crate) fn bit(host: HostIx) -> u64 {
    1u64.checked_shl(host.0).unwrap_or(0)
}
