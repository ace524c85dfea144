//! Eviction by pressure: a worker's store stays within a bound, and gives up nothing that is needed.
//!
//! What queued and running attempts need is guarded by a lease, which is taken anew from time to time, so that what was needed long ago
//! is no longer. Of the rest, what was not used for longest goes, as far as the coordinator allows: it alone knows of which blob this
//! is the last replica, and which runs are live.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use dagrun_model::{Artifact, AttemptId, Digest};
use dagrun_proto::v1::SpareBlobs;
use dagrun_store::{Disk, Excess, Lease, Store, StoreError};
use rustc_hash::FxHashMap;
use tokio::task::spawn_blocking;

use super::{MOST_IN_REQUEST, Peer, Peers, digest_of, lock, wire};

/// How often the store is looked at.
const LOOK: Duration = Duration::from_secs(30);
/// Looks after which the lease is taken anew.
const RENEW: u32 = 10;
/// What is younger was perhaps not yet told to anybody.
const YOUNG: Duration = Duration::from_secs(600);
/// A disk with less than this part of it free is really full.
const FULL: u64 = 50;

/// Inputs of attempts that are queued or run. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Needs {
    table: Arc<Mutex<FxHashMap<AttemptId, Vec<Artifact>>>>,
}

impl Needs {
    /// An attempt has come. Its inputs are guarded by whatever lease there is.
    pub(super) fn add(&self, store: &Store, attempt: AttemptId, inputs: Vec<Artifact>) {
        guard(store, &inputs);
        lock(&self.table).insert(attempt, inputs);
    }

    /// An attempt is over; gives its inputs.
    pub(super) fn remove(&self, attempt: AttemptId) -> Vec<Artifact> {
        lock(&self.table).remove(&attempt).unwrap_or_default()
    }

    fn guard_all(&self, store: &Store) {
        for inputs in lock(&self.table).values() {
            guard(store, inputs);
        }
    }
}

fn guard(store: &Store, artifacts: &[Artifact]) {
    for artifact in artifacts {
        if let Err(error) = store.guard(artifact) {
            tracing::warn!("cannot guard an input: {error}");
        }
    }
}

/// Keeps a store within a bound.
pub(super) struct Evictor {
    store: Store,
    max_bytes: u64,
    needs: Needs,
    /// The host, as its workers say it.
    host: String,
    peers: Peers,
    coordinator: Peer,
    lease: Lease,
}

impl Evictor {
    /// Guards what is used from now on.
    pub(super) fn new(
        store: &Store,
        max_bytes: u64,
        needs: Needs,
        host: String,
        peers: Peers,
        coordinator: Peer,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            lease: store.lease("worker")?,
            store: store.clone(),
            max_bytes,
            needs,
            host,
            peers,
            coordinator,
        })
    }

    /// Looks after the store until its runtime ends.
    pub(super) async fn run(mut self) {
        for look in 1_u32.. {
            tokio::time::sleep(LOOK).await;
            if look.is_multiple_of(RENEW)
                && let Err(error) = self.renew()
            {
                tracing::warn!("cannot take a lease anew: {error}");
            }
            match self.look(YOUNG).await {
                Ok(0) => {}
                Ok(bytes) => {
                    tracing::info!("removed {bytes} bytes of blobs to stay within the bound")
                }
                Err(why) => tracing::warn!("the store is beyond its bound: {why}"),
            }
        }
    }

    /// What was used before and is not needed now may go.
    fn renew(&mut self) -> Result<(), StoreError> {
        let new = self.store.lease("worker")?;
        self.needs.guard_all(&self.store);
        self.lease = new;
        Ok(())
    }

    /// Removes what is too much, as far as may be. Gives the bytes that went.
    async fn look(&self, min_age: Duration) -> Result<u64, String> {
        let (store, max_bytes) = (self.store.clone(), self.max_bytes);
        let excess = spawn_blocking(move || store.excess(max_bytes, min_age)).await;
        let Excess { bytes, candidates } = told(excess)?;
        let mut removed = 0;
        let mut next = candidates.into_iter().peekable();
        while removed < bytes && next.peek().is_some() {
            let mut asked: FxHashMap<Digest, u64> = FxHashMap::default();
            let mut hoped = removed;
            let mut order = Vec::new();
            while let Some((digest, size)) =
                next.next_if(|_| hoped < bytes && order.len() < MOST_IN_REQUEST)
            {
                hoped += size;
                asked.insert(digest, size);
                order.push(digest);
            }
            let spared = self.ask(&order).await?;
            let store = self.store.clone();
            let gone = told(spawn_blocking(move || store.remove_unguarded(&spared)).await)?;
            removed += gone
                .iter()
                .filter_map(|digest| asked.get(digest))
                .sum::<u64>();
        }
        Ok(removed)
    }

    async fn ask(&self, digests: &[Digest]) -> Result<Vec<Digest>, String> {
        let request = SpareBlobs {
            host: self.host.clone(),
            digests: digests.iter().map(wire).collect(),
            full: is_full(&self.store),
        };
        let mut client = self.peers.get(&self.coordinator)?.client();
        let answer = client.spare(request).await;
        let answer = answer.map_err(|status| status.to_string())?.into_inner();
        let spared = answer.digests.iter().map(|digest| digest_of(digest));
        let spared: Result<Vec<Digest>, _> = spared.collect();
        let mut spared = spared.map_err(|status| status.to_string())?;
        // Whatever it says, nothing goes that was not offered.
        spared.retain(|digest| digests.contains(digest));
        Ok(spared)
    }
}

