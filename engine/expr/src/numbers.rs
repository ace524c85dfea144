//! Sequences, statistics and rounding.

use dagrun_model::Value;

use crate::{EvalError, MAX_ITEMS, eval::article, ops::overflow};

/// A float rounded to 15 significant digits, so that `0.1 + 2 * 0.1` of a sequence prints as `0.3`.
pub fn round_significant(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    format!("{x:.14e}")
        .parse()
        .expect("a printed float reads back")
}

/// `range(from, to[, step])`, both ends included where the step meets them.
pub(crate) fn range(
    from: &Value,
    to: &Value,
    step: Option<&Value>,
) -> Result<Vec<Value>, EvalError> {
    let step = step.cloned().unwrap_or(Value::Int(1));
    if let (Some(a), Some(b), Some(s)) = (from.as_i64(), to.as_i64(), step.as_i64()) {
        return int_range(a, b, s);
    }
    let (a, b, s) = (
        finite("range", from)?,
        finite("range", to)?,
        finite("range", &step)?,
    );
    if s == 0.0 {
        return Err(zero_step());
    }
    // A hair more than the quotient: (0.5 - 0.1) / 0.1 is a little below 4 in binary.
    let steps = (b - a) / s * (1.0 + 1e-12) + 1e-9;
    let count = if steps < 0.0 {
        0.0
    } else {
        steps.floor() + 1.0
    };
    let count = checked_count(count)?;
    Ok((0..count)
        .map(|i| Value::Float(round_significant(a + i as f64 * s)))
        .collect())
}

fn int_range(a: i64, b: i64, step: i64) -> Result<Vec<Value>, EvalError> {
    if step == 0 {
        return Err(zero_step());
    }
    let steps = (i128::from(b) - i128::from(a)).checked_div(i128::from(step));
    let forward = (step > 0 && b >= a) || (step < 0 && b <= a);
    let count = if forward { steps.unwrap_or(0) + 1 } else { 0 };
    let count = checked_count(count as f64)?;
    // Every item lies between the ends, but `i * step` alone may leave 64 bits.
    let item = |i: usize| i128::from(a) + i as i128 * i128::from(step);
    Ok((0..count).map(|i| Value::Int(item(i) as i64)).collect())
}

/// `linspace(from, to, n)`: `n` points at equal distances, both ends included.
pub(crate) fn linspace(from: &Value, to: &Value, n: &Value) -> Result<Vec<Value>, EvalError> {
    let (a, b) = (finite("linspace", from)?, finite("linspace", to)?);
    let points = points("linspace", n)?;
    let values = (0..points).map(|i| spaced(a, b, i, points)).collect();
    Ok(whole_or_floats(values, from, to))
}

/// `logspace(from, to, n)`: ten to the power of `n` exponents at equal distances, both ends included.
pub(crate) fn logspace(from: &Value, to: &Value, n: &Value) -> Result<Vec<Value>, EvalError> {
    let (a, b) = (finite("logspace", from)?, finite("logspace", to)?);
    let points = points("logspace", n)?;
    let values: Vec<f64> = (0..points)
        .map(|i| round_significant(ten_to(spaced(a, b, i, points))))
        .collect();
    if values.iter().any(|v| !v.is_finite()) {
        return Err(
            EvalError::new("`logspace` leaves the range of floats").help(
                "its first two arguments are exponents of ten: `logspace(-3, 0, 4)` is 0.001 to 1",
            ),
        );
    }
    Ok(whole_or_floats(values, from, to))
}

fn spaced(a: f64, b: f64, i: usize, points: usize) -> f64 {
    if i == 0 {
        a
    } else if i + 1 == points {
        b
    } else {
        round_significant(a + (b - a) * (i as f64 / (points - 1) as f64))
    }
}

/// Whole exponents go through text: that is exact and the same on every platform.
fn ten_to(exponent: f64) -> f64 {
    if exponent.fract() == 0.0 && exponent.abs() < 400.0 {
        format!("1e{exponent:.0}")
            .parse()
            .expect("a power of ten reads as a float")
    } else {
        10f64.powf(exponent)
    }
}

/// Integers where both ends are integers and all points are whole; otherwise floats throughout.
fn whole_or_floats(values: Vec<f64>, from: &Value, to: &Value) -> Vec<Value> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let whole = from.as_i64().is_some()
        && to.as_i64().is_some()
        && values.iter().all(|v| v.fract() == 0.0 && v.abs() < EXACT);
    values
        .into_iter()
        .map(|v| {
            if whole {
                Value::Int(v as i64)
            } else {
                Value::Float(v)
            }
        })
        .collect()
}

fn points(function: &str, n: &Value) -> Result<usize, EvalError> {
    match n.as_i64() {
        Some(n) if n >= 1 => checked_count(n as f64),
        _ => Err(EvalError::new(format!(
            "`{function}` needs a whole number of points, at least 1, and got {}",
            n.to_text()
        ))),
    }
}

