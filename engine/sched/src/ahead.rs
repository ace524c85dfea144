//! Attempts that are given to a worker before it has room for them.
//!
//! Where nodes take milliseconds, a slot would wait longer for the next one than a node takes. So a worker that says that it can
//! hold attempts gets some more of the same kind, and starts the next the moment one ends. How many follows from how long nodes of the
//! job took so far. Such an attempt takes nothing of the worker until there is room; it is taken back, uncharged,
//! when the run stops, the worker drains, or another worker is idle.

use dagrun_model::{AttemptId, NodeIx, Resources, WorkerIx};

use crate::{Action, AttemptEnd, Mutant, NodeState, Scheduler, attempts::Attempt};

/// Longer nodes are not given ahead, and no slot has more than so much to do ahead, in microseconds.
const MOST_MICROS: u64 = 50_000;
/// How many durations are remembered.
const KEPT: usize = 15;
/// Of more workers than that, so many are looked at for each event.
const MANY: usize = 64;

/// The median of the last durations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recent {
    last: [u64; KEPT],
    seen: usize,
    median: u64,
}

impl Recent {
    pub(crate) fn add(&mut self, micros: u64) {
        self.last[self.seen % KEPT] = micros;
        self.seen += 1;
        let mut sorted = self.last;
        let known = &mut sorted[..self.seen.min(KEPT)];
        known.sort_unstable();
        self.median = known[known.len() / 2];
    }

    pub(crate) fn median(&self) -> Option<u64> {
        self.median_of(1)
    }

    /// The median, where it is one of at least so many.
    pub(crate) fn median_of(&self, least: usize) -> Option<u64> {
        (self.seen >= least).then_some(self.median)
    }
}

impl Scheduler {
    /// Takes how long a success ran.
    pub(crate) fn learn_length(&mut self, node: NodeIx, micros: u64) {
        if micros > 0 && self.hosts.hold_ahead {
            let job = self.graph.node(node).job.index();
            self.times[job].recent.add(micros);
            self.recent.add(micros);
        }
    }

    /// How long a node will run, as far as can be known; what nothing is known of is taken for one like the others.
    fn expected(&self, node: NodeIx) -> Option<u64> {
        let job = self.graph.node(node).job.index();
        self.times[job]
            .recent
            .median()
            .or_else(|| self.recent.median())
    }

    /// Gives workers more than they have room for, one each in turn.
    pub(crate) fn start_ahead(&mut self, freed: Vec<WorkerIx>) {
        if !self.hosts.hold_ahead || self.stopped() {
            return;
        }
        let some = self.some_workers(freed);
        let mut given = self.counts.ready > 0;
        while given {
            given = false;
            for worker in &some {
                given |= self.start_one_ahead(*worker);
            }
        }
        if self.counts.queued > 0 {
            self.recall_for_idle(&some);
        }
    }

    /// All live workers; where they are many, those that were freed and some others, which change from event to event.
    fn some_workers(&mut self, freed: Vec<WorkerIx>) -> Vec<WorkerIx> {
        let alive = &self.hosts.alive;
        if alive.len() <= MANY {
            return alive.clone();
        }
        let from = self.cursor % alive.len();
        self.cursor = from + MANY;
        let others = alive.iter().cycle().skip(from).take(MANY).copied();
        let mut some: Vec<WorkerIx> = freed.into_iter().chain(others).collect();
        some.retain(|worker| self.hosts.known(*worker).alive);
        some.sort_unstable();
        some.dedup();
        some
    }

    fn start_one_ahead(&mut self, worker: WorkerIx) -> bool {
        let Some((lane, expected)) = self.next_ahead(worker) else {
            return false;
        };
        let Some(oldest) = self.lanes.lanes[lane as usize].queue.oldest() else {
            return false;
        };
        self.lanes.lanes[lane as usize]
            .queue
            .remove_oldest_of_run(0);
        let node = oldest.node;
        self.count_overtaken(lane, node, worker);
        self.start(node, worker, true, Some(expected));
        true
    }

    /// The lane whose oldest node a worker may get ahead, and how long that node is expected to run.
    fn next_ahead(&mut self, worker: WorkerIx) -> Option<(u32, u64)> {
        let known = self.hosts.known(worker);
        let full =
            known.queue.len() >= known.ahead as usize && !self.mutant(Mutant::AheadUnbounded);
        if known.ahead == 0 || full || known.draining || known.alone || known.reserved.is_some() {
            return None;
        }
        // All that it has asks for the same: whichever ends first makes room for the next.
        let shape_of = |id: &AttemptId| self.attempts.get(&id.0).map(|attempt| attempt.shape);
        let shape = shape_of(known.attempts.first()?)?;
        let mut all = known.attempts.iter().chain(known.queue.front());
        if !all.all(|id| shape_of(id) == Some(shape)) {
            return None;
        }
        let slots = known.attempts.len() as u64;
        let lane = self.oldest_lane_of(worker)?;
        let found = &self.lanes.lanes[lane as usize];
        let node = found.queue.oldest()?.node;
        let n = self.graph.node(node);
        let host = self.hosts.host_of(worker);
        let placed = !self.hosts.many()
            || (n.group.is_none() || found.host.is_some()) && self.cost(node, host) == 0;
        if found.shape != shape || found.held.is_some() || n.attempts > 0 || !placed {
            return None;
        }
        let expected = self
            .expected(node)
            .filter(|micros| *micros <= MOST_MICROS)?;
        let queued = self.hosts.known(worker).queue_micros;
        (queued + expected <= MOST_MICROS * slots).then_some((lane, expected))
    }

