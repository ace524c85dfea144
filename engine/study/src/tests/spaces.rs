//! Spaces: units, cleaning, names and conditions.

use dagrun_model::{BinaryOp, Expr, ExprKind, Span};

use super::*;

fn all() -> Vec<Parameter> {
    let mut rounded = parameter(
        "rounded",
        Distribution::Uniform {
            low: 0.123,
            high: 0.987,
        },
    );
    rounded.digits = Some(2);
    let mut spread = parameter(
        "spread",
        Distribution::Normal {
            mean: 10.0,
            sd: 2.0,
        },
    );
    spread.digits = Some(1);
    let mut parameters = space().parameters;
    parameters.extend([
        rounded,
        spread,
        parameter("odds", Distribution::LogInt { low: 1, high: 1000 }),
        parameter(
            "part",
            Distribution::Beta {
                alpha: 2.0,
                beta: 5.0,
            },
        ),
        parameter(
            "step",
            Distribution::Steps {
                low: 0.1,
                step: 0.1,
                count: 10,
                whole: false,
            },
        ),
    ]);
    parameters
}

#[test]
fn units_go_there_and_back() {
    for it in all() {
        let (low, high) = it.bounds();
        let mut last = f64::NEG_INFINITY;
        for i in 0..=1000 {
            let x = it.from_unit(f64::from(i) / 1000.0);
            assert!((low..=high).contains(&x), "{}: {x}", it.name);
            assert!(x >= last, "{} rises", it.name);
            assert_eq!(
                it.clean(x).to_bits(),
                x.to_bits(),
                "{}: {x} is clean",
                it.name
            );
            let again = it.from_unit(it.to_unit(x));
            assert!(
                (again - x).abs() <= 1e-9 * x.abs().max(1.0),
                "{}: {x} comes back as {again}",
                it.name
            );
            let given = it.coordinate(&it.value(x));
            assert_eq!(given.map(f64::to_bits), Ok(x.to_bits()), "{}", it.name);
            last = x;
        }
        assert!(it.to_unit(f64::NAN).is_nan());
        assert_eq!(
            it.from_unit(f64::NAN).to_bits(),
            it.from_unit(0.5).to_bits()
        );
        for x in [f64::INFINITY, f64::NEG_INFINITY, 1e300, -1e300, f64::NAN] {
            let x = it.clean(x);
            assert!(x.is_finite() && (low..=high).contains(&x), "{}", it.name);
        }
    }
}

#[test]
fn counted_values_have_equal_shares() {
    for (name, expected) in [("carriers", 21), ("season", 2), ("step", 10)] {
        let it = all().into_iter().find(|it| &*it.name == name).expect(name);
        assert_eq!(it.count(), Some(expected));
        let mut shares = BTreeMap::new();
        let draws = 2100 * expected;
        for i in 0..draws {
            let x = it.from_unit((i as f64 + 0.5) / draws as f64);
            *shares.entry(x.to_bits()).or_insert(0_u64) += 1;
        }
        assert_eq!(shares.len() as u64, expected, "{name}");
        assert!(
            shares.values().all(|share| share.abs_diff(2100) <= 1),
            "{name}"
        );
    }
}

#[test]
fn values_keep_their_types_and_have_no_noise() {
    let space = Space { parameters: all() };
    let mut point: Vec<f64> = space
        .parameters
        .iter()
        .map(|it| it.from_unit(0.25))
        .collect();
    space.clean(&mut point);
    let values = space.values(&point);
    let text: Vec<String> = values.values().map(Value::to_text).collect();
    assert_eq!(text[2..4], ["5", "flat"]);
    assert_eq!(text[4], "0.34");
    assert_eq!(text[5], "8.7");
    assert_eq!(text[8], "0.3");
    assert_eq!(values["carriers"].type_name(), "integer");
    assert_eq!(space.coordinates(&values), Ok(point));
}

#[test]
fn digits_stay_inside() {
    let mut it = all().swap_remove(4);
    assert_eq!(it.clean(0.0), 0.13);
    assert_eq!(it.clean(1.0), 0.98);
    assert_eq!(it.count(), Some(86));
    it.digits = Some(0);
    it.distribution = Distribution::Uniform {
        low: -0.4,
        high: 2.4,
    };
    assert_eq!(
        it.clean(-0.3).to_bits(),
        0.0_f64.to_bits(),
        "there is one zero"
    );
}

