//! The action cache: from action digests to entries, for several processes at once.
//!
//! Every writing process appends to a segment of its own, which it keeps locked; others read what it has appended so far.
//! Segments of dead writers are merged into tables (`compact.rs`). Nobody waits for anybody. Where an action has several
//! results the first one holds, except that a result replaces one whose blobs were lost.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use dagrun_model::{ActionDigest, Digest};
use rustc_hash::FxHashMap;

use crate::{
    codec::{self, ActionEntry},
    error::{At, StoreError},
    fsx::{Temp, lock, names, now_ms, open_plain, temp_name},
    log::{self, End, Kind, Record, SEGMENT_MAGIC},
    table::{Place, Table},
};

/// What a file name of a segment and of a table begins and ends with.
pub(crate) const SEGMENT: (&str, &str) = ("seg-", ".log");
pub(crate) const TABLE: (&str, &str) = ("tbl-", ".tbl");
/// How often a miss looks for what other processes have committed.
const REFRESH: Duration = Duration::from_millis(20);
/// From this many look-ups, small tables are read whole.
const MANY: usize = 256;
/// Room that a segment is given at once. A frame that is written into it changes no length and no map of blocks, so that its
/// sync need not wait for the journal of the file system.
const ROOM: u64 = 64 << 10;
/// So much of a segment is kept in memory when it is read first.
const HEAD: usize = 32 << 20;

/// The action cache of one store.
pub(crate) struct Actions {
    pub(crate) folder: PathBuf,
    pub(crate) blobs: PathBuf,
    pub(crate) quarantine: PathBuf,
    pub(crate) state: Mutex<State>,
    /// A writer died before the files of all its blobs were on disk.
    pub(crate) unsettled: AtomicBool,
}

/// What this process has seen of the files.
#[derive(Default)]
pub(crate) struct State {
    /// Newest first.
    pub(crate) tables: Vec<Arc<Table>>,
    segments: BTreeMap<String, Segment>,
    index: FxHashMap<ActionDigest, Known>,
    refreshed: Option<Instant>,
    writer: Option<Writer>,
    last_time: u64,
    bad_tables: Vec<String>,
    pub(crate) warnings: Vec<String>,
    /// Look-ups so far.
    asked: usize,
    /// The bytes of the record that was read last.
    scratch: Vec<u8>,
}

/// The file of a segment, with what was read of it when it was first seen: look-ups ask for most of that again.
pub(crate) struct Body {
    file: File,
    head: OnceLock<(u64, Vec<u8>)>,
}

impl Body {
    fn new(file: File) -> Arc<Self> {
        Arc::new(Self {
            file,
            head: OnceLock::new(),
        })
    }

    /// Puts the bytes of a record into `out`.
    fn read(&self, place: Place, out: &mut Vec<u8>) -> std::io::Result<()> {
        out.clear();
        let in_head = self.head.get().and_then(|(start, bytes)| {
            let at = usize::try_from(place.at.checked_sub(*start)?).ok()?;
            bytes.get(at..at.checked_add(place.len)?)
        });
        if let Some(bytes) = in_head {
            out.extend_from_slice(bytes);
            return Ok(());
        }
        out.resize(place.len, 0);
        self.file.read_exact_at(out, place.at)
    }
}

struct Segment {
    file: Arc<Body>,
    scanned: u64,
    /// Nothing more will come of it.
    ended: bool,
    /// It has bytes of blobs whose files may not be on disk.
    unsettled: bool,
}

/// The segment of this process.
struct Writer {
    name: String,
    file: Arc<Body>,
    len: u64,
    /// The length of the file: behind `len` stand zeros.
    room: u64,
}

/// What is known of an action from segments, or while tables are merged.
#[derive(Clone)]
pub(crate) struct Known<P = (Arc<Body>, Place)> {
    pub(crate) best: Option<Found<P>>,
    pub(crate) evicted: Option<u64>,
}

