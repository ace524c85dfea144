//! The study of a run: figures, failures of its trials, and what deduplication saved.

use std::fmt::Write as _;

use dagrun_events::{RunState, StudyRow, trials_a_minute};
use dagrun_model::{format_seconds, short_float_text};
use rustc_hash::FxHashMap;
use serde_json::{Value, json};

use crate::{escape_line, job_of, plural};

/// Trials that are listed of a kind of failure.
const LISTED: usize = 100;
/// Kinds of failure that are listed as text.
const KINDS: usize = 5;

/// A study in figures, as far as one run tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StudyFigures {
    /// Nodes of the trials that this run told; how many were hits; how many an engine without deduplication would have run.
    pub(crate) nodes: u64,
    pub(crate) hits: u64,
    pub(crate) naive: u64,
    /// Reasons of failures with their trials, the most frequent first.
    pub(crate) failures: Vec<(String, Vec<u64>)>,
}

pub(crate) fn figures(study: &StudyRow) -> StudyFigures {
    let sum = |of: fn(&dagrun_events::TrialRow) -> u64| study.rows.iter().map(of).sum();
    let failed = study.rows.iter();
    let failed = failed.filter_map(|row| Some((row.trial, row.reason.as_deref()?)));
    StudyFigures {
        nodes: sum(|row| u64::from(row.nodes)),
        hits: sum(|row| u64::from(row.hits)),
        naive: sum(|row| row.naive),
        failures: trial_failures(failed),
    }
}

/// Why trials failed: reasons that are the same but for the nodes and the values in them, each with its trials in their order,
/// the most frequent first. The words are those of the first of a kind.
pub fn trial_failures<'a>(
    failed: impl IntoIterator<Item = (u64, &'a str)>,
) -> Vec<(String, Vec<u64>)> {
    let mut groups: Vec<(String, Vec<u64>)> = Vec::new();
    let mut at: FxHashMap<String, usize> = FxHashMap::default();
    for (trial, reason) in failed {
        let words = without_trials(reason);
        let ix = *at.entry(without_values(&words)).or_insert_with(|| {
            groups.push((words, Vec::new()));
            groups.len() - 1
        });
        groups[ix].1.push(trial);
    }
    groups.sort_by_key(|(_, trials)| std::cmp::Reverse(trials.len()));
    groups
        .iter_mut()
        .for_each(|(_, trials)| trials.sort_unstable());
    groups
}

/// A reason that names jobs instead of nodes of one trial.
fn without_trials(reason: &str) -> String {
    let parts = reason.split('`').enumerate();
    let parts = parts.map(|(ix, part)| match ix % 2 == 1 && part.contains("[trial=") {
        true => job_of(part),
        false => part,
    });
    parts.collect::<Vec<_>>().join("`")
}

