//! Logs: what is kept, what is refused, what is taken over, what is told again; and how much memory it takes.

use super::*;
use crate::{FORMAT, ReplayError, Source, TrialState};

fn finished(definition: &Definition) -> Driver {
    let mut driver = Driver::new(definition.clone());
    driver.finish(&mut Chance(3));
    driver
}

fn replay(definition: Definition, log: Vec<StudyRecord>) -> Result<Study, ReplayError> {
    Study::replay_into(Study::with_maker(definition, mixer), log)
}

#[test]
fn records_survive_text_and_binary() {
    let mut study = definition(Order::Lag(3), 20);
    study.space.parameters[1].digits = Some(3);
    let mut log = finished(&study).log;
    log.push(StudyRecord::Used { wall: 12.5 });
    log.push(StudyRecord::Rescored {
        objective: Digest::of(b"other"),
    });
    log.push(StudyRecord::Asked {
        trial: 21,
        source: Source::Enqueued,
        point: vec![0.1 + 0.2, f64::NAN, f64::INFINITY, -0.0],
        seen: 3,
    });
    for record in &log {
        let text = serde_json::to_string(record).expect("records are JSON");
        let back: StudyRecord = serde_json::from_str(&text).expect("it reads back");
        // NaN is not equal to itself; its text is.
        assert_eq!(format!("{back:?}"), format!("{record:?}"));
        let bytes = postcard::to_allocvec(record).expect("records are postcard");
        let back: StudyRecord = postcard::from_bytes(&bytes).expect("it reads back");
        assert_eq!(format!("{back:?}"), format!("{record:?}"));
    }
}

