//! The event schema.

use std::collections::BTreeMap;

use dagrun_model::{Digest, FailureCause, LogRef, Outcome, Outputs, Phases, Pressure, Usage};
use serde::{Deserialize, Serialize};

/// The version of the event schema, in [`RunStarted::format`].
pub const FORMAT: u32 = 1;

/// An event and when it happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Seconds since the Unix epoch, by the clock of the machine that wrote it: for people, never for order.
    pub at: f64,
    /// What happened.
    #[serde(flatten)]
    pub event: RunEvent,
}

/// Something that happened in a run. Nodes are named by their first logical id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RunEvent {
    /// The first record of every journal.
    RunStarted(Box<RunStarted>),
    /// The plan is made.
    Planned {
        /// How many nodes, in the three ways of counting.
        counts: PlanCounts,
        /// What the planner warned of, as one-line texts.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
        /// Logical ids of nodes whose `if` is false before anything runs.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        skipped: Vec<String>,
        /// The pipeline's jobs in its order.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        jobs: Vec<String>,
    },
    /// A worker joined.
    WorkerJoined {
        /// Its id in this run.
        worker: u32,
        /// The name of its host.
        host: String,
        /// How many nodes of one CPU it takes at a time.
        slots: f64,
        /// Bytes of memory it gives to nodes; 0 where it has no limit.
        memory: u64,
        /// What tells its process from all others; empty where nothing of it outlives the run.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        process: String,
    },
    /// A worker went away.
    WorkerLost {
        /// Its id in this run.
        worker: u32,
        /// Why, for people.
        reason: String,
    },
    /// Results of these nodes came from the action cache: one record for all that were found together.
    NodesCached {
        /// The nodes.
        nodes: Vec<CachedNode>,
    },
    /// An attempt was handed to a worker, or was found there and taken over.
    AttemptStarted {
        /// The node.
        node: String,
        /// The node's key.
        key: Digest,
        /// The attempt, unique in the run.
        attempt: u64,
        /// The number of this attempt at the node, from 1.
        number: u32,
        /// Where.
        worker: u32,
        /// The node among those it needs that ended last, where that one ran: the way back along the critical path.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
        /// The run that had handed it to the worker, where it was taken over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        adopted: Option<String>,
    },
    /// An attempt ended.
    AttemptEnded {
        /// The node.
        node: String,
        /// The node's key: charged failures are carried over to a resumed run by it.
        key: Digest,
        /// The attempt.
        attempt: u64,
        /// How it ended.
        result: Box<AttemptSummary>,
    },
    /// A node is terminal.
    NodeDone {
        /// The node.
        node: String,
        /// Its other logical ids.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        also: Vec<String>,
        /// How it ended.
        end: NodeOutcome,
        /// The node to blame, where it was skipped because of another.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        because: Option<String>,
        /// Why it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<FailureCause>,
        /// Its outputs.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        outputs: OutputRows,
    },
    /// A failed or lost attempt will be followed by another.
    Retrying {
        /// The node.
        node: String,
        /// In how many seconds.
        delay: f64,
        /// Whether the attempt was lost rather than failed.
        lost: bool,
    },
    /// Failures of an interrupted run count for this one.
    Restored {
        /// The node.
        node: String,
        /// Its key.
        key: Digest,
        /// Failures charged so far.
        failures: u32,
    },
    /// A second attempt was started because the first straggles.
    Speculated {
        /// The node.
        node: String,
    },
    /// A node that had a result must run again because its outputs are gone.
    Rewound {
        /// The node.
        node: String,
    },
    /// Blobs that a node reads are gone.
    InputMissing {
        /// The reader.
        node: String,
        /// The nodes that made them.
        producers: Vec<String>,
    },
    /// A node left processes behind; they were killed.
    Leaked {
        /// The node.
        node: String,
        /// How many.
        processes: u32,
    },
    /// A node gave other bytes for the same action. Both are kept until they are collected.
    NonDeterminism {
        /// The node.
        node: String,
        /// The output.
        output: String,
        /// What it was before.
        former: Option<Digest>,
        /// What it is now.
        now: Option<Digest>,
    },
    /// Nothing runs and nothing can start: these nodes ask for more than any worker has.
    Stuck {
        /// Some of them.
        nodes: Vec<String>,
        /// What they ask for, what there is, and the remedy.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        why: String,
        /// Seconds after which the run gives up, if no worker joins that can take them.
        #[serde(default, skip_serializing_if = "is_zero")]
        patience: f64,
    },
    /// An output was laid into the working folder.
    Exported {
        /// The path, relative to the project folder.
        target: String,
        /// The node.
        node: String,
        /// The output's name.
        output: String,
    },
    /// An export was not done.
    ExportKept {
        /// The path, relative to the project folder.
        target: String,
        /// Why, and the remedy.
        reason: String,
    },
    /// A study is open.
    StudyOpened {
        /// Its name.
        study: String,
        /// How many trials there are to be.
        trials: u64,
        /// How many were told before this run; none where they are told again.
        told: u64,
        /// The names of its objectives.
        objectives: Vec<String>,
    },
    /// A trial began.
    TrialStarted {
        /// Its number.
        trial: u64,
        /// Its parameters.
        params: serde_json::Value,
    },
    /// A trial was told.
    TrialEnded {
        /// Its number.
        trial: u64,
        /// Its objectives as written; none where it failed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        values: Vec<f64>,
        /// Why it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Seconds from its start.
        seconds: f64,
        /// How many replicates it has.
        #[serde(default)]
        replicates: u32,
        /// How many nodes it has.
        #[serde(default)]
        nodes: u32,
        /// How many of them were hits.
        #[serde(default)]
        hits: u32,
        /// How many an engine without deduplication would run.
        #[serde(default)]
        naive: u64,
        /// The best trial so far, with its objective.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        best: Option<(u64, f64)>,
    },
    /// The study came to its end.
    StudyEnded {
        /// Why.
        reason: String,
        /// How many trials were told in all.
        told: u64,
        /// Of these, how many failed.
        failed: u64,
        /// Whether it came to its end by its own rule and has a result.
        #[serde(default)]
        succeeded: bool,
        /// The best trial, with its objective.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        best: Option<(u64, f64)>,
    },
    /// Something to tell people that is no failure.
    Warning {
        /// One lowercase sentence.
        message: String,
    },
    /// The run is to end early.
    StopRequested {
        /// How.
        stop: StopKind,
    },
    /// The last record of a run that ended by itself.
    RunEnded {
        /// The exit code of the command.
        exit_code: i32,
        /// How its nodes ended.
        counts: NodeCounts,
        /// What the plan has come to, where trials made it grow.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<PlanCounts>,
        /// Wall seconds.
        wall: f64,
    },
    /// The last record of a run that could not go on. The next one of its pipeline goes on where it stopped.
    GaveUp {
        /// Why, and the remedy where there is one.
        why: String,
    },
    /// An event of a later version.
    #[serde(other)]
    Unknown,
}

