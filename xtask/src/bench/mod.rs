//! `cargo xtask bench`: dagrun beside its peers and bounds, as ratios in one run.
//!
//! Every comparison runs its sides in turn (A B A B ...), so that a machine whose speed drifts slows both. Figures are medians
//! of whole processes: wall seconds and CPU seconds of the process tree. Nothing here judges; goals stand beside the figures.

mod cases;
mod cluster;
mod cluster_sim;
mod gate;
mod graphs;
mod measure;
mod peers;
mod report;
mod samplers;
mod study;

use std::path::PathBuf;

use crate::tools::{root, run};

/// The figures of studies, which have a page of their own.
const STUDY: &str = "study";
/// Clusters on a simulated clock, on a page of their own.
const CLUSTER_SIM: &str = "cluster-sim";
/// Own samplers beside Optuna's, on a page of their own.
const SAMPLERS: &str = "samplers";

/// What a bench measured: rows beside dagrun's own.
pub(crate) struct Table {
    /// A short name, such as `noop`.
    pub(crate) name: &'static str,
    /// What is done, in one sentence.
    pub(crate) what: &'static str,
    /// The goal as the project states it.
    pub(crate) goal: &'static str,
    /// Rows; the first is dagrun, or the thing that the others are compared with.
    pub(crate) rows: Vec<Row>,
}

/// A side of a comparison.
pub(crate) struct Row {
    /// Who.
    pub(crate) side: String,
    /// How many nodes, files or bytes this side worked on.
    pub(crate) size: u64,
    /// The figures; `None` where the peer cannot be had here.
    pub(crate) figures: Option<Figures>,
    /// dagrun's wall time per unit of size divided by this side's; below 1 dagrun is faster.
    pub(crate) ratio: Option<f64>,
    /// Whatever else is worth saying.
    pub(crate) note: String,
}

/// Medians over the counted runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figures {
    /// Wall seconds.
    pub(crate) wall: f64,
    /// CPU seconds of the process and all it waited for.
    pub(crate) cpu: f64,
    /// The fastest and the slowest run, in wall seconds.
    pub(crate) range: (f64, f64),
    /// Counted runs.
    pub(crate) runs: usize,
}

/// What may be said beside names.
const FLAGS: [&str; 3] = ["--peers", "--quick", "--gate"];

/// Runs the benches whose names are given, or all.
pub(crate) fn bench(args: &[&str]) -> Result<(), String> {
    if let Some(unknown) = args
        .iter()
        .find(|arg| arg.starts_with('-') && !FLAGS.contains(arg))
    {
        return Err(format!(
            "unknown flag `{unknown}`; there are {}",
            FLAGS.join(", ")
        ));
    }
    let with_peers = args.contains(&"--peers");
    let quick = args.contains(&"--quick");
    let is_gate = args.contains(&"--gate");
    let names: Vec<&str> = args
        .iter()
        .copied()
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    for name in &names {
        let on_own_page = [STUDY, SAMPLERS, CLUSTER_SIM].contains(name) || cluster::is_named(name);
        if !cases::NAMES.contains(name) && !on_own_page {
            return Err(format!(
                "unknown bench `{name}`; there are {}, {STUDY}, {SAMPLERS}, {CLUSTER_SIM}, {}",
                cases::NAMES.join(", "),
                cluster::names().join(", ")
            ));
        }
        if is_gate && on_own_page {
            return Err(format!(
                "`{name}` has a page of its own, and no record that a gate could compare with; there are {}",
                cases::NAMES.join(", ")
            ));
        }
    }
    if names != [SAMPLERS] && names != [CLUSTER_SIM] {
        run("cargo", &["build", "--release", "--quiet", "-p", "dagrun"])?;
    }
    if with_peers {
        peers::install();
    }
    let bench = Bench {
        dagrun: target().join("release/dagrun"),
        scratch: target().join("bench"),
        quick,
    };
    std::fs::create_dir_all(&bench.scratch)
        .map_err(|error| format!("cannot make {}: {error}", bench.scratch.display()))?;
    let mut tables = Vec::new();
    for name in cases::NAMES {
        if names.is_empty() || names.contains(name) {
            println!("\n== {name}");
            let table = cases::run(&bench, name)?;
            print!("{}", report::markdown(&table));
            tables.push(table);
        }
    }
    if is_gate {
        let worse = gate::worse(&tables, &report::recorded());
        return match worse.is_empty() {
            true => Ok(()),
            false => Err(format!("slower than on record:\n  {}", worse.join("\n  "))),
        };
    }
    if names.is_empty() || names.contains(&STUDY) {
        study::run(&bench)?;
    }
    if names.is_empty() || names.contains(&SAMPLERS) {
        samplers::bench(&bench)?;
    }
    if names.is_empty() || names.contains(&CLUSTER_SIM) {
        cluster_sim::run(&bench)?;
    }
    if names.is_empty() || names.iter().any(|name| cluster::is_named(name)) {
        cluster::run(&bench, &names)?;
    }
    match tables.is_empty() {
        true => Ok(()),
        false => report::write(&tables),
    }
}

/// Where cargo builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The path of this program, for nodes that run it.
fn this_program() -> Result<String, String> {
    std::env::current_exe()
        .map(|path| path.display().to_string())
        .map_err(|error| format!("cannot find the path of this program: {error}"))
}

/// A study in a process of its own: `cargo xtask bench-study NODES`.
pub(crate) use study::core_alone as bare_study;

/// A measurement on a limited loopback: `cargo xtask bench-link`.
pub(crate) use cluster::on_link as bench_link;
use cluster::{fill, stamp};
/// A node of the benches with real processes: `cargo xtask bench-node ...`.
pub(crate) use study::node as bench_node;

/// The bare loop that `trues` compares with: `cargo xtask bench-spawn N`.
pub(crate) fn bare_spawn_loop(n: &str) -> Result<(), String> {
    cases::bare_spawn_loop(n.parse().map_err(|_| format!("`{n}` is not a number"))?)
}

/// Where things are, and how much is wanted.
pub(crate) struct Bench {
    pub(crate) dagrun: PathBuf,
    pub(crate) scratch: PathBuf,
    /// A tenth of the size: to see that it works, not to quote.
    pub(crate) quick: bool,
}

impl Bench {
    /// An empty folder for a side of a bench.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf, String> {
        let folder = self.scratch.join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder)
                .map_err(|error| format!("cannot clear {}: {error}", folder.display()))?;
        }
        std::fs::create_dir_all(&folder)
            .map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        Ok(folder)
    }

    /// `full`, or a tenth of it in a quick bench.
    pub(crate) fn size(&self, full: u64) -> u64 {
        if self.quick { full / 10 } else { full }
    }
}
