//! Independent draws.

use super::{Sampler, draw};
use crate::{History, Space};

/// Each coordinate is a draw by its distribution, whatever was told before.
#[derive(Debug)]
pub(super) struct Random {
    pub(super) seed: u64,
}

impl Sampler for Random {
    fn ask(&mut self, space: &Space, ask: u64, _: &History, _: &[&[f64]]) -> Option<Vec<f64>> {
        Some(point(space, self.seed, ask))
    }
}

/// The point of an ask.
pub(super) fn point(space: &Space, seed: u64, ask: u64) -> Vec<f64> {
    let parameters = space.parameters.iter().zip(0..);
    parameters
        .map(|(it, at)| it.from_unit(draw(seed, ask, at)))
        .collect()
}
