//! Runs for tests, as short stories.

use dagrun_events::{AttemptSummary, NodeOutcome, Record, RunEvent, RunState};
use dagrun_model::{AttemptResult, Digest};

/// The run of these events, each with its time.
pub(crate) fn fold(events: impl IntoIterator<Item = (f64, RunEvent)>) -> RunState {
    let records: Vec<Record> = events
        .into_iter()
        .map(|(at, event)| Record { at, event })
        .collect();
    RunState::fold(&records)
}

/// The first attempt of a node is started by worker 0.
pub(crate) fn start(node: &str, attempt: u64, after: Option<&str>) -> RunEvent {
    RunEvent::AttemptStarted {
        node: node.into(),
        key: Digest::empty(),
        attempt,
        number: 1,
        worker: 0,
        after: after.map(Into::into),
        adopted: None,
    }
}

pub(crate) fn ended(node: &str, attempt: u64, result: &AttemptResult) -> RunEvent {
    RunEvent::AttemptEnded {
        node: node.into(),
        key: Digest::empty(),
        attempt,
        result: Box::new(AttemptSummary::from(result)),
    }
}

pub(crate) fn done(node: &str, end: NodeOutcome) -> RunEvent {
    RunEvent::NodeDone {
        node: node.into(),
        also: Vec::new(),
        end,
        because: None,
        cause: None,
        outputs: Default::default(),
    }
}
