//! The scale of a drawing: from values to places on it, with round marks.

/// Beyond this ratio of the greatest to the least value a scale is that of logarithms.
const WIDE: f64 = 20.0;
/// So many times as far from the worse quartile as that is from the best value, a value is left out.
const FAR: f64 = 4.0;

/// A scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
    log: bool,
}

impl Scale {
    /// The scale for values of which the best are of interest: what is far worse than most is beyond it. None where there are
    /// no finite values.
    pub fn of_best(values: impl IntoIterator<Item = f64>, maximize: bool) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().filter(|it| it.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        if maximize {
            sorted.reverse();
        }
        let (best, worst) = (*sorted.first()?, *sorted.last()?);
        let whole = Self::between(best, worst);
        let quartile = sorted[(sorted.len() - 1) * 3 / 4];
        let at = |value: f64| (whole.scaled(value) - whole.scaled(best)).abs();
        let most = at(quartile) * (1.0 + FAR);
        let kept = |value: &&f64| at(quartile) == 0.0 || at(**value) <= most;
        let worst = sorted.iter().rev().find(kept).copied().unwrap_or(worst);
        Some(Self::between(best, worst))
    }

    fn between(a: f64, b: f64) -> Self {
        let (low, high) = (a.min(b), a.max(b));
        let log = low > 0.0 && high / low > WIDE;
        Self { low, high, log }
    }

    /// Whether it is that of logarithms.
    pub fn is_log(&self) -> bool {
        self.log
    }

    /// Whether a value is on it.
    pub fn holds(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// The place of a value: 0 at the low end, 1 at the high one. What is beyond it is put at the end.
    pub fn place(&self, value: f64) -> f64 {
        let span = self.scaled(self.high) - self.scaled(self.low);
        if span <= 0.0 {
            return 0.5;
        }
        let value = value.clamp(self.low, self.high);
        (self.scaled(value) - self.scaled(self.low)) / span
    }

    fn scaled(&self, value: f64) -> f64 {
        if self.log { value.ln() } else { value }
    }

    /// Round values on it, at least one and about `most`.
    pub fn marks(&self, most: usize) -> Vec<f64> {
        let marks = match self.log {
            true => self.log_marks(most),
            false => self.even_marks(most),
        };
        if marks.is_empty() {
            return vec![self.low];
        }
        marks
    }

    fn even_marks(&self, most: usize) -> Vec<f64> {
        // Rather some more than half as many.
        let step = round_up((self.high - self.low) / most as f64 / 1.4);
        if step <= 0.0 || !step.is_finite() {
            return vec![self.low];
        }
        let first = (self.low / step).ceil();
        let count = ((self.high / step).floor() - first).max(0.0) as usize;
        (0..=count)
            .map(|n| (first + n as f64) * step)
            .filter(|mark| self.holds(*mark))
            // 3 x 0.1 is 0.30000000000000004.
            .map(|mark| format!("{mark:.12e}").parse().unwrap_or(mark))
            .collect()
    }

    /// Powers of ten, and where those are few also their double and fivefold.
    fn log_marks(&self, most: usize) -> Vec<f64> {
        let (low, high) = (self.low.log10(), self.high.log10());
        let few = (high - low) * 3.0 <= most as f64 * 2.0;
        // All powers are on the scale, but where their multiples may be that are not.
        let (first, last) = if few {
            (low.floor(), high)
        } else {
            (low.ceil(), high)
        };
        let every = match few {
            true => 1.0,
            false => ((last - first) / most as f64).ceil(),
        };
        let multiples: &[f64] = if few { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let mut marks = Vec::new();
        let mut power = first;
        while power <= last {
            marks.extend(multiples.iter().map(|n| n * 10f64.powf(power)));
            power += every;
        }
        marks.retain(|mark| self.holds(*mark));
        marks
    }
}

/// The next greater of 1, 2, 5 and 10 times a power of ten.
fn round_up(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|n| n * power);
    let greater = steps.into_iter().find(|step| *step >= least);
    greater.unwrap_or(power * 10.0)
}

/// The text of a mark: no more digits than it needs.
pub fn mark_text(value: f64) -> String {
    let magnitude = value.abs();
    if value != 0.0 && !(1e-4..1e7).contains(&magnitude) {
        let text = format!("{value:.3e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        let digits = digits.trim_end_matches('0').trim_end_matches('.');
        return format!("{digits}e{power}");
    }
    let text = dagrun_model::short_float_text(value);
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(values: &[f64], maximize: bool, most: usize) -> Vec<String> {
        let scale = Scale::of_best(values.iter().copied(), maximize).unwrap();
        scale.marks(most).into_iter().map(mark_text).collect()
    }

    #[test]
    fn marks_are_round_and_on_the_scale() {
        for (values, most, marks) in [
            (&[0.0, 1.0][..], 4, "0 0.2 0.4 0.6 0.8 1"),
            (&[59.69, 68.24], 4, "60 62 64 66 68"),
            (&[0.1, 0.4], 4, "0.1 0.2 0.3 0.4"),
            (&[-3.0, 12.0], 4, "0 5 10"),
            (&[457.7, 5434.5], 4, "1000 2000 3000 4000 5000"),
            (&[130.0, 5434.5], 4, "200 500 1000 2000 5000"),
            (&[1e-9, 1e9], 4, "1e-9 0.0001 10 1000000"),
            (&[7.0, 7.0], 4, "7"),
        ] {
            let found = texts(values, false, most).join(" ");
            assert_eq!(found, marks, "{values:?}");
        }
    }

    #[test]
    fn what_is_far_worse_than_most_is_beyond_the_scale() {
        let losses = [4.0, 8.0, 2.0, 1e9, 1.0];
        let scale = Scale::of_best(losses, false).unwrap();
        assert!(!scale.is_log() && scale.holds(8.0) && !scale.holds(1e9));
        assert_eq!(scale.place(1e9), 1.0);
        // Of what is maximised the small ones are.
        let scale = Scale::of_best([-4.0, -8.0, -2.0, -1e9, -1.0], true).unwrap();
        assert!(scale.holds(-8.0) && !scale.holds(-1e9));
        assert_eq!(scale.place(-1e9), 0.0);
    }

    #[test]
    fn losses_over_decades_have_a_logarithmic_scale() {
        let scale = Scale::of_best([1.0, 10.0, 100.0, 1000.0], false).unwrap();
        assert!(scale.is_log());
        let places = [1.0, 10.0, 100.0, 1000.0].map(|value| scale.place(value));
        for (place, third) in places.into_iter().zip([0.0, 1.0, 2.0, 3.0]) {
            assert!((place - third / 3.0).abs() < 1e-12, "{places:?}");
        }
        assert!(!Scale::of_best([0.0, 1000.0], false).unwrap().is_log());
    }

    #[test]
    fn there_is_no_scale_without_values() {
        assert_eq!(Scale::of_best([f64::NAN, f64::INFINITY], false), None);
        let one = Scale::of_best([7.0], true).unwrap();
        assert_eq!(one.place(7.0), 0.5);
    }
}
