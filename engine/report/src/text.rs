//! A run as plain text, without colour: the table of jobs that `dagrun show` prints, and all that `dagrun report` does.

use std::{collections::BTreeMap, fmt::Write};

use dagrun_events::{NodeCounts, RunState};
use dagrun_model::{format_bytes, format_seconds};

use crate::{
    JobStatistics, Statistics, attempts_text, escape_line, failure_groups, job_of, plural,
    slot_time, statistics, study_text, table,
};

/// Groups of failures that are listed.
const FAILURES: usize = 20;
/// Steps of the critical path that are listed: the last ones.
const PATH: usize = 10;
/// Attempts that are listed as the slowest.
const SLOWEST: usize = 5;

/// Writing to a string cannot fail.
macro_rules! put {
    ($out:expr, $($arg:tt)*) => {
        writeln!($out, $($arg)*).expect("a string takes all")
    };
}

/// A run on one screen: how it ended, what failed, where its time went, what the cache saved. `paces` are the mean seconds of
/// an attempt by job in former runs, by which hits are weighed of jobs that did not run in this one.
pub fn summary(state: &RunState, paces: &BTreeMap<String, f64>) -> String {
    let mut out = String::new();
    let found = statistics(state);
    head(&mut out, state);
    failures(&mut out, state);
    let study = study_text(state);
    if !study.is_empty() {
        put!(out, "\n{}", study.trim_end());
    }
    time(&mut out, state, &found);
    saved(&mut out, state, &found, paces);
    if !found.jobs.is_empty() {
        put!(out, "\n{}", job_table(&found.jobs_by_concern()).trim_end());
    }
    out
}

/// A table of jobs: a row for each, empty cells for what is nought.
pub fn job_table(jobs: &[&JobStatistics]) -> String {
    let (header, rows) = job_rows(jobs);
    let aligned: Vec<String> = header
        .iter()
        .enumerate()
        .map(|(column, name)| format!("{}{name}", if column > 0 { ">" } else { "" }))
        .collect();
    let aligned: Vec<&str> = aligned.iter().map(String::as_str).collect();
    table(&aligned, &rows)
}

/// Header and rows of a table of jobs, without columns that have nothing in them.
pub(crate) fn job_rows(jobs: &[&JobStatistics]) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let header = [
        "job",
        "ran",
        "cached",
        "failed",
        "lost",
        "cancelled",
        "skipped",
        "median",
        "95 %",
        "CPU",
        "peak memory",
        "inputs",
        "outputs",
    ];
    let rows: Vec<Vec<String>> = jobs.iter().map(|job| row(job)).collect();
    let is_used = |column: &usize| rows.iter().any(|row| !row[*column].is_empty());
    let used: Vec<usize> = (0..header.len()).filter(is_used).collect();
    let kept = |row: &Vec<String>| used.iter().map(|column| row[*column].clone()).collect();
    (
        used.iter().map(|column| header[*column]).collect(),
        rows.iter().map(kept).collect(),
    )
}

fn row(job: &JobStatistics) -> Vec<String> {
    let count = |n: u64| if n == 0 { String::new() } else { n.to_string() };
    let bytes = |n: u64| {
        if n == 0 {
            String::new()
        } else {
            format_bytes(n)
        }
    };
    let quantile = |q| job.quantile(q).map_or(String::new(), format_seconds);
    let cpu = if job.attempts > 0 {
        format_seconds(job.cpu)
    } else {
        String::new()
    };
    vec![
        escape_line(&job.name),
        count(job.attempts),
        count(job.cached),
        count(job.unsuccessful),
        count(job.lost),
        count(job.cancelled),
        count(job.skipped),
        quantile(0.5),
        quantile(0.95),
        cpu,
        bytes(job.peak_memory),
        bytes(job.bytes_in),
        bytes(job.bytes_out),
    ]
}

/// How a run ended, in a few words.
pub(crate) fn ending(state: &RunState) -> String {
    match state.exit_code {
        _ if state.gave_up.is_some() => "gave up".into(),
        Some(0) => "succeeded".into(),
        Some(130) => "was interrupted".into(),
        Some(code) => format!("ended with exit code {code}"),
        None => "was cut off".into(),
    }
}

fn head(out: &mut String, state: &RunState) {
    let started = state.started.clone().unwrap_or_default();
    put!(
        out,
        "run {} of {} on {}",
        started.run,
        escape_line(&started.pipeline),
        escape_line(&started.host)
    );
    put!(
        out,
        "{} after {}: {}",
        ending(state),
        format_seconds(state.wall),
        counts(&state.counts)
    );
    if let Some(why) = &state.gave_up {
        put!(out, "it could not go on: {}", escape_line(why));
    }
    if let Some(resumes) = &started.resumes {
        put!(
            out,
            "it went on with run {resumes}, which was cut off or gave up"
        );
    }
    for warning in &state.warnings {
        put!(out, "warning: {}", escape_line(warning));
    }
    for (path, reason) in &state.kept_back {
        put!(
            out,
            "not exported: {}: {}",
            escape_line(path),
            escape_line(reason)
        );
    }
}

