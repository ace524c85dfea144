//! The loop: events to the scheduler, its actions to the store, the journal and the executor.
//!
//! One thread owns all state here. What blocks is elsewhere: syncs in the journal's thread, nodes in the executor.

mod adopt;
mod attempts;
mod behind;
mod finish;
mod look_up;
mod notices;
#[cfg(test)]
pub(crate) mod tests;
mod trials;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    rc::Rc,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use dagrun_events::{
    AttemptSummary, CachedNode, FORMAT, NodeCounts, ParamRow, PlanCounts, Record, RunEvent,
    RunStarted, StopKind,
};
use dagrun_executor_api::{Executor, ExecutorEvent, FullDisk};
use dagrun_model::{
    AttemptId, AttemptSpec, FailureCause, NodeIx, PlanDelta, Resources, RunId, WorkerIx,
};
use dagrun_plan::PlannedExport;
use dagrun_sched::{Action, Config, Event, Scheduler, Stop, Time, TimerId};
use dagrun_store::{Store, Tier};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::{
    ExecutorContext, ExecutorFactory, Failure, Force, Progress, RunError, RunRequest, RunSummary,
    StopReceiver, Subscriber, Workspace,
    board::Board,
    exports::Export,
    growing::{GrowingPlan, Part},
    history::HistoryWriter,
    journal::{Batch, Durable, JournalHandle},
    lock::{LOOK, LockWatch, boot_id, host_name},
    restore::{self, Restored},
    study::LogWriter,
    view::View,
};

use adopt::Inheritance;
use attempts::{Finished, Live};
use behind::Behind;
use trials::StudyRun;

/// Failures that are kept with their details.
const MOST_FAILURES: usize = 1000;
/// Rounds of running again what an export found missing.
const MOST_ROUNDS: u32 = 3;

/// Runs a plan to its end.
pub(crate) fn run(request: RunRequest) -> Result<RunSummary, RunError> {
    let plan = Arc::clone(&request.plan);
    let counts = plan.counts();
    let pipeline = plan.pipeline();
    let about = About {
        pipeline: pipeline.name.value.clone(),
        params: plan
            .params()
            .iter()
            .map(|(name, param)| ParamRow {
                name: name.clone(),
                value: param.value.to_json(),
                origin: param.origin.to_string(),
            })
            .collect(),
        counts: PlanCounts {
            naive: counts.naive,
            nodes: counts.nodes,
            units: counts.units,
        },
        warnings: request.warnings.clone(),
        skipped: plan.skipped(),
        jobs: pipeline.jobs.keys().cloned().collect(),
    };
    let parts = Parts {
        store: request.store,
        tier: request.tier,
        workspace: request.workspace,
        executor: request.executor,
        subscribers: request.subscribers,
        progress: request.progress,
        stop: request.stop,
        options: request.options,
    };
    let run = parts.workspace.new_run(&request.lock)?;
    let workspace = parts.workspace.clone();
    let summary = match request.study {
        None => drive(&*plan, plan.delta(), None, about, run, parts),
        Some(study) => {
            let growing = GrowingPlan::new(plan.pipeline_arc());
            let (_, delta) = growing.add(Arc::clone(&plan), true);
            let slots = parts.options.slots;
            let study = StudyRun::open(
                study,
                &growing,
                &about.pipeline,
                &workspace,
                &parts.store,
                slots,
            )?;
            drive(&growing, delta, Some(study), about, run, parts)
        }
    };
    workspace.prune(&request.lock);
    // The lock goes with `request`, after the last record.
    summary
}

/// What the journal says of a run besides its nodes.
#[derive(Debug, Default)]
pub(crate) struct About {
    pub(crate) pipeline: String,
    pub(crate) params: Vec<ParamRow>,
    pub(crate) counts: PlanCounts,
    pub(crate) warnings: Vec<String>,
    pub(crate) skipped: Vec<String>,
    pub(crate) jobs: Vec<String>,
}

