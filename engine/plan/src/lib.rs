//! Turns a [`Pipeline`](dagrun_model::Pipeline) into a plan: distinct nodes with keys, the input sets that they read, and
//! the actions that they become.
//!
//! Owns: parameters, axes and their points, joins and gathers, static conditions, selection, node keys and action digests,
//! deduplication, fused groups, staging paths, exports. Knows nothing of files, clocks, the environment, tokio or
//! executors: what it needs to know of the outside it asks for in one batch.
//!
//! The way of a plan: [`expand`] resolves parameters and points and says by [`Expansion::facts_needed`] which globs,
//! toolchain results and variables it needs. The caller answers with [`Facts`], and [`Expansion::finish`] evaluates what is
//! static, joins, keys and deduplicates. While the plan runs, [`Plan::condition`], [`Plan::action_digest`] and
//! [`Plan::action`] answer for one node at a time from what its [`Upstream`] made.
//!
//! Words: a *cell* is a job at one point of its axes, numbered over the whole plan in plan order (a *row* is the same
//! within one job). Cells with equal keys are one *node*.

#![forbid(unsafe_code)]
#![expect(
    clippy::result_large_err,
    reason = "diagnostics are made once for each mistake, and a plan with one ends"
)]

mod action;
mod axes;
mod class;
mod context;
mod deferred;
mod expand;
mod export;
mod facts;
mod finish;
mod graph;
mod grid;
mod input;
mod join;
mod keys;
mod layout;
mod live;
mod manifest;
mod memo;
mod objective;
mod options;
mod order;
mod params;
mod phase;
mod places;
mod plan;
mod points;
mod questions;
mod recipe;
mod seeds;
mod select;
mod sets;
mod staging;
mod study;
mod unused;
mod uses;
mod wildcard;

pub use action::THREAD_VARIABLES;
pub use expand::{Expansion, expand};
pub use export::PlannedExport;
pub use facts::{FactRequest, Facts, FoundFile, GitFacts, GlobRequest, is_glob};
pub use graph::JobEdge;
pub use live::{Upstream, UpstreamEnd};
pub use manifest::{KeyManifest, KeyPart, KeyPartKind};
pub use objective::TrialValues;
pub use options::PlanOptions;
pub use params::{Origin, ResolvedParam};
pub use phase::{JobPhase, Phase, TrialPoint, job_phases};
pub use plan::{Counts, Plan};
pub use seeds::Permutation;
pub use study::StudyPlanner;

/// The version of everything that enters keys and action digests: a change makes every cache entry a miss.
pub const KEY_VERSION: u32 = 1;
