//! What a coordinator knows of replicas: a [`Directory`] with the names of hosts and runs, and where their blobs are served.
//!
//! It hears from the pool who comes, goes and brings results, says where inputs may be had, and is asked by the coordinator's own
//! fetcher. Blobs of workers that share the coordinator's store are not kept here: they are there.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use dagrun_model::{
    Artifact, AttemptResult, AttemptSpec, Digest, HostIx, InputSource, LogRef, Outcome,
};
use dagrun_store::Store;
use futures_util::future::BoxFuture;
use rustc_hash::FxHashMap;

use super::{
    BlobService, Directory, Extras, HostNumber, Peer, Peers, Places, RunNumber, Whereabouts,
    WriteLimits, hints::find_among, lock, take_blobs,
};
use crate::{
    message::{Ended, Identity, Incarnation},
    pool::Witness,
};

/// Blobs that are remembered: 400 MB at most.
const REMEMBERED: usize = 4_000_000;
/// Holders that are named to a worker.
const NAMED: usize = 3;

/// See the module. A clone is the same.
#[derive(Clone)]
pub struct Replicas {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    /// The host of the coordinator's own store.
    own: String,
    peers: Peers,
    known: Mutex<Known>,
}

struct Known {
    directory: Directory,
    hosts: BTreeMap<HostNumber, Host>,
    runs: FxHashMap<Arc<str>, RunNumber>,
    next_run: RunNumber,
}

/// A host with workers.
struct Host {
    id: String,
    /// Its workers, and where they serve blobs.
    workers: Vec<(Incarnation, Option<Peer>)>,
}

impl std::fmt::Debug for Replicas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let blobs = lock(&self.inner.known).directory.len();
        f.debug_struct("Replicas").field("blobs", &blobs).finish()
    }
}

impl Replicas {
    /// Knows nothing yet. `own` is the id of the coordinator's own host, as its workers would say it.
    pub fn new(store: Store, own: String, peers: Peers) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                own,
                peers,
                known: Mutex::new(Known {
                    directory: Directory::new(REMEMBERED),
                    hosts: BTreeMap::new(),
                    runs: FxHashMap::default(),
                    next_run: 1,
                }),
            }),
        }
    }

    /// The coordinator's service: reads, writes, where blobs are, and blobs of hosts that others cannot reach.
    pub fn service(&self, extras: Extras, limits: WriteLimits) -> BlobService {
        BlobService::new(self.inner.store.clone())
            .with_extras(extras)
            .with_writes(limits)
            .with_places(Arc::new(self.clone()))
            .with_relay()
    }

    /// Puts what rode along with a result into the coordinator's store.
    fn keep(&self, ended: &Ended) {
        let store = &self.inner.store;
        let lacking = ended
            .extra
            .blobs
            .iter()
            .filter(|(digest, _)| !store.contains(digest));
        let blobs = lacking.map(|(digest, bytes)| (digest, &bytes[..]));
        if let Err(error) = take_blobs(store, blobs) {
            // The worker has them still.
            tracing::warn!("cannot keep small blobs of a result: {error}");
        }
    }
}

impl Known {
    fn run(&mut self, id: &Arc<str>) -> RunNumber {
        if let Some(number) = self.runs.get(id) {
            return *number;
        }
        let number = self.next_run;
        self.next_run = self.next_run.wrapping_add(1);
        self.runs.insert(id.clone(), number);
        self.directory.run_began(number);
        number
    }

    /// One address of each host that serves blobs, in the order of the hosts.
    fn addresses(&self, hosts: &[HostNumber]) -> Vec<Peer> {
        let hosts = hosts.iter().filter_map(|host| self.hosts.get(host));
        hosts.filter_map(Host::address).collect()
    }
}

impl Host {
    fn address(&self) -> Option<Peer> {
        self.workers.iter().find_map(|(_, address)| address.clone())
    }
}

/// Hosts beyond what the directory can number are not known to have anything.
fn number(host: HostIx) -> Option<HostNumber> {
    HostNumber::try_from(host.0)
        .ok()
        .filter(|host| *host < HostNumber::MAX)
}

impl Witness for Replicas {
    fn joined(&self, host: HostIx, worker: &Identity) {
        let Some(host) = number(host) else { return };
        let address = Some(worker.blobs.as_str()).filter(|address| !address.is_empty());
        let mut known = lock(&self.inner.known);
        let row = known.hosts.entry(host).or_insert_with(|| Host {
            id: worker.host.clone(),
            workers: Vec::new(),
        });
        row.workers
            .push((worker.incarnation, address.map(Peer::from)));
    }

