//! The tables of nodes, input sets and groups, and who waits for whom.
//!
//! Knows nothing of workers, attempts or time. A node waits on sets, and a set on its members, so that 1,000
//! replicates that 200 nodes gather cost 1,200 edges.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use dagrun_model::{GroupIx, HostIx, JobIx, NodeClass, NodeIx, Paged, PlanDelta, SetIx, Trigger};

use crate::{
    NodeState,
    chunks::{Adjacency, Chunks, Cursor, Slice},
    replicas::Replicas,
};

/// Stands for "none" in tables of indices.
pub(crate) const NONE: u32 = u32::MAX;

/// What a terminal node means for those who need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Not terminal.
    Pending,
    /// It counts as a success.
    Good,
    /// Its `if` (or that of a need) is false: it drops out of gathers.
    Dropped,
    /// It failed, or was skipped or cancelled.
    Bad,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) state: NodeState,
    /// Bytes of its outputs.
    pub(crate) bytes: u64,
    /// Where its outputs are.
    pub(crate) replicas: Replicas,
    /// Where its sets stand in [`Graph::node_sets`].
    sets: Slice,
    pub(crate) job: JobIx,
    pub(crate) class: u32,
    pub(crate) group: Option<GroupIx>,
    /// Sets that are not closed for this node's trigger.
    pub(crate) open: u32,
    /// Attempts started.
    pub(crate) attempts: u32,
    /// Attempts that have not ended.
    pub(crate) live: u32,
    /// The smallest gather that it is a member of.
    pub(crate) kin: u32,
    /// The next node that waits for the same action.
    pub(crate) next_waiter: u32,
    pub(crate) last_story: u32,
    pub(crate) failures: u16,
    pub(crate) losses: u16,
    /// Losses that were let pass.
    pub(crate) excused: u8,
    pub(crate) rewinds: u8,
    /// How often it found inputs missing although no producer could be rewound.
    pub(crate) stalls: u8,
    pub(crate) trigger: Trigger,
    pub(crate) fate: Fate,
    /// A set was opened again while the cache was asked or an attempt ran: what the cache said is out of date.
    pub(crate) ask_again: bool,
    /// It asks for more memory than its class says: a shape stands in the table of grown nodes.
    pub(crate) grown: bool,
}

/// How far a set is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Members are not terminal, and it can still be satisfied.
    Open,
    /// It cannot be satisfied; members are not terminal.
    Broken,
    /// All members are terminal, and it is satisfied.
    Satisfied,
    /// All members are terminal, and it is not satisfied.
    Failed,
}

impl Status {
    pub(crate) fn closed_for(self, trigger: Trigger) -> bool {
        match trigger {
            Trigger::Succeeded => self == Self::Satisfied,
            Trigger::Terminal => matches!(self, Self::Satisfied | Self::Failed),
        }
    }

