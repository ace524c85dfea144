//! Merging: segments of dead writers, and tables that have become as large together as the next one, become one table.
//!
//! Under `compact.lock`, which nobody waits for but the collector. The new table is on disk and named before what it
//! replaces is removed, and readers prefer newer tables, so that a crash in between changes no answer.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use dagrun_model::{ActionDigest, Digest};
use rustc_hash::FxHashMap;

use crate::{
    actions::{
        Actions, Known, SEGMENT, Scanned, TABLE, damaged, is, is_dead, number_of, read_range,
        scan_file,
    },
    codec::{self, ActionEntry},
    error::{At, StoreError},
    fsx::{lock, names, open_plain},
    lease::open_lock,
    log::{End, Kind, Record, SEGMENT_MAGIC},
    table::{Place, Table, TableWriter},
};

/// Dead segments from which a merge is worth it: this many, or this many bytes.
const SEGMENTS: usize = 8;
const BYTES: u64 = 1 << 20;

/// How much to merge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Extent {
    /// Only where it is worth it.
    Worthwhile,
    /// As before, because a dead writer left blobs unsettled; waits for the lock.
    Unsettled,
    /// All dead segments and all tables; waits for the lock.
    Everything,
}

/// A file that is merged.
enum Source {
    Segment(Arc<File>),
    Table(Arc<Table>),
}

impl Source {
    fn read(&self, place: Place) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Table(table) => table.at(place),
            Self::Segment(file) => {
                let mut bytes = vec![0; place.len];
                file.read_exact_at(&mut bytes, place.at)?;
                Ok(bytes)
            }
        }
    }
}

/// What is to be merged, and what stays.
struct Inputs {
    sources: Vec<Source>,
    /// Of the sources; removed in the end.
    paths: Vec<PathBuf>,
    /// Tables that stay, all older than what is merged; newest first.
    older: Vec<Arc<Table>>,
    /// Nothing is left beside the sources, so that evictions need not be remembered.
    complete: bool,
    next_seq: u64,
}

impl Inputs {
    /// Makes files of the blobs that only segments hold for certain, before these go.
    fn restore(&self, actions: &Actions) -> Result<(), StoreError> {
        for (source, path) in self.sources.iter().zip(&self.paths) {
            if let Source::Segment(file) = source {
                let end = file.metadata().at("read", path)?.len();
                let frames = read_range(file, SEGMENT_MAGIC.len() as u64, end);
                actions.restore(&frames.at("read", path)?)?;
            }
        }
        Ok(())
    }
}

type Spot = (usize, Place);

impl Actions {
    /// Merges; leaves out what `keep` refuses. Gives how many entries were left out.
    pub(crate) fn compact(
        &self,
        extent: Extent,
        keep: &dyn Fn(&ActionDigest, &ActionEntry) -> bool,
    ) -> Result<u64, StoreError> {
        let path = self.folder.join("compact.lock");
        let guard = open_lock(&path)?;
        if extent != Extent::Worthwhile {
            guard.lock().at("lock", &path)?;
        } else if guard.try_lock().is_err() {
            return Ok(0);
        }
        let Some(inputs) = self.inputs(extent)? else {
            return Ok(0);
        };
        inputs.restore(self)?;
        let dropped = self.merge(&inputs, extent, keep)?;
        for path in &inputs.paths {
            let _ = std::fs::remove_file(path);
        }
        let mut state = lock(&self.state);
        self.refresh(&mut state)?;
        Ok(dropped)
    }

    fn inputs(&self, extent: Extent) -> Result<Option<Inputs>, StoreError> {
        let names = names(&self.folder)?;
        let mut tables = self.open_tables(&names)?;
        let next_seq = tables.first().map_or(0, |t| t.seq) + 1;
        let (mut sources, mut paths, mut bytes, mut live) = (Vec::new(), Vec::new(), 0, 0);
        for name in names.iter().filter(|n| is(n, SEGMENT)) {
            let path = self.folder.join(name);
            let Ok(file) = open_plain(&path) else {
                continue;
            };
            if is_dead(&file) {
                bytes += file.metadata().at("read", &path)?.len();
                sources.push(Source::Segment(Arc::new(file)));
                paths.push(path);
            } else {
                live += 1;
            }
        }
        if extent == Extent::Worthwhile && sources.len() < SEGMENTS && bytes < BYTES {
            return Ok(None);
        }
        let mut older = Vec::new();
        for table in tables.drain(..) {
            // As soon as one stays, all older ones stay: newer tables hide older ones.
            if extent == Extent::Everything || (older.is_empty() && table.bytes <= 2 * bytes) {
                bytes += table.bytes;
                paths.push(table.path.clone());
                sources.push(Source::Table(table));
            } else {
                older.push(table);
            }
        }
        let complete = older.is_empty() && live == 0;
        Ok((!sources.is_empty()).then_some(Inputs {
            sources,
            paths,
            older,
            complete,
            next_seq,
        }))
    }

