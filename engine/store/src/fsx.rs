//! Small file-system helpers: patient opening, temporary files that never outlive an error, sync of many files at once.
//!
//! Knows nothing of blobs or entries.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::fs::{Mode, OFlags, RenameFlags};

use crate::error::{At, StoreError, is_too_many_files};

/// What tells whether a file is still the one that was seen before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(crate) struct StatId {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) ctime: i64,
}

impl StatId {
    pub(crate) fn of(meta: &std::fs::Metadata) -> Self {
        let nanos = |s: i64, n: i64| s.saturating_mul(1_000_000_000).saturating_add(n);
        Self {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.len(),
            mtime: nanos(meta.mtime(), meta.mtime_nsec()),
            ctime: nanos(meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// The same of what the system itself says of a file.
    pub(crate) fn of_stat(stat: &rustix::fs::Stat) -> Self {
        let nanos = |s: i64, n: i64| s.saturating_mul(1_000_000_000).saturating_add(n);
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: nanos(stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime: nanos(stat.st_ctime, stat.st_ctime_nsec as i64),
        }
    }

    /// The same file with the same content as far as times tell; links and modes may have changed.
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        (self.dev, self.ino, self.size, self.mtime)
            == (other.dev, other.ino, other.size, other.mtime)
    }
}

/// Milliseconds since the epoch; 0 where the clock stands before it.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// How long files may be short before that is an error.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tries again for a while as long as files are short: other threads close theirs soon.
///
/// Where nobody in this process could open any for that long, nobody waits once more.
pub(crate) fn patiently<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut refused = None;
    loop {
        match open() {
            Err(error) if is_too_many_files(&error) => {
                let now = Instant::now();
                let waited = now - *refused.get_or_insert(now);
                if waited >= PATIENCE || shortage::lasts() >= PATIENCE {
                    return Err(error);
                }
                std::thread::sleep(waited.clamp(Duration::from_millis(1), PATIENCE / 16));
            }
            Ok(opened) => {
                shortage::ends();
                return Ok(opened);
            }
            Err(error) => return Err(error),
        }
    }
}

/// For how long nobody in this process could open a file.
mod shortage {
    use std::{
        sync::{
            LazyLock,
            atomic::{AtomicU64, Ordering::Relaxed},
        },
        time::{Duration, Instant},
    };

    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    /// In milliseconds since the start; 0 where there is none.
    static SINCE: AtomicU64 = AtomicU64::new(0);

    pub(super) fn lasts() -> Duration {
        let now = START.elapsed().as_millis() as u64 + 1;
        let first = SINCE.compare_exchange(0, now, Relaxed, Relaxed);
        let since = first.err().unwrap_or(now);
        Duration::from_millis(now.saturating_sub(since))
    }

    pub(super) fn ends() {
        if SINCE.load(Relaxed) != 0 {
            SINCE.store(0, Relaxed);
        }
    }
}

/// Opens a file for reading without following a symlink and without blocking on a fifo.
pub(crate) fn open_plain(path: &Path) -> io::Result<File> {
    patiently(|| {
        rustix::fs::open(
            path,
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK,
            Mode::empty(),
        )
        .map(File::from)
        .map_err(io::Error::from)
    })
}

/// A temporary file beside its final place. Dropped, it is removed.
///
/// It is locked while it lives, so that garbage collection can tell an orphan from one that is being written.
pub(crate) struct Temp {
    pub(crate) file: File,
    path: PathBuf,
    kept: bool,
}

/// What temporary files begin with.
pub(crate) const TEMP_PREFIX: &str = ".tmp-";

pub(crate) fn temp_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let nanos = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos());
    format!("{TEMP_PREFIX}{}-{nanos:x}-{count}", std::process::id())
}

