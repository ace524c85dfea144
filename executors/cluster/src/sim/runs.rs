//! Drivers of runs, and what they may expect of the coordinator.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use dagrun_executor_api::{ExecutorEvent, HeldAttempt, WorkerInfo};
use dagrun_model::{
    Action, AttemptId, AttemptResult, AttemptSpec, Digest, Limits, NodeIx, Outcome, Resources,
    WorkerIx,
};

use super::rng::Rng;
use crate::pool::{Event, RunIx};

/// The named resource of which there is one for all workers.
pub(super) const LIMITED: &str = "licence";

/// Something to be done, by as many attempts as it takes.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// How long it runs; nothing for one that runs until it is stopped.
    pub(super) micros: Option<u64>,
    pub(super) cpus: u64,
    pub(super) limited: bool,
    pub(super) action: Arc<Action>,
    /// Durable: known to coordinators that come later.
    pub(super) done: bool,
    pub(super) attempt: Option<AttemptId>,
}

/// An attempt as its driver sees it.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) job: usize,
    pub(super) worker: WorkerIx,
    pub(super) ended: bool,
    /// It was on its way to its worker, or there.
    pub(super) sent: bool,
    pub(super) began: bool,
    pub(super) stopped: bool,
    /// The run in which it was started.
    pub(super) name: Arc<str>,
    /// Nothing of it is left to do: the journal has its end.
    pub(super) over: bool,
}

/// An attempt whose end no journal has.
#[derive(Clone, Debug)]
pub(super) struct Inherited {
    name: Arc<str>,
    id: AttemptId,
    job: usize,
    process: String,
}

/// A worker as a driver sees it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) slots: u64,
    pub(super) ahead: u64,
    pub(super) draining: bool,
    pub(super) lost: bool,
    pub(super) given: u64,
    /// CPUs that others have, as it was told.
    pub(super) taken: u64,
    pub(super) process: String,
}

/// A run and its driver.
pub(super) struct Run {
    pub(super) ix: RunIx,
    pub(super) id: Arc<str>,
    pub(super) jobs: Vec<Job>,
    pub(super) attempts: BTreeMap<AttemptId, Attempt>,
    /// The jobs of all attempts that there ever were.
    pub(super) all: BTreeMap<u64, usize>,
    pub(super) workers: BTreeMap<WorkerIx, Known>,
    pub(super) next_attempt: u64,
    /// The runs of former drivers.
    pub(super) chain: Vec<Arc<str>>,
    pub(super) inherited: Vec<Inherited>,
    /// Its driver has told the coordinator of it.
    pub(super) opened: bool,
    /// When its driver's last word arrives.
    pub(super) said: u64,
    pub(super) closed: bool,
    pub(super) over: bool,
}

/// What a driver does because of what it heard.
pub(super) enum Next {
    Nothing,
    /// Make the result of an attempt durable, then say that it is settled.
    Commit(AttemptId),
    /// Say that it is settled.
    Settle(AttemptId),
    /// Take over what a worker holds, and give up the rest.
    Decide(WorkerIx, Vec<HeldAttempt>, Vec<HeldAttempt>),
}

impl Run {
    pub(super) fn new(rng: &mut Rng, jobs: Range<u64>, most_cpus: u64, limit: bool) -> Self {
        let jobs = (0..rng.range(jobs.start, jobs.end))
            .map(|n| job(rng, n, most_cpus, limit))
            .collect();
        Self {
            ix: RunIx(0),
            id: "".into(),
            jobs,
            attempts: BTreeMap::new(),
            all: BTreeMap::new(),
            workers: BTreeMap::new(),
            next_attempt: 1,
            chain: Vec::new(),
            inherited: Vec::new(),
            opened: false,
            said: 0,
            closed: false,
            over: false,
        }
    }

