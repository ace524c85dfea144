//! Answers the names in expressions for one cell.

use std::{cell::Cell, sync::Arc};

use dagrun_expr::{Context, EvalError, eval_template};
use dagrun_model::{ContentHasher, Digest, Function, Job, Map, Value};

use crate::{
    Phase,
    axes::REPLICATE,
    facts::{FactTable, is_glob},
    input::Item,
    layout::{Core, JobPlan},
    phase::TRIAL,
    seeds::{Permutation, SeedPlan},
};

/// Knows `params` alone: for axes, which are made before there are cells.
pub(crate) struct ParamContext<'a>(pub(crate) &'a Value);

impl Context for ParamContext<'_> {
    fn lookup(&self, name: &str) -> Result<Value, EvalError> {
        match name {
            "params" => Ok(self.0.clone()),
            _ => Err(
                EvalError::new(format!("`{name}` is not known where axes are made"))
                    .help("axes and replicates can only use `params`"),
            ),
        }
    }

    fn member(&self, path: &[&str]) -> Option<Result<Value, EvalError>> {
        match (path, self.0) {
            (["params", name], Value::Map(params)) => params.get(*name).cloned().map(Ok),
            _ => None,
        }
    }
}

/// What a cell knows of its needs; only while the plan runs.
pub(crate) trait LiveValues {
    /// `needs.JOB.outputs.NAME`, by position of need and output.
    fn output(&self, need: usize, output: usize) -> Result<Value, EvalError>;
    /// `needs.JOB.points`.
    fn points(&self, need: usize) -> Result<Value, EvalError>;
    /// `needs.JOB.result`.
    fn result(&self, need: usize) -> Result<Value, EvalError>;
    /// `inputs.NAME`, by position.
    fn input(&self, input: usize) -> Result<Value, EvalError>;
    /// `success()` and its kin.
    fn status(&self, function: Function) -> Result<bool, EvalError>;
    /// `attempt`.
    fn attempt(&self) -> u32;
    /// `run.id`.
    fn run_id(&self) -> &str;
}

/// The names that the expressions of one cell may use.
pub(crate) struct CellContext<'a> {
    pub(crate) core: &'a Core,
    pub(crate) plan: &'a JobPlan,
    pub(crate) job: &'a Job,
    pub(crate) row: usize,
    pub(crate) facts: Option<&'a FactTable>,
    pub(crate) live: Option<&'a dyn LiveValues>,
    depth: Cell<u32>,
}

/// How deep variables may refer to each other.
const MAX_DEPTH: u32 = 32;

impl<'a> CellContext<'a> {
    pub(crate) fn new(
        core: &'a Core,
        job: usize,
        row: usize,
        facts: Option<&'a FactTable>,
    ) -> Self {
        Self {
            core,
            plan: &core.jobs[job],
            job: &core.pipeline.jobs[job],
            row,
            facts,
            live: None,
            depth: Cell::new(0),
        }
    }

    pub(crate) fn with_live(mut self, live: &'a dyn LiveValues) -> Self {
        self.live = Some(live);
        self
    }

    fn pending(&self, name: &str) -> EvalError {
        EvalError::pending(format!("`{name}` is not known when the plan is made"))
            .help("use `params`, `matrix` or `replicate` here")
    }

