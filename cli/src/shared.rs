//! The shared cache behind the local one: opened with it, asked for what a command shows, drained at the end of a run.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use dagrun_model::format_bytes;
use dagrun_run::RunSummary;
use dagrun_store::{Store, Tier};
use dagrun_tier::SharedCache;

use crate::{
    commands::INTERRUPTED,
    error::CliError,
    load::Planned,
    say,
    settings::Settings,
    term::{Ink, Style, escape, plural, plural_of},
};

/// How long uploads may take after a run.
const LIMIT: Duration = Duration::from_secs(600);
/// Uploads that are done within this need no words.
const QUIETLY: Duration = Duration::from_secs(1);

/// Opens the shared cache of some settings behind a store. One that cannot be opened is left out, with a warning.
pub(crate) fn open(
    settings: &Settings,
    store: &Store,
    style: Style,
) -> Result<Option<Arc<SharedCache>>, CliError> {
    let Some(options) = settings.shared.options()? else {
        return Ok(None);
    };
    match SharedCache::open(options, store.clone()) {
        Ok(shared) => {
            let shared = Arc::new(shared);
            shared.attach();
            Ok(Some(shared))
        }
        Err(error) => {
            warn(
                &format!(
                    "the shared cache is left out: {error} (from {})",
                    settings.shared.at.origin
                ),
                style,
            );
            Ok(None)
        }
    }
}

/// Brings the entries of a plan's nodes, for commands that show results without a run.
pub(crate) fn bring(planned: &Planned, style: Style) -> Result<(), CliError> {
    let Some(shared) = &planned.shared else {
        return Ok(());
    };
    dagrun_run::bring_entries(&planned.plan, &planned.store, &**shared)
        .map_err(crate::commands::run_error)?;
    tell(shared, style);
    Ok(())
}

/// Prints the warnings of a shared cache.
pub(crate) fn tell(shared: &SharedCache, style: Style) {
    for warning in shared.take_warnings() {
        warn(&warning, style);
    }
}

/// Waits for uploads after a run, and says what came from where.
pub(crate) fn conclude(shared: &SharedCache, summary: &mut RunSummary, style: Style) {
    drain(shared, style);
    summary.warnings.extend(shared.take_warnings());
    if !style.quiet {
        say_traffic(shared);
    }
}

fn drain(shared: &SharedCache, style: Style) {
    let began = Instant::now();
    let mut told = false;
    let left = shared.drain(LIMIT, &mut |pending| {
        if !told && began.elapsed() > QUIETLY && !style.quiet {
            told = true;
            say!(
                "uploading {} to {}; Ctrl-C leaves them to `dagrun cache push`",
                plural(pending.results, "result"),
                shared.location()
            );
        }
        !INTERRUPTED.load(Ordering::Relaxed)
    });
    if left.results > 0 {
        warn(
            &format!(
                "{} not uploaded to {}; `dagrun cache push` does it",
                plural_of(left.results, "result was", "results were"),
                shared.location()
            ),
            style,
        );
    }
}

fn say_traffic(shared: &SharedCache) {
    let traffic = shared.traffic();
    let mut what = Vec::new();
    if traffic.hits > 0 {
        what.push(format!("{} found", plural(traffic.hits, "result")));
    }
    if traffic.blobs_in > 0 {
        what.push(format!("{} fetched", format_bytes(traffic.bytes_in)));
    }
    if traffic.results_out > 0 {
        what.push(format!(
            "{} uploaded ({})",
            plural(traffic.results_out, "result"),
            format_bytes(traffic.bytes_out)
        ));
    }
    if !what.is_empty() {
        say!("{}: {}", shared.location(), what.join(", "));
    }
}

fn warn(text: &str, style: Style) {
    say!("{} {}", style.paint(Ink::Warn, "warning:"), escape(text));
}
