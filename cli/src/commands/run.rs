//! `dagrun run`: wires plan, store, executor, signals and the terminal, and says how it went.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use dagrun_events::{ParamRow, Record};
use dagrun_local::{LocalExecutor, LocalOptions};
use dagrun_model::NodeIx;
use dagrun_plan::Plan;
use dagrun_run::{
    ExecutorFactory, Followed, Force, Notification, RescoreOptions, RunOptions, RunRequest,
    RunSummary, StopHandle, StopReceiver, StudyMode, StudyRequest, Subscriber, Subscription,
    Without, WorkspaceLock, stop_channel, subscribe,
};
use dagrun_sched::Stop;
use dagrun_store::Tier;
use dagrun_study::TrialState;

use crate::{
    args::{Global, Pipeline, RescoreArgs, RunArgs, StudyChoice},
    commands::{end::End, later::Later, report, run_error},
    error::{CliError, Context, Done, Kind},
    leftovers,
    load::{Loaded, Planned, PlannedStudy},
    remote, say,
    settings::Settings,
    shared,
    term::{Ink, Progress, Style, plural, shell_word},
    trial,
    typed::Typed,
    workers::{self, Division},
};

/// Events that a subscriber may lag behind; the journal has them all.
const QUEUE: usize = 65_536;

/// The most slots: each may be a process with pipes, on one machine.
pub(crate) const MAX_SLOTS: usize = 4096;

pub(crate) fn run(args: &RunArgs, global: &Global, style: Style) -> Done {
    let mode = match args.study {
        None => StudyMode::Continue,
        Some(StudyChoice::New) => StudyMode::New,
        Some(StudyChoice::Keep) => StudyMode::Keep,
    };
    run_as(mode, args, global, style)
}

/// `dagrun rescore`.
pub(crate) fn rescore(args: &RescoreArgs, global: &Global, style: Style) -> Done {
    if args.run.study.is_some() {
        return Err(CliError::invalid(
            "`rescore` tells the trials of the study that is there: `--study` has no place here",
        ));
    }
    let mode = StudyMode::Rescore(RescoreOptions {
        run_missing: args.run_missing,
    });
    run_as(mode, &args.run, global, style)
}

fn run_as(mode: StudyMode, args: &RunArgs, global: &Global, style: Style) -> Done {
    if args.coordinator.on.is_some() {
        return match mode {
            StudyMode::Rescore(_) => Err(CliError::invalid("`rescore` runs here")),
            mode => remote::run_on(mode, args, global, style),
        };
    }
    if args.detach {
        return Err(
            CliError::invalid("`--detach` leaves a run to a coordinator")
                .hint("name one by `--on HOST:PORT` or DAGRUN_ON"),
        );
    }
    let mut ready = Ready::new(mode, args, global, style)?;
    ready.planned.keep_to_the_end();
    announce(&ready.planned, ready.slots, style);

    let (stop, stop_receiver) = stop_channel();
    handle_signals(stop, style)?;
    let mut followers = Followers::default();
    let jobs_of_trials = ready.jobs_of_trials();
    let at_once = style.live || style.verbose > 0 || ready.planned.study.is_some();
    let of_plan = ready.planned.plan.clone();
    let (subscriber, progress) = Later::new(QUEUE, move || {
        Progress::new(style, nodes_by_job(&of_plan), jobs_of_trials)
    });
    followers.subscribers.push(subscriber);
    if at_once {
        progress.begin().map_err(CliError::environment)?;
    }
    if let Some(path) = &args.events {
        followers.ndjson(path)?;
    }
    let executor = ready.executor();
    let mut summary = dagrun_run::run(ready.request(
        args,
        progress.begin_with(executor),
        std::mem::take(&mut followers.subscribers),
        stop_receiver,
    )?)
    .map_err(run_error)?;
    progress.join()?;
    followers.join()?;
    if let Some(cache) = &ready.planned.shared {
        shared::conclude(cache, &mut summary, style);
    }
    ready.conclude(&summary, args)
}

