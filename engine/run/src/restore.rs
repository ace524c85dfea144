//! What a run that was cut off leaves to the next one.
//!
//! Results need nothing: the action cache has them. Failures that were charged do: else a node that fails could be tried
//! for ever by a machine that dies. And attempts whose end nobody has written down: where they outlive whoever started them, they need
//! not be made again.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use dagrun_events::{
    AttemptSummary, Inherited, Record, RunEvent, RunState,
    journal::{End, decode},
};
use dagrun_model::{NodeKey, RunId};

use crate::{RunError, Workspace, journal, own};

/// How many former runs are looked at: other pipelines of the folder have theirs in between.
const MOST_LOOKED_AT: usize = 32;

/// An unfinished run.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) run: RunId,
    /// Charged failures by node key.
    pub(crate) charged: BTreeMap<NodeKey, Charged>,
    /// An attempt id that was never used.
    pub(crate) next_attempt: u64,
    /// Attempts that may still run.
    pub(crate) inherits: Vec<Inherited>,
    /// The slots of its workers.
    pub(crate) slots: u32,
    pub(crate) torn_at: Option<u64>,
}

impl Restored {
    /// The runs of which workers may have something.
    pub(crate) fn runs(&self) -> Vec<RunId> {
        let inherited = self.inherits.iter().map(|it| it.run.as_str());
        let runs: BTreeSet<&str> = inherited.chain([self.run.0.as_str()]).collect();
        runs.into_iter().map(|run| RunId(run.to_owned())).collect()
    }
}

#[derive(Debug, PartialEq)]
pub(crate) struct Charged {
    pub(crate) failures: u32,
    pub(crate) last: Option<AttemptSummary>,
}

/// The run before `run`, if it is one of this pipeline and was cut off.
pub(crate) fn unfinished(
    workspace: &Workspace,
    run: &RunId,
    pipeline: &str,
) -> Result<Option<Restored>, RunError> {
    let earlier = workspace.runs().into_iter().rev();
    for former in earlier.filter(|former| former < run).take(MOST_LOOKED_AT) {
        let path = workspace.journal_path(&former);
        if !path.exists() {
            // It died before it made its journal: it did nothing.
            continue;
        }
        match last_of(&path, pipeline)? {
            Last::Other => continue,
            Last::Ended => return Ok(None),
            Last::CutOff => {}
        }
        let loaded = journal::load(&path)?;
        return Ok(Some(restored(former, &loaded.records, loaded.torn_at)));
    }
    Ok(None)
}

/// What a journal is to a new run of a pipeline.
enum Last {
    /// A run of another pipeline, or one that did nothing.
    Other,
    Ended,
    CutOff,
}

/// Looks at the first and the last record alone: a journal that ended well may be large.
fn last_of(path: &Path, pipeline: &str) -> Result<Last, RunError> {
    let bytes = own::read(path).map_err(RunError::io("read", path))?;
    let decoded = decode(&bytes);
    let event = |record: Option<&(u64, &[u8])>| {
        let record = Record::from_json(record?.1).ok()?;
        Some(record.event)
    };
    let ours = match event(decoded.records.first()) {
        Some(RunEvent::RunStarted(started)) => started.pipeline == pipeline,
        // Whose it was cannot be known: the full reading says what is wrong with it.
        _ => !matches!(decoded.end, End::Clean | End::Torn { .. }),
    };
    Ok(match event(decoded.records.last()) {
        _ if !ours => Last::Other,
        Some(RunEvent::RunEnded { .. }) if decoded.end == End::Clean => Last::Ended,
        _ => Last::CutOff,
    })
}

fn restored(run: RunId, records: &[Record], torn_at: Option<u64>) -> Restored {
    let state = RunState::fold(records);
    let mut charged = BTreeMap::new();
    for node in state.nodes.iter().filter(|node| node.charged > 0) {
        if let Some(key) = node.key {
            let last = state.last_attempt(node).and_then(|a| a.result.clone());
            let failures = node.charged;
            charged.insert(key, Charged { failures, last });
        }
    }
    let used = state.attempts.iter().map(|a| a.attempt).max().unwrap_or(0);
    let first = state.started.as_ref().map_or(1, |it| it.first_attempt);
    let inherits = inherits(&run, records, &state);
    Restored {
        run,
        charged,
        next_attempt: first.max(used + 1),
        inherits,
        slots: state.workers.values().map(|it| it.slots as u32).sum(),
        torn_at,
    }
}

