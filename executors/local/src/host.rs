//! The host's thread: the state of every attempt, and whose turn it is.

use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use dagrun_executor_api::{ExecutorEvent, WorkerInfo};
use dagrun_model::{AttemptId, AttemptResult, AttemptSpec, Outcome, Resources};
use dagrun_worker::{Finished, Link, LinkEvent, Prepared, Timing, Worker};
use rustc_hash::FxHashMap;
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    LocalOptions,
    inbox::{Inbox, Message},
    pool::{Job, Pool, guarded},
};

/// Attempts that are made ready beyond those that run.
const AHEAD: usize = 2;
/// Spawners that may die one after the other without an attempt ending between, before the worker is given up.
const DEATHS: u32 = 3;

pub(crate) struct Host {
    info: WorkerInfo,
    free: Resources,
    ahead: usize,
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
    /// Ready and waiting for their turn, in order.
    ready: VecDeque<Box<Prepared>>,
    running: usize,
    closing: bool,
}

struct Entry {
    submitted: Instant,
    state: State,
}

enum State {
    /// In `waiting` or `ready`.
    Queued,
    /// In the pool; `cancelled` while there.
    Preparing {
        cancelled: bool,
    },
    Running(Box<Prepared>, Timing),
    /// In the pool, whose threads report its end.
    Collecting,
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
            free: info.capacity.clone(),
            info,
            ahead: options.slots as usize + AHEAD,
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
            ready: VecDeque::new(),
            running: 0,
            closing: false,
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
            // Free slots are given away before anything else is done for those that ended.
            self.dispatch();
            for (id, prepared, finished, timing) in ended {
                self.collect(id, prepared, finished, timing);
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
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let timeout = if self.inbox.may_sleep() {
            None
        } else {
            Some(&now)
        };
        let mut fds = vec![PollFd::from_borrowed_fd(self.inbox.fd(), PollFlags::IN)];
        if let Some(link) = &self.link {
            fds.push(PollFd::from_borrowed_fd(link.fd(), PollFlags::IN));
        }
        let polled = poll(&mut fds, timeout);
        let heard: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        self.inbox.awake(heard[0]);
        match polled {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(events),
            Err(error) => return Err(error.into()),
        }
        if let (Some(link), Some(true)) = (&mut self.link, heard.get(1)) {
            link.receive(&mut events)?;
        }
        Ok(events)
    }

    fn obey(&mut self, message: Message) {
        match message {
            Message::Submit(specs) => specs.into_iter().for_each(|spec| self.submit(spec)),
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
            return self.tell_end(id, lost("the worker cannot start processes any more"));
        }
        self.attempts.insert(
            id,
            Entry {
                submitted: Instant::now(),
                state: State::Queued,
            },
        );
        self.waiting.push_back(spec);
    }

    fn cancel(&mut self, id: AttemptId, kill: bool) {
        let Some(entry) = self.attempts.get_mut(&id) else {
            return;
        };
        match &mut entry.state {
            State::Queued => self.unqueue(id),
            State::Preparing { cancelled } => *cancelled = true,
            State::Running(..) => {
                if let Some(link) = &mut self.link {
                    link.stop(id, kill);
                }
            }
            State::Collecting => {}
        }
    }

    fn unqueue(&mut self, id: AttemptId) {
        if let Some(at) = self.waiting.iter().position(|spec| spec.attempt == id) {
            self.waiting.remove(at);
            return self.end(id, AttemptResult::bare(Outcome::Cancelled));
        }
        let at = self
            .ready
            .iter()
            .position(|prepared| prepared.spec().attempt == id);
        if let Some(prepared) = at.and_then(|at| self.ready.remove(at)) {
            let result = self.worker.give_up(*prepared, Outcome::Cancelled);
            self.end(id, result);
        }
    }

    fn prepared(&mut self, id: AttemptId, made: Result<Box<Prepared>, Box<AttemptResult>>) {
        self.preparing -= 1;
        let Some(entry) = self.attempts.get_mut(&id) else {
            return;
        };
        let cancelled = matches!(entry.state, State::Preparing { cancelled: true });
        match made {
            Ok(prepared) if cancelled => {
                let result = self.worker.give_up(*prepared, Outcome::Cancelled);
                self.end(id, result);
            }
            Ok(prepared) if self.link.is_none() => {
                let why = "the worker cannot start processes any more".to_owned();
                let result = self.worker.give_up(*prepared, Outcome::Lost(why));
                self.end(id, result);
            }
            Ok(prepared) => {
                entry.state = State::Queued;
                self.ready.push_back(prepared);
            }
            Err(_) if cancelled => self.end(id, AttemptResult::bare(Outcome::Cancelled)),
            Err(result) => self.end(id, *result),
        }
    }

    fn dispatch(&mut self) {
        loop {
            self.prepare_next();
            self.start_ready();
            let flushed = self.link.as_mut().map_or(Ok(()), Link::flush);
            match flushed {
                Ok(()) => return,
                Err(error) => self.spawner_died(&error),
            }
        }
    }

