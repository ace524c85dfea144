//! `dagrun study`: what the logs of studies say, also while a run writes one.

mod curve;
mod export;
mod find;
mod parquet;
mod rows;
mod show;

use crate::{
    args::{Global, StudyCommand},
    error::{CliError, Done},
    put,
    term::{Style, escape, plural, table},
};

use find::{Studies, Subject};

pub(crate) fn study(command: &StudyCommand, global: &Global, style: Style) -> Done {
    let find = |of| find::find(of, global, style);
    match command {
        StudyCommand::Show { of, answer } => show::show(&find(of)?, answer.json, style),
        StudyCommand::Best {
            of,
            answer,
            params,
            trial,
        } => {
            let form = match (answer.json, params) {
                (true, _) => show::Form::Json,
                (_, true) => show::Form::Params,
                _ => show::Form::Text,
            };
            show::best(&find(of)?, *trial, form, style)
        }
        StudyCommand::Trials {
            of,
            answer,
            sort,
            top,
            failed,
            all,
        } => {
            let choice = rows::Choice {
                sorted: *sort || top.is_some(),
                top: *top,
                failed: *failed,
            };
            rows::trials(&find(of)?, &choice, answer.json, *all)
        }
        StudyCommand::Export { of, format, output } => {
            export::export(&find(of)?, *format, output.as_deref())
        }
        StudyCommand::List {
            project,
            coordinator,
            answer,
        } => {
            let studies = Studies::new(&project.path, coordinator, global)?;
            list(&project.path, &studies.all(style)?, answer.json)
        }
    }
}

fn list(path: &std::path::Path, subjects: &[Subject], json: bool) -> Done {
    if json {
        let rows: Vec<_> = subjects.iter().map(show::figures).collect();
        put!("{}", serde_json::Value::from(rows));
        return Ok(0);
    }
    if subjects.is_empty() {
        return Err(CliError::failed(format!(
            "there is no study in {}",
            path.display()
        )));
    }
    let rows: Vec<Vec<String>> = subjects
        .iter()
        .map(|subject| {
            let (study, counts) = (&subject.study, subject.study.counts());
            let best = match study.best() {
                Some(best) => dagrun_model::short_float_text(best.value),
                None if study.definition().objectives.len() > 1 => {
                    format!("front of {}", plural(study.front().len() as u64, "trial"))
                }
                None => String::new(),
            };
            vec![
                escape(&subject.name),
                subject.state().to_owned(),
                format!("{} of {}", counts.told, study.definition().trials),
                counts.failed.to_string(),
                best,
            ]
        })
        .collect();
    let header = ["study", "state", ">trials", ">failed", ">best"];
    put!("{}", table(&header, &rows).trim_end());
    Ok(0)
}
