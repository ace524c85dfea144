//! The top level of a file.

use dagrun_model::{
    Diagnostic, Export, Param, RelPath, Report, Span, Spanned, Study, Template, Toolchain,
    ValueTemplate,
};
use indexmap::IndexMap;
use rustc_hash::FxHashMap;

use super::{At, Decoder, Entry, Fields, MAX_NAMES, printable};
use crate::schema;

/// The version of the language that this crate reads.
const VERSION: i64 = 1;

/// All of a file but what is inside its jobs.
pub(crate) struct Head<'a> {
    pub(crate) name: Option<Spanned<String>>,
    pub(crate) params: IndexMap<String, Param>,
    pub(crate) secrets: Vec<Spanned<String>>,
    pub(crate) env: IndexMap<String, Template>,
    pub(crate) pass_env: Vec<Spanned<String>>,
    pub(crate) toolchain: Vec<Toolchain>,
    pub(crate) defaults: Option<Fields<'a>>,
    pub(crate) study: Option<Study>,
    pub(crate) jobs: Vec<RawJob<'a>>,
    pub(crate) export: Vec<Export>,
    pub(crate) report: Report,
}

/// A job whose keys are known and whose values are not read yet.
pub(crate) struct RawJob<'a> {
    pub(crate) name: String,
    pub(crate) name_span: Span,
    pub(crate) fields: Option<Fields<'a>>,
    pub(crate) uses: Option<Uses>,
}

/// A job that brings in the jobs of another file.
pub(crate) struct Uses {
    pub(crate) path: Spanned<String>,
    /// Name, place of the name, value.
    pub(crate) with: Vec<(String, Span, ValueTemplate)>,
}

