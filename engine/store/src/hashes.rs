//! Digests of workspace files, remembered by what their inode looks like.
//!
//! A digest is kept for (device, inode, size, mtime, ctime), and only where both times lay two seconds before the hashing:
//! within a clock tick a file can change without a trace. The file of what is remembered is check-summed; where it is lost
//! or damaged, files are hashed again.

use std::{
    fs::Metadata,
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use dagrun_model::{BlobRef, Digest};
use rustc_hash::FxHashMap;

use crate::{
    blob::hash_reader,
    error::StoreError,
    fsx::{StatId, Temp, lock, now_ms, open_plain, patiently},
    glob::Walk,
};

/// Why a workspace file has no digest.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Nothing is there.
    #[error("`{path}` does not exist; check the path, which is relative to the pipeline's folder")]
    Missing {
        /// The path as it was asked for.
        path: String,
    },
    /// It lies outside of the project and was not declared so.
    #[error("`{path}` is outside the project's folder; declare the input with `external: true`")]
    Outside {
        /// The path as it was asked for.
        path: String,
    },
    /// The pattern is malformed.
    #[error("`{pattern}` {why}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// A symlink that leads to itself, or to a folder that it stands in.
    #[error(
        "`{path}` is a symbolic link that leads back to itself or to a folder above it, without end; remove it, or name \
         the files and folders that the job reads one by one"
    )]
    Loop {
        /// The symlink.
        path: PathBuf,
    },
    /// A name that cannot be staged.
    #[error("{path:?} is not a plain UTF-8 name; rename it")]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// Neither a file nor a folder, or a folder where a file is wanted.
    #[error("`{path}` is not a regular file; only files and folders can be inputs")]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// It changed each time it was read.
    #[error("`{path}` keeps changing while it is read; stop what writes to it")]
    Changing {
        /// The file.
        path: PathBuf,
    },
    /// The system's word.
    #[error("cannot read `{path}`: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
}

impl FileError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        if source.kind() == std::io::ErrorKind::NotFound {
            let path = path.display().to_string();
            return Self::Missing { path };
        }
        if is_loop(&source) {
            return Self::Loop { path: path.into() };
        }
        Self::Io {
            path: path.into(),
            source,
        }
    }
}

