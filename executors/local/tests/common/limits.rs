//! Groups of processes with limits, as containers and batch systems have them.

use std::{fs, path::PathBuf};

use dagrun_testkit::Unavailable;

/// A cgroup with a limit; removed when dropped.
pub(crate) struct Limited {
    folder: PathBuf,
    v2: bool,
}

impl Limited {
    /// One whose processes have so many bytes together.
    pub(crate) fn memory(name: &str, limit: u64) -> Result<Self, Unavailable> {
        let made = Self::make("memory", name)?;
        let file = if made.v2 {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        made.set(file, &limit.to_string())?;
        Ok(made)
    }

    /// One whose processes have so much of one CPU, in percent.
    pub(crate) fn cpu(name: &str, percent: u64) -> Result<Self, Unavailable> {
        let made = Self::make("cpu", name)?;
        let quota = percent * 1000;
        match made.v2 {
            true => made.set("cpu.max", &format!("{quota} 100000"))?,
            false => made.set("cpu.cfs_quota_us", &quota.to_string())?,
        }
        Ok(made)
    }

    fn make(controller: &str, name: &str) -> Result<Self, Unavailable> {
        let name = format!("dagrun-test-{name}-{}", std::process::id());
        let root = PathBuf::from("/sys/fs/cgroup");
        for (folder, v2) in [(root.join(controller), false), (root, true)] {
            let folder = folder.join(&name);
            let made = Self { folder, v2 };
            if fs::create_dir(&made.folder).is_ok() {
                return Ok(made);
            }
        }
        Err(Unavailable(format!(
            "needs root and the {controller} controller of cgroups"
        )))
    }

    fn set(&self, file: &str, text: &str) -> Result<(), Unavailable> {
        let file = self.folder.join(file);
        fs::write(&file, text)
            .map_err(|error| Unavailable(format!("cannot write {}: {error}", file.display())))
    }

    /// The shell command by which a shell enters it.
    pub(crate) fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs", self.folder.display())
    }

    /// Where a process reads what all use.
    pub(crate) fn usage(&self) -> String {
        let file = if self.v2 {
            "memory.current"
        } else {
            "memory.usage_in_bytes"
        };
        self.folder.join(file).display().to_string()
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        for _ in 0..1000 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}
