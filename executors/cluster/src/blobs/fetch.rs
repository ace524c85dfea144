//! Bringing blobs from others into a store.
//!
//! A fetch is a set of digests. Each is asked of those who are known to have it, then of those whom a search finds, and last
//! of the coordinator, which may get it for us. Many digests go into one request, and several requests run at once. What breaks
//! off is gone on with where it broke, from the same peer or another; wrong bytes are thrown away, counted, and not had from
//! that peer again. The loop of a fetch ([`Fetch`]) decides; [`super::read`] moves bytes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use dagrun_model::Digest;
use dagrun_store::{BlobSource, Incoming, Store, StoreError};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use rustc_hash::FxHashMap;
use tokio::{runtime::Handle, sync::Semaphore};

use super::{
    Peer, Peers, Whereabouts,
    flights::Flights,
    lock,
    read::{Order, Partial, ReadEnd, read, wait_for_another},
};

/// Blobs of one request, so that a peer that breaks off costs little to ask again.
const BATCH: usize = 1024;
/// Requests that one peer gets of one fetch.
const SPREAD: usize = 4;
/// Blobs of whom it is remembered that they were fetched, until somebody asks.
const MOST_REMEMBERED: usize = 100_000;

/// How patient a fetcher is.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// A peer that sends nothing for so long is given up, for now.
    pub stall: Duration,
    /// A coordinator may take so long to get a blob for us.
    pub relay: Duration,
    /// Requests at once, over all peers.
    pub transfers: usize,
    /// Breaks in a row without a byte between them after which a peer is not asked again for a blob.
    pub breaks: u32,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(60),
            relay: Duration::from_secs(300),
            transfers: 16,
            breaks: 3,
        }
    }
}

/// What a fetcher has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchStats {
    /// Blobs that arrived.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that came with wrong bytes.
    pub wrong: u64,
    /// Requests that broke off or stalled.
    pub breaks: u64,
    /// Requests that went on within a blob.
    pub resumed: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    blobs: AtomicU64,
    bytes: AtomicU64,
    wrong: AtomicU64,
    breaks: AtomicU64,
    resumed: AtomicU64,
}

/// Fetches blobs for the store of this process. A clone is the same.
#[derive(Clone)]
pub struct Fetcher {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    runtime: Handle,
    pub(crate) peers: Peers,
    whereabouts: Arc<dyn Whereabouts>,
    /// Asked when nobody else has a blob.
    coordinator: Option<Peer>,
    pub(crate) options: FetchOptions,
    pub(crate) transfers: Semaphore,
    flights: Flights,
    counters: Counters,
    /// What was fetched, for [`Fetcher::take_fetched`].
    fetched: Mutex<FxHashMap<Digest, u64>>,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Fetcher").field(&self.stats()).finish()
    }
}

impl Fetcher {
    /// A fetcher that runs on a runtime, which needs threads of its own: those who fetch by [`BlobSource`] block.
    ///
    /// `coordinator` is asked last, and may get blobs from hosts that cannot be reached from here.
    pub fn new(
        runtime: Handle,
        peers: Peers,
        whereabouts: Arc<dyn Whereabouts>,
        coordinator: Option<Peer>,
        options: FetchOptions,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                runtime,
                peers,
                whereabouts,
                coordinator,
                transfers: Semaphore::new(options.transfers.max(1)),
                options,
                flights: Flights::default(),
                counters: Counters::default(),
                fetched: Mutex::default(),
            }),
        }
    }

    /// Brings as many of these blobs into the store as can be had.
    ///
    /// # Errors
    /// When the store cannot take them.
    pub async fn bring(&self, store: &Store, blobs: &[Digest]) -> Result<(), StoreError> {
        self.inner.bring(store, None, blobs).await
    }

    /// Which of these were fetched since they were asked for last, and the bytes of all of them together; a tree counts with the
    /// files that came for it.
    pub fn take_fetched<'a>(
        &self,
        blobs: impl IntoIterator<Item = &'a Digest>,
    ) -> (Vec<Digest>, u64) {
        let mut fetched = lock(&self.inner.fetched);
        let mut bytes = 0;
        let taken = blobs.into_iter().filter(|digest| {
            let size = fetched.remove(digest);
            bytes += size.unwrap_or(0);
            size.is_some()
        });
        let taken = taken.copied().collect();
        (taken, bytes)
    }

    /// What was done so far.
    pub fn stats(&self) -> FetchStats {
        let counters = &self.inner.counters;
        FetchStats {
            blobs: counters.blobs.load(Relaxed),
            bytes: counters.bytes.load(Relaxed),
            wrong: counters.wrong.load(Relaxed),
            breaks: counters.breaks.load(Relaxed),
            resumed: counters.resumed.load(Relaxed),
        }
    }

    fn block(
        &self,
        store: &Store,
        tree: Option<Digest>,
        blobs: &[Digest],
    ) -> Result<(), StoreError> {
        let (sender, receiver) = mpsc::channel();
        let (inner, store, blobs) = (self.inner.clone(), store.clone(), blobs.to_vec());
        self.inner.runtime.spawn(async move {
            let _ = sender.send(inner.bring(&store, tree, &blobs).await);
        });
        // A runtime that is shut down drops the sender: nothing can be had then.
        receiver.recv().unwrap_or(Ok(()))
    }
}

