//! The tables of nodes, input sets and groups, and who waits for whom.
//!
//! Knows nothing of workers, attempts or time. A node waits on sets, and a set on its members, so that 1,000
//! replicates that 200 nodes gather cost 1,200 edges.

use std::sync::Arc;

use dagrun_model::{GroupIx, HostIx, JobIx, NodeClass, NodeIx, PlanDelta, SetIx, Trigger};

use crate::NodeState;

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
    /// Bit `h` is set when its outputs are on host `h`.
    pub(crate) replicas: u64,
    /// Where its sets stand in [`Graph::node_sets`].
    sets: (u32, u32),
    pub(crate) job: JobIx,
    pub(crate) class: u32,
    pub(crate) group: Option<GroupIx>,
    /// Sets that are not closed for this node's trigger.
    pub(crate) open: u32,
    /// Attempts started.
    pub(crate) attempts: u32,
    /// The smallest gather that it is a member of.
    pub(crate) kin: u32,
    /// The next node that waits for the same action.
    pub(crate) next_waiter: u32,
    pub(crate) last_story: u32,
    pub(crate) failures: u16,
    pub(crate) losses: u16,
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
    members: (u32, u32),
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
    /// The distinct classes of its members.
    pub(crate) classes: Vec<u32>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
    pub(crate) sets: Vec<Set>,
    pub(crate) groups: Vec<Group>,
    pub(crate) classes: Arc<[NodeClass]>,
    node_sets: Vec<SetIx>,
    set_members: Vec<NodeIx>,
    /// By node: the sets that it is a member of.
    memberships: Adjacency,
    /// By set: the nodes that wait for it.
    consumers: Adjacency,
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
        let sets_at = offset(self.node_sets.len());
        let members_at = offset(self.set_members.len());
        self.node_sets.extend(delta.node_sets);
        self.set_members.extend(delta.set_members);
        self.nodes.reserve(delta.nodes.len());
        for spec in delta.nodes {
            self.nodes.push(Node {
                state: NodeState::Waiting,
                bytes: 0,
                replicas: 0,
                sets: (spec.sets.0 + sets_at, spec.sets.1),
                job: spec.job,
                class: spec.class,
                group: spec.group,
                open: 0,
                attempts: 0,
                kin: NONE,
                next_waiter: NONE,
                last_story: 0,
                failures: 0,
                losses: 0,
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
                members: (spec.members.0 + members_at, spec.members.1),
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
            self.groups.push(Group {
                host: None,
                classes,
            });
        }
        self.connect(first_node, first_set);
    }

    fn connect(&mut self, first_node: u32, first_set: u32) {
        let new_sets = first_set..offset(self.sets.len());
        let new_nodes = first_node..offset(self.nodes.len());
        let memberships = new_sets.clone().flat_map(|set| {
            let (start, len) = self.sets[set as usize].members;
            (start..start + len).map(move |at| (at, set))
        });
        let members = &self.set_members;
        self.memberships.extend(
            self.nodes.len(),
            memberships.map(|(at, set)| (members[at as usize].0, set)),
        );
        let consumers = new_nodes.flat_map(|node| {
            let (start, len) = self.nodes[node as usize].sets;
            (start..start + len).map(move |at| (at, node))
        });
        let node_sets = &self.node_sets;
        self.consumers.extend(
            self.sets.len(),
            consumers.map(|(at, node)| (node_sets[at as usize].0, node)),
        );
        for set in new_sets {
            self.count_members(set);
        }
    }

    /// Counts the members of a new set, some of which may be terminal already.
    fn count_members(&mut self, at: u32) {
        let (start, len) = self.sets[at as usize].members;
        for member in start..start + len {
            let member = self.set_members[member as usize];
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
                    len < self.sets[kin as usize].members.1
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
        let (start, len) = self.nodes[node.index()].sets;
        &self.node_sets[start as usize..(start + len) as usize]
    }

    /// The members of a set, in order.
    pub(crate) fn members(&self, set: SetIx) -> &[NodeIx] {
        let (start, len) = self.sets[set.index()].members;
        &self.set_members[start as usize..(start + len) as usize]
    }

    /// The sets that a node is a member of.
    pub(crate) fn memberships(&self, node: NodeIx) -> Cursor {
        self.memberships.cursor(node.0)
    }

    /// The nodes that wait for a set.
    pub(crate) fn consumers(&self, set: SetIx) -> Cursor {
        self.consumers.cursor(set.0)
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

fn offset(len: usize) -> u32 {
    u32::try_from(len).expect("the planner's budget keeps tables below 2^32")
}

/// Lists of numbers by key: compressed rows for each delta, chained where a later delta adds to an old key.
#[derive(Clone, Debug, Default)]
struct Adjacency {
    first: Vec<u32>,
    last: Vec<u32>,
    rows: Vec<Row>,
    values: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    start: u32,
    len: u32,
    next: u32,
}

/// A place in a list, which does not borrow it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    at: u32,
    end: u32,
    next: u32,
}

impl Adjacency {
    fn extend(&mut self, keys: usize, edges: impl Iterator<Item = (u32, u32)> + Clone) {
        self.first.resize(keys, NONE);
        self.last.resize(keys, NONE);
        let first_row = self.rows.len();
        let old_values = self.values.len();
        // The row of a key that this delta has touched is its last one, and stands at `first_row` or behind it.
        for (key, _) in edges.clone() {
            let last = self.last[key as usize];
            if last == NONE || (last as usize) < first_row {
                let row = offset(self.rows.len());
                self.rows.push(Row {
                    start: 0,
                    len: 0,
                    next: NONE,
                });
                match last {
                    NONE => self.first[key as usize] = row,
                    last => self.rows[last as usize].next = row,
                }
                self.last[key as usize] = row;
            }
            self.rows[self.last[key as usize] as usize].len += 1;
        }
        let mut start = offset(old_values);
        for row in &mut self.rows[first_row..] {
            row.start = start;
            start += row.len;
            row.len = 0;
        }
        self.values.resize(start as usize, 0);
        for (key, value) in edges {
            let row = &mut self.rows[self.last[key as usize] as usize];
            self.values[(row.start + row.len) as usize] = value;
            row.len += 1;
        }
    }

    fn cursor(&self, key: u32) -> Cursor {
        let next = self.first.get(key as usize).copied().unwrap_or(NONE);
        Cursor {
            at: 0,
            end: 0,
            next,
        }
    }

    fn next(&self, cursor: &mut Cursor) -> Option<u32> {
        while cursor.at == cursor.end {
            if cursor.next == NONE {
                return None;
            }
            let row = self.rows[cursor.next as usize];
            *cursor = Cursor {
                at: row.start,
                end: row.start + row.len,
                next: row.next,
            };
        }
        cursor.at += 1;
        Some(self.values[cursor.at as usize - 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(lists: &Adjacency, key: u32) -> Vec<u32> {
        let mut cursor = lists.cursor(key);
        std::iter::from_fn(|| lists.next(&mut cursor)).collect()
    }

    #[test]
    fn a_node_stays_small() {
        assert!(size_of::<Node>() <= 128, "{} bytes", size_of::<Node>());
    }

    #[test]
    fn lists_grow_by_deltas_and_keep_their_order() {
        let mut lists = Adjacency::default();
        lists.extend(2, [(0, 10), (1, 20), (0, 11)].into_iter());
        lists.extend(3, [(2, 30), (0, 12)].into_iter());
        lists.extend(3, std::iter::empty());
        assert_eq!(list(&lists, 0), [10, 11, 12]);
        assert_eq!(list(&lists, 1), [20]);
        assert_eq!(list(&lists, 2), [30]);
        assert!(list(&lists, 3).is_empty());
    }
}
