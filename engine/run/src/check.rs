//! Runs a node several times, past the cache: compares what it gives, or how fast it is with several numbers of threads.

use std::{collections::BTreeMap, sync::Arc};

use dagrun_events::AttemptSummary;
use dagrun_executor_api::{Executor, ExecutorEvent};
use dagrun_model::{
    Action, Artifact, AttemptId, AttemptResult, AttemptSpec, Digest, NodeIx, Outcome, Outputs,
    RunId, WorkerIx,
};
use dagrun_plan::{Plan, THREAD_VARIABLES};
use dagrun_store::Store;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::{
    ExecutorContext, ExecutorFactory, History, RunError, Workspace, WorkspaceLock,
    preview::{PreviewState, Walk},
};

/// A node to run several times.
pub struct RepeatRequest {
    /// The plan; what the node needs must be in the cache.
    pub plan: Arc<Plan>,
    /// Where results of former runs are.
    pub store: Store,
    /// The workspace.
    pub workspace: Workspace,
    /// Its lock.
    pub lock: WorkspaceLock,
    /// The node.
    pub node: NodeIx,
    /// Makes the executor.
    pub executor: ExecutorFactory,
}

/// What came of a request to run a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Repeated<T> {
    /// It ran.
    Ran(T),
    /// What it needs is not in the cache.
    NotReady,
    /// Its `if` is false, or that of a node that it needs.
    Skipped,
}

/// A node that was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckRow {
    /// Its first logical id.
    pub id: String,
    /// How often it ran.
    pub repeats: u32,
    /// Outputs that differ, with the digests seen, the cached one first where there is one.
    pub differing: Vec<(String, Vec<Option<Digest>>)>,
    /// Repeats that failed.
    pub failures: Vec<AttemptSummary>,
}

impl CheckRow {
    /// Whether all repeats gave the same.
    pub fn is_deterministic(&self) -> bool {
        self.differing.is_empty() && self.failures.is_empty()
    }
}

/// Runs a node several times (at least twice) and compares its outputs. Nothing enters the action cache.
///
/// # Errors
/// When the store does not answer, or the executor cannot start.
pub fn check(request: RepeatRequest, repeat: u32) -> Result<Repeated<CheckRow>, RunError> {
    let node = request.node;
    repeatedly(request, |repeater, walk| {
        repeater.check(walk, node, repeat.max(2))
    })
}

/// A number of threads that was tried.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeRow {
    /// How many threads the variables named.
    pub threads: u32,
    /// Each attempt.
    pub attempts: Vec<AttemptSummary>,
}

/// Runs a node with several numbers of threads in the usual variables ([`THREAD_VARIABLES`]), each `repeat` times and alone
/// on the machine as far as dagrun goes. The numbers take turns, so that a machine that slows down is no matter of one of
/// them. Nothing enters the action cache.
///
/// # Errors
/// When the store does not answer, or the executor cannot start.
pub fn probe(
    request: RepeatRequest,
    threads: &[u32],
    repeat: u32,
) -> Result<Repeated<Vec<ProbeRow>>, RunError> {
    let node = request.node;
    repeatedly(request, |repeater, walk| {
        let mut rows: Vec<ProbeRow> = (threads.iter())
            .map(|threads| ProbeRow {
                threads: *threads,
                attempts: Vec::new(),
            })
            .collect();
        for number in 1..=repeat.max(1) {
            for row in &mut rows {
                let threads = row.threads.to_string();
                let result = repeater.once(walk, node, number, |action| {
                    set_threads(action, &threads);
                });
                row.attempts.push(AttemptSummary::from(&result));
            }
        }
        rows
    })
}

fn set_threads(action: &mut Action, threads: &str) {
    let named = |name: &str| THREAD_VARIABLES.contains(&name);
    action.env.retain(|(name, _)| !named(name));
    let variables = THREAD_VARIABLES.map(|name| (name.to_owned(), threads.to_owned()));
    action.env.extend(variables);
}

/// Does something with a node whose inputs are there, in a run of its own that leaves no journal.
fn repeatedly<T>(
    request: RepeatRequest,
    work: impl FnOnce(&mut Repeater<'_>, &Walk<'_>) -> T,
) -> Result<Repeated<T>, RunError> {
    let history = History::default();
    let walk = Walk::run(&*request.plan, &request.store, &history, &|_| false)?;
    match walk.rows[request.node.index()].state {
        PreviewState::Hit | PreviewState::Run => {}
        PreviewState::Unknown => return Ok(Repeated::NotReady),
        PreviewState::Skip => return Ok(Repeated::Skipped),
    }
    let run = request.workspace.new_run(&request.lock)?;
    let lease = request
        .store
        .lease(&run.0)
        .map_err(|e| RunError::Store(e.to_string()))?;
    let context = ExecutorContext {
        resumes: Vec::new(),
        project: request.workspace.project().to_path_buf(),
        folder: request.workspace.run_path(&run),
        run: run.clone(),
    };
    let executor = (request.executor)(&context).map_err(RunError::Executor)?;
    let mut repeater = Repeater::start(executor.as_ref(), run)?;
    let done = work(&mut repeater, &walk);
    executor.shutdown();
    drop(lease);
    Ok(Repeated::Ran(done))
}

