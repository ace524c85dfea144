//! A coordinator that dies with a long journal: how long until it gives out work again.

use super::{
    page::{Section, span},
    peer::{Engine, hyperqueue_program, numbers},
    stamps,
    stand::{Stand, end},
};
use crate::bench::{Bench, measure::median, this_program};

/// Nodes that are in the journal when the coordinator dies.
const NODES: u64 = 100_000;
/// Nodes that are left to do, and how long each takes.
const LEFT: (u64, &str) = (800, "0.05");
/// So many of them run before the coordinator is killed first: the machine has then got over the others, for 10 s.
const RUN: usize = 400;

pub(super) fn measure(bench: &Bench) -> Result<Section, String> {
    let nodes = bench.size(NODES);
    let rounds = if bench.quick { 1 } else { 3 };
    let own = own(bench, nodes, rounds)?;
    let program = this_program()?;
    let counts = [nodes, rounds, LEFT.0, RUN as u64].map(|it| it.to_string());
    let [nodes_text, rounds_text, left, run] = counts.each_ref().map(String::as_str);
    let args = [program.as_str(), nodes_text, rounds_text, left, LEFT.1, run];
    let hq = match hyperqueue_program() {
        Some(_) => Engine::HyperQueue.measure(bench, "restart", &args),
        None => Err(
            "no `hq` on the PATH: the package of PyPI has neither the program nor the journal"
                .into(),
        ),
    };
    let each: Vec<String> = own.iter().map(|it| format!("{:.0} ms", it * 1e3)).collect();
    let mut rows = vec![row("dagrun", &own, "workers live on and join again")];
    rows.push(match hq {
        Ok(said) => {
            let seconds = numbers(&said["seconds"]);
            row(
                &Engine::HyperQueue.named(),
                &seconds,
                "`hq server start --journal`; its workers end with the server and are started again as soon as it answers",
            )
        }
        Err(trouble) => vec![
            Engine::HyperQueue.named(),
            "missing".into(),
            String::new(),
            trouble,
        ],
    });
    Ok(Section {
        part: "restart",
        title: "the coordinator is killed",
        what: format!(
            "{nodes} nodes of one run are done and in the journal, {} of {} s are left, on two workers of one slot. When {RUN} of these have run, the \
             coordinator is killed by `kill -9`, and started again when its workers have run out of what they had, {rounds} times. Milliseconds \
             from the start of the process until a node begins. Goal: less than 300 ms.",
            LEFT.0, LEFT.1
        ),
        columns: &["side", "ms", "from - to", "note"],
        rows,
        notes: vec![
            format!(
                "dagrun's times in turn: {}. The first journal is that of all the nodes; later ones say that they were in the cache.",
                each.join(", ")
            ),
            "A worker that finds no coordinator looks again after at most a quarter of the time that it has been alone: what it still waits when the coordinator \
             is back is in the figure."
                .into(),
        ],
    })
}

fn row(name: &str, seconds: &[f64], note: &str) -> Vec<String> {
    let ms: Vec<f64> = seconds.iter().map(|it| it * 1e3).collect();
    vec![
        name.into(),
        format!("{:.0}", median(&ms)),
        span(&ms, 0),
        note.into(),
    ]
}

fn own(bench: &Bench, nodes: u64, rounds: u64) -> Result<Vec<f64>, String> {
    let slots: &[&str] = &["--slots", "1"];
    let mut stand = Stand::start(bench, "cluster-restart", &[slots, slots])?;
    let file = stand.path("stamps");
    let project = stand.project(&format!(
        "dagrun: 1\nname: restart\njobs:\n  t:\n    matrix: {{i: \"${{{{ range(1, {nodes}) }}}}\"}}\n    run: [\"true\", \"${{{{ matrix.i }}}}\"]\n  \
         all:\n    needs: t\n    run: [\"true\"]\n  left:\n    needs: all\n    matrix: {{i: \"${{{{ range(1, {}) }}}}\"}}\n    \
         run: [{}, bench-node, stamp, {}, \"{}\", \"${{{{ matrix.i }}}}\"]\n",
        LEFT.0,
        this_program()?,
        file.display(),
        LEFT.1
    ))?;
    let mut client = stand.submit(&project)?;
    let done = stand
        .wait_until("the journal is full", |_| stamps::read(&file).len() > RUN)
        .and_then(|()| (0..rounds).map(|_| once(&mut stand)).collect());
    end(&mut client);
    done
}

/// Kills the coordinator, waits until nothing happens any more, starts it again, and waits for the next node.
fn once(stand: &mut Stand) -> Result<f64, String> {
    let file = stand.path("stamps");
    let before = stamps::read(&file).len();
    stand.wait_until("nodes run", |_| stamps::read(&file).len() > before + 10)?;
    stand.kill_coordinator();
    stand.wait_until("the workers have run out", |_| {
        let last = stamps::read(&file).last().map_or(0.0, |stamp| stamp.at);
        stamps::now() - last > 0.5
    })?;
    let before = stamps::read(&file).len();
    let began = stamps::now();
    stand.start_coordinator()?;
    stand.wait_until("a node begins", |_| stamps::read(&file).len() > before)?;
    Ok(stamps::read(&file)[before].at - began)
}
