//! Events and the exact actions that follow.

use super::*;
use crate::EndReason;

fn check(definition: Definition, story: &[(&str, &str)]) {
    let mut driver = Driver::new(definition);
    for (at, (event, expected)) in story.iter().enumerate() {
        let words: Vec<&str> = event.split(' ').collect();
        let number = |at: usize| words[at].parse().expect("a trial or value");
        let got = match words[0] {
            "slots" => driver.handle(StudyEvent::Slots {
                slots: words[1].parse().expect("slots"),
                nodes_per_trial: words[2].parse().expect("nodes"),
            }),
            "tell" => driver.tell(words[1].parse().expect("a trial"), Ok(number(2))),
            "fail" => driver.tell(words[1].parse().expect("a trial"), Err("no")),
            "infeasible" => {
                let end = end(Ok((number(2), 1.0)));
                let trial = words[1].parse().expect("a trial");
                driver.handle(StudyEvent::Ended { trial, end })
            }
            "wall" => driver.handle(StudyEvent::Wall),
            "stop" => driver.handle(StudyEvent::Stop),
            "restart" => driver.handle(StudyEvent::SamplerRestarted),
            "point" | "nonsense" => {
                let share = if words[0] == "point" { 0.5 } else { 7.0 };
                let values = Map::from_iter([
                    (Arc::from("beta"), Value::Float(0.1)),
                    (Arc::from("share"), Value::Float(share)),
                    (Arc::from("carriers"), Value::Int(3)),
                    (Arc::from("season"), Value::str("flat")),
                ]);
                let trial = words[1].parse().expect("a trial");
                driver.answer(trial, Answer::Point(values))
            }
            "used-up" => driver.answer(words[1].parse().expect("a trial"), Answer::UsedUp),
            other => panic!("no such event: {other}"),
        };
        assert_eq!(&got, expected, "event {at}: {event}");
    }
}

#[test]
fn async_asks_when_a_slot_frees() {
    let mut study = definition(Order::Async, 4);
    study.in_flight = Some(2);
    check(
        study,
        &[
            (
                "slots 2 1",
                "opened; asked 1 seen 0; start 1; asked 2 seen 0; start 2",
            ),
            ("tell 2 5", "told 2; asked 3 seen 1; start 3"),
            // Late, double and unknown ones are dropped.
            ("tell 2 1", ""),
            ("tell 9 1", ""),
            ("tell 0 1", ""),
            ("fail 3", "told 3; asked 4 seen 2; start 4; drain"),
            ("tell 1 3", "told 1"),
            (
                "tell 4 3",
                "told 4; ended: all trials are done; finish, best Some((1, 3.0))",
            ),
        ],
    );
}

#[test]
fn a_batch_waits_for_all_before_it() {
    let mut study = definition(Order::Batched(2), 5);
    study.in_flight = Some(8);
    check(
        study,
        &[
            (
                "slots 8 1",
                "opened; asked 1 seen 0; start 1; asked 2 seen 0; start 2",
            ),
            ("tell 2 5", "told 2"),
            (
                "tell 1 3",
                "told 1; asked 3 seen 2; start 3; asked 4 seen 2; start 4",
            ),
            ("tell 3 5", "told 3"),
            ("tell 4 5", "told 4; asked 5 seen 4; start 5; drain"),
            (
                "tell 5 9",
                "told 5; ended: all trials are done; finish, best Some((1, 3.0))",
            ),
        ],
    );
}

#[test]
fn a_batch_larger_than_in_flight_sees_nothing_of_itself() {
    let mut study = definition(Order::Batched(3), 4);
    study.in_flight = Some(2);
    check(
        study,
        &[
            (
                "slots 8 1",
                "opened; asked 1 seen 0; start 1; asked 2 seen 0; start 2",
            ),
            ("tell 2 5", "told 2; asked 3 seen 0; start 3"),
            ("tell 3 5", "told 3"),
            ("tell 1 5", "told 1; asked 4 seen 3; start 4; drain"),
        ],
    );
}

#[test]
fn lag_sees_a_prefix_and_no_more() {
    let mut study = definition(Order::Lag(2), 5);
    study.in_flight = Some(8);
    check(
        study,
        &[
            (
                "slots 8 1",
                "opened; asked 1 seen 0; start 1; asked 2 seen 0; start 2",
            ),
            ("tell 2 5", "told 2"),
            (
                "tell 1 3",
                "told 1; asked 3 seen 1; start 3; asked 4 seen 2; start 4",
            ),
            ("tell 4 2", "told 4"),
            ("fail 3", "told 3; asked 5 seen 3; start 5; drain"),
            (
                "tell 5 9",
                "told 5; ended: all trials are done; finish, best Some((4, 2.0))",
            ),
        ],
    );
}