    /// The lane with the oldest node that a worker could run if it were idle.
    fn oldest_lane_of(&mut self, worker: WorkerIx) -> Option<u32> {
        let mut oldest: Option<(u64, u32)> = None;
        let served: Vec<u32> = self.lanes.served_by(self.hosts.host_of(worker)).collect();
        for ix in served {
            let lane = &self.lanes.lanes[ix as usize];
            let known = self.hosts.known(worker);
            let shape = &self.lanes.shapes[lane.shape as usize];
            let able = lane.live > 0
                && lane.host.is_none_or(|host| host == known.host)
                && self.hosts.may_take(known, shape);
            if able
                && let Some(head) = self.head(ix)
                && oldest.is_none_or(|(best, _)| head.seq < best)
            {
                oldest = Some((head.seq, ix));
            }
        }
        oldest.map(|(_, lane)| lane)
    }

    /// Books those that the worker has begun by itself now that it has room.
    pub(crate) fn promote(&mut self, worker: WorkerIx) {
        while let Some(known) = self.hosts.get(worker).filter(|known| known.alive)
            && let Some(id) = known.queue.front().copied()
            && let Some(attempt) = self.attempts.get(&id.0).copied()
        {
            let demand = self.lanes.demand(attempt.shape).clone();
            if !demand.fits(&known.free) {
                return;
            }
            self.hosts.unqueue(worker, id, attempt.expected);
            let booked = if self.mutant(Mutant::AheadTakesNothing) {
                Resources::none()
            } else {
                demand
            };
            self.hosts.take(worker, id, &booked);
            let now = self.now;
            if let Some(attempt) = self.attempts.get_mut(&id.0) {
                attempt.queued = false;
                if !attempt.started {
                    attempt.since = now;
                }
            }
            self.runs_now(attempt.node, id);
        }
    }

    /// An attempt that was given ahead runs.
    pub(crate) fn runs_now(&mut self, node: NodeIx, id: AttemptId) {
        if self.graph.node(node).state == (NodeState::Queued { attempt: id }) {
            let second = None;
            let attempt = id;
            self.set_state(node, NodeState::Running { attempt, second });
        }
    }

    // --- taking back --------------------------------------------------------------------------

    /// Asks for an attempt back that has not begun, as far as is known here.
    pub(crate) fn recall(&mut self, id: AttemptId) {
        let attempt = self.attempts.get_mut(&id.0);
        let Some(attempt) = attempt.filter(|a| !a.started && !a.recalled && a.cancelled.is_none())
        else {
            return;
        };
        attempt.recalled = true;
        self.recalled += 1;
        self.out.push(Action::Recall { attempt: id });
    }

    /// Asks for all back that a worker has not begun.
    pub(crate) fn recall_all(&mut self, worker: WorkerIx) {
        let Some(known) = self.hosts.get(worker) else {
            return;
        };
        let queue: Vec<AttemptId> = known.queue.iter().copied().collect();
        for id in queue {
            self.recall(id);
        }
    }

    /// Whether an attempt came back as it was given: that is nobody's fault.
    pub(crate) fn never_began(&self, attempt: &Attempt, end: &AttemptEnd) -> bool {
        let handed_back =
            (*end == AttemptEnd::Cancelled || attempt.recalled) && attempt.cancelled.is_none();
        !attempt.started && (attempt.queued || handed_back) && !self.mutant(Mutant::AheadLossCounts)
    }

    /// Where a worker has nothing to do, it gets what others have not begun.
    fn recall_for_idle(&mut self, some: &[WorkerIx]) {
        if self.hosts.alive.len() < 2 || self.recalled > 0 {
            return;
        }
        for idle in some.iter().copied() {
            let known = self.hosts.known(idle);
            if known.draining || known.alone || known.reserved.is_some() || !known.queue.is_empty()
            {
                continue;
            }
            let mut free = known.clear_room();
            while let Some(id) = self.last_for(idle, &free, some) {
                let Some(attempt) = self.attempts.get(&id.0) else {
                    break;
                };
                free.take(&self.lanes.demand(attempt.shape).clone());
                self.recall(id);
            }
        }
    }

    /// The last attempt that was given ahead to another worker and that this one could begin with so much free.
    fn last_for(&self, idle: WorkerIx, free: &Resources, some: &[WorkerIx]) -> Option<AttemptId> {
        let taker = self.hosts.known(idle);
        let fits = |id: &AttemptId| {
            self.attempts.get(&id.0).is_some_and(|attempt| {
                let shape = &self.lanes.shapes[attempt.shape as usize];
                !attempt.started
                    && !attempt.recalled
                    && attempt.cancelled.is_none()
                    && self.hosts.may_take(taker, shape)
                    && shape.demand.fits(free)
                    && self
                        .bound_host(attempt.node)
                        .is_none_or(|host| host == taker.host)
            })
        };
        let others = some.iter().filter(|ix| **ix != idle);
        others
            .filter_map(|ix| {
                self.hosts
                    .known(*ix)
                    .queue
                    .iter()
                    .rev()
                    .copied()
                    .find(&fits)
            })
            .max()
    }
}
