//! What can be asked of a scheduler: states, counts, stories.

use dagrun_model::{AttemptId, HostIx, NodeIx, SetIx, WorkerIx};

use crate::{NodeEnd, Time, TimerId};

/// Where a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Some of its sets are open.
    Waiting,
    /// The cache was asked about it.
    LookingUp,
    /// It waits for another node with the same action.
    Sharing,
    /// It waits for a free slot.
    Ready {
        /// Since when.
        since: Time,
        /// Its place among all nodes that ever became ready.
        seq: u64,
    },
    /// A worker has it and begins it when there is room.
    Queued {
        /// The attempt.
        attempt: AttemptId,
    },
    /// It waits for its next try.
    BackingOff {
        /// The timer that ends the wait.
        timer: TimerId,
        /// When that is.
        until: Time,
    },
    /// An attempt runs, or two where the first straggled.
    Running {
        /// The attempt.
        attempt: AttemptId,
        /// A second attempt at the same node.
        second: Option<AttemptId>,
    },
    /// An attempt succeeded; its result is being made durable.
    Committing {
        /// The attempt.
        attempt: AttemptId,
    },
    /// It is terminal.
    Done(NodeEnd),
}

/// How many nodes are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named like the states and ends")]
pub struct StateCounts {
    pub waiting: u64,
    pub looking_up: u64,
    pub sharing: u64,
    pub ready: u64,
    pub queued: u64,
    pub backing_off: u64,
    pub running: u64,
    pub committing: u64,
    pub cached: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub skipped: u64,
    pub condition_false: u64,
    pub cancelled: u64,
}

impl StateCounts {
    /// Nodes that are terminal.
    pub fn done(&self) -> u64 {
        self.cached
            + self.succeeded
            + self.failed
            + self.skipped
            + self.condition_false
            + self.cancelled
    }

    /// All nodes.
    pub fn total(&self) -> u64 {
        self.done()
            + self.waiting
            + self.looking_up
            + self.sharing
            + self.ready
            + self.queued
            + self.backing_off
            + self.running
            + self.committing
    }

    pub(crate) fn of(&mut self, state: NodeState) -> &mut u64 {
        match state {
            NodeState::Waiting => &mut self.waiting,
            NodeState::LookingUp => &mut self.looking_up,
            NodeState::Sharing => &mut self.sharing,
            NodeState::Ready { .. } => &mut self.ready,
            NodeState::Queued { .. } => &mut self.queued,
            NodeState::BackingOff { .. } => &mut self.backing_off,
            NodeState::Running { .. } => &mut self.running,
            NodeState::Committing { .. } => &mut self.committing,
            NodeState::Done(NodeEnd::Cached) => &mut self.cached,
            NodeState::Done(NodeEnd::Succeeded) => &mut self.succeeded,
            NodeState::Done(NodeEnd::Failed) => &mut self.failed,
            NodeState::Done(NodeEnd::Skipped { .. }) => &mut self.skipped,
            NodeState::Done(NodeEnd::ConditionFalse) => &mut self.condition_false,
            NodeState::Done(NodeEnd::Cancelled) => &mut self.cancelled,
        }
    }
}

/// What second attempts cost, and what they were good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Speculation {
    /// Second attempts that were started.
    pub started: u64,
    /// Second attempts whose result counted.
    pub won: u64,
    /// Attempts that ended when the other one of their pair had decided the node.
    pub lost: u64,
    /// How long those ran, in microseconds.
    pub lost_micros: u64,
}

/// A step in a node's story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// When.
    pub at: Time,
    /// The state that it came to.
    pub state: NodeState,
}

/// Why a node does not run.
#[derive(Clone, Debug, PartialEq)]
pub enum WhyWaiting {
    /// There is no such node.
    Unknown,
    /// It is not waiting: it runs, is being committed, or is terminal.
    NotWaiting(NodeState),
    /// Sets that it needs are open.
    Needs(Vec<OpenSet>),
    /// The cache was asked and has not answered.
    LookingUp,
    /// Another node with the same action comes first.
    SharesWith(NodeIx),
    /// It waits for its next try.
    BackingOff {
        /// Until when.
        until: Time,
    },
    /// A worker was given it, and has no room for it yet: others have that.
    Crowded(WorkerIx),
    /// It is ready, and no worker takes it.
    NoWorker(Vec<Unfit>),
}

/// A set that is not closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSet {
    /// The set.
    pub set: SetIx,
    /// How many members it has.
    pub members: u32,
    /// How many of them are not terminal.
    pub pending: u32,
    /// How many failed or were skipped.
    pub bad: u32,
    /// The first members that are not terminal, at most eight.
    pub first: Vec<NodeIx>,
}

/// Why a worker does not take a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// The worker.
    pub worker: WorkerIx,
    /// What is in the way.
    pub obstacle: Obstacle,
}

/// What keeps a ready node from a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The worker finishes what it has.
    Draining,
    /// The worker serves another executor profile.
    Profile,
    /// The node's fused group is on another host.
    Group(HostIx),
    /// The worker does not have that much of a resource, even when idle.
    TooSmall {
        /// `cpu`, `memory` or a resource's name.
        resource: String,
        /// What the node asks for: thousandths, or bytes of memory.
        needed: u64,
        /// What the worker has in all.
        has: u64,
    },
    /// The worker's resource is in use.
    Busy {
        /// `cpu`, `memory` or a resource's name.
        resource: String,
        /// What the node asks for: thousandths, or bytes of memory.
        needed: u64,
        /// What is free now.
        free: u64,
    },
    /// Others than this run have the worker's resource.
    Taken {
        /// `cpu`, `memory` or a resource's name.
        resource: String,
        /// What the node asks for: thousandths, or bytes of memory.
        needed: u64,
        /// What nobody has now.
        free: u64,
    },
    /// The disk of the worker has no room, or had none for this node.
    DiskFull,
    /// The worker is kept for a larger node that has waited for long.
    Reserved,
    /// The node was lost so often that its next try has a worker for itself, or another such node has this one.
    Alone,
    /// The node waits a moment for a host that has its inputs.
    Elsewhere,
}
