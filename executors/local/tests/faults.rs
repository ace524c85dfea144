//! Faults that the local executor must survive; the numbers are those of docs/reliability.md.

mod common;
#[path = "common/limits.rs"]
mod limits;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use common::{PROGRAM, fixture, fixture_with};
use dagrun_executor_api::conformance::{Running, attempt, marked, output, shell, text_input};
use dagrun_model::{
    Action, Artifact, AttemptResult, AttemptSpec, BlobRef, Digest, FailureCause, InputSource,
    JsonType, Outcome, OutputSpec, RelPath, StagedInput,
};
use dagrun_store::{PutMode, Staging, Store, StoreOptions};
use dagrun_testkit::{SmallDisk, Unavailable, require_plain_copies, skip};
use limits::Limited;
use tempfile::TempDir;

fn folder() -> TempDir {
    TempDir::new().expect("a temporary folder")
}

fn running() -> Running {
    Running::new(fixture())
}

fn failure(result: &AttemptResult) -> &FailureCause {
    match &result.outcome {
        Outcome::Failed(cause) => cause,
        other => panic!("expected a failure, got {other:?}"),
    }
}

#[track_caller]
fn assert_success(result: &AttemptResult) {
    assert!(
        matches!(result.outcome, Outcome::Succeeded(_)),
        "{result:?}"
    );
}

/// The attempt could not be staged, since a blob that it reads is gone.
#[track_caller]
fn assert_blob_is_missed(result: &AttemptResult) {
    assert!(
        matches!(
            failure(result),
            FailureCause::Staging {
                missing_blob: true,
                ..
            }
        ),
        "{result:?}"
    );
}

/// Waits until something holds.
#[track_caller]
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "{what} did not come true"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A spawner that runs some shell before it becomes itself.
fn spawner_after(root: &Path, before: &str) -> PathBuf {
    let path = root.join("spawner.sh");
    fs::write(
        &path,
        format!("#!/bin/sh\n{before}\nexec {PROGRAM} \"$@\"\n"),
    )
    .expect("a script");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("chmod");
    path
}

fn mark(case: &str) -> String {
    format!("{case}-{}", std::process::id())
}

/// F01: nothing outlives an engine that is killed with -9, daemons that ignore TERM included.
#[test]
fn a_killed_engine_leaves_no_process() {
    let root = folder();
    let mark = mark("engine");
    let script = format!(
        "export MARK={mark}; trap '' TERM; setsid sleep 300 & sh -c 'sleep 300; sleep 300' & touch $ROOT/runs; sleep 300"
    );
    let mut engine = Command::new(PROGRAM)
        .arg(root.path())
        .arg(script)
        .spawn()
        .expect("an engine");
    eventually("the node's start", || {
        root.path().join("runs").exists() && marked(&mark).len() >= 3
    });
    engine.kill().expect("kill -9");
    engine.wait().expect("it is dead");
    eventually("the end of all processes", || marked(&mark).is_empty());
    eventually("the removal of the node's folder", || {
        !root.path().join("work/killed/n1").exists()
    });
}

/// F15: a killed spawner loses its attempts, leaves no process, and is replaced.
#[test]
fn a_killed_spawner_is_replaced() {
    let root = folder();
    let mut running = Running::new(fixture_with(root.path(), |_| {}));
    let mark = mark("spawner");
    let file = root.path().join("parent");
    for round in 0..2 {
        let script = "setsid sleep 300 & echo $PPID > $FILE.new; mv $FILE.new $FILE; sleep 300";
        let spec = |number| {
            shell(number, script, |action| {
                action.env = vec![
                    ("MARK".into(), mark.clone()),
                    ("FILE".into(), file.display().to_string()),
                ];
            })
        };
        running.submit(vec![spec(round * 10 + 1)]);
        eventually("the node's start", || file.exists());
        let spawner = fs::read_to_string(&file).expect("a pid");
        fs::remove_file(&file).expect("it was there");
        let killed = Command::new("kill").args(["-9", spawner.trim()]).status();
        assert!(killed.expect("kill runs").success());
        let result = running.end_of(round * 10 + 1);
        assert!(matches!(result.outcome, Outcome::Lost(_)), "{result:?}");
        assert_eq!(marked(&mark), Vec::<u32>::new());
        assert_success(&running.run(attempt(round * 10 + 2, &["true"])));
    }
}

