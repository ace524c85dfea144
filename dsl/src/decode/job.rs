//! Jobs: their needs, what they take from the file's top level and its defaults, and the rest by topic.

use dagrun_model::{
    Diagnostic, Job, JobIx, Matrix, Need, ResourceTemplate, Retry, Span, Spanned, Template,
    Toolchain,
};
use indexmap::{IndexMap, IndexSet};

use super::{At, Decoder, Fields, RawJob, View, printable};
use crate::schema;

/// What stands in `needs` for the study.
pub(super) const STUDY: &str = "study";

/// What a file gives to all its jobs.
pub(crate) struct Context<'a, 'h> {
    pub(crate) env: &'h IndexMap<String, Template>,
    pub(crate) pass_env: &'h [Spanned<String>],
    pub(crate) toolchain: &'h [Toolchain],
    pub(crate) secrets: &'h [Spanned<String>],
    pub(crate) defaults: Option<&'h Fields<'a>>,
    pub(crate) names: &'h Names,
}

/// The jobs that a name in `needs` stands for: itself, or the jobs of the file that it brings in. These come after all others.
pub(crate) type Names = IndexMap<String, Vec<String>>;

/// Names of jobs as numbers, until all jobs are known: until then a [`Need::job`] counts in here.
pub(crate) type Symbols = IndexSet<String>;

