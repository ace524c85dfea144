//! Journals on disk, and the thread that makes results durable. A run of hits alone has no such thread.
//!
//! Batches that wait are put into one write, and the store syncs once for all their results. Within a batch the store goes first: a
//! record never speaks of a result that the store does not have. Only then is the driver told. The journal itself is synced at once
//! where it alone keeps something, a failure that was charged; otherwise it follows a little later, because what is lost with it is
//! the story of results and not the results. Where nothing runs meanwhile, the driver writes itself instead of waking a thread and
//! waiting for it.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use dagrun_events::{
    Record,
    journal::{self, End},
};
use dagrun_executor_api::Executor;
use dagrun_model::{ActionDigest, Artifact, AttemptId, Digest, FailureCause, NodeIx};
use dagrun_store::{ActionEntry, CommitReport, Differing, Store, StoreError};
use rustc_hash::FxHashSet;
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    RunError, Subscriber, history::HistoryWriter, own, study::LogWriter, workspace::write_whole,
};

/// How long a result may wait for others to share a sync. It waits no longer than there is other work to do meanwhile: see
/// [`JournalHandle::hurry`].
const WINDOW: Duration = Duration::from_millis(20);
/// How many results are synced at once at most.
const MOST: usize = 512;
/// How many records wait at most.
const MOST_RECORDS: usize = 4096;
/// How long the journal may be behind the store.
const LAG: Duration = Duration::from_millis(100);

/// A journal as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// Its records.
    pub records: Vec<Record>,
    /// It ends within a record, at this byte: the process or the machine died while it was written.
    pub torn_at: Option<u64>,
}

/// Reads a journal. Never changes it.
///
/// # Errors
/// When it cannot be read, or is damaged in its middle.
pub fn load(path: &Path) -> Result<Loaded, RunError> {
    let bytes = own::read(path).map_err(RunError::io("read", path))?;
    let decoded = journal::decode(&bytes);
    let torn_at = whole(path, decoded.end)?;
    let records = decoded
        .records
        .iter()
        .map(|(at, payload)| record(path, *at, payload))
        .collect::<Result<_, _>>()?;
    Ok(Loaded { records, torn_at })
}

/// Where a journal is torn; an error where it is damaged before its end.
pub(crate) fn whole(path: &Path, end: End) -> Result<Option<u64>, RunError> {
    match end {
        End::Clean => Ok(None),
        End::Torn { at } => Ok(Some(at)),
        End::Corrupt { at, next } => Err(corrupt(path, at, Some(next))),
        End::BadHeader => Err(corrupt(path, 0, None)),
    }
}

/// A record of a journal, in full.
pub(crate) fn record(path: &Path, at: u64, payload: &[u8]) -> Result<Record, RunError> {
    Record::from_json(payload).map_err(|_| corrupt(path, at, None))
}

fn corrupt(path: &Path, at: u64, next: Option<u64>) -> RunError {
    RunError::CorruptJournal {
        path: path.to_path_buf(),
        at,
        next,
    }
}

/// Rewrites a damaged journal with the records that can still be read, and keeps a copy of it. Returns the copy's path and
/// how many records were kept.
///
/// # Errors
/// When a file cannot be read or written.
pub fn repair(path: &Path) -> Result<(PathBuf, usize), RunError> {
    let bytes = own::read(path).map_err(RunError::io("read", path))?;
    let copy = path.with_extension("damaged");
    write_whole(&copy, &bytes)?;
    let mut out = journal::header().to_vec();
    let mut kept = 0;
    for (_, payload) in journal::salvage(&bytes) {
        if Record::from_json(payload).is_ok() {
            journal::encode(payload, &mut out);
            kept += 1;
        }
    }
    write_whole(path, &out)?;
    Ok((copy, kept))
}

