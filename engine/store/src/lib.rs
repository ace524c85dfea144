//! The store: blobs by digest, the action cache, and the hashes of workspace files, in a local folder.
//!
//! Owns the folder that it is opened on:
//! ```text
//! VERSION            the version of the layout
//! blobs/ab/REST      blobs, read-only
//! actions/           segments and tables of the action cache; segments also hold small blobs until their files are synced
//! leases/, gc.lock   what live runs may use
//! uses.log           when things were last used
//! verified/BOOT      which blobs were hashed since boot
//! quarantine/        damaged blobs and files
//! ```
//! Promises: bytes under a digest are verified before anybody gets them; what [`Store::commit`] returned for survives a
//! power cut; several processes may use one store at once and never wait for each other's work; nothing that a live
//! [`Lease`] covers is collected. Knows nothing of plans, schedules or executors. Synchronous and thread-safe; [`Store`] is
//! a cheap clone.

#![forbid(unsafe_code)]

mod actions;
mod blob;
mod codec;
mod commit;
mod compact;
pub mod conformance;
mod disk;
mod error;
mod fsx;
mod gc;
mod glob;
mod hashes;
mod lease;
mod lend;
mod log;
mod receive;
mod source;
mod stage;
mod table;
mod tier;
mod tree;
mod unsettled;
mod verified;
mod verify;

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicBool},
};

use dagrun_model::{ActionDigest, Digest, LogRef, Outputs};
use rustc_hash::FxHashSet;

use crate::{
    actions::Actions,
    commit::Poison,
    error::At,
    fsx::{Temp, lock},
    lease::{LeaseState, Use},
    verified::Verified,
};
pub use crate::{
    blob::{PutMode, kind_of},
    codec::{ActionEntry, MadeBy},
    commit::{CommitReport, Differing},
    disk::Disk,
    error::StoreError,
    gc::{Excess, GcOptions, GcReport, GcRow},
    hashes::{FileError, FileHashes},
    lease::Lease,
    receive::{Incoming, Received},
    source::BlobSource,
    stage::{Altered, Staged, Staging},
    tier::{Done, Tier},
    tree::{TreeEntry, TreeKind},
    verify::{MissingBlob, StoreStat, VerifyReport},
};

/// The version of the layout of the folder.
const LAYOUT: &str = "dagrun store 1\n";

/// How to open a store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Sync to disk. Without it a commit returns sooner and promises nothing for a power cut: for measurements only.
    pub durable: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { durable: true }
    }
}

/// An open store. A clone is the same store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    blobs: PathBuf,
    options: StoreOptions,
    verified: Verified,
    actions: Actions,
    poison: Poison,
    /// Blobs that this process has made durable.
    durable: Mutex<FxHashSet<Digest>>,
    /// Of these, those whose bytes are in the log and whose files are not synced yet.
    unsettled: Mutex<Vec<Digest>>,
    committing: Mutex<()>,
    leases: Mutex<Vec<Arc<LeaseState>>>,
    gc_lock: Mutex<Option<File>>,
    no_reflink: AtomicBool,
    warnings: Mutex<Vec<String>>,
    /// Where blobs that are not here may be had.
    sources: Mutex<Vec<Arc<dyn BlobSource>>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Store").field(&self.inner.root).finish()
    }
}

