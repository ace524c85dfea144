//! Live progress: a line that is drawn over on a terminal, plain lines elsewhere. A fold of events, with no data of its own.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use dagrun_events::{AttemptOutcome, AttemptSummary, NodeCounts, NodeOutcome, Record, RunEvent};
use dagrun_model::format_seconds;
use dagrun_report::quantile;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    Ink, Style, escape, job_of,
    study::{News, StudyProgress},
    thinned::{Tell, Thinned},
};
use crate::say;

/// How often a plain line is written at the most.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// Follows the events of a run.
pub(crate) struct Progress {
    style: Style,
    bar: Option<ProgressBar>,
    /// Columns of the terminal that the look of the bar is made for.
    columns: u16,
    total: u64,
    /// The slots of each worker that is there.
    workers: BTreeMap<u32, f64>,
    started: Instant,
    last_plain: Instant,
    /// The event at hand is the start of an attempt.
    started_one: bool,
    counts: NodeCounts,
    running: BTreeMap<u64, String>,
    /// Per job: nodes left, attempts measured, seconds measured.
    jobs: BTreeMap<String, JobPace>,
    last_attempt: BTreeMap<String, AttemptSummary>,
    /// Failures, and results unlike the former ones, by job.
    failed: BTreeMap<String, Thinned>,
    unlike: BTreeMap<String, Thinned>,
    /// The study, where there is one: then trials are counted instead of nodes.
    study: Option<StudyProgress>,
}

/// Attempts of a job whose median is shown: the last ones.
const RECENT: usize = 31;
/// With fewer attempts a median says little.
const LEAST_MEASURED: u64 = 5;
/// Jobs whose medians are shown.
const MEDIANS: usize = 3;

#[derive(Default, Clone)]
struct JobPace {
    left: u64,
    measured: u64,
    seconds: f64,
    recent: VecDeque<f64>,
}

impl JobPace {
    fn measure(&mut self, seconds: f64) {
        self.measured += 1;
        self.seconds += seconds;
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(seconds);
    }

    /// The median of the last attempts, and the time that 95 % of them do not exceed.
    fn quantiles(&self) -> Option<(f64, f64)> {
        if self.measured < LEAST_MEASURED {
            return None;
        }
        let mut sorted: Vec<f64> = self.recent.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        Some((quantile(&sorted, 0.5)?, quantile(&sorted, 0.95)?))
    }
}

