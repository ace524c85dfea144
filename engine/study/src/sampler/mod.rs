//! Samplers: what proposes the next point of a space.

use crate::{History, Space};

/// Proposes points. An answer depends on nothing but the space, the seed, the number of the ask and what it is shown: state
/// kept between asks only saves work, so that a history told again gives the same study.
pub trait Sampler: std::fmt::Debug + Send {
    /// The point of the `trial`-th ask, counted from 1.
    ///
    /// `history` is what this ask may see, each time longer by what was told since; `pending` are the points that were asked
    /// before and are not in it, in the order of their numbers.
    ///
    /// Nothing where a finite design is used up.
    fn ask(
        &mut self,
        space: &Space,
        trial: u64,
        history: &History,
        pending: &[&[f64]],
    ) -> Option<Vec<f64>>;
}
