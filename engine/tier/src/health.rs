//! How long a cache that does not answer is waited for: one budget of time for all retries together.
//!
//! A stretch of trouble begins with the first attempt that fails and ends with the next that succeeds. All stretches of a
//! process count; when they are longer than the budget, the cache is off and nobody asks it again. Knows no clock of its own:
//! times come as arguments.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// Whether the cache is worth asking.
#[derive(Debug)]
pub(crate) struct Health {
    budget: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Trouble that is over.
    spent: Duration,
    /// Since when nothing has succeeded.
    since: Option<Instant>,
    /// Requests that were refused, since one was not.
    refused: u32,
    off: bool,
}

/// Refusals in a row after which rights are missing for good.
const MOST_REFUSALS: u32 = 3;

impl Health {
    pub(crate) fn new(budget: Duration) -> Self {
        Self {
            budget,
            state: Mutex::default(),
        }
    }

    pub(crate) fn is_off(&self) -> bool {
        self.lock().off
    }

    /// An answer came, whatever it was.
    pub(crate) fn good(&self, now: Instant) {
        let mut state = self.lock();
        state.refused = 0;
        if let Some(since) = state.since.take() {
            state.spent += now.saturating_duration_since(since);
        }
    }

    /// An attempt that began at `started` failed. Says whether the cache is off with that, the first time.
    pub(crate) fn bad(&self, started: Instant, now: Instant) -> bool {
        let mut state = self.lock();
        let since = *state.since.get_or_insert(started);
        let trouble = state.spent + now.saturating_duration_since(since);
        let out = trouble >= self.budget;
        let first = out && !state.off;
        state.off |= out;
        first
    }

    /// A request was refused for lack of rights. Says whether the cache is off with that, the first time.
    pub(crate) fn refused(&self) -> bool {
        let mut state = self.lock();
        state.refused += 1;
        let out = state.refused >= MOST_REFUSALS;
        let first = out && !state.off;
        state.off |= out;
        first
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_of_trouble_add_up_and_good_times_do_not() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let health = Health::new(Duration::from_secs(10));
        assert!(!health.bad(at(0), at(4)));
        health.good(at(5));
        assert!(!health.bad(at(100), at(104)), "9 s in all");
        assert!(!health.is_off());
        assert!(health.bad(at(103), at(105)), "10 s in all");
        assert!(health.is_off());
        assert!(!health.bad(at(105), at(106)), "it is said once");
    }

    #[test]
    fn failures_at_once_count_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let health = Health::new(Duration::from_secs(10));
        for _ in 0..100 {
            assert!(!health.bad(at(0), at(9)));
        }
        health.good(at(9));
        assert!(!health.is_off());
    }

    #[test]
    fn refusals_in_a_row_end_it() {
        let health = Health::new(Duration::from_secs(10));
        assert!(!health.refused());
        assert!(!health.refused());
        health.good(Instant::now());
        assert!(!health.refused());
        assert!(!health.refused());
        assert!(health.refused());
        assert!(health.is_off());
    }
}
