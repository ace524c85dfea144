//! What a run that was cut off leaves to the next one.
//!
//! Results need nothing: the action cache has them. Failures that were charged do: else a node that fails could be tried
//! for ever by a machine that dies. And attempts whose end nobody has written down: where they outlive whoever started them, they need
//! not be made again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::OpenOptions,
    io::{self, Read},
    path::Path,
};

use dagrun_events::{
    AttemptSummary, Heading, Inherited, Record, RunEvent, RunState,
    journal::{self as codec, Decoded, End, HEADER_LEN, decode},
};
use dagrun_model::{NodeKey, RunId};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{RunError, Workspace, journal, own};

/// How many former runs are looked at: other pipelines of the folder have theirs in between.
const MOST_LOOKED_AT: usize = 32;
/// Bytes of a journal that are read at once, at first.
const PIECE: usize = 256 << 10;

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
    /// The runs that it went on with itself. Of what it gave up a worker that came back later may have something still, which nobody
    /// else tells to end.
    formers: BTreeSet<String>,
    /// The slots of its workers.
    pub(crate) slots: u32,
    pub(crate) torn_at: Option<u64>,
}

impl Restored {
    /// The runs of which workers may have something.
    pub(crate) fn runs(&self) -> Vec<RunId> {
        let inherited = self.inherits.iter().map(|it| it.run.as_str());
        let former = self.formers.iter().map(String::as_str);
        let own = [self.run.0.as_str()];
        let runs: BTreeSet<&str> = inherited.chain(former).chain(own).collect();
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
        let Some(gist) = Gist::read(&path, pipeline)? else {
            continue;
        };
        if gist.ended_well() {
            return Ok(None);
        }
        let torn_at = journal::whole(&path, gist.end)?;
        let told = gist.told(&path)?;
        return Ok(Some(restored(former, &told, torn_at)));
    }
    Ok(None)
}

/// What of a journal is of use: nearly all attempts of a long run have succeeded, and need not be read in full.
struct Gist {
    /// Where the last record begins.
    last: u64,
    /// Records by where they begin.
    useful: BTreeMap<u64, Vec<u8>>,
    /// Where attempts were started that have not succeeded, the last time.
    started: FxHashMap<u64, u64>,
    succeeded: FxHashSet<u64>,
    end: End,
}

impl Gist {
    /// Reads a journal piece by piece: a long one is much larger than what is of use in it. `None` where it is a run of another
    /// pipeline, or did nothing.
    fn read(path: &Path, pipeline: &str) -> Result<Option<Self>, RunError> {
        let trouble = || RunError::io("read", path);
        let mut file = own::open(OpenOptions::new().read(true), path).map_err(trouble())?;
        let mut gist = Self::new();
        let mut piece = vec![0; PIECE];
        // Where the piece begins, and how much of it is there.
        let (mut at, mut filled) = (0, 0);
        let mut is_known = false;
        loop {
            match file.read(&mut piece[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(trouble()(error)),
            }
            let used = match at {
                0 if !piece[..filled].starts_with(&codec::header()) => 0,
                0 => HEADER_LEN,
                _ => codec::decode_piece(&piece[..filled], |from, json| {
                    gist.take(at + from, json);
                }),
            };
            piece.copy_within(used..filled, 0);
            at += used as u64;
            filled -= used;
            if !is_known && gist.last > 0 {
                is_known = true;
                if gist.is_of_another(pipeline) {
                    return Ok(None);
                }
            }
            if filled == piece.len() {
                piece.resize(2 * filled, 0);
            }
        }
        if filled > 0 || at == 0 {
            // Where it is torn or damaged cannot be told from a piece.
            let bytes = own::read(path).map_err(trouble())?;
            gist = Self::of(&decode(&bytes));
        }
        Ok((!gist.is_of_another(pipeline) && gist.is_one()).then_some(gist))
    }

    fn of(decoded: &Decoded<'_>) -> Self {
        let mut gist = Self::new();
        for (at, json) in &decoded.records {
            gist.take(*at, json);
        }
        gist.end = decoded.end;
        gist
    }

    fn new() -> Self {
        Self {
            last: 0,
            useful: BTreeMap::new(),
            started: FxHashMap::default(),
            succeeded: FxHashSet::default(),
            end: End::Clean,
        }
    }

    fn take(&mut self, at: u64, json: &[u8]) {
        self.last = at;
        match Heading::of(json) {
            Heading::AttemptStarted(attempt) if self.succeeded.contains(&attempt) => return,
            Heading::AttemptStarted(attempt) => {
                if let Some(former) = self.started.insert(attempt, at) {
                    self.useful.remove(&former);
                }
            }
            Heading::AttemptEnded {
                attempt,
                succeeded: true,
            } => {
                self.succeeded.insert(attempt);
                if let Some(at) = self.started.remove(&attempt) {
                    self.useful.remove(&at);
                }
                return;
            }
            Heading::NodeDone | Heading::NodesCached => return,
            Heading::AttemptEnded { .. } | Heading::Other => {}
        }
        self.useful.insert(at, json.to_vec());
    }

    fn event(&self, at: u64) -> Option<RunEvent> {
        let record = Record::from_json(self.useful.get(&at)?).ok()?;
        Some(record.event)
    }

    fn first(&self) -> Option<RunEvent> {
        self.event(HEADER_LEN as u64)
    }

    fn is_of_another(&self, pipeline: &str) -> bool {
        matches!(self.first(), Some(RunEvent::RunStarted(it)) if it.pipeline != pipeline)
    }

    /// Whether it did something. Whose a damaged one was cannot be known: the full reading says what is wrong with it.
    fn is_one(&self) -> bool {
        let began = matches!(self.first(), Some(RunEvent::RunStarted(_)));
        began || !matches!(self.end, End::Clean | End::Torn { .. })
    }

    fn ended_well(&self) -> bool {
        self.end == End::Clean && matches!(self.event(self.last), Some(RunEvent::RunEnded { .. }))
    }

    fn told(self, path: &Path) -> Result<Told, RunError> {
        let mut told = Told {
            records: Vec::with_capacity(self.useful.len()),
            attempts: self.succeeded,
        };
        for (at, json) in &self.useful {
            if let Heading::AttemptStarted(attempt) | Heading::AttemptEnded { attempt, .. } =
                Heading::of(json)
            {
                told.attempts.insert(attempt);
            }
            told.records.push(journal::record(path, *at, json)?);
        }
        Ok(told)
    }
}

/// What a journal says of attempts that have no result, and of all else but nodes.
struct Told {
    records: Vec<Record>,
    /// The attempts that were started or ended.
    attempts: FxHashSet<u64>,
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
    let used = told.attempts.iter().max().copied().unwrap_or(0);
    let first = state.started.as_ref().map_or(1, |it| it.first_attempt);
    let inherits = inherits(&run, told, &state);
    Restored {
        run,
        charged,
        next_attempt: first.max(used + 1),
        inherits,
        formers: inherited_from(&state).map(|it| it.run.clone()).collect(),
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
    let former = inherited_from(state);
    let mut left: BTreeMap<u64, &Inherited> = former.map(|it| (it.attempt, it)).collect();
    left.retain(|attempt, _| !told.attempts.contains(attempt));
    own.chain(left.into_values().cloned()).collect()
}

fn inherited_from(state: &RunState) -> impl Iterator<Item = &Inherited> {
    state.started.iter().flat_map(|it| &it.inherits)
}

#[cfg(test)]
mod tests {
    use dagrun_events::{RunStarted, journal as codec};
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

