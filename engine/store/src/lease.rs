//! Leases: what a live run may use is never collected.
//!
//! A lease is a file that is locked as long as its process lives, and in which the process notes every blob and entry
//! before it uses it. Notes are appended under a shared lock of `gc.lock`; the collector removes under the exclusive lock
//! after it has read all notes. So a use is either noted before a removal is decided, or finds the blob gone, and death
//! frees a lease by itself. When a lease ends, its notes go to `uses.log`, from which the collector learns last uses.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use dagrun_model::Digest;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    Store,
    error::{At, StoreError},
    fsx::{Temp, lock, names, now_ms, patiently},
};

/// What a digest in a lease stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Use {
    /// A blob.
    Blob,
    /// The manifest of a tree, and all that it names.
    Tree,
    /// An entry of the action cache.
    Entry,
}

impl Use {
    fn byte(self) -> u8 {
        match self {
            Self::Blob => b'b',
            Self::Tree => b't',
            Self::Entry => b'e',
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Blob, Self::Tree, Self::Entry]
            .into_iter()
            .find(|u| u.byte() == byte)
    }
}

/// Bytes of a note: what it is, and the digest.
const NOTE: usize = 33;
/// Bytes of a record of `uses.log`: half a digest, and minutes since the epoch.
const USED: usize = 20;
/// `uses.log` is folded when it has grown to twice its folded size and this.
const FOLD: u64 = 16 << 20;
/// Lease files from which dead ones are looked for without a collection.
const MANY_LEASES: usize = 32;

/// Guards everything that its store uses or makes, until it is dropped or its process ends.
#[must_use = "dropping the lease ends it"]
pub struct Lease {
    store: Store,
    /// `None` in a store that this user may only read.
    state: Option<Arc<LeaseState>>,
}

/// The open lease file.
pub(crate) struct LeaseState {
    path: PathBuf,
    notes: Mutex<Notes>,
}

struct Notes {
    file: File,
    len: u64,
    seen: FxHashSet<(u8, u64)>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.state.as_ref().map(|state| &state.path);
        f.debug_tuple("Lease").field(&path).finish()
    }
}

