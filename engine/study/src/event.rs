//! What a study is told, what it wants done, and what is to be kept of it.

use std::{fmt, ops::Range, sync::Arc};

use dagrun_model::{Digest, Map};
use serde::{Deserialize, Serialize};

use crate::{
    DefinitionText, exact,
    view::{Best, Counts},
};

/// What happened.
#[derive(Clone, Debug)]
pub enum StudyEvent {
    /// How many slots there are, and how many nodes of one trial run at once where its level is widest. Nothing is asked or
    /// started before this is said once; later ones change `in_flight: auto`.
    Slots {
        /// Slots of all workers.
        slots: u32,
        /// Nodes of one trial at its widest level.
        nodes_per_trial: u32,
    },
    /// The external sampler answered an ask.
    Answered {
        /// The trial that was asked for; another one is a late answer and is dropped.
        trial: u64,
        /// What it said.
        answer: Answer,
    },
    /// The external sampler was started anew and knows nothing: it is told all again.
    SamplerRestarted,
    /// A trial came to its end. Of a trial that is not awaited, or was told already, it is dropped.
    Ended {
        /// Its number.
        trial: u64,
        /// What it came to.
        end: TrialEnd,
    },
    /// The time of `stop: wall` is over: no more asks, running trials end.
    Wall,
    /// Somebody wants an end: no more asks, running trials end.
    Stop,
    /// The objectives have changed: every trial that was told is awaited again, under the same point.
    Rescore {
        /// What identifies the objectives now.
        objective: Digest,
    },
}

/// The answer of an external sampler.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A point by names.
    Point(Map),
    /// There are no more points.
    UsedUp,
    /// It failed, with the reason.
    Failed(String),
}

/// What a trial came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrialEnd {
    /// Its objectives, or why it has none.
    pub result: Result<Scores, String>,
    /// How many replicates it has.
    pub replicates: u32,
    /// Its time from start to end; 0 where nothing of it was executed.
    pub seconds: f32,
    /// How many of its nodes were hits.
    pub hits: u32,
    /// How many nodes it has.
    pub nodes: u32,
    /// What the result depends on.
    pub key: Digest,
    /// What the objectives were made of, by name: at most [`TARGETS`](crate::TARGETS) of them are in tables.
    #[serde(default, with = "exact::named")]
    pub targets: Vec<(Arc<str>, f64)>,
}

/// The objectives of a trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// As written, in the order of the objectives.
    #[serde(with = "exact::list")]
    pub values: Vec<f64>,
    /// By how much constraints are broken in sum; 0: feasible.
    #[serde(with = "exact::one")]
    pub violation: f64,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum StudyAction {
    /// Keep a record. It has to be durable before a sampler in another process hears what is behind it, and before the end is
    /// told. A trial may start before: see "What a power cut takes" in `docs/design/studies.md`.
    Append(StudyRecord),
    /// Ask the external sampler for a point. There is never more than one ask that waits for its answer.
    Ask {
        /// The trial that the point is for.
        trial: u64,
        /// What the sampler is to be told first: positions in [`Study::history`](crate::Study::history).
        new_told: Range<usize>,
        /// The trials that were asked before and whose results this ask may not see.
        pending: Vec<u64>,
    },
    /// Start a trial.
    Start {
        /// Its number.
        trial: u64,
        /// Its parameters: what `trial` holds.
        values: Arc<Map>,
    },
    /// No more trials come; some still run.
    Drain,
    /// The study has ended. Nothing comes after this.
    Finish(StudyEnd),
}

/// How a study ended.
#[derive(Clone, Debug, PartialEq)]
pub struct StudyEnd {
    /// Why.
    pub reason: EndReason,
    /// The best trial; none with several objectives or without a feasible one.
    pub best: Option<Best>,
    /// What there is of what.
    pub counts: Counts,
    /// What an external sampler was not told yet: positions in [`Study::history`](crate::Study::history).
    pub new_told: Range<usize>,
}

