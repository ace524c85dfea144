//! Workspace inputs of a run, put into the coordinator's store when they are first needed.
//!
//! A thread does it, so that the driver never waits for a copy; attempts that need nothing new pass by.

use std::{
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
};

use dagrun_model::{
    AttemptId, AttemptSpec, BlobRef, Digest, FailureCause, InputSource, Outcome, WorkerIx,
};
use dagrun_store::{PutMode, Store};
use rustc_hash::{FxHashMap, FxHashSet};

/// What becomes of an attempt whose inputs were looked after.
pub(super) enum Ready {
    /// They are in the store.
    Submit(WorkerIx, AttemptSpec),
    /// It need not begin.
    End(AttemptId, Outcome),
}

/// An attempt for a worker.
type Given = (WorkerIx, AttemptSpec);

/// Brings workspace files into a store.
pub(super) struct Inputs {
    shared: std::sync::Arc<Shared>,
    thread: Mutex<Option<(Sender<Given>, JoinHandle<()>)>>,
}

struct Shared {
    project: PathBuf,
    store: Store,
    there: Mutex<FxHashSet<Digest>>,
    /// Attempts on their way through the thread, and whether they were cancelled meanwhile.
    pending: Mutex<FxHashMap<AttemptId, bool>>,
    ready: Box<dyn Fn(Ready) + Send + Sync>,
}

impl Inputs {
    /// `ready` hears of each attempt that was given to [`Inputs::provide`], with the lock of those on their way held.
    pub(super) fn new(
        project: PathBuf,
        store: Store,
        ready: Box<dyn Fn(Ready) + Send + Sync>,
    ) -> Self {
        Self {
            shared: std::sync::Arc::new(Shared {
                project,
                store,
                there: Mutex::default(),
                pending: Mutex::default(),
                ready,
            }),
            thread: Mutex::default(),
        }
    }

    /// Whether nothing has to be done for an attempt.
    pub(super) fn are_there(&self, spec: &AttemptSpec) -> bool {
        let there = lock(&self.shared.there);
        workspace(spec).all(|(_, blob)| there.contains(&blob.digest))
    }

    /// Looks after attempts in their order.
    pub(super) fn provide(&self, worker: WorkerIx, specs: Vec<AttemptSpec>) {
        let mut thread = lock(&self.thread);
        let (sender, _) = thread.get_or_insert_with(|| start(self.shared.clone()));
        for spec in specs {
            lock(&self.shared.pending).insert(spec.attempt, false);
            // It ends only when the sender is dropped.
            let _ = sender.send((worker, spec));
        }
    }

    /// Cancels those of these attempts that are on their way here, and gives the others to `rest` before any of them goes on.
    pub(super) fn cancel(&self, attempts: &[AttemptId], rest: impl FnOnce(Vec<AttemptId>)) {
        let mut pending = lock(&self.shared.pending);
        let mut others = attempts.to_vec();
        others.retain(|id| match pending.get_mut(id) {
            Some(cancelled) => {
                *cancelled = true;
                false
            }
            None => true,
        });
        if !others.is_empty() {
            rest(others);
        }
    }

    /// Cancels what is on its way, and waits until that was told.
    pub(super) fn close(&self) {
        for cancelled in lock(&self.shared.pending).values_mut() {
            *cancelled = true;
        }
        if let Some((sender, thread)) = lock(&self.thread).take() {
            drop(sender);
            if thread.join().is_err() {
                tracing::error!("the thread that stores inputs panicked");
            }
        }
    }
}

fn start(shared: std::sync::Arc<Shared>) -> (Sender<Given>, JoinHandle<()>) {
    let (sender, specs) = channel();
    let thread = std::thread::Builder::new()
        .name("dagrun-inputs".into())
        .spawn(move || shared.work(&specs))
        .expect("a thread for inputs can be started");
    (sender, thread)
}

impl Shared {
    fn work(&self, specs: &Receiver<Given>) {
        while let Ok((worker, spec)) = specs.recv() {
            let cancelled = lock(&self.pending).get(&spec.attempt) == Some(&true);
            let stored = if cancelled {
                Ok(())
            } else {
                self.store_all(&spec)
            };
            let mut pending = lock(&self.pending);
            let cancelled = pending.remove(&spec.attempt) == Some(true);
            let end = |outcome| Ready::End(spec.attempt, outcome);
            // Still under the lock: a cancel that comes now has to come after it.
            (self.ready)(match stored {
                _ if cancelled => end(Outcome::Cancelled),
                Err(cause) => end(Outcome::Failed(cause)),
                Ok(()) => Ready::Submit(worker, spec),
            });
        }
    }

    fn store_all(&self, spec: &AttemptSpec) -> Result<(), FailureCause> {
        for (path, blob) in workspace(spec) {
            if lock(&self.there).contains(&blob.digest) {
                continue;
            }
            if !self.store.contains(&blob.digest) {
                self.store_one(path, blob)?;
            }
            lock(&self.there).insert(blob.digest);
        }
        Ok(())
    }

    fn store_one(&self, path: &str, blob: &BlobRef) -> Result<(), FailureCause> {
        let changed = || FailureCause::InputChanged { path: path.into() };
        // An external input may be a link; what it leads to was hashed.
        let full = self.project.join(path);
        let full = full.canonicalize().map_err(|_| changed())?;
        match self.store.put_file(&full, PutMode::Copy) {
            Ok(stored) if stored == *blob => Ok(()),
            Ok(_) => Err(changed()),
            // Also where this disk is full: no other worker would help.
            Err(error) => Err(FailureCause::Staging {
                path: path.into(),
                reason: error.to_string(),
                missing_blob: false,
            }),
        }
    }
}

/// Files of the workspace that an attempt reads.
fn workspace(spec: &AttemptSpec) -> impl Iterator<Item = (&str, &BlobRef)> {
    let inputs = spec.action.inputs.iter();
    inputs.filter_map(|input| match &input.source {
        InputSource::Workspace { path, blob } => Some((path.as_str(), blob)),
        _ => None,
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
