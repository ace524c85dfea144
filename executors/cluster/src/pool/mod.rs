//! The coordinator's side: the workers that there are, and the attempts of all runs on them.
//!
//! Owns: [`Core`], the state machine that decides; the `Workers` service that carries its words; [`Pool`], which runs both on
//! a thread of its own; and [`RunExecutor`], which the driver of a run sees. Knows nothing of plans, schedules or journals.

mod actor;
mod core;
mod executor;
mod inputs;
mod service;

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use dagrun_model::{AttemptSpec, Digest, HostIx, WorkerIx};
use dagrun_proto::v1::workers_server::WorkersServer;
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};

use crate::{
    message::{Ended, Identity},
    net::Routes,
    security::{Bound, MESSAGE},
};
use actor::Watcher;
use service::Service;

#[cfg(all(test, tokio_unstable))]
pub(crate) use actor::OpenRun;
pub(crate) use actor::{Actor, Input};

pub use self::{
    core::{
        Config, ConnIx, Core, Effect, Event, KEPT_LOSSES, LostWorker, News, PoolStatus, RunIx,
        WorkerStatus,
    },
    executor::{RunExecutor, RunOptions},
};

/// Messages of workers that wait to be looked at; beyond them workers wait.
const INBOX: usize = 4096;
/// How long a shutdown waits for workers to go.
const GOODBYE: Duration = Duration::from_secs(10);

/// Somebody who wants to know which blobs are where.
pub trait Witness: Send + Sync {
    /// A worker is there; its blobs are served at an address, if they are.
    fn joined(&self, host: HostIx, worker: &Identity);
    /// A worker is gone.
    fn gone(&self, host: HostIx, worker: &Identity);
    /// An attempt ended on a host: its blobs, and those fetched for it, are there. Told before the run hears of it.
    fn landed(&self, host: HostIx, ended: &Ended);
    /// Where a host may have the inputs of an attempt of a run from. Asked when the attempt is sent there.
    fn sources(
        &self,
        host: HostIx,
        run: &Arc<str>,
        spec: &AttemptSpec,
    ) -> Vec<(Digest, Vec<Arc<str>>)>;
    /// Whether a blob is durable on a host; for a tree, with all its files.
    fn holds(&self, digest: &Digest) -> bool;
    /// Whether live runs may need blobs of which nothing was told: they began with an earlier coordinator.
    fn forgot(&self, forgot: bool);
    /// A run is over.
    fn run_ended(&self, run: &str);
}

/// A coordinator's workers. Dropping it closes all connections and ends its thread.
#[derive(Debug)]
pub struct Pool {
    shared: Shared,
    runtime: Handle,
    /// Dropped to end the thread.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What handles to a pool have in common.
#[derive(Clone)]
struct Shared {
    witness: Option<Arc<dyn Witness>>,
    inbox: mpsc::UnboundedSender<Input>,
    next_run: Arc<AtomicU32>,
    workers: watch::Receiver<usize>,
    /// Workers outlive it.
    adopts: bool,
    lease: Duration,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Pool {
    /// Starts the pool's thread.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be started.
    pub fn start(config: Config, witness: Option<Arc<dyn Witness>>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let (inbox, commands) = mpsc::unbounded_channel();
        let (count, workers) = watch::channel(0);
        let (adopts, lease) = (config.adopts.is_some(), config.lease);
        let (stop, mut stopped) = mpsc::channel::<()>(1);
        let actor = Actor::new(config, witness.clone(), count, commands);
        let thread = std::thread::Builder::new()
            .name("dagrun-pool".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = actor.run() => {}
                        _ = stopped.recv() => {}
                    }
                });
                // Blocking work of services is not waited for.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            shared: Shared {
                witness,
                inbox,
                next_run: Arc::default(),
                workers,
                adopts,
                lease,
            },
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Takes connections from a socket, for workers and for the given other services.
    pub fn serve(&self, bound: Bound, others: Routes) {
        let workers = workers_service(&self.shared.inbox, next_listener() << 32);
        let routes = others.add_service(workers);
        self.runtime.spawn(crate::net::serve(bound, routes));
    }

