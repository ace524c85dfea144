//! The space of a study: distributions, and what can be known to be wrong in them before anything is evaluated.

use dagrun_model::{
    Diagnostic, DistributionKind as Kind, SpaceParameter, Span, Spanned, Value, ValueTemplate,
};
use indexmap::IndexMap;

use super::{At, Decoder, Entry, Fields, View, matrix::MAX_VALUES, printable};
use crate::schema;

/// More parameters than any sampler can make sense of.
const MAX_PARAMETERS: usize = 1000;

/// Whole numbers up to this are exact as floats, which coordinates of a point are.
const MAX_WHOLE: u64 = 1 << 53;

/// More decimal places than a float has.
const MAX_DIGITS: i64 = 15;

/// The most values that `steps` may have.
const MAX_STEPS: f64 = u32::MAX as f64;

impl<'a> Decoder<'a, '_> {
    /// `space`. A parameter that cannot be read keeps its name, with arguments that are null.
    pub(super) fn space(&mut self, at: At) -> IndexMap<String, SpaceParameter> {
        let mut space = IndexMap::new();
        let Some(mut entries) = self.entries(at, "`space`", "a map of parameters by name") else {
            return space;
        };
        if entries.is_empty() {
            let error = self.diagnostic("empty-value", at, "the space has no parameters");
            self.push(error.help("add one, such as `beta: {uniform: [0, 1]}`"));
        }
        if entries.len() > MAX_PARAMETERS {
            let words = format!(
                "the space has {} parameters and the limit is {MAX_PARAMETERS}",
                entries.len()
            );
            let error = self.diagnostic("space-too-large", at, words);
            self.push(
                error.help("sweep fixed points with `matrix`, or derive parameters from few"),
            );
            entries.truncate(MAX_PARAMETERS);
        }
        for entry in &entries {
            self.check_name("a parameter", &entry.name, entry.name_span);
            space.insert(entry.name.to_string(), self.space_parameter(entry));
        }
        space
    }

    fn space_parameter(&mut self, entry: &Entry<'a>) -> SpaceParameter {
        let span = self.span(entry.at);
        let mut parameter = SpaceParameter {
            name: Spanned::new(entry.name.to_string(), entry.name_span),
            kind: Spanned::new(Kind::Choice, span),
            arguments: null(span),
            digits: None,
            when: None,
            span,
        };
        let name = printable(&entry.name);
        let fields = match self.view(entry.at) {
            View::Map => self.fields(entry.at, &schema::SPACE_PARAMETER),
            view => {
                let help = match view {
                    View::List(_) => format!(
                        "name the distribution: `{name}: {{uniform: [low, high]}}` or `{name}: {{choice: [a, b]}}`"
                    ),
                    View::Scalar => format!(
                        "write `{name}: {{uniform: [low, high]}}`; a value that stays the same is in `params`"
                    ),
                    _ => format!("write `{name}: {{uniform: [low, high]}}`"),
                };
                let words = format!("the parameter `{name}` has no distribution");
                let error = self.diagnostic("wrong-type", entry.at, words);
                self.push(error.help(help));
                None
            }
        };
        let Some(fields) = fields else {
            return parameter;
        };
        if let Some(at) = fields.get("when") {
            parameter.when = self.expression(at, "`when`");
        }
        if let Some((kind, at)) = self.distribution(&fields, &name) {
            if let Some(arguments) = self.arguments(at, kind.value) {
                parameter.arguments = arguments;
            }
            parameter.kind = kind;
            self.digits(&fields, &mut parameter);
        }
        parameter
    }

    /// The one distribution among the keys.
    fn distribution(&mut self, fields: &Fields<'a>, name: &str) -> Option<(Spanned<Kind>, At)> {
        let mut found = None;
        for entry in &fields.entries {
            let Some(kind) = Kind::from_name(&entry.name) else {
                continue;
            };
            if found.is_some() {
                let words = format!("the parameter `{name}` has more than one distribution");
                let error = Diagnostic::error("one-of", entry.name_span, words);
                self.push(error.help("keep one of them"));
                return None;
            }
            found = Some((Spanned::new(kind, entry.name_span), entry.at));
        }
        let meant = Kind::ALL.iter().any(|kind| fields.is_meant(kind.name()));
        let known =
            |e: &Entry<'_>| matches!(&*e.name, "digits" | "when") || e.name.starts_with("x-");
        // An unknown key was reported, and most probably it is the distribution.
        if found.is_none() && !meant && fields.entries.iter().all(known) {
            let names: Vec<_> = Kind::ALL
                .iter()
                .map(|k| format!("`{}`", k.name()))
                .collect();
            let words = format!("the parameter `{name}` has no distribution");
            let error = self.diagnostic("missing-key", fields.at, words);
            self.push(error.help(format!("add one of {}", names.join(", "))));
        }
        found
    }

    fn arguments(&mut self, at: At, kind: Kind) -> Option<ValueTemplate> {
        let what = format!("`{}`", kind.name());
        let expected = format!("a list: {}", kind.arguments());
        let items = match self.view(at) {
            View::List(items) => self.items(at, items),
            View::Scalar => {
                let value = self.value_template(at);
                if is_expression(&value) {
                    return Some(value);
                }
                self.wrong_type(at, &what, &expected);
                return None;
            }
            _ => {
                self.wrong_type(at, &what, &expected);
                return None;
            }
        };
        let works = match kind {
            Kind::Choice => self.choices(at, &items),
            _ => self.numbers(at, kind, &items),
        };
        works.then(|| self.value_template(at))
    }

    fn choices(&mut self, at: At, items: &[At]) -> bool {
        if items.is_empty() || items.len() > MAX_VALUES {
            let (code, words, help) = if items.is_empty() {
                let help = "list at least one value: `choice: [a, b]`";
                ("empty-value", "`choice` has no values".to_owned(), help)
            } else {
                let words = format!(
                    "`choice` has {} values and the limit is {MAX_VALUES}",
                    items.len()
                );
                (
                    "space-too-large",
                    words,
                    "use `int` or `steps` for a range of numbers",
                )
            };
            let error = self.diagnostic(code, at, words);
            self.push(error.help(help));
            return false;
        }
        let nulls = items
            .iter()
            .filter(|item| matches!(self.view(**item), View::Null));
        let nulls: Vec<At> = nulls.copied().collect();
        for item in &nulls {
            let words = "null cannot be chosen: it stands for a parameter that is inactive";
            let error = self.diagnostic("bad-value", *item, words);
            self.push(error.help("write a text such as `none`"));
        }
        if !nulls.is_empty() {
            return false;
        }
        self.check_values(items, "`choice`");
        true
    }

    /// Reports what is wrong with the numbers of a distribution, as far as they are written out.
    fn numbers(&mut self, at: At, kind: Kind, items: &[At]) -> bool {
        let wanted = if kind == Kind::Steps { 3 } else { 2 };
        if items.len() != wanted {
            let words = format!(
                "`{}` takes {wanted} numbers, and here {} {}",
                kind.name(),
                if items.len() == 1 { "is" } else { "are" },
                items.len()
            );
            let error = self.diagnostic("arguments", at, words);
            self.push(error.help(format!("write `{}: {}`", kind.name(), form(kind))));
            return false;
        }
        let mut numbers = Vec::new();
        let mut works = true;
        for item in items {
            match self.argument(*item, kind) {
                Ok(number) => numbers.extend(number),
                Err(()) => works = false,
            }
        }
        if works
            && numbers.len() == wanted
            && let Err((words, help)) = judge(kind, &numbers)
        {
            let error = self.diagnostic("bad-distribution", at, words);
            self.push(error.help(help));
            return false;
        }
        works
    }

    /// An argument of a distribution of numbers; `None` where it is an expression.
    fn argument(&mut self, at: At, kind: Kind) -> Result<Option<f64>, ()> {
        let whole = matches!(kind, Kind::Int | Kind::LogInt);
        let expected = if whole { "a whole number" } else { "a number" };
        let what = format!("a value of `{}`", kind.name());
        if !matches!(self.view(at), View::Scalar) {
            self.wrong_type(at, &what, expected);
            return Err(());
        }
        let value = self.value_template(at);
        if is_expression(&value) {
            return Ok(None);
        }
        let number = match &value {
            ValueTemplate::Value(value) if whole => value
                .value
                .as_i64()
                .filter(|n| n.unsigned_abs() <= MAX_WHOLE)
                .map(|n| n as f64),
            ValueTemplate::Value(value) => value.value.as_f64().filter(|n| n.is_finite()),
            _ => None,
        };
        if number.is_none() {
            self.wrong_type(at, &what, expected);
        }
        number.map(Some).ok_or(())
    }

    fn digits(&mut self, fields: &Fields<'a>, parameter: &mut SpaceParameter) {
        let Some(at) = fields.get("digits") else {
            return;
        };
        let kind = parameter.kind.value;
        if matches!(kind, Kind::Int | Kind::LogInt | Kind::Choice | Kind::Steps) {
            let span = fields.key_span("digits").unwrap_or(parameter.span);
            let words = format!("`digits` rounds numbers, and `{}` needs none", kind.name());
            self.push(Diagnostic::error("bad-distribution", span, words).help("remove `digits`"));
            return;
        }
        parameter.digits = self.whole(at, "`digits`", 0, MAX_DIGITS);
        let Some(ValueTemplate::Value(digits)) = &parameter.digits else {
            return;
        };
        let scale = 10_f64.powi(digits.value.as_i64().unwrap_or(0) as i32);
        let interval = matches!(kind, Kind::Uniform | Kind::LogUniform);
        if let Some(&[low, high]) = literal_numbers(&parameter.arguments).as_deref()
            && interval
            && (low * scale).ceil() > (high * scale).floor()
        {
            let words = format!(
                "no number with {} decimal places is between {low} and {high}",
                digits.value
            );
            let error = self.diagnostic("bad-distribution", at, words);
            self.push(error.help("allow more `digits`"));
        }
    }

    /// Reports values of a point to try first that the space does not have.
    pub(super) fn check_point(&mut self, at: At, space: &IndexMap<String, SpaceParameter>) {
        for entry in self
            .entries(at, "a point of `enqueue`", "a map")
            .unwrap_or_default()
        {
            let Some(parameter) = space.get(&*entry.name) else {
                // Without any it was reported that the space cannot be read.
                if space.is_empty() {
                    continue;
                }
                let words = format!("the space has no parameter `{}`", printable(&entry.name));
                let error = Diagnostic::error("unknown-parameter", entry.name_span, words);
                let names = space.keys().map(String::as_str);
                let near = self.shared.guess(&entry.name, names);
                self.push(match near {
                    Some(near) => error
                        .help(format!("did you mean `{near}`?"))
                        .fix(entry.name_span, near),
                    None => error.help("a point gives values to parameters of `space`"),
                });
                continue;
            };
            if let ValueTemplate::Value(value) = self.value_template(entry.at)
                && let Err(words) = allowed(parameter, &value.value)
            {
                let words = format!(
                    "`{}` cannot be {}: {words}",
                    parameter.name.value,
                    printable(&value.value.to_text())
                );
                self.error("bad-value", entry.at, words);
            }
        }
    }
}

