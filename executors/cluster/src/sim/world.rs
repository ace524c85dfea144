//! The world: virtual time, the processes, and all that may go wrong.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    sync::Arc,
    time::Duration,
};

use dagrun_executor_api::ExecutorEvent;
use dagrun_model::{AttemptId, AttemptResult, Outcome, Outputs, Resources, WorkerIx};
use rustc_hash::FxHashMap;

use super::{
    Options, Report,
    net::{End, Wire},
    rng::Rng,
    runs::{LIMITED, Next, Run},
    workers::{Place, Process, Work},
};
use crate::{
    message::{
        AttemptRef, Ended, Extra, FromWorker, Held, Identity, Incarnation, Progress, ToWorker,
    },
    pool::{self, ConnIx, RunIx},
    session::{self, Exit, Link},
};

const LEASE: u64 = 2_000_000;
const BEAT: u64 = 400_000;
const GRACE: u64 = 400_000;
const TICK: u64 = 100_000;
/// For how long coordinators keep what workers hold of earlier ones.
const ADOPTS: u64 = 2_500_000;
/// Troubles happen until then.
const HEALED: u64 = 5_000_000;
/// By then all must be done.
const DEADLINE: u64 = 40_000_000;
/// The bit of a seed's kinds of trouble by which what drivers say takes its time.
const SLOW_DRIVERS: u64 = 1 << 10;
/// That by which drivers want back what no worker was told of.
const WITHDRAWS: u64 = 1 << 32;

/// Something that happens.
#[derive(Clone, Debug)]
enum What {
    /// A word arrives at an end of a connection.
    ToCoordinator(usize, FromWorker),
    ToWorker(usize, ToWorker),
    /// An end hears that its connection is over.
    Hung(usize, End),
    /// A worker's try to connect is decided.
    Connect(usize, u64, ConnIx),
    /// Clocks.
    WorkerTick(usize, u64),
    CoordinatorTick(usize),
    /// An executor has begun an attempt, or ended it.
    Began(usize, u64, AttemptId),
    Over(usize, u64, AttemptId, bool),
    /// A driver's turn.
    Drive(usize),
    /// A driver's word reaches the coordinator.
    Said(usize, pool::Event),
    OpenRun(usize, usize, RunIx),
    Durable(usize, RunIx, AttemptId),
    Settle(usize, RunIx, Vec<AttemptId>),
    /// A process starts.
    Boot(usize),
    Restart,
    Fault,
}

/// Of what runs are told of each other.
#[derive(Debug)]
enum Told {
    Nothing,
    All,
    WhoWaits(RunIx, WorkerIx, Vec<AttemptId>),
    WhoEnded,
}

struct Coordinator {
    core: pool::Core,
    epoch: u64,
    began: u64,
    ticked: u64,
    /// What workers said last that they hold.
    told: BTreeMap<Incarnation, Vec<Held>>,
    paused: u64,
    /// Its place was taken; it may still be there for a while.
    replaced: bool,
    dead: bool,
    /// Workers as it numbered them, by the process that they are.
    workers: BTreeMap<WorkerIx, (Incarnation, usize, u64)>,
    draining: BTreeSet<WorkerIx>,
}

pub(super) struct World {
    options: Options,
    rng: Rng,
    now: u64,
    seq: u64,
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    events: FxHashMap<u64, What>,
    coordinators: Vec<Coordinator>,
    next_run: u32,
    runs: Vec<Run>,
    places: Vec<Place>,
    wires: Vec<Wire>,
    /// Attempts of which a worker said that nothing came.
    useless: BTreeSet<AttemptRef>,
    /// Which kinds of trouble this seed has.
    kinds: u64,
    limit: bool,
    report: Report,
}

impl World {
    pub(super) fn new(options: Options) -> Self {
        let mut rng = Rng::new(options.seed);
        let places: Vec<Place> = (0..rng.range(1, 4))
            .map(|_| Place {
                slots: rng.range(1, 4),
                ahead: rng.below(3) as u32,
                process: None,
                generation: 0,
                deaf: [0; 2],
                trouble: 0,
            })
            .collect();
        let most = places.iter().map(|place| place.slots).max().unwrap_or(1);
        let limit = rng.percent(50);
        let runs = (0..rng.range(1, 3))
            .map(|_| Run::new(&mut rng, 1..14, most, limit))
            .collect();
        Self {
            options,
            now: 0,
            seq: 0,
            heap: BinaryHeap::new(),
            events: FxHashMap::default(),
            coordinators: Vec::new(),
            next_run: 0,
            runs,
            places,
            wires: Vec::new(),
            useless: BTreeSet::new(),
            kinds: rng.next(),
            limit,
            report: Report::default(),
            rng,
        }
    }

    pub(super) fn run(mut self) -> Report {
        self.at(0, What::Restart);
        for place in 0..self.places.len() {
            let at = self.rng.below(200_000);
            self.at(at, What::Boot(place));
        }
        self.at(50_000, What::Fault);
        while let Some(Reverse((at, seq))) = self.heap.pop() {
            let what = self.events.remove(&seq).expect("it was planned");
            self.now = at;
            if let Some(until) = self.asleep(&what) {
                // Under its old number, so that words stay in order.
                self.events.insert(seq, what);
                self.heap.push(Reverse((until, seq)));
                continue;
            }
            self.note(|| format!("{at} {what:?}"));
            self.happen(what);
            if self.report.violation.is_some() || self.is_over() {
                break;
            }
            if self.now > DEADLINE {
                let open = self.runs.iter().filter(|run| !run.over).count();
                self.violation(format!(
                    "{open} runs are not over by the deadline, or workers still hold something"
                ));
            }
        }
        self.report.took = Duration::from_micros(self.now);
        self.report
    }

