//! What other threads tell the host's thread, which sleeps in `poll`.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use dagrun_model::{AttemptId, AttemptResult, AttemptSpec};
use dagrun_worker::Prepared;

/// A message to the host's thread.
#[derive(Debug)]
pub(crate) enum Message {
    Submit(Vec<AttemptSpec>),
    Cancel(Vec<AttemptId>, bool),
    /// Give back what has not begun.
    Recall(Vec<AttemptId>),
    /// The pool made an attempt ready, or it failed there.
    Prepared(AttemptId, Result<Box<Prepared>, Box<AttemptResult>>),
    /// The pool has reported an attempt's end.
    Collected(AttemptId),
    Shutdown,
}

/// A queue whose reader can wait for it and for other things at once.
#[derive(Debug)]
pub(crate) struct Inbox {
    queue: Mutex<Vec<Message>>,
    /// The reader waits, or is about to.
    asleep: AtomicBool,
    bell: UnixStream,
    ear: UnixStream,
}

impl Inbox {
    pub(crate) fn new() -> io::Result<Self> {
        let (bell, ear) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ear.set_nonblocking(true)?;
        Ok(Self {
            queue: Mutex::default(),
            asleep: AtomicBool::new(false),
            bell,
            ear,
        })
    }

    fn queue(&self) -> MutexGuard<'_, Vec<Message>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message, and wakes the reader only if it sleeps.
    pub(crate) fn push(&self, message: Message) {
        self.queue().push(message);
        if self.asleep.swap(false, Ordering::SeqCst) {
            // A full socket rings already.
            let _ = (&self.bell).write(&[1]);
        }
    }

    /// All messages so far.
    pub(crate) fn take(&self) -> Vec<Message> {
        std::mem::take(&mut *self.queue())
    }

    /// To be called before waiting; `false` where there is something to take at once.
    ///
    /// The flag is set before the queue is looked at, and a writer looks at the flag after it wrote: one of them notices.
    pub(crate) fn may_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        self.queue().is_empty()
    }

    /// To be called after waiting; `rang` if the bell was heard.
    pub(crate) fn awake(&self, rang: bool) {
        self.asleep.store(false, Ordering::SeqCst);
        if rang {
            let _ = (&self.ear).read(&mut [0; 64]);
        }
    }

    /// Readable when the bell rings.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.ear.as_fd()
    }
}
