//! What the keys of former runs were made of: for "why did this run?".
//!
//! One line for each node that was executed, in the record format of journals but never synced: it explains, and nothing
//! depends on it. What is damaged is skipped.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    path::PathBuf,
};

use dagrun_events::journal;
use dagrun_model::ActionDigest;
use serde::{Deserialize, Serialize};

use crate::{Workspace, own, workspace::write_whole};

/// Beyond this many bytes, and twice those that were left the last time, all but the last few executions of each node are dropped.
const COMPACT_AT: u64 = 32 << 20;
/// Where a compacted file says how many bytes it had: behind the header.
const LEFT_AT: usize = 128;

/// Executions with different keys that are kept of a node.
const KEPT: usize = 4;

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

/// The first line of a compacted file.
#[derive(Serialize, Deserialize)]
struct Compacted {
    /// Bytes that were left.
    left: u64,
}

/// The last executions of each node, each with another key.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// By pipeline and id, the latest last.
    nodes: BTreeMap<(String, String), Vec<PastRun>>,
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

    /// Adds a later execution. It takes the place of one with the same key, else of the oldest where there are too many.
    pub fn add(&mut self, past: PastRun) {
        let name = (past.pipeline.clone(), past.id.clone());
        let kept = self.nodes.entry(name).or_default();
        kept.retain(|former| !former.has_key_of(&past));
        kept.push(past);
        kept.drain(..kept.len().saturating_sub(KEPT));
    }

    fn end(&mut self, line: EndLine) {
        let kept = self.nodes.get_mut(&(line.pipeline, line.id));
        let past = kept.and_then(|kept| kept.iter_mut().rfind(|past| past.run == line.run));
        if let Some(past) = past {
            past.end = Some(line.end);
        }
    }

    /// The kept executions under this id of a pipeline, the latest last.
    pub fn of(&self, pipeline: &str, id: &str) -> &[PastRun] {
        let at = |pipeline: &str| self.nodes.get(&(pipeline.to_owned(), id.to_owned()));
        at(pipeline).or_else(|| at("")).map_or(&[], Vec::as_slice)
    }

    /// The nearest former execution, of the id, else of its job: that whose key differs in the fewest parts from `now`, and
    /// the latest of several such of the id.
    pub fn nearest(&self, pipeline: &str, id: &str, job: &str, now: &[KeyRow]) -> Option<&PastRun> {
        let mine = |past: &&PastRun| {
            past.job == job && (past.pipeline == pipeline || past.pipeline.is_empty())
        };
        nearest(self.of(pipeline, id).iter().rev(), now).or_else(|| {
            let all = self.nodes.values().flat_map(|kept| kept.iter().rev());
            nearest(all.filter(mine).take(MOST_COMPARED), now)
        })
    }

    /// The lines of a file that tells this, with at most so many executions of each node.
    fn lines(&self, most: usize) -> Vec<u8> {
        let mut out = journal::header().to_vec();
        for kept in self.nodes.values() {
            for past in &kept[kept.len().saturating_sub(most)..] {
                let payload = serde_json::to_vec(past).expect("a past run is plain data");
                journal::encode(&payload, &mut out);
            }
        }
        out
    }
}

impl PastRun {
    fn has_key_of(&self, other: &Self) -> bool {
        match (self.action, other.action) {
            (Some(mine), Some(its)) => mine == its,
            _ => self.parts == other.parts,
        }
    }
}

/// The first of those whose keys differ in the fewest parts from `now`; the first at all where nothing is known of `now`.
pub(crate) fn nearest<'a>(
    mut former: impl Iterator<Item = &'a PastRun>,
    now: &[KeyRow],
) -> Option<&'a PastRun> {
    if now.is_empty() {
        return former.next();
    }
    former.min_by_key(|past| crate::preview::differences(&past.parts, now).len())
}

/// Appends to a history. Troubles are swallowed: nothing depends on it.
#[derive(Debug)]
pub(crate) struct HistoryWriter {
    path: PathBuf,
    file: Option<File>,
    compact_at: u64,
}

