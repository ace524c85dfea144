//! Workers whose disk has no room.
//!
//! What a worker's host has too little of, another may have: a node is tried there, at the cost of no retry. It does not come back to a
//! host that had no room for it, and a worker that says that its disk is full gets nothing, as long as there is another that could
//! take it. Where there is none, the node is tried all the same: then it may fail for good, but nothing waits for ever.

use dagrun_model::{AttemptId, NodeIx, WorkerIx};

use crate::{
    Mutant, Notice, Scheduler,
    attempts::Attempt,
    lanes::Shape,
    workers::{Hosts, Worker},
};

impl Hosts {
    /// Whether a worker could take this if it were idle, and is not one to be passed over.
    pub(crate) fn may_take(&self, worker: &Worker, shape: &Shape) -> bool {
        worker.could_take(shape) && !self.passes_over(worker, shape)
    }

    /// Whether a worker has perhaps no room for this on its disk, and another has.
    pub(crate) fn passes_over(&self, worker: &Worker, shape: &Shape) -> bool {
        !worker.may_have_room(shape) && self.is_room_for(shape)
    }

    /// Whether some worker could take this, and has room on its disk as far as is known.
    fn is_room_for(&self, shape: &Shape) -> bool {
        self.live()
            .any(|(_, worker)| worker.could_take(shape) && worker.may_have_room(shape))
    }
}

impl Worker {
    fn may_have_room(&self, shape: &Shape) -> bool {
        !self.full && !shape.shuns.contains(&self.host)
    }
}

impl Scheduler {
    pub(crate) fn worker_has_room(&mut self, worker: WorkerIx, has: bool) {
        self.roomless |= !has;
        let Some(known) = self.hosts.get_mut(worker) else {
            return self.hosts.will_join(worker, has);
        };
        if !known.alive || known.full != has {
            return;
        }
        known.full = !has;
        self.hosts.mark(worker);
        if !has {
            self.recall_queued(worker);
        }
        self.rooms_changed();
    }

    /// Takes back what has not begun there and could begin elsewhere.
    fn recall_queued(&mut self, worker: WorkerIx) {
        let known = self.hosts.known(worker);
        let all: Vec<AttemptId> = known.queue.iter().copied().collect();
        for id in all {
            let shape = self.attempts.get(&id.0).map(|attempt| attempt.shape);
            let shape = shape.map(|shape| &self.lanes.shapes[shape as usize]);
            if shape.is_some_and(|shape| self.hosts.is_room_for(shape)) {
                self.recall(id);
            }
        }
    }

    /// Other workers than before may be passed over.
    pub(crate) fn rooms_changed(&mut self) {
        // Usually nothing is: thousands of workers that join would each be compared with all.
        if !self.roomless {
            return;
        }
        let shapes = &self.lanes.shapes;
        let is_shunned = |worker: &Worker| shapes.iter().any(|s| s.shuns.contains(&worker.host));
        let live = self.hosts.live();
        let doubtful: Vec<WorkerIx> = live
            .filter(|(_, worker)| worker.full || is_shunned(worker))
            .map(|(ix, _)| ix)
            .collect();
        if doubtful.is_empty() {
            return;
        }
        for worker in doubtful {
            let known = self.hosts.known(worker);
            if known.full {
                if let Some(known) = self.hosts.get_mut(worker) {
                    known.reserved = None;
                }
                self.host_weakened(worker);
            } else {
                self.free_lanes(known.host);
            }
        }
        for ix in 0..self.lanes.lanes.len() {
            if self.lanes.lanes[ix].live > 0 {
                self.lanes.mark(ix as u32);
            }
        }
    }

    /// An attempt found no room on the disk of its worker.
    pub(crate) fn no_room(&mut self, attempt: &Attempt, other: Option<AttemptId>) {
        let node = attempt.node;
        let shape = self.shape_of(node);
        let mut shape = self.lanes.shapes[shape as usize].clone();
        shape.shuns.push(self.hosts.host_of(attempt.worker));
        // As it was tried: beside it another attempt may have been killed for memory, and the next one asks for more.
        let tried = Shape {
            demand: self.lanes.demand(attempt.shape).clone(),
            ..shape.clone()
        };
        let elsewhere = other.is_some() || self.hosts.is_room_for(&tried);
        let bounded = !self.mutant(Mutant::NoRoomLoop);
        let worn_out = bounded && shape.shuns.len() > self.config.max_full_disks;
        if self.stop.is_some() || worn_out || !elsewhere && bounded {
            return self.failed(node, None, other);
        }
        self.ask_for(node, shape);
        self.roomless = true;
        self.rooms_changed();
        match other {
            Some(other) => self.run_alone(node, other),
            None => {
                self.emit(Notice::WillRetry {
                    node,
                    at: self.now,
                    lost: true,
                });
                self.queue_again(node);
            }
        }
    }

    /// From now on a node asks for other things than its class.
    pub(crate) fn ask_for(&mut self, node: NodeIx, shape: Shape) {
        self.lanes.grow(node, shape);
        self.graph.nodes[node.index()].grown = true;
    }
}
