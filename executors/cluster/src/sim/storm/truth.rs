//! What outlives the processes of a simulation: what is durable, what was seen, and what should not have been.

use std::{cell::RefCell, rc::Rc, time::Duration};

use tokio::sync::mpsc::UnboundedSender;

use super::super::{rng::Rng, runs::Run};
use crate::{message::Incarnation, pool::RunIx, worker::Order};

/// What all hosts share.
pub(super) type Shared = Rc<RefCell<Truth>>;

/// A place for workers.
pub(super) struct Place {
    pub(super) name: String,
    pub(super) slots: u64,
    pub(super) ahead: u32,
    /// Processes so far.
    pub(super) generation: u64,
    /// Gives orders to the present one.
    pub(super) orders: Option<UnboundedSender<Order>>,
}

pub(super) struct Truth {
    pub(super) rng: Rng,
    pub(super) run: Run,
    pub(super) places: Vec<Place>,
    /// There is one of something for all workers.
    pub(super) limit: bool,
    pub(super) epoch: u64,
    /// From now on nothing goes wrong any more.
    pub(super) healed: bool,
    /// All is done, and workers were told to go.
    pub(super) dismissed: bool,
    pub(super) violation: Option<String>,
    pub(super) adopted: u64,
    pub(super) trace: Vec<String>,
    pub(super) hash: u64,
}

impl Truth {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let places: Vec<Place> = (0..rng.range(1, 5))
            .map(|at| Place {
                name: format!("w{at}"),
                slots: rng.range(1, 4),
                ahead: rng.below(3) as u32,
                generation: 0,
                orders: None,
            })
            .collect();
        let most = places.iter().map(|place| place.slots).max().unwrap_or(1);
        let limit = rng.percent(50);
        Self {
            run: Run::new(&mut rng, 10..40, most, limit),
            rng,
            places,
            limit,
            epoch: 0,
            healed: false,
            dismissed: false,
            violation: None,
            adopted: 0,
            trace: Vec::new(),
            hash: 0xCBF2_9CE4_8422_2325,
        }
    }

    /// Another coordinator begins, with what is durable; its epoch.
    pub(super) fn begin(&mut self) -> u64 {
        self.epoch += 1;
        let run = u32::try_from(self.epoch).expect("there are few");
        self.run.restart(RunIx(run), &mut self.rng);
        self.epoch
    }

    /// Another worker begins in a place.
    pub(super) fn boot(&mut self, at: usize) -> Incarnation {
        self.places[at].generation += 1;
        let half = self.rng.next().to_le_bytes();
        Incarnation(half.repeat(2).try_into().expect("16 bytes"))
    }

    /// Remembers that something happened.
    pub(super) fn note(&mut self, now: Duration, text: &str) {
        let line = format!("{} {text}", now.as_micros());
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
        }
        self.trace.push(line);
    }

    pub(super) fn violate(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }
}

/// Remembers what happens on a host now.
pub(super) fn note(truth: &Shared, text: &str) {
    let now = turmoil::sim_elapsed().unwrap_or_default();
    truth.borrow_mut().note(now, text);
}