impl Progress {
    /// Progress over `jobs`: the number of nodes of each. `trials`: the jobs of a study's trials, where there is one.
    pub(crate) fn new(
        style: Style,
        jobs: BTreeMap<String, u64>,
        trials: Option<BTreeSet<String>>,
    ) -> Self {
        let total = jobs.values().sum();
        let bar = style.live.then(|| {
            let bar =
                ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
            bar.set_style(look(columns(std::io::stderr())));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        let now = Instant::now();
        Self {
            style,
            bar,
            columns: columns(std::io::stderr()),
            total,
            workers: BTreeMap::new(),
            started: now,
            last_plain: now,
            started_one: false,
            counts: NodeCounts::default(),
            running: BTreeMap::new(),
            jobs: jobs
                .into_iter()
                .map(|(job, left)| {
                    (
                        job,
                        JobPace {
                            left,
                            ..JobPace::default()
                        },
                    )
                })
                .collect(),
            last_attempt: BTreeMap::new(),
            failed: BTreeMap::new(),
            unlike: BTreeMap::new(),
            study: trials.map(StudyProgress::new),
        }
    }

    /// Takes an event in.
    pub(crate) fn event(&mut self, record: &Record) {
        self.started_one = false;
        match &record.event {
            // Of a coordinator that started again: what it has taken over follows.
            RunEvent::RunStarted(_) => {
                self.workers.clear();
                self.running.clear();
                self.counts = NodeCounts::default();
                if let Some(study) = &mut self.study {
                    study.forget_begun();
                }
            }
            RunEvent::WorkerJoined { worker, slots, .. } => {
                self.workers.insert(*worker, *slots);
            }
            RunEvent::WorkerLost { worker, reason } => {
                self.workers.remove(worker);
                let gone = self.ink(Ink::Warn, "worker gone:");
                self.line(&format!("{gone} {}", escape(reason)));
            }
            RunEvent::AttemptStarted {
                node,
                attempt,
                number,
                ..
            } => {
                self.started_one = true;
                self.running.insert(*attempt, node.clone());
                if let Some(study) = &mut self.study {
                    study.begin(*attempt, node);
                }
                if self.style.verbose > 0 {
                    let again = if *number > 1 {
                        format!(" (attempt {number})")
                    } else {
                        String::new()
                    };
                    self.line(&format!("start {}{again}", escape(node)));
                }
            }
            RunEvent::AttemptEnded {
                node,
                attempt,
                result,
                ..
            } => self.attempt_ended(node, *attempt, result),
            RunEvent::NodesCached { nodes } => {
                for node in nodes {
                    self.done(&node.node, NodeOutcome::Cached);
                }
            }
            RunEvent::NodeDone {
                node, end, because, ..
            } => {
                self.done(node, *end);
                match end {
                    // The trial's end says it.
                    NodeOutcome::Failed if self.is_of_trial(node) => {}
                    NodeOutcome::Failed => self.failure(node),
                    NodeOutcome::Skipped if self.style.verbose > 0 => {
                        let why = because
                            .as_deref()
                            .map_or(String::new(), |id| format!(" because of {}", escape(id)));
                        self.line(&format!("skip  {}{why}", escape(node)));
                    }
                    NodeOutcome::Succeeded if self.style.verbose > 0 => {
                        self.line(&format!("done  {}", escape(node)))
                    }
                    _ => {}
                }
                self.last_attempt.remove(node);
            }
            RunEvent::Retrying { node, delay, lost } => {
                let last = self.last_attempt.get(node);
                let why = match last.filter(|_| *lost) {
                    Some(last) => escape(&last.describe()),
                    None if *lost => "lost".into(),
                    None => "it failed".into(),
                };
                let when = match *delay < 0.001 {
                    true => "at once".to_owned(),
                    false => format!("in {}", format_seconds(*delay)),
                };
                self.line(&format!(
                    "{} {}: {why}; again {when}",
                    self.ink(Ink::Warn, "retry"),
                    escape(node)
                ));
            }
            // A warning has said why.
            RunEvent::Rewound { node } if self.style.verbose > 0 => {
                self.line(&format!(
                    "{} {}",
                    self.ink(Ink::Warn, "again"),
                    escape(node)
                ));
            }
            RunEvent::Leaked { node, processes } => self.line(&format!(
                "{} {} left {processes} process{} running; killed",
                self.ink(Ink::Warn, "leak"),
                escape(node),
                if *processes == 1 { "" } else { "es" }
            )),
            RunEvent::NonDeterminism { node, output, .. } => self.unlike(node, output),
            RunEvent::Warning { message } => {
                self.line(&format!(
                    "{} {}",
                    self.ink(Ink::Warn, "warning:"),
                    escape(message)
                ));
            }
            RunEvent::Stuck { why, patience, .. } if *patience > 0.0 => {
                self.line(&format!(
                    "{} {}; the run gives up after {}",
                    self.ink(Ink::Warn, "waiting:"),
                    escape(why),
                    format_seconds(*patience)
                ));
            }
            // The error at the end says what is asked for and what there is.
            RunEvent::Stuck { nodes, .. } if self.style.verbose > 0 => {
                self.line(&format!(
                    "{} {}",
                    self.ink(Ink::Bad, "stuck"),
                    escape(&nodes.join(", "))
                ));
            }
            RunEvent::ExportKept { target, reason } => {
                self.line(&format!(
                    "{} {target}: {}",
                    self.ink(Ink::Bad, "not exported"),
                    escape(reason)
                ));
            }
            event => self.study_event(record.at, event),
        }
        self.refresh();
    }

    /// The slots of all workers; at least one, also where none is there.
    fn slots(&self) -> f64 {
        self.workers.values().sum::<f64>().max(1.0)
    }

    fn is_of_trial(&self, node: &str) -> bool {
        let study = self.study.as_ref();
        study.is_some_and(|study| study.has(job_of(node)))
    }

    fn study_event(&mut self, at: f64, event: &RunEvent) {
        let Some(study) = &mut self.study else {
            return;
        };
        let news = study.event(at, event);
        if let Some(bar) = &self.bar {
            bar.set_length(study.trials);
        }
        for news in news {
            match news {
                News::Failed(text) => self.line(&self.ink(Ink::Warn, &text)),
                // A live status says so itself.
                News::Better(_) | News::Stands(_) if self.bar.is_some() || self.style.quiet => {}
                News::Better(text) | News::Stands(text) => {
                    self.last_plain = Instant::now();
                    self.line(&text);
                }
            }
        }
    }

    /// Takes the progress line away.
    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn attempt_ended(&mut self, node: &str, attempt: u64, result: &AttemptSummary) {
        self.running.remove(&attempt);
        if let Some(study) = &mut self.study {
            study.end(attempt);
        }
        let pace = self.jobs.entry(job_of(node).to_owned()).or_default();
        pace.measure(result.phases.busy());
        if !matches!(result.outcome, AttemptOutcome::Succeeded) {
            self.last_attempt.insert(node.to_owned(), result.clone());
        }
    }

    fn done(&mut self, node: &str, end: NodeOutcome) {
        self.counts.add(end);
        if let Some(pace) = self.jobs.get_mut(job_of(node)) {
            pace.left = pace.left.saturating_sub(1);
        }
    }

    /// One line now; the end of the run has the whole story.
    fn failure(&mut self, node: &str) {
        let (job, word) = (job_of(node), self.ink(Ink::Bad, "FAILED"));
        let tell = self.failed.entry(job.to_owned()).or_default().next();
        match tell {
            Tell::Nothing => {}
            Tell::SoFar(n) => self.line(&format!("{word} {n} nodes of `{}` so far", escape(job))),
            Tell::One | Tell::LastOne => {
                let why = self.last_attempt.get(node).map_or(String::new(), |result| {
                    format!(": {}", escape(&result.describe()))
                });
                self.line(&format!(
                    "{word} {}{why}",
                    self.ink(Ink::Bold, &escape(node))
                ));
            }
        }
        if tell == Tell::LastOne {
            self.line(&format!(
                "       further failures of `{}` are only counted; the end groups them",
                escape(job)
            ));
        }
    }

    /// A node gave other bytes than before.
    fn unlike(&mut self, node: &str, output: &str) {
        let (job, word) = (job_of(node), self.ink(Ink::Warn, "warning:"));
        let tell = self.unlike.entry(job.to_owned()).or_default().next();
        match tell {
            Tell::Nothing => {}
            Tell::SoFar(n) => self.line(&format!(
                "{word} {n} outputs of `{}` are unlike the former ones so far",
                escape(job)
            )),
            Tell::One | Tell::LastOne => self.line(&format!(
                "{word} {} gave other bytes for `{output}` than before; the former result stays in the cache",
                escape(node)
            )),
        }
        if tell == Tell::LastOne {
            self.line(&format!(
                "         further ones of `{}` are only counted",
                escape(job)
            ));
        }
    }

    fn ink(&self, ink: Ink, text: &str) -> String {
        self.style.paint(ink, text).into_owned()
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say!("{text}")),
            None => say!("{text}"),
        }
    }

