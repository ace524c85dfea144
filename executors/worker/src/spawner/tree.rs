//! Process trees, read from /proc.
//!
//! Knows nothing of attempts. A pid that is not a child of this process may be reused at any moment, so nothing here signals one
//! but through a pidfd that was checked after it was opened.

use std::{fs, path::PathBuf};

use rustix::process::{Pid, Signal};

/// The variable by which the processes of an attempt are known.
pub(crate) const TOKEN: &str = "DAGRUN_ATTEMPT_TOKEN";

/// The children of the first thread of this process, by which this must be made.
///
/// The kernel gives orphans to that thread, while a child that was started here belongs to the thread that did it.
#[cfg(target_os = "linux")]
pub(crate) struct Children {
    file: Option<fs::File>,
    buffer: Vec<u8>,
}

#[cfg(target_os = "linux")]
impl Children {
    pub(crate) fn new() -> Self {
        Self {
            file: fs::File::open("/proc/thread-self/children").ok(),
            buffer: vec![0; 4096],
        }
    }

    /// Whether what other threads start is never listed.
    pub(crate) fn are_strays(&self) -> bool {
        self.file.is_some()
    }

    /// Their pids, the dead but unreaped among them.
    pub(crate) fn list(&mut self, pids: &mut Vec<i32>) {
        pids.clear();
        let Some(file) = &self.file else {
            // A kernel without the file: ask every process for its parent.
            let me = rustix::process::getpid().as_raw_pid();
            pids.extend(all().filter(|pid| stat(*pid).is_some_and(|stat| stat.parent == me)));
            return;
        };
        loop {
            // One read from the start is one consistent list.
            match rustix::io::pread(file, &mut self.buffer[..], 0) {
                Ok(read) if read == self.buffer.len() => {
                    let larger = self.buffer.len() * 4;
                    self.buffer.resize(larger, 0);
                }
                Ok(read) => {
                    pids.extend(numbers(&self.buffer[..read]));
                    return;
                }
                Err(_) => return,
            }
        }
    }
}

/// Without /proc nothing is known of children that were not started here.
#[cfg(not(target_os = "linux"))]
pub(crate) struct Children;

#[cfg(not(target_os = "linux"))]
impl Children {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn are_strays(&self) -> bool {
        true
    }

    pub(crate) fn list(&mut self, pids: &mut Vec<i32>) {
        pids.clear();
    }
}

fn numbers(text: &[u8]) -> impl Iterator<Item = i32> + '_ {
    text.split(|b| *b == b' ')
        .filter_map(|word| std::str::from_utf8(word).ok()?.trim().parse().ok())
}

/// All pids of the machine that can be seen.
pub(crate) fn all() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// All processes below `root`, without it.
pub(crate) fn descendants(root: i32) -> Vec<i32> {
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        let threads = fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten();
        for thread in threads {
            let children = fs::read(thread.path().join("children")).unwrap_or_default();
            open.extend(numbers(&children));
        }
        if pid != root {
            found.push(pid);
        }
    }
    found
}

/// Some of what /proc/PID/stat says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) parent: i32,
    pub(crate) group: i32,
    /// Clock ticks since boot: with the pid, the identity of a process.
    pub(crate) started: u64,
    pub(crate) zombie: bool,
}

pub(crate) fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything, parentheses too.
    let rest = &text[text.iter().rposition(|b| *b == b')')? + 1..];
    let mut fields = std::str::from_utf8(rest).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    Some(Stat {
        parent,
        group,
        started: fields.nth(16)?.parse().ok()?,
        zombie: matches!(state, "Z" | "X"),
    })
}

/// Whether a process was stopped by a signal.
pub(crate) fn is_stopped(pid: i32) -> bool {
    let text = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let name_end = text.iter().rposition(|b| *b == b')');
    name_end.and_then(|end| text.get(end + 2)) == Some(&b'T')
}

/// The attempt token in the environment of a process, where it has one and may be read.
pub(crate) fn token(pid: i32) -> Option<String> {
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    environ
        .split(|b| *b == 0)
        .find_map(|var| var.strip_prefix(TOKEN.as_bytes())?.strip_prefix(b"="))
        .map(|value| String::from_utf8_lossy(value).into_owned())
}

/// Resident memory of some processes together, in bytes: private pages of each, shared ones once.
pub(crate) fn resident(pids: impl Iterator<Item = i32>) -> u64 {
    let page = rustix::param::page_size() as u64;
    let (mut private, mut shared) = (0, 0);
    for pid in pids {
        let path = PathBuf::from(format!("/proc/{pid}/statm"));
        let Ok(text) = fs::read_to_string(path) else {
            continue;
        };
        let mut fields = text
            .split(' ')
            .skip(1)
            .map(|f| f.parse::<u64>().unwrap_or(0));
        let all = fields.next().unwrap_or(0);
        let common = fields.next().unwrap_or(0);
        private += all.saturating_sub(common);
        shared = shared.max(common);
    }
    (private + shared) * page
}

