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
    /// What cannot be had is not an error: the caller looks at what is there afterwards.
    fn fetch(&self, store: &Store, blobs: &[Digest]);
}

impl Store {
    /// From now on blobs that are not in the store are asked for there, after the sources that were added before.
    pub fn add_source(&self, source: Arc<dyn BlobSource>) {
        lock(&self.inner.sources).push(source);
    }

    /// Fetches those of these blobs that are not here; gives those that could not be had.
    pub fn bring(&self, blobs: &[Digest]) -> Vec<Digest> {
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
            source.fetch(self, &lacking);
            lacking.retain(|digest| !self.contains(digest));
        }
        lacking
    }

    /// Fetches what of some artifacts is not here, with the files of folders; gives the blobs that could not be had.
    pub fn bring_artifacts<'a>(
        &self,
        artifacts: impl IntoIterator<Item = &'a Artifact>,
    ) -> Vec<Digest> {
        if !self.has_sources() {
            return Vec::new();
        }
        let mut blobs = Vec::new();
        let mut trees = Vec::new();
        for artifact in artifacts {
            blobs.extend(artifact.blob_digest());
            if let Artifact::Tree { digest, .. } = artifact {
                trees.push(*digest);
            }
        }
        let mut lost = self.bring(&blobs);
        let mut files = Vec::new();
        for tree in trees.iter().filter(|tree| !lost.contains(tree)) {
            // A manifest that cannot be read is noticed by whoever stages it.
            for entry in self.read_tree(tree).unwrap_or_default() {
                if let TreeKind::File(blob) = entry.kind {
                    files.push(blob.digest);
                }
            }
        }
        lost.extend(self.bring(&files));
        lost
    }

    /// Reads a blob, and once more after asking the sources where it was lost.
    pub(crate) fn or_bring<T>(
        &self,
        digest: &Digest,
        read: impl Fn() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match read() {
            Err(error) if error.is_lost_blob() && self.has_sources() => {
                if self.bring(&[*digest]).is_empty() {
                    read()
                } else {
                    Err(error)
                }
            }
            other => other,
        }
    }

    pub(crate) fn has_sources(&self) -> bool {
        !lock(&self.inner.sources).is_empty()
    }
}
