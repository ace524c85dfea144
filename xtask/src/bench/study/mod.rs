//! `cargo xtask bench study`: the figures that studies have to reproduce.
//!
//! Exact ones on a simulated clock, memory and CPU time of the core, and bounds with real processes beside Optuna.

pub(in crate::bench) mod exact;
mod long;
mod node;
mod plans;
mod real;
mod report;
mod world;

use super::Bench;
pub(crate) use node::run as node;

/// A figure beside its goal.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    what: String,
    goal: String,
    measured: String,
    note: String,
    /// How many times better than the other way: by the documents, as measured.
    bar: Option<(f64, f64)>,
}

impl Figure {
    fn new(what: impl Into<String>, goal: impl Into<String>, measured: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            goal: goal.into(),
            measured: measured.into(),
            note: String::new(),
            bar: None,
        }
    }

    fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    fn bar(mut self, goal: f64, measured: f64) -> Self {
        self.bar = Some((goal, measured));
        self
    }
}

/// Figures that belong together.
#[derive(Clone, Debug)]
pub(super) struct Group {
    name: &'static str,
    what: &'static str,
    figures: Vec<Figure>,
}

/// Measures all and writes `docs/benchmarks/studies.md` with its chart; a quick one is only shown.
pub(super) fn run(bench: &Bench) -> Result<(), String> {
    let size = match bench.quick {
        true => exact::Size::QUICK,
        false => exact::Size::FULL,
    };
    let mut groups = exact::groups(size)?;
    groups.push(long::group(bench)?);
    groups.extend(real::groups(bench)?);
    print!("{}", report::markdown(&groups));
    match bench.quick {
        true => Ok(()),
        false => report::write(&groups),
    }
}

/// A study of so many nodes in this process alone: `cargo xtask bench-study NODES` prints what it took as JSON.
pub(crate) fn core_alone(nodes: &str) -> Result<(), String> {
    long::alone(
        nodes
            .parse()
            .map_err(|_| format!("`{nodes}` is not a number"))?,
    )
}

#[cfg(test)]
mod tests;
