//! Figures on the simulated clock: the same on every machine.

use std::collections::BTreeSet;

use dagrun_study::EndReason;

use super::{
    Figure, Group,
    plans::{Planned, calibration, single, without_sharing},
    world::{Outcome, Place, Site, bowl, lognormal, simulate, unit},
};

/// How much is simulated.
#[derive(Clone, Copy)]
pub(super) struct Size {
    /// Trials of a study whose rate is measured.
    pub(super) trials: u64,
    /// Seeds over which rates are averaged.
    pub(super) seeds: u64,
}

impl Size {
    pub(super) const FULL: Self = Self {
        trials: 4000,
        seeds: 5,
    };
    pub(super) const QUICK: Self = Self {
        trials: 600,
        seeds: 2,
    };
}

/// The same duration for all nodes of a job.
fn per_job(simulation: f64, score: f64) -> impl Fn(Place) -> f64 {
    move |place| match place.job {
        0 => simulation,
        _ => score,
    }
}

fn run(
    text: &str,
    hosts: &[u32],
    fused: bool,
    seconds: &dyn Fn(Place) -> f64,
) -> Result<Outcome, String> {
    let site = Site {
        fused,
        ..Site::new(hosts, seconds)
    };
    simulate(&Planned::new(text)?, &site)
}

// --- counts -----------------------------------------------------------------------------------

/// Nodes of a trial: without deduplication, with it, units of work.
pub(super) fn counts(replicates: u32, targets: u32) -> Result<(u64, u64, u64), String> {
    let counts = Planned::new(&calibration(
        "sampler: random; trials: 1",
        replicates,
        targets,
    ))?
    .counts();
    Ok((counts.naive, counts.nodes, counts.units))
}

/// Simulations of 16 trials with 5 replicates and 2 targets: distinct keys of the nodes of `simulate`.
pub(super) fn round_of_16(shared: bool) -> Result<usize, String> {
    let text = match shared {
        true => calibration("sampler: random; trials: 16", 5, 2),
        false => without_sharing("sampler: random; trials: 16", 5, 2),
    };
    let planned = Planned::new(&text)?;
    let mut keys = BTreeSet::new();
    for number in 1..=16 {
        let plan = planned.trial(number, planned.values(number as f64 / 32.0));
        let simulations = plan.nodes().filter(|node| plan.job(*node).0 == 0);
        keys.extend(simulations.map(|node| plan.key(node).0));
    }
    Ok(keys.len())
}

// --- deduplication ----------------------------------------------------------------------------

/// How much faster trials come with deduplication, where a simulation takes a second; and how busy the slots are with
/// `in_flight: auto`. For the ratio both sides have enough trials under way that no slot waits.
pub(super) fn deduplication(score: f64, trials: u64) -> Result<(f64, f64), String> {
    let study = format!("sampler: random; trials: {trials}");
    let full = format!("{study}; in_flight: 8");
    // A cv of a tenth, so that nothing runs in step.
    let seconds = |place: Place| {
        per_job(1.0, score)(place) * lognormal(0.1, place.trial, place.job.into(), place.at.into())
    };
    let shared = run(&calibration(&full, 5, 2), &[8], true, &seconds)?;
    let naive = run(&without_sharing(&full, 5, 2), &[8], true, &seconds)?;
    let auto = run(&calibration(&study, 5, 2), &[8], true, &seconds)?;
    Ok((shared.rate() / naive.rate(), auto.busy()))
}

// --- order ------------------------------------------------------------------------------------

/// Seconds of a trial in the documents' table: sixteen durations from 71 to 356 s in even steps, in another order each round.
pub(super) fn table_of_durations(trial: u64) -> f64 {
    let (round, at) = ((trial - 1) / 16, (trial - 1) % 16);
    let at = (at * 5 + round * 7 + 3) % 16;
    71.1 * (1.0 + 4.0 * at as f64 / 15.0)
}

