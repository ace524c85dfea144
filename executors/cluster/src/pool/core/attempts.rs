//! Attempts: submitted, stopped, ended, settled.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use dagrun_executor_api::ExecutorEvent;
use dagrun_model::{AttemptId, AttemptResult, AttemptSpec, Outcome, Resources, WorkerIx};

use super::{
    Core, Effect, RunIx,
    room::Key,
    state::{Attempt, Origin, Run, State, Unsettled},
};
use crate::{
    message::{AttemptRef, Ended, How, Progress, ToWorker},
    mutant::Mutant,
};

impl Core {
    pub(super) fn submit(
        &mut self,
        run: RunIx,
        worker: WorkerIx,
        specs: Vec<AttemptSpec>,
        effects: &mut Vec<Effect>,
    ) {
        if let Err(outcome) = self.may_submit(run, worker) {
            for spec in specs {
                tell_end(run, spec.attempt, outcome.clone(), effects);
            }
            return;
        }
        for spec in specs {
            self.enqueue(run, worker, spec);
        }
        self.dispatch(worker, effects);
        self.tell_whom_others_keep_waiting(run, worker, effects);
    }

    /// How attempts end at once that cannot be taken.
    fn may_submit(&self, run: RunIx, worker: WorkerIx) -> Result<(), Outcome> {
        let closing = self.runs.get(&run).is_none_or(|run| run.closing);
        // No worker has had them: they are not lost.
        match self.workers.get(&worker) {
            Some(worker) if !closing && self.may_give(worker) => Ok(()),
            _ => Err(Outcome::Cancelled),
        }
    }

    fn enqueue(&mut self, run: RunIx, worker: WorkerIx, mut spec: AttemptSpec) {
        let id = spec.attempt;
        let limited = take_limited(&mut spec.resources, &self.config.limits);
        let known = self.runs.get_mut(&run).expect("it was looked at");
        let attempt = Attempt {
            name: known.id.clone(),
            demand: spec.resources.clone(),
            limited,
            origin: Origin::Given(Arc::new(spec)),
            worker,
            state: State::Queued,
            stop: None,
        };
        known.attempts.insert(id, attempt);
        known.queued += 1;
        let worker = self.workers.get_mut(&worker).expect("it was looked at");
        worker.share(run).queue.push_back(id);
    }

    pub(super) fn cancel(
        &mut self,
        run: RunIx,
        attempts: &[AttemptId],
        kill: bool,
        effects: &mut Vec<Effect>,
    ) {
        let how = if kill { How::Kill } else { How::Terminate };
        self.stop(run, attempts, how, effects);
    }

    pub(super) fn recall(&mut self, run: RunIx, attempts: &[AttemptId], effects: &mut Vec<Effect>) {
        self.stop(run, attempts, How::Recall, effects);
    }

    /// Ends what waits in the pool, and tells workers of the rest.
    pub(super) fn stop(
        &mut self,
        run: RunIx,
        attempts: &[AttemptId],
        how: How,
        effects: &mut Vec<Effect>,
    ) {
        let mut told: BTreeMap<WorkerIx, Vec<AttemptRef>> = BTreeMap::new();
        let Some(known) = self.runs.get_mut(&run) else {
            return;
        };
        let mut queued = Vec::new();
        for id in attempts {
            let Some(attempt) = known.attempts.get_mut(id) else {
                continue;
            };
            match attempt.state {
                State::Queued => queued.push(*id),
                State::Sent { began: true } if how == How::Recall => {}
                State::Sent { .. } => {
                    attempt.stop = attempt.stop.max(Some(how));
                    let refs = told.entry(attempt.worker).or_default();
                    refs.push(attempt.as_ref(*id));
                }
            }
        }
        for id in queued {
            self.end_here(run, id, Outcome::Cancelled, effects);
        }
        for (worker, refs) in told {
            if let Some(conn) = self.workers[&worker].conn() {
                effects.push(Effect::Send(conn, ToWorker::Stop(refs, how)));
            }
        }
    }

