//! Samplers: what proposes the next point of a space.

use dagrun_model::{Map, SamplerKind};

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
    let _ = (space, design);
    match kind {
        SamplerKind::Optuna | SamplerKind::Exec => None,
        _ => Some(Box::new(Draws {
            seed: seed(options),
        })),
    }
}

/// How many points a finite design has: what `trials` is where it is left out. None for samplers that go on for ever.
///
/// # Errors
/// What the design lacks, with a remedy.
pub fn design_size(kind: SamplerKind, options: &Map, space: &Space) -> Option<Result<u64, String>> {
    let _ = options;
    (kind == SamplerKind::Grid).then(|| {
        space
            .size()
            .ok_or_else(|| "not every parameter has a finite number of values".to_owned())
    })
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
fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Independent draws.
#[derive(Debug)]
struct Draws {
    seed: u64,
}

impl Sampler for Draws {
    fn ask(&mut self, space: &Space, ask: u64, _: &History, _: &[&[f64]]) -> Option<Vec<f64>> {
        let parameters = space.parameters.iter().zip(0..);
        Some(
            parameters
                .map(|(it, at)| it.from_unit(draw(self.seed, ask, at)))
                .collect(),
        )
    }
}
