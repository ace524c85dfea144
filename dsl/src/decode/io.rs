//! Inputs and outputs of jobs, and the paths in them.

use dagrun_model::{
    Diagnostic, Input, JsonOutput, Output, ParamType, PathError, RelPath, Spanned, Template,
    TemplatePart, Value, ValueTemplate,
};
use indexmap::IndexMap;

use super::{
    At, Decoder, Entry, View,
    clash::{Seen, literal_path},
    printable,
};
use crate::schema;

impl<'a> Decoder<'a, '_> {
    /// `inputs`: a list, which is flattened, or a map of names.
    pub(crate) fn inputs(&mut self, at: At) -> Vec<Input> {
        match self.view(at) {
            View::Map => {
                let entries = self
                    .entries(at, "`inputs`", "a map of names")
                    .unwrap_or_default();
                entries
                    .into_iter()
                    .filter_map(|e| self.named_input(&e))
                    .collect()
            }
            View::List(_) => {
                let items = self.flattened(at);
                items
                    .into_iter()
                    .filter_map(|item| self.input(item, None))
                    .collect()
            }
            View::Scalar => self.input(at, None).into_iter().collect(),
            View::Null => {
                self.wrong_type(at, "`inputs`", "a list of paths or a map of names");
                Vec::new()
            }
        }
    }

    fn named_input(&mut self, entry: &Entry<'a>) -> Option<Input> {
        self.check_name("an input", &entry.name, entry.name_span);
        let name = Spanned::new(entry.name.to_string(), entry.name_span);
        self.input(entry.at, Some(name))
    }

    fn input(&mut self, at: At, name: Option<Spanned<String>>) -> Option<Input> {
        let mut external = false;
        let mut path = at;
        if matches!(self.view(at), View::Map) {
            let fields = self.fields(at, &schema::INPUT_ITEM)?;
            external = fields
                .get("external")
                .and_then(|at| self.bool(at, "`external`"))
                .unwrap_or(false);
            match fields.get("path") {
                Some(at) => path = at,
                None => {
                    self.missing_key(
                        at,
                        "this input",
                        "path",
                        "a path, a glob, or a list of them",
                    );
                    return None;
                }
            }
        }
        Some(Input {
            name,
            value: self.input_value(path, external)?,
            external,
            span: self.span(at),
        })
    }

    fn input_value(&mut self, at: At, external: bool) -> Option<ValueTemplate> {
        if let View::List(items) = self.view(at) {
            let items = self.items(at, items);
            let values = items
                .into_iter()
                .filter_map(|item| self.input_value(item, external))
                .collect();
            return Some(ValueTemplate::List(values, self.span(at)));
        }
        let template = self.template(at, "an input", "a path, a glob or an expression")?;
        if !external {
            self.check_input_path(at, &template);
        }
        Some(match template.as_text() {
            Some(text) => ValueTemplate::Value(Spanned::new(Value::str(text), template.span)),
            None => ValueTemplate::Template(template),
        })
    }

    fn check_input_path(&mut self, at: At, template: &Template) {
        let text = with_placeholders(template);
        let outside = |words: String, decoder: &Self| {
            decoder
                .diagnostic("path-outside", at, words)
                .help("put it into the project folder, or write `{path: ..., external: true}`")
        };
        if text.contains("://") {
            let diagnostic = outside(format!("the input `{}` is a URL", printable(&text)), self);
            self.push(diagnostic);
            return;
        }
        match RelPath::new(&text) {
            Ok(path) if path.as_str().starts_with('-') => self.leading_dash(at, &text),
            // The project folder itself.
            Err(PathError::Empty) if matches!(text.as_str(), "." | "./") => {}
            Ok(_) => {}
            Err(error @ (PathError::Absolute(_) | PathError::Escapes(_))) => {
                let diagnostic = outside(format!("the input {error}"), self);
                self.push(diagnostic);
            }
            Err(error) => self.error("bad-path", at, error.to_string()),
        }
    }

    /// Reports a path that could leave its folder, or that no file may have.
    pub(crate) fn check_path(&mut self, at: At, text: &str, what: &str) -> Option<RelPath> {
        match RelPath::new(text) {
            Ok(path) if path.as_str().starts_with('-') => {
                self.leading_dash(at, text);
                None
            }
            Ok(path) => Some(path),
            Err(error) => {
                let diagnostic = self.diagnostic("bad-path", at, format!("{what}: {error}"));
                let help = match error {
                    PathError::Absolute(_) | PathError::Escapes(_) => {
                        "write a path below the folder, such as `results/table.csv`"
                    }
                    PathError::Empty => "write a path such as `results/table.csv`",
                    _ => "use a name that every file system can hold",
                };
                self.push(diagnostic.help(help));
                None
            }
        }
    }

    fn leading_dash(&mut self, at: At, text: &str) {
        let diagnostic = self
            .diagnostic(
                "bad-path",
                at,
                format!(
                    "the path `{}` begins with `-`, so commands take it for an option",
                    printable(text)
                ),
            )
            .help("give the file or folder another name");
        self.push(diagnostic);
    }

    /// `outputs`: paths or long forms by name.
    pub(crate) fn outputs(&mut self, at: At) -> IndexMap<String, Output> {
        let mut outputs: IndexMap<String, Output> = IndexMap::new();
        let mut seen = Seen::default();
        for entry in self
            .entries(at, "`outputs`", "a map of names")
            .unwrap_or_default()
        {
            self.check_name("an output", &entry.name, entry.name_span);
            self.check_output_case(&entry, &outputs, &mut seen);
            let output = self.output(&entry);
            self.check_collision(&entry, &output, &outputs, &mut seen);
            outputs.insert(entry.name.into_owned(), output);
        }
        outputs
    }

    fn output(&mut self, entry: &Entry<'a>) -> Output {
        let at = entry.at;
        let mut output = Output {
            path: Template::text("", self.span(at)),
            json: None,
            optional: false,
            keep: true,
            span: entry.name_span,
        };
        if !matches!(self.view(at), View::Map) {
            if let Some(path) = self.output_path(at) {
                output.path = path;
            }
            return output;
        }
        let Some(fields) = self.fields(at, &schema::OUTPUT) else {
            return output;
        };
        if let Some(optional) = fields
            .get("optional")
            .and_then(|at| self.bool(at, "`optional`"))
        {
            output.optional = optional;
        }
        if let Some(keep) = fields.get("keep").and_then(|at| self.bool(at, "`keep`")) {
            output.keep = keep;
        }
        let path = match (fields.get("path"), fields.get("json")) {
            (Some(path), None) => {
                self.only_with_json(&fields);
                Some(path)
            }
            (None, Some(json)) => {
                output.json = Some(self.json_output(&fields));
                Some(json)
            }
            (Some(_), Some(json)) => {
                self.error("one-of", json, "an output has `path` or `json`, not both");
                None
            }
            (None, None) => {
                self.missing_key(
                    at,
                    "this output",
                    "path",
                    "or `json:` for a value in a JSON file",
                );
                None
            }
        };
        if let Some(path) = path.and_then(|at| self.output_path(at)) {
            output.path = path;
        }
        output
    }

    fn only_with_json(&mut self, fields: &super::Fields<'a>) {
        for name in ["pointer", "type"] {
            if let Some(span) = fields.key_span(name) {
                let diagnostic = Diagnostic::error(
                    "needs-json",
                    span,
                    format!("`{name}` belongs to an output that is a value"),
                )
                .help("write `json:` in place of `path:`");
                self.push(diagnostic);
            }
        }
    }

    fn json_output(&mut self, fields: &super::Fields<'a>) -> JsonOutput {
        let pointer = fields.get("pointer").and_then(|at| {
            let pointer = self.literal(at, "`pointer`", "a JSON pointer such as `/loss`")?;
            if !pointer.value.is_empty() && !pointer.value.starts_with('/') {
                let fixed = format!("/{}", pointer.value.replace('.', "/"));
                let diagnostic = self
                    .diagnostic(
                        "bad-pointer",
                        at,
                        format!(
                            "`{}` is not a JSON pointer: it begins with `/`",
                            printable(&pointer.value)
                        ),
                    )
                    .help(format!("write `{fixed}`"))
                    .fix(pointer.span, fixed.clone());
                self.push(diagnostic);
            }
            Some(pointer.value)
        });
        let ty = fields
            .get("type")
            .and_then(|at| self.param_type(at, "`type`"));
        JsonOutput {
            pointer: pointer.unwrap_or_default(),
            ty: ty.unwrap_or(ParamType::Float),
        }
    }

    fn output_path(&mut self, at: At) -> Option<Template> {
        let template = self.template(at, "an output", "a path")?;
        let text = with_placeholders(&template);
        self.check_path(at, &text, "this output");
        Some(template)
    }

    fn check_output_case(
        &mut self,
        entry: &Entry<'a>,
        outputs: &IndexMap<String, Output>,
        seen: &mut Seen,
    ) {
        let first = seen.name(&entry.name, outputs.len());
        let Some((name, output)) = first.and_then(|ix| outputs.get_index(ix)) else {
            return;
        };
        let diagnostic = Diagnostic::error(
            "case-collision",
            entry.name_span,
            format!(
                "the outputs `{name}` and `{}` differ in case alone",
                entry.name
            ),
        )
        .related(output.span, "the other one")
        .help("give one of them another name");
        self.push(diagnostic);
    }

    /// Two files of one path, or of paths that some file systems take for one. Values may share a JSON file.
    fn check_collision(
        &mut self,
        entry: &Entry<'a>,
        output: &Output,
        outputs: &IndexMap<String, Output>,
        seen: &mut Seen,
    ) {
        let Some(path) = literal_path(output) else {
            return;
        };
        let first = seen.path(&path, outputs.len());
        let Some((name, other)) = first.and_then(|ix| outputs.get_index(ix)) else {
            return;
        };
        let Some(theirs) = literal_path(other) else {
            return;
        };
        if theirs == path && output.json.is_some() && other.json.is_some() {
            return;
        }
        let (code, words) = if theirs == path {
            (
                "duplicate-path",
                format!("the outputs `{name}` and `{}` are one file", entry.name),
            )
        } else {
            (
                "case-collision",
                format!("`{theirs}` and `{path}` are one file where case does not count"),
            )
        };
        let diagnostic = self
            .diagnostic(code, entry.at, words)
            .related(other.path.span, "the other one")
            .help("give each output a path of its own");
        self.push(diagnostic);
    }

    /// `stdout: NAME`: the name of an output; one that is not declared gets its name as its path.
    pub(crate) fn stdout(
        &mut self,
        at: At,
        outputs: &mut IndexMap<String, Output>,
    ) -> Option<Spanned<String>> {
        let name = self.literal(at, "`stdout`", "the name of an output")?;
        if !outputs.contains_key(&name.value) {
            if !self.check_name("an output", &name.value, name.span) {
                return None;
            }
            let output = Output {
                path: Template::text(name.value.as_str(), name.span),
                json: None,
                optional: false,
                keep: true,
                span: name.span,
            };
            outputs.insert(name.value.clone(), output);
        }
        Some(name)
    }
}

/// The text of a template with a harmless name for each expression, to check what is around them.
pub(crate) fn with_placeholders(template: &Template) -> String {
    template
        .parts
        .iter()
        .map(|part| match part {
            TemplatePart::Text(text) => text,
            TemplatePart::Expr(_) => "x",
        })
        .collect()
}
