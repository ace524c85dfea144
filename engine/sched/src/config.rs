//! What a run may choose about its scheduling.

use std::time::Duration;

/// Choices that hold for a whole run. Times are wall time of the caller's clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Seeds the jitter of waits between retries.
    pub seed: u64,
    /// The first attempt's id; a resumed run goes on where its journal ended.
    pub first_attempt: u64,
    /// How many ready nodes are compared for each free slot when there are several hosts.
    pub window: usize,
    /// How many hosts with room a ready node is compared with, besides those that have its inputs.
    pub rooms: usize,
    /// How many attempts of a node may be lost: with the last of them, the node is blamed for it and fails. The last try has a
    /// worker for itself, so that no node is blamed for what another one did beside it.
    pub max_losses: u32,
    /// Workers that are lost within this time of each other may have died of the same, which is no node that ran on one of them alone.
    pub burst: Duration,
    /// On how many hosts a node may find no room on the disk and be tried elsewhere.
    pub max_full_disks: usize,
    /// How often one producer may be rewound because its outputs were gone.
    pub max_rewinds: u8,
    /// Drain after the first failure that does not say `continue_on_error`.
    pub fail_fast: bool,
    /// No [`crate::Notice::Stuck`] before so many workers have joined.
    pub expected_workers: u32,
    /// Workers come and go: where there is none, one is waited for, and nothing is stuck.
    pub awaits_workers: bool,
    /// Whether classes that say `speculate` get second attempts.
    pub speculate: bool,
    /// A second attempt starts when the first has run for so many percent of its job's median.
    pub straggler_percent: u32,
    /// How many attempts of a job must have succeeded before its median counts.
    pub straggler_samples: usize,
    /// No attempt counts as straggling before this.
    pub straggler_floor: Duration,
    /// How long a node may wait for a slot on a host that has its inputs.
    pub locality_delay: Duration,
    /// A node does not wait for a host that would save less than so many bytes.
    pub locality_bytes: u64,
    /// Place nodes without looking at bytes, for benches.
    pub no_locality: bool,
    /// Take members of fused groups for nodes like others, for benches.
    pub no_fuse: bool,
    /// How many steps of all nodes together are remembered for [`crate::Scheduler::story`].
    pub story: usize,
    /// A bug that is switched on.
    #[cfg(feature = "mutants")]
    pub mutant: Option<crate::Mutant>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            first_attempt: 1,
            window: 64,
            rooms: 16,
            max_losses: 3,
            burst: Duration::from_secs(10),
            max_full_disks: 5,
            max_rewinds: 3,
            fail_fast: false,
            expected_workers: 1,
            awaits_workers: false,
            speculate: true,
            straggler_percent: 200,
            straggler_samples: 5,
            straggler_floor: Duration::from_secs(1),
            locality_delay: Duration::from_millis(100),
            locality_bytes: 64 << 20,
            no_locality: false,
            no_fuse: false,
            story: 1 << 16,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}
