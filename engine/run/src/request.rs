//! What a run is given and what it gives back.

use std::{path::PathBuf, sync::Arc, time::Duration};

use dagrun_events::{AttemptSummary, NodeCounts, ParamRow};
use dagrun_executor_api::Executor;
use dagrun_model::{FailureCause, Limits, NodeIx, RunId};
use dagrun_plan::Plan;
use dagrun_sched::Stop;
use dagrun_store::{Store, Tier};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::{
    Export, Progress, RunError, StudyRequest, StudySummary, Subscriber, Workspace, WorkspaceLock,
    driver,
};

/// Everything that a run needs.
pub struct RunRequest {
    /// What to run.
    pub plan: Arc<Plan>,
    /// The study, where there is one; `plan` is then what runs before it.
    pub study: Option<StudyRequest>,
    /// Warnings of the planner, as one-line texts for the journal.
    pub warnings: Vec<String>,
    /// Blobs and the action cache.
    pub store: Store,
    /// The cache behind it, where there is one. The store asks it for blobs by itself: see `Store::add_source`.
    pub tier: Option<Arc<dyn Tier>>,
    /// Where the journal goes.
    pub workspace: Workspace,
    /// The workspace's lock: see [`Workspace::lock`].
    pub lock: WorkspaceLock,
    /// How to run it.
    pub options: RunOptions,
    /// Makes the executor when the first node has to run; never called where all are hits.
    pub executor: ExecutorFactory,
    /// Who hears of events, after the journal.
    pub subscribers: Vec<Subscriber>,
    /// Counts for a progress line, kept up to date.
    pub progress: Arc<Progress>,
    /// Where stop requests come from.
    pub stop: StopReceiver,
}

/// Makes an executor.
pub type ExecutorFactory =
    Box<dyn FnOnce(&ExecutorContext) -> Result<Arc<dyn Executor>, String> + Send>;

/// What an executor may want to know of its run.
#[derive(Clone, Debug)]
pub struct ExecutorContext {
    /// The run.
    pub run: RunId,
    /// The runs of which attempts may still run that this one would take over.
    pub resumes: Vec<RunId>,
    /// The project folder.
    pub project: PathBuf,
    /// The folder of the run's own files, below `.dagrun`.
    pub folder: PathBuf,
}

/// How to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Which nodes are run again though the action cache has them.
    pub force: Force,
    /// Start nothing new after the first failure.
    pub fail_fast: bool,
    /// Keep the folders of failed attempts.
    pub keep_failed: bool,
    /// Lay `export` targets into the project folder at the end.
    pub export: bool,
    /// Let exports replace files that dagrun did not write.
    pub overwrite_exports: bool,
    /// The command line, for the journal.
    pub command: Vec<String>,
    /// The version of dagrun, for the journal.
    pub version: String,
    /// The pipeline's file as it was named, for the journal.
    pub pipeline_path: String,
    /// The settings and where they come from, for the journal.
    pub settings: Vec<ParamRow>,
    /// Nodes of one CPU at a time as asked for, for the journal; 0 where the executor decides.
    pub slots: u32,
    /// The seed of the scheduler's jitter.
    pub seed: u64,
    /// The time between TERM and KILL.
    pub grace: Duration,
    /// Bytes kept of each log.
    pub log_cap: u64,
    /// Workers come and go by themselves: a run that has none waits for one.
    pub awaits_workers: bool,
    /// What the scheduler does without.
    pub without: Without,
}

/// What the scheduler does without, to see what it is worth: for benches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Without {
    /// Nodes are placed without looking at where their inputs are.
    pub locality: bool,
    /// Members of fused groups are placed one by one.
    pub fusion: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            force: Force::None,
            fail_fast: false,
            keep_failed: false,
            export: true,
            overwrite_exports: false,
            command: Vec::new(),
            version: env!("CARGO_PKG_VERSION").into(),
            pipeline_path: String::new(),
            settings: Vec::new(),
            slots: 0,
            seed: 0,
            grace: Limits::default().grace,
            log_cap: Limits::default().log_cap,
            awaits_workers: false,
            without: Without::default(),
        }
    }
}

/// Which nodes do not ask the action cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Force {
    /// None: all ask.
    #[default]
    None,
    /// All run.
    All,
    /// These run: names of jobs and logical ids.
    Only(Vec<String>),
}

impl Force {
    /// The names of nodes or jobs that are neither in the plan.
    pub fn unknown<'a>(&'a self, plan: &Plan) -> Vec<&'a str> {
        let Self::Only(names) = self else {
            return Vec::new();
        };
        names
            .iter()
            .map(String::as_str)
            .filter(|name| plan.pipeline().job_ix(name).is_none() && plan.find(name).is_none())
            .collect()
    }
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct RunSummary {
    /// Its id.
    pub run: RunId,
    /// The exit code for the command: 0, 1, 3 or 130.
    pub exit_code: i32,
    /// How many nodes there were.
    pub nodes: u64,
    /// How its nodes ended.
    pub counts: NodeCounts,
    /// How its study stands, where it has one.
    pub study: Option<StudySummary>,
    /// Attempts started.
    pub executed: u64,
    /// Wall seconds.
    pub wall: f64,
    /// Failures in the order in which they happened, at most 1,000; `counts.failed` counts all.
    pub failures: Vec<Failure>,
    /// Exports that were done: path and node.
    pub exported: Vec<(String, String)>,
    /// Files of former runs that this one does not export and that were removed.
    pub removed: Vec<String>,
    /// All exports that are in place now, also those that were there already.
    pub laid: Vec<Export>,
    /// Exports that were not done: path, and why with the remedy.
    pub kept_back: Vec<(String, String)>,
    /// Warnings that are worth a line at the end.
    pub warnings: Vec<String>,
    /// Why the run itself could not go on; exit code 3.
    pub fatal: Option<String>,
    /// How it was told to stop.
    pub stopped: Option<Stop>,
    /// Events that subscribers were too slow for.
    pub dropped_events: u64,
}

