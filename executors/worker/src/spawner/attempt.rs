//! One attempt inside the spawner: its commands in order, its pipes, its clocks.
//!
//! Knows nothing of other attempts and nothing of the socket. Nothing here blocks: the loop in `serve` calls it when something is ready.

mod launch;

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::ExitStatus,
    time::{Duration, Instant},
};

use dagrun_model::Pressure;
use dagrun_sys::Reaped;
use rustix::{io::Errno, process::Signal};

use self::launch::Refusal;
use super::{
    cgroup::{Group, Hierarchy, NOT_STARTED},
    exec::{self, Programs},
    launcher::{Launched, Launcher},
    log::Capture,
    tree,
    wire::{End, How, Start},
};
use crate::pressure::{Gauges, Memory};

/// How often the memory of a long-lived tree is looked at.
const SAMPLE: Duration = Duration::from_millis(500);
/// The same where looking is all that enforces a limit.
const WATCH: Duration = Duration::from_millis(50);
/// The first and the greatest pause before another try to start a process.
const PAUSE: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_millis(500);
/// Tries before an error that may pass is taken as final: about half a second, where nothing else runs.
const TRIES: u32 = 12;
/// The kernel kills who has most. A node that was killed and had less than this, in bytes, was killed by somebody else, also where
/// the kernel killed something on this machine at about the same time.
const VICTIM: u64 = 32 << 20;
/// How long a killed process may take to die before it is given up.
const DYING: Duration = Duration::from_secs(10);
/// How long nobody listens to the pipes of a new process: one that is short, as most are, then wakes the loop once, by its end,
/// rather than once more for each pipe. A pipe holds what is written meanwhile, and a process that writes more waits.
const DEAF: Duration = Duration::from_millis(3);
/// How often starts that take long are looked at.
const LOOK: Duration = Duration::from_millis(5);
/// What is read of one pipe at once.
pub(crate) const CHUNK: usize = 64 << 10;

/// What all attempts share.
pub(crate) struct Tools {
    pub(crate) launcher: Launcher,
    pub(crate) programs: Programs,
    pub(crate) gauges: Gauges,
    /// The environment that every node gets.
    pub(crate) env: Vec<(String, String)>,
    pub(crate) leak_timeout: Duration,
    pub(crate) buffer: Box<[u8; CHUNK]>,
    /// `None` until it was looked for.
    hierarchy: Option<Option<Hierarchy>>,
}

impl Tools {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            launcher: Launcher::new()?,
            programs: Programs::default(),
            gauges: Gauges::find(),
            env: Vec::new(),
            leak_timeout: Duration::from_millis(200),
            buffer: Box::new([0; CHUNK]),
            hierarchy: None,
        })
    }

    fn group(&mut self, id: u64, limit: u64) -> Option<Group> {
        self.hierarchy
            .get_or_insert_with(Hierarchy::find)
            .as_ref()?
            .make(&id.to_string(), limit)
    }
}

/// An attempt that was started and has not been reported as ended.
pub(crate) struct Attempt {
    pub(crate) order: Start,
    /// The process that runs, with a handle that is readable when it has ended.
    pub(crate) main: Option<Main>,
    pub(crate) pipes: Vec<Pipe>,
    /// A process is being started, and when to look whether it is.
    launching: Option<Launching>,
    /// Until when the pipes are left alone.
    deaf_until: Option<Instant>,
    /// Set when no further process will be started and the main one is gone.
    pub(crate) how: Option<How>,
    /// Processes killed after the end.
    pub(crate) leaked: u32,
    pub(crate) stop: Option<Stop>,
    /// The engine was told that it runs.
    pub(crate) was_reported: bool,
    pub(crate) pressure: Pressure,
    /// For how long attempts had waited for memory when it came.
    pub(crate) held_before: Duration,
    /// What the host's CPU quota had taken when it began.
    throttled_before: Option<Duration>,
    step: usize,
    stdout: Capture,
    stderr: Capture,
    came: Instant,
    began: Option<Instant>,
    ended: Option<Instant>,
    spawning: Duration,
    used: Used,
    sample_at: Option<Instant>,
    /// When to try again to start the step.
    retry_at: Option<Instant>,
    tries: u32,
    group: Option<Group>,
}

