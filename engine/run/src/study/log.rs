//! The log of a study on disk: `.dagrun/studies/NAME/log`, records in the format of journals.
//!
//! One process writes, under the workspace's lock; any number read while it does.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use dagrun_events::journal::{self, End};
use dagrun_study::{Study, StudyRecord};

use crate::{RunError, Workspace, own, workspace::write_whole};

/// A study's log as it was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StudyLog {
    /// Its records in order.
    pub records: Vec<StudyRecord>,
    /// It ends within a record, at this byte.
    pub torn_at: Option<u64>,
}

/// Reads the log of a study; nothing where there is none. Never changes it.
///
/// # Errors
/// When it cannot be read, is damaged in its middle, or was written by a later version.
pub fn load_study(workspace: &Workspace, name: &str) -> Result<Option<StudyLog>, RunError> {
    load_study_at(&workspace.study_path(name))
}

/// Reads the log of a study in a folder of its own, such as one that was put aside; nothing where there is none.
///
/// # Errors
/// As [`load_study`].
pub fn load_study_at(folder: &Path) -> Result<Option<StudyLog>, RunError> {
    let path = folder.join("log");
    let bytes = match own::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(RunError::io("read", &path)(error)),
    };
    read_study(&bytes, &path).map(Some)
}

/// Reads the log of a study that is known by its bytes; `path` is where errors say that it is.
///
/// # Errors
/// When it is damaged in its middle, or was written by a later version.
pub fn read_study(bytes: &[u8], path: &Path) -> Result<StudyLog, RunError> {
    let decoded = journal::decode(bytes);
    let corrupt = |at, next| RunError::CorruptJournal {
        path: path.to_path_buf(),
        at,
        next,
    };
    let torn_at = match decoded.end {
        End::Clean => None,
        End::Torn { at } => Some(at),
        End::Corrupt { at, next } => return Err(corrupt(at, Some(next))),
        End::BadHeader => return Err(corrupt(0, None)),
    };
    let records = decoded
        .records
        .iter()
        .map(|(at, payload)| serde_json::from_slice(payload).map_err(|_| corrupt(*at, None)))
        .collect::<Result<_, _>>()?;
    Ok(StudyLog { records, torn_at })
}

/// Rewrites the damaged log of a study with the records that can be read and still follow from those before them, and keeps
/// a copy. Returns the copy's path and how many records were kept. Trials that are lost with the rest are asked for again.
///
/// # Errors
/// When a file cannot be read or written, or not even how the study was opened can be read.
pub fn repair_study(workspace: &Workspace, name: &str) -> Result<(PathBuf, usize), RunError> {
    let path = workspace.study_path(name).join("log");
    let bytes = own::read(&path).map_err(RunError::io("read", &path))?;
    let records = journal::salvage(&bytes)
        .into_iter()
        .filter_map(|(_, payload)| serde_json::from_slice(payload).ok());
    let kept = Study::salvage(records).map_err(|why| {
        RunError::Study(format!(
            "nothing of `{}` can be kept: {why}; `dagrun run --study new` puts it aside and begins anew",
            path.display()
        ))
    })?;
    let copy = path.with_extension("damaged");
    write_whole(&copy, &bytes)?;
    let mut out = journal::header().to_vec();
    kept.iter().for_each(|record| encode(record, &mut out));
    write_whole(&path, &out)?;
    Ok((copy, kept.len()))
}

/// The log of a study, open to be written.
#[derive(Debug)]
pub(crate) struct LogWriter {
    file: File,
    path: PathBuf,
}

impl LogWriter {
    /// Opens the log at a path, makes it where there is none, and cuts off what was torn.
    pub(crate) fn open(path: &Path, torn_at: Option<u64>) -> Result<Self, RunError> {
        let open = || {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let mut file = own::open(OpenOptions::new().create(true).append(true), path)?;
            if let Some(at) = torn_at {
                file.set_len(at)?;
            }
            if file.metadata()?.len() == 0 {
                file.write_all(&journal::header())?;
                file.sync_all()?;
                for folder in path.ancestors().skip(1).take(3) {
                    File::open(folder)?.sync_all()?;
                }
            }
            Ok(file)
        };
        Ok(Self {
            file: open().map_err(RunError::io("open", path))?,
            path: path.to_path_buf(),
        })
    }

    /// Appends encoded records, without a sync.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.file
            .write_all(bytes)
            .map_err(|error| format!("cannot write `{}`: {error}", self.path.display()))
    }

    /// Makes what was appended durable.
    pub(crate) fn sync(&self) -> Result<(), String> {
        self.file
            .sync_data()
            .map_err(|error| format!("cannot sync `{}`: {error}", self.path.display()))
    }
}

/// A record as it stands in the log.
pub(crate) fn encode(record: &StudyRecord, out: &mut Vec<u8>) {
    let json = serde_json::to_vec(record).expect("a record of a study is plain data");
    journal::encode(&json, out);
}
