//! From a log to the study that wrote it.

use thiserror::Error;

use crate::{
    Definition, FORMAT, Order, Source, Study, StudyRecord, TrialEnd, TrialState, describe::order_of,
};

/// How many of the last asks are asked again and compared, where the order makes them repeatable.
const CHECKED: u64 = 256;

/// Why a log cannot be gone on with.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ReplayError {
    /// It was written by another version.
    #[error(
        "the study's log has format {0}, and this version reads {FORMAT}; go on with the version that wrote it, or begin a new study"
    )]
    Format(u32),
    /// The study was defined otherwise.
    #[error("the study has changed: {}", .0.join("; "))]
    Changed(Vec<String>),
    /// A record does not follow from those before it.
    #[error("record {at} of the study's log is out of place: {what}")]
    Broken {
        /// Its position, from 1.
        at: usize,
        /// What is wrong.
        what: String,
    },
    /// The sampler would ask for another point now.
    #[error(
        "trial {0} was asked for under another point than the sampler gives now, so the study would not be repeatable; begin a new study, or keep the told trials as known points"
    )]
    Differs(u64),
}

/// What [`Study::keep`] took over.
#[derive(Debug)]
pub struct Kept {
    /// The new study, with what was known in it.
    pub study: Study,
    /// Its log so far.
    pub records: Vec<StudyRecord>,
    /// Told trials of the former study that do not fit into this one, with why.
    pub dropped: Vec<(u64, String)>,
}

impl Study {
    /// The study as if it had never stopped. Trials that were asked for and not told are started again by the next
    /// [`StudyEvent::Slots`](crate::StudyEvent::Slots), under the recorded points. Without records: a new study.
    ///
    /// # Errors
    /// When the log is of another study or version, or is broken.
    pub fn replay(
        definition: Definition,
        records: impl IntoIterator<Item = StudyRecord>,
    ) -> Result<Self, ReplayError> {
        Self::replay_into(Self::new(definition), records)
    }

    pub(crate) fn replay_into(
        mut study: Self,
        records: impl IntoIterator<Item = StudyRecord>,
    ) -> Result<Self, ReplayError> {
        let identity = study.definition.identity();
        for (record, at) in records.into_iter().zip(1..) {
            if let StudyRecord::Opened {
                format,
                identity: theirs,
                text,
                ..
            } = &record
                && *format == FORMAT
                && *theirs != identity
            {
                return Err(ReplayError::Changed(study.definition.text().changes(text)));
            }
            study.apply(at, record)?;
        }
        study.check_asks()?;
        Ok(study)
    }

    /// The study of a log without the pipeline: good for looking at it and for [`Study::keep`], not for going on.
    ///
    /// # Errors
    /// When the log is empty, of another version, or broken.
    pub fn read(records: impl IntoIterator<Item = StudyRecord>) -> Result<Self, ReplayError> {
        let mut records = records.into_iter().zip(1..).peekable();
        let broken = |what: &str| ReplayError::Broken {
            at: 1,
            what: what.to_owned(),
        };
        let definition = match records.peek() {
            Some((StudyRecord::Opened { format, .. }, _)) if *format != FORMAT => {
                return Err(ReplayError::Format(*format));
            }
            Some((StudyRecord::Opened { text, trials, .. }, _)) => text
                .to_definition(*trials)
                .ok_or_else(|| broken("it has a parameter that this version does not know"))?,
            _ => return Err(broken("a log begins with how the study was opened")),
        };
        let mut study = Self::new(definition);
        for (record, at) in records {
            study.apply(at, record)?;
        }
        study.definition.trials = study.recorded_trials;
        Ok(study)
    }

    /// What is left of a damaged log: the records that still follow from those before them. What is lost with it is asked
    /// for, or told, again.
    ///
    /// # Errors
    /// When how the study was opened is not among them, or they are of another version.
    pub fn salvage(
        records: impl IntoIterator<Item = StudyRecord>,
    ) -> Result<Vec<StudyRecord>, ReplayError> {
        let mut records = records.into_iter().zip(1..);
        let opened = records.next().map(|(record, _)| record);
        let mut study = Self::read(opened.clone())?;
        // Reading looks at no order; what an ask had to see counts here.
        if let Some(StudyRecord::Opened { text, .. }) = &opened
            && let Some(order) = order_of(&text.order)
        {
            study.definition.order = order;
        }
        let mut kept: Vec<StudyRecord> = opened.into_iter().collect();
        for (record, at) in records {
            if study.apply(at, record.clone()).is_ok() {
                kept.push(record);
            }
        }
        Ok(kept)
    }