/// How nodes ended, without what did not happen.
pub(crate) fn counts(counts: &NodeCounts) -> String {
    let parts = [
        (counts.succeeded, "succeeded"),
        (counts.cached, "cached"),
        (counts.failed, "failed"),
        (counts.skipped, "skipped"),
        (counts.cancelled, "cancelled"),
    ];
    let told: Vec<String> = parts
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, word)| format!("{n} {word}"))
        .collect();
    if told.is_empty() {
        "no nodes".into()
    } else {
        told.join(", ")
    }
}

fn failures(out: &mut String, state: &RunState) {
    let groups = failure_groups(state);
    for (nodes, why) in groups.iter().take(FAILURES) {
        let more = and_more(nodes[0].id.as_str(), nodes.len() - 1);
        put!(
            out,
            "failed: {}: {}{more}",
            escape_line(&nodes[0].id),
            escape_line(why)
        );
    }
    if groups.len() > FAILURES {
        put!(
            out,
            "... and {}",
            plural((groups.len() - FAILURES) as u64, "more kind of failure")
        );
    }
}

fn and_more(first: &str, others: usize) -> String {
    match others {
        0 => String::new(),
        _ => format!(" (and {others} more of `{}`)", escape_line(job_of(first))),
    }
}

fn time(out: &mut String, state: &RunState, found: &Statistics) {
    if state.attempts.is_empty() {
        return;
    }
    let attempts = attempts_text(state);
    let busy = format_seconds(found.busy);
    match found.utilisation {
        Some(share) => put!(
            out,
            "{attempts} took {busy} in all; slots were busy {:.0} % of the time",
            share * 100.0
        ),
        None => put!(out, "{attempts} took {busy} in all"),
    }
    slots(out, state);
    chain(out, "slowest", found.slowest.iter().take(SLOWEST));
    let path = &found.critical_path;
    chain(
        out,
        "critical path",
        path[path.len().saturating_sub(PATH)..].iter(),
    );
}

/// The causes of slot time, the greatest first.
fn slots(out: &mut String, state: &RunState) {
    let found = slot_time(state);
    if found.causes.is_empty() {
        return;
    }
    put!(
        out,
        "\nwhere the time of slots went ({})",
        found.heading(state.wall)
    );
    let total = found.total();
    for (what, seconds) in found.shown() {
        put!(
            out,
            "{:>12}  {:>3.0} %  {}",
            format_seconds(*seconds),
            seconds / total * 100.0,
            escape_line(&what.to_string())
        );
    }
    for remedy in found.advice() {
        put!(out, "{:>12}  {}", "help", escape_line(&remedy));
    }
}

fn chain<'a>(out: &mut String, title: &str, steps: impl Iterator<Item = &'a (String, f64)>) {
    put!(out, "\n{title}");
    for (id, time) in steps {
        put!(out, "{:>12}  {}", format_seconds(*time), escape_line(id));
    }
}

fn saved(out: &mut String, state: &RunState, found: &Statistics, paces: &BTreeMap<String, f64>) {
    let hits = state.counts.cached;
    if hits == 0 {
        return;
    }
    let hits = plural(hits, "hit");
    match found.saved(paces) {
        Some(seconds) => put!(
            out,
            "\n{hits} saved about {} of work",
            format_seconds(seconds)
        ),
        None => put!(out, "\n{hits}; how much work they saved is not known"),
    }
}

#[cfg(test)]
mod tests {
    use dagrun_events::{NodeOutcome, RunEvent, RunStarted};
    use dagrun_model::{AttemptResult, FailureCause, Outcome};

    use super::*;
    use crate::kit::{done, ended, fold, start};

    #[test]
    fn the_summary_says_what_happened_and_obeys_nobody() {
        let id = "a[x=\"\u{1b}[2J\"]";
        let mut result = AttemptResult::bare(Outcome::Failed(FailureCause::Exit {
            code: 3,
            step: String::new(),
        }));
        result.phases.compute = 4.0;
        let started = RunEvent::RunStarted(Box::new(RunStarted {
            run: "r1".into(),
            pipeline: "sample".into(),
            host: "here".into(),
            ..RunStarted::default()
        }));
        let over = RunEvent::RunEnded {
            exit_code: 1,
            counts: NodeCounts::default(),
            plan: None,
            wall: 10.0,
        };
        let stopped = AttemptResult::bare(Outcome::Cancelled);
        let joined = RunEvent::WorkerJoined {
            worker: 0,
            host: "here".into(),
            slots: 2.0,
            memory: 0,
            process: String::new(),
        };
        let events = [
            started,
            joined,
            start(id, 1, None),
            ended(id, 1, &result),
            done(id, NodeOutcome::Failed),
            start("b", 2, None),
            ended("b", 2, &stopped),
            done("c", NodeOutcome::Cached),
            over,
        ];
        let state = fold(events.map(|event| (1.0, event)));
        let text = summary(&state, &[("c".to_string(), 60.0)].into());
        for part in [
            "run r1 of sample on here\nended with exit code 1",
            ": 1 cached, 1 failed\n",
            "failed: a[x=\"\\u{1b}[2J\"]: exit code 3\n",
            "2 attempts (1 cancelled) took 4.0 s",
            "\nwhere the time of slots went (2 slots for 10.0 s)\n",
            "4.0 s   20 %  attempts that failed, were stopped or were lost\n",
            "1 hit saved about 1m 00s of work",
            // What was told to stop did not fail.
            "\njob  ran  cached  failed  cancelled  median   95 %   CPU\na      1               1              4.0 s  4.0 s  0 ms\n",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }
}
