//! Workers, their free resources, and how many bytes of each set are on which host.

use std::{collections::VecDeque, ops::Range};

use dagrun_model::{AttemptId, HostIx, Paged, Resources, SetIx, WorkerIx};

use crate::{
    ahead::Recent,
    attempts::bit,
    graph::{Fate, Graph, Node},
    lanes::Shape,
    stop::sorted,
};

#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) host: HostIx,
    /// As it says, in thousandths of the reference, at least 1.
    pub(crate) speed: u64,
    /// How much longer than others of their jobs its attempts took, in thousandths of what its speed promises.
    slowness: Recent,
    pub(crate) capacity: Resources,
    pub(crate) free: Resources,
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
    /// The lane that it is kept for.
    pub(crate) reserved: Option<u32>,
    pub(crate) dirty: bool,
}

impl Worker {
    pub(crate) fn new(
        host: HostIx,
        capacity: Resources,
        profile: Option<String>,
        ahead: u32,
        speed: u32,
    ) -> Self {
        Self {
            host,
            speed: u64::from(speed.max(1)),
            slowness: Recent::default(),
            free: capacity.clone(),
            capacity,
            profile,
            alive: true,
            draining: false,
            attempts: Vec::new(),
            ahead,
            queue: VecDeque::new(),
            queue_micros: 0,
            alone: false,
            reserved: None,
            dirty: false,
        }
    }

    /// Its speed as its attempts showed it, or as it says while few have ended there.
    pub(crate) fn shown_speed(&self) -> u64 {
        let slowness = self.slowness.median_of(4).unwrap_or(1000);
        (self.speed.saturating_mul(1000) / slowness.max(1)).max(1)
    }

    /// Its speed in quarters of the reference: what differs by less is taken for noise.
    pub(crate) fn pace(&self) -> u64 {
        (self.shown_speed().saturating_mul(4) + 500) / 1000
    }

    /// Whether nothing runs or waits there.
    pub(crate) fn is_idle(&self) -> bool {
        self.attempts.is_empty() && self.queue.is_empty()
    }

    /// Whether it may get nodes of this profile at all.
    pub(crate) fn serves(&self, profile: Option<&str>) -> bool {
        self.alive && !self.draining && (profile.is_none() || self.profile.as_deref() == profile)
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts {
    pub(crate) workers: Vec<Option<Worker>>,
    /// Live workers in order of their ids.
    pub(crate) alive: Vec<WorkerIx>,
    /// Workers with room that they did not have before.
    pub(crate) dirty: Vec<WorkerIx>,
    /// Workers that ever joined.
    pub(crate) joined: u32,
    /// The slowest and the fastest pace of workers that ever joined.
    paces: Option<(u64, u64)>,
    /// Some worker takes attempts ahead.
    pub(crate) hold_ahead: bool,
    /// One more than the highest host.
    pub(crate) count: usize,
    /// Bytes of sets by host: `stride` hosts to a set. Empty while there is only one host.
    bytes: Paged<u64>,
    stride: usize,
}

impl Hosts {
    /// Takes a worker in; whether it is new.
    pub(crate) fn join(&mut self, worker: WorkerIx, joined: Worker, graph: &Graph) -> bool {
        if self.workers.len() <= worker.index() {
            self.workers.resize(worker.index() + 1, None);
        }
        if self.workers[worker.index()].is_some() {
            return false;
        }
        self.hold_ahead |= joined.ahead > 0;
        self.take_pace(joined.pace());
        self.count = self.count.max(joined.host.index() + 1);
        self.workers[worker.index()] = Some(joined);
        let at = self.alive.partition_point(|other| *other < worker);
        self.alive.insert(at, worker);
        self.joined += 1;
        self.mark(worker);
        self.resize(graph);
        true
    }

    fn take_pace(&mut self, pace: u64) {
        let (slowest, fastest) = self.paces.unwrap_or((pace, pace));
        self.paces = Some((slowest.min(pace), fastest.max(pace)));
    }

    /// Takes how an attempt's time compares with what its worker's speed promises, in thousandths.
    pub(crate) fn learn_slowness(&mut self, worker: WorkerIx, slowness: u64) {
        if let Some(known) = self.get_mut(worker) {
            known.slowness.add(slowness);
            let pace = known.pace();
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

    pub(crate) fn clear_marks(&mut self) {
        while let Some(worker) = self.dirty.pop() {
            if let Some(known) = self.get_mut(worker) {
                known.dirty = false;
            }
        }
    }

    pub(crate) fn take(&mut self, worker: WorkerIx, attempt: AttemptId, demand: &Resources) {
        let known = self.get_mut(worker).expect("a chosen worker is known");
        known.free.take(demand);
        known.attempts.push(attempt);
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
            known.attempts.swap_remove(at);
            known.free.give(demand);
            known.alone = false;
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
        self.alive.retain(|other| *other != worker);
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

    /// Whether an idle worker of a host could take this.
    pub(crate) fn could_take(&self, host: HostIx, shape: &Shape) -> bool {
        self.live().any(|(_, worker)| {
            worker.host == host
                && worker.serves(shape.profile.as_deref())
                && shape.demand.fits(&worker.capacity)
        })
    }

    // --- bytes ---------------------------------------------------------------------------------

    /// Makes room for all sets and hosts; the sums are made for new sets, and for all when hosts were added.
    pub(crate) fn resize(&mut self, graph: &Graph) {
        if !self.many() {
            return;
        }
        let stride = self.count.min(64).next_power_of_two();
        if stride != self.stride {
            self.stride = stride;
            self.bytes = Paged::default();
        }
        let first = self.bytes.len() / stride;
        self.bytes.grow(graph.sets.len() * stride, &0);
        let mut next = first;
        for set in graph.live_sets().filter(|set| *set >= first) {
            self.retire(next..set);
            self.sum_up(graph, SetIx::from_index(set));
            next = set + 1;
        }
        self.retire(next..graph.sets.len());
    }

    /// Forgets sets.
    pub(crate) fn retire(&mut self, sets: Range<usize>) {
        if self.many() {
            self.bytes
                .retire(sets.start * self.stride..sets.end * self.stride);
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
            let row = self.bytes.row_mut(set.index() * self.stride, self.stride);
            add_replicas(row, node, add);
        }
    }

    pub(crate) fn replica_bytes(&mut self, set: SetIx, host: HostIx, bytes: u64, add: bool) {
        if self.many() && host.index() < self.stride {
            let cell = &mut self.bytes[set.index() * self.stride + host.index()];
            *cell = if add { *cell + bytes } else { *cell - bytes };
        }
    }

    pub(crate) fn bytes_at(&self, set: SetIx, host: HostIx) -> u64 {
        match host.index() < self.stride {
            true => self.bytes[set.index() * self.stride + host.index()],
            false => 0,
        }
    }
}

fn add_replicas(row: &mut [u64], node: &Node, add: bool) {
    for (host, cell) in row.iter_mut().enumerate() {
        if node.replicas & bit(HostIx::from_index(host)) != 0 {
            *cell = if add {
                *cell + node.bytes
            } else {
                *cell - node.bytes
            };
        }
    }
}
