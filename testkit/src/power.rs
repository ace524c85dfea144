//! Power cuts without pulling a plug: a file system on a loop device is shut down under a running program.
//!
//! The shutdown ioctl of ext4 and XFS stops the file system as a power cut would, with a choice of what still reaches the
//! disk. One loop device serves all cuts: a fresh one for each would race with the kernel's lazy detaching. Count only
//! acknowledgements that came *before* the cut: a program can get a false success after it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::skip::{Unavailable, require_program, require_root, run};

/// A journalling file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Fs {
    Ext4,
    Xfs,
}

/// What a power cut loses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// Everything is flushed first; recovery has nothing to lose.
    Nothing,
    /// The journal is flushed and data are not: names without bytes.
    Data,
    /// Neither is flushed: what was not synced is gone.
    DataAndJournal,
}

impl Loss {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Nothing, Self::Data, Self::DataAndJournal];

    fn flag(self) -> u32 {
        match self {
            Self::Nothing => 0,
            Self::Data => 1,
            Self::DataAndJournal => 2,
        }
    }
}

/// A file system whose power can be cut. Unmounted and detached when it is dropped.
#[derive(Debug)]
pub struct PowerCut {
    device: String,
    mounted: PathBuf,
    _folder: tempfile::TempDir,
}

/// `FS_IOC_SHUTDOWN` with its flag: there is no safe wrapper for it in Rust.
const SHUTDOWN: &str = "import fcntl,os,struct,sys\n\
fd=os.open(sys.argv[1],os.O_RDONLY)\n\
fcntl.ioctl(fd,0x8004587d,struct.pack('I',int(sys.argv[2])))";

impl PowerCut {
    /// Makes and mounts a file system of so many MiB (XFS needs 300).
    ///
    /// # Errors
    /// Without root, loop devices or the programs it takes.
    pub fn new(fs: Fs, mib: u64) -> Result<Self, Unavailable> {
        require_root()?;
        let (program, args): (_, &[&str]) = match fs {
            Fs::Ext4 => ("mkfs.ext4", &["-q", "-F"]),
            Fs::Xfs => ("mkfs.xfs", &["-q", "-f"]),
        };
        let mkfs = require_program(program)?;
        require_program("python3")?;
        let losetup = require_program("losetup")?;
        let folder = crate::scratch();
        let io = |error: std::io::Error| Unavailable(error.to_string());
        let image = folder.path().join("image");
        std::fs::File::create(&image)
            .and_then(|file| file.set_len(mib << 20))
            .map_err(io)?;
        let mounted = folder.path().join("disk");
        std::fs::create_dir(&mounted).map_err(io)?;
        run(Command::new(mkfs).args(args).arg(&image))?;
        let device = run(Command::new(losetup).args(["-f", "--show"]).arg(&image))?;
        let cut = Self {
            device,
            mounted,
            _folder: folder,
        };
        cut.mount()?;
        Ok(cut)
    }

    /// The folder of the file system.
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    /// Cuts the power. From here on the file system answers with errors.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn cut(&self, loss: Loss) {
        run(Command::new("python3")
            .args(["-c", SHUTDOWN])
            .arg(&self.mounted)
            .arg(loss.flag().to_string()))
        .unwrap_or_else(|why| panic!("{why}"));
    }

    /// Mounts it again, so that its journal is recovered. No process may use it any more.
    ///
    /// # Panics
    /// When it cannot be mounted.
    pub fn restore(&self) {
        run(Command::new("umount").arg(&self.mounted)).unwrap_or_else(|why| panic!("{why}"));
        self.mount().unwrap_or_else(|why| panic!("{why}"));
    }

    fn mount(&self) -> Result<(), Unavailable> {
        run(Command::new("mount").arg(&self.device).arg(&self.mounted)).map(|_| ())
    }
}

impl Drop for PowerCut {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mounted).output();
        let _ = Command::new("losetup").args(["-d", &self.device]).output();
    }
}
