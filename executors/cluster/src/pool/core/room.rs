//! How much of a worker is taken, as the worker itself counts: what does not fit waits there in order.

use std::collections::VecDeque;

use dagrun_model::{AttemptId, Resources};

use super::RunIx;

/// An attempt of all runs.
pub(super) type Key = (RunIx, AttemptId);

/// What is free, and what waits for it.
#[derive(Clone, Debug)]
pub(super) struct Room {
    free: Resources,
    /// All that was given, whether it has begun to take its room or not.
    given: Resources,
    /// Given beyond what is free; begun in this order.
    ahead: VecDeque<(Key, Resources)>,
}

impl Room {
    pub(super) fn new(capacity: &Resources) -> Self {
        Self {
            free: capacity.clone(),
            given: Resources::none(),
            ahead: VecDeque::new(),
        }
    }

    /// Whether this could begin at once.
    pub(super) fn fits(&self, demand: &Resources) -> bool {
        self.ahead.is_empty() && demand.fits(&self.free)
    }

    /// What is taken of a capacity that was all free at first.
    pub(super) fn used(&self, capacity: &Resources) -> Resources {
        let mut used = capacity.clone();
        used.take(&self.free);
        used
    }

    /// All that was given.
    pub(super) fn given(&self) -> &Resources {
        &self.given
    }

    /// Whether something could begin at once.
    pub(super) fn is_left(&self) -> bool {
        self.ahead.is_empty() && self.free.cpu_milli > 0
    }

    /// How many wait.
    pub(super) fn ahead(&self) -> usize {
        self.ahead.len()
    }

    pub(super) fn take(&mut self, key: Key, demand: &Resources) {
        self.given.give(demand);
        if self.fits(demand) {
            self.free.take(demand);
        } else {
            self.ahead.push_back((key, demand.clone()));
        }
    }

    /// An attempt is another run's from now on.
    pub(super) fn rename(&mut self, from: Key, to: Key) {
        for (key, _) in self.ahead.iter_mut().filter(|(key, _)| *key == from) {
            *key = to;
        }
    }

    /// Gives back what an attempt has or waits for.
    pub(super) fn release(&mut self, key: Key, demand: &Resources) {
        self.given.take(demand);
        match self.ahead.iter().position(|(other, _)| *other == key) {
            Some(at) => {
                self.ahead.remove(at);
            }
            None => self.free.give(demand),
        }
        while let Some((_, next)) = self.ahead.front()
            && next.fits(&self.free)
        {
            self.free.take(next);
            self.ahead.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(n: u64) -> Resources {
        Resources {
            cpu_milli: n * 1000,
            ..Resources::none()
        }
    }

    fn key(n: u64) -> Key {
        (RunIx(0), AttemptId(n))
    }

    #[test]
    fn what_waits_takes_its_turn_in_order() {
        let mut room = Room::new(&cpus(2));
        room.take(key(1), &cpus(1));
        room.take(key(2), &cpus(2));
        room.take(key(3), &cpus(1));
        assert_eq!((room.ahead(), room.free.cpu_milli), (2, 1000));
        assert!(!room.fits(&cpus(1)), "nothing overtakes what waits");
        room.release(key(1), &cpus(1));
        assert_eq!((room.ahead(), room.free.cpu_milli), (1, 0));
        room.release(key(3), &cpus(1));
        assert_eq!((room.ahead(), room.free.cpu_milli), (0, 0));
        room.release(key(2), &cpus(2));
        assert!(room.fits(&cpus(2)));
    }
}