    fn refresh(&mut self) {
        let study = self.study.as_ref();
        let trials = study.filter(|study| study.is_open);
        let done = match study.filter(|study| study.trials > 0) {
            Some(study) => study.told,
            None => self.counts.total().min(self.total),
        };
        if let Some(bar) = &self.bar {
            let columns = columns(std::io::stderr());
            if columns != self.columns {
                self.columns = columns;
                bar.set_style(look(columns));
            }
            bar.set_position(done);
            let status = match trials {
                Some(study) => format!("{} · {}", study.status(), self.status()),
                None => self.status(),
            };
            let total = bar.length().unwrap_or(done);
            let room = usize::from(columns).saturating_sub(before_words(columns, done, total));
            bar.set_message(fitting(&status, room).to_owned());
        } else if self.started_one && !self.style.quiet && self.last_plain.elapsed() >= PLAIN_EVERY
        {
            // Said when a node has just started: between an end and the next start a slot only looks idle.
            self.last_plain = Instant::now();
            match &self.study {
                Some(study) if study.is_open => {
                    say!("{done}/{} trials · {}", study.trials, study.status());
                }
                Some(_) => say!("{}", self.status()),
                None => say!("{done}/{} {}", self.total, self.status()),
            }
        }
    }

    fn status(&self) -> String {
        let mut parts = Vec::new();
        let mut count = |n: u64, word: &str| {
            if n > 0 {
                parts.push(format!("{n} {word}"));
            }
        };
        if self.study.is_some() {
            // Of how many nodes there will be nobody knows; pace and time to go are those of trials.
            count(self.counts.total(), "nodes");
            count(self.counts.cached, "cached");
            parts.extend(self.medians());
            return parts.join(" · ");
        }
        count(self.counts.cached, "cached");
        count(self.counts.failed, "failed");
        count(self.counts.skipped, "skipped");
        // Short nodes are handed over ahead: of those that were, no more run than there are slots.
        let running = (self.running.len() as u64).min(self.slots().ceil() as u64);
        count(running, "running");
        if let Some(eta) = self.eta() {
            parts.push(format!("ETA {}", format_seconds(eta)));
        }
        let elapsed = self.started.elapsed().as_secs_f64();
        if self.counts.succeeded > 0 && elapsed > 0.5 {
            parts.push(format!("{:.1}/s", self.counts.succeeded as f64 / elapsed));
        }
        parts.extend(self.medians());
        if let Some(node) = self.running.values().next() {
            parts.push(escape(node));
        }
        parts.join(" · ")
    }

