//! What the cache has for a node and all that it needs, without running anything.

use std::collections::{BTreeMap, BTreeSet};

use dagrun_model::{ActionDigest, NodeIx, Outputs};
use dagrun_plan::{Plan, Upstream, UpstreamEnd};
use dagrun_store::{ActionEntry, Store};

use crate::error::CliError;

/// The cached results of a node's needs, and its own if it has one.
pub(crate) struct Resolved {
    entries: Vec<Option<ActionEntry>>,
    ends: Vec<Option<UpstreamEnd>>,
    /// The first node on the way that has no result, where there is one.
    pub(crate) missing: Option<NodeIx>,
    /// Actions that have no result, among those whose digests are known.
    pub(crate) missed: Vec<ActionDigest>,
}

/// Results that are not in the cache here.
pub(crate) type Elsewhere = BTreeMap<ActionDigest, ActionEntry>;

impl Resolved {
    /// Looks up `target` and everything above it, here first and then among what is elsewhere. Nodes of a plan stand after
    /// what they read.
    pub(crate) fn new(
        plan: &Plan,
        store: &Store,
        elsewhere: &Elsewhere,
        target: NodeIx,
    ) -> Result<Self, CliError> {
        let mut resolved = Self {
            entries: vec![None; plan.len()],
            ends: vec![None; plan.len()],
            missing: None,
            missed: Vec::new(),
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
                Some(digest) => resolved.look_up(digest, store, elsewhere)?,
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

    fn look_up(
        &mut self,
        digest: ActionDigest,
        store: &Store,
        elsewhere: &Elsewhere,
    ) -> Result<Option<ActionEntry>, CliError> {
        let here = store.lookup(&[digest]).map_err(CliError::environment)?;
        let found = here.into_iter().flatten().next();
        let found = found.or_else(|| elsewhere.get(&digest).cloned());
        if found.is_none() {
            self.missed.push(digest);
        }
        Ok(found)
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
