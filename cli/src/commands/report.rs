//! `dagrun show`, `report`, `runs`, `log`, `journal repair`, and the reports that a run writes at its end: folds of journals.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
};

use dagrun_events::{AttemptSummary, NodeOutcome, NodeRow, RunState, StudyRow, trial_of};
use dagrun_model::{LogRef, RunId, format_bytes, format_seconds};
use dagrun_plan::Plan;
use dagrun_report::EarlierTrial;
use dagrun_run::Workspace;
use dagrun_store::Store;
use serde_json::json;

use crate::{
    args::{
        CompareArgs, Global, LogArgs, NodeOf, Params, PipelineFlag, ReportArgs, RunArgs, RunsArgs,
        ShowArgs,
    },
    commands::{node::Found, only_one, project_of, run_error},
    error::{CliError, Context, Done, Kind},
    load::open_store,
    put,
    remote::Afar,
    resolve::Resolved,
    say,
    settings::Settings,
    shared,
    term::{Ink, Style, escape, job_of, plural, shell_word, table},
    trial,
};

/// Rows of a list on a terminal.
const ROWS: usize = 30;
/// Former runs that are looked at for how long a job takes.
const RUNS_BACK: usize = 50;

pub(crate) fn workspace(path: &Path) -> Result<Workspace, CliError> {
    if !path.exists() {
        return Err(no_such_file(
            path,
            "name the pipeline file or the folder that it stands in",
        ));
    }
    let project = project_of(path);
    Workspace::existing(&project)
        .map_err(run_error)?
        .ok_or_else(|| {
            CliError::invalid(format!("nothing has run in {}", project.display()))
                .hint("name the pipeline file or its folder with -f, or run it first")
        })
}

/// A file was named that is not there; `otherwise` helps where none has nearly its name.
pub(crate) fn no_such_file(path: &Path, otherwise: &str) -> CliError {
    let error = CliError::invalid(format!("there is no {}", path.display()));
    match dagrun_run::facts::file_alike(path) {
        Some(near) => error.hint(format!(
            "did you mean `{}`?",
            path.with_file_name(near).display()
        )),
        None => error.hint(otherwise),
    }
}

/// The workspace and the run that a person means. A file in the place of the run is the pipeline, of which the last run is meant.
fn meant<'a>(
    run: Option<&'a str>,
    project: &Path,
) -> Result<(Workspace, Option<&'a str>), CliError> {
    let of_file = run.filter(|run| Path::new(run).is_file() && project == Path::new("."));
    match of_file {
        Some(file) => Ok((workspace(Path::new(file))?, None)),
        None => Ok((workspace(project)?, run)),
    }
}

fn load(workspace: &Workspace, run: Option<&str>) -> Result<(RunId, RunState), CliError> {
    let found = workspace
        .find_run(run.unwrap_or("latest"))
        .map_err(run_error);
    let run = found.map_err(|error| match run.filter(|run| Path::new(run).is_file()) {
        Some(file) => error.hint(format!(
            "write `-f {}` for the last run in the folder of that file",
            shell_word(file)
        )),
        None => error,
    })?;
    let state = fold(workspace, &run)?;
    Ok((run, state))
}

pub(crate) fn fold(workspace: &Workspace, run: &RunId) -> Result<RunState, CliError> {
    let loaded = dagrun_run::load_journal(&workspace.journal_path(run)).map_err(run_error)?;
    if let Some(at) = loaded.torn_at {
        say!(
            "warning: the journal of {run} ends in a record that was cut off at byte {at}; it is left out"
        );
    }
    Ok(RunState::fold(&loaded.records))
}

pub(crate) fn show(args: &ShowArgs, style: Style) -> Done {
    let (workspace, run) = meant(args.run.as_deref(), &args.project.path)?;
    let (_, state) = load(&workspace, run)?;
    if let Some(path) = &args.trace {
        write_trace(&state, path)?;
    }
    if let Some(path) = &args.junit {
        write_file(path, &dagrun_report::junit(&state))?;
    }
    if args.answer.json {
        put!("{}", to_json(&state));
    } else {
        print(&state, most_rows(args.all), style);
    }
    Ok(0)
}

fn to_json(state: &RunState) -> String {
    dagrun_report::show(state).to_string()
}