/// Something for the journal thread.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Records in order.
    pub(crate) records: Vec<Record>,
    /// Results to make durable before the records.
    pub(crate) commits: Vec<Commit>,
    /// The records must be durable soon though no result depends on them.
    pub(crate) sync: bool,
    /// Lines for the history of keys.
    pub(crate) history: Vec<Vec<u8>>,
    /// Encoded records for the log of the study.
    pub(crate) study: Vec<u8>,
    /// The driver waits to hear that the log of the study is durable.
    pub(crate) tell_durable: bool,
    /// Attempts whose ends are among the records and results.
    pub(crate) settled: Vec<AttemptId>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
            && self.commits.is_empty()
            && self.history.is_empty()
            && self.study.is_empty()
            && !self.tell_durable
            && !self.sync
            && self.settled.is_empty()
    }

    /// Something is to be made durable.
    fn needs_thread(&self) -> bool {
        self.sync || !self.commits.is_empty() || !self.study.is_empty()
    }

    fn append(&mut self, mut other: Batch) {
        self.records.append(&mut other.records);
        self.commits.append(&mut other.commits);
        self.history.append(&mut other.history);
        self.study.append(&mut other.study);
        self.settled.append(&mut other.settled);
        self.tell_durable |= other.tell_durable;
        self.sync |= other.sync;
    }
}

/// A result to make durable.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) node: NodeIx,
    pub(crate) digest: ActionDigest,
    pub(crate) entry: ActionEntry,
    /// The caller asked for this result: it holds, also where the store has another one.
    pub(crate) replace: bool,
}

/// A node whose result is durable, and what the store had before where that differs.
pub(crate) type Committed = (NodeIx, Option<Box<Differing>>);

/// What the journal thread says.
#[derive(Debug)]
pub(crate) enum Durable {
    /// These results are durable, and in the journal.
    Committed(Vec<Committed>),
    /// This result could not be made durable, for a reason of its own.
    NotCommitted(NodeIx, FailureCause),
    /// The ends of these attempts are in the journal, and those of successes durable.
    Settled(Vec<AttemptId>),
    /// All that the log of the study was given is durable.
    StudyLog,
    /// Nothing more will be written.
    Failed(String),
}

/// The driver's end of the journal and its thread.
pub(crate) struct JournalHandle(Place);

/// Where the journal is written.
enum Place {
    /// Here, by the driver itself: a run of hits alone has nothing to make durable, and needs no thread for its few writes.
    Here(Box<Writer>),
    Thread(Arc<Shared>, JoinHandle<Result<(), String>>),
    Failed(String),
}

impl JournalHandle {
    /// Makes the journal file of a run. Its thread is started when something has to be made durable, or by
    /// [`JournalHandle::begin_thread`].
    pub(crate) fn create(
        path: &Path,
        store: Store,
        subscribers: Vec<Subscriber>,
        history: HistoryWriter,
        study: Option<LogWriter>,
        replies: UnboundedSender<Durable>,
    ) -> Result<Self, RunError> {
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(path)
            .map_err(RunError::io("make", path))?;
        Ok(Self(Place::Here(Box::new(Writer {
            file,
            path: path.to_path_buf(),
            store,
            subscribers,
            history,
            study,
            buffer: journal::header().to_vec(),
            linked: false,
            ran: false,
            behind: None,
            replies,
            executor: None,
        }))))
    }

    /// From now on nobody waits for a write.
    pub(crate) fn begin_thread(&mut self) {
        let unfinished = Place::Failed("the journal's writer died".into());
        self.0 = match std::mem::replace(&mut self.0, unfinished) {
            Place::Here(writer) => {
                let (path, replies) = (writer.path.clone(), writer.replies.clone());
                let shared = Arc::new(Shared::new(*writer));
                let theirs = Arc::clone(&shared);
                let thread = std::thread::Builder::new()
                    .name("journal".into())
                    .spawn(move || theirs.serve());
                match thread {
                    Ok(thread) => Place::Thread(shared, thread),
                    Err(error) => {
                        let path = path.display();
                        failed(
                            format!("cannot start the writer of `{path}`: {error}"),
                            &replies,
                        )
                    }
                }
            }
            other => other,
        };
    }

    pub(crate) fn send(&mut self, batch: Batch) {
        if batch.needs_thread() {
            self.begin_thread();
        }
        match &mut self.0 {
            Place::Here(writer) => {
                if let Err(error) = writer.write(batch) {
                    self.0 = failed(error, &writer.replies);
                }
            }
            // A writer that failed has said so by a reply, and takes nothing more.
            Place::Thread(shared, _) => shared.add(batch),
            Place::Failed(_) => {}
        }
    }

    /// Where results come from: blobs that it holds durably need not be in the store.
    pub(crate) fn results_of(&mut self, executor: Arc<dyn Executor>) {
        match &mut self.0 {
            Place::Here(writer) => writer.executor = Some(executor),
            Place::Thread(shared, _) => {
                let mut writer = shared.writer.lock().unwrap_or_else(PoisonError::into_inner);
                writer.executor = Some(executor);
            }
            Place::Failed(_) => {}
        }
    }