impl Store {
    /// Opens the store in a folder, or makes one where the folder is missing or empty. Reads next to nothing.
    ///
    /// # Errors
    /// When the folder cannot be made, or holds something else or a store of another version.
    pub fn open(root: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let version = root.join("VERSION");
        match std::fs::read_to_string(&version) {
            Ok(text) if text == LAYOUT => {}
            Ok(text) => {
                return Err(StoreError::NotAStore {
                    path: root.into(),
                    why: format!(
                        "is a store of another version ({:?}); choose another folder with DAGRUN_CACHE",
                        text.trim()
                    ),
                });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(root, &version)?,
            Err(error) => return Err(StoreError::io("read", &version, error)),
        }
        // A relative root would follow a change of the working folder.
        let root = root.canonicalize().at("resolve", root)?;
        Ok(Self {
            inner: Arc::new(Inner {
                blobs: root.join("blobs"),
                verified: Verified::new(root.join("verified"), true),
                actions: Actions::new(&root),
                root,
                options,
                poison: Poison::default(),
                durable: Mutex::default(),
                unsettled: Mutex::default(),
                committing: Mutex::default(),
                leases: Mutex::default(),
                gc_lock: Mutex::default(),
                no_reflink: AtomicBool::new(false),
                warnings: Mutex::default(),
                sources: Mutex::default(),
            }),
        })
    }

    /// The folder of the store, absolute.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Looks up actions; entries come in the order of `actions`. What other processes commit is seen within 20 ms.
    ///
    /// That an entry is there says nothing of its blobs: they are verified when they are staged, exported or read.
    ///
    /// # Errors
    /// When the files of the action cache cannot be read. Damaged entries are misses with a warning.
    pub fn lookup(&self, actions: &[ActionDigest]) -> Result<Vec<Option<ActionEntry>>, StoreError> {
        let found = self.inner.actions.lookup(actions, codec::decode)?;
        self.settle_dead();
        let digest = |log: &Option<LogRef>| log.as_ref().map(|log| log.blob.digest);
        self.note_hits(actions.iter().zip(&found).filter_map(|(action, entry)| {
            let entry = entry.as_ref()?;
            let logs = [digest(&entry.stdout), digest(&entry.stderr)];
            Some((*action, &entry.outputs, logs))
        }))?;
        Ok(found)
    }

    /// Like [`Store::lookup`], for those who want the outputs alone: cheaper by half.
    ///
    /// # Errors
    /// As there.
    pub fn lookup_outputs(
        &self,
        actions: &[ActionDigest],
    ) -> Result<Vec<Option<Outputs>>, StoreError> {
        let found = self.inner.actions.lookup(actions, codec::decode_hit)?;
        self.settle_dead();
        self.note_hits(actions.iter().zip(&found).filter_map(|(action, hit)| {
            let hit = hit.as_ref()?;
            Some((*action, &hit.outputs, hit.logs))
        }))?;
        Ok(found
            .into_iter()
            .map(|hit| hit.map(|hit| hit.outputs))
            .collect())
    }

    /// Looks at once for what other processes have committed.
    ///
    /// # Errors
    /// When the files of the action cache cannot be read.
    pub fn refresh(&self) -> Result<(), StoreError> {
        let actions = &self.inner.actions;
        actions.refresh(&mut lock(&actions.state))?;
        self.settle_dead();
        Ok(())
    }

    /// Makes sure that results can be put into the store, by files that are gone again at once.
    ///
    /// # Errors
    /// When this user may not, or there is no room.
    pub fn check_writable(&self) -> Result<(), StoreError> {
        let root = &self.inner.root;
        for folder in [root.clone(), root.join("actions"), root.join("leases")] {
            Temp::new(&folder)?;
        }
        Ok(())
    }

    /// What went wrong without stopping anything, since the last call: damaged blobs and files, torn tails.
    pub fn take_warnings(&self) -> Vec<String> {
        let mut warnings = std::mem::take(&mut *lock(&self.inner.warnings));
        warnings.append(&mut lock(&self.inner.actions.state).warnings);
        warnings
    }

    /// Guards what hits name, since their blobs may be read much later.
    fn note_hits<'a>(
        &self,
        hits: impl Iterator<Item = (ActionDigest, &'a Outputs, [Option<Digest>; 2])>,
    ) -> Result<(), StoreError> {
        if lock(&self.inner.leases).is_empty() {
            return Ok(());
        }
        let mut uses = Vec::with_capacity(2 * hits.size_hint().1.unwrap_or(0));
        for (action, outputs, logs) in hits {
            uses.push((Use::Entry, action));
            for artifact in outputs.values() {
                let Some(digest) = artifact.blob_digest() else {
                    continue;
                };
                uses.push(match artifact {
                    dagrun_model::Artifact::Tree { .. } => (Use::Tree, digest),
                    _ => (Use::Blob, digest),
                });
            }
            uses.extend(logs.into_iter().flatten().map(|log| (Use::Blob, log)));
        }
        self.note(&uses)
    }

    fn warn(&self, text: String) {
        tracing::warn!("{text}");
        lock(&self.inner.warnings).push(text);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.settle_at_end();
        self.verified.flush();
        if self.actions.close() {
            // Only saves work for others; it is tried again by the next writer.
            let merged = self
                .actions
                .compact(compact::Extent::Worthwhile, &|_, _| true);
            if let Err(error) = merged {
                tracing::debug!("the action cache was not merged: {error}");
            }
        }
    }
}

/// Everything that dagrun puts at the top of a store.
const OWN: &[&str] = &[
    "VERSION",
    "actions",
    "blobs",
    "gc.lock",
    "leases",
    "quarantine",
    "uses.log",
    "verified",
    "work",
];

/// Lays out a new store. Several processes may do so at once.
fn create(root: &Path, version: &Path) -> Result<(), StoreError> {
    let existed = root.is_dir();
    if existed && !may_become_a_store(root)? {
        return Err(StoreError::NotAStore {
            path: root.into(),
            why: "is not empty and not a store; choose another folder with DAGRUN_CACHE".into(),
        });
    }
    let blobs = root.join("blobs");
    for folder in [
        root.to_path_buf(),
        blobs.clone(),
        root.join("actions"),
        root.join("leases"),
    ] {
        std::fs::create_dir_all(&folder).at("create", &folder)?;
    }
    for prefix in 0..=255_u8 {
        let folder = blobs.join(format!("{prefix:02x}"));
        match std::fs::create_dir(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(StoreError::io("create", &folder, error));
            }
            _ => {}
        }
    }
    let mut temp = Temp::new(root)?;
    temp.file
        .write_all(LAYOUT.as_bytes())
        .at("write", temp.path())?;
    temp.file.sync_all().at("sync", temp.path())?;
    sync_folder(&blobs)?;
    sync_folder(&root.join("actions"))?;
    temp.persist(version)?;
    sync_folder(root)?;
    // The folder itself, and those above it that were just made, have to survive as well.
    for above in root.ancestors().skip(1).take(3) {
        // Those that this user may not open were not made just now.
        if let Ok(folder) = File::open(above) {
            folder.sync_all().at("sync", above)?;
        }
    }
    Ok(())
}

fn sync_folder(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|f| f.sync_all()).at("sync", path)
}

/// Whether a folder without a version is empty, a store that is just being made, or what is left of one that was deleted
/// while somebody used it.
fn may_become_a_store(root: &Path) -> Result<bool, StoreError> {
    Ok(fsx::names(root)?.iter().all(|name| {
        OWN.contains(&name.as_str()) || name.starts_with(fsx::TEMP_PREFIX) || name == "lost+found"
    }))
}
