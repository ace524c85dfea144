//! The tree of a file into the typed pipeline.
//!
//! Owns: what each key takes, the words for what it does not take, and the budget on what aliases and merge keys unfold
//! to. Knows nothing of files; text of modules comes in by a loader.

mod clash;
mod command;
mod io;
mod job;
mod matrix;
mod param;
mod policy;
mod scalar;
mod space;
mod study;
mod top;

use std::borrow::Cow;

use dagrun_model::{Diagnostic, Span, did_you_mean};
use rustc_hash::FxHashSet;

pub(crate) use job::{Context, Names, Symbols};
pub use param::check_param;
pub(crate) use top::{Head, RawJob, Uses};

use crate::{
    schema::{self, Table},
    yaml::{Kind, MAX_NODES, NodeId, Style, Tree},
};

/// More diagnostics than anybody reads; what comes after them is dropped.
const MAX_DIAGNOSTICS: usize = 2000;
/// From so many errors on no names are guessed at: each guess compares a name with all others.
const MOST_GUESSES: usize = 200;

/// The most jobs, parameters, outputs and so on: the entries of one map of names, and the jobs of all files together.
pub(crate) const MAX_NAMES: usize = 10_000;

/// How much more a value behind an alias counts than one that is written out.
const ALIAS_WEIGHT: usize = 4;

/// What all files of a pipeline share while they are decoded.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) out: Vec<Diagnostic>,
    visited: usize,
    /// How many jobs all files have so far.
    pub(crate) jobs: usize,
}

impl Shared {
    /// What may have been meant by a name. Where very much is wrong, names were not mistyped one by one.
    pub(crate) fn guess<'n>(
        &self,
        name: &str,
        candidates: impl IntoIterator<Item = &'n str>,
    ) -> Option<&'n str> {
        let few = self.out.len() < MOST_GUESSES;
        few.then(|| did_you_mean(name, candidates)).flatten()
    }

    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        if self.out.len() < MAX_DIAGNOSTICS {
            self.out.push(diagnostic);
        }
    }

    fn exhausted(&self) -> bool {
        self.visited > MAX_NODES
    }
}

/// A node and, where an alias led to it, the place of the alias.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    id: NodeId,
    via: Option<Span>,
}

/// What a node is, as the decoder sees it.
#[derive(Clone, Copy)]
pub(crate) enum View<'a> {
    /// A plain scalar that is null.
    Null,
    /// Any other scalar.
    Scalar,
    List(&'a [NodeId]),
    Map,
}

/// An entry of a map, after merging.
#[derive(Clone, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) name_span: Span,
    pub(crate) at: At,
}

/// The entries of a map whose keys are known.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    pub(crate) at: At,
    table: &'static Table,
    entries: Vec<Entry<'a>>,
    /// Keys that misspelled ones probably mean: they are not missing.
    meant: Vec<&'static str>,
}

impl Fields<'_> {
    /// The value of a key.
    pub(crate) fn get(&self, name: &str) -> Option<At> {
        debug_assert!(
            self.table.has(name),
            "`{name}` is in the table of {}",
            self.table.what
        );
        self.entries.iter().find(|e| e.name == name).map(|e| e.at)
    }

    /// Whether a misspelled key probably means this one.
    pub(crate) fn is_meant(&self, name: &str) -> bool {
        self.meant.contains(&name)
    }

    /// Whether the file has a key, known or not.
    fn written(&self, name: &str) -> bool {
        self.entries.iter().any(|e| e.name == name)
    }

    /// Whether a map of this kind may have a key.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.table.has(name)
    }

    /// Where a key stands.
    pub(crate) fn key_span(&self, name: &str) -> Option<Span> {
        self.entries
            .iter()
            .find(|e| e.name == name)
            .map(|e| e.name_span)
    }
}

/// Decodes one file.
pub(crate) struct Decoder<'a, 's> {
    pub(crate) tree: &'a Tree,
    pub(crate) text: &'a str,
    pub(crate) shared: &'s mut Shared,
}