/// Trials a minute batched and async on the table with 16 slots.
pub(super) fn async_and_batched(trials: u64) -> Result<(Outcome, Outcome), String> {
    let seconds = |place: Place| table_of_durations(place.trial);
    let of = |order: &str| {
        let study = format!("sampler: random; trials: {trials}; in_flight: 16; order: {order}");
        run(&single(&study), &[16], true, &seconds)
    };
    Ok((of("{batched: 16}")?, of("async")?))
}

/// The rate with a lag on 8 slots as a part of the rate without an order.
pub(super) fn lag(lag: u64, cv: f64, size: Size) -> Result<f64, String> {
    let (mut sum, mut of) = (0.0, 0.0);
    for seed in 0..size.seeds {
        let seconds = |place: Place| lognormal(cv, seed, place.trial, 0);
        let rate = |order: &str| -> Result<f64, String> {
            let study = format!(
                "sampler: random; trials: {}; in_flight: {lag}; order: {order}",
                size.trials
            );
            Ok(run(&single(&study), &[8], true, &seconds)?.rate())
        };
        sum += rate(&format!("{{lag: {lag}}}"))?;
        of += rate("async")?;
    }
    Ok(sum / of)
}

/// How many of 60 proposals of TPE are the same when the trials end in another order.
pub(super) fn repeated(order: &str) -> Result<usize, String> {
    let of = |seed: u64| {
        let seconds = move |place: Place| lognormal(0.9, seed, place.trial, 0);
        let study = format!("sampler: {{tpe: {{seed: 7}}}}; trials: 60; order: {order}");
        run(&single(&study), &[8], true, &seconds)
    };
    let (one, other) = (of(1)?, of(2)?);
    let same = one.points.iter().zip(&other.points);
    Ok(same.filter(|(one, other)| one == other).count())
}

// --- refill -----------------------------------------------------------------------------------

/// When the last of `n` pieces of work ends if a new one is handed out only when the oldest of the window has ended.
fn in_order(slots: usize, window: usize, n: usize, seconds: impl Fn(usize) -> f64) -> f64 {
    let mut free = vec![0.0_f64; slots];
    let mut ends: Vec<f64> = Vec::new();
    let mut oldest_seen = 0.0_f64;
    for k in 0..n {
        if k >= window {
            oldest_seen = oldest_seen.max(ends[k - window]);
        }
        let slot = (0..slots).min_by(|a, b| free[*a].total_cmp(&free[*b]));
        let slot = slot.expect("there are slots");
        free[slot] = free[slot].max(oldest_seen) + seconds(k);
        ends.push(free[slot]);
    }
    ends.iter().copied().fold(0.0, f64::max)
}

/// What part of the throughput of 8 slots is lost: by the in-order driver, and by dagrun, both against the bound of 8 slots
/// that are always busy.
pub(super) fn refill(cv: f64, size: Size) -> Result<(f64, f64), String> {
    let n = size.trials;
    let (mut bound, mut slow, mut own) = (0.0, 0.0, 0.0);
    for seed in 0..size.seeds {
        let of = |trial: u64| lognormal(cv, seed, trial, 0);
        slow += in_order(8, 8, n as usize, |k| of(k as u64 + 1));
        let study = format!("sampler: random; trials: {n}; in_flight: 8");
        let seconds = |place: Place| of(place.trial);
        let outcome = run(&single(&study), &[8], true, &seconds)?;
        own += outcome.drained;
        // Busy until the last ask; after it the slots run empty, whoever fills them.
        bound += outcome.drained * outcome.busy();
    }
    let work: f64 = (0..size.seeds)
        .map(|seed| (1..=n).map(|it| lognormal(cv, seed, it, 0)).sum::<f64>() / 8.0)
        .sum();
    Ok((1.0 - work / slow, (1.0 - bound / own).max(0.0)))
}

// --- fusion -----------------------------------------------------------------------------------

/// What moves, a trial.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moves {
    /// Outputs of replicates that went to another host.
    pub(super) each: f64,
    /// The part of trials whose scores ran on several hosts.
    pub(super) split: f64,
}

