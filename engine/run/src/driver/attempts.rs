//! Attempts: submitted, ended, committed.

use std::{sync::Arc, time::SystemTime, time::UNIX_EPOCH};

use dagrun_events::{AttemptSummary, NodeOutcome, RunEvent};
use dagrun_executor_api::{Executor, ExecutorEvent, FullDisk, WorkerInfo};
use dagrun_model::{
    Action, ActionDigest, Artifact, AttemptId, AttemptResult, AttemptSpec, ContentHasher, Digest,
    FailureCause, HostIx, InputSource, NodeIx, Outcome, Outputs, Resources, RetryCause, WorkerIx,
};
use dagrun_sched::{AttemptEnd, Event, Stop};
use dagrun_store::{ActionEntry, Differing, MadeBy};

use super::{Driver, LastEnd, look_up::bytes_of};
use crate::{
    PastEnd, PastRun,
    history::EndLine,
    journal::{Commit, Durable},
    lock::LockWatch,
};

/// An attempt that runs.
pub(super) struct Live {
    node: NodeIx,
    number: u32,
    worker: WorkerIx,
    digest: ActionDigest,
    /// What it does; not known yet of one that was taken over before its node was looked up.
    action: Option<Arc<Action>>,
    /// A process of it ran.
    began: bool,
}

/// An attempt that succeeded.
pub(super) struct Finished {
    node: NodeIx,
    worker: WorkerIx,
    digest: ActionDigest,
    outputs: Arc<Outputs>,
    result: AttemptResult,
}

impl Live {
    /// One that runs already.
    pub(super) fn adopted(
        node: NodeIx,
        number: u32,
        worker: WorkerIx,
        digest: ActionDigest,
    ) -> Self {
        Self {
            node,
            number,
            worker,
            digest,
            action: None,
            began: true,
        }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn learn(&mut self, action: Arc<Action>) {
        self.action = Some(action);
    }

    pub(super) fn node(&self) -> NodeIx {
        self.node
    }
}

impl Driver<'_> {
    /// Starts an attempt: into the journal first, then to the executor.
    pub(super) fn start(
        &mut self,
        attempt: AttemptId,
        node: NodeIx,
        number: u32,
        worker: WorkerIx,
        resources: Resources,
    ) {
        self.board.set_attempt(node, number);
        let action = match self.plan.action(node, &self.board) {
            Ok(mut action) => {
                // How a node is ended and how much of its logs is kept is no part of what it does: not in its digest.
                action.limits.grace = self.options.grace;
                action.limits.log_cap = self.options.log_cap;
                // A node that was out of memory gets more than it declared, and is held to that.
                action.limits.memory = resources.memory;
                Arc::new(action)
            }
            Err(cause) => {
                self.causes.insert(node, cause);
                let end = AttemptEnd::Failed(None);
                let ran = 0;
                self.queue
                    .push_back(Event::AttemptEnded { attempt, end, ran });
                return;
            }
        };
        let id = self.plan.id(node);
        self.record(RunEvent::AttemptStarted {
            node: id.clone(),
            key: self.plan.key(node),
            attempt: attempt.0,
            number,
            worker: worker.0,
            after: self.last_need(node),
            adopted: None,
        });
        self.executed += 1;
        if number == 1 {
            self.fresh.push(node);
        }
        self.submits.entry(worker).or_default().push(AttemptSpec {
            attempt,
            node,
            id,
            number,
            action: Arc::clone(&action),
            resources,
            keep_failed: self.options.keep_failed,
            run: None,
        });
        let live = Live {
            node,
            number,
            worker,
            digest: action.digest,
            action: Some(action),
            began: false,
        };
        self.live.insert(attempt, live);
    }

    /// The node among those that a node needs that ended last, where that one ran.
    fn last_need(&self, node: NodeIx) -> Option<String> {
        let last = self
            .plan
            .producers(node)
            .into_iter()
            .max_by_key(|need| self.board.order(*need))?;
        (self.board.order(last) > 0).then(|| self.plan.id(last))
    }

    /// Tells history what the keys of started nodes were made of; the nodes run meanwhile.
    pub(super) fn write_history(&mut self) {
        for node in std::mem::take(&mut self.fresh) {
            let past = PastRun {
                id: self.plan.id(node),
                job: self.plan.job_name(node).into(),
                run: self.run.0.clone(),
                action: self
                    .plan
                    .action_digest(node, &self.board)
                    .unwrap_or_default(),
                parts: self.plan.manifest(node, &self.board),
                pipeline: self.plan.pipeline_name().into(),
                end: None,
            };
            let line = serde_json::to_vec(&past).expect("a past run is plain data");
            self.batch.history.push(line);
        }
    }

