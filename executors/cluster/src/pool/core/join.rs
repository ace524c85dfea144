//! How workers come: refused, new, or back with what they hold.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use dagrun_executor_api::{ExecutorEvent, FullDisk};
use dagrun_model::{HostIx, Outcome, WorkerIx};

use super::{
    ConnIx, Core, Effect, News,
    room::Key,
    state::{Conn, Line, State, Worker},
};
use crate::{
    message::{AttemptRef, Beat, Held, Hello, How, Identity, Refusal, ToWorker, Welcome},
    mutant::Mutant,
};

impl Core {
    pub(super) fn hello(
        &mut self,
        now: Duration,
        conn: ConnIx,
        hello: Hello,
        effects: &mut Vec<Effect>,
    ) {
        if let Err(refusal) = self.may_join(&hello) {
            let why = refusal.reason.clone();
            effects.push(Effect::Send(conn, ToWorker::Refused(refusal)));
            return self.hang_up(conn, &why, effects);
        }
        let incarnation = hello.worker.incarnation;
        let line = Line::Open { conn, heard: now };
        let known = self.by_incarnation.get(&incarnation).copied();
        let ix = match known {
            Some(ix) => self.reconnect(ix, line, effects),
            None => self.take_in(hello.worker, line, effects),
        };
        self.conns.insert(conn, Conn::Of(ix));
        let held = self.reconcile(now, ix, known.is_none(), hello.held, effects);
        let worker = Arc::clone(&self.workers[&ix].identity);
        match known {
            Some(_) => effects.push(Effect::News(News::Back(worker))),
            None => {
                let holds = self.workers[&ix].holds.len();
                effects.extend(self.clash(&worker).map(Effect::News));
                effects.push(Effect::News(News::Joined { worker, holds }));
                self.announce(now, ix, effects);
            }
        }
        effects.push(Effect::Send(conn, self.welcome(ix, &held)));
        self.tell_again(conn, ix, held, effects);
        self.dispatch(ix, effects);
    }

    fn may_join(&self, hello: &Hello) -> Result<(), Refusal> {
        let worker = &hello.worker;
        let config = &self.config;
        let never = |reason| Refusal {
            reason,
            retry: false,
        };
        if worker.version != config.version {
            return Err(never(format!(
                "the coordinator is dagrun {} and the worker dagrun {}: both must be the same version",
                config.version, worker.version
            )));
        }
        if worker.platform != config.platform {
            return Err(never(format!(
                "the coordinator plans for {} and the worker is {}: results of one are none for the other",
                config.platform, worker.platform
            )));
        }
        if hello.epoch > config.epoch && !self.has(Mutant::OldEpoch) {
            return Err(Refusal {
                reason: format!(
                    "this coordinator (epoch {}) was replaced: the worker has heard of epoch {}",
                    config.epoch, hello.epoch
                ),
                retry: true,
            });
        }
        match &self.dismissed {
            Some(why) if !self.by_incarnation.contains_key(&worker.incarnation) => Err(never(
                format!("the coordinator takes no workers any more: {why}"),
            )),
            _ => Ok(()),
        }
    }

    /// A worker that was here before and was not lost.
    fn reconnect(&mut self, ix: WorkerIx, line: Line, effects: &mut Vec<Effect>) -> WorkerIx {
        let worker = self.workers.get_mut(&ix).expect("it is in the index");
        let former = worker.conn();
        worker.line = line;
        if let Some(former) = former {
            self.hang_up(former, "its worker has a new connection", effects);
        }
        ix
    }

    fn take_in(
        &mut self,
        identity: Arc<Identity>,
        line: Line,
        effects: &mut Vec<Effect>,
    ) -> WorkerIx {
        let ix = WorkerIx(self.next_worker);
        self.next_worker += 1;
        let next = HostIx::from_index(self.hosts.len());
        let host = *self.hosts.entry(identity.host.clone()).or_insert(next);
        self.by_incarnation.insert(identity.incarnation, ix);
        self.workers
            .insert(ix, Worker::new(identity.clone(), host, line));
        effects.push(Effect::Joined(ix, host, identity));
        ix
    }

    /// Whether workers of different machines have the name of a new one. On one machine that is its own name mostly.
    fn clash(&self, worker: &Identity) -> Option<News> {
        let all = self.namesakes(&worker.name);
        let all: Vec<_> = all.map(|(ix, it)| (ix, Arc::clone(it))).collect();
        all.iter()
            .any(|(_, other)| other.boot != worker.boot)
            .then_some(News::Namesakes(all))
    }

    /// Tells all runs of a worker, each with what it holds for it.
    fn announce(&self, now: Duration, ix: WorkerIx, effects: &mut Vec<Effect>) {
        for run in self.opened() {
            let info = self.info(now, run, ix);
            effects.push(Effect::Tell(run, ExecutorEvent::WorkerJoined(info)));
        }
    }

