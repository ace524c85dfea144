//! The driver: hands events to the scheduler, does its actions, and keeps the trace's hash.

use dagrun_model::{Digest, NodeIx};

use super::{RealAttempt, What, World};
use crate::{
    Action, CacheAnswer, Event, NodeEnd, NodeState, Notice, Time,
    sim::{model::Answered, rng::hash2, scene::Fault},
};

impl World {
    pub(super) fn answer(&mut self, nodes: Vec<NodeIx>) {
        let mut answers = Vec::new();
        for node in nodes {
            if self.waits_for_its_worker(node) {
                self.at(10_000, What::Answer(vec![node]));
                continue;
            }
            let (answered, action) = self.model.answer(node);
            let bytes = self.scene.nodes[node.index()].bytes;
            answers.push((
                node,
                match answered {
                    Answered::Hit => CacheAnswer::Hit { bytes },
                    Answered::Miss => CacheAnswer::Miss {
                        action: action.map(digest),
                    },
                    Answered::ConditionFalse => CacheAnswer::ConditionFalse,
                    Answered::Unrunnable => CacheAnswer::Unrunnable,
                },
            ));
        }
        let asked: Vec<NodeIx> = answers.iter().map(|(node, _)| *node).collect();
        self.tell(Event::CacheAnswered(answers));
        for node in asked {
            // An answer that is out of date decides nothing; after one that counts, another of the same event may have made the node wait.
            let ended = self.model.ended_early(node);
            if self.core.state(node) == Some(NodeState::Sharing)
                || ended.is_some_and(|attempt| !self.core.keeps(node, attempt))
            {
                self.model.drop_useless(node);
            }
        }
    }

    /// Whether an attempt at a node may still run on a worker that is about to join again: the answer is kept back then, mostly.
    fn waits_for_its_worker(&mut self, node: NodeIx) -> bool {
        let mut attempts = self.real.values().filter(|real| real.node == node);
        let runs = attempts.any(|real| {
            real.began.is_some()
                && (!real.over || real.unheard.is_some())
                && self
                    .workers
                    .iter()
                    .any(|worker| worker.ix == real.worker && worker.alive && worker.detached)
        });
        runs && self.rng.percent(80)
    }

    pub(super) fn become_durable(&mut self, node: NodeIx) {
        if self.fault(Fault::CommitFails, 3) {
            self.model.commit_failed(node);
            return self.tell(Event::CommitFailed(node));
        }
        let cursed = self.scene.nodes[node.index()].cursed;
        self.model.kept(node, !cursed);
        let delay = self.rng.below(5_000);
        self.at(delay, What::Committed(node));
    }

    pub(super) fn tell_committed(&mut self, node: NodeIx) {
        self.model.durable(node);
        self.tell(Event::Committed(node));
        if self.fault(Fault::Duplicate, 20) {
            self.tell_maybe_stale(Event::Committed(node), true);
        }
    }

    /// Tells the scheduler something that must change nothing if it is stale.
    pub(super) fn tell_maybe_stale(&mut self, event: Event, stale: bool) {
        let before = self.core.counts();
        self.tell(event.clone());
        if stale && (self.core.counts() != before || self.report.last_actions > 0) {
            self.model
                .fail("I10", format!("{event:?} is stale and changed something"));
        }
    }

    pub(super) fn tell(&mut self, event: Event) {
        if self.model.violation.is_some() {
            return;
        }
        if self.options.trace {
            self.report.trace.push(format!("{:>9} {event:?}", self.now));
        }
        self.report.events += 1;
        self.fold(event_number(&event));
        let mut actions = std::mem::take(&mut self.actions);
        self.core.handle(Time(self.now), event, &mut actions);
        self.report.last_actions = actions.len();
        for action in actions.drain(..) {
            if self.options.trace {
                self.report
                    .trace
                    .push(format!("{:>9}   {action:?}", self.now));
            }
            self.fold(action_number(&action));
            self.model.judge(&action);
            self.act(action);
        }
        self.actions = actions;
        self.model.judge_what_waits();
        if self
            .report
            .events
            .is_multiple_of(u64::from(self.options.check_every))
        {
            self.check_core();
        }
    }

    fn fold(&mut self, number: u64) {
        self.report.hash = hash2(self.report.hash ^ self.now, number);
    }

    pub(super) fn check_core(&mut self) {
        if self.model.violation.is_none()
            && let Err(text) = self.core.check_invariants()
        {
            self.model.fail("state", text);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::LookUp(nodes) => self.look_up(nodes),
            Action::Start {
                attempt,
                node,
                number,
                worker,
                resources,
                ..
            } => {
                self.real.insert(
                    attempt.0,
                    RealAttempt {
                        node,
                        worker,
                        number,
                        action: self.model.value(node),
                        resources,
                        reached: false,
                        began: None,
                        over: false,
                        unheard: None,
                        ran: 0,
                    },
                );
                let delay = self.soon();
                self.at(delay, What::Submit(attempt));
            }
            Action::Cancel { attempt, kill } => {
                let delay = self.soon();
                self.at(delay, What::CancelArrives { attempt, kill });
            }
            Action::Recall { attempt } => {
                let delay = self.soon();
                self.at(delay, What::RecallArrives(attempt));
            }
            Action::Withdraw { attempt } => {
                let delay = self.soon();
                self.at(delay, What::WithdrawArrives(attempt));
            }
            Action::Commit { node, .. } => {
                let delay = self.rng.range(1_000, 15_000);
                self.at(delay, What::Durable(node));
            }
            Action::SetTimer { id, at } => {
                self.at(at.0.saturating_sub(self.now), What::Timer(id));
            }
            Action::Emit(_) | Action::Finish => {}
        }
    }

