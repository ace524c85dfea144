//! Blobs to chunks: what a server sends for a request, a step at a time.
//!
//! Blocks on the disk, and knows nothing of connections: between two steps nothing is held but an open file.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    time::{Duration, Instant},
};

use dagrun_model::Digest;
use dagrun_proto::v1::BlobChunk;
use dagrun_store::Store;
use prost::bytes::Bytes;
use rustix::buffer::spare_capacity;

use super::{
    CHUNK, Extras,
    extras::OpenExtra,
    pace::{Pace, Sample},
    wire,
};

/// Chunks that one step makes at most.
const STEP: usize = 256;
/// Less than this is not compressed.
const SMALLEST: usize = 512;
/// As much of a blob tells whether compressing it pays.
const SAMPLE: usize = 64 << 10;
/// Much slower levels would gain a few per cent.
const LEVEL: i32 = 1;

/// Where a server finds blobs. A clone is the same.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    pub(crate) store: Store,
    pub(crate) extras: Extras,
}

impl Shelf {
    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        self.store.contains(digest) || self.extras.open(digest).is_some()
    }

    fn open(&self, digest: &Digest) -> Option<Source> {
        match self.store.open_here(digest) {
            Ok((file, size)) => return Some(Source::Blob(file, size)),
            Err(error) if error.is_lost_blob() => {}
            Err(error) => tracing::warn!("cannot serve a blob: {error}"),
        }
        self.extras.open(digest).map(Source::Extra)
    }
}

#[derive(Debug)]
enum Source {
    Blob(File, u64),
    Extra(OpenExtra),
}

impl Source {
    fn file(&self) -> &File {
        match self {
            Self::Blob(file, _) => file,
            Self::Extra(extra) => &extra.file,
        }
    }

    fn size(&self) -> u64 {
        match self {
            Self::Blob(_, size) => *size,
            Self::Extra(extra) => extra.size,
        }
    }

    /// A file of the workspace that changed while it was sent is as good as gone.
    fn is_unchanged(&self) -> bool {
        match self {
            Self::Blob(..) => true,
            Self::Extra(extra) => extra.is_unchanged(),
        }
    }
}

/// The blob that is being sent.
#[derive(Debug)]
struct Current {
    source: Source,
    at: u64,
    squeeze: Squeeze,
}

/// Whether a blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Squeeze {
    Unknown,
    Never,
    Tried(Sample),
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Cursor {
    shelf: Shelf,
    wanted: VecDeque<(Digest, u64)>,
    current: Option<Current>,
    zstd: bool,
    /// Blobs that are not here are had from elsewhere first.
    relay: bool,
    pace: Pace,
}

impl Cursor {
    /// The blobs are sent in this order, each from its offset on.
    pub(crate) fn new(shelf: Shelf, wanted: VecDeque<(Digest, u64)>, zstd: bool) -> Self {
        Self {
            shelf,
            wanted,
            current: None,
            zstd,
            relay: false,
            pace: Pace::default(),
        }
    }

    /// Gets what is not here from elsewhere, as the store's sources allow.
    pub(crate) fn relaying(mut self, relay: bool) -> Self {
        self.relay = relay;
        self
    }

    /// So many bytes of the last step took so long to make, and waited so long for the reader.
    pub(crate) fn note(&mut self, bytes: usize, worked: Duration, waited: Duration) {
        self.pace.note(bytes, worked, waited);
    }

    /// The next chunks: many small blobs, or a piece of a large one. None when all was sent.
    pub(crate) fn step(&mut self) -> Vec<BlobChunk> {
        if std::mem::take(&mut self.relay) {
            self.bring();
        }
        let mut chunks = Vec::new();
        let mut bytes = 0;
        while bytes < CHUNK && chunks.len() < STEP {
            let Some(chunk) = self.next() else { break };
            bytes += chunk.data.len();
            chunks.push(chunk);
        }
        chunks
    }

    fn bring(&self) {
        let digests = self.wanted.iter().map(|(digest, _)| *digest);
        let elsewhere = digests.filter(|digest| !self.shelf.extras.knows(digest));
        if let Err(error) = self.shelf.store.bring(&elsewhere.collect::<Vec<_>>()) {
            tracing::warn!("cannot get blobs for a worker: {error}");
        }
    }

    fn next(&mut self) -> Option<BlobChunk> {
        if let Some(current) = self.current.take() {
            return Some(self.piece(current));
        }
        let (digest, offset) = self.wanted.pop_front()?;
        let Some(source) = self.shelf.open(&digest) else {
            return Some(BlobChunk {
                digest: wire(&digest),
                missing: true,
                ..BlobChunk::default()
            });
        };
        let size = source.size();
        let first = self.piece(Current {
            source,
            at: offset.min(size),
            squeeze: Squeeze::Unknown,
        });
        Some(BlobChunk {
            digest: wire(&digest),
            size,
            ..first
        })
    }

    /// The next piece of a blob; keeps the blob where more is left.
    fn piece(&mut self, mut current: Current) -> BlobChunk {
        let size = current.source.size();
        let length = (size - current.at).min(CHUNK as u64);
        let read = read_at(current.source.file(), current.at, length as usize);
        current.at += length;
        let last = current.at == size;
        let data = match read {
            Ok(data) if !last || current.source.is_unchanged() => data,
            // Shorter than it was, or unreadable: whoever reads has it elsewhere.
            _ => {
                return BlobChunk {
                    missing: true,
                    ..BlobChunk::default()
                };
            }
        };
        let (data, zstd) = self.pack(data, &mut current.squeeze);
        if !last {
            self.current = Some(current);
        }
        BlobChunk {
            data,
            zstd,
            last,
            ..BlobChunk::default()
        }
    }

    /// Compresses where that pays.
    fn pack(&self, data: Vec<u8>, squeeze: &mut Squeeze) -> (Bytes, bool) {
        if !self.zstd || data.len() < SMALLEST || self.pace.network().is_none() {
            return (data.into(), false);
        }
        if *squeeze == Squeeze::Unknown {
            let part = &data[..data.len().min(SAMPLE)];
            *squeeze = compress(part).map_or(Squeeze::Never, |(_, sample)| Squeeze::Tried(sample));
        }
        let Squeeze::Tried(sample) = *squeeze else {
            return (data.into(), false);
        };
        if !self.pace.pays(sample) {
            return (data.into(), false);
        }
        match compress(&data) {
            Some((packed, sample)) => {
                *squeeze = Squeeze::Tried(sample);
                (packed.into(), true)
            }
            None => {
                *squeeze = Squeeze::Never;
                (data.into(), false)
            }
        }
    }
}

/// `None` where it does not get smaller.
fn compress(data: &[u8]) -> Option<(Vec<u8>, Sample)> {
    let began = Instant::now();
    let packed = zstd::bulk::compress(data, LEVEL).ok()?;
    let seconds = began.elapsed().as_secs_f64().max(1e-9);
    let sample = Sample {
        ratio: packed.len() as f64 / data.len() as f64,
        speed: data.len() as f64 / seconds,
    };
    (packed.len() < data.len()).then_some((packed, sample))
}

fn read_at(file: &File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut data = Vec::with_capacity(length);
    // Not zeroed before: all of it is written over.
    while data.len() < length {
        let from = at + data.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut data), from) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    data.truncate(length);
    Ok(data)
}