/// What a run is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunStarted {
    /// The version of the schema: [`FORMAT`].
    pub format: u32,
    /// The run's id.
    pub run: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The pipeline's file, relative to the project folder where it is in it.
    pub path: String,
    /// The project folder.
    pub workspace: String,
    /// The version of dagrun.
    pub dagrun: String,
    /// The command line.
    pub command: Vec<String>,
    /// Parameters: name, value as JSON, and where it came from.
    pub params: Vec<ParamRow>,
    /// Settings that it ran with: name, value as text, and where it came from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<ParamRow>,
    /// The host's name.
    pub host: String,
    /// Nodes of one CPU at a time, as asked for; 0 where the executor decides.
    pub slots: u32,
    /// The boot of the host, so that a process id is never trusted after a reboot.
    pub boot: String,
    /// The process id.
    pub pid: u32,
    /// The unfinished run that this one goes on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumes: Option<String>,
    /// The first number that its own attempts have: greater than those of the runs that it goes on with.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub first_attempt: u64,
    /// Attempts of those runs that may still run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inherits: Vec<Inherited>,
}

/// An attempt whose end no journal has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inherited {
    /// The run in which it was started.
    pub run: String,
    /// Its number.
    pub attempt: u64,
    /// Its node.
    pub node: String,
    /// Its node's key.
    pub key: Digest,
    /// The number of this attempt at the node, from 1.
    pub number: u32,
    /// The process of its worker.
    pub process: String,
}

/// A parameter or setting of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParamRow {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: serde_json::Value,
    /// Where the value came from, such as `default` or `-p`.
    pub origin: String,
}

/// How many nodes a plan has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanCounts {
    /// As engines without deduplication would run it.
    pub naive: u64,
    /// After deduplication.
    pub nodes: u64,
    /// After fusion.
    pub units: u64,
}

/// How the nodes of a run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCounts {
    /// Ran, and the result is durable.
    pub succeeded: u64,
    /// Taken from the action cache, or from an equal action of this run.
    pub cached: u64,
    /// Failed with no tries left.
    pub failed: u64,
    /// Not run because of another node, or because their own `if` is false.
    pub skipped: u64,
    /// Not ended when the run was stopped.
    pub cancelled: u64,
}

