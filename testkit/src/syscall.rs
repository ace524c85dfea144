//! System calls that fail, or are the last: by `strace --inject`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::skip::{Unavailable, require_program};

/// What happens at which calls.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The system calls, as strace names them: `fsync,fdatasync`, or a set such as `/^rename`.
    pub calls: String,
    /// What happens: `error=EIO`, `signal=KILL`.
    pub effect: String,
    /// At which of the calls of each thread: `3`, or `3+` for all from there on.
    pub when: String,
    /// Where that is given, only calls about this file or folder count.
    pub path: Option<PathBuf>,
}

/// What came of a program that ran with a fault.
#[derive(Debug)]
pub struct Traced {
    /// Its status and what it printed.
    pub output: Output,
    /// Whether the fault was injected at all: with a `when` beyond the last call it is not.
    pub injected: bool,
    /// The calls that failed, with the paths of their files.
    pub failed: Vec<String>,
}

impl Fault {
    /// Runs `program` with the fault.
    ///
    /// # Errors
    /// Without strace, or the right to trace.
    pub fn run(&self, program: &Path, args: &[&str]) -> Result<Traced, Unavailable> {
        self.run_with(program, args, |_| {})
    }

    /// Runs `program` with the fault, after `prepare` has set up the command.
    ///
    /// # Errors
    /// Without strace, or the right to trace.
    pub fn run_with(
        &self,
        program: &Path,
        args: &[&str],
        prepare: impl FnOnce(&mut Command),
    ) -> Result<Traced, Unavailable> {
        let strace = require_program("strace")?;
        let folder = crate::scratch();
        let trace: PathBuf = folder.path().join("trace");
        let mut command = Command::new(strace);
        command
            // Threads and forks, but no other programs: what a node does is its own.
            .args(["-f", "-y", "-b", "execve", "-o"])
            .arg(&trace)
            .args(["-e", &format!("trace={}", self.calls)])
            .args([
                "-e",
                &format!("inject={}:{}:when={}", self.calls, self.effect, self.when),
            ]);
        if let Some(path) = &self.path {
            command.arg("-P").arg(path);
        }
        command.arg(program).args(args);
        prepare(&mut command);
        let output = command
            .output()
            .map_err(|error| Unavailable(format!("cannot run strace: {error}")))?;
        let text = std::fs::read_to_string(&trace).unwrap_or_default();
        let errors = String::from_utf8_lossy(&output.stderr);
        if errors.contains("Operation not permitted") && text.is_empty() {
            return Err(Unavailable("strace may not trace here".into()));
        }
        let injected = text.contains("(INJECTED)") || text.contains("killed by SIG");
        let failed = text.lines().filter(|line| line.contains("(INJECTED)"));
        Ok(Traced {
            output,
            injected,
            failed: failed.map(str::to_owned).collect(),
        })
    }
}
