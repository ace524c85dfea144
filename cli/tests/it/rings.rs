//! Whole clusters as processes, and what befalls them: hosts that are cut off, lose packets or stand still, and kill -9 of anybody.
//!
//! More of the same, for as long as wanted: `cargo xtask soak cluster`.

use std::{
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use dagrun_testkit::{ClusterSettings, Rounds, TestCluster, skip};

use crate::kit::{Project, dagrun, said, signal};

const PATIENCE: Duration = Duration::from_secs(60);

fn impatient(slots: u32) -> ClusterSettings {
    ClusterSettings {
        slots,
        lease: Some("2s".into()),
        ..ClusterSettings::default()
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn wait_for_nodes(cluster: &TestCluster) {
    cluster.wait_until("nodes run", |cluster| {
        let running = &cluster.status()["runs"][0]["running"];
        running.as_u64().is_some_and(|running| running > 0)
    });
}

/// A run of one node: its first attempt says where it is and goes on for ever, its second one ends.
struct Endless {
    project: Project,
}

impl Endless {
    fn new() -> Self {
        let project = Project::new("");
        let dir = project.dir().display().to_string();
        project.write(
            "pipeline.yaml",
            &format!(
                "name: endless\njobs:\n  a:\n    outputs: {{o: o}}\n    run: |\n      if [ $DAGRUN_ATTEMPT = 1 ]; then\n        pwd > {dir}/at.tmp; mv {dir}/at.tmp {dir}/at\n        while sleep 0.05; do echo x >> {dir}/alive; done\n      fi\n      echo done > o\nexport: {{o: '${{{{ jobs.a.outputs.o }}}}'}}\n"
            ),
        );
        Self { project }
    }

    fn start(&self, cluster: &TestCluster) -> Child {
        let mut client = cluster.client(&self.project.dir(), &["pipeline.yaml", "--quiet"]);
        let client = client.stdout(Stdio::piped()).stderr(Stdio::piped());
        client.spawn().expect("dagrun can be started")
    }

    /// The worker that has the first attempt: the node's folder is in its cache.
    fn worker(&self, workers: usize) -> usize {
        self.project.wait_for("at");
        let at = self.project.read("at");
        let is_at = |worker: &usize| at.contains(&format!("/w{worker}/"));
        (0..workers).find(is_at).unwrap_or_else(|| panic!("{at}"))
    }

    fn grows(&self) -> bool {
        let length =
            || std::fs::metadata(self.project.dir().join("alive")).map_or(0, |it| it.len());
        let before = length();
        std::thread::sleep(Duration::from_millis(400));
        length() != before
    }

    /// The run succeeds by its second attempt.
    fn succeeds(&self, cluster: &TestCluster, client: Child) {
        let said = said(client.wait_with_output().expect("it ends"));
        assert_eq!(said.code, 0, "{}\n{}", said.stderr, cluster.logs());
        assert_eq!(self.project.read("o"), "done\n");
        assert_eq!(self.project.executed(), 2);
        assert_eq!(self.project.counts(), [1, 0, 0, 0, 0]);
    }
}

/// Something that befalls a host with a worker, and how it ends.
type Fault = (fn(&TestCluster, usize), fn(&TestCluster, usize));

/// Cuts the worker that runs the first attempt off, until the second one has ended elsewhere; then lets it come back.
fn is_fenced(cluster: &TestCluster, (begins, ends): Fault) {
    let endless = Endless::new();
    let client = endless.start(cluster);
    let worker = endless.worker(2);
    begins(cluster, worker);
    endless.succeeds(cluster, client);
    // Nobody could tell it so far.
    assert!(endless.grows() || cluster.state_of(worker) == "silent");
    ends(cluster, worker);
    cluster.wait_for_workers(2);
    wait_until("the first attempt is killed", || !endless.grows());
    // What it might still say of the first attempt changed nothing.
    let again = endless.start(cluster);
    let said = said(again.wait_with_output().expect("it ends"));
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert_eq!(endless.project.counts(), [0, 1, 0, 0, 0]);
}

/// F18: a host that is cut off in both directions, or in one, loses its lease; what it had runs elsewhere, and is dropped when it is back.
#[test]
fn a_host_that_is_cut_off_is_fenced() {
    let test = "a_host_that_is_cut_off_is_fenced";
    let cluster = skip!(test, TestCluster::on_hosts(dagrun(), 2, impatient(1)));
    let faults: [Fault; 3] = [
        (
            |cluster, worker| cluster.lab().unplug(cluster.worker_host(worker)),
            |cluster, worker| cluster.lab().replug(cluster.worker_host(worker)),
        ),
        (
            |cluster, worker| cluster.lab().deafen(cluster.worker_host(worker)),
            |cluster, worker| cluster.lab().heal(cluster.worker_host(worker)),
        ),
        (
            |cluster, worker| cluster.lab().reset(cluster.worker_host(worker)),
            |cluster, worker| cluster.lab().heal(cluster.worker_host(worker)),
        ),
    ];
    for fault in faults {
        is_fenced(&cluster, fault);
    }
}

/// F17: a worker's process that stands still for longer than its lease, with all its connections open.
#[test]
fn a_worker_that_stands_still_is_fenced_in_a_run() {
    let cluster = TestCluster::here(dagrun(), 2, impatient(1));
    is_fenced(
        &cluster,
        (
            |cluster, worker| signal(cluster.worker(worker), "STOP"),
            |cluster, worker| signal(cluster.worker(worker), "CONT"),
        ),
    );
}

/// F18: cables that are out for less than a lease, and packets that are lost, cost time and nothing else.
#[test]
fn lost_packets_and_short_cuts_lose_no_attempt() {
    let test = "lost_packets_and_short_cuts_lose_no_attempt";
    let cluster = TestCluster::on_hosts(dagrun(), 2, ClusterSettings::default());
    let cluster = skip!(test, cluster);
    let lab = cluster.lab();
    let mut rounds = Rounds::new(&cluster, 6);
    for host in 0..4 {
        lab.lose(host, 5);
    }
    let client = rounds.start(&cluster);
    for cut in 0..6 {
        let host = cluster.worker_host(cut % 2);
        lab.unplug(host);
        std::thread::sleep(Duration::from_millis(300));
        lab.replug(host);
        std::thread::sleep(Duration::from_millis(200));
    }
    let told = rounds
        .finish(&cluster, client)
        .unwrap_or_else(|why| panic!("{why}"));
    assert_eq!((told.attempts, told.drivers), (13, 1));
}

/// F18: the coordinator's own host is cut off for a while. Workers go on, and nobody is taken for lost when it is back.
#[test]
fn a_coordinator_that_is_cut_off_goes_on() {
    let test = "a_coordinator_that_is_cut_off_goes_on";
    let cluster = TestCluster::on_hosts(dagrun(), 2, impatient(2));
    let cluster = skip!(test, cluster);
    let mut rounds = Rounds::new(&cluster, 6);
    let client = rounds.start(&cluster);
    wait_for_nodes(&cluster);
    cluster.lab().unplug(cluster.coordinator_host());
    std::thread::sleep(Duration::from_secs(4));
    cluster.lab().replug(cluster.coordinator_host());
    rounds
        .finish(&cluster, client)
        .unwrap_or_else(|why| panic!("{why}"));
}

/// F25: a coordinator that stood still for longer than all leases expires nobody: it was away, not they.
#[test]
fn a_coordinator_that_stood_still_expires_nobody() {
    let cluster = TestCluster::here(dagrun(), 3, impatient(2));
    let mut rounds = Rounds::new(&cluster, 12);
    let client = rounds.start(&cluster);
    wait_for_nodes(&cluster);
    signal(cluster.coordinator(), "STOP");
    std::thread::sleep(Duration::from_secs(5));
    signal(cluster.coordinator(), "CONT");
    let told = rounds
        .finish(&cluster, client)
        .unwrap_or_else(|why| panic!("{why}"));
    assert_eq!((told.attempts, told.drivers), (25, 1), "{}", cluster.logs());
    assert!(!cluster.logs().contains("panicked"), "{}", cluster.logs());
}

/// F01, F15, F22: kill -9 of the coordinator and of workers in turn, in the middle of runs.
#[test]
fn killed_in_turn_it_goes_on_and_commits_once() {
    let mut cluster = TestCluster::here(dagrun(), 2, impatient(2));
    let mut rounds = Rounds::new(&cluster, 6);
    for victim in 0..4 {
        let client = rounds.start(&cluster);
        std::thread::sleep(Duration::from_millis(250 + 150 * victim));
        match victim {
            0 | 3 => {
                cluster.kill_coordinator();
                cluster.start_coordinator();
            }
            _ => {
                let worker = victim as usize % 2;
                cluster.kill_worker(worker);
                cluster.start_worker(worker);
            }
        }
        rounds
            .finish(&cluster, client)
            .unwrap_or_else(|why| panic!("{why}"));
    }
    cluster.verify_cache().unwrap_or_else(|why| panic!("{why}"));
}

/// F26: the coordinator is killed under 50 workers, which all come back at once; then all of them are killed under a run
/// and started at once: none of the nodes that met some that died is blamed for it.
#[test]
fn fifty_workers_come_back_at_once() {
    const WORKERS: usize = 50;
    // Fifty processes that start on few CPUs are late: only those that were killed are to be missed.
    let settings = ClusterSettings {
        lease: Some("8s".into()),
        ..impatient(1)
    };
    let mut cluster = TestCluster::here(dagrun(), WORKERS, settings);
    // Fewer would be over before anybody has looked.
    let mut rounds = Rounds::new(&cluster, 150);
    let client = rounds.start(&cluster);
    wait_for_nodes(&cluster);
    cluster.kill_coordinator();
    cluster.start_coordinator();
    rounds
        .finish(&cluster, client)
        .unwrap_or_else(|why| panic!("{why}"));
    cluster.wait_for_workers(WORKERS);

    let client = rounds.start(&cluster);
    wait_for_nodes(&cluster);
    for worker in 0..WORKERS {
        cluster.kill_worker(worker);
    }
    for worker in 0..WORKERS {
        cluster.start_worker(worker);
    }
    rounds
        .finish(&cluster, client)
        .unwrap_or_else(|why| panic!("{why}"));
    cluster.wait_for_workers(WORKERS);
    assert!(!cluster.logs().contains("panicked"), "{}", cluster.logs());
}

/// F24: the wall clocks of a worker and of the coordinator jump while nodes run.
#[test]
fn clocks_that_jump_expire_nobody() {
    let test = "clocks_that_jump_expire_nobody";
    let library = skip!(test, crate::clock::libfaketime());
    let settings = ClusterSettings {
        clocks: Some(library),
        ..impatient(2)
    };
    let cluster = TestCluster::here(dagrun(), 2, settings);
    let mut rounds = Rounds::new(&cluster, 12);
    for (who, jump) in [
        ("w0", "+3600"),
        ("w1", "-3600"),
        ("coordinator", "-3600"),
        ("coordinator", "+3600"),
    ] {
        let client = rounds.start(&cluster);
        wait_for_nodes(&cluster);
        cluster.set_clock(who, jump);
        let told = rounds
            .finish(&cluster, client)
            .unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(
            (told.attempts, told.drivers),
            (25, 1),
            "{who} {jump}\n{}",
            cluster.logs()
        );
    }
}

/// F49 and F14: a node that kills its worker each time is blamed after three, and others go on.
#[test]
fn a_node_that_kills_its_workers_is_stopped() {
    let project = Project::new(
        "name: killer\njobs:\n  bad: {run: 'kill -9 $(cut -d\" \" -f4 /proc/$PPID/stat); sleep 60'}\n  good: {matrix: {n: [1, 2, 3, 4]}, outputs: {o: o}, run: 'echo ${{ matrix.n }} > o'}\n",
    );
    let said = project.fails(1, &["run", "pipeline.yaml", "--workers", "4", "-j", "4"]);
    said.has("bad")
        .has("lost")
        .has("worker gone: the connection to worker");
    assert_eq!(project.counts(), [4, 0, 1, 0, 0]);
    assert_eq!(project.executed(), 3 + 4);
}

/// F45: results of a machine that was found to be broken are forgotten by its name, and made again.
#[test]
fn results_of_a_broken_machine_are_forgotten() {
    let cluster = TestCluster::here(dagrun(), 2, impatient(1));
    let mut rounds = Rounds::new(&cluster, 6);
    let client = rounds.start(&cluster);
    rounds
        .finish(&cluster, client)
        .unwrap_or_else(|why| panic!("{why}"));
    let evict = |args: &[&str]| -> serde_json::Value {
        let mut command = cluster.on_cache("coordinator", &["cache", "evict", "--json"]);
        let said = command.args(args).output().expect("dagrun can be started");
        assert!(said.status.success(), "{said:?}");
        serde_json::from_slice(&said.stdout).expect("JSON")
    };
    let count = |host: &str| {
        evict(&["--host", host, "--dry-run"])["entries"]
            .as_u64()
            .unwrap()
    };
    let (bad, good) = (count("w0"), count("w1"));
    assert_eq!(bad + good, 13);
    assert!(bad > 0 && good > 0, "{bad} {good}");
    assert_eq!(
        evict(&["--host", "w0", "--since", "2999-01-01T00:00:00Z"])["entries"],
        0
    );
    assert_eq!(evict(&["--host", "w0", "--since", "1h"])["entries"], bad);
    assert_eq!((count("w0"), count("w1")), (0, good));
    let told = rounds.again(&cluster).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(told.attempts, bad);
}

/// F16: a worker is killed at each of its syncs and renames while it hands in large results: there is no entry without its blobs.
#[test]
fn a_worker_that_is_killed_while_it_hands_in_leaves_no_half_result() {
    let test = "a_worker_that_is_killed_while_it_hands_in_leaves_no_half_result";
    let strace = skip!(test, dagrun_testkit::require_program("strace"));
    for (calls, when) in [
        ("fsync,fdatasync", 1),
        ("/^rename", 1),
        ("sendto,sendmsg,writev", 3),
        ("sendto,sendmsg,writev", 6),
    ] {
        hands_in(&strace, calls, when);
    }
}

fn hands_in(strace: &Path, calls: &str, when: u32) {
    let mut cluster = TestCluster::here(dagrun(), 1, impatient(1));
    let project = Project::new(
        "name: large\njobs: {a: {outputs: {o: o}, run: 'head -c 5000000 /dev/zero | tr \\\\0 x > o'}}\nexport: {o: '${{ jobs.a.outputs.o }}'}\n",
    );
    let mut tracer = trace(strace, cluster.worker(0), calls, when);
    let mut client = cluster.client(&project.dir(), &["pipeline.yaml", "--quiet"]);
    let client = client
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the worker is killed", || {
        tracer.try_wait().is_ok_and(|ended| ended.is_some())
    });
    cluster.kill_worker(0);
    cluster.start_worker(0);
    let said = said(client.wait_with_output().unwrap());
    assert_eq!(
        said.code,
        0,
        "{calls} {when}: {}\n{}",
        said.stderr,
        cluster.logs()
    );
    let bytes = project.read_bytes("o");
    assert!(bytes.len() == 5_000_000 && bytes.iter().all(|byte| *byte == b'x'));
    assert!(project.executed() >= 1);
    cluster
        .verify_cache()
        .unwrap_or_else(|why| panic!("{calls} {when}: {why}"));
}

/// Attaches to a process that waits, and kills it at one of the next system calls of a kind.
fn trace(strace: &Path, child: &Child, calls: &str, when: u32) -> Child {
    let told: PathBuf = std::env::temp_dir().join(format!("dagrun-trace-{}", child.id()));
    let mut command = std::process::Command::new(strace);
    let tracer = command
        .args(["-f", "-qq", "-o"])
        .arg(&told)
        .args(["-e", &format!("trace={calls}")])
        .args(["-e", &format!("inject={calls}:signal=KILL:when={when}")])
        .args(["-p", &child.id().to_string()])
        .stderr(Stdio::null())
        .spawn()
        .expect("strace can be started");
    let status = format!("/proc/{}/status", child.id());
    wait_until("strace has attached", || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let traced = text
            .lines()
            .find_map(|line| line.strip_prefix("TracerPid:"));
        traced.is_some_and(|pid| pid.trim() != "0")
    });
    let _ = std::fs::remove_file(told);
    tracer
}

