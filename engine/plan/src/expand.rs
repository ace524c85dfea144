//! The first step: parameters, the order of jobs, points, joins, and what must be known of the outside.

use std::sync::Arc;

use dagrun_expr::{Context, ReferenceKind, eval_value, references};
use dagrun_model::{
    CachePolicy, Diagnostic, Job, JobIx, Pipeline, Replicates, Seeds, Span, Value, ValueTemplate,
};
use rustc_hash::FxHashMap;

use crate::{
    JobPhase, Phase, PlanOptions, TrialPoint,
    axes::{JobPoints, REPLICATE},
    context::ParamContext,
    facts::{FactIndex, FactRequest, Facts, SharedFacts},
    input::compile,
    join::{Grouping, NONE, common_axes, join},
    layout::{Condition, Core, JobPlan, NeedPlan},
    order::order,
    params,
    phase::{self, job_phases},
    points::{PointsRequest, points_of},
    questions::questions,
    seeds::{Permutation, SeedPlan},
    select,
    uses::{Scope, Uses, class_exprs, must_be_known, recipe_exprs},
};

/// A plan whose points and joins are known, and that waits for facts.
#[derive(Debug)]
pub struct Expansion {
    pub(crate) core: Core,
    pub(crate) index: Arc<FactIndex>,
    pub(crate) warnings: Vec<Diagnostic>,
    /// Where other plans need the same facts.
    pub(crate) shared: Option<Arc<SharedFacts>>,
}

