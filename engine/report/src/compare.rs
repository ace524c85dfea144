//! Runs side by side, normalised by what they had: trials or nodes a slot-minute, beside what the same nodes would give if no
//! slot ever waited.

use std::collections::{BTreeMap, BTreeSet};

use dagrun_events::{AttemptOutcome, RunState};
use dagrun_model::format_seconds;
use serde_json::{Value, json};

use crate::{
    JobStatistics, Statistics, escape_line, job_of, plural, statistics,
    statistics::{hosts_json, hosts_of},
    table,
};

/// Parts of a run by which the spread of its rate is estimated.
const BATCHES: usize = 10;
/// The 97.5 % point of Student's t with `BATCHES - 1` degrees of freedom.
const T: f64 = 2.262;
/// Windows over which bursts are looked for.
const WINDOWS: usize = 50;
/// With fewer events a rate has no interval.
const LEAST: usize = 20;
/// Jobs that are named of a kind of difference.
const NAMED: usize = 5;

/// How fast a run was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Trials or nodes a slot-minute.
    pub value: f64,
    /// Half the width of its 95 % confidence interval; none where too little happened.
    pub half_width: Option<f64>,
}

/// A run in figures that can be compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// Its id.
    pub run: String,
    /// Its hosts, each with its slots.
    pub hosts: Vec<(String, f64)>,
    /// Its wall time in seconds.
    pub wall: f64,
    /// Whether trials are counted, else nodes that ran.
    pub trials: bool,
    /// How many there were.
    pub done: u64,
    /// How many a slot-minute.
    pub rate: Option<Rate>,
    /// How many a slot-minute there would be if no slot ever waited, at the seconds that attempts took.
    pub possible: Option<f64>,
    /// How much trials or nodes end in bursts: the variance of their number in fiftieths of the run over its mean (the index of
    /// dispersion). Far below 1 they end evenly, at 1 at random, far above in lock-step. None where too little happened.
    pub bursts: Option<f64>,
    /// The least wall time in seconds that these attempts allow on these slots: the greater of their work and their longest chain.
    pub bound: f64,
    /// The share of slot time in which nodes ran.
    pub utilisation: Option<f64>,
    /// The share of nodes that came from the cache.
    pub cached: f64,
    /// Its jobs.
    pub jobs: Vec<JobStatistics>,
}

/// The figures of a run.
pub fn figures(state: &RunState) -> Figures {
    let found = statistics(state);
    let slots = match state.wall > 0.0 {
        true => state.slot_seconds() / state.wall,
        false => 0.0,
    };
    let (trials, ends) = ends(state);
    let counts = &state.counts;
    let possible = found.busy > 0.0 && !ends.is_empty();
    Figures {
        run: state
            .started
            .as_ref()
            .map_or(String::new(), |it| it.run.clone()),
        hosts: hosts_of(state),
        wall: state.wall,
        trials,
        done: ends.len() as u64,
        rate: rate(state.started_at, state.wall, slots, &ends),
        bursts: bursts(state.started_at, state.wall, &ends),
        possible: possible.then(|| ends.len() as f64 * 60.0 / found.busy),
        bound: bound(&found, slots),
        utilisation: found.utilisation,
        cached: counts.cached as f64 / counts.total().max(1) as f64,
        jobs: found.jobs,
    }
}

/// When trials were told, or where there is no study, when nodes that ran had succeeded; sorted.
fn ends(state: &RunState) -> (bool, Vec<f64>) {
    let mut ends: Vec<f64> = match &state.study {
        Some(study) => study.rows.iter().filter_map(|row| row.ended).collect(),
        None => {
            let attempts = state.attempts.iter();
            let good = attempts.filter(|attempt| {
                let result = attempt.result.as_ref();
                result.is_some_and(|result| matches!(result.outcome, AttemptOutcome::Succeeded))
            });
            good.filter_map(|attempt| attempt.ended).collect()
        }
    };
    ends.sort_by(f64::total_cmp);
    (state.study.is_some(), ends)
}

/// The rate of events over a run, with its confidence interval by batch means (Law, Simulation Modeling and Analysis, 9.5.3):
/// the run is cut into ten parts of equal time, whose rates are nearly independent.
fn rate(from: f64, wall: f64, slots: f64, ends: &[f64]) -> Option<Rate> {
    let minutes = slots * wall / 60.0;
    if minutes <= 0.0 {
        return None;
    }
    let batches = windows::<BATCHES>(from, wall, ends).map(|n| n * BATCHES as f64 / minutes);
    let value = ends.len() as f64 / minutes;
    let squares: f64 = batches.iter().map(|rate| (rate - value).powi(2)).sum();
    let deviation = (squares / (BATCHES - 1) as f64).sqrt();
    Some(Rate {
        value,
        half_width: (ends.len() >= LEAST).then(|| T * deviation / (BATCHES as f64).sqrt()),
    })
}

