//! Shared caches: S3, GCS, Azure or a folder behind the local store.
//!
//! Owns: the layout of a shared cache, requests to it with their retries, signatures, and the threads that move entries and
//! blobs. What comes from there is hashed on the way into the local store and checked against the keys that are trusted; a
//! cache that is down, slow, forbids or lies makes misses and warnings, and never fails a run. Knows nothing of plans,
//! schedules or executors: it is a [`Tier`](dagrun_store::Tier) and a [`BlobSource`](dagrun_store::BlobSource) of a store.

#![forbid(unsafe_code)]

mod bulk;
mod cache;
mod health;
mod location;
mod record;
mod remote;
mod sign;

pub use crate::{
    bulk::{Moved, SharedStat, Step},
    cache::{CacheOptions, Pending, SharedCache, Traffic},
    location::Location,
    sign::{PublicKey, SigningKey},
};
