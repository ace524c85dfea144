//! What the cache has for a node and all that it needs, without running anything.

use std::collections::BTreeSet;

use dagrun_model::{NodeIx, Outputs};
use dagrun_plan::{Plan, Upstream, UpstreamEnd};
use dagrun_store::{ActionEntry, Store};

use crate::error::CliError;

/// The cached results of a node's needs, and its own if it has one.
pub(crate) struct Resolved {
    entries: Vec<Option<ActionEntry>>,
    ends: Vec<Option<UpstreamEnd>>,
    /// The first node on the way that has no result, where there is one.
    pub(crate) missing: Option<NodeIx>,
}

impl Resolved {
    /// Looks up `target` and everything above it. Nodes of a plan stand after what they read.
    pub(crate) fn new(plan: &Plan, store: &Store, target: NodeIx) -> Result<Self, CliError> {
        let mut resolved = Self {
            entries: vec![None; plan.len()],
            ends: vec![None; plan.len()],
            missing: None,
        };
        for node in with_ancestors(plan, target) {
            match plan.condition(node, &resolved) {
                Ok(true) => {}
                Ok(false) => {
                    resolved.ends[node.index()] = Some(UpstreamEnd::ConditionFalse);
                    continue;
                }
                Err(_) => {
                    resolved.missing.get_or_insert(node);
                    continue;
                }
            }
            let digest = plan.action_digest(node, &resolved).ok().flatten();
            let entry = match digest {
                Some(digest) => store
                    .lookup(&[digest])
                    .map_err(CliError::environment)?
                    .pop()
                    .flatten(),
                None => None,
            };
            if entry.is_some() {
                resolved.ends[node.index()] = Some(UpstreamEnd::Succeeded);
            } else {
                resolved.missing.get_or_insert(node);
            }
            resolved.entries[node.index()] = entry;
        }
        Ok(resolved)
    }

    /// The result of a node.
    pub(crate) fn entry(&self, node: NodeIx) -> Option<&ActionEntry> {
        self.entries[node.index()].as_ref()
    }
}

impl Upstream for Resolved {
    fn outputs(&self, node: NodeIx) -> Option<&Outputs> {
        self.entry(node).map(|entry| &entry.outputs)
    }

    fn end(&self, node: NodeIx) -> Option<UpstreamEnd> {
        self.ends[node.index()]
    }

    fn run_id(&self) -> &str {
        ""
    }
}

fn with_ancestors(plan: &Plan, target: NodeIx) -> BTreeSet<NodeIx> {
    let mut found = BTreeSet::from([target]);
    let mut open = vec![target];
    while let Some(node) = open.pop() {
        for set in plan.sets(node) {
            for member in plan.members(*set) {
                if found.insert(*member) {
                    open.push(*member);
                }
            }
        }
    }
    found
}
