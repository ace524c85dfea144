//! Names that do not exist: what to call them, and what to write instead.

use dagrun_model::{CONTEXTS, CachePolicy, Diagnostic, Span, did_you_mean};

use super::{
    Checker, MAX_ERRORS,
    job::REPLICATE,
    scope::{Place, foreign},
    study::TRIAL,
    types::{Members, Type},
};

/// A member that does not exist.
#[derive(Clone, Copy)]
pub(super) struct Unknown<'a> {
    /// The context that the chain begins with.
    pub(super) context: Option<&'a str>,
    /// The members before it.
    pub(super) path: &'a [&'a str],
    pub(super) name: &'a str,
    /// A `*` stands before it.
    pub(super) each: bool,
}

impl Checker<'_> {
    /// The type of a context that may be used here, or `None` after an error.
    pub(super) fn context_type(&mut self, name: &str, span: Span, place: Place) -> Option<Type> {
        if name == TRIAL {
            return self.trial(span);
        }
        let types = self.types.as_ref();
        Some(match name {
            "params" => self.params.clone(),
            "jobs" if place == Place::Objective => self.study.as_ref()?.jobs.clone(),
            "jobs" => self.jobs.clone(),
            "matrix" => types?.matrix.clone(),
            "env" => types?.env.clone(),
            "inputs" => types?.inputs.clone(),
            "outputs" => types?.outputs.clone(),
            "needs" => types?.needs.clone(),
            "git" => Type::map([
                ("commit", Type::String),
                ("branch", Type::String),
                ("dirty", Type::Bool),
            ]),
            "replicate" => return self.replicate(span),
            "attempt" | "run" => return self.volatile(name, span),
            _ => Type::Any,
        })
    }

    fn replicate(&mut self, span: Span) -> Option<Type> {
        let job = self.job?;
        if self.infos[job].axes.contains(REPLICATE) {
            return Some(Type::map([("index", Type::Number), ("seed", Type::Number)]));
        }
        let error = Diagnostic::error(
            "no-replicates",
            span,
            format!(
                "`replicate` is used, but {} has no replicates",
                self.job_name()
            ),
        );
        self.report(match self.needed_with(REPLICATE) {
            Some(needed) => error.help(format!(
                "`{needed}` has replicates, which are gathered here; `for_each: replicate` makes a node for each"
            )),
            None => error.help("write `replicates: N`"),
        });
        None
    }

    fn volatile(&mut self, name: &str, span: Span) -> Option<Type> {
        let job = self.job?;
        if self.pipeline.jobs[job].cache != CachePolicy::Never {
            let words =
                format!("`{name}` differs from run to run, so the job could never be cached");
            let error = Diagnostic::error("needs-cache-never", span, words)
                .help("set `cache: never` for the job");
            self.report(if name == "attempt" {
                error.help(
                    "or read the environment variable DAGRUN_ATTEMPT, which is not in the key",
                )
            } else {
                error
            });
            return None;
        }
        Some(if name == "attempt" {
            Type::Number
        } else {
            Type::map([("id", Type::String)])
        })
    }

    pub(super) fn secret(&mut self, name: Option<&str>, span: Span) {
        let error = Diagnostic::error(
            "secret-in-expression",
            span,
            "the value of a secret is never in an expression",
        );
        let name = name.unwrap_or("NAME");
        let job = self.job.map(|job| &self.pipeline.jobs[job]);
        let asked = job.is_some_and(|job| job.secrets.iter().any(|secret| secret.value == name));
        self.report(if asked {
            error.help(format!("the job has it as the environment variable {name}: write `${name}` in a script, or read it in the program"))
        } else {
            error.help(format!("write `secrets: [{name}]` in the job, which then has it as the environment variable {name}"))
        });
    }

    pub(super) fn unknown_context(&mut self, name: &str, span: Span, place: Place) {
        let error = Diagnostic::error(
            "unknown-context",
            span,
            format!("there is no context `{name}`"),
        );
        let has = |ty: &Type| ty.member(name).is_some();
        let types = self.types.as_ref();
        let inside = [
            ("params", Some(&self.params)),
            ("matrix", types.map(|t| &t.matrix)),
            ("inputs", types.map(|t| &t.inputs)),
            ("outputs", types.map(|t| &t.outputs)),
            ("needs", types.map(|t| &t.needs)),
            ("env", types.map(|t| &t.env)),
            (TRIAL, self.study.as_ref().map(|t| &t.trial)),
        ]
        .into_iter()
        .find(|(_, ty)| ty.is_some_and(has));
        self.report(if let Some((context, _)) = inside {
            error.help(format!("write `{context}.{name}`"))
        } else if let Some(help) = self.output_for_objective(name, place) {
            error.help(help)
        } else if let Some(help) = foreign(name) {
            error.help(help)
        } else if let Some(near) = did_you_mean(name, CONTEXTS.iter().copied()) {
            error.help(format!("did you mean `{near}`?"))
        } else if place == Place::Objective {
            error.help("an objective reads outputs of jobs: `jobs.JOB.outputs.NAME`")
        } else {
            error.help(format!("a text stands in quotes: `'{name}'`"))
        });
    }

    /// The output of a job that a name in an objective is meant to be.
    fn output_for_objective(&self, name: &str, place: Place) -> Option<String> {
        let jobs = &self
            .study
            .as_ref()
            .filter(|_| place == Place::Objective)?
            .jobs;
        let Type::Map(jobs) = jobs else { return None };
        let output = |job: &Type| job.member("outputs")?.member(name).cloned();
        let (job, ty) = jobs
            .known
            .iter()
            .find_map(|(job, ty)| Some((job, output(ty)?)))?;
        let more = match ty {
            Type::List(_) => ", a list of which `sum` or `mean` makes one number",
            _ => "",
        };
        Some(format!("write `jobs.{job}.outputs.{name}`{more}"))
    }

    pub(super) fn unknown_member(&mut self, unknown: Unknown<'_>, members: &Members, span: Span) {
        if self.errors.len() >= MAX_ERRORS {
            return;
        }
        let name = unknown.name;
        let (code, message) = self.describe(unknown);
        let mut error = Diagnostic::error(code, span, message);
        let known = || members.known.keys().map(|key| &**key);
        let near = did_you_mean(name, known());
        if let Some(near) = near {
            error = error.help(format!("did you mean `{near}`?"));
        }
        let minuend = name
            .split_once('-')
            .filter(|(left, _)| members.known.contains_key(*left));
        if let Some((left, right)) = minuend {
            error = error.help(format!(
                "`-` is part of names: to subtract, write `{left} - {right}`"
            ));
        } else if let Some(help) = self.remedy(code, unknown, near.is_some()) {
            error = error.help(help);
        } else if near.is_none() {
            let names: Vec<_> = known().take(13).map(|n| format!("`{n}`")).collect();
            match names.len() {
                0 => {}
                13.. => {
                    error = error.help(format!("among others there are {}", names[..12].join(", ")))
                }
                _ => error = error.help(format!("there is {}", names.join(", "))),
            }
        }
        self.report(error);
    }

    fn describe(&self, unknown: Unknown<'_>) -> (&'static str, String) {
        let name = unknown.name;
        let job = self.job_name();
        match (unknown.context, unknown.path) {
            _ if unknown.each => (
                "unknown-member",
                format!("the items have no member `{name}`"),
            ),
            (Some("params"), []) => ("unknown-param", format!("there is no parameter `{name}`")),
            (Some(TRIAL), []) => (
                "unknown-parameter",
                format!("the space has no parameter `{name}`"),
            ),
            (Some("matrix"), []) => ("unknown-axis", format!("{job} has no axis `{name}`")),
            (Some("env"), []) => (
                "unknown-variable",
                format!("{job} declares no variable `{name}`"),
            ),
            (Some("inputs"), []) => (
                "unknown-input",
                format!("{job} has no input of the name `{name}`"),
            ),
            (Some("outputs"), []) => ("unknown-output", format!("{job} has no output `{name}`")),
            (Some("needs"), []) if self.pipeline.jobs.contains_key(name) => {
                ("not-needed", format!("{job} does not need `{name}`"))
            }
            (Some("needs" | "jobs"), []) => ("unknown-job", format!("there is no job `{name}`")),
            (Some("needs" | "jobs"), [other, "outputs"]) => (
                "unknown-output",
                format!("the job `{other}` has no output `{name}`"),
            ),
            (Some(context), path) => {
                let base: Vec<_> = std::iter::once(context)
                    .chain(path.iter().copied())
                    .collect();
                (
                    "unknown-member",
                    format!("`{}` has no member `{name}`", base.join(".")),
                )
            }
            (None, _) => (
                "unknown-member",
                format!("the value has no member `{name}`"),
            ),
        }
    }

    /// What to do about an unknown name, beyond one that is near.
    fn remedy(&self, code: &str, unknown: Unknown<'_>, near: bool) -> Option<String> {
        let name = unknown.name;
        match code {
            "unknown-member" if unknown.context == Some("study") && unknown.path.is_empty() => {
                study_member(name).map(str::to_owned)
            }
            "unknown-parameter" if self.pipeline.params.contains_key(name) => {
                Some(format!("`params.{name}` is a parameter of the pipeline"))
            }
            "unknown-parameter" if !near => Some(format!(
                "declare it in the study: `space: {{{name}: {{uniform: [0, 1]}}}}`"
            )),
            "not-needed" => Some(format!("add `{name}` to its `needs`")),
            "unknown-axis" if self.is_of_space(name) => Some(format!(
                "`{name}` is a parameter of the study's space: write `trial.{name}`"
            )),
            "unknown-axis" => self.needed_with(name).map(|needed| {
                format!("`{needed}` has that axis, which is gathered here; `for_each: {name}` takes it over")
            }),
            "unknown-param" if !near => Some(format!("declare it: `params: {{{name}: {{type: string}}}}`")),
            "unknown-variable" if !near => Some(format!(
                "declare it under `env`; other variables are not known here: a script reads `${name}` itself, if `pass_env` names it"
            )),
            "unknown-input" if !near => Some(format!("name the input: `inputs: {{{name}: PATH}}`")),
            _ => None,
        }
    }

    fn is_of_space(&self, name: &str) -> bool {
        let study = self.study.as_ref();
        study.is_some_and(|study| study.trial.member(name).is_some())
    }

    /// A needed job that has an axis.
    fn needed_with(&self, axis: &str) -> Option<&str> {
        let job = &self.pipeline.jobs[self.job?];
        let needed = job
            .needs
            .iter()
            .find(|need| self.infos[need.job.index()].axes.contains(axis))?;
        Some(&self.pipeline.job(needed.job).name.value)
    }

    pub(super) fn job_name(&self) -> String {
        match self.job {
            Some(job) => format!("the job `{}`", self.pipeline.jobs[job].name.value),
            None => "the pipeline".into(),
        }
    }
}

/// Where members of `study` are that are not known at a place.
fn study_member(name: &str) -> Option<&'static str> {
    Some(match name {
        "best" | "value" => {
            "`study.best` is there when the study has one objective, `study.value` then only in `grow`; of several, `study.front` has the trials that no other beats"
        }
        "table" | "front" | "trials" | "failed" => {
            "it is known when the study has ended, in a job with `needs: study`"
        }
        _ => return None,
    })
}

/// The place of `name` at the end of a chain, behind the place of what it is taken from.
pub(super) fn name_span(base: Span, whole: Span, name: &str) -> Span {
    let behind = Span {
        start: base.end,
        ..whole
    };
    if base.file != whole.file || base.start != whole.start || base.end >= whole.end {
        return whole;
    }
    // `.name` without the dot; `['name']` as it is.
    if (behind.end - behind.start) as usize == name.len() + 1 {
        return Span {
            start: behind.start + 1,
            ..behind
        };
    }
    behind
}
