//! The files of a pipeline put together: `uses:` brings in the jobs of another file under the name of the job.
//!
//! Owns: which files are read and how often, the names that brought-in jobs get, and the parameters they are given.
//! Parameters of a module are put in place of `params.NAME` in its expressions, so that nothing downstream has to know
//! of modules.

use dagrun_model::{
    Diagnostic, Export, Expr, ExprKind, FileIx, Function, Job, Param, Pipeline, RelPath, Report,
    Sources, Span, Spanned, Study, Template, TemplatePart, Value, ValueTemplate,
};
use indexmap::IndexMap;

use crate::{
    Loader,
    decode::{Context, Decoder, Head, Names, Shared, Symbols, Uses, check_param},
    rewrite::{self, Rewrite},
    yaml,
};

/// The most files that a pipeline may be made of, each use counted.
const MAX_FILES: usize = 64;

/// Reads a pipeline and the files that it uses.
pub(crate) struct Assembler<'l> {
    pub(crate) shared: Shared,
    pub(crate) sources: Sources,
    symbols: Symbols,
    loader: &'l dyn Loader,
    /// The folder of the pipeline as it is shown to people, with its `/`.
    shown_folder: String,
    /// The files that are being read, the pipeline first.
    stack: Vec<RelPath>,
    files: usize,
}

/// What a file gives.
struct File {
    name: Option<Spanned<String>>,
    params: IndexMap<String, Param>,
    secrets: Vec<Spanned<String>>,
    study: Option<Study>,
    jobs: Vec<Job>,
    export: Vec<Export>,
    report: Report,
}

impl<'l> Assembler<'l> {
    pub(crate) fn new(loader: &'l dyn Loader) -> Self {
        Self {
            shared: Shared::default(),
            sources: Sources::default(),
            symbols: Symbols::default(),
            loader,
            shown_folder: String::new(),
            stack: Vec::new(),
            files: 0,
        }
    }

    /// Reads the whole pipeline. Errors are in `shared`; with any of them the pipeline is only good for more checks.
    pub(crate) fn pipeline(&mut self, path: &str, text: &str) -> Option<Pipeline> {
        let (folder, file_name) = path.rsplit_once('/').map_or(("", path), |(f, n)| (f, n));
        self.shown_folder = match path.contains('/') {
            true => format!("{folder}/"),
            false => String::new(),
        };
        self.stack.extend(RelPath::new(file_name).ok());
        let ix = self.sources.add(path, text);
        let file = self.read(ix, text)?;
        let name = file
            .name
            .unwrap_or_else(|| Spanned::new(name_of_file(path).to_owned(), Span::new(ix, 0, 0)));
        let jobs = self.indexed(file.jobs);
        Some(Pipeline {
            study: file.study,
            name,
            params: file.params,
            secrets: file.secrets,
            jobs,
            export: file.export,
            report: file.report,
            sources: self.sources.clone(),
        })
    }

    /// Jobs by name; needs count in the map from now on. A need of a job that could not be read is dropped.
    fn indexed(&self, jobs: Vec<Job>) -> IndexMap<String, Job> {
        let mut map: IndexMap<String, Job> = jobs
            .into_iter()
            .map(|job| (job.name.value.clone(), job))
            .collect();
        let index: Vec<Option<usize>> = self
            .symbols
            .iter()
            .map(|name| map.get_index_of(name))
            .collect();
        for job in map.values_mut() {
            job.needs.retain_mut(|need| match index[need.job.index()] {
                Some(ix) => {
                    need.job = dagrun_model::JobIx::from_index(ix);
                    true
                }
                None => false,
            });
        }
        map
    }

