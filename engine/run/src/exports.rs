//! Laying outputs into the project folder, never over what dagrun did not write.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use dagrun_model::{Artifact, Digest, NodeIx};
use dagrun_plan::PlannedExport;
use dagrun_store::{Store, StoreError, TreeKind};

use crate::{
    board::Board,
    workspace::{ExportRecord, ExportedFile},
};

/// An output and where it goes. `N` says which node made it: by its place in a plan or, where there is no plan, by its logical id.
#[derive(Clone, Debug, PartialEq)]
pub struct Export<N = String> {
    /// Relative to the project folder.
    pub target: String,
    /// The node.
    pub node: N,
    /// The name of its output.
    pub output: String,
    /// The output.
    pub artifact: Artifact,
}

/// What became of an export.
#[derive(Debug, PartialEq)]
pub(crate) enum Laid {
    /// It was there already.
    Unchanged,
    Done,
    /// Something else is there, or it cannot be written: why, and the remedy.
    KeptBack(String),
    /// The store has lost the bytes.
    Gone(String),
}

/// The exports of nodes that have outputs.
pub(crate) fn resolve(board: &Board, planned: Vec<PlannedExport>) -> Vec<Export<NodeIx>> {
    planned
        .into_iter()
        .filter_map(|export| {
            board
                .end_of(export.node)
                .filter(|end| *end == dagrun_plan::UpstreamEnd::Succeeded)?;
            let artifact = board.outputs_of(export.node)?.get(&export.output)?.clone();
            Some(Export {
                target: export.target,
                node: export.node,
                output: export.output,
                artifact,
            })
        })
        .collect()
}

/// Lays one output where it belongs.
pub(crate) fn lay<N>(
    store: &Store,
    project: &Path,
    record: &mut ExportRecord,
    export: &Export<N>,
    overwrite: bool,
) -> Laid {
    let dest = project.join(&export.target);
    if leads_out(project, &dest) {
        return Laid::KeptBack(format!(
            "a folder of `{}` is a symbolic link that leads out of the project; export to a folder inside",
            export.target
        ));
    }
    let result = match &export.artifact {
        Artifact::Absent => return Laid::Unchanged,
        Artifact::File(blob) | Artifact::Value { file: blob, .. } => {
            lay_file(store, &dest, record, export, blob.digest, overwrite)
        }
        Artifact::Tree { digest, .. } => {
            lay_tree(store, &dest, project, record, export, *digest, overwrite)
        }
    };
    result.unwrap_or_else(|trouble| match trouble {
        Trouble::Store(error) if error.is_lost_blob() => {
            Laid::Gone(format!("cannot export `{}`: {error}", export.target))
        }
        Trouble::Store(error) => Laid::KeptBack(error.to_string()),
        Trouble::Io(error) => Laid::KeptBack(format!("cannot look at it: {error}")),
    })
}

/// Whether a folder on the way to a path is a link to outside of the project.
fn leads_out(project: &Path, dest: &Path) -> bool {
    let inside = project.canonicalize();
    let nearest = dest
        .ancestors()
        .skip(1)
        .find_map(|folder| folder.canonicalize().ok());
    match (inside, nearest) {
        (Ok(project), Some(folder)) => !folder.starts_with(project),
        _ => false,
    }
}