fn told<T>(done: Result<Result<T, StoreError>, tokio::task::JoinError>) -> Result<T, String> {
    let done = done.map_err(|error| error.to_string())?;
    done.map_err(|error| error.to_string())
}

fn is_full(store: &Store) -> bool {
    Disk::of(store.root()).is_ok_and(|disk| disk.free < disk.total / FULL)
}

#[cfg(test)]
mod tests {
    use dagrun_store::StoreOptions;

    use super::*;
    use crate::blobs::{
        BlobService, Places,
        tests::kit::{World, peer},
    };

    /// Spares all but the last replicas.
    struct Coordinator(Vec<Digest>);

    impl Places for Coordinator {
        fn sources(&self, _: &[Digest]) -> Vec<(Digest, Vec<Peer>)> {
            Vec::new()
        }
        fn spare(&self, host: &str, digests: &[Digest], full: bool) -> Vec<Digest> {
            assert_eq!((host, full), ("host", false));
            let mut spared = digests.to_vec();
            spared.retain(|digest| !self.0.contains(digest));
            spared
        }
    }

    #[test]
    fn a_store_gives_up_what_is_too_much_and_nothing_that_is_needed() {
        let world = World::new();
        let store = world.store("worker");
        let blobs: Vec<_> = (0..10_u8)
            .map(|n| store.put_bytes(&[n; 1000]).unwrap())
            .collect();
        let needs = Needs::default();
        let central = Store::open(&world.path().join("central"), StoreOptions::default()).unwrap();
        let last = vec![blobs[0].digest, blobs[5].digest];
        let places = Arc::new(Coordinator(last.clone()));
        let coordinator = peer(world.serve(BlobService::new(central).with_places(places)));
        let peers = world.peers(Some(coordinator.clone()));
        let mut evictor = Evictor::new(
            &store,
            4000,
            needs.clone(),
            "host".into(),
            peers,
            coordinator,
        )
        .unwrap();
        needs.add(&store, AttemptId(1), vec![Artifact::File(blobs[2])]);
        let there = || -> Vec<usize> {
            (0..10)
                .filter(|n| store.contains(&blobs[*n].digest))
                .collect()
        };
        let look = |evictor: &Evictor| {
            let looked = evictor.look(Duration::ZERO);
            world.runtime.block_on(looked).unwrap()
        };
        let removed = look(&evictor);
        assert_eq!((removed, there().len()), (6000, 4));
        assert!([0, 2, 5].iter().all(|n| there().contains(n)));

        // What its attempt does not need any more goes after the lease was taken anew, and not before.
        evictor.max_bytes = 0;
        let removed = look(&evictor);
        assert_eq!((removed, there()), (1000, vec![0, 2, 5]));
        evictor.renew().unwrap();
        assert_eq!(look(&evictor), 0);
        assert_eq!(needs.remove(AttemptId(1)), [Artifact::File(blobs[2])]);
        evictor.renew().unwrap();
        assert_eq!(look(&evictor), 1000);
        assert_eq!(there(), [0, 5]);
    }
}