impl<'a> Decoder<'a, '_> {
    /// Reads the top level; `None` where it is no map or where this version cannot read the file.
    pub(crate) fn head(&mut self) -> Option<Head<'a>> {
        let root = self.root();
        let fields = self.fields(root, &schema::PIPELINE)?;
        self.check_version(&fields)?;
        let name = fields.get("name").and_then(|at| self.pipeline_name(at));
        let params = fields
            .get("params")
            .map(|at| self.params(at))
            .unwrap_or_default();
        let secrets = fields
            .get("secrets")
            .map(|at| self.env_names(at, "`secrets`"))
            .unwrap_or_default();
        let env = fields.get("env").map(|at| self.env(at)).unwrap_or_default();
        let pass_env = fields
            .get("pass_env")
            .map(|at| self.env_names(at, "`pass_env`"))
            .unwrap_or_default();
        let toolchain = fields
            .get("toolchain")
            .map(|at| self.toolchain(at))
            .unwrap_or_default();
        let defaults = fields
            .get("defaults")
            .and_then(|at| self.fields(at, &schema::DEFAULTS));
        let study = match fields.get("study") {
            Some(at) => Some(self.study(at)),
            None if fields.is_meant("study") => Some(super::study::unreadable(self.span(root))),
            None => None,
        };
        let jobs = match fields.get("jobs") {
            Some(at) => self.raw_jobs(at),
            None if fields.is_meant("jobs") => Vec::new(),
            None => {
                self.missing_key(
                    fields.at,
                    "this pipeline",
                    "jobs",
                    "a map of the jobs by name",
                );
                Vec::new()
            }
        };
        Some(Head {
            name,
            params,
            secrets,
            env,
            pass_env,
            toolchain,
            defaults,
            study,
            jobs,
            export: fields
                .get("export")
                .map(|at| self.export(at))
                .unwrap_or_default(),
            report: fields
                .get("report")
                .map(|at| self.report(at))
                .unwrap_or_default(),
        })
    }

    fn check_version(&mut self, fields: &Fields<'a>) -> Option<()> {
        let Some(at) = fields.get("dagrun") else {
            return Some(());
        };
        let text = self.literal(at, "`dagrun`", "the version of the language, `1`")?;
        if text.value.parse() == Ok(VERSION) {
            return Some(());
        }
        let words = format!(
            "this version of dagrun reads the language `{VERSION}`, not `{}`",
            printable(&text.value)
        );
        let diagnostic = self
            .diagnostic("unknown-version", at, words)
            .help("write `dagrun: 1`, or use a newer dagrun");
        self.push(diagnostic);
        None
    }

    fn pipeline_name(&mut self, at: At) -> Option<Spanned<String>> {
        let name = self.literal(at, "`name`", "a text")?;
        let bad = name.value.is_empty()
            || name.value.len() > 100
            || name.value.starts_with('.')
            || name.value.contains(|c: char| c.is_control() || c == '/');
        if bad {
            let words = format!(
                "`{}` cannot be the name of a pipeline",
                printable(&name.value)
            );
            let diagnostic = self
                .diagnostic("bad-name", at, words)
                .help("it names the pipeline's history: at most 100 bytes, no `/`, no control characters, no `.` at its start");
            self.push(diagnostic);
        }
        Some(name)
    }

    fn raw_jobs(&mut self, at: At) -> Vec<RawJob<'a>> {
        let Some(entries) = self.entries(at, "`jobs`", "a map of jobs by name") else {
            return Vec::new();
        };
        if entries.is_empty() {
            self.error("empty-value", at, "this pipeline has no jobs");
        }
        self.shared.jobs += entries.len();
        if self.shared.jobs > MAX_NAMES {
            self.too_many_names(at, "`jobs`", self.shared.jobs);
            return Vec::new();
        }
        entries.iter().map(|e| self.raw_job(e)).collect()
    }

    fn raw_job(&mut self, entry: &Entry<'a>) -> RawJob<'a> {
        self.check_name("a job", &entry.name, entry.name_span);
        if entry.name == super::job::STUDY {
            let words = "`study` cannot be the name of a job: in `needs` it stands for the study";
            self.push(
                Diagnostic::error("reserved-name", entry.name_span, words).help("use another name"),
            );
        }
        let fields = match self.view(entry.at) {
            super::View::Map => self.fields(entry.at, &schema::JOB),
            super::View::Null => {
                let words = format!("the job `{}` is empty", printable(&entry.name));
                self.push(
                    Diagnostic::error("empty-value", entry.name_span, words)
                        .help("add `run:` with a command"),
                );
                None
            }
            _ => {
                self.wrong_type(
                    entry.at,
                    &format!("the job `{}`", printable(&entry.name)),
                    "a map with `run:` in it",
                );
                None
            }
        };
        let uses = fields.as_ref().and_then(|f| self.uses(f));
        RawJob {
            name: entry.name.to_string(),
            name_span: entry.name_span,
            fields,
            uses,
        }
    }

    fn uses(&mut self, fields: &Fields<'a>) -> Option<Uses> {
        let Some(at) = fields.get("uses") else {
            // `call` and its `with` come later together.
            if let Some(span) = fields.key_span("with").filter(|_| !fields.written("call")) {
                self.push(
                    Diagnostic::error(
                        "needs-uses",
                        span,
                        "`with` belongs to a job that has `uses`",
                    )
                    .help("give values to a command by `env:` or by templates in `run:`"),
                );
            }
            return None;
        };
        for key in schema::JOB.names() {
            if !["uses", "with", "needs", "if"].contains(&key)
                && let Some(span) = fields.key_span(key)
            {
                let words = format!("a job that uses a file cannot have `{key}`");
                self.push(Diagnostic::error("one-of", span, words).help(
                    "write it into the jobs of that file; `needs`, `if` and `with` may stand here",
                ));
            }
        }
        let path = self.literal(at, "`uses`", "a path such as `./jobs.yaml`")?;
        let with = match fields.get("with") {
            Some(at) => self
                .entries(at, "`with`", "a map of parameters")
                .unwrap_or_default(),
            None => Vec::new(),
        };
        let with = with
            .into_iter()
            .map(|e| (e.name.to_string(), e.name_span, self.value_template(e.at)))
            .collect();
        Some(Uses { path, with })
    }

    fn export(&mut self, at: At) -> Vec<Export> {
        let mut exports = Vec::new();
        let mut seen: FxHashMap<String, Span> = FxHashMap::default();
        let entries = self
            .entries(at, "`export`", "a map from a target path to an expression")
            .unwrap_or_default();
        for entry in entries {
            if let Some(path) = self.export_target(&entry) {
                let clash = seen.insert(path.as_str().to_lowercase(), entry.name_span);
                if let Some(other) = clash {
                    let words = format!("two exports go to `{path}`");
                    self.push(
                        Diagnostic::error("duplicate-path", entry.name_span, words)
                            .related(other, "the other one")
                            .help("give each export a target of its own"),
                    );
                }
            }
            if let Some(value) = self.expression(entry.at, "an export") {
                let target = Spanned::new(entry.name.into_owned(), entry.name_span);
                exports.push(Export { target, value });
            }
        }
        exports
    }

    fn export_target(&mut self, entry: &Entry<'a>) -> Option<RelPath> {
        let problem = match RelPath::new(&entry.name) {
            Ok(path) if path.as_str().starts_with('-') => {
                "it begins with `-`, so commands take it for an option".into()
            }
            Ok(path) if path.as_str() == ".dagrun" || path.as_str().starts_with(".dagrun/") => {
                "`.dagrun` holds the runs themselves".into()
            }
            Ok(path) => return Some(path),
            Err(error) => error.to_string(),
        };
        let words = format!("the export target `{}`: {problem}", printable(&entry.name));
        self.push(
            Diagnostic::error("bad-path", entry.name_span, words)
                .help("write a path below the working folder, such as `results/figure.svg`"),
        );
        None
    }

    fn report(&mut self, at: At) -> Report {
        let mut report = Report::default();
        let Some(fields) = self.fields(at, &schema::REPORT) else {
            return report;
        };
        if let Some(at) = fields.get("junit")
            && let Some(path) = self.literal(at, "`junit`", "a path")
            && self.check_path(at, &path.value, "`junit`").is_some()
        {
            report.junit = Some(path);
        }
        if let Some(at) = fields.get("annotations") {
            report.github_annotations = self.word(at, "`annotations`", &["github"]).is_some();
        }
        report
    }
}
