//! The end of a run: exports, the last record, the summary.

use std::sync::atomic::Ordering;

use dagrun_events::RunEvent;
use dagrun_model::NodeIx;
use dagrun_plan::PlannedExport;

use super::{Driver, trials::StudyRun};
use crate::{
    RunSummary,
    exports::{self, Export, Laid},
};

impl Driver<'_> {
    /// Lays out exports. Gives the nodes whose outputs are gone from the store, unless this is the last round.
    pub(super) fn export(&mut self, planned: Vec<PlannedExport>, last: bool) -> Vec<NodeIx> {
        if planned.is_empty() {
            return Vec::new();
        }
        let mut gone = Vec::new();
        let targets = planned.iter().map(|export| export.target.clone()).collect();
        let mut record = self.workspace.export_record();
        let before = record.clone();
        for export in exports::resolve(&self.board, planned) {
            let project = self.workspace.project().to_path_buf();
            match exports::lay(
                &self.store,
                &project,
                &mut record,
                &export,
                self.options.overwrite_exports,
            ) {
                Laid::Unchanged => self.keep_laid(export),
                Laid::Done => {
                    self.tell_exported(&export);
                    self.keep_laid(export);
                }
                Laid::KeptBack(reason) => self.keep_back(export.target, reason),
                Laid::Gone(reason) if last => self.keep_back(export.target, reason),
                Laid::Gone(reason) => {
                    self.warn(format!(
                        "{reason}; `{}` runs again",
                        self.plan.id(export.node)
                    ));
                    gone.push(export.node);
                }
            }
        }
        let tidied = exports::tidy(
            self.workspace.project(),
            &mut record,
            self.plan.pipeline_name(),
            &self.plan.export_folders(),
            &targets,
        );
        self.tell_tidied(tidied);
        if record != before
            && let Err(error) = self.workspace.save_export_record(&record)
        {
            self.warn(error.to_string());
        }
        gone.sort_unstable();
        gone.dedup();
        gone
    }

    fn tell_tidied(&mut self, tidied: exports::Tidied) {
        self.removed.extend(tidied.removed);
        if !tidied.kept.is_empty() {
            self.warn(format!(
                "a former run exported what this one does not, and it was changed since, so it stays: {}",
                named(&tidied.kept)
            ));
        }
    }

    /// For whoever has no plan to find them by: a client of a coordinator.
    fn keep_laid(&mut self, export: Export<NodeIx>) {
        self.laid.push(Export {
            node: self.plan.id(export.node),
            target: export.target,
            output: export.output,
            artifact: export.artifact,
        });
    }

    fn tell_exported(&mut self, export: &Export<NodeIx>) {
        let node = self.plan.id(export.node);
        self.exported.push((export.target.clone(), node.clone()));
        self.record(RunEvent::Exported {
            target: export.target.clone(),
            node,
            output: export.output.clone(),
        });
    }

    fn keep_back(&mut self, target: String, reason: String) {
        // A later round of the same run comes by again.
        if self.kept_back.iter().any(|(other, _)| *other == target) {
            return;
        }
        self.record(RunEvent::ExportKept {
            target: target.clone(),
            reason: reason.clone(),
        });
        self.kept_back.push((target, reason));
    }

    /// Ends the executor and the journal.
    pub(super) fn end(mut self) -> RunSummary {
        if self.fatal.is_some() {
            self.abandon();
        }
        if let Some(executor) = self.executor.take() {
            executor.shutdown();
        }
        for warning in self.behind.warnings() {
            self.warn(warning);
        }
        for warning in self.store.take_warnings() {
            self.warn(warning);
        }
        if self.fatal.is_none() {
            self.leave_study();
        }
        let wall = self.clock.elapsed().as_secs_f64();
        let mut exit_code = self.exit_code();
        let last = match &self.fatal {
            Some(why) => RunEvent::GaveUp { why: why.clone() },
            None => RunEvent::RunEnded {
                exit_code,
                counts: self.counts,
                plan: self.plan.grown(),
                wall,
            },
        };
        self.record(last);
        self.flush_batch();
        self.progress.set(&self.counts, 0, self.executed);
        if let Err(error) = self.journal.close() {
            self.fatal.get_or_insert(error);
            exit_code = 3;
        }
        for failure in &mut self.failures {
            failure.blocked = self.blocked.get(&failure.node).copied().unwrap_or(0);
        }
        RunSummary {
            run: self.run,
            exit_code,
            nodes: self.plan.len() as u64,
            counts: self.counts,
            study: self.study.as_ref().map(StudyRun::summary),
            executed: self.executed,
            wall,
            failures: self.failures,
            exported: self.exported,
            removed: self.removed,
            laid: self.laid,
            kept_back: self.kept_back,
            warnings: self.warnings,
            fatal: self.fatal,
            stopped: self.stopped,
            dropped_events: self.dropped.iter().map(|n| n.load(Ordering::Relaxed)).sum(),
        }
    }

    /// A trial that failed is a value of its study, and no failure of the run.
    fn failed(&self) -> bool {
        match &self.study {
            Some(study) => self.counts.failed > study.failed_nodes || !study.summary().succeeded,
            None => self.counts.failed > 0,
        }
    }

    fn exit_code(&self) -> i32 {
        if self.fatal.is_some() {
            3
        } else if self.interrupted() {
            130
        } else if self.failed() || !self.kept_back.is_empty() {
            1
        } else {
            0
        }
    }
}

/// The first of some paths, and how many more there are.
fn named(paths: &[String]) -> String {
    const MOST: usize = 10;
    let first: Vec<String> = paths
        .iter()
        .take(MOST)
        .map(|path| format!("`{path}`"))
        .collect();
    match paths.len().saturating_sub(MOST) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}
