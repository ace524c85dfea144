//! The coordinator as a host of runs: takes them, runs them one after the other in each project and side by side otherwise, remembers
//! how they ended.

use std::{
    collections::BTreeMap,
    fmt, io,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use clap::Parser;
use dagrun_cluster::runs::{Batch, Refusal, RunHost};
use dagrun_events::{Record, RunEvent};
use dagrun_model::{ActionDigest, RunId, id_file_name};
use dagrun_proto::v1::{
    ClusterStatus, Drained, Export as WireExport, ProjectFile, RunEnd, RunRow, Submission,
};
use dagrun_run::{
    ExecutorFactory, Export, Progress, StopHandle, StudyMode, Workspace, stop_channel,
};
use dagrun_sched::Stop;
use dagrun_store::{ActionEntry, PutMode, Store};

use super::{
    journals::{Position, read_some},
    project,
    registry::{Found, Registry, millis},
};
use crate::{
    args::{CacheFlags, CacheMode, Cli, Command, Global, RunArgs, StudyChoice, When},
    commands::{Ready, run_error},
    error::{CliError, Done},
    say,
    term::{Style, captured, escape_line, log, plural},
    typed::Typed,
};

/// How a coordinator talks into a log that a client reads.
const STYLE: Style = Style {
    color: false,
    out_color: false,
    live: false,
    quiet: false,
    verbose: 0,
};

/// A run for which an executor is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunFor {
    /// Higher goes first.
    pub(crate) priority: i32,
    /// CPUs that it may have at a time, of all workers together.
    pub(crate) cpus: Option<u64>,
}

/// Makes the executors of runs.
pub(crate) type Executors = Box<dyn Fn(RunFor) -> ExecutorFactory + Send + Sync>;
/// Says how the workers are, and lets one go.
pub(crate) type Workers = Box<dyn WorkersOfHost>;

/// What a coordinator knows of its workers.
pub(crate) trait WorkersOfHost: Send + Sync {
    /// How they are; the runs are filled in by the host.
    fn status(&self) -> ClusterStatus;
    /// By the ids of runs, how many of their nodes run there. What was given to a worker and waits there does not.
    fn running(&self) -> BTreeMap<Arc<str>, u64>;
    /// Lets one go, by name or number.
    fn drain(&self, worker: &str) -> Result<Drained, Refusal>;
}

/// What runs, waits and is over.
pub(crate) struct Coordinator {
    state: PathBuf,
    registry: Registry,
    store: Store,
    executors: Executors,
    workers: Workers,
    epoch: u64,
    started: SystemTime,
    /// Runs that go on at the same time; each plans and journals by itself.
    at_once: NonZeroUsize,
    runs: Mutex<Runs>,
    quiet: bool,
}

#[derive(Default)]
struct Runs {
    entries: BTreeMap<u64, Entry>,
    closing: bool,
}

struct Entry {
    submission: Arc<Submission>,
    submitted_ms: u64,
    /// The newest run of its project before it began, where it began.
    before: Option<String>,
    /// Its journals, where it is over.
    journals: Option<Vec<String>>,
    state: State,
}

enum State {
    Queued,
    Running(StopHandle, Arc<Progress>),
    Over(RunEnd),
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running(..) => "running",
            Self::Over(end) => match end.exit_code {
                0 => "succeeded",
                130 => "cancelled",
                _ => "failed",
            },
        }
    }
}

impl Coordinator {
    /// Reads what is there from former times. Nothing begins before [`Coordinator::resume`].
    ///
    /// # Errors
    /// When the state folder cannot be read or written.
    pub(crate) fn open(
        state: &Path,
        epoch: u64,
        store: Store,
        executors: Executors,
        workers: Workers,
        at_once: NonZeroUsize,
        quiet: bool,
    ) -> io::Result<Arc<Self>> {
        let registry = Registry::open(state)?;
        let mut runs = Runs::default();
        for found in registry.load()? {
            let entry = restored(&registry, &found)?;
            runs.entries.insert(found.number, entry);
        }
        Ok(Arc::new(Self {
            state: state.to_path_buf(),
            registry,
            store,
            executors,
            workers,
            epoch,
            started: SystemTime::now(),
            at_once,
            runs: Mutex::new(runs),
            quiet,
        }))
    }

    /// Begins what waits, also what a former coordinator left unfinished.
    pub(crate) fn resume(self: &Arc<Self>) {
        self.begin_next();
    }

