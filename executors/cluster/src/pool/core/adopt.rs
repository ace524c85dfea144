//! Attempts that workers hold from before this coordinator began.
//!
//! What a worker says that it holds of a run that nobody has opened is kept for a while, as attempts of a *former* run: they take
//! room, and their results wait here. A run that goes on with that one hears of them and takes over what it wants, under the name
//! by which the worker knows it; the rest is ended. So a worker never notices which coordinator an attempt of it has.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dagrun_executor_api::{ExecutorEvent, HeldAttempt};
use dagrun_model::{AttemptId, Outcome, Resources, WorkerIx};

use super::{
    Core, Effect, RunIx,
    attempts::{landed, tell_end},
    room::Key,
    state::{Attempt, Former, Kept, Origin, Run, State},
};
use crate::{
    message::{AttemptRef, Ended, Held, How},
    mutant::Mutant,
};

impl Core {
    /// Where an attempt is that a worker speaks of, by the name that it has there.
    pub(super) fn key_of(&self, attempt: &AttemptRef) -> Option<Key> {
        let named = self.by_id.get(&attempt.run);
        let heir = self.heirs.get(&attempt.run);
        let runs = named.into_iter().chain(heir);
        let mut keys = runs.map(|run| (*run, attempt.attempt));
        keys.find(|(run, id)| {
            let run = self.runs.get(run);
            run.and_then(|run| run.name_of(*id)) == Some(&attempt.run)
        })
    }

    /// Until when what workers hold is kept.
    fn adopts_until(&self, now: Duration) -> Duration {
        self.began.unwrap_or(now) + self.config.adopts.unwrap_or_default()
    }

    /// Whether a run may still be opened that goes on with the one of this name.
    fn may_be_continued(&self, now: Duration, name: &Arc<str>) -> bool {
        let is_own = |run: &RunIx| self.runs[run].former.is_none();
        now < self.adopts_until(now)
            && !self.by_id.get(name).is_some_and(is_own)
            && !self.has(Mutant::HeldForgotten)
    }

    /// Whether something is to be kept that a worker holds and nobody here knows: unless others have what it needs by now, or the run
    /// that could take it over was told already of all that the worker holds.
    pub(super) fn may_keep(&self, now: Duration, is_new: bool, held: &Held) -> bool {
        let mut limited = held.limited.iter();
        let is_free = limited.all(|(name, amount)| self.limits.get(name) >= Some(amount));
        let name = &held.attempt.run;
        let may_be_offered = is_new || !self.heirs.contains_key(name);
        self.may_be_continued(now, name) && may_be_offered && (held.ended || is_free)
    }

    /// Keeps what a worker holds of a run that nobody has opened.
    pub(super) fn keep(&mut self, now: Duration, ix: WorkerIx, mut held: Held) -> Key {
        if held.ended {
            // It uses nothing any more.
            held.limited.clear();
        }
        let run = self.former_run(&held.attempt.run);
        let key = (run, held.attempt.attempt);
        let known = self.runs.get_mut(&run).expect("it was just made");
        known.used += held.resources.cpu_milli;
        for (name, amount) in &held.limited {
            *self.limits.entry(name.clone()).or_default() -= amount;
        }
        let worker = self.workers.get_mut(&ix).expect("it has a connection");
        worker.room.take(key, &held.resources);
        worker.holds.insert(key);
        worker.share(run).room.take(key, &held.resources);
        let attempt = Attempt {
            name: held.attempt.run,
            origin: Origin::Former(Former {
                action: held.action,
                ran: held.ran,
                told: now,
            }),
            demand: held.resources,
            limited: held.limited,
            worker: ix,
            state: State::Sent {
                began: held.started || held.ended,
            },
            stop: None,
        };
        known.attempts.insert(key.1, attempt);
        key
    }

    /// The former run of a name. Their numbers go down from the end, so that they meet none that is opened.
    fn former_run(&mut self, name: &Arc<str>) -> RunIx {
        if let Some(run) = self.by_id.get(name) {
            return *run;
        }
        let run = RunIx(u32::MAX - self.next_former);
        self.next_former += 1;
        self.by_id.insert(name.clone(), run);
        self.runs.insert(run, Run::former(name.clone()));
        run
    }

    /// The former run that a run goes on with, by its name.
    fn former_of(&self, run: RunIx, name: &Arc<str>) -> Option<RunIx> {
        let former = *self.by_id.get(name)?;
        let is_former = self.runs[&former].former.is_some();
        (is_former && self.heirs.get(name) == Some(&run)).then_some(former)
    }

