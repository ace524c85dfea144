//! The second ring: the tasks of both ends as they are, with tonic and HTTP/2 between them, over a network that is simulated in
//! virtual time. Hosts die and come back, links are cut, held up and slow.
//!
//! What nodes do, disks, and TLS are left out. The same seed gives the same trace; for that tokio's own choices have to be
//! seeded too, so this is built with `--cfg tokio_unstable` alone (`cargo xtask ci` does).

mod coordinator;
mod truth;
mod weather;
mod worker;

use std::time::Duration;

use super::{asked, caught, first};

/// What happened.
#[derive(Debug, Default)]
struct Report {
    violation: Option<String>,
    /// A hash of all that happened.
    hash: u64,
    faults: u64,
    /// Attempts that were taken over from an earlier coordinator.
    adopted: u64,
    /// Virtual time until all was over.
    took: Duration,
    trace: Vec<String>,
}

fn simulate(seed: u64) -> Report {
    caught(|| weather::simulate(seed)).unwrap_or_else(|panic| Report {
        violation: Some(panic),
        ..Report::default()
    })
}

/// How many seeds a test takes.
fn seeds(usual: u64) -> u64 {
    asked("DAGRUN_SIM_SEEDS").unwrap_or(usual)
}

#[test]
fn promises_hold_over_a_network() {
    let (first, seeds) = (first(), seeds(100));
    let (mut faults, mut adopted) = (0, 0);
    for seed in first..first + seeds {
        let report = simulate(seed);
        if let Some(violation) = report.violation {
            let from = report.trace.len().saturating_sub(400);
            panic!(
                "seed {seed}: {violation}\n{}",
                report.trace[from..].join("\n")
            );
        }
        faults += report.faults;
        adopted += report.adopted;
    }
    assert!(faults > seeds, "a network without trouble shows nothing");
    assert!(adopted * 4 > seeds, "{adopted} were taken over");
}

#[test]
fn a_seed_always_means_the_same_over_a_network() {
    let first = first();
    for seed in first..first + seeds(10) {
        let (one, other) = (simulate(seed), simulate(seed));
        assert_eq!((&one.violation, &other.violation), (&None, &None));
        let at = one.trace.iter().zip(&other.trace).position(|(a, b)| a != b);
        assert_eq!(one.hash, other.hash, "seed {seed} differs at {at:?}");
        assert_eq!(one.took, other.took, "seed {seed}");
    }
}
