//! A row for every trial, as columns: what tables show beside points and values.

use std::sync::Arc;

use dagrun_model::Digest;
use rustc_hash::FxHashMap;

use crate::{History, Source, TrialEnd, history::grow, view::Counts};

/// Where a trial stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrialState {
    /// It was asked for and has not come to its end.
    Asked,
    /// It has values.
    Complete,
    /// It has none.
    Failed,
}

/// Reasons of failures are kept once each; beyond this many different ones a table says so and the log has them.
const REASONS: usize = 4096;

/// So many targets have a column; what a study reads beyond that stands in its log.
pub const TARGETS: usize = 64;

/// What stands in a column of targets where a trial has none of that name. No calculation gives these bits.
const NONE: f64 = f64::from_bits(u64::MAX);

/// A reason in a table is no longer than this many bytes; the log has all of it.
const REASON_LEN: usize = 300;

/// All trials of a study by number.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) history: History,
    pub(crate) counts: Counts,
    states: Vec<TrialState>,
    sources: Vec<Source>,
    seen: Vec<u32>,
    replicates: Vec<u32>,
    seconds: Vec<f32>,
    hits: Vec<u32>,
    nodes: Vec<u32>,
    keys: Vec<Digest>,
    reasons: Vec<u32>,
    /// By name, in the order in which trials brought them; each as long as the last trial that has it.
    targets: Vec<(Arc<str>, Vec<f64>)>,
    texts: Vec<Arc<str>>,
    text_ix: FxHashMap<Arc<str>, u32>,
}

/// The columns of one trial but for its point and values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cells<'a> {
    pub(crate) state: TrialState,
    pub(crate) source: Source,
    pub(crate) seen: u32,
    pub(crate) replicates: u32,
    pub(crate) seconds: f32,
    pub(crate) hits: u32,
    pub(crate) nodes: u32,
    pub(crate) key: &'a Digest,
    pub(crate) reason: Option<&'a str>,
}

impl Table {
    pub(crate) fn new(dims: usize, objectives: usize) -> Self {
        Self {
            history: History::new(dims, objectives),
            counts: Counts::default(),
            states: Vec::new(),
            sources: Vec::new(),
            seen: Vec::new(),
            replicates: Vec::new(),
            seconds: Vec::new(),
            hits: Vec::new(),
            nodes: Vec::new(),
            keys: Vec::new(),
            reasons: Vec::new(),
            targets: Vec::new(),
            texts: Vec::new(),
            text_ix: FxHashMap::default(),
        }
    }

    /// Adds the next trial.
    pub(crate) fn ask(&mut self, source: Source, point: &[f64], seen: u32) {
        self.history.add_point(point);
        push(&mut self.states, TrialState::Asked);
        push(&mut self.sources, source);
        push(&mut self.seen, seen);
        push(&mut self.replicates, 0);
        push(&mut self.seconds, 0.0);
        push(&mut self.hits, 0);
        push(&mut self.nodes, 0);
        push(&mut self.keys, Digest([0; 32]));
        push(&mut self.reasons, u32::MAX);
        self.counts.asked += 1;
    }

    /// Notes what a trial came to, in values to be minimised; the reason where it has none.
    pub(crate) fn tell(&mut self, trial: u64, values: Result<(&[f64], f64), &str>, end: &TrialEnd) {
        let at = index(trial);
        self.charge(at, end);
        self.replicates[at] = end.replicates;
        self.keys[at] = end.key;
        for (name, value) in &end.targets {
            self.set_target(name, at, *value);
        }
        let counts = &mut self.counts;
        counts.told += 1;
        counts.replicates += u64::from(end.replicates);
        counts.hits += u64::from(self.hits[at]);
        counts.nodes += u64::from(self.nodes[at]);
        counts.seconds += f64::from(self.seconds[at]);
        match values {
            Ok((values, violation)) => {
                counts.infeasible += u64::from(violation > 0.0);
                self.states[at] = TrialState::Complete;
                self.reasons[at] = u32::MAX;
                self.history.set(trial, Some(values), violation);
            }
            Err(reason) => {
                counts.failed += 1;
                self.states[at] = TrialState::Failed;
                self.history.set(trial, None, 0.0);
                self.reasons[at] = self.intern(reason);
            }
        }
    }

