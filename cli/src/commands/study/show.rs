//! `dagrun study show` and `best`: a study on one screen, and its best trial.

use std::collections::BTreeMap;

use dagrun_events::trials_a_minute;
use dagrun_model::{Map, Value};
use dagrun_study::{Study, TrialState};
use serde_json::json;

use dagrun_report::{pace_text, trials_ended};

use super::{
    Subject, curve,
    rows::{self, named_values, params_json},
};
use crate::{
    error::{CliError, Done},
    put,
    term::{Ink, Style, columns, escape, plural, some_trials},
};

/// Trials of a Pareto front that are listed.
const FRONT: usize = 20;
/// Kinds of failures that are listed.
const REASONS: usize = 5;

/// How to print a trial.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Json,
    Params,
}

/// The figures of a study as JSON.
pub(super) fn figures(subject: &Subject) -> serde_json::Value {
    let study = &subject.study;
    let (counts, definition) = (study.counts(), study.definition());
    let text = definition.text();
    let goals = definition.objectives.iter();
    let best = study.best();
    let open: BTreeMap<&str, u64> = subject.open_trials().into_iter().collect();
    json!({
        "study": subject.name,
        "state": subject.state(),
        "reason": study.last_end().map(ToString::to_string),
        "trials": definition.trials,
        "asked": counts.asked,
        "told": counts.told,
        "failed": counts.failed,
        "infeasible": counts.infeasible,
        "running": open["running"],
        "waiting": open["waiting"],
        "cut_off": open["cut off"],
        "objectives": goals.map(|goal| json!({
            "name": &*goal.name,
            "direction": match goal.direction {
                dagrun_model::Direction::Minimize => "minimize",
                dagrun_model::Direction::Maximize => "maximize",
            },
        })).collect::<Vec<_>>(),
        "parameters": text.space.iter().map(|it| &it.name).collect::<Vec<_>>(),
        "best": best.map(|best| trial_json(subject, best.trial)),
        "front": front(study).map(|front| front.iter().map(|trial| trial_json(subject, *trial)).collect::<Vec<_>>()),
        "wall": study.wall(),
        "trials_per_minute": trials_a_minute(study.told_in_wall(), f64::from(study.wall())),
        "trial_seconds": counts.seconds,
        "replicates": counts.replicates,
        "nodes": counts.nodes,
        "hits": counts.hits,
        "failures": failures(study).into_iter().map(|(reason, trials)| json!({"reason": reason, "trials": trials})).collect::<Vec<_>>(),
    })
}

/// The trials of the Pareto front; none with one objective.
fn front(study: &Study) -> Option<Vec<u64>> {
    (study.definition().objectives.len() > 1).then(|| study.front())
}

/// Reasons of failures, the most frequent first, each with its trials.
fn failures(study: &Study) -> Vec<(String, Vec<u64>)> {
    let failed = study.rows().filter(|row| row.state == TrialState::Failed);
    dagrun_report::trial_failures(failed.map(|row| (row.trial, row.reason.unwrap_or("failed"))))
}

fn trial_json(subject: &Subject, trial: u64) -> serde_json::Value {
    match subject.study.row(trial) {
        Some(row) => rows::row_json(subject, &row),
        None => serde_json::Value::Null,
    }
}

pub(super) fn show(subject: &Subject, json: bool, style: Style) -> Done {
    if json {
        put!("{}", figures(subject));
        return Ok(0);
    }
    let study = &subject.study;
    head(subject, style);
    pace_lines(study);
    match front(study) {
        Some(front) => front_table(subject, &front),
        None => match study.best() {
            Some(best) => {
                put!("");
                trial_text(subject, best.trial, "best: trial", style);
            }
            None => put!("\nno trial has a value yet"),
        },
    }
    let failures = failures(study);
    if !failures.is_empty() {
        put!("\nfailures");
        for (reason, trials) in failures.iter().take(REASONS) {
            put!(
                "  {}: {} ({})",
                style.paint_out(Ink::Warn, &plural(trials.len() as u64, "trial")),
                escape(reason),
                some_trials(trials)
            );
        }
        if failures.len() > REASONS {
            let more = plural((failures.len() - REASONS) as u64, "more kind of failure");
            put!("  ... and {more} (dagrun study trials --failed)");
        }
    }
    if let Some(text) = curve::of(study, columns(std::io::stdout()).into()) {
        put!("\n{}", text.trim_end());
    }
    Ok(0)
}

fn head(subject: &Subject, style: Style) {
    let study = &subject.study;
    let (counts, definition) = (study.counts(), study.definition());
    let state = subject.state();
    let ink = match state {
        "done" => Ink::Good,
        "failed" => Ink::Bad,
        "running" => Ink::Info,
        _ => Ink::Warn,
    };
    let reason = study
        .last_end()
        .filter(|_| state != "running")
        .map_or(String::new(), |reason| {
            format!(": {}", escape(&reason.to_string()))
        });
    put!(
        "{} {}{reason}",
        style.paint_out(Ink::Bold, &escape(&subject.name)),
        style.paint_out(ink, state)
    );
    let mut parts = vec![trials_ended(counts.told, definition.trials, counts.told)];
    let ended = [("failed", counts.failed), ("infeasible", counts.infeasible)];
    for (word, n) in ended.into_iter().chain(subject.open_trials()) {
        if n > 0 {
            parts.push(format!("{n} {word}"));
        }
    }
    put!("{}", parts.join(", "));
}