    fn read(&mut self, ix: FileIx, text: &str) -> Option<File> {
        self.files += 1;
        let tree = match yaml::read(ix, text) {
            Ok(Some(tree)) => tree,
            Ok(None) => {
                let diagnostic =
                    Diagnostic::error("empty-file", Span::new(ix, 0, 0), "the file is empty")
                        .help("a pipeline has at least `jobs:`");
                self.shared.push(diagnostic);
                return None;
            }
            Err(errors) => {
                errors.into_iter().for_each(|e| self.shared.push(e));
                return None;
            }
        };
        let head = Decoder {
            tree: &tree,
            text,
            shared: &mut self.shared,
        }
        .head()?;
        let (names, modules) = self.modules(&head);
        Some(self.jobs(&tree, text, head, &names, modules))
    }

    /// Reads the files that jobs use, and finds what each name in `needs` stands for.
    fn modules(&mut self, head: &Head<'_>) -> (Names, Vec<Option<Vec<Job>>>) {
        let mut names = Names::default();
        let mut modules = Vec::new();
        for raw in &head.jobs {
            let module = raw
                .uses
                .as_ref()
                .map(|uses| self.module(&raw.name, uses, head).unwrap_or_default());
            let stands_for = match &module {
                Some(jobs) => jobs.iter().map(|job| job.name.value.clone()).collect(),
                None => vec![raw.name.clone()],
            };
            names.insert(raw.name.clone(), stands_for);
            modules.push(module);
        }
        for job in modules.iter().flatten().flatten() {
            let full = &job.name.value;
            names
                .entry(full.clone())
                .or_insert_with(|| vec![full.clone()]);
        }
        (names, modules)
    }

    fn jobs(
        &mut self,
        tree: &yaml::Tree,
        text: &str,
        head: Head<'_>,
        names: &Names,
        modules: Vec<Option<Vec<Job>>>,
    ) -> File {
        let mut jobs = Vec::new();
        let mut decoder = Decoder {
            tree,
            text,
            shared: &mut self.shared,
        };
        let context = Context {
            env: &head.env,
            pass_env: &head.pass_env,
            toolchain: &head.toolchain,
            secrets: &head.secrets,
            defaults: head.defaults.as_ref(),
            names,
        };
        if let Some(defaults) = &head.defaults {
            decoder.check_defaults(defaults);
        }
        for (raw, module) in head.jobs.iter().zip(modules) {
            match module {
                None => jobs.extend(decoder.job(raw, &context, &mut self.symbols)),
                Some(module) => {
                    let Some(fields) = &raw.fields else {
                        continue;
                    };
                    let (needs, after_study) =
                        decoder.needs(fields, &raw.name, names, &mut self.symbols);
                    let condition = fields
                        .get("if")
                        .and_then(|at| decoder.expression(at, "`if`"));
                    for mut job in module {
                        let new = needs
                            .iter()
                            .filter(|n| !job.needs.iter().any(|own| own.job == n.job));
                        let new: Vec<_> = new.cloned().collect();
                        job.needs.extend(new);
                        job.after_study = job.after_study.or(after_study);
                        rewrite::add_condition(&mut job, condition.as_ref());
                        jobs.push(job);
                    }
                }
            }
        }
        File {
            name: head.name,
            params: head.params,
            secrets: head.secrets,
            study: head.study,
            jobs,
            export: head.export,
            report: head.report,
        }
    }

    /// The jobs of a file that a job uses, as the file that uses it sees them.
    fn module(&mut self, name: &str, uses: &Uses, head: &Head<'_>) -> Option<Vec<Job>> {
        let path = self.resolve(&uses.path)?;
        let file = self.load(&path, &uses.path)?;
        self.check_secrets(&file, head, uses);
        self.check_study(&file, uses);
        let given = self.given(&file.params, uses);
        let module_names: Vec<String> =
            file.jobs.iter().map(|job| job.name.value.clone()).collect();
        let mut rewrite = Rewrite {
            prefix: name,
            jobs: &module_names,
            params: &given,
            out: Vec::new(),
        };
        let mut jobs = file.jobs;
        for job in &mut jobs {
            rewrite.job(job, &mut self.symbols);
        }
        let out = rewrite.out;
        out.into_iter().for_each(|d| self.shared.push(d));
        Some(jobs)
    }

