//! The end of a run elsewhere: its journal, the records of its study and its exports are laid into the project here.

use std::{path::Path, sync::Arc};

use dagrun_events::{Record, RunEvent};
use dagrun_model::{Artifact, BlobRef, Digest};
use dagrun_proto::v1::{Export as WireExport, ProjectFile, RunEnd};
use dagrun_run::{Export, import_journal, lay_exports};
use dagrun_store::Store;

use super::{
    Remote,
    afar::{Origin, fetcher},
};
use crate::{
    args::RunArgs,
    commands::{Ready, exports, report, run_error},
    error::{CliError, Done},
    say,
    term::{Ink, Style, escape},
};

/// Bytes of a log that comes along unasked.
const SMALL_LOG: u64 = 1 << 20;

/// Takes over what a run has made. Its exit code is the command's, unless exports were kept back.
pub(super) fn take_over(
    remote: &Remote,
    mut ready: Ready,
    args: &RunArgs,
    records: &[Vec<u8>],
    end: &RunEnd,
    style: Style,
) -> Done {
    let planned = &ready.planned;
    let (store, workspace) = (planned.store.clone(), planned.workspace.clone());
    let plan = Arc::clone(&planned.plan);
    let lock = ready.take_lock()?;
    store.add_source(Arc::new(fetcher(remote)));
    let run = import_journal(&workspace, &lock, records).map_err(run_error)?;
    if let Some(run) = &run {
        Origin::new(remote, &args.coordinator.credentials).keep(&workspace, run)?;
    }
    store.bring(&logs(records)).map_err(CliError::environment)?;
    for file in &end.records {
        take_record(&store, workspace.project(), file)?;
    }
    let exports = end
        .exports
        .iter()
        .map(export)
        .collect::<Result<Vec<Export>, CliError>>()?;
    let laid = lay_exports(
        &store,
        &workspace,
        &lock,
        &plan.pipeline().name.value,
        &plan.export_folders(),
        &exports,
        args.overwrite,
    )
    .map_err(run_error)?;
    tell(&laid, workspace.project(), style);
    if let Some(run) = run {
        report::after_run(&workspace, &run, &plan, args, style)?;
    }
    let code = u8::try_from(end.exit_code).unwrap_or(1);
    Ok(if code == 0 && !laid.kept_back.is_empty() {
        1
    } else {
        code
    })
}

/// The logs of a run that are small enough to be brought along unasked.
fn logs(records: &[Vec<u8>]) -> Vec<Digest> {
    let mut logs = Vec::new();
    for record in records {
        if let Ok(Record {
            event: RunEvent::AttemptEnded { result, .. },
            ..
        }) = Record::from_json(record)
        {
            let both = [&result.stdout, &result.stderr].into_iter().flatten();
            logs.extend(
                both.map(|log| log.blob)
                    .filter(|blob| blob.size <= SMALL_LOG),
            );
        }
    }
    logs.into_iter().map(|blob| blob.digest).collect()
}

fn tell(laid: &dagrun_run::LaidOut, project: &Path, style: Style) {
    for (target, why) in &laid.kept_back {
        say!(
            "{} `{}` is not exported: {}",
            style.paint(Ink::Warn, "kept back:"),
            escape(target),
            escape(why)
        );
    }
    if style.quiet {
        return;
    }
    let targets = laid.exported.iter().map(String::as_str);
    for line in exports::lines(project, targets, &laid.removed, style) {
        say!("  {line}");
    }
}

fn export(export: &WireExport) -> Result<Export, CliError> {
    let artifact: Artifact = serde_json::from_slice(&export.artifact).map_err(|error| {
        CliError::environment(format!(
            "the coordinator says of `{}` what cannot be understood: {error}",
            export.target
        ))
    })?;
    Ok(Export {
        target: export.target.clone(),
        node: export.node.clone(),
        output: export.output.clone(),
        artifact,
    })
}

/// Lays a file of `.dagrun`: only those of studies are taken, since they come from outside.
fn take_record(store: &Store, project: &Path, file: &ProjectFile) -> Result<(), CliError> {
    let names: Vec<&str> = file.path.split('/').collect();
    let is_of_study = matches!(names[..], [".dagrun", "studies", study, "log" | "trials.csv"] if !study.starts_with('.'));
    let digest: Option<[u8; 32]> = file.digest.as_ref().try_into().ok();
    let Some(digest) = digest.filter(|_| is_of_study) else {
        return Err(CliError::environment(format!(
            "the coordinator sends `{}`, which is no file of a study",
            file.path
        )));
    };
    let blob = BlobRef {
        digest: Digest(digest),
        size: file.size,
        executable: false,
    };
    store
        .export(&Artifact::File(blob), &project.join(&file.path))
        .map_err(CliError::environment)
}