#[test]
fn in_flight_follows_the_slots() {
    for (slots, nodes, expected) in [
        (20, 5, 7),
        (8, 1, 13),
        (1, 200, 2),
        (0, 1, 2),
        (4, 0, 7),
        (u32::MAX, 1, u32::MAX),
    ] {
        let mut study = definition(Order::Async, 1);
        study.in_flight = None;
        let mut driver = Driver::new(study);
        assert_eq!(driver.study.limit(), None);
        driver.handle(StudyEvent::Slots {
            slots,
            nodes_per_trial: nodes,
        });
        assert_eq!(driver.study.limit(), Some(expected), "{slots} {nodes}");
    }
    let mut driver = Driver::new(definition(Order::Async, 1));
    driver.slots();
    assert_eq!(driver.study.limit(), Some(4), "a written one stays");
}

#[test]
fn more_slots_ask_at_once_and_fewer_wait() {
    let mut study = definition(Order::Async, 9);
    study.in_flight = None;
    check(
        study,
        &[
            (
                "slots 1 2",
                "opened; asked 1 seen 0; start 1; asked 2 seen 0; start 2",
            ),
            ("slots 2 2", "asked 3 seen 0; start 3"),
            ("slots 1 2", ""),
            ("tell 1 1", "told 1"),
            ("tell 2 1", "told 2; asked 4 seen 2; start 4"),
        ],
    );
}

#[test]
fn rules_end_a_study() {
    let with = |change: fn(&mut Stop)| {
        let mut study = definition(Order::Async, 100);
        study.in_flight = Some(1);
        change(&mut study.stop);
        study
    };
    check(
        with(|stop| stop.target = Some(2.0)),
        &[
            ("slots 1 1", "opened; asked 1 seen 0; start 1"),
            ("infeasible 1 1", "told 1; asked 2 seen 1; start 2"),
            (
                "tell 2 2",
                "told 2; ended: the target of `stop` is reached; finish, best Some((2, 2.0))",
            ),
        ],
    );
    check(
        with(|stop| stop.no_gain = Some(2)),
        &[
            ("slots 1 1", "opened; asked 1 seen 0; start 1"),
            ("tell 1 5", "told 1; asked 2 seen 1; start 2"),
            ("tell 2 5", "told 2; asked 3 seen 2; start 3"),
            ("tell 3 4", "told 3; asked 4 seen 3; start 4"),
            ("fail 4", "told 4; asked 5 seen 4; start 5"),
            (
                "infeasible 5 1",
                "told 5; ended: no better trial for as long as `stop: no_gain` says; finish, best Some((3, 4.0))",
            ),
        ],
    );
    check(
        with(|stop| stop.failures = 2),
        &[
            ("slots 1 1", "opened; asked 1 seen 0; start 1"),
            ("fail 1", "told 1; asked 2 seen 1; start 2"),
            (
                "fail 2",
                "told 2; ended: 2 trials failed; `stop: failures` says how many may; finish, best None",
            ),
        ],
    );
}

#[test]
fn time_and_people_end_a_study_when_its_trials_have_ended() {
    let mut study = definition(Order::Async, 100);
    study.in_flight = Some(2);
    check(
        study.clone(),
        &[
            (
                "slots 1 1",
                "opened; asked 1 seen 0; start 1; asked 2 seen 0; start 2",
            ),
            ("wall", "drain"),
            ("tell 1 1", "told 1"),
            (
                "tell 2 3",
                "told 2; ended: the time of `stop: wall` is over; finish, best Some((1, 1.0))",
            ),
        ],
    );
    check(study, &[("stop", "finish, best None")]);
}

#[test]
fn failures_among_the_last_trials_count_too() {
    let mut study = definition(Order::Lag(2), 2);
    study.stop.failures = 2;
    let mut driver = Driver::new(study);
    driver.slots();
    driver.tell(1, Err("no"));
    driver.tell(2, Err("no"));
    let end = driver.end.expect("it has ended");
    assert_eq!(end.reason, EndReason::Failures { failed: 2 });
    assert!(!end.succeeded());
}

