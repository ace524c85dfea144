//! The state machine of a coordinator: events and a time in, effects out. No sockets, clocks, files or randomness.
//!
//! What it promises, whatever is lost, late or told twice:
//! - every attempt that a run submits ends towards it exactly once;
//! - only the worker that an attempt was given to can end it, and only while it is not counted as lost;
//! - a worker is given no more than it has room for, besides what a run itself gave it ahead;
//! - a run is told what others have of each worker, so that it need not wait where they are.

mod adopt;
mod attempts;
mod dispatch;
mod join;
mod lease;
mod news;
mod room;
mod share;
mod state;
mod status;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dagrun_executor_api::{ExecutorEvent, HeldAttempt};
use dagrun_model::{AttemptId, AttemptSpec, HostIx, WorkerIx};
use rustc_hash::FxHashMap;

use crate::{
    message::{Ended, FromWorker, Identity, Incarnation, Platform, ToWorker},
    mutant::{Mutant, Mutants},
};
use share::Looks;
use state::{Conn, Run, Worker};
use status::Losses;

pub use news::News;
pub use status::{KEPT_LOSSES, LostWorker, PoolStatus, WorkerStatus};

/// A connection of a worker, never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnIx(pub u64);

/// A run, never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RunIx(pub u32);

/// On what terms a coordinator works. Durations are of a monotonic clock.
#[derive(Clone, Debug)]
pub struct Config {
    /// The version that workers must have.
    pub version: String,
    /// What workers must have been built for: it is part of every action's digest.
    pub platform: Platform,
    /// Greater than that of any earlier coordinator in the same place.
    pub epoch: u64,
    /// A worker that is silent for so long is lost.
    pub lease: Duration,
    /// How often a worker says something.
    pub beat: Duration,
    /// How long a worker whose connection broke may take to come back.
    pub grace: Duration,
    /// Named resources, in thousandths, that all workers together may use at a time.
    pub limits: BTreeMap<String, u64>,
    /// For how long after its start what workers hold of an earlier coordinator's runs is kept for those who go on with them. `None`
    /// where workers end with their coordinator.
    pub adopts: Option<Duration>,
}