impl BlobSource for Fetcher {
    fn fetch(&self, store: &Store, blobs: &[Digest]) -> Result<(), StoreError> {
        self.block(store, None, blobs)
    }

    fn fetch_files(
        &self,
        store: &Store,
        tree: &Digest,
        files: &[Digest],
    ) -> Result<(), StoreError> {
        self.block(store, Some(*tree), files)
    }
}

impl Inner {
    async fn bring(
        self: &Arc<Self>,
        store: &Store,
        tree: Option<Digest>,
        blobs: &[Digest],
    ) -> Result<(), StoreError> {
        let (mut flight, others) = self.flights.begin(blobs);
        // Somebody may have landed between the caller's look and ours.
        flight.digests.retain(|digest| !store.contains(digest));
        let fetched = Fetch::new(self, store, tree, &flight.digests).run().await;
        // Before waiting for others, who may wait for us.
        drop(flight);
        for other in others {
            other.landed().await;
        }
        fetched
    }
}

/// One blob of a fetch.
#[derive(Default)]
struct Job {
    stage: Stage,
    /// Whom to ask, best first.
    candidates: Vec<Peer>,
    /// Who could not give it.
    tried: Vec<Peer>,
    partial: Option<Partial>,
    breaks: u32,
    /// Bytes of several peers did not fit together: from now on it is had from one alone.
    alone: bool,
    /// There was no room for it, as far as who sent it told the truth about its size.
    no_room: Option<StoreError>,
}

/// Whom a blob was asked of.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Known,
    Searched,
    Coordinator,
}

/// What a fetch waits for.
enum Ended {
    Read(Box<ReadEnd>),
    Searched(Vec<Digest>, Vec<(Digest, Vec<Peer>)>),
    /// Another process of this host has the blob, or has left this of it.
    Waited(Digest, Option<Incoming>),
}

type Running<'a> = FuturesUnordered<BoxFuture<'a, Ended>>;

/// A fetch: what is left to do, and what runs.
struct Fetch<'a> {
    inner: &'a Arc<Inner>,
    store: &'a Store,
    /// The blobs are files of this tree: whoever has it has them.
    tree: Option<Digest>,
    jobs: FxHashMap<Digest, Job>,
    /// Blobs that nobody is asked for now, in order.
    idle: Vec<Digest>,
    /// There was no room for a blob that could not be had otherwise.
    no_room: Option<StoreError>,
}

impl<'a> Fetch<'a> {
    fn new(
        inner: &'a Arc<Inner>,
        store: &'a Store,
        tree: Option<Digest>,
        blobs: &[Digest],
    ) -> Self {
        let mut fetch = Self {
            inner,
            store,
            tree,
            jobs: FxHashMap::default(),
            idle: blobs.to_vec(),
            no_room: None,
        };
        for (digest, candidates) in blobs.iter().zip(fetch.known(blobs)) {
            let job = Job {
                candidates,
                ..Job::default()
            };
            fetch.jobs.insert(*digest, job);
        }
        fetch
    }

    fn known(&self, blobs: &[Digest]) -> Vec<Vec<Peer>> {
        let mut known = self.inner.whereabouts.known(blobs);
        if let Some(tree) = self.tree {
            let of_tree = self
                .inner
                .whereabouts
                .known(&[tree])
                .pop()
                .unwrap_or_default();
            for peers in &mut known {
                peers.extend(of_tree.iter().cloned());
            }
        }
        known
    }

