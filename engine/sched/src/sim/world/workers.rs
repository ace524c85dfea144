//! Workers and what becomes of the attempts that they are given.

use dagrun_model::{AttemptId, NodeIx, RetryCause, WorkerIx};

use super::{Message, RealAttempt, What, World};
use crate::{AttemptEnd, Event, sim::scene::Fault};

impl World {
    pub(super) fn submitted(&mut self, id: AttemptId) {
        let attempt = self.real[&id.0].clone();
        if !self.is_alive(attempt.worker) {
            return;
        }
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
        let delay = if early {
            self.soon()
        } else {
            takes + self.soon()
        };
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
        if memory > attempt.memory {
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
        if self.real[&id.0].over {
            return;
        }
        let delay = if kill { 1_000 } else { self.rng.below(100_000) } + self.soon();
        let end = AttemptEnd::Cancelled;
        self.at(
            delay,
            What::Message {
                attempt: id,
                message: Message::Ended(end),
            },
        );
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
                return self.tell_maybe_stale(Event::AttemptStarted(id), stale);
            }
            Message::Ended(end) => end,
        };
        self.real.get_mut(&id.0).expect("it was started").over = true;
        let stale = !self.model.attempts.contains_key(&id.0);
        self.model.told_end(id, &end);
        self.tell_maybe_stale(Event::AttemptEnded { attempt: id, end }, stale);
        self.check_charges(&[attempt.node]);
    }

    pub(super) fn check_charges(&mut self, nodes: &[NodeIx]) {
        for node in nodes {
            if node.index() < self.model.known {
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
