//! What a coordinator has of this project and this machine lacks: results and bytes of runs that were executed there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use dagrun_cluster::{
    blobs::{FetchOptions, Fetcher, Hints, Peer, Peers},
    runs::CallError,
};
use dagrun_events::{Record, RunState};
use dagrun_model::{ActionDigest, RunId, id_file_name};
use dagrun_plan::Plan;
use dagrun_proto::v1::RunRow;
use dagrun_run::{Force, History, NodePreview, Workspace, preview_elsewhere, read_study};
use dagrun_store::Store;
use dagrun_study::StudyRecord;
use serde::{Deserialize, Serialize};

use super::{Remote, call_error, submit::user};
use crate::{
    args::{Coordinator, Credentials, Global},
    commands::run_error,
    error::{CliError, Context},
    resolve::{Elsewhere, Resolved},
    say, trial,
};

/// Runs of a project that are looked at, at most.
const NEWEST: usize = 20;

/// Which runs of a project are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Those whose journals are not here.
    Newer,
    /// The last one of each pipeline that has begun.
    Last,
}

/// A run on a coordinator whose journal is not here.
pub(crate) struct RunThere {
    /// Its number there.
    pub(crate) number: String,
    pub(crate) is_over: bool,
    /// What it has come to so far.
    pub(crate) state: RunState,
}

impl RunThere {
    /// Whether a person means it: by its number, or by its id.
    pub(crate) fn is(&self, run: &str) -> bool {
        let id = self
            .state
            .started
            .as_ref()
            .map(|started| started.run.as_str());
        self.number == run || id == Some(run)
    }
}

/// The studies of a project as a coordinator has them.
pub(crate) struct StudiesThere {
    /// The run that has gone on with them last, and where, for people.
    pub(crate) origin: String,
    /// Their logs, by the names of their folders.
    logs: BTreeMap<String, Vec<u8>>,
    /// The pipeline of the run that goes on there.
    live: Option<String>,
    /// The trials of which nodes run there.
    running: BTreeSet<u64>,
}

impl StudiesThere {
    /// The folders of all that have a log there.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.logs.keys()
    }

    /// The records of one; none where it is not there.
    pub(crate) fn records(&self, folder: &str) -> Result<Option<Vec<StudyRecord>>, CliError> {
        let read = |log: &Vec<u8>| read_study(log, Path::new(folder)).map_err(run_error);
        let log = self.logs.get(folder).map(read).transpose()?;
        Ok(log.map(|log| log.records))
    }

    /// The trials of which nodes run there.
    pub(crate) fn running(&self) -> BTreeSet<u64> {
        self.running.clone()
    }

    /// Whether a run goes on with one now.
    pub(crate) fn is_live(&self, folder: &str) -> bool {
        let pipeline = self.live.as_deref();
        pipeline.is_some_and(|pipeline| id_file_name(pipeline) == folder)
    }
}

/// A coordinator that is asked for what is not here.
pub(crate) struct Afar(Remote);

impl Afar {
    /// Connects to the coordinator that is named, else to that of the last run of this project that was executed on one, else to that of
    /// the settings. Nothing where there is none.
    pub(crate) fn connect(
        flags: &Coordinator,
        workspace: &Workspace,
        global: &Global,
    ) -> Result<Option<Self>, CliError> {
        let origin = match &flags.on {
            Some(_) => None,
            None => Origin::of_last_run(workspace),
        };
        let remote = match origin {
            Some(origin) => Remote::connect(&origin.coordinator(&flags.credentials), global)?,
            None if flags.on.is_none() && !Remote::is_named(global)? => return Ok(None),
            None => Remote::connect(flags, global)?,
        };
        Ok(Some(Self(remote)))
    }

    /// Connects to the coordinator that executed a run; nothing where it was executed here.
    pub(crate) fn of_run(
        workspace: &Workspace,
        run: &RunId,
        global: &Global,
    ) -> Result<Option<Self>, CliError> {
        let Some(origin) = Origin::of(workspace, run) else {
            return Ok(None);
        };
        let given = Credentials {
            tls: None,
            token_file: None,
        };
        let remote = Remote::connect(&origin.coordinator(&given), global)?;
        Ok(Some(Self(remote)))
    }

