//! What runs of a workspace left that were killed is cleared when the next one begins, and what workers of a coordinator left
//! when the next one starts with the same cache.

use std::{
    fs::{self, File},
    io,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use dagrun_run::Workspace;
use dagrun_store::Store;
use dagrun_worker::{clear_dead_run, uncleared_runs};

use crate::{
    say,
    term::{Ink, Style, plural_of},
    workers::run_of,
};

/// Clears what dead runs of a workspace left in the cache. Its lock is held by the caller, so no run of it is live; one that
/// is known here and has a lease belongs to a copy of the workspace. Gives warnings, which have been shown.
pub(crate) fn clear(workspace: &Workspace, store: &Store, style: Style) -> Vec<String> {
    let work = store.root().join("work");
    let own = workspace.runs();
    let mut warnings = Vec::new();
    for run in uncleared_runs(&work) {
        let whose = run_of(&run).to_owned();
        let is_own = own.binary_search_by(|own| own.0.cmp(&whose)).is_ok();
        if !is_own || store.is_leased(&whose).unwrap_or(true) {
            continue;
        }
        let killed = clear_dead_run(&work, &run);
        if killed > 0 {
            let of = plural_of(u64::from(killed), "process", "processes");
            let text =
                format!("{of} of run {run}, which was killed, still ran and had to be killed");
            say!("{} {text}", style.paint(Ink::Warn, "warning:"));
            warnings.push(text);
        }
    }
    warnings
}

/// A worker's name in the work folder, which is its own as long as this lives.
#[derive(Debug)]
pub(crate) struct WorkName {
    pub(crate) name: String,
    /// Locked, wherever the process is that has it: process ids say nothing of other containers.
    _lock: File,
}

impl WorkName {
    /// Takes a name in the work folder for a worker of a coordinator, and clears what workers left there that were killed.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(crate) fn claim(work: &Path) -> io::Result<Self> {
        fs::create_dir_all(work)?;
        // Nobody takes a folder that is being made for one that was left.
        let gate = open(&work.join(GATE))?;
        gate.lock()?;
        for other in uncleared_runs(work) {
            let file = work.join(&other).join(LOCK);
            let is_dead = || open(&file).is_ok_and(|file| file.try_lock().is_ok());
            // Those without the file are no such workers.
            if other.starts_with(PREFIX) && file.exists() && is_dead() {
                let killed = clear_dead_run(work, &other);
                tracing::info!(other, killed, "cleared what a worker had left");
            }
        }
        // Whoever clears what is left of it kills the processes that have its name, whatever cache they are of: no other worker may get
        // it, be it one with the same number after a restart of the machine.
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = since.unwrap_or_default().as_nanos();
        let own = |n: u128| format!("{PREFIX}{}-{:x}", std::process::id(), now + n);
        let name = (0..).map(own).find(|name| !work.join(name).exists());
        let name = name.expect("numbers do not end");
        let file = work.join(&name).join(LOCK);
        fs::create_dir_all(file.parent().expect("it is in a folder"))?;
        let lock = open(&file)?;
        lock.lock()?;
        Ok(Self { name, _lock: lock })
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
}

/// What the folders of workers of a coordinator begin with.
const PREFIX: &str = "worker-";
/// Locked by whoever has a work folder, in it.
const LOCK: &str = ".dagrun/lock";
/// Locked while folders are taken or cleared.
const GATE: &str = ".lock";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_clears_what_dead_ones_left_and_nothing_else() {
        let work = tempfile::tempdir().unwrap();
        let here = |path: &str| work.path().join(path);
        let first = WorkName::claim(work.path()).unwrap();
        fs::create_dir(here(&first.name).join("n1")).unwrap();
        for path in [
            "worker-1/.dagrun",
            "worker-1/n1",
            "worker-1/score-a7",
            "run/.dagrun",
        ] {
            fs::create_dir_all(here(path)).unwrap();
        }
        fs::write(here("worker-1/.dagrun/lock"), "").unwrap();
        // Another process with the same number, in another container.
        let second = WorkName::claim(work.path()).unwrap();
        assert_ne!(second.name, first.name);
        assert!(here(&first.name).join("n1").exists() && here("run/.dagrun").exists());
        assert!(here("worker-1/score-a7").exists() && !here("worker-1/n1").exists());
        // Another one with another cache, later.
        let name = first.name.clone();
        drop(first);
        let elsewhere = tempfile::tempdir().unwrap();
        let third = WorkName::claim(elsewhere.path()).unwrap();
        assert_ne!(third.name, name);
        let _fourth = WorkName::claim(work.path()).unwrap();
        assert!(!here(&name).exists() && here(&second.name).exists());
    }
}
