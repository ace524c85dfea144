//! Workers, their free resources, and how many bytes of each set are on which host.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, VecDeque},
    ops::Range,
};

use dagrun_model::{AttemptId, HostIx, Paged, Resources, SetIx, WorkerIx};

use crate::{
    ahead::Recent,
    graph::{Fate, Graph, Node},
    lanes::Shape,
    replicas::Sums,
    stop::sorted,
};

#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) host: HostIx,
    /// As it says, in thousandths of the reference, at least 1.
    pub(crate) speed: u64,
    /// Its speed as its attempts showed it, in quarters of the reference: what differs by less is taken for noise.
    pub(crate) pace: u64,
    /// How much longer than others of their jobs its attempts took, in thousandths of what its speed promises. Boxed, for little
    /// looks at it.
    slowness: Box<Recent>,
    pub(crate) capacity: Resources,
    /// What this run leaves of it.
    pub(crate) free: Resources,
    /// What others have of it, where they have something.
    pub(crate) others: Option<Box<Resources>>,
    pub(crate) profile: Option<String>,
    pub(crate) alive: bool,
    pub(crate) draining: bool,
    pub(crate) attempts: Vec<AttemptId>,
    /// How many attempts it may be given ahead.
    pub(crate) ahead: u32,
    /// Those that it was given ahead, in order.
    pub(crate) queue: VecDeque<AttemptId>,
    /// How long they are expected to run, in microseconds.
    pub(crate) queue_micros: u64,
    /// The only attempt that it has must have it for itself.
    pub(crate) alone: bool,
    /// Its disk has no room, as it says.
    pub(crate) full: bool,
    /// The lane that it is kept for.
    pub(crate) reserved: Option<u32>,
    pub(crate) dirty: bool,
    /// Its places in the orders of rooms, and whether they are out of date.
    filed: RoomKey,
    filed_clear: RoomKey,
    moved: bool,
}

impl Worker {
    pub(crate) fn new(
        host: HostIx,
        capacity: Resources,
        profile: Option<String>,
        ahead: u32,
        speed: u32,
    ) -> Self {
        let mut worker = Self {
            host,
            speed: u64::from(speed.max(1)),
            pace: 0,
            slowness: Box::default(),
            free: capacity.clone(),
            others: None,
            capacity,
            profile,
            alive: true,
            draining: false,
            attempts: Vec::new(),
            ahead,
            queue: VecDeque::new(),
            queue_micros: 0,
            alone: false,
            full: false,
            reserved: None,
            dirty: false,
            filed: (Reverse(0), Reverse(0), WorkerIx(0)),
            filed_clear: (Reverse(0), Reverse(0), WorkerIx(0)),
            moved: false,
        };
        worker.learn_pace();
        worker
    }

    /// Its speed as its attempts showed it, or as it says while few have ended there.
    pub(crate) fn shown_speed(&self) -> u64 {
        let slowness = self.slowness.median_of(4).unwrap_or(1000);
        (self.speed.saturating_mul(1000) / slowness.max(1)).max(1)
    }

    fn learn_pace(&mut self) {
        self.pace = (self.shown_speed().saturating_mul(4) + 500) / 1000;
    }

    fn room_key(&self, worker: WorkerIx) -> RoomKey {
        (Reverse(self.pace), Reverse(self.free.cpu_milli), worker)
    }

    fn clear_key(&self, worker: WorkerIx) -> RoomKey {
        (Reverse(self.pace), Reverse(self.clear_cpu()), worker)
    }

    /// CPU that nobody has, at most.
    pub(crate) fn clear_cpu(&self) -> u64 {
        let others = self.others.as_ref().map_or(0, |others| others.cpu_milli);
        self.free.cpu_milli.saturating_sub(others)
    }

    /// What nobody has: nothing where something waits for others.
    pub(crate) fn clear_room(&self) -> Resources {
        let mut room = self.free.clone();
        match &self.others {
            None => room,
            Some(others) if others.fits(&room) => {
                room.take(others);
                room
            }
            Some(_) => Resources::none(),
        }
    }

