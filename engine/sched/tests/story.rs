//! Stories of single runs: events in, the exact actions out.

use std::time::Duration;

use dagrun_model::{
    AttemptId, Digest, GroupIx, HostIx, NodeClass, NodeIx, Resources, RetryCause, WorkerIx,
};
use dagrun_sched::{
    Action, AttemptEnd, CacheAnswer, Config, Event, Held, NodeEnd, NodeState, Notice, Obstacle,
    Scheduler, Stop, Time, TimerId, WhyWaiting, sim::PlanBuilder,
};

/// A scheduler whose invariants are checked after each event.
struct Story {
    scheduler: Scheduler,
    now: u64,
}

impl Story {
    fn new(config: Config) -> Self {
        Self {
            scheduler: Scheduler::new(config),
            now: 0,
        }
    }

    /// A plan, and `hosts` workers of `slots` slots, each on its own host.
    fn of(config: Config, plan: &mut PlanBuilder, hosts: u32, slots: u64) -> Self {
        let mut story = Self::new(config);
        for host in 0..hosts {
            story.join(host, host, slots, 0);
        }
        story.tell(Event::PlanExtended(plan.delta()));
        story
    }

    fn tell(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.scheduler.handle(Time(self.now), event, &mut actions);
        self.scheduler.check_invariants().unwrap();
        actions
    }

    #[track_caller]
    fn expect(&mut self, event: Event, actions: &[Action]) {
        assert_eq!(self.tell(event), actions);
    }

    fn join(&mut self, worker: u32, host: u32, slots: u64, memory: u64) -> Vec<Action> {
        self.tell(joined(worker, host, slots, memory))
    }

    /// A worker joins a host of the same number, with an attempt at a node.
    fn join_with(&mut self, worker: u32, slots: u64, attempt: u64, node: NodeIx) -> Vec<Action> {
        let mut join = joined(worker, worker, slots, 0);
        if let Event::WorkerJoined { held, .. } = &mut join {
            held.push(Held {
                attempt: AttemptId(attempt),
                node,
                number: 2,
                action: Some(digest(&node.0.to_string())),
                resources: Resources::default(),
                ran: 5_000_000,
            });
        }
        self.tell(join)
    }

    fn miss(&mut self, nodes: &[NodeIx]) -> Vec<Action> {
        self.tell(misses(nodes))
    }

    /// Lets an attempt succeed and its result become durable.
    fn succeed(&mut self, attempt: u64, node: NodeIx, bytes: u64) -> Vec<Action> {
        self.expect(
            ended(attempt, AttemptEnd::Succeeded { bytes }),
            &[commit(node, attempt)],
        );
        self.tell(Event::Committed(node))
    }

