//! `cargo xtask bench samplers`: own samplers beside Optuna's on functions with known optima, on a page of their own.
//!
//! Both sides run the same number of trials, told one by one, with as many seeds, and take turns function by function.

use super::{Bench, measure, peers, target};
use crate::tools::{output, root, run};

const FUNCTIONS: &[&str] = &[
    "sphere5",
    "rosenbrock5",
    "ackley5",
    "rastrigin5",
    "branin",
    "hartmann6",
    "mixed",
];
/// Own samplers that Optuna has too.
const SAMPLERS: &[&str] = &["tpe", "cmaes", "sobol", "random"];
/// The script that runs Optuna.
const PEER: &str = include_str!("samplers.py");

/// What a side came to.
struct Side {
    /// The lower quartile, the median and the upper quartile of the best value minus the optimum.
    quartiles: [f64; 3],
    /// CPU milliseconds a trial.
    cpu: f64,
}

/// Measures and writes `docs/benchmarks/samplers.md`.
pub(super) fn bench(bench: &Bench) -> Result<(), String> {
    println!("\n== samplers");
    run(
        "cargo",
        &[
            "build",
            "--release",
            "--quiet",
            "-p",
            "dagrun-study",
            "--example",
            "samplers",
        ],
    )?;
    let own = target()
        .join("release/examples/samplers")
        .display()
        .to_string();
    let peer = peers::python_with("optuna");
    let (trials, seeds) = if bench.quick { (50, 6) } else { (100, 30) };
    let mut text = String::from(
        "| sampler | function | own: quartiles | Optuna: quartiles | own ms | Optuna ms | median within |\n|---|---|---|---|---:|---:|---|\n",
    );
    for sampler in SAMPLERS {
        for function in FUNCTIONS {
            // Of what CMA-ES does not take.
            if *sampler == "cmaes" && *function == "mixed" {
                continue;
            }
            let (counts, arguments) = (
                [trials, seeds].map(|it| it.to_string()),
                [*function, *sampler],
            );
            let arguments = [arguments[0], arguments[1], &counts[0], &counts[1]];
            let ours = side(&own, &arguments, trials * seeds)?;
            let theirs = match &peer {
                Some(python) => {
                    let script = [&["-c", PEER], arguments.as_slice()].concat();
                    Some(side(python, &script, trials * seeds)?)
                }
                None => None,
            };
            let row = row(sampler, function, &ours, theirs.as_ref());
            print!("{row}");
            text.push_str(&row);
        }
    }
    let version = match &peer {
        Some(python) => output(python, &["-c", "import optuna; print(optuna.__version__)"])?,
        None => "missing: cargo xtask bench samplers --peers".to_owned(),
    };
    write(&text, version.trim(), trials, seeds)
}

/// Runs a side, which prints a line for each seed.
fn side(program: &str, arguments: &[&str], trials: u64) -> Result<Side, String> {
    let before = measure::children_cpu()?;
    let printed = output(program, arguments)?;
    let whole = measure::children_cpu()? - before;
    let mut bests = Vec::new();
    let mut own_count = None;
    for line in printed.lines() {
        let mut words = line.split_whitespace().map(str::parse::<f64>);
        let Some(Ok(best)) = words.next() else {
            return Err(format!("`{program}` printed `{line}`"));
        };
        bests.push(best);
        // Optuna counts its own time, so that the time to load it is left out.
        if let Some(Ok(seconds)) = words.next() {
            *own_count.get_or_insert(0.0) += seconds;
        }
    }
    bests.sort_by(f64::total_cmp);
    Ok(Side {
        quartiles: [0.25, 0.5, 0.75].map(|share| quantile(&bests, share)),
        cpu: own_count.unwrap_or(whole) * 1e3 / trials as f64,
    })
}

/// Of sorted values, between its neighbours.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len().saturating_sub(1)) as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    match (sorted.get(below), sorted.get(above)) {
        (Some(a), Some(b)) => a + (b - a) * place.fract(),
        _ => f64::NAN,
    }
}

fn row(sampler: &str, function: &str, ours: &Side, theirs: Option<&Side>) -> String {
    let quartiles = |it: &Side| {
        let [low, median, high] = it.quartiles.map(short);
        format!("{low} **{median}** {high}")
    };
    let (other, other_cpu, verdict) = match theirs {
        Some(it) => (
            quartiles(it),
            format!("{:.2}", it.cpu),
            match ours.quartiles[1] <= it.quartiles[2] {
                true => "yes",
                false => "**no**",
            },
        ),
        None => ("missing".into(), String::new(), ""),
    };
    format!(
        "| {sampler} | {function} | {} | {other} | {:.3} | {other_cpu} | {verdict} |\n",
        quartiles(ours),
        ours.cpu
    )
}

/// Three digits.
fn short(x: f64) -> String {
    let whole = x.abs().max(1e-12).log10().floor() as i32;
    format!("{x:.*}", usize::try_from(2 - whole).unwrap_or(0).min(9))
}

fn write(rows: &str, optuna: &str, trials: u64, seeds: u64) -> Result<(), String> {
    let commit = output("git", &["rev-parse", "--short", "HEAD"]).unwrap_or_default();
    let text = format!(
        "# Benchmarks of samplers\n\nWritten by `cargo xtask bench samplers --peers`. The best value of {trials} trials minus the optimum, told one \
         by one: lower quartile, **median** and upper quartile over {seeds} seeds. CPU milliseconds are those of a trial. The last column \
         says whether the own median is at most Optuna's upper quartile. `mixed` has a uniform, a log-uniform, an int, a log-int and a \
         choice of four; the others have the dimensions in their names, Branin two. `sobol` and `random` do not learn: \
         what differs between the sides there is chance.\n\nLast written at commit {}, beside Optuna {optuna}.\n\n{rows}",
        commit.trim()
    );
    let path = root().join("docs/benchmarks/samplers.md");
    std::fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let values = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(
            [0.0, 0.5, 0.75, 1.0].map(|share| quantile(&values, share)),
            [1.0, 3.0, 5.0, 8.0]
        );
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn numbers_have_three_digits() {
        for (x, expected) in [
            (0.012_345, "0.0123"),
            (12.345, "12.3"),
            (1234.5, "1234"),
            (0.0, "0.000000000"),
        ] {
            assert_eq!(short(x), expected);
        }
    }
}
