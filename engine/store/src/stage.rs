//! Staging and export: blobs become files again.
//!
//! What a node gets is a reflink or a copy, so that no node can alter a cached blob; the file itself where it is a replica that
//! nobody else uses (`lend.rs`); a hard link to others only where it is asked for, and then its inode is looked at after the node.

use std::{
    fs::{File, OpenOptions, Permissions},
    io::{Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::Ordering::Relaxed,
};

use dagrun_model::{Artifact, BlobRef, Digest};

use crate::{
    Store,
    blob::{SMALL, hash_reader},
    error::{At, StoreError},
    fsx::{StatId, SyncError, patiently, sync_all, temp_name},
    lease::Use,
    lend::{Lent, wait_for_a_tick},
    tree::TreeKind,
};

/// How a blob gets to a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Staging {
    /// By reflink where the file system can, else by copy. A replica that nobody else uses is given away itself.
    #[default]
    Auto,
    /// By hard link where possible: for nodes that cannot write it, and checked by [`Staged::check`] afterwards.
    HardLink,
}

/// What was staged. Keep it until the node has ended.
#[derive(Debug, Default)]
pub struct Staged {
    store: Option<Store>,
    links: Vec<(Digest, PathBuf, StatId)>,
    lent: Vec<Lent>,
    /// Bytes of the staged files.
    pub bytes: u64,
}

/// A cached blob that a node wrote to through a hard link. It is in quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Altered {
    /// The blob.
    pub digest: Digest,
    /// Where it was staged.
    pub path: PathBuf,
}

/// From so many files on, those of a tree are lent however small they are.
const MANY: usize = 256;

/// Whether files are for a node or for a person.
#[derive(Clone, Copy)]
struct Look {
    file: u32,
    executable: u32,
    /// Files of a node that are not larger than this are copies; `None` where all are.
    copied: Option<u64>,
}

impl Look {
    /// Whether a replica may be given away. One with rights of its own has to be a copy.
    fn lends(&self, blob: &BlobRef) -> bool {
        self.copied.is_some_and(|largest| blob.size > largest) && !blob.executable
    }
}

const READ_ONLY: Look = Look {
    file: 0o444,
    executable: 0o555,
    // A tick of the clock, for which a node waits that is lent something, is longer than copying a few small files.
    copied: Some(SMALL),
};
const ORDINARY: Look = Look {
    file: 0o644,
    executable: 0o755,
    copied: None,
};

impl Store {
    /// Lays an artifact at `dest`, read-only, making its folders. Bytes are verified at least once per boot.
    ///
    /// An absent artifact stages nothing.
    ///
    /// # Errors
    /// [`StoreError::Missing`] or [`StoreError::Corrupt`] where a blob cannot be had; and when `dest` cannot be written or
    /// exists. What was laid by then stays for the caller to remove with the folder.
    pub fn stage(
        &self,
        artifact: &Artifact,
        dest: &Path,
        staging: Staging,
    ) -> Result<Staged, StoreError> {
        self.bring_artifacts([artifact])?;
        let mut staged = Staged {
            store: Some(self.clone()),
            ..Staged::default()
        };
        match artifact {
            Artifact::Absent => {}
            Artifact::File(blob) | Artifact::Value { file: blob, .. } => {
                self.lay_in_folder(blob, dest, staging, &mut staged)?;
            }
            Artifact::Tree { digest, .. } => {
                self.lay_tree(
                    digest,
                    dest,
                    staging,
                    READ_ONLY,
                    &mut staged,
                    &mut Vec::new(),
                )?;
            }
        }
        wait_for_a_tick(&staged.lent);
        Ok(staged)
    }

    /// Stages one file of the store: [`Store::stage`] without an artifact.
    ///
    /// # Errors
    /// As [`Store::stage`].
    pub fn stage_blob(
        &self,
        blob: &BlobRef,
        dest: &Path,
        staging: Staging,
    ) -> Result<Staged, StoreError> {
        self.stage(&Artifact::File(*blob), dest, staging)
    }

    /// Writes an artifact for people: an ordinary, writable file or folder that takes its name only when it is whole and
    /// on disk. What is at `dest` is replaced. Never a hard link.
    ///
    /// # Errors
    /// As [`Store::stage`]; `dest` is as it was then.
    pub fn export(&self, artifact: &Artifact, dest: &Path) -> Result<(), StoreError> {
        let parent = match dest.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        std::fs::create_dir_all(parent).at("create", parent)?;
        self.bring_artifacts([artifact])?;
        let temp = parent.join(temp_name());
        let result = self.export_to(artifact, &temp, dest);
        if result.is_err() {
            remove(&temp);
        }
        result
    }

