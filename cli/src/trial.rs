//! Single trials of a study, for the commands that look at one: their points come from the study's log, their nodes from a
//! plan of that trial alone.

use std::{collections::BTreeSet, sync::Arc};

use dagrun_events::RunState;
use dagrun_model::{Digest, Pipeline};
use dagrun_plan::{Expansion, JobPhase, Plan, StudyPlanner, TrialPoint, job_phases};
use dagrun_run::{Workspace, load_study, state_name};
use dagrun_study::{Definition, EndReason, Study, StudyEvent, StudyRecord};

use crate::{
    args::Selection,
    commands::run_error,
    error::CliError,
    load::{Loaded, PlannedStudy},
    term::job_of,
};

/// The trial that a plan is shown with.
pub(crate) struct ShownTrial {
    pub(crate) point: TrialPoint,
    /// Where its point comes from, for people.
    pub(crate) origin: &'static str,
    /// Why the study that is there cannot be gone on with.
    pub(crate) trouble: Option<String>,
    /// The trials that were asked for and have not ended, in their order.
    pub(crate) open: Vec<TrialPoint>,
    /// How many are still to be asked for; 0 where the study is over.
    pub(crate) to_come: u64,
}

/// The study in the log, read without its pipeline; none where nothing was asked yet.
pub(crate) fn past(workspace: &Workspace, name: &str) -> Result<Option<Study>, CliError> {
    let log = load_study(workspace, name).map_err(run_error)?;
    read(log.map(|log| log.records).unwrap_or_default(), name)
}

/// The study of some records; none where there are none.
pub(crate) fn read(records: Vec<StudyRecord>, name: &str) -> Result<Option<Study>, CliError> {
    if records.is_empty() {
        return Ok(None);
    }
    Study::read(records)
        .map(Some)
        .map_err(|error| CliError::environment(format!("study `{name}`: {error}")))
}

/// The trial that a name of a node is about; none where its job is no part of a trial or no trial is named.
pub(crate) fn trial_of(pipeline: &Pipeline, name: &str) -> Result<Option<u64>, CliError> {
    if pipeline.study.is_none() || phase_of(pipeline, name) != Some(JobPhase::Trial) {
        return Ok(None);
    }
    let Some((_, axes)) = name.split_once('[') else {
        return Ok(None);
    };
    let at = axes
        .strip_prefix("trial=")
        .or_else(|| axes.split_once(",trial=").map(|(_, after)| after));
    let Some(label) = at.and_then(|label| label.split([',', ']']).next()) else {
        return Ok(None);
    };
    match label.parse() {
        Ok(number) if number > 0 => Ok(Some(number)),
        _ => Err(
            CliError::invalid(format!("`{name}` names no trial: `{label}` is no number"))
                .hint("trials are numbered from 1: `job[trial=1]`"),
        ),
    }
}

/// The trials of which nodes run, by the journal of the run that goes on with their study.
pub(crate) fn running(state: &RunState) -> BTreeSet<u64> {
    let open = state.attempts.iter().filter(|it| it.ended.is_none());
    let nodes = open.map(|attempt| &state.nodes[attempt.node].id);
    nodes.filter_map(|id| dagrun_events::trial_of(id)).collect()
}

/// The part of the pipeline that a job or node is of.
pub(crate) fn phase_of(pipeline: &Pipeline, name: &str) -> Option<JobPhase> {
    let job = pipeline.job_ix(job_of(name))?;
    Some(job_phases(pipeline)[job.index()])
}

/// The jobs of which every trial has nodes.
pub(crate) fn jobs_of_trials(pipeline: &Pipeline) -> BTreeSet<String> {
    let jobs = pipeline.jobs.keys().zip(job_phases(pipeline));
    let of_trials = jobs.filter(|(_, phase)| *phase == JobPhase::Trial);
    of_trials.map(|(name, _)| name.clone()).collect()
}

/// The one trial whose nodes a selection names; none where it names none.
pub(crate) fn selected(
    pipeline: &Pipeline,
    selection: &Selection,
) -> Result<Option<u64>, CliError> {
    let names = || {
        let ends = selection.only.iter().chain(&selection.until);
        ends.chain(&selection.from)
    };
    let mut found = None;
    for name in names() {
        match (trial_of(pipeline, name)?, found) {
            (Some(number), Some(other)) if number != other => {
                return Err(CliError::invalid(format!(
                    "nodes of trials {other} and {number} are selected, and one trial is run at a time"
                )));
            }
            (Some(number), _) => found = Some(number),
            (None, _) => {}
        }
    }
    let outside = |name: &&String| phase_of(pipeline, name) != Some(JobPhase::Trial);
    match (found, names().find(outside)) {
        (Some(number), Some(name)) => Err(CliError::invalid(format!(
            "`{name}` is selected beside nodes of trial {number}, and it is no part of a trial"
        ))
        .hint("run them one after the other; what a node of a trial needs comes along by itself")),
        _ => Ok(found),
    }
}

/// Whether what is selected has nothing to do with the study: all of it runs before.
pub(crate) fn is_before(pipeline: &Pipeline, selection: &Selection) -> bool {
    let mut ends = selection.only.iter().chain(&selection.until).peekable();
    ends.peek().is_some() && ends.all(|name| phase_of(pipeline, name) == Some(JobPhase::Before))
}