    /// Gives back what waits here.
    pub(super) fn withdraw(
        &mut self,
        run: RunIx,
        attempts: &[AttemptId],
        effects: &mut Vec<Effect>,
    ) {
        let Some(known) = self.runs.get(&run) else {
            return;
        };
        let mut queued = Vec::new();
        for id in attempts {
            let attempt = known.attempts.get(id);
            let waits =
                |it: &&Attempt| it.state == State::Queued || self.has(Mutant::SentWithdrawn);
            if let Some(attempt) = attempt.filter(waits) {
                queued.push((*id, attempt.worker));
            }
        }
        for (id, _) in &queued {
            self.end_here(run, *id, Outcome::Cancelled, effects);
        }
        // Others may have waited behind it.
        let workers: BTreeSet<WorkerIx> = queued.into_iter().map(|(_, worker)| worker).collect();
        for worker in workers {
            self.dispatch(worker, effects);
        }
    }

    /// What a worker says of attempts.
    pub(super) fn progress(
        &mut self,
        worker: WorkerIx,
        progress: Progress,
        effects: &mut Vec<Effect>,
    ) {
        for started in progress.started {
            self.started(worker, &started, effects);
        }
        let mut unwanted = Vec::new();
        let before = effects.len();
        for ended in progress.ended {
            if let Some(attempt) = self.ended(worker, ended, effects) {
                unwanted.push(attempt);
            }
        }
        if let (false, Some(conn)) = (unwanted.is_empty(), self.workers[&worker].conn()) {
            effects.push(Effect::Send(conn, ToWorker::Settled(unwanted)));
        }
        self.dispatch_after(worker, effects);
        self.tell_who_has_the_room(worker, before, effects);
    }

    fn started(&mut self, worker: WorkerIx, attempt: &AttemptRef, effects: &mut Vec<Effect>) {
        let Some((run, id)) = self.key_of(attempt) else {
            return;
        };
        let known = self.runs.get_mut(&run).expect("it is in the index");
        if let Some(attempt) = known.attempts.get_mut(&id)
            && attempt.worker == worker
            && attempt.state == (State::Sent { began: false })
        {
            attempt.state = State::Sent { began: true };
            known.tell(run, ExecutorEvent::Started(id), effects);
        }
    }

    /// Takes a result; gives the attempt back where nobody wants it.
    fn ended(
        &mut self,
        worker: WorkerIx,
        ended: Ended,
        effects: &mut Vec<Effect>,
    ) -> Option<AttemptRef> {
        let Some((run, id)) = self.key_of(&ended.attempt) else {
            return Some(ended.attempt);
        };
        let known = &self.runs[&run];
        let is_from = |holder: WorkerIx| holder == worker || self.has(Mutant::NoFence);
        match known.attempts.get(&id) {
            Some(attempt) if is_from(attempt.worker) && attempt.state != State::Queued => {}
            Some(_) => return Some(ended.attempt),
            // It was told before: the word that it is settled will follow.
            None if known.unsettled.get(&id).map(|it| it.worker) == Some(worker) => {
                if self.has(Mutant::DoubleEnd) {
                    effects.push(end_of(run, id, ended.result));
                }
                return None;
            }
            None => return Some(ended.attempt),
        }
        let attempt = self.forget(run, id);
        let known = self.runs.get_mut(&run).expect("it is in the index");
        let name = attempt.name.clone();
        known.unsettled.insert(id, Unsettled { worker, name });
        if known.former.is_some() {
            if !self.keep_end(run, &attempt, ended) {
                self.settle(run, &[id], effects);
            }
        } else {
            landed(known, run, worker, Box::new(ended), effects);
        }
        self.after_end(run, effects);
        None
    }

    /// Ends an attempt by what is known here.
    pub(super) fn end_here(
        &mut self,
        run: RunIx,
        id: AttemptId,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        self.forget(run, id);
        if self.runs[&run].former.is_none() {
            tell_end(run, id, outcome, effects);
        }
        self.after_end(run, effects);
    }