    fn prepare_next(&mut self) {
        while self.preparing + self.ready.len() < self.ahead
            && let Some(spec) = self.waiting.pop_front()
        {
            let id = spec.attempt;
            self.preparing += 1;
            if let Some(entry) = self.attempts.get_mut(&id) {
                entry.state = State::Preparing { cancelled: false };
            }
            if self.worker.is_light(&spec) {
                let worker = &self.worker;
                let made =
                    guarded(|| worker.prepare(spec)).unwrap_or_else(|bug| Err(Box::new(bug)));
                self.prepared(id, made.map(Box::new));
            } else {
                self.pool.add(Job::Prepare(spec));
            }
        }
    }

    fn start_ready(&mut self) {
        while let Some(prepared) = self.ready.front() {
            // What asks for more than there is at all runs alone rather than never.
            if !prepared.spec().resources.fits(&self.free) && self.running > 0 {
                return;
            }
            let Some(mut prepared) = self.ready.pop_front() else {
                return;
            };
            let (Some(link), Some(entry)) = (
                &mut self.link,
                self.attempts.get_mut(&prepared.spec().attempt),
            ) else {
                continue;
            };
            take(&mut self.free, &prepared.spec().resources);
            self.running += 1;
            link.start(&mut prepared);
            let queue = entry.submitted.elapsed().saturating_sub(prepared.took());
            entry.state = State::Running(prepared, Timing { queue });
        }
    }

    /// Takes what the spawner said; gives what is to be collected.
    fn note(
        &mut self,
        events: Vec<LinkEvent>,
    ) -> Vec<(AttemptId, Box<Prepared>, Finished, Timing)> {
        let mut ended = Vec::new();
        for event in events {
            match event {
                LinkEvent::Started(id) => self.tell(ExecutorEvent::Started(id)),
                LinkEvent::Ended(id, finished) => {
                    self.deaths = 0;
                    if let Some((prepared, timing)) = self.stopped_running(id) {
                        ended.push((id, prepared, finished, timing));
                    }
                }
            }
        }
        ended
    }

    /// Takes back what a running attempt held.
    fn stopped_running(&mut self, id: AttemptId) -> Option<(Box<Prepared>, Timing)> {
        let entry = self.attempts.get_mut(&id)?;
        match std::mem::replace(&mut entry.state, State::Collecting) {
            State::Running(prepared, timing) => {
                self.running -= 1;
                give(
                    &mut self.free,
                    &prepared.spec().resources,
                    &self.info.capacity,
                    self.running,
                );
                Some((prepared, timing))
            }
            other => {
                entry.state = other;
                None
            }
        }
    }

    fn collect(
        &mut self,
        id: AttemptId,
        prepared: Box<Prepared>,
        finished: Finished,
        timing: Timing,
    ) {
        if prepared.is_light() && finished.is_light() {
            let worker = &self.worker;
            let result =
                guarded(|| worker.collect(*prepared, finished, timing)).unwrap_or_else(|bug| bug);
            self.end(id, result);
        } else {
            self.pool
                .add(Job::Collect(prepared, Box::new(finished), timing));
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
        let is_running = |(id, entry): (&AttemptId, &Entry)| {
            matches!(entry.state, State::Running(..)).then_some(*id)
        };
        let mut running: Vec<AttemptId> = self.attempts.iter().filter_map(is_running).collect();
        running.sort_unstable();
        for id in running {
            if let Some((prepared, _)) = self.stopped_running(id) {
                let why = "the process that runs nodes on this worker died".to_owned();
                let outcome = if self.closing {
                    Outcome::Cancelled
                } else {
                    Outcome::Lost(why)
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
        std::thread::sleep(Duration::from_millis(10) * self.deaths);
        Link::open(&self.spawner, &self.worker)
    }

    /// No spawner can be had: this worker is of no use any more.
    fn give_up(&mut self, error: &io::Error) {
        let why = format!("cannot start a spawner: {error}");
        for spec in std::mem::take(&mut self.waiting) {
            self.end(spec.attempt, lost(&why));
        }
        for prepared in std::mem::take(&mut self.ready) {
            let id = prepared.spec().attempt;
            let result = self.worker.give_up(*prepared, Outcome::Lost(why.clone()));
            self.end(id, result);
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

fn lost(why: &str) -> AttemptResult {
    AttemptResult::bare(Outcome::Lost(why.into()))
}

/// Takes resources, down to nothing where more is asked for than there is.
fn take(free: &mut Resources, asked: &Resources) {
    if asked.fits(free) {
        free.take(asked);
    } else {
        *free = Resources::none();
    }
}

/// Gives resources back; once nothing runs all is free again, whatever was asked for.
fn give(free: &mut Resources, asked: &Resources, capacity: &Resources, running: usize) {
    if running == 0 {
        *free = capacity.clone();
    } else {
        free.give(asked);
        free.cpu_milli = free.cpu_milli.min(capacity.cpu_milli);
        free.memory = free.memory.min(capacity.memory);
        for (name, amount) in &mut free.named {
            *amount = (*amount).min(*capacity.named.get(name).unwrap_or(&0));
        }
    }
}
