//! Studies: ask and tell without a barrier.
//!
//! Owns: the resolved space, the history of told trials, the samplers, the order policies, and the state machine that says
//! which trial comes next and when a study has ended.
//!
//! Knows nothing of files, clocks, nodes, processes or how a trial is run: trials end by events, and what is to be kept
//! leaves as records.

#![forbid(unsafe_code)]

mod definition;
mod describe;
mod event;
mod exact;
mod history;
mod outside;
mod replay;
mod resolve;
mod rules;
pub mod sampler;
mod space;
mod special;
mod state;
mod table;
#[cfg(test)]
mod tests;
mod unit;
mod view;

pub use definition::{Definition, Goal, Order, Stop};
pub use describe::{DefinitionText, ParameterText};
pub use event::{
    Answer, Basis, BasisPart, EndReason, FORMAT, Scores, Source, StudyAction, StudyEnd, StudyEvent,
    StudyRecord, TrialEnd,
};
pub use history::{History, Told};
pub use replay::{Kept, ReplayError};
pub use resolve::seconds;
pub use space::{Distribution, Parameter, Space};
pub use state::Study;
pub use table::{TARGETS, TrialState};
pub use view::{Best, Counts, TrialRow};