    /// Takes and begins nothing more; says how many runs are not over. They go on with the next coordinator.
    pub(crate) fn close(&self) -> usize {
        let mut runs = self.runs();
        runs.closing = true;
        let entries = runs.entries.values();
        entries
            .filter(|entry| !matches!(entry.state, State::Over(_)))
            .count()
    }

    /// Says a line of a run's life.
    fn log(&self, line: fmt::Arguments<'_>) {
        if !self.quiet {
            log(line);
        }
    }

    fn runs(&self) -> MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn project(&self, submission: &Submission) -> PathBuf {
        project::folder(&self.state, submission)
    }

    /// Starts threads for runs whose turn it is: higher priorities first, then in the order in which they came, one in each project.
    fn begin_next(self: &Arc<Self>) {
        let mut runs = self.runs();
        while !runs.closing && runs.running().count() < self.at_once.get() {
            let Some(number) = runs.next(|submission| self.project(submission)) else {
                return;
            };
            let (stop, receiver) = stop_channel();
            let progress = Arc::new(Progress::default());
            let Some(entry) = runs.entries.get_mut(&number) else {
                return;
            };
            entry.state = State::Running(stop, Arc::clone(&progress));
            let again = entry.before.is_some();
            self.log(format_args!(
                "run {number} {}: {}",
                if again { "goes on" } else { "begins" },
                described(&entry.submission)
            ));
            let submission = Arc::clone(&entry.submission);
            let before = entry.before.clone();
            let this = Arc::clone(self);
            let work = move || {
                let job = Job {
                    host: &this,
                    number,
                    submission: &submission,
                    folder: this.project(&submission),
                };
                let end = job.end(before, progress, receiver);
                this.ended(number, end);
            };
            let thread = std::thread::Builder::new().name(format!("run {number}"));
            if let Err(error) = thread.spawn(work) {
                tracing::error!("run {number} cannot begin: {error}");
                if let Some(entry) = runs.entries.get_mut(&number) {
                    entry.state = State::Queued;
                }
                return;
            }
        }
    }

    fn ended(self: &Arc<Self>, number: u64, end: RunEnd) {
        {
            let mut runs = self.runs();
            if runs.closing {
                // Without workers it may have failed only for that: the next coordinator goes on with it.
                return;
            }
            let Some(entry) = runs.entries.get_mut(&number) else {
                return;
            };
            let journals = self.own_journals(entry);
            if let Err(error) = self.registry.end(number, &journals, &end) {
                tracing::error!("the end of run {number} cannot be kept: {error}");
            }
            entry.journals = Some(journals);
            entry.state = State::Over(end);
            let how = entry.state.name();
            self.log(format_args!("run {number} {how}"));
        }
        self.begin_next();
    }

    /// The journals that a run has made by now. No other run of its project comes between.
    fn own_journals(&self, entry: &Entry) -> Vec<String> {
        let Some(before) = &entry.before else {
            return Vec::new();
        };
        match Workspace::existing(&self.project(&entry.submission)) {
            Ok(Some(workspace)) => {
                let own = journaled_after(&workspace, before).into_iter();
                own.map(|run| run.0).collect()
            }
            _ => Vec::new(),
        }
    }

    fn row(&self, number: u64, entry: &Entry, running: &BTreeMap<Arc<str>, u64>) -> RunRow {
        let Submission {
            project,
            pipeline,
            user,
            priority,
            ..
        } = &*entry.submission;
        let mut row = RunRow {
            run: number.to_string(),
            project: project.clone(),
            pipeline: pipeline.clone(),
            user: user.clone(),
            priority: *priority,
            state: entry.state.name().into(),
            submitted_ms: entry.submitted_ms,
            ..RunRow::default()
        };
        if let State::Running(_, progress) = &entry.state {
            row.nodes = progress.total();
            row.done = progress.counts().total();
            let own = self.own_journals(entry);
            let own = own.iter().filter_map(|id| running.get(id.as_str()));
            row.running = own.sum();
            row.waiting = row.nodes.saturating_sub(row.done + row.running);
        }
        row
    }

    /// Workers know runs by the ids of their journals; people know them by their numbers.
    fn name_runs(&self, texts: &mut [String]) {
        let runs = self.runs();
        for (number, entry) in &runs.entries {
            if !matches!(entry.state, State::Running(..)) || texts.is_empty() {
                continue;
            }
            for id in self.own_journals(entry) {
                for text in texts.iter_mut() {
                    *text = text.replace(&format!("run {id}"), &format!("run {number}"));
                }
            }
        }
    }

