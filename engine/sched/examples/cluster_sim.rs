//! The scheduler with clusters that are not here, on a simulated clock.
//!
//! `cluster_sim makespan` runs nodes on five hosts of four slots, one of them at half speed, with and without second attempts.
//! `cluster_sim scale WORKERS NODES` runs nodes on so many workers of one slot each, four to a host, and measures the core: CPU time a
//! node, of which the loop that plays the workers is measured by itself, and bytes a live node. Both print one JSON array.

#![expect(clippy::print_stdout, reason = "a command line program")]

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use dagrun_model::{AttemptId, Digest, HostIx, NodeClass, NodeIx, PlanDelta, Resources, WorkerIx};
use dagrun_sched::{
    Action, AttemptEnd, CacheAnswer, Config, Event, Scheduler, Speculation, Time, TimerId,
    sim::PlanBuilder,
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u32>().ok());
    let rows = match (arguments.first().map(String::as_str), number(1), number(2)) {
        (Some("makespan"), ..) => makespans(),
        (Some("scale"), Some(workers), Some(nodes)) => vec![scale(workers, nodes)],
        _ => {
            println!("cluster_sim makespan | cluster_sim scale WORKERS NODES");
            std::process::exit(2);
        }
    };
    println!("[\n  {}\n]", rows.join(",\n  "));
}

/// A worker: its host, its slots, what it says of its speed and how fast it is, in thousandths.
#[derive(Clone, Copy)]
struct Kind {
    host: u32,
    slots: u64,
    says: u32,
    speed: u64,
}

#[derive(Clone, Copy)]
enum Due {
    /// An attempt, and when it began.
    Ended(AttemptId, u64),
    Timer(TimerId),
}

/// Who says what is to be done.
enum Player {
    Scheduler(Box<Scheduler>),
    /// As it was said before, by event: to measure what the loop takes by itself.
    Recorded(std::vec::IntoIter<Action>, std::vec::IntoIter<u32>),
}

impl Player {
    fn of(config: Config) -> Self {
        Self::Scheduler(Box::new(Scheduler::new(config)))
    }
}

/// What was said, and how much of it to each event.
#[derive(Default)]
struct Record {
    actions: Vec<Action>,
    each: Vec<u32>,
}

/// A cluster in which everything but nodes takes no time.
struct Cluster<'a> {
    player: Player,
    record: Option<Record>,
    kinds: &'a [Kind],
    /// How long a node takes at the reference's speed, in microseconds.
    takes: &'a dyn Fn(NodeIx) -> u64,
    now: u64,
    /// When, in the order in which it was planned, and where it stands what. Small, for the heap is most of what the loop touches.
    due: BinaryHeap<Reverse<(u64, u32, u32)>>,
    next_due: u32,
    what: Vec<Due>,
    /// Places of `what` that can be used again.
    unused: Vec<u32>,
    queue: VecDeque<Event>,
    /// Empty, for what is said next.
    actions: Vec<Action>,
    /// Attempts that ended before they were due.
    cancelled: rustc_hash::FxHashSet<AttemptId>,
    bytes: u64,
    events: u64,
    done: u64,
    last_commit: u64,
    finished: bool,
    /// How many nodes a trial has, where trials are forgotten when they are done; 0 where nothing is.
    trial: u32,
    /// By trial: how many of its nodes are done, while some are not.
    part_done: rustc_hash::FxHashMap<u32, u32>,
}

impl<'a> Cluster<'a> {
    fn new(player: Player, kinds: &'a [Kind], takes: &'a dyn Fn(NodeIx) -> u64) -> Self {
        Self {
            player,
            record: None,
            kinds,
            takes,
            now: 0,
            due: BinaryHeap::new(),
            next_due: 0,
            what: Vec::new(),
            unused: Vec::new(),
            queue: VecDeque::new(),
            actions: Vec::new(),
            cancelled: rustc_hash::FxHashSet::default(),
            bytes: 0,
            events: 0,
            done: 0,
            last_commit: 0,
            finished: false,
            trial: 0,
            part_done: rustc_hash::FxHashMap::default(),
        }
    }

