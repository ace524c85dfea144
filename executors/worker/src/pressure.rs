//! How near this host is to the end of its memory, and what a CPU quota takes from it.
//!
//! Reads /proc and the cgroups that this process is in, as containers and batch systems set them; decides what that means for nodes.
//! Where nothing is known (other systems) nothing is ever short.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where nothing is known of the machine's memory.
const UNKNOWN: u64 = 4 << 30;

/// Nothing more is started while less is free than this, in thousandths of the limit and in bytes: the smaller of both.
const HIGH: (u64, u64) = (100, 2 << 30);
/// What must be free again before more is started.
const LOW: (u64, u64) = (150, 3 << 30);
/// With less it is looked at often.
const CLOSE: (u64, u64) = (200, 6 << 30);
/// With less the newest attempt is stopped.
const CRITICAL: (u64, u64) = (30, 512 << 20);

/// Memory that some limit leaves to this process and all beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Bytes there are.
    pub(crate) limit: u64,
    /// Bytes of them that programs can still take without swapping.
    pub(crate) free: u64,
}

impl Memory {
    fn is_below(self, (thousandths, bytes): (u64, u64)) -> bool {
        self.free < (self.limit / 1000 * thousandths).min(bytes)
    }
}

/// The files that tell of a host.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    groups: Vec<MemoryGroup>,
    /// `cpu.stat` of the group whose quota holds, where one has any.
    throttle: Option<PathBuf>,
    /// How many processes the kernel had killed for want of memory at the last two looks, the older first.
    kills: [u64; 2],
}

#[derive(Debug)]
struct MemoryGroup {
    folder: PathBuf,
    v2: bool,
    limit: u64,
}

/// Bytes that programs can take without swapping, and that the limits of this process leave in all.
pub fn free_memory() -> u64 {
    let groups = memory_groups(&own_groups(), Path::new(ROOT));
    let limits = groups.into_iter().map(|group| group.limit);
    let free = of_machine().map_or(UNKNOWN, |memory| memory.free);
    limits.fold(free, u64::min)
}

impl Gauges {
    pub(crate) fn find() -> Self {
        Self {
            kills: [kills(); 2],
            ..Self::of(&own_groups(), Path::new(ROOT))
        }
    }

    /// Of the lines of /proc/self/cgroup and the place of the hierarchies.
    fn of(own: &str, root: &Path) -> Self {
        let lines = own.lines().filter_map(GroupLine::parse);
        Self {
            groups: memory_groups(own, root),
            throttle: lines
                .filter(|line| line.has("cpu"))
                .find_map(|line| {
                    let mut folders = line.upward(root, "cpu").into_iter();
                    folders.find(|folder| has_quota(folder, line.v2))
                })
                .map(|folder| folder.join("cpu.stat")),
            kills: [0; 2],
        }
    }

    /// Looks at the memory, as [`Gauges::memory`], and at what the kernel did about it so far.
    pub(crate) fn look(&mut self) -> Option<Memory> {
        self.kills = [self.kills[1], kills()];
        self.memory()
    }

    /// Whether the kernel killed a process for want of memory since the look before the last.
    pub(crate) fn has_killed(&self) -> bool {
        self.kills[0] < kills()
    }

    /// What the tightest limit leaves; `None` where nothing is known.
    pub(crate) fn memory(&self) -> Option<Memory> {
        let groups = self.groups.iter().filter_map(MemoryGroup::read);
        groups
            .chain(of_machine())
            .min_by_key(|memory| u128::from(memory.free) * 1000 / u128::from(memory.limit.max(1)))
    }

    /// The bytes that the lowest limit leaves to this process and all beside it.
    pub(crate) fn limit(&self) -> u64 {
        let groups = self.groups.iter().map(|group| group.limit);
        let machine = of_machine().map_or(UNKNOWN, |memory| memory.limit);
        groups.fold(machine, u64::min)
    }

    /// For how long a CPU quota has held back threads of this group, as far as it has one.
    pub(crate) fn throttled(&self) -> Option<Duration> {
        throttled(&fs::read_to_string(self.throttle.as_ref()?).ok()?)
    }
}

impl MemoryGroup {
    /// A group, where it has a limit.
    fn of(folder: PathBuf, v2: bool) -> Option<Self> {
        let file = match v2 {
            true => "memory.max",
            false => "memory.limit_in_bytes",
        };
        let limit = number(&folder.join(file))?;
        // Without a limit version 1 says the largest number of pages there can be.
        (limit < 1 << 60).then_some(Self { folder, v2, limit })
    }

