//! Plans made by hand, and an executor that does what it is told.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use dagrun_events::{PlanCounts, Record, RunEvent, RunState, journal as codec};
use dagrun_executor_api::{Executor, ExecutorEvent, HeldAttempt, WorkerInfo};
use dagrun_model::{
    Action, ActionCommand, ActionDigest, Artifact, AttemptId, AttemptResult, AttemptSpec,
    ContentHasher, Digest, FailureCause, HostIx, InputSource, JobIx, Limits, NodeClass, NodeIx,
    NodeKey, NodeSpec, Outcome, OutputSpec, Outputs, PlanDelta, RelPath, Resources, SetIx, SetSpec,
    StagedInput, Trigger, WorkerIx,
};
use dagrun_plan::{PlannedExport, Upstream};
use dagrun_store::{Store, StoreOptions};
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    KeyRow, Progress, RunError, RunOptions, RunSummary, Workspace,
    board::Board,
    driver::{About, Parts, drive},
    journal::load,
    stop_channel,
    view::View,
};

/// A plan of nodes that each have one output, `out`.
pub(crate) struct TestPlan {
    pub(crate) nodes: Vec<TestNode>,
    exports: Vec<PlannedExport>,
}

pub(crate) struct TestNode {
    pub(crate) id: String,
    pub(crate) recipe: String,
    pub(crate) needs: Vec<NodeIx>,
    pub(crate) condition: Option<bool>,
    pub(crate) trigger: Trigger,
    pub(crate) class: NodeClass,
}

impl TestPlan {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            exports: Vec::new(),
        }
    }

    pub(crate) fn node(&mut self, id: &str, recipe: &str, needs: &[NodeIx]) -> NodeIx {
        self.nodes.push(TestNode {
            id: id.into(),
            recipe: recipe.into(),
            needs: needs.to_vec(),
            condition: None,
            trigger: Trigger::Succeeded,
            class: NodeClass {
                backoff: Duration::ZERO,
                ..NodeClass::default()
            },
        });
        NodeIx::from_index(self.nodes.len() - 1)
    }

    fn class(&mut self, id: &str) -> &mut NodeClass {
        let node = self.nodes.iter_mut().find(|node| node.id == id);
        &mut node.expect("a test names a node of its plan").class
    }

    pub(crate) fn retries(&mut self, id: &str, retries: u32) {
        self.class(id).max_retries = retries;
    }

    pub(crate) fn never_cache(&mut self, id: &str) {
        self.class(id).never_cache = true;
    }

    pub(crate) fn needs_cpus(&mut self, id: &str, milli: u64) {
        self.class(id).resources.cpu_milli = milli;
    }

    pub(crate) fn export(&mut self, target: &str, node: NodeIx) {
        self.exports.push(PlannedExport {
            target: target.into(),
            node,
            output: "out".into(),
            span: Default::default(),
        });
    }

    fn digest(&self, node: &TestNode, board: &Board) -> ActionDigest {
        let mut hasher = ContentHasher::new("test").with(&node.recipe);
        for need in &node.needs {
            if let Some(outputs) = board.outputs(*need) {
                hasher = hasher.with(&outputs["out"].content_digest());
            }
        }
        hasher.finish()
    }
}

impl TestPlan {
    pub(crate) fn delta(&self) -> PlanDelta {
        let mut delta = PlanDelta {
            classes: self.nodes.iter().map(|node| node.class.clone()).collect(),
            ..PlanDelta::default()
        };
        for (ix, node) in self.nodes.iter().enumerate() {
            let start = delta.node_sets.len() as u32;
            for need in &node.needs {
                delta.node_sets.push(SetIx::from_index(delta.sets.len()));
                delta.sets.push(SetSpec {
                    members: (delta.set_members.len() as u32, 1),
                    gather: false,
                    min: None,
                });
                delta.set_members.push(*need);
            }
            delta.nodes.push(NodeSpec {
                job: JobIx(0),
                class: ix as u32,
                sets: (start, node.needs.len() as u32),
                group: None,
                trigger: node.trigger,
            });
        }
        delta
    }
}

impl View for TestPlan {
    fn again(&self) -> Option<PlanDelta> {
        Some(self.delta())
    }

    fn len(&self) -> usize {
        self.nodes.len()
    }

    fn key(&self, node: NodeIx) -> NodeKey {
        Digest::of(self.nodes[node.index()].recipe.as_bytes())
    }

    fn pipeline_name(&self) -> &str {
        "test"
    }

    fn job_name(&self, node: NodeIx) -> &str {
        &self.nodes[node.index()].id
    }

    fn id(&self, node: NodeIx) -> String {
        self.nodes[node.index()].id.clone()
    }

    fn also(&self, _node: NodeIx) -> Vec<String> {
        Vec::new()
    }

