//! Replicas, and lending them to nodes.
//!
//! A replica is a blob that came from a host that keeps it: this store promises nothing for it. So a node may get the file
//! itself, by a hard link, where it would have got a copy. What it does to the file it does to its own: the store trusts a blob
//! only as long as its inode looks as it did when its bytes were verified, and gives the replica up where the node has written
//! to it. Three rules keep altered bytes from others:
//!
//! - one node at a time has the file, and others get copies;
//! - whoever copies looks afterwards whether the file changed meanwhile;
//! - what this store is to answer for is lent no more, and where a node has the file, the store gets a copy of it.

use std::{
    fs::{Metadata, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use dagrun_model::{BlobRef, Digest};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    Store,
    blob::{SMALL, copy_hashing, hash_reader},
    error::{At, StoreError},
    fsx::{StatId, Temp, open_plain},
};

/// The rights of a blob that this store answers for.
pub(crate) const OWN: u32 = 0o444;
/// Those of a replica. The sticky bit means nothing for a file, and is seen by all processes that use the store, after a restart too.
pub(crate) const REPLICA: u32 = 0o1444;

/// A file that a node has, and what it looked like then.
pub(crate) type Lent = (Digest, PathBuf, StatId);

/// How often the clock is looked at whose ticks files are stamped with, and for how long at most: one that is set back is not waited for.
const LOOK: Duration = Duration::from_millis(1);
const LOOKS: u32 = 20;

/// Waits until what a node writes is stamped later than the links. Kernels may stamp files with a clock that ticks a few hundred
/// times a second.
pub(crate) fn wait_for_a_tick(lent: &[Lent]) {
    let Some(newest) = lent.iter().map(|(_, _, stat)| stat.ctime).max() else {
        return;
    };
    for _ in 0..LOOKS {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        if now
            .tv_sec
            .saturating_mul(1_000_000_000)
            .saturating_add(now.tv_nsec)
            > newest
        {
            return;
        }
        std::thread::sleep(LOOK);
    }
}

pub(crate) fn is_replica(meta: &Metadata) -> bool {
    meta.mode() & 0o7777 == REPLICA
}

impl Store {
    /// Gives a node the file of a replica at `dest`; `None` where it has to be a copy.
    pub(crate) fn lend(&self, blob: &BlobRef, dest: &Path) -> Result<Option<Lent>, StoreError> {
        let digest = blob.digest;
        let path = self.blob_path(&digest);
        let is_free = |meta: &Metadata| is_replica(meta) && meta.nlink() == 1;
        let Some(meta) = std::fs::symlink_metadata(&path).ok().filter(is_free) else {
            return Ok(None);
        };
        let before = StatId::of(&meta);
        if !self.inner.verified.knows(&digest, &before) {
            // A small one is read anyway by whoever copies it.
            if blob.size <= SMALL || self.verified(&digest)?.1 != before {
                return Ok(None);
            }
        }
        match std::fs::hard_link(&path, dest) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(StoreError::io("link", dest, error));
            }
            Err(_) => return Ok(None),
        }
        let meta = std::fs::symlink_metadata(dest).at("read", dest)?;
        let after = StatId::of(&meta);
        // Whoever lends it at the same time, or makes it the store's own, sees our link, or we see theirs.
        if meta.nlink() != 2 || !is_replica(&meta) || !after.same_content(&before) {
            std::fs::remove_file(dest).at("remove", dest)?;
            return Ok(None);
        }
        // The link itself changes the ctime: that is no reason to hash the blob again.
        self.inner.verified.learn(&digest, after);
        Ok(Some((digest, dest.to_path_buf(), after)))
    }

    /// The node has ended: what it wrote to is no blob any more.
    pub(crate) fn look_at_lent(&self, lent: &[Lent]) -> Result<(), StoreError> {
        for (digest, _, before) in lent {
            let path = self.blob_path(digest);
            let Ok(mut file) = open_plain(&path) else {
                continue;
            };
            let now = StatId::of(&file.metadata().at("read", &path)?);
            if now == *before || now.ino != before.ino {
                continue;
            }
            // Other links of the inode change its ctime too; then the bytes tell.
            if now.same_content(before)
                && hash_reader(&mut file, now.size).at("read", &path)? == *digest
            {
                self.inner.verified.learn(digest, now);
                continue;
            }
            tracing::debug!("a node has written to its input: the replica of {digest} is given up");
            self.inner.verified.forget(digest);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StoreError::io("remove", &path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The node's links are gone, or are somebody's who looks at what a node left: blobs that were as before when it had ended
    /// need not be hashed again for that.
    pub(crate) fn take_back(&self, lent: &[Lent]) {
        for (digest, _, before) in lent {
            if let Ok(meta) = std::fs::symlink_metadata(self.blob_path(digest))
                && StatId::of(&meta).same_content(before)
                && self.inner.verified.knows(digest, before)
            {
                self.inner.verified.learn(digest, StatId::of(&meta));
            }
        }
    }

    /// Makes a replica a blob that this store answers for.
    ///
    /// # Errors
    /// [`StoreError::Missing`] or [`StoreError::Corrupt`] where it is not whole, and when it cannot be written.
    pub(crate) fn make_own(&self, digest: &Digest) -> Result<(), StoreError> {
        let (mut file, before) = self.verified(digest)?;
        let path = self.blob_path(digest);
        let rights = Permissions::from_mode(OWN);
        file.set_permissions(rights.clone())
            .at("set the mode of", &path)?;
        let meta = file.metadata().at("read", &path)?;
        if meta.nlink() == 1 {
            let after = StatId::of(&meta);
            if after.same_content(&before) {
                self.inner.verified.learn(digest, after);
            }
            return Ok(());
        }
        // A node has the file, and may write to it.
        let temp = Temp::new(&self.inner.blobs)?;
        if copy_hashing(&mut file, &temp, &meta, &path)? != *digest {
            return Err(self.quarantine(digest));
        }
        temp.file
            .set_permissions(rights)
            .at("set the mode of", temp.path())?;
        let copy = temp.file.try_clone().at("open", temp.path())?;
        temp.persist(&path)?;
        self.arrived(digest, &copy, &path)
    }
}
