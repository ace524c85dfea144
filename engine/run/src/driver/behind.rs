//! What lies behind the local store: asked without waiting, told what was made.
//!
//! Look-ups that the local store cannot answer go to the tier in pieces; when a piece is done, its nodes are looked up again,
//! locally. So the loop never waits for a network, and a tier that is down makes misses.

use std::{ops::Range, sync::Arc};

use dagrun_model::{ActionDigest, Artifact, NodeIx};
use dagrun_store::Tier;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::Driver;

/// Actions that are asked for together: the first answers should not wait for the last.
const PIECE: usize = 256;

/// What may still be asked of the tier about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum May {
    /// Nothing: what is not here by now is a miss.
    Nothing,
    /// The bytes of a result that is to be exported.
    Fetch,
    /// Its entry, too.
    Find,
}

/// The tier and what it was asked.
pub(super) struct Behind {
    tier: Option<Arc<dyn Tier>>,
    done: UnboundedSender<u64>,
    words: UnboundedReceiver<u64>,
    next: u64,
    /// The nodes of each question, and what may be asked next.
    asked: FxHashMap<u64, (Vec<NodeIx>, May)>,
    /// Results that are being committed and go there afterwards.
    made: FxHashMap<NodeIx, ActionDigest>,
}

impl Behind {
    pub(super) fn new(tier: Option<Arc<dyn Tier>>) -> Self {
        let (done, words) = unbounded_channel();
        Self {
            tier,
            done,
            words,
            next: 0,
            asked: FxHashMap::default(),
            made: FxHashMap::default(),
        }
    }

    /// What a look-up may ask first.
    pub(super) fn first(&self) -> May {
        match self.tier {
            Some(_) => May::Find,
            None => May::Nothing,
        }
    }

    /// Asks for the entries of actions that the local store does not have.
    pub(super) fn find(&mut self, nodes: &[(NodeIx, ActionDigest)]) {
        let Some(tier) = self.tier.clone() else {
            return;
        };
        for piece in nodes.chunks(PIECE) {
            let (nodes, actions) = piece.iter().copied().unzip();
            let done = self.ask(nodes, May::Fetch);
            tier.find(actions, done);
        }
    }

    /// Asks for the bytes of results.
    pub(super) fn fetch(&mut self, nodes: Vec<NodeIx>, artifacts: Vec<Artifact>) {
        if let Some(tier) = self.tier.clone().filter(|_| !nodes.is_empty()) {
            let done = self.ask(nodes, May::Nothing);
            tier.fetch(artifacts, done);
        }
    }

    fn ask(&mut self, nodes: Vec<NodeIx>, next: May) -> dagrun_store::Done {
        let ticket = self.next;
        self.next += 1;
        self.asked.insert(ticket, (nodes, next));
        let sender = self.done.clone();
        Box::new(move || {
            // The run may be over.
            let _ = sender.send(ticket);
        })
    }

    /// Waits for the next question that is done with.
    pub(super) async fn word(&mut self) -> u64 {
        match self.words.recv().await {
            Some(ticket) => ticket,
            None => std::future::pending().await,
        }
    }

    /// Whether a question about one of these nodes is open.
    pub(super) fn is_asked_about(&self, nodes: &Range<u32>) -> bool {
        let mut open = self.asked.values().flat_map(|(nodes, _)| nodes);
        open.any(|node| nodes.contains(&node.0))
    }

    /// Forgets all questions: nobody waits for their answers any more.
    pub(super) fn forget(&mut self) {
        self.asked.clear();
    }

    /// A result is about to be committed.
    pub(super) fn will_commit(&mut self, node: NodeIx, action: ActionDigest) {
        if self.tier.as_ref().is_some_and(|tier| tier.takes_results()) {
            self.made.insert(node, action);
        }
    }

    /// Results are durable here: they may go there.
    pub(super) fn committed(&mut self, nodes: impl Iterator<Item = NodeIx>) {
        let Some(tier) = self.tier.as_ref().filter(|_| !self.made.is_empty()) else {
            return;
        };
        let actions: Vec<_> = nodes.filter_map(|node| self.made.remove(&node)).collect();
        if !actions.is_empty() {
            tier.offer(actions);
        }
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        let tier = self.tier.as_ref();
        tier.map_or_else(Vec::new, |tier| tier.take_warnings())
    }
}

impl Driver<'_> {
    /// Looks up again what the tier was asked about.
    pub(super) fn take_word(&mut self, ticket: u64) {
        if let Some((nodes, may)) = self.behind.asked.remove(&ticket) {
            self.look_up_again(nodes, may);
        }
    }

    /// Takes what else the tier has said.
    pub(super) fn take_words(&mut self) {
        while let Ok(ticket) = self.behind.words.try_recv() {
            self.take_word(ticket);
        }
    }
}
