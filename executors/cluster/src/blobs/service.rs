//! The `Blobs` service: sends blobs of a store, says which are there, and takes some where that is allowed.
//!
//! A slow reader holds back its own stream and nothing else: between two steps a stream is a few chunks in memory and an open
//! file. Files are read and written on threads that may block.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use dagrun_model::Digest;
use dagrun_proto::v1::{
    BlobChunk, BlobSource, FindBlobs, FoundBlobs, ReadBlobs, SpareBlobs, SparedBlobs, WrittenBlobs,
    blobs_server::{Blobs, BlobsServer},
};
use dagrun_store::Store;
use futures_util::{Stream, StreamExt, stream};
use rustc_hash::FxHashMap;
use tokio::{
    sync::{Semaphore, mpsc},
    task::spawn_blocking,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Extras, MOST_IN_REQUEST, Peer,
    assemble::{Assembler, Fault, Step},
    chunks::{Cursor, Shelf},
    digest_of, wire,
};

/// Streams that are read for at once; others wait.
const READS: usize = 64;
/// Streams that are taken in at once; each holds a thread.
const WRITES: usize = 16;
/// Steps of a stream that wait for its reader.
const AHEAD: usize = 2;
/// A reader or writer that does nothing for so long is given up.
const IDLE: Duration = Duration::from_secs(60);

/// What a coordinator knows of where blobs are.
pub trait Places: Send + Sync {
    /// Where these may be had, those that nobody is known to have left out. Quick.
    fn sources(&self, digests: &[Digest]) -> Vec<(Digest, Vec<Peer>)>;

    /// Which of these a host may remove from its store, those that were not used for longest first; they count as gone from
    /// there from now on. `full`: what can be made again may go too.
    fn spare(&self, host: &str, digests: &[Digest], full: bool) -> Vec<Digest>;
}

/// How much is taken by `Write`.
#[derive(Clone, Copy, Debug)]
pub struct WriteLimits {
    /// Bytes of one blob.
    pub blob: u64,
    /// Bytes of all blobs of one call.
    pub call: u64,
}

impl Default for WriteLimits {
    fn default() -> Self {
        Self {
            blob: 64 << 30,
            call: 256 << 30,
        }
    }
}

/// Serves the blobs of a store.
#[derive(Clone)]
pub struct BlobService {
    shelf: Shelf,
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    limits: Option<WriteLimits>,
    places: Option<Arc<dyn Places>>,
    relay: bool,
}

impl std::fmt::Debug for BlobService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BlobService").field(&self.shelf).finish()
    }
}

impl BlobService {
    /// Serves a worker's store: to be read, and no more.
    pub fn new(store: Store) -> Self {
        Self {
            shelf: Shelf {
                store,
                extras: Extras::default(),
            },
            reads: Arc::new(Semaphore::new(READS)),
            writes: Arc::new(Semaphore::new(WRITES)),
            limits: None,
            places: None,
            relay: false,
        }
    }

    /// Also serves files that are not in the store.
    #[must_use]
    pub fn with_extras(mut self, extras: Extras) -> Self {
        self.shelf.extras = extras;
        self
    }

    /// Also takes blobs.
    #[must_use]
    pub fn with_writes(mut self, limits: WriteLimits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Also says where others may be had.
    #[must_use]
    pub fn with_places(mut self, places: Arc<dyn Places>) -> Self {
        self.places = Some(places);
        self
    }

    /// Also gets blobs for those who ask, from the sources of the store: for a coordinator, who is asked last, by workers that
    /// may not reach each other.
    #[must_use]
    pub fn with_relay(mut self) -> Self {
        self.relay = true;
        self
    }

    /// The service for a tonic server.
    pub fn into_server(self) -> BlobsServer<Self> {
        BlobsServer::new(self)
    }
}

type Chunks = Pin<Box<dyn Stream<Item = Result<BlobChunk, Status>> + Send>>;

#[tonic::async_trait]
impl Blobs for BlobService {
    type ReadStream = Chunks;

