//! A plan that grows: what runs before a study, a small plan for each trial under way, and what runs after.
//!
//! Every part is an ordinary [`Plan`] with indices of its own; here they become indices of the run. A node of a later part
//! whose key an earlier lasting part has is that part's node. Parts of trials go when the trial is over.

use std::{cell::RefCell, collections::BTreeMap, ops::Range, rc::Rc, sync::Arc};

use dagrun_events::PlanCounts;
use dagrun_model::{
    Action, ActionDigest, FailureCause, GroupIx, GroupSpec, NodeClass, NodeIx, NodeKey, NodeSpec,
    Outputs, Pipeline, PlanDelta, SetIx, SetSpec,
};
use dagrun_plan::{Plan, PlannedExport, Upstream, UpstreamEnd};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    KeyRow,
    board::Board,
    view::{View, key_rows},
};

/// Stands for "none" in tables of indices.
const NONE: u32 = u32::MAX;

/// A plan that grows.
#[derive(Debug)]
pub(crate) struct GrowingPlan {
    pipeline: Arc<Pipeline>,
    inner: RefCell<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By the first index of their nodes.
    parts: BTreeMap<u32, Rc<Part>>,
    nodes: u32,
    sets: u32,
    groups: u32,
    /// Of all parts that ever were.
    counts: PlanCounts,
    classes: Vec<NodeClass>,
    class_table: Arc<[NodeClass]>,
    /// Nodes of parts that last, by key.
    lasting: FxHashMap<NodeKey, NodeIx>,
}

/// A plan that is a part of the run's.
#[derive(Debug)]
pub(crate) struct Part {
    plan: Arc<Plan>,
    first: u32,
    lasts: bool,
    /// By index of the plan: the index of the run.
    global: Vec<NodeIx>,
    /// Its own nodes, from `first` on: the index of the plan.
    own: Vec<NodeIx>,
}

impl Part {
    /// The plan.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The run's indices of its own nodes.
    pub(crate) fn nodes(&self) -> Range<u32> {
        self.first..self.first + self.own.len() as u32
    }

    /// The run's index of one of the plan's nodes.
    pub(crate) fn global(&self, node: NodeIx) -> NodeIx {
        self.global[node.index()]
    }

    /// The key of one of its own nodes, by the run's index.
    pub(crate) fn key(&self, node: NodeIx) -> NodeKey {
        self.plan.key(self.own[(node.0 - self.first) as usize])
    }

    /// Whether the nodes that objectives read need this node, and it is none of them.
    pub(crate) fn is_before_scores(&self, node: NodeIx) -> bool {
        let scores = self.plan.objective_nodes();
        let mut waiting = scores.clone();
        let mut before = FxHashSet::default();
        while let Some(next) = waiting.pop() {
            waiting.extend(self.plan.upstream(next).filter(|it| before.insert(*it)));
        }
        let is_score = |it: &NodeIx| scores.contains(it);
        let mut before = before.into_iter().filter(|it| !is_score(it));
        before.any(|it| self.global(it) == node)
    }

    /// What the plan may ask of the nodes so far.
    pub(crate) fn upstream<'a>(&'a self, board: &'a Board) -> PartBoard<'a> {
        PartBoard { part: self, board }
    }

    /// Its exports, with the run's indices; those of nodes of other parts are left out.
    pub(crate) fn exports(&self) -> Vec<PlannedExport> {
        let mut exports = self.plan.exports();
        for export in &mut exports {
            export.node = self.global(export.node);
        }
        exports.retain(|export| self.nodes().contains(&export.node.0));
        exports
    }
}

/// The board of a run as one of its parts sees it.
pub(crate) struct PartBoard<'a> {
    part: &'a Part,
    board: &'a Board,
}

impl Upstream for PartBoard<'_> {
    fn outputs(&self, node: NodeIx) -> Option<&Outputs> {
        Upstream::outputs(self.board, self.part.global(node))
    }

    fn end(&self, node: NodeIx) -> Option<UpstreamEnd> {
        Upstream::end(self.board, self.part.global(node))
    }

    fn run_id(&self) -> &str {
        self.board.run_id()
    }

    fn attempt(&self, node: NodeIx) -> u32 {
        self.board.attempt(self.part.global(node))
    }
}