    /// Why runs that were taken do not begin yet, in words.
    fn turns(&self) -> Vec<String> {
        let runs = self.runs();
        let busy = runs.busy(|submission| self.project(submission));
        let most = self.at_once.get();
        let told = runs.queued().filter_map(|(number, entry)| {
            match busy.get(&self.project(&entry.submission)) {
                Some(first) => Some(format!(
                    "run {number} for run {first}: runs of one folder take turns"
                )),
                None if busy.len() >= most => Some(format!(
                    "run {number} for its turn: {most} go on, as many as `serve --runs` allows"
                )),
                None => None,
            }
        });
        told.collect()
    }

    /// The folder's name of the study that a run's pipeline has or would have; nothing before the run has begun.
    fn pipeline_of(&self, number: u64) -> Result<Option<String>, Refusal> {
        let trouble =
            |error: io::Error| Refusal::Trouble(format!("cannot read the journal: {error}"));
        let Some(journal) = self.journals(number)?.into_iter().next() else {
            return Ok(None);
        };
        let (records, _) = read_some(&journal, 0).map_err(trouble)?;
        let started = records.first().and_then(|it| Record::from_json(it).ok());
        Ok(match started.map(|record| record.event) {
            Some(RunEvent::RunStarted(started)) => Some(id_file_name(&started.pipeline)),
            _ => None,
        })
    }

    /// The journals of a run, in order.
    fn journals(&self, number: u64) -> Result<Vec<PathBuf>, Refusal> {
        let (folder, before, ended) = {
            let runs = self.runs();
            let entry = runs.entry(number)?;
            let folder = self.project(&entry.submission);
            (folder, entry.before.clone(), entry.journals.clone())
        };
        let trouble = |error: dagrun_run::RunError| Refusal::Trouble(error.to_string());
        let Some(workspace) = Workspace::existing(&folder).map_err(trouble)? else {
            return Ok(Vec::new());
        };
        let own = match (ended, before) {
            (Some(ended), _) => ended.into_iter().map(RunId).collect(),
            (None, Some(before)) => journaled_after(&workspace, &before),
            (None, None) => Vec::new(),
        };
        Ok(own.iter().map(|run| workspace.journal_path(run)).collect())
    }
}

impl Runs {
    fn running(&self) -> impl Iterator<Item = (&u64, &Entry)> {
        let entries = self.entries.iter();
        entries.filter(|(_, entry)| matches!(entry.state, State::Running(..)))
    }

    fn queued(&self) -> impl Iterator<Item = (&u64, &Entry)> {
        let entries = self.entries.iter();
        entries.filter(|(_, entry)| matches!(entry.state, State::Queued))
    }

    /// The projects that have a run now, and which.
    fn busy(&self, project: impl Fn(&Submission) -> PathBuf) -> BTreeMap<PathBuf, u64> {
        self.running()
            .map(|(number, entry)| (project(&entry.submission), *number))
            .collect()
    }

    /// The run whose turn it is.
    fn next(&self, project: impl Fn(&Submission) -> PathBuf) -> Option<u64> {
        let busy = self.busy(&project);
        self.queued()
            .filter(|(_, entry)| !busy.contains_key(&project(&entry.submission)))
            .min_by_key(|(number, entry)| (-i64::from(entry.submission.priority), **number))
            .map(|(number, _)| *number)
    }

    fn entry(&self, number: u64) -> Result<&Entry, Refusal> {
        self.entries
            .get(&number)
            .ok_or_else(|| Refusal::Unknown(format!("there is no run {number} here")))
    }
}

/// The runs of a workspace after one of them.
fn journaled_after(workspace: &Workspace, before: &str) -> Vec<RunId> {
    let mut runs = workspace.journaled_runs();
    runs.retain(|run| run.0.as_str() > before);
    runs
}

/// What a run is, for people.
fn described(submission: &Submission) -> String {
    let project = Path::new(&submission.project).file_name();
    let project = project.map_or_else(String::new, |name| format!("{}/", name.to_string_lossy()));
    let user = match submission.user.as_str() {
        "" => String::new(),
        user => format!(" of {user}"),
    };
    escape_line(&format!("{project}{}{user}", submission.pipeline))
}

fn number_of(run: &str) -> Result<u64, Refusal> {
    run.parse().map_err(|_| {
        Refusal::Unknown(format!(
            "`{run}` is no run; runs of a coordinator are numbers"
        ))
    })
}

