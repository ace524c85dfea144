//! Requests to a shared cache: where things lie, which failures are tried again, and that nothing is believed unread.
//!
//! ```text
//! blobs/ab/REST            bytes, named by their digest
//! actions/ab/REST/SIGNER   entries (see `record.rs`): one of each signer, `unsigned` where nobody signs
//! ```
//! Nothing is ever written over, except a blob that was seen to be damaged. Knows nothing of runs or queues.

use std::{
    future::Future,
    hash::{BuildHasher, Hasher},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use dagrun_model::{ActionDigest, Digest};
use dagrun_store::{ActionEntry, Received, Store, StoreError};
use futures_util::{StreamExt, TryStreamExt};
use object_store::{
    Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
    path::Path,
};
use rustc_hash::FxHashSet;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    Location,
    health::Health,
    record::{self, Flaw, Vouched},
    sign::{PublicKey, SigningKey},
};

/// Requests at once.
const MOST_REQUESTS: usize = 32;
/// Attempts at one request.
const MOST_ATTEMPTS: u32 = 8;
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Blobs up to this size are sent as one piece.
const ONE_PIECE: u64 = 8 << 20;
/// For blobs larger than this it pays to ask first whether they are there.
const ASK_FIRST: u64 = 64 << 10;
/// The slowest connection that is waited for, in bytes a second.
const SLOWEST: u64 = 64 << 10;
/// Entries of one action that are looked at: more were put there by somebody who means harm.
const MOST_SIGNERS: usize = 16;
/// Misses for which it is found out whether somebody who is not trusted has an entry, to be able to say so.
const CURIOSITY: u64 = 16;
/// The object name of entries that nobody signed.
const UNSIGNED: &str = "unsigned";

/// Why something could not be had or put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It is not there.
    Missing,
    /// Something is there already.
    Exists,
    /// The cache forbids, is down, or was given up.
    Unavailable,
}

/// How large a blob may be: what somebody else put under its name may have no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    Exactly(u64),
    AtMost(u64),
    Any,
}

impl Size {
    /// That of the manifest of a folder with so many files: folders without files are few, and each line holds a digest and a
    /// path of at most 4096 bytes.
    pub(crate) fn of_manifest(files: u64) -> Self {
        Self::AtMost(files.saturating_mul(4200).saturating_add(1 << 20))
    }

    fn allows(self, size: u64) -> bool {
        match self {
            Self::Exactly(exactly) => size == exactly,
            Self::AtMost(most) => size <= most,
            Self::Any => true,
        }
    }
}

/// What was counted.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) retries: AtomicU64,
    pub(crate) wrong_blobs: AtomicU64,
    pub(crate) wrong_entries: AtomicU64,
    pub(crate) blobs_in: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) blobs_out: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
}

impl Counts {
    fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

pub(crate) struct Remote {
    pub(crate) location: Location,
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    /// The time one answer may take.
    patience: Duration,
    reading: Health,
    writing: Health,
    permits: Semaphore,
    pub(crate) trust: Vec<PublicKey>,
    pub(crate) key: Option<SigningKey>,
    pub(crate) counts: Counts,
    curious: AtomicU64,
    /// Blobs that are there for certain: seen, or put by this process.
    known: Mutex<FxHashSet<Digest>>,
    /// Blobs whose bytes were wrong there.
    damaged: Mutex<FxHashSet<Digest>>,
    warnings: Mutex<Warnings>,
    /// The last time that the local disk was full.
    full: Mutex<Option<StoreError>>,
}

#[derive(Default)]
struct Warnings {
    new: Vec<String>,
    told: FxHashSet<String>,
    left: u64,
}

/// Different warnings that are told; the rest is counted.
const MOST_WARNINGS: usize = 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Read,
    Write,
}

impl Remote {
    pub(crate) fn new(
        location: Location,
        objects: Arc<dyn ObjectStore>,
        prefix: Path,
        budget: Duration,
        trust: Vec<PublicKey>,
        key: Option<SigningKey>,
    ) -> Self {
        Self {
            location,
            objects,
            prefix,
            patience: attempt_limit(budget),
            reading: Health::new(budget),
            writing: Health::new(budget),
            permits: Semaphore::new(MOST_REQUESTS),
            trust,
            key,
            counts: Counts::default(),
            curious: AtomicU64::new(0),
            known: Mutex::default(),
            damaged: Mutex::default(),
            warnings: Mutex::default(),
            full: Mutex::default(),
        }
    }

