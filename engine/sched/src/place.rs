//! Which ready node starts where.
//!
//! With one host the oldest node takes the worker with the most room. With several, each free slot is compared with a
//! window of the oldest nodes, by the bytes that would have to move; siblings that one gather will collect are drawn to
//! the host where the first of them went. No node waits longer than a bounded time for a better host.

use std::cmp::Reverse;

use dagrun_model::{AttemptId, GroupIx, HostIx, NodeIx, SetIx, WorkerIx};

use crate::{
    Action, Mutant, NodeState, Scheduler, Time,
    attempts::{Attempt, Timer},
    graph::{Group, NONE},
    queue::{Entry, Glance},
    workers::Worker,
};

/// A worker with room, the best of its host.
#[derive(Clone, Copy, Debug)]
struct Room {
    host: HostIx,
    worker: WorkerIx,
    pace: u64,
    free: u64,
}

/// A node and where it would go.
#[derive(Clone, Copy, Debug)]
struct Pair {
    cost: u64,
    lane: u32,
    at: usize,
    node: NodeIx,
    worker: WorkerIx,
}

/// What it depends on which host is good for a node.
struct Reads<'a> {
    sets: &'a [SetIx],
    /// Where its siblings are, and what would have to move if it were not there too.
    home: Option<(HostIx, u64)>,
}

/// Which of some rooms are on hosts that could run all members of a group of a kind.
#[derive(Debug, Default)]
struct Fitting {
    kind: Option<u32>,
    rooms: Vec<bool>,
}

impl Fitting {
    fn any(&self) -> bool {
        self.rooms.contains(&true)
    }

    /// Whether the group may be bound to the host of a room: one that could run all its members, if there is one.
    fn may_go(&self, room: usize) -> bool {
        self.rooms[room] || !self.any()
    }
}

impl Scheduler {
    /// Starts what can be started.
    pub(crate) fn dispatch(&mut self) {
        if self.stopped() {
            return;
        }
        self.free_needless_reservations();
        self.round += 1;
        let round = self.round;
        while let Some(lane) = self.oldest_lane(round) {
            if !self.place_one(lane) {
                self.lanes.lanes[lane as usize].exhausted = round;
            }
        }
        self.lanes.clear_marks();
        self.seconds_due |= !self.hosts.dirty.is_empty();
        let freed = self.hosts.clear_marks();
        self.spread(&freed);
        self.start_ahead(freed);
        self.start_seconds();
    }

    /// The lane with the oldest node, among those that may fit somewhere.
    fn oldest_lane(&mut self, round: u64) -> Option<u32> {
        let mut oldest = None;
        for at in 0..self.lanes.dirty.len() {
            self.take_if_older(self.lanes.dirty[at], round, &mut oldest);
        }
        if self.hosts.dirty.is_empty() || self.mutant(Mutant::FreeForgotten) {
            return oldest.map(|(_, lane)| lane);
        }
        for at in 0..self.lanes.common().len() {
            self.take_if_older(self.lanes.common()[at], round, &mut oldest);
        }
        for at in 0..self.hosts.dirty.len() {
            let host = self.hosts.host_of(self.hosts.dirty[at]);
            for at in 0..self.lanes.of_host(host).len() {
                self.take_if_older(self.lanes.of_host(host)[at], round, &mut oldest);
            }
        }
        oldest.map(|(_, lane)| lane)
    }

    fn take_if_older(&mut self, ix: u32, round: u64, oldest: &mut Option<(u64, u32)>) {
        let lane = &self.lanes.lanes[ix as usize];
        if lane.live > 0
            && lane.exhausted != round
            && let Some(head) = self.head(ix)
            && oldest.is_none_or(|(best, _)| head.seq < best)
        {
            *oldest = Some((head.seq, ix));
        }
    }