    /// Connects to the coordinator that is named by a flag, the environment or settings. One that settings name and that does not answer
    /// is said and left: what is here is here.
    pub(crate) fn of_project(
        flags: &Coordinator,
        global: &Global,
    ) -> Result<Option<Self>, CliError> {
        if flags.on.is_some() {
            return Ok(Some(Self(Remote::connect(flags, global)?)));
        }
        if !Remote::is_named(global)? {
            return Ok(None);
        }
        match Remote::connect_within(Duration::ZERO, flags, global) {
            Ok(remote) => Ok(Some(Self(remote))),
            Err(error) => {
                say!("{}; only what is here is looked at", error.message);
                Ok(None)
            }
        }
    }

    /// Connects to the coordinator that executed the last run of a project that was executed on one, if it is there now.
    pub(crate) fn of_last_run(workspace: &Workspace, global: &Global) -> Option<Self> {
        let none = Credentials {
            tls: None,
            token_file: None,
        };
        let coordinator = Origin::of_last_run(workspace)?.coordinator(&none);
        let remote = Remote::connect_within(Duration::ZERO, &coordinator, global);
        remote.ok().map(Self)
    }

    /// As it was named.
    pub(crate) fn address(&self) -> &str {
        &self.0.address
    }

    /// The newest runs of a project there, as far as their journals are not here, newest first: what was submitted and left, or goes on.
    pub(crate) fn newer_runs(&mut self, workspace: &Workspace) -> Result<Vec<RunThere>, CliError> {
        self.runs(workspace, Which::Newer)
    }

    fn runs(&mut self, workspace: &Workspace, which: Which) -> Result<Vec<RunThere>, CliError> {
        let Ok(project) = workspace.project().canonicalize() else {
            return Ok(Vec::new());
        };
        let project = project.display().to_string();
        let here = workspace.journaled_runs();
        let Remote {
            runtime, client, ..
        } = &mut self.0;
        let rows = match runtime.block_on(client.list(true)) {
            // Whoever may not see them has what is here.
            Err(CallError::Forbidden(_)) => return Ok(Vec::new()),
            rows => rows.map_err(call_error)?,
        };
        let is_wanted = |row: &RunRow| {
            let began = which == Which::Newer || row.state != "queued";
            began && row.project == project && row.user == user()
        };
        let mut pipelines = BTreeSet::new();
        let mut found = Vec::new();
        for row in rows.into_iter().rev().filter(is_wanted).take(NEWEST) {
            if which == Which::Last && !pipelines.insert(row.pipeline.clone()) {
                continue;
            }
            let records = match runtime.block_on(client.records(&row.run)) {
                Err(CallError::Forbidden(_)) => continue,
                records => records.map_err(call_error)?,
            };
            let records = records.iter().map(|bytes| Record::from_json(bytes));
            let records: Vec<Record> = records.filter_map(Result::ok).collect();
            let state = RunState::fold(&records);
            let run = state.started.as_ref().map(|started| started.run.as_str());
            let is_here = here.iter().any(|known| Some(known.0.as_str()) == run);
            if is_here && which == Which::Newer {
                break;
            }
            let is_over = !matches!(row.state.as_str(), "queued" | "running");
            found.push(RunThere {
                number: row.run,
                is_over,
                state,
            });
        }
        Ok(found)
    }

    /// The studies of a project there; nothing where none has run there. A coordinator that only settings name has a say where a run
    /// of the project goes on there or was left to it: else what is here is the newest.
    pub(crate) fn studies(
        &mut self,
        flags: &Coordinator,
        workspace: &Workspace,
    ) -> Result<Option<StudiesThere>, CliError> {
        let which = match flags.on {
            Some(_) => Which::Last,
            None => Which::Newer,
        };
        let runs = self.runs(workspace, which)?;
        let begun = || runs.iter().filter(|run| run.state.started.is_some());
        let Some(newest) = begun().next() else {
            return Ok(None);
        };
        let mut going_on = begun().filter(|run| !run.is_over);
        let going_on = going_on.next().map(|run| &run.state);
        let started = going_on.and_then(|state| state.started.as_ref());
        let live = started.map(|started| started.pipeline.clone());
        let running = going_on.map(trial::running).unwrap_or_default();
        let Remote {
            runtime, client, ..
        } = &mut self.0;
        let mut logs = BTreeMap::new();
        for run in runs.iter().filter(|run| run.state.started.is_some()) {
            let found = runtime.block_on(client.studies(&run.number));
            for (folder, log) in found.map_err(call_error)? {
                // That of the newest run is as new as any.
                logs.entry(folder).or_insert(log);
            }
        }
        Ok(Some(StudiesThere {
            origin: format!("run {} on {}", newest.number, self.address()),
            logs,
            live,
            running,
        }))
    }

