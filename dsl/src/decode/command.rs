//! What a job does: scripts, argument lists and steps.

use dagrun_model::{Command, Diagnostic, Recipe, Script, ScriptPart, Shell, Span, Step};
use indexmap::IndexMap;

use super::{At, Decoder, Fields, View, scalar::bare_braces};
use crate::{schema, script::parse_script};

impl<'a> Decoder<'a, '_> {
    /// The recipe of a job: one of `run` and `steps`.
    pub(crate) fn recipe(
        &mut self,
        fields: &Fields<'a>,
        name_span: Span,
        shell: Option<At>,
    ) -> Recipe {
        let shell = shell.map_or(Shell::Bash, |at| self.shell(at));
        match (fields.get("run"), fields.get("steps")) {
            (Some(_), Some(_)) => {
                let span = fields.key_span("steps").unwrap_or(name_span);
                let words = "a job has `run` or `steps`, not both";
                self.push(
                    Diagnostic::error("one-of", span, words)
                        .help("make `run` the first of the steps"),
                );
                nothing(name_span)
            }
            (Some(at), None) => self
                .command(at, shell)
                .map_or_else(|| nothing(name_span), Recipe::Run),
            (None, Some(at)) => self
                .steps(at, &shell)
                .map_or_else(|| nothing(name_span), Recipe::Steps),
            (None, None)
                if ["run", "steps", "uses"]
                    .iter()
                    .any(|key| fields.is_meant(key)) =>
            {
                nothing(name_span)
            }
            (None, None) => {
                let words = "this job does nothing: it has neither `run` nor `steps` nor `uses`";
                self.push(
                    Diagnostic::error("missing-key", name_span, words)
                        .help("add `run:` with a command"),
                );
                nothing(name_span)
            }
        }
    }

    pub(super) fn shell(&mut self, at: At) -> Shell {
        let mut words = Vec::new();
        for item in self.one_or_many(at) {
            let Some(text) = self.literal(
                item,
                "`shell`",
                "a program such as `bash`, `sh` or `python3`",
            ) else {
                return Shell::Bash;
            };
            match self.view(at) {
                View::List(_) => words.push(text.value),
                _ => words.extend(text.value.split_whitespace().map(str::to_owned)),
            }
        }
        match words
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .as_slice()
        {
            [] | [""] => {
                self.error("empty-value", at, "`shell` names no program");
                Shell::Bash
            }
            ["bash"] => Shell::Bash,
            ["sh"] => Shell::Sh,
            _ => Shell::Other(words),
        }
    }

    fn command(&mut self, at: At, shell: Shell) -> Option<Command> {
        match self.view(at) {
            View::Scalar => self.script(at, shell),
            View::List(_) => self.argv(at),
            _ => {
                self.wrong_type(
                    at,
                    "`run`",
                    "a script (text) or a command (a list of words)",
                );
                None
            }
        }
    }

    fn script(&mut self, at: At, shell: Shell) -> Option<Command> {
        let source = self.source_text(at);
        if source.text().trim().is_empty() {
            self.error("empty-value", at, "the script is empty");
            return None;
        }
        if source.text().contains('\0') {
            self.error("bad-value", at, "the script has a NUL character in it");
            return None;
        }
        if self.check_cut(at, source.text()) {
            return None;
        }
        if let Some((start, end)) = bare_braces(source.text()) {
            let span = source.span_of(start..end);
            let warning = Diagnostic::warning(
                "braces-without-dollar",
                span,
                "`{{ }}` without `$` is text of the script, not a template",
            )
            .help("write `${{ }}` if a value belongs here");
            self.push(warning);
        }
        let mut out = Vec::new();
        let script = parse_script(&source, shell, &mut out);
        self.push_all(at, out);
        Some(Command::Script(script))
    }

    fn argv(&mut self, at: At) -> Option<Command> {
        let mut words = Vec::new();
        for item in self.flattened(at) {
            let word = self.template(item, "a word of a command", "a text or a number")?;
            if word.as_text().is_some_and(|text| text.contains('\0')) {
                self.error(
                    "bad-value",
                    item,
                    "a word of a command has a NUL character in it",
                );
            }
            words.push(word);
        }
        match words.first() {
            None => self.error("empty-value", at, "the command has no words"),
            Some(program) if program.as_text().is_some_and(|t| t.trim().is_empty()) => {
                self.error("empty-value", at, "the command has an empty program name");
            }
            Some(program)
                if words.len() == 1
                    && program.as_text().is_some_and(|t| t.trim().contains(' ')) =>
            {
                let words = "the only word of this command has blanks in it";
                let diagnostic = self
                    .diagnostic("blank-in-program", at, words)
                    .help("write each word as an item, or a text without brackets for a script");
                self.push(Diagnostic {
                    severity: dagrun_model::Severity::Warning,
                    ..diagnostic
                });
            }
            Some(_) => {}
        }
        Some(Command::Argv(words, self.span(at)))
    }

    fn steps(&mut self, at: At, shell: &Shell) -> Option<Vec<Step>> {
        let items = self.list(at, "`steps`", "a list of steps")?;
        if items.is_empty() {
            self.error("empty-value", at, "`steps` has no steps");
        }
        Some(
            items
                .into_iter()
                .filter_map(|item| self.step_of(item, shell))
                .collect(),
        )
    }

    fn step_of(&mut self, at: At, shell: &Shell) -> Option<Step> {
        if matches!(self.view(at), View::Scalar) {
            let diagnostic = self
                .diagnostic("wrong-type", at, "a step must be a map, not a text")
                .help("write `- run: ...`");
            self.push(diagnostic);
            return None;
        }
        let fields = self.fields(at, &schema::STEP)?;
        let shell = match fields.get("shell") {
            Some(at) => self.shell(at),
            None => shell.clone(),
        };
        let name = fields
            .get("name")
            .and_then(|at| self.literal(at, "`name`", "a text"));
        let env = match fields.get("env") {
            Some(at) => self.env(at),
            None => IndexMap::new(),
        };
        let condition = fields.get("if").and_then(|at| self.expression(at, "`if`"));
        let Some(run) = fields.get("run") else {
            if !fields.is_meant("run") {
                self.missing_key(at, "this step", "run", "a script or a list of words");
            }
            return None;
        };
        Some(Step {
            name: name.map(|n| n.value),
            command: self.command(run, shell)?,
            env,
            condition,
            span: self.span(at),
        })
    }
}

/// A recipe for a job whose own could not be read; the pipeline is refused anyway.
fn nothing(span: Span) -> Recipe {
    Recipe::Run(Command::Script(Script {
        shell: Shell::Bash,
        parts: vec![ScriptPart::Text("".into())],
        span,
    }))
}
