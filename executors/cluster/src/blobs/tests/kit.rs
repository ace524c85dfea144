//! Hosts for tests: stores that are served on the loopback, peers that misbehave, and fetchers.

use std::{
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use dagrun_model::Digest;
use dagrun_proto::v1::{
    BlobChunk, FindBlobs, FoundBlobs, ReadBlobs, SpareBlobs, SparedBlobs, WrittenBlobs,
    blobs_server::{Blobs, BlobsServer},
};
use dagrun_store::{Store, StoreOptions};
use futures_util::{Stream, StreamExt};
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming, transport::Server};

use crate::{
    blobs::{BlobService, FetchOptions, Fetcher, Hints, Peer, Peers},
    security::Connector,
};

/// A runtime, and a folder for stores.
pub(crate) struct World {
    pub(crate) runtime: Runtime,
    folder: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        Self {
            runtime: runtime.worker_threads(2).enable_all().build().unwrap(),
            folder: dagrun_testkit::scratch(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn store(&self, name: &str) -> Store {
        Store::open(&self.path().join(name), StoreOptions::default()).unwrap()
    }

    /// Serves blobs until the world ends.
    pub(crate) fn serve(&self, service: impl Blobs) -> SocketAddr {
        let listener = self
            .runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder()
            .add_service(BlobsServer::new(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        self.runtime.spawn(server);
        address
    }

    pub(crate) fn serve_store(&self, store: &Store) -> Peer {
        peer(self.serve(BlobService::new(store.clone())))
    }

    pub(crate) fn peers(&self, coordinator: Option<Peer>) -> Peers {
        Peers::new(Connector::open(None, None).unwrap(), coordinator)
    }

    /// A fetcher that knows nothing yet.
    pub(crate) fn fetcher(&self, coordinator: Option<Peer>) -> (Fetcher, Arc<Hints>) {
        self.impatient(coordinator, Duration::from_secs(20))
    }

    /// One that gives up peers which say nothing for so long.
    pub(crate) fn impatient(
        &self,
        coordinator: Option<Peer>,
        stall: Duration,
    ) -> (Fetcher, Arc<Hints>) {
        let peers = self.peers(coordinator.clone());
        let hints = Arc::new(Hints::new(peers.clone(), coordinator.clone()));
        let options = FetchOptions {
            stall,
            ..FetchOptions::default()
        };
        let runtime = self.runtime.handle().clone();
        let fetcher = Fetcher::new(runtime, peers, hints.clone(), coordinator, options);
        (fetcher, hints)
    }

    pub(crate) fn bring(&self, fetcher: &Fetcher, store: &Store, blobs: &[Digest]) {
        self.runtime.block_on(fetcher.bring(store, blobs)).unwrap();
    }
}

pub(crate) fn peer(address: SocketAddr) -> Peer {
    address.to_string().into()
}

/// Bytes that do not compress, different for each seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let key = blake3::hash(&seed.to_le_bytes());
    blake3::Hasher::new_keyed(key.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// No temporary file is left anywhere in a store.
pub(crate) fn assert_clean(store: &Store) {
    let mut folders = vec![store.root().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            assert!(!name.starts_with(".tmp-"), "{name} is left");
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    assert!(store.verify(false).unwrap().is_sound());
}

/// What a peer does with the chunk of this number of the request of that number.
pub(crate) type Rule = dyn Fn(usize, usize, BlobChunk) -> Mischief + Send + Sync;

/// What a peer does with a chunk.
pub(crate) enum Mischief {
    Send(BlobChunk),
    /// Ends the stream with an error.
    Break,
    /// Ends it as if all had been sent.
    End,
    /// Says nothing more, and leaves the stream open.
    Stall,
}

/// A peer whose chunks go through a rule. Counts what it sends.
#[derive(Clone)]
pub(crate) struct Bad {
    service: BlobService,
    rule: Arc<Rule>,
    pub(crate) counts: Arc<Counts>,
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) requests: AtomicUsize,
    pub(crate) bytes: AtomicU64,
    pub(crate) blobs: AtomicU64,
}

impl Bad {
    pub(crate) fn new(
        store: &Store,
        rule: impl Fn(usize, usize, BlobChunk) -> Mischief + Send + Sync + 'static,
    ) -> Self {
        Self {
            service: BlobService::new(store.clone()),
            rule: Arc::new(rule),
            counts: Arc::default(),
        }
    }

    /// One that behaves, and is watched.
    pub(crate) fn counted(store: &Store) -> Self {
        Self::new(store, |_, _, chunk| Mischief::Send(chunk))
    }
}

#[tonic::async_trait]
impl Blobs for Bad {
    type ReadStream = Pin<Box<dyn Stream<Item = Result<BlobChunk, Status>> + Send>>;

    async fn read(
        &self,
        request: Request<ReadBlobs>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let number = self.counts.requests.fetch_add(1, Relaxed);
        let chunks = self.service.read(request).await?.into_inner();
        let (rule, counts) = (self.rule.clone(), self.counts.clone());
        let spoiled = chunks.enumerate().then(move |(at, chunk)| {
            let (rule, counts) = (rule.clone(), counts.clone());
            async move {
                match rule(number, at, chunk?) {
                    Mischief::Send(chunk) => {
                        counts.bytes.fetch_add(chunk.data.len() as u64, Relaxed);
                        counts.blobs.fetch_add(u64::from(chunk.last), Relaxed);
                        Ok(Some(chunk))
                    }
                    Mischief::Break => Err(Status::unavailable("it broke")),
                    Mischief::End => Ok(None),
                    Mischief::Stall => std::future::pending().await,
                }
            }
        });
        let until_end = spoiled
            .take_while(|item| std::future::ready(!matches!(item, Ok(None))))
            .filter_map(|item| std::future::ready(item.transpose()));
        Ok(Response::new(Box::pin(until_end)))
    }

    async fn find(&self, request: Request<FindBlobs>) -> Result<Response<FoundBlobs>, Status> {
        self.service.find(request).await
    }

    async fn write(
        &self,
        request: Request<Streaming<BlobChunk>>,
    ) -> Result<Response<WrittenBlobs>, Status> {
        self.service.write(request).await
    }

    async fn spare(&self, request: Request<SpareBlobs>) -> Result<Response<SparedBlobs>, Status> {
        self.service.spare(request).await
    }
}
