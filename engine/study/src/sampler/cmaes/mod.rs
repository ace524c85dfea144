//! CMA-ES: a normal distribution that follows what was best.
//!
//! Hansen's tutorial (arXiv 1604.00772) with its default parameters, active update included, in the unit cube of quantiles.
//! Told trials are taken in the order in which asks see them; every `population` of them make a generation, whatever
//! distribution they were drawn from, so no ask ever waits. A step that is too long for the present distribution, of an enqueued
//! point or of one that was asked generations ago, is shortened (Hansen 2011, injection). Infeasible trials rank behind the
//! feasible, failed ones behind all. Points outside the cube are drawn again, and clamped in the end.
//!
//! Where values are counted the spread never falls below what still reaches the next one (the margin of Hamano et al. 2022,
//! in a simple form). When the distribution has shrunk to a point, it starts again from a random place with twice the population
//! (IPOP, Auger and Hansen 2005).

mod eigen;
mod evolution;

use dagrun_model::Map;

use self::evolution::{Evolution, Offspring};
use super::{Draws, Sampler, draw, mix, seed, whole};
use crate::{Distribution, History, Parameter, Space, special::normal_quantile};

/// The first spread in each direction, as a part of the cube: six reach from end to end, as in Optuna.
const SIGMA: f64 = 1.0 / 6.0;
/// How often a point outside the cube is drawn again.
const TRIES: usize = 100;
/// Keeps these draws apart from those of other samplers.
const SALT: u64 = 0x636d_615f_6472_6177;

/// The sampler.
#[derive(Debug)]
pub(super) struct Cmaes {
    seed: u64,
    population: usize,
    sigma: f64,
    /// The widths of cells, where values are counted; else 0.
    cells: Vec<f64>,
    /// Told trials that were taken in.
    seen: usize,
    /// How often it has started again.
    restarts: u32,
    evolution: Evolution,
    generation: Vec<Offspring>,
}

impl Cmaes {
    pub(super) fn new(options: &Map, space: &Space) -> Self {
        let dims = space.dims();
        let default = 4 + (3.0 * (dims as f64).ln()).floor() as usize;
        let population = whole(options, "population", default).max(2);
        let sigma = options.get("sigma").and_then(|it| it.as_f64());
        let sigma = sigma.unwrap_or(SIGMA);
        Self {
            seed: seed(options),
            population,
            sigma,
            cells: space.parameters.iter().map(cell).collect(),
            seen: 0,
            restarts: 0,
            evolution: Evolution::new(vec![0.5; dims], sigma, population),
            generation: Vec::new(),
        }
    }

    fn learn(&mut self, space: &Space, history: &History) {
        if history.len() < self.seen {
            self.seen = 0;
            self.generation.clear();
            self.restart(0);
        }
        for at in self.seen..history.len() {
            let told = history.get(at);
            let parameters = space.parameters.iter().zip(told.point);
            self.generation.push(Offspring {
                place: parameters.map(|(it, x)| it.to_unit(*x)).collect(),
                violation: told.violation,
                value: told.values.and_then(|it| it.first()).copied(),
            });
            if self.generation.len() < self.evolution.population() {
                continue;
            }
            self.evolution.evolve(std::mem::take(&mut self.generation));
            if self.evolution.has_shrunk() {
                self.restart(self.restarts + 1);
            }
        }
        self.seen = history.len();
    }

    fn restart(&mut self, restarts: u32) {
        self.restarts = restarts;
        let key = mix(self.seed ^ SALT);
        let mean = match restarts {
            0 => vec![0.5; self.cells.len()],
            _ => (0..self.cells.len() as u64)
                .map(|at| draw(key, u64::from(restarts), at))
                .collect(),
        };
        // Beyond this a generation would outlast any study.
        let population = self.population << restarts.min(10);
        self.evolution = Evolution::new(mean, self.sigma, population);
    }

    /// How much wider each direction is drawn, so that counted values do not freeze.
    fn stretches(&self) -> Vec<f64> {
        let dims = self.cells.len() as f64;
        let leave = 1.0 / (self.evolution.population() as f64 * dims);
        let reach = normal_quantile(1.0 - 0.5 * leave);
        let cells = self.cells.iter().enumerate();
        cells
            .map(|(at, cell)| {
                let least = 0.5 * cell / reach;
                (least / self.evolution.spread(at)).max(1.0)
            })
            .collect()
    }
}

impl Sampler for Cmaes {
    fn ask(
        &mut self,
        space: &Space,
        ask: u64,
        history: &History,
        _: &[&[f64]],
    ) -> Option<Vec<f64>> {
        self.learn(space, history);
        let mut draws = Draws::new(self.seed, SALT, ask);
        let stretches = self.stretches();
        let mut place = Vec::new();
        for _ in 0..TRIES {
            let normal = |_| normal_quantile(draws.unit());
            let steps: Vec<f64> = (0..space.dims()).map(normal).collect();
            place = self.evolution.place(&steps, &stretches);
            if place.iter().all(|u| (0.0..=1.0).contains(u)) {
                break;
            }
        }
        let parameters = space.parameters.iter().zip(&place);
        Some(parameters.map(|(it, u)| it.from_unit(*u)).collect())
    }
}

/// The part of the unit interval that each value of a parameter has, where values are counted.
fn cell(parameter: &Parameter) -> f64 {
    let counted = matches!(
        parameter.distribution,
        Distribution::Int { .. } | Distribution::LogInt { .. } | Distribution::Steps { .. }
    );
    let count = parameter.count().filter(|_| counted);
    count.map_or(0.0, |it| 1.0 / it as f64)
}
