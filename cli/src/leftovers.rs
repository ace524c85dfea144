//! What runs of a workspace left that were killed is cleared when the next one begins.

use dagrun_run::Workspace;
use dagrun_store::Store;
use dagrun_worker::{clear_dead_run, uncleared_runs};

use crate::{
    say,
    term::{Ink, Style, plural_of},
    workers::run_of,
};

/// Clears what dead runs of a workspace left in the cache. Its lock is held by the caller, so no run of it is live; one that
/// is known here and has a lease belongs to a copy of the workspace. Gives warnings, which have been shown.
pub(crate) fn clear(workspace: &Workspace, store: &Store, style: Style) -> Vec<String> {
    let work = store.root().join("work");
    let own = workspace.runs();
    let mut warnings = Vec::new();
    for run in uncleared_runs(&work) {
        let whose = run_of(&run).to_owned();
        let is_own = own.binary_search_by(|own| own.0.cmp(&whose)).is_ok();
        if !is_own || store.is_leased(&whose).unwrap_or(true) {
            continue;
        }
        let killed = clear_dead_run(&work, &run);
        if killed > 0 {
            let of = plural_of(u64::from(killed), "process", "processes");
            let text =
                format!("{of} of run {run}, which was killed, still ran and had to be killed");
            say!("{} {text}", style.paint(Ink::Warn, "warning:"));
            warnings.push(text);
        }
    }
    warnings
}