    /// Tells history how the execution of a node ended; nothing of nodes that did not run.
    pub(super) fn write_history_end(&mut self, node: NodeIx, outcome: NodeOutcome) {
        let end = match (outcome, self.last_ends.get(&node)) {
            (NodeOutcome::Succeeded, _) => PastEnd::Succeeded,
            (NodeOutcome::Failed, Some(last)) => PastEnd::Failed(last.summary.describe()),
            (NodeOutcome::Cancelled, Some(_)) => PastEnd::Interrupted,
            _ => return,
        };
        let line = EndLine {
            id: self.plan.id(node),
            pipeline: self.plan.pipeline_name().into(),
            run: self.run.0.clone(),
            end,
        };
        let line = serde_json::to_vec(&line).expect("an end is plain data");
        self.batch.history.push(line);
    }

    pub(super) fn take_executor_event(&mut self, event: ExecutorEvent) {
        match event {
            ExecutorEvent::WorkerJoined(info) => self.worker_joined(info),
            ExecutorEvent::Rejoined => {
                self.rejoined();
                self.answer_released();
            }
            ExecutorEvent::TakenByOthers(taken) => {
                self.taken.extend(taken.iter().cloned());
                self.queue.push_back(Event::TakenByOthers(taken));
            }
            ExecutorEvent::WorkerDraining(worker) => {
                self.draining.insert(worker);
                self.count_slots();
                self.queue.push_back(Event::WorkerDraining(worker));
            }
            ExecutorEvent::WorkerDisk(worker, full) => self.worker_disk(worker, full),
            ExecutorEvent::WorkerLost(worker, reason) => {
                self.record(RunEvent::WorkerLost {
                    worker: worker.0,
                    reason,
                });
                self.workers.retain(|event| {
                    !matches!(event, Event::WorkerJoined { worker: w, .. } | Event::WorkerHasRoom(w, _) if *w == worker)
                });
                self.draining.remove(&worker);
                self.taken.remove(&worker);
                self.count_slots();
                self.queue.push_back(Event::WorkerLost(worker));
            }
            ExecutorEvent::Started(attempt) => {
                if let Some(live) = self.live.get_mut(&attempt) {
                    live.began = true;
                }
                self.queue.push_back(Event::AttemptStarted(attempt));
            }
            ExecutorEvent::Fetched(attempt, host, blobs) => self.fetched(attempt, host, &blobs),
            ExecutorEvent::Ended(attempt, result) => self.attempt_ended(attempt, *result),
            ExecutorEvent::Warning(message) => self.warn(message),
        }
    }

    fn worker_joined(&mut self, mut info: WorkerInfo) {
        self.record(RunEvent::WorkerJoined {
            worker: info.worker.0,
            host: info.host_name.clone(),
            slots: info.capacity.cpu_milli as f64 / 1000.0,
            memory: info.capacity.memory,
            process: info.process.clone(),
        });
        self.hosts.insert(info.worker, info.host_name.clone());
        self.tell_full(info.worker);
        let held = self.take_over(&mut info);
        let joined = |held| Event::WorkerJoined {
            worker: info.worker,
            host: info.host,
            capacity: info.capacity.clone(),
            profile: info.profile.clone(),
            ahead: info.ahead,
            speed: info.speed,
            held,
        };
        // A later round has a scheduler that knows nothing of former drivers.
        self.workers.push(joined(Vec::new()));
        self.count_slots();
        self.queue.push_back(joined(held));
        self.answer_released();
    }

    fn worker_disk(&mut self, worker: WorkerIx, full: Option<FullDisk>) {
        let told = Event::WorkerHasRoom(worker, full.is_none());
        self.workers
            .retain(|event| !matches!(event, Event::WorkerHasRoom(w, _) if *w == worker));
        match full {
            Some(full) => {
                self.workers.push(told.clone());
                self.full.entry(worker).or_insert((full, false));
                self.tell_full(worker);
            }
            // Once in a run is enough for people.
            None => self.full.retain(|it, (_, told)| *it != worker || *told),
        }
        self.queue.push_back(told);
    }

    /// Tells people of a worker without room, when its name is known. Of workers that the run itself has the failure tells enough.
    fn tell_full(&mut self, worker: WorkerIx) {
        let Some(host) = self.hosts.get(&worker) else {
            return;
        };
        if let Some((full, told)) = self.full.get_mut(&worker)
            && self.config.awaits_workers
            && !std::mem::replace(told, true)
        {
            let text = format!(
                "worker {host} had too little room on its disk for a node: {full}; while it is short of room it gets only what no \
                 other worker can take; free some there, or bound its store with `dagrun worker --cache-size`"
            );
            self.warn(text);
        }
    }