    fn live(&self, name: &str) -> Result<&'a dyn LiveValues, EvalError> {
        self.live.ok_or_else(|| self.pending(name))
    }

    fn matrix(&self) -> Value {
        let points = &self.plan.points;
        let axes = points.axes.iter().enumerate();
        let mut map: Map = axes
            .filter(|(_, axis)| self.in_matrix(&axis.name))
            .map(|(ix, axis)| (axis.name.clone(), points.value(self.row, ix)))
            .collect();
        for (name, value) in points.attributes(self.row).into_iter().flatten() {
            map.insert(name.clone(), value.clone());
        }
        Value::map(map)
    }

    /// The axes `trial` and of a job's own replicates are not in `matrix`.
    fn in_matrix(&self, axis: &str) -> bool {
        axis != TRIAL && (axis != REPLICATE || !self.plan.own_replicates)
    }

    /// The values of this cell's trial.
    fn trial(&self) -> Option<&'a Arc<Map>> {
        match &self.core.phase {
            Phase::Trial(trial) => Some(&trial.values),
            _ => None,
        }
    }

    /// What the finished study came to.
    fn study(&self) -> Option<&'a Arc<Map>> {
        match &self.core.phase {
            Phase::After(study) => Some(study),
            _ => None,
        }
    }

    /// The map of a context that only one part of a study has.
    fn part(&self, name: &str, map: Option<&Arc<Map>>) -> Result<Value, EvalError> {
        match map {
            Some(map) => Ok(Value::Map(map.clone())),
            None => Err(EvalError::missing(format!("`{name}` is not known here"))),
        }
    }

    fn matrix_member(&self, name: &str) -> Option<Value> {
        let points = &self.plan.points;
        if let Some(axis) = points.axis(name).filter(|_| self.in_matrix(name)) {
            return Some(points.value(self.row, axis));
        }
        let attribute = points.attributes(self.row).and_then(|set| set.get(name));
        match attribute {
            Some(value) => Some(value.clone()),
            None => points.is_attribute(name).then_some(Value::Null),
        }
    }

    fn replicate_index(&self) -> Option<u32> {
        let axis = self.plan.points.axis(REPLICATE)?;
        Some(self.plan.points.row(self.row)[axis])
    }

    /// The seed of this cell's replicate.
    pub(crate) fn seed(&self) -> Result<i64, EvalError> {
        let no_replicates = || {
            EvalError::new("this job has no replicates")
                .help("write `replicates: N`, or `for_each: replicate`")
        };
        let index = self.replicate_index().ok_or_else(no_replicates)?;
        match self.plan.seeds.as_ref().ok_or_else(no_replicates)? {
            SeedPlan::Common(permutation) => Ok(i64::from(permutation.apply(index))),
            SeedPlan::PerTrial { base, of } => {
                let point = self.other_axes(of.map_or(self.plan, |job| &self.core.jobs[job]));
                let permutation = Permutation::new(*base, Some(point));
                Ok(i64::from(permutation.apply(index)))
            }
            SeedPlan::List(seeds) => seeds.get(index as usize).copied().ok_or_else(no_replicates),
            SeedPlan::Several { job, axis } => Err(EvalError::new(format!(
                "`replicate.seed` is not one seed here: those of job `{job}` differ along its axis `{axis}`, which this job does not have"
            ))
            .help(format!(
                "take the axis over as well (`for_each: [{axis}, replicate]`), or give `{job}` seeds of `policy: common`"
            ))),
        }
    }

    /// The digest of this cell's point on all axes of a job but `replicate`, in the spelling of that job.
    fn other_axes(&self, job: &JobPlan) -> Digest {
        let mut hasher = ContentHasher::new("dagrun.seed-point.v1");
        for theirs in &job.points.axes {
            let mine = self.plan.points.axis(&theirs.name);
            if let (false, Some(ix)) = (&*theirs.name == REPLICATE, mine) {
                let value = self.plan.points.value(self.row, ix);
                let value = match theirs.same_values(&self.plan.points.axes[ix]) {
                    true => value,
                    false => theirs.spelled(&value),
                };
                hasher = hasher.with(&theirs.name).with(&value);
            }
        }
        hasher.finish()
    }

    fn replicate(&self, name: &str) -> Option<Result<Value, EvalError>> {
        match name {
            "index" => self
                .replicate_index()
                .map(|ix| Ok(Value::Int(i64::from(ix)))),
            "seed" => Some(self.seed().map(Value::Int)),
            _ => None,
        }
    }

    fn env(&self, name: &str) -> Option<Result<Value, EvalError>> {
        let template = self.job.env.get(name)?;
        if self.depth.get() == MAX_DEPTH {
            return Some(Err(EvalError::new(format!(
                "the variable `{name}` refers to itself"
            ))));
        }
        self.depth.set(self.depth.get() + 1);
        let value = eval_template(template, self);
        self.depth.set(self.depth.get() - 1);
        Some(value)
    }

    fn output_path(&self, name: &str) -> Option<Result<Value, EvalError>> {
        let output = self.job.outputs.get(name)?;
        Some(dagrun_expr::eval_text(&output.path, self).map(|path| Value::str(clean(&path))))
    }

    fn input_ix(&self, name: &str) -> Option<usize> {
        self.plan
            .inputs
            .iter()
            .position(|input| input.name.as_deref() == Some(name))
    }

    fn input(&self, name: &str) -> Option<Result<Value, EvalError>> {
        let ix = self.input_ix(name)?;
        Some(match self.live {
            Some(live) => live.input(ix),
            None => self.project_input(ix, name),
        })
    }

    /// The paths of an input that reads nothing of other jobs.
    fn project_input(&self, ix: usize, name: &str) -> Result<Value, EvalError> {
        let facts = self
            .facts
            .ok_or_else(|| self.pending(&format!("inputs.{name}")))?;
        let input = &self.plan.inputs[ix];
        if input.has_upstream() {
            return Err(self.pending(&format!("inputs.{name}")));
        }
        if let Some(pattern) = self.plan.asked(ix, self.row) {
            let pattern = self.core.patterns.get(pattern);
            if !input.external && !is_glob(pattern) {
                return Ok(Value::str(pattern));
            }
        }
        let resolved = input
            .resolve(self, &|_| false)
            .map_err(|diagnostic| EvalError::new(diagnostic.message))?;
        let mut paths = Vec::new();
        let mut list = resolved.list;
        for (position, item) in resolved.items.iter().enumerate() {
            if let Item::Pattern(pattern) = item {
                list |= is_glob(pattern);
                let position = resolved.list.then_some(position);
                paths.extend(crate::staging::project_paths(
                    self.core, facts, input, pattern, position,
                ));
            }
        }
        Ok(one_or_list(paths.into_iter().map(Value::str), list))
    }

    fn need_ix(&self, job: &str) -> Option<usize> {
        let wanted = self.core.pipeline.jobs.get_index_of(job)?;
        self.plan.needs.iter().position(|need| need.job == wanted)
    }

    fn need_output(&self, job: &str, output: &str) -> Option<Result<Value, EvalError>> {
        let need = self.need_ix(job)?;
        let needed = &self.core.pipeline.jobs[self.plan.needs[need].job];
        let output = needed.outputs.get_index_of(output)?;
        Some(
            self.live("needs")
                .and_then(|live| live.output(need, output)),
        )
    }

    fn need(&self, need: usize) -> Result<Value, EvalError> {
        let live = self.live("needs")?;
        let needed = &self.core.pipeline.jobs[self.plan.needs[need].job];
        let mut outputs = Map::new();
        for (ix, name) in needed.outputs.keys().enumerate() {
            outputs.insert(name.as_str().into(), live.output(need, ix)?);
        }
        let mut map = Map::new();
        map.insert("outputs".into(), Value::map(outputs));
        map.insert("points".into(), live.points(need)?);
        map.insert("result".into(), live.result(need)?);
        Ok(Value::map(map))
    }

    fn git(&self) -> Result<Value, EvalError> {
        let facts = self.facts.ok_or_else(|| self.pending("git"))?;
        let git = facts.facts.git.as_ref().ok_or_else(|| {
            EvalError::missing("the project folder is not in a git repository")
                .help("`default(git.branch, 'none')` gives a value there")
        })?;
        let mut map = Map::new();
        map.insert("commit".into(), Value::str(git.commit.as_str()));
        map.insert("branch".into(), Value::str(git.branch.as_str()));
        map.insert("dirty".into(), Value::Bool(git.dirty));
        Ok(Value::map(map))
    }

    fn all<'n>(
        &self,
        names: impl Iterator<Item = &'n str>,
        value: impl Fn(&'n str) -> Option<Result<Value, EvalError>>,
    ) -> Result<Value, EvalError> {
        let mut map = Map::new();
        for name in names {
            if let Some(value) = value(name) {
                map.insert(name.into(), value?);
            }
        }
        Ok(Value::map(map))
    }
}