fn checked_count(count: f64) -> Result<usize, EvalError> {
    if count <= MAX_ITEMS as f64 {
        Ok(count as usize)
    } else {
        Err(EvalError::new(format!(
            "this list would have {count:.0} items; the limit is {MAX_ITEMS}"
        )))
    }
}

fn zero_step() -> EvalError {
    EvalError::new("the step of `range` is 0")
}

fn finite(function: &str, value: &Value) -> Result<f64, EvalError> {
    match value.as_f64() {
        Some(f) if f.is_finite() => Ok(f),
        Some(f) => Err(EvalError::new(format!("`{function}` of {f}"))
            .help("`isfinite(x)` tells numbers from NaN and infinities")),
        None => Err(EvalError::new(format!(
            "`{function}` needs numbers, and got {}",
            article(value.type_name())
        ))),
    }
}

/// The numbers that `sum` and its kin are about: the arguments, or the items of a single list.
pub(crate) fn operands<'v>(
    function: &str,
    arguments: &'v [Value],
) -> Result<&'v [Value], EvalError> {
    let numbers = match arguments {
        [Value::List(items)] => items,
        arguments => arguments,
    };
    match numbers.iter().find(|v| v.as_f64().is_none()) {
        None => Ok(numbers),
        Some(other) => Err(EvalError::new(format!(
            "`{function}` needs numbers, and one of them is {}",
            article(other.type_name())
        ))),
    }
}

/// The sum from left to right: an integer where all are.
pub(crate) fn sum(numbers: &[Value]) -> Result<Value, EvalError> {
    if let Some(ints) = integers(numbers) {
        return ints
            .into_iter()
            .try_fold(0i64, i64::checked_add)
            .map(Value::Int)
            .ok_or_else(overflow);
    }
    Ok(Value::Float(floats(numbers).sum()))
}

/// The arithmetic mean, a float.
pub(crate) fn mean(numbers: &[Value]) -> Result<Value, EvalError> {
    not_empty("mean", numbers)?;
    Ok(Value::Float(
        floats(numbers).sum::<f64>() / numbers.len() as f64,
    ))
}

/// The middle one, or the mean of the two in the middle; NaN where one is NaN.
pub(crate) fn median(numbers: &[Value]) -> Result<Value, EvalError> {
    not_empty("median", numbers)?;
    if let Some(nan) = numbers.iter().find(|v| v.as_f64().is_some_and(f64::is_nan)) {
        return Ok(nan.typed().clone());
    }
    let mut sorted: Vec<&Value> = numbers.iter().map(Value::typed).collect();
    sorted.sort_by(|a, b| {
        let number = |v: &Value| v.as_f64().expect("operands() lets only numbers through");
        number(a).total_cmp(&number(b))
    });
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        return Ok(sorted[middle].clone());
    }
    mean(&[sorted[middle - 1].clone(), sorted[middle].clone()])
}

/// The least (`sign` 1) or greatest (`sign` -1) number; NaN where one is NaN.
pub(crate) fn extreme(function: &str, numbers: &[Value], sign: f64) -> Result<Value, EvalError> {
    not_empty(function, numbers)?;
    let mut best = numbers[0].typed();
    for number in &numbers[1..] {
        let (new, old) = (number.typed(), best);
        let better = match (new, old) {
            (Value::Int(a), Value::Int(b)) => (a < b) == (sign > 0.0) && a != b,
            _ => {
                let f = |v: &Value| v.as_f64().unwrap_or(f64::NAN) * sign;
                !f(old).is_nan() && (f(new).is_nan() || f(new) < f(old))
            }
        };
        if better {
            best = new;
        }
    }
    Ok(best.clone())
}

/// `round(x[, digits])`: halves go away from zero; an integer unless digits after the point are asked for.
pub(crate) fn round(x: &Value, digits: Option<&Value>) -> Result<Value, EvalError> {
    let number = finite("round", x)?;
    let digits = match digits {
        None => 0,
        Some(d) => d
            .as_i64()
            .filter(|d| (-18..=18).contains(d))
            .ok_or_else(|| EvalError::new("the digits of `round` are an integer from -18 to 18"))?,
    };
    match x.as_i64() {
        Some(i) if digits >= 0 => Ok(Value::Int(i)),
        Some(i) => round_int(i, digits),
        None if digits > 0 => Ok(Value::Float(round_decimal(number, digits as usize))),
        None => {
            let whole = number.round();
            // 2^63 itself does not fit.
            if !(-9.223_372_036_854_776e18..9.223_372_036_854_776e18).contains(&whole) {
                return Ok(Value::Float(whole));
            }
            round_int(whole as i64, digits)
        }
    }
}