    fn look_up(&mut self, nodes: Vec<NodeIx>) {
        let mut batch = Vec::new();
        for node in nodes {
            batch.push(node);
            if self.rng.percent(20) {
                let delay = self.soon();
                self.at(delay, What::Answer(std::mem::take(&mut batch)));
            }
        }
        if !batch.is_empty() {
            let delay = self.soon();
            self.at(delay, What::Answer(batch));
        }
    }
}

pub(super) fn digest(action: u64) -> Digest {
    let mut bytes = [0; 32];
    for (chunk, salt) in bytes.chunks_mut(8).zip(0..) {
        chunk.copy_from_slice(&hash2(action, salt).to_le_bytes());
    }
    Digest(bytes)
}

fn event_number(event: &Event) -> u64 {
    match event {
        Event::PlanExtended(delta) => 1 << 40 | delta.nodes.len() as u64,
        Event::PlanComplete => 2 << 40,
        Event::WorkerJoined { worker, .. } => 3 << 40 | u64::from(worker.0),
        Event::WorkerDraining(worker) => 4 << 40 | u64::from(worker.0),
        Event::WorkerLost(worker) => 5 << 40 | u64::from(worker.0),
        Event::CacheAnswered(answers) => 6 << 40 | answers.len() as u64,
        Event::AttemptStarted(attempt) => 7 << 40 | attempt.0,
        Event::AttemptEnded { attempt, .. } => 8 << 40 | attempt.0,
        Event::Committed(node) => 9 << 40 | u64::from(node.0),
        Event::CommitFailed(node) => 10 << 40 | u64::from(node.0),
        Event::Restore { node, .. } => 11 << 40 | u64::from(node.0),
        Event::ReplicaAdded { node, .. } => 12 << 40 | u64::from(node.0),
        Event::ReplicaDropped { node, .. } => 13 << 40 | u64::from(node.0),
        Event::TimerFired(timer) => 14 << 40 | timer.0,
        Event::StopRequested(stop) => 15 << 40 | *stop as u64,
        Event::WorkerHasRoom(worker, has) => {
            (17 << 40 | u64::from(worker.0)) ^ u64::from(*has) << 39
        }
        Event::Retire(node) => 16 << 40 | u64::from(node.0),
        Event::TakenByOthers(taken) => taken.iter().fold(17 << 40, |hash, (worker, others)| {
            hash2(hash, u64::from(worker.0) << 32 ^ others.cpu_milli)
        }),
    }
}

fn action_number(action: &Action) -> u64 {
    match action {
        Action::LookUp(nodes) => nodes
            .iter()
            .fold(20 << 40, |hash, node| hash2(hash, u64::from(node.0))),
        Action::Start {
            attempt,
            node,
            worker,
            resources,
            ..
        } => hash2(
            hash2(21 << 40 | attempt.0, u64::from(node.0)),
            u64::from(worker.0) << 32 ^ resources.memory,
        ),
        Action::Cancel { attempt, kill } => hash2(22 << 40 | attempt.0, u64::from(*kill)),
        Action::Recall { attempt } => 31 << 40 | attempt.0,
        Action::Withdraw { attempt } => 33 << 40 | attempt.0,
        Action::Commit { node, attempt } => hash2(23 << 40 | attempt.0, u64::from(node.0)),
        Action::SetTimer { id, at } => hash2(24 << 40 | id.0, at.0),
        Action::Emit(Notice::NodeDone { node, end }) => hash2(
            25 << 40 | u64::from(node.0),
            match end {
                NodeEnd::Skipped { because } => 100 + u64::from(because.0),
                NodeEnd::Cached => 1,
                NodeEnd::Succeeded => 2,
                NodeEnd::Failed => 3,
                NodeEnd::ConditionFalse => 4,
                NodeEnd::Cancelled => 5,
            },
        ),
        Action::Emit(Notice::WillRetry { node, at, .. }) => {
            hash2(26 << 40 | u64::from(node.0), at.0)
        }
        Action::Emit(Notice::Speculated { node }) => 27 << 40 | u64::from(node.0),
        Action::Emit(Notice::Adopted { attempt, .. }) => 32 << 40 | attempt.0,
        Action::Emit(Notice::Rewound { node }) => 28 << 40 | u64::from(node.0),
        Action::Emit(Notice::Stuck { nodes }) => 29 << 40 | nodes.len() as u64,
        Action::Finish => 30 << 40,
    }
}