/// A value that is left to the evaluation.
pub(super) fn is_expression(value: &ValueTemplate) -> bool {
    matches!(value, ValueTemplate::Template(template) if template.as_expr().is_some())
}

pub(super) fn null(span: Span) -> ValueTemplate {
    ValueTemplate::Value(Spanned::new(Value::Null, span))
}

fn form(kind: Kind) -> &'static str {
    match kind {
        Kind::LogUniform | Kind::LogInt => "[low, high]",
        other => other.arguments(),
    }
}

fn literal_numbers(arguments: &ValueTemplate) -> Option<Vec<f64>> {
    match arguments {
        ValueTemplate::Value(list) => list.value.as_list()?.iter().map(Value::as_f64).collect(),
        _ => None,
    }
}

/// What is wrong with the numbers of a distribution, and what to do.
fn judge(kind: Kind, numbers: &[f64]) -> Result<(), (String, String)> {
    let [a, b] = [numbers[0], numbers[1]];
    match kind {
        Kind::Normal if b <= 0.0 => Err((
            format!("the standard deviation of `normal` is {b}"),
            "write `normal: [mean, standard deviation]` with a deviation above 0".into(),
        )),
        Kind::Beta if a <= 0.0 || b <= 0.0 => Err((
            "both numbers of `beta` are above 0".into(),
            "a parameter of the name beta is written `beta: {uniform: [low, high]}`".into(),
        )),
        Kind::Normal | Kind::Beta | Kind::Choice => Ok(()),
        _ if a > b => Err((
            format!(
                "the interval of `{}` is empty: {a} is above {b}",
                kind.name()
            ),
            format!(
                "write `{}: [{b}, {a}{}]`",
                kind.name(),
                match numbers.get(2) {
                    Some(step) => format!(", {step}"),
                    None => String::new(),
                }
            ),
        )),
        _ if a == b => Err((
            format!("`{}` from {a} to {b} has one value only", kind.name()),
            format!("write `choice: [{a}]`, or make it a parameter under `params`"),
        )),
        Kind::LogUniform | Kind::LogInt if a <= 0.0 => Err((
            format!(
                "`{}` begins at {a}, and a logarithm needs numbers above 0",
                kind.name()
            ),
            format!(
                "begin above 0, or write `{}`",
                if kind == Kind::LogInt {
                    "int"
                } else {
                    "uniform"
                }
            ),
        )),
        Kind::Uniform | Kind::LogUniform if !(b - a).is_finite() => Err((
            format!("the interval of `{}` is too wide", kind.name()),
            "bring the ends closer to each other".into(),
        )),
        Kind::Steps => steps(a, b, numbers[2]),
        _ => Ok(()),
    }
}

