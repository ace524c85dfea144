//! What a trial came to: its objectives and constraints from the outputs of its nodes, and whether it gets more replicates.

use std::{cell::RefCell, sync::Arc};

use dagrun_expr::{Context, EvalError, eval};
use dagrun_model::{
    Artifact, ContentHash, ContentHasher, Diagnostic, Digest, Direction, Expr, FailureCause, Grow,
    Job, JsonOutput, NodeIx, Study, Value,
};
use rustc_hash::FxHashSet;

use crate::{
    Phase, Plan, TrialPoint, Upstream, UpstreamEnd,
    axes::REPLICATE,
    deferred::hash_shape,
    join::NONE,
    phase::{JobPhase, TRIAL, read_outputs, result_exprs},
};

/// What a trial came to.
#[derive(Clone, Debug, PartialEq)]
pub struct TrialValues {
    /// The objectives as written, in their order; all finite.
    pub values: Vec<f64>,
    /// By how much the constraints are violated together; 0 where the trial is feasible. A boolean counts as 1.
    pub violation: f64,
}

impl Plan {
    /// The trial that this is the plan of.
    pub fn trial(&self) -> Option<&TrialPoint> {
        match &self.core.phase {
            Phase::Trial(point) => Some(point),
            _ => None,
        }
    }

    /// The nodes that objectives and constraints read, in the order in which they stand there.
    pub fn objective_nodes(&self) -> Vec<NodeIx> {
        let Some(study) = &self.core.pipeline.study else {
            return Vec::new();
        };
        let mut seen = FxHashSet::default();
        let mut nodes = Vec::new();
        for expr in result_exprs(study) {
            for (job, _) in read_outputs(&self.core.pipeline, expr) {
                let cells = self.job_cells(job).filter_map(|(_, node)| node);
                nodes.extend(cells.filter(|node| seen.insert(*node)));
            }
        }
        nodes
    }

    /// The nodes whose results scoring takes as given: those of the trial that the objectives' nodes read directly, and
    /// objectives' nodes that read none.
    pub fn simulation_nodes(&self) -> Vec<NodeIx> {
        let mut seen = FxHashSet::default();
        let mut nodes = Vec::new();
        for node in self.objective_nodes() {
            let upstream = self.upstream(node).filter(|node| self.is_own(*node));
            let before = upstream.collect::<Vec<_>>();
            let read = match before.is_empty() {
                true => vec![node],
                false => before,
            };
            nodes.extend(read.into_iter().filter(|node| seen.insert(*node)));
        }
        nodes
    }

    /// A digest of everything that the objectives' values depend on: keys of the nodes they read, the expressions, the
    /// parameters of the pipeline in them.
    pub fn objective_key(&self) -> Digest {
        let mut hasher = ContentHasher::new("dagrun.objective-key.v1");
        if let Some(study) = &self.core.pipeline.study {
            self.hash_objectives(study, &mut hasher);
        }
        self.hash_keys(&self.objective_nodes(), &mut hasher);
        hasher.finish()
    }

    /// Digests of the single objectives and constraints: what each is, its name, its expression with the values of parameters in it.
    pub fn objective_parts(&self) -> Vec<(&'static str, String, Digest)> {
        let Some(study) = &self.core.pipeline.study else {
            return Vec::new();
        };
        let digest = |expr: &Expr| {
            let mut hasher = ContentHasher::new("dagrun.objective-part.v1");
            self.hash_expr(expr, &mut hasher);
            hasher.finish()
        };
        let objectives = study.objectives.iter();
        let objectives = objectives.map(|it| ("objective", it.name.to_string(), digest(&it.value)));
        let constraints = study.constraints.iter().zip(1..);
        let constraints = constraints.map(|(it, n)| ("constraint", n.to_string(), digest(it)));
        objectives.chain(constraints).collect()
    }

    /// A digest of the keys of [`Plan::simulation_nodes`]: where it is equal and [`Plan::objective_key`] is not, only
    /// scoring changed.
    pub fn simulation_key(&self) -> Digest {
        let mut hasher = ContentHasher::new("dagrun.simulation-key.v1");
        self.hash_keys(&self.simulation_nodes(), &mut hasher);
        hasher.finish()
    }

    fn hash_keys(&self, nodes: &[NodeIx], hasher: &mut ContentHasher) {
        (nodes.len() as u64).content_hash(hasher);
        nodes
            .iter()
            .for_each(|node| self.key(*node).content_hash(hasher));
    }

