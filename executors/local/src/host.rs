//! The host's thread: the state of every attempt.

use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use dagrun_executor_api::{ExecutorEvent, WorkerInfo};
use dagrun_model::{AttemptId, AttemptResult, AttemptSpec, Outcome, format_bytes};
use dagrun_worker::{Finished, Link, LinkEvent, Prepared, Timing, Worker};
use rustc_hash::FxHashMap;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    LocalOptions,
    inbox::{Inbox, Message},
    pool::{Job, Pool, guarded},
};

/// Attempts that are made ready beyond one for each slot: few where inputs are staged for them, for these take room on the disk.
const AHEAD: usize = 4;
const AHEAD_LIGHT: usize = 32;
/// How many attempts the scheduler may give beyond what there is room for.
pub(crate) const HELD: u32 = 64;
/// Spawners that may die one after the other without an attempt ending between, before the worker is given up.
const DEATHS: u32 = 3;

pub(crate) struct Host {
    info: WorkerInfo,
    slots: usize,
    spawner: PathBuf,
    worker: Arc<Worker>,
    /// `None` once no spawner can be had any more.
    link: Option<Link>,
    deaths: u32,
    pool: Pool,
    events: UnboundedSender<ExecutorEvent>,
    inbox: Arc<Inbox>,
    attempts: FxHashMap<AttemptId, Entry>,
    /// Not yet made ready, in order.
    waiting: VecDeque<AttemptSpec>,
    /// Being made ready.
    preparing: usize,
    /// Given to the spawner, and as far as is known not started.
    pending: usize,
    closing: bool,
    /// When the spawner must have killed what it was told to first; a spawner that is stopped or stuck is then killed itself.
    kill_by: Option<Instant>,
    /// When to ask the spawner again whether it is there.
    beat_at: Instant,
    /// How often it was asked since it said anything.
    silent: u32,
    told_of_memory: bool,
}

/// How long a spawner may take to kill attempts.
const KILL_WITHIN: Duration = Duration::from_secs(2);

/// How often a spawner that says nothing is asked whether it is there. Times are counted in these rather than by a clock, so that
/// an engine that was stopped itself does not take its own absence for the spawner's.
const BEAT: Duration = Duration::from_secs(1);
/// Beats after which a spawner that was stopped by a signal is killed: nobody watches timeouts meanwhile.
const STOPPED: u32 = 5;
/// Beats after which one is killed that is just silent: machines under load are slow.
const SILENT: u32 = 60;

struct Entry {
    submitted: Instant,
    state: State,
}

impl Entry {
    /// By when the spawner must have killed it, where it was told to.
    fn kill_by(&self) -> Option<Instant> {
        match &self.state {
            State::Given(given) => given.kill_by,
            _ => None,
        }
    }
}

enum State {
    /// In `waiting`.
    Waiting,
    /// In the pool; `cancelled` while there.
    Preparing { cancelled: bool },
    /// With the spawner, which starts it when it is its turn.
    Given(Given),
    /// In the pool, whose threads report its end.
    Collecting,
}

struct Given {
    prepared: Box<Prepared>,
    timing: Timing,
    started: bool,
    /// By when the spawner must have killed it, where it was told to.
    kill_by: Option<Instant>,
}

impl Host {
    pub(crate) fn new(
        options: &LocalOptions,
        info: WorkerInfo,
        worker: Arc<Worker>,
        link: Link,
        pool: Pool,
        events: UnboundedSender<ExecutorEvent>,
        inbox: Arc<Inbox>,
    ) -> Self {
        Self {
            info,
            slots: options.slots as usize,
            spawner: options.spawner.clone(),
            worker,
            link: Some(link),
            deaths: 0,
            pool,
            events,
            inbox,
            attempts: FxHashMap::default(),
            waiting: VecDeque::new(),
            preparing: 0,
            pending: 0,
            closing: false,
            kill_by: None,
            beat_at: Instant::now() + BEAT,
            silent: 0,
            told_of_memory: false,
        }
    }