/// A record that holds, and where it is.
#[derive(Clone)]
pub(crate) struct Found<P> {
    pub(crate) place: P,
    pub(crate) kind: Kind,
    pub(crate) time: u64,
}

impl<P> Default for Known<P> {
    fn default() -> Self {
        Self {
            best: None,
            evicted: None,
        }
    }
}

impl<P> Known<P> {
    /// Takes in a record; gives back the one that lost, if any.
    pub(crate) fn merge(&mut self, kind: Kind, time: u64, place: P) -> Option<Found<P>> {
        let new = Found { place, kind, time };
        if kind == Kind::Evict {
            self.evicted = self.evicted.max(Some(time));
            return self.best.take_if(|best| best.time <= time);
        }
        if kind == Kind::Alternate || self.evicted.is_some_and(|t| time <= t) {
            return Some(new);
        }
        let wins = match &self.best {
            None => true,
            Some(best) => match (kind, best.kind) {
                (Kind::Replace, Kind::Normal) => true,
                (Kind::Normal, Kind::Replace) => false,
                (Kind::Replace, _) => time > best.time,
                _ => time < best.time,
            },
        };
        if wins {
            self.best.replace(new)
        } else {
            Some(new)
        }
    }
}

/// An action's records as they are to be appended.
pub(crate) struct Append {
    pub(crate) kind: Kind,
    pub(crate) action: ActionDigest,
    pub(crate) entry: Vec<u8>,
}

/// What a frame holds beside results.
#[derive(Default)]
pub(crate) struct With<'a> {
    /// Bytes of blobs whose files may not be on disk.
    pub(crate) blobs: &'a [(Digest, Vec<u8>)],
    /// The files of all blobs in earlier frames are on disk.
    pub(crate) settled: bool,
}

impl With<'_> {
    fn write(&self, state: &mut State, body: &mut Vec<u8>) {
        let settled = (Kind::Settled, Digest([0; 32]), &[][..]);
        let blobs = self
            .blobs
            .iter()
            .map(|(digest, bytes)| (Kind::Blob, *digest, &bytes[..]));
        for (kind, action, entry) in self.settled.then_some(settled).into_iter().chain(blobs) {
            let time = state.next_time(None);
            Record {
                kind,
                time,
                action,
                entry,
            }
            .write(body);
        }
    }
}