    /// A new driver: of the former one only what is durable is left. Of its last starts the journal may lack some.
    pub(super) fn restart(&mut self, ix: RunIx, rng: &mut Rng) {
        if !self.id.is_empty() {
            self.chain.push(self.id.clone());
        }
        for (id, attempt) in self.attempts.iter().filter(|(_, it)| !it.over) {
            if rng.percent(90) {
                self.inherited.push(Inherited {
                    name: attempt.name.clone(),
                    id: *id,
                    job: attempt.job,
                    process: self.workers[&attempt.worker].process.clone(),
                });
            }
        }
        self.ix = ix;
        self.id = format!("run{}", ix.0).into();
        self.attempts.clear();
        self.opened = false;
        self.said = 0;
        self.workers.clear();
        self.over = false;
        self.closed = false;
        for job in &mut self.jobs {
            job.attempt = None;
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.jobs.iter().all(|job| job.done)
    }

    /// What its driver says in its turn: it submits what it can, and now and then wants something back.
    pub(super) fn turn(&mut self, rng: &mut Rng, withdraws: bool) -> Vec<Event> {
        let run = self.ix;
        let submits = self.place(rng).into_iter();
        let mut words: Vec<Event> = submits
            .map(|(worker, specs)| Event::Submit(run, worker, specs))
            .collect();
        let (mut stops, mut recalls, mut withdrawals) = (Vec::new(), Vec::new(), Vec::new());
        for (id, attempt) in self.attempts.iter_mut().filter(|(_, a)| !a.ended) {
            let endless = self.jobs[attempt.job].micros.is_none();
            if endless && !attempt.stopped && attempt.began && rng.percent(10) {
                attempt.stopped = true;
                stops.push(*id);
            } else if !endless && rng.percent(2) {
                recalls.push(*id);
            } else if withdraws && rng.percent(10) {
                withdrawals.push(*id);
            }
        }
        if !stops.is_empty() {
            let kill = rng.percent(50);
            words.push(Event::Cancel(run, stops, kill));
        }
        if !recalls.is_empty() {
            words.push(Event::Recall(run, recalls));
        }
        if !withdrawals.is_empty() {
            words.push(Event::Withdraw(run, withdrawals));
        }
        words
    }

    /// The result of an attempt is durable.
    ///
    /// # Errors
    /// When its job had one.
    pub(super) fn commit(&mut self, id: AttemptId) -> Result<(), String> {
        let attempt = self.attempts.get_mut(&id).expect("it ended");
        attempt.over = true;
        let job = &mut self.jobs[attempt.job];
        job.attempt = None;
        match std::mem::replace(&mut job.done, true) {
            true => Err(format!("{id} is committed, and its job was already")),
            false => Ok(()),
        }
    }

    /// Whatever can be submitted now, by worker.
    fn place(&mut self, rng: &mut Rng) -> BTreeMap<WorkerIx, Vec<AttemptSpec>> {
        let mut submits: BTreeMap<WorkerIx, Vec<AttemptSpec>> = BTreeMap::new();
        for at in 0..self.jobs.len() {
            let job = &self.jobs[at];
            let may_run = self.inherited.iter().any(|it| it.job == at);
            if job.done || job.attempt.is_some() || may_run {
                continue;
            }
            // That a worker leaves may come too late.
            let late = rng.percent(10);
            let usable = self.workers.iter().filter(|(_, w)| {
                (late || !w.draining)
                    && !w.lost
                    && job.cpus <= w.slots
                    && w.given < w.slots + w.ahead
            });
            let usable: Vec<WorkerIx> = usable.map(|(ix, _)| *ix).collect();
            if usable.is_empty() {
                continue;
            }
            let worker = usable[rng.below(usable.len() as u64) as usize];
            let spec = self.attempt(at, worker);
            submits.entry(worker).or_default().push(spec);
        }
        submits
    }

    fn attempt(&mut self, at: usize, worker: WorkerIx) -> AttemptSpec {
        let id = AttemptId(self.next_attempt);
        self.next_attempt += 1;
        let job = &mut self.jobs[at];
        job.attempt = Some(id);
        let attempt = Attempt {
            job: at,
            worker,
            ended: false,
            sent: false,
            began: false,
            stopped: false,
            name: self.id.clone(),
            over: false,
        };
        self.attempts.insert(id, attempt);
        self.all.insert(id.0, at);
        let known = self.workers.get_mut(&worker).expect("it was chosen");
        known.given += 1;
        let mut resources = Resources {
            cpu_milli: job.cpus * 1000,
            ..Resources::none()
        };
        if job.limited {
            resources.named.insert(LIMITED.into(), 1000);
        }
        AttemptSpec {
            attempt: id,
            node: NodeIx(at as u32),
            id: format!("job[n={at}]"),
            number: 1,
            action: job.action.clone(),
            resources,
            keep_failed: false,
            run: None,
        }
    }

    /// What the coordinator tells.
    ///
    /// # Errors
    /// What it should not have.
    pub(super) fn hear(
        &mut self,
        event: ExecutorEvent,
        made_by: impl Fn(WorkerIx) -> u64,
        is_misled: impl Fn(WorkerIx) -> bool,
    ) -> Result<Next, String> {
        if self.over {
            return Err(format!("{event:?} after the run was over"));
        }
        match event {
            ExecutorEvent::WorkerJoined(info) => self.joined(info),
            ExecutorEvent::Rejoined => {
                self.inherited.clear();
                Ok(Next::Nothing)
            }
            ExecutorEvent::TakenByOthers(taken) => {
                for (worker, others) in taken {
                    let known = self.known(worker)?;
                    if known.lost {
                        return Err(format!(
                            "others have something of {worker:?}, which is lost"
                        ));
                    }
                    known.taken = others.cpu_milli / 1000;
                }
                Ok(Next::Nothing)
            }
            ExecutorEvent::WorkerDraining(worker) => {
                self.known(worker)?.draining = true;
                Ok(Next::Nothing)
            }
            ExecutorEvent::WorkerLost(worker, _) => {
                let known = self.known(worker)?;
                if std::mem::replace(&mut known.lost, true) {
                    return Err(format!("{worker:?} was lost twice"));
                }
                Ok(Next::Nothing)
            }
            ExecutorEvent::Started(id) => {
                let attempt = self.open(id)?;
                match std::mem::replace(&mut attempt.began, true) {
                    true => Err(format!("{id} started twice")),
                    false => Ok(Next::Nothing),
                }
            }
            // Blobs are outside of both state machines.
            ExecutorEvent::Fetched(id, ..) => self.open(id).map(|_| Next::Nothing),
            ExecutorEvent::Ended(id, result) => self.ended(id, &result, made_by, is_misled),
            ExecutorEvent::Warning(_) | ExecutorEvent::WorkerDisk(..) => Ok(Next::Nothing),
        }
    }

    fn joined(&mut self, info: WorkerInfo) -> Result<Next, String> {
        let mut known = Known {
            slots: info.capacity.cpu_milli / 1000,
            ahead: info.ahead.into(),
            draining: false,
            lost: false,
            given: 0,
            taken: 0,
            process: info.process.clone(),
        };
        let is_its = |it: &Inherited| it.process == info.process;
        let expected: Vec<Inherited> = self.inherited.extract_if(.., |it| is_its(it)).collect();
        let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
        for held in info.held {
            let is_it = |it: &&Inherited| it.name == held.run && it.id == held.attempt;
            let job = expected.iter().find(is_it).map(|it| it.job);
            let is_free = |job: &usize| !self.jobs[*job].done && self.jobs[*job].attempt.is_none();
            let Some(job) = job.filter(is_free).filter(|_| held.began) else {
                unwanted.push(held);
                continue;
            };
            if self.jobs[job].action.digest != held.action {
                return Err(format!("{held:?} is said to do what it does not"));
            }
            self.jobs[job].attempt = Some(held.attempt);
            let attempt = Attempt {
                job,
                worker: info.worker,
                ended: false,
                sent: true,
                began: true,
                stopped: false,
                name: held.run.clone(),
                over: false,
            };
            self.attempts.insert(held.attempt, attempt);
            known.given += 1;
            wanted.push(held);
        }
        match self.workers.insert(info.worker, known) {
            Some(_) => Err(format!("{:?} joined twice", info.worker)),
            None if wanted.is_empty() && unwanted.is_empty() => Ok(Next::Nothing),
            None => Ok(Next::Decide(info.worker, wanted, unwanted)),
        }
    }

    /// An attempt is on its way to its worker.
    pub(super) fn sent(&mut self, id: AttemptId) {
        if let Some(attempt) = self.attempts.get_mut(&id) {
            attempt.sent = true;
        }
    }

    fn known(&mut self, worker: WorkerIx) -> Result<&mut Known, String> {
        let known = self.workers.get_mut(&worker);
        known.ok_or_else(|| format!("{worker:?} was never announced"))
    }

    fn open(&mut self, id: AttemptId) -> Result<&mut Attempt, String> {
        match self.attempts.get_mut(&id) {
            Some(attempt) if !attempt.ended => Ok(attempt),
            Some(_) => Err(format!("{id} had ended already")),
            None => Err(format!("{id} was never submitted")),
        }
    }

    fn ended(
        &mut self,
        id: AttemptId,
        result: &AttemptResult,
        made_by: impl Fn(WorkerIx) -> u64,
        is_misled: impl Fn(WorkerIx) -> bool,
    ) -> Result<Next, String> {
        let attempt = self.open(id)?;
        attempt.ended = true;
        let attempt = attempt.clone();
        let worker = self.known(attempt.worker)?;
        worker.given -= 1;
        let (lost, misled) = (worker.lost, is_misled(attempt.worker));
        let job = &mut self.jobs[attempt.job];
        if !matches!(result.outcome, Outcome::Succeeded(_)) {
            job.attempt = None;
            self.attempts.get_mut(&id).expect("it is there").over = true;
        }
        match &result.outcome {
            Outcome::Succeeded(_) => {
                // The executor of the simulation writes down who it is.
                if lost || result.usage.written != made_by(attempt.worker) {
                    return Err(format!("{id} was ended by another than its worker"));
                }
                Ok(Next::Commit(id))
            }
            Outcome::Lost(why) if !lost && !misled && !why.contains("had to go") => {
                Err(format!("{id} is lost, and its worker is not: {why}"))
            }
            Outcome::Lost(why) if !attempt.sent => {
                Err(format!("{id} is lost, and no worker was given it: {why}"))
            }
            Outcome::Cancelled if job.micros.is_none() && attempt.stopped => {
                job.done = true;
                Ok(Next::Settle(id))
            }
            _ => Ok(Next::Settle(id)),
        }
    }
}

fn job(rng: &mut Rng, n: u64, most_cpus: u64, limit: bool) -> Job {
    let endless = rng.percent(15);
    Job {
        micros: (!endless).then(|| rng.range(1_000, 900_000)),
        cpus: rng.range(1, most_cpus + 1),
        limited: limit && rng.percent(25),
        action: Arc::new(Action {
            digest: Digest::of(&n.to_le_bytes()),
            commands: Vec::new(),
            env: Vec::new(),
            pass_env: Vec::new(),
            secrets: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            stdout: None,
            limits: Limits::default(),
        }),
        done: false,
        attempt: None,
    }
}
