//! Runs on a cluster whose processes die, and the check that each result was committed once and that none was lost.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    cluster::TestCluster,
    subject::{LARGE, rest},
};

/// How long a run may take in spite of all.
const PATIENCE: Duration = Duration::from_secs(180);

/// Some nodes, as many that each read one of them, and one that gathers. `params.round` makes all of them new.
///
/// Every other result is large, for those take another way to the disk than small ones.
const PIPELINE: &str = r#"
name: rounds
params: {round: {type: int}}
jobs:
  first:
    matrix: {i: "${{ range(1, WIDTH) }}"}
    outputs: {o: o.txt}
    run: |
      sleep 0.1
      (echo first ${{ params.round }} ${{ matrix.i }}; seq 1 ${{ LARGE * (matrix.i % 2) }}) > o.txt
  second:
    needs: first
    for_each: i
    inputs: {o: "${{ needs.first.outputs.o }}"}
    outputs: {o: o.txt}
    run: sleep 0.1; sed s/first/second/ ${{ inputs.o }} > o.txt
  all:
    needs: second
    inputs: {o: "${{ needs.second.outputs.o }}"}
    outputs: {o: o.txt}
    run: cat ${{ inputs.o }} > o.txt
export: {all.txt: "${{ jobs.all.outputs.o }}"}
"#;

/// A project that runs again and again on a cluster, each time with nodes that are new.
#[derive(Debug)]
pub struct Rounds {
    project: PathBuf,
    width: u64,
    round: u64,
    seen: BTreeSet<String>,
}

/// What became of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Attempts that were started.
    pub attempts: u64,
    /// Drivers that it took: one, and one more for each coordinator that was killed while it ran.
    pub drivers: u64,
}

impl Rounds {
    /// Lays the project out, with twice as many nodes as `width` and one more.
    ///
    /// # Panics
    /// When files cannot be written.
    pub fn new(cluster: &TestCluster, width: u64) -> Self {
        let project = cluster.path("rounds");
        fs::create_dir_all(&project).expect("a folder can be made");
        let pipeline = PIPELINE
            .replace("WIDTH", &width.to_string())
            .replace("LARGE", &LARGE.to_string());
        fs::write(project.join("pipeline.yaml"), pipeline).expect("a file can be written");
        Self {
            project,
            width,
            round: 0,
            seen: BTreeSet::new(),
        }
    }

    /// Starts the client of a new run.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&mut self, cluster: &TestCluster) -> Child {
        self.round += 1;
        self.client(cluster)
    }

    /// Runs the last round once more, to its end.
    ///
    /// # Errors
    /// As [`Rounds::finish`].
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn again(&mut self, cluster: &TestCluster) -> Result<Round, String> {
        let client = self.client(cluster);
        self.finish(cluster, client)
    }

    fn client(&self, cluster: &TestCluster) -> Child {
        let round = format!("round={}", self.round);
        let mut client = cluster.client(&self.project, &["pipeline.yaml", "--quiet", "-p", &round]);
        let client = client.stdout(Stdio::piped()).stderr(Stdio::piped());
        client.spawn().expect("dagrun can be started")
    }

    /// Waits for the run's end: it succeeds, with the right bytes, and no node was committed by two of its drivers.
    ///
    /// # Errors
    /// What was lost, is wrong or was done twice.
    pub fn finish(&mut self, cluster: &TestCluster, client: Child) -> Result<Round, String> {
        self.wait(cluster, client)?;
        let expected: String = (1..=self.width)
            .map(|i| format!("second {} {i}\n{}", self.round, rest(i)))
            .collect();
        match fs::read_to_string(self.project.join("all.txt")) {
            Ok(text) if text == expected => {}
            Ok(text) => return Err(format!("round {}: wrong result: {text:.99}", self.round)),
            Err(error) => return Err(format!("round {}: no result: {error}", self.round)),
        }
        self.check_journals(cluster)
    }

    fn wait(&self, cluster: &TestCluster, mut client: Child) -> Result<(), String> {
        let began = Instant::now();
        while client.try_wait().is_ok_and(|ended| ended.is_none()) {
            if began.elapsed() > PATIENCE {
                let status = cluster.status();
                let _ = client.kill();
                let logs = cluster.logs();
                return Err(format!("round {} hangs: {status}\n{logs}", self.round));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let said = client.wait_with_output().map_err(|e| e.to_string())?;
        if said.status.success() {
            return Ok(());
        }
        Err(format!(
            "round {}: {}\n{}\n{}",
            self.round,
            said.status,
            String::from_utf8_lossy(&said.stderr),
            cluster.logs()
        ))
    }

    /// Reads what each driver of the last run has written.
    fn check_journals(&mut self, cluster: &TestCluster) -> Result<Round, String> {
        let mut told = Round::default();
        let mut committed = BTreeSet::new();
        let mut last = Value::Null;
        for run in self.new_journals() {
            let shown = self.show(cluster, &run)?;
            told.drivers += 1;
            told.attempts += shown["executed"].as_u64().unwrap_or(0);
            for node in shown["nodes"].as_array().into_iter().flatten() {
                let id = node["id"].as_str().unwrap_or_default().to_owned();
                if node["outcome"] == "succeeded" && !committed.insert(id) {
                    return Err(format!(
                        "round {}: committed twice, the second time in run {run}: {node}\n{}\n{}",
                        self.round,
                        self.told_of_late(),
                        cluster.logs()
                    ));
                }
            }
            last = shown;
        }
        let counts = &last["counts"];
        let ended = counts["succeeded"].as_u64().zip(counts["cached"].as_u64());
        if ended.is_none_or(|(ran, hits)| ran + hits != 2 * self.width + 1) {
            return Err(format!("round {}: not all nodes ended: {last}", self.round));
        }
        Ok(told)
    }

    /// What the last two journals say, for people: a record a line.
    fn told_of_late(&self) -> String {
        let runs = self.seen.iter().rev().take(2);
        let journals = runs.filter_map(|run| {
            let path = self
                .project
                .join(".dagrun/runs")
                .join(run)
                .join("journal.log");
            let bytes = fs::read(path).ok()?;
            let text = String::from_utf8_lossy(&bytes).replace("{\"at\":", "\n{\"at\":");
            Some(format!("== {run}{text}\n"))
        });
        journals.collect()
    }

    /// The runs whose journals came since the last call, oldest first.
    fn new_journals(&mut self) -> Vec<String> {
        let entries = fs::read_dir(self.project.join(".dagrun/runs"));
        let entries = entries.into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut new: Vec<String> = names.filter(|it| self.seen.insert(it.clone())).collect();
        new.sort_unstable();
        new
    }

    fn show(&self, cluster: &TestCluster, run: &str) -> Result<Value, String> {
        let mut show = Command::new(cluster.program());
        let said = show
            .args(["show", run, "--json"])
            .current_dir(&self.project)
            .output()
            .map_err(|error| error.to_string())?;
        serde_json::from_slice(&said.stdout)
            .map_err(|error| format!("`show {run}`: {error}: {said:?}"))
    }
}