impl NodeCounts {
    /// All together.
    pub fn total(&self) -> u64 {
        self.succeeded + self.cached + self.failed + self.skipped + self.cancelled
    }

    /// Counts one more node.
    pub fn add(&mut self, end: NodeOutcome) {
        match end {
            NodeOutcome::Succeeded => self.succeeded += 1,
            NodeOutcome::Cached => self.cached += 1,
            NodeOutcome::Failed => self.failed += 1,
            NodeOutcome::Skipped | NodeOutcome::ConditionFalse => self.skipped += 1,
            NodeOutcome::Cancelled => self.cancelled += 1,
        }
    }

    /// Takes one node back: it was rewound and is not terminal any more.
    pub fn remove(&mut self, end: NodeOutcome) {
        let count = match end {
            NodeOutcome::Succeeded => &mut self.succeeded,
            NodeOutcome::Cached => &mut self.cached,
            NodeOutcome::Failed => &mut self.failed,
            NodeOutcome::Skipped | NodeOutcome::ConditionFalse => &mut self.skipped,
            NodeOutcome::Cancelled => &mut self.cancelled,
        };
        *count = count.saturating_sub(1);
    }
}

/// How a node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeOutcome {
    /// It ran and its result is durable.
    Succeeded,
    /// Its result came from the action cache, or from an equal action of this run.
    Cached,
    /// It failed.
    Failed,
    /// Another node is to blame.
    Skipped,
    /// Its own `if` is false.
    ConditionFalse,
    /// The run was stopped before it ended.
    Cancelled,
}

impl NodeOutcome {
    /// The word that `show --json` has for it: a false `if` counts as skipped.
    pub fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Cached => "cached",
            Self::Failed => "failed",
            Self::Skipped | Self::ConditionFalse => "skipped",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A node whose result was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CachedNode {
    /// Its first logical id.
    #[serde(rename = "n")]
    pub node: String,
    /// Its other logical ids.
    #[serde(rename = "a", default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// Its outputs.
    #[serde(rename = "o", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: OutputRows,
}

/// Outputs by name.
pub type OutputRows = BTreeMap<String, OutputRow>;

/// An output as reports show it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputRow {
    /// The digest of the blob that holds it; none for an optional output that was not made.
    pub digest: Option<Digest>,
    /// Bytes in all its files.
    pub size: u64,
}

/// The rows of a node's outputs.
pub fn output_rows(outputs: &Outputs) -> OutputRows {
    outputs
        .iter()
        .map(|(name, artifact)| {
            let row = OutputRow {
                digest: artifact.blob_digest(),
                size: artifact.size(),
            };
            (name.clone(), row)
        })
        .collect()
}

/// How an attempt ended, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// Exit 0 and all outputs there.
    Succeeded,
    /// By its own doing.
    Failed,
    /// Its wall time ran out.
    TimedOut,
    /// Its worker or host went away.
    Lost,
    /// It was told to stop.
    Cancelled,
}

/// The end of an attempt as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptSummary {
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<FailureCause>,
    /// For people: why it was lost, or after how many seconds it timed out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Where its time went, in seconds.
    pub phases: Phases,
    /// What its process tree used.
    pub usage: Usage,
    /// What its host's shortages took from it.
    #[serde(default, skip_serializing_if = "Pressure::is_none")]
    pub pressure: Pressure,
    /// Its standard output; the tail is kept for failures only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<LogRef>,
    /// Its standard error; the tail is kept for failures only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<LogRef>,
    /// Processes that outlived its main process and were killed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub leaked: u32,
    /// Where its folder was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_folder: Option<String>,
}

fn is_zero<N: Default + PartialEq>(n: &N) -> bool {
    *n == N::default()
}

impl From<&dagrun_model::AttemptResult> for AttemptSummary {
    fn from(result: &dagrun_model::AttemptResult) -> Self {
        let (outcome, cause, reason) = match &result.outcome {
            Outcome::Succeeded(_) => (AttemptOutcome::Succeeded, None, String::new()),
            Outcome::Failed(cause) => (AttemptOutcome::Failed, Some(cause.clone()), String::new()),
            Outcome::TimedOut(seconds) => (
                AttemptOutcome::TimedOut,
                None,
                format!("timed out after {}", dagrun_model::format_seconds(*seconds)),
            ),
            Outcome::Lost(reason) => (AttemptOutcome::Lost, None, reason.clone()),
            Outcome::Cancelled => (AttemptOutcome::Cancelled, None, String::new()),
        };
        let log = |log: &Option<LogRef>| {
            let mut log = log.clone();
            if let Some(log) = &mut log
                && outcome == AttemptOutcome::Succeeded
            {
                log.tail = String::new();
            }
            log
        };
        Self {
            outcome,
            cause,
            reason,
            phases: result.phases,
            usage: result.usage,
            pressure: result.pressure,
            stdout: log(&result.stdout),
            stderr: log(&result.stderr),
            leaked: result.leaked,
            kept_folder: result.kept_folder.clone(),
        }
    }
}

