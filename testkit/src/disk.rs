//! A file system with little room, or few inodes, or none to write.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::skip::{Unavailable, require_root, run};

/// A small file system in memory. Unmounted when it is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    folder: tempfile::TempDir,
    mounted: PathBuf,
}

impl SmallDisk {
    /// Mounts one of so many bytes, and so many inodes where that is given.
    ///
    /// # Errors
    /// Without root or the right to mount.
    pub fn new(bytes: u64, inodes: Option<u64>) -> Result<Self, Unavailable> {
        require_root()?;
        let folder = crate::scratch();
        let mounted = folder.path().join("disk");
        std::fs::create_dir(&mounted).map_err(|error| Unavailable(error.to_string()))?;
        let mut options = format!("size={bytes}");
        if let Some(inodes) = inodes {
            options.push_str(&format!(",nr_inodes={inodes}"));
        }
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "dagrun-test"])
            .arg(&mounted))?;
        Ok(Self { folder, mounted })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    /// A folder beside it, on an ordinary file system.
    pub fn beside(&self) -> &Path {
        self.folder.path()
    }

    /// Changes options of the mount: `ro`, `rw`, `size=2m`.
    ///
    /// # Panics
    /// When that is refused.
    pub fn remount(&self, options: &str) {
        run(Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(&self.mounted))
        .unwrap_or_else(|why| panic!("{why}"));
    }

    /// Fills what is left, down to the last block. Gives the file to remove.
    ///
    /// # Panics
    /// When the filling file cannot be made at all.
    pub fn fill(&self) -> PathBuf {
        use std::io::Write;
        let path = self.mounted.join("filler");
        let mut file = std::fs::File::create(&path).expect("there is room for a file");
        let block = vec![1; 4096];
        while file.write_all(&block).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mounted).status();
    }
}
