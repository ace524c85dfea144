//! A coordinator and workers with stores of their own, as on several hosts: blobs stay where they were made, go where they are
//! read, and are missed only when nobody has them. Connections and processes are real.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use dagrun_cluster::{
    blobs::{BlobOptions, CoordinatorBlobs, WorkerBlobs, WriteLimits},
    message::{Identity, Platform},
    net::Routes,
    pool::{Config, Pool, RunExecutor, RunOptions},
    security::{Address, Connector, Gate, Limits},
    session::Exit,
    worker::{self, Order, WorkerOptions, host},
};
use dagrun_executor_api::{
    Executor, ExecutorEvent,
    conformance::{output, shell},
};
use dagrun_local::{LocalExecutor, LocalOptions};
use dagrun_model::{
    Action, Artifact, AttemptResult, AttemptSpec, BlobRef, Digest, FailureCause, HostIx,
    InputSource, Outcome, RelPath, StagedInput, WorkerIx,
};
use dagrun_store::{Store, StoreOptions};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const VERSION: &str = "test";
const LARGE: u64 = 3_000_000;

struct Cluster {
    folder: tempfile::TempDir,
    spawner: PathBuf,
    address: Address,
    store: Store,
    _blobs: CoordinatorBlobs,
    executor: Arc<RunExecutor>,
    events: UnboundedReceiver<ExecutorEvent>,
    workers: BTreeMap<String, (WorkerIx, HostIx)>,
    started: Vec<(UnboundedSender<Order>, Option<JoinHandle<Exit>>)>,
    next: u64,
    _pool: Pool,
}

fn open(path: &Path) -> Store {
    Store::open(path, StoreOptions::default()).unwrap()
}

impl Cluster {
    fn new() -> Self {
        let folder = dagrun_testkit::scratch();
        let store = open(&folder.path().join("coordinator"));
        let own = host::host_id(store.root()).unwrap();
        let connector = Connector::open(None, None).unwrap();
        let blobs = CoordinatorBlobs::start(&store, own, connector).unwrap();
        let pool = Pool::start(Config::new(VERSION, 1), Some(blobs.witness())).unwrap();
        let gate = Gate::open(None, Limits::default()).unwrap();
        let bound = gate.bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
        let address = bound.at().clone();
        let service = blobs.service(WriteLimits::default());
        pool.serve(bound, Routes::new(service.into_server()));
        let executor = pool.executor(RunOptions {
            id: "run".into(),
            resumes: Vec::new(),
            priority: 0,
            cpus: None,
            project: folder.path().join("project"),
            store: store.clone(),
        });
        let (sender, events) = unbounded_channel();
        executor.start(sender);
        Self {
            spawner: dagrun_testkit::example("dagrun-cluster", "spawner"),
            folder,
            address,
            store,
            _blobs: blobs,
            executor,
            events,
            workers: BTreeMap::new(),
            started: Vec::new(),
            next: 1,
            _pool: pool,
        }
    }

    /// Starts a worker with a store of its own, and waits until it is there.
    fn worker(&mut self, name: &str) -> Store {
        let store = open(&self.folder.path().join(name));
        let work = store.root().join("work");
        let mut options = LocalOptions::new(store.clone(), "/", work, &self.spawner, name);
        options.slots = 2;
        let local = Arc::new(LocalExecutor::new(options).unwrap());
        let blobs = WorkerBlobs::start(
            &store,
            &Gate::open(None, Limits::default()).unwrap(),
            Connector::open(None, None).unwrap(),
            BlobOptions {
                coordinator: self.address.clone(),
                listen: "127.0.0.1:0".parse().unwrap(),
                host: host::host_id(store.root()).unwrap(),
                max_bytes: None,
            },
        )
        .unwrap();
        let identity = Identity {
            version: VERSION.into(),
            platform: Platform::here(),
            name: name.into(),
            host: host::host_id(store.root()).unwrap(),
            incarnation: host::incarnation().unwrap(),
            capacity: local.info().capacity.clone(),
            labels: BTreeMap::new(),
            profile: None,
            blobs: blobs.address(),
            speed: 1000,
            ahead: 4,
            boot: host::boot_id(),
            pid: std::process::id(),
        };
        let options = WorkerOptions {
            address: self.address.clone(),
            connector: Connector::open(None, None).unwrap(),
            identity,
            store: store.clone(),
            blobs: Some(blobs),
            reach: Duration::from_secs(20),
            linger: None,
        };
        let (orders, received) = unbounded_channel();
        let thread =
            std::thread::spawn(move || worker::run(options, local, received, &|_| {}).unwrap());
        self.started.push((orders, Some(thread)));
        loop {
            if let ExecutorEvent::WorkerJoined(info) = self.event() {
                self.workers.insert(name.into(), (info.worker, info.host));
                return store;
            }
        }
    }