    fn gone(&self, host: HostIx, worker: &Identity) {
        let Some(host) = number(host) else { return };
        let mut known = lock(&self.inner.known);
        let Some(row) = known.hosts.get_mut(&host) else {
            return;
        };
        row.workers
            .retain(|(incarnation, _)| *incarnation != worker.incarnation);
        if row.workers.is_empty() {
            known.hosts.remove(&host);
            known.directory.host_lost(host);
        }
        self.inner.peers.forget(&worker.blobs);
    }

    fn landed(&self, host: HostIx, ended: &Ended) {
        let Some(host) = number(host) else { return };
        {
            let mut known = lock(&self.inner.known);
            if known
                .hosts
                .get(&host)
                .is_none_or(|row| row.id == self.inner.own)
            {
                return;
            }
            let run = known.run(&ended.attempt.run);
            for (digest, size) in named(&ended.result) {
                known.directory.add(host, digest, size, run);
            }
            for digest in &ended.extra.fetched {
                known.directory.add(host, *digest, 0, run);
            }
        }
        self.keep(ended);
    }

    fn holds(&self, digest: &Digest) -> bool {
        lock(&self.inner.known).directory.has(digest)
    }

    fn forgot(&self, forgot: bool) {
        lock(&self.inner.known).directory.set_forgot(forgot);
    }

    fn run_ended(&self, run: &str) {
        let mut known = lock(&self.inner.known);
        if let Some(number) = known.runs.remove(run) {
            known.directory.run_ended(number);
        }
    }

    fn sources(
        &self,
        host: HostIx,
        run: &Arc<str>,
        spec: &AttemptSpec,
    ) -> Vec<(Digest, Vec<Peer>)> {
        let mut known = lock(&self.inner.known);
        if known.directory.is_empty() {
            return Vec::new();
        }
        let run = known.run(run);
        let inputs = inputs_of(spec).filter_map(|input| input.blob_digest());
        let inputs: Vec<Digest> = inputs.collect();
        let sources = known.directory.sources(&inputs, number(host), run, NAMED);
        let with_addresses = sources.into_iter().map(|(digest, hosts)| {
            let addresses = known.addresses(&hosts);
            (digest, addresses)
        });
        with_addresses
            .filter(|(_, addresses)| !addresses.is_empty())
            .collect()
    }
}

/// What an attempt reads from stores, workspace files among it.
pub(crate) fn inputs_of(spec: &AttemptSpec) -> impl Iterator<Item = Artifact> {
    spec.action
        .inputs
        .iter()
        .filter_map(|input| match &input.source {
            InputSource::Stored(artifact) => Some(artifact.clone()),
            InputSource::Workspace { blob, .. } => Some(Artifact::File(*blob)),
            InputSource::Text(_) => None,
        })
}

/// The blobs that a result names, and their sizes.
fn named(result: &AttemptResult) -> Vec<(Digest, u64)> {
    let log = |log: &LogRef| (log.blob.digest, log.blob.size);
    let mut named: Vec<_> = [&result.stdout, &result.stderr]
        .into_iter()
        .flatten()
        .map(log)
        .collect();
    if let Outcome::Succeeded(outputs) = &result.outcome {
        let blob = |output: &Artifact| Some((output.blob_digest()?, output.size()));
        named.extend(outputs.values().filter_map(blob));
    }
    named
}

impl Places for Replicas {
    fn sources(&self, digests: &[Digest]) -> Vec<(Digest, Vec<Peer>)> {
        let known = self.known(digests);
        let known = digests.iter().copied().zip(known);
        known.filter(|(_, peers)| !peers.is_empty()).collect()
    }

    fn spare(&self, host: &str, digests: &[Digest], full: bool) -> Vec<Digest> {
        let mut known = lock(&self.inner.known);
        let number = known.hosts.iter().find(|(_, row)| row.id == host);
        match number.map(|(number, _)| *number) {
            Some(number) => known.directory.spare(number, digests, full),
            None => Vec::new(),
        }
    }
}

impl Whereabouts for Replicas {
    fn known(&self, digests: &[Digest]) -> Vec<Vec<Peer>> {
        let known = lock(&self.inner.known);
        let holders = |digest| known.addresses(&known.directory.holders(digest));
        digests.iter().map(holders).collect()
    }

    fn search<'a>(&'a self, digests: &'a [Digest]) -> BoxFuture<'a, Vec<(Digest, Vec<Peer>)>> {
        let everybody: Vec<Peer> = {
            let known = lock(&self.inner.known);
            known.hosts.values().filter_map(Host::address).collect()
        };
        Box::pin(async move {
            let mut found = Vec::new();
            for part in digests.chunks(super::MOST_IN_REQUEST) {
                found.extend(find_among(&self.inner.peers, everybody.clone(), part).await);
            }
            found
        })
    }
}
