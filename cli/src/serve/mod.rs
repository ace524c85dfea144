//! The coordinator's side of runs that clients submit: what was taken, in which order it runs, and what it tells.
//!
//! Owns: the state folder of `dagrun serve`. A run that was taken survives everything: after a crash it goes on from the action cache
//! and its study's log. Knows nothing of the network: `dagrun_cluster::runs` is in front of it.

mod host;
mod journals;
pub(crate) mod losses;
mod project;
mod registry;

pub(crate) use host::{Coordinator, Executors, RunFor, WorkersOfHost};
pub(crate) use losses::FormerLosses;
pub(crate) use registry::next_epoch;