    fn condition(&self, node: NodeIx, _board: &Board) -> Result<bool, FailureCause> {
        Ok(self.nodes[node.index()].condition.unwrap_or(true))
    }

    fn action_digest(
        &self,
        node: NodeIx,
        board: &Board,
    ) -> Result<Option<ActionDigest>, FailureCause> {
        let node = &self.nodes[node.index()];
        Ok((!node.class.never_cache).then(|| self.digest(node, board)))
    }

    fn action(&self, node: NodeIx, board: &Board) -> Result<Action, FailureCause> {
        let node = &self.nodes[node.index()];
        let inputs = node.needs.iter().filter_map(|need| {
            let artifact = board.outputs(*need)?["out"].clone();
            Some(StagedInput {
                path: path(&format!("in/{}", need.0)),
                source: InputSource::Stored(artifact),
            })
        });
        Ok(Action {
            digest: self.digest(node, board),
            commands: vec![ActionCommand {
                name: String::new(),
                argv: node.recipe.split(' ').map(Into::into).collect(),
                script: None,
                env: Vec::new(),
            }],
            env: Vec::new(),
            pass_env: Vec::new(),
            secrets: Vec::new(),
            inputs: inputs.collect(),
            outputs: vec![OutputSpec {
                name: "out".into(),
                path: path("result.txt"),
                json: None,
                optional: false,
            }],
            stdout: None,
            limits: Limits::default(),
        })
    }

    fn manifest(&self, node: NodeIx, _board: &Board) -> Vec<KeyRow> {
        vec![KeyRow {
            kind: "command".into(),
            name: String::new(),
            value: self.nodes[node.index()].recipe.clone(),
        }]
    }

    fn producers(&self, node: NodeIx) -> Vec<NodeIx> {
        self.nodes[node.index()].needs.clone()
    }

    fn exports(&self) -> Vec<PlannedExport> {
        self.exports.clone()
    }
}

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

/// What an attempt does; without any word it writes its recipe.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Does {
    Write(&'static str),
    Exit(i32),
    Vanish,
    /// Says that its first input cannot be had.
    Lack,
    /// Until it is cancelled.
    Hang,
}

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Script {
    does: BTreeMap<String, VecDeque<Does>>,
    on_start: BTreeMap<String, Hook>,
    log: Vec<String>,
    /// How long nodes wait that no worker can take.
    patience: Duration,
    /// The CPUs of a worker that joins when the first result is settled.
    late_worker: Option<u64>,
    /// The CPUs of a worker that joins right after the first.
    second_worker: Option<u64>,
    /// The process of its worker; one that outlives the executor where it has a name.
    process: String,
    held: Vec<HeldAttempt>,
    adopted: Vec<HeldAttempt>,
    disowned: Vec<HeldAttempt>,
    /// Submitting this node is when no worker comes back any more.
    rejoined_at: Option<String>,
    actions: BTreeMap<String, ActionDigest>,
}

struct FakeExecutor {
    store: Store,
    script: Arc<Mutex<Script>>,
    events: Mutex<Option<UnboundedSender<ExecutorEvent>>>,
}

impl FakeExecutor {
    fn say(&self, event: ExecutorEvent) {
        let events = self.events.lock().unwrap();
        let _ = events
            .as_ref()
            .expect("the executor was started")
            .send(event);
    }

    fn join(&self, worker: WorkerIx, cpu_milli: u64) {
        let (process, held) = {
            let mut script = self.script.lock().unwrap();
            (script.process.clone(), std::mem::take(&mut script.held))
        };
        self.say(ExecutorEvent::WorkerJoined(WorkerInfo {
            worker,
            host: HostIx(worker.0),
            host_name: "here".into(),
            capacity: Resources {
                cpu_milli,
                memory: 1 << 30,
                named: BTreeMap::new(),
            },
            profile: None,
            ahead: 0,
            speed: 1000,
            process,
            held,
        }));
    }

    fn outcome(&self, spec: &AttemptSpec) -> Option<Outcome> {
        for input in &spec.action.inputs {
            let InputSource::Stored(artifact) = &input.source else {
                continue;
            };
            let digest = artifact.blob_digest().unwrap();
            if let Err(error) = self.store.read(&digest) {
                return Some(Outcome::Failed(FailureCause::Staging {
                    path: input.path.to_string(),
                    reason: error.to_string(),
                    missing_blob: error.is_lost_blob(),
                }));
            }
        }
        let mut script = self.script.lock().unwrap();
        script.log.push(spec.id.clone());
        let digest = spec.action.digest;
        script.actions.insert(spec.id.clone(), digest);
        let does = script.does.get_mut(&spec.id).and_then(VecDeque::pop_front);
        let hook = script.on_start.remove(&spec.id);
        drop(script);
        if let Some(hook) = hook {
            hook();
        }
        let recipe = spec.action.commands[0].argv.join(" ");
        match does {
            None => Some(self.written(&recipe)),
            Some(Does::Write(text)) => Some(self.written(text)),
            Some(Does::Exit(code)) => Some(Outcome::Failed(FailureCause::Exit {
                code,
                step: String::new(),
            })),
            Some(Does::Lack) => Some(Outcome::Failed(FailureCause::Staging {
                path: spec.action.inputs[0].path.to_string(),
                reason: "nobody answers".into(),
                missing_blob: true,
            })),
            Some(Does::Vanish) => Some(Outcome::Lost("the worker vanished".into())),
            Some(Does::Hang) => None,
        }
    }

