//! Bytes that go from host to host when scores gather replicates: what placement and fusion save.

use std::fs;

use super::{page::Section, peer::Engine, stand::Stand};
use crate::bench::{Bench, study::exact::moves_on_a_cluster, this_program};

/// Bytes of a simulation's output: ten of them are more than the 64 MiB below which no node waits for a host.
const OUTPUT: u64 = 8_000_000;
const TRIALS: u64 = 40;
const IN_FLIGHT: &str = "20";
/// The fixed table's seconds are divided by this: simulations sleep 0.2 to 0.9 s.
const SCALE: &str = "400";

pub(super) fn measure(bench: &Bench) -> Result<Section, String> {
    let trials = bench.size(TRIALS).max(8);
    let plain = own(bench, trials, &["--no-locality", "--no-fuse"])?;
    let mut rows = Vec::new();
    let mut add = |side: &str, moved: f64, simulated: Option<f64>, note: &str| {
        rows.push(vec![
            side.to_owned(),
            format!("{moved:.2}"),
            format!("{:.0}", moved * OUTPUT as f64 / 1e6),
            format!("{:.2}", moved / plain),
            simulated.map_or(String::new(), |it| format!("{it:.2}")),
            note.to_owned(),
        ]);
    };
    let simulated = |plain| moves_on_a_cluster(plain, IN_FLIGHT, trials);
    add(
        "dagrun --no-locality --no-fuse",
        plain,
        Some(simulated(true)?),
        "",
    );
    for (name, args) in [
        ("dagrun --no-locality", &["--no-locality"][..]),
        ("dagrun --no-fuse", &["--no-fuse"][..]),
    ] {
        add(name, own(bench, trials, args)?, None, "");
    }
    add(
        "dagrun",
        own(bench, trials, &[])?,
        Some(simulated(false)?),
        "goal: at most 0.34 of plain",
    );
    match dask(bench, trials) {
        Ok(moved) => add(&Engine::Dask.named(), moved, None, "outputs in memory"),
        Err(trouble) => rows.push(missing(trouble)),
    }
    Ok(Section {
        part: "moves",
        title: "bytes that move",
        what: format!(
            "{trials} trials of 10 simulations with outputs of {} MB and 2 scores that gather them, {IN_FLIGHT} in flight, on 5 workers of 4 slots, each a host of its \
             own; nodes sleep. Counted are the bytes that the loopback carried, whatever they were for. `simulated` is the same scheduler on a simulated \
             clock, with as many trials.",
            OUTPUT / 1_000_000
        ),
        columns: &[
            "side",
            "outputs moved a trial",
            "MB a trial",
            "of plain",
            "simulated",
            "note",
        ],
        rows,
        notes: Vec::new(),
    })
}

fn missing(trouble: String) -> Vec<String> {
    let mut row = vec![Engine::Dask.named(), "missing".to_owned()];
    row.extend(std::iter::repeat_n(String::new(), 3));
    row.push(trouble);
    row
}

/// Outputs that moved for each trial.
fn own(bench: &Bench, trials: u64, args: &[&str]) -> Result<f64, String> {
    let slots: &[&str] = &["--slots", "4"];
    let stand = Stand::start(bench, "cluster-moves", &[slots; 5])?;
    let program = this_program()?;
    let project = stand.project(&format!(
        "name: moves\nstudy:\n  space: {{k: {{int: [1, {trials}]}}}}\n  sampler: grid\n  trials: {trials}\n  in_flight: {IN_FLIGHT}\n  order: async\n  \
         minimize: ${{{{ sum(jobs.score.outputs.loss) }}}}\njobs:\n  simulate:\n    replicates: 10\n    outputs: {{o: o.bin}}\n    \
         run: [{program}, bench-node, output, \"${{{{ trial.k }}}}\", \"${{{{ replicate.index }}}}\", \"{SCALE}\", \"{OUTPUT}\", o.bin]\n  \
         score:\n    needs: simulate\n    matrix: {{target: [age, distribution]}}\n    inputs: {{all: \"${{{{ needs.simulate.outputs.o }}}}\"}}\n    \
         outputs: {{loss: {{json: loss.json, pointer: /loss}}}}\n    run: [{program}, bench-node, gathered, \"${{{{ matrix.target }}}}\", \"${{{{ inputs.all }}}}\"]\n"
    ))?;
    let before = loopback()?;
    stand.run(&project, args)?;
    Ok((loopback()? - before) as f64 / OUTPUT as f64 / trials as f64)
}

fn dask(bench: &Bench, trials: u64) -> Result<f64, String> {
    let args = [&trials.to_string(), IN_FLIGHT, &OUTPUT.to_string()].map(str::to_owned);
    let said = Engine::Dask.measure(bench, "moves", &args.each_ref().map(String::as_str))?;
    let bytes = said["bytes"].as_f64().ok_or("the script gave no bytes")?;
    Ok(bytes / OUTPUT as f64 / trials as f64)
}

/// Bytes that the loopback has carried.
fn loopback() -> Result<u64, String> {
    let path = "/sys/class/net/lo/statistics/rx_bytes";
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
    text.trim()
        .parse()
        .map_err(|_| format!("{path} holds no number"))
}