impl StudyEnd {
    /// Whether it came to its end by its own rule and has a result.
    pub fn succeeded(&self) -> bool {
        let failed = matches!(
            self.reason,
            EndReason::Failures { .. } | EndReason::Sampler(_)
        );
        !failed && self.counts.told > self.counts.failed
    }
}

/// Why a study ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndReason {
    /// All trials were told.
    Trials,
    /// The objective is as good as `stop: target` asks.
    Target,
    /// There was no better trial for as long as `stop: no_gain` says.
    NoGain,
    /// Every point of the space, or of the design, was tried.
    UsedUp,
    /// As many trials failed as `stop: failures` says.
    Failures {
        /// How many.
        failed: u64,
    },
    /// The time is over.
    Wall,
    /// Somebody stopped it.
    Stopped,
    /// The sampler failed.
    Sampler(String),
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trials => f.write_str("all trials are done"),
            Self::Target => f.write_str("the target of `stop` is reached"),
            Self::NoGain => f.write_str("no better trial for as long as `stop: no_gain` says"),
            Self::UsedUp => f.write_str("every point has been tried"),
            Self::Failures { failed } => write!(
                f,
                "{failed} trials failed; `stop: failures` says how many may"
            ),
            Self::Wall => f.write_str("the time of `stop: wall` is over"),
            Self::Stopped => f.write_str("it was stopped"),
            Self::Sampler(reason) => write!(f, "the sampler failed: {reason}"),
        }
    }
}

/// Where a trial's point comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// The sampler.
    Sampler,
    /// `enqueue`; what was left out is drawn.
    Enqueued,
}

/// The version of the records.
pub const FORMAT: u32 = 1;

/// A line of a study's log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum StudyRecord {
    /// The first one.
    Opened {
        /// [`FORMAT`].
        format: u32,
        /// [`Definition::identity`](crate::Definition::identity).
        identity: Digest,
        /// What it was, for people and for readers without the pipeline.
        text: DefinitionText,
        /// How many trials there were to be when it was opened.
        trials: u64,
    },
    /// A trial was asked for. Numbers have no gaps.
    Asked {
        /// Its number.
        trial: u64,
        /// Where the point comes from.
        source: Source,
        /// Its coordinates.
        #[serde(with = "exact::list")]
        point: Vec<f64>,
        /// How many told trials the ask saw.
        seen: u32,
    },
    /// A trial came to its end.
    Told {
        /// Its number.
        trial: u64,
        /// What it came to.
        end: TrialEnd,
    },
    /// A trial of a former definition that still counts.
    Known {
        /// Its number in this log.
        trial: u64,
        /// Its number in the former log.
        former: u64,
        /// Where the point comes from.
        source: Source,
        /// Its coordinates in this space.
        #[serde(with = "exact::list")]
        point: Vec<f64>,
        /// What it came to.
        end: TrialEnd,
    },
    /// All `Told` and `Known` before it are of former objectives.
    Rescored {
        /// What identifies the objectives from here on.
        objective: Digest,
    },
    /// There are to be as many trials from here on.
    Trials {
        /// How many in all.
        trials: u64,
    },
    /// Time that the study has been under way in all sessions so far; whoever has a clock writes it.
    Used {
        /// Seconds.
        wall: f32,
    },
    /// What the trials from here on depend on, as one of them shows it: for saying what has changed.
    Basis(Basis),
    /// It ended; more may come after a resume.
    Ended {
        /// Why.
        reason: EndReason,
    },
}

/// What a trial depends on, in words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Basis {
    /// The trial.
    pub trial: u64,
    /// The parts, in the order of their jobs.
    pub parts: Vec<BasisPart>,
}

/// A part of what a trial depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BasisPart {
    /// The job; empty for objectives and constraints.
    #[serde(rename = "j")]
    pub job: String,
    /// What it is, such as `input`.
    #[serde(rename = "k")]
    pub kind: String,
    /// Which one.
    #[serde(rename = "n")]
    pub name: String,
    /// Its value or digest.
    #[serde(rename = "v")]
    pub value: String,
}