/// A run that may begin: its pipeline is planned, and its workspace is locked.
pub(crate) struct Ready {
    pub(crate) loaded: Loaded,
    pub(crate) planned: Planned,
    mode: StudyMode,
    force: Force,
    warnings: Vec<String>,
    slots: usize,
    division: Option<Division>,
    lock: Option<WorkspaceLock>,
    /// For what its end tells people to type.
    pub(crate) typed: Typed,
    style: Style,
}

impl Ready {
    pub(crate) fn new(
        mode: StudyMode,
        args: &RunArgs,
        global: &Global,
        style: Style,
    ) -> Result<Self, CliError> {
        not_a_file(args.work.force.as_deref(), &args.work.pipeline.file)?;
        let mut loaded = Loaded::new(&args.work.pipeline.file, global, style)?;
        loaded.apart = args.without.no_dedup;
        let planned = loaded.plan(&args.work.pipeline.params, &args.work.selection)?;
        if planned.study.is_none() && mode != StudyMode::Continue {
            let file = args.work.pipeline.file.display();
            return Err(CliError::invalid(match loaded.pipeline.study {
                None => format!("{file} has no study"),
                Some(_) => "the study is no part of what is selected".to_owned(),
            }));
        }
        let force = force(args.work.force.as_deref(), &loaded, &planned)?;
        let lock = planned
            .workspace
            .lock(&super::command_line())
            .map_err(run_error)?;
        enough_files()?;
        let mut warnings = planned.warnings.clone();
        warnings.extend(leftovers::clear(&planned.workspace, &planned.store, style));
        let usual = loaded.settings.jobs.value;
        let division = args.workers.map(|n| Division::new(n, args.jobs, usual));
        let division = division.transpose()?;
        let asked = division.map_or(args.jobs.unwrap_or(usual), Division::slots);
        let slots = slots(asked)?;
        let Pipeline { file, params } = &args.work.pipeline;
        Ok(Self {
            typed: Typed::here(file, params),
            loaded,
            planned,
            mode,
            force,
            warnings,
            slots,
            division,
            lock: Some(lock),
            style,
        })
    }

    /// What runs nodes: this process, or workers beside it.
    fn executor(&self) -> ExecutorFactory {
        let settings = &self.loaded.settings;
        let store = self.planned.store.clone();
        match self.division {
            Some(division) => workers::executor(division, settings, store),
            None => executor(settings, store, self.slots),
        }
    }

    pub(crate) fn jobs_of_trials(&self) -> Option<BTreeSet<String>> {
        let study = self.planned.study.as_ref();
        study.map(|_| trial::jobs_of_trials(&self.loaded.pipeline))
    }

    /// Tells others in this folder which run on a coordinator is followed here.
    pub(crate) fn follow(&mut self, run: Followed) {
        if let Some(lock) = &mut self.lock {
            lock.follow(run);
        }
    }

    /// The lock of the workspace, for whoever writes there.
    pub(crate) fn take_lock(&mut self) -> Result<WorkspaceLock, CliError> {
        let lock = self.lock.take();
        lock.ok_or_else(|| CliError::environment("a run begins once"))
    }

    /// What the engine needs. The lock goes with it.
    pub(crate) fn request(
        &mut self,
        args: &RunArgs,
        executor: ExecutorFactory,
        subscribers: Vec<Subscriber>,
        stop: StopReceiver,
    ) -> Result<RunRequest, CliError> {
        let lock = self.take_lock()?;
        let study = self.planned.study.take().map(|study| StudyRequest {
            planner: study.planner,
            definition: study.definition,
            mode: self.mode,
        });
        let settings = &self.loaded.settings;
        Ok(RunRequest {
            study,
            plan: self.planned.plan.clone(),
            warnings: std::mem::take(&mut self.warnings),
            store: self.planned.store.clone(),
            tier: self
                .planned
                .shared
                .clone()
                .map(|shared| shared as Arc<dyn Tier>),
            workspace: self.planned.workspace.clone(),
            lock,
            options: RunOptions {
                force: std::mem::take(&mut self.force),
                fail_fast: args.fail_fast,
                without: Without {
                    locality: args.without.no_locality,
                    fusion: args.without.no_fuse,
                },
                keep_failed: args.keep_failed,
                // A part of one trial would take the place of what all of them export.
                export: self.planned.trial.is_none(),
                overwrite_exports: args.overwrite,
                command: super::command_line(),
                version: env!("CARGO_PKG_VERSION").into(),
                pipeline_path: self.typed.file(),
                settings: setting_rows(settings, args.jobs),
                slots: u32::try_from(self.slots).unwrap_or(u32::MAX),
                seed: 0,
                grace: settings.grace.value,
                log_cap: settings.log_cap.value,
                awaits_workers: false,
            },
            executor,
            subscribers,
            progress: Arc::default(),
            stop,
        })
    }