#[test]
fn a_rule_of_a_lagged_study_looks_at_what_its_asks_see() {
    // The target is met by trial 1, which ask 4 is the first to see.
    let mut study = definition(Order::Lag(3), 100);
    study.stop.target = Some(1.0);
    for first in [1, 2, 3] {
        let mut driver = Driver::new(study.clone());
        driver.slots();
        for trial in [first, first % 3 + 1, (first + 1) % 3 + 1] {
            driver.tell(trial, Ok(if trial == 1 { 0.5 } else { 5.0 }));
        }
        assert_eq!(driver.study.counts().asked, 3, "first {first}");
        assert_eq!(driver.end.map(|end| end.reason), Some(EndReason::Target));
    }
}

#[test]
fn what_is_not_finite_fails_with_its_reason() {
    for (value, violation, reason) in [
        (f64::NAN, 0.0, "`loss` is NaN, which is no finite number"),
        (
            f64::INFINITY,
            0.0,
            "`loss` is inf, which is no finite number",
        ),
        (1.0, f64::NAN, "a constraint is NaN"),
    ] {
        let mut driver = Driver::new(definition(Order::Async, 10));
        driver.slots();
        let end = end(Ok((value, violation)));
        driver.handle(StudyEvent::Ended { trial: 1, end });
        let row = driver.study.row(1).expect("it was asked");
        assert_eq!(row.reason, Some(reason));
        assert_eq!((row.values, driver.study.counts().failed), (None, 1));
    }
    let mut driver = Driver::new(definition(Order::Async, 10));
    driver.slots();
    let mut two = end(Ok((1.0, 0.0)));
    two.result = Ok(Scores {
        values: vec![1.0, 2.0],
        violation: 0.0,
    });
    driver.handle(StudyEvent::Ended { trial: 1, end: two });
    let row = driver.study.row(1).expect("it was asked");
    assert_eq!(row.reason, Some("2 values for 1 objectives"));
}

#[test]
fn feasible_beats_infeasible_and_the_first_of_equals_is_best() {
    let mut driver = Driver::new(definition(Order::Async, 10));
    driver.slots();
    let mut told = |trial: u64, value: f64, violation: f64| {
        let end = end(Ok((value, violation)));
        driver.handle(StudyEvent::Ended { trial, end });
        driver.study.best().map(|best| best.trial)
    };
    assert_eq!(told(2, 1.0, 1e-60), None, "ever so little broken is broken");
    assert_eq!(told(3, 5.0, 0.0), Some(3));
    assert_eq!(told(4, 2.0, 0.1), Some(3));
    assert_eq!(told(1, 5.0, -3.0), Some(1));
    assert_eq!(told(5, 4.0, 0.0), Some(5));
    assert_eq!(driver.study.counts().infeasible, 2);
}

#[test]
fn what_is_maximised_shows_as_written() {
    let mut study = definition(Order::Async, 10);
    study.objectives[0].direction = Direction::Maximize;
    study.stop.target = Some(9.0);
    study.in_flight = Some(1);
    check(
        study.clone(),
        &[
            ("slots 1 1", "opened; asked 1 seen 0; start 1"),
            ("tell 1 3", "told 1; asked 2 seen 1; start 2"),
            ("tell 2 2", "told 2; asked 3 seen 2; start 3"),
            (
                "tell 3 9.5",
                "told 3; ended: the target of `stop` is reached; finish, best Some((3, 9.5))",
            ),
        ],
    );
    let mut driver = Driver::new(study);
    driver.slots();
    driver.tell(1, Ok(3.0));
    assert_eq!(driver.study.history().get(0).values, Some(&[-3.0][..]));
    let row = driver.study.row(1).expect("it was asked");
    assert_eq!(row.values, Some(vec![3.0]));
    let best = driver.study.best_value();
    let best = best.as_map().expect("a map");
    assert_eq!(best["value"], Value::Float(3.0));
    assert_eq!(
        best["params"],
        Value::map(driver.study.values(1).expect("asked"))
    );
}