    fn read(&self) -> Option<Memory> {
        let (usage, inactive) = match self.v2 {
            true => ("memory.current", "inactive_file "),
            false => ("memory.usage_in_bytes", "total_inactive_file "),
        };
        let used = number(&self.folder.join(usage))?;
        // Pages of files that nobody uses are given up first.
        let stat = fs::read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let cached = field(&stat, inactive).unwrap_or(0);
        let used = used.saturating_sub(cached);
        Some(Memory {
            limit: self.limit,
            free: self.limit.saturating_sub(used),
        })
    }
}

/// Where hierarchies of groups are.
const ROOT: &str = "/sys/fs/cgroup";

/// The lines of /proc/self/cgroup; none where there is no such file.
fn own_groups() -> String {
    fs::read_to_string("/proc/self/cgroup").unwrap_or_default()
}

/// The groups of this process and those above them that limit memory.
fn memory_groups(own: &str, root: &Path) -> Vec<MemoryGroup> {
    let lines = own.lines().filter_map(GroupLine::parse);
    let lines = lines.filter(|line| line.has("memory"));
    lines
        .flat_map(|line| {
            let folders = line.upward(root, "memory").into_iter();
            folders.filter_map(move |folder| MemoryGroup::of(folder, line.v2))
        })
        .collect()
}

fn has_quota(folder: &Path, v2: bool) -> bool {
    let text = |name| fs::read_to_string(folder.join(name)).unwrap_or_default();
    if v2 {
        let max = text("cpu.max");
        !max.is_empty() && !max.starts_with("max")
    } else {
        text("cpu.cfs_quota_us")
            .trim()
            .parse()
            .is_ok_and(|quota: i64| quota > 0)
    }
}

fn throttled(stat: &str) -> Option<Duration> {
    let v2 = field(stat, "throttled_usec ").map(Duration::from_micros);
    v2.or_else(|| field(stat, "throttled_time ").map(Duration::from_nanos))
}

/// How many processes the kernel has killed for want of memory, that of the machine or of a cgroup.
fn kills() -> u64 {
    let text = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    field(&text, "oom_kill ").unwrap_or(0)
}

fn of_machine() -> Option<Memory> {
    machine(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn machine(meminfo: &str) -> Option<Memory> {
    let bytes = |name| Some(field(meminfo, name)? * 1024);
    Some(Memory {
        limit: bytes("MemTotal:")?,
        free: bytes("MemAvailable:")?,
    })
}

/// The number after a word at the begin of a line.
fn field(text: &str, word: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(word))?;
    rest.trim_end_matches("kB").trim().parse().ok()
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// A line of /proc/self/cgroup: the group of this process in one hierarchy.
#[derive(Clone, Copy)]
pub(crate) struct GroupLine<'a> {
    controllers: &'a str,
    pub(crate) path: &'a str,
    pub(crate) v2: bool,
}

impl<'a> GroupLine<'a> {
    pub(crate) fn parse(line: &'a str) -> Option<Self> {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        Some(Self {
            controllers,
            path,
            v2: controllers.is_empty(),
        })
    }

    /// Whether a controller may be there; version 2 has all in one hierarchy.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.v2 || self.controllers.split(',').any(|it| it == name)
    }

    /// The folder of the group and of those above it. In a container the path is often that of the host, and the own group is the root.
    fn upward(&self, root: &Path, controller: &str) -> Vec<PathBuf> {
        let hierarchy = match self.v2 {
            true => root.to_path_buf(),
            false => root.join(controller),
        };
        let own = hierarchy.join(self.path.trim_start_matches('/'));
        let folders = own.ancestors().take_while(|f| f.starts_with(&hierarchy));
        folders.map(Path::to_path_buf).collect()
    }
}

/// What is to be done about memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Attempts may start.
    Start,
    /// None may, but where none runs.
    Hold,
    /// None may, and the newest that runs is stopped, if it is not alone.
    Stop,
}

/// What was seen of memory so far.
#[derive(Debug, Default)]
pub(crate) struct Watermarks {
    is_short: bool,
    /// An attempt was stopped: as long as those beside it run, it would only be stopped again.
    wait_for_end: bool,
}

impl Watermarks {
    /// Takes a look at the memory in.
    pub(crate) fn see(&mut self, memory: Memory) -> Verdict {
        self.is_short = memory.is_below(if self.is_short { LOW } else { HIGH });
        if memory.is_below(CRITICAL) {
            return Verdict::Stop;
        }
        match self.holds() {
            true => Verdict::Hold,
            false => Verdict::Start,
        }
    }

