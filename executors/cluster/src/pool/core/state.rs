//! Connections, workers, runs and attempts, as a coordinator keeps them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use dagrun_executor_api::{ExecutorEvent, FullDisk, WorkerInfo};
use dagrun_model::{ActionDigest, AttemptId, AttemptSpec, HostIx, Outcome, Resources, WorkerIx};
use rustc_hash::FxHashMap;

use super::{
    ConnIx, Core, Effect, RunIx,
    room::{Key, Room},
};
use crate::message::{AttemptRef, Ended, How, Identity, StartAttempt};

/// A connection.
#[derive(Debug)]
pub(super) enum Conn {
    /// Nobody has introduced himself on it.
    Mute { since: Duration },
    /// The present one of a worker.
    Of(WorkerIx),
}

/// A worker that is not lost.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) identity: Arc<Identity>,
    pub(super) host: HostIx,
    pub(super) line: Line,
    /// It takes nothing new.
    pub(super) leaving: bool,
    /// Why it was told to go; told again on every connection.
    pub(super) dismissed: Option<String>,
    pub(super) room: Room,
    /// What each run has here.
    pub(super) shares: BTreeMap<RunIx, Share>,
    /// Attempts that were sent and did not end.
    pub(super) holds: BTreeSet<Key>,
    pub(super) free_bytes: u64,
    /// Its disk had no room for an attempt, and has none yet.
    pub(super) full: Option<FullDisk>,
}

/// How a worker can be reached.
#[derive(Clone, Copy, Debug)]
pub(super) enum Line {
    Open { conn: ConnIx, heard: Duration },
    Broken { since: Duration },
}

/// A run's part of a worker.
#[derive(Debug)]
pub(super) struct Share {
    /// Submitted and not yet sent, in order.
    pub(super) queue: VecDeque<AttemptId>,
    /// The worker as if the run had it alone: what does not fit even so was given ahead on purpose.
    pub(super) room: Room,
}

impl Worker {
    pub(super) fn new(identity: Arc<Identity>, host: HostIx, line: Line) -> Self {
        Self {
            room: Room::new(&identity.capacity),
            identity,
            host,
            line,
            leaving: false,
            dismissed: None,
            shares: BTreeMap::new(),
            holds: BTreeSet::new(),
            free_bytes: 0,
            full: None,
        }
    }

    pub(super) fn conn(&self) -> Option<ConnIx> {
        match self.line {
            Line::Open { conn, .. } => Some(conn),
            Line::Broken { .. } => None,
        }
    }

    /// Whether something waits here for it.
    pub(super) fn has_queued(&self) -> bool {
        self.shares.values().any(|share| !share.queue.is_empty())
    }

    pub(super) fn share(&mut self, run: RunIx) -> &mut Share {
        self.shares.entry(run).or_insert_with(|| Share {
            queue: VecDeque::new(),
            room: Room::new(&self.identity.capacity),
        })
    }
}

impl Core {
    /// A worker as a run sees it: what is limited over all workers is no matter of one of them.
    pub(super) fn info(&self, now: Duration, run: RunIx, ix: WorkerIx) -> WorkerInfo {
        let (worker, config) = (&self.workers[&ix], &self.config);
        let Identity {
            name,
            profile,
            speed,
            incarnation,
            ..
        } = &*worker.identity;
        let mut capacity = worker.identity.capacity.clone();
        capacity.named.extend(config.limits.clone());
        let most = self.runs[&run].most;
        capacity.cpu_milli = capacity.cpu_milli.min(most.unwrap_or(u64::MAX));
        WorkerInfo {
            worker: ix,
            host: worker.host,
            host_name: name.clone(),
            capacity,
            profile: profile.clone(),
            // What waits on one worker would keep CPUs from what could begin on another.
            ahead: most.map_or(worker.identity.ahead, |_| 0),
            speed: *speed,
            process: if config.adopts.is_some() {
                incarnation.to_string()
            } else {
                String::new()
            },
            held: self.offered(now, run, ix),
        }
    }
}

/// A run.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) id: Arc<str>,
    pub(super) priority: i32,
    /// Thousandths of CPUs that its attempts have on all workers.
    pub(super) used: u64,
    /// How many it may have at a time.
    pub(super) most: Option<u64>,
    pub(super) attempts: FxHashMap<AttemptId, Attempt>,
    /// Attempts that ended and whose results workers still keep.
    pub(super) unsettled: FxHashMap<AttemptId, Unsettled>,
    /// How many of its attempts wait here.
    pub(super) queued: usize,
    /// What it was told that others have, of each worker.
    pub(super) taken: FxHashMap<WorkerIx, Resources>,
    pub(super) closing: bool,
    /// It wants to hear when no more workers of an earlier coordinator come.
    pub(super) waits: bool,
    /// Nobody has opened it: it was an earlier coordinator's. With the ends of attempts that nobody has taken over.
    pub(super) former: Option<FxHashMap<AttemptId, Kept>>,
}

