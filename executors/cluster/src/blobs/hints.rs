//! Where blobs may be had: what a worker was told, and whom it asks when that is not enough.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use dagrun_model::Digest;
use dagrun_proto::v1::FindBlobs;
use futures_util::future::BoxFuture;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::time::timeout;

use super::{MOST_IN_REQUEST, Peer, Peers, digest_of, wire};

/// Blobs whose hints are kept.
const MOST_HINTS: usize = 200_000;
/// How long a question may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Knows where blobs may be.
pub trait Whereabouts: Send + Sync {
    /// Who is known to have each of these, best first. Quick.
    fn known(&self, digests: &[Digest]) -> Vec<Vec<Peer>>;

    /// Asks around for what nobody who is known could give. Answers within a bound of its own.
    fn search<'a>(&'a self, digests: &'a [Digest]) -> BoxFuture<'a, Vec<(Digest, Vec<Peer>)>>;
}

/// What a worker knows: hints that came with its attempts, and its coordinator for all else.
#[derive(Debug)]
pub struct Hints {
    peers: Peers,
    coordinator: Option<Peer>,
    own: Mutex<FxHashSet<Peer>>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    holders: FxHashMap<Digest, Vec<Peer>>,
    /// In the order in which they came; the oldest are forgotten first.
    order: VecDeque<Digest>,
}

impl Hints {
    /// No hints yet. The coordinator is asked last.
    pub fn new(peers: Peers, coordinator: Option<Peer>) -> Self {
        Self {
            peers,
            coordinator,
            own: Mutex::default(),
            table: Mutex::default(),
        }
    }

    /// Where this worker's own blobs are served: nothing is had from there.
    pub fn set_own(&self, own: Peer) {
        super::lock(&self.own).insert(own);
    }

    /// Takes hints. What was known of these blobs before is forgotten.
    pub fn add(&self, hints: impl IntoIterator<Item = (Digest, Vec<Peer>)>) {
        let mut table = super::lock(&self.table);
        for (digest, holders) in hints {
            if table.holders.insert(digest, holders).is_none() {
                table.order.push_back(digest);
            }
            if table.holders.len() > MOST_HINTS
                && let Some(oldest) = table.order.pop_front()
            {
                table.holders.remove(&oldest);
            }
        }
    }

    async fn ask_coordinator(&self, digests: &[Digest]) -> Vec<(Digest, Vec<Peer>)> {
        let Some(coordinator) = &self.coordinator else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for part in digests.chunks(MOST_IN_REQUEST) {
            match timeout(PATIENCE, find(&self.peers, coordinator, part)).await {
                Ok(Ok(more)) => found.extend(more),
                Ok(Err(why)) => {
                    tracing::debug!("the coordinator does not say where blobs are: {why}")
                }
                Err(_) => tracing::debug!("the coordinator does not say in time where blobs are"),
            }
        }
        found
    }
}

impl Whereabouts for Hints {
    fn known(&self, digests: &[Digest]) -> Vec<Vec<Peer>> {
        let table = super::lock(&self.table);
        let own = super::lock(&self.own);
        let holders = |digest| table.holders.get(digest).cloned().unwrap_or_default();
        let others = digests.iter().map(|digest| {
            let mut holders: Vec<Peer> = holders(digest);
            holders.retain(|holder| !own.contains(holder));
            if holders.is_empty() {
                // It names nobody for what it has itself.
                holders.extend(self.coordinator.clone());
            }
            holders
        });
        others.collect()
    }

    fn search<'a>(&'a self, digests: &'a [Digest]) -> BoxFuture<'a, Vec<(Digest, Vec<Peer>)>> {
        Box::pin(async move {
            let mut found = self.ask_coordinator(digests).await;
            let own = super::lock(&self.own);
            for (_, holders) in &mut found {
                holders.retain(|holder| !own.contains(holder));
            }
            found
        })
    }
}

/// Asks somebody which of these it has, and whom it knows to have others.
pub(crate) async fn find(
    peers: &Peers,
    peer: &Peer,
    digests: &[Digest],
) -> Result<Vec<(Digest, Vec<Peer>)>, String> {
    let known = peers.get(peer)?;
    let request = FindBlobs {
        digests: digests.iter().map(wire).collect(),
    };
    let answer = known.client().find(request).await;
    let answer = answer.map_err(|status| status.to_string())?.into_inner();
    let names: Vec<Peer> = answer
        .peers
        .iter()
        .map(|name| name.as_str().into())
        .collect();
    let bad = |status: tonic::Status| status.to_string();
    let mut found = Vec::with_capacity(answer.digests.len() + answer.sources.len());
    for digest in &answer.digests {
        found.push((digest_of(digest).map_err(bad)?, vec![peer.clone()]));
    }
    for source in &answer.sources {
        let holders = source
            .peers
            .iter()
            .filter_map(|at| names.get(*at as usize).cloned());
        found.push((digest_of(&source.digest).map_err(bad)?, holders.collect()));
    }
    Ok(found)
}

/// Asks several peers which of these they have: what a coordinator does that has just started.
pub(crate) async fn find_among(
    peers: &Peers,
    among: Vec<Peer>,
    digests: &[Digest],
) -> Vec<(Digest, Vec<Peer>)> {
    let questions = among
        .iter()
        .map(|peer| timeout(PATIENCE, find(peers, peer, digests)));
    let answers = futures_util::future::join_all(questions).await;
    let mut holders: FxHashMap<Digest, Vec<Peer>> = FxHashMap::default();
    for (digest, more) in answers.into_iter().flatten().flatten().flatten() {
        holders.entry(digest).or_default().extend(more);
    }
    holders.into_iter().collect()
}
