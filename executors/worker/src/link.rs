//! The engine's end of a spawner: starting one, giving it attempts, hearing of their ends.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use dagrun_model::{AttemptId, Resources};

use crate::{
    Prepared, SPAWNER_COMMAND, Worker,
    spawner::tree,
    spawner::wire::{End, GREETING, Hello, Order, Report, decode, encode},
    worker::named,
};

/// How long a spawner may take to say that it is there.
const GREETED: Duration = Duration::from_secs(20);
/// How long a spawner may take to read what it is told.
const READ: Duration = Duration::from_secs(30);
/// How long a spawner may take to kill everything.
const CLOSED: Duration = Duration::from_secs(15);
/// How long pipes are read after the end of a node where something holds them open.
const LEAK_TIMEOUT: Duration = Duration::from_millis(200);

/// A running spawner. Dropping it without [`Link::close`] ends the spawner and all its processes too, but does not wait.
#[derive(Debug)]
pub struct Link {
    child: Child,
    socket: UnixStream,
    input: Vec<u8>,
    orders: Vec<Order>,
}

/// What a spawner says.
#[derive(Debug)]
pub enum LinkEvent {
    /// The first process of an attempt runs.
    Started(AttemptId),
    /// Nothing of an attempt runs any more.
    Ended(AttemptId, Finished),
    /// It is there.
    Here,
    /// The host's memory is short: so many bytes are free of so many. Nothing starts beside what runs until there are more.
    MemoryShort {
        /// Bytes that are free.
        free: u64,
        /// Bytes there are.
        limit: u64,
    },
}

/// How the processes of an attempt ended; to be given to [`Worker::collect`].
#[derive(Debug)]
pub struct Finished(pub(crate) Box<End>);

impl Finished {
    /// Whether collecting it needs no more than removing the folder of a light attempt.
    pub fn is_light(&self) -> bool {
        self.0.stdout.total == 0 && self.0.stderr.total == 0
    }
}

impl Finished {
    /// Whether its logs are so short that they were not written to a file on their way.
    pub(crate) fn is_small(&self) -> bool {
        self.0.stdout.file.is_none() && self.0.stderr.file.is_none()
    }
}

impl Link {
    /// Starts a spawner for a worker with a capacity that nodes share: `program`, which must call [`spawner_main`](crate::spawner_main) for its hidden subcommand.
    ///
    /// # Errors
    /// When it cannot be started, or is not the spawner of this version.
    pub fn open(program: &Path, worker: &Worker, capacity: Resources) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        let child = Command::new(program)
            .arg(SPAWNER_COMMAND)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| named(error, program))?;
        let mut link = Self {
            child,
            socket,
            input: Vec::new(),
            orders: Vec::new(),
        };
        link.greet().map_err(|error| named(error, program))?;
        link.orders.push(Order::Hello(Hello {
            session: worker.session.clone(),
            env: worker.inherited.clone(),
            capacity,
            leak_timeout: LEAK_TIMEOUT,
        }));
        link.flush()?;
        Ok(link)
    }

    fn greet(&mut self) -> io::Result<()> {
        self.socket.set_read_timeout(Some(GREETED))?;
        let mut greeting = vec![0; GREETING.len()];
        let read = self.socket.read_exact(&mut greeting);
        if read.is_err() || greeting != GREETING {
            let _ = self.child.kill();
            let _ = self.child.wait();
            return Err(io::Error::other(
                "it does not answer as the spawner of this version",
            ));
        }
        self.socket.set_write_timeout(Some(READ))?;
        self.socket.set_read_timeout(None)
    }

    /// Asks it to say [`LinkEvent::Here`]. Goes out with the next [`Link::flush`].
    pub fn ping(&mut self) {
        self.orders.push(Order::Ping);
    }

    /// Whether a signal has stopped it, so that it does nothing until another one lets it go on.
    pub fn is_stopped(&self) -> bool {
        tree::is_stopped(self.child.id() as i32)
    }

    /// Kills it and all below it.
    pub fn kill(&mut self) {
        // It is a child of this process that was not waited for, so the pid is still its own.
        tree::kill_below(self.child.id() as i32);
        let _ = self.child.kill();
    }

    /// Gives it an attempt, which starts when those before it have started and its resources are free. It goes out with the next
    /// [`Link::flush`]. An attempt can be given once.
    pub fn start(&mut self, prepared: &mut Prepared) {
        self.orders.extend(prepared.order.take().map(Order::Start));
    }

    /// Stops an attempt: TERM and KILL after its grace time, or KILL at once. Goes out with the next [`Link::flush`].
    pub fn stop(&mut self, attempt: AttemptId, kill: bool) {
        self.orders.push(Order::Stop {
            id: attempt.0,
            kill,
        });
    }

    /// Takes an attempt back that has not begun; it then ends as cancelled. Goes out with the next [`Link::flush`].
    pub fn recall(&mut self, attempt: AttemptId) {
        self.orders.push(Order::Recall(attempt.0));
    }

    /// Sends what was ordered.
    ///
    /// # Errors
    /// When the spawner is gone, or does not read.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.orders.is_empty() {
            return Ok(());
        }
        let mut frame = Vec::new();
        encode(&self.orders, &mut frame);
        self.orders.clear();
        // This may block for a moment, never for long: the spawner always reads.
        self.socket.write_all(&frame)
    }

    /// Readable when [`Link::receive`] has something to say.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads what the spawner said; blocks until there is something.
    ///
    /// # Errors
    /// When the spawner is gone.
    pub fn receive(&mut self, events: &mut Vec<LinkEvent>) -> io::Result<()> {
        let mut buffer = [0; 32 << 10];
        let read = loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(io::Error::other("the spawner is gone")),
                Ok(read) => break read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        self.input.extend_from_slice(&buffer[..read]);
        while let Some(reports) = decode(&mut self.input)? {
            events.extend(reports.into_iter().map(|report| match report {
                Report::Started(id) => LinkEvent::Started(AttemptId(id)),
                Report::Here => LinkEvent::Here,
                Report::MemoryShort { free, limit } => LinkEvent::MemoryShort { free, limit },
                Report::Ended(end) => LinkEvent::Ended(AttemptId(end.id), Finished(end)),
            }));
        }
        Ok(())
    }

    /// Ends the spawner and waits until it has killed everything; a spawner that does not end is killed itself.
    pub fn close(mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        if self.is_stopped() {
            self.kill();
        }
        let began = Instant::now();
        let mut pause = Duration::from_micros(200);
        while began.elapsed() < CLOSED {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(pause),
                _ => return,
            }
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        self.kill();
        let _ = self.child.wait();
    }
}
