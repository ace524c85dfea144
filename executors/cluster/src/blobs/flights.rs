//! Single flight: of all who want a blob at once, one fetches it and the others wait.

use std::sync::{Arc, Mutex};

use dagrun_model::Digest;
use rustc_hash::FxHashMap;
use tokio::sync::watch;

/// What is being fetched. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flights {
    table: Arc<Mutex<FxHashMap<Digest, watch::Receiver<()>>>>,
}

/// Blobs that the owner of this fetches. Dropped, it wakes those who wait for them.
#[derive(Debug)]
pub(crate) struct Flight {
    flights: Flights,
    pub(crate) digests: Vec<Digest>,
    _landed: watch::Sender<()>,
}

/// The end of somebody else's flight.
#[derive(Debug)]
pub(crate) struct Other(watch::Receiver<()>);

impl Flights {
    /// Splits blobs into those to fetch, and those that others fetch already.
    pub(crate) fn begin(&self, digests: &[Digest]) -> (Flight, Vec<Other>) {
        let (sender, receiver) = watch::channel(());
        let mut table = super::lock(&self.table);
        let mut own = Vec::new();
        let mut others: Vec<watch::Receiver<()>> = Vec::new();
        for digest in digests {
            match table.get(digest) {
                None => {
                    table.insert(*digest, receiver.clone());
                    own.push(*digest);
                }
                // The same digest twice is no reason to wait for oneself.
                Some(other) if other.same_channel(&receiver) => {}
                Some(other) if others.iter().any(|there| there.same_channel(other)) => {}
                Some(other) => others.push(other.clone()),
            }
        }
        let flight = Flight {
            flights: self.clone(),
            digests: own,
            _landed: sender,
        };
        (flight, others.into_iter().map(Other).collect())
    }
}

impl Other {
    pub(crate) async fn landed(mut self) {
        // Nothing is ever sent: the sender is dropped.
        let _ = self.0.changed().await;
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut table = super::lock(&self.flights.table);
        for digest in &self.digests {
            table.remove(digest);
        }
    }
}
