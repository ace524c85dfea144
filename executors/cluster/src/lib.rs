//! The gRPC cluster.
#![forbid(unsafe_code)]