    fn hash_objectives(&self, study: &Study, hasher: &mut ContentHasher) {
        (study.objectives.len() as u64).content_hash(hasher);
        for objective in &study.objectives {
            (objective.direction == Direction::Maximize).content_hash(hasher);
            self.hash_expr(&objective.value, hasher);
        }
        (study.constraints.len() as u64).content_hash(hasher);
        for constraint in &study.constraints {
            self.hash_expr(constraint, hasher);
        }
    }

    /// The form of an expression, with the values of parameters in it: spaces and places do not count.
    fn hash_expr(&self, expr: &Expr, hasher: &mut ContentHasher) {
        if let Some(["params", name]) = expr.as_path().as_deref()
            && let Some(param) = self.core.params.get(*name)
        {
            return ("param", &param.value).content_hash(hasher);
        }
        let hashed: Result<(), Diagnostic> = hash_shape(expr, hasher, &mut |part, hasher| {
            self.hash_expr(part, hasher);
            Ok(())
        });
        debug_assert!(hashed.is_ok(), "no part of it fails");
    }

    /// Objectives and constraints from what the nodes of the trial made.
    ///
    /// # Errors
    /// A node that has no result, a result that is no finite number, an expression that fails: the message names the
    /// objective, the trial, the node and its value.
    pub fn trial_objective(&self, upstream: &dyn Upstream) -> Result<TrialValues, FailureCause> {
        let study = self.core.pipeline.study.as_ref();
        let mut values = Vec::new();
        for objective in study.iter().flat_map(|study| &study.objectives) {
            let what = format!("objective `{}`", objective.name);
            let ctx = ResultContext::new(self, upstream, None);
            let value = ctx.evaluate(&objective.value, &what)?;
            values.push(ctx.finite(&value, &what)?);
        }
        let mut violation = 0.0;
        for (ix, constraint) in study.iter().flat_map(|it| &it.constraints).enumerate() {
            let what = format!("constraint {}", ix + 1);
            let ctx = ResultContext::new(self, upstream, None);
            let value = ctx.evaluate(constraint, &what)?;
            violation += match value.as_bool() {
                Some(holds) => f64::from(u8::from(!holds)),
                None => ctx.finite(&value, &what)?.max(0.0),
            };
        }
        Ok(TrialValues { values, violation })
    }

    /// The numbers that the objectives read, by name: `score[target=age].loss`, and whatever there is of them where others are
    /// missing. What is an objective all by itself is not among them, nor what single replicates gave.
    pub fn trial_targets(&self, upstream: &dyn Upstream) -> Vec<(Arc<str>, f64)> {
        let pipeline = &self.core.pipeline;
        let mut targets: Vec<(Arc<str>, f64)> = Vec::new();
        let mut seen = FxHashSet::default();
        let objectives = pipeline.study.iter().flat_map(|study| &study.objectives);
        let parts = objectives.filter(|objective| objective.value.as_path().is_none());
        for (job, output) in parts.flat_map(|it| read_outputs(pipeline, &it.value)) {
            let is_replicate = self.core.jobs[job].points.axis(REPLICATE).is_some();
            let outputs = &pipeline.jobs[job].outputs;
            let Some((name, output)) = outputs.get_index(output) else {
                continue;
            };
            let Some(json) = output.json.as_ref().filter(|_| !is_replicate) else {
                continue;
            };
            for (cell, node) in self.job_cells(job) {
                let made = node.and_then(|node| upstream.outputs(node)?.get(name.as_str()));
                let value = match made {
                    Some(Artifact::Value { value, .. }) => json.value(value).as_f64(),
                    _ => None,
                };
                if let Some(value) = value.filter(|_| seen.insert((cell, name))) {
                    let id = without_trial(&self.core.logical_id(cell));
                    targets.push((format!("{id}.{name}").into(), value));
                }
            }
        }
        targets
    }

    /// Whether this trial gets more replicates, and has not got them yet. `study` is a map of `value` (the trial's
    /// objective so far) and `best`.
    ///
    /// # Errors
    /// As [`Plan::trial_objective`].
    pub fn grow(&self, upstream: &dyn Upstream, study: &Value) -> Result<bool, FailureCause> {
        let grown = self.trial().is_none_or(|trial| trial.replicates.is_some());
        let Some((job, grow)) = self.growing().filter(|_| !grown) else {
            return Ok(false);
        };
        let what = format!("`grow.when` of job `{}`", job.name.value);
        let ctx = ResultContext::new(self, upstream, Some(study));
        Ok(ctx.evaluate(&grow.when, &what)?.truthy())
    }

