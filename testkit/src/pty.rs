//! Programs on a terminal: what they show there, and what its keys do to them.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Child, Command},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::{
    rights::copy,
    skip::{Unavailable, require_program},
};

/// A program that runs on a terminal of its own.
#[derive(Debug)]
pub struct Pty {
    terminal: File,
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Pty {
    /// Starts a command on a terminal of so many columns and rows, as the leader of its session: the terminal's keys reach it and all
    /// that it starts.
    ///
    /// # Errors
    /// Without pseudo terminals or the program `setsid`.
    pub fn start(command: &Command, columns: u16, rows: u16) -> Result<Self, Unavailable> {
        let setsid = require_program("setsid")?;
        let unavailable = |error: &dyn std::fmt::Display| Unavailable(format!("no pty: {error}"));
        let master = open().map_err(|error| unavailable(&error))?;
        resize(&master, columns, rows);
        let name = ptsname(&master, Vec::new()).map_err(|error| unavailable(&error))?;
        let slave = File::options()
            .read(true)
            .write(true)
            .open(name.to_string_lossy().as_ref())
            .map_err(|error| unavailable(&error))?;
        let mut start = Command::new(setsid);
        start.args(["--ctty", "--wait"]).arg(command.get_program());
        copy(command, &mut start);
        let end = |file: &File| file.try_clone().map_err(|error| unavailable(&error));
        let child = start
            .stdin(end(&slave)?)
            .stdout(end(&slave)?)
            .stderr(slave)
            .spawn()
            .map_err(|error| unavailable(&error))?;
        drop(start);
        let terminal = File::from(master);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let mut from = end(&terminal)?;
        let to = Arc::clone(&shown);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The end of the last process on a terminal is an error of reading.
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                to.lock()
                    .expect("nobody panics with it")
                    .extend(&buffer[..read]);
            }
        });
        Ok(Self {
            terminal,
            child,
            shown,
            reader: Some(reader),
        })
    }

    /// Presses keys: `\x03` is Ctrl-C.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn press(&mut self, keys: &str) {
        self.terminal
            .write_all(keys.as_bytes())
            .expect("the terminal is there");
    }

    /// Changes its size, which the program is told.
    pub fn resize(&self, columns: u16, rows: u16) {
        resize(&self.terminal, columns, rows);
    }

    /// All that was shown so far, control sequences included.
    ///
    /// # Panics
    /// Never, as long as its reader does not.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("nobody panics with it")).into_owned()
    }

    /// Waits for the program's end. Gives its exit code, or 128 and its signal, and all that was shown.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn wait(mut self) -> (i32, String) {
        let status = self.child.wait().expect("it was started here");
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        (status.code().unwrap_or(-1), self.shown())
    }
}

fn open() -> rustix::io::Result<OwnedFd> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    Ok(master)
}

fn resize(terminal: &impl std::os::fd::AsFd, columns: u16, rows: u16) {
    let size = Winsize {
        ws_col: columns,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // A terminal that cannot be told its size shows lines of another length, no more.
    let _ = tcsetwinsize(terminal, size);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_reach_a_program_on_a_terminal() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "trap 'echo got it; exit 9' INT; stty size; while :; do sleep 0.05; done",
        ]);
        let mut pty = crate::skip!("a pty", Pty::start(&command, 93, 31));
        while !pty.shown().contains("31 93") {
            std::thread::yield_now();
        }
        pty.press("\x03");
        let (code, shown) = pty.wait();
        assert_eq!(code, 9, "{shown}");
        assert!(shown.contains("got it"), "{shown}");
    }
}
