//! What the nodes of a run gave so far: the upstream that plan asks about.

use std::sync::Arc;

use dagrun_model::{NodeIx, Outputs};
use dagrun_plan::{Upstream, UpstreamEnd};

/// Ends and outputs by node.
#[derive(Debug)]
pub(crate) struct Board {
    run: String,
    ends: Vec<Option<UpstreamEnd>>,
    outputs: Vec<Option<Arc<Outputs>>>,
    /// The node that an action is made for now, and the number of that attempt.
    attempt: Option<(NodeIx, u32)>,
}

impl Board {
    pub(crate) fn new(run: &str, nodes: usize) -> Self {
        Self {
            run: run.into(),
            ends: vec![None; nodes],
            outputs: vec![None; nodes],
            attempt: None,
        }
    }

    pub(crate) fn set_end(&mut self, node: NodeIx, end: Option<UpstreamEnd>) {
        self.ends[node.index()] = end;
    }

    pub(crate) fn set_outputs(&mut self, node: NodeIx, outputs: Arc<Outputs>) {
        self.outputs[node.index()] = Some(outputs);
    }

    pub(crate) fn set_attempt(&mut self, node: NodeIx, number: u32) {
        self.attempt = Some((node, number));
    }

    pub(crate) fn end_of(&self, node: NodeIx) -> Option<UpstreamEnd> {
        self.ends[node.index()]
    }

    pub(crate) fn outputs_of(&self, node: NodeIx) -> Option<&Arc<Outputs>> {
        self.outputs[node.index()].as_ref()
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
