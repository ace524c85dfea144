//! Ctrl-C, SIGTERM, kill -9, two dagruns at once, and going on afterwards.

use std::time::{Duration, Instant};

use dagrun_testkit::{ProcWatch, Pty, Subject, Unavailable, skip};

use crate::kit::{Project, dagrun, said, signal};

/// Six nodes that take a while, and one that gathers them. The mark of a `ProcWatch` reaches every process.
fn slow(seconds: &str) -> Project {
    let project = Project::new(&format!(
        r#"
dagrun: 1
name: slow
pass_env: [DAGRUN_TEST_MARK]
jobs:
  quick:
    outputs: {{o: o.txt}}
    run: echo quick > ${{{{ outputs.o }}}}; echo > {0}/started
  wait:
    needs: quick
    matrix: {{i: [1, 2, 3, 4, 5, 6]}}
    outputs: {{o: o.txt}}
    run: sleep {seconds}; echo ${{{{ matrix.i }}}} > ${{{{ outputs.o }}}}
  gather:
    needs: wait
    inputs: {{o: "${{{{ needs.wait.outputs.o }}}}"}}
    outputs: {{all: all.txt}}
    run: cat ${{{{ inputs.o }}}} > ${{{{ outputs.all }}}}
export:
  all.txt: ${{{{ jobs.gather.outputs.all }}}}
"#,
        "DIR"
    ));
    let text = project
        .read("pipeline.yaml")
        .replace("DIR", &project.dir().display().to_string());
    project.write("pipeline.yaml", &text);
    project
}

