//! The resolved space of a study.
//!
//! A point of the space is a row of coordinates, one `f64` for each parameter in file order: the number itself, the position in
//! the list of a `choice`, NaN where the parameter is not active.

use std::sync::Arc;

use dagrun_expr::{Context, EvalError};
use dagrun_model::{Expr, Map, Value, did_you_mean, float_text};

/// The parameters of a trial.
#[derive(Clone, Debug, Default)]
pub struct Space {
    /// In file order.
    pub parameters: Vec<Parameter>,
}

/// A parameter of a trial.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name.
    pub name: Arc<str>,
    /// Its values.
    pub distribution: Distribution,
    /// Decimal places that its values are rounded to.
    pub digits: Option<u8>,
    /// It is active only where this holds.
    pub when: Option<Expr>,
}

/// The values of a parameter and how likely each is without knowledge.
#[derive(Clone, Debug, PartialEq)]
pub enum Distribution {
    /// Any number from `low` to `high`, evenly.
    Uniform {
        /// The least value.
        low: f64,
        /// The greatest value.
        high: f64,
    },
    /// Any number from `low` to `high`, evenly by its logarithm.
    LogUniform {
        /// The least value, above 0.
        low: f64,
        /// The greatest value.
        high: f64,
    },
    /// A whole number from `low` to `high`, ends included.
    Int {
        /// The least value.
        low: i64,
        /// The greatest value.
        high: i64,
    },
    /// A whole number from `low` to `high`, ends included, evenly by its logarithm.
    LogInt {
        /// The least value, above 0.
        low: i64,
        /// The greatest value.
        high: i64,
    },
    /// One of a list, at least one value, all different.
    Choice(Arc<[Value]>),
    /// A number by a normal distribution.
    Normal {
        /// Its mean.
        mean: f64,
        /// Its standard deviation, above 0.
        sd: f64,
    },
    /// A number from 0 to 1 by a beta distribution.
    Beta {
        /// The first shape, above 0.
        alpha: f64,
        /// The second shape, above 0.
        beta: f64,
    },
    /// `low + i * step` for i from 0 to `count - 1`.
    Steps {
        /// The first value.
        low: f64,
        /// The distance of two values, above 0.
        step: f64,
        /// How many values there are, at least 1.
        count: u32,
        /// Whether they are integers: `low` and `step` are written as such.
        whole: bool,
    },
}

/// Answers `trial.NAME` from the parameters above one.
struct TrialContext<'a>(&'a Map);

impl Context for TrialContext<'_> {
    fn lookup(&self, name: &str) -> Result<Value, EvalError> {
        match name {
            "trial" => Ok(Value::map(self.0.clone())),
            _ => Err(
                EvalError::new(format!("`{name}` is not known in a condition of a space"))
                    .help("a condition can use `params` and, by `trial.NAME`, parameters above it"),
            ),
        }
    }

    fn member(&self, path: &[&str]) -> Option<Result<Value, EvalError>> {
        match path {
            ["trial", name] => self.0.get(*name).cloned().map(Ok),
            _ => None,
        }
    }
}

impl Space {
    /// How many parameters there are.
    pub fn dims(&self) -> usize {
        self.parameters.len()
    }

