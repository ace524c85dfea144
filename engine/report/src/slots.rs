//! Where the time of slots went: every second of every slot has one cause, and the greatest stands first.

use std::collections::BTreeMap;

use dagrun_events::{AttemptOutcome, RunState};
use rustc_hash::FxHashMap;

use crate::{
    job_of,
    statistics::{add, steps},
};

/// The slot time of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SlotTime {
    /// Slots in all.
    pub slots: f64,
    /// What they did, or why they did nothing, in slot-seconds: the longest first.
    pub causes: Vec<(String, f64)>,
}

impl SlotTime {
    /// Slot-seconds in all.
    pub fn total(&self) -> f64 {
        self.causes.iter().map(|(_, seconds)| seconds).sum()
    }
}

/// Causes with less than this share of the whole are left out.
const LEAST: f64 = 0.000_5;

/// Finds the cause of every slot-second between the start of a run and its end.
///
/// A slot that runs an attempt is charged to the phase of it; one that idles is charged to what it waited for: the jobs that
/// ran alone meanwhile, or dagrun itself.
pub fn slot_time(state: &RunState) -> SlotTime {
    let slots: f64 = state.workers.values().map(|worker| worker.slots).sum();
    if slots <= 0.0 || state.wall <= 0.0 {
        return SlotTime::default();
    }
    let mut causes = BTreeMap::new();
    work(state, &mut causes);
    Idle::new(state, slots).charge(&mut causes);
    let least = LEAST * slots * state.wall;
    let mut causes: Vec<(String, f64)> = causes
        .into_iter()
        .filter(|(_, seconds)| *seconds > least)
        .collect();
    causes.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    SlotTime { slots, causes }
}

type Causes = BTreeMap<String, f64>;

/// Charges what attempts did.
fn work(state: &RunState, causes: &mut Causes) {
    let (mut useful, mut useless) = (dagrun_model::Phases::default(), 0.0);
    for result in state.attempts.iter().filter_map(|it| it.result.as_ref()) {
        match result.outcome {
            AttemptOutcome::Succeeded => add(&mut useful, &result.phases),
            _ => useless += result.phases.total() - result.phases.queue,
        }
    }
    for (phase, seconds) in steps(&useful) {
        let what = match phase {
            "fetch" => "fetching inputs",
            "start" => "starting programs",
            "decode" => "reading values",
            "compute" => "computing",
            "encode" => "writing values",
            _ => "storing outputs",
        };
        causes.insert(what.into(), seconds);
    }
    causes.insert(
        "attempts that failed, were stopped or were lost".into(),
        useless,
    );
}

/// Something that changes what may run.
#[derive(Clone, Copy)]
enum Change {
    /// An attempt waits at its worker.
    Wait(i64),
    /// Attempts of a job run.
    Run(usize, i64),
}

/// The time in which slots did nothing.
struct Idle<'s> {
    slots: f64,
    from: f64,
    to: f64,
    jobs: Vec<&'s str>,
    changes: Vec<(f64, Change)>,
}

impl<'s> Idle<'s> {
    fn new(state: &'s RunState, slots: f64) -> Self {
        let mut idle = Self {
            slots,
            from: state.started_at,
            to: state.started_at + state.wall,
            jobs: Vec::new(),
            changes: Vec::new(),
        };
        let mut at = FxHashMap::default();
        for attempt in &state.attempts {
            let name = job_of(&state.nodes[attempt.node].id);
            let job = *at.entry(name).or_insert_with(|| {
                idle.jobs.push(name);
                idle.jobs.len() - 1
            });
            let end = attempt.ended.unwrap_or(state.last_at);
            let took = attempt
                .result
                .as_ref()
                .map_or(end - attempt.started, |result| {
                    result.phases.total() - result.phases.queue
                });
            // Of short attempts that were handed over together the ends are told together too.
            let start = (end - took).clamp(attempt.started.min(end), end);
            idle.changes.extend([
                (attempt.started, Change::Wait(1)),
                (start, Change::Wait(-1)),
                (start, Change::Run(job, 1)),
                (end, Change::Run(job, -1)),
            ]);
        }
        idle.changes.sort_by(|a, b| a.0.total_cmp(&b.0));
        idle
    }

