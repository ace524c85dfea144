//! Programs that copy files from host to host: each with its server on the loopback.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::stand::{end, free_port};
use crate::{bench::peers, tools::run};

/// Copies what a server has into an empty folder.
pub(super) trait Copier {
    /// The command that does.
    fn command(&self, target: &Path) -> Command;
}

/// A server that ends when it is dropped.
struct Server(Child);

impl Server {
    fn start(command: &mut Command, port: u16) -> Result<Self, String> {
        let silent = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = Self(
            silent
                .spawn()
                .map_err(|error| format!("cannot start a server: {error}"))?,
        );
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if began.elapsed() > Duration::from_secs(10) {
                return Err("the server does not listen".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// rsync from its own daemon.
pub(super) struct Rsync {
    _server: Server,
    port: u16,
    /// Whether what was written has to be on disk in the end.
    fsync: bool,
}

impl Rsync {
    /// Serves a folder.
    pub(super) fn start(source: &Path, fsync: bool) -> Result<Box<dyn Copier>, String> {
        let rsync = peers::program("rsync").ok_or("no `rsync` here")?;
        let port = free_port()?;
        let config = source.with_extension(format!("{port}.conf"));
        let text = format!(
            "use chroot = no\naddress = 127.0.0.1\nport = {port}\n[source]\npath = {}\nread only = yes\nuid = {}\ngid = {}\n",
            source.display(),
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw(),
        );
        fs::write(&config, text).map_err(|error| error.to_string())?;
        let mut command = Command::new(rsync);
        command
            .args(["--daemon", "--no-detach", "--config"])
            .arg(&config);
        let server = Server::start(&mut command, port)?;
        Ok(Box::new(Self {
            _server: server,
            port,
            fsync,
        }))
    }
}

impl Copier for Rsync {
    fn command(&self, target: &Path) -> Command {
        let mut command = Command::new("rsync");
        command.args(["-r", "--whole-file"]);
        command.args(self.fsync.then_some("--fsync"));
        command.arg(format!("rsync://127.0.0.1:{}/source/o", self.port));
        command.arg(target);
        command
    }
}

/// scp from an sshd with keys of its own.
pub(super) struct Scp {
    _server: Server,
    port: u16,
    source: PathBuf,
    key: PathBuf,
}

impl Scp {
    /// Serves whatever its user can read.
    pub(super) fn start(source: &Path) -> Result<Box<dyn Copier>, String> {
        let sshd = "/usr/sbin/sshd";
        if !Path::new(sshd).exists() {
            return Err("no `sshd` here".into());
        }
        let port = free_port()?;
        let folder = source.with_extension(format!("{port}.ssh"));
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let key = folder.join("key");
        run(
            "ssh-keygen",
            &[
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-f",
                &key.display().to_string(),
            ],
        )?;
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {0}\nAuthorizedKeysFile {0}.pub\nStrictModes no\nUsePAM no\nPidFile none\n\
             PermitRootLogin yes\nSubsystem sftp internal-sftp\n",
            key.display()
        );
        let file = folder.join("config");
        fs::write(&file, config).map_err(|error| error.to_string())?;
        // It wants this folder when root starts it, and its package makes it at boot.
        let _ = fs::create_dir_all("/run/sshd");
        let server = Server::start(Command::new(sshd).args(["-D", "-f"]).arg(&file), port)?;
        Ok(Box::new(Self {
            _server: server,
            port,
            source: source.to_owned(),
            key,
        }))
    }
}

impl Copier for Scp {
    fn command(&self, target: &Path) -> Command {
        let mut command = Command::new("scp");
        command
            .args(["-q", "-r", "-P", &self.port.to_string(), "-i"])
            .arg(&self.key);
        for option in [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "BatchMode=yes",
        ] {
            command.args(["-o", option]);
        }
        command.arg(format!("127.0.0.1:{}", self.source.join("o").display()));
        command.arg(target);
        command
    }
}
