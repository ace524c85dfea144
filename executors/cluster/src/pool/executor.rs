//! The executor of one run: what its driver says goes to the pool.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use dagrun_executor_api::{Executor, ExecutorEvent, HeldAttempt};
use dagrun_model::{AttemptId, AttemptResult, AttemptSpec, Digest, Outcome, WorkerIx};
use dagrun_store::Store;
use tokio::sync::mpsc::UnboundedSender;

use super::{
    Event, RunIx, Witness,
    actor::{Input, OpenRun},
    inputs::{Inputs, Ready},
};
use crate::parts;

/// How long a shutdown waits for workers that do not answer: they are lost long before.
const SHUTDOWN: Duration = Duration::from_secs(60);

/// What a run brings with it.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Its id; new at every start of its driver.
    pub id: String,
    /// The runs that it goes on with, of which workers may hold attempts.
    pub resumes: Vec<String>,
    /// Higher goes first; 0 is usual.
    pub priority: i32,
    /// CPUs that its attempts may have at a time, of all workers together; `None` for as many as there are.
    pub cpus: Option<u64>,
    /// The folder that workspace inputs are relative to.
    pub project: PathBuf,
    /// The coordinator's store: workspace inputs are put there when they are first needed.
    pub store: Store,
}

/// Runs the attempts of one run on all workers of a pool.
pub struct RunExecutor {
    run: RunIx,
    open: OpenRun,
    inbox: UnboundedSender<Input>,
    witness: Option<Arc<dyn Witness>>,
    events: Arc<OnceLock<UnboundedSender<ExecutorEvent>>>,
    inputs: Inputs,
    lease: Duration,
}

impl fmt::Debug for RunExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RunExecutor").field(&self.open.id).finish()
    }
}

impl RunExecutor {
    pub(super) fn new(
        run: RunIx,
        options: RunOptions,
        inbox: UnboundedSender<Input>,
        witness: Option<Arc<dyn Witness>>,
        lease: Duration,
    ) -> Self {
        let events: Arc<OnceLock<UnboundedSender<ExecutorEvent>>> = Arc::default();
        let ready = {
            let (inbox, events) = (inbox.clone(), events.clone());
            move |ready| match ready {
                Ready::Submit(worker, spec) => {
                    let _ = inbox.send(Input::Event(Event::Submit(run, worker, vec![spec])));
                }
                Ready::End(id, outcome) => end(&events, id, outcome),
            }
        };
        Self {
            run,
            open: OpenRun {
                id: options.id.into(),
                priority: options.priority,
                cpus: options.cpus,
                resumes: options.resumes.into_iter().map(Arc::from).collect(),
            },
            inbox,
            witness,
            events,
            inputs: Inputs::new(options.project, options.store, Box::new(ready)),
            lease,
        }
    }

    fn end(&self, attempt: AttemptId, outcome: Outcome) {
        end(&self.events, attempt, outcome);
    }

    fn tell(&self, event: Event) {
        // A pool that is gone has ended all that it had.
        let _ = self.inbox.send(Input::Event(event));
    }
}

/// Ends an attempt that no worker has heard of.
fn end(events: &OnceLock<UnboundedSender<ExecutorEvent>>, attempt: AttemptId, outcome: Outcome) {
    if let Some(events) = events.get() {
        let result = Box::new(AttemptResult::bare(outcome));
        // A driver that is gone waits for nothing.
        let _ = events.send(ExecutorEvent::Ended(attempt, result));
    }
}

impl Executor for RunExecutor {
    fn start(&self, events: UnboundedSender<ExecutorEvent>) {
        let first = self.events.set(events.clone());
        assert!(first.is_ok(), "an executor is started once");
        let open = Input::OpenRun(self.run, self.open.clone(), events);
        let _ = self.inbox.send(open);
    }

    fn submit(&self, worker: WorkerIx, mut attempts: Vec<AttemptSpec>) {
        attempts.retain(|spec| match parts::check_start(spec) {
            Ok(()) => true,
            Err(cause) => {
                self.end(spec.attempt, Outcome::Failed(cause));
                false
            }
        });
        let ready = |spec: &AttemptSpec| self.inputs.are_there(spec);
        let (ready, lacking): (Vec<_>, Vec<_>) = attempts.into_iter().partition(ready);
        if !ready.is_empty() {
            self.tell(Event::Submit(self.run, worker, ready));
        }
        if !lacking.is_empty() {
            self.inputs.provide(worker, lacking);
        }
    }

