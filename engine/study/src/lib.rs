//! Studies: ask and tell without a barrier.
//!
//! Owns: the resolved space, the history of told trials, the samplers, the order policies, and the state machine that says
//! which trial comes next and when a study has ended.
//!
//! Knows nothing of files, clocks, nodes, processes or how a trial is run: trials end by events, and what is to be kept
//! leaves as records.

#![forbid(unsafe_code)]

mod history;
pub mod sampler;
mod space;

pub use history::{History, Told};
pub use space::{Distribution, Parameter, Space};
