//! The hosts, and all that may go wrong with them and between them.

use std::{cell::RefCell, rc::Rc, time::Duration};

use turmoil::{Builder, Sim};

use super::{
    super::{Report, rng::Rng},
    coordinator::coordinate,
    truth::{Shared, Truth},
    worker::{COORDINATOR, work},
};
use crate::worker::Order;

/// How far hosts go at a time.
const STEP: Duration = Duration::from_millis(5);
/// Troubles begin until then, and are over somewhat later.
const CALM: Duration = Duration::from_secs(12);
/// By then all must be done.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long a trouble lasts at most, in milliseconds: longer than a lease.
const LONGEST: u64 = 6_000;

/// What may go wrong.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// A host dies.
    Death,
    /// Nothing gets through, both ways or one.
    Cut(Ways),
    /// Nothing gets through, and then all of it.
    Hold,
    /// Everything takes this many milliseconds.
    Slow(u64),
    /// A worker is told to go.
    Leave,
}

#[derive(Clone, Copy, Debug)]
enum Ways {
    Both,
    ToCoordinator,
    FromCoordinator,
}

/// A trouble that is there, with a host, until something.
#[derive(Debug)]
struct Present {
    trouble: Trouble,
    host: String,
    until: Duration,
}

/// Simulates a seed until all is done, or something is wrong.
pub(super) fn simulate(seed: u64) -> Report {
    let truth: Shared = Rc::new(RefCell::new(Truth::new(seed)));
    let mut sim = Builder::new()
        .rng_seed(seed)
        .tick_duration(STEP)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(20))
        .simulation_duration(2 * DEADLINE)
        .enable_random_order()
        .build();
    let shared = truth.clone();
    sim.host(COORDINATOR, move || coordinate(shared.clone()));
    let places = truth.borrow().places.len();
    for at in 0..places {
        let (name, shared) = (truth.borrow().places[at].name.clone(), truth.clone());
        sim.host(name, move || work(shared.clone(), at));
    }
    let mut rng = Rng::new(seed ^ 0x57_0812);
    let weather = Weather {
        truth: truth.clone(),
        kinds: rng.next(),
        next: Duration::from_millis(rng.below(1_000)),
        rng,
        present: Vec::new(),
        faults: 0,
    };
    let (faults, took) = weather.run(&mut sim);
    drop(sim);
    let truth = Rc::into_inner(truth).expect("all hosts are gone");
    let truth = truth.into_inner();
    Report {
        violation: truth.violation,
        hash: truth.hash,
        faults,
        adopted: truth.adopted,
        took,
        trace: truth.trace,
    }
}

struct Weather {
    truth: Shared,
    rng: Rng,
    /// Which kinds of trouble this seed has.
    kinds: u64,
    next: Duration,
    present: Vec<Present>,
    faults: u64,
}

impl Weather {
    /// Gives how many troubles there were, and how long all took.
    fn run(mut self, sim: &mut Sim<'_>) -> (u64, Duration) {
        loop {
            if let Err(error) = sim.step() {
                let error = format!("a host ended badly: {error}");
                self.truth.borrow_mut().violate(error);
            }
            let now = sim.elapsed();
            self.change(now, sim);
            if now > DEADLINE {
                let open = self.open();
                let why = format!("not over by the deadline: {open}");
                self.truth.borrow_mut().violate(why);
            }
            if self.is_over(sim) {
                return (self.faults, now);
            }
        }
    }

    fn is_over(&self, sim: &mut Sim<'_>) -> bool {
        let truth = self.truth.borrow();
        let mut places = truth.places.iter();
        truth.violation.is_some()
            || truth.dismissed && !places.any(|place| sim.is_host_running(place.name.as_str()))
    }

    /// What is left to do, in words.
    fn open(&self) -> String {
        let run = &self.truth.borrow().run;
        let jobs = run.jobs.iter().enumerate().filter(|(_, job)| !job.done);
        let jobs = jobs.map(|(at, job)| format!("job {at} as {:?}", job.attempt));
        jobs.collect::<Vec<_>>().join(", ")
    }