fn steps(low: f64, high: f64, step: f64) -> Result<(), (String, String)> {
    if step <= 0.0 {
        return Err((
            format!("the step is {step}"),
            "write `steps: [low, high, step]` with a step above 0".into(),
        ));
    }
    if step > high - low {
        return Err((
            format!("the step {step} is wider than the interval from {low} to {high}"),
            "write `steps: [low, high, step]`".into(),
        ));
    }
    if (high - low) / step >= MAX_STEPS {
        return Err((
            format!("from {low} to {high} in steps of {step} are more than {MAX_STEPS} values"),
            "use `uniform`, with `digits` if the values are to be short".into(),
        ));
    }
    Ok(())
}

/// Whether a literal value is one of a parameter, as far as its arguments are written out.
fn allowed(parameter: &SpaceParameter, value: &Value) -> Result<(), String> {
    let kind = parameter.kind.value;
    if matches!(value.typed(), Value::Null) && parameter.when.is_some() {
        return Ok(());
    }
    if kind == Kind::Choice {
        return match &parameter.arguments {
            ValueTemplate::Value(list) => match list.value.as_list() {
                Some(values) if !values.contains(value) => {
                    let shown: Vec<_> = values.iter().take(12).map(Value::to_text).collect();
                    let more = if values.len() > 12 { ", ..." } else { "" };
                    Err(format!(
                        "it is one of {}{more}",
                        printable(&shown.join(", "))
                    ))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        };
    }
    let whole = matches!(kind, Kind::Int | Kind::LogInt);
    let number = value.as_f64().filter(|n| n.is_finite());
    let Some(number) = number.filter(|n| !whole || n.fract() == 0.0) else {
        let wanted = if whole { "a whole number" } else { "a number" };
        return Err(format!("it is {wanted}"));
    };
    let numbers = literal_numbers(&parameter.arguments);
    let (low, high) = match (kind, numbers.as_deref()) {
        (Kind::Beta, _) => (0.0, 1.0),
        (Kind::Normal, _) => return Ok(()),
        (_, Some([low, high, ..])) => (*low, *high),
        _ => return Ok(()),
    };
    if (low..=high).contains(&number) {
        return Ok(());
    }
    Err(format!("it goes from {low} to {high}"))
}
