//! Figures with real processes: dagrun's orders beside each other, and dagrun beside Optuna with joblib's and Dask's processes.
//!
//! Nodes are `bench-node`, which sleeps by a fixed table: slots can be more than CPUs, and what CPU time is used is the engines'.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{Figure, Group};
use crate::bench::{
    Bench, Figures,
    measure::{Side, children_cpu, in_turn},
    peers, this_program,
};
use crate::tools::output;

/// Counted runs of each side.
const RUNS: usize = 3;
/// The script that runs Optuna.
const PEER: &str = include_str!("peer.py");
/// Slots beside peers.
const SLOTS: &str = "8";

/// Both groups.
pub(super) fn groups(bench: &Bench) -> Result<Vec<Group>, String> {
    Ok(vec![orders(bench)?, beside_optuna(bench)?])
}

// --- orders -----------------------------------------------------------------------------------

/// The fixed table's seconds are divided by this: from 0.18 to 0.89 s.
const ORDERS_SCALE: u32 = 400;

fn orders(bench: &Bench) -> Result<Group, String> {
    let trials = bench.size(320).max(64);
    let program = this_program()?;
    let (batched, free) = (
        one_node(&program, trials, "{batched: 16}"),
        one_node(&program, trials, "async"),
    );
    let folders = [bench.folder("study-batched")?, bench.folder("study-async")?];
    let sides = [
        dagrun(bench, &folders[0], batched, "16"),
        dagrun(bench, &folders[1], free, "16"),
    ];
    let mut measured = in_turn(&sides, runs(bench)).into_iter();
    let mut next = || measured.next().unwrap_or_else(|| Err("not run".into()));
    let (batched, free) = (next()?, next()?);
    let (ratio, rate) = (batched.wall / free.wall, |of: &Figures| {
        trials as f64 / of.wall * 60.0
    });
    Ok(Group {
        name: "Real processes: order",
        what: "The fixed table of \"Order\" with real processes, divided by 400, from the start of `dagrun` to its end: 16 slots, one node a trial, an empty cache. Medians of runs in turn.",
        figures: vec![
            Figure::new(
                format!("async / batched: 16, {trials} trials"),
                "> 1.5",
                format!("{ratio:.2}"),
            )
            .note(format!(
                "{:.0} and {:.0} trials a minute; {} and {}",
                rate(&free),
                rate(&batched),
                seconds(&free),
                seconds(&batched)
            ))
            .bar(1.5, ratio),
        ],
    })
}

/// Wall seconds with their range.
fn seconds(of: &Figures) -> String {
    format!("{:.1} s ({:.1} to {:.1})", of.wall, of.range.0, of.range.1)
}

// --- beside Optuna ----------------------------------------------------------------------------

/// The fixed table's seconds are divided by this: from 0.07 to 0.33 s, 0.2 in the mean.
const PEERS_SCALE: u32 = 1067;
/// An engine of the comparison: its name here, and as `peer.py` knows it.
const ENGINES: [(&str, &str); 3] = [
    ("dagrun", ""),
    ("Optuna + joblib", "joblib"),
    ("Optuna + Dask", "dask"),
];

/// What an engine took for each trial beyond its first ones.
struct Each {
    /// Trials a minute.
    rate: f64,
    /// CPU milliseconds a trial.
    cpu: f64,
    /// Wall and CPU seconds that are there without trials.
    fixed: (f64, f64),
}

fn beside_optuna(bench: &Bench) -> Result<Group, String> {
    let sizes = match bench.quick {
        true => [8, 24],
        false => [24, 104],
    };
    let program = this_program()?;
    let python = peers::python_with("optuna, joblib, distributed");
    let folders = ENGINES.map(|(_, engine)| bench.folder(&format!("study-real-{engine}")));
    let folders = folders.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut sides = Vec::new();
    for trials in sizes {
        for ((_, engine), folder) in ENGINES.iter().zip(&folders) {
            match (*engine, &python) {
                ("", _) => sides.push(dagrun(bench, folder, calibration(&program, trials), SLOTS)),
                (engine, Some(python)) => {
                    sides.push(peer(python, engine, trials, &program, folder))
                }
                (_, None) => {}
            }
        }
    }
    let count = sides.len() / sizes.len();
    let measured = in_turn(&sides, runs(bench));
    let bare = bare_cpu(bench, &program, sizes[1])?;
    let mut each = Vec::new();
    for ((name, _), at) in ENGINES.iter().zip(0..count) {
        let of = |at: usize| {
            measured[at]
                .as_ref()
                .map_err(|error| format!("{name}: {error}"))
        };
        each.push((*name, difference(of(at)?, of(at + count)?, sizes)));
    }
    let versions = match &python {
        Some(python) => versions(python)?,
        None => "no peers here: `cargo xtask bench study --peers`".into(),
    };
    Ok(Group {
        name: "Real processes: beside Optuna",
        what: "The same study (5 parameters, TPE, R=5, T=2, 7 processes a trial, simulations of 0.07 to 0.33 s that sleep) on 8 slots with 8 \
               trials in flight. Optuna: `optimize(n_jobs=8)`, its threads hand simulations and scores to one pool of 8 processes of \
               joblib, or to a Dask cluster of 8 local workers. A trial's figures are differences between a longer and a shorter \
               run, so no start-up is in them; medians of runs in turn. CPU time is that of the whole tree of processes without \
               what the 7 processes take when they are started by a bare loop. dagrun makes every result durable and keys every node; the others \
               keep all in memory.",
        figures: peer_figures(&each, bare, &versions, sizes),
    })
}

