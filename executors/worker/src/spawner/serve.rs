//! The spawner's loop: one thread, one `poll` over the socket, the pipes and the ends of processes. Others start processes.
//!
//! Owns all attempts that wait or run and the capacity that they share. It blocks on nothing but
//! `poll`, and on starts under way where something is to be killed that may just come into being.

mod memory;
mod strays;

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use dagrun_model::Resources;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::{
    memory::Watch,
    strays::{Owner, Stray, strays_of},
};
use super::{
    attempt::{Attempt, Tools, Why},
    tree::{self, Children},
    wire::{Order, Report, decode, encode},
};

/// How long a report that nobody waits for may be held back to travel with others.
const LAZY: Duration = Duration::from_millis(5);
/// With so many attempts to begin nobody waits for the end of one: ends are told together.
const STOCK: usize = 6;
/// How often exits are asked for where no handle tells of them.
const ASK: Duration = Duration::from_millis(5);

pub(crate) struct Server {
    socket: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    reports: Vec<Report>,
    /// When the held reports must go.
    flush_at: Option<Instant>,
    session: String,
    /// What no attempt has taken.
    free: Resources,
    capacity: Resources,
    /// Attempts whose turn has not come, in order.
    queue: VecDeque<Attempt>,
    live: Vec<Attempt>,
    strays: Vec<Stray>,
    children: Children,
    pids: Vec<i32>,
    tools: Tools,
    memory: Watch,
    /// The engine is gone: everything is killed, nothing is reported.
    closing: bool,
}

/// What became ready.
enum Ready {
    Socket,
    Exit(u64),
    Pipe(usize, usize),
    /// Some process has ended or was not started.
    Ends,
    Stray,
}

impl Server {
    pub(crate) fn new(socket: UnixStream) -> io::Result<Self> {
        Ok(Self {
            socket,
            input: Vec::new(),
            output: super::wire::GREETING.to_vec(),
            reports: Vec::new(),
            flush_at: None,
            session: String::new(),
            free: Resources::none(),
            capacity: Resources::none(),
            queue: VecDeque::new(),
            live: Vec::new(),
            strays: Vec::new(),
            children: Children::new(),
            pids: Vec::new(),
            tools: Tools::new()?,
            memory: Watch::default(),
            closing: false,
        })
    }

