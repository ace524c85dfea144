//! The world around the scheduler: driver, workers, network, cache and disk, in virtual time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use dagrun_model::{AttemptId, HostIx, NodeIx, Resources, WorkerIx};
use rustc_hash::FxHashMap;

use super::{
    SimOptions, SimReport,
    model::{KnownWorker, Model, Violation},
    rng::{Rng, hash2},
    scene::{Fault, Scene, scene},
};
use crate::{Action, AttemptEnd, Config, Event, Held, NodeState, Scheduler, Stop, TimerId};

mod driver;
mod workers;

/// Something that will happen.
#[derive(Clone, Debug)]
enum What {
    /// A message of a worker about an attempt.
    Message {
        attempt: AttemptId,
        message: Message,
    },
    /// A submitted attempt reaches its worker.
    Submit(AttemptId),
    CancelArrives {
        attempt: AttemptId,
        kill: bool,
    },
    RecallArrives(AttemptId),
    WithdrawArrives(AttemptId),
    /// An attempt is over, and its worker has room for the next.
    Over {
        attempt: AttemptId,
        end: AttemptEnd,
    },
    Answer(Vec<NodeIx>),
    /// A result is on disk; the scheduler does not know yet.
    Durable(NodeIx),
    Committed(NodeIx),
    Timer(TimerId),
    Extend(usize),
    Complete,
    Join {
        host: u32,
        profile: bool,
        large: bool,
    },
    Drain,
    /// An attempt kills its worker.
    Kill(AttemptId),
    /// A worker dies or is cut off.
    Die,
    /// All workers die.
    Burst,
    /// The disk of a worker is full, or has room again.
    Room(WorkerIx, bool),
    /// The coordinator notices.
    Lost(WorkerIx),
    /// A worker that was cut off joins again, with what it has.
    Return(WorkerIx),
    Evict,
    Replica,
    /// Others take something of a worker, or leave it.
    Others,
    /// The scheduler hears what others have of a worker.
    TellOthers(WorkerIx),
    /// A look at what waits for others.
    Look,
    Stop(Stop),
    Crash,
    Heal,
}

#[derive(Clone, Debug)]
enum Message {
    Started,
    Ended(AttemptEnd),
}

/// Whether a thing dies with the coordinator.
fn outlives_coordinator(what: &What) -> bool {
    !matches!(
        what,
        What::Answer(_)
            | What::Durable(_)
            | What::Committed(_)
            | What::Timer(_)
            | What::Extend(_)
            | What::Complete
            | What::Submit(_)
    )
}

#[derive(Clone, Debug)]
struct Pending {
    at: u64,
    seq: u64,
    incarnation: u32,
    what: What,
}

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        self.seq == other.seq
    }
}

impl Eq for Pending {}

