//! Blobs that come in pieces from places that are not trusted: other hosts and buckets.
//!
//! The pieces are hashed on the way into a temporary file, which becomes a blob only where its digest is the one that was
//! asked for. Knows nothing of where the pieces come from.

use std::io::Write;

use dagrun_model::Digest;

use crate::{
    Store,
    error::{At, StoreError},
    fsx::{Temp, names, now_ms},
    lease::Use,
};

/// Wrong bytes are kept in quarantine while fewer files are there, and up to this size: evidence, not a way to fill a disk.
const MOST_KEPT: usize = 64;
const LARGEST_KEPT: u64 = 16 << 20;

/// A blob on its way into the store. Dropped, it leaves nothing behind.
pub struct Incoming {
    store: Store,
    temp: Temp,
    hasher: blake3::Hasher,
    size: u64,
}

/// What became of a blob that was received whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// It is in the store, verified.
    Stored,
    /// Its bytes have another digest: this one.
    Wrong(Digest),
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming")
            .field("size", &self.size)
            .finish()
    }
}

impl Store {
    /// Begins to receive a blob.
    ///
    /// # Errors
    /// When no temporary file can be made.
    pub fn receive(&self) -> Result<Incoming, StoreError> {
        Ok(Incoming {
            store: self.clone(),
            temp: Temp::new(&self.inner.blobs)?,
            hasher: blake3::Hasher::new(),
            size: 0,
        })
    }
}

impl Incoming {
    /// Takes the next piece.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        self.hasher.update(piece);
        self.size += piece.len() as u64;
        (&self.temp.file)
            .write_all(piece)
            .at("write", self.temp.path())
    }

    /// Bytes received so far: where a transfer that was cut goes on.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Ends a blob. It is visible from here on where its digest is `expected`, and durable once a commit names it.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub fn finish(self, expected: &Digest) -> Result<Received, StoreError> {
        let found = Digest(*self.hasher.finalize().as_bytes());
        if found != *expected {
            self.keep_as_evidence(expected)?;
            return Ok(Received::Wrong(found));
        }
        self.store.inner.poison.check()?;
        self.store.note(&[(Use::Blob, *expected)])?;
        if !self.store.contains(expected) {
            self.store.blob_folder(expected)?;
            self.store.seal(self.temp, expected)?;
        }
        Ok(Received::Stored)
    }

    fn keep_as_evidence(self, expected: &Digest) -> Result<(), StoreError> {
        let folder = self.store.inner.root.join("quarantine");
        std::fs::create_dir_all(&folder).at("create", &folder)?;
        if self.size > LARGEST_KEPT || names(&folder)?.len() >= MOST_KEPT {
            return Ok(());
        }
        let path = folder.join(format!("{expected}.received.{}", now_ms()));
        self.temp.persist(&path)
    }
}
