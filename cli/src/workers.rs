//! `--workers N`: a cluster on this machine that lives as long as a run.
//!
//! The coordinator is in this process and listens on a socket in a private folder; the workers are processes of this program
//! that share its cache. They end with it, however it ends.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use dagrun_cluster::{
    net::Routes,
    pool::{Config, Pool, RunExecutor, RunOptions},
    security::{Address, Gate, Limits},
    worker::host,
};
use dagrun_executor_api::{Executor, ExecutorEvent};
use dagrun_model::{AttemptId, AttemptSpec, WorkerIx};
use dagrun_run::{ExecutorContext, ExecutorFactory};
use dagrun_store::Store;
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedSender;

use crate::{error::CliError, say, settings::Settings};

/// How long workers may take to be there.
const START: Duration = Duration::from_secs(20);
/// How long they may take to end when they were told to.
const END: Duration = Duration::from_secs(5);
/// Lines of a worker's standard error that are kept for when it cannot start.
const LINES: usize = 20;
/// A worker that dies so often within [`QUICKLY`] is given up.
const DEATHS: usize = 3;
const QUICKLY: Duration = Duration::from_secs(60);
/// How often it is looked whether workers are alive.
const LOOK: Duration = Duration::from_millis(100);

/// How many workers share how many slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Division {
    workers: usize,
    slots: usize,
}

impl Division {
    /// Divides slots among workers; without `-j` each has one at least.
    pub(crate) fn new(
        workers: usize,
        asked: Option<usize>,
        usual: usize,
    ) -> Result<Self, CliError> {
        if workers == 0 {
            return Err(
                CliError::invalid("`--workers 0` leaves nobody to run nodes")
                    .hint("write a number above 0, or leave it out to run nodes without workers"),
            );
        }
        match asked {
            Some(slots) if slots < workers => Err(CliError::invalid(format!(
                "{workers} workers cannot share the {slots} of `-j {slots}`"
            ))
            .hint(format!("write `-j {workers}` or more, or fewer workers"))),
            asked => Ok(Self {
                workers,
                slots: asked.unwrap_or(usual.max(workers)),
            }),
        }
    }

    pub(crate) fn slots(self) -> usize {
        self.slots
    }

    /// The slots of each worker.
    fn shares(self) -> impl Iterator<Item = usize> {
        let (each, rest) = (self.slots / self.workers, self.slots % self.workers);
        (0..self.workers).map(move |worker| each + usize::from(worker < rest))
    }
}

/// Makes the cluster when the first node has to run.
pub(crate) fn executor(division: Division, settings: &Settings, store: Store) -> ExecutorFactory {
    let settings = settings.clone();
    Box::new(move |context| {
        store.check_writable().map_err(|error| {
            format!("nodes have to run, and the cache does not take results: {error}")
        })?;
        let cluster = Workers::start(division, &settings, &store, context)?;
        Ok(Arc::new(cluster) as Arc<dyn Executor>)
    })
}

struct Workers {
    executor: Arc<RunExecutor>,
    pool: Pool,
    processes: Arc<Mutex<Vec<Process>>>,
    /// Dropped to end the thread that starts dead workers again.
    over: Mutex<Option<Sender<()>>>,
    /// Where the socket is.
    _folder: TempDir,
}

impl Workers {
    fn start(
        division: Division,
        settings: &Settings,
        store: &Store,
        context: &ExecutorContext,
    ) -> Result<Self, String> {
        let folder = tempfile::Builder::new()
            .prefix("dagrun-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir()
            .map_err(|error| format!("cannot make a folder for a socket: {error}"))?;
        let socket = folder.path().join("s");
        let bound = Gate::open(None, Limits::default())
            .and_then(|gate| gate.bind(&Address::Unix(socket.clone())))
            .map_err(|error| error.to_string())?;
        let mut config = Config::new(env!("CARGO_PKG_VERSION"), 1);
        // They are this machine's, not each worker's.
        config.limits = settings.resources.value.clone();
        let pool = Pool::start(config, None)
            .map_err(|error| format!("cannot start the coordinator: {error}"))?;
        pool.serve(bound, Routes::default());
        let executor = pool.executor(RunOptions {
            id: context.run.0.clone(),
            // They ended with that one.
            resumes: Vec::new(),
            priority: 0,
            cpus: None,
            project: context.project.clone(),
            store: store.clone(),
        });
        let mut workers = Self {
            executor,
            pool,
            processes: Arc::default(),
            over: Mutex::default(),
            _folder: folder,
        };
        let recipe = Recipe::new(division, settings, store, context, &socket)?;
        for (at, slots) in division.shares().enumerate() {
            let process = recipe.start(at + 1, slots, at + 1)?;
            workers.list().push(process);
        }
        workers.wait_for_all()?;
        workers.look_after(recipe)?;
        Ok(workers)
    }

    /// Starts workers again that die, until the run is over.
    fn look_after(&mut self, recipe: Recipe) -> Result<(), String> {
        let (over, is_over) = channel();
        let processes = Arc::clone(&self.processes);
        std::thread::Builder::new()
            .name("workers".into())
            .spawn(move || {
                let mut started = lock(&processes).len();
                while is_over.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                    for process in lock(&processes).iter_mut() {
                        process.revive(&recipe, &mut started);
                    }
                }
            })
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        *lock(&self.over) = Some(over);
        Ok(())
    }

