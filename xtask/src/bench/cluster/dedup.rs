//! What sharing simulations between targets is worth.

use super::{page::Section, stand::Stand};
use crate::bench::{Bench, this_program};

/// Simulations take 33 s in the documents; here a hundredth.
const TIME_SCALE: f64 = 100.0;
/// The fixed table's seconds (213 in the mean) are divided by this.
const SCALE: &str = "646";

/// The two clusters of the documents: workers of one slot, trials in flight, trials.
const CLUSTERS: [(usize, u64, u64); 2] = [(8, 8, 64), (20, 20, 100)];

pub(super) fn measure(bench: &Bench) -> Result<Section, String> {
    let mut rows = Vec::new();
    let mut rates = Vec::new();
    for (workers, in_flight, trials) in CLUSTERS {
        let trials = bench.size(trials).max(in_flight);
        let mut of_cluster = Vec::new();
        for shared in [false, true] {
            let wall = own(bench, workers, in_flight, trials, shared)?;
            let minutes = wall * TIME_SCALE / 60.0;
            of_cluster.push(trials as f64 / minutes / workers as f64);
        }
        let [apart, shared] = of_cluster[..] else {
            continue;
        };
        rates.push((apart, shared));
        rows.push(vec![
            format!("{workers} workers"),
            trials.to_string(),
            format!("{apart:.3}"),
            format!("{shared:.3}"),
            format!("{:.2}", shared / apart),
            String::new(),
        ]);
    }
    let (moved_on, before) = (rates[0].1, rates[1].0);
    rows.push(vec![
        "8 workers with, 20 without".into(),
        String::new(),
        format!("{before:.3}"),
        format!("{moved_on:.3}"),
        format!("{:.2}", moved_on / before),
        "the documents: 0.150 without at 20 workers, 0.131 with at 8 (0.87); goal: at least 1.95"
            .into(),
    ]);
    Ok(Section {
        part: "dedup",
        title: "simulations that targets share",
        what: "Trials of 5 simulations and 2 targets on workers of one slot, as in the documents, a hundred times as fast: simulations sleep 0.33 s in the mean \
               and scores next to nothing. Without deduplication (`--no-dedup`) each target has simulations of its own: 12 nodes a trial instead of 7. Trials per \
               slot-minute, at the documents' time scale, from the start of the client to its end."
            .into(),
        columns: &["cluster", "trials", "without", "with", "with / without", "note"],
        rows,
        notes: Vec::new(),
    })
}

fn own(
    bench: &Bench,
    workers: usize,
    in_flight: u64,
    trials: u64,
    shared: bool,
) -> Result<f64, String> {
    let slots: &[&str] = &["--slots", "1"];
    let stand = Stand::start(bench, "cluster-dedup", &vec![slots; workers])?;
    let program = this_program()?;
    let project = stand.project(&format!(
        "name: dedup\nstudy:\n  space: {{k: {{int: [1, {trials}]}}}}\n  sampler: grid\n  trials: {trials}\n  in_flight: {in_flight}\n  order: async\n  \
         minimize: ${{{{ sum(jobs.score.outputs.loss) }}}}\njobs:\n  simulate:\n    replicates: 5\n    outputs: {{o: o.json}}\n    \
         run: [{program}, bench-node, output, \"${{{{ trial.k }}}}\", \"${{{{ replicate.index }}}}\", \"{SCALE}\", \"64\", o.json]\n  \
         score:\n    needs: simulate\n    matrix: {{target: [1, 2]}}\n    inputs: {{all: \"${{{{ needs.simulate.outputs.o }}}}\"}}\n    \
         outputs: {{loss: {{json: loss.json, pointer: /loss}}}}\n    run: [{program}, bench-node, gathered, \"${{{{ matrix.target }}}}\", \"${{{{ inputs.all }}}}\"]\n"
    ))?;
    let without: &[&str] = if shared { &[] } else { &["--no-dedup"] };
    Ok(stand.run(&project, without)?.wall)
}