    /// Nothing else will come until the results that wait are durable. `idle` where nothing runs either: then they are made
    /// durable before this returns.
    pub(crate) fn hurry(&self, idle: bool) {
        if let Place::Thread(shared, _) = &self.0 {
            shared.hurry(idle);
        }
    }

    /// Writes what waits and ends the thread.
    pub(crate) fn close(self) -> Result<(), String> {
        match self.0 {
            Place::Here(_) => Ok(()),
            Place::Failed(error) => Err(error),
            Place::Thread(shared, thread) => {
                shared.close();
                match thread.join() {
                    Ok(result) => result,
                    Err(_) => Err("the journal's writer died".into()),
                }
            }
        }
    }
}

/// Tells the driver that nothing more will be written.
fn failed(error: String, replies: &UnboundedSender<Durable>) -> Place {
    let _ = replies.send(Durable::Failed(error.clone()));
    Place::Failed(error)
}

/// What the driver and the journal's thread have in common.
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Held by whoever has set [`Queue::writing`].
    writer: Mutex<Writer>,
}

#[derive(Default)]
struct Queue {
    waiting: Batch,
    /// When the first of what waits came.
    since: Option<Instant>,
    /// Since when the journal is behind the store.
    behind: Option<Instant>,
    hurry: bool,
    closing: bool,
    /// Somebody writes.
    writing: bool,
    /// When the thread wakes up by itself.
    alarm: Option<Instant>,
    failed: Option<String>,
}

impl Queue {
    /// When there is something to write or to sync.
    fn due(&self) -> Option<Instant> {
        let waiting = &self.waiting;
        let urgent = self.closing
            || waiting.tell_durable
            || self.hurry && waiting.needs_thread()
            || waiting.commits.len() >= MOST
            || waiting.records.len() >= MOST_RECORDS;
        if urgent {
            return Some(Instant::now());
        }
        let write = self.since.map(|since| since + WINDOW);
        let sync = self.behind.map(|since| since + LAG);
        write.into_iter().chain(sync).min()
    }

    /// Takes what waits; whoever does writes it.
    fn take(&mut self) -> Batch {
        self.writing = true;
        self.hurry = false;
        self.since = None;
        std::mem::take(&mut self.waiting)
    }
}

impl Shared {
    fn new(writer: Writer) -> Self {
        Self {
            queue: Mutex::default(),
            changed: Condvar::new(),
            writer: Mutex::new(writer),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, batch: Batch) {
        let mut queue = self.queue();
        // A writer that failed has said so by a reply, and takes nothing more.
        if queue.failed.is_none() && !batch.is_empty() {
            queue.waiting.append(batch);
            queue.since.get_or_insert_with(Instant::now);
            self.wake(&queue);
        }
    }

    /// Wakes the thread if it would sleep too long.
    fn wake(&self, queue: &Queue) {
        let due = queue.due();
        if due.is_some_and(|due| queue.alarm.is_none_or(|alarm| due < alarm)) {
            self.changed.notify_all();
        }
    }

    fn hurry(&self, idle: bool) {
        let mut queue = self.queue();
        if !queue.waiting.needs_thread() || queue.failed.is_some() {
            return;
        }
        if idle && !queue.writing {
            let queue = self.write(queue);
            self.wake(&queue);
        } else {
            queue.hurry = true;
            self.wake(&queue);
        }
    }

    fn close(&self) {
        self.queue().closing = true;
        self.changed.notify_all();
    }

    /// Writes what waits.
    fn write<'a>(&'a self, mut queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        let batch = queue.take();
        let closing = queue.closing;
        drop(queue);
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let done = writer.write(batch).and_then(|()| writer.catch_up(closing));
        let behind = writer.behind;
        if let Err(error) = &done {
            let _ = writer.replies.send(Durable::Failed(error.clone()));
        }
        drop(writer);
        let mut queue = self.queue();
        queue.writing = false;
        queue.behind = behind;
        queue.failed = done.err();
        queue
    }

