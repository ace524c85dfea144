//! Finding processes that stayed behind.

use std::sync::atomic::{AtomicU64, Ordering};

/// Finds the processes that inherited a marker in their environment.
#[derive(Debug)]
pub struct ProcWatch {
    value: String,
}

impl ProcWatch {
    /// The name of the variable.
    pub const NAME: &'static str = "DAGRUN_TEST_MARK";

    /// A new marker.
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self {
            value: format!("{}-{count}", std::process::id()),
        }
    }

    /// The value to set for the first process.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The processes that carry the marker and are not zombies, with their command lines.
    pub fn alive(&self) -> Vec<(u32, String)> {
        let marker = format!("{}={}", Self::NAME, self.value);
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
            let marked = read("environ")
                .split(|b| *b == 0)
                .any(|v| v == marker.as_bytes());
            if marked && !is_zombie(&read("stat")) {
                let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
                found.push((pid, line));
            }
        }
        found
    }

    /// Kills what is left. Gives how many there were.
    pub fn kill(&self) -> usize {
        let alive = self.alive();
        for (pid, _) in &alive {
            let pid = i32::try_from(*pid)
                .ok()
                .and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        alive.len()
    }
}

/// The state stands behind the name, which may itself hold parentheses.
fn is_zombie(stat: &[u8]) -> bool {
    let end = stat.iter().rposition(|b| *b == b')');
    end.and_then(|end| stat.get(end + 2)) == Some(&b'Z')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_processes_are_found_until_they_end() {
        let watch = ProcWatch::new();
        assert!(watch.alive().is_empty());
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .env(ProcWatch::NAME, watch.value())
            .spawn()
            .unwrap();
        // The kernel lets the parent go on a moment before the environment can be read.
        while watch.alive().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(watch.kill(), 1);
        child.wait().unwrap();
        assert!(watch.alive().is_empty());
    }

    #[test]
    fn names_with_parentheses_do_not_hide_the_state() {
        assert!(is_zombie(b"1 (a) R) Z 1"));
        assert!(!is_zombie(b"1 (a) Z) R 1"));
    }
}
