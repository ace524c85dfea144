//! The worker side of every executor: from an attempt to its result.
//!
//! Owns: the node's folder and what is staged into it, its environment and secrets, the [`spawner_main`] process that runs its
//! commands, its logs, and its outputs on their way into the store. Knows nothing of plans, schedulers, retries or other
//! workers; it is synchronous and has no threads of its own.
//!
//! An attempt goes through [`Worker::prepare`], [`Link::start`], [`LinkEvent::Ended`] and [`Worker::collect`]. Whatever goes
//! wrong on the way is a value in its [`AttemptResult`](dagrun_model::AttemptResult).

#![forbid(unsafe_code)]

mod collect;
mod dead;
mod env;
mod folder;
mod inputs;
mod json;
mod link;
mod logs;
mod prepare;
mod pressure;
mod spawner;
mod worker;

pub use collect::{Leftover, Timing};
pub use dead::{clear_dead_run, uncleared_runs};
pub use link::{Finished, Link, LinkEvent};
pub use prepare::Prepared;
pub use pressure::free_memory;
pub use spawner::{SPAWNER_COMMAND, is_spawner, spawner_main};
pub use worker::{Worker, WorkerOptions};
