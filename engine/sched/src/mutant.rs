//! Bugs that can be switched on, to prove that the simulator would find them.
//!
//! Without the feature `mutants` no bug can be switched on, and the questions cost nothing.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Both attempts of a pair are committed.
    DupCommit,
    /// A lost attempt keeps its slot.
    LeakSlot,
    /// A loss forgets the failures that were charged.
    RetryReset,
    /// What earlier runs were charged is not restored.
    RestoreIgnored,
    /// Nodes whose backoff ends after a stop are started.
    CancelRace,
    /// Dependents go on before the result is durable.
    AckBeforeSync,
    /// A node whose attempt was lost is not queued again.
    NoRequeueOnLoss,
    /// The end of an attempt whose worker was lost still counts.
    StaleAccepted,
    /// Losses are charged as failures.
    LossCountsAsFailure,
    /// Losses are not counted.
    LossesUncounted,
    /// Members of a fused group go anywhere.
    GroupSplit,
    /// A gather starts while one member is open.
    GatherEarly,
    /// Equal actions run side by side.
    SingleFlightLost,
    /// Waiters of an action that failed are forgotten.
    WaitersForgotten,
    /// Dependents of skipped nodes are not skipped.
    SkipForgets,
    /// Rewinds are not counted.
    RewindLoop,
    /// A rewound producer does not close its sets.
    RewindForgets,
    /// A gather starts with fewer members than its `min`.
    MinIgnored,
    /// Memory is not looked at when a node is placed.
    MemoryIgnored,
    /// Draining workers get new attempts.
    DrainIgnored,
    /// Profiles are not looked at.
    ProfileIgnored,
    /// A member whose `if` is false counts as failed.
    ConditionFails,
    /// `continue_on_error` has no effect.
    ContinueIgnored,
    /// Nodes that wait for all ends start like others.
    TriggerIgnored,
    /// A retry after an out-of-memory kill asks for no more than before.
    GrowthForgotten,
    /// Retries do not look at the cause.
    CauseIgnored,
    /// A freed worker is not offered to waiting nodes.
    FreeForgotten,
    /// The run finishes while attempts are live.
    FinishEarly,
    /// A node whose inputs are made anew does not wait for its next try.
    RestForgotten,
    /// A node whose inputs were made anew while it ran is tried again as the action that it was.
    OutOfDate,
    /// What was given ahead takes no room when it begins.
    AheadTakesNothing,
    /// A worker is given more ahead than it says that it can hold.
    AheadUnbounded,
    /// A stop leaves what was given ahead where it is.
    AheadIgnoresStop,
    /// What came back, or was given ahead and lost, before it began is charged to its node.
    AheadLossCounts,
    /// What a worker has when it joins is not looked at.
    AdoptForgotten,
    /// An attempt that does another action than its node has to do is adopted.
    AdoptAnyAction,
    /// What ended before its node was looked up is run again.
    EarlyEndForgotten,
    /// The last try of a node that was lost often shares its worker.
    AloneIgnored,
    /// What others have of workers is not looked at.
    OthersIgnored,
    /// What waits for others stays where it is.
    NeverSpread,
    /// A node is blamed for the loss of a worker that it shared.
    NeighbourBlamed,
    /// A node is blamed for the loss of a worker that died with others.
    BurstBlamed,
    /// A node that found no room is tried again wherever that was.
    NoRoomLoop,
    /// Workers without room are given nodes like others.
    FullIgnored,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 44] = [
        Self::DupCommit,
        Self::LeakSlot,
        Self::RetryReset,
        Self::RestoreIgnored,
        Self::CancelRace,
        Self::AckBeforeSync,
        Self::NoRequeueOnLoss,
        Self::StaleAccepted,
        Self::LossCountsAsFailure,
        Self::LossesUncounted,
        Self::GroupSplit,
        Self::GatherEarly,
        Self::SingleFlightLost,
        Self::WaitersForgotten,
        Self::SkipForgets,
        Self::RewindLoop,
        Self::RewindForgets,
        Self::MinIgnored,
        Self::MemoryIgnored,
        Self::DrainIgnored,
        Self::ProfileIgnored,
        Self::ConditionFails,
        Self::ContinueIgnored,
        Self::TriggerIgnored,
        Self::GrowthForgotten,
        Self::CauseIgnored,
        Self::FreeForgotten,
        Self::FinishEarly,
        Self::RestForgotten,
        Self::OutOfDate,
        Self::AheadTakesNothing,
        Self::AheadUnbounded,
        Self::AheadIgnoresStop,
        Self::AheadLossCounts,
        Self::AdoptForgotten,
        Self::AdoptAnyAction,
        Self::EarlyEndForgotten,
        Self::AloneIgnored,
        Self::OthersIgnored,
        Self::NeverSpread,
        Self::NeighbourBlamed,
        Self::BurstBlamed,
        Self::NoRoomLoop,
        Self::FullIgnored,
    ];
}