/// A request without its plan.
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) tier: Option<Arc<dyn Tier>>,
    pub(crate) workspace: Workspace,
    pub(crate) executor: ExecutorFactory,
    pub(crate) subscribers: Vec<Subscriber>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) stop: StopReceiver,
    pub(crate) options: crate::RunOptions,
}

/// Runs a plan to its end.
///
/// `first` is what the scheduler begins with: the whole plan, or what does not depend on the study.
pub(crate) fn drive<'p>(
    plan: &'p dyn View,
    first: PlanDelta,
    study: Option<(StudyRun<'p>, LogWriter)>,
    about: About,
    run: RunId,
    parts: Parts,
) -> Result<RunSummary, RunError> {
    let unfinished = restore::unfinished(&parts.workspace, &run, &about.pipeline)?;
    // Guards what this run reads and makes from being collected, until it is dropped.
    let lease = parts
        .store
        .lease(&run.0)
        .map_err(|e| RunError::Store(e.to_string()))?;
    let (replies, durable) = unbounded_channel();
    let dropped = parts.subscribers.iter().map(Subscriber::dropped).collect();
    let most_slots = match parts.options.slots {
        0 => u32::MAX,
        slots => slots,
    };
    let (mut study, study_log) = study.unzip();
    if let (Some(study), Some(former)) = (&mut study, &unfinished)
        && !former.inherits.is_empty()
    {
        // Trials that were under way are to be there before the first worker says what it has of them.
        study.set_slots(former.slots.min(most_slots));
    }
    let journal = JournalHandle::create(
        &parts.workspace.journal_path(&run),
        parts.store.clone(),
        parts.subscribers,
        HistoryWriter::new(&parts.workspace),
        study_log,
        replies,
    )?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(RunError::io("start the loop of", parts.workspace.root()))?;
    let started = started_event(&about, &run, &parts.workspace, &parts.options, &unfinished);
    let (executor_sender, executor_events) = unbounded_channel();
    let config = Config {
        seed: parts.options.seed,
        // A trial that fails is a value: the driver knows which nodes are of trials.
        fail_fast: parts.options.fail_fast && study.is_none(),
        awaits_workers: parts.options.awaits_workers,
        // Nothing here asks for it.
        story: 0,
        first_attempt: unfinished.as_ref().map_or(1, |u| u.next_attempt),
        no_locality: parts.options.without.locality,
        no_fuse: parts.options.without.fusion,
        ..Config::default()
    };
    parts.progress.set_total(plan.len() as u64);
    let mut driver = Driver {
        plan,
        board: Board::new(&run.0),
        sched: Scheduler::new(config.clone()),
        config,
        queue: VecDeque::new(),
        actions: Vec::new(),
        batch: Batch::default(),
        cached: Vec::new(),
        journal,
        durable,
        uncommitted: 0,
        executor: None,
        factory: Some(parts.executor),
        executor_sender,
        executor_events,
        workers: Vec::new(),
        taken: BTreeMap::new(),
        draining: FxHashSet::default(),
        full: FxHashMap::default(),
        slots: 0,
        most_slots: u64::from(most_slots),
        hosts: FxHashMap::default(),
        submits: BTreeMap::new(),
        cancels: [Vec::new(), Vec::new()],
        recalls: Vec::new(),
        withdrawals: Vec::new(),
        fresh: Vec::new(),
        live: FxHashMap::default(),
        succeeded: FxHashMap::default(),
        timers: BinaryHeap::new(),
        forced: FxHashSet::default(),
        inherited: Inheritance::new(
            unfinished
                .as_ref()
                .map_or_else(Vec::new, |u| u.inherits.clone()),
        ),
        restored: unfinished,
        study,
        to_retire: Vec::new(),
        ended: 0,
        rewound: FxHashSet::default(),
        unreached: FxHashSet::default(),
        ran_nodes: FxHashSet::default(),
        never_cached: FxHashSet::default(),
        settled: None,
        exported_nodes: FxHashSet::default(),
        causes: FxHashMap::default(),
        last_ends: FxHashMap::default(),
        failures: Vec::new(),
        last_failure: None,
        blame: FxHashMap::default(),
        blocked: FxHashMap::default(),
        counts: NodeCounts::default(),
        executed: 0,
        warnings: Vec::new(),
        exported: Vec::new(),
        removed: Vec::new(),
        laid: Vec::new(),
        kept_back: Vec::new(),
        stuck: None,
        finished: false,
        stopped: None,
        fatal: None,
        stop: Some(parts.stop),
        progress: parts.progress,
        dropped,
        options: parts.options,
        store: parts.store,
        behind: Behind::new(parts.tier),
        lock: parts.workspace.lock_watch(),
        workspace: parts.workspace,
        clock: Instant::now(),
        run,
    };
    driver.begin(started, about, first);
    runtime.block_on(driver.run_to_end());
    let summary = driver.end();
    drop(lease);
    Ok(summary)
}

