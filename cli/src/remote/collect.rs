//! What a coordinator needs of a project: the pipeline with its modules, the files that its plan reads, and what the plan asked of
//! these surroundings.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use dagrun_model::{BlobRef, Digest};
use dagrun_proto::v1::{ProjectFile, Submission};
use dagrun_run::Workspace;
use dagrun_store::FileHashes;

use crate::{
    args::{RunArgs, StudyChoice},
    commands::run_error,
    error::{CliError, Context},
    load::Loaded,
};

/// A submission, and where its blobs lie here.
pub(super) struct Collected {
    pub(super) submission: Submission,
    pub(super) sources: BTreeMap<Digest, PathBuf>,
}

/// Where parameter files go in the project of the coordinator.
const PARAMS: &str = "dagrun-params";

/// Collects a pipeline that was planned: what its plan has asked for is known by then.
pub(super) fn collect(loaded: &Loaded, args: &RunArgs) -> Result<Collected, CliError> {
    let seen = loaded.seen();
    let mut collector = Collector {
        project: &loaded.project,
        hashes: FileHashes::open(&workspace(loaded)?.hashes_path()),
        files: BTreeMap::new(),
        sources: BTreeMap::new(),
    };
    for (path, blob) in &seen.files {
        collector.add_known(path, *blob);
    }
    let pipeline = file_name(&loaded.file)?;
    let mut named: Vec<String> = seen.modules.iter().map(ToString::to_string).collect();
    named.push(pipeline.clone());
    named.extend(seen.toolchain_files.iter().cloned());
    for path in named {
        collector.add(&path, &loaded.project.join(&path))?;
    }
    let mut words = forwarded(args);
    for (n, file) in args.work.pipeline.params.params_file.iter().enumerate() {
        let kept = format!("{PARAMS}/{n}-{}", file_name(file)?);
        collector.add(&kept, file)?;
        words.extend(["--params-file".into(), kept]);
    }
    let project = loaded
        .project
        .canonicalize()
        .doing(|| "resolve the project folder".into())?;
    Ok(Collected {
        submission: Submission {
            version: env!("CARGO_PKG_VERSION").into(),
            project: project.display().to_string(),
            files: collector.files.into_values().collect(),
            pipeline,
            args: words,
            priority: args.priority,
            given: serde_json::to_vec(&seen.given)
                .expect("given facts are plain data")
                .into(),
            ..Submission::default()
        },
        sources: collector.sources,
    })
}

fn workspace(loaded: &Loaded) -> Result<Workspace, CliError> {
    Workspace::open(&loaded.project).map_err(run_error)
}

fn file_name(path: &Path) -> Result<String, CliError> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned)
        .ok_or_else(|| CliError::invalid(format!("{} has no file name", path.display())))
}

struct Collector<'a> {
    project: &'a Path,
    hashes: FileHashes,
    files: BTreeMap<String, ProjectFile>,
    sources: BTreeMap<Digest, PathBuf>,
}

impl Collector<'_> {
    /// A file that the plan has hashed. External ones stay where they are: the coordinator must have them at the same place.
    fn add_known(&mut self, path: &str, blob: BlobRef) {
        let is_inside = !path.starts_with('/') && !path.split('/').any(|name| name == "..");
        let is_own = path.split('/').any(|name| name == ".dagrun");
        if is_inside && !is_own {
            self.keep(path, &self.project.join(path), blob);
        }
    }

    fn add(&mut self, path: &str, full: &Path) -> Result<(), CliError> {
        let folder = full.parent().unwrap_or(Path::new("."));
        let name = file_name(full)?;
        let hashed = self.hashes.hash(folder, &[name]).into_iter().next();
        let blob = hashed
            .and_then(Result::ok)
            .ok_or_else(|| CliError::invalid(format!("cannot read {}", full.display())))?;
        self.keep(path, full, blob);
        Ok(())
    }

    fn keep(&mut self, path: &str, full: &Path, blob: BlobRef) {
        self.sources.insert(blob.digest, full.to_path_buf());
        let file = ProjectFile {
            path: path.to_owned(),
            digest: blob.digest.0.to_vec().into(),
            size: blob.size,
            executable: blob.executable,
        };
        self.files.insert(path.to_owned(), file);
    }
}

/// The arguments that the coordinator's run gets.
fn forwarded(args: &RunArgs) -> Vec<String> {
    let mut words = Vec::new();
    let mut flag = |name: &str, values: &[String]| {
        for value in values {
            words.push(format!("--{name}={value}"));
        }
    };
    flag("param", &args.work.pipeline.params.params);
    flag("only", &args.work.selection.only);
    flag("until", &args.work.selection.until);
    flag("from", &args.work.selection.from);
    match args.work.force.as_deref() {
        None => {}
        Some([]) => words.push("--force".into()),
        Some(names) => words.push(format!("--force={}", names.join(","))),
    }
    if let Some(jobs) = args.jobs {
        words.push(format!("--jobs={jobs}"));
    }
    let switches = [
        ("--fail-fast", args.fail_fast),
        ("--keep-failed", args.keep_failed),
        ("--no-locality", args.without.no_locality),
        ("--no-fuse", args.without.no_fuse),
        ("--no-dedup", args.without.no_dedup),
    ];
    words.extend(
        switches
            .iter()
            .filter(|(_, on)| *on)
            .map(|(name, _)| (*name).to_owned()),
    );
    match args.study {
        None => {}
        Some(StudyChoice::New) => words.push("--study=new".into()),
        Some(StudyChoice::Keep) => words.push("--study=keep".into()),
    }
    words
}
