//! A disk that had no room for an attempt, until it has.

use std::{path::PathBuf, time::Duration};

use tokio::time::Instant;

/// What did not fit left room when it was removed, and the next of its kind does not fit either: a disk that is found full again is
/// believed to have room after so many times as long as it took, and twice as long as the last time.
const WARY: u32 = 10;
/// At least, and at most.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

#[derive(Debug, Default)]
pub(super) struct Full {
    /// A folder on it, and before when it is not believed to have room.
    found: Option<(PathBuf, Instant)>,
    /// When it had room again last.
    again: Option<Instant>,
    /// How long it was not believed then.
    waited: Duration,
}

impl Full {
    pub(super) fn find(&mut self, folder: PathBuf, now: Instant) {
        let until = match &self.found {
            // Attempts that ran beside the one that found it first.
            Some((_, until)) => *until,
            None => {
                let took = self.again.map_or(Duration::ZERO, |again| now - again);
                let wait = (took * WARY).max(self.waited * 2);
                self.waited = wait.clamp(WAIT.0, WAIT.1);
                now + self.waited
            }
        };
        self.found = Some((folder, until));
    }

    /// Whether it has room again, for the first time since it was found.
    pub(super) fn clears(&mut self, now: Instant, has_room: impl FnOnce(&PathBuf) -> bool) -> bool {
        let over = |(folder, until): &mut (PathBuf, Instant)| *until <= now && has_room(folder);
        let clears = self.found.take_if(over).is_some();
        if clears {
            self.again = Some(now);
        }
        clears
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_found_full_again_and_again_is_believed_less() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut full = Full::default();
        assert!(!full.clears(at(0), |_| true));
        full.find("/d".into(), at(0));
        assert!(!full.clears(at(1), |_| false));
        assert!(full.clears(at(2), |_| true) && !full.clears(at(2), |_| true));
        // An hour of nodes that find it full at once: few of them are tried there.
        let mut tried = 0;
        for second in 3..3600 {
            if full.found.is_none() {
                full.find("/d".into(), at(second));
                tried += 1;
            }
            full.clears(at(second), |_| true);
        }
        assert!((5..15).contains(&tried), "{tried}");
        // No wait is longer than an hour.
        let mut full = Full::default();
        full.find("/d".into(), at(0));
        assert!(full.clears(at(1), |_| true));
        full.find("/d".into(), at(100_000));
        assert!(!full.clears(at(103_599), |_| true) && full.clears(at(103_600), |_| true));
    }
}