/// A submission of former times.
fn restored(registry: &Registry, found: &Found) -> io::Result<Entry> {
    let end = match &found.end {
        None if found.cancelled => {
            let end = cancelled();
            registry.end(found.number, &[], &end)?;
            Some(end)
        }
        end => end.clone(),
    };
    Ok(Entry {
        submission: Arc::new(found.submission.clone()),
        submitted_ms: found.submitted_ms,
        before: found.began.clone(),
        journals: end.is_some().then(|| found.journals.clone()),
        state: end.map_or(State::Queued, State::Over),
    })
}

fn cancelled() -> RunEnd {
    RunEnd {
        exit_code: 130,
        summary: "cancelled\n".into(),
        ..RunEnd::default()
    }
}

impl RunHost for Coordinator {
    fn submit(self: Arc<Self>, submission: Submission) -> Result<String, Refusal> {
        let mine = env!("CARGO_PKG_VERSION");
        if submission.version != mine {
            return Err(Refusal::Invalid(format!(
                "the coordinator is dagrun {mine} and the client is dagrun {}; use the same version",
                submission.version
            )));
        }
        let known = |runs: &Runs| {
            let mut entries = runs.entries.iter();
            let same = entries.find(|(_, entry)| {
                entry.submission.token == submission.token
                    && entry.submission.user == submission.user
            });
            same.map(|(number, _)| number.to_string())
        };
        if let Some(run) = known(&self.runs()) {
            return Ok(run);
        }
        for file in &submission.files {
            let (path, blob) = project::checked(file)?;
            if !self.store.contains(&blob.digest) {
                return Err(Refusal::Invalid(format!(
                    "the file `{path}` was not uploaded"
                )));
            }
        }
        run_args(&submission, Path::new(""))?;
        let number = {
            let mut runs = self.runs();
            if runs.closing {
                return Err(Refusal::Trouble(
                    "the coordinator is stopping; try again".into(),
                ));
            }
            if let Some(run) = known(&runs) {
                return Ok(run);
            }
            let number = runs.entries.keys().next_back().map_or(1, |last| last + 1);
            self.registry.keep(number, &submission).map_err(|error| {
                Refusal::Trouble(format!("cannot keep the submission: {error}"))
            })?;
            let entry = Entry {
                submission: Arc::new(submission),
                submitted_ms: millis(SystemTime::now()),
                before: None,
                journals: None,
                state: State::Queued,
            };
            runs.entries.insert(number, entry);
            number
        };
        self.begin_next();
        Ok(number.to_string())
    }

    fn records(&self, run: &str, from: u64) -> Result<Batch, Refusal> {
        let number = number_of(run)?;
        // Asked before the journals are read: what an ended run wrote is all there.
        let end = match &self.runs().entry(number)?.state {
            State::Over(end) => Some(end.clone()),
            _ => None,
        };
        let journals = self.journals(number)?;
        let mut at = Position::from(from);
        while let Some(path) = journals.get(at.journal) {
            let (records, byte) = read_some(path, at.byte)
                .map_err(|error| Refusal::Trouble(format!("cannot read the journal: {error}")))?;
            at.byte = byte;
            if !records.is_empty() {
                return Ok(Batch {
                    records,
                    next: at.into(),
                    end: None,
                });
            }
            if at.journal + 1 >= journals.len() {
                break;
            }
            at = Position {
                journal: at.journal + 1,
                byte: 0,
            };
        }
        Ok(Batch {
            records: Vec::new(),
            next: at.into(),
            end,
        })
    }

    fn cancel(&self, run: &str, kill: bool) -> Result<String, Refusal> {
        let number = number_of(run)?;
        let trouble = |error: io::Error| Refusal::Trouble(format!("cannot keep that: {error}"));
        let mut runs = self.runs();
        let was = runs.entry(number)?.state.name();
        let Some(entry) = runs.entries.get_mut(&number) else {
            return Ok(was.into());
        };
        match &entry.state {
            State::Over(_) => {}
            State::Queued => {
                self.registry.cancel(number).map_err(trouble)?;
                let end = cancelled();
                self.registry.end(number, &[], &end).map_err(trouble)?;
                entry.journals = Some(Vec::new());
                entry.state = State::Over(end);
            }
            State::Running(stop, _) => {
                self.registry.cancel(number).map_err(trouble)?;
                stop.stop(if kill { Stop::Kill } else { Stop::Terminate });
            }
        }
        Ok(was.into())
    }