fn bursts(from: f64, wall: f64, ends: &[f64]) -> Option<f64> {
    if wall <= 0.0 || ends.len() < LEAST {
        return None;
    }
    let counts = windows::<WINDOWS>(from, wall, ends);
    let mean = ends.len() as f64 / WINDOWS as f64;
    let squares: f64 = counts.iter().map(|count| (count - mean).powi(2)).sum();
    Some(squares / (WINDOWS - 1) as f64 / mean)
}

/// How many events fall into each of `N` equal parts of a run.
fn windows<const N: usize>(from: f64, wall: f64, ends: &[f64]) -> [f64; N] {
    let mut counts = [0.0; N];
    for end in ends {
        let part = (end - from) / wall * N as f64;
        counts[(part.max(0.0) as usize).min(N - 1)] += 1.0;
    }
    counts
}

fn bound(found: &Statistics, slots: f64) -> f64 {
    let work = if slots > 0.0 { found.busy / slots } else { 0.0 };
    let chain: f64 = found.critical_path.iter().map(|(_, seconds)| seconds).sum();
    work.max(chain)
}

/// Why figures of two runs should not be compared; empty where they are alike: the same pipeline, parameters, replicates and
/// jobs, and nodes of the same ids with the same keys. Hosts and slots may differ, for the figures are by slot.
pub fn unlike(a: &RunState, b: &RunState) -> Vec<String> {
    let mut reasons = Vec::new();
    let default = dagrun_events::RunStarted::default();
    let (x, y) = (
        a.started.as_ref().unwrap_or(&default),
        b.started.as_ref().unwrap_or(&default),
    );
    if x.pipeline != y.pipeline {
        reasons.push(format!(
            "the pipelines are `{}` and `{}`",
            x.pipeline, y.pipeline
        ));
        return reasons;
    }
    let params = |run: &dagrun_events::RunStarted| -> BTreeMap<String, Value> {
        run.params
            .iter()
            .map(|it| (it.name.clone(), it.value.clone()))
            .collect()
    };
    let (mine, theirs) = (params(x), params(y));
    let names: BTreeSet<&String> = mine.keys().chain(theirs.keys()).collect();
    let shown = |value: Option<&Value>| value.map_or("not there".into(), Value::to_string);
    for name in names {
        let (one, other) = (mine.get(name), theirs.get(name));
        if one != other {
            reasons.push(format!(
                "the parameter `{name}` is {} and {}",
                shown(one),
                shown(other)
            ));
        }
    }
    if let (Some(one), Some(other)) = (replicates(a), replicates(b))
        && one != other
    {
        reasons.push(format!("trials have {one} and {other} replicates"));
    }
    let jobs = |state: &RunState| -> BTreeSet<String> { state.jobs.iter().cloned().collect() };
    for job in jobs(a).symmetric_difference(&jobs(b)).take(NAMED) {
        reasons.push(format!("only one of them has the job `{job}`"));
    }
    for (job, n) in changed(a, b).into_iter().take(NAMED) {
        reasons.push(format!(
            "{n} nodes of `{job}` have other commands, code or data"
        ));
    }
    reasons
}

/// The usual number of replicates of a trial.
fn replicates(state: &RunState) -> Option<u32> {
    let study = state.study.as_ref()?;
    let told = study.rows.iter().filter(|row| row.ended.is_some());
    let mut counts: Vec<u32> = told.map(|row| row.replicates).collect();
    counts.sort_unstable();
    counts.get(counts.len() / 2).copied()
}

/// Nodes by job that ran in both under one id with different keys. Those of trials are not looked at: a trial of one number
/// may be another point.
fn changed<'s>(a: &'s RunState, b: &RunState) -> BTreeMap<&'s str, u64> {
    let mut jobs = BTreeMap::new();
    for node in a.nodes.iter().filter(|node| a.trial_of(node).is_none()) {
        let other = b.find(&node.id).and_then(|other| other.key);
        if let (Some(mine), Some(theirs)) = (node.key, other)
            && mine != theirs
        {
            *jobs.entry(job_of(&node.id)).or_default() += 1;
        }
    }
    jobs
}

/// Runs side by side as JSON: names that scripts depend on. The first is what the others are measured by.
pub fn comparison(runs: &[Figures]) -> Value {
    let run = |figures: &Figures| {
        json!({
            "run": figures.run,
            "hosts": hosts_json(&figures.hosts),
            "wall": figures.wall,
            "counted": if figures.trials { "trials" } else { "nodes" },
            "done": figures.done,
            "per_slot_minute": figures.rate.map(|rate| rate.value),
            "half_width": figures.rate.and_then(|rate| rate.half_width),
            "possible": figures.possible,
            "bursts": figures.bursts,
            "bound": figures.bound,
            "utilisation": figures.utilisation,
            "cached": figures.cached,
            "change": change(runs.first().and_then(value_of), value_of(figures)),
            "jobs": figures.jobs.iter().map(|job| json!({"name": job.name, "ran": job.attempts, "median": job.quantile(0.5), "p95": job.quantile(0.95)})).collect::<Vec<_>>(),
        })
    };
    json!({"runs": runs.iter().map(run).collect::<Vec<_>>()})
}