    #[track_caller]
    fn state(&self, node: NodeIx) -> NodeState {
        self.scheduler.state(node).unwrap()
    }
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

fn joined(worker: u32, host: u32, slots: u64, memory: u64) -> Event {
    Event::WorkerJoined {
        worker: WorkerIx(worker),
        host: HostIx(host),
        capacity: Resources {
            cpu_milli: slots * 1000,
            memory,
            ..Resources::none()
        },
        profile: None,
        ahead: 0,
        speed: 1000,
        held: Vec::new(),
    }
}

fn adopted(node: NodeIx, attempt: u64) -> Action {
    let attempt = AttemptId(attempt);
    Action::Emit(Notice::Adopted { node, attempt })
}

fn misses(nodes: &[NodeIx]) -> Event {
    let miss = |n: &NodeIx| {
        (
            *n,
            CacheAnswer::Miss {
                action: Some(digest(&n.0.to_string())),
            },
        )
    };
    Event::CacheAnswered(nodes.iter().map(miss).collect())
}

fn answer(node: NodeIx, answer: CacheAnswer) -> Event {
    Event::CacheAnswered(vec![(node, answer)])
}

fn ended(attempt: u64, end: AttemptEnd) -> Event {
    Event::AttemptEnded {
        attempt: AttemptId(attempt),
        end,
        ran: 0,
    }
}

fn failed(attempt: u64) -> Event {
    ended(attempt, AttemptEnd::Failed(Some(RetryCause::Exit)))
}

fn commit(node: NodeIx, attempt: u64) -> Action {
    Action::Commit {
        node,
        attempt: AttemptId(attempt),
    }
}

fn look_up(nodes: &[NodeIx]) -> Action {
    Action::LookUp(nodes.to_vec())
}

fn done(node: NodeIx, end: NodeEnd) -> Action {
    Action::Emit(Notice::NodeDone { node, end })
}

fn start(attempt: u64, node: NodeIx, number: u32, worker: u32) -> Action {
    Action::Start {
        attempt: AttemptId(attempt),
        node,
        number,
        worker: WorkerIx(worker),
        resources: Resources::default(),
        group: None,
        ahead: false,
    }
}

fn in_group(mut action: Action, of: u32) -> Action {
    if let Action::Start { group, .. } = &mut action {
        *group = Some(GroupIx(of));
    }
    action
}

fn cancel(attempt: u64, kill: bool) -> Action {
    Action::Cancel {
        attempt: AttemptId(attempt),
        kill,
    }
}

/// Nodes of the starts in a list of actions, with their workers.
fn starts(actions: &[Action]) -> Vec<(NodeIx, u32)> {
    let start = |action: &Action| match action {
        Action::Start { node, worker, .. } => Some((*node, worker.0)),
        _ => None,
    };
    actions.iter().filter_map(start).collect()
}

#[test]
fn a_chain_runs_node_by_node_and_waits_for_durability() {
    let mut plan = PlanBuilder::new();
    let a = plan.node(&[]);
    let need = plan.one(a);
    let b = plan.node(&[need]);
    let mut story = Story::new(Config::default());
    story.expect(Event::PlanExtended(plan.delta()), &[look_up(&[a])]);
    story.expect(Event::PlanComplete, &[]);
    story.expect(misses(&[a]), &[]);
    assert_eq!(story.join(0, 0, 1, 0), [start(1, a, 1, 0)]);
    story.expect(Event::AttemptStarted(AttemptId(1)), &[]);
    story.expect(
        ended(1, AttemptEnd::Succeeded { bytes: 9 }),
        &[commit(a, 1)],
    );
    story.expect(
        Event::Committed(a),
        &[done(a, NodeEnd::Succeeded), look_up(&[b])],
    );
    story.expect(
        answer(b, CacheAnswer::Hit { bytes: 1 }),
        &[done(b, NodeEnd::Cached), Action::Finish],
    );
    let states: Vec<_> = story
        .scheduler
        .story(a)
        .iter()
        .map(|step| step.state)
        .collect();
    assert_eq!(states.len(), 5, "{states:?}");
    assert_eq!(states[4], NodeState::Done(NodeEnd::Succeeded));
}

#[test]
fn an_empty_plan_finishes_once() {
    let mut story = Story::new(Config::default());
    story.expect(Event::PlanComplete, &[Action::Finish]);
    story.expect(Event::PlanComplete, &[]);
}

#[test]
fn ready_nodes_take_slots_in_plan_order() {
    let mut plan = PlanBuilder::new();
    let nodes: Vec<_> = (0..5).map(|_| plan.node(&[])).collect();
    let mut story = Story::of(Config::default(), &mut plan, 1, 2);
    assert_eq!(
        story.miss(&nodes),
        [start(1, nodes[0], 1, 0), start(2, nodes[1], 1, 0)]
    );
    story.expect(
        ended(1, AttemptEnd::Succeeded { bytes: 0 }),
        &[commit(nodes[0], 1), start(3, nodes[2], 1, 0)],
    );
}

#[test]
fn retries_wait_and_double_and_end() {
    let mut plan = PlanBuilder::new();
    plan.class(NodeClass {
        max_retries: 2,
        backoff: Duration::from_secs(1),
        ..NodeClass::default()
    });
    let a = plan.node(&[]);
    let mut story = Story::of(Config::default(), &mut plan, 1, 1);
    story.miss(&[a]);
    let mut wait = |attempt| {
        let actions = story.tell(failed(attempt));
        let [
            Action::Emit(Notice::WillRetry { lost: false, .. }),
            Action::SetTimer { id, at },
        ] = actions[..]
        else {
            panic!("{actions:?}")
        };
        let waited = at.0 - story.now;
        story.now = at.0;
        story.expect(
            Event::TimerFired(id),
            &[start(attempt + 1, a, attempt as u32 + 1, 0)],
        );
        waited
    };
    let (first, second) = (wait(1), wait(2));
    assert!((1_000_000..1_250_000).contains(&first), "{first}");
    assert!((2_000_000..2_500_000).contains(&second), "{second}");
    story.expect(failed(3), &[done(a, NodeEnd::Failed)]);
}

#[test]
fn only_named_causes_are_tried_again() {
    for (cause, again) in [
        (Some(RetryCause::Timeout), true),
        (Some(RetryCause::Exit), false),
        (None, false),
    ] {
        let mut plan = PlanBuilder::new();
        let retry_when = vec![RetryCause::Timeout];
        plan.class(NodeClass {
            max_retries: 9,
            retry_when,
            ..NodeClass::default()
        });
        let a = plan.node(&[]);
        let mut story = Story::of(Config::default(), &mut plan, 1, 1);
        story.miss(&[a]);
        story.tell(ended(1, AttemptEnd::Failed(cause)));
        let backs_off = matches!(story.state(a), NodeState::BackingOff { .. });
        assert_eq!(backs_off, again, "{cause:?}");
    }
}

#[test]
fn more_memory_after_an_out_of_memory_kill_but_not_more_than_there_is() {
    let mut plan = PlanBuilder::new();
    plan.class(NodeClass {
        max_retries: 5,
        backoff: Duration::ZERO,
        memory_percent: 200,
        resources: Resources {
            memory: 100,
            ..Resources::default()
        },
        ..NodeClass::default()
    });
    let a = plan.node(&[]);
    let mut story = Story::new(Config::default());
    story.join(0, 0, 1, 300);
    story.tell(Event::PlanExtended(plan.delta()));
    story.miss(&[a]);
    for (attempt, memory) in [(1, 200), (2, 300), (3, 300)] {
        let actions = story.tell(ended(
            attempt,
            AttemptEnd::Failed(Some(RetryCause::OutOfMemory)),
        ));
        let Some(Action::Start { resources, .. }) = actions.last() else {
            panic!("{actions:?}")
        };
        assert_eq!(resources.memory, memory);
    }
}

#[test]
fn losses_are_no_failures_but_the_third_is_blamed_on_the_node() {
    let mut plan = PlanBuilder::new();
    let a = plan.node(&[]);
    let mut story = Story::of(Config::default(), &mut plan, 4, 1);
    story.miss(&[a]);
    for attempt in 1..3 {
        let again = Action::Emit(Notice::WillRetry {
            node: a,
            at: Time(0),
            lost: true,
        });
        let worker = attempt as u32;
        story.expect(
            Event::WorkerLost(WorkerIx(worker - 1)),
            &[again, start(attempt + 1, a, worker + 1, worker)],
        );
    }
    story.expect(ended(3, AttemptEnd::Lost), &[done(a, NodeEnd::Failed)]);
    assert_eq!(story.scheduler.charged(a), (0, 3));
}

fn lost_again(node: NodeIx) -> Action {
    let (at, lost) = (Time(0), true);
    Action::Emit(Notice::WillRetry { node, at, lost })
}

#[test]
fn what_finds_no_room_is_tried_on_each_other_host_and_then_fails() {
    let mut plan = PlanBuilder::new();
    let a = plan.node(&[]);
    let mut story = Story::of(Config::default(), &mut plan, 3, 1);
    assert_eq!(story.miss(&[a]), [start(1, a, 1, 0)]);
    story.expect(
        ended(1, AttemptEnd::NoRoom),
        &[lost_again(a), start(2, a, 2, 1)],
    );
    // Another worker of a host has the same disk.
    assert_eq!(story.join(3, 0, 1, 0), []);
    story.expect(
        ended(2, AttemptEnd::NoRoom),
        &[lost_again(a), start(3, a, 3, 2)],
    );
    assert_eq!(story.scheduler.charged(a), (0, 0));
    story.expect(ended(3, AttemptEnd::NoRoom), &[done(a, NodeEnd::Failed)]);
}

#[test]
fn what_finds_no_room_anywhere_is_not_tried_for_ever() {
    let mut plan = PlanBuilder::new();
    let a = plan.node(&[]);
    let mut story = Story::of(Config::default(), &mut plan, 20, 1);
    story.miss(&[a]);
    for attempt in 1..=5 {
        let next = start(attempt + 1, a, attempt as u32 + 1, attempt as u32);
        story.expect(ended(attempt, AttemptEnd::NoRoom), &[lost_again(a), next]);
    }
    story.expect(ended(6, AttemptEnd::NoRoom), &[done(a, NodeEnd::Failed)]);
}

#[test]
fn a_worker_without_room_is_passed_over_while_another_could_take_a_node() {
    let mut plan = PlanBuilder::new();
    let nodes: Vec<NodeIx> = (0..3).map(|_| plan.node(&[])).collect();
    let mut story = Story::of(Config::default(), &mut plan, 2, 1);
    story.tell(Event::WorkerHasRoom(WorkerIx(0), false));
    assert_eq!(story.miss(&nodes), [start(1, nodes[0], 1, 1)]);
    let WhyWaiting::NoWorker(unfit) = story.scheduler.explain(nodes[1]) else {
        panic!("it waits for no worker");
    };
    assert_eq!(unfit[0].obstacle, Obstacle::DiskFull);
    // Without another it is better than nothing.
    story.expect(
        Event::WorkerDraining(WorkerIx(1)),
        &[start(2, nodes[1], 1, 0)],
    );
    story.join(2, 2, 1, 0);
    story.expect(ended(2, AttemptEnd::Lost), &[lost_again(nodes[1])]);
    story.expect(
        Event::WorkerHasRoom(WorkerIx(0), true),
        &[start(4, nodes[1], 2, 0)],
    );
}

#[test]
fn late_and_stale_events_change_nothing() {
    let mut plan = PlanBuilder::new();
    let a = plan.node(&[]);
    let mut story = Story::of(Config::default(), &mut plan, 2, 1);
    story.miss(&[a]);
    story.tell(Event::WorkerLost(WorkerIx(0)));
    let before = story.state(a);
    for stale in [
        ended(1, AttemptEnd::Succeeded { bytes: 1 }),
        ended(77, AttemptEnd::Lost),
        Event::AttemptStarted(AttemptId(1)),
        Event::Committed(a),
        Event::Committed(NodeIx(9)),
        Event::CommitFailed(a),
        Event::WorkerLost(WorkerIx(0)),
        Event::WorkerLost(WorkerIx(9)),
        Event::WorkerDraining(WorkerIx(0)),
        Event::TimerFired(TimerId(3)),
        Event::ReplicaDropped {
            node: NodeIx(9),
            host: HostIx(0),
        },
        answer(a, CacheAnswer::ConditionFalse),
        answer(NodeIx(9), CacheAnswer::Unrunnable),
    ] {
        story.expect(stale, &[]);
        assert_eq!(story.state(a), before);
    }
}

#[test]
fn failures_skip_what_depends_on_them_with_the_nearest_cause() {
    let mut plan = PlanBuilder::new();
    let a = plan.node(&[]);
    let of_a = plan.one(a);
    let b = plan.node(&[of_a]);
    let of_b = plan.one(b);
    let c = plan.node(&[of_b]);
    let d = plan.node(&[]);
    let mut story = Story::of(Config::default(), &mut plan, 1, 1);
    story.tell(Event::PlanComplete);
    story.miss(&[a, d]);
    story.expect(
        failed(1),
        &[
            done(a, NodeEnd::Failed),
            done(b, NodeEnd::Skipped { because: a }),
            done(c, NodeEnd::Skipped { because: b }),
            start(2, d, 1, 0),
        ],
    );
    assert_eq!(
        story.succeed(2, d, 0),
        [done(d, NodeEnd::Succeeded), Action::Finish]
    );
    assert_eq!(story.scheduler.counts().skipped, 2);
}

#[test]
fn a_failure_that_may_happen_counts_as_success_for_dependents() {
    let mut plan = PlanBuilder::new();
    let lenient = NodeClass {
        continue_on_error: true,
        ..NodeClass::default()
    };
    plan.class(lenient);
    let a = plan.node(&[]);
    let need = plan.one(a);
    let b = plan.node(&[need]);
    let config = Config {
        fail_fast: true,
        ..Config::default()
    };
    let mut story = Story::of(config, &mut plan, 1, 1);
    story.miss(&[a]);
    story.expect(failed(1), &[done(a, NodeEnd::Failed), look_up(&[b])]);
}

#[test]
fn gathers_take_what_their_min_allows_when_all_have_ended() {
    let mut plan = PlanBuilder::new();
    let cells: Vec<_> = (0..4).map(|_| plan.node(&[])).collect();
    let two = plan.set(&cells, true, Some(2));
    let three = plan.set(&cells, true, Some(3));
    let strict = plan.gather(&cells[2..]);
    let enough = plan.node(&[two]);
    let scarce = plan.node(&[three]);
    let all = plan.node(&[strict]);
    let mut story = Story::of(Config::default(), &mut plan, 1, 4);
    story.miss(&cells);
    story.expect(failed(1), &[done(cells[0], NodeEnd::Failed)]);
    story.expect(
        failed(2),
        &[
            done(cells[1], NodeEnd::Failed),
            done(scarce, NodeEnd::Skipped { because: cells[0] }),
        ],
    );
    story.succeed(3, cells[2], 0);
    assert_eq!(story.state(enough), NodeState::Waiting);
    let actions = story.succeed(4, cells[3], 0);
    assert_eq!(
        actions,
        [done(cells[3], NodeEnd::Succeeded), look_up(&[enough, all])]
    );
}

#[test]
fn cells_whose_if_is_false_drop_out_of_gathers_with_what_follows_them() {
    let mut plan = PlanBuilder::new();
    let a = plan.node(&[]);
    let b = plan.node(&[]);
    let of_a = plan.one(a);
    let next = plan.node(&[of_a]);
    let gather = plan.gather(&[a, b]);
    let scores = plan.gather(&[next, b]);
    let figure = plan.node(&[gather]);
    let table = plan.node(&[scores]);
    let mut story = Story::of(Config::default(), &mut plan, 1, 1);
    story.expect(
        answer(a, CacheAnswer::ConditionFalse),
        &[
            done(a, NodeEnd::ConditionFalse),
            done(next, NodeEnd::Skipped { because: a }),
        ],
    );
    story.expect(
        answer(b, CacheAnswer::Hit { bytes: 0 }),
        &[done(b, NodeEnd::Cached), look_up(&[figure, table])],
    );
}

#[test]
fn nodes_with_a_condition_on_needs_wait_until_all_have_ended() {
    let mut plan = PlanBuilder::new();
    let a = plan.node(&[]);
    let b = plan.node(&[]);
    let (of_a, of_b) = (plan.one(a), plan.one(b));
    let notify = plan.node(&[of_a, of_b]);
    let check = plan.node(&[of_a, of_b]);
    plan.terminal(notify);
    plan.terminal(check);
    let mut story = Story::of(Config::default(), &mut plan, 1, 2);
    story.miss(&[a, b]);
    story.expect(failed(1), &[done(a, NodeEnd::Failed)]);
    let actions = story.succeed(2, b, 0);
    assert_eq!(
        actions,
        [done(b, NodeEnd::Succeeded), look_up(&[notify, check])]
    );
    story.expect(
        answer(check, CacheAnswer::ConditionFalse),
        &[done(check, NodeEnd::Skipped { because: a })],
    );
    assert_eq!(story.miss(&[notify]), [start(3, notify, 1, 0)]);
}

#[test]
fn equal_actions_run_once() {
    let mut plan = PlanBuilder::new();
    let nodes: Vec<_> = (0..3).map(|_| plan.node(&[])).collect();
    let mut story = Story::of(Config::default(), &mut plan, 1, 3);
    let miss = |n: &NodeIx| {
        (
            *n,
            CacheAnswer::Miss {
                action: Some(digest("same")),
            },
        )
    };
    story.expect(
        Event::CacheAnswered(nodes.iter().map(miss).collect()),
        &[start(1, nodes[0], 1, 0)],
    );
    assert_eq!(
        story.scheduler.explain(nodes[2]),
        WhyWaiting::SharesWith(nodes[0])
    );
    // The first fails: the next one tries.
    story.expect(
        failed(1),
        &[done(nodes[0], NodeEnd::Failed), start(2, nodes[1], 1, 0)],
    );
    assert_eq!(
        story.succeed(2, nodes[1], 5),
        [
            done(nodes[1], NodeEnd::Succeeded),
            done(nodes[2], NodeEnd::Cached)
        ]
    );
}

#[test]
fn what_cannot_be_run_fails_without_an_attempt() {
    let mut plan = PlanBuilder::new();
    let a = plan.node(&[]);
    let mut story = Story::of(Config::default(), &mut plan, 1, 1);
    story.expect(
        answer(a, CacheAnswer::Unrunnable),
        &[done(a, NodeEnd::Failed)],
    );
}

#[test]
fn missing_inputs_rewind_their_producers_a_bounded_number_of_times() {
    let mut plan = PlanBuilder::new();
    let a = plan.node(&[]);
    let need = plan.one(a);
    let b = plan.node(&[need]);
    let mut story = Story::of(Config::default(), &mut plan, 1, 1);
    story.tell(answer(a, CacheAnswer::Hit { bytes: 3 }));
    story.expect(misses(&[b]), &[start(1, b, 1, 0)]);
    for round in 0..3 {
        let attempt = 1 + 2 * round;
        story.expect(
            ended(attempt, AttemptEnd::InputsMissing(vec![a])),
            &[Action::Emit(Notice::Rewound { node: a }), look_up(&[a])],
        );
        let WhyWaiting::Needs(open) = story.scheduler.explain(b) else {
            panic!("b runs")
        };
        assert_eq!((open[0].pending, &open[0].first[..]), (1, &[a][..]));
        assert_eq!(starts(&story.miss(&[a])), [(a, 0)]);
        assert_eq!(
            story.succeed(attempt + 1, a, 3),
            [done(a, NodeEnd::Succeeded), look_up(&[b])]
        );
        assert_eq!(starts(&story.miss(&[b])), [(b, 0)]);
    }
    story.expect(
        ended(7, AttemptEnd::InputsMissing(vec![a])),
        &[done(b, NodeEnd::Failed)],
    );
}

#[test]
fn inputs_that_nobody_made_are_asked_for_a_bounded_number_of_times() {
    let mut plan = PlanBuilder::new();
    let a = plan.node(&[]);
    let mut story = Story::of(Config::default(), &mut plan, 1, 1);
    story.miss(&[a]);
    for attempt in 1..=3 {
        let actions = story.tell(ended(attempt, AttemptEnd::InputsMissing(vec![NodeIx(5)])));
        assert_eq!(starts(&actions), [(a, 0)]);
    }
    story.expect(
        ended(4, AttemptEnd::InputsMissing(vec![])),
        &[done(a, NodeEnd::Failed)],
    );
}

#[test]
fn a_result_that_cannot_be_made_durable_fails_its_node() {
    let mut plan = PlanBuilder::new();
    let a = plan.node(&[]);
    let mut story = Story::of(Config::default(), &mut plan, 1, 1);
    story.miss(&[a]);
    story.tell(ended(1, AttemptEnd::Succeeded { bytes: 0 }));
    story.expect(Event::CommitFailed(a), &[done(a, NodeEnd::Failed)]);
}

#[test]
fn the_first_failure_drains_where_that_is_wanted() {
    let mut plan = PlanBuilder::new();
    let nodes: Vec<_> = (0..3).map(|_| plan.node(&[])).collect();
    let of = plan.one(nodes[0]);
    let after = plan.node(&[of]);
    let config = Config {
        fail_fast: true,
        ..Config::default()
    };
    let mut story = Story::of(config, &mut plan, 1, 2);
    story.tell(Event::PlanComplete);
    story.miss(&nodes);
    story.expect(
        failed(1),
        &[
            done(nodes[0], NodeEnd::Failed),
            done(after, NodeEnd::Skipped { because: nodes[0] }),
            done(nodes[2], NodeEnd::Cancelled),
        ],
    );
    assert_eq!(
        story.succeed(2, nodes[1], 0),
        [done(nodes[1], NodeEnd::Succeeded), Action::Finish]
    );
}

#[test]
fn a_stop_starts_nothing_and_keeps_what_succeeds() {
    let mut plan = PlanBuilder::new();
    plan.class(NodeClass {
        max_retries: 3,
        ..NodeClass::default()
    });
    let nodes: Vec<_> = (0..4).map(|_| plan.node(&[])).collect();
    let mut story = Story::of(Config::default(), &mut plan, 1, 3);
    story.tell(Event::PlanComplete);
    story.miss(&nodes);
    story.expect(
        Event::StopRequested(Stop::Drain),
        &[done(nodes[3], NodeEnd::Cancelled)],
    );
    story.expect(
        Event::StopRequested(Stop::Terminate),
        &[cancel(1, false), cancel(2, false), cancel(3, false)],
    );
    story.expect(Event::StopRequested(Stop::Terminate), &[]);
    assert_eq!(
        story.succeed(1, nodes[0], 0),
        [done(nodes[0], NodeEnd::Succeeded)]
    );
    story.expect(
        Event::StopRequested(Stop::Kill),
        &[cancel(2, true), cancel(3, true)],
    );
    story.expect(
        ended(2, AttemptEnd::Cancelled),
        &[done(nodes[1], NodeEnd::Cancelled)],
    );
    story.expect(
        ended(3, AttemptEnd::Lost),
        &[done(nodes[2], NodeEnd::Cancelled), Action::Finish],
    );
}

#[test]
fn plans_grow_while_they_run() {
    let mut plan = PlanBuilder::new();
    let a = plan.node(&[]);
    let mut story = Story::of(Config::default(), &mut plan, 1, 1);
    story.miss(&[a]);
    let of_a = plan.one(a);
    let b = plan.node(&[of_a]);
    story.expect(Event::PlanExtended(plan.delta()), &[]);
    assert_eq!(
        story.succeed(1, a, 0),
        [done(a, NodeEnd::Succeeded), look_up(&[b])]
    );
    let c = plan.node(&[of_a]);
    story.expect(Event::PlanExtended(plan.delta()), &[look_up(&[c])]);
    story.expect(
        Event::StopRequested(Stop::Drain),
        &[done(b, NodeEnd::Cancelled), done(c, NodeEnd::Cancelled)],
    );
    let d = plan.node(&[]);
    story.expect(
        Event::PlanExtended(plan.delta()),
        &[done(d, NodeEnd::Cancelled)],
    );
    story.expect(Event::PlanComplete, &[Action::Finish]);
}

#[test]
fn charges_of_earlier_runs_count() {
    let mut plan = PlanBuilder::new();
    plan.class(NodeClass {
        max_retries: 1,
        ..NodeClass::default()
    });
    let nodes: Vec<_> = (0..4).map(|_| plan.node(&[])).collect();
    let mut story = Story::of(Config::default(), &mut plan, 1, 4);
    for (node, failures, losses) in [(0, 1, 0), (1, 2, 0), (2, 0, 3), (3, 2, 3)] {
        story.expect(
            Event::Restore {
                node: nodes[node],
                failures,
                losses,
            },
            &[],
        );
    }
    story.expect(
        misses(&nodes[..3]),
        &[
            done(nodes[1], NodeEnd::Failed),
            done(nodes[2], NodeEnd::Failed),
            start(1, nodes[0], 2, 0),
        ],
    );
    story.expect(
        answer(nodes[3], CacheAnswer::Hit { bytes: 0 }),
        &[done(nodes[3], NodeEnd::Cached)],
    );
    story.expect(failed(1), &[done(nodes[0], NodeEnd::Failed)]);
}

#[test]
fn nodes_larger_than_any_worker_are_reported() {
    let mut plan = PlanBuilder::new();
    plan.class(NodeClass::default());
    let big = plan.class(NodeClass {
        resources: Resources {
            cpu_milli: 8000,
            ..Resources::default()
        },
        ..NodeClass::default()
    });
    let a = plan.node_of(big, 0, &[]);
    let b = plan.node(&[]);
    let mut story = Story::of(Config::default(), &mut plan, 1, 2);
    story.miss(&[a, b]);
    story.expect(
        ended(1, AttemptEnd::Succeeded { bytes: 0 }),
        &[commit(b, 1)],
    );
    story.expect(
        Event::Committed(b),
        &[
            done(b, NodeEnd::Succeeded),
            Action::Emit(Notice::Stuck { nodes: vec![a] }),
        ],
    );
    let WhyWaiting::NoWorker(unfit) = story.scheduler.explain(a) else {
        panic!("it waits for no worker")
    };
    let too_small = Obstacle::TooSmall {
        resource: "cpu".into(),
        needed: 8000,
        has: 2000,
    };
    assert_eq!(unfit[0].obstacle, too_small);
    assert_eq!(starts(&story.join(5, 0, 8, 0)), [(a, 5)]);
}

#[test]
fn the_last_worker_is_missed_and_another_awaited_where_workers_come_and_go() {
    for awaits_workers in [false, true] {
        let mut plan = PlanBuilder::new();
        plan.class(NodeClass::default());
        let a = plan.node(&[]);
        let config = Config {
            awaits_workers,
            ..Config::default()
        };
        let mut story = Story::of(config, &mut plan, 1, 2);
        assert_eq!(starts(&story.miss(&[a])), [(a, 0)]);
        let lost = story.tell(Event::WorkerLost(WorkerIx(0)));
        let is_stuck = |action: &Action| matches!(action, Action::Emit(Notice::Stuck { .. }));
        assert_eq!(lost.iter().any(is_stuck), !awaits_workers, "{lost:?}");
        assert_eq!(starts(&story.join(5, 0, 2, 0)), [(a, 5)]);
    }
}

#[test]
fn a_worker_that_drains_is_none_to_wait_for() {
    for awaits_workers in [false, true] {
        let mut plan = PlanBuilder::new();
        plan.class(NodeClass::default());
        let (a, b) = (plan.node(&[]), plan.node(&[]));
        let config = Config {
            awaits_workers,
            ..Config::default()
        };
        let mut story = Story::of(config, &mut plan, 1, 1);
        assert_eq!(starts(&story.miss(&[a, b])), [(a, 0)]);
        story.tell(Event::WorkerDraining(WorkerIx(0)));
        let ended = story.succeed(1, a, 1);
        let is_stuck = |action: &Action| matches!(action, Action::Emit(Notice::Stuck { .. }));
        assert_eq!(ended.iter().any(is_stuck), !awaits_workers, "{ended:?}");
        assert_eq!(story.scheduler.awaits_a_worker(), awaits_workers);
        let left = story.tell(Event::WorkerLost(WorkerIx(0)));
        assert_eq!(left.iter().any(is_stuck), !awaits_workers, "{left:?}");
        assert_eq!(starts(&story.join(5, 0, 2, 0)), [(b, 5)]);
    }
}

#[test]
fn nodes_go_only_where_their_profile_is_served() {
    let mut plan = PlanBuilder::new();
    plan.class(NodeClass {
        executor: Some("gpu".into()),
        ..NodeClass::default()
    });
    let a = plan.node(&[]);
    let mut story = Story::of(
        Config {
            expected_workers: 2,
            ..Config::default()
        },
        &mut plan,
        1,
        1,
    );
    story.expect(misses(&[a]), &[]);
    let gpu = Event::WorkerJoined {
        worker: WorkerIx(1),
        host: HostIx(0),
        capacity: Resources::default(),
        profile: Some("gpu".into()),
        ahead: 0,
        speed: 1000,
        held: Vec::new(),
    };
    story.expect(gpu, &[start(1, a, 1, 1)]);
}

#[test]
fn draining_workers_get_nothing_new() {
    let mut plan = PlanBuilder::new();
    let nodes: Vec<_> = (0..3).map(|_| plan.node(&[])).collect();
    let mut story = Story::of(Config::default(), &mut plan, 2, 1);
    story.miss(&nodes);
    story.expect(Event::WorkerDraining(WorkerIx(0)), &[]);
    story.expect(
        ended(1, AttemptEnd::Succeeded { bytes: 0 }),
        &[commit(nodes[0], 1)],
    );
    story.expect(
        ended(2, AttemptEnd::Succeeded { bytes: 0 }),
        &[commit(nodes[1], 2), start(3, nodes[2], 1, 1)],
    );
}

#[test]
fn nodes_go_where_their_inputs_are() {
    let mut plan = PlanBuilder::new();
    let a = plan.node(&[]);
    let b = plan.node(&[]);
    let (of_a, of_b) = (plan.one(a), plan.one(b));
    let next_a = plan.node(&[of_a]);
    let next_b = plan.node(&[of_b]);
    let mut story = Story::of(Config::default(), &mut plan, 2, 1);
    assert_eq!(starts(&story.miss(&[a, b])), [(a, 0), (b, 1)]);
    story.succeed(1, a, 1 << 20);
    story.succeed(2, b, 1 << 20);
    // Asked in the other order: each still goes to its input.
    let actions = story.miss(&[next_b, next_a]);
    let mut placed = starts(&actions);
    placed.sort();
    assert_eq!(placed, [(next_a, 0), (next_b, 1)]);
}

#[test]
fn a_node_waits_a_bounded_time_for_the_host_of_large_inputs() {
    let mut plan = PlanBuilder::new();
    let a = plan.node(&[]);
    let of_a = plan.one(a);
    let first = plan.node(&[of_a]);
    let second = plan.node(&[of_a]);
    let mut story = Story::of(Config::default(), &mut plan, 2, 1);
    story.miss(&[a]);
    story.succeed(1, a, 1 << 30);
    let actions = story.miss(&[first, second]);
    assert_eq!(
        actions,
        [
            start(2, first, 1, 0),
            Action::SetTimer {
                id: TimerId(0),
                at: Time(100_000)
            }
        ]
    );
    assert!(matches!(
        story.scheduler.explain(second),
        WhyWaiting::NoWorker(_)
    ));
    story.now = 100_000;
    story.expect(Event::TimerFired(TimerId(0)), &[start(3, second, 1, 1)]);
}

#[test]
fn a_group_stays_on_one_host() {
    let mut plan = PlanBuilder::new();
    let cell = plan.node(&[]);
    let cells = plan.gather(&[cell]);
    let members: Vec<_> = (0..3).map(|_| plan.node(&[cells])).collect();
    let other = plan.node(&[]);
    plan.group(&members);
    let mut story = Story::of(Config::default(), &mut plan, 2, 1);
    story.tell(answer(cell, CacheAnswer::Hit { bytes: 0 }));
    assert_eq!(
        story.miss(&members),
        [in_group(start(1, members[0], 1, 0), 0)]
    );
    assert_eq!(starts(&story.miss(&[other])), [(other, 1)]);
    story.expect(
        ended(2, AttemptEnd::Succeeded { bytes: 0 }),
        &[commit(other, 2)],
    );
    let WhyWaiting::NoWorker(unfit) = story.scheduler.explain(members[1]) else {
        panic!("no wait")
    };
    assert_eq!(unfit[1].obstacle, Obstacle::Group(HostIx(0)));
    story.expect(
        ended(1, AttemptEnd::Succeeded { bytes: 0 }),
        &[
            commit(members[0], 1),
            in_group(start(3, members[1], 1, 0), 0),
        ],
    );
    // Its host goes: the rest moves together.
    let actions = story.tell(Event::WorkerLost(WorkerIx(0)));
    assert_eq!(starts(&actions).len(), 1);
    assert_eq!(starts(&actions)[0].1, 1);
}

#[test]
fn a_member_of_a_bound_group_waits_for_no_other_host() {
    let mut plan = PlanBuilder::new();
    let cell = plan.node(&[]);
    let of_cell = plan.one(cell);
    let other = plan.node(&[]);
    let first = plan.node(&[]);
    let second = plan.node(&[of_cell]);
    plan.group(&[first, second]);
    let mut story = Story::of(Config::default(), &mut plan, 2, 1);
    assert_eq!(starts(&story.miss(&[cell])), [(cell, 0)]);
    story.succeed(1, cell, 1 << 30);
    assert_eq!(starts(&story.miss(&[other])), [(other, 0)]);
    story.expect(
        answer(first, CacheAnswer::Miss { action: None }),
        &[in_group(start(3, first, 1, 1), 0)],
    );
    assert_eq!(story.miss(&[second]), []);
    // What it reads is large and on the first host, but its group is on the second.
    story.expect(
        ended(3, AttemptEnd::Succeeded { bytes: 0 }),
        &[commit(first, 3), in_group(start(4, second, 1, 1), 0)],
    );
}

#[test]
fn a_large_node_is_not_passed_by_small_ones_for_ever() {
    let mut plan = PlanBuilder::new();
    plan.class(NodeClass::default());
    let big = plan.class(NodeClass {
        resources: Resources {
            cpu_milli: 2000,
            ..Resources::default()
        },
        ..NodeClass::default()
    });
    let small: Vec<_> = (0..100).map(|_| plan.node(&[])).collect();
    let large = plan.node_of(big, 0, &[]);
    let mut story = Story::of(Config::default(), &mut plan, 1, 2);
    story.miss(&small[..2]);
    story.miss(&[large]);
    story.miss(&small[2..]);
    let mut ended_small = 0;
    for attempt in 1.. {
        if story.state(large) != NodeState::Waiting
            && matches!(story.state(large), NodeState::Running { .. })
        {
            break;
        }
        story.tell(ended(attempt, AttemptEnd::Succeeded { bytes: 0 }));
        ended_small += 1;
    }
    assert!(ended_small < 40, "{ended_small} small nodes went first");
}

#[test]
fn stragglers_get_a_second_attempt_and_the_first_result_counts() {
    let mut plan = PlanBuilder::new();
    plan.class(NodeClass {
        speculate: true,
        ..NodeClass::default()
    });
    let nodes: Vec<_> = (0..6).map(|_| plan.node(&[])).collect();
    let mut story = Story::of(Config::default(), &mut plan, 2, 3);
    story.tell(Event::PlanComplete);
    story.miss(&nodes);
    for attempt in 1..=6 {
        story.expect(Event::AttemptStarted(AttemptId(attempt)), &[]);
    }
    story.now = 10_000_000;
    let mut timer = None;
    for attempt in 1..=5 {
        let actions = story.tell(ended(attempt, AttemptEnd::Succeeded { bytes: 0 }));
        for action in actions {
            match action {
                Action::SetTimer { id, at } => timer = Some((id, at)),
                Action::Commit { node, .. } => {
                    story.tell(Event::Committed(node));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let (id, at) = timer.expect("the last one is watched");
    assert_eq!(at, Time(20_000_000));
    story.now = at.0;
    let slow = nodes
        .iter()
        .copied()
        .find(|n| matches!(story.state(*n), NodeState::Running { .. }));
    let slow = slow.expect("one is left");
    let actions = story.tell(Event::TimerFired(id));
    assert_eq!(actions[0], Action::Emit(Notice::Speculated { node: slow }));
    assert_eq!(starts(&actions).len(), 1);
    story.expect(
        ended(7, AttemptEnd::Succeeded { bytes: 0 }),
        &[cancel(6, true), commit(slow, 7)],
    );
    story.expect(Event::Committed(slow), &[done(slow, NodeEnd::Succeeded)]);
    story.expect(
        ended(6, AttemptEnd::Succeeded { bytes: 0 }),
        &[Action::Finish],
    );
}

fn ended_after(attempt: u64, micros: u64) -> Event {
    Event::AttemptEnded {
        attempt: AttemptId(attempt),
        end: AttemptEnd::Succeeded { bytes: 0 },
        ran: micros,
    }
}

fn recall(attempt: u64) -> Action {
    Action::Recall {
        attempt: AttemptId(attempt),
    }
}

fn ahead(attempt: u64, node: NodeIx, number: u32, worker: u32) -> Action {
    let mut action = start(attempt, node, number, worker);
    if let Action::Start { ahead, .. } = &mut action {
        *ahead = true;
    }
    action
}

/// `hosts` workers with one slot each that hold three attempts, and nodes of which each first one has run for `micros`.
fn busy(hosts: u32, count: usize, micros: u64) -> (Story, Vec<NodeIx>, Vec<Action>) {
    let mut plan = PlanBuilder::new();
    let nodes: Vec<_> = (0..count).map(|_| plan.node(&[])).collect();
    let mut story = Story::new(Config::default());
    for host in 0..hosts {
        story.tell(Event::WorkerJoined {
            worker: WorkerIx(host),
            host: HostIx(host),
            capacity: Resources {
                cpu_milli: 1000,
                ..Resources::none()
            },
            profile: None,
            ahead: 3,
            speed: 1000,
            held: Vec::new(),
        });
    }
    story.tell(Event::PlanExtended(plan.delta()));
    story.tell(Event::PlanComplete);
    let starts = u64::from(hosts);
    assert_eq!(story.miss(&nodes).len() as u64, starts);
    for attempt in 1..starts {
        story.tell(ended_after(attempt, 0));
    }
    let actions = story.tell(ended_after(starts, micros));
    (story, nodes, actions)
}

#[test]
fn short_nodes_are_given_ahead_and_begin_in_their_order() {
    let (mut story, nodes, actions) = busy(1, 7, 1_000);
    let mut expected = vec![commit(nodes[0], 1), start(2, nodes[1], 1, 0)];
    expected.extend((3..6).map(|id| ahead(id, nodes[id as usize - 1], 1, 0)));
    assert_eq!(actions, expected);
    assert_eq!(story.scheduler.counts().running, 1);
    assert_eq!(story.scheduler.counts().queued, 3);
    let queued = NodeState::Queued {
        attempt: AttemptId(3),
    };
    assert_eq!(story.state(nodes[2]), queued);
    story.expect(
        ended_after(2, 1_000),
        &[commit(nodes[1], 2), ahead(6, nodes[5], 1, 0)],
    );
    assert!(matches!(story.state(nodes[2]), NodeState::Running { .. }));
    assert_eq!(
        story.state(nodes[3]),
        NodeState::Queued {
            attempt: AttemptId(4)
        }
    );
    // The word that the next one runs may come before the word that the one before it has ended.
    story.expect(Event::AttemptStarted(AttemptId(4)), &[]);
    assert!(matches!(story.state(nodes[3]), NodeState::Running { .. }));
    story.expect(
        ended_after(4, 1_000),
        &[commit(nodes[3], 4), ahead(7, nodes[6], 1, 0)],
    );
}

#[test]
fn long_nodes_and_those_of_which_nothing_is_known_are_not_given_ahead() {
    for (micros, given) in [(0, 0), (60_000, 0), (30_000, 1), (20_000, 2), (1_000, 3)] {
        let (story, _, _) = busy(1, 7, micros);
        assert_eq!(story.scheduler.counts().queued, given, "{micros} µs");
    }
}

#[test]
fn a_stop_and_a_drain_ask_for_what_has_not_begun() {
    let (mut story, nodes, _) = busy(1, 5, 1_000);
    story.expect(
        Event::StopRequested(Stop::Drain),
        &[recall(3), recall(4), recall(5)],
    );
    // One has begun meanwhile, the others come back.
    story.expect(Event::AttemptStarted(AttemptId(3)), &[]);
    for attempt in [4, 5] {
        let node = nodes[attempt as usize - 1];
        story.expect(
            ended(attempt, AttemptEnd::Cancelled),
            &[done(node, NodeEnd::Cancelled)],
        );
    }
    story.expect(ended_after(2, 1_000), &[commit(nodes[1], 2)]);
    story.expect(ended_after(3, 1_000), &[commit(nodes[2], 3)]);

    let (mut story, nodes, _) = busy(1, 5, 1_000);
    story.expect(
        Event::WorkerDraining(WorkerIx(0)),
        &[recall(3), recall(4), recall(5)],
    );
    story.expect(ended(3, AttemptEnd::Cancelled), &[]);
    assert!(matches!(story.state(nodes[2]), NodeState::Ready { .. }));
    assert_eq!(story.scheduler.charged(nodes[2]), (0, 0));
}

#[test]
fn what_was_lost_before_it_began_is_not_charged_and_not_given_ahead_again() {
    let (mut story, nodes, _) = busy(1, 5, 1_000);
    story.tell(Event::WorkerLost(WorkerIx(0)));
    assert_eq!(story.scheduler.charged(nodes[1]), (0, 1));
    for node in &nodes[2..] {
        assert_eq!(story.scheduler.charged(*node), (0, 0));
    }
    let actions = story.tell(Event::WorkerJoined {
        worker: WorkerIx(1),
        host: HostIx(0),
        capacity: Resources {
            cpu_milli: 1000,
            ..Resources::none()
        },
        profile: None,
        ahead: 3,
        speed: 1000,
        held: Vec::new(),
    });
    assert_eq!(starts(&actions).len(), 1);
    assert_eq!(story.scheduler.counts().queued, 0);
}

#[test]
fn a_worker_without_work_gets_what_others_have_not_begun() {
    let (mut story, nodes, _) = busy(2, 6, 1_000);
    // Attempts 3 and 4 run on workers 0 and 1; two more wait, one at each.
    assert_eq!(story.scheduler.counts().queued, 2);
    story.expect(ended_after(4, 1_000), &[commit(nodes[3], 4)]);
    story.expect(ended_after(6, 1_000), &[commit(nodes[5], 6), recall(5)]);
    let actions = story.tell(ended(5, AttemptEnd::Cancelled));
    assert_eq!(starts(&actions), [(nodes[4], 1)]);
    assert_eq!(story.scheduler.charged(nodes[4]), (0, 0));
}

// --- adoption ---------------------------------------------------------------------------------

#[test]
fn an_attempt_that_still_runs_is_adopted_and_its_node_does_not_start_again() {
    let mut plan = PlanBuilder::new();
    let (a, b) = (plan.node(&[]), plan.node(&[]));
    let mut story = Story::of(Config::default(), &mut plan, 0, 0);
    story.tell(Event::PlanComplete);
    // Its slot is taken from the beginning: the other node does not get it.
    assert_eq!(story.join_with(0, 1, 7, a), []);
    assert_eq!(story.miss(&[b]), []);
    assert_eq!(story.miss(&[a]), [adopted(a, 7)]);
    assert_eq!(
        story.tell(ended(7, AttemptEnd::Succeeded { bytes: 1 })),
        [commit(a, 7), start(8, b, 1, 0)]
    );
    assert_eq!(
        story.tell(Event::Committed(a)),
        [done(a, NodeEnd::Succeeded)]
    );
}

#[test]
fn an_attempt_that_ended_before_its_node_was_looked_up_counts_then() {
    let mut plan = PlanBuilder::new();
    let a = plan.node(&[]);
    let mut story = Story::of(Config::default(), &mut plan, 0, 0);
    story.join_with(0, 1, 7, a);
    assert_eq!(story.tell(ended(7, AttemptEnd::Succeeded { bytes: 1 })), []);
    assert!(story.scheduler.keeps(a, AttemptId(7)));
    assert_eq!(story.miss(&[a]), [adopted(a, 7), commit(a, 7)]);
    assert!(!story.scheduler.keeps(a, AttemptId(7)));
}

#[test]
fn an_adopted_attempt_that_failed_is_charged_and_tried_again_under_the_next_number() {
    let mut plan = PlanBuilder::new();
    let class = plan.class(NodeClass {
        max_retries: 1,
        backoff: Duration::ZERO,
        ..NodeClass::default()
    });
    let a = plan.node_of(class, 0, &[]);
    let mut story = Story::of(Config::default(), &mut plan, 0, 0);
    story.join_with(0, 1, 7, a);
    story.miss(&[a]);
    assert_eq!(story.tell(failed(7)).last(), Some(&start(8, a, 3, 0)));
    assert_eq!(story.scheduler.charged(a), (1, 0));
    assert_eq!(story.tell(failed(8)), [done(a, NodeEnd::Failed)]);
}

#[test]
fn an_attempt_of_no_use_is_cancelled_and_holds_its_slot_until_it_is_gone() {
    let mut plan = PlanBuilder::new();
    let (hit, other, unknown) = (plan.node(&[]), plan.node(&[]), NodeIx(9));
    let mut story = Story::of(Config::default(), &mut plan, 0, 0);
    story.tell(Event::PlanComplete);
    story.join_with(0, 1, 7, hit);
    assert_eq!(story.join_with(1, 1, 5, unknown), [cancel(5, true)]);
    assert_eq!(story.join_with(2, 1, 6, other), []);
    assert_eq!(
        story.tell(answer(hit, CacheAnswer::Hit { bytes: 1 })),
        [done(hit, NodeEnd::Cached), cancel(7, true)]
    );
    let action = Some(digest("made of other inputs"));
    assert_eq!(
        story.tell(answer(other, CacheAnswer::Miss { action })),
        [cancel(6, true), start(8, other, 3, 1)]
    );
    assert_eq!(story.tell(ended(7, AttemptEnd::Cancelled)), []);
    assert_eq!(story.tell(ended(6, AttemptEnd::Cancelled)), []);
    assert_eq!(story.scheduler.charged(other), (0, 0));
}

#[test]
fn a_worker_that_was_taken_for_lost_brings_back_what_it_runs() {
    let mut plan = PlanBuilder::new();
    let (a, b) = (plan.node(&[]), plan.node(&[]));
    let mut story = Story::of(Config::default(), &mut plan, 1, 1);
    story.miss(&[a, b]);
    story.tell(Event::AttemptStarted(AttemptId(1)));
    story.tell(Event::WorkerLost(WorkerIx(0)));
    // What it says of attempts that were given up changes nothing.
    assert_eq!(story.tell(ended(1, AttemptEnd::Succeeded { bytes: 1 })), []);
    assert_eq!(
        story.join_with(1, 2, 1, a),
        [adopted(a, 1), start(2, b, 1, 1)]
    );
    // Where its node has started elsewhere by then, the old attempt goes.
    story.tell(Event::WorkerLost(WorkerIx(1)));
    story.join(2, 2, 2, 0);
    assert_eq!(story.join_with(3, 1, 1, a), [cancel(1, true)]);
}

#[test]
fn a_waiter_with_an_attempt_goes_before_an_equal_node_that_has_not_begun() {
    let mut plan = PlanBuilder::new();
    let (a, b) = (plan.node(&[]), plan.node(&[]));
    let mut story = Story::of(Config::default(), &mut plan, 0, 0);
    let miss = |node: NodeIx| CacheAnswer::Miss {
        action: Some(digest(&node.0.to_string())),
    };
    story.join_with(0, 1, 7, b);
    story.tell(Event::CacheAnswered(vec![(a, miss(b))]));
    assert_eq!(story.tell(answer(b, miss(b))), [adopted(b, 7)]);
    assert_eq!(story.state(a), NodeState::Sharing);
    assert_eq!(
        story.succeed(7, b, 1),
        [done(b, NodeEnd::Succeeded), done(a, NodeEnd::Cached)]
    );
}

// --- blame ------------------------------------------------------------------------------------

#[test]
fn neighbours_of_a_node_that_kills_its_workers_are_not_blamed() {
    let mut plan = PlanBuilder::new();
    let nodes: Vec<_> = (0..4).map(|_| plan.node(&[])).collect();
    let poison = nodes[2];
    let mut story = Story::of(Config::default(), &mut plan, 0, 0);
    story.tell(Event::PlanComplete);
    story.miss(&nodes);
    let mut worker = 0;
    let mut deaths = 0;
    let mut actions = story.join(worker, 0, 4, 0);
    while story.scheduler.counts().done() < 4 {
        let started: Vec<(NodeIx, u64)> = actions.iter().filter_map(attempt_of).collect();
        assert!(deaths < 2 || started.len() == 1, "the last try is alone");
        for (_, attempt) in &started {
            story.tell(Event::AttemptStarted(AttemptId(*attempt)));
        }
        if started.iter().any(|(node, _)| *node == poison) {
            deaths += 1;
            story.tell(Event::WorkerLost(WorkerIx(worker)));
            worker += 1;
            actions = story.join(worker, 0, 4, 0);
            continue;
        }
        let (node, attempt) = started[0];
        actions = story.tell(ended(attempt, AttemptEnd::Succeeded { bytes: 1 }));
        story.tell(Event::Committed(node));
    }
    assert_eq!(deaths, 3);
    for node in nodes {
        let end = match node == poison {
            true => NodeEnd::Failed,
            false => NodeEnd::Succeeded,
        };
        assert_eq!(story.state(node), NodeState::Done(end));
    }
}

/// A node, and as many workers as asked for that it may meet.
fn node_among(workers: u32) -> (Story, NodeIx) {
    let mut plan = PlanBuilder::new();
    let node = plan.node(&[]);
    let mut story = Story::of(Config::default(), &mut plan, workers, 1);
    story.tell(Event::PlanComplete);
    story.miss(&[node]);
    (story, node)
}

#[test]
fn a_node_that_kills_its_workers_while_others_die_is_stopped_later() {
    let (mut story, node) = node_among(20);
    let mut killed = 0;
    for other in (10..20).rev() {
        story.now += 1_000_000;
        story.tell(Event::WorkerLost(WorkerIx(other)));
        story.tell(Event::WorkerLost(WorkerIx(killed)));
        killed += 1;
        if let NodeState::Done(_) = story.state(node) {
            break;
        }
    }
    assert_eq!((killed, story.scheduler.charged(node)), (6, (0, 3)));
}

#[test]
fn workers_that_die_together_blame_no_node() {
    let mut plan = PlanBuilder::new();
    let nodes: Vec<_> = (0..20).map(|_| plan.node(&[])).collect();
    let mut story = Story::of(Config::default(), &mut plan, 20, 1);
    story.tell(Event::PlanComplete);
    let mut running: Vec<(NodeIx, u64)> =
        story.miss(&nodes).iter().filter_map(attempt_of).collect();
    // Three times all workers die within two seconds, and others come. What moves to one that dies next does not begin there.
    for storm in 1..=3 {
        for (_, attempt) in running.drain(..) {
            story.tell(Event::AttemptStarted(AttemptId(attempt)));
        }
        let (old, new) = (20 * (storm - 1), 20 * storm);
        for worker in old..old + 20 {
            story.now += 100_000;
            // As an executor does that has something to hand back first.
            if worker % 2 == 0 {
                story.tell(Event::WorkerDraining(WorkerIx(worker)));
            }
            story.tell(Event::WorkerLost(WorkerIx(worker)));
        }
        for worker in new..new + 20 {
            running.extend(
                story
                    .join(worker, worker, 1, 0)
                    .iter()
                    .filter_map(attempt_of),
            );
        }
        running.retain(|(node, _)| matches!(story.state(*node), NodeState::Running { .. }));
    }
    for node in nodes {
        assert!(
            !matches!(story.state(node), NodeState::Done(_)),
            "{node:?} is blamed"
        );
    }
}

#[test]
fn what_was_handed_back_is_no_loss() {
    let (mut story, node) = node_among(2);
    for attempt in 1..10 {
        let actions = story.tell(ended(attempt, AttemptEnd::Cancelled));
        assert_eq!(actions.iter().filter_map(attempt_of).count(), 1);
    }
    assert_eq!(story.scheduler.charged(node), (0, 0));
}

fn attempt_of(action: &Action) -> Option<(NodeIx, u64)> {
    match action {
        Action::Start { node, attempt, .. } => Some((*node, attempt.0)),
        _ => None,
    }
}

// --- speed ------------------------------------------------------------------------------------

fn joined_with_speed(worker: u32, slots: u64, speed: u32) -> Event {
    let mut join = joined(worker, worker, slots, 0);
    if let Event::WorkerJoined { speed: says, .. } = &mut join {
        *says = speed;
    }
    join
}

fn speculating(plan: &mut PlanBuilder, nodes: u32) -> Vec<NodeIx> {
    plan.class(NodeClass {
        speculate: true,
        ..NodeClass::default()
    });
    (0..nodes).map(|_| plan.node(&[])).collect()
}

#[test]
fn a_fast_host_comes_before_a_roomy_one() {
    let mut plan = PlanBuilder::new();
    let nodes: Vec<_> = (0..3).map(|_| plan.node(&[])).collect();
    let mut story = Story::of(Config::default(), &mut plan, 0, 0);
    story.tell(joined_with_speed(0, 4, 500));
    story.tell(joined_with_speed(1, 2, 1000));
    let actions = story.miss(&nodes);
    assert_eq!(
        starts(&actions),
        [(nodes[0], 1), (nodes[1], 1), (nodes[2], 0)]
    );
}

/// Runs five nodes of ten seconds, one after the other, on a worker of one slot; gives the next attempt.
fn five_of_ten_seconds(story: &mut Story, nodes: &[NodeIx]) -> u64 {
    story.tell(Event::PlanComplete);
    story.tell(joined_with_speed(0, 1, 1000));
    story.miss(nodes);
    for attempt in 1..=5 {
        story.tell(Event::AttemptStarted(AttemptId(attempt)));
        story.now += 10_000_000;
        story.tell(ended(attempt, AttemptEnd::Succeeded { bytes: 0 }));
        story.tell(Event::Committed(nodes[attempt as usize - 1]));
    }
    story.tell(Event::AttemptStarted(AttemptId(6)));
    7
}

fn timer_of(actions: &[Action]) -> Option<(TimerId, Time)> {
    actions.iter().find_map(|action| match action {
        Action::SetTimer { id, at } => Some((*id, *at)),
        _ => None,
    })
}

#[test]
fn limits_of_stragglers_are_weighed_by_speed() {
    let mut plan = PlanBuilder::new();
    let nodes = speculating(&mut plan, 7);
    let mut story = Story::of(Config::default(), &mut plan, 0, 0);
    let next = five_of_ten_seconds(&mut story, &nodes);
    let actions = story.tell(joined_with_speed(1, 1, 250));
    assert_eq!(starts(&actions), [(nodes[6], 1)]);
    let began = story.now;
    let actions = story.tell(Event::AttemptStarted(AttemptId(next)));
    let (_, at) = timer_of(&actions).expect("it is watched");
    assert_eq!(at.0 - began, 80_000_000, "twice ten seconds at a quarter");
}

#[test]
fn what_a_fast_worker_that_idles_would_end_sooner_gets_a_second_attempt_there() {
    let mut plan = PlanBuilder::new();
    let nodes = speculating(&mut plan, 7);
    let mut story = Story::of(Config::default(), &mut plan, 0, 0);
    let next = five_of_ten_seconds(&mut story, &nodes);
    let actions = story.tell(joined_with_speed(1, 1, 250));
    let (timer, _) = timer_of(&actions).expect("a look is planned");
    story.tell(Event::AttemptStarted(AttemptId(next)));
    story.now += 10_000_000;
    story.tell(ended(6, AttemptEnd::Succeeded { bytes: 0 }));
    // It has 30 of its 40 seconds to go, and takes 10 here.
    let actions = story.tell(Event::TimerFired(timer));
    assert_eq!(starts(&actions), [(nodes[6], 0)]);
    story.now += 10_000_000;
    story.expect(
        ended(next + 1, AttemptEnd::Succeeded { bytes: 0 }),
        &[cancel(next, true), commit(nodes[6], next + 1)],
    );
    story.tell(ended(next, AttemptEnd::Cancelled));
    let cost = story.scheduler.speculation();
    assert_eq!((cost.started, cost.won, cost.lost), (1, 1, 1));
    assert_eq!(cost.lost_micros, 20_000_000);
}

// --- switches for benches ---------------------------------------------------------------------

#[test]
fn benches_may_place_without_looking_at_bytes_and_take_groups_apart() {
    for plain in [false, true] {
        let mut plan = PlanBuilder::new();
        let a = plan.node(&[]);
        let all = plan.gather(&[a]);
        let members: Vec<_> = (0..2).map(|_| plan.node(&[all])).collect();
        plan.group(&members);
        let config = Config {
            no_locality: plain,
            no_fuse: plain,
            ..Config::default()
        };
        let mut story = Story::of(config, &mut plan, 1, 4);
        story.miss(&[a]);
        story.succeed(1, a, 1 << 30);
        // The new host has as much room and none of the input.
        story.join(1, 1, 8, 0);
        let actions = story.miss(&members);
        let wanted = if plain { 1 } else { 0 };
        assert_eq!(starts(&actions)[0], (members[0], wanted));
        let grouped = |action: &Action| matches!(action, Action::Start { group: Some(_), .. });
        assert_eq!(actions.iter().any(grouped), !plain);
    }
}

// --- workers that are shared with others ----------------------------------------------------------

fn taken(of: &[(u32, u64)]) -> Event {
    let others = |cpus: u64| Resources {
        cpu_milli: cpus * 1000,
        ..Resources::none()
    };
    let taken = of
        .iter()
        .map(|(worker, cpus)| (WorkerIx(*worker), others(*cpus)));
    Event::TakenByOthers(taken.collect())
}

fn withdraw(attempt: u64) -> Action {
    Action::Withdraw {
        attempt: AttemptId(attempt),
    }
}

/// Two hosts with one slot each; a node has made so much on the first, and another one reads it.
fn reader_of(bytes: u64) -> (Story, NodeIx) {
    let mut plan = PlanBuilder::new();
    let maker = plan.node(&[]);
    let need = plan.one(maker);
    let reader = plan.node(&[need]);
    let mut story = Story::of(Config::default(), &mut plan, 2, 1);
    assert_eq!(starts(&story.miss(&[maker])), [(maker, 0)]);
    story.succeed(1, maker, bytes);
    (story, reader)
}

#[test]
fn a_node_goes_where_others_have_left_room() {
    let (mut story, reader) = reader_of(60 << 20);
    story.expect(taken(&[(0, 1)]), &[]);
    assert_eq!(starts(&story.miss(&[reader])), [(reader, 1)]);
}

#[test]
fn a_node_waits_for_others_no_longer_than_a_moment() {
    let (mut story, reader) = reader_of(1 << 30);
    story.tell(taken(&[(0, 1)]));
    // It is worth a moment, though not more.
    let actions = story.miss(&[reader]);
    let [Action::SetTimer { id, at }] = actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!(at, Time(100_000));
    let WhyWaiting::NoWorker(unfit) = story.scheduler.explain(reader) else {
        panic!("it waits for a worker");
    };
    let is_taken = Obstacle::Taken {
        resource: "cpu".into(),
        needed: 1000,
        free: 0,
    };
    assert_eq!(
        (&unfit[0].obstacle, &unfit[1].obstacle),
        (&is_taken, &Obstacle::Elsewhere)
    );
    story.now = 100_000;
    let actions = story.tell(Event::TimerFired(id));
    assert_eq!(starts(&actions), [(reader, 1)]);
}

#[test]
fn a_node_that_waits_behind_others_is_moved_to_where_room_is() {
    let (mut story, reader) = reader_of(1 << 30);
    assert_eq!(starts(&story.miss(&[reader])), [(reader, 0)]);
    // Others were faster; the other host is free, and much would have to move.
    story.now = 10_000;
    let actions = story.tell(taken(&[(0, 1)]));
    let [.., Action::SetTimer { id, at }] = actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!(at, Time(100_000), "since it was submitted");
    let behind = WhyWaiting::Crowded(WorkerIx(0));
    assert_eq!(story.scheduler.explain(reader), behind);
    story.now = 100_000;
    let actions = story.tell(Event::TimerFired(id));
    assert_eq!(actions[0], withdraw(2));
    // It has waited already, and nobody is to blame.
    let back = story.tell(ended(2, AttemptEnd::Cancelled));
    assert_eq!(back, [start(3, reader, 2, 1)]);
    assert_eq!(story.scheduler.charged(reader), (0, 0));
}

#[test]
fn where_nobody_has_left_room_a_node_waits_for_its_runs_turn() {
    let (mut story, reader) = reader_of(60 << 20);
    story.tell(taken(&[(0, 1), (1, 1)]));
    // With its inputs, so that it is given room as soon as others leave it.
    assert_eq!(starts(&story.miss(&[reader])), [(reader, 0)]);
    story.expect(taken(&[(1, 1)]), &[]);
    let actions = story.tell(taken(&[(1, 0)]));
    assert_eq!(actions[0], withdraw(2));
    // It was on its way by then: all goes on as before.
    story.tell(Event::AttemptStarted(AttemptId(2)));
    story.expect(taken(&[(0, 0)]), &[]);
    story.succeed(2, reader, 0);
}

#[test]
fn a_stop_asks_for_what_waits_behind_others() {
    let (mut story, reader) = reader_of(60 << 20);
    story.miss(&[reader]);
    story.tell(taken(&[(0, 1), (1, 1)]));
    story.expect(Event::StopRequested(Stop::Drain), &[withdraw(2)]);
    let actions = story.tell(ended(2, AttemptEnd::Cancelled));
    assert_eq!(actions[0], done(reader, NodeEnd::Cancelled));
}

// --- many hosts -------------------------------------------------------------------------------

#[test]
fn of_hundreds_of_hosts_the_one_that_has_the_inputs_is_found() {
    let mut plan = PlanBuilder::new();
    let nodes: Vec<_> = (0..200).map(|_| plan.node(&[])).collect();
    let reader_of = |plan: &mut PlanBuilder, node: NodeIx| {
        let need = plan.one(node);
        plan.node(&[need])
    };
    let readers: Vec<_> = nodes.iter().map(|n| reader_of(&mut plan, *n)).collect();
    let mut story = Story::of(Config::default(), &mut plan, 200, 1);
    let placed = starts(&story.miss(&nodes));
    let (node, host) = placed[150];
    for attempt in 1..=200 {
        let (node, _) = placed[attempt as usize - 1];
        story.succeed(attempt, node, 1 << 20);
    }
    let reader = readers[nodes.iter().position(|n| *n == node).unwrap()];
    assert_eq!(starts(&story.miss(&[reader])), [(reader, host)]);
    // A copy that was fetched counts as much, and one that is gone does not.
    let (other, from) = placed[120];
    let reader = readers[nodes.iter().position(|n| *n == other).unwrap()];
    story.tell(Event::ReplicaAdded {
        node: other,
        host: HostIx(199),
    });
    story.tell(Event::ReplicaDropped {
        node: other,
        host: HostIx(from),
    });
    assert_eq!(starts(&story.miss(&[reader])), [(reader, 199)]);
}
