//! Runs own samplers on functions with known optima: what `cargo xtask bench samplers` puts beside Optuna.
//!
//! `samplers FUNCTION SAMPLER TRIALS SEEDS` writes a line for each seed: the best value minus the optimum.

#![expect(clippy::print_stdout, reason = "it is a program that prints figures")]

use std::{f64::consts::PI, sync::Arc};

use dagrun_model::{Map, SamplerKind, Value};
use dagrun_study::{Distribution, History, Parameter, Space, Told, sampler};

/// A function to be minimised.
struct Problem {
    space: Space,
    optimum: f64,
    value: Function,
}

type Function = fn(&[f64]) -> f64;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [function, kind, trials, seeds] = arguments.as_slice() else {
        println!("usage: samplers FUNCTION SAMPLER TRIALS SEEDS");
        std::process::exit(2);
    };
    let kind = SamplerKind::from_name(kind).expect("the name of a sampler");
    let trials: u64 = trials.parse().expect("a number of trials");
    let seeds: i64 = seeds.parse().expect("a number of seeds");
    let problem = problem(function).expect("the name of a function");
    for seed in 0..seeds {
        let best = best(&problem, kind, trials, seed);
        println!("{:e}", best - problem.optimum);
    }
}

/// The best value of a study of trials told one by one.
fn best(problem: &Problem, kind: SamplerKind, trials: u64, seed: i64) -> f64 {
    let space = &problem.space;
    let options = Map::from_iter([(Arc::from("seed"), Value::Int(seed))]);
    let mut sampler = sampler::make(kind, &options, space, trials).expect("an own sampler");
    let mut history = History::new(space.dims(), 1);
    let mut best = f64::INFINITY;
    for trial in 1..=trials {
        let Some(mut point) = sampler.ask(space, trial, &history, &[]) else {
            break;
        };
        space.clean(&mut point);
        let value = (problem.value)(&point);
        best = best.min(value);
        history.push(Told {
            trial,
            point: &point,
            values: Some(&[value]),
            violation: 0.0,
        });
    }
    best
}

fn uniform(low: f64, high: f64) -> Distribution {
    Distribution::Uniform { low, high }
}

fn problem(name: &str) -> Option<Problem> {
    let cube = |dims: usize, low: f64, high: f64| vec![uniform(low, high); dims];
    let (distributions, optimum, value): (Vec<Distribution>, f64, Function) = match name {
        "sphere5" => (cube(5, -5.0, 5.0), 0.0, |x| x.iter().map(|x| x * x).sum()),
        "rosenbrock5" => (cube(5, -2.0, 2.0), 0.0, |x| {
            let pairs = x.windows(2);
            pairs
                .map(|p| 100.0 * (p[1] - p[0] * p[0]).powi(2) + (1.0 - p[0]).powi(2))
                .sum()
        }),
        "ackley5" => (cube(5, -32.768, 32.768), 0.0, |x| {
            let n = x.len() as f64;
            let squares: f64 = x.iter().map(|x| x * x).sum();
            let waves: f64 = x.iter().map(|x| (2.0 * PI * x).cos()).sum();
            20.0 + std::f64::consts::E
                - 20.0 * (-0.2 * (squares / n).sqrt()).exp()
                - (waves / n).exp()
        }),
        "rastrigin5" => (cube(5, -5.12, 5.12), 0.0, |x| {
            let terms = x.iter().map(|x| x * x - 10.0 * (2.0 * PI * x).cos());
            10.0 * x.len() as f64 + terms.sum::<f64>()
        }),
        "branin" => (
            vec![uniform(-5.0, 10.0), uniform(0.0, 15.0)],
            0.397_887_357_729_738,
            |x| {
                let inner = x[1] - 5.1 / (4.0 * PI * PI) * x[0] * x[0] + 5.0 / PI * x[0] - 6.0;
                inner * inner + 10.0 * (1.0 - 1.0 / (8.0 * PI)) * x[0].cos() + 10.0
            },
        ),
        "hartmann6" => (cube(6, 0.0, 1.0), -3.322_368_011_391_339, hartmann6),
        "mixed" => (
            vec![
                uniform(-5.0, 5.0),
                Distribution::LogUniform {
                    low: 1e-5,
                    high: 1.0,
                },
                Distribution::Int { low: 0, high: 20 },
                Distribution::LogInt { low: 1, high: 1000 },
                Distribution::Choice(["a", "b", "c", "d"].map(Value::str).into()),
            ],
            0.0,
            |x| {
                let kind = [3.0, 0.0, 1.0, 2.0][x[4] as usize];
                (x[0] - 1.0).powi(2)
                    + (x[1].log10() + 3.0).powi(2)
                    + ((x[2] - 7.0) / 3.0).powi(2)
                    + (x[3].log10() - 1.5).powi(2)
                    - (32_f64.log10() - 1.5).powi(2)
                    + kind
            },
        ),
        _ => return None,
    };
    let parameters = distributions.into_iter().enumerate();
    Some(Problem {
        space: Space {
            parameters: parameters
                .map(|(at, distribution)| Parameter {
                    name: format!("x{at}").into(),
                    distribution,
                    digits: None,
                    when: None,
                })
                .collect(),
        },
        optimum,
        value,
    })
}

fn hartmann6(x: &[f64]) -> f64 {
    const A: [[f64; 6]; 4] = [
        [10.0, 3.0, 17.0, 3.5, 1.7, 8.0],
        [0.05, 10.0, 17.0, 0.1, 8.0, 14.0],
        [3.0, 3.5, 1.7, 10.0, 17.0, 8.0],
        [17.0, 8.0, 0.05, 10.0, 0.1, 14.0],
    ];
    const P: [[f64; 6]; 4] = [
        [0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886],
        [0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991],
        [0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650],
        [0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381],
    ];
    let rows = A.iter().zip(&P).zip([1.0, 1.2, 3.0, 3.2]);
    let peaks = rows.map(|((a, p), weight)| {
        let terms = x.iter().zip(a.iter().zip(p));
        let inner: f64 = terms.map(|(x, (a, p))| a * (x - p).powi(2)).sum();
        weight * (-inner).exp()
    });
    -peaks.sum::<f64>()
}