impl Context for CellContext<'_> {
    fn lookup(&self, name: &str) -> Result<Value, EvalError> {
        match name {
            "params" => Ok(self.core.params_value.clone()),
            "matrix" => Ok(self.matrix()),
            "replicate" => self.all(["index", "seed"].into_iter(), |name| self.replicate(name)),
            "env" => self.all(self.job.env.keys().map(String::as_str), |name| self.env(name)),
            "outputs" => {
                self.all(self.job.outputs.keys().map(String::as_str), |name| self.output_path(name))
            }
            "inputs" => {
                let names = self.plan.inputs.iter().filter_map(|input| input.name.as_deref());
                self.all(names, |name| self.input(name))
            }
            "needs" => {
                let mut map = Map::new();
                for (ix, need) in self.plan.needs.iter().enumerate() {
                    let name = self.core.pipeline.jobs.get_index(need.job).map_or("", |(name, _)| name);
                    map.insert(name.into(), self.need(ix)?);
                }
                Ok(Value::map(map))
            }
            "trial" => self.part(name, self.trial()),
            "study" => self.part(name, self.study()),
            "git" => self.git(),
            "attempt" => Ok(Value::Int(i64::from(self.live("attempt")?.attempt()))),
            "run" => {
                let id = Value::str(self.live("run")?.run_id());
                Ok(Value::map([("id".into(), id)].into_iter().collect()))
            }
            "secrets" => Err(EvalError::new("the value of a secret is never in an expression")
                .help("a job that names it in `secrets` has it as the environment variable of the same name")),
            _ => Err(EvalError::missing(format!("`{name}` is not known here"))),
        }
    }

    fn member(&self, path: &[&str]) -> Option<Result<Value, EvalError>> {
        match path {
            ["params", name] => {
                let param = self.core.params.get(*name)?;
                Some(Ok(param.value.clone()))
            }
            ["matrix", name] => self.matrix_member(name).map(Ok),
            ["trial", name] => self.trial()?.get(*name).cloned().map(Ok),
            ["study", name] => self.study()?.get(*name).cloned().map(Ok),
            ["replicate", name] => self.replicate(name),
            ["env", name] => self.env(name),
            ["outputs", name] => self.output_path(name),
            ["inputs", name] => self.input(name),
            ["inputs", name, "list"] => self
                .input_ix(name)
                .map(|_| Ok(Value::str(crate::staging::list_file(name)))),
            ["needs", job, "outputs", output] => self.need_output(job, output),
            ["needs", job, "points"] => {
                let need = self.need_ix(job)?;
                Some(self.live("needs").and_then(|live| live.points(need)))
            }
            ["needs", job, "result"] => {
                let need = self.need_ix(job)?;
                Some(self.live("needs").and_then(|live| live.result(need)))
            }
            ["needs", job] => self.need_ix(job).map(|need| self.need(need)),
            _ => None,
        }
    }

    fn call_status(&self, function: Function) -> Result<bool, EvalError> {
        self.live(function.name())?.status(function)
    }

    fn hash_files(&self, patterns: &[Value]) -> Result<Value, EvalError> {
        let facts = self.facts.ok_or_else(|| self.pending("hashFiles"))?;
        let mut found = Vec::new();
        for pattern in flat(patterns) {
            let text = clean(&pattern.to_text());
            let ix = self.core.patterns.find(&text, false);
            found.push(ix.ok_or_else(|| {
                EvalError::new(format!(
                    "`hashFiles` of `{text}`, which was not known when files were looked up"
                ))
                .help("its arguments can only use `params`, `matrix` and `replicate`")
            })?);
        }
        Ok(Value::str(facts.hash_of(&found).to_string()))
    }
}

/// Patterns with those in lists.
pub(crate) fn flat(patterns: &[Value]) -> Vec<&Value> {
    patterns
        .iter()
        .flat_map(|pattern| match pattern {
            Value::List(items) => items.iter().collect(),
            other => vec![other],
        })
        .collect()
}

/// A path without `.`, doubled and trailing slashes; other faults are left in it.
pub(crate) fn clean(path: &str) -> String {
    let absolute = if path.starts_with('/') { "/" } else { "" };
    let names: Vec<&str> = path
        .split('/')
        .filter(|name| !matches!(*name, "" | "."))
        .collect();
    format!("{absolute}{}", names.join("/"))
}

/// A scalar, or null where there is none; a list where one is wanted.
pub(crate) fn one_or_list(mut values: impl Iterator<Item = Value>, list: bool) -> Value {
    if list {
        Value::list(values)
    } else {
        values.next().unwrap_or(Value::Null)
    }
}