    /// A lane's oldest node; drops entries before it that no longer count.
    pub(crate) fn head(&mut self, lane: u32) -> Option<Entry> {
        loop {
            let entry = self.lanes.lanes[lane as usize].queue.oldest()?;
            if self.entry_counts(lane, entry) {
                return Some(entry);
            }
            self.lanes.lanes[lane as usize]
                .queue
                .remove_oldest_of_run(0);
        }
    }

    fn entry_counts(&self, lane: u32, entry: Entry) -> bool {
        self.lanes.counts(lane, entry, self.state(entry.node))
    }

    fn place_one(&mut self, lane: u32) -> bool {
        let mut rooms = self.rooms(lane, true);
        let known = &self.lanes.lanes[lane as usize];
        if rooms.is_empty() && self.hosts.any_shared() && known.held.is_none() {
            // Where nobody has left room, its nodes wait for their run's turn.
            rooms = self.rooms(lane, false);
        }
        if rooms.is_empty() {
            return false;
        }
        let pair = if self.hosts.many() {
            self.best_pair(lane, &rooms)
        } else {
            let oldest = self.lanes.lanes[lane as usize].queue.oldest();
            oldest.map(|oldest| Pair {
                cost: 0,
                lane,
                at: 0,
                node: oldest.node,
                worker: rooms[0].worker,
            })
        };
        let Some(pair) = pair else { return false };
        self.lanes.lanes[pair.lane as usize]
            .queue
            .remove_oldest_of_run(pair.at);
        self.count_overtaken(pair.lane, pair.node, pair.worker);
        self.start(pair.node, pair.worker, true, None);
        true
    }

    /// For each host the best worker that can take a node of this lane: the fastest, and of those the roomiest, first. Where they are
    /// to be `clear`, others leave as much of them.
    fn rooms(&mut self, ix: u32, clear: bool) -> Vec<Room> {
        let lane = &self.lanes.lanes[ix as usize];
        if lane.dirty && lane.host.is_none() {
            self.hosts.file_moved();
        }
        let mut rooms: Vec<Room> = Vec::new();
        if !lane.dirty {
            for worker in &self.hosts.dirty {
                self.add_room(ix, *worker, clear, &mut rooms);
            }
        } else if let Some(host) = lane.host {
            for worker in self.hosts.workers_on(host) {
                self.add_room(ix, *worker, clear, &mut rooms);
            }
        } else {
            self.find_rooms(ix, clear, &mut rooms);
        }
        rooms.sort_unstable_by_key(|room| (Reverse(room.pace), Reverse(room.free), room.host));
        rooms
    }

    /// The best rooms of all, and those on hosts that have inputs of the oldest nodes.
    fn find_rooms(&self, ix: u32, clear: bool, rooms: &mut Vec<Room>) {
        let lane = &self.lanes.lanes[ix as usize];
        let needed = self.lanes.shapes[lane.shape as usize].demand.cpu_milli;
        for worker in self.hosts.with_room(needed, clear) {
            self.add_room(ix, worker, clear, rooms);
            if rooms.len() >= self.config.rooms {
                break;
            }
        }
        if rooms.len() < self.config.rooms || !self.hosts.many() {
            return;
        }
        let oldest = lane.queue.iter().take(self.config.rooms);
        for entry in oldest.filter(|entry| self.entry_counts(ix, *entry)) {
            for host in self.holders(entry.node) {
                for worker in self.hosts.workers_on(host) {
                    self.add_room(ix, *worker, clear, rooms);
                }
            }
        }
    }

    /// The hosts that have something of what a node reads, or its siblings.
    fn holders(&self, node: NodeIx) -> impl Iterator<Item = HostIx> {
        let kin = self.graph.node(node).kin;
        let home = match kin {
            NONE => NONE,
            kin => self.graph.sets[kin as usize].home,
        };
        let home = (home != NONE).then_some(HostIx(home));
        let sets = self.graph.sets_of(node).iter();
        sets.flat_map(|set| self.hosts.holders(*set)).chain(home)
    }