fn value_of(figures: &Figures) -> Option<f64> {
    figures.rate.map(|rate| rate.value)
}

/// `-0.13` for 13 % less.
fn change(from: Option<f64>, to: Option<f64>) -> Option<f64> {
    let from = from.filter(|from| *from > 0.0)?;
    Some(to? / from - 1.0)
}

/// Runs side by side as a table: a column for each, with what changed against the first.
pub fn comparison_text(runs: &[Figures]) -> String {
    let Some(first) = runs.first() else {
        return String::new();
    };
    let names = runs.iter().map(|it| format!(">{}", it.run));
    let header: Vec<String> = std::iter::once(String::new()).chain(names).collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let what = if first.trials { "trials" } else { "nodes" };
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: String, cell: &dyn Fn(&Figures) -> String| {
        let cells = runs.iter().map(cell);
        rows.push(std::iter::once(name).chain(cells).collect());
    };
    row("hosts".into(), &|it| hosts(&it.hosts));
    row("wall".into(), &|it| {
        with_change(it, first, |it| Some(it.wall), |it| format_seconds(it.wall))
    });
    row("  at least".into(), &|it| format_seconds(it.bound));
    row(what.into(), &|it| it.done.to_string());
    row("from the cache".into(), &|it| percent(it.cached));
    row(format!("{what} a slot-minute"), &|it| {
        with_change(it, first, value_of, rate_text)
    });
    row("  without any wait".into(), &|it| {
        it.possible.map_or("-".into(), short)
    });
    row("bursts (variance / mean)".into(), &|it| {
        it.bursts
            .map_or("-".into(), |bursts| format!("{bursts:.1}"))
    });
    row("slots busy".into(), &|it| {
        it.utilisation.map_or("-".into(), percent)
    });
    for job in jobs(runs) {
        let median = |it: &Figures| median(it, job);
        row(format!("median of {}", escape_line(job)), &|it| {
            with_change(it, first, median, |it| {
                median(it).map_or("-".into(), format_seconds)
            })
        });
    }
    table(&header, &rows)
}

fn hosts(hosts: &[(String, f64)]) -> String {
    let slots: f64 = hosts.iter().map(|(_, slots)| slots).sum();
    let slots = match slots.fract() == 0.0 {
        true => plural(slots as u64, "slot"),
        false => format!("{slots} slots"),
    };
    match hosts {
        [(host, _)] => format!("{}, {slots}", escape_line(host)),
        _ => format!("{} with {slots}", hosts.len()),
    }
}

/// All jobs of which something ran, in the order of the first run that has them.
fn jobs(runs: &[Figures]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for job in runs.iter().flat_map(|it| &it.jobs) {
        if job.attempts > 0 && !names.contains(&job.name.as_str()) {
            names.push(&job.name);
        }
    }
    names
}

fn median(figures: &Figures, job: &str) -> Option<f64> {
    let job = figures.jobs.iter().find(|it| it.name == job)?;
    job.quantile(0.5)
}

fn with_change(
    it: &Figures,
    first: &Figures,
    value: impl Fn(&Figures) -> Option<f64>,
    text: impl Fn(&Figures) -> String,
) -> String {
    match change(value(first), value(it)) {
        Some(change) if !std::ptr::eq(it, first) => {
            format!("{} ({:+.0} %)", text(it), change * 100.0)
        }
        _ => text(it),
    }
}

fn rate_text(figures: &Figures) -> String {
    match figures.rate {
        None => "-".into(),
        Some(Rate {
            value,
            half_width: None,
        }) => short(value),
        Some(Rate {
            value,
            half_width: Some(half),
        }) => format!("{} ± {}", short(value), short(half)),
    }
}

