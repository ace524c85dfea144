//! The distribution and how a generation moves it; names of numbers as in Hansen's tutorial.

use super::eigen::Matrix;

/// A told trial.
#[derive(Clone, Debug)]
pub(super) struct Offspring {
    /// Its place in the unit cube.
    pub(super) place: Vec<f64>,
    /// By how much constraints are broken.
    pub(super) violation: f64,
    /// Its value; none: it failed.
    pub(super) value: Option<f64>,
}

/// A normal distribution with its memory.
#[derive(Clone, Debug)]
pub(super) struct Evolution {
    mean: Vec<f64>,
    sigma: f64,
    covariance: Matrix,
    /// Square roots of the eigenvalues, and the eigenvectors.
    axes: (Vec<f64>, Matrix),
    path_c: Vec<f64>,
    path_sigma: Vec<f64>,
    generations: u32,
    /// Generations since the eigenvectors were worked out.
    stale: u32,
    weights: Vec<f64>,
    rates: Rates,
}

/// Learning rates, which follow from the number of parameters and the weights.
#[derive(Clone, Copy, Debug)]
struct Rates {
    mu_eff: f64,
    c_sigma: f64,
    d_sigma: f64,
    c_c: f64,
    c_1: f64,
    c_mu: f64,
    /// The expected length of a standard normal vector.
    chi: f64,
}

impl Evolution {
    pub(super) fn new(mean: Vec<f64>, sigma: f64, population: usize) -> Self {
        let dims = mean.len();
        let (weights, rates) = parameters(dims, population);
        Self {
            mean,
            sigma,
            covariance: Matrix::identity(dims),
            axes: (vec![1.0; dims], Matrix::identity(dims)),
            path_c: vec![0.0; dims],
            path_sigma: vec![0.0; dims],
            generations: 0,
            stale: 0,
            weights,
            rates,
        }
    }

    pub(super) fn population(&self) -> usize {
        self.weights.len()
    }

    /// The standard deviation of a coordinate.
    pub(super) fn spread(&self, at: usize) -> f64 {
        self.sigma * self.covariance.get(at, at).max(0.0).sqrt()
    }

    /// Whether it has shrunk to a point, or is too flat for floats.
    pub(super) fn has_shrunk(&self) -> bool {
        let widest = (0..self.mean.len()).map(|at| self.spread(at));
        let (least, most) = ends(&self.axes.0);
        widest.fold(0.0, f64::max) < 1e-11 || most > 1e7 * least || !self.sigma.is_finite()
    }

    /// Where standard normal steps lead.
    pub(super) fn place(&self, steps: &[f64], stretches: &[f64]) -> Vec<f64> {
        let (roots, vectors) = &self.axes;
        let scaled: Vec<f64> = steps.iter().zip(roots).map(|(z, d)| z * d).collect();
        let turned = vectors.times(&scaled);
        let parts = self.mean.iter().zip(turned).zip(stretches);
        parts
            .map(|((mean, y), stretch)| mean + self.sigma * y * stretch)
            .collect()
    }

    /// Moves by a whole generation.
    pub(super) fn evolve(&mut self, mut generation: Vec<Offspring>) {
        generation.sort_by(|a, b| {
            let rank = |it: &Offspring| (it.value.is_none(), it.violation, it.value.unwrap_or(0.0));
            let (a, b) = (rank(a), rank(b));
            (a.0.cmp(&b.0))
                .then(a.1.total_cmp(&b.1))
                .then(match a.1 == 0.0 {
                    true => a.2.total_cmp(&b.2),
                    false => std::cmp::Ordering::Equal,
                })
        });
        let successes = generation.iter().filter(|it| it.value.is_some()).count();
        if successes == 0 {
            return;
        }
        let steps: Vec<Vec<f64>> = generation.iter().map(|it| self.step(&it.place)).collect();
        let weights = self.weights_of(successes);
        let move_by = self.weighted(&steps, &weights);
        for (mean, y) in self.mean.iter_mut().zip(&move_by) {
            *mean += self.sigma * y;
        }
        self.generations += 1;
        let steady = self.follow(&move_by);
        self.adapt(&steps, &weights, steady);
        self.stale += 1;
        let dims = self.mean.len() as f64;
        let due = 1.0 / ((self.rates.c_1 + self.rates.c_mu) * dims * 10.0);
        if f64::from(self.stale) >= due {
            self.work_out_axes();
        }
    }