    /// What a run of the plan there would do.
    pub(crate) fn preview(
        &mut self,
        plan: &Plan,
        history: &History,
        force: &Force,
    ) -> Result<Vec<NodePreview>, CliError> {
        let Remote {
            runtime, client, ..
        } = &mut self.0;
        let find = |actions: &[ActionDigest]| {
            let found = runtime.block_on(client.results(actions));
            found.map_err(call_error)
        };
        preview_elsewhere(plan, history, force, find)
    }

    /// How many CPUs its workers have for nodes; nothing where there are none, or this person may not see them.
    pub(crate) fn slots(&mut self) -> Option<usize> {
        let Remote {
            runtime, client, ..
        } = &mut self.0;
        let workers = runtime.block_on(client.status()).ok()?.workers;
        let here = workers.iter().filter(|worker| worker.state == "here");
        let capacity = here.filter_map(|worker| worker.capacity.as_ref());
        let cpus = capacity.map(|it| it.cpu_milli).sum::<u64>() / 1000;
        usize::try_from(cpus).ok().filter(|cpus| *cpus > 0)
    }

    /// From now on blobs that a store lacks come from the coordinator.
    pub(crate) fn serve(&self, store: &Store) {
        store.add_source(Arc::new(fetcher(&self.0)));
    }

    /// Resolves as far as results are here or there.
    pub(crate) fn resolve(
        &mut self,
        resolve: impl Fn(&Elsewhere) -> Result<Resolved, CliError>,
    ) -> Result<Resolved, CliError> {
        let mut elsewhere = Elsewhere::new();
        let mut asked = BTreeSet::new();
        loop {
            let resolved = resolve(&elsewhere)?;
            let missed = resolved.missed.iter().copied();
            let new: Vec<ActionDigest> = missed.filter(|it| asked.insert(*it)).collect();
            if new.is_empty() {
                return Ok(resolved);
            }
            let Remote {
                runtime, client, ..
            } = &mut self.0;
            let found = runtime.block_on(client.results(&new)).map_err(call_error)?;
            let found = new.into_iter().zip(found);
            elsewhere.extend(found.filter_map(|(digest, entry)| Some((digest, entry?))));
        }
    }
}

/// Blobs come from the coordinator, which gets them from its workers.
pub(super) fn fetcher(remote: &Remote) -> Fetcher {
    let coordinator: Peer = remote.address.as_str().into();
    let peers = Peers::new(remote.connector(), Some(Arc::clone(&coordinator)));
    let hints = Hints::new(peers.clone(), Some(Arc::clone(&coordinator)));
    Fetcher::new(
        remote.runtime.handle().clone(),
        peers,
        Arc::new(hints),
        Some(coordinator),
        FetchOptions::default(),
    )
}

/// The coordinator that executed a run, as it was named; kept beside the run's journal.
#[derive(Serialize, Deserialize)]
pub(super) struct Origin {
    on: String,
    tls: Option<PathBuf>,
    token_file: Option<PathBuf>,
}

impl Origin {
    pub(super) fn new(remote: &Remote, credentials: &Credentials) -> Self {
        // The next command may be given in another folder.
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        Self {
            on: remote.address.clone(),
            tls: credentials.tls.as_ref().map(absolute),
            token_file: credentials.token_file.as_ref().map(absolute),
        }
    }

    pub(super) fn keep(&self, workspace: &Workspace, run: &RunId) -> Result<(), CliError> {
        let path = path(workspace, run);
        let text = serde_json::to_vec(self).map_err(io::Error::from);
        text.and_then(|text| fs::write(&path, text))
            .doing(|| format!("write {}", path.display()))
    }

    /// That of the newest run which was executed elsewhere.
    fn of_last_run(workspace: &Workspace) -> Option<Self> {
        let runs = workspace.journaled_runs();
        runs.iter().rev().find_map(|run| Self::of(workspace, run))
    }

    /// That of a run, where it was executed elsewhere.
    fn of(workspace: &Workspace, run: &RunId) -> Option<Self> {
        let text = fs::read(path(workspace, run)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// It with its own credentials, or those that are given now.
    fn coordinator(self, given: &Credentials) -> Coordinator {
        Coordinator {
            on: Some(self.on),
            credentials: Credentials {
                tls: given.tls.clone().or(self.tls),
                token_file: given.token_file.clone().or(self.token_file),
            },
        }
    }
}

fn path(workspace: &Workspace, run: &RunId) -> PathBuf {
    workspace.run_path(run).join("coordinator.json")
}
