//! Runs nodes several times, past the cache, and compares what they give.

use std::{collections::BTreeMap, sync::Arc};

use dagrun_events::AttemptSummary;
use dagrun_executor_api::{Executor, ExecutorEvent};
use dagrun_model::{
    Artifact, AttemptId, AttemptResult, AttemptSpec, Digest, NodeIx, Outcome, Outputs, RunId,
    WorkerIx,
};
use dagrun_plan::Plan;
use dagrun_store::Store;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::{
    ExecutorContext, ExecutorFactory, History, RunError, Workspace, WorkspaceLock,
    preview::{PreviewState, Walk, unknown_node},
    view::View,
};

/// What to check.
pub struct CheckRequest {
    /// The plan; what the nodes need must be in the cache.
    pub plan: Arc<Plan>,
    /// Where results of former runs are.
    pub store: Store,
    /// The workspace.
    pub workspace: Workspace,
    /// Its lock.
    pub lock: WorkspaceLock,
    /// Names of jobs and logical ids; empty: every node.
    pub nodes: Vec<String>,
    /// How often each runs; at least 2.
    pub repeat: u32,
    /// Makes the executor.
    pub executor: ExecutorFactory,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CheckReport {
    /// A row for each node that was checked.
    pub rows: Vec<CheckRow>,
    /// Nodes that could not be checked, because what they need is not in the cache.
    pub not_ready: Vec<String>,
}

impl CheckReport {
    /// Whether all repeats of all nodes gave the same.
    pub fn is_deterministic(&self) -> bool {
        let same = |row: &CheckRow| row.differing.is_empty() && row.failures.is_empty();
        self.rows.iter().all(same)
    }
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

/// Runs nodes several times and compares their outputs. Nothing enters the action cache.
///
/// # Errors
/// When a name is unknown, the store does not answer, or the executor cannot start.
pub fn check(request: CheckRequest) -> Result<CheckReport, RunError> {
    let plan: &Plan = &request.plan;
    let history = History::default();
    let walk = Walk::run(plan, &request.store, &history, &|_| false)?;
    let mut report = CheckReport::default();
    let mut wanted = Vec::new();
    for node in chosen(plan, &request.nodes)? {
        match walk.rows[node.index()].state {
            PreviewState::Hit | PreviewState::Run => wanted.push(node),
            PreviewState::Unknown => report.not_ready.push(plan.id(node)),
            PreviewState::Skip => {}
        }
    }
    if wanted.is_empty() {
        return Ok(report);
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
    for node in wanted {
        report
            .rows
            .push(repeater.check(&walk, node, request.repeat.max(2)));
    }
    executor.shutdown();
    drop(lease);
    Ok(report)
}

fn chosen(plan: &Plan, names: &[String]) -> Result<Vec<NodeIx>, RunError> {
    let all = (0..plan.len()).map(NodeIx::from_index);
    if names.is_empty() {
        return Ok(all.collect());
    }
    let mut nodes = Vec::new();
    for name in names {
        match plan.find(name) {
            Some(node) => nodes.push(node),
            None if plan.pipeline().job_ix(name).is_some() => {
                nodes.extend(
                    all.clone()
                        .filter(|node| View::job_name(plan, *node) == name),
                );
            }
            None => return Err(unknown_node(plan, name)),
        }
    }
    nodes.sort_unstable();
    nodes.dedup();
    Ok(nodes)
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
            let result = self.once(walk, node, number);
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

    fn once(&mut self, walk: &Walk<'_>, node: NodeIx, number: u32) -> AttemptResult {
        let action = match walk.action(node) {
            Ok(action) => Arc::new(action),
            Err(cause) => return AttemptResult::bare(Outcome::Failed(cause)),
        };
        let attempt = AttemptId(self.next);
        self.next += 1;
        let spec = AttemptSpec {
            attempt,
            node,
            id: walk.id(node),
            number,
            action,
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
