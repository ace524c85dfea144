//! Runs that go on with attempts that former drivers started.

use dagrun_events::{AttemptOutcome, RunEvent};
use dagrun_model::AttemptId;

use super::kit::{Bench, Does, TestPlan};
use crate::RunSummary;

/// Two nodes that need nothing: `a`, whose first attempt is under way when its driver dies, and `b`, which was not begun.
fn plan() -> TestPlan {
    let mut plan = TestPlan::new();
    plan.node("a", "make a", &[]);
    plan.node("b", "make b", &[]);
    plan
}

/// A run of which the journal ends with the start of `a`, on a worker that outlives it.
fn cut_off(bench: &Bench) -> RunSummary {
    bench.process("p");
    for node in ["a", "b"] {
        // Nothing is in the cache then.
        bench.does(node, Does::Exit(1));
    }
    let first = bench.run(&plan());
    cut_at_start_of_a(bench, &first);
    bench.clear_log();
    first
}

fn cut_at_start_of_a(bench: &Bench, run: &RunSummary) {
    bench.cut_journal(
        run,
        |event, _| matches!(event, RunEvent::AttemptStarted { node, .. } if node == "a"),
    );
}

#[test]
fn what_still_runs_is_taken_over_and_not_started_again() {
    let bench = Bench::new();
    let first = cut_off(&bench);
    bench.holds(&first, "a", true);
    let second = bench.run(&plan());
    assert_eq!(second.exit_code, 0, "{second:?}");
    assert_eq!(bench.log(), ["b"]);
    assert_eq!(bench.decided(), (vec![AttemptId(1)], vec![]));
    // Whoever reads the journal finds a start and an end of it.
    let state = bench.fold(&second);
    let a = state.last_attempt(state.find("a").unwrap()).unwrap();
    assert_eq!(a.adopted.as_deref(), Some(first.run.0.as_str()));
    assert_eq!((state.executed, second.executed), (1, 1));
    // It is in the cache like any result.
    let third = bench.run_without_executor(&plan());
    assert_eq!(third.counts.cached, 2);
}

#[test]
fn what_had_not_begun_is_given_back() {
    let bench = Bench::new();
    let first = cut_off(&bench);
    bench.holds(&first, "a", false);
    let second = bench.run(&plan());
    assert_eq!(second.exit_code, 0, "{second:?}");
    assert_eq!(bench.log(), ["b", "a"]);
    assert_eq!(bench.decided(), (vec![], vec![AttemptId(1)]));
}

#[test]
fn an_attempt_of_another_action_is_not_taken() {
    let bench = Bench::new();
    let first = cut_off(&bench);
    bench.holds(&first, "a", true);
    let mut changed = TestPlan::new();
    changed.node("a", "make another a", &[]);
    changed.node("b", "make b", &[]);
    let second = bench.run(&changed);
    assert_eq!(second.exit_code, 0, "{second:?}");
    assert_eq!(bench.decided(), (vec![], vec![AttemptId(1)]));
    assert_eq!(bench.log(), ["a", "b"]);
}

#[test]
fn a_node_waits_for_its_worker_as_long_as_that_may_come_back() {
    let bench = Bench::new();
    let first = cut_off(&bench);
    // It is another one that comes.
    bench.process("q");
    bench.rejoined_at("b");
    let second = bench.run(&plan());
    assert_eq!(second.exit_code, 0, "{second:?}");
    assert_eq!(
        bench.log(),
        ["b", "a"],
        "`a` waited until the time was over"
    );
    let lost = bench.fold(&second);
    assert_eq!(lost.find("a").unwrap().charged, 0, "a loss is not charged");
    let path = bench.workspace.journal_path(&second.run);
    let records = crate::journal::load(&path).unwrap().records;
    let is_lost = |event: &RunEvent| {
        matches!(event, RunEvent::AttemptEnded { attempt: 1, result, .. }
            if result.outcome == AttemptOutcome::Lost)
    };
    assert!(records.iter().any(|record| is_lost(&record.event)));
    drop(first);
}

#[test]
fn a_worker_that_came_back_without_it_is_not_waited_for() {
    let bench = Bench::new();
    cut_off(&bench);
    let second = bench.run(&plan());
    assert_eq!(second.exit_code, 0, "{second:?}");
    assert_eq!(bench.log(), ["b", "a"]);
}

#[test]
fn an_executor_without_such_workers_keeps_nobody_waiting() {
    let bench = Bench::new();
    cut_off(&bench);
    bench.process("");
    let second = bench.run(&plan());
    assert_eq!(second.exit_code, 0, "{second:?}");
    assert_eq!(bench.log(), ["a", "b"]);
}

#[test]
fn a_driver_that_dies_before_the_worker_is_back_leaves_it_to_the_next() {
    let bench = Bench::new();
    let first = cut_off(&bench);
    bench.process("q");
    bench.rejoined_at("b");
    for node in ["a", "b"] {
        bench.does(node, Does::Exit(1));
    }
    let second = bench.run(&plan());
    bench.clear_log();
    bench.cut_journal(&second, |event, _| {
        matches!(event, RunEvent::Planned { .. })
    });
    bench.process("p");
    bench.holds(&first, "a", true);
    let third = bench.run(&plan());
    assert_eq!(third.exit_code, 0, "{third:?}");
    assert_eq!(bench.decided(), (vec![AttemptId(1)], vec![]));
    assert_eq!(bench.log(), ["b"]);
    // The numbers of its own attempts go on after those of all that it goes on with.
    let state = bench.fold(&third);
    let b = state.last_attempt(state.find("b").unwrap()).unwrap();
    assert!(b.attempt > 1, "{b:?}");
}