impl HistoryWriter {
    pub(crate) fn new(workspace: &Workspace) -> Self {
        Self {
            path: workspace.history_path(),
            file: None,
            compact_at: COMPACT_AT,
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
        let len = fs::metadata(&self.path).map_or(0, |meta| meta.len());
        if len > self.compact_at && len > 2 * self.left() {
            self.compact();
        }
        let file = own::open(OpenOptions::new().append(true).create(true), &self.path)?;
        if file.metadata()?.len() == 0 {
            head.extend_from_slice(&journal::header());
        }
        Ok(file)
    }

    /// How many bytes the last compaction left; 0 where there was none. One that gains nothing would else be made anew for each run.
    fn left(&self) -> u64 {
        let mut head = Vec::new();
        let opened = own::open(OpenOptions::new().read(true), &self.path);
        let read = opened.and_then(|file| file.take(LEFT_AT as u64).read_to_end(&mut head));
        let mut left = 0;
        if read.is_ok() && head.starts_with(&journal::header()) {
            let mut first = true;
            journal::decode_piece(&head[journal::HEADER_LEN..], |_, payload| {
                if std::mem::take(&mut first) {
                    left = serde_json::from_slice(payload).map_or(0, |it: Compacted| it.left);
                }
            });
        }
        left
    }

    fn compact(&self) {
        let bytes = own::read(&self.path).unwrap_or_default();
        let mut last = History::default();
        for (_, payload) in journal::salvage(&bytes) {
            last.take(payload);
        }
        let mut out = last.lines(KEPT);
        if out.len() as u64 > self.compact_at / 2 {
            out = last.lines(1);
        }
        let left = out.len() as u64;
        let first = serde_json::to_vec(&Compacted { left }).expect("it is plain data");
        let mut marked = journal::header().to_vec();
        journal::encode(&first, &mut marked);
        marked.extend_from_slice(&out[journal::HEADER_LEN..]);
        // The history is as good uncompacted.
        let _ = write_whole(&self.path, &marked);
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

    fn last<'a>(history: &'a History, id: &str) -> &'a PastRun {
        history.of("p", id).last().unwrap()
    }

    /// An execution with a key of two parts.
    fn past(run: &str, reps: &str, script: &str) -> PastRun {
        let row = |kind: &str, name: &str, value: &str| KeyRow {
            kind: kind.into(),
            name: name.into(),
            value: value.into(),
        };
        PastRun {
            id: "score".into(),
            job: "score".into(),
            run: run.into(),
            action: None,
            parts: vec![
                row("input", "series", reps),
                row("input", "score.py", script),
            ],
            pipeline: "p".into(),
            end: None,
        }
    }

    #[test]
    fn the_nearest_of_the_last_executions_is_that_with_the_fewest_changes_and_the_latest_of_such() {
        let mut history = History::default();
        history.add(past("r1", "8", "old"));
        history.add(past("r2", "3", "old"));
        let run_of = |history: &History, now: &PastRun| {
            let found = history.nearest("p", "score", "score", &now.parts);
            found.unwrap().run.clone()
        };
        assert_eq!(run_of(&history, &past("", "8", "new")), "r1");
        assert_eq!(run_of(&history, &past("", "3", "new")), "r2");
        assert_eq!(run_of(&history, &past("", "5", "old")), "r2");
        let unknown = history.nearest("p", "score", "score", &[]);
        assert_eq!(unknown.unwrap().run, "r2");

        history.add(past("r3", "8", "old"));
        assert_eq!(run_of(&history, &past("", "5", "old")), "r3");
        for reps in 10..20 {
            history.add(past("r4", &reps.to_string(), "old"));
        }
        assert_eq!(history.of("p", "score").len(), KEPT);
        assert_eq!(history.lines(1).len(), {
            let mut one = History::default();
            one.add(past("r4", "19", "old"));
            one.lines(KEPT).len()
        });
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
        assert_eq!(last(&history, "a[x=1]").run, "r2");
        assert_eq!(last(&history, "a[x=1]").end, Some(failed.clone()));
        assert_eq!(last(&history, "a[x=2]").run, "r1");
        assert_eq!(last(&history, "a[x=2]").end, None);
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
        let past = last(&history, "a[x=1]");
        assert_eq!((past.run.as_str(), &past.end), ("r2", &Some(failed)));
    }

    #[test]
    fn a_history_that_cannot_be_made_smaller_is_compacted_again_only_when_it_has_doubled() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(folder.path()).unwrap();
        let path = workspace.history_path();
        let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&path).unwrap());
        let append = |from: u32, lines: u32| {
            let line = |at| line(&format!("a[x={at}]"), "r1");
            let lines: Vec<_> = (from..from + lines).map(line).collect();
            let mut writer = HistoryWriter::new(&workspace);
            writer.compact_at = 4096;
            writer.append(&lines);
            inode()
        };
        let files = [(0, 100), (100, 1), (101, 150), (251, 1)].map(|(from, n)| append(from, n));
        // The first that opens a large one compacts it; the next finds it as large as that left it; then it has doubled.
        assert_ne!(files[0], files[1]);
        assert_eq!(files[1], files[2]);
        assert_ne!(files[2], files[3]);
        assert_eq!(last(&History::load(&workspace), "a[x=0]").run, "r1");
    }
}
