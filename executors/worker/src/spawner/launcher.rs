//! Threads that start processes.
//!
//! Whoever starts a process is blocked until the new program is loaded. So a few threads do it: the loop goes on with other
//! attempts meanwhile, and several starts overlap. Knows nothing of attempts but their ids.
//!
//! What a thread starts is a child of that thread, while orphans come to the first thread of the process. So the children of the
//! first thread are just those that nobody here started (see [`super::tree::Children`]).

use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    process::{Child, Command},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::event::PollFd;

use super::attempt::Main;

/// More threads than this do not start more processes in a second.
const MOST: u64 = 4;

/// A process that was started, or not.
pub(crate) struct Launched {
    /// The attempt.
    pub(crate) id: u64,
    pub(crate) began: Instant,
    pub(crate) took: Duration,
    pub(crate) result: io::Result<Process>,
}

pub(crate) struct Process {
    pub(crate) main: Main,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// The threads, and the ends of processes that they started.
pub(crate) struct Launcher {
    shared: Arc<Shared>,
    threads: u64,
    most: u64,
}

struct Shared {
    state: Mutex<State>,
    /// There is something to start.
    work: Condvar,
    /// Nothing is left to start.
    settled: Condvar,
    ends: ends::Ends,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(u64, Command)>,
    launched: Vec<Launched>,
    /// Threads that wait for work.
    idle: u64,
    /// Neither launched nor given up.
    open: usize,
}

impl Launcher {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                work: Condvar::new(),
                settled: Condvar::new(),
                ends: ends::Ends::new()?,
            }),
            threads: 0,
            most: 1,
        })
    }

    /// Lets as many starts overlap as make sense for this many slots.
    pub(crate) fn set_slots(&mut self, slots: u64) {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        self.most = slots.min(cpus).clamp(1, MOST);
    }

    /// Has a process started for an attempt, which has no other one to be started.
    pub(crate) fn add(&mut self, id: u64, command: Command) {
        let mut state = self.shared.state();
        state.open += 1;
        state.waiting.push_back((id, command));
        let busy = state.waiting.len() as u64 > state.idle;
        drop(state);
        if busy && self.threads < self.most && self.grow() {
            return;
        }
        if self.threads == 0 {
            // Not one thread can be had now: blocking is the lesser evil.
            self.shared.work_off();
        } else {
            self.shared.work.notify_one();
        }
    }

    /// Whether the first thread starts processes itself, because there are no others.
    pub(crate) fn is_alone(&self) -> bool {
        self.threads == 0
    }

    fn grow(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("dagrun-launch".into());
        let grown = thread.stack_size(256 << 10).spawn(move || shared.serve());
        self.threads += u64::from(grown.is_ok());
        grown.is_ok()
    }

    /// What was started since the last call.
    pub(crate) fn take(&self) -> Vec<Launched> {
        std::mem::take(&mut self.shared.state().launched)
    }

    /// Waits until nothing is being started.
    pub(crate) fn settle(&self) {
        let mut state = self.shared.state();
        while state.open > 0 {
            state = self
                .shared
                .settled
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Readable when a process has ended, or one could not be started; `None` where ends must be asked for.
    pub(crate) fn poll_fd(&self) -> Option<PollFd<'_>> {
        self.shared.ends.poll_fd()
    }

    /// To be called when a process was reaped.
    pub(crate) fn forget(&self, main: &Main) {
        self.shared.ends.unwatch(main);
    }

    /// The attempts whose process has ended. To be called before [`Launcher::take`], which then knows all of them.
    pub(crate) fn ended(&self) -> Vec<u64> {
        self.shared.ends.take()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        dagrun_sys::wake_promptly();
        loop {
            let mut state = self.state();
            state.idle += 1;
            while state.waiting.is_empty() {
                state = self
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            state.idle -= 1;
            drop(state);
            self.work_off();
        }
    }

    /// Starts what waits.
    fn work_off(&self) {
        loop {
            let next = self.state().waiting.pop_front();
            let Some((id, mut command)) = next else {
                return;
            };
            let began = Instant::now();
            let mut result = command.spawn().map(process);
            let took = began.elapsed();
            drop(command);
            let mut state = self.state();
            // Under the lock: whoever hears of its end finds it among the launched.
            match &mut result {
                Ok(process) if self.ends.watch(id, &process.main) => {}
                Ok(process) => {
                    process.main.handle = None;
                    self.ends.ring();
                }
                Err(_) => self.ends.ring(),
            }
            state.launched.push(Launched {
                id,
                began,
                took,
                result,
            });
            state.open -= 1;
            if state.open == 0 {
                self.settled.notify_all();
            }
        }
    }
}

fn process(mut child: Child) -> Process {
    let pid = child.id() as i32;
    let pipe = |fd: OwnedFd| {
        // A pipe that stays blocking would only cost a late answer, so the error does not matter.
        let _ = rustix::fs::fcntl_setfl(&fd, rustix::fs::OFlags::NONBLOCK);
        fd
    };
    Process {
        main: Main {
            pid,
            handle: ends::handle(pid),
        },
        stdout: child.stdout.take().map(OwnedFd::from).map(pipe),
        stderr: child.stderr.take().map(OwnedFd::from).map(pipe),
    }
}

#[cfg(target_os = "linux")]
mod ends {
    //! Hearing of ends by handles of processes.

    use std::{io, os::fd::OwnedFd};

    use rustix::{
        event::{
            EventfdFlags, PollFd, PollFlags, Timespec,
            epoll::{self, EventData, EventFlags},
            eventfd,
        },
        process::{Pid, PidfdFlags, pidfd_open},
    };

    use super::Main;

    /// What stands for the bell; ids of attempts are counted from 1.
    const BELL: u64 = u64::MAX;

    pub(super) struct Ends {
        epoll: OwnedFd,
        bell: OwnedFd,
    }

    impl Ends {
        pub(super) fn new() -> io::Result<Self> {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN)?;
            Ok(Self { epoll, bell })
        }

        /// Whether its end will be heard.
        pub(super) fn watch(&self, id: u64, main: &Main) -> bool {
            main.handle.as_ref().is_some_and(|handle| {
                let data = EventData::new_u64(id);
                epoll::add(&self.epoll, handle, data, EventFlags::IN).is_ok()
            })
        }

        /// A child that is just being started holds the handle open too, so closing it would not do.
        pub(super) fn unwatch(&self, main: &Main) {
            if let Some(handle) = &main.handle {
                let _ = epoll::delete(&self.epoll, handle);
            }
        }

        pub(super) fn ring(&self) {
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }

        pub(super) fn poll_fd(&self) -> Option<PollFd<'_>> {
            Some(PollFd::new(&self.epoll, PollFlags::IN))
        }

        pub(super) fn take(&self) -> Vec<u64> {
            let mut events = Vec::with_capacity(64);
            let at_once = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let space = rustix::buffer::spare_capacity(&mut events);
            let _ = epoll::wait(&self.epoll, space, Some(&at_once));
            let mut ids: Vec<u64> = events.iter().map(|event| event.data.u64()).collect();
            if ids.contains(&BELL) {
                ids.retain(|id| *id != BELL);
                let _ = rustix::io::read(&self.bell, &mut [0_u8; 8]);
            }
            ids
        }
    }

    pub(super) fn handle(pid: i32) -> Option<OwnedFd> {
        pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
    }
}