    fn written(&self, text: &str) -> Outcome {
        let blob = self.store.put_bytes(text.as_bytes()).unwrap();
        Outcome::Succeeded(Outputs::from_iter([(
            "out".to_string(),
            Artifact::File(blob),
        )]))
    }
}

impl Executor for FakeExecutor {
    fn start(&self, events: UnboundedSender<ExecutorEvent>) {
        *self.events.lock().unwrap() = Some(events);
        self.join(WorkerIx(0), 2000);
        let second = self.script.lock().unwrap().second_worker;
        if let Some(cpu_milli) = second {
            self.join(WorkerIx(1), cpu_milli);
        }
    }

    fn submit(&self, _worker: WorkerIx, attempts: Vec<AttemptSpec>) {
        for spec in attempts {
            let outcome = self.outcome(&spec);
            let rejoined = self.script.lock().unwrap().rejoined_at.clone();
            if rejoined.is_some_and(|node| node == spec.id) {
                self.say(ExecutorEvent::Rejoined);
            }
            self.say(ExecutorEvent::Started(spec.attempt));
            if let Some(outcome) = outcome {
                let result = Box::new(AttemptResult::bare(outcome));
                self.say(ExecutorEvent::Ended(spec.attempt, result));
            }
        }
    }

    fn cancel(&self, attempts: &[AttemptId], _kill: bool) {
        for attempt in attempts {
            let result = Box::new(AttemptResult::bare(Outcome::Cancelled));
            self.say(ExecutorEvent::Ended(*attempt, result));
        }
    }

    fn settled(&self, _attempts: &[AttemptId]) {
        let late = self.script.lock().unwrap().late_worker.take();
        if let Some(cpu_milli) = late {
            self.join(WorkerIx(1), cpu_milli);
        }
    }

    fn patience(&self) -> Duration {
        self.script.lock().unwrap().patience
    }

    fn may_rejoin(&self) -> bool {
        !self.script.lock().unwrap().process.is_empty()
    }

    /// What was taken over ends at once.
    fn adopt(&self, _worker: WorkerIx, attempts: Vec<HeldAttempt>) {
        for held in attempts {
            let outcome = self.written("adopted");
            let result = Box::new(AttemptResult::bare(outcome));
            self.say(ExecutorEvent::Ended(held.attempt, result));
            self.script.lock().unwrap().adopted.push(held);
        }
    }

    fn disown(&self, attempts: Vec<HeldAttempt>) {
        self.script.lock().unwrap().disowned.extend(attempts);
    }

    fn shutdown(&self) {}
}