fn print(state: &RunState, shown: Option<usize>, style: Style) {
    let Some(started) = &state.started else {
        return;
    };
    let how = match state.exit_code {
        Some(0) => style.paint_out(Ink::Good, "done"),
        Some(130) => style.paint_out(Ink::Warn, "interrupted"),
        Some(_) => style.paint_out(Ink::Bad, "failed"),
        None => style.paint_out(Ink::Warn, "not finished"),
    };
    put!(
        "{} {}: {how} in {}",
        style.paint_out(Ink::Bold, &started.pipeline),
        started.run,
        format_seconds(state.wall)
    );
    let counts = &state.counts;
    put!(
        "{} succeeded, {} cached, {} failed, {} skipped, {} cancelled; {}",
        counts.succeeded,
        counts.cached,
        counts.failed,
        counts.skipped,
        counts.cancelled,
        dagrun_report::attempts_text(state)
    );
    if let Some(why) = &state.gave_up {
        put!("{} {}", style.paint_out(Ink::Bad, "gave up:"), escape(why));
    }
    let study = dagrun_report::study_text(state);
    if !study.is_empty() {
        put!("{}", study.trim_end());
    }
    let figures = dagrun_report::statistics(state);
    let most = shown.unwrap_or(usize::MAX);
    let jobs = figures.jobs_by_concern();
    if state.nodes.is_empty() && state.exit_code == Some(0) {
        put!("nothing had to run");
    } else if !jobs.is_empty() {
        let some = &jobs[..jobs.len().min(most)];
        put!("\n{}", dagrun_report::job_table(some).trim_end());
        and_more(jobs.len(), most, "job");
    }
    if let Some(utilisation) = figures.utilisation {
        put!("\nslots busy {:.0} %", utilisation * 100.0);
    }
    if figures.slowest.len() > 1 {
        let slowest: Vec<String> = figures
            .slowest
            .iter()
            .take(3)
            .map(|(id, seconds)| format!("{} {}", escape(id), format_seconds(*seconds)))
            .collect();
        put!("slowest: {}", slowest.join(", "));
    }
    let failures = dagrun_report::failure_groups(state);
    let losses = dagrun_report::loss_groups(state);
    for (groups, ink, word, kind) in [
        (failures, Ink::Bad, "failed", "kind of failure"),
        (losses, Ink::Warn, "lost", "kind of loss"),
    ] {
        for (nodes, why) in groups.iter().take(most) {
            put!(
                "{} {}: {}{}",
                style.paint_out(ink, word),
                escape(&nodes[0].id),
                escape(why),
                others_like(nodes)
            );
        }
        and_more(groups.len(), most, kind);
    }
    for (target, reason) in state.kept_back.iter().take(most) {
        put!(
            "{} {}: {}",
            style.paint_out(Ink::Bad, "not exported"),
            escape(target),
            escape(reason)
        );
    }
    and_more(state.kept_back.len(), most, "export");
}

pub(crate) fn report(args: &ReportArgs) -> Done {
    let (workspace, run) = meant(args.run.as_deref(), &args.project.path)?;
    let (run, state) = load(&workspace, run)?;
    let paces = paces(&workspace, &run, &state);
    if let Some(path) = &args.html {
        let page = dagrun_report::html(&state, &paces, &earlier_trials(&workspace, &state));
        if path.as_os_str() == "-" {
            put!("{page}");
        } else {
            write_file(path, &page)?;
            say!("wrote {}", path.display());
        }
    }
    if args.answer.json {
        put!("{}", dagrun_report::report(&state, &paces));
    } else if args.html.is_none() {
        put!("{}", dagrun_report::summary(&state, &paces).trim_end());
    }
    Ok(0)
}

pub(crate) fn compare(args: &CompareArgs) -> Done {
    let workspace = workspace(&args.project.path)?;
    let mut names: Vec<Option<&str>> = args.runs.iter().map(|run| Some(run.as_str())).collect();
    if names.len() == 1 {
        names.push(None);
    }
    let states = names
        .into_iter()
        .map(|run| Ok(load(&workspace, run)?.1))
        .collect::<Result<Vec<RunState>, CliError>>()?;
    let others = states[1..].iter();
    let reasons: BTreeSet<String> = others
        .flat_map(|other| dagrun_report::unlike(&states[0], other))
        .collect();
    if !reasons.is_empty() && !args.force {
        let reasons: Vec<String> = reasons.into_iter().collect();
        let error = CliError::invalid(format!("these runs are not alike: {}", reasons.join("; ")));
        return Err(error.hint("--force compares them all the same"));
    }
    for reason in &reasons {
        say!("warning: {}", escape(reason));
    }
    let figures: Vec<_> = states.iter().map(dagrun_report::figures).collect();
    if args.answer.json {
        put!("{}", dagrun_report::comparison(&figures));
    } else {
        put!("{}", dagrun_report::comparison_text(&figures).trim_end());
    }
    Ok(0)
}

