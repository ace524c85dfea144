//! `cargo xtask bench cluster-sim`: what the scheduler makes of clusters that are not here, on a simulated clock.
//!
//! Makespans and bytes are exact: the same on every machine. CPU time and memory are those of the core and of the loop around it.

use std::fmt::Write as _;

use serde_json::Value;

use super::{Bench, study};
use crate::tools::{output, root};

/// Measures all and writes `docs/benchmarks/cluster-simulated.md`; a quick one is only shown.
pub(super) fn run(bench: &Bench) -> Result<(), String> {
    let mut text = String::new();
    slow_host(&mut text)?;
    bytes_moved(bench, &mut text)?;
    scale(bench, &mut text)?;
    print!("{text}");
    match bench.quick {
        true => Ok(()),
        false => write(&text),
    }
}

fn write(text: &str) -> Result<(), String> {
    let commit = output("git", &["rev-parse", "--short", "HEAD"]).unwrap_or_default();
    let path = root().join("docs/benchmarks/cluster-simulated.md");
    let page = format!(
        "# Clusters on a simulated clock\n\nWritten by `cargo xtask bench cluster-sim`: the real scheduler with hosts that are not here. \
         Makespans and bytes are exact, the same on every machine.\n\nLast written at commit {}.\n{text}",
        commit.trim()
    );
    std::fs::write(&path, page).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn example(args: &[&str]) -> Result<Vec<Value>, String> {
    let cargo = "run --release --quiet -p dagrun-sched --features sim --example cluster_sim --";
    let args: Vec<&str> = cargo.split(' ').chain(args.iter().copied()).collect();
    let text = output("cargo", &args)?;
    serde_json::from_str(&text).map_err(|error| format!("cluster_sim printed bad JSON: {error}"))
}

fn slow_host(text: &mut String) -> Result<(), String> {
    text.push_str(
        "\n## One host at half speed\n\nNodes of a minute on 5 hosts of 4 slots, one of which runs at half speed. The bound is what no order can \
         beat: the work divided by all speed, or whole nodes of the shortest length. Goal: within 10 % of it with second attempts. \
         `says` is what the slow host's calibration says, in thousandths; means of 20 seeds.\n\n\
         | nodes | lengths | says | bound, s | without | with | second attempts a run | slot seconds lost a run |\n\
         |---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let rows = example(&["makespan"])?;
    for pair in rows.chunks(2) {
        let [without, with] = pair else { continue };
        let runs = with["runs"].as_f64().unwrap_or(f64::NAN);
        let each = |name: &str| with[name].as_f64().unwrap_or(f64::NAN) / runs;
        let ratio = |row: &Value| row["makespan_over_bound"].as_f64().unwrap_or(f64::NAN);
        let _ = writeln!(
            text,
            "| {} | ± {} % | {} | {} | {:.3} | {:.3} | {:.1} | {:.0} |",
            with["nodes"],
            with["vary_percent"],
            with["slow_host_says"],
            with["bound_seconds"],
            ratio(without),
            ratio(with),
            each("second_attempts"),
            each("lost_slot_seconds"),
        );
    }
    Ok(())
}

fn bytes_moved(bench: &Bench, text: &mut String) -> Result<(), String> {
    let trials = bench.size(2_000);
    text.push_str(
        "\n## Bytes moved\n\nTrials of 10 replicates and 2 scores with outputs of 50 MB, on 5 hosts of 4 slots that are never idle. Plain is \
         without locality and without fusion. Goal: at most 0.34 of plain where the queue is full. With `in_flight: auto` there are fewer trials \
         than hosts, and hosts without one take from the others.\n\n\
         | in_flight | plain: outputs moved a trial | placed | MB a trial, plain | placed | ratio |\n|---|---:|---:|---:|---:|---:|\n",
    );
    for in_flight in ["auto", "10", "20"] {
        let plain = study::exact::moves_on_a_cluster(true, in_flight, trials)?;
        let placed = study::exact::moves_on_a_cluster(false, in_flight, trials)?;
        let _ = writeln!(
            text,
            "| {in_flight} | {plain:.2} | {placed:.2} | {:.0} | {:.0} | {:.2} |",
            plain * 50.0,
            placed * 50.0,
            placed / plain
        );
    }
    Ok(())
}

fn scale(bench: &Bench, text: &mut String) -> Result<(), String> {
    let nodes = bench.size(10_000_000);
    let _ = write!(
        text,
        "\n## Many workers\n\n{nodes} nodes in trials of 13, on workers of one slot, four to a host; twice what the slots hold is in flight. CPU time \
         includes the loop that plays the workers, which is measured by itself with 260,000 nodes; the rest is the core's, with what its memory \
         costs once that is larger than caches. Memory includes workers and running attempts, and with few live nodes \
         what does not depend on them. Goals: flat, and below 1 KiB.\n\n\
         | workers | CPU µs a node | of it the loop | bytes a live node |\n|---:|---:|---:|---:|\n"
    );
    for workers in [8, 100, 1_000, 10_000] {
        for row in example(&["scale", &workers.to_string(), &nodes.to_string()])? {
            let _ = writeln!(
                text,
                "| {workers} | {} | {} | {} |",
                row["cpu_micros_per_node"], row["loop_micros_per_node"], row["bytes_per_live_node"]
            );
        }
    }
    Ok(())
}