/// F35: what a terminal or a batch system sends to all processes does not stop the spawner by itself.
#[test]
fn the_spawner_does_not_heed_signals() {
    let mut running = running();
    let result = running.run(shell(
        1,
        "for s in TERM HUP INT; do kill -$s $PPID; done; sleep 0.1; echo alive",
        |_| {},
    ));
    assert_eq!(running.stdout(&result), "alive\n");
    // And the node does not inherit any deafness.
    let result = running.run(shell(2, "kill -TERM $$; sleep 1", |_| {}));
    assert!(matches!(
        failure(&result),
        FailureCause::Signal { signal: 15, .. }
    ));
}

/// F51: a program that is no spawner is refused at once.
#[test]
fn another_program_is_no_spawner() {
    for program in ["/bin/true", "/bin/cat", "/no/such/program"] {
        let root = folder();
        let store =
            Store::open(&root.path().join("store"), StoreOptions::default()).expect("a store");
        let options = dagrun_local::LocalOptions::new(
            store,
            root.path(),
            root.path().join("work"),
            program,
            "r",
        );
        let error = dagrun_local::LocalExecutor::new(options).expect_err("it is none");
        assert!(error.to_string().contains(program), "{error}");
    }
}

/// F12: with few file descriptors nodes wait for each other, and with too few they say what to do.
#[test]
fn few_open_files_are_waited_for() {
    let root = folder();
    let mut running = Running::new(fixture_with(root.path(), |options| {
        options.spawner = spawner_after(root.path(), "ulimit -n 24");
        options.slots = 20;
    }));
    let count = 100;
    running.submit(
        (0..count)
            .map(|n| shell(n, "sleep 0.01; echo $DAGRUN_NODE", |_| {}))
            .collect(),
    );
    for number in 0..count {
        let result = running.end_of(number);
        assert_success(&result);
        assert_eq!(running.stdout(&result), format!("job[n={number}]\n"));
    }
    let root = folder();
    let mut running = Running::new(fixture_with(root.path(), |options| {
        options.spawner = spawner_after(root.path(), "ulimit -n 9");
    }));
    match failure(&running.run(attempt(1, &["true"]))) {
        FailureCause::Exec { errno, reason, .. } => {
            assert_eq!(errno, "EMFILE");
            assert!(reason.contains("ulimit -n"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

/// F13: a tree beyond its memory is killed as such, by cgroup where there is one and by looking where there is none.
#[test]
fn memory_is_limited() {
    for before in ["", "export DAGRUN_NO_CGROUP=1"] {
        let root = folder();
        let mut running = Running::new(fixture_with(root.path(), |options| {
            options.spawner = spawner_after(root.path(), before);
        }));
        let limit = 100 << 20;
        let eat = |number, megabytes: u64, rest: &str| {
            let script = format!("x = b'x' * ({megabytes} << 20); {rest}");
            let mut spec = shell(number, "python3 -c \"$SCRIPT\"", |action| {
                action.env.push(("SCRIPT".into(), script));
                action.limits.memory = limit;
            });
            spec.resources.memory = limit;
            spec
        };
        let result = running.run(eat(1, 400, "import time; time.sleep(60)"));
        match failure(&result) {
            FailureCause::OutOfMemory { limit: told, peak } => {
                assert_eq!(*told, limit);
                assert!(*peak >= limit * 9 / 10, "{peak}");
            }
            other => panic!("{before}: {other:?}"),
        }
        assert_success(&running.run(eat(2, 10, "print(len(x))")));
        // Errors of starting a program are the same with a limit.
        let mut spec = attempt(3, &["./missing"]);
        std::sync::Arc::make_mut(&mut spec.action).limits.memory = limit;
        let result = running.run(spec);
        assert!(
            matches!(failure(&result), FailureCause::Exec { errno, .. } if errno == "ENOENT"),
            "{result:?}"
        );
    }
}

/// Memory for a host, and nodes that fill it as they are told by files.
struct Filling {
    root: TempDir,
    group: Limited,
    limit: u64,
}

impl Filling {
    fn new(name: &str) -> Result<Self, Unavailable> {
        let limit = 1 << 30;
        Ok(Self {
            root: folder(),
            group: Limited::memory(name, limit)?,
            limit,
        })
    }

    fn running(&self) -> Running {
        let spawner = spawner_after(self.root.path(), &self.group.enter());
        Running::new(fixture_with(self.root.path(), |options| {
            options.spawner = spawner;
            options.slots = 2;
        }))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn make(&self, name: &str) {
        fs::write(self.file(name), "").expect("a file");
    }

    /// A node of a Python script that has `wait(FILE)`, `make(FILE)` and `fill(PART)`: what it takes so that so much of all is used.
    fn node(&self, number: u64, script: &str) -> AttemptSpec {
        let helpers = format!(
            "import os, time\nroot, kept = '{}/', []\n\
             def make(name): open(root + name, 'w').close()\n\
             def wait(name):\n  while not os.path.exists(root + name): time.sleep(0.01)\n\
             def used(): return int(open('{}').read()) / {}\n\
             def fill(part):\n  while used() < part: kept.append(b'x' * (2 << 20))\n",
            self.root.path().display(),
            self.group.usage(),
            self.limit,
        );
        shell(number, "python3 -c \"$SCRIPT\"", |action| {
            action
                .env
                .push(("SCRIPT".into(), format!("{helpers}{script}")));
        })
    }
}

/// Little memory is left: what comes next waits for the end of what runs, and says for how long.
#[test]
fn short_memory_holds_nodes_back() {
    let host = skip!("short_memory_holds_nodes_back", Filling::new("held"));
    let mut running = host.running();
    running.submit(vec![
        host.node(1, "fill(0.94); make('full'); wait('go'); make('over')"),
    ]);
    eventually("the memory is full", || host.file("full").exists());
    // A look that is older than this counts no more.
    std::thread::sleep(Duration::from_millis(600));
    running.submit(vec![host.node(2, "assert os.path.exists(root + 'over')")]);
    std::thread::sleep(Duration::from_millis(300));
    host.make("go");
    let (first, second) = (running.end_of(1), running.end_of(2));
    assert_success(&first);
    assert_success(&second);
    assert!(first.pressure.is_none(), "{:?}", first.pressure);
    let held = second.pressure.held;
    assert!(held > 0.25 && held <= second.phases.queue, "{held}");
}

/// Memory is nearly used up: the newest node is lost, so that the others can go on; it does not start again beside them.
#[test]
fn the_newest_node_gives_way_when_memory_is_used_up() {
    let host = skip!(
        "the_newest_node_gives_way_when_memory_is_used_up",
        Filling::new("displaced")
    );
    let mut running = host.running();
    running.submit(vec![host.node(
        1,
        "make('one'); wait('two'); fill(0.98); wait('lost'); kept.clear(); wait('go'); make('over')",
    )]);
    eventually("the first runs", || host.file("one").exists());
    running.submit(vec![host.node(2, "make('two'); time.sleep(300)")]);
    let lost = running.end_of(2);
    let Outcome::Lost(why) = &lost.outcome else {
        panic!("{lost:?}");
    };
    assert!(why.contains("the newest node of its host"), "{why}");
    assert!(why.contains("of 1024.0 MiB of memory were free"), "{why}");
    running.submit(vec![host.node(3, "assert os.path.exists(root + 'over')")]);
    host.make("lost");
    std::thread::sleep(Duration::from_millis(700));
    host.make("go");
    assert_success(&running.end_of(1));
    let third = running.end_of(3);
    assert_success(&third);
    assert!(third.pressure.held > 0.6, "{:?}", third.pressure);
}

/// Memory is used up before anybody has looked, and the kernel kills: beside others that is a loss, alone an end for want of memory.
#[test]
fn a_node_that_the_kernel_killed_for_its_memory_is_told_as_such() {
    let name = "a_node_that_the_kernel_killed_for_its_memory_is_told_as_such";
    let host = skip!(name, Filling::new("killed"));
    // Too small for a node, and nobody but the kernel watches it.
    let inner = skip!(name, Limited::memory("killed-inner", 64 << 20));
    let mut running = host.running();
    running.submit(vec![host.node(1, "make('one'); wait('go')")]);
    eventually("the first runs", || host.file("one").exists());
    let too_much = |number| {
        let script = format!(
            "{}; exec python3 -c \"x = b'x' * (1 << 28)\"",
            inner.enter()
        );
        shell(number, &script, |_| {})
    };
    let lost = running.run(too_much(2));
    let Outcome::Lost(why) = &lost.outcome else {
        panic!("{lost:?}");
    };
    assert!(why.contains("its host, 1024.0 MiB, was used up"), "{why}");
    host.make("go");
    assert_success(&running.end_of(1));
    match failure(&running.run(too_much(3))) {
        FailureCause::OutOfMemory { limit, .. } => assert_eq!(*limit, host.limit),
        other => panic!("{other:?}"),
    }
}

/// What a CPU quota took from a node is told.
#[test]
fn throttled_time_is_told() {
    let group = skip!("throttled_time_is_told", Limited::cpu("throttled", 20));
    let root = folder();
    let mut running = Running::new(fixture_with(root.path(), |options| {
        options.spawner = spawner_after(root.path(), &group.enter());
    }));
    let script = "import time\nwhile time.process_time() < 0.3: pass";
    let result = running.run(shell(1, "python3 -c \"$SCRIPT\"", |action| {
        action.env.push(("SCRIPT".into(), script.into()));
    }));
    assert_success(&result);
    let throttled = result.pressure.throttled;
    assert!(throttled > 0.2, "{throttled}");
    assert!(result.pressure.held == 0.0);
}

/// F31: a program that is still being written is tried again.
#[test]
fn a_busy_program_is_tried_again() {
    let root = folder();
    let mut running = Running::new(fixture_with(root.path(), |_| {}));
    let program = root.path().join("prog");
    fs::copy("/bin/true", &program).expect("a copy");
    let writer = fs::File::options()
        .append(true)
        .open(&program)
        .expect("it can be written");
    let path = program.display().to_string();
    running.submit(vec![attempt(1, &[&path])]);
    std::thread::sleep(Duration::from_millis(60));
    drop(writer);
    assert_success(&running.end_of(1));
}

fn workspace_input(root: &Path, name: &str, text: &str) -> StagedInput {
    fs::write(root.join("project").join(name), text).expect("a file of the project");
    StagedInput {
        path: RelPath::new(name).expect("a plain name"),
        source: InputSource::Workspace {
            path: name.into(),
            blob: BlobRef {
                digest: Digest::of(text.as_bytes()),
                size: text.len() as u64,
                executable: false,
            },
        },
    }
}

/// F42: a workspace file that changes before or during the node is noticed; one that is only touched is not.
#[test]
fn changed_inputs_are_noticed() {
    let root = folder();
    let mut running = Running::new(fixture_with(root.path(), |_| {}));
    let project = root.path().join("project");
    let input = workspace_input(root.path(), "data.txt", "old");
    let reads = |number, script: &str| {
        shell(number, script, |action| {
            action.inputs = vec![input.clone()];
            action.env = vec![(
                "FILE".into(),
                project.join("data.txt").display().to_string(),
            )];
        })
    };
    let result = running.run(reads(1, "cat data.txt; sleep 0.02; touch $FILE"));
    assert_success(&result);
    assert_eq!(running.stdout(&result), "old");
    let changed = FailureCause::InputChanged {
        path: "data.txt".into(),
    };
    assert_eq!(
        failure(&running.run(reads(2, "printf new > $FILE"))),
        &changed
    );
    assert_eq!(failure(&running.run(reads(3, "echo never runs"))), &changed);
    fs::remove_file(project.join("data.txt")).expect("it was there");
    assert_eq!(failure(&running.run(reads(4, "true"))), &changed);
}

/// F43: a node that writes to a cached blob through its hard link fails, and the blob is out of use.
#[test]
fn altered_blobs_are_noticed() {
    let root = folder();
    let store = Store::open(&root.path().join("store"), StoreOptions::default()).expect("a store");
    let file = root.path().join("blob");
    fs::write(&file, "content").expect("a file");
    let blob = store.put_file(&file, PutMode::Copy).expect("a blob");
    let mut running = Running::new(fixture_with(root.path(), |options| {
        options.staging = Staging::HardLink;
    }));
    let uses = |number, script: &str| {
        shell(number, script, |action| {
            action.inputs = vec![StagedInput {
                path: RelPath::new("in/x").expect("a path"),
                source: InputSource::Stored(Artifact::File(blob)),
            }];
        })
    };
    assert_success(&running.run(uses(1, "cat in/x")));
    let result = running.run(uses(2, "chmod u+w in/x; echo more >> in/x"));
    assert_eq!(
        failure(&result),
        &FailureCause::BlobAltered {
            path: "in/x".into()
        }
    );
    let result = running.run(uses(3, "cat in/x"));
    assert_blob_is_missed(&result);
}

/// F43: a node may do with its input what it likes, where the store gave it a replica: it succeeds, and nobody reads what it wrote.
#[test]
fn a_node_that_alters_a_replica_alters_what_is_its_own() {
    let root = folder();
    skip!("F43", require_plain_copies(root.path()));
    let mut running = Running::new(fixture_with(root.path(), |_| {}));
    let store = Store::open(&root.path().join("store"), StoreOptions::default()).expect("a store");
    let bytes = vec![b'x'; 1 << 20];
    let digest = Digest::of(&bytes);
    store.receive_replica(&digest, &bytes).expect("a replica");
    let blob = BlobRef {
        digest,
        size: bytes.len() as u64,
        executable: false,
    };
    let uses = |number, script: &str| {
        shell(number, script, |action| {
            action.inputs = vec![StagedInput {
                path: RelPath::new("in/x").expect("a path"),
                source: InputSource::Stored(Artifact::File(blob)),
            }];
            action.outputs = vec![output("out")];
        })
    };
    let links = "stat -c %h in/x; cp in/x out";
    for number in 1..3 {
        let result = running.run(uses(number, links));
        assert_success(&result);
        assert_eq!(running.stdout(&result), "2\n", "attempt {number}");
    }
    let result = running.run(uses(3, "chmod u+w in/x; echo more >> in/x; mv in/x out"));
    let Outcome::Succeeded(outputs) = &result.outcome else {
        panic!("{result:?}");
    };
    assert_eq!(outputs["out"].size(), (1 << 20) + 5);
    assert!(!store.contains(&digest));
    let result = running.run(uses(4, links));
    assert_blob_is_missed(&result);
}

/// F40: an output that is a hard link to a staged input gives its bytes, and the store does not give the input away.
#[test]
fn an_output_may_be_a_hard_link_to_an_input() {
    for staging in [Staging::Auto, Staging::HardLink] {
        let root = folder();
        let store = Store::open(&root.path().join("store"), StoreOptions::default());
        let store = store.expect("a store");
        let blob = store.put_bytes(b"content").expect("a blob");
        let mut running = Running::new(fixture_with(root.path(), |options| {
            options.staging = staging;
        }));
        for number in 1..4 {
            let result = running.run(shell(number, "ln in/x out; cat in/x", |action| {
                action.inputs = vec![StagedInput {
                    path: RelPath::new("in/x").expect("a path"),
                    source: InputSource::Stored(Artifact::File(blob)),
                }];
                action.outputs = vec![output("out")];
            }));
            let Outcome::Succeeded(outputs) = &result.outcome else {
                panic!("{result:?}");
            };
            assert_eq!(outputs["out"].blob_digest(), Some(blob.digest));
            assert_eq!(running.stdout(&result), "content");
            assert_eq!(store.read(&blob.digest).expect("it is there"), b"content");
        }
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// F59: a secret's value reaches no file, however it is printed.
#[test]
fn secrets_are_masked() {
    let root = folder();
    let secret = "canary-7f3a9";
    let mut running = Running::new(fixture_with(root.path(), |options| {
        options.secrets.insert("TOKEN".into(), secret.into());
        options.secrets.insert("UNUSED".into(), "x".into());
    }));
    let with_secret = |number, script: &str| {
        shell(number, script, |action| {
            action.secrets = vec!["TOKEN".into()]
        })
    };
    let script = "printf 'a %s ' $TOKEN; printf canary-; sleep 0.1; printf '7f3a9 z\n'; env | grep TOKEN >&2; \
                  head -c 100000 /dev/zero | tr '\\0' x; echo $TOKEN; exit 3";
    let mut spec = with_secret(1, script);
    spec.keep_failed = true;
    let result = running.run(spec);
    let text = running.stdout(&result);
    assert!(
        text.starts_with("a *** *** z\n") && text.ends_with("x***\n"),
        "{}",
        &text[..20]
    );
    let stderr = result.stderr.as_ref().expect("there is one");
    assert!(stderr.tail.contains("TOKEN=***"), "{}", stderr.tail);
    for file in files_below(root.path()) {
        let bytes = fs::read(&file).unwrap_or_default();
        let found = bytes
            .windows(secret.len())
            .any(|part| part == secret.as_bytes());
        assert!(!found, "{} holds the secret", file.display());
    }
    let missing = running.run(shell(2, "true", |action| {
        action.secrets = vec!["NO_SUCH_SECRET_HERE".into()]
    }));
    assert_eq!(
        failure(&missing),
        &FailureCause::MissingSecret {
            name: "NO_SUCH_SECRET_HERE".into()
        }
    );
}

type Change = fn(&mut Action);

/// F09: a full disk is called that, whoever meets it, and the worker goes on.
#[test]
fn a_full_disk_is_said_to_be_full() {
    let root = folder();
    let disk = skip!("F09", SmallDisk::new(1 << 20, None));
    let mut running = Running::new(fixture_with(root.path(), |options| {
        options.work_dir = disk.path().join("work")
    }));
    let big = workspace_input(root.path(), "big", &"x".repeat(2 << 20));
    let cases: [(&str, Change); 3] = [
        ("head -c 5000000 /dev/zero > file", |_| {}),
        ("head -c 5000000 /dev/zero", |_| {}),
        ("head -c 5000000 /dev/zero", |action| {
            action.stdout = RelPath::new("out").ok();
            action.outputs = vec![output("out")];
        }),
    ];
    for (number, (script, change)) in (1..).zip(cases) {
        let result = running.run(shell(number, script, change));
        assert!(
            matches!(failure(&result), FailureCause::DiskFull { .. }),
            "{script}: {result:?}"
        );
    }
    let result = running.run(shell(9, "true", |action| action.inputs = vec![big]));
    assert!(
        matches!(failure(&result), FailureCause::DiskFull { .. }),
        "{result:?}"
    );
    // One that met it beside another, which was cleared away before this one was looked at.
    let beside = running.run(shell(10, "exit 3", |_| {}));
    assert!(
        matches!(failure(&beside), FailureCause::DiskFull { .. }),
        "{beside:?}"
    );
    // What was explained by it explains nothing more: the second of these comes too late.
    running.run(shell(13, "sleep 0.7; exit 3", |_| {}));
    let late = running.run(shell(14, "sleep 0.7; exit 3", |_| {}));
    assert!(
        matches!(failure(&late), FailureCause::Exit { code: 3, .. }),
        "{late:?}"
    );
    assert_success(&running.run(shell(11, "echo x > file; cat file; sleep 1.1", |_| {})));
    let own = running.run(shell(12, "exit 3", |_| {}));
    assert!(
        matches!(failure(&own), FailureCause::Exit { code: 3, .. }),
        "{own:?}"
    );
    running.shutdown();
}

fn json(name: &str, path: &str, pointer: &str, ty: JsonType) -> OutputSpec {
    OutputSpec {
        name: name.into(),
        json: Some((pointer.into(), ty)),
        ..output(path)
    }
}

/// F37, F39: values are read from JSON; what is wrong with them is said.
#[test]
fn json_outputs_are_values() {
    let mut running = running();
    let outputs = vec![
        json("loss", "out/m.json", "/loss", JsonType::Number),
        json("name", "out/m.json", "/name", JsonType::String),
        output("out/m.json"),
        output("out"),
    ];
    let writes = |number, text: &str| {
        shell(number, "printf %s \"$TEXT\" > out/m.json", |action| {
            action.env.push(("TEXT".into(), text.into()));
            action.outputs = outputs.clone();
        })
    };
    let result = running.run(writes(1, r#"{"loss": 0.25, "name": "a"}"#));
    let Outcome::Succeeded(outputs) = &result.outcome else {
        panic!("{result:?}");
    };
    assert!(matches!(&outputs["loss"], Artifact::Value { value, .. } if *value == 0.25));
    assert!(matches!(&outputs["name"], Artifact::Value { value, .. } if value == "a"));
    assert!(matches!(&outputs["out/m.json"], Artifact::File(_)));
    assert!(matches!(&outputs["out"], Artifact::Tree { files: 1, .. }));
    for (number, text, part) in [
        (2, r#"{"loss": nan, "name": "a"}"#, "`nan`"),
        (3, r#"{"loss": "1", "name": "a"}"#, "expected a number"),
    ] {
        match failure(&running.run(writes(number, text))) {
            FailureCause::BadOutput { name, reason } => {
                assert_eq!(name, "loss");
                assert!(reason.contains(part), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_standard_output_may_be_an_output() {
    let mut running = running();
    let result = running.run(shell(1, "echo a; echo b >&2", |action| {
        action.stdout = RelPath::new("d/out.txt").ok();
        action.outputs = vec![output("d/out.txt")];
    }));
    let Outcome::Succeeded(outputs) = &result.outcome else {
        panic!("{result:?}");
    };
    let digest = outputs["d/out.txt"].blob_digest().expect("a file");
    assert_eq!((running.text(&digest), result.stdout), ("a\n".into(), None));
}

#[test]
fn folders_of_failed_nodes_are_kept_on_demand() {
    let mut running = running();
    let mut spec = shell(1, "echo x > found; exit 1", |action| {
        action.inputs = vec![text_input("a", "b")]
    });
    spec.keep_failed = true;
    let kept = running.run(spec).kept_folder.expect("it was asked for");
    assert!(kept.contains("job_n_1_"), "{kept}");
    assert_eq!(
        fs::read_to_string(Path::new(&kept).join("found")).expect("it is there"),
        "x\n"
    );
    let mut fine = shell(2, "true", |_| {});
    fine.keep_failed = true;
    assert_eq!(running.run(fine).kept_folder, None);
}