impl Store {
    /// Takes a lease under a name, such as a run id. What this store, or a clone of it, uses or makes from now on is not
    /// collected until the lease is dropped.
    ///
    /// In a store that this user may only read it guards nothing, and a warning says so: hits can be had there all the same.
    ///
    /// # Errors
    /// When the lease file cannot be made for another reason.
    pub fn lease(&self, name: &str) -> Result<Lease, StoreError> {
        let state = match self.new_lease(name) {
            Ok(state) => Some(state),
            Err(StoreError::Denied { .. }) => {
                self.warn(format!(
                    "the cache {} cannot be written: its results are used, but a `dagrun gc` of somebody who may write it does not know of this run",
                    self.inner.root.display()
                ));
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Lease {
            store: self.clone(),
            state,
        })
    }

    /// Whether a live process, this one too, has a lease under a name.
    ///
    /// # Errors
    /// When the leases cannot be listed.
    pub fn is_leased(&self, name: &str) -> Result<bool, StoreError> {
        let folder = self.inner.root.join("leases");
        let begins = format!("{}.", dagrun_model::id_file_name(name));
        for file in names(&folder)? {
            if file.starts_with(&begins)
                && file.ends_with(".lease")
                && let Ok(file) = patiently(|| File::open(folder.join(&file)))
                && file.try_lock_shared().is_err()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn new_lease(&self, name: &str) -> Result<Arc<LeaseState>, StoreError> {
        let folder = self.inner.root.join("leases");
        if names(&folder)?.len() > MANY_LEASES {
            // Nobody collects here: what dead processes left is taken away now.
            let _exclusive = self.gc_lock(true)?;
            Guarded::default().refresh(&self.inner.root)?;
        }
        let name = dagrun_model::id_file_name(name);
        let mut number = 0;
        loop {
            let path = folder.join(format!("{name}.{}.{number}.lease", std::process::id()));
            // It gets its name only once it is locked, so that nobody takes it for a dead one.
            let mut temp = Temp::new(&folder)?;
            let file = temp.file.try_clone().at("open", temp.path())?;
            if !temp.persist_new(&path)? {
                number += 1;
                continue;
            }
            let state = Arc::new(LeaseState {
                path,
                notes: Mutex::new(Notes {
                    file,
                    len: 0,
                    seen: FxHashSet::default(),
                }),
            });
            lock(&self.inner.leases).push(state.clone());
            return Ok(state);
        }
    }

    /// Notes uses in all leases of this store, before they happen. Without a lease nothing is done.
    pub(crate) fn note(&self, uses: &[(Use, Digest)]) -> Result<(), StoreError> {
        let leases = lock(&self.inner.leases).clone();
        for lease in leases {
            let mut notes = lock(&lease.notes);
            let mut bytes = Vec::new();
            for (kind, digest) in uses {
                if notes.seen.insert((kind.byte(), digest.prefix())) {
                    bytes.push(kind.byte());
                    bytes.extend_from_slice(&digest.0);
                }
            }
            if bytes.is_empty() {
                continue;
            }
            let _shared = self.gc_lock(false)?;
            if let Err(error) = notes.file.write_all(&bytes) {
                // Half a note would put those after it out of step.
                let len = notes.len;
                let _ = notes.file.set_len(len);
                let _ = std::io::Seek::seek(&mut notes.file, std::io::SeekFrom::Start(len));
                for (kind, digest) in uses {
                    notes.seen.remove(&(kind.byte(), digest.prefix()));
                }
                return Err(StoreError::io("write", &lease.path, error));
            }
            notes.len += bytes.len() as u64;
        }
        Ok(())
    }

    /// Waits for the lock between those who note uses (shared) and the collector (exclusive). Held for moments only.
    pub(crate) fn gc_lock(&self, exclusive: bool) -> Result<GcLock<'_>, StoreError> {
        if exclusive {
            let path = self.inner.root.join("gc.lock");
            let file = open_lock(&path)?;
            file.lock().at("lock", &path)?;
            return Ok(GcLock::Exclusive(file));
        }
        let mut slot = lock(&self.inner.gc_lock);
        if slot.is_none() {
            *slot = Some(open_lock(&self.inner.root.join("gc.lock"))?);
        }
        if let Some(file) = slot.as_ref() {
            file.lock_shared()
                .at("lock", &self.inner.root.join("gc.lock"))?;
        }
        Ok(GcLock::Shared(slot))
    }
}

pub(crate) fn open_lock(path: &Path) -> Result<File, StoreError> {
    patiently(|| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
    })
    .at("open", path)
}

/// The lock of `gc.lock`; released on drop.
pub(crate) enum GcLock<'a> {
    Shared(std::sync::MutexGuard<'a, Option<File>>),
    Exclusive(File),
}

impl Drop for GcLock<'_> {
    fn drop(&mut self) {
        let file = match self {
            Self::Shared(slot) => slot.as_ref(),
            Self::Exclusive(file) => Some(&*file),
        };
        if let Some(file) = file {
            let _ = file.unlock();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(state) = &self.state else { return };
        lock(&self.store.inner.leases).retain(|other| !Arc::ptr_eq(other, state));
        let root = &self.store.inner.root;
        // Losing last uses makes things look older than they are, and no more.
        if let Ok(_shared) = self.store.gc_lock(false)
            && let Ok(bytes) = std::fs::read(&state.path)
        {
            let _ = append_uses(root, &bytes, now_ms());
        }
        let _ = std::fs::remove_file(&state.path);
        let grown = std::fs::metadata(root.join("uses.log")).is_ok_and(|m| m.len() > 4 * FOLD);
        if grown && let Ok(_exclusive) = self.store.gc_lock(true) {
            let _ = LastUses::load(root);
        }
    }
}

/// What live leases have noted.
#[derive(Default)]
pub(crate) struct Guarded {
    pub(crate) blobs: FxHashSet<Digest>,
    pub(crate) trees: FxHashSet<Digest>,
    pub(crate) entries: FxHashSet<Digest>,
    /// Live leases.
    pub(crate) leases: usize,
    /// How far each lease file was read.
    offsets: FxHashMap<PathBuf, u64>,
}

impl Guarded {
    /// Reads what is new in the leases; those of dead processes go to `uses.log`. Needs the exclusive lock.
    pub(crate) fn refresh(&mut self, root: &Path) -> Result<(), StoreError> {
        let folder = root.join("leases");
        self.leases = 0;
        for name in names(&folder)? {
            if !name.ends_with(".lease") {
                continue;
            }
            let path = folder.join(name);
            let Ok(mut file) = patiently(|| File::open(&path)) else {
                continue;
            };
            if file.try_lock_shared().is_ok() {
                retire(root, &path, &mut file)?;
                continue;
            }
            self.leases += 1;
            self.read(&path, &mut file)?;
        }
        Ok(())
    }

    fn read(&mut self, path: &Path, file: &mut File) -> Result<(), StoreError> {
        let offset = self.offsets.entry(path.to_path_buf()).or_default();
        std::io::Seek::seek(file, std::io::SeekFrom::Start(*offset)).at("read", path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).at("read", path)?;
        let notes = bytes.chunks_exact(NOTE);
        *offset += (bytes.len() - notes.remainder().len()) as u64;
        for (kind, digest) in notes.filter_map(parse_note) {
            match kind {
                Use::Blob => self.blobs.insert(digest),
                Use::Tree => self.trees.insert(digest),
                Use::Entry => self.entries.insert(digest),
            };
        }
        Ok(())
    }
}

fn parse_note(note: &[u8]) -> Option<(Use, Digest)> {
    let (kind, digest) = note.split_first()?;
    Some((Use::from_byte(*kind)?, Digest(digest.try_into().ok()?)))
}

/// Keeps the last uses of a lease whose process died, and removes it.
fn retire(root: &Path, path: &Path, file: &mut File) -> Result<(), StoreError> {
    let time = file
        .metadata()
        .ok()
        .and_then(|meta| meta.modified().ok())
        .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
        .map_or(0, |d| d.as_millis() as u64);
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).at("read", path)?;
    append_uses(root, &bytes, time)?;
    std::fs::remove_file(path).at("remove", path)
}

