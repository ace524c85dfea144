//! Starting a command of an attempt.

use std::{
    fs::File,
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::io::Errno;

use super::{Attempt, Pipe, Tools};
use crate::spawner::{
    cgroup::{ENTER, Group},
    exec,
    launcher::Process,
    wire::{Cmd, How},
};

pub(super) enum Refusal {
    /// It will not be better by itself.
    Final(How),
    /// It may be better in a moment.
    Passing(How),
}

impl Attempt {
    /// The command to be started, and the file that is its program.
    pub(super) fn command(
        &self,
        cmd: &Cmd,
        tools: &mut Tools,
    ) -> Result<(Command, PathBuf), Refusal> {
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
        Ok((command, file))
    }

    /// Why a command could not be started.
    pub(super) fn refused(&self, error: &io::Error, file: &Path, tools: &mut Tools) -> Refusal {
        if error.kind() == io::ErrorKind::NotFound {
            tools.programs.forget();
        }
        let argv = self.order.commands.get(self.step).map(|cmd| &cmd.argv);
        let program = argv
            .and_then(|argv| argv.first())
            .map_or("", String::as_str);
        let how = exec::explain(error, program, file, Path::new(&self.order.folder));
        if exec::is_passing(error) {
            Refusal::Passing(how)
        } else {
            Refusal::Final(how)
        }
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

    /// Takes the process, and the pipes that are read from now on.
    pub(super) fn take(&mut self, process: Process) {
        for (fd, stderr) in [(process.stdout, false), (process.stderr, true)] {
            if let Some(fd) = fd {
                self.pipes.push(Pipe {
                    file: Some(fd.into()),
                    stderr,
                });
            }
        }
        self.main = Some(process.main);
    }
}

fn pairs(env: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
    env.iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
}
