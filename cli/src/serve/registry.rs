//! What was submitted, on disk: a folder for each run.
//!
//! ```text
//! epoch                grows with every start
//! lock                 one coordinator at a time
//! lost                 the workers that were lost lately, see `losses`
//! runs/7/submission    what the client sent
//! runs/7/began         the newest run of the project before this one began
//! runs/7/cancel        it is to be stopped
//! runs/7/journals      the ids of its runs in the project, once it is over
//! runs/7/end           how it ended
//! ```
//! Every file is written whole and synced before anybody is told of it.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use dagrun_proto::v1::{RunEnd, Submission};
use prost::Message;

/// The folder of all submissions.
#[derive(Debug)]
pub(super) struct Registry {
    runs: PathBuf,
}

/// A submission as it was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) number: u64,
    pub(super) submission: Submission,
    pub(super) submitted_ms: u64,
    pub(super) began: Option<String>,
    pub(super) journals: Vec<String>,
    pub(super) cancelled: bool,
    pub(super) end: Option<RunEnd>,
}

impl Registry {
    pub(super) fn open(state: &Path) -> io::Result<Self> {
        let runs = state.join("runs");
        fs::create_dir_all(&runs)?;
        Ok(Self { runs })
    }

    /// All submissions, the oldest first. One that was being taken when the coordinator died was answered to nobody and is left out.
    pub(super) fn load(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.runs)? {
            let name = entry?.file_name();
            let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            found.extend(self.read(number)?);
        }
        found.sort_unstable_by_key(|run| run.number);
        Ok(found)
    }

    fn read(&self, number: u64) -> io::Result<Option<Found>> {
        let path = self.path(number, "submission");
        let Some(bytes) = read(&path)? else {
            return Ok(None);
        };
        let damaged = |path: &Path, error: prost::DecodeError| {
            io::Error::other(format!("{} is damaged: {error}", path.display()))
        };
        let submission = Submission::decode(&*bytes).map_err(|error| damaged(&path, error))?;
        let modified = fs::metadata(&path)?.modified()?;
        let end = match read(&self.path(number, "end"))? {
            None => None,
            Some(bytes) => Some(
                RunEnd::decode(&*bytes)
                    .map_err(|error| damaged(&self.path(number, "end"), error))?,
            ),
        };
        let journals = read(&self.path(number, "journals"))?.unwrap_or_default();
        let journals = String::from_utf8_lossy(&journals);
        let began = read(&self.path(number, "began"))?;
        Ok(Some(Found {
            number,
            submission,
            submitted_ms: millis(modified),
            began: began.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
            journals: journals.lines().map(str::to_owned).collect(),
            cancelled: self.path(number, "cancel").exists(),
            end,
        }))
    }

    /// Keeps a submission.
    pub(super) fn keep(&self, number: u64, submission: &Submission) -> io::Result<()> {
        fs::create_dir_all(self.runs.join(number.to_string()))?;
        sync(&self.runs)?;
        self.write(number, "submission", &submission.encode_to_vec())
    }

    /// Notes that a run begins, and which run of its project came before.
    pub(super) fn begin(&self, number: u64, before: &str) -> io::Result<()> {
        self.write(number, "began", before.as_bytes())
    }

    pub(super) fn cancel(&self, number: u64) -> io::Result<()> {
        self.write(number, "cancel", b"cancelled\n")
    }

    /// Keeps how a run ended, and which journals it has.
    pub(super) fn end(&self, number: u64, journals: &[String], end: &RunEnd) -> io::Result<()> {
        self.write(number, "journals", journals.join("\n").as_bytes())?;
        self.write(number, "end", &end.encode_to_vec())
    }

    fn path(&self, number: u64, name: &str) -> PathBuf {
        self.runs.join(number.to_string()).join(name)
    }

    fn write(&self, number: u64, name: &str, bytes: &[u8]) -> io::Result<()> {
        write_durably(&self.path(number, name), bytes)
    }
}

/// The epoch of a coordinator that starts now: durable before anybody hears of it.
pub(crate) fn next_epoch(state: &Path) -> io::Result<u64> {
    let path = state.join("epoch");
    let former = match read(&path)? {
        None => 0,
        Some(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            text.trim().parse::<u64>().map_err(|_| {
                io::Error::other(format!(
                    "{} holds no number; write into it one that is larger than every epoch that the workers have seen",
                    path.display()
                ))
            })?
        }
    };
    write_durably(&path, format!("{}\n", former + 1).as_bytes())?;
    Ok(former + 1)
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), sync)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Milliseconds since the epoch.
pub(super) fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_there_again() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path()).unwrap();
        let submission = Submission {
            token: "t".into(),
            pipeline: "p.yaml".into(),
            ..Submission::default()
        };
        registry.keep(2, &submission).unwrap();
        registry.keep(10, &submission).unwrap();
        registry.begin(2, "20260101-1").unwrap();
        registry
            .end(2, &["a".into(), "b".into()], &RunEnd::default())
            .unwrap();
        registry.cancel(10).unwrap();
        // A submission that was being taken: its file has not got its name.
        fs::create_dir_all(folder.path().join("runs/11")).unwrap();
        fs::write(folder.path().join("runs/11/submission.tmp"), b"half").unwrap();

        let found = Registry::open(folder.path()).unwrap().load().unwrap();
        let numbers: Vec<u64> = found.iter().map(|run| run.number).collect();
        assert_eq!(numbers, [2, 10]);
        assert_eq!(found[0].submission, submission);
        assert_eq!(found[0].began.as_deref(), Some("20260101-1"));
        assert_eq!(found[0].journals, ["a", "b"]);
        assert!(found[0].end.is_some() && !found[0].cancelled);
        assert!(found[1].end.is_none() && found[1].cancelled);
    }

    #[test]
    fn epochs_grow() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(next_epoch(folder.path()).unwrap(), 1);
        assert_eq!(next_epoch(folder.path()).unwrap(), 2);
        fs::write(folder.path().join("epoch"), "not a number").unwrap();
        let error = next_epoch(folder.path()).unwrap_err().to_string();
        assert!(error.contains("epoch holds no number"), "{error}");
    }
}
