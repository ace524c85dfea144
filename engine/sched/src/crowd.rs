//! Workers that are shared with others: what was given to them waits there for its turn.
//!
//! A run places as if it were alone, but for what it is told that others have. A worker that others fill is given something only where
//! no other has room: who shares the workers out lets runs take turns there. Where room comes up elsewhere, what waits is
//! asked back and placed anew, once it has waited as long as a node may for a host that has its inputs.

use dagrun_model::{AttemptId, NodeIx, Resources, WorkerIx};

use crate::{
    Action, Mutant, NodeState, Scheduler, Time,
    attempts::{Attempt, Timer},
    workers::Worker,
};

/// Of how many workers with room is thought at a time.
const TAKERS: usize = 1024;
/// How many attempts are compared with them in all.
const LOOKS: usize = 1 << 14;

/// When attempts that wait for others are looked at.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    /// Not before a timer: they were looked at a moment ago.
    rests: bool,
    /// Something has changed since.
    due: bool,
    /// When one of them will have waited for long enough, where a timer is set for that.
    next: Option<Time>,
    /// How many were passed over when there were too many for one look.
    passed: usize,
}

impl Scheduler {
    /// Takes what others have of workers.
    pub(crate) fn taken_by_others(&mut self, taken: Vec<(WorkerIx, Resources)>) {
        for (worker, others) in taken {
            self.hosts.share(worker, others);
        }
        self.crowd.due = true;
    }

    pub(crate) fn may_spread_again(&mut self) {
        self.crowd.rests = false;
        let has_waited = self.crowd.next.take_if(|next| *next <= self.now);
        self.crowd.due |= has_waited.is_some();
    }

    /// Asks for attempts back that wait for others, and that could begin elsewhere. Looks at them now and then, however much happens.
    pub(crate) fn spread(&mut self, freed: &[WorkerIx]) {
        self.crowd.due |= !freed.is_empty();
        if self.hosts.crowded.is_empty()
            || !self.crowd.due
            || self.crowd.rests
            || self.stopped()
            || self.mutant(Mutant::NeverSpread)
        {
            return;
        }
        self.crowd.due = false;
        self.hosts.file_moved();
        if self.hosts.with_room(1, true).next().is_none() {
            return;
        }
        let waiting = self.waiting();
        if waiting.is_empty() {
            return;
        }
        let delay = u64::try_from(self.config.locality_delay.as_micros()).unwrap_or(u64::MAX);
        let (found, later) = self.who_could_begin(waiting, delay);
        // Those that their workers know of go on there: then the room is for others that wait.
        self.crowd.due |= !found.is_empty();
        for id in found {
            self.withdraw(id);
        }
        self.crowd.rests = true;
        let again = Time(self.now.0.saturating_add(delay));
        self.set_timer(again, Timer::Spread);
        if let Some(at) = later {
            self.crowd.next = Some(self.crowd.next.map_or(at, |next| next.min(at)));
            if at < again {
                self.set_timer(at, Timer::Spread);
            }
        }
    }

    /// Attempts that wait for others, as far as can be known here: the last that a worker was given and has not begun, of more than others
    /// leave of it.
    fn waiting(&self) -> Vec<AttemptId> {
        let mut waiting = Vec::new();
        for worker in &self.hosts.crowded {
            let known = self.hosts.known(*worker);
            let Some(others) = &known.others else {
                continue;
            };
            let mut free = known.free.clone();
            let mut ids = known.attempts.clone();
            ids.sort_unstable();
            while let Some(id) = ids.pop()
                && !others.fits(&free)
                && let Some(attempt) = self.attempts.get(&id.0)
            {
                if attempt.started {
                    continue;
                }
                free.give(self.lanes.demand(attempt.shape));
                if !attempt.withdrawn && attempt.cancelled.is_none() {
                    waiting.push(id);
                }
            }
        }
        waiting.sort_unstable();
        waiting
    }

    /// Which of them, oldest first, could begin on other workers now; and when the next one has waited for long enough for that.
    fn who_could_begin(
        &mut self,
        mut waiting: Vec<AttemptId>,
        delay: u64,
    ) -> (Vec<AttemptId>, Option<Time>) {
        let mut found = Vec::new();
        let mut later: Option<Time> = None;
        let passed = self.crowd.passed % waiting.len();
        waiting.rotate_left(passed);
        let mut looks = 0;
        for ix in self.hosts.with_room(1, true).take(TAKERS) {
            let taker = self.hosts.known(ix);
            if taker.alone || taker.reserved.is_some() {
                continue;
            }
            let mut room = taker.clear_room();
            let mut at = 0;
            while at < waiting.len() && looks < LOOKS {
                looks += 1;
                let id = waiting[at];
                let attempt = &self.attempts[&id.0];
                if !self.could_move(id, attempt, taker, &room) {
                    at += 1;
                    continue;
                }
                let until = Time(attempt.since.0.saturating_add(delay));
                if until > self.now && self.is_far(attempt, taker) {
                    later = Some(later.map_or(until, |other| other.min(until)));
                    at += 1;
                    continue;
                }
                room.take(self.lanes.demand(attempt.shape));
                waiting.remove(at);
                found.push(id);
            }
        }
        if looks == LOOKS {
            self.crowd.passed = passed + waiting.len().min(LOOKS / TAKERS);
            self.crowd.due = true;
        }
        (found, later)
    }

    /// Whether an attempt could begin on another worker that has so much room.
    fn could_move(&self, id: AttemptId, attempt: &Attempt, to: &Worker, room: &Resources) -> bool {
        let shape = &self.lanes.shapes[self.shape_of(attempt.node) as usize];
        let host = self.bound_host(attempt.node);
        shape.demand.fits(room)
            && self.hosts.may_take(to, shape)
            && host.is_none_or(|host| host == to.host)
            && (!attempt.alone || to.is_idle() && to.others.is_none())
            && self.is_only_one(id, attempt.node)
    }

    /// Whether a node runs as this attempt alone.
    fn is_only_one(&self, id: AttemptId, node: NodeIx) -> bool {
        let alone = NodeState::Running {
            attempt: id,
            second: None,
        };
        self.graph.node(node).state == alone
    }

    /// Whether so much more would have to move to another worker that it is worth to wait a moment.
    fn is_far(&self, attempt: &Attempt, to: &Worker) -> bool {
        let here = self.hosts.host_of(attempt.worker);
        let far = |here, there| self.config.locality_bytes.saturating_add(here) <= there;
        let node = attempt.node;
        self.hosts.many() && far(self.cost(node, here), self.cost(node, to.host))
    }

    fn withdraw(&mut self, id: AttemptId) {
        if let Some(attempt) = self.attempts.get_mut(&id.0) {
            attempt.withdrawn = true;
            self.out.push(Action::Withdraw { attempt: id });
        }
    }

    /// Nothing new is to begin: what waits for others is asked back.
    pub(crate) fn withdraw_all(&mut self) {
        for id in self.waiting() {
            self.withdraw(id);
        }
    }

    /// The worker at which a node waits until others have left room, as far as is known.
    pub(crate) fn waits_for_others(&self, node: NodeIx) -> Option<WorkerIx> {
        let NodeState::Running { attempt, .. } = self.graph.node(node).state else {
            return None;
        };
        let worker = self.attempts.get(&attempt.0)?.worker;
        let is_crowded = self.hosts.crowded.contains(&worker);
        (is_crowded && self.waiting().contains(&attempt)).then_some(worker)
    }
}
