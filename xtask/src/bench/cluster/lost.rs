//! A worker that dies: how long until its node runs elsewhere, and whether a busy machine loses anybody.

use std::process::{Child, Command, Stdio};

use super::{
    page::{Section, span},
    peer::{Engine, numbers},
    stamps::{self, Stamp},
    stand::{Stand, end},
};
use crate::bench::{Bench, measure::median, this_program};

/// Processes that want a CPU each while a run goes on, for each CPU of the machine.
const LOAD: usize = 10;
/// Nodes of the run under load.
const NODES: u64 = 3_000;

pub(super) fn measure(bench: &Bench) -> Result<Section, String> {
    let rounds = if bench.quick { 1 } else { 5 };
    let mut own = Vec::new();
    for _ in 0..rounds {
        own.push(once(bench)?);
    }
    let program = this_program()?;
    let dask = Engine::Dask.measure(bench, "lost", &[&program, &rounds.to_string()]);
    let mut rows = vec![vec![
        "dagrun".to_owned(),
        format!("{:.2}", median(&own)),
        span(&own, 2),
        "a broken stream is given 2 s to come back".into(),
    ]];
    rows.push(match dask {
        Ok(said) => {
            let seconds = numbers(&said["seconds"]);
            vec![
                Engine::Dask.named(),
                format!("{:.2}", median(&seconds)),
                span(&seconds, 2),
                "workers without a nanny; a closed connection is a lost worker at once".into(),
            ]
        }
        Err(trouble) => vec![
            Engine::Dask.named(),
            "missing".into(),
            String::new(),
            trouble,
        ],
    });
    Ok(Section {
        part: "lost",
        title: "a worker is killed",
        what: "Two workers of two slots, one node. Its worker is killed by `kill -9`; seconds from there until the node begins on the other, by what the \
               node writes down itself. Goal: less than 3 s, and nobody is lost on a machine with ten times the load it can take."
            .into(),
        columns: &["side", "seconds", "from - to", "note"],
        rows,
        notes: vec![under_load(bench)?],
    })
}

/// Seconds from the kill of a worker to the begin of its node on another.
fn once(bench: &Bench) -> Result<f64, String> {
    let slots: &[&str] = &["--slots", "2"];
    let mut stand = Stand::start(bench, "cluster-lost", &[slots, slots])?;
    let project = stand.project(&format!(
        "dagrun: 1\nname: lost\njobs:\n  long:\n    cache: never\n    run: [{}, bench-node, stamp, {}, \"600\"]\n",
        this_program()?,
        stand.path("stamps").display()
    ))?;
    let begun =
        |wanted: usize| move |stand: &Stand| stamps::read(&stand.path("stamps")).len() >= wanted;
    let mut client = stand.submit(&project)?;
    let done = stand.wait_until("the node runs", begun(1)).and_then(|()| {
        let first = stamps::read(&stand.path("stamps"))[0];
        let killed = stamps::now();
        stand.kill_worker_of(first.pid)?;
        stand.wait_until("the node runs again", begun(2))?;
        let Stamp { at, .. } = stamps::read(&stand.path("stamps"))[1];
        Ok(at - killed)
    });
    end(&mut client);
    done
}

/// A run on a machine that has far too much to do: workers that are lost though they live.
fn under_load(bench: &Bench) -> Result<String, String> {
    let nodes = bench.size(NODES);
    let slots: &[&str] = &["--slots", "2"];
    let stand = Stand::start(bench, "cluster-load", &[slots, slots])?;
    let project = stand.project(&format!(
        "dagrun: 1\nname: load\njobs:\n  t:\n    matrix: {{i: \"${{{{ range(0, {}) }}}}\"}}\n    run: [\"true\", \"${{{{ matrix.i }}}}\"]\n",
        nodes - 1
    ))?;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let load = Load::new(cpus * LOAD)?;
    let ran = stand.run(&project, &[])?;
    drop(load);
    let text = stand.journal(&project)?;
    let count = |what: &str| text.matches(&format!("\"event\":\"{what}\"")).count();
    Ok(format!(
        "Beside {} processes that never rest on {cpus} CPUs, {nodes} nodes of `true N` ran in {:.0} s: {} workers were lost, {} of {} attempts were lost.",
        cpus * LOAD,
        ran.wall,
        count("worker_lost"),
        text.matches("\"lost\":true").count(),
        count("attempt_started"),
    ))
}

/// Processes that never rest, until it is dropped.
struct Load(Vec<Child>);

impl Load {
    fn new(count: usize) -> Result<Self, String> {
        let mut load = Self(Vec::new());
        for _ in 0..count {
            let busy = Command::new("sh")
                .args(["-c", "while :; do :; done"])
                .stdin(Stdio::null())
                .spawn();
            load.0
                .push(busy.map_err(|error| format!("cannot start a shell: {error}"))?);
        }
        Ok(load)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(end);
    }
}
