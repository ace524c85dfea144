//! All samplers alike: functions of what they are shown, which stay in the space.

use std::collections::BTreeSet;

use dagrun_model::{BinaryOp, Expr, ExprKind, Map, SamplerKind, Span, Value};

use super::{design_size, make};
use crate::{
    Distribution, History, Parameter, Space, Told,
    tests::{Chance, parameter, space},
};

const OWN: [SamplerKind; 6] = [
    SamplerKind::Grid,
    SamplerKind::Random,
    SamplerKind::Sobol,
    SamplerKind::Lhs,
    SamplerKind::Tpe,
    SamplerKind::Cmaes,
];

/// `trial.NAME == VALUE`
fn when(name: &str, value: Value) -> Option<Expr> {
    let expr = |kind| Expr {
        kind,
        span: Span::default(),
    };
    let trial = expr(ExprKind::Context("trial".into()));
    Some(expr(ExprKind::Binary(
        BinaryOp::Eq,
        Box::new(expr(ExprKind::Member(Box::new(trial), name.into()))),
        Box::new(expr(ExprKind::Literal(value))),
    )))
}

fn numbers() -> Space {
    let mut parameters = space().parameters;
    parameters.retain(|it| &*it.name != "season");
    let more = [
        Distribution::LogInt { low: 1, high: 900 },
        Distribution::Normal { mean: 5.0, sd: 2.0 },
        Distribution::Beta {
            alpha: 2.0,
            beta: 5.0,
        },
        Distribution::Steps {
            low: 0.1,
            step: 0.1,
            count: 9,
            whole: false,
        },
        Distribution::Steps {
            low: 4.0,
            step: 1.0,
            count: 1,
            whole: true,
        },
    ];
    parameters.extend(more.into_iter().map(|it| parameter("more", it)));
    parameters[1].digits = Some(2);
    Space { parameters }
}

/// Numbers and choices, some of which are active only sometimes.
fn conditional() -> Space {
    let mut space = numbers();
    let choice =
        |values: &[&str]| Distribution::Choice(values.iter().map(|it| Value::str(*it)).collect());
    let with = |name: &str, distribution, when| Parameter {
        when,
        ..parameter(name, distribution)
    };
    let wet = || when("season", Value::str("monsoon"));
    space.parameters.extend([
        with("season", choice(&["flat", "monsoon", "dry"]), None),
        with("rain", Distribution::Normal { mean: 0.0, sd: 1.0 }, wet()),
        with("days", Distribution::Int { low: 1, high: 3 }, wet()),
        with("how", choice(&["a", "b"]), when("days", Value::Int(2))),
    ]);
    space
}

fn options(kind: SamplerKind, seed: i64) -> Map {
    let mut options = Map::new();
    match kind {
        SamplerKind::Grid => options.insert("levels".into(), Value::Int(3)),
        _ => options.insert("seed".into(), Value::Int(seed)),
    };
    if kind == SamplerKind::Tpe && seed % 2 == 1 {
        options.insert("startup".into(), Value::Int(0));
    }
    if kind == SamplerKind::Cmaes && seed % 2 == 1 {
        options.insert("population".into(), Value::Int(4));
    }
    options
}

fn bits(point: &[f64]) -> Vec<u64> {
    point.iter().map(|x| x.to_bits()).collect()
}