impl PartialOrd for Pending {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pending {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

/// A worker as it really is.
#[derive(Clone, Debug)]
struct RealWorker {
    ix: WorkerIx,
    host: HostIx,
    capacity: Resources,
    profile: Option<String>,
    alive: bool,
    /// Nothing that it says arrives until it joins again.
    detached: bool,
    /// In thousandths of the reference, as it is and as it says.
    speed: u32,
    says: u32,
    /// How many attempts it holds beyond its room.
    ahead: u32,
    free: Resources,
    /// What others have.
    others: Resources,
    /// What it has and has not begun.
    waiting: VecDeque<AttemptId>,
    /// Its disk is full.
    full: bool,
}

/// An attempt as it really is.
#[derive(Clone, Debug)]
struct RealAttempt {
    node: NodeIx,
    worker: WorkerIx,
    number: u32,
    /// The action that it does.
    action: u64,
    resources: Resources,
    /// Its worker knows of it.
    reached: bool,
    /// When it began, if it has.
    began: Option<u64>,
    /// Nothing of it runs any more.
    over: bool,
    /// How it ended, until that was heard.
    unheard: Option<AttemptEnd>,
    /// How long it ran.
    ran: u64,
}

struct World {
    rng: Rng,
    scene: Scene,
    core: Scheduler,
    config: Config,
    model: Model,
    heap: BinaryHeap<Reverse<Pending>>,
    seq: u64,
    now: u64,
    incarnation: u32,
    told_deltas: usize,
    /// Deltas that this coordinator forgot.
    retired: Vec<usize>,
    workers: Vec<RealWorker>,
    real: FxHashMap<u64, RealAttempt>,
    next_worker: u32,
    healed: bool,
    actions: Vec<Action>,
    report: SimReport,
    options: SimOptions,
}

/// Simulates one seed.
pub fn simulate(options: &SimOptions) -> SimReport {
    let mut world = World::new(options.clone());
    world.run();
    let mut report = world.report;
    report.nodes = world.scene.nodes.len() as u64;
    report.violation = world.model.violation;
    report
}

impl World {
    fn new(options: SimOptions) -> Self {
        let mut rng = Rng::new(options.seed);
        let scene = scene(&mut rng, options.nodes, options.faults);
        let config = Config {
            seed: options.seed,
            fail_fast: scene.has(Fault::FailFast) && rng.percent(30),
            window: rng.pick(&[1, 4, 64]) as usize,
            rooms: rng.pick(&[1, 2, 16]) as usize,
            straggler_samples: 3,
            straggler_floor: std::time::Duration::from_millis(50),
            locality_bytes: 1 << 20,
            burst: std::time::Duration::from_millis(options.seed % 3 * 200),
            story: 1 << 10,
            #[cfg(feature = "mutants")]
            mutant: options.mutant,
            ..Config::default()
        };
        Self {
            core: Scheduler::new(config.clone()),
            model: Model::new(scene.clone(), config.clone()),
            config,
            rng,
            scene,
            heap: BinaryHeap::new(),
            seq: 0,
            now: 0,
            incarnation: 0,
            told_deltas: 0,
            retired: Vec::new(),
            workers: Vec::new(),
            real: FxHashMap::default(),
            next_worker: 0,
            healed: false,
            actions: Vec::new(),
            report: SimReport::default(),
            options,
        }
    }

    fn run(&mut self) {
        self.set_the_scene();
        let most = 2_000 + 400 * self.scene.nodes.len() as u64;
        while self.model.violation.is_none() {
            let Some(Reverse(next)) = self.heap.pop() else {
                break;
            };
            if next.incarnation != self.incarnation && !outlives_coordinator(&next.what) {
                continue;
            }
            self.now = next.at;
            self.model.now = self.now;
            self.happen(next.what);
            self.retire_one();
            if self.report.events > most {
                self.model
                    .fail("I3", format!("it still goes on after {most} events"));
            }
        }
        if self.model.violation.is_none() && !self.model.finished {
            let open = (0..self.scene.nodes.len()).map(NodeIx::from_index);
            let open: Vec<_> = open
                .filter(|n| self.model.ended(*n).is_none())
                .take(4)
                .collect();
            let why: Vec<_> = open.iter().map(|n| self.core.explain(*n)).collect();
            self.model.fail(
                "I3",
                format!("nothing happens any more, and {open:?} are open: {why:?}"),
            );
        }
        self.check_core();
    }

