//! The executor that runs nodes on this machine: one host with one worker.
//!
//! Owns: the worker's capacity and the order in which attempts take it, the threads that stage and collect, and the spawner's
//! life. Knows nothing of plans, schedulers or retries, and leaves files and processes to `dagrun-worker`.
//!
//! One thread (`host`) holds all state: it hears of new attempts by an inbox and of ended ones by the spawner's socket. What is
//! quick it does itself; staging, hashing and storing go to a small pool, so that they overlap with running nodes.

#![forbid(unsafe_code)]

mod host;
mod inbox;
mod machine;
mod pool;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
};

use dagrun_executor_api::{Executor, ExecutorEvent, WorkerInfo};
use dagrun_model::{AttemptId, AttemptSpec, HostIx, Resources, WorkerIx};
use dagrun_store::{Staging, Store};
use dagrun_worker::{Link, Worker, WorkerOptions};
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    host::Host,
    inbox::{Inbox, Message},
    pool::{Pool, start_thread},
};
pub use dagrun_worker::free_memory;

/// What a local executor is made of.
#[derive(Clone)]
pub struct LocalOptions {
    /// CPUs for nodes.
    pub slots: u32,
    /// Bytes of memory for nodes; `None` for what the machine has to give when the executor is made.
    pub memory: Option<u64>,
    /// Named resources in thousandths.
    pub named: BTreeMap<String, u64>,
    /// Where folders of nodes are made. Best on the file system of the store, and never inside the project.
    pub work_dir: PathBuf,
    /// The store.
    pub store: Store,
    /// The folder that workspace inputs are relative to.
    pub project: PathBuf,
    /// The program that runs [`dagrun_worker::spawner_main`] when it is called with `__spawner`.
    pub spawner: PathBuf,
    /// The id of the run.
    pub run: String,
    /// Values of secrets; others are taken from environment variables of the same name.
    pub secrets: BTreeMap<String, String>,
    /// How blobs get into folders of nodes.
    pub staging: Staging,
    /// The worker's id in the run.
    pub worker: WorkerIx,
    /// The host's id in the run.
    pub host: HostIx,
    /// The executor profile that it serves.
    pub profile: Option<String>,
}

/// Secrets are never printed.
impl fmt::Debug for LocalOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalOptions")
            .field("slots", &self.slots)
            .field("project", &self.project)
            .field("work_dir", &self.work_dir)
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

impl LocalOptions {
    /// The usual: a slot for each CPU, the memory that is free, worker 0 on host 0.
    pub fn new(
        store: Store,
        project: impl Into<PathBuf>,
        work_dir: impl Into<PathBuf>,
        spawner: impl Into<PathBuf>,
        run: impl Into<String>,
    ) -> Self {
        Self {
            slots: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
            memory: None,
            named: BTreeMap::new(),
            work_dir: work_dir.into(),
            store,
            project: project.into(),
            spawner: spawner.into(),
            run: run.into(),
            secrets: BTreeMap::new(),
            staging: Staging::Auto,
            worker: WorkerIx(0),
            host: HostIx(0),
            profile: None,
        }
    }

    fn capacity(&self) -> Resources {
        Resources {
            cpu_milli: u64::from(self.slots) * 1000,
            memory: self.memory.unwrap_or_else(free_memory),
            named: self.named.clone(),
        }
    }
}

/// Runs nodes on this machine.
///
/// Attempts beyond the capacity may be submitted: they are made ready meanwhile and take their turn in order.
#[derive(Debug)]
pub struct LocalExecutor {
    info: WorkerInfo,
    inbox: Arc<Inbox>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    New(Box<Parts>),
    Running(JoinHandle<()>),
    Over,
}

/// What waits for the start.
#[derive(Debug)]
struct Parts {
    worker: Arc<Worker>,
    link: Link,
    options: LocalOptions,
    pool: Pool,
    /// The thread that holds all state; it waits for what to hold.
    thread: JoinHandle<()>,
    hand_over: Sender<Host>,
}

impl LocalExecutor {
    /// Makes the work folder and starts the spawner and the threads, so that an environment in which nothing can run is noticed now.
    ///
    /// # Errors
    /// When the folder cannot be made or the spawner or a thread cannot be started.
    pub fn new(options: LocalOptions) -> io::Result<Self> {
        let worker = Arc::new(Worker::new(WorkerOptions {
            store: options.store.clone(),
            project: options.project.clone(),
            work_dir: options.work_dir.clone(),
            run: options.run.clone(),
            secrets: options.secrets.clone(),
            staging: options.staging,
        })?);
        let capacity = options.capacity();
        let link = Link::open(&options.spawner, &worker, capacity.clone())?;
        let info = WorkerInfo {
            // All its slots are alike: there is nothing to compare.
            speed: 1000,
            worker: options.worker,
            host: options.host,
            host_name: machine::host_name(),
            capacity,
            profile: options.profile.clone(),
            ahead: host::HELD,
            process: String::new(),
            held: Vec::new(),
        };
        let inbox = Arc::new(Inbox::new()?);
        let pool = Pool::new(options.slots.min(15) as usize + 1, &worker, &inbox)?;
        let (hand_over, take) = channel::<Host>();
        let thread = start_thread("dagrun-local".into(), move || {
            // Nothing comes where the executor is never started.
            if let Ok(host) = take.recv() {
                host.run();
            }
        })?;
        Ok(Self {
            info,
            inbox,
            state: Mutex::new(State::New(Box::new(Parts {
                worker,
                link,
                options,
                pool,
                thread,
                hand_over,
            }))),
        })
    }

    /// The worker that it will announce.
    pub fn info(&self) -> &WorkerInfo {
        &self.info
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Executor for LocalExecutor {
    fn start(&self, events: UnboundedSender<ExecutorEvent>) {
        let mut state = self.state();
        let State::New(parts) = std::mem::replace(&mut *state, State::Over) else {
            panic!("an executor is started once and before its shutdown");
        };
        parts.pool.tell(events.clone());
        let host = Host::new(
            &parts.options,
            self.info.clone(),
            parts.worker,
            parts.link,
            parts.pool,
            events,
            self.inbox.clone(),
        );
        let handed = parts.hand_over.send(host).is_ok();
        debug_assert!(handed, "the thread waits for this");
        let thread = parts.thread;
        *state = State::Running(thread);
    }

    fn submit(&self, _: WorkerIx, attempts: Vec<AttemptSpec>) {
        self.inbox.push(Message::Submit(attempts));
    }

    fn cancel(&self, attempts: &[AttemptId], kill: bool) {
        self.inbox.push(Message::Cancel(attempts.to_vec(), kill));
    }

    fn recall(&self, attempts: &[AttemptId]) {
        self.inbox.push(Message::Recall(attempts.to_vec()));
    }

    fn shutdown(&self) {
        let state = std::mem::replace(&mut *self.state(), State::Over);
        match state {
            State::New(parts) => {
                parts.link.close();
                parts.worker.clean();
                drop(parts.hand_over);
                let _ = parts.thread.join();
            }
            State::Running(thread) => {
                self.inbox.push(Message::Shutdown);
                if thread.join().is_err() {
                    tracing::error!("the thread of the local executor panicked");
                }
            }
            State::Over => {}
        }
    }
}

impl Drop for LocalExecutor {
    fn drop(&mut self) {
        self.shutdown();
    }
}