fn pace_lines(study: &Study) {
    let counts = study.counts();
    if let Some(pace) = pace_text(study.told_in_wall(), f64::from(study.wall())) {
        put!("{pace}");
    }
    if counts.nodes > 0 {
        let share = counts.hits as f64 / counts.nodes as f64 * 100.0;
        put!(
            "{}, {} of them hits ({share:.0} %), {}",
            plural(counts.nodes, "node"),
            counts.hits,
            plural(counts.replicates, "replicate")
        );
    }
}

/// A trial with its objectives and parameters.
fn trial_text(subject: &Subject, trial: u64, title: &str, style: Style) {
    let study = &subject.study;
    let Some(row) = study.row(trial) else {
        return;
    };
    let values = match &row.values {
        Some(values) => named_values(study, values)
            .into_iter()
            .map(|(name, value)| format!("{name} = {}", dagrun_model::short_float_text(value)))
            .collect::<Vec<_>>()
            .join(", "),
        None => subject.state_of(&row).to_owned(),
    };
    put!(
        "{title} {trial}: {}",
        style.paint_out(Ink::Good, &escape(&values))
    );
    let params = study.values(trial).unwrap_or_default();
    let width = params.keys().map(|name| name.len()).max().unwrap_or(0);
    for (name, value) in params.iter() {
        let text = match value {
            Value::Null => "not active".to_owned(),
            value => escape(&value.to_text()),
        };
        put!("  {name:width$} = {text}");
    }
    for (name, value) in study.targets().zip(&row.targets) {
        if let Some(value) = value {
            let name = escape(name);
            put!("  {name}: {}", dagrun_model::short_float_text(*value));
        }
    }
    if row.violation > 0.0 {
        put!(
            "  infeasible by {}",
            dagrun_model::short_float_text(row.violation)
        );
    }
    if let Some(reason) = row.reason {
        put!("  failed: {}", escape(reason));
    }
}

fn front_table(subject: &Subject, front: &[u64]) {
    if front.is_empty() {
        return put!("\nno trial has values yet");
    }
    put!("\nPareto front: {}", plural(front.len() as u64, "trial"));
    let shown = &front[..front.len().min(FRONT)];
    let shown_rows = shown.iter().filter_map(|trial| subject.study.row(*trial));
    put!("{}", rows::text(subject, shown_rows));
    if front.len() > shown.len() {
        put!(
            "... and {} more (dagrun study best)",
            front.len() - shown.len()
        );
    }
}

/// The best trial, those of the front, or the one that was asked for.
pub(super) fn best(subject: &Subject, trial: Option<u64>, form: Form, style: Style) -> Done {
    let study = &subject.study;
    let trials = match (trial, front(study)) {
        (Some(trial), _) => vec![trial],
        (None, Some(front)) => front,
        (None, None) => study.best().into_iter().map(|best| best.trial).collect(),
    };
    if let Some(missing) = trials.iter().find(|trial| study.row(**trial).is_none()) {
        let asked = study.counts().asked;
        return Err(crate::trial::no_such_trial(*missing, &subject.name, asked));
    }
    let Some(first) = trials.first() else {
        return Err(CliError::failed(format!(
            "no trial of study `{}` has a value that counts",
            subject.name
        ))
        .hint(
            "`dagrun study trials --failed` lists failures; infeasible trials are never the best",
        ));
    };
    let single = trial.is_some() || study.definition().objectives.len() == 1;
    match form {
        Form::Json if single => put!("{}", trial_json(subject, *first)),
        Form::Json => {
            let all = trials.iter().map(|trial| trial_json(subject, *trial));
            put!("{}", serde_json::Value::from(all.collect::<Vec<_>>()));
        }
        Form::Params if single => {
            put!("{}", params_yaml(&study.values(*first).unwrap_or_default()))
        }
        Form::Params => {
            return Err(CliError::invalid(format!(
                "study `{}` has several objectives, and {} on its Pareto front",
                subject.name,
                plural(trials.len() as u64, "trial")
            ))
            .hint(format!("choose one: `--trial {first}`")));
        }
        Form::Text if single => trial_text(subject, *first, "trial", style),
        Form::Text => front_table(subject, &trials),
    }
    Ok(0)
}

/// Parameters as a file for `--params-file`: JSON values are YAML. Those that are not active are left out.
fn params_yaml(params: &Map) -> String {
    let lines: Vec<String> = params_json(params)
        .into_iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    lines.join("\n")
}