    /// The thread.
    fn serve(&self) -> Result<(), String> {
        let mut queue = self.queue();
        loop {
            if let Some(error) = &queue.failed {
                return Err(error.clone());
            }
            let due = queue.due().filter(|_| !queue.writing);
            // After it: what is urgent is due now.
            let now = Instant::now();
            if due.is_some_and(|due| due <= now) {
                let last = queue.closing;
                queue = self.write(queue);
                if last && queue.failed.is_none() {
                    return Ok(());
                }
                continue;
            }
            queue.alarm = due;
            queue = match due {
                Some(due) => {
                    let wait = self.changed.wait_timeout(queue, due - now);
                    wait.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self
                    .changed
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner),
            };
            queue.alarm = None;
        }
    }
}

struct Writer {
    file: File,
    path: PathBuf,
    store: Store,
    subscribers: Vec<Subscriber>,
    history: HistoryWriter,
    study: Option<LogWriter>,
    /// Encoded records that are not yet written.
    buffer: Vec<u8>,
    /// The file's name is durable.
    linked: bool,
    /// Something ran: the journal is worth a sync.
    ran: bool,
    /// Since when records are written and not synced.
    behind: Option<Instant>,
    replies: UnboundedSender<Durable>,
    executor: Option<Arc<dyn Executor>>,
}

impl Writer {
    fn write(&mut self, batch: Batch) -> Result<(), String> {
        for record in &batch.records {
            journal::encode_with(&mut self.buffer, |out| record.append_json(out))
                .map_err(|e| e.to_string())?;
        }
        self.write_out().map_err(|error| self.cannot(&error))?;
        self.ran |= batch.sync || !batch.commits.is_empty();
        if self.ran {
            self.behind.get_or_insert_with(Instant::now);
        }
        let nodes = self.commit(batch.commits)?;
        if batch.sync {
            self.sync()?;
        }
        if let Some(log) = self.study.as_mut().filter(|_| !batch.study.is_empty()) {
            log.append(&batch.study)?;
            log.sync()?;
        }
        if batch.tell_durable {
            let _ = self.replies.send(Durable::StudyLog);
        }
        self.history.append(&batch.history);
        self.tell(batch.records);
        if !nodes.is_empty() {
            let _ = self.replies.send(Durable::Committed(nodes));
        }
        if !batch.settled.is_empty() {
            let _ = self.replies.send(Durable::Settled(batch.settled));
        }
        Ok(())
    }

    /// Makes results durable in the store; one that cannot be does not keep the others back.
    fn commit(&self, commits: Vec<Commit>) -> Result<Vec<Committed>, String> {
        if commits.is_empty() {
            return Ok(Vec::new());
        }
        let entries = commits
            .iter()
            .map(|commit| (commit.digest, commit.entry.clone()))
            .collect();
        let mut differing = Vec::new();
        let mut nodes: Vec<(NodeIx, ActionDigest)> = Vec::new();
        match self.commit_entries(entries) {
            Ok(report) => {
                differing = report.differing;
                nodes = commits.iter().map(|c| (c.node, c.digest)).collect();
                for commit in commits.into_iter().filter(|commit| commit.replace) {
                    self.replace(commit, &mut differing)?;
                }
            }
            Err(error @ StoreError::Poisoned { .. }) => return Err(error.to_string()),
            Err(_) => {
                for Commit {
                    node,
                    digest,
                    entry,
                    replace: _,
                } in commits
                {
                    match self.commit_entries(vec![(digest, entry)]) {
                        Ok(report) => {
                            differing.extend(report.differing);
                            nodes.push((node, digest));
                        }
                        Err(error @ StoreError::Poisoned { .. }) => return Err(error.to_string()),
                        Err(error) => self.refuse(node, error),
                    }
                }
            }
        }
        let found = |digest: &ActionDigest| differing.iter().position(|d| d.action == *digest);
        let found: Vec<_> = nodes.iter().map(|(_, digest)| found(digest)).collect();
        Ok(nodes
            .into_iter()
            .zip(found)
            .map(|((node, _), at)| (node, at.map(|at| Box::new(differing[at].clone()))))
            .collect())
    }

    /// Lets the new result of an action hold where the store had kept the old one.
    fn replace(&self, commit: Commit, differing: &mut [Differing]) -> Result<(), String> {
        let found = differing
            .iter_mut()
            .find(|d| d.action == commit.digest && !d.replaced);
        let Some(found) = found else {
            return Ok(());
        };
        let tell = |error: StoreError| error.to_string();
        self.store
            .evict(&|action, _| *action == commit.digest)
            .map_err(tell)?;
        let again = vec![(commit.digest, commit.entry)];
        let report = self.commit_entries(again).map_err(tell)?;
        if report.differing.is_empty() {
            std::mem::swap(&mut found.kept, &mut found.other);
            found.replaced = true;
        }
        Ok(())
    }

