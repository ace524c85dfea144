//! Where the time of slots went: every second of every slot has one cause, and the greatest stands first.

use std::{collections::BTreeMap, fmt};

use dagrun_events::{AttemptOutcome, RunState};
use dagrun_model::format_seconds;
use rustc_hash::FxHashMap;

use crate::{job_of, plural, statistics::add_part, timeline::bars};

/// What a slot did, or why it did nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SlotCause {
    /// Programs of nodes ran.
    Computing,
    /// Programs of nodes ran but for a CPU quota of their host.
    Throttled,
    /// Programs of nodes were started.
    Starting,
    /// Inputs were fetched.
    Fetching,
    /// Values were read.
    Reading,
    /// Values were written.
    Writing,
    /// Outputs were stored.
    Storing,
    /// Attempts ran that failed, were stopped or were lost.
    Useless,
    /// It idled: nothing had been planned yet.
    Planning,
    /// It idled: no node came any more.
    Closing,
    /// It idled while attempts waited at their worker.
    HandingOver,
    /// It idled while its host had too little memory for one node more. The job whose nodes took most is this.
    ShortOfMemory(String),
    /// It idled while nothing ran.
    Between,
    /// It idled while only nodes of this job ran.
    WaitingFor(String),
}

impl fmt::Display for SlotCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Computing => "computing",
            Self::Throttled => "held back by a CPU quota",
            Self::Starting => "starting programs",
            Self::Fetching => "fetching inputs",
            Self::Reading => "reading values",
            Self::Writing => "writing values",
            Self::Storing => "storing outputs",
            Self::Useless => "attempts that failed, were stopped or were lost",
            Self::Planning => "before the first node: reading, planning, looking up",
            Self::Closing => "after the last node: exporting, closing",
            Self::HandingOver => "handing nodes over",
            Self::ShortOfMemory(_) => "waiting for memory: the host was nearly full",
            Self::Between => "between nodes: recording results, choosing the next",
            Self::WaitingFor(job) => {
                return write!(f, "waiting for `{job}`, nothing else was ready");
            }
        })
    }
}

/// The slot time of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SlotTime {
    /// Slots, in the mean over the run.
    pub slots: f64,
    /// Seconds in which there was no worker.
    pub deserted: f64,
    /// What they did, or why they did nothing, in slot-seconds: the longest first.
    pub causes: Vec<(SlotCause, f64)>,
}

/// From which share of the slot time a cause is worth advice.
const MUCH: f64 = 0.2;

impl SlotTime {
    /// Slot-seconds in all.
    pub fn total(&self) -> f64 {
        self.causes.iter().map(|(_, seconds)| seconds).sum()
    }

    /// How many slots there were for how long, for people.
    pub fn heading(&self, wall: f64) -> String {
        let slots = match (self.slots - self.slots.round()).abs() < 0.05 {
            true => plural(self.slots.round() as u64, "slot"),
            false => format!("{:.1} slots in the mean", self.slots),
        };
        let wall = format_seconds(wall);
        match self.deserted {
            // A moment without one is no news.
            ..1.0 => format!("{slots} for {wall}"),
            deserted => format!(
                "{slots} for {wall}, of which {} without any worker",
                format_seconds(deserted)
            ),
        }
    }

    /// The causes that people want to see: the first three, and all with half a percent or more.
    pub fn shown(&self) -> impl Iterator<Item = &(SlotCause, f64)> {
        let least = self.total() * 0.005;
        let causes = self.causes.iter().enumerate();
        causes
            .filter(move |(ix, (_, seconds))| *ix < 3 || *seconds >= least)
            .map(|(_, cause)| cause)
    }

    /// What would help most, for people; empty where little was lost.
    pub fn advice(&self) -> Vec<String> {
        let large = MUCH * self.total();
        let causes = self.causes.iter().filter(|(_, seconds)| *seconds >= large);
        causes.filter_map(|(cause, _)| cause.remedy()).collect()
    }
}

impl SlotCause {
    fn remedy(&self) -> Option<String> {
        let text = match self {
            Self::Starting => {
                "nodes are short beside the start of their programs: let one node do several points, or start something smaller"
            }
            Self::Fetching => {
                "much time goes into moving inputs: make outputs smaller where they are made, or gather less"
            }
            Self::Throttled => {
                "a CPU quota holds nodes back: use fewer slots (`-j`), or give the container or the batch job more CPUs"
            }
            Self::ShortOfMemory(job) => {
                return Some(format!(
                    "memory was short, and nodes of `{job}` took most: with `resources: {{memory: ...}}` no more of them run at once than fit"
                ));
            }
            Self::Useless => {
                "failures cost much: `dagrun show` names them, `dagrun log NODE` shows why"
            }
            Self::WaitingFor(job) => {
                return Some(format!(
                    "`{job}` has fewer nodes at a time than there are slots: split them, or let more go on beside it (`in_flight` of a study)"
                ));
            }
            _ => return None,
        };
        Some(text.into())
    }
}