    /// Adds what a trial cost. What it took to tell it again comes on top, and its own work that it found again is no hit.
    fn charge(&mut self, at: usize, end: &TrialEnd) {
        self.hits[at] = match self.nodes[at] {
            0 => end.hits,
            _ => self.hits[at].min(end.nodes),
        };
        self.nodes[at] = end.nodes;
        self.seconds[at] += end.seconds;
    }

    /// Takes back what all trials came to. What they cost stays, and so does why they failed, in case that still holds.
    pub(crate) fn untell(&mut self) {
        self.history.hide();
        for trial in 1..=self.counts.asked {
            self.history.set(trial, None, 0.0);
        }
        self.states.fill(TrialState::Asked);
        self.targets.clear();
        self.counts = Counts {
            asked: self.counts.asked,
            ..Counts::default()
        };
    }

    fn set_target(&mut self, name: &Arc<str>, at: usize, value: f64) {
        let known = self.targets.iter().position(|(known, _)| known == name);
        let column = match known {
            Some(column) => column,
            None if self.targets.len() == TARGETS => return,
            None => {
                self.targets.push((name.clone(), Vec::new()));
                self.targets.len() - 1
            }
        };
        let column = &mut self.targets[column].1;
        if column.len() <= at {
            grow(column, at + 1 - column.len());
            column.resize(at + 1, NONE);
        }
        // Whatever bits a NaN had, it is a value.
        column[at] = if value.is_nan() { f64::NAN } else { value };
    }

    /// The names of all targets.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &Arc<str>> {
        self.targets.iter().map(|(name, _)| name)
    }

    /// The targets of a trial, in the order of [`Table::targets`].
    pub(crate) fn targets_of(&self, trial: u64) -> Vec<Option<f64>> {
        let is_told = self.state(trial) != TrialState::Asked;
        let cell = |column: &Vec<f64>| column.get(index(trial)).copied();
        let cells = self.targets.iter().map(|(_, column)| cell(column));
        cells
            .map(|cell| cell.filter(|x| is_told && x.to_bits() != NONE.to_bits()))
            .collect()
    }

    pub(crate) fn state(&self, trial: u64) -> TrialState {
        self.states[index(trial)]
    }

    pub(crate) fn cells(&self, trial: u64) -> Cells<'_> {
        let at = index(trial);
        let state = self.states[at];
        let reason = (state == TrialState::Failed).then(|| self.reason(trial));
        Cells {
            state,
            source: self.sources[at],
            seen: self.seen[at],
            replicates: self.replicates[at],
            seconds: self.seconds[at],
            hits: self.hits[at],
            nodes: self.nodes[at],
            key: &self.keys[at],
            reason: reason.flatten(),
        }
    }

    /// Why a trial failed, or had failed before all were to be told again.
    pub(crate) fn reason(&self, trial: u64) -> Option<&str> {
        let text = self.texts.get(self.reasons[index(trial)] as usize);
        text.map(|text| &**text)
    }

    /// Bytes of memory that it holds.
    pub(crate) fn bytes(&self) -> usize {
        let words = self.seen.capacity()
            + self.replicates.capacity()
            + self.seconds.capacity()
            + self.hits.capacity()
            + self.nodes.capacity()
            + self.reasons.capacity();
        // A text stands in the list and, with its hash, in the index.
        let targets: usize = self.targets.iter().map(|(_, it)| 8 * it.capacity()).sum();
        let texts: usize = self.texts.iter().map(|text| text.len() + 64).sum();
        self.history.bytes()
            + 4 * words
            + self.states.capacity()
            + self.sources.capacity()
            + 32 * self.keys.capacity()
            + targets
            + texts
    }

    fn intern(&mut self, reason: &str) -> u32 {
        let mut end = reason.len().min(REASON_LEN);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let mut text = &reason[..end];
        if self.texts.len() >= REASONS && !self.text_ix.contains_key(text) {
            text = "one of too many different reasons to list here; the log has it";
        }
        if let Some(ix) = self.text_ix.get(text) {
            return *ix;
        }
        let ix = u32::try_from(self.texts.len()).expect("the number of reasons is bounded");
        let text: Arc<str> = text.into();
        self.texts.push(text.clone());
        self.text_ix.insert(text, ix);
        ix
    }
}

fn index(trial: u64) -> usize {
    usize::try_from(trial - 1).expect("trials are counted from 1")
}

fn push<T>(column: &mut Vec<T>, item: T) {
    grow(column, 1);
    column.push(item);
}