pub(crate) struct Main {
    pub(crate) pid: i32,
    /// Missing on systems without pidfds, where exits are found by asking.
    pub(crate) handle: Option<OwnedFd>,
}

struct Launching {
    file: PathBuf,
    look_at: Instant,
}

pub(crate) struct Pipe {
    file: Option<File>,
    stderr: bool,
}

impl Pipe {
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }
}

/// Why and how far an attempt is being stopped.
pub(crate) struct Stop {
    why: Why,
    /// When KILL follows TERM; `None` once it was sent.
    kill_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Why {
    TimedOut,
    Cancelled,
    Memory {
        peak: u64,
    },
    /// The host's memory is nearly used up.
    Displaced(Memory),
}

#[derive(Default)]
struct Used {
    cpu: Duration,
    peak: u64,
    read: u64,
    written: u64,
}

impl Attempt {
    pub(crate) fn new(order: Start, now: Instant) -> Self {
        let log = |name: &str| {
            Capture::new(
                format!("{}{name}", order.scratch),
                order.log_cap,
                &order.mask,
            )
        };
        Self {
            stdout: log("out"),
            stderr: log("err"),
            main: None,
            pipes: Vec::new(),
            launching: None,
            deaf_until: None,
            how: None,
            leaked: 0,
            stop: None,
            was_reported: false,
            pressure: Pressure::default(),
            held_before: Duration::ZERO,
            throttled_before: None,
            step: 0,
            came: now,
            began: None,
            ended: None,
            spawning: Duration::ZERO,
            used: Used::default(),
            sample_at: None,
            retry_at: None,
            tries: 0,
            group: None,
            order,
        }
    }

    /// Has the command started whose turn it is. Errors become the attempt's end, or another try later.
    pub(crate) fn start(&mut self, tools: &mut Tools, now: Instant, alone: bool) {
        self.retry_at = None;
        let Some(cmd) = self.order.commands.get(self.step).cloned() else {
            self.end(
                How::Exit {
                    code: 0,
                    step: String::new(),
                },
                now,
            );
            return;
        };
        if self.order.memory > 0 && self.group.is_none() {
            self.group = tools.group(self.order.id, self.order.memory);
        }
        match self.command(&cmd, tools) {
            Ok((command, file)) => {
                let look_at = now + LOOK;
                self.launching = Some(Launching { file, look_at });
                tools.launcher.add(self.order.id, command);
            }
            Err(refusal) => self.refuse(refusal, now, alone),
        }
    }

    pub(crate) fn is_launching(&self) -> bool {
        self.launching.is_some()
    }

