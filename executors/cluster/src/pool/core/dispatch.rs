//! Which of the attempts that wait for a worker it is given next.
//!
//! Each run places as if it were alone. Where runs want more of a worker than it has, they take turns: higher priority first,
//! then whoever uses the least of all workers now. Nobody overtakes whose turn it is, so that large demands are met too.

use std::cmp::Reverse;

use dagrun_model::{AttemptId, WorkerIx};

use super::{
    Core, Effect, RunIx,
    state::{Attempt, Run, Share, State, Worker},
};
use crate::{
    message::{StartAttempt, ToWorker},
    mutant::Mutant,
};

impl Core {
    /// Gives a worker what it has room for.
    pub(super) fn dispatch(&mut self, ix: WorkerIx, effects: &mut Vec<Effect>) {
        let Some(worker) = self.workers.get(&ix) else {
            return;
        };
        if !self.may_give(worker) {
            return;
        }
        let Some(conn) = worker.conn() else {
            return;
        };
        let mut starts = Vec::new();
        while let Some((run, id)) = self.next_for(ix) {
            starts.push(self.send(ix, run, id));
        }
        if !starts.is_empty() {
            effects.push(Effect::Send(conn, ToWorker::Start(starts)));
        }
    }

    /// Whether a worker takes anything new.
    pub(super) fn may_give(&self, worker: &Worker) -> bool {
        !worker.leaving || self.has(Mutant::LeavingIgnored)
    }

    /// Room came free on a worker, and perhaps something that is limited over all, or CPUs of a run that may have so many.
    pub(super) fn dispatch_after(&mut self, ix: WorkerIx, effects: &mut Vec<Effect>) {
        self.dispatch(ix, effects);
        self.offer_room(ix, effects);
        let is_limited = |run: &Run| run.most.is_some();
        if self.config.limits.is_empty() && !self.runs.values().any(is_limited) {
            return;
        }
        let waits = self.workers.iter().filter(|(_, it)| it.has_queued());
        let waits: Vec<WorkerIx> = waits.map(|(other, _)| *other).collect();
        for other in waits.into_iter().filter(|other| *other != ix) {
            self.dispatch(other, effects);
        }
    }

    fn next_for(&self, ix: WorkerIx) -> Option<(RunIx, AttemptId)> {
        let worker = &self.workers[&ix];
        let waiting = worker.shares.iter().filter(|(_, s)| !s.queue.is_empty());
        for run in self.in_turn(waiting.map(|(run, _)| *run)) {
            let (known, share) = (&self.runs[&run], &worker.shares[&run]);
            let mut queue = share.queue.iter();
            // What waits for a limit keeps nobody waiting who does not.
            let next = queue.find(|id| self.within_limits(&known.attempts[id]));
            let next = next.filter(|id| self.may_have(known, &known.attempts[id]));
            if let Some(id) = next {
                let may = self.has_room(worker, share, &known.attempts[id]);
                return may.then_some((run, *id));
            }
        }
        None
    }

    /// Runs in the order in which it is their turn.
    pub(super) fn in_turn(&self, runs: impl Iterator<Item = RunIx>) -> Vec<RunIx> {
        let mut runs: Vec<RunIx> = runs.collect();
        runs.sort_unstable_by_key(|run| {
            let known = &self.runs[run];
            (Reverse(known.priority), known.used, *run)
        });
        runs
    }

    fn within_limits(&self, attempt: &Attempt) -> bool {
        if attempt.limited.is_empty() || self.has(Mutant::LimitIgnored) {
            return true;
        }
        // Workers that may come back have some of it, perhaps.
        let mut limited = attempt.limited.iter();
        self.rejoined && limited.all(|(name, amount)| self.limits.get(name) >= Some(amount))
    }

    /// Whether a run may have the CPUs of one attempt more.
    fn may_have(&self, run: &Run, attempt: &Attempt) -> bool {
        let most = run.most.unwrap_or(u64::MAX);
        run.used.saturating_add(attempt.demand.cpu_milli) <= most || self.has(Mutant::MostIgnored)
    }

    /// Whether a worker can take an attempt: it has room, or the run itself gave it ahead and the worker holds few such.
    fn has_room(&self, worker: &Worker, share: &Share, attempt: &Attempt) -> bool {
        let given_ahead = !share.room.fits(&attempt.demand);
        worker.room.fits(&attempt.demand)
            || given_ahead && worker.room.ahead() < worker.identity.ahead as usize
            || self.has(Mutant::RoomIgnored)
    }

    /// Moves an attempt from its queue to its worker.
    fn send(&mut self, ix: WorkerIx, run: RunIx, id: AttemptId) -> StartAttempt {
        let known = self.runs.get_mut(&run).expect("it has a queue");
        let attempt = known.attempts.get_mut(&id).expect("it is in a queue");
        attempt.state = State::Sent { began: false };
        known.used += attempt.demand.cpu_milli;
        known.queued -= 1;
        for (name, amount) in &attempt.limited {
            let left = self.limits.entry(name.clone()).or_default();
            *left = left.saturating_sub(*amount);
        }
        let worker = self.workers.get_mut(&ix).expect("it was asked for");
        let key = (run, id);
        worker.room.take(key, &attempt.demand);
        worker.holds.insert(key);
        let share = worker.share(run);
        share.room.take(key, &attempt.demand);
        let at = share.queue.iter().position(|other| *other == id);
        share.queue.remove(at.expect("it is in the queue"));
        attempt
            .start(id)
            .expect("what waits here was given by a run")
    }
}
