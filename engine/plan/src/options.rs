//! What the caller says about a plan besides the pipeline.

use dagrun_model::Value;

use crate::{Origin, Phase};

/// What the caller says about a plan besides the pipeline.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// Values for parameters and where each came from; later ones win.
    pub params: Vec<(String, Value, Origin)>,
    /// The most cells that a plan may have.
    pub max_nodes: u64,
    /// Job names or logical ids: exactly these, and of what they need whatever is not cached.
    pub only: Vec<String>,
    /// Job names or logical ids: these and all they need.
    pub until: Vec<String>,
    /// Job names or logical ids: these and all that needs them, and of what those need whatever is not cached.
    pub from: Vec<String>,
    /// The operating system that nodes run on; it is in every key.
    pub os: String,
    /// The processor architecture that nodes run on; it is in every key.
    pub arch: String,
    /// The name of the isolation level; it is in every key.
    pub isolation: String,
    /// Which part of a pipeline with a study is planned.
    pub phase: Phase,
    /// Without deduplication: every logical id is a node of its own, and each node that gathers has its own copies of what it
    /// gathers. No node shares a key or a result with another one. For benches.
    pub apart: bool,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            params: Vec::new(),
            max_nodes: 10_000_000,
            only: Vec::new(),
            until: Vec::new(),
            from: Vec::new(),
            os: "linux".into(),
            arch: "x86_64".into(),
            isolation: "folder".into(),
            phase: Phase::Whole,
            apart: false,
        }
    }
}