    /// The position of a parameter.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.parameters.iter().position(|it| &*it.name == name)
    }

    /// How many points there are; none where that is not finite, or where conditions make it hard to say.
    pub fn size(&self) -> Option<u64> {
        self.parameters.iter().try_fold(1_u64, |size, it| {
            let count = it.count().filter(|_| it.when.is_none())?;
            Some(size.saturating_mul(count))
        })
    }

    /// The values of a point by name: what `trial` holds. A parameter that is not active is null.
    ///
    /// # Panics
    /// When the point has another length than the space.
    pub fn values(&self, point: &[f64]) -> Map {
        assert_eq!(point.len(), self.dims(), "a coordinate for each parameter");
        let entries = self.parameters.iter().zip(point);
        entries
            .map(|(it, x)| (it.name.clone(), it.value(*x)))
            .collect()
    }

    /// The point of values by name, as somebody else proposes them: each active parameter has to be there, within its bounds.
    ///
    /// # Errors
    /// What is wrong with which parameter.
    pub fn coordinates(&self, values: &Map) -> Result<Vec<f64>, String> {
        if let Some(name) = values.keys().find(|name| self.position(name).is_none()) {
            return Err(self.unknown(name));
        }
        let mut point = vec![f64::NAN; self.dims()];
        for (at, it) in self.parameters.iter().enumerate() {
            if !self.active(at, &point) {
                continue;
            }
            point[at] = match values.get(&it.name) {
                Some(value) => it.coordinate(value)?,
                None => return Err(format!("`{}` has no value", it.name)),
            };
        }
        Ok(point)
    }

    /// What to say of a name that is no parameter.
    pub(crate) fn unknown(&self, name: &str) -> String {
        let names = || self.parameters.iter().map(|it| &*it.name);
        match did_you_mean(name, names()) {
            Some(near) => {
                format!("`{name}` is not a parameter of the space; did you mean `{near}`?")
            }
            None => format!(
                "`{name}` is not a parameter of the space, which has {}",
                names().collect::<Vec<_>>().join(", ")
            ),
        }
    }

    /// Makes a point of the space of any numbers: rounds, clamps, takes the nearest step, and sets what is not active to NaN.
    /// An active coordinate that is not a number becomes the median.
    ///
    /// # Panics
    /// When the point has another length than the space.
    pub fn clean(&self, point: &mut [f64]) {
        assert_eq!(point.len(), self.dims(), "a coordinate for each parameter");
        for at in 0..point.len() {
            point[at] = if self.active(at, point) {
                self.parameters[at].clean(point[at])
            } else {
                f64::NAN
            };
        }
    }

    /// Whether these are coordinates of this space, leaving aside conditions and rounding.
    pub(crate) fn holds(&self, point: &[f64]) -> bool {
        let each = |(it, x): (&Parameter, &f64)| {
            let (low, high) = it.bounds();
            let inside = x.is_finite() && (low..=high).contains(x);
            let counted = matches!(it.distribution, Distribution::Choice(_));
            x.is_nan() || (inside && (!counted || x.fract() == 0.0))
        };
        point.len() == self.dims() && self.parameters.iter().zip(point).all(each)
    }

    /// Whether a parameter is active, by the coordinates before it. A condition that cannot be evaluated does not hold.
    pub(crate) fn active(&self, at: usize, point: &[f64]) -> bool {
        self.condition(at, point)
            .is_none_or(|it| it.is_ok_and(|value| value.truthy()))
    }

    /// The value of a parameter's condition, by the coordinates before it.
    pub(crate) fn condition(&self, at: usize, point: &[f64]) -> Option<Result<Value, EvalError>> {
        let when = self.parameters[at].when.as_ref()?;
        let above = self.parameters[..at].iter().zip(point);
        let values: Map = above
            .map(|(it, x)| (it.name.clone(), it.value(*x)))
            .collect();
        Some(dagrun_expr::eval(when, &TrialContext(&values)))
    }
}

impl Parameter {
    /// The value of a coordinate, with its type; null for NaN.
    pub fn value(&self, x: f64) -> Value {
        if x.is_nan() {
            return Value::Null;
        }
        match &self.distribution {
            Distribution::Int { .. } | Distribution::LogInt { .. } => Value::Int(x as i64),
            Distribution::Steps { whole: true, .. } => Value::Int(x as i64),
            Distribution::Choice(choices) => choices
                .get(x as usize)
                .cloned()
                .expect("a cleaned coordinate of a choice is a position in its list"),
            _ => Value::Float(x),
        }
    }

    /// The coordinate of a value that somebody else proposes.
    ///
    /// # Errors
    /// What is wrong, with the name of the parameter and what it takes.
    pub fn coordinate(&self, value: &Value) -> Result<f64, String> {
        let wrong = |what: &str| format!("`{}` cannot be {}: {what}", self.name, value.to_text());
        if let Distribution::Choice(choices) = &self.distribution {
            let at = choices.iter().position(|choice| choice == value);
            return at.map(|at| at as f64).ok_or_else(|| {
                let texts: Vec<String> = choices.iter().map(Value::to_text).collect();
                wrong(&format!("it is one of {}", texts.join(", ")))
            });
        }
        let Some(x) = value.as_f64().filter(|x| x.is_finite()) else {
            return Err(wrong("it is a finite number"));
        };
        let clean = self.clean(x);
        let (low, high) = self.bounds();
        // What is off by rounding alone is meant to be at the bound or step.
        let slack = 1e-9 * self.scale();
        if x < low - slack || x > high + slack {
            return Err(wrong(&format!(
                "it is between {} and {}",
                float_text(low),
                float_text(high)
            )));
        }
        let stepped = matches!(
            self.distribution,
            Distribution::Int { .. } | Distribution::LogInt { .. } | Distribution::Steps { .. }
        );
        if stepped && (clean - x).abs() > slack {
            return Err(wrong(&match self.distribution {
                Distribution::Steps { low, step, .. } => {
                    format!("it goes from {low} in steps of {step}")
                }
                _ => "it is a whole number".to_owned(),
            }));
        }
        Ok(clean)
    }

