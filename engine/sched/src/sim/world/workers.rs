//! Workers and what becomes of the attempts that they are given.

use dagrun_model::{AttemptId, NodeIx, RetryCause, WorkerIx};

use super::{Message, RealAttempt, RealWorker, What, World, driver::digest};
use crate::{AttemptEnd, Event, Held, sim::scene::Fault};

impl World {
    /// An attempt reaches its worker, which begins what it has in order, as far as there is room.
    pub(super) fn submitted(&mut self, id: AttemptId) {
        let (worker, over) = (self.real[&id.0].worker, self.real[&id.0].over);
        // It may have been taken back while it was on its way.
        if over || !self.is_alive(worker) {
            return;
        }
        self.real.get_mut(&id.0).expect("it was submitted").reached = true;
        self.worker(worker).waiting.push_back(id);
        self.begin_next(worker);
    }

    pub(super) fn worker(&mut self, worker: WorkerIx) -> &mut RealWorker {
        let mut workers = self.workers.iter_mut();
        workers
            .find(|real| real.ix == worker)
            .expect("workers are kept for the whole run")
    }

    pub(super) fn begin_next(&mut self, worker: WorkerIx) {
        while let Some(id) = self.worker(worker).waiting.front().copied() {
            let demand = self.real[&id.0].resources.clone();
            let real = self.worker(worker);
            if !demand.fits(&real.free) {
                return;
            }
            real.free.take(&demand);
            real.waiting.pop_front();
            self.begin(id);
        }
    }

    fn begin(&mut self, id: AttemptId) {
        self.real.get_mut(&id.0).expect("it was submitted").began = Some(self.now);
        let attempt = self.real[&id.0].clone();
        let delay = self.soon();
        self.at(
            delay,
            What::Message {
                attempt: id,
                message: Message::Started,
            },
        );
        let mut takes = self.scene.nodes[attempt.node.index()].micros;
        takes = takes * self.rng.range(80, 120) / 100;
        takes = takes * 1000 / u64::from(self.worker(attempt.worker).speed);
        if self.fault(Fault::Straggle, 5) {
            takes *= self.rng.range(10, 40);
        }
        if self.scene.nodes[attempt.node.index()].poison {
            let delay = self.rng.below(takes);
            self.at(delay, What::Kill(id));
        }
        let end = self.outcome(&attempt);
        let early = matches!(end, AttemptEnd::InputsMissing(_));
        let delay = if early { self.soon() } else { takes };
        self.real.get_mut(&id.0).expect("it was submitted").ran = delay;
        self.at(delay, What::Over { attempt: id, end });
    }

    /// What never reached a worker that is about to be told of as lost comes back first.
    pub(super) fn hand_back(&mut self, worker: WorkerIx) {
        let live = self.model.attempts.iter();
        let mut unheard: Vec<AttemptId> = live
            .filter(|(id, live)| live.worker == worker && !self.real[id].reached)
            .map(|(id, _)| AttemptId(*id))
            .collect();
        if unheard.is_empty() {
            return;
        }
        unheard.sort_unstable();
        self.model.told_draining(worker);
        self.tell(Event::WorkerDraining(worker));
        for attempt in unheard {
            self.real
                .get_mut(&attempt.0)
                .expect("it was submitted")
                .over = true;
            self.report.faults += 1;
            self.tell_end(attempt, AttemptEnd::Cancelled);
        }
    }

    /// An attempt is over; its worker goes on before anybody hears of it.
    pub(super) fn over(&mut self, id: AttemptId, end: AttemptEnd) {
        let attempt = self.real[&id.0].clone();
        if attempt.over || !self.is_alive(attempt.worker) {
            return;
        }
        let known = self.real.get_mut(&id.0).expect("it was submitted");
        known.over = true;
        known.unheard = attempt.began.and(Some(end.clone()));
        let real = self.worker(attempt.worker);
        if attempt.began.is_some() {
            real.free.give(&attempt.resources);
        } else {
            real.waiting.retain(|other| *other != id);
        }
        self.begin_next(attempt.worker);
        let delay = self.soon();
        self.at(
            delay,
            What::Message {
                attempt: id,
                message: Message::Ended(end),
            },
        );
    }

    /// A worker that was cut off joins under a new name. What it had not begun it has dropped; what it runs, and ends that were not
    /// heard, it says.
    pub(super) fn come_back(&mut self, old: WorkerIx) {
        if !self.is_alive(old) {
            return;
        }
        let ix = WorkerIx(self.next_worker);
        self.next_worker += 1;
        let now = self.now;
        let worker = self.worker(old);
        worker.ix = ix;
        worker.detached = false;
        worker.waiting.clear();
        let worker = worker.clone();
        let mut ids: Vec<u64> = self.real.keys().copied().collect();
        ids.sort_unstable();
        let (mut held, mut unheard) = (Vec::new(), Vec::new());
        for id in ids {
            let never = |node: NodeIx| self.model.never_cached(node);
            let real = self.real.get_mut(&id).expect("it is one of them");
            if real.worker != old {
                continue;
            }
            real.worker = ix;
            let Some(began) = real.began else {
                real.over = true;
                continue;
            };
            if real.over && real.unheard.is_none() {
                continue;
            }
            let attempt = AttemptId(id);
            unheard.extend(real.unheard.clone().map(|end| (attempt, end)));
            held.push(Held {
                attempt,
                node: real.node,
                number: real.number,
                action: (!never(real.node)).then(|| digest(real.action)),
                resources: real.resources.clone(),
                ran: now - began,
            });
        }
        self.tell_joined(worker, held);
        for (attempt, end) in unheard {
            let delay = self.soon();
            let message = Message::Ended(end);
            self.at(delay, What::Message { attempt, message });
        }
    }

