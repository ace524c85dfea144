//! The gRPC cluster: a coordinator, workers on many hosts, and the blobs between them.
//!
//! Owns: the protocol's meaning on both sides; what the messages are is in `dagrun-proto`, what the parts are to each other in
//! `docs/design/cluster.md`. Knows nothing of plans, schedules and journals, nor of how nodes run: the command line gives a
//! worker the executor that runs them.

#![forbid(unsafe_code)]

pub mod blobs;
pub mod message;
mod mutant;
pub mod net;
mod parts;
pub mod pool;
pub mod runs;
pub mod security;
pub mod session;
#[cfg(test)]
mod sim;
pub mod wire;
pub mod worker;
