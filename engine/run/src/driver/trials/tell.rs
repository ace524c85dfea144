//! Nodes end, and what that means for their trial: it is told, or grows.

use std::{rc::Rc, sync::Arc};

use dagrun_events::NodeOutcome;
use dagrun_model::{FailureCause, Map, NodeIx, Value};
use dagrun_plan::{Upstream, UpstreamEnd};
use dagrun_sched::Event;
use dagrun_study::{Scores, StudyEvent, TrialEnd};
use rustc_hash::FxHashMap;

use super::super::Driver;
use super::{LiveTrial, StudyRun};
use crate::{Failure, growing::Part};

impl Driver<'_> {
    /// A node of the run is done: what that means for its trial.
    pub(in crate::driver) fn trial_node_done(&mut self, node: NodeIx, outcome: NodeOutcome) {
        let Some(mut study) = self.study.take() else {
            return;
        };
        let reason = match outcome {
            NodeOutcome::Failed => Some(self.reason_of(node)),
            _ => None,
        };
        // A file that was saved while the study ran: no trial after it could be told, and this one goes on with the next run.
        let is_moved = outcome == NodeOutcome::Failed && self.input_changed(node);
        let mut failed_outside = false;
        let root = match outcome {
            NodeOutcome::Skipped => self.blame.get(&node).copied(),
            _ => None,
        };
        let forbidden = study.forbids(node);
        match study.trial_of(node) {
            Some(trial) => {
                trial.open -= 1;
                trial.awaited.remove(&node);
                trial.hits += u32::from(outcome == NodeOutcome::Cached && trial.is_hit(node));
                if outcome == NodeOutcome::Succeeded && trial.may_grow() {
                    trial.made.insert(trial.part.key(node));
                }
                let ended = matches!(outcome, NodeOutcome::Succeeded | NodeOutcome::Failed);
                trial.ran += u32::from(ended && !forbidden);
                trial.cancelled |= outcome == NodeOutcome::Cancelled;
                let number = trial.number;
                // What failed outside of trials says nothing of this one: it goes on once that is mended.
                let is_outside =
                    is_moved || root.is_some_and(|root| !trial.part.nodes().contains(&root.0));
                trial.cancelled |= is_outside;
                if reason.is_some() && !is_moved {
                    if trial.failed.is_none() {
                        trial.failed = reason;
                    }
                    study.failed_nodes += 1;
                }
                if is_outside && !study.stopping {
                    study.stop();
                    self.queue.push_back(Event::PlanComplete);
                }
                self.after_node(&mut study, number);
            }
            None => {
                failed_outside = reason.is_some();
                let mut waiting = Vec::new();
                for trial in study.live.values_mut() {
                    if trial.awaited.remove(&node) {
                        trial.cancelled |= outcome == NodeOutcome::Cancelled;
                        waiting.push(trial.number);
                    }
                }
                for number in waiting {
                    self.after_node(&mut study, number);
                }
            }
        }
        if failed_outside && self.options.fail_fast {
            // Trials go on with the next run; what runs may end.
            study.stop();
            self.queue.push_back(Event::PlanComplete);
            self.queue
                .push_back(Event::StopRequested(dagrun_sched::Stop::Drain));
        }
        self.study = Some(study);
    }

    pub(super) fn after_node(&mut self, study: &mut StudyRun<'_>, number: u64) {
        let ready = |trial: &LiveTrial| trial.awaited.is_empty() && !trial.over;
        if study.live.get(&number).is_some_and(ready) {
            self.tell_trial(study, number);
        }
        let gone = |trial: &LiveTrial| trial.open == 0 && trial.over;
        if study.live.get(&number).is_some_and(gone)
            && let Some(trial) = study.live.remove(&number)
        {
            self.retire(study, &trial);
        }
        while let Some(at) = study.outgrown.iter().position(gone) {
            let trial = study.outgrown.swap_remove(at);
            self.retire(study, &trial);
        }
    }

    /// Evaluates a trial whose objectives can be read, and tells it, or gives it more replicates.
    pub(super) fn tell_trial(&mut self, study: &mut StudyRun<'_>, number: u64) {
        let Some(trial) = study.live.get_mut(&number) else {
            return;
        };
        if trial.cancelled {
            // The run is being stopped: the trial goes on with the next one.
            trial.over = true;
            return;
        }
        let part = Rc::clone(&trial.part);
        let upstream = part.upstream(&self.board);
        let result = part.plan().trial_objective(&upstream);
        trial.over = true;
        if let Ok(values) = &result
            && trial.replicates.is_none()
            && let Some(to) = part.plan().grow_to()
        {
            let mut context = Map::new();
            let value = values.values.first().copied();
            context.insert("value".into(), value.map_or(Value::Null, Value::Float));
            context.insert("best".into(), study.core.best_value());
            match part.plan().grow(&upstream, &Value::map(context)) {
                Ok(false) => {}
                Ok(true) if study.stopping => {
                    // Its further replicates would not run any more.
                    return;
                }
                Ok(true) => {
                    let mut trial = study.live.remove(&number).expect("it was just there");
                    let (values, began) = (Arc::clone(&trial.values), trial.began);
                    let made = std::mem::take(&mut trial.made);
                    study.outgrown.push(trial);
                    self.plan_part(study, number, values, Some(to), began, made);
                    return;
                }
                Err(cause) => return self.tell(study, number, Err(cause)),
            }
        }
        let result = result.map(|values| Scores {
            values: values.values,
            violation: values.violation,
        });
        self.tell(study, number, result);
    }

    pub(super) fn tell(
        &mut self,
        study: &mut StudyRun<'_>,
        number: u64,
        result: Result<Scores, FailureCause>,
    ) {
        let Some(trial) = study.live.get(&number) else {
            return;
        };
        let plan = trial.part.plan();
        let result = result.map_err(|cause| match &trial.failed {
            Some(why) => why.clone(),
            None => cause.to_string(),
        });
        let end = TrialEnd {
            result,
            replicates: replicates_of(&trial.part, &self.board),
            seconds: match trial.ran {
                0 => 0.0,
                _ => trial.began.elapsed().as_secs_f32(),
            },
            hits: trial.hits,
            nodes: trial.part.nodes().len() as u32,
            key: plan.objective_key(),
            targets: plan.trial_targets(&trial.part.upstream(&self.board)),
        };
        study.events.push(StudyEvent::Ended { trial: number, end });
    }

    /// Whether a node failed because an input was changed under it.
    fn input_changed(&self, node: NodeIx) -> bool {
        self.failure_of(node).is_some_and(Failure::input_changed)
    }

    /// Why a node failed, in one line.
    pub(super) fn reason_of(&self, node: NodeIx) -> String {
        let id = self.plan.id(node);
        match self.failure_of(node) {
            Some(failure) => format!("`{id}` {}", failure.describe_with_words()),
            None => format!("`{id}` failed"),
        }
    }
}

/// How many replicates of the trial have a result: the most among its jobs.
fn replicates_of(part: &Part, board: &crate::board::Board) -> u32 {
    let plan = part.plan();
    let upstream = part.upstream(board);
    let mut by_job: FxHashMap<u32, u32> = FxHashMap::default();
    for node in plan.nodes() {
        let is_replicate = plan.axes(node).iter().any(|(name, _)| name == "replicate");
        let counts = is_replicate && !plan.is_copy(node);
        if counts && upstream.end(node) == Some(UpstreamEnd::Succeeded) {
            *by_job.entry(plan.job(node).0).or_default() += 1;
        }
    }
    by_job.into_values().max().unwrap_or(1)
}