    /// Counts the slots of the workers that are there and take something; a study follows them.
    fn count_slots(&mut self) {
        let slots = self.workers.iter().map(|event| match event {
            Event::WorkerJoined {
                worker, capacity, ..
            } if !self.draining.contains(worker) => capacity.cpu_milli / 1000,
            _ => 0,
        });
        self.slots = slots.sum::<u64>().min(self.most_slots);
        if let Some(study) = &mut self.study {
            study.set_slots(u32::try_from(self.slots).unwrap_or(u32::MAX));
        }
    }

    /// What an attempt read is on its host too from now on: others that read it are better off there.
    fn fetched(&mut self, attempt: AttemptId, host: HostIx, blobs: &[Digest]) {
        let Some(live) = self.live.get(&attempt) else {
            return;
        };
        let was_fetched = |output: &Artifact| {
            output
                .blob_digest()
                .is_some_and(|blob| blobs.contains(&blob))
        };
        for node in self.plan.producers(live.node) {
            let outputs = self.board.outputs_of(node);
            if outputs.is_some_and(|outputs| outputs.values().any(was_fetched)) {
                self.queue.push_back(Event::ReplicaAdded { node, host });
            }
        }
    }

    fn attempt_ended(&mut self, attempt: AttemptId, result: AttemptResult) {
        // A late word of an attempt that is over already changes nothing.
        let Some(live) = self.live.remove(&attempt) else {
            return;
        };
        let node = self.plan.id(live.node);
        let summary = AttemptSummary::from(&result);
        self.record(RunEvent::AttemptEnded {
            node: node.clone(),
            key: self.plan.key(live.node),
            attempt: attempt.0,
            result: Box::new(summary.clone()),
        });
        // A failure that was charged stays charged over a crash.
        self.batch.sync |= summary.is_charged();
        if result.leaked > 0 {
            self.record(RunEvent::Leaked {
                node: node.clone(),
                processes: result.leaked,
            });
            self.warnings.push(format!(
                "`{node}` left {} running when it ended; they were killed",
                if result.leaked == 1 {
                    "a process".into()
                } else {
                    format!("{} processes", result.leaked)
                }
            ));
        }
        // Starting its processes keeps a slot busy too.
        let ran = ((result.phases.start + result.phases.compute) * 1e6) as u64;
        let end = self.map_outcome(attempt, &live, result, summary);
        self.queue
            .push_back(Event::AttemptEnded { attempt, end, ran });
    }

    fn map_outcome(
        &mut self,
        attempt: AttemptId,
        live: &Live,
        mut result: AttemptResult,
        summary: AttemptSummary,
    ) -> AttemptEnd {
        let outcome = std::mem::replace(&mut result.outcome, Outcome::Cancelled);
        if let Outcome::Succeeded(outputs) = outcome {
            let bytes = bytes_of(&outputs);
            let finished = Finished {
                node: live.node,
                worker: live.worker,
                digest: self.commit_digest(live),
                outputs: Arc::new(outputs),
                result,
            };
            self.succeeded.insert(attempt, finished);
            return AttemptEnd::Succeeded { bytes };
        }
        self.batch.settled.push(attempt);
        // What was taken back before it began is no execution that was interrupted.
        if !live.began && matches!(outcome, Outcome::Cancelled) {
            return AttemptEnd::Cancelled;
        }
        let last = LastEnd {
            summary,
            host: match self.config.awaits_workers {
                true => self.hosts.get(&live.worker).cloned(),
                // Of workers that the run itself has there is nothing to tell.
                false => None,
            },
            number: live.number,
            command: live.action.as_deref().map(command_text).unwrap_or_default(),
            values: live
                .action
                .as_deref()
                .map(command_values)
                .unwrap_or_default(),
        };
        self.last_ends.insert(live.node, last);
        match outcome {
            Outcome::Succeeded(_) => unreachable!("handled above"),
            Outcome::TimedOut(_) => AttemptEnd::Failed(Some(RetryCause::Timeout)),
            Outcome::Lost(_) => AttemptEnd::Lost,
            Outcome::Cancelled => AttemptEnd::Cancelled,
            // One that was taken over, and whose node was not looked up: nobody knows yet what it read.
            Outcome::Failed(FailureCause::Staging { .. }) if live.action.is_none() => {
                AttemptEnd::Lost
            }
            Outcome::Failed(FailureCause::Staging {
                path,
                missing_blob: true,
                ..
            }) => self.missing_inputs(live, &path),
            Outcome::Failed(FailureCause::Engine { .. }) => AttemptEnd::Lost,
            Outcome::Failed(FailureCause::DiskFull { .. }) => AttemptEnd::NoRoom,
            Outcome::Failed(cause) => AttemptEnd::Failed(cause.retry_cause()),
        }
    }

