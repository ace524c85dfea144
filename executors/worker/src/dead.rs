//! What a run leaves that was killed: its work folder, and processes where its spawner could not kill them.
//!
//! Which runs are dead is for others to know.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    folder::{self, SCRATCH},
    spawner::tree,
};

/// The runs that have a work folder and did not clear it: they run, or were killed. Sorted.
pub fn uncleared_runs(work_dir: &Path) -> Vec<String> {
    let mut runs: Vec<String> = fs::read_dir(work_dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join(SCRATCH).is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    runs.sort_unstable();
    runs
}

/// Kills the processes of a dead run and removes its work folder, but for the folders of failed nodes that were kept. Gives how
/// many processes there were.
pub fn clear_dead_run(work_dir: &Path, run: &str) -> u32 {
    // Tokens of its attempts begin so.
    let session = format!("{run}.");
    tree::kill_spawners(&session);
    let killed = tree::kill_marked(&session);
    let root = work_dir.join(run);
    for path in entries(&root) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if folder::is_unnamed(&name) || name == SCRATCH {
            // What cannot be removed is left for a collection.
            let _ = folder::remove(&path);
        }
    }
    let _ = fs::remove_dir(&root);
    killed
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_dead_run_leaves_only_what_was_kept() {
        let work = tempfile::tempdir().expect("a temporary folder");
        for path in [
            "dead/.dagrun",
            "dead/n1/a/b",
            "dead/score-a7",
            "over/score-a7",
        ] {
            fs::create_dir_all(work.path().join(path)).expect("folders");
        }
        assert_eq!(uncleared_runs(work.path()), ["dead"]);
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .env(tree::TOKEN, "dead.1.2.3")
            .spawn()
            .expect("sleep starts");
        while tree::token(child.id() as i32).is_none() {
            std::thread::yield_now();
        }
        assert_eq!(clear_dead_run(work.path(), "dead"), 1);
        assert!(!child.wait().expect("it was killed").success());
        assert_eq!(
            entries(&work.path().join("dead")),
            [work.path().join("dead/score-a7")]
        );
        assert!(uncleared_runs(work.path()).is_empty());
    }
}