    fn set_the_scene(&mut self) {
        for host in 0..self.rng.range(1, 5) as u32 {
            for _ in 0..self.rng.pick(&[1, 1, 1, 2]) {
                let at = self.soon();
                let profile = self.rng.percent(40);
                self.at(
                    at,
                    What::Join {
                        host,
                        profile,
                        large: false,
                    },
                );
            }
        }
        self.tell_plan();
        let end = self.rng.range(500_000, 4_000_000);
        for (fault, what, most) in [
            (Fault::Loss, What::Die, 6),
            (Fault::Drain, What::Drain, 3),
            (
                Fault::Join,
                What::Join {
                    host: 2,
                    profile: false,
                    large: false,
                },
                3,
            ),
            (Fault::Evict, What::Evict, 6),
            (Fault::Replicas, What::Replica, 8),
        ] {
            for _ in 0..self.rng.below(most) {
                let at = self.rng.below(end);
                if self.scene.has(fault) {
                    self.at(at, what.clone());
                }
            }
        }
        if self.scene.has(Fault::Evict) && self.scene.has(Fault::Storm) {
            for _ in 0..self.rng.range(20, 80) {
                let at = self.rng.below(end);
                self.at(at, What::Evict);
            }
        }
        let once = self.rng.percent(30);
        if self.scene.has(Fault::Stop) && once {
            let mut at = self.rng.below(end);
            for stop in [Stop::Drain, Stop::Terminate, Stop::Kill] {
                if self.rng.percent(60) {
                    self.at(at, What::Stop(stop));
                    at += self.rng.below(300_000);
                }
            }
        }
        for _ in 0..self.rng.below(3) {
            let at = self.rng.below(end);
            if self.scene.has(Fault::Crash) {
                self.at(at, What::Crash);
            }
        }
        if self.scene.has(Fault::Burst) {
            for _ in 0..self.rng.range(1, 4) {
                let at = self.rng.below(end);
                self.at(at, What::Burst);
            }
        }
        if self.scene.has(Fault::Others) {
            for _ in 0..self.rng.range(4, 40) {
                let at = self.rng.below(end);
                self.at(at, What::Others);
            }
            self.at(0, What::Look);
        }
        self.at(end, What::Heal);
    }

    fn tell_plan(&mut self) {
        let mut at = 0;
        for delta in 0..self.scene.deltas.len() {
            if delta >= self.told_deltas {
                at += self.rng.below(400_000);
            }
            self.at(at, What::Extend(delta));
        }
        self.at(at, What::Complete);
    }

    fn at(&mut self, delay: u64, what: What) {
        self.seq += 1;
        let pending = Pending {
            at: self.now + delay,
            seq: self.seq,
            incarnation: self.incarnation,
            what,
        };
        self.heap.push(Reverse(pending));
    }

    /// A delay of a message.
    fn soon(&mut self) -> u64 {
        let most = if self.scene.has(Fault::Delay) && !self.healed {
            60_000
        } else {
            2_000
        };
        self.rng.below(most)
    }

    fn fault(&mut self, fault: Fault, percent: u64) -> bool {
        let happens = self.rng.percent(percent) && !self.healed && self.scene.has(fault);
        self.report.faults += u64::from(happens);
        happens
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Message { attempt, message } => self.message(attempt, message),
            What::Submit(attempt) => self.submitted(attempt),
            What::CancelArrives { attempt, kill } => self.cancel_arrives(attempt, kill),
            What::RecallArrives(attempt) => self.recall_arrives(attempt),
            What::WithdrawArrives(attempt) => self.withdraw_arrives(attempt),
            What::Over { attempt, end } => self.over(attempt, end),
            What::Answer(nodes) => self.answer(nodes),
            What::Durable(node) => self.become_durable(node),
            What::Committed(node) => self.tell_committed(node),
            What::Timer(timer) => self.tell(Event::TimerFired(timer)),
            What::Extend(delta) => self.extend(delta),
            What::Complete => {
                self.model.plan_complete = true;
                self.tell(Event::PlanComplete);
            }
            What::Join {
                host,
                profile,
                large,
            } => self.join(host, profile, large),
            What::Drain => self.drain(),
            What::Kill(attempt) => self.kill(attempt),
            What::Die => self.die(),
            What::Burst => self.burst(),
            What::Room(worker, has) => self.room(worker, has),
            What::Lost(worker) => self.tell_lost(worker),
            What::Return(worker) => self.come_back(worker),
            What::Evict => self.evict(),
            What::Replica => self.replica(),
            What::Others => self.others(),
            What::TellOthers(worker) => self.tell_others(worker),
            What::Look => {
                self.model.look_at_the_crowd();
                if !self.healed {
                    self.at(50_000, What::Look);
                }
            }
            What::Stop(stop) => {
                if !self.healed && !self.model.finished {
                    self.report.faults += 1;
                    self.model.stop = self.model.stop.max(Some(stop));
                    self.tell(Event::StopRequested(stop));
                }
            }
            What::Crash => self.crash(),
            What::Heal => self.heal(),
        }
    }

