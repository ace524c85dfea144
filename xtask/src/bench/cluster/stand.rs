//! A cluster of real processes: a coordinator, and workers that are hosts of their own.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::stamps::descends;
use crate::bench::Bench;

/// How long anything may take: a hundred thousand nodes too.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often one looks.
const LOOK: Duration = Duration::from_millis(5);

/// A coordinator with its workers; all are killed when it is dropped.
pub(super) struct Stand {
    dagrun: PathBuf,
    folder: PathBuf,
    address: String,
    coordinator: Option<Child>,
    workers: Vec<Host>,
    /// Stores that were taken from workers.
    taken: u32,
}

struct Host {
    name: String,
    args: Vec<String>,
    child: Child,
}

/// A run that is over.
pub(super) struct Ran {
    /// Wall seconds of the client's process, from its start to its end.
    pub(super) wall: f64,
    /// CPU seconds of the coordinator meanwhile.
    pub(super) coordinator_cpu: f64,
}

impl Stand {
    /// Starts a coordinator and a worker for each list of arguments; returns when all have joined.
    pub(super) fn start(bench: &Bench, name: &str, workers: &[&[&str]]) -> Result<Self, String> {
        let mut stand = Self {
            dagrun: bench.dagrun.clone(),
            folder: bench.folder(name)?,
            address: format!("127.0.0.1:{}", free_port()?),
            coordinator: None,
            workers: Vec::new(),
            taken: 0,
        };
        stand.start_coordinator()?;
        stand.wait_until("the coordinator answers", |stand| stand.status().is_some())?;
        for (ix, args) in workers.iter().enumerate() {
            stand.add_worker(&format!("w{}", ix + 1), args)?;
        }
        stand.wait_for_workers(workers.len())?;
        Ok(stand)
    }