    /// A node that is never cached is kept under a digest of its own, so that its outputs are durable like others.
    fn commit_digest(&self, live: &Live) -> ActionDigest {
        if !self.never_cached.contains(&live.node) {
            return live.digest;
        }
        ContentHasher::new("dagrun.uncached.v1")
            .with(&self.run.0)
            .with(&self.plan.id(live.node))
            .finish()
    }

    /// Finds who made the input that is gone.
    fn missing_inputs(&mut self, live: &Live, path: &str) -> AttemptEnd {
        let inputs = live.action.iter().flat_map(|action| &action.inputs);
        let staged = inputs.into_iter().find_map(|input| {
            let same = input.path.as_str() == path;
            match &input.source {
                InputSource::Stored(artifact) if same => Some(artifact),
                _ => None,
            }
        });
        // Who has it did not answer perhaps: a coordinator that was starting again. The node is lost there, once.
        if staged.is_some_and(|it| self.is_whole(it)) && self.unreached.insert(live.node) {
            return AttemptEnd::Lost;
        }
        let staged = staged.map(Artifact::content_digest);
        let needs = self.plan.producers(live.node);
        let made = |node: &NodeIx, is: &dyn Fn(&Artifact) -> bool| {
            self.board
                .outputs_of(*node)
                .is_some_and(|outputs| outputs.values().any(is))
        };
        let mut producers: Vec<NodeIx> = match staged {
            Some(digest) => needs
                .iter()
                .copied()
                .filter(|node| made(node, &|a| a.content_digest() == digest))
                .collect(),
            None => Vec::new(),
        };
        if producers.is_empty() {
            let gone = |a: &Artifact| a.blob_digest().is_some_and(|blob| !self.is_had(&blob));
            producers = needs.into_iter().filter(|node| made(node, &gone)).collect();
        }
        if producers.is_empty() {
            return AttemptEnd::Failed(None);
        }
        self.record(RunEvent::InputMissing {
            node: self.plan.id(live.node),
            producers: producers.iter().map(|node| self.plan.id(*node)).collect(),
        });
        let ids: Vec<_> = producers.iter().map(|node| self.plan.id(*node)).collect();
        self.warn(format!(
            "outputs of {} were missing or damaged in the store and are made again",
            ids.join(", ")
        ));
        self.rewound.extend(&producers);
        AttemptEnd::InputsMissing(producers)
    }

    /// Whether all of an artifact is here, or with a worker as far as is known. That the manifest of a folder is here says nothing of
    /// its files.
    fn is_whole(&self, artifact: &Artifact) -> bool {
        artifact.blob_digest().is_some_and(|blob| match artifact {
            Artifact::Tree { .. } => self.executor.as_ref().is_some_and(|it| it.holds(&blob)),
            _ => self.is_had(&blob),
        })
    }

    /// Whether a blob is here, or with a worker as far as is known.
    fn is_had(&self, blob: &Digest) -> bool {
        let is_elsewhere = |executor: &Arc<dyn Executor>| executor.holds(blob);
        self.store.contains(blob) || self.executor.as_ref().is_some_and(is_elsewhere)
    }

    /// Hands a success to the journal's thread.
    pub(super) fn commit(&mut self, node: NodeIx, attempt: AttemptId) {
        let Some(finished) = self.succeeded.remove(&attempt) else {
            return;
        };
        let result = finished.result;
        let entry = ActionEntry {
            outputs: (*finished.outputs).clone(),
            stdout: result.stdout,
            stderr: result.stderr,
            phases: result.phases,
            usage: result.usage,
            made_by: MadeBy {
                run: self.run.0.clone(),
                node: self.plan.id(node),
                host: self
                    .hosts
                    .get(&finished.worker)
                    .cloned()
                    .unwrap_or_default(),
                time_ms: now_ms(),
            },
        };
        // The scheduler tells dependents only after `Committed`, so they cannot see these outputs before.
        self.board.set_outputs(node, finished.outputs);
        self.uncommitted += 1;
        self.batch.settled.push(attempt);
        // What is never cached has a digest that no other run looks up.
        if !self.never_cached.contains(&node) {
            self.behind.will_commit(node, finished.digest);
        }
        self.batch.commits.push(Commit {
            node,
            digest: finished.digest,
            entry,
            replace: self.is_forced(node),
        });
    }

