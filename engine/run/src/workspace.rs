//! The folder `.dagrun` beside a pipeline: journals, the lock, and what was exported.
//!
//! It holds nothing that a run cannot do without: results are in the store. Deleting it loses histories, and the knowledge
//! of which exported files are dagrun's own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder},
    io::Write,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use dagrun_model::{Digest, RunId, id_file_name};
use serde::{Deserialize, Serialize};

use crate::{Holder, RunError, WorkspaceLock, lock::LockWatch, own};

/// How many runs a workspace remembers.
pub(crate) const KEEP_RUNS: usize = 1000;

/// A project folder and its `.dagrun`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    project: PathBuf,
    root: PathBuf,
}

impl Workspace {
    /// Opens the workspace of a project folder, and makes it where there is none.
    ///
    /// # Errors
    /// When it cannot be made, or everybody could write into it.
    pub fn open(project: &Path) -> Result<Self, RunError> {
        let workspace = Self::at(project);
        workspace.make()?;
        // Only a convenience: without it, version control shows the folder.
        let _ = fs::File::create_new(workspace.root.join(".gitignore"))
            .and_then(|mut file| file.write_all(b"*\n"));
        workspace.check_mode()?;
        Ok(workspace)
    }

    /// Opens the workspace to look at a project, also where it is not there and cannot be made: in a folder of somebody else.
    ///
    /// # Errors
    /// When it is there and cannot be used.
    pub fn open_to_look(project: &Path) -> Result<Self, RunError> {
        match Self::open(project) {
            Err(RunError::Io { error, .. }) if is_closed(&error) => Ok(Self::at(project)),
            opened => opened,
        }
    }

    /// The workspace of a project folder, if it is there: for commands that only look.
    ///
    /// # Errors
    /// When everybody could write into it.
    pub fn existing(project: &Path) -> Result<Option<Self>, RunError> {
        let workspace = Self::at(project);
        if !workspace.root.is_dir() {
            return Ok(None);
        }
        workspace.check_mode()?;
        Ok(Some(workspace))
    }

    fn at(project: &Path) -> Self {
        Self {
            project: project.to_path_buf(),
            root: project.join(".dagrun"),
        }
    }

    fn make(&self) -> Result<(), RunError> {
        make_private(&self.root)?;
        make_private(&self.root.join("runs"))
    }

    fn check_mode(&self) -> Result<(), RunError> {
        let mode = fs::metadata(&self.root)
            .map_err(RunError::io("look at", &self.root))?
            .permissions()
            .mode();
        if mode & 0o002 != 0 {
            return Err(RunError::WorldWritable(self.root.clone()));
        }
        Ok(())
    }

    /// The project folder: where the pipeline file is.
    pub fn project(&self) -> &Path {
        &self.project
    }

    /// The folder `.dagrun`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where remembered file hashes are: for `dagrun_store::FileHashes`.
    pub fn hashes_path(&self) -> PathBuf {
        self.root.join("hashes")
    }

    /// Where nodes may run: for executors of this machine.
    pub fn work_path(&self) -> PathBuf {
        self.root.join("work")
    }

    pub(crate) fn history_path(&self) -> PathBuf {
        self.root.join("history.log")
    }

    pub(crate) fn toolchain_path(&self) -> PathBuf {
        self.root.join("toolchain.json")
    }

    fn exports_path(&self) -> PathBuf {
        self.root.join("exports.json")
    }

    fn lock_path(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Takes the lock: one run at a time.
    ///
    /// # Errors
    /// When another process has it: the error says who.
    pub fn lock(&self, command: &[String]) -> Result<WorkspaceLock, RunError> {
        // One that was opened to look may not be there.
        self.make()?;
        WorkspaceLock::take(&self.lock_path(), command)
    }

    /// Watches the lock that this process holds.
    pub(crate) fn lock_watch(&self) -> Option<LockWatch> {
        LockWatch::of(&self.lock_path())
    }

    /// Who runs here now.
    pub fn holder(&self) -> Option<Holder> {
        WorkspaceLock::holder(&self.lock_path())
    }

    /// The folder of a run.
    pub fn run_path(&self, run: &RunId) -> PathBuf {
        self.root.join("runs").join(&run.0)
    }

    /// The journal of a run.
    pub fn journal_path(&self, run: &RunId) -> PathBuf {
        self.run_path(run).join("journal.log")
    }

    /// The folder of a study: its log and its table.
    pub fn study_path(&self, name: &str) -> PathBuf {
        self.root.join("studies").join(id_file_name(name))
    }

    /// The table of a study, relative to the project folder: what `study.table` is in expressions.
    pub fn study_table(name: &str) -> String {
        format!(".dagrun/studies/{}/trials.csv", id_file_name(name))
    }

    /// Names of all studies' folders, sorted; those that were put aside end in `@` and a number.
    pub fn studies(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.join("studies"));
        let entries = entries.into_iter().flatten().filter_map(Result::ok);
        let mut names: Vec<String> = entries
            .filter(|entry| entry.path().join("log").exists())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names
    }

