//! Node keys: what goes into them besides the recipe, and the table that finds equal ones.

use dagrun_model::{ContentHash, ContentHasher, Digest, NodeIx, NodeKey};

use crate::{
    axes::REPLICATE,
    input::{DataInput, Stage},
    join::NONE,
    layout::{Core, NeedPlan},
};

/// Finds nodes by key: four bytes a slot, the keys themselves stand elsewhere.
pub(crate) struct KeyTable {
    slots: Vec<u32>,
}

impl KeyTable {
    /// A table for at most `nodes` keys.
    pub(crate) fn new(nodes: usize) -> Self {
        let slots = (nodes + nodes / 2 + 8).next_power_of_two();
        Self {
            slots: vec![NONE; slots],
        }
    }

    /// The node with this key, or the slot where it belongs.
    pub(crate) fn find(&self, key: &NodeKey, keys: &[NodeKey]) -> Result<NodeIx, usize> {
        let mask = self.slots.len() - 1;
        let mut slot = key.prefix() as usize & mask;
        loop {
            match self.slots[slot] {
                NONE => return Err(slot),
                node if keys[node as usize] == *key => return Ok(NodeIx(node)),
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    pub(crate) fn insert(&mut self, slot: usize, node: NodeIx) {
        self.slots[slot] = node.0;
    }
}

/// Starts the hash of a node key.
pub(crate) fn node_key_hasher() -> ContentHasher {
    ContentHasher::new("dagrun.node-key.v1")
}

/// The nodes of a group's rows, without those that are none.
pub(crate) fn members<'a>(
    core: &'a Core,
    cell_node: &'a [u32],
    need: &NeedPlan,
    group: u32,
) -> impl Iterator<Item = (u32, NodeIx)> + use<'a> {
    let first = core.jobs[need.job].first_cell;
    let rows = core.groupings[need.grouping].group(group);
    rows.iter().filter_map(move |row| {
        let cell = first + *row as usize;
        let node = cell_node[cell];
        (node != NONE).then_some((cell as u32, NodeIx(node)))
    })
}

/// Needs of which outputs are read.
pub(crate) fn data_needs(needs: &[NeedPlan]) -> impl Iterator<Item = usize> {
    needs
        .iter()
        .enumerate()
        .filter(|(_, need)| need.data)
        .map(|(ix, _)| ix)
}

/// The least number of succeeded members: what the need says, or what the replicates say for each point that has them.
pub(crate) fn min_of(core: &Core, need: &NeedPlan, members: usize) -> Option<u32> {
    if need.min.is_some() {
        return need.min.map(|min| min.min(members as u32));
    }
    let needed = &core.jobs[need.job];
    let min = needed.replicate_min?;
    let axis = needed.points.axis(REPLICATE)?;
    let grouped = core.groupings[need.grouping].axes.contains(&axis);
    let each = needed.points.axes[axis].len().max(1);
    (!grouped).then(|| {
        (members.div_ceil(each) as u32)
            .saturating_mul(min)
            .min(members as u32)
    })
}

/// What is known of a data input without looking at its members.
pub(crate) fn data_shape(
    core: &Core,
    data: &DataInput,
    need: &NeedPlan,
    hasher: &mut ContentHasher,
) {
    let needed = &core.pipeline.jobs[need.job];
    let output = needed
        .outputs
        .get_index(data.output)
        .map_or("", |(name, _)| name);
    output.content_hash(hasher);
    need.gather.content_hash(hasher);
    match &data.stage {
        Stage::Value => "value".content_hash(hasher),
        Stage::Files { name, .. } => ("files", &**name).content_hash(hasher),
    }
}

/// The digest of the points of some cells.
pub(crate) fn points_digest(core: &Core, cells: impl Iterator<Item = u32>) -> Digest {
    let mut hasher = ContentHasher::new("dagrun.points.v1");
    for cell in cells {
        let (job, row) = core.cell(cell as usize);
        core.jobs[job].points.object(row).content_hash(&mut hasher);
    }
    hasher.finish()
}
