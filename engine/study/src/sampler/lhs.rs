//! A Latin hypercube: of n points, each of n equal shares of each parameter holds one.

use super::{Sampler, draw, mix};
use crate::{History, Space};

/// Rounds of the permutation. Four mix well; more cost next to nothing and help where there are few points.
const ROUNDS: u64 = 8;

/// A hypercube over all trials; a further one for each `design` trials beyond them.
#[derive(Debug)]
pub(super) struct Lhs {
    pub(super) seed: u64,
    /// How many points a hypercube has.
    pub(super) design: u64,
}

impl Sampler for Lhs {
    fn ask(&mut self, space: &Space, ask: u64, _: &History, _: &[&[f64]]) -> Option<Vec<f64>> {
        let count = self.design.max(1);
        let (cube, at) = ((ask - 1) / count, (ask - 1) % count);
        let parameters = space.parameters.iter().zip(0..);
        Some(
            parameters
                .map(|(it, dimension)| {
                    let key = mix(mix(self.seed.wrapping_add(mix(cube))).wrapping_add(dimension));
                    let share = permuted(at, count, key);
                    let within = draw(self.seed, ask, dimension);
                    it.from_unit((share as f64 + within) / count as f64)
                })
                .collect(),
        )
    }
}

/// Where `at` goes in a permutation of `0..count` that depends on the key alone: a Feistel network over a power of four,
/// applied again until it lands inside. So no permutation has to be kept, whatever the number of trials.
fn permuted(at: u64, count: u64, key: u64) -> u64 {
    let bits = (64 - (count - 1).leading_zeros()).div_ceil(2).max(2);
    let mask = (1_u64 << bits) - 1;
    let mut at = at;
    loop {
        let (mut left, mut right) = (at >> bits, at & mask);
        for round in 0..ROUNDS {
            let turned = mix(key.wrapping_add(round.wrapping_mul(0x9e37_79b9)) ^ right) & mask;
            (left, right) = (right, left ^ turned);
        }
        at = left << bits | right;
        if at < count {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_taken_once() {
        for count in [1, 2, 3, 10, 64, 100, 1000] {
            for key in 0..20 {
                let mut places: Vec<u64> = (0..count).map(|at| permuted(at, count, key)).collect();
                places.sort_unstable();
                assert_eq!(places, (0..count).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn few_points_come_in_many_orders() {
        let mut seen = std::collections::BTreeSet::new();
        for key in 0..500 {
            seen.insert(
                (0..4)
                    .map(|at| permuted(at, 4, mix(key)))
                    .collect::<Vec<_>>(),
            );
        }
        assert_eq!(seen.len(), 24);
    }
}
