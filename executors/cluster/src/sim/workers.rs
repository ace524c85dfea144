//! Worker processes as they are: the state machine, and an executor that runs what it is given in order.

use std::collections::{BTreeMap, VecDeque};

use dagrun_model::AttemptId;

use crate::{
    message::{AttemptRef, Incarnation},
    session::Core,
};

/// Where a worker process may be started again and again.
pub(super) struct Place {
    pub(super) slots: u64,
    pub(super) ahead: u32,
    pub(super) process: Option<Process>,
    /// Processes so far.
    pub(super) generation: u64,
    /// Nothing gets through until then: to the coordinator, and from it.
    pub(super) deaf: [u64; 2],
    /// Until when something is or was in the way of it.
    pub(super) trouble: u64,
}

impl Place {
    /// Something is in the way of it until then.
    pub(super) fn disturb(&mut self, until: u64) {
        self.trouble = self.trouble.max(until);
    }
}

/// A worker process.
pub(super) struct Process {
    pub(super) core: Core,
    pub(super) incarnation: Incarnation,
    pub(super) generation: u64,
    /// Stopped by a signal until then.
    pub(super) paused: u64,
    pub(super) queue: VecDeque<AttemptId>,
    pub(super) tasks: BTreeMap<AttemptId, Work>,
    pub(super) running: u64,
    pub(super) leaving: bool,
    /// A coordinator that was replaced took it, before it had heard of the next: that one may have settled what it holds.
    pub(super) misled: bool,
    /// The highest epoch that it was welcomed with.
    pub(super) epoch: u64,
}

/// An attempt that an executor has.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) attempt: AttemptRef,
    pub(super) began: bool,
    /// It was told to end it.
    pub(super) killed: bool,
}

impl Process {
    /// Attempts that it was given and nobody took back.
    pub(super) fn wanted(&self) -> usize {
        self.tasks.values().filter(|work| !work.killed).count()
    }
}
