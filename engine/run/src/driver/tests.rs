//! The driver with plans made by hand and an executor that only pretends.

mod adoption;
pub(crate) mod kit;
mod races;

use std::{fs, time::Duration};

use dagrun_events::{NodeCounts, NodeOutcome, RunEvent, RunState};
use dagrun_model::{NodeIx, Trigger};
use dagrun_sched::Stop;

use crate::{Force, Notification, RunError, journal::load, stop_channel, subscribe};
use kit::{Bench, Does, TestPlan};

fn counts(succeeded: u64, cached: u64, failed: u64, skipped: u64) -> NodeCounts {
    NodeCounts {
        succeeded,
        cached,
        failed,
        skipped,
        cancelled: 0,
    }
}

/// a -> b -> c
fn chain() -> TestPlan {
    let mut plan = TestPlan::new();
    let a = plan.node("a", "make a", &[]);
    let b = plan.node("b", "make b", &[a]);
    plan.node("c", "make c", &[b]);
    plan
}

#[test]
fn a_second_run_is_all_hits_and_starts_no_executor() {
    let bench = Bench::new();
    let first = bench.run(&chain());
    assert_eq!((first.counts, first.exit_code), (counts(3, 0, 0, 0), 0));
    assert_eq!(bench.log(), ["a", "b", "c"]);

    let second = bench.run_without_executor(&chain());
    assert_eq!((second.counts, second.executed), (counts(0, 3, 0, 0), 0));
    let state = bench.fold(&second);
    assert_eq!(state.counts, second.counts);
    let former = bench.fold(&first);
    for id in ["a", "b", "c"] {
        let outputs = &state.find(id).unwrap().outputs;
        assert_eq!(*outputs, former.find(id).unwrap().outputs);
        assert_eq!(outputs["out"].size, 6);
    }
}

#[test]
fn the_journal_tells_all_that_the_summary_does() {
    let bench = Bench::new();
    let (subscriber, subscription) = subscribe(1000);
    let summary = bench.go(&chain(), |parts| parts.subscribers.push(subscriber));
    let records = load(&bench.workspace.journal_path(&summary.run))
        .unwrap()
        .records;
    let told: Vec<_> = std::iter::from_fn(|| subscription.next())
        .map(|notification| match notification {
            Notification::Event(record) => (*record).clone(),
            Notification::Missed(n) => panic!("missed {n}"),
        })
        .collect();
    assert_eq!(told, records);
    let state = RunState::fold(&records);
    assert_eq!(state.counts, summary.counts);
    assert_eq!((state.executed, state.exit_code), (3, Some(0)));
    assert!(matches!(records[0].event, RunEvent::RunStarted(_)));
}

/// An equal result upstream means that what follows is a hit: early cut-off.
#[test]
fn a_changed_recipe_with_the_same_result_reruns_nothing_after_it() {
    let bench = Bench::new();
    bench.does("a", Does::Write("same"));
    bench.run(&chain());
    let mut plan = chain();
    plan.nodes[0].recipe = "make a, differently".into();
    bench.does("a", Does::Write("same"));
    let summary = bench.run(&plan);
    assert_eq!(summary.counts, counts(1, 2, 0, 0));
}

#[test]
fn equal_actions_run_once() {
    let bench = Bench::new();
    let mut plan = TestPlan::new();
    let one = plan.node("one", "equal", &[]);
    let two = plan.node("two", "equal", &[]);
    plan.node("sum", "sum", &[one, two]);
    let summary = bench.run(&plan);
    assert_eq!((summary.counts, summary.executed), (counts(2, 1, 0, 0), 2));
    let state = bench.fold(&summary);
    let outputs = |id: &str| state.find(id).unwrap().outputs.clone();
    assert_eq!(outputs("one"), outputs("two"));
    assert_eq!(outputs("two").len(), 1);
}

#[test]
fn failures_are_retried_and_losses_are_not_charged() {
    let bench = Bench::new();
    let mut plan = chain();
    plan.retries("a", 2);
    for does in [Does::Exit(1), Does::Vanish, Does::Exit(2)] {
        bench.does("a", does);
    }
    let summary = bench.run(&plan);
    assert_eq!((summary.counts, summary.executed), (counts(3, 0, 0, 0), 6));
    let state = bench.fold(&summary);
    assert_eq!(state.find("a").unwrap().charged, 2);
    assert!(summary.failures.is_empty());
}

