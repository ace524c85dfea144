//! The axis on which a parameter has its density.

use crate::{Distribution, Parameter, Space};

/// How a parameter is laid out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scale {
    /// One of so many.
    Choice {
        /// How many.
        count: usize,
    },
    /// A number.
    Number {
        /// The ends of the axis.
        low: f64,
        /// The ends of the axis.
        high: f64,
        /// What stands on it.
        kind: Kind,
    },
}

/// What an axis shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// The number itself.
    Plain,
    /// Its logarithm.
    Log,
    /// Its quantile, by the parameter's own distribution.
    Quantile,
    /// Numbers in steps from a first one: each has the step around it.
    Steps {
        /// The first one.
        first: f64,
        /// Their distance.
        step: f64,
    },
    /// The logarithms of whole numbers: each has the unit around it.
    LogSteps,
}

impl Scale {
    pub(super) fn new(parameter: &Parameter) -> Self {
        let number = |low, high, kind| Self::Number { low, high, kind };
        match &parameter.distribution {
            Distribution::Choice(choices) => Self::Choice {
                count: choices.len(),
            },
            Distribution::Uniform { low, high } => number(*low, *high, Kind::Plain),
            Distribution::LogUniform { low, high } => number(low.ln(), high.ln(), Kind::Log),
            Distribution::Normal { .. } | Distribution::Beta { .. } => {
                number(0.0, 1.0, Kind::Quantile)
            }
            Distribution::Int { low, high } => steps(*low as f64, *high as f64, 1.0),
            Distribution::Steps { low, step, .. } => steps(*low, parameter.bounds().1, *step),
            Distribution::LogInt { low, high } => number(
                (*low as f64 - 0.5).ln(),
                (*high as f64 + 0.5).ln(),
                Kind::LogSteps,
            ),
        }
    }

    /// Where a coordinate stands; NaN for NaN.
    fn place(&self, parameter: &Parameter, x: f64) -> f64 {
        match self {
            Self::Number {
                kind: Kind::Log | Kind::LogSteps,
                ..
            } => x.ln(),
            Self::Number {
                kind: Kind::Quantile,
                ..
            } => parameter.to_unit(x),
            _ => x,
        }
    }

    /// The place that a parameter can have which is nearest to one on the axis.
    pub(super) fn nearest(&self, place: f64) -> f64 {
        let Self::Number { low, high, kind } = self else {
            return place;
        };
        let place = place.clamp(*low, *high);
        match kind {
            Kind::Steps { first, step } => {
                let last = ((high - low) / step).round() - 1.0;
                first + ((place - first) / step).round().clamp(0.0, last) * step
            }
            Kind::LogSteps => {
                let (low, high) = (low.exp() + 0.5, high.exp() - 0.5);
                place.exp().round().clamp(low.round(), high.round()).ln()
            }
            _ => place,
        }
    }

    /// Whether places are counted.
    pub(super) fn is_counted(&self) -> bool {
        matches!(
            self,
            Self::Number {
                kind: Kind::Steps { .. } | Kind::LogSteps,
                ..
            }
        )
    }

    /// The part of the axis that belongs to a place, where places are counted.
    pub(super) fn cell(&self, place: f64) -> Option<(f64, f64)> {
        match self {
            Self::Number {
                kind: Kind::Steps { step, .. },
                ..
            } => Some((place - 0.5 * step, place + 0.5 * step)),
            Self::Number {
                kind: Kind::LogSteps,
                ..
            } => {
                let x = place.exp();
                Some(((x - 0.5).ln(), (x + 0.5).ln()))
            }
            _ => None,
        }
    }

    /// The coordinate of a place.
    pub(super) fn coordinate(&self, parameter: &Parameter, place: f64) -> f64 {
        match self {
            Self::Number {
                kind: Kind::Log | Kind::LogSteps,
                ..
            } => parameter.clean(place.exp()),
            Self::Number {
                kind: Kind::Quantile,
                ..
            } => parameter.from_unit(place),
            _ => parameter.clean(place),
        }
    }
}

fn steps(first: f64, last: f64, step: f64) -> Scale {
    Scale::Number {
        low: first - 0.5 * step,
        high: last + 0.5 * step,
        kind: Kind::Steps { first, step },
    }
}

/// The places of a point.
pub(super) fn row<'a>(
    space: &'a Space,
    scales: &'a [Scale],
    point: &'a [f64],
) -> impl Iterator<Item = f64> + 'a {
    let parts = space.parameters.iter().zip(scales).zip(point);
    parts.map(|((parameter, scale), x)| scale.place(parameter, *x))
}