fn started_event(
    about: &About,
    run: &RunId,
    workspace: &Workspace,
    options: &crate::RunOptions,
    unfinished: &Option<Restored>,
) -> RunEvent {
    RunEvent::RunStarted(Box::new(RunStarted {
        format: FORMAT,
        run: run.0.clone(),
        pipeline: about.pipeline.clone(),
        path: options.pipeline_path.clone(),
        workspace: workspace.project().display().to_string(),
        dagrun: options.version.clone(),
        command: options.command.clone(),
        params: about.params.clone(),
        settings: options.settings.clone(),
        host: host_name(),
        slots: options.slots,
        boot: boot_id(),
        pid: std::process::id(),
        resumes: unfinished.as_ref().map(|u| u.run.0.clone()),
        first_attempt: unfinished.as_ref().map_or(0, |u| u.next_attempt),
        inherits: unfinished
            .as_ref()
            .map_or_else(Vec::new, |u| u.inherits.clone()),
    }))
}

struct Driver<'p> {
    plan: &'p dyn View,
    board: Board,
    sched: Scheduler,
    config: Config,
    /// What the scheduler has yet to hear.
    queue: VecDeque<Event>,
    actions: Vec<Action>,

    /// What the journal has yet to hear.
    batch: Batch,
    cached: Vec<CachedNode>,
    journal: JournalHandle,
    durable: UnboundedReceiver<Durable>,
    uncommitted: u64,

    executor: Option<Arc<dyn Executor>>,
    factory: Option<ExecutorFactory>,
    executor_sender: UnboundedSender<ExecutorEvent>,
    executor_events: UnboundedReceiver<ExecutorEvent>,
    workers: Vec<Event>,
    /// What others have of workers.
    taken: BTreeMap<WorkerIx, Resources>,
    /// Those of the workers that take nothing new.
    draining: FxHashSet<WorkerIx>,
    /// Workers without room on their disks, and whether people have been told of it.
    full: FxHashMap<WorkerIx, (FullDisk, bool)>,
    /// Slots of the others.
    slots: u64,
    /// So many of them were asked for.
    most_slots: u64,
    /// The hosts of all workers that were ever here, by name.
    hosts: FxHashMap<WorkerIx, String>,
    submits: BTreeMap<WorkerIx, Vec<AttemptSpec>>,
    /// Attempts to stop: by TERM, and by KILL.
    cancels: [Vec<AttemptId>; 2],
    /// Attempts to give back if they have not begun.
    recalls: Vec<AttemptId>,
    /// Attempts to give back if their workers have not been told of them.
    withdrawals: Vec<AttemptId>,
    /// Nodes that were started since the last flush, whose keys history has to hear of.
    fresh: Vec<NodeIx>,

    live: FxHashMap<AttemptId, Live>,
    /// Successes that the scheduler has not yet decided about.
    succeeded: FxHashMap<AttemptId, Finished>,
    timers: BinaryHeap<Reverse<(Time, TimerId)>>,

    /// Nodes that run though the cache has them; unused where all are.
    forced: FxHashSet<NodeIx>,
    /// What may still run of former drivers.
    inherited: Inheritance,
    /// What a run that was cut off leaves to this one.
    restored: Option<Restored>,
    study: Option<StudyRun<'p>>,
    /// Parts of trials that are over, to be forgotten once all that is queued about them is done.
    to_retire: Vec<Rc<Part>>,
    /// How many nodes ran and ended.
    ended: u32,
    /// Nodes that must run again because blobs of theirs are gone.
    rewound: FxHashSet<NodeIx>,
    /// Nodes that could not have an input though it is somewhere.
    unreached: FxHashSet<NodeIx>,
    /// Nodes whose result is of this run.
    ran_nodes: FxHashSet<NodeIx>,
    never_cached: FxHashSet<NodeIx>,
    /// In a later round: how nodes ended in the first.
    settled: Option<FxHashSet<NodeIx>>,
    exported_nodes: FxHashSet<NodeIx>,

    /// Why nodes that cannot become actions cannot.
    causes: FxHashMap<NodeIx, FailureCause>,
    /// How the last attempt of each node that has not succeeded ended.
    last_ends: FxHashMap<NodeIx, LastEnd>,
    failures: Vec<Failure>,
    /// The last one, where there are more than are kept.
    last_failure: Option<Failure>,
    /// The failed node at the root of each skip.
    blame: FxHashMap<NodeIx, NodeIx>,
    blocked: FxHashMap<NodeIx, u64>,
    counts: NodeCounts,
    executed: u64,
    warnings: Vec<String>,
    exported: Vec<(String, String)>,
    /// Files of former runs that were removed.
    removed: Vec<String>,
    laid: Vec<Export>,
    kept_back: Vec<(String, String)>,

    /// Nodes that no worker can take, and until when they wait for one that can.
    stuck: Option<(Instant, Vec<NodeIx>)>,
    finished: bool,
    stopped: Option<Stop>,
    fatal: Option<String>,
    stop: Option<StopReceiver>,
    progress: Arc<Progress>,
    dropped: Vec<Arc<AtomicU64>>,
    options: crate::RunOptions,
    store: Store,
    behind: Behind,
    lock: Option<LockWatch>,
    workspace: Workspace,
    clock: Instant,
    run: RunId,
}