/// Moves of 10 replicates on 8 hosts of one slot, by the scheduler, with so many trials in flight.
pub(super) fn moves(
    targets: u32,
    fused: bool,
    in_flight: &str,
    trials: u64,
) -> Result<Moves, String> {
    let study = format!("sampler: random; trials: {trials}; in_flight: {in_flight}");
    let seconds = |place: Place| {
        per_job(1.0, 0.1)(place) * lognormal(0.3, place.trial, place.job.into(), place.at.into())
    };
    let outcome = run(&calibration(&study, 10, targets), &[1; 8], fused, &seconds)?;
    Ok(Moves {
        each: outcome.moves as f64 / trials as f64,
        split: outcome.split as f64 / trials as f64,
    })
}

/// Outputs of 50 MB that go to another host, a trial of 10 replicates and 2 scores, on 5 hosts of 4 slots that are never idle.
pub(in crate::bench) fn moves_on_a_cluster(
    plain: bool,
    in_flight: &str,
    trials: u64,
) -> Result<f64, String> {
    let study = format!("sampler: random; trials: {trials}; in_flight: {in_flight}");
    let seconds = |place: Place| {
        per_job(1.0, 0.1)(place) * lognormal(0.3, place.trial, place.job.into(), place.at.into())
    };
    let site = Site {
        plain,
        bytes: 50_000_000,
        ..Site::new(&[4; 5], &seconds)
    };
    let outcome = simulate(&Planned::new(&calibration(&study, 10, 2))?, &site)?;
    Ok(outcome.moves as f64 / trials as f64)
}

/// The same where every node goes to a host by chance; or, `drawn`, the scores together to the host that has most.
pub(super) fn moves_by_chance(targets: u64, drawn: bool, trials: u64) -> Moves {
    let (mut moved, mut split) = (0_u64, 0_u64);
    let host = |trial: u64, at: u64| ((1.0 - unit(5, trial, at)) * 8.0) as usize;
    for trial in 0..trials {
        let mut replicates = [0_u64; 8];
        (0..10).for_each(|at| replicates[host(trial, at)] += 1);
        let mut hosts: BTreeSet<usize> = (0..targets).map(|at| host(trial, 10 + at)).collect();
        if drawn {
            hosts = (0..8)
                .max_by_key(|at| replicates[*at])
                .into_iter()
                .collect();
        }
        moved += hosts.iter().map(|at| 10 - replicates[*at]).sum::<u64>();
        split += u64::from(hosts.len() > 1);
    }
    Moves {
        each: moved as f64 / trials as f64,
        split: split as f64 / trials as f64,
    }
}

// --- ends -------------------------------------------------------------------------------------

/// 100 trials of which every tenth has a loss of NaN: scored, failed, and whether the study came to its end by its own rule.
pub(super) fn not_finite() -> Result<(u64, u64, bool), String> {
    let planned = Planned::new(&calibration("sampler: {tpe: {seed: 7}}; trials: 100", 5, 2))?;
    let seconds = per_job(1.0, 0.1);
    let loss = |trial: u64, values: &dagrun_model::Map| match trial % 10 {
        3 => f64::NAN,
        _ => bowl(trial, values),
    };
    let outcome = simulate(
        &planned,
        &Site {
            loss: &loss,
            plan_each: true,
            ..Site::new(&[8], &seconds)
        },
    )?;
    let counts = outcome.end.counts;
    let whole = outcome.end.reason == EndReason::Trials && outcome.end.succeeded();
    Ok((counts.told - counts.failed, counts.failed, whole))
}

/// Simulations that ran in a study of 200 replicates a trial.
pub(super) fn many_replicates(slots: u32, trials: u64) -> Result<u64, String> {
    let study = format!("sampler: random; trials: {trials}");
    let seconds = per_job(1.0, 0.5);
    Ok(run(&calibration(&study, 200, 2), &[slots], true, &seconds)?.simulations)
}

// --- figures ----------------------------------------------------------------------------------

