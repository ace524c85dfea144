//! The second ring: the tasks of both ends as they are, with tonic and HTTP/2 between them, over a network that is simulated in
//! virtual time. Hosts die and come back, links are cut, held up and slow.
//!
//! What nodes do, disks, and TLS are left out. The same seed gives the same trace, in processes of their own; for that tokio's own choices have to be
//! seeded too, so this is built with `--cfg tokio_unstable` alone (`cargo xtask ci` does).

mod coordinator;
mod truth;
mod weather;
mod worker;

use super::{Report, asked, first, report_of};

fn simulate(seed: u64) -> Report {
    report_of(|| weather::simulate(seed))
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

/// What seeds give, a line each. The second run of a seed in one process may give something else: tokio ends the tasks of a host that
/// dies in an order that goes by their ids, which count on over all runtimes of a process.
#[test]
#[ignore = "a_seed_always_means_the_same_over_a_network runs it in processes of their own"]
fn what_seeds_give() {
    let first = first();
    for seed in first..first + seeds(10) {
        let report = simulate(seed);
        println!(
            "seed {seed}: {:?} {:016x} {:?} {}",
            report.violation,
            report.hash,
            report.took,
            report.trace.len()
        );
    }
}

#[test]
fn a_seed_always_means_the_same_over_a_network() {
    let given = || {
        let apart = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["sim::storm::what_seeds_give"])
            .args(["--exact", "--ignored", "--nocapture"])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&apart.stdout).into_owned();
        assert!(apart.status.success(), "{told}");
        told.lines()
            .filter_map(|line| Some(line[line.find("seed ")?..].to_owned()))
            .collect::<Vec<_>>()
    };
    let (one, other) = (given(), given());
    assert_eq!(one.len() as u64, seeds(10));
    assert_eq!(one, other);
}
