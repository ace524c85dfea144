//! What can go wrong in a store, told apart by what a person or the engine does about it.

use std::{
    io,
    path::{Path, PathBuf},
};

use dagrun_model::Digest;

/// An error of the store. Each names the thing it is about and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A blob is not there: evicted, or never made. Its producer has to run again.
    #[error("blob {digest} is not in the store; run the node that makes it again")]
    Missing {
        /// The blob.
        digest: Digest,
    },
    /// The bytes of a blob were not those of its digest. It is in quarantine now, and so missing from here on.
    #[error(
        "blob {digest} was damaged and has been moved to {quarantined}; run the node that makes it again"
    )]
    Corrupt {
        /// The blob.
        digest: Digest,
        /// Where the bytes are kept.
        quarantined: PathBuf,
    },
    /// The file system is full, out of inodes or over quota.
    #[error(
        "disk full: cannot {op} {path}; free space there (`dagrun gc` trims the store) and run again"
    )]
    DiskFull {
        /// What was tried.
        op: &'static str,
        /// On which file.
        path: PathBuf,
    },
    /// The process or the system has too many open files, also after waiting.
    #[error(
        "too many open files: cannot {op} {path} with a limit of {limit}; raise it with `ulimit -n 4096`"
    )]
    TooManyFiles {
        /// What was tried.
        op: &'static str,
        /// On which file.
        path: PathBuf,
        /// The limit of this process.
        limit: u64,
    },
    /// The file system is read-only, or the user has no right.
    #[error(
        "cannot {op} {path}: {source}; make it writable for this user or choose another store with DAGRUN_CACHE"
    )]
    Denied {
        /// What was tried.
        op: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// Any other failure of the file system.
    #[error("cannot {op} {path}: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A sync to disk failed before, so that nothing can be promised any more: the kernel may have dropped the data.
    #[error(
        "the store stopped committing after a failed sync ({first}); check the disk, then run again: what was reported before is safe"
    )]
    Poisoned {
        /// The failure, with its path.
        first: String,
    },
    /// A thing that may not be stored: a device, a symlink that leaves its folder, a name that cannot be staged.
    #[error("{path} {why}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why, and what to do instead.
        why: String,
    },
    /// A file changed while it was stored.
    #[error(
        "{path} changed while it was being stored; let nothing write to it after the node ends"
    )]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A manifest of a tree is not one, though its bytes have the right digest.
    #[error("blob {digest} is not the manifest of a folder: {why}")]
    BadTree {
        /// The blob.
        digest: Digest,
        /// What is wrong with it.
        why: String,
    },
    /// The folder is a store of another version, or no store.
    #[error("{path} {why}")]
    NotAStore {
        /// The folder or file.
        path: PathBuf,
        /// What was found, and what to do.
        why: String,
    },
    /// An action-cache entry is too large to be stored.
    #[error(
        "the result of {node} takes {bytes} bytes in the action cache, at most 8 MiB fit; make large values files instead of json outputs"
    )]
    EntryTooLarge {
        /// The logical id of the node.
        node: String,
        /// Its size.
        bytes: usize,
    },
}

impl StoreError {
    /// Turns an error of the system into the kind that says what to do.
    pub(crate) fn io(op: &'static str, path: &Path, source: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let path = path.to_path_buf();
        if is_too_many_files(&source) {
            return Self::TooManyFiles {
                op,
                path,
                limit: open_files_limit(),
            };
        }
        match source.kind() {
            Kind::StorageFull | Kind::QuotaExceeded => Self::DiskFull { op, path },
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Self::Denied { op, path, source },
            _ => Self::Io { op, path, source },
        }
    }

    /// Whether the blob that was asked for cannot be had, so that its producer has to run again.
    pub fn is_lost_blob(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Corrupt { .. })
    }
}

/// Names the operation and the path of an I/O error.
pub(crate) trait At<T> {
    fn at(self, op: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, op: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::io(op, path, source))
    }
}

impl<T> At<T> for rustix::io::Result<T> {
    fn at(self, op: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|errno| StoreError::io(op, path, errno.into()))
    }
}

pub(crate) fn is_too_many_files(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    errno == Some(rustix::io::Errno::MFILE.raw_os_error())
        || errno == Some(rustix::io::Errno::NFILE.raw_os_error())
}

fn open_files_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(u64::MAX)
}
