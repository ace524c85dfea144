//! How small nodes may be: the shortest of which half the time of the slots is work.

use super::{page::Section, peer::Engine, peer::numbers, stand::Stand};
use crate::bench::{Bench, measure::median};

/// Milliseconds that nodes sleep.
const LENGTHS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
/// Trials of a run: 10 simulations and 2 scores each.
const TRIALS: u64 = 50;
const SLOTS: f64 = 2.0;

pub(super) fn measure(bench: &Bench) -> Result<Section, String> {
    let rounds = if bench.quick { 1 } else { 2 };
    let trials = bench.size(TRIALS);
    let mut rows = vec![row(
        "dagrun".into(),
        &own(bench, trials, rounds)?,
        "every result durable",
    )];
    for (engine, note) in [
        (Engine::Dask, "`subprocess.run` in tasks"),
        (
            Engine::HyperQueue,
            "`hq job submit-file` with a journal, where there is an `hq`; else its package, whose client looks once a second",
        ),
        (Engine::Ray, "`subprocess.run` in tasks"),
    ] {
        let lengths: Vec<String> = LENGTHS.iter().map(ToString::to_string).collect();
        let args = [&trials.to_string(), &rounds.to_string(), &lengths.join(",")];
        let said = engine.measure(bench, "grain", &args.map(String::as_str));
        rows.push(match said {
            Ok(said) => {
                let walls = said["walls"].as_array().cloned().unwrap_or_default();
                let walls: Vec<f64> = walls.iter().map(|it| median(&numbers(it))).collect();
                row(engine.named(), &efficiencies(&walls, trials), note)
            }
            Err(trouble) => {
                let mut row = vec![engine.named(), "missing".into()];
                row.extend(LENGTHS.iter().map(|_| String::new()));
                row.push(trouble);
                row
            }
        });
    }
    Ok(Section {
        part: "grain",
        title: "how small nodes may be",
        what: format!(
            "{trials} trials of 10 simulations and 2 scores that need all of them, each a process that sleeps, on two workers of one slot. Efficiency is what \
             the nodes sleep, divided by what the slots had: by length of the nodes. METG(50 %) is where it crosses one half, between two lengths by \
             their logarithms. Goal: below the others."
        ),
        columns: &[
            "side",
            "METG(50 %), ms",
            "1 ms",
            "2 ms",
            "4 ms",
            "8 ms",
            "16 ms",
            "32 ms",
            "note",
        ],
        rows,
        notes: Vec::new(),
    })
}

fn row(name: String, efficiencies: &[f64], note: &str) -> Vec<String> {
    let mut row = vec![name, smallest(efficiencies)];
    row.extend(efficiencies.iter().map(|it| format!("{it:.2}")));
    row.push(note.into());
    row
}

fn own(bench: &Bench, trials: u64, rounds: u64) -> Result<Vec<f64>, String> {
    let slots: &[&str] = &["--slots", "1"];
    let stand = Stand::start(bench, "cluster-grain", &[slots, slots])?;
    let mut walls = Vec::new();
    for (at, length) in LENGTHS.iter().enumerate() {
        let mut of_length = Vec::new();
        for round in 0..rounds {
            let project = stand.project(&pipeline(*length, trials, at as u64 * rounds + round))?;
            of_length.push(stand.run(&project, &[])?.wall);
        }
        walls.push(median(&of_length));
    }
    Ok(efficiencies(&walls, trials))
}

/// `sleep` adds its arguments: the second tells nodes apart and takes no time.
fn pipeline(length: f64, trials: u64, number: u64) -> String {
    let seconds = length / 1e3;
    let (first, last) = (number * trials + 1, (number + 1) * trials);
    format!(
        "dagrun: 1\nname: grain\njobs:\n  simulate:\n    matrix: {{t: \"${{{{ range({first}, {last}) }}}}\"}}\n    replicates: 10\n    \
         run: [sleep, \"{seconds}\", \"${{{{ matrix.t }}}}e-9\", \"${{{{ replicate.index }}}}e-9\"]\n  \
         score:\n    needs: simulate\n    for_each: t\n    matrix: {{target: [1, 2]}}\n    \
         run: [sleep, \"{seconds}\", \"${{{{ matrix.t }}}}e-9\", \"${{{{ matrix.target }}}}e-10\"]\n"
    )
}

fn efficiencies(walls: &[f64], trials: u64) -> Vec<f64> {
    let work = |length: &f64| trials as f64 * 12.0 * length / 1e3 / SLOTS;
    LENGTHS
        .iter()
        .zip(walls)
        .map(|(length, wall)| work(length) / wall)
        .collect()
}

/// Where efficiency crosses one half.
fn smallest(efficiencies: &[f64]) -> String {
    let Some(above) = efficiencies.iter().position(|it| *it >= 0.5) else {
        return format!("> {}", LENGTHS[LENGTHS.len() - 1]);
    };
    let Some(below) = above.checked_sub(1) else {
        return format!("< {}", LENGTHS[0]);
    };
    let (low, high) = (efficiencies[below], efficiencies[above]);
    let share = (0.5 - low) / (high - low);
    let length = LENGTHS[below].ln() + share * (LENGTHS[above] / LENGTHS[below]).ln();
    format!("{:.1}", length.exp())
}