/// Expands a pipeline into points and joins.
///
/// # Errors
/// Everything that is wrong with parameters, axes, joins, cycles and selections, at once as far as one does not hide the
/// other.
pub fn expand(pipeline: Arc<Pipeline>, options: PlanOptions) -> Result<Expansion, Vec<Diagnostic>> {
    let mut errors = Vec::new();
    let params = params::resolve(&pipeline, &options.params, &mut errors);
    let order = order(&pipeline, &mut errors);
    let phases: Arc<[JobPhase]> = job_phases(&pipeline).into();
    phase::check(&pipeline, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    let params_value = Value::map(
        params
            .iter()
            .map(|(name, param)| (name.as_str().into(), param.value.clone()))
            .collect(),
    );
    let included = options.phase.included(&pipeline, &phases);
    let mut expander = Expander {
        pipeline: &pipeline,
        phases: &phases,
        trial: match &options.phase {
            Phase::Trial(point) => Some(point),
            _ => None,
        },
        grow_to: None,
        params: &params_value,
        jobs: (0..pipeline.jobs.len()).map(|_| None).collect(),
        groupings: Vec::new(),
        known_groupings: FxHashMap::default(),
        cells: 0,
        joined: 0,
        too_many_joins: false,
        max_nodes: options.max_nodes,
        errors,
        warnings: Vec::new(),
    };
    for job in &order {
        match included[*job] {
            true => expander.job(*job),
            false => expander.jobs[*job] = Some(JobPlan::absent(expander.cells)),
        }
    }
    let (errors, warnings) = (expander.errors, expander.warnings);
    if !errors.is_empty() {
        return Err(errors);
    }
    let (cells, groupings, grow_to) = (expander.cells, expander.groupings, expander.grow_to);
    let jobs: Vec<JobPlan> = expander
        .jobs
        .into_iter()
        .map(|job| job.expect("every job was expanded, or there are errors"))
        .collect();
    let starts = order.iter().map(|job| jobs[*job].first_cell as u32);
    let mut core = Core {
        params: Arc::new(params),
        params_value,
        starts: starts.collect(),
        jobs,
        order,
        cells,
        selected: None,
        groupings,
        patterns: Arc::default(),
        platform: [
            options.os.clone(),
            options.arch.clone(),
            options.isolation.clone(),
        ],
        pipeline,
        phase: options.phase.clone(),
        phases,
        included,
        grow_to,
        apart: options.apart,
    };
    core.selected = select::select(&core, &options)?;
    let index = questions(&mut core)?;
    Ok(Expansion {
        core,
        index: Arc::new(index),
        warnings,
        shared: None,
    })
}

impl Expansion {
    /// What has to be known before the plan can be finished.
    pub fn facts_needed(&self) -> FactRequest {
        FactRequest {
            globs: self.core.patterns.requests(),
            commands: self.index.commands.iter().cloned().collect(),
            files: self.index.files.iter().cloned().collect(),
            env: self.index.env.iter().cloned().collect(),
            git: self.index.git,
        }
    }

    /// The facts that another trial of the same [`StudyPlanner`](crate::StudyPlanner) was planned with, where this one
    /// needs the same.
    pub fn known_facts(&self) -> Option<Arc<Facts>> {
        self.shared.as_ref()?.facts.get().cloned()
    }
}

/// How many joined points there may be for each node that a plan may have.
const MAX_JOINS: u64 = 8;

struct Expander<'a> {
    pipeline: &'a Pipeline,
    params: &'a Value,
    phases: &'a [JobPhase],
    trial: Option<&'a TrialPoint>,
    grow_to: Option<u32>,
    jobs: Vec<Option<JobPlan>>,
    groupings: Vec<Grouping>,
    known_groupings: FxHashMap<(usize, Vec<usize>), usize>,
    cells: usize,
    /// Rows that were grouped and joined so far.
    joined: usize,
    too_many_joins: bool,
    max_nodes: u64,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

/// What the replicates of a job come to.
struct ReplicatePlan {
    n: Option<u32>,
    min: Option<u32>,
    seeds: Option<SeedPlan>,
}

impl Expander<'_> {
    fn job(&mut self, ix: usize) {
        let job = self.pipeline.job(JobIx::from_index(ix));
        let needed: Vec<usize> = job.needs.iter().map(|need| need.job.index()).collect();
        if needed.iter().any(|ix| self.jobs[*ix].is_none()) {
            return;
        }
        let ctx = ParamContext(self.params);
        let replicates = match self.replicates(job, &ctx) {
            Ok(replicates) => replicates,
            Err(error) => return self.errors.push(error),
        };
        let request = PointsRequest {
            job,
            needed: needed
                .iter()
                .filter_map(|ix| self.jobs[*ix].as_ref())
                .map(|job| &job.points)
                .collect(),
            ctx: &ctx,
            replicates: replicates.n,
            trial: self.trial.filter(|_| self.phases[ix] == JobPhase::Trial),
            budget: self.max_nodes,
        };
        let points = points_of(&request, &mut self.warnings);
        let points = match points {
            Ok(points) => points,
            Err(errors) => return self.errors.extend(errors),
        };
        if (self.cells + points.len) as u64 > self.max_nodes {
            return self.errors.push(
                Diagnostic::error(
                    "too-many-nodes",
                    job.name.span,
                    format!(
                        "with job `{}` the plan has more than {} nodes",
                        job.name.value, self.max_nodes
                    ),
                )
                .help("make axes smaller, or raise the limit if this is meant"),
            );
        }
        let matrix = &job.matrix;
        if points.len == 0 && !(matrix.axes.is_empty() && matrix.include.is_empty()) {
            let words = format!(
                "job `{}` has no nodes: its matrix has no points",
                job.name.value
            );
            let why = match matrix.exclude.is_empty() {
                true => "give each axis a value; a list may come from a parameter that is empty",
                false => "`exclude` leaves out all of them, or an axis has no values",
            };
            let warning = Diagnostic::warning("empty-matrix", matrix.span, words).help(why);
            self.warnings.push(warning);
        }
        self.finish_job(ix, job, points, replicates);
    }

    fn finish_job(&mut self, ix: usize, job: &Job, points: JobPoints, replicates: ReplicatePlan) {
        let own = job.replicates.is_some();
        let seeds = match own {
            true => replicates.seeds,
            false if points.axis(REPLICATE).is_some() => self.inherited_seeds(job, &points),
            false => None,
        };
        let mut needs: Vec<NeedPlan> = (0..job.needs.len())
            .map(|need| self.need(job, need, &points))
            .collect();
        let per_point = seeds.as_ref().is_some_and(SeedPlan::per_point);
        let scope = Scope::new(job, &points, per_point);
        let inputs = compile(self.pipeline, job, &scope, &mut needs, &mut self.errors);
        check_known(job, &scope, &mut self.errors);
        let condition = condition(job, &scope);
        let output_uses = job
            .outputs
            .values()
            .map(|output| scope.template(&output.path))
            .collect();
        let first_cell = self.cells;
        self.cells += points.len;
        self.jobs[ix] = Some(JobPlan {
            first_cell,
            seeds,
            own_replicates: own,
            replicate_min: replicates.min,
            needs,
            inputs: inputs.inputs.into(),
            data: inputs.data.into(),
            condition,
            output_uses,
            asked: [].into(),
            points,
        });
    }

    fn replicates(&mut self, job: &Job, ctx: &dyn Context) -> Result<ReplicatePlan, Diagnostic> {
        let Some(replicates) = &job.replicates else {
            return Ok(ReplicatePlan {
                n: None,
                min: None,
                seeds: None,
            });
        };
        let n = count(&replicates.n, "the number of replicates", ctx)?;
        let (n, most) = self.grown(replicates, n, ctx)?;
        let min = match &replicates.min {
            Some(min) => Some(count(min, "`min`", ctx)?),
            None => None,
        };
        if u64::from(n) > self.max_nodes.min(1 << 31) {
            return Err(Diagnostic::error(
                "too-many-nodes",
                replicates.n.span(),
                format!(
                    "{n} replicates are more than the limit of {} nodes",
                    self.max_nodes
                ),
            ));
        }
        if min.is_some_and(|min| min > n) {
            return Err(Diagnostic::error(
                "bad-replicates",
                replicates.span,
                format!("`min` is more than the {n} replicates there are"),
            ));
        }
        Ok(ReplicatePlan {
            n: Some(n),
            min,
            seeds: Some(seed_plan(&replicates.seeds, most, ctx)?),
        })
    }

    /// How many replicates there are at this trial, and how many there may be.
    fn grown(
        &mut self,
        replicates: &Replicates,
        n: u32,
        ctx: &dyn Context,
    ) -> Result<(u32, u32), Diagnostic> {
        let (Some(grow), Some(trial)) = (&replicates.grow, self.trial) else {
            return Ok((n, n));
        };
        let to = count(&grow.to, "`grow.to`", ctx)?;
        if to <= n {
            return Err(Diagnostic::error(
                "bad-grow",
                grow.to.span(),
                format!("`grow.to` is {to}, and there are {n} replicates to begin with"),
            )
            .help("give a larger number, or remove `grow`"));
        }
        self.grow_to = Some(to);
        let n = trial.replicates.unwrap_or(n);
        Ok((n, to.max(n)))
    }

    /// The seeds of a `replicate` axis that was taken over: those of the job it comes from.
    fn inherited_seeds(&self, job: &Job, points: &JobPoints) -> Option<SeedPlan> {
        let (ix, from) = job
            .needs
            .iter()
            .filter_map(|need| Some((need.job.index(), self.jobs[need.job.index()].as_ref()?)))
            .find(|(_, needed)| needed.points.axis(REPLICATE).is_some())?;
        let Some(SeedPlan::PerTrial { base, of }) = from.seeds else {
            return from.seeds.clone();
        };
        let of = of.unwrap_or(ix);
        let axes = self.jobs[of].iter().flat_map(|job| &job.points.axes);
        let gathered = axes
            .map(|axis| &axis.name)
            .find(|axis| points.axis(axis).is_none());
        Some(match gathered {
            None => SeedPlan::PerTrial { base, of: Some(of) },
            Some(axis) => SeedPlan::Several {
                job: self.pipeline.jobs[of].name.value.as_str().into(),
                axis: axis.clone(),
            },
        })
    }

    fn need(&mut self, job: &Job, ix: usize, points: &JobPoints) -> NeedPlan {
        let need = &job.needs[ix];
        let job_ix = need.job.index();
        let needed = self.jobs[job_ix]
            .as_ref()
            .expect("needed jobs are expanded first");
        let common = common_axes(points, &needed.points);
        let axes: Vec<usize> = common.iter().map(|(_, theirs)| *theirs).collect();
        let gather = axes.len() < needed.points.axes.len();
        let groupings = self.groupings.len();
        let grouping = *self
            .known_groupings
            .entry((job_ix, axes.clone()))
            .or_insert_with(|| {
                self.groupings.push(Grouping::new(&needed.points, axes));
                self.groupings.len() - 1
            });
        if self.groupings.len() > groupings {
            self.joined += needed.points.len;
        }
        self.joined += points.len;
        if self.joined as u64 > self.max_nodes.saturating_mul(MAX_JOINS) && !self.too_many_joins {
            self.too_many_joins = true;
            self.errors.push(
                Diagnostic::error(
                    "too-many-needs",
                    need.span,
                    "the needs of this plan join too many points",
                )
                .help("let fewer jobs need jobs with many points"),
            );
        }
        let groups = match self.too_many_joins {
            true => vec![0; points.len],
            false => join(points, &needed.points, &common, &self.groupings[grouping]),
        };
        if !need.missing_drop
            && let Some(row) = groups.iter().position(|group| *group == NONE)
        {
            let missing = groups.iter().filter(|group| **group == NONE).count();
            self.errors.push(missing_upstream(
                self.pipeline,
                job,
                need.span,
                job_ix,
                points,
                row,
                missing,
            ));
        }
        NeedPlan {
            job: job_ix,
            gather,
            min: need.min,
            data: false,
            points: false,
            result: false,
            grouping,
            groups,
        }
    }
}

