//! `dagrun study trials`, and trials as rows for all who list them.

use std::io::IsTerminal;

use dagrun_model::{Direction, Map, Value, format_seconds, short_float_text};
use dagrun_study::{Source, Study, TrialRow, TrialState};
use serde_json::json;

use super::Subject;
use crate::{
    commands::report::{and_more, most_rows},
    error::{CliError, Done},
    put,
    term::{escape, short_text, table},
};

/// Characters of a cell.
const CELL: usize = 24;
/// Characters of a reason on a terminal.
const REASON: usize = 60;

/// Which trials, and in what order.
pub(super) struct Choice {
    pub(super) sorted: bool,
    pub(super) top: Option<usize>,
    pub(super) failed: bool,
}

/// Objectives by name.
pub(super) fn named_values<'s>(study: &'s Study, values: &[f64]) -> Vec<(&'s str, f64)> {
    let goals = study.definition().objectives.iter();
    goals
        .map(|goal| &*goal.name)
        .zip(values.iter().copied())
        .collect()
}

/// Parameters as JSON, in their order.
pub(super) fn params_json(params: &Map) -> Vec<(String, serde_json::Value)> {
    let params = params.iter();
    params
        .map(|(name, value)| (name.to_string(), value.to_json()))
        .collect()
}

/// A trial as JSON.
pub(super) fn row_json(subject: &Subject, row: &TrialRow<'_>) -> serde_json::Value {
    let study = &subject.study;
    let params = study.definition().space.values(row.point);
    let params: serde_json::Map<_, _> = params_json(&params).into_iter().collect();
    let values = row.values.as_ref().map(|values| {
        let named = named_values(study, values).into_iter();
        let named = named.map(|(name, value)| (name.to_owned(), json!(value)));
        named.collect::<serde_json::Map<_, _>>()
    });
    let targets = study.targets().zip(&row.targets);
    let targets: serde_json::Map<_, _> = targets
        .filter_map(|(name, value)| Some((name.to_string(), json!((*value)?))))
        .collect();
    let told = row.state != TrialState::Asked;
    json!({
        "trial": row.trial,
        "state": subject.state_of(row),
        "source": match row.source {
            Source::Sampler => "sampler",
            Source::Enqueued => "enqueued",
        },
        "params": params,
        "values": values,
        "targets": targets,
        "violation": row.values.as_ref().map(|_| row.violation),
        "replicates": told.then_some(row.replicates),
        "seconds": told.then_some(row.seconds),
        "nodes": told.then_some(row.nodes),
        "hits": told.then_some(row.hits),
        "seen": row.seen,
        "reason": row.reason,
    })
}

pub(super) fn trials(subject: &Subject, choice: &Choice, json: bool, all: bool) -> Done {
    let study = &subject.study;
    let rows = chosen(study, choice)?;
    if json {
        let rows: Vec<_> = rows.iter().map(|row| row_json(subject, row)).collect();
        put!("{}", serde_json::Value::from(rows));
        return Ok(0);
    }
    if rows.is_empty() {
        let what = if choice.failed {
            "failed"
        } else {
            "was asked for"
        };
        put!("no trial {what}");
        return Ok(0);
    }
    let most = most_rows(all).unwrap_or(usize::MAX);
    let left = rows.len().saturating_sub(most);
    // In the order of numbers the last ones are the news.
    let (first, last) = if choice.sorted {
        (0, rows.len() - left)
    } else {
        (left, rows.len())
    };
    put!("{}", text(subject, rows[first..last].iter().cloned()));
    let word = if choice.sorted {
        "trial"
    } else {
        "earlier trial"
    };
    and_more(rows.len(), most, word);
    Ok(0)
}

