//! What the scheduler is told, and what it answers. Both are closed enums.

use dagrun_model::{
    ActionDigest, AttemptId, GroupIx, HostIx, NodeIx, PlanDelta, Resources, RetryCause, WorkerIx,
};

/// A moment, in microseconds since the run began, on a monotonic clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Default)]
pub struct Time(pub u64);

/// A timer that the scheduler asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct TimerId(pub u64);

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Nodes were added to the DAG.
    PlanExtended(PlanDelta),
    /// No more nodes will be added: the run finishes when all are terminal.
    PlanComplete,
    /// The nodes of the delta that began with this one are all done, and nothing of a later delta waits for them: they are
    /// forgotten, with their sets and groups. Their counts stay.
    Retire(NodeIx),
    /// A worker is there.
    WorkerJoined {
        /// The worker; an id is never used again.
        worker: WorkerIx,
        /// Its host: workers of one host share a blob store.
        host: HostIx,
        /// What it has. `cpu_milli / 1000` is its number of slots.
        capacity: Resources,
        /// The executor profile it serves; nodes bound to a profile only go there.
        profile: Option<String>,
        /// How many attempts it may be given beyond what it has room for, to begin them by itself in their order.
        ahead: u32,
        /// How fast it is, in thousandths of a common reference.
        speed: u32,
        /// What it has begun for an earlier coordinator of this run, or before it was taken for lost.
        held: Vec<Held>,
    },
    /// What others than this run have of workers now; of those that are not named it has not changed since they were, and is
    /// nothing at first. What is started there all the same waits for its turn.
    TakenByOthers(Vec<(WorkerIx, Resources)>),
    /// A worker takes nothing new and finishes what it has.
    WorkerDraining(WorkerIx),
    /// A worker is gone; its attempts are lost.
    WorkerLost(WorkerIx),
    /// Whether the disk of a worker has room, also of one that joins next. One that has none gets no nodes that others could take.
    WorkerHasRoom(WorkerIx, bool),
    /// Answers to [`Action::LookUp`].
    CacheAnswered(Vec<(NodeIx, CacheAnswer)>),
    /// An attempt's process runs.
    AttemptStarted(AttemptId),
    /// An attempt ended. Its resources are free from now on; a success counts only when it is [`Event::Committed`].
    AttemptEnded {
        /// The attempt.
        attempt: AttemptId,
        /// How it ended.
        end: AttemptEnd,
        /// How long its processes ran, in microseconds, as its worker measured it; 0 where that is not known.
        ran: u64,
    },
    /// The result of a node is durable.
    Committed(NodeIx),
    /// The result of a node could not be made durable: the node fails and is not tried again.
    CommitFailed(NodeIx),
    /// What earlier attempts at a node were charged, from the journal of the run that is being resumed.
    ///
    /// Told between [`Event::PlanExtended`] and the answer of the cache. A node whose tries are used up fails without
    /// an attempt, unless the cache has its result; the numbers of its attempts go on.
    Restore {
        /// The node.
        node: NodeIx,
        /// Failed attempts so far.
        failures: u32,
        /// Lost attempts so far.
        losses: u32,
    },
    /// The outputs of a node are now also on a host.
    ReplicaAdded {
        /// The producer.
        node: NodeIx,
        /// The host.
        host: HostIx,
    },
    /// The outputs of a node are no longer on a host.
    ReplicaDropped {
        /// The producer.
        node: NodeIx,
        /// The host.
        host: HostIx,
    },
    /// A timer is due.
    TimerFired(TimerId),
    /// The run is to end early.
    StopRequested(Stop),
}

/// An attempt that a worker has when it joins: it is adopted where its node can still use it, and cancelled otherwise.
///
/// An adopted attempt takes its resources from the worker at once, and ends like any other. Its node is looked up like any
/// other too: a hit ends it and cancels the attempt, a miss of the same action runs as this attempt, whether it still
/// runs by then or has ended, and a miss of another action cancels it.
///
/// A node that the cache has answered may start elsewhere at any time. So a driver that knows from its journal that an attempt
/// may still run keeps the answer about its node back until the attempt's worker has joined, or its lease has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// The attempt. Attempts that are still known are not adopted again.
    pub attempt: AttemptId,
    /// Its node in this plan.
    pub node: NodeIx,
    /// The number of this attempt at the node, from 1.
    pub number: u32,
    /// The action that it does; `None` where that is not shared (`cache: never`): then it is not adopted, for what it read may have
    /// been made anew.
    pub action: Option<ActionDigest>,
    /// What it takes of the worker.
    pub resources: Resources,
    /// For how long it has run, in microseconds.
    pub ran: u64,
}

/// How a run ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Start nothing new, let running attempts finish.
    Drain,
    /// Start nothing new, TERM running attempts (the worker KILLs after the grace time).
    Terminate,
    /// KILL running attempts now.
    Kill,
}