    /// Commits to the store. What is here is made durable here; of the rest, who made it must hold it.
    fn commit_entries(
        &self,
        entries: Vec<(ActionDigest, ActionEntry)>,
    ) -> Result<CommitReport, StoreError> {
        let Some(executor) = &self.executor else {
            return self.store.commit(entries);
        };
        // The manifest of a folder may be here and its files not.
        let outputs = entries.iter().flat_map(|(_, entry)| entry.outputs.values());
        let trees: FxHashSet<Digest> = outputs
            .filter_map(|output| match output {
                Artifact::Tree { digest, .. } => Some(*digest),
                _ => None,
            })
            .collect();
        self.store.commit_elsewhere(entries, &|blob| {
            executor.holds(blob) && (trees.contains(blob) || !self.store.contains(blob))
        })
    }

    fn refuse(&self, node: NodeIx, error: StoreError) {
        let cause = match error {
            StoreError::DiskFull { path, .. } => FailureCause::DiskFull {
                path: path.display().to_string(),
            },
            error => FailureCause::Engine {
                message: error.to_string(),
            },
        };
        let _ = self.replies.send(Durable::NotCommitted(node, cause));
    }

    /// Writes what is encoded. That alone is no sync: a run of hits is never synced, for losing its journal loses nothing.
    fn write_out(&mut self) -> std::io::Result<()> {
        if !self.buffer.is_empty() {
            self.file.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Syncs the journal if it has been behind for long, or in the end.
    fn catch_up(&mut self, last: bool) -> Result<(), String> {
        match self.behind {
            Some(since) if last || since.elapsed() >= LAG => self.sync(),
            _ => Ok(()),
        }
    }

    /// Makes durable what was written.
    fn sync(&mut self) -> Result<(), String> {
        let synced = self.file.sync_data().and_then(|()| {
            if !self.linked {
                for folder in self.path.ancestors().skip(1).take(2) {
                    File::open(folder)?.sync_all()?;
                }
            }
            Ok(())
        });
        synced.map_err(|error| self.cannot(&error))?;
        self.linked = true;
        self.behind = None;
        Ok(())
    }

    fn cannot(&self, error: &std::io::Error) -> String {
        format!("cannot write `{}`: {error}", self.path.display())
    }

    fn tell(&mut self, records: Vec<Record>) {
        if self.subscribers.is_empty() {
            return;
        }
        for record in records {
            let record = Arc::new(record);
            self.subscribers
                .retain_mut(|subscriber| subscriber.give(&record));
        }
    }
}

#[cfg(test)]
mod tests {
    use dagrun_events::RunEvent;

    use std::fs;

    use super::*;

    fn records(n: u32) -> Vec<Record> {
        (0..n)
            .map(|i| Record {
                at: f64::from(i),
                event: RunEvent::Rewound {
                    node: format!("n{i}"),
                },
            })
            .collect()
    }

    fn write(path: &Path, records: &[Record]) {
        let mut bytes = journal::header().to_vec();
        for record in records {
            journal::encode(&record.to_json().unwrap(), &mut bytes);
        }
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_torn_journal_is_read_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.log");
        write(&path, &records(3));
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 2]).unwrap();
        let loaded = load(&path).unwrap();
        assert_eq!(loaded.records, records(2));
        assert!(loaded.torn_at.is_some());
        assert_eq!(fs::read(&path).unwrap().len(), whole.len() - 2);
    }

    /// F05: the message has the position and the command, and the repair keeps what is good and a copy.
    #[test]
    fn a_damaged_journal_is_refused_and_can_be_repaired() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.log");
        write(&path, &records(5));
        let mut bytes = fs::read(&path).unwrap();
        let damaged_at = bytes.len() / 2;
        bytes[damaged_at] ^= 4;
        fs::write(&path, &bytes).unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(
            error.contains("damaged at byte") && error.contains("dagrun journal repair"),
            "{error}"
        );
        let (copy, kept) = repair(&path).unwrap();
        assert_eq!(kept, 4);
        assert_eq!(fs::read(copy).unwrap(), bytes);
        assert_eq!(load(&path).unwrap().records.len(), 4);
    }
}
