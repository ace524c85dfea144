//! What a job asks of its host and of the scheduler: resources, times, retries, caching, toolchain, names of variables.

use dagrun_model::{
    CachePolicy, Diagnostic, ResourceTemplate, Retry, RetryCause, Spanned, Template, Toolchain,
    Value, ValueTemplate, parse_bytes, parse_duration,
};
use indexmap::IndexMap;

use super::{At, Decoder, View, printable};
use crate::schema;

impl Decoder<'_, '_> {
    /// `resources`.
    pub(crate) fn resources(&mut self, at: At) -> ResourceTemplate {
        let mut resources = ResourceTemplate::default();
        for entry in self
            .entries(at, "`resources`", "a map of amounts")
            .unwrap_or_default()
        {
            if entry.name.starts_with("x-") {
                continue;
            }
            if !matches!(self.view(entry.at), View::Scalar) {
                self.wrong_type(
                    entry.at,
                    &format!("`{}`", printable(&entry.name)),
                    "an amount",
                );
                continue;
            }
            let value = self.value_template(entry.at);
            match &*entry.name {
                "cpus" => {
                    self.check_amount(entry.at, &value, "`cpus`");
                    resources.cpus = Some(value);
                }
                "memory" => {
                    self.check_size(entry.at, &value);
                    resources.memory = Some(value);
                }
                name => {
                    if let Some(meant) = dagrun_model::meant_resource(name) {
                        let diagnostic = Diagnostic::error(
                            "near-name",
                            entry.name_span,
                            format!(
                                "`{name}` is no name for a resource of its own: write `{meant}`"
                            ),
                        )
                        .fix(entry.name_span, meant);
                        self.push(diagnostic);
                        continue;
                    }
                    self.check_name("a resource", name, entry.name_span);
                    // `gpus` is no slip.
                    let same_start = |near: &&str| near.chars().next() == name.chars().next();
                    let near = dagrun_model::did_you_mean(name, ["cpus", "memory"]);
                    if let Some(near) = near.filter(same_start) {
                        let diagnostic = Diagnostic::warning(
                            "near-name",
                            entry.name_span,
                            format!("`{name}` is a resource of its own, not `{near}`"),
                        )
                        .help(format!("did you mean `{near}`?"))
                        .fix(entry.name_span, near);
                        self.push(diagnostic);
                    }
                    self.check_amount(entry.at, &value, &format!("`{name}`"));
                    resources.named.insert(name.to_owned(), value);
                }
            }
        }
        resources
    }

    fn check_amount(&mut self, at: At, value: &ValueTemplate, what: &str) {
        let ValueTemplate::Value(value) = value else {
            return;
        };
        if !value
            .value
            .as_f64()
            .is_some_and(|n| (0.0..=1e9).contains(&n))
        {
            self.wrong_type(at, what, "a number such as `1` or `0.5`");
        }
    }

    fn check_size(&mut self, at: At, value: &ValueTemplate) {
        let ValueTemplate::Value(value) = value else {
            return;
        };
        if let Err(words) = parse_bytes(&value.value.to_text()) {
            self.error("bad-size", at, words);
        }
    }

    /// `timeout`: a duration, checked where it is written out.
    pub(crate) fn timeout(&mut self, at: At) -> Option<Template> {
        self.duration(at, "`timeout`")
    }

    /// A duration, checked where it is written out.
    pub(super) fn duration(&mut self, at: At, what: &str) -> Option<Template> {
        let template = self.template(at, what, "a duration such as `90s`")?;
        if let Some(text) = template.as_text() {
            match parse_duration(text) {
                Err(words) => self.error("bad-duration", at, words),
                Ok(time) if time.is_zero() => {
                    self.error("bad-duration", at, format!("{what} is no time at all"))
                }
                Ok(_) => {}
            }
        }
        Some(template)
    }

    /// `threads`: a whole number, checked where it is written out.
    pub(crate) fn threads(&mut self, at: At) -> Option<Template> {
        let template = self.template(at, "`threads`", "a whole number")?;
        if template
            .as_text()
            .is_some_and(|t| !t.parse::<u32>().is_ok_and(|n| n > 0))
        {
            self.wrong_type(at, "`threads`", "a whole number from 1 up");
        }
        Some(template)
    }

    /// `retry`.
    pub(crate) fn retry(&mut self, at: At) -> Retry {
        let mut retry = Retry::default();
        if matches!(self.view(at), View::Scalar) {
            retry.max = self.count(at, "`retry`", 0).unwrap_or_default();
            return retry;
        }
        let Some(fields) = self.fields(at, &schema::RETRY) else {
            return retry;
        };
        match fields.get("max") {
            Some(at) => retry.max = self.count(at, "`max`", 0).unwrap_or_default(),
            None => self.missing_key(
                at,
                "`retry`",
                "max",
                "how many more attempts a failure may have",
            ),
        }
        if let Some(at) = fields.get("when") {
            for item in self.one_or_many(at) {
                retry.when.extend(self.retry_cause(item));
            }
        }
        if let Some(text) = fields
            .get("backoff")
            .and_then(|at| self.literal(at, "`backoff`", "a duration"))
        {
            match parse_duration(&text.value) {
                Ok(time) => retry.backoff_s = time.as_secs_f64(),
                Err(words) => self.push(Diagnostic::error("bad-duration", text.span, words)),
            }
        }
        if let Some(text) = fields
            .get("memory")
            .and_then(|at| self.literal(at, "`memory`", "a factor such as `2x`"))
        {
            let factor = text.value.trim_end_matches('x').trim().parse::<f64>();
            match factor {
                Ok(factor) if (1.0..=1000.0).contains(&factor) => retry.memory_factor = factor,
                _ => {
                    let words = format!(
                        "`{}` is not a factor by which memory can grow",
                        printable(&text.value)
                    );
                    self.push(
                        Diagnostic::error("bad-factor", text.span, words)
                            .help("write a factor from 1 up, such as `2x`"),
                    );
                }
            }
        }
        retry
    }