    /// Takes an attempt out of the run, and of all that it waited for or had.
    fn forget(&mut self, run: RunIx, id: AttemptId) -> Attempt {
        let known = self.runs.get_mut(&run).expect("an attempt is of a run");
        let attempt = known.attempts.remove(&id).expect("it is known");
        let key: Key = (run, id);
        if attempt.state != State::Queued {
            known.used -= attempt.demand.cpu_milli;
            for (name, amount) in &attempt.limited {
                *self.limits.entry(name.clone()).or_default() += amount;
            }
        } else {
            known.queued -= 1;
        }
        let leaks = self.has(Mutant::LeakSlot);
        let Some(worker) = self.workers.get_mut(&attempt.worker) else {
            return attempt;
        };
        worker.holds.remove(&key);
        let share = worker.share(run);
        if attempt.state == State::Queued {
            share.queue.retain(|other| *other != id);
        } else {
            share.room.release(key, &attempt.demand);
            if !leaks {
                worker.room.release(key, &attempt.demand);
            }
        }
        attempt
    }

    /// Results of these are durable or not wanted: their workers may forget them.
    pub(super) fn settle(&mut self, run: RunIx, attempts: &[AttemptId], effects: &mut Vec<Effect>) {
        let Some(known) = self.runs.get_mut(&run) else {
            return;
        };
        let mut told: BTreeMap<WorkerIx, Vec<AttemptRef>> = BTreeMap::new();
        for id in attempts {
            if let Some(Unsettled { worker, name }) = known.unsettled.remove(id) {
                let (run, attempt) = (name, *id);
                told.entry(worker)
                    .or_default()
                    .push(AttemptRef { run, attempt });
            }
            if let Some(results) = &mut known.former {
                results.remove(id);
            }
        }
        for (worker, refs) in told {
            if let Some(conn) = self.workers.get(&worker).and_then(|worker| worker.conn()) {
                effects.push(Effect::Send(conn, ToWorker::Settled(refs)));
            }
        }
    }

    pub(super) fn close_run(&mut self, run: RunIx, effects: &mut Vec<Effect>) {
        let Some(known) = self.runs.get_mut(&run) else {
            return;
        };
        known.closing = true;
        let mut all: Vec<AttemptId> = known.attempts.keys().copied().collect();
        all.sort_unstable();
        self.stop(run, &all, How::Kill, effects);
        self.close_former(Some(run), effects);
        self.after_end(run, effects);
    }

    /// Forgets a closed run of which nothing is left.
    fn after_end(&mut self, run: RunIx, effects: &mut Vec<Effect>) {
        let Some(known) = self.runs.get(&run) else {
            return;
        };
        if !known.closing || !known.attempts.is_empty() {
            return;
        }
        let mut left: Vec<AttemptId> = known.unsettled.keys().copied().collect();
        left.sort_unstable();
        self.settle(run, &left, effects);
        let known = self.runs.remove(&run).expect("it was looked at");
        self.by_id.remove(&known.id);
        self.heirs.retain(|_, heir| *heir != run);
        for worker in self.workers.values_mut() {
            worker.shares.remove(&run);
        }
        if known.former.is_none() {
            effects.push(Effect::RunOver(run));
        }
    }
}

/// Takes what is limited over all workers out of a demand: workers know nothing of it.
fn take_limited(demand: &mut Resources, limits: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let names = limits.keys();
    names
        .filter_map(|name| demand.named.remove_entry(name))
        .collect()
}

/// Tells of a result, by the name that its run has now.
pub(super) fn landed(
    known: &Run,
    run: RunIx,
    worker: WorkerIx,
    mut ended: Box<Ended>,
    effects: &mut Vec<Effect>,
) {
    let id = ended.attempt.attempt;
    let result = ended.result.clone();
    ended.attempt.run = known.id.clone();
    effects.push(Effect::Landed(worker, run, ended));
    effects.push(end_of(run, id, result));
}

fn end_of(run: RunIx, id: AttemptId, result: Arc<AttemptResult>) -> Effect {
    let result = Arc::unwrap_or_clone(result);
    Effect::Tell(run, ExecutorEvent::Ended(id, Box::new(result)))
}

pub(super) fn tell_end(run: RunIx, id: AttemptId, outcome: Outcome, effects: &mut Vec<Effect>) {
    effects.push(end_of(run, id, Arc::new(AttemptResult::bare(outcome))));
}