    /// Whether this could begin there at once, as far as is known.
    pub(crate) fn is_clear_for(&self, demand: &Resources) -> bool {
        match &self.others {
            None => demand.fits(&self.free),
            Some(_) => !self.is_crowded() && demand.fits(&self.clear_room()),
        }
    }

    /// Whether it was given more than others leave of it: some of that waits.
    fn is_crowded(&self) -> bool {
        let fits = |others: &Resources| others.fits(&self.free);
        self.others.as_ref().is_some_and(|others| !fits(others))
    }

    /// Whether nothing runs or waits there.
    pub(crate) fn is_idle(&self) -> bool {
        self.attempts.is_empty() && self.queue.is_empty()
    }

    /// Whether it could take this if it were idle.
    pub(crate) fn could_take(&self, shape: &Shape) -> bool {
        self.serves(shape.profile.as_deref()) && shape.demand.fits(&self.capacity)
    }

    /// Whether it may get nodes of this profile at all.
    pub(crate) fn serves(&self, profile: Option<&str>) -> bool {
        self.alive && !self.draining && (profile.is_none() || self.profile.as_deref() == profile)
    }
}

/// Pace, free CPU, and the worker.
type RoomKey = (Reverse<u64>, Reverse<u64>, WorkerIx);

#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts {
    pub(crate) workers: Vec<Option<Worker>>,
    /// Live workers in order of their ids.
    pub(crate) alive: Vec<WorkerIx>,
    /// Workers with room that they did not have before.
    pub(crate) dirty: Vec<WorkerIx>,
    /// Workers that have no room on their disks and have yet to join.
    roomless: BTreeSet<WorkerIx>,
    /// Workers that ever joined.
    pub(crate) joined: u32,
    /// The slowest and the fastest pace of workers that ever joined.
    paces: Option<(u64, u64)>,
    /// Some worker takes attempts ahead.
    pub(crate) hold_ahead: bool,
    /// One more than the highest host.
    pub(crate) count: usize,
    /// By host: its live workers, in order.
    on: Vec<Vec<WorkerIx>>,
    /// Live workers: the fastest, and of those the roomiest, first. Where each stood when all were filed last.
    by_room: BTreeSet<RoomKey>,
    /// The same order by what nobody has, while others have something of some worker.
    by_clear: BTreeSet<RoomKey>,
    /// How many those are.
    shared: usize,
    /// Workers that were given more than others leave of them.
    pub(crate) crowded: BTreeSet<WorkerIx>,
    /// Workers that have changed since. A slot that is freed and taken in one event costs no place in the order.
    moved: Vec<WorkerIx>,
    /// By set: its bytes by host. Empty while there is only one host.
    sums: Paged<Sums>,
}

impl Hosts {
    /// Takes a worker in; whether it is new.
    pub(crate) fn join(&mut self, worker: WorkerIx, mut joined: Worker, graph: &Graph) -> bool {
        if self.workers.len() <= worker.index() {
            self.workers.resize(worker.index() + 1, None);
        }
        if self.workers[worker.index()].is_some() {
            return false;
        }
        joined.full = self.roomless.remove(&worker);
        self.hold_ahead |= joined.ahead > 0;
        self.take_pace(joined.pace);
        let host = joined.host.index();
        self.count = self.count.max(host + 1);
        self.on.resize_with(self.count, Vec::new);
        let at = self.on[host].partition_point(|other| *other < worker);
        self.on[host].insert(at, worker);
        joined.filed = joined.room_key(worker);
        self.by_room.insert(joined.filed);
        joined.filed_clear = joined.clear_key(worker);
        if self.any_shared() {
            self.by_clear.insert(joined.filed_clear);
        }
        self.workers[worker.index()] = Some(joined);
        let at = self.alive.partition_point(|other| *other < worker);
        self.alive.insert(at, worker);
        self.joined += 1;
        self.mark(worker);
        self.sum_up_new(graph);
        true
    }

    /// Whether a worker that joins next has room on its disk.
    pub(crate) fn will_join(&mut self, worker: WorkerIx, has_room: bool) {
        match has_room {
            true => self.roomless.remove(&worker),
            false => self.roomless.insert(worker),
        };
    }

