//! The first step: parameters, the order of jobs, points, joins, and what must be known of the outside.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use dagrun_expr::{Context, eval, eval_value};
use dagrun_model::{
    CachePolicy, Diagnostic, Job, JobIx, Pipeline, Seeds, Span, Toolchain, Value, ValueTemplate,
};
use indexmap::IndexMap;
use petgraph::{algo::kosaraju_scc, graph::DiGraph};
use rustc_hash::FxHashMap;

use crate::{
    PlanOptions, ResolvedParam,
    axes::{JobPoints, PointsRequest, REPLICATE, points_of},
    context::{CellContext, ParamContext, clean, flat},
    facts::{FactIndex, FactRequest, Patterns, is_glob},
    input::{DataInput, InputPlan, Item, compile},
    join::{Grouping, NONE, common_axes, join},
    memo::Memo,
    params,
    seeds::{Permutation, SeedPlan},
    select,
    uses::{Scope, Uses, class_exprs, hash_files_calls, job_exprs, must_be_known, recipe_exprs},
};

/// A plan whose points and joins are known, and that waits for facts.
#[derive(Debug)]
pub struct Expansion {
    pub(crate) core: Core,
    pub(crate) index: FactIndex,
    pub(crate) warnings: Vec<Diagnostic>,
}

/// What a plan knows before there are keys.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) params: IndexMap<String, ResolvedParam>,
    pub(crate) params_value: Value,
    /// In file order.
    pub(crate) jobs: Vec<JobPlan>,
    /// Jobs so that each comes after those that it needs, in file order where that leaves a choice: plan order.
    pub(crate) order: Vec<usize>,
    pub(crate) cells: usize,
    /// Cells that were selected; without it, all.
    pub(crate) selected: Option<Vec<bool>>,
    pub(crate) groupings: Vec<Grouping>,
    pub(crate) patterns: Patterns,
    pub(crate) platform: [String; 3],
}

/// A job with its points, needs and inputs.
#[derive(Debug)]
pub(crate) struct JobPlan {
    pub(crate) points: JobPoints,
    pub(crate) first_cell: usize,
    pub(crate) seeds: Option<SeedPlan>,
    /// Its `replicate` axis is its own.
    pub(crate) own_replicates: bool,
    pub(crate) replicate_min: Option<u32>,
    pub(crate) needs: Vec<NeedPlan>,
    pub(crate) inputs: Vec<InputPlan>,
    pub(crate) data: Vec<DataInput>,
    pub(crate) condition: Condition,
    /// What all cells of the job share of their outputs' paths, where those do not vary.
    pub(crate) output_uses: Vec<Uses>,
}

/// When the `if` of a job is decided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Condition {
    /// There is none.
    None,
    /// When the plan is made.
    Static(Uses),
    /// When all needs have succeeded.
    Succeeded(Uses),
    /// When all needs have ended.
    Terminal(Uses),
}

/// A need of a job, joined.
#[derive(Debug)]
pub(crate) struct NeedPlan {
    /// The needed job.
    pub(crate) job: usize,
    /// It has axes that the needing job does not have: the need gives a list.
    pub(crate) gather: bool,
    /// The least number of succeeded members.
    pub(crate) min: Option<u32>,
    /// Outputs are read by the recipe or by inputs.
    pub(crate) data: bool,
    /// The recipe reads `points`.
    pub(crate) points: bool,
    /// The recipe reads `result`.
    pub(crate) result: bool,
    pub(crate) grouping: usize,
    /// For each row its group, and later its set.
    pub(crate) groups: Vec<u32>,
}

impl Core {
    /// The job and row of a cell.
    pub(crate) fn cell(&self, cell: usize) -> (usize, usize) {
        let at = self
            .order
            .partition_point(|job| self.jobs[*job].first_cell <= cell)
            - 1;
        // Jobs without points share their first cell with the next one, which comes after them.
        let job = self.order[at];
        (job, cell - self.jobs[job].first_cell)
    }

    pub(crate) fn is_selected(&self, cell: usize) -> bool {
        self.selected.as_ref().is_none_or(|selected| selected[cell])
    }

    pub(crate) fn logical_id(&self, cell: usize) -> String {
        let (job, row) = self.cell(cell);
        let labels = self.jobs[job].points.labels(row);
        let labels = labels
            .iter()
            .map(|(name, label)| (name.as_str(), label.as_str()));
        dagrun_model::logical_id(self.job_name(job), labels)
    }