/// Sends a signal to a process that `is_ours` confirms after its pid can no longer be reused.
#[cfg(target_os = "linux")]
pub(crate) fn signal(pid: i32, signal: Signal, is_ours: impl FnOnce() -> bool) -> bool {
    use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
    let Some(raw) = Pid::from_raw(pid) else {
        return false;
    };
    let Ok(handle) = pidfd_open(raw, PidfdFlags::empty()) else {
        return false;
    };
    is_ours() && pidfd_send_signal(handle, signal).is_ok()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn signal(pid: i32, signal: Signal, is_ours: impl FnOnce() -> bool) -> bool {
    let Some(pid) = Pid::from_raw(pid) else {
        return false;
    };
    is_ours() && rustix::process::kill_process(pid, signal).is_ok()
}

/// Signals everything below `root`, deepest last; a process counts as ours if it is the one that was listed.
pub(crate) fn signal_descendants(root: i32, with: Signal) {
    for pid in descendants(root) {
        let Some(seen) = stat(pid) else { continue };
        // The pid was read as a descendant before `seen`; it must still be one once it is held.
        signal(pid, with, || stat(pid) == Some(seen) && descends(pid, root));
    }
}

/// Kills everything below a process that does nothing about it itself, as far as that is done within a moment.
pub(crate) fn kill_below(root: i32) {
    for _ in 0..20 {
        let lives = |pid: &i32| stat(*pid).is_some_and(|stat| !stat.zombie);
        if !descendants(root).iter().any(lives) {
            return;
        }
        // What these leave goes to the nearest subreaper, which is `root` or above it.
        signal_descendants(root, Signal::KILL);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Kills a spawner that is the parent of a process with a token of `session`, with all below it.
///
/// For when the engine is dead: a spawner that works is gone too.
pub(crate) fn kill_spawners(session: &str) {
    let marked = all().filter(|pid| token(*pid).is_some_and(|token| token.starts_with(session)));
    let mut parents: Vec<i32> = marked.filter_map(|pid| Some(stat(pid)?.parent)).collect();
    parents.sort_unstable();
    parents.dedup();
    for pid in parents.into_iter().filter(|pid| is_spawner(*pid)) {
        kill_below(pid);
        signal(pid, Signal::KILL, || is_spawner(pid));
    }
}

fn is_spawner(pid: i32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split(|b| *b == 0).skip(1);
    words.next() == Some(super::SPAWNER_COMMAND.as_bytes())
}

fn descends(mut pid: i32, root: i32) -> bool {
    for _ in 0..1000 {
        match stat(pid) {
            Some(stat) if stat.parent == root => return true,
            Some(stat) if stat.parent > 1 => pid = stat.parent,
            _ => return false,
        }
    }
    false
}

/// Kills every process whose attempt token begins with `session`, until none is left; gives how many there were.
///
/// For when the parent of these processes is gone. Processes that cannot be killed within a few seconds are left.
pub(crate) fn kill_marked(session: &str) -> u32 {
    let ours = |pid| token(pid).is_some_and(|token| token.starts_with(session));
    let mut killed: Vec<i32> = Vec::new();
    let mut quiet = 0;
    for _ in 0..200 {
        let found: Vec<i32> = all().filter(|pid| ours(*pid)).collect();
        // A process that is just becoming another program has no environment for a moment, so one look is not enough.
        quiet = if found.is_empty() { quiet + 1 } else { 0 };
        if quiet == 3 {
            break;
        }
        for pid in found {
            if signal(pid, Signal::KILL, || ours(pid)) && !killed.contains(&pid) {
                killed.push(pid);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    killed.len() as u32
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        let me = rustix::process::getpid().as_raw_pid();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .env(TOKEN, "tree-test.1")
            .spawn()
            .expect("sleep starts");
        let pid = child.id() as i32;
        let stat = stat(pid).expect("it is there");
        assert_eq!((stat.parent, stat.zombie), (me, false));
        assert!(stat.started > 0);
        while token(pid).is_none() {
            std::thread::yield_now();
        }
        assert!(descendants(me).contains(&pid));
        assert!(resident([pid].into_iter()) > 0);
        assert_eq!(kill_marked("tree-test."), 1);
        assert!(!child.wait().expect("it was killed").success());
    }
}