    /// Everything was done, and nobody holds anything.
    fn is_over(&self) -> bool {
        self.now > HEALED
            && self.runs.iter().all(|run| run.over)
            && self.places.iter().all(|place| match &place.process {
                Some(process) => process.core.holds_nothing() && process.tasks.is_empty(),
                None => true,
            })
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        let text = (self.options.trace || self.options.seed < 50).then(text);
        if let Some(text) = text {
            for byte in text.bytes() {
                self.report.hash =
                    (self.report.hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
            }
            if self.options.trace {
                self.report.trace.push(text);
            }
        }
    }

    fn violation(&mut self, text: String) {
        let now = self.now;
        self.report
            .violation
            .get_or_insert(format!("at {now}: {text}"));
    }

    fn at(&mut self, at: u64, what: What) {
        self.seq += 1;
        self.events.insert(self.seq, what);
        self.heap.push(Reverse((at.max(self.now), self.seq)));
    }

    fn later(&mut self, most: u64, what: What) {
        let at = self.now + self.rng.below(most) + 1;
        self.at(at, what);
    }

    fn time(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    // --- what happens --------------------------------------------------------------------------

    fn happen(&mut self, what: What) {
        match what {
            What::ToCoordinator(wire, message) => {
                let event = pool::Event::Message(ConnIx(wire as u64), message);
                if self.arrives(wire, End::Coordinator) {
                    self.overhear(wire, &event);
                    self.tell_coordinator(self.wires[wire].coordinator, event);
                }
            }
            What::ToWorker(wire, message) => self.word_to_worker(wire, message),
            What::Hung(wire, end) => self.hung(wire, end),
            What::Connect(place, generation, conn) => self.connect(place, generation, conn),
            What::WorkerTick(place, generation) => {
                if self.process(place, generation).is_some() {
                    self.tell_worker(place, session::Event::Tick);
                    self.at(self.now + TICK, What::WorkerTick(place, generation));
                }
            }
            What::CoordinatorTick(ix) => {
                if !self.coordinators[ix].dead {
                    self.tell_coordinator(ix, pool::Event::Tick);
                    self.at(self.now + TICK, What::CoordinatorTick(ix));
                }
            }
            What::Began(place, generation, id) => {
                if self
                    .process(place, generation)
                    .is_some_and(|p| p.tasks.contains_key(&id))
                {
                    self.tell_worker(place, session::Event::Started(vec![id]));
                }
            }
            What::Over(place, generation, id, killed) => {
                self.task_over(place, generation, id, killed)
            }
            What::Drive(coordinator) => self.drive(coordinator),
            What::Said(coordinator, event) => {
                if self.drives(coordinator) {
                    self.tell_coordinator(coordinator, event);
                }
            }
            What::OpenRun(coordinator, at, run) => self.open_run(coordinator, at, run),
            What::Durable(coordinator, run, id) => self.durable(coordinator, run, id),
            What::Settle(coordinator, run, ids) => {
                if self.drives(coordinator) {
                    self.tell_coordinator(coordinator, pool::Event::Settled(run, ids));
                }
            }
            What::Boot(place) => self.boot(place),
            What::Restart => self.restart(),
            What::Fault => self.fault(),
        }
    }

    /// Until when the process that this is for is stopped.
    fn asleep(&self, what: &What) -> Option<u64> {
        let of_coordinator = |ix: usize| self.coordinators[ix].paused;
        let of_worker = |place: usize| self.places[place].process.as_ref().map_or(0, |p| p.paused);
        let until = match what {
            What::ToCoordinator(wire, _) | What::Hung(wire, End::Coordinator) => {
                of_coordinator(self.wires[*wire].coordinator)
            }
            What::CoordinatorTick(ix) | What::Drive(ix) | What::OpenRun(ix, ..) => {
                of_coordinator(*ix)
            }
            What::Said(ix, _) | What::Durable(ix, ..) | What::Settle(ix, ..) => of_coordinator(*ix),
            What::ToWorker(wire, _) | What::Hung(wire, End::Worker) => {
                of_worker(self.wires[*wire].place)
            }
            What::WorkerTick(place, _)
            | What::Connect(place, ..)
            | What::Began(place, ..)
            | What::Over(place, ..) => of_worker(*place),
            What::Boot(_) | What::Restart | What::Fault => 0,
        };
        (until > self.now).then_some(until)
    }

    fn process(&mut self, place: usize, generation: u64) -> Option<&mut Process> {
        let process = self.places[place].process.as_mut();
        process.filter(|process| process.generation == generation)
    }

    // --- connections ---------------------------------------------------------------------------

    fn connect(&mut self, place: usize, generation: u64, conn: ConnIx) {
        if self.process(place, generation).is_none() {
            return;
        }
        let open = self.reachable(place);
        let Some(coordinator) = open else {
            return self.tell_worker(place, session::Event::Closed(conn, "refused".into()));
        };
        let wire = self.wires.len();
        self.wires.push(Wire {
            place,
            generation,
            conn,
            coordinator,
            open: [true; 2],
            broken: false,
            last: [self.now; 2],
        });
        self.tell_coordinator(coordinator, pool::Event::Opened(ConnIx(wire as u64)));
        self.tell_worker(place, session::Event::Connected(conn));
    }

    /// The coordinator that answers a worker's call now; sometimes one that was replaced.
    fn reachable(&mut self, place: usize) -> Option<usize> {
        if self.places[place]
            .deaf
            .iter()
            .any(|until| *until > self.now)
        {
            return None;
        }
        let alive: Vec<usize> = (0..self.coordinators.len())
            .filter(|ix| !self.coordinators[*ix].dead)
            .collect();
        let (last, former) = alive.split_last()?;
        if !former.is_empty() && self.rng.percent(30) {
            return Some(former[self.rng.below(former.len() as u64) as usize]);
        }
        Some(*last)
    }

    /// Whether something on its way gets to an end of a connection.
    fn arrives(&mut self, wire: usize, end: End) -> bool {
        let wire = &self.wires[wire];
        if wire.broken || !wire.open[end.index()] {
            return false;
        }
        match end {
            End::Coordinator => !self.coordinators[wire.coordinator].dead,
            End::Worker => {
                let (place, generation) = (wire.place, wire.generation);
                self.process(place, generation).is_some()
            }
        }
    }

    /// When a word that is sent now gets to an end: after what was sent before.
    fn arrival(&mut self, wire: usize, end: End) -> u64 {
        let delay = match self.kinds & 1 {
            0 => self.rng.below(2_000),
            _ => self.rng.below(60_000),
        };
        let wire = &mut self.wires[wire];
        // In a partition words wait until it is over.
        let deaf = self.places[wire.place].deaf[match end {
            End::Coordinator => 0,
            End::Worker => 1,
        }];
        let at = (self.now + delay).max(deaf).max(wire.last[end.index()]) + 1;
        wire.last[end.index()] = at;
        at
    }

    fn hung(&mut self, wire: usize, end: End) {
        if !std::mem::replace(&mut self.wires[wire].open[end.index()], false) {
            return;
        }
        let known = self.wires[wire].clone();
        match end {
            End::Coordinator if !self.coordinators[known.coordinator].dead => {
                let event = pool::Event::Closed(ConnIx(wire as u64), "broken".into());
                self.tell_coordinator(known.coordinator, event);
            }
            End::Worker if self.process(known.place, known.generation).is_some() => {
                self.tell_worker(
                    known.place,
                    session::Event::Closed(known.conn, "broken".into()),
                );
            }
            _ => {}
        }
    }

    /// One end closes a connection; the other hears of it after what was sent.
    fn close(&mut self, wire: usize, end: End) {
        self.wires[wire].open[end.index()] = false;
        let other = end.other();
        let at = self.arrival(wire, other);
        self.at(at, What::Hung(wire, other));
    }

    /// A connection is cut: what is under way is lost, and both ends notice some time.
    fn cut(&mut self, wire: usize) {
        self.wires[wire].broken = true;
        let until = self.now + 100_000;
        self.places[self.wires[wire].place].disturb(until);
        for end in [End::Worker, End::Coordinator] {
            self.later(100_000, What::Hung(wire, end));
        }
    }

    // --- workers -------------------------------------------------------------------------------

    fn boot(&mut self, at: usize) {
        let place = &mut self.places[at];
        if place.process.is_some() {
            return;
        }
        place.generation += 1;
        place.disturb(self.now);
        let generation = place.generation;
        let incarnation = Incarnation(
            self.rng
                .next()
                .to_le_bytes()
                .repeat(2)
                .try_into()
                .expect("16 bytes"),
        );
        let identity = Identity {
            capacity: Resources {
                cpu_milli: place.slots * 1000,
                ..Resources::none()
            },
            ahead: place.ahead,
            ..Identity::named(
                &format!("w{at}.{generation}"),
                &format!("h{at}"),
                incarnation,
            )
        };
        let config = session::Config {
            identity: Arc::new(identity),
            reach: Duration::from_secs(60),
            linger: None,
            seed: self.rng.next(),
        };
        place.process = Some(Process {
            core: session::Core::with_mutant(config, self.options.mutant),
            incarnation,
            generation,
            paused: 0,
            queue: VecDeque::new(),
            tasks: BTreeMap::new(),
            running: 0,
            leaving: false,
            misled: false,
            epoch: 0,
        });
        self.at(self.now, What::WorkerTick(at, generation));
    }

    fn word_to_worker(&mut self, wire: usize, message: ToWorker) {
        if !self.arrives(wire, End::Worker) {
            return;
        }
        let known = self.wires[wire].clone();
        let epoch = self.coordinators[known.coordinator].epoch;
        let conn = known.conn;
        let misleads = matches!(message, ToWorker::Welcome(_)) && !self.drives(known.coordinator);
        let is_work = matches!(
            message,
            ToWorker::Start(_) | ToWorker::Stop(..) | ToWorker::Settled(_)
        );
        self.tell_worker(known.place, session::Event::Message(conn, message));
        let Some(process) = self.process(known.place, known.generation) else {
            return;
        };
        let counts = matches!(process.core.link(), Link::Up { conn: up, .. } if *up == conn);
        if counts && is_work && epoch < process.epoch {
            let why = format!(
                "w{} obeys epoch {epoch} after {}",
                known.place, process.epoch
            );
            return self.violation(why);
        }
        if counts {
            process.misled |= misleads;
            process.epoch = process.epoch.max(epoch);
        }
    }

    fn tell_worker(&mut self, place: usize, event: session::Event) {
        let now = self.time();
        let Some(process) = self.places[place].process.as_mut() else {
            return;
        };
        let mut effects = Vec::new();
        process.core.handle(now, event, &mut effects);
        for effect in effects {
            self.note(|| format!("    w{place}: {effect:?}"));
            self.worker_does(place, effect);
        }
    }

    fn worker_does(&mut self, place: usize, effect: session::Effect) {
        let Some(process) = self.places[place].process.as_mut() else {
            return;
        };
        let generation = process.generation;
        match effect {
            session::Effect::Connect(conn) => {
                self.later(20_000, What::Connect(place, generation, conn));
            }
            session::Effect::Send(conn, message) => {
                if let Some(wire) = self.wire_of(place, generation, conn) {
                    let at = self.arrival(wire, End::Coordinator);
                    if self.kinds & 2 != 0
                        && self.rng.percent(5)
                        && matches!(message, FromWorker::Progress(_))
                    {
                        // Told twice.
                        self.at(at, What::ToCoordinator(wire, message.clone()));
                    }
                    self.at(at, What::ToCoordinator(wire, message));
                }
            }
            session::Effect::Close(conn) => {
                if let Some(wire) = self.wire_of(place, generation, conn) {
                    self.close(wire, End::Worker);
                }
            }
            session::Effect::Submit(starts, locals) => {
                for (start, local) in starts.into_iter().zip(locals) {
                    let work = Work {
                        attempt: start.attempt,
                        began: false,
                        killed: false,
                    };
                    process.tasks.insert(local, work);
                    process.queue.push_back(local);
                }
                self.check_room(place);
                self.begin_next(place);
            }
            session::Effect::Cancel(ids, kill) => {
                ids.into_iter()
                    .for_each(|id| self.cancel_task(place, id, kill));
            }
            session::Effect::Recall(ids) => {
                ids.into_iter().for_each(|id| self.recall_task(place, id));
            }
            session::Effect::Exit(exit) => {
                if exit != Exit::Left {
                    self.violation(format!("w{place} gave up: {exit:?}"));
                }
                self.kill_worker(place);
                self.later(3_000_000, What::Boot(place));
            }
        }
    }

    fn wire_of(&self, place: usize, generation: u64, conn: ConnIx) -> Option<usize> {
        self.wires.iter().rposition(|wire| {
            wire.place == place
                && wire.generation == generation
                && wire.conn == conn
                && wire.open[End::Worker.index()]
        })
    }

    /// A worker never holds more than it has room for and lets itself be given ahead.
    fn check_room(&mut self, at: usize) {
        let place = &self.places[at];
        let Some(process) = &place.process else {
            return;
        };
        let most = place.slots as usize + place.ahead as usize;
        let wanted = process.wanted();
        if wanted > most {
            self.violation(format!(
                "w{at} holds {wanted} attempts and has room for {most}"
            ));
        }
    }

    fn begin_next(&mut self, at: usize) {
        loop {
            let place = &mut self.places[at];
            let Some(process) = place.process.as_mut() else {
                return;
            };
            let Some(id) = process.queue.front().copied() else {
                return;
            };
            let attempt = process.tasks[&id].attempt.clone();
            let (cpus, micros) = self.demand(&attempt);
            let place = &mut self.places[at];
            let process = place.process.as_mut().expect("it was there");
            if process.running + cpus > place.slots {
                return;
            }
            process.running += cpus;
            process.queue.pop_front();
            process.tasks.get_mut(&id).expect("it waits").began = true;
            let generation = process.generation;
            self.later(5_000, What::Began(at, generation, id));
            if let Some(micros) = micros {
                self.at(
                    self.now + 5_001 + micros,
                    What::Over(at, generation, id, false),
                );
            }
            self.check_limit();
            self.check_most();
        }
    }

    /// CPUs and duration of an attempt. Those of runs that are gone end soon.
    fn demand(&self, attempt: &AttemptRef) -> (u64, Option<u64>) {
        let number = attempt.attempt.0;
        // Attempts of one run keep their numbers over restarts, so that they name their jobs for ever.
        let run = &self.runs[self.run_of(&attempt.run)];
        match run.all.get(&number) {
            Some(job) => (run.jobs[*job].cpus, run.jobs[*job].micros),
            None => (1, Some(1_000)),
        }
    }

    fn run_of(&self, id: &str) -> usize {
        let number: u32 = id
            .trim_start_matches("run")
            .parse()
            .expect("ids of runs end in numbers");
        number as usize % self.runs.len()
    }

    /// CPUs that a run may have at a time; some may have all. The largest job fits.
    fn most_of(&self, at: usize) -> Option<u64> {
        let slots = self.places.iter().map(|place| place.slots).max();
        // Bits that mean nothing else, and are none in the seeds that failed once.
        let is_limited = self.kinds & 1 << [21, 46][at] != 0;
        slots.filter(|_| is_limited)
    }

    /// No run has more CPUs than it may, as far as its driver waits for them.
    fn check_most(&mut self) {
        let Some(coordinator) = self.coordinators.last().filter(|c| !c.dead) else {
            return;
        };
        let mut used = vec![0; self.runs.len()];
        for (ix, (_, place, generation)) in &coordinator.workers {
            let process = self.places[*place].process.as_ref();
            let Some(process) = process.filter(|p| p.generation == *generation) else {
                continue;
            };
            for work in process.tasks.values().filter(|work| work.began) {
                let at = self.run_of(&work.attempt.run);
                let run = &self.runs[at];
                let attempt = run.attempts.get(&work.attempt.attempt);
                let open = |a: &&super::runs::Attempt| !a.ended && a.worker == *ix;
                if let Some(attempt) = attempt.filter(open).filter(|_| run.id == work.attempt.run) {
                    used[at] += run.jobs[attempt.job].cpus;
                }
            }
        }
        for (at, used) in used.into_iter().enumerate() {
            if self.most_of(at).is_some_and(|most| used > most) {
                self.violation(format!("run {at} has {used} CPUs, which are too many"));
            }
        }
    }

    /// What is limited over all workers is not used by more attempts than that, as far as drivers wait for them.
    fn check_limit(&mut self) {
        if !self.limit {
            return;
        }
        let Some(coordinator) = self.coordinators.last().filter(|c| !c.dead) else {
            return;
        };
        let mut used = 0;
        for (ix, (_, place, generation)) in &coordinator.workers {
            let process = self.places[*place].process.as_ref();
            let Some(process) = process.filter(|p| p.generation == *generation) else {
                continue;
            };
            let running = process.tasks.values().filter(|work| work.began);
            for work in running {
                let run = &self.runs[self.run_of(&work.attempt.run)];
                let attempt = run.attempts.get(&work.attempt.attempt);
                let waited = run.id == work.attempt.run
                    && attempt
                        .is_some_and(|a| !a.ended && a.worker == *ix && run.jobs[a.job].limited);
                used += u32::from(waited);
            }
        }
        if used > 1 {
            self.violation(format!("{used} attempts use what there is one of"));
        }
    }

    fn cancel_task(&mut self, at: usize, id: AttemptId, kill: bool) {
        let Some(process) = self.places[at].process.as_mut() else {
            return;
        };
        let generation = process.generation;
        let Some(work) = process.tasks.get_mut(&id) else {
            return;
        };
        work.killed = true;
        if work.began {
            let most = if kill { 10_000 } else { 200_000 };
            self.later(most, What::Over(at, generation, id, true));
        } else {
            self.recall_task(at, id);
        }
    }

    fn recall_task(&mut self, at: usize, id: AttemptId) {
        let Some(process) = self.places[at].process.as_mut() else {
            return;
        };
        let generation = process.generation;
        if let Some(queued) = process.queue.iter().position(|other| *other == id) {
            process.queue.remove(queued);
            self.later(2_000, What::Over(at, generation, id, true));
        }
    }

    fn task_over(&mut self, at: usize, generation: u64, id: AttemptId, killed: bool) {
        let Some(process) = self.process(at, generation) else {
            return;
        };
        let Some(work) = process.tasks.remove(&id) else {
            return;
        };
        let incarnation = process.incarnation;
        if work.began {
            let (cpus, _) = self.demand(&work.attempt);
            let process = self.process(at, generation).expect("it was there");
            process.running -= cpus;
        }
        let mut result = AttemptResult::bare(match killed {
            true => Outcome::Cancelled,
            false => Outcome::Succeeded(Outputs::new()),
        });
        result.usage.written = mark(incarnation);
        self.tell_worker(
            at,
            session::Event::Ended(vec![(id, result, Extra::default())]),
        );
        self.begin_next(at);
    }

    fn kill_worker(&mut self, at: usize) {
        let Some(process) = self.places[at].process.take() else {
            return;
        };
        self.places[at].disturb(self.now);
        let open: Vec<usize> = (0..self.wires.len())
            .filter(|ix| {
                let wire = &self.wires[*ix];
                wire.place == at
                    && wire.generation == process.generation
                    && wire.open[End::Coordinator.index()]
            })
            .collect();
        for wire in open {
            self.close(wire, End::Worker);
        }
    }

    // --- coordinators --------------------------------------------------------------------------

    /// A coordinator starts; drivers begin anew with what is durable.
    fn restart(&mut self) {
        let epoch = self.coordinators.len() as u64 + 1;
        let mut config = pool::Config::new("1", epoch);
        config.lease = Duration::from_micros(LEASE);
        config.beat = Duration::from_micros(BEAT);
        config.grace = Duration::from_micros(GRACE);
        config.adopts = Some(Duration::from_micros(ADOPTS));
        if self.limit {
            config.limits.insert(LIMITED.into(), 1000);
        }
        self.coordinators.push(Coordinator {
            core: pool::Core::with_mutant(config, self.options.mutant),
            epoch,
            began: self.now,
            ticked: self.now,
            told: BTreeMap::new(),
            paused: 0,
            replaced: false,
            dead: false,
            workers: BTreeMap::new(),
            draining: BTreeSet::new(),
        });
        let ix = self.coordinators.len() - 1;
        if self.now > HEALED {
            self.bury_former();
        }
        for place in &mut self.places {
            place.disturb(self.now);
        }
        for at in 0..self.runs.len() {
            let run = RunIx(self.next_run);
            self.next_run += 1;
            self.runs[at].restart(run, &mut self.rng);
            // Some have much to plan, or wait for others.
            let most = [1, 1, 500_000, ADOPTS + BEAT][self.rng.below(4) as usize];
            self.later(most, What::OpenRun(ix, at, run));
        }
        self.at(self.now, What::CoordinatorTick(ix));
        self.at(self.now, What::Drive(ix));
    }

    fn open_run(&mut self, ix: usize, at: usize, run: RunIx) {
        if !self.drives(ix) {
            return;
        }
        self.runs[at].opened = true;
        let id = self.runs[at].id.clone();
        let resumes = self.runs[at].chain.clone();
        let priority = self.rng.below(2) as i32;
        let opened = pool::Event::RunOpened {
            run,
            id,
            priority,
            cpus: self.most_of(at),
            resumes,
        };
        self.tell_coordinator(ix, opened);
    }

    /// Remembers what workers say that they hold, and of what nothing came.
    fn overhear(&mut self, wire: usize, event: &pool::Event) {
        match event {
            pool::Event::Message(_, FromWorker::Hello(hello)) => {
                let told = &mut self.coordinators[self.wires[wire].coordinator].told;
                told.insert(hello.worker.incarnation, hello.held.clone());
            }
            pool::Event::Message(_, FromWorker::Progress(progress)) => {
                let nothing = |ended: &&Ended| {
                    matches!(ended.result.outcome, Outcome::Cancelled | Outcome::Lost(_))
                };
                let useless = progress.ended.iter().filter(nothing);
                self.useless.extend(useless.map(|it| it.attempt.clone()));
            }
            _ => {}
        }
    }

    /// A run hears of all that a worker holds of its former drivers, and of nothing else.
    fn check_offer(&mut self, ix: usize, at: usize, event: &ExecutorEvent) {
        let coordinator = &self.coordinators[ix];
        let began = coordinator.began;
        if let ExecutorEvent::Rejoined = event
            && self.now < began + LEASE
            && coordinator.epoch > 1
        {
            return self.violation("workers had no time to come back".into());
        }
        let ExecutorEvent::WorkerJoined(info) = event else {
            return;
        };
        // One that died while it introduced itself is not known here.
        let Some((incarnation, place, _)) = coordinator.workers.get(&info.worker) else {
            return;
        };
        let told = coordinator.told.get(incarnation);
        let chain = &self.runs[at].chain;
        let of_run = |held: &&Held| chain.contains(&held.attempt.run);
        let held: Vec<&Held> = told.into_iter().flatten().filter(of_run).collect();
        let names = |held: &[&Held]| -> BTreeSet<AttemptRef> {
            held.iter().map(|held| held.attempt.clone()).collect()
        };
        let expected = names(&held);
        // Others may have by now what is limited.
        let unlimited = |held: &&Held| {
            (held.ended || held.limited.is_empty()) && !self.useless.contains(&held.attempt)
        };
        let certain = names(&held.iter().copied().filter(unlimited).collect::<Vec<_>>());
        let offered: BTreeSet<AttemptRef> = info
            .held
            .iter()
            .map(|held| AttemptRef {
                run: held.run.clone(),
                attempt: held.attempt,
            })
            .collect();
        let process = self.places[*place].process.as_ref();
        // What it had not begun it hands back.
        let leaving = process.is_none_or(|process| process.leaving);
        let in_time = self.now < began + ADOPTS && coordinator.epoch > 1;
        if !offered.is_subset(&expected) || in_time && !leaving && !certain.is_subset(&offered) {
            self.violation(format!(
                "{:?} holds {expected:?} of a run, which hears of {offered:?}",
                info.worker
            ));
        }
    }

    /// Whether this is the coordinator that drivers work with.
    fn drives(&self, ix: usize) -> bool {
        let coordinator = &self.coordinators[ix];
        !coordinator.dead && !coordinator.replaced
    }

    fn tell_coordinator(&mut self, ix: usize, event: pool::Event) {
        let now = self.time();
        if self.coordinators[ix].dead {
            return;
        }
        let mut effects = Vec::new();
        let asked = self.what_is_told_after(ix, &event);
        self.coordinators[ix].core.handle(now, event, &mut effects);
        let ends = effects.iter().filter_map(|effect| match effect {
            pool::Effect::Tell(run, ExecutorEvent::Ended(id, _)) => Some((*run, *id)),
            _ => None,
        });
        let ends: Vec<_> = ends.collect();
        for effect in effects {
            self.note(|| format!("    c{ix}: {effect:?}"));
            self.coordinator_does(ix, effect);
        }
        self.check_told(ix, asked, ends);
    }

    fn coordinator_does(&mut self, ix: usize, effect: pool::Effect) {
        match effect {
            pool::Effect::Send(conn, message) => {
                self.check_leaving(ix, conn, &message);
                self.note_starts(&message);
                let wire = conn.0 as usize;
                if self.wires[wire].open[End::Coordinator.index()] {
                    let at = self.arrival(wire, End::Worker);
                    self.at(at, What::ToWorker(wire, message));
                }
            }
            pool::Effect::Close(conn, _) => self.close(conn.0 as usize, End::Coordinator),
            pool::Effect::Tell(run, event) => self.tell_run(ix, run, event),
            pool::Effect::Joined(worker, _, identity) => {
                let incarnation = identity.incarnation;
                let place = self.places.iter().position(|place| {
                    place
                        .process
                        .as_ref()
                        .is_some_and(|p| p.incarnation == incarnation)
                });
                // It may have died since it introduced itself.
                let place = place.map_or((usize::MAX, 0), |at| (at, self.places[at].generation));
                if place.0 != usize::MAX {
                    let known = (incarnation, place.0, place.1);
                    self.coordinators[ix].workers.insert(worker, known);
                }
            }
            pool::Effect::Gone(worker, _) => self.check_loss(ix, worker),
            pool::Effect::Landed(..) | pool::Effect::News(_) => {}
            pool::Effect::RunOver(run) => {
                if self.drives(ix)
                    && let Some(run) = self.runs.iter_mut().find(|other| other.ix == run)
                {
                    run.over = true;
                    if let Some((id, _)) = run.attempts.iter().find(|(_, attempt)| !attempt.ended) {
                        let why = format!("a run is over and {id} did not end");
                        self.violation(why);
                    }
                }
            }
        }
    }

    /// Of what runs are told of each other after an event.
    fn what_is_told_after(&mut self, ix: usize, event: &pool::Event) -> Told {
        match event {
            pool::Event::Tick => {
                let last = std::mem::replace(&mut self.coordinators[ix].ticked, self.now);
                // One that was away itself does nothing else.
                match self.now - last > BEAT {
                    true => Told::Nothing,
                    false => Told::All,
                }
            }
            pool::Event::Submit(run, worker, specs) => {
                let ids = specs.iter().map(|spec| spec.attempt).collect();
                Told::WhoWaits(*run, *worker, ids)
            }
            pool::Event::Message(_, FromWorker::Progress(_)) => Told::WhoEnded,
            _ => Told::Nothing,
        }
    }

    /// A run knows what others have of a worker where it waits, where an attempt of it has just ended, and now and then of all.
    fn check_told(&mut self, ix: usize, told: Told, ends: Vec<(RunIx, AttemptId)>) {
        // What workers hold of runs that nobody has opened yet is not known here.
        if !self.drives(ix) || self.coordinators[ix].epoch > 1 {
            return;
        }
        for at in 0..self.runs.len() {
            let run = &self.runs[at];
            let is_asked = |worker: &WorkerIx| match &told {
                Told::Nothing => false,
                Told::All => true,
                Told::WhoWaits(who, given, ids) => {
                    let mut attempts = ids.iter().filter_map(|id| run.attempts.get(id));
                    let waits = attempts.any(|it| !it.sent && !it.ended);
                    run.ix == *who && worker == given && waits
                }
                Told::WhoEnded => ends.iter().any(|(who, id)| {
                    let attempt = run.attempts.get(id).filter(|_| run.ix == *who);
                    attempt.is_some_and(|attempt| attempt.worker == *worker)
                }),
            };
            let known = run.workers.iter().filter(|(_, known)| !known.lost);
            let asked = known.filter(|(worker, _)| is_asked(worker) && !run.over && run.opened);
            let wrong = asked.map(|(worker, known)| {
                let others = self.runs.iter().filter(|other| other.ix != run.ix);
                let theirs =
                    others.flat_map(|other| other.attempts.values().map(move |it| (other, it)));
                let theirs = theirs.filter(|(_, it)| it.sent && !it.ended && it.worker == *worker);
                let used: u64 = theirs.map(|(other, it)| other.jobs[it.job].cpus).sum();
                let place = self.coordinators[ix].workers.get(worker);
                let slots = place.map_or(known.slots, |it| self.places[it.1].slots);
                (
                    *worker,
                    used.saturating_sub(slots - known.slots),
                    known.taken,
                )
            });
            let mut wrong = wrong.filter(|(_, others, told)| others != told);
            if let Some((worker, others, told)) = wrong.next() {
                let why = format!(
                    "others than run {at} have {others} CPUs of {worker:?}, and it was told {told}"
                );
                return self.violation(why);
            }
        }
    }

    /// A worker that takes nothing new gets nothing new.
    fn check_leaving(&mut self, ix: usize, conn: ConnIx, message: &ToWorker) {
        let wire = &self.wires[conn.0 as usize];
        let of = |(_, place, generation): &(Incarnation, usize, u64)| {
            *place == wire.place && *generation == wire.generation
        };
        let coordinator = &self.coordinators[ix];
        let mut workers = coordinator.workers.iter();
        let draining =
            workers.any(|(worker, known)| of(known) && coordinator.draining.contains(worker));
        if draining && matches!(message, ToWorker::Start(_)) {
            self.violation(format!("w{} leaves, and is given something", wire.place));
        }
    }

    fn note_starts(&mut self, message: &ToWorker) {
        let ToWorker::Start(starts) = message else {
            return;
        };
        for start in starts {
            let run = self.run_of(&start.attempt.run);
            if self.runs[run].id == start.attempt.run {
                self.runs[run].sent(start.attempt.attempt);
            }
        }
    }

    /// A worker is not counted as lost for what it does not do wrong.
    fn check_loss(&mut self, ix: usize, worker: WorkerIx) {
        let Some((_, place, generation)) = self.coordinators[ix].workers.remove(&worker) else {
            return;
        };
        let leaving = self.coordinators[ix].draining.remove(&worker);
        let known = &self.places[place];
        let alive = known
            .process
            .as_ref()
            .is_some_and(|p| p.generation == generation && p.paused <= self.now);
        if alive
            && !leaving
            && self.drives(ix)
            && self.now > known.trouble + LEASE + LEASE / 2 + GRACE + 200_000
        {
            self.violation(format!(
                "w{place} is counted as lost, and nothing was wrong with it since {}",
                known.trouble
            ));
        }
    }

    fn tell_run(&mut self, ix: usize, run: RunIx, event: ExecutorEvent) {
        if !self.drives(ix) {
            return;
        }
        if let ExecutorEvent::WorkerDraining(worker) = &event {
            self.coordinators[ix].draining.insert(*worker);
        }
        let Some(at) = self.runs.iter().position(|other| other.ix == run) else {
            return;
        };
        self.check_offer(ix, at, &event);
        let workers = &self.coordinators[ix].workers;
        let made_by = |worker| workers.get(&worker).map_or(0, |known| mark(known.0));
        let is_misled = |worker| {
            let place = workers.get(&worker).map(|known| &self.places[known.1]);
            let process = place.and_then(|place| place.process.as_ref());
            process.is_some_and(|process| process.misled)
        };
        match self.runs[at].hear(event, made_by, is_misled) {
            Ok(Next::Nothing) => {}
            Ok(Next::Commit(id)) => self.later(80_000, What::Durable(ix, run, id)),
            Ok(Next::Settle(id)) => self.later(40_000, What::Settle(ix, run, vec![id])),
            Ok(Next::Decide(worker, wanted, unwanted)) => {
                self.report.adopted += wanted.len() as u64;
                self.say(ix, at, pool::Event::Adopt(run, worker, wanted));
                self.say(ix, at, pool::Event::Disown(run, unwanted));
            }
            Err(why) => self.violation(why),
        }
    }

    fn durable(&mut self, ix: usize, run: RunIx, id: AttemptId) {
        if !self.drives(ix) {
            return;
        }
        if let Some(run) = self.runs.iter_mut().find(|other| other.ix == run)
            && let Err(why) = run.commit(id)
        {
            self.violation(why);
        }
        self.later(20_000, What::Settle(ix, run, vec![id]));
    }

    /// Drivers submit what they can, and now and then want something back.
    fn drive(&mut self, ix: usize) {
        if !self.drives(ix) {
            return;
        }
        for at in 0..self.runs.len() {
            self.drive_run(ix, at);
        }
        self.later(60_000, What::Drive(ix));
    }

    fn drive_run(&mut self, ix: usize, at: usize) {
        let run = self.runs[at].ix;
        if self.runs[at].closed || !self.runs[at].opened {
            return;
        }
        if self.runs[at].is_done() && self.now > HEALED {
            self.runs[at].closed = true;
            return self.say(ix, at, pool::Event::RunClosed(run));
        }
        let withdraws = self.kinds & WITHDRAWS != 0;
        for word in self.runs[at].turn(&mut self.rng, withdraws) {
            self.say(ix, at, word);
        }
    }

    /// A driver tells the coordinator something: after what it said before, and never from within what it hears.
    fn say(&mut self, ix: usize, at: usize, event: pool::Event) {
        let delay = match self.kinds & SLOW_DRIVERS {
            0 => 0,
            _ => self.rng.below(30_000),
        };
        let run = &mut self.runs[at];
        run.said = run.said.max(self.now + delay);
        let said = run.said;
        self.at(said, What::Said(ix, event));
    }

    // --- troubles ------------------------------------------------------------------------------

    fn fault(&mut self) {
        if self.now >= HEALED {
            return self.heal();
        }
        let place = self.rng.below(self.places.len() as u64) as usize;
        let kind = self.rng.range(2, 10);
        if self.kinds & (1 << kind) != 0 {
            self.report.faults += 1;
            self.trouble(kind, place);
        }
        self.later(300_000, What::Fault);
    }

    fn trouble(&mut self, kind: u64, place: usize) {
        let long = self.rng.below(2 * LEASE);
        match kind {
            2 => self.cut_one(place),
            3 => {
                self.kill_worker(place);
                self.later(1_000_000, What::Boot(place));
            }
            4 => {
                if let Some(process) = &mut self.places[place].process {
                    process.paused = process.paused.max(self.now + long);
                    self.places[place].disturb(self.now + long);
                }
            }
            5 => {
                // One way or both.
                let ways = self.rng.range(1, 4);
                for way in 0..2 {
                    if ways & (1 << way) != 0 {
                        self.places[place].deaf[way] = self.now + long;
                    }
                }
                self.places[place].disturb(self.now + long);
            }
            6 => self.crash(),
            7 => {
                if let Some(coordinator) = self.coordinators.last_mut() {
                    coordinator.paused = coordinator.paused.max(self.now + long);
                }
            }
            8 => {
                if let Some(process) = &mut self.places[place].process {
                    process.leaving = true;
                    let within = Duration::from_micros(long);
                    self.tell_worker(place, session::Event::Leave(within, "a test".into()));
                }
            }
            _ => self.forge(place),
        }
    }

    fn cut_one(&mut self, place: usize) {
        let open = |wire: &Wire| wire.place == place && !wire.broken && wire.open[0];
        if let Some(wire) = self.wires.iter().rposition(open) {
            self.cut(wire);
        }
    }

    /// The coordinator dies, or is replaced by another while it is still there.
    fn crash(&mut self) {
        let ix = self.coordinators.len() - 1;
        if self.coordinators[ix].dead || self.coordinators[ix].replaced {
            return;
        }
        self.coordinators[ix].replaced = true;
        if self.rng.percent(70) {
            self.bury(ix);
        }
        self.later(500_000, What::Restart);
    }

    /// Coordinators that were replaced are not there any more.
    fn bury_former(&mut self) {
        for ix in 0..self.coordinators.len() - 1 {
            if !self.coordinators[ix].dead {
                self.bury(ix);
            }
        }
    }

    fn bury(&mut self, ix: usize) {
        self.coordinators[ix].dead = true;
        let open: Vec<usize> = (0..self.wires.len())
            .filter(|wire| self.wires[*wire].coordinator == ix && self.wires[*wire].open[0])
            .collect();
        for wire in open {
            self.close(wire, End::Coordinator);
        }
    }

    /// A worker reports what it was never given.
    fn forge(&mut self, place: usize) {
        let Some(process) = &self.places[place].process else {
            return;
        };
        let Link::Up { conn, .. } = *process.core.link() else {
            return;
        };
        let (generation, incarnation) = (process.generation, process.incarnation);
        let Some(wire) = self.wire_of(place, generation, conn) else {
            return;
        };
        let run = &self.runs[self.rng.below(self.runs.len() as u64) as usize];
        let workers = &self.coordinators[self.wires[wire].coordinator].workers;
        let is_own = |worker| workers.get(worker).is_some_and(|known| known.1 == place);
        let mut others = run.attempts.iter();
        let other = others.find(|(_, attempt)| !attempt.ended && !is_own(&attempt.worker));
        let Some((id, _)) = other else {
            return;
        };
        let mut result = AttemptResult::bare(Outcome::Succeeded(Outputs::new()));
        result.usage.written = mark(incarnation);
        let progress = Progress {
            started: Vec::new(),
            ended: vec![Ended {
                attempt: AttemptRef {
                    run: run.id.clone(),
                    attempt: *id,
                },
                result: Arc::new(result),
                extra: Arc::default(),
            }],
        };
        let at = self.arrival(wire, End::Coordinator);
        self.at(
            at,
            What::ToCoordinator(wire, FromWorker::Progress(progress)),
        );
    }

    /// From now on nothing goes wrong any more.
    fn heal(&mut self) {
        self.bury_former();
        for place in 0..self.places.len() {
            if self.places[place].process.is_none() {
                self.later(100_000, What::Boot(place));
            }
        }
    }
}

/// By what a result tells who made it.
pub(super) fn mark(incarnation: Incarnation) -> u64 {
    u64::from_le_bytes(*incarnation.0.first_chunk().expect("16 bytes"))
}