/// A study of trials that end in any order; each ask is put to a sampler that was there all along and to a new one.
fn check(kind: SamplerKind, space: &Space, objectives: usize, seed: i64) {
    let mut chance = Chance(seed.cast_unsigned() << 20);
    let options = options(kind, seed);
    let new = || make(kind, &options, space, 40).expect("it is an own sampler");
    let mut steady = new();
    let mut history = History::new(space.dims(), objectives);
    let mut pending: Vec<(u64, Vec<f64>)> = Vec::new();
    for ask in 1..=45 {
        let shown: Vec<&[f64]> = pending.iter().map(|it| it.1.as_slice()).collect();
        let point = steady.ask(space, ask, &history, &shown);
        let again = new().ask(space, ask, &history, &shown);
        assert_eq!(
            point.as_deref().map(bits),
            again.as_deref().map(bits),
            "{kind:?}, seed {seed}, ask {ask}"
        );
        let Some(mut point) = point else { break };
        space.clean(&mut point);
        assert!(space.holds(&point), "{kind:?}: {point:?}");
        pending.push((ask, point));
        while pending.len() > chance.below(6) {
            let (trial, point) = pending.remove(chance.below(pending.len()));
            let values: Vec<f64> = (0..objectives)
                .map(|at| {
                    let terms = point.iter().filter(|x| !x.is_nan());
                    terms.map(|x| (x - at as f64).powi(2)).sum()
                })
                .collect();
            let failed = chance.below(8) == 0;
            history.push(Told {
                trial,
                point: &point,
                values: (!failed).then_some(&values),
                violation: if chance.below(4) == 0 {
                    chance.unit()
                } else {
                    0.0
                },
            });
        }
    }
}

#[test]
fn an_answer_depends_on_nothing_but_what_is_shown() {
    for kind in OWN {
        for seed in 0..3 {
            check(kind, &numbers(), 1, seed);
            if kind != SamplerKind::Cmaes {
                check(kind, &conditional(), 1, seed);
                check(kind, &conditional(), 2, seed);
                check(kind, &numbers(), 3, seed);
            }
        }
    }
}

#[test]
fn seeds_differ() {
    let space = numbers();
    let history = History::new(space.dims(), 1);
    for kind in OWN.into_iter().filter(|it| *it != SamplerKind::Grid) {
        let points: BTreeSet<Vec<u64>> = (0..20)
            .map(|seed| {
                let mut sampler = make(kind, &options(kind, seed), &space, 40).expect("it is own");
                bits(
                    &sampler
                        .ask(&space, 1, &history, &[])
                        .expect("it has no end"),
                )
            })
            .collect();
        assert_eq!(points.len(), 20, "{kind:?}");
    }
}

