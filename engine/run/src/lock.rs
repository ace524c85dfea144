//! The lock of a workspace: one run at a time.
//!
//! It is an advisory lock of the kernel on a file, so that the death of its owner frees it, whatever the file says. What
//! the file says is only for the message of the one that is refused. Whoever deletes the file makes room for another lock:
//! its owner looks whether the path still names what it has locked.

use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{RunError, own};

/// Holds a workspace until it is dropped, or its process dies.
#[derive(Debug)]
pub struct WorkspaceLock {
    /// Open, so that its inode is nobody else's.
    file: File,
    holder: Holder,
}

/// How often a run looks at its lock.
pub(crate) const LOOK: Duration = Duration::from_secs(1);

/// Looks whether a lock still keeps others out.
#[derive(Clone, Debug)]
pub(crate) struct LockWatch {
    path: PathBuf,
    inode: (u64, u64),
    looked: Instant,
}

impl LockWatch {
    fn new(path: &Path, file: &fs::Metadata) -> Self {
        Self {
            path: path.into(),
            inode: inode(file),
            looked: Instant::now(),
        }
    }

    /// Watches the lock that this process has just taken.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        Some(Self::new(path, &fs::metadata(path).ok()?))
    }

    /// As [`Self::lost`], unless that was asked within [`LOOK`].
    pub(crate) fn lost_now_and_then(&mut self) -> Option<String> {
        if self.looked.elapsed() < LOOK {
            return None;
        }
        self.looked = Instant::now();
        self.lost()
    }

    /// What is wrong, where the locked file was deleted or replaced. That it cannot be looked at says nothing.
    pub(crate) fn lost(&self) -> Option<String> {
        match fs::metadata(&self.path) {
            Ok(meta) if inode(&meta) == self.inode => return None,
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return None,
            _ => {}
        }
        Some(format!(
            "`{}` was deleted during the run, so another run could begin here; what was committed is in the cache: run again to go on",
            self.path.display()
        ))
    }
}

fn inode(meta: &fs::Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

/// Who holds a workspace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// Its host.
    pub host: String,
    /// The boot of that host.
    pub boot: String,
    /// When it took the lock, in seconds since the epoch.
    pub since: u64,
    /// Its command line.
    pub command: Vec<String>,
    /// The run elsewhere that it follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<Followed>,
}

/// A run on a coordinator that a process here follows, to lay out what it makes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Followed {
    /// Its number there.
    pub run: String,
    /// The coordinator, as it was named.
    pub on: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid == 0 {
            return f.write_str("its process is just beginning");
        }
        let ago = now_seconds().saturating_sub(self.since);
        write!(
            f,
            "process {} on {}, since {}",
            self.pid,
            self.host,
            ago_text(ago)
        )
    }
}

fn ago_text(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

pub(crate) fn now_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

impl WorkspaceLock {
    pub(crate) fn take(path: &Path, command: &[String]) -> Result<Self, RunError> {
        let file = loop {
            let mut file = open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(RunError::Locked(Box::new(read_holder(&mut file))));
                }
                Err(TryLockError::Error(error)) => return Err(RunError::io("lock", path)(error)),
            }
            let meta = file.metadata().map_err(RunError::io("look at", path))?;
            // A file that was deleted since it was opened keeps nobody out.
            if LockWatch::new(path, &meta).lost().is_none() {
                break file;
            }
        };
        let holder = Holder {
            pid: std::process::id(),
            host: host_name(),
            boot: boot_id(),
            since: now_seconds(),
            command: command.to_vec(),
            follows: None,
        };
        let mut lock = Self { file, holder };
        lock.tell();
        Ok(lock)
    }

    /// Tells others which run elsewhere is followed meanwhile.
    pub fn follow(&mut self, run: Followed) {
        self.holder.follows = Some(run);
        self.tell();
    }

    fn tell(&mut self) {
        let text = serde_json::to_vec(&self.holder).expect("a holder is plain data");
        let file = &mut self.file;
        // Only the message of a refused run depends on it: a full disk must not keep this one from starting.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(&text));
    }

    /// Who holds the lock now, if anybody does.
    pub(crate) fn holder(path: &Path) -> Option<Holder> {
        let mut file = own::open(OpenOptions::new().read(true), path).ok()?;
        match file.try_lock_shared() {
            Ok(()) => None,
            Err(_) => Some(read_holder(&mut file)),
        }
    }
}

fn open(path: &Path) -> Result<File, RunError> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    own::open(&options, path).map_err(RunError::io("open", path))
}

fn read_holder(file: &mut File) -> Holder {
    let mut text = String::new();
    match file.take(1 << 16).read_to_string(&mut text) {
        Ok(_) => serde_json::from_str(&text).unwrap_or_default(),
        Err(_) => Holder::default(),
    }
}

/// The host's name.
pub(crate) fn host_name() -> String {
    static NAME: OnceLock<String> = OnceLock::new();
    let ask = || {
        let names = rustix::system::uname();
        names.nodename().to_string_lossy().into_owned()
    };
    NAME.get_or_init(ask).clone()
}

/// The id of the current boot; empty where the system has none.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_told_of_the_first_and_death_frees_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let mut lock = WorkspaceLock::take(&path, &["dagrun".into()]).unwrap();
        let Err(RunError::Locked(holder)) = WorkspaceLock::take(&path, &[]) else {
            panic!("the lock was taken twice");
        };
        assert_eq!(holder.pid, std::process::id());
        assert_eq!(holder.command, ["dagrun"]);
        assert_eq!(WorkspaceLock::holder(&path), Some(*holder));
        let run = Followed {
            run: "7".into(),
            on: "host:1".into(),
        };
        lock.follow(run.clone());
        let told = WorkspaceLock::holder(&path).unwrap();
        assert_eq!(
            (told.follows, told.command),
            (Some(run), vec!["dagrun".into()])
        );
        drop(lock);
        // A child that another test starts has the file for a moment, until it becomes another program.
        let freed = (0..500).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            WorkspaceLock::holder(&path).is_none()
        });
        assert!(freed);
        WorkspaceLock::take(&path, &[]).unwrap();
    }

    #[test]
    fn a_lock_whose_file_is_deleted_or_replaced_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = WorkspaceLock::take(&path, &[]).unwrap();
        let watch = LockWatch::of(&path).unwrap();
        assert_eq!(watch.lost(), None);
        fs::remove_file(&path).unwrap();
        assert!(watch.lost().is_some());
        let other = WorkspaceLock::take(&path, &[]).unwrap();
        assert!(watch.lost().is_some());
        assert_eq!(LockWatch::of(&path).unwrap().lost(), None);
        drop((lock, other));
    }

    #[test]
    fn what_a_dead_owner_wrote_keeps_nobody_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        fs::write(
            &path,
            r#"{"pid":1,"host":"h","boot":"b","since":1,"command":[]}"#,
        )
        .unwrap();
        WorkspaceLock::take(&path, &[]).unwrap();
    }
}
