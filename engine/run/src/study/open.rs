//! Opening a study: its log is read, what changed since is found, and what is to become of that is asked for.

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::Arc,
};

use dagrun_model::{Diagnostic, Map, NodeIx, Sources};
use dagrun_plan::{Plan, StudyPlanner, TrialPoint};
use dagrun_store::Store;
use dagrun_study::{
    Best, Counts, Definition, EndReason, ReplayError, Study, StudyRecord, TrialEnd, TrialRow,
    TrialState,
};

use crate::{Cause, Force, History, PreviewState, Rescore, RunError, Workspace, own, preview};

use super::{FactCache, LogWriter, encode, load_study};

/// Told trials that are planned again on a resume, to see whether their results still hold, at each end of the study.
const CHECKED: u64 = 1000;

/// Trials that a warning names.
const LEFT_OUT: usize = 5;

/// A study to run.
#[derive(Debug)]
pub struct StudyRequest {
    /// Makes its plans.
    pub planner: StudyPlanner,
    /// What it is, with all numbers known.
    pub definition: Definition,
    /// What is to become of a former study of the same name.
    pub mode: StudyMode,
}

/// What is to become of a former study of the same name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StudyMode {
    /// Go on with it; an error where it was another one.
    #[default]
    Continue,
    /// Put it aside and begin anew.
    New,
    /// Put it aside and begin anew, knowing its told trials.
    Keep,
    /// Tell its trials again under other objectives.
    Rescore(RescoreOptions),
}

/// How trials are told again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RescoreOptions {
    /// Also run simulations whose results are gone; else their trials fail.
    pub run_missing: bool,
}

/// How a study stands after a run.
#[derive(Clone, Debug)]
pub struct StudySummary {
    /// Its name.
    pub name: String,
    /// Why it ended; none where it goes on with the next run.
    pub ended: Option<EndReason>,
    /// Whether it came to its end by its own rule and has a result; true as long as it has not ended.
    pub succeeded: bool,
    /// How many trials there are to be.
    pub trials: u64,
    /// What there is of what.
    pub counts: Counts,
    /// The best trial and its parameters.
    pub best: Option<(Best, Map)>,
    /// How many trials are on the Pareto front; 0 with one objective.
    pub front: usize,
    /// Trials that this run told.
    pub told_now: u64,
    /// Nodes of this run that failed in trials: they are values of the study, and no failures of the run.
    pub failed_nodes: u64,
    /// The first reasons of failed trials of this run: the trial and why.
    pub failures: Vec<(u64, String)>,
    /// Where its table is, relative to the project folder, once it has ended.
    pub table: String,
}

/// A study that is open, with its log.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) study: Study,
    pub(crate) log: LogWriter,
    /// What to tell people about the opening.
    pub(crate) warnings: Vec<String>,
    pub(crate) facts: FactCache,
    pub(crate) folder: PathBuf,
    /// Failed trials that a rescore tells again as they are.
    pub(crate) standing: BTreeMap<u64, TrialEnd>,
}

impl Opened {
    /// Opens the study of a request.
    ///
    /// # Errors
    /// When its log cannot be read or written, or when it was another study and nothing is said of what becomes of it.
    pub(crate) fn open(
        request: &StudyRequest,
        name: &str,
        workspace: &Workspace,
        store: &Store,
    ) -> Result<Self, RunError> {
        let folder = workspace.study_path(name);
        let place = (name, workspace, store);
        let mut facts = FactCache::new(workspace);
        let mut aside = None;
        let former = match (load_study(workspace, name), request.mode) {
            // What cannot be read can be put aside all the same.
            (Err(RunError::CorruptJournal { .. }), StudyMode::New) => {
                let kept = workspace.put_study_aside(name)?;
                aside = Some(format!("the damaged study was put aside as `{kept}`"));
                None
            }
            (former, _) => former?,
        };
        let torn_at = former.as_ref().and_then(|log| log.torn_at);
        let records = former.map(|log| log.records).unwrap_or_default();
        let mut warnings: Vec<String> = aside.into_iter().collect();
        if let Some(at) = torn_at {
            warnings.push(format!(
                "the log of study `{name}` ends within a record at byte {at}: that record is dropped"
            ));
        }
        let path = folder.join("log");
        let mut definition = request.definition.clone();
        if let StudyMode::Rescore(_) = request.mode {
            // What was asked for is told again, and nothing more is asked for.
            let asked = |it: &&StudyRecord| {
                matches!(it, StudyRecord::Asked { .. } | StudyRecord::Known { .. })
            };
            definition.trials = records.iter().filter(asked).count() as u64;
        }
        let mut standing = BTreeMap::new();
        let (study, log) = match request.mode {
            _ if records.is_empty() => (Study::new(definition), LogWriter::open(&path, torn_at)?),
            StudyMode::New => {
                let kept = workspace.put_study_aside(name)?;
                warnings.push(format!("the former study was put aside as `{kept}`"));
                (Study::new(definition), LogWriter::open(&path, None)?)
            }
            StudyMode::Keep => {
                let former = Study::read(records).map_err(|e| RunError::Study(e.to_string()))?;
                let kept = Study::keep(definition, &former).map_err(RunError::Study)?;
                let aside = workspace.put_study_aside(name)?;
                warnings.push(format!(
                    "the former study was put aside as `{aside}`; {} of its trials are known to this one",
                    kept.study.counts().told
                ));
                warnings.extend(left_out(&kept.dropped));
                let mut log = LogWriter::open(&path, None)?;
                write_all(&mut log, &kept.records)?;
                (kept.study, log)
            }
            StudyMode::Continue | StudyMode::Rescore(_) => {
                let study = replay(definition, records, name)?;
                let is_rescore = matches!(request.mode, StudyMode::Rescore(_));
                let run_missing = matches!(request.mode, StudyMode::Rescore(it) if it.run_missing);
                match is_rescore {
                    false => check_results(&study, &request.planner, &mut facts, place)?,
                    true if run_missing => {}
                    true => check_simulations(&study, &request.planner, &mut facts, store)?,
                }
                // A rescore that was cut off goes on, with whichever command.
                let is_told_again =
                    |row: &TrialRow<'_>| is_rescore || row.state == TrialState::Asked;
                if !run_missing {
                    let rows = study.rows().filter(is_told_again);
                    standing = still_failed(&study, rows, &request.planner, &mut facts, place);
                }
                (study, LogWriter::open(&path, torn_at)?)
            }
        };
        Ok(Self {
            study,
            log,
            warnings,
            facts,
            folder,
            standing,
        })
    }
}