/// All figures of the simulated clock.
pub(super) fn groups(size: Size) -> Result<Vec<Group>, String> {
    Ok(vec![
        count_figures()?,
        deduplication_figures(size)?,
        order_figures(size)?,
        refill_figures(size)?,
        move_figures(size)?,
        end_figures()?,
    ])
}

fn count_figures() -> Result<Group, String> {
    let text = |(naive, nodes, units): (u64, u64, u64)| format!("{naive}/{nodes}/{units}");
    Ok(Group {
        name: "Counts",
        what: "A trial as the planner makes it: nodes if each target ran its own simulations / distinct nodes / units of work.",
        figures: vec![
            Figure::new("R=5, T=2", "12/7/6", text(counts(5, 2)?)),
            Figure::new("R=10, T=2", "22/12/11", text(counts(10, 2)?)),
            Figure::new(
                "simulations of 16 trials, R=5, T=2: without / with deduplication",
                "160 / 80",
                format!("{} / {}", round_of_16(false)?, round_of_16(true)?),
            ),
        ],
    })
}

fn deduplication_figures(size: Size) -> Result<Group, String> {
    let mut figures = Vec::new();
    for (label, score, goal, document) in [
        ("a score takes 1/50 of a simulation", 0.02, "1.95-2.0", 2.0),
        ("a score takes 1/20 of a simulation", 0.05, "1.95-2.0", 2.0),
        (
            "a score takes as long as a simulation",
            1.0,
            "1.71",
            12.0 / 7.0,
        ),
    ] {
        let (ratio, busy) = deduplication(score, size.trials / 4)?;
        figures.push(
            Figure::new(label, goal, format!("{ratio:.2}"))
                .note(format!("slots busy {:.1} % (goal: > 95 %)", busy * 100.0))
                .bar(document, ratio),
        );
    }
    Ok(Group {
        name: "Deduplication",
        what: "Trials a minute with it / without it: 8 slots, R=5, T=2, durations of cv 0.1, 8 trials in flight. Busy slots: \
               with `in_flight: auto`, from the first told trial to the last ask.",
        figures,
    })
}

fn order_figures(size: Size) -> Result<Group, String> {
    let (batched, free) = async_and_batched(size.trials / 16 * 16)?;
    let (short_batched, short_free) = async_and_batched(100)?;
    let ratio = free.rate() / batched.rate();
    let short = short_batched.seconds() / short_free.seconds();
    let mut figures = vec![
        Figure::new(
            "async / batched: 16, 16 slots, fixed table",
            "1.67",
            format!("{ratio:.2}"),
        )
        .note(format!(
            "{:.1} and {:.1} trials a minute; documents: 4.5 and 2.7",
            free.rate(),
            batched.rate()
        ))
        .bar(1.67, ratio),
        Figure::new(
            "the same for 100 trials from start to end",
            "37 -> 22 min",
            format!(
                "{:.0} -> {:.0} min",
                short_batched.seconds() / 60.0,
                short_free.seconds() / 60.0
            ),
        )
        .note(format!(
            "{short:.2}: the end, where slots run empty, is in it"
        )),
    ];
    for (cv, goal) in [(0.3, "100 %"), (0.5, "95 %"), (0.9, "72 %")] {
        let part = lag(16, cv, size)?;
        figures.push(Figure::new(
            format!("lag: 16 / async, 8 slots, cv {cv}"),
            goal,
            format!("{:.1} %", part * 100.0),
        ));
    }
    for (order, goal) in [
        ("{lag: 16}", "60 of 60"),
        ("async", "fewer; 22 in the documents"),
    ] {
        figures.push(Figure::new(
            format!("TPE proposals that are equal under another completion order, {order}"),
            goal,
            format!("{} of 60", repeated(order)?),
        ));
    }
    Ok(Group {
        name: "Order",
        what: "A trial is one node. Fixed table: sixteen durations from 71.1 to 355.5 s in even steps, each once in every 16 trials in \
               changing order (largest / mean = 1.667). Others: log-normal durations with mean 1.",
        figures,
    })
}

