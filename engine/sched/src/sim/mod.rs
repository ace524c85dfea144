//! Seeded simulation of the scheduler in virtual time.
//!
//! A seed makes a plan, hosts and a list of troubles; the world plays driver, workers, network, cache and disk; a model
//! that shares no code with the scheduler judges each action. The same seed always gives the same trace.

mod build;
mod model;
mod rng;
mod scene;
mod world;

pub use build::PlanBuilder;
pub use model::Violation;
pub use scene::FAULT_KINDS;
pub use world::simulate;

/// What to simulate.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// The seed.
    pub seed: u64,
    /// At most so many nodes.
    pub nodes: u32,
    /// Which kinds of trouble may happen, one bit each.
    pub faults: u32,
    /// The scheduler's own counts are checked after each so many events.
    pub check_every: u32,
    /// Keep all events and actions as text.
    pub trace: bool,
    /// A bug to switch on.
    #[cfg(feature = "mutants")]
    pub mutant: Option<crate::Mutant>,
}

impl SimOptions {
    /// All that a seed has in it.
    pub fn of(seed: u64) -> Self {
        Self {
            seed,
            nodes: u32::MAX,
            faults: u32::MAX,
            check_every: 1,
            trace: false,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

/// What happened in a simulation.
#[derive(Clone, Debug, Default)]
pub struct SimReport {
    /// Nodes in the plan.
    pub nodes: u64,
    /// Events that the scheduler was told.
    pub events: u64,
    /// Troubles that happened.
    pub faults: u64,
    /// A hash of all events and actions in order.
    pub hash: u64,
    /// The first promise that was broken.
    pub violation: Option<Violation>,
    /// Events and actions as text, where that was asked for.
    pub trace: Vec<String>,
    /// How many actions the last event gave.
    last_actions: usize,
}

/// Simulates, and takes a panic for a violation.
pub fn simulate_caught(options: &SimOptions) -> SimReport {
    std::panic::catch_unwind(|| simulate(options)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let violation = Some(world::panicked(text.unwrap_or_default()));
        SimReport {
            violation,
            ..SimReport::default()
        }
    })
}

/// The smallest run near a failing one that still fails: fewer nodes and kinds of trouble.
pub fn shrink(options: &SimOptions) -> SimOptions {
    let fails = |options: &SimOptions| simulate_caught(options).violation.is_some();
    let mut best = options.clone();
    for kind in 0..FAULT_KINDS {
        let fewer = SimOptions {
            faults: best.faults & !(1 << kind),
            ..best.clone()
        };
        if fails(&fewer) {
            best = fewer;
        }
    }
    for nodes in [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50] {
        let smaller = SimOptions {
            nodes,
            ..best.clone()
        };
        if nodes < best.nodes && fails(&smaller) {
            best = smaller;
            break;
        }
    }
    best
}
