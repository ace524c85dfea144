//! Live progress of a study: trials instead of nodes.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use dagrun_events::RunEvent;
use dagrun_model::{format_seconds, short_float_text};

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
    told_before: u64,
    failed: u64,
    thinned: Thinned,
    running: BTreeSet<u64>,
    best: Option<(u64, f64)>,
    /// It is open, and has not ended.
    pub(super) is_open: bool,
    opened: Instant,
    last_line: Instant,
}

impl StudyProgress {
    pub(super) fn new(jobs: BTreeSet<String>) -> Self {
        let now = Instant::now();
        Self {
            jobs,
            objective: String::new(),
            trials: 0,
            told: 0,
            told_before: 0,
            failed: 0,
            thinned: Thinned::default(),
            running: BTreeSet::new(),
            best: None,
            is_open: false,
            opened: now,
            last_line: now,
        }
    }

    /// Whether a job's nodes are those of trials.
    pub(super) fn has(&self, job: &str) -> bool {
        self.jobs.contains(job)
    }

    pub(super) fn event(&mut self, event: &RunEvent) -> Vec<News> {
        match event {
            RunEvent::StudyOpened {
                trials,
                told,
                objectives,
                ..
            } => {
                self.is_open = true;
                self.opened = Instant::now();
                self.trials = *trials;
                self.told = *told;
                self.told_before = *told;
                if let [only] = objectives.as_slice() {
                    self.objective.clone_from(only);
                }
            }
            RunEvent::TrialStarted { trial, .. } => {
                self.running.insert(*trial);
            }
            RunEvent::TrialEnded {
                trial,
                reason,
                best,
                ..
            } => {
                self.running.remove(trial);
                self.told += 1;
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
        let seconds = self.opened.elapsed().as_secs_f64();
        let told = self.told - self.told_before;
        if told >= 2 && seconds > 0.5 {
            let pace = told as f64 / seconds;
            let left = self.trials.saturating_sub(self.told);
            if left > 0 {
                parts.push(format!("ETA {}", format_seconds(left as f64 / pace)));
            }
            parts.push(format!("{:.1} trials/min", pace * 60.0));
        }
        if self.failed > 0 {
            parts.push(format!("{} failed", self.failed));
        }
        if !self.running.is_empty() {
            parts.push(format!("{} running", self.running.len()));
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
    fn improvements_and_failures_are_told_and_the_rest_now_and_then() {
        let mut study = StudyProgress::new(BTreeSet::new());
        let opened = RunEvent::StudyOpened {
            study: "s".into(),
            trials: 100,
            told: 2,
            objectives: vec!["loss".into()],
        };
        assert_eq!(study.event(&opened), []);
        let better = study.event(&ended(3, None, Some((3, 1.5))));
        let text = "trial 3: loss = 1.5 is the best so far (3 of 100 ended)";
        assert_eq!(better, [News::Better(text.into())]);
        // The best was known before: nothing to tell.
        assert_eq!(study.event(&ended(4, None, Some((3, 1.5)))), []);
        let text = "5/100 trials · best 1.5 (trial 3)";
        assert_eq!(
            study.event(&ended(5, None, Some((3, 1.5)))),
            [News::Stands(text.into())]
        );
        let failed = study.event(&ended(6, Some("exit code 1"), Some((3, 1.5))));
        assert_eq!(failed, [News::Failed("trial 6 failed: exit code 1".into())]);
        let told: Vec<usize> = (7..=46)
            .map(|trial| study.event(&ended(trial, Some("x"), Some((3, 1.5)))))
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