    /// The least and the greatest coordinate.
    pub fn bounds(&self) -> (f64, f64) {
        match &self.distribution {
            Distribution::Uniform { low, high } | Distribution::LogUniform { low, high } => {
                (*low, *high)
            }
            Distribution::Int { low, high } | Distribution::LogInt { low, high } => {
                (*low as f64, *high as f64)
            }
            Distribution::Choice(choices) => (0.0, choices.len() as f64 - 1.0),
            Distribution::Normal { .. } => (f64::NEG_INFINITY, f64::INFINITY),
            Distribution::Beta { .. } => (0.0, 1.0),
            Distribution::Steps {
                low, step, count, ..
            } => (*low, step_value(*low, *step, *count - 1)),
        }
    }

    /// The size of numbers of this parameter, for tolerances.
    fn scale(&self) -> f64 {
        match &self.distribution {
            Distribution::Normal { sd, .. } => *sd,
            Distribution::Steps { step, .. } => *step,
            Distribution::Int { .. } | Distribution::LogInt { .. } => 1.0,
            _ => {
                let (low, high) = self.bounds();
                high - low
            }
        }
    }

    /// How many values there are, where that is finite.
    pub fn count(&self) -> Option<u64> {
        match &self.distribution {
            Distribution::Int { low, high } | Distribution::LogInt { low, high } => {
                u64::try_from(high - low).ok().map(|count| count + 1)
            }
            Distribution::Choice(choices) => Some(choices.len() as u64),
            Distribution::Steps { count, .. } => Some(u64::from(*count)),
            Distribution::Uniform { low, high } | Distribution::LogUniform { low, high } => {
                let scale = 10_f64.powi(i32::from(self.digits?));
                let count = (high * scale + 1e-9).floor() - (low * scale - 1e-9).ceil() + 1.0;
                (count < 1e15).then_some(count.max(1.0) as u64)
            }
            Distribution::Normal { .. } | Distribution::Beta { .. } => None,
        }
    }

    /// The nearest coordinate that this parameter can have; the median for what is not a number.
    pub fn clean(&self, x: f64) -> f64 {
        if x.is_nan() {
            return self.from_unit(0.5);
        }
        let (low, high) = self.bounds();
        let x = match &self.distribution {
            Distribution::Steps {
                low, step, count, ..
            } => {
                let at = ((x - low) / step).round();
                step_value(*low, *step, at.clamp(0.0, f64::from(*count - 1)) as u32)
            }
            Distribution::Uniform { .. } | Distribution::LogUniform { .. } => {
                self.rounded(x.clamp(low, high), low, high)
            }
            // Far beyond any quantile, but finite.
            Distribution::Normal { mean, sd } => {
                self.rounded(x.clamp(mean - 1e3 * sd, mean + 1e3 * sd), low, high)
            }
            Distribution::Beta { .. } => self.rounded(x.clamp(low, high), low, high),
            _ => x.round().clamp(low, high),
        };
        // There is one zero.
        x + 0.0
    }

    /// Rounds to `digits`, towards the inside where the nearest lies outside.
    fn rounded(&self, x: f64, low: f64, high: f64) -> f64 {
        let Some(digits) = self.digits else { return x };
        let near = round_to(x, digits);
        let unit = 10_f64.powi(-i32::from(digits));
        if near < low {
            round_to(near + unit, digits).min(high)
        } else if near > high {
            round_to(near - unit, digits).max(low)
        } else {
            near
        }
    }
}

/// `low + at * step` without the noise of binary fractions, as `range` of the language gives it.
pub(crate) fn step_value(low: f64, step: f64, at: u32) -> f64 {
    dagrun_expr::round_significant(low + step * f64::from(at))
}

fn round_to(x: f64, digits: u8) -> f64 {
    format!("{x:.*}", usize::from(digits))
        .parse()
        .expect("a printed number reads back")
}