    /// A new study that knows the told trials of a former one whose points fit its space; they count as its first trials.
    /// `former` comes from [`Study::read`] or [`Study::replay`].
    ///
    /// # Errors
    /// When the former study has other objectives: its values say nothing then.
    pub fn keep(definition: Definition, former: &Study) -> Result<Kept, String> {
        let names = |it: &Definition| {
            let names = it.objectives.iter().map(|goal| goal.name.to_string());
            names.collect::<Vec<_>>()
        };
        let (now, before) = (names(&definition), names(&former.definition));
        if now != before {
            return Err(format!(
                "the former study sought {}, this one seeks {}: nothing of it can be kept; begin a new study",
                before.join(", "),
                now.join(", ")
            ));
        }
        let mut study = Self::new(definition);
        let mut records = vec![StudyRecord::Opened {
            format: FORMAT,
            identity: study.definition.identity(),
            text: study.definition.text(),
            trials: study.design,
        }];
        let mut dropped = Vec::new();
        study.opened = true;
        for row in former.rows().filter(|row| row.state != TrialState::Asked) {
            let values = former.definition.space.values(row.point);
            let point = match study.definition.space.coordinates(&given(&values)) {
                Ok(point) => point,
                Err(why) => {
                    dropped.push((row.trial, why));
                    continue;
                }
            };
            let Some(end) = former.end_of(row.trial) else {
                continue;
            };
            let trial = study.know(row.source, &point, &end);
            records.push(StudyRecord::Known {
                trial,
                former: row.trial,
                source: row.source,
                point,
                end,
            });
        }
        Ok(Kept {
            study,
            records,
            dropped,
        })
    }

    /// Adds a trial that is known from elsewhere.
    fn know(&mut self, source: Source, point: &[f64], end: &TrialEnd) -> u64 {
        let seen = u32::try_from(self.table.history.len()).expect("fewer than 2^32 trials");
        let trial = self.admit(source, point, seen);
        self.tell(trial, end);
        self.base = trial;
        self.known += 1;
        trial
    }

    /// Applies a record as the event did that wrote it.
    fn apply(&mut self, at: usize, record: StudyRecord) -> Result<(), ReplayError> {
        let broken = |what: String| Err(ReplayError::Broken { at, what });
        let next = self.table.counts.asked + 1;
        if !self.opened && !matches!(record, StudyRecord::Opened { .. }) {
            return broken("a log begins with how the study was opened".to_owned());
        }
        match record {
            StudyRecord::Opened { format, .. } if format != FORMAT => {
                return Err(ReplayError::Format(format));
            }
            StudyRecord::Opened { .. } if self.opened => {
                return broken("the study was opened before".to_owned());
            }
            StudyRecord::Opened { trials, .. } => {
                self.opened = true;
                self.design = trials;
                self.recorded_trials = trials;
                self.make_sampler();
            }
            StudyRecord::Asked { trial, .. } | StudyRecord::Known { trial, .. }
                if trial != next =>
            {
                return broken(format!("trial {trial} stands where {next} comes"));
            }
            StudyRecord::Asked { ref point, .. } | StudyRecord::Known { ref point, .. }
                if !self.definition.space.holds(point) =>
            {
                return broken(format!("the point of trial {next} is not of the space"));
            }
            StudyRecord::Asked {
                source,
                point,
                seen,
                ..
            } => {
                if self.first_pending() <= self.visible(next) {
                    return broken(format!(
                        "trial {next} was asked for before what its ask had to see was told"
                    ));
                }
                let trial = self.admit(source, &point, seen);
                self.sampled += u64::from(source == Source::Sampler);
                self.wait(trial);
            }
            StudyRecord::Known {
                source, point, end, ..
            } => {
                self.know(source, &point, &end);
            }
            StudyRecord::Told { trial, end } => {
                let asked = self.row(trial).map(|row| row.state);
                if asked != Some(TrialState::Asked) {
                    return broken(format!("trial {trial} is told and was not awaited"));
                }
                self.told_here += u64::from(!self.retold.contains(&trial));
                self.tell(trial, &end);
            }
            StudyRecord::Rescored { objective } => self.rescored(objective),
            StudyRecord::Trials { trials } => self.recorded_trials = trials,
            StudyRecord::Basis(basis) => self.basis = Some(basis),
            StudyRecord::Used { wall } => {
                self.wall = self.wall.max(wall);
                self.told_in_wall = self.told_here;
            }
            StudyRecord::Ended { reason } => self.ended(reason),
        }
        Ok(())
    }

    /// Asks for the last trials again, where that has to give the same points.
    fn check_asks(&mut self) -> Result<(), ReplayError> {
        let asked = self.table.counts.asked;
        if self.definition.order == Order::Async || self.sampler.is_none() {
            return Ok(());
        }
        let first = (asked + 1).saturating_sub(CHECKED).max(self.base + 1);
        let later = (first..=asked).filter(|trial| self.is_sampled(*trial));
        let mut ask = self.sampled - later.count() as u64;
        for trial in first..=asked {
            self.show(self.visible(trial));
            if !self.is_sampled(trial) {
                continue;
            }
            ask += 1;
            let point = self.sample(trial, ask);
            let same = point.is_some_and(|point| {
                let recorded = self.table.history.point(trial);
                point
                    .iter()
                    .zip(recorded)
                    .all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
            });
            if !same {
                return Err(ReplayError::Differs(trial));
            }
        }
        Ok(())
    }

    fn is_sampled(&self, trial: u64) -> bool {
        self.table.cells(trial).source == Source::Sampler
    }
}

/// The values of parameters that are active.
fn given(values: &dagrun_model::Map) -> dagrun_model::Map {
    let given = values
        .iter()
        .filter(|(_, value)| !matches!(value, dagrun_model::Value::Null));
    given
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}