fn round_int(i: i64, digits: i64) -> Result<Value, EvalError> {
    let unit = 10i128.pow(digits.unsigned_abs() as u32);
    let (i, half) = (i128::from(i), unit / 2);
    let rounded = if i >= 0 { i + half } else { i - half } / unit * unit;
    i64::try_from(rounded)
        .map(Value::Int)
        .map_err(|_| overflow())
}

fn round_decimal(x: f64, digits: usize) -> f64 {
    let scale = 10f64.powi(digits as i32);
    let scaled = x * scale;
    // A tie that is exact in binary, such as 0.125; all others are decided by the exact decimal expansion.
    if scaled.fract().abs() == 0.5 && scaled / scale == x && scaled.abs() < 1e15 {
        return scaled.round() / scale;
    }
    format!("{x:.digits$}")
        .parse()
        .expect("a printed float reads back")
}

fn integers(numbers: &[Value]) -> Option<Vec<i64>> {
    numbers.iter().map(Value::as_i64).collect()
}

fn floats(numbers: &[Value]) -> impl Iterator<Item = f64> {
    numbers.iter().filter_map(Value::as_f64)
}

fn not_empty(function: &str, numbers: &[Value]) -> Result<(), EvalError> {
    if numbers.is_empty() {
        return Err(EvalError::new(format!("`{function}` of an empty list")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(value: &Value) -> f64 {
        value.as_f64().expect("sequences hold numbers")
    }

    proptest! {
        #[test]
        fn ranges_stay_between_their_ends(a in -1e6..1e6, count in 0..500u32, step in 1e-3..1e3) {
            let b = a + f64::from(count) * step;
            let items = range(&Value::Float(a), &Value::Float(b), Some(&Value::Float(step))).unwrap();
            prop_assert_eq!(items.len(), count as usize + 1);
            let slack = 1e-6 * step.max(1.0);
            prop_assert!(items.iter().all(|v| (a - slack..=b + slack).contains(&number(v))));
        }

        #[test]
        fn whole_ranges_are_exact(a in any::<i32>(), count in 0..1000i64, step in 1..1000i64, down: bool) {
            let (a, step) = (i64::from(a), if down { -step } else { step });
            let b = a + count * step;
            let items = range(&Value::Int(a), &Value::Int(b), Some(&Value::Int(step))).unwrap();
            prop_assert_eq!(items.len() as i64, count + 1);
            prop_assert_eq!(items.last(), Some(&Value::Int(b)));
        }

        #[test]
        fn points_begin_and_end_as_given(a in -1e9..1e9, b in -1e9..1e9, n in 2..200i64) {
            let items = linspace(&Value::Float(a), &Value::Float(b), &Value::Int(n)).unwrap();
            prop_assert_eq!(items.len() as i64, n);
            prop_assert_eq!((number(&items[0]), number(&items[items.len() - 1])), (a, b));
        }

        #[test]
        fn rounding_is_stable(x in any::<f64>(), digits in 0..12i64) {
            let once = round_significant(x);
            prop_assert!(x.is_nan() || round_significant(once) == once);
            if x.is_finite() {
                let digits = Value::Int(digits);
                let once = round(&Value::Float(x), Some(&digits)).unwrap();
                prop_assert_eq!(&round(&once, Some(&digits)).unwrap(), &once);
            }
        }

        #[test]
        fn the_middle_lies_between_the_ends(items in proptest::collection::vec(-1e6..1e6f64, 1..40)) {
            let items: Vec<Value> = items.into_iter().map(Value::Float).collect();
            let least = number(&extreme("min", &items, 1.0).unwrap());
            let greatest = number(&extreme("max", &items, -1.0).unwrap());
            let middle = number(&median(&items).unwrap());
            prop_assert!(least <= middle && middle <= greatest);
            prop_assert!(items.iter().all(|v| (least..=greatest).contains(&number(v))));
        }
    }

    #[test]
    fn ends_of_the_integers_do_not_overflow() {
        let (least, greatest) = (Value::Int(i64::MIN), Value::Int(i64::MAX));
        assert!(range(&least, &greatest, None).is_err());
        let items = range(&least, &greatest, Some(&greatest)).unwrap();
        assert_eq!(items.len(), 3);
        assert_eq!(range(&greatest, &greatest, None).unwrap().len(), 1);
        assert!(sum(&[greatest.clone(), Value::Int(1)]).is_err());
        assert!(round(&greatest, Some(&Value::Int(-1))).is_err());
    }

    #[test]
    fn nan_is_not_hidden() {
        let items = [Value::Float(1.0), Value::Float(f64::NAN), Value::Int(0)];
        for value in [
            extreme("min", &items, 1.0).unwrap(),
            extreme("max", &items, -1.0).unwrap(),
            median(&items).unwrap(),
            mean(&items).unwrap(),
        ] {
            assert!(number(&value).is_nan());
        }
    }
}
