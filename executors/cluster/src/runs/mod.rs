//! Runs of other people: what a client asks of a coordinator, and what the coordinator answers.
//!
//! Owns: the `Runs` and `Cluster` services in front of a [`RunHost`], and the client of both. Knows nothing of pipelines: the host
//! does the work, and records travel as the bytes that the journal has.

mod client;
mod server;

use std::sync::Arc;

use dagrun_model::ActionDigest;
use dagrun_proto::v1::{ClusterStatus, Drained, RunEnd, RunRow, Submission};
use dagrun_store::ActionEntry;

pub use client::{CallError, RunsClient};
pub use server::{ClusterService, RunsService};

/// Why a request was not done, in words for the person who asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such run or worker.
    #[error("{0}")]
    Unknown(String),
    /// The request cannot be done as it is.
    #[error("{0}")]
    Invalid(String),
    /// The coordinator has trouble of its own.
    #[error("{0}")]
    Trouble(String),
}

/// Records of a run from a position on.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Records of the journal, as JSON.
    pub records: Vec<Vec<u8>>,
    /// The position after them.
    pub next: u64,
    /// How the run ended, where it is over and no record follows.
    pub end: Option<RunEnd>,
}

/// What takes, runs and remembers runs. Its calls may block: they are made off the threads of the network.
pub trait RunHost: Send + Sync + 'static {
    /// Takes a run and gives its id. What it answers is durable. A token that was seen before gives the run that it made.
    ///
    /// # Errors
    /// When the pipeline is invalid, or blobs of the project are not there.
    fn submit(self: Arc<Self>, submission: Submission) -> Result<String, Refusal>;

    /// Some records of a run from a position on, without waiting for more.
    ///
    /// # Errors
    /// When there is no such run.
    fn records(&self, run: &str, from: u64) -> Result<Batch, Refusal>;

    /// Stops a run: by TERM to its nodes, or KILL. Durable when it returns. Says what the run was before.
    ///
    /// # Errors
    /// When there is no such run.
    fn cancel(&self, run: &str, kill: bool) -> Result<String, Refusal>;

    /// The runs, the oldest first; `all` also those that are over.
    fn list(&self, all: bool) -> Vec<RunRow>;

    /// What actions have made, in the order asked for.
    ///
    /// # Errors
    /// When the action cache does not answer.
    fn results(&self, actions: &[ActionDigest]) -> Result<Vec<Option<ActionEntry>>, Refusal>;

    /// The log of the study of a run's pipeline as it is now, with the name of its folder; none where it has none.
    ///
    /// # Errors
    /// When there is no such run, or a log cannot be read.
    fn studies(&self, run: &str) -> Result<Vec<(String, Vec<u8>)>, Refusal>;

    /// How the cluster is.
    fn status(&self) -> ClusterStatus;

    /// Lets a worker go.
    ///
    /// # Errors
    /// When there is no such worker.
    fn drain(&self, worker: &str) -> Result<Drained, Refusal>;
}