    /// All sound tables, newest first.
    fn open_tables(&self, names: &[String]) -> Result<Vec<Arc<Table>>, StoreError> {
        let mut tables = Vec::new();
        for name in names.iter().filter(|n| is(n, TABLE)) {
            let path = self.folder.join(name);
            let seq = number_of(name, TABLE).unwrap_or(0);
            if let Some(table) = Table::open(&path, seq).at("open", &path)? {
                tables.push(Arc::new(table));
            }
        }
        tables.sort_by_key(|t| std::cmp::Reverse(t.seq));
        Ok(tables)
    }

    fn merge(
        &self,
        inputs: &Inputs,
        extent: Extent,
        keep: &dyn Fn(&ActionDigest, &ActionEntry) -> bool,
    ) -> Result<u64, StoreError> {
        let mut merged = Merged::default();
        // Tables first, oldest first: where times are equal, what was there first holds.
        for (ix, source) in inputs.sources.iter().enumerate().rev() {
            let path = &inputs.paths[ix];
            if let Some(at) = gather(ix, source, path, &mut merged)? {
                lock(&self.state).warnings.push(damaged(path, at));
                self.keep_copy(path);
            }
        }
        let mut actions: Vec<_> = merged.known.into_iter().collect();
        actions.sort_unstable_by_key(|(action, _)| *action);
        let mut writer = TableWriter::new(&self.folder)?;
        let mut dropped = 0;
        let mut evidence = merged.evidence;
        for (action, known) in actions {
            let older = older_result(&inputs.older, &action);
            let Some(found) = known.best else {
                if let Some(time) = known.evicted.filter(|_| !inputs.complete) {
                    writer.push(&evict_record(action, time), &action, true)?;
                }
                continue;
            };
            let bytes = read(&inputs.sources, &inputs.paths, found.place)?;
            let Some(entry) = entry_of(&bytes) else {
                continue;
            };
            if !keep(&action, &entry) {
                dropped += 1;
                continue;
            }
            // An older table has a result already, and the first one holds.
            let evicted = known
                .evicted
                .is_some_and(|t| older.as_ref().is_some_and(|(at, _)| *at <= t));
            if found.kind == Kind::Normal && older.is_some() && !evicted {
                evidence.entry(action).or_default().push(found.place);
                continue;
            }
            writer.push(&bytes, &action, true)?;
        }
        let mut evidence: Vec<_> = evidence.into_iter().collect();
        evidence.sort_unstable_by_key(|(action, _)| *action);
        for (action, places) in evidence {
            let mut seen = Vec::new();
            if let Some(winner) = lock(&self.state).get(&action) {
                seen.push(winner);
            }
            for place in places {
                let bytes = read(&inputs.sources, &inputs.paths, place)?;
                let Some(entry) = entry_of(&bytes) else {
                    continue;
                };
                if seen.iter().any(|s| same_outputs(s, &entry)) || !keep(&action, &entry) {
                    continue;
                }
                writer.push(&as_alternate(&bytes), &action, false)?;
                seen.push(entry);
            }
        }
        let dest = self
            .folder
            .join(format!("{}{:016x}{}", TABLE.0, inputs.next_seq, TABLE.1));
        writer.finish(&dest)?;
        File::open(&self.folder)
            .and_then(|f| f.sync_all())
            .at("sync", &self.folder)?;
        tracing::debug!(
            files = inputs.paths.len(),
            ?extent,
            "merged the action cache"
        );
        Ok(dropped)
    }

    /// Keeps a damaged file for `verify`, as its sound part is merged and the file removed.
    fn keep_copy(&self, path: &Path) {
        let _ = std::fs::create_dir_all(&self.quarantine);
        if let Some(name) = path.file_name() {
            let _ = std::fs::hard_link(path, self.quarantine.join(name));
        }
    }
}

/// Takes in all records of a file. Gives the position of the first damage, if there is any.
fn gather(
    ix: usize,
    source: &Source,
    path: &Path,
    merged: &mut Merged,
) -> Result<Option<u64>, StoreError> {
    match source {
        Source::Table(table) => {
            let bad = table
                .each(|place, record| merged.take(record, (ix, place)))
                .at("read", path)?;
            Ok(bad.first().copied())
        }
        Source::Segment(file) => {
            let len = file.metadata().at("read", path)?.len();
            let start = SEGMENT_MAGIC.len() as u64;
            let Scanned {
                good, end, records, ..
            } = scan_file(file, start, len).at("read", path)?;
            if matches!(end, End::Damaged { .. }) {
                // Nothing of it is trusted until a person has asked for what is left.
                return Ok(Some(start + good as u64));
            }
            for (action, kind, time, place) in records {
                merged.insert(action, kind, time, (ix, place));
            }
            Ok(None)
        }
    }
}

