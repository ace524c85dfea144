//! The blobs of a worker: served to others, had from others, and what of them goes along with results.
//!
//! Owns a runtime of its own, so that bytes never keep the worker's own messages waiting.

use std::{
    net::{IpAddr, Ipv4Addr, ToSocketAddrs, UdpSocket},
    sync::Arc,
};

use dagrun_model::{Artifact, AttemptId, AttemptResult, Digest};
use dagrun_store::Store;
use tokio::runtime::Runtime;

use super::{
    BlobService, FetchOptions, Fetcher, Hints, Peer, Peers,
    evict::{Evictor, Needs},
    replicas::inputs_of,
    small_blobs,
};
use crate::{
    message::{Extra, StartAttempt},
    security::{Address, Connector, Error, Gate},
};

/// Threads that carry bytes.
const THREADS: usize = 2;
/// Attempts whose inputs are fetched at once before their turn comes.
const PREFETCHED: usize = 4;

/// How a worker's blobs come and go.
#[derive(Clone, Debug)]
pub struct BlobOptions {
    /// The coordinator, who is asked for what nobody else is known to have.
    pub coordinator: Address,
    /// Where to serve the store's blobs.
    pub listen: Address,
    /// The id of the host, as the worker says it.
    pub host: String,
    /// Bytes that the store's blobs may take; `None` for as many as there are.
    pub max_bytes: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub struct WorkerBlobs {
    store: Store,
    fetcher: Fetcher,
    hints: Arc<Hints>,
    address: Address,
    needs: Needs,
    /// Allows so many to be fetched for at once.
    prefetches: Arc<tokio::sync::Semaphore>,
    runtime: Option<Runtime>,
}

impl WorkerBlobs {
    /// Serves a store's blobs at an address, and fetches for it from now on what it lacks.
    ///
    /// # Errors
    /// When the address cannot be had, or may not without credentials; or when no lease can be taken in the store.
    pub fn start(
        store: &Store,
        gate: &Arc<Gate>,
        connector: Connector,
        options: BlobOptions,
    ) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("dagrun-blobs")
            .enable_all()
            .build()
            .map_err(|error| Error::settings(format!("cannot start threads for blobs: {error}")))?;
        let bound = gate.bind(&options.listen)?;
        let incoming = runtime
            .block_on(async { bound.incoming() })
            .map_err(|error| Error::settings(format!("cannot serve blobs: {error}")))?;
        let address = incoming.at().clone();
        let service = BlobService::new(store.clone()).into_server();
        let server = gate.server().add_service(service);
        runtime.spawn(async move {
            if let Err(error) = server.serve_with_incoming(incoming).await {
                tracing::error!("blobs are not served any more: {error}");
            }
        });
        let coordinator: Peer = options.coordinator.to_string().into();
        let peers = Peers::new(connector, Some(coordinator.clone()));
        let hints = Arc::new(Hints::new(peers.clone(), Some(coordinator.clone())));
        hints.set_own(address.to_string().into());
        let fetcher = Fetcher::new(
            runtime.handle().clone(),
            peers.clone(),
            hints.clone(),
            Some(coordinator.clone()),
            FetchOptions::default(),
        );
        let needs = Needs::default();
        if let Some(bytes) = options.max_bytes {
            let evictor = Evictor::new(
                store,
                bytes,
                needs.clone(),
                options.host,
                peers,
                coordinator,
            );
            let evictor = evictor.map_err(|error| Error::settings(error.to_string()))?;
            runtime.spawn(evictor.run());
        }
        store.add_source(Arc::new(fetcher.clone()));
        Ok(Self {
            store: store.clone(),
            fetcher,
            hints,
            address,
            needs,
            prefetches: Arc::new(tokio::sync::Semaphore::new(PREFETCHED)),
            runtime: Some(runtime),
        })
    }

    /// Where the blobs are served, as others are to be told.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// What was fetched so far.
    pub fn fetcher(&self) -> &Fetcher {
        &self.fetcher
    }

    /// Attempts have come: takes their hints, and fetches their inputs while others run, a few at a time in their order.
    pub(crate) fn told<'a>(&self, starts: impl Iterator<Item = (&'a StartAttempt, AttemptId)>) {
        for (start, local) in starts {
            self.hints.add(start.sources.iter().cloned());
            let inputs: Vec<Artifact> = inputs_of(&start.spec).collect();
            self.prefetch(local, &inputs);
            self.needs.add(&self.store, local, inputs);
        }
    }

    fn prefetch(&self, local: AttemptId, inputs: &[Artifact]) {
        let is_lacking = |artifact: &&Artifact| {
            let blob = artifact.blob_digest();
            blob.is_some_and(|blob| !self.store.contains(&blob))
        };
        let artifacts: Vec<Artifact> = inputs.iter().filter(is_lacking).cloned().collect();
        let Some(runtime) = self.runtime.as_ref().filter(|_| !artifacts.is_empty()) else {
            return;
        };
        let (store, prefetches) = (self.store.clone(), self.prefetches.clone());
        runtime.spawn(async move {
            let Ok(_permit) = prefetches.acquire_owned().await else {
                return;
            };
            // What cannot be had is found out again, and said, by whoever stages it.
            let brought = tokio::task::spawn_blocking(move || store.bring_artifacts(&artifacts));
            if let Ok(Err(error)) = brought.await {
                tracing::debug!("cannot fetch inputs of attempt {local} ahead: {error}");
            }
        });
    }

    /// What goes along with a result. Reads small blobs, so it may block for moments.
    pub(crate) fn extra(&self, attempt: AttemptId, result: &AttemptResult) -> Extra {
        let inputs = self.needs.remove(attempt);
        let blobs: Vec<Digest> = inputs.iter().filter_map(Artifact::blob_digest).collect();
        let (mut fetched, fetched_bytes) = self.fetcher.take_fetched(&blobs);
        // A node may have altered what it was given.
        fetched.retain(|digest| self.store.contains(digest));
        Extra {
            blobs: small_blobs(&self.store, result),
            fetched,
            fetched_bytes,
        }
    }
}

impl Drop for WorkerBlobs {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Whoever reads from here goes on elsewhere.
            runtime.shutdown_background();
        }
    }
}

/// The address of this machine by which a coordinator is reached: others of its cluster mostly reach this machine by it too.
/// Nothing is sent.
pub fn own_ip(coordinator: &Address) -> IpAddr {
    let Address::Tcp { host, port } = coordinator else {
        return Ipv4Addr::LOCALHOST.into();
    };
    let by = || {
        let to = (host.as_str(), *port).to_socket_addrs().ok()?.next()?;
        let any: IpAddr = match to.ip() {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    by().unwrap_or(Ipv4Addr::LOCALHOST.into())
}