impl<'a> Decoder<'a, '_> {
    /// The root of the file.
    pub(crate) fn root(&mut self) -> At {
        self.step(None, self.tree.root())
    }

    /// A child of a node, through aliases.
    pub(crate) fn child(&mut self, parent: At, id: NodeId) -> At {
        self.step(parent.via, id)
    }

    fn step(&mut self, via: Option<Span>, id: NodeId) -> At {
        let at = match self.tree.node(id).kind {
            // Of aliases within aliases, the outermost is where the author uses it.
            Kind::Alias(target) => At {
                id: target,
                via: via.or(Some(self.tree.span(id))),
            },
            _ => At { id, via },
        };
        self.spend(at);
        self.check_tag(at);
        at
    }

    fn spend(&mut self, at: At) {
        let within = !self.shared.exhausted();
        // What an alias unfolds to has no text of its own that would bound it.
        self.shared.visited += if at.via.is_some() { ALIAS_WEIGHT } else { 1 };
        if within && self.shared.exhausted() {
            let diagnostic = Diagnostic::error(
                "too-many-nodes",
                at.via.unwrap_or_else(|| self.tree.span(at.id)),
                "aliases and merge keys make too many values of this file",
            )
            .help("name a large list once, or write it as an expression");
            self.shared.out.push(diagnostic);
        }
    }

    /// Whether the budget is used up, so that decoding may end early.
    pub(crate) fn exhausted(&self) -> bool {
        self.shared.exhausted()
    }

    /// Where a node stands.
    pub(crate) fn span(&self, at: At) -> Span {
        self.tree.span(at.id)
    }

    /// What a node is.
    pub(crate) fn view(&self, at: At) -> View<'a> {
        let tree: &'a Tree = self.tree;
        let node = tree.node(at.id);
        match &node.kind {
            _ if self.shared.exhausted() => View::Null,
            Kind::List(items) => View::List(items),
            Kind::Map(_) => View::Map,
            Kind::Scalar(Style::Plain, _) if node.tag.is_none() => {
                match &*tree.text(at.id, self.text) {
                    "" | "~" | "null" | "Null" | "NULL" => View::Null,
                    _ => View::Scalar,
                }
            }
            Kind::Scalar(..) | Kind::Alias(_) => View::Scalar,
        }
    }

    /// An error about a node; it names the alias that led there.
    pub(crate) fn diagnostic(
        &self,
        code: &'static str,
        at: At,
        message: impl Into<String>,
    ) -> Diagnostic {
        let diagnostic = Diagnostic::error(code, self.span(at), message);
        match at.via {
            Some(alias) => diagnostic.related(alias, "used here"),
            None => diagnostic,
        }
    }

    /// Reports an error about a node.
    pub(crate) fn error(&mut self, code: &'static str, at: At, message: impl Into<String>) {
        let diagnostic = self.diagnostic(code, at, message);
        self.push(diagnostic);
    }

    /// Reports.
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        // Whatever comes after the budget is used up is a consequence of it.
        if !self.exhausted() {
            self.shared.push(diagnostic);
        }
    }

    /// Reports that a node is of the wrong kind.
    pub(crate) fn wrong_type(&mut self, at: At, what: &str, expected: &str) {
        let diagnostic = match self.view(at) {
            View::Null => self
                .diagnostic("empty-value", at, format!("{what} has no value"))
                .help(match what {
                    "`jobs`" => {
                        "write a map of jobs by name, each further to the right than `jobs`".into()
                    }
                    _ => format!("write {expected}, or remove the key"),
                }),
            View::Scalar => {
                let words = format!("{what} must be {expected}, not {}", self.scalar_kind(at));
                with_example(self.diagnostic("wrong-type", at, words), what)
            }
            View::List(_) => {
                let words = format!("{what} must be {expected}, not a list");
                with_example(self.diagnostic("wrong-type", at, words), what)
            }
            View::Map => self.diagnostic(
                "wrong-type",
                at,
                format!("{what} must be {expected}, not a map"),
            ),
        };
        self.push(diagnostic);
    }

    fn scalar_kind(&self, at: At) -> String {
        let text = self.tree.text(at.id, self.text);
        let mut short: String = text.chars().take(30).filter(|c| !c.is_control()).collect();
        if short.len() < text.len() {
            short.push('…');
        }
        format!("`{short}`")
    }

    /// The items of a list.
    pub(crate) fn list(&mut self, at: At, what: &str, expected: &str) -> Option<Vec<At>> {
        match self.view(at) {
            View::List(items) => Some(self.items(at, items)),
            _ => {
                self.wrong_type(at, what, expected);
                None
            }
        }
    }

    /// The items of a list that is known to be one.
    pub(crate) fn items(&mut self, at: At, items: &'a [NodeId]) -> Vec<At> {
        let mut all = Vec::with_capacity(items.len());
        for id in items {
            if self.exhausted() {
                break;
            }
            all.push(self.child(at, *id));
        }
        all
    }

    /// One item, or the items of a list.
    pub(crate) fn one_or_many(&mut self, at: At) -> Vec<At> {
        match self.view(at) {
            View::List(items) => self.items(at, items),
            _ => vec![at],
        }
    }

    /// The items of a list with the items of the lists in it, at any depth.
    pub(crate) fn flattened(&mut self, at: At) -> Vec<At> {
        let mut flat = Vec::new();
        self.flatten_into(at, &mut flat);
        flat
    }

    fn flatten_into(&mut self, at: At, flat: &mut Vec<At>) {
        match self.view(at) {
            View::List(items) => {
                for item in self.items(at, items) {
                    self.flatten_into(item, flat);
                }
            }
            _ => flat.push(at),
        }
    }

    /// The entries of a map, merge keys unfolded; `None` for anything else, which is reported.
    pub(crate) fn entries(&mut self, at: At, what: &str, expected: &str) -> Option<Vec<Entry<'a>>> {
        if !matches!(self.view(at), View::Map) {
            self.wrong_type(at, what, expected);
            return None;
        }
        let mut seen = FxHashSet::default();
        let mut entries = Vec::new();
        self.merge_into(at, &mut seen, &mut entries);
        if entries.len() > MAX_NAMES {
            self.too_many_names(at, what, entries.len());
            return None;
        }
        Some(entries)
    }

    /// Reports more names than memory for them is meant to be spent on.
    pub(crate) fn too_many_names(&mut self, at: At, what: &str, count: usize) {
        let span = self.span(at);
        let begin = Span {
            end: span.start,
            ..span
        };
        let words = format!("{what} has {count} entries and the limit is {MAX_NAMES}");
        let help = match what {
            "`jobs`" => "write jobs that differ in values alone as one job with a `matrix`",
            _ => "keep them in a file and read that in the job",
        };
        self.push(Diagnostic::error("too-many-names", begin, words).help(help));
    }

    fn merge_into(
        &mut self,
        at: At,
        seen: &mut FxHashSet<Cow<'a, str>>,
        entries: &mut Vec<Entry<'a>>,
    ) {
        let tree: &'a Tree = self.tree;
        let Kind::Map(pairs) = &tree.node(at.id).kind else {
            return;
        };
        let mut merges = Vec::new();
        for (key, value) in pairs {
            if self.exhausted() {
                return;
            }
            let name = tree.text(*key, self.text);
            let child = self.child(at, *value);
            if name == "<<" && matches!(tree.node(*key).kind, Kind::Scalar(Style::Plain, _)) {
                merges.push(child);
            } else if seen.insert(name.clone()) {
                let name_span = tree.span(*key);
                entries.push(Entry {
                    name,
                    name_span,
                    at: child,
                });
            }
        }
        for merge in merges {
            for source in self.one_or_many(merge) {
                match self.view(source) {
                    View::Map => self.merge_into(source, seen, entries),
                    _ => {
                        self.wrong_type(source, "`<<`", "a map, an alias of one, or a list of them")
                    }
                }
            }
        }
    }

    /// The entries of a map whose keys a table knows; others are reported.
    pub(crate) fn fields(&mut self, at: At, table: &'static Table) -> Option<Fields<'a>> {
        let entries = self.entries(at, table.what, "a map")?;
        let is_empty =
            |entry: &Entry<'a>| entry.name == "jobs" && matches!(self.view(entry.at), View::Null);
        let stray = table.has("jobs") && entries.iter().any(is_empty);
        let meant = entries
            .iter()
            .filter_map(|entry| self.check_key(entry, table, stray))
            .collect();
        Some(Fields {
            at,
            table,
            entries,
            meant,
        })
    }

    /// Reports a key that the table does not know, and gives the one that is probably meant. `stray`: jobs are missing where they
    /// belong, and it may be one.
    fn check_key(
        &mut self,
        entry: &Entry<'a>,
        table: &'static Table,
        stray: bool,
    ) -> Option<&'static str> {
        let name = &*entry.name;
        if table.has(name) || name.starts_with("x-") {
            return None;
        }
        let foreign = match stray && matches!(self.view(entry.at), View::Map) {
            true => Some(
                "if it is a job, move it and what is below it to the right: jobs stand below `jobs`, two spaces in",
            ),
            false => schema::foreign(table, name),
        };
        let near = did_you_mean(name, table.names()).filter(|_| foreign.is_none());
        let mut diagnostic = if table.later.contains(&name) {
            Diagnostic::error(
                "not-in-this-version",
                entry.name_span,
                format!("`{name}` is not in this version"),
            )
            .help("functions in warm processes come later; write `run:` with a command that gets its values as arguments, such as `run: [python3, model.py, \"${{ toJSON(trial) }}\"]`")
        } else {
            let unknown = Diagnostic::error(
                "unknown-key",
                entry.name_span,
                format!("{} has no key `{}`", table.what, printable(name)),
            );
            match near {
                Some(near) => unknown
                    .help(format!("did you mean `{near}`?"))
                    .fix(entry.name_span, near),
                None => unknown.help(match foreign {
                    Some(help) => help.to_owned(),
                    None => format!(
                        "its keys are {}; keys that begin with `x-` are yours",
                        table.names().collect::<Vec<_>>().join(", ")
                    ),
                }),
            }
        };
        if let Some(alias) = entry.at.via {
            diagnostic = diagnostic.related(alias, "used here");
        }
        self.push(diagnostic);
        // What this version does not know yet stands for the recipe of its job.
        near.or_else(|| (name == "call").then_some("run"))
    }

    /// A name of a job, output, axis or parameter: `[A-Za-z_][A-Za-z0-9_-]*`, at most 100 bytes.
    pub(crate) fn check_name(&mut self, what: &str, name: &str, span: Span) -> bool {
        let mut chars = name.chars();
        let first = chars
            .next()
            .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        let rest = chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if first && rest && name.len() <= 100 {
            return true;
        }
        let diagnostic = Diagnostic::error(
            "bad-name",
            span,
            format!("`{}` cannot be the name of {what}", printable(name)),
        )
        .help("a name begins with a letter or `_` and goes on with at most 99 letters, digits, `_` and `-`");
        self.push(diagnostic);
        false
    }

    /// The name of an environment variable.
    pub(crate) fn check_env_name(&mut self, name: &str, span: Span) -> bool {
        let mut chars = name.chars();
        let first = chars
            .next()
            .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        if first && chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return true;
        }
        let diagnostic = Diagnostic::error(
            "bad-name",
            span,
            format!(
                "`{}` cannot be the name of an environment variable",
                printable(name)
            ),
        )
        .help("it begins with a letter or `_` and goes on with letters, digits and `_`");
        self.push(diagnostic);
        false
    }
}

