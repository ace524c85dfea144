//! Workers as processes, under a coordinator that this process holds or that is in a run: what every executor promises, and what
//! happens when one of them dies, stands still or leaves.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use dagrun_cluster::{
    net::Routes,
    pool::{Config, Pool, RunExecutor, RunOptions},
    security::{Gate, Limits},
};
use dagrun_executor_api::{
    Executor, ExecutorEvent,
    conformance::{Fixture, shell},
};
use dagrun_model::{AttemptId, AttemptResult, AttemptSpec, Outcome, WorkerIx};
use dagrun_store::{Store, StoreOptions};
use dagrun_testkit::ProcWatch;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::kit::{Project, dagrun, said, signal};

dagrun_executor_api::conformance_tests!(fixture);

/// The cluster as an executor: a coordinator here, a worker process, and gRPC on the loopback between them.
fn fixture() -> Fixture {
    let mut bench = Bench::new(Config::new(env!("CARGO_PKG_VERSION"), 1));
    bench.start_worker(2);
    bench.wait_for_workers(1);
    let store = bench.store.clone();
    Fixture {
        executor: Box::new(Shared(bench.executor())),
        read: Box::new(move |digest| store.read(digest).expect("the blob is there")),
        keep: Box::new(bench),
    }
}

struct Shared(Arc<RunExecutor>);

impl Executor for Shared {
    fn start(&self, events: tokio::sync::mpsc::UnboundedSender<ExecutorEvent>) {
        self.0.start(events);
    }

    fn submit(&self, worker: WorkerIx, attempts: Vec<AttemptSpec>) {
        self.0.submit(worker, attempts);
    }

    fn cancel(&self, attempts: &[AttemptId], kill: bool) {
        self.0.cancel(attempts, kill);
    }

    fn recall(&self, attempts: &[AttemptId]) {
        self.0.recall(attempts);
    }

    fn withdraw(&self, attempts: &[AttemptId]) {
        self.0.withdraw(attempts);
    }

    fn shutdown(&self) {
        self.0.shutdown();
    }
}

/// A coordinator with worker processes that share its store.
struct Bench {
    pool: Pool,
    address: String,
    store: Store,
    workers: Vec<Child>,
    folder: TempDir,
}