    /// Puts a study aside under a name that is free, and gives that.
    pub(crate) fn put_study_aside(&self, name: &str) -> Result<String, RunError> {
        let from = self.study_path(name);
        let file_name = id_file_name(name);
        let free = (1..).map(|n| format!("{file_name}@{n}"));
        let aside = free
            .into_iter()
            .find(|name| !self.root.join("studies").join(name).exists())
            .expect("there are more numbers than folders");
        fs::rename(&from, self.root.join("studies").join(&aside))
            .map_err(RunError::io("put aside", &from))?;
        Ok(aside)
    }

    /// All runs, oldest first.
    pub fn runs(&self) -> Vec<RunId> {
        let Ok(entries) = fs::read_dir(self.root.join("runs")) else {
            return Vec::new();
        };
        let mut runs: Vec<RunId> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with(|c: char| c.is_ascii_digit()))
            .map(RunId)
            .collect();
        runs.sort_unstable();
        runs
    }

    /// All runs that left a journal, oldest first: one that was refused, or a check, leaves none.
    pub fn journaled_runs(&self) -> Vec<RunId> {
        let mut runs = self.runs();
        runs.retain(|run| self.journal_path(run).exists());
        runs
    }

    /// The run that began last.
    pub fn latest(&self) -> Option<RunId> {
        self.runs().pop()
    }

    /// The run of an id, of the beginning of one, or of `latest`.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn find_run(&self, text: &str) -> Result<RunId, RunError> {
        let unknown = || RunError::UnknownRun(text.into());
        if text == "latest" || text == "last" {
            return self.journaled_runs().pop().ok_or(RunError::NoRun);
        }
        let mut found = self
            .runs()
            .into_iter()
            .filter(|run| run.0.starts_with(text));
        let run = found.next().ok_or_else(unknown)?;
        if run.0 != text && found.next().is_some() {
            return Err(RunError::AmbiguousRun(text.into()));
        }
        Ok(run)
    }

    /// Makes the folder of a new run. Its id is later than all others, whatever the clock says.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new_run(&self, _lock: &WorkspaceLock) -> Result<RunId, RunError> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut stamp = run_stamp(now.as_millis());
        if let Some(RunId(latest)) = self.latest()
            && let Some(former) = parse_stamp(&latest)
            && stamp <= former
        {
            stamp = former + 1;
        }
        let noise = Digest::of(format!("{} {now:?}", std::process::id()).as_bytes()).to_string();
        let digits = format!("{stamp:017}");
        let run = RunId(format!("{}-{}-{}", &digits[..8], &digits[8..], &noise[..4]));
        let path = self.run_path(&run);
        make_private(&path)?;
        Ok(run)
    }

    /// Removes the oldest runs beyond [`KEEP_RUNS`]: their results stay, in the store.
    pub(crate) fn prune(&self, _lock: &WorkspaceLock) {
        let runs = self.runs();
        let surplus = runs.len().saturating_sub(KEEP_RUNS);
        for run in &runs[..surplus] {
            // One that cannot be removed is tried again after the next run.
            let _ = fs::remove_dir_all(self.run_path(run));
        }
    }

    /// What was exported so far.
    pub fn export_record(&self) -> ExportRecord {
        own::read(&self.exports_path())
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Keeps what was exported.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_export_record(&self, record: &ExportRecord) -> Result<(), RunError> {
        let bytes = serde_json::to_vec(record).expect("an export record is plain data");
        write_whole(&self.exports_path(), &bytes)
    }
}

/// The files that dagrun laid into a project folder, with the digest of their bytes: only these may be written over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExportRecord {
    /// Files by path, relative to the project folder.
    pub files: BTreeMap<String, ExportedFile>,
    /// What each pipeline laid into folders of which its exports are all files: targets, relative to the project folder.
    #[serde(default)]
    pub folders: BTreeMap<String, BTreeSet<String>>,
}

/// A file that dagrun laid into a project folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedFile {
    /// The digest of its bytes.
    pub digest: Digest,
    /// How it was found after it was written, so that it need not be hashed again: inode, size, mtime, ctime and device.
    pub stat: [i64; 5],
}

