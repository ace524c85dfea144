//! What is to come, at the times of former runs.

use dagrun_model::{format_seconds, short_float_text};
use serde_json::{Value, json};

use crate::{escape_line, first_of, plural};

/// Jobs that are named of those that never ran.
const NAMED: usize = 5;

/// Work that a job has before it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobWork {
    /// Its name.
    pub name: String,
    /// Nodes to run.
    pub to_run: u64,
    /// Distinct nodes, those that are hits among them.
    pub nodes: u64,
    /// As an engine without deduplication counts them.
    pub naive: u64,
    /// Mean seconds of a node in former runs; none where it never ran.
    pub mean: Option<f64>,
    /// The jobs that it needs, by position.
    pub needs: Vec<usize>,
}

/// How long it will take at the least. Of jobs that never ran nothing is known, and nothing counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forecast {
    /// Seconds of all nodes to run.
    pub work: f64,
    /// Slots that run them.
    pub slots: f64,
    /// Seconds that it takes at the least: the work over the slots, or the longest chain of jobs.
    pub bound: f64,
    /// How many times the work of the whole plan an engine without deduplication would do.
    pub without_deduplication: f64,
    /// Jobs with nodes to run that never ran before.
    pub unknown: Vec<String>,
}

/// What jobs come to on some slots; none where there is nothing to run, or nothing is known of what there is.
pub fn forecast(jobs: &[JobWork], slots: f64) -> Option<Forecast> {
    let seconds = |count: fn(&JobWork) -> u64| -> f64 {
        let known = jobs
            .iter()
            .filter_map(|job| Some(count(job) as f64 * job.mean?));
        known.sum()
    };
    let (work, all) = (seconds(|job| job.to_run), seconds(|job| job.nodes));
    if work <= 0.0 || slots <= 0.0 {
        return None;
    }
    let chain = chains(jobs).into_iter().fold(0.0, f64::max);
    let unknown = jobs
        .iter()
        .filter(|job| job.to_run > 0 && job.mean.is_none());
    Some(Forecast {
        work,
        slots,
        bound: (work / slots).max(chain),
        without_deduplication: seconds(|job| job.naive) / all,
        unknown: unknown.map(|job| job.name.clone()).collect(),
    })
}

/// By job, the seconds of the longest chain of nodes that ends with it. Needs have no cycles, and may be thousands deep.
fn chains(jobs: &[JobWork]) -> Vec<f64> {
    let mut known: Vec<Option<f64>> = vec![None; jobs.len()];
    let mut open: Vec<usize> = (0..jobs.len()).collect();
    while let Some(job) = open.last().copied() {
        let JobWork {
            needs,
            mean,
            to_run,
            ..
        } = &jobs[job];
        let before = open.len();
        open.extend(needs.iter().filter(|need| known[**need].is_none()));
        if open.len() > before {
            continue;
        }
        let longest = needs.iter().filter_map(|need| known[*need]);
        let own = mean.filter(|_| *to_run > 0).unwrap_or(0.0);
        known[job] = Some(longest.fold(0.0, f64::max) + own);
        open.pop();
    }
    known.into_iter().flatten().collect()
}

impl Forecast {
    /// In one line for people.
    pub fn text(&self) -> String {
        let mut text = format!(
            "at least {} on {}, at the times of former runs",
            format_seconds(self.bound),
            plural(self.slots.round() as u64, "slot")
        );
        if self.without_deduplication > 1.005 {
            let times = short_float_text((self.without_deduplication * 100.0).round() / 100.0);
            text.push_str(&format!(
                "; without deduplication it would be {times} times the work"
            ));
        }
        if !self.unknown.is_empty() {
            let names: Vec<String> = self
                .unknown
                .iter()
                .map(|job| format!("`{}`", escape_line(job)))
                .collect();
            text.push_str(&format!(
                "; not counted, for it never ran: {}",
                first_of(&names, NAMED)
            ));
        }
        text
    }

    /// As JSON: names that scripts depend on.
    pub fn json(&self) -> Value {
        json!({
            "work": self.work,
            "slots": self.slots,
            "bound": self.bound,
            "without_deduplication": self.without_deduplication,
            "unknown": self.unknown,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 trials of five replicates and two targets: without deduplication ten simulations and two scores each.
    fn trials(simulate: f64, score: f64) -> Vec<JobWork> {
        let job = |name: &str, each: [u64; 2], mean, needs: &[usize]| JobWork {
            name: name.into(),
            to_run: each[0] * 100,
            nodes: each[0] * 100,
            naive: each[1] * 100,
            mean: Some(mean),
            needs: needs.to_vec(),
        };
        vec![
            job("score", [2, 2], score, &[1]),
            job("simulate", [5, 10], simulate, &[]),
        ]
    }

    #[test]
    fn deduplication_brings_what_the_times_of_nodes_allow() {
        let brings = |simulate, score| {
            forecast(&trials(simulate, score), 20.0)
                .unwrap()
                .without_deduplication
        };
        assert!((1.95..2.0).contains(&brings(33.0, 0.5)));
        assert_eq!((brings(33.0, 33.0) * 100.0).round(), 171.0);
    }

    #[test]
    fn the_bound_is_work_or_the_longest_chain() {
        let jobs = trials(30.0, 3.0);
        let work = 100.0 * (5.0 * 30.0 + 2.0 * 3.0);
        assert_eq!(forecast(&jobs, 20.0).unwrap().bound, work / 20.0);
        assert_eq!(forecast(&jobs, 1e6).unwrap().bound, 33.0);
    }

    #[test]
    fn a_chain_of_all_jobs_that_a_file_may_have_is_followed() {
        let jobs: Vec<JobWork> = (0..10_000)
            .map(|n| JobWork {
                to_run: 1,
                nodes: 1,
                naive: 1,
                mean: Some(1.0),
                needs: if n < 9_999 { vec![n + 1] } else { Vec::new() },
                ..JobWork::default()
            })
            .collect();
        // On a stack that is small.
        let thread = std::thread::Builder::new().stack_size(128 << 10);
        let found = thread.spawn(move || forecast(&jobs, 2.0)).unwrap().join();
        assert_eq!(found.unwrap().unwrap().bound, 10_000.0);
    }

    #[test]
    fn what_never_ran_is_named_and_nothing_is_made_up() {
        let mut jobs = trials(30.0, 3.0);
        jobs[0].mean = None;
        let found = forecast(&jobs, 2.0).unwrap();
        assert_eq!(found.unknown, ["score"]);
        assert!(
            found.text().ends_with("never ran: `score`"),
            "{}",
            found.text()
        );
        let many = Forecast {
            unknown: (0..9).map(|n| format!("j{n}")).collect(),
            ..found
        };
        assert!(
            many.text().ends_with("`j3`, `j4` and 4 more"),
            "{}",
            many.text()
        );
        jobs[1].mean = None;
        assert_eq!(forecast(&jobs, 2.0), None);
        let done: Vec<JobWork> = trials(30.0, 3.0)
            .into_iter()
            .map(|job| JobWork { to_run: 0, ..job })
            .collect();
        assert_eq!(forecast(&done, 2.0), None);
    }
}
