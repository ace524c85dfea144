//! What this machine is and has.

use std::fs;

/// Where nothing is known of the machine's memory.
const UNKNOWN: u64 = 4 << 30;

/// The host's name.
pub(crate) fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Bytes that programs can take without swapping, and that the limits of this process leave.
pub fn free_memory() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = available(&info).unwrap_or(UNKNOWN);
    limits().fold(free, u64::min)
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Limits of the cgroups that this process is in, as containers set them.
fn limits() -> impl Iterator<Item = u64> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let files: Vec<String> = own.lines().filter_map(limit_file).collect();
    files
        .into_iter()
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
}

fn limit_file(line: &str) -> Option<String> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    if controllers.is_empty() {
        Some(format!("/sys/fs/cgroup{path}/memory.max"))
    } else if controllers.split(',').any(|name| name == "memory") {
        Some(format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read() {
        let text = "MemTotal:       24064000 kB\nMemAvailable:   1000 kB\n";
        assert_eq!(available(text), Some(1_024_000));
        assert_eq!(available(""), None);
        assert!(free_memory() > 0);
    }
}
