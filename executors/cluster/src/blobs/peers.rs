//! Connections to others who serve blobs: one each, kept, and left alone for a while after it failed.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use dagrun_proto::v1::blobs_client::BlobsClient;
use rustc_hash::FxHashMap;
use tokio::sync::Semaphore;

use super::jitter;
use crate::security::{Channel, Connector, Expect};

/// Where blobs are served: `HOST:PORT` or `unix:PATH`.
pub type Peer = Arc<str>;

/// Streams from one peer at once.
const STREAMS: usize = 4;
/// After a failure a peer is left alone for this long, and twice as long after each that follows.
const FIRST_REST: Duration = Duration::from_millis(50);
const LONGEST_REST: Duration = Duration::from_secs(5);

/// All peers that were spoken to. A clone is the same.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    connector: Connector,
    coordinator: Option<Peer>,
    known: Mutex<FxHashMap<Peer, Arc<Known>>>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").finish_non_exhaustive()
    }
}

/// A peer as it was found.
pub(crate) struct Known {
    channel: Mutex<Channel>,
    pub(crate) streams: Semaphore,
    health: Mutex<Health>,
}

#[derive(Default)]
struct Health {
    failures: u32,
    rests_until: Option<Instant>,
    wrong: u64,
}

impl Peers {
    /// No peers yet. All but the coordinator are expected to be workers.
    pub fn new(connector: Connector, coordinator: Option<Peer>) -> Self {
        Self {
            inner: Arc::new(Inner {
                connector,
                coordinator,
                known: Mutex::default(),
            }),
        }
    }

    pub(crate) fn get(&self, peer: &Peer) -> Result<Arc<Known>, String> {
        let mut known = super::lock(&self.inner.known);
        if let Some(there) = known.get(peer) {
            return Ok(there.clone());
        }
        let new = Arc::new(Known {
            channel: Mutex::new(self.channel(peer)?),
            streams: Semaphore::new(STREAMS),
            health: Mutex::default(),
        });
        known.insert(peer.clone(), new.clone());
        Ok(new)
    }

    /// A channel that connects when it is used.
    fn channel(&self, peer: &Peer) -> Result<Channel, String> {
        let expect = match &self.inner.coordinator {
            Some(coordinator) if coordinator == peer => Expect::Coordinator,
            _ => Expect::Worker,
        };
        let address = peer.parse().map_err(|error| format!("{error}"))?;
        let channel = self.inner.connector.lazy(&address, expect);
        channel.map_err(|error| error.to_string())
    }

    /// Peers that are not used any more lose their connections.
    pub fn forget(&self, peer: &str) {
        super::lock(&self.inner.known).remove(peer);
    }

    /// A connection on which nothing comes is left for a new one.
    pub(crate) fn renew(&self, peer: &Peer, known: &Known) {
        if let Ok(channel) = self.channel(peer) {
            *super::lock(&known.channel) = channel;
        }
    }

    /// When a peer may be asked again after it failed; `None` where it has not.
    pub(crate) fn rests_until(&self, peer: &Peer) -> Option<Instant> {
        let known = super::lock(&self.inner.known).get(peer)?.clone();
        let until = super::lock(&known.health).rests_until;
        until.filter(|until| *until > Instant::now())
    }
}

impl Known {
    pub(crate) fn client(&self) -> BlobsClient<Channel> {
        BlobsClient::new(super::lock(&self.channel).clone())
    }

    /// It did what it was asked.
    pub(crate) fn was_good(&self) {
        let mut health = super::lock(&self.health);
        health.failures = 0;
        health.rests_until = None;
    }

    /// It could not be reached, broke off or stalled; perhaps after it had sent something.
    pub(crate) fn failed(&self, made_progress: bool) {
        let mut health = super::lock(&self.health);
        if made_progress {
            health.failures = 0;
        }
        let rest = FIRST_REST * 2_u32.pow(health.failures.min(10));
        health.failures += 1;
        health.rests_until = Some(Instant::now() + jitter(rest.min(LONGEST_REST)));
    }

    /// It sent wrong bytes; gives how often it has.
    pub(crate) fn was_wrong(&self) -> u64 {
        let mut health = super::lock(&self.health);
        health.wrong += 1;
        health.wrong
    }
}
