//! Blobs from elsewhere: what the store asks where it lacks one.
//!
//! Owns: the list of sources and the order in which they are asked. Knows nothing of networks: a source is another host of a
//! cluster, or a remote tier.

use std::sync::Arc;

use dagrun_model::{Artifact, Digest};

use crate::{Store, StoreError, fsx::lock, tree::TreeKind};

/// Somewhere that blobs can be had from.
pub trait BlobSource: Send + Sync {
    /// Puts as many of these blobs into the store as can be had, each verified by its digest. Blocks, within a bound of its own.
    ///
    /// # Errors
    /// When the store cannot take them: its disk is full. What cannot be had is no error: the caller looks at what is there
    /// afterwards.
    fn fetch(&self, store: &Store, blobs: &[Digest]) -> Result<(), StoreError>;

    /// The same for files of a tree: whoever has its manifest mostly has all of them.
    ///
    /// # Errors
    /// As [`BlobSource::fetch`].
    fn fetch_files(
        &self,
        store: &Store,
        tree: &Digest,
        files: &[Digest],
    ) -> Result<(), StoreError> {
        let _ = tree;
        self.fetch(store, files)
    }
}

impl Store {
    /// From now on blobs that are not in the store are asked for there, after the sources that were added before.
    pub fn add_source(&self, source: Arc<dyn BlobSource>) {
        lock(&self.inner.sources).push(source);
    }

    /// Fetches those of these blobs that are not here; gives those that could not be had.
    ///
    /// # Errors
    /// When the store cannot take them.
    pub fn bring(&self, blobs: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        self.ask_sources(blobs, |source, lacking| source.fetch(self, lacking))
    }

    fn ask_sources(
        &self,
        blobs: &[Digest],
        ask: impl Fn(&dyn BlobSource, &[Digest]) -> Result<(), StoreError>,
    ) -> Result<Vec<Digest>, StoreError> {
        let mut lacking: Vec<Digest> = blobs.to_vec();
        lacking.retain(|digest| !self.contains(digest));
        lacking.sort_unstable();
        lacking.dedup();
        // Taken out, so that nobody waits for the lock while a source blocks.
        let sources = lock(&self.inner.sources).clone();
        for source in sources {
            if lacking.is_empty() {
                break;
            }
            ask(&*source, &lacking)?;
            lacking.retain(|digest| !self.contains(digest));
        }
        Ok(lacking)
    }

    /// Fetches what of some artifacts is not here, with the files of folders; gives the blobs that could not be had.
    ///
    /// # Errors
    /// When the store cannot take them.
    pub fn bring_artifacts<'a>(
        &self,
        artifacts: impl IntoIterator<Item = &'a Artifact>,
    ) -> Result<Vec<Digest>, StoreError> {
        if !self.has_sources() {
            return Ok(Vec::new());
        }
        let mut blobs = Vec::new();
        let mut trees = Vec::new();
        for artifact in artifacts {
            blobs.extend(artifact.blob_digest());
            if let Artifact::Tree { digest, .. } = artifact {
                trees.push(*digest);
            }
        }
        let mut lost = self.bring(&blobs)?;
        for tree in &trees {
            if lost.contains(tree) {
                continue;
            }
            // A manifest that cannot be read is noticed by whoever stages it.
            let entries = self.read_tree(tree).unwrap_or_default();
            let files: Vec<Digest> = entries
                .into_iter()
                .filter_map(|entry| match entry.kind {
                    TreeKind::File(blob) => Some(blob.digest),
                    TreeKind::Folder | TreeKind::Symlink(_) => None,
                })
                .collect();
            let ask = |source: &dyn BlobSource, lacking: &[Digest]| {
                source.fetch_files(self, tree, lacking)
            };
            lost.extend(self.ask_sources(&files, ask)?);
        }
        Ok(lost)
    }

    /// Reads a blob, and once more after asking the sources where it was lost.
    pub(crate) fn or_bring<T>(
        &self,
        digest: &Digest,
        read: impl Fn() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match read() {
            Err(error) if error.is_lost_blob() && self.has_sources() => {
                if self.bring(&[*digest])?.is_empty() {
                    read()
                } else {
                    Err(error)
                }
            }
            other => other,
        }
    }

    /// Whether what is not here may be had from elsewhere.
    pub fn has_sources(&self) -> bool {
        !lock(&self.inner.sources).is_empty()
    }
}
