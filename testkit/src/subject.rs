//! A run that may die at any moment, and the check that nothing of what it had reported is lost.
//!
//! Whoever uses it starts [`Subject::run`], ends it in some violent way, calls [`Subject::note`] for what it had reported until
//! then, and [`Subject::recover`], which goes on with the run and holds it to that.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

/// Some nodes, as many that each read one of them, and one that gathers. `params.round` makes all of them new.
///
/// Every other result is large, for those take another way to the disk than small ones.
const PIPELINE: &str = r#"
dagrun: 1
name: subject
pass_env: [DAGRUN_TEST_MARK]
params: {round: {type: int, default: 0}}
jobs:
  first:
    matrix: {i: "${{ range(1, WIDTH) }}"}
    outputs: {o: o.txt}
    run: |
      sleep 0.01
      (echo first ${{ params.round }} ${{ matrix.i }}; seq 1 ${{ LARGE * (matrix.i % 2) }}) > ${{ outputs.o }}
  second:
    needs: first
    for_each: i
    inputs: {o: "${{ needs.first.outputs.o }}"}
    outputs: {o: o.txt}
    run: sed s/first/second/ ${{ inputs.o }} > ${{ outputs.o }}; echo a line for the log
  all:
    needs: second
    inputs: {o: "${{ needs.second.outputs.o }}"}
    outputs: {o: o.txt}
    run: cat ${{ inputs.o }} > ${{ outputs.o }}
export: {all.txt: "${{ jobs.all.outputs.o }}"}
"#;

/// The lines of a large result: 44 KiB, which is well beyond what a store takes for small.
pub(crate) const LARGE: u64 = 9000;

/// A project with its cache, of which is known what it has to give.
#[derive(Debug)]
pub struct Subject {
    dagrun: PathBuf,
    root: PathBuf,
    events: PathBuf,
    width: u64,
    round: u64,
    reported: BTreeSet<String>,
}

impl Subject {
    /// Lays it out below `root`, with twice as many nodes as `width` and one more. What runs report goes to a file in `beside`, which
    /// has to outlive any fault.
    ///
    /// # Errors
    /// When files cannot be written.
    pub fn new(dagrun: &Path, root: &Path, beside: &Path, width: u64) -> std::io::Result<Self> {
        let subject = Self {
            dagrun: dagrun.into(),
            root: root.into(),
            events: beside.join("events"),
            width,
            round: 0,
            reported: BTreeSet::new(),
        };
        fs::create_dir_all(subject.project())?;
        let pipeline = PIPELINE
            .replace("WIDTH", &width.to_string())
            .replace("LARGE", &LARGE.to_string());
        fs::write(subject.project().join("pipeline.yaml"), pipeline)?;
        // Else a power cut takes the pipeline itself.
        rustix::fs::sync();
        Ok(subject)
    }

    fn project(&self) -> PathBuf {
        self.root.join("p")
    }

    /// A command in the project.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.dagrun);
        self.prepare(&mut command);
        command.args(args);
        command
    }

    /// Gives a command the folder and the environment of the project.
    pub fn prepare(&self, command: &mut Command) {
        command
            .current_dir(self.project())
            .env("DAGRUN_CACHE", self.root.join("cache"))
            .env("XDG_CONFIG_HOME", self.root.join("config"))
            .stdin(Stdio::null());
    }

    /// The arguments of a run that reports into the file which [`note`](Self::note) reads.
    pub fn run_args(&self) -> [String; 7] {
        let round = format!("round={}", self.round);
        let events = self.events.display().to_string();
        ["run", "--quiet", "-j2", "-p", &round, "--events", &events].map(str::to_owned)
    }

    /// A run that is to die.
    pub fn run(&self) -> Command {
        let mut command = self.command(&[]);
        command
            .args(self.run_args())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// How many results runs of this round have reported, as far as that was noted.
    pub fn reported(&self) -> usize {
        self.reported.len()
    }

    /// From here on all nodes are new.
    pub fn next_round(&mut self) {
        self.round += 1;
        self.reported.clear();
    }

    /// Notes the results that the last run has reported so far. Gives how many there are.
    pub fn note(&mut self) -> usize {
        let events = fs::read_to_string(&self.events).unwrap_or_default();
        // The last line may be a part of one.
        for event in events
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        {
            let succeeded = event["event"] == "node_done" && event["end"] == "succeeded";
            if let Some(node) = event["node"].as_str().filter(|_| succeeded) {
                self.reported.insert(node.into());
            }
        }
        self.reported.len()
    }

    /// Goes on after a fault: the run ends well, with the right bytes, and runs nothing again that was reported. Gives the outputs of
    /// the nodes that it ran, as digests.
    ///
    /// # Errors
    /// What was lost or is wrong.
    pub fn recover(&mut self) -> Result<BTreeSet<String>, String> {
        self.succeeds(&mut self.run())?;
        self.check_results()?;
        let shown = self.last_run()?;
        let rows = shown["nodes"].as_array().into_iter().flatten();
        let mut ran = rows.filter(|row| row["attempts"] != 0);
        let outputs = ran.clone().map(|row| &row["outputs"]["o"]["digest"]);
        let outputs = outputs.filter_map(Value::as_str).map(str::to_owned);
        let outputs = outputs.collect();
        if let Some(again) = ran.find(|row| {
            row["id"]
                .as_str()
                .is_some_and(|id| self.reported.contains(id))
        }) {
            return Err(format!("was reported, and ran again: {again}"));
        }
        let counts = &shown["counts"];
        let ended = counts["succeeded"].as_u64().zip(counts["cached"].as_u64());
        if ended.is_none_or(|(ran, hits)| ran + hits != 2 * self.width + 1) {
            return Err(format!("not all nodes have ended well: {shown}"));
        }
        self.succeeds(&mut self.command(&["cache", "verify"]))?;
        self.succeeds(&mut self.run())?;
        match &self.last_run()?["executed"] {
            executed if executed == 0 => Ok(outputs),
            executed => Err(format!("a run of hits has started {executed} nodes")),
        }
    }

    /// Compares what is exported with what it has to be.
    fn check_results(&self) -> Result<(), String> {
        let expected: String = (1..=self.width)
            .map(|i| format!("second {} {i}\n{}", self.round, rest(i)))
            .collect();
        match fs::read_to_string(self.project().join("all.txt")) {
            Ok(text) if text == expected => Ok(()),
            Ok(text) => Err(format!("wrong result of {} bytes: {text:.99}", text.len())),
            Err(error) => Err(format!("no result: {error}")),
        }
    }

    fn last_run(&self) -> Result<Value, String> {
        let said = self.succeeds(&mut self.command(&["show", "--json"]))?;
        serde_json::from_slice(&said).map_err(|error| format!("bad JSON of `show`: {error}"))
    }

    fn succeeds(&self, command: &mut Command) -> Result<Vec<u8>, String> {
        let output = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .map_err(|error| format!("{command:?}: {error}"))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(format!(
            "{command:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}

/// What the result of `i` has after its first line.
pub(crate) fn rest(i: u64) -> String {
    (1..=LARGE * (i % 2))
        .map(|line| format!("{line}\n"))
        .collect()
}
