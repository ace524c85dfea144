//! Exports of told trials: what a crash or somebody's `rm` took away is laid out again before the study goes on.
//!
//! Such a trial is planned once more. Its nodes are hits, and it is told to nobody.

use std::{sync::Arc, time::Instant};

use dagrun_plan::{JobPhase, Plan};
use dagrun_study::{Study, TrialState};
use rustc_hash::FxHashSet;

use super::{Driver, LiveTrial, StudyRun};
use crate::{StudyMode, growing::Part, study::plan_again};

/// How many trials are laid out at once.
const AT_ONCE: usize = 16;

impl Driver<'_> {
    /// Finds the told trials that lack a file of their exports.
    pub(super) fn find_unlaid(&mut self, study: &mut StudyRun<'_>) {
        let is_wanted = self.options.export && study.request.mode == StudyMode::Continue;
        if !is_wanted || !exports_trials(study) {
            return;
        }
        let told: Vec<u64> = complete(&study.core).collect();
        for trial in told {
            let plan = study.plan_of_told(trial);
            let lacks = plan.is_some_and(|plan| {
                let own = |export: &&dagrun_plan::PlannedExport| plan.is_own(export.node);
                let project = self.workspace.project();
                let exports = plan.exports();
                let mut exports = exports.iter().filter(own);
                exports.any(|export| !project.join(&export.target).exists())
            });
            if lacks {
                study.unlaid.push_back(trial);
            }
        }
    }

    /// Plans trials to be laid out, as many as may be under way; gives whether there is nothing more to be laid.
    pub(super) fn lay_told(&mut self, study: &mut StudyRun<'_>) -> bool {
        while study.live.len() < AT_ONCE && !study.stopping {
            let Some(number) = study.unlaid.pop_front() else {
                break;
            };
            let Some(plan) = study.plan_of_told(number) else {
                continue;
            };
            let (part, delta) = study.growing.add(Arc::new(plan), false);
            if part.nodes().is_empty() {
                continue;
            }
            study.trials.insert(part.nodes().start, number);
            study.live.insert(number, told(number, &part));
            self.extend(delta, &part.exports());
        }
        study.live.is_empty()
    }
}

impl StudyRun<'_> {
    fn plan_of_told(&mut self, trial: u64) -> Option<Plan> {
        let row = self.core.row(trial)?;
        plan_again(&self.core, &row, &self.request.planner, &mut self.facts).ok()
    }
}

fn complete(study: &Study) -> impl Iterator<Item = u64> {
    let rows = study.rows();
    rows.filter(|row| row.state == TrialState::Complete)
        .map(|row| row.trial)
}

/// Whether a job of trials is exported.
fn exports_trials(study: &StudyRun<'_>) -> bool {
    let pipeline = study.growing.pipeline();
    let phases = dagrun_plan::job_phases(pipeline);
    let named = pipeline.export.iter().filter_map(|export| {
        let path = export.value.as_path()?;
        let [_, job, ..] = path.as_slice() else {
            return None;
        };
        pipeline.jobs.get_index_of(*job)
    });
    let mut named = named;
    named.any(|job| phases[job] == JobPhase::Trial)
}

/// A trial of which nothing is awaited but the ends of its nodes.
fn told(number: u64, part: &std::rc::Rc<Part>) -> LiveTrial {
    LiveTrial {
        number,
        part: std::rc::Rc::clone(part),
        values: Arc::default(),
        began: Instant::now(),
        open: part.nodes().len() as u32,
        awaited: FxHashSet::default(),
        over: true,
        replicates: None,
        hits: 0,
        made: FxHashSet::default(),
        ran: 0,
        failed: None,
        cancelled: false,
    }
}