fn refill_figures(size: Size) -> Result<Group, String> {
    let mut figures = Vec::new();
    for (cv, goal) in [(0.2, 12), (0.5, 32), (0.8, 47), (0.9, 50), (1.2, 58)] {
        let (slow, own) = refill(cv, size)?;
        figures.push(
            Figure::new(
                format!("cv {cv}: in order / on completion (dagrun)"),
                format!("{goal} % / none"),
                format!("{:.1} % / {:.2} %", slow * 100.0, own * 100.0),
            )
            .bar(
                1.0 / (1.0 - f64::from(goal) / 100.0),
                (1.0 - own) / (1.0 - slow),
            ),
        );
    }
    Ok(Group {
        name: "Refill",
        what: "Throughput that 8 slots lose with a window of 8: a driver beside that hands out work when the oldest piece has ended, \
               and dagrun. Log-normal durations, one node a trial.",
        figures,
    })
}

fn move_figures(size: Size) -> Result<Group, String> {
    let trials = size.trials / 4;
    let mut figures = Vec::new();
    for (targets, goal, document) in [
        (2, "16.4 -> 7.0", 16.4 / 7.0),
        (5, "34.1 -> 7.0", 34.1 / 7.0),
    ] {
        let chance = moves_by_chance(targets.into(), false, size.trials);
        let drawn = moves_by_chance(targets.into(), true, size.trials);
        figures.push(Figure::new(
            format!("T={targets}: scores to random hosts -> fused, to the host that has most"),
            goal,
            format!("{:.1} -> {:.1}", chance.each, drawn.each),
        ));
        for in_flight in ["16", "auto"] {
            let split = moves(targets, false, in_flight, trials)?;
            let fused = moves(targets, true, in_flight, trials)?;
            let figure = Figure::new(
                format!(
                    "T={targets}: random -> fused by dagrun's scheduler, in_flight: {in_flight}"
                ),
                goal,
                format!("{:.1} -> {:.1}", chance.each, fused.each),
            );
            figures.push(
                figure
                    .note(format!("{:.1} unfused by the scheduler", split.each))
                    .bar(document, chance.each / fused.each),
            );
            if targets == 2 {
                figures.push(
                    Figure::new(
                        format!("T={targets}: trials whose scores are split over hosts, in_flight: {in_flight}"),
                        "87.5 % -> 0 %",
                        format!("{:.1} % -> {:.1} %", chance.split * 100.0, fused.split * 100.0),
                    )
                    .note(format!("{:.1} % unfused by the scheduler", split.split * 100.0)),
                );
            }
        }
    }
    Ok(Group {
        name: "Moves",
        what: "Outputs of replicates (1 MiB each) that go to another host, a trial: R=10 on 8 hosts of one slot. The documents ran 16 \
               trials at once. With `auto` (3 trials here) a slot that frees has so few nodes to choose from that fused scores mostly \
               go wherever there is room: waiting for the best host would cost more than 1 MiB is worth.",
        figures,
    })
}

fn end_figures() -> Result<Group, String> {
    let (scored, failed, whole) = not_finite()?;
    Ok(Group {
        name: "Ends",
        what: "Studies that must come to their end.",
        figures: vec![
            Figure::new(
                "100 trials, every tenth loss NaN",
                "90 scored, 10 failed, 0 loop errors",
                format!(
                    "{scored} scored, {failed} failed, {} loop errors",
                    u8::from(!whole)
                ),
            ),
            Figure::new(
                "200 replicates on 1 slot",
                "200 simulations, ends",
                format!("{} simulations, ends", many_replicates(1, 1)?),
            ),
            Figure::new(
                "20 trials of 200 replicates on 20 slots",
                "4000 simulations, ends",
                format!("{} simulations, ends", many_replicates(20, 20)?),
            ),
            Figure::new(
                "20 trials of 200 replicates on 1 slot",
                "4000 simulations, ends",
                format!("{} simulations, ends", many_replicates(1, 20)?),
            ),
        ],
    })
}