/// Mean seconds of the jobs that have hits and did not run in this run, from the last of the runs before in which they did.
fn paces(workspace: &Workspace, run: &RunId, state: &RunState) -> BTreeMap<String, f64> {
    let figures = dagrun_report::statistics(state);
    let wanted = (figures.jobs.iter())
        .filter(|job| job.cached > 0 && job.mean().is_none())
        .map(|job| job.name.as_str())
        .collect();
    let runs = workspace.journaled_runs();
    let earlier = runs.iter().rev().skip_while(|other| *other != run).skip(1);
    let pipeline = state.started.as_ref().map_or("", |it| it.pipeline.as_str());
    mean_seconds(workspace, pipeline, wanted, earlier.take(RUNS_BACK))
}

/// The trials that runs before have told, by the log of the study. None where it has told this run's trials again meanwhile: those are
/// values of another kind.
fn earlier_trials(workspace: &Workspace, state: &RunState) -> Vec<EarlierTrial> {
    let own = state.study.as_deref().filter(|study| study.told_before > 0);
    let Some(own) = own else {
        return Vec::new();
    };
    // A study that cannot be read has no word in the report of a run.
    let Some(study) = trial::past(workspace, &own.study).ok().flatten() else {
        return Vec::new();
    };
    let own: BTreeMap<u64, Option<f64>> = own
        .rows
        .iter()
        .filter(|row| row.ended.is_some())
        .map(|row| (row.trial, row.values.first().copied()))
        .collect();
    let later = own.keys().next_back().copied().unwrap_or(u64::MAX);
    let mut earlier = Vec::new();
    for row in study.rows() {
        let value = row.values.as_ref().and_then(|it| it.first().copied());
        match (own.get(&row.trial), value) {
            (Some(own), value) if *own != value => return Vec::new(),
            (None, Some(value)) if row.trial < later && value.is_finite() => {
                earlier.push(EarlierTrial {
                    trial: row.trial,
                    value,
                    feasible: row.violation <= 0.0,
                });
            }
            _ => {}
        }
    }
    earlier
}

/// Mean seconds of jobs of a pipeline, each from the first of some runs in which nodes of it ran.
pub(super) fn mean_seconds<'r>(
    workspace: &Workspace,
    pipeline: &str,
    mut wanted: BTreeSet<&str>,
    runs: impl Iterator<Item = &'r RunId>,
) -> BTreeMap<String, f64> {
    let mut means = BTreeMap::new();
    for run in runs {
        if wanted.is_empty() {
            break;
        }
        // A damaged journal of another run is no matter of this one.
        let Ok(loaded) = dagrun_run::load_journal(&workspace.journal_path(run)) else {
            continue;
        };
        let state = RunState::fold(&loaded.records);
        let started = state.started.as_ref();
        if started.is_none_or(|started| started.pipeline != pipeline) {
            continue;
        }
        for job in dagrun_report::statistics(&state).jobs {
            if let Some(mean) = job.mean()
                && wanted.remove(job.name.as_str())
            {
                means.insert(job.name, mean);
            }
        }
    }
    means
}

/// How much a terminal is given of a list that may be long, unless all was asked for.
pub(crate) fn most_rows(all: bool) -> Option<usize> {
    (!all && std::io::stdout().is_terminal()).then_some(ROWS)
}

pub(crate) fn and_more(rows: usize, most: usize, what: &str) {
    if rows > most {
        put!(
            "... and {} (--all)",
            plural((rows - most) as u64, &format!("more {what}"))
        );
    }
}

/// Which nodes failed like the first of them.
fn others_like(nodes: &[&NodeRow]) -> String {
    let others = nodes.len() - 1;
    if others == 0 {
        return String::new();
    }
    let some: Vec<String> = nodes[1..]
        .iter()
        .take(3)
        .map(|node| escape(&node.id))
        .collect();
    format!(
        " (and {others} more of `{}`: {}{})",
        escape(job_of(&nodes[0].id)),
        some.join(", "),
        if others > 3 { ", ..." } else { "" }
    )
}