    pub(crate) fn broken(self) -> bool {
        matches!(self, Self::Broken | Self::Failed)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Set {
    members: Slice,
    pub(crate) gather: bool,
    pub(crate) min: Option<u32>,
    pub(crate) pending: u32,
    pub(crate) good: u32,
    pub(crate) dropped: u32,
    pub(crate) bad: u32,
    pub(crate) status: Status,
    /// The member that broke it.
    pub(crate) culprit: u32,
    /// Bytes of all its members' outputs.
    pub(crate) bytes: u64,
    /// The host where its first member was placed.
    pub(crate) home: u32,
}

impl Set {
    pub(crate) fn evaluate(&self, min_ignored: bool) -> Status {
        let (satisfiable, enough) = match self.min {
            Some(_) if min_ignored => (true, true),
            Some(min) => (self.good + self.pending >= min, self.good >= min),
            None => {
                let whole = self.bad == 0 && (self.gather || self.dropped == 0);
                (whole, whole)
            }
        };
        match (self.pending > 0, satisfiable, enough) {
            (true, true, _) => Status::Open,
            (true, false, _) => Status::Broken,
            (false, _, true) => Status::Satisfied,
            (false, _, false) => Status::Failed,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) host: Option<HostIx>,
    /// The distinct classes of its members, as a number: see [`Graph::group_classes`].
    pub(crate) kind: u32,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Paged<Node>,
    pub(crate) sets: Paged<Set>,
    pub(crate) groups: Paged<Group>,
    pub(crate) classes: Arc<[NodeClass]>,
    /// The distinct lists of classes that groups have, and their numbers.
    group_classes: Vec<Vec<u32>>,
    group_kinds: BTreeMap<Vec<u32>, u32>,
    node_sets: Chunks<SetIx>,
    set_members: Chunks<NodeIx>,
    /// By node: the sets that it is a member of.
    memberships: Adjacency,
    /// By set: the nodes that wait for it.
    consumers: Adjacency,
    /// By first node: what came with each delta that can still be retired.
    deltas: BTreeMap<u32, Extent>,
}

/// What one delta added.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    pub(crate) nodes: Range<u32>,
    pub(crate) sets: Range<u32>,
    groups: Range<u32>,
    /// What tables that get one push for each delta call this one.
    number: u32,
}

impl Graph {
    /// Adds the nodes, sets and groups of a delta; their counts are those of the moment.
    ///
    /// # Panics
    /// When the delta does not go on where the tables end.
    pub(crate) fn extend(&mut self, delta: PlanDelta) {
        assert_eq!(
            delta.first_node as usize,
            self.nodes.len(),
            "a delta goes on from the last node"
        );
        assert_eq!(
            delta.first_set as usize,
            self.sets.len(),
            "a delta goes on from the last set"
        );
        assert_eq!(
            delta.first_group as usize,
            self.groups.len(),
            "a delta goes on from the last group"
        );
        self.classes = delta.classes;
        let (first_node, first_set) = (delta.first_node, delta.first_set);
        let number = self.node_sets.push(delta.node_sets);
        self.set_members.push(delta.set_members);
        for spec in delta.nodes {
            self.nodes.push(Node {
                state: NodeState::Waiting,
                bytes: 0,
                replicas: Replicas::None,
                sets: slice(number, spec.sets),
                job: spec.job,
                class: spec.class,
                group: spec.group,
                open: 0,
                attempts: 0,
                live: 0,
                kin: NONE,
                next_waiter: NONE,
                last_story: 0,
                failures: 0,
                losses: 0,
                excused: 0,
                rewinds: 0,
                stalls: 0,
                trigger: spec.trigger,
                fate: Fate::Pending,
                ask_again: false,
                grown: false,
            });
        }
        for spec in delta.sets {
            self.sets.push(Set {
                members: slice(number, spec.members),
                gather: spec.gather,
                // More than there are could never be met.
                min: spec.min.map(|min| min.min(spec.members.1)),
                pending: 0,
                good: 0,
                dropped: 0,
                bad: 0,
                status: Status::Open,
                culprit: NONE,
                bytes: 0,
                home: NONE,
            });
        }
        for group in delta.groups {
            let mut classes: Vec<u32> = group
                .members
                .iter()
                .map(|n| self.nodes[n.index()].class)
                .collect();
            classes.sort_unstable();
            classes.dedup();
            let kind = self.group_kind(classes);
            self.groups.push(Group { host: None, kind });
        }
        let extent = Extent {
            nodes: first_node..offset(self.nodes.len()),
            sets: first_set..offset(self.sets.len()),
            groups: delta.first_group..offset(self.groups.len()),
            number,
        };
        self.connect(&extent);
        self.deltas.insert(first_node, extent);
    }

    fn group_kind(&mut self, classes: Vec<u32>) -> u32 {
        *self
            .group_kinds
            .entry(classes)
            .or_insert_with_key(|classes| {
                self.group_classes.push(classes.clone());
                offset(self.group_classes.len()) - 1
            })
    }

    /// The distinct classes of a group's members.
    pub(crate) fn group_classes(&self, group: GroupIx) -> &[u32] {
        &self.group_classes[self.groups[group.index()].kind as usize]
    }

    fn connect(&mut self, extent: &Extent) {
        let (sets, set_members) = (&self.sets, &self.set_members);
        let memberships = extent.sets.clone().flat_map(|set| {
            let members = set_members.slice(sets[set as usize].members);
            members.iter().map(move |member| (member.0, set))
        });
        self.memberships.push(extent.nodes.clone(), memberships);
        let (nodes, node_sets) = (&self.nodes, &self.node_sets);
        let consumers = extent.nodes.clone().flat_map(|node| {
            let sets = node_sets.slice(nodes[node as usize].sets);
            sets.iter().map(move |set| (set.0, node))
        });
        self.consumers.push(extent.sets.clone(), consumers);
        for set in extent.sets.clone() {
            self.count_members(set);
        }
    }

    /// Whether a node is there and was not retired.
    pub(crate) fn is_live(&self, node: NodeIx) -> bool {
        let delta = self.deltas.range(..=node.0).next_back();
        delta.is_some_and(|(_, extent)| extent.nodes.contains(&node.0))
    }

    /// All nodes that were not retired.
    pub(crate) fn live_nodes(&self) -> impl Iterator<Item = usize> {
        let extents = self.deltas.values();
        extents.flat_map(|extent| extent.nodes.start as usize..extent.nodes.end as usize)
    }

    /// All sets that were not retired.
    pub(crate) fn live_sets(&self) -> impl Iterator<Item = usize> {
        let extents = self.deltas.values();
        extents.flat_map(|extent| extent.sets.start as usize..extent.sets.end as usize)
    }

    /// The sets from one on that were not retired.
    pub(crate) fn live_sets_from(&self, first: usize) -> impl Iterator<Item = usize> {
        // Deltas come in the order of their sets: the new ones are the last.
        let new = self.deltas.values().rev();
        let new: Vec<&Extent> = new.take_while(|it| it.sets.end as usize > first).collect();
        let sets = new.into_iter().rev();
        sets.flat_map(move |it| (it.sets.start as usize).max(first)..it.sets.end as usize)
    }

    /// What came with the delta that began with a node, where it was not retired.
    pub(crate) fn extent(&self, first: NodeIx) -> Option<&Extent> {
        self.deltas.get(&first.0)
    }

    /// Forgets what came with a delta. Nothing of a later delta may wait for it.
    pub(crate) fn retire(&mut self, first: NodeIx) {
        let Some(extent) = self.deltas.remove(&first.0) else {
            return;
        };
        // Members that live on had one of these sets as their smallest gather, perhaps.
        for set in extent.sets.clone() {
            let members = self.set_members.slice(self.sets[set as usize].members);
            for member in members.iter().filter(|it| !extent.nodes.contains(&it.0)) {
                // It may have gone before, when attempts of this delta were still to end.
                if let Some(node) = self.nodes.get_mut(member.index())
                    && extent.sets.contains(&node.kin)
                {
                    node.kin = NONE;
                }
            }
        }
        let wide = |range: &Range<u32>| range.start as usize..range.end as usize;
        self.nodes.retire(wide(&extent.nodes));
        self.sets.retire(wide(&extent.sets));
        self.groups.retire(wide(&extent.groups));
        self.node_sets.retire(extent.number);
        self.set_members.retire(extent.number);
        // A member that lives on is in the sets of its own delta and of others.
        self.memberships
            .retire(extent.number, &extent.nodes, &extent.sets);
        self.consumers
            .retire(extent.number, &extent.sets, &extent.nodes);
    }

    /// Counts the members of a new set, some of which may be terminal already.
    fn count_members(&mut self, at: u32) {
        let len = self.sets[at as usize].members.len;
        for member in 0..len {
            let member = self.members(SetIx(at))[member as usize];
            let node = &mut self.nodes[member.index()];
            let set = &mut self.sets[at as usize];
            match node.fate {
                Fate::Pending => set.pending += 1,
                Fate::Good => {
                    set.good += 1;
                    set.bytes += node.bytes;
                }
                Fate::Dropped => set.dropped += 1,
                Fate::Bad => set.bad += 1,
            }
            let breaks = match node.fate {
                Fate::Bad => true,
                Fate::Dropped => !set.gather || set.min.is_some(),
                Fate::Pending | Fate::Good => false,
            };
            if breaks && set.culprit == NONE {
                set.culprit = member.0;
            }
            if set.gather
                && len > 1
                && (node.kin == NONE || {
                    let kin = node.kin;
                    len < self.sets[kin as usize].members.len
                })
            {
                self.nodes[member.index()].kin = at;
            }
        }
        let set = &mut self.sets[at as usize];
        set.status = set.evaluate(false);
    }

    pub(crate) fn node(&self, node: NodeIx) -> &Node {
        &self.nodes[node.index()]
    }

    pub(crate) fn class(&self, node: NodeIx) -> &NodeClass {
        &self.classes[self.nodes[node.index()].class as usize]
    }

    /// The sets that a node waits for.
    pub(crate) fn sets_of(&self, node: NodeIx) -> &[SetIx] {
        self.node_sets.slice(self.nodes[node.index()].sets)
    }

    /// The members of a set, in order.
    pub(crate) fn members(&self, set: SetIx) -> &[NodeIx] {
        self.set_members.slice(self.sets[set.index()].members)
    }

    /// The sets that a node is a member of.
    pub(crate) fn memberships(&self, node: NodeIx) -> Cursor {
        let push = self.nodes[node.index()].sets.chunk;
        self.memberships.cursor(push, node.0)
    }

    /// The nodes that wait for a set.
    pub(crate) fn consumers(&self, set: SetIx) -> Cursor {
        let push = self.sets[set.index()].members.chunk;
        self.consumers.cursor(push, set.0)
    }

    pub(crate) fn next_membership(&self, cursor: &mut Cursor) -> Option<SetIx> {
        self.memberships.next(cursor).map(SetIx)
    }

    pub(crate) fn next_consumer(&self, cursor: &mut Cursor) -> Option<NodeIx> {
        self.consumers.next(cursor).map(NodeIx)
    }

    /// The first set of a node that cannot be satisfied.
    pub(crate) fn broken_set(&self, node: NodeIx) -> Option<SetIx> {
        let mut sets = self.sets_of(node).iter().copied();
        sets.find(|set| self.sets[set.index()].status.broken())
    }
}

/// Where something of a delta stands, by where that stands in the delta.
fn slice(chunk: u32, (start, len): (u32, u32)) -> Slice {
    Slice { chunk, start, len }
}

fn offset(len: usize) -> u32 {
    u32::try_from(len).expect("the planner's budget keeps tables below 2^32")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_stays_small() {
        assert!(size_of::<Node>() <= 128, "{} bytes", size_of::<Node>());
    }
}
