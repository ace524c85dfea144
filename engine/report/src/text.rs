//! Reports as plain text for a terminal or a log, without colour.

use std::fmt::Write;

use dagrun_events::{NodeCounts, NodeOutcome, NodeRow, RunState};
use dagrun_model::{format_bytes, format_seconds};

use crate::{Statistics, escape_line, statistics};

/// A run on one screen: how it ended, where its time went, and what failed.
pub fn summary(state: &RunState) -> String {
    let mut out = String::new();
    let found = statistics(state);
    head(&mut out, state);
    failures(&mut out, state);
    time(&mut out, state, &found);
    out
}

/// Writing to a string cannot fail.
macro_rules! put {
    ($out:expr, $($arg:tt)*) => {
        writeln!($out, $($arg)*).expect("a string takes all")
    };
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
    let how = match state.exit_code {
        Some(0) => "succeeded".into(),
        Some(130) => "was interrupted".into(),
        Some(code) => format!("ended with exit code {code}"),
        None => "was cut off".into(),
    };
    put!(
        out,
        "{how} after {}: {}",
        format_seconds(state.wall),
        counts(&state.counts)
    );
    if let Some(resumes) = &started.resumes {
        put!(out, "it went on with run {resumes}, which was cut off");
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

fn counts(counts: &NodeCounts) -> String {
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
    let failed = |node: &&NodeRow| node.outcome == Some(NodeOutcome::Failed);
    for node in state.nodes.iter().filter(failed).take(20) {
        let last = state.last_attempt(node).and_then(|a| a.result.as_ref());
        let reason = match (last, &node.cause) {
            (Some(result), _) => result.describe(),
            (None, Some(cause)) => cause.to_string(),
            (None, None) => "failed".into(),
        };
        put!(
            out,
            "failed: {}: {}",
            escape_line(&node.id),
            escape_line(&reason)
        );
    }
}

fn time(out: &mut String, state: &RunState, found: &Statistics) {
    if state.attempts.is_empty() {
        return;
    }
    let attempts = if state.executed == 1 {
        "attempt"
    } else {
        "attempts"
    };
    let busy = format_seconds(found.busy);
    match found.utilisation {
        Some(share) => put!(
            out,
            "{} {attempts} took {busy} in all; slots were busy {:.0} % of the time",
            state.executed,
            share * 100.0
        ),
        None => put!(out, "{} {attempts} took {busy} in all", state.executed),
    }
    chain(out, "slowest", found.slowest.iter().take(5));
    let path = &found.critical_path;
    chain(
        out,
        "critical path",
        path[path.len().saturating_sub(10)..].iter(),
    );
    jobs(out, found);
}

fn chain<'a>(out: &mut String, title: &str, steps: impl Iterator<Item = &'a (String, f64)>) {
    put!(out, "\n{title}");
    for (id, time) in steps {
        put!(out, "{:>12}  {}", format_seconds(*time), escape_line(id));
    }
}

fn jobs(out: &mut String, found: &Statistics) {
    put!(
        out,
        "\n{:>8} {:>8} {:>8} {:>12} {:>12} {:>12} {:>10}  job",
        "ran",
        "cached",
        "failed",
        "median",
        "95 %",
        "CPU",
        "memory"
    );
    for (name, job) in &found.jobs {
        let quantile = |q| job.quantile(q).map_or(String::new(), format_seconds);
        put!(
            out,
            "{:>8} {:>8} {:>8} {:>12} {:>12} {:>12} {:>10}  {}",
            job.attempts,
            job.cached,
            job.unsuccessful,
            quantile(0.5),
            quantile(0.95),
            format_seconds(job.cpu),
            format_bytes(job.peak_memory),
            escape_line(name)
        );
    }
}

#[cfg(test)]
mod tests {
    use dagrun_events::{AttemptSummary, Record, RunEvent, RunStarted};
    use dagrun_model::{AttemptResult, Digest, FailureCause, Outcome};

    use super::*;

    #[test]
    fn the_summary_says_what_happened_and_obeys_nobody() {
        let id = "a[x=\"\u{1b}[2J\"]";
        let mut result = AttemptResult::bare(Outcome::Failed(FailureCause::Exit {
            code: 3,
            step: String::new(),
        }));
        result.phases.compute = 4.0;
        let events = [
            RunEvent::RunStarted(Box::new(RunStarted {
                run: "r1".into(),
                pipeline: "sample".into(),
                host: "here".into(),
                ..RunStarted::default()
            })),
            RunEvent::AttemptStarted {
                node: id.into(),
                key: Digest::empty(),
                attempt: 1,
                number: 1,
                worker: 0,
                after: None,
            },
            RunEvent::AttemptEnded {
                node: id.into(),
                key: Digest::empty(),
                attempt: 1,
                result: Box::new(AttemptSummary::from(&result)),
            },
            RunEvent::NodeDone {
                node: id.into(),
                also: Vec::new(),
                end: NodeOutcome::Failed,
                because: None,
                cause: None,
                outputs: Default::default(),
            },
            RunEvent::RunEnded {
                exit_code: 1,
                counts: NodeCounts::default(),
                wall: 10.0,
            },
        ];
        let records = events.map(|event| Record { at: 1.0, event });
        let text = summary(&RunState::fold(&records));
        for part in [
            "run r1 of sample on here\nended with exit code 1",
            ": 1 failed\n",
            "failed: a[x=\"\\u{1b}[2J\"]: exit code 3\n",
            "1 attempt took",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }
}
