//! What people and scripts see of a run afterwards.
//!
//! Owns: folds of [`RunState`](dagrun_events::RunState) into the JSON of `dagrun show` ([`show`]), statistics by job
//! ([`statistics`]), where the time of slots went ([`slot_time`]), runs side by side ([`comparison`]), what is
//! to come ([`forecast()`]), a summary for a screen ([`summary`]), JUnit ([`junit`]), GitHub annotations ([`annotations`]), Chrome traces
//! ([`chrome_trace`]) and a page ([`html()`]) with its data ([`report`]); and the pieces of text that all of them share.
//!
//! Knows nothing of files, terminals or how runs are made: journals come in as a fold, texts go out. Text of nodes is escaped
//! for the format that it goes into.

#![forbid(unsafe_code)]

mod annotations;
mod compare;
mod data;
mod escape;
mod forecast;
mod html;
mod junit;
#[cfg(test)]
mod kit;
mod scale;
mod show;
mod slots;
mod statistics;
mod study;
mod text;
mod timeline;
mod trace;
mod words;

pub use annotations::annotations;
pub use compare::{Figures, Rate, comparison, comparison_text, figures, unlike};
pub use data::report;
pub use escape::{escape_line, escape_text};
pub use forecast::{Forecast, JobWork, forecast};
pub use html::{EarlierTrial, html};
pub use junit::junit;
pub use scale::{Scale, mark_text};
pub use show::show;
pub use slots::{SlotCause, SlotTime, slot_time};
pub use statistics::{
    JobStatistics, Statistics, attempts_text, failure_groups, job_of, loss_groups, quantile,
    statistics,
};
pub use study::{pace_number, pace_text, some_trials, study_text, trial_failures, trials_ended};
pub use text::{job_table, summary};
pub use trace::chrome_trace;
pub use words::{first_of, params_flags, plural, plural_of, rerun_command, shell_word, table};
