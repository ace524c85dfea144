//! Token buckets: how often somebody may do something. Pure: the time comes in.

use std::{hash::Hash, time::Instant};

use rustc_hash::FxHashMap;

/// So many a second, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// What comes back each second.
    pub each_second: f64,
    /// What may be taken at once.
    pub burst: f64,
}

struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn fill(&mut self, rate: Rate, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * rate.each_second).min(rate.burst);
        self.at = now;
    }
}

/// A bucket for each key. Full ones are forgotten, so the memory is bounded by what was busy lately.
pub(super) struct Buckets<K> {
    rate: Rate,
    buckets: FxHashMap<K, Bucket>,
    /// How many there may be before full ones are looked for.
    sweep_at: usize,
}

/// Few enough to keep without looking.
const FEW: usize = 1024;

impl<K: Eq + Hash> Buckets<K> {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            rate,
            buckets: FxHashMap::default(),
            sweep_at: FEW,
        }
    }

    /// Takes one; false when there is none.
    pub(super) fn take(&mut self, key: K, now: Instant) -> bool {
        self.sweep(now);
        let bucket = self.buckets.entry(key).or_insert(Bucket {
            left: self.rate.burst,
            at: now,
        });
        bucket.fill(self.rate, now);
        let there = bucket.left >= 1.0;
        if there {
            bucket.left -= 1.0;
        }
        there
    }

    fn sweep(&mut self, now: Instant) {
        if self.buckets.len() < self.sweep_at {
            return;
        }
        let rate = self.rate;
        self.buckets.retain(|_, bucket| {
            bucket.fill(rate, now);
            bucket.left < rate.burst
        });
        self.sweep_at = (2 * self.buckets.len()).max(FEW);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rate = Rate {
            each_second: 10.0,
            burst: 5.0,
        };
        let mut buckets = Buckets::new(rate);
        let start = Instant::now();
        let taken = (0..20).filter(|_| buckets.take("a", start)).count();
        assert_eq!(taken, 5);
        assert!(buckets.take("b", start), "others have their own");
        let later = start + Duration::from_millis(300);
        let taken = (0..20).filter(|_| buckets.take("a", later)).count();
        assert_eq!(taken, 3);
        let much_later = start + Duration::from_secs(3600);
        let taken = (0..20).filter(|_| buckets.take("a", much_later)).count();
        assert_eq!(taken, 5, "never more than the burst");
        assert!(
            !buckets.take("a", start),
            "time that goes back gives nothing"
        );
    }

    #[test]
    fn idle_buckets_are_forgotten() {
        let mut buckets = Buckets::new(Rate {
            each_second: 1.0,
            burst: 2.0,
        });
        let start = Instant::now();
        for key in 0..100_000_u32 {
            assert!(buckets.take(key, start + Duration::from_millis(u64::from(key))));
        }
        assert!(buckets.buckets.len() < 4 * FEW, "{}", buckets.buckets.len());
    }
}
