//! A cluster of processes that may be cut off, stopped and killed: its coordinator, its workers with a cache each, and clients.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    net::NetLab,
    skip::{Unavailable, run},
};

/// Far more than anything takes.
const PATIENCE: Duration = Duration::from_secs(90);
const PORT: u16 = 7460;
/// The hosts of a lab: the coordinator's, that of clients, and one for each worker.
const COORDINATOR: usize = 0;
const CLIENT: usize = 1;

/// A coordinator with workers, each of which is a host of its own. All processes end when it is dropped.
#[derive(Debug)]
pub struct TestCluster {
    dagrun: PathBuf,
    lab: Option<NetLab>,
    coordinator: Option<Child>,
    workers: Vec<Option<Child>>,
    folder: TempDir,
    settings: Settings,
}

/// How the processes of a cluster are started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Slots of each worker.
    pub slots: u32,
    /// The lease that the coordinator gives, such as `2s`; none for the usual one.
    pub lease: Option<String>,
    /// Runs at the same time; none for as many as usual.
    pub runs: Option<u32>,
    /// The library that lets wall clocks of the coordinator and the workers jump, see [`TestCluster::set_clock`].
    pub clocks: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            slots: 2,
            lease: None,
            runs: None,
            clocks: None,
        }
    }
}

impl TestCluster {
    /// A cluster on this machine, which talks over a unix socket.
    ///
    /// # Panics
    /// When it cannot be started, as everything here.
    pub fn here(dagrun: &Path, workers: usize, settings: Settings) -> Self {
        Self::start(dagrun, None, workers, settings)
    }

    /// A cluster on hosts of a lab, with TLS.
    ///
    /// # Errors
    /// Where there can be no lab.
    pub fn on_hosts(
        dagrun: &Path,
        workers: usize,
        settings: Settings,
    ) -> Result<Self, Unavailable> {
        let lab = NetLab::new(workers + 2)?;
        Ok(Self::start(dagrun, Some(lab), workers, settings))
    }

    fn start(dagrun: &Path, lab: Option<NetLab>, workers: usize, settings: Settings) -> Self {
        let mut cluster = Self {
            dagrun: dagrun.into(),
            lab,
            coordinator: None,
            workers: Vec::new(),
            folder: crate::scratch(),
            settings,
        };
        cluster.certify();
        cluster.start_coordinator();
        for _ in 0..workers {
            cluster.add_worker();
        }
        cluster.wait_for_workers(workers);
        cluster
    }

    /// Makes the certificates of a cluster on hosts.
    fn certify(&self) {
        let Some(lab) = &self.lab else { return };
        let address = lab.address(COORDINATOR);
        let mut init = Command::new(&self.dagrun);
        init.args(["cluster", "init", "tls", "--host", &address])
            .current_dir(self.folder.path());
        run(&mut init).unwrap_or_else(|why| panic!("{why}"));
    }

    /// The hosts.
    ///
    /// # Panics
    /// For a cluster on this machine.
    pub fn lab(&self) -> &NetLab {
        self.lab.as_ref().expect("the cluster is on hosts of a lab")
    }

    /// The host of the coordinator in the lab.
    pub fn coordinator_host(&self) -> usize {
        COORDINATOR
    }

    /// The host of a worker in the lab.
    pub fn worker_host(&self, worker: usize) -> usize {
        worker + 2
    }

    /// Where the coordinator listens.
    pub fn address(&self) -> String {
        match &self.lab {
            Some(lab) => format!("{}:{PORT}", lab.address(COORDINATOR)),
            None => format!("unix:{}", self.path("sock/s").display()),
        }
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.dagrun
    }

