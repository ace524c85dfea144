//! Small blobs whose files are not on disk yet.
//!
//! A commit has to wait for its blobs, and a file needs two syncs: its own and its folder's. The bytes of a few small blobs
//! therefore also go into the frame that names them, which is synced anyway, and their files are synced later: together, when
//! many have come together or the store is closed. Then the log says that they are *settled*. Where a writer died before that,
//! whoever opens its segment next compares the files with the bytes in the log, writes anew what differs or is gone, and
//! syncs them, before anybody is told of the results. So a blob is always a file for all who read it.

use std::{
    fs::Permissions,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use dagrun_model::Digest;
use rustc_hash::FxHashSet;

use crate::{
    Inner, Store,
    actions::{Actions, With},
    blob::blob_file,
    compact::Extent,
    error::{At, StoreError},
    fsx::{SyncError, Temp, lock, open_plain, sync_all},
    lend::OWN,
    log,
};

/// The largest blob that goes into the log, in bytes.
const SMALL: u64 = 16 << 10;
/// From so many blobs in one commit they share the syncs of the file system well enough.
const FEW: usize = 32;
/// So many files are left to be synced later.
const MANY: usize = 512;

impl Store {
    /// The bytes of those blobs that are to go into the log instead of being synced now; `named` keeps the others.
    pub(crate) fn take_small(&self, named: &mut Vec<Digest>) -> Vec<(Digest, Vec<u8>)> {
        let mut small = Vec::new();
        if self.inner.options.durable && named.len() <= FEW {
            named.retain(|digest| match self.small_bytes(digest) {
                Some(bytes) => {
                    small.push((*digest, bytes));
                    false
                }
                None => true,
            });
        }
        small
    }

    /// The bytes of a blob if it is small; what is not as it should be is left to others to notice.
    fn small_bytes(&self, digest: &Digest) -> Option<Vec<u8>> {
        let (mut file, _) = self.open_raw(digest).ok()?;
        let size = file
            .metadata()
            .ok()
            .filter(|meta| meta.len() <= SMALL)?
            .len();
        let mut bytes = Vec::with_capacity(size as usize + 1);
        file.read_to_end(&mut bytes).ok()?;
        (Digest::of(&bytes) == *digest).then_some(bytes)
    }

    /// Syncs the files of blobs in the log once they are many; `true` where the log may say that they are settled.
    pub(crate) fn settle_if_many(&self) -> Result<bool, StoreError> {
        let many = lock(&self.inner.unsettled).len() >= MANY;
        if many {
            self.inner.settle()?;
        }
        Ok(many)
    }

    /// Makes good what writers left undone that died, if any did.
    pub(crate) fn settle_dead(&self) {
        let actions = &self.inner.actions;
        if !actions.unsettled.swap(false, Ordering::AcqRel) {
            return;
        }
        // Nobody is told of results before; where it cannot be done, blobs that are lost are missed when they are read.
        if let Err(error) = actions.compact(Extent::Unsettled, &|_, _| true) {
            self.warn(format!(
                "a dagrun that was cut off left small files unsynced, and they cannot be checked: {error}"
            ));
        }
    }
}

impl Inner {
    /// Syncs the files of all blobs that this process has put into the log.
    fn settle(&self) -> Result<(), StoreError> {
        let mut unsettled = lock(&self.unsettled);
        let files: Vec<PathBuf> = unsettled
            .iter()
            .map(|digest| blob_file(&self.blobs, digest))
            .collect();
        match sync_files(&files) {
            Ok(()) => {
                unsettled.clear();
                Ok(())
            }
            Err(SyncError::Open(path, source)) => Err(StoreError::io("open", &path, source)),
            Err(SyncError::Sync(path, source)) => {
                // The kernel may take them for clean now. Their bytes are in the log, from which they come back.
                for file in &files {
                    let _ = std::fs::remove_file(file);
                }
                let error = StoreError::io("sync", &path, source);
                Err(self.poison.set(&error))
            }
        }
    }

    /// Settles what this process has put into the log, and says so there. What fails is done by who comes next.
    pub(crate) fn settle_at_end(&self) {
        if lock(&self.unsettled).is_empty() || self.poison.check().is_err() {
            return;
        }
        let with = With {
            settled: true,
            blobs: &[],
        };
        let settled = self.settle().and_then(|()| {
            let actions = &self.actions;
            actions.append(&mut lock(&actions.state), &[], &with, true)?
        });
        if let Err(error) = settled {
            tracing::warn!("small blobs were not synced, and come from the log next time: {error}");
        }
    }
}

impl Actions {
    /// Makes sure that the blobs in a dead writer's segment are on disk as files. `bytes` begin with a frame.
    pub(crate) fn restore(&self, bytes: &[u8]) -> Result<(), StoreError> {
        let mut files = Vec::new();
        let mut seen = FxHashSet::default();
        for (digest, range) in log::unsettled(bytes) {
            if seen.insert(digest) {
                let file = blob_file(&self.blobs, &digest);
                restore(&file, &bytes[range])?;
                files.push(file);
            }
        }
        sync_files(&files).map_err(|error| match error {
            SyncError::Open(path, source) => StoreError::io("open", &path, source),
            SyncError::Sync(path, source) => StoreError::io("sync", &path, source),
        })
    }
}

/// Writes a blob's file anew unless it is as it should be.
fn restore(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut found = Vec::new();
    let readonly = Permissions::from_mode(OWN);
    let read = open_plain(path).and_then(|mut file| {
        file.read_to_end(&mut found)?;
        Ok(file)
    });
    if let Ok(file) = read
        && found == bytes
    {
        // It may have been a replica.
        return file.set_permissions(readonly).at("set the mode of", path);
    }
    let folder = path.parent().expect("blobs lie in folders");
    std::fs::create_dir_all(folder).at("create", folder)?;
    let mut temp = Temp::new(folder)?;
    temp.file.write_all(bytes).at("write", temp.path())?;
    temp.file
        .set_permissions(readonly)
        .at("set the mode of", temp.path())?;
    temp.file.sync_all().at("sync", temp.path())?;
    temp.persist(path)
}

/// Syncs files and their folders; files that were removed meanwhile are nobody's concern.
fn sync_files(files: &[PathBuf]) -> Result<(), SyncError> {
    let mut there = files.to_vec();
    loop {
        there.retain(|file| file.exists());
        match sync_all(&there) {
            Err(SyncError::Open(_, error)) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(()) => break,
        }
    }
    let mut folders: Vec<PathBuf> = files
        .iter()
        .filter_map(|file| file.parent().map(PathBuf::from))
        .collect();
    folders.sort_unstable();
    folders.dedup();
    sync_all(&folders)
}
