//! Which study a person means, and reading it.

use std::path::Path;

use dagrun_model::{Value, id_file_name};
use dagrun_run::{Workspace, load_study_at, state_name};
use dagrun_study::{EndReason, Study, TrialRow};

use crate::{
    args::StudyOf,
    commands::{project_of, report::workspace, run_error},
    error::{CliError, Context},
    trial,
};

/// A study as its log has it.
pub(super) struct Subject {
    /// Its folder's name: that of the pipeline, with `@N` where it was put aside.
    pub(super) name: String,
    pub(super) study: Study,
    /// A run goes on in its workspace now.
    pub(super) live: bool,
}

impl Subject {
    /// Where it stands, in a word or two.
    pub(super) fn state(&self) -> &'static str {
        let over = self.study.counts().told >= self.study.definition().trials;
        match self.study.last_end() {
            Some(EndReason::Stopped) | None if self.live => "running",
            Some(EndReason::Stopped) => "stopped",
            Some(EndReason::Failures { .. } | EndReason::Sampler(_)) => "failed",
            Some(EndReason::Trials) if !over => "stopped",
            Some(_) => "done",
            None => "cut off",
        }
    }

    /// Where a trial of it stands.
    pub(super) fn state_of(&self, row: &TrialRow<'_>) -> &'static str {
        state_name(row.state, self.live)
    }

    /// How many trials run now, and how many wait for a run to go on with them.
    pub(super) fn open_trials(&self) -> (u64, u64) {
        match (self.study.pending().count() as u64, self.live) {
            (open, true) => (open, 0),
            (open, false) => (0, open),
        }
    }
}

/// The study that the words of a command name.
pub(super) fn find(of: &StudyOf) -> Result<Subject, CliError> {
    let Some(word) = &of.study else {
        let workspace = workspace(&of.project.path)?;
        let folder = match of.project.path.is_file() {
            true => folder_of_file(&of.project.path)?,
            false => only_one(&workspace)?,
        };
        return open(&workspace, &folder);
    };
    let path = Path::new(word);
    if path.is_file() {
        return open(&workspace(path)?, &folder_of_file(path)?);
    }
    // A folder may be called like a study.
    if path.is_dir() && path.join(".dagrun").is_dir() {
        let workspace = workspace(path)?;
        return open(&workspace, &only_one(&workspace)?);
    }
    if word.contains('/') || word.ends_with(".yaml") || word.ends_with(".yml") {
        return Err(CliError::invalid(format!("there is no {word}"))
            .hint("name the pipeline file, or a study by its name: `dagrun study list`"));
    }
    let workspace = workspace(&of.project.path)?;
    let known = workspace.studies();
    let folder = match known.contains(word) {
        true => word.clone(),
        false => id_file_name(word),
    };
    if known.contains(&folder) {
        return open(&workspace, &folder);
    }
    let error = CliError::invalid(format!("there is no study `{word}` here"));
    Err(
        match dagrun_model::did_you_mean(word, known.iter().map(String::as_str)) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None if known.is_empty() => error.hint("no study was run in this folder"),
            None => error.hint(format!("there are {}", known.join(", "))),
        },
    )
}

/// All studies of a folder that have a log, those that were put aside among them.
pub(super) fn all(path: &Path) -> Result<Vec<Subject>, CliError> {
    let workspace = workspace(path)?;
    let names = workspace.studies();
    // A log that says nothing yet is no study.
    let subjects = names.iter().map(|name| read(&workspace, name));
    subjects.filter_map(Result::transpose).collect()
}

fn open(workspace: &Workspace, folder: &str) -> Result<Subject, CliError> {
    read(workspace, folder)?.ok_or_else(|| {
        CliError::failed(format!("study `{folder}` has no trials yet"))
            .hint("`dagrun FILE` runs it; a pipeline without `study` has none")
    })
}

fn read(workspace: &Workspace, folder: &str) -> Result<Option<Subject>, CliError> {
    let path = workspace.root().join("studies").join(folder);
    let log = load_study_at(&path).map_err(run_error)?;
    let study = trial::read(log.map(|log| log.records).unwrap_or_default(), folder)?;
    Ok(study.map(|study| Subject {
        name: folder.to_owned(),
        study,
        // One that was put aside is written by nobody.
        live: !folder.contains('@') && workspace.holder().is_some(),
    }))
}

fn only_one(workspace: &Workspace) -> Result<String, CliError> {
    let mut names = workspace.studies();
    names.retain(|name| !name.contains('@'));
    match names.as_slice() {
        [name] => Ok(name.clone()),
        [] => Err(CliError::failed(format!(
            "no study was run in {}",
            workspace.project().display()
        ))
        .hint("name the pipeline file, or its folder with -f")),
        names => Err(CliError::invalid(format!(
            "there are several studies here: {}",
            names.join(", ")
        ))
        .hint("name one of them, or its pipeline file")),
    }
}

/// The folder of the study of a pipeline file. Only its name counts: a file that no longer runs still has its study.
fn folder_of_file(path: &Path) -> Result<String, CliError> {
    let bytes = std::fs::read(path).doing(|| format!("read {}", path.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    let shown = path.display().to_string();
    let name = match dagrun_dsl::parse_value(&shown, &text).map_err(CliError::invalid)? {
        Value::Map(map) if map.contains_key("jobs") => map.get("name").map(Value::to_text),
        _ => {
            let message = format!("{shown} has no `jobs`: it is no pipeline file");
            return Err(CliError::invalid(message));
        }
    };
    let name = name.unwrap_or_else(|| dagrun_dsl::name_of_file(&shown).to_owned());
    let folder = id_file_name(&name);
    let existing = Workspace::existing(&project_of(path)).map_err(run_error)?;
    match existing {
        Some(workspace) if workspace.studies().contains(&folder) => Ok(folder),
        _ => Err(CliError::failed(format!(
            "the study of {} has not been run",
            path.display()
        ))),
    }
}
