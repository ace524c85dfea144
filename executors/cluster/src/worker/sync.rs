//! Makes the blobs of results durable before the coordinator hears of them: a thread, since syncing blocks.
//!
//! What comes while one sync is under way is synced together with the next.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
};

use dagrun_model::{AttemptId, AttemptResult, FailureCause, LogRef, Outcome, Outputs};
use dagrun_store::{Store, StoreError};
use tokio::sync::mpsc::UnboundedSender;

use crate::{blobs::WorkerBlobs, message::Extra};

/// Results of attempts, with what goes along with them.
pub(super) type Results = Vec<(AttemptId, AttemptResult, Extra)>;

/// Whether a result counts only once its blobs are durable.
pub(super) fn has_blobs(result: &AttemptResult) -> bool {
    let Outcome::Succeeded(outputs) = &result.outcome else {
        return false;
    };
    let mut blobs = outputs.values().filter_map(|output| output.blob_digest());
    blobs.next().is_some() || result.stdout.is_some() || result.stderr.is_some()
}

/// The thread. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Syncer {
    results: Sender<Results>,
}

impl Syncer {
    pub(super) fn start(
        store: Store,
        blobs: Option<Arc<WorkerBlobs>>,
        done: UnboundedSender<Results>,
    ) -> io::Result<Self> {
        let (results, waiting) = channel();
        std::thread::Builder::new()
            .name("dagrun-sync".into())
            .spawn(move || work(&store, blobs.as_deref(), &waiting, &done))?;
        Ok(Self { results })
    }

    /// Gives results back when they are durable, or have failed because they cannot be.
    pub(super) fn sync(&self, results: Results) {
        // The thread ends only after this.
        let _ = self.results.send(results);
    }
}

fn work(
    store: &Store,
    blobs: Option<&WorkerBlobs>,
    waiting: &Receiver<Results>,
    done: &UnboundedSender<Results>,
) {
    while let Ok(mut results) = waiting.recv() {
        results.extend(waiting.try_iter().flatten());
        sync_all(store, &mut results);
        if let Some(blobs) = blobs {
            for (id, result, extra) in &mut results {
                *extra = blobs.extra(*id, result);
            }
        }
        if done.send(results).is_err() {
            return;
        }
    }
}

/// Syncs all at once, and each by itself where that fails: one bad result spoils no other.
fn sync_all(store: &Store, results: &mut Results) {
    if results.len() > 1 {
        let (outputs, logs) = together(results);
        if store.sync_outputs(&outputs, &logs).is_ok() {
            return;
        }
    }
    for (_, result, _) in results {
        if let Err(error) = sync_one(store, result) {
            result.outcome = Outcome::Failed(failure(&error));
        }
    }
}

fn together(results: &Results) -> (Outputs, Vec<&LogRef>) {
    let mut outputs = Outputs::new();
    let mut logs = Vec::new();
    for (id, result, _) in results {
        if let Outcome::Succeeded(own) = &result.outcome {
            let own = own
                .iter()
                .map(|(name, output)| (format!("{id}/{name}"), output.clone()));
            outputs.extend(own);
        }
        logs.extend(logs_of(result));
    }
    (outputs, logs)
}

fn sync_one(store: &Store, result: &AttemptResult) -> Result<(), StoreError> {
    match &result.outcome {
        Outcome::Succeeded(outputs) => store.sync_outputs(outputs, &logs_of(result)),
        _ => Ok(()),
    }
}

fn logs_of(result: &AttemptResult) -> Vec<&LogRef> {
    [&result.stdout, &result.stderr]
        .into_iter()
        .flatten()
        .collect()
}

fn failure(error: &StoreError) -> FailureCause {
    match error {
        StoreError::DiskFull { path, .. } => FailureCause::DiskFull {
            path: path.display().to_string(),
        },
        error => FailureCause::Engine {
            message: format!("the result cannot be made durable: {error}"),
        },
    }
}