#[test]
fn what_others_propose_is_looked_at() {
    let space = space();
    let proposed = |name: &str, value: Value| {
        let mut values = space.values(&[0.1, 0.5, 3.0, 1.0]);
        values.insert(name.into(), value);
        space.coordinates(&values).map(|_| ())
    };
    let cases = [
        ("share", Value::Float(0.25), Ok(())),
        ("share", Value::Int(1), Ok(())),
        ("carriers", Value::Float(4.0), Ok(())),
        ("season", Value::str("flat"), Ok(())),
        (
            "share",
            Value::Float(1.5),
            Err("`share` cannot be 1.5: it is between 0.0 and 1.0"),
        ),
        (
            "share",
            Value::Float(f64::NAN),
            Err("`share` cannot be NaN: it is a finite number"),
        ),
        (
            "share",
            Value::str("x"),
            Err("`share` cannot be x: it is a finite number"),
        ),
        (
            "share",
            Value::Null,
            Err("`share` cannot be null: it is a finite number"),
        ),
        (
            "carriers",
            Value::Float(4.5),
            Err("`carriers` cannot be 4.5: it is a whole number"),
        ),
        (
            "carriers",
            Value::Int(21),
            Err("`carriers` cannot be 21: it is between 0.0 and 20.0"),
        ),
        (
            "season",
            Value::str("dry"),
            Err("`season` cannot be dry: it is one of flat, monsoon"),
        ),
        (
            "chare",
            Value::Int(1),
            Err("`chare` is not a parameter of the space; did you mean `share`?"),
        ),
        (
            "zzz",
            Value::Int(1),
            Err("`zzz` is not a parameter of the space, which has beta, share, carriers, season"),
        ),
    ];
    for (name, value, expected) in cases {
        assert_eq!(proposed(name, value), expected.map_err(str::to_owned));
    }
    let lacks = space.coordinates(&Map::new());
    assert_eq!(lacks, Err("`beta` has no value".to_owned()));
}

/// `trial.NAME == text`
fn when(name: &str, text: &str) -> Expr {
    let at = |kind| Expr::new(kind, Span::default());
    let trial = at(ExprKind::Context("trial".into()));
    at(ExprKind::Binary(
        BinaryOp::Eq,
        Box::new(at(ExprKind::Member(Box::new(trial), name.into()))),
        Box::new(at(ExprKind::Literal(Value::str(text)))),
    ))
}

#[test]
fn what_is_not_active_is_null() {
    let mut space = space();
    let mut rain = parameter("rain", Distribution::Int { low: 1, high: 9 });
    rain.when = Some(when("season", "monsoon"));
    space.parameters.push(rain);
    assert_eq!(space.size(), None);
    for (season, expected) in [(0.0, "null"), (1.0, "7")] {
        let mut point = [0.1, 0.5, 3.0, season, 7.0];
        space.clean(&mut point);
        let mut values = space.values(&point);
        assert_eq!(values["rain"].to_text(), expected);
        let bits = |point: &[f64]| point.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let back = space.coordinates(&values).expect("it came from there");
        assert_eq!(bits(&back), bits(&point));
        // A sampler that knows no conditions gives a value for it anyway.
        values.insert("rain".into(), Value::Int(7));
        let back = space.coordinates(&values).expect("it is dropped");
        assert_eq!(bits(&back), bits(&point));
        values.shift_remove("rain");
        assert_eq!(space.coordinates(&values).is_ok(), season == 0.0);
    }
    let mut study = definition(Order::Lag(4), 40);
    study.space = space;
    let mut driver = Driver::new(study.clone());
    driver.finish(&mut Chance(1));
    let nulls = driver.study.rows().filter(|row| row.point[4].is_nan());
    assert!((5..35).contains(&nulls.count()));
    Driver::resumed(study.clone(), &driver.log);
    let mut other = study.clone();
    other.space.parameters[4].when = Some(when("season", "flat"));
    assert_ne!(study.identity(), other.identity());
    assert_eq!(
        study.text().space[4].when.as_deref(),
        Some("(trial.season == \"monsoon\")")
    );
}
