//! A client's project on the coordinator: a folder with the files that came with the submission, kept between its runs for the sake
//! of studies and histories.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use dagrun_cluster::runs::Refusal;
use dagrun_model::{Artifact, BlobRef, Digest, RelPath};
use dagrun_proto::v1::{ProjectFile, Submission};
use dagrun_run::{GivenFacts, Workspace};
use dagrun_store::Store;

/// The list of files that a submission brought, beside the project.
const LIST: &str = ".dagrun/submitted";

/// Checks what a client says of a file. It comes from outside: no path may lead out of the project.
pub(super) fn checked(file: &ProjectFile) -> Result<(RelPath, BlobRef), Refusal> {
    let path = RelPath::new(&file.path)
        .map_err(|error| Refusal::Invalid(format!("the file `{}`: {error}", file.path)))?;
    if file.path.split('/').any(|name| name == ".dagrun") {
        return Err(Refusal::Invalid(format!(
            "the file `{}` lies in dagrun's own folder; name it otherwise",
            file.path
        )));
    }
    let digest: [u8; 32] =
        file.digest.as_ref().try_into().map_err(|_| {
            Refusal::Invalid(format!("the digest of `{}` has no 32 bytes", file.path))
        })?;
    let blob = BlobRef {
        digest: Digest(digest),
        size: file.size,
        executable: file.executable,
    };
    Ok((path, blob))
}

/// The folder of a submission's project: one for each user and project.
pub(super) fn folder(state: &Path, submission: &Submission) -> PathBuf {
    let name = format!("{}\0{}", submission.user, submission.project);
    let digest = Digest::of(name.as_bytes()).to_string();
    state.join("projects").join(&digest[..16])
}

/// Lays the files of a submission into its project, and removes those of earlier ones that it does not have.
pub(super) fn lay(folder: &Path, submission: &Submission, store: &Store) -> Result<(), String> {
    let trouble = |error: &dyn std::fmt::Display| format!("cannot lay out the project: {error}");
    fs::create_dir_all(folder).map_err(|error| trouble(&error))?;
    let workspace = Workspace::open(folder).map_err(|error| trouble(&error))?;
    let mut paths = BTreeSet::new();
    for file in &submission.files {
        let (path, blob) = checked(file).map_err(|refusal| refusal.to_string())?;
        let dest = folder.join(&path);
        if !is_there(&dest, &blob) {
            store
                .export(&Artifact::File(blob), &dest)
                .map_err(|error| trouble(&error))?;
        }
        paths.insert(path.to_string());
    }
    let list = folder.join(LIST);
    for former in fs::read_to_string(&list).unwrap_or_default().lines() {
        if let Ok(former) = RelPath::new(former)
            && !paths.contains(former.as_str())
        {
            // One that is gone already is what was wanted.
            let _ = fs::remove_file(folder.join(&former));
        }
    }
    let lines: Vec<String> = paths.into_iter().map(|path| path + "\n").collect();
    fs::write(&list, lines.concat()).map_err(|error| trouble(&error))?;
    let given: GivenFacts = if submission.given.is_empty() {
        GivenFacts::default()
    } else {
        serde_json::from_slice(&submission.given).map_err(|error| trouble(&error))?
    };
    given.save(&workspace).map_err(|error| trouble(&error))
}

/// Whether a file is there with these bytes: its times then stay, and with them what is remembered of its hash.
fn is_there(path: &Path, blob: &BlobRef) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let Ok(meta) = fs::symlink_metadata(path) else {
        return false;
    };
    meta.is_file()
        && meta.len() == blob.size
        && (meta.permissions().mode() & 0o111 != 0) == blob.executable
        && fs::read(path).is_ok_and(|bytes| Digest::of(&bytes) == blob.digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dagrun_store::StoreOptions;

    fn file(store: &Store, path: &str, text: &str) -> ProjectFile {
        let blob = store.put_bytes(text.as_bytes()).unwrap();
        ProjectFile {
            path: path.into(),
            digest: blob.digest.0.to_vec().into(),
            size: blob.size,
            executable: false,
        }
    }

    #[test]
    fn a_project_has_the_files_of_its_last_submission() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::open(&scratch.path().join("cache"), StoreOptions::default()).unwrap();
        let folder = scratch.path().join("project");
        let submission = |files| Submission {
            files,
            ..Submission::default()
        };
        let first = submission(vec![file(&store, "p.yaml", "1"), file(&store, "in/a", "a")]);
        lay(&folder, &first, &store).unwrap();
        fs::write(folder.join("made"), "by a run").unwrap();
        let second = submission(vec![file(&store, "p.yaml", "2")]);
        lay(&folder, &second, &store).unwrap();
        assert_eq!(fs::read_to_string(folder.join("p.yaml")).unwrap(), "2");
        assert!(!folder.join("in/a").exists());
        assert!(folder.join("made").exists());
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in [
            "../a",
            "/etc/a",
            "a/../../b",
            ".dagrun/lock",
            "a/.dagrun/x",
            "",
        ] {
            let file = ProjectFile {
                path: path.into(),
                digest: vec![0; 32].into(),
                ..ProjectFile::default()
            };
            assert!(checked(&file).is_err(), "{path}");
        }
    }
}