/// A reason without the numbers that differ from trial to trial: those with a point or an exponent, and all that a program said
/// after its exit code. Exit codes, signals and sizes of lists stay, for they are of the kind.
fn without_values(reason: &str) -> String {
    let code = reason.find("exit code ");
    let words = code.and_then(|at| Some(at + reason[at..].find(": ")?));
    let is_of_number = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
    let mut out = String::with_capacity(reason.len());
    let mut rest = reason;
    while let Some(start) = rest.find(is_of_number) {
        let (before, from) = rest.split_at(start);
        let end = from.find(|c| !is_of_number(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        out.push_str(before);
        let number = word.trim_end_matches('.');
        let at = reason.len() - from.len();
        let is_of_kind = !number.contains(['.', 'e', 'E']) && words.is_none_or(|words| at < words);
        let is_value = number.parse::<f64>().is_ok_and(f64::is_finite) && !is_of_kind;
        match is_value {
            true => {
                out.push('#');
                out.push_str(&word[number.len()..]);
            }
            false => out.push_str(word),
        }
        rest = after;
    }
    out + rest
}

/// The study of a run as JSON; null where it has none.
pub(crate) fn study(state: &RunState) -> Value {
    let Some(study) = &state.study else {
        return Value::Null;
    };
    let found = figures(study);
    json!({
        "name": study.study,
        "trials": study.trials,
        "told": study.told(),
        "told_now": study.told_now,
        "failed_now": study.failed_now,
        "objectives": study.objectives,
        "best": study.best.map(|(trial, value)| json!({"trial": trial, "value": value, "params": study.best_params})),
        "ended": study.end.as_ref().map(|end| &end.reason),
        "succeeded": study.end.as_ref().map(|end| end.succeeded),
        "failed": study.end.as_ref().map(|end| end.failed),
        "trials_per_minute": study.pace.a_minute(),
        "naive": found.naive,
        "nodes": found.nodes,
        "hits": found.hits,
        "failures": found.failures.iter().map(|(reason, trials)| json!({
            "reason": reason,
            "count": trials.len(),
            "trials": trials[..trials.len().min(LISTED)],
        })).collect::<Vec<_>>(),
    })
}

/// The study of a run in a few lines; nothing where it has none.
pub fn study_text(state: &RunState) -> String {
    let mut out = String::new();
    let Some(study) = &state.study else {
        return out;
    };
    let found = figures(study);
    let _ = write!(
        out,
        "study {}: {}",
        escape_line(&study.study),
        trials_ended(study.told(), study.trials, study.told_now)
    );
    if study.failed_now > 0 {
        let _ = write!(out, ", {} failed", study.failed_now);
    }
    match &study.end {
        Some(end) => {
            let _ = writeln!(out, "; {}", escape_line(&end.reason));
        }
        None => out.push('\n'),
    }
    if let Some((trial, value)) = study.best {
        let name = study.objectives.first().map_or("value", String::as_str);
        let _ = writeln!(
            out,
            "  best: {} = {} in trial {trial}{}",
            escape_line(name),
            short_float_text(value),
            params(study.best_params.as_ref())
        );
    }
    if let Some(pace) = pace_text(study.pace.told, study.pace.seconds) {
        let _ = writeln!(out, "  {pace}");
    }
    if let Some(saved) = saved(&found) {
        let _ = writeln!(out, "  {saved}");
    }
    for (reason, trials) in found.failures.iter().take(KINDS) {
        let _ = writeln!(
            out,
            "  {} failed: {} ({})",
            plural(trials.len() as u64, "trial"),
            escape_line(reason),
            some_trials(trials)
        );
    }
    if found.failures.len() > KINDS {
        let more = (found.failures.len() - KINDS) as u64;
        let _ = writeln!(out, "  ... and {}", plural(more, "more kind of failure"));
    }
    out
}

/// The pace of a study in words: trials that ended, in so many seconds. Nothing before there is a measure.
pub fn pace_text(told: u64, seconds: f64) -> Option<String> {
    let pace = trials_a_minute(told, seconds)?;
    Some(format!(
        "{} trials a minute in {}",
        pace_number(pace),
        format_seconds(seconds)
    ))
}

/// A pace with as many places as say something.
pub fn pace_number(pace: f64) -> String {
    match pace >= 10.0 {
        true => format!("{pace:.0}"),
        false => format!("{pace:.1}"),
    }
}

/// How many trials have ended, of how many there are to be, and how many of them in this run.
pub fn trials_ended(ended: u64, trials: u64, now: u64) -> String {
    let mut text = match ended > trials {
        false => format!("{ended} of {} ended", plural(trials, "trial")),
        true => format!(
            "{} ended, where {trials} are asked for",
            plural(ended, "trial")
        ),
    };
    match now {
        _ if now == ended => {}
        0 => text.push_str(", none of them in this run"),
        _ => {
            let _ = write!(text, ", {now} of them in this run");
        }
    }
    text
}

/// What deduplication and the cache saved of the nodes of trials.
pub(crate) fn saved(found: &StudyFigures) -> Option<String> {
    if found.nodes == 0 {
        return None;
    }
    let mut text = format!("{} in trials", plural(found.nodes, "node"));
    if found.hits > 0 {
        text.push_str(&format!(", {} of them hits", found.hits));
    }
    if found.naive > found.nodes {
        text.push_str(&format!(
            "; an engine without deduplication would run {}",
            found.naive
        ));
    }
    Some(text)
}

/// The first of some trials, as `trials 1, 2, ...`.
pub fn some_trials(trials: &[u64]) -> String {
    let first: Vec<String> = trials.iter().take(5).map(u64::to_string).collect();
    let more = if trials.len() > 5 { ", ..." } else { "" };
    let word = if trials.len() == 1 { "trial" } else { "trials" };
    format!("{word} {}{more}", first.join(", "))
}

/// Parameters as JSON in brackets.
pub(crate) fn params(params: Option<&Value>) -> String {
    let Some(Value::Object(params)) = params else {
        return String::new();
    };
    let params = params.iter().filter(|(_, value)| !value.is_null());
    let texts: Vec<String> = params
        .map(|(name, value)| match value {
            Value::String(text) => format!("{name}={}", escape_line(text)),
            value => format!("{name}={value}"),
        })
        .collect();
    format!(" ({})", texts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_trials_are_counted_exactly() {
        for (counts, text) in [
            ((0, 8, 0), "0 of 8 trials ended"),
            ((1, 1, 1), "1 of 1 trial ended"),
            ((8, 8, 0), "8 of 8 trials ended, none of them in this run"),
            ((12, 16, 4), "12 of 16 trials ended, 4 of them in this run"),
            (
                (16, 8, 0),
                "16 trials ended, where 8 are asked for, none of them in this run",
            ),
        ] {
            let (ended, trials, now) = counts;
            assert_eq!(trials_ended(ended, trials, now), text);
        }
    }

    #[test]
    fn failures_of_one_kind_stand_together() {
        let failed = [
            (3, "`a[trial=3,x=1]` exit code 1"),
            (2, "objective `loss` is NaN"),
            (1, "`a[trial=1,x=2]` exit code 1"),
            (4, "x = -0.25 is below 0."),
            (5, "x = -1e-7 is below 0."),
            (6, "`a[trial=6,x=1]` exit code 2"),
            (7, "`a[trial=7,x=1]` exit code 2: diverged at 17"),
            (8, "`a[trial=8,x=1]` exit code 2: diverged at 4"),
        ];
        assert_eq!(
            trial_failures(failed),
            [
                ("`a` exit code 1".to_owned(), vec![1, 3]),
                ("x = -0.25 is below 0.".to_owned(), vec![4, 5]),
                ("`a` exit code 2: diverged at 17".to_owned(), vec![7, 8]),
                ("objective `loss` is NaN".to_owned(), vec![2]),
                ("`a` exit code 2".to_owned(), vec![6]),
            ]
        );
    }
}
