//! A finished plan and what it answers.

use std::sync::{Arc, OnceLock};

use dagrun_model::{
    Digest, GroupIx, GroupSpec, JobIx, NodeClass, NodeIx, NodeKey, NodeSpec, Pipeline, PlanDelta,
    SetIx, SetSpec, Trigger,
};
use indexmap::IndexMap;

use crate::{
    ResolvedParam,
    facts::FactTable,
    join::NONE,
    layout::{Condition, Core},
    select::matching,
    sets::SetTable,
};

/// How many nodes a plan has, counted in three ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counts {
    /// All logical ids, and for each one that gathers copies of what another one has gathered already: what runs without
    /// deduplication, as [`PlanOptions::apart`](crate::PlanOptions::apart) plans it.
    pub naive: u64,
    /// Distinct nodes.
    pub nodes: u64,
    /// Distinct nodes with each fused group as one.
    pub units: u64,
}

/// What tells copies of a logical id apart, as an axis.
const COPY: &str = "copy";

/// Distinct nodes with their keys, input sets and fused groups.
#[derive(Debug)]
pub struct Plan {
    pub(crate) core: Core,
    pub(crate) facts: FactTable,
    pub(crate) nodes: Nodes,
    pub(crate) sets: SetTable,
    counts: Counts,
    reverse: OnceLock<Reverse>,
}

/// Nodes as columns.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    pub(crate) keys: Vec<NodeKey>,
    pub(crate) recipes: Vec<Digest>,
    pub(crate) first_cell: Vec<u32>,
    pub(crate) class: Vec<u32>,
    /// Empty where there are no groups.
    pub(crate) group_of: Vec<u32>,
    pub(crate) set_start: Vec<u32>,
    pub(crate) sets: Vec<SetIx>,
    pub(crate) cell_node: Vec<u32>,
    /// Where nothing is shared, for each node which copy of its cell it is: 0 for the first. Else empty.
    pub(crate) copies: Vec<u32>,
    /// Cells beyond the first of their node, sorted.
    pub(crate) merged: Vec<(NodeIx, u32)>,
    /// Cells whose `if` is false or that need such a one, in plan order.
    pub(crate) skipped: Vec<u32>,
    /// By job, how many nodes there would be without deduplication.
    pub(crate) naive: Vec<u64>,
    pub(crate) groups: Vec<Vec<NodeIx>>,
    pub(crate) classes: Arc<[NodeClass]>,
}

impl Nodes {
    pub(crate) fn add(&mut self, key: NodeKey, recipe: Digest, cell: usize, class: u32) -> NodeIx {
        self.keys.push(key);
        self.recipes.push(recipe);
        self.first_cell.push(cell as u32);
        self.class.push(class);
        NodeIx::from_index(self.keys.len() - 1)
    }

    /// Which copy of its cell a node is, where it is not the first.
    pub(crate) fn copy(&self, node: NodeIx) -> Option<u32> {
        let copy = self.copies.get(node.index());
        copy.copied().filter(|copy| *copy > 0)
    }

    pub(crate) fn shrink(&mut self) {
        self.keys.shrink_to_fit();
        self.recipes.shrink_to_fit();
        self.first_cell.shrink_to_fit();
        self.class.shrink_to_fit();
        self.sets.shrink_to_fit();
    }
}

/// For each node the nodes that read it.
#[derive(Debug)]
struct Reverse {
    starts: Vec<u32>,
    readers: Vec<NodeIx>,
}

impl Plan {
    pub(crate) fn new(
        core: Core,
        facts: FactTable,
        nodes: Nodes,
        sets: SetTable,
        counts: Counts,
    ) -> Self {
        Self {
            core,
            facts,
            nodes,
            sets,
            counts,
            reverse: OnceLock::new(),
        }
    }

    /// Calls a function with a context that knows `params` alone.
    pub fn with_params<R>(&self, f: impl FnOnce(&dyn dagrun_expr::Context) -> R) -> R {
        f(&crate::context::ParamContext(&self.core.params_value))
    }

    /// The pipeline, to be shared.
    pub fn pipeline_arc(&self) -> Arc<Pipeline> {
        Arc::clone(&self.core.pipeline)
    }

    /// The pipeline.
    pub fn pipeline(&self) -> &Pipeline {
        &self.core.pipeline
    }

    /// The parameters in declared order, with where each value came from.
    pub fn params(&self) -> &IndexMap<String, ResolvedParam> {
        &self.core.params
    }