    /// Compares what a worker says that it holds with what it was given.
    fn reconcile(
        &mut self,
        now: Duration,
        ix: WorkerIx,
        is_new: bool,
        mut held: Vec<Held>,
        effects: &mut Vec<Effect>,
    ) -> Holding {
        let mut holding = Holding::default();
        // What runs has its room before what waits.
        held.sort_by_key(|item| !item.started);
        for item in held {
            let Some(key) = self.key_of(&item.attempt) else {
                if self.may_keep(now, is_new, &item) {
                    holding.has.insert(self.keep(now, ix, item));
                } else {
                    holding.refuse(item);
                }
                continue;
            };
            let run = key.0;
            let known = self.runs.get_mut(&run).expect("it is in the index");
            match known.attempts.get_mut(&key.1) {
                Some(attempt) if attempt.worker == ix && attempt.state != State::Queued => {
                    let began = State::Sent { began: true };
                    if item.started && attempt.state != began {
                        attempt.state = began;
                        known.tell(run, ExecutorEvent::Started(key.1), effects);
                    }
                    holding.has.insert(key);
                }
                Some(_) => holding.refuse(item),
                // Its result is here; what happens to it will be told.
                None if known.unsettled.get(&key.1).map(|it| it.worker) == Some(ix) => {}
                None => holding.refuse(item),
            }
        }
        holding
    }

    fn welcome(&self, ix: WorkerIx, holding: &Holding) -> ToWorker {
        ToWorker::Welcome(Welcome {
            epoch: self.config.epoch,
            lease: self.config.lease,
            beat: self.config.beat,
            worker: ix.0,
            drop: holding.drop.clone(),
            settled: holding.settled.clone(),
        })
    }

    /// What a worker may not have heard on its former connection.
    fn tell_again(
        &mut self,
        conn: ConnIx,
        ix: WorkerIx,
        holding: Holding,
        effects: &mut Vec<Effect>,
    ) {
        let worker = &self.workers[&ix];
        if let Some(why) = &worker.dismissed {
            effects.push(Effect::Send(conn, ToWorker::Leave(why.clone())));
        }
        let (has, lacks): (Vec<Key>, Vec<Key>) = worker
            .holds
            .iter()
            .partition(|key| holding.has.contains(key));
        self.stop_again(conn, &has, effects);
        self.start_again(conn, ix, lacks, effects);
    }

    fn stop_again(&self, conn: ConnIx, has: &[Key], effects: &mut Vec<Effect>) {
        if self.has(Mutant::StopForgotten) {
            return;
        }
        for how in [How::Recall, How::Terminate, How::Kill] {
            let told = |(run, id): &&Key| self.runs[run].attempts[id].stop == Some(how);
            let refs: Vec<_> = has
                .iter()
                .filter(told)
                .map(|(run, id)| self.runs[run].attempts[id].as_ref(*id))
                .collect();
            if !refs.is_empty() {
                effects.push(Effect::Send(conn, ToWorker::Stop(refs, how)));
            }
        }
    }

    /// Attempts that were on the way when the connection broke.
    fn start_again(
        &mut self,
        conn: ConnIx,
        ix: WorkerIx,
        lacks: Vec<Key>,
        effects: &mut Vec<Effect>,
    ) {
        let leaving = self.workers[&ix].leaving;
        let mut starts = Vec::new();
        for (run, id) in lacks {
            let attempt = &self.runs[&run].attempts[&id];
            let outcome = match attempt.state {
                State::Sent { began: true } => {
                    Outcome::Lost("its worker does not know of it any more".into())
                }
                _ if attempt.stop.is_some() || leaving => Outcome::Cancelled,
                _ => match attempt.start(id) {
                    Some(start) => {
                        starts.push(start);
                        continue;
                    }
                    None => Outcome::Lost("its worker does not know of it any more".into()),
                },
            };
            self.end_here(run, id, outcome, effects);
        }
        if !starts.is_empty() && !self.has(Mutant::NoResend) {
            effects.push(Effect::Send(conn, ToWorker::Start(starts)));
        }
    }

    pub(super) fn beat(
        &mut self,
        conn: ConnIx,
        ix: WorkerIx,
        beat: Beat,
        effects: &mut Vec<Effect>,
    ) {
        let worker = self.workers.get_mut(&ix).expect("it has a connection");
        worker.free_bytes = beat.free_bytes;
        let had_room = worker.full.is_none();
        worker.full.clone_from(&beat.full);
        if had_room != worker.full.is_none() {
            self.room_changed(ix, beat.full, effects);
        }
        if !beat.answer {
            let answer = Beat {
                number: beat.number,
                answer: true,
                free_bytes: 0,
                full: None,
            };
            effects.push(Effect::Send(conn, ToWorker::Beat(answer)));
        }
    }

    /// All runs hear that a worker has no room on its disk, or has some again.
    fn room_changed(&self, ix: WorkerIx, full: Option<FullDisk>, effects: &mut Vec<Effect>) {
        let identity = Arc::clone(&self.workers[&ix].identity);
        effects.push(Effect::News(News::Disk(identity, full.clone())));
        for run in self.opened() {
            let told = ExecutorEvent::WorkerDisk(ix, full.clone());
            effects.push(Effect::Tell(run, told));
        }
    }
}

/// What of the things that a worker holds is wanted.
#[derive(Default)]
struct Holding {
    has: BTreeSet<Key>,
    drop: Vec<AttemptRef>,
    settled: Vec<AttemptRef>,
}

impl Holding {
    fn refuse(&mut self, held: Held) {
        if held.ended {
            self.settled.push(held.attempt);
        } else {
            self.drop.push(held.attempt);
        }
    }
}