    /// A worker that was away while a run gave its attempts up may be back for the next: that one tells it to end them.
    #[test]
    fn what_was_given_up_is_asked_for_by_the_next_too() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(folder.path()).unwrap();
        let lock = workspace.lock(&[]).unwrap();
        let second = workspace.new_run(&lock).unwrap();
        let third = workspace.new_run(&lock).unwrap();
        let inherited = Inherited {
            run: "first".into(),
            attempt: 4,
            node: "a".into(),
            key: Digest::of(b"a"),
            number: 1,
            process: "p".into(),
        };
        let started = RunEvent::RunStarted(Box::new(RunStarted {
            pipeline: "p".into(),
            inherits: vec![inherited],
            ..RunStarted::default()
        }));
        write(&workspace, &second, vec![started, failed()]);
        let restored = unfinished(&workspace, &third, "p").unwrap().unwrap();
        assert_eq!(restored.inherits, []);
        assert_eq!(restored.runs(), [second, RunId("first".into())]);
    }

    #[test]
    fn a_long_journal_says_the_same_in_pieces_as_in_whole() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(folder.path()).unwrap();
        let lock = workspace.lock(&[]).unwrap();
        let run = workspace.new_run(&lock).unwrap();
        let key = Digest::of(b"k");
        let ended = |attempt, outcome| RunEvent::AttemptEnded {
            node: "n".into(),
            key,
            attempt,
            result: Box::new((&AttemptResult::bare(outcome)).into()),
        };
        let mut events = vec![started("p")];
        for attempt in 1..3000 {
            events.push(RunEvent::AttemptStarted {
                node: "n".into(),
                key,
                attempt,
                number: 1,
                worker: 0,
                after: None,
                adopted: None,
            });
            match attempt % 11 {
                0 => {}
                1 => events.push(ended(attempt, Outcome::Cancelled)),
                _ => events.push(ended(attempt, Outcome::Succeeded(Default::default()))),
            }
            if attempt == 1500 {
                let message = "a record longer than a piece ".repeat(20_000);
                events.push(RunEvent::Warning { message });
            }
        }
        write(&workspace, &run, events);
        let path = workspace.journal_path(&run);
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.len() > 3 * PIECE);
        // Whole, torn within a record, and damaged.
        for (cut, flip) in [(0, None), (3, None), (0, Some(bytes.len() / 2))] {
            let mut bytes = bytes[..bytes.len() - cut].to_vec();
            if let Some(at) = flip {
                bytes[at] ^= 1;
            }
            std::fs::write(&path, &bytes).unwrap();
            let pieces = Gist::read(&path, "p").unwrap().unwrap();
            let whole = Gist::of(&decode(&bytes));
            assert_eq!(
                (pieces.end, pieces.last, &pieces.useful, &pieces.succeeded),
                (whole.end, whole.last, &whole.useful, &whole.succeeded),
            );
            assert!(pieces.useful.len() < 1000, "{}", pieces.useful.len());
            assert!(Gist::read(&path, "other").unwrap().is_none());
        }
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