/// What the action cache says of a node whose needs are decided.
#[derive(Clone, Debug, PartialEq)]
pub enum CacheAnswer {
    /// Its result is there; `bytes` is the size of its outputs.
    Hit {
        /// Bytes of its outputs.
        bytes: u64,
    },
    /// It has to run. Nodes with equal action digests run once: the others wait and become cached.
    Miss {
        /// Its action digest; `None` where it must not be shared (`cache: never`).
        action: Option<ActionDigest>,
    },
    /// Its `if` is false.
    ConditionFalse,
    /// It cannot be made into an action (an expression failed, a secret is missing): it fails without an attempt.
    Unrunnable,
}

/// How an attempt ended, as far as the scheduler cares.
#[derive(Clone, Debug, PartialEq)]
pub enum AttemptEnd {
    /// Its outputs are there; `bytes` is their size.
    Succeeded {
        /// Bytes of its outputs.
        bytes: u64,
    },
    /// It failed; `None` where another try cannot help.
    Failed(Option<RetryCause>),
    /// Its worker or host failed it: never counted against its retries.
    Lost,
    /// The disk of its worker had no room for it: lost there, and failed where no worker is left that may have room.
    NoRoom,
    /// It was cancelled.
    Cancelled,
    /// Blobs of these producers are gone: they run again, and then this node.
    InputsMissing(Vec<NodeIx>),
}

/// What the driver has to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Ask the action cache (and, where a node has one, its `if`) about these nodes, each of which gets one answer.
    ///
    /// A node that was [`Notice::Rewound`] is a hit only if every blob of its outputs is really there.
    LookUp(Vec<NodeIx>),
    /// Start an attempt: journal it, then submit it.
    Start {
        /// A fresh id.
        attempt: AttemptId,
        /// The node.
        node: NodeIx,
        /// The number of this attempt at the node, from 1.
        number: u32,
        /// Where.
        worker: WorkerIx,
        /// What it takes there; more memory than declared after an out-of-memory kill.
        resources: Resources,
        /// The fused group it is started for.
        group: Option<GroupIx>,
        /// The worker has no room for it yet, and begins it when it has.
        ahead: bool,
    },
    /// Give back an attempt if it has not begun: it then ends as [`AttemptEnd::Cancelled`]. One that has begun goes on.
    Recall {
        /// The attempt.
        attempt: AttemptId,
    },
    /// Give back an attempt if its worker has not been told of it, since others have the room that it waits for: it then ends as
    /// [`AttemptEnd::Cancelled`]. One that its worker knows of goes on.
    Withdraw {
        /// The attempt.
        attempt: AttemptId,
    },
    /// Stop an attempt; it still ends by [`Event::AttemptEnded`].
    Cancel {
        /// The attempt.
        attempt: AttemptId,
        /// KILL now instead of TERM and a grace time.
        kill: bool,
    },
    /// Make the result of this attempt durable, then say [`Event::Committed`].
    Commit {
        /// The node.
        node: NodeIx,
        /// The attempt whose result it is.
        attempt: AttemptId,
    },
    /// Say [`Event::TimerFired`] at this time.
    SetTimer {
        /// The timer.
        id: TimerId,
        /// When.
        at: Time,
    },
    /// Tell the journal and the subscribers.
    Emit(Notice),
    /// Nothing is left to do: every node is terminal.
    Finish,
}

/// A fact for the journal and the screen.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// A node is terminal.
    NodeDone {
        /// The node.
        node: NodeIx,
        /// How it ended.
        end: NodeEnd,
    },
    /// A failed or lost attempt will be followed by another.
    WillRetry {
        /// The node.
        node: NodeIx,
        /// When.
        at: Time,
        /// Whether the attempt was lost rather than failed.
        lost: bool,
    },
    /// A second attempt of the same node was started because the first straggles.
    Speculated {
        /// The node.
        node: NodeIx,
    },
    /// A node runs as an attempt that its worker had when it joined.
    Adopted {
        /// The node.
        node: NodeIx,
        /// The attempt.
        attempt: AttemptId,
    },
    /// A node that had succeeded must run again because its outputs are gone.
    Rewound {
        /// The node.
        node: NodeIx,
    },
    /// Nothing runs, nothing can start, and nodes are left: they ask for more than any worker has.
    Stuck {
        /// Some of them.
        nodes: Vec<NodeIx>,
    },
}

/// How a node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeEnd {
    /// Its result came from the action cache, or from an equal action of this run.
    Cached,
    /// It ran and its result is durable.
    Succeeded,
    /// It failed and has no tries left.
    Failed,
    /// It was not run because `because` failed or was skipped itself.
    Skipped {
        /// The nearest node that is to blame.
        because: NodeIx,
    },
    /// Its own `if` is false.
    ConditionFalse,
    /// The run was stopped before it ended.
    Cancelled,
}