    fn event(&mut self) -> ExecutorEvent {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            match self.events.try_recv() {
                Ok(event) => return event,
                Err(error) => assert!(Instant::now() < until, "nothing happens: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn give(
        &mut self,
        worker: &str,
        script: &str,
        change: impl FnOnce(&mut Action),
    ) -> AttemptSpec {
        let spec = shell(self.next, script, change);
        self.next += 1;
        self.executor
            .submit(self.workers[worker].0, vec![spec.clone()]);
        spec
    }

    /// Runs a script to its end; gives the result, and what was fetched for it.
    fn run(
        &mut self,
        worker: &str,
        script: &str,
        change: impl FnOnce(&mut Action),
    ) -> (AttemptResult, Vec<Digest>) {
        let spec = self.give(worker, script, change);
        let mut fetched = Vec::new();
        loop {
            match self.event() {
                ExecutorEvent::Fetched(attempt, host, blobs) if attempt == spec.attempt => {
                    assert_eq!(host, self.workers[worker].1);
                    fetched = blobs;
                }
                ExecutorEvent::Ended(attempt, result) if attempt == spec.attempt => {
                    self.executor.settled(&[attempt]);
                    return (*result, fetched);
                }
                _ => {}
            }
        }
    }

    /// Makes a large file on a worker.
    fn large(&mut self, worker: &str) -> BlobRef {
        let script = format!("head -c {LARGE} /dev/urandom > large; echo made");
        let (result, _) = self.run(worker, &script, |action| {
            action.outputs = vec![output("large")]
        });
        match outputs(&result)["large"] {
            Artifact::File(blob) => blob,
            ref other => panic!("{other:?}"),
        }
    }

    fn leave(&mut self, worker: &str) {
        let at = self.workers.keys().position(|name| name == worker).unwrap();
        let (orders, thread) = &mut self.started[at];
        orders
            .send(Order::Leave(Duration::ZERO, "the test".into()))
            .unwrap();
        thread.take().unwrap().join().unwrap();
        loop {
            if let ExecutorEvent::WorkerLost(..) = self.event() {
                return;
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (orders, thread) in &mut self.started {
            let _ = orders.send(Order::Quit);
            if let Some(thread) = thread.take() {
                let _ = thread.join();
            }
        }
    }
}

fn outputs(result: &AttemptResult) -> &dagrun_model::Outputs {
    match &result.outcome {
        Outcome::Succeeded(outputs) => outputs,
        other => panic!("{other:?}"),
    }
}

fn input(path: &str, artifact: Artifact) -> StagedInput {
    StagedInput {
        path: RelPath::new(path).unwrap(),
        source: InputSource::Stored(artifact),
    }
}

#[test]
fn blobs_go_from_host_to_host_and_small_ones_to_the_coordinator() {
    let mut cluster = Cluster::new();
    let (one, two) = (cluster.worker("one"), cluster.worker("two"));
    let large = cluster.large("one");
    assert!(one.contains(&large.digest));
    assert!(
        !cluster.store.contains(&large.digest),
        "it stays where it is"
    );
    assert!(cluster.executor.holds(&large.digest));

    let script = "cksum < large > sum; mkdir dir; echo a > dir/a; cp large dir/b; echo said";
    let (result, fetched) = cluster.run("two", script, |action| {
        action.inputs = vec![input("large", Artifact::File(large))];
        action.outputs = vec![output("sum"), output("dir")];
    });
    let made = outputs(&result).clone();
    assert_eq!(fetched, [large.digest]);
    assert!(two.contains(&large.digest));

    // Small blobs and logs came along; the coordinator gets others when it needs them.
    let sum = made["sum"].blob_digest().unwrap();
    let said = result.stdout.as_ref().unwrap().blob.digest;
    let manifest = made["dir"].blob_digest().unwrap();
    for small in [sum, said, manifest] {
        assert!(cluster.store.contains(&small), "{small}");
    }
    let dest = cluster.folder.path().join("exported");
    cluster.store.export(&made["dir"], &dest).unwrap();
    let exported = std::fs::read(dest.join("b")).unwrap();
    assert_eq!(Digest::of(&exported), large.digest);

    // The folder goes on to the first host, whose coordinator names nobody but the second for it.
    let (result, fetched) = cluster.run("one", "cmp dir/b large && cat dir/a", |action| {
        action.inputs = vec![
            input("dir", made["dir"].clone()),
            input("large", Artifact::File(large)),
        ];
    });
    assert!(
        matches!(result.outcome, Outcome::Succeeded(_)),
        "{result:?}"
    );
    assert_eq!(fetched, [manifest]);
}

/// A lost host takes along what only it had: whoever reads that fails in a way that makes its producer run again.
#[test]
fn what_a_lost_host_alone_had_is_missing_and_replicas_are_not() {
    let mut cluster = Cluster::new();
    cluster.worker("one");
    cluster.worker("two");
    let (alone, copied) = (cluster.large("one"), cluster.large("one"));
    let (result, _) = cluster.run("two", "test -s f", |action| {
        action.inputs = vec![input("f", Artifact::File(copied))];
    });
    assert!(
        matches!(result.outcome, Outcome::Succeeded(_)),
        "{result:?}"
    );

    cluster.leave("one");
    assert!(!cluster.executor.holds(&alone.digest) && cluster.executor.holds(&copied.digest));
    cluster.worker("three");
    let (result, fetched) = cluster.run("three", "test -s f", |action| {
        action.inputs = vec![input("f", Artifact::File(copied))];
    });
    assert!(
        matches!(result.outcome, Outcome::Succeeded(_)),
        "{result:?}"
    );
    assert_eq!(fetched, [copied.digest]);
    let (result, _) = cluster.run("three", "test -s f", |action| {
        action.inputs = vec![input("f", Artifact::File(alone))];
    });
    let Outcome::Failed(FailureCause::Staging {
        path, missing_blob, ..
    }) = &result.outcome
    else {
        panic!("{result:?}");
    };
    assert!(path == "f" && *missing_blob);
    assert!(
        cluster
            .store
            .read(&alone.digest)
            .unwrap_err()
            .is_lost_blob()
    );
}

/// Inputs of what waits are there before its turn comes.
#[test]
fn inputs_are_fetched_while_others_run() {
    let mut cluster = Cluster::new();
    cluster.worker("one");
    let two = cluster.worker("two");
    let large = cluster.large("one");
    let go = cluster.folder.path().join("go");
    let wait = format!("until test -e {}; do sleep 0.02; done", go.display());
    for _ in 0..2 {
        cluster.give("two", &wait, |_| {});
    }
    let waits = cluster.give("two", "test -s f", |action| {
        action.inputs = vec![input("f", Artifact::File(large))];
    });
    for _ in 0..1000 {
        if two.contains(&large.digest) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(
        two.contains(&large.digest),
        "both slots are taken, and it is there"
    );
    std::fs::write(&go, "").unwrap();
    loop {
        if let ExecutorEvent::Ended(attempt, result) = cluster.event()
            && attempt == waits.attempt
        {
            assert!(
                matches!(result.outcome, Outcome::Succeeded(_)),
                "{result:?}"
            );
            return;
        }
    }
}
