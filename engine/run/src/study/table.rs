//! The table of a study: a row for each trial.

use std::io::{self, Write};

use dagrun_study::{Study, TrialRow, TrialState};

/// The columns that every table has; parameters, objectives and targets stand between the second and the third.
pub const COLUMNS: [&str; 9] = [
    "trial",
    "state",
    "violation",
    "replicates",
    "seconds",
    "nodes",
    "hits",
    "seen",
    "reason",
];

/// Writes the table as CSV (RFC 4180): `trial`, `state`, `params.NAME` for each parameter, `values.NAME` for each objective,
/// `targets.NAME` for what objectives are made of, and the rest of [`COLUMNS`]. Cells that do not apply are empty. `live`: a
/// run goes on with the study now.
///
/// # Errors
/// When `out` cannot be written.
pub fn write_csv(study: &Study, live: bool, out: &mut dyn Write) -> io::Result<()> {
    let definition = study.definition();
    let params = definition.space.parameters.iter();
    let goals = definition.objectives.iter();
    let mut header = vec![COLUMNS[0].to_owned(), COLUMNS[1].to_owned()];
    header.extend(params.map(|param| format!("params.{}", param.name)));
    header.extend(goals.map(|goal| format!("values.{}", goal.name)));
    header.extend(study.targets().map(|name| format!("targets.{name}")));
    header.extend(COLUMNS[2..].iter().map(ToString::to_string));
    write_row(out, &header)?;
    for row in study.rows() {
        let mut cells = vec![
            row.trial.to_string(),
            state_name(study, &row, live).to_owned(),
        ];
        let values = definition.space.values(row.point);
        cells.extend(values.values().map(|value| match value {
            dagrun_model::Value::Null => String::new(),
            value => value.to_text(),
        }));
        match &row.values {
            Some(values) => cells.extend(values.iter().map(|v| dagrun_model::float_text(*v))),
            None => cells.extend(definition.objectives.iter().map(|_| String::new())),
        }
        cells.extend(row.targets.iter().map(|value| match value {
            Some(value) => dagrun_model::float_text(*value),
            None => String::new(),
        }));
        let told = row.state != TrialState::Asked;
        let if_told = |text: String| if told { text } else { String::new() };
        cells.push(match row.values {
            Some(_) => dagrun_model::float_text(row.violation),
            None => String::new(),
        });
        cells.push(if_told(row.replicates.to_string()));
        cells.push(if_told(format!("{:.3}", row.seconds)));
        cells.push(if_told(row.nodes.to_string()));
        cells.push(if_told(row.hits.to_string()));
        cells.push(row.seen.to_string());
        cells.push(row.reason.unwrap_or_default().to_owned());
        write_row(out, &cells)?;
    }
    Ok(())
}

/// The word that tables have for the state of a trial. One without an end runs only as long as the run of its study does; of those that
/// a rescore tells again, most wait for their turn.
pub fn state_name(study: &Study, row: &TrialRow<'_>, live: bool) -> &'static str {
    match row.state {
        TrialState::Asked if live && study.is_told_again(row.trial) => "waiting",
        TrialState::Asked if live => "running",
        TrialState::Asked => "cut off",
        TrialState::Complete => "complete",
        TrialState::Failed => "failed",
    }
}

fn write_row(out: &mut dyn Write, cells: &[String]) -> io::Result<()> {
    for (ix, cell) in cells.iter().enumerate() {
        if ix > 0 {
            out.write_all(b",")?;
        }
        if cell.contains([',', '"', '\n', '\r']) {
            write!(out, "\"{}\"", cell.replace('"', "\"\""))?;
        } else {
            out.write_all(cell.as_bytes())?;
        }
    }
    out.write_all(b"\n")
}