    /// The entry of an action that counts. The first of several; others are compared when somebody commits.
    pub(crate) async fn find(&self, action: &ActionDigest) -> Result<Vouched, Trouble> {
        if self.trust.is_empty() {
            return self.first_of(action, self.signers(action).await?).await;
        }
        // By name, not from a list: others cannot bury it.
        for key in &self.trust {
            match self.entry(action, &key.file_name()).await {
                Err(Trouble::Missing) => {}
                other => return other,
            }
        }
        if self.curious.fetch_add(1, Ordering::Relaxed) < CURIOSITY {
            // Only for the warning.
            let names = self.signers(action).await?;
            return self.first_of(action, names).await;
        }
        Err(Trouble::Missing)
    }

    async fn first_of(
        &self,
        action: &ActionDigest,
        names: Vec<String>,
    ) -> Result<Vouched, Trouble> {
        for name in names {
            match self.entry(action, &name).await {
                Err(Trouble::Missing) => {}
                other => return other,
            }
        }
        Err(Trouble::Missing)
    }

    /// Names of the entries of an action.
    pub(crate) async fn signers(&self, action: &ActionDigest) -> Result<Vec<String>, Trouble> {
        let folder = self.action_path(action);
        let list = || async {
            let listed: Vec<ObjectMeta> = self
                .objects
                .list(Some(&folder))
                .take(MOST_SIGNERS)
                .try_collect()
                .await?;
            Ok(listed)
        };
        let found = self
            .attempt(Way::Read, "list", self.patience, list)
            .await?
            .into_iter()
            .filter_map(|meta| meta.location.filename().map(str::to_owned));
        let mut names: Vec<String> = found.collect();
        names.sort_unstable();
        Ok(names)
    }

    /// One entry of an action. What does not count is missing, with a warning.
    async fn entry(&self, action: &ActionDigest, name: &str) -> Result<Vouched, Trouble> {
        let path = self.action_path(action).join(name);
        self.judge(action, &path).await?.map_err(|flaw| {
            self.distrust(&path, flaw);
            Trouble::Missing
        })
    }

    /// An entry, or why it does not count.
    async fn judge(
        &self,
        action: &ActionDigest,
        path: &Path,
    ) -> Result<Result<Vouched, Flaw>, Trouble> {
        let bytes = self.small(path, record::LARGEST).await?;
        Ok(bytes.map_or(Err(Flaw::Malformed), |bytes| {
            record::decode(&bytes, action, &self.trust)
        }))
    }

    /// A whole object; `None` where it is larger than `limit`.
    async fn small(&self, path: &Path, limit: u64) -> Result<Option<Bytes>, Trouble> {
        let get = || async {
            let got = self.objects.get_opts(path, GetOptions::default()).await?;
            if got.meta.size > limit {
                return Ok(None);
            }
            got.bytes().await.map(Some)
        };
        let _permit = self.permits.acquire().await;
        self.attempt(Way::Read, "read", self.patience, get).await
    }

    fn distrust(&self, path: &Path, flaw: Flaw) {
        Counts::add(&self.counts.wrong_entries, 1);
        // One warning for each kind: an attacker must not choose how many there are.
        self.warn_as(
            flaw.describe(),
            format!(
                "entries of the shared cache {} are {} and count as misses, such as {path}",
                self.location,
                flaw.describe()
            ),
        );
    }