/// Starts a command that `watch` can find with all its nodes, and does not wait for it.
fn start_marked(project: &Project, watch: &ProcWatch, args: &[&str]) -> std::process::Child {
    let mut command = project.command(args);
    command
        .env(ProcWatch::NAME, watch.value())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

fn until(what: &str, seconds: u64, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(
            started.elapsed() < Duration::from_secs(seconds),
            "{what} did not happen in {seconds} s"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_interrupt_ends_the_nodes_and_resume_goes_on() {
    for name in ["INT", "TERM", "HUP"] {
        let project = slow("0.5");
        let watch = ProcWatch::new();
        let child = start_marked(&project, &watch, &["run", "-j", "2"]);
        project.wait_for("started");
        std::thread::sleep(Duration::from_millis(200));
        signal(&child, name);
        let said = said(child.wait_with_output().unwrap());
        assert_eq!(said.code, 130, "{said:?}");
        assert!(watch.alive().is_empty());
        let counts = project.counts();
        assert!(counts[0] >= 1 && counts[4] >= 1, "{counts:?}");
        project.ok(&["run"]);
        assert_eq!(project.read("all.txt"), "1\n2\n3\n4\n5\n6\n");
        assert!(project.counts()[1] >= 1, "what had ended before is a hit");
    }
}

/// The key reaches all processes of the terminal, not dagrun alone.
#[test]
fn ctrl_c_at_a_terminal_is_an_interrupt_and_a_second_one_kills() {
    let project = slow("300");
    project.write("dagrun.toml", "grace = \"60s\"\n");
    let watch = ProcWatch::new();
    let start = |project: &Project| {
        let mut command = project.command(&["run", "-j", "2"]);
        command.env(ProcWatch::NAME, watch.value());
        Pty::start(&command, 80, 24)
    };
    let mut pty = skip!(
        "ctrl_c_at_a_terminal_is_an_interrupt_and_a_second_one_kills",
        start(&project)
    );
    project.wait_for("started");
    until("the slow nodes start", 10, || watch.alive().len() >= 4);
    pty.press("\x03");
    let (code, shown) = pty.wait();
    assert_eq!(code, 130, "{shown}");
    assert!(watch.alive().is_empty());
    assert_eq!(project.counts()[0], 1, "`quick` had ended before");

    let text = project
        .read("pipeline.yaml")
        .replace("sleep 300", "trap '' TERM INT; sleep 300; sleep 300");
    project.write("pipeline.yaml", &text);
    let mut pty = start(&project).unwrap();
    until("the slow nodes start", 10, || watch.alive().len() >= 4);
    pty.press("\x03");
    until("the first is heard", 10, || pty.shown().contains("again"));
    let second = Instant::now();
    pty.press("\x03");
    let (code, shown) = pty.wait();
    assert_eq!(code, 130, "{shown}");
    // A second and some time to notice, on a machine that does other things.
    assert!(second.elapsed() < Duration::from_secs(3), "{shown}");
    assert!(watch.alive().is_empty());
    project.ok(&["show"]);
}

#[test]
fn a_second_interrupt_kills_nodes_that_ignore_the_first() {
    let project = Project::new("");
    project.write(
        "pipeline.yaml",
        &format!(
            "dagrun: 1\nname: deaf\njobs:\n  a:\n    run: |\n      trap '' TERM INT\n      echo > {}/started\n      while true; do sleep 0.1; done\n",
            project.dir().display()
        ),
    );
    let child = project.start(&["run"]);
    project.wait_for("started");
    signal(&child, "INT");
    std::thread::sleep(Duration::from_millis(300));
    let second = Instant::now();
    signal(&child, "INT");
    let said = said(child.wait_with_output().unwrap());
    assert_eq!(said.code, 130, "{said:?}");
    assert!(
        second.elapsed() < Duration::from_secs(4),
        "the second interrupt does not wait for the grace time"
    );
}

#[test]
fn nothing_survives_a_kill_of_the_engine() {
    let project = slow("300");
    let watch = ProcWatch::new();
    let mut command = project.command(&["run", "-j", "2"]);
    let mut child = command
        .env(ProcWatch::NAME, watch.value())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    project.wait_for("started");
    until("the slow nodes start", 10, || watch.alive().len() >= 4);
    child.kill().unwrap();
    child.wait().unwrap();
    until("all processes are gone", 10, || watch.alive().is_empty());
}

/// A spread of moments over a whole run, the same in every test run. `cargo xtask soak kill` takes a thousand of them.
#[test]
fn killed_at_random_times_it_goes_on_and_loses_nothing() {
    let root = tempfile::tempdir().unwrap();
    let mut subject = Subject::new(dagrun(), root.path(), root.path(), 6).unwrap();
    let (mut killed, mut reported) = (0, 0);
    for round in 0..12_u64 {
        // Each is killed twice and goes on twice: by a run that dies, and by one that ends.
        for more in [0, 31] {
            let mut child = subject.run().spawn().unwrap();
            std::thread::sleep(Duration::from_millis(5 + (round * 37) % 350 + more));
            killed += u32::from(child.try_wait().unwrap().is_none());
            if round % 3 == 2 && child.try_wait().unwrap().is_none() {
                // It dies while it stops.
                signal(&child, "INT");
                std::thread::sleep(Duration::from_millis(round * more % 40));
            }
            child.kill().unwrap();
            child.wait().unwrap();
            subject.note();
        }
        reported += subject.reported();
        subject.recover().unwrap();
        subject.next_round();
    }
    // How many of the 24 are still there to be killed depends on the machine.
    assert!(killed > 4 && reported > 12, "{killed} {reported}");
}

#[test]
fn charged_failures_survive_a_kill() {
    let project = Project::new("");
    let dir = project.dir().display().to_string();
    project.write(
        "pipeline.yaml",
        &format!(
            "dagrun: 1\nname: charged\njobs:\n  a:\n    retry: {{max: 2, backoff: 1s}}\n    run: echo x >> {dir}/attempts; exit 1\n"
        ),
    );
    let mut child = project.command(&["run", "--quiet"]).spawn().unwrap();
    project.wait_for("attempts");
    std::thread::sleep(Duration::from_millis(500));
    child.kill().unwrap();
    child.wait().unwrap();
    project.fails(1, &["run"]);
    assert_eq!(
        project.read("attempts").lines().count(),
        3,
        "one attempt and two retries, across the restart"
    );
}

#[test]
fn a_second_dagrun_is_told_who_runs() {
    let project = slow("5");
    let mut child = project.start(&["run"]);
    project.wait_for("started");
    let said = project.fails(3, &["run"]);
    let host = rustix::system::uname();
    said.has(&format!("process {} on ", child.id()))
        .has(&host.nodename().to_string_lossy())
        .has("since ");
    child.kill().unwrap();
    child.wait().unwrap();
    // The owner is dead: its lock is free by itself.
    project.ok(&["run", "--until", "quick"]);
}

#[test]
fn two_workspaces_share_one_cache_at_once() {
    let first = slow("0.2");
    let second = slow("0.2");
    let mut command = second.command(&["run"]);
    command.env("DAGRUN_CACHE", first.cache());
    let other = command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    first.ok(&["run"]);
    assert!(other.wait_with_output().unwrap().status.success());
    assert_eq!(second.read("all.txt"), first.read("all.txt"));
    first.ok(&["cache", "verify"]);
}

#[test]
fn gc_in_a_loop_takes_nothing_from_a_live_run() {
    let project = slow("0.2");
    let mut child = project.start(&["run", "-j", "2"]);
    while child.try_wait().unwrap().is_none() {
        project.ok(&["gc", "--max-age", "0s", "--max-size", "0"]);
    }
    let said = said(child.wait_with_output().unwrap());
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(project.read("all.txt"), "1\n2\n3\n4\n5\n6\n");
}

#[test]
fn what_forks_without_end_is_caught() {
    // One process at a time, that forks and ends, for ever: it is gone before anybody can look at it.
    let project = Project::new(
        r#"
dagrun: 1
name: runner
pass_env: [DAGRUN_TEST_MARK]
jobs:
  a:
    run: |
      python3 -c 'import os
      while True:
          if os.fork():
              os._exit(0)' &
      sleep 0.3
"#,
    );
    let watch = ProcWatch::new();
    let said = project
        .command(&["run"])
        .env(ProcWatch::NAME, watch.value())
        .output()
        .unwrap();
    let left = watch.alive().len();
    // Whatever the outcome of the test, the machine must not keep it.
    for _ in 0..1000 {
        if left == 0 || watch.kill() == 0 {
            break;
        }
    }
    assert!(said.status.success(), "{said:?}");
    assert_eq!(left, 0);
}

#[test]
fn a_second_interrupt_reaches_past_a_stopped_spawner() {
    let project = Project::new("");
    project.write(
        "pipeline.yaml",
        &format!(
            "dagrun: 1\nname: stopped\npass_env: [DAGRUN_TEST_MARK]\njobs:\n  a:\n    run: kill -STOP $PPID; echo > {}/started; sleep 300\n",
            project.dir().display()
        ),
    );
    let watch = ProcWatch::new();
    let child = start_marked(&project, &watch, &["run"]);
    project.wait_for("started");
    signal(&child, "INT");
    std::thread::sleep(Duration::from_millis(200));
    signal(&child, "INT");
    let said = said(child.wait_with_output().unwrap());
    assert_eq!(said.code, 130, "{said:?}");
    until("all processes are gone", 10, || watch.alive().is_empty());
}

#[test]
fn the_grace_time_is_a_setting() {
    let project = Project::new(
        "dagrun: 1\nname: deaf\njobs:\n  a:\n    timeout: 300ms\n    run: |\n      trap '' TERM\n      while true; do sleep 0.1; done\n",
    );
    project.write("dagrun.toml", "grace = \"300ms\"\n");
    let began = Instant::now();
    project.fails(1, &["run"]).has("timed out after 300 ms");
    // The default grace time alone is 5 s.
    assert!(
        began.elapsed() < Duration::from_millis(4900),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_spawner_that_is_stopped_is_replaced_and_its_nodes_run_again() {
    let project = Project::new("");
    project.write(
        "pipeline.yaml",
        &format!(
            "dagrun: 1\nname: stopped\npass_env: [DAGRUN_TEST_MARK]\njobs:\n  a:\n    timeout: 1s\n    run: |\n      [ -e {0}/started ] && exit 0\n      kill -STOP $PPID\n      echo > {0}/started\n      env -i sleep 299\n",
            project.dir().display()
        ),
    );
    let watch = ProcWatch::new();
    let child = start_marked(&project, &watch, &["run", "--events", "events"]);
    let said = said(child.wait_with_output().unwrap());
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(project.executed(), 2);
    let events = project.read("events");
    assert!(events.contains("a signal stopped it"), "{events}");
    assert!(watch.alive().is_empty());
}

#[test]
fn a_stopped_spawner_wakes_up_when_the_engine_is_killed() {
    let project = Project::new("");
    project.write(
        "pipeline.yaml",
        &format!(
            "dagrun: 1\nname: stopped\npass_env: [DAGRUN_TEST_MARK]\njobs:\n  a:\n    run: kill -STOP $PPID; echo > {}/started; sleep 300\n",
            project.dir().display()
        ),
    );
    let watch = ProcWatch::new();
    let mut child = start_marked(&project, &watch, &["run"]);
    project.wait_for("started");
    child.kill().unwrap();
    child.wait().unwrap();
    until("all processes are gone", 10, || watch.alive().is_empty());
}

#[test]
fn what_a_killed_run_left_is_cleared_by_the_next() {
    let project = slow("300");
    let watch = ProcWatch::new();
    let mut child = start_marked(&project, &watch, &["run", "-j", "1"]);
    project.wait_for("started");
    until("a slow node starts", 10, || watch.alive().len() >= 3);
    child.kill().unwrap();
    child.wait().unwrap();
    until("all processes are gone", 10, || watch.alive().is_empty());
    let work = project.cache().join("work");
    let folders = || -> Vec<_> {
        let entries = std::fs::read_dir(&work).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort_unstable();
        names
    };
    let dead = folders();
    assert_eq!(dead.len(), 1, "{dead:?}");
    // A run of another workspace, which may be live, and a process that no spawner could kill.
    std::fs::create_dir_all(work.join("20200101-000000000-0000/.dagrun")).unwrap();
    let mut left = std::process::Command::new("sleep")
        .arg("300")
        .env(
            "DAGRUN_ATTEMPT_TOKEN",
            format!("{}.1.2.3", dead[0].display()),
        )
        .spawn()
        .unwrap();
    let ran = project.ok(&["run", "--until", "quick"]);
    ran.has("1 process of run").has("had to be killed");
    assert!(!left.wait().unwrap().success());
    assert_eq!(folders(), ["20200101-000000000-0000"]);
}

/// A group whose processes do not die of KILL while it is frozen; thawed and removed when dropped.
struct Freezer(std::path::PathBuf);

impl Freezer {
    fn new() -> Result<Self, Unavailable> {
        let name = format!("dagrun-test-{}", std::process::id());
        let path = std::path::Path::new("/sys/fs/cgroup/freezer").join(name);
        match std::fs::create_dir(&path) {
            Ok(()) if path.join("freezer.state").exists() => Ok(Self(path)),
            _ => Err(Unavailable(
                "needs root and the freezer of cgroup v1".into(),
            )),
        }
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("freezer.state"), "THAWED");
        until("the group is empty", 10, || {
            std::fs::remove_dir(&self.0).is_ok()
        });
    }
}

#[test]
fn a_node_whose_leftovers_cannot_be_killed_is_no_success() {
    let freezer = skip!(
        "a_node_whose_leftovers_cannot_be_killed_is_no_success",
        Freezer::new()
    );
    let project = Project::new("");
    project.write(
        "pipeline.yaml",
        &format!(
            "dagrun: 1\nname: undead\njobs:\n  a:\n    run: |\n      [ -e {0}/frozen ] && exit 0\n      sleep 297 &\n      echo $! > {1}/cgroup.procs\n      echo FROZEN > {1}/freezer.state\n      echo > {0}/frozen\n",
            project.dir().display(),
            freezer.0.display()
        ),
    );
    let began = Instant::now();
    project.ok(&["run", "--events", "events"]);
    assert_eq!(project.executed(), 2);
    let events = project.read("events");
    assert!(events.contains("could not be killed within"), "{events}");
    assert!(
        began.elapsed() < Duration::from_secs(25),
        "the end of the run does not wait for it as well"
    );
}

#[test]
fn a_node_that_is_stopped_ends_by_term() {
    let project = Project::new(
        "dagrun: 1\nname: halted\njobs:\n  a:\n    timeout: 500ms\n    run: kill -STOP $$\n",
    );
    project.write("dagrun.toml", "grace = \"60s\"\n");
    let began = Instant::now();
    project.fails(1, &["run"]).has("timed out after 500 ms");
    assert!(began.elapsed() < Duration::from_secs(30), "it was killed");
}