fn missing_upstream(
    pipeline: &Pipeline,
    job: &Job,
    span: Span,
    needed: usize,
    points: &JobPoints,
    row: usize,
    missing: usize,
) -> Diagnostic {
    let labels = points.labels(row);
    let id = dagrun_model::logical_id(
        &job.name.value,
        labels
            .iter()
            .map(|(name, label)| (name.as_str(), label.as_str())),
    );
    let needed = &pipeline.job(JobIx::from_index(needed)).name.value;
    let more = match missing {
        1 => String::new(),
        n => format!("; the same holds for {} more", n - 1),
    };
    Diagnostic::error(
        "join-without-upstream",
        span,
        format!("`{id}` needs `{needed}`, which has no node at this point{more}"),
    )
    .help("write `{job: NAME, missing: drop}` if such points go without it, or `exclude` them")
}

fn count(template: &ValueTemplate, what: &str, ctx: &dyn Context) -> Result<u32, Diagnostic> {
    let span = template.span();
    let value = eval_value(template, ctx).map_err(|error| error.to_diagnostic(span))?;
    value
        .as_i64()
        .and_then(|n| u32::try_from(n).ok())
        .ok_or_else(|| {
            Diagnostic::error(
                "bad-replicates",
                span,
                format!("{what} is `{value}` and must be a whole number, 0 or more"),
            )
        })
}