    /// How many replicates a trial has that [`Plan::grow`] says yes for: [`TrialPoint::replicates`] of its next plan.
    pub fn grow_to(&self) -> Option<u32> {
        self.core.grow_to
    }

    fn growing(&self) -> Option<(&Job, &Grow)> {
        let mut jobs = self.core.pipeline.jobs.values();
        jobs.find_map(|job| Some((job, job.replicates.as_ref()?.grow.as_ref()?)))
    }

    /// The cells of a job in plan order, with their nodes where they have some.
    fn job_cells(&self, job: usize) -> impl Iterator<Item = (usize, Option<NodeIx>)> + '_ {
        let plan = &self.core.jobs[job];
        let cells = plan.first_cell..plan.first_cell + plan.points.len;
        cells
            .filter(|cell| self.core.is_selected(*cell))
            .map(|cell| match self.nodes.cell_node[cell] {
                NONE => (cell, None),
                node => (cell, Some(NodeIx(node))),
            })
    }

    /// Whether a node is of the part that this plan is about, and not one of `Before` that came along.
    pub fn is_own(&self, node: NodeIx) -> bool {
        self.core.is_own(self.first(node).0)
    }

    /// The part of the pipeline that a job belongs to.
    pub fn job_phase(&self, job: dagrun_model::JobIx) -> JobPhase {
        self.core.phases[job.index()]
    }
}

/// The id of a node of a trial as one of any trial: the axis `trial` stands first.
fn without_trial(id: &str) -> String {
    let Some((job, axes)) = id.split_once("[trial=") else {
        return id.to_owned();
    };
    match axes.split_once(',') {
        Some((_, axes)) => format!("{job}[{axes}"),
        None => job.to_owned(),
    }
}

/// The names that objectives, constraints and `grow.when` may use.
struct ResultContext<'a> {
    plan: &'a Plan,
    upstream: &'a dyn Upstream,
    study: Option<&'a Value>,
    /// What was read: the cell and its value.
    reads: RefCell<Vec<(usize, Value)>>,
}

impl<'a> ResultContext<'a> {
    fn new(plan: &'a Plan, upstream: &'a dyn Upstream, study: Option<&'a Value>) -> Self {
        Self {
            plan,
            upstream,
            study,
            reads: RefCell::default(),
        }
    }

    fn evaluate(&self, expr: &Expr, what: &str) -> Result<Value, FailureCause> {
        eval(expr, self).map_err(|error| {
            let reason = format!("has no value: {}", error.message);
            // A node without a result is named by the error itself.
            self.failure(what, &reason, error.kind != dagrun_expr::ErrorKind::Missing)
        })
    }

    fn finite(&self, value: &Value, what: &str) -> Result<f64, FailureCause> {
        match value.as_f64() {
            Some(number) if number.is_finite() => Ok(number),
            Some(number) => {
                let is = format!("is {}", dagrun_model::float_text(number));
                Err(self.failure(what, &is, true))
            }
            None => {
                let is = format!("is {} and must be a number", shown(value));
                Err(self.failure(what, &is, true))
            }
        }
    }

    fn failure(&self, what: &str, reason: &str, name_reads: bool) -> FailureCause {
        // Without the trial's number: what failed alike is told as one.
        let mut message = format!("{what} {reason}");
        let reads = self.reads.borrow();
        let odd = |value: &Value| !value.as_f64().is_some_and(f64::is_finite);
        let mut bad = reads.iter().filter(|(_, value)| odd(value));
        if let Some((cell, value)) = bad.next().filter(|_| name_reads) {
            let id = self.plan.core.logical_id(*cell);
            message.push_str(&format!(": `{id}` gave {}", shown(value)));
            match bad.count() {
                0 => {}
                more => message.push_str(&format!(", and {more} more are no numbers")),
            }
        }
        FailureCause::Expression { message }
    }

    /// `jobs.JOB.outputs.NAME`: a list where the job has other axes than `trial`.
    fn output(&self, job: &str, name: &str) -> Option<Result<Value, EvalError>> {
        let (ix, _, def) = self.plan.core.pipeline.jobs.get_full(job)?;
        def.outputs.get(name)?;
        let plan = &self.plan.core.jobs[ix];
        let list = plan.points.axes.iter().any(|axis| &*axis.name != TRIAL);
        Some(self.values(ix, name, list).map(|values| match list {
            true => Value::list(values),
            false => values.into_iter().next().unwrap_or(Value::Null),
        }))
    }

