//! The driver: the loop between plan, scheduler, store, executor and journal.
//!
//! Owns: the workspace on disk ([`Workspace`]: lock, journals, what was exported, histories of keys), the answers to the facts
//! that a plan asks for ([`facts`]), a run from its first look-up to its last export ([`run`]), what a run would do
//! ([`preview()`]) and why ([`explain()`]).
//!
//! Knows nothing of YAML, terminals or any concrete executor: it is handed a factory, and asks it only when a node has to run.
//!
//! # The order of durable things
//! A success is first in the store (blobs, then the entry of the action cache), then in the journal, and only then does the
//! scheduler hear of it. One thread writes both, and puts what waits into one write and one sync; it begins when something
//! is to be made durable or run, so that a run of hits alone is written by the driver itself and never synced. After one
//! failed sync nothing more is written: the run ends with exit code 3 and the state of the last good sync.

#![forbid(unsafe_code)]

mod board;
mod check;
mod driver;
mod elsewhere;
mod error;
mod exports;
pub mod facts;
mod given;
mod growing;
mod history;
mod journal;
mod lock;
mod own;
mod preview;
mod request;
mod restore;
mod study;
mod subscribe;
mod view;
mod workspace;

pub use check::{CheckRow, ProbeRow, RepeatRequest, Repeated, check, probe};
pub use elsewhere::{LaidOut, import_journal, lay_exports};
pub use error::{Rescore, RunError};
pub use exports::Export;
pub use given::GivenFacts;
pub use history::{History, KeyRow, PastEnd, PastRun};
pub use journal::{Loaded, load as load_journal, repair as repair_journal};
pub use lock::{Followed, Holder, WorkspaceLock};
pub use preview::{
    Cause, Difference, Explanation, NodePreview, PreviewState, bring_entries, explain, preview,
    preview_elsewhere,
};
pub use request::{
    ExecutorContext, ExecutorFactory, Failure, Force, RunOptions, RunRequest, RunSummary,
    StopHandle, StopReceiver, Without, run, stop_channel,
};
pub use study::{
    COLUMNS, Place as StudyPlace, RescoreOptions, StudyLog, StudyMode, StudyRequest, StudySummary,
    check_study, load_study, load_study_at, read_study, repair_study, state_name, write_csv,
};
pub use subscribe::{Notification, Progress, Subscriber, Subscription, subscribe};
pub use workspace::{ExportRecord, ExportedFile, Workspace};
