//! What the nodes of a run gave so far: the upstream that plan asks about.

use std::{ops::Range, sync::Arc};

use dagrun_model::{NodeIx, Outputs, Paged};
use dagrun_plan::{Upstream, UpstreamEnd};

/// Ends and outputs by node.
#[derive(Debug)]
pub(crate) struct Board {
    run: String,
    nodes: Paged<Row>,
    /// The node that an action is made for now, and the number of that attempt.
    attempt: Option<(NodeIx, u32)>,
}

/// What is known of one node.
#[derive(Clone, Debug, Default)]
struct Row {
    end: Option<UpstreamEnd>,
    outputs: Option<Arc<Outputs>>,
    /// Its place among all that ran and ended, from 1.
    order: u32,
}

impl Board {
    pub(crate) fn new(run: &str) -> Self {
        Self {
            run: run.into(),
            nodes: Paged::default(),
            attempt: None,
        }
    }

    /// Makes room for nodes up to a number.
    pub(crate) fn grow(&mut self, nodes: usize) {
        self.nodes.grow(nodes, &Row::default());
    }

    /// Forgets nodes that nobody will ask about any more.
    pub(crate) fn retire(&mut self, nodes: Range<u32>) {
        for node in nodes.clone() {
            self.nodes[node as usize] = Row::default();
        }
        self.nodes.retire(nodes.start as usize..nodes.end as usize);
    }

    pub(crate) fn set_end(&mut self, node: NodeIx, end: Option<UpstreamEnd>) {
        self.nodes[node.index()].end = end;
    }

    pub(crate) fn set_outputs(&mut self, node: NodeIx, outputs: Arc<Outputs>) {
        self.nodes[node.index()].outputs = Some(outputs);
    }

    pub(crate) fn set_order(&mut self, node: NodeIx, order: u32) {
        self.nodes[node.index()].order = order;
    }

    /// The node's place among all that ran and ended, from 1; 0 where it did not run.
    pub(crate) fn order(&self, node: NodeIx) -> u32 {
        self.nodes[node.index()].order
    }

    pub(crate) fn set_attempt(&mut self, node: NodeIx, number: u32) {
        self.attempt = Some((node, number));
    }

    pub(crate) fn end_of(&self, node: NodeIx) -> Option<UpstreamEnd> {
        self.nodes[node.index()].end
    }

    pub(crate) fn outputs_of(&self, node: NodeIx) -> Option<&Arc<Outputs>> {
        self.nodes[node.index()].outputs.as_ref()
    }
}

impl Upstream for Board {
    fn outputs(&self, node: NodeIx) -> Option<&Outputs> {
        self.outputs_of(node).map(|outputs| &**outputs)
    }

    fn end(&self, node: NodeIx) -> Option<UpstreamEnd> {
        self.end_of(node)
    }

    fn run_id(&self) -> &str {
        &self.run
    }

    fn attempt(&self, node: NodeIx) -> u32 {
        match self.attempt {
            Some((now, number)) if now == node => number,
            _ => 1,
        }
    }
}