fn chosen<'s>(study: &'s Study, choice: &Choice) -> Result<Vec<TrialRow<'s>>, CliError> {
    let mut rows: Vec<TrialRow<'s>> = study.rows().collect();
    if choice.failed {
        rows.retain(|row| row.state == TrialState::Failed);
    }
    if choice.sorted {
        let [goal] = study.definition().objectives.as_slice() else {
            return Err(CliError::invalid(
                "the study has several objectives: its trials have no one order",
            )
            .hint("`dagrun study best` lists the Pareto front"));
        };
        // Feasible ones by value, then infeasible ones by how much they are, then the rest.
        rows.sort_by(|a, b| {
            let rank = |row: &TrialRow<'_>| match &row.values {
                Some(values) => (0, row.violation, values[0]),
                None => (1, 0.0, 0.0),
            };
            let (a_rank, b_rank) = (rank(a), rank(b));
            let by_value = match goal.direction {
                Direction::Minimize => a_rank.2.total_cmp(&b_rank.2),
                Direction::Maximize => b_rank.2.total_cmp(&a_rank.2),
            };
            a_rank
                .0
                .cmp(&b_rank.0)
                .then(a_rank.1.total_cmp(&b_rank.1))
                .then(by_value)
                .then(a.trial.cmp(&b.trial))
        });
    }
    rows.truncate(choice.top.unwrap_or(usize::MAX));
    Ok(rows)
}

/// Names of columns and cells of a table for people; columns without anything in them are left out.
fn cells<'s>(
    subject: &Subject,
    rows: impl Iterator<Item = TrialRow<'s>>,
) -> (Vec<String>, Vec<Vec<String>>) {
    let definition = subject.study.definition();
    let mut header = vec!["trial".to_owned(), "state".to_owned()];
    header.extend(
        definition
            .objectives
            .iter()
            .map(|goal| goal.name.to_string()),
    );
    let params = definition.space.parameters.iter();
    header.extend(params.map(|param| param.name.to_string()));
    header.extend(["infeasible by", "replicates", "time", "hits", "reason"].map(String::from));
    let reason_room = room_for_reasons(std::io::stdout().is_terminal());
    let lines: Vec<Vec<String>> = rows.map(|row| line(subject, &row, reason_room)).collect();
    let used: Vec<usize> = (0..header.len())
        .filter(|column| *column < 2 || lines.iter().any(|line| !line[*column].is_empty()))
        .collect();
    let kept = |line: &Vec<String>| used.iter().map(|column| line[*column].clone()).collect();
    (kept(&header), lines.iter().map(kept).collect())
}

/// The table of some trials for people. Numbers stand to the right.
pub(super) fn text<'s>(subject: &Subject, rows: impl Iterator<Item = TrialRow<'s>>) -> String {
    let (header, lines) = cells(subject, rows);
    let aligned: Vec<String> = header
        .into_iter()
        .map(|name| match name.as_str() {
            "state" | "reason" => name,
            _ => format!(">{name}"),
        })
        .collect();
    let aligned: Vec<&str> = aligned.iter().map(String::as_str).collect();
    table(&aligned, &lines).trim_end().to_owned()
}

/// Reasons are cut only where a line has an end: what goes on to a file or a program is whole.
fn room_for_reasons(is_terminal: bool) -> usize {
    if is_terminal { REASON } else { usize::MAX }
}

fn line(subject: &Subject, row: &TrialRow<'_>, reason_room: usize) -> Vec<String> {
    let study = &subject.study;
    let definition = study.definition();
    let told = row.state != TrialState::Asked;
    let mut cells = vec![row.trial.to_string(), subject.state_of(row).to_owned()];
    match &row.values {
        Some(values) => cells.extend(values.iter().map(|value| short_float_text(*value))),
        None => cells.extend(definition.objectives.iter().map(|_| String::new())),
    }
    let params = definition.space.values(row.point);
    cells.extend(params.values().map(|value| match value {
        Value::Null => String::new(),
        value => short(&short_text(value), CELL),
    }));
    let if_some = |n: u32| if n > 0 { n.to_string() } else { String::new() };
    cells.push(match row.violation > 0.0 {
        true => short_float_text(row.violation),
        false => String::new(),
    });
    cells.push(if told {
        if_some(row.replicates)
    } else {
        String::new()
    });
    cells.push(match told {
        true => format_seconds(f64::from(row.seconds)),
        false => String::new(),
    });
    cells.push(if told {
        if_some(row.hits)
    } else {
        String::new()
    });
    cells.push(
        row.reason
            .map_or(String::new(), |reason| short(reason, reason_room)),
    );
    cells
}

fn short(text: &str, most: usize) -> String {
    let line = escape(text).replace('\n', " ");
    match line.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}