enum Trouble {
    Store(StoreError),
    Io(io::Error),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn lay_file<N>(
    store: &Store,
    dest: &Path,
    record: &mut ExportRecord,
    export: &Export<N>,
    digest: Digest,
    overwrite: bool,
) -> Result<Laid, Trouble> {
    match look_at(dest, record.files.get(&export.target))? {
        There::Nothing => {}
        There::File(now) if now == digest => {
            let known = record.files.get(&export.target);
            if known.is_none_or(|file| file.digest != digest) {
                remember(record, &export.target, dest, digest)?;
            }
            return Ok(Laid::Unchanged);
        }
        There::File(now) => {
            let ours = record.files.get(&export.target).map(|file| file.digest);
            if ours != Some(now) && !overwrite {
                return Ok(foreign(&export.target, ours.is_some()));
            }
        }
        There::Other => return Ok(foreign(&export.target, false)),
    }
    store.export(&export.artifact, dest)?;
    remember(record, &export.target, dest, digest)?;
    Ok(Laid::Done)
}

fn foreign(target: &str, changed: bool) -> Laid {
    let what = if changed {
        "it was changed since dagrun wrote it"
    } else {
        "dagrun did not write what is there"
    };
    Laid::KeptBack(format!(
        "{what}; remove or rename `{target}`, or say `--overwrite`, and run again"
    ))
}

/// What stands at a path.
enum There {
    Nothing,
    File(Digest),
    Other,
}

fn look_at(path: &Path, known: Option<&ExportedFile>) -> io::Result<There> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(There::Nothing),
        Err(error) => return Err(error),
    };
    if !meta.is_file() {
        return Ok(There::Other);
    }
    match known {
        Some(known) if known.stat == stat_of(&meta) => Ok(There::File(known.digest)),
        _ => Ok(There::File(hash_file(path)?)),
    }
}

fn hash_file(path: &Path) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(fs::File::open(path)?)?;
    Ok(Digest(*hasher.finalize().as_bytes()))
}

fn stat_of(meta: &fs::Metadata) -> [i64; 5] {
    [
        meta.ino() as i64,
        meta.size() as i64,
        meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
        meta.ctime() * 1_000_000_000 + meta.ctime_nsec(),
        meta.dev() as i64,
    ]
}

fn remember(
    record: &mut ExportRecord,
    target: &str,
    path: &Path,
    digest: Digest,
) -> io::Result<()> {
    let stat = stat_of(&fs::symlink_metadata(path)?);
    record
        .files
        .insert(target.into(), ExportedFile { digest, stat });
    Ok(())
}

