//! How much room a file system has left.

use std::{io, os::fd::AsFd, path::Path};

use rustix::fs::StatVfs;

/// Less than this is no room at all: a program that met a full disk has mostly left a few blocks of it.
const NOTHING: u64 = 16 << 10;
/// A disk with less than this part of it free is short of room, though never one with more than so many bytes.
const SHORT: (u64, u64) = (50, 1 << 30);

/// What a file system has left for this user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Bytes free.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
    /// No more files can be made, whatever is free.
    pub no_inodes: bool,
}

impl Disk {
    /// That of a path, or of the nearest folder above it that is there.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut at = path;
        loop {
            match rustix::fs::statvfs(at) {
                Ok(stat) => return Ok(Self::new(&stat)),
                Err(rustix::io::Errno::NOENT) => match at.parent() {
                    Some(above) if !above.as_os_str().is_empty() => at = above,
                    _ => return Err(rustix::io::Errno::NOENT.into()),
                },
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// That of an open file.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn of_file(file: impl AsFd) -> io::Result<Self> {
        Ok(Self::new(&rustix::fs::fstatvfs(file)?))
    }

    fn new(stat: &StatVfs) -> Self {
        Self {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            no_inodes: stat.f_files > 0 && stat.f_favail == 0,
        }
    }

    /// Whether nothing more can be written.
    pub fn is_full(&self) -> bool {
        self.free < NOTHING || self.no_inodes
    }

    /// Whether so little is left that the next to write much will find it full.
    pub fn is_short(&self) -> bool {
        self.is_full() || self.free < (self.total / SHORT.0).min(SHORT.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_short_before_it_is_full() {
        let disk = |free, total| Disk {
            free,
            total,
            no_inodes: false,
        };
        assert!(disk(8 << 10, 1 << 20).is_full());
        assert!(!disk(18 << 10, 1 << 20).is_full());
        assert!(disk(18 << 10, 1 << 20).is_short());
        assert!(!disk(30 << 10, 1 << 20).is_short());
        // A large disk has enough long before a fiftieth of it is free.
        assert!(!disk(2 << 30, 1 << 40).is_short());
        assert!(disk(1 << 29, 1 << 40).is_short());
        let no_inodes = true;
        let without = Disk {
            no_inodes,
            ..disk(1 << 30, 1 << 30)
        };
        assert!(without.is_full() && without.is_short());
    }

    #[test]
    fn what_is_not_there_is_on_the_disk_of_what_is_above_it() {
        let folder = tempfile::tempdir().unwrap();
        let above = Disk::of(folder.path()).unwrap();
        let below = Disk::of(&folder.path().join("a/b/c")).unwrap();
        assert_eq!(above.total, below.total);
        assert!(above.total > 0);
    }
}