/// A trial was named that there is not.
pub(crate) fn no_such_trial(number: u64, name: &str, asked: u64) -> CliError {
    let error = CliError::invalid(format!("study `{name}` has no trial {number}"));
    match asked {
        0 => error.hint("none was asked for yet: run the study first"),
        1 => error.hint("one was asked for so far, trial 1"),
        n => error.hint(format!("{n} were asked for so far, trials 1 to {n}")),
    }
}

impl Loaded {
    /// The name of the pipeline's study: that of the pipeline.
    pub(crate) fn study_name(&self) -> &str {
        &self.pipeline.name.value
    }

    /// The plan of a trial that was asked for. `planner` may keep only a part of it.
    pub(crate) fn past_trial(
        &self,
        study: &PlannedStudy,
        workspace: &Workspace,
        number: u64,
        part: Option<&StudyPlanner>,
    ) -> Result<Plan, CliError> {
        let name = self.study_name();
        let past = past(workspace, name)?;
        let row = past.as_ref().and_then(|past| past.row(number));
        let (Some(past), Some(row)) = (&past, row) else {
            let asked = past.as_ref().map_or(0, |past| past.counts().asked);
            return Err(no_such_trial(number, name, asked));
        };
        let values = past.definition().space.values(row.point);
        let of_file = study.definition.space.parameters.iter();
        if !of_file.map(|it| &it.name).eq(past
            .definition()
            .space
            .parameters
            .iter()
            .map(|it| &it.name))
        {
            return Err(CliError::invalid(format!(
                "trial {number} has parameters ({}) that are not those of the pipeline: its study was another one",
                values.keys().cloned().collect::<Vec<_>>().join(", ")
            ))
            .hint("name the pipeline as it was, or begin a new study with `--study new`"));
        }
        let mut point = TrialPoint {
            number,
            values: Arc::new(values),
            replicates: None,
        };
        let whole = self.finish(study.planner.trial(point.clone()), workspace)?;
        let grew = whole.grow_to().filter(|to| *to == row.replicates);
        if grew.is_none() && part.is_none() {
            return Ok(whole);
        }
        point.replicates = grew;
        let expansion = match part {
            Some(planner) => planner.trial_part(point),
            None => study.planner.trial(point),
        };
        self.finish(expansion, workspace)
    }

    /// The trial that the study would go on with; of one that is over, its first.
    pub(crate) fn next_trial(
        &self,
        study: &PlannedStudy,
        workspace: &Workspace,
    ) -> Result<ShownTrial, CliError> {
        let records = study.records(self.study_name(), workspace)?;
        let (mut core, trouble) = match Study::replay(study.definition.clone(), records) {
            Ok(core) => (core, None),
            Err(error) => (
                Study::new(study.definition.clone()),
                Some(error.to_string()),
            ),
        };
        let point = |core: &Study, number| TrialPoint {
            number,
            values: Arc::new(core.values(number).unwrap_or_default()),
            replicates: None,
        };
        let asked = core.counts().asked;
        let open: Vec<TrialPoint> = core.pending().map(|number| point(&core, number)).collect();
        let mut to_come = core.to_come();
        let used_up = core.last_end() == Some(&EndReason::UsedUp);
        core.handle(
            StudyEvent::Slots {
                slots: 1,
                nodes_per_trial: 1,
            },
            &mut Vec::new(),
        );
        if core.is_finished() || used_up {
            to_come = 0;
        }
        let (point, origin) = match open.first() {
            Some(point) => {
                let live = workspace.holder().is_some();
                let state = core
                    .row(point.number)
                    .map(|row| state_name(&core, &row, live));
                (point.clone(), state.unwrap_or("cut off"))
            }
            None if core.counts().asked > asked => (point(&core, asked + 1), "the next one"),
            None if to_come == 0 && asked > 0 => (point(&core, 1), "the study is over"),
            // Another process would have to be asked.
            None => (middle(&study.definition), "the middle of the space"),
        };
        Ok(ShownTrial {
            point,
            origin,
            trouble,
            open,
            to_come,
        })
    }

    /// Answers what an expansion asks for, and makes its keys.
    pub(crate) fn finish(
        &self,
        expansion: Result<Expansion, Vec<dagrun_model::Diagnostic>>,
        workspace: &Workspace,
    ) -> Result<Plan, CliError> {
        let expansion = expansion.map_err(|diagnostics| self.refuse(&diagnostics))?;
        let facts = self.answer(&expansion.facts_needed(), workspace)?;
        let (plan, _) = expansion
            .finish(facts)
            .map_err(|diagnostics| self.refuse(&diagnostics))?;
        Ok(plan)
    }
}

/// A first trial in the middle of the space.
fn middle(definition: &Definition) -> TrialPoint {
    let space = &definition.space;
    let middle = space.parameters.iter().map(|it| it.from_unit(0.5));
    let mut middle: Vec<f64> = middle.collect();
    space.clean(&mut middle);
    TrialPoint {
        number: 1,
        values: Arc::new(space.values(&middle)),
        replicates: None,
    }
}

/// Stands for the content of a table that is not written yet.
pub(crate) fn no_table() -> dagrun_model::BlobRef {
    dagrun_model::BlobRef {
        digest: Digest::empty(),
        size: 0,
        executable: false,
    }
}
