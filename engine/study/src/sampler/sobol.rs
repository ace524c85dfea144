//! A scrambled Sobol sequence.
//!
//! Direction numbers of Joe and Kuo with Owen's scrambling by hashes (Burley 2020), from the crate `sobol_burley`. Its sequence
//! has 65,536 points in 256 dimensions: what is beyond goes on with another scrambling, which is as good as a new sequence.

use super::{Sampler, draw, mix};
use crate::{History, Space};

/// Points of one sequence.
const LENGTH: u64 = 1 << 16;
/// The step of a single-precision number in the unit interval: what is below it is a draw.
const STEP: f64 = 1.0 / (1_u64 << 24) as f64;

/// A sequence that depends on the seed.
#[derive(Debug)]
pub(super) struct Sobol {
    pub(super) seed: u64,
}

impl Sampler for Sobol {
    fn ask(&mut self, space: &Space, ask: u64, _: &History, _: &[&[f64]]) -> Option<Vec<f64>> {
        let parameters = space.parameters.iter().zip(0..);
        Some(
            parameters
                .map(|(it, dimension)| it.from_unit(coordinate(self.seed, ask - 1, dimension)))
                .collect(),
        )
    }
}

/// A coordinate of a point of the sequence, both counted from 0.
fn coordinate(seed: u64, at: u64, dimension: u32) -> f64 {
    let (block, set) = (at / LENGTH, dimension / sobol_burley::NUM_DIMENSIONS);
    let scrambling = mix(mix(seed.wrapping_add(mix(block))).wrapping_add(u64::from(set)));
    let index = u32::try_from(at % LENGTH).expect("a remainder of 2^16");
    let coarse = sobol_burley::sample(
        index,
        dimension % sobol_burley::NUM_DIMENSIONS,
        (scrambling >> 32) as u32,
    );
    f64::from(coarse) + draw(seed, at, u64::from(dimension)) * STEP
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every elementary interval of the first two dimensions holds as many points.
    #[test]
    fn the_first_points_are_a_net() {
        for seed in 0..5 {
            for (across, down) in [(1, 64), (2, 32), (8, 8), (64, 1)] {
                let mut cells = vec![0; 64];
                for at in 0..256 {
                    let x = (coordinate(seed, at, 0) * f64::from(across)) as usize;
                    let y = (coordinate(seed, at, 1) * f64::from(down)) as usize;
                    cells[x * down as usize + y] += 1;
                }
                assert!(cells.iter().all(|it| *it == 4), "{across} by {down}");
            }
        }
    }

    #[test]
    fn each_dimension_is_stratified_far_out_too() {
        for dimension in [7, 255, 256, 999] {
            for first in [0, LENGTH, 3 * LENGTH] {
                let mut shares = [0; 16];
                for at in first..first + 64 {
                    shares[(coordinate(1, at, dimension) * 16.0) as usize] += 1;
                }
                assert!(shares.iter().all(|it| *it == 4), "{dimension} from {first}");
            }
        }
        assert_ne!(coordinate(1, 0, 3), coordinate(1, LENGTH, 3));
        assert_ne!(coordinate(1, 0, 3), coordinate(1, 0, 259));
        assert_ne!(coordinate(1, 0, 3), coordinate(2, 0, 3));
    }
}