#[test]
fn the_front_holds_what_nothing_dominates() {
    type Case = (Vec<[f64; 3]>, usize, Vec<u64>);
    let cases: Vec<Case> = vec![
        (
            vec![
                [1.0, 5.0, 0.0],
                [2.0, 2.0, 0.0],
                [3.0, 3.0, 0.0],
                [5.0, 1.0, 0.0],
                [2.0, 2.0, 0.0],
                [1.0, 6.0, 0.0],
            ],
            2,
            vec![1, 2, 4, 5],
        ),
        (
            vec![
                [1.0, 5.0, 5.0],
                [2.0, 2.0, 9.0],
                [2.0, 3.0, 9.0],
                [5.0, 1.0, 9.0],
                [9.0, 9.0, 1.0],
            ],
            3,
            vec![1, 2, 4, 5],
        ),
    ];
    for (values, objectives, expected) in cases {
        let mut study = definition(Order::Async, 50);
        study.in_flight = Some(10);
        study.objectives = (0..objectives)
            .map(|at| Goal {
                name: format!("f{at}").into(),
                direction: Direction::Minimize,
            })
            .collect();
        let mut driver = Driver::new(study);
        driver.slots();
        for (values, trial) in values.iter().zip(1..) {
            let mut end = end(Ok((0.0, 0.0)));
            end.result = Ok(Scores {
                values: values[..objectives].to_vec(),
                violation: 0.0,
            });
            driver.handle(StudyEvent::Ended { trial, end });
        }
        let mut broken = end(Ok((0.0, 0.0)));
        broken.result = Ok(Scores {
            values: vec![0.0; objectives],
            violation: 1.0,
        });
        driver.handle(StudyEvent::Ended {
            trial: 10,
            end: broken,
        });
        assert_eq!(driver.study.front(), expected);
        assert_eq!(driver.study.best(), None);
        let front = driver.study.front_value();
        assert_eq!(front.as_list().map(<[Value]>::len), Some(expected.len()));
    }
}

#[test]
fn enqueued_points_come_first_and_what_they_leave_out_is_drawn() {
    let mut study = definition(Order::Lag(4), 4);
    study.enqueued = vec![
        vec![Some(0.5), Some(0.25), Some(3.0), Some(1.0)],
        vec![Some(0.75), None, None, None],
    ];
    let mut driver = Driver::new(study.clone());
    driver.slots();
    let rows: Vec<_> = driver.study.rows().map(|row| row.point.to_vec()).collect();
    assert_eq!(rows[0], [0.5, 0.25, 3.0, 1.0]);
    assert_eq!(rows[1][0], 0.75);
    assert!(rows[1].iter().all(|x| x.is_finite()));
    let sources: Vec<_> = driver.study.rows().map(|row| row.source).collect();
    use crate::Source::{Enqueued, Sampler};
    assert_eq!(sources, [Enqueued, Enqueued, Sampler, Sampler]);
    // A point that is added later is next.
    study.trials = 6;
    study.enqueued.push(vec![Some(0.9), None, None, None]);
    let mut later = Driver::resumed(study, &driver.log);
    later.study.handle(
        StudyEvent::Slots {
            slots: 1,
            nodes_per_trial: 1,
        },
        &mut Vec::new(),
    );
    for trial in 1..=4 {
        let mut actions = Vec::new();
        let end = end(Ok((1.0, 0.0)));
        later
            .study
            .handle(StudyEvent::Ended { trial, end }, &mut actions);
    }
    let row = later.study.row(5).expect("it was asked");
    assert_eq!((row.source, row.point[0]), (Enqueued, 0.9));
    let row = later.study.row(6).expect("it was asked");
    assert_eq!(row.source, Sampler);
}

fn outside(order: Order, trials: u64) -> Definition {
    let mut study = definition(order, trials);
    study.sampler = SamplerKind::Exec;
    study.in_flight = Some(3);
    study
}

#[test]
fn an_external_sampler_is_asked_one_at_a_time() {
    check(
        outside(Order::Async, 4),
        &[
            ("slots 1 1", "opened; ask 1 told 0..0 pending []"),
            (
                "point 1",
                "asked 1 seen 0; start 1; ask 2 told 0..0 pending [1]",
            ),
            // Another answer to the same ask is late.
            ("point 1", ""),
            ("tell 1 4", "told 1"),
            (
                "point 2",
                "asked 2 seen 0; start 2; ask 3 told 0..1 pending [2]",
            ),
            ("restart", "ask 3 told 0..1 pending [2]"),
            (
                "point 3",
                "asked 3 seen 1; start 3; ask 4 told 1..1 pending [2, 3]",
            ),
            ("used-up 4", "drain"),
            ("tell 2 4", "told 2"),
            (
                "tell 3 4",
                "told 3; ended: every point has been tried; finish, best Some((1, 4.0))",
            ),
        ],
    );
}

