//! Which part of a pipeline with a study a plan is about, and to which part each job belongs.
//!
//! A study makes many small plans: one of what runs before its trials, one for each trial, one of what runs over the
//! finished study. Each takes along what its jobs need of the first one; equal keys say which nodes those are.

use std::{collections::VecDeque, sync::Arc};

use dagrun_expr::{ReferenceKind, references};
use dagrun_model::{Diagnostic, Export, Expr, Job, Map, Pipeline, Span, Study};

use crate::uses::job_exprs;

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
    spread(JobPhase::Trial, &|job| first_use(job, is_trial).is_some());
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
        if let (JobPhase::Trial, Some(study)) = (own, &pipeline.study) {
            for expr in result_exprs(study) {
                waiting.extend(read_outputs(pipeline, expr).map(|(job, _)| job));
            }
        }
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

fn is_trial(kind: &ReferenceKind<'_>) -> bool {
    matches!(kind, ReferenceKind::Trial(_))
}

fn is_study(kind: &ReferenceKind<'_>) -> bool {
    matches!(kind, ReferenceKind::Study(_))
}

/// Where the nodes of a job first refer to something.
fn first_use(job: &Job, wanted: fn(&ReferenceKind<'_>) -> bool) -> Option<Span> {
    let mut found = None;
    job_exprs(job, &mut |expr| {
        if found.is_none() {
            let mut all = references(expr);
            found = all
                .find(|reference| wanted(&reference.kind))
                .map(|reference| reference.span);
        }
    });
    found
}

/// What is wrong with the parts of a pipeline, whichever of them is planned.
pub(crate) fn check(pipeline: &Pipeline, phases: &[JobPhase], errors: &mut Vec<Diagnostic>) {
    match &pipeline.study {
        Some(study) => {
            for expr in result_exprs(study) {
                check_result(pipeline, phases, expr, errors);
            }
        }
        None => {
            for job in pipeline.jobs.values() {
                let uses = [first_use(job, is_trial), first_use(job, is_study)];
                let place = job.after_study.or(uses[0]).or(uses[1]);
                errors.extend(place.map(|span| no_study(job, span)));
            }
            return;
        }
    }
    let mut growing: Option<Span> = None;
    for (job, phase) in pipeline.jobs.values().zip(phases) {
        check_job(pipeline, phases, job, *phase, errors);
        let grow = job.replicates.as_ref().and_then(|it| it.grow.as_ref());
        if let Some(grow) = grow {
            if *phase != JobPhase::Trial {
                errors.push(
                    Diagnostic::error(
                        "bad-grow",
                        grow.span,
                        format!("job `{}` does not have the axis `trial`, and replicates only grow in trials", job.name.value),
                    )
                    .help("use `trial` in the job, or remove `grow`"),
                );
            }
            if let Some(first) = growing.replace(grow.span) {
                errors.push(
                    Diagnostic::error(
                        "bad-grow",
                        grow.span,
                        "only one job of a study can have `grow`",
                    )
                    .related(first, "first here"),
                );
            }
        }
    }
    for export in &pipeline.export {
        errors.extend(check_export(pipeline, phases, export));
    }
}

fn no_study(job: &Job, span: Span) -> Diagnostic {
    Diagnostic::error(
        "no-study",
        span,
        format!(
            "job `{}` is part of a study, and there is none",
            job.name.value
        ),
    )
    .help("write a `study` section, or use `matrix` and `params`")
}

fn check_job(
    pipeline: &Pipeline,
    phases: &[JobPhase],
    job: &Job,
    phase: JobPhase,
    errors: &mut Vec<Diagnostic>,
) {
    let name = &job.name.value;
    if phase != JobPhase::After {
        errors.extend(first_use(job, is_study).map(|span| {
            Diagnostic::error(
                "needs-study",
                span,
                format!("job `{name}` reads `study` before the study has ended"),
            )
            .help("add `study` to its `needs`: it then runs after all trials")
        }));
        return;
    }
    let instead = "read all trials from `study.table`, or the best one from `study.best`";
    errors.extend(first_use(job, is_trial).map(|span| {
        Diagnostic::error(
            "trial-after-study",
            span,
            format!("job `{name}` runs after the study, where there is no single `trial`"),
        )
        .help(instead)
    }));
    for need in &job.needs {
        let needed = need.job.index();
        if phases[needed] == JobPhase::Trial {
            errors.push(
                Diagnostic::error(
                    "trial-after-study",
                    need.span,
                    format!(
                        "job `{name}` runs after the study and needs `{}`, which has a node for each trial",
                        pipeline.jobs[needed].name.value
                    ),
                )
                .help(instead),
            );
        }
    }
}

fn check_export(pipeline: &Pipeline, phases: &[JobPhase], export: &Export) -> Option<Diagnostic> {
    let path = export.value.as_path()?;
    let ix = pipeline.jobs.get_index_of(*path.get(1)?)?;
    let target = &export.target;
    (phases[ix] == JobPhase::Trial && !target.value.ends_with('/')).then(|| {
        Diagnostic::error(
            "export-many",
            target.span,
            format!(
                "job `{}` has a node for each trial, which cannot all be `{}`",
                path[1], target.value
            ),
        )
        .help(format!(
            "write `{}/`: it takes all files, named by their axes",
            target.value
        ))
    })
}

/// What an objective or a constraint may refer to.
fn check_result(
    pipeline: &Pipeline,
    phases: &[JobPhase],
    expr: &Expr,
    errors: &mut Vec<Diagnostic>,
) {
    use ReferenceKind as Kind;
    for reference in references(expr) {
        let bad = |message: String| Diagnostic::error("bad-objective", reference.span, message);
        let form =
            "write `jobs.JOB.outputs.NAME`; an output with several nodes in a trial is a list";
        let (job, output) = match reference.kind {
            Kind::Param(_) | Kind::Trial(_) => continue,
            Kind::JobOutput(Some(job), Some(output)) => (job, output),
            Kind::JobOutput(..) => {
                let whole = bad("an objective reads one output of a job".into());
                errors.push(whole.help(form));
                continue;
            }
            _ => {
                let other = bad("an objective only knows `jobs`, `trial` and `params`".into());
                errors.push(other.help(form));
                continue;
            }
        };
        let Some((ix, _, def)) = pipeline.jobs.get_full(job) else {
            errors.push(bad(format!("there is no job `{job}`")));
            continue;
        };
        match def.outputs.get(output) {
            _ if phases[ix] == JobPhase::After => errors.push(
                bad(format!("job `{job}` runs after the study"))
                    .help("an objective reads jobs that run in each trial"),
            ),
            None => errors.push(bad(format!("job `{job}` has no output `{output}`"))),
            Some(def) if def.json.is_none() => errors.push(
                bad(format!(
                    "output `{output}` of job `{job}` is a file and has no value"
                ))
                .help(format!(
                    "declare it as `{output}: {{json: FILE, pointer: /NAME}}`"
                )),
            ),
            Some(_) => {}
        }
    }
}