/// An entry of the whole cache, as [`Actions::each`] gives it.
pub(crate) struct Row {
    pub(crate) action: ActionDigest,
    pub(crate) entry: ActionEntry,
    /// Whether it is the one that look-ups give, and not just kept as evidence.
    pub(crate) holds: bool,
}

/// Sizes and damage of the action cache's files.
#[derive(Default)]
pub(crate) struct Census {
    pub(crate) segments: u64,
    pub(crate) tables: u64,
    pub(crate) bytes: u64,
    pub(crate) damaged: Vec<(PathBuf, u64)>,
}

impl Actions {
    /// Gives every entry, of live writers too, sorted by action.
    pub(crate) fn each(
        &self,
        mut each: impl FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<Census, StoreError> {
        let names = names(&self.folder)?;
        let mut census = Census::default();
        let (mut sources, mut paths) = (Vec::new(), Vec::new());
        for name in names.iter().filter(|n| is(n, SEGMENT)) {
            let path = self.folder.join(name);
            if let Ok(file) = open_plain(&path) {
                census.segments += 1;
                census.bytes += file.metadata().at("read", &path)?.len();
                sources.push(Source::Segment(Arc::new(file)));
                paths.push(path);
            }
        }
        for name in names.iter().filter(|n| is(n, TABLE)) {
            let path = self.folder.join(name);
            if Table::open(&path, 0).at("open", &path)?.is_none() {
                census.damaged.push((path, 0));
            }
        }
        for table in self.open_tables(&names)? {
            census.tables += 1;
            census.bytes += table.bytes;
            paths.push(table.path.clone());
            sources.push(Source::Table(table));
        }
        let mut merged = Merged::default();
        for (ix, source) in sources.iter().enumerate().rev() {
            if let Some(at) = gather(ix, source, &paths[ix], &mut merged)? {
                census.damaged.push((paths[ix].clone(), at));
            }
        }
        let best = merged
            .known
            .into_iter()
            .filter_map(|(action, known)| Some((action, true, known.best?.place)));
        let evidence = merged
            .evidence
            .into_iter()
            .flat_map(|(action, places)| places.into_iter().map(move |p| (action, false, p)));
        let mut rows: Vec<_> = best.chain(evidence).collect();
        rows.sort_by_key(|(action, holds, _)| (*action, !*holds));
        for (action, holds, place) in rows {
            if let Some(entry) = entry_of(&read(&sources, &paths, place)?) {
                each(Row {
                    action,
                    entry,
                    holds,
                })?;
            }
        }
        Ok(census)
    }
}

#[derive(Default)]
struct Merged {
    known: FxHashMap<ActionDigest, Known<Spot>>,
    /// Results that do not hold but are kept.
    evidence: FxHashMap<ActionDigest, Vec<Spot>>,
}

impl Merged {
    fn take(&mut self, record: Record<'_>, spot: Spot) {
        self.insert(record.action, record.kind, record.time, spot);
    }

    fn insert(&mut self, action: Digest, kind: Kind, time: u64, spot: Spot) {
        let known = self.known.entry(action).or_default();
        let evicts = kind == Kind::Evict;
        if let Some(lost) = known.merge(kind, time, spot)
            && !evicts
            && known.evicted.is_none_or(|t| lost.time > t)
        {
            self.evidence.entry(action).or_default().push(lost.place);
        }
    }
}

fn read(sources: &[Source], paths: &[PathBuf], (ix, place): Spot) -> Result<Vec<u8>, StoreError> {
    sources[ix].read(place).at("read", &paths[ix])
}

fn older_result(older: &[Arc<Table>], action: &ActionDigest) -> Option<(u64, Kind)> {
    let mut bytes = Vec::new();
    for table in older {
        if let Ok(true) = table.get(action, &mut bytes) {
            let (record, _) = Record::read(&bytes)?;
            return (record.kind != Kind::Evict).then_some((record.time, record.kind));
        }
    }
    None
}

fn entry_of(bytes: &[u8]) -> Option<ActionEntry> {
    codec::decode(Record::read(bytes)?.0.entry)
}

fn evict_record(action: ActionDigest, time: u64) -> Vec<u8> {
    let mut out = Vec::new();
    Record {
        kind: Kind::Evict,
        time,
        action,
        entry: &[],
    }
    .write(&mut out);
    out
}

fn as_alternate(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some((record, _)) = Record::read(bytes) {
        Record {
            kind: Kind::Alternate,
            ..record
        }
        .write(&mut out);
    }
    out
}

/// Whether two results of an action are the same for whoever reads them.
pub(crate) fn same_outputs(a: &ActionEntry, b: &ActionEntry) -> bool {
    a.outputs.len() == b.outputs.len()
        && a.outputs.iter().all(|(name, artifact)| {
            b.outputs
                .get(name)
                .is_some_and(|other| artifact.content_digest() == other.content_digest())
        })
}