    /// Serves until the engine is gone and nothing is left.
    pub(crate) fn run(mut self) -> io::Result<()> {
        self.socket.set_nonblocking(true)?;
        self.flush();
        while !(self.closing && self.live.is_empty() && self.strays.iter().all(|s| s.given_up)) {
            let ready = self.wait()?;
            self.take_launched();
            for ready in ready {
                self.handle(ready);
            }
            let now = Instant::now();
            self.tick(now);
            self.watch_memory(now);
            self.finish(now);
            // What is free is given away before anybody is told of it.
            while self.start_next() {
                self.finish(Instant::now());
            }
            self.send(Instant::now());
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<Vec<Ready>> {
        let mut fds = Vec::with_capacity(1 + 3 * self.live.len());
        let mut what = Vec::with_capacity(1 + 3 * self.live.len());
        if !self.closing {
            let out = if self.output.is_empty() {
                PollFlags::empty()
            } else {
                PollFlags::OUT
            };
            fds.push(PollFd::new(&self.socket, PollFlags::IN | out));
            what.push(Ready::Socket);
        }
        if let Some(ends) = self.tools.launcher.poll_fd() {
            fds.push(ends);
            what.push(Ready::Ends);
        }
        let mut ask = false;
        for (at, attempt) in self.live.iter().enumerate() {
            ask |= attempt
                .main
                .as_ref()
                .is_some_and(|main| main.handle.is_none());
            if !attempt.listens() {
                continue;
            }
            for (pipe, source) in attempt.pipes.iter().enumerate() {
                if let Some(fd) = source.fd() {
                    fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
                    what.push(Ready::Pipe(at, pipe));
                }
            }
        }
        for stray in &self.strays {
            match &stray.killed {
                Some(Some(handle)) => {
                    fds.push(PollFd::new(handle, PollFlags::IN));
                    what.push(Ready::Stray);
                }
                Some(None) => ask = true,
                None => {}
            }
        }
        let mut timeout = self.timeout(Instant::now());
        if ask {
            timeout = Some(timeout.map_or(ASK, |timeout| timeout.min(ASK)));
        }
        let timeout = timeout.map(|time| Timespec {
            tv_sec: time.as_secs().min(3600) as _,
            tv_nsec: time.subsec_nanos() as _,
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready: Vec<Ready> = what
            .into_iter()
            .zip(&fds)
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|(what, _)| what)
            .collect();
        if ready.iter().any(|ready| matches!(ready, Ready::Ends)) {
            ready.extend(self.tools.launcher.ended().into_iter().map(Ready::Exit));
        }
        if ask {
            let asked = self.live.iter().filter(|attempt| attempt.main.is_some());
            ready.extend(asked.map(|attempt| Ready::Exit(attempt.order.id)));
            ready.push(Ready::Stray);
        }
        // Bytes come before the exit that follows them.
        ready.sort_by_key(|ready| matches!(ready, Ready::Exit(_)));
        Ok(ready)
    }

    fn timeout(&self, now: Instant) -> Option<Duration> {
        let due = self
            .live
            .iter()
            .filter_map(|attempt| attempt.due(&self.tools));
        let watched = self.memory.due().filter(|_| !self.live.is_empty());
        due.chain(self.flush_at)
            .chain(watched)
            .min()
            .map(|at| at.saturating_duration_since(now))
    }

    fn handle(&mut self, ready: Ready) {
        match ready {
            Ready::Socket => self.receive(),
            Ready::Exit(id) => self.exited(id),
            Ready::Ends => {}
            Ready::Pipe(at, pipe) => self.live[at].read_pipe(pipe, 1, &mut self.tools.buffer),
            Ready::Stray => self.sweep(),
        }
    }

    fn receive(&mut self) {
        self.flush();
        loop {
            match self.socket.read(&mut self.tools.buffer[..]) {
                Ok(0) => return self.close(),
                Ok(read) => {
                    self.input.extend_from_slice(&self.tools.buffer[..read]);
                    if read < self.tools.buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.close(),
            }
        }
        loop {
            match decode(&mut self.input) {
                Ok(Some(orders)) => orders.into_iter().for_each(|order| self.obey(order)),
                Ok(None) => return,
                Err(_) => return self.close(),
            }
        }
    }

    fn obey(&mut self, order: Order) {
        let now = Instant::now();
        match order {
            Order::Hello(hello) => {
                self.session = hello.session;
                self.free = hello.capacity.clone();
                self.capacity = hello.capacity;
                self.tools.env = hello.env;
                self.tools.leak_timeout = hello.leak_timeout;
                let slots = self.capacity.cpu_milli.div_ceil(1000);
                self.tools.launcher.set_slots(slots);
            }
            Order::Start(order) => {
                let mut attempt = Attempt::new(*order, now);
                attempt.held_before = self.memory.held(now);
                self.queue.push_back(attempt);
            }
            Order::Recall(id) => self.stop_queued(id, now),
            Order::Ping => {
                self.reports.push(Report::Here);
                self.flush_at = Some(now);
            }
            Order::Stop { id, kill } => {
                self.stop_queued(id, now);
                self.settle(|attempt| attempt.order.id == id);
                let strays = strays_of(&self.strays, id);
                if let Some(attempt) = self.live.iter_mut().find(|attempt| attempt.order.id == id) {
                    attempt.stop(Why::Cancelled, kill, &strays, now);
                }
            }
        }
    }

    /// Starts what is next in order, while there is room for it. What asks for more than there is at all runs alone rather
    /// than never. Gives whether one ended at once because it could not be started.
    fn start_next(&mut self) -> bool {
        while let Some(next) = self.queue.front() {
            let fits = next.order.resources.fits(&self.free);
            if !fits && !self.live.is_empty() {
                return false;
            }
            let now = Instant::now();
            if self.is_held(now) {
                return false;
            }
            let Some(mut attempt) = self.queue.pop_front() else {
                return false;
            };
            if fits {
                self.free.take(&attempt.order.resources);
            } else {
                self.free = Resources::none();
            }
            let held = self.memory.held(now) - attempt.held_before;
            attempt.pressure.held = held.as_secs_f64();
            attempt.start(&mut self.tools, now, self.live.is_empty());
            let ended = attempt.how.is_some();
            self.live.push(attempt);
            if ended {
                return true;
            }
        }
        false
    }

    /// Gives back what an attempt took; once nothing runs all is free, whatever was asked for.
    fn free(&mut self, taken: &Resources) {
        if self.live.is_empty() {
            self.free = self.capacity.clone();
        } else {
            self.free.give(taken);
        }
    }

    fn stop_queued(&mut self, id: u64, now: Instant) {
        let at = self.queue.iter().position(|attempt| attempt.order.id == id);
        if let Some(mut attempt) = at.and_then(|at| self.queue.remove(at)) {
            attempt.stop(Why::Cancelled, true, &[], now);
            self.reports.push(Report::Ended(Box::new(attempt.report())));
            self.flush_at = Some(now);
        }
    }

    /// Takes what was started meanwhile.
    fn take_launched(&mut self) {
        let alone = self.live.len() == 1;
        for launched in self.tools.launcher.take() {
            let id = launched.id;
            let Some(attempt) = self.live.iter_mut().find(|attempt| attempt.order.id == id) else {
                continue;
            };
            attempt.launched(launched, &mut self.tools, alone);
            if attempt.main.is_some() && !attempt.was_reported {
                attempt.was_reported = true;
                self.reports.push(Report::Started(id));
                self.flush_at.get_or_insert(Instant::now() + LAZY);
            }
        }
    }

    /// Waits for starts under way, if one is of an attempt that is concerned.
    fn settle(&mut self, concerns: impl Fn(&Attempt) -> bool) {
        if self
            .live
            .iter()
            .any(|attempt| attempt.is_launching() && concerns(attempt))
        {
            self.tools.launcher.settle();
            self.take_launched();
        }
    }

    /// The engine is gone, by its own will or not: nothing of it may go on.
    fn close(&mut self) {
        self.closing = true;
        self.output.clear();
        self.flush_at = None;
        self.queue.iter().for_each(remove_traces);
        self.queue.clear();
        self.settle(|_| true);
        let now = Instant::now();
        for attempt in &mut self.live {
            let strays = strays_of(&self.strays, attempt.order.id);
            attempt.stop(Why::Cancelled, true, &strays, now);
        }
        self.sweep();
    }

    fn exited(&mut self, id: u64) {
        let alone = self.live.len() == 1;
        let Some(attempt) = self.live.iter_mut().find(|attempt| attempt.order.id == id) else {
            return;
        };
        let Some(main) = &attempt.main else {
            return;
        };
        let Ok(Some(reaped)) = dagrun_sys::reap(main.pid) else {
            return;
        };
        self.tools.launcher.forget(main);
        attempt.drain(&mut self.tools.buffer);
        attempt.exited(&reaped, &mut self.tools, Instant::now(), alone);
        if attempt.is_displaced() {
            self.memory.gave_way();
        }
        if attempt.how.is_some() {
            self.sweep();
        }
    }

    fn tick(&mut self, now: Instant) {
        if self.timeout(now) != Some(Duration::ZERO) {
            return;
        }
        self.settle(|attempt| attempt.is_stop_due(now));
        let alone = self.live.len() == 1;
        for attempt in &mut self.live {
            let id = attempt.order.id;
            attempt.tick(&mut self.tools, || strays_of(&self.strays, id), now, alone);
        }
        // Daemons that nobody asked for yet become known while their attempt still runs.
        self.sweep();
    }

    fn finish(&mut self, now: Instant) {
        let mut at = 0;
        while at < self.live.len() {
            let attempt = &self.live[at];
            let id = attempt.order.id;
            let is_its = |stray: &Stray| match &stray.owner {
                Owner::Known(owner) => *owner == id,
                Owner::OneOf(ids) => stray.killed.is_some() && ids.contains(&id),
            };
            let has_strays = attempt.how.is_some() && self.strays.iter().any(is_its);
            if !attempt.is_done(has_strays, &self.tools, now) {
                at += 1;
                continue;
            }
            let mut attempt = self.live.swap_remove(at);
            if has_strays {
                let mut pids = Vec::new();
                for stray in self.strays.iter_mut().filter(|stray| is_its(stray)) {
                    stray.given_up = true;
                    pids.push(stray.pid);
                }
                attempt.outlived(&pids);
            }
            self.free(&attempt.order.resources);
            self.give_way(attempt.is_displaced());
            attempt.drain(&mut self.tools.buffer);
            if self.closing {
                remove_traces(&attempt);
            } else {
                self.reports.push(Report::Ended(Box::new(attempt.report())));
                let in_stock = self.queue.len() >= STOCK;
                let at = if in_stock { now + LAZY } else { now };
                self.flush_at = Some(self.flush_at.map_or(at, |former| former.min(at)));
            }
        }
    }

    fn send(&mut self, now: Instant) {
        if self.closing {
            self.flush_at = None;
        }
        if self.flush_at.is_none_or(|at| at > now) {
            return;
        }
        self.flush_at = None;
        encode(&self.reports, &mut self.output);
        self.reports.clear();
        self.flush();
    }

    fn flush(&mut self) {
        while !self.output.is_empty() && !self.closing {
            match self.socket.write(&self.output) {
                Ok(written) => {
                    self.output.drain(..written);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.close(),
            }
        }
    }
}

/// Where nobody will look at them any more, an attempt's files are only in the way.
fn remove_traces(attempt: &Attempt) {
    let _ = std::fs::remove_dir_all(&attempt.order.folder);
    for name in ["out", "err", "exec"] {
        let _ = std::fs::remove_file(format!("{}{name}", attempt.order.scratch));
    }
}
