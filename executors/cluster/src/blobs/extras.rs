//! Blobs that are not in the store: files of the workspace, served from where they lie.
//!
//! A file is hashed before it is served for the first time, and again when it looks different: what has changed since the
//! plan was made is not there.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use dagrun_model::Digest;
use rustc_hash::FxHashMap;

/// Files by digest, each for the runs that use it. A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    files: Arc<RwLock<FxHashMap<Digest, Vec<Extra>>>>,
}

#[derive(Clone, Debug)]
struct Extra {
    run: Arc<str>,
    path: PathBuf,
    /// As what the file was seen when its bytes were right.
    verified: Option<Stat>,
}

/// What tells whether a file is still the one that was hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    ids: (u64, u64),
    size: u64,
    times: (i64, i64, i64, i64),
}

impl Stat {
    fn of(meta: &Metadata) -> Self {
        Self {
            ids: (meta.dev(), meta.ino()),
            size: meta.size(),
            times: (
                meta.mtime(),
                meta.mtime_nsec(),
                meta.ctime(),
                meta.ctime_nsec(),
            ),
        }
    }
}

/// A file that is served, as it was when it was opened.
#[derive(Debug)]
pub(crate) struct OpenExtra {
    pub(crate) file: File,
    pub(crate) size: u64,
    pub(crate) stat: Stat,
}

impl OpenExtra {
    /// Whether nothing has written to it since it was opened.
    pub(crate) fn is_unchanged(&self) -> bool {
        self.file
            .metadata()
            .is_ok_and(|meta| Stat::of(&meta) == self.stat)
    }
}

impl Extras {
    /// From now on this file of a run's workspace is served under this digest.
    pub fn add(&self, run: &Arc<str>, digest: Digest, path: &Path) {
        let is_there = |files: &FxHashMap<Digest, Vec<Extra>>| {
            let mut there = files.get(&digest).into_iter().flatten();
            there.any(|extra| extra.run == *run && extra.path == path)
        };
        // Thousands of nodes read the same file: mostly there is nothing to do.
        if is_there(&self.files.read().unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        if !is_there(&files) {
            files.entry(digest).or_default().push(Extra {
                run: run.clone(),
                path: path.to_path_buf(),
                verified: None,
            });
        }
    }

    /// A run is over: its files are not served any more.
    pub fn forget(&self, run: &str) {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        files.retain(|_, extras| {
            extras.retain(|extra| &*extra.run != run);
            !extras.is_empty()
        });
    }

    /// Whether there is a file for a digest; it may have changed.
    pub(crate) fn knows(&self, digest: &Digest) -> bool {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.contains_key(digest)
    }

    /// Opens the file of a digest, if it still has these bytes. May read all of it.
    pub(crate) fn open(&self, digest: &Digest) -> Option<OpenExtra> {
        let extras = {
            let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
            files.get(digest)?.clone()
        };
        extras
            .iter()
            .find_map(|extra| self.open_one(digest, extra).ok().flatten())
    }

    fn open_one(&self, digest: &Digest, extra: &Extra) -> io::Result<Option<OpenExtra>> {
        let file = File::open(&extra.path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Ok(None);
        }
        let stat = Stat::of(&meta);
        let open = OpenExtra {
            file,
            size: meta.len(),
            stat,
        };
        if extra.verified == Some(stat) {
            return Ok(Some(open));
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&open.file)?;
        let is_right = hasher.finalize().as_bytes() == &digest.0 && open.is_unchanged();
        if is_right {
            self.note_verified(digest, &extra.path, stat);
        }
        Ok(is_right.then_some(open))
    }

    fn note_verified(&self, digest: &Digest, path: &Path, stat: Stat) {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        for extra in files.get_mut(digest).into_iter().flatten() {
            if extra.path == path {
                extra.verified = Some(stat);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_served_as_long_as_they_have_the_bytes_and_their_run_lives() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.csv");
        std::fs::write(&path, "1,2").unwrap();
        let digest = Digest::of(b"1,2");
        let extras = Extras::default();
        let (one, two): (Arc<str>, Arc<str>) = ("one".into(), "two".into());
        for run in [&one, &two, &two] {
            extras.add(run, digest, &path);
        }
        assert_eq!(extras.open(&digest).map(|open| open.size), Some(3));
        let open = extras.open(&digest).unwrap();
        std::fs::write(&path, "1,3").unwrap();
        assert!(!open.is_unchanged());
        assert!(extras.open(&digest).is_none(), "the file has changed");
        std::fs::write(&path, "1,2").unwrap();
        assert!(extras.open(&digest).is_some());
        extras.forget("one");
        assert!(extras.open(&digest).is_some(), "the other run has it still");
        extras.forget("two");
        assert!(!extras.knows(&digest) && extras.open(&digest).is_none());
    }
}
