//! What a plan hands to the scheduler: nodes without names, commands or templates.

use std::{sync::Arc, time::Duration};

use crate::{Digest, GroupIx, JobIx, NodeIx, Resources, RetryCause, SetIx};

/// The key of a node: recipe, parameters, seed and the keys of its inputs. Known at plan time.
pub type NodeKey = Digest;

/// The digest of an action: recipe and the *content* of its inputs. The index of the action cache.
pub type ActionDigest = Digest;

/// Nodes, sets and groups to add to a scheduler. Indices go on from what it already has.
///
/// Nodes come in an order in which everything that a node reads stands before it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlanDelta {
    /// The first new node's index.
    pub first_node: u32,
    /// The first new set's index.
    pub first_set: u32,
    /// The first new group's index.
    pub first_group: u32,
    /// New nodes.
    pub nodes: Vec<NodeSpec>,
    /// New input sets.
    pub sets: Vec<SetSpec>,
    /// All sets that the new nodes wait for, sliced by [`NodeSpec::sets`].
    pub node_sets: Vec<SetIx>,
    /// All members of the new sets, sliced by [`SetSpec::members`].
    pub set_members: Vec<NodeIx>,
    /// New fused groups.
    pub groups: Vec<GroupSpec>,
    /// The classes that the nodes refer to by [`NodeSpec::class`]; the whole table, also what was there before.
    pub classes: Arc<[NodeClass]>,
}

/// A node as the scheduler sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSpec {
    /// Its job, for medians of durations and for messages.
    pub job: JobIx,
    /// Its class in [`PlanDelta::classes`].
    pub class: u32,
    /// Where its sets stand in [`PlanDelta::node_sets`]: start and length.
    pub sets: (u32, u32),
    /// Its fused group.
    pub group: Option<GroupIx>,
    /// When it is decided.
    pub trigger: Trigger,
}

/// When a node is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// It starts when all its sets are satisfied, and is skipped as soon as one cannot be.
    Succeeded,
    /// Its `if` depends on how its needs ended: it is asked about when all of them are terminal.
    Terminal,
}

/// What many nodes of a job share.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeClass {
    /// What an attempt takes from a host.
    pub resources: Resources,
    /// How long an attempt may take.
    pub timeout: Option<Duration>,
    /// How often a failure is tried again.
    pub max_retries: u32,
    /// The causes that are tried again; empty: all.
    pub retry_when: Vec<RetryCause>,
    /// The wait before the second attempt; it doubles with each one.
    pub backoff: Duration,
    /// The factor in percent by which memory grows after an out-of-memory kill; 100 for none.
    pub memory_percent: u32,
    /// Its failure counts as a success for dependents.
    pub continue_on_error: bool,
    /// A straggling attempt may get a second one.
    pub speculate: bool,
    /// The action cache is not asked.
    pub never_cache: bool,
    /// The executor profile it is bound to.
    pub executor: Option<String>,
}

impl Default for NodeClass {
    fn default() -> Self {
        Self {
            resources: Resources::default(),
            timeout: None,
            max_retries: 0,
            retry_when: Vec::new(),
            backoff: Duration::from_secs(1),
            memory_percent: 100,
            continue_on_error: false,
            speculate: false,
            never_cache: false,
            executor: None,
        }
    }
}

/// An input set: the ordered upstream nodes that a need gives. Nodes with equal needs share one set.
#[derive(Clone, Debug, PartialEq)]
pub struct SetSpec {
    /// Where its members stand in [`PlanDelta::set_members`]: start and length.
    pub members: (u32, u32),
    /// Whether it is a gather: members that are skipped by their own `if` drop out of it.
    pub gather: bool,
    /// The least number of succeeded members; without it, all that do not drop out.
    pub min: Option<u32>,
}

/// A fused group: members are placed on one host and their inputs staged there once.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupSpec {
    /// Its members, at least two.
    pub members: Vec<NodeIx>,
}