    /// Says how it went, and writes the reports that were asked for.
    pub(crate) fn conclude(&self, summary: &RunSummary, args: &RunArgs) -> Done {
        let end = End {
            summary,
            pipeline: &self.loaded.pipeline,
            project: &self.loaded.project,
            typed: &self.typed,
            again: self.typed.again(args),
            style: self.style,
        };
        end.conclude();
        let Planned {
            workspace, plan, ..
        } = &self.planned;
        let reported = report::after_run(workspace, &summary.run, plan, args, self.style);
        if let Some(fatal) = &summary.fatal {
            return Err(CliError {
                kind: Kind::Environment,
                message: fatal.clone(),
                hints: Vec::new(),
            });
        }
        reported?;
        Ok(u8::try_from(summary.exit_code).unwrap_or(1))
    }
}

/// The number of slots that was asked for, where it is one that a machine can have.
fn slots(asked: usize) -> Result<usize, CliError> {
    if asked == 0 {
        return Err(CliError::invalid("`-j 0` leaves no slot to run nodes in")
            .hint("write a number above 0"));
    }
    if asked > MAX_SLOTS {
        return Err(CliError::invalid(format!(
            "{asked} slots are too many: the most is {MAX_SLOTS}"
        ))
        .hint("each slot may be a process with its folder and open files, and the machine's limits would fail nodes; `-j`, `jobs` in dagrun.toml and DAGRUN_JOBS say how many, mostly the number of CPUs"));
    }
    Ok(asked)
}

/// Open files without which a run cannot even write its journal.
const FILES: u64 = 32;

/// Refuses to begin where the run would soon fail somewhere.
fn enough_files() -> Result<(), CliError> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    match limit {
        Some(limit) if limit < FILES => Err(CliError::environment(format!(
            "a run needs {FILES} open files at least, and the limit is {limit}"
        ))
        .hint("raise it with `ulimit -n 4096`")),
        _ => Ok(()),
    }
}

/// `--force figure` reads `figure` as the file: says what was probably meant.
pub(crate) fn not_a_file(force: Option<&[String]>, file: &Path) -> Result<(), CliError> {
    let word = file.display().to_string();
    let like_a_name = file.extension().is_none() && !word.contains('/') && !file.exists();
    if like_a_name && force.is_some_and(<[String]>::is_empty) {
        return Err(
            CliError::invalid(format!("there is no file {word}")).hint(format!(
                "to force a job or node, write `--force={}`",
                shell_word(&word)
            )),
        );
    }
    Ok(())
}

/// What `--force` means: nothing, all, or these.
pub(crate) fn force(
    names: Option<&[String]>,
    loaded: &Loaded,
    planned: &Planned,
) -> Result<Force, CliError> {
    let force = match names {
        None => Force::None,
        Some([]) => Force::All,
        Some(names) => Force::Only(names.iter().flat_map(|names| split_names(names)).collect()),
    };
    for name in force.unknown(&planned.plan) {
        match (&planned.study, trial::trial_of(&loaded.pipeline, name)?) {
            (Some(study), Some(number)) => force_in_trial(name, number, study, loaded, planned)?,
            _ => return Err(crate::commands::no_such_node(name, &planned.plan)),
        }
    }
    Ok(force)
}