    pub(super) fn is_alive(&self, worker: WorkerIx) -> bool {
        self.workers
            .iter()
            .any(|real| real.ix == worker && real.alive)
    }

    fn outcome(&mut self, attempt: &RealAttempt) -> AttemptEnd {
        let missing = self.model.missing_inputs(attempt.node);
        if !missing.is_empty() {
            return AttemptEnd::InputsMissing(missing);
        }
        if self.fault(Fault::SpuriousMissing, 3) {
            let nodes = self.scene.nodes.len() as u64 + 2;
            return AttemptEnd::InputsMissing(vec![NodeIx(self.rng.below(nodes) as u32)]);
        }
        if self.scene.has(Fault::Full) && self.is_out_of_room(attempt) {
            return AttemptEnd::NoRoom;
        }
        let spec = &self.scene.nodes[attempt.node.index()];
        let (memory, fails, cause, bytes) = (spec.memory, spec.fails, spec.cause, spec.bytes);
        if memory > attempt.resources.memory {
            self.report.faults += 1;
            return AttemptEnd::Failed(Some(RetryCause::OutOfMemory));
        }
        if self.rng.percent(fails) {
            self.report.faults += 1;
            return AttemptEnd::Failed(cause);
        }
        if self.fault(Fault::Loss, 2) {
            return AttemptEnd::Lost;
        }
        AttemptEnd::Succeeded { bytes }
    }

    /// Whether there is no room for an attempt where it runs; then that worker soon says so, and later mostly that there is.
    fn is_out_of_room(&mut self, attempt: &RealAttempt) -> bool {
        let huge = self.scene.nodes[attempt.node.index()].huge;
        let full = self.worker(attempt.worker).full && self.rng.percent(80);
        if !huge && !full && !self.fault(Fault::Full, 3) {
            return false;
        }
        self.report.faults += 1;
        let delay = self.soon();
        self.at(delay, What::Room(attempt.worker, false));
        if self.rng.percent(70) {
            let delay = delay + self.rng.below(500_000);
            self.at(delay, What::Room(attempt.worker, true));
        }
        true
    }

    pub(super) fn cancel_arrives(&mut self, id: AttemptId, kill: bool) {
        let attempt = &self.real[&id.0];
        if attempt.over {
            return;
        }
        let delay = match (attempt.began.is_some(), kill) {
            (false, _) => 0,
            (true, true) => 1_000,
            (true, false) => self.rng.below(100_000),
        };
        let end = AttemptEnd::Cancelled;
        self.at(delay, What::Over { attempt: id, end });
    }

    /// What has not begun goes back; the rest is left alone.
    pub(super) fn recall_arrives(&mut self, id: AttemptId) {
        if self.real[&id.0].began.is_none() {
            self.over(id, AttemptEnd::Cancelled);
        }
    }

    /// What has not begun goes back, unless its worker has it already.
    pub(super) fn withdraw_arrives(&mut self, id: AttemptId) {
        if !self.rng.percent(10) {
            self.recall_arrives(id);
        }
    }

    pub(super) fn message(&mut self, id: AttemptId, message: Message) {
        let attempt = self.real[&id.0].clone();
        if !self.is_alive(attempt.worker) || self.worker(attempt.worker).detached {
            return;
        }
        let again = self.fault(Fault::Duplicate, 15);
        if again {
            let delay = self.soon();
            self.at(
                delay,
                What::Message {
                    attempt: id,
                    message: message.clone(),
                },
            );
        }
        let end = match message {
            Message::Started => {
                let stale = !self.model.attempts.contains_key(&id.0);
                self.model.told_started(id);
                return self.tell_maybe_stale(Event::AttemptStarted(id), stale);
            }
            Message::Ended(end) => end,
        };
        self.real.get_mut(&id.0).expect("it was submitted").unheard = None;
        self.tell_end(id, end);
    }

    fn tell_end(&mut self, attempt: AttemptId, end: AttemptEnd) {
        let RealAttempt { node, ran, .. } = self.real[&attempt.0];
        let stale = !self.model.attempts.contains_key(&attempt.0);
        self.model.told_end(attempt, &end);
        self.tell_maybe_stale(Event::AttemptEnded { attempt, end, ran }, stale);
        self.check_charges(&[node]);
    }

    pub(super) fn check_charges(&mut self, nodes: &[NodeIx]) {
        for node in nodes {
            // Of nodes that were retired the core knows nothing.
            let is_known = self.core.state(*node).is_some();
            if node.index() < self.model.known && is_known {
                let (told, counted) = (self.core.charged(*node), self.model.charges(*node));
                if told != counted && self.model.violation.is_none() {
                    self.model.fail(
                        "I6",
                        format!("{node:?} is charged {told:?}, not {counted:?}"),
                    );
                }
            }
        }
    }
}