impl GrowingPlan {
    /// An empty plan of a pipeline.
    pub(crate) fn new(pipeline: Arc<Pipeline>) -> Self {
        Self {
            pipeline,
            inner: RefCell::default(),
        }
    }

    /// The pipeline of all its parts.
    pub(crate) fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// Adds a plan; gives what is new in it for the scheduler. One that `lasts` stays to the end of the run, and its nodes
    /// serve all that come after it.
    pub(crate) fn add(&self, plan: Arc<Plan>, lasts: bool) -> (Rc<Part>, PlanDelta) {
        let inner = &mut *self.inner.borrow_mut();
        let counts = plan.counts();
        inner.counts.naive += counts.naive;
        inner.counts.nodes += counts.nodes;
        inner.counts.units += counts.units;
        let mut part = Part {
            first: inner.nodes,
            lasts,
            global: Vec::with_capacity(plan.len()),
            own: Vec::new(),
            plan,
        };
        for node in part.plan.nodes() {
            let key = part.plan.key(node);
            let global = match inner.lasting.get(&key) {
                Some(known) => *known,
                None => {
                    part.own.push(node);
                    NodeIx(inner.nodes + part.own.len() as u32 - 1)
                }
            };
            part.global.push(global);
        }
        if lasts {
            let own = part.own.iter();
            let keys = own.map(|node| (part.plan.key(*node), part.global(*node)));
            inner.lasting.extend(keys);
        }
        let delta = inner.delta(&part);
        inner.nodes += delta.nodes.len() as u32;
        inner.sets += delta.sets.len() as u32;
        inner.groups += delta.groups.len() as u32;
        let part = Rc::new(part);
        if !part.own.is_empty() {
            inner.parts.insert(part.first, Rc::clone(&part));
        }
        (part, delta)
    }

    /// Forgets the nodes of a trial.
    pub(crate) fn retire(&self, part: &Part) {
        debug_assert!(!part.lasts, "parts that last are not retired");
        self.inner.borrow_mut().parts.remove(&part.first);
    }

    /// Whether no part of a trial is left.
    pub(crate) fn only_lasting(&self) -> bool {
        self.inner.borrow().parts.values().all(|part| part.lasts)
    }

    /// The part of a node, and the plan's index of it.
    fn local(&self, node: NodeIx) -> (Rc<Part>, NodeIx) {
        let inner = self.inner.borrow();
        let (first, part) = inner
            .parts
            .range(..=node.0)
            .next_back()
            .expect("nodes of the run are of a part, and are asked for while it lasts");
        (Rc::clone(part), part.own[(node.0 - first) as usize])
    }
}

impl Inner {
    /// What a part's own nodes are for the scheduler.
    fn delta(&mut self, part: &Part) -> PlanDelta {
        let local = part.plan.delta();
        let mut delta = PlanDelta {
            first_node: self.nodes,
            first_set: self.sets,
            first_group: self.groups,
            ..PlanDelta::default()
        };
        let mut sets = vec![NONE; local.sets.len()];
        let mut groups = vec![NONE; local.groups.len()];
        let mut classes = vec![NONE; local.classes.len()];
        for node in &part.own {
            let spec = &local.nodes[node.index()];
            let start = delta.node_sets.len() as u32;
            for set in slice(&local.node_sets, spec.sets) {
                let at = &mut sets[set.index()];
                if *at == NONE {
                    *at = self.sets + delta.sets.len() as u32;
                    copy_set(&local, *set, part, &mut delta);
                }
                delta.node_sets.push(SetIx(*at));
            }
            let group = spec.group.and_then(|group| {
                let at = &mut groups[group.index()];
                if *at == NONE {
                    let members = group_of_own(&local.groups[group.index()], part)?;
                    *at = self.groups + delta.groups.len() as u32;
                    delta.groups.push(members);
                }
                Some(GroupIx(*at))
            });
            let class = &mut classes[spec.class as usize];
            if *class == NONE {
                *class = self.class(&local.classes[spec.class as usize]);
            }
            delta.nodes.push(NodeSpec {
                job: spec.job,
                class: *class,
                sets: (start, spec.sets.1),
                group,
                trigger: spec.trigger,
            });
        }
        if self.class_table.len() != self.classes.len() {
            self.class_table = self.classes.as_slice().into();
        }
        delta.classes = Arc::clone(&self.class_table);
        delta
    }

