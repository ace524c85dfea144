//! The study: what proposes trials, what is sought, and when it ends. Its space is read by `space`.

use dagrun_model::{
    Diagnostic, Direction, Expr, Objective, OrderSpec, SamplerKind, SamplerSpec, Span, Spanned,
    StopSpec, Study, Value, ValueTemplate, did_you_mean,
};
use indexmap::IndexMap;

use super::{
    At, Decoder, Fields, View, printable,
    space::{is_expression, null},
};
use crate::schema;

/// Trials are counted in 32 bits.
const MAX_TRIALS: i64 = 4_000_000_000;

/// More objectives than can be weighed against each other.
const MAX_OBJECTIVES: usize = 100;

/// A study of which nothing is known but that it is there.
pub(super) fn unreadable(span: Span) -> Study {
    Study {
        space: IndexMap::new(),
        sampler: sampler_of(SamplerKind::Tpe, span),
        trials: null(span),
        in_flight: None,
        order: OrderSpec::Async,
        objectives: Vec::new(),
        constraints: Vec::new(),
        stop: StopSpec::default(),
        enqueue: Vec::new(),
        span,
    }
}

fn sampler_of(kind: SamplerKind, span: Span) -> SamplerSpec {
    SamplerSpec {
        kind: Spanned::new(kind, span),
        options: IndexMap::new(),
    }
}

