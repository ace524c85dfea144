//! The tree-structured Parzen estimator, by the rules of Optuna 5's `TPESampler`.
//!
//! The told trials are split into the best few and the others. Each part gives a density: kernels around its points, and one
//! over the whole range. Candidates are drawn from the density of the best, and the one that is most likely by it compared with
//! the other density is proposed. Failed trials are left out; pending points stand among the others, so that asks made at
//! one time spread out (the constant liar); infeasible trials come behind the feasible, by how much they break.
//!
//! Parameters with the same condition are a group, which is sampled together from the trials in which it was active. With
//! several objectives each parameter is sampled by itself, as in Optuna.
//!
//! What differs from Optuna: beyond [`memory::LIMIT`] told trials the second density is made of an even part of them, so that an
//! ask costs the same however many there are; `normal` and `beta` parameters are modelled by their quantiles.

mod memory;
mod parzen;
mod rank;
mod scale;

use dagrun_model::Map;

use self::{memory::Memory, parzen::Parzen, scale::Scale};
use super::{Draws, Sampler, random, seed, whole};
use crate::{History, Space, describe::expr_text};

/// Trials that are drawn before there is anything to learn from.
const STARTUP: usize = 10;
/// Points that are compared for a proposal.
const CANDIDATES: usize = 24;
/// Keeps these draws apart from those of other samplers.
const SALT: u64 = 0x7470_655f_6472_6177;

/// The sampler.
#[derive(Debug)]
pub(super) struct Tpe {
    seed: u64,
    startup: usize,
    candidates: usize,
    scales: Vec<Scale>,
    /// Parameters that are sampled together.
    groups: Vec<Vec<usize>>,
    memory: Memory,
}

impl Tpe {
    pub(super) fn new(options: &Map, space: &Space) -> Self {
        Self {
            seed: seed(options),
            startup: whole(options, "startup", STARTUP),
            candidates: whole(options, "candidates", CANDIDATES).max(1),
            scales: space.parameters.iter().map(Scale::new).collect(),
            groups: groups(space),
            memory: Memory::default(),
        }
    }

    /// The best of the candidates, on the axes of the densities.
    fn propose(&self, draws: &mut Draws, good: &Parzen<'_>, bad: &Parzen<'_>) -> Vec<f64> {
        let mut scratch = Vec::new();
        let mut best = (f64::NEG_INFINITY, Vec::new());
        for _ in 0..self.candidates {
            let candidate = good.sample(draws);
            let gain = good.log_density(&candidate, &mut scratch)
                - bad.log_density(&candidate, &mut scratch);
            if gain > best.0 || best.1.is_empty() {
                best = (gain, candidate);
            }
        }
        best.1
    }
}

impl Sampler for Tpe {
    fn ask(
        &mut self,
        space: &Space,
        ask: u64,
        history: &History,
        pending: &[&[f64]],
    ) -> Option<Vec<f64>> {
        self.memory.learn(space, &self.scales, history);
        if self.memory.complete() < self.startup {
            return Some(random::point(space, self.seed, ask));
        }
        let dims = space.dims();
        let (best, numbers) = self.memory.best(space, &self.scales, history);
        let mut others = self.memory.rest(&numbers, dims);
        let liars = others.len();
        for point in pending {
            others.extend(scale::row(space, &self.scales, point));
        }
        let together = history.objectives() == 1;
        let singles: Vec<Vec<usize>> = (0..dims).map(|at| vec![at]).collect();
        let mut draws = Draws::new(self.seed, SALT, ask);
        let mut point = vec![f64::NAN; dims];
        for group in if together { &self.groups } else { &singles } {
            if !space.active(group[0], &point) {
                continue;
            }
            let scales: Vec<&Scale> = group.iter().map(|at| &self.scales[*at]).collect();
            let good = Parzen::new(&scales, &pick(&best, dims, group), 0, 1.0);
            let liars = pick(&others[liars..], dims, group).len() / group.len();
            let rows = pick(&others, dims, group);
            let bad = Parzen::new(&scales, &rows, liars, self.memory.stride());
            let proposal = self.propose(&mut draws, &good, &bad);
            for (at, place) in group.iter().zip(proposal) {
                point[*at] = self.scales[*at].coordinate(&space.parameters[*at], place);
            }
        }
        Some(point)
    }
}

/// Parameters with the same condition, in the order of their first ones.
fn groups(space: &Space) -> Vec<Vec<usize>> {
    let mut groups: Vec<(Option<String>, Vec<usize>)> = Vec::new();
    for (at, it) in space.parameters.iter().enumerate() {
        let condition = it.when.as_ref().map(expr_text);
        match groups.iter_mut().find(|group| group.0 == condition) {
            Some((_, group)) => group.push(at),
            None => groups.push((condition, vec![at])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The columns of a group, of rows in which it is active.
fn pick(rows: &[f64], dims: usize, group: &[usize]) -> Vec<f64> {
    let active = rows
        .chunks_exact(dims)
        .filter(|row| !row[group[0]].is_nan());
    active
        .flat_map(|row| group.iter().map(|at| row[*at]))
        .collect()
}