    fn list(&self, all: bool) -> Vec<RunRow> {
        let running = self.workers.running();
        let runs = self.runs();
        let entries = runs.entries.iter();
        entries
            .filter(|(_, entry)| all || !matches!(entry.state, State::Over(_)))
            .map(|(number, entry)| self.row(*number, entry, &running))
            .collect()
    }

    fn results(&self, actions: &[ActionDigest]) -> Result<Vec<Option<ActionEntry>>, Refusal> {
        let found = self.store.lookup(actions);
        found.map_err(|error| Refusal::Trouble(format!("cannot look that up: {error}")))
    }

    fn studies(&self, run: &str) -> Result<Vec<(String, Vec<u8>)>, Refusal> {
        let number = number_of(run)?;
        let folder = self.project(&self.runs().entry(number)?.submission);
        // Whoever may see this run alone sees its study alone.
        let Some(own) = self.pipeline_of(number)? else {
            return Ok(Vec::new());
        };
        match std::fs::read(folder.join(study_file(&own, "log"))) {
            Ok(log) => Ok(vec![(own, log)]),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(Refusal::Trouble(format!(
                "cannot read the log of study `{own}`: {error}"
            ))),
        }
    }

    fn status(&self) -> ClusterStatus {
        let uptime = self.started.elapsed().unwrap_or_default();
        let mut workers = self.workers.status();
        self.name_runs(&mut workers.waits);
        workers.waits.extend(self.turns());
        ClusterStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            epoch: self.epoch,
            uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
            runs: self.list(false),
            ..workers
        }
    }

    fn drain(&self, worker: &str) -> Result<Drained, Refusal> {
        self.workers.drain(worker)
    }
}

/// One run in its thread.
struct Job<'a> {
    host: &'a Coordinator,
    number: u64,
    submission: &'a Submission,
    folder: PathBuf,
}

