//! Measures planning: seconds and peak bytes for each node, as one line of JSON.
//!
//! `plan_million [NODES] [SHAPE]`; shapes: `levels` (as the no-op bench: levels of 100 nodes, each reading one of the level
//! before), `wide` (one job with three axes, then a gather), `chain` (four jobs joined on all axes), `files` (each
//! node reads a file of its own).

use std::{process::ExitCode, sync::Arc, time::Instant};

use dagrun_dsl::NoFiles;
use dagrun_model::{Artifact, BlobRef, Digest, NodeIx, Outputs};
use dagrun_plan::{Facts, FoundFile, Plan, PlanOptions, Upstream, UpstreamEnd, expand};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let nodes: usize = arguments
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1_000_000);
    let shape = arguments.next().unwrap_or_else(|| "wide".into());
    let text = match shape.as_str() {
        "levels" => levels(nodes),
        "chain" => chain(nodes),
        "files" => files(nodes),
        _ => wide(nodes),
    };
    let parsed = dagrun_dsl::parse("pipeline.yaml", &text, &NoFiles);
    let Some(pipeline) = parsed.pipeline else {
        return fail(&format!("{:#?}", parsed.diagnostics));
    };
    let before = peak_memory();
    let started = Instant::now();
    let made = expand(Arc::new(pipeline), PlanOptions::default()).and_then(|expansion| {
        let request = expansion.facts_needed();
        let found = |glob: dagrun_plan::GlobRequest| {
            vec![FoundFile {
                path: glob.pattern,
                blob: blob(),
            }]
        };
        let facts = Facts {
            globs: request.globs.into_iter().map(found).collect(),
            ..Facts::default()
        };
        expansion.finish(facts)
    });
    let plan = match made {
        Ok((plan, _)) => plan,
        Err(errors) => return fail(&format!("{errors:#?}")),
    };
    let planned = started.elapsed().as_secs_f64();
    let delta = plan.delta();
    let seconds = started.elapsed().as_secs_f64();
    let bytes = peak_memory().saturating_sub(before);
    let (look_up, action) = answers(&plan);
    let line = format!(
        r#"{{"shape":"{shape}","nodes":{},"sets":{},"plan_seconds":{planned:.3},"seconds":{seconds:.3},"peak_bytes":{bytes},"bytes_per_node":{},"look_up_us":{look_up:.2},"action_us":{action:.2}}}"#,
        plan.len(),
        delta.sets.len(),
        bytes / plan.len().max(1) as u64
    );
    print(&line);
    ExitCode::SUCCESS
}

/// Microseconds a node for its action digest and for its action, over a sample, when all nodes have succeeded.
fn answers(plan: &Plan) -> (f64, f64) {
    let results = Same(
        [("out".to_owned(), Artifact::File(blob()))]
            .into_iter()
            .collect(),
    );
    let step = (plan.len() / 10_000).max(1);
    let sample: Vec<NodeIx> = plan.nodes().step_by(step).collect();
    let started = Instant::now();
    for node in &sample {
        std::hint::black_box(plan.action_digest(*node, &results).is_ok());
    }
    let look_up = started.elapsed().as_secs_f64() * 1e6 / sample.len() as f64;
    let started = Instant::now();
    for node in &sample {
        std::hint::black_box(plan.action(*node, &results).is_ok());
    }
    (
        look_up,
        started.elapsed().as_secs_f64() * 1e6 / sample.len() as f64,
    )
}

fn blob() -> BlobRef {
    BlobRef {
        digest: Digest::of(b"same"),
        size: 4,
        executable: false,
    }
}

/// Every node has the same outputs.
struct Same(Outputs);

impl Upstream for Same {
    fn outputs(&self, _: NodeIx) -> Option<&Outputs> {
        Some(&self.0)
    }

    fn end(&self, _: NodeIx) -> Option<UpstreamEnd> {
        Some(UpstreamEnd::Succeeded)
    }

    fn run_id(&self) -> &str {
        "bench"
    }
}

#[expect(clippy::print_stdout, reason = "the result of this program")]
fn print(line: &str) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "a program says why it fails")]
fn fail(reason: &str) -> ExitCode {
    eprintln!("{reason}");
    ExitCode::FAILURE
}

/// The greatest resident memory of this process so far, in bytes; 0 where the system does not tell.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn wide(nodes: usize) -> String {
    let replicates = (nodes / 1000).max(1);
    format!(
        r#"dagrun: 1
name: wide
jobs:
  simulate:
    matrix: {{a: "${{{{ range(1, 100) }}}}", b: "${{{{ linspace(0, 1, 10) }}}}"}}
    replicates: {replicates}
    outputs: {{out: out.csv}}
    run: simulate --a ${{{{ matrix.a }}}} --b ${{{{ matrix.b }}}} --seed ${{{{ replicate.seed }}}} --out ${{{{ outputs.out }}}}
  score:
    needs: simulate
    for_each: a
    inputs: {{sims: "${{{{ needs.simulate.outputs.out }}}}"}}
    outputs: {{loss: loss.json}}
    run: [score, "${{{{ inputs.sims }}}}"]
"#
    )
}

fn chain(nodes: usize) -> String {
    let each = (nodes / 4).max(1);
    let mut text = format!(
        "dagrun: 1\nname: chain\njobs:\n  j0:\n    matrix: {{i: \"${{{{ range(1, {each}) }}}}\"}}\n    outputs: {{out: out}}\n    run: [make, \"${{{{ matrix.i }}}}\"]\n"
    );
    for ix in 1..4 {
        let before = ix - 1;
        text.push_str(&format!(
            "  j{ix}:\n    needs: j{before}\n    for_each: i\n    inputs: {{x: \"${{{{ needs.j{before}.outputs.out }}}}\"}}\n    outputs: {{out: out}}\n    run: [step{ix}, \"${{{{ inputs.x }}}}\"]\n"
        ));
    }
    text
}

fn files(nodes: usize) -> String {
    format!(
        "dagrun: 1\nname: files\njobs:\n  a:\n    matrix: {{i: \"${{{{ range(1, {nodes}) }}}}\"}}\n    inputs: [\"data/${{{{ matrix.i }}}}.txt\"]\n    outputs: {{out: out}}\n    run: [make, \"${{{{ matrix.i }}}}\"]\n"
    )
}

fn levels(nodes: usize) -> String {
    let mut text = String::from("dagrun: 1\nname: levels\njobs:\n");
    for level in 0..(nodes / 100).max(1) {
        text.push_str(&format!(
            "  l{level}:\n    matrix: {{i: \"${{{{ range(1, 100) }}}}\"}}\n"
        ));
        if level > 0 {
            let before = level - 1;
            text.push_str(&format!(
                "    needs: l{before}\n    inputs: {{x: \"${{{{ needs.l{before}.outputs.out }}}}\"}}\n    run: [make, \"{level}\", \"${{{{ matrix.i }}}}\", \"${{{{ inputs.x }}}}\"]\n"
            ));
        } else {
            text.push_str("    run: [make, \"${{ matrix.i }}\"]\n");
        }
        text.push_str("    outputs: {out: out.txt}\n");
    }
    text
}
