//! Blobs over real connections on the loopback: what arrives, and what does when peers, networks and disks do not behave.

mod faults;
pub(crate) mod kit;
mod serving;
mod transfers;
