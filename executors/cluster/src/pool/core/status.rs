//! What a person may want to know of the workers, and of what waits for them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dagrun_model::{Resources, WorkerIx};

use super::{
    Core,
    state::{Line, State, Worker},
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
}

/// How a coordinator is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolStatus {
    /// Its workers, by number.
    pub workers: Vec<WorkerStatus>,
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
        }
    }

    fn waits(&self) -> Vec<String> {
        let mut waits = Vec::new();
        for run in self.runs.values() {
            let queued = run.attempts.values().filter(|it| it.state == State::Queued);
            let queued = queued.count();
            if queued > 0 {
                waits.push(format!(
                    "{queued} of run {} for room on their workers",
                    run.id
                ));
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
