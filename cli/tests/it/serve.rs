//! Runs on a coordinator: submitted, followed, stopped, gone on with after kills.

use std::{
    ops::{Deref, DerefMut},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use dagrun_cluster::{
    runs::RunsClient,
    security::{Connector, Expect},
};
use dagrun_proto::v1::Submission;
use dagrun_testkit::{ClusterSettings, TestCluster};
use serde_json::Value;

use crate::kit::{Project, Said, dagrun, said, signal};

/// A cluster of processes, as most of these tests use one: with the usual lease, and two slots a worker.
struct Cluster(TestCluster);

impl Deref for Cluster {
    type Target = TestCluster;

    fn deref(&self) -> &TestCluster {
        &self.0
    }
}

impl DerefMut for Cluster {
    fn deref_mut(&mut self) -> &mut TestCluster {
        &mut self.0
    }
}

impl Cluster {
    fn new(workers: usize) -> Self {
        Self(TestCluster::here(
            dagrun(),
            workers,
            ClusterSettings::default(),
        ))
    }

    /// Waits until the newest journal of a run knows that a node was started, be it by that run or by one before it.
    fn wait_for_start_of(&self, node: &str) {
        let told = format!("\"node\":\"{node}\"");
        self.wait_until("a node was started", |_| {
            self.newest_journal().contains(&told)
        });
    }

    fn newest_journal(&self) -> String {
        let entries = |folder: &Path| {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        let projects = entries(&self.path("state/projects"));
        let runs = projects
            .iter()
            .flat_map(|project| entries(&project.join(".dagrun/runs")));
        // The ids of runs begin with when they began.
        let newest = runs.max_by_key(|run| run.file_name().map(ToOwned::to_owned));
        let journal = newest.and_then(|run| std::fs::read(run.join("journal.log")).ok());
        String::from_utf8_lossy(&journal.unwrap_or_default()).into_owned()
    }

    /// Says something to the coordinator until the answer is as wanted.
    fn eventually(&self, args: &[&str], wanted: impl Fn(&Said) -> bool) {
        self.wait_until("the answer is as wanted", |_| wanted(&self.say(args)));
    }

    fn say(&self, args: &[&str]) -> Said {
        said(self.0.say(args))
    }

    /// Runs a project's pipeline on this cluster; it has to end with `code`.
    fn run(&self, project: &Project, code: i32, args: &[&str]) -> Said {
        let mut command = project.command(&["pipeline.yaml", "--on", &self.address()]);
        let said = said(command.args(args).output().unwrap());
        assert_eq!(
            said.code,
            code,
            "{}\n{}\n{}",
            said.stdout,
            said.stderr,
            self.logs()
        );
        said
    }
}

const SWEEP: &str = r#"
name: sweep
params: {most: 3}
toolchain: [["printf", "tools"]]
jobs:
  simulate:
    matrix: {n: "${{ range(1, params.most) }}"}
    inputs: [data.txt]
    outputs: {out: out.txt}
    run: echo "$(cat data.txt) ${{ matrix.n }}" > out.txt
  gather:
    needs: simulate
    inputs: {all: "${{ needs.simulate.outputs.out }}"}
    outputs: {table: table.txt}
    run: cat ${{ inputs.all }} > table.txt
export:
  results/table.txt: ${{ jobs.gather.outputs.table }}
"#;

fn sweep() -> Project {
    let project = Project::new(SWEEP);
    project.write("data.txt", "data");
    project
}

/// Digests of all outputs of the last run, by node.
fn digests(project: &Project) -> Vec<(String, String)> {
    let shown = project.last_run();
    let nodes = shown["nodes"].as_array().unwrap();
    let mut digests: Vec<(String, String)> = nodes
        .iter()
        .map(|node| (node["id"].to_string(), node["outputs"].to_string()))
        .collect();
    digests.sort();
    digests
}

#[test]
fn a_run_on_a_cluster_is_like_one_here() {
    let here = sweep();
    here.ok(&["pipeline.yaml", "-p", "most=4"]);
    let cluster = Cluster::new(2);
    let there = sweep();
    cluster.run(&there, 0, &["-p", "most=4"]);
    assert_eq!(
        there.read("results/table.txt"),
        here.read("results/table.txt")
    );
    assert_eq!(digests(&there), digests(&here));
    assert_eq!(there.counts(), [5, 0, 0, 0, 0]);

    // Again, all is in the coordinator's cache; a changed file is uploaded.
    cluster.run(&there, 0, &["-p", "most=4"]);
    assert_eq!(there.counts(), [0, 5, 0, 0, 0]);
    there.write("data.txt", "other");
    cluster.run(&there, 0, &["-p", "most=4"]);
    assert_eq!(there.counts(), [5, 0, 0, 0, 0]);
    assert!(there.read("results/table.txt").starts_with("other 1\n"));
}

#[test]
fn what_a_run_there_has_made_can_be_got_here() {
    let mut cluster = Cluster::new(2);
    let project = sweep();
    cluster.run(&project, 0, &[]);
    // The journal's coordinator has it.
    project.ok(&["get", "simulate[n=2]", "got"]);
    assert_eq!(project.read("got/out.txt"), "data 2\n");
    let shown = project.ok(&[
        "shell",
        "gather",
        "--",
        "sh",
        "-c",
        "find . -type f | sort | xargs cat",
    ]);
    shown.has("data 1\ndata 2\ndata 3\n");
    // A project that has not run it says where.
    let other = sweep();
    other
        .fails(1, &["get", "gather:table", "got"])
        .has("run it first");
    other.ok(&["get", "gather:table", "got", "--on", &cluster.address()]);
    assert_eq!(other.read("got/table.txt"), "data 1\ndata 2\ndata 3\n");
    // The settings may say so too.
    let third = sweep();
    third.write(
        "dagrun.toml",
        &format!("[cluster]\non = \"{}\"\n", cluster.address()),
    );
    third.ok(&["get", "gather:table", "got"]);
    assert_eq!(third.read("got/table.txt"), "data 1\ndata 2\ndata 3\n");
    // What has not run there is not there either.
    other.write("data.txt", "new");
    let there = ["get", "gather", "got", "--on", &cluster.address()];
    other.fails(1, &there).has("has no result in the cache");
    cluster.kill_coordinator();
    project.fails(3, &["get", "simulate[n=1]", "got", "--force"]);
}

/// Whoever comes while the coordinator is away, or before there are workers, waits and hears why.
#[test]
fn a_client_waits_for_a_coordinator_and_for_workers_and_says_so() {
    let mut cluster = Cluster::new(0);
    let project = sweep();
    cluster.kill_coordinator();
    let client = project.start(&["pipeline.yaml", "--on", &cluster.address()]);
    std::thread::sleep(Duration::from_millis(500));
    cluster.start_coordinator();
    // Long enough to be asked whether there are workers.
    std::thread::sleep(Duration::from_secs(4));
    cluster.add_worker();
    let told = said(client.wait_with_output().unwrap());
    assert_eq!(told.code, 0, "{}\n{}", told.stderr, cluster.logs());
    told.has("trying again for 5 s")
        .has("waiting: no workers are connected; start one with `dagrun worker --connect unix:");
}

/// What was submitted and left, and what goes on there, is found by `log` and `explain` where settings name the coordinator.
#[test]
fn runs_there_are_found_by_settings() {
    let mut cluster = Cluster::new(1);
    let scratch = tempfile::tempdir().unwrap();
    let project =
        Project::new(&waiting(scratch.path()).replace("echo 1 > o;", "echo said; echo 1 > o;"));
    let settings = format!("[cluster]\non = \"{}\"\n", cluster.address());
    project.write("dagrun.toml", &settings);
    cluster.run(&project, 0, &["--detach"]);
    wait_for(&scratch.path().join("began"));
    cluster.wait_for_start_of("wait");
    let log = project.ok(&["log", "first"]);
    assert_eq!(log.stdout, "said\n", "{}", log.stderr);
    log.has("from run 1 on unix:");
    project
        .fails(1, &["log", "wait"])
        .has("`wait` has not ended in run 1 on unix:");
    project
        .ok(&["explain", "wait"])
        .has("wait running: attempt 1 since");
    project
        .ok(&["explain", "first"])
        .has("first succeeded: in run 1 on unix:");
    std::fs::write(scratch.path().join("go"), "").unwrap();
    assert_eq!(cluster.say(&["attach", "1"]).code, 0, "{}", cluster.logs());
    project
        .ok(&["explain", "wait"])
        .has("wait is a hit on unix:")
        .has("made by wait in run");
    project.fails(2, &["log", "wait", "--run", "7"]);
    // Without the coordinator there is what is here.
    cluster.kill_coordinator();
    project
        .ok(&["explain", "wait"])
        .has("only what is here is looked at")
        .has("cannot be known yet");
}

/// Results that are too large to ride along stay with the worker until somebody wants them.
/// Two trials; the second waits for a file.
fn study_that_waits(folder: &std::path::Path) -> Project {
    Project::new(&format!(
        "name: my study\nstudy:\n  space: {{x: {{int: [1, 3]}}}}\n  sampler: grid\n  trials: 3\n  order: {{lag: 1}}\n  \
         minimize: ${{{{ jobs.score.outputs.n }}}}\n\
         jobs:\n  sim:\n    outputs: {{o: o.txt}}\n    run: |\n      \
         if [ ${{{{ trial.x }}}} = 2 ]; then touch {0}/began; while [ ! -e {0}/go ]; do sleep 0.02; done; fi\n      \
         echo ${{{{ trial.x }}}} > o.txt\n  \
         score:\n    needs: sim\n    inputs: {{s: \"${{{{ needs.sim.outputs.o }}}}\"}}\n    outputs: {{n: {{json: n.json}}}}\n    run: cat ${{{{ inputs.s }}}} > n.json\n",
        folder.display()
    ))
}

/// A study that goes on there is shown where it was submitted, and planned as it stands there.
#[test]
fn a_study_on_a_cluster_is_shown_while_it_runs() {
    let mut cluster = Cluster::new(1);
    let scratch = tempfile::tempdir().unwrap();
    let project = study_that_waits(scratch.path());
    let address = cluster.address();
    cluster.run(&project, 0, &["--detach"]);
    wait_for(&scratch.path().join("began"));
    let on = |words: &[&str]| -> Vec<String> {
        let words = words.iter().copied().chain(["--on", &address]);
        words.map(str::to_owned).collect()
    };
    let ok = |words: &[&str]| {
        let words = on(words);
        project.ok(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    ok(&["study", "show", "pipeline.yaml"])
        .has("study `my%20study` is from run 1 on unix:")
        .has("my%20study running")
        .has("1 of 3 trials ended, 1 running")
        .has("best: trial 1: loss = 1");
    ok(&["study", "trials"]).has("running");
    ok(&["study", "best", "--params"]).has("x: 1");
    ok(&["study", "export"]).has("1,complete,1,1.0,");
    ok(&["study", "list"]).has("running");
    project.fails(1, &["study", "show", "pipeline.yaml"]);
    // Settings find it as well, and the plan of a run here says where another goes on.
    project.write("dagrun.toml", &format!("[cluster]\non = \"{address}\"\n"));
    project
        .ok(&["study", "show"])
        .has("1 of 3 trials ended, 1 running");
    project
        .ok(&["plan"])
        .has("run 1 of this project goes on there")
        .has("0 ended");
    // A plan of a run there stands on what is there.
    let plan = ok(&["plan"]);
    plan.has("a run on unix:").has("1 ended").has("trial 2");
    assert_eq!(
        plan.stdout
            .lines()
            .filter(|it| it.contains("sim[trial=1"))
            .count(),
        0,
        "{}",
        plan.stdout
    );
    std::fs::write(scratch.path().join("go"), "").unwrap();
    assert_eq!(cluster.say(&["attach", "1"]).code, 0, "{}", cluster.logs());
    ok(&["study", "show"]).has("my%20study done");
    let plan = ok(&["plan", "--json"]);
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!(plan["study"]["told"], 3);
    assert_eq!(plan["nodes"], serde_json::json!([]));
    // Its log comes here with the end of a run that is followed, and is shown without the coordinator.
    cluster.run(&project, 0, &[]);
    cluster.kill_coordinator();
    std::fs::remove_file(project.dir().join("dagrun.toml")).unwrap();
    project
        .ok(&["study", "show"])
        .has("3 of 3 trials ended")
        .has_not("is from run");
}

/// What a run on a coordinator would do is planned by the results that are there.
#[test]
fn a_plan_of_a_run_there_goes_by_results_there() {
    let cluster = Cluster::new(1);
    let project = sweep();
    let states = |words: &[&str]| -> Vec<String> {
        let plan = project.json(&[&["plan", "--json"], words].concat());
        let nodes = plan["nodes"].as_array().unwrap().iter();
        nodes
            .map(|node| node["state"].as_str().unwrap().to_owned())
            .collect()
    };
    let address = cluster.address();
    cluster.run(&project, 0, &["--detach", "-p", "most=2"]);
    assert_eq!(cluster.say(&["attach", "1"]).code, 0, "{}", cluster.logs());
    assert_eq!(
        states(&["--on", &address]),
        ["hit", "hit", "run", "unknown"]
    );
    assert_eq!(states(&[]), ["run", "run", "run", "unknown"]);
    project.ok(&["pipeline.yaml"]);
    assert_eq!(
        states(&["--on", &address]),
        ["hit", "hit", "run", "unknown"]
    );
    assert_eq!(states(&[]), ["hit"; 4]);
}

#[test]
fn large_results_come_from_the_worker_that_made_them() {
    let cluster = Cluster::new(1);
    let project = Project::new(
        "name: large\njobs:\n  a:\n    outputs: {out: large, dir: dir/}\n    run: head -c 3000000 /dev/urandom > large; mkdir dir; cp large dir/copy\nexport: {large: '${{ jobs.a.outputs.out }}'}\n",
    );
    cluster.run(&project, 0, &[]);
    assert_eq!(project.counts(), [1, 0, 0, 0, 0]);
    let large = project.read_bytes("large");
    assert_eq!(large.len(), 3_000_000);
    project.ok(&["get", "a:dir", "got"]);
    assert!(project.read_bytes("got/dir/copy") == large);
}

/// A log that is too long to come along is left with its worker, and comes whole when somebody wants it.
#[test]
fn a_long_log_comes_whole_from_its_worker() {
    let mut cluster = Cluster::new(1);
    let project = Project::new("name: talks\njobs:\n  a: {run: 'seq 1 400000; echo done >&2'}\n");
    cluster.run(&project, 0, &[]);
    let lines: String = (1..=400_000).map(|n| format!("{n}\n")).collect();
    let log = project.ok(&["log", "a"]);
    assert!(
        log.stdout == format!("{lines}done\n"),
        "{}",
        log.stdout.len()
    );
    // It is here now.
    cluster.kill_coordinator();
    assert!(project.ok(&["log", "a", "--stdout"]).stdout == lines);
}

#[test]
fn a_long_log_that_cannot_be_had_says_where_it_is() {
    let mut cluster = Cluster::new(1);
    let project = Project::new("name: talks\njobs:\n  a: {run: 'seq 1 400000 >&2; exit 1'}\n");
    cluster.run(&project, 1, &[]);
    cluster.kill_worker(0);
    project
        .fails(1, &["log", "a"])
        .has("gone from the cache")
        .has("400000");
    cluster.kill_coordinator();
    project
        .fails(3, &["log", "a"])
        .has("stays with the worker that ran the node");
}

#[test]
fn events_of_a_run_there_are_those_of_one_here() {
    let pipeline = "name: told\njobs:\n  a: {outputs: {o: o}, run: echo 1 > o}\n  b: {run: 'cat ${{ needs.a.outputs.o }}; exit 3', needs: a}\n";
    let events = |project: &Project| -> Vec<String> {
        let text = project.read("told/events.jsonl");
        let events = text.lines().map(|line| {
            let event: Value = serde_json::from_str(line).unwrap();
            event["event"].as_str().unwrap().to_owned()
        });
        // How workers come, and what came along with results, is a matter of the cluster.
        let of_nodes = |kind: &String| !kind.starts_with("worker") && kind != "replicas";
        events.filter(of_nodes).collect()
    };
    let flag = ["--events", "told/events.jsonl"];
    let here = Project::new(pipeline);
    here.fails(1, &["pipeline.yaml", flag[0], flag[1]]);
    let cluster = Cluster::new(1);
    let there = Project::new(pipeline);
    cluster.run(&there, 1, &flag);
    assert_eq!(events(&there), events(&here));
    let said = cluster.run(&there, 1, &["--events", "-"]);
    assert!(
        said.stdout
            .lines()
            .any(|line| line.contains("\"run_ended\""))
    );
    cluster
        .run(&there, 2, &["--events", "e", "--detach"])
        .has("`--events` needs the run to be followed");
    cluster
        .run(&there, 2, &["--workers", "2"])
        .has("`--workers` starts workers here");
}

#[test]
fn failures_are_told_as_here() {
    let cluster = Cluster::new(1);
    let project = Project::new(
        "name: failing\njobs:\n  bad: {run: 'echo no luck >&2; exit 7'}\n  after: {needs: bad, run: 'true'}\n",
    );
    let said = cluster.run(&project, 1, &[]);
    assert!(said.stderr.contains("exit code 7"), "{}", said.stderr);
    assert!(said.stderr.contains("no luck"), "{}", said.stderr);
    assert!(said.stderr.contains("  on w0\n"), "{}", said.stderr);
    assert!(!said.stderr.contains("/state/projects"), "{}", said.stderr);
    assert_eq!(project.counts(), [0, 0, 1, 1, 0]);
    assert!(project.ok(&["log", "bad"]).stdout.contains("no luck"));
}

#[test]
fn a_pipeline_that_is_wrong_is_refused_before_it_is_submitted() {
    let cluster = Cluster::new(0);
    let project = Project::new("name: wrong\njobs:\n  a: {needs: b, run: 'true'}\n");
    let said = cluster.run(&project, 2, &[]);
    assert!(said.stderr.contains("`b`"), "{}", said.stderr);
    let runs = cluster.say(&["cluster", "status", "--all", "--json"]);
    let status: Value = serde_json::from_str(&runs.stdout).unwrap();
    assert_eq!(status["runs"].as_array().map(Vec::len), Some(0));
}

/// A pipeline whose node waits for a file, and says when it began.
fn waiting(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "name: waiting\njobs:\n  first: {{outputs: {{out: o}}, run: 'echo 1 > o; echo x >> {folder}/first'}}\n  wait:\n    needs: first\n    inputs: {{i: '${{{{ needs.first.outputs.out }}}}'}}\n    outputs: {{out: o}}\n    run: |\n      echo x >> {folder}/began\n      while [ ! -e {folder}/go ]; do sleep 0.02; done\n      cp ${{{{ inputs.i }}}} o\n      echo x >> {folder}/ended\nexport:\n  result: ${{{{ jobs.wait.outputs.out }}}}\n"
    )
}

fn wait_for(path: &Path) {
    let began = Instant::now();
    while !path.exists() {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "{}",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

/// Runs of one folder take turns, and who waits is told for whom.
#[test]
fn a_run_that_waits_for_its_turn_says_so() {
    let cluster = Cluster::new(1);
    let scratch = tempfile::tempdir().unwrap();
    let project = Project::new(&waiting(scratch.path()));
    cluster.run(&project, 0, &["--detach"]);
    wait_for(&scratch.path().join("began"));
    // Other clients of the same folder: a run that was left does not lock it.
    let left = cluster.run(&project, 0, &["--detach"]);
    left.has("submitted as run 2").has("waiting: run 1");
    assert_eq!(cluster.say(&["cancel", "2"]).code, 0);
    let second = project.start(&["pipeline.yaml", "--on", &cluster.address()]);
    cluster.eventually(&["cluster", "status"], |said| {
        said.stdout
            .contains("run 3 for run 1: runs of one folder take turns")
    });
    std::thread::sleep(Duration::from_secs(1));
    std::fs::write(scratch.path().join("go"), "").unwrap();
    let told = said(second.wait_with_output().unwrap());
    assert_eq!(told.code, 0, "{}\n{}", told.stderr, cluster.logs());
    let on = cluster.address();
    told.has("waiting: run 1")
        .has("goes first: runs of one folder take turns")
        .has(&format!("`dagrun attach 1 --on {on}` follows it"))
        .has(&format!("`dagrun cancel 1 --on {on}` stops it"));
}

/// Who comes to a folder whose run is followed hears which run that is, and can follow it too.
#[test]
fn a_second_client_of_a_folder_is_told_of_the_run_and_follows_it_too() {
    let cluster = Cluster::new(1);
    let scratch = tempfile::tempdir().unwrap();
    let project = Project::new(&waiting(scratch.path()));
    let on = cluster.address();
    let first = project.start(&["pipeline.yaml", "--on", &on]);
    wait_for(&scratch.path().join("began"));
    for words in [&["pipeline.yaml"][..], &["pipeline.yaml", "--on", &on]] {
        project
            .fails(3, words)
            .has(&format!("run 1 on {on} goes on in this folder"))
            .has(&format!("`dagrun attach 1 --on {on}` follows it too"))
            .has(&format!("`dagrun cancel 1 --on {on}` stops it"));
    }
    let pid = first.id();
    let second = project.start(&["attach", "1", "--on", &on, "-f", "pipeline.yaml"]);
    // It has to be there before the run is over.
    std::thread::sleep(Duration::from_secs(1));
    std::fs::write(scratch.path().join("go"), "").unwrap();
    let (first, second) = (first.wait_with_output(), second.wait_with_output());
    let (first, second) = (said(first.unwrap()), said(second.unwrap()));
    assert_eq!((first.code, second.code), (0, 0), "{first:?}\n{second:?}");
    second
        .has(&format!("process {pid} follows it too"))
        .has("2 ran");
    assert_eq!(project.read("result"), "1\n");
}

/// What the end of a run tells people to type works where they are.
#[test]
fn commands_at_the_end_of_a_run_there_can_be_typed_as_they_stand() {
    let cluster = Cluster::new(1);
    let project = Project::new("name: none\njobs: {}\n");
    project.write(
        "sub/fails.yaml",
        "name: fails\nparams: {n: 1, m: 1}\njobs: {a: {run: 'echo ${{ params.n }} ${{ params.m }}; exit 3'}}\n",
    );
    project.write("params.json", "{\"m\": 4}");
    let on = cluster.address();
    let words = "sub/fails.yaml -p n=7 --params-file params.json";
    let words: Vec<&str> = words.split(' ').chain(["--on", &on]).collect();
    let failed = project.fails(1, &words);
    let said = |row: &str| -> Vec<String> {
        let line = failed
            .stderr
            .lines()
            .find_map(|line| line.trim().strip_prefix(row));
        let line = line.unwrap_or_else(|| panic!("{}", failed.stderr)).trim();
        let words = line.strip_prefix("dagrun ").unwrap_or(line);
        words.split(' ').map(str::to_owned).collect()
    };
    let type_it = |code, words: Vec<String>| {
        project.fails(code, &words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert_eq!(type_it(0, said("log")).stdout, "7 4\n");
    type_it(1, said("rerun")).has("failed: a").has("7 4");
    let report = project.json(&["report", "--json", "-f", "sub/fails.yaml"]);
    let rerun = report["failures"][0]["rerun"].as_str().unwrap();
    assert!(
        rerun.starts_with("dagrun sub/fails.yaml -p n=7 "),
        "{rerun}"
    );
}

/// No more runs than were allowed go on at a time, and those that wait are told so; a higher priority begins first.
#[test]
fn a_run_beyond_those_that_may_go_on_waits_and_says_so() {
    let cluster = Cluster(TestCluster::here(
        dagrun(),
        1,
        ClusterSettings {
            runs: Some(1),
            ..ClusterSettings::default()
        },
    ));
    let scratch = tempfile::tempdir().unwrap();
    let first = Project::new(&waiting(scratch.path()));
    cluster.run(&first, 0, &["--detach"]);
    wait_for(&scratch.path().join("began"));
    let order = scratch.path().join("order");
    let other = |name: &str| {
        let run = format!("echo {name} >> {}", order.display());
        Project::new(&format!("jobs:\n  a: {{cache: never, run: '{run}'}}\n"))
    };
    let (late, urgent) = (other("late"), other("urgent"));
    let waits = late.start(&["pipeline.yaml", "--on", &cluster.address()]);
    cluster.eventually(&["cluster", "status"], |said| {
        said.stdout
            .contains("run 2 for its turn: 1 go on, as many as `serve --runs` allows")
    });
    cluster.run(&urgent, 0, &["--detach", "--priority", "5"]);
    // Long enough to be asked why nothing comes.
    std::thread::sleep(Duration::from_secs(4));
    std::fs::write(scratch.path().join("go"), "").unwrap();
    let told = said(waits.wait_with_output().unwrap());
    assert_eq!(told.code, 0, "{}\n{}", told.stderr, cluster.logs());
    told.has("runs go on, as many as the coordinator takes at a time (`dagrun serve --runs N`)");
    assert_eq!(std::fs::read_to_string(order).unwrap(), "urgent\nlate\n");
}

/// A worker that goes in order is no reason to give a run up: it waits for the next.
#[test]
fn a_run_waits_when_its_last_worker_has_left_in_order() {
    let mut cluster = Cluster::new(1);
    let scratch = tempfile::tempdir().unwrap();
    let after = "  after: {needs: wait, inputs: {i: '${{ needs.wait.outputs.out }}'}, run: [cat, '${{ inputs.i }}']}\nexport:";
    let project = Project::new(&waiting(scratch.path()).replace("export:", after));
    cluster.run(&project, 0, &["--detach"]);
    wait_for(&scratch.path().join("began"));
    // It finishes `wait`, and `after` is left when it goes.
    signal(cluster.worker(0), "TERM");
    cluster.eventually(&["cluster", "status"], |said| {
        said.stdout.contains("leaving")
    });
    std::fs::write(scratch.path().join("go"), "").unwrap();
    cluster.wait_for_end_of(0);
    // Longer than nodes that no worker can take wait for one that can.
    std::thread::sleep(Duration::from_secs(12));
    let status = cluster.say(&["cluster", "status"]).stdout;
    assert!(status.contains("running"), "{status}");
    cluster.add_worker();
    assert_eq!(cluster.say(&["attach", "1"]).code, 0, "{}", cluster.logs());
}

/// A signal to a command that only looks ends the look.
#[test]
fn who_is_told_to_leave_a_run_does_not_stop_it() {
    let cluster = Cluster::new(1);
    let scratch = tempfile::tempdir().unwrap();
    let project = Project::new(&waiting(scratch.path()));
    cluster.run(&project, 0, &["--detach"]);
    wait_for(&scratch.path().join("began"));
    for name in ["TERM", "INT"] {
        let mut attach = cluster.client(scratch.path(), &["attach", "1"]);
        let attach = attach.stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        crate::kit::signal(&attach, name);
        let left = said(attach.wait_with_output().unwrap());
        assert_eq!(left.code, 130, "{left:?}");
        left.has("Ctrl-C leaves it running")
            .has("run 1 goes on: `dagrun attach 1 --on");
    }
    std::fs::write(scratch.path().join("go"), "").unwrap();
    assert_eq!(cluster.say(&["attach", "1"]).code, 0, "{}", cluster.logs());
}

#[test]
fn a_detached_run_is_followed_later_and_stopped() {
    let cluster = Cluster::new(1);
    let scratch = tempfile::tempdir().unwrap();
    let project = Project::new(&waiting(scratch.path()));
    let said = cluster.run(&project, 0, &["--detach"]);
    assert!(said.stderr.contains("run 1"), "{}", said.stderr);
    wait_for(&scratch.path().join("began"));
    let rows = cluster.say(&["cluster", "status"]);
    assert!(rows.stdout.contains("running"), "{}", rows.stdout);

    std::fs::write(scratch.path().join("go"), "").unwrap();
    let mut attach = project.command(&["attach", "1", "--on", &cluster.address()]);
    let attached = crate::kit::said(attach.args(["-f", "pipeline.yaml"]).output().unwrap());
    assert_eq!(attached.code, 0, "{}\n{}", attached.stderr, cluster.logs());
    assert_eq!(project.read("result"), "1\n");

    // Another one is cancelled while it runs.
    std::fs::remove_file(scratch.path().join("go")).unwrap();
    std::fs::remove_file(scratch.path().join("began")).unwrap();
    cluster.run(&project, 0, &["--detach", "--force=wait"]);
    wait_for(&scratch.path().join("began"));
    assert_eq!(cluster.say(&["cancel", "2"]).code, 0);
    let ended = cluster.say(&["attach", "2"]);
    assert_eq!(ended.code, 130, "{}\n{}", ended.stderr, cluster.logs());
    assert!(cluster.say(&["cancel", "2"]).stderr.contains("had ended"));
    assert_eq!(cluster.say(&["attach", "77"]).code, 2);
}

#[test]
fn runs_go_on_after_the_coordinator_was_killed() {
    let mut cluster = Cluster::new(1);
    let scratch = tempfile::tempdir().unwrap();
    let project = Project::new(&waiting(scratch.path()));
    let client = project.start(&["pipeline.yaml", "--on", &cluster.address()]);
    wait_for(&scratch.path().join("began"));
    cluster.wait_for_start_of("wait");
    cluster.kill_coordinator();
    cluster.start_coordinator();
    cluster.wait_for_workers(1);
    std::fs::write(scratch.path().join("go"), "").unwrap();
    let said = said(client.wait_with_output().unwrap());
    assert_eq!(said.code, 0, "{}\n{}", said.stderr, cluster.logs());
    assert_eq!(project.read("result"), "1\n");
    said.has("the coordinator was started again 1 time meanwhile");
    // The first node's result was durable, and the second one went on.
    assert_eq!(lines(&scratch.path().join("first")), 1);
    assert_eq!(lines(&scratch.path().join("began")), 1);
}

#[test]
fn what_ends_without_a_coordinator_waits_for_the_next() {
    let mut cluster = Cluster::new(1);
    let scratch = tempfile::tempdir().unwrap();
    let project = Project::new(&waiting(scratch.path()));
    cluster.run(&project, 0, &["--detach"]);
    wait_for(&scratch.path().join("began"));
    // Killed twice: the second one knows of the node only what the first has left it.
    for _ in 0..2 {
        cluster.wait_for_start_of("wait");
        cluster.kill_coordinator();
        cluster.start_coordinator();
    }
    cluster.kill_coordinator();
    std::fs::write(scratch.path().join("go"), "").unwrap();
    wait_for(&scratch.path().join("ended"));
    cluster.start_coordinator();
    let mut attach = project.command(&["attach", "1", "--on", &cluster.address()]);
    let attached = said(attach.args(["-f", "pipeline.yaml"]).output().unwrap());
    assert_eq!(attached.code, 0, "{}\n{}", attached.stderr, cluster.logs());
    assert_eq!(project.read("result"), "1\n");
    assert_eq!(lines(&scratch.path().join("began")), 1);
}

#[test]
fn a_coordinator_that_is_told_to_stop_leaves_its_runs_to_the_next() {
    let mut cluster = Cluster::new(1);
    let scratch = tempfile::tempdir().unwrap();
    let project = Project::new(&waiting(scratch.path()));
    cluster.run(&project, 0, &["--detach"]);
    wait_for(&scratch.path().join("began"));
    let told = Instant::now();
    assert!(cluster.stop_coordinator(), "{}", cluster.logs());
    assert!(
        told.elapsed() < Duration::from_secs(5),
        "nodes are not waited for"
    );
    let log = cluster.logs();
    assert!(
        log.contains("by SIGTERM: 1 run goes on with the next start"),
        "{log}"
    );
    cluster.start_coordinator();
    cluster.wait_for_workers(1);
    std::fs::write(scratch.path().join("go"), "").unwrap();
    let ended = cluster.say(&["attach", "1"]);
    assert_eq!(ended.code, 0, "{}\n{}", ended.stderr, cluster.logs());
    // What ran was left running.
    assert_eq!(lines(&scratch.path().join("first")), 1);
    assert_eq!(lines(&scratch.path().join("began")), 1);
}

/// How many trials are under way follows the workers that are there, also when they go.
#[test]
fn in_flight_follows_workers_that_are_lost() {
    let mut cluster = Cluster::new(2);
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    let project = Project::new(&format!(
        "name: follows\nstudy:\n  space: {{k: {{int: [1, 40]}}}}\n  sampler: grid\n  trials: 40\n  minimize: ${{{{ jobs.wait.outputs.loss }}}}\n\
         jobs:\n  wait:\n    outputs: {{loss: {{json: loss.json}}}}\n    \
         run: 'until rm {0}/go1 || rm {0}/go2 || rm {0}/go3 || rm {0}/go4; do sleep 0.02; done 2> /dev/null; echo ${{{{ trial.k }}}} > loss.json'\n",
        folder.display()
    ));
    cluster.run(&project, 0, &["--detach"]);
    let asked = |cluster: &Cluster| {
        let journal = cluster.newest_journal();
        journal.matches("\"event\":\"trial_started\"").count()
    };
    let wait_for_trials = |cluster: &Cluster, trials: usize| {
        let began = Instant::now();
        while asked(cluster) < trials {
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "{}",
                cluster.logs()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(asked(cluster), trials);
    };
    // Four slots: half as many again, and one.
    wait_for_trials(&cluster, 7);
    cluster.kill_worker(1);
    cluster.eventually(&["cluster", "status"], |said| {
        said.stdout.contains("lost: w1 ")
    });
    // Two are left: four trials are enough, and three are under way when four of the seven have ended.
    for k in 1..=4 {
        std::fs::write(folder.join(format!("go{k}")), "").unwrap();
    }
    wait_for_trials(&cluster, 8);
    assert_eq!(cluster.say(&["cancel", "1", "--kill"]).code, 0);
}

/// `-j` bounds what a run has of all workers together, and what a study has under way.
#[test]
fn a_run_has_no_more_cpus_than_it_asked_for() {
    let cluster = Cluster::new(2);
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    let project = Project::new(&format!(
        "name: bounded\njobs:\n  a:\n    matrix: {{n: '${{{{ range(1, 6) }}}}'}}\n    run: |\n      mkdir {0}/${{{{ matrix.n }}}}\n      ls {0} | wc -l >> {0}.counts\n      sleep 0.3\n      rmdir {0}/${{{{ matrix.n }}}}\n",
        folder.display()
    ));
    let counts = folder.with_extension("counts");
    let most = || {
        let text = std::fs::read_to_string(&counts).unwrap();
        std::fs::remove_file(&counts).unwrap();
        text.lines()
            .filter_map(|n| n.trim().parse::<u32>().ok())
            .max()
    };
    cluster.run(&project, 0, &["-j", "1"]);
    assert_eq!(most(), Some(1));
    assert_eq!(project.last_run()["slots"], 1);
    cluster.run(&project, 0, &["-j", "3", "--force"]);
    assert_eq!(most(), Some(3), "{}", cluster.logs());
    cluster.run(&project, 0, &["--force"]);
    assert_eq!(most(), Some(4), "all that there are");

    let study = Project::new(
        "name: narrow\nstudy:\n  space: {k: {int: [1, 40]}}\n  sampler: grid\n  trials: 8\n  minimize: ${{ jobs.wait.outputs.loss }}\n\
         jobs:\n  wait:\n    outputs: {loss: {json: loss.json}}\n    run: 'sleep 0.2; echo ${{ trial.k }} > loss.json'\n",
    );
    cluster.run(&study, 0, &["-j", "1"]);
    let journal = cluster.newest_journal();
    let (before, _) = journal.split_once("\"event\":\"trial_ended\"").unwrap();
    let begun = before.matches("\"event\":\"trial_started\"").count();
    assert!(begun <= 3, "{begun} trials for one slot");
}

/// What was typed for this run is in the command that goes on.
#[test]
fn a_stopped_run_goes_on_by_the_same_command() {
    let cluster = Cluster::new(1);
    let scratch = tempfile::tempdir().unwrap();
    let project = Project::new(&waiting(scratch.path()));
    let at = cluster.address();
    let stop = |told: &mut std::process::Command| {
        let run = told.stderr(Stdio::piped()).spawn().unwrap();
        wait_for(&scratch.path().join("began"));
        crate::kit::signal(&run, "INT");
        let said = said(run.wait_with_output().unwrap());
        assert_eq!(said.code, 130, "{said:?}");
        std::fs::remove_file(scratch.path().join("began")).unwrap();
        said
    };
    let goes_on = |flags: &str| format!("where it stopped: dagrun pipeline.yaml{flags}\n");
    let typed = ["pipeline.yaml", "--on", &at, "-j", "1"];
    stop(&mut project.command(&typed)).has(&goes_on(&format!(" -j 1 --on {at}")));
    let mut by_variable = project.command(&["pipeline.yaml"]);
    stop(by_variable.env("DAGRUN_ON", &at)).has(&goes_on(""));
    // A variable that is empty names nobody.
    let mut here = project.command(&["pipeline.yaml", "-j", "2"]);
    stop(here.env("DAGRUN_ON", "")).has(&goes_on(" -j 2"));
}

/// Two runs and two workers of one slot: one run holds the worker that has the input of the other one's second node. The first
/// one has run beside it, and so does the second, though much has to move there.
#[test]
fn a_node_does_not_wait_behind_another_run_while_a_worker_idles() {
    let settings = ClusterSettings {
        slots: 1,
        ..ClusterSettings::default()
    };
    let cluster = Cluster(TestCluster::here(dagrun(), 2, settings));
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().display();
    let make = "  make: {outputs: {out: o}, run: head -c 80000000 /dev/zero > o}\n";
    let input = "inputs: {i: '${{ needs.make.outputs.out }}'}";
    let hold = Project::new(&format!(
        "name: hold\njobs:\n{make}  hold:\n    needs: make\n    {input}\n    run: |\n      \
         echo x >> {folder}/began; while [ ! -e {folder}/go ]; do sleep 0.02; done\n"
    ));
    cluster.run(&hold, 0, &["--detach"]);
    wait_for(&scratch.path().join("began"));

    let read = Project::new(&format!(
        "name: read\njobs:\n{make}  first: {{run: 'true'}}\n  read:\n    needs: [make, first]\n    {input}\n    \
         outputs: {{out: o}}\n    run: wc -c < ${{{{ inputs.i }}}} > o\nexport:\n  size: ${{{{ jobs.read.outputs.out }}}}\n"
    ));
    let mut command = read.command(&["pipeline.yaml", "--on", &cluster.address()]);
    let mut client = command.spawn().unwrap();
    let began = Instant::now();
    while client.try_wait().unwrap().is_none() {
        if began.elapsed() > Duration::from_secs(60) {
            client.kill().unwrap();
            panic!("it waits behind the other run\n{}", cluster.logs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(read.read("size").trim(), "80000000");
    std::fs::write(scratch.path().join("go"), "").unwrap();
}

/// The room on its disk, as the operator is told to watch.
#[test]
fn workers_tell_how_much_room_they_have() {
    let cluster = Cluster::new(1);
    let free = |said: &Said| {
        let status: Value = serde_json::from_str(&said.stdout).unwrap_or_default();
        status["workers"][0]["free_bytes"].as_u64().unwrap_or(0)
    };
    cluster.eventually(&["cluster", "status", "--json"], |said| free(said) > 0);
}

/// Whoever keeps a cluster reads in its logs what happened when.
#[test]
fn coordinators_and_workers_say_what_happens() {
    let mut cluster = Cluster::new(2);
    let scratch = tempfile::tempdir().unwrap();
    let project = Project::new(&waiting(scratch.path()));
    cluster.run(&project, 0, &["--detach"]);
    wait_for(&scratch.path().join("began"));
    let running = |said: &Said| -> Value {
        let status: Value = serde_json::from_str(&said.stdout).unwrap_or_default();
        status["runs"][0]["running"].clone()
    };
    cluster.eventually(&["cluster", "status", "--json"], |said| running(said) == 1);
    std::fs::write(scratch.path().join("go"), "").unwrap();
    assert_eq!(cluster.say(&["attach", "1"]).code, 0, "{}", cluster.logs());
    cluster.say(&["cluster", "drain", "w0"]);
    cluster.wait_for_end_of(0);
    cluster.kill_worker(1);
    let file = cluster.path("coordinator.log");
    let log = || std::fs::read_to_string(&file).unwrap();
    let began = Instant::now();
    while !log().contains("worker w1 is lost") {
        assert!(began.elapsed() < Duration::from_secs(30), "{}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let log = log();
    for line in [
        "worker w0 joined: 2 slots",
        "run 1 begins: p/pipeline.yaml",
        "run 1 succeeded",
        "worker w0 takes nothing new: it was told to leave by `dagrun cluster drain`",
        "worker w0 left",
        "the connection to worker w1 broke: ",
        "worker w1 is lost: the connection to worker w1 broke",
    ] {
        let lines: Vec<&str> = log.lines().filter(|it| it.contains(line)).collect();
        assert_eq!(lines.len(), 1, "{line}\n{log}");
        let (time, _) = lines[0].split_once(' ').unwrap();
        assert!(
            time.starts_with("20") && time.ends_with('Z'),
            "{}",
            lines[0]
        );
    }
    // Whoever looks later sees it too; one that left in order is no loss.
    let status = cluster.say(&["cluster", "status"]).stdout;
    assert!(status.contains("lost: w1 "), "{status}");
    assert!(!status.contains("lost: w0"), "{status}");
    // Also where the coordinator was killed meanwhile.
    cluster.kill_coordinator();
    cluster.start_coordinator();
    let lost = cluster.status()["lost"].clone();
    assert_eq!((&lost[0]["name"], &lost[1]), (&"w1".into(), &Value::Null));
    let worker = std::fs::read_to_string(cluster.path("w0.log")).unwrap();
    assert!(worker.contains("leaving: it was told to leave"), "{worker}");
    assert!(worker.ends_with("w0 left\n"), "{worker}");
}

#[test]
fn one_coordinator_has_a_state_folder() {
    let cluster = Cluster::new(0);
    let mut second = cluster.on_cache("coordinator", &["serve", "--listen"]);
    second
        .arg(format!("unix:{}", cluster.path("sock2/s").display()))
        .arg("--state")
        .arg(cluster.path("state"));
    let said = said(second.output().unwrap());
    assert_eq!(said.code, 3);
    assert!(
        said.stderr.contains("another coordinator"),
        "{}",
        said.stderr
    );
}

/// F21: a client whose submission was answered, and who did not hear of it, says it again.
#[test]
fn a_submission_that_is_repeated_is_one_run() {
    let mut cluster = Cluster::new(0);
    let submit = |cluster: &Cluster, token: &str| -> String {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let connector = Connector::open(None, None).unwrap();
            let to = cluster.address().parse().unwrap();
            let channel = connector.connect(&to, Expect::Coordinator).await.unwrap();
            let submission = Submission {
                version: env!("CARGO_PKG_VERSION").into(),
                token: token.into(),
                project: "/p".into(),
                pipeline: "pipeline.yaml".into(),
                ..Submission::default()
            };
            RunsClient::new(channel).submit(submission).await.unwrap()
        })
    };
    let first = submit(&cluster, "one");
    assert_eq!(submit(&cluster, "one"), first);
    let second = submit(&cluster, "two");
    assert_ne!(second, first);
    cluster.kill_coordinator();
    cluster.start_coordinator();
    assert_eq!(submit(&cluster, "one"), first);
    assert_eq!(submit(&cluster, "two"), second);
}

/// Nothing comes back from an address behind a firewall: it is not tried for longer than was said.
#[test]
fn an_address_that_does_not_answer_is_given_up_and_said() {
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = mute.local_addr().unwrap().to_string();
    let project = sweep();
    let began = Instant::now();
    project
        .fails(3, &["cluster", "status", "--on", &at])
        .has("did not answer within 10 s")
        .has("see that `dagrun serve` runs there");
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    // A worker says at once what it waits for.
    project
        .fails(
            3,
            &["worker", "--connect", "127.0.0.1:1", "--reach-within", "1s"],
        )
        .has("waiting: cannot connect to 127.0.0.1:1")
        .has("trying to reach 127.0.0.1:1 again");
}

/// What no worker has is asked for where it can be had: of the cluster, and not of this machine.
#[test]
fn a_node_that_is_too_large_says_what_to_do() {
    let cluster = Cluster(TestCluster::here(
        dagrun(),
        1,
        ClusterSettings {
            lease: Some("1s".into()),
            ..ClusterSettings::default()
        },
    ));
    let project = Project::new("name: large\njobs: {a: {resources: {cpus: 2}, run: 'true'}}\n");
    cluster.run(&project, 0, &[]);
    cluster
        .run(&project, 3, &["--force", "-j", "1"])
        .has("asks for 2 CPUs, and the largest worker has 1 CPU")
        .has("waiting: `a` asks for 2 CPUs")
        .has("; the run gives up after 1.0 s")
        .has("give the run more with `-j`, or join a worker that has so much");
    // It did not break off: it has an end, and a reason.
    let last = project.last_run();
    assert_eq!(last["exit_code"], 3);
    project.ok(&["runs"]).has("exit 3").has_not("not finished");
    project
        .ok(&["show"])
        .has("failed in 1.0 s")
        .has("gave up: `a` asks for 2 CPUs");
    project.write(
        "pipeline.yaml",
        "name: large\njobs: {a: {resources: {cpus: 3}, run: 'true'}}\n",
    );
    let said = cluster.run(&project, 3, &["--force"]);
    said.has("or join a worker that has so much")
        .has_not("`-j`");
}

/// What a worker left that was killed goes when one starts with the same cache; what others beside it have stays.
#[test]
fn a_worker_clears_what_one_before_it_left() {
    let mut cluster = Cluster::new(1);
    let shared = cluster.path("w0");
    let folders = || {
        let entries = std::fs::read_dir(shared.join("work")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    };
    let has = |pid: u32| {
        let its = format!("worker-{pid}-");
        folders().iter().any(|name| name.starts_with(&its))
    };
    cluster.add_worker_at(&shared);
    cluster.wait_for_workers(2);
    let scratch = tempfile::tempdir().unwrap();
    let project = Project::new(&waiting(scratch.path()));
    let at = cluster.address();
    let mut run = project.command(&["pipeline.yaml", "--on", &at]);
    let mut run = run.stderr(Stdio::null()).spawn().unwrap();
    wait_for(&scratch.path().join("began"));
    let before = [0, 1].map(|worker| cluster.worker(worker).id());
    assert_eq!(folders().len(), 2);
    cluster.kill_worker(0);
    cluster.start_worker(0);
    cluster.wait_until("the dead one's folder is gone", |_| !has(before[0]));
    let now = cluster.worker(0).id();
    assert!(has(before[1]) && has(now), "{:?}", folders());
    std::fs::write(scratch.path().join("go"), "").unwrap();
    assert!(run.wait().unwrap().success(), "{}", cluster.logs());
}
