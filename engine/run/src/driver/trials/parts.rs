//! Trials become parts of the plan, and leave it when they are over.

use std::{rc::Rc, sync::Arc, time::Instant};

use dagrun_events::RunEvent;
use dagrun_model::{Digest, Map, NodeIx, NodeKey, Value};
use dagrun_plan::{Plan, TrialPoint};
use dagrun_sched::Event;
use dagrun_study::{StudyEvent, StudyRecord, TrialEnd};
use rustc_hash::FxHashSet;

use super::super::Driver;
use super::{LiveTrial, StudyRun};
use crate::{
    StudyMode,
    study::{basis, encode, plan_trial, widest},
};

impl Driver<'_> {
    pub(super) fn start_trial(&mut self, study: &mut StudyRun<'_>, trial: u64, values: Arc<Map>) {
        self.record(RunEvent::TrialStarted {
            trial,
            params: Value::map((*values).clone()).to_json(),
        });
        match study.standing.remove(&trial) {
            Some(end) => study.events.push(StudyEvent::Ended { trial, end }),
            None => {
                let made = FxHashSet::default();
                self.plan_part(study, trial, values, None, Instant::now(), made);
            }
        }
    }

    /// Keeps what trials depend on where the log does not have it, or a rescore changes it.
    fn tell_basis(&mut self, study: &mut StudyRun<'_>, number: u64, plan: &Plan) {
        let is_rescore = matches!(study.request.mode, StudyMode::Rescore(_));
        let is_known = study.has_basis || (study.core.basis().is_some() && !is_rescore);
        if is_known || !study.logged {
            return;
        }
        study.has_basis = true;
        let basis = basis(plan, number);
        encode(&StudyRecord::Basis(basis.clone()), &mut self.batch.study);
        study.core.set_basis(basis);
    }

    /// Plans a trial and hands its nodes to the scheduler.
    pub(super) fn plan_part(
        &mut self,
        study: &mut StudyRun<'_>,
        number: u64,
        values: Arc<Map>,
        replicates: Option<u32>,
        began: Instant,
        made: FxHashSet<NodeKey>,
    ) {
        let point = TrialPoint {
            number,
            values: Arc::clone(&values),
            replicates,
        };
        let planned = plan_trial(
            &study.request.planner,
            point,
            &mut study.facts,
            Some(&study.growing.pipeline().sources),
        );
        let plan = match planned {
            Ok(plan) => plan,
            Err(why) => {
                let end = TrialEnd {
                    result: Err(format!("trial {number} cannot be planned: {why}")),
                    replicates: 0,
                    seconds: 0.0,
                    hits: 0,
                    nodes: 0,
                    key: Digest::empty(),
                    targets: Vec::new(),
                };
                study.events.push(StudyEvent::Ended { trial: number, end });
                return;
            }
        };
        if study.width == 0 {
            study.width = widest(&plan);
            study.say_slots();
        }
        self.tell_basis(study, number, &plan);
        study.naive.insert(number, plan.counts().naive);
        let (part, delta) = study.growing.add(Arc::new(plan), false);
        study.nodes = part.nodes().len() as u32;
        let is_open = |node: &NodeIx| match part.nodes().contains(&node.0) {
            true => true,
            false => self.board.end_of(*node).is_none(),
        };
        let awaited = part.plan().objective_nodes().into_iter();
        let nodes = part.nodes();
        let live = LiveTrial {
            number,
            values,
            began,
            open: part.nodes().len() as u32,
            awaited: awaited
                .map(|node| part.global(node))
                .filter(is_open)
                .collect(),
            over: false,
            replicates,
            hits: 0,
            made,
            ran: 0,
            failed: None,
            cancelled: false,
            part: Rc::clone(&part),
        };
        if !part.nodes().is_empty() {
            study.trials.insert(part.nodes().start, number);
        }
        let is_known = live.awaited.is_empty();
        study.live.insert(number, live);
        let exports = match self.options.export {
            true => part.exports(),
            false => Vec::new(),
        };
        self.extend(delta, &exports);
        if is_known {
            self.tell_trial(study, number);
        }
        if nodes.is_empty() {
            // No node of its own will ever end.
            study.live.remove(&number);
        }
    }

    /// Lays out what a trial exports, and forgets its nodes.
    pub(super) fn retire(&mut self, study: &mut StudyRun<'_>, trial: &LiveTrial) {
        if self.options.export && !self.interrupted() {
            let exports = trial.part.exports();
            if !exports.is_empty() {
                self.export(exports, true);
            }
        }
        let nodes = trial.part.nodes();
        if nodes.is_empty() {
            return;
        }
        // What is queued about these nodes is handled first.
        self.to_retire.push(Rc::clone(&trial.part));
        study.trials.remove(&nodes.start);
        self.go_on_laying(study);
    }

    /// Forgets the nodes of trials that are over, once the scheduler has nothing more to say about them.
    pub(in crate::driver) fn forget_trials(&mut self) {
        for part in std::mem::take(&mut self.to_retire) {
            let nodes = part.nodes();
            // The second attempt at a node that straggled may still end.
            if self
                .live
                .values()
                .any(|live| nodes.contains(&live.node().0))
                || self.behind.is_asked_about(&nodes)
            {
                self.to_retire.push(part);
                continue;
            }
            for node in nodes.clone().map(NodeIx) {
                self.never_cached.remove(&node);
                self.exported_nodes.remove(&node);
                self.ran_nodes.remove(&node);
                self.forced.remove(&node);
                self.causes.remove(&node);
                self.last_ends.remove(&node);
                self.blame.remove(&node);
                if let Some(blocked) = self.blocked.remove(&node)
                    && let Some(failure) = self.failures.iter_mut().find(|it| it.node == node)
                {
                    failure.blocked = blocked;
                }
                self.rewound.remove(&node);
            }
            self.queue.push_back(Event::Retire(NodeIx(nodes.start)));
            self.board.retire(nodes);
            if let Some(study) = &self.study {
                study.growing.retire(&part);
            }
        }
    }
}