/// A worker is killed while it fetches what a node reads, and gives it to the node: nobody sees half of it, and the next one goes on.
#[test]
fn a_worker_that_is_killed_while_it_takes_in_leaves_no_half_blob() {
    let test = "a_worker_that_is_killed_while_it_takes_in_leaves_no_half_blob";
    let strace = skip!(test, dagrun_testkit::require_program("strace"));
    takes_in(&Victim::Receiving);
    for call in ["/^rename", "/^link", "fsync,fdatasync"] {
        takes_in(&Victim::At(&strace, call));
    }
    takes_in(&Victim::Node);
}

/// Who is killed, and when.
#[derive(Debug)]
enum Victim<'a> {
    /// The worker, when a part of the blob is there.
    Receiving,
    /// The worker, at its first system call of a kind.
    At(&'a Path, &'a str),
    /// The node, which has the blob.
    Node,
}

const LARGE: u64 = 60_000_000;

fn takes_in(victim: &Victim<'_>) {
    // What cannot be pressed takes its time.
    let make = format!(
        "  make: {{outputs: {{o: o, sum: sum}}, run: 'head -c {LARGE} /dev/urandom > o; cksum < o > sum'}}\n"
    );
    let mut cluster = TestCluster::here(dagrun(), 1, impatient(1));
    // The one that makes it stays for what it runs, and takes nothing new.
    let holder = Project::new("");
    let at = holder.dir().display().to_string();
    holder.write(
        "pipeline.yaml",
        &format!(
            "name: holds\njobs:\n{make}  hold: {{needs: make, run: 'touch {at}/held; sleep 600'}}\n"
        ),
    );
    let mut held = cluster.client(&holder.dir(), &["pipeline.yaml", "--detach"]);
    assert!(held.output().unwrap().status.success());
    holder.wait_for("held");
    cluster.add_worker();
    cluster.wait_for_workers(2);
    assert!(cluster.say(&["cluster", "drain", "w0"]).status.success());
    let reader = Project::new(&format!(
        "name: reads\njobs:\n{make}  read:\n    needs: make\n    retry: 1\n    inputs: {{i: '${{{{ needs.make.outputs.o }}}}'}}\n    outputs: {{o: sum}}\n    run: |\n      if [ $DAGRUN_ATTEMPT = 1 ]; then head -c 1000000 ${{{{ inputs.i }}}} > part; kill -9 $$; fi\n      cksum < ${{{{ inputs.i }}}} > sum\nexport: {{made: '${{{{ jobs.make.outputs.sum }}}}', read: '${{{{ jobs.read.outputs.o }}}}'}}\n"
    ));
    let tracer = match victim {
        Victim::At(strace, call) => Some(trace(strace, cluster.worker(1), call, 1)),
        _ => None,
    };
    let mut client = cluster.client(&reader.dir(), &["pipeline.yaml", "--quiet"]);
    let client = client
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    match tracer {
        Some(mut tracer) => wait_until("the worker is killed", || {
            tracer.try_wait().is_ok_and(|ended| ended.is_some())
        }),
        None if matches!(victim, Victim::Receiving) => {
            let blobs = cluster.path("w1/blobs");
            let began = Instant::now();
            while !has_a_part(&blobs) {
                assert!(began.elapsed() < PATIENCE, "no part was ever there");
            }
        }
        None => {}
    }
    let verify = |cluster: &TestCluster, cache: &str| {
        let verified = cluster.on_cache(cache, &["cache", "verify"]).output();
        let verified = verified.unwrap();
        assert!(
            verified.status.success(),
            "{victim:?} {cache}: {verified:?}"
        );
    };
    if !matches!(victim, Victim::Node) {
        cluster.kill_worker(1);
        verify(&cluster, "w1");
        cluster.start_worker(1);
    }
    let said = said(client.wait_with_output().unwrap());
    assert_eq!(
        said.code,
        0,
        "{victim:?}: {}\n{}",
        said.stderr,
        cluster.logs()
    );
    assert_eq!(reader.read("read"), reader.read("made"), "{victim:?}");
    assert_eq!(reader.counts(), [1, 1, 0, 0, 0], "{victim:?}");
    verify(&cluster, "w0");
    verify(&cluster, "w1");
}

/// Whether something in a store's folders of blobs is a part of [`LARGE`].
fn has_a_part(blobs: &Path) -> bool {
    let entries = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let files = entries(blobs)
        .into_iter()
        .flat_map(|folder| entries(&folder));
    let sizes = files.filter_map(|file| Some(file.metadata().ok()?.len()));
    sizes
        .into_iter()
        .any(|size| (1_000_000..LARGE).contains(&size))
}