    /// Runs until nothing is left to happen, or `more` has nothing to add.
    fn run(&mut self, more: &mut dyn FnMut(u64) -> Option<Event>) {
        for (worker, kind) in self.kinds.iter().enumerate() {
            self.handle(join(WorkerIx::from_index(worker), kind));
        }
        self.queue.extend(more(self.done));
        loop {
            while let Some(event) = self.queue.pop_front() {
                self.handle(event);
                if self.queue.is_empty() {
                    self.queue.extend(more(self.done));
                }
            }
            let Some(Reverse((at, _, place))) = self.due.pop() else {
                return;
            };
            self.now = at;
            self.unused.push(place);
            match self.what[place as usize] {
                Due::Ended(attempt, began) if !self.cancelled.remove(&attempt) => {
                    let bytes = self.bytes;
                    self.end(attempt, AttemptEnd::Succeeded { bytes }, at - began);
                }
                Due::Ended(..) => {}
                Due::Timer(timer) => self.queue.push_back(Event::TimerFired(timer)),
            }
        }
    }

    fn handle(&mut self, event: Event) {
        self.events += 1;
        let mut actions = std::mem::take(&mut self.actions);
        match &mut self.player {
            Player::Scheduler(scheduler) => {
                scheduler.handle(Time(self.now), event, &mut actions);
            }
            Player::Recorded(said, each) => {
                let len = each.next().unwrap_or(0);
                actions.extend(said.take(len as usize));
            }
        }
        if let Some(record) = &mut self.record {
            record.each.push(actions.len() as u32);
            record.actions.extend(actions.iter().cloned());
        }
        for action in actions.drain(..) {
            self.act(action);
        }
        self.actions = actions;
    }

    fn end(&mut self, attempt: AttemptId, end: AttemptEnd, ran: u64) {
        self.queue
            .push_back(Event::AttemptEnded { attempt, end, ran });
    }

    fn plan_for(&mut self, at: u64, due: Due) {
        self.next_due += 1;
        let place = self.unused.pop().unwrap_or_else(|| {
            self.what.push(due);
            self.what.len() as u32 - 1
        });
        self.what[place as usize] = due;
        self.due.push(Reverse((at, self.next_due, place)));
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::LookUp(nodes) => {
                let answers = nodes.iter().map(|node| (*node, miss(*node))).collect();
                self.queue.push_back(Event::CacheAnswered(answers));
            }
            Action::Start {
                attempt,
                node,
                worker,
                ..
            } => {
                let speed = self.kinds[worker.index()].speed;
                let takes = (self.takes)(node) * 1000 / speed;
                self.queue.push_back(Event::AttemptStarted(attempt));
                self.plan_for(self.now + takes, Due::Ended(attempt, self.now));
            }
            Action::Cancel { attempt, .. } => {
                self.cancelled.insert(attempt);
                self.end(attempt, AttemptEnd::Cancelled, 0);
            }
            Action::Commit { node, .. } => {
                self.done += 1;
                self.last_commit = self.now;
                self.queue.push_back(Event::Committed(node));
                self.forget_if_done(node);
            }
            Action::SetTimer { id, at } => self.plan_for(at.0, Due::Timer(id)),
            Action::Finish => self.finished = true,
            Action::Emit(_) | Action::Recall { .. } | Action::Withdraw { .. } => {}
        }
    }
}

impl Cluster<'_> {
    fn forget_if_done(&mut self, node: NodeIx) {
        let Some(trial) = node.0.checked_div(self.trial) else {
            return;
        };
        let done = self.part_done.entry(trial).or_default();
        *done += 1;
        if *done == self.trial {
            self.part_done.remove(&trial);
            let first = NodeIx(trial * self.trial);
            self.queue.push_back(Event::Retire(first));
        }
    }
}

fn join(worker: WorkerIx, kind: &Kind) -> Event {
    Event::WorkerJoined {
        worker,
        host: HostIx(kind.host),
        capacity: Resources {
            cpu_milli: kind.slots * 1000,
            ..Resources::none()
        },
        profile: None,
        ahead: 0,
        speed: kind.says,
        held: Vec::new(),
    }
}

fn miss(node: NodeIx) -> CacheAnswer {
    let mut bytes = [7; 32];
    let mixed = u64::from(node.0).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bytes[..8].copy_from_slice(&mixed.to_le_bytes());
    let action = Some(Digest(bytes));
    CacheAnswer::Miss { action }
}

