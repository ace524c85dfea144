//! Finding programs, and saying why one could not be started.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use rustc_hash::FxHashMap;
use rustix::io::Errno;

use super::wire::How;

/// What was found along PATH, remembered because nodes of a job run the same program.
#[derive(Default)]
pub(crate) struct Programs {
    found: FxHashMap<(String, String), PathBuf>,
}

impl Programs {
    /// The file to run: `program` itself where it has a slash (relative to the node's folder), else what PATH gives.
    pub(crate) fn find(&mut self, program: &str, path: &str) -> Result<PathBuf, How> {
        if program.contains('/') {
            return Ok(program.into());
        }
        let key = (path.to_owned(), program.to_owned());
        if let Some(found) = self.found.get(&key) {
            return Ok(found.clone());
        }
        let found = search(program, path)?;
        self.found.insert(key, found.clone());
        Ok(found)
    }

    /// Forgets what was found, because a file that was there is gone.
    pub(crate) fn forget(&mut self) {
        self.found.clear();
    }
}

fn search(program: &str, path: &str) -> Result<PathBuf, How> {
    let mut refused = None;
    for folder in path.split(':').filter(|folder| folder.starts_with('/')) {
        let file = Path::new(folder).join(program);
        if program.is_empty() || !file.is_file() {
            continue;
        }
        match rustix::fs::access(&file, rustix::fs::Access::EXEC_OK) {
            Ok(()) => return Ok(file),
            Err(_) => refused = Some(file),
        }
    }
    Err(match refused {
        Some(file) => How::Exec {
            program: program.into(),
            errno: "EACCES".into(),
            reason: format!("{} is not executable; run `chmod +x` on it", file.display()),
        },
        None => How::Exec {
            program: program.into(),
            errno: "ENOENT".into(),
            reason: format!("no such program in PATH ({path}); install it or give its full path"),
        },
    })
}

/// Whether another try in a moment may help.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::TXTBSY | Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOMEM)
    )
}

/// What an error of starting `program`, resolved to `file` inside `folder`, means.
pub(crate) fn explain(error: &io::Error, program: &str, file: &Path, folder: &Path) -> How {
    let file = folder.join(file);
    let errno = Errno::from_io_error(error);
    let (name, reason) = match errno {
        Some(Errno::NOENT) => ("ENOENT", missing(&file)),
        Some(Errno::ACCESS) => ("EACCES", refused(&file)),
        Some(Errno::NOEXEC) => (
            "ENOEXEC",
            "it is neither a program for this machine nor a script; begin a script with a line such as `#!/bin/sh`".into(),
        ),
        Some(Errno::TXTBSY) => ("ETXTBSY", "the file is still open for writing by some process".into()),
        Some(Errno::TOOBIG) => (
            "E2BIG",
            "its arguments and environment are too long for the system; pass a long list by `inputs.NAME.list` and a large value by a file".into(),
        ),
        Some(Errno::MFILE) => ("EMFILE", "too many open files; raise `ulimit -n`".into()),
        Some(Errno::NFILE) => ("ENFILE", "the system has too many open files".into()),
        Some(Errno::AGAIN) => ("EAGAIN", "too many processes; raise `ulimit -u` or the limit of the cgroup".into()),
        Some(Errno::NOMEM) => ("ENOMEM", "the system has no memory for another process".into()),
        Some(Errno::LOOP) => ("ELOOP", "too many links on the way to it".into()),
        Some(Errno::NOTDIR) => ("ENOTDIR", "a part of its path is not a folder".into()),
        Some(Errno::PERM) => ("EPERM", "the system does not permit it".into()),
        Some(Errno::INVAL) => ("EINVAL", "an argument or variable contains a NUL byte, or the file is no valid program".into()),
        _ => ("", error.to_string()),
    };
    let errno = if name.is_empty() {
        errno.map_or_else(
            || "unknown".into(),
            |e| format!("errno {}", e.raw_os_error()),
        )
    } else {
        name.into()
    };
    How::Exec {
        program: program.into(),
        errno,
        reason,
    }
}

fn missing(file: &Path) -> String {
    if !file.exists() {
        return "no such file; a path with a slash is looked up in the node's folder, where only declared inputs are".into();
    }
    match interpreter(file) {
        Some(name) => format!("its interpreter `{name}` (from its first line) does not exist; install it or change the line"),
        None => "the loader or a library that it names does not exist; it may be built for another system".into(),
    }
}

fn refused(file: &Path) -> String {
    if file.is_dir() {
        "it is a folder".into()
    } else if rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_err() {
        "it is not executable; run `chmod +x` on it, or name its interpreter in the command".into()
    } else {
        "the system refuses to run it: its interpreter is not executable, or the file system is mounted noexec".into()
    }
}

/// The program that the `#!` line of a script names.
fn interpreter(file: &Path) -> Option<String> {
    let mut head = [0; 256];
    let read = File::open(file).ok()?.read(&mut head).ok()?;
    let line = head[..read]
        .strip_prefix(b"#!")?
        .split(|b| *b == b'\n')
        .next()?;
    let line = String::from_utf8_lossy(line);
    Some(line.split_whitespace().next()?.to_owned())
}
