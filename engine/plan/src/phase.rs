//! Which part of a pipeline with a study a plan is about, and to which part each job belongs.
//!
//! A study makes many small plans: one of what runs before its trials, one for each trial, one of what runs over the
//! finished study. Each takes along what its jobs need of the first one; equal keys say which nodes those are.

use std::{collections::VecDeque, sync::Arc};

use dagrun_expr::{Reference, ReferenceKind, references};
use dagrun_model::{Diagnostic, Expr, Job, Map, Pipeline, Study};

/// The name of the axis that a study makes.
pub(crate) const TRIAL: &str = "trial";

/// Which part of a pipeline a plan is about.
#[derive(Clone, Debug, Default)]
pub enum Phase {
    /// All of it; of a pipeline with a study the same as `Before`.
    #[default]
    Whole,
    /// Jobs that neither have the axis `trial` nor run after the study.
    Before,
    /// The jobs with the axis `trial` at one trial, and what they need of `Before`.
    Trial(TrialPoint),
    /// The jobs that need `study`, with the values of this context, and what they need of `Before`.
    After(Arc<Map>),
}

/// A trial of a study.
#[derive(Clone, Debug, PartialEq)]
pub struct TrialPoint {
    /// Its number, from 1: the label on the axis `trial`. It enters no key.
    pub number: u64,
    /// The value of each parameter of the space; null for one that is not active.
    pub values: Arc<Map>,
    /// How many replicates the job with `grow` has instead of its own number.
    pub replicates: Option<u32>,
}

/// The part of a pipeline that a job belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobPhase {
    /// It runs once, before or beside the trials.
    Before,
    /// It uses `trial`, or needs a job that does: it has the axis `trial`.
    Trial,
    /// It needs `study`, or a job that does: it runs once, when the study has ended.
    After,
}

/// For each job, in file order, the part of the pipeline that it belongs to.
pub fn job_phases(pipeline: &Pipeline) -> Vec<JobPhase> {
    let count = pipeline.jobs.len();
    let mut dependents: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (ix, job) in pipeline.jobs.values().enumerate() {
        for need in &job.needs {
            dependents[need.job.index()].push(ix);
        }
    }
    let mut phases = vec![JobPhase::Before; count];
    let mut spread = |phase: JobPhase, seeds: &dyn Fn(&Job) -> bool| {
        let mut waiting: VecDeque<usize> =
            (0..count).filter(|ix| seeds(&pipeline.jobs[*ix])).collect();
        while let Some(ix) = waiting.pop_front() {
            if phases[ix] == JobPhase::Before {
                phases[ix] = phase;
                waiting.extend(&dependents[ix]);
            }
        }
    };
    spread(JobPhase::After, &|job| job.after_study.is_some());
    spread(JobPhase::Trial, &uses_trial);
    phases
}

impl Phase {
    /// The phase whose jobs the plan is about; what they need of others only comes along.
    pub(crate) fn own(&self) -> JobPhase {
        match self {
            Self::Whole | Self::Before => JobPhase::Before,
            Self::Trial(_) => JobPhase::Trial,
            Self::After(_) => JobPhase::After,
        }
    }

    /// For each job whether the plan has nodes of it.
    pub(crate) fn included(&self, pipeline: &Pipeline, phases: &[JobPhase]) -> Vec<bool> {
        let own = self.own();
        let mut included = vec![false; phases.len()];
        let mut waiting: Vec<usize> = (0..phases.len()).filter(|ix| phases[*ix] == own).collect();
        while let Some(ix) = waiting.pop() {
            if !std::mem::replace(&mut included[ix], true) {
                let needs = &pipeline.jobs[ix].needs;
                waiting.extend(needs.iter().map(|need| need.job.index()));
            }
        }
        included
    }
}

/// The objectives and constraints of a study.
pub(crate) fn result_exprs(study: &Study) -> impl Iterator<Item = &Expr> {
    let objectives = study.objectives.iter().map(|objective| &objective.value);
    objectives.chain(&study.constraints)
}

/// Job and output, by position, of each `jobs.JOB.outputs.NAME` in an expression.
pub(crate) fn read_outputs<'a>(
    pipeline: &'a Pipeline,
    expr: &'a Expr,
) -> impl Iterator<Item = (usize, usize)> + 'a {
    references(expr).filter_map(|reference| match reference.kind {
        ReferenceKind::JobOutput(Some(job), Some(output)) => {
            let (job, _, def) = pipeline.jobs.get_full(job)?;
            Some((job, def.outputs.get_index_of(output)?))
        }
        _ => None,
    })
}

/// Whether the nodes of a job refer to `trial`.
fn uses_trial(job: &Job) -> bool {
    let mut found = false;
    job.walk_exprs(&mut |expr| {
        let trial = |reference: Reference<'_>| matches!(reference.kind, ReferenceKind::Trial(_));
        found |= references(expr).any(trial);
    });
    found
}

/// What is wrong with the parts of a pipeline besides what `dsl` sees.
pub(crate) fn check(pipeline: &Pipeline, errors: &mut Vec<Diagnostic>) {
    let replicates = pipeline
        .jobs
        .values()
        .filter_map(|job| job.replicates.as_ref());
    let mut growing = replicates.filter_map(|replicates| replicates.grow.as_ref());
    let first = growing.next();
    for (grow, first) in growing.zip(first) {
        errors.push(
            Diagnostic::error(
                "bad-grow",
                grow.span,
                "a second job of the study has `grow`",
            )
            .related(first.span, "the first one")
            .help("let only one job grow: a trial has one number of replicates"),
        );
    }
}