    fn extend(&mut self, delta: usize) {
        let event = Event::PlanExtended(self.scene.deltas[delta].clone());
        let first = self.model.known;
        self.model.known += self.scene.deltas[delta].nodes.len();
        self.told_deltas = self.told_deltas.max(delta + 1);
        self.tell(event);
        for node in (first..self.model.known).map(NodeIx::from_index) {
            let (failures, losses) = self.model.charges(node);
            if (failures, losses) != (0, 0) {
                self.tell(Event::Restore {
                    node,
                    failures,
                    losses,
                });
            }
        }
    }

    /// Now and then forgets the last delta that was not, if all in it is done. What is drawn for it is apart from what is
    /// drawn for faults.
    fn retire_one(&mut self) {
        let drawn = hash2(self.options.seed, self.report.events);
        if self.scene.deltas.len() < 2 || !drawn.is_multiple_of(4) || self.model.finished {
            return;
        }
        let deltas = self.scene.deltas.len();
        let Some(delta) = (0..deltas).rev().find(|at| !self.retired.contains(at)) else {
            return;
        };
        let first = self.scene.deltas[delta].first_node;
        let end = first + self.scene.deltas[delta].nodes.len() as u32;
        let done = |node| matches!(self.core.state(NodeIx(node)), Some(NodeState::Done(_)));
        if first < end && (first..end).all(done) {
            self.retired.push(delta);
            self.model.told_retired(first, end);
            self.tell(Event::Retire(NodeIx(first)));
        }
    }

    fn join(&mut self, host: u32, profile: bool, large: bool) {
        let ix = WorkerIx(self.next_worker);
        self.next_worker += 1;
        let slots = if large { 8 } else { self.rng.range(1, 5) };
        let mut capacity = Resources {
            cpu_milli: slots * 1000,
            memory: if large {
                1 << 20
            } else {
                self.rng.pick(&[200, 500, 1000])
            },
            ..Resources::none()
        };
        if large || self.rng.percent(50) {
            capacity
                .named
                .insert("licence".into(), self.rng.pick(&[1000, 2000]));
        }
        let profile = profile.then(|| "gpu".to_owned());
        let host = HostIx(host);
        let worker = RealWorker {
            ix,
            host,
            free: capacity.clone(),
            others: Resources::none(),
            capacity,
            profile,
            alive: true,
            detached: false,
            speed: self.rng.pick(&[500, 1000, 1000, 2000]) as u32,
            says: self.rng.pick(&[500, 1000, 1000, 2000]) as u32,
            ahead: self.rng.pick(&[0, 1, 3, 20]) as u32,
            waiting: VecDeque::new(),
            full: false,
        };
        self.workers.push(worker.clone());
        self.tell_joined(worker, Vec::new());
    }

    fn tell_joined(&mut self, worker: RealWorker, held: Vec<Held>) {
        let RealWorker {
            ix,
            host,
            capacity,
            profile,
            ahead,
            says,
            full,
            ..
        } = worker;
        self.model.told_worker(
            ix,
            KnownWorker {
                host,
                capacity: capacity.clone(),
                free: capacity.clone(),
                profile: profile.clone(),
                others: Resources::none(),
                draining: false,
                ahead,
                full,
            },
        );
        self.model.rooms_changed();
        if full {
            self.tell(Event::WorkerHasRoom(ix, false));
        }
        for held in &held {
            let action = self.real[&held.attempt.0].action;
            self.model.told_held(ix, held, action);
        }
        self.tell(Event::WorkerJoined {
            worker: ix,
            host,
            capacity,
            profile,
            ahead,
            speed: says,
            held,
        });
        if self.scene.has(Fault::Others) {
            self.tell_others(ix);
        }
    }