/// Trials of a former study that are not taken over, in one line; nothing where there are none.
fn left_out(dropped: &[(u64, String)]) -> Option<String> {
    let (first, why) = dropped.first()?;
    let more = dropped.len() - 1;
    if more == 0 {
        return Some(format!(
            "trial {first} of the former study is left out: {why}"
        ));
    }
    let named: Vec<String> = dropped
        .iter()
        .take(LEFT_OUT)
        .map(|(trial, _)| trial.to_string())
        .collect();
    let dots = if dropped.len() > LEFT_OUT {
        ", ..."
    } else {
        ""
    };
    Some(format!(
        "{} trials of the former study are left out ({}{dots}); trial {first}: {why}",
        dropped.len(),
        named.join(", ")
    ))
}

/// Whether a run could go on with the study that has these records; all right where there are none. Gives the trials that it would tell
/// again as failed without running anything of them. Changes nothing.
///
/// # Errors
/// With what the run would end with: the study was another one, or its results are out of date, or its log cannot be read.
pub fn check_study(
    planner: &StudyPlanner,
    definition: &Definition,
    records: Vec<StudyRecord>,
    place: Place<'_>,
) -> Result<BTreeSet<u64>, RunError> {
    if records.is_empty() {
        return Ok(BTreeSet::new());
    }
    let (name, workspace, _) = place;
    let study = replay(definition.clone(), records, name)?;
    let mut facts = FactCache::new(workspace);
    check_results(&study, planner, &mut facts, place)?;
    let open = study.rows().filter(|row| row.state == TrialState::Asked);
    let standing = still_failed(&study, open, planner, &mut facts, place);
    Ok(standing.into_keys().collect())
}

fn write_all(log: &mut LogWriter, records: &[StudyRecord]) -> Result<(), RunError> {
    let mut bytes = Vec::new();
    records.iter().for_each(|record| encode(record, &mut bytes));
    log.append(&bytes).map_err(RunError::Study)?;
    log.sync().map_err(RunError::Study)
}

fn replay(
    definition: Definition,
    records: Vec<StudyRecord>,
    name: &str,
) -> Result<Study, RunError> {
    Study::replay(definition, records).map_err(|error| match error {
        ReplayError::Changed(changes) => RunError::StudyChanged {
            name: name.into(),
            changes,
            rescore: Rescore::Refused,
        },
        ReplayError::Differs(trial) => RunError::StudyChanged {
            name: name.into(),
            changes: vec![format!(
                "the sampler gives another point for trial {trial} than the log has"
            )],
            rescore: Rescore::Refused,
        },
        other => RunError::Study(format!("study `{name}`: {other}")),
    })
}

/// The name of a study, the workspace that it is of, and where its results are.
pub type Place<'a> = (&'a str, &'a Workspace, &'a Store);

