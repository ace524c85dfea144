//! The JSON of `dagrun show --json`: names that scripts depend on.

use dagrun_events::{AttemptOutcome, AttemptSummary, NodeRow, RunState};
use serde_json::{Map, Value, json};

use crate::{statistics::losses_of, study::study};

/// A run as JSON: `counts`, `executed`, `wall` seconds, and `nodes`, a row for each distinct node with `id`, `ids`, `outcome`,
/// `outputs` (name -> digest, size) and `phases` in seconds.
pub fn show(state: &RunState) -> Value {
    let mut fields = about(state);
    fields.insert("nodes".into(), nodes(state).into());
    Value::Object(fields)
}

/// What a run is and how it ended, without its nodes.
pub(crate) fn about(state: &RunState) -> Map<String, Value> {
    let started = state.started.as_ref();
    let text = |get: fn(&dagrun_events::RunStarted) -> &str| started.map(get);
    let fields = json!({
        "run": text(|s| &s.run),
        "pipeline": text(|s| &s.pipeline),
        "path": text(|s| &s.path),
        "dagrun": text(|s| &s.dagrun),
        "host": text(|s| &s.host),
        "slots": started.map(|s| s.slots),
        "params": started.map(|s| &s.params),
        "resumes": started.and_then(|s| s.resumes.as_deref()),
        "started": state.started_at,
        "wall": state.wall,
        "finished": state.exit_code.is_some(),
        "exit_code": state.exit_code,
        "gave_up": state.gave_up,
        "plan": state.plan,
        "counts": state.counts,
        "study": study(state),
        "executed": state.executed,
        "exported": state.exported.iter().map(|(target, node, output)| json!({"target": target, "node": node, "output": output})).collect::<Vec<_>>(),
        "kept_back": state.kept_back.iter().map(|(target, reason)| json!({"target": target, "reason": reason})).collect::<Vec<_>>(),
        "warnings": state.warnings,
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn nodes(state: &RunState) -> Vec<Value> {
    let skipped = state.skipped.iter().map(
        |id| json!({"id": id, "ids": [id], "outcome": "skipped", "outputs": {}, "phases": {}}),
    );
    state
        .nodes
        .iter()
        .map(|node| row(state, node))
        .chain(skipped)
        .collect()
}

fn row(state: &RunState, node: &NodeRow) -> Value {
    let mut ids = vec![node.id.as_str()];
    ids.extend(node.also.iter().map(String::as_str));
    let last = state
        .last_attempt(node)
        .and_then(|attempt| attempt.result.as_ref());
    json!({
        "id": node.id,
        "ids": ids,
        "trial": state.trial_of(node),
        "outcome": node.outcome.map(|outcome| outcome.word()),
        "because": node.because,
        "cause": cause(node, last),
        "message": message(node, last),
        "outputs": node.outputs,
        "attempts": node.attempts.len(),
        "lost": lost(state, node),
        "host": state.last_attempt(node).and_then(|attempt| state.workers.get(&attempt.worker)).map(|worker| &worker.host),
        "phases": state.phases(node),
        "usage": state.usage(node),
        "pressure": last.map(|it| it.pressure).unwrap_or_default(),
    })
}

/// The attempts at a node that were lost: their numbers, where that was, and why.
fn lost(state: &RunState, node: &NodeRow) -> Vec<Value> {
    losses_of(state, node)
        .map(|(attempt, result)| {
            let worker = state.workers.get(&attempt.worker);
            json!({
                "number": attempt.number,
                "host": worker.map(|worker| &worker.host),
                "cause": cause_of(result),
                "message": result.describe(),
            })
        })
        .collect()
}

/// A stable short name of why the node has no result of its own: that of its failure, `timeout`, or `lost`.
fn cause(node: &NodeRow, last: Option<&AttemptSummary>) -> Option<&'static str> {
    node.cause
        .as_ref()
        .map(|cause| cause.code())
        .or_else(|| last.and_then(cause_of))
}

fn cause_of(result: &AttemptSummary) -> Option<&'static str> {
    match (&result.cause, result.outcome) {
        (Some(cause), _) => Some(cause.code()),
        (None, AttemptOutcome::TimedOut) => Some("timeout"),
        (None, AttemptOutcome::Lost) => Some("lost"),
        (None, _) => None,
    }
}

fn message(node: &NodeRow, last: Option<&AttemptSummary>) -> Option<String> {
    let unsuccessful = |result: &&AttemptSummary| result.outcome != AttemptOutcome::Succeeded;
    match last.filter(unsuccessful) {
        Some(result) => Some(result.describe()),
        None => node.cause.as_ref().map(ToString::to_string),
    }
}

#[cfg(test)]
mod tests {
    use dagrun_events::{NodeOutcome, Record, RunEvent};

    use super::*;

    #[test]
    fn names_of_the_contract() {
        let done = RunEvent::NodeDone {
            node: "a".into(),
            also: vec!["b".into()],
            end: NodeOutcome::Succeeded,
            because: None,
            cause: None,
            outputs: Default::default(),
        };
        let state = RunState::fold([&Record {
            at: 1.0,
            event: done,
        }]);
        let shown = show(&state);
        assert_eq!(
            shown["counts"],
            json!({"succeeded": 1, "cached": 0, "failed": 0, "skipped": 0, "cancelled": 0})
        );
        assert_eq!(shown["executed"], 0);
        assert_eq!(shown["nodes"][0]["ids"], json!(["a", "b"]));
        assert_eq!(shown["nodes"][0]["outcome"], "succeeded");
    }
}
