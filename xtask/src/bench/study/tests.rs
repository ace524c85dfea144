//! The exact figures, as far as they are fast. Nothing that depends on the machine is asserted.

use super::{
    exact::{self, Size},
    plans::{Planned, calibration},
    world::{Place, Site, lognormal, simulate},
};

const SIZE: Size = Size {
    trials: 600,
    seeds: 3,
};

fn near(what: &str, value: f64, goal: f64, within: f64) {
    assert!(
        (value - goal).abs() <= within,
        "{what}: {value}, expected {goal} within {within}"
    );
}

#[test]
fn a_trial_has_as_many_nodes_as_the_documents_say() {
    assert_eq!(exact::counts(5, 2), Ok((12, 7, 6)));
    assert_eq!(exact::counts(10, 2), Ok((22, 12, 11)));
    assert_eq!(exact::round_of_16(false), Ok(160));
    assert_eq!(exact::round_of_16(true), Ok(80));
}

#[test]
fn deduplication_is_worth_twice_where_scores_are_short_and_never_less_than_twelve_to_seven()
-> Result<(), String> {
    let (short, busy) = exact::deduplication(0.02, 600)?;
    near("short scores", short, 1.98, 0.04);
    assert!(busy > 0.95, "slots are busy {busy}");
    let (long, busy) = exact::deduplication(1.0, 600)?;
    near("long scores", long, 12.0 / 7.0, 0.04);
    assert!(busy > 0.95, "slots are busy {busy}");
    Ok(())
}

#[test]
fn async_is_worth_five_thirds_on_the_table() -> Result<(), String> {
    let (batched, free) = exact::async_and_batched(480)?;
    near("async / batched", free.rate() / batched.rate(), 1.67, 0.02);
    near("trials a minute batched", batched.rate(), 2.7, 0.05);
    near("trials a minute async", free.rate(), 4.5, 0.05);
    Ok(())
}

#[test]
fn the_price_of_a_lag_is_that_of_the_documents() -> Result<(), String> {
    for (cv, part) in [(0.3, 1.0), (0.5, 0.95), (0.9, 0.72)] {
        near("lag: 16", exact::lag(16, cv, SIZE)?, part, 0.03);
    }
    Ok(())
}

#[test]
fn proposals_repeat_with_a_lag_and_not_without() -> Result<(), String> {
    assert_eq!(exact::repeated("{lag: 16}")?, 60);
    let free = exact::repeated("async")?;
    assert!(free < 40, "{free} of 60 proposals are equal");
    Ok(())
}

#[test]
fn refill_on_completion_loses_nothing() -> Result<(), String> {
    for (cv, part) in [
        (0.2, 0.12),
        (0.5, 0.32),
        (0.8, 0.47),
        (0.9, 0.50),
        (1.2, 0.58),
    ] {
        let (slow, own) = exact::refill(cv, SIZE)?;
        near("in order", slow, part, 0.03);
        near("dagrun", own, 0.0, 1e-6);
    }
    Ok(())
}

/// A lag of the window is refill in order: what the real study does then is what the driver beside does.
#[test]
fn a_lag_as_short_as_the_window_refills_in_order() -> Result<(), String> {
    let (slow, _) = exact::refill(0.9, SIZE)?;
    near("lag: 8", 1.0 - exact::lag(8, 0.9, SIZE)?, slow, 0.02);
    Ok(())
}

#[test]
fn fused_scores_move_less_than_the_documents_say() -> Result<(), String> {
    for (targets, chance) in [(2, 16.4), (5, 34.1)] {
        let by_chance = exact::moves_by_chance(targets.into(), false, 20_000);
        near("random placement", by_chance.each, chance, 0.2);
        let drawn = exact::moves_by_chance(targets.into(), true, 20_000);
        near("fused, to the host that has most", drawn.each, 7.0, 0.1);
        let fused = exact::moves(targets, true, "16", 100)?;
        assert!(fused.each <= 7.0, "{fused:?}");
        assert!(fused.split == 0.0, "{fused:?}");
    }
    near(
        "split",
        exact::moves_by_chance(2, false, 20_000).split,
        0.875,
        0.01,
    );
    let auto = exact::moves(2, true, "auto", 100)?;
    assert!(auto.split == 0.0, "{auto:?}");
    let unfused = exact::moves(2, false, "auto", 100)?;
    assert!(
        unfused.each > auto.each && unfused.split > 0.0,
        "{unfused:?}"
    );
    Ok(())
}

/// A score that is bound to the host of its group is weighed by bytes like all others, so that fusion does not cost what it saves.
#[test]
fn fused_scores_move_no_more_than_others() -> Result<(), String> {
    let study = "sampler: random; trials: 40; in_flight: 20";
    let planned = Planned::new(&calibration(study, 10, 2))?;
    let moves = |fused: bool| -> Result<u64, String> {
        let mut all = 0;
        for seed in 0..8 {
            let seconds = |place: Place| {
                let mean = if place.job == 0 { 0.5 } else { 0.1 };
                let (trial, job, at) = (place.trial, place.job.into(), place.at.into());
                mean * lognormal(0.4, seed * 1000 + trial, job, at)
            };
            let site = Site {
                fused,
                bytes: 8_000_000,
                ..Site::new(&[4; 5], &seconds)
            };
            all += simulate(&planned, &site)?.moves;
        }
        Ok(all)
    };
    let (fused, apart) = (moves(true)?, moves(false)?);
    assert!(fused * 10 <= apart * 11, "{fused} fused, {apart} apart");
    Ok(())
}

#[test]
fn studies_end() -> Result<(), String> {
    assert_eq!(exact::not_finite()?, (90, 10, true));
    assert_eq!(exact::many_replicates(1, 1)?, 200);
    assert_eq!(exact::many_replicates(20, 20)?, 4000);
    Ok(())
}

#[test]
fn placement_moves_a_third_of_what_chance_moves() {
    // As many nodes wait as the window holds.
    let plain = exact::moves_on_a_cluster(true, "10", 300).unwrap();
    let placed = exact::moves_on_a_cluster(false, "10", 300).unwrap();
    assert!(placed <= 0.34 * plain, "{placed:.2} of {plain:.2} a trial");
}
