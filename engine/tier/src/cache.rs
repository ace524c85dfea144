//! The tier itself: a few threads that speak to the bucket, and the way in and out of the local store.
//!
//! Owns the runtime, what is being fetched, and the queue of uploads. Every result of another is written to the local store
//! first and read from there.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dagrun_model::{ActionDigest, Artifact, BlobRef, Digest};
use dagrun_store::{ActionEntry, BlobSource, Done, Store, StoreError, Tier, TreeKind};
use futures_util::{StreamExt, stream};
use object_store::{ObjectStore, path::Path};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::{
    runtime::{Handle, Runtime},
    sync::Notify,
};

use crate::{
    Location,
    remote::{Remote, Size, Trouble, lock},
    sign::{PublicKey, SigningKey},
};

/// Look-ups, fetches and uploads at once; requests have a limit of their own.
const AT_ONCE: usize = 32;
/// Results that are uploaded at once.
const UPLOADS: usize = 8;
/// Results that wait to be uploaded; more are left to `dagrun cache push`.
const MOST_QUEUED: usize = 100_000;
/// Blobs of one result that are uploaded at once.
const BLOBS_OF_ONE: usize = 8;

/// How a shared cache is used.
#[derive(Debug)]
pub struct CacheOptions {
    /// Where it is.
    pub location: Location,
    /// Whether results go there; else it is only read.
    pub write: bool,
    /// Whose entries count; everybody's where it is empty.
    pub trust: Vec<PublicKey>,
    /// What entries are signed with.
    pub key: Option<SigningKey>,
    /// The time that all failures together may cost a run.
    pub patience: Duration,
}

/// What was done so far, for reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Entries that were found.
    pub hits: u64,
    /// Actions for which none was found.
    pub misses: u64,
    /// Blobs that came.
    pub blobs_in: u64,
    /// Bytes that came, also of those that were wrong.
    pub bytes_in: u64,
    /// Results that went out.
    pub results_out: u64,
    /// Blobs that went out.
    pub blobs_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Attempts at requests beyond the first.
    pub retries: u64,
    /// Blobs with other bytes than their digest says, counted for each attempt.
    pub wrong_blobs: u64,
    /// Entries that were damaged, of another action, or not trusted.
    pub wrong_entries: u64,
}

/// What is left to upload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Results.
    pub results: u64,
    /// Bytes that went out so far.
    pub bytes_out: u64,
}

/// A shared cache behind a local store.
pub struct SharedCache {
    pub(crate) inner: Arc<Inner>,
    runtime: Option<Runtime>,
}

pub(crate) struct Inner {
    pub(crate) remote: Remote,
    pub(crate) store: Store,
    write: bool,
    /// How large blobs may be, as far as entries and manifests said it.
    sizes: Mutex<FxHashMap<Digest, Size>>,
    fetching: Mutex<FxHashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    queue: Mutex<VecDeque<ActionDigest>>,
    offered: Notify,
    drained: Notify,
    busy: AtomicU64,
    ended: AtomicBool,
    hits: AtomicU64,
    misses: AtomicU64,
    pub(crate) results_out: AtomicU64,
}

impl std::fmt::Debug for SharedCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SharedCache")
            .field(&self.inner.remote.location)
            .finish()
    }
}

impl SharedCache {
    /// Opens a shared cache behind `store`. Nothing is asked of the network yet.
    ///
    /// # Errors
    /// When the environment does not say how to get there, or a shared folder is not there.
    pub fn open(options: CacheOptions, store: Store) -> Result<Self, String> {
        // The first client wants one, and another part of the process may have set it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let connect = options.patience.min(Duration::from_secs(5));
        let (objects, prefix) = options.location.open(options.write, connect)?;
        Self::over(objects, prefix, options, store)
    }

    /// Opens a shared cache by a client that was made elsewhere; `options.location` is its name in messages.
    ///
    /// # Errors
    /// When its threads cannot be started.
    pub fn over(
        objects: Arc<dyn ObjectStore>,
        prefix: Path,
        options: CacheOptions,
        store: Store,
    ) -> Result<Self, String> {
        let remote = Remote::new(
            options.location,
            objects,
            prefix,
            options.patience,
            options.trust,
            options.key,
        );
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(16)
            .thread_name("shared-cache")
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start the threads of the shared cache: {error}"))?;
        let inner = Arc::new(Inner {
            remote,
            store,
            write: options.write,
            sizes: Mutex::default(),
            fetching: Mutex::default(),
            queue: Mutex::default(),
            offered: Notify::new(),
            drained: Notify::new(),
            busy: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            results_out: AtomicU64::new(0),
        });
        if options.write {
            for _ in 0..UPLOADS {
                runtime.spawn(upload_what_is_offered(Arc::clone(&inner)));
            }
        }
        Ok(Self {
            inner,
            runtime: Some(runtime),
        })
    }