fn peer_figures(each: &[(&str, Each)], bare: f64, versions: &str, sizes: [u64; 2]) -> Vec<Figure> {
    let own = each.iter().find(|(name, _)| *name == "dagrun");
    let mut figures = Vec::new();
    for (name, it) in each {
        let figure = Figure::new(
            format!("{name}: trials a minute"),
            "",
            format!("{:.0}", it.rate),
        );
        figures.push(figure.note(format!(
            "{} to {} trials; besides, once: {:.1} s, of CPU {:.1} s",
            sizes[0], sizes[1], it.fixed.0, it.fixed.1
        )));
    }
    for (name, it) in each {
        figures.push(
            Figure::new(
                format!("{name}: CPU overhead a trial"),
                "",
                format!("{:.1} ms", it.cpu - bare),
            )
            .note(format!(
                "{:.1} ms of CPU, of them {bare:.1} ms in the 7 processes",
                it.cpu
            )),
        );
    }
    for (name, it) in each.iter().filter(|(name, _)| *name != "dagrun") {
        let Some((_, own)) = own else { continue };
        let ratio = own.rate / it.rate;
        figures.push(
            Figure::new(
                format!("trials a minute, dagrun / {name}"),
                ">= 1",
                format!("{ratio:.2}"),
            )
            .note(format!(
                "CPU overhead a trial: {:.1} times dagrun's",
                (it.cpu - bare) / (own.cpu - bare)
            ))
            .bar(1.0, ratio),
        );
    }
    if let Some(last) = figures.last_mut() {
        last.note = format!("{}; {versions}", last.note)
            .trim_start_matches("; ")
            .to_owned();
    }
    figures
}

fn difference(small: &Figures, large: &Figures, sizes: [u64; 2]) -> Each {
    let more = (sizes[1] - sizes[0]) as f64;
    let (wall, cpu) = (
        (large.wall - small.wall) / more,
        (large.cpu - small.cpu) / more,
    );
    Each {
        rate: 60.0 / wall,
        cpu: cpu * 1e3,
        fixed: (
            small.wall - wall * sizes[0] as f64,
            small.cpu - cpu * sizes[0] as f64,
        ),
    }
}

fn versions(python: &str) -> Result<String, String> {
    let code = "import optuna, joblib, distributed as d; print(f'Optuna {optuna.__version__}, joblib {joblib.__version__}, distributed {d.__version__}')";
    Ok(output(python, &["-c", code])?.trim().to_owned())
}

/// CPU milliseconds that the processes of a trial take by themselves: started one after the other, and without their sleep.
fn bare_cpu(bench: &Bench, program: &str, trials: u64) -> Result<f64, String> {
    let folder = bench.folder("study-real-bare")?;
    let before = children_cpu()?;
    for _ in 0..trials {
        for replicate in 0..5 {
            let (at, file) = (replicate.to_string(), format!("{replicate}.json"));
            let params = r#"{"a":0.5,"b":0.5,"c":0.5,"d":5,"e":1}"#;
            start(program, &folder, &["simulate", params, &at, "0", &file])?;
        }
        let files: Vec<String> = (0..5).map(|it| format!("{it}.json")).collect();
        for target in ["age", "distribution"] {
            let mut args = vec!["score", target];
            args.extend(files.iter().map(String::as_str));
            start(program, &folder, &args)?;
        }
    }
    Ok((children_cpu()? - before) / trials as f64 * 1e3)
}

fn start(program: &str, folder: &Path, args: &[&str]) -> Result<(), String> {
    let status = Command::new(program)
        .arg("bench-node")
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("cannot start `{program}`: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("bench-node {} failed: {status}", args.join(" "))),
    }
}

// --- sides ------------------------------------------------------------------------------------

fn runs(bench: &Bench) -> usize {
    if bench.quick { 1 } else { RUNS }
}

/// A study of one node a trial, which waits as long as the table has it for its number.
fn one_node(program: &str, trials: u64, order: &str) -> String {
    format!(
        "name: orders\nstudy:\n  space: {{k: {{int: [1, {trials}]}}}}\n  sampler: grid\n  trials: {trials}\n  in_flight: 16\n  \
             order: {order}\n  minimize: ${{{{ jobs.simulate.outputs.loss }}}}\njobs:\n  simulate:\n    outputs: {{loss: {{json: loss.json, \
             pointer: /loss}}}}\n    run: [{program}, bench-node, wait, \"${{{{ trial.k }}}}\", \"{ORDERS_SCALE}\", loss.json]\n"
    )
}

