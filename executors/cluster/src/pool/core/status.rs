//! What a person may want to know of the workers, and of what waits for them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use dagrun_executor_api::FullDisk;
use dagrun_model::{Resources, WorkerIx};

use super::{
    Core, RunIx,
    state::{Line, Run, State, Worker},
};
use crate::message::Identity;

/// How a worker is.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerStatus {
    /// Its number.
    pub worker: WorkerIx,
    /// Who it is.
    pub identity: Arc<Identity>,
    /// `here`, `leaving`, or `silent` where its connection is broken.
    pub state: &'static str,
    /// What attempts have of it.
    pub used: Resources,
    /// Attempts whose processes run.
    pub running: u32,
    /// Attempts that wait there, or here for it.
    pub queued: u32,
    /// Since it said anything.
    pub silent: Duration,
    /// Bytes free where its blobs are.
    pub free_bytes: u64,
    /// The disk that had no room for an attempt, and has none yet.
    pub full: Option<FullDisk>,
}

/// A worker that was lost lately.
#[derive(Clone, Debug, PartialEq)]
pub struct LostWorker {
    /// Its number.
    pub worker: WorkerIx,
    /// Who it was.
    pub identity: Arc<Identity>,
    /// Since then.
    pub ago: Duration,
    /// Why it counts as lost.
    pub why: String,
}

/// How long a lost worker is told of, and of how many at most.
pub const KEPT_LOSSES: (Duration, usize) = (Duration::from_secs(3600), 50);

/// The workers that were lost lately, and when, in order.
#[derive(Debug, Default)]
pub(super) struct Losses(VecDeque<(Duration, LostWorker)>);

impl Losses {
    pub(super) fn add(
        &mut self,
        now: Duration,
        worker: WorkerIx,
        identity: Arc<Identity>,
        why: &str,
    ) {
        if self.0.len() == KEPT_LOSSES.1 {
            self.0.pop_front();
        }
        let lost = LostWorker {
            worker,
            identity,
            ago: Duration::ZERO,
            why: why.to_owned(),
        };
        self.0.push_back((now, lost));
    }

    fn at(&self, now: Duration) -> Vec<LostWorker> {
        let all = self.0.iter().map(|(at, lost)| LostWorker {
            ago: now.saturating_sub(*at),
            ..lost.clone()
        });
        all.filter(|lost| lost.ago < KEPT_LOSSES.0).collect()
    }
}

/// How a coordinator is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolStatus {
    /// Its workers, by number.
    pub workers: Vec<WorkerStatus>,
    /// Those that were lost lately, in order.
    pub lost: Vec<LostWorker>,
    /// What keeps attempts from starting, in words.
    pub waits: Vec<String>,
    /// By the ids of runs, how many of their attempts have processes that run.
    pub running: BTreeMap<Arc<str>, u64>,
}

impl Core {
    /// How all workers are, at a time.
    pub fn status(&self, now: Duration) -> PoolStatus {
        let workers = self.workers.iter();
        PoolStatus {
            workers: workers
                .map(|(ix, worker)| self.worker_status(now, *ix, worker))
                .collect(),
            lost: self.losses.at(now),
            waits: self.waits(),
            running: self.running(),
        }
    }

    fn running(&self) -> BTreeMap<Arc<str>, u64> {
        let began = State::Sent { began: true };
        let opened = self.runs.values().filter(|run| run.former.is_none());
        opened
            .map(|run| {
                let attempts = run.attempts.values();
                let running = attempts.filter(|it| it.state == began).count();
                (run.id.clone(), running as u64)
            })
            .collect()
    }

    fn worker_status(&self, now: Duration, ix: WorkerIx, worker: &Worker) -> WorkerStatus {
        let (mut running, mut queued) = (0, 0);
        for (run, attempt) in &worker.holds {
            let attempts = self.runs.get(run).map(|run| &run.attempts);
            match attempts.and_then(|all| all.get(attempt)).map(|it| it.state) {
                Some(State::Sent { began: true }) => running += 1,
                _ => queued += 1,
            }
        }
        for share in worker.shares.values() {
            queued += u32::try_from(share.queue.len()).unwrap_or(u32::MAX);
        }
        let (state, since) = match worker.line {
            Line::Broken { since } => ("silent", since),
            Line::Open { heard, .. } if worker.leaving => ("leaving", heard),
            Line::Open { heard, .. } => ("here", heard),
        };
        WorkerStatus {
            worker: ix,
            identity: Arc::clone(&worker.identity),
            state,
            used: worker.room.used(&worker.identity.capacity),
            running,
            queued,
            silent: now.saturating_sub(since),
            free_bytes: worker.free_bytes,
            full: worker.full.clone(),
        }
    }

    /// The room that attempts of a run wait for, and who has it.
    fn room_that_is_lacking(&self, ix: RunIx, run: &Run) -> String {
        let queued = run.attempts.values().filter(|it| it.state == State::Queued);
        let at: BTreeSet<WorkerIx> = queued.map(|it| it.worker).collect();
        let workers = at.iter().filter_map(|worker| self.workers.get(worker));
        let holders = workers.clone().flat_map(|worker| &worker.holds);
        let holders: BTreeSet<RunIx> = holders
            .map(|(run, _)| *run)
            .filter(|it| *it != ix)
            .collect();
        if holders.is_empty() {
            return "room on their workers".to_owned();
        }
        let workers = workers.map(|worker| worker.identity.name.clone());
        let holders = holders
            .iter()
            .map(|run| format!("run {}", self.runs[run].id));
        let (workers, has) = (
            some_of(workers.collect()),
            match holders.len() {
                1 => "has",
                _ => "have",
            },
        );
        format!(
            "room on {workers}, which {} {has}",
            some_of(holders.collect())
        )
    }

    fn waits(&self) -> Vec<String> {
        let mut waits = Vec::new();
        for (ix, run) in &self.runs {
            let queued = run.attempts.values().filter(|it| it.state == State::Queued);
            let queued = queued.count();
            if queued > 0 {
                let what = match run.most {
                    Some(most) if run.used + 1000 > most => {
                        format!("one of the {} CPUs that it may have", most / 1000)
                    }
                    _ => self.room_that_is_lacking(*ix, run),
                };
                waits.push(format!("{queued} of run {} for {what}", run.id));
            }
        }
        for (name, most) in &self.config.limits {
            if !self.rejoined {
                waits.push(format!(
                    "`{name}` waits for workers that the former coordinator had: they may use it"
                ));
            } else if self.limits.get(name) == Some(&0) && *most > 0 {
                waits.push(format!(
                    "`{name}` is all taken: {} over all workers",
                    *most as f64 / 1000.0
                ));
            }
        }
        waits
    }
}

/// Some names, and how many more there are.
fn some_of(names: Vec<String>) -> String {
    match &names[..] {
        [first, second, third, more @ ..] if !more.is_empty() => {
            format!("{first}, {second}, {third} and {} more", more.len())
        }
        _ => names.join(", "),
    }
}
