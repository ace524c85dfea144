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
    AttemptSummary, Heading, Inherited, Record, RunEvent, RunState,
    journal::{Decoded, End, decode},
};
use dagrun_model::{NodeKey, RunId};
use rustc_hash::FxHashSet;

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
        let bytes = own::read(&path).map_err(RunError::io("read", &path))?;
        let decoded = decode(&bytes);
        match last_of(&decoded, pipeline) {
            Last::Other => continue,
            Last::Ended => return Ok(None),
            Last::CutOff => {}
        }
        let torn_at = journal::whole(&path, decoded.end)?;
        let told = Told::read(&path, &decoded.records)?;
        return Ok(Some(restored(former, &told, torn_at)));
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
fn last_of(decoded: &Decoded<'_>, pipeline: &str) -> Last {
    let event = |record: Option<&(u64, &[u8])>| {
        let record = Record::from_json(record?.1).ok()?;
        Some(record.event)
    };
    let ours = match event(decoded.records.first()) {
        Some(RunEvent::RunStarted(started)) => started.pipeline == pipeline,
        // Whose it was cannot be known: the full reading says what is wrong with it.
        _ => !matches!(decoded.end, End::Clean | End::Torn { .. }),
    };
    match event(decoded.records.last()) {
        _ if !ours => Last::Other,
        Some(RunEvent::RunEnded { .. }) if decoded.end == End::Clean => Last::Ended,
        _ => Last::CutOff,
    }
}

/// What a journal says of attempts that have no result, and of all else but nodes.
struct Told {
    records: Vec<Record>,
    headings: Vec<Heading>,
}

impl Told {
    /// Reads in full only what is of use: nearly all attempts of a long run have succeeded.
    fn read(path: &Path, found: &[(u64, &[u8])]) -> Result<Self, RunError> {
        let headings: Vec<Heading> = found.iter().map(|(_, json)| Heading::of(json)).collect();
        let successes = headings.iter().filter_map(|heading| match heading {
            Heading::AttemptEnded { attempt, succeeded } => succeeded.then_some(*attempt),
            _ => None,
        });
        let succeeded: FxHashSet<u64> = successes.collect();
        let of_use = |heading: &Heading| match heading {
            Heading::AttemptStarted(attempt) => !succeeded.contains(attempt),
            Heading::AttemptEnded { succeeded, .. } => !succeeded,
            Heading::NodeDone | Heading::NodesCached => false,
            Heading::Other => true,
        };
        let useful = headings.iter().zip(found).filter(|(it, _)| of_use(it));
        let records = useful
            .map(|(_, (at, json))| journal::record(path, *at, json))
            .collect::<Result<_, _>>()?;
        Ok(Self { records, headings })
    }

    /// The attempts that were started or ended.
    fn attempts(&self) -> impl Iterator<Item = u64> {
        self.headings.iter().filter_map(|heading| match heading {
            Heading::AttemptStarted(attempt) | Heading::AttemptEnded { attempt, .. } => {
                Some(*attempt)
            }
            _ => None,
        })
    }
}

fn restored(run: RunId, told: &Told, torn_at: Option<u64>) -> Restored {
    let state = RunState::fold(&told.records);
    let mut charged = BTreeMap::new();
    for node in state.nodes.iter().filter(|node| node.charged > 0) {
        if let Some(key) = node.key {
            let last = state.last_attempt(node).and_then(|a| a.result.clone());
            let failures = node.charged;
            charged.insert(key, Charged { failures, last });
        }
    }
    let used = told.attempts().max().unwrap_or(0);
    let first = state.started.as_ref().map_or(1, |it| it.first_attempt);
    let inherits = inherits(&run, told, &state);
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
fn inherits(run: &RunId, told: &Told, state: &RunState) -> Vec<Inherited> {
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
    let former = state.started.iter().flat_map(|it| &it.inherits);
    let mut left: BTreeMap<u64, &Inherited> = former.map(|it| (it.attempt, it)).collect();
    told.attempts()
        .for_each(|attempt| _ = left.remove(&attempt));
    own.chain(left.into_values().cloned()).collect()
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
    fn what_succeeded_is_passed_over_and_the_rest_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(folder.path()).unwrap();
        let lock = workspace.lock(&[]).unwrap();
        let first = workspace.new_run(&lock).unwrap();
        let second = workspace.new_run(&lock).unwrap();
        let begun = |node: &str, attempt| RunEvent::AttemptStarted {
            node: node.into(),
            key: Digest::of(node.as_bytes()),
            attempt,
            number: 1,
            worker: 0,
            after: None,
            adopted: None,
        };
        let joined = RunEvent::WorkerJoined {
            worker: 0,
            host: "h".into(),
            slots: 2.0,
            memory: 0,
            process: "p".into(),
        };
        let good = RunEvent::AttemptEnded {
            node: "b".into(),
            key: Digest::of(b"b"),
            attempt: 7,
            result: Box::new((&AttemptResult::bare(Outcome::Succeeded(Default::default()))).into()),
        };
        let events = vec![
            started("p"),
            joined,
            begun("a", 4),
            begun("b", 7),
            failed(),
            good,
            begun("c", 6),
        ];
        write(&workspace, &first, events);
        let restored = unfinished(&workspace, &second, "p").unwrap().unwrap();
        assert_eq!((restored.next_attempt, restored.slots), (8, 2));
        let charged = &restored.charged[&Digest::of(b"a")];
        assert!(charged.last.as_ref().unwrap().is_charged());
        let left: Vec<&str> = restored
            .inherits
            .iter()
            .map(|it| it.node.as_str())
            .collect();
        assert_eq!((restored.charged.len(), left), (1, vec!["c"]));
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