#[test]
fn what_was_defined_otherwise_is_refused_with_what_changed() {
    let log = finished(&definition(Order::Lag(3), 8)).log;
    let changed = |change: fn(&mut Definition)| {
        let mut study = definition(Order::Lag(3), 8);
        change(&mut study);
        replay(study, log.clone())
            .map(|_| ())
            .map_err(|it| it.to_string())
    };
    assert_eq!(
        changed(|it| {
            it.trials = 9;
            it.in_flight = None;
            it.stop.no_gain = Some(7);
        }),
        Ok(())
    );
    type Case = (fn(&mut Definition), &'static str);
    let cases: [Case; 7] = [
        (
            |it| it.space.parameters[0].name = "gamma".into(),
            "parameter `gamma` is new; parameter `beta` is gone",
        ),
        (
            |it| it.space.parameters[2].distribution = Distribution::Int { low: 0, high: 30 },
            "parameter `carriers` was int [0, 20], is int [0, 30]",
        ),
        (
            |it| it.space.parameters[1].digits = Some(4),
            "parameter `share` was uniform [0, 1], is uniform [0, 1] with 4 digits",
        ),
        (
            |it| it.space.parameters.swap(0, 1),
            "the parameters stand in another order",
        ),
        (
            |it| it.sampler = SamplerKind::Tpe,
            "the sampler was random, is tpe",
        ),
        (
            |it| it.order = Order::Async,
            "the order was lag: 3, is async",
        ),
        (
            |it| it.objectives[0].direction = Direction::Maximize,
            "what is sought was minimize loss, is maximize loss",
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(
            changed(change),
            Err(format!("the study has changed: {expected}"))
        );
    }
}

#[test]
fn where_an_interpreter_stands_does_not_identify_a_study() {
    let with = |name: &str, value: &str| {
        let mut study = definition(Order::Async, 3);
        study.sampler = SamplerKind::Optuna;
        study.options.insert(name.into(), Value::str(value));
        study.identity()
    };
    assert_eq!(
        with("python", "/usr/bin/python3"),
        with("python", "python3")
    );
    assert_ne!(with("sampler", "TPESampler"), with("sampler", "GPSampler"));
}

#[test]
fn broken_logs_are_refused() {
    let study = definition(Order::Lag(3), 8);
    let log = finished(&study).log;
    let position =
        |wanted: fn(&StudyRecord) -> bool| log.iter().position(wanted).expect("the log has one");
    let told = position(|it| matches!(it, StudyRecord::Told { .. }));
    let fourth = position(|it| matches!(it, StudyRecord::Asked { trial: 4, .. }));
    type Spoil = Box<dyn Fn(&mut Vec<StudyRecord>)>;
    let cases: Vec<(Spoil, String)> = vec![
        (
            Box::new(|log| drop(log.remove(0))),
            "record 1 of the study's log is out of place: a log begins with how the study was opened".into(),
        ),
        (
            Box::new(|log| log.insert(1, log[0].clone())),
            "record 2 of the study's log is out of place: the study was opened before".into(),
        ),
        (
            Box::new(move |log| log.insert(told, log[told].clone())),
            format!("record {} of the study's log is out of place: trial", told + 2),
        ),
        (
            Box::new(move |log| drop(log.remove(fourth))),
            "of the study's log is out of place: trial".into(),
        ),
        (
            Box::new(move |log| drop(log.remove(told))),
            "asked for before what its ask had to see was told".into(),
        ),
        (
            Box::new(|log| {
                if let StudyRecord::Opened { format, .. } = &mut log[0] {
                    *format = FORMAT + 1;
                }
            }),
            "the study's log has format 2".into(),
        ),
        (
            Box::new(move |log| {
                if let StudyRecord::Asked { point, .. } = &mut log[fourth] {
                    point[1] = f64::from_bits(point[1].to_bits() ^ 1);
                }
            }),
            "trial 4 was asked for under another point".into(),
        ),
        (
            Box::new(move |log| {
                if let StudyRecord::Asked { point, .. } = &mut log[fourth] {
                    point[3] = 7.0;
                }
            }),
            "the point of trial 4 is not of the space".into(),
        ),
        (
            Box::new(move |log| {
                if let StudyRecord::Asked { point, .. } = &mut log[fourth] {
                    point.pop();
                }
            }),
            "the point of trial 4 is not of the space".into(),
        ),
    ];
    for (spoil, expected) in cases {
        let mut spoilt = log.clone();
        spoil(&mut spoilt);
        let error = replay(study.clone(), spoilt).expect_err("it is broken");
        assert!(error.to_string().contains(&expected), "{error}");
    }
}

#[test]
fn a_log_can_be_read_without_the_pipeline() {
    for order in [Order::Lag(3), Order::Async] {
        let mut study = definition(order, 12);
        study.objectives[0].direction = Direction::Maximize;
        study.space.parameters.push(parameter(
            "step",
            Distribution::Steps {
                low: 0.0,
                step: 5.0,
                count: 4,
                whole: true,
            },
        ));
        let driver = finished(&study);
        let read = Study::read(driver.log.clone()).expect("the log is whole");
        assert_eq!(picture(&read), picture(&driver.study));
        assert_eq!(read.values(3), driver.study.values(3));
        assert_eq!(read.definition().text().space, study.text().space);
    }
    assert!(Study::read(Vec::new()).is_err());
}

#[test]
fn rescoring_tells_every_trial_again() {
    for order in [Order::Async, Order::Lag(4), Order::Batched(5)] {
        let mut study = definition(order, 12);
        study.stop.failures = 100;
        let first = finished(&study);
        let mut again = Driver::resumed(study.clone(), &first.log);
        let objective = Digest::of(b"squares");
        let words = again.handle(StudyEvent::Rescore { objective });
        assert!(words.starts_with("Rescored"), "{words}");
        assert_eq!(again.study.counts().told, 0);
        assert_eq!(again.study.best(), None);
        assert_eq!(again.points(), first.points());
        // Nothing starts by itself, and the study may be killed in between.
        for trial in (1..=12).rev() {
            assert_eq!(again.tell(trial, Ok(trial as f64)), format!("told {trial}"));
            let log = again.log.clone();
            let replayed = replay(study.clone(), log).expect("the log is whole");
            assert_eq!(picture(&replayed), picture(&again.study));
        }
        assert_eq!(again.study.best().map(|best| best.trial), Some(1));
        assert_eq!(again.study.objective(), Some(objective));
        // More trials see all of it.
        study.trials = 15;
        let mut more = Driver::resumed(study.clone(), &again.log);
        more.finish(&mut Chance(5));
        assert_eq!(more.study.counts().told, 15);
        let row = more.study.row(13).expect("it was asked");
        assert_eq!(row.seen, 12);
        Driver::resumed(study, &more.log);
    }
}

#[test]
fn rescoring_adds_to_what_a_trial_cost() {
    let study = definition(Order::Lag(2), 4);
    let first = finished(&study);
    let mut again = Driver::resumed(study.clone(), &first.log);
    let objective = Digest::of(b"squares");
    again.handle(StudyEvent::Rescore { objective });
    // One is scored anew, one is what it was, and the rest is cut off and told later.
    again.handle(StudyEvent::Ended {
        trial: 1,
        end: TrialEnd {
            seconds: 0.25,
            hits: 5,
            ..end(Ok((1.0, 0.0)))
        },
    });
    again.handle(StudyEvent::Ended {
        trial: 2,
        end: TrialEnd {
            seconds: 0.0,
            hits: 6,
            nodes: 6,
            ..end(Ok((2.0, 0.0)))
        },
    });
    let cost = |study: &Study, trial| {
        let row = study.row(trial).expect("it was asked");
        (row.seconds, row.nodes, row.hits)
    };
    let replayed = replay(study, again.log.clone()).expect("the log is whole");
    for study in [&again.study, &replayed] {
        assert_eq!(cost(study, 1), (1.75, 7, 2));
        assert_eq!(cost(study, 2), (1.5, 6, 2));
        assert_eq!(cost(study, 3), (1.5, 7, 2));
        let counts = study.counts();
        assert_eq!((counts.told, counts.nodes, counts.hits), (2, 13, 4));
        assert_eq!(counts.seconds, 3.25);
    }
}

#[test]
fn why_a_trial_had_failed_is_known_until_it_is_told_again() {
    let study = definition(Order::Lag(2), 2);
    let mut first = Driver::new(study.clone());
    first.slots();
    first.handle(StudyEvent::Ended {
        trial: 1,
        end: end(Err("exit code 3")),
    });
    let failure = first.study.end_of(1).expect("it was told");
    assert_eq!(failure.result, Err("exit code 3".to_owned()));
    assert_eq!(first.study.end_of(2), None);
    let objective = Digest::of(b"squares");
    first.handle(StudyEvent::Rescore { objective });
    let row = first.study.row(1).expect("it was asked");
    assert_eq!((row.state, row.reason), (TrialState::Asked, None));
    let failed = first.study.end_of(1).map(|end| end.result);
    assert_eq!(failed, Some(Err("exit code 3".to_owned())));
    first.tell(1, Ok(1.0));
    let row = first.study.row(1).expect("it was asked");
    assert_eq!((row.state, row.reason), (TrialState::Complete, None));
    assert!(first.study.end_of(1).is_some_and(|end| end.result.is_ok()));
}

#[test]
fn a_rescoring_that_was_cut_off_is_finished_by_the_next_run() {
    let study = definition(Order::Lag(2), 6);
    let first = finished(&study);
    let mut again = Driver::resumed(study.clone(), &first.log);
    let objective = Digest::of(b"squares");
    again.handle(StudyEvent::Rescore { objective });
    again.tell(2, Ok(2.0));
    let mut run = Driver::resumed(study, &again.log);
    assert_eq!(run.slots(), "start 1; start 3; start 4; start 5");
    run.finish(&mut Chance(9));
    assert_eq!(run.study.counts().told, 6);
}

#[test]
fn what_is_kept_counts_and_is_seen() {
    let mut old = definition(Order::Lag(3), 10);
    old.stop.failures = 100;
    let mut former = Driver::new(old);
    former.slots();
    while former.study.counts().told < 7 {
        let trial = *former.live.keys().next().expect("some are live");
        former.run(trial);
    }
    let mut new = definition(Order::Lag(4), 12);
    new.stop.failures = 100;
    new.space.parameters[2].distribution = Distribution::Int { low: 0, high: 10 };
    let read = Study::read(former.log.clone()).expect("the log is whole");
    let kept = Study::keep(new.clone(), &read).expect("the objectives are the same");
    let fits = |row: &crate::TrialRow<'_>| row.point[2] <= 10.0;
    let expected: Vec<Vec<f64>> = former
        .study
        .rows()
        .filter(|row| row.state != TrialState::Asked && fits(row))
        .map(|row| row.point.to_vec())
        .collect();
    assert_eq!(kept.dropped.len() + expected.len(), 7);
    assert!((1..7).contains(&expected.len()), "some fit and some do not");
    let rows: Vec<Vec<f64>> = kept.study.rows().map(|row| row.point.to_vec()).collect();
    assert_eq!(rows, expected);
    let mut driver = Driver::resumed(new.clone(), &kept.records);
    assert_eq!(picture(&driver.study), picture(&kept.study));
    driver.finish(&mut Chance(4));
    assert_eq!(driver.study.counts().told, 12);
    let next = driver.study.row(expected.len() as u64 + 1);
    assert_eq!(next.map(|row| row.seen as usize), Some(expected.len()));
    let again = Driver::resumed(new.clone(), &driver.log);
    assert_eq!(again.points(), driver.points());

    new.objectives[0].name = "other".into();
    let refused = Study::keep(new, &read).expect_err("it seeks something else");
    assert!(refused.starts_with("the former study sought loss, this one seeks other"));
}

#[test]
fn used_time_is_what_was_said_last() {
    let study = definition(Order::Async, 3);
    let mut log = finished(&study).log;
    log.push(StudyRecord::Used { wall: 3.5 });
    log.push(StudyRecord::Used { wall: 5.25 });
    let study = replay(study, log).expect("the log is whole");
    assert!((study.wall() - 5.25).abs() < 1e-9);
}

#[test]
fn the_pace_is_of_trials_that_ended_within_the_used_time() {
    let mut study = definition(Order::Async, 8);
    study.in_flight = Some(1);
    let log = finished(&study).log;
    let told = |log: &[StudyRecord]| {
        let is_told = |it: &&StudyRecord| matches!(it, StudyRecord::Told { .. });
        log.iter().filter(is_told).count() as u64
    };
    // Killed after its time was last said: what was told later is not of that time.
    let third = log
        .iter()
        .position(|it| matches!(it, StudyRecord::Told { trial: 3, .. }))
        .expect("it was told");
    let mut killed = log.clone();
    killed.insert(third + 1, StudyRecord::Used { wall: 6.0 });
    let killed = replay(study.clone(), killed).expect("the log is whole");
    assert_eq!((told(&log), killed.told_in_wall()), (8, 3));

    // Trials of a former study took no time of this one.
    let kept = Study::keep(study.clone(), &killed).expect("it seeks the same");
    let mut log = kept.records;
    log.push(StudyRecord::Used { wall: 1.0 });
    let kept = replay(study, log).expect("the log is whole");
    assert_eq!((kept.counts().told, kept.told_in_wall()), (8, 0));
}

#[test]
fn reasons_are_kept_once_and_not_without_bound() {
    let mut study = definition(Order::Async, 6000);
    study.in_flight = Some(1);
    study.stop.failures = 10_000;
    let mut machine = Study::new(study);
    let mut actions = Vec::new();
    machine.handle(
        StudyEvent::Slots {
            slots: 1,
            nodes_per_trial: 1,
        },
        &mut actions,
    );
    for trial in 1..=5000_u64 {
        let end = end(Err(&format!("{trial}: {}", "ü".repeat(400))));
        machine.handle(StudyEvent::Ended { trial, end }, &mut actions);
    }
    let reason = |trial| {
        let row = machine.row(trial).expect("it was asked");
        row.reason.map(str::len)
    };
    assert!(reason(1).is_some_and(|len| (200..=300).contains(&len)));
    assert!(reason(5000).is_some_and(|len| len < 100));
}

#[test]
fn a_finished_trial_takes_at_most_200_bytes() {
    let mut study = definition(Order::Lag(16), 40_000);
    study.stop.failures = u64::MAX;
    let fifth = parameter(
        "fifth",
        Distribution::Beta {
            alpha: 2.0,
            beta: 2.0,
        },
    );
    study.space.parameters[0] = parameter("first", Distribution::Int { low: 0, high: 9 });
    study.space.parameters.push(fifth);
    let mut machine = Study::new(study);
    let mut actions = Vec::new();
    machine.handle(
        StudyEvent::Slots {
            slots: 4,
            nodes_per_trial: 1,
        },
        &mut actions,
    );
    let mut most = 0;
    for trial in 1..=40_000 {
        actions.clear();
        let result = if trial % 10 == 0 {
            Err("no")
        } else {
            Ok((1.0, 0.0))
        };
        let end = end(result);
        machine.handle(StudyEvent::Ended { trial, end }, &mut actions);
        // Growing by steps, the worst is right after one.
        if trial > 1000 {
            most = most.max(machine.bytes() / trial as usize);
        }
    }
    assert!(machine.is_finished());
    assert!((100..=200).contains(&most), "{most} bytes a trial");
}

/// Targets have a column each, keep their values over a log and a new study, and go with the objectives they belong to.
#[test]
fn targets_are_kept_by_name() {
    let study = definition(Order::Lag(2), 6);
    let log = finished(&study).log;
    let mut again = replay(study.clone(), log).expect("it is the same study");
    let names: Vec<_> = again.targets().map(ToString::to_string).collect();
    assert_eq!(names, ["a.loss", "b.loss"]);
    let expected = vec![Some(0.25), Some(f64::INFINITY)];
    assert!(again.rows().all(|row| row.targets == expected));

    let kept = Study::keep(study, &again).expect("the objectives are the same");
    assert!(kept.study.rows().all(|row| row.targets == expected));

    again.handle(
        StudyEvent::Rescore {
            objective: Digest::of(b"other"),
        },
        &mut Vec::new(),
    );
    assert_eq!(again.targets().count(), 0);
    let mut one = end(Ok((1.0, 0.0)));
    one.targets = vec![("c.loss".into(), f64::NAN)];
    let event = StudyEvent::Ended { trial: 5, end: one };
    again.handle(event, &mut Vec::new());
    let row = again.row(5).expect("it was told");
    assert!(row.targets[0].is_some_and(f64::is_nan), "{row:?}");
    assert_eq!(again.row(4).expect("it waits").targets, [None]);
}

#[test]
fn more_targets_than_a_table_holds_are_left_out() {
    let study = definition(Order::Async, 1);
    let mut log = finished(&study).log;
    for record in &mut log {
        if let StudyRecord::Told { end, .. } = record {
            end.targets = (0..100).map(|at| (format!("t{at}").into(), 1.0)).collect();
        }
    }
    let again = replay(study, log).expect("it is the same study");
    assert_eq!(again.targets().count(), crate::TARGETS);
}