/// Jobs in the order in which they were first heard of.
fn jobs_in_order(state: &RunState) -> Vec<&str> {
    let mut seen = BTreeSet::new();
    let jobs = state.nodes.iter().map(|node| job_of(&node.id));
    jobs.filter(|job| seen.insert(*job)).collect()
}

pub(crate) fn runs(args: &RunsArgs) -> Done {
    let workspace = workspace(&args.project.path)?;
    let mut rows = Vec::new();
    for run in workspace.journaled_runs() {
        // A journal that cannot be read must not hide the others.
        match fold(&workspace, &run) {
            Ok(state) => rows.push((run, Some(state))),
            Err(error) => {
                say!("{run}: {}", error.message);
                rows.push((run, None));
            }
        }
    }
    if args.answer.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(run, state)| {
                json!({
                    "run": run.0,
                    "pipeline": state.as_ref().and_then(|s| s.started.as_ref()).map(|s| &s.pipeline),
                    "started": state.as_ref().map(|s| s.started_at),
                    "wall": state.as_ref().map(|s| s.wall),
                    "exit_code": state.as_ref().and_then(|s| s.exit_code),
                    "counts": state.as_ref().map(|s| s.counts),
                    "executed": state.as_ref().map(|s| s.executed),
                    "study": state.as_ref().and_then(|s| s.study.as_ref()).map(|study| json!({
                        "name": study.study,
                        "trials": study.trials,
                        "told": study.told(),
                        "told_now": study.told_now,
                        "failed_now": study.failed_now,
                    })),
                })
            })
            .collect();
        put!("{}", serde_json::Value::from(rows));
        return Ok(0);
    }
    let most = most_rows(args.all).unwrap_or(usize::MAX);
    let left_out = rows.len().saturating_sub(most);
    let studies = |(_, state): &(RunId, Option<RunState>)| {
        state.as_ref().is_some_and(|state| state.study.is_some())
    };
    let mut header = vec![
        "run", "pipeline", "end", ">wall", ">ran", ">cached", ">failed",
    ];
    if rows[left_out..].iter().any(studies) {
        header.push(">trials");
    }
    let rows: Vec<Vec<String>> = rows[left_out..]
        .iter()
        .filter_map(|(run, state)| {
            let state = state.as_ref()?;
            let counts = &state.counts;
            let mut cells = vec![
                run.0.clone(),
                state
                    .started
                    .as_ref()
                    .map_or(String::new(), |started| started.pipeline.clone()),
                state
                    .exit_code
                    .map_or("not finished".into(), |code| format!("exit {code}")),
                format_seconds(state.wall),
                counts.succeeded.to_string(),
                counts.cached.to_string(),
                counts.failed.to_string(),
            ];
            if header.contains(&">trials") {
                let told = |study: &StudyRow| format!("{} of {}", study.told(), study.trials);
                let study = state.study.as_deref();
                cells.push(study.map_or(String::new(), told));
            }
            Some(cells)
        })
        .collect();
    put!("{}", table(&header, &rows).trim_end());
    and_more(rows.len() + left_out, most, "earlier run");
    Ok(0)
}

