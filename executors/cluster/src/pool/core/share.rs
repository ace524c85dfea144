//! What each run is told of the others: how much of which worker they have.
//!
//! A run places by itself, and should not wait behind others where it could begin elsewhere. What they have changes all the time, so it
//! is told only where it matters: to a run that has to wait for them, to one that might take its own room for free, to one that waits
//! where room comes up elsewhere, and to all now and then. A run that is alone is told nothing.

use std::collections::BTreeSet;

use dagrun_executor_api::ExecutorEvent;
use dagrun_model::{Resources, WorkerIx};

use super::{Core, Effect, RunIx};
use crate::mutant::Mutant;

/// How many workers of runs are looked at between two ticks.
const LOOKS: usize = 1 << 16;

/// What was looked at.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// Since the last tick.
    spent: usize,
    /// Whose turn it is with the next tick.
    next: Option<RunIx>,
    /// Runs that had all of theirs looked at since the last tick, because they had to wait.
    surveyed: BTreeSet<RunIx>,
}

impl Core {
    /// What others than a run have of a worker, as far as it keeps the run from what it was told that the worker has.
    fn taken_from(&self, run: RunIx, ix: WorkerIx) -> Resources {
        let worker = &self.workers[&ix];
        let mut taken = worker.room.given().clone();
        let known = &self.runs[&run];
        let own = worker.shares.get(&run).map(|share| share.room.given());
        let formers = self.heirs.iter().filter(|(_, heir)| **heir == run);
        // What it may take over is as good as its own.
        let formers = formers.filter_map(|(name, _)| self.by_id.get(name));
        let formers = formers.filter_map(|former| worker.shares.get(former));
        for own in own.into_iter().chain(formers.map(|it| it.room.given())) {
            lower(&mut taken, own);
        }
        if let Some(most) = known.most {
            let untold = worker.identity.capacity.cpu_milli.saturating_sub(most);
            taken.cpu_milli = taken.cpu_milli.saturating_sub(untold);
        }
        taken.named.retain(|_, amount| *amount > 0);
        taken
    }

    /// Takes down what others have of a worker, if it is something else than what the run was told.
    fn news_of(&mut self, run: RunIx, ix: WorkerIx) -> Option<(WorkerIx, Resources)> {
        let taken = self.taken_from(run, ix);
        let told = &mut self.runs.get_mut(&run)?.taken;
        let before = match taken == Resources::none() {
            true => told.remove(&ix),
            false => told.insert(ix, taken.clone()),
        };
        (before.unwrap_or(Resources::none()) != taken).then_some((ix, taken))
    }

    fn tell_taken(&self, run: RunIx, taken: Vec<(WorkerIx, Resources)>, effects: &mut Vec<Effect>) {
        if !taken.is_empty() && !self.has(Mutant::OthersUntold) {
            effects.push(Effect::Tell(run, ExecutorEvent::TakenByOthers(taken)));
        }
    }

    fn tell_of(&mut self, run: RunIx, ix: WorkerIx, effects: &mut Vec<Effect>) {
        let taken = self.news_of(run, ix).into_iter().collect();
        self.tell_taken(run, taken, effects);
    }

    /// Whether a run may have to hear of others at all.
    fn has_company(&self, run: RunIx) -> bool {
        let known = self.runs.get(&run).filter(|run| run.former.is_none());
        known.is_some_and(|known| self.runs.len() > 1 || !known.taken.is_empty())
    }

    /// Tells a run of all workers.
    pub(super) fn survey(&mut self, run: RunIx, effects: &mut Vec<Effect>) {
        if !self.has_company(run) {
            return;
        }
        self.looks.spent += self.workers.len();
        let all: Vec<WorkerIx> = self.workers.keys().copied().collect();
        let taken = all.into_iter().filter_map(|ix| self.news_of(run, ix));
        let taken = taken.collect();
        self.tell_taken(run, taken, effects);
    }

    /// Tells a run that gave a worker something and has to wait there what others have, and where they have nothing.
    pub(super) fn tell_whom_others_keep_waiting(
        &mut self,
        run: RunIx,
        ix: WorkerIx,
        effects: &mut Vec<Effect>,
    ) {
        let share = self.workers.get(&ix).and_then(|it| it.shares.get(&run));
        if !self.has_company(run) || share.is_none_or(|share| share.queue.is_empty()) {
            return;
        }
        if self.looks.spent < LOOKS && self.looks.surveyed.insert(run) {
            self.survey(run, effects);
        } else {
            self.tell_of(run, ix, effects);
        }
    }

    /// Tells runs that attempts of theirs ended on a worker, where others have the room by now: before they take it for free.
    pub(super) fn tell_who_has_the_room(
        &mut self,
        ix: WorkerIx,
        from: usize,
        effects: &mut Vec<Effect>,
    ) {
        if !self.runs.keys().any(|run| self.has_company(*run)) {
            return;
        }
        let ended = effects[from..].iter().filter_map(|effect| match effect {
            Effect::Tell(run, ExecutorEvent::Ended(..)) => Some(*run),
            _ => None,
        });
        let mut told = Vec::new();
        for run in ended.collect::<BTreeSet<_>>() {
            if self.has_company(run) {
                self.tell_of(run, ix, &mut told);
            }
        }
        effects.splice(from..from, told);
    }

    /// Room is left on a worker: whose turn it is among the runs that wait elsewhere, and do not know of it, hears so.
    pub(super) fn offer_room(&mut self, ix: WorkerIx, effects: &mut Vec<Effect>) {
        let waiting = self.runs.iter().filter(|(_, run)| run.queued > 0);
        let mut waiting = waiting.map(|(run, _)| *run).peekable();
        if waiting.peek().is_none() {
            return;
        }
        let worker = self.workers.get(&ix);
        let has_room = |worker: &&super::Worker| {
            self.may_give(worker) && worker.conn().is_some() && worker.room.is_left()
        };
        if worker.filter(has_room).is_none() {
            return;
        }
        for run in self.in_turn(waiting) {
            if let Some(news) = self.news_of(run, ix) {
                return self.tell_taken(run, vec![news], effects);
            }
        }
    }

    /// Tells runs in turn of what has changed: all of them with every tick, where they and the workers are not very many.
    pub(super) fn survey_some(&mut self, effects: &mut Vec<Effect>) {
        self.looks.spent = 0;
        self.looks.surveyed.clear();
        let runs: Vec<RunIx> = self.opened().collect();
        let first = self.looks.next.take().unwrap_or(RunIx(0));
        let at = runs.partition_point(|run| *run < first);
        for run in runs[at..].iter().chain(&runs[..at]) {
            if self.looks.spent >= LOOKS {
                self.looks.next = Some(*run);
                return;
            }
            self.survey(*run, effects);
        }
    }
}

/// Takes out what is there of something.
fn lower(of: &mut Resources, by: &Resources) {
    of.cpu_milli = of.cpu_milli.saturating_sub(by.cpu_milli);
    of.memory = of.memory.saturating_sub(by.memory);
    for (name, amount) in &by.named {
        if let Some(left) = of.named.get_mut(name) {
            *left = left.saturating_sub(*amount);
        }
    }
}
