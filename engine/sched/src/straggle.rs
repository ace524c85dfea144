//! Second attempts: when an attempt takes far longer than its job's others do.

use dagrun_model::{AttemptId, NodeIx};

use crate::{
    NodeState, Notice, Scheduler, Time,
    ahead::Recent,
    attempts::{Attempt, Timer},
};

/// How many durations of a job are remembered.
const KEPT: usize = 31;

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
        self.times[job].add(took.saturating_mul(speed) / 1000);
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
            Some(_) => self.stragglers.push(id),
            None => {}
        }
    }

    /// Gives stragglers a second attempt where a slot is free on another worker.
    pub(crate) fn start_seconds(&mut self) {
        if self.stragglers.is_empty() || self.stopped() {
            return;
        }
        for id in std::mem::take(&mut self.stragglers) {
            let Some(attempt) = self.attempts.get(&id.0).copied() else {
                continue;
            };
            let node = attempt.node;
            let alone = NodeState::Running {
                attempt: id,
                second: None,
            };
            if self.graph.node(node).state != alone
                || attempt.cancelled.is_some()
                // A node that was lost may kill its workers: one at a time.
                || self.charged(node).1 > 0
            {
                continue;
            }
            let n = self.graph.node(node);
            let inputs = n.open == 0 && !n.ask_again;
            let Some(worker) = self.room_for_second(&attempt).filter(|_| inputs) else {
                self.stragglers.push(id);
                continue;
            };
            self.emit(Notice::Speculated { node });
            let second = self.start(node, worker, false, None);
            self.set_state(
                node,
                NodeState::Running {
                    attempt: id,
                    second: Some(second),
                },
            );
        }
    }

    fn room_for_second(&self, attempt: &Attempt) -> Option<dagrun_model::WorkerIx> {
        let shape = &self.lanes.shapes[self.shape_of(attempt.node) as usize];
        let able = self.hosts.live().filter(|(ix, worker)| {
            *ix != attempt.worker
                && worker.serves(shape.profile.as_deref())
                && worker.reserved.is_none()
                && !worker.alone
                && shape.demand.fits(&worker.free)
        });
        able.max_by_key(|(ix, worker)| (worker.free.cpu_milli, u32::MAX - ix.0))
            .map(|(ix, _)| ix)
    }
}
