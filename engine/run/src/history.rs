//! What the keys of former runs were made of: for "why did this run?".
//!
//! One line for each node that was executed, in the record format of journals but never synced: it explains, and nothing
//! depends on it. What is damaged is skipped.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write,
    path::PathBuf,
};

use dagrun_events::journal;
use dagrun_model::ActionDigest;
use serde::{Deserialize, Serialize};

use crate::{Workspace, own, workspace::write_whole};

/// Beyond this many bytes, all but the last line of each node is dropped.
const COMPACT_AT: u64 = 32 << 20;

/// One part of a key, as people read it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyRow {
    /// What it is, such as `param` or `input`.
    #[serde(rename = "k")]
    pub kind: String,
    /// Which one.
    #[serde(rename = "n")]
    pub name: String,
    /// Its value or digest.
    #[serde(rename = "v")]
    pub value: String,
}

/// An execution of a node in a former run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PastRun {
    /// The node's first logical id.
    #[serde(rename = "i")]
    pub id: String,
    /// Its job.
    #[serde(rename = "j")]
    pub job: String,
    /// The run.
    #[serde(rename = "r")]
    pub run: String,
    /// Its action digest; none where it is never cached.
    #[serde(rename = "d")]
    pub action: Option<ActionDigest>,
    /// What the digest was made of.
    #[serde(rename = "p")]
    pub parts: Vec<KeyRow>,
    /// The name of its pipeline; empty in lines of older versions.
    #[serde(rename = "l", default)]
    pub pipeline: String,
    /// How it ended; none where its run was cut off before.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub end: Option<PastEnd>,
}

/// How an execution ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PastEnd {
    /// With outputs.
    Succeeded,
    /// It failed: why, in one fragment.
    Failed(String),
    /// It was told to stop.
    Interrupted,
}

/// A line that tells the end of an execution that an earlier line tells the start of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EndLine {
    /// The node's first logical id.
    #[serde(rename = "i")]
    pub(crate) id: String,
    /// The name of its pipeline.
    #[serde(rename = "l")]
    pub(crate) pipeline: String,
    /// The run.
    #[serde(rename = "r")]
    pub(crate) run: String,
    #[serde(rename = "e")]
    pub(crate) end: PastEnd,
}

/// The last execution of each node.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// By pipeline and id.
    nodes: BTreeMap<(String, String), PastRun>,
}

/// Former executions that are compared at most to find the nearest.
const MOST_COMPARED: usize = 20_000;

impl History {
    /// Reads the history of a workspace; what cannot be read is left out.
    pub fn load(workspace: &Workspace) -> Self {
        let mut history = Self::default();
        let bytes = own::read(&workspace.history_path()).unwrap_or_default();
        for (_, payload) in journal::salvage(&bytes) {
            history.take(payload);
        }
        history
    }

    fn take(&mut self, payload: &[u8]) {
        if let Ok(past) = serde_json::from_slice::<PastRun>(payload) {
            self.add(past);
        } else if let Ok(line) = serde_json::from_slice::<EndLine>(payload) {
            self.end(line);
        }
    }

    /// Adds a later execution.
    pub fn add(&mut self, past: PastRun) {
        self.nodes
            .insert((past.pipeline.clone(), past.id.clone()), past);
    }

    fn end(&mut self, line: EndLine) {
        if let Some(past) = self.nodes.get_mut(&(line.pipeline, line.id))
            && past.run == line.run
        {
            past.end = Some(line.end);
        }
    }

    /// The last execution under this id of a pipeline.
    pub fn of(&self, pipeline: &str, id: &str) -> Option<&PastRun> {
        let at = |pipeline: &str| self.nodes.get(&(pipeline.to_owned(), id.to_owned()));
        at(pipeline).or_else(|| at(""))
    }

    /// The nearest former execution: of the id, else that one of the job whose key differs in the fewest parts from `now`.
    pub fn nearest(&self, pipeline: &str, id: &str, job: &str, now: &[KeyRow]) -> Option<&PastRun> {
        let mine = |past: &&PastRun| {
            past.job == job && (past.pipeline == pipeline || past.pipeline.is_empty())
        };
        self.of(pipeline, id).or_else(|| {
            self.nodes
                .values()
                .filter(mine)
                .take(MOST_COMPARED)
                .min_by_key(|past| crate::preview::differences(&past.parts, now).len())
        })
    }
}