    fn values(&self, job: usize, name: &str, list: bool) -> Result<Vec<Value>, EvalError> {
        let outputs = &self.plan.core.pipeline.jobs[job].outputs;
        let Some(json) = outputs.get(name).and_then(|output| output.json.as_ref()) else {
            return Err(EvalError::missing(format!("output `{name}` has no value")));
        };
        let mut values = Vec::new();
        let (mut missing, mut bad) = (0, None);
        for (cell, node) in self.plan.job_cells(job) {
            let Some(node) = node else { continue };
            match self.value(node, name, json) {
                Ok(Some(value)) => {
                    self.reads.borrow_mut().push((cell, value.clone()));
                    values.push(value);
                }
                Ok(None) => {}
                Err(reason) => {
                    missing += 1;
                    bad.get_or_insert((cell, reason));
                }
            }
        }
        if let Some((cell, reason)) = bad.filter(|_| !self.enough(job, values.len(), missing)) {
            let id = self.plan.core.logical_id(cell);
            let more = match missing - 1 {
                0 => String::new(),
                more => format!("; so is it with {more} more"),
            };
            return Err(EvalError::missing(format!("`{id}` {reason}{more}")));
        }
        if values.is_empty() {
            let job = self.plan.core.job_name(job);
            let nothing = match list {
                true => format!("no node of job `{job}` has run"),
                false => format!("job `{job}` has not run: its `if` is false"),
            };
            return Err(EvalError::missing(nothing));
        }
        Ok(values)
    }

    /// The value of a node; nothing where the trial goes on without it, and why where it cannot.
    fn value(&self, node: NodeIx, name: &str, json: &JsonOutput) -> Result<Option<Value>, String> {
        let outputs = self.upstream.outputs(node);
        match outputs.map(|outputs| outputs.get(name)) {
            Some(Some(Artifact::Value { value, .. })) => return Ok(Some(json.value(value))),
            Some(Some(_)) => return Err(format!("has a file and no value as `{name}`")),
            Some(None) => return Err(format!("has not written its output `{name}`")),
            None => {}
        }
        let forgiven = self.plan.class(node).continue_on_error;
        match self.upstream.end(node) {
            Some(UpstreamEnd::ConditionFalse) => Ok(None),
            Some(UpstreamEnd::Failed) if forgiven => Ok(None),
            Some(UpstreamEnd::Failed) => Err("failed".into()),
            Some(UpstreamEnd::Skipped) => {
                Err("was not run, because a node before it failed".into())
            }
            Some(UpstreamEnd::Cancelled) => Err("was stopped".into()),
            Some(UpstreamEnd::Succeeded) | None => Err("has no result".into()),
        }
    }

    /// Whether `replicates.min` is content with so many values.
    fn enough(&self, job: usize, values: usize, missing: usize) -> bool {
        let plan = &self.plan.core.jobs[job];
        let axis = plan.points.axis(REPLICATE);
        let (Some(min), Some(axis)) = (plan.replicate_min, axis) else {
            return false;
        };
        let each = plan.points.axes[axis].len().max(1);
        values >= (values + missing).div_ceil(each) * min as usize
    }
}

/// A value as a message shows it.
fn shown(value: &Value) -> String {
    match value.typed() {
        Value::Str(text) if text.chars().count() > 40 => {
            let start: String = text.chars().take(40).collect();
            format!("the text {start:?}...")
        }
        Value::Str(text) => format!("the text {text:?}"),
        Value::List(items) => format!("a list of {}", items.len()),
        Value::Map(_) => "a map".into(),
        other => other.to_text(),
    }
}

impl Context for ResultContext<'_> {
    fn lookup(&self, name: &str) -> Result<Value, EvalError> {
        match (name, self.study, self.plan.trial()) {
            ("params", ..) => Ok(self.plan.core.params_value.clone()),
            ("trial", _, Some(trial)) => Ok(Value::Map(trial.values.clone())),
            ("study", Some(study), _) => Ok(study.clone()),
            ("jobs", ..) => {
                Err(EvalError::new("`jobs` is not a value").help("write `jobs.JOB.outputs.NAME`"))
            }
            _ => Err(EvalError::missing(format!("`{name}` is not known here"))),
        }
    }

    fn member(&self, path: &[&str]) -> Option<Result<Value, EvalError>> {
        match path {
            ["params", name] => Some(Ok(self.plan.core.params.get(*name)?.value.clone())),
            ["trial", name] => Some(Ok(self.plan.trial()?.values.get(*name)?.clone())),
            ["jobs", job, "outputs", output] => self.output(job, output),
            _ => None,
        }
    }
}