/// The study of `peer.py` as a pipeline.
fn calibration(program: &str, trials: u64) -> String {
    format!(
        "name: calibration\nstudy:\n  space:\n    a: {{uniform: [0, 1]}}\n    b: {{log_uniform: [0.01, 1]}}\n    c: {{uniform: [-1, 1]}}\n    \
         d: {{int: [0, 20]}}\n    e: {{choice: [0, 1]}}\n  sampler: {{tpe: {{seed: 7}}}}\n  trials: {trials}\n  in_flight: {SLOTS}\n  \
         minimize: ${{{{ sum(jobs.score.outputs.loss) }}}}\njobs:\n  simulate:\n    replicates: 5\n    outputs: {{series: series.json}}\n    \
         run: [{program}, bench-node, simulate, \"${{{{ toJSON(trial) }}}}\", \"${{{{ replicate.index }}}}\", \"{PEERS_SCALE}\", series.json]\n  \
         score:\n    needs: simulate\n    matrix: {{target: [age, distribution]}}\n    inputs: {{series: \"${{{{ needs.simulate.outputs.series }}}}\"}}\n    \
         outputs: {{loss: {{json: loss.json, pointer: /loss}}}}\n    run: [{program}, bench-node, score, \"${{{{ matrix.target }}}}\", \"${{{{ inputs.series }}}}\"]\n"
    )
}

fn dagrun<'a>(bench: &Bench, folder: &'a Path, pipeline: String, slots: &str) -> Side<'a> {
    let args = [
        "run",
        "pipeline.yaml",
        "-j",
        slots,
        "--color",
        "never",
        "--quiet",
    ];
    Side::new(bench.dagrun.display().to_string(), &args, folder)
        .env("DAGRUN_CACHE", folder.join("cache").display().to_string())
        .prepare(move |_| {
            emptied(folder)?;
            written(folder.join("pipeline.yaml"), &pipeline)
        })
}

fn peer<'a>(python: &str, engine: &str, trials: u64, program: &str, folder: &'a Path) -> Side<'a> {
    let (trials, scale) = (trials.to_string(), PEERS_SCALE.to_string());
    let args = ["peer.py", engine, &trials, SLOTS, program, &scale];
    Side::new(python, &args, folder).prepare(move |_| {
        emptied(folder)?;
        written(folder.join("peer.py"), PEER)
    })
}

fn emptied(folder: &Path) -> Result<(), String> {
    let done = match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => fs::create_dir_all(folder),
    };
    done.map_err(|error| format!("cannot empty {}: {error}", folder.display()))
}

fn written(path: PathBuf, text: &str) -> Result<(), String> {
    fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::study::{node, plans::Planned};

    #[test]
    fn the_studies_are_what_their_benches_say() -> Result<(), String> {
        let counts = Planned::new(&calibration("/bin/true", 24))?.counts();
        assert_eq!((counts.naive, counts.nodes, counts.units), (12, 7, 6));
        for order in ["async", "{batched: 16}"] {
            let planned = Planned::new(&one_node("/bin/true", 64, order))?;
            assert_eq!(planned.definition.trials, 64);
            assert_eq!(planned.counts().nodes, 1);
        }
        Ok(())
    }

    #[test]
    fn the_node_of_all_engines_simulates_and_scores() -> Result<(), String> {
        let folder = std::env::temp_dir().join(format!("bench-node-{}", std::process::id()));
        emptied(&folder)?;
        let file = folder.join("0.json").display().to_string();
        node(&["simulate", r#"{"a": 0.5, "b": 1}"#, "2", "0", &file])?;
        let read = fs::read_to_string(&file).map_err(|error| error.to_string())?;
        let read: serde_json::Value =
            serde_json::from_str(&read).map_err(|error| error.to_string())?;
        let value = read["value"].as_f64().ok_or("no value")?;
        assert!((value - 0.55).abs() < 1e-9, "{value}");
        node(&["wait", "3", "0", &file])?;
        assert!(
            node(&["score", "age"]).is_err(),
            "there is nothing to score"
        );
        assert!(node(&["sleep"]).is_err(), "there is no such word");
        fs::remove_dir_all(&folder).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_there_once_is_in_no_trial() {
        let of = |wall, cpu| Figures {
            wall,
            cpu,
            range: (wall, wall),
            runs: 1,
        };
        let each = difference(&of(3.0, 2.0), &of(7.0, 4.0), [10, 50]);
        assert!((each.rate - 600.0).abs() < 1e-9 && (each.cpu - 50.0).abs() < 1e-9);
        assert!((each.fixed.0 - 2.0).abs() < 1e-9 && (each.fixed.1 - 1.5).abs() < 1e-9);
    }
}
