//! What people and scripts see of a run afterwards.
//!
//! Owns: folds of [`RunState`](dagrun_events::RunState) into the JSON of `dagrun show` ([`show`]), statistics by job
//! ([`statistics`]), a summary for a screen ([`summary`]), JUnit ([`junit`]), GitHub annotations ([`annotations`]) and Chrome traces ([`chrome_trace`]).
//!
//! Knows nothing of files, terminals or how runs are made: journals come in as a fold, texts go out. Text of nodes is escaped
//! for the format that it goes into.

#![forbid(unsafe_code)]

mod annotations;
mod escape;
mod junit;
mod show;
mod statistics;
mod text;
mod trace;

pub use annotations::annotations;
pub use escape::{escape_line, escape_text};
pub use junit::junit;
pub use show::show;
pub use statistics::{JobStatistics, Statistics, statistics};
pub use text::summary;
pub use trace::chrome_trace;
