//! The end of a study: its table, and what runs over it.

use std::sync::Arc;

use dagrun_events::RunEvent;
use dagrun_plan::JobPhase;
use dagrun_sched::Event;
use dagrun_study::{EndReason, StudyEnd};

use super::super::Driver;
use super::StudyRun;
use crate::{Workspace, study::write_table};

impl Driver<'_> {
    /// A sampler in another process may be told what the log has.
    pub(in crate::driver) fn study_is_durable(&mut self) {
        if let Some(study) = &mut self.study {
            study.ask();
        }
    }

    /// The run ends, and the study goes on with the next one.
    pub(in crate::driver) fn leave_study(&mut self) {
        let Some(mut study) = self.study.take() else {
            return;
        };
        if study.end.is_none() && study.logged {
            self.tell_time(&mut study);
            if let Err(error) = write_table(&study.core, &study.folder) {
                self.warn(error.to_string());
            }
        }
        let went_on = self.interrupted() || study.stopping;
        debug_assert!(
            went_on || study.live.is_empty() && study.growing.only_lasting(),
            "a trial that is over leaves nothing"
        );
        study.sampler = None;
        self.study = Some(study);
    }

    pub(super) fn end_study(&mut self, study: &mut StudyRun<'_>, end: StudyEnd) {
        self.tell_time(study);
        self.record(RunEvent::StudyEnded {
            reason: end.reason.to_string(),
            told: end.counts.told,
            failed: end.counts.failed,
            succeeded: end.succeeded(),
            best: study.best(),
        });
        let goes_on = matches!(end.reason, EndReason::Stopped);
        study.end = Some(end);
        study.sampler = None;
        if let Err(error) = write_table(&study.core, &study.folder) {
            self.warn(error.to_string());
        }
        if !goes_on {
            self.plan_after(study);
        }
        self.queue.push_back(Event::PlanComplete);
    }

    /// Plans what runs over the finished study.
    pub(super) fn plan_after(&mut self, study: &mut StudyRun<'_>) {
        study.after = true;
        let phases = dagrun_plan::job_phases(study.growing.pipeline());
        if !phases.contains(&JobPhase::After) {
            return;
        }
        let table = Workspace::study_table(&study.name);
        study.facts.forget(&table);
        let planned = study
            .request
            .planner
            .after(Arc::new(study.context()))
            .map_err(|errors| first_message(&errors))
            .and_then(|expansion| {
                let facts = study.facts.answer(&expansion.facts_needed());
                let facts = facts.map_err(|error| error.to_string())?;
                expansion
                    .finish(facts)
                    .map_err(|errors| first_message(&errors))
            });
        match planned {
            Ok((plan, _)) => {
                let (part, delta) = study.growing.add(Arc::new(plan), true);
                let exports = match self.options.export {
                    true => part.exports(),
                    false => Vec::new(),
                };
                self.extend(delta, &exports);
            }
            Err(why) => {
                let why = format!("what runs after the study cannot be planned: {why}");
                // Where the study has failed there may be no best trial to read, and the study is what failed.
                match &study.end {
                    Some(end) if !end.succeeded() => self.warn(why),
                    _ => self.fatal = Some(why),
                }
            }
        }
    }
}

fn first_message(errors: &[dagrun_model::Diagnostic]) -> String {
    errors
        .first()
        .map_or_else(String::new, |it| it.message.clone())
}
