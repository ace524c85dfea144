//! Plans for tests, written in a line or two.

use dagrun_model::{
    GroupIx, GroupSpec, JobIx, NodeClass, NodeIx, NodeSpec, PlanDelta, SetIx, SetSpec, Trigger,
};

/// Builds a [`PlanDelta`] node by node.
#[derive(Clone, Debug, Default)]
pub struct PlanBuilder {
    delta: PlanDelta,
    classes: Vec<NodeClass>,
}

impl PlanBuilder {
    /// An empty plan.
    pub fn new() -> Self {
        Self::default()
    }

    /// A class that nodes may refer to. The first one, if none is added, is the default.
    pub fn class(&mut self, class: NodeClass) -> u32 {
        self.classes.push(class);
        self.classes.len() as u32 - 1
    }

    /// A scalar need of one node.
    pub fn one(&mut self, member: NodeIx) -> SetIx {
        self.set(&[member], false, None)
    }

    /// A gather of all these nodes.
    pub fn gather(&mut self, members: &[NodeIx]) -> SetIx {
        self.set(members, true, None)
    }

    /// Any set.
    pub fn set(&mut self, members: &[NodeIx], gather: bool, min: Option<u32>) -> SetIx {
        let start = self.delta.set_members.len() as u32;
        self.delta.set_members.extend(members);
        self.delta.sets.push(SetSpec {
            members: (start, members.len() as u32),
            gather,
            min,
        });
        SetIx(self.delta.first_set + self.delta.sets.len() as u32 - 1)
    }

    /// A node of class 0 and job 0 that waits for sets.
    pub fn node(&mut self, sets: &[SetIx]) -> NodeIx {
        self.node_of(0, 0, sets)
    }

    /// A node of a class and a job that waits for sets.
    pub fn node_of(&mut self, class: u32, job: u32, sets: &[SetIx]) -> NodeIx {
        let start = self.delta.node_sets.len() as u32;
        self.delta.node_sets.extend(sets);
        self.delta.nodes.push(NodeSpec {
            job: JobIx(job),
            class,
            sets: (start, sets.len() as u32),
            group: None,
            trigger: Trigger::Succeeded,
        });
        NodeIx(self.delta.first_node + self.delta.nodes.len() as u32 - 1)
    }

    /// Makes a node of this delta wait for the ends of its needs.
    pub fn terminal(&mut self, node: NodeIx) {
        self.delta.nodes[(node.0 - self.delta.first_node) as usize].trigger = Trigger::Terminal;
    }

    /// Fuses nodes of this delta.
    pub fn group(&mut self, members: &[NodeIx]) -> GroupIx {
        let group = GroupIx(self.delta.first_group + self.delta.groups.len() as u32);
        self.delta.groups.push(GroupSpec {
            members: members.to_vec(),
        });
        for member in members {
            self.delta.nodes[(member.0 - self.delta.first_node) as usize].group = Some(group);
        }
        group
    }

    /// What was built since the last delta; the builder goes on behind it.
    pub fn delta(&mut self) -> PlanDelta {
        if self.classes.is_empty() {
            self.classes.push(NodeClass::default());
        }
        let next = PlanDelta {
            first_node: self.delta.first_node + self.delta.nodes.len() as u32,
            first_set: self.delta.first_set + self.delta.sets.len() as u32,
            first_group: self.delta.first_group + self.delta.groups.len() as u32,
            ..PlanDelta::default()
        };
        let mut delta = std::mem::replace(&mut self.delta, next);
        delta.classes = self.classes.clone().into();
        delta
    }
}
