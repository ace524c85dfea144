//! A project folder with a cache of its own, and words to say what is expected of a command in it.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// The program under test.
pub(crate) fn dagrun() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_dagrun"))
}

/// A project with its cache, gone when dropped.
pub(crate) struct Project {
    pub(crate) folder: TempDir,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Project {
    /// A project with this pipeline file.
    pub(crate) fn new(pipeline: &str) -> Self {
        let project = Self {
            folder: tempfile::tempdir().expect("a temporary folder can be made"),
        };
        std::fs::create_dir(project.path("p")).unwrap();
        project.write("pipeline.yaml", pipeline);
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The project folder.
    pub(crate) fn dir(&self) -> PathBuf {
        self.path("p")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.path("cache")
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.dir().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir().join(name))
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// All files of a folder by name, with their text.
    pub(crate) fn read_any(&self, folder: &str) -> std::collections::BTreeMap<String, String> {
        let entries = std::fs::read_dir(self.dir().join(folder)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .map(|name| {
                let text = self.read(&format!("{folder}/{name}"));
                (name, text)
            })
            .collect()
    }

    pub(crate) fn read_bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.dir().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.dir().join(name).exists()
    }

    /// The command, ready to be changed and started.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(dagrun());
        self.prepare(&mut command);
        command.args(args);
        command
    }

    /// Gives a command the folder and the environment of this project.
    pub(crate) fn prepare(&self, command: &mut Command) {
        command
            .current_dir(self.dir())
            .env("DAGRUN_CACHE", self.cache())
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env_remove("NO_COLOR")
            .env_remove("DAGRUN_JOBS")
            .env_remove("DAGRUN_CACHE_MODE")
            .env_remove("DAGRUN_CACHE_SIGN")
            .env_remove("DAGRUN_CACHE_TRUST")
            .stdin(Stdio::null());
    }

    pub(crate) fn say(&self, args: &[&str]) -> Said {
        said(self.command(args).output().expect("dagrun can be started"))
    }

    /// Runs a command that has to succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> Said {
        let said = self.say(args);
        assert_eq!(
            said.code,
            0,
            "dagrun {}\n{}\n{}",
            args.join(" "),
            said.stdout,
            said.stderr
        );
        said
    }

    /// Runs a command that has to end with `code`.
    pub(crate) fn fails(&self, code: i32, args: &[&str]) -> Said {
        let said = self.say(args);
        assert_eq!(
            said.code,
            code,
            "dagrun {}\n{}\n{}",
            args.join(" "),
            said.stdout,
            said.stderr
        );
        said
    }

    /// The JSON that a command prints.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let said = self.ok(args);
        serde_json::from_str(&said.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", said.stdout))
    }

    /// `show --json` of the last run.
    pub(crate) fn last_run(&self) -> Value {
        self.json(&["show", "--json"])
    }

    /// Counts of the last run: succeeded, cached, failed, skipped, cancelled.
    pub(crate) fn counts(&self) -> [u64; 5] {
        let shown = self.last_run();
        ["succeeded", "cached", "failed", "skipped", "cancelled"].map(|name| {
            shown["counts"][name]
                .as_u64()
                .unwrap_or_else(|| panic!("{shown}"))
        })
    }

    /// Attempts started in the last run.
    pub(crate) fn executed(&self) -> u64 {
        self.last_run()["executed"].as_u64().unwrap()
    }

    /// Starts a command and does not wait for it.
    pub(crate) fn start(&self, args: &[&str]) -> Child {
        self.command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("dagrun can be started")
    }

    /// Waits until a file is there.
    pub(crate) fn wait_for(&self, name: &str) {
        for _ in 0..2_000 {
            if self.exists(name) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{name} did not appear");
    }
}

/// What an ended command said.
pub(crate) fn said(output: Output) -> Said {
    use std::os::unix::process::ExitStatusExt;
    Said {
        code: output
            .status
            .code()
            .unwrap_or_else(|| 1000 + output.status.signal().unwrap_or(0)),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Sends a signal by number.
pub(crate) fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .arg(format!("-{name}"))
        .arg(child.id().to_string())
        .status()
        .unwrap();
    assert!(status.success());
}

impl Said {
    /// All that was said has this text in it.
    pub(crate) fn has(&self, text: &str) -> &Self {
        assert!(
            self.stdout.contains(text) || self.stderr.contains(text),
            "no {text:?} in\n{}\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    pub(crate) fn has_not(&self, text: &str) -> &Self {
        assert!(
            !self.stdout.contains(text) && !self.stderr.contains(text),
            "{text:?} in\n{}\n{}",
            self.stdout,
            self.stderr
        );
        self
    }
}
