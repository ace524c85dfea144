//! What a worker knows for the length of a run.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use dagrun_model::{Digest, FailureCause};
use dagrun_store::{Staging, Store, StoreError};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    Prepared, env,
    folder::{Folders, SCRATCH},
    inputs::Stat,
};

/// What a worker is made of.
#[derive(Clone)]
pub struct WorkerOptions {
    /// Where blobs come from and go to.
    pub store: Store,
    /// The folder that workspace inputs are relative to.
    pub project: PathBuf,
    /// Where folders of nodes are made, in a folder for the run. Best on the file system of the store.
    pub work_dir: PathBuf,
    /// The id of the run; safe as a file name.
    pub run: String,
    /// Values of secrets; others are taken from environment variables of the same name.
    pub secrets: BTreeMap<String, String>,
    /// How blobs are laid into folders of nodes. Hard links only where nodes are trusted to leave their inputs alone: an
    /// alteration is noticed, but only after the node.
    pub staging: Staging,
}

/// Secrets are never printed.
impl fmt::Debug for WorkerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerOptions")
            .field("project", &self.project)
            .field("work_dir", &self.work_dir)
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

/// Turns attempts into results on this machine, for one run.
#[derive(Debug)]
pub struct Worker {
    pub(crate) options: WorkerOptions,
    /// The folder of the run.
    pub(crate) folder: PathBuf,
    pub(crate) folders: Folders,
    /// Scripts and logs on their way, beside the folders of nodes.
    pub(crate) scratch: PathBuf,
    /// What attempt tokens of this worker begin with, unique on this machine.
    pub(crate) session: String,
    /// What every node's environment holds.
    pub(crate) inherited: Vec<(String, String)>,
    /// Workspace files whose content was compared with a digest, and as what they were seen then.
    pub(crate) compared: Mutex<FxHashMap<PathBuf, (Stat, Digest)>>,
    /// Scripts that were written.
    pub(crate) scripts: Mutex<FxHashSet<Digest>>,
    /// When an attempt found a full disk last.
    pub(crate) full: Mutex<Option<Instant>>,
}

impl Worker {
    /// Makes the folder of the run.
    ///
    /// # Errors
    /// When it cannot be made, or its path is not UTF-8.
    pub fn new(options: WorkerOptions) -> io::Result<Self> {
        let folder = options.work_dir.join(&options.run);
        let scratch = folder.join(SCRATCH);
        std::fs::create_dir_all(&scratch).map_err(|error| named(error, &scratch))?;
        // Nodes get absolute paths whatever the caller gave, and messages to the spawner are text.
        let folder = folder
            .canonicalize()
            .map_err(|error| named(error, &folder))?;
        if folder.to_str().is_none() {
            return Err(io::Error::other(format!(
                "the work folder {} is not UTF-8; choose another",
                folder.display()
            )));
        }
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Ok(Self {
            session: format!(
                "{}.{}.{:x}.",
                options.run,
                std::process::id(),
                since.as_nanos()
            ),
            scratch: folder.join(SCRATCH),
            folders: Folders::new(&folder),
            folder,
            inherited: env::inherited(std::env::vars_os()),
            compared: Mutex::default(),
            scripts: Mutex::default(),
            full: Mutex::default(),
            options,
        })
    }

    /// The environment of an attempt's first command: what is inherited, the node's own, and the command's.
    pub fn environment(&self, prepared: &Prepared) -> Vec<(String, String)> {
        let order = prepared.order.iter();
        let own = order.flat_map(|order| {
            order.env.iter().chain(
                order
                    .commands
                    .iter()
                    .take(1)
                    .flat_map(|command| &command.env),
            )
        });
        self.inherited.iter().chain(own).cloned().collect()
    }

    /// The folder of the run, in which the folders of nodes are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes what is left of the run's folder: scripts, and the folder itself unless folders of failed nodes were kept in it.
    pub fn clean(&self) {
        self.folders.clean();
        let _ = std::fs::remove_dir_all(&self.scratch);
        let _ = std::fs::remove_dir(&self.folder);
    }

    /// Kills whatever carries a token of this worker, for when its spawner is gone. Gives how many processes there were.
    pub fn kill_leftovers(&self) -> u32 {
        crate::spawner::tree::kill_marked(&self.session)
    }
}

/// The error with the path it is about.
pub(crate) fn named(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Opens something, and waits a while where too many files are open: others will close theirs.
pub(crate) fn patiently<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for pause in [1, 5, 20, 100, 500, 2000] {
        match open() {
            Err(error) if is_short_of_files(&error) => {
                std::thread::sleep(Duration::from_millis(pause));
            }
            done => return done,
        }
    }
    open()
}

fn is_short_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}

/// What an error of the file system means for a node.
pub(crate) fn io_failure(what: &str, path: &Path, error: &io::Error) -> FailureCause {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FailureCause::DiskFull {
            path: path.display().to_string(),
        },
        _ if is_short_of_files(error) => FailureCause::Engine {
            message: format!(
                "cannot {what} {}: {error}; raise `ulimit -n`",
                path.display()
            ),
        },
        _ => FailureCause::Engine {
            message: format!("cannot {what} {}: {error}", path.display()),
        },
    }
}

/// What an error of the store means for a node, where neither an input nor an output is to blame.
pub(crate) fn store_failure(error: &StoreError) -> FailureCause {
    match error {
        StoreError::DiskFull { path, .. } => FailureCause::DiskFull {
            path: path.display().to_string(),
        },
        error => FailureCause::Engine {
            message: error.to_string(),
        },
    }
}