fn seed_plan(seeds: &Seeds, n: u32, ctx: &dyn Context) -> Result<SeedPlan, Diagnostic> {
    let value = |template: &ValueTemplate| {
        eval_value(template, ctx).map_err(|error| error.to_diagnostic(template.span()))
    };
    let base = |template: &ValueTemplate| {
        let value = value(template)?;
        value.as_i64().ok_or_else(|| {
            Diagnostic::error(
                "bad-seeds",
                template.span(),
                format!("the base of seeds is `{value}` and must be an integer"),
            )
        })
    };
    match seeds {
        Seeds::Common { base: template } => {
            Ok(SeedPlan::Common(Permutation::new(base(template)?, None)))
        }
        Seeds::PerTrial { base: template } => Ok(SeedPlan::PerTrial {
            base: base(template)?,
            of: None,
        }),
        Seeds::List { values } => {
            let list = value(values)?;
            let items = list.as_list().unwrap_or_default();
            let seeds: Option<Arc<[i64]>> = items.iter().map(Value::as_i64).collect();
            match seeds {
                Some(seeds) if seeds.len() >= n as usize => Ok(SeedPlan::List(seeds)),
                Some(seeds) => Err(Diagnostic::error(
                    "bad-seeds",
                    values.span(),
                    format!("{} seeds are listed for {n} replicates", seeds.len()),
                )),
                None => Err(Diagnostic::error(
                    "bad-seeds",
                    values.span(),
                    "seeds are integers",
                )),
            }
        }
    }
}

/// What must be known when the plan is made, is.
fn check_known(job: &Job, scope: &Scope<'_>, errors: &mut Vec<Diagnostic>) {
    class_exprs(job, &mut |expr| {
        errors.extend(must_be_known(
            scope.expr(expr),
            "resources and timeouts",
            expr.span,
        ));
    });
    for (name, output) in &job.outputs {
        let what = format!("the path of output `{name}`");
        errors.extend(must_be_known(
            scope.template(&output.path),
            &what,
            output.path.span,
        ));
    }
    if job.cache != CachePolicy::Never {
        recipe_exprs(job, &mut |expr| {
            if scope.expr(expr).volatile {
                errors.push(
                    Diagnostic::error(
                        "volatile-key",
                        expr.span,
                        "`attempt` and `run` differ each time, so the result cannot be cached",
                    )
                    .help("write `cache: never` for this job"),
                );
            }
        });
    }
}

fn condition(job: &Job, scope: &Scope<'_>) -> Condition {
    use ReferenceKind as Kind;
    let Some(expr) = &job.condition else {
        return Condition::None;
    };
    let uses = scope.expr(expr);
    let ended = references(expr).any(|reference| {
        matches!(
            reference.kind,
            Kind::Status(_) | Kind::NeedResult(_) | Kind::Need(_)
        )
    });
    match uses {
        _ if ended => Condition::Terminal(uses),
        Uses { upstream: true, .. } | Uses { volatile: true, .. } => Condition::Succeeded(uses),
        _ => Condition::Static(uses),
    }
}
