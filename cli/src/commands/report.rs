//! `dagrun show`, `runs`, `log`, `journal repair`, and the reports that a run writes at its end: folds of journals.

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
};

use dagrun_events::{NodeOutcome, RunState};
use dagrun_model::{LogRef, RunId, format_bytes, format_seconds};
use dagrun_plan::Plan;
use dagrun_run::{RunSummary, Workspace};
use serde_json::json;

use crate::{
    args::{Global, LogArgs, NodeOf, RunArgs, RunsArgs, ShowArgs},
    commands::{project_of, run_error},
    error::{CliError, Context, Done, Kind},
    load::open_store,
    put, say,
    settings::Settings,
    term::{Ink, Style, escape, table},
};

fn workspace(path: &Path) -> Result<Workspace, CliError> {
    let project = project_of(path);
    Workspace::existing(&project)
        .map_err(run_error)?
        .ok_or_else(|| {
            CliError::environment(format!("nothing has run in {}", project.display()))
                .hint("name the pipeline file or its folder with -f, or run it first")
        })
}

fn load(workspace: &Workspace, run: Option<&str>) -> Result<(RunId, RunState), CliError> {
    let run = workspace
        .find_run(run.unwrap_or("latest"))
        .map_err(run_error)?;
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
    let workspace = workspace(&args.file)?;
    let (_, state) = load(&workspace, args.run.as_deref())?;
    if let Some(path) = &args.trace {
        write_trace(&state, path)?;
    }
    if let Some(path) = &args.junit {
        write_file(path, &dagrun_report::junit(&state))?;
    }
    if args.json {
        put!("{}", to_json(&state));
    } else {
        print(&state, style);
    }
    Ok(0)
}

fn to_json(state: &RunState) -> String {
    dagrun_report::show(state).to_string()
}

fn print(state: &RunState, style: Style) {
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
        "{} succeeded, {} cached, {} failed, {} skipped, {} cancelled; {} attempts",
        counts.succeeded,
        counts.cached,
        counts.failed,
        counts.skipped,
        counts.cancelled,
        state.executed
    );
    let figures = dagrun_report::statistics(state);
    print_jobs(&figures);
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
    for node in state
        .nodes
        .iter()
        .filter(|node| node.outcome == Some(NodeOutcome::Failed))
    {
        let why = state
            .last_attempt(node)
            .and_then(|attempt| attempt.result.as_ref())
            .map(|result| result.describe());
        let why = why
            .or_else(|| node.cause.as_ref().map(ToString::to_string))
            .unwrap_or_default();
        put!(
            "{} {}: {}",
            style.paint_out(Ink::Bad, "failed"),
            escape(&node.id),
            escape(&why)
        );
    }
    for (target, reason) in &state.kept_back {
        put!(
            "{} {}: {}",
            style.paint_out(Ink::Bad, "not exported"),
            escape(target),
            escape(reason)
        );
    }
}

fn print_jobs(figures: &dagrun_report::Statistics) {
    let bytes = |bytes: u64| {
        if bytes == 0 {
            String::new()
        } else {
            format_bytes(bytes)
        }
    };
    let count = |n: u64| if n == 0 { String::new() } else { n.to_string() };
    let rows: Vec<Vec<String>> = figures
        .jobs
        .iter()
        .map(|(job, figures)| {
            let seconds = |q: f64| figures.quantile(q).map_or(String::new(), format_seconds);
            vec![
                job.clone(),
                count(figures.attempts),
                count(figures.cached),
                count(figures.unsuccessful),
                seconds(0.5),
                seconds(0.95),
                if figures.attempts > 0 {
                    format_seconds(figures.cpu)
                } else {
                    String::new()
                },
                bytes(figures.peak_memory),
                bytes(figures.bytes_out),
            ]
        })
        .collect();
    if !rows.is_empty() {
        let header = [
            "job",
            ">ran",
            ">cached",
            ">failed",
            ">median",
            ">95 %",
            ">CPU",
            ">peak memory",
            ">outputs",
        ];
        put!("\n{}", table(&header, &rows).trim_end());
    }
}

pub(crate) fn runs(args: &RunsArgs) -> Done {
    let workspace = workspace(&args.file)?;
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
    if args.json {
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
                })
            })
            .collect();
        put!("{}", serde_json::Value::from(rows));
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = rows
        .iter()
        .filter_map(|(run, state)| {
            let state = state.as_ref()?;
            let counts = &state.counts;
            Some(vec![
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
            ])
        })
        .collect();
    put!(
        "{}",
        table(
            &[
                "run", "pipeline", "end", ">wall", ">ran", ">cached", ">failed"
            ],
            &rows
        )
        .trim_end()
    );
    Ok(0)
}

pub(crate) fn log(args: &LogArgs, global: &Global, style: Style) -> Done {
    let workspace = workspace(&args.file)?;
    let runs = match &args.run {
        Some(run) => vec![workspace.find_run(run).map_err(run_error)?],
        None => workspace.journaled_runs().into_iter().rev().collect(),
    };
    for run in runs {
        let state = fold(&workspace, &run)?;
        let Some(result) = state
            .find(&args.node)
            .and_then(|node| state.last_attempt(node))
            .and_then(|attempt| attempt.result.as_ref())
        else {
            continue;
        };
        let settings = Settings::load(&project_of(&args.file), global.cache.as_deref())?;
        let store = open_store(&settings)?;
        let print = |name: &str, log: &Option<LogRef>| -> Result<(), CliError> {
            let Some(log) = log else { return Ok(()) };
            let bytes = store.read(&log.blob.digest).map_err(|error| {
                CliError::failed(format!(
                    "the {name} of this attempt is gone from the cache: {error}"
                ))
            })?;
            if log.total > bytes.len() as u64 && !style.quiet {
                say!(
                    "{name}: {} of {} kept",
                    format_bytes(bytes.len() as u64),
                    format_bytes(log.total)
                );
            }
            write_log(&bytes, args.raw)
        };
        if !args.stderr {
            print("standard output", &result.stdout)?;
        }
        if !args.stdout {
            print("standard error", &result.stderr)?;
        }
        return Ok(0);
    }
    Err(CliError::failed(format!(
        "`{}` has not run in this workspace",
        escape(&args.node)
    ))
    .hint("a node that came from the cache has its log where it ran; `dagrun runs` lists the runs"))
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

/// What a run leaves besides its results: JUnit, annotations, a trace, JSON.
pub(crate) fn after_run(
    workspace: &Workspace,
    summary: &RunSummary,
    plan: &Plan,
    args: &RunArgs,
    style: Style,
) -> Result<(), CliError> {
    let report = &plan.pipeline().report;
    if report.junit.is_none() && !report.github_annotations && args.profile.is_none() && !args.json
    {
        return Ok(());
    }
    let state = fold(workspace, &summary.run)?;
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

fn write_file(path: &Path, text: &str) -> Result<(), CliError> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        std::fs::create_dir_all(folder).doing(|| format!("make {}", folder.display()))?;
    }
    std::fs::write(path, text).doing(|| format!("write {}", path.display()))
}

/// The folder that a failed attempt of a node left behind.
pub(crate) fn kept_folder(args: &NodeOf) -> Result<PathBuf, CliError> {
    let workspace = workspace(&args.file)?;
    for run in workspace.journaled_runs().into_iter().rev() {
        let state = fold(&workspace, &run)?;
        let kept = state
            .find(&args.node)
            .and_then(|node| state.last_attempt(node))
            .and_then(|attempt| attempt.result.as_ref()?.kept_folder.clone());
        if let Some(folder) = kept.map(PathBuf::from).filter(|folder| folder.is_dir()) {
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