    /// The place of a class in the table of all; trials share a few.
    fn class(&mut self, class: &NodeClass) -> u32 {
        let known = self.classes.iter().position(|known| known == class);
        let at = known.unwrap_or_else(|| {
            self.classes.push(class.clone());
            self.classes.len() - 1
        });
        at as u32
    }
}

fn slice<T>(items: &[T], (start, len): (u32, u32)) -> &[T] {
    &items[start as usize..(start + len) as usize]
}

fn copy_set(local: &PlanDelta, set: SetIx, part: &Part, delta: &mut PlanDelta) {
    let spec = &local.sets[set.index()];
    let start = delta.set_members.len() as u32;
    let members = slice(&local.set_members, spec.members);
    delta
        .set_members
        .extend(members.iter().map(|member| part.global(*member)));
    delta.sets.push(SetSpec {
        members: (start, spec.members.1),
        gather: spec.gather,
        min: spec.min,
    });
}

/// A fused group of own nodes; one that has others in it was placed with them.
fn group_of_own(group: &GroupSpec, part: &Part) -> Option<GroupSpec> {
    let members: Vec<NodeIx> = group.members.iter().map(|m| part.global(*m)).collect();
    members
        .iter()
        .all(|member| part.nodes().contains(&member.0))
        .then_some(GroupSpec { members })
}

impl View for GrowingPlan {
    fn len(&self) -> usize {
        self.inner.borrow().nodes as usize
    }

    fn key(&self, node: NodeIx) -> NodeKey {
        let (part, node) = self.local(node);
        part.plan.key(node)
    }

    fn pipeline_name(&self) -> &str {
        &self.pipeline.name.value
    }

    fn job_name(&self, node: NodeIx) -> &str {
        let (part, node) = self.local(node);
        &self.pipeline.job(part.plan.job(node)).name.value
    }

    fn id(&self, node: NodeIx) -> String {
        let (part, node) = self.local(node);
        part.plan.id(node)
    }

    fn also(&self, node: NodeIx) -> Vec<String> {
        let (part, node) = self.local(node);
        let mut ids = part.plan.ids(node);
        ids.remove(0);
        ids
    }

    fn condition(&self, node: NodeIx, board: &Board) -> Result<bool, FailureCause> {
        let (part, node) = self.local(node);
        part.plan.condition(node, &part.upstream(board))
    }

    fn action_digest(
        &self,
        node: NodeIx,
        board: &Board,
    ) -> Result<Option<ActionDigest>, FailureCause> {
        let (part, node) = self.local(node);
        part.plan.action_digest(node, &part.upstream(board))
    }

    fn action(&self, node: NodeIx, board: &Board) -> Result<Action, FailureCause> {
        let (part, node) = self.local(node);
        part.plan.action(node, &part.upstream(board))
    }

    fn manifest(&self, node: NodeIx, board: &Board) -> Vec<KeyRow> {
        let (part, node) = self.local(node);
        key_rows(part.plan.manifest(node, &part.upstream(board)))
    }

    fn producers(&self, node: NodeIx) -> Vec<NodeIx> {
        let (part, node) = self.local(node);
        part.plan
            .upstream(node)
            .map(|node| part.global(node))
            .collect()
    }

    fn grown(&self) -> Option<PlanCounts> {
        Some(self.inner.borrow().counts)
    }

    /// Of the parts that last: a trial's are laid out when it is over.
    fn exports(&self) -> Vec<PlannedExport> {
        let inner = self.inner.borrow();
        let lasting = inner.parts.values().filter(|part| part.lasts);
        lasting.flat_map(|part| part.exports()).collect()
    }
}
