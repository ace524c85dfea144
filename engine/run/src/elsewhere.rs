//! What a run that was executed elsewhere leaves in this workspace: its journal, and its exports.
//!
//! Afterwards `show`, `log`, `report` and the rest answer as if it had run here.

use std::{collections::BTreeSet, fs};

use dagrun_events::{Record, RunEvent, journal};
use dagrun_model::RunId;
use dagrun_store::Store;

use crate::{
    Export, RunError, Workspace, WorkspaceLock,
    exports::{self, Laid},
    workspace::write_whole,
};

/// What became of exports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaidOut {
    /// Targets that were written.
    pub exported: Vec<String>,
    /// Targets that were not, and why, with the remedy.
    pub kept_back: Vec<(String, String)>,
    /// Files of former runs that were removed.
    pub removed: Vec<String>,
}

/// Lays exports of a run that was executed elsewhere into the project folder, by the rules of runs here. `folders` are the targets of
/// the pipeline that are folders. Bytes that the store lacks come from its sources.
///
/// # Errors
/// When the record of what was exported cannot be written.
pub fn lay_exports(
    store: &Store,
    workspace: &Workspace,
    _lock: &WorkspaceLock,
    pipeline: &str,
    folders: &[String],
    exports: &[Export],
    overwrite: bool,
) -> Result<LaidOut, RunError> {
    let mut record = workspace.export_record();
    let mut laid = LaidOut::default();
    for export in exports {
        match exports::lay(store, workspace.project(), &mut record, export, overwrite) {
            Laid::Unchanged => {}
            Laid::Done => laid.exported.push(export.target.clone()),
            Laid::KeptBack(why) | Laid::Gone(why) => {
                laid.kept_back.push((export.target.clone(), why));
            }
        }
    }
    let targets: BTreeSet<String> = exports.iter().map(|it| it.target.clone()).collect();
    let tidied = exports::tidy(
        workspace.project(),
        &mut record,
        pipeline,
        folders,
        &targets,
    );
    laid.removed = tidied.removed;
    workspace.save_export_record(&record)?;
    Ok(laid)
}

/// Puts the records of a run into this workspace as a journal, under its own id. Gives the id. A run that was gone on with after a
/// crash is several: each gets its journal.
///
/// # Errors
/// When the records are no journal, or cannot be written.
pub fn import_journal(
    workspace: &Workspace,
    _lock: &WorkspaceLock,
    records: &[Vec<u8>],
) -> Result<Option<RunId>, RunError> {
    let mut last = None;
    let mut bytes = Vec::new();
    for payload in records {
        let bad = |error| RunError::Facts(format!("a record of the run cannot be read: {error}"));
        if let RunEvent::RunStarted(started) = Record::from_json(payload).map_err(bad)?.event {
            if let Some(run) = last.replace(RunId(started.run.clone())) {
                write(workspace, &run, &bytes)?;
            }
            bytes = journal::header().to_vec();
        }
        journal::encode(payload, &mut bytes);
    }
    if let Some(run) = &last {
        write(workspace, run, &bytes)?;
    }
    Ok(last)
}

fn write(workspace: &Workspace, run: &RunId, bytes: &[u8]) -> Result<(), RunError> {
    // It comes from outside: no name may lead elsewhere.
    let is_plain = run
        .0
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !is_plain || run.0.is_empty() {
        return Err(RunError::UnknownRun(run.0.clone()));
    }
    let folder = workspace.run_path(run);
    fs::create_dir_all(&folder).map_err(RunError::io("make", &folder))?;
    write_whole(&workspace.journal_path(run), bytes)
}
