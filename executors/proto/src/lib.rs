//! The wire format of a cluster, generated from `proto/`: messages, clients and servers.
//!
//! Owns: the protobuf files and what `cargo xtask codegen` makes of them. Knows nothing of what the messages mean to either side.
//! Why it is as it is stands in `docs/design/cluster.md`.

#![forbid(unsafe_code)]

/// Version 1 of the protocol.
#[expect(
    missing_docs,
    clippy::all,
    reason = "generated; the protobuf file has the docs"
)]
pub mod v1 {
    include!("generated/dagrun.cluster.v1.rs");
}

/// The protobuf files as a `FileDescriptorSet`: what lists every call there is.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");
