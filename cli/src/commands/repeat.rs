//! `dagrun check` and `probe`: one node several times.

use dagrun_events::{AttemptOutcome, AttemptSummary};
use dagrun_model::{format_bytes, format_seconds};
use dagrun_report::quantile;
use dagrun_run::{CheckRow, ProbeRow, RepeatRequest, Repeated};

use crate::{
    args::{CheckArgs, Global, NodeOf, ProbeArgs},
    commands::{node::Found, run, run_error},
    error::{CliError, Done},
    leftovers, put, say,
    term::{Ink, Style, escape, plural, table},
};

/// A node and what it takes to run it past the cache.
struct Repeatable {
    found: Found,
    id: String,
}

impl Repeatable {
    fn new(of: &NodeOf, global: &Global, style: Style) -> Result<Self, CliError> {
        let found = Found::new(of, global, style)?;
        let id = found.planned.plan.id(found.node);
        Ok(Self { found, id })
    }

    fn request(&self, style: Style) -> Result<RepeatRequest, CliError> {
        let planned = &self.found.planned;
        let lock = planned
            .workspace
            .lock(&super::command_line())
            .map_err(run_error)?;
        leftovers::clear(&planned.workspace, &planned.store, style);
        let settings = &self.found.loaded.settings;
        Ok(RepeatRequest {
            plan: planned.plan.clone(),
            store: planned.store.clone(),
            workspace: planned.workspace.clone(),
            lock,
            node: self.found.node,
            executor: run::executor(settings, planned.store.clone(), settings.jobs.value),
        })
    }

    fn ran<T>(&self, repeated: Repeated<T>) -> Result<T, CliError> {
        match repeated {
            Repeated::Ran(found) => Ok(found),
            Repeated::NotReady => Err(self
                .found
                .must_run(self.found.node, "its inputs are not there yet")),
            Repeated::Skipped => Err(CliError::failed(format!(
                "`{}` does not run: its `if` is false, or that of a node that it needs",
                escape(&self.id)
            ))),
        }
    }
}

pub(crate) fn check(args: &CheckArgs, global: &Global, style: Style) -> Done {
    if args.repeat < 2 {
        return Err(
            CliError::invalid(format!("`--repeat {}` compares nothing", args.repeat))
                .hint("write 2 or more"),
        );
    }
    let node = Repeatable::new(&args.node, global, style)?;
    let checked = dagrun_run::check(node.request(style)?, args.repeat).map_err(run_error)?;
    let row = node.ran(checked)?;
    if args.answer.json {
        put!("{}", check_json(&row));
    } else {
        print_check(&row, style);
    }
    Ok(u8::from(!row.is_deterministic()))
}

fn print_check(row: &CheckRow, style: Style) {
    for (output, digests) in &row.differing {
        let seen: Vec<String> = digests
            .iter()
            .map(|digest| digest.map_or("absent".into(), |d| d.short()))
            .collect();
        put!(
            "{} {} output `{output}`: {}",
            style.paint_out(Ink::Bad, "differs:"),
            escape(&row.id),
            seen.join(", ")
        );
    }
    for failure in &row.failures {
        print_failure(&row.id, failure, style);
    }
    if row.is_deterministic() {
        put!(
            "{} made the same bytes {} times",
            escape(&row.id),
            row.repeats
        );
    } else {
        say!(
            "a node that makes other bytes each time is cached by its first result; fix its seed or say `cache: never`"
        );
    }
}

fn print_failure(id: &str, failure: &AttemptSummary, style: Style) {
    put!(
        "{} {}: {}",
        style.paint_out(Ink::Bad, "failed:"),
        escape(id),
        escape(&failure.describe())
    );
}

fn check_json(row: &CheckRow) -> serde_json::Value {
    let differing: serde_json::Map<_, _> = row
        .differing
        .iter()
        .map(|(output, digests)| {
            (
                output.clone(),
                digests
                    .iter()
                    .map(|d| d.map(|d| d.to_string()))
                    .collect::<Vec<_>>()
                    .into(),
            )
        })
        .collect();
    let failures: Vec<String> = row.failures.iter().map(AttemptSummary::describe).collect();
    serde_json::json!({"id": row.id, "repeats": row.repeats, "differing": differing, "failures": failures})
}

/// The most threads that are tried: more is a slip of the finger.
const MOST_THREADS: u32 = 4096;

