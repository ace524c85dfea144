//! The way between a parameter and the unit interval: samplers that fill a cube need nothing else of a space.

use crate::{Distribution, Parameter, space::step_value, special};

impl Parameter {
    /// The coordinate at a quantile from 0 to 1, cleaned: evenly spread quantiles give coordinates that are spread as the
    /// parameter is.
    pub fn from_unit(&self, u: f64) -> f64 {
        let u = if u.is_nan() { 0.5 } else { u.clamp(0.0, 1.0) };
        let x = match &self.distribution {
            Distribution::Uniform { low, high } => low + u * (high - low),
            Distribution::LogUniform { low, high } => between_logs(*low, *high, u),
            Distribution::Int { low, high } => {
                let count = (high - low) as f64 + 1.0;
                *low as f64 + (u * count).floor().min(count - 1.0)
            }
            // Each whole number has the share of the half interval around it, as Optuna has it.
            Distribution::LogInt { low, high } => {
                between_logs(*low as f64 - 0.5, *high as f64 + 0.5, u)
            }
            Distribution::Choice(choices) => bin(u, choices.len() as f64),
            Distribution::Normal { mean, sd } => mean + sd * special::normal_quantile(u),
            Distribution::Beta { alpha, beta } => special::beta_quantile(*alpha, *beta, u),
            Distribution::Steps {
                low, step, count, ..
            } => return step_value(*low, *step, bin(u, f64::from(*count)) as u32) + 0.0,
        };
        self.clean(x)
    }

    /// The quantile of a coordinate; the middle of its share where values are counted; NaN for NaN.
    pub fn to_unit(&self, x: f64) -> f64 {
        if x.is_nan() {
            return f64::NAN;
        }
        let u = match &self.distribution {
            Distribution::Uniform { low, high } => (x - low) / (high - low),
            Distribution::LogUniform { low, high } => log_share(*low, *high, x),
            Distribution::Int { low, high } => {
                (x - *low as f64 + 0.5) / ((high - low) as f64 + 1.0)
            }
            Distribution::LogInt { low, high } => {
                let (low, high) = (*low as f64 - 0.5, *high as f64 + 0.5);
                0.5 * (log_share(low, high, x - 0.5) + log_share(low, high, x + 0.5))
            }
            Distribution::Choice(choices) => (x + 0.5) / choices.len() as f64,
            Distribution::Normal { mean, sd } => special::normal_cdf((x - mean) / sd),
            Distribution::Beta { alpha, beta } => special::beta_cdf(*alpha, *beta, x),
            Distribution::Steps {
                low, step, count, ..
            } => (((x - low) / step).round() + 0.5) / f64::from(*count),
        };
        u.clamp(0.0, 1.0)
    }
}

fn bin(u: f64, count: f64) -> f64 {
    (u * count).floor().min(count - 1.0)
}

fn between_logs(low: f64, high: f64, u: f64) -> f64 {
    (low.ln() + u * (high.ln() - low.ln()))
        .exp()
        .clamp(low, high)
}

fn log_share(low: f64, high: f64, x: f64) -> f64 {
    (x.ln() - low.ln()) / (high.ln() - low.ln())
}