    fn add_room(&self, lane: u32, worker: WorkerIx, clear: bool, rooms: &mut Vec<Room>) {
        let known = self.hosts.known(worker);
        if !self.takes(known, lane) || clear && !self.is_clear(known, lane) {
            return;
        }
        let room = Room {
            host: known.host,
            worker,
            pace: known.pace,
            free: match clear {
                true => known.clear_cpu(),
                false => known.free.cpu_milli,
            },
        };
        match rooms.iter_mut().find(|other| other.host == room.host) {
            Some(other)
                if (other.pace, other.free, worker) < (room.pace, room.free, other.worker) =>
            {
                *other = room;
            }
            Some(_) => {}
            None => rooms.push(room),
        }
    }

    /// Whether a worker has room for a node of a lane now.
    pub(crate) fn takes(&self, worker: &Worker, ix: u32) -> bool {
        let lane = &self.lanes.lanes[ix as usize];
        let shape = &self.lanes.shapes[lane.shape as usize];
        let profile = shape.profile.as_deref();
        let fits = if self.mutant(Mutant::MemoryIgnored) {
            shape.demand.cpu_milli <= worker.free.cpu_milli
        } else {
            shape.demand.fits(&worker.free)
        };
        let serves = worker.serves(profile)
            || worker.alive && self.mutant(Mutant::DrainIgnored) && worker.draining
            || worker.alive && self.mutant(Mutant::ProfileIgnored) && !worker.draining;
        let alone = worker.alone || lane.alone && !worker.is_idle();
        fits && serves
            && (!self.hosts.passes_over(worker, shape) || self.mutant(Mutant::FullIgnored))
            && (!alone || self.mutant(Mutant::AloneIgnored))
            && worker.reserved.is_none_or(|reserved| reserved == ix)
            && lane.host.is_none_or(|host| host == worker.host)
    }

    /// Whether others leave room on a worker for a node of a lane.
    fn is_clear(&self, worker: &Worker, lane: u32) -> bool {
        let shape = self.lanes.lanes[lane as usize].shape;
        worker.others.is_none()
            || worker.is_clear_for(self.lanes.demand(shape))
            || self.mutant(Mutant::OthersIgnored)
    }

    /// The node that has to move least, of those in the window of the lane and of those that wait for one of the hosts in lanes of
    /// their own. Left until they are the oldest, the latter would find that their inputs' hosts have filled up with what others read.
    /// All that they read has run by then, so that they hold up the lane no longer than what is under way.
    fn best_pair(&mut self, lane: u32, rooms: &[Room]) -> Option<Pair> {
        let mut best = self.look_along(lane, rooms, None)?;
        for room in rooms {
            for at in 0..self.lanes.of_host(room.host).len() {
                let bound = self.lanes.of_host(room.host)[at];
                if best.cost > 0 && bound != lane && self.may_join(bound, room.worker) {
                    best = self.look_along(bound, std::slice::from_ref(room), Some(best))?;
                }
            }
        }
        Some(best)
    }

    /// Whether a lane may have a worker whose turn it is not.
    fn may_join(&self, lane: u32, worker: WorkerIx) -> bool {
        let known = &self.lanes.lanes[lane as usize];
        known.held.is_none()
            && known.exhausted != self.round
            && self.takes(self.hosts.known(worker), lane)
    }

