//! The folder of a node: made clean, searched when something is missing, removed.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use dagrun_model::{AttemptId, RelPath};

/// Entries that are looked at when files are listed for a message.
const LISTED: usize = 10_000;

/// A short name that tells people which node it is and that no shell or build tool stumbles over.
pub(crate) fn name(id: &str, attempt: AttemptId) -> String {
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

/// Whether the file system of `path` has no room left, for telling a full disk from a node's own failure.
pub(crate) fn is_full(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|fs| {
        fs.f_bavail.saturating_mul(fs.f_frsize) < (16 << 10) || (fs.f_files > 0 && fs.f_favail == 0)
    })
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