/// Whether a place cannot be written at all, whatever is done there.
fn is_closed(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem)
}

fn make_private(path: &Path) -> Result<(), RunError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            if path.is_dir() {
                return Ok(());
            }
            let why = "something else has its name; move that away";
            Err(RunError::io("make", path)(std::io::Error::new(
                error.kind(),
                why,
            )))
        }
        other => other.map_err(RunError::io("make", path)),
    }
}

/// Writes a file so that it is seen in full or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), RunError> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file = own::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        // The error to tell of is the first one.
        let _ = fs::remove_file(&temporary);
        RunError::io("write", path)(error)
    })
}

/// Milliseconds since the epoch as `YYYYMMDDhhmmssmmm` in UTC.
fn run_stamp(millis: u128) -> u64 {
    let millis = u64::try_from(millis).unwrap_or(0);
    let (days, rest) = (millis / 86_400_000, millis % 86_400_000);
    let (year, month, day) = civil_date(days);
    let date = (year * 100 + month) * 100 + day;
    let (hour, minute) = (rest / 3_600_000, rest / 60_000 % 60);
    let time = (hour * 100 + minute) * 100_000 + rest % 60_000;
    date * 1_000_000_000 + time
}

/// Year, month and day of a day since the epoch (H. Hinnant's algorithm).
fn civil_date(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, day)
}

fn parse_stamp(run: &str) -> Option<u64> {
    let digits: String = run.splitn(3, '-').take(2).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_dates() {
        assert_eq!(run_stamp(0), 19_700_101_000_000_000);
        assert_eq!(run_stamp(1_709_210_096_789), 20_240_229_123_456_789);
        assert_eq!(run_stamp(1_767_225_599_999), 20_251_231_235_959_999);
    }

    #[test]
    fn run_ids_only_grow() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(folder.path()).unwrap();
        let lock = workspace.lock(&[]).unwrap();
        let mut made: Vec<RunId> = (0..20).map(|_| workspace.new_run(&lock).unwrap()).collect();
        fs::create_dir(workspace.run_path(&RunId("29991231-235959999-beef".into()))).unwrap();
        made.push(RunId("29991231-235959999-beef".into()));
        made.push(workspace.new_run(&lock).unwrap());
        assert_eq!(workspace.runs(), made);
        assert!(workspace.find_run("latest").is_err(), "none has a journal");
        fs::write(workspace.journal_path(&made[3]), "").unwrap();
        assert_eq!(workspace.find_run("latest").unwrap(), made[3]);
        assert_eq!(workspace.find_run(&made[3].0).unwrap(), made[3]);
        assert!(matches!(
            workspace.find_run("2"),
            Err(RunError::AmbiguousRun(_))
        ));
        assert!(matches!(
            workspace.find_run("x"),
            Err(RunError::UnknownRun(_))
        ));
    }

    #[test]
    fn the_oldest_runs_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(folder.path()).unwrap();
        let lock = workspace.lock(&[]).unwrap();
        for n in 0..KEEP_RUNS + 3 {
            let run = RunId(format!("20200101-{n:09}-0000"));
            fs::create_dir(workspace.run_path(&run)).unwrap();
        }
        workspace.prune(&lock);
        let runs = workspace.runs();
        assert_eq!(runs.len(), KEEP_RUNS);
        assert_eq!(runs[0].0, "20200101-000000003-0000");
    }

    #[test]
    fn a_workspace_is_private_and_refused_when_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Workspace::existing(folder.path()).unwrap(), None);
        let workspace = Workspace::open(folder.path()).unwrap();
        let mode = fs::metadata(workspace.root()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        fs::set_permissions(workspace.root(), fs::Permissions::from_mode(0o777)).unwrap();
        for result in [
            Workspace::open(folder.path()).map(Some),
            Workspace::existing(folder.path()),
        ] {
            assert!(matches!(result, Err(RunError::WorldWritable(_))));
        }
    }

    #[test]
    fn export_records_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(folder.path()).unwrap();
        assert_eq!(workspace.export_record(), ExportRecord::default());
        let record = ExportRecord {
            files: [(
                "a/b".to_string(),
                ExportedFile {
                    digest: Digest::of(b"x"),
                    stat: [1, 2, 3, 4, 5],
                },
            )]
            .into(),
            folders: [("p".to_string(), ["a/b".to_string()].into())].into(),
        };
        workspace.save_export_record(&record).unwrap();
        assert_eq!(workspace.export_record(), record);
    }
}
