//! Node keys: what goes into them besides the recipe, and the table that finds equal ones.

use dagrun_model::{ContentHasher, NodeIx, NodeKey};

use crate::join::NONE;

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