    /// What is better than the best so far in the window of a lane, or that.
    fn look_along(&mut self, lane: u32, rooms: &[Room], mut best: Option<Pair>) -> Option<Pair> {
        let mut held: Option<Time> = None;
        let mut fitting = Fitting::default();
        let bound = self.lanes.lanes[lane as usize].host.is_some();
        let mut at = 0;
        while at < self.config.window {
            let queue = &mut self.lanes.lanes[lane as usize].queue;
            let Some((entry, next)) = queue.run_at(at) else {
                break;
            };
            let group = entry.glance.group.filter(|_| !bound);
            let open = group.filter(|group| self.is_open(*group));
            if let Some(group) = open {
                self.find_fitting(group, rooms, &mut fitting);
            }
            // A group that has a host, or is to have one now, is not passed by.
            let settled = group.is_none() || open.is_some() && fitting.any();
            if settled && best.is_some_and(|best| self.passed_by(entry.glance, &best, rooms)) {
                at = next;
                continue;
            }
            if !self.entry_counts(lane, entry) {
                self.lanes.lanes[lane as usize]
                    .queue
                    .remove_oldest_of_run(at);
                continue;
            }
            let node = entry.node;
            if let Some(group) = open
                && !fitting.any()
            {
                self.bind_early(group, node);
            }
            if !bound && self.move_if_bound(lane, at, entry) {
                continue;
            }
            let reads = self.reads(node);
            for (ix, room) in rooms.iter().enumerate() {
                let cost = self.cost_of(&reads, room.host);
                if best.is_some_and(|best| best.cost <= cost)
                    || open.is_some() && !fitting.may_go(ix)
                {
                    continue;
                }
                let pair = Pair {
                    cost,
                    lane,
                    at,
                    node,
                    worker: room.worker,
                };
                if cost == 0 {
                    return Some(pair);
                }
                // What is bound has no other host to wait for.
                let waits = match bound {
                    true => None,
                    false => self.worth_waiting(node, room.host, cost),
                };
                if let Some(until) = waits {
                    held = Some(held.map_or(until, |other| other.min(until)));
                } else {
                    best = Some(pair);
                }
            }
            at = next;
        }
        if let (None, Some(until)) = (best, held) {
            self.hold(lane, until);
        }
        best
    }

    fn hold(&mut self, lane: u32, until: Time) {
        if self.lanes.lanes[lane as usize].held.is_none() {
            self.lanes.lanes[lane as usize].held = Some(until);
            self.set_timer(until, Timer::Held(lane));
        }
    }

    /// Bytes that would have to move, and those that a gather would have to move later for this node.
    pub(crate) fn cost(&self, node: NodeIx, host: HostIx) -> u64 {
        self.cost_of(&self.reads(node), host)
    }