    pub(crate) fn job_name(&self, job: usize) -> &str {
        self.pipeline
            .jobs
            .get_index(job)
            .map_or("", |(name, _)| name)
    }
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
    if !errors.is_empty() {
        return Err(errors);
    }
    let params_value = Value::map(
        params
            .iter()
            .map(|(name, param)| (name.as_str().into(), param.value.clone()))
            .collect(),
    );
    let mut expander = Expander {
        pipeline: &pipeline,
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
        expander.job(*job);
    }
    let (errors, warnings) = (expander.errors, expander.warnings);
    if !errors.is_empty() {
        return Err(errors);
    }
    let (cells, groupings) = (expander.cells, expander.groupings);
    let jobs = expander
        .jobs
        .into_iter()
        .map(|job| job.expect("every job was expanded, or there are errors"))
        .collect();
    let mut core = Core {
        params,
        params_value,
        jobs,
        order,
        cells,
        selected: None,
        groupings,
        patterns: Patterns::default(),
        platform: [
            options.os.clone(),
            options.arch.clone(),
            options.isolation.clone(),
        ],
        pipeline,
    };
    core.selected = select::select(&core, &options)?;
    let index = questions(&mut core)?;
    Ok(Expansion {
        core,
        index,
        warnings,
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
}

/// Plan order, or errors that name each cycle as a path.
fn order(pipeline: &Pipeline, errors: &mut Vec<Diagnostic>) -> Vec<usize> {
    let mut graph: DiGraph<(), (), u32> = DiGraph::with_capacity(pipeline.jobs.len(), 0);
    let nodes: Vec<_> = pipeline.jobs.values().map(|_| graph.add_node(())).collect();
    let mut waiting = vec![0usize; nodes.len()];
    let mut dependents: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (ix, job) in pipeline.jobs.values().enumerate() {
        for need in &job.needs {
            let needed = need.job.index();
            if needed == ix {
                errors.push(
                    Diagnostic::error(
                        "cycle",
                        need.span,
                        format!("job `{}` needs itself", job.name.value),
                    )
                    .help("remove this need"),
                );
                continue;
            }
            graph.add_edge(nodes[needed], nodes[ix], ());
            dependents[needed].push(ix);
            waiting[ix] += 1;
        }
    }
    for component in kosaraju_scc(&graph) {
        if component.len() > 1 {
            let members: Vec<usize> = component.iter().map(|node| node.index()).collect();
            errors.push(cycle(pipeline, &members));
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> = (0..nodes.len())
        .filter(|ix| waiting[*ix] == 0)
        .map(Reverse)
        .collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(job)) = ready.pop() {
        order.push(job);
        for dependent in &dependents[job] {
            waiting[*dependent] -= 1;
            if waiting[*dependent] == 0 {
                ready.push(Reverse(*dependent));
            }
        }
    }
    order
}

/// Walks along needs inside a component until a job comes again.
fn cycle(pipeline: &Pipeline, members: &[usize]) -> Diagnostic {
    let start = *members.iter().min().expect("a component has members");
    let mut path = vec![start];
    let mut at = start;
    let need = loop {
        let job = pipeline.job(JobIx::from_index(at));
        let inside = |need: &&dagrun_model::Need| {
            need.job.index() != at && members.contains(&need.job.index())
        };
        let need = job
            .needs
            .iter()
            .find(inside)
            .expect("each job of a cycle needs another one of it");
        at = need.job.index();
        if let Some(first) = path.iter().position(|job| *job == at) {
            path.drain(..first);
            path.push(at);
            break need;
        }
        path.push(at);
    };
    let names: Vec<&str> = path
        .iter()
        .map(|ix| pipeline.job(JobIx::from_index(*ix)).name.value.as_str())
        .collect();
    let mut error = Diagnostic::error(
        "cycle",
        need.span,
        format!("jobs need each other: {}", names.join(" -> ")),
    )
    .help("remove one of these needs");
    for pair in path.windows(2) {
        let job = pipeline.job(JobIx::from_index(pair[0]));
        if let Some(need) = job.needs.iter().find(|need| need.job.index() == pair[1]) {
            error = error.related(need.span, format!("`{}` needs it here", job.name.value));
        }
    }
    error
}

/// How many joined points there may be for each node that a plan may have.
const MAX_JOINS: u64 = 8;

struct Expander<'a> {
    pipeline: &'a Pipeline,
    params: &'a Value,
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
        self.finish_job(ix, job, points, replicates);
    }

    fn finish_job(&mut self, ix: usize, job: &Job, points: JobPoints, replicates: ReplicatePlan) {
        let own = job.replicates.is_some();
        let seeds = match own {
            true => replicates.seeds,
            false if points.axis(REPLICATE).is_some() => self.inherited_seeds(job),
            false => None,
        };
        let mut needs: Vec<NeedPlan> = (0..job.needs.len())
            .map(|need| self.need(job, need, &points))
            .collect();
        let scope = Scope::new(job, &points, matches!(seeds, Some(SeedPlan::PerTrial(_))));
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
            inputs: inputs.inputs,
            data: inputs.data,
            condition,
            output_uses,
            points,
        });
    }

    fn replicates(&self, job: &Job, ctx: &dyn Context) -> Result<ReplicatePlan, Diagnostic> {
        let Some(replicates) = &job.replicates else {
            return Ok(ReplicatePlan {
                n: None,
                min: None,
                seeds: None,
            });
        };
        let n = count(&replicates.n, "the number of replicates", ctx)?;
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
            seeds: Some(seed_plan(&replicates.seeds, n, ctx)?),
        })
    }

    /// The seeds of a `replicate` axis that was taken over: those of the job it comes from.
    fn inherited_seeds(&self, job: &Job) -> Option<SeedPlan> {
        let from = job
            .needs
            .iter()
            .filter_map(|need| self.jobs[need.job.index()].as_ref())
            .find(|needed| needed.points.axis(REPLICATE).is_some())?;
        // Under `per_trial` a seed depends on axes that this job need not have.
        from.seeds
            .clone()
            .filter(|seeds| !matches!(seeds, SeedPlan::PerTrial(_)))
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
        Seeds::PerTrial { base: template } => Ok(SeedPlan::PerTrial(base(template)?)),
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
    use dagrun_expr::{ReferenceKind as Kind, references};
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

/// Collects what has to be known of the outside.
fn questions(core: &mut Core) -> Result<FactIndex, Vec<Diagnostic>> {
    let mut index = FactIndex::default();
    let mut patterns = Patterns::default();
    let mut errors = Vec::new();
    for ix in &core.order {
        let (plan, job) = (&core.jobs[*ix], &core.pipeline.jobs[*ix]);
        let selected = |row: usize| core.is_selected(plan.first_cell + row);
        if !(0..plan.points.len).any(selected) {
            continue;
        }
        index.of_job(job);
        let rows = || (0..plan.points.len).filter(|row| selected(*row));
        for input in &plan.inputs {
            let mut memo = Memo::new(input.uses.axes, &plan.points);
            for row in rows() {
                let failed = memo.get(&plan.points, row, || {
                    let ctx = CellContext::new(core, *ix, row, None);
                    ask_input(input, &ctx, &mut patterns, &mut errors)
                });
                if failed {
                    break;
                }
            }
        }
        let scope = Scope::new(
            job,
            &plan.points,
            matches!(plan.seeds, Some(SeedPlan::PerTrial(_))),
        );
        let mut calls = Vec::new();
        job_exprs(job, &mut |expr| {
            hash_files_calls(expr, &mut |arguments, span| calls.push((arguments, span)))
        });
        for (arguments, span) in calls {
            let mut memo = Memo::new(scope.exprs(arguments.iter()).axes, &plan.points);
            for row in rows() {
                let failed = memo.get(&plan.points, row, || {
                    let ctx = CellContext::new(core, *ix, row, None);
                    ask_hash(arguments, span, &ctx, &mut patterns, &mut errors)
                });
                if failed {
                    break;
                }
            }
        }
    }
    core.patterns = patterns;
    if errors.is_empty() {
        Ok(index)
    } else {
        Err(errors)
    }
}

impl FactIndex {
    fn of_job(&mut self, job: &Job) {
        for toolchain in &job.toolchain {
            match toolchain {
                Toolchain::Command(command) => {
                    self.commands.insert(command.value.clone());
                }
                Toolchain::File(file) => {
                    self.files.insert(file.value.clone());
                }
            }
        }
        if let CachePolicy::Env(names) = &job.cache {
            self.env.extend(names.iter().cloned());
        }
        job_exprs(job, &mut |expr| {
            use dagrun_expr::{ReferenceKind, references};
            self.git |=
                references(expr).any(|reference| matches!(reference.kind, ReferenceKind::Git(_)));
        });
    }
}

/// Asks for the patterns of an input; says whether that failed.
fn ask_input(
    input: &InputPlan,
    ctx: &dyn Context,
    patterns: &mut Patterns,
    errors: &mut Vec<Diagnostic>,
) -> bool {
    match input.resolve(ctx, &|_| false) {
        Ok(resolved) => {
            for item in resolved.items {
                if let Item::Pattern(pattern) = item {
                    patterns.add(&pattern, input.external, input.span);
                }
            }
            false
        }
        Err(error) => {
            errors.push(error);
            true
        }
    }
}

fn ask_hash(
    arguments: &[dagrun_model::Expr],
    span: Span,
    ctx: &dyn Context,
    patterns: &mut Patterns,
    errors: &mut Vec<Diagnostic>,
) -> bool {
    let values: Result<Vec<Value>, _> = arguments
        .iter()
        .map(|argument| eval(argument, ctx))
        .collect();
    match values {
        Ok(values) => {
            for value in flat(&values) {
                let pattern = clean(&value.to_text());
                let inside =
                    !pattern.starts_with('/') && !pattern.split('/').any(|name| name == "..");
                if inside && !pattern.is_empty() {
                    patterns.add(&pattern, false, span);
                } else {
                    errors.push(Diagnostic::error(
                        "external-path",
                        span,
                        format!(
                            "`hashFiles` of `{pattern}`, which is outside of the project folder"
                        ),
                    ));
                    return true;
                }
            }
            false
        }
        Err(error) => {
            errors.push(error.to_diagnostic(span));
            true
        }
    }
}

/// Whether a missing file is an error: a glob may find nothing.
pub(crate) fn must_exist(pattern: &str) -> bool {
    !is_glob(pattern)
}