struct Repeater<'a> {
    executor: &'a dyn Executor,
    events: UnboundedReceiver<ExecutorEvent>,
    worker: WorkerIx,
    next: u64,
}

impl<'a> Repeater<'a> {
    fn start(executor: &'a dyn Executor, run: RunId) -> Result<Self, RunError> {
        let (sender, mut events) = unbounded_channel();
        executor.start(sender);
        loop {
            match events.blocking_recv() {
                Some(ExecutorEvent::WorkerJoined(info)) => {
                    return Ok(Self {
                        executor,
                        events,
                        worker: info.worker,
                        next: 1,
                    });
                }
                Some(_) => {}
                None => {
                    return Err(RunError::Executor(format!("no worker joined run {run}")));
                }
            }
        }
    }

    fn check(&mut self, walk: &Walk<'_>, node: NodeIx, repeat: u32) -> CheckRow {
        let mut row = CheckRow {
            id: walk.id(node),
            repeats: repeat,
            differing: Vec::new(),
            failures: Vec::new(),
        };
        let mut seen: Vec<Outputs> = walk.cached(node).into_iter().collect();
        for number in 1..=repeat {
            let result = self.once(walk, node, number, |_| {});
            let summary = AttemptSummary::from(&result);
            match result.outcome {
                Outcome::Succeeded(outputs) => seen.push(outputs),
                _ => row.failures.push(summary),
            }
        }
        let mut names: BTreeMap<&str, Vec<&Artifact>> = BTreeMap::new();
        for outputs in &seen {
            for (name, artifact) in outputs {
                names.entry(name).or_default().push(artifact);
            }
        }
        for (name, artifacts) in names {
            let first = artifacts[0].content_digest();
            if artifacts.iter().any(|a| a.content_digest() != first) {
                let digests = artifacts.iter().map(|a| a.blob_digest()).collect();
                row.differing.push((name.into(), digests));
            }
        }
        row
    }

    /// One attempt, of an action that was adjusted.
    fn once(
        &mut self,
        walk: &Walk<'_>,
        node: NodeIx,
        number: u32,
        adjust: impl FnOnce(&mut Action),
    ) -> AttemptResult {
        let mut action = match walk.action(node) {
            Ok(action) => action,
            Err(cause) => return AttemptResult::bare(Outcome::Failed(cause)),
        };
        adjust(&mut action);
        let attempt = AttemptId(self.next);
        self.next += 1;
        let spec = AttemptSpec {
            attempt,
            node,
            id: walk.id(node),
            number,
            action: Arc::new(action),
            resources: walk.resources(node),
            keep_failed: false,
            run: None,
        };
        self.executor.submit(self.worker, vec![spec]);
        loop {
            match self.events.blocking_recv() {
                Some(ExecutorEvent::Ended(ended, result)) if ended == attempt => return *result,
                Some(_) => {}
                None => return AttemptResult::bare(Outcome::Lost("the executor is gone".into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::tests::kit::{Bench, Does, TestPlan};

    #[test]
    fn repeats_are_compared_with_each_other_and_the_cache() {
        let bench = Bench::new();
        let mut plan = TestPlan::new();
        let a = plan.node("a", "make a", &[]);
        plan.node("b", "make b", &[a]);
        bench.run(&plan);
        let history = History::default();
        let walk = Walk::run(&plan, bench.store(), &history, &|_| false).unwrap();
        let executor = bench.executor();
        let run = RunId("check".into());
        let mut repeater = Repeater::start(executor.as_ref(), run).unwrap();

        let same = repeater.check(&walk, NodeIx(1), 3);
        assert_eq!((same.id.as_str(), same.repeats), ("b", 3));
        assert!(same.differing.is_empty() && same.failures.is_empty());

        bench.does("b", Does::Write("make b"));
        bench.does("b", Does::Write("by chance"));
        bench.does("b", Does::Exit(1));
        let other = repeater.check(&walk, NodeIx(1), 3);
        let digest = |text: &str| Some(Digest::of(text.as_bytes()));
        let (made, chance) = (digest("make b"), digest("by chance"));
        assert_eq!(
            other.differing,
            [("out".to_string(), vec![made, made, chance])]
        );
        assert_eq!(other.failures.len(), 1);
    }
}