impl Job<'_> {
    /// Runs, and says how it ended, whatever happens.
    fn end(
        &self,
        before: Option<String>,
        progress: Arc<Progress>,
        stop: dagrun_run::StopReceiver,
    ) -> RunEnd {
        let work = AssertUnwindSafe(|| self.run(before, progress, stop));
        let (outcome, said) = captured(|| catch_unwind(work));
        let mut summary = self.for_the_client(&said);
        let (exit_code, exports) = match outcome {
            Ok(Ok((code, exports))) => (i32::from(code), exports),
            Ok(Err(error)) => {
                if !error.message.is_empty() {
                    summary.push_str(&self.for_the_client(&format!("error: {}\n", error.message)));
                }
                for hint in &error.hints {
                    summary.push_str(&self.for_the_client(&format!("  help: {hint}\n")));
                }
                (error.kind as i32, Vec::new())
            }
            Err(_) => {
                summary
                    .push_str("error: the coordinator had a bug in this run; its log says more\n");
                (3, Vec::new())
            }
        };
        RunEnd {
            exit_code,
            exports: exports.iter().map(wire_export).collect(),
            summary,
            records: self.study_files(),
        }
    }

    fn run(
        &self,
        before: Option<String>,
        progress: Arc<Progress>,
        stop: dagrun_run::StopReceiver,
    ) -> Result<(u8, Vec<Export>), CliError> {
        let Self {
            host,
            submission,
            folder,
            ..
        } = self;
        project::lay(folder, submission, &host.store).map_err(CliError::environment)?;
        self.begin(before)?;
        let (args, mode) = run_args(submission, folder)
            .map_err(|refusal| CliError::invalid(refusal.to_string()))?;
        let global = Global {
            color: When::Never,
            quiet: false,
            verbose: 0,
            // Whose results count is the coordinator's affair, and not that of the project that it is given.
            cache: CacheFlags {
                cache: vec![host.store.root().display().to_string()],
                cache_mode: Some(CacheMode::Off),
            },
        };
        // What others have taken out of the store meanwhile is no hit. After a restart it is read from its beginning.
        let (ready, refreshed) = std::thread::scope(|scope| {
            let refreshed = scope.spawn(|| host.store.refresh());
            (Ready::new(mode, &args, &global, STYLE), refreshed.join())
        });
        let mut ready = ready?;
        if let Some(typed) = &submission.typed {
            ready.typed = Typed::of_submitter(typed, &args.work.pipeline);
        }
        refreshed
            .map_err(|_| CliError::environment("the action cache could not be read"))?
            .map_err(CliError::environment)?;
        // The coordinator's own, which gets from workers what it lacks.
        ready.planned.store = host.store.clone();
        let executor = (host.executors)(RunFor {
            priority: submission.priority,
            cpus: args.jobs.map(|cpus| cpus as u64),
        });
        let mut request = ready.request(&args, executor, Vec::new(), stop)?;
        request.progress = progress;
        request.options.awaits_workers = true;
        if args.jobs.is_none() {
            // The CPUs of this machine say nothing of the workers'.
            request.options.slots = 0;
        }
        let mut summary = dagrun_run::run(request).map_err(run_error)?;
        let laid = std::mem::take(&mut summary.laid);
        // Where they lie here is nobody's business: the client says where it lays them.
        summary.exported.clear();
        summary.removed.clear();
        let code: Done = ready.conclude(&summary, &args);
        self.say_since_when();
        Ok((code?, laid))
    }

    /// A run that went on with a new coordinator counts anew: said where its end is read.
    fn say_since_when(&self) {
        let runs = self.host.runs();
        let Ok(entry) = runs.entry(self.number) else {
            return;
        };
        let before = self.host.own_journals(entry).len().saturating_sub(1);
        if before > 0 {
            say!(
                "the coordinator was started again {} meanwhile: time and counts are since then, and what ran before is cached",
                plural(before as u64, "time")
            );
        }
    }

    /// Keeps which run came before, so that the journals of this one can be told from those of others.
    fn begin(&self, before: Option<String>) -> Result<(), CliError> {
        if before.is_some() {
            return Ok(());
        }
        let workspace = Workspace::open(&self.folder).map_err(run_error)?;
        let latest = workspace.latest().map(|run| run.0).unwrap_or_default();
        self.host
            .registry
            .begin(self.number, &latest)
            .map_err(|error| {
                CliError::environment(format!("cannot keep that it began: {error}"))
            })?;
        if let Some(entry) = self.host.runs().entries.get_mut(&self.number) {
            entry.before = Some(latest);
        }
        Ok(())
    }

    /// Paths of this machine mean nothing to the client.
    fn for_the_client(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.folder.display()), "")
    }

    /// The log and the table of the project's studies, as blobs.
    fn study_files(&self) -> Vec<ProjectFile> {
        let Ok(Some(workspace)) = Workspace::existing(&self.folder) else {
            return Vec::new();
        };
        let mut files = Vec::new();
        // Those that were put aside are this side's: the client has others under the same names.
        for study in workspace.studies().iter().filter(|it| !it.contains('@')) {
            for name in ["log", "trials.csv"] {
                let path = study_file(study, name);
                let put = self
                    .host
                    .store
                    .put_file(&self.folder.join(&path), PutMode::Copy);
                if let Ok(blob) = put {
                    files.push(ProjectFile {
                        path,
                        digest: blob.digest.0.to_vec().into(),
                        size: blob.size,
                        executable: false,
                    });
                }
            }
        }
        files
    }
}

/// A file in the folder of a study, in its project.
fn study_file(study: &str, name: &str) -> String {
    format!(".dagrun/studies/{study}/{name}")
}

fn wire_export(export: &Export) -> WireExport {
    WireExport {
        target: export.target.clone(),
        node: export.node.clone(),
        output: export.output.clone(),
        artifact: serde_json::to_vec(&export.artifact)
            .expect("an artifact is plain data")
            .into(),
    }
}

/// The arguments of a submission, as `dagrun run` takes them.
fn run_args(submission: &Submission, folder: &Path) -> Result<(RunArgs, StudyMode), Refusal> {
    let words = [
        "dagrun".to_owned(),
        "run".to_owned(),
        folder.join(&submission.pipeline).display().to_string(),
    ];
    let words = words.into_iter().chain(submission.args.iter().cloned());
    let cli = Cli::try_parse_from(words).map_err(|error| Refusal::Invalid(error.to_string()))?;
    let Command::Run(mut args) = cli.command else {
        return Err(Refusal::Invalid("only `run` can be submitted".into()));
    };
    for file in &mut args.work.pipeline.params.params_file {
        *file = folder.join(&*file);
    }
    let mode = match args.study {
        None => StudyMode::Continue,
        Some(StudyChoice::New) => StudyMode::New,
        Some(StudyChoice::Keep) => StudyMode::Keep,
    };
    Ok((args, mode))
}
