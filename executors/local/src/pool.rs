//! A few threads for what takes time: staging inputs, hashing and storing outputs.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
};

use dagrun_executor_api::ExecutorEvent;
use dagrun_model::{AttemptId, AttemptResult, AttemptSpec, FailureCause, Outcome};
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
}

/// What a thread of the pool works with.
#[derive(Clone)]
struct Tools {
    worker: Arc<Worker>,
    inbox: Arc<Inbox>,
    events: UnboundedSender<ExecutorEvent>,
}

impl Pool {
    pub(crate) fn new(
        threads: usize,
        worker: &Arc<Worker>,
        inbox: &Arc<Inbox>,
        events: &UnboundedSender<ExecutorEvent>,
    ) -> Self {
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let tools = Tools {
            worker: worker.clone(),
            inbox: inbox.clone(),
            events: events.clone(),
        };
        let thread = |at| {
            let (queue, tools) = (queue.clone(), tools.clone());
            std::thread::Builder::new()
                .name(format!("dagrun-files-{at}"))
                .spawn(move || tools.work(&queue))
                .ok()
        };
        let threads: Vec<_> = (0..threads).map_while(thread).collect();
        assert!(!threads.is_empty(), "the system can start one more thread");
        Self {
            jobs: Some(jobs),
            threads,
        }
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
                let result = guarded(|| self.worker.collect(*prepared, finished, timing))
                    .unwrap_or_else(|bug| *bug);
                self.end(id, result);
            }
        }
    }

    fn end(&self, id: AttemptId, result: AttemptResult) {
        // Nobody listens any more when a run was dropped; the host's thread must know all the same.
        let _ = self.events.send(ExecutorEvent::Ended(id, Box::new(result)));
        self.inbox.push(Message::Collected(id));
    }
}

/// Turns a bug of ours into the end of one attempt.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Box<AttemptResult>> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        Box::new(AttemptResult::bare(Outcome::Failed(FailureCause::Engine {
            message: "the worker panicked; please report this with what was printed".into(),
        })))
    })
}