impl<'a> Decoder<'a, '_> {
    /// `study`. What cannot be read is reported and left out, so that names in it stay known.
    pub(super) fn study(&mut self, at: At) -> Study {
        let span = self.span(at);
        let mut study = unreadable(span);
        let Some(fields) = self.fields(at, &schema::STUDY) else {
            return study;
        };
        match fields.get("space") {
            Some(at) => study.space = self.space(at),
            None if fields.is_meant("space") => {}
            None => self.missing_key(at, "the study", "space", "a map of the parameters by name"),
        }
        if let Some(at) = fields.get("sampler") {
            study.sampler = self.sampler(at);
        }
        self.trials(&fields, &mut study);
        study.in_flight = fields.get("in_flight").and_then(|at| self.in_flight(at));
        if let Some(at) = fields.get("order") {
            study.order = self.order(at);
        }
        self.objectives(&fields, &mut study.objectives);
        if let Some(at) = fields.get("constraints") {
            for item in self.one_or_many(at) {
                study
                    .constraints
                    .extend(self.expression(item, "a constraint"));
            }
        }
        if let Some(at) = fields.get("stop") {
            study.stop = self.stop(at, study.objectives.len());
        }
        if let Some(at) = fields.get("enqueue") {
            study.enqueue = self.enqueue(at, &study);
        }
        study
    }

    fn trials(&mut self, fields: &Fields<'a>, study: &mut Study) {
        match fields.get("trials") {
            Some(at) => {
                if let Some(trials) = self.whole(at, "`trials`", 1, MAX_TRIALS) {
                    study.trials = trials;
                }
            }
            None if fields.is_meant("trials") => {}
            None if study.sampler.kind.value == SamplerKind::Grid => {}
            None => {
                let meaning = "how many trials there are, such as `trials: 100`";
                self.missing_key(fields.at, "the study", "trials", meaning);
            }
        }
    }

    fn in_flight(&mut self, at: At) -> Option<ValueTemplate> {
        if matches!(self.view(at), View::Scalar) && self.tree.text(at.id, self.text) == "auto" {
            return None;
        }
        let value = self.value_template(at);
        if let ValueTemplate::Value(word) = &value
            && word.value.as_i64().is_none()
        {
            self.wrong_type(at, "`in_flight`", "`auto` or a whole number from 1 up");
            return None;
        }
        self.whole(at, "`in_flight`", 1, MAX_TRIALS)
    }

    /// `sampler`: a word, or a map of one sampler to its options.
    fn sampler(&mut self, at: At) -> SamplerSpec {
        let fallback = sampler_of(SamplerKind::Tpe, self.span(at));
        if !matches!(self.view(at), View::Map) {
            return self.sampler_word(at).unwrap_or(fallback);
        }
        let Some(fields) = self.fields(at, &schema::SAMPLER) else {
            return fallback;
        };
        let mut found: Option<SamplerSpec> = None;
        for entry in &fields.entries {
            let Some(kind) = SamplerKind::from_name(&entry.name) else {
                continue;
            };
            if found.is_some() {
                let words = "a study has one sampler";
                let error = Diagnostic::error("one-of", entry.name_span, words);
                self.push(error.help("keep one of them"));
                break;
            }
            let options = self.sampler_options(entry.at, kind);
            let kind = Spanned::new(kind, entry.name_span);
            found = Some(SamplerSpec { kind, options });
        }
        if found.is_none() && fields.entries.iter().all(|e| e.name.starts_with("x-")) {
            let error = self.diagnostic("missing-key", at, "`sampler` names no sampler");
            self.push(
                error.help("write a word such as `tpe`, or a map such as `{tpe: {seed: 7}}`"),
            );
        }
        found.unwrap_or(fallback)
    }

    fn sampler_word(&mut self, at: At) -> Option<SamplerSpec> {
        let words: Vec<&str> = SamplerKind::ALL.iter().map(|k| k.name()).collect();
        let text = self.text(at, "`sampler`", "the name of a sampler, or a map of one")?;
        let name = match class_of_optuna(&text) {
            Some(help) => {
                let words = format!("`sampler` cannot be `{}`", printable(&text));
                let error = self.diagnostic("unknown-word", at, words);
                self.push(error.help(help));
                return None;
            }
            None => self.word(at, "`sampler`", &words)?,
        };
        let kind = SamplerKind::from_name(name)?;
        if kind == SamplerKind::Exec {
            let error = self.diagnostic("missing-key", at, "`exec` has no command");
            self.push(error.help("write `sampler: {exec: [python3, sampler.py]}`"));
        }
        Some(sampler_of(kind, self.span(at)))
    }

    fn sampler_options(&mut self, at: At, kind: SamplerKind) -> IndexMap<String, ValueTemplate> {
        let mut options = IndexMap::new();
        let table = schema::sampler_options(kind);
        if kind == SamplerKind::Exec && !matches!(self.view(at), View::Map) {
            if let Some(command) = self.sampler_command(at) {
                options.insert("command".into(), command);
            }
            return options;
        }
        if matches!(self.view(at), View::Null) {
            let words = format!("the sampler `{}` has no options here", kind.name());
            let error = self.diagnostic("empty-value", at, words);
            self.push(error.help(format!("write `sampler: {}`", kind.name())));
            return options;
        }
        let Some(fields) = self.fields(at, table) else {
            return options;
        };
        for name in table.names() {
            if let Some(at) = fields.get(name)
                && let Some(value) = self.sampler_option(at, name)
            {
                options.insert(name.into(), value);
            }
        }
        options
    }

    fn sampler_option(&mut self, at: At, name: &str) -> Option<ValueTemplate> {
        let what = format!("`{name}`");
        match name {
            "command" => self.sampler_command(at),
            "seed" => self.whole(at, &what, 0, i64::MAX),
            "startup" => self.whole(at, &what, 0, MAX_TRIALS),
            "levels" if matches!(self.view(at), View::Map) => self.levels(at),
            "candidates" | "levels" => self.whole(at, &what, 1, 1_000_000),
            "population" => self.whole(at, &what, 2, 1_000_000),
            "sigma" => self.number_above_0(at, &what),
            "options" => match self.view(at) {
                View::Map => Some(self.value_template(at)),
                _ => {
                    self.wrong_type(at, &what, "a map of keyword arguments");
                    None
                }
            },
            _ => {
                let text = self.template(at, &what, "a text")?;
                Some(match text.as_text() {
                    Some(text) => {
                        ValueTemplate::Value(Spanned::new(Value::str(text), self.span(at)))
                    }
                    None => ValueTemplate::Template(text),
                })
            }
        }
    }

    /// `levels` by parameter.
    fn levels(&mut self, at: At) -> Option<ValueTemplate> {
        let mut works = true;
        for entry in self.entries(at, "`levels`", "a map")? {
            let what = format!("`levels` of `{}`", printable(&entry.name));
            works &= self.whole(entry.at, &what, 1, 1_000_000).is_some();
        }
        works.then(|| self.value_template(at))
    }

    /// The command of `exec`, with at least the program.
    fn sampler_command(&mut self, at: At) -> Option<ValueTemplate> {
        let items = self.list(at, "`exec`", "a list: `[program, argument, ...]`")?;
        if items.is_empty() {
            let error = self.diagnostic("empty-value", at, "`exec` names no program");
            self.push(error.help("write `exec: [python3, sampler.py]`"));
            return None;
        }
        for item in items {
            if !matches!(self.view(item), View::Scalar) {
                self.wrong_type(item, "a word of `exec`", "a text");
                return None;
            }
        }
        Some(self.value_template(at))
    }

    fn order(&mut self, at: At) -> OrderSpec {
        if !matches!(self.view(at), View::Map) {
            let text = self.text(at, "`order`", "`async`, `{batched: N}` or `{lag: L}`");
            match text.as_deref() {
                None | Some("async") => {}
                Some(word @ ("batched" | "lag")) => {
                    let words = format!("`{word}` has no number");
                    let error = self.diagnostic("missing-key", at, words);
                    self.push(error.help(format!("write `order: {{{word}: 16}}`")));
                }
                Some(_) => {
                    self.word(at, "`order`", &["async", "batched", "lag"]);
                }
            }
            return OrderSpec::Async;
        }
        let Some(fields) = self.fields(at, &schema::ORDER) else {
            return OrderSpec::Async;
        };
        match (fields.get("batched"), fields.get("lag")) {
            (Some(_), Some(_)) => {
                let words = "`order` is `batched` or `lag`, not both";
                let error = self.diagnostic("one-of", at, words);
                self.push(error.help("keep one of them"));
            }
            (Some(at), None) => {
                if let Some(n) = self.whole(at, "`batched`", 1, MAX_TRIALS) {
                    return OrderSpec::Batched(n);
                }
            }
            (None, Some(at)) => {
                if let Some(n) = self.whole(at, "`lag`", 1, MAX_TRIALS) {
                    return OrderSpec::Lag(n);
                }
            }
            (None, None) if fields.entries.iter().all(|e| e.name.starts_with("x-")) => {
                let error = self.diagnostic("missing-key", at, "`order` says nothing");
                self.push(error.help("write `async`, `{batched: 16}` or `{lag: 16}`"));
            }
            (None, None) => {}
        }
        OrderSpec::Async
    }

    fn objectives(&mut self, fields: &Fields<'a>, out: &mut Vec<Objective>) {
        let both = [
            ("minimize", Direction::Minimize),
            ("maximize", Direction::Maximize),
        ];
        let mut seen: IndexMap<String, Span> = IndexMap::new();
        for (key, direction) in both {
            let Some(at) = fields.get(key) else {
                continue;
            };
            for (name, span, value) in self.named_expressions(at, key, direction) {
                if let Some(other) = seen.insert(name.clone(), span) {
                    let words = format!("two objectives have the name `{name}`");
                    let error = Diagnostic::error("duplicate-name", span, words);
                    self.push(
                        error
                            .related(other, "the other one")
                            .help("rename one of them"),
                    );
                    continue;
                }
                out.push(Objective {
                    name,
                    direction,
                    value,
                    span,
                });
            }
        }
        if out.len() > MAX_OBJECTIVES {
            let words = format!(
                "the study has {} objectives and the limit is {MAX_OBJECTIVES}",
                out.len()
            );
            let error = Diagnostic::error("too-many-objectives", out[MAX_OBJECTIVES].span, words);
            self.push(error.help("make one number of several, such as a sum"));
            out.truncate(MAX_OBJECTIVES);
        }
        let written = |key: &str| fields.get(key).is_some() || fields.is_meant(key);
        let foreign = [
            "direction",
            "directions",
            "objective",
            "objectives",
            "metric",
            "metrics",
        ];
        if !written("minimize")
            && !written("maximize")
            && !foreign.iter().any(|k| fields.written(k))
        {
            let words = "the study has neither `minimize` nor `maximize`";
            let error = self.diagnostic("missing-key", fields.at, words);
            self.push(
                error.help("add what is sought, such as `minimize: ${{ jobs.JOB.outputs.loss }}`"),
            );
        }
    }

    /// One expression, a list of them, or a map of names; each with its name and place.
    fn named_expressions(
        &mut self,
        at: At,
        key: &str,
        direction: Direction,
    ) -> Vec<(String, Span, Expr)> {
        let what = format!("`{key}`");
        let stem = match direction {
            Direction::Minimize => "loss",
            Direction::Maximize => "score",
        };
        let items: Vec<(String, Span, At)> = match self.view(at) {
            View::Map => {
                let entries = self.entries(at, &what, "a map").unwrap_or_default();
                for entry in &entries {
                    self.check_name("an objective", &entry.name, entry.name_span);
                }
                let entries = entries.into_iter();
                entries
                    .map(|e| (e.name.into_owned(), e.name_span, e.at))
                    .collect()
            }
            View::List(items) => {
                let items = self.items(at, items);
                let name = |n: usize| match items.len() {
                    1 => stem.to_owned(),
                    _ => format!("{stem}_{}", n + 1),
                };
                let items = items.iter().enumerate();
                items
                    .map(|(n, item)| (name(n), self.span(*item), *item))
                    .collect()
            }
            _ => vec![(stem.to_owned(), self.span(at), at)],
        };
        if items.is_empty() {
            let error = self.diagnostic("empty-value", at, format!("{what} has no expression"));
            self.push(error.help("write `${{ jobs.JOB.outputs.loss }}`"));
        }
        let mut all = Vec::new();
        for (name, span, at) in items {
            if let Some(value) = self.expression(at, &what) {
                all.push((name, span, value));
            }
        }
        all
    }

    fn stop(&mut self, at: At, objectives: usize) -> StopSpec {
        let mut stop = StopSpec::default();
        let Some(fields) = self.fields(at, &schema::STOP) else {
            return stop;
        };
        stop.wall = fields
            .get("wall")
            .and_then(|at| self.duration(at, "`wall`"));
        stop.no_gain = fields
            .get("no_gain")
            .and_then(|at| self.whole(at, "`no_gain`", 1, MAX_TRIALS));
        stop.failures = fields
            .get("failures")
            .and_then(|at| self.whole(at, "`failures`", 1, MAX_TRIALS));
        stop.target = fields
            .get("target")
            .and_then(|at| self.real(at, "`target`"));
        for key in ["no_gain", "target"] {
            let Some(span) = fields.key_span(key).filter(|_| objectives > 1) else {
                continue;
            };
            let words = format!("`{key}` is for a study with one objective");
            let error = Diagnostic::error("several-objectives", span, words);
            self.push(error.help(
                "remove it; `wall` and `failures` end any study, and `constraints` puts limits on values",
            ));
        }
        stop
    }

    fn enqueue(&mut self, at: At, study: &Study) -> Vec<ValueTemplate> {
        let expected = "a list of points such as `[{beta: 0.2}]`";
        let mut points = Vec::new();
        for item in self.list(at, "`enqueue`", expected).unwrap_or_default() {
            match self.view(item) {
                View::Map => {
                    self.check_point(item, &study.space);
                    points.push(self.value_template(item));
                }
                View::Scalar => match self.value_template(item) {
                    value if is_expression(&value) => points.push(value),
                    _ => {
                        self.wrong_type(item, "a point of `enqueue`", "a map such as `{beta: 0.2}`")
                    }
                },
                _ => self.wrong_type(item, "a point of `enqueue`", "a map such as `{beta: 0.2}`"),
            }
        }
        if let ValueTemplate::Value(trials) = &study.trials
            && let Some(trials) = trials.value.as_i64()
            && points.len() as i64 > trials
        {
            let words = format!(
                "{} points are to be tried first, and the study has {trials} trials",
                points.len()
            );
            let error = self.diagnostic("bad-value", at, words);
            self.push(error.help("raise `trials`, or leave points out"));
        }
        points
    }

    /// A whole number of a range, or an expression.
    pub(super) fn whole(
        &mut self,
        at: At,
        what: &str,
        least: i64,
        most: i64,
    ) -> Option<ValueTemplate> {
        let expected = match most {
            i64::MAX => format!("a whole number from {least} up"),
            _ => format!("a whole number from {least} to {most}"),
        };
        let fits = |v: &Value| v.as_i64().is_some_and(|n| (least..=most).contains(&n));
        self.checked(at, what, &expected, fits)
    }

    fn number_above_0(&mut self, at: At, what: &str) -> Option<ValueTemplate> {
        let fits = |v: &Value| v.as_f64().is_some_and(|n| n > 0.0 && n.is_finite());
        self.checked(at, what, "a number above 0", fits)
    }

    fn real(&mut self, at: At, what: &str) -> Option<ValueTemplate> {
        let fits = |v: &Value| v.as_f64().is_some_and(f64::is_finite);
        self.checked(at, what, "a number", fits)
    }

    /// A literal that fits, or an expression.
    fn checked(
        &mut self,
        at: At,
        what: &str,
        expected: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Option<ValueTemplate> {
        if matches!(self.view(at), View::Scalar) {
            let value = self.value_template(at);
            let works = match &value {
                ValueTemplate::Value(value) => fits(&value.value),
                other => is_expression(other),
            };
            if works {
                return Some(value);
            }
        }
        self.wrong_type(at, what, expected);
        None
    }
}

/// What to write for a class of Optuna.
fn class_of_optuna(text: &str) -> Option<String> {
    let stem = text.strip_suffix("Sampler")?;
    let own = match stem {
        "TPE" => Some("tpe"),
        "CmaEs" => Some("cmaes"),
        "Random" => Some("random"),
        "Grid" => Some("grid"),
        "QMC" => Some("sobol"),
        _ => did_you_mean(
            &stem.to_lowercase(),
            SamplerKind::ALL.iter().map(|kind| kind.name()),
        ),
    };
    let class = printable(text);
    Some(match own {
        Some(own) => {
            format!("write `{own}`, or `{{optuna: {{sampler: {class}}}}}` for that of Optuna")
        }
        None => format!("write `{{optuna: {{sampler: {class}}}}}`"),
    })
}
