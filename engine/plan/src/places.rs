//! Places in a node's folder: that outputs do not lie in each other nor where inputs are staged, that no two inputs are
//! staged at one path, and that a command is not longer than the system takes. As far as it is known when the plan is made;
//! the rest is said when the node becomes an action.

use std::collections::BTreeMap;

use dagrun_expr::{VALUE_LIMIT, VALUES_LIMIT, eval_text};
use dagrun_model::{Diagnostic, Job, RelPath, Span, Value};

use crate::{
    action::list_hint,
    context::CellContext,
    facts::FoundFile,
    input::{Item, Stage},
    recipe::RecipeHasher,
    staging::{file_name, list_file, staged_files, upstream_path},
};

/// An output and where it is.
pub(crate) struct OutputPlace<'p> {
    pub(crate) path: RelPath,
    pub(crate) name: &'p str,
    pub(crate) span: Span,
}

impl RecipeHasher<'_> {
    /// No output may be another one or lie in it.
    pub(crate) fn check_outputs(&self, ctx: &CellContext<'_>) -> Result<(), Diagnostic> {
        let mut paths: Vec<(RelPath, &String, Span)> = Vec::new();
        for (name, output) in &self.job.outputs {
            let path = eval_text(&output.path, ctx)
                .ok()
                .and_then(|path| RelPath::new(&path).ok());
            if let Some(path) = path {
                paths.push((path, name, output.span));
            }
        }
        for (ix, (path, name, span)) in paths.iter().enumerate() {
            for (other, first, first_span) in &paths[..ix] {
                // Several values may be read from one file.
                let both_json = [name, first]
                    .iter()
                    .all(|name| self.job.outputs[name.as_str()].json.is_some());
                let same_file = path == other && both_json;
                if !same_file && (path.starts_with(other) || other.starts_with(path)) {
                    return Err(Diagnostic::error(
                        "overlapping-outputs",
                        *span,
                        format!("outputs `{first}` and `{name}` are at `{other}` and `{path}`"),
                    )
                    .related(*first_span, "the other one")
                    .help("give each output a path of its own"));
                }
            }
        }
        Ok(())
    }

    /// No output may be where an input is staged: what was staged would count as made.
    pub(crate) fn check_staged(&self, ctx: &CellContext<'_>) -> Result<(), Diagnostic> {
        let mut outputs = Vec::new();
        for ((name, output), uses) in self.job.outputs.iter().zip(&self.plan.output_uses) {
            let path = eval_text(&output.path, ctx)
                .ok()
                .and_then(|path| RelPath::new(&path).ok());
            if let (Some(path), true) = (path, uses.axes != 0) {
                outputs.push(OutputPlace {
                    path,
                    name,
                    span: output.span,
                });
            }
        }
        let gathered = |data: usize| self.plan.needs[self.plan.data[data].need].gather;
        for input in self.plan.inputs.iter().filter(|input| !input.external) {
            // What is wrong with the input itself is said where it is hashed.
            let Ok(resolved) = input.resolve(ctx, &gathered) else {
                continue;
            };
            for item in &resolved.items {
                if let Item::Pattern(pattern) = item {
                    let files = self.found(pattern, false);
                    apart(&outputs, files, input.span)?;
                }
            }
        }
        Ok(())
    }

    /// No two inputs may be staged at one path, nor one below another. Only what lies in `in/` can be; files of the project
    /// elsewhere are at their own paths.
    pub(crate) fn check_inputs(&self, ctx: &CellContext<'_>) -> Result<(), Diagnostic> {
        let mut staged: BTreeMap<String, (String, Span)> = BTreeMap::new();
        let mut add = |path: String, source: String, span: Span| {
            let same = match staged.get(&path) {
                Some((there, _)) => *there == source,
                None => true,
            };
            if !same {
                return Err(collision(&path, span, staged[&path].1));
            }
            staged.insert(path, (source, span));
            Ok(())
        };
        let gathered = |data: usize| self.plan.needs[self.plan.data[data].need].gather;
        for input in self.plan.inputs.iter() {
            let resolved = input.resolve(ctx, &gathered)?;
            for (position, item) in resolved.items.iter().enumerate() {
                match item {
                    Item::Pattern(pattern) => {
                        let position = resolved.list.then_some(position);
                        let files = self.found(pattern, input.external);
                        for (path, file) in staged_files(input, pattern, position, files) {
                            if path == "in" || path.starts_with("in/") {
                                add(path, file.path.clone(), input.span)?;
                            }
                        }
                    }
                    Item::Upstream(data) => {
                        let list = resolved.list || gathered(*data);
                        if let Some(path) = self.upstream_place(*data, list) {
                            add(path, format!("output {data}"), input.span)?;
                        }
                    }
                }
            }
            if let (Some(name), true) = (&input.name, input.list_file) {
                add(list_file(name), "list".into(), input.span)?;
            }
        }
        for (ix, data) in self.plan.data.iter().enumerate() {
            if let Stage::Files { input: None, .. } = data.stage
                && let Some(path) = self.upstream_place(ix, gathered(ix))
            {
                add(path, format!("output {ix}"), self.job.span)?;
            }
        }
        for (path, (_, span)) in &staged {
            let folders = path.match_indices('/').map(|(end, _)| &path[..end]);
            if let Some((folder, other)) =
                { folders }.find_map(|folder| Some((folder, staged.get(folder)?.1)))
            {
                return Err(collision(folder, *span, other));
            }
        }
        Ok(())
    }

    /// Where an output of another job is staged, or the first of a list; `None` where its name is not known here.
    fn upstream_place(&self, data: usize, list: bool) -> Option<String> {
        let data = &self.plan.data[data];
        let Stage::Files { name, .. } = &data.stage else {
            return None;
        };
        let needed = &self.core.pipeline.jobs[self.plan.needs[data.need].job];
        let path = needed.outputs[data.output].path.as_text()?;
        Some(upstream_path(name, list.then_some(0), file_name(path)))
    }

    /// Counts the words of a command; refuses one that no system takes.
    pub(crate) fn measure_words(&self, words: &[String], span: Span) -> Result<(), Diagnostic> {
        let longest = words.iter().map(String::len).max().unwrap_or(0);
        let bytes = words.iter().map(|word| word.len() + 1).sum();
        self.measure(longest, bytes, span)
    }

    /// Likewise for a value in a script. Equal expressions share a variable, so small values are left out of the sum, and of
    /// equal large ones each is counted once.
    pub(crate) fn measure_value(&self, value: &Value, span: Span) -> Result<(), Diagnostic> {
        let text = |value: &Value| match value {
            Value::Str(text) => text.len(),
            Value::List(_) | Value::Map(_) => 0,
            other => other.to_text().len(),
        };
        let (longest, bytes) = match value {
            Value::Str(text) => (text.len(), text.len()),
            Value::List(items) if items.len() >= MANY => {
                let lengths = items.iter().map(text);
                lengths.fold((0, 0), |(longest, sum), n| (longest.max(n), sum + n))
            }
            _ => return Ok(()),
        };
        let seen = bytes < LARGE
            || !self.counted.borrow_mut().insert(
                dagrun_model::ContentHasher::new("value")
                    .with(value)
                    .finish(),
            );
        self.measure(longest, if seen { 0 } else { bytes }, span)
    }

    fn measure(&self, longest: usize, bytes: usize, span: Span) -> Result<(), Diagnostic> {
        self.bytes.set(self.bytes.get().saturating_add(bytes));
        if longest < VALUE_LIMIT {
            return Ok(());
        }
        Err(too_long(
            self.job,
            span,
            format!("a word of the command has {longest} bytes, and the limit is 128 KiB"),
        ))
    }

    /// All that was counted for the first cell: of one command, since steps are started one by one.
    pub(crate) fn check_length(&self) -> Result<(), Diagnostic> {
        let bytes = self.bytes.get();
        let one = matches!(self.job.recipe, dagrun_model::Recipe::Run(_));
        if bytes <= VALUES_LIMIT || !one {
            return Ok(());
        }
        Err(too_long(
            self.job,
            self.job.name.span,
            format!(
                "the command of job `{}` and its variables have {bytes} bytes, and the limit is 1 MiB",
                self.job.name.value
            ),
        ))
    }
}

