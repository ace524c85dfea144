//! Second attempts: when an attempt takes far longer than its job's others do, or runs on a slow worker while a fast one idles.

use std::cmp::Reverse;

use dagrun_model::{AttemptId, NodeIx, WorkerIx};

use crate::{
    NodeState, Notice, Scheduler, Time,
    ahead::Recent,
    attempts::{Attempt, Timer},
};

/// How many durations of a job are remembered.
const KEPT: usize = 31;
/// How often slow workers are looked at, in microseconds.
const RESCUE_EVERY: u64 = 100_000;

/// How long attempts of a job took, the last ones, as if on a worker of the reference's speed.
#[derive(Clone, Debug, Default)]
pub(crate) struct JobTimes {
    last: Vec<u64>,
    next: usize,
    /// Attempts that started before there was a median.
    unwatched: Vec<AttemptId>,
    /// How long processes of its attempts ran.
    pub(crate) recent: Recent,
}

impl JobTimes {
    fn add(&mut self, micros: u64) {
        if self.last.len() < KEPT {
            self.last.push(micros);
        } else {
            self.last[self.next] = micros;
            self.next = (self.next + 1) % KEPT;
        }
    }

    fn median(&self) -> Option<u64> {
        let mut sorted = self.last.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }
}

impl Scheduler {
    fn speculates(&self, node: NodeIx) -> bool {
        let class = self.graph.class(node);
        self.config.speculate && class.speculate && !class.never_cache
    }

    pub(crate) fn attempt_started(&mut self, id: AttemptId) {
        let now = self.now;
        let Some(attempt) = self.attempts.get_mut(&id.0).filter(|a| !a.started) else {
            return;
        };
        attempt.started = true;
        attempt.since = now;
        let attempt = *attempt;
        self.runs_now(attempt.node, id);
        self.watch(id, &attempt);
    }

    /// Sees to it that an attempt which runs is looked at when it takes too long.
    pub(crate) fn watch(&mut self, id: AttemptId, attempt: &Attempt) {
        if !self.speculates(attempt.node) {
            return;
        }
        match self.straggling_at(attempt) {
            Some(at) => {
                self.set_timer(at.max(self.now), Timer::Straggler(id));
            }
            None => {
                let job = self.graph.node(attempt.node).job;
                self.times[job.index()].unwatched.push(id);
            }
        }
    }

    /// When an attempt will have taken too long, if that is known.
    fn straggling_at(&self, attempt: &Attempt) -> Option<Time> {
        let times = &self.times[self.graph.node(attempt.node).job.index()];
        if times.last.len() < self.config.straggler_samples.min(KEPT) {
            return None;
        }
        let percent = u64::from(self.config.straggler_percent);
        let floor = u64::try_from(self.config.straggler_floor.as_micros()).unwrap_or(u64::MAX);
        let speed = self.hosts.known(attempt.worker).speed;
        let there = times.median()?.saturating_mul(1000) / speed;
        let limit = (there.saturating_mul(percent) / 100).max(floor);
        let left = limit.saturating_sub(attempt.before);
        Some(Time(attempt.since.0.saturating_add(left)))
    }

    /// Takes a success into its job's median, and watches those that started before there was one.
    pub(crate) fn learn_time(&mut self, attempt: &Attempt) {
        if !self.speculates(attempt.node) {
            return;
        }
        let job = self.graph.node(attempt.node).job.index();
        let took = self.now.0 - attempt.since.0 + attempt.before;
        let speed = self.hosts.known(attempt.worker).speed;
        let took = took.saturating_mul(speed) / 1000;
        let known = self.times[job].last.len() >= self.config.straggler_samples.min(KEPT);
        if let Some(median) = self.times[job].median().filter(|it| known && *it > 0) {
            let slowness = took.saturating_mul(1000) / median;
            self.hosts.learn_slowness(attempt.worker, slowness);
        }
        self.times[job].add(took);
        if self.straggling_at(attempt).is_none() {
            return;
        }
        for id in std::mem::take(&mut self.times[job].unwatched) {
            if let Some(attempt) = self.attempts.get(&id.0).copied()
                && let Some(at) = self.straggling_at(&attempt)
            {
                self.set_timer(at.max(self.now), Timer::Straggler(id));
            }
        }
    }

    pub(crate) fn maybe_straggling(&mut self, id: AttemptId) {
        let Some(attempt) = self.attempts.get(&id.0).copied() else {
            return;
        };
        match self.straggling_at(&attempt) {
            // The median has grown since the timer was set.
            Some(at) if at > self.now => {
                self.set_timer(at, Timer::Straggler(id));
            }
            Some(_) => {
                self.stragglers.push(id);
                self.seconds_due = true;
            }
            None => {}
        }
    }

    /// Gives stragglers a second attempt where a slot is free on another worker.
    pub(crate) fn start_seconds(&mut self) {
        if self.stopped() {
            return;
        }
        if std::mem::take(&mut self.seconds_due) {
            self.try_seconds();
        }
        self.plan_rescue();
    }

    fn try_seconds(&mut self) {
        for id in std::mem::take(&mut self.stragglers) {
            let Some(attempt) = self.attempts.get(&id.0).copied() else {
                continue;
            };
            if !self.may_have_second(id, &attempt) {
                continue;
            }
            match self.room_for_second(&attempt) {
                Some(worker) if self.has_inputs(attempt.node) => {
                    self.start_second(id, &attempt, worker);
                }
                _ => self.stragglers.push(id),
            }
        }
    }