/// Whether what told trials depend on is still what it was.
fn check_results(
    study: &Study,
    planner: &StudyPlanner,
    facts: &mut FactCache,
    (name, workspace, store): Place<'_>,
) -> Result<(), RunError> {
    let asked = study.counts().asked;
    let looked_at = (1..=asked).filter(|trial| *trial <= CHECKED || *trial + CHECKED > asked);
    let mut changed = Vec::new();
    let mut first_plan = None;
    let mut scoring_only = false;
    let mut checked = 0;
    for row in looked_at.filter_map(|trial| study.row(trial)) {
        // One that is not told has no result that could be out of date; a known one counts as it is.
        if row.state == TrialState::Asked || row.trial <= study.known() {
            continue;
        }
        checked += 1;
        match plan_again(study, &row, planner, facts) {
            Ok(plan) if plan.objective_key() == *row.key => {}
            // It could not be planned then, and cannot be now.
            Err(_) if row.values.is_none() => {}
            Ok(plan) => {
                // Where simulations are in the cache, only what comes after them is another.
                scoring_only |= simulations_are_there(&plan, store) == Some(true);
                changed.push(row.trial);
                // Of one that failed, not all nodes have run: history may say nothing of them.
                if row.values.is_some() {
                    first_plan.get_or_insert(plan);
                }
            }
            Err(_) => changed.push(row.trial),
        }
    }
    let Some(first) = changed.first() else {
        return Ok(());
    };
    let which = match changed.len() {
        n if n == checked => "all trials that ended".to_owned(),
        1 => format!("trial {first}"),
        n => format!("{n} trials, from trial {first} on,"),
    };
    let what = super::basis::what_changed(study, planner, facts);
    let what = what
        .or_else(|| what_changed(first_plan.as_ref()?, workspace, store))
        .unwrap_or_else(|| "code, data, parameters or objectives of the trial's jobs".to_owned());
    Err(RunError::StudyChanged {
        name: name.into(),
        changes: vec![format!("what {which} depend on is not what it was: {what}")],
        rescore: match scoring_only {
            true => Rescore::Scores,
            false => Rescore::Simulations,
        },
    })
}

/// The part of a trial that is not what it was when its nodes ran last, by name; nothing where history does not say.
fn what_changed(plan: &Plan, workspace: &Workspace, store: &Store) -> Option<String> {
    let history = History::load(workspace);
    let rows = preview(plan, store, &history, &Force::None).ok()?;
    let changed = rows.iter().find_map(|row| match &row.cause {
        Some(cause @ Cause::Changed { .. }) => Some((row.node, cause.describe())),
        _ => None,
    });
    if let Some((node, what)) = changed {
        let job = &plan.pipeline().job(plan.job(node)).name.value;
        return Some(format!("{what} (job `{job}`)"));
    }
    let all_hits = rows.iter().all(|row| row.state == PreviewState::Hit);
    all_hits.then(|| "the objectives or constraints".to_owned())
}

/// Whether scored trials can be told again without a simulation; nothing is told where they cannot.
fn check_simulations(
    study: &Study,
    planner: &StudyPlanner,
    facts: &mut FactCache,
    store: &Store,
) -> Result<(), RunError> {
    let (mut scored, mut missing) = (0u64, 0u64);
    for row in study.rows().filter(|row| row.values.is_some()) {
        scored += 1;
        let plan = plan_again(study, &row, planner, facts);
        let gone = |plan: Plan| simulations_are_there(&plan, store) == Some(false);
        missing += u64::from(plan.map_or(true, gone));
    }
    if missing == 0 {
        return Ok(());
    }
    Err(RunError::StudySimulations { scored, missing })
}

/// Failed trials that would fail again as they did: of which nothing has changed, or a simulation has failed that is what it
/// was. What they came to, with what it depends on now.
fn still_failed<'s>(
    study: &'s Study,
    rows: impl Iterator<Item = TrialRow<'s>>,
    planner: &StudyPlanner,
    facts: &mut FactCache,
    (_, workspace, store): Place<'_>,
) -> BTreeMap<u64, TrialEnd> {
    let history = LazyCell::new(|| History::load(workspace));
    let mut standing = BTreeMap::new();
    for row in rows.filter(|row| row.values.is_none()) {
        let failed = study.end_of(row.trial).filter(|end| end.result.is_err());
        let (Some(mut end), Ok(plan)) = (failed, plan_again(study, &row, planner, facts)) else {
            continue;
        };
        let key = plan.objective_key();
        if key == end.key || simulation_failed(&plan, store, &history) {
            end.key = key;
            end.seconds = 0.0;
            standing.insert(row.trial, end);
        }
    }
    standing
}

/// Whether history knows of a node before the scores that it failed under the key that it has.
fn simulation_failed(plan: &Plan, store: &Store, history: &History) -> bool {
    let scores = plan.objective_nodes();
    let rows = preview(plan, store, history, &Force::None).unwrap_or_default();
    rows.iter().any(|row| {
        let failed = matches!(row.cause, Some(Cause::Failed { .. }));
        failed && plan.is_own(row.node) && !scores.contains(&row.node)
    })
}