    fn export_to(&self, artifact: &Artifact, temp: &Path, dest: &Path) -> Result<(), StoreError> {
        let mut written = Vec::new();
        match artifact {
            Artifact::Absent => return Ok(()),
            Artifact::File(blob) | Artifact::Value { file: blob, .. } => {
                self.note(&[(Use::Blob, blob.digest)])?;
                self.lay(blob, temp, Staging::Auto, ORDINARY, &mut Staged::default())?;
                written.push(temp.to_path_buf());
            }
            Artifact::Tree { digest, .. } => {
                let mut staged = Staged::default();
                self.lay_tree(
                    digest,
                    temp,
                    Staging::Auto,
                    ORDINARY,
                    &mut staged,
                    &mut written,
                )?;
            }
        }
        if self.inner.options.durable {
            sync_all(&written).map_err(|error| match error {
                SyncError::Open(path, source) => StoreError::io("open", &path, source),
                SyncError::Sync(path, source) => StoreError::io("sync", &path, source),
            })?;
        }
        let new_is_folder = matches!(artifact, Artifact::Tree { .. });
        let old = std::fs::symlink_metadata(dest).ok();
        if old
            .as_ref()
            .is_some_and(|old| old.is_dir() || new_is_folder)
        {
            // A folder cannot be renamed over: the old one steps aside first.
            let aside = dest.with_file_name(temp_name());
            std::fs::rename(dest, &aside).at("rename", dest)?;
            if let Err(error) = std::fs::rename(temp, dest) {
                let _ = std::fs::rename(&aside, dest);
                return Err(StoreError::io("rename to", dest, error));
            }
            remove(&aside);
            return Ok(());
        }
        std::fs::rename(temp, dest).at("rename to", dest)
    }

    fn lay_tree(
        &self,
        digest: &Digest,
        dest: &Path,
        staging: Staging,
        look: Look,
        staged: &mut Staged,
        written: &mut Vec<PathBuf>,
    ) -> Result<(), StoreError> {
        let entries = self.read_tree(digest)?;
        let blobs: Vec<_> = entries
            .iter()
            .filter_map(|e| match &e.kind {
                TreeKind::File(blob) => Some((Use::Blob, blob.digest)),
                _ => None,
            })
            .collect();
        self.note(&blobs)?;
        let look = Look {
            copied: look
                .copied
                .map(|largest| if blobs.len() < MANY { largest } else { 0 }),
            ..look
        };
        std::fs::create_dir_all(dest).at("create", dest)?;
        for entry in &entries {
            let path = dest.join(&entry.path);
            match &entry.kind {
                TreeKind::Folder => std::fs::create_dir(&path).at("create", &path)?,
                TreeKind::Symlink(target) => {
                    std::os::unix::fs::symlink(target, &path).at("create", &path)?;
                }
                TreeKind::File(blob) => {
                    self.lay(blob, &path, staging, look, staged)?;
                    written.push(path);
                }
            }
        }
        Ok(())
    }

