//! The study of a run as the fold of its events.

use serde_json::Value;

use crate::RunEvent;

/// A study, as far as the events of one run tell: its log has all of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StudyRow {
    /// Its name.
    pub study: String,
    /// How many trials there are to be.
    pub trials: u64,
    /// How many were told before this run.
    pub told_before: u64,
    /// The names of its objectives.
    pub objectives: Vec<String>,
    /// Trials of this run in the order of their starts.
    pub rows: Vec<TrialRow>,
    /// Of these, how many were told.
    pub told_now: u64,
    /// Likewise, and in how much time.
    pub pace: Pace,
    /// Of these, how many failed.
    pub failed_now: u64,
    /// The best trial of the study so far, with its objective.
    pub best: Option<(u64, f64)>,
    /// Its parameters, where it was found in this run.
    pub best_params: Option<Value>,
    /// How it ended; none where it goes on with another run, or was cut off.
    pub end: Option<StudyEndRow>,
}

/// How many trials a study told in how much time: from when it was opened to the end of the last of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// The trials.
    pub told: u64,
    /// The seconds, those before a coordinator started again among them.
    pub seconds: f64,
    before: f64,
    opened: f64,
}

impl Pace {
    /// The study is opened, perhaps again.
    pub fn open(&mut self, at: f64) {
        (self.before, self.opened) = (self.seconds, at);
    }

    /// A trial is told.
    pub fn tell(&mut self, at: f64) {
        self.told += 1;
        self.seconds = self.seconds.max(self.before + at - self.opened);
    }

    /// Trials a minute; nothing before there is a measure.
    pub fn a_minute(&self) -> Option<f64> {
        trials_a_minute(self.told, self.seconds)
    }
}

/// Trials a minute, of so many that ended in so many seconds: the one definition that progress, reports and studies go by. Nothing
/// before there is a measure.
pub fn trials_a_minute(told: u64, seconds: f64) -> Option<f64> {
    (told > 0 && seconds > 0.0).then(|| told as f64 * 60.0 / seconds)
}

/// How a study ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StudyEndRow {
    /// Why, for people.
    pub reason: String,
    /// How many trials were told in all.
    pub told: u64,
    /// Of these, how many failed.
    pub failed: u64,
    /// Whether it came to its end by its own rule and has a result.
    pub succeeded: bool,
}

/// A trial of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrialRow {
    /// Its number.
    pub trial: u64,
    /// When it began, in seconds since the epoch.
    pub started: f64,
    /// When it was told.
    pub ended: Option<f64>,
    /// Its objectives as written; none where it failed or has not ended.
    pub values: Vec<f64>,
    /// Why it failed.
    pub reason: Option<String>,
    /// Seconds from its start, those of former runs not among them.
    pub seconds: f64,
    /// How many replicates it has.
    pub replicates: u32,
    /// How many nodes it has.
    pub nodes: u32,
    /// How many of them were hits.
    pub hits: u32,
    /// How many an engine without deduplication would run.
    pub naive: u64,
    /// The objective of the best trial when it was told.
    pub best: Option<f64>,
    /// Its parameters, as long as it is under way.
    params: Option<Value>,
}

impl StudyRow {
    /// How many trials were told, those of former runs among them.
    pub fn told(&self) -> u64 {
        self.told_before + self.told_now
    }

    /// Whether the study has failed, and with it the run.
    pub fn has_failed(&self) -> bool {
        self.end.as_ref().is_some_and(|end| !end.succeeded)
    }

    /// Takes one more event of a study.
    pub(crate) fn apply(&mut self, at: f64, event: &RunEvent) {
        match event {
            RunEvent::StudyOpened {
                study,
                trials,
                told,
                objectives,
            } => {
                self.study.clone_from(study);
                self.trials = *trials;
                // A coordinator that started again knows what it has told in this run before.
                self.told_before = told.saturating_sub(self.told_now);
                self.pace.open(at);
                self.objectives.clone_from(objectives);
            }
            RunEvent::TrialStarted { trial, params } => self.rows.push(TrialRow {
                trial: *trial,
                started: at,
                params: Some(params.clone()),
                ..TrialRow::default()
            }),
            RunEvent::TrialEnded {
                trial,
                values,
                reason,
                seconds,
                replicates,
                nodes,
                hits,
                naive,
                best,
            } => {
                // Trials under way are the last ones: the search is short.
                let Some(row) = self.rows.iter_mut().rfind(|row| row.trial == *trial) else {
                    return;
                };
                row.ended = Some(at);
                row.values.clone_from(values);
                row.reason.clone_from(reason);
                row.seconds = *seconds;
                row.replicates = *replicates;
                row.nodes = *nodes;
                row.hits = *hits;
                row.naive = *naive;
                row.best = best.map(|(_, value)| value);
                let params = row.params.take();
                self.told_now += 1;
                self.pace.tell(at);
                self.failed_now += u64::from(reason.is_some());
                self.better(*best, *trial, params);
            }
            RunEvent::StudyEnded {
                reason,
                told,
                failed,
                succeeded,
                best,
            } => {
                self.best = *best;
                self.end = Some(StudyEndRow {
                    reason: reason.clone(),
                    told: *told,
                    failed: *failed,
                    succeeded: *succeeded,
                });
            }
            _ => {}
        }
    }