    async fn read(&self, request: Request<ReadBlobs>) -> Result<Response<Chunks>, Status> {
        let request = request.into_inner();
        not_too_many(request.blobs.len())?;
        let wanted = request
            .blobs
            .iter()
            .map(|blob| Ok((digest_of(&blob.digest)?, blob.offset)))
            .collect::<Result<VecDeque<_>, Status>>()?;
        let cursor = Cursor::new(self.shelf.clone(), wanted, request.zstd)
            .relaying(self.relay && request.relay);
        let (sender, receiver) = mpsc::channel(AHEAD);
        tokio::spawn(send(cursor, self.reads.clone(), sender));
        let steps = ReceiverStream::new(receiver);
        let chunks = steps.flat_map(|step: Vec<BlobChunk>| stream::iter(step).map(Ok));
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn find(&self, request: Request<FindBlobs>) -> Result<Response<FoundBlobs>, Status> {
        let digests = digests_of(&request.into_inner().digests)?;
        let shelf = self.shelf.clone();
        let (here, elsewhere): (Vec<Digest>, Vec<Digest>) = spawn_blocking(move || {
            let is_here = |digest: &Digest| shelf.contains(digest);
            digests.into_iter().partition(is_here)
        })
        .await
        .map_err(internal)?;
        let known = match &self.places {
            Some(places) if !elsewhere.is_empty() => places.sources(&elsewhere),
            _ => Vec::new(),
        };
        let (sources, peers) = sources_for_the_wire(&known);
        Ok(Response::new(FoundBlobs {
            digests: here.iter().map(wire).collect(),
            sources,
            peers,
        }))
    }

    async fn write(
        &self,
        request: Request<Streaming<BlobChunk>>,
    ) -> Result<Response<WrittenBlobs>, Status> {
        let limits = self.limits.ok_or_else(|| {
            Status::unimplemented("a worker takes no blobs; write them to its coordinator")
        })?;
        let _permit = self.writes.acquire().await.map_err(internal)?;
        let store = self.shelf.store.clone();
        let (sender, receiver) = mpsc::channel(AHEAD);
        let taking = spawn_blocking(move || take_in(store, limits, receiver));
        let came_whole = pass_on(request.into_inner(), sender).await;
        // What it has to say of the blobs comes before what the connection has.
        let written = taking.await.map_err(internal)??;
        came_whole?;
        Ok(Response::new(written))
    }

    async fn spare(&self, request: Request<SpareBlobs>) -> Result<Response<SparedBlobs>, Status> {
        let request = request.into_inner();
        let digests = digests_of(&request.digests)?;
        let places = self
            .places
            .as_ref()
            .ok_or_else(|| Status::unimplemented("only a coordinator knows which blobs may go"))?;
        let spared = places.spare(&request.host, &digests, request.full);
        Ok(Response::new(SparedBlobs {
            digests: spared.iter().map(wire).collect(),
        }))
    }
}

/// Sends what a cursor gives until all is sent, or nobody reads any more.
async fn send(mut cursor: Cursor, reads: Arc<Semaphore>, sender: mpsc::Sender<Vec<BlobChunk>>) {
    let Ok(_permit) = reads.acquire_owned().await else {
        return;
    };
    loop {
        let began = Instant::now();
        let step = spawn_blocking(move || {
            let chunks = cursor.step();
            (cursor, chunks)
        });
        let Ok((back, chunks)) = step.await else {
            return;
        };
        cursor = back;
        if chunks.is_empty() {
            return;
        }
        let bytes = chunks.iter().map(|chunk| chunk.data.len()).sum();
        let made = Instant::now();
        match timeout(IDLE, sender.send(chunks)).await {
            Ok(Ok(())) => cursor.note(bytes, made - began, made.elapsed()),
            // Gone, or as good as gone: dropping the stream ends it.
            _ => return,
        }
    }
}

/// Hands on what arrives, as fast as it is taken.
async fn pass_on(
    mut chunks: Streaming<BlobChunk>,
    sender: mpsc::Sender<BlobChunk>,
) -> Result<(), Status> {
    loop {
        let next = timeout(IDLE, chunks.message()).await;
        let next = next.map_err(|_| Status::deadline_exceeded("no chunk came for a minute"))?;
        let Some(chunk) = next? else { return Ok(()) };
        if sender.send(chunk).await.is_err() {
            // The blob was refused; whoever took it says why.
            return Ok(());
        }
    }
}

fn take_in(
    store: Store,
    limits: WriteLimits,
    mut chunks: mpsc::Receiver<BlobChunk>,
) -> Result<WrittenBlobs, Status> {
    let mut assembler = Assembler::new(store, limits.blob, false, None).map_err(internal)?;
    let mut written = WrittenBlobs::default();
    let mut bytes = 0_u64;
    while let Some(chunk) = chunks.blocking_recv() {
        // Packed bytes are counted as what they may become.
        bytes += if chunk.zstd {
            super::CHUNK
        } else {
            chunk.data.len()
        } as u64;
        if bytes > limits.call.max(super::CHUNK as u64) {
            return Err(Status::resource_exhausted(format!(
                "one call may write {} bytes; write the rest with another",
                limits.call
            )));
        }
        match assembler.take(chunk).map_err(refusal)? {
            Step::More => {}
            Step::Stored(_, size) => {
                written.blobs += 1;
                written.bytes += size;
            }
            Step::Wrong(digest) => {
                return Err(Status::invalid_argument(format!(
                    "the bytes that came for blob {digest} were not its bytes; nothing of them was kept as a blob"
                )));
            }
            Step::Missing(digest) => {
                return Err(Status::invalid_argument(format!(
                    "blob {digest} was announced and not sent: the file has changed; submit again"
                )));
            }
            Step::Busy(digest) | Step::Resume(digest, _) => {
                return Err(Status::unavailable(format!(
                    "blob {digest} is just being written by another call; try again"
                )));
            }
        }
    }
    if assembler.is_within() {
        return Err(Status::invalid_argument(
            "the last blob did not come to its end",
        ));
    }
    Ok(written)
}

fn refusal(fault: Fault) -> Status {
    match fault {
        Fault::Sender(what) => Status::invalid_argument(what),
        Fault::TooLarge(digest, size) => Status::resource_exhausted(format!(
            "blob {digest} of {size} bytes is larger than what is taken here"
        )),
        Fault::NoRoom(error) | Fault::Store(error) => {
            Status::resource_exhausted(format!("the coordinator cannot keep the blob: {error}"))
        }
    }
}

fn digests_of(digests: &[prost::bytes::Bytes]) -> Result<Vec<Digest>, Status> {
    not_too_many(digests.len())?;
    digests.iter().map(|digest| digest_of(digest)).collect()
}

fn not_too_many(blobs: usize) -> Result<(), Status> {
    if blobs <= MOST_IN_REQUEST {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "a request may name {MOST_IN_REQUEST} blobs, not {blobs}"
    )))
}

/// Digests with positions in a list of peers, each of whom is in it once.
pub(crate) fn sources_for_the_wire(
    known: &[(Digest, Vec<Peer>)],
) -> (Vec<BlobSource>, Vec<String>) {
    let mut peers: Vec<String> = Vec::new();
    let mut numbers: FxHashMap<&str, u32> = FxHashMap::default();
    let mut sources = Vec::with_capacity(known.len());
    for (digest, holders) in known {
        let mut listed = Vec::with_capacity(holders.len());
        for holder in holders {
            let number = *numbers.entry(holder).or_insert_with(|| {
                peers.push(holder.to_string());
                peers.len() as u32 - 1
            });
            listed.push(number);
        }
        sources.push(BlobSource {
            digest: wire(digest),
            peers: listed,
        });
    }
    (sources, peers)
}

fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}
