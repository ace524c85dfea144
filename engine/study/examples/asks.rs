//! How long an ask of TPE takes among many told trials, with five parameters of one kind.
//!
//! `asks TOLD` writes a line for each kind: the fastest, the median and the 99th percentile of 200 asks, in milliseconds of CPU
//! where nothing else runs.

#![expect(clippy::print_stdout, reason = "it is a program that prints figures")]

use std::{sync::Arc, time::Instant};

use dagrun_model::{Map, SamplerKind, Value};
use dagrun_study::{Distribution, History, Parameter, Space, Told, sampler};

/// Values of an axis; so many that hardly two trials have the same.
const WIDE: i64 = 1_000_000;

fn main() {
    let told = std::env::args().nth(1).and_then(|it| it.parse().ok());
    let Some(told) = told else {
        println!("usage: asks TOLD");
        std::process::exit(2);
    };
    let high = WIDE as f64;
    for (name, distribution) in [
        ("uniform", Distribution::Uniform { low: 0.0, high }),
        ("int", Distribution::Int { low: 1, high: WIDE }),
        ("log_int", Distribution::LogInt { low: 1, high: WIDE }),
    ] {
        let mut times = times(&distribution, told);
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[(share * (times.len() - 1) as f64) as usize];
        println!("{name}: {:.2}, {:.2}, {:.2}", at(0.0), at(0.5), at(0.99));
    }
}

/// The milliseconds of each ask.
fn times(distribution: &Distribution, told: u64) -> Vec<f64> {
    let parameters = (0..5).map(|at| Parameter {
        name: format!("x{at}").into(),
        distribution: distribution.clone(),
        digits: None,
        when: None,
    });
    let space = Space {
        parameters: parameters.collect(),
    };
    let options = Map::from_iter([(Arc::from("seed"), Value::Int(1))]);
    let make = |kind| sampler::make(kind, &options, &space, told).expect("an own sampler");
    let mut draws = make(SamplerKind::Random);
    let mut history = History::new(space.dims(), 1);
    for trial in 1..=told {
        let point = draws.ask(&space, trial, &history, &[]);
        let mut point = point.expect("draws do not end");
        space.clean(&mut point);
        let value = point.iter().map(|x| (x / WIDE as f64 - 0.3).powi(2)).sum();
        history.push(Told {
            trial,
            point: &point,
            values: Some(&[value]),
            violation: 0.0,
        });
    }
    let mut tpe = make(SamplerKind::Tpe);
    // The first ask takes all told trials in.
    let mut asks = (told + 1..=told + 201).map(|ask| {
        let began = Instant::now();
        let point = tpe.ask(&space, ask, &history, &[]);
        assert!(point.is_some(), "TPE does not end");
        began.elapsed().as_secs_f64() * 1e3
    });
    asks.next();
    asks.collect()
}