    fn change(&mut self, now: Duration, sim: &mut Sim<'_>) {
        let over = self.present.extract_if(.., |it| it.until <= now);
        for present in over.collect::<Vec<_>>() {
            self.note(now, &format!("over: {present:?}"));
            end(&present, sim);
        }
        if now < CALM && now >= self.next {
            self.next = now + Duration::from_millis(self.rng.range(100, 2_000));
            self.begin_one(now, sim);
        } else if now >= CALM && self.present.is_empty() && !self.truth.borrow().dismissed {
            self.truth.borrow_mut().healed = true;
            self.fill(sim);
        }
    }

    fn begin_one(&mut self, now: Duration, sim: &mut Sim<'_>) {
        let places = self.truth.borrow().places.len();
        let at = self.rng.below(places as u64) as usize;
        let worker = self.truth.borrow().places[at].name.clone();
        let kind = self.rng.below(8);
        if self.kinds & (1 << kind) == 0 {
            return;
        }
        let (host, trouble) = match kind {
            0 => (COORDINATOR.to_owned(), Trouble::Death),
            1 => (worker, Trouble::Death),
            2 => (worker, Trouble::Cut(Ways::Both)),
            3 => (worker, Trouble::Cut(Ways::ToCoordinator)),
            4 => (worker, Trouble::Cut(Ways::FromCoordinator)),
            5 => (worker, Trouble::Hold),
            6 => (worker, Trouble::Slow(self.rng.range(50, 1_000))),
            _ => (worker, Trouble::Leave),
        };
        // A link is in one kind of trouble at a time; a host dies once.
        let clashes = |it: &Present| {
            it.host == host
                && matches!(it.trouble, Trouble::Death) == matches!(trouble, Trouble::Death)
        };
        if self.present.iter().any(clashes) || !sim.is_host_running(host.as_str()) {
            return;
        }
        let lasts = Duration::from_millis(self.rng.range(10, LONGEST));
        let present = Present {
            trouble,
            host,
            until: now + lasts,
        };
        self.note(now, &format!("begins: {present:?}"));
        self.faults += 1;
        if let Trouble::Leave = trouble {
            let order = Order::Leave(lasts / 4, "a test".into());
            if let Some(orders) = &self.truth.borrow().places[at].orders {
                let _ = orders.send(order);
            }
        }
        begin(&present, sim);
        self.present.push(present);
    }

    /// Whoever left or died is replaced, so that all can be done.
    fn fill(&self, sim: &mut Sim<'_>) {
        let places = self.truth.borrow().places.len();
        for at in 0..places {
            let name = self.truth.borrow().places[at].name.clone();
            if !sim.is_host_running(name.as_str()) {
                sim.bounce(name);
            }
        }
    }

    fn note(&self, now: Duration, text: &str) {
        self.truth.borrow_mut().note(now, text);
    }
}

fn begin(present: &Present, sim: &mut Sim<'_>) {
    let host = present.host.as_str();
    match present.trouble {
        Trouble::Death => sim.crash(host),
        Trouble::Cut(Ways::Both) => sim.partition(host, COORDINATOR),
        Trouble::Cut(Ways::ToCoordinator) => sim.partition_oneway(host, COORDINATOR),
        Trouble::Cut(Ways::FromCoordinator) => sim.partition_oneway(COORDINATOR, host),
        Trouble::Hold => sim.hold(host, COORDINATOR),
        Trouble::Slow(millis) => slow(host, millis, sim),
        Trouble::Leave => {}
    }
}

fn end(present: &Present, sim: &mut Sim<'_>) {
    let host = present.host.as_str();
    match present.trouble {
        Trouble::Death => sim.bounce(host),
        Trouble::Cut(Ways::Both) => sim.repair(host, COORDINATOR),
        Trouble::Cut(Ways::ToCoordinator) => sim.repair_oneway(host, COORDINATOR),
        Trouble::Cut(Ways::FromCoordinator) => sim.repair_oneway(COORDINATOR, host),
        Trouble::Hold => sim.release(host, COORDINATOR),
        Trouble::Slow(_) => slow(host, 20, sim),
        // Another takes its place.
        Trouble::Leave if !sim.is_host_running(host) => sim.bounce(host),
        Trouble::Leave => {}
    }
}

fn slow(host: &str, millis: u64, sim: &Sim<'_>) {
    sim.set_link_latency(host, COORDINATOR, Duration::from_millis(millis));
}
