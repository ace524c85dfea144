//! Workers and what becomes of the attempts that they are given.

use dagrun_model::{AttemptId, NodeIx, RetryCause, WorkerIx};

use super::{Message, RealAttempt, RealWorker, What, World};
use crate::{AttemptEnd, Event, sim::scene::Fault};

impl World {
    /// An attempt reaches its worker, which begins what it has in order, as far as there is room.
    pub(super) fn submitted(&mut self, id: AttemptId) {
        let (worker, over) = (self.real[&id.0].worker, self.real[&id.0].over);
        // It may have been taken back while it was on its way.
        if over || !self.is_alive(worker) {
            return;
        }
        self.worker(worker).waiting.push_back(id);
        self.begin_next(worker);
    }

    fn worker(&mut self, worker: WorkerIx) -> &mut RealWorker {
        let mut workers = self.workers.iter_mut();
        workers
            .find(|real| real.ix == worker)
            .expect("workers are kept for the whole run")
    }

    fn begin_next(&mut self, worker: WorkerIx) {
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
        self.real.get_mut(&id.0).expect("it was submitted").began = true;
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
        if self.fault(Fault::Straggle, 5) {
            takes *= self.rng.range(10, 40);
        }
        let end = self.outcome(&attempt);
        let early = matches!(end, AttemptEnd::InputsMissing(_));
        let delay = if early { self.soon() } else { takes };
        self.real.get_mut(&id.0).expect("it was submitted").ran = delay;
        self.at(delay, What::Over { attempt: id, end });
    }

    /// An attempt is over; its worker goes on before anybody hears of it.
    pub(super) fn over(&mut self, id: AttemptId, end: AttemptEnd) {
        let attempt = self.real[&id.0].clone();
        if attempt.over || !self.is_alive(attempt.worker) {
            return;
        }
        self.real.get_mut(&id.0).expect("it was submitted").over = true;
        let real = self.worker(attempt.worker);
        if attempt.began {
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

    fn is_alive(&self, worker: WorkerIx) -> bool {
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

    pub(super) fn cancel_arrives(&mut self, id: AttemptId, kill: bool) {
        let attempt = &self.real[&id.0];
        if attempt.over {
            return;
        }
        let delay = match (attempt.began, kill) {
            (false, _) => 0,
            (true, true) => 1_000,
            (true, false) => self.rng.below(100_000),
        };
        let end = AttemptEnd::Cancelled;
        self.at(delay, What::Over { attempt: id, end });
    }

    /// What has not begun goes back; the rest is left alone.
    pub(super) fn recall_arrives(&mut self, id: AttemptId) {
        if !self.real[&id.0].began {
            self.over(id, AttemptEnd::Cancelled);
        }
    }

    pub(super) fn message(&mut self, id: AttemptId, message: Message) {
        let attempt = self.real[&id.0].clone();
        if !self.is_alive(attempt.worker) {
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
        let stale = !self.model.attempts.contains_key(&id.0);
        self.model.told_end(id, &end);
        let ran = attempt.ran;
        self.tell_maybe_stale(
            Event::AttemptEnded {
                attempt: id,
                end,
                ran,
            },
            stale,
        );
        self.check_charges(&[attempt.node]);
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
