//! How attempts end. A failure is a value that carries its cause, never a panic or an `Err`.

use std::fmt;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::{Artifact, BlobRef, RetryCause, format_bytes_alike};

/// The end of an attempt, with what it used whether it succeeded or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptResult {
    /// How it ended.
    pub outcome: Outcome,
    /// Where its time went.
    pub phases: Phases,
    /// What its process tree used.
    pub usage: Usage,
    /// What its host's shortages took from it.
    #[serde(default, skip_serializing_if = "Pressure::is_none")]
    pub pressure: Pressure,
    /// Its standard output, where any was written and it is not an output.
    pub stdout: Option<LogRef>,
    /// Its standard error, where any was written.
    pub stderr: Option<LogRef>,
    /// Processes that outlived its main process and were killed.
    pub leaked: u32,
    /// Where its folder was kept, if it was.
    pub kept_folder: Option<String>,
}

impl AttemptResult {
    /// A result without any measurements.
    pub fn bare(outcome: Outcome) -> Self {
        Self {
            outcome,
            phases: Phases::default(),
            usage: Usage::default(),
            pressure: Pressure::default(),
            stdout: None,
            stderr: None,
            leaked: 0,
            kept_folder: None,
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Exit 0, and every declared output is there.
    Succeeded(Outputs),
    /// It failed by its own doing.
    Failed(FailureCause),
    /// Its wall time ran out, in seconds.
    TimedOut(f64),
    /// Its worker or host went away; the reason is for people.
    Lost(String),
    /// It was told to stop.
    Cancelled,
}

/// Outputs by name, in declared order.
pub type Outputs = IndexMap<String, Artifact>;

/// A log of an attempt: raw bytes in the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogRef {
    /// The kept bytes.
    pub blob: BlobRef,
    /// Bytes that were written in all; more than the blob holds where the middle was dropped.
    pub total: u64,
    /// The last lines, for messages: at most 4 KiB, lossy UTF-8, control characters still in it.
    pub tail: String,
}

/// Seconds in each phase of an attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// From being given to the worker to its turn.
    pub queue: f64,
    /// Making the folder and starting the process.
    pub start: f64,
    /// Staging inputs.
    pub fetch: f64,
    /// Reading inputs into a warm process.
    pub decode: f64,
    /// The command itself.
    pub compute: f64,
    /// Writing outputs out of a warm process.
    pub encode: f64,
    /// Hashing and storing outputs.
    pub store: f64,
}

impl Phases {
    /// All phases together.
    pub fn total(&self) -> f64 {
        self.queue + self.start + self.fetch + self.decode + self.compute + self.encode + self.store
    }

    /// All phases in which the attempt has its slot: without its wait for one.
    pub fn busy(&self) -> f64 {
        self.total() - self.queue
    }
}

/// What the process tree of an attempt used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// User and system CPU seconds.
    pub cpu: f64,
    /// The greatest resident memory seen, in bytes.
    pub peak_memory: u64,
    /// Bytes read from storage.
    pub read: u64,
    /// Bytes written to storage.
    pub written: u64,
    /// Bytes of inputs staged.
    pub bytes_in: u64,
    /// Bytes of outputs stored.
    pub bytes_out: u64,
}

/// Seconds that shortages of a host took from an attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    /// It had its turn but was not started, because memory was short; part of [`Phases::queue`].
    #[serde(default)]
    pub held: f64,
    /// A CPU quota held back threads of its host while it ran; part of [`Phases::compute`]. Threads that wait at the same time count
    /// each, so that it may be more than the attempt took.
    #[serde(default)]
    pub throttled: f64,
}

