//! When nodes began, as they wrote it down themselves: the clock is the machine's, which all processes share.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// A node that began.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Stamp {
    /// Seconds of the monotonic clock.
    pub(super) at: f64,
    /// Its process.
    pub(super) pid: u32,
}

/// Seconds of the clock that all processes of the machine have in common.
pub(super) fn now() -> f64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The node: `bench-node stamp FILE SECONDS` adds a line to a file, and sleeps.
pub(crate) fn stamp(file: &str, seconds: &str) -> Result<(), String> {
    let line = format!("{} {}\n", now(), std::process::id());
    File::options()
        .create(true)
        .append(true)
        .open(file)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .map_err(|error| format!("cannot write {file}: {error}"))?;
    let seconds: f64 = seconds
        .parse()
        .map_err(|_| format!("`{seconds}` is not a number"))?;
    std::thread::sleep(Duration::from_secs_f64(seconds));
    Ok(())
}

/// What is there by now.
pub(super) fn read(file: &Path) -> Vec<Stamp> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().filter_map(parse).collect()
}

fn parse(line: &str) -> Option<Stamp> {
    let (at, pid) = line.split_once(' ')?;
    Some(Stamp {
        at: at.parse().ok()?,
        pid: pid.parse().ok()?,
    })
}

/// Whether a process is another one or descends from it.
pub(super) fn descends(mut pid: u32, from: u32) -> bool {
    while pid > 1 {
        if pid == from {
            return true;
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        pid = parent.and_then(|it| it.trim().parse().ok()).unwrap_or(0);
    }
    false
}