    /// How many distinct nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.keys.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.nodes.keys.is_empty()
    }

    /// All nodes, in an order in which everything that a node needs stands before it.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = NodeIx> + use<> {
        (0..self.len()).map(NodeIx::from_index)
    }

    /// The counts.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How many nodes of each job an engine without deduplication would run, in the order of the pipeline: the parts of
    /// [`Counts::naive`].
    pub fn naive_by_job(&self) -> &[u64] {
        &self.nodes.naive
    }

    /// The key of a node.
    pub fn key(&self, node: NodeIx) -> NodeKey {
        self.nodes.keys[node.index()]
    }

    /// The job of a node: of the first cell that came down to it.
    pub fn job(&self, node: NodeIx) -> JobIx {
        JobIx::from_index(self.first(node).0)
    }

    /// The class of a node.
    pub fn class(&self, node: NodeIx) -> &NodeClass {
        &self.nodes.classes[self.nodes.class[node.index()] as usize]
    }

    /// The first logical id of a node, in plan order. A copy has an axis `copy` behind those of its job.
    pub fn id(&self, node: NodeIx) -> String {
        let cell = self.nodes.first_cell[node.index()] as usize;
        match self.nodes.copy(node) {
            None => self.core.logical_id(cell),
            Some(_) => {
                let (job, _) = self.first(node);
                let axes = self.axes(node);
                let axes = axes
                    .iter()
                    .map(|(axis, label)| (axis.as_str(), label.as_str()));
                dagrun_model::logical_id(self.core.job_name(job), axes)
            }
        }
    }

    /// Whether a node does what another one does, for another reader: see [`PlanOptions::apart`](crate::PlanOptions::apart).
    pub fn is_copy(&self, node: NodeIx) -> bool {
        self.nodes.copy(node).is_some()
    }

    /// All logical ids that are this node, in plan order.
    pub fn ids(&self, node: NodeIx) -> Vec<String> {
        let mut ids = vec![self.id(node)];
        ids.extend(self.further_ids(node));
        ids
    }

    /// The logical ids of a node but for its first one, in plan order.
    pub fn further_ids(&self, node: NodeIx) -> Vec<String> {
        self.cells(node)
            .skip(1)
            .map(|cell| self.core.logical_id(cell as usize))
            .collect()
    }

    /// How many logical ids are this node.
    pub fn id_count(&self, node: NodeIx) -> usize {
        self.cells(node).count()
    }

    /// The node of a logical id.
    pub fn find(&self, id: &str) -> Option<NodeIx> {
        let (job, mut axes) = dagrun_model::parse_logical_id(id)?;
        let plan = &self.core.jobs[self.core.pipeline.jobs.get_index_of(job)?];
        let mut copy = 0;
        if axes.len() == plan.points.axes.len() + 1
            && let Some((_, label)) = axes.pop_if(|(axis, _)| axis == COPY)
        {
            copy = label.parse().ok().filter(|copy| *copy > 0)?;
        }
        if axes.len() != plan.points.axes.len() {
            return None;
        }
        let mut values = vec![0; axes.len()];
        for (name, label) in &axes {
            let axis = plan.points.axis(name)?;
            values[axis] = plan.points.axes[axis].find_label(label)?;
        }
        let row = plan.points.find(&values)?;
        let cell = plan.first_cell + row;
        match self.nodes.cell_node[cell] {
            NONE => None,
            node if copy == 0 => Some(NodeIx(node)),
            _ => self.nodes().find(|node| {
                self.nodes.copy(*node) == Some(copy)
                    && self.nodes.first_cell[node.index()] as usize == cell
            }),
        }
    }

    /// The nodes that a logical id names, or a part of one: a job, or a job with some of its axes. Empty where there are none.
    pub fn named(&self, name: &str) -> Vec<NodeIx> {
        if let Some(node) = self.find(name) {
            return vec![node];
        }
        let cells = matching(&self.core, name).unwrap_or_default();
        let nodes = cells.into_iter().map(|cell| self.nodes.cell_node[cell]);
        let mut nodes: Vec<NodeIx> = nodes.filter(|node| *node != NONE).map(NodeIx).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Names and labels of the axes of a node's first logical id.
    pub fn axes(&self, node: NodeIx) -> Vec<(String, String)> {
        let (job, row) = self.first(node);
        let mut axes = self.core.jobs[job].points.labels(row);
        let copy = self.nodes.copy(node);
        axes.extend(copy.map(|copy| (COPY.to_owned(), copy.to_string())));
        axes
    }

    /// Logical ids that are no nodes because their `if` is false, or because they need such a one.
    pub fn skipped(&self) -> Vec<String> {
        self.nodes
            .skipped
            .iter()
            .map(|cell| self.core.logical_id(*cell as usize))
            .collect()
    }

    /// The sets that a node waits for.
    pub fn sets(&self, node: NodeIx) -> &[SetIx] {
        let starts = &self.nodes.set_start;
        &self.nodes.sets[starts[node.index()] as usize..starts[node.index() + 1] as usize]
    }

    /// The distinct nodes of a set, in order.
    pub fn members(&self, set: SetIx) -> &[NodeIx] {
        self.sets.members(set)
    }

    /// How many sets there are.
    pub fn set_count(&self) -> usize {
        self.sets.len()
    }

    /// The members of a fused group.
    pub fn group(&self, group: GroupIx) -> &[NodeIx] {
        &self.nodes.groups[group.index()]
    }

    /// The fused group of a node.
    pub fn group_of(&self, node: NodeIx) -> Option<GroupIx> {
        self.nodes
            .group_of
            .get(node.index())
            .filter(|group| **group != NONE)
            .map(|group| GroupIx(*group))
    }

    /// The nodes that wait for this one, in plan order. The first call builds the table.
    pub fn consumers(&self, node: NodeIx) -> &[NodeIx] {
        let reverse = self.reverse.get_or_init(|| self.build_reverse());
        let range =
            reverse.starts[node.index()] as usize..reverse.starts[node.index() + 1] as usize;
        &reverse.readers[range]
    }

    fn build_reverse(&self) -> Reverse {
        let edges = || {
            self.nodes()
                .flat_map(|reader| self.upstream(reader).map(move |node| (node, reader)))
        };
        let mut starts = vec![0u32; self.len() + 1];
        edges().for_each(|(node, _)| starts[node.index() + 1] += 1);
        for ix in 1..starts.len() {
            starts[ix] += starts[ix - 1];
        }
        let mut at = starts.clone();
        let mut readers = vec![NodeIx(0); starts[self.len()] as usize];
        for (node, reader) in edges() {
            readers[at[node.index()] as usize] = reader;
            at[node.index()] += 1;
        }
        Reverse { starts, readers }
    }

    /// The distinct nodes that a node waits for.
    pub fn upstream(&self, node: NodeIx) -> impl Iterator<Item = NodeIx> {
        let mut all: Vec<NodeIx> = self
            .sets(node)
            .iter()
            .flat_map(|set| self.members(*set).iter().copied())
            .collect();
        if self.sets(node).len() > 1 {
            all.sort_unstable();
            all.dedup();
        }
        all.into_iter()
    }

    /// The whole plan as the scheduler takes it.
    pub fn delta(&self) -> PlanDelta {
        let nodes = self.nodes().map(|node| self.node_spec(node)).collect();
        let mut set_members = Vec::new();
        let sets = (0..self.sets.len())
            .map(|ix| {
                let set = SetIx::from_index(ix);
                let members = self.sets.members(set);
                let start = set_members.len() as u32;
                set_members.extend_from_slice(members);
                let gather = self.sets.gather(set);
                SetSpec {
                    members: (start, members.len() as u32),
                    gather: gather.is_some(),
                    min: gather.and_then(|gather| gather.min),
                }
            })
            .collect();
        PlanDelta {
            first_node: 0,
            first_set: 0,
            first_group: 0,
            nodes,
            sets,
            node_sets: self.nodes.sets.clone(),
            set_members,
            groups: self
                .nodes
                .groups
                .iter()
                .map(|members| GroupSpec {
                    members: members.clone(),
                })
                .collect(),
            classes: self.nodes.classes.clone(),
        }
    }

    fn node_spec(&self, node: NodeIx) -> NodeSpec {
        let (job, _) = self.first(node);
        let start = self.nodes.set_start[node.index()];
        NodeSpec {
            job: JobIx::from_index(job),
            class: self.nodes.class[node.index()],
            sets: (start, self.nodes.set_start[node.index() + 1] - start),
            group: self.group_of(node),
            trigger: match self.core.jobs[job].condition {
                Condition::Terminal(_) => Trigger::Terminal,
                _ => Trigger::Succeeded,
            },
        }
    }

    /// The job and row of a node's first cell.
    pub(crate) fn first(&self, node: NodeIx) -> (usize, usize) {
        self.core.cell(self.nodes.first_cell[node.index()] as usize)
    }

    /// All cells of a node, in plan order.
    pub(crate) fn cells(&self, node: NodeIx) -> impl Iterator<Item = u32> {
        let merged = &self.nodes.merged;
        let from = merged.partition_point(|(other, _)| *other < node);
        let rest = merged[from..]
            .iter()
            .take_while(move |(other, _)| *other == node);
        std::iter::once(self.nodes.first_cell[node.index()]).chain(rest.map(|(_, cell)| *cell))
    }
}