impl Temp {
    /// Creates one in `folder`, with a mode that only its owner can use.
    pub(crate) fn new(folder: &Path) -> Result<Self, StoreError> {
        loop {
            let path = folder.join(temp_name());
            let open = || {
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&path)
            };
            match patiently(open) {
                Ok(file) => {
                    // Not every file system has locks; age alone protects the file there.
                    let _ = file.try_lock();
                    return Ok(Self {
                        file,
                        path,
                        kept: false,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(StoreError::io("create", &path, error)),
            }
        }
    }

    /// Takes one over that has this name, or creates it. `None` where somebody else has it.
    pub(crate) fn named(path: &Path) -> Result<Option<Self>, StoreError> {
        loop {
            let open = || {
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .mode(0o600)
                    .open(path)
            };
            let file = patiently(open).at("create", path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
                // A file system without locks: nobody can tell whose it is.
                Err(std::fs::TryLockError::Error(_)) => {
                    let folder = path.parent().unwrap_or(Path::new("."));
                    return Self::new(folder).map(Some);
                }
            }
            // Whoever had it until now may have given it its final name, or removed it.
            let ours = file.metadata().at("read", path)?;
            match std::fs::symlink_metadata(path) {
                Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {
                    return Ok(Some(Self {
                        file,
                        path: path.to_path_buf(),
                        kept: false,
                    }));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io("read", path, error)),
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves it to its final name, unless something is there already. Says whether it moved.
    pub(crate) fn persist_new(&mut self, dest: &Path) -> Result<bool, StoreError> {
        let moved = rename_new(&self.path, dest)?;
        self.kept = moved;
        Ok(moved)
    }

    /// Moves it to its final name, over what is there.
    pub(crate) fn persist(mut self, dest: &Path) -> Result<(), StoreError> {
        std::fs::rename(&self.path, dest).at("rename to", dest)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Renames without replacing. `false` where `to` exists.
///
/// Replacing would put bytes that are not yet on disk under a name that an acknowledged commit relies upon.
pub(crate) fn rename_new(from: &Path, to: &Path) -> Result<bool, StoreError> {
    use rustix::{fs::CWD, io::Errno};
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        // Some network file systems cannot: a hard link refuses to replace as well.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match std::fs::hard_link(from, to) {
            Ok(()) => {
                std::fs::remove_file(from).at("remove", from)?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(StoreError::io("link", to, error)),
        },
        Err(errno) => Err(StoreError::io("rename to", to, errno.into())),
    }
}

/// Why files could not be synced. Only a failed sync itself puts data in doubt.
#[derive(Debug)]
pub(crate) enum SyncError {
    /// The file could not be opened.
    Open(PathBuf, io::Error),
    /// The kernel could not write it to disk.
    Sync(PathBuf, io::Error),
}

/// Syncs files or folders to disk, on a few threads where there are many: the file system joins their journal commits.
pub(crate) fn sync_all(paths: &[PathBuf]) -> Result<(), SyncError> {
    let sync = |path: &PathBuf| -> Result<(), SyncError> {
        let file =
            patiently(|| File::open(path)).map_err(|error| SyncError::Open(path.clone(), error))?;
        file.sync_all()
            .map_err(|error| SyncError::Sync(path.clone(), error))
    };
    if paths.len() < 4 {
        return paths.iter().try_for_each(sync);
    }
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..paths.len().min(8) {
            scope.spawn(|| {
                while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = sync(path) {
                        next.store(paths.len(), Ordering::Relaxed);
                        let mut first = lock(&failed);
                        // A failed sync must not be hidden by a file that could not be opened.
                        if !matches!(*first, Some(SyncError::Sync(..))) {
                            *first = Some(error);
                        }
                    }
                }
            });
        }
    });
    match failed
        .into_inner()
        .unwrap_or_else(|poison| poison.into_inner())
    {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Locks a mutex; a panic of another thread while holding it leaves data that are whole all the same.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// An identifier of this boot, where the system has one.
pub(crate) fn boot_id() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let id: String = text
        .trim()
        .chars()
        .filter(char::is_ascii_hexdigit)
        .collect();
    (id.len() == 32).then_some(id)
}

/// The names in a folder, sorted; those that are not UTF-8 are none of ours.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).at("list", folder)? {
        let entry = entry.at("list", folder)?;
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
