//! Asking the action cache.

use std::sync::Arc;

use dagrun_model::{ActionDigest, Artifact, FailureCause, NodeIx, Outputs};
use dagrun_plan::UpstreamEnd;
use dagrun_sched::{CacheAnswer, Event};

use super::{Driver, behind::May};
use crate::Force;

impl Driver<'_> {
    /// Answers for nodes whose needs are decided.
    pub(super) fn look_up(&mut self, nodes: Vec<NodeIx>) {
        self.look_up_again(nodes, self.behind.first());
    }

    /// Answers for nodes, except those about which the tier is asked first.
    pub(super) fn look_up_again(&mut self, nodes: Vec<NodeIx>, may: May) {
        let mut answers = Vec::with_capacity(nodes.len());
        let mut asked = Vec::with_capacity(nodes.len());
        for node in nodes {
            match self.before_the_cache(node) {
                Ok(digest) => asked.push((node, digest)),
                Err(answer) => answers.push((node, answer)),
            }
        }
        let digests: Vec<_> = asked.iter().map(|(_, digest)| *digest).collect();
        let found = match self.store.lookup_outputs(&digests) {
            Ok(found) => found,
            Err(error) => {
                self.fatal = Some(format!("the action cache does not answer: {error}"));
                return;
            }
        };
        let mut unknown = Vec::new();
        let (mut afar, mut artifacts) = (Vec::new(), Vec::new());
        for ((node, digest), outputs) in asked.into_iter().zip(found) {
            let runs_anyway = self.is_forced(node) || self.rewound.contains(&node);
            match outputs {
                Some(_) | None if runs_anyway => answers.push((node, self.miss(node, digest))),
                Some(outputs) if self.export_is_gone(node, &outputs) => match may {
                    May::Nothing => answers.push((node, self.miss(node, digest))),
                    May::Fetch | May::Find => {
                        afar.push(node);
                        artifacts.extend(outputs.into_values());
                    }
                },
                Some(outputs) => answers.push((node, self.take_hit(node, outputs))),
                None if may == May::Find => unknown.push((node, digest)),
                None => answers.push((node, self.miss(node, digest))),
            }
        }
        self.behind.find(&unknown);
        self.behind.fetch(afar, artifacts);
        let runs = |(_, answer): &(NodeIx, CacheAnswer)| matches!(answer, CacheAnswer::Miss { .. });
        if answers.iter().any(runs) {
            self.need_executor();
        }
        self.withhold(&mut answers);
        if !answers.is_empty() {
            self.queue.push_back(Event::CacheAnswered(answers));
        }
    }

    fn miss(&mut self, node: NodeIx, digest: ActionDigest) -> CacheAnswer {
        self.may_not_run(node).unwrap_or(CacheAnswer::Miss {
            action: Some(digest),
        })
    }

    /// The digest to ask for, or the answer where the cache need not be asked.
    fn before_the_cache(&mut self, node: NodeIx) -> Result<ActionDigest, CacheAnswer> {
        if let Some(answer) = self.settled_answer(node) {
            return Err(answer);
        }
        let decided = match self.plan.condition(node, &self.board) {
            Ok(false) => return Err(CacheAnswer::ConditionFalse),
            Ok(true) => self.plan.action_digest(node, &self.board),
            Err(cause) => Err(cause),
        };
        match decided {
            Ok(Some(digest)) => Ok(digest),
            Ok(None) => {
                let forbidden = self.may_not_run(node);
                Err(forbidden.unwrap_or(CacheAnswer::Miss { action: None }))
            }
            Err(cause) => {
                self.causes.insert(node, cause);
                Err(CacheAnswer::Unrunnable)
            }
        }
    }

    /// In a later round: what the first found out.
    fn settled_answer(&self, node: NodeIx) -> Option<CacheAnswer> {
        if !self.settled.as_ref()?.contains(&node) || self.rewound.contains(&node) {
            return None;
        }
        Some(match self.board.end_of(node) {
            Some(UpstreamEnd::Succeeded) => CacheAnswer::Hit {
                bytes: self.board.outputs_of(node).map_or(0, |o| bytes_of(o)),
            },
            Some(UpstreamEnd::ConditionFalse) => CacheAnswer::ConditionFalse,
            _ => CacheAnswer::Unrunnable,
        })
    }

    /// Takes an entry of the cache as the node's result.
    fn take_hit(&mut self, node: NodeIx, outputs: Outputs) -> CacheAnswer {
        let outputs = Arc::new(outputs);
        let bytes = bytes_of(&outputs);
        self.board.set_outputs(node, outputs);
        CacheAnswer::Hit { bytes }
    }

    /// Trials that are told again take their simulations from the cache, or fail.
    fn may_not_run(&mut self, node: NodeIx) -> Option<CacheAnswer> {
        let forbidden = self.study.as_mut().is_some_and(|study| study.forbids(node));
        forbidden.then(|| {
            let message = "has no result in the cache, and scoring trials again runs no simulations; `--run-missing` runs them".into();
            self.causes.insert(node, FailureCause::Expression { message });
            CacheAnswer::Unrunnable
        })
    }

    pub(super) fn is_forced(&self, node: NodeIx) -> bool {
        matches!(self.options.force, Force::All) || self.forced.contains(&node)
    }

    /// A hit needs digests only, but an export needs the bytes: find out before the node counts as done.
    ///
    /// A store that asks others is asked only when the bytes are laid out: what nobody has then is made again in another round.
    fn export_is_gone(&self, node: NodeIx, outputs: &Outputs) -> bool {
        self.exported_nodes.contains(&node)
            && !self.store.has_sources()
            && outputs
                .values()
                .filter_map(Artifact::blob_digest)
                .any(|digest| !self.store.contains(&digest))
    }
}

/// Bytes of all outputs.
pub(super) fn bytes_of(outputs: &Outputs) -> u64 {
    outputs.values().map(Artifact::size).sum()
}