    /// Whether an attempt runs alone and another one beside it could be of use.
    fn may_have_second(&self, id: AttemptId, attempt: &Attempt) -> bool {
        let alone = NodeState::Running {
            attempt: id,
            second: None,
        };
        self.graph.node(attempt.node).state == alone
            && attempt.cancelled.is_none()
            // A node that was lost may kill its workers: one at a time.
            && !self.was_lost(attempt.node)
    }

    fn has_inputs(&self, node: NodeIx) -> bool {
        let n = self.graph.node(node);
        n.open == 0 && !n.ask_again
    }

    fn start_second(&mut self, id: AttemptId, attempt: &Attempt, worker: WorkerIx) {
        let node = attempt.node;
        self.emit(Notice::Speculated { node });
        let second = self.start(node, worker, false, None);
        if let Some(first) = self.attempts.get_mut(&id.0) {
            first.paired = true;
        }
        self.speculation.started += 1;
        let second = Some(second);
        let attempt = id;
        self.set_state(node, NodeState::Running { attempt, second });
    }

    /// An attempt ended when its node had no use for it any more.
    pub(crate) fn count_loser(&mut self, attempt: &Attempt) {
        if attempt.paired {
            self.speculation.lost += 1;
            self.speculation.lost_micros += self.now.0 - attempt.since.0 + attempt.before;
        }
    }

    /// Another worker with room, rather on another host, rather a fast one, rather one with much room.
    fn room_for_second(&mut self, attempt: &Attempt) -> Option<WorkerIx> {
        self.hosts.file_moved();
        let shape = &self.lanes.shapes[self.shape_of(attempt.node) as usize];
        let host = self.hosts.host_of(attempt.worker);
        let able = |ix: &WorkerIx| {
            let worker = self.hosts.known(*ix);
            *ix != attempt.worker
                && self.hosts.may_take(worker, shape)
                && worker.reserved.is_none()
                && !worker.alone
                && worker.is_clear_for(&shape.demand)
        };
        let mut able = self
            .hosts
            .with_room(shape.demand.cpu_milli, true)
            .filter(able);
        let first = able.next()?;
        let elsewhere = |ix: &WorkerIx| self.hosts.host_of(*ix) != host;
        let other = std::iter::once(first).chain(able).find(elsewhere);
        Some(other.unwrap_or(first))
    }

    // --- slow workers ---------------------------------------------------------------------------

    /// When nothing is left to start, what runs on slow workers may be done sooner by a fast one that idles. That is looked at
    /// now and then, for it takes a look at all that runs there.
    fn plan_rescue(&mut self) {
        let idle = self.counts.ready + self.counts.queued == 0 && self.counts.running > 0;
        if !self.rescue_due && idle && self.config.speculate && self.hosts.uneven() {
            self.rescue_due = true;
            let at = Time(self.now.0.saturating_add(RESCUE_EVERY));
            self.set_timer(at, Timer::Rescue);
        }
    }

    /// Runs beside slow workers what a faster one would end sooner; what has the longest way to go comes first.
    pub(crate) fn rescue_slow(&mut self) {
        self.rescue_due = false;
        if self.counts.ready + self.counts.queued > 0 || self.stopped() {
            return;
        }
        let running = self.hosts.live().flat_map(|(_, it)| it.attempts.iter());
        let mut slow: Vec<(u64, AttemptId)> = running
            .filter_map(|id| Some((self.time_left(*id)?, *id)))
            .collect();
        slow.sort_unstable_by_key(|(left, id)| (Reverse(*left), *id));
        for (left, id) in slow {
            let Some(attempt) = self.attempts.get(&id.0).copied() else {
                continue;
            };
            let Some(worker) = self.room_for_second(&attempt) else {
                continue;
            };
            let there = self.time_on(attempt.node, worker).unwrap_or(u64::MAX);
            if there.saturating_add(there / 8) < left {
                self.start_second(id, &attempt, worker);
            }
        }
    }

    /// How long an attempt that may get a second one will still run, by what its job takes.
    fn time_left(&self, id: AttemptId) -> Option<u64> {
        let attempt = self.attempts.get(&id.0)?;
        let node = attempt.node;
        let may = attempt.started
            && self.speculates(node)
            && self.may_have_second(id, attempt)
            && self.has_inputs(node);
        let takes = self.time_on(node, attempt.worker).filter(|_| may)?;
        let ran = self.now.0 - attempt.since.0 + attempt.before;
        takes.checked_sub(ran)
    }

    /// How long a node takes on a worker, by what its job took so far; nothing where that is little, or little is known.
    fn time_on(&self, node: NodeIx, worker: WorkerIx) -> Option<u64> {
        let times = &self.times[self.graph.node(node).job.index()];
        if times.last.len() < self.config.straggler_samples.min(KEPT) {
            return None;
        }
        let floor = u64::try_from(self.config.straggler_floor.as_micros()).unwrap_or(u64::MAX);
        let speed = self.hosts.known(worker).shown_speed();
        let takes = times.median()?.saturating_mul(1000) / speed;
        (takes >= floor).then_some(takes)
    }
}
