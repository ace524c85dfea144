//! Which study a person means, and reading it.

use std::{collections::BTreeSet, path::Path};

use dagrun_model::{Value, id_file_name};
use dagrun_run::{Workspace, load_study_at, state_name};
use dagrun_study::{EndReason, Study, StudyRecord, TrialRow};

use crate::{
    args::{Coordinator, Global, StudyOf},
    commands::{
        report::{fold, no_such_file, workspace},
        run_error,
    },
    error::{CliError, Context},
    remote::{Afar, StudiesThere},
    say,
    term::{Style, escape},
    trial,
};

/// A study as its log has it.
pub(super) struct Subject {
    /// Its folder's name: that of the pipeline, with `@N` where it was put aside.
    pub(super) name: String,
    pub(super) study: Study,
    /// A run goes on in its workspace now.
    pub(super) live: bool,
    /// The trials of which nodes run. Only looked for where trials are told again: of others a log says it.
    running: BTreeSet<u64>,
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
        match state_name(&self.study, row, self.live) {
            "waiting" if self.running.contains(&row.trial) => "running",
            state => state,
        }
    }

    fn tells_again(&self) -> bool {
        let mut open = self.study.pending();
        self.live && open.any(|trial| self.study.is_told_again(trial))
    }

    /// How many trials without an end there are of each state.
    pub(super) fn open_trials(&self) -> Vec<(&'static str, u64)> {
        let open = self.study.pending().filter_map(|it| self.study.row(it));
        let mut counts = ["running", "waiting", "cut off"].map(|state| (state, 0));
        for row in open {
            let state = self.state_of(&row);
            let count = counts.iter_mut().find(|(name, _)| *name == state);
            count.into_iter().for_each(|(_, n)| *n += 1);
        }
        counts.into()
    }
}

/// The studies of a project: those here, and in their place those of a run on a coordinator that is newer.
pub(super) struct Studies {
    workspace: Workspace,
    there: Option<StudiesThere>,
}

impl Studies {
    pub(super) fn new(
        path: &Path,
        coordinator: &Coordinator,
        global: &Global,
    ) -> Result<Self, CliError> {
        let workspace = workspace(path)?;
        let there = match Afar::of_project(coordinator, global)? {
            Some(mut afar) => afar.studies(coordinator, &workspace)?,
            None => None,
        };
        Ok(Self { workspace, there })
    }

    fn names(&self) -> BTreeSet<String> {
        let mut names: BTreeSet<String> = self.workspace.studies().into_iter().collect();
        names.extend(self.there.iter().flat_map(StudiesThere::names).cloned());
        names
    }

    /// All that have a log, those that were put aside among them.
    pub(super) fn all(&self, style: Style) -> Result<Vec<Subject>, CliError> {
        let names = self.names();
        // A log that says nothing yet is no study.
        let subjects = names.iter().map(|name| self.read(name, style));
        subjects.filter_map(Result::transpose).collect()
    }

    fn open(&self, folder: &str, style: Style) -> Result<Subject, CliError> {
        self.read(folder, style)?.ok_or_else(|| {
            CliError::failed(format!("study `{folder}` has no trials yet"))
                .hint("`dagrun FILE` runs it; a pipeline without `study` has none")
        })
    }

    fn read(&self, folder: &str, style: Style) -> Result<Option<Subject>, CliError> {
        if let Some(there) = &self.there
            && let Some(records) = there.records(folder)?
        {
            if !style.quiet {
                say!("study `{}` is from {}", escape(folder), there.origin);
            }
            let mut subject = subject(folder, records, there.is_live(folder))?;
            if let Some(subject) = subject.as_mut().filter(|it| it.tells_again()) {
                subject.running = there.running();
            }
            return Ok(subject);
        }
        let path = self.workspace.root().join("studies").join(folder);
        let log = load_study_at(&path).map_err(run_error)?;
        let records = log.map(|log| log.records).unwrap_or_default();
        // One that was put aside is written by nobody.
        let live = !folder.contains('@') && self.workspace.holder().is_some();
        let mut subject = subject(folder, records, live)?;
        if let Some(subject) = subject.as_mut().filter(|it| it.tells_again())
            && let Some(run) = self.workspace.journaled_runs().last()
        {
            subject.running = trial::running(&fold(&self.workspace, run)?);
        }
        Ok(subject)
    }

    fn only_one(&self) -> Result<String, CliError> {
        let mut names: Vec<String> = self.names().into_iter().collect();
        names.retain(|name| !name.contains('@'));
        match names.as_slice() {
            [name] => Ok(name.clone()),
            [] => Err(CliError::failed(format!(
                "no study was run in {}",
                self.workspace.project().display()
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
    fn folder_of_file(&self, path: &Path) -> Result<String, CliError> {
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
        match self.names().contains(&folder) {
            true => Ok(folder),
            false => Err(CliError::failed(format!(
                "the study of {} has not been run",
                path.display()
            ))),
        }
    }
}

fn subject(
    folder: &str,
    records: Vec<StudyRecord>,
    live: bool,
) -> Result<Option<Subject>, CliError> {
    let study = trial::read(records, folder)?;
    Ok(study.map(|study| Subject {
        name: folder.to_owned(),
        study,
        live,
        running: BTreeSet::new(),
    }))
}

/// The study that the words of a command name.
pub(super) fn find(of: &StudyOf, global: &Global, style: Style) -> Result<Subject, CliError> {
    let studies = |path: &Path| Studies::new(path, &of.coordinator, global);
    let Some(word) = &of.study else {
        let path = &of.project.path;
        let studies = studies(path)?;
        let folder = match path.is_file() {
            true => studies.folder_of_file(path)?,
            false => studies.only_one()?,
        };
        return studies.open(&folder, style);
    };
    let path = Path::new(word);
    if path.is_file() {
        let studies = studies(path)?;
        return studies.open(&studies.folder_of_file(path)?, style);
    }
    // A folder may be called like a study.
    if path.is_dir() && path.join(".dagrun").is_dir() {
        let studies = studies(path)?;
        return studies.open(&studies.only_one()?, style);
    }
    if word.contains('/') || word.ends_with(".yaml") || word.ends_with(".yml") {
        return Err(no_such_file(
            path,
            "name the pipeline file, or a study by its name: `dagrun study list`",
        ));
    }
    let studies = studies(&of.project.path)?;
    let known = studies.names();
    let folder = match known.contains(word) {
        true => word.clone(),
        false => id_file_name(word),
    };
    if known.contains(&folder) {
        return studies.open(&folder, style);
    }
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let error = CliError::invalid(format!("there is no study `{word}` here"));
    Err(
        match dagrun_model::did_you_mean(word, known.iter().copied()) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None if known.is_empty() => error.hint("no study was run in this folder"),
            None => error.hint(format!("there are {}", known.join(", "))),
        },
    )
}