impl Bench {
    fn new(config: Config) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = StoreOptions { durable: false };
        let store = Store::open(&folder.path().join("store"), options).expect("a store");
        let pool = Pool::start(config, None).expect("a pool");
        let gate = Gate::open(None, Limits::default()).expect("a gate for this machine");
        let here = "127.0.0.1:0".parse().expect("an address");
        let bound = gate.bind(&here).expect("a free port");
        let address = bound.at().to_string();
        pool.serve(bound, Routes::default());
        std::fs::create_dir(folder.path().join("project")).expect("a folder");
        Self {
            pool,
            address,
            store,
            workers: Vec::new(),
            folder,
        }
    }

    /// With a lease that a test can wait for.
    fn impatient() -> Self {
        let mut config = Config::new(env!("CARGO_PKG_VERSION"), 1);
        config.lease = Duration::from_millis(1500);
        config.beat = Duration::from_millis(300);
        config.grace = Duration::from_millis(500);
        Self::new(config)
    }

    fn start_worker(&mut self, slots: u32) {
        let worker = Command::new(dagrun())
            .args(["worker", "--connect", &self.address, "--slots"])
            .arg(slots.to_string())
            .current_dir(self.folder.path())
            .env("DAGRUN_CACHE", self.store.root())
            .env("XDG_CONFIG_HOME", self.folder.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.workers.push(worker.expect("dagrun can be started"));
    }

    fn wait_for_workers(&self, count: usize) {
        wait_until("workers", || self.pool.workers() == count);
    }

    fn executor(&self) -> Arc<RunExecutor> {
        self.pool.executor(RunOptions {
            id: "r1".into(),
            resumes: Vec::new(),
            priority: 0,
            cpus: None,
            project: self.folder.path().join("project"),
            store: self.store.clone(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

/// A run on a bench.
struct Run {
    executor: Arc<RunExecutor>,
    events: UnboundedReceiver<ExecutorEvent>,
}

impl Run {
    fn new(bench: &Bench) -> Self {
        let executor = bench.executor();
        let (sender, events) = unbounded_channel();
        executor.start(sender);
        Self { executor, events }
    }

    fn next(&mut self) -> ExecutorEvent {
        let began = Instant::now();
        loop {
            if let Ok(event) = self.events.try_recv() {
                return event;
            }
            assert!(began.elapsed() < PATIENCE, "nothing happens");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn joined(&mut self) -> WorkerIx {
        loop {
            if let ExecutorEvent::WorkerJoined(info) = self.next() {
                return info.worker;
            }
        }
    }

    fn lost(&mut self) -> String {
        loop {
            if let ExecutorEvent::WorkerLost(_, why) = self.next() {
                return why;
            }
        }
    }

    fn started(&mut self, number: u64) {
        while self.next() != ExecutorEvent::Started(AttemptId(number)) {}
    }

    fn ended(&mut self, number: u64) -> AttemptResult {
        loop {
            if let ExecutorEvent::Ended(AttemptId(id), result) = self.next()
                && id == number
            {
                return *result;
            }
        }
    }
}

/// Far more than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn touch(path: &Path) -> String {
    format!("touch {}", path.display())
}

/// F17: a worker that stood still for longer than its lease comes back as somebody new; what it had is killed, and told once.
#[test]
fn a_worker_that_stood_still_is_fenced() {
    let mut bench = Bench::impatient();
    bench.start_worker(1);
    bench.wait_for_workers(1);
    let mut run = Run::new(&bench);
    let first = run.joined();
    let proof = bench.path("proof");
    let script = format!("sleep 6; {}", touch(&proof));
    run.executor.submit(first, vec![shell(1, &script, |_| {})]);
    run.started(1);
    signal(&bench.workers[0], "STOP");
    let why = run.lost();
    assert!(why.contains("said nothing for"), "{why}");
    assert!(matches!(run.ended(1).outcome, Outcome::Lost(_)));
    signal(&bench.workers[0], "CONT");
    let again = run.joined();
    assert_ne!(first, again);
    run.executor.submit(
        again,
        vec![shell(2, "sleep 6", |_| {}), shell(3, "true", |_| {})],
    );
    // It begins only because the slot of the first is free.
    run.started(2);
    let second = run.ended(2);
    assert!(
        matches!(second.outcome, Outcome::Succeeded(_)),
        "{second:?}"
    );
    let third = run.ended(3);
    assert!(matches!(third.outcome, Outcome::Succeeded(_)), "{third:?}");
    assert!(!proof.exists(), "the first attempt went on");
}

/// F15, seen from the pool: the attempts of a worker that was killed are lost at once when the time for coming back is over.
#[test]
fn a_killed_worker_loses_what_it_had() {
    let mut bench = Bench::impatient();
    bench.start_worker(1);
    bench.wait_for_workers(1);
    let mut run = Run::new(&bench);
    let worker = run.joined();
    let attempts = vec![shell(1, "sleep 60", |_| {}), shell(2, "sleep 60", |_| {})];
    run.executor.submit(worker, attempts);
    run.started(1);
    bench.workers[0].kill().expect("it runs");
    let killed = Instant::now();
    let why = run.lost();
    assert!(why.contains("did not come back"), "{why}");
    assert!(
        killed.elapsed() < Duration::from_secs(3),
        "{:?}",
        killed.elapsed()
    );
    for number in [1, 2] {
        assert!(matches!(run.ended(number).outcome, Outcome::Lost(_)));
    }
}

/// SIGTERM: what runs ends, what has not begun comes back, and the worker goes.
#[test]
fn a_worker_that_is_told_to_stop_finishes_and_hands_back() {
    let mut bench = Bench::impatient();
    bench.start_worker(1);
    bench.wait_for_workers(1);
    let mut run = Run::new(&bench);
    let worker = run.joined();
    let attempts = vec![shell(1, "sleep 2", |_| {}), shell(2, "true", |_| {})];
    run.executor.submit(worker, attempts);
    run.started(1);
    signal(&bench.workers[0], "TERM");
    assert_eq!(run.next(), ExecutorEvent::WorkerDraining(worker));
    assert_eq!(run.ended(2).outcome, Outcome::Cancelled);
    run.executor.submit(worker, vec![shell(3, "true", |_| {})]);
    assert_eq!(run.ended(3).outcome, Outcome::Cancelled);
    assert!(matches!(run.ended(1).outcome, Outcome::Succeeded(_)));
    run.executor.settled(&[1, 2, 3].map(AttemptId));
    assert!(run.lost().ends_with(" left"));
    let status = bench.workers[0].wait().expect("it ends");
    assert!(status.success(), "{status}");
}

/// A second SIGTERM does not wait.
#[test]
fn a_worker_that_is_told_twice_ends_at_once() {
    let mut bench = Bench::impatient();
    bench.start_worker(1);
    bench.wait_for_workers(1);
    let mut run = Run::new(&bench);
    let worker = run.joined();
    run.executor
        .submit(worker, vec![shell(1, "sleep 60", |_| {})]);
    run.started(1);
    signal(&bench.workers[0], "TERM");
    assert_eq!(run.next(), ExecutorEvent::WorkerDraining(worker));
    signal(&bench.workers[0], "TERM");
    assert!(matches!(run.ended(1).outcome, Outcome::Lost(_)));
    bench.workers[0].wait().expect("it ends");
}

/// F51: a worker that cannot reach anybody says so soon.
#[test]
fn a_worker_without_a_coordinator_says_so() {
    let project = Project::new("name: p\njobs: {a: {run: 'true'}}\n");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    let args = ["worker", "--connect", &address, "--reach-within", "500ms"];
    let said = project.fails(3, &args);
    said.has(&format!("cannot join a coordinator at {address}"));
    project
        .fails(2, &["worker", "--connect", "nowhere"])
        .has("write HOST:PORT");
}

/// F51: where no worker can start, the run fails at once with what it said.
#[test]
fn a_run_whose_workers_cannot_start_fails() {
    let project = Project::new("name: p\njobs: {a: {run: 'true'}}\n");
    project.write("dagrun.toml", "secrets = {TOKEN = \"not-there\"}\n");
    let said = project.fails(3, &["run", "pipeline.yaml", "--workers", "2"]);
    said.has("could not start")
        .has("cannot read secret `TOKEN`");
}

/// F50: a worker of another version is refused, and both versions are named.
#[test]
fn a_worker_of_another_version_is_refused() {
    let mut bench = Bench::new(Config::new("99.0.0", 1));
    bench.start_worker(1);
    let worker = bench.workers.pop().expect("it was started");
    let _ = said(worker.wait_with_output().expect("it ends"));
    let project = Project::new("name: p\njobs: {a: {run: 'true'}}\n");
    let said = project.fails(3, &["worker", "--connect", &bench.address]);
    said.has("dagrun 99.0.0").has(env!("CARGO_PKG_VERSION"));
}

/// F15: a worker of a run is killed in the middle of a node, which then runs elsewhere; the journal says why.
#[test]
fn a_run_goes_on_without_a_worker_that_was_killed() {
    let project = Project::new("");
    let at = |name: &str| project.dir().join(name).display().to_string();
    let script = format!(
        "if test $DAGRUN_ATTEMPT = 1; then echo $PPID > {0}.tmp; mv {0}.tmp {0}; sleep 60; fi; touch {1}; echo done > out",
        at("first"),
        at("second")
    );
    let pipeline =
        format!("name: p\njobs:\n  a:\n    outputs: {{out: out}}\n    run: |\n      {script}\n");
    project.write("pipeline.yaml", &pipeline);
    let run = project.start(&["run", "pipeline.yaml", "--workers", "2", "-j", "2"]);
    project.wait_for("first");
    let spawner: i32 = project.read("first").trim().parse().unwrap();
    let worker = parent_of(spawner);
    let status = Command::new("kill")
        .args(["-9", &worker.to_string()])
        .status();
    assert!(status.unwrap().success());
    let killed = Instant::now();
    project.wait_for("second");
    assert!(
        killed.elapsed() < Duration::from_secs(5),
        "{:?}",
        killed.elapsed()
    );
    let said = said(run.wait_with_output().unwrap());
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(project.executed(), 2);
    let journal = project.ok(&["show", "--json"]).stdout;
    assert!(journal.contains("\"succeeded\""), "{journal}");
}

/// A worker that dies is started again, and given up where that is of no use.
#[test]
fn a_worker_of_a_run_that_dies_is_started_again() {
    let project = Project::new("");
    let at = project.dir().join("deaths").display().to_string();
    // The worker is the parent of the process that starts nodes.
    let script = format!(
        "echo x >> {at}; if test $(wc -l < {at}) -le 2; then kill -9 $(ps -o ppid= -p $PPID); sleep 60; fi"
    );
    let pipeline = |script: &str| format!("name: p\njobs:\n  a:\n    run: |\n      {script}\n");
    project.write("pipeline.yaml", &pipeline(&script));
    project
        .ok(&["run", "pipeline.yaml", "--workers", "1"])
        .has("worker 1 died (signal: 9 (SIGKILL)): it is started again");
    assert_eq!(project.executed(), 3);
    project.write(
        "pipeline.yaml",
        &pipeline(&script.replace("-le 2", "-le 99")),
    );
    let said = project.say(&["run", "pipeline.yaml", "--workers", "1"]);
    assert_ne!(said.code, 0);
    said.has("for the 3rd time within 60 s: it is given up");
}

fn parent_of(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, rest) = stat.rsplit_once(')').expect("the name is in parentheses");
    rest.split_whitespace()
        .nth(1)
        .expect("its parent")
        .parse()
        .expect("a number")
}

/// F14: nothing survives a run that was killed, neither workers nor nodes.
#[test]
fn a_killed_run_leaves_nothing_running() {
    let project = Project::new("");
    let here = project.dir().join("here").display().to_string();
    let pipeline = format!("name: p\njobs: {{a: {{run: 'touch {here}; sleep 60'}}}}\n");
    project.write("pipeline.yaml", &pipeline);
    let watch = ProcWatch::new();
    let mut run = project
        .command(&["run", "pipeline.yaml", "--workers", "2"])
        .env(ProcWatch::NAME, watch.value())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    project.wait_for("here");
    run.kill().unwrap();
    run.wait().unwrap();
    wait_until("the end of all processes", || watch.alive().is_empty());
    // The next run clears what was left, and goes on.
    project.write("pipeline.yaml", "name: p\njobs: {a: {run: 'true'}}\n");
    project.ok(&["run", "pipeline.yaml", "--workers", "2"]);
    let left = std::fs::read_dir(project.cache().join("work"));
    let left: Vec<_> = left
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The same nodes on workers have the same results as in one process, inputs from the project and values among them.
#[test]
fn workers_make_what_one_process_makes() {
    const PIPELINE: &str = "
name: p
jobs:
  part:
    matrix: {n: [1, 2, 3, 4]}
    inputs: [data.txt, tools/double.sh]
    outputs: {value: {json: v.json}, copy: copy.txt}
    run: |
      sh tools/double.sh ${{ matrix.n }} > v.json
      cat data.txt > copy.txt
  sum:
    needs: [part]
    outputs: {all: all.txt}
    run: |
      cat ${{ needs.part.outputs.copy }} > all.txt
      echo ${{ needs.part.outputs.value }} >> all.txt
";
    let result = |flags: &[&str]| {
        let project = Project::new(PIPELINE);
        project.write("data.txt", "some data\n");
        project.write("tools/double.sh", "echo $(($1 * 2))\n");
        let mut args = vec!["run", "pipeline.yaml"];
        args.extend(flags);
        project.ok(&args);
        assert_eq!(project.counts(), [5, 0, 0, 0, 0]);
        project.ok(&["get", "sum:all", "got"]);
        project.read("got/all.txt")
    };
    assert_eq!(result(&["--workers", "3"]), result(&[]));
}

/// What is too long to be said is the failure of its node, and not the end of a connection, again and again.
#[test]
fn what_does_not_fit_into_a_message_fails_its_node() {
    let outputs: String = (0..70)
        .map(|n| format!("      o{n}: {{json: v.json, pointer: /v, type: string}}\n"))
        .collect();
    let project = Project::new(&format!(
        "name: p\njobs:\n  told: {{inputs: ['deep/**'], run: 'true'}}\n  tells:\n    outputs:\n{outputs}    \
         run: '{{ printf ''{{\"v\":\"''; head -c 1000000 /dev/zero | tr ''\\0'' v; printf ''\"}}''; }} > v.json'\n  \
         other: {{run: 'true'}}\n"
    ));
    // Names of three kilobytes stand twice in what a worker is told of a file.
    let folder = format!("deep/{}", vec!["d".repeat(250); 12].join("/"));
    std::fs::create_dir_all(project.dir().join(&folder)).unwrap();
    for n in 0..11_500 {
        std::fs::File::create(project.dir().join(format!("{folder}/{n}"))).unwrap();
    }
    project
        .fails(1, &["run", "pipeline.yaml", "--workers", "1"])
        .has("and the limit is 63.0 MiB: it has 11500 inputs")
        .has("and a worker can send 63.0 MiB")
        .has_not("disconnected");
    assert_eq!(project.counts(), [1, 0, 2, 0, 0]);
}

/// What people mean by a name that is no resource is said where they write it.
#[test]
fn names_that_mean_cpus_or_memory_are_no_resources() {
    let project = Project::new("name: r\njobs: {a: {resources: {mem: 1GiB}, run: 'true'}}\n");
    project
        .fails(2, &["plan"])
        .has("`mem` is no name for a resource of its own: write `memory`");
    for (given, meant) in [("cpu=4", "`--slots 4`"), ("ram=4GiB", "`--memory 4GiB`")] {
        let words = ["worker", "--connect", "127.0.0.1:1", "--resource", given];
        project.fails(2, &words).has(meant);
    }
    project.write("dagrun.toml", "[resources]\ncores = 3\n");
    project
        .fails(3, &["settings"])
        .has("write `jobs` at the top");
    std::fs::remove_file(project.dir().join("pipeline.yaml")).unwrap();
    std::fs::remove_file(project.dir().join("dagrun.toml")).unwrap();
    project
        .fails(2, &["get", "a"])
        .has("`-f FILE` names the pipeline");
}