/// Attempts whose end is not known: of the run itself, and those that it had inherited and did not get to.
fn inherits(run: &RunId, records: &[Record], state: &RunState) -> Vec<Inherited> {
    let open = state.attempts.iter().filter(|it| it.result.is_none());
    let own = open.filter_map(|attempt| {
        let node = &state.nodes[attempt.node];
        let process = &state.workers.get(&attempt.worker)?.process;
        let key = node.key?;
        // Where nothing outlives the run, nothing can be left of it.
        (!process.is_empty()).then(|| Inherited {
            run: attempt.adopted.clone().unwrap_or_else(|| run.0.clone()),
            attempt: attempt.attempt,
            node: node.id.clone(),
            key,
            number: attempt.number,
            process: process.clone(),
        })
    });
    let decided: BTreeSet<u64> = records
        .iter()
        .filter_map(|record| match &record.event {
            RunEvent::AttemptStarted { attempt, .. } | RunEvent::AttemptEnded { attempt, .. } => {
                Some(*attempt)
            }
            _ => None,
        })
        .collect();
    let former = state.started.iter().flat_map(|it| &it.inherits);
    let left = former.filter(|it| !decided.contains(&it.attempt)).cloned();
    own.chain(left).collect()
}

#[cfg(test)]
mod tests {
    use dagrun_events::{Record, RunEvent, RunStarted, journal as codec};
    use dagrun_model::{AttemptResult, Digest, FailureCause, Outcome};

    use super::*;

    fn write(workspace: &Workspace, run: &RunId, events: Vec<RunEvent>) {
        let mut bytes = codec::header().to_vec();
        for event in events {
            codec::encode(&Record { at: 1.0, event }.to_json().unwrap(), &mut bytes);
        }
        std::fs::write(workspace.journal_path(run), bytes).unwrap();
    }

    fn started(pipeline: &str) -> RunEvent {
        RunEvent::RunStarted(Box::new(RunStarted {
            pipeline: pipeline.into(),
            ..RunStarted::default()
        }))
    }

    fn failed() -> RunEvent {
        let cause = FailureCause::Exit {
            code: 1,
            step: String::new(),
        };
        RunEvent::AttemptEnded {
            node: "a".into(),
            key: Digest::of(b"a"),
            attempt: 4,
            result: Box::new((&AttemptResult::bare(Outcome::Failed(cause))).into()),
        }
    }

    #[test]
    fn only_a_run_that_was_cut_off_leaves_charges() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(folder.path()).unwrap();
        let lock = workspace.lock(&[]).unwrap();
        let first = workspace.new_run(&lock).unwrap();
        let second = workspace.new_run(&lock).unwrap();
        assert!(unfinished(&workspace, &second, "p").unwrap().is_none());

        write(&workspace, &first, vec![started("p"), failed(), failed()]);
        let restored = unfinished(&workspace, &second, "p").unwrap().unwrap();
        assert_eq!(restored.charged[&Digest::of(b"a")].failures, 2);
        assert!(unfinished(&workspace, &second, "other").unwrap().is_none());

        let ended = RunEvent::RunEnded {
            exit_code: 1,
            counts: Default::default(),
            plan: None,
            wall: 1.0,
        };
        write(&workspace, &first, vec![started("p"), failed(), ended]);
        assert!(unfinished(&workspace, &second, "p").unwrap().is_none());
    }

    #[test]
    fn a_damaged_journal_of_the_last_run_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(folder.path()).unwrap();
        let lock = workspace.lock(&[]).unwrap();
        let first = workspace.new_run(&lock).unwrap();
        let second = workspace.new_run(&lock).unwrap();
        write(&workspace, &first, vec![started("p"), failed(), failed()]);
        let path = workspace.journal_path(&first);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = unfinished(&workspace, &second, "p").unwrap_err();
        assert!(matches!(error, RunError::CorruptJournal { .. }));
    }
}