fn append_uses(root: &Path, notes: &[u8], time_ms: u64) -> Result<(), StoreError> {
    let path = root.join("uses.log");
    let minutes = u32::try_from(time_ms / 60_000).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(notes.len() / NOTE * USED);
    for (_, digest) in notes.chunks_exact(NOTE).filter_map(parse_note) {
        out.extend_from_slice(&digest.0[..16]);
        out.extend_from_slice(&minutes.to_le_bytes());
    }
    if out.is_empty() {
        return Ok(());
    }
    let mut file =
        patiently(|| OpenOptions::new().append(true).create(true).open(&path)).at("open", &path)?;
    let len = file.metadata().at("read", &path)?.len();
    if !len.is_multiple_of(USED as u64) {
        file.set_len(len - len % USED as u64).at("write", &path)?;
    }
    file.write_all(&out).at("write", &path)
}

/// When things were last used: half a digest to minutes since the epoch.
pub(crate) struct LastUses(FxHashMap<[u8; 16], u32>);

impl LastUses {
    /// Reads `uses.log`, and rewrites it where it has grown. Needs the exclusive lock.
    pub(crate) fn load(root: &Path) -> Result<Self, StoreError> {
        let path = root.join("uses.log");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(StoreError::io("read", &path, error)),
        };
        let mut uses = FxHashMap::default();
        for record in bytes.chunks_exact(USED) {
            let (half, minutes) = record.split_at(16);
            let half: [u8; 16] = half.try_into().expect("sixteen bytes");
            let minutes = u32::from_le_bytes(minutes.try_into().expect("four bytes"));
            let last = uses.entry(half).or_insert(minutes);
            *last = minutes.max(*last);
        }
        let folded = (uses.len() * USED) as u64;
        if bytes.len() as u64 > folded * 2 + FOLD {
            let mut out = Vec::with_capacity(uses.len() * USED);
            let mut sorted: Vec<_> = uses.iter().collect();
            sorted.sort_unstable();
            for (half, minutes) in sorted {
                out.extend_from_slice(half);
                out.extend_from_slice(&minutes.to_le_bytes());
            }
            let mut temp = Temp::new(root)?;
            temp.file.write_all(&out).at("write", temp.path())?;
            temp.persist(&path)?;
        }
        Ok(Self(uses))
    }

    /// Milliseconds since the epoch of the last use, where one is known.
    pub(crate) fn of(&self, digest: &Digest) -> Option<u64> {
        let half: [u8; 16] = digest.0[..16].try_into().expect("sixteen bytes");
        self.0.get(&half).map(|m| u64::from(*m) * 60_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreOptions;

    fn bytes_of(lease: &Lease) -> Vec<u8> {
        std::fs::read(&lease.state.as_ref().unwrap().path).unwrap()
    }

    #[test]
    fn dead_leases_leave_their_uses_and_live_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("s"), StoreOptions::default()).unwrap();
        let root = store.root().to_path_buf();
        let blob = store.put_bytes(b"used").unwrap();
        let lease = store.lease("live").unwrap();
        store.read(&blob.digest).unwrap();
        // A dead one is a file that nobody has locked.
        let live = bytes_of(&lease);
        assert_eq!(live.len(), NOTE);
        for n in 0..=MANY_LEASES {
            std::fs::write(root.join(format!("leases/dead.1.{n}.lease")), &live).unwrap();
        }
        let second = store.lease("second").unwrap();
        let leased = ["live", "second", "dead", "liv"].map(|name| store.is_leased(name).unwrap());
        assert_eq!(leased, [true, true, false, false]);
        assert_eq!(names(&root.join("leases")).unwrap().len(), 2);
        let mut guarded = Guarded::default();
        guarded.refresh(&root).unwrap();
        assert_eq!(guarded.leases, 2);
        assert!(guarded.blobs.contains(&blob.digest));
        drop((lease, second));
        let mut guarded = Guarded::default();
        guarded.refresh(&root).unwrap();
        assert!(guarded.leases == 0 && guarded.blobs.is_empty());
        let minute = 60_000;
        let used = LastUses::load(&root).unwrap().of(&blob.digest).unwrap();
        assert!(now_ms() - used < 2 * minute, "{used}");
    }

    #[test]
    fn each_use_is_noted_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("s"), StoreOptions::default()).unwrap();
        let lease = store.lease("run").unwrap();
        for n in 0..5_u8 {
            let digest = Digest::of(&[n % 3]);
            store
                .note(&[(Use::Blob, digest), (Use::Tree, digest)])
                .unwrap();
        }
        let bytes = bytes_of(&lease);
        assert_eq!(bytes.len(), 6 * NOTE, "each use is noted once");
        assert!(
            bytes
                .chunks_exact(NOTE)
                .all(|note| parse_note(note).is_some())
        );
    }
}
