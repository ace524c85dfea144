//! Which trial is better, and when a study has seen enough.

use crate::{EndReason, Stop, Told};

/// How good a trial with one objective is: the feasible beats the infeasible, then the less broken, then the smaller value.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
struct Rank {
    violation: f64,
    value: f64,
}

/// What the stop rules have seen: only what asks have seen too, so that a repeatable study also ends the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    best: Option<Rank>,
    /// Trials in a row without a better one.
    streak: u64,
    failed: u64,
}

impl Progress {
    /// Adds a trial, with values to be minimised.
    pub(crate) fn see(&mut self, told: Told<'_>) {
        let rank = told.values.and_then(|values| {
            let [value] = values else { return None };
            Some(Rank {
                violation: told.violation,
                value: *value,
            })
        });
        self.failed += u64::from(told.values.is_none());
        match rank {
            Some(rank) if self.best.is_none_or(|best| rank < best) => {
                self.best = Some(rank);
                self.streak = 0;
            }
            _ => self.streak += 1,
        }
    }

    /// The rule that ends the study now; `target` is one to be minimised.
    pub(crate) fn verdict(&self, stop: &Stop, target: Option<f64>) -> Option<EndReason> {
        if self.failed >= stop.failures {
            return Some(EndReason::Failures {
                failed: self.failed,
            });
        }
        let reached = |target: f64| {
            self.best
                .is_some_and(|best| best.violation == 0.0 && best.value <= target)
        };
        if target.is_some_and(reached) {
            return Some(EndReason::Target);
        }
        let enough = stop.no_gain.is_some_and(|limit| self.streak >= limit);
        enough.then_some(EndReason::NoGain)
    }
}