    /// How long nodes take of late, of the jobs that run.
    fn medians(&self) -> Vec<String> {
        let running: BTreeSet<&str> = self.running.values().map(|node| job_of(node)).collect();
        let known = running
            .into_iter()
            .filter_map(|job| Some((job, self.jobs.get(job)?.quantiles()?)));
        known
            .take(MEDIANS)
            .map(|(job, (median, most))| {
                let [median, most] = [median, most].map(format_seconds);
                match median == most {
                    true => format!("{} {median}", escape(job)),
                    false => format!("{} {median} (95 %: {most})", escape(job)),
                }
            })
            .collect()
    }

    /// Seconds to go: what is left of each job at its mean time so far, over the slots. A job that has not run yet counts
    /// with the mean of all; `None` until something was measured.
    fn eta(&self) -> Option<f64> {
        let (measured, seconds) = self.jobs.values().fold((0, 0.0), |(n, s), pace| {
            (n + pace.measured, s + pace.seconds)
        });
        if measured < 2 || self.counts.total() >= self.total {
            return None;
        }
        let mean = seconds / measured as f64;
        let work: f64 = self
            .jobs
            .values()
            .map(|pace| {
                let each = if pace.measured > 0 {
                    pace.seconds / pace.measured as f64
                } else {
                    mean
                };
                pace.left as f64 * each
            })
            .sum();
        Some(work / self.slots())
    }
}

/// Columns of a terminal; 80 of what is none.
pub(crate) fn columns(terminal: impl std::os::fd::AsFd) -> u16 {
    let size = rustix::termios::tcgetwinsize(terminal);
    size.ok()
        .map(|size| size.ws_col)
        .filter(|n| *n > 0)
        .unwrap_or(80)
}

/// Columns of the bar: on a narrow terminal the words are worth more.
fn bar_width(columns: u16) -> usize {
    match columns {
        0..60 => 0,
        60..100 => 12,
        _ => 24,
    }
}

fn look(columns: u16) -> ProgressStyle {
    let template = match bar_width(columns) {
        0 => "{pos}/{len} {wide_msg}".to_owned(),
        width => format!("{{bar:{width}}} {{pos}}/{{len}} {{wide_msg}}"),
    };
    ProgressStyle::with_template(&template)
        .expect("the template is well formed")
        .progress_chars("━╸─")
}