    /// Puts an entry whose blobs are there. Gives another result of the same action, where one that counts is there.
    pub(crate) async fn put_entry(
        &self,
        action: &ActionDigest,
        entry: &ActionEntry,
    ) -> Result<Option<ActionEntry>, Trouble> {
        let own = self
            .key
            .as_ref()
            .map_or_else(|| UNSIGNED.to_owned(), |key| key.public().file_name());
        let bytes = Bytes::from(record::encode(action, entry, self.key.as_ref()));
        let path = self.action_path(action).join(own.as_str());
        match self.put(&path, bytes.clone(), PutMode::Create).await {
            Ok(()) => {}
            Err(Trouble::Exists) => match self.judge(action, &path).await? {
                Ok(_) | Err(Flaw::NotTrusted) => {}
                // What a power cut left in a shared folder is no entry: nothing is lost by writing over it.
                Err(_) => self.put(&path, bytes, PutMode::Overwrite).await?,
            },
            Err(trouble) => return Err(trouble),
        }
        // After the put, so that of two writers at once one at least sees the other.
        for name in self.signers(action).await? {
            match self.entry(action, &name).await {
                Ok(other) if !other.entry.same_outputs(entry) => return Ok(Some(other.entry)),
                Ok(_) | Err(Trouble::Missing | Trouble::Exists) => {}
                Err(Trouble::Unavailable) => return Err(Trouble::Unavailable),
            }
        }
        Ok(None)
    }

    async fn put(&self, path: &Path, bytes: Bytes, mode: PutMode) -> Result<(), Trouble> {
        let limit = self.patience + Duration::from_secs(bytes.len() as u64 / SLOWEST);
        let put = || async {
            let payload = PutPayload::from_bytes(bytes.clone());
            self.objects
                .put_opts(path, payload, mode.clone().into())
                .await
                .map(|_| ())
        };
        let _permit = self.permits.acquire().await;
        self.attempt(Way::Write, "write", limit, put).await
    }

    /// Brings a blob into the local store. Its bytes are hashed on the way; wrong ones are fetched once more and are then as
    /// good as missing.
    pub(crate) async fn fetch(
        &self,
        store: &Store,
        digest: &Digest,
        expected: Size,
    ) -> Result<(), Trouble> {
        if lock(&self.damaged).contains(digest) {
            return Err(Trouble::Missing);
        }
        let _permit = self.permits.acquire().await;
        for _ in 0..2 {
            let Some(received) = self.receive(store, digest, expected).await? else {
                continue;
            };
            if received == Received::Stored {
                lock(&self.known).insert(*digest);
                Counts::add(&self.counts.blobs_in, 1);
                return Ok(());
            }
            Counts::add(&self.counts.wrong_blobs, 1);
        }
        lock(&self.damaged).insert(*digest);
        self.warn_as(
            "wrong blob",
            format!(
                "blobs of the shared cache {} hold other bytes than their digests say and count as missing, such as {}",
                self.location,
                self.blob_path(digest)
            ),
        );
        Err(Trouble::Missing)
    }

    /// Receives a blob once, going on where a transfer was cut. `None` where its size alone is wrong.
    async fn receive(
        &self,
        store: &Store,
        digest: &Digest,
        expected: Size,
    ) -> Result<Option<Received>, Trouble> {
        let path = self.blob_path(digest);
        let mut incoming = store.receive().map_err(|error| self.local(error))?;
        let mut pause = Pause::default();
        loop {
            let started = Instant::now();
            let from = incoming.size();
            let open = || async {
                let range = (from > 0).then_some(GetRange::Offset(from));
                let options = GetOptions {
                    range,
                    ..GetOptions::default()
                };
                self.objects.get_opts(&path, options).await
            };
            let got = self.attempt(Way::Read, "read", self.patience, open).await?;
            let size = got.meta.size;
            if !expected.allows(size) || from > size {
                Counts::add(&self.counts.wrong_blobs, 1);
                return Ok(None);
            }
            let mut stream = got.into_stream();
            let cut = loop {
                match timeout(self.patience, stream.next()).await {
                    Ok(Some(Ok(piece))) => {
                        incoming.write(&piece).map_err(|error| self.local(error))?;
                        Counts::add(&self.counts.bytes_in, piece.len() as u64);
                        if incoming.size() > size {
                            Counts::add(&self.counts.wrong_blobs, 1);
                            return Ok(None);
                        }
                    }
                    Ok(Some(Err(error))) => break error.to_string(),
                    Ok(None) if incoming.size() == size => {
                        self.reading.good(Instant::now());
                        let finished = incoming.finish(digest);
                        return finished.map(Some).map_err(|error| self.local(error));
                    }
                    Ok(None) => break "the answer ended early".into(),
                    Err(_) => break self.silence(),
                }
            };
            let started = if incoming.size() > from {
                Instant::now()
            } else {
                started
            };
            self.failed(Way::Read, "read", started, &cut)?;
            pause.after_failure(self).await?;
        }
    }