#[test]
fn a_failure_skips_what_needs_it_and_nothing_else() {
    let bench = Bench::new();
    let mut plan = chain();
    plan.node("alone", "alone", &[]);
    bench.does("a", Does::Exit(3));
    let summary = bench.run(&plan);
    assert_eq!((summary.counts, summary.exit_code), (counts(1, 0, 1, 2), 1));
    let [failure] = &summary.failures[..] else {
        panic!("{:?}", summary.failures);
    };
    assert_eq!(
        (failure.id.as_str(), failure.blocked, failure.attempts),
        ("a", 2, 1)
    );
    assert_eq!(failure.describe(), "exit code 3");
    assert_eq!(failure.command, "make a");
    let state = bench.fold(&summary);
    assert_eq!(state.find("c").unwrap().outcome, Some(NodeOutcome::Skipped));
    assert!(state.find("a").unwrap().cause.is_some());
}

#[test]
fn fail_fast_starts_nothing_after_a_failure() {
    let bench = Bench::new();
    let mut plan = TestPlan::new();
    for name in ["n0", "n1", "n2", "n3"] {
        plan.node(name, name, &[]);
    }
    bench.does("n0", Does::Exit(1));
    let summary = bench.go(&plan, |parts| parts.options.fail_fast = true);
    assert_eq!(summary.exit_code, 1);
    assert_eq!(summary.counts.failed, 1);
    assert!(summary.counts.cancelled >= 2, "{:?}", summary.counts);
}

/// F07: the blob of a hit is gone when a node must read it: its producer runs again, once.
#[test]
fn a_missing_blob_makes_its_producer_run_again() {
    let bench = Bench::new();
    let first = bench.run(&chain());
    bench.remove_blob(&first, "a");
    let mut plan = chain();
    plan.nodes[1].recipe = "make b, differently".into();
    bench.clear_log();
    let second = bench.run(&plan);
    assert_eq!(second.exit_code, 0);
    assert_eq!(bench.log(), ["a", "b", "c"]);
    assert_eq!(second.executed, 4);
    assert_eq!(second.counts, counts(3, 0, 0, 0));
    assert!(
        second.warnings[0].contains("made again"),
        "{:?}",
        second.warnings
    );
    let state = bench.fold(&second);
    assert_eq!(state.counts, second.counts);

    let third = bench.run_without_executor(&plan);
    assert_eq!(third.counts, counts(0, 3, 0, 0));
}

/// Whoever has a blob may not answer for a while: a coordinator that starts again, a worker that is being replaced.
#[test]
fn a_blob_that_is_here_and_could_not_be_had_is_not_made_again() {
    let bench = Bench::new();
    bench.does("b", Does::Lack);
    let summary = bench.run(&chain());
    assert_eq!((summary.exit_code, summary.executed), (0, 4));
    assert_eq!(bench.log(), ["a", "b", "b", "c"]);
    assert_eq!(summary.warnings, [""; 0]);
}

/// What is said to be somewhere and cannot be had twice is made again after all.
#[test]
fn a_blob_that_cannot_be_had_again_and_again_is_made_again() {
    let bench = Bench::new();
    bench.does("b", Does::Lack);
    bench.does("b", Does::Lack);
    let summary = bench.run(&chain());
    assert_eq!((summary.exit_code, summary.executed), (0, 6));
    assert_eq!(bench.log(), ["a", "b", "b", "a", "b", "c"]);
}

#[test]
fn exports_are_laid_and_missing_ones_are_made_again() {
    let bench = Bench::new();
    let mut plan = chain();
    plan.export("out/c.txt", NodeIx(2));
    plan.export("all/a.txt", NodeIx(0));
    let first = bench.run(&plan);
    assert_eq!(bench.exported("out/c.txt"), "make c");
    assert_eq!(bench.exported("all/a.txt"), "make a");
    assert_eq!(first.exported.len(), 2);
    assert!(bench.run_without_executor(&plan).exported.is_empty());

    bench.remove_blob(&first, "c");
    fs::remove_file(bench.project().join("out/c.txt")).unwrap();
    bench.clear_log();
    let again = bench.run(&plan);
    assert_eq!((again.exit_code, bench.log()), (0, vec!["c".to_string()]));
    assert_eq!(bench.exported("out/c.txt"), "make c");
}

/// F06: a damaged blob is found when it is read, and made again in the same run.
#[test]
fn a_damaged_blob_is_made_again_for_its_export() {
    let bench = Bench::new();
    let mut plan = chain();
    plan.export("c.txt", NodeIx(2));
    let first = bench.run(&plan);
    bench.damage_blob(&first, "c");
    fs::remove_file(bench.project().join("c.txt")).unwrap();
    bench.clear_log();
    let again = bench.run(&plan);
    assert_eq!((again.exit_code, bench.log()), (0, vec!["c".to_string()]));
    assert_eq!(again.counts, counts(1, 2, 0, 0));
    assert_eq!(bench.exported("c.txt"), "make c");
    assert_eq!(bench.fold(&again).counts, again.counts);
}

