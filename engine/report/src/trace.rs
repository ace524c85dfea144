//! A Chrome trace (the JSON array format): a row for each slot, a bar for each attempt, its phases below it.
//!
//! Opens in `ui.perfetto.dev` and `chrome://tracing`. Format: "Trace Event Format", complete events (`ph: "X"`), times in
//! microseconds.

use dagrun_events::RunState;
use serde_json::{Value, json};

use crate::{
    job_of,
    statistics::steps,
    timeline::{Bar, lanes},
};

/// The run as a Chrome trace.
pub fn chrome_trace(state: &RunState) -> Value {
    let mut events =
        vec![json!({"ph": "M", "name": "process_name", "pid": 1, "args": {"name": "dagrun"}})];
    for (row, lane) in lanes(state).iter().enumerate() {
        for bar in &lane.bars {
            attempt(state, bar, row, &mut events);
        }
        let name = format!("slot {}", row + 1);
        events.push(
            json!({"ph": "M", "name": "thread_name", "pid": 1, "tid": row, "args": {"name": name}}),
        );
    }
    json!({"traceEvents": events, "displayTimeUnit": "ms"})
}

fn attempt(state: &RunState, lane: &Bar, row: usize, events: &mut Vec<Value>) {
    let attempt = &state.attempts[lane.attempt];
    let Some(result) = &attempt.result else {
        return;
    };
    let about = json!({
        "outcome": result.outcome,
        "attempt": attempt.number,
        "cpu_s": result.usage.cpu,
        "peak_bytes": result.usage.peak_memory,
        "bytes_in": result.usage.bytes_in,
        "bytes_out": result.usage.bytes_out,
    });
    let id = &state.nodes[attempt.node].id;
    events.push(bar(
        state,
        id,
        row,
        lane.start,
        lane.end - lane.start,
        about,
    ));
    let mut at = lane.start;
    for (name, seconds) in steps(&result.phases) {
        if seconds > 0.0 {
            events.push(bar(state, name, row, at, seconds, Value::Null));
            at += seconds;
        }
    }
}

fn bar(state: &RunState, name: &str, row: usize, start: f64, seconds: f64, args: Value) -> Value {
    json!({
        "ph": "X",
        "name": name,
        "cat": job_of(name),
        "pid": 1,
        "tid": row,
        "ts": ((start - state.started_at) * 1e6).max(0.0),
        "dur": seconds.max(0.0) * 1e6,
        "args": args,
    })
}

#[cfg(test)]
mod tests {
    use dagrun_model::{AttemptResult, Outcome, Phases};

    use super::*;
    use crate::kit::{ended, fold, start};

    #[test]
    fn attempts_at_the_same_time_are_in_rows_of_their_own() {
        let mut result = AttemptResult::bare(Outcome::Succeeded(Default::default()));
        result.phases = Phases {
            compute: 1.0,
            ..Phases::default()
        };
        let mut events = Vec::new();
        for (attempt, begin) in [(1, 10.0), (2, 10.0), (3, 12.0_f64)] {
            let node = format!("a[i={attempt}]");
            events.push((begin, start(&node, attempt, None)));
            events.push((begin + 1.0, ended(&node, attempt, &result)));
        }
        events.sort_by(|a, b| a.0.total_cmp(&b.0));
        let trace = chrome_trace(&fold(events));
        let rows: Vec<_> = trace["traceEvents"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|event| event["ph"] == "X" && event["name"] != "compute")
            .map(|event| event["tid"].as_u64().unwrap())
            .collect();
        assert_eq!(rows, [0, 0, 1]);
    }
}
