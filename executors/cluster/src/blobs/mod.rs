//! Blobs between hosts: who has them, how they are served, how they are had.
//!
//! Owns: the `Blobs` service over a store ([`BlobService`]), what brings blobs from others into a store ([`Fetcher`]), the
//! coordinator's knowledge of replicas ([`Replicas`]), a worker's end of it all ([`WorkerBlobs`]), and the small blobs that ride
//! along with results ([`small_blobs`]).
//! Knows nothing of attempts, schedulers or leases, and of connections only that a
//! [`Connector`](crate::security::Connector) makes them.
//!
//! Nothing that comes from another host is trusted. Whoever reads hashes what arrives on its way into a temporary file, and only
//! what has the digest that was asked for gets its name.

mod assemble;
mod chunks;
mod coordinator;
mod directory;
mod evict;
mod extras;
mod fetch;
mod flights;
mod hints;
mod inline;
mod pace;
mod peers;
mod read;
mod replicas;
mod service;
#[cfg(test)]
pub(crate) mod tests;
mod worker;

use std::{
    hash::BuildHasher,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use dagrun_model::Digest;
use rustc_hash::FxBuildHasher;
use tonic::Status;

pub use self::{
    coordinator::CoordinatorBlobs,
    directory::{Directory, HostNumber, RunNumber},
    extras::Extras,
    fetch::{FetchOptions, FetchStats, Fetcher},
    hints::{Hints, Whereabouts},
    inline::{Inlined, small_blobs, take_blobs},
    peers::{Peer, Peers},
    replicas::Replicas,
    service::{BlobService, Places, WriteLimits},
    worker::{BlobOptions, WorkerBlobs, own_ip},
};

/// The largest piece of a blob in one message, in bytes.
pub(crate) const CHUNK: usize = 1 << 20;
/// Blobs that one request may name: the digests of so many fit into a message.
pub(crate) const MOST_IN_REQUEST: usize = 65_536;

/// Reads a digest of the wire.
pub(crate) fn digest_of(bytes: &[u8]) -> Result<Digest, Status> {
    let bytes = bytes.try_into();
    bytes.map(Digest).map_err(|_| {
        Status::invalid_argument(
            "a digest of other than 32 bytes; both sides must be the same version of dagrun",
        )
    })
}

/// A digest for the wire.
pub(crate) fn wire(digest: &Digest) -> prost::bytes::Bytes {
    prost::bytes::Bytes::copy_from_slice(&digest.0)
}

/// Somewhere between half of a time and all of it, so that those who failed together do not try again together.
pub(crate) fn jitter(time: Duration) -> Duration {
    // Nanoseconds and a process id differ enough between those who are to be kept apart.
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = now.map_or(0, |since| since.as_nanos());
    let random = FxBuildHasher.hash_one((nanos, std::process::id())) as u32;
    time / 2 + (time / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