/// Who keeps a result, and by which run's name.
#[derive(Debug)]
pub(super) struct Unsettled {
    pub(super) worker: WorkerIx,
    pub(super) name: Arc<str>,
}

/// How an attempt of a former run ended.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) former: Former,
    pub(super) demand: Resources,
    pub(super) ended: Box<Ended>,
}

impl Kept {
    /// Whether something came of it.
    pub(super) fn is_result(&self) -> bool {
        let outcome = &self.ended.result.outcome;
        !matches!(outcome, Outcome::Cancelled | Outcome::Lost(_))
    }
}

impl Run {
    pub(super) fn new(
        id: Arc<str>,
        priority: i32,
        cpus: Option<u64>,
        resumes: &[Arc<str>],
    ) -> Self {
        Self {
            id,
            priority,
            used: 0,
            most: cpus.map(|cpus| cpus.saturating_mul(1000)),
            attempts: FxHashMap::default(),
            unsettled: FxHashMap::default(),
            queued: 0,
            taken: FxHashMap::default(),
            closing: false,
            waits: !resumes.is_empty(),
            former: None,
        }
    }

    /// A run of an earlier coordinator.
    pub(super) fn former(id: Arc<str>) -> Self {
        Self {
            former: Some(FxHashMap::default()),
            ..Self::new(id, 0, None, &[])
        }
    }

    /// Tells it something, where somebody has opened it.
    pub(super) fn tell(&self, run: RunIx, event: ExecutorEvent, effects: &mut Vec<Effect>) {
        if self.former.is_none() {
            effects.push(Effect::Tell(run, event));
        }
    }

    /// A worker that kept results is gone.
    pub(super) fn forget_results_of(&mut self, worker: WorkerIx) {
        self.unsettled.retain(|_, kept| kept.worker != worker);
        if let Some(results) = &mut self.former {
            results.retain(|id, _| self.unsettled.contains_key(id));
        }
    }

    /// The run by whose name the worker of an attempt knows it.
    pub(super) fn name_of(&self, attempt: AttemptId) -> Option<&Arc<str>> {
        let open = self.attempts.get(&attempt).map(|it| &it.name);
        open.or_else(|| Some(&self.unsettled.get(&attempt)?.name))
    }
}

/// An attempt that did not end.
#[derive(Debug)]
pub(super) struct Attempt {
    /// The run by whose name its worker knows it: that in which it was started.
    pub(super) name: Arc<str>,
    pub(super) origin: Origin,
    /// What it takes of the worker.
    pub(super) demand: Resources,
    /// What it takes of the limits over all workers.
    pub(super) limited: BTreeMap<String, u64>,
    pub(super) worker: WorkerIx,
    pub(super) state: State,
    /// How it was told to stop; told again on every connection.
    pub(super) stop: Option<How>,
}

impl Attempt {
    pub(super) fn as_ref(&self, attempt: AttemptId) -> AttemptRef {
        AttemptRef {
            run: self.name.clone(),
            attempt,
        }
    }

    /// What its worker is told, where it is known.
    pub(super) fn start(&self, attempt: AttemptId) -> Option<StartAttempt> {
        let Origin::Given(spec) = &self.origin else {
            return None;
        };
        Some(StartAttempt {
            attempt: self.as_ref(attempt),
            spec: spec.clone(),
            limited: self.limited.clone(),
            sources: Vec::new(),
        })
    }
}

/// Where an attempt comes from.
#[derive(Debug)]
pub(super) enum Origin {
    /// A run gave it.
    Given(Arc<AttemptSpec>),
    /// Its worker had it before this coordinator began.
    Former(Former),
}

/// What a worker told of an attempt that it had.
#[derive(Clone, Copy, Debug)]
pub(super) struct Former {
    pub(super) action: ActionDigest,
    /// For how long it had run when that was told.
    pub(super) ran: Duration,
    pub(super) told: Duration,
}

/// Where an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// In a queue of the pool.
    Queued,
    /// With its worker, or on the way there.
    Sent {
        /// The worker said that its process runs.
        began: bool,
    },
}
