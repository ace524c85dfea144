//! Studies as a run sees them: their log, the table of their trials, samplers in other processes.

mod basis;
mod external;
mod facts;
mod log;
mod open;
mod table;

pub use log::{StudyLog, load_study, load_study_at, read_study, repair_study};
pub use open::{Place, RescoreOptions, StudyMode, StudyRequest, StudySummary, check_study};
pub use table::{COLUMNS, state_name, write_csv};

pub(crate) use basis::basis;
pub(crate) use external::{ExternalSampler, Word, hello, optuna_command};
pub(crate) use facts::FactCache;
pub(crate) use log::{LogWriter, encode};
pub(crate) use open::{Opened, plan_again, plan_trial, widest, write_table};
