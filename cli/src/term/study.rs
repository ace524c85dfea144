//! Live progress of a study: trials instead of nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use dagrun_events::{Pace, RunEvent, trial_of};
use dagrun_model::{format_seconds, short_float_text};
use dagrun_report::pace_number;

use super::{
    escape, plural,
    thinned::{Tell, Thinned},
};

/// Plain lines say how a study stands about so often in its course, and at least this often in time.
const LINES: u64 = 20;
const LINE_EVERY: Duration = Duration::from_secs(30);

/// What is said of a study beside its status.
#[derive(Debug, PartialEq)]
pub(super) enum News {
    /// A better trial.
    Better(String),
    /// A trial failed.
    Failed(String),
    /// How it stands, for those who see no live status.
    Stands(String),
}

/// A study that is followed.
pub(super) struct StudyProgress {
    /// Jobs of which every trial has nodes.
    jobs: BTreeSet<String>,
    objective: String,
    pub(super) trials: u64,
    pub(super) told: u64,
    pace: Pace,
    failed: u64,
    thinned: Thinned,
    /// Trials that were begun and have not ended.
    begun: BTreeSet<u64>,
    /// The trials of attempts that run.
    attempts: BTreeMap<u64, u64>,
    best: Option<(u64, f64)>,
    /// It is open, and has not ended.
    pub(super) is_open: bool,
    last_line: Instant,
}

impl StudyProgress {
    pub(super) fn new(jobs: BTreeSet<String>) -> Self {
        Self {
            jobs,
            objective: String::new(),
            trials: 0,
            told: 0,
            pace: Pace::default(),
            failed: 0,
            thinned: Thinned::default(),
            begun: BTreeSet::new(),
            attempts: BTreeMap::new(),
            best: None,
            is_open: false,
            last_line: Instant::now(),
        }
    }

    /// Whether a job's nodes are those of trials.
    pub(super) fn has(&self, job: &str) -> bool {
        self.jobs.contains(job)
    }

    /// An attempt began.
    pub(super) fn begin(&mut self, attempt: u64, node: &str) {
        if let Some(trial) = trial_of(node) {
            self.attempts.insert(attempt, trial);
        }
    }

    /// An attempt is over.
    pub(super) fn end(&mut self, attempt: u64) {
        self.attempts.remove(&attempt);
    }

    /// Whoever knew of trials begins again.
    pub(super) fn forget_begun(&mut self) {
        self.begun.clear();
        self.attempts.clear();
    }

    pub(super) fn event(&mut self, at: f64, event: &RunEvent) -> Vec<News> {
        match event {
            RunEvent::StudyOpened {
                trials,
                told,
                objectives,
                ..
            } => {
                self.is_open = true;
                self.pace.open(at);
                self.trials = *trials;
                self.told = *told;
                if let [only] = objectives.as_slice() {
                    self.objective.clone_from(only);
                }
            }
            RunEvent::TrialStarted { trial, .. } => {
                self.begun.insert(*trial);
            }
            RunEvent::TrialEnded {
                trial,
                reason,
                best,
                ..
            } => {
                self.begun.remove(trial);
                self.told += 1;
                self.pace.tell(at);
                return self.told_one(*trial, reason.as_deref(), *best);
            }
            RunEvent::StudyEnded { .. } => self.is_open = false,
            _ => {}
        }
        Vec::new()
    }