/// A text for a message: control characters escaped, cut after 60 characters.
pub(crate) fn printable(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(60)
        .flat_map(|c| -> Box<dyn Iterator<Item = char>> {
            if c.is_control() {
                Box::new(c.escape_default())
            } else {
                Box::new(std::iter::once(c))
            }
        })
        .collect();
    if text.chars().nth(60).is_some() {
        out.push('…');
    }
    out
}

/// How a map is written that a file has as something else.
fn with_example(diagnostic: Diagnostic, what: &str) -> Diagnostic {
    let example = match what {
        "`outputs`" => "give each path a name: `outputs: {table: table.csv}`",
        "`inputs`" => {
            "write a path, a list of paths, or paths by name: `inputs: {table: table.csv}`"
        }
        "`matrix`" => "give each axis a name: `matrix: {size: [1, 2, 3]}`",
        "`jobs`" => {
            "write the name of each job as a key, without `-` before it: `jobs: {simulate: {run: ...}}`"
        }
        "`params`" => "give each parameter a name and a default: `params: {trials: 20}`",
        "`env`" => "write names and values: `env: {THREADS: 1}`",
        "`space`" => "give each parameter a name: `space: {beta: {uniform: [0, 1]}}`",
        "`resources`" => "write amounts by name: `resources: {cpus: 1, memory: 500MiB}`",
        "`with`" => "write parameters by name: `with: {size: 3}`",
        "`export`" => {
            "write where each output goes: `export: {table.csv: \"${{ jobs.JOB.outputs.NAME }}\"}`"
        }
        _ => return diagnostic,
    };
    diagnostic.help(example)
}
