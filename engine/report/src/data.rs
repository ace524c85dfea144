//! What `dagrun report` knows of a run, as JSON: names that scripts depend on.

use std::collections::BTreeMap;

use dagrun_events::{RunStarted, RunState};
use serde_json::{Value, json};

use crate::{
    JobStatistics, SlotTime, Statistics, failure_groups, rerun_command, shell_word,
    show::about,
    slot_time, statistics,
    statistics::{hosts_json, hosts_of, stderr},
};

/// Ids that are listed of a kind of failure.
const LISTED: usize = 100;
/// Kinds of failure that are listed.
const KINDS: usize = 200;

/// A run in figures. `paces` as in [`summary`](crate::summary).
pub fn report(state: &RunState, paces: &BTreeMap<String, f64>) -> Value {
    data(state, &statistics(state), &slot_time(state), paces)
}

pub(crate) fn data(
    state: &RunState,
    found: &Statistics,
    slots: &SlotTime,
    paces: &BTreeMap<String, f64>,
) -> Value {
    let started = state.started.as_ref();
    let steps = |steps: &[(String, f64)]| -> Vec<Value> {
        let step = |(node, seconds): &(String, f64)| json!({"node": node, "seconds": seconds});
        steps.iter().map(step).collect()
    };
    let mut fields = about(state);
    for (name, value) in [
        ("command", json!(started.map(|s| &s.command))),
        ("settings", json!(started.map(|s| &s.settings))),
        ("busy", json!(found.busy)),
        ("utilisation", json!(found.utilisation)),
        ("saved", json!(found.saved(paces))),
        ("phases", json!(found.phases)),
        ("hosts", hosts_json(&hosts_of(state))),
        ("slot_time", slot_time_rows(slots).into()),
        ("advice", json!(slots.advice())),
        ("jobs", found.jobs.iter().map(job).collect()),
        ("slowest", steps(&found.slowest).into()),
        ("critical_path", steps(&found.critical_path).into()),
        ("failures", failures(state).into()),
    ] {
        fields.insert(name.into(), value);
    }
    Value::Object(fields)
}

fn slot_time_rows(found: &SlotTime) -> Vec<Value> {
    let causes = found.causes.iter();
    causes
        .map(|(what, seconds)| json!({"what": what.to_string(), "seconds": seconds}))
        .collect()
}

fn job(job: &JobStatistics) -> Value {
    json!({
        "name": job.name,
        "attempts": job.attempts,
        "running": job.running,
        "cached": job.cached,
        "unsuccessful": job.unsuccessful,
        "lost": job.lost,
        "cancelled": job.cancelled,
        "failed_nodes": job.failed_nodes,
        "skipped": job.skipped,
        "median": job.quantile(0.5),
        "p95": job.quantile(0.95),
        "cpu": job.cpu,
        "peak_memory": job.peak_memory,
        "bytes_in": job.bytes_in,
        "bytes_out": job.bytes_out,
        "phases": job.phases,
    })
}

fn failures(state: &RunState) -> Vec<Value> {
    failure_groups(state)
        .into_iter()
        .take(KINDS)
        .map(|(nodes, why)| {
            let ids: Vec<&str> = nodes.iter().map(|node| node.id.as_str()).collect();
            json!({
                "count": ids.len(),
                "nodes": ids[..ids.len().min(LISTED)],
                "why": why,
                "stderr": stderr(state, nodes[0]).map(|log| &log.tail),
                "rerun": rerun(state, ids[0]),
            })
        })
        .collect()
}

/// The command that runs a node of this run again, with the parameters that it had.
pub(crate) fn rerun(state: &RunState, node: &str) -> String {
    let default = RunStarted::default();
    let started = state.started.as_ref().unwrap_or(&default);
    let mut params = Vec::new();
    let mut files: Vec<&str> = Vec::new();
    for param in &started.params {
        match param.origin.as_str() {
            "default" => {}
            "command line" => {
                let value = match &param.value {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                params.push(format!("{}={value}", param.name));
            }
            file if files.contains(&file) => {}
            file => files.push(file),
        }
    }
    let command = rerun_command(&started.path, params.iter().map(String::as_str), files);
    format!("{command} --only {}", shell_word(node))
}