    async fn run(mut self) -> Result<(), StoreError> {
        let mut running = Running::new();
        loop {
            self.assign(&mut running);
            let Some(ended) = running.next().await else {
                break;
            };
            match ended {
                Ended::Read(end) => self.settle(*end, &mut running)?,
                Ended::Searched(asked, found) => self.searched(asked, found),
                Ended::Waited(digest, left) => self.waited(digest, left),
            }
        }
        // Only what nobody could give is left, and nothing of it waits.
        match self.no_room {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Gives every idle blob to somebody, or gives it up.
    fn assign(&mut self, running: &mut Running<'a>) {
        let mut by_peer: BTreeMap<Peer, Vec<Digest>> = BTreeMap::new();
        let mut to_search = Vec::new();
        for digest in std::mem::take(&mut self.idle) {
            match self.next_peer(&digest) {
                Next::Ask(peer) => by_peer.entry(peer).or_default().push(digest),
                Next::Search => to_search.push(digest),
                Next::GiveUp => {
                    let job = self.jobs.remove(&digest);
                    self.no_room = self.no_room.take().or(job.and_then(|job| job.no_room));
                }
            }
        }
        for (peer, digests) in by_peer {
            self.order(&peer, digests, running);
        }
        if !to_search.is_empty() {
            let asked = self.searched_for(&to_search);
            let inner = self.inner;
            running.push(Box::pin(async move {
                let found = inner.whereabouts.search(&asked).await;
                Ended::Searched(to_search, found)
            }));
        }
    }

    /// Of files of a tree, the tree's whereabouts are worth knowing too.
    fn searched_for(&self, digests: &[Digest]) -> Vec<Digest> {
        digests.iter().copied().chain(self.tree).collect()
    }

    fn next_peer(&mut self, digest: &Digest) -> Next {
        let Some(job) = self.jobs.get_mut(digest) else {
            return Next::GiveUp;
        };
        loop {
            let mut left = job
                .candidates
                .iter()
                .filter(|peer| !job.tried.contains(peer));
            let first = left.next().cloned();
            // Who failed just now is asked only where nobody else is left.
            let rests = |peer: &Peer| self.inner.peers.rests_until(peer).is_some();
            let rested = match &first {
                Some(peer) if rests(peer) => left.find(|peer| !rests(peer)).cloned(),
                _ => None,
            };
            if let Some(peer) = rested.or(first) {
                return Next::Ask(peer);
            }
            match job.stage {
                Stage::Known => {
                    job.stage = Stage::Searched;
                    return Next::Search;
                }
                Stage::Searched => {
                    job.stage = Stage::Coordinator;
                    job.tried
                        .retain(|peer| Some(peer) != self.inner.coordinator.as_ref());
                    job.candidates = self.inner.coordinator.iter().cloned().collect();
                }
                Stage::Coordinator => return Next::GiveUp,
            }
        }
    }

    /// Asks a peer, by a few requests at once where there are many blobs.
    fn order(&mut self, peer: &Peer, digests: Vec<Digest>, running: &mut Running<'a>) {
        let (begun, fresh): (Vec<Digest>, Vec<Digest>) = digests.into_iter().partition(|digest| {
            self.jobs
                .get(digest)
                .is_some_and(|job| job.partial.is_some())
        });
        let size = fresh.len().div_ceil(SPREAD).clamp(1, BATCH);
        let batches = begun.chunks(1).chain(fresh.chunks(size));
        for batch in batches {
            let mut relay = false;
            let mut partial = None;
            for digest in batch {
                let Some(job) = self.jobs.get_mut(digest) else {
                    continue;
                };
                let begun = job.partial.take();
                let fits = |partial: &Partial| !job.alone || partial.is_of(peer);
                partial = begun.filter(fits).or(partial);
                if job.stage == Stage::Coordinator {
                    relay = true;
                }
            }
            if partial.is_some() {
                self.inner.counters.resumed.fetch_add(1, Relaxed);
            }
            let order = Order {
                peer: peer.clone(),
                blobs: batch.to_vec(),
                partial,
                patience: match relay {
                    true => self.inner.options.relay,
                    false => self.inner.options.stall,
                },
                relay,
            };
            let (inner, store) = (self.inner, self.store);
            running.push(Box::pin(async move {
                Ended::Read(Box::new(read(inner, store, order).await))
            }));
        }
    }

    fn searched(&mut self, asked: Vec<Digest>, found: Vec<(Digest, Vec<Peer>)>) {
        let mut found: FxHashMap<Digest, Vec<Peer>> = found.into_iter().collect();
        let of_tree = self.tree.and_then(|tree| found.get(&tree).cloned());
        for digest in asked {
            if let Some(job) = self.jobs.get_mut(&digest) {
                job.candidates = found.remove(&digest).unwrap_or_default();
                job.candidates.extend(of_tree.iter().flatten().cloned());
                job.breaks = 0;
                self.idle.push(digest);
            }
        }
    }

    fn waited(&mut self, digest: Digest, left: Option<Incoming>) {
        if self.store.contains(&digest) {
            self.jobs.remove(&digest);
            return;
        }
        if let Some(job) = self.jobs.get_mut(&digest) {
            job.partial = left.map(Partial::of_another);
            self.idle.push(digest);
        }
    }

    /// Takes in what came of a request.
    fn settle(&mut self, end: ReadEnd, running: &mut Running<'a>) -> Result<(), StoreError> {
        if let Some(error) = end.fatal {
            return Err(error);
        }
        let made_progress = end.made_progress();
        for (digest, size) in &end.stored {
            self.stored(digest, *size);
        }
        for digest in end.missing {
            self.set_aside(digest, &end.peer);
        }
        for digest in end.wrong {
            self.wrong(digest, &end.peer, end.mixed == Some(digest));
        }
        for (digest, error) in end.no_room {
            self.set_aside(digest, &end.peer);
            if let Some(job) = self.jobs.get_mut(&digest) {
                job.no_room = Some(error);
            }
        }
        if let Some((digest, partial)) = end.partial
            && let Some(job) = self.jobs.get_mut(&digest)
        {
            job.partial = Some(partial);
        }
        for digest in end.busy {
            let store = self.store;
            running.push(Box::pin(async move {
                Ended::Waited(digest, wait_for_another(store, &digest).await)
            }));
        }
        if let Some(why) = &end.broke {
            self.inner.counters.breaks.fetch_add(1, Relaxed);
            tracing::debug!("reading blobs from {} broke off: {why}", end.peer);
        }
        for digest in end.left {
            self.broke_off(digest, &end.peer, made_progress || end.broke.is_none());
        }
        Ok(())
    }

    fn stored(&mut self, digest: &Digest, size: u64) {
        self.jobs.remove(digest);
        self.inner.counters.blobs.fetch_add(1, Relaxed);
        self.inner.counters.bytes.fetch_add(size, Relaxed);
        let mut fetched = lock(&self.inner.fetched);
        if fetched.len() >= MOST_REMEMBERED {
            fetched.clear();
        }
        *fetched.entry(self.tree.unwrap_or(*digest)).or_default() += size;
    }

    /// This peer is not asked for this blob any more.
    fn set_aside(&mut self, digest: Digest, peer: &Peer) {
        if let Some(job) = self.jobs.get_mut(&digest) {
            job.tried.push(peer.clone());
            job.breaks = 0;
            self.idle.push(digest);
        }
    }

    fn wrong(&mut self, digest: Digest, peer: &Peer, is_mixed: bool) {
        self.inner.counters.wrong.fetch_add(1, Relaxed);
        let Some(job) = self.jobs.get_mut(&digest) else {
            return;
        };
        // Nobody can tell whose bytes were wrong.
        if is_mixed {
            job.alone = true;
            self.idle.push(digest);
            return;
        }
        let times = self
            .inner
            .peers
            .get(peer)
            .map_or(1, |known| known.was_wrong());
        tracing::warn!(
            "{peer} sent wrong bytes for blob {digest} ({times} times by now); they were thrown away"
        );
        self.set_aside(digest, peer);
    }

    fn broke_off(&mut self, digest: Digest, peer: &Peer, is_progress: bool) {
        let Some(job) = self.jobs.get_mut(&digest) else {
            return;
        };
        // What comes from one alone may be begun anew again and again: that is no progress.
        let is_progress = is_progress && !job.alone;
        job.breaks = if is_progress { 0 } else { job.breaks + 1 };
        if job.breaks >= self.inner.options.breaks {
            self.set_aside(digest, peer);
        } else {
            self.idle.push(digest);
        }
    }
}

/// What to do about a blob.
enum Next {
    Ask(Peer),
    Search,
    GiveUp,
}
