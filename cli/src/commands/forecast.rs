//! What a plan comes to at the times of former runs.

use std::collections::BTreeSet;

use dagrun_report::{Forecast, JobWork};
use dagrun_run::{PreviewState, Workspace};

use super::{plan::Part, report::mean_seconds};

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
    let runs = workspace.journaled_runs();
    let last = runs.iter().rev().take(RUNS_BACK);
    let means = mean_seconds(workspace, &pipeline.name.value, wanted, last);
    for job in &mut jobs {
        job.mean = means.get(&job.name).copied();
    }
    dagrun_report::forecast(&jobs, slots as f64)
}