fn lay_tree<N>(
    store: &Store,
    dest: &Path,
    project: &Path,
    record: &mut ExportRecord,
    export: &Export<N>,
    digest: Digest,
    overwrite: bool,
) -> Result<Laid, Trouble> {
    let files: Vec<(String, Digest)> = store
        .read_tree(&digest)?
        .into_iter()
        .filter_map(|entry| match entry.kind {
            TreeKind::File(blob) => {
                Some((format!("{}/{}", export.target, entry.path), blob.digest))
            }
            TreeKind::Folder | TreeKind::Symlink(_) => None,
        })
        .collect();
    match fs::symlink_metadata(dest) {
        Ok(meta) if !meta.is_dir() => return Ok(foreign(&export.target, false)),
        Ok(_) => {
            let mut there = Vec::new();
            list_files(project, &export.target, &mut there)?;
            let mut same = there.len() == files.len();
            for path in &there {
                if overwrite {
                    same = false;
                    break;
                }
                let known = record.files.get(path);
                let There::File(now) = look_at(&project.join(path), known)? else {
                    return Ok(foreign(path, false));
                };
                let wanted = files.iter().any(|(p, d)| p == path && *d == now);
                if !wanted && known.map(|file| file.digest) != Some(now) {
                    return Ok(foreign(path, known.is_some()));
                }
                same &= wanted;
            }
            if same {
                return Ok(Laid::Unchanged);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    store.export(&export.artifact, dest)?;
    let below = format!("{}/", export.target);
    record.files.retain(|path, _| !path.starts_with(&below));
    for (path, digest) in files {
        remember(record, &path, &project.join(&path), digest)?;
    }
    Ok(Laid::Done)
}

/// What became of files that former runs laid into folders.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tidied {
    pub(crate) removed: Vec<String>,
    /// They were changed since dagrun wrote them, and are no longer its own.
    pub(crate) kept: Vec<String>,
}

/// Removes from folders what a pipeline laid there formerly and does not now, such as for other parameters. `targets` are all
/// exports of the plan, also those that could not be laid.
pub(crate) fn tidy(
    project: &Path,
    record: &mut ExportRecord,
    pipeline: &str,
    folders: &[String],
    targets: &BTreeSet<String>,
) -> Tidied {
    let in_folder = |target: &String| folders.iter().any(|folder| target.starts_with(folder));
    let former = record.folders.remove(pipeline).unwrap_or_default();
    let (stale, mut now): (BTreeSet<_>, BTreeSet<_>) = former
        .into_iter()
        .partition(|target| in_folder(target) && !targets.contains(target));
    now.extend(targets.iter().filter(|target| in_folder(target)).cloned());
    let mut tidied = Tidied::default();
    for target in stale {
        // Another pipeline may lay its files into the same folder.
        if !record.folders.values().any(|other| other.contains(&target)) {
            remove_stale(project, record, &target, &mut tidied);
        }
    }
    if !now.is_empty() {
        record.folders.insert(pipeline.into(), now);
    }
    tidied
}

fn remove_stale(project: &Path, record: &mut ExportRecord, target: &str, tidied: &mut Tidied) {
    let below = format!("{target}/");
    let files: Vec<(String, ExportedFile)> = record
        .files
        .iter()
        .filter(|(path, _)| *path == target || path.starts_with(&below))
        .map(|(path, file)| (path.clone(), *file))
        .collect();
    for (name, file) in files {
        let path = project.join(&name);
        record.files.remove(&name);
        let ours = !leads_out(project, &path)
            && matches!(look_at(&path, Some(&file)), Ok(There::File(now)) if now == file.digest);
        if ours && fs::remove_file(&path).is_ok() {
            tidied.removed.push(name);
        } else if fs::symlink_metadata(&path).is_ok() {
            tidied.kept.push(name);
        }
        // Folders of an exported folder go with their last file; others refuse to.
        let root = project.join(target);
        for folder in path
            .ancestors()
            .skip(1)
            .take_while(|folder| folder.starts_with(&root))
        {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// All files below a folder, relative to the project. Symlinks are left out: a tree's own may stand there.
fn list_files(project: &Path, folder: &str, files: &mut Vec<String>) -> io::Result<()> {
    let path: PathBuf = project.join(folder);
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            list_files(project, &name, files)?;
        } else if !kind.is_symlink() {
            files.push(name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use dagrun_store::{PutMode, StoreOptions};

    use super::*;

    struct Bench {
        _folder: tempfile::TempDir,
        project: PathBuf,
        store: Store,
        record: ExportRecord,
        overwrite: bool,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let project = folder.path().join("project");
            fs::create_dir(&project).unwrap();
            let store = Store::open(&folder.path().join("store"), StoreOptions::default()).unwrap();
            Self {
                _folder: folder,
                project,
                store,
                record: ExportRecord::default(),
                overwrite: false,
            }
        }

        fn file(&self, text: &str) -> Artifact {
            Artifact::File(self.store.put_bytes(text.as_bytes()).unwrap())
        }

        fn lay(&mut self, target: &str, artifact: Artifact) -> Laid {
            let export = Export {
                target: target.into(),
                node: NodeIx(0),
                output: "x".into(),
                artifact,
            };
            lay(
                &self.store,
                &self.project,
                &mut self.record,
                &export,
                self.overwrite,
            )
        }

        fn text(&self, path: &str) -> String {
            fs::read_to_string(self.project.join(path)).unwrap()
        }
    }

    #[test]
    fn own_files_are_replaced_and_others_are_kept() {
        let mut bench = Bench::new();
        let (one, two) = (bench.file("one"), bench.file("two"));
        assert_eq!(bench.lay("out/a", one.clone()), Laid::Done);
        assert_eq!(bench.lay("out/a", one.clone()), Laid::Unchanged);
        assert_eq!(bench.lay("out/a", two.clone()), Laid::Done);
        assert_eq!(bench.text("out/a"), "two");

        fs::write(bench.project.join("out/a"), "by hand").unwrap();
        let Laid::KeptBack(reason) = bench.lay("out/a", one.clone()) else {
            panic!("a changed file was replaced");
        };
        assert!(reason.contains("changed since dagrun wrote it"), "{reason}");
        assert_eq!(bench.text("out/a"), "by hand");

        fs::write(bench.project.join("mine"), "mine").unwrap();
        assert!(matches!(bench.lay("mine", one.clone()), Laid::KeptBack(_)));
        assert_eq!(bench.text("mine"), "mine");
        fs::create_dir(bench.project.join("folder")).unwrap();
        assert!(matches!(bench.lay("folder", one), Laid::KeptBack(_)));
    }

    #[test]
    fn a_file_that_is_the_same_by_chance_is_adopted() {
        let mut bench = Bench::new();
        fs::write(bench.project.join("a"), "one").unwrap();
        let (one, two) = (bench.file("one"), bench.file("two"));
        assert_eq!(bench.lay("a", one), Laid::Unchanged);
        assert_eq!(bench.lay("a", two), Laid::Done);
    }

    #[test]
    fn a_blob_that_is_gone_is_told_apart() {
        let mut bench = Bench::new();
        let blob = dagrun_model::BlobRef {
            digest: Digest::of(b"never stored"),
            size: 12,
            executable: false,
        };
        assert!(matches!(
            bench.lay("a", Artifact::File(blob)),
            Laid::Gone(_)
        ));
    }

    #[test]
    fn folders_are_replaced_when_all_in_them_is_ours() {
        let mut bench = Bench::new();
        let make = |bench: &Bench, files: &[(&str, &str)]| {
            let source = tempfile::tempdir().unwrap();
            for (path, text) in files {
                let path = source.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            bench.store.put_tree(source.path(), PutMode::Copy).unwrap()
        };
        let one = make(&bench, &[("a", "1"), ("b/c", "2")]);
        let two = make(&bench, &[("a", "1"), ("d", "3")]);
        assert_eq!(bench.lay("out", one.clone()), Laid::Done);
        assert_eq!(bench.lay("out", one.clone()), Laid::Unchanged);
        assert_eq!(bench.lay("out", two.clone()), Laid::Done);
        assert_eq!(bench.text("out/d"), "3");
        assert!(!bench.project.join("out/b/c").exists());
        fs::write(bench.project.join("out/note"), "mine").unwrap();
        assert!(matches!(bench.lay("out", one), Laid::KeptBack(_)));
        assert_eq!(bench.text("out/note"), "mine");
    }

    #[test]
    fn what_former_runs_laid_into_a_folder_goes_unless_it_was_changed() {
        let mut bench = Bench::new();
        let source = tempfile::tempdir().unwrap();
        fs::create_dir(source.path().join("d")).unwrap();
        fs::write(source.path().join("d/f"), "1").unwrap();
        let tree = bench.store.put_tree(source.path(), PutMode::Copy).unwrap();
        for target in ["out/x=1", "out/x=2", "out/x=3", "other"] {
            let file = bench.file(target);
            bench.lay(target, file);
        }
        bench.lay("out/tree", tree);
        fs::write(bench.project.join("out/mine"), "mine").unwrap();
        let mut tidy = |targets: &[&str]| {
            let targets = targets.iter().map(ToString::to_string).collect();
            let folders = ["out/".to_string()];
            super::tidy(&bench.project, &mut bench.record, "p", &folders, &targets)
        };
        let all = ["out/x=1", "out/x=2", "out/x=3", "out/tree", "other"];
        assert_eq!(tidy(&all), Tidied::default());
        fs::write(bench.project.join("out/x=2"), "by hand").unwrap();
        let tidied = tidy(&["out/x=3"]);
        assert_eq!(tidied.removed, ["out/tree/d/f", "out/x=1"]);
        assert_eq!(tidied.kept, ["out/x=2"]);
        assert_eq!(tidy(&["out/x=3"]), Tidied::default(), "it is told once");
        let mut left: Vec<_> = fs::read_dir(bench.project.join("out"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort_unstable();
        assert_eq!(left, ["mine", "x=2", "x=3"]);
        assert_eq!(bench.text("other"), "other");
    }

    #[test]
    fn files_of_others_are_replaced_where_that_was_asked_for() {
        let mut bench = Bench::new();
        fs::write(bench.project.join("mine"), "mine").unwrap();
        fs::create_dir(bench.project.join("folder")).unwrap();
        bench.overwrite = true;
        let one = bench.file("one");
        assert_eq!(bench.lay("mine", one.clone()), Laid::Done);
        assert_eq!(bench.text("mine"), "one");
        assert!(matches!(bench.lay("folder", one), Laid::KeptBack(_)));
    }
}