    /// A folder of this stand.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn start_coordinator(&mut self) -> Result<(), String> {
        let mut command = self.command("coordinator", "coordinator")?;
        command.args(["serve", "--listen", &self.address, "--state"]);
        command.arg(self.path("state"));
        self.coordinator = Some(spawn(&mut command)?);
        Ok(())
    }

    pub(super) fn add_worker(&mut self, name: &str, args: &[&str]) -> Result<(), String> {
        let child = self.worker(name, args)?;
        self.workers.push(Host {
            name: name.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            child,
        });
        Ok(())
    }

    /// Ends a worker, takes its store from it, and starts it again; where the store lies now.
    pub(super) fn renew_worker(&mut self, ix: usize) -> Result<PathBuf, String> {
        let Host { name, args, child } = &mut self.workers[ix];
        end(child);
        let (name, args) = (name.clone(), args.clone());
        self.wait_for_workers(self.workers.len() - 1)?;
        let cache = self.path(&format!("cache-{name}"));
        self.taken += 1;
        let aside = self.path(&format!("taken-{}", self.taken));
        fs::rename(&cache, &aside)
            .map_err(|error| format!("cannot take {}: {error}", cache.display()))?;
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.workers[ix].child = self.worker(&name, &args)?;
        self.wait_for_workers(self.workers.len())?;
        Ok(aside)
    }

    fn worker(&self, name: &str, args: &[&str]) -> Result<Child, String> {
        let mut command = self.command(name, name)?;
        command.args(["worker", "--connect", &self.address, "--name", name]);
        command.args(args);
        spawn(&mut command)
    }

    fn command(&self, cache: &str, log: &str) -> Result<Command, String> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("{log}.log")))
            .map_err(|error| format!("cannot open a log: {error}"))?;
        let mut command = Command::new(&self.dagrun);
        command
            .current_dir(&self.folder)
            .env("DAGRUN_CACHE", self.path(&format!("cache-{cache}")))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env_remove("DAGRUN_JOBS")
            .env_remove("DAGRUN_ON")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        Ok(command)
    }

    /// A command of the client, in a project.
    pub(super) fn client(&self, project: &Path, args: &[&str]) -> Result<Command, String> {
        let mut command = self.command("client", "client")?;
        command.current_dir(project).args(args);
        command.args(["--on", &self.address, "--quiet", "--color", "never"]);
        Ok(command)
    }

    /// A project with a pipeline.
    pub(super) fn project(&self, pipeline: &str) -> Result<PathBuf, String> {
        let folder = self.path("project");
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(folder.join("pipeline.yaml"), pipeline))
            .map_err(|error| format!("cannot write a pipeline: {error}"))?;
        Ok(folder)
    }

    /// Begins to run a project's pipeline, and does not wait.
    pub(super) fn submit(&self, project: &Path) -> Result<Child, String> {
        spawn(&mut self.client(project, &["run", "pipeline.yaml"])?)
    }

    pub(super) fn kill_coordinator(&mut self) {
        self.coordinator.iter_mut().for_each(end);
    }

    /// Kills the worker that a process descends from.
    pub(super) fn kill_worker_of(&mut self, pid: u32) -> Result<(), String> {
        let mut workers = self.workers.iter_mut();
        let worker = workers.find(|host| descends(pid, host.child.id()));
        let worker = worker.ok_or("the process is of no worker")?;
        end(&mut worker.child);
        Ok(())
    }

    /// Runs a project's pipeline to its end.
    pub(super) fn run(&self, project: &Path, args: &[&str]) -> Result<Ran, String> {
        let args: Vec<&str> = ["run", "pipeline.yaml"]
            .iter()
            .chain(args)
            .copied()
            .collect();
        let mut command = self.client(project, &args)?;
        let before = self.coordinator_cpu()?;
        let began = Instant::now();
        let status = command.status().map_err(|error| error.to_string())?;
        let wall = began.elapsed().as_secs_f64();
        if !status.success() {
            return Err(format!("the run failed: {status}; {}", self.logs()));
        }
        Ok(Ran {
            wall,
            coordinator_cpu: self.coordinator_cpu()? - before,
        })
    }

    /// The journal of a project's last run, as it lies there in the end: records are JSON with a frame around each.
    pub(super) fn journal(&self, project: &Path) -> Result<String, String> {
        let runs = fs::read_dir(project.join(".dagrun/runs")).map_err(|error| error.to_string())?;
        let newest = runs.flatten().map(|run| run.path()).max();
        let path = newest.ok_or("there is no run")?.join("journal.log");
        let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// CPU seconds of the coordinator's process so far.
    pub(super) fn coordinator_cpu(&self) -> Result<f64, String> {
        cpu_of(self.coordinator.as_ref().map_or(0, Child::id))
    }

    fn status(&self) -> Option<Value> {
        let args = ["cluster", "status", "--json"];
        let output = self
            .client(&self.folder, &args)
            .ok()?
            .stdout(Stdio::piped())
            .output()
            .ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Waits until so many workers are there.
    pub(super) fn wait_for_workers(&self, wanted: usize) -> Result<(), String> {
        self.wait_until("the workers have joined", |stand| {
            let status = stand.status().unwrap_or_default();
            let rows = status["workers"].as_array();
            let here = |row: &&Value| row["state"] == "here";
            rows.map_or(0, |rows| rows.iter().filter(here).count()) == wanted
        })
    }

    /// Waits for a condition.
    pub(super) fn wait_until(
        &self,
        what: &str,
        done: impl Fn(&Self) -> bool,
    ) -> Result<(), String> {
        let began = Instant::now();
        while !done(self) {
            if began.elapsed() > PATIENCE {
                return Err(format!("waited in vain until {what}; {}", self.logs()));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// The ends of all logs.
    fn logs(&self) -> String {
        let workers = self.workers.iter().map(|host| host.name.as_str());
        let names = ["client", "coordinator"].into_iter().chain(workers);
        let ends = names.map(|name| {
            let text = fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(4).collect();
            format!("{name}: {}", lines.join(" / "))
        });
        ends.collect::<Vec<_>>().join("; ")
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        let workers = self.workers.iter_mut().map(|host| &mut host.child);
        for child in workers.chain(&mut self.coordinator) {
            end(child);
        }
    }
}

/// kill -9.
pub(super) fn end(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

fn spawn(command: &mut Command) -> Result<Child, String> {
    command
        .spawn()
        .map_err(|error| format!("cannot start dagrun: {error}"))
}

/// A port of the loopback that nobody has.
pub(super) fn free_port() -> Result<u16, String> {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    port.map(|at| at.port())
        .map_err(|error| format!("no port is free: {error}"))
}

/// CPU seconds of a process that lives: fields 14 and 15 of its `stat`.
fn cpu_of(pid: u32) -> Result<f64, String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_err(|error| format!("process {pid} is not there: {error}"))?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<f64> = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse().ok())
        .collect();
    Ok(fields.iter().sum::<f64>() / 100.0)
}
