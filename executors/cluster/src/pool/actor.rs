//! The task that owns the state: it feeds the state machine and carries out what that decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use dagrun_executor_api::ExecutorEvent;
use dagrun_model::{HostIx, WorkerIx};
use dagrun_proto::v1;
use prost::Message;
use rustc_hash::FxHashMap;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};

use super::{
    Config, ConnIx, Core, Effect, Event, News, PoolStatus, RunIx, Witness,
    service::{Outbox, Word},
};
use crate::{
    message::{Ended, Identity, ToWorker},
    parts,
    security::MESSAGE,
    wire,
};

/// What is taken at once, so that one answer serves it all.
const BATCH: usize = 256;
/// How long the ends of connections may take to get out.
const FAREWELL: Duration = Duration::from_millis(100);

/// What reaches the task from this process.
#[derive(Debug)]
pub(crate) enum Input {
    /// Something for the state machine.
    Event(Event),
    /// A run begins; where its events go.
    OpenRun(RunIx, OpenRun, mpsc::UnboundedSender<ExecutorEvent>),
    /// A run ends; who waits until nothing is left of it.
    CloseRun(RunIx, std::sync::mpsc::Sender<()>),
    /// Somebody wants to know how the workers are.
    Status(std::sync::mpsc::Sender<PoolStatus>),
    /// A listener's words.
    Listen(mpsc::Receiver<Word>),
    /// Somebody wants to hear what happens to workers.
    Watch(Watcher),
    /// All connections are to end, as they are; who waits for it.
    Close(std::sync::mpsc::Sender<()>),
}

/// Who hears what happens to workers.
pub(crate) struct Watcher(pub(super) Box<dyn Fn(&News) + Send>);

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}

/// What is said of a run when it begins.
#[derive(Clone, Debug)]
pub(crate) struct OpenRun {
    pub(crate) id: Arc<str>,
    pub(crate) priority: i32,
    pub(crate) cpus: Option<u64>,
    pub(crate) resumes: Vec<Arc<str>>,
}

pub(crate) struct Actor {
    core: Core,
    /// The one that timers go by.
    clock: Instant,
    tick: Duration,
    effects: Vec<Effect>,
    commands: mpsc::UnboundedReceiver<Input>,
    listeners: Vec<mpsc::Receiver<Word>>,
    conns: FxHashMap<ConnIx, Outbox>,
    runs: FxHashMap<RunIx, mpsc::UnboundedSender<ExecutorEvent>>,
    ids: FxHashMap<RunIx, Arc<str>>,
    closing: FxHashMap<RunIx, std::sync::mpsc::Sender<()>>,
    workers: BTreeMap<WorkerIx, (HostIx, Arc<Identity>)>,
    count: watch::Sender<usize>,
    witness: Option<Arc<dyn Witness>>,
    /// For how long after the start runs of an earlier coordinator may come.
    adopts: Duration,
    /// Such runs that are not over.
    resumed: BTreeSet<RunIx>,
    /// They may need blobs that the witness was not told of.
    forgot: bool,
    watcher: Option<Watcher>,
    /// Who waits for the end.
    closes: Option<std::sync::mpsc::Sender<()>>,
}

impl Actor {
    pub(crate) fn new(
        config: Config,
        witness: Option<Arc<dyn Witness>>,
        count: watch::Sender<usize>,
        commands: mpsc::UnboundedReceiver<Input>,
    ) -> Self {
        Self {
            tick: config.beat / 8,
            adopts: match config.epoch {
                0 | 1 => Duration::ZERO,
                _ => config.adopts.unwrap_or_default(),
            },
            resumed: BTreeSet::new(),
            forgot: false,
            core: Core::new(config),
            clock: Instant::now(),
            effects: Vec::new(),
            commands,
            listeners: Vec::new(),
            conns: FxHashMap::default(),
            runs: FxHashMap::default(),
            ids: FxHashMap::default(),
            closing: FxHashMap::default(),
            workers: BTreeMap::new(),
            count,
            witness,
            watcher: None,
            closes: None,
        }
    }