    fn take_pace(&mut self, pace: u64) {
        let (slowest, fastest) = self.paces.unwrap_or((pace, pace));
        self.paces = Some((slowest.min(pace), fastest.max(pace)));
    }

    /// Takes how an attempt's time compares with what its worker's speed promises, in thousandths.
    pub(crate) fn learn_slowness(&mut self, worker: WorkerIx, slowness: u64) {
        self.change_room(worker, |known| {
            known.slowness.add(slowness);
            known.learn_pace();
        });
        if let Some(pace) = self.get(worker).map(|known| known.pace) {
            self.take_pace(pace);
        }
    }

    /// Whether some workers are clearly faster than others.
    pub(crate) fn uneven(&self) -> bool {
        self.paces
            .is_some_and(|(slowest, fastest)| slowest < fastest)
    }

    /// Whether it matters where nodes run.
    pub(crate) fn many(&self) -> bool {
        self.count > 1
    }

    pub(crate) fn get(&self, worker: WorkerIx) -> Option<&Worker> {
        self.workers.get(worker.index()).and_then(Option::as_ref)
    }

    pub(crate) fn get_mut(&mut self, worker: WorkerIx) -> Option<&mut Worker> {
        self.workers
            .get_mut(worker.index())
            .and_then(Option::as_mut)
    }

    pub(crate) fn known(&self, worker: WorkerIx) -> &Worker {
        self.get(worker)
            .expect("workers are kept for the whole run")
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = (WorkerIx, &Worker)> {
        self.alive
            .iter()
            .map(|worker| (*worker, self.known(*worker)))
    }

    /// Whether some worker takes new nodes.
    pub(crate) fn take_any(&self) -> bool {
        self.live().any(|(_, worker)| !worker.draining)
    }

    pub(crate) fn host_of(&self, worker: WorkerIx) -> HostIx {
        self.known(worker).host
    }

    pub(crate) fn mark(&mut self, worker: WorkerIx) {
        let dirty = &mut self.dirty;
        if let Some(Some(known)) = self.workers.get_mut(worker.index())
            && !known.dirty
        {
            known.dirty = true;
            dirty.push(worker);
        }
    }

    /// Gives the workers that were marked.
    pub(crate) fn clear_marks(&mut self) -> Vec<WorkerIx> {
        let marked = std::mem::take(&mut self.dirty);
        for worker in &marked {
            if let Some(known) = self.get_mut(*worker) {
                known.dirty = false;
            }
        }
        marked
    }

    pub(crate) fn take(&mut self, worker: WorkerIx, attempt: AttemptId, demand: &Resources) {
        self.change_room(worker, |known| {
            known.free.take(demand);
            known.attempts.push(attempt);
        });
    }

    /// Changes what a worker has free, or how fast it is.
    fn change_room(&mut self, worker: WorkerIx, change: impl FnOnce(&mut Worker)) {
        let Some(Some(known)) = self.workers.get_mut(worker.index()) else {
            return;
        };
        change(known);
        if known.others.is_some() {
            match known.is_crowded() {
                true => self.crowded.insert(worker),
                false => self.crowded.remove(&worker),
            };
        }
        if !std::mem::replace(&mut known.moved, true) {
            self.moved.push(worker);
        }
    }

    /// Whether others have something of any worker.
    pub(crate) fn any_shared(&self) -> bool {
        self.shared > 0
    }

    /// Takes what others have of a worker.
    pub(crate) fn share(&mut self, worker: WorkerIx, others: Resources) {
        let Some(known) = self.get(worker).filter(|known| known.alive) else {
            return;
        };
        let is_less = known.others.as_ref().is_some_and(|it| !it.fits(&others));
        let was_shared = known.others.is_some();
        let others = (others != Resources::none()).then(|| Box::new(others));
        let is_shared = others.is_some();
        self.crowded.remove(&worker);
        self.change_room(worker, |known| known.others = others);
        if is_less {
            self.mark(worker);
        }
        self.count_shared(was_shared, is_shared);
    }

    /// Keeps the order by what nobody has only while there is a difference.
    fn count_shared(&mut self, was: bool, is: bool) {
        let before = self.any_shared();
        self.shared = self.shared + usize::from(is) - usize::from(was);
        if before == self.any_shared() {
            return;
        }
        self.by_clear.clear();
        if !before {
            for ix in self.alive.clone() {
                let known = self.get_mut(ix).expect("it is alive");
                known.filed_clear = known.clear_key(ix);
                let key = known.filed_clear;
                self.by_clear.insert(key);
            }
        }
    }

    /// Brings the orders of rooms up to date.
    pub(crate) fn file_moved(&mut self) {
        let any_shared = self.any_shared();
        for worker in self.moved.drain(..) {
            let Some(Some(known)) = self.workers.get_mut(worker.index()) else {
                continue;
            };
            known.moved = false;
            let key = known.room_key(worker);
            let before = std::mem::replace(&mut known.filed, key);
            if key != before && self.by_room.remove(&before) {
                self.by_room.insert(key);
            }
            if any_shared {
                let key = known.clear_key(worker);
                let before = std::mem::replace(&mut known.filed_clear, key);
                if key != before && self.by_clear.remove(&before) {
                    self.by_clear.insert(key);
                }
            }
        }
    }

    /// Live workers with so much CPU free, or `clear`, when all are filed: the fastest, and of those the roomiest, first.
    pub(crate) fn with_room(&self, cpu_milli: u64, clear: bool) -> WithRoom<'_> {
        debug_assert!(self.moved.is_empty(), "the order of rooms is out of date");
        WithRoom {
            order: match clear && self.any_shared() {
                true => &self.by_clear,
                false => &self.by_room,
            },
            least: cpu_milli,
            next: Some((Reverse(u64::MAX), Reverse(u64::MAX), WorkerIx(0))),
        }
    }

