//! The ready nodes, in one queue for each demand and host.
//!
//! Nodes of a lane ask for the same resources and profile, so when its oldest does not fit anywhere, none does: a freed
//! worker is offered to a few lanes instead of a million nodes. Entries are removed lazily: one counts only while its
//! node is ready with the entry's number, in this lane.

use std::{collections::BTreeMap, ops::Range};

use dagrun_model::{HostIx, NodeClass, NodeIx, Paged, Resources, WorkerIx};

use crate::{
    NodeState, Time,
    graph::NONE,
    queue::{Entry, Glance, Queue},
};

/// What nodes ask for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) demand: Resources,
    pub(crate) profile: Option<String>,
    /// Hosts that had no room on their disks for it, in order.
    pub(crate) shuns: Vec<HostIx>,
}

impl Shape {
    pub(crate) fn new(demand: Resources, profile: Option<String>) -> Self {
        Self {
            demand,
            profile,
            shuns: Vec::new(),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Lane {
    pub(crate) shape: u32,
    /// The host of the fused groups whose members are here.
    pub(crate) host: Option<HostIx>,
    /// Its nodes get a worker for themselves: they were lost so often that the next loss is blamed on them.
    pub(crate) alone: bool,
    pub(crate) queue: Queue,
    /// Entries that count.
    pub(crate) live: u32,
    /// It may fit on a worker that has not changed.
    pub(crate) dirty: bool,
    /// All nodes of its window wait for other hosts until then.
    pub(crate) held: Option<Time>,
    /// Starts of younger nodes while its oldest waited.
    pub(crate) overtaken: u32,
    pub(crate) reserved: Option<WorkerIx>,
    /// The dispatch in which it last could not be placed.
    pub(crate) exhausted: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Lanes {
    pub(crate) shapes: Vec<Shape>,
    pub(crate) lanes: Vec<Lane>,
    /// By shape, host, and whether its nodes run alone.
    by_kind: BTreeMap<(u32, Option<HostIx>, bool), u32>,
    /// Lanes of no host.
    common: Vec<u32>,
    /// By host: its lanes in which nodes wait, in order.
    of_host: Vec<Vec<u32>>,
    /// Lanes that may fit on a worker that has not changed.
    pub(crate) dirty: Vec<u32>,
    /// Lanes for which a worker is kept, and some for which none is any more.
    pub(crate) with_reservation: Vec<u32>,
    class_shapes: Vec<u32>,
    /// Nodes that ask for more than their class.
    grown: BTreeMap<NodeIx, u32>,
    /// By node: its lane.
    pub(crate) at: Paged<u32>,
}

impl Lanes {
    pub(crate) fn add_classes(&mut self, classes: &[NodeClass]) {
        for class in &classes[self.class_shapes.len()..] {
            let shape = Shape::new(class.resources.clone(), class.executor.clone());
            let shape = self.shape(shape);
            self.class_shapes.push(shape);
        }
    }

    pub(crate) fn shape(&mut self, shape: Shape) -> u32 {
        let known = self.shapes.iter().position(|known| *known == shape);
        known.unwrap_or_else(|| {
            self.shapes.push(shape);
            self.shapes.len() - 1
        }) as u32
    }

    pub(crate) fn demand(&self, shape: u32) -> &Resources {
        &self.shapes[shape as usize].demand
    }

    pub(crate) fn class_shape(&self, class: u32) -> &Shape {
        &self.shapes[self.class_shapes[class as usize] as usize]
    }

    pub(crate) fn shape_of(&self, node: NodeIx, class: u32, grown: bool) -> u32 {
        match grown {
            true => self.grown[&node],
            false => self.class_shapes[class as usize],
        }
    }

    pub(crate) fn grow(&mut self, node: NodeIx, shape: Shape) {
        let shape = self.shape(shape);
        self.grown.insert(node, shape);
    }

    pub(crate) fn lane(&mut self, shape: u32, host: Option<HostIx>, alone: bool) -> u32 {
        *self.by_kind.entry((shape, host, alone)).or_insert_with(|| {
            self.lanes.push(Lane {
                shape,
                host,
                alone,
                queue: Queue::default(),
                live: 0,
                dirty: false,
                held: None,
                overtaken: 0,
                reserved: None,
                exhausted: 0,
            });
            let ix = self.lanes.len() as u32 - 1;
            match host {
                None => self.common.push(ix),
                Some(host) if self.of_host.len() <= host.index() => {
                    self.of_host.resize_with(host.index() + 1, Vec::new);
                }
                Some(_) => {}
            }
            ix
        })
    }

    /// The lanes of nodes that wait and are bound to a host.
    pub(crate) fn of_host(&self, host: HostIx) -> &[u32] {
        self.of_host.get(host.index()).map_or(&[], Vec::as_slice)
    }

    /// The lanes whose nodes a worker of a host might take.
    pub(crate) fn served_by(&self, host: HostIx) -> impl Iterator<Item = u32> {
        self.common.iter().chain(self.of_host(host)).copied()
    }

    /// The lanes whose nodes may go anywhere.
    pub(crate) fn common(&self) -> &[u32] {
        &self.common
    }

    pub(crate) fn mark(&mut self, lane: u32) {
        if !std::mem::replace(&mut self.lanes[lane as usize].dirty, true) {
            self.dirty.push(lane);
        }
    }

    pub(crate) fn clear_marks(&mut self) {
        for lane in self.dirty.drain(..) {
            self.lanes[lane as usize].dirty = false;
        }
    }

    /// Adds a ready node to a lane; `alike` says that it is like the youngest there.
    pub(crate) fn push(&mut self, lane: u32, node: NodeIx, seq: u64, glance: Glance, alike: bool) {
        self.at.grow(node.index() + 1, &NONE);
        self.at[node.index()] = lane;
        let known = &mut self.lanes[lane as usize];
        // A lane that has waiting nodes was tried before: what its oldest could not have, this one cannot have.
        let is_new = known.live == 0 || known.held.is_some();
        if let (0, Some(host)) = (known.live, known.host) {
            let lanes = &mut self.of_host[host.index()];
            lanes.insert(lanes.partition_point(|other| *other < lane), lane);
        }
        known.live += 1;
        known.queue.push(seq, node, glance, alike);
        if is_new {
            self.mark(lane);
        }
    }

    /// Forgets nodes that are done.
    pub(crate) fn retire(&mut self, nodes: Range<usize>) {
        self.at.grow(nodes.end, &NONE);
        if !self.grown.is_empty() {
            self.grown.retain(|node, _| !nodes.contains(&node.index()));
        }
        self.at.retire(nodes);
    }

    /// A node is no longer ready; its entry stays until it is met.
    pub(crate) fn left(&mut self, node: NodeIx) {
        let ix = std::mem::replace(&mut self.at[node.index()], NONE);
        let lane = &mut self.lanes[ix as usize];
        lane.live -= 1;
        if lane.live == 0 {
            lane.queue.clear();
            lane.overtaken = 0;
            if let Some(host) = lane.host {
                self.of_host[host.index()].retain(|other| *other != ix);
            }
        }
    }

    pub(crate) fn release_held(&mut self, lane: u32) {
        self.lanes[lane as usize].held = None;
        self.mark(lane);
    }

    pub(crate) fn any_held(&self) -> bool {
        self.lanes
            .iter()
            .any(|lane| lane.live > 0 && lane.held.is_some())
    }

    /// Whether an entry of a lane counts.
    pub(crate) fn counts(&self, lane: u32, entry: Entry, state: Option<NodeState>) -> bool {
        matches!(state, Some(NodeState::Ready { seq, .. }) if seq == entry.seq)
            && self.at[entry.node.index()] == lane
    }

    pub(crate) fn some_ready(
        &self,
        most: usize,
        state: impl Fn(NodeIx) -> Option<NodeState>,
    ) -> Vec<NodeIx> {
        let mut nodes = Vec::new();
        for (ix, lane) in self.lanes.iter().enumerate() {
            let entries = lane.queue.iter();
            let live = entries.filter(|entry| self.counts(ix as u32, *entry, state(entry.node)));
            nodes.extend(live.map(|entry| entry.node).take(most - nodes.len()));
        }
        nodes
    }
}