/// A node that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The node in the plan.
    pub node: NodeIx,
    /// Its first logical id.
    pub id: String,
    /// Why, where there is a cause besides its last attempt (an expression that failed, a missing secret).
    pub cause: Option<FailureCause>,
    /// Its last attempt; none where it failed without one.
    pub attempt: Option<AttemptSummary>,
    /// The worker that it had, where the run shares workers with others.
    pub host: Option<String>,
    /// How many attempts it had.
    pub attempts: u32,
    /// The command, one line for people.
    pub command: String,
    /// The variables that stand for the templates of the command, with their values.
    pub values: Vec<(String, String)>,
    /// How many nodes were skipped because of it.
    pub blocked: u64,
}

impl Failure {
    /// Whether an input was changed while the node ran: then no trial is to blame.
    pub fn input_changed(&self) -> bool {
        let last = self.attempt.as_ref().and_then(|it| it.cause.as_ref());
        matches!(
            last.or(self.cause.as_ref()),
            Some(FailureCause::InputChanged { .. })
        )
    }

    /// The reason in one lowercase fragment.
    pub fn describe(&self) -> String {
        match (&self.attempt, &self.cause) {
            (Some(attempt), _) => attempt.describe(),
            (None, Some(cause)) => cause.to_string(),
            (None, None) => "failed".into(),
        }
    }

    /// The reason, with what a program said last that ended itself: the last line of its standard error.
    pub fn describe_with_words(&self) -> String {
        let reason = self.describe();
        let ended_itself =
            |it: &&AttemptSummary| matches!(it.cause, Some(FailureCause::Exit { .. }));
        let attempt = self.attempt.as_ref().filter(ended_itself);
        let words = attempt.and_then(|it| last_words(&it.stderr.as_ref()?.tail));
        match words {
            Some(words) => format!("{reason}: {words}"),
            None => reason,
        }
    }
}

/// Characters of a program's last words that a reason holds.
const WORDS: usize = 100;

/// The last line that says something, cut and harmless.
fn last_words(tail: &str) -> Option<String> {
    let line = tail.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    let (kept, cut) = match line.char_indices().nth(WORDS) {
        Some((at, _)) => (&line[..at], "…"),
        None => (line, ""),
    };
    let escape = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    let words: String = kept.chars().map(escape).collect();
    Some(words + cut)
}

/// Asks a run to stop. Cheap to clone; safe to use from a signal-handling thread.
#[derive(Clone, Debug)]
pub struct StopHandle(UnboundedSender<Stop>);

/// The run's end of a [`StopHandle`].
#[derive(Debug)]
pub struct StopReceiver(pub(crate) UnboundedReceiver<Stop>);

impl StopHandle {
    /// Asks. A first Ctrl-C is [`Stop::Terminate`], a second [`Stop::Kill`]. Does nothing after the run ended.
    pub fn stop(&self, stop: Stop) {
        // The run may be over: then there is nothing to stop.
        let _ = self.0.send(stop);
    }
}

/// A way to stop a run.
pub fn stop_channel() -> (StopHandle, StopReceiver) {
    let (sender, receiver) = unbounded_channel();
    (StopHandle(sender), StopReceiver(receiver))
}

/// Runs a plan to its end and returns how it went. A node that failed is no error.
///
/// Blocks the thread; drives its own tokio runtime.
///
/// # Errors
/// When the run could not begin: the journal cannot be written, the journal of the last run is corrupt. Troubles after that
/// are in [`RunSummary::fatal`].
pub fn run(request: RunRequest) -> Result<RunSummary, RunError> {
    driver::run(request)
}

#[cfg(test)]
mod tests {
    use dagrun_model::{AttemptResult, BlobRef, Digest, LogRef, Outcome};

    use super::*;

    fn failure(cause: FailureCause, stderr: &str) -> Failure {
        let mut result = AttemptResult::bare(Outcome::Failed(cause));
        result.stderr = Some(LogRef {
            blob: BlobRef {
                digest: Digest::empty(),
                size: 0,
                executable: false,
            },
            total: 0,
            tail: stderr.into(),
        });
        Failure {
            node: NodeIx(0),
            id: "sim[trial=1]".into(),
            cause: None,
            attempt: Some((&result).into()),
            host: None,
            attempts: 1,
            command: String::new(),
            values: Vec::new(),
            blocked: 0,
        }
    }

    #[test]
    fn a_program_that_ended_itself_has_the_last_word() {
        let exit = || FailureCause::Exit {
            code: 1,
            step: String::new(),
        };
        let long = "x".repeat(101);
        for (stderr, reason) in [
            ("", "exit code 1".to_owned()),
            ("  \n\n", "exit code 1".to_owned()),
            (
                "Traceback:\n  line 3\ndiverged: x too large\r\n\n",
                "exit code 1: diverged: x too large".to_owned(),
            ),
            ("\u{1b}[31mbad", "exit code 1: \\u{1b}[31mbad".to_owned()),
            (&long, format!("exit code 1: {}…", &long[..100])),
        ] {
            assert_eq!(failure(exit(), stderr).describe_with_words(), reason);
        }
        let missing = FailureCause::MissingOutput {
            missing: vec!["o".into()],
            found: Vec::new(),
        };
        let told = failure(missing, "all is well").describe_with_words();
        assert!(!told.contains("well"), "{told}");
    }
}
