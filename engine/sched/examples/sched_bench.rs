//! Nanoseconds of CPU time per event of the scheduler core, with a driver that answers at once.
//!
//! `sched_bench [NODES...]` prints one JSON array; `events` are those handed to the core. Two shapes: `trials` (ten
//! replicates that three fused targets gather, and a score of them) and `chains` (wide chains of ten nodes).

#![expect(clippy::print_stdout, reason = "a command line program")]

use std::collections::VecDeque;

use dagrun_model::{Digest, HostIx, NodeIx, PlanDelta, Resources, WorkerIx};
use dagrun_sched::{
    Action, AttemptEnd, CacheAnswer, Config, Event, Scheduler, Time, sim::PlanBuilder,
};

/// Slots of each host.
const SLOTS: u64 = 32;

struct Measured {
    shape: &'static str,
    nodes: u64,
    hosts: u32,
    events: u64,
    plan_ns: u64,
    ns: u64,
}

fn main() {
    let given: Vec<u32> = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse().ok())
        .collect();
    let sizes = if given.is_empty() {
        vec![10_000, 100_000, 1_000_000]
    } else {
        given
    };
    let mut rows = Vec::new();
    for nodes in sizes {
        for hosts in [1, 8] {
            rows.push(measure("trials", trials(nodes), hosts));
            rows.push(measure("chains", chains(nodes), hosts));
        }
    }
    let rows: Vec<String> = rows.iter().map(Measured::json).collect();
    println!("[\n  {}\n]", rows.join(",\n  "));
}

impl Measured {
    fn json(&self) -> String {
        let Self {
            shape,
            nodes,
            hosts,
            events,
            plan_ns,
            ns,
        } = self;
        format!(
            "{{\"shape\": \"{shape}\", \"nodes\": {nodes}, \"hosts\": {hosts}, \"events\": {events}, \
             \"ns_per_event\": {}, \"plan_ns_per_node\": {}}}",
            ns / events.max(&1),
            plan_ns / nodes.max(&1),
        )
    }
}

fn trials(nodes: u32) -> PlanDelta {
    let mut plan = PlanBuilder::new();
    let root = plan.node(&[]);
    let of_root = plan.one(root);
    for _ in 0..nodes / 14 {
        let replicates: Vec<NodeIx> = (0..10).map(|_| plan.node_of(0, 1, &[of_root])).collect();
        let all = plan.gather(&replicates);
        let targets: Vec<NodeIx> = (0..3).map(|_| plan.node_of(0, 2, &[all])).collect();
        plan.group(&targets);
        let scores = plan.gather(&targets);
        plan.node_of(0, 3, &[scores]);
    }
    plan.delta()
}

fn chains(nodes: u32) -> PlanDelta {
    let mut plan = PlanBuilder::new();
    let width = nodes / 10;
    let mut level: Vec<NodeIx> = (0..width).map(|_| plan.node(&[])).collect();
    for _ in 1..10 {
        level = level
            .iter()
            .map(|node| {
                let need = plan.one(*node);
                plan.node(&[need])
            })
            .collect();
    }
    plan.delta()
}

fn measure(shape: &'static str, delta: PlanDelta, hosts: u32) -> Measured {
    let nodes = delta.nodes.len() as u64;
    let mut scheduler = Scheduler::new(Config::default());
    let mut actions = Vec::new();
    for host in 0..hosts {
        let capacity = Resources {
            cpu_milli: SLOTS * 1000,
            ..Resources::none()
        };
        let (worker, host) = (WorkerIx(host), HostIx(host));
        let join = Event::WorkerJoined {
            worker,
            host,
            capacity,
            profile: None,
            ahead: 0,
            speed: 1000,
            held: Vec::new(),
        };
        scheduler.handle(Time(0), join, &mut actions);
    }
    let begin = cpu_ns();
    scheduler.handle(Time(0), Event::PlanExtended(delta), &mut actions);
    let plan_ns = cpu_ns() - begin;
    let mut queue: VecDeque<Event> = VecDeque::from([Event::PlanComplete]);
    let (mut events, mut now, mut finished) = (0, 0, false);
    let begin = cpu_ns();
    loop {
        for action in actions.drain(..) {
            finished |= action == Action::Finish;
            answer(action, &mut queue);
        }
        let Some(event) = queue.pop_front() else {
            break;
        };
        events += 1;
        now += 10;
        scheduler.handle(Time(now), event, &mut actions);
    }
    let ns = cpu_ns() - begin;
    assert!(finished, "the plan did not finish");
    Measured {
        shape,
        nodes,
        hosts,
        events,
        plan_ns,
        ns,
    }
}

fn answer(action: Action, queue: &mut VecDeque<Event>) {
    match action {
        Action::LookUp(nodes) => {
            let miss = |node: NodeIx| {
                let mut bytes = [7; 32];
                bytes[..8].copy_from_slice(
                    &u64::from(node.0)
                        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                        .to_le_bytes(),
                );
                (
                    node,
                    CacheAnswer::Miss {
                        action: Some(Digest(bytes)),
                    },
                )
            };
            for batch in nodes.chunks(1024) {
                queue.push_back(Event::CacheAnswered(
                    batch.iter().copied().map(miss).collect(),
                ));
            }
        }
        Action::Start { attempt, .. } => {
            queue.push_back(Event::AttemptStarted(attempt));
            queue.push_back(Event::AttemptEnded {
                attempt,
                end: AttemptEnd::Succeeded { bytes: 1 << 20 },
                ran: 0,
            });
        }
        Action::Commit { node, .. } => queue.push_back(Event::Committed(node)),
        Action::Cancel { .. }
        | Action::Recall { .. }
        | Action::Withdraw { .. }
        | Action::SetTimer { .. }
        | Action::Emit(_)
        | Action::Finish => {}
    }
}

/// CPU time of this thread, in nanoseconds: other processes of a busy machine do not count.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = stat.split(' ').next().and_then(|it| it.parse().ok());
    first.unwrap_or(0)
}
