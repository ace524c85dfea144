//! A few threads for what takes time: staging inputs, hashing and storing outputs.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
};

use dagrun_executor_api::ExecutorEvent;
use dagrun_model::{AttemptResult, AttemptSpec, FailureCause, Outcome};
use dagrun_worker::{Finished, Prepared, Timing, Worker};
use tokio::sync::mpsc::UnboundedSender;

use crate::inbox::{Inbox, Message};

/// Work for the pool.
#[derive(Debug)]
pub(crate) enum Job {
    Prepare(AttemptSpec),
    Collect(Box<Prepared>, Finished, Timing),
}

/// Threads that take jobs in order. Dropping it ends them once they have done what they have.
#[derive(Debug)]
pub(crate) struct Pool {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
    events: Events,
}

/// Whom the threads tell: known only when the executor is started.
type Events = Arc<OnceLock<UnboundedSender<ExecutorEvent>>>;

/// What a thread of the pool works with.
#[derive(Clone)]
struct Tools {
    worker: Arc<Worker>,
    inbox: Arc<Inbox>,
    events: Events,
}

impl Pool {
    /// Starts up to so many threads; fewer do where the system has no more.
    ///
    /// # Errors
    /// When not even one can be started.
    pub(crate) fn new(
        threads: usize,
        worker: &Arc<Worker>,
        inbox: &Arc<Inbox>,
    ) -> io::Result<Self> {
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let events = Events::default();
        let tools = Tools {
            worker: worker.clone(),
            inbox: inbox.clone(),
            events: events.clone(),
        };
        let mut started = Vec::new();
        for at in 0..threads.max(1) {
            let (queue, tools) = (queue.clone(), tools.clone());
            match start_thread(format!("dagrun-files-{at}"), move || tools.work(&queue)) {
                Ok(thread) => started.push(thread),
                Err(error) if started.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(Self {
            jobs: Some(jobs),
            threads: started,
            events,
        })
    }

    /// Says whom to tell of ends; before any work is added.
    pub(crate) fn tell(&self, events: UnboundedSender<ExecutorEvent>) {
        let fresh = self.events.set(events).is_ok();
        debug_assert!(fresh, "an executor is started once");
    }

    pub(crate) fn add(&self, job: Job) {
        let jobs = self.jobs.as_ref().expect("only dropping takes it");
        jobs.send(job)
            .expect("threads of the pool live as long as it does");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Tools {
    fn work(&self, queue: &Mutex<Receiver<Job>>) {
        loop {
            let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            match job {
                Ok(job) => self.run(job),
                Err(_) => return,
            }
        }
    }

    fn run(&self, job: Job) {
        match job {
            Job::Prepare(spec) => {
                let id = spec.attempt;
                let made = guarded(|| self.worker.prepare(spec)).unwrap_or_else(Err);
                self.inbox.push(Message::Prepared(id, made.map(Box::new)));
            }
            Job::Collect(prepared, finished, timing) => {
                let id = prepared.spec().attempt;
                let concluded = guarded(|| self.worker.conclude(*prepared, finished, timing));
                let (result, leftover) = match concluded {
                    Ok((result, leftover)) => (result, Some(leftover)),
                    Err(bug) => (*bug, None),
                };
                // Nobody listens any more when a run was dropped; the host's thread must know all the same.
                if let Some(events) = self.events.get() {
                    let _ = events.send(ExecutorEvent::Ended(id, Box::new(result)));
                }
                if let Some(leftover) = leftover {
                    self.worker.clear(leftover);
                }
                self.inbox.push(Message::Collected(id));
            }
        }
    }
}

/// Starts a thread; where the system refuses, says what it means.
pub(crate) fn start_thread(
    name: String,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name).spawn(work).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot start a thread: {error}; a limit on processes is reached: see `ulimit -u` and the container's limit"),
        )
    })
}

/// Turns a bug of ours into the end of one attempt.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Box<AttemptResult>> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        Box::new(AttemptResult::bare(Outcome::Failed(FailureCause::Engine {
            message: "the worker panicked; please report this with what was printed".into(),
        })))
    })
}
