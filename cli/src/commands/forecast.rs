//! What a plan comes to at the times of former runs.

use std::collections::{BTreeMap, BTreeSet};

use dagrun_events::RunState;
use dagrun_report::{Forecast, JobWork};
use dagrun_run::{PreviewState, Workspace};

use super::plan::Part;

/// Journals that are read, the latest first.
const RUNS_BACK: usize = 5;

/// The forecast of the parts of a plan; none where nothing is to run, or nothing is known of what is.
pub(super) fn forecast(parts: &[Part], workspace: &Workspace, slots: usize) -> Option<Forecast> {
    let pipeline = parts.first()?.plan.pipeline();
    let mut jobs: Vec<JobWork> = pipeline
        .jobs
        .values()
        .map(|job| JobWork {
            name: job.name.value.clone(),
            needs: job.needs.iter().map(|need| need.job.index()).collect(),
            ..JobWork::default()
        })
        .collect();
    for part in parts {
        for row in &part.rows {
            let job = &mut jobs[part.plan.job(row.node).index()];
            job.nodes += part.times;
            if matches!(row.state, PreviewState::Run | PreviewState::Unknown) {
                job.to_run += part.times;
            }
        }
        for (job, naive) in jobs.iter_mut().zip(part.plan.naive_by_job()) {
            job.naive = job.naive.saturating_add(naive.saturating_mul(part.times));
        }
    }
    let wanted = jobs.iter().filter(|job| job.nodes > 0);
    let wanted: BTreeSet<&str> = wanted.map(|job| job.name.as_str()).collect();
    if jobs.iter().all(|job| job.to_run == 0) {
        return None;
    }
    let means = means(workspace, &pipeline.name.value, wanted);
    for job in &mut jobs {
        job.mean = means.get(&job.name).copied();
    }
    dagrun_report::forecast(&jobs, slots as f64)
}

/// Mean seconds of jobs, each from the last run of the pipeline in which nodes of it ran.
fn means(
    workspace: &Workspace,
    pipeline: &str,
    mut wanted: BTreeSet<&str>,
) -> BTreeMap<String, f64> {
    let mut means = BTreeMap::new();
    for run in workspace.journaled_runs().iter().rev().take(RUNS_BACK) {
        if wanted.is_empty() {
            break;
        }
        // A damaged journal says nothing of times, and that is all.
        let Ok(loaded) = dagrun_run::load_journal(&workspace.journal_path(run)) else {
            continue;
        };
        let state = RunState::fold(&loaded.records);
        if state
            .started
            .as_ref()
            .is_none_or(|started| started.pipeline != pipeline)
        {
            continue;
        }
        for job in dagrun_report::statistics(&state).jobs {
            if let Some(mean) = job.mean()
                && wanted.remove(job.name.as_str())
            {
                means.insert(job.name, mean);
            }
        }
    }
    means
}