impl Pressure {
    /// Whether nothing was short.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "cause")]
pub enum FailureCause {
    /// A command ended with another code than 0.
    Exit {
        /// The code.
        code: i32,
        /// The name of the step, where there are steps.
        step: String,
    },
    /// A command was killed by a signal.
    Signal {
        /// The signal.
        signal: i32,
        /// Whether it dumped core.
        core: bool,
        /// The name of the step, where there are steps.
        step: String,
    },
    /// Its process tree went beyond its memory.
    OutOfMemory {
        /// The limit in bytes.
        limit: u64,
        /// The greatest use seen in bytes.
        peak: u64,
    },
    /// Declared outputs were missing after exit 0.
    MissingOutput {
        /// The names and paths that are missing.
        missing: Vec<String>,
        /// Files that exist instead, at most 20.
        found: Vec<String>,
    },
    /// An output is of a kind that is not taken: a device, a link that leaves the folder, unreadable JSON.
    BadOutput {
        /// The output's name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The program could not be started.
    Exec {
        /// The program.
        program: String,
        /// The error's name, such as `ENOENT`.
        errno: String,
        /// What that means here, and the remedy.
        reason: String,
    },
    /// An input changed between hashing and the end of the node.
    InputChanged {
        /// Its path.
        path: String,
    },
    /// The node altered a cached blob through a link.
    BlobAltered {
        /// Where it was staged.
        path: String,
    },
    /// An input could not be staged.
    Staging {
        /// What could not be staged.
        path: String,
        /// Why.
        reason: String,
        /// The blob is missing or corrupt: its producer must run again.
        missing_blob: bool,
    },
    /// The disk is full.
    DiskFull {
        /// Where.
        path: String,
    },
    /// A secret is not set.
    MissingSecret {
        /// Its name.
        name: String,
    },
    /// An expression could not be evaluated with what the needed nodes gave.
    Expression {
        /// The message.
        message: String,
    },
    /// The engine itself had trouble: not the node's fault.
    Engine {
        /// What happened.
        message: String,
    },
}

impl FailureCause {
    /// The class by which a retry may name it; `None` where another try cannot help.
    pub fn retry_cause(&self) -> Option<RetryCause> {
        match self {
            Self::Exit { .. } => Some(RetryCause::Exit),
            Self::Signal { .. } => Some(RetryCause::Signal),
            Self::OutOfMemory { .. } => Some(RetryCause::OutOfMemory),
            Self::MissingOutput { .. } | Self::BadOutput { .. } => Some(RetryCause::Output),
            Self::Exec { .. } => Some(RetryCause::Exec),
            _ => None,
        }
    }

    /// A stable short name, for JSON and scripts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Exit { .. } => "exit",
            Self::Signal { .. } => "signal",
            Self::OutOfMemory { .. } => "oom",
            Self::MissingOutput { .. } => "missing_output",
            Self::BadOutput { .. } => "bad_output",
            Self::Exec { .. } => "exec",
            Self::InputChanged { .. } => "input_changed",
            Self::BlobAltered { .. } => "blob_altered",
            Self::Staging { .. } => "staging",
            Self::DiskFull { .. } => "disk_full",
            Self::MissingSecret { .. } => "missing_secret",
            Self::Expression { .. } => "expression",
            Self::Engine { .. } => "engine",
        }
    }
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_step = |step: &str| {
            if step.is_empty() {
                String::new()
            } else {
                format!(" in step `{step}`")
            }
        };
        match self {
            Self::Exit { code, step } => write!(f, "exit code {code}{}", in_step(step)),
            Self::Signal { signal, core, step } => {
                let dumped = if *core { ", core dumped" } else { "" };
                write!(
                    f,
                    "killed by signal {signal}{}{dumped}{}",
                    signal_name(*signal),
                    in_step(step)
                )
            }
            Self::OutOfMemory { limit, peak } => {
                let [limit, peak] = format_bytes_alike([*limit, *peak]);
                write!(f, "out of memory: limit {limit}, peak {peak}")
            }
            Self::MissingOutput { missing, found } => {
                write!(f, "declared output missing: {}", missing.join(", "))?;
                if found.is_empty() {
                    write!(f, "; the node wrote no files")
                } else {
                    write!(f, "; it wrote {}", found.join(", "))
                }
            }
            Self::BadOutput { name, reason } => {
                write!(f, "output `{name}` cannot be taken: {reason}")
            }
            Self::Exec {
                program,
                errno,
                reason,
            } => write!(f, "cannot start `{program}`: {reason} ({errno})"),
            Self::InputChanged { path } => write!(
                f,
                "input `{path}` changed while the node ran; its result is not cached"
            ),
            Self::BlobAltered { path } => write!(
                f,
                "the node altered its input `{path}`; the cached copy is quarantined"
            ),
            Self::Staging { path, reason, .. } => write!(f, "cannot stage `{path}`: {reason}"),
            Self::DiskFull { path } => write!(f, "disk full at `{path}`"),
            Self::MissingSecret { name } => {
                write!(
                    f,
                    "secret `{name}` is not set; set the environment variable {name} or name a file in dagrun.toml"
                )
            }
            Self::Expression { message } => f.write_str(message),
            Self::Engine { message } => write!(f, "engine trouble: {message}"),
        }
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        3 => " (SIGQUIT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        13 => " (SIGPIPE)",
        14 => " (SIGALRM)",
        15 => " (SIGTERM)",
        24 => " (SIGXCPU)",
        25 => " (SIGXFSZ)",
        31 => " (SIGSYS)",
        _ => "",
    }
}
