//! A density over a group of parameters: a mixture of kernels, each a product over the parameters.
//!
//! A number has truncated normal kernels, whose width is the greater distance to a neighbour; where values are counted, a value has
//! the mass of the cell around it. A choice has kernels that favour what was observed. The last kernel is the prior: wide, and
//! centred.

use std::f64::consts::TAU;

use super::{
    super::{Draws, normal::mass},
    scale::Scale,
};
use crate::special::normal_quantile;

/// So many of the newest trials have full weight; older ones have less, along a ramp.
const NEWEST: usize = 25;
/// Cells of less than this many widths of a kernel take its density at their middle.
const NARROW: f64 = 0.02;

/// A mixture of kernels.
#[derive(Debug)]
pub(super) struct Parzen<'a> {
    axes: Vec<Axis<'a>>,
    /// Logarithms of the weights.
    log_weights: Vec<f64>,
    /// The sums of the weights up to each kernel.
    sums: Vec<f64>,
}

/// The kernels along one parameter.
#[derive(Debug)]
struct Axis<'a> {
    scale: &'a Scale,
    kernels: Kernels,
}

#[derive(Debug)]
enum Kernels {
    Normal {
        /// Those that differ.
        kernels: Vec<Normal>,
        /// Which one each has; none where each has its own.
        which: Option<Vec<u32>>,
    },
    Choice {
        /// What each has observed; the prior has nothing.
        observed: Vec<u32>,
        /// The probability of what was observed, of another one, and of each by the prior.
        odds: [f64; 3],
    },
}

/// A normal distribution between the ends of the axis.
#[derive(Clone, Copy, Debug)]
struct Normal {
    centre: f64,
    width: f64,
    inverse: f64,
    /// The logarithm of its mass between the ends.
    log_mass: f64,
    /// The logarithm of its density at the centre.
    log_peak: f64,
}

impl<'a> Parzen<'a> {
    /// The density of `rows` of places, oldest first. The last `alone` of them stand for themselves, the others for `each` trials.
    pub(super) fn new(scales: &[&'a Scale], rows: &[f64], alone: usize, each: f64) -> Self {
        let dims = scales.len();
        let count = rows.len() / dims;
        let mut weights = ramp(count);
        weights[..count - alone]
            .iter_mut()
            .for_each(|it| *it *= each);
        weights.push(1.0);
        let total: f64 = weights.iter().sum();
        let mut sum = 0.0;
        let sums = weights.iter().map(|it| {
            sum += it / total;
            sum
        });
        let axes = scales.iter().enumerate().map(|(at, scale)| {
            let column = rows.iter().skip(at).step_by(dims).copied();
            Axis {
                scale,
                kernels: match **scale {
                    Scale::Choice { count } => choice(column, count),
                    Scale::Number { low, high, .. } => {
                        numbers(column.collect(), low, high, scale.is_counted())
                    }
                },
            }
        });
        Self {
            axes: axes.collect(),
            sums: sums.collect(),
            log_weights: weights.iter().map(|it| (it / total).ln()).collect(),
        }
    }

    /// A draw: a place on each axis, which its parameter can have.
    pub(super) fn sample(&self, draws: &mut Draws) -> Vec<f64> {
        let u = draws.unit();
        let kernel = self.sums.partition_point(|sum| *sum <= u);
        let kernel = kernel.min(self.sums.len() - 1);
        let axes = self.axes.iter();
        axes.map(|it| it.sample(kernel, draws.unit())).collect()
    }

    /// The logarithm of the density at places; `scratch` is room to work in.
    pub(super) fn log_density(&self, places: &[f64], scratch: &mut Vec<f64>) -> f64 {
        scratch.clear();
        scratch.extend_from_slice(&self.log_weights);
        for (axis, place) in self.axes.iter().zip(places) {
            axis.add_log_density(*place, scratch);
        }
        let greatest = scratch.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scratch.iter().map(|it| (it - greatest).exp()).sum();
        greatest + sum.ln()
    }
}

impl Axis<'_> {
    fn sample(&self, kernel: usize, u: f64) -> f64 {
        match (&self.kernels, self.scale) {
            (Kernels::Normal { kernels, which }, Scale::Number { low, .. }) => {
                let kernel = which.as_ref().map_or(kernel, |it| it[kernel] as usize);
                let it = kernels[kernel];
                let from = super::super::normal::cdf((low - it.centre) * it.inverse);
                let z = normal_quantile(from + u * it.log_mass.exp());
                self.scale.nearest(it.centre + it.width * z)
            }
            (Kernels::Choice { observed, odds }, Scale::Choice { count }) => {
                let seen = observed.get(kernel).map(|it| *it as usize);
                let mut sum = 0.0;
                for value in 0..count - 1 {
                    sum += match seen {
                        Some(seen) if seen == value => odds[0],
                        Some(_) => odds[1],
                        None => odds[2],
                    };
                    if u < sum {
                        return value as f64;
                    }
                }
                (count - 1) as f64
            }
            _ => unreachable!("kernels are made for their scale"),
        }
    }