#[test]
fn an_export_over_a_file_of_others_is_kept_back() {
    let bench = Bench::new();
    fs::write(bench.project().join("c.txt"), "mine").unwrap();
    let mut plan = chain();
    plan.export("c.txt", NodeIx(2));
    let summary = bench.run(&plan);
    assert_eq!((summary.exit_code, summary.kept_back.len()), (1, 1));
    assert_eq!(bench.exported("c.txt"), "mine");
}

#[test]
fn forced_nodes_run_again_and_what_follows_is_a_hit() {
    let bench = Bench::new();
    bench.run(&chain());
    bench.clear_log();
    let summary = bench.go(&chain(), |parts| {
        parts.options.force = Force::Only(vec!["b".into()]);
    });
    assert_eq!(
        (summary.counts, bench.log()),
        (counts(1, 2, 0, 0), vec!["b".to_string()])
    );
    let summary = bench.go(&chain(), |parts| parts.options.force = Force::All);
    assert_eq!(summary.counts, counts(3, 0, 0, 0));
}

/// F44: other bytes for an equal action are told. Where they were asked for, they hold.
#[test]
fn other_bytes_for_an_equal_action_are_told() {
    let bench = Bench::new();
    bench.run(&chain());
    bench.does("a", Does::Write("by chance"));
    let summary = bench.go(&chain(), |parts| {
        parts.options.force = Force::Only(vec!["a".into()]);
    });
    assert_eq!(summary.exit_code, 0);
    assert!(
        summary.warnings[0].contains("not deterministic"),
        "{:?}",
        summary.warnings
    );
    let state = bench.fold(&summary);
    assert_eq!(
        state.non_determinism,
        [("a".to_string(), "out".to_string())]
    );
}

#[test]
fn nodes_that_are_never_cached_run_each_time() {
    let bench = Bench::new();
    let mut plan = chain();
    plan.never_cache("c");
    bench.run(&plan);
    bench.clear_log();
    let summary = bench.run(&plan);
    assert_eq!(
        (summary.counts, bench.log()),
        (counts(1, 2, 0, 0), vec!["c".to_string()])
    );
}

#[test]
fn a_false_condition_skips_without_an_attempt() {
    let bench = Bench::new();
    let mut plan = chain();
    plan.nodes[1].condition = Some(false);
    let summary = bench.run(&plan);
    assert_eq!((summary.counts, summary.exit_code), (counts(1, 0, 0, 2), 0));
    let state = bench.fold(&summary);
    assert_eq!(
        state.find("b").unwrap().outcome,
        Some(NodeOutcome::ConditionFalse)
    );
}

#[test]
fn a_node_that_waits_for_the_end_runs_after_a_failure() {
    let bench = Bench::new();
    let mut plan = chain();
    plan.nodes[1].trigger = Trigger::Terminal;
    bench.does("a", Does::Exit(1));
    let summary = bench.run(&plan);
    assert_eq!(summary.counts, counts(2, 0, 1, 0));
}

/// A run of hits alone never waits for anything.
#[test]
fn a_stop_ends_a_run_that_only_looks_up() {
    let bench = Bench::new();
    bench.run(&chain());
    let (handle, receiver) = stop_channel();
    handle.stop(Stop::Terminate);
    let summary = bench.go(&chain(), |parts| parts.stop = receiver);
    assert_eq!(summary.stopped, Some(Stop::Terminate));
    assert_eq!((summary.exit_code, summary.executed), (130, 0));
    assert!(summary.counts.cached < 3, "{:?}", summary.counts);
    let state = bench.fold(&summary);
    assert!(state.stop.is_some());
    assert_eq!(state.exit_code, Some(130));
}

/// F33: Ctrl-C ends what runs, and the journal says so.
#[test]
fn a_stop_ends_what_runs_and_is_in_the_journal() {
    let bench = Bench::new();
    bench.does("b", Does::Hang);
    let (handle, receiver) = stop_channel();
    bench.on_start("b", move || handle.stop(Stop::Terminate));
    let summary = bench.go(&chain(), |parts| parts.stop = receiver);
    assert_eq!(summary.exit_code, 130);
    assert_eq!(summary.stopped, Some(Stop::Terminate));
    assert_eq!((summary.counts.succeeded, summary.counts.cancelled), (1, 2));
    let state = bench.fold(&summary);
    assert_eq!(state.exit_code, Some(130));
    assert!(state.stop.is_some());

    bench.clear_log();
    let resumed = bench.run(&chain());
    assert_eq!(
        (resumed.exit_code, bench.log()),
        (0, vec!["b".to_string(), "c".to_string()])
    );
}

