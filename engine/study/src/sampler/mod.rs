//! Samplers: what proposes the next point of a space.

mod cmaes;
mod grid;
mod lhs;
mod normal;
mod random;
mod sobol;
#[cfg(test)]
mod tests;
mod tpe;

use dagrun_model::{Map, SamplerKind};

use self::{cmaes::Cmaes, grid::Grid, lhs::Lhs, random::Random, sobol::Sobol, tpe::Tpe};
use crate::{History, Space};

/// Proposes points. An answer depends on nothing but the space, the seed, the number of the ask and what it is shown: state
/// kept between asks only saves work, so that a history told again gives the same study.
pub trait Sampler: std::fmt::Debug + Send {
    /// The point of the `ask`-th ask, counted from 1; asks that an enqueued point answered are not counted.
    ///
    /// `history` is what this ask may see, each time longer by what was told since; `pending` are the points that were asked
    /// before and are not in it, in the order of their numbers. Both hold enqueued points too.
    ///
    /// The answer is cleaned by the caller ([`Space::clean`]): coordinates of inactive parameters may be anything.
    ///
    /// Nothing where a finite design is used up.
    fn ask(
        &mut self,
        space: &Space,
        ask: u64,
        history: &History,
        pending: &[&[f64]],
    ) -> Option<Vec<f64>>;
}

/// The sampler of a kind; none for those that are another process (`optuna`, `exec`).
///
/// `options` are resolved: names and types are right, and `seed` is always there. `design` is how many trials the study had
/// when it was opened, for designs that are made for a number of points; more may be asked where trials were added later.
pub fn make(
    kind: SamplerKind,
    options: &Map,
    space: &Space,
    design: u64,
) -> Option<Box<dyn Sampler>> {
    let seed = seed(options);
    Some(match kind {
        SamplerKind::Grid => Box::new(Grid::new(options, space).unwrap_or_default()),
        SamplerKind::Random => Box::new(Random { seed }),
        SamplerKind::Sobol => Box::new(Sobol { seed }),
        SamplerKind::Lhs => Box::new(Lhs { seed, design }),
        SamplerKind::Tpe => Box::new(Tpe::new(options, space)),
        SamplerKind::Cmaes => Box::new(Cmaes::new(options, space)),
        SamplerKind::Optuna | SamplerKind::Exec => return None,
    })
}

/// How many points a finite design has: what `trials` is where it is left out. None for samplers that go on for ever.
///
/// # Errors
/// What the design lacks, with a remedy.
pub fn design_size(kind: SamplerKind, options: &Map, space: &Space) -> Option<Result<u64, String>> {
    (kind == SamplerKind::Grid).then(|| Grid::new(options, space).map(|it| it.size()))
}

/// The option `seed`.
pub(crate) fn seed(options: &Map) -> u64 {
    let seed = options.get("seed").and_then(|it| it.as_i64());
    seed.unwrap_or(0).cast_unsigned()
}

/// A number from 0 (included) to 1 (excluded) that depends on nothing but its arguments.
pub(crate) fn draw(seed: u64, ask: u64, dimension: u64) -> f64 {
    let mixed =
        mix(mix(mix(seed ^ 0x6461_6772_756e_7374).wrapping_add(ask)).wrapping_add(dimension));
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

/// The output function of SplitMix64.
pub(crate) fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The draws of one ask, one after the other.
#[derive(Debug)]
struct Draws {
    seed: u64,
    ask: u64,
    next: u64,
}

impl Draws {
    /// `salt` keeps the draws of one use apart from those of another.
    fn new(seed: u64, salt: u64, ask: u64) -> Self {
        Self {
            seed: mix(seed ^ salt),
            ask,
            next: 0,
        }
    }

    /// A number from 0 (included) to 1 (excluded).
    fn unit(&mut self) -> f64 {
        self.next += 1;
        draw(self.seed, self.ask, self.next)
    }
}

/// A whole number among the options.
fn whole(options: &Map, name: &str, default: usize) -> usize {
    let written = options.get(name).and_then(|it| it.as_i64());
    written
        .and_then(|it| usize::try_from(it).ok())
        .unwrap_or(default)
}