    fn charge(self, causes: &mut Causes) {
        let first = self.changes.first().map_or(self.to, |(at, _)| *at);
        let last = self.changes.last().map_or(self.from, |(at, _)| *at);
        let mut at = self.from;
        let (mut waiting, mut running) = (0, 0);
        let mut of_job: BTreeMap<usize, i64> = BTreeMap::new();
        let mut charge = |what: String, seconds: f64| *causes.entry(what).or_default() += seconds;
        let end = [(self.to, Change::Wait(0))];
        for (next, change) in self.changes.iter().chain(&end) {
            let seconds = (next.min(self.to) - at).max(0.0);
            let idle = (self.slots - running as f64).max(0.0) * seconds;
            if idle > 0.0 {
                match () {
                    () if at < first => charge(
                        "before the first node: reading, planning, looking up".into(),
                        idle,
                    ),
                    () if at >= last => {
                        charge("after the last node: exporting, closing".into(), idle)
                    }
                    () if waiting > 0 => charge("handing nodes over".into(), idle),
                    () if running == 0 => charge(
                        "between nodes: recording results, choosing the next".into(),
                        idle,
                    ),
                    () => {
                        for (job, n) in &of_job {
                            let share = *n as f64 / running as f64;
                            charge(
                                format!(
                                    "waiting for `{}`, nothing else was ready",
                                    self.jobs[*job]
                                ),
                                idle * share,
                            );
                        }
                    }
                }
            }
            at = at.max(*next);
            match change {
                Change::Wait(by) => waiting += by,
                Change::Run(job, by) => {
                    running += by;
                    let n = of_job.entry(*job).or_default();
                    *n += by;
                    if *n == 0 {
                        of_job.remove(job);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use dagrun_events::{NodeOutcome, RunEvent, RunStarted};
    use dagrun_model::{AttemptResult, FailureCause, Outcome, Phases};

    use super::*;
    use crate::kit::{done, ended, fold, start};

    fn took(outcome: Outcome, phases: Phases) -> AttemptResult {
        AttemptResult {
            phases,
            ..AttemptResult::bare(outcome)
        }
    }

    /// Two slots for ten seconds: one second of planning, a node of `a` alone that starts slowly, a failure beside it.
    fn run() -> RunState {
        let good = Phases {
            start: 2.0,
            compute: 3.0,
            ..Phases::default()
        };
        let bad = Phases {
            compute: 1.0,
            ..Phases::default()
        };
        let failed = Outcome::Failed(FailureCause::Exit {
            code: 1,
            step: String::new(),
        });
        let over = RunEvent::RunEnded {
            exit_code: 1,
            counts: Default::default(),
            plan: None,
            wall: 10.0,
        };
        fold([
            (0.0, RunEvent::RunStarted(Box::<RunStarted>::default())),
            (
                0.0,
                RunEvent::WorkerJoined {
                    worker: 0,
                    host: "h".into(),
                    slots: 2.0,
                    memory: 0,
                    process: String::new(),
                },
            ),
            (1.0, start("a", 1, None)),
            (1.0, start("b", 2, None)),
            (2.0, ended("b", 2, &took(failed, bad))),
            (2.0, done("b", NodeOutcome::Failed)),
            (
                6.0,
                ended("a", 1, &took(Outcome::Succeeded(Default::default()), good)),
            ),
            (6.0, done("a", NodeOutcome::Succeeded)),
            (10.0, over),
        ])
    }

    #[test]
    fn every_second_of_every_slot_has_one_cause() {
        let found = slot_time(&run());
        let causes: Vec<(&str, f64)> = found
            .causes
            .iter()
            .map(|(what, s)| (what.as_str(), *s))
            .collect();
        let expected = [
            ("after the last node: exporting, closing", 8.0),
            ("waiting for `a`, nothing else was ready", 4.0),
            ("computing", 3.0),
            ("before the first node: reading, planning, looking up", 2.0),
            ("starting programs", 2.0),
            ("attempts that failed, were stopped or were lost", 1.0),
        ];
        assert_eq!(causes, expected);
        assert_eq!(found.total(), 20.0);
    }

    #[test]
    fn nothing_ran_nothing_is_charged() {
        assert_eq!(slot_time(&RunState::default()), SlotTime::default());
    }
}