    fn lay_in_folder(
        &self,
        blob: &BlobRef,
        dest: &Path,
        staging: Staging,
        staged: &mut Staged,
    ) -> Result<(), StoreError> {
        self.note(&[(Use::Blob, blob.digest)])?;
        match self.lay(blob, dest, staging, READ_ONLY, staged) {
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                if let Some(parent) = dest.parent() {
                    std::fs::create_dir_all(parent).at("create", parent)?;
                }
                self.lay(blob, dest, staging, READ_ONLY, staged)
            }
            other => other,
        }
    }

    fn lay(
        &self,
        blob: &BlobRef,
        dest: &Path,
        staging: Staging,
        look: Look,
        staged: &mut Staged,
    ) -> Result<(), StoreError> {
        self.lay_file(blob, dest, staging, look, staged)?;
        staged.bytes += blob.size;
        Ok(())
    }

    fn lay_file(
        &self,
        blob: &BlobRef,
        dest: &Path,
        staging: Staging,
        look: Look,
        staged: &mut Staged,
    ) -> Result<(), StoreError> {
        let mode = if blob.executable {
            look.executable
        } else {
            look.file
        };
        // A link shares its mode with the blob, so an executable has to be a copy.
        if staging == Staging::HardLink && !blob.executable && self.link(blob, dest, staged)? {
            return Ok(());
        }
        let may_lend = staging == Staging::Auto && look.lends(blob);
        // Sharing extents costs no more, where that can be.
        if may_lend
            && (blob.size <= SMALL || self.inner.no_reflink.load(Relaxed))
            && let Some(lent) = self.lend(blob, dest)?
        {
            staged.lent.push(lent);
            return Ok(());
        }
        if blob.size <= SMALL {
            // Small files are read anyway, so they are verified every time.
            let (mut from, path) = self.open_raw(&blob.digest)?;
            let mut bytes = Vec::with_capacity(blob.size as usize + 1);
            from.read_to_end(&mut bytes).at("read", &path)?;
            if Digest::of(&bytes) != blob.digest {
                return Err(self.quarantine(&blob.digest));
            }
            return write_new(dest, mode, |to| to.write_all(&bytes));
        }
        let (mut from, before) = self.verified(&blob.digest)?;
        let path = self.blob_path(&blob.digest);
        let may_try_again = may_lend && !self.inner.no_reflink.load(Relaxed);
        let mut is_filled = true;
        write_new(dest, mode, |to| {
            if self.reflink(&from, to) {
                return Ok(());
            }
            is_filled = !may_try_again;
            match is_filled {
                true => std::io::copy(&mut from, to).map(|_| ()),
                false => Ok(()),
            }
        })?;
        if !is_filled {
            // From now on it is known that extents cannot be shared here.
            std::fs::remove_file(dest).at("remove", dest)?;
            return self.lay_file(blob, dest, staging, look, staged);
        }
        // A node that has the file itself may have written to it meanwhile.
        if StatId::of(&from.metadata().at("read", &path)?) == before {
            return Ok(());
        }
        let again = self.verified(&blob.digest);
        if matches!(&again, Ok((_, now)) if now.ino == before.ino) {
            return Ok(());
        }
        std::fs::remove_file(dest).at("remove", dest)?;
        again?;
        self.lay_file(blob, dest, staging, look, staged)
    }

    /// Tries a hard link; `false` where that cannot be.
    fn link(&self, blob: &BlobRef, dest: &Path, staged: &mut Staged) -> Result<bool, StoreError> {
        let (file, before) = self.verified(&blob.digest)?;
        let path = self.blob_path(&blob.digest);
        match std::fs::hard_link(&path, dest) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(StoreError::io("link", dest, error));
            }
            Err(_) => return Ok(false),
        }
        // The link itself changes the ctime: that is no reason to hash the blob again.
        let after = StatId::of(&file.metadata().at("read", &path)?);
        if after.same_content(&before) {
            self.inner.verified.learn(&blob.digest, after);
        }
        staged.links.push((blob.digest, dest.to_path_buf(), after));
        Ok(true)
    }
}

impl Staged {
    /// Looks whether a node has written to a cached blob through a hard link. Such blobs go to quarantine. A replica was the node's
    /// own to write to, and is given up where it has.
    ///
    /// # Errors
    /// When a blob cannot be read.
    pub fn check(&self) -> Result<Vec<Altered>, StoreError> {
        let mut altered = Vec::new();
        let Some(store) = &self.store else {
            return Ok(altered);
        };
        store.look_at_lent(&self.lent)?;
        for (digest, dest, staged) in &self.links {
            let path = store.blob_path(digest);
            let Ok(mut file) = File::open(&path) else {
                // Collected or quarantined meanwhile: nobody can get it from here.
                continue;
            };
            let now = StatId::of(&file.metadata().at("read", &path)?);
            if now == *staged {
                continue;
            }
            // Other links of the same inode change the ctime as well; only the bytes tell then.
            if now.ino == staged.ino
                && now.same_content(staged)
                && hash_reader(&mut file, now.size).at("read", &path)? == *digest
            {
                store.inner.verified.learn(digest, now);
                continue;
            }
            if now.ino != staged.ino {
                continue;
            }
            let _ = store.quarantine(digest);
            altered.push(Altered {
                digest: *digest,
                path: dest.clone(),
            });
        }
        Ok(altered)
    }

    /// What was staged has been checked and is gone with its folder: saves hashing again what the node had itself.
    pub fn gone(&self) {
        if let Some(store) = &self.store {
            store.take_back(&self.lent);
        }
    }
}

/// Creates a file, fills it, and removes it again where that fails.
fn write_new(
    dest: &Path,
    mode: u32,
    fill: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> Result<(), StoreError> {
    let open = || {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode | 0o200)
            .open(dest)
    };
    let mut to = patiently(open).at("create", dest)?;
    let filled = fill(&mut to);
    let done = if mode & 0o200 == 0 {
        filled.and_then(|()| to.set_permissions(Permissions::from_mode(mode)))
    } else {
        filled
    };
    if done.is_err() {
        let _ = std::fs::remove_file(dest);
    }
    done.at("write", dest)
}

fn remove(path: &Path) {
    let is_folder = std::fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
    let _ = if is_folder {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
}
