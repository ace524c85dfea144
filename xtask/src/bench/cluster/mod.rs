//! `cargo xtask bench cluster`: a real coordinator and real workers beside other engines.
//!
//! Each worker is a process with a store of its own and talks over the loopback, so it is a host of its own to the coordinator. Parts
//! are measured by name (`cluster/nodes`); what is not measured this time stays on the page as it was.

mod copiers;
mod dedup;
mod grain;
mod link;
mod lost;
mod moves;
mod nodes;
mod page;
mod peer;
mod restart;
mod stamps;
mod stand;
mod transfer;

use super::Bench;
pub(crate) use link::on_link;
use page::Section;
pub(super) use {stamps::stamp, transfer::fill};

/// Measures a part.
type Measure = fn(&Bench) -> Result<Section, String>;

/// What is measured, in the order in which it is on the page.
const PARTS: &[(&str, Measure)] = &[
    ("nodes", nodes::measure),
    ("grain", grain::measure),
    ("lost", lost::measure),
    ("restart", restart::measure),
    ("transfer", transfer::measure),
    ("link", link::measure),
    ("moves", moves::measure),
    ("dedup", dedup::measure),
];

/// The name of all parts, and of each: `cluster`, `cluster/nodes`.
const NAME: &str = "cluster";

/// Whether a name means this bench or a part of it.
pub(super) fn is_named(name: &str) -> bool {
    name == NAME || part_of(name).is_some()
}

/// All names.
pub(super) fn names() -> Vec<String> {
    let parts = PARTS.iter().map(|(name, _)| format!("{NAME}/{name}"));
    std::iter::once(NAME.to_owned()).chain(parts).collect()
}

fn part_of(name: &str) -> Option<&'static str> {
    let part = name.strip_prefix("cluster/")?;
    PARTS.iter().map(|(name, _)| *name).find(|it| *it == part)
}

/// Measures the parts that are named, or all, and writes `docs/benchmarks/cluster.md`; a quick one is only shown.
pub(super) fn run(bench: &Bench, names: &[&str]) -> Result<(), String> {
    let parts: Vec<&str> = names.iter().filter_map(|name| part_of(name)).collect();
    for (name, measure) in PARTS {
        if !parts.is_empty() && !parts.contains(name) {
            continue;
        }
        println!("\n== cluster/{name}");
        let load = page::load();
        let section = measure(bench)?;
        print!("{}", section.markdown());
        if !bench.quick {
            page::write(&section, &load, PARTS.iter().map(|(name, _)| *name))?;
        }
    }
    Ok(())
}