    fn told_one(
        &mut self,
        trial: u64,
        reason: Option<&str>,
        best: Option<(u64, f64)>,
    ) -> Vec<News> {
        let mut news = Vec::new();
        if let Some(reason) = reason {
            self.failed += 1;
            let text = match self.thinned.next() {
                Tell::One | Tell::LastOne => {
                    Some(format!("trial {trial} failed: {}", escape(reason)))
                }
                Tell::SoFar(n) => Some(format!("{n} trials failed so far")),
                Tell::Nothing => None,
            };
            news.extend(text.map(News::Failed));
        }
        let former = std::mem::replace(&mut self.best, best);
        let step = (self.trials / LINES).max(1);
        if let Some((number, value)) = best
            && number == trial
            && former.is_none_or(|(former, _)| former != trial)
        {
            self.last_line = Instant::now();
            news.push(News::Better(format!(
                "trial {number}: {} = {} is the best so far ({} of {} ended)",
                escape(&self.objective),
                short_float_text(value),
                self.told,
                self.trials
            )));
        } else if self.told.is_multiple_of(step) || self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            news.push(News::Stands(format!(
                "{}/{} trials · {}",
                self.told,
                self.trials,
                self.status()
            )));
        }
        news
    }

    /// Best, time to go, pace, what failed and what is under way: on a narrow terminal the end is cut off.
    pub(super) fn status(&self) -> String {
        let mut parts = Vec::new();
        if let Some((trial, value)) = self.best {
            parts.push(format!("best {} (trial {trial})", short_float_text(value)));
        }
        if let Some(pace) = self.pace.a_minute()
            && self.pace.told >= 2
            && self.pace.seconds > 0.5
        {
            let left = self.trials.saturating_sub(self.told);
            if left > 0 {
                parts.push(format!("ETA {}", format_seconds(left as f64 * 60.0 / pace)));
            }
            parts.push(format!("{} trials/min", pace_number(pace)));
        }
        if self.failed > 0 {
            parts.push(format!("{} failed", self.failed));
        }
        let running: BTreeSet<u64> = self.attempts.values().copied().collect();
        let waiting = self.begun.difference(&running).count();
        for (n, word) in [(running.len(), "running"), (waiting, "waiting")] {
            if n > 0 {
                parts.push(format!("{n} {word}"));
            }
        }
        if parts.is_empty() {
            return plural(self.trials, "trial");
        }
        parts.join(" · ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(trial: u64, reason: Option<&str>, best: Option<(u64, f64)>) -> RunEvent {
        RunEvent::TrialEnded {
            trial,
            values: Vec::new(),
            reason: reason.map(Into::into),
            seconds: 1.0,
            replicates: 1,
            nodes: 1,
            hits: 0,
            naive: 1,
            best,
        }
    }

    #[test]
    fn trials_that_wait_are_not_said_to_run() {
        let mut study = StudyProgress::new(BTreeSet::new());
        for trial in 1..=3 {
            let params = serde_json::json!({});
            study.event(0.0, &RunEvent::TrialStarted { trial, params });
        }
        study.begin(7, "score[trial=2,target=a]");
        study.begin(8, "score[trial=2,target=b]");
        study.begin(9, "prep");
        assert_eq!(study.status(), "1 running · 2 waiting");
        study.end(7);
        study.end(8);
        assert_eq!(study.status(), "3 waiting");
        study.forget_begun();
        assert_eq!(study.status(), "0 trials");
    }

    /// The pace is that of the report: of the time from the opening to the last end.
    #[test]
    fn the_pace_goes_by_events() {
        let mut study = StudyProgress::new(BTreeSet::new());
        let opened = RunEvent::StudyOpened {
            study: "s".into(),
            trials: 10,
            told: 4,
            objectives: Vec::new(),
        };
        study.event(100.0, &opened);
        study.event(110.0, &ended(5, None, None));
        study.event(120.0, &ended(6, None, None));
        assert_eq!(study.status(), "ETA 40.0 s · 6.0 trials/min");
    }

    #[test]
    fn improvements_and_failures_are_told_and_the_rest_now_and_then() {
        let mut study = StudyProgress::new(BTreeSet::new());
        let opened = RunEvent::StudyOpened {
            study: "s".into(),
            trials: 100,
            told: 2,
            objectives: vec!["loss".into()],
        };
        assert_eq!(study.event(0.0, &opened), []);
        let better = study.event(0.0, &ended(3, None, Some((3, 1.5))));
        let text = "trial 3: loss = 1.5 is the best so far (3 of 100 ended)";
        assert_eq!(better, [News::Better(text.into())]);
        // The best was known before: nothing to tell.
        assert_eq!(study.event(0.0, &ended(4, None, Some((3, 1.5)))), []);
        let text = "5/100 trials · best 1.5 (trial 3)";
        assert_eq!(
            study.event(0.0, &ended(5, None, Some((3, 1.5)))),
            [News::Stands(text.into())]
        );
        let failed = study.event(0.0, &ended(6, Some("exit code 1"), Some((3, 1.5))));
        assert_eq!(failed, [News::Failed("trial 6 failed: exit code 1".into())]);
        let told: Vec<usize> = (7..=46)
            .map(|trial| study.event(0.0, &ended(trial, Some("x"), Some((3, 1.5)))))
            .map(|news| {
                news.iter()
                    .filter(|it| matches!(it, News::Failed(_)))
                    .count()
            })
            .collect();
        // Four more one by one, then the 10th, the 20th and the 40th.
        assert_eq!(told.iter().sum::<usize>(), 7);
        assert_eq!(study.status(), "best 1.5 (trial 3) · 41 failed");
    }
}
