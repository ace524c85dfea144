//! Who is still there: leases, broken connections, workers that leave.

use std::{sync::Arc, time::Duration};

use dagrun_executor_api::ExecutorEvent;
use dagrun_model::{Outcome, WorkerIx};

use super::{
    ConnIx, Core, Effect, News,
    room::Key,
    state::{Conn, Line, State},
};
use crate::{
    message::{Identity, ToWorker},
    mutant::Mutant,
};

impl Core {
    /// A worker said something.
    pub(super) fn heard(&mut self, ix: WorkerIx, now: Duration) {
        let worker = self.workers.get_mut(&ix).expect("it has a connection");
        if let Line::Open { heard, .. } = &mut worker.line {
            *heard = now;
        }
    }

    pub(super) fn closed(
        &mut self,
        now: Duration,
        conn: ConnIx,
        why: &str,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(Conn::Of(ix)) = self.conns.remove(&conn) {
            let worker = self.workers.get_mut(&ix).expect("it has a connection");
            worker.line = Line::Broken { since: now };
            // One that has finished goes by ending its connection.
            if !worker.leaving || !worker.holds.is_empty() {
                let news = News::Silent(Arc::clone(&worker.identity), why.to_owned());
                effects.push(Effect::News(news));
            }
        }
    }

    pub(super) fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let last = self.last_tick.replace(now).unwrap_or(now);
        if now - last > self.config.beat && !self.has(Mutant::AwayIsSilence) {
            // It was this side that was away: what others said meanwhile may wait unread.
            return self.give_all_another_lease(now);
        }
        self.close_mute(now, effects);
        self.tick_former(now, effects);
        let gone: Vec<_> = self
            .workers
            .iter()
            .filter_map(|(ix, worker)| Some((*ix, self.over(now, *ix, worker)?)))
            .collect();
        for (ix, why) in gone {
            self.lose(now, ix, &why, effects);
        }
        self.survey_some(effects);
    }

    fn give_all_another_lease(&mut self, now: Duration) {
        self.forgive_until = now + self.config.lease;
        for worker in self.workers.values_mut() {
            if let Line::Open { heard, .. } = &mut worker.line {
                *heard = now;
            }
        }
    }

    /// Those who connect and say nothing.
    fn close_mute(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let is_late =
            |conn: &Conn| matches!(conn, Conn::Mute { since } if now - *since >= self.config.lease);
        let late: Vec<ConnIx> = self
            .conns
            .iter()
            .filter(|(_, conn)| is_late(conn))
            .map(|(ix, _)| *ix)
            .collect();
        for conn in late {
            self.hang_up(conn, "it did not say who it is", effects);
        }
    }

    /// Why a worker counts as lost, if it does.
    fn over(&self, now: Duration, ix: WorkerIx, worker: &super::Worker) -> Option<String> {
        let name = || self.label(ix, worker);
        match worker.line {
            Line::Open { heard, .. } if now - heard >= self.config.lease => Some(format!(
                "worker {} said nothing for {}",
                name(),
                seconds(now - heard)
            )),
            Line::Broken { .. } if worker.leaving && worker.holds.is_empty() => {
                Some(format!("worker {} left", name()))
            }
            Line::Broken { since }
                if now - since >= self.config.grace && now >= self.forgive_until =>
            {
                Some(format!(
                    "the connection to worker {} broke, and it did not come back within {}",
                    name(),
                    seconds(self.config.grace)
                ))
            }
            _ => None,
        }
    }

    /// The name of a worker, with its number where others have the same name.
    fn label(&self, ix: WorkerIx, worker: &super::Worker) -> String {
        let name = &worker.identity.name;
        match self.namesakes(name).count() {
            0 | 1 => name.clone(),
            _ => format!("{name} (number {})", ix.0),
        }
    }

    /// Workers of a name, by number.
    pub(super) fn namesakes<'a>(
        &'a self,
        name: &'a str,
    ) -> impl Iterator<Item = (WorkerIx, &'a Arc<Identity>)> {
        let all = self.workers.iter().map(|(ix, it)| (*ix, &it.identity));
        all.filter(move |(_, identity)| identity.name == name)
    }

    /// Counts a worker as lost: whatever it says from now on is of somebody new.
    fn lose(&mut self, now: Duration, ix: WorkerIx, why: &str, effects: &mut Vec<Effect>) {
        if !self.workers.contains_key(&ix) {
            return;
        }
        effects.push(Effect::Gone(ix, self.workers[&ix].host));
        // What never left this side is not lost with the worker: nobody is to take it for the reason.
        if self.workers[&ix].has_queued() {
            self.hand_back(ix, effects);
        }
        let worker = self.workers.remove(&ix).expect("it was just there");
        self.by_incarnation.remove(&worker.identity.incarnation);
        let identity = Arc::clone(&worker.identity);
        if worker.leaving && worker.holds.is_empty() {
            effects.push(Effect::News(News::Left(identity)));
        } else {
            self.losses.add(now, ix, Arc::clone(&identity), why);
            effects.push(Effect::News(News::Lost(ix, identity, why.to_owned())));
        }
        if let Some(conn) = worker.conn() {
            self.hang_up(conn, why, effects);
        }
        for run in self.opened() {
            let lost = ExecutorEvent::WorkerLost(ix, why.to_owned());
            effects.push(Effect::Tell(run, lost));
        }
        for (run, id) in worker.holds {
            if !self.has(Mutant::LossForgotten) {
                self.end_here(run, id, Outcome::Lost(why.to_owned()), effects);
            }
        }
        for run in self.runs.values_mut() {
            run.taken.remove(&ix);
            run.forget_results_of(ix);
        }
        self.dispatch_after(ix, effects);
    }

    /// A worker takes nothing new: what waits for it goes back, what it has not begun it gives back itself.
    pub(super) fn leaving(&mut self, ix: WorkerIx, why: &str, effects: &mut Vec<Effect>) {
        if !self.workers[&ix].leaving {
            let identity = Arc::clone(&self.workers[&ix].identity);
            tracing::info!(worker = identity.name, why, "a worker leaves");
            effects.push(Effect::News(News::Leaves(identity, why.to_owned())));
            self.hand_back(ix, effects);
        }
    }

    /// A worker is given nothing more, and what waits here for it goes back as it came.
    fn hand_back(&mut self, ix: WorkerIx, effects: &mut Vec<Effect>) {
        let worker = self.workers.get_mut(&ix).expect("it is asked for");
        if std::mem::replace(&mut worker.leaving, true) {
            return;
        }
        let opened = self.runs.iter().filter(|(_, run)| run.former.is_none());
        for (run, _) in opened {
            effects.push(Effect::Tell(*run, ExecutorEvent::WorkerDraining(ix)));
        }
        let queues = worker.shares.iter_mut();
        let queued: Vec<Key> = queues
            .flat_map(|(run, share)| share.queue.iter().map(|id| (*run, *id)))
            .collect();
        if self.has(Mutant::QueueForgotten) {
            return;
        }
        for (run, id) in queued {
            debug_assert_eq!(self.runs[&run].attempts[&id].state, State::Queued);
            let outcome = match self.has(Mutant::QueueLost) {
                true => Outcome::Lost("a bug".into()),
                false => Outcome::Cancelled,
            };
            self.end_here(run, id, outcome, effects);
        }
    }

    pub(super) fn drain(&mut self, ix: WorkerIx, why: &str, effects: &mut Vec<Effect>) {
        let Some(worker) = self.workers.get_mut(&ix) else {
            return;
        };
        worker.dismissed = Some(why.to_owned());
        if let Some(conn) = worker.conn() {
            effects.push(Effect::Send(conn, ToWorker::Leave(why.to_owned())));
        }
        self.leaving(ix, why, effects);
    }

    pub(super) fn dismiss(&mut self, why: &str, effects: &mut Vec<Effect>) {
        self.dismissed = Some(why.to_owned());
        let all: Vec<WorkerIx> = self.workers.keys().copied().collect();
        for ix in all {
            self.drain(ix, why, effects);
        }
    }
}

/// A duration for people.
fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