fn grid(space: &Space, levels: Value) -> Vec<String> {
    let options = Map::from_iter([("levels".into(), levels)]);
    let mut grid = make(SamplerKind::Grid, &options, space, 0).expect("it is own");
    let history = History::new(space.dims(), 1);
    let points = (1..).map_while(|ask| grid.ask(space, ask, &history, &[]));
    let texts: Vec<String> = points
        .map(|mut point| {
            let as_is = bits(&point);
            space.clean(&mut point);
            assert_eq!(bits(&point), as_is, "a grid needs no cleaning");
            let values = space.values(&point);
            values
                .values()
                .map(Value::to_text)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    let size = design_size(SamplerKind::Grid, &options, space).expect("a grid has a size");
    assert_eq!(size, Ok(texts.len() as u64));
    texts
}

#[test]
fn the_last_parameter_of_a_grid_changes_fastest() {
    let mut share = parameter(
        "share",
        Distribution::Uniform {
            low: 0.0,
            high: 1.0,
        },
    );
    let odd = parameter("odd", Distribution::Int { low: 1, high: 2 });
    let log = parameter(
        "log",
        Distribution::LogUniform {
            low: 1.0,
            high: 100.0,
        },
    );
    let space = Space {
        parameters: vec![odd.clone(), share.clone()],
    };
    assert_eq!(
        grid(&space, Value::Int(3)),
        ["1 0.0", "1 0.5", "1 1.0", "2 0.0", "2 0.5", "2 1.0"]
    );
    let levels = Value::map(Map::from_iter([
        ("log".into(), Value::Int(3)),
        ("share".into(), Value::Int(1)),
    ]));
    let space = Space {
        parameters: vec![log, share.clone(), odd],
    };
    assert_eq!(
        grid(&space, levels),
        [
            "1.0 0.5 1",
            "1.0 0.5 2",
            "10.0 0.5 1",
            "10.0 0.5 2",
            "100.0 0.5 1",
            "100.0 0.5 2"
        ]
    );
    share.digits = Some(1);
    let space = Space {
        parameters: vec![share],
    };
    assert_eq!(grid(&space, Value::Int(20)).len(), 11);
    assert_eq!(grid(&space, Value::Int(3)), ["0.0", "0.5", "1.0"]);
}

#[test]
fn what_is_not_active_does_not_multiply_a_grid() {
    let mut space = conditional();
    space
        .parameters
        .retain(|it| ["season", "days", "how"].contains(&&*it.name));
    assert_eq!(
        grid(&space, Value::Int(1)),
        [
            "flat null null",
            "monsoon 1 null",
            "monsoon 2 a",
            "monsoon 2 b",
            "monsoon 3 null",
            "dry null null"
        ]
    );
    // What no condition refers to only multiplies, wherever it stands.
    let carriers = parameter("carriers", Distribution::Int { low: 0, high: 20 });
    for at in 0..=3 {
        let mut wider = space.clone();
        wider.parameters.insert(at, carriers.clone());
        let points = grid(&wider, Value::Int(1));
        assert_eq!(points.iter().collect::<BTreeSet<_>>().len(), 6 * 21);
    }
}

#[test]
fn a_grid_says_what_has_no_end() {
    assert_eq!(
        design_size(SamplerKind::Grid, &Map::new(), &space()),
        Some(Err("`beta` has no finite number of values".to_owned()))
    );
    assert_eq!(design_size(SamplerKind::Tpe, &Map::new(), &space()), None);
}

#[test]
fn a_hypercube_has_a_point_in_each_share() {
    let space = numbers();
    let history = History::new(space.dims(), 1);
    for (seed, first) in [(0, 1), (1, 1), (2, 41), (3, 401)] {
        let mut sampler = make(
            SamplerKind::Lhs,
            &options(SamplerKind::Lhs, seed),
            &space,
            40,
        )
        .expect("it is own");
        let mut shares = vec![BTreeSet::new(); space.dims()];
        for ask in first..first + 40 {
            let point = sampler.ask(&space, ask, &history, &[]).expect("no end");
            for (share, (it, x)) in shares.iter_mut().zip(space.parameters.iter().zip(&point)) {
                share.insert((it.to_unit(*x) * 40.0) as u64);
            }
        }
        for (at, share) in shares.iter().enumerate() {
            // `beta` and those with quantiles; counted ones have fewer values than shares.
            if [0, 4, 5].contains(&at) {
                assert_eq!(share.len(), 40, "parameter {at}, seed {seed}");
            }
        }
    }
}

/// The best of so many trials, told one by one, on a bowl with its floor at 0.3 of each quantile; the median of some seeds.
fn bowl(kind: SamplerKind, space: &Space, trials: u64) -> f64 {
    let mut bests: Vec<f64> = (0..5)
        .map(|seed| {
            let mut sampler = make(kind, &options(kind, 2 * seed), space, trials).expect("own");
            let mut history = History::new(space.dims(), 1);
            let mut best = f64::INFINITY;
            for trial in 1..=trials {
                let mut point = sampler.ask(space, trial, &history, &[]).expect("no end");
                space.clean(&mut point);
                let parameters = space.parameters.iter().zip(&point);
                let terms = parameters.filter(|(_, x)| !x.is_nan()).map(|(it, x)| {
                    let off = it.to_unit(*x) - 0.3;
                    off * off
                });
                let value: f64 = terms.sum();
                best = best.min(value);
                history.push(Told {
                    trial,
                    point: &point,
                    values: Some(&[value]),
                    violation: 0.0,
                });
            }
            best
        })
        .collect();
    bests.sort_by(f64::total_cmp);
    bests[2]
}

#[test]
fn those_that_learn_find_a_floor_sooner_than_draws() {
    for kind in [SamplerKind::Tpe, SamplerKind::Cmaes] {
        let learned = bowl(kind, &numbers(), 150);
        let drawn = bowl(SamplerKind::Random, &numbers(), 150);
        assert!(learned < 0.4 * drawn, "{kind:?}: {learned} and {drawn}");
    }
    let learned = bowl(SamplerKind::Tpe, &conditional(), 150);
    let drawn = bowl(SamplerKind::Random, &conditional(), 150);
    assert!(learned < 0.5 * drawn, "{learned} and {drawn}");
}
