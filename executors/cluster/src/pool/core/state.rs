//! Connections, workers, runs and attempts, as a coordinator keeps them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use dagrun_executor_api::WorkerInfo;
use dagrun_model::{AttemptId, AttemptSpec, HostIx, Resources, WorkerIx};
use rustc_hash::FxHashMap;

use super::{
    ConnIx, RunIx,
    room::{Key, Room},
};
use crate::message::{AttemptRef, How, Identity};

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
        }
    }

    pub(super) fn conn(&self) -> Option<ConnIx> {
        match self.line {
            Line::Open { conn, .. } => Some(conn),
            Line::Broken { .. } => None,
        }
    }

    pub(super) fn share(&mut self, run: RunIx) -> &mut Share {
        self.shares.entry(run).or_insert_with(|| Share {
            queue: VecDeque::new(),
            room: Room::new(&self.identity.capacity),
        })
    }

    /// As runs see it: what is limited over all workers is no matter of one of them.
    pub(super) fn info(&self, worker: WorkerIx, limits: &BTreeMap<String, u64>) -> WorkerInfo {
        let mut capacity = self.identity.capacity.clone();
        capacity.named.extend(limits.clone());
        WorkerInfo {
            worker,
            host: self.host,
            host_name: self.identity.name.clone(),
            capacity,
            profile: self.identity.profile.clone(),
            ahead: self.identity.ahead,
            speed: self.identity.speed,
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
    pub(super) attempts: FxHashMap<AttemptId, Attempt>,
    /// Attempts that ended and whose results workers still keep.
    pub(super) unsettled: FxHashMap<AttemptId, WorkerIx>,
    pub(super) closing: bool,
}

impl Run {
    pub(super) fn new(id: Arc<str>, priority: i32) -> Self {
        Self {
            id,
            priority,
            used: 0,
            attempts: FxHashMap::default(),
            unsettled: FxHashMap::default(),
            closing: false,
        }
    }

    pub(super) fn attempt_ref(&self, attempt: AttemptId) -> AttemptRef {
        AttemptRef {
            run: self.id.clone(),
            attempt,
        }
    }
}

/// An attempt that did not end.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) spec: Arc<AttemptSpec>,
    /// What it takes of the worker.
    pub(super) demand: Resources,
    /// What it takes of the limits over all workers.
    pub(super) limited: BTreeMap<String, u64>,
    pub(super) worker: WorkerIx,
    pub(super) state: State,
    /// How it was told to stop; told again on every connection.
    pub(super) stop: Option<How>,
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