    /// A path in the cluster's folder, which all hosts see.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program on a host, with the cache of that name.
    fn command(&self, host: usize, cache: &str) -> Command {
        let mut command = match &self.lab {
            Some(lab) => lab.command(host, &self.dagrun),
            None => Command::new(&self.dagrun),
        };
        command
            .current_dir(self.folder.path())
            .env("DAGRUN_CACHE", self.path(cache))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env_remove("DAGRUN_JOBS")
            .env_remove("DAGRUN_ON")
            .stdin(Stdio::null());
        command
    }

    /// Adds the certificates that `who` has, where the cluster has any.
    fn with_tls(&self, command: &mut Command, who: &str) {
        if self.lab.is_some() {
            command.arg("--tls").arg(self.path("tls").join(who));
        }
    }

    /// Gives a process a wall clock of its own, where clocks may jump. Monotonic ones stay.
    fn with_clock(&self, command: &mut Command, name: &str) {
        if let Some(library) = &self.settings.clocks {
            self.set_clock(name, "+0");
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
                .env("FAKETIME_NO_CACHE", "1")
                .env(
                    "FAKETIME_TIMESTAMP_FILE",
                    self.path(&format!("{name}.clock")),
                );
        }
    }

    /// Sets the wall clock of `coordinator` or of a worker such as `w0` so many seconds off.
    pub fn set_clock(&self, name: &str, offset: &str) {
        let path = self.path(&format!("{name}.clock"));
        let written = std::fs::write(path, format!("{offset}\n"));
        written.expect("a clock can be set");
    }

    fn log(&self, name: &str) -> File {
        let path = self.path(&format!("{name}.log"));
        let file = File::options().create(true).append(true).open(path);
        file.expect("logs can be written")
    }

    /// Starts the coordinator and waits until it answers.
    pub fn start_coordinator(&mut self) {
        let mut command = self.command(COORDINATOR, "coordinator");
        command
            .args(["serve", "--listen", &self.address(), "--state"])
            .arg(self.path("state"))
            .stderr(self.log("coordinator"));
        if let Some(lease) = &self.settings.lease {
            command.args(["--lease", lease]);
        }
        if let Some(runs) = self.settings.runs {
            command.args(["--runs", &runs.to_string()]);
        }
        self.with_clock(&mut command, "coordinator");
        self.with_tls(&mut command, "server");
        self.coordinator = Some(command.spawn().expect("dagrun can be started"));
        self.wait_until("the coordinator answers", |cluster| {
            cluster.say(&["cluster", "status"]).status.success()
        });
    }

    /// Starts one worker more, whose cache is in another place.
    pub fn add_worker_at(&mut self, cache: &Path) {
        let link = self.path(&worker_name(self.workers.len()));
        std::os::unix::fs::symlink(cache, link).expect("it is not there yet");
        self.add_worker();
    }

    /// Starts one worker more.
    pub fn add_worker(&mut self) {
        self.workers.push(None);
        self.start_worker(self.workers.len() - 1);
    }

    /// Starts a worker that is not there.
    pub fn start_worker(&mut self, worker: usize) {
        let name = worker_name(worker);
        let mut command = self.command(self.worker_host(worker), &name);
        command
            .args(["worker", "--connect", &self.address(), "--name", &name])
            .args(["--slots", &self.settings.slots.to_string()])
            .stderr(self.log(&name));
        self.with_clock(&mut command, &name);
        self.with_tls(&mut command, "clients/worker");
        let child = command.spawn().expect("dagrun can be started");
        assert!(self.workers[worker].replace(child).is_none(), "{name} runs");
    }

    /// kill -9 of the coordinator.
    pub fn kill_coordinator(&mut self) {
        end(self.coordinator.take());
    }

    /// kill -9 of a worker.
    pub fn kill_worker(&mut self, worker: usize) {
        end(self.workers[worker].take());
    }

    /// Waits for the end of a worker that goes by itself.
    pub fn wait_for_end_of(&mut self, worker: usize) {
        wait_for(self.workers[worker].take());
    }

    /// Stops the coordinator in order; whether it ended well.
    pub fn stop_coordinator(&mut self) -> bool {
        let pid = self.coordinator().id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        wait_for(self.coordinator.take())
    }