/// Whether the cache has the simulations of a trial; nothing where its objectives read what they make themselves.
fn simulations_are_there(plan: &Plan, store: &Store) -> Option<bool> {
    let scores = plan.objective_nodes();
    let mut simulations = plan.simulation_nodes();
    simulations.retain(|node| !scores.contains(node));
    if simulations.is_empty() {
        return None;
    }
    let rows = preview(plan, store, &History::default(), &Force::None).ok()?;
    let is_hit = |node: &NodeIx| rows[node.index()].state == PreviewState::Hit;
    Some(simulations.iter().all(is_hit))
}

/// The plan of a told trial, with as many replicates as it had.
///
/// # Errors
/// As [`plan_trial`].
pub(crate) fn plan_again(
    study: &Study,
    row: &TrialRow<'_>,
    planner: &StudyPlanner,
    facts: &mut FactCache,
) -> Result<Plan, String> {
    let mut point = TrialPoint {
        number: row.trial,
        values: Arc::new(study.definition().space.values(row.point)),
        replicates: None,
    };
    let plan = plan_trial(planner, point.clone(), facts, None)?;
    // One that grew has the replicates that it grew to.
    // `min` may have let some of them fail, so the key says whether it grew.
    match plan.grow_to() {
        Some(to) if plan.objective_key() != *row.key => {
            point.replicates = Some(to);
            plan_trial(planner, point, facts, None)
        }
        _ => Ok(plan),
    }
}

/// The plan of a trial.
///
/// # Errors
/// Why there is none, in one line with its place.
pub(crate) fn plan_trial(
    planner: &StudyPlanner,
    point: TrialPoint,
    facts: &mut FactCache,
    sources: Option<&Sources>,
) -> Result<Plan, String> {
    let told = |diagnostics: Vec<Diagnostic>| {
        let first = diagnostics.first();
        first.map_or_else(String::new, |it| match sources {
            Some(sources) => format!("{}: {}", sources.locate(it.span), it.message),
            None => it.message.clone(),
        })
    };
    let expansion = planner.trial(point).map_err(told)?;
    let facts = match expansion.known_facts() {
        Some(known) => known,
        None => facts
            .answer(&expansion.facts_needed())
            .map_err(|error| error.to_string())?
            .into(),
    };
    Ok(expansion.finish(facts).map_err(told)?.0)
}

/// How many nodes of a plan run at once where there are most: the largest number of own nodes at the same depth.
pub(crate) fn widest(plan: &Plan) -> u32 {
    let mut depth = vec![0u32; plan.len()];
    let mut widths: Vec<u32> = Vec::new();
    for node in plan.nodes() {
        let own: Vec<NodeIx> = plan.upstream(node).filter(|n| plan.is_own(*n)).collect();
        let at = own.iter().map(|n| depth[n.index()] + 1).max().unwrap_or(0);
        depth[node.index()] = at;
        if plan.is_own(node) {
            let at = at as usize;
            widths.resize(widths.len().max(at + 1), 0);
            widths[at] += 1;
        }
    }
    widths.into_iter().max().unwrap_or(1).max(1)
}

/// Writes the table of a study beside its log.
pub(crate) fn write_table(study: &Study, folder: &std::path::Path) -> Result<(), RunError> {
    let path = folder.join("trials.csv");
    let temporary = folder.join("trials.csv.tmp");
    let write = || {
        let mut out = std::io::BufWriter::new(own::create(&temporary)?);
        super::write_csv(study, false, &mut out)?;
        out.into_inner()
            .map_err(std::io::IntoInnerError::into_error)?
            .sync_data()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|error| {
        // Half a table helps nobody, least of all on a full disk.
        let _ = fs::remove_file(&temporary);
        RunError::io("write", &path)(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_trials_that_are_left_out_take_one_line() {
        let dropped = |trials: &[u64]| -> Vec<_> {
            let why = |trial: &u64| (*trial, format!("`x` = 0.{trial} is beyond 0.2"));
            trials.iter().map(why).collect()
        };
        assert_eq!(left_out(&[]), None);
        for (trials, line) in [
            (
                &[3][..],
                "trial 3 of the former study is left out: `x` = 0.3 is beyond 0.2",
            ),
            (
                &[3, 5],
                "2 trials of the former study are left out (3, 5); trial 3: `x` = 0.3 is beyond 0.2",
            ),
            (
                &[3, 4, 5, 6, 7, 8],
                "6 trials of the former study are left out (3, 4, 5, 6, 7, ...); trial 3: `x` = 0.3 is beyond 0.2",
            ),
        ] {
            assert_eq!(left_out(&dropped(trials)).as_deref(), Some(line));
        }
    }
}