    /// Others have what they want of a worker and what is free of it, and leave the rest.
    fn others(&mut self) {
        let Some(at) = self.some_worker().filter(|_| !self.healed) else {
            return;
        };
        self.report.faults += 1;
        let capacity = &self.workers[at].capacity;
        let (cpu_milli, memory) = (capacity.cpu_milli, capacity.memory);
        let wanted = match self.rng.percent(70) {
            true => Resources {
                cpu_milli: self.rng.range(1, cpu_milli / 500 + 1) * 500,
                memory: self.rng.below(memory + 1),
                ..Resources::none()
            },
            false => Resources::none(),
        };
        self.others_take(self.workers[at].ix, wanted);
    }

    fn others_take(&mut self, worker: WorkerIx, mut wanted: Resources) {
        let real = self.worker(worker);
        real.free.give(&real.others);
        wanted.cpu_milli = wanted.cpu_milli.min(real.free.cpu_milli);
        wanted.memory = wanted.memory.min(real.free.memory);
        real.free.take(&wanted);
        real.others = wanted;
        if self.is_alive(worker) {
            self.begin_next(worker);
        }
        let delay = self.soon();
        self.at(delay, What::TellOthers(worker));
    }

    fn tell_others(&mut self, worker: WorkerIx) {
        let mut workers = self.workers.iter();
        let known = workers.find(|it| it.ix == worker && it.alive && !it.detached);
        if let Some(others) = known.map(|it| it.others.clone()) {
            self.model.told_others(worker, others.clone());
            self.tell(Event::TakenByOthers(vec![(worker, others)]));
        }
    }

    /// The disk of a worker is full, or has room again; it says so, where it is heard.
    fn room(&mut self, worker: WorkerIx, has: bool) {
        let mut workers = self.workers.iter_mut();
        let Some(real) = workers.find(|real| real.ix == worker && real.alive) else {
            return;
        };
        real.full = !has;
        if !real.detached {
            self.model.told_room(worker, has);
            self.tell(Event::WorkerHasRoom(worker, has));
        }
    }

    fn some_worker(&mut self) -> Option<usize> {
        let alive: Vec<usize> = (0..self.workers.len())
            .filter(|ix| self.workers[*ix].alive)
            .collect();
        (!alive.is_empty()).then(|| alive[self.rng.below(alive.len() as u64) as usize])
    }

    fn drain(&mut self) {
        let Some(at) = self.some_worker().filter(|_| !self.healed) else {
            return;
        };
        self.report.faults += 1;
        let worker = self.workers[at].ix;
        self.model.told_draining(worker);
        self.tell(Event::WorkerDraining(worker));
        let delay = self.rng.range(100_000, 2_000_000);
        self.at(delay, What::Lost(worker));
    }

    /// A worker dies, or is only cut off and goes on as a zombie whose messages come too late.
    fn die(&mut self) {
        let Some(at) = self.some_worker().filter(|_| !self.healed) else {
            return;
        };
        self.report.faults += 1;
        let zombie = self.fault(Fault::Zombie, 50);
        self.workers[at].alive = zombie;
        let worker = self.workers[at].ix;
        let lease = self.rng.below(200_000);
        self.at(lease, What::Lost(worker));
        let (host, profile) = (self.workers[at].host.0, self.workers[at].profile.is_some());
        if zombie && self.rng.percent(50) {
            let delay = lease + self.rng.below(300_000);
            self.at(delay, What::Return(worker));
        } else if self.rng.percent(60) {
            let delay = lease + self.rng.below(500_000);
            self.at(
                delay,
                What::Join {
                    host,
                    profile,
                    large: false,
                },
            );
        }
    }

    /// All workers die at once, which is noticed one by one; others come in their place.
    fn burst(&mut self) {
        if self.healed {
            return;
        }
        for at in 0..self.workers.len() {
            if !self.workers[at].alive {
                continue;
            }
            self.report.faults += 1;
            self.workers[at].alive = false;
            let RealWorker {
                ix, host, profile, ..
            } = self.workers[at].clone();
            let lease = self.rng.below(200_000);
            self.at(lease, What::Lost(ix));
            let join = What::Join {
                host: host.0,
                profile: profile.is_some(),
                large: false,
            };
            let delay = self.rng.below(300_000);
            self.at(delay, join);
        }
    }

