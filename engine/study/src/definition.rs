//! A study as it is resolved: all numbers known.

use std::{sync::Arc, time::Duration};

use dagrun_model::{Direction, Map, SamplerKind};

use crate::Space;

/// A study with all its numbers known.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The parameters of a trial.
    pub space: Space,
    /// What proposes trials.
    pub sampler: SamplerKind,
    /// Its options by name: those that were written, with the types that the sampler asks for, and `seed` where it has one.
    pub options: Map,
    /// How many trials there are in all.
    pub trials: u64,
    /// How many trials are under way at once; none: it follows the slots.
    pub in_flight: Option<u32>,
    /// What an ask has seen.
    pub order: Order,
    /// What is sought; at least one.
    pub objectives: Vec<Goal>,
    /// When the study ends before its trials are used up.
    pub stop: Stop,
    /// Points to try first: a coordinate for each parameter that was given.
    pub enqueued: Vec<Vec<Option<f64>>>,
}

/// What an ask has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// All that was told so far, in the order of time.
    Async,
    /// All batches before its own, in the order of their numbers.
    Batched(u32),
    /// Trials 1 to k-L, in the order of their numbers.
    Lag(u32),
}

/// An objective without its expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goal {
    /// Its name in tables.
    pub name: Arc<str>,
    /// Which way is better.
    pub direction: Direction,
}

impl Goal {
    /// Turns a value as written into one to be minimised, and back.
    pub fn turned(&self, value: f64) -> f64 {
        match self.direction {
            Direction::Minimize => value,
            // There is one zero.
            Direction::Maximize => 0.0 - value,
        }
    }
}

/// When a study ends before its trials are used up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stop {
    /// After this time, counted over all resumes by whoever has a clock: it says [`StudyEvent::Wall`](crate::StudyEvent::Wall).
    pub wall: Option<Duration>,
    /// After this many trials in a row without a better one.
    pub no_gain: Option<u64>,
    /// When the objective, as written, is at least this good.
    pub target: Option<f64>,
    /// When this many trials have failed: the study then has failed.
    pub failures: u64,
}

impl Stop {
    /// What stands where nothing is written: half of the trials may fail, at least 10.
    pub fn for_trials(trials: u64) -> Self {
        Self {
            wall: None,
            no_gain: None,
            target: None,
            failures: (trials / 2).max(10),
        }
    }
}