    /// Adds the logarithm of each kernel's density, or of the mass of the place's cell.
    fn add_log_density(&self, place: f64, sums: &mut [f64]) {
        match &self.kernels {
            Kernels::Choice { observed, odds } => {
                let place = place as u32;
                let [hit, miss, even] = odds.map(f64::ln);
                for (sum, it) in sums.iter_mut().zip(observed) {
                    *sum += if *it == place { hit } else { miss };
                }
                if let Some(prior) = sums.last_mut() {
                    *prior += even;
                }
            }
            Kernels::Normal { kernels, which } => match (self.scale.cell(place), which) {
                (None, _) => {
                    for (sum, it) in sums.iter_mut().zip(kernels) {
                        *sum += it.log_density(place);
                    }
                }
                (Some(cell), which) => {
                    let masses: Vec<f64> = kernels.iter().map(|it| it.log_cell(cell)).collect();
                    for (at, sum) in sums.iter_mut().enumerate() {
                        let kernel = which.as_ref().map_or(at, |it| it[at] as usize);
                        *sum += masses[kernel];
                    }
                }
            },
        }
    }
}

impl Normal {
    fn new(centre: f64, width: f64, low: f64, high: f64) -> Self {
        let inverse = 1.0 / width;
        let log_mass = mass((low - centre) * inverse, (high - centre) * inverse).ln();
        Self {
            centre,
            width,
            inverse,
            log_mass,
            log_peak: -(width * TAU.sqrt()).ln() - log_mass,
        }
    }

    fn log_density(&self, place: f64) -> f64 {
        let z = (place - self.centre) * self.inverse;
        self.log_peak - 0.5 * z * z
    }

    fn log_cell(&self, (from, to): (f64, f64)) -> f64 {
        if (to - from) * self.inverse < NARROW {
            return self.log_density(0.5 * (from + to)) + (to - from).ln();
        }
        let z = |place: f64| (place - self.centre) * self.inverse;
        mass(z(from), z(to)).max(f64::MIN_POSITIVE).ln() - self.log_mass
    }
}

/// The weights of so many trials, oldest first.
fn ramp(count: usize) -> Vec<f64> {
    let old = count.saturating_sub(NEWEST);
    let first = 1.0 / count.max(1) as f64;
    let step = (1.0 - first) / old.saturating_sub(1).max(1) as f64;
    (0..count)
        .map(|at| match at < old {
            true => first + at as f64 * step,
            false => 1.0,
        })
        .collect()
}

fn choice(column: impl Iterator<Item = f64>, count: usize) -> Kernels {
    let observed: Vec<u32> = column.map(|it| it as u32).collect();
    let share = 1.0 / (observed.len() + 1) as f64;
    let total = 1.0 + share * count as f64;
    Kernels::Choice {
        observed,
        odds: [(1.0 + share) / total, share / total, 1.0 / count as f64],
    }
}

fn numbers(centres: Vec<f64>, low: f64, high: f64, counted: bool) -> Kernels {
    let count = centres.len();
    let mut order: Vec<u32> = (0..).take(count).collect();
    order.sort_unstable_by(|a, b| {
        let (x, y) = (centres[*a as usize], centres[*b as usize]);
        x.total_cmp(&y).then(a.cmp(b))
    });
    let range = high - low;
    let least = range / (count as f64 + 2.0).min(100.0);
    let sorted = |at: usize| centres[order[at] as usize];
    let width = |at: usize| {
        let before = match at {
            0 if count > 1 => 0.0,
            0 => sorted(0) - low,
            _ => sorted(at) - sorted(at - 1),
        };
        let after = match at + 1 == count {
            true if count > 1 => 0.0,
            true => high - sorted(at),
            false => sorted(at + 1) - sorted(at),
        };
        before.max(after).clamp(least, range)
    };
    let prior = Normal::new(0.5 * (low + high), range, low, high);
    if !counted {
        let mut kernels = vec![prior; count + 1];
        for at in 0..count {
            kernels[order[at] as usize] = Normal::new(sorted(at), width(at), low, high);
        }
        return Kernels::Normal {
            kernels,
            which: None,
        };
    }
    // Where values are counted many kernels are equal, and their masses cost most.
    let mut kernels: Vec<Normal> = Vec::new();
    let mut which = vec![0; count + 1];
    for at in 0..count {
        let (centre, width) = (sorted(at), width(at));
        let new = kernels
            .last()
            .is_none_or(|it| it.centre != centre || it.width != width);
        if new {
            kernels.push(Normal::new(centre, width, low, high));
        }
        which[order[at] as usize] = kernels.len() as u32 - 1;
    }
    which[count] = kernels.len() as u32;
    kernels.push(prior);
    Kernels::Normal {
        kernels,
        which: Some(which),
    }
}