/// Columns that stand before the words: bar, counts and blanks.
fn before_words(columns: u16, done: u64, total: u64) -> usize {
    let bar = match bar_width(columns) {
        0 => 0,
        width => width + 1,
    };
    bar + format!("{done}/{total} ").len()
}

/// As many whole parts of a status, from its start, as have room; the first one at least.
fn fitting(status: &str, room: usize) -> &str {
    const BETWEEN: &str = " · ";
    let ends = status.match_indices(BETWEEN).map(|(at, _)| at);
    let ends: Vec<usize> = ends.chain([status.len()]).collect();
    let fits = |end: &&usize| status[..**end].chars().count() <= room;
    let end = ends.iter().rev().find(fits).or(ends.first());
    end.map_or(status, |end| &status[..*end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(total: u64) -> Progress {
        let style = Style {
            color: false,
            out_color: false,
            live: false,
            quiet: true,
            verbose: 0,
        };
        Progress::new(style, [("a".to_string(), total)].into(), None)
    }

    #[test]
    fn medians_are_told_of_jobs_that_run_and_were_measured() {
        let mut progress = progress(9);
        progress.running.insert(1, "a[x=1]".into());
        let pace = progress.jobs.get_mut("a").unwrap();
        (0..4).for_each(|_| pace.measure(1.0));
        assert!(progress.medians().is_empty());
        progress.jobs.get_mut("a").unwrap().measure(3.0);
        assert_eq!(progress.medians(), ["a 1.0 s (95 %: 3.0 s)"]);
        // Only the last ones count.
        let pace = progress.jobs.get_mut("a").unwrap();
        (0..RECENT).for_each(|_| pace.measure(2.0));
        assert_eq!(progress.medians(), ["a 2.0 s"]);
        progress.running.clear();
        assert!(progress.medians().is_empty());
    }

    #[test]
    fn narrow_terminals_get_whole_words() {
        let status = "3 cached · ETA 2 min · fit[β=1]";
        assert_eq!(fitting(status, 31), status);
        assert_eq!(fitting(status, 30), "3 cached · ETA 2 min");
        assert_eq!(fitting(status, 12), "3 cached");
        assert_eq!(fitting(status, 2), "3 cached");
        assert_eq!(fitting("", 5), "");
        assert_eq!(before_words(40, 7, 100), "7/100 ".len());
        assert_eq!(before_words(80, 7, 100), 12 + " 7/100 ".len());
    }

    #[test]
    fn slots_are_those_of_all_workers_that_are_there() {
        let mut progress = progress(9);
        let mut tell = |event| progress.event(&Record { at: 0.0, event });
        let joined = |worker| RunEvent::WorkerJoined {
            worker,
            host: "h".into(),
            slots: 2.0,
            memory: 0,
            process: String::new(),
        };
        tell(joined(0));
        tell(joined(1));
        for attempt in 0..5 {
            tell(RunEvent::AttemptStarted {
                node: format!("a[x={attempt}]"),
                key: dagrun_model::Digest::of(b"a"),
                attempt,
                number: 1,
                worker: 0,
                after: None,
                adopted: None,
            });
        }
        assert!(progress.status().starts_with("4 running"));
        let reason = "it left".into();
        let event = RunEvent::WorkerLost { worker: 1, reason };
        progress.event(&Record { at: 0.0, event });
        assert!(progress.status().starts_with("2 running"));
        // The coordinator starts again: workers have other numbers, and what runs is told of again.
        let event = RunEvent::RunStarted(Box::default());
        progress.event(&Record { at: 0.0, event });
        assert!(!progress.status().contains("running"));
    }

    #[test]
    fn counts_follow_events() {
        let mut progress = progress(3);
        let node = |id: &str| dagrun_events::CachedNode {
            node: id.into(),
            also: Vec::new(),
            outputs: Default::default(),
        };
        progress.event(&Record {
            at: 0.0,
            event: RunEvent::NodesCached {
                nodes: vec![node("a[x=1]"), node("a[x=2]")],
            },
        });
        assert_eq!(progress.counts.cached, 2);
        assert_eq!(progress.jobs["a"].left, 1);
        assert_eq!(progress.status(), "2 cached");
    }
}