    /// From now on the local store asks this cache for blobs that it lacks.
    pub fn attach(self: &Arc<Self>) {
        let source = Source(Arc::downgrade(self));
        self.inner.store.add_source(Arc::new(source));
    }

    /// Where it is.
    pub fn location(&self) -> &Location {
        &self.inner.remote.location
    }

    /// Waits until all results are uploaded, or `limit` is over, or `go_on` says no. Gives what is left.
    pub fn drain(&self, limit: Duration, go_on: &mut dyn FnMut(Pending) -> bool) -> Pending {
        let deadline = Instant::now() + limit;
        loop {
            let pending = self.inner.pending();
            let left = deadline.saturating_duration_since(Instant::now());
            let over = pending.results == 0 || left.is_zero() || self.inner.remote.takes_nothing();
            if over || !go_on(pending) {
                return pending;
            }
            let inner = Arc::clone(&self.inner);
            self.block_on(async move {
                let pause = left.min(Duration::from_millis(100));
                let _ = tokio::time::timeout(pause, inner.drained.notified()).await;
            });
        }
    }

    /// What was done so far.
    pub fn traffic(&self) -> Traffic {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &self.inner.remote.counts;
        Traffic {
            hits: get(&self.inner.hits),
            misses: get(&self.inner.misses),
            blobs_in: get(&counts.blobs_in),
            bytes_in: get(&counts.bytes_in),
            results_out: get(&self.inner.results_out),
            blobs_out: get(&counts.blobs_out),
            bytes_out: get(&counts.bytes_out),
            retries: get(&counts.retries),
            wrong_blobs: get(&counts.wrong_blobs),
            wrong_entries: get(&counts.wrong_entries),
        }
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.runtime
            .as_ref()
            .expect("it is there until it is dropped")
            .handle()
    }

    /// Waits for a future on the cache's own threads. Callers are threads without a runtime, or of another one.
    pub(crate) fn block_on<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.handle().spawn(async move {
            let _ = sender.send(future.await);
        });
        receiver.recv().ok()
    }
}

impl Drop for SharedCache {
    fn drop(&mut self) {
        self.inner.ended.store(true, Ordering::Relaxed);
        self.inner.offered.notify_waiters();
        if let Some(runtime) = self.runtime.take() {
            // A request that hangs must not keep the process; but the store, which all of them hold, should close here.
            if Handle::try_current().is_ok() {
                runtime.shutdown_background();
            } else {
                runtime.shutdown_timeout(Duration::from_millis(200));
            }
        }
    }
}

impl Tier for SharedCache {
    fn find(&self, actions: Vec<ActionDigest>, done: Done) {
        let done = Once(Some(done));
        let inner = Arc::clone(&self.inner);
        self.handle().spawn(async move {
            inner.find(&actions).await;
            drop(done);
        });
    }

    fn fetch(&self, artifacts: Vec<Artifact>, done: Done) {
        let done = Once(Some(done));
        let inner = Arc::clone(&self.inner);
        self.handle().spawn(async move {
            inner.fetch_artifacts(&artifacts).await;
            drop(done);
        });
    }

    fn takes_results(&self) -> bool {
        self.inner.write && !self.inner.remote.takes_nothing()
    }

    fn offer(&self, actions: Vec<ActionDigest>) {
        if !self.takes_results() {
            return;
        }
        let mut queue = lock(&self.inner.queue);
        let room = MOST_QUEUED.saturating_sub(queue.len());
        if actions.len() > room {
            self.inner.remote.warn(format!(
                "the shared cache {} is too slow for these results: some are left out; `dagrun cache push` uploads them",
                self.inner.remote.location
            ));
        }
        queue.extend(actions.into_iter().take(room));
        drop(queue);
        self.inner.offered.notify_waiters();
    }

    fn take_warnings(&self) -> Vec<String> {
        self.inner.remote.take_warnings()
    }
}

/// Blobs for whoever reads, stages or exports what is not in the local store. The store must not keep its cache alive, which
/// keeps the store.
struct Source(Weak<SharedCache>);

impl BlobSource for Source {
    fn fetch(&self, _: &Store, blobs: &[Digest]) -> Result<(), StoreError> {
        let Some(cache) = self.0.upgrade() else {
            return Ok(());
        };
        let (inner, blobs) = (Arc::clone(&cache.inner), blobs.to_vec());
        cache.block_on(async move { inner.fetch_all(blobs).await });
        match cache.inner.remote.take_full_disk() {
            Some(full) => Err(full),
            None => Ok(()),
        }
    }
}

/// Calls back when it is dropped, so that nobody waits for a job that died.
struct Once(Option<Done>);

