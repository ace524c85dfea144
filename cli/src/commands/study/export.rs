//! `dagrun study export`: a row for each trial, in the formats that other programs read.

use std::{
    io::{BufWriter, IsTerminal, Write},
    path::Path,
};

use dagrun_model::Value;
use dagrun_run::write_csv;
use dagrun_study::{Distribution, TrialRow, TrialState};

use super::{
    Subject,
    parquet::{Column, Data, write},
    rows::row_json,
};
use crate::{
    args::TableFormat,
    commands::report::make_parent,
    error::{CliError, Context, Done},
    term::{escape, stdout_failed},
};

pub(super) fn export(subject: &Subject, format: Option<TableFormat>, to: Option<&Path>) -> Done {
    let to = to.filter(|path| path.as_os_str() != "-");
    let format = match (format, to) {
        (Some(format), _) => format,
        (None, Some(path)) => by_ending(path)?,
        (None, None) => TableFormat::Csv,
    };
    let Some(path) = to else {
        let out = std::io::stdout();
        if format == TableFormat::Parquet && out.is_terminal() {
            return Err(CliError::invalid("Parquet is no text for a terminal")
                .hint("name a file with `-o`, or choose another `--format`"));
        }
        let mut out = BufWriter::new(out.lock());
        let done = put(subject, format, &mut out).and_then(|()| out.flush());
        if let Err(error) = done {
            stdout_failed(&error);
        }
        return Ok(0);
    };
    make_parent(path)?;
    // Whoever reads the file never sees half of it.
    let temporary = path.with_file_name(format!(
        "{}.tmp",
        path.file_name().unwrap_or_default().to_string_lossy()
    ));
    let write = || {
        let mut out = BufWriter::new(std::fs::File::create(&temporary)?);
        put(subject, format, &mut out)?;
        out.flush()?;
        std::fs::rename(&temporary, path)
    };
    write()
        .inspect_err(|_| {
            // Half a table helps nobody, least of all on a full disk.
            let _ = std::fs::remove_file(&temporary);
        })
        .doing(|| format!("write {}", path.display()))?;
    Ok(0)
}

/// The format that a file's name asks for; CSV where it has no ending.
fn by_ending(path: &Path) -> Result<TableFormat, CliError> {
    let Some(ending) = path.extension() else {
        return Ok(TableFormat::Csv);
    };
    let ending = ending.to_string_lossy();
    match ending.to_ascii_lowercase().as_str() {
        "csv" => Ok(TableFormat::Csv),
        "json" => Ok(TableFormat::Json),
        "jsonl" | "ndjson" => Ok(TableFormat::Jsonl),
        "parquet" => Ok(TableFormat::Parquet),
        _ => Err(CliError::invalid(format!(
            "`{}` ends in `.{}`, which is no format of tables",
            escape(&path.display().to_string()),
            escape(&ending)
        ))
        .hint("there are `.csv`, `.json`, `.jsonl` and `.parquet`; `--format` chooses one for any name, and spreadsheets open CSV")),
    }
}

fn put(subject: &Subject, format: TableFormat, out: &mut dyn Write) -> std::io::Result<()> {
    let study = &subject.study;
    match format {
        TableFormat::Csv => write_csv(study, subject.live, out),
        TableFormat::Json => {
            out.write_all(b"[")?;
            for (ix, row) in study.rows().enumerate() {
                let comma = if ix > 0 { ",\n" } else { "\n" };
                write!(out, "{comma}{}", row_json(subject, &row))?;
            }
            out.write_all(b"\n]\n")
        }
        TableFormat::Jsonl => {
            let mut rows = study.rows();
            rows.try_for_each(|row| writeln!(out, "{}", row_json(subject, &row)))
        }
        TableFormat::Parquet => out.write_all(&write(&columns(subject))),
    }
}

