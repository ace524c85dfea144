//! The suite that every executor runs: what it does with attempts, seen from outside.
//!
//! An implementation gives a [`Fixture`] and calls [`conformance_tests!`](crate::conformance_tests), which makes a test of each
//! case. Nodes are `sh` one-liners, so the suite needs a Unix system. Some cases look for processes and so need the nodes to run
//! on this machine.

use std::{
    collections::BTreeMap,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use dagrun_model::{
    Action, ActionCommand, Artifact, AttemptId, AttemptResult, AttemptSpec, Digest, FailureCause,
    InputSource, Limits, NodeIx, Outcome, OutputSpec, RelPath, Resources, StagedInput, WorkerIx,
};
use tokio::sync::mpsc::{UnboundedReceiver, error::TryRecvError, unbounded_channel};

use crate::{Executor, ExecutorEvent, WorkerInfo};

/// Makes each of the named cases a test that runs it on a fresh fixture.
#[macro_export]
macro_rules! conformance_tests {
    ($fixture:path) => {
        $crate::conformance_tests!(@each $fixture:
            success_gives_outputs_and_logs exit_codes_and_signals_are_told_apart programs_that_cannot_start_say_why
            steps_run_in_order_until_one_fails timeouts_end_the_tree cancelling_ends_what_waits_and_what_runs
            a_kill_ends_what_it_names_alone
            what_has_not_begun_is_given_back missing_outputs_are_failures daemons_do_not_survive a_daemon_that_holds_the_output_does_not_delay
            large_logs_are_cut_in_the_middle binary_logs_are_kept_raw the_environment_is_what_is_declared
            the_folder_holds_what_is_declared many_at_once_end_once_each shutdown_leaves_nothing
            links_and_pipes_are_no_outputs the_tree_is_measured);
    };
    (@each $fixture:path: $($case:ident)*) => {
        $(#[test]
        fn $case() {
            $crate::conformance::$case($fixture());
        })*
    };
}

/// Gives the bytes of a blob that is there.
pub type ReadBlob = Box<dyn Fn(&Digest) -> Vec<u8>>;

/// An executor that was not started yet, and the store that its blobs go to.
pub struct Fixture {
    /// The executor.
    pub executor: Box<dyn Executor>,
    /// Reads a blob of its store.
    pub read: ReadBlob,
    /// Whatever has to live as long as the executor, such as its folders.
    pub keep: Box<dyn std::any::Any>,
}

/// An attempt at an action of one command and nothing else. `number` tells attempts apart.
pub fn attempt(number: u64, argv: &[&str]) -> AttemptSpec {
    let command = ActionCommand {
        name: String::new(),
        argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
        script: None,
        env: Vec::new(),
    };
    AttemptSpec {
        attempt: AttemptId(number),
        node: NodeIx(number as u32),
        id: format!("job[n={number}]"),
        number: 1,
        action: Arc::new(Action {
            digest: Digest::of(&number.to_le_bytes()),
            commands: vec![command],
            env: Vec::new(),
            pass_env: Vec::new(),
            secrets: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            stdout: None,
            limits: Limits::default(),
        }),
        resources: Resources::default(),
        keep_failed: false,
        run: None,
    }
}

/// An attempt at a shell script, with the action changed as the case needs it.
pub fn shell(number: u64, script: &str, change: impl FnOnce(&mut Action)) -> AttemptSpec {
    let mut spec = attempt(number, &["sh", "-c", script]);
    change(Arc::get_mut(&mut spec.action).expect("it was just made"));
    spec
}

/// A file or folder as an output of its own path's name.
pub fn output(path: &str) -> OutputSpec {
    OutputSpec {
        name: path.into(),
        path: RelPath::new(path).expect("tests name proper paths"),
        json: None,
        optional: false,
    }
}

/// A text as an input.
pub fn text_input(path: &str, text: &str) -> StagedInput {
    StagedInput {
        path: RelPath::new(path).expect("tests name proper paths"),
        source: InputSource::Text(text.into()),
    }
}

/// A started executor with what it said.
pub struct Running {
    fixture: Fixture,
    events: UnboundedReceiver<ExecutorEvent>,
    worker: WorkerIx,
    info: Option<WorkerInfo>,
    ends: BTreeMap<AttemptId, AttemptResult>,
    started: Vec<AttemptId>,
}

/// Far more than any case takes.
const PATIENCE: Duration = Duration::from_secs(60);

impl Running {
    /// Starts the executor and waits for a worker.
    pub fn new(fixture: Fixture) -> Self {
        let (sender, events) = unbounded_channel();
        fixture.executor.start(sender);
        let mut running = Self {
            fixture,
            events,
            worker: WorkerIx(0),
            info: None,
            ends: BTreeMap::new(),
            started: Vec::new(),
        };
        let ExecutorEvent::WorkerJoined(info) = running.next() else {
            panic!("the first event is a worker");
        };
        assert!(info.capacity.cpu_milli > 0);
        running.worker = info.worker;
        running.info = Some(info);
        running
    }

    fn next(&mut self) -> ExecutorEvent {
        let began = Instant::now();
        loop {
            match self.events.try_recv() {
                Ok(event) => return event,
                Err(TryRecvError::Disconnected) => panic!("the executor went away"),
                Err(TryRecvError::Empty) => std::thread::sleep(Duration::from_millis(1)),
            }
            assert!(
                began.elapsed() < PATIENCE,
                "nothing happens; so far ended: {:?}",
                self.ends
            );
        }
    }

    /// Takes the next event, and checks what holds for all.
    fn step(&mut self) {
        match self.next() {
            ExecutorEvent::Started(id) => self.started.push(id),
            ExecutorEvent::Ended(id, result) => {
                let earlier = self.ends.insert(id, *result);
                assert!(earlier.is_none(), "{id} ended twice");
            }
            _ => {}
        }
    }

    /// Gives the executor attempts.
    pub fn submit(&mut self, attempts: Vec<AttemptSpec>) {
        self.fixture.executor.submit(self.worker, attempts);
    }

    /// The executor itself.
    pub fn executor(&self) -> &dyn Executor {
        &*self.fixture.executor
    }

    /// Waits until an attempt's process runs.
    pub fn wait_started(&mut self, number: u64) {
        while !self.started.contains(&AttemptId(number)) {
            assert!(
                !self.ends.contains_key(&AttemptId(number)),
                "{:?}",
                self.ends
            );
            self.step();
        }
    }

    /// Waits for an attempt's end.
    pub fn end_of(&mut self, number: u64) -> AttemptResult {
        while !self.ends.contains_key(&AttemptId(number)) {
            self.step();
        }
        self.ends[&AttemptId(number)].clone()
    }

    /// Runs one attempt to its end.
    pub fn run(&mut self, spec: AttemptSpec) -> AttemptResult {
        let number = spec.attempt.0;
        self.submit(vec![spec]);
        self.end_of(number)
    }

    /// The text of a blob.
    pub fn text(&self, digest: &Digest) -> String {
        String::from_utf8_lossy(&(self.fixture.read)(digest)).into_owned()
    }

    /// The standard output of an attempt.
    pub fn stdout(&self, result: &AttemptResult) -> String {
        let log = result.stdout.as_ref();
        log.map_or_else(String::new, |log| self.text(&log.blob.digest))
    }

    /// Shuts down and takes what is left to be said.
    pub fn shutdown(mut self) -> BTreeMap<AttemptId, AttemptResult> {
        self.fixture.executor.shutdown();
        while let Ok(event) = self.events.try_recv() {
            if let ExecutorEvent::Ended(id, result) = event {
                assert!(self.ends.insert(id, *result).is_none(), "{id} ended twice");
            }
        }
        self.ends
    }
}

/// A value for the environment by which a case finds its own processes.
fn marker(case: &str) -> String {
    format!("{case}-{}", std::process::id())
}

/// The processes of this machine that have `MARK=mark` in their environment.
pub fn marked(mark: &str) -> Vec<u32> {
    let wanted = format!("MARK={mark}");
    let alive = |pid: &u32| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ
            .split(|b| *b == 0)
            .any(|var| var == wanted.as_bytes())
    };
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(alive)
        .collect()
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

/// A success has its outputs and logs in the store.
pub fn success_gives_outputs_and_logs(fixture: Fixture) {
    let mut running = Running::new(fixture);
    let script = "cat in/data.txt > out/copy.txt; mkdir -p tree/sub; echo x > tree/sub/f; echo hello; echo oops >&2";
    let result = running.run(shell(1, script, |action| {
        action.inputs = vec![text_input("in/data.txt", "payload\n")];
        action.outputs = vec![
            output("out/copy.txt"),
            output("tree"),
            OutputSpec {
                optional: true,
                ..output("never.txt")
            },
        ];
    }));
    let Outcome::Succeeded(outputs) = &result.outcome else {
        panic!("{result:?}");
    };
    let names: Vec<&String> = outputs.keys().collect();
    assert_eq!(names, ["out/copy.txt", "tree", "never.txt"]);
    let digest = outputs["out/copy.txt"]
        .blob_digest()
        .expect("a file has a digest");
    assert_eq!(running.text(&digest), "payload\n");
    assert!(matches!(
        outputs["tree"],
        Artifact::Tree {
            files: 1,
            size: 2,
            ..
        }
    ));
    assert_eq!(outputs["never.txt"], Artifact::Absent);
    assert_eq!(running.stdout(&result), "hello\n");
    assert_eq!(
        result.stderr.as_ref().map(|log| log.tail.as_str()),
        Some("oops\n")
    );
    assert_eq!((result.leaked, result.kept_folder), (0, None));
    let silent = running.run(attempt(2, &["true"]));
    assert_success(&silent);
    assert_eq!((silent.stdout, silent.stderr), (None, None));
}

/// An exit code, a signal: each is its own cause.
pub fn exit_codes_and_signals_are_told_apart(fixture: Fixture) {
    let mut running = Running::new(fixture);
    let step = String::new;
    let cases = [
        (
            "exit 3",
            FailureCause::Exit {
                code: 3,
                step: step(),
            },
        ),
        (
            "exit 143",
            FailureCause::Exit {
                code: 143,
                step: step(),
            },
        ),
        (
            "kill -TERM $$",
            FailureCause::Signal {
                signal: 15,
                core: false,
                step: step(),
            },
        ),
        (
            "kill -KILL $$",
            FailureCause::Signal {
                signal: 9,
                core: false,
                step: step(),
            },
        ),
    ];
    for (number, (script, expected)) in (1..).zip(cases) {
        let result = running.run(shell(number, script, |_| {}));
        assert_eq!(failure(&result), &expected, "{script}");
    }
}

/// A program that cannot be started names the error and its reason.
pub fn programs_that_cannot_start_say_why(fixture: Fixture) {
    let mut running = Running::new(fixture);
    let plain = |number, program: &str| {
        let mut spec = attempt(number, &[program]);
        let action = Arc::get_mut(&mut spec.action).expect("it was just made");
        action.inputs = vec![
            text_input("broken", "#!/no/such/interpreter\n"),
            text_input("plain", "echo hello\n"),
        ];
        spec
    };
    let mut long = attempt(9, &["true"]);
    let action = Arc::get_mut(&mut long.action).expect("it was just made");
    action.commands[0].argv.push("x".repeat(200 << 10));
    let cases = [
        (plain(1, "no-such-program-anywhere"), "ENOENT", "PATH"),
        (plain(2, "./missing"), "ENOENT", "no such file"),
        (plain(3, "./plain"), "EACCES", "not executable"),
        (plain(4, "/etc"), "EACCES", "folder"),
        (long, "E2BIG", "inputs.NAME.list"),
    ];
    for (spec, name, part) in cases {
        match failure(&running.run(spec)) {
            FailureCause::Exec { errno, reason, .. } => {
                assert_eq!(errno, name);
                assert!(reason.contains(part), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Steps share the folder; the first failure ends the attempt and is named.
pub fn steps_run_in_order_until_one_fails(fixture: Fixture) {
    let mut running = Running::new(fixture);
    let steps = |number, scripts: &[&str]| {
        let mut spec = attempt(number, &[]);
        let action = Arc::get_mut(&mut spec.action).expect("it was just made");
        let step = |(at, script): (usize, &&str)| ActionCommand {
            name: format!("s{at}"),
            argv: vec!["sh".into()],
            script: Some((*script).to_owned()),
            env: vec![("STEP".into(), at.to_string())],
        };
        action.commands = scripts.iter().enumerate().map(step).collect();
        spec
    };
    let result = running.run(steps(1, &["echo $STEP > f", "cat f; echo $STEP"]));
    assert_success(&result);
    assert_eq!(running.stdout(&result), "0\n1\n");
    let result = running.run(steps(2, &["echo a", "exit 4", "echo c"]));
    assert_eq!(
        failure(&result),
        &FailureCause::Exit {
            code: 4,
            step: "s1".into()
        }
    );
    assert_eq!(running.stdout(&result), "a\n");
}

/// A timeout ends the whole tree, also where TERM is ignored.
pub fn timeouts_end_the_tree(fixture: Fixture) {
    let mut running = Running::new(fixture);
    let limits = |action: &mut Action, mark: &str| {
        action.limits.timeout = Some(Duration::from_millis(200));
        action.limits.grace = Duration::from_millis(200);
        action.env.push(("MARK".into(), mark.into()));
    };
    let mark = marker("timeout");
    let stubborn = "trap '' TERM; sh -c 'trap \"\" TERM; sleep 300' & sleep 300; sleep 300";
    for (number, script) in [
        (1, "sleep 300"),
        (2, stubborn),
        (3, "setsid sleep 300 & sleep 300"),
    ] {
        let result = running.run(shell(number, script, |action| limits(action, &mark)));
        assert!(
            matches!(result.outcome, Outcome::TimedOut(after) if after >= 0.2),
            "{script}: {result:?}"
        );
        assert_eq!(marked(&mark), Vec::<u32>::new(), "{script}");
    }
    let polite = "trap 'echo bye; exit 0' TERM; sleep 300 & wait";
    let result = running.run(shell(4, polite, |action| {
        limits(action, &mark);
        action.limits.grace = PATIENCE;
    }));
    assert!(matches!(result.outcome, Outcome::TimedOut(_)), "{result:?}");
    assert_eq!(running.stdout(&result), "bye\n");
}

/// Cancelled attempts end as cancelled wherever they are; unknown ones are ignored.
pub fn cancelling_ends_what_waits_and_what_runs(fixture: Fixture) {
    let mut running = Running::new(fixture);
    let mark = marker("cancel");
    let stubborn = |number| {
        shell(number, "trap '' TERM; sleep 300; sleep 300", |action| {
            action.env.push(("MARK".into(), mark.clone()));
            action.limits.grace = Duration::from_secs(600);
        })
    };
    let waiting = (10..200).map(|number| attempt(number, &["sleep", "300"]));
    running.submit(std::iter::once(stubborn(1)).chain(waiting).collect());
    running.wait_started(1);
    let ids: Vec<AttemptId> = (10..200).map(AttemptId).collect();
    running.executor().cancel(&ids, false);
    running
        .executor()
        .cancel(&[AttemptId(1), AttemptId(99_999)], false);
    for id in ids {
        assert_eq!(running.end_of(id.0).outcome, Outcome::Cancelled);
    }
    running.executor().cancel(&[AttemptId(1)], true);
    assert_eq!(running.end_of(1).outcome, Outcome::Cancelled);
    assert_eq!(marked(&mark), Vec::<u32>::new());
    running.executor().cancel(&[AttemptId(1)], true);
    assert_success(&running.run(attempt(300, &["true"])));
}

/// What runs beside an attempt that was killed goes on, also when the time that the kill may take is over.
pub fn a_kill_ends_what_it_names_alone(fixture: Fixture) {
    let mut running = Running::new(fixture);
    running.submit(vec![
        attempt(1, &["sleep", "60"]),
        attempt(2, &["sleep", "3"]),
    ]);
    running.wait_started(1);
    running.wait_started(2);
    running.executor().cancel(&[AttemptId(1)], true);
    assert_eq!(running.end_of(1).outcome, Outcome::Cancelled);
    let other = running.end_of(2);
    assert!(matches!(other.outcome, Outcome::Succeeded(_)), "{other:?}");
}

/// What an executor holds beyond its room begins in order; what is asked back before it began ends as cancelled, and nothing else
/// does.
pub fn what_has_not_begun_is_given_back(fixture: Fixture) {
    let mut running = Running::new(fixture);
    let info = running.info.clone().expect("a worker joined");
    if info.ahead == 0 {
        return;
    }
    let gate = std::env::temp_dir().join(marker("gate"));
    let wait = format!("until [ -e '{}' ]; do sleep 0.01; done", gate.display());
    let mut specs = vec![shell(1, &wait, |_| {})];
    specs.extend((2..=5).map(|number| attempt(number, &["true"])));
    for spec in &mut specs {
        spec.resources.cpu_milli = info.capacity.cpu_milli;
    }
    running.submit(specs);
    running.wait_started(1);
    let back = [1, 3, 5, 99_999].map(AttemptId);
    running.executor().recall(&back);
    for number in [3, 5] {
        assert_eq!(running.end_of(number).outcome, Outcome::Cancelled);
    }
    std::fs::write(&gate, "").expect("the name is ours");
    for number in [1, 2, 4] {
        assert_success(&running.end_of(number));
    }
    let _ = std::fs::remove_file(&gate);
    let begun = |number| running.started.contains(&AttemptId(number));
    assert!(!begun(3) && !begun(5) && begun(4));
    assert!(running.ends[&AttemptId(4)].phases.queue > 0.0);
}

/// Exit 0 without a declared output is a failure that lists what is there instead.
pub fn missing_outputs_are_failures(fixture: Fixture) {
    let mut running = Running::new(fixture);
    let result = running.run(shell(
        1,
        "mkdir d; echo 1 > d/other.txt; echo 2 > result.cvs",
        |action| {
            action.inputs = vec![text_input("input.txt", "x")];
            action.outputs = vec![output("result.csv")];
        },
    ));
    match failure(&result) {
        FailureCause::MissingOutput { missing, found } => {
            assert_eq!(missing, &["result.csv"]);
            assert_eq!(found, &["d/other.txt", "result.cvs"]);
        }
        other => panic!("{other:?}"),
    }
}

/// A node ends with its main process; what it leaves is killed and counted.
pub fn daemons_do_not_survive(fixture: Fixture) {
    let mut running = Running::new(fixture);
    let mark = marker("daemon");
    let scripts = [
        "sleep 300 >/dev/null 2>&1 &",
        "setsid sh -c 'sleep 300 & sleep 300' >/dev/null 2>&1 & sleep 0.1",
        "(setsid sh -c 'sleep 300' >/dev/null 2>&1 &) ; sleep 0.1",
    ];
    for (number, script) in (1..).zip(scripts) {
        let result = running.run(shell(number, script, |action| {
            action.env.push(("MARK".into(), mark.clone()));
        }));
        assert_success(&result);
        assert!(result.leaked > 0, "{script}: {result:?}");
        assert_eq!(marked(&mark), Vec::<u32>::new(), "{script}");
    }
    // A daemon that hides where it comes from.
    let hidden = "env -i setsid sleep 54321 >/dev/null 2>&1 & sleep 0.1";
    let result = running.run(shell(9, hidden, |_| {}));
    assert_eq!(result.leaked, 1);
}

/// A daemon that keeps the standard output open does not hold up the end.
pub fn a_daemon_that_holds_the_output_does_not_delay(fixture: Fixture) {
    let mut running = Running::new(fixture);
    let result = running.run(shell(1, "echo before; setsid sleep 300 & exit 0", |_| {}));
    assert_success(&result);
    assert_eq!(running.stdout(&result), "before\n");
    assert!(result.leaked > 0);
}

/// Beyond the cap the head and the tail are kept, and all is counted.
pub fn large_logs_are_cut_in_the_middle(fixture: Fixture) {
    let mut running = Running::new(fixture);
    let script =
        "echo first; head -c 50000000 /dev/zero; echo; echo last; head -c 3000000 /dev/zero >&2";
    let result = running.run(shell(1, script, |action| action.limits.log_cap = 1 << 20));
    assert_success(&result);
    let log = result.stdout.as_ref().expect("there is a log");
    assert_eq!((log.total, log.blob.size), (50_000_012, 1 << 20));
    let kept = (running.fixture.read)(&log.blob.digest);
    assert!(kept.starts_with(b"first\n\0") && kept.ends_with(b"\0\nlast\n"));
    assert!(log.tail.ends_with("last\n"));
    assert_eq!(result.stderr.map(|log| log.total), Some(3_000_000));
}

/// Logs are bytes.
pub fn binary_logs_are_kept_raw(fixture: Fixture) {
    let mut running = Running::new(fixture);
    let result = running.run(shell(1, r"printf 'a\000\377\033[31m\r\n\303'", |_| {}));
    let log = result.stdout.as_ref().expect("there is a log");
    assert_eq!(
        (running.fixture.read)(&log.blob.digest),
        b"a\0\xff\x1b[31m\r\n\xc3"
    );
    assert!(log.tail.contains('\u{fffd}'));
}

/// A node sees what is declared, a short list, and who it is.
pub fn the_environment_is_what_is_declared(fixture: Fixture) {
    let mut running = Running::new(fixture);
    let result = running.run(shell(7, "env", |action| {
        action.env = vec![("DECLARED".into(), "a b\nc".into())];
        action.pass_env = vec!["CARGO_MANIFEST_DIR".into()];
    }));
    let text = running.stdout(&result);
    assert!(text.contains("DECLARED=a b\nc\n"), "{text}");
    assert!(
        text.contains("DAGRUN_NODE=job[n=7]\nDAGRUN_") || text.contains("DAGRUN_NODE=job[n=7]\n")
    );
    for name in [
        "PATH",
        "DAGRUN_ATTEMPT",
        "DAGRUN_ATTEMPT_TOKEN",
        "DAGRUN_RUN",
        "CARGO_MANIFEST_DIR",
    ] {
        assert!(
            text.lines()
                .any(|line| line.starts_with(&format!("{name}="))),
            "{name} is missing"
        );
    }
    // Cargo sets many variables for its tests, and none of them may come through undeclared.
    assert!(!text.contains("CARGO_PKG_NAME"), "{text}");
}

/// A node sees its inputs and nothing else, and cannot be asked for anything on its standard input.
pub fn the_folder_holds_what_is_declared(fixture: Fixture) {
    let mut running = Running::new(fixture);
    let result = running.run(shell(
        1,
        "find . -type f | sort; cat; test ! -w in/a || test $(id -u) = 0",
        |action| {
            action.inputs = vec![text_input("b", "x"), text_input("in/a", "y")];
        },
    ));
    assert_success(&result);
    assert_eq!(running.stdout(&result), "./b\n./in/a\n");
}

/// Many attempts, more than fit at once: each ends once, and each as itself.
pub fn many_at_once_end_once_each(fixture: Fixture) {
    let mut running = Running::new(fixture);
    let count = 300;
    let spec = |number: u64| {
        shell(number, "echo $0; exit $(($0 % 3))", |action| {
            action.commands[0].argv.push(number.to_string());
        })
    };
    running.submit((0..count).map(spec).collect());
    for number in 0..count {
        let result = running.end_of(number);
        let expected = match number % 3 {
            0 => Outcome::Succeeded(Default::default()),
            code => Outcome::Failed(FailureCause::Exit {
                code: code as i32,
                step: String::new(),
            }),
        };
        assert_eq!(result.outcome, expected);
        assert_eq!(running.stdout(&result), format!("{number}\n"));
    }
    assert_eq!(running.shutdown().len(), count as usize);
}

/// A shutdown ends everything that was submitted, and leaves no process.
pub fn shutdown_leaves_nothing(fixture: Fixture) {
    let mut running = Running::new(fixture);
    let mark = marker("shutdown");
    let script = "trap '' TERM; setsid sleep 300 & sleep 300; sleep 300";
    let spec = |number| {
        shell(number, script, |action| {
            action.env.push(("MARK".into(), mark.clone()))
        })
    };
    running.submit((1..30).map(spec).collect());
    running.wait_started(1);
    let ends = running.shutdown();
    assert_eq!(ends.len(), 29);
    assert!(
        ends.values().all(|end| end.outcome == Outcome::Cancelled),
        "{ends:?}"
    );
    assert_eq!(marked(&mark), Vec::<u32>::new());
}

/// Only files and folders of the node's own are outputs.
pub fn links_and_pipes_are_no_outputs(fixture: Fixture) {
    let mut running = Running::new(fixture);
    let scripts = [
        "ln -s /etc/passwd out",
        "mkfifo out",
        "ln -s /etc out",
        "ln -s nowhere out",
        "mkdir out; ln -s /etc/passwd out/x",
        "mkdir out; mkfifo out/x",
    ];
    for (number, script) in (1..).zip(scripts) {
        let result = running.run(shell(number, script, |action| {
            action.outputs = vec![output("out")]
        }));
        assert!(
            matches!(failure(&result), FailureCause::BadOutput { name, .. } if name == "out"),
            "{script}: {result:?}"
        );
    }
    let inside = running.run(shell(20, "echo x > real; ln -s real out", |action| {
        action.outputs = vec![output("out")]
    }));
    assert_success(&inside);
}

/// Time and CPU are those of the tree.
pub fn the_tree_is_measured(fixture: Fixture) {
    let mut running = Running::new(fixture);
    let burn = "sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done'";
    let result = running.run(shell(
        1,
        &format!("{burn} & {burn}; wait; sleep 0.1"),
        |action| {
            action.outputs = vec![OutputSpec {
                optional: true,
                ..output("x")
            }];
        },
    ));
    assert_success(&result);
    assert!(
        result.usage.cpu > 0.01 && result.usage.peak_memory > 100_000,
        "{:?}",
        result.usage
    );
    assert!(result.phases.compute >= 0.1, "{:?}", result.phases);
}
