//! Tests that cannot run here, and how they say so.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
};

/// What the machine lacks for a fault to be injected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable(pub String);

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

static SKIPPED: AtomicU64 = AtomicU64::new(0);

/// Tests of this process that were skipped.
pub fn skipped() -> u64 {
    SKIPPED.load(Ordering::Relaxed)
}

/// Says on the real standard error that a test was skipped, counts it, and adds it to the file in `DAGRUN_SKIPPED_FILE`.
///
/// # Panics
/// Where `DAGRUN_NO_SKIP` is set: on machines that must be able to run everything.
pub fn report_skipped(name: &str, why: &str) {
    SKIPPED.fetch_add(1, Ordering::Relaxed);
    let line = format!("SKIPPED {name}: {why}\n");
    assert!(std::env::var_os("DAGRUN_NO_SKIP").is_none(), "{line}");
    // The test harness captures what the print macros write.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("DAGRUN_SKIPPED_FILE") {
        let file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

/// Takes the value of a `Result<T, Unavailable>`, or skips the test: `let disk = skip!("F09", SmallDisk::new(..));`.
#[macro_export]
macro_rules! skip {
    ($name:expr, $tool:expr) => {
        match $tool {
            Ok(value) => value,
            Err(why) => {
                $crate::report_skipped($name, &why.to_string());
                return;
            }
        }
    };
}

/// Finds a program in `PATH`.
///
/// # Errors
/// When it is not there.
pub fn require_program(name: &str) -> Result<PathBuf, Unavailable> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .ok_or_else(|| Unavailable(format!("needs the program {name}")))
}

/// # Errors
/// When the test does not run as root.
pub fn require_root() -> Result<(), Unavailable> {
    if rustix::process::geteuid().is_root() {
        Ok(())
    } else {
        Err(Unavailable("needs root".into()))
    }
}

/// # Errors
/// Where files of a folder can share their extents, so that large files are never given away but shared.
pub fn require_plain_copies(folder: &Path) -> Result<(), Unavailable> {
    let (one, two) = (folder.join("extents-1"), folder.join("extents-2"));
    std::fs::write(&one, [1; 4096]).map_err(|error| Unavailable(error.to_string()))?;
    let mut copy = Command::new("cp");
    let shared = run(copy.arg("--reflink=always").args([&one, &two])).is_ok();
    let _ = std::fs::remove_file(one);
    let _ = std::fs::remove_file(two);
    match shared {
        true => Err(Unavailable("needs a file system without reflinks".into())),
        false => Ok(()),
    }
}

/// Runs a program that has to succeed; its error output is the reason where it does not.
pub(crate) fn run(command: &mut Command) -> Result<String, Unavailable> {
    let output = command
        .output()
        .map_err(|error| Unavailable(format!("cannot run {command:?}: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(Unavailable(format!(
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}
