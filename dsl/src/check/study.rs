//! The study: which jobs run in a trial and which after the last one, and what its expressions may name.

use dagrun_expr::{Reference, ReferenceKind, references};
use dagrun_model::{
    Diagnostic, DistributionKind, Expr, ExprKind, Grow, Job, Objective, OrderSpec, Pipeline,
    SpaceParameter, Span, Study, ValueTemplate,
};
use rustc_hash::FxHashSet;

use super::{
    Checker,
    job::{JobInfo, value_type},
    scope::Place,
    types::Type,
};

/// The axis that jobs of a trial have.
pub(super) const TRIAL: &str = "trial";

/// When the nodes of each job run.
#[derive(Default)]
pub(super) struct Phases {
    /// In each trial: the job uses `trial`, or needs a job that does.
    pub(super) trial: Vec<bool>,
    /// After the study: the job needs `study`, or needs a job that does.
    pub(super) after: Vec<bool>,
}

impl Phases {
    pub(super) fn new(pipeline: &Pipeline) -> Self {
        let jobs = || pipeline.jobs.values();
        let mut needed_by = vec![Vec::new(); jobs().len()];
        for (ix, job) in jobs().enumerate() {
            for need in &job.needs {
                needed_by[need.job.index()].push(ix);
            }
        }
        Self {
            trial: spread(
                jobs().map(|job| uses_trial(job).is_some()).collect(),
                &needed_by,
            ),
            after: spread(
                jobs().map(|job| job.after_study.is_some()).collect(),
                &needed_by,
            ),
        }
    }

    fn clash(&self, job: usize) -> bool {
        self.trial[job] && self.after[job]
    }
}

/// What holds for a job holds for those that need it.
fn spread(mut holds: Vec<bool>, needed_by: &[Vec<usize>]) -> Vec<bool> {
    let mut open: Vec<usize> = (0..holds.len()).filter(|ix| holds[*ix]).collect();
    while let Some(ix) = open.pop() {
        for next in &needed_by[ix] {
            if !std::mem::replace(&mut holds[*next], true) {
                open.push(*next);
            }
        }
    }
    holds
}

/// Where a job first uses `trial`.
fn uses_trial(job: &Job) -> Option<Span> {
    let mut found = None;
    job.walk_exprs(&mut |expr| {
        expr.walk(&mut |expr| {
            if matches!(&expr.kind, ExprKind::Context(name) if &**name == TRIAL) {
                found = found.or(Some(expr.span));
            }
        });
    });
    found
}

/// The types of what only a study has.
pub(super) struct StudyTypes {
    pub(super) trial: Type,
    /// `study` once it has ended.
    pub(super) after: Type,
    /// `study` in `grow`.
    pub(super) grow: Type,
    /// `jobs` in objectives and constraints.
    pub(super) jobs: Type,
}

impl StudyTypes {
    /// `infer` gives the type of an expression over `params`.
    pub(super) fn new(
        pipeline: &Pipeline,
        study: &Study,
        infos: &[JobInfo],
        infer: &mut dyn FnMut(&Expr) -> Type,
    ) -> Self {
        let parameters = study.space.iter();
        let trial = match study.space.is_empty() {
            // It was reported that the space cannot be read.
            true => Type::Any,
            false => Type::map(
                parameters
                    .map(|(name, parameter)| (name.as_str(), parameter_type(parameter, infer))),
            ),
        };
        let best = Type::map([
            ("trial", Type::Number),
            ("value", Type::Number),
            ("params", trial.clone()),
        ]);
        let values = study.objectives.iter();
        let front = Type::map([
            ("trial", Type::Number),
            (
                "values",
                Type::map(values.map(|o| (o.name.as_str(), Type::Number))),
            ),
            ("params", trial.clone()),
        ]);
        let mut after = vec![
            ("table", Type::String),
            ("front", Type::list(front)),
            ("trials", Type::Number),
            ("failed", Type::Number),
        ];
        let mut grow = Vec::new();
        if study.objectives.len() <= 1 {
            after.insert(1, ("best", best.clone()));
            grow = vec![("value", Type::Number), ("best", best)];
        }
        let jobs = pipeline.jobs.keys().zip(infos);
        let outputs = |info: &JobInfo| {
            let gathered = !info.axes.is_empty();
            Type::map([("outputs", info.outputs(gathered))])
        };
        Self {
            trial,
            after: Type::map(after),
            grow: Type::map(grow),
            jobs: Type::map(jobs.map(|(name, info)| (name.as_str(), outputs(info)))),
        }
    }
}

