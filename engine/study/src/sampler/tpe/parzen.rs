//! A density over a group of parameters: a mixture of kernels, each a product over the parameters.
//!
//! A number has truncated normal kernels, whose width is the greater distance to a neighbour; where values are counted, a value has
//! the mass of the cell around it. A choice has kernels that favour what was observed. The last kernel is the prior: wide, and
//! centred.

use std::f64::consts::TAU;

use super::{
    super::{
        Draws,
        normal::{cdf, mass},
    },
    scale::Scale,
};
use crate::special::normal_quantile;

/// So many of the newest trials have full weight; older ones have less, along a ramp.
const NEWEST: usize = 25;
/// Cells of less than this many widths of a kernel take its density at their middle.
const NARROW: f64 = 0.25;
/// Beyond this many widths a kernel has no mass that counts.
const FAR: f64 = 8.0;
/// Kernels whose logarithm is so much below the greatest add nothing.
const NOTHING: f64 = -37.0;

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
        kernels: Normals,
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

/// Normal distributions between the ends of the axis, as columns.
#[derive(Debug, Default)]
struct Normals {
    centres: Vec<f64>,
    /// One divided by the width.
    inverses: Vec<f64>,
    /// Logarithms of the mass between the ends.
    log_masses: Vec<f64>,
    /// Logarithms of the density at the centre.
    log_peaks: Vec<f64>,
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
                        numbers(column, low, high, scale.is_counted())
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
        let near = scratch
            .iter()
            .map(|it| it - greatest)
            .filter(|it| *it > NOTHING);
        greatest + near.map(f64::exp).sum::<f64>().ln()
    }
}

impl Axis<'_> {
    fn sample(&self, kernel: usize, u: f64) -> f64 {
        match (&self.kernels, self.scale) {
            (Kernels::Normal { kernels, which }, Scale::Number { low, .. }) => {
                let kernel = which.as_ref().map_or(kernel, |it| it[kernel] as usize);
                let (centre, inverse) = (kernels.centres[kernel], kernels.inverses[kernel]);
                let from = cdf((low - centre) * inverse);
                let z = normal_quantile(from + u * kernels.log_masses[kernel].exp());
                self.scale.nearest(centre + z / inverse)
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
            Kernels::Normal { kernels, which } => {
                let Some(cell) = self.scale.cell(place) else {
                    return kernels.add_log_density(place, sums);
                };
                let masses = kernels.log_cells(cell);
                match which {
                    Some(which) => {
                        for (sum, at) in sums.iter_mut().zip(which) {
                            *sum += masses[*at as usize];
                        }
                    }
                    None => sums.iter_mut().zip(masses).for_each(|(sum, it)| *sum += it),
                }
            }
        }
    }
}

impl Normals {
    fn push(&mut self, centre: f64, width: f64, (low, high): (f64, f64)) {
        let inverse = 1.0 / width;
        let (from, to) = ((low - centre) * inverse, (high - centre) * inverse);
        let log_mass = match from < -FAR && to > FAR {
            true => 0.0,
            false => mass(from, to).ln(),
        };
        // Most kernels have the least width: their peaks are equal.
        let log_peak = match (
            self.inverses.last(),
            self.log_peaks.last(),
            self.log_masses.last(),
        ) {
            (Some(before), Some(peak), Some(mass)) if *before == inverse => peak + mass,
            _ => -(width * TAU.sqrt()).ln(),
        };
        self.centres.push(centre);
        self.inverses.push(inverse);
        self.log_masses.push(log_mass);
        self.log_peaks.push(log_peak - log_mass);
    }

    /// The position of the last one.
    fn last(&self) -> u32 {
        u32::try_from(self.centres.len() - 1).expect("a bounded number of kernels")
    }

    /// The same in the order of the trials.
    fn ordered(&self, which: &[u32]) -> Self {
        let column = |from: &[f64]| which.iter().map(|at| from[*at as usize]).collect();
        Self {
            centres: column(&self.centres),
            inverses: column(&self.inverses),
            log_masses: column(&self.log_masses),
            log_peaks: column(&self.log_peaks),
        }
    }

    fn add_log_density(&self, place: f64, sums: &mut [f64]) {
        let kernels = self.centres.iter().zip(&self.inverses).zip(&self.log_peaks);
        for (sum, ((centre, inverse), log_peak)) in sums.iter_mut().zip(kernels) {
            let z = (place - centre) * inverse;
            *sum += log_peak - 0.5 * z * z;
        }
    }

    /// The logarithm of the mass of a cell by each kernel.
    fn log_cells(&self, (from, to): (f64, f64)) -> Vec<f64> {
        let (size, middle) = (to - from, 0.5 * (from + to));
        let log_size = size.ln();
        let kernels = self.centres.iter().zip(&self.inverses);
        let kernels = kernels.zip(self.log_peaks.iter().zip(&self.log_masses));
        let masses = kernels.map(|((centre, inverse), (log_peak, log_mass))| {
            let width = size * inverse;
            let z = (middle - centre) * inverse;
            if width < NARROW || z.abs() > FAR {
                // The density at the middle, and how much it bends: off by less than a thousandth.
                let bend = width * width * (z * z - 1.0) / 24.0;
                return log_peak - 0.5 * z * z + bend.min(1.0) + log_size;
            }
            mass(z - 0.5 * width, z + 0.5 * width).ln() - log_mass
        });
        masses.collect()
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

fn numbers(centres: impl Iterator<Item = f64>, low: f64, high: f64, counted: bool) -> Kernels {
    let mut sorted: Vec<(f64, u32)> = centres.zip(0..).collect();
    sorted.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let count = sorted.len();
    let range = high - low;
    let least = range / (count as f64 + 2.0).min(100.0);
    let width = |at: usize| {
        let centre = sorted[at].0;
        // The ends of the axis are neighbours of a single trial alone.
        let before = match at.checked_sub(1) {
            Some(before) => centre - sorted[before].0,
            None if count > 1 => 0.0,
            None => centre - low,
        };
        let after = match sorted.get(at + 1) {
            Some(after) => after.0 - centre,
            None if count > 1 => 0.0,
            None => high - centre,
        };
        before.max(after).clamp(least, range)
    };
    // Sorted kernels of the same width follow each other, and where values are counted many are equal, whose masses cost most.
    let mut kernels = Normals::default();
    let mut which = vec![0_u32; count + 1];
    for (at, (centre, trial)) in sorted.iter().enumerate() {
        let width = width(at);
        let same = kernels.centres.last() == Some(centre)
            && kernels.inverses.last() == Some(&(1.0 / width));
        if !(counted && same) {
            kernels.push(*centre, width, (low, high));
        }
        which[*trial as usize] = kernels.last();
    }
    kernels.push(0.5 * (low + high), range, (low, high));
    which[count] = kernels.last();
    if counted {
        return Kernels::Normal {
            kernels,
            which: Some(which),
        };
    }
    Kernels::Normal {
        kernels: kernels.ordered(&which),
        which: None,
    }
}
