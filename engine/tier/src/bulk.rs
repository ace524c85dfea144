//! Everything at once: uploading the whole local cache, fetching the whole shared one, counting it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use dagrun_model::{ActionDigest, Artifact, Digest};
use dagrun_store::{ActionEntry, StoreError};
use futures_util::{StreamExt, stream};

use crate::{SharedCache, cache::Inner, remote::Trouble};

/// Results that are handled at once.
const AT_ONCE: usize = 16;

/// How a whole cache was moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Results that were moved, or were there already.
    pub results: u64,
    /// Results that lack a blob, or do not count.
    pub left: u64,
    /// Whether the shared cache was given up on the way.
    pub cut: bool,
}

/// How far a move is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Results that are done with.
    pub done: u64,
    /// All of them.
    pub all: u64,
}

/// What a shared cache holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedStat {
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Entries of actions, of all signers.
    pub entries: u64,
    /// Those among them whose names say that a trusted key signed them; all where no list is given.
    pub trusted: u64,
}

impl SharedCache {
    /// Uploads every result of the local store that is not there. `progress` is called now and then.
    ///
    /// # Errors
    /// When the local store cannot be read.
    pub fn push(&self, progress: &mut dyn FnMut(Step)) -> Result<Moved, StoreError> {
        let mut all: Vec<ActionDigest> = Vec::new();
        self.inner.store.each_entry(&mut |action, _| {
            all.push(action);
            Ok(())
        })?;
        Ok(self.each(all, progress, |inner, action| async move {
            let store = inner.store.clone();
            let found = tokio::task::spawn_blocking(move || store.lookup(&[action])).await;
            let entry = found.ok().and_then(Result::ok).and_then(|mut f| f.pop());
            match entry.flatten() {
                Some(entry) => inner.upload(&action, &entry).await,
                None => Ok(false),
            }
        }))
    }

    /// Brings every result of the shared cache into the local store; with `blobs`, all their bytes too.
    pub fn pull(&self, blobs: bool, progress: &mut dyn FnMut(Step)) -> Moved {
        let inner = Arc::clone(&self.inner);
        let listed = self.block_on(async move { inner.actions().await });
        let Some(Ok(all)) = listed else {
            return Moved {
                cut: true,
                ..Moved::default()
            };
        };
        self.each(all, progress, move |inner, action| async move {
            let entry = match inner.remote.find(&action).await {
                Ok(found) => found.entry,
                Err(Trouble::Unavailable) => return Err(Trouble::Unavailable),
                Err(_) => return Ok(false),
            };
            let whole = !blobs || inner.fetch_entry(&entry).await;
            inner.keep(vec![(action, entry)]).await;
            Ok(whole)
        })
    }

    /// Counts what is there. `None` where it does not answer.
    pub fn stat(&self) -> Option<SharedStat> {
        let inner = Arc::clone(&self.inner);
        self.block_on(async move { inner.stat().await })?.ok()
    }

    fn each<F>(
        &self,
        actions: Vec<ActionDigest>,
        progress: &mut dyn FnMut(Step),
        act: impl Fn(Arc<Inner>, ActionDigest) -> F + Send + 'static,
    ) -> Moved
    where
        F: Future<Output = Result<bool, Trouble>> + Send + 'static,
    {
        let all = actions.len() as u64;
        let (sender, receiver) = std::sync::mpsc::channel();
        let inner = Arc::clone(&self.inner);
        self.handle().spawn(async move {
            let here = Arc::clone(&inner);
            let mut results = stream::iter(actions)
                .map(move |action| act(Arc::clone(&inner), action))
                .buffer_unordered(AT_ONCE);
            while let Some(result) = results.next().await {
                let failed = result.is_err() && here.remote.takes_nothing();
                if sender.send(result).is_err() || failed {
                    return;
                }
            }
        });
        let mut moved = Moved::default();
        for result in receiver {
            match result {
                Ok(true) => moved.results += 1,
                Ok(false) | Err(_) => moved.left += 1,
            }
            let done = moved.results + moved.left;
            progress(Step { done, all });
        }
        moved.cut = moved.results + moved.left < all;
        moved
    }
}

impl Inner {
    /// All actions that the shared cache has an entry of.
    async fn actions(&self) -> Result<Vec<ActionDigest>, Trouble> {
        let mut actions = Vec::new();
        let each = &mut |meta: object_store::ObjectMeta| {
            actions.extend(
                self.remote
                    .digest_of("actions", &meta.location)
                    .map(|(action, _)| action),
            );
        };
        self.remote.list("actions", each).await?;
        actions.sort_unstable();
        actions.dedup();
        Ok(actions)
    }

    /// Fetches all blobs of an entry. Says whether all were to be had.
    async fn fetch_entry(self: &Arc<Self>, entry: &ActionEntry) -> bool {
        let logs = [&entry.stdout, &entry.stderr];
        let logs = logs
            .into_iter()
            .flatten()
            .map(|log| Artifact::File(log.blob));
        let artifacts: Vec<Artifact> = entry.outputs.values().cloned().chain(logs).collect();
        self.fetch_artifacts(&artifacts).await;
        let mut blobs: Vec<Digest> = artifacts.iter().filter_map(Artifact::blob_digest).collect();
        for artifact in &artifacts {
            if let Artifact::Tree { digest, .. } = artifact {
                blobs.extend(self.files_of(*digest).await.iter().map(|b| b.digest));
            }
        }
        blobs.iter().all(|digest| self.store.contains(digest))
    }

    async fn stat(&self) -> Result<SharedStat, Trouble> {
        let mut stat = SharedStat::default();
        self.remote
            .list("blobs", &mut |meta| {
                stat.blobs += 1;
                stat.bytes += meta.size;
            })
            .await?;
        let trusted: Vec<String> = self.remote.trust.iter().map(|k| k.file_name()).collect();
        let (entries, counted) = (AtomicU64::new(0), AtomicU64::new(0));
        self.remote
            .list("actions", &mut |meta| {
                entries.fetch_add(1, Ordering::Relaxed);
                let name = meta.location.filename().unwrap_or_default();
                if trusted.is_empty() || trusted.iter().any(|key| key == name) {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            })
            .await?;
        stat.entries = entries.into_inner();
        stat.trusted = counted.into_inner();
        Ok(stat)
    }
}