    /// The step from the mean to a place, in units of sigma; shortened where the distribution would hardly go so far.
    fn step(&self, place: &[f64]) -> Vec<f64> {
        let parts = place.iter().zip(&self.mean);
        let mut step: Vec<f64> = parts.map(|(x, mean)| (x - mean) / self.sigma).collect();
        let dims = self.mean.len() as f64;
        let most = dims.sqrt() + 2.0 * dims / (dims + 2.0);
        let length = length(&self.whitened(&step));
        if length > most {
            step.iter_mut().for_each(|y| *y *= most / length);
        }
        step
    }

    /// `C^(-1/2) y`.
    fn whitened(&self, y: &[f64]) -> Vec<f64> {
        let (roots, vectors) = &self.axes;
        let mut turned = vectors.transposed_times(y);
        turned.iter_mut().zip(roots).for_each(|(x, d)| *x /= d);
        vectors.times(&turned)
    }

    /// The weights of a generation of which so many have a value: those without it do not count.
    fn weights_of(&self, successes: usize) -> Vec<f64> {
        let mut weights = self.weights.clone();
        let good = weights.iter().filter(|it| **it > 0.0).count();
        if successes < good {
            weights[successes..good].fill(0.0);
            let sum: f64 = weights[..successes].iter().sum();
            weights[..successes].iter_mut().for_each(|it| *it /= sum);
        }
        weights
    }

    fn weighted(&self, steps: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
        let mut sum = vec![0.0; self.mean.len()];
        for (step, weight) in steps.iter().zip(weights).filter(|it| *it.1 > 0.0) {
            for (sum, y) in sum.iter_mut().zip(step) {
                *sum += weight * y;
            }
        }
        sum
    }

    /// Moves the paths and sigma; says whether the step was not too long for the path of the covariance.
    fn follow(&mut self, move_by: &[f64]) -> bool {
        let rates = self.rates;
        let white = self.whitened(move_by);
        let fresh = (rates.c_sigma * (2.0 - rates.c_sigma) * rates.mu_eff).sqrt();
        for (path, y) in self.path_sigma.iter_mut().zip(&white) {
            *path = (1.0 - rates.c_sigma) * *path + fresh * y;
        }
        let norm = length(&self.path_sigma);
        let exponent = (rates.c_sigma / rates.d_sigma * (norm / rates.chi - 1.0)).min(1.0);
        self.sigma *= exponent.exp();
        let left = 1.0 - (1.0 - rates.c_sigma).powf(2.0 * f64::from(self.generations + 1));
        let dims = self.mean.len() as f64;
        let steady = norm / left.sqrt() < (1.4 + 2.0 / (dims + 1.0)) * rates.chi;
        let fresh = match steady {
            true => (rates.c_c * (2.0 - rates.c_c) * rates.mu_eff).sqrt(),
            false => 0.0,
        };
        for (path, y) in self.path_c.iter_mut().zip(move_by) {
            *path = (1.0 - rates.c_c) * *path + fresh * y;
        }
        steady
    }

    /// Moves the covariance by the path, and by the steps of the generation.
    fn adapt(&mut self, steps: &[Vec<f64>], weights: &[f64], steady: bool) {
        let rates = self.rates;
        let dims = self.mean.len();
        let kept: Vec<f64> = (steps.iter().zip(weights))
            .map(|(step, weight)| match *weight < 0.0 {
                true => {
                    let length = length(&self.whitened(step));
                    weight * dims as f64 / (length * length).max(1e-12)
                }
                false => *weight,
            })
            .collect();
        let stalled = match steady {
            true => 0.0,
            false => rates.c_c * (2.0 - rates.c_c),
        };
        let sum: f64 = weights.iter().sum();
        let decay = 1.0 + rates.c_1 * stalled - rates.c_1 - rates.c_mu * sum;
        for row in 0..dims {
            for column in 0..=row {
                let terms = steps.iter().zip(&kept);
                let mu: f64 = terms.map(|(y, w)| w * y[row] * y[column]).sum();
                let one = self.path_c[row] * self.path_c[column];
                let cell =
                    decay * self.covariance.get(row, column) + rates.c_1 * one + rates.c_mu * mu;
                *self.covariance.at(row, column) = cell;
                *self.covariance.at(column, row) = cell;
            }
        }
    }