pub(crate) fn probe(args: &ProbeArgs, global: &Global, style: Style) -> Done {
    if let Some(bad) = args
        .threads
        .iter()
        .find(|n| !(1..=MOST_THREADS).contains(*n))
    {
        return Err(
            CliError::invalid(format!("`--threads {bad}` is no number of threads"))
                .hint("write numbers such as 1,2,4"),
        );
    }
    let node = Repeatable::new(&args.node, global, style)?;
    let probed = dagrun_run::probe(node.request(style)?, &args.threads, args.repeat);
    let rows = node.ran(probed.map_err(run_error)?)?;
    let tried: Vec<Tried> = rows.iter().map(Tried::new).collect();
    if args.answer.json {
        let rows: Vec<_> = tried.iter().map(Tried::json).collect();
        put!(
            "{}",
            serde_json::json!({"id": node.id, "repeats": args.repeat, "threads": rows})
        );
    } else {
        put!("{}", probe_table(&tried).trim_end());
        put!("{}", advice(&tried));
    }
    let failures = rows.iter().flat_map(|row| &row.attempts);
    let mut failures = failures.filter(|it| !matches!(it.outcome, AttemptOutcome::Succeeded));
    match failures.next() {
        None => Ok(0),
        Some(first) => {
            if !args.answer.json {
                print_failure(&node.id, first, style);
            }
            Ok(1)
        }
    }
}

/// A number of threads and what attempts with it took; figures of those that succeeded.
struct Tried {
    threads: u32,
    failed: usize,
    /// Median seconds from the start of the program to its end.
    seconds: Option<f64>,
    /// CPU seconds over wall seconds.
    cores: f64,
    peak_memory: u64,
}

impl Tried {
    fn new(row: &ProbeRow) -> Self {
        let good: Vec<&AttemptSummary> = row
            .attempts
            .iter()
            .filter(|it| matches!(it.outcome, AttemptOutcome::Succeeded))
            .collect();
        let mut seconds: Vec<f64> = good.iter().map(|it| it.phases.compute).collect();
        seconds.sort_by(f64::total_cmp);
        let wall: f64 = seconds.iter().sum();
        let cpu: f64 = good.iter().map(|it| it.usage.cpu).sum();
        Self {
            threads: row.threads,
            failed: row.attempts.len() - good.len(),
            seconds: quantile(&seconds, 0.5),
            cores: cpu / wall.max(f64::MIN_POSITIVE),
            peak_memory: good
                .iter()
                .map(|it| it.usage.peak_memory)
                .max()
                .unwrap_or(0),
        }
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "threads": self.threads,
            "failed": self.failed,
            "seconds": self.seconds,
            "cores": self.seconds.map(|_| self.cores),
            "peak_memory": self.peak_memory,
        })
    }

    /// Nodes a second of all its threads: what a machine full of such nodes is measured by.
    fn per_thread(&self) -> Option<f64> {
        let seconds = self.seconds.filter(|seconds| *seconds > 0.0)?;
        Some(1.0 / (seconds * f64::from(self.threads)))
    }
}

fn probe_table(tried: &[Tried]) -> String {
    let first = tried.first().and_then(|it| it.seconds);
    let rows: Vec<Vec<String>> = tried
        .iter()
        .map(|it| {
            let speedup = first.zip(it.seconds).map(|(first, now)| first / now);
            vec![
                it.threads.to_string(),
                it.seconds.map_or("failed".into(), format_seconds),
                speedup.map_or(String::new(), |by| format!("{by:.2}")),
                it.seconds
                    .map_or(String::new(), |_| format!("{:.2}", it.cores)),
                it.seconds
                    .map_or(String::new(), |_| format_bytes(it.peak_memory)),
            ]
        })
        .collect();
    table(
        &[
            ">threads",
            ">median",
            ">speed-up",
            ">CPUs used",
            ">peak memory",
        ],
        &rows,
    )
}

/// What to write into the pipeline.
fn advice(tried: &[Tried]) -> String {
    let best = |of: fn(&Tried) -> Option<f64>| {
        let known = tried.iter().filter_map(|it| Some((it, of(it)?)));
        known.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(it, _)| it)
    };
    let fastest = best(|it| it.seconds.map(|seconds| -seconds));
    let (Some(fastest), Some(thrifty)) = (fastest, best(Tried::per_thread)) else {
        return "no attempt succeeded".into();
    };
    let threads = |it: &Tried| plural(u64::from(it.threads), "thread");
    if fastest.threads == thrifty.threads {
        return format!(
            "best: {}, alone and with many nodes at a time",
            threads(fastest)
        );
    }
    format!(
        "fastest alone: {}; most in all, where there are nodes for every CPU: {} each",
        threads(fastest),
        threads(thrifty)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(threads: u32, seconds: f64) -> Tried {
        Tried {
            threads,
            failed: 0,
            seconds: Some(seconds),
            cores: 1.0,
            peak_memory: 0,
        }
    }

    #[test]
    fn advice_tells_speed_from_throughput() {
        // Twice as fast with four threads: alone that is best, on a full machine it is not.
        assert_eq!(
            advice(&[tried(1, 4.0), tried(4, 2.0)]),
            "fastest alone: 4 threads; most in all, where there are nodes for every CPU: 1 thread each"
        );
        assert_eq!(
            advice(&[tried(1, 4.0), tried(2, 4.1)]),
            "best: 1 thread, alone and with many nodes at a time"
        );
        assert_eq!(
            advice(&[Tried {
                seconds: None,
                ..tried(1, 0.0)
            }]),
            "no attempt succeeded"
        );
    }
}
