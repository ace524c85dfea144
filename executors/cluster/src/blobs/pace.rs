//! When compression pays: where the network is what a stream waits for, and the bytes give way faster than it takes them.
//!
//! Pure: times come in as arguments.

use std::time::Duration;

/// Older measurements count half when so many bytes were sent.
const WINDOW: f64 = (16 << 20) as f64;
/// Waiting for less than this tells nothing of a network.
const TELLING: Duration = Duration::from_millis(50);
/// Compression that leaves more than this of the bytes is not worth its time.
const WORTH: f64 = 0.85;

/// How fast the other side of one stream takes bytes.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    sent: f64,
    waited: Duration,
    worked: Duration,
}

/// What compressing a part of a blob gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Compressed bytes for each byte.
    pub(crate) ratio: f64,
    /// Bytes compressed in a second.
    pub(crate) speed: f64,
}

impl Pace {
    /// So many bytes took so long to make, and then waited so long for the other side.
    pub(crate) fn note(&mut self, bytes: usize, worked: Duration, waited: Duration) {
        if self.sent > WINDOW {
            self.sent /= 2.0;
            self.waited /= 2;
            self.worked /= 2;
        }
        self.sent += bytes as f64;
        self.worked += worked;
        self.waited += waited;
    }

    /// Bytes a second that the network takes, where it is what the stream waits for.
    pub(crate) fn network(&self) -> Option<f64> {
        let is_slow = self.waited > TELLING && self.waited > self.worked * 2;
        is_slow.then(|| self.sent / (self.waited + self.worked).as_secs_f64())
    }

    /// Whether bytes like these get over sooner when they are compressed.
    pub(crate) fn pays(&self, sample: Sample) -> bool {
        self.network()
            .is_some_and(|rate| sample.ratio < WORTH && sample.speed > 1.25 * rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const TEXT: Sample = Sample {
        ratio: 0.3,
        speed: 400e6,
    };

    /// A stream over a network of so many bytes a second, with a disk of 2 GB/s.
    fn stream(rate: f64) -> Pace {
        let mut pace = Pace::default();
        for _ in 0..64 {
            let network = (1 << 20) as f64 / rate;
            let disk = (1 << 20) as f64 / 2e9;
            let wait = (network - disk).max(0.0);
            pace.note(
                1 << 20,
                Duration::from_secs_f64(disk),
                Duration::from_secs_f64(wait),
            );
        }
        pace
    }

    #[test]
    fn slow_networks_make_compression_pay_and_fast_ones_do_not() {
        assert!(stream(117e6).pays(TEXT), "1 Gbit/s");
        assert!(stream(10e6).pays(TEXT));
        assert!(
            !stream(1.2e9).pays(TEXT),
            "10 Gbit/s take more than zstd makes"
        );
        assert!(!stream(3e9).pays(TEXT), "the disk is what it waits for");
        let noise = Sample {
            ratio: 1.0,
            speed: 1e9,
        };
        assert!(!stream(10e6).pays(noise));
    }

    #[test]
    fn nothing_is_known_at_first_and_changes_are_noticed() {
        assert!(!Pace::default().pays(TEXT));
        let mut pace = stream(3e9);
        for _ in 0..40 {
            pace.note(1 << 20, MS, 20 * MS);
        }
        assert!(pace.pays(TEXT));
        for _ in 0..200 {
            pace.note(1 << 20, MS, Duration::ZERO);
        }
        assert!(!pace.pays(TEXT));
    }
}