pub(crate) fn log(args: &LogArgs, global: &Global, style: Style) -> Done {
    let settings = Settings::load(&project_of(&args.project.path), &global.cache)?;
    let project = project_of(&args.project.path);
    let mut goes_on = None;
    if let Some(workspace) = Workspace::existing(&project).map_err(run_error)?
        && let Some(mut afar) = Afar::of_project(&args.coordinator, global)?
    {
        for there in afar.newer_runs(&workspace)? {
            if args.run.as_deref().is_some_and(|run| !there.is(run)) {
                continue;
            }
            let results = with_result(&there.state, &args.node);
            let Some((_, result)) = only_one(&args.node, results, |(node, _)| node.id.clone())?
            else {
                if !there.is_over && !there.state.named(&args.node).is_empty() {
                    let run = format!("{} on {}", there.number, afar.address());
                    goes_on = Some(has_not_ended(&args.node, &run));
                }
                continue;
            };
            if !style.quiet {
                say!("from run {} on {}", there.number, afar.address());
            }
            let store = open_store(&settings)?;
            afar.serve(&store);
            return print_logs(args, [&result.stdout, &result.stderr], &store, style);
        }
    }
    let workspace = workspace(&args.project.path)?;
    let runs = match &args.run {
        Some(run) => vec![workspace.find_run(run).map_err(run_error)?],
        None => workspace.journaled_runs().into_iter().rev().collect(),
    };
    for run in runs {
        let state = fold(&workspace, &run)?;
        let results = with_result(&state, &args.node);
        let Some((_, result)) = only_one(&args.node, results, |(node, _)| node.id.clone())? else {
            continue;
        };
        let store = open_store(&settings)?;
        // A log that is only there is fetched by the store.
        let _shared = shared::open(&settings, &store, style)?;
        // A long one stays with the worker that has it until somebody wants it.
        let lacks = wanted(args, [&result.stdout, &result.stderr])
            .any(|(_, log)| !store.contains(&log.blob.digest));
        let _afar = match lacks {
            true => Afar::of_run(&workspace, &run, global)
                .map_err(|error| error.hint("a log above 1 MiB stays with the worker that ran the node, and comes by the coordinator when it is asked for"))?
                .inspect(|afar| afar.serve(&store)),
            false => None,
        };
        return print_logs(args, [&result.stdout, &result.stderr], &store, style);
    }
    if goes_on.is_none()
        && let Some(done) = log_of_hit(args, &workspace, global, style)
    {
        return done;
    }
    Err(goes_on.unwrap_or_else(|| has_no_log(&workspace, args)))
}

/// The logs of a result that the last run with the node has found in the cache: its entry knows them. Nothing where it is no hit, or
/// the pipeline is not what it was.
fn log_of_hit(
    args: &LogArgs,
    workspace: &Workspace,
    global: &Global,
    style: Style,
) -> Option<Done> {
    let mut runs = match &args.run {
        Some(run) => vec![workspace.find_run(run).ok()?],
        None => workspace.journaled_runs(),
    };
    runs.reverse();
    let states = runs.iter().filter_map(|run| fold(workspace, run).ok());
    let state = states
        .into_iter()
        .find(|state| !state.named(&args.node).is_empty())?;
    let [node] = state.named(&args.node)[..] else {
        return None;
    };
    if node.outcome != Some(NodeOutcome::Cached) {
        return None;
    }
    let started = state.started.as_ref()?;
    // It stands in the project folder, from wherever it was named.
    let file = Path::new(&started.path).file_name()?;
    let given = started.params.iter().filter(|it| it.origin != "default");
    let of = NodeOf {
        node: node.id.clone(),
        of: PipelineFlag {
            file: workspace.project().join(file),
            params: Params {
                params: given
                    .map(|it| format!("{}={}", it.name, as_scalar(&it.value)))
                    .collect(),
                params_file: Vec::new(),
            },
        },
    };
    let found = Found::new(&of, global, style).ok()?;
    let is_here = |it: &Resolved| it.entry(found.node).is_some();
    let (resolved, _afar) = found.resolve(&args.coordinator, global, is_here).ok()?;
    let entry = resolved.entry(found.node)?;
    if !style.quiet {
        let made = &entry.made_by;
        say!(
            "`{}` was a hit in run {}; from run {}, where `{}` made its result on {}",
            escape(&node.id),
            started.run,
            escape(&made.run),
            escape(&made.node),
            escape(&made.host)
        );
    }
    let logs = [&entry.stdout, &entry.stderr];
    Some(print_logs(args, logs, &found.planned.store, style))
}