// --- one slow host ----------------------------------------------------------------------------

fn makespans() -> Vec<String> {
    let mut rows = Vec::new();
    for nodes in [60, 100, 400] {
        for vary in [0, 10] {
            for (says, speculate) in [(500, false), (500, true), (1000, false), (1000, true)] {
                rows.push(makespan(nodes, vary, says, speculate));
            }
        }
    }
    rows
}

/// Nodes of a minute, give or take `vary` percent, on 5 hosts of 4 slots, of which the last runs at half speed and says `says` of it.
fn makespan(nodes: u32, vary: u64, says: u32, speculate: bool) -> String {
    let kind = |host| Kind {
        host,
        slots: 4,
        says: if host == 4 { says } else { 1000 },
        speed: if host == 4 { 500 } else { 1000 },
    };
    let kinds: Vec<Kind> = (0..5).map(kind).collect();
    let (mut bound, mut ratio, mut cost) = (0.0, 0.0, Speculation::default());
    const SEEDS: u64 = 20;
    for seed in 0..SEEDS {
        let most = vary * 1_200_000;
        let takes = |node: NodeIx| 60_000_000 - most / 2 + spread(seed, node) % (most + 1);
        let mut plan = PlanBuilder::new();
        plan.class(NodeClass {
            resources: Resources {
                cpu_milli: 1000,
                ..Resources::none()
            },
            speculate: true,
            ..NodeClass::default()
        });
        for _ in 0..nodes {
            plan.node(&[]);
        }
        let config = Config {
            speculate,
            story: 0,
            ..Config::default()
        };
        let mut cluster = Cluster::new(Player::of(config), &kinds, &takes);
        cluster.queue.push_back(Event::PlanExtended(plan.delta()));
        cluster.queue.push_back(Event::PlanComplete);
        cluster.run(&mut |_| None);
        assert!(cluster.finished, "the run did not finish");
        let work: u64 = (0..nodes).map(|node| takes(NodeIx(node))).sum();
        let shortest = (0..nodes).map(|node| takes(NodeIx(node))).min();
        let least = (work as f64 / 18.0).max(whole(nodes, shortest.unwrap_or(0)));
        bound += least / 1e6 / SEEDS as f64;
        ratio += cluster.last_commit as f64 / least / SEEDS as f64;
        let Player::Scheduler(scheduler) = &cluster.player else {
            unreachable!("nothing was recorded");
        };
        let own = scheduler.speculation();
        cost.started += own.started;
        cost.won += own.won;
        cost.lost += own.lost;
        cost.lost_micros += own.lost_micros;
    }
    format!(
        "{{\"nodes\": {nodes}, \"vary_percent\": {vary}, \"slow_host_says\": {says}, \"speculate\": {speculate}, \"bound_seconds\": {bound:.1}, \
         \"makespan_over_bound\": {ratio:.3}, \"seconds\": {:.1}, \"runs\": {SEEDS}, \"second_attempts\": {}, \"won\": {}, \
         \"lost_attempts\": {}, \"lost_slot_seconds\": {:.0}}}",
        bound * ratio,
        cost.started,
        cost.won,
        cost.lost,
        cost.lost_micros as f64 / 1e6,
    )
}

/// The least time in which so many nodes can end that take at least so long and cannot be divided.
fn whole(nodes: u32, takes: u64) -> f64 {
    let rounds = (1..).find(|rounds| 16 * rounds + 4 * (rounds / 2) >= nodes);
    f64::from(rounds.unwrap_or(0)) * takes as f64
}

