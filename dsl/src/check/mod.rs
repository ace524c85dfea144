//! Checks every expression of a pipeline before anything runs.
//!
//! Owns: which names exist where, and simple types. A name or type that can be known to be wrong is an error here; what
//! depends on values (a member that only some points have, the number of items) is left to the evaluation. Expressions
//! without names are evaluated on the spot. Knows nothing of YAML nor of how points are made.

mod infer;
mod job;
mod names;
mod scope;
mod study;
/// Whether an expression is the null that stands for one that was refused: it is longer than the word.
fn stands_in(expr: &Expr) -> bool {
    let is_null = matches!(expr.kind, ExprKind::Literal(Value::Null));
    is_null && expr.span.end - expr.span.start > 4
}

#[cfg(test)]
mod tests;
mod types;

use dagrun_expr::{ReferenceKind, references};
use dagrun_model::{
    BinaryOp, Command, Diagnostic, Export, Expr, ExprKind, Job, Pipeline, Quoting, Recipe, Script,
    ScriptPart, Seeds, Span, Template, UnaryOp, Value, ValueTemplate, did_you_mean,
};

use self::{
    job::{JobInfo, JobTypes},
    scope::Place,
    study::{Phases, StudyTypes, TRIAL},
    types::Type,
};

/// So many errors are enough to read at once, and bound the work on hostile files.
const MAX_ERRORS: usize = 200;

/// How much is spent on the evaluation of constant expressions; what is beyond it is left to the plan.
const MAX_EVALUATION: usize = 2000;

/// Appends what is wrong with the expressions of `pipeline`.
pub(crate) fn check(pipeline: &Pipeline, out: &mut Vec<Diagnostic>) {
    let mut checker = Checker::new(pipeline);
    checker.phases = Phases::new(pipeline);
    checker.infos = pipeline
        .jobs
        .values()
        .map(|job| {
            let before = checker.errors.len();
            let info = JobInfo::new(job, &mut |expr| checker.infer(expr, Place::Axes));
            // They are reported where the matrix itself is checked.
            checker.errors.truncate(before);
            info
        })
        .collect();
    if let Some(study) = &pipeline.study {
        let before = checker.errors.len();
        let infos = std::mem::take(&mut checker.infos);
        let types = StudyTypes::new(pipeline, study, &infos, &mut |expr| {
            checker.infer(expr, Place::Study)
        });
        checker.errors.truncate(before);
        checker.infos = infos;
        checker.study = Some(types);
    }
    checker.check_phases();
    for ix in 0..pipeline.jobs.len() {
        checker.job = Some(ix);
        checker.types = Some(JobTypes::new(pipeline, &checker.infos, ix));
        checker.check_job(&pipeline.jobs[ix]);
    }
    checker.job = None;
    checker.types = None;
    for export in &pipeline.export {
        checker.export(export);
    }
    if let Some(study) = &pipeline.study {
        checker.check_study(study);
    }
    out.append(&mut checker.errors);
}

struct Checker<'p> {
    pipeline: &'p Pipeline,
    infos: Vec<JobInfo>,
    phases: Phases,
    /// The types of the study, where there is one.
    study: Option<StudyTypes>,
    /// The type of `params`.
    params: Type,
    /// The type of `jobs`.
    jobs: Type,
    /// The job whose expressions are checked.
    job: Option<usize>,
    types: Option<JobTypes>,
    errors: Vec<Diagnostic>,
    /// How much may still be spent on constant expressions.
    evaluation: usize,
}

