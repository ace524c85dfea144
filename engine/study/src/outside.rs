//! Asks to a sampler that is another process, one at a time.

use std::ops::Range;

use rustc_hash::FxHashSet;

use crate::{Answer, EndReason, Source, Study, StudyAction};

/// What is between a study and its external sampler.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    /// The trial that it is asked for.
    pub(crate) asking: Option<u64>,
    /// How much of the history it was told.
    sent: usize,
    /// Points of a finite space that it has proposed.
    met: FxHashSet<Vec<u64>>,
}

impl Study {
    pub(crate) fn ask_outside(&mut self, trial: u64, out: &mut Vec<StudyAction>) {
        let new_told = self.unsent();
        self.outside.asking = Some(trial);
        self.outside.sent = new_told.end;
        out.push(StudyAction::Ask {
            trial,
            new_told,
            pending: self.unseen(trial),
        });
    }

    pub(crate) fn restarted(&mut self, out: &mut Vec<StudyAction>) {
        self.outside.sent = 0;
        if let Some(trial) = self.outside.asking {
            self.ask_outside(trial, out);
        }
    }

    pub(crate) fn answered(&mut self, trial: u64, answer: Answer, out: &mut Vec<StudyAction>) {
        if self.outside.asking != Some(trial) {
            return;
        }
        self.outside.asking = None;
        let values = match answer {
            Answer::Point(values) => values,
            Answer::UsedUp => return self.halt(EndReason::UsedUp),
            Answer::Failed(reason) => return self.halt(EndReason::Sampler(reason)),
        };
        match self.definition.space.coordinates(&values) {
            Ok(point) if self.is_exhausted(&point) => self.halt(EndReason::UsedUp),
            Ok(point) => {
                let seen = self.seen_by_ask();
                self.admit_new(trial, Source::Sampler, point, seen, out);
            }
            Err(wrong) => self.halt(EndReason::Sampler(format!(
                "it proposed trial {trial}, but {wrong}"
            ))),
        }
    }

    /// What the external sampler had been told when it was asked; more may have been told since.
    fn seen_by_ask(&self) -> u64 {
        self.outside.sent as u64
    }

    /// Whether all points of a finite space were proposed and this one is proposed again.
    fn is_exhausted(&self, point: &[f64]) -> bool {
        self.countable().is_some_and(|size| {
            self.outside.met.len() as u64 >= size && self.outside.met.contains(&bits(point))
        })
    }

    /// Notes a point that was asked for.
    pub(crate) fn meet(&mut self, point: &[f64]) {
        if self.countable().is_some() {
            self.outside.met.insert(bits(point));
        }
    }

    /// What the sampler was not told yet.
    pub(crate) fn unsent(&self) -> Range<usize> {
        self.outside.sent..self.table.history.len()
    }

    /// The sampler knows nothing any more.
    pub(crate) fn forget_sent(&mut self) {
        self.outside.asking = None;
        self.outside.sent = 0;
    }

    /// The size of the space, where a study can come to its end.
    fn countable(&self) -> Option<u64> {
        let size = self.definition.space.size()?;
        (self.sampler.is_none() && size < self.definition.trials).then_some(size)
    }
}

fn bits(point: &[f64]) -> Vec<u64> {
    point.iter().map(|x| x.to_bits()).collect()
}