    /// An executor for a run, by which it sees all workers.
    pub fn executor(&self, mut options: RunOptions) -> Arc<RunExecutor> {
        if !self.shared.adopts {
            options.resumes.clear();
        }
        let run = RunIx(self.shared.next_run.fetch_add(1, Ordering::Relaxed));
        let Shared {
            inbox,
            witness,
            lease,
            ..
        } = self.shared.clone();
        Arc::new(RunExecutor::new(run, options, inbox, witness, lease))
    }

    /// The runtime of the pool, for services that go with it. It has one thread: nothing on it may block.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        *self.shared.workers.borrow()
    }

    /// How all workers are. Nothing where the pool is gone.
    pub fn status(&self) -> PoolStatus {
        let (asker, answer) = std::sync::mpsc::channel();
        let _ = self.shared.inbox.send(Input::Status(asker));
        answer.recv().unwrap_or_default()
    }

    /// Lets a worker finish or hand back what it has, and leave. Those that are not there are ignored.
    pub fn drain(&self, worker: WorkerIx, why: &str) {
        let drain = Event::Drain(worker, why.to_owned());
        let _ = self.shared.inbox.send(Input::Event(drain));
    }

    /// Calls back for whatever happens to workers, on the pool's thread: it must not block for long.
    pub fn watch(&self, watcher: impl Fn(&News) + Send + 'static) {
        let watcher = Watcher(Box::new(watcher));
        let _ = self.shared.inbox.send(Input::Watch(watcher));
    }

    /// Ends all connections and starts nothing more. What workers have goes on: they look for the next coordinator.
    pub fn close(&self) {
        let (done, is_done) = std::sync::mpsc::channel();
        if self.shared.inbox.send(Input::Close(done)).is_ok() {
            let _ = is_done.recv();
        }
    }

    /// Tells all workers to go, and waits a while until they have.
    pub fn dismiss(&self, why: &str) {
        let _ = self
            .shared
            .inbox
            .send(Input::Event(Event::Dismiss(why.to_owned())));
        let mut workers = self.shared.workers.clone();
        let gone = async move {
            let none = workers.wait_for(|workers| *workers == 0);
            let _ = tokio::time::timeout(GOODBYE, none).await;
        };
        let (done, is_done) = std::sync::mpsc::channel();
        self.runtime.spawn(async move {
            gone.await;
            let _ = done.send(());
        });
        let _ = is_done.recv();
    }
}

/// The service by which workers reach the pool. Connections are numbered from `first`.
pub(crate) fn workers_service(
    inbox: &mpsc::UnboundedSender<Input>,
    first: u64,
) -> WorkersServer<Service> {
    let (words, heard) = mpsc::channel(INBOX);
    // The actor hears of the channel before anything comes through it.
    let _ = inbox.send(Input::Listen(heard));
    WorkersServer::new(Service::new(words, first))
        .max_decoding_message_size(MESSAGE)
        .max_encoding_message_size(MESSAGE)
}

/// Connections of different listeners have different numbers.
fn next_listener() -> u64 {
    static LISTENERS: AtomicU64 = AtomicU64::new(1);
    LISTENERS.fetch_add(1, Ordering::Relaxed)
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(self.stop.take());
        // The services that it carries may be the last who hold it: then its own thread drops it, and ends.
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the pool panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_may_be_dropped_by_what_it_carries() {
        let pool = Pool::start(Config::new("1", 1), None).unwrap();
        let (dropped, is_dropped) = std::sync::mpsc::channel();
        pool.runtime().clone().spawn(async move {
            drop(pool);
            let _ = dropped.send(());
        });
        is_dropped.recv().expect("it does not panic");
    }
}
