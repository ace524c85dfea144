//! Input sets as objects: what a need gives, shared by all nodes that have the same.

use dagrun_model::{ContentHasher, Digest, NodeIx, SetIx};
use rustc_hash::FxHashSet;

use crate::join::NONE;

/// All input sets of a plan.
#[derive(Debug, Default)]
pub(crate) struct SetTable {
    rows: Vec<SetRow>,
    gathers: Vec<Gather>,
    /// Members as cells, in the order of the gather.
    cells: Vec<u32>,
    /// The same as nodes: parallel to `cells`, then distinct members of sets that have a node twice.
    nodes: Vec<NodeIx>,
    repeated: Vec<NodeIx>,
}

#[derive(Clone, Copy, Debug)]
struct SetRow {
    start: u32,
    len: u32,
    /// In `gathers`; [`NONE`] for a scalar need.
    gather: u32,
}

/// What only gathers have.
#[derive(Debug)]
pub(crate) struct Gather {
    pub(crate) min: Option<u32>,
    /// Over the keys of all members, in order.
    pub(crate) key: Digest,
    /// Over the points of all members, where some recipe reads them.
    pub(crate) points: Option<Digest>,
    /// Cells that read outputs of it.
    pub(crate) readers: u32,
    distinct: Option<(u32, u32)>,
}

impl SetTable {
    /// Adds the set of a scalar need; without a member where the needed cell is no node.
    pub(crate) fn add_scalar(&mut self, member: Option<(u32, NodeIx)>) -> SetIx {
        let start = self.cells.len() as u32;
        if let Some((cell, node)) = member {
            self.cells.push(cell);
            self.nodes.push(node);
        }
        self.rows.push(SetRow {
            start,
            len: self.cells.len() as u32 - start,
            gather: NONE,
        });
        SetIx::from_index(self.rows.len() - 1)
    }

    /// Adds the set of a gather.
    pub(crate) fn add_gather(
        &mut self,
        members: impl Iterator<Item = (u32, NodeIx)>,
        key_of: impl Fn(NodeIx) -> Digest,
        min: impl FnOnce(usize) -> Option<u32>,
    ) -> SetIx {
        let start = self.cells.len();
        for (cell, node) in members {
            self.cells.push(cell);
            self.nodes.push(node);
        }
        let members = &self.nodes[start..];
        let mut hasher = ContentHasher::new("dagrun.set-key.v1").with(&(members.len() as u64));
        for node in members {
            hasher = hasher.with(&key_of(*node));
        }
        let increasing = members.windows(2).all(|pair| pair[0] < pair[1]);
        let distinct = (!increasing).then(|| {
            let mut seen = FxHashSet::default();
            let from = self.repeated.len() as u32;
            self.repeated
                .extend(members.iter().filter(|node| seen.insert(**node)));
            (from, self.repeated.len() as u32)
        });
        self.gathers.push(Gather {
            min: min(members.len()),
            key: hasher.finish(),
            points: None,
            readers: 0,
            distinct,
        });
        self.rows.push(SetRow {
            start: start as u32,
            len: members.len() as u32,
            gather: self.gathers.len() as u32 - 1,
        });
        SetIx::from_index(self.rows.len() - 1)
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Members as cells, parallel to [`SetTable::nodes`].
    pub(crate) fn cells(&self, set: SetIx) -> &[u32] {
        let row = self.rows[set.index()];
        &self.cells[row.start as usize..(row.start + row.len) as usize]
    }

    /// Members as nodes, in order; a node to which several cells came down comes several times.
    pub(crate) fn nodes(&self, set: SetIx) -> &[NodeIx] {
        let row = self.rows[set.index()];
        &self.nodes[row.start as usize..(row.start + row.len) as usize]
    }

    /// Distinct members.
    pub(crate) fn members(&self, set: SetIx) -> &[NodeIx] {
        match self.gather(set).and_then(|gather| gather.distinct) {
            Some((from, to)) => &self.repeated[from as usize..to as usize],
            None => self.nodes(set),
        }
    }

    pub(crate) fn gather(&self, set: SetIx) -> Option<&Gather> {
        self.gathers.get(self.rows[set.index()].gather as usize)
    }

    pub(crate) fn gather_mut(&mut self, set: SetIx) -> Option<&mut Gather> {
        self.gathers.get_mut(self.rows[set.index()].gather as usize)
    }

    pub(crate) fn shrink(&mut self) {
        self.rows.shrink_to_fit();
        self.cells.shrink_to_fit();
        self.nodes.shrink_to_fit();
    }
}
