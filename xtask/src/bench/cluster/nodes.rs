//! How many nodes a second, and what they cost the coordinator.

use super::{
    page::{Section, span},
    peer::Engine,
    stand::{Ran, Stand},
};
use crate::bench::{Bench, measure::median};

/// A side: its engine (none is dagrun itself), how many nodes, and what to say of it.
const SIDES: &[(Option<Engine>, u64, &str)] = &[
    (
        None,
        10_000,
        "every result durable: journal and action cache; from the start of the client to its end",
    ),
    (
        Some(Engine::Dask),
        2_000,
        "`subprocess.run` in tasks of a scheduler and 2 workers; all in memory; from submission to the last result",
    ),
    (
        Some(Engine::HyperQueue),
        5_000,
        "`hq submit --array --wait` with a journal, where there is an `hq`; else (CPU not apart) its package's `LocalCluster`, which keeps no journal and looks once a second",
    ),
    (
        Some(Engine::Ray),
        2_000,
        "`subprocess.run` in tasks of 1 CPU on a node of 2; all in memory",
    ),
];

#[derive(Default)]
struct Measured {
    rates: Vec<f64>,
    /// CPU milliseconds of the coordinator a node.
    cpu: Vec<f64>,
    trouble: Option<String>,
}

pub(super) fn measure(bench: &Bench) -> Result<Section, String> {
    let rounds = if bench.quick { 1 } else { 3 };
    let stand = Stand::start(
        bench,
        "cluster-nodes",
        &[&["--slots", "1"], &["--slots", "1"]],
    )?;
    let mut sides: Vec<Measured> = SIDES.iter().map(|_| Measured::default()).collect();
    // The first round warms up and is not counted.
    for round in 0..=rounds {
        for ((engine, nodes, _), side) in SIDES.iter().zip(&mut sides) {
            let nodes = bench.size(*nodes);
            let done = match engine {
                _ if side.trouble.is_some() => continue,
                None => own(&stand, round, nodes).map(|ran| (ran.wall, Some(ran.coordinator_cpu))),
                Some(engine) => peer(bench, *engine, nodes),
            };
            match done {
                Err(trouble) if engine.is_none() => return Err(trouble),
                Err(trouble) => side.trouble = Some(trouble),
                Ok(_) if round == 0 => {}
                Ok((wall, cpu)) => {
                    side.rates.push(nodes as f64 / wall);
                    side.cpu.extend(cpu.map(|cpu| cpu / nodes as f64 * 1e3));
                }
            }
        }
    }
    let own = median(&sides[0].rates);
    let rows = SIDES.iter().zip(&sides);
    let rows =
        rows.map(|((engine, nodes, note), side)| row(*engine, bench.size(*nodes), note, side, own));
    Ok(Section {
        part: "nodes",
        title: "many small nodes",
        what: "Independent nodes of `true N`, all different, on 2 workers of one slot that have joined before. Sides took turns; medians. Goals: more a \
               second than each, and less than 0.2 ms of CPU a node in the coordinator."
            .into(),
        columns: &[
            "side",
            "nodes",
            "nodes a second",
            "from - to",
            "dagrun / side",
            "coordinator CPU ms a node",
            "note",
        ],
        rows: rows.collect(),
        notes: Vec::new(),
    })
}

fn own(stand: &Stand, round: u64, nodes: u64) -> Result<Ran, String> {
    // Other numbers each time: nothing is in the cache.
    let (first, last) = (round * nodes, (round + 1) * nodes - 1);
    let pipeline = format!(
        "dagrun: 1\nname: trues\njobs:\n  t:\n    matrix: {{i: \"${{{{ range({first}, {last}) }}}}\"}}\n    \
         run: [\"true\", \"${{{{ matrix.i }}}}\"]\n"
    );
    stand.run(&stand.project(&pipeline)?, &[])
}

fn peer(bench: &Bench, engine: Engine, nodes: u64) -> Result<(f64, Option<f64>), String> {
    let said = engine.measure(bench, "nodes", &[&nodes.to_string()])?;
    let wall = said["wall"].as_f64().ok_or("the script gave no time")?;
    Ok((wall, said["coordinator_cpu"].as_f64()))
}

fn row(engine: Option<Engine>, nodes: u64, note: &str, side: &Measured, own: f64) -> Vec<String> {
    let name = engine.map_or("dagrun".to_owned(), Engine::named);
    let figures = match &side.trouble {
        Some(_) => [
            "missing".into(),
            String::new(),
            String::new(),
            String::new(),
        ],
        None => {
            let rate = median(&side.rates);
            [
                format!("{rate:.0}"),
                span(&side.rates, 0),
                if engine.is_some() {
                    format!("{:.1}", own / rate)
                } else {
                    String::new()
                },
                if side.cpu.is_empty() {
                    "not apart".into()
                } else {
                    format!("{:.3}", median(&side.cpu))
                },
            ]
        }
    };
    let note = side.trouble.as_deref().unwrap_or(note);
    let mut row = vec![name, nodes.to_string()];
    row.extend(figures);
    row.push(note.to_owned());
    row
}
