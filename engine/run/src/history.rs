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

use crate::{Workspace, workspace::write_whole};

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
}

/// The last execution of each node.
#[derive(Clone, Debug, Default)]
pub struct History {
    nodes: BTreeMap<String, PastRun>,
    last_of_job: BTreeMap<String, String>,
}

impl History {
    /// Reads the history of a workspace; what cannot be read is left out.
    pub fn load(workspace: &Workspace) -> Self {
        let mut history = Self::default();
        let bytes = fs::read(workspace.history_path()).unwrap_or_default();
        for (_, payload) in journal::salvage(&bytes) {
            if let Ok(past) = serde_json::from_slice::<PastRun>(payload) {
                history.add(past);
            }
        }
        history
    }

    /// Adds a later execution.
    pub fn add(&mut self, past: PastRun) {
        self.last_of_job.insert(past.job.clone(), past.id.clone());
        self.nodes.insert(past.id.clone(), past);
    }

    /// The last execution under this id.
    pub fn of(&self, id: &str) -> Option<&PastRun> {
        self.nodes.get(id)
    }

    /// The nearest former execution: of the id, else the last of the job.
    pub fn nearest(&self, id: &str, job: &str) -> Option<&PastRun> {
        self.of(id)
            .or_else(|| self.nodes.get(self.last_of_job.get(job)?))
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
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.path)?;
        if file.metadata()?.len() == 0 {
            head.extend_from_slice(&journal::header());
        }
        Ok(file)
    }

    fn compact(&self) {
        let bytes = fs::read(&self.path).unwrap_or_default();
        let mut last: BTreeMap<String, &[u8]> = BTreeMap::new();
        for (_, payload) in journal::salvage(&bytes) {
            if let Ok(past) = serde_json::from_slice::<PastRun>(payload) {
                last.insert(past.id, payload);
            }
        }
        let mut out = journal::header().to_vec();
        for payload in last.values() {
            journal::encode(payload, &mut out);
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
            parts: Vec::new(),
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
        HistoryWriter::new(&workspace).append(&[line("a[x=1]", "r2")]);

        let history = History::load(&workspace);
        assert_eq!(history.of("a[x=1]").unwrap().run, "r2");
        assert_eq!(history.of("a[x=2]").unwrap().run, "r1");
        assert_eq!(history.nearest("a[x=3]", "a").unwrap().id, "a[x=1]");
        assert!(history.nearest("b", "b").is_none());

        HistoryWriter::new(&workspace).compact();
        assert_eq!(History::load(&workspace).of("a[x=1]").unwrap().run, "r2");
    }
}