impl Actions {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            folder: root.join("actions"),
            blobs: root.join("blobs"),
            unsettled: AtomicBool::new(false),
            quarantine: root.join("quarantine"),
            state: Mutex::default(),
        }
    }

    /// What `decode` reads of the entries, in the order of `actions`.
    pub(crate) fn lookup<T>(
        &self,
        actions: &[ActionDigest],
        decode: fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<Option<T>>, StoreError> {
        let mut state = lock(&self.state);
        if state.refreshed.is_none() {
            self.refresh(&mut state)?;
        }
        state.asked = state.asked.saturating_add(actions.len());
        if state.asked >= MANY {
            state.tables.iter().for_each(|t| t.preload());
        }
        let mut found: Vec<_> = actions.iter().map(|a| state.find(a, decode)).collect();
        if found.iter().any(Option::is_none)
            && state.refreshed.is_none_or(|at| at.elapsed() > REFRESH)
            && self.refresh(&mut state)?
        {
            for (action, slot) in actions.iter().zip(&mut found) {
                if slot.is_none() {
                    *slot = state.find(action, decode);
                }
            }
        }
        Ok(found)
    }

    /// Looks at once for what other processes have committed. Says whether anything was new.
    pub(crate) fn refresh(&self, state: &mut State) -> Result<bool, StoreError> {
        // A merge removes files between listing and opening; its result is in the next listing.
        for _ in 0..10 {
            let names = names(&self.folder)?;
            match self.refresh_once(state, &names)? {
                Some(news) => {
                    state.refreshed = Some(Instant::now());
                    return Ok(news);
                }
                None => continue,
            }
        }
        Err(StoreError::NotAStore {
            path: self.folder.clone(),
            why: "changes faster than it can be read; try again".into(),
        })
    }

    fn refresh_once(
        &self,
        state: &mut State,
        names: &[String],
    ) -> Result<Option<bool>, StoreError> {
        let mut news = self.refresh_tables(state, names)?;
        if news.is_none() {
            return Ok(None);
        }
        for name in names.iter().filter(|n| is(n, SEGMENT)) {
            if !state.segments.contains_key(name) {
                let path = self.folder.join(name);
                match open_plain(&path) {
                    Ok(file) => {
                        let segment = Segment {
                            file: Body::new(file),
                            scanned: 0,
                            ended: false,
                            unsettled: false,
                        };
                        state.segments.insert(name.clone(), segment);
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(StoreError::io("open", &path, error)),
                }
            }
            if self.scan(state, name)? {
                news = Some(true);
            }
        }
        // What was merged is in a table now.
        let gone: Vec<String> = state
            .segments
            .keys()
            .filter(|n| names.binary_search(n).is_err())
            .cloned()
            .collect();
        if !gone.is_empty() {
            for name in gone {
                state.segments.remove(&name);
            }
            state.forget_ended(self)?;
        }
        Ok(news)
    }

    /// Opens new tables and drops those that are gone. `None` where one vanished before it was opened.
    fn refresh_tables(
        &self,
        state: &mut State,
        names: &[String],
    ) -> Result<Option<bool>, StoreError> {
        let listed: Vec<&String> = names.iter().filter(|n| is(n, TABLE)).collect();
        let mut news = false;
        for name in &listed {
            let path = self.folder.join(name);
            if state.tables.iter().any(|t| t.path == path) || state.bad_tables.contains(name) {
                continue;
            }
            let seq = number_of(name, TABLE).unwrap_or(0);
            match Table::open(&path, seq) {
                Ok(Some(table)) => {
                    state.tables.push(Arc::new(table));
                    news = true;
                }
                Ok(None) => {
                    state.bad_tables.push((*name).clone());
                    state.warnings.push(damaged(&path, 0));
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(StoreError::io("open", &path, error)),
            }
        }
        state
            .tables
            .retain(|t| listed.iter().any(|n| t.path.ends_with(n)));
        state.tables.sort_by_key(|t| std::cmp::Reverse(t.seq));
        Ok(Some(news))
    }

    /// Reads what was appended to a segment since the last time. Says whether anything was.
    fn scan(&self, state: &mut State, name: &str) -> Result<bool, StoreError> {
        let path = self.folder.join(name);
        let Some(segment) = state.segments.get_mut(name) else {
            return Ok(false);
        };
        // What this process writes it knows.
        if state.writer.as_ref().is_some_and(|w| w.name == name) && segment.scanned > 0 {
            return Ok(false);
        }
        let len = segment.file.file.metadata().at("read", &path)?.len();
        if segment.ended || len <= segment.scanned {
            return Ok(false);
        }
        // Before the bytes are read: a writer that is dead now has nothing more to add to them.
        let dead = is_dead(&segment.file.file);
        let start = segment.scanned.max(SEGMENT_MAGIC.len() as u64);
        let file = segment.file.clone();
        let Scanned {
            mut bytes,
            good,
            end,
            records,
            unsettled,
        } = scan_file(&file.file, start, len).at("read", &path)?;
        segment.scanned = start + good as u64;
        segment.ended = dead;
        segment.unsettled = unsettled.unwrap_or(segment.unsettled);
        if dead && segment.unsettled {
            self.unsettled.store(true, Ordering::Release);
        }
        match end {
            End::Clean => {}
            End::Torn if dead => {
                let room = bytes.iter().rev().take_while(|b| **b == 0).count();
                let torn = bytes.len() - good - room;
                state.warnings.push(format!(
                    "dropped the last {torn} bytes of {}: a commit that was never acknowledged",
                    path.display()
                ));
            }
            End::Torn => {}
            End::Damaged { .. } => {
                let at = segment.scanned;
                segment.ended = true;
                state.warnings.push(damaged(&path, at));
                if dead {
                    let _ = std::fs::create_dir_all(&self.quarantine);
                    let _ = std::fs::rename(&path, self.quarantine.join(name));
                }
                return Ok(false);
            }
        }
        if start == SEGMENT_MAGIC.len() as u64 {
            bytes.truncate(good.min(HEAD));
            bytes.shrink_to_fit();
            // Read anew after a merge, it is the same: nothing is ever changed in place.
            let _ = file.head.set((start, bytes));
        }
        let any = !records.is_empty();
        for (action, kind, time, place) in records {
            state.learn(action, kind, time, (file.clone(), place));
        }
        Ok(any)
    }

    /// Appends results and what comes with them as one frame and syncs it. All hold afterwards, or none.
    pub(crate) fn append(
        &self,
        state: &mut State,
        records: &[Append],
        with: &With<'_>,
        durable: bool,
    ) -> Result<Result<(), StoreError>, StoreError> {
        let mut body = Vec::new();
        let mut places = Vec::with_capacity(records.len());
        for record in records {
            let after = state.latest(&record.action);
            let time = state.next_time(after);
            let at = body.len() as u64;
            Record {
                kind: record.kind,
                time,
                action: record.action,
                entry: &record.entry,
            }
            .write(&mut body);
            places.push((at, body.len() as u64 - at, time));
        }
        with.write(state, &mut body);
        let Some(frame) = log::frame(&body).filter(|_| !body.is_empty()) else {
            return Ok(Ok(()));
        };
        let head = (frame.len() - body.len()) as u64;
        if state.writer.is_none() {
            state.writer = Some(self.new_segment(durable)?);
        }
        let writer = state.writer.as_mut().expect("it was just made");
        let path = self.folder.join(&writer.name);
        if let Err(error) = writer.write(&frame) {
            // The next frame must not follow half a one.
            if let Err(error) = writer.reset() {
                return Ok(Err(StoreError::io("truncate", &path, error)));
            }
            return Err(StoreError::io("write", &path, error));
        }
        if durable && let Err(error) = writer.file.file.sync_data() {
            return Ok(Err(StoreError::io("sync", &path, error)));
        }
        let base = writer.len + head;
        writer.len += frame.len() as u64;
        let file = writer.file.clone();
        for (record, (at, len, time)) in records.iter().zip(places) {
            let place = Place {
                at: base + at,
                len: len as usize,
            };
            state.learn(record.action, record.kind, time, (file.clone(), place));
        }
        let (name, len) = (writer_name(state), writer_len(state));
        if let Some(segment) = state.segments.get_mut(&name) {
            segment.scanned = len;
        }
        Ok(Ok(()))
    }

    fn new_segment(&self, durable: bool) -> Result<Writer, StoreError> {
        let mut temp = Temp::new(&self.folder)?;
        temp.file
            .write_all(SEGMENT_MAGIC)
            .at("write", temp.path())?;
        if durable {
            temp.file.sync_all().at("sync", temp.path())?;
        }
        let file = Body::new(temp.file.try_clone().at("open", temp.path())?);
        let unique = temp_name();
        let name = format!(
            "{}{:013x}{}{}",
            SEGMENT.0,
            now_ms(),
            unique.trim_start_matches(crate::fsx::TEMP_PREFIX.trim_end_matches('-')),
            SEGMENT.1
        );
        temp.persist(&self.folder.join(&name))?;
        if durable {
            File::open(&self.folder)
                .and_then(|f| f.sync_all())
                .at("sync", &self.folder)?;
        }
        let len = SEGMENT_MAGIC.len() as u64;
        Ok(Writer {
            name,
            file,
            len,
            room: len,
        })
    }

    /// Ends the segment of this process. Says whether there was one.
    pub(crate) fn close(&self) -> bool {
        let mut state = lock(&self.state);
        let Some(writer) = state.writer.take() else {
            return false;
        };
        // Zeros left behind would only be passed over.
        let _ = writer.file.file.set_len(writer.len);
        // Look-ups may still hold the file, so its end does not come by itself.
        let _ = writer.file.file.unlock();
        true
    }
}

fn writer_name(state: &State) -> String {
    state
        .writer
        .as_ref()
        .map_or_else(String::new, |w| w.name.clone())
}

fn writer_len(state: &State) -> u64 {
    state.writer.as_ref().map_or(0, |w| w.len)
}

impl Writer {
    /// Writes a frame after the last one, and room for more behind it where there is none left.
    fn write(&mut self, frame: &[u8]) -> std::io::Result<()> {
        let file = &self.file.file;
        let end = self.len + frame.len() as u64;
        if end <= self.room {
            return file.write_all_at(frame, self.len);
        }
        let room = end.next_multiple_of(ROOM);
        let mut whole = frame.to_vec();
        whole.resize((room - self.len) as usize, 0);
        if file.write_all_at(&whole, self.len).is_ok() {
            self.room = room;
            return Ok(());
        }
        // A disk that has no room for more may have enough for this.
        file.set_len(self.len)?;
        self.room = self.len;
        file.write_all_at(frame, self.len)?;
        self.room = end;
        Ok(())
    }

    /// Takes back what was written of a frame.
    fn reset(&mut self) -> std::io::Result<()> {
        self.room = self.len;
        self.file.file.set_len(self.len)
    }
}

impl State {
    /// A time later than that of any earlier record of this process, and than `after`.
    fn next_time(&mut self, after: Option<u64>) -> u64 {
        self.last_time = now_ms()
            .max(self.last_time + 1)
            .max(after.map_or(0, |t| t + 1));
        self.last_time
    }

    /// The latest time that any record of an action has. Another process may have a clock that is ahead of ours, or have
    /// written several records within a millisecond, and what is said of them now must still come after them.
    fn latest(&mut self, action: &ActionDigest) -> Option<u64> {
        let known = self.index.get(action);
        let in_segments = known.and_then(|k| k.evicted.max(k.best.as_ref().map(|b| b.time)));
        let mut bytes = std::mem::take(&mut self.scratch);
        let in_tables = self.tables.iter().find_map(|table| {
            let there = table.get(action, &mut bytes).unwrap_or(false);
            Some(Record::read(&bytes).filter(|_| there)?.0.time)
        });
        self.scratch = bytes;
        in_segments.max(in_tables)
    }

    fn learn(&mut self, action: ActionDigest, kind: Kind, time: u64, place: (Arc<Body>, Place)) {
        self.index
            .entry(action)
            .or_default()
            .merge(kind, time, place);
    }

    /// The entry that holds for an action.
    pub(crate) fn get(&mut self, action: &ActionDigest) -> Option<ActionEntry> {
        self.find(action, codec::decode)
    }

    fn find<T>(&mut self, action: &ActionDigest, decode: fn(&[u8]) -> Option<T>) -> Option<T> {
        let known = self.index.get(action).cloned().unwrap_or_default();
        let best = known.best.as_ref();
        if let Some(found) = best.filter(|f| f.kind == Kind::Replace) {
            return self.read(action, found, decode);
        }
        for ix in 0..self.tables.len() {
            let table = self.tables[ix].clone();
            let mut bytes = std::mem::take(&mut self.scratch);
            let found = table.get(action, &mut bytes);
            self.scratch = bytes;
            match found {
                Ok(false) => {}
                Ok(true) => {
                    let (record, _) = Record::read(&self.scratch)?;
                    if record.kind != Kind::Evict && known.evicted.is_none_or(|t| record.time > t) {
                        return decode(record.entry);
                    }
                    break;
                }
                Err(damage) => self.warn_once(damaged(&table.path, damage.0)),
            }
        }
        best.and_then(|found| self.read(action, found, decode))
    }

    fn read<T>(
        &mut self,
        action: &ActionDigest,
        found: &Found<(Arc<Body>, Place)>,
        decode: fn(&[u8]) -> Option<T>,
    ) -> Option<T> {
        let (file, place) = &found.place;
        let mut bytes = std::mem::take(&mut self.scratch);
        let entry = file.read(*place, &mut bytes).ok().and_then(|()| {
            let (record, _) = Record::read(&bytes).filter(|(r, _)| r.action == *action)?;
            decode(record.entry)
        });
        self.scratch = bytes;
        if entry.is_none() {
            self.warn_once(format!(
                "an entry of the action cache at byte {} of a segment is damaged and counts as a miss; run `dagrun cache verify --fix`",
                place.at
            ));
        }
        entry
    }

    fn warn_once(&mut self, text: String) {
        if !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }

    /// Reads the segments that are left anew, after some were merged into tables.
    fn forget_ended(&mut self, actions: &Actions) -> Result<(), StoreError> {
        self.index.clear();
        let names: Vec<String> = self.segments.keys().cloned().collect();
        for name in names {
            if let Some(segment) = self.segments.get_mut(&name) {
                segment.scanned = 0;
                segment.ended = false;
                segment.unsettled = false;
            }
            actions.scan(self, &name)?;
        }
        Ok(())
    }
}

/// The bytes of a segment in a range; fewer where its writer has just ended it and taken the room back.
pub(crate) fn read_range(file: &File, start: u64, end: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; end.saturating_sub(start) as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], start + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// What a segment holds from some byte on.
pub(crate) struct Scanned {
    pub(crate) bytes: Vec<u8>,
    /// Where what is no frame begins in them.
    pub(crate) good: usize,
    pub(crate) end: End,
    pub(crate) records: Vec<(ActionDigest, Kind, u64, Place)>,
    /// Whether blobs wait to be settled after these bytes, where they speak of that.
    pub(crate) unsettled: Option<bool>,
}

/// Reads a segment from a byte between frames up to its length.
///
/// A writer fills room that it made before, so a frame may come to be between the reading of its place and of what follows it.
/// That looks like damage, but the next look finds it whole: it was written before what follows it was begun.
pub(crate) fn scan_file(file: &File, start: u64, len: u64) -> std::io::Result<Scanned> {
    let mut damage = None;
    loop {
        let bytes = read_range(file, start, len)?;
        let (mut records, mut unsettled) = (Vec::new(), None);
        let (good, end) = log::scan(&bytes, |offset, record| {
            let place = Place {
                at: start + offset as u64,
                len: record.entry.len() + log::RECORD_HEAD + 41,
            };
            match record.kind {
                Kind::Blob => unsettled = Some(true),
                Kind::Settled => unsettled = Some(false),
                kind => records.push((record.action, kind, record.time, place)),
            }
        });
        if matches!(end, End::Damaged { .. }) && damage != Some(good) {
            damage = Some(good);
            continue;
        }
        return Ok(Scanned {
            bytes,
            good,
            end,
            records,
            unsettled,
        });
    }
}

/// Whether the writer of a segment is gone. Where there are no locks, it counts as alive.
pub(crate) fn is_dead(file: &File) -> bool {
    let free = file.try_lock_shared().is_ok();
    if free {
        let _ = file.unlock();
    }
    free
}

pub(crate) fn is(name: &str, (start, end): (&str, &str)) -> bool {
    name.starts_with(start) && name.ends_with(end)
}

pub(crate) fn number_of(name: &str, (start, end): (&str, &str)) -> Option<u64> {
    u64::from_str_radix(name.strip_prefix(start)?.strip_suffix(end)?, 16).ok()
}

pub(crate) fn damaged(path: &Path, at: u64) -> String {
    format!(
        "the action cache is damaged at byte {at} of {}: its entries count as misses; run `dagrun cache verify --fix`",
        path.display()
    )
}
