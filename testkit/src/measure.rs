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

/// Runs a command to its end.
///
/// # Errors
/// When it cannot be started, or its output has no place.
pub fn measure(command: &mut Command) -> io::Result<Measured> {
    // Files, so that nothing has to read while it is waited for.
    let folder = crate::scratch();
    let place = |name: &str| File::create(folder.path().join(name)).map(Stdio::from);
    command
        .stdin(Stdio::null())
        .stdout(place("out")?)
        .stderr(place("err")?);
    let began = Instant::now();
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).expect("process ids are small");
    let reaped = loop {
        match dagrun_sys::reap(pid)? {
            Some(reaped) => break reaped,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    let wall = began.elapsed();
    let said = |name: &str| std::fs::read(folder.path().join(name));
    Ok(Measured {
        output: Output {
            status: reaped.status,
            stdout: said("out")?,
            stderr: said("err")?,
        },
        wall,
        peak: reaped.peak_memory,
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