/// A value as `-p NAME=VALUE` takes it.
fn as_scalar(value: &serde_json::Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn has_not_ended(node: &str, run: &str) -> CliError {
    CliError::failed(format!("`{node}` has not ended in run {run}"))
        .hint("there is a log when it has")
}

/// The logs of an attempt that are asked for, by name.
fn wanted<'r>(
    args: &LogArgs,
    [stdout, stderr]: [&'r Option<LogRef>; 2],
) -> impl Iterator<Item = (&'static str, &'r LogRef)> {
    let both = [
        ("standard output", stdout, !args.stderr),
        ("standard error", stderr, !args.stdout),
    ];
    let asked = both.into_iter().filter(|(_, _, asked)| *asked);
    asked.filter_map(|(name, log, _)| Some((name, log.as_ref()?)))
}

fn print_logs(args: &LogArgs, logs: [&Option<LogRef>; 2], store: &Store, style: Style) -> Done {
    for (name, log) in wanted(args, logs) {
        let bytes = store.read(&log.blob.digest).map_err(|error| {
            let error = CliError::failed(format!(
                "the {name} of this attempt ({}) is gone from the cache: {error}",
                format_bytes(log.blob.size)
            ));
            match log.tail.is_empty() {
                true => error,
                false => error.hint(format!("the journal has its end:\n{}", log.tail)),
            }
        })?;
        if log.total > bytes.len() as u64 && !style.quiet {
            say!(
                "{name}: {} of {} kept",
                format_bytes(bytes.len() as u64),
                format_bytes(log.total)
            );
        }
        write_log(&bytes, args.raw)?;
    }
    Ok(0)
}

/// The nodes that a name stands for and that ran to an end, with the results of their last attempts.
fn with_result<'s>(state: &'s RunState, name: &str) -> Vec<(&'s NodeRow, &'s AttemptSummary)> {
    let nodes = state.named(name).into_iter();
    nodes
        .filter_map(|node| Some((node, state.last_attempt(node)?.result.as_ref()?)))
        .collect()
}

/// Why there is no log of what a person named: no such node, a job, or a result from the cache.
fn has_no_log(workspace: &Workspace, args: &LogArgs) -> CliError {
    let name = &args.node;
    let runs: Vec<RunId> = match &args.run {
        Some(run) => workspace.find_run(run).into_iter().collect(),
        None => workspace.journaled_runs(),
    };
    // The last run that got as far as its nodes.
    let last = runs.into_iter().rev().find_map(|run| {
        let state = fold(workspace, &run).ok()?;
        (!state.nodes.is_empty()).then_some((run, state))
    });
    let Some((run, state)) = last else {
        return CliError::failed(format!(
            "no node has run in {}",
            args.project.path.display()
        ));
    };
    if let Some(error) = no_trial(workspace, &state, name) {
        return error;
    }
    let named = match only_one(name, state.named(name), |node| node.id.clone()) {
        Ok(named) => named,
        Err(error) => return error,
    };
    if let Some(node) = named {
        let name = &node.id;
        if node.outcome.is_none() && state.exit_code.is_none() && !node.attempts.is_empty() {
            return has_not_ended(name, &run.0);
        }
        let how = node.outcome.map_or("did not start", |end| end.word());
        let error = CliError::failed(format!(
            "`{name}` was {how} in run {run}: it has no log there"
        ));
        return match node.outcome {
            Some(NodeOutcome::Cached) => error.hint(
                "its log is with the run that made the result: `dagrun explain` names it where the pipeline is still what it was",
            ),
            _ => error,
        };
    }
    let error = CliError::invalid(format!("there is no node `{name}` in run {run}"));
    let of_job: Vec<&str> = state
        .nodes
        .iter()
        .map(|node| node.id.as_str())
        .filter(|id| job_of(id) == job_of(name))
        .take(3)
        .collect();
    if !of_job.is_empty() {
        return error.hint(format!(
            "nodes of `{}` are named like {}",
            job_of(name),
            of_job.join(", ")
        ));
    }
    let ids = state.nodes.iter().map(|node| node.id.as_str());
    let near = dagrun_model::did_you_mean(name, ids.clone().take(10_000))
        .map(str::to_owned)
        .or_else(|| dagrun_model::did_you_mean(job_of(name), ids.map(job_of)).map(str::to_owned));
    match near {
        _ if Path::new(name).is_file() => error.hint(format!(
            "name a node of it: dagrun log NODE -f {}",
            shell_word(name)
        )),
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint(format!("jobs: {}", jobs_in_order(&state).join(", "))),
    }
}

/// What to say of a node of a trial that the study of the pipeline was never asked for.
fn no_trial(workspace: &Workspace, state: &RunState, name: &str) -> Option<CliError> {
    let pipeline = &state.started.as_ref()?.pipeline;
    let number = trial_of(name)?;
    let past = trial::past(workspace, pipeline).ok().flatten()?;
    let asked = past.counts().asked;
    (number > asked).then(|| trial::no_such_trial(number, pipeline, asked))
}

/// Raw bytes go to files and pipes; a terminal gets control characters shown, not obeyed.
fn write_log(bytes: &[u8], raw: bool) -> Result<(), CliError> {
    let mut out = std::io::stdout();
    let done = if raw || !out.is_terminal() {
        out.write_all(bytes)
    } else {
        out.write_all(escape(&String::from_utf8_lossy(bytes)).as_bytes())
    };
    match done {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError::environment(error))
        }
        _ => Ok(()),
    }
}

