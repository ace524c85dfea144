//! One function for each command.

mod cache;
mod cluster;
mod credentials;
mod end;
mod evict;
mod explain;
pub(crate) mod exports;
mod forecast;
mod graph;
mod later;
mod move_cache;
mod node;
mod plan;
mod plan_study;
mod remedy;
mod repeat;
pub(crate) mod report;
mod run;
mod serve;
mod small;
mod study;
mod worker;

pub(crate) use later::Later;
pub(crate) use plan_study::StudyPlan;
pub(crate) use run::INTERRUPTED;
pub(crate) use run::{EventFile, Ready, nodes_by_job};

use std::path::{Path, PathBuf};

use dagrun_plan::JobPhase;

use crate::{
    args::{CacheCommand, Cli, Command, JournalCommand},
    error::{CliError, Done, Kind},
    term::{Style, shell_word},
    trial,
};

/// The command line of this process, for people to read: arguments need not be UTF-8.
fn command_line() -> Vec<String> {
    std::env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect()
}

/// Runs a command and returns its exit code.
pub(crate) fn dispatch(cli: Cli, style: Style) -> Done {
    let Cli { global, command } = cli;
    match command {
        Command::Run(args) => run::run(&args, &global, style),
        Command::Rescore(args) => run::rescore(&args, &global, style),
        Command::Plan(args) => plan::plan(&args, &global, style),
        Command::Explain(args) => explain::explain(&args, &global, style),
        Command::Graph(args) => graph::graph(&args, &global, style),
        Command::Log(args) => report::log(&args, &global, style),
        Command::Runs(args) => report::runs(&args),
        Command::Show(args) => report::show(&args, style),
        Command::Report(args) => report::report(&args),
        Command::Compare(args) => report::compare(&args),
        Command::Worker(args) => worker::worker(&args, &global, style),
        Command::Serve(args) => serve::serve(&args, &global, style),
        Command::Attach(args) => cluster::attach(&args, &global, style),
        Command::Cancel(args) => cluster::cancel(&args, &global),
        Command::Cluster(command) => cluster::cluster(&command, &global, style),
        Command::Study(command) => study::study(&command, &global, style),
        Command::Get(args) => node::get(&args, &global, style),
        Command::Shell(args) => node::shell(&args, &global, style),
        Command::Check(args) => repeat::check(&args, &global, style),
        Command::Probe(args) => repeat::probe(&args, &global, style),
        Command::Gc(args) => cache::gc(&args, &global),
        Command::Cache(CacheCommand::Verify { fix, answer }) => {
            cache::verify(fix, answer.json, &global, style)
        }
        Command::Cache(CacheCommand::Stat { answer }) => cache::stat(answer.json, &global, style),
        Command::Cache(CacheCommand::Evict(args)) => evict::evict(&args, &global),
        Command::Cache(CacheCommand::Dir) => cache::dir(&global),
        Command::Cache(CacheCommand::Push { answer }) => {
            move_cache::push(answer.json, &global, style)
        }
        Command::Cache(CacheCommand::Pull { entries, answer }) => {
            move_cache::pull(entries, answer.json, &global, style)
        }
        Command::Cache(CacheCommand::Keygen { dir }) => move_cache::keygen(&dir),
        Command::Journal(JournalCommand::Repair { run, project }) => {
            report::repair(run.as_deref(), &project.path)
        }
        Command::Fmt(args) => small::fmt(&args, style),
        Command::Schema => small::schema(),
        Command::Init(args) => small::init(&args),
        Command::Settings(args) => small::settings(&args, &global),
        Command::Completions { shell } => small::completions(shell),
        Command::Man { dir } => small::man(&dir),
    }
}

/// The project folder of a pipeline file: the folder it stands in. A folder is its own project.
pub(crate) fn project_of(path: &Path) -> PathBuf {
    if path.is_dir() {
        return path.to_path_buf();
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// A trouble of the run crate as a command's error.
pub(crate) fn run_error(error: dagrun_run::RunError) -> CliError {
    use dagrun_run::{Followed, Rescore, RunError};
    if let RunError::Locked(holder) = &error
        && let Some(Followed { run, on }) = &holder.follows
    {
        let on = shell_word(on);
        return CliError::environment(format!(
            "run {run} on {on} goes on in this folder; {holder}, follows it"
        ))
        .hint(format!(
            "`dagrun attach {run} --on {on}` follows it too, `dagrun cancel {run} --on {on}` stops it"
        ));
    }
    let rescore = match &error {
        RunError::StudyChanged { rescore, .. } => *rescore,
        RunError::StudySimulations { .. } => {
            return CliError::invalid(error)
                .hint("`dagrun rescore FILE --run-missing` runs them and scores all trials again")
                .hint("`--study new` begins anew; the former study is kept aside");
        }
        RunError::UnknownRun(_) | RunError::AmbiguousRun(_) | RunError::UnknownNode { .. } => {
            return CliError::invalid(error);
        }
        RunError::NoRun => {
            return CliError::invalid(error)
                .hint("name the pipeline file or its folder with -f, or run it first");
        }
        _ => return CliError::environment(error),
    };
    let mut told = CliError::invalid(error);
    if rescore == Rescore::Scores {
        told = told.hint(
            "`dagrun rescore FILE` scores the same trials again where only objectives or scoring changed",
        );
    }
    if rescore != Rescore::Refused {
        told = told.hint("`dagrun rescore FILE --run-missing` scores the same trials again and runs what they need, also simulations");
    }
    told.hint("`--study keep` begins anew and knows the trials that ended as they are")
        .hint("`--study new` begins anew; equal simulations come from the cache. The former study is kept aside")
}

impl From<dagrun_run::RunError> for CliError {
    fn from(error: dagrun_run::RunError) -> Self {
        run_error(error)
    }
}

/// The one of several that a person named, where the name is also a part of the ids of others.
pub(crate) fn only_one<T>(
    name: &str,
    found: Vec<T>,
    id: impl Fn(&T) -> String,
) -> Result<Option<T>, CliError> {
    if found.len() < 2 {
        return Ok(found.into_iter().next());
    }
    let some: Vec<String> = found.iter().take(3).map(id).collect();
    Err(
        CliError::invalid(format!("`{name}` names {} nodes", found.len()))
            .hint(format!("name one, such as {}", some.join(", "))),
    )
}

/// A node that a person named is not in the plan.
pub(crate) fn no_such_node(name: &str, plan: &dagrun_plan::Plan) -> CliError {
    let jobs: Vec<&str> = plan.pipeline().jobs.keys().map(String::as_str).collect();
    let job = crate::term::job_of(name);
    let mut error = CliError {
        kind: Kind::Invalid,
        message: format!("there is no node `{name}`"),
        hints: Vec::new(),
    };
    if trial::phase_of(plan.pipeline(), name) == Some(JobPhase::Trial) && plan.trial().is_none() {
        error = error.hint(format!(
            "`{job}` is part of each trial: name its nodes in one, such as `{job}[trial=1]`; `dagrun plan` lists those of a trial"
        ));
    } else if let Some(ix) = plan.pipeline().job_ix(job) {
        let some: Vec<String> = plan
            .nodes()
            .filter(|node| plan.job(*node) == ix)
            .take(3)
            .map(|node| plan.id(node))
            .collect();
        error = error.hint(format!(
            "nodes of `{job}` are named like {}",
            some.join(", ")
        ));
    } else if let Some(near) = dagrun_model::did_you_mean(job, jobs.iter().copied()) {
        error = error.hint(format!("did you mean `{near}`?"));
    } else {
        error = error.hint(format!("jobs: {}", jobs.join(", ")));
    }
    error
}