    pub(crate) fn run(mut self) {
        self.tell(ExecutorEvent::WorkerJoined(self.info.clone()));
        while !(self.closing && self.attempts.is_empty()) {
            let heard = self.wait();
            for message in self.inbox.take() {
                self.obey(message);
            }
            let ended = match heard {
                Ok(events) => self.note(events),
                Err(error) => {
                    self.spawner_died(&error);
                    Vec::new()
                }
            };
            // The spawner gets new work before anything else is done for what has ended.
            self.dispatch();
            for (id, given, finished) in ended {
                self.collect(id, given, finished);
            }
        }
        if let Some(link) = self.link.take() {
            link.close();
        }
        drop(self.pool);
        self.worker.clean();
    }

    fn tell(&self, event: ExecutorEvent) {
        // Nobody listens any more when a run was dropped.
        let _ = self.events.send(event);
    }

    /// Sleeps until there is a message or the spawner says something.
    fn wait(&mut self) -> io::Result<Vec<LinkEvent>> {
        let mut events = Vec::new();
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let beat = (!self.attempts.is_empty()).then_some(self.beat_at);
        let left = [self.kill_by, beat]
            .into_iter()
            .flatten()
            .min()
            .map(|by| by.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        let timeout = if self.inbox.may_sleep() {
            left.as_ref()
        } else {
            Some(&at_once)
        };
        let mut fds = vec![PollFd::from_borrowed_fd(self.inbox.fd(), PollFlags::IN)];
        if let Some(link) = &self.link {
            fds.push(PollFd::from_borrowed_fd(link.fd(), PollFlags::IN));
        }
        let polled = poll(&mut fds, timeout);
        let is_ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        let (rang, speaks) = (is_ready(0), is_ready(1));
        self.inbox.awake(rang);
        match polled {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(events),
            Err(error) => return Err(error.into()),
        }
        if let Some(link) = self.link.as_mut().filter(|_| speaks) {
            link.receive(&mut events)?;
        }
        self.check_kills(&events)?;
        self.check_beat(speaks)?;
        Ok(events)
    }

    /// A spawner that was stopped by one of its nodes, or hangs, must not keep what was to be killed.
    fn check_kills(&mut self, heard: &[LinkEvent]) -> io::Result<()> {
        if self.kill_by.is_none_or(|by| by > Instant::now()) {
            return Ok(());
        }
        // Others may have ended since, or have been told of later.
        self.kill_by = self.attempts.values().filter_map(Entry::kill_by).min();
        let late = self.kill_by.is_some_and(|by| by <= Instant::now());
        let Some(link) = self.link.as_mut().filter(|_| late && heard.is_empty()) else {
            return Ok(());
        };
        link.kill();
        Err(io::Error::other("it did not kill what it was told to"))
    }

    /// A spawner that was stopped, or hangs, watches no timeouts: it is asked whether it is there, and killed in the end.
    fn check_beat(&mut self, spoke: bool) -> io::Result<()> {
        let now = Instant::now();
        if spoke {
            self.silent = 0;
            self.beat_at = now + BEAT;
        }
        if self.beat_at > now {
            return Ok(());
        }
        self.beat_at = now + BEAT;
        let has_any = self
            .attempts
            .values()
            .any(|entry| matches!(entry.state, State::Given(_)));
        let Some(link) = self.link.as_mut().filter(|_| has_any) else {
            self.silent = 0;
            return Ok(());
        };
        if self.silent == 0 {
            link.ping();
        }
        self.silent += 1;
        let why = if self.silent > STOPPED && link.is_stopped() {
            "a signal stopped it"
        } else if self.silent > SILENT {
            "it does not answer"
        } else {
            return Ok(());
        };
        self.silent = 0;
        link.kill();
        Err(io::Error::other(why))
    }

    fn obey(&mut self, message: Message) {
        match message {
            Message::Submit(specs) => specs.into_iter().for_each(|spec| self.submit(spec)),
            Message::Recall(ids) => ids.into_iter().for_each(|id| self.recall(id)),
            Message::Cancel(ids, kill) => ids.into_iter().for_each(|id| self.cancel(id, kill)),
            Message::Prepared(id, made) => self.prepared(id, made),
            Message::Collected(id) => {
                self.attempts.remove(&id);
            }
            Message::Shutdown => self.close(),
        }
    }

    fn submit(&mut self, spec: AttemptSpec) {
        let id = spec.attempt;
        if self.closing {
            return self.tell_end(id, AttemptResult::bare(Outcome::Cancelled));
        }
        if self.link.is_none() {
            return self.tell_end(id, AttemptResult::bare(no_spawner()));
        }
        self.attempts.insert(
            id,
            Entry {
                submitted: Instant::now(),
                state: State::Waiting,
            },
        );
        self.waiting.push_back(spec);
    }

    fn cancel(&mut self, id: AttemptId, kill: bool) {
        let Some(entry) = self.attempts.get_mut(&id) else {
            return;
        };
        match &mut entry.state {
            State::Waiting => {
                self.waiting.retain(|spec| spec.attempt != id);
                self.end(id, AttemptResult::bare(Outcome::Cancelled));
            }
            State::Preparing { cancelled } => *cancelled = true,
            State::Given(given) => {
                if let Some(link) = &mut self.link {
                    link.stop(id, kill);
                }
                if kill {
                    let by = Instant::now() + KILL_WITHIN;
                    given.kill_by.get_or_insert(by);
                    self.kill_by.get_or_insert(by);
                }
            }
            State::Collecting => {}
        }
    }

    /// Gives an attempt back that has not begun.
    fn recall(&mut self, id: AttemptId) {
        match self.attempts.get(&id).map(|entry| &entry.state) {
            Some(State::Given(_)) => {
                if let Some(link) = &mut self.link {
                    link.recall(id);
                }
            }
            Some(_) => self.cancel(id, false),
            None => {}
        }
    }

    /// Gives the spawner what is ready, unless it is not wanted any more.
    fn prepared(&mut self, id: AttemptId, made: Result<Box<Prepared>, Box<AttemptResult>>) {
        self.preparing -= 1;
        let Some(entry) = self.attempts.get_mut(&id) else {
            return;
        };
        let cancelled = matches!(entry.state, State::Preparing { cancelled: true });
        let mut prepared = match made {
            Ok(prepared) => prepared,
            Err(_) if cancelled => return self.end(id, AttemptResult::bare(Outcome::Cancelled)),
            Err(result) => return self.end(id, *result),
        };
        let Some(link) = self.link.as_mut().filter(|_| !cancelled) else {
            let outcome = if cancelled {
                Outcome::Cancelled
            } else {
                no_spawner()
            };
            let result = self.worker.give_up(*prepared, outcome);
            return self.end(id, result);
        };
        link.start(&mut prepared);
        self.pending += 1;
        let queue = entry.submitted.elapsed().saturating_sub(prepared.took());
        entry.state = State::Given(Given {
            prepared,
            timing: Timing { queue },
            started: false,
            kill_by: None,
        });
    }

    fn dispatch(&mut self) {
        loop {
            self.prepare_next();
            let flushed = self.link.as_mut().map_or(Ok(()), Link::flush);
            match flushed {
                Ok(()) => return,
                Err(error) => self.spawner_died(&error),
            }
        }
    }

    fn prepare_next(&mut self) {
        while let Some(next) = self.waiting.front() {
            let light = self.worker.is_light(next);
            let ahead = if light { AHEAD_LIGHT } else { AHEAD };
            if self.preparing + self.pending >= self.slots + ahead {
                return;
            }
            let Some(spec) = self.waiting.pop_front() else {
                return;
            };
            let id = spec.attempt;
            self.preparing += 1;
            if let Some(entry) = self.attempts.get_mut(&id) {
                entry.state = State::Preparing { cancelled: false };
            }
            // Alone it keeps nobody waiting.
            let at_once = light || self.attempts.len() == 1 && self.worker.is_small(&spec);
            if at_once {
                let worker = &self.worker;
                let made = guarded(|| worker.prepare(spec)).unwrap_or_else(Err);
                self.prepared(id, made.map(Box::new));
            } else {
                self.pool.add(Job::Prepare(spec));
            }
        }
    }

    /// Takes what the spawner said; gives what is to be collected.
    fn note(&mut self, events: Vec<LinkEvent>) -> Vec<(AttemptId, Given, Finished)> {
        let mut ended = Vec::new();
        for event in events {
            match event {
                LinkEvent::Started(id) => self.started(id),
                LinkEvent::Here => {}
                LinkEvent::MemoryShort { free, limit } => self.memory_short(free, limit),
                LinkEvent::Ended(id, finished) => {
                    self.deaths = 0;
                    if let Some(given) = self.take_back(id) {
                        ended.push((id, given, finished));
                    }
                }
            }
        }
        ended
    }

    /// Said once; the results tell what came of it.
    fn memory_short(&mut self, free: u64, limit: u64) {
        if std::mem::replace(&mut self.told_of_memory, true) {
            return;
        }
        self.tell(ExecutorEvent::Warning(format!(
            "memory is short on {} ({} of {} are free): as long as it is, no node starts there beside those that run",
            self.info.host_name,
            format_bytes(free),
            format_bytes(limit),
        )));
    }

    fn started(&mut self, id: AttemptId) {
        let entry = self.attempts.get_mut(&id);
        if let Some(State::Given(given)) = entry.map(|entry| &mut entry.state)
            && !given.started
        {
            given.started = true;
            self.pending -= 1;
            self.tell(ExecutorEvent::Started(id));
        }
    }

    /// Takes an attempt back that the spawner has done with.
    fn take_back(&mut self, id: AttemptId) -> Option<Given> {
        let entry = self.attempts.get_mut(&id)?;
        match std::mem::replace(&mut entry.state, State::Collecting) {
            State::Given(given) => {
                self.pending -= usize::from(!given.started);
                Some(given)
            }
            other => {
                entry.state = other;
                None
            }
        }
    }

    fn collect(&mut self, id: AttemptId, given: Given, finished: Finished) {
        let Given {
            prepared, timing, ..
        } = given;
        let light = prepared.is_light() && finished.is_light();
        if light || self.attempts.len() == 1 && prepared.is_small(&finished) {
            let worker = &self.worker;
            let concluded = guarded(|| worker.conclude(*prepared, finished, timing));
            match concluded {
                Ok((result, leftover)) => {
                    self.end(id, result);
                    self.worker.clear(leftover);
                }
                Err(bug) => self.end(id, *bug),
            }
        } else {
            self.pool.add(Job::Collect(prepared, finished, timing));
        }
    }

    fn end(&mut self, id: AttemptId, result: AttemptResult) {
        self.attempts.remove(&id);
        self.tell_end(id, result);
    }

    fn tell_end(&self, id: AttemptId, result: AttemptResult) {
        self.tell(ExecutorEvent::Ended(id, Box::new(result)));
    }

    /// The spawner is gone: its nodes are killed and lost, and another one takes its place.
    fn spawner_died(&mut self, error: &io::Error) {
        if let Some(link) = self.link.take() {
            link.close();
        }
        let killed = self.worker.kill_leftovers();
        tracing::warn!("the spawner died ({error}); {killed} processes of nodes were killed");
        let mut given: Vec<AttemptId> = self
            .attempts
            .iter()
            .filter(|(_, entry)| matches!(entry.state, State::Given(_)))
            .map(|(id, _)| *id)
            .collect();
        given.sort_unstable();
        for id in given {
            if let Some(Given { prepared, .. }) = self.take_back(id) {
                let outcome = if self.closing {
                    Outcome::Cancelled
                } else {
                    Outcome::Lost(format!(
                        "the process that runs nodes on this worker died: {error}"
                    ))
                };
                let result = self.worker.give_up(*prepared, outcome);
                self.end(id, result);
            }
        }
        self.deaths += 1;
        if self.closing {
            return;
        }
        match self.reopen() {
            Ok(link) => self.link = Some(link),
            Err(error) => self.give_up(&error),
        }
    }

    fn reopen(&self) -> io::Result<Link> {
        if self.deaths > DEATHS {
            return Err(io::Error::other(format!(
                "{} spawners died in a row",
                self.deaths
            )));
        }
        Link::open(&self.spawner, &self.worker, self.info.capacity.clone())
    }

    /// No spawner can be had: this worker is of no use any more.
    fn give_up(&mut self, error: &io::Error) {
        let why = format!("cannot start a spawner: {error}");
        for spec in std::mem::take(&mut self.waiting) {
            self.end(
                spec.attempt,
                AttemptResult::bare(Outcome::Lost(why.clone())),
            );
        }
        self.tell(ExecutorEvent::WorkerLost(self.info.worker, why));
    }

    fn close(&mut self) {
        self.closing = true;
        let mut all: Vec<AttemptId> = self.attempts.keys().copied().collect();
        all.sort_unstable();
        for id in all {
            self.cancel(id, true);
        }
    }
}

fn no_spawner() -> Outcome {
    Outcome::Lost("this worker cannot start processes any more".into())
}
