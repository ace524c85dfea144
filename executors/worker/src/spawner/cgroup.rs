//! Memory limits by cgroup, where one can be made: version 2 first, else the memory controller of version 1.
//!
//! A node enters its group by itself, through a first program that is this one (see [`enter`]) and then becomes the node's: so
//! it is in the group from its first instruction, and this process never leaves its own.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use crate::pressure::GroupLine;

/// Set this variable where cgroups are trouble; limits are then held by looking at the memory of nodes.
const SWITCH: &str = "DAGRUN_NO_CGROUP";

/// What names of groups begin with; the spawner's pid follows.
const PREFIX: &str = "dagrun-";

/// Where groups can be made.
#[derive(Clone, Debug)]
pub(crate) struct Hierarchy {
    parent: PathBuf,
    v2: bool,
}

/// The group of one attempt; removed when dropped.
#[derive(Debug)]
pub(crate) struct Group {
    folder: PathBuf,
    v2: bool,
}

impl Hierarchy {
    /// Finds a place where this process may limit memory; `None` where there is none, or where [`SWITCH`] is set.
    pub(crate) fn find() -> Option<Self> {
        if std::env::var_os(SWITCH).is_some() {
            return None;
        }
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let found = own.lines().flat_map(places).find(|place| {
            let probe = place.make("probe", 1 << 30);
            probe.is_some_and(|probe| probe.procs().exists())
        })?;
        found.remove_stale();
        Some(found)
    }

    /// Removes groups of spawners that were killed. One that still holds a process cannot be removed.
    fn remove_stale(&self) {
        for entry in fs::read_dir(&self.parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name
                .strip_prefix(PREFIX)
                .and_then(|rest| rest.split('-').next());
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let _ = fs::remove_dir(entry.path());
            }
        }
    }

    /// Makes a group with a limit in bytes.
    pub(crate) fn make(&self, name: &str, limit: u64) -> Option<Group> {
        let pid = std::process::id();
        let folder = self.parent.join(format!("{PREFIX}{pid}-{name}"));
        fs::create_dir(&folder).ok()?;
        let group = Group {
            folder,
            v2: self.v2,
        };
        let limit = limit.to_string();
        if self.v2 {
            group.write("memory.max", &limit)?;
            // Where swap is not accounted there is no such file, and nothing to limit.
            let _ = group.write("memory.swap.max", "0");
            let _ = group.write("memory.oom.group", "1");
        } else {
            group.write("memory.limit_in_bytes", &limit)?;
            let _ = group.write("memory.memsw.limit_in_bytes", &limit);
        }
        Some(group)
    }
}

/// The places that a line of /proc/self/cgroup stands for.
fn places(line: &str) -> Vec<Hierarchy> {
    let Some(line) = GroupLine::parse(line).filter(|line| line.has("memory")) else {
        return Vec::new();
    };
    let below = |root: &str| PathBuf::from(format!("{root}{}", line.path));
    if line.v2 {
        let own = below("/sys/fs/cgroup");
        // A version 2 group that holds processes cannot limit groups below it, so its parent is tried too.
        let parent = own.parent().map(Path::to_path_buf);
        let mut found = vec![Hierarchy {
            parent: own,
            v2: true,
        }];
        found.extend(parent.map(|parent| Hierarchy { parent, v2: true }));
        found
    } else {
        vec![Hierarchy {
            parent: below("/sys/fs/cgroup/memory"),
            v2: false,
        }]
    }
}

impl Group {
    /// The file by which a process enters.
    pub(crate) fn procs(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// Whether the kernel killed a process here for its memory.
    pub(crate) fn oom_killed(&self) -> bool {
        let file = if self.v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let text = fs::read_to_string(self.folder.join(file)).unwrap_or_default();
        text.lines().any(|line| {
            line.strip_prefix("oom_kill ")
                .is_some_and(|count| count.trim() != "0")
        })
    }

    /// The greatest use seen, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        let file = if self.v2 {
            "memory.peak"
        } else {
            "memory.max_usage_in_bytes"
        };
        fs::read_to_string(self.folder.join(file))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
    }

    fn write(&self, file: &str, text: &str) -> Option<()> {
        fs::write(self.folder.join(file), text).ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last process may take a moment to leave.
        for _ in 0..50 {
            if fs::remove_dir(&self.folder).is_ok() || !self.folder.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// The argument after which this program enters a group and becomes another.
pub(crate) const ENTER: &str = "enter";

/// What a program that could not be started ends with after it wrote the error's number to the agreed file.
pub(crate) const NOT_STARTED: i32 = 126;

/// Enters a group and becomes the program: `PROCS ERROR_FILE PROGRAM ARG0 ARGS...`.
pub(crate) fn enter(args: &[std::ffi::OsString]) -> ExitCode {
    let [procs, error_file, program, arg0, args @ ..] = args else {
        return ExitCode::from(NOT_STARTED as u8);
    };
    let error = match fs::write(procs, "0") {
        Ok(()) => Command::new(program).arg0(arg0).args(args).exec(),
        Err(error) => error,
    };
    let number = error.raw_os_error().unwrap_or(0).to_string();
    let _ = fs::write(error_file, number);
    ExitCode::from(NOT_STARTED as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_places() {
        let of = |line| {
            places(line)
                .into_iter()
                .map(|h| (h.parent.display().to_string(), h.v2))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            of("0::/user.slice/a"),
            [
                ("/sys/fs/cgroup/user.slice/a".into(), true),
                ("/sys/fs/cgroup/user.slice".into(), true)
            ]
        );
        assert_eq!(
            of("5:memory:/x"),
            [("/sys/fs/cgroup/memory/x".into(), false)]
        );
        assert!(of("3:cpu,cpuacct:/").is_empty());
    }
    /// The kernel's files stand in for it: only the names and the words are ours.
    #[test]
    fn version_2_has_its_files_and_words() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Hierarchy {
            parent: folder.path().into(),
            v2: true,
        };
        let group = place.make("7", 1 << 30).expect("it can be made");
        let file = |name: &str| group.folder.join(name);
        let read = |name: &str| fs::read_to_string(file(name)).expect("it was written");
        assert_eq!(read("memory.max"), "1073741824");
        assert_eq!(read("memory.swap.max"), "0");
        assert_eq!(read("memory.oom.group"), "1");
        for (events, killed) in [
            (
                "low 0\nhigh 0\nmax 12\noom 0\noom_kill 0\noom_group_kill 0\n",
                false,
            ),
            (
                "low 0\nhigh 0\nmax 12\noom 1\noom_kill 3\noom_group_kill 1\n",
                true,
            ),
        ] {
            fs::write(file("memory.events"), events).expect("the folder is ours");
            assert_eq!(group.oom_killed(), killed, "{events}");
        }
        fs::write(file("memory.peak"), "1073741824\n").expect("the folder is ours");
        assert_eq!(group.peak(), 1 << 30);
    }
}
