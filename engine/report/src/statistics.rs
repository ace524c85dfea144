//! Where the time of a run went, by job.

use std::collections::BTreeMap;

use dagrun_events::{AttemptOutcome, NodeRow, RunState};

/// A run in figures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// By job, in the order of their names.
    pub jobs: BTreeMap<String, JobStatistics>,
    /// Seconds that attempts took in all, without queueing.
    pub busy: f64,
    /// `busy / (slots x wall)`; none where nothing ran.
    pub utilisation: Option<f64>,
    /// The attempts that took longest: node and seconds, at most ten.
    pub slowest: Vec<(String, f64)>,
    /// The chain of nodes that ended last, each with the seconds from its first start to its end: the run could only be
    /// shorter if one of these were.
    pub critical_path: Vec<(String, f64)>,
}

/// A job in figures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobStatistics {
    /// Attempts that ended.
    pub attempts: u64,
    /// Nodes taken from the cache.
    pub cached: u64,
    /// Attempts that did not succeed.
    pub unsuccessful: u64,
    /// Seconds of each attempt without queueing, sorted.
    pub seconds: Vec<f64>,
    /// CPU seconds in all.
    pub cpu: f64,
    /// The greatest peak memory of one attempt, in bytes.
    pub peak_memory: u64,
    /// Bytes of outputs stored.
    pub bytes_out: u64,
}

impl JobStatistics {
    /// The `q`-quantile (0 to 1) of the seconds: the smallest value that at least a share `q` of the attempts do not exceed.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let rank = (q * self.seconds.len() as f64).ceil().max(1.0) as usize;
        self.seconds.get(rank - 1).or(self.seconds.last()).copied()
    }
}

/// The figures of a run.
pub fn statistics(state: &RunState) -> Statistics {
    let mut figures = Statistics::default();
    for attempt in &state.attempts {
        let Some(result) = &attempt.result else {
            continue;
        };
        let id = &state.nodes[attempt.node].id;
        let job = figures.jobs.entry(job_of(id).to_owned()).or_default();
        let seconds = result.phases.total() - result.phases.queue;
        job.attempts += 1;
        job.unsuccessful += u64::from(result.outcome != AttemptOutcome::Succeeded);
        job.seconds.push(seconds);
        job.cpu += result.usage.cpu;
        job.peak_memory = job.peak_memory.max(result.usage.peak_memory);
        job.bytes_out += result.usage.bytes_out;
        figures.busy += seconds;
        figures.slowest.push((id.clone(), seconds));
    }
    for node in state
        .nodes
        .iter()
        .filter(|node| node.outcome == Some(dagrun_events::NodeOutcome::Cached))
    {
        figures
            .jobs
            .entry(job_of(&node.id).to_owned())
            .or_default()
            .cached += 1;
    }
    for job in figures.jobs.values_mut() {
        job.seconds.sort_by(f64::total_cmp);
    }
    figures
        .slowest
        .sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    figures.slowest.truncate(10);
    let slots: f64 = state.workers.values().map(|worker| worker.slots).sum();
    if slots > 0.0 && state.wall > 0.0 && figures.busy > 0.0 {
        figures.utilisation = Some(figures.busy / (slots * state.wall));
    }
    figures.critical_path = critical_path(state);
    figures
}

/// Follows back from the node that ended last which need it had waited for.
fn critical_path(state: &RunState) -> Vec<(String, f64)> {
    let ran = |node: &&NodeRow| !node.attempts.is_empty() && node.outcome.is_some();
    let by_end = |a: &&NodeRow, b: &&NodeRow| a.done_at.total_cmp(&b.done_at);
    let mut at = state.nodes.iter().filter(ran).max_by(by_end);
    let mut path = Vec::new();
    while let Some(node) = at
        && path.len() < state.nodes.len()
    {
        let first = &state.attempts[node.attempts[0]];
        path.push((node.id.clone(), (node.done_at - first.started).max(0.0)));
        let need = first.after.as_deref().and_then(|id| state.find(id));
        at = need.filter(ran);
    }
    path.reverse();
    path
}

pub(crate) fn job_of(id: &str) -> &str {
    id.split('[').next().unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use dagrun_events::{NodeOutcome, OutputRows, Record, RunEvent};
    use dagrun_model::Digest;

    use super::*;

    #[test]
    fn the_critical_path_is_the_chain_that_ended_last() {
        let start = |node: &str, attempt, after: Option<&str>| RunEvent::AttemptStarted {
            node: node.into(),
            key: Digest::empty(),
            attempt,
            number: 1,
            worker: 0,
            after: after.map(Into::into),
        };
        let done = |node: &str| RunEvent::NodeDone {
            node: node.into(),
            also: Vec::new(),
            end: NodeOutcome::Succeeded,
            because: None,
            cause: None,
            outputs: OutputRows::new(),
        };
        let records = [
            (0.0, start("a", 1, None)),
            (0.0, start("b", 2, None)),
            (1.0, done("a")),
            (4.0, done("b")),
            (4.0, start("c", 3, Some("b"))),
            (6.0, done("c")),
        ]
        .map(|(at, event)| Record { at, event });
        let path = statistics(&RunState::fold(&records)).critical_path;
        assert_eq!(path, [("b".to_string(), 4.0), ("c".to_string(), 2.0)]);
    }

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let job = JobStatistics {
            seconds: vec![1.0, 2.0, 3.0, 4.0],
            ..JobStatistics::default()
        };
        assert_eq!(job.quantile(0.5), Some(2.0));
        assert_eq!(job.quantile(0.95), Some(4.0));
        assert_eq!(job.quantile(0.0), Some(1.0));
        assert_eq!(JobStatistics::default().quantile(0.5), None);
    }
}