    /// Whether nothing may start beside what runs.
    pub(crate) fn holds(&self) -> bool {
        self.is_short || self.wait_for_end
    }

    /// Whether the memory is so near the mark that the next look should come soon.
    pub(crate) fn is_close(&self, memory: Memory) -> bool {
        memory.is_below(CLOSE)
    }

    /// An attempt was stopped or killed for want of memory.
    pub(crate) fn stopped_one(&mut self) {
        self.wait_for_end = true;
    }

    /// An attempt ended by itself.
    pub(crate) fn one_ended(&mut self) {
        self.wait_for_end = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn memory(limit: u64, free: u64) -> Memory {
        Memory { limit, free }
    }

    #[test]
    fn meminfo_is_read() {
        let text = "MemTotal:       24064000 kB\nMemFree: 1 kB\nMemAvailable:   1000 kB\n";
        assert_eq!(machine(text), Some(memory(24_064_000 * 1024, 1_024_000)));
        assert_eq!(machine(""), None);
        assert!(free_memory() > 0);
    }

    /// The kernel's files stand in for it: only the names and the words are ours.
    #[test]
    fn the_tightest_group_counts() {
        let root = tempfile::tempdir().expect("a folder");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("it has one")).expect("a folder");
            fs::write(path, text).expect("a file");
        };
        // Version 1: a limit above the own group.
        write("memory/a/memory.limit_in_bytes", "1000000\n");
        write("memory/a/memory.usage_in_bytes", "900000\n");
        write(
            "memory/a/memory.stat",
            "cache 5\ntotal_inactive_file 400000\n",
        );
        write("memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
        write("cpu/a/b/cpu.cfs_quota_us", "-1\n");
        write("cpu/a/cpu.cfs_quota_us", "20000\n");
        write(
            "cpu/a/cpu.stat",
            "nr_periods 4\nnr_throttled 2\nthrottled_time 1500000000\n",
        );
        let own = "4:memory:/a/b\n3:cpu,cpuacct:/a/b\n0::/user\n";
        let gauges = Gauges::of(own, root.path());
        assert_eq!(gauges.memory(), Some(memory(1_000_000, 500_000)));
        assert_eq!(gauges.throttled(), Some(Duration::from_millis(1500)));
        // Version 2: the own group has a limit, that above has none.
        write("user/x/memory.max", "2000000\n");
        write("user/x/memory.current", "1900000\n");
        write("user/memory.max", "max\n");
        write("user/x/cpu.max", "max 100000\n");
        let gauges = Gauges::of("0::/user/x\n", root.path());
        assert_eq!(gauges.memory(), Some(memory(2_000_000, 100_000)));
        assert_eq!(gauges.throttled(), None);
        write("user/cpu.max", "50000 100000\n");
        write("user/cpu.stat", "usage_usec 7\nthrottled_usec 2500000\n");
        let gauges = Gauges::of("0::/user/x\n", root.path());
        assert_eq!(gauges.throttled(), Some(Duration::from_millis(2500)));
    }

    #[test]
    fn short_memory_holds_until_there_is_clearly_more() {
        let mut marks = Watermarks::default();
        let mut see = |free| marks.see(memory(10 * GIB, free));
        assert_eq!(see(2 * GIB), Verdict::Start);
        assert_eq!(see(GIB - 1000), Verdict::Hold);
        assert_eq!(see(GIB + 1000), Verdict::Hold);
        assert_eq!(see(2 * GIB), Verdict::Start);
        assert_eq!(see(GIB / 5), Verdict::Stop);
        // A large machine has enough long before a tenth of it is free.
        assert_eq!(marks.see(memory(512 * GIB, 5 * GIB)), Verdict::Start);
        assert_eq!(marks.see(memory(512 * GIB, GIB)), Verdict::Hold);
        assert_eq!(marks.see(memory(512 * GIB, GIB / 4)), Verdict::Stop);
    }

    #[test]
    fn what_was_stopped_waits_for_the_end_of_another() {
        let mut marks = Watermarks::default();
        assert_eq!(marks.see(memory(10 * GIB, 0)), Verdict::Stop);
        marks.stopped_one();
        assert_eq!(marks.see(memory(10 * GIB, 9 * GIB)), Verdict::Hold);
        marks.one_ended();
        assert_eq!(marks.see(memory(10 * GIB, 9 * GIB)), Verdict::Start);
    }
}