    /// Whether a blob is there, in its full size where that is known.
    pub(crate) async fn has(&self, digest: &Digest, size: Option<u64>) -> Result<bool, Trouble> {
        if lock(&self.known).contains(digest) {
            return Ok(true);
        }
        let path = self.blob_path(digest);
        let head = || self.objects.head(&path);
        match self
            .attempt(Way::Read, "look at", self.patience, head)
            .await
        {
            Ok(meta) if size.is_none_or(|size| meta.size == size) => {
                lock(&self.known).insert(*digest);
                Ok(true)
            }
            Ok(_) => {
                lock(&self.damaged).insert(*digest);
                Ok(false)
            }
            Err(Trouble::Missing) => Ok(false),
            Err(trouble) => Err(trouble),
        }
    }

    /// Puts a blob of the local store, unless it is there. One that was seen to be damaged is put anew.
    pub(crate) async fn put_blob(&self, store: &Store, digest: &Digest) -> Result<(), Trouble> {
        if !store.contains(digest) {
            // Never brought here: then it may be there.
            return match self.has(digest, None).await? {
                true => Ok(()),
                false => Err(Trouble::Missing),
            };
        }
        if lock(&self.known).contains(digest) {
            return Ok(());
        }
        let opened = {
            let (store, digest) = (store.clone(), *digest);
            tokio::task::spawn_blocking(move || {
                let file = store.open_blob(&digest)?;
                let size = file.metadata().map_or(0, |meta| meta.len());
                Ok::<_, dagrun_store::StoreError>((file, size))
            })
            .await
        };
        let (file, size) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return Err(self.local(error)),
            Err(_) => return Err(Trouble::Unavailable),
        };
        if size > ASK_FIRST && self.has(digest, Some(size)).await? {
            return Ok(());
        }
        let overwrite = lock(&self.damaged).contains(digest);
        let put = if size <= ONE_PIECE {
            self.put_in_one(file, size, digest, overwrite).await
        } else {
            self.put_in_parts(file, digest).await
        };
        match put {
            Ok(()) => {
                Counts::add(&self.counts.blobs_out, 1);
                Counts::add(&self.counts.bytes_out, size);
            }
            Err(Trouble::Exists) => {}
            Err(trouble) => return Err(trouble),
        }
        lock(&self.damaged).remove(digest);
        lock(&self.known).insert(*digest);
        Ok(())
    }

    async fn put_in_one(
        &self,
        file: std::fs::File,
        size: u64,
        digest: &Digest,
        overwrite: bool,
    ) -> Result<(), Trouble> {
        let bytes = self.piece(file, 0, size).await?;
        let mode = if overwrite {
            PutMode::Overwrite
        } else {
            PutMode::Create
        };
        self.put(&self.blob_path(digest), bytes, mode).await
    }

    /// Sends a large blob in parts. It appears when the last one is there, and equal bytes may replace each other.
    async fn put_in_parts(&self, file: std::fs::File, digest: &Digest) -> Result<(), Trouble> {
        let path = self.blob_path(digest);
        let file = Arc::new(file);
        let limit = self.patience + Duration::from_secs(ONE_PIECE / SLOWEST);
        let _permit = self.permits.acquire().await;
        let mut pause = Pause::default();
        loop {
            let started = Instant::now();
            match self.parts(&file, &path, limit).await {
                Ok(()) => {
                    self.writing.good(Instant::now());
                    return Ok(());
                }
                Err(PartsError::Store(error)) => match self.sort(Way::Write, &error) {
                    Some(trouble) => return Err(trouble),
                    None => self.failed(Way::Write, "write", started, &error.to_string())?,
                },
                Err(PartsError::Silent) => {
                    self.failed(Way::Write, "write", started, &self.silence())?;
                }
                Err(PartsError::Local(trouble)) => return Err(trouble),
            }
            pause.after_failure(self).await?;
        }
    }

    async fn parts(
        &self,
        file: &Arc<std::fs::File>,
        path: &Path,
        limit: Duration,
    ) -> Result<(), PartsError> {
        let mut upload = timeout(limit, self.objects.put_multipart(path)).await??;
        let sent = async {
            let mut at = 0;
            loop {
                let file = Arc::clone(file);
                let bytes = read_piece(file, at, ONE_PIECE)
                    .await
                    .map_err(|error| PartsError::Local(self.unreadable(&error)))?;
                if bytes.is_empty() {
                    break;
                }
                at += bytes.len() as u64;
                timeout(limit, upload.put_part(PutPayload::from_bytes(bytes))).await??;
            }
            timeout(limit, upload.complete()).await??;
            Ok(())
        };
        let result = sent.await;
        if result.is_err() {
            // What stays is taken away by the bucket's own rules.
            let _ = timeout(limit, upload.abort()).await;
        }
        result
    }

    async fn piece(&self, file: std::fs::File, at: u64, size: u64) -> Result<Bytes, Trouble> {
        read_piece(Arc::new(file), at, size)
            .await
            .map_err(|error| self.unreadable(&error))
    }

    /// Lists all objects below a folder.
    pub(crate) async fn list(
        &self,
        folder: &str,
        each: &mut (dyn FnMut(ObjectMeta) + Send),
    ) -> Result<(), Trouble> {
        let mut last: Option<Path> = None;
        let mut pause = Pause::default();
        let below = self.join(&[folder]);
        loop {
            let started = Instant::now();
            let mut listed = match &last {
                None => self.objects.list(Some(&below)),
                Some(last) => self.objects.list_with_offset(Some(&below), last),
            };
            let cut = loop {
                match timeout(self.patience, listed.next()).await {
                    Ok(Some(Ok(meta))) => {
                        // A folder lists in no order, so there is no place to go on from.
                        last = self.lists_in_order().then(|| meta.location.clone());
                        each(meta);
                    }
                    Ok(None) => {
                        self.reading.good(Instant::now());
                        return Ok(());
                    }
                    Ok(Some(Err(error))) => match self.sort(Way::Read, &error) {
                        Some(trouble) => return Err(trouble),
                        None if last.is_none() && !self.lists_in_order() => {
                            self.failed(Way::Read, "list", started, &error.to_string())?;
                            return Err(Trouble::Unavailable);
                        }
                        None => break error.to_string(),
                    },
                    Err(_) => break self.silence(),
                }
            };
            self.failed(Way::Read, "list", started, &cut)?;
            pause.after_failure(self).await?;
        }
    }

    fn lists_in_order(&self) -> bool {
        !self.location.is_folder()
    }

    /// Tries a request until it is answered, within the budget that all requests share.
    async fn attempt<T, F>(
        &self,
        way: Way,
        what: &str,
        limit: Duration,
        request: impl Fn() -> F,
    ) -> Result<T, Trouble>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut pause = Pause::default();
        loop {
            if self.health(way).is_off() {
                return Err(Trouble::Unavailable);
            }
            let started = Instant::now();
            let failure = match timeout(limit, request()).await {
                Ok(Ok(value)) => {
                    self.health(way).good(Instant::now());
                    return Ok(value);
                }
                Ok(Err(error)) => match self.sort(way, &error) {
                    Some(trouble) => return Err(trouble),
                    None => error.to_string(),
                },
                Err(_) => self.silence(),
            };
            self.failed(way, what, started, &failure)?;
            pause.after_failure(self).await?;
        }
    }

    /// What an error means; `None` where it is worth another attempt.
    fn sort(&self, way: Way, error: &Error) -> Option<Trouble> {
        let trouble = match error {
            Error::NotFound { .. } => Trouble::Missing,
            Error::AlreadyExists { .. } | Error::Precondition { .. } => Trouble::Exists,
            error if is_final(error) => {
                self.refused(way, error);
                return Some(Trouble::Unavailable);
            }
            _ => return None,
        };
        self.health(way).good(Instant::now());
        Some(trouble)
    }

    fn refused(&self, way: Way, error: &Error) {
        let needs = match way {
            Way::Read => "reading needs the rights to get and to list objects",
            Way::Write => "writing needs the right to put objects; `--cache-mode read` only reads",
        };
        self.warn_as(
            needs,
            format!(
                "the shared cache {} refuses: {}; {needs}",
                self.location,
                short(&error.to_string())
            ),
        );
        if self.health(way).refused() {
            tracing::debug!("the shared cache is not asked any more: it refused three times");
        }
    }

    /// Notes an attempt that failed. An error says that it was the last.
    fn failed(&self, way: Way, what: &str, started: Instant, why: &str) -> Result<(), Trouble> {
        tracing::debug!(what, why, "a request to the shared cache failed");
        if self.health(way).bad(started, Instant::now()) {
            self.warn_as(
                "off",
                format!(
                    "the shared cache {} does not answer and is left out from now on: cannot {what} there: {}",
                    self.location,
                    short(why)
                ),
            );
        }
        if self.health(way).is_off() {
            return Err(Trouble::Unavailable);
        }
        Ok(())
    }

    fn health(&self, way: Way) -> &Health {
        match way {
            Way::Read => &self.reading,
            Way::Write => &self.writing,
        }
    }

    /// Whether reading was given up.
    pub(crate) fn is_off(&self) -> bool {
        self.reading.is_off()
    }

    /// Whether writing was given up.
    pub(crate) fn takes_nothing(&self) -> bool {
        self.writing.is_off() || self.reading.is_off()
    }

    fn silence(&self) -> String {
        format!("no answer within {:?}", self.patience)
    }

    /// A trouble of the local store, met on the way.
    fn local(&self, error: StoreError) -> Trouble {
        match error {
            StoreError::DiskFull { .. } => *lock(&self.full) = Some(error),
            error => self.warn_as(
                "local",
                format!("the shared cache is of no use here: {error}"),
            ),
        }
        Trouble::Unavailable
    }

    /// That the disk of the local store was full, for whoever asked for a blob.
    pub(crate) fn take_full_disk(&self) -> Option<StoreError> {
        lock(&self.full).take()
    }

    fn unreadable(&self, error: &std::io::Error) -> Trouble {
        self.warn_as(
            "local",
            format!("a blob of the local cache cannot be read: {error}"),
        );
        Trouble::Unavailable
    }

    pub(crate) fn warn(&self, text: String) {
        self.warn_as(&text.clone(), text);
    }

    /// Warns once for each `kind`.
    fn warn_as(&self, kind: &str, text: String) {
        let mut warnings = lock(&self.warnings);
        if warnings.told.len() >= MOST_WARNINGS {
            warnings.left += 1;
        } else if warnings.told.insert(kind.to_owned()) {
            tracing::warn!("{text}");
            warnings.new.push(text);
        }
    }

    pub(crate) fn take_warnings(&self) -> Vec<String> {
        let mut warnings = lock(&self.warnings);
        let mut texts = std::mem::take(&mut warnings.new);
        let left = std::mem::take(&mut warnings.left);
        if left > 0 {
            texts.push(format!("{left} more warnings of the shared cache"));
        }
        texts
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> Path {
        let hex = digest.to_string();
        self.join(&["blobs", &hex[..2], &hex[2..]])
    }

    fn action_path(&self, action: &ActionDigest) -> Path {
        let hex = action.to_string();
        self.join(&["actions", &hex[..2], &hex[2..]])
    }

    fn join(&self, parts: &[&str]) -> Path {
        parts
            .iter()
            .fold(self.prefix.clone(), |path, part| path.join(*part))
    }

    /// The digest that the place of an object in one of the folders stands for, and what follows.
    pub(crate) fn digest_of(&self, folder: &str, path: &Path) -> Option<(Digest, Option<String>)> {
        let below = self.join(&[folder]);
        let mut parts = path.prefix_match(&below)?;
        let (start, rest) = (parts.next()?, parts.next()?);
        let digest = format!("{}{}", start.as_ref(), rest.as_ref())
            .parse()
            .ok()?;
        Some((digest, parts.next().map(|name| name.as_ref().to_owned())))
    }
}

