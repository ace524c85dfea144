//! What the estimator keeps of the told trials: the best of them, and an even part of all.
//!
//! It is a fold over the history: made anew it is the same. Its size is bounded, so that an ask is too.

use super::{
    rank::{Entry, Ranking},
    scale::{Scale, row},
};
use crate::{History, Space};

/// Trials beyond which an even part of them stands for all.
pub(super) const LIMIT: usize = 5000;
/// The most trials that are the best ones, with one objective.
const MOST: usize = 25;
/// The same with several.
const MOST_OF_SEVERAL: usize = 50;

/// A digest of the history.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Told trials that it has taken in.
    seen: usize,
    /// Of these, those with values.
    complete: usize,
    ranking: Ranking,
    /// The places of each `stride`-th complete trial.
    rows: Vec<f64>,
    /// Their positions among the complete ones, from 0.
    numbers: Vec<usize>,
    /// A power of two; 0 stands for 1.
    stride: usize,
}

impl Memory {
    /// Takes in what was told since.
    pub(super) fn learn(&mut self, space: &Space, scales: &[Scale], history: &History) {
        if history.len() < self.seen {
            *self = Self::default();
        }
        for at in self.seen..history.len() {
            let told = history.get(at);
            let Some(values) = told.values else { continue };
            let number = self.complete;
            self.complete += 1;
            self.ranking.push(Entry {
                violation: told.violation,
                values: values.to_vec(),
                number,
                at,
            });
            if !number.is_multiple_of(self.step()) {
                continue;
            }
            self.numbers.push(number);
            self.rows.extend(row(space, scales, told.point));
            if self.numbers.len() > LIMIT {
                self.thin(space.dims());
            }
        }
        self.seen = history.len();
    }

    /// Drops every second one.
    fn thin(&mut self, dims: usize) {
        self.stride = 2 * self.step();
        let rows = self.rows.chunks_exact(dims).step_by(2);
        self.rows = rows.flatten().copied().collect();
        self.numbers = self.numbers.iter().copied().step_by(2).collect();
    }

    fn step(&self) -> usize {
        self.stride.max(1)
    }

    /// For how many trials one of [`Self::rest`] stands.
    pub(super) fn stride(&self) -> f64 {
        self.step() as f64
    }

    /// Told trials with values.
    pub(super) fn complete(&self) -> usize {
        self.complete
    }

    /// The places of the best trials, in the order in which they were told, and which they are.
    pub(super) fn best(
        &mut self,
        space: &Space,
        scales: &[Scale],
        history: &History,
    ) -> (Vec<f64>, Vec<usize>) {
        let most = match history.objectives() {
            1 => MOST,
            _ => MOST_OF_SEVERAL,
        };
        let best = self.ranking.best(self.complete.div_ceil(10).min(most));
        let rows = best
            .iter()
            .flat_map(|it| row(space, scales, history.get(it.at).point))
            .collect();
        (rows, best.iter().map(|it| it.number).collect())
    }

    /// The places of the others.
    pub(super) fn rest(&self, best: &[usize], dims: usize) -> Vec<f64> {
        let rows = self.rows.chunks_exact(dims).zip(&self.numbers);
        let mut rest = Vec::with_capacity(self.rows.len());
        for (row, number) in rows {
            if best.binary_search(number).is_err() {
                rest.extend_from_slice(row);
            }
        }
        rest
    }
}
