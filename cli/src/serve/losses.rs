//! The workers that were lost lately, on disk: a coordinator that starts again still tells of them.
//!
//! A line each, appended without a sync: what is lost of it with the power is no harm.

use std::{
    collections::VecDeque,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use dagrun_cluster::pool::KEPT_LOSSES;
use dagrun_proto::v1::LostWorker;
use serde::{Deserialize, Serialize};

use super::registry::millis;

/// Bytes after which the file is cleared of what is told of no more.
const LARGE: u64 = 64 << 10;

/// A worker that an earlier coordinator had lost.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Loss {
    worker: u32,
    name: String,
    why: String,
    at_ms: u64,
}

/// Those of earlier coordinators with the same state, the oldest first.
#[derive(Debug)]
pub(crate) struct FormerLosses(VecDeque<Loss>);

impl FormerLosses {
    /// Reads them, and lets the file hold no others.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub(crate) fn load(state: &Path) -> io::Result<Self> {
        let path = path(state);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        // The last line may have been cut off, and what lost its power leaves anything.
        let text = String::from_utf8_lossy(&bytes);
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let mut losses: VecDeque<Loss> = lines.filter(is_recent).collect();
        losses.drain(..losses.len().saturating_sub(KEPT_LOSSES.1));
        let lines: String = losses.iter().map(line).collect();
        if lines.as_bytes() != bytes {
            fs::write(&path, lines)?;
        }
        Ok(Self(losses))
    }

    /// Those that are still told of.
    pub(crate) fn rows(&self) -> Vec<LostWorker> {
        let recent = self.0.iter().filter(|loss| is_recent(loss));
        recent
            .map(|loss| LostWorker {
                worker: loss.worker,
                name: loss.name.clone(),
                ago_ms: now_ms().saturating_sub(loss.at_ms),
                why: loss.why.clone(),
            })
            .collect()
    }
}

/// Notes that a worker was lost now. Where that cannot be, the next coordinator does not know of it.
pub(crate) fn note(state: &Path, worker: u32, name: &str, why: &str) {
    let loss = Loss {
        worker,
        name: name.into(),
        why: why.into(),
        at_ms: now_ms(),
    };
    if fs::metadata(path(state)).is_ok_and(|file| file.len() > LARGE) {
        // Where that cannot be, the next line cannot either.
        let _ = FormerLosses::load(state);
    }
    let mut options = fs::File::options();
    let file = options.create(true).append(true).open(path(state));
    if let Err(error) = file.and_then(|mut file| file.write_all(line(&loss).as_bytes())) {
        tracing::warn!("cannot note that worker {name} was lost: {error}");
    }
}

fn path(state: &Path) -> PathBuf {
    state.join("lost")
}

fn line(loss: &Loss) -> String {
    let json = serde_json::to_string(loss).expect("a loss is plain data");
    format!("{json}\n")
}

fn is_recent(loss: &Loss) -> bool {
    u128::from(now_ms().saturating_sub(loss.at_ms)) < KEPT_LOSSES.0.as_millis()
}

fn now_ms() -> u64 {
    millis(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_of_the_last_hour_are_kept() {
        let state = tempfile::tempdir().unwrap();
        let names = |losses: &FormerLosses| -> Vec<String> {
            losses.rows().into_iter().map(|row| row.name).collect()
        };
        assert_eq!(names(&FormerLosses::load(state.path()).unwrap()), [""; 0]);
        let old = Loss {
            worker: 1,
            name: "old".into(),
            why: String::new(),
            at_ms: now_ms() - 3_600_001,
        };
        fs::write(path(state.path()), line(&old)).unwrap();
        for number in 0..52 {
            note(state.path(), number, &format!("w{number}"), "it is gone");
        }
        // A line that was cut off, which the next one would be glued to.
        let cut = fs::read_to_string(path(state.path())).unwrap() + "{\"worker\":9";
        // Not even text, as the power may leave it.
        let cut = [b"\xff\n", cut.as_bytes(), b"\xf0\x9f"].concat();
        fs::write(path(state.path()), cut).unwrap();
        let losses = FormerLosses::load(state.path()).unwrap();
        let expected: Vec<String> = (2..52).map(|n| format!("w{n}")).collect();
        assert_eq!(names(&losses), expected);
        note(state.path(), 7, "last", "it is gone");
        let losses = FormerLosses::load(state.path()).unwrap();
        assert_eq!(names(&losses)[48..], ["w51", "last"]);
    }

    #[test]
    fn a_worker_that_comes_and_goes_for_years_takes_no_room() {
        let state = tempfile::tempdir().unwrap();
        for number in 0..2_000 {
            note(state.path(), number, "flaps", "the connection to it broke");
        }
        let size = fs::metadata(path(state.path())).unwrap().len();
        assert!(size < LARGE + 1000, "{size}");
        let losses = FormerLosses::load(state.path()).unwrap();
        assert_eq!(losses.rows().last().unwrap().worker, 1_999);
    }
}