struct LastEnd {
    summary: AttemptSummary,
    host: Option<String>,
    number: u32,
    command: String,
    values: Vec<(String, String)>,
}

impl Driver<'_> {
    fn now(&self) -> Time {
        Time(u64::try_from(self.clock.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Adds a record to what the journal is told next.
    fn record(&mut self, event: RunEvent) {
        self.flush_cached();
        self.push_record(event);
    }

    fn push_record(&mut self, event: RunEvent) {
        let at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0.0, |d| d.as_secs_f64());
        self.batch.records.push(Record { at, event });
    }

    fn flush_cached(&mut self) {
        if !self.cached.is_empty() {
            let nodes = std::mem::take(&mut self.cached);
            self.push_record(RunEvent::NodesCached { nodes });
        }
    }

    fn warn(&mut self, message: String) {
        self.record(RunEvent::Warning {
            message: message.clone(),
        });
        self.warnings.push(message);
    }

    fn begin(&mut self, started: RunEvent, about: About, first: PlanDelta) {
        self.record(started);
        self.record(RunEvent::Planned {
            counts: about.counts,
            warnings: about.warnings,
            skipped: about.skipped,
            jobs: about.jobs,
        });
        if let Some(Restored {
            run,
            torn_at: Some(at),
            ..
        }) = &self.restored
        {
            self.warn(format!(
                "the journal of run {run} ends within a record at byte {at}: what came after it is not known"
            ));
        }
        let exports = match self.options.export {
            true => self.plan.exports(),
            false => Vec::new(),
        };
        self.extend(first, &exports);
        self.begin_study();
    }

    /// Takes in new nodes, and what is to be exported of them.
    fn extend(&mut self, delta: PlanDelta, exports: &[PlannedExport]) {
        let first = delta.first_node;
        let nodes = (first..first + delta.nodes.len() as u32).map(NodeIx);
        self.board.grow(first as usize + delta.nodes.len());
        for (node, spec) in nodes.clone().zip(&delta.nodes) {
            if delta.classes[spec.class as usize].never_cache {
                self.never_cached.insert(node);
            }
        }
        if let Force::Only(names) = &self.options.force {
            let is_named = |node: &NodeIx| {
                let job = self.plan.job_name(*node);
                // Ids are made only where one may be meant.
                names.iter().any(|name| name == job)
                    || names.iter().any(|name| name.contains('['))
                        && (names.contains(&self.plan.id(*node))
                            || self.plan.also(*node).iter().any(|id| names.contains(id)))
            };
            self.forced.extend(nodes.clone().filter(is_named));
        }
        let project = self.workspace.project();
        // What is in place already is compared by its digest: no bytes are needed from the store.
        let absent = exports
            .iter()
            .filter(|export| !project.join(&export.target).exists());
        self.exported_nodes.extend(absent.map(|export| export.node));
        self.queue.push_back(Event::PlanExtended(delta));
        self.inherited
            .learn(nodes.clone(), |node| self.plan.key(node));
        self.restore(nodes);
    }

    /// Failures of a run that was cut off count for this one, by the keys of its nodes.
    fn restore(&mut self, nodes: impl Iterator<Item = NodeIx>) {
        let Some(restored) = self.restored.take_if(|r| !r.charged.is_empty()) else {
            return;
        };
        for node in nodes {
            let key = self.plan.key(node);
            let Some(charged) = restored.charged.get(&key) else {
                continue;
            };
            self.record(RunEvent::Restored {
                node: self.plan.id(node),
                key,
                failures: charged.failures,
            });
            if let Some(summary) = &charged.last {
                let last = LastEnd {
                    summary: summary.clone(),
                    host: None,
                    number: charged.failures,
                    command: String::new(),
                    values: Vec::new(),
                };
                self.last_ends.insert(node, last);
            }
            self.queue.push_back(Event::Restore {
                node,
                failures: charged.failures,
                losses: 0,
            });
        }
        self.restored = Some(restored);
    }

    async fn run_to_end(&mut self) {
        for round in 0..MOST_ROUNDS {
            self.run_round().await;
            let lost = self.lock.as_ref().and_then(LockWatch::lost);
            self.fatal = self.fatal.take().or(lost);
            if self.fatal.is_some() || self.interrupted() || !self.options.export {
                return;
            }
            let again = self.plan.again();
            let last = round + 1 == MOST_ROUNDS || again.is_none();
            let gone = self.export(self.plan.exports(), last);
            match again {
                Some(plan) if !gone.is_empty() => self.next_round(plan, gone),
                _ => return,
            }
        }
    }

    /// Begins again with what is known, to run only the nodes whose outputs turned out to be gone.
    fn next_round(&mut self, plan: PlanDelta, gone: Vec<NodeIx>) {
        let all = (0..self.plan.len()).map(NodeIx::from_index);
        self.settled = Some(all.filter(|node| !gone.contains(node)).collect());
        for node in gone {
            self.rewind(node);
        }
        self.config.first_attempt += self.executed + 1;
        self.sched = Scheduler::new(self.config.clone());
        self.timers.clear();
        self.behind.forget();
        self.finished = false;
        self.queue.push_back(Event::PlanExtended(plan));
        self.queue.extend(self.workers.iter().cloned());
        let taken = self.taken.clone().into_iter().collect();
        self.queue.push_back(Event::TakenByOthers(taken));
        self.queue.push_back(Event::PlanComplete);
    }

    async fn run_round(&mut self) {
        loop {
            self.pump();
            if self.finished || self.fatal.is_some() {
                return;
            }
            // Another run may have begun beside one whose lock was deleted.
            if let Some(lock) = &mut self.lock
                && let Some(lost) = lock.lost_now_and_then()
            {
                self.fatal = Some(lost);
                return;
            }
            let had_workers = !self.hosts.is_empty();
            let is_deserted = had_workers && self.workers.is_empty() && self.live.is_empty();
            if is_deserted && !self.config.awaits_workers {
                self.fatal = Some("the last worker is gone, and nodes are left to run".into());
                return;
            }
            self.wait().await;
        }
    }

    /// Handles all that is queued, then tells journal and executor.
    fn pump(&mut self) {
        loop {
            self.run_study();
            while let Some(event) = self.queue.pop_front() {
                self.look_for_a_stop();
                if matches!(event, Event::WorkerJoined { .. }) {
                    // It may take what the others could not; if it does not, the scheduler says so again.
                    self.stuck = None;
                }
                let mut actions = std::mem::take(&mut self.actions);
                self.sched.handle(self.now(), event, &mut actions);
                for action in actions.drain(..) {
                    self.execute(action);
                }
                self.actions = actions;
                if self.fatal.is_some() {
                    break;
                }
                self.run_study();
                self.flush_if_large();
            }
            self.look_at_losers();
            self.flush();
            if self.fatal.is_some() {
                return;
            }
            self.forget_trials();
            if self.queue.is_empty() {
                return;
            }
        }
    }

    /// A run of hits alone never waits, and has to end early all the same.
    fn look_for_a_stop(&mut self) {
        let stop = self.stop.as_mut().and_then(|stop| stop.0.try_recv().ok());
        if let Some(stop) = stop {
            self.request_stop(stop);
        }
    }

    fn execute(&mut self, action: Action) {
        match action {
            Action::LookUp(nodes) => self.look_up(nodes),
            Action::Start {
                attempt,
                node,
                number,
                worker,
                resources,
                group: _,
                ahead: _,
            } => self.start(attempt, node, number, worker, resources),
            Action::Recall { attempt } => self.recalls.push(attempt),
            Action::Withdraw { attempt } => self.withdrawals.push(attempt),
            Action::Cancel { attempt, kill } => self.cancels[usize::from(kill)].push(attempt),
            Action::Commit { node, attempt } => self.commit(node, attempt),
            Action::SetTimer { id, at } => self.timers.push(Reverse((at, id))),
            Action::Emit(notice) => self.notice(notice),
            Action::Finish => self.finished = true,
        }
    }

    fn flush_if_large(&mut self) {
        if self.cached.len() >= 1024 || self.batch.records.len() >= 256 {
            self.flush_batch();
        }
    }

    fn flush_batch(&mut self) {
        self.flush_cached();
        if !self.batch.is_empty() {
            self.journal.send(std::mem::take(&mut self.batch));
        }
    }

    fn flush(&mut self) {
        self.flush_batch();
        let queued = self.sched.counts().queued;
        let running = (self.live.len() as u64).saturating_sub(queued);
        if let Some(executor) = &self.executor {
            for (worker, attempts) in std::mem::take(&mut self.submits) {
                executor.submit(worker, attempts);
            }
            if !self.recalls.is_empty() {
                executor.recall(&self.recalls);
                self.recalls.clear();
            }
            if !self.withdrawals.is_empty() {
                executor.withdraw(&self.withdrawals);
                self.withdrawals.clear();
            }
            for (kill, attempts) in self.cancels.iter_mut().enumerate() {
                if !attempts.is_empty() {
                    executor.cancel(attempts, kill == 1);
                    attempts.clear();
                }
            }
        }
        self.write_history();
        // What a worker holds ahead is work for its slots, whether it is known to have begun or not.
        let given = self.live.len() as u64;
        let starved = given < self.slots && self.sched.counts().ready == 0;
        if self.uncommitted > 0 && (given == 0 || starved) {
            self.journal.hurry(given == 0);
        }
        self.progress.set(&self.counts, running, self.executed);
    }

    /// Waits until something happens, and queues it.
    async fn wait(&mut self) {
        let timer = self.next_timer();
        let word = async {
            match &mut self.study {
                Some(study) => study.word().await,
                None => std::future::pending().await,
            }
        };
        let stop = async {
            match &mut self.stop {
                Some(stop) => stop.0.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            stop = stop => match stop {
                Some(stop) => self.request_stop(stop),
                None => self.stop = None,
            },
            reply = self.durable.recv() => self.take_durable(reply),
            event = self.executor_events.recv() => {
                if let Some(event) = event {
                    self.take_executor_event(event);
                }
            }
            ticket = self.behind.word() => self.take_word(ticket),
            word = word => {
                if let Some(study) = &mut self.study {
                    study.take_word(word);
                }
            }
            () = tokio::time::sleep(timer.map_or(LOOK, |timer| timer.min(LOOK))) => {}
        }
        self.take_what_waits();
    }

    /// Takes what else is there, so that one pass of the scheduler serves it all.
    fn take_what_waits(&mut self) {
        while let Ok(reply) = self.durable.try_recv() {
            self.take_durable(Some(reply));
        }
        for _ in 0..1024 {
            match self.executor_events.try_recv() {
                Ok(event) => self.take_executor_event(event),
                Err(_) => break,
            }
        }
        self.take_words();
        self.look_at_the_stuck();
        if let Some(study) = &mut self.study {
            study.look_at_the_clock();
        }
        self.tell_time_now_and_then();
        let now = self.now();
        while let Some(Reverse((at, id))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            self.queue.push_back(Event::TimerFired(id));
        }
    }

    /// How long until the next timer.
    fn next_timer(&self) -> Option<Duration> {
        let Reverse((at, _)) = self.timers.peek()?;
        Some(Duration::from_micros(at.0.saturating_sub(self.now().0)))
    }

    fn request_stop(&mut self, stop: Stop) {
        self.stopped = Some(self.stopped.map_or(stop, |former| former.max(stop)));
        self.record(RunEvent::StopRequested {
            stop: match stop {
                Stop::Drain => StopKind::Drain,
                Stop::Terminate => StopKind::Terminate,
                Stop::Kill => StopKind::Kill,
            },
        });
        self.batch.sync = true;
        if let Some(study) = &mut self.study {
            study.stop();
            // Its trials go on with the next run.
            self.queue.push_back(Event::PlanComplete);
        }
        self.queue.push_back(Event::StopRequested(stop));
    }

    fn interrupted(&self) -> bool {
        self.stopped.is_some()
    }

    /// Starts the executor if it is not there yet.
    fn need_executor(&mut self) {
        let Some(factory) = self.factory.take() else {
            return;
        };
        let context = ExecutorContext {
            run: self.run.clone(),
            resumes: self.restored.as_ref().map_or_else(Vec::new, Restored::runs),
            project: self.workspace.project().to_path_buf(),
            folder: self.workspace.run_path(&self.run),
        };
        match factory(&context) {
            Ok(executor) => {
                self.journal.begin_thread();
                self.journal.results_of(Arc::clone(&executor));
                executor.start(self.executor_sender.clone());
                let may_rejoin = executor.may_rejoin();
                self.executor = Some(executor);
                if !may_rejoin {
                    self.rejoined();
                }
            }
            Err(error) => self.fatal = Some(format!("the executor cannot start: {error}")),
        }
    }
}
