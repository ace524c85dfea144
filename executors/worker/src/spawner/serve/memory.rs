//! What is done where the memory of the host runs short: nothing is started beside what runs, and in the end the newest is stopped.

use std::time::{Duration, Instant};

use super::{Server, strays_of};
use crate::{
    pressure::{Gauges, Memory, Verdict, Watermarks},
    spawner::{attempt::Why, wire::Report},
};

/// How often the memory is looked at while something runs, and where little of it is left.
const LOOK: Duration = Duration::from_millis(500);
const LOOK_CLOSELY: Duration = Duration::from_millis(50);

/// The memory of the host as it was seen last, and what came of it.
#[derive(Default)]
pub(super) struct Watch {
    marks: Watermarks,
    seen: Option<(Instant, Option<Memory>)>,
    /// Since when the next attempt waits for memory alone.
    since: Option<Instant>,
    held: Duration,
}

impl Watch {
    /// When to look next.
    pub(super) fn due(&self) -> Option<Instant> {
        let (at, memory) = self.seen?;
        let period = match memory {
            None => return None,
            Some(memory) if self.marks.is_close(memory) => LOOK_CLOSELY,
            Some(_) => LOOK,
        };
        Some(at + period)
    }

    fn is_stale(&self, now: Instant) -> bool {
        self.seen.is_none() || self.due().is_some_and(|at| at <= now)
    }

    fn look(&mut self, gauges: &mut Gauges, now: Instant) -> Verdict {
        let memory = gauges.look();
        self.seen = Some((now, memory));
        memory.map_or(Verdict::Start, |memory| self.marks.see(memory))
    }

    /// For how long attempts had their turn so far and were not started.
    pub(super) fn held(&self, now: Instant) -> Duration {
        self.held + self.since.map_or(Duration::ZERO, |since| now - since)
    }

    /// An attempt was stopped or killed for want of memory.
    pub(super) fn gave_way(&mut self) {
        self.marks.stopped_one();
    }

    fn go(&mut self, now: Instant) {
        self.held = self.held(now);
        self.since = None;
    }
}

impl Server {
    /// Whether the attempt whose turn it is must wait for memory.
    pub(super) fn is_held(&mut self, now: Instant) -> bool {
        if self.live.is_empty() {
            self.memory.go(now);
            return false;
        }
        if self.memory.is_stale(now) {
            self.memory.look(&mut self.tools.gauges, now);
        }
        if !self.memory.marks.holds() {
            self.memory.go(now);
            return false;
        }
        if self.memory.since.is_none() {
            self.memory.since = Some(now);
            if let Some((_, Some(Memory { free, limit }))) = self.memory.seen {
                self.reports.push(Report::MemoryShort { free, limit });
                self.flush_at = Some(now);
            }
        }
        true
    }

    /// Looks at the memory when it is time, and stops the newest attempt where nothing else helps.
    pub(super) fn watch_memory(&mut self, now: Instant) {
        if self.live.is_empty() || !self.memory.is_stale(now) {
            return;
        }
        if self.memory.look(&mut self.tools.gauges, now) != Verdict::Stop {
            return;
        }
        let Some((_, Some(memory))) = self.memory.seen else {
            return;
        };
        let running = self.live.iter().filter_map(|attempt| {
            let since = attempt.runs_since()?;
            Some((since, attempt.order.id))
        });
        let (count, newest) = running.fold((0, None), |(count, newest), one| {
            (count + 1, newest.max(Some(one)))
        });
        // What was stopped before gives its memory back first.
        let one_goes = self.live.iter().any(|attempt| attempt.is_displaced());
        let Some((_, id)) = newest.filter(|_| count > 1 && !one_goes) else {
            return;
        };
        let strays = strays_of(&self.strays, id);
        if let Some(attempt) = self.live.iter_mut().find(|attempt| attempt.order.id == id) {
            attempt.stop(Why::Displaced(memory), true, &strays, now);
        }
    }

    /// An attempt is gone.
    pub(super) fn give_way(&mut self, was_displaced: bool) {
        if !was_displaced {
            self.memory.marks.one_ended();
        }
    }
}
