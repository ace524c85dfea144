//! Axes of jobs: `matrix`, `for_each` and `replicates`.

use dagrun_model::{
    Diagnostic, ExprKind, Grow, Matrix, Replicates, Seeds, Spanned, Value, ValueTemplate,
};

use super::{At, Decoder, Entry, View, printable};
use crate::{schema, template::parse_expression};

/// The most points that the lists of one job may make together.
const MAX_POINTS: u64 = 1_000_000;

/// The most values that a list of one axis may have.
pub(super) const MAX_VALUES: usize = 100_000;

/// Axes that are there by themselves.
const OWN_AXES: &[&str] = &["replicate", "trial", "study"];

impl<'a> Decoder<'a, '_> {
    /// `matrix`.
    pub(crate) fn matrix(&mut self, at: At) -> Matrix {
        let mut matrix = Matrix {
            span: self.span(at),
            ..Matrix::default()
        };
        if matches!(self.view(at), View::Scalar) {
            let diagnostic = self
                .diagnostic("wrong-type", at, "`matrix` must be a map of axes")
                .help("write the names of the axes: `matrix: {size: \"${{ ... }}\"}`");
            self.push(diagnostic);
            return matrix;
        }
        let mut points = 1_u64;
        for entry in self
            .entries(at, "`matrix`", "a map of axes")
            .unwrap_or_default()
        {
            match &*entry.name {
                "include" => matrix.include = self.points(entry.at, "`include`"),
                "exclude" => matrix.exclude = self.points(entry.at, "`exclude`"),
                _ => {
                    let values = self.axis(&entry);
                    points = points.saturating_mul(literal_len(&values));
                    matrix.axes.insert(entry.name.to_string(), values);
                }
            }
        }
        if points > MAX_POINTS {
            let diagnostic = self
                .diagnostic(
                    "matrix-too-large",
                    at,
                    format!("this matrix has {points} points and the limit is {MAX_POINTS}"),
                )
                .help("split the job, or sample the space with a list under `include`");
            self.push(diagnostic);
        }
        matrix
    }

    fn axis(&mut self, entry: &Entry<'a>) -> ValueTemplate {
        self.check_name("an axis", &entry.name, entry.name_span);
        if OWN_AXES.contains(&&*entry.name) {
            let words = format!(
                "`{}` is an axis of its own and cannot be in a matrix",
                entry.name
            );
            let help = match &*entry.name {
                "replicate" => "write `replicates: N`",
                "trial" => {
                    "declare a parameter under `space` of `study`, and use `trial.NAME` in the job"
                }
                _ => "use another name",
            };
            self.push(Diagnostic::error("reserved-name", entry.name_span, words).help(help));
        }
        let what = format!("the axis `{}`", printable(&entry.name));
        if let View::List(items) = self.view(entry.at)
            && items.len() > MAX_VALUES
        {
            let words = format!(
                "{what} has {} values and the limit is {MAX_VALUES}",
                items.len()
            );
            let diagnostic = self
                .diagnostic("matrix-too-large", entry.at, words)
                .help("write them as an expression such as `${{ range(1, 1000) }}`");
            self.push(diagnostic);
            return ValueTemplate::Value(Spanned::new(Value::list([]), self.span(entry.at)));
        }
        let values = self.value_template(entry.at);
        match self.view(entry.at) {
            View::List(items) => {
                let items = self.items(entry.at, items);
                if items.is_empty() {
                    let words = format!("{what} has no values, so the job would have no nodes");
                    let diagnostic = self
                        .diagnostic("empty-axis", entry.at, words)
                        .help("list at least one value, or remove the axis");
                    self.push(diagnostic);
                }
                self.check_values(&items, &what);
            }
            View::Scalar => self.check_axis_expression(entry.at, &values, &what),
            _ => self.wrong_type(
                entry.at,
                &what,
                "a list of values, or an expression that gives one",
            ),
        }
        values
    }

    fn check_axis_expression(&mut self, at: At, value: &ValueTemplate, what: &str) {
        match value {
            ValueTemplate::Template(template) if template.as_expr().is_some() => {}
            ValueTemplate::Template(_) => {
                let diagnostic = self
                    .diagnostic(
                        "wrong-type",
                        at,
                        format!("{what} has text beside its expression, so it is no list"),
                    )
                    .help("write the expression alone, or a list of templates");
                self.push(diagnostic);
            }
            _ => {
                let text = self.tree.text(at.id, self.text).into_owned();
                let instead = match self.is_call(at) {
                    true => format!("\"${{{{ {} }}}}\"", printable(text.trim())),
                    false => format!("[{}]", printable(&text)),
                };
                let diagnostic = self
                    .diagnostic(
                        "wrong-type",
                        at,
                        format!("{what} must be a list, not one value"),
                    )
                    .help(format!("write `{instead}`"));
                self.push(diagnostic);
            }
        }
    }

    /// Whether a text calls a function that there is, as one who forgets the brackets writes it.
    fn is_call(&self, at: At) -> bool {
        let mut errors = Vec::new();
        let expr = parse_expression(&self.source_text(at), &mut errors);
        errors.is_empty() && expr.is_some_and(|expr| matches!(expr.kind, ExprKind::Call(..)))
    }

    /// Checks that values written out differ and that names of objects are texts.
    pub(super) fn check_values(&mut self, items: &[At], what: &str) {
        let mut seen: rustc_hash::FxHashMap<String, Vec<(Value, At)>> =
            rustc_hash::FxHashMap::default();
        for at in items {
            if let View::Map = self.view(*at) {
                let entries = self.entries(*at, what, "a map").unwrap_or_default();
                let name = entries.iter().find(|e| e.name == "name").map(|e| e.at);
                if let Some(name) = name.filter(|name| !matches!(self.view(*name), View::Scalar)) {
                    self.wrong_type(name, "the `name` of a value, which labels it,", "a text");
                }
            }
            if matches!(self.view(*at), View::Null) {
                self.wrong_type(*at, &format!("a value of {what}"), "a value");
            }
            self.check_distinct(*at, what, &mut seen);
        }
    }

    fn check_distinct(
        &mut self,
        at: At,
        what: &str,
        seen: &mut rustc_hash::FxHashMap<String, Vec<(Value, At)>>,
    ) {
        if !matches!(self.view(at), View::Scalar) {
            return;
        }
        let value = self.scalar_value(at);
        // Equal numbers of different spelling meet under one key.
        let key = value
            .as_f64()
            .map_or_else(|| value.to_text(), |n| n.to_string());
        let others = seen.entry(key).or_default();
        let equal = others
            .iter()
            .find(|(other, _)| *other == value)
            .map(|(_, at)| *at);
        others.push((value.clone(), at));
        if let Some(other) = equal {
            let other = self.span(other);
            let diagnostic = self
                .diagnostic(
                    "equal-values",
                    at,
                    format!(
                        "{what} has the value `{}` twice",
                        printable(&value.to_text())
                    ),
                )
                .related(other, "first here")
                .help("remove one of them");
            self.push(diagnostic);
        }
    }

    fn points(&mut self, at: At, what: &str) -> Vec<ValueTemplate> {
        let mut points = Vec::new();
        for item in self
            .list(at, what, "a list of points such as `[{size: 1}]`")
            .unwrap_or_default()
        {
            match self.view(item) {
                View::Map => points.push(self.value_template(item)),
                _ => self.wrong_type(
                    item,
                    &format!("a point of {what}"),
                    "a map such as `{size: 1}`",
                ),
            }
        }
        points
    }

    /// `for_each`: one axis or a list.
    pub(crate) fn for_each(&mut self, at: At) -> Vec<Spanned<String>> {
        let mut axes: Vec<Spanned<String>> = Vec::new();
        for item in self.flattened(at) {
            let Some(axis) =
                self.literal(item, "`for_each`", "the name of an axis, or a list of them")
            else {
                continue;
            };
            if axes.iter().any(|a| a.value == axis.value) {
                self.error(
                    "duplicate-name",
                    item,
                    format!("the axis `{}` stands twice in `for_each`", axis.value),
                );
            } else if self.check_name("an axis", &axis.value, axis.span) {
                axes.push(axis);
            }
        }
        axes
    }

    /// `replicates`: a number, or the long form.
    pub(crate) fn replicates(&mut self, at: At) -> Option<Replicates> {
        let span = self.span(at);
        let zero = ValueTemplate::Value(Spanned::new(Value::Int(0), span));
        if !matches!(self.view(at), View::Map) {
            let n = self.replicate_count(at, "`replicates`")?;
            return Some(Replicates {
                grow: None,
                n,
                seeds: Seeds::Common { base: zero },
                min: None,
                span,
            });
        }
        let fields = self.fields(at, &schema::REPLICATES)?;
        let n = match fields.get("n") {
            Some(at) => self.replicate_count(at, "`n`"),
            None => {
                self.missing_key(at, "`replicates`", "n", "how many");
                None
            }
        };
        let min = fields
            .get("min")
            .and_then(|at| self.replicate_count(at, "`min`"));
        let seeds = match fields.get("seeds") {
            Some(at) => self.seeds(at, zero),
            None => Seeds::Common { base: zero },
        };
        let grow = fields.get("grow").and_then(|at| self.grow(at, n.as_ref()));
        Some(Replicates {
            grow,
            n: n?,
            seeds,
            min,
            span,
        })
    }

    fn grow(&mut self, at: At, n: Option<&ValueTemplate>) -> Option<Grow> {
        let fields = self.fields(at, &schema::GROW)?;
        let to = match fields.get("to") {
            Some(at) => self.replicate_count(at, "`to`"),
            None if fields.is_meant("to") => None,
            None => {
                self.missing_key(at, "`grow`", "to", "how many replicates there are then");
                None
            }
        };
        let when = match fields.get("when") {
            Some(at) => self.expression(at, "`when`"),
            None if fields.is_meant("when") => None,
            None => {
                let meaning = "such as `study.best == null || study.value < 2 * study.best.value`";
                self.missing_key(at, "`grow`", "when", meaning);
                None
            }
        };
        let literal = |value: Option<&ValueTemplate>| match value {
            Some(ValueTemplate::Value(value)) => value.value.as_i64(),
            _ => None,
        };
        if let (Some(n), Some(more)) = (literal(n), literal(to.as_ref()))
            && more <= n
        {
            let at = fields.get("to").unwrap_or(at);
            let words = format!("`to` is {more}, and there are {n} replicates already");
            let error = self.diagnostic("bad-grow", at, words);
            self.push(error.help(format!("write a number above {n}")));
        }
        let span = self.span(at);
        Some(Grow {
            to: to?,
            when: when?,
            span,
        })
    }

    fn replicate_count(&mut self, at: At, what: &str) -> Option<ValueTemplate> {
        let value = self.number_or_expression(at, what, "a whole number or an expression")?;
        if let ValueTemplate::Value(number) = &value
            && !number
                .value
                .as_i64()
                .is_some_and(|n| (1..=MAX_POINTS as i64).contains(&n))
        {
            self.wrong_type(at, what, &format!("a whole number from 1 to {MAX_POINTS}"));
            return None;
        }
        Some(value)
    }

    fn number_or_expression(
        &mut self,
        at: At,
        what: &str,
        expected: &str,
    ) -> Option<ValueTemplate> {
        if !matches!(self.view(at), View::Scalar) {
            self.wrong_type(at, what, expected);
            return None;
        }
        Some(self.value_template(at))
    }

    fn seeds(&mut self, at: At, zero: ValueTemplate) -> Seeds {
        let Some(fields) = self.fields(at, &schema::SEEDS) else {
            return Seeds::Common { base: zero };
        };
        let base = fields.get("base").and_then(|at| {
            let base =
                self.number_or_expression(at, "`base`", "a whole number or an expression")?;
            if let ValueTemplate::Value(number) = &base
                && number.value.as_i64().is_none()
            {
                self.wrong_type(at, "`base`", "a whole number");
                return None;
            }
            Some(base)
        });
        let base = base.unwrap_or(zero);
        let policy = fields
            .get("policy")
            .and_then(|at| self.word(at, "`policy`", schema::SEED_POLICIES));
        let values = fields.get("values");
        match (policy, values) {
            (Some("list"), Some(at)) => Seeds::List {
                values: self.seed_values(at),
            },
            (Some("list"), None) => {
                self.missing_key(fields.at, "`seeds`", "values", "the list of seeds");
                Seeds::Common { base }
            }
            (_, Some(_)) => {
                let span = fields.key_span("values").unwrap_or_else(|| self.span(at));
                let words = "`values` belongs to the policy `list`";
                self.push(Diagnostic::error("bad-seeds", span, words).help("add `policy: list`"));
                Seeds::Common { base }
            }
            (Some("per_trial"), None) => Seeds::PerTrial { base },
            _ => Seeds::Common { base },
        }
    }

    fn seed_values(&mut self, at: At) -> ValueTemplate {
        if let View::List(items) = self.view(at) {
            for item in self.items(at, items) {
                let seed = self.value_template(item);
                if let ValueTemplate::Value(seed) = &seed
                    && !seed
                        .value
                        .as_i64()
                        .is_some_and(|n| (0..1 << 31).contains(&n))
                {
                    self.wrong_type(item, "a seed", "a whole number from 0 to 2147483647");
                }
            }
        }
        self.value_template(at)
    }
}

/// How many values a list that is written out has; 1 where it cannot be known yet.
fn literal_len(values: &ValueTemplate) -> u64 {
    match values {
        ValueTemplate::List(items, _) => items.len() as u64,
        ValueTemplate::Value(value) => value.value.as_list().map_or(1, |l| l.len() as u64),
        _ => 1,
    }
}