    /// What a worker has of the runs that a run goes on with. What was given up already is not held long enough to be taken over.
    pub(super) fn offered(&self, now: Duration, run: RunIx, ix: WorkerIx) -> Vec<HeldAttempt> {
        let names = self.heirs.iter().filter(|(_, heir)| **heir == run);
        let formers = names.filter_map(|(name, _)| self.former_of(run, name));
        let formers = formers.map(|former| &self.runs[&former]);
        let mut offered: Vec<HeldAttempt> = formers
            .filter(|former| !former.closing)
            .flat_map(|former| former.held_by(now, ix))
            .collect();
        offered.sort_unstable_by(|a, b| (&a.run, a.attempt).cmp(&(&b.run, b.attempt)));
        offered
    }

    /// Takes attempts over into a run.
    pub(super) fn adopt(
        &mut self,
        run: RunIx,
        worker: WorkerIx,
        wanted: Vec<HeldAttempt>,
        effects: &mut Vec<Effect>,
    ) {
        let closing = self.runs.get(&run).is_none_or(|run| run.closing);
        for held in wanted {
            let id = held.attempt;
            let former = self.former_of(run, &held.run);
            match former.filter(|_| !closing) {
                Some(former) if self.is_open(former, id, worker) => {
                    self.take_over(former, run, id);
                }
                Some(former) if self.has_end(former, id, worker) => {
                    self.take_end(former, run, id, effects);
                }
                _ => {
                    let outcome = match closing {
                        true => Outcome::Cancelled,
                        false => Outcome::Lost("its worker does not hold it any more".into()),
                    };
                    tell_end(run, id, outcome, effects);
                }
            }
        }
    }

    /// Whether a worker runs an attempt that nobody has disowned.
    fn is_open(&self, run: RunIx, id: AttemptId, worker: WorkerIx) -> bool {
        let attempt = self.runs[&run].attempts.get(&id);
        attempt.is_some_and(|attempt| attempt.worker == worker && attempt.stop.is_none())
    }

    fn has_end(&self, run: RunIx, id: AttemptId, worker: WorkerIx) -> bool {
        let run = &self.runs[&run];
        let kept_by = run.unsettled.get(&id).map(|it| it.worker);
        run.ends().any(|(other, _)| *other == id) && kept_by == Some(worker)
    }

    fn take_over(&mut self, former: RunIx, run: RunIx, id: AttemptId) {
        let left = self.runs.get_mut(&former).expect("it was looked at");
        let mut attempt = left.attempts.remove(&id).expect("it was looked at");
        left.used -= attempt.demand.cpu_milli;
        let known = self.runs.get_mut(&run).expect("it was looked at");
        known.used += attempt.demand.cpu_milli;
        if self.mutants.has(Mutant::AdoptedRenamed) {
            attempt.name = known.id.clone();
        }
        let worker = self.workers.get_mut(&attempt.worker);
        let worker = worker.expect("its attempts end when it is lost");
        let (from, to) = ((former, id), (run, id));
        worker.holds.remove(&from);
        worker.holds.insert(to);
        worker.room.rename(from, to);
        worker.share(former).room.release(from, &attempt.demand);
        worker.share(run).room.take(to, &attempt.demand);
        known.attempts.insert(id, attempt);
    }

    fn take_end(&mut self, former: RunIx, run: RunIx, id: AttemptId, effects: &mut Vec<Effect>) {
        let left = self.runs.get_mut(&former).expect("it was looked at");
        let unsettled = left.unsettled.remove(&id).expect("it was looked at");
        let kept = left.former.as_mut().and_then(|it| it.remove(&id));
        let ended = kept.expect("it was looked at").ended;
        let worker = unsettled.worker;
        let known = self.runs.get_mut(&run).expect("it was looked at");
        known.unsettled.insert(id, unsettled);
        landed(known, run, worker, ended, effects);
    }

    /// Keeps the end of an attempt that nobody has taken over yet: a result, for whoever goes on with its run, and any end where
    /// that run was told of the attempt and has not answered. It hears of it as it was.
    pub(super) fn keep_end(&mut self, run: RunIx, attempt: &Attempt, ended: Ended) -> bool {
        let Origin::Former(former) = &attempt.origin else {
            return false;
        };
        let known = self.runs.get_mut(&run).expect("it was looked at");
        let is_offered = self.heirs.contains_key(&known.id);
        let kept = Kept {
            former: *former,
            demand: attempt.demand.clone(),
            ended: Box::new(ended),
        };
        let may_be_wanted = attempt.stop.is_none() && !known.closing;
        let keeps = may_be_wanted && (kept.is_result() || is_offered);
        if keeps
            && !self.mutants.has(Mutant::EarlyResultForgotten)
            && let Some(ends) = &mut known.former
        {
            ends.insert(kept.ended.attempt.attempt, kept);
        }
        keeps
    }

