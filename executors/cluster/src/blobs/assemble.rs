//! Chunks to blobs: what a reader does with what arrives.
//!
//! Blocks on the disk, and knows nothing of connections. Believes nothing that it is told: the digest decides.

use dagrun_model::Digest;
use dagrun_proto::v1::BlobChunk;
use dagrun_store::{Incoming, Received, Store, StoreError};

use super::CHUNK;

/// Takes the chunks of one stream.
pub(crate) struct Assembler {
    store: Store,
    /// The largest blob that is taken, in bytes.
    limit: u64,
    /// Whoever sends keeps what it sends.
    replicas: bool,
    /// What was received before of the blob that comes first.
    resumed: Option<Incoming>,
    current: Option<Current>,
    unpacked: Vec<u8>,
    unpacker: zstd::bulk::Decompressor<'static>,
}

struct Current {
    digest: Digest,
    size: u64,
    incoming: Incoming,
}

/// What a chunk led to.
#[derive(Debug)]
pub(crate) enum Step {
    /// More of the blob is to come.
    More,
    /// A blob is in the store, verified; its size.
    Stored(Digest, u64),
    /// The sender does not have it, or not any more.
    Missing(Digest),
    /// The bytes were not those of the digest.
    Wrong(Digest),
    /// Another process of this host receives it now.
    Busy(Digest),
    /// Another process of this host had received so much of it: ask for the rest.
    Resume(Digest, Incoming),
}

/// Why a stream cannot be gone on with.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The sender said something that makes no sense, or too much.
    Sender(String),
    /// A blob is said to be larger than the disk has room for.
    NoRoom(StoreError),
    /// A blob is larger than is taken here: its size in bytes.
    TooLarge(Digest, u64),
    /// The store cannot take what arrived.
    Store(StoreError),
}

impl Assembler {
    pub(crate) fn new(
        store: Store,
        limit: u64,
        replicas: bool,
        resumed: Option<Incoming>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            store,
            limit,
            replicas,
            resumed,
            current: None,
            unpacked: Vec::new(),
            unpacker: zstd::bulk::Decompressor::new()?,
        })
    }

    /// What was received of a blob whose end has not come: with it another stream can go on.
    pub(crate) fn into_partial(self) -> Option<Incoming> {
        let partial = self.current.map(|current| current.incoming);
        partial
            .or(self.resumed)
            .filter(|incoming| incoming.size() > 0)
    }

    /// The digest of the blob whose end has not come.
    pub(crate) fn is_within(&self) -> bool {
        self.current.is_some()
    }

    pub(crate) fn take(&mut self, chunk: BlobChunk) -> Result<Step, Fault> {
        if !chunk.digest.is_empty() {
            return self.begin(chunk);
        }
        let Some(mut current) = self.current.take() else {
            return Err(sender("it sent a piece of no blob"));
        };
        if chunk.missing {
            return Ok(Step::Missing(current.digest));
        }
        let taken = self.add(&mut current, &chunk);
        // Also after an error: what came before it is good as far as anybody knows.
        if taken.is_err() || !chunk.last {
            self.current = Some(current);
            return taken.map(|()| Step::More);
        }
        end(current)
    }

    fn begin(&mut self, chunk: BlobChunk) -> Result<Step, Fault> {
        if self.current.is_some() {
            return Err(sender("it began a blob before the last one had ended"));
        }
        let digest: [u8; 32] = (&*chunk.digest)
            .try_into()
            .map_err(|_| sender("it named a blob by other than 32 bytes"))?;
        let digest = Digest(digest);
        let resumed = self.resumed.take();
        if chunk.missing {
            // Somebody else may have the rest.
            self.resumed = resumed;
            return Ok(Step::Missing(digest));
        }
        if chunk.size > self.limit {
            return Err(Fault::TooLarge(digest, chunk.size));
        }
        if chunk.last && resumed.is_none() {
            return self.whole(digest, &chunk);
        }
        let incoming = match resumed {
            // More than there is: what was received before was wrong.
            Some(incoming) if incoming.size() > chunk.size => return Ok(Step::Wrong(digest)),
            Some(incoming) => incoming,
            None => match self.store.receive_alone(&digest).map_err(Fault::Store)? {
                None => return Ok(Step::Busy(digest)),
                Some(incoming) if incoming.size() > 0 => {
                    return Ok(Step::Resume(digest, incoming));
                }
                Some(incoming) => incoming,
            },
        };
        let mut current = Current {
            digest,
            size: chunk.size,
            incoming,
        };
        if self.replicas {
            current.incoming.set_replica();
        }
        current.incoming.expect(chunk.size).map_err(Fault::NoRoom)?;
        let taken = self.add(&mut current, &chunk);
        if taken.is_err() || !chunk.last {
            self.current = Some(current);
            return taken.map(|()| Step::More);
        }
        end(current)
    }

    /// A blob that came in one chunk.
    fn whole(&mut self, digest: Digest, chunk: &BlobChunk) -> Result<Step, Fault> {
        let (store, replicas) = (self.store.clone(), self.replicas);
        let bytes = self.unpack(chunk)?;
        if bytes.len() as u64 != chunk.size {
            return Err(sender("a blob had another size than it said"));
        }
        let received = match replicas {
            true => store.receive_replica(&digest, bytes),
            false => store.receive_whole(&digest, bytes),
        };
        match received {
            Ok(Received::Stored) => Ok(Step::Stored(digest, chunk.size)),
            Ok(Received::Wrong(_)) => Ok(Step::Wrong(digest)),
            Err(error) => Err(Fault::Store(error)),
        }
    }

    fn add(&mut self, current: &mut Current, chunk: &BlobChunk) -> Result<(), Fault> {
        let bytes = self.unpack(chunk)?;
        let size = current.incoming.size() + bytes.len() as u64;
        if size > current.size || (chunk.last && size != current.size) {
            return Err(sender("a blob had another size than it said"));
        }
        current.incoming.write(bytes).map_err(Fault::Store)
    }

    /// The bytes of a chunk. They never get larger than a chunk may be.
    fn unpack<'a>(&'a mut self, chunk: &'a BlobChunk) -> Result<&'a [u8], Fault> {
        if !chunk.zstd {
            return match chunk.data.len() {
                0..=CHUNK => Ok(&chunk.data),
                _ => Err(sender("a piece was larger than 1 MiB")),
            };
        }
        self.unpacked.clear();
        self.unpacked.reserve(CHUNK);
        self.unpacker
            .decompress_to_buffer(&chunk.data, &mut self.unpacked)
            .map_err(|error| sender(&format!("a piece could not be unpacked: {error}")))?;
        Ok(&self.unpacked)
    }
}

fn end(current: Current) -> Result<Step, Fault> {
    let Current {
        digest,
        size,
        incoming,
    } = current;
    match incoming.finish(&digest) {
        Ok(Received::Stored) => Ok(Step::Stored(digest, size)),
        Ok(Received::Wrong(_)) => Ok(Step::Wrong(digest)),
        Err(error) => Err(Fault::Store(error)),
    }
}

fn sender(what: &str) -> Fault {
    Fault::Sender(what.to_owned())
}