fn parameter_type(parameter: &SpaceParameter, infer: &mut dyn FnMut(&Expr) -> Type) -> Type {
    // Where it is inactive it is null.
    if parameter.when.is_some() {
        return Type::Any;
    }
    match parameter.kind.value {
        DistributionKind::Choice => match value_type(&parameter.arguments, infer) {
            Type::List(item) => (*item).clone(),
            _ => Type::Any,
        },
        _ => Type::Number,
    }
}

impl Checker<'_> {
    /// Reports jobs that cannot run when they say.
    pub(super) fn check_phases(&mut self) {
        let pipeline = self.pipeline;
        for (ix, job) in pipeline.jobs.values().enumerate() {
            match job.after_study {
                Some(span) if pipeline.study.is_none() => self.no_study("needs `study`", job, span),
                _ => {}
            }
            // Of jobs in a row it is the first that has to be changed.
            let inherited = job
                .needs
                .iter()
                .any(|need| self.phases.clash(need.job.index()));
            if self.phases.clash(ix) && !inherited {
                self.clash(job);
            }
        }
    }

    fn no_study(&mut self, does: &str, job: &Job, span: Span) {
        let words = format!(
            "the job `{}` {does}, but the pipeline has no study",
            job.name.value
        );
        self.report(Diagnostic::error("no-study", span, words).help(DECLARE));
    }

    fn clash(&mut self, job: &Job) {
        let name = &job.name.value;
        let need = |holds: &[bool]| {
            let need = job.needs.iter().find(|need| holds[need.job.index()])?;
            Some((need.span, self.pipeline.job(need.job).name.value.as_str()))
        };
        let (trial_span, trial) = match (uses_trial(job), need(&self.phases.trial)) {
            (Some(span), _) => (span, "it uses `trial` here".to_owned()),
            (None, Some((span, needed))) => (span, format!("`{needed}` runs in each trial")),
            (None, None) => (job.span, "it runs in each trial".to_owned()),
        };
        let (after_span, after) = match (job.after_study, need(&self.phases.after)) {
            (Some(span), _) => (span, "needs `study`".to_owned()),
            (None, Some((span, needed))) => (
                span,
                format!("needs `{needed}`, which runs after the study"),
            ),
            (None, None) => (job.span, "runs after the study".to_owned()),
        };
        let words = format!("the job `{name}` {after}, and it would run in each trial");
        let error =
            Diagnostic::error("trial-after-study", after_span, words).related(trial_span, trial);
        self.report(error.help(
            "after the study there is no single trial: read `study.best.params` or the rows of `study.table`; what each trial needs cannot wait for the study",
        ));
    }

    /// The type of `trial`, or `None` after an error.
    pub(super) fn trial(&mut self, span: Span) -> Option<Type> {
        if let Some(types) = &self.study {
            return Some(types.trial.clone());
        }
        let words = "`trial` is used, but the pipeline has no study";
        self.report(Diagnostic::error("no-study", span, words).help(DECLARE));
        None
    }

    /// The type of `study`, or `None` after an error.
    pub(super) fn study(&mut self, first: Option<&str>, span: Span, place: Place) -> Option<Type> {
        let Some(types) = &self.study else {
            let words = "`study` is used, but the pipeline has no study";
            self.report(Diagnostic::error("no-study", span, words).help(DECLARE));
            return None;
        };
        if place == Place::Grow {
            return Some(types.grow.clone());
        }
        let job = self.job?;
        if self.pipeline.jobs[job].after_study.is_some() {
            if first == Some("table") && place != Place::Inputs {
                let words = "`study.table` is a file, and a node sees only its inputs";
                self.report(Diagnostic::error("context", span, words).help(
                    "write `inputs: {table: \"${{ study.table }}\"}`, and `inputs.table` here",
                ));
                return None;
            }
            return Some(types.after.clone());
        }
        let words = format!("`study` is used, but {} does not need it", self.job_name());
        let error = Diagnostic::error("not-needed", span, words);
        self.report(match self.phases.trial[job] {
            true => error.help(
                "the job runs in each trial, when nothing is known of the whole study yet; read it in a job with `needs: study`",
            ),
            false => error.help("add `study` to its `needs`: it then runs when the study has ended"),
        });
        None
    }

    /// The expressions of the study itself.
    pub(super) fn check_study(&mut self, study: &Study) {
        for (ix, parameter) in study.space.values().enumerate() {
            self.parameter(study, ix, parameter);
        }
        for value in study.sampler.options.values().chain(&study.enqueue) {
            self.value(value, Place::Study);
        }
        let order = match &study.order {
            OrderSpec::Async => None,
            OrderSpec::Batched(n) | OrderSpec::Lag(n) => Some(n),
        };
        let stop = &study.stop;
        let numbers = [
            &study.in_flight,
            &stop.no_gain,
            &stop.target,
            &stop.failures,
        ];
        let numbers = numbers.into_iter().flatten().chain(order);
        for number in numbers.chain([&study.trials]) {
            self.number(number, Place::Study);
        }
        if let Some(wall) = &stop.wall {
            self.text(wall, Place::Study);
        }
        for objective in &study.objectives {
            self.objective(objective);
        }
        for constraint in &study.constraints {
            self.constraint(constraint);
        }
        if self.errors.is_empty() {
            self.unused(study);
        }
    }

    fn parameter(&mut self, study: &Study, ix: usize, parameter: &SpaceParameter) {
        let what = format!("`{}`", parameter.kind.value.name());
        match &parameter.arguments {
            ValueTemplate::Template(template) => {
                let ty = template
                    .as_expr()
                    .map(|expr| self.infer(expr, Place::Study));
                if let Some(ty) = ty
                    && !matches!(ty, Type::Any | Type::List(_))
                {
                    let words = format!("{what} needs a list, and this is {}", ty.name());
                    self.wrong_type(template.span, words);
                }
            }
            ValueTemplate::List(items, _) if parameter.kind.value != DistributionKind::Choice => {
                items
                    .iter()
                    .for_each(|item| self.number(item, Place::Study));
            }
            other => self.value(other, Place::Study),
        }
        if let Some(digits) = &parameter.digits {
            self.number(digits, Place::Study);
        }
        if let Some(when) = &parameter.when {
            let before = self.errors.len();
            for reference in references(when) {
                self.above(study, ix, &reference);
            }
            if self.errors.len() == before {
                self.condition(when, Place::SpaceWhen, parameter.span);
            }
        }
    }

    /// A condition may only refer to what is drawn before it.
    fn above(&mut self, study: &Study, ix: usize, reference: &Reference<'_>) {
        let ReferenceKind::Trial(name) = reference.kind else {
            return;
        };
        let own = &study.space[ix].name.value;
        let (words, help) = match name {
            None => (
                "`when` refers to the whole trial".to_owned(),
                "name the parameter: `trial.NAME`".to_owned(),
            ),
            Some(name) if name == own => (
                format!("the `when` of `{own}` refers to `{own}` itself"),
                "refer to a parameter above it".to_owned(),
            ),
            Some(name) if study.space.get_index_of(name).is_some_and(|at| at > ix) => (
                format!("the `when` of `{own}` refers to `{name}`, which stands below it"),
                format!("move `{name}` above `{own}`"),
            ),
            Some(_) => return,
        };
        self.report(Diagnostic::error("bad-when", reference.span, words).help(help));
    }

    fn objective(&mut self, objective: &Objective) {
        let expr = &objective.value;
        let before = self.errors.len();
        let depends = self.outputs_of_trials(expr);
        if self.errors.len() > before {
            return;
        }
        let ty = self.infer(expr, Place::Objective);
        if self.errors.len() > before {
            return;
        }
        if !depends {
            let words = format!(
                "the objective `{}` is the same in every trial that runs",
                objective.name
            );
            let words = match references(expr).any(|r| matches!(r.kind, ReferenceKind::Trial(_))) {
                true => format!(
                    "the objective `{}` depends on no job of the trial",
                    objective.name
                ),
                false => words,
            };
            let help = self.values_of_trials();
            self.report(Diagnostic::error("objective-without-trial", expr.span, words).help(help));
            return;
        }
        if !ty.may_be_number() {
            let words = format!("an objective is one number, and this is {}", ty.name());
            let error = Diagnostic::error("type", expr.span, words);
            self.report(match ty {
                Type::List(_) => error.help(
                    "the job has a value at each point of its other axes: write `sum(...)`, `mean(...)` or `max(...)`",
                ),
                _ => error,
            });
        }
    }

    fn constraint(&mut self, expr: &Expr) {
        let before = self.errors.len();
        self.outputs_of_trials(expr);
        if self.errors.len() > before {
            return;
        }
        let ty = self.infer(expr, Place::Objective);
        if !matches!(ty, Type::Any | Type::Bool | Type::Number) {
            let words = format!(
                "a constraint is a boolean or a number, and this is {}",
                ty.name()
            );
            let error = Diagnostic::error("type", expr.span, words);
            self.report(match ty {
                Type::List(_) => error.help("bring it down to one, such as `max(...)`"),
                _ => {
                    error.help("write a comparison, or a number that is at most 0 where it is met")
                }
            });
        }
    }

    /// Reports outputs that have no value in an objective; whether any has.
    fn outputs_of_trials(&mut self, expr: &Expr) -> bool {
        let pipeline = self.pipeline;
        let mut depends = false;
        for reference in references(expr) {
            let ReferenceKind::JobOutput(job, output) = reference.kind else {
                continue;
            };
            let (Some(name), Some(output)) = (job, output) else {
                let words = "an objective names the outputs that it reads";
                let error = Diagnostic::error("context", reference.span, words);
                let help = self.values_of_trials();
                self.report(error.help(help));
                continue;
            };
            // Unknown names are reported as such everywhere.
            let Some((ix, _, job)) = pipeline.jobs.get_full(name) else {
                continue;
            };
            let Some(declared) = job.outputs.get(output) else {
                continue;
            };
            if !self.phases.trial[ix] {
                let words = format!(
                    "the job `{name}` does not run in a trial, so its outputs say nothing of one"
                );
                let error = Diagnostic::error("not-of-trial", reference.span, words);
                self.report(error.help(format!(
                    "use `trial.NAME` in `{name}`, or let it need a job that does"
                )));
            } else if declared.json.is_none() {
                let words = format!(
                    "output `{output}` of job `{name}` is a file or folder, which is no number"
                );
                let error = Diagnostic::error("type", reference.span, words);
                self.report(error.help(format!(
                    "declare a value in a JSON file: `{output}: {{json: FILE, pointer: /NAME}}`"
                )));
            } else {
                depends = true;
            }
        }
        depends
    }

    /// What an objective could be.
    fn values_of_trials(&self) -> String {
        let jobs = self.pipeline.jobs.values().zip(&self.phases.trial);
        let values: Vec<String> = jobs
            .filter(|(_, trial)| **trial)
            .flat_map(|(job, _)| {
                let values = job
                    .outputs
                    .iter()
                    .filter(|(_, output)| output.json.is_some());
                values.map(|(name, _)| format!("`jobs.{}.outputs.{name}`", job.name.value))
            })
            .take(6)
            .collect();
        match values.is_empty() {
            true => "write `jobs.JOB.outputs.NAME` of a job that uses `trial`, with a value such as `loss: {json: loss.json, pointer: /loss}` among its outputs".into(),
            false => format!("the values of a trial are {}", values.join(", ")),
        }
    }

    /// Warns of parameters that a sampler would vary for nothing.
    fn unused(&mut self, study: &Study) {
        let mut used: FxHashSet<&str> = FxHashSet::default();
        let mut all = false;
        let mut visit = |expr: &'_ Expr| {
            for reference in references(expr) {
                match reference.kind {
                    ReferenceKind::Trial(Some(name)) => {
                        used.extend(
                            study
                                .space
                                .get_key_value(name)
                                .map(|(name, _)| name.as_str()),
                        );
                    }
                    ReferenceKind::Trial(None) => all = true,
                    _ => {}
                }
            }
        };
        self.pipeline
            .jobs
            .values()
            .for_each(|job| job.walk_exprs(&mut visit));
        let whens = study
            .space
            .values()
            .filter_map(|parameter| parameter.when.as_ref());
        let values = study.objectives.iter().map(|objective| &objective.value);
        whens
            .chain(values)
            .chain(&study.constraints)
            .for_each(&mut visit);
        for parameter in study.space.values() {
            let name = &parameter.name;
            if all || used.contains(name.value.as_str()) {
                continue;
            }
            let words = format!(
                "no job uses the parameter `{}`, which is searched in vain",
                name.value
            );
            self.report(
                Diagnostic::warning("unused-parameter", name.span, words)
                    .help(format!("use `trial.{}` in a job, or remove it", name.value)),
            );
        }
    }

    /// `replicates.grow` of the job that is checked.
    pub(super) fn grow(&mut self, job: &Job, grow: &Grow) {
        if self.study.is_none() {
            self.no_study("has `grow`", job, grow.span);
            return;
        }
        if !self.job.is_some_and(|ix| self.phases.trial[ix]) {
            let words = format!(
                "`grow` adds replicates to a trial, and the job `{}` does not run in one",
                job.name.value
            );
            self.report(
                Diagnostic::error("bad-grow", grow.span, words)
                    .help("use `trial.NAME` in the job, or raise `n`"),
            );
            return;
        }
        self.number(&grow.to, Place::Axes);
        self.condition(&grow.when, Place::Grow, grow.span);
    }
}

const DECLARE: &str = "declare it at the top level: `study: {space: {beta: {uniform: [0, 1]}}, trials: 100, minimize: \"${{ jobs.JOB.outputs.loss }}\"}`";
