//! Seeds of replicates: a pinned permutation of their indices.
//!
//! The seed of replicate `i` is the image of `i` under a permutation of the 31-bit integers that is keyed by `base`
//! (policy `common`), or by `base` and the values of all other axes of the point (`per_trial`). So seeds are distinct
//! within a policy, and independent of how many replicates there are, of their order, and of time. The permutation is a
//! Feistel network of four rounds on 32 bits whose round keys are the four quarters of a BLAKE3 digest; an image of 2^31 or
//! more is permuted again until it is below (cycle walking keeps this a permutation).
//!
//! Test vector: with `base: 42` and `common`, replicates 0, 1, 2 have the seeds 640298418, 1018702201 and 227184233.

use std::sync::Arc;

use dagrun_model::{ContentHasher, Digest};

/// A permutation of the integers below 2^31.
#[derive(Clone, Debug)]
pub struct Permutation {
    round_keys: [u64; 4],
}

impl Permutation {
    /// The permutation of a base; `point` is the digest of the other axes' values under `per_trial`.
    pub fn new(base: i64, point: Option<Digest>) -> Self {
        let key = ContentHasher::new("dagrun.seeds.v1")
            .with(&base)
            .with(&point)
            .finish();
        let quarter = |ix: usize| {
            let bytes = key.0[ix * 8..ix * 8 + 8].try_into();
            u64::from_le_bytes(bytes.expect("a quarter of a digest has eight bytes"))
        };
        Self {
            round_keys: [quarter(0), quarter(1), quarter(2), quarter(3)],
        }
    }

    /// The image of `index`, which must be below 2^31.
    pub fn apply(&self, index: u32) -> u32 {
        let mut x = index;
        loop {
            x = self.feistel(x);
            if x < 1 << 31 {
                return x;
            }
        }
    }

    fn feistel(&self, x: u32) -> u32 {
        let (mut left, mut right) = (x >> 16, x & 0xffff);
        for key in self.round_keys {
            let mixed = mix(key ^ u64::from(right)) as u32 & 0xffff;
            (left, right) = (right, left ^ mixed);
        }
        left << 16 | right
    }
}

/// The finalizer of SplitMix64.
fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// How the seeds of a `replicate` axis are found.
#[derive(Clone, Debug)]
pub(crate) enum SeedPlan {
    /// The same at every point.
    Common(Permutation),
    /// Different from point to point: by all axes of the job with this number, or of the job itself.
    PerTrial { base: i64, of: Option<usize> },
    /// As listed.
    List(Arc<[i64]>),
    /// Taken over from a job whose seeds differ along an axis that is gathered here: there is no one seed.
    Several { job: Arc<str>, axis: Arc<str> },
}

impl SeedPlan {
    /// Whether a seed depends on other axes than `replicate`.
    pub(crate) fn per_point(&self) -> bool {
        matches!(self, Self::PerTrial { .. })
    }
}

#[cfg(test)]
mod tests {
    use rustc_hash::FxHashSet;

    use super::*;

    /// These seeds are a promise: results that people publish depend on them.
    #[test]
    fn pinned_vectors() {
        let seeds = |p: Permutation| [p.apply(0), p.apply(1), p.apply(2), p.apply(999_999)];
        let common = Permutation::new(42, None);
        assert_eq!(seeds(common), [640298418, 1018702201, 227184233, 923516608]);
        let point = ContentHasher::new("test").finish();
        assert_eq!(
            seeds(Permutation::new(42, Some(point))),
            [161862831, 247779206, 1292914123, 1802795179]
        );
        assert_eq!(
            seeds(Permutation::new(-1, None)),
            [2110866088, 146998238, 226858337, 340991475]
        );
    }

    #[test]
    fn seeds_are_distinct_and_below_two_to_the_31() {
        let permutation = Permutation::new(7, None);
        let seeds: FxHashSet<u32> = (0..50_000).map(|i| permutation.apply(i)).collect();
        assert_eq!(seeds.len(), 50_000);
        assert!(seeds.iter().all(|seed| *seed < 1 << 31));
    }
}
