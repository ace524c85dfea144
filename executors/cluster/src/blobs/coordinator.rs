//! The blobs of a coordinator: what it knows of replicas, what it serves, and what it gets from workers for itself.
//!
//! Owns a runtime of its own for fetching, since whoever reads from the store blocks until the bytes are there.

use std::{io, sync::Arc};

use dagrun_store::Store;
use tokio::runtime::Runtime;

use super::{BlobService, Extras, FetchOptions, Fetcher, Peers, Replicas, WriteLimits};
use crate::{pool::Witness, security::Connector};

/// Threads that carry bytes.
const THREADS: usize = 2;

/// See the module.
#[derive(Debug)]
pub struct CoordinatorBlobs {
    replicas: Replicas,
    extras: Extras,
    runtime: Option<Runtime>,
}

impl CoordinatorBlobs {
    /// Fetches from workers from now on what the coordinator's store lacks. `host` is the id of the coordinator's host, as a worker
    /// with the same store would say it.
    ///
    /// # Errors
    /// When the runtime cannot be started.
    pub fn start(store: &Store, host: String, connector: Connector) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("dagrun-blobs")
            .enable_all()
            .build()?;
        let peers = Peers::new(connector, None);
        let replicas = Replicas::new(store.clone(), host, peers.clone());
        let fetcher = Fetcher::new(
            runtime.handle().clone(),
            peers,
            Arc::new(replicas.clone()),
            None,
            FetchOptions::default(),
        );
        store.add_source(Arc::new(fetcher));
        Ok(Self {
            replicas,
            extras: Extras::default(),
            runtime: Some(runtime),
        })
    }

    /// What hears from the pool where blobs are.
    pub fn witness(&self) -> Arc<dyn Witness> {
        Arc::new(self.replicas.clone())
    }

    /// What it knows of replicas.
    pub fn replicas(&self) -> &Replicas {
        &self.replicas
    }

    /// Files that are served besides the store's blobs.
    pub fn extras(&self) -> &Extras {
        &self.extras
    }

    /// The service beside the pool's own.
    pub fn service(&self, limits: WriteLimits) -> BlobService {
        self.replicas.service(self.extras.clone(), limits)
    }
}

impl Drop for CoordinatorBlobs {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