/// Whether the system followed symlinks without end.
pub(crate) fn is_loop(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

/// Remembered digests of files. Thread-safe.
#[derive(Debug)]
pub struct FileHashes {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: FxHashMap<(u64, u64), Known>,
    changed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    stat: StatId,
    digest: Digest,
    /// Days since the epoch when it was last asked for.
    used: u32,
}

const MAGIC: &[u8; 8] = b"dagrfh\x00\x01";
const RECORD: usize = 5 * 8 + 32 + 4;
/// Times closer to the hashing than this are not trusted.
const SETTLED_NS: i64 = 2_000_000_000;
/// Files that nobody asked for in so many days are forgotten.
const KEEP_DAYS: u32 = 60;
/// Files, or bytes, from which several threads are worth it.
const MANY: usize = 32;

impl State {
    fn remembered(&mut self, stat: &StatId, today: u32) -> Option<Digest> {
        let known = self.known.get_mut(&(stat.dev, stat.ino))?;
        if known.stat != *stat {
            return None;
        }
        // Once a week is often enough to keep it.
        if today.saturating_sub(known.used) > 7 {
            known.used = today;
            self.changed = true;
        }
        Some(known.digest)
    }
}

impl FileHashes {
    /// Reads what was remembered; a missing or damaged file is an empty one.
    pub fn open(path: &Path) -> Self {
        let mut bytes = Vec::new();
        let read = open_plain(path).and_then(|mut file| file.read_to_end(&mut bytes));
        let known = read.ok().and_then(|_| parse(&bytes)).unwrap_or_default();
        Self {
            path: path.into(),
            state: Mutex::new(State {
                known,
                changed: false,
            }),
        }
    }

    /// The blobs of files, in the order of `paths`, which are absolute or relative to `root`. Symlinks are followed.
    pub fn hash(&self, root: &Path, paths: &[String]) -> Vec<Result<BlobRef, FileError>> {
        let files = paths.iter().map(|path| (root.join(path), None));
        self.hash_all(&files.collect::<Vec<_>>())
    }

    /// The files that a path, folder or pattern stands for, sorted by name, with their blobs.
    ///
    /// Names are relative to `root`, or absolute where they lie outside of it, which needs `external`.
    ///
    /// # Errors
    /// [`FileError::Missing`] where a plain path does not exist (a pattern may match nothing), [`FileError::Outside`]
    /// where something leads out of `root` unasked, and others where a file cannot be read.
    pub fn glob(
        &self,
        root: &Path,
        pattern: &str,
        external: bool,
    ) -> Result<Vec<(String, BlobRef)>, FileError> {
        let mut all = self.globs(root, &[(pattern, external)]);
        all.pop().expect("one answer for one pattern")
    }

    /// What [`FileHashes::glob`] finds for each of many patterns. Cheaper than one at a time: the root and the folders are
    /// looked at once, and all files are hashed together.
    ///
    /// # Errors
    /// For each pattern, as there.
    pub fn globs(
        &self,
        root: &Path,
        patterns: &[(&str, bool)],
    ) -> Vec<Result<Vec<(String, BlobRef)>, FileError>> {
        let mut walk = Walk::new(root);
        let known = match &mut walk {
            Ok(walk) => self.known(walk, patterns),
            Err(_) => Vec::new(),
        };
        if known.len() == patterns.len() && known.iter().all(Option::is_some) {
            return known.into_iter().flatten().map(Ok).collect();
        }
        let open: Vec<(&str, bool)> = patterns
            .iter()
            .enumerate()
            .filter(|(ix, _)| !matches!(known.get(*ix), Some(Some(_))))
            .map(|(_, pattern)| *pattern)
            .collect();
        let mut found = self.find(root, walk, &open).into_iter();
        let mut known = known.into_iter();
        patterns
            .iter()
            .map(|_| match known.next().flatten() {
                Some(file) => Ok(file),
                None => found.next().expect("one answer for one pattern"),
            })
            .collect()
    }

    /// The files of patterns that are plain paths to files whose digests are remembered: the common case, with one look at
    /// each file.
    fn known(
        &self,
        walk: &mut Walk,
        patterns: &[(&str, bool)],
    ) -> Vec<Option<Vec<(String, BlobRef)>>> {
        let today = today();
        let mut state = lock(&self.state);
        if state.known.is_empty() {
            return Vec::new();
        }
        let mut known = |pattern: &str| {
            let stat = walk.look(pattern)?;
            let id = StatId::of_stat(&stat);
            let blob = BlobRef {
                digest: state.remembered(&id, today)?,
                size: id.size,
                executable: stat.st_mode & 0o111 != 0,
            };
            Some(vec![(pattern.to_owned(), blob)])
        };
        patterns.iter().map(|(pattern, _)| known(pattern)).collect()
    }

    fn find(
        &self,
        root: &Path,
        mut walk: std::io::Result<Walk>,
        patterns: &[(&str, bool)],
    ) -> Vec<Result<Vec<(String, BlobRef)>, FileError>> {
        let mut files = Vec::new();
        let mut expand = |&(pattern, external): &(&str, bool)| {
            let walk = walk.as_mut().map_err(|error| {
                let again = error.raw_os_error().map(std::io::Error::from_raw_os_error);
                FileError::io(root, again.unwrap_or_else(|| error.kind().into()))
            })?;
            let found = walk.expand(pattern, external)?;
            let mut names = Vec::with_capacity(found.len());
            for file in found {
                names.push(file.name);
                files.push((file.path, file.meta));
            }
            Ok(names)
        };
        let names: Vec<Result<Vec<String>, FileError>> = patterns.iter().map(&mut expand).collect();
        let mut blobs = self.hash_all(&files).into_iter();
        let answer = |names: Result<Vec<String>, FileError>| {
            let names = names?;
            // All of them are taken off before the first error ends this pattern.
            let blobs: Vec<_> = blobs.by_ref().take(names.len()).collect();
            names
                .into_iter()
                .zip(blobs)
                .map(|(name, blob)| Ok((name, blob?)))
                .collect()
        };
        names.into_iter().map(answer).collect()
    }

    /// Writes what is remembered, if anything is new.
    ///
    /// # Errors
    /// When it cannot be written; the old file stays then.
    pub fn save(&self) -> Result<(), StoreError> {
        use crate::error::At;
        let mut state = lock(&self.state);
        if !state.changed {
            return Ok(());
        }
        let today = today();
        state
            .known
            .retain(|_, known| today.saturating_sub(known.used) <= KEEP_DAYS);
        let bytes = print(&state.known);
        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).at("create", folder)?;
        let mut temp = Temp::new(folder)?;
        temp.file.write_all(&bytes).at("write", temp.path())?;
        temp.persist(&self.path)?;
        state.changed = false;
        Ok(())
    }

    /// The blobs of files that may have been looked at just now, in their order.
    fn hash_all(&self, files: &[(PathBuf, Option<Metadata>)]) -> Vec<Result<BlobRef, FileError>> {
        let known = |(_, meta): &(PathBuf, Option<Metadata>)| {
            let meta = meta.as_ref()?;
            let stat = StatId::of(meta);
            self.remembered(&stat).map(|digest| blob(meta, digest))
        };
        let mut done: Vec<Option<Result<BlobRef, FileError>>> =
            files.iter().map(|file| known(file).map(Ok)).collect();
        let open: Vec<usize> = (0..files.len()).filter(|ix| done[*ix].is_none()).collect();
        for (ix, result) in self.hash_open(files, &open) {
            done[ix] = Some(result);
        }
        done.into_iter()
            .map(|blob| blob.expect("what is not known was hashed"))
            .collect()
    }

    /// Hashes the files at these indices, in any order.
    fn hash_open(
        &self,
        files: &[(PathBuf, Option<Metadata>)],
        open: &[usize],
    ) -> Vec<(usize, Result<BlobRef, FileError>)> {
        let hash = |ix: usize| (ix, self.hash_one(&files[ix].0));
        let workers = if open.len() < MANY { 1 } else { workers() };
        if workers == 1 {
            return open.iter().map(|ix| hash(*ix)).collect();
        }
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let work = || {
                let mut mine = Vec::new();
                while let Some(ix) = open.get(next.fetch_add(1, Ordering::Relaxed)) {
                    mine.push(hash(*ix));
                }
                mine
            };
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            threads
                .into_iter()
                .flat_map(|t| t.join().expect("hashing does not panic"))
                .collect()
        })
    }

    fn hash_one(&self, path: &Path) -> Result<BlobRef, FileError> {
        let io = |error| FileError::io(path, error);
        for _ in 0..3 {
            let meta = std::fs::metadata(path).map_err(io)?;
            if !meta.is_file() {
                return Err(FileError::NotAFile { path: path.into() });
            }
            let stat = StatId::of(&meta);
            if let Some(digest) = self.remembered(&stat) {
                return Ok(blob(&meta, digest));
            }
            let started = now_ns();
            let mut file = patiently(|| std::fs::File::open(path)).map_err(io)?;
            if StatId::of(&file.metadata().map_err(io)?) != stat {
                continue;
            }
            let digest = hash_reader(&mut file, stat.size).map_err(io)?;
            if StatId::of(&file.metadata().map_err(io)?) != stat {
                continue;
            }
            if stat.mtime.max(stat.ctime).saturating_add(SETTLED_NS) <= started {
                self.remember(stat, digest);
            }
            return Ok(blob(&meta, digest));
        }
        Err(FileError::Changing { path: path.into() })
    }

    fn remembered(&self, stat: &StatId) -> Option<Digest> {
        lock(&self.state).remembered(stat, today())
    }

    fn remember(&self, stat: StatId, digest: Digest) {
        let mut state = lock(&self.state);
        state.changed = true;
        let known = Known {
            stat,
            digest,
            used: today(),
        };
        state.known.insert((stat.dev, stat.ino), known);
    }
}

