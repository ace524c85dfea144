//! Starting a command of an attempt.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::Path,
    process::{Command, Stdio},
};

use rustix::io::Errno;

use super::{Attempt, Main, Pipe, Tools};
use crate::spawner::{
    cgroup::{ENTER, Group},
    exec,
    wire::{Cmd, How},
};

pub(super) enum Refusal {
    /// It will not be better by itself.
    Final(How),
    /// It may be better in a moment.
    Passing(How),
}

impl Attempt {
    pub(super) fn spawn(&mut self, cmd: &Cmd, tools: &mut Tools) -> Result<(), Refusal> {
        let program = cmd.argv.first().map_or("", String::as_str);
        let path = [&cmd.env, &self.order.env, &tools.env]
            .into_iter()
            .find_map(|env| env.iter().rev().find(|(name, _)| name == "PATH"))
            .map_or("/usr/local/bin:/usr/bin:/bin", |(_, value)| value);
        let file = tools.programs.find(program, path).map_err(Refusal::Final)?;
        let mut command = match &self.group {
            None => Command::new(&file),
            Some(group) => self.through(group, &file),
        };
        match &self.group {
            None => command.arg0(program),
            Some(_) => command.arg(program),
        };
        command
            .args(cmd.argv.iter().skip(1))
            .env_clear()
            .envs(pairs(&tools.env))
            .envs(pairs(&self.order.env))
            .envs(pairs(&cmd.env))
            .current_dir(&self.order.folder)
            .process_group(0)
            .stdin(Stdio::inherit())
            .stdout(self.stdout_target()?)
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                tools.programs.forget();
            }
            let how = exec::explain(&error, program, &file, Path::new(&self.order.folder));
            if exec::is_passing(&error) {
                Refusal::Passing(how)
            } else {
                Refusal::Final(how)
            }
        })?;
        self.watch(child.stdout.take().map(OwnedFd::from), false);
        self.watch(child.stderr.take().map(OwnedFd::from), true);
        let pid = child.id() as i32;
        self.main = Some(Main {
            pid,
            handle: handle(pid),
        });
        Ok(())
    }

    /// This program, told to enter the group and become `file`.
    fn through(&self, group: &Group, file: &Path) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.args(["__spawner", ENTER]).arg(group.procs());
        command.arg(self.exec_error_file()).arg(file);
        command
    }

    pub(super) fn exec_error_file(&self) -> String {
        format!("{}exec", self.order.scratch)
    }

    fn stdout_target(&self) -> Result<Stdio, Refusal> {
        let Some(path) = &self.order.stdout else {
            return Ok(Stdio::piped());
        };
        let file = File::options().append(true).create(true).open(path);
        file.map(Stdio::from)
            .map_err(|error| match Errno::from_io_error(&error) {
                Some(Errno::NOSPC | Errno::DQUOT) => Refusal::Final(How::DiskFull(path.clone())),
                Some(Errno::MFILE | Errno::NFILE) => Refusal::Passing(How::Trouble(format!(
                    "cannot open `{path}`: {error}; raise `ulimit -n`"
                ))),
                _ => Refusal::Final(How::Trouble(format!(
                    "cannot open `{path}` for the standard output: {error}"
                ))),
            })
    }

    fn watch(&mut self, fd: Option<OwnedFd>, stderr: bool) {
        let Some(fd) = fd else { return };
        // A pipe that stays blocking would only cost a late answer, so the error does not matter.
        let _ = rustix::fs::fcntl_setfl(&fd, rustix::fs::OFlags::NONBLOCK);
        self.pipes.push(Pipe {
            file: Some(fd.into()),
            stderr,
        });
    }
}

fn pairs(env: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
    env.iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
}

#[cfg(target_os = "linux")]
fn handle(pid: i32) -> Option<OwnedFd> {
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

#[cfg(not(target_os = "linux"))]
fn handle(_: i32) -> Option<OwnedFd> {
    None
}