/// The columns of the table, those of the CSV, each of one type. A choice of texts, or of values of several types, is text.
fn columns(subject: &Subject) -> Vec<Column> {
    let study = &subject.study;
    let definition = study.definition();
    let rows: Vec<TrialRow<'_>> = study.rows().collect();
    let told = |row: &TrialRow<'_>| row.state != TrialState::Asked;
    let if_told = |get: fn(&TrialRow<'_>) -> i64| {
        let cells = rows.iter().map(|row| told(row).then(|| get(row)));
        Data::Int(cells.collect())
    };
    let mut columns = vec![
        Column::new(
            "trial",
            Data::Int(
                rows.iter()
                    .map(|row| Some(row.trial.cast_signed()))
                    .collect(),
            ),
        ),
        Column::new(
            "state",
            Data::Text(
                rows.iter()
                    .map(|row| Some(subject.state_of(row).to_owned()))
                    .collect(),
            ),
        ),
    ];
    let points: Vec<Vec<Value>> = rows
        .iter()
        .map(|row| {
            definition
                .space
                .values(row.point)
                .values()
                .cloned()
                .collect()
        })
        .collect();
    for (ix, param) in definition.space.parameters.iter().enumerate() {
        let cells = points.iter().map(|point| &point[ix]);
        columns.push(Column::new(
            &format!("params.{}", param.name),
            data(&param.distribution, cells),
        ));
    }
    for (ix, goal) in definition.objectives.iter().enumerate() {
        let cells = rows.iter().map(|row| row.values.as_ref().map(|it| it[ix]));
        let name = format!("values.{}", goal.name);
        columns.push(Column::new(&name, Data::Float(cells.collect())));
    }
    for (ix, name) in study.targets().enumerate() {
        let cells = rows.iter().map(|row| row.targets[ix]);
        columns.push(Column::new(
            &format!("targets.{name}"),
            Data::Float(cells.collect()),
        ));
    }
    let violation = rows
        .iter()
        .map(|row| row.values.as_ref().map(|_| row.violation));
    let seconds = rows
        .iter()
        .map(|row| told(row).then_some(f64::from(row.seconds)));
    let reasons = rows.iter().map(|row| row.reason.map(str::to_owned));
    columns.extend([
        Column::new("violation", Data::Float(violation.collect())),
        Column::new("replicates", if_told(|row| i64::from(row.replicates))),
        Column::new("seconds", Data::Float(seconds.collect())),
        Column::new("nodes", if_told(|row| i64::from(row.nodes))),
        Column::new("hits", if_told(|row| i64::from(row.hits))),
        Column::new(
            "seen",
            Data::Int(rows.iter().map(|row| Some(i64::from(row.seen))).collect()),
        ),
        Column::new("reason", Data::Text(reasons.collect())),
    ]);
    columns
}

/// A parameter's values in the one type that holds them all.
fn data<'v>(distribution: &Distribution, cells: impl Iterator<Item = &'v Value>) -> Data {
    let as_float = |value: &Value| value.typed().as_f64();
    let as_int = |value: &Value| match value.typed() {
        Value::Int(n) => Some(*n),
        _ => None,
    };
    let all = |test: &dyn Fn(&Value) -> bool| match distribution {
        Distribution::Choice(choices) => choices.iter().all(test),
        _ => false,
    };
    let whole = match distribution {
        Distribution::Int { .. } | Distribution::LogInt { .. } => true,
        Distribution::Steps { whole, .. } => *whole,
        _ => all(&|value| as_int(value).is_some()),
    };
    let is_choice = matches!(distribution, Distribution::Choice(_));
    if whole {
        Data::Int(cells.map(as_int).collect())
    } else if !is_choice || all(&|value| as_float(value).is_some()) {
        Data::Float(cells.map(as_float).collect())
    } else if all(&|value| value.typed().as_bool().is_some()) {
        Data::Bool(cells.map(|value| value.typed().as_bool()).collect())
    } else {
        let text = |value: &Value| match value {
            Value::Null => None,
            value => Some(value.to_text()),
        };
        Data::Text(cells.map(text).collect())
    }
}
