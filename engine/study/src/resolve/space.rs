//! The parameters of a space.

use std::sync::Arc;

use dagrun_expr::{Context, ReferenceKind, references};
use dagrun_model::{
    Diagnostic, DistributionKind, Expr, SpaceParameter, Study, Value, ValueTemplate,
};

use super::{Resolver, without_params};
use crate::{Distribution, Parameter, Space, space::step_value};

const CODE: &str = "study-space";

/// Beyond this not every whole number is a float.
const WHOLE: f64 = 9_007_199_254_740_992.0;
/// Shapes of beta distributions: beyond these the quantile loses its digits, and the distribution is next to one value or two.
const SHAPES: std::ops::RangeInclusive<f64> = 1e-3..=1e6;

impl Space {
    /// The space of a study, with `params` from `ctx`.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn resolve(study: &Study, ctx: &dyn Context) -> Result<Self, Vec<Diagnostic>> {
        let mut resolver = Resolver::new(ctx);
        let space = resolver.space(study);
        resolver.finish(Some(space))
    }
}

impl Resolver<'_> {
    /// The parameters that could be resolved.
    pub(super) fn space(&mut self, study: &Study) -> Space {
        let mut space = Space::default();
        if study.space.is_empty() {
            self.error(
                CODE,
                study.span,
                "the space of the study is empty",
                "name a parameter, such as `beta: {uniform: [0, 1]}`",
            );
        }
        let mut conditions = Vec::new();
        for written in study.space.values() {
            let when = written
                .when
                .as_ref()
                .and_then(|when| self.condition(written, when, study));
            if let Some(parameter) = self.parameter(written, when) {
                conditions.push(written.when.as_ref());
                space.parameters.push(parameter);
            }
        }
        self.try_conditions(&space, &conditions, study);
        space
    }

    fn parameter(&mut self, written: &SpaceParameter, when: Option<Expr>) -> Option<Parameter> {
        let distribution = self.distribution(written);
        let digits = match &written.digits {
            Some(template) => Some(self.digits(written, template)?),
            None => None,
        };
        let parameter = Parameter {
            name: written.name.value.as_str().into(),
            distribution: distribution?,
            digits,
            when,
        };
        let (low, high) = parameter.bounds();
        let clean = parameter.clean(low.max(-1e300));
        let unit = 10_f64.powi(-i32::from(digits.unwrap_or(0)));
        let rounds = low.is_finite() && digits.is_some();
        if rounds && ((clean / unit).round() * unit - clean).abs() > unit * 1e-6 {
            self.error(
                CODE,
                written.span,
                format!(
                    "`{}` has no value with {} decimal places from {low} to {high}",
                    parameter.name,
                    digits.unwrap_or(0)
                ),
                "write more `digits`, or wider bounds",
            );
        }
        Some(parameter)
    }

    fn digits(&mut self, written: &SpaceParameter, template: &ValueTemplate) -> Option<u8> {
        use DistributionKind as Kind;
        let kind = written.kind.value;
        if !matches!(
            kind,
            Kind::Uniform | Kind::LogUniform | Kind::Normal | Kind::Beta
        ) {
            self.error(
                CODE,
                template.span(),
                format!("`digits` rounds numbers, and `{}` needs none", kind.name()),
                "leave `digits` out",
            );
            return None;
        }
        let digits = self.count(CODE, "digits", template, 0, 15)?;
        u8::try_from(digits).ok()
    }

    fn distribution(&mut self, written: &SpaceParameter) -> Option<Distribution> {
        let value = self.value(&written.arguments)?;
        let kind = written.kind.value;
        let found = match (&value, kind) {
            (Value::List(choices), DistributionKind::Choice) => choice(choices),
            (Value::List(items), _) => numbers(items).and_then(|it| numeric(kind, &it, items)),
            _ => Err(format!("it is {}", article(&value))),
        };
        found
            .map_err(|wrong| {
                self.error(
                    CODE,
                    written.arguments.span(),
                    format!("`{}` is no `{}`: {wrong}", written.name.value, kind.name()),
                    format!("write `{}: {}`", kind.name(), kind.arguments()),
                );
            })
            .ok()
    }

    /// A condition that needs nothing but parameters above it.
    fn condition(&mut self, written: &SpaceParameter, when: &Expr, study: &Study) -> Option<Expr> {
        let name = written.name.value.as_str();
        let position = |name: &str| study.space.keys().position(|key| key == name);
        let mine = position(name);
        let mut wrong = false;
        for reference in references(when) {
            let fault = match reference.kind {
                ReferenceKind::Param(Some(_)) => None,
                ReferenceKind::Trial(Some(other)) => match position(other) {
                    None => Some(format!("`{other}` is not a parameter of the space")),
                    at if at < mine => None,
                    _ => Some(format!("`{other}` does not stand above `{name}`")),
                },
                _ => Some(format!("the condition of `{name}` is not about parameters")),
            };
            if let Some(fault) = fault {
                wrong = true;
                self.error(
                    CODE,
                    reference.span,
                    fault,
                    "a condition can use `params.NAME`, and `trial.NAME` of parameters above it",
                );
            }
        }
        if wrong {
            return None;
        }
        without_params(when, self.ctx)
            .map_err(|error| self.out.push(error.to_diagnostic(when.span)))
            .ok()
    }

    /// Evaluates every condition at a few points: one that cannot be evaluated would silently hide its parameter.
    fn try_conditions(&mut self, space: &Space, written: &[Option<&Expr>], study: &Study) {
        if !self.out.is_empty() {
            return;
        }
        for (at, when) in written.iter().enumerate() {
            let fault = [0.0, 0.5, 1.0].into_iter().find_map(|u| {
                let quantiles = space.parameters.iter().map(|it| it.from_unit(u));
                let mut point: Vec<f64> = quantiles.collect();
                space.clean(&mut point);
                space.condition(at, &point)?.err()
            });
            if let Some(error) = fault {
                let span = when.map_or(study.span, |it| it.span);
                self.out.push(error.to_diagnostic(span));
            }
        }
    }
}

