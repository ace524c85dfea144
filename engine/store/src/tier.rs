//! What may lie behind the local store: a cache that is shared, slower, and never trusted.
//!
//! Owns the trait and nothing else; `dagrun-tier` has the one that speaks to buckets and shared folders. The local store
//! stays the only place that results are read from: a tier brings entries and blobs *into* it, and whoever asked looks there
//! again. As a [`BlobSource`](crate::BlobSource) it is asked for blobs by whoever can wait; what is here never waits.

use std::sync::mpsc;

use dagrun_model::{ActionDigest, Artifact};

/// What a tier calls once when it has done what it could.
pub type Done = Box<dyn FnOnce() + Send>;

/// A cache behind the local store.
///
/// Guarantees: no call blocks on the network; `done` is called exactly once, also when the tier is down, forbids, or was told
/// to end; what arrives in the local store was verified; a tier that fails makes misses and warnings, never errors.
pub trait Tier: Send + Sync {
    /// Looks for actions that the local store does not have. Entries that are found are in the local action cache when `done`
    /// is called; their blobs need not be there yet.
    fn find(&self, actions: Vec<ActionDigest>, done: Done);

    /// Brings the blobs of artifacts that the local store does not have, with all that trees hold. What is not there
    /// afterwards is lost: whoever made it has to run again.
    fn fetch(&self, artifacts: Vec<Artifact>, done: Done);

    /// Whether it takes results.
    fn takes_results(&self) -> bool;

    /// Takes results that the local store has committed, to be uploaded in the background.
    fn offer(&self, actions: Vec<ActionDigest>);

    /// What went wrong since the last call, in words for people.
    fn take_warnings(&self) -> Vec<String>;
}

impl dyn Tier + '_ {
    /// Like [`Tier::find`], but waits.
    pub fn find_now(&self, actions: Vec<ActionDigest>) {
        let (sender, receiver) = mpsc::channel();
        let done = move || {
            let _ = sender.send(());
        };
        self.find(actions, Box::new(done));
        // An error says that `done` was dropped uncalled: there is nothing to wait for either.
        let _ = receiver.recv();
    }
}
