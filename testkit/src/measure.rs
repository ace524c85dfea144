//! What a command takes: time and memory.

use std::{
    fs::File,
    io,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// A command that ended, with what it took.
#[derive(Debug)]
pub struct Measured {
    /// What it said.
    pub output: Output,
    /// From start to end.
    pub wall: Duration,
    /// The greatest resident memory of it or any process that it waited for, in bytes.
    pub peak: u64,
}

/// Starts a command and tells its peak. The kernel counts to a process what its parent had when it was started, and tests that run in
/// one process have much; so a small one comes between.
const BETWEEN: &str = "
import os, sys
pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
with open(sys.argv[1], 'w') as file:
    file.write(str(usage.ru_maxrss))
if os.WIFSIGNALED(status):
    os.kill(os.getpid(), os.WTERMSIG(status))
os._exit(os.WEXITSTATUS(status))
";

/// Runs a command to its end; by Python, so it has to be there.
///
/// # Errors
/// When it cannot be started, or its output has no place.
pub fn measure(command: &mut Command) -> io::Result<Measured> {
    // Files, so that nothing has to read while it is waited for.
    let folder = crate::scratch();
    let place = |name: &str| File::create(folder.path().join(name)).map(Stdio::from);
    let mut between = Command::new("python3");
    between
        .args(["-c", BETWEEN])
        .arg(folder.path().join("peak"));
    between.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => between.env(name, value),
            None => between.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        between.current_dir(folder);
    }
    let began = Instant::now();
    let status = between
        .stdin(Stdio::null())
        .stdout(place("out")?)
        .stderr(place("err")?)
        .status()?;
    let wall = began.elapsed();
    let said = |name: &str| std::fs::read(folder.path().join(name));
    let peak = String::from_utf8_lossy(&said("peak")?).parse::<u64>();
    Ok(Measured {
        output: Output {
            status,
            stdout: said("out")?,
            stderr: said("err")?,
        },
        wall,
        peak: peak.map_err(io::Error::other)? << 10,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_memory_are_those_of_the_command() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; sleep 0.1; exit 3"]);
        let measured = measure(&mut command).unwrap();
        assert_eq!(measured.output.status.code(), Some(3));
        assert_eq!(measured.output.stdout, b"out\n");
        assert_eq!(measured.output.stderr, b"err\n");
        assert!(measured.wall >= Duration::from_millis(100));
        assert!(
            (100 << 10..1 << 30).contains(&measured.peak),
            "{measured:?}"
        );
    }
}