/// Names between commas; those within the brackets of a logical id part nothing.
fn split_names(names: &str) -> Vec<String> {
    let (mut depth, mut quoted, mut escaped) = (0_u32, false, false);
    let parts = names.split(|c: char| {
        match c {
            _ if std::mem::take(&mut escaped) => {}
            '\\' => escaped = quoted,
            '"' => quoted = !quoted,
            '[' if !quoted => depth += 1,
            ']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0 && !quoted
    });
    let parts = parts.filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}

/// Whether a node of a trial can be forced: a study goes on with trials that are not told.
fn force_in_trial(
    name: &str,
    number: u64,
    study: &PlannedStudy,
    loaded: &Loaded,
    planned: &Planned,
) -> Result<(), CliError> {
    let past = trial::past(&planned.workspace, loaded.study_name())?;
    let state = past
        .as_ref()
        .and_then(|past| past.row(number))
        .map(|row| row.state);
    if state.is_some_and(|state| state != TrialState::Asked) {
        return Err(CliError::invalid(format!(
            "trial {number} has ended, and the study does not run it again"
        ))
        .hint(format!(
            "to run the node beside the study: --only {} --force",
            shell_word(name)
        )));
    }
    if number > study.definition.trials {
        return Err(trial::no_such_trial(
            number,
            loaded.study_name(),
            past.map_or(0, |past| past.counts().asked),
        ));
    }
    Ok(())
}

/// The local executor, made only when a node has to run. Folders of nodes stand beside the store: outputs are then renamed
/// into it, and no tool of a node finds the project by walking up.
pub(crate) fn executor(
    settings: &Settings,
    store: dagrun_store::Store,
    slots: usize,
) -> dagrun_run::ExecutorFactory {
    let settings = settings.clone();
    Box::new(move |context| {
        // Nodes whose results could not be kept need not begin.
        store.check_writable().map_err(|error| {
            format!("nodes have to run, and the cache does not take results: {error}")
        })?;
        let spawner = std::env::current_exe()
            .map_err(|error| format!("cannot find dagrun's own program: {error}"))?;
        let work = store.root().join("work");
        let mut options = LocalOptions::new(
            store,
            context.project.clone(),
            work,
            spawner,
            context.run.0.clone(),
        );
        options.slots = u32::try_from(slots).unwrap_or(u32::MAX);
        options.memory = Some(settings.memory.value).filter(|bytes| *bytes > 0);
        options.named = settings.resources.value.clone();
        options.secrets = settings.secret_values()?;
        options.staging = settings.staging();
        let executor = LocalExecutor::new(options).map_err(|error| error.to_string())?;
        Ok(Arc::new(executor) as Arc<dyn dagrun_executor_api::Executor>)
    })
}

/// The settings of a run: those that `dagrun settings` prints, and what a flag says.
fn setting_rows(settings: &Settings, jobs: Option<usize>) -> Vec<ParamRow> {
    let rows = settings.rows(false).into_iter();
    rows.map(|(name, value, origin)| {
        let (value, origin) = match jobs {
            Some(jobs) if name == "jobs" => (jobs.to_string(), "flag -j"),
            _ => (value, origin),
        };
        ParamRow {
            name: name.into(),
            value: value.into(),
            origin: origin.into(),
        }
    })
    .collect()
}

pub(crate) fn nodes_by_job(plan: &Plan) -> BTreeMap<String, u64> {
    let mut counts = vec![0; plan.pipeline().jobs.len()];
    for ix in 0..plan.len() {
        counts[plan.job(NodeIx::from_index(ix)).index()] += 1;
    }
    let jobs = plan.pipeline().jobs.keys().cloned().zip(counts);
    jobs.filter(|(_, nodes)| *nodes > 0).collect()
}

fn announce(planned: &Planned, slots: usize, style: Style) {
    if style.quiet {
        return;
    }
    let plan = &planned.plan;
    let counts = plan.counts();
    let mut what = Vec::new();
    if let Some(study) = &planned.study {
        what.push(plural(study.definition.trials, "trial"));
    }
    let nodes = match planned.trial {
        // What its nodes need comes along.
        Some(_) => plan.len() as u64,
        None => counts.nodes,
    };
    if nodes > 0 || planned.study.is_none() {
        let before = if planned.study.is_some() {
            " before them"
        } else {
            ""
        };
        what.push(format!("{}{before}", plural(nodes, "node")));
    }
    what.push(plural(slots as u64, "slot"));
    let mut text = format!(
        "{}: {}",
        style.paint(Ink::Bold, &plan.pipeline().name.value),
        what.join(", ")
    );
    if counts.naive > counts.nodes {
        text.push_str(&format!(
            " (an engine without deduplication would run {})",
            counts.naive
        ));
    }
    say!("{text}");
}

/// A signal came: what is only worth waiting for is not waited for.
pub(crate) static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// First signal: TERM to the nodes. Second: KILL.
pub(crate) fn handle_signals(stop: StopHandle, style: Style) -> Result<(), CliError> {
    let mut asked = Stop::Terminate;
    crate::signals::listen(move |_| {
        INTERRUPTED.store(true, Ordering::Relaxed);
        stop.stop(asked);
        match asked {
            Stop::Terminate => say!(
                "\n{} again to kill the nodes at once",
                style.paint(Ink::Warn, "stopping; Ctrl-C")
            ),
            _ => say!("\n{}", style.paint(Ink::Warn, "killing")),
        }
        asked = Stop::Kill;
    })
}

/// The threads that follow a run's events.
#[derive(Default)]
struct Followers {
    subscribers: Vec<Subscriber>,
    threads: Vec<JoinHandle<Result<(), CliError>>>,
}

impl Followers {
    fn ndjson(&mut self, path: &Path) -> Result<(), CliError> {
        let mut file = EventFile::create(path)?;
        self.follow(move |subscription| {
            while let Some(notification) = subscription.next() {
                match notification {
                    Notification::Event(record) => file.write(&line(&record)?)?,
                    Notification::Missed(events) => {
                        file.write(format!(r#"{{"event":"missed","events":{events}}}"#).as_bytes())?
                    }
                }
            }
            file.flush()
        })
    }

    fn follow(
        &mut self,
        follow: impl FnOnce(Subscription) -> Result<(), CliError> + Send + 'static,
    ) -> Result<(), CliError> {
        let (subscriber, subscription) = subscribe(QUEUE);
        self.subscribers.push(subscriber);
        let thread = std::thread::Builder::new()
            .name("events".into())
            .spawn(move || follow(subscription))
            .doing(|| "start a thread".into())?;
        self.threads.push(thread);
        Ok(())
    }

    fn join(self) -> Result<(), CliError> {
        for thread in self.threads {
            thread
                .join()
                .map_err(|_| CliError::environment("a thread that shows progress panicked"))??;
        }
        Ok(())
    }
}

/// The file of `--events`.
pub(crate) struct EventFile {
    to: std::io::BufWriter<Box<dyn Write + Send>>,
    path: PathBuf,
}

impl EventFile {
    pub(crate) fn create(path: &Path) -> Result<Self, CliError> {
        let to: Box<dyn Write + Send> = if path.as_os_str() == "-" {
            Box::new(std::io::stdout())
        } else {
            report::make_parent(path)?;
            Box::new(std::fs::File::create(path).doing(|| format!("create {}", path.display()))?)
        };
        Ok(Self {
            to: std::io::BufWriter::new(to),
            path: path.to_path_buf(),
        })
    }

    /// Writes an event, as JSON.
    pub(crate) fn write(&mut self, event: &[u8]) -> Result<(), CliError> {
        let written = self.to.write_all(event);
        written
            .and_then(|()| self.to.write_all(b"\n"))
            .doing(|| format!("write {}", self.path.display()))
    }

    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        self.to
            .flush()
            .doing(|| format!("write {}", self.path.display()))
    }
}

fn line(record: &Record) -> Result<Vec<u8>, CliError> {
    record.to_json().doing(|| "write an event as JSON".into())
}

#[cfg(test)]
mod tests {
    use super::split_names;

    #[test]
    fn commas_of_ids_part_no_names() {
        for (text, names) in [
            ("a,b", vec!["a", "b"]),
            (
                "score[trial=3,target=a],b",
                vec!["score[trial=3,target=a]", "b"],
            ),
            (r#"a[x="],\"",y=1],b"#, vec![r#"a[x="],\"",y=1]"#, "b"]),
        ] {
            assert_eq!(split_names(text), names, "{text}");
        }
    }
}
