//! What coordinator and worker say to each other, as both state machines see it.
//!
//! Owns: the messages of the `Workers` stream in the project's own types. Knows nothing of protobuf: `wire` turns one into
//! the other.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use dagrun_executor_api::FullDisk;
use dagrun_model::{ActionDigest, AttemptId, AttemptResult, AttemptSpec, Digest, Resources};
use prost::bytes::Bytes;

/// A process that is a worker, for as long as it lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub [u8; 16]);

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// An attempt, over all runs of a coordinator.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AttemptRef {
    /// The id of the run.
    pub run: Arc<str>,
    /// The attempt in the run.
    pub attempt: AttemptId,
}

/// What a worker is; the same on every connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The version of dagrun.
    pub version: String,
    /// Operating system and architecture.
    pub platform: Platform,
    /// For people.
    pub name: String,
    /// Workers with the same id share a blob store.
    pub host: String,
    /// The process.
    pub incarnation: Incarnation,
    /// What it has for nodes.
    pub capacity: Resources,
    /// What a person said of it.
    pub labels: BTreeMap<String, String>,
    /// The executor profile that it serves; `None` for the default.
    pub profile: Option<String>,
    /// Where its blobs are served, as `HOST:PORT`; empty where they are not.
    pub blobs: String,
    /// Speed in thousandths of the reference machine.
    pub speed: u32,
    /// How many attempts it may hold beyond what it has room for.
    pub ahead: u32,
    /// The boot id of its machine.
    pub boot: String,
    /// Its process id.
    pub pid: u32,
}

#[cfg(test)]
impl Identity {
    /// A worker of the tests: nothing but its names, and no room for nodes.
    pub(crate) fn named(name: &str, host: &str, incarnation: Incarnation) -> Self {
        Self {
            version: "1".into(),
            platform: Platform::here(),
            name: name.into(),
            host: host.into(),
            incarnation,
            capacity: Resources::none(),
            labels: BTreeMap::new(),
            profile: None,
            blobs: String::new(),
            speed: 1000,
            ahead: 0,
            boot: String::new(),
            pid: 1,
        }
    }
}

/// Operating system and architecture, in Rust's words for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Such as `linux`.
    pub os: String,
    /// Such as `x86_64`.
    pub arch: String,
}

impl Platform {
    /// What this program was built for.
    pub fn here() -> Self {
        Self {
            os: std::env::consts::OS.into(),
            arch: std::env::consts::ARCH.into(),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.os, self.arch)
    }
}

/// What a worker says.
#[derive(Clone, Debug, PartialEq)]
pub enum FromWorker {
    /// First on every connection.
    Hello(Box<Hello>),
    /// It is there.
    Beat(Beat),
    /// What became of attempts.
    Progress(Progress),
    /// It takes nothing new and goes; why.
    Leaving(String),
}

/// How a worker introduces itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Hello {
    /// Who it is.
    pub worker: Arc<Identity>,
    /// The highest epoch of a coordinator that it has heard of; 0 for none.
    pub epoch: u64,
    /// Attempts that it holds.
    pub held: Vec<Held>,
}

/// An attempt that a worker holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// Which.
    pub attempt: AttemptRef,
    /// What it does.
    pub action: ActionDigest,
    /// A process of it was started.
    pub started: bool,
    /// It ended, and its result was not settled.
    pub ended: bool,
    /// What it takes of the worker.
    pub resources: Resources,
    /// What it takes of the limits over all workers, as the coordinator said when it gave it.
    pub limited: BTreeMap<String, u64>,
    /// For how long it has run.
    pub ran: Duration,
}

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Tells questions apart.
    pub number: u64,
    /// It answers the one of this number.
    pub answer: bool,
    /// Of a worker: bytes free where its blobs are.
    pub free_bytes: u64,
    /// Likewise: the disk that had no room for an attempt, until it has.
    pub full: Option<FullDisk>,
}

/// What became of attempts since the last word.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Their processes run.
    pub started: Vec<AttemptRef>,
    /// They ended.
    pub ended: Vec<Ended>,
}

/// The end of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// Which.
    pub attempt: AttemptRef,
    /// How. The blobs of a success are durable in the worker's store.
    pub result: Arc<AttemptResult>,
    /// What came with it.
    pub extra: Arc<Extra>,
}

/// What a worker tells beside a result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extra {
    /// Small blobs of the result.
    pub blobs: Vec<(Digest, Bytes)>,
    /// Blobs that were fetched for its inputs: they are on the worker's host now.
    pub fetched: Vec<Digest>,
    /// Bytes that were fetched.
    pub fetched_bytes: u64,
}

/// What a coordinator says.
#[derive(Clone, Debug, PartialEq)]
pub enum ToWorker {
    /// The answer to a hello.
    Welcome(Welcome),
    /// Likewise, of one that cannot be taken.
    Refused(Refusal),
    /// It is there.
    Beat(Beat),
    /// Attempts to run.
    Start(Vec<StartAttempt>),
    /// Attempts to stop.
    Stop(Vec<AttemptRef>, How),
    /// Results of these are durable, or not wanted.
    Settled(Vec<AttemptRef>),
    /// Take nothing new and go; why.
    Leave(String),
}

/// On what terms a worker was taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Welcome {
    /// The coordinator's epoch: grows with every start of it.
    pub epoch: u64,
    /// Without a word for so long the other side counts as gone.
    pub lease: Duration,
    /// How often to say something.
    pub beat: Duration,
    /// The worker's number, for logs.
    pub worker: u32,
    /// Held attempts that are to end: nobody waits for them.
    pub drop: Vec<AttemptRef>,
    /// Held attempts whose results were settled.
    pub settled: Vec<AttemptRef>,
}

/// Why a worker was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// In words, with the remedy.
    pub reason: String,
    /// Another try later may help.
    pub retry: bool,
}

/// An attempt to run.
#[derive(Clone, Debug, PartialEq)]
pub struct StartAttempt {
    /// Which.
    pub attempt: AttemptRef,
    /// What to do.
    pub spec: Arc<AttemptSpec>,
    /// What it takes of the limits over all workers: no matter of the worker, which says it again in [`Held`].
    pub limited: BTreeMap<String, u64>,
    /// Where its input blobs may be had besides the coordinator.
    pub sources: Vec<(Digest, Vec<Arc<str>>)>,
}

/// How to stop an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// Only if it has not begun.
    Recall,
    /// TERM, and KILL after the grace time.
    Terminate,
    /// KILL.
    Kill,
}