#[cfg(not(target_os = "linux"))]
mod ends {
    //! Without handles of processes, ends are asked for.

    use std::{io, os::fd::OwnedFd};

    use rustix::event::PollFd;

    use super::Main;

    pub(super) struct Ends;

    impl Ends {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self)
        }

        pub(super) fn watch(&self, _: u64, _: &Main) -> bool {
            false
        }

        pub(super) fn unwatch(&self, _: &Main) {}

        pub(super) fn ring(&self) {}

        pub(super) fn poll_fd(&self) -> Option<PollFd<'_>> {
            None
        }

        pub(super) fn take(&self) -> Vec<u64> {
            Vec::new()
        }
    }

    pub(super) fn handle(_: i32) -> Option<OwnedFd> {
        None
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_added_is_launched_or_refused_and_its_end_is_heard() {
        let mut launcher = Launcher::new().expect("an epoll");
        launcher.set_slots(3);
        for id in 1..=20 {
            launcher.add(id, Command::new("true"));
        }
        launcher.add(21, Command::new("/nonexistent/program"));
        launcher.settle();
        let (mut mains, mut refused) = (Vec::new(), Vec::new());
        for launched in launcher.take() {
            match launched.result {
                Ok(process) => mains.push((launched.id, process.main)),
                Err(error) => refused.push((launched.id, error.kind())),
            }
        }
        assert_eq!(refused, [(21, io::ErrorKind::NotFound)]);
        let mut heard = Vec::new();
        while !mains.is_empty() {
            for id in launcher.ended() {
                let at = mains.iter().position(|(main, _)| *main == id);
                let (_, main) = mains.remove(at.expect("an end is heard once, and by its id"));
                let reaped = dagrun_sys::reap(main.pid).expect("it is our child");
                assert!(reaped.expect("it has ended").status.success());
                launcher.forget(&main);
                heard.push(id);
            }
        }
        heard.sort_unstable();
        assert_eq!(heard, (1..=20).collect::<Vec<u64>>());
    }
}