    /// Ends what nobody wants.
    pub(super) fn disown(
        &mut self,
        run: RunIx,
        unwanted: Vec<HeldAttempt>,
        effects: &mut Vec<Effect>,
    ) {
        let mut by_run: BTreeMap<RunIx, Vec<AttemptId>> = BTreeMap::new();
        for held in unwanted {
            if let Some(former) = self.former_of(run, &held.run) {
                by_run.entry(former).or_default().push(held.attempt);
            }
        }
        for (former, attempts) in by_run {
            self.stop(former, &attempts, How::Kill, effects);
            self.settle(former, &attempts, effects);
        }
    }

    /// Former runs of a run that is over, or that nobody goes on with, are over too.
    pub(super) fn close_former(&mut self, heir: Option<RunIx>, effects: &mut Vec<Effect>) {
        let runs = self.runs.iter();
        let formers = runs.filter(|(_, known)| known.former.is_some() && !known.closing);
        let over: Vec<RunIx> = formers
            .filter(|(_, known)| self.heirs.get(&known.id).copied() == heir)
            .map(|(run, _)| *run)
            .collect();
        for run in over {
            self.close_run(run, effects);
        }
    }

    /// What ends by time: how long workers may take to come back, and how long what they hold is kept.
    pub(super) fn tick_former(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let began = self.began.unwrap_or(now);
        if !self.rejoined && now >= (began + self.config.lease).max(self.forgive_until) {
            self.rejoined = true;
            self.tell_rejoined(effects);
            let all: Vec<WorkerIx> = self.workers.keys().copied().collect();
            for ix in all {
                self.dispatch(ix, effects);
            }
        }
        if now >= self.adopts_until(now) && !self.has(Mutant::HeldForEver) {
            self.close_former(None, effects);
        }
    }

    /// Tells runs that go on with others that no more workers come back.
    pub(super) fn tell_rejoined(&mut self, effects: &mut Vec<Effect>) {
        for (run, known) in &mut self.runs {
            if self.rejoined && std::mem::take(&mut known.waits) {
                effects.push(Effect::Tell(*run, ExecutorEvent::Rejoined));
            }
        }
    }

    /// Runs that somebody has opened.
    pub(super) fn opened(&self) -> impl Iterator<Item = RunIx> {
        let opened = self.runs.iter().filter(|(_, run)| run.former.is_none());
        opened.map(|(run, _)| *run)
    }
}

impl Run {
    /// Ends that nobody has taken over or given up.
    fn ends(&self) -> impl Iterator<Item = (&AttemptId, &Kept)> {
        self.former.iter().flatten()
    }

    /// What a worker has of it that nobody has disowned.
    fn held_by(&self, now: Duration, ix: WorkerIx) -> impl Iterator<Item = HeldAttempt> {
        let open = self.attempts.iter().filter_map(move |(id, attempt)| {
            let Origin::Former(former) = &attempt.origin else {
                return None;
            };
            let wanted = attempt.worker == ix && attempt.stop.is_none();
            let began = attempt.state == (State::Sent { began: true });
            let mut resources = attempt.demand.clone();
            resources.named.extend(attempt.limited.clone());
            wanted.then(|| self.held(*id, former, now, resources, began))
        });
        let ended = self
            .ends()
            .filter(|(_, kept)| kept.is_result())
            .filter(move |(id, _)| self.unsettled.get(id).is_some_and(|it| it.worker == ix))
            .map(move |(id, kept)| self.held(*id, &kept.former, now, kept.demand.clone(), true));
        open.chain(ended)
    }

    fn held(
        &self,
        attempt: AttemptId,
        former: &Former,
        now: Duration,
        resources: Resources,
        began: bool,
    ) -> HeldAttempt {
        let ran = (former.ran + now.saturating_sub(former.told)).as_micros();
        HeldAttempt {
            run: self.id.clone(),
            attempt,
            action: former.action,
            resources,
            began,
            ran: u64::try_from(ran).unwrap_or(u64::MAX),
        }
    }
}