/// Lists of fewer items are not measured.
const MANY: usize = 64;
/// Values in scripts below this are left out of the sum.
const LARGE: usize = 4096;

fn too_long(job: &Job, span: Span, what: String) -> Diagnostic {
    Diagnostic::error("too-long", span, what).help(format!(
        "{}, a file with one path a line; or write the value to a file",
        list_hint(job)
    ))
}

fn collision(path: &str, span: Span, other: Span) -> Diagnostic {
    Diagnostic::error("staged-twice", span, format!("two inputs would be staged at `{path}`"))
        .related(other, "the other one")
        .help("give one of them another name: what other jobs make and external files are staged at `in/NAME/`")
}

/// Whether some of the files, which are sorted by path, are staged in `in/`.
pub(crate) fn reaches_in(files: &[FoundFile]) -> bool {
    let first = files.partition_point(|file| *file.path < *"in/");
    files
        .get(first)
        .is_some_and(|file| file.path.starts_with("in/"))
        || files
            .binary_search_by(|file| (*file.path).cmp("in"))
            .is_ok()
}

/// That no output is a file of the project, has one in it or lies in one. The files are sorted by path.
pub(crate) fn apart(
    outputs: &[OutputPlace<'_>],
    files: &[FoundFile],
    input: Span,
) -> Result<(), Diagnostic> {
    for output in outputs {
        let path = output.path.as_str();
        // Files are sorted, and one that is at, below or above the output begins like it.
        let begins = |file: Option<&FoundFile>| file.and_then(|file| file.path.bytes().next());
        let first = path.bytes().next();
        if begins(files.first()) > first || begins(files.last()) < first {
            continue;
        }
        let at = |path: &str| {
            let ix = files.binary_search_by(|file| file.path.as_str().cmp(path));
            ix.ok().map(|ix| files[ix].path.as_str())
        };
        let below = format!("{path}/");
        let first_below = files.partition_point(|file| *file.path < *below);
        let inside = files.get(first_below).map(|file| file.path.as_str());
        let ancestors = path.match_indices('/').map(|(end, _)| &path[..end]);
        let hit = at(path)
            .or_else(|| inside.filter(|file| file.starts_with(&below)))
            .or_else(|| ancestors.filter_map(at).next());
        let Some(file) = hit else {
            continue;
        };
        let name = output.name;
        let words = match () {
            () if file == path => {
                format!("output `{name}` is at `{path}`, where an input is staged")
            }
            () if file.len() > path.len() => {
                format!(
                    "output `{name}` is the folder `{path}`, in which the input `{file}` is staged"
                )
            }
            () => format!("output `{name}` is at `{path}`, below the input file `{file}`"),
        };
        return Err(Diagnostic::error("output-is-input", output.span, words)
            .related(input, "the input")
            .help("inputs are read-only and would count as made by the job: write to a path of its own, such as `out/`"));
    }
    Ok(())
}