impl AttemptSummary {
    /// The end in one lowercase fragment, for messages.
    pub fn describe(&self) -> String {
        match (&self.cause, self.outcome) {
            (Some(cause), AttemptOutcome::Lost) => format!("lost: {cause}"),
            (Some(cause), _) => cause.to_string(),
            (None, AttemptOutcome::Succeeded) => "succeeded".into(),
            (None, AttemptOutcome::Cancelled) => "cancelled".into(),
            (None, AttemptOutcome::Lost) => format!("lost: {}", self.reason),
            (None, _) => self.reason.clone(),
        }
    }

    /// Whether it is charged against the node's retries: losses and cancellations are not, nor is what a host had no room for.
    pub fn is_charged(&self) -> bool {
        matches!(
            self.outcome,
            AttemptOutcome::Failed | AttemptOutcome::TimedOut
        ) && !matches!(
            self.cause,
            Some(
                FailureCause::DiskFull { .. }
                    | FailureCause::Staging {
                        missing_blob: true,
                        ..
                    }
            )
        )
    }
}

/// How a run ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopKind {
    /// Running attempts may finish.
    Drain,
    /// Running attempts get TERM, and KILL after their grace time.
    Terminate,
    /// Running attempts get KILL.
    Kill,
}

impl Record {
    /// The JSON text of the record.
    ///
    /// # Errors
    /// Never for events that this crate can build; serde has no way to say so.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// When the bytes are no record of this or a later version.
    pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(event: RunEvent) -> String {
        let record = Record { at: 12.5, event };
        let json = record.to_json().unwrap();
        assert_eq!(Record::from_json(&json).unwrap(), record);
        String::from_utf8(json).unwrap()
    }

    #[test]
    fn events_round_trip_and_are_tagged() {
        let json = round_trip(RunEvent::Rewound { node: "a".into() });
        assert_eq!(json, r#"{"at":12.5,"event":"rewound","node":"a"}"#);
        round_trip(RunEvent::RunStarted(Box::new(RunStarted {
            format: FORMAT,
            run: "r".into(),
            ..RunStarted::default()
        })));
        let mut result = dagrun_model::AttemptResult::bare(Outcome::Failed(FailureCause::Exit {
            code: 3,
            step: String::new(),
        }));
        result.leaked = 2;
        let summary = AttemptSummary::from(&result);
        assert_eq!(summary.describe(), "exit code 3");
        let json = round_trip(RunEvent::AttemptEnded {
            node: "a".into(),
            key: Digest::empty(),
            attempt: 7,
            result: Box::new(summary),
        });
        assert!(
            json.contains(r#""cause":{"cause":"exit","code":3,"step":""}"#),
            "{json}"
        );
        round_trip(RunEvent::NodesCached {
            nodes: vec![CachedNode {
                node: "a".into(),
                also: vec!["b".into()],
                outputs: [(
                    "x".to_string(),
                    OutputRow {
                        digest: Some(Digest::of(b"1")),
                        size: 1,
                    },
                )]
                .into(),
            }],
        });
    }

    #[test]
    fn events_of_later_versions_are_kept_apart_from_errors() {
        let record = Record::from_json(br#"{"at":1.0,"event":"teleported","node":"a"}"#).unwrap();
        assert_eq!(record.event, RunEvent::Unknown);
        assert!(Record::from_json(b"{}").is_err());
    }

    #[test]
    fn only_failures_and_timeouts_are_charged() {
        let charged = |outcome| {
            AttemptSummary::from(&dagrun_model::AttemptResult::bare(outcome)).is_charged()
        };
        assert!(charged(Outcome::TimedOut(1.0)));
        assert!(!charged(Outcome::Lost("gone".into())));
        assert!(!charged(Outcome::Cancelled));
        assert!(!charged(Outcome::Failed(FailureCause::Staging {
            path: "a".into(),
            reason: "gone".into(),
            missing_blob: true,
        })));
    }
}