impl<'a> Decoder<'a, '_> {
    /// Reads a job. What cannot be read is reported and left out, so that names in it stay known.
    pub(crate) fn job(
        &mut self,
        raw: &RawJob<'a>,
        context: &Context<'a, '_>,
        symbols: &mut Symbols,
    ) -> Option<Job> {
        let fields = raw.fields.as_ref()?;
        let get = |name: &str| {
            fields.get(name).or_else(|| {
                context
                    .defaults
                    .filter(|d| d.knows(name))
                    .and_then(|d| d.get(name))
            })
        };
        let mut outputs = fields
            .get("outputs")
            .map(|at| self.outputs(at))
            .unwrap_or_default();
        let stdout = fields
            .get("stdout")
            .and_then(|at| self.stdout(at, &mut outputs));
        let (needs, after_study) = self.needs(fields, &raw.name, context.names, symbols);
        self.check_image(get("image"), fields);
        Some(Job {
            after_study,
            name: Spanned::new(raw.name.clone(), raw.name_span),
            needs,
            matrix: fields
                .get("matrix")
                .map_or_else(Matrix::default, |at| self.matrix(at)),
            for_each: fields
                .get("for_each")
                .map(|at| self.for_each(at))
                .unwrap_or_default(),
            replicates: fields.get("replicates").and_then(|at| self.replicates(at)),
            condition: fields.get("if").and_then(|at| self.expression(at, "`if`")),
            inputs: get("inputs").map(|at| self.inputs(at)).unwrap_or_default(),
            outputs,
            stdout,
            recipe: self.recipe(fields, raw.name_span, get("shell")),
            env: self.job_env(get("env"), context),
            pass_env: self.job_pass_env(get("pass_env"), context),
            toolchain: self.job_toolchain(get("toolchain"), context),
            secrets: self.job_secrets(get("secrets"), context),
            resources: get("resources")
                .map_or_else(ResourceTemplate::default, |at| self.resources(at)),
            threads: get("threads").and_then(|at| self.threads(at)),
            timeout: get("timeout").and_then(|at| self.timeout(at)),
            retry: get("retry").map_or_else(Retry::default, |at| self.retry(at)),
            cache: get("cache").map_or(dagrun_model::CachePolicy::Auto, |at| self.cache(at)),
            continue_on_error: get("continue_on_error")
                .and_then(|at| self.bool(at, "`continue_on_error`"))
                .unwrap_or(false),
            speculate: get("speculate")
                .and_then(|at| self.bool(at, "`speculate`"))
                .unwrap_or(false),
            executor: get("executor")
                .and_then(|at| self.literal(at, "`executor`", "the name of a profile")),
            span: self.span(fields.at),
        })
    }

    /// Reads the defaults once for what is wrong in them, also where no job takes them over.
    pub(crate) fn check_defaults(&mut self, defaults: &Fields<'a>) {
        let get = |name: &str| defaults.get(name);
        self.check_image(get("image"), defaults);
        get("inputs")
            .into_iter()
            .for_each(|at| drop(self.inputs(at)));
        get("shell").into_iter().for_each(|at| drop(self.shell(at)));
        get("env").into_iter().for_each(|at| drop(self.env(at)));
        get("pass_env")
            .into_iter()
            .for_each(|at| drop(self.env_names(at, "`pass_env`")));
        get("toolchain")
            .into_iter()
            .for_each(|at| drop(self.toolchain(at)));
        get("resources")
            .into_iter()
            .for_each(|at| drop(self.resources(at)));
        get("threads")
            .into_iter()
            .for_each(|at| drop(self.threads(at)));
        get("timeout")
            .into_iter()
            .for_each(|at| drop(self.timeout(at)));
        get("retry").into_iter().for_each(|at| drop(self.retry(at)));
        get("cache").into_iter().for_each(|at| drop(self.cache(at)));
        for name in ["continue_on_error", "speculate"] {
            get(name).into_iter().for_each(|at| {
                self.bool(at, &format!("`{name}`"));
            });
        }
    }

    fn check_image(&mut self, image: Option<At>, fields: &Fields<'a>) {
        if let Some(at) = image {
            let span = self.span(at);
            let span = fields.key_span("image").unwrap_or(span);
            let words = "`image` is reserved: no executor of this version runs containers";
            self.push(Diagnostic::error("reserved-key", span, words).help(
                "remove it, and name the programs under `toolchain` so that they enter the key",
            ));
        }
    }

    fn job_env(&mut self, at: Option<At>, context: &Context<'a, '_>) -> IndexMap<String, Template> {
        let mut env = context.env.clone();
        if let Some(at) = at {
            env.extend(self.env(at));
        }
        env
    }

    fn job_pass_env(&mut self, at: Option<At>, context: &Context<'a, '_>) -> Vec<Spanned<String>> {
        let mut names = context.pass_env.to_vec();
        for name in at
            .map(|at| self.env_names(at, "`pass_env`"))
            .unwrap_or_default()
        {
            if !names.iter().any(|n| n.value == name.value) {
                names.push(name);
            }
        }
        names
    }

    fn job_toolchain(&mut self, at: Option<At>, context: &Context<'a, '_>) -> Vec<Toolchain> {
        let mut all = context.toolchain.to_vec();
        all.extend(at.map(|at| self.toolchain(at)).unwrap_or_default());
        all
    }

    fn job_secrets(&mut self, at: Option<At>, context: &Context<'a, '_>) -> Vec<Spanned<String>> {
        let names = at
            .map(|at| self.env_names(at, "`secrets`"))
            .unwrap_or_default();
        for name in &names {
            if context.secrets.iter().any(|s| s.value == name.value) {
                continue;
            }
            let declared = context.secrets.iter().map(|s| s.value.as_str());
            let words = format!("the secret `{}` is not declared", name.value);
            let diagnostic = Diagnostic::error("unknown-secret", name.span, words);
            let diagnostic = match self.shared.guess(&name.value, declared) {
                Some(near) => diagnostic
                    .help(format!("did you mean `{near}`?"))
                    .fix(name.span, near),
                None => {
                    diagnostic.help(format!("add `secrets: [{}]` at the top level", name.value))
                }
            };
            self.push(diagnostic);
        }
        names
    }

    /// `needs`: a name, a list of names and long forms, or a map from names to options. The place is where `study` is
    /// among them.
    pub(crate) fn needs(
        &mut self,
        fields: &Fields<'a>,
        own: &str,
        names: &Names,
        symbols: &mut Symbols,
    ) -> (Vec<Need>, Option<Span>) {
        let mut reader = NeedReader {
            own,
            names,
            symbols,
            needs: Vec::new(),
            after_study: None,
        };
        if let Some(at) = fields.get("needs") {
            for item in self.flattened(at) {
                self.need(item, &mut reader);
            }
        }
        (reader.needs, reader.after_study)
    }

    fn need(&mut self, at: At, reader: &mut NeedReader<'_>) {
        if !matches!(self.view(at), View::Map) {
            if let Some(name) = self.literal(at, "`needs`", "the name of a job, or a list of them")
            {
                self.add_need(at, &name, None, reader);
            }
            return;
        }
        let entries = self.entries(at, "`needs`", "a map").unwrap_or_default();
        if entries.iter().any(|e| e.name == "job") && !reader.names.contains_key("job") {
            let Some(fields) = self.fields(at, &schema::NEED_ITEM) else {
                return;
            };
            let Some(name) = fields
                .get("job")
                .and_then(|at| self.literal(at, "`job`", "the name of a job"))
            else {
                return;
            };
            self.add_need(at, &name, Some(&fields), reader);
            return;
        }
        for entry in entries {
            let name = Spanned::new(entry.name.to_string(), entry.name_span);
            let options = match self.view(entry.at) {
                View::Null => None,
                _ => match self.fields(entry.at, &schema::NEED_OPTIONS) {
                    Some(fields) => Some(fields),
                    None => continue,
                },
            };
            self.add_need(entry.at, &name, options.as_ref(), reader);
        }
    }

    fn add_need(
        &mut self,
        at: At,
        name: &Spanned<String>,
        options: Option<&Fields<'a>>,
        reader: &mut NeedReader<'_>,
    ) {
        let missing_drop = options
            .and_then(|f| f.get("missing"))
            .and_then(|at| self.word(at, "`missing`", &["drop", "error"]))
            == Some("drop");
        let min = options
            .and_then(|f| f.get("min"))
            .and_then(|at| self.count(at, "`min`", 0));
        if name.value == STUDY {
            if let Some(key) = ["missing", "min"]
                .into_iter()
                .find_map(|k| options?.key_span(k))
            {
                let words = "the need of the study has no options";
                self.push(Diagnostic::error("bad-need", key, words).help("write `needs: study`"));
            }
            if reader.after_study.replace(name.span).is_some() {
                let words = "the need of the study stands twice";
                let error = Diagnostic::error("duplicate-name", name.span, words);
                self.push(error.help("remove one of them"));
            }
            return;
        }
        let Some(targets) = self.targets(at, name, reader) else {
            return;
        };
        for target in targets {
            let job = JobIx::from_index(reader.symbols.insert_full(target.clone()).0);
            if reader.needs.iter().any(|n| n.job == job) {
                let words = format!("the need of `{target}` stands twice");
                self.push(
                    Diagnostic::error("duplicate-name", name.span, words)
                        .help("remove one of them"),
                );
                continue;
            }
            reader.needs.push(Need {
                job,
                missing_drop,
                min,
                span: name.span,
            });
        }
    }

    fn targets(
        &mut self,
        at: At,
        name: &Spanned<String>,
        reader: &NeedReader<'_>,
    ) -> Option<Vec<String>> {
        if name.value == reader.own {
            let diagnostic = self
                .diagnostic(
                    "need-of-itself",
                    at,
                    format!("the job `{}` needs itself", printable(reader.own)),
                )
                .help("remove this need");
            self.push(at_span(diagnostic, name.span));
            return None;
        }
        if let Some(targets) = reader.names.get(&name.value) {
            return Some(targets.clone());
        }
        let diagnostic = self.diagnostic(
            "unknown-job",
            at,
            format!("there is no job `{}`", printable(&name.value)),
        );
        let candidates = reader.names.keys().map(String::as_str);
        let diagnostic = match self.shared.guess(&name.value, candidates) {
            Some(near) => diagnostic
                .help(format!("did you mean `{near}`?"))
                .fix(name.span, near),
            None => {
                let all: Vec<&str> = reader.names.keys().map(String::as_str).take(20).collect();
                diagnostic.help(format!("the jobs are {}", all.join(", ")))
            }
        };
        self.push(at_span(diagnostic, name.span));
        None
    }
}

struct NeedReader<'n> {
    own: &'n str,
    names: &'n Names,
    symbols: &'n mut Symbols,
    needs: Vec<Need>,
    after_study: Option<Span>,
}

fn at_span(diagnostic: Diagnostic, span: Span) -> Diagnostic {
    Diagnostic { span, ..diagnostic }
}