/// A project, a store and an executor.
pub(crate) struct Bench {
    _folder: tempfile::TempDir,
    pub(crate) workspace: Workspace,
    store: Store,
    script: Arc<Mutex<Script>>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let project = folder.path().join("project");
        fs::create_dir(&project).unwrap();
        Self {
            workspace: Workspace::open(&project).unwrap(),
            store: Store::open(&folder.path().join("store"), StoreOptions::default()).unwrap(),
            script: Arc::default(),
            _folder: folder,
        }
    }

    pub(crate) fn project(&self) -> &Path {
        self.workspace.project()
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn executor(&self) -> Arc<dyn Executor> {
        Arc::new(FakeExecutor {
            store: self.store.clone(),
            script: Arc::clone(&self.script),
            events: Mutex::new(None),
        })
    }

    /// Says what the next attempt of a node does.
    pub(crate) fn does(&self, id: &str, does: Does) {
        let mut script = self.script.lock().unwrap();
        script.does.entry(id.into()).or_default().push_back(does);
    }

    /// Workers come and go: nodes that none can take wait so long.
    pub(crate) fn patience(&self, patience: Duration) {
        self.script.lock().unwrap().patience = patience;
    }

    /// Another worker joins when the first result is settled.
    pub(crate) fn late_worker(&self, cpu_milli: u64) {
        self.script.lock().unwrap().late_worker = Some(cpu_milli);
    }

    /// Another worker joins right after the first.
    pub(crate) fn second_worker(&self, cpu_milli: u64) {
        self.script.lock().unwrap().second_worker = Some(cpu_milli);
    }

    pub(crate) fn on_start(&self, id: &str, hook: impl FnOnce() + Send + 'static) {
        let mut script = self.script.lock().unwrap();
        script.on_start.insert(id.into(), Box::new(hook));
    }

    /// The worker's process, which outlives executors.
    pub(crate) fn process(&self, name: &str) {
        self.script.lock().unwrap().process = name.into();
    }

    /// The worker comes with the first attempt at a node of a run.
    pub(crate) fn holds(&self, run: &RunSummary, id: &str, began: bool) {
        let state = self.fold(run);
        let first = state.find(id).unwrap().attempts[0];
        let mut script = self.script.lock().unwrap();
        let held = HeldAttempt {
            run: run.run.0.as_str().into(),
            attempt: AttemptId(state.attempts[first].attempt),
            action: script.actions[id],
            resources: Resources {
                cpu_milli: 1000,
                ..Resources::none()
            },
            began,
            ran: 1000,
        };
        script.held = vec![held];
    }

    /// No worker comes back any more when a node is submitted.
    pub(crate) fn rejoined_at(&self, id: &str) {
        self.script.lock().unwrap().rejoined_at = Some(id.into());
    }

    /// What was taken over, and what was given up.
    pub(crate) fn decided(&self) -> (Vec<AttemptId>, Vec<AttemptId>) {
        let script = self.script.lock().unwrap();
        let ids = |held: &[HeldAttempt]| held.iter().map(|it| it.attempt).collect();
        (ids(&script.adopted), ids(&script.disowned))
    }

    /// The nodes that ran, in order.
    pub(crate) fn log(&self) -> Vec<String> {
        self.script.lock().unwrap().log.clone()
    }

    pub(crate) fn clear_log(&self) {
        self.script.lock().unwrap().log.clear();
    }

    pub(crate) fn run(&self, plan: &TestPlan) -> RunSummary {
        self.go(plan, |_| {})
    }

    pub(crate) fn run_without_executor(&self, plan: &TestPlan) -> RunSummary {
        self.go(plan, |parts| {
            parts.executor = Box::new(|_| panic!("nothing has to run"));
        })
    }

    pub(crate) fn go(&self, plan: &TestPlan, change: impl FnOnce(&mut Parts)) -> RunSummary {
        self.try_go(plan, change).unwrap()
    }

    pub(crate) fn try_go(
        &self,
        plan: &TestPlan,
        change: impl FnOnce(&mut Parts),
    ) -> Result<RunSummary, RunError> {
        let lock = self.workspace.lock(&[])?;
        let run = self.workspace.new_run(&lock)?;
        let executor = self.executor();
        let mut parts = Parts {
            tier: None,
            store: self.store.clone(),
            workspace: self.workspace.clone(),
            executor: Box::new(move |_| Ok(executor)),
            subscribers: Vec::new(),
            progress: Arc::new(Progress::default()),
            stop: stop_channel().1,
            options: RunOptions::default(),
        };
        change(&mut parts);
        let about = About {
            pipeline: "test".into(),
            counts: PlanCounts::default(),
            ..About::default()
        };
        drive(plan, plan.delta(), None, about, run, parts)
    }

    pub(crate) fn fold(&self, summary: &RunSummary) -> RunState {
        let path = self.workspace.journal_path(&summary.run);
        RunState::fold(&load(&path).unwrap().records)
    }

    pub(crate) fn exported(&self, path: &str) -> String {
        fs::read_to_string(self.project().join(path)).unwrap()
    }

    fn blob_path(&self, summary: &RunSummary, id: &str) -> std::path::PathBuf {
        let state = self.fold(summary);
        let digest = state.find(id).unwrap().outputs["out"].digest.unwrap();
        self.store.blob_path(&digest)
    }

    pub(crate) fn remove_blob(&self, summary: &RunSummary, id: &str) {
        fs::remove_file(self.blob_path(summary, id)).unwrap();
    }

    pub(crate) fn damage_blob(&self, summary: &RunSummary, id: &str) {
        let path = self.blob_path(summary, id);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "broken").unwrap();
    }

    /// Cuts a journal after the first event that `last` accepts, as a crash would.
    pub(crate) fn cut_journal(
        &self,
        summary: &RunSummary,
        last: impl Fn(&RunEvent, &RunState) -> bool,
    ) {
        let path = self.workspace.journal_path(&summary.run);
        let records: Vec<Record> = load(&path).unwrap().records;
        let mut state = RunState::default();
        let mut bytes = codec::header().to_vec();
        for record in records {
            state.apply(&record);
            codec::encode(&record.to_json().unwrap(), &mut bytes);
            if last(&record.event, &state) {
                fs::write(path, bytes).unwrap();
                return;
            }
        }
        panic!("no such event");
    }
}
