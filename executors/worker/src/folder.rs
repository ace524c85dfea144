//! The folder of a node: made clean, searched when something is missing, removed.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use dagrun_model::{AttemptId, FailureCause, RelPath};

use crate::worker::io_failure;

/// Entries that are looked at when files are listed for a message.
const LISTED: usize = 10_000;

/// The folders of nodes of one run.
///
/// An empty folder is used again: making and removing one costs more than all else that is done for a small node.
#[derive(Debug)]
pub(crate) struct Folders {
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    made: u64,
    spare: Vec<PathBuf>,
    /// The rights of a folder as it is made.
    mode: Option<u32>,
}

impl Folders {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.into(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A clean folder that nobody else has.
    pub(crate) fn take(&self) -> Result<PathBuf, FailureCause> {
        loop {
            let path = {
                let mut state = self.state();
                if let Some(path) = state.spare.pop() {
                    return Ok(path);
                }
                state.made += 1;
                self.root.join(format!("{UNNAMED}{}", state.made))
            };
            match fs::create_dir(&path) {
                Ok(()) => return Ok(path),
                // An earlier engine of the same run was killed and left it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io_failure("make", &path, &error)),
            }
        }
    }

    /// Takes a folder back that nothing uses any more.
    pub(crate) fn give_back(&self, path: &Path) {
        if self.is_clean(path) {
            self.state().spare.push(path.into());
        } else {
            self.remove(path);
        }
    }

    /// Removes a folder that something might still use.
    pub(crate) fn remove(&self, path: &Path) {
        if let Err(error) = remove(path) {
            tracing::warn!("cannot remove {}: {error}", path.display());
        }
    }

    /// Gives a folder to people to look at, under a name that tells whose it was.
    pub(crate) fn keep(&self, path: &Path, id: &str, attempt: AttemptId) -> PathBuf {
        let kept = self.root.join(name(id, attempt));
        match fs::rename(path, &kept) {
            Ok(()) => kept,
            Err(_) => path.into(),
        }
    }

    /// Removes what is spare.
    pub(crate) fn clean(&self) {
        for path in self.state().spare.drain(..) {
            let _ = fs::remove_dir(path);
        }
    }

    /// Whether a folder is as it was made.
    fn is_clean(&self, path: &Path) -> bool {
        let Ok(meta) = fs::symlink_metadata(path) else {
            return false;
        };
        let mode = *self.state().mode.get_or_insert_with(|| self.usual_mode());
        meta.is_dir()
            && meta.permissions().mode() == mode
            && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
    }

    /// The folder for scripts was made in the same place by the same means.
    fn usual_mode(&self) -> u32 {
        let sibling = fs::symlink_metadata(self.root.join(SCRATCH));
        sibling.map_or(0, |meta| meta.permissions().mode())
    }
}

/// The folder for scripts and logs, beside those of nodes.
pub(crate) const SCRATCH: &str = ".dagrun";

/// What the names of folders of nodes begin with until they are kept for people; a number follows.
const UNNAMED: char = 'n';

/// Whether a name is one of a folder that was kept for nobody.
pub(crate) fn is_unnamed(name: &str) -> bool {
    name.strip_prefix(UNNAMED)
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// A short name that tells people which node it is and that no shell or build tool stumbles over.
fn name(id: &str, attempt: AttemptId) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') {
            c
        } else {
            '_'
        }
    };
    let short: String = id.chars().take(40).map(plain).collect();
    format!("{}-{attempt}", short.trim_start_matches('.'))
}

/// Removes a folder with all in it, also where the node took its own rights away.
pub(crate) fn remove(folder: &Path) -> io::Result<()> {
    // Most nodes leave nothing behind once their outputs are stored.
    if fs::remove_dir(folder).is_ok() {
        return Ok(());
    }
    match fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => {
            give_rights(folder);
            fs::remove_dir_all(folder)
        }
    }
}

fn give_rights(folder: &Path) {
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            give_rights(&entry.path());
        }
    }
}

/// Up to `most` files below `root` that are none of `inputs`, sorted.
pub(crate) fn list(root: &Path, inputs: &[&RelPath], most: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    let mut seen = 0;
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(root.join(&folder))
            .into_iter()
            .flatten()
            .flatten()
        {
            seen += 1;
            if seen > LISTED {
                break;
            }
            let path = folder.join(entry.file_name());
            let text = path.to_string_lossy().into_owned();
            if inputs.iter().any(|input| input.as_str() == text) {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(path);
            } else {
                found.push(text);
            }
        }
    }
    found.sort();
    found.truncate(most);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        let attempt = AttemptId(7);
        assert_eq!(
            name("score[trial=1,t=\"a b\"]", attempt),
            "score_trial_1_t__a_b__-a7"
        );
        assert_eq!(name("..", attempt), "-a7");
        assert!(name(&"x".repeat(300), attempt).len() < 60);
    }

    #[test]
    fn only_clean_folders_are_used_again() {
        let root = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(root.path().join(SCRATCH)).expect("a folder");
        let folders = Folders::new(root.path());
        let dirty: [fn(&Path); 4] = [
            |path| fs::write(path.join(".hidden"), "").expect("a file"),
            |path| fs::set_permissions(path, fs::Permissions::from_mode(0o700)).expect("chmod"),
            |path| fs::remove_dir(path).expect("rmdir"),
            |path| {
                fs::remove_dir(path).expect("rmdir");
                std::os::unix::fs::symlink("/tmp", path).expect("a link");
            },
        ];
        let first = folders.take().expect("a folder");
        folders.give_back(&first);
        assert_eq!(folders.take().expect("a folder"), first);
        for spoil in dirty {
            let path = folders.take().expect("a folder");
            spoil(&path);
            folders.give_back(&path);
            let next = folders.take().expect("a folder");
            assert_ne!(next, path);
            assert!(path.symlink_metadata().is_err() || path.is_symlink());
        }
    }

    #[test]
    fn folders_without_rights_are_removed() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let folder = root.path().join("n");
        fs::create_dir_all(folder.join("a/b")).expect("folders");
        fs::write(folder.join("a/b/f"), "x").expect("a file");
        for path in ["a/b", "a"] {
            fs::set_permissions(folder.join(path), fs::Permissions::from_mode(0o000))
                .expect("chmod");
        }
        remove(&folder).expect("it is removed");
        assert!(!folder.exists());
    }
}