/// Causes with less than this share of the whole are left out.
const LEAST: f64 = 0.000_5;

/// Finds the cause of every slot-second between the start of a run and its end.
///
/// A slot that runs an attempt is charged to the phase of it; one that idles is charged to what it waited for: the jobs that
/// ran alone meanwhile, or dagrun itself.
pub fn slot_time(state: &RunState) -> SlotTime {
    let there = state.slot_seconds();
    if there <= 0.0 || state.wall <= 0.0 {
        return SlotTime::default();
    }
    let mut causes = BTreeMap::new();
    work(state, &mut causes);
    let mut idle = BTreeMap::new();
    let deserted = Idle::new(state).charge(&mut idle);
    // The ends of short attempts are told together, so that a slot seems to idle and then to do several at once: idle is what is
    // left beside the work.
    let left = there - causes.values().sum::<f64>();
    let scale = (left / idle.values().sum::<f64>().max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
    causes.extend(
        idle.into_iter()
            .map(|(cause, seconds)| (cause, seconds * scale)),
    );
    let least = LEAST * there;
    let mut causes: Vec<(SlotCause, f64)> = causes
        .into_iter()
        .filter(|(_, seconds)| *seconds > least)
        .collect();
    causes.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    SlotTime {
        slots: there / state.wall,
        deserted,
        causes,
    }
}

type Causes = BTreeMap<SlotCause, f64>;

/// Charges what attempts did.
fn work(state: &RunState, causes: &mut Causes) {
    let (mut useful, mut throttled, mut useless) = (dagrun_model::Phases::default(), 0.0, 0.0);
    for attempt in &state.attempts {
        let Some(result) = &attempt.result else {
            continue;
        };
        let part = attempt.part_in_run();
        match result.outcome {
            AttemptOutcome::Succeeded => {
                add_part(&mut useful, &result.phases, part);
                // Threads that were held back at the same time count each, and a slot no more than once.
                throttled += result.pressure.throttled.min(result.phases.compute) * part;
            }
            _ => useless += result.phases.busy() * part,
        }
    }
    causes.extend([
        (SlotCause::Fetching, useful.fetch),
        (SlotCause::Starting, useful.start),
        (SlotCause::Reading, useful.decode),
        (SlotCause::Computing, useful.compute - throttled),
        (SlotCause::Throttled, throttled),
        (SlotCause::Writing, useful.encode),
        (SlotCause::Storing, useful.store),
        (SlotCause::Useless, useless),
    ]);
}

/// Something that changes what may run.
#[derive(Clone, Copy)]
enum Change {
    /// Slots come or go.
    Slots(f64),
    /// An attempt waits at its worker.
    Wait(i64),
    /// It could start but for the memory of its host.
    Hold(i64),
    /// Attempts of a job run.
    Run(usize, i64),
}

/// The time in which slots did nothing.
struct Idle<'s> {
    from: f64,
    to: f64,
    jobs: Vec<&'s str>,
    /// The job of the attempt that took most memory.
    largest: &'s str,
    changes: Vec<(f64, Change)>,
}

impl<'s> Idle<'s> {
    fn new(state: &'s RunState) -> Self {
        let mut idle = Self {
            from: state.started_at,
            to: state.started_at + state.wall,
            jobs: Vec::new(),
            largest: "",
            changes: Vec::new(),
        };
        let mut peak = 0;
        let mut at = FxHashMap::default();
        for bar in bars(state) {
            let attempt = &state.attempts[bar.attempt];
            let name = job_of(&state.nodes[attempt.node].id);
            let job = *at.entry(name).or_insert_with(|| {
                idle.jobs.push(name);
                idle.jobs.len() - 1
            });
            if let Some(result) = &attempt.result {
                if result.usage.peak_memory > peak {
                    (peak, idle.largest) = (result.usage.peak_memory, name);
                }
                if result.pressure.held > 0.0 {
                    let from = (bar.start - result.pressure.held).max(attempt.started);
                    let changes = [(from, Change::Hold(1)), (bar.start, Change::Hold(-1))];
                    idle.changes.extend(changes);
                }
            }
            idle.changes.extend([
                (attempt.started, Change::Wait(1)),
                (bar.start, Change::Wait(-1)),
                (bar.start, Change::Run(job, 1)),
                (bar.end, Change::Run(job, -1)),
            ]);
        }
        for worker in state.workers.values() {
            let (from, to) = state.presence(worker);
            let changes = [(from, worker.slots), (to, -worker.slots)];
            idle.changes
                .extend(changes.map(|(at, by)| (at, Change::Slots(by))));
        }
        idle.changes.sort_by(|a, b| a.0.total_cmp(&b.0));
        idle
    }