    /// The process of the coordinator.
    ///
    /// # Panics
    /// When it does not run.
    pub fn coordinator(&self) -> &Child {
        self.coordinator.as_ref().expect("the coordinator runs")
    }

    /// The process of a worker.
    ///
    /// # Panics
    /// When it does not run.
    pub fn worker(&self, worker: usize) -> &Child {
        self.workers[worker].as_ref().expect("the worker runs")
    }

    /// A client's command on a project's folder, ready to be started.
    pub fn client(&self, project: &Path, args: &[&str]) -> Command {
        let mut command = self.command(CLIENT, "client");
        command
            .current_dir(project)
            .args(args)
            .args(["--on", &self.address()]);
        self.with_tls(&mut command, "clients/submit");
        command
    }

    /// A command on one of the cluster's caches: `coordinator`, or that of a worker.
    pub fn on_cache(&self, cache: &str, args: &[&str]) -> Command {
        let mut command = self.command(COORDINATOR, cache);
        command.args(args);
        command
    }

    /// Says something to the coordinator, and takes the answer.
    pub fn say(&self, args: &[&str]) -> Output {
        let mut command = self.client(self.folder.path(), args);
        command.output().expect("dagrun can be started")
    }

    /// `dagrun cluster status --json`; nothing while the coordinator does not answer.
    pub fn status(&self) -> Value {
        let said = self.say(&["cluster", "status", "--json"]);
        serde_json::from_slice(&said.stdout).unwrap_or_default()
    }

    /// What the coordinator says of a worker: `here`, `leaving`, `silent`, `lost`.
    pub fn state_of(&self, worker: usize) -> String {
        let (status, name) = (self.status(), worker_name(worker));
        let rows = status["workers"].as_array();
        let row = rows.into_iter().flatten().rfind(|row| row["name"] == *name);
        row.map_or(String::new(), |row| {
            row["state"].as_str().unwrap_or_default().into()
        })
    }

    /// Waits until so many workers are there.
    pub fn wait_for_workers(&self, workers: usize) {
        self.wait_until("all workers are there", |cluster| {
            let status = cluster.status();
            let rows = status["workers"].as_array();
            // One that broke off is awaited for a while; until then it may be given something.
            rows.is_some_and(|rows| {
                rows.len() == workers && rows.iter().all(|row| row["state"] == "here")
            })
        });
    }

    /// Waits for something.
    ///
    /// # Panics
    /// When it takes too long.
    pub fn wait_until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !done(self) {
            assert!(
                began.elapsed() < PATIENCE,
                "waited in vain until {what}\n{}",
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What all processes have said.
    pub fn logs(&self) -> String {
        let workers = (0..self.workers.len()).map(worker_name);
        let names = std::iter::once("coordinator".to_owned()).chain(workers);
        let log = |name: String| {
            let path = self.path(&format!("{name}.log"));
            let text = std::fs::read(path).unwrap_or_default();
            format!("== {name}\n{}", String::from_utf8_lossy(&text))
        };
        names.map(log).collect()
    }

    /// Hashes everything in the coordinator's cache, which nobody uses meanwhile.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify_cache(&mut self) -> Result<(), String> {
        self.kill_coordinator();
        let said = self.on_cache("coordinator", &["cache", "verify"]).output();
        let said = said.map_err(|error| error.to_string())?;
        if said.status.success() {
            return Ok(());
        }
        Err(format!("the coordinator's cache: {said:?}"))
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            end(worker.take());
        }
        end(self.coordinator.take());
    }
}

fn worker_name(worker: usize) -> String {
    format!("w{worker}")
}

fn wait_for(child: Option<Child>) -> bool {
    let mut child = child.expect("it runs");
    child.wait().expect("it can be waited for").success()
}

fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        let _ = child.kill();
        let _ = child.wait();
    }
}