fn blob(meta: &Metadata, digest: Digest) -> BlobRef {
    BlobRef {
        digest,
        size: meta.len(),
        executable: meta.mode() & 0o111 != 0,
    }
}

/// Threads that hash at once. Asked of the system once: it reads several files.
fn workers() -> usize {
    static WORKERS: OnceLock<usize> = OnceLock::new();
    *WORKERS.get_or_init(|| std::thread::available_parallelism().map_or(1, |n| n.get().min(8)))
}

fn now_ns() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

fn today() -> u32 {
    (now_ms() / 86_400_000) as u32
}

fn print(known: &FxHashMap<(u64, u64), Known>) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + known.len() * RECORD);
    out.extend_from_slice(MAGIC);
    for known in known.values() {
        let s = &known.stat;
        for n in [s.dev, s.ino, s.size, s.mtime as u64, s.ctime as u64] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(&known.digest.0);
        out.extend_from_slice(&known.used.to_le_bytes());
    }
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn parse(bytes: &[u8]) -> Option<FxHashMap<(u64, u64), Known>> {
    let (body, crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    let records = body.strip_prefix(MAGIC)?;
    if crc32fast::hash(body).to_le_bytes() != crc || !records.len().is_multiple_of(RECORD) {
        return None;
    }
    let mut known = FxHashMap::default();
    known.reserve(records.len() / RECORD);
    for record in records.chunks_exact(RECORD) {
        let number = |i: usize| u64::from_le_bytes(record[8 * i..8 * i + 8].try_into().expect("8"));
        let stat = StatId {
            dev: number(0),
            ino: number(1),
            size: number(2),
            mtime: number(3) as i64,
            ctime: number(4) as i64,
        };
        let digest = Digest(record[40..72].try_into().ok()?);
        let used = u32::from_le_bytes(record[72..].try_into().ok()?);
        known.insert((stat.dev, stat.ino), Known { stat, digest, used });
    }
    Some(known)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    /// A file whose mtime lies in the past. Its ctime cannot be set, so what is remembered of it is planted.
    fn old_file(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        let past = SystemTime::now() - Duration::from_secs(100);
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(past)
            .unwrap();
        path
    }

    #[test]
    fn fresh_files_are_not_remembered() {
        let folder = tempfile::tempdir().unwrap();
        old_file(folder.path(), "a", "text");
        let hashes = FileHashes::open(&folder.path().join("h"));
        let blob = hashes.hash(folder.path(), &["a".into()]).remove(0).unwrap();
        assert_eq!((blob.digest, blob.size), (Digest::of(b"text"), 4));
        assert!(lock(&hashes.state).known.is_empty(), "its ctime is now");
    }

    #[test]
    fn what_is_remembered_is_used_until_the_inode_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = old_file(folder.path(), "a", "text");
        let file = folder.path().join("h");
        let hashes = FileHashes::open(&file);
        let planted = Digest::of(b"planted");
        hashes.remember(StatId::of(&path.metadata().unwrap()), planted);
        hashes.save().unwrap();

        let hashes = FileHashes::open(&file);
        let digest = |h: &FileHashes| {
            let blob = h.hash(folder.path(), &["a".into()]).remove(0);
            blob.unwrap().digest
        };
        assert_eq!(digest(&hashes), planted);
        std::fs::write(&path, "tex2").unwrap();
        assert_eq!(digest(&hashes), Digest::of(b"tex2"));
    }

    #[test]
    fn a_damaged_memory_is_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = old_file(folder.path(), "a", "text");
        let file = folder.path().join("h");
        let hashes = FileHashes::open(&file);
        hashes.remember(StatId::of(&path.metadata().unwrap()), Digest::of(b"x"));
        hashes.save().unwrap();
        let good = std::fs::read(&file).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bad).is_none(), "{bit}");
        }
        assert!(parse(&good[..good.len() - 1]).is_none());
        assert!(parse(b"").is_none());
    }

    #[test]
    fn special_files_and_missing_ones_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let hashes = FileHashes::open(&folder.path().join("h"));
        std::fs::create_dir(folder.path().join("d")).unwrap();
        let found = hashes.hash(
            folder.path(),
            &["d".into(), "none".into(), "/dev/null".into()],
        );
        assert!(matches!(found[0], Err(FileError::NotAFile { .. })));
        assert!(matches!(found[1], Err(FileError::Missing { .. })));
        assert!(matches!(found[2], Err(FileError::NotAFile { .. })));
    }

    #[test]
    fn many_files_come_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..200).map(|i| format!("f{i:03}")).collect();
        for name in &names {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let hashes = FileHashes::open(&folder.path().join("h"));
        let found = hashes.glob(folder.path(), "f*", false).unwrap();
        let expected: Vec<_> = names
            .iter()
            .map(|n| (n.clone(), Digest::of(n.as_bytes())))
            .collect();
        let got: Vec<_> = found.into_iter().map(|(n, b)| (n, b.digest)).collect();
        assert_eq!(got, expected);
    }
}
