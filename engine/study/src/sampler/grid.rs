//! Every combination of values, in one order: the last parameter changes fastest.
//!
//! A parameter that is not active has no values, so it does not multiply points. The point of an ask is found by counting the
//! points below each value, not by walking there.

use dagrun_expr::{ReferenceKind, references, round_significant};
use dagrun_model::{Map, Value};

use super::Sampler;
use crate::{Distribution, History, Parameter, Space};

/// How many values of parameters that conditions refer to are tried to count points.
const BUDGET: u64 = 1 << 20;

/// A grid over a space.
#[derive(Debug, Default)]
pub(super) struct Grid {
    /// The number of values of each parameter.
    counts: Vec<u64>,
    /// Whether a condition of a later parameter refers to it: only then its value decides how many points there are below.
    decides: Vec<bool>,
    /// The points below each parameter, where no condition follows.
    below: Vec<Option<u64>>,
    size: u64,
}

impl Grid {
    /// A grid with the `levels` of its options.
    ///
    /// # Errors
    /// Which parameter has no end.
    pub(super) fn new(options: &Map, space: &Space) -> Result<Self, String> {
        let levels = options.get("levels");
        let counts = space.parameters.iter().map(|it| count(it, levels));
        let mut grid = Self {
            counts: counts.collect::<Result<_, _>>()?,
            decides: decides(space),
            below: vec![Some(1); space.dims()],
            size: 0,
        };
        for at in (1..space.dims()).rev() {
            let below = grid.below[at].filter(|_| space.parameters[at].when.is_none());
            grid.below[at - 1] = below.map(|it| it.saturating_mul(grid.counts[at]));
        }
        let mut point = vec![f64::NAN; space.dims()];
        let mut budget = BUDGET;
        grid.size = grid
            .points(space, 0, &mut point, &mut budget)
            .ok_or("its conditions make its points too many to count")?;
        Ok(grid)
    }

    /// How many points it has.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// How many points there are from a parameter on, by the coordinates before it; none where the budget is used up.
    fn points(&self, space: &Space, at: usize, point: &mut [f64], budget: &mut u64) -> Option<u64> {
        if at == space.dims() {
            return Some(1);
        }
        point[at] = f64::NAN;
        if !space.active(at, point) {
            return self.points(space, at + 1, point, budget);
        }
        let count = self.counts[at];
        if let Some(below) = self.below[at] {
            return Some(count.saturating_mul(below));
        }
        if !self.decides[at] {
            let below = self.points(space, at + 1, point, budget)?;
            return Some(count.saturating_mul(below));
        }
        *budget = budget.checked_sub(count)?;
        let mut sum = 0_u64;
        for value in 0..count {
            point[at] = self.value(&space.parameters[at], at, value);
            sum = sum.saturating_add(self.points(space, at + 1, point, budget)?);
        }
        point[at] = f64::NAN;
        Some(sum)
    }

    /// The point at a position from 0; none behind the last one.
    fn point(&self, space: &Space, position: u64) -> Option<Vec<f64>> {
        let mut rest = position;
        let mut point = vec![f64::NAN; space.dims()];
        if position >= self.size {
            return None;
        }
        for at in 0..space.dims() {
            if !space.active(at, &point) {
                continue;
            }
            let parameter = &space.parameters[at];
            let mut budget = u64::MAX;
            let mut value = 0;
            if self.decides[at] && self.below[at].is_none() {
                loop {
                    point[at] = self.value(parameter, at, value);
                    let below = self.points(space, at + 1, &mut point, &mut budget)?;
                    if rest < below {
                        break;
                    }
                    rest -= below;
                    value += 1;
                }
            } else {
                let below = match self.below[at] {
                    Some(below) => below,
                    None => self.points(space, at + 1, &mut point, &mut budget)?,
                };
                (value, rest) = (rest / below, rest % below);
            }
            point[at] = self.value(parameter, at, value);
        }
        Some(point)
    }

    /// The coordinate of a value of a parameter by its position.
    fn value(&self, parameter: &Parameter, at: usize, value: u64) -> f64 {
        let levels = self.counts[at];
        // Levels lie at both ends and evenly between them; a single one in the middle.
        let share = |last: f64| match levels {
            1 => 0.5 * last,
            _ => value as f64 * last / (levels - 1) as f64,
        };
        let own = parameter.count().filter(|own| {
            levels == *own || !matches!(parameter.distribution, Distribution::LogUniform { .. })
        });
        match (own, &parameter.distribution) {
            (Some(own), distribution) => {
                let value = match levels == own {
                    true => value,
                    false => share((own - 1) as f64).round() as u64,
                };
                parameter.clean(match distribution {
                    Distribution::Int { low, .. } | Distribution::LogInt { low, .. } => {
                        (low + value.cast_signed()) as f64
                    }
                    Distribution::Choice(_) => value as f64,
                    Distribution::Steps { low, step, .. } => low + value as f64 * step,
                    _ => {
                        let scale = 10_f64.powi(i32::from(parameter.digits.unwrap_or(0)));
                        let first = (parameter.bounds().0 * scale - 1e-9).ceil();
                        (first + value as f64) / scale
                    }
                })
            }
            // These have no ends: each level stands for an equal share.
            (None, Distribution::Normal { .. } | Distribution::Beta { .. }) => {
                parameter.from_unit((value as f64 + 0.5) / levels as f64)
            }
            (None, _) => parameter.clean(round_significant(parameter.from_unit(share(1.0)))),
        }
    }
}

impl Sampler for Grid {
    fn ask(&mut self, space: &Space, ask: u64, _: &History, _: &[&[f64]]) -> Option<Vec<f64>> {
        self.point(space, ask - 1)
    }
}

/// How many values a parameter has in the grid.
fn count(parameter: &Parameter, levels: Option<&Value>) -> Result<u64, String> {
    let own = parameter.count();
    let continuous = matches!(
        parameter.distribution,
        Distribution::Uniform { .. }
            | Distribution::LogUniform { .. }
            | Distribution::Normal { .. }
            | Distribution::Beta { .. }
    );
    let written = levels.and_then(|it| match it.as_map() {
        Some(map) => map.get(&parameter.name).and_then(Value::as_i64),
        None => it.as_i64().filter(|_| continuous),
    });
    let written = written.and_then(|it| u64::try_from(it).ok());
    match (written, own) {
        (Some(written), Some(own)) => Ok(written.min(own).max(1)),
        (Some(written), None) => Ok(written.max(1)),
        (None, Some(own)) => Ok(own),
        (None, None) => Err(format!(
            "`{}` has no finite number of values",
            parameter.name
        )),
    }
}

/// Which parameters the conditions of others refer to.
fn decides(space: &Space) -> Vec<bool> {
    let mut decides = vec![false; space.dims()];
    for (at, it) in space.parameters.iter().enumerate() {
        for reference in it.when.iter().flat_map(references) {
            match reference.kind {
                ReferenceKind::Trial(Some(name)) => {
                    if let Some(above) = space.position(name) {
                        decides[above] = true;
                    }
                }
                ReferenceKind::Trial(None) => decides[..at].fill(true),
                _ => {}
            }
        }
    }
    decides
}