    /// Runs until nobody can tell it anything any more.
    pub(crate) async fn run(mut self) {
        let mut ticks = tokio::time::interval(self.tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.take(command),
                    None => return,
                },
                word = next_word(&mut self.listeners) => self.hear(word),
                _ = ticks.tick() => self.tell(Event::Tick),
            }
            if let Some(done) = self.closes.take() {
                self.conns.clear();
                // The ends of the connections still get out.
                tokio::time::sleep(FAREWELL).await;
                let _ = done.send(());
                return;
            }
            self.look_back();
            self.take_what_waits();
            self.carry_out();
        }
    }

    /// Tells the witness whether runs go on that began before it was there.
    fn look_back(&mut self) {
        let forgot = self.clock.elapsed() < self.adopts || !self.resumed.is_empty();
        if forgot != self.forgot
            && let Some(witness) = &self.witness
        {
            witness.forgot(forgot);
        }
        self.forgot = forgot;
    }

    fn take_what_waits(&mut self) {
        for _ in 0..BATCH {
            match self.commands.try_recv() {
                Ok(command) => self.take(command),
                Err(_) => break,
            }
        }
        for at in 0..self.listeners.len() {
            for _ in 0..BATCH {
                match self.listeners[at].try_recv() {
                    Ok(word) => self.hear(word),
                    Err(_) => break,
                }
            }
        }
    }

    fn take(&mut self, command: Input) {
        match command {
            Input::Event(event) => self.tell(event),
            Input::OpenRun(run, open, events) => {
                self.runs.insert(run, events);
                self.ids.insert(run, open.id.clone());
                if !open.resumes.is_empty() {
                    self.resumed.insert(run);
                }
                self.tell(Event::RunOpened {
                    run,
                    id: open.id,
                    priority: open.priority,
                    cpus: open.cpus,
                    resumes: open.resumes,
                });
            }
            Input::CloseRun(run, done) => {
                // One that was never opened is over.
                if self.runs.contains_key(&run) {
                    self.closing.insert(run, done);
                    self.tell(Event::RunClosed(run));
                }
            }
            Input::Status(asker) => {
                // Whoever asked may have gone.
                let _ = asker.send(self.core.status(self.clock.elapsed()));
            }
            Input::Listen(words) => self.listeners.push(words),
            Input::Watch(watcher) => self.watcher = Some(watcher),
            Input::Close(done) => self.closes = Some(done),
        }
    }

    fn hear(&mut self, word: Word) {
        match word {
            Word::Opened(conn, outbox) => {
                self.conns.insert(conn, outbox);
                self.tell(Event::Opened(conn));
            }
            Word::Event(event) => {
                if let Event::Closed(conn, why) = &event {
                    tracing::debug!(?conn, why, "a connection is over");
                    self.conns.remove(conn);
                }
                self.tell(event);
            }
        }
    }

    fn tell(&mut self, event: Event) {
        self.core
            .handle(self.clock.elapsed(), event, &mut self.effects);
    }

    fn carry_out(&mut self) {
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                self.execute(effect);
            }
        }
    }

    fn execute(&mut self, effect: Effect) {
        match effect {
            Effect::Send(conn, message) => self.send(conn, self.with_sources(conn, message)),
            Effect::Close(conn, why) => {
                tracing::info!(?conn, why, "a connection is closed");
                self.conns.remove(&conn);
            }
            Effect::Tell(run, event) => {
                if let Some(run) = self.runs.get(&run) {
                    // A driver that is gone closes its run next.
                    let _ = run.send(event);
                }
            }
            Effect::Landed(worker, run, ended) => self.landed(worker, run, &ended),
            Effect::Joined(worker, host, identity) => self.joined(worker, host, identity),
            Effect::Gone(worker, host) => self.gone(worker, host),
            Effect::News(news) => {
                if let Some(watcher) = &self.watcher {
                    (watcher.0)(&news);
                }
            }
            Effect::RunOver(run) => {
                self.runs.remove(&run);
                self.resumed.remove(&run);
                if let (Some(id), Some(witness)) = (self.ids.remove(&run), &self.witness) {
                    witness.run_ended(&id);
                }
                if let Some(done) = self.closing.remove(&run) {
                    let _ = done.send(());
                }
            }
        }
    }

    /// Says of attempts where their inputs may be had.
    fn with_sources(&self, conn: ConnIx, mut message: ToWorker) -> ToWorker {
        let worker = self
            .core
            .worker_at(conn)
            .and_then(|worker| self.workers.get(&worker));
        if let (ToWorker::Start(starts), Some(witness), Some((host, _))) =
            (&mut message, &self.witness, worker)
        {
            for start in starts {
                start.sources = witness.sources(*host, &start.attempt.run, &start.spec);
            }
        }
        message
    }

    fn landed(&self, worker: WorkerIx, run: RunIx, ended: &Ended) {
        let Some((host, _)) = self.workers.get(&worker) else {
            return;
        };
        if let Some(witness) = &self.witness {
            witness.landed(*host, ended);
        }
        if let Some(run) = self.runs.get(&run)
            && !ended.extra.fetched.is_empty()
        {
            let blobs = ended.extra.fetched.clone();
            let _ = run.send(ExecutorEvent::Fetched(ended.attempt.attempt, *host, blobs));
        }
    }

    fn send(&mut self, conn: ConnIx, message: ToWorker) {
        let Some(outbox) = self.conns.get(&conn) else {
            return;
        };
        let mut parts = parts::to_worker(message).into_iter();
        let is_sent = parts.all(|part| {
            let part = encode(part);
            outbox.messages.try_send(Ok(part)).is_ok()
        });
        if !is_sent {
            self.conns.remove(&conn);
            self.tell(Event::Closed(conn, "it does not read".into()));
        }
    }

    fn joined(&mut self, worker: WorkerIx, host: HostIx, identity: Arc<Identity>) {
        tracing::info!(name = identity.name, pid = identity.pid, "a worker joined");
        if let Some(witness) = &self.witness {
            witness.joined(host, &identity);
        }
        self.workers.insert(worker, (host, identity));
        self.count.send_replace(self.workers.len());
    }

    fn gone(&mut self, worker: WorkerIx, host: HostIx) {
        if let Some((_, identity)) = self.workers.remove(&worker)
            && let Some(witness) = &self.witness
        {
            witness.gone(host, &identity);
        }
        self.count.send_replace(self.workers.len());
    }
}

/// A message as it is sent. Where it would be too long, its worker has to ask for the sources of inputs.
fn encode(mut message: ToWorker) -> v1::ToWorker {
    let encoded = wire::encode_to_worker(&message);
    match &mut message {
        ToWorker::Start(starts) if encoded.encoded_len() > MESSAGE => {
            starts.iter_mut().for_each(|start| start.sources.clear());
            wire::encode_to_worker(&message)
        }
        _ => encoded,
    }
}

/// The next word of any listener; never where there is none.
async fn next_word(listeners: &mut [mpsc::Receiver<Word>]) -> Word {
    std::future::poll_fn(|context| {
        for listener in listeners.iter_mut() {
            if let std::task::Poll::Ready(Some(word)) = listener.poll_recv(context) {
                return std::task::Poll::Ready(word);
            }
        }
        std::task::Poll::Pending
    })
    .await
}