    /// The path of a module, from that of the file that uses it.
    fn resolve(&mut self, path: &Spanned<String>) -> Option<RelPath> {
        let mut names: Vec<&str> = Vec::new();
        let folder = self.stack.last().and_then(RelPath::parent);
        let folder = folder.as_ref().map_or("", RelPath::as_str);
        let mut outside = path.value.starts_with('/') || path.value.contains("://");
        for name in folder.split('/').chain(path.value.split('/')) {
            match name {
                "" | "." => {}
                ".." => outside |= names.pop().is_none(),
                name => names.push(name),
            }
        }
        let resolved = RelPath::new(&names.join("/"));
        match resolved {
            Ok(resolved) if !outside => Some(resolved),
            _ => {
                let words = format!(
                    "`{}` is not inside the project folder",
                    path.value.escape_debug()
                );
                self.shared.push(
                    Diagnostic::error("bad-path", path.span, words)
                        .help("a pipeline uses files of its own project only"),
                );
                None
            }
        }
    }

    fn load(&mut self, path: &RelPath, uses: &Spanned<String>) -> Option<File> {
        if let Some(at) = self.stack.iter().position(|p| p == path) {
            let mut chain: Vec<&str> = self.stack[at..].iter().map(RelPath::as_str).collect();
            chain.push(path.as_str());
            let words = format!("`{path}` uses itself: {}", chain.join(" -> "));
            self.shared.push(
                Diagnostic::error("include-cycle", uses.span, words)
                    .help("remove one `uses` of this circle"),
            );
            return None;
        }
        if self.files >= MAX_FILES {
            let words = format!("this pipeline uses more than {MAX_FILES} files");
            self.shared.push(
                Diagnostic::error("too-many-files", uses.span, words)
                    .help("bring jobs that differ in parameters alone together in a matrix"),
            );
            return None;
        }
        let text = match self.loader.load(path) {
            Ok(text) => text,
            Err(words) => {
                let words = format!("cannot read `{path}`: {words}");
                self.shared.push(
                    Diagnostic::error("cannot-read", uses.span, words)
                        .help("`uses` takes the path of a file from the file it stands in"),
                );
                return None;
            }
        };
        let shown = format!("{}{path}", self.shown_folder);
        let known = self.sources.iter().position(|s| s.path == shown);
        let ix = match known {
            Some(ix) => FileIx(ix as u16),
            None => self.sources.add(shown, text.as_str()),
        };
        self.stack.push(path.clone());
        let file = self.read(ix, &text);
        self.stack.pop();
        file
    }

    fn check_secrets(&mut self, file: &File, head: &Head<'_>, uses: &Uses) {
        for secret in &file.secrets {
            if !head.secrets.iter().any(|s| s.value == secret.value) {
                let words = format!(
                    "`{}` asks for the secret `{}`, which is not declared here",
                    uses.path.value, secret.value
                );
                let diagnostic = Diagnostic::error("unknown-secret", uses.path.span, words)
                    .related(secret.span, "asked for here")
                    .help(format!(
                        "add `secrets: [{}]` at the top level",
                        secret.value
                    ));
                self.shared.push(diagnostic);
            }
        }
    }

    fn check_study(&mut self, file: &File, uses: &Uses) {
        if let Some(study) = &file.study {
            let words = format!(
                "`{}` has a study, which can only stand in the file that is run",
                uses.path.value
            );
            self.shared.push(
                Diagnostic::error("study-in-module", uses.path.span, words)
                    .related(study.span, "it stands here")
                    .help("move `study` into this file; jobs that are brought in may use `trial`"),
            );
        }
    }