    fn reads(&self, node: NodeIx) -> Reads<'_> {
        let kin = self.graph.node(node).kin;
        let kin = (kin != NONE).then(|| &self.graph.sets[kin as usize]);
        let home = kin.filter(|kin| kin.home != NONE);
        Reads {
            sets: self.graph.sets_of(node),
            home: home.map(|kin| {
                let each = kin.bytes / u64::from(kin.good.max(1));
                (HostIx(kin.home), each.max(1))
            }),
        }
    }

    fn cost_of(&self, reads: &Reads<'_>, host: HostIx) -> u64 {
        if self.config.no_locality {
            return 0;
        }
        let missing = reads.sets.iter().map(|set| {
            let all = self.graph.sets[set.index()].bytes;
            all.saturating_sub(self.hosts.bytes_at(*set, host))
        });
        let away = reads.home.filter(|(home, _)| *home != host);
        missing.sum::<u64>() + away.map_or(0, |(_, each)| each)
    }

    /// Until when a node should wait for a host that has much more of its inputs, if it should.
    fn worth_waiting(&self, node: NodeIx, host: HostIx, cost: u64) -> Option<Time> {
        let least = self.config.locality_bytes;
        let NodeState::Ready { since, .. } = self.graph.node(node).state else {
            return None;
        };
        let delay = u64::try_from(self.config.locality_delay.as_micros()).unwrap_or(u64::MAX);
        let until = Time(since.0.saturating_add(delay));
        if cost < least || until <= self.now {
            return None;
        }
        let shape = &self.lanes.shapes[self.shape_of(node) as usize];
        // Only a host that has something of it can be better.
        let better = self.holders(node).any(|other| {
            other != host
                && self.cost(node, other).saturating_add(least) <= cost
                && self.hosts.could_take(other, shape)
        });
        better.then_some(until)
    }

    // --- groups -------------------------------------------------------------------------------

    /// The host that a node's group is bound to, where that matters and the host can run the node.
    pub(crate) fn bound_host(&self, node: NodeIx) -> Option<HostIx> {
        let group = self.graph.node(node).group?;
        let host = self.graph.groups[group.index()].host?;
        if !self.hosts.many() || self.mutant(Mutant::GroupSplit) {
            return None;
        }
        let shape = &self.lanes.shapes[self.shape_of(node) as usize];
        self.hosts.could_take(host, shape).then_some(host)
    }

    pub(crate) fn push_ready(&mut self, node: NodeIx, seq: u64) {
        let shape = self.shape_of(node);
        let alone = self.runs_alone(node);
        let lane = self.lanes.lane(shape, self.bound_host(node), alone);
        self.push_to(lane, node, seq);
    }

    fn push_to(&mut self, lane: u32, node: NodeIx, seq: u64) {
        let youngest = self.lanes.lanes[lane as usize].queue.youngest();
        let alike =
            youngest.is_some_and(|it| self.entry_counts(lane, it) && self.are_alike(it.node, node));
        let glance = self.glance(node);
        self.lanes.push(lane, node, seq, glance, alike);
    }

    /// Whether two nodes go equally well to each host: they read the same, and the same gather and group has them.
    fn are_alike(&self, one: NodeIx, other: NodeIx) -> bool {
        let (a, b) = (self.graph.node(one), self.graph.node(other));
        (a.kin, a.group) == (b.kin, b.group) && self.graph.sets_of(one) == self.graph.sets_of(other)
    }

    /// Whether a group is there and has no host yet.
    fn is_open(&self, group: GroupIx) -> bool {
        let known = self.graph.groups.get(group.index());
        known.is_some_and(|group| group.host.is_none())
    }

    fn glance(&self, node: NodeIx) -> Glance {
        let reads = match *self.graph.sets_of(node) {
            [set] => Some((set, self.graph.sets[set.index()].bytes)),
            _ => None,
        };
        let group = self.graph.node(node).group;
        Glance { reads, group }
    }

    /// Whether a run cannot be better than what was found: it moves all that it reads to each of the rooms.
    fn passed_by(&self, run: Glance, best: &Pair, rooms: &[Room]) -> bool {
        run.reads.is_some_and(|(set, bytes)| {
            best.cost <= bytes && !rooms.iter().any(|room| self.hosts.may_have(set, room.host))
        })
    }

    /// Takes an entry out of a common lane where its group is bound; whether it did.
    fn move_if_bound(&mut self, lane: u32, at: usize, entry: Entry) -> bool {
        let host = self.bound_host(entry.node);
        if host.is_some() {
            self.lanes.lanes[lane as usize]
                .queue
                .remove_oldest_of_run(at);
            self.move_entry(lane, entry, host);
        }
        host.is_some()
    }

    /// Adds an entry that was taken out of a lane to the lane of another host.
    fn move_entry(&mut self, lane: u32, entry: Entry, host: Option<HostIx>) {
        let from = &self.lanes.lanes[lane as usize];
        let (shape, alone) = (from.shape, from.alone);
        self.lanes.left(entry.node);
        let to = self.lanes.lane(shape, host, alone);
        self.push_to(to, entry.node, entry.seq);
        self.lanes.mark(to);
        self.lanes.lanes[to as usize].exhausted = 0;
    }

    /// Which rooms a group could be bound to; what was found for one like it holds for this one too.
    fn find_fitting(&self, group: GroupIx, rooms: &[Room], fitting: &mut Fitting) {
        let kind = Some(self.graph.groups[group.index()].kind);
        if fitting.kind != kind {
            let fits = rooms.iter().map(|room| {
                // Rather the one that is offered than all of its host.
                let offered = self.hosts.known(room.worker);
                let mut classes = self.graph.group_classes(group).iter();
                classes.all(|class| self.hosts.may_take(offered, self.lanes.class_shape(*class)))
                    || self.group_fits(group, room.host)
            });
            *fitting = Fitting {
                kind,
                rooms: fits.collect(),
            };
        }
    }

    /// Binds a group to the best host that could run all its members, where none of those with room could: its members
    /// wait there and are in nobody's way.
    fn bind_early(&mut self, group: GroupIx, node: NodeIx) {
        let hosts = (0..self.hosts.count).map(HostIx::from_index);
        let fitting = hosts.filter(|host| self.group_fits(group, *host));
        self.graph.groups[group.index()].host = fitting.min_by_key(|host| self.cost(node, *host));
    }

    pub(crate) fn group_fits(&self, group: GroupIx, host: HostIx) -> bool {
        let classes = self.graph.group_classes(group);
        classes
            .iter()
            .all(|class| self.hosts.could_take(host, self.lanes.class_shape(*class)))
    }

    fn group_fits_somewhere(&self, group: GroupIx) -> bool {
        (0..self.hosts.count).any(|host| self.group_fits(group, HostIx::from_index(host)))
    }

    /// Frees groups from a host that lost a worker and can no longer run all their members.
    pub(crate) fn host_weakened(&mut self, worker: WorkerIx) {
        let host = self.hosts.host_of(worker);
        for lane in &mut self.lanes.lanes {
            lane.reserved = lane.reserved.filter(|reserved| *reserved != worker);
        }
        for ix in 0..self.graph.groups.len() {
            let bound = |group: &Group| group.host == Some(host);
            if self.graph.groups.get(ix).is_some_and(bound)
                && !self.group_fits(GroupIx::from_index(ix), host)
            {
                self.graph.groups[ix].host = None;
            }
        }
        self.free_lanes(host);
    }

    /// Moves what is bound to a host and may go elsewhere.
    pub(crate) fn free_lanes(&mut self, host: HostIx) {
        for lane in self.lanes.of_host(host).to_vec() {
            self.free_lane(lane, host);
        }
    }

    fn free_lane(&mut self, lane: u32, host: HostIx) {
        let mut at = 0;
        while let Some((entry, next)) = self.lanes.lanes[lane as usize].queue.run_at(at) {
            let counts = self.entry_counts(lane, entry);
            if counts && self.bound_host(entry.node) == Some(host) {
                at = next;
                continue;
            }
            self.lanes.lanes[lane as usize]
                .queue
                .remove_oldest_of_run(at);
            if counts {
                self.move_entry(lane, entry, None);
            }
        }
    }

    // --- starvation ---------------------------------------------------------------------------

    /// Younger nodes that fit where an old one does not may pass it, but not for ever.
    pub(crate) fn count_overtaken(&mut self, lane: u32, node: NodeIx, by: WorkerIx) {
        let NodeState::Ready { seq, .. } = self.graph.node(node).state else {
            return;
        };
        self.lanes.lanes[lane as usize].overtaken = 0;
        if let Some(worker) = self.lanes.lanes[lane as usize].reserved.take() {
            self.unreserve(worker);
        }
        let passed: Vec<u32> = self.lanes.served_by(self.hosts.host_of(by)).collect();
        for ix in passed {
            if ix == lane || self.lanes.lanes[ix as usize].live == 0 {
                continue;
            }
            if self.head(ix).is_some_and(|head| head.seq < seq) {
                self.lanes.lanes[ix as usize].overtaken += 1;
                self.reserve_if_starved(ix);
            }
        }
    }

    fn reserve_if_starved(&mut self, ix: u32) {
        let lane = &self.lanes.lanes[ix as usize];
        let limit = 16 + 4 * self.hosts.alive.len();
        if lane.reserved.is_some() || (lane.overtaken as usize) < limit {
            return;
        }
        let shape = &self.lanes.shapes[lane.shape as usize];
        let able = self.hosts.live().filter(|(_, worker)| {
            self.hosts.may_take(worker, shape)
                && lane.host.is_none_or(|host| host == worker.host)
                && worker.reserved.is_none()
        });
        let roomiest = able.max_by_key(|(ix, worker)| (worker.free.cpu_milli, u32::MAX - ix.0));
        // Where no worker can ever take it, it is looked for again only after as many starts.
        self.lanes.lanes[ix as usize].overtaken = 0;
        if let Some((worker, _)) = roomiest {
            self.lanes.lanes[ix as usize].reserved = Some(worker);
            self.lanes.with_reservation.push(ix);
            if let Some(worker) = self.hosts.get_mut(worker) {
                worker.reserved = Some(ix);
            }
        }
    }

    fn unreserve(&mut self, worker: WorkerIx) {
        if let Some(known) = self.hosts.get_mut(worker) {
            known.reserved = None;
            self.hosts.mark(worker);
            // Lanes that were refused by it may have it now.
            for lane in &mut self.lanes.lanes {
                lane.exhausted = 0;
            }
        }
    }

    fn free_needless_reservations(&mut self) {
        for ix in std::mem::take(&mut self.lanes.with_reservation) {
            let lane = &mut self.lanes.lanes[ix as usize];
            if lane.live > 0 && lane.reserved.is_some() {
                self.lanes.with_reservation.push(ix);
            } else if let Some(worker) = lane.reserved.take() {
                self.unreserve(worker);
            }
        }
    }

    // --- start --------------------------------------------------------------------------------

    /// Starts an attempt; the first one of a pair binds its group and its siblings to the host. One that is given ahead takes
    /// nothing yet, and comes with how long it is expected to run.
    pub(crate) fn start(
        &mut self,
        node: NodeIx,
        worker: WorkerIx,
        first: bool,
        ahead: Option<u64>,
    ) -> AttemptId {
        let id = AttemptId(self.next_attempt);
        self.next_attempt += 1;
        let shape = self.shape_of(node);
        let mut resources = self.lanes.demand(shape).clone();
        if self.mutant(Mutant::MemoryIgnored) {
            resources.memory = resources.memory.min(self.hosts.known(worker).free.memory);
        }
        match ahead {
            Some(micros) => self.hosts.queue(worker, id, micros),
            None => self.hosts.take(worker, id, &resources),
        }
        let host = self.hosts.host_of(worker);
        let alone = self.runs_alone(node);
        self.hosts.set_alone(worker, alone);
        let n = &mut self.graph.nodes[node.index()];
        n.attempts += 1;
        let (number, mut group, kin, grown) = (n.attempts, n.group, n.kin, n.grown);
        if first {
            // A member that has outgrown its class may go where the others cannot.
            self.bind(group.filter(|_| !grown), kin, host);
            let state = match ahead {
                Some(_) => NodeState::Queued { attempt: id },
                None => NodeState::Running {
                    attempt: id,
                    second: None,
                },
            };
            self.set_state(node, state);
        } else {
            group = None;
        }
        let since = self.now;
        self.attempt_begins(
            id,
            Attempt {
                node,
                worker,
                shape,
                since,
                before: 0,
                started: false,
                alone,
                paired: !first,
                cancelled: None,
                queued: ahead.is_some(),
                recalled: false,
                withdrawn: false,
                expected: ahead.unwrap_or(0),
            },
        );
        self.stuck_told = false;
        let resources = self.lanes.demand(shape).clone();
        self.out.push(Action::Start {
            attempt: id,
            node,
            number,
            worker,
            resources,
            group,
            ahead: ahead.is_some(),
        });
        id
    }

    pub(crate) fn bind(&mut self, group: Option<GroupIx>, kin: u32, host: HostIx) {
        if let Some(group) = group
            && self.graph.groups[group.index()].host.is_none()
            && (!self.hosts.many()
                || self.group_fits(group, host)
                || !self.group_fits_somewhere(group))
        {
            self.graph.groups[group.index()].host = Some(host);
        }
        if kin != NONE && self.graph.sets[kin as usize].home == NONE {
            self.graph.sets[kin as usize].home = host.0;
        }
    }
}
