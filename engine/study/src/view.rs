//! What a study shows of itself: rows, counts, the best trial and the Pareto front.

use std::{cmp::Ordering, sync::Arc};

use dagrun_model::{Digest, Map, Value};

use crate::{History, Scores, Source, Study, TrialEnd, TrialState};

/// What there is of what.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Trials that were asked for.
    pub asked: u64,
    /// Of them, those that came to their end.
    pub told: u64,
    /// Of these, those without values.
    pub failed: u64,
    /// Of those with values, the ones that break constraints.
    pub infeasible: u64,
    /// Replicates of all told trials.
    pub replicates: u64,
    /// Nodes of all told trials that were hits.
    pub hits: u64,
    /// Nodes of all told trials.
    pub nodes: u64,
    /// Seconds of all told trials together.
    pub seconds: f64,
}

/// The best trial so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    /// Its number; of equal ones the first.
    pub trial: u64,
    /// Its objective, as written.
    pub value: f64,
}

/// A line of a table of trials.
#[derive(Clone, Debug, PartialEq)]
pub struct TrialRow<'a> {
    /// Its number.
    pub trial: u64,
    /// Where it stands.
    pub state: TrialState,
    /// Where its point comes from.
    pub source: Source,
    /// Its coordinates; [`Space::values`](crate::Space::values) names them.
    pub point: &'a [f64],
    /// Its objectives, as written.
    pub values: Option<Vec<f64>>,
    /// By how much constraints are broken; 0: feasible.
    pub violation: f64,
    /// Why it failed.
    pub reason: Option<&'a str>,
    /// How many replicates it has.
    pub replicates: u32,
    /// Its time from start to end, with that of telling it again.
    pub seconds: f32,
    /// How many of its nodes were hits when it was told first.
    pub hits: u32,
    /// How many nodes it has.
    pub nodes: u32,
    /// What its result depends on; zeros as long as it has none.
    pub key: &'a Digest,
    /// How many told trials its ask saw.
    pub seen: u32,
    /// What its objectives were made of, in the order of [`Study::targets`].
    pub targets: Vec<Option<f64>>,
}

