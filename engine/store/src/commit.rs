//! Committing: the one order in which results become durable.
//!
//! New blobs and their folders are synced, then the entries are appended and synced; only then does the caller hear of
//! it. After one failed sync nothing is promised any more, because the kernel may have dropped what it could not write.

use std::{
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use dagrun_model::{ActionDigest, Artifact, Digest};

use crate::{
    Store,
    actions::Append,
    codec::{self, ActionEntry},
    compact::same_outputs,
    error::StoreError,
    fsx::{SyncError, lock, sync_all},
    lease::Use,
    log::{Kind, MAX_RECORD},
    tree::TreeKind,
};

/// What a commit found beside what it was given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CommitReport {
    /// Actions that already had another result: nodes that are not deterministic.
    pub differing: Vec<Differing>,
}

/// Two results of one action. Both are kept on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Differing {
    /// The action.
    pub action: ActionDigest,
    /// The result that holds from now on.
    pub kept: ActionEntry,
    /// The other one.
    pub other: ActionEntry,
    /// Whether the new result holds: only where blobs of the old one are lost.
    pub replaced: bool,
}

/// Whether a sync has failed.
#[derive(Default)]
pub(crate) struct Poison {
    set: AtomicBool,
    first: Mutex<String>,
}

impl Poison {
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if self.set.load(Ordering::Acquire) {
            let first = lock(&self.first).clone();
            return Err(StoreError::Poisoned { first });
        }
        Ok(())
    }

    pub(crate) fn set(&self, error: &StoreError) -> StoreError {
        let mut first = lock(&self.first);
        if !self.set.swap(true, Ordering::AcqRel) {
            *first = error.to_string();
        }
        StoreError::Poisoned {
            first: first.clone(),
        }
    }
}

impl Store {
    /// Makes results durable: when this returns, entries and all blobs they name survive a power cut.
    ///
    /// One call for many results costs hardly more than for one. Where an action already has a result, that one stays and
    /// a difference is reported.
    ///
    /// # Errors
    /// [`StoreError::Missing`] where a blob is not there, [`StoreError::DiskFull`] where there is no room (nothing of the
    /// call holds then, and it may be tried again), [`StoreError::Poisoned`] for ever after a failed sync.
    pub fn commit(
        &self,
        entries: Vec<(ActionDigest, ActionEntry)>,
    ) -> Result<CommitReport, StoreError> {
        self.inner.poison.check()?;
        let _one_at_a_time = lock(&self.inner.committing);
        self.sync_blobs(&entries)?;
        let notes: Vec<_> = entries.iter().map(|(a, _)| (Use::Entry, *a)).collect();
        self.note(&notes)?;

        let actions = &self.inner.actions;
        let mut state = lock(&actions.state);
        actions.refresh(&mut state)?;
        let mut report = CommitReport::default();
        let mut records: Vec<Append> = Vec::with_capacity(entries.len());
        let mut new: rustc_hash::FxHashMap<ActionDigest, ActionEntry> =
            rustc_hash::FxHashMap::default();
        for (action, entry) in entries {
            let before = match new.get(&action) {
                Some(entry) => Some(entry.clone()),
                None => state.get(&action),
            };
            let kind = match before {
                None => Kind::Normal,
                Some(before) if same_outputs(&before, &entry) => continue,
                Some(before) => {
                    let replaced = !new.contains_key(&action) && self.lost_outputs(&before);
                    let (kept, other) = if replaced {
                        (entry.clone(), before)
                    } else {
                        (before, entry.clone())
                    };
                    report.differing.push(Differing {
                        action,
                        kept,
                        other,
                        replaced,
                    });
                    if replaced {
                        Kind::Replace
                    } else {
                        Kind::Alternate
                    }
                }
            };
            records.push(record(kind, action, &entry)?);
            if kind != Kind::Alternate {
                new.insert(action, entry);
            }
        }
        match actions.append(&mut state, &records, self.inner.options.durable)? {
            Ok(()) => Ok(report),
            Err(error) => Err(self.inner.poison.set(&error)),
        }
    }

    /// Syncs the blobs that entries name, and their folders, unless this process did so before.
    fn sync_blobs(&self, entries: &[(ActionDigest, ActionEntry)]) -> Result<(), StoreError> {
        let mut named = Vec::new();
        for (_, entry) in entries {
            self.blobs_of(entry, &mut named)?;
        }
        named.sort_unstable();
        named.dedup();
        for digest in &named {
            if !self.contains(digest) {
                return Err(StoreError::Missing { digest: *digest });
            }
        }
        {
            let durable = lock(&self.inner.durable);
            named.retain(|digest| !durable.contains(digest));
        }
        if self.inner.options.durable {
            let files: Vec<PathBuf> = named.iter().map(|d| self.blob_path(d)).collect();
            self.sync(&files)?;
            let mut folders: Vec<PathBuf> = files
                .iter()
                .filter_map(|f| f.parent().map(PathBuf::from))
                .collect();
            folders.dedup();
            self.sync(&folders)?;
        }
        lock(&self.inner.durable).extend(named);
        Ok(())
    }

    fn sync(&self, paths: &[PathBuf]) -> Result<(), StoreError> {
        sync_all(paths).map_err(|error| match error {
            SyncError::Open(path, source) => StoreError::io("open", &path, source),
            SyncError::Sync(path, source) => self
                .inner
                .poison
                .set(&StoreError::io("sync", &path, source)),
        })
    }

    /// All blobs of an entry: outputs with what trees hold, and logs.
    pub(crate) fn blobs_of(
        &self,
        entry: &ActionEntry,
        blobs: &mut Vec<Digest>,
    ) -> Result<(), StoreError> {
        for artifact in entry.outputs.values() {
            blobs.extend(artifact.blob_digest());
            if let Artifact::Tree { digest, .. } = artifact
                && !lock(&self.inner.durable).contains(digest)
            {
                for entry in self.read_tree(digest)? {
                    if let TreeKind::File(blob) = entry.kind {
                        blobs.push(blob.digest);
                    }
                }
            }
        }
        let logs = [&entry.stdout, &entry.stderr];
        blobs.extend(logs.into_iter().flatten().map(|log| log.blob.digest));
        Ok(())
    }

    /// Whether an output of an entry cannot be had any more.
    fn lost_outputs(&self, entry: &ActionEntry) -> bool {
        let bare = ActionEntry {
            stdout: None,
            stderr: None,
            ..entry.clone()
        };
        let mut blobs = Vec::new();
        self.blobs_of(&bare, &mut blobs).is_err() || blobs.iter().any(|d| !self.contains(d))
    }
}

fn record(kind: Kind, action: ActionDigest, entry: &ActionEntry) -> Result<Append, StoreError> {
    let mut bytes = Vec::new();
    codec::encode(entry, &mut bytes);
    if bytes.len() > MAX_RECORD - 4096 {
        return Err(StoreError::EntryTooLarge {
            node: entry.made_by.node.clone(),
            bytes: bytes.len(),
        });
    }
    Ok(Append {
        kind,
        action,
        entry: bytes,
    })
}