    /// Equal actions should give equal bytes: tells where they did not, and takes the result that holds.
    fn differs(&mut self, node: NodeIx, differing: Differing) {
        let (now, former, held) = if differing.replaced {
            let held = "that of an equal action before; the new one is used from now on";
            (differing.kept.outputs, differing.other.outputs, held)
        } else {
            let held = "that of an equal action before; the old one is used";
            (differing.other.outputs, differing.kept.outputs, held)
        };
        self.tell_differences(node, &former, &now, held);
        if !differing.replaced {
            self.board.set_outputs(node, Arc::new(former));
        }
    }

    fn tell_differences(&mut self, node: NodeIx, former: &Outputs, now: &Outputs, held: &str) {
        let id = self.plan.id(node);
        for (name, artifact) in now {
            let before = former.get(name);
            if before.map(Artifact::content_digest) == Some(artifact.content_digest()) {
                continue;
            }
            self.record(RunEvent::NonDeterminism {
                node: id.clone(),
                output: name.clone(),
                former: before.and_then(Artifact::blob_digest),
                now: artifact.blob_digest(),
            });
            self.warnings.push(format!(
                "output `{name}` of `{id}` differs from {held}: the node is not deterministic, or depends on something that it does not declare"
            ));
        }
    }

    /// The scheduler asks for a commit at once or never, unless it has yet to hear that the node must run: what is left lost a
    /// race with the other attempt at its node, and should have made the same.
    pub(super) fn look_at_losers(&mut self) {
        let sched = &self.sched;
        let losers = self
            .succeeded
            .extract_if(|attempt, finished| !sched.keeps(finished.node, *attempt));
        for (attempt, loser) in losers.collect::<Vec<_>>() {
            self.batch.settled.push(attempt);
            if let Some(won) = self.board.outputs_of(loser.node).cloned() {
                let held = "that of another attempt at it; the one that ended first is used";
                self.tell_differences(loser.node, &won, &loser.outputs, held);
            }
        }
    }

    pub(super) fn take_durable(&mut self, reply: Option<Durable>) {
        match reply {
            Some(Durable::Committed(nodes)) => {
                self.uncommitted -= nodes.len() as u64;
                self.behind.committed(nodes.iter().map(|(node, _)| *node));
                for (node, differing) in nodes {
                    if let Some(differing) = differing {
                        self.differs(node, *differing);
                    }
                    self.rewound.remove(&node);
                    self.last_ends.remove(&node);
                    self.queue.push_back(Event::Committed(node));
                }
            }
            Some(Durable::NotCommitted(node, cause)) => {
                self.uncommitted -= 1;
                self.causes.insert(node, cause);
                self.queue.push_back(Event::CommitFailed(node));
            }
            Some(Durable::Settled(attempts)) => {
                if let Some(executor) = &self.executor {
                    executor.settled(&attempts);
                }
            }
            Some(Durable::StudyLog) => self.study_is_durable(),
            Some(Durable::Failed(error)) => {
                // A workspace that was deleted is why nothing can be written in it.
                let lost = self.lock.as_ref().and_then(LockWatch::lost);
                self.fatal = Some(lost.unwrap_or(error));
            }
            None => {
                self.fatal
                    .get_or_insert_with(|| "the journal's writer died".into());
            }
        }
    }

    /// Ends what runs, at once: the run itself cannot go on.
    pub(super) fn abandon(&mut self) {
        self.stopped.get_or_insert(Stop::Kill);
        let attempts: Vec<AttemptId> = self.live.keys().copied().collect();
        if let Some(executor) = &self.executor {
            executor.cancel(&attempts, true);
        }
    }
}

/// The command of an action on one line.
pub(super) fn command_text(action: &Action) -> String {
    let texts: Vec<String> = action
        .commands
        .iter()
        .map(|command| match &command.script {
            Some(script) => script.trim().to_string(),
            None => command.argv.join(" "),
        })
        .collect();
    texts.join("; ")
}

/// What stands for the templates of a command: variables that its text names, with their values. Secrets are not among them:
/// only the worker knows their values.
pub(super) fn command_values(action: &Action) -> Vec<(String, String)> {
    let text = command_text(action);
    let own = action.commands.iter().flat_map(|command| &command.env);
    let mut values: Vec<(String, String)> = action
        .env
        .iter()
        .chain(own)
        .filter(|(name, _)| name.starts_with("DAGRUN_V"))
        .filter(|(name, _)| {
            text.contains(&format!("${{{name}}}")) || text.contains(&format!("${name}"))
        })
        .filter(|(name, _)| !action.secrets.contains(name))
        .cloned()
        .collect();
    values.dedup();
    values
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
