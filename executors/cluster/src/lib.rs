//! The gRPC cluster: a coordinator, workers on many hosts, and the blobs between them.
//!
//! What the parts are to each other stands in `docs/design/cluster.md`.

#![forbid(unsafe_code)]

pub mod runs;
pub mod security;
