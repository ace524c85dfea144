//! What every executor is: it takes attempts and says how they end.
//!
//! Owns: the [`Executor`] trait, its events, and (in `conformance`) the suite that every executor runs. Knows nothing of
//! plans, schedulers or journals. An executor never retries, never reorders by itself and never decides where a node goes.

#![forbid(unsafe_code)]

pub mod conformance;

use std::{fmt, sync::Arc, time::Duration};

use dagrun_model::{
    ActionDigest, AttemptId, AttemptResult, AttemptSpec, Digest, HostIx, Resources, WorkerIx,
    format_bytes,
};
use tokio::sync::mpsc::UnboundedSender;

/// Runs attempts on the workers that it announces.
///
/// Guarantees: every submitted attempt ends exactly once by [`ExecutorEvent::Ended`] (also when it is cancelled, or its worker
/// is lost, or the executor is shut down); nothing that an attempt started is left running after it ended; blobs of a
/// success are in the store of its host, though not yet durable.
pub trait Executor: Send + Sync {
    /// Begins to announce workers and ends of attempts to `events`. Called once, before anything else.
    fn start(&self, events: UnboundedSender<ExecutorEvent>);

    /// Takes attempts for a worker. Never blocks.
    fn submit(&self, worker: WorkerIx, attempts: Vec<AttemptSpec>);

    /// Stops attempts: TERM and, after the grace time, KILL; or KILL at once. Unknown attempts are ignored.
    fn cancel(&self, attempts: &[AttemptId], kill: bool);

    /// Gives attempts back that have not begun: each ends as [`Cancelled`](dagrun_model::Outcome::Cancelled) without
    /// [`ExecutorEvent::Started`]. Those that have begun go on. An executor that holds none ahead need not do anything.
    fn recall(&self, _attempts: &[AttemptId]) {}

    /// Gives attempts back whose workers have not been told of them, since others have the room that they wait for: each ends as
    /// [`Cancelled`](dagrun_model::Outcome::Cancelled). The rest goes on. An executor that nobody else uses need not do anything.
    fn withdraw(&self, _attempts: &[AttemptId]) {}

    /// The results of these attempts are durable, or will never be wanted: whoever keeps them may forget them. Unknown attempts are
    /// ignored. Told once for each attempt that ended, some time after [`ExecutorEvent::Ended`].
    fn settled(&self, _attempts: &[AttemptId]) {}

    /// Whether a blob of a result is durable on the host where it was made, so that it need not be here; for a tree, with all its
    /// files. Never blocks. An executor that shares the store of whoever uses it need not do anything.
    fn holds(&self, _blob: &Digest) -> bool {
        false
    }

    /// How long nodes that no worker can take wait for one that can, before the run is given up. Where workers come and go, those that
    /// are there are told of one after the other, and may be back in a moment.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    /// Whether workers may come that hold attempts of former drivers of the run: then [`ExecutorEvent::Rejoined`] says when all that
    /// may come have.
    fn may_rejoin(&self) -> bool {
        false
    }

    /// Takes over attempts that a worker holds, as [`WorkerInfo::held`] told of them. From now on they are attempts like those that
    /// were submitted, under the numbers that they have: each ends exactly once. What has been told of is kept until it is taken over or
    /// disowned, or the run is over.
    fn adopt(&self, _worker: WorkerIx, _attempts: Vec<HeldAttempt>) {}

    /// Ends held attempts that nobody wants. Nothing is told of them.
    fn disown(&self, _attempts: Vec<HeldAttempt>) {}

    /// Ends all attempts (KILL) and frees what it holds. Returns when nothing is left running. May block.
    fn shutdown(&self);
}

/// What an executor says.
#[derive(Clone, Debug, PartialEq)]
pub enum ExecutorEvent {
    /// A worker is there.
    WorkerJoined(WorkerInfo),
    /// Workers that former drivers of the run had given something have had their time to come back: whoever has not is lost.
    Rejoined,
    /// What others than this run have of workers from now on; nothing of those that were never named. What is submitted there all the
    /// same waits until it is the run's turn.
    TakenByOthers(Vec<(WorkerIx, Resources)>),
    /// A worker takes nothing new.
    WorkerDraining(WorkerIx),
    /// A worker is gone; its attempts end as lost.
    WorkerLost(WorkerIx, String),
    /// The disk of a worker had no room for an attempt; or, with `None`, it has room again. Told before that attempt's end, and of a
    /// worker without room before it is told to be there.
    WorkerDisk(WorkerIx, Option<FullDisk>),
    /// The process of an attempt runs.
    Started(AttemptId),
    /// These blobs were fetched for an attempt: they are on its host too from now on. Told before its end.
    Fetched(AttemptId, HostIx, Vec<Digest>),
    /// An attempt ended.
    Ended(AttemptId, Box<AttemptResult>),
    /// Something about a worker that a person should know, in a sentence without its end. No attempt has to do with it.
    Warning(String),
}

/// A disk that had no room for an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullDisk {
    /// A folder on it.
    pub folder: String,
    /// Bytes free when it was looked at after that.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
    /// There was room, but not for one more file.
    pub no_inodes: bool,
}

impl fmt::Display for FullDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { folder, .. } = self;
        if self.no_inodes {
            return write!(f, "`{folder}` can take no more files (no inodes are free)");
        }
        let (free, total) = (format_bytes(self.free), format_bytes(self.total));
        write!(f, "`{folder}` has {free} of {total} free")
    }
}

/// A worker as it introduces itself.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerInfo {
    /// Its id, unique in a run.
    pub worker: WorkerIx,
    /// Its host.
    pub host: HostIx,
    /// The host's name.
    pub host_name: String,
    /// What it has for nodes.
    pub capacity: Resources,
    /// The executor profile it serves; `None` for the default.
    pub profile: Option<String>,
    /// How many attempts it may be given beyond what it has room for. It begins them in their order, each when there is room.
    pub ahead: u32,
    /// How fast it is, in thousandths of a common reference: what a node takes there is weighed by it.
    pub speed: u32,
    /// Tells its process from all others, also over restarts of whoever sees it; empty where nothing of it outlives that.
    pub process: String,
    /// What it has of former drivers of the run.
    pub held: Vec<HeldAttempt>,
}

/// An attempt that a former driver of a run gave to a worker, and that still runs there or whose result is kept there.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldAttempt {
    /// The run as which it was started.
    pub run: Arc<str>,
    /// Its number there.
    pub attempt: AttemptId,
    /// What it does, as the worker says.
    pub action: ActionDigest,
    /// What it takes.
    pub resources: Resources,
    /// Its process ran or runs.
    pub began: bool,
    /// For how long it has run, in microseconds.
    pub ran: u64,
}
