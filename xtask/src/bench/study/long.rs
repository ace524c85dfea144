//! Memory and CPU time of study, planner and scheduler together, in a process of their own.

use std::cell::{Cell, RefCell};

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::{
    Bench, Figure, Group,
    plans::{Planned, calibration},
    world::{Place, Site, Watched, simulate},
};
use crate::tools::output;

/// CPU seconds of this thread.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The most memory that this process has had, in bytes.
fn peak() -> Result<u64, String> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|error| format!("cannot read /proc/self/status: {error}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|it| it.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|it| it * 1024)
        .ok_or_else(|| "no VmHWM in /proc/self/status".into())
}

/// Counts of CPU times by microsecond: flat in memory, however many there are.
struct Histogram(RefCell<Vec<u64>>);

impl Histogram {
    const MOST: usize = 20_000;

    fn new() -> Self {
        Self(RefCell::new(vec![0; Self::MOST + 1]))
    }

    fn add(&self, seconds: f64) {
        let at = ((seconds * 1e6) as usize).min(Self::MOST);
        self.0.borrow_mut()[at] += 1;
    }

    /// Milliseconds.
    fn quantile(&self, part: f64) -> f64 {
        let counts = self.0.borrow();
        let all: u64 = counts.iter().sum();
        let mut below = 0;
        let at = counts.iter().position(|count| {
            below += count;
            below as f64 >= all as f64 * part
        });
        at.unwrap_or(Self::MOST) as f64 / 1e3
    }
}

/// Runs a study of so many nodes with 8 slots and prints what it took.
pub(super) fn alone(nodes: u64) -> Result<(), String> {
    let trials = nodes / 7;
    let planned = Planned::new(&calibration(
        &format!("sampler: random; trials: {trials}"),
        5,
        2,
    ))?;
    let seconds = |place: Place| if place.job == 0 { 1.0 } else { 0.1 };
    let (freed, started) = (Cell::new(0.0), Cell::new(false));
    let (starts, ends) = (Histogram::new(), Histogram::new());
    let watch = |moment: Watched| match moment {
        Watched::Freed => {
            started.set(false);
            freed.set(cpu());
        }
        Watched::Started if started.get() || freed.get() == 0.0 => {}
        Watched::Started => {
            started.set(true);
            starts.add(cpu() - freed.get());
        }
        Watched::Handled => ends.add(cpu() - freed.get()),
    };
    let begin = cpu();
    let site = Site {
        plan_each: true,
        watch: Some(&watch),
        ..Site::new(&[8], &seconds)
    };
    let outcome = simulate(&planned, &site)?;
    let took = cpu() - begin;
    let told = outcome.end.counts.told;
    if told != trials {
        return Err(format!("{told} of {trials} trials were told"));
    }
    #[expect(clippy::print_stdout, reason = "its result is its output")]
    {
        println!(
            "{}",
            json!({
                "trials": trials,
                "nodes": trials * 7,
                "peak": peak()?,
                "study": outcome.study_bytes,
                "cpu": took,
                "median": starts.quantile(0.5),
                "p99": starts.quantile(0.99),
                "most": starts.quantile(1.0),
                "handled": ends.quantile(0.99),
            })
        );
    }
    Ok(())
}

/// The same at two sizes, each in its own release process, side by side.
pub(super) fn group(bench: &Bench) -> Result<Group, String> {
    let sizes = match bench.quick {
        true => [12_000, 100_000],
        false => [12_000, 1_000_000],
    };
    let measure = |nodes: u64| -> Result<Value, String> {
        let nodes = nodes.to_string();
        let text = output(
            "cargo",
            &[
                "run",
                "--release",
                "--quiet",
                "-p",
                "xtask",
                "--",
                "bench-study",
                &nodes,
            ],
        )?;
        serde_json::from_str(&text)
            .map_err(|error| format!("bench-study printed bad JSON: {error}"))
    };
    let (small, large) = (measure(sizes[0])?, measure(sizes[1])?);
    let number = |of: &Value, name: &str| of[name].as_f64().unwrap_or(f64::NAN);
    let more = number(&large, "trials") - number(&small, "trials");
    let bytes = (number(&large, "peak") - number(&small, "peak")) / more;
    let own = (number(&large, "study") - number(&small, "study")) / more;
    let mib = |of: &Value| number(of, "peak") / f64::from(1 << 20);
    let mut figures = vec![
        Figure::new(
            format!(
                "peak memory of the process at {} and {} nodes",
                sizes[0], sizes[1]
            ),
            "flat in live nodes",
            format!("{:.1} and {:.1} MiB", mib(&small), mib(&large)),
        ),
        Figure::new(
            "bytes for each finished trial more",
            "<= 200",
            format!("{bytes:.0}"),
        )
        .note(format!(
            "of them {own:.0} are the study's own table: 2 parameters, 1 objective"
        )),
    ];
    for of in [&small, &large] {
        figures.push(
            Figure::new(
                format!("CPU time from a freed slot to the next start, {} nodes, 99th percentile", of["nodes"]),
                "< 5 ms",
                format!("{:.3} ms", number(of, "p99")),
            )
            .note(format!(
                "median {:.3} ms, longest {:.3} ms; all work on an end, with ask and plan: {:.3} ms at the 99th percentile",
                number(of, "median"),
                number(of, "most"),
                number(of, "handled"),
            )),
        );
    }
    let per_node = |of: &Value| number(of, "cpu") / number(of, "nodes") * 1e6;
    figures.push(Figure::new(
        "CPU time of engine core a node",
        "no growth",
        format!(
            "{:.1} and {:.1} microseconds",
            per_node(&small),
            per_node(&large)
        ),
    ));
    Ok(Group {
        name: "Long studies",
        what: "Study, planner (every trial is planned) and scheduler with 8 slots, 7 nodes a trial, random sampler, in a process of \
               their own without processes and files.",
        figures,
    })
}