/// Three digits after the point, or as many as matter.
fn short(value: f64) -> String {
    match value.abs() {
        ..10.0 => format!("{value:.3}"),
        ..1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use dagrun_events::{RunEvent, RunStarted};
    use dagrun_model::{AttemptResult, Outcome, Phases};

    use super::*;
    use crate::kit::{ended, fold, start};

    /// A study: trials that end evenly over `wall` seconds on `slots`, each with seven nodes of a third of 100 s.
    fn study(slots: f64, trials: u64, wall: f64, replicates: u32) -> RunState {
        let started = RunStarted {
            pipeline: "fit".into(),
            run: format!("s{slots}"),
            ..RunStarted::default()
        };
        let mut events = vec![
            (0.0, RunEvent::RunStarted(Box::new(started))),
            (
                0.0,
                RunEvent::WorkerJoined {
                    worker: 0,
                    host: "h".into(),
                    slots,
                    memory: 0,
                    process: String::new(),
                },
            ),
            (
                0.0,
                RunEvent::StudyOpened {
                    study: "fit".into(),
                    trials,
                    told: 0,
                    objectives: vec!["loss".into()],
                },
            ),
        ];
        let phases = Phases {
            compute: 100.0 / 3.0,
            ..Phases::default()
        };
        let result = AttemptResult {
            phases,
            ..AttemptResult::bare(Outcome::Succeeded(Default::default()))
        };
        for trial in 1..=trials {
            let at = wall * trial as f64 / trials as f64;
            events.push((
                at,
                RunEvent::TrialStarted {
                    trial,
                    params: json!({}),
                },
            ));
            for n in 0..7 {
                let node = format!("simulate[trial={trial},replicate={n}]");
                events.push((at, start(&node, trial * 7 + n, None)));
                events.push((at, ended(&node, trial * 7 + n, &result)));
            }
            let told = RunEvent::TrialEnded {
                trial,
                values: vec![1.0],
                reason: None,
                seconds: 1.0,
                replicates,
                nodes: 7,
                hits: 0,
                naive: 12,
                best: None,
            };
            events.push((at, told));
        }
        events.push((
            wall,
            RunEvent::RunEnded {
                exit_code: 0,
                counts: Default::default(),
                plan: None,
                wall,
            },
        ));
        fold(events)
    }

    #[test]
    fn one_slot_is_one_slot() {
        let of = |slots: &[f64]| {
            let rows: Vec<(String, f64)> = slots.iter().map(|n| ("h".into(), *n)).collect();
            hosts(&rows)
        };
        assert_eq!(of(&[1.0]), "h, 1 slot");
        assert_eq!(of(&[2.0]), "h, 2 slots");
        assert_eq!(of(&[2.0, 1.0]), "2 with 3 slots");
    }

    #[test]
    fn efficiency_is_by_slot_and_beside_what_was_possible() {
        let runs = [study(20.0, 30, 600.0, 5), study(8.0, 21, 1202.0, 5)].map(|it| figures(&it));
        let text = comparison_text(&runs);
        for part in [
            "\ntrials a slot-minute ",
            "0.150 ± ",
            "0.131 ± ",
            "(-13 %)",
            "without any wait",
            "0.257  ",
            "58 %",
            "51 %",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        let json = comparison(&runs);
        assert_eq!(json["runs"][0]["counted"], "trials");
        assert!(json["runs"][1]["change"].as_f64().unwrap() < -0.12);
        for run in &runs {
            assert!(run.wall >= run.bound, "{run:?}");
        }
    }

    #[test]
    fn lock_step_is_told_from_an_even_flow() {
        let even: Vec<f64> = (0..200).map(|n| f64::from(n) * 0.5).collect();
        let steps: Vec<f64> = (0..200).map(|n| f64::from(n / 20) * 10.0).collect();
        assert!(bursts(0.0, 100.0, &even).unwrap() < 0.1);
        assert!(bursts(0.0, 100.0, &steps).unwrap() > 10.0);
        assert_eq!(bursts(0.0, 100.0, &even[..5]), None);
    }

    #[test]
    fn what_is_unlike_is_said() {
        let (five, ten) = (study(8.0, 20, 100.0, 5), study(8.0, 20, 100.0, 10));
        assert_eq!(unlike(&five, &ten), ["trials have 5 and 10 replicates"]);
        assert_eq!(unlike(&five, &study(20.0, 30, 600.0, 5)), [""; 0]);
    }

    /// Eight slots whose nodes take exponential times: the interval must hold the true rate about as often as it says.
    #[test]
    fn the_interval_holds_the_true_rate() {
        let (slots, mean, wall) = (8, 10.0, 2000.0);
        let truth = 60.0 / mean;
        let mut state = 7_u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
        };
        let rounds = 400;
        let held = (0..rounds)
            .filter(|_| {
                let mut ends = Vec::new();
                for _ in 0..slots {
                    let mut at = 0.0;
                    loop {
                        at -= mean * f64::ln(uniform());
                        if at > wall {
                            break;
                        }
                        ends.push(at);
                    }
                }
                let rate = rate(0.0, wall, f64::from(slots), &ends).unwrap();
                (rate.value - truth).abs() <= rate.half_width.unwrap()
            })
            .count();
        let share = held as f64 / f64::from(rounds);
        assert!((0.91..=0.985).contains(&share), "{share}");
    }
}