impl Config {
    /// The usual terms.
    pub fn new(version: impl Into<String>, epoch: u64) -> Self {
        Self {
            version: version.into(),
            platform: Platform::here(),
            epoch,
            lease: Duration::from_secs(10),
            beat: Duration::from_secs(2),
            grace: Duration::from_secs(2),
            limits: BTreeMap::new(),
            adopts: None,
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Somebody connected.
    Opened(ConnIx),
    /// A connection brought a message.
    Message(ConnIx, FromWorker),
    /// A connection is over, with why.
    Closed(ConnIx, String),
    /// Time has passed. To be told at least four times a beat.
    Tick,
    /// A run begins; its id is new.
    RunOpened {
        /// Its number here.
        run: RunIx,
        /// Its id.
        id: Arc<str>,
        /// Higher goes first.
        priority: i32,
        /// CPUs that its attempts may have at a time, of all workers together.
        cpus: Option<u64>,
        /// The runs that it goes on with: what workers hold of them it may take over.
        resumes: Vec<Arc<str>>,
    },
    /// A run takes over what a worker holds of runs that it goes on with.
    Adopt(RunIx, WorkerIx, Vec<HeldAttempt>),
    /// A run gives up what workers hold of such runs.
    Disown(RunIx, Vec<HeldAttempt>),
    /// A run takes no more; all of it is killed.
    RunClosed(RunIx),
    /// A run gives attempts to a worker.
    Submit(RunIx, WorkerIx, Vec<AttemptSpec>),
    /// A run stops attempts: by TERM, or by KILL.
    Cancel(RunIx, Vec<AttemptId>, bool),
    /// A run wants back what has not begun.
    Recall(RunIx, Vec<AttemptId>),
    /// A run wants back what no worker was told of.
    Withdraw(RunIx, Vec<AttemptId>),
    /// Results of these are durable or not wanted.
    Settled(RunIx, Vec<AttemptId>),
    /// A worker is to take nothing new and go; why.
    Drain(WorkerIx, String),
    /// All workers are to go; why.
    Dismiss(String),
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Send a message. Where that fails, [`Event::Closed`] follows.
    Send(ConnIx, ToWorker),
    /// Close a connection after what was sent; why. No event answers.
    Close(ConnIx, String),
    /// Tell a run.
    Tell(RunIx, ExecutorEvent),
    /// An attempt of a run ended on a worker: its blobs, and those that were fetched for it, are on the worker's host.
    Landed(WorkerIx, RunIx, Box<Ended>),
    /// A worker is there.
    Joined(WorkerIx, HostIx, Arc<Identity>),
    /// A worker is gone.
    Gone(WorkerIx, HostIx),
    /// Nothing of a closed run is left.
    RunOver(RunIx),
    /// Tell whoever looks after the cluster.
    News(News),
}

/// The state of a coordinator.
#[derive(Debug)]
pub struct Core {
    config: Config,
    conns: BTreeMap<ConnIx, Conn>,
    workers: BTreeMap<WorkerIx, Worker>,
    by_incarnation: FxHashMap<Incarnation, WorkerIx>,
    next_worker: u32,
    hosts: FxHashMap<String, HostIx>,
    runs: BTreeMap<RunIx, Run>,
    by_id: FxHashMap<Arc<str>, RunIx>,
    /// Who goes on with runs, by their names.
    heirs: BTreeMap<Arc<str>, RunIx>,
    next_former: u32,
    /// When the first event came.
    began: Option<Duration>,
    /// Workers that an earlier coordinator had have had their time to come back.
    rejoined: bool,
    /// What is left of the limits.
    limits: BTreeMap<String, u64>,
    last_tick: Option<Duration>,
    /// Nobody is lost for a broken connection until then: this side was away.
    forgive_until: Duration,
    losses: Losses,
    looks: Looks,
    /// Why all have to go.
    dismissed: Option<String>,
    mutants: Mutants,
}

impl Core {
    /// A coordinator without workers and runs.
    pub fn new(config: Config) -> Self {
        Self {
            limits: config.limits.clone(),
            rejoined: config.adopts.is_none() || config.epoch <= 1,
            config,
            conns: BTreeMap::new(),
            workers: BTreeMap::new(),
            by_incarnation: FxHashMap::default(),
            next_worker: 0,
            hosts: FxHashMap::default(),
            runs: BTreeMap::new(),
            by_id: FxHashMap::default(),
            heirs: BTreeMap::new(),
            next_former: 0,
            began: None,
            last_tick: None,
            forgive_until: Duration::ZERO,
            losses: Losses::default(),
            looks: Looks::default(),
            dismissed: None,
            mutants: Mutants::default(),
        }
    }

    /// A coordinator with a bug.
    #[cfg(test)]
    pub(crate) fn with_mutant(config: Config, mutant: Option<Mutant>) -> Self {
        Self {
            mutants: Mutants::of(mutant),
            ..Self::new(config)
        }
    }

    /// Whose connection it is.
    pub fn worker_at(&self, conn: ConnIx) -> Option<WorkerIx> {
        match self.conns.get(&conn) {
            Some(Conn::Of(worker)) => Some(*worker),
            _ => None,
        }
    }

    /// Takes an event; appends what is to be done. `now` is of a monotonic clock, since any moment.
    pub fn handle(&mut self, now: Duration, event: Event, effects: &mut Vec<Effect>) {
        self.began.get_or_insert(now);
        match event {
            Event::Opened(conn) => {
                self.conns.insert(conn, Conn::Mute { since: now });
            }
            Event::Message(conn, message) => self.message(now, conn, message, effects),
            Event::Closed(conn, why) => self.closed(now, conn, &why, effects),
            Event::Tick => self.tick(now, effects),
            Event::RunOpened {
                run,
                id,
                priority,
                cpus,
                resumes,
            } => {
                self.runs
                    .insert(run, Run::new(id.clone(), priority, cpus, &resumes));
                self.by_id.insert(id, run);
                self.heirs
                    .extend(resumes.into_iter().map(|name| (name, run)));
                self.introduce(now, run, effects);
            }
            Event::Adopt(run, worker, wanted) => self.adopt(run, worker, wanted, effects),
            Event::Disown(run, unwanted) => self.disown(run, unwanted, effects),
            Event::RunClosed(run) => self.close_run(run, effects),
            Event::Submit(run, worker, specs) => self.submit(run, worker, specs, effects),
            Event::Cancel(run, attempts, kill) => self.cancel(run, &attempts, kill, effects),
            Event::Recall(run, attempts) => self.recall(run, &attempts, effects),
            Event::Withdraw(run, attempts) => self.withdraw(run, &attempts, effects),
            Event::Settled(run, attempts) => self.settle(run, &attempts, effects),
            Event::Drain(worker, why) => self.drain(worker, &why, effects),
            Event::Dismiss(why) => self.dismiss(&why, effects),
        }
    }

    fn message(
        &mut self,
        now: Duration,
        conn: ConnIx,
        message: FromWorker,
        effects: &mut Vec<Effect>,
    ) {
        match (self.conns.get(&conn), message) {
            (Some(Conn::Mute { .. }), FromWorker::Hello(hello)) => {
                self.hello(now, conn, *hello, effects);
            }
            (Some(Conn::Of(worker)), message) => {
                let worker = *worker;
                self.heard(worker, now);
                self.word(conn, worker, message, effects);
            }
            (Some(Conn::Mute { .. }), _) => {
                self.hang_up(conn, "it did not introduce itself first", effects);
            }
            // Closed by this side; what is still on its way says nothing.
            (None, _) => {}
        }
    }

    /// A message of a worker on its present connection.
    fn word(
        &mut self,
        conn: ConnIx,
        worker: WorkerIx,
        message: FromWorker,
        effects: &mut Vec<Effect>,
    ) {
        match message {
            FromWorker::Hello(_) => self.hang_up(conn, "it introduced itself twice", effects),
            FromWorker::Beat(beat) => self.beat(conn, worker, beat, effects),
            FromWorker::Progress(progress) => self.progress(worker, progress, effects),
            FromWorker::Leaving(why) => self.leaving(worker, &why, effects),
        }
    }

    /// Tells a run which workers there are. Of one that leaves too: it will hear of its end, and may have something of it.
    fn introduce(&mut self, now: Duration, run: RunIx, effects: &mut Vec<Effect>) {
        // Those without room on their disks are the last to be given something, and before them those that somebody uses: what is
        // ready goes to the first that come.
        let mut workers: Vec<_> = self.workers.iter().collect();
        workers.sort_by_key(|(_, it)| (it.full.is_some(), !it.holds.is_empty()));
        for (ix, worker) in workers {
            if let Some(full) = &worker.full {
                let told = ExecutorEvent::WorkerDisk(*ix, Some(full.clone()));
                effects.push(Effect::Tell(run, told));
            }
            let info = self.info(now, run, *ix);
            effects.push(Effect::Tell(run, ExecutorEvent::WorkerJoined(info)));
            if worker.leaving {
                effects.push(Effect::Tell(run, ExecutorEvent::WorkerDraining(*ix)));
            }
        }
        self.survey(run, effects);
        self.tell_rejoined(effects);
    }

    /// Closes a connection whose worker did wrong, or that has another now.
    fn hang_up(&mut self, conn: ConnIx, why: &str, effects: &mut Vec<Effect>) {
        self.conns.remove(&conn);
        effects.push(Effect::Close(conn, why.to_owned()));
    }

    fn has(&self, mutant: Mutant) -> bool {
        self.mutants.has(mutant)
    }
}