    fn retry_cause(&mut self, at: At) -> Option<RetryCause> {
        self.word(at, "`when`", schema::RETRY_CAUSES)
            .map(|word| match word {
                "exit" => RetryCause::Exit,
                "signal" => RetryCause::Signal,
                "oom" => RetryCause::OutOfMemory,
                "timeout" => RetryCause::Timeout,
                "output" => RetryCause::Output,
                _ => RetryCause::Exec,
            })
    }

    /// `cache`.
    pub(crate) fn cache(&mut self, at: At) -> CachePolicy {
        if matches!(self.view(at), View::Map) {
            let Some(fields) = self.fields(at, &schema::CACHE_ENV) else {
                return CachePolicy::Auto;
            };
            let names = match fields.get("env") {
                Some(at) => self.env_names(at, "`env`"),
                None => Vec::new(),
            };
            return CachePolicy::Env(names.into_iter().map(|n| n.value).collect());
        }
        if matches!(self.view(at), View::Scalar)
            && let Value::Bool(on) = self.scalar_value(at)
        {
            let word = if on { "auto" } else { "never" };
            let diagnostic = self
                .diagnostic(
                    "wrong-type",
                    at,
                    format!("`cache` must be `auto`, `never` or a map, not `{on}`"),
                )
                .help(format!("write `{word}`"))
                .fix(self.span(at), word);
            self.push(diagnostic);
            return CachePolicy::Auto;
        }
        match self.word(at, "`cache`", &["auto", "never"]) {
            Some("never") => CachePolicy::Never,
            _ => CachePolicy::Auto,
        }
    }

    /// Names of environment variables: one or a list.
    pub(crate) fn env_names(&mut self, at: At, what: &str) -> Vec<Spanned<String>> {
        let mut names = Vec::new();
        for item in self.flattened(at) {
            let Some(name) = self.literal(item, what, "a list of names of variables") else {
                continue;
            };
            if self.check_env_name(&name.value, name.span) {
                names.push(name);
            }
        }
        names
    }

    /// `env`: variables with values of any scalar.
    pub(crate) fn env(&mut self, at: At) -> IndexMap<String, Template> {
        let mut env = IndexMap::new();
        for entry in self
            .entries(at, "`env`", "a map of variables")
            .unwrap_or_default()
        {
            self.check_env_name(&entry.name, entry.name_span);
            if matches!(self.view(entry.at), View::Null) {
                let words = format!("the variable `{}` has no value", printable(&entry.name));
                let diagnostic = Diagnostic::error("empty-value", entry.name_span, words)
                    .help("write `\"\"` for an empty text");
                self.push(diagnostic);
                continue;
            }
            let what = format!("the variable `{}`", printable(&entry.name));
            let template = self.template(entry.at, &what, "a text or a number");
            let template = template.unwrap_or_else(|| Template::text("", self.span(entry.at)));
            if template.as_text().is_some_and(|text| text.contains('\0')) {
                self.error(
                    "bad-value",
                    entry.at,
                    format!("{what} has a NUL character in it"),
                );
            }
            env.insert(entry.name.into_owned(), template);
        }
        env
    }

    /// `toolchain`: commands and files.
    pub(crate) fn toolchain(&mut self, at: At) -> Vec<Toolchain> {
        let mut all = Vec::new();
        for item in self.one_or_many(at) {
            if let View::List(items) = self.view(item) {
                let words = self.items(item, items);
                let argv: Vec<String> = words
                    .into_iter()
                    .filter_map(|w| self.literal(w, "a word of a toolchain command", "a text"))
                    .map(|w| w.value)
                    .collect();
                if !argv.is_empty() {
                    all.push(Toolchain::Command(Spanned::new(argv, self.span(item))));
                }
                continue;
            }
            let Some(text) = self.literal(item, "`toolchain`", "a command or a file") else {
                continue;
            };
            all.extend(self.toolchain_text(item, text));
        }
        all
    }

    fn toolchain_text(&mut self, at: At, text: Spanned<String>) -> Option<Toolchain> {
        if !text.value.trim().contains(char::is_whitespace) {
            self.check_path(at, &text.value, "a toolchain file");
            return Some(Toolchain::File(text));
        }
        if text
            .value
            .contains(['\'', '"', '\\', '|', '&', ';', '<', '>', '$', '`'])
        {
            let diagnostic = self
                .diagnostic(
                    "shell-in-toolchain",
                    at,
                    "a toolchain command runs without a shell",
                )
                .help("write it as a list of words: `[python3, -c, \"...\"]`");
            self.push(diagnostic);
            return None;
        }
        let words = text.value.split_whitespace().map(str::to_owned).collect();
        Some(Toolchain::Command(Spanned::new(words, text.span)))
    }

    /// Reports that a key is missing in a map.
    pub(crate) fn missing_key(&mut self, at: At, what: &str, name: &str, meaning: &str) {
        let span = self.span(at);
        let first_line = self.text[span.start as usize..span.end as usize]
            .find('\n')
            .map_or(span.end, |n| span.start + n as u32);
        let diagnostic = self.diagnostic("missing-key", at, format!("{what} has no `{name}`"));
        let diagnostic = Diagnostic {
            span: dagrun_model::Span {
                end: first_line,
                ..span
            },
            ..diagnostic
        };
        self.push(diagnostic.help(format!("add `{name}:`, {meaning}")));
    }
}
