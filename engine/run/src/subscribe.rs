//! Who hears of events besides the journal: the terminal, an NDJSON file, later a dashboard.
//!
//! Queues are bounded and nothing here ever waits: an event for which a queue has no room is dropped and counted, and the
//! subscriber is told how many it missed before the next one. Counts are exact all the same: they come by [`Progress`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use dagrun_events::{NodeCounts, Record};

/// What a subscriber gets.
#[derive(Clone, Debug, PartialEq)]
pub enum Notification {
    /// An event that is in the journal.
    Event(Arc<Record>),
    /// This many events were dropped here.
    Missed(u64),
}

/// The run's end of a subscription.
#[derive(Debug)]
pub struct Subscriber {
    sender: SyncSender<Notification>,
    missed: u64,
    dropped: Arc<AtomicU64>,
}

/// The subscriber's end. Ends when the run is over and all was taken.
#[derive(Debug)]
pub struct Subscription {
    receiver: Receiver<Notification>,
    dropped: Arc<AtomicU64>,
}

/// A subscription that holds at most `capacity` events.
pub fn subscribe(capacity: usize) -> (Subscriber, Subscription) {
    let (sender, receiver) = sync_channel(capacity.max(1));
    let dropped = Arc::new(AtomicU64::new(0));
    let subscriber = Subscriber {
        sender,
        missed: 0,
        dropped: Arc::clone(&dropped),
    };
    (subscriber, Subscription { receiver, dropped })
}

impl Subscriber {
    /// Gives an event, or counts it as missed. False when nobody listens any more.
    pub fn give(&mut self, record: &Arc<Record>) -> bool {
        if self.missed > 0 {
            match self.sender.try_send(Notification::Missed(self.missed)) {
                Ok(()) => self.missed = 0,
                Err(TrySendError::Full(_)) => return self.miss(),
                Err(TrySendError::Disconnected(_)) => return false,
            }
        }
        match self
            .sender
            .try_send(Notification::Event(Arc::clone(record)))
        {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => self.miss(),
            Err(TrySendError::Disconnected(_)) => false,
        }
    }

    fn miss(&mut self) -> bool {
        self.missed += 1;
        self.dropped.fetch_add(1, Ordering::Relaxed);
        true
    }

    pub(crate) fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }
}

impl Subscription {
    /// The next notification; none when the run is over.
    pub fn next(&self) -> Option<Notification> {
        self.receiver.recv().ok()
    }

    /// The next notification within `timeout`: `Err` when there was none yet, `Ok(None)` when the run is over.
    ///
    /// # Errors
    /// When the time ran out.
    pub fn next_within(&self, timeout: Duration) -> Result<Option<Notification>, RecvTimeoutError> {
        match self.receiver.recv_timeout(timeout) {
            Ok(notification) => Ok(Some(notification)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(timeout) => Err(timeout),
        }
    }

    /// How many events were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Counts of a run that may be read at any time from any thread.
#[derive(Debug, Default)]
pub struct Progress {
    total: AtomicU64,
    running: AtomicU64,
    started: AtomicU64,
    succeeded: AtomicU64,
    cached: AtomicU64,
    failed: AtomicU64,
    skipped: AtomicU64,
    cancelled: AtomicU64,
}

impl Progress {
    /// All nodes of the plan.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Attempts that run now.
    pub fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }

    /// Attempts started so far.
    pub fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// How nodes ended so far.
    pub fn counts(&self) -> NodeCounts {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        NodeCounts {
            succeeded: get(&self.succeeded),
            cached: get(&self.cached),
            failed: get(&self.failed),
            skipped: get(&self.skipped),
            cancelled: get(&self.cancelled),
        }
    }

    pub(crate) fn set_total(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, counts: &NodeCounts, running: u64, started: u64) {
        let set = |n: &AtomicU64, value| n.store(value, Ordering::Relaxed);
        set(&self.running, running);
        set(&self.started, started);
        set(&self.succeeded, counts.succeeded);
        set(&self.cached, counts.cached);
        set(&self.failed, counts.failed);
        set(&self.skipped, counts.skipped);
        set(&self.cancelled, counts.cancelled);
    }
}

#[cfg(test)]
mod tests {
    use dagrun_events::RunEvent;

    use super::*;

    fn event(at: f64) -> Arc<Record> {
        let event = RunEvent::Rewound { node: "a".into() };
        Arc::new(Record { at, event })
    }

    #[test]
    fn a_slow_subscriber_is_told_what_it_missed_and_never_waited_for() {
        let (mut subscriber, subscription) = subscribe(2);
        for at in 0..5 {
            assert!(subscriber.give(&event(f64::from(at))));
        }
        assert_eq!(subscription.dropped(), 3);
        for at in 0..2 {
            let expected = Notification::Event(event(f64::from(at)));
            assert_eq!(subscription.next(), Some(expected));
        }
        assert!(subscriber.give(&event(5.0)));
        drop(subscriber);
        assert_eq!(subscription.next(), Some(Notification::Missed(3)));
        assert_eq!(subscription.next(), Some(Notification::Event(event(5.0))));
        assert_eq!(subscription.next(), None);
    }

    #[test]
    fn a_subscriber_that_left_is_noticed() {
        let (mut subscriber, subscription) = subscribe(2);
        drop(subscription);
        assert!(!subscriber.give(&event(0.0)));
    }
}