    /// Charges the idle time; gives the seconds in which there was no slot at all.
    fn charge(self, causes: &mut Causes) -> f64 {
        let attempts = self.changes.iter();
        let mut attempts = attempts.filter(|(_, change)| !matches!(change, Change::Slots(_)));
        let first = attempts.next().map_or(self.to, |(at, _)| *at);
        let last = attempts.next_back().map_or(self.from, |(at, _)| *at);
        let (mut slots, mut deserted) = (0.0_f64, 0.0);
        let mut at = self.from;
        let (mut waiting, mut held, mut running) = (0, 0, 0);
        let mut of_job: BTreeMap<usize, i64> = BTreeMap::new();
        let mut charge =
            |cause: SlotCause, seconds: f64| *causes.entry(cause).or_default() += seconds;
        let end = [(self.to, Change::Wait(0))];
        for (next, change) in self.changes.iter().chain(&end) {
            let seconds = (next.min(self.to) - at).max(0.0);
            let idle = (slots - running as f64).max(0.0) * seconds;
            if slots <= 0.0 {
                deserted += seconds;
            }
            if idle > 0.0 {
                if at < first {
                    charge(SlotCause::Planning, idle);
                } else if at >= last {
                    charge(SlotCause::Closing, idle);
                } else if held > 0 {
                    charge(SlotCause::ShortOfMemory(self.largest.to_owned()), idle);
                } else if waiting > 0 {
                    charge(SlotCause::HandingOver, idle);
                } else if running == 0 {
                    charge(SlotCause::Between, idle);
                } else {
                    for (job, n) in &of_job {
                        let share = *n as f64 / running as f64;
                        let cause = SlotCause::WaitingFor(self.jobs[*job].to_owned());
                        charge(cause, idle * share);
                    }
                }
            }
            at = at.max(*next);
            match change {
                Change::Slots(by) => slots += by,
                Change::Wait(by) => waiting += by,
                Change::Hold(by) => held += by,
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
        deserted
    }
}

#[cfg(test)]
mod tests {
    use dagrun_events::{NodeOutcome, RunEvent, RunStarted};
    use dagrun_model::{AttemptResult, FailureCause, Outcome, Phases, Pressure};

    use super::*;
    use crate::kit::{done, ended, fold, start};

    fn took(outcome: Outcome, phases: Phases) -> AttemptResult {
        AttemptResult {
            phases,
            ..AttemptResult::bare(outcome)
        }
    }

    fn started() -> (f64, RunEvent) {
        (0.0, RunEvent::RunStarted(Box::<RunStarted>::default()))
    }

    fn worker(worker: u32, slots: f64) -> RunEvent {
        RunEvent::WorkerJoined {
            worker,
            host: "h".into(),
            slots,
            memory: 0,
            process: format!("p{worker}"),
        }
    }

    /// The end of a run of ten seconds.
    fn over() -> RunEvent {
        RunEvent::RunEnded {
            exit_code: 0,
            counts: Default::default(),
            plan: None,
            wall: 10.0,
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
        fold([
            started(),
            (0.0, worker(0, 2.0)),
            (1.0, start("a", 1, None)),
            (1.0, start("b", 2, None)),
            (2.0, ended("b", 2, &took(failed, bad))),
            (2.0, done("b", NodeOutcome::Failed)),
            (
                6.0,
                ended("a", 1, &took(Outcome::Succeeded(Default::default()), good)),
            ),
            (6.0, done("a", NodeOutcome::Succeeded)),
            (10.0, over()),
        ])
    }

    #[test]
    fn every_second_of_every_slot_has_one_cause() {
        let found = slot_time(&run());
        let expected = [
            (SlotCause::Closing, 8.0),
            (SlotCause::WaitingFor("a".into()), 4.0),
            (SlotCause::Computing, 3.0),
            (SlotCause::Starting, 2.0),
            (SlotCause::Planning, 2.0),
            (SlotCause::Useless, 1.0),
        ];
        assert_eq!(found.causes, expected);
        let advice = found.advice();
        assert!(
            advice.len() == 1 && advice[0].starts_with("`a` has fewer nodes"),
            "{advice:?}"
        );
        assert_eq!(found.total(), 20.0);
    }

    /// What an attempt did before it was taken over was in a slot of the run before.
    #[test]
    fn of_what_was_taken_over_this_run_has_its_part() {
        let mut taken_over = start("a", 1, None);
        if let RunEvent::AttemptStarted { adopted, .. } = &mut taken_over {
            *adopted = Some("the run before".into());
        }
        let phases = Phases {
            start: 10.0,
            compute: 30.0,
            ..Phases::default()
        };
        let state = fold([
            started(),
            (0.0, worker(0, 1.0)),
            (0.0, taken_over),
            (
                8.0,
                ended(
                    "a",
                    1,
                    &took(Outcome::Succeeded(Default::default()), phases),
                ),
            ),
            (10.0, over()),
        ]);
        let expected = [
            (SlotCause::Computing, 6.0),
            (SlotCause::Starting, 2.0),
            (SlotCause::Closing, 2.0),
        ];
        assert_eq!(slot_time(&state).causes, expected);
        let figures = crate::statistics(&state);
        assert_eq!((figures.busy, figures.utilisation), (40.0, Some(0.8)));
    }

    #[test]
    fn what_hosts_lack_is_a_cause() {
        let took = |compute: f64, queue: f64, pressure: Pressure, peak_memory: u64| {
            let mut result = took(
                Outcome::Succeeded(Default::default()),
                Phases {
                    queue,
                    compute,
                    ..Phases::default()
                },
            );
            result.pressure = pressure;
            result.usage.peak_memory = peak_memory;
            result
        };
        let throttled = Pressure {
            throttled: 3.0,
            held: 0.0,
        };
        let held = Pressure {
            throttled: 0.0,
            held: 8.0,
        };
        let state = fold([
            started(),
            (0.0, worker(0, 2.0)),
            (0.0, start("large[i=1]", 1, None)),
            (0.0, start("small", 2, None)),
            (8.0, ended("large[i=1]", 1, &took(8.0, 0.0, throttled, 900))),
            (10.0, ended("small", 2, &took(2.0, 8.0, held, 100))),
            (10.0, over()),
        ]);
        let found = slot_time(&state);
        let expected = [
            (SlotCause::ShortOfMemory("large".into()), 8.0),
            (SlotCause::Computing, 7.0),
            (SlotCause::Throttled, 3.0),
            (SlotCause::WaitingFor("small".into()), 2.0),
        ];
        assert_eq!(found.causes, expected);
        let advice = found.advice();
        assert!(
            advice[0].contains("nodes of `large` took most"),
            "{advice:?}"
        );
    }

    #[test]
    fn short_attempts_that_are_told_together_take_no_more_than_there_is() {
        let one = took(
            Outcome::Succeeded(Default::default()),
            Phases {
                compute: 1.0,
                ..Phases::default()
            },
        );
        let mut events = vec![started(), (0.0, worker(0, 1.0))];
        events.extend((1..=8).map(|n| (0.0, start("a", n, None))));
        events.extend((1..=8).map(|n| (8.0, ended("a", n, &one))));
        events.push((10.0, over()));
        let found = slot_time(&fold(events));
        assert_eq!(found.total(), 10.0);
        assert_eq!(found.causes[0], (SlotCause::Computing, 8.0));
    }

    #[test]
    fn slots_that_are_not_there_yet_or_no_more_idle_for_nothing() {
        let lost = RunEvent::WorkerLost {
            worker: 1,
            reason: "gone".into(),
        };
        let work = Phases {
            compute: 6.0,
            ..Phases::default()
        };
        let state = fold([
            started(),
            (4.0, worker(0, 1.0)),
            (4.0, worker(1, 1.0)),
            (4.0, start("a", 1, None)),
            (5.0, lost),
            (
                10.0,
                ended("a", 1, &took(Outcome::Succeeded(Default::default()), work)),
            ),
            (10.0, over()),
        ]);
        let found = slot_time(&state);
        assert_eq!(found.deserted, 4.0);
        assert_eq!(
            found.heading(10.0),
            "0.7 slots in the mean for 10.0 s, of which 4.0 s without any worker"
        );
        assert_eq!(found.total(), 7.0, "{found:?}");
        let waiting = SlotCause::WaitingFor("a".into());
        assert_eq!(found.causes, [(SlotCause::Computing, 6.0), (waiting, 1.0)]);
    }

    #[test]
    fn nothing_ran_nothing_is_charged() {
        assert_eq!(slot_time(&RunState::default()), SlotTime::default());
    }
}
