//! Length-prefixed frames, as many wire protocols use them.
//!
//! Feature `compression` adds a run-length code for payloads, and feature `tls` the list of protocol names that a client
//! offers while it opens a TLS connection (ALPN, RFC 7301). Neither needs another crate.

#![forbid(unsafe_code)]

#[cfg(feature = "tls")]
pub mod alpn;
pub mod frame;
#[cfg(feature = "compression")]
pub mod rle;