#[test]
fn an_external_sampler_sees_what_the_order_says() {
    check(
        outside(Order::Lag(2), 4),
        &[
            ("slots 1 1", "opened; ask 1 told 0..0 pending []"),
            (
                "point 1",
                "asked 1 seen 0; start 1; ask 2 told 0..0 pending [1]",
            ),
            ("tell 1 4", "told 1"),
            (
                "point 2",
                "asked 2 seen 0; start 2; ask 3 told 0..1 pending [2]",
            ),
            ("tell 2 4", "told 2"),
            (
                "point 3",
                "asked 3 seen 1; start 3; ask 4 told 1..2 pending [3]",
            ),
        ],
    );
}

#[test]
fn nonsense_of_an_external_sampler_ends_the_study() {
    check(
        outside(Order::Async, 4),
        &[
            ("slots 1 1", "opened; ask 1 told 0..0 pending []"),
            (
                "nonsense 1",
                "ended: the sampler failed: it proposed trial 1, but `share` cannot be 7.0: it is between 0.0 and 1.0; finish, best None",
            ),
        ],
    );
}

#[test]
fn an_external_sampler_that_repeats_itself_ends_a_small_space() {
    let mut study = outside(Order::Async, 100);
    study.space = Space {
        parameters: vec![parameter("n", Distribution::Int { low: 1, high: 2 })],
    };
    let mut driver = Driver::new(study);
    driver.slots();
    let point = |n: i64| Answer::Point(Map::from_iter([(Arc::from("n"), Value::Int(n))]));
    driver.answer(1, point(1));
    driver.answer(2, point(1));
    assert!(driver.study.row(2).is_some(), "one may be repeated");
    driver.answer(3, point(2));
    driver.tell(1, Ok(1.0));
    assert_eq!(driver.answer(4, point(2)), "drain");
    driver.tell(2, Ok(1.0));
    driver.tell(3, Ok(1.0));
    assert_eq!(driver.end.map(|end| end.reason), Some(EndReason::UsedUp));
}

#[test]
fn the_last_trials_are_told_outside_at_the_end() {
    let mut driver = Driver::new(outside(Order::Lag(2), 3));
    driver.slots();
    for trial in 1..=3 {
        let values = driver
            .study
            .definition()
            .space
            .values(&[0.1, 0.5, 3.0, 1.0]);
        driver.answer(trial, Answer::Point(values));
        driver.tell(trial, Ok(1.0));
    }
    let end = driver.end.expect("it has ended");
    assert_eq!(end.new_told, 1..3);
    assert_eq!(driver.study.history().len(), 3);
}

/// Five points and no more.
#[derive(Debug)]
struct Five;

impl Sampler for Five {
    fn ask(&mut self, _: &Space, ask: u64, _: &History, _: &[&[f64]]) -> Option<Vec<f64>> {
        (ask <= 5).then(|| vec![0.1, 0.5, ask as f64, 0.0])
    }
}

#[test]
fn a_design_that_is_used_up_ends_a_study() {
    for order in [Order::Async, Order::Lag(2)] {
        let mut study = definition(order, 100);
        study.enqueued = vec![vec![Some(0.2), Some(0.5), Some(9.0), Some(1.0)]];
        let mut driver = Driver::of(
            Study::with_maker(study, |_, _| Some(Box::new(Five))),
            Vec::new(),
        );
        driver.finish(&mut Chance(1));
        let points = driver.study.rows().map(|row| row.point[2]);
        assert_eq!(points.collect::<Vec<_>>(), [9.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(driver.end.map(|end| end.reason), Some(EndReason::UsedUp));
    }
}

#[test]
fn known_trials_do_not_cut_a_grid_short() {
    let mut study = definition(Order::Async, 5);
    study.sampler = SamplerKind::Grid;
    let mut former = Driver::new(study.clone());
    former.slots();
    former.tell(2, Ok(1.0));
    former.tell(1, Ok(2.0));
    let kept = Study::keep(study.clone(), &former.study).expect("it is the same study");
    let fresh = Study::with_maker(study, |_, _| Some(Box::new(Five)));
    let replayed = Study::replay_into(fresh, kept.records.clone()).expect("the log is whole");
    let mut driver = Driver::of(replayed, kept.records);
    driver.finish(&mut Chance(1));
    let points: Vec<f64> = driver.study.rows().map(|row| row.point[2]).collect();
    assert_eq!(points[2..], [1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(driver.end.map(|end| end.reason), Some(EndReason::Trials));
}