/// F48: failures that were charged before a crash count after it.
#[test]
fn failures_of_a_run_that_was_cut_off_are_charged() {
    let bench = Bench::new();
    let mut plan = chain();
    plan.retries("a", 2);
    for _ in 0..3 {
        bench.does("a", Does::Exit(1));
    }
    let failed = bench.run(&plan);
    assert_eq!((failed.executed, failed.exit_code), (3, 1));
    // As if the process had died after the second failure.
    bench.cut_journal(&failed, |event, state| {
        matches!(event, RunEvent::AttemptEnded { .. })
            && state.find("a").is_some_and(|node| node.charged == 2)
    });
    bench.does("a", Does::Exit(1));
    bench.does("a", Does::Exit(1));
    let resumed = bench.run(&plan);
    assert_eq!((resumed.executed, resumed.exit_code), (1, 1));
    let state = bench.fold(&resumed);
    assert_eq!(state.find("a").unwrap().charged, 3);
    let started = state.started.unwrap();
    assert_eq!(started.resumes.as_deref(), Some(failed.run.0.as_str()));
    // That run ended by itself: the next one begins with all tries.
    let fresh = bench.run(&plan);
    assert_eq!(bench.fold(&fresh).started.unwrap().resumes, None);
}

#[test]
fn an_executor_that_cannot_start_is_trouble_of_the_environment() {
    let bench = Bench::new();
    let summary = bench.go(&chain(), |parts| {
        parts.executor = Box::new(|_| Err("no slots".into()));
    });
    assert_eq!(summary.exit_code, 3);
    assert!(summary.fatal.unwrap().contains("no slots"));
}

#[test]
fn a_node_that_fits_nowhere_is_named() {
    let bench = Bench::new();
    let mut plan = chain();
    plan.needs_cpus("b", 64_000);
    let summary = bench.run(&plan);
    assert_eq!(summary.exit_code, 3);
    let why = summary.fatal.clone().unwrap();
    assert!(why.contains("`b` asks for "), "{why}");
    let state = bench.fold(&summary);
    assert_eq!((state.exit_code, state.gave_up), (Some(3), Some(why)));
    // The next run goes on where it stopped.
    let next = bench.run(&plan);
    let started = bench.fold(&next).started.unwrap();
    assert_eq!(started.resumes.as_deref(), Some(summary.run.0.as_str()));
}

#[test]
fn a_node_that_fits_nowhere_waits_for_a_worker_where_they_come_and_go() {
    let bench = Bench::new();
    bench.patience(Duration::from_secs(600));
    bench.late_worker(64_000);
    let mut plan = chain();
    plan.needs_cpus("b", 64_000);
    let summary = bench.run(&plan);
    assert_eq!((summary.counts, summary.exit_code), (counts(3, 0, 0, 0), 0));
}

/// Workers are told of one after the other: the first may be too small, and the node may run for longer than anyone would have waited.
#[test]
fn a_node_that_fits_the_second_worker_runs_for_longer_than_the_patience() {
    let bench = Bench::new();
    bench.patience(Duration::from_millis(1));
    bench.second_worker(64_000);
    bench.on_start("a", || std::thread::sleep(Duration::from_millis(20)));
    let mut plan = chain();
    plan.needs_cpus("a", 64_000);
    let summary = bench.run(&plan);
    assert_eq!((summary.counts, summary.exit_code), (counts(3, 0, 0, 0), 0));
}

#[test]
fn a_node_that_fits_nowhere_is_named_when_no_worker_came() {
    let bench = Bench::new();
    bench.patience(Duration::from_millis(50));
    let mut plan = chain();
    plan.needs_cpus("b", 64_000);
    let summary = bench.run(&plan);
    assert_eq!((summary.counts.succeeded, summary.exit_code), (1, 3));
    assert!(summary.fatal.unwrap().contains("`b` asks for "));
}

#[test]
fn a_damaged_journal_of_the_last_run_keeps_the_next_from_starting() {
    let bench = Bench::new();
    let first = bench.run(&chain());
    let path = bench.workspace.journal_path(&first.run);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = bench.try_go(&chain(), |_| {}).unwrap_err();
    assert!(matches!(error, RunError::CorruptJournal { .. }), "{error}");
}

/// A wide and deep plan: every node once, whatever the order in which attempts end.
#[test]
fn a_thousand_nodes_run_once_each() {
    let bench = Bench::new();
    let mut plan = TestPlan::new();
    let mut before: Vec<NodeIx> = Vec::new();
    for level in 0..20 {
        let needs: Vec<NodeIx> = before.iter().copied().take(3).collect();
        before = (0..50)
            .map(|i| plan.node(&format!("n{level}_{i}"), &format!("{level} {i}"), &needs))
            .collect();
    }
    let summary = bench.run(&plan);
    assert_eq!(
        (summary.counts, summary.executed),
        (counts(1000, 0, 0, 0), 1000)
    );
    let again = bench.run_without_executor(&plan);
    assert_eq!(again.counts, counts(0, 1000, 0, 0));
}