/// Appends to a history. Troubles are swallowed: nothing depends on it.
#[derive(Debug)]
pub(crate) struct HistoryWriter {
    path: PathBuf,
    file: Option<File>,
}

impl HistoryWriter {
    pub(crate) fn new(workspace: &Workspace) -> Self {
        Self {
            path: workspace.history_path(),
            file: None,
        }
    }

    /// Appends lines; opens the file with the first ones.
    pub(crate) fn append(&mut self, lines: &[Vec<u8>]) {
        if lines.is_empty() {
            return;
        }
        let mut bytes = Vec::new();
        if self.file.is_none() {
            self.file = self.open(&mut bytes).ok();
        }
        for line in lines {
            journal::encode(line, &mut bytes);
        }
        if let Some(file) = &mut self.file {
            let _ = file.write_all(&bytes);
        }
    }

    /// A torn tail stays where it is: readers skip it.
    fn open(&self, head: &mut Vec<u8>) -> std::io::Result<File> {
        if fs::metadata(&self.path).is_ok_and(|m| m.len() > COMPACT_AT) {
            self.compact();
        }
        let file = own::open(OpenOptions::new().append(true).create(true), &self.path)?;
        if file.metadata()?.len() == 0 {
            head.extend_from_slice(&journal::header());
        }
        Ok(file)
    }

    fn compact(&self) {
        let bytes = own::read(&self.path).unwrap_or_default();
        let mut last = History::default();
        for (_, payload) in journal::salvage(&bytes) {
            last.take(payload);
        }
        let mut out = journal::header().to_vec();
        for past in last.nodes.values() {
            let payload = serde_json::to_vec(past).expect("a past run is plain data");
            journal::encode(&payload, &mut out);
        }
        // The history is as good uncompacted.
        let _ = write_whole(&self.path, &out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str, run: &str) -> Vec<u8> {
        serde_json::to_vec(&PastRun {
            id: id.into(),
            job: id.split('[').next().unwrap().into(),
            run: run.into(),
            action: None,
            parts: vec![KeyRow {
                kind: "axis".into(),
                name: "x".into(),
                value: id.into(),
            }],
            pipeline: "p".into(),
            end: None,
        })
        .unwrap()
    }

    fn end(id: &str, run: &str, end: PastEnd) -> Vec<u8> {
        serde_json::to_vec(&EndLine {
            id: id.into(),
            pipeline: "p".into(),
            run: run.into(),
            end,
        })
        .unwrap()
    }

    #[test]
    fn the_last_execution_counts_and_torn_tails_are_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(folder.path()).unwrap();
        HistoryWriter::new(&workspace).append(&[line("a[x=1]", "r1"), line("a[x=2]", "r1")]);
        let mut bytes = fs::read(workspace.history_path()).unwrap();
        bytes.extend_from_slice(&[7; 5]);
        fs::write(workspace.history_path(), &bytes).unwrap();
        let failed = PastEnd::Failed("exit code 3".into());
        HistoryWriter::new(&workspace).append(&[
            line("a[x=1]", "r2"),
            end("a[x=1]", "r2", failed.clone()),
            end("a[x=2]", "another", PastEnd::Succeeded),
        ]);

        let history = History::load(&workspace);
        assert_eq!(history.of("p", "a[x=1]").unwrap().run, "r2");
        assert_eq!(history.of("p", "a[x=1]").unwrap().end, Some(failed.clone()));
        assert_eq!(history.of("p", "a[x=2]").unwrap().run, "r1");
        assert_eq!(history.of("p", "a[x=2]").unwrap().end, None);
        let now = [KeyRow {
            kind: "axis".into(),
            name: "x".into(),
            value: "a[x=2]".into(),
        }];
        let nearest = |pipeline, job| history.nearest(pipeline, "a[x=3]", job, &now);
        assert_eq!(nearest("p", "a").unwrap().id, "a[x=2]");
        assert!(nearest("p", "b").is_none());
        assert!(nearest("another", "a").is_none());

        HistoryWriter::new(&workspace).compact();
        let history = History::load(&workspace);
        let past = history.of("p", "a[x=1]").unwrap();
        assert_eq!((past.run.as_str(), &past.end), ("r2", &Some(failed)));
    }
}
