//! Blobs: files named by the BLAKE3 digest of their bytes.
//!
//! Owns `blobs/ab/REST`, their quarantine, and the memory of which blobs were verified since boot. A blob is visible once
//! it is put and durable once a commit names it; see `commit.rs`.

use std::{
    fs::{File, Permissions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use dagrun_model::{Artifact, BlobRef, Digest, RelPath};

use crate::{
    Store,
    error::{At, StoreError},
    fsx::{StatId, Temp, lock, now_ms, open_plain, patiently, rename_new},
    lease::Use,
    lend::OWN,
};

/// How a file gets into the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PutMode {
    /// The file may be taken away: it is renamed into the store where that is possible, else copied. It is gone or must
    /// not be used afterwards.
    Move,
    /// The file stays as it is.
    Copy,
}

/// Files up to this size are handled in one piece in memory.
pub(crate) const SMALL: u64 = 256 << 10;
/// Sparse files larger than this are refused: hashing their holes would take for ever.
const SPARSE_LIMIT: u64 = 64 << 30;

impl Store {
    /// Puts bytes. They are visible at once, and durable once a commit names them.
    ///
    /// # Errors
    /// When they cannot be written; nothing is left behind then.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<BlobRef, StoreError> {
        let blob = BlobRef {
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            executable: false,
        };
        if self.claim(&blob.digest)? {
            return Ok(blob);
        }
        let folder = self.blob_folder(&blob.digest)?;
        let mut temp = Temp::new(&folder)?;
        temp.file.write_all(bytes).at("write", temp.path())?;
        self.seal(temp, &blob.digest, OWN)?;
        Ok(blob)
    }

    /// Puts a regular file.
    ///
    /// # Errors
    /// When it is not a regular file, changes meanwhile, or cannot be stored; nothing is left behind then.
    pub fn put_file(&self, path: &Path, mode: PutMode) -> Result<BlobRef, StoreError> {
        let meta = std::fs::symlink_metadata(path).at("read", path)?;
        check_regular(path, &meta)?;
        if mode == PutMode::Move && meta.nlink() == 1 {
            self.put_by_rename(path, &meta)
        } else {
            let blob = self.put_by_copy(path)?;
            if mode == PutMode::Move {
                let _ = std::fs::remove_file(path);
            }
            Ok(blob)
        }
    }

    /// Puts an output of a node: a file or a folder at `path` below the node's folder `root`.
    ///
    /// A symlink is followed where it stays in `root`. `None` where nothing is there.
    ///
    /// # Errors
    /// As [`Store::put_file`] and [`Store::put_tree`], and when the path leads out of `root`.
    pub fn put_output(
        &self,
        root: &Path,
        path: &RelPath,
        mode: PutMode,
    ) -> Result<Option<Artifact>, StoreError> {
        let full = root.join(path);
        match std::fs::symlink_metadata(&full) {
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(StoreError::io("read", &full, error)),
        }
        let root = root.canonicalize().at("resolve", root)?;
        let real = full.canonicalize().map_err(|_| StoreError::Refused {
            path: full.clone(),
            why: "is a symlink that leads nowhere; make it a file".into(),
        })?;
        if real == root || !real.starts_with(&root) {
            return Err(StoreError::Refused {
                path: full,
                why: "leads out of the node's folder by a symlink; copy the file instead".into(),
            });
        }
        // What a symlink points to may be an output too, so it is not taken away.
        let mode = if real == root.join(path) {
            mode
        } else {
            PutMode::Copy
        };
        let meta = std::fs::symlink_metadata(&real).at("read", &real)?;
        if meta.is_dir() {
            self.put_tree(&real, mode).map(Some)
        } else {
            self.put_file(&real, mode).map(|b| Some(Artifact::File(b)))
        }
    }

    /// Whether a blob is there. It may still turn out to be damaged.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.blob_path(digest).exists()
    }

    /// The bytes of a blob, verified.
    ///
    /// # Errors
    /// [`StoreError::Missing`] or [`StoreError::Corrupt`] where they cannot be had.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        self.note(&[(Use::Blob, *digest)])?;
        self.or_bring(digest, || {
            let (mut file, path) = self.open_raw(digest)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).at("read", &path)?;
            if Digest::of(&bytes) == *digest {
                Ok(bytes)
            } else {
                Err(self.quarantine(digest))
            }
        })
    }

    /// A blob opened for reading, verified if it was not since boot.
    ///
    /// # Errors
    /// [`StoreError::Missing`] or [`StoreError::Corrupt`] where it cannot be had.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        self.note(&[(Use::Blob, *digest)])?;
        let (file, _) = self.or_bring(digest, || self.verified(digest))?;
        Ok(file)
    }

    /// A blob that is here opened for those elsewhere who ask for it, and its size: verified like others, but nobody else is
    /// asked for it, and that it was sent is no use of it here.
    ///
    /// # Errors
    /// As [`Store::open_blob`].
    pub fn open_here(&self, digest: &Digest) -> Result<(File, u64), StoreError> {
        let (file, stat) = self.verified(digest)?;
        Ok((file, stat.size))
    }

    /// Where a blob is kept, for messages and for programs that read the store.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        blob_file(&self.inner.blobs, digest)
    }

    /// Opens a blob and makes sure that its bytes are right: hashes it unless that was done since boot.
    pub(crate) fn verified(&self, digest: &Digest) -> Result<(File, StatId), StoreError> {
        let (mut file, path) = self.open_raw(digest)?;
        let stat = StatId::of(&file.metadata().at("read", &path)?);
        if self.inner.verified.knows(digest, &stat) {
            return Ok((file, stat));
        }
        let found = hash_reader(&mut file, stat.size).at("read", &path)?;
        if found != *digest {
            return Err(self.quarantine(digest));
        }
        file.seek(SeekFrom::Start(0)).at("read", &path)?;
        self.inner.verified.learn(digest, stat);
        Ok((file, stat))
    }

    pub(crate) fn open_raw(&self, digest: &Digest) -> Result<(File, PathBuf), StoreError> {
        let path = self.blob_path(digest);
        match open_plain(&path) {
            Ok(file) => Ok((file, path)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(StoreError::Missing { digest: *digest })
            }
            Err(error) => Err(StoreError::io("open", &path, error)),
        }
    }

    /// Moves a damaged blob out of the way and gives the error that says so.
    pub(crate) fn quarantine(&self, digest: &Digest) -> StoreError {
        let folder = self.inner.root.join("quarantine");
        let quarantined = folder.join(format!("{digest}.{}", now_ms()));
        self.inner.verified.forget(digest);
        let moved = std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::rename(self.blob_path(digest), &quarantined));
        match moved {
            Ok(()) => {
                self.warn(format!(
                    "blob {digest} was damaged and has been moved to {}",
                    quarantined.display()
                ));
                StoreError::Corrupt {
                    digest: *digest,
                    quarantined,
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                StoreError::Missing { digest: *digest }
            }
            Err(error) => StoreError::io("move to quarantine", &quarantined, error),
        }
    }

    /// Notes the use of a blob that is about to be put; `true` where a good one is there already.
    ///
    /// A blob that is there is verified like one that is read: putting the right bytes must heal a damaged one.
    pub(crate) fn claim(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.inner.poison.check()?;
        self.note(&[(Use::Blob, *digest)])?;
        match self.verified(digest) {
            Ok(_) => Ok(true),
            Err(StoreError::Missing { .. } | StoreError::Corrupt { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn blob_folder(&self, digest: &Digest) -> Result<PathBuf, StoreError> {
        let folder = self.inner.blobs.join(&digest.to_string()[..2]);
        if !folder.is_dir() {
            // All were made with the store; one that a person removed comes back, and is durable before it is used.
            std::fs::create_dir_all(&folder).at("create", &folder)?;
            File::open(&self.inner.blobs)
                .and_then(|f| f.sync_all())
                .at("sync", &self.inner.blobs)?;
        }
        Ok(folder)
    }

    /// Gives a finished temporary file its final name, with the rights of [`OWN`] or of a replica. `false` where there is a file of that
    /// name.
    pub(crate) fn seal(
        &self,
        mut temp: Temp,
        digest: &Digest,
        rights: u32,
    ) -> Result<bool, StoreError> {
        temp.file
            .set_permissions(Permissions::from_mode(rights))
            .at("set the mode of", temp.path())?;
        let path = self.blob_path(digest);
        let is_new = temp.persist_new(&path)?;
        if is_new {
            self.arrived(digest, &temp.file, &path)?;
        }
        Ok(is_new)
    }

    /// A blob has got its name: its bytes are right, and not yet on disk.
    pub(crate) fn arrived(
        &self,
        digest: &Digest,
        file: &File,
        path: &Path,
    ) -> Result<(), StoreError> {
        let stat = StatId::of(&file.metadata().at("read", path)?);
        self.inner.verified.learn(digest, stat);
        // An earlier one of this name was removed.
        lock(&self.inner.durable).remove(digest);
        Ok(())
    }

    fn put_by_rename(&self, path: &Path, meta: &std::fs::Metadata) -> Result<BlobRef, StoreError> {
        let mut file = open_plain(path).at("open", path)?;
        let before = StatId::of(&file.metadata().at("read", path)?);
        if before != StatId::of(meta) {
            return Err(StoreError::Changed { path: path.into() });
        }
        let digest = hash_reader(&mut file, before.size).at("read", path)?;
        if StatId::of(&file.metadata().at("read", path)?) != before {
            return Err(StoreError::Changed { path: path.into() });
        }
        let blob = BlobRef {
            digest,
            size: before.size,
            executable: is_executable(meta),
        };
        if self.claim(&digest)? {
            std::fs::remove_file(path).at("remove", path)?;
            return Ok(blob);
        }
        self.blob_folder(&digest)?;
        file.set_permissions(Permissions::from_mode(OWN))
            .at("set the mode of", path)?;
        let dest = self.blob_path(&digest);
        match rename_new(path, &dest) {
            Ok(true) => self.arrived(&digest, &file, &dest)?,
            Ok(false) => std::fs::remove_file(path).at("remove", path)?,
            Err(StoreError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::CrossesDevices =>
            {
                let copied = self.put_by_copy(path)?;
                std::fs::remove_file(path).at("remove", path)?;
                return Ok(BlobRef {
                    executable: blob.executable,
                    ..copied
                });
            }
            Err(error) => return Err(error),
        }
        Ok(blob)
    }

    fn put_by_copy(&self, path: &Path) -> Result<BlobRef, StoreError> {
        let mut file = open_plain(path).at("open", path)?;
        let meta = file.metadata().at("read", path)?;
        check_regular(path, &meta)?;
        let executable = is_executable(&meta);
        if meta.len() <= SMALL {
            let mut bytes = Vec::with_capacity(meta.len() as usize);
            file.read_to_end(&mut bytes).at("read", path)?;
            if bytes.len() as u64 == meta.len() {
                return Ok(BlobRef {
                    executable,
                    ..self.put_bytes(&bytes)?
                });
            }
            return Err(StoreError::Changed { path: path.into() });
        }
        // The copy is what is hashed, so that a writer of the original cannot come between.
        let mut temp = Temp::new(&self.inner.blobs)?;
        let digest = if self.reflink(&file, &temp.file) {
            hash_reader(&mut temp.file, meta.len()).at("read", temp.path())?
        } else {
            copy_hashing(&mut file, &temp, &meta, path)?
        };
        let after = StatId::of(&file.metadata().at("read", path)?);
        if after != StatId::of(&meta) {
            return Err(StoreError::Changed { path: path.into() });
        }
        if !self.claim(&digest)? {
            self.blob_folder(&digest)?;
            self.seal(temp, &digest, OWN)?;
        }
        Ok(BlobRef {
            digest,
            size: meta.len(),
            executable,
        })
    }
}

/// Where a blob lies in the folder of blobs.
pub(crate) fn blob_file(blobs: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.to_string();
    let mut path = blobs.join(&hex[..2]);
    path.push(&hex[2..]);
    path
}

fn is_executable(meta: &std::fs::Metadata) -> bool {
    meta.mode() & 0o111 != 0
}

fn check_regular(path: &Path, meta: &std::fs::Metadata) -> Result<(), StoreError> {
    let kind = meta.file_type();
    if !kind.is_file() {
        return Err(StoreError::Refused {
            path: path.into(),
            why: format!(
                "is {}; only regular files can be stored there",
                kind_of(kind)
            ),
        });
    }
    let allocated = meta.blocks().saturating_mul(512);
    if meta.len() > SPARSE_LIMIT && allocated < meta.len() / 8 {
        return Err(StoreError::Refused {
            path: path.into(),
            why: format!(
                "is a sparse file of {} bytes with only {allocated} on disk; write it without holes or compress it",
                meta.len()
            ),
        });
    }
    Ok(())
}

/// What something is that is no regular file, for people.
pub fn kind_of(kind: std::fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    if kind.is_dir() {
        "a folder"
    } else if kind.is_symlink() {
        "a symlink"
    } else if kind.is_fifo() {
        "a fifo"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// Hashes what is left to read of a file, on several threads where it is large.
///
/// Not by a memory map: a file that shrinks meanwhile would kill the process.
pub(crate) fn hash_reader(file: &mut File, size: u64) -> std::io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let large = size >= 16 << 20;
    let mut buffer = vec![
        0;
        if large {
            8 << 20
        } else {
            size.clamp(1, 256 << 10) as usize + 1
        }
    ];
    loop {
        let n = fill(file, &mut buffer)?;
        if large {
            hasher.update_rayon(&buffer[..n]);
        } else {
            hasher.update(&buffer[..n]);
        }
        if n < buffer.len() {
            return Ok(Digest(*hasher.finalize().as_bytes()));
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Copies a large file and hashes it on the way. Holes stay holes.
pub(crate) fn copy_hashing(
    file: &mut File,
    temp: &Temp,
    meta: &std::fs::Metadata,
    path: &Path,
) -> Result<Digest, StoreError> {
    let sparse = meta.blocks().saturating_mul(512) < meta.len();
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 4 << 20];
    let mut offset = 0;
    loop {
        let n = fill(file, &mut buffer).at("read", path)?;
        let part = &buffer[..n];
        hasher.update_rayon(part);
        if !(sparse && part.iter().all(|b| *b == 0)) {
            temp.file
                .write_all_at(part, offset)
                .at("write", temp.path())?;
        }
        offset += n as u64;
        if n < buffer.len() {
            break;
        }
    }
    if sparse {
        temp.file.set_len(offset).at("write", temp.path())?;
    }
    Ok(Digest(*hasher.finalize().as_bytes()))
}

impl Store {
    /// Tries to share the extents of `from` with the empty file `to`; `false` where the file system cannot.
    pub(crate) fn reflink(&self, from: &File, to: &File) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        if self.inner.no_reflink.load(Relaxed) {
            return false;
        }
        let done = patiently(|| reflink_copy::reflink_file(from, to)).is_ok();
        if !done {
            self.inner.no_reflink.store(true, Relaxed);
        }
        done
    }
}