/// A number that looks random and depends on nothing but its arguments.
fn spread(seed: u64, node: NodeIx) -> u64 {
    let mut z = (seed << 32 | u64::from(node.0)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

// --- ten thousand workers ---------------------------------------------------------------------

/// How many nodes a trial of the scale bench has.
const TRIAL: u32 = 13;

/// Trials of ten replicates, two fused scores and a sum, told as they are needed and forgotten when they are done.
fn trial(first_node: u32, first_set: u32, first_group: u32) -> PlanDelta {
    let mut plan = PlanBuilder::new();
    let replicates: Vec<NodeIx> = (0..10).map(|_| plan.node_of(0, 0, &[])).collect();
    let all = plan.gather(&replicates);
    let scores: Vec<NodeIx> = (0..2).map(|_| plan.node_of(0, 1, &[all])).collect();
    plan.group(&scores);
    let both = plan.gather(&scores);
    plan.node_of(0, 2, &[both]);
    let mut delta = plan.delta();
    (delta.first_node, delta.first_set, delta.first_group) = (first_node, first_set, first_group);
    delta
        .node_sets
        .iter_mut()
        .for_each(|set| set.0 += first_set);
    delta
        .set_members
        .iter_mut()
        .for_each(|node| node.0 += first_node);
    for node in &mut delta.nodes {
        node.group.iter_mut().for_each(|it| it.0 += first_group);
    }
    for group in &mut delta.groups {
        group.members.iter_mut().for_each(|it| it.0 += first_node);
    }
    delta
}

/// With so many nodes the loop is measured by itself: what is recorded for that has to fit in memory.
const RECORDED: u32 = 260_000;

/// So many nodes on so many workers.
fn scale(workers: u32, nodes: u32) -> String {
    let config = Config {
        story: 0,
        ..Config::default()
    };
    let all = play(Player::of(config.clone()), false, workers, nodes);
    let some = nodes.min(RECORDED);
    let recorded = play(Player::of(config), true, workers, some);
    let Record { actions, each } = recorded.record;
    let player = Player::Recorded(actions.into_iter(), each.into_iter());
    let alone = play(player, false, workers, some);
    let each = |played: &Played| played.seconds * 1e6 / f64::from(played.nodes);
    format!(
        "{{\"workers\": {workers}, \"nodes\": {}, \"events\": {}, \"cpu_micros_per_node\": {:.2}, \"loop_micros_per_node\": {:.2}, \
         \"bytes_per_live_node\": {}, \"cpu_seconds\": {:.1}}}",
        all.nodes,
        all.events,
        each(&all),
        each(&alone),
        all.bytes,
        all.seconds,
    )
}

struct Played {
    nodes: u32,
    events: u64,
    seconds: f64,
    /// Memory of a live node.
    bytes: u64,
    record: Record,
}

fn play(player: Player, record: bool, workers: u32, nodes: u32) -> Played {
    let kinds: Vec<Kind> = (0..workers)
        .map(|worker| Kind {
            host: worker / 4,
            slots: 1,
            says: 1000,
            speed: 1000,
        })
        .collect();
    let takes = |node: NodeIx| 30_000_000 + spread(1, node) % 60_000_000;
    let trials = nodes / TRIAL;
    // Twice what the slots hold is kept in flight.
    let ahead = (workers / 5).max(2).min(trials);
    let mut cluster = Cluster::new(player, &kinds, &takes);
    cluster.bytes = 1 << 20;
    cluster.trial = TRIAL;
    cluster.record = record.then(Record::default);
    let mut told = 0;
    let begin = cpu_ns();
    let before = resident();
    let (mut most_open, mut most_bytes) = (0, 0);
    cluster.run(&mut |done| {
        let open = u64::from(told) - done / u64::from(TRIAL);
        if told < trials && open < u64::from(ahead) {
            let delta = trial(told * TRIAL, told * 2, told);
            told += 1;
            if open > most_open {
                most_open = open;
                most_bytes = resident();
            }
            return Some(Event::PlanExtended(delta));
        }
        (told == trials).then(|| {
            told += 1;
            Event::PlanComplete
        })
    });
    let seconds = (cpu_ns() - begin) as f64 / 1e9;
    assert!(cluster.finished, "the run did not finish");
    Played {
        nodes: trials * TRIAL,
        events: cluster.events,
        seconds,
        // What is live when most is: the trials in flight, with the workers and the attempts that run.
        bytes: most_bytes.saturating_sub(before) / (most_open * u64::from(TRIAL)).max(1),
        record: cluster.record.unwrap_or_default(),
    }
}

/// Bytes of memory that this process has.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|it| it.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

/// CPU time of this thread, in nanoseconds: other processes of a busy machine do not count.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = stat.split(' ').next().and_then(|it| it.parse().ok());
    first.unwrap_or(0)
}