fn article(value: &Value) -> String {
    match value.type_name() {
        "integer" => "an integer".to_owned(),
        "null" => "null".to_owned(),
        name => format!("a {name}"),
    }
}

fn choice(choices: &Arc<[Value]>) -> Result<Distribution, String> {
    if choices.is_empty() {
        return Err("there is nothing to choose from".to_owned());
    }
    for (at, value) in choices.iter().enumerate() {
        if matches!(value.typed(), Value::Null) {
            return Err("null marks a parameter that is not active".to_owned());
        }
        if choices[..at].contains(value) {
            return Err(format!("{} stands in it twice", value.to_text()));
        }
    }
    Ok(Distribution::Choice(choices.clone()))
}

fn numbers(items: &[Value]) -> Result<Vec<f64>, String> {
    let number = |item: &Value| {
        let x = item.as_f64().filter(|x| x.is_finite());
        x.ok_or_else(|| format!("{} is not a finite number", item.to_text()))
    };
    items.iter().map(number).collect()
}

fn numeric(
    kind: DistributionKind,
    numbers: &[f64],
    items: &[Value],
) -> Result<Distribution, String> {
    use DistributionKind as Kind;
    let wanted = if kind == Kind::Steps { 3 } else { 2 };
    if numbers.len() != wanted {
        return Err(format!(
            "it takes {wanted} numbers and has {}",
            numbers.len()
        ));
    }
    let (a, b) = (numbers[0], numbers[1]);
    if matches!(kind, Kind::Int | Kind::LogInt) {
        // Before anything is compared: beyond it, numbers that differ are equal as floats.
        let far = |item: &&Value| match item.as_i64() {
            Some(whole) => whole.unsigned_abs() > WHOLE as u64,
            None => item.as_f64().is_some_and(|x| x.abs() > WHOLE),
        };
        if let Some(item) = items.iter().find(far) {
            return Err(format!(
                "{} is beyond 2^53, where not every whole number is a float",
                item.to_text()
            ));
        }
    }
    let bounded = !matches!(kind, Kind::Normal | Kind::Beta);
    if bounded && a >= b {
        return Err(format!(
            "the low end {a} is not below the high end {b}; a fixed value belongs into `params`"
        ));
    }
    if bounded && !(b - a).is_finite() {
        return Err("the interval is too wide for a float".to_owned());
    }
    if matches!(kind, Kind::LogUniform | Kind::LogInt) && a <= 0.0 {
        return Err(format!("the low end {a} has no logarithm"));
    }
    match kind {
        Kind::Uniform => Ok(Distribution::Uniform { low: a, high: b }),
        Kind::LogUniform => Ok(Distribution::LogUniform { low: a, high: b }),
        Kind::Int => {
            let (low, high) = whole(a, b)?;
            Ok(Distribution::Int { low, high })
        }
        Kind::LogInt => {
            let (low, high) = whole(a, b)?;
            Ok(Distribution::LogInt { low, high })
        }
        Kind::Normal if b <= 0.0 => Err(format!("the standard deviation {b} is not above 0")),
        // No draw is farther out than this.
        Kind::Normal if !(a.abs() + 40.0 * b).is_finite() => {
            Err("the distribution is too wide for a float".to_owned())
        }
        Kind::Normal => Ok(Distribution::Normal { mean: a, sd: b }),
        Kind::Beta if a <= 0.0 || b <= 0.0 => Err("both shapes have to be above 0".to_owned()),
        Kind::Beta if ![a, b].iter().all(|it| SHAPES.contains(it)) => Err(format!(
            "its shapes have to lie between {} and {}: beyond that it is as good as a fixed value, which belongs into `params`",
            SHAPES.start(),
            SHAPES.end()
        )),
        Kind::Beta => Ok(Distribution::Beta { alpha: a, beta: b }),
        Kind::Steps => steps(
            a,
            b,
            numbers[2],
            items[0].as_i64().is_some() && items[2].as_i64().is_some(),
        ),
        Kind::Choice => Err("a choice has values of its own".to_owned()),
    }
}

fn whole(low: f64, high: f64) -> Result<(i64, i64), String> {
    for x in [low, high] {
        if x.fract() != 0.0 {
            return Err(format!("{x} is not a whole number"));
        }
    }
    Ok((low as i64, high as i64))
}

fn steps(low: f64, high: f64, step: f64, whole: bool) -> Result<Distribution, String> {
    if step <= 0.0 {
        return Err(format!("the step {step} is not above 0"));
    }
    let count = ((high - low) / step + 1e-9).floor() + 1.0;
    if count > f64::from(u32::MAX) {
        return Err("it has more than 2^32 values".to_owned());
    }
    let count = count as u32;
    if count > 1 && step_value(low, step, count - 2) == step_value(low, step, count - 1) {
        return Err(format!("the step {step} is too small for a float"));
    }
    Ok(Distribution::Steps {
        low,
        step,
        count,
        whole,
    })
}
