//! Which blobs were hashed since boot, by what their inode looked like then.
//!
//! A file of this boot carries it from one process to the next. Losing it costs time only.

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    sync::Mutex,
};

use dagrun_model::Digest;
use rustc_hash::FxHashMap;

use crate::fsx::{StatId, boot_id, lock};

pub(crate) struct Verified {
    folder: PathBuf,
    /// No file is written where there is no boot to tell apart or nothing may be written.
    boot: Option<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    loaded: bool,
    known: FxHashMap<Digest, StatId>,
    fresh: Vec<(Digest, StatId)>,
}

const RECORD: usize = 32 + 5 * 8 + 4;
/// Records that are gathered before they are written.
const BATCH: usize = 512;
/// Bytes from which the file is begun anew.
const LARGEST: u64 = 32 << 20;

impl Verified {
    pub(crate) fn new(folder: PathBuf, write: bool) -> Self {
        Self {
            folder,
            boot: boot_id().filter(|_| write),
            state: Mutex::default(),
        }
    }

    pub(crate) fn knows(&self, digest: &Digest, stat: &StatId) -> bool {
        let mut state = lock(&self.state);
        if !state.loaded {
            state.loaded = true;
            self.load(&mut state);
        }
        state.known.get(digest) == Some(stat)
    }

    pub(crate) fn learn(&self, digest: &Digest, stat: StatId) {
        let mut state = lock(&self.state);
        state.known.insert(*digest, stat);
        state.fresh.push((*digest, stat));
        if state.fresh.len() >= BATCH {
            self.write(&mut state);
        }
    }

    pub(crate) fn forget(&self, digest: &Digest) {
        lock(&self.state).known.remove(digest);
    }

    /// Writes what is new. Failing to is no harm.
    pub(crate) fn flush(&self) {
        self.write(&mut lock(&self.state));
    }

    fn path(&self) -> Option<PathBuf> {
        Some(self.folder.join(self.boot.as_ref()?))
    }

    fn load(&self, state: &mut State) {
        let Some(path) = self.path() else { return };
        let Ok(bytes) = std::fs::read(&path) else {
            remove_others(&self.folder);
            return;
        };
        for record in bytes.chunks_exact(RECORD) {
            if let Some((digest, stat)) = parse(record) {
                // What this process learned itself is newer.
                state.known.entry(digest).or_insert(stat);
            }
        }
    }

    fn write(&self, state: &mut State) {
        let fresh = std::mem::take(&mut state.fresh);
        let Some(path) = self.path().filter(|_| !fresh.is_empty()) else {
            return;
        };
        let mut bytes = Vec::with_capacity(fresh.len() * RECORD);
        for (digest, stat) in &fresh {
            let start = bytes.len();
            bytes.extend_from_slice(&digest.0);
            for n in [
                stat.dev,
                stat.ino,
                stat.size,
                stat.mtime as u64,
                stat.ctime as u64,
            ] {
                bytes.extend_from_slice(&n.to_le_bytes());
            }
            let crc = crc32fast::hash(&bytes[start..]);
            bytes.extend_from_slice(&crc.to_le_bytes());
        }
        let append = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
            let len = file.metadata()?.len();
            if !len.is_multiple_of(RECORD as u64) || len > LARGEST {
                // A torn record would put all after it out of step; a huge file costs more than it saves.
                return std::fs::remove_file(&path);
            }
            file.write_all(&bytes)
        };
        let _ = std::fs::create_dir_all(&self.folder);
        let _ = append();
    }
}

fn parse(record: &[u8]) -> Option<(Digest, StatId)> {
    let (body, crc) = record.split_at(RECORD - 4);
    if crc32fast::hash(body).to_le_bytes() != crc {
        return None;
    }
    let number = |i: usize| {
        let at = 32 + 8 * i;
        Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?))
    };
    Some((
        Digest(body[..32].try_into().ok()?),
        StatId {
            dev: number(0)?,
            ino: number(1)?,
            size: number(2)?,
            mtime: number(3)? as i64,
            ctime: number(4)? as i64,
        },
    ))
}

/// Files of earlier boots are of no use any more.
fn remove_others(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let _ = std::fs::remove_file(entry.path());
    }
}