    /// The live workers of a host.
    pub(crate) fn workers_on(&self, host: HostIx) -> &[WorkerIx] {
        self.on.get(host.index()).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn set_alone(&mut self, worker: WorkerIx, alone: bool) {
        if let Some(known) = self.get_mut(worker) {
            known.alone = alone;
        }
    }

    pub(crate) fn queue(&mut self, worker: WorkerIx, attempt: AttemptId, micros: u64) {
        let known = self.get_mut(worker).expect("a chosen worker is known");
        known.queue.push_back(attempt);
        known.queue_micros += micros;
    }

    pub(crate) fn unqueue(&mut self, worker: WorkerIx, attempt: AttemptId, micros: u64) {
        if let Some(known) = self.get_mut(worker)
            && let Some(at) = known.queue.iter().position(|other| *other == attempt)
        {
            known.queue.remove(at);
            known.queue_micros -= micros;
        }
    }

    pub(crate) fn release(&mut self, worker: WorkerIx, attempt: AttemptId, demand: &Resources) {
        let Some(known) = self.get_mut(worker).filter(|known| known.alive) else {
            return;
        };
        if let Some(at) = known.attempts.iter().position(|other| *other == attempt) {
            self.change_room(worker, |known| {
                known.attempts.swap_remove(at);
                known.free.give(demand);
                known.alone = false;
            });
            self.mark(worker);
        }
    }

    /// Takes a worker out; its attempts in order of their starts, or nothing if it was not there.
    pub(crate) fn lose(&mut self, worker: WorkerIx) -> Option<Vec<AttemptId>> {
        let known = self.get_mut(worker).filter(|known| known.alive)?;
        known.alive = false;
        known.reserved = None;
        let mut attempts = std::mem::take(&mut known.attempts);
        attempts.extend(known.queue.drain(..));
        known.queue_micros = 0;
        let was_shared = known.others.take().is_some();
        let (host, key, clear_key) = (known.host.index(), known.filed, known.filed_clear);
        self.by_room.remove(&key);
        self.by_clear.remove(&clear_key);
        self.crowded.remove(&worker);
        self.on[host].retain(|other| *other != worker);
        self.alive.retain(|other| *other != worker);
        self.count_shared(was_shared, false);
        Some(sorted(attempts))
    }

    pub(crate) fn drain(&mut self, worker: WorkerIx) -> bool {
        match self.get_mut(worker) {
            Some(known) if known.alive && !known.draining => {
                known.draining = true;
                known.reserved = None;
                true
            }
            _ => false,
        }
    }

    pub(crate) fn live_attempts(&self) -> Vec<AttemptId> {
        sorted(
            self.live()
                .flat_map(|(_, worker)| worker.attempts.iter().chain(&worker.queue).copied())
                .collect(),
        )
    }

    /// The most memory of a worker that could otherwise take a demand.
    pub(crate) fn largest_memory(
        &self,
        demand: &Resources,
        profile: Option<&str>,
        host: Option<HostIx>,
    ) -> u64 {
        let without = Resources {
            memory: 0,
            ..demand.clone()
        };
        let able = self.live().filter(|(_, worker)| {
            worker.serves(profile)
                && host.is_none_or(|host| worker.host == host)
                && without.fits(&worker.capacity)
        });
        able.map(|(_, worker)| worker.capacity.memory)
            .max()
            .unwrap_or(0)
    }

    /// Whether an idle worker of a host could take this, and is not to be passed over.
    pub(crate) fn could_take(&self, host: HostIx, shape: &Shape) -> bool {
        let mut workers = self.workers_on(host).iter();
        workers.any(|worker| self.may_take(self.known(*worker), shape))
    }

    // --- bytes ---------------------------------------------------------------------------------

    /// Makes the sums of new sets, and of all when the second host is there.
    pub(crate) fn sum_up_new(&mut self, graph: &Graph) {
        if !self.many() {
            return;
        }
        let first = self.sums.len();
        self.sums.grow(graph.sets.len(), &Sums::default());
        let mut next = first;
        for set in graph.live_sets_from(first) {
            self.sums.retire(next..set);
            self.sum_up(graph, SetIx::from_index(set));
            next = set + 1;
        }
        self.sums.retire(next..graph.sets.len());
    }

    /// Forgets sets.
    pub(crate) fn retire(&mut self, sets: Range<usize>) {
        if self.many() {
            self.sums.retire(sets);
        }
    }

    fn sum_up(&mut self, graph: &Graph, set: SetIx) {
        if graph.sets[set.index()].bytes > 0 {
            for member in graph.members(set) {
                self.count_bytes(set, graph.node(*member), true);
            }
        }
    }

    /// Adds (or takes off) what a member of a set has on each host.
    pub(crate) fn count_bytes(&mut self, set: SetIx, node: &Node, add: bool) {
        if self.many() && node.bytes > 0 && node.fate == Fate::Good {
            let sums = &mut self.sums[set.index()];
            for host in node.replicas.hosts() {
                sums.change(*host, node.bytes, add);
            }
        }
    }

    pub(crate) fn replica_bytes(&mut self, set: SetIx, host: HostIx, bytes: u64, add: bool) {
        if self.many() && bytes > 0 {
            self.sums[set.index()].change(host, bytes, add);
        }
    }

    pub(crate) fn bytes_at(&self, set: SetIx, host: HostIx) -> u64 {
        self.sums[set.index()].at(host)
    }

    /// Whether a host may have something of a set; it is asked for sets that may be gone, too.
    pub(crate) fn may_have(&self, set: SetIx, host: HostIx) -> bool {
        let sums = self.sums.get(set.index());
        sums.is_some_and(|sums| sums.may_have(host))
    }

    /// The hosts that have something of a set.
    pub(crate) fn holders(&self, set: SetIx) -> impl Iterator<Item = HostIx> {
        self.sums[set.index()].hosts()
    }
}

/// Walks over workers with room; those of a pace that have too little are passed over together.
pub(crate) struct WithRoom<'a> {
    order: &'a BTreeSet<RoomKey>,
    least: u64,
    next: Option<RoomKey>,
}

impl Iterator for WithRoom<'_> {
    type Item = WorkerIx;

    fn next(&mut self) -> Option<WorkerIx> {
        loop {
            let key = *self.order.range(self.next?..).next()?;
            let (Reverse(pace), Reverse(free), worker) = key;
            if free >= self.least {
                self.next = Some((Reverse(pace), Reverse(free), WorkerIx(worker.0 + 1)));
                return Some(worker);
            }
            let slower = pace.checked_sub(1);
            self.next = slower.map(|pace| (Reverse(pace), Reverse(u64::MAX), WorkerIx(0)));
        }
    }
}
