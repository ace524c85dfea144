//! Seeds of the simulator: none breaks a promise, and each bug that can be switched on is found.
//!
//! `DAGRUN_SIM_SEEDS` sets how many seeds are run; `tests/seeds.txt` holds those that once failed.

#![expect(
    clippy::print_stdout,
    reason = "shows which promise found which mutant"
)]

use dagrun_sched::{
    Mutant,
    sim::{SimOptions, simulate, simulate_caught},
};

fn seeds() -> u64 {
    let given = std::env::var("DAGRUN_SIM_SEEDS").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

#[track_caller]
fn check(options: &SimOptions) -> u64 {
    let report = simulate(options);
    let seed = options.seed;
    if let Some(violation) = report.violation {
        panic!(
            "seed {seed}, {}: {}\nshow it: cargo run --release -p dagrun-sched --features sim,mutants --example simulate -- --seed {seed} --trace",
            violation.invariant, violation.text
        );
    }
    report.hash
}

#[test]
fn no_seed_breaks_a_promise() {
    for seed in 0..seeds() {
        check(&SimOptions {
            check_every: 8,
            ..SimOptions::of(seed)
        });
    }
}

#[test]
fn seeds_that_once_failed_still_pass() {
    let mut count = 0;
    for line in include_str!("seeds.txt").lines() {
        let Some(seed) = line
            .split_whitespace()
            .next()
            .filter(|word| !word.starts_with('#'))
        else {
            continue;
        };
        check(&SimOptions::of(
            seed.parse()
                .expect("a line of seeds.txt begins with a seed"),
        ));
        count += 1;
    }
    assert!(count > 0, "seeds.txt is empty");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let hashes: Vec<u64> = (0..50).map(|seed| check(&SimOptions::of(seed))).collect();
    let again: Vec<u64> = (0..50).map(|seed| check(&SimOptions::of(seed))).collect();
    assert_eq!(hashes, again);
    let mut distinct = hashes.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(
        distinct.len(),
        hashes.len(),
        "traces do not depend on their seeds"
    );
}

#[test]
fn every_mutant_is_found() {
    mute_panics_of_this_test();
    let mut survivors = Vec::new();
    for mutant in Mutant::ALL {
        let found = (0..20_000).find_map(|seed| {
            let options = SimOptions {
                mutant: Some(mutant),
                check_every: u32::MAX,
                ..SimOptions::of(seed)
            };
            simulate_caught(&options)
                .violation
                .map(|violation| (seed, violation))
        });
        match found {
            Some((seed, violation)) => {
                println!(
                    "{mutant:?}: seed {seed}, {}: {}",
                    violation.invariant, violation.text
                );
            }
            None => survivors.push(mutant),
        }
    }
    assert!(survivors.is_empty(), "not found: {survivors:?}");
}

/// A mutant may well panic; panics of the other tests must still be heard.
fn mute_panics_of_this_test() {
    let default = std::panic::take_hook();
    let here = std::thread::current().id();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() != here {
            default(info);
        }
    }));
}