    /// Takes what became of its start.
    pub(crate) fn launched(&mut self, launched: Launched, tools: &mut Tools, alone: bool) {
        let Some(Launching { file, .. }) = self.launching.take() else {
            return;
        };
        match launched.result {
            Ok(process) => {
                self.take(process);
                if self.began.is_none() {
                    self.throttled_before = tools.gauges.throttled();
                }
                self.started(launched.began, launched.took);
            }
            Err(error) => {
                let refusal = self.refused(&error, &file, tools);
                self.refuse(refusal, Instant::now(), alone);
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal, now: Instant, alone: bool) {
        match refusal {
            Refusal::Final(how) => self.end(how, now),
            // While others run their ends give back what is short, so there is no bound on waiting for them.
            Refusal::Passing(how) if alone && self.tries >= TRIES => self.end(how, now),
            Refusal::Passing(_) => {
                let pause = (PAUSE * 2_u32.pow(self.tries.min(8))).min(MAX_PAUSE);
                self.tries += 1;
                self.retry_at = Some(now + pause);
            }
        }
    }

    fn started(&mut self, began: Instant, took: Duration) {
        let now = began + took;
        self.spawning += took;
        self.tries = 0;
        self.began.get_or_insert(began);
        self.sample_at = Some(now + self.sample_period());
        self.deaf_until = Some(now + DEAF);
    }

    /// Whether its pipes are to be listened to.
    pub(crate) fn listens(&self) -> bool {
        self.main.is_none() || self.deaf_until.is_none()
    }

    fn sample_period(&self) -> Duration {
        if self.order.memory > 0 && self.group.is_none() {
            WATCH
        } else {
            SAMPLE
        }
    }

    /// Reads what a pipe has, at most `rounds` chunks.
    pub(crate) fn read_pipe(&mut self, pipe: usize, rounds: usize, buffer: &mut [u8; CHUNK]) {
        let Pipe { file, stderr } = &mut self.pipes[pipe];
        let capture = if *stderr {
            &mut self.stderr
        } else {
            &mut self.stdout
        };
        for _ in 0..rounds {
            let Some(open) = file else { return };
            match open.read(&mut buffer[..]) {
                Ok(0) => *file = None,
                Ok(read) => capture.push(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => *file = None,
            }
        }
    }

    /// Reads what is left in all pipes, up to a bound: a process that floods them must not hold up the others.
    pub(crate) fn drain(&mut self, buffer: &mut [u8; CHUNK]) {
        for pipe in 0..self.pipes.len() {
            self.read_pipe(pipe, 64, buffer);
        }
    }

    pub(crate) fn has_open_pipes(&self) -> bool {
        self.pipes.iter().any(|pipe| pipe.file.is_some())
    }

    /// Takes what a process of the tree used.
    pub(crate) fn account(&mut self, reaped: &Reaped) {
        self.used.cpu += reaped.cpu;
        self.used.peak = self.used.peak.max(reaped.peak_memory);
        self.used.read += reaped.read;
        self.used.written += reaped.written;
    }

    /// The main process is gone: the next command begins, or the attempt is over but for its leftovers.
    pub(crate) fn exited(&mut self, reaped: &Reaped, tools: &mut Tools, now: Instant, alone: bool) {
        self.main = None;
        self.account(reaped);
        let how = self.judge(reaped.status, &tools.gauges, now, alone);
        let more = self.step + 1 < self.order.commands.len();
        if more && matches!(how, How::Exit { code: 0, .. }) {
            self.step += 1;
            self.start(tools, Instant::now(), false);
        } else {
            if let Some(before) = self.throttled_before {
                let after = tools.gauges.throttled().unwrap_or(before);
                self.pressure.throttled = after.saturating_sub(before).as_secs_f64();
            }
            self.end(how, now);
        }
    }

    fn judge(&mut self, status: ExitStatus, host: &Gauges, now: Instant, alone: bool) -> How {
        let step = self.order.commands[self.step].name.clone();
        if let Some(stop) = &self.stop {
            return self.stopped(stop.why, now);
        }
        if let Some(how) = self.refused_in_group(status) {
            return how;
        }
        if let Some(group) = &self.group
            && !status.success()
            && group.oom_killed()
        {
            return How::OutOfMemory {
                limit: self.order.memory,
                peak: group.peak(),
            };
        }
        if was_killed(status) && self.used.peak >= VICTIM && host.has_killed() {
            return self.killed_by_kernel(host, alone);
        }
        match status.code() {
            Some(code) => How::Exit { code, step },
            None => How::Signal {
                signal: status.signal().unwrap_or(0),
                core: status.core_dumped(),
                step,
            },
        }
    }

    /// The memory that all share was used up: alone it needs more than there is; beside others it was in the way.
    fn killed_by_kernel(&self, host: &Gauges, alone: bool) -> How {
        let peak = self.used.peak;
        let limit = host.limit();
        match alone {
            true => How::OutOfMemory { limit, peak },
            false => How::Displaced {
                free: None,
                limit,
                peak,
            },
        }
    }

    fn stopped(&self, why: Why, now: Instant) -> How {
        match why {
            Why::TimedOut => How::TimedOut(self.wall(now)),
            Why::Cancelled => How::Cancelled,
            Why::Memory { peak } => How::OutOfMemory {
                limit: self.order.memory,
                peak,
            },
            Why::Displaced(Memory { free, limit }) => How::Displaced {
                free: Some(free),
                limit,
                peak: self.used.peak,
            },
        }
    }

    /// Since when it runs, where it does and nobody has told it to stop.
    pub(crate) fn runs_since(&self) -> Option<Instant> {
        let runs = self.main.is_some() && self.stop.is_none() && self.how.is_none();
        self.began.filter(|_| runs)
    }

    /// Whether it ends for the memory of the host.
    pub(crate) fn is_displaced(&self) -> bool {
        let stop = self.stop.as_ref();
        stop.is_some_and(|stop| matches!(stop.why, Why::Displaced(_)))
            || matches!(self.how, Some(How::Displaced { .. }))
    }

    /// The error that the first program in a group left when it could not become the node's.
    fn refused_in_group(&self, status: ExitStatus) -> Option<How> {
        if self.group.is_none() || status.code() != Some(NOT_STARTED) {
            return None;
        }
        let file = self.exec_error_file();
        let number = std::fs::read_to_string(&file).ok()?.parse().ok()?;
        let _ = std::fs::remove_file(&file);
        let program = self.order.commands[self.step].argv.first()?;
        let error = io::Error::from_raw_os_error(number);
        Some(exec::explain(
            &error,
            program,
            Path::new(program),
            Path::new(&self.order.folder),
        ))
    }

    fn end(&mut self, how: How, now: Instant) {
        self.sample_at = None;
        self.retry_at = None;
        self.deaf_until = None;
        self.ended = Some(now);
        self.how = Some(how);
    }

    fn wall(&self, now: Instant) -> f64 {
        self.began.map_or(0.0, |began| (now - began).as_secs_f64())
    }

    /// Stops it: TERM first, or KILL at once. `strays` are processes of it that are children of ours.
    pub(crate) fn stop(&mut self, why: Why, kill: bool, strays: &[i32], now: Instant) {
        if self.how.is_some() {
            return;
        }
        let why = self.stop.as_ref().map_or(why, |stop| stop.why);
        let kill_at = (!kill).then(|| now + self.order.grace);
        let earlier = self.stop.as_ref().map(|stop| stop.kill_at);
        if matches!(
            (earlier, kill_at),
            (Some(None), _) | (Some(Some(_)), Some(_))
        ) {
            return;
        }
        self.stop = Some(Stop { why, kill_at });
        match &self.main {
            Some(main) => signal_tree(
                main.pid,
                strays,
                if kill { Signal::KILL } else { Signal::TERM },
            ),
            // It waits for another try to start, so there is nothing to signal.
            None => self.end(self.stopped(why, now), now),
        }
    }

    /// Does what is due: the timeout, KILL after the grace time, a look at the memory, another try.
    pub(crate) fn tick(
        &mut self,
        tools: &mut Tools,
        strays: impl Fn() -> Vec<i32>,
        now: Instant,
        alone: bool,
    ) {
        if self.how.is_some() {
            return;
        }
        if self.deaf_until.is_some_and(|at| at <= now) {
            self.deaf_until = None;
        }
        if let Some(launching) = &mut self.launching
            && launching.look_at <= now
        {
            launching.look_at = now + LOOK;
        }
        if self.timeout_at().is_some_and(|at| at <= now) {
            self.stop(Why::TimedOut, false, &strays(), now);
        }
        if self.kill_at().is_some_and(|at| at <= now) {
            self.stop(Why::Cancelled, true, &strays(), now);
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.start(tools, now, alone);
        }
        if self.sample_at.is_some_and(|at| at <= now) {
            self.sample(&strays(), now);
        }
    }

    /// Whether it is to be signalled now.
    pub(crate) fn is_stop_due(&self, now: Instant) -> bool {
        let mut due = self.timeout_at().into_iter().chain(self.kill_at());
        self.how.is_none() && due.any(|at| at <= now)
    }

    fn timeout_at(&self) -> Option<Instant> {
        if self.stop.is_some() {
            return None;
        }
        Some(self.began? + self.order.timeout?)
    }

    fn kill_at(&self) -> Option<Instant> {
        self.stop.as_ref()?.kill_at
    }

    fn sample(&mut self, strays: &[i32], now: Instant) {
        let Some(main) = &self.main else { return };
        let roots = strays.iter().copied().chain([main.pid]);
        let pids = roots.flat_map(|root| tree::descendants(root).into_iter().chain([root]));
        let resident = tree::resident(pids);
        self.used.peak = self.used.peak.max(resident);
        self.sample_at = Some(now + self.sample_period());
        if self.group.is_none() && self.order.memory > 0 && resident > self.order.memory {
            self.stop(Why::Memory { peak: resident }, true, strays, now);
        }
    }

    /// When something is due next.
    pub(crate) fn due(&self, tools: &Tools) -> Option<Instant> {
        let drained = self.ended.map(|ended| {
            ended
                + if self.has_open_pipes() {
                    tools.leak_timeout
                } else {
                    DYING
                }
        });
        [
            self.timeout_at(),
            self.kill_at(),
            self.retry_at,
            self.sample_at,
            self.launching.as_ref().map(|launching| launching.look_at),
            self.deaf_until.filter(|_| self.main.is_some()),
            drained,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether it can be reported: it is over, and nothing of it is left or worth waiting for.
    pub(crate) fn is_done(&self, has_strays: bool, tools: &Tools, now: Instant) -> bool {
        let Some(ended) = self.ended else {
            return false;
        };
        if has_strays {
            return now >= ended + DYING;
        }
        !self.has_open_pipes() || now >= ended + tools.leak_timeout
    }

    /// Processes that it left cannot be killed: a success is none, because they may go on writing what is taken for outputs.
    pub(crate) fn outlived(&mut self, pids: &[i32]) {
        if matches!(self.how, Some(How::Exit { code: 0, .. })) {
            let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
            self.how = Some(How::Trouble(format!(
                "what it left running could not be killed within {} s (process {}): it hangs in the kernel, is frozen, or belongs to another user",
                DYING.as_secs(),
                pids.join(", ")
            )));
        }
    }

    /// What there is to report.
    pub(crate) fn report(mut self) -> End {
        let ended = self.ended.unwrap_or_else(Instant::now);
        let (stdout, out_error) = self.stdout.finish();
        let (stderr, err_error) = self.stderr.finish();
        let mut how = self
            .how
            .take()
            .unwrap_or_else(|| How::Trouble("it ended without an end".into()));
        if let Some(error) = out_error.or(err_error) {
            let place = &self.order.scratch;
            how = match Errno::from_io_error(&error) {
                Some(Errno::NOSPC | Errno::DQUOT) => How::DiskFull(place.clone()),
                _ => How::Trouble(format!("cannot keep its log at `{place}`: {error}")),
            };
        }
        let peak_memory = match how {
            How::OutOfMemory { peak, .. } => self.used.peak.max(peak),
            _ => self.used.peak,
        };
        End {
            id: self.order.id,
            how,
            queued: (self.began.unwrap_or(ended) - self.came).as_secs_f64(),
            wall: self.wall(ended),
            spawn: self.spawning.as_secs_f64(),
            cpu: self.used.cpu.as_secs_f64(),
            peak_memory,
            read: self.used.read,
            written: self.used.written,
            stdout,
            stderr,
            leaked: self.leaked,
            pressure: self.pressure,
        }
    }
}

/// Whether KILL ended it, or the program in it whose end a shell passes on.
fn was_killed(status: ExitStatus) -> bool {
    const KILL: i32 = Signal::KILL.as_raw();
    status.signal() == Some(KILL) || status.code() == Some(128 + KILL)
}

/// Signals a process that was not reaped yet, its group, and all below it and below its strays. What was stopped goes on, so that
/// it can end by TERM.
fn signal_tree(main: i32, strays: &[i32], signal: Signal) {
    signal_each(main, strays, signal);
    if signal == Signal::TERM {
        signal_each(main, strays, Signal::CONT);
    }
}

fn signal_each(main: i32, strays: &[i32], signal: Signal) {
    use rustix::process::{Pid, kill_process, kill_process_group};
    // Both the main process and the strays are unreaped children of this process, so their pids are theirs.
    tree::signal_descendants(main, signal);
    if let Some(group) = Pid::from_raw(main) {
        let _ = kill_process_group(group, signal);
    }
    for stray in strays {
        tree::signal_descendants(*stray, signal);
        if let Some(pid) = Pid::from_raw(*stray) {
            let _ = kill_process(pid, signal);
        }
    }
}