/// Whether asking again cannot help: rights are missing, or a token is over.
fn is_final(error: &Error) -> bool {
    match error {
        Error::PermissionDenied { .. }
        | Error::Unauthenticated { .. }
        | Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::InvalidPath { .. }
        | Error::UnknownConfigurationKey { .. } => true,
        // Listings wrap what the others tell apart.
        error => {
            let text = error.to_string();
            ["400", "401", "403"]
                .iter()
                .any(|status| text.contains(&format!("status code: {status}")))
        }
    }
}

enum PartsError {
    Store(Error),
    Silent,
    Local(Trouble),
}

impl From<Error> for PartsError {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<tokio::time::error::Elapsed> for PartsError {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Self::Silent
    }
}

/// Reads a piece of a file on a thread that may block.
async fn read_piece(file: Arc<std::fs::File>, at: u64, size: u64) -> std::io::Result<Bytes> {
    use std::os::unix::fs::FileExt;
    let read = move || {
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], at + filled as u64)? {
                0 => break,
                n => filled += n,
            }
        }
        bytes.truncate(filled);
        Ok(Bytes::from(bytes))
    };
    tokio::task::spawn_blocking(read)
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

/// Pauses between the attempts of one request: twice as long each time, and anything from nothing to that.
#[derive(Default)]
struct Pause {
    failures: u32,
}