    fn work_out_axes(&mut self) {
        self.stale = 0;
        let (values, vectors) = self.covariance.eigen();
        let (_, most) = ends(&values);
        // Negative weights and rounding may leave a direction without any width.
        let least = (most * 1e-16).max(f64::MIN_POSITIVE);
        let roots = values.iter().map(|it| it.max(least).sqrt()).collect();
        self.axes = (roots, vectors);
    }
}

fn length(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn ends(items: &[f64]) -> (f64, f64) {
    let start = (f64::INFINITY, f64::NEG_INFINITY);
    let items = items.iter();
    items.fold(start, |(least, most), x| (least.min(*x), most.max(*x)))
}

/// Weights, best first, and rates: table 1 of the tutorial.
fn parameters(dims: usize, population: usize) -> (Vec<f64>, Rates) {
    let n = dims as f64;
    let lambda = population as f64;
    let raw: Vec<f64> = (1..=population)
        .map(|i| ((lambda + 1.0) / 2.0).ln() - (i as f64).ln())
        .collect();
    let effective = |positive: bool| {
        let chosen = || raw.iter().filter(|it| (**it > 0.0) == positive);
        let sum: f64 = chosen().sum();
        let squares: f64 = chosen().map(|it| it * it).sum();
        (sum, sum * sum / squares.max(f64::MIN_POSITIVE))
    };
    let ((good, mu_eff), (bad, mu_eff_bad)) = (effective(true), effective(false));
    let c_1 = 2.0 / ((n + 1.3).powi(2) + mu_eff);
    let c_mu = (1.0 - c_1)
        .min(2.0 * (mu_eff - 2.0 + 1.0 / mu_eff) / ((n + 2.0).powi(2) + mu_eff))
        .max(f64::MIN_POSITIVE);
    let alpha = (1.0 + c_1 / c_mu)
        .min(1.0 + 2.0 * mu_eff_bad / (mu_eff + 2.0))
        .min((1.0 - c_1 - c_mu) / (n * c_mu));
    let weights = raw.iter().map(|it| match *it > 0.0 {
        true => it / good,
        false if bad == 0.0 => 0.0,
        false => it * alpha / bad.abs(),
    });
    let c_sigma = (mu_eff + 2.0) / (n + mu_eff + 5.0);
    let rates = Rates {
        mu_eff,
        c_sigma,
        d_sigma: 1.0 + 2.0 * (((mu_eff - 1.0) / (n + 1.0)).sqrt() - 1.0).max(0.0) + c_sigma,
        c_c: (4.0 + mu_eff / n) / (n + 4.0 + 2.0 * mu_eff / n),
        c_1,
        c_mu,
        chi: n.sqrt() * (1.0 - 1.0 / (4.0 * n) + 1.0 / (21.0 * n * n)),
    };
    (weights.collect(), rates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_those_of_the_tutorial() {
        let (weights, rates) = parameters(5, 8);
        let good: f64 = weights.iter().filter(|it| **it > 0.0).sum();
        assert!((good - 1.0).abs() < 1e-12);
        assert!(weights.windows(2).all(|it| it[0] > it[1]));
        // As the package `cmaes` of PyPI has them.
        for (got, expected) in [
            (rates.mu_eff, 2.600_178_826_113_179_3),
            (rates.c_sigma, 0.365_088_376_093_485_4),
            (rates.d_sigma, 1.365_088_376_093_485_3),
            (rates.c_c, 0.450_199_557_992_807_9),
            (rates.c_1, 0.047_292_304_159_400_9),
            (rates.c_mu, 0.038_169_160_703_857_81),
            (weights[0], 0.529_930_18),
            (weights[3], 0.041_498_39),
            (weights[4], -0.167_279_51),
            (weights[7], -0.913_498_1),
        ] {
            assert!((got - expected).abs() < 1e-8, "{got} is not {expected}");
        }
    }

    #[test]
    fn a_generation_of_failures_changes_nothing() {
        let mut evolution = Evolution::new(vec![0.5; 3], 0.3, 4);
        let before = format!("{evolution:?}");
        let failed = Offspring {
            place: vec![0.1; 3],
            violation: 0.0,
            value: None,
        };
        evolution.evolve(vec![failed; 4]);
        assert_eq!(format!("{evolution:?}"), before);
    }
}