    fn cancel(&self, attempts: &[AttemptId], kill: bool) {
        self.inputs.cancel(attempts, |rest| {
            self.tell(Event::Cancel(self.run, rest, kill));
        });
    }

    fn recall(&self, attempts: &[AttemptId]) {
        self.inputs.cancel(attempts, |rest| {
            self.tell(Event::Recall(self.run, rest));
        });
    }

    fn withdraw(&self, attempts: &[AttemptId]) {
        self.inputs.cancel(attempts, |rest| {
            self.tell(Event::Withdraw(self.run, rest));
        });
    }

    fn settled(&self, attempts: &[AttemptId]) {
        self.tell(Event::Settled(self.run, attempts.to_vec()));
    }

    fn holds(&self, blob: &Digest) -> bool {
        self.witness
            .as_ref()
            .is_some_and(|witness| witness.holds(blob))
    }

    /// As long as a worker may be silent.
    fn patience(&self) -> Duration {
        self.lease
    }

    fn may_rejoin(&self) -> bool {
        !self.open.resumes.is_empty()
    }

    fn adopt(&self, worker: WorkerIx, attempts: Vec<HeldAttempt>) {
        self.tell(Event::Adopt(self.run, worker, attempts));
    }

    fn disown(&self, attempts: Vec<HeldAttempt>) {
        self.tell(Event::Disown(self.run, attempts));
    }

    fn shutdown(&self) {
        self.inputs.close();
        let (done, is_over) = std::sync::mpsc::channel();
        if self.inbox.send(Input::CloseRun(self.run, done)).is_ok() {
            let _ = is_over.recv_timeout(SHUTDOWN);
        }
    }
}

impl Drop for RunExecutor {
    fn drop(&mut self) {
        self.shutdown();
    }
}

#[cfg(test)]
mod tests {
    use dagrun_executor_api::conformance::{shell, text_input};
    use dagrun_store::StoreOptions;

    use super::*;
    use crate::pool::{Config, Pool};

    fn bench(folder: &std::path::Path, lease: Duration) -> (Pool, Arc<RunExecutor>) {
        let config = Config {
            lease,
            ..Config::new("1", 1)
        };
        let pool = Pool::start(config, None).unwrap();
        let executor = pool.executor(RunOptions {
            id: "run".into(),
            resumes: Vec::new(),
            priority: 0,
            cpus: None,
            project: folder.to_path_buf(),
            store: Store::open(&folder.join("store"), StoreOptions::default()).unwrap(),
        });
        (pool, executor)
    }

    #[test]
    fn a_run_waits_for_a_worker_that_fits_as_long_as_one_may_be_silent() {
        let folder = tempfile::tempdir().unwrap();
        let (_pool, executor) = bench(folder.path(), Duration::from_secs(3));
        assert_eq!(executor.patience(), Duration::from_secs(3));
    }

    /// Of a batch only what fits into no message fails; the rest goes its way, which ends here where there is no worker.
    #[test]
    fn what_is_too_long_fails_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (_pool, executor) = bench(folder.path(), Duration::from_secs(3));
        let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
        executor.start(sender);
        let with_text = |n: u64, bytes: usize| {
            shell(n, "true", |action| {
                action.inputs = vec![text_input("a", &"t".repeat(bytes))];
            })
        };
        let batch = vec![with_text(1, 5), with_text(2, 64 << 20), with_text(3, 5)];
        executor.submit(WorkerIx(0), batch);
        let mut ends = std::collections::BTreeMap::new();
        while ends.len() < 3 {
            if let Some(ExecutorEvent::Ended(id, result)) = events.blocking_recv() {
                ends.insert(id.0, result.outcome);
            }
        }
        assert_eq!(
            (&ends[&1], &ends[&3]),
            (&Outcome::Cancelled, &Outcome::Cancelled)
        );
        let Outcome::Failed(cause) = &ends[&2] else {
            panic!("{ends:?}");
        };
        assert!(cause.to_string().contains("give it a folder"), "{cause}");
    }
}