pub(crate) fn repair(run: Option<&str>, file: &Path) -> Done {
    let workspace = workspace(file)?;
    if let Some(study) = run.filter(|name| workspace.study_path(name).join("log").exists()) {
        return repair_study(&workspace, study);
    }
    let run = workspace
        .find_run(run.unwrap_or("latest"))
        .map_err(run_error)?;
    let path = workspace.journal_path(&run);
    if dagrun_run::load_journal(&path).is_ok_and(|loaded| loaded.torn_at.is_none()) {
        put!("the journal of {run} is whole");
        return Ok(0);
    }
    let (copy, kept) = dagrun_run::repair_journal(&path).map_err(run_error)?;
    put!(
        "kept {kept} records that can be read; the damaged journal is now {}",
        copy.display()
    );
    Ok(0)
}

fn repair_study(workspace: &Workspace, study: &str) -> Done {
    let _lock = workspace.lock(&super::command_line()).map_err(run_error)?;
    let is_whole = |log: dagrun_run::StudyLog| log.torn_at.is_none();
    if dagrun_run::load_study(workspace, study).is_ok_and(|log| log.is_some_and(is_whole)) {
        put!("the log of study {study} is whole");
        return Ok(0);
    }
    let (copy, kept) = dagrun_run::repair_study(workspace, study).map_err(run_error)?;
    put!(
        "kept {kept} records that can be read; the damaged log is now {}",
        copy.display()
    );
    Ok(0)
}

/// What a run leaves besides its results: JUnit, annotations, a trace, JSON.
pub(crate) fn after_run(
    workspace: &Workspace,
    run: &RunId,
    plan: &Plan,
    args: &RunArgs,
    style: Style,
) -> Result<(), CliError> {
    let report = &plan.pipeline().report;
    if report.junit.is_none() && !report.github_annotations && args.profile.is_none() && !args.json
    {
        return Ok(());
    }
    let state = fold(workspace, run)?;
    if let Some(path) = &report.junit {
        write_file(
            &workspace.project().join(&path.value),
            &dagrun_report::junit(&state),
        )?;
    }
    // Outside of GitHub Actions the lines would only be noise.
    if report.github_annotations && std::env::var_os("GITHUB_ACTIONS").is_some() {
        for line in dagrun_report::annotations(&state) {
            say!("{line}");
        }
    }
    if let Some(path) = &args.profile {
        write_trace(&state, path)?;
        if !style.quiet {
            say!("wrote {}; open it in ui.perfetto.dev", path.display());
        }
    }
    if args.json {
        put!("{}", to_json(&state));
    }
    Ok(())
}

fn write_trace(state: &RunState, path: &Path) -> Result<(), CliError> {
    write_file(path, &dagrun_report::chrome_trace(state).to_string())
}

pub(crate) fn write_file(path: &Path, text: &str) -> Result<(), CliError> {
    make_parent(path)?;
    std::fs::write(path, text).doing(|| format!("write {}", path.display()))
}

/// Makes the folder in which a file is to be written that a flag or the pipeline names.
pub(crate) fn make_parent(path: &Path) -> Result<(), CliError> {
    match path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        Some(folder) => {
            std::fs::create_dir_all(folder).doing(|| format!("make {}", folder.display()))
        }
        None => Ok(()),
    }
}

/// The folder that a failed attempt of a node left behind.
pub(crate) fn kept_folder(args: &NodeOf) -> Result<PathBuf, CliError> {
    let workspace = workspace(&args.of.file)?;
    for run in workspace.journaled_runs().into_iter().rev() {
        let state = fold(&workspace, &run)?;
        let kept = with_result(&state, &args.node).into_iter();
        let kept = kept.filter_map(|(node, result)| {
            let folder = PathBuf::from(result.kept_folder.as_ref()?);
            folder.is_dir().then_some((node, folder))
        });
        let one = only_one(&args.node, kept.collect(), |(node, _)| node.id.clone())?;
        if let Some((_, folder)) = one {
            return Ok(folder);
        }
    }
    Err(CliError {
        kind: Kind::Failed,
        message: format!("no folder of `{}` was kept", args.node),
        hints: Vec::new(),
    }
    .hint("run it with --keep-failed"))
}