impl<'p> Checker<'p> {
    fn new(pipeline: &'p Pipeline) -> Self {
        let params = pipeline.params.iter();
        let outputs =
            |job: &Job| Type::map(job.outputs.keys().map(|name| (name.as_str(), Type::Any)));
        let jobs = pipeline.jobs.iter();
        Self {
            pipeline,
            infos: Vec::new(),
            phases: Phases::default(),
            study: None,
            params: Type::map(
                params.map(|(name, param)| (name.as_str(), Type::of_param(param.ty))),
            ),
            jobs: Type::map(
                jobs.map(|(name, job)| (name.as_str(), Type::map([("outputs", outputs(job))]))),
            ),
            job: None,
            types: None,
            errors: Vec::new(),
            evaluation: MAX_EVALUATION,
        }
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(diagnostic);
        }
    }

    fn check_job(&mut self, job: &Job) {
        self.axes(job);
        if let Some(condition) = &job.condition {
            self.condition(condition, Place::Condition, job.span);
        }
        for input in &job.inputs {
            self.value(&input.value, Place::Inputs);
        }
        for output in job.outputs.values() {
            self.text(&output.path, Place::OutputPath);
        }
        for template in job.env.values() {
            self.text(template, Place::Run);
        }
        match &job.recipe {
            Recipe::Run(command) => self.command(command),
            Recipe::Steps(steps) => {
                for step in steps {
                    self.command(&step.command);
                    step.env
                        .values()
                        .for_each(|template| self.text(template, Place::Run));
                    if let Some(condition) = &step.condition {
                        self.condition(condition, Place::StepCondition, step.span);
                    }
                }
            }
        }
        self.limits(job);
    }

    fn limits(&mut self, job: &Job) {
        let resources = &job.resources;
        let values = [&resources.cpus, &resources.memory].into_iter().flatten();
        for value in values.chain(resources.named.values()) {
            self.value(value, Place::Limits);
        }
        for template in [&job.threads, &job.timeout].into_iter().flatten() {
            self.text(template, Place::Limits);
        }
    }

    fn axes(&mut self, job: &Job) {
        for (name, values) in &job.matrix.axes {
            if let ValueTemplate::Template(template) = values
                && let Some(expr) = template.as_expr()
            {
                let ty = self.infer(expr, Place::Axes);
                if !matches!(ty, Type::Any | Type::List(_)) && !stands_in(expr) {
                    let words =
                        format!("the axis `{name}` needs a list, and this is {}", ty.name());
                    self.report(
                        Diagnostic::error("type", expr.span, words)
                            .help("write a list, or a function such as `range(1, 4)`"),
                    );
                }
            } else {
                self.value(values, Place::Axes);
            }
        }
        for point in job.matrix.include.iter().chain(&job.matrix.exclude) {
            self.value(point, Place::Axes);
        }
        for point in &job.matrix.exclude {
            self.excluded(job, point);
        }
        for axis in &job.for_each {
            self.for_each(job, &axis.value, axis.span);
        }
        if let Some(replicates) = &job.replicates {
            self.number(&replicates.n, Place::Axes);
            replicates
                .min
                .iter()
                .for_each(|min| self.number(min, Place::Axes));
            match &replicates.seeds {
                Seeds::Common { base } | Seeds::PerTrial { base } => self.number(base, Place::Axes),
                Seeds::List { values } => self.value(values, Place::Axes),
            }
            if let Some(grow) = &replicates.grow {
                self.grow(job, grow);
            }
        }
    }

    /// The names of a point to leave out must be axes: one that is misspelled would leave out nothing.
    fn excluded(&mut self, job: &Job, point: &ValueTemplate) {
        let names: Vec<String> = match point {
            ValueTemplate::Map(entries, _) => entries.iter().map(|(n, _)| n.to_string()).collect(),
            ValueTemplate::Value(value) => match &value.value {
                Value::Map(map) => map.keys().map(ToString::to_string).collect(),
                _ => return,
            },
            _ => return,
        };
        let axes = &self.infos[self
            .pipeline
            .jobs
            .get_index_of(&job.name.value)
            .unwrap_or(0)]
        .axes;
        let mut errors = Vec::new();
        for name in names.iter().filter(|name| !axes.contains(*name)) {
            let words = format!(
                "`exclude` names `{name}`, which is no axis of the job `{}`",
                job.name.value
            );
            let error = Diagnostic::error("unknown-axis", point.span(), words);
            errors.push(match did_you_mean(name, axes.iter().map(String::as_str)) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error,
            });
        }
        errors.into_iter().for_each(|error| self.report(error));
    }

    fn for_each(&mut self, job: &Job, axis: &str, span: Span) {
        let upstream = job
            .needs
            .iter()
            .map(|need| &self.infos[need.job.index()].axes);
        let known: Vec<&str> = upstream.flatten().map(String::as_str).collect();
        if !known.contains(&axis) {
            let words = format!("no needed job has the axis `{axis}`");
            let error = Diagnostic::error("unknown-axis", span, words);
            let error = match did_you_mean(axis, known.iter().copied()) {
                _ if axis == TRIAL => error.help(
                    "it comes by itself: a job that needs a job of the trial runs in each trial too",
                ),
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None if job.needs.is_empty() => {
                    error.help("`for_each` takes axes over from needed jobs: write `needs`, or use `matrix`")
                }
                None => error.help("`for_each` takes axes over from needed jobs; axes of its own stand in `matrix`"),
            };
            self.report(error);
        } else if job.matrix.axes.contains_key(axis) {
            let words = format!("the axis `{axis}` is in `matrix` and in `for_each`");
            self.report(
                Diagnostic::error("duplicate-name", span, words).help("remove one of them"),
            );
        }
    }

    fn number(&mut self, value: &ValueTemplate, place: Place) {
        if let ValueTemplate::Template(template) = value
            && let Some(expr) = template.as_expr()
        {
            let ty = self.infer(expr, place);
            if !ty.may_be_number() {
                self.wrong_type(
                    expr.span,
                    format!("this must be a number, and it is {}", ty.name()),
                );
            }
        } else {
            self.value(value, place);
        }
    }

    fn export(&mut self, export: &Export) {
        let value = &export.value;
        let before = self.errors.len();
        self.infer(value, Place::Export);
        let path = value.as_path();
        let shaped = matches!(path.as_deref(), Some(["jobs", _, "outputs", _]));
        if let Some(&[_, job, _, output]) = path.as_deref()
            && self
                .pipeline
                .jobs
                .get_index_of(job)
                .is_some_and(|ix| self.phases.trial[ix])
            && !export.target.value.ends_with('/')
        {
            let words = format!("the job `{job}` has nodes in every trial, and this is one path");
            let error = Diagnostic::error("export", export.target.span, words);
            self.report(error.help(format!(
                "write a folder, such as `{output}/`, or export an output of a job that needs `study`"
            )));
        }
        if !shaped && self.errors.len() == before {
            let error = Diagnostic::error("export", value.span, "an export is one output of a job");
            self.report(error.help("write `${{ jobs.JOB.outputs.NAME }}`"));
        }
    }

    fn command(&mut self, command: &Command) {
        match command {
            Command::Argv(words, _) => words.iter().for_each(|word| self.word(word)),
            Command::Script(script) => self.script(script),
        }
    }

    fn script(&mut self, script: &Script) {
        for part in &script.parts {
            if let ScriptPart::Value { expr, place } = part {
                let ty = self.infer(expr, Place::Run);
                match ty {
                    Type::Map(_) => self.no_text(expr, &ty),
                    Type::List(_) if *place != Quoting::Bare => {
                        let error =
                            Diagnostic::error("type", expr.span, "a list stands between quotes");
                        self.report(error.help("leave the quotes away: each item becomes a word of its own, whatever is in it; or write `join(list, ' ')`"));
                    }
                    _ => {}
                }
            }
        }
    }

    /// A word of an argument list: a list alone becomes words.
    fn word(&mut self, template: &Template) {
        match template.as_expr() {
            Some(expr) => {
                let ty = self.infer(expr, Place::Run);
                if matches!(ty, Type::Map(_)) {
                    self.no_text(expr, &ty);
                }
            }
            None => self.text(template, Place::Run),
        }
    }

    /// A template that gives one text.
    fn text(&mut self, template: &Template, place: Place) {
        for expr in template.exprs() {
            let ty = self.infer(expr, place);
            if matches!(ty, Type::List(_) | Type::Map(_)) {
                self.no_text(expr, &ty);
            }
        }
    }

    fn no_text(&mut self, expr: &Expr, ty: &Type) {
        let error = Diagnostic::error(
            "type",
            expr.span,
            format!("{} stands where one text is wanted", ty.name()),
        );
        self.report(match ty {
            Type::List(_) => error.help("a list gives words only where it stands alone in a command; `join(list, ' ')` makes one text of it"),
            _ => error.help("name a member of it, such as `.name`, or write `toJSON(...)`"),
        });
    }

    /// A value with templates at any depth.
    fn value(&mut self, value: &ValueTemplate, place: Place) {
        match value {
            ValueTemplate::Value(_) => {}
            ValueTemplate::Template(template) => match template.as_expr() {
                Some(expr) => {
                    self.infer(expr, place);
                }
                None => self.text(template, place),
            },
            ValueTemplate::List(items, _) => items.iter().for_each(|item| self.value(item, place)),
            ValueTemplate::Map(entries, _) => {
                entries.iter().for_each(|(_, item)| self.value(item, place));
            }
        }
    }

    /// A condition; `owner` is the job or step it belongs to.
    fn condition(&mut self, expr: &Expr, place: Place, owner: Span) {
        let before = self.errors.len();
        self.infer(expr, place);
        if place == Place::Condition {
            self.files_in_condition(expr, before);
        }
        // What a module was given as a parameter may well be constant.
        if expr.span.file == owner.file {
            self.always_the_same(expr, expr.span);
        }
    }

    /// A job's `if` is decided before anything is staged: a file or folder has neither a path nor a value there.
    fn files_in_condition(&mut self, expr: &Expr, first_error: usize) {
        for reference in references(expr) {
            let ReferenceKind::NeedOutput(Some(job), Some(name)) = reference.kind else {
                continue;
            };
            let output = self
                .pipeline
                .jobs
                .get(job)
                .and_then(|job| job.outputs.get(name));
            if output.is_some_and(|output| output.json.is_none()) {
                let words = format!(
                    "output `{name}` of job `{job}` is a file or folder, which has no value in `if`"
                );
                // What has no value has no type that an operator could complain of.
                let (place, mut at) = (reference.span, 0);
                self.errors.retain(|error| {
                    at += 1;
                    let around = error.span.start <= place.start && place.end <= error.span.end;
                    at <= first_error || error.code != "type" || !around
                });
                self.report(Diagnostic::error("type", place, words).help(format!(
                    "declare a value in a JSON file, such as `{name}: {{json: FILE, pointer: /NAME}}`, and compare that; whether the job succeeded is `needs.{job}.result`"
                )));
            }
        }
    }

    /// Reports constants among the operands of a condition: `x == 'a' || 'b'` is always true.
    fn always_the_same(&mut self, expr: &Expr, whole: Span) {
        match &expr.kind {
            ExprKind::Binary(BinaryOp::And | BinaryOp::Or, a, b) => {
                self.always_the_same(a, whole);
                self.always_the_same(b, whole);
            }
            ExprKind::Unary(UnaryOp::Not, operand) => self.always_the_same(operand, whole),
            ExprKind::List(_) => self.constant_condition(expr, "a list", "always true"),
            ExprKind::Literal(value) if whole.file == expr.span.file => {
                let counts = if value.truthy() {
                    "always true"
                } else {
                    "always false"
                };
                match value.typed() {
                    Value::Bool(_) | Value::Null => {}
                    Value::Str(text) => {
                        self.constant_condition(expr, &format!("the text '{text}'"), counts);
                    }
                    number => {
                        self.constant_condition(
                            expr,
                            &format!("the number {}", number.to_text()),
                            counts,
                        );
                    }
                }
            }
            _ => {}
        }
    }

    fn constant_condition(&mut self, expr: &Expr, what: &str, counts: &str) {
        let words = format!("{what} is {counts} as a condition");
        let error = Diagnostic::error("constant-condition", expr.span, words);
        self.report(match &expr.kind {
            ExprKind::Literal(Value::Str(text)) if matches!(&**text, "true" | "false") => {
                error.help(format!("write `{text}` without quotes"))
            }
            _ => error.help("compare it with something: `x == 'a' || x == 'b'`"),
        });
    }
}