impl Drop for Once {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done();
        }
    }
}

impl Inner {
    /// Looks for actions and writes what is found into the local action cache.
    pub(crate) async fn find(self: &Arc<Self>, actions: &[ActionDigest]) {
        if self.remote.is_off() {
            return;
        }
        let found: Vec<Option<(ActionDigest, ActionEntry)>> = stream::iter(actions.to_vec())
            .map(|action| async move {
                let found = self.remote.find(&action).await.ok()?;
                self.learn_sizes(&found.entry);
                Some((action, found.entry))
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let entries: Vec<_> = found.into_iter().flatten().collect();
        self.hits.fetch_add(entries.len() as u64, Ordering::Relaxed);
        let misses = actions.len() - entries.len();
        self.misses.fetch_add(misses as u64, Ordering::Relaxed);
        self.keep(entries).await;
    }

    /// Writes entries into the local action cache. Their blobs stay where they are until they are needed.
    pub(crate) async fn keep(self: &Arc<Self>, entries: Vec<(ActionDigest, ActionEntry)>) {
        if entries.is_empty() {
            return;
        }
        let store = self.store.clone();
        let committed =
            tokio::task::spawn_blocking(move || store.commit_elsewhere(entries, &|_| true)).await;
        match committed {
            Ok(Ok(report)) => {
                for differing in report.differing {
                    self.alarm(&differing.action, &differing.kept, &differing.other);
                }
            }
            Ok(Err(error)) => self.remote.warn(format!(
                "results of the shared cache cannot be kept: {error}"
            )),
            Err(error) => tracing::debug!("a commit was cut off: {error}"),
        }
    }

    /// Two results of one action: somebody's node is not deterministic, or somebody's machine is broken, or worse.
    fn alarm(&self, action: &ActionDigest, one: &ActionEntry, other: &ActionEntry) {
        let who = |entry: &ActionEntry| {
            let made = &entry.made_by;
            format!("`{}` of run {} on host {}", made.node, made.run, made.host)
        };
        self.remote.warn(format!(
            "the shared cache {} has another result for action {action}: {} and {} differ; neither was overwritten. A node that is not deterministic does that, a broken machine, or somebody who means harm",
            self.remote.location,
            who(one),
            who(other)
        ));
    }

    /// Notes how large the blobs of an entry may be.
    fn learn_sizes(&self, entry: &ActionEntry) {
        let mut sizes = lock(&self.sizes);
        for artifact in entry.outputs.values() {
            learn_artifact(&mut sizes, artifact);
        }
        for log in [&entry.stdout, &entry.stderr].into_iter().flatten() {
            sizes.insert(log.blob.digest, Size::Exactly(log.blob.size));
        }
    }

    /// Fetches what of some artifacts the local store does not have, with the files of folders.
    pub(crate) async fn fetch_artifacts(self: &Arc<Self>, artifacts: &[Artifact]) {
        let mut trees = Vec::new();
        {
            let mut sizes = lock(&self.sizes);
            for artifact in artifacts {
                learn_artifact(&mut sizes, artifact);
                if let Artifact::Tree { digest, .. } = artifact {
                    trees.push(*digest);
                }
            }
        }
        let blobs = artifacts.iter().filter_map(Artifact::blob_digest);
        self.fetch_all(blobs.collect()).await;
        let mut files = Vec::new();
        for tree in trees {
            files.extend(self.files_of(tree).await.iter().map(|blob| blob.digest));
        }
        self.fetch_all(files).await;
    }

    /// The files that the manifest of a tree names; none where the local store does not have it.
    pub(crate) async fn files_of(&self, tree: Digest) -> Vec<BlobRef> {
        if !self.store.contains(&tree) {
            return Vec::new();
        }
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || store.read_tree(&tree)).await;
        let entries = read.ok().and_then(Result::ok).unwrap_or_default();
        let files: Vec<BlobRef> = entries
            .into_iter()
            .filter_map(|entry| match entry.kind {
                TreeKind::File(blob) => Some(blob),
                TreeKind::Folder | TreeKind::Symlink(_) => None,
            })
            .collect();
        let exactly = files.iter().map(|b| (b.digest, Size::Exactly(b.size)));
        lock(&self.sizes).extend(exactly);
        files
    }

    /// Fetches blobs that the local store does not have. Says how many could not be had.
    pub(crate) async fn fetch_all(self: &Arc<Self>, mut blobs: Vec<Digest>) -> u64 {
        blobs.sort_unstable();
        blobs.dedup();
        stream::iter(blobs)
            .map(|digest| self.fetch_one(digest))
            .buffer_unordered(AT_ONCE)
            .filter(|there| std::future::ready(!there))
            .count()
            .await as u64
    }

    async fn fetch_one(&self, digest: Digest) -> bool {
        if self.store.contains(&digest) {
            return true;
        }
        // Many nodes want the same input at once: one of them fetches it.
        let turn = Arc::clone(lock(&self.fetching).entry(digest).or_default());
        let there = {
            let _turn = turn.lock().await;
            self.store.contains(&digest) || self.fetch_in_turn(digest).await
        };
        let mut fetching = lock(&self.fetching);
        drop(turn);
        let alone = |turn: &Arc<_>| Arc::strong_count(turn) == 1;
        if fetching.get(&digest).is_some_and(alone) {
            fetching.remove(&digest);
        }
        there
    }

    async fn fetch_in_turn(&self, digest: Digest) -> bool {
        let size = lock(&self.sizes).get(&digest).copied().unwrap_or(Size::Any);
        let there = self.remote.fetch(&self.store, &digest, size).await.is_ok();
        if there && matches!(size, Size::AtMost(_)) {
            // A manifest: what it names is likely to be wanted next.
            self.files_of(digest).await;
        }
        there
    }

    /// Uploads a result: its blobs, then its entry. `false` where a blob of it is nowhere.
    pub(crate) async fn upload(
        self: &Arc<Self>,
        action: &ActionDigest,
        entry: &ActionEntry,
    ) -> Result<bool, Trouble> {
        let mut blobs: FxHashSet<Digest> = FxHashSet::default();
        for artifact in entry.outputs.values() {
            if let Artifact::Tree { digest, .. } = artifact {
                self.fetch_one(*digest).await;
                let files = self.files_of(*digest).await;
                blobs.extend(files.into_iter().map(|blob| blob.digest));
            }
            blobs.extend(artifact.blob_digest());
        }
        let logs = [&entry.stdout, &entry.stderr];
        blobs.extend(logs.into_iter().flatten().map(|log| log.blob.digest));
        let mut puts = stream::iter(blobs)
            .map(|digest| async move { self.remote.put_blob(&self.store, &digest).await })
            .buffer_unordered(BLOBS_OF_ONE);
        while let Some(put) = puts.next().await {
            match put {
                Ok(()) => {}
                Err(Trouble::Missing) => return Ok(false),
                Err(trouble) => return Err(trouble),
            }
        }
        // No entry before all its blobs.
        if let Some(other) = self.remote.put_entry(action, entry).await? {
            self.alarm(action, entry, &other);
        }
        self.results_out.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    fn pending(&self) -> Pending {
        // In this order: what is taken from the queue counts as busy before it leaves.
        let queued = lock(&self.queue).len() as u64;
        Pending {
            results: queued + self.busy.load(Ordering::SeqCst),
            bytes_out: self.remote.counts.bytes_out.load(Ordering::Relaxed),
        }
    }

    /// Takes the next result, and counts it as busy before anybody can see that it is not queued any more.
    fn next_offer(&self) -> Option<ActionDigest> {
        let mut queue = lock(&self.queue);
        let action = queue.pop_front()?;
        self.busy.fetch_add(1, Ordering::SeqCst);
        Some(action)
    }

    async fn upload_offer(self: &Arc<Self>, action: ActionDigest) {
        let store = self.store.clone();
        let found = tokio::task::spawn_blocking(move || store.lookup(&[action])).await;
        let Ok(Ok(mut found)) = found else { return };
        let Some(Some(entry)) = found.pop() else {
            return;
        };
        match self.upload(&action, &entry).await {
            Ok(true) => {}
            Ok(false) => self.remote.warn(format!(
                "the result of `{}` was not uploaded: a blob of it is not in the local cache any more",
                entry.made_by.node
            )),
            Err(trouble) => tracing::debug!(?trouble, %action, "a result was not uploaded"),
        }
    }
}

async fn upload_what_is_offered(inner: Arc<Inner>) {
    loop {
        let offered = inner.offered.notified();
        tokio::pin!(offered);
        // From here on no offer goes unnoticed.
        offered.as_mut().enable();
        while let Some(action) = inner.next_offer() {
            inner.upload_offer(action).await;
            inner.busy.fetch_sub(1, Ordering::SeqCst);
            inner.drained.notify_waiters();
        }
        if inner.ended.load(Ordering::Relaxed) {
            return;
        }
        offered.await;
    }
}

fn learn_artifact(sizes: &mut FxHashMap<Digest, Size>, artifact: &Artifact) {
    match artifact {
        Artifact::File(blob) | Artifact::Value { file: blob, .. } => {
            sizes.insert(blob.digest, Size::Exactly(blob.size));
        }
        Artifact::Tree { digest, files, .. } => {
            sizes.insert(*digest, Size::of_manifest(*files));
        }
        Artifact::Absent => {}
    }
}
