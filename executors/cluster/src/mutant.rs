//! Bugs that can be switched on, to prove that the simulator would find them. Outside of tests none can be.

/// A bug of the coordinator or of the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Results count whoever sends them.
    NoFence,
    /// What a worker has not got is not sent again.
    NoResend,
    /// Workers forget results once they are sent.
    ForgetUnsettled,
    /// A result that is told twice ends its attempt twice.
    DoubleEnd,
    /// What ended keeps its room.
    LeakSlot,
    /// Epochs are not looked at.
    OldEpoch,
    /// Stops are not told again after a reconnection.
    StopForgotten,
    /// Attempts of a lost worker stay open.
    LossForgotten,
    /// Results that were settled are kept by workers for ever.
    NeverForget,
    /// Workers go on with what they were told to drop.
    DropIgnored,
    /// A coordinator that was away counts everybody as lost.
    AwayIsSilence,
    /// Limits over all workers are not counted.
    LimitIgnored,
    /// Runs have more CPUs than they may.
    MostIgnored,
    /// Workers get all that runs submit, whatever room they have.
    RoomIgnored,
    /// Workers that leave get new attempts.
    LeavingIgnored,
    /// What waits in the pool for a worker that is lost stays there.
    QueueForgotten,
    /// What a worker was told of already is withdrawn.
    SentWithdrawn,
    /// Runs do not hear what others have of workers.
    OthersUntold,
    /// What waits in the pool for a worker that is lost is lost with it.
    QueueLost,
    /// What workers hold of an earlier coordinator is dropped at once.
    HeldForgotten,
    /// What was taken over is called by the name of its new run.
    AdoptedRenamed,
    /// Results that come before a run has taken them over are not kept.
    EarlyResultForgotten,
    /// What nobody takes over is held for ever.
    HeldForEver,
}

#[cfg(test)]
impl Mutant {
    /// All of them.
    pub(crate) const ALL: [Self; 23] = [
        Self::NoFence,
        Self::NoResend,
        Self::ForgetUnsettled,
        Self::DoubleEnd,
        Self::LeakSlot,
        Self::OldEpoch,
        Self::StopForgotten,
        Self::LossForgotten,
        Self::NeverForget,
        Self::DropIgnored,
        Self::AwayIsSilence,
        Self::LimitIgnored,
        Self::MostIgnored,
        Self::RoomIgnored,
        Self::LeavingIgnored,
        Self::QueueForgotten,
        Self::SentWithdrawn,
        Self::OthersUntold,
        Self::QueueLost,
        Self::HeldForgotten,
        Self::AdoptedRenamed,
        Self::EarlyResultForgotten,
        Self::HeldForEver,
    ];
}

/// Which bugs are there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mutants {
    #[cfg(test)]
    on: Option<Mutant>,
}

impl Mutants {
    #[cfg(test)]
    pub(crate) fn of(mutant: Option<Mutant>) -> Self {
        Self { on: mutant }
    }

    #[cfg(test)]
    pub(crate) fn has(self, mutant: Mutant) -> bool {
        self.on == Some(mutant)
    }

    #[cfg(not(test))]
    pub(crate) fn has(self, _: Mutant) -> bool {
        false
    }
}
