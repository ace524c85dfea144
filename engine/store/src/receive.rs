//! Blobs that come in pieces from places that are not trusted: other hosts and buckets.
//!
//! The pieces are hashed on the way into a temporary file, which becomes a blob only where its digest is the one that was
//! asked for. What a process that died had received of a blob is gone on with. Knows nothing of where the pieces come from.

use std::{
    io::Read,
    os::unix::fs::{FileExt, MetadataExt},
};

use dagrun_model::Digest;

use crate::{
    Disk, Store,
    error::{At, StoreError},
    fsx::{TEMP_PREFIX, Temp, names, now_ms},
    lease::Use,
    lend::{OWN, REPLICA},
};

/// Wrong bytes are kept in quarantine while fewer files are there, and up to this size: evidence, not a way to fill a disk.
const MOST_KEPT: usize = 64;
const LARGEST_KEPT: u64 = 16 << 20;
/// Pieces of so many bytes are hashed by another thread while they are written.
const BESIDE: usize = 256 << 10;
/// Runs of zeros from this length on become holes.
const HOLE: usize = 64 << 10;
/// What stands before the digest in the name of a temporary file that others may go on with.
const PARTIAL: &str = "in-";

/// A blob on its way into the store. Dropped, it leaves nothing behind.
pub struct Incoming {
    store: Store,
    temp: Temp,
    /// Boxed: it is 2 KiB, and what receives is moved about.
    hasher: Box<blake3::Hasher>,
    size: u64,
    rights: u32,
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
        Ok(Incoming::new(self, Temp::new(&self.inner.blobs)?))
    }

    /// Begins to receive a blob that others who use this store may want too: goes on where a process that died left off, and
    /// gives `None` while another process or thread receives the blob.
    ///
    /// # Errors
    /// When the temporary file cannot be made or read.
    pub fn receive_alone(&self, digest: &Digest) -> Result<Option<Incoming>, StoreError> {
        let hex = digest.to_string();
        let name = format!("{TEMP_PREFIX}{PARTIAL}{}", &hex[2..]);
        let Some(temp) = Temp::named(&self.blob_folder(digest)?.join(name))? else {
            return Ok(None);
        };
        let mut incoming = Incoming::new(self, temp);
        incoming.take_in_what_is_there()?;
        Ok(Some(incoming))
    }

    /// Takes a blob that came whole, and is small enough to be in memory.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub fn receive_whole(&self, expected: &Digest, bytes: &[u8]) -> Result<Received, StoreError> {
        let found = Digest::of(bytes);
        if found == *expected {
            return self.put_bytes(bytes).map(|_| Received::Stored);
        }
        self.receive_wrong(expected, bytes)
    }

    /// Takes a blob that came whole from somebody who keeps it: see [`Incoming::set_replica`].
    ///
    /// # Errors
    /// When it cannot be stored.
    pub fn receive_replica(&self, expected: &Digest, bytes: &[u8]) -> Result<Received, StoreError> {
        if Digest::of(bytes) != *expected {
            return self.receive_wrong(expected, bytes);
        }
        self.inner.poison.check()?;
        self.note(&[(Use::Blob, *expected)])?;
        let temp = Temp::new(&self.blob_folder(expected)?)?;
        temp.file.write_all_at(bytes, 0).at("write", temp.path())?;
        // Mostly nothing is there, or nobody had asked for it. A blob that is there is verified: the right bytes must heal it.
        if !self.seal(temp, expected, REPLICA)? {
            self.put_bytes(bytes)?;
        }
        Ok(Received::Stored)
    }

    fn receive_wrong(&self, expected: &Digest, bytes: &[u8]) -> Result<Received, StoreError> {
        let mut incoming = self.receive()?;
        incoming.write(bytes)?;
        incoming.finish(expected)
    }
}

impl Incoming {
    fn new(store: &Store, temp: Temp) -> Self {
        Self {
            store: store.clone(),
            temp,
            hasher: Box::default(),
            size: 0,
            rights: OWN,
        }
    }

    /// Whoever sends the blob keeps it: here it is a copy that may be lost, and lent to a node.
    pub fn set_replica(&mut self) {
        self.rights = REPLICA;
    }

    /// Hashes what another process had received.
    fn take_in_what_is_there(&mut self) -> Result<(), StoreError> {
        let path = self.temp.path();
        let meta = self.temp.file.metadata().at("read", path)?;
        if meta.len() == 0 {
            return Ok(());
        }
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = (&self.temp.file).read(&mut buffer).at("read", path)?;
            if n == 0 {
                return Ok(());
            }
            self.hasher.update(&buffer[..n]);
            self.size += n as u64;
        }
    }

    /// Makes sure that there is room for a blob of so many bytes in all, before the disk is filled up with a part of it.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`] where there is not.
    pub fn expect(&self, size: u64) -> Result<(), StoreError> {
        let path = self.temp.path();
        let disk = Disk::of_file(&self.temp.file).at("look at the disk of", path)?;
        if size.saturating_sub(self.size) > disk.free {
            return Err(StoreError::DiskFull {
                op: "receive a blob in",
                path: path.to_path_buf(),
            });
        }
        Ok(())
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        let Self {
            hasher, temp, size, ..
        } = self;
        let write = || match is_hole(piece) {
            true => Ok(()),
            false => temp.file.write_all_at(piece, *size),
        };
        let written = if piece.len() < BESIDE {
            hasher.update(piece);
            write()
        } else {
            // The writing stays with this thread: it may wait for the disk, and those of the pool are for computing.
            rayon_core::in_place_scope(|scope| {
                scope.spawn(|_| {
                    hasher.update(piece);
                });
                write()
            })
        };
        written.at("write", temp.path())?;
        *size += piece.len() as u64;
        Ok(())
    }

    /// Bytes received so far: where a transfer that was cut goes on.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Forgets what was received: it is had again from elsewhere.
    ///
    /// # Errors
    /// When the temporary file cannot be emptied.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        self.hasher.reset();
        self.size = 0;
        self.temp.file.set_len(0).at("write", self.temp.path())
    }

    /// Ends a blob. It is visible from here on where its digest is `expected`, and durable once a commit names it.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub fn finish(self, expected: &Digest) -> Result<Received, StoreError> {
        let found = Digest(*self.hasher.finalize().as_bytes());
        self.end_with_hole()?;
        if found != *expected {
            self.keep_as_evidence(expected)?;
            return Ok(Received::Wrong(found));
        }
        // A blob that is there is verified: the right bytes must heal a damaged one.
        if !self.store.claim(expected)? {
            self.store.blob_folder(expected)?;
            self.store.seal(self.temp, expected, self.rights)?;
        }
        Ok(Received::Stored)
    }

    /// A file that ends with a hole gets its length.
    fn end_with_hole(&self) -> Result<(), StoreError> {
        let path = self.temp.path();
        let meta = self.temp.file.metadata().at("read", path)?;
        if meta.size() != self.size {
            self.temp.file.set_len(self.size).at("write", path)?;
        }
        Ok(())
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

fn is_hole(piece: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    piece.len() >= HOLE
        && piece
            .chunks(ZEROS.len())
            .all(|part| *part == ZEROS[..part.len()])
}