impl Pause {
    async fn after_failure(&mut self, remote: &Remote) -> Result<(), Trouble> {
        self.failures += 1;
        if self.failures >= MOST_ATTEMPTS {
            return Err(Trouble::Unavailable);
        }
        Counts::add(&remote.counts.retries, 1);
        let most = Duration::from_millis(50)
            .saturating_mul(1 << self.failures)
            .min(LONGEST_PAUSE);
        tokio::time::sleep(most.mul_f64(jitter())).await;
        Ok(())
    }
}

/// A random number from 0 to 1: those who failed together must not come back together.
fn jitter() -> f64 {
    // The seeds of hash maps are the randomness that the standard library has.
    #[expect(
        clippy::disallowed_types,
        reason = "nothing is ordered by it: it is the source of the jitter"
    )]
    let state = std::collections::hash_map::RandomState::new();
    state.build_hasher().finish() as f64 / u64::MAX as f64
}

/// The time one answer may take: a budget is good for two of them at least.
fn attempt_limit(budget: Duration) -> Duration {
    (budget / 2).min(Duration::from_secs(10))
}

/// An error of a server on one line: what it says, without where it was asked and pages of XML.
fn short(text: &str) -> String {
    let between = |start: &str, end: &str| {
        let (_, rest) = text.split_once(start)?;
        rest.split_once(end).map(|(inner, _)| inner)
    };
    let said = match (
        between("<Code>", "</Code>"),
        between("<Message>", "</Message>"),
    ) {
        (Some(code), Some(message)) => format!("{code} ({message})"),
        (Some(code), None) => code.to_owned(),
        _ => text.rsplit(" - ").next().unwrap_or(text).to_owned(),
    };
    let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(300) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line,
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_line_that_says_why() {
        let s3 = "Generic S3 error: Error performing GET http://h/b?x=y in 3ms - Server returned non-2xx status code: 400 Bad Request: <Error><Code>ExpiredToken</Code>\n<Message>the token\n is over</Message></Error>";
        assert_eq!(short(s3), "ExpiredToken (the token is over)");
        let http = "Generic S3 error: Error performing GET http://h/b in 3ms, after 1 retries, max_retries: 1, retry_timeout: 1s  - HTTP error: error sending request";
        assert_eq!(short(http), "HTTP error: error sending request");
        assert_eq!(short("no answer within 1s"), "no answer within 1s");
        assert!(short(&"x".repeat(10_000)).len() < 310);
    }

    #[test]
    fn manifests_may_be_as_large_as_their_folders_and_no_larger() {
        assert!(Size::of_manifest(1000).allows(4_000_000));
        assert!(!Size::of_manifest(1000).allows(1 << 30));
        assert!(Size::Exactly(5).allows(5) && !Size::Exactly(5).allows(4));
    }

    #[test]
    fn jitter_is_spread() {
        let sum: f64 = (0..1000).map(|_| jitter()).sum();
        assert!((300.0..700.0).contains(&sum), "{sum}");
    }
}