    fn better(&mut self, best: Option<(u64, f64)>, told: u64, params: Option<Value>) {
        let former = self.best.map(|(trial, _)| trial);
        self.best = best;
        let Some((trial, _)) = best else {
            return;
        };
        if trial == told {
            self.best_params = params;
        } else if former != Some(trial) {
            self.best_params = None;
        }
    }
}

/// The trial that a logical id names: 3 of `score[trial=3,target=a]`. The axis `trial` stands first.
pub fn trial_of(id: &str) -> Option<u64> {
    let (_, axes) = id.split_once("[trial=")?;
    axes.split([',', ']']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(trial: u64, value: Option<f64>, best: Option<(u64, f64)>) -> RunEvent {
        RunEvent::TrialEnded {
            trial,
            values: value.into_iter().collect(),
            reason: value.is_none().then(|| "exit code 1".to_owned()),
            seconds: 1.0,
            replicates: 1,
            nodes: 2,
            hits: 1,
            naive: 3,
            best,
        }
    }

    #[test]
    fn trials_fold_in_any_order_of_ends() {
        let mut study = StudyRow::default();
        let started = |trial: u64| RunEvent::TrialStarted {
            trial,
            params: serde_json::json!({ "x": trial }),
        };
        for event in [
            started(4),
            started(5),
            started(6),
            ended(5, Some(2.0), Some((5, 2.0))),
            ended(4, Some(3.0), Some((5, 2.0))),
            ended(6, None, Some((5, 2.0))),
            // Whoever tells of a trial that did not start here is not believed.
            ended(9, Some(0.0), Some((9, 0.0))),
        ] {
            study.apply(1.0, &event);
        }
        assert_eq!((study.told_now, study.failed_now), (3, 1));
        assert_eq!(study.best, Some((5, 2.0)));
        assert_eq!(study.best_params, Some(serde_json::json!({ "x": 5 })));
        assert_eq!(study.rows[2].reason.as_deref(), Some("exit code 1"));
        assert!(!study.has_failed());
    }

    /// A coordinator that starts again knows the trials that it has told; time is that of both.
    #[test]
    fn trials_are_counted_once_over_a_restart() {
        let mut study = StudyRow::default();
        let opened = |told| RunEvent::StudyOpened {
            study: "s".into(),
            trials: 9,
            told,
            objectives: Vec::new(),
        };
        let started = |trial: u64| RunEvent::TrialStarted {
            trial,
            params: serde_json::json!({}),
        };
        for (at, event) in [
            (10.0, opened(2)),
            (10.0, started(3)),
            (20.0, started(4)),
            (40.0, ended(3, Some(1.0), None)),
            (100.0, opened(3)),
            (100.0, started(4)),
            (115.0, ended(4, Some(1.0), None)),
        ] {
            study.apply(at, &event);
        }
        assert_eq!((study.told_before, study.told_now, study.told()), (2, 2, 4));
        assert_eq!((study.pace.told, study.pace.seconds), (2, 45.0));
        assert_eq!(study.pace.a_minute(), Some(2.0 * 60.0 / 45.0));
        assert_eq!(Pace::default().a_minute(), None);
    }

    #[test]
    fn ids_name_their_trial() {
        for (id, trial) in [
            ("score[trial=3,target=a]", Some(3)),
            ("fit[trial=12]", Some(12)),
            ("fit[x=1]", None),
            ("fit", None),
            ("fit[trial=\"a\"]", None),
        ] {
            assert_eq!(trial_of(id), trial, "{id}");
        }
    }
}