impl Study {
    /// A trial by its number; none where it was not asked for.
    pub fn row(&self, trial: u64) -> Option<TrialRow<'_>> {
        if trial == 0 || trial > self.table.counts.asked {
            return None;
        }
        let told = self.table.history.trial(trial);
        let cells = self.table.cells(trial);
        Some(TrialRow {
            trial,
            state: cells.state,
            source: cells.source,
            point: told.point,
            values: told.values.map(|values| self.as_written(values)),
            violation: told.violation,
            reason: cells.reason,
            replicates: cells.replicates,
            seconds: cells.seconds,
            hits: cells.hits,
            nodes: cells.nodes,
            key: cells.key,
            seen: cells.seen,
            targets: self.table.targets_of(trial),
        })
    }

    /// The names of what objectives were made of, in the order in which told trials brought them; at most
    /// [`TARGETS`](crate::TARGETS).
    pub fn targets(&self) -> impl Iterator<Item = &Arc<str>> {
        self.table.targets()
    }

    /// All trials that were asked for, by number.
    pub fn rows(&self) -> impl Iterator<Item = TrialRow<'_>> {
        (1..=self.table.counts.asked).filter_map(|trial| self.row(trial))
    }

    /// What a trial came to, also of a failed one that is to be told again; none where it has no end.
    pub fn end_of(&self, trial: u64) -> Option<TrialEnd> {
        let row = self.row(trial)?;
        let result = match (row.state, row.values) {
            (_, Some(values)) => Ok(Scores {
                values,
                violation: row.violation,
            }),
            // One that is to be told again had failed with this reason.
            _ => Err(self.table.reason(trial)?.to_owned()),
        };
        let targets = self.targets().zip(&row.targets);
        Some(TrialEnd {
            result,
            replicates: row.replicates,
            seconds: row.seconds,
            hits: row.hits,
            nodes: row.nodes,
            key: *row.key,
            targets: targets
                .filter_map(|(name, value)| Some((name.clone(), (*value)?)))
                .collect(),
        })
    }

    /// The parameters of a trial by name; none where it was not asked for.
    pub fn values(&self, trial: u64) -> Option<Map> {
        let row = self.row(trial)?;
        Some(self.definition.space.values(row.point))
    }

    /// How many trials, the first ones, are of a former definition: they count as they are.
    pub fn known(&self) -> u64 {
        self.known
    }

    /// What there is of what.
    pub fn counts(&self) -> Counts {
        self.table.counts
    }

    /// The best feasible trial of all that were told; none with several objectives.
    pub fn best(&self) -> Option<Best> {
        self.best
    }

    /// The feasible trials that no other one is better than in every objective, by number. With one objective: the best.
    ///
    /// It is worked out anew each time, in n log n steps for up to two objectives.
    pub fn front(&self) -> Vec<u64> {
        front(&self.table.history, self.table.counts.asked)
    }

    /// `study.best` of the language: `{trial, value, params}`, or null.
    pub fn best_value(&self) -> Value {
        let Some(best) = self.best else {
            return Value::Null;
        };
        let mut map = Map::new();
        map.insert("trial".into(), Value::Int(best.trial.cast_signed()));
        map.insert("value".into(), Value::Float(best.value));
        map.insert("params".into(), self.params(best.trial));
        Value::map(map)
    }

    /// `study.front` of the language: a list of `{trial, values, params}`.
    pub fn front_value(&self) -> Value {
        let entries = self.front().into_iter().map(|trial| {
            let row = self.row(trial).expect("a trial of the front was told");
            let values = row.values.unwrap_or_default();
            let goals = self.definition.objectives.iter().zip(values);
            let named: Map = goals
                .map(|(goal, value)| (goal.name.clone(), Value::Float(value)))
                .collect();
            let mut map = Map::new();
            map.insert("trial".into(), Value::Int(trial.cast_signed()));
            map.insert("values".into(), Value::map(named));
            map.insert("params".into(), self.params(trial));
            Value::map(map)
        });
        Value::list(entries)
    }

    /// Bytes of memory that rows and history hold.
    pub fn bytes(&self) -> usize {
        self.table.bytes()
    }

    fn params(&self, trial: u64) -> Value {
        self.values(trial).map_or(Value::Null, Value::map)
    }

    fn as_written(&self, values: &[f64]) -> Vec<f64> {
        let goals = self.definition.objectives.iter().zip(values);
        goals.map(|(goal, value)| goal.turned(*value)).collect()
    }
}

/// The trials that no other one dominates.
fn front(history: &History, asked: u64) -> Vec<u64> {
    let values = |trial: u64| history.trial(trial).values.unwrap_or_default();
    let mut trials: Vec<u64> = (1..=asked)
        .filter(|trial| {
            let told = history.trial(*trial);
            told.values.is_some() && told.violation == 0.0
        })
        .collect();
    // After this order nothing dominates what stands before it.
    trials.sort_by(|a, b| compare(values(*a), values(*b)).then(a.cmp(b)));
    let mut front: Vec<u64> = Vec::new();
    for trial in trials {
        let mine = values(trial);
        let beaten = if mine.len() <= 2 {
            // With two objectives the last of the front has the least second value so far.
            front.last().is_some_and(|it| dominates(values(*it), mine))
        } else {
            front.iter().any(|it| dominates(values(*it), mine))
        };
        if !beaten {
            front.push(trial);
        }
    }
    front.sort_unstable();
    front
}

pub(crate) fn compare(a: &[f64], b: &[f64]) -> Ordering {
    let pairs = a.iter().zip(b);
    pairs.fold(Ordering::Equal, |order, (a, b)| order.then(a.total_cmp(b)))
}

/// Whether `a` is nowhere worse than `b` and somewhere better.
pub(crate) fn dominates(a: &[f64], b: &[f64]) -> bool {
    let pairs = || a.iter().zip(b);
    pairs().all(|(a, b)| a <= b) && pairs().any(|(a, b)| a < b)
}