    /// A node kills its worker; another one comes in its place.
    fn kill(&mut self, id: AttemptId) {
        let Some(attempt) = self.real.get(&id.0).filter(|real| !real.over) else {
            return;
        };
        let (node, worker) = (attempt.node, attempt.worker);
        let Some(at) = self
            .workers
            .iter()
            .position(|it| it.ix == worker && it.alive)
        else {
            return;
        };
        self.report.faults += 1;
        self.workers[at].alive = false;
        self.model.killed(node);
        let lease = self.rng.below(50_000);
        self.at(lease, What::Lost(worker));
        let (host, profile) = (self.workers[at].host.0, self.workers[at].profile.is_some());
        let large = self.healed;
        let join = What::Join {
            host,
            profile,
            large,
        };
        self.at(lease + 10_000, join);
    }

    fn tell_lost(&mut self, worker: WorkerIx) {
        if self.rng.percent(50) {
            self.hand_back(worker);
        }
        let known = self
            .model
            .workers
            .get(worker.index())
            .is_some_and(Option::is_some);
        let affected: Vec<NodeIx> = self.nodes_on(worker);
        self.model.told_lost(worker);
        self.tell_maybe_stale(Event::WorkerLost(worker), !known);
        self.check_charges(&affected);
    }

    fn nodes_on(&self, worker: WorkerIx) -> Vec<NodeIx> {
        let live = self
            .model
            .attempts
            .values()
            .filter(|live| live.worker == worker);
        let mut nodes: Vec<NodeIx> = live.map(|live| live.node).collect();
        nodes.sort();
        nodes
    }

    fn evict(&mut self) {
        if self.healed {
            return;
        }
        let node = NodeIx(self.rng.below(self.scene.nodes.len() as u64) as u32);
        let value = self.model.value(node);
        if let Some(there) = self.model.results.get_mut(&value) {
            self.report.faults += 1;
            *there = false;
        }
    }

    fn replica(&mut self) {
        let node = NodeIx(self.rng.below(self.scene.nodes.len() as u64 + 3) as u32);
        let host = HostIx(self.rng.below(5) as u32);
        let event = match self.rng.percent(60) {
            true => Event::ReplicaAdded { node, host },
            false => Event::ReplicaDropped { node, host },
        };
        self.tell(event);
    }

    fn heal(&mut self) {
        self.healed = true;
        for ix in self.workers.iter().map(|it| it.ix).collect::<Vec<_>>() {
            self.others_take(ix, Resources::none());
        }
        for (host, profile) in [(3, false), (4, true)] {
            self.join(host, profile, true);
        }
    }

    fn crash(&mut self) {
        if self.healed || self.model.finished {
            return;
        }
        self.report.faults += 1;
        self.incarnation += 1;
        self.config.first_attempt = self.model.last_attempt() + 1;
        self.core = Scheduler::new(self.config.clone());
        self.retired.clear();
        self.model.crash();
        self.tell_plan();
        // Workers come back under new names, with what they run; or it is over, and others come.
        let workers_die = self.rng.percent(30);
        for at in 0..self.workers.len() {
            if !self.workers[at].alive {
                continue;
            }
            self.workers[at].detached = true;
            let old = self.workers[at].clone();
            let delay = self.rng.below(50_000);
            if workers_die {
                self.workers[at].alive = false;
                let (host, profile) = (old.host.0, old.profile.is_some());
                let large = false;
                self.at(
                    delay,
                    What::Join {
                        host,
                        profile,
                        large,
                    },
                );
            } else {
                self.at(delay, What::Return(old.ix));
            }
        }
    }
}

/// A violation for a run that panicked.
pub(crate) fn panicked(text: String) -> Violation {
    Violation {
        invariant: "panic",
        text,
    }
}
