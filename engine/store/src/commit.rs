//! Committing: the one order in which results become durable.
//!
//! New blobs and their folders are synced, then the entries are appended and synced; only then does the caller hear of
//! it. The bytes of a few small blobs go with the entries instead, and their files are synced later: `unsettled.rs`. After one failed sync nothing is promised any more, because the kernel may have dropped what it could not write.

use std::{
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use dagrun_model::{ActionDigest, Artifact, Digest, LogRef, Outputs};

use crate::{
    Store,
    actions::{Append, With},
    codec::{self, ActionEntry},
    compact::same_outputs,
    error::StoreError,
    fsx::{SyncError, lock, sync_all},
    lease::Use,
    lend::is_replica,
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
        self.commit_elsewhere(entries, &|_| false)
    }

    /// Like [`Store::commit`], for entries whose blobs may be on another host or in a bucket: where `elsewhere` says that a
    /// blob is durable there, it is neither asked for nor synced here.
    ///
    /// For the digest of a tree, `elsewhere` answers for the manifest and for every file that it names: where it says no,
    /// all of them have to be here. Blobs that are elsewhere are fetched by whoever reads them, and missing until then.
    ///
    /// # Errors
    /// As there; [`StoreError::Missing`] where a blob is neither here nor elsewhere.
    pub fn commit_elsewhere(
        &self,
        entries: Vec<(ActionDigest, ActionEntry)>,
        elsewhere: &dyn Fn(&Digest) -> bool,
    ) -> Result<CommitReport, StoreError> {
        self.inner.poison.check()?;
        let _one_at_a_time = lock(&self.inner.committing);
        let mut named = Vec::new();
        for (_, entry) in &entries {
            self.blobs_of(&entry.outputs, &logs_of(entry), elsewhere, &mut named)?;
        }
        self.keep_new(&mut named)?;
        let small = self.take_small(&mut named);
        self.sync_blobs(named)?;
        let settled = self.settle_if_many()?;
        let notes: Vec<_> = entries.iter().map(|(a, _)| (Use::Entry, *a)).collect();
        self.note(&notes)?;

        let actions = &self.inner.actions;
        let mut state = lock(&actions.state);
        actions.refresh(&mut state)?;
        if actions.unsettled.load(Ordering::Acquire) {
            drop(state);
            self.settle_dead();
            state = lock(&actions.state);
        }
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
                    let replaced =
                        !new.contains_key(&action) && self.lost_outputs(&before, elsewhere);
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
        let with = With {
            blobs: &small,
            settled,
        };
        actions
            .append(&mut state, &records, &with, self.inner.options.durable)?
            .map_err(|error| self.inner.poison.set(&error))?;
        let small = small.into_iter().map(|(digest, _)| digest);
        let small: Vec<Digest> = small.collect();
        lock(&self.inner.durable).extend(&small);
        lock(&self.inner.unsettled).extend(small);
        Ok(report)
    }

    /// Makes the blobs of outputs and logs durable without an entry that names them: what a worker does before it reports
    /// a result that somebody else commits.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn sync_outputs(&self, outputs: &Outputs, logs: &[&LogRef]) -> Result<(), StoreError> {
        self.inner.poison.check()?;
        let mut named = Vec::new();
        self.blobs_of(outputs, logs, &|_| false, &mut named)?;
        self.keep_new(&mut named)?;
        self.sync_blobs(named)
    }

    /// Keeps of the blobs of results, which must all be here, those that this process has not made durable. From now on this store
    /// answers for all of them.
    fn keep_new(&self, named: &mut Vec<Digest>) -> Result<(), StoreError> {
        named.sort_unstable();
        named.dedup();
        for digest in &*named {
            match std::fs::symlink_metadata(self.blob_path(digest)) {
                Ok(meta) if is_replica(&meta) => self.make_own(digest)?,
                Ok(_) => {}
                Err(_) => return Err(StoreError::Missing { digest: *digest }),
            }
        }
        let durable = lock(&self.inner.durable);
        named.retain(|digest| !durable.contains(digest));
        Ok(())
    }

    /// Syncs blobs and their folders.
    fn sync_blobs(&self, named: Vec<Digest>) -> Result<(), StoreError> {
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

    /// All blobs of a result that are not elsewhere: outputs with what trees hold, and logs.
    fn blobs_of(
        &self,
        outputs: &Outputs,
        logs: &[&LogRef],
        elsewhere: &dyn Fn(&Digest) -> bool,
        blobs: &mut Vec<Digest>,
    ) -> Result<(), StoreError> {
        for artifact in outputs.values() {
            let Some(digest) = artifact.blob_digest().filter(|d| !elsewhere(d)) else {
                continue;
            };
            blobs.push(digest);
            if matches!(artifact, Artifact::Tree { .. })
                && !lock(&self.inner.durable).contains(&digest)
            {
                for entry in self.read_tree(&digest)? {
                    if let TreeKind::File(blob) = entry.kind {
                        blobs.push(blob.digest);
                    }
                }
            }
        }
        let logs = logs.iter().map(|log| log.blob.digest);
        blobs.extend(logs.filter(|digest| !elsewhere(digest)));
        Ok(())
    }

    /// Whether an output of an entry cannot be had any more, here or elsewhere.
    fn lost_outputs(&self, entry: &ActionEntry, elsewhere: &dyn Fn(&Digest) -> bool) -> bool {
        let mut blobs = Vec::new();
        self.blobs_of(&entry.outputs, &[], elsewhere, &mut blobs)
            .is_err()
            || self
                .bring(&blobs)
                .map_or(true, |lacking| !lacking.is_empty())
    }
}

fn logs_of(entry: &ActionEntry) -> Vec<&LogRef> {
    [&entry.stdout, &entry.stderr]
        .into_iter()
        .flatten()
        .collect()
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