    fn wait_for_all(&mut self) -> Result<(), String> {
        let began = Instant::now();
        let wanted = self.list().len();
        while self.pool.workers() < wanted {
            if let Some(dead) = self.list().iter_mut().find_map(Process::obituary) {
                return Err(dead);
            }
            if began.elapsed() > START {
                return Err(format!(
                    "only {} of {wanted} workers are there after {} s",
                    self.pool.workers(),
                    START.as_secs()
                ));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn list(&self) -> MutexGuard<'_, Vec<Process>> {
        lock(&self.processes)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How the workers of a run are started.
struct Recipe {
    program: PathBuf,
    args: Vec<OsString>,
    run: String,
    project: PathBuf,
}

impl Recipe {
    fn new(
        division: Division,
        settings: &Settings,
        store: &Store,
        context: &ExecutorContext,
        socket: &Path,
    ) -> Result<Self, String> {
        let program = std::env::current_exe()
            .map_err(|error| format!("cannot find dagrun's own program: {error}"))?;
        let memory = match settings.memory.value {
            0 => dagrun_local::free_memory(),
            bytes => bytes,
        };
        let mut args: Vec<OsString> = vec![
            "worker".into(),
            "--connect".into(),
            format!("unix:{}", socket.display()).into(),
            "--cache".into(),
            store.root().into(),
        ];
        // Inputs that only the shared cache has are fetched by whoever stages them.
        let shared = settings.shared.at.value.as_ref();
        args.extend(
            shared
                .into_iter()
                .flat_map(|at| ["--cache".into(), at.to_string().into()]),
        );
        let mode = if shared.is_some() { "read" } else { "off" };
        args.extend(["--cache-mode".into(), mode.into()]);
        let memory = memory / division.workers as u64;
        args.extend(["--memory".into(), memory.to_string().into()]);
        args.extend(["--part-of".into(), std::process::id().to_string().into()]);
        Ok(Self {
            program,
            args,
            run: context.run.0.clone(),
            project: context.project.clone(),
        })
    }

    /// Starts the process of a worker; `number` is that of no other process of the run.
    fn start(&self, worker: usize, slots: usize, number: usize) -> Result<Process, String> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .args(["--slots", &slots.to_string()])
            .args(["--name", &format!("{}/worker{worker}", host::host_name())])
            .args(["--work-name", &work_name(&self.run, number)])
            // Settings such as secrets are those of the project.
            .current_dir(&self.project);
        Process::start(command, worker, slots)
    }
}

/// The name of a worker's work folder: it tells whose it was if it is left over.
fn work_name(run: &str, number: usize) -> String {
    format!("{run}-w{number}")
}

/// The run that a work folder is of, be it its own or that of one of its workers.
pub(crate) fn run_of(work_name: &str) -> &str {
    match work_name.rsplit_once("-w") {
        Some((run, number)) if number.bytes().all(|b| b.is_ascii_digit()) => run,
        _ => work_name,
    }
}

impl Executor for Workers {
    fn start(&self, events: UnboundedSender<ExecutorEvent>) {
        self.executor.start(events);
    }

    fn submit(&self, worker: WorkerIx, attempts: Vec<AttemptSpec>) {
        self.executor.submit(worker, attempts);
    }

    fn cancel(&self, attempts: &[AttemptId], kill: bool) {
        self.executor.cancel(attempts, kill);
    }

    fn recall(&self, attempts: &[AttemptId]) {
        self.executor.recall(attempts);
    }

    fn withdraw(&self, attempts: &[AttemptId]) {
        self.executor.withdraw(attempts);
    }

    fn settled(&self, attempts: &[AttemptId]) {
        self.executor.settled(attempts);
    }

    fn shutdown(&self) {
        drop(lock(&self.over).take());
        // Whoever is being started just now is among those that are told to go.
        drop(self.list());
        self.executor.shutdown();
        self.pool.dismiss("the run is over");
        for process in self.list().drain(..) {
            process.end();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// A worker's process.
struct Process {
    number: usize,
    slots: usize,
    child: Child,
    lines: Arc<Mutex<VecDeque<String>>>,
    reader: Option<JoinHandle<()>>,
    /// When this worker died, as far as that counts.
    deaths: Vec<Instant>,
    given_up: bool,
}

impl Process {
    fn start(mut command: Command, number: usize, slots: usize) -> Result<Self, String> {
        use std::os::unix::process::CommandExt;
        // Ctrl-C is for the run, which tells its workers what to do.
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|error| format!("cannot start worker {number}: {error}"))?;
        let lines: Arc<Mutex<VecDeque<String>>> = Arc::default();
        let stderr = child.stderr.take();
        let reader = stderr.map(|stderr| {
            let lines = lines.clone();
            std::thread::spawn(move || pass_on(stderr, number, &lines))
        });
        Ok(Self {
            number,
            slots,
            child,
            lines,
            reader,
            deaths: Vec::new(),
            given_up: false,
        })
    }

    /// What is to be said of it if it is dead.
    fn obituary(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let lines = lock(&self.lines);
        let said: Vec<&str> = lines.iter().map(String::as_str).collect();
        let said = match said.as_slice() {
            [] => "it said nothing".to_owned(),
            said => format!("it said: {}", said.join("; ")),
        };
        Some(format!(
            "worker {} could not start ({status}); {said}",
            self.number
        ))
    }

    /// Starts it again if it has died, as long as that is of use.
    fn revive(&mut self, recipe: &Recipe, started: &mut usize) {
        if self.given_up {
            return;
        }
        let Ok(Some(status)) = self.child.try_wait() else {
            return;
        };
        let worker = self.number;
        self.deaths.retain(|death| death.elapsed() < QUICKLY);
        self.deaths.push(Instant::now());
        if self.deaths.len() >= DEATHS {
            self.given_up = true;
            say!(
                "worker {worker} died ({status}), for the {DEATHS}rd time within {} s: it is given up",
                QUICKLY.as_secs()
            );
            return;
        }
        say!("worker {worker} died ({status}): it is started again");
        *started += 1;
        match recipe.start(worker, self.slots, *started) {
            Ok(new) => {
                let deaths = std::mem::take(&mut self.deaths);
                *self = Self { deaths, ..new };
            }
            Err(error) => {
                self.given_up = true;
                say!("{error}: it is given up");
            }
        }
    }

    /// Waits until it has ended, and kills it if it does not.
    fn end(mut self) {
        let began = Instant::now();
        while began.elapsed() < END {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        tracing::warn!("worker {} did not end and is killed", self.number);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Shows what a worker says, and keeps the end of it.
fn pass_on(stderr: ChildStderr, number: usize, lines: &Mutex<VecDeque<String>>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        say!("worker {number}: {}", crate::term::escape(&line));
        let mut lines = lock(lines);
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_divided_without_a_rest() {
        let shares = |workers, asked| -> Vec<usize> {
            let division = Division::new(workers, asked, 2).expect("it can be divided");
            division.shares().collect()
        };
        assert_eq!(shares(2, Some(5)), [3, 2]);
        assert_eq!(shares(4, None), [1, 1, 1, 1]);
        assert_eq!(shares(1, None), [2]);
        assert!(Division::new(3, Some(2), 2).is_err());
        assert!(Division::new(0, None, 2).is_err());
    }

    #[test]
    fn work_folders_tell_their_run() {
        assert_eq!(run_of(&work_name("20261130-1-ab", 12)), "20261130-1-ab");
        assert_eq!(run_of("20261130-1-ab"), "20261130-1-ab");
    }
}