    /// What each parameter of a module stands for.
    fn given(&mut self, params: &IndexMap<String, Param>, uses: &Uses) -> IndexMap<String, Expr> {
        let mut given = IndexMap::new();
        for (name, span, value) in &uses.with {
            let Some(param) = params.get(name) else {
                self.unknown_param(name, *span, params, uses);
                continue;
            };
            if let ValueTemplate::Value(value) = value
                && let Err(reason) = check_param(param, &value.value)
            {
                let diagnostic =
                    Diagnostic::error("wrong-type", value.span, format!("`{name}` {reason}"))
                        .related(param.span, "declared here");
                self.shared.push(diagnostic);
            }
            let null = || Expr::new(ExprKind::Literal(Value::Null), value.span());
            given.insert(name.clone(), as_expr(value).unwrap_or_else(null));
            if as_expr(value).is_none() {
                let diagnostic = Diagnostic::error(
                    "template-not-allowed",
                    value.span(),
                    "templates inside a map cannot be given to a module",
                )
                .help("give each of them as a parameter of its own");
                self.shared.push(diagnostic);
            }
        }
        for (name, param) in params {
            let wanted = !uses.with.iter().any(|(given, ..)| given == name);
            match &param.default {
                Some(default) if wanted => {
                    let literal = ExprKind::Literal(default.value.clone());
                    given.insert(name.clone(), Expr::new(literal, default.span));
                }
                None if wanted => {
                    let words = format!(
                        "`{}` needs a value for its parameter `{name}`",
                        uses.path.value
                    );
                    let diagnostic = Diagnostic::error("missing-param", uses.path.span, words)
                        .related(param.span, "declared here")
                        .help(format!("add `with: {{{name}: ...}}`"));
                    self.shared.push(diagnostic);
                    given.insert(
                        name.clone(),
                        Expr::new(ExprKind::Literal(Value::Null), param.span),
                    );
                }
                _ => {}
            }
        }
        given
    }

    fn unknown_param(
        &mut self,
        name: &str,
        span: Span,
        params: &IndexMap<String, Param>,
        uses: &Uses,
    ) {
        let words = format!(
            "`{}` has no parameter `{}`",
            uses.path.value,
            name.escape_debug()
        );
        let diagnostic = Diagnostic::error("unknown-param", span, words);
        self.shared.push(
            match self.shared.guess(name, params.keys().map(String::as_str)) {
                Some(near) => diagnostic
                    .help(format!("did you mean `{near}`?"))
                    .fix(span, near),
                None => diagnostic.help(format!(
                    "its parameters are: {}",
                    params
                        .keys()
                        .map(String::as_str)
                        .collect::<Vec<_>>()
                        .join(", ")
                )),
            },
        );
    }
}

/// A value with templates as an expression; a map with templates has none.
fn as_expr(value: &ValueTemplate) -> Option<Expr> {
    let span = value.span();
    let kind = match value {
        ValueTemplate::Value(value) => ExprKind::Literal(value.value.clone()),
        ValueTemplate::Template(template) => return Some(template_expr(template)),
        ValueTemplate::List(items, _) => {
            ExprKind::List(items.iter().map(as_expr).collect::<Option<_>>()?)
        }
        ValueTemplate::Map(..) => return None,
    };
    Some(Expr::new(kind, span))
}

/// A template as one expression: itself, or a call of `format`.
fn template_expr(template: &Template) -> Expr {
    if let Some(expr) = template.as_expr() {
        return expr.clone();
    }
    let mut format = String::new();
    let mut arguments = Vec::new();
    for part in &template.parts {
        match part {
            TemplatePart::Text(text) => {
                format.push_str(&text.replace('{', "{{").replace('}', "}}"))
            }
            TemplatePart::Expr(expr) => {
                format.push_str(&format!("{{{}}}", arguments.len()));
                arguments.push(expr.clone());
            }
        }
    }
    let literal = Expr::new(ExprKind::Literal(Value::str(format)), template.span);
    arguments.insert(0, literal);
    Expr::new(ExprKind::Call(Function::Format, arguments), template.span)
}

/// The name of a pipeline whose file has no `name`: that of the file without its ending.
pub fn name_of_file(path: &str) -> &str {
    let file_name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    match file_name
        .rsplit_once('.')
        .map_or(file_name, |(stem, _)| stem)
    {
        "" => "pipeline",
        stem => stem,
    }
}
