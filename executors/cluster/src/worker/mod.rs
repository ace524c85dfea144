//! A worker process: carries out what its [`session::Core`](crate::session::Core) decides, between a coordinator and a local executor.
//!
//! Owns: the connection, the clock, and the bridge to any [`Executor`] that it is given. Adds nothing to how nodes run.

mod connection;
mod full;
pub mod host;
mod sync;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use dagrun_executor_api::{Executor, ExecutorEvent, FullDisk};
use dagrun_model::{
    Action, Artifact, AttemptId, AttemptSpec, FailureCause, InputSource, Outcome, WorkerIx,
};
use dagrun_store::{Disk, Store};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

use crate::{
    blobs::WorkerBlobs,
    message::{Extra, Identity, StartAttempt},
    parts,
    pool::ConnIx,
    security::{Address, Connector},
    session::{Config, Core, Effect, Event, Exit, Link},
};
use connection::{ByAddress, Connection, Word};
use full::Full;
use sync::{Results, Syncer};

pub(crate) use connection::Way;

/// What is taken at once, so that one message tells it all.
const BATCH: usize = 256;
/// How often time is told while there is no connection, and while there is.
const TICKS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));
/// How often the room on the store's disk is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long the last words may take to get out.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a worker is made of.
#[derive(Debug)]
pub struct WorkerOptions {
    /// The coordinator.
    pub address: Address,
    /// How it is connected to.
    pub connector: Connector,
    /// Who it is.
    pub identity: Identity,
    /// Its host's store, which its executor uses too.
    pub store: Store,
    /// How blobs come and go; `None` where it shares the coordinator's store.
    pub blobs: Option<WorkerBlobs>,
    /// How long it tries to reach a coordinator that it has never reached.
    pub reach: Duration,
    /// How long it tries to reach one that it had reached; `None` for as long as it lives.
    pub linger: Option<Duration>,
}

/// What a worker is told by whoever started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Take nothing new, finish what began within this time, and go; why.
    Leave(Duration, String),
    /// Go at once.
    Quit,
}

/// What is worth a line to whoever looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The coordinator took it.
    Joined,
    /// No coordinator was reached yet, and it is tried again; why. Told once.
    Unreached(String),
    /// The connection is over, and will be made again; why.
    Disconnected(String),
    /// It takes nothing new; why.
    Leaving(String),
}

/// Runs a worker until it is over. Blocks.
///
/// # Errors
/// When its runtime cannot be started. How it ended otherwise is in the [`Exit`].
pub fn run(
    options: WorkerOptions,
    local: Arc<dyn Executor>,
    orders: mpsc::UnboundedReceiver<Order>,
    notices: &dyn Fn(Notice),
) -> std::io::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let exit = runtime.block_on(async {
        let way = ByAddress {
            address: options.address.clone(),
            connector: options.connector.clone(),
        };
        let mut worker = Worker::new(options, way, local.clone(), notices)?;
        Ok(worker.run(orders).await)
    });
    local.shutdown();
    exit
}

pub(crate) struct Worker<'a, W> {
    core: Core,
    /// The one that timers go by.
    clock: Instant,
    /// Where the store is, and when the room there was looked at.
    store: PathBuf,
    looked: Option<Instant>,
    full: Full,
    effects: Vec<Effect>,
    way: W,
    local: Arc<dyn Executor>,
    events: mpsc::UnboundedReceiver<ExecutorEvent>,
    connection: Option<Connection>,
    /// The former one, while what was sent by it gets out.
    farewell: Option<JoinHandle<()>>,
    words: mpsc::Sender<(ConnIx, Word)>,
    heard: mpsc::Receiver<(ConnIx, Word)>,
    syncer: Syncer,
    synced: mpsc::UnboundedReceiver<Results>,
    blobs: Option<Arc<WorkerBlobs>>,
    notices: &'a dyn Fn(Notice),
    was_up: bool,
    /// A first connection was made, or failed.
    has_tried: bool,
    was_leaving: bool,
    last_words: String,
    exit: Option<Exit>,
}

impl<'a, W: Way> Worker<'a, W> {
    pub(crate) fn new(
        options: WorkerOptions,
        way: W,
        local: Arc<dyn Executor>,
        notices: &'a dyn Fn(Notice),
    ) -> std::io::Result<Self> {
        let seed = u64::from_le_bytes(
            *options
                .identity
                .incarnation
                .0
                .first_chunk()
                .expect("16 bytes"),
        );
        let core = Core::new(Config {
            identity: Arc::new(options.identity),
            reach: options.reach,
            linger: options.linger,
            seed,
        });
        let (sender, events) = mpsc::unbounded_channel();
        local.start(sender);
        let (words, heard) = mpsc::channel(BATCH);
        let (done, synced) = mpsc::unbounded_channel();
        let blobs = options.blobs.map(Arc::new);
        Ok(Self {
            core,
            clock: Instant::now(),
            store: options.store.root().to_path_buf(),
            looked: None,
            full: Full::default(),
            effects: Vec::new(),
            way,
            local,
            events,
            connection: None,
            farewell: None,
            words,
            heard,
            syncer: Syncer::start(options.store, blobs.clone(), done)?,
            synced,
            blobs,
            notices,
            was_up: false,
            has_tried: false,
            was_leaving: false,
            last_words: String::new(),
            exit: None,
        })
    }

    pub(crate) async fn run(&mut self, mut orders: mpsc::UnboundedReceiver<Order>) -> Exit {
        self.tell(Event::Tick);
        loop {
            self.carry_out();
            if let Some(exit) = self.exit.take() {
                if let Some(connection) = self.connection.take() {
                    connection.finish(FAREWELL).await;
                }
                if let Some(farewell) = self.farewell.take() {
                    // It may have panicked, which has been said.
                    let _ = farewell.await;
                }
                return exit;
            }
            let tick = match self.core.link() {
                Link::Up { .. } => TICKS.1,
                _ => TICKS.0,
            };
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Leave(within, why)) => self.tell(Event::Leave(within, why)),
                    Some(Order::Quit) => return Exit::Left,
                    // Whoever could give orders is gone.
                    None => return Exit::Left,
                },
                Some((conn, word)) = self.heard.recv() => self.hear(conn, word),
                Some(event) = self.events.recv() => self.take_events(event),
                Some(results) = self.synced.recv() => self.ended(results),
                () = tokio::time::sleep(tick) => {}
            }
            self.look_for_room();
            self.tell(Event::Tick);
        }
    }

    /// Beats tell how much room the store's disk has.
    fn look_for_room(&mut self) {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return;
        }
        let now = Instant::now();
        self.looked = Some(now);
        if let Ok(disk) = Disk::of(&self.store) {
            self.core.set_free_bytes(disk.free);
        }
        let has_room = |full: &PathBuf| Disk::of(full).is_ok_and(|disk| !disk.is_short());
        if self.full.clears(now, has_room) {
            self.tell(Event::Disk(None));
        }
    }

    /// Says where an attempt found no room. Whether there is some again is looked at later: what it had taken was given back perhaps.
    fn found_full(&mut self, path: &str) {
        let path = Path::new(path);
        let mut above = path.ancestors();
        let folder = match path.starts_with(&self.store) {
            true => &self.store,
            false => above.find(|it| it.is_dir()).unwrap_or(path),
        };
        let Ok(disk) = Disk::of(folder) else {
            return;
        };
        let folder = folder.to_path_buf();
        let full = FullDisk {
            folder: folder.display().to_string(),
            free: disk.free,
            total: disk.total,
            no_inodes: disk.no_inodes,
        };
        self.full.find(folder, Instant::now());
        self.tell(Event::Disk(Some(full)));
    }

    fn tell(&mut self, event: Event) {
        self.core
            .handle(self.clock.elapsed(), event, &mut self.effects);
        if let Some(why) = self.core.leaving()
            && !std::mem::replace(&mut self.was_leaving, true)
        {
            (self.notices)(Notice::Leaving(why.to_owned()));
        }
        let is_up = matches!(self.core.link(), Link::Up { .. });
        if is_up != self.was_up {
            self.was_up = is_up;
            self.has_tried = true;
            (self.notices)(if is_up {
                Notice::Joined
            } else {
                Notice::Disconnected(std::mem::take(&mut self.last_words))
            });
        }
    }

    fn hear(&mut self, conn: ConnIx, word: Word) {
        let mut next = Some((conn, word));
        for _ in 0..BATCH {
            let Some((conn, word)) = next else {
                return;
            };
            let event = match word {
                Word::Connected => Event::Connected(conn),
                Word::Message(message) => Event::Message(conn, message),
                Word::Closed(why) => {
                    if !std::mem::replace(&mut self.has_tried, true) {
                        (self.notices)(Notice::Unreached(why.clone()));
                    }
                    self.last_words.clone_from(&why);
                    Event::Closed(conn, why)
                }
            };
            self.tell(event);
            next = self.heard.try_recv().ok();
        }
    }

    /// Takes what the executor said; what has blobs is made durable first.
    fn take_events(&mut self, first: ExecutorEvent) {
        let (mut started, mut ended, mut to_sync) = (Vec::new(), Vec::new(), Vec::new());
        let mut next = Some(first);
        for _ in 0..BATCH {
            match next {
                None => break,
                Some(ExecutorEvent::Started(id)) => started.push(id),
                Some(ExecutorEvent::Ended(id, result)) if sync::has_blobs(&result) => {
                    to_sync.push((id, *result, Extra::default()));
                }
                Some(ExecutorEvent::Ended(id, result)) => {
                    let blobs = self.blobs.as_ref();
                    let extra = blobs.map(|blobs| blobs.extra(id, &result));
                    ended.push((id, *result, extra.unwrap_or_default()));
                }
                Some(ExecutorEvent::WorkerLost(_, why)) => {
                    self.tell(Event::Leave(Duration::ZERO, why));
                }
                Some(ExecutorEvent::Warning(message)) => tracing::warn!("{message}"),
                Some(
                    ExecutorEvent::WorkerJoined(_)
                    | ExecutorEvent::Rejoined
                    | ExecutorEvent::TakenByOthers(_)
                    | ExecutorEvent::WorkerDraining(_)
                    | ExecutorEvent::WorkerDisk(..)
                    | ExecutorEvent::Fetched(..),
                ) => {}
            }
            next = self.events.try_recv().ok();
        }
        if !started.is_empty() {
            self.tell(Event::Started(started));
        }
        if !ended.is_empty() {
            self.ended(ended);
        }
        if !to_sync.is_empty() {
            self.syncer.sync(to_sync);
        }
    }

    fn ended(&mut self, mut results: Results) {
        for (_, result, extra) in &mut results {
            parts::fit_result(result, extra);
            if let Outcome::Failed(FailureCause::DiskFull { path }) = &result.outcome {
                self.found_full(path);
            }
        }
        self.tell(Event::Ended(results));
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
            Effect::Connect(conn) => {
                let words = self.words.clone();
                self.connection = Some(Connection::make(conn, self.way.clone(), words));
            }
            Effect::Send(conn, message) => {
                if let Some(connection) = self.connection.as_ref().filter(|c| c.conn == conn)
                    && let Err(why) = connection.send(message)
                {
                    self.tell(Event::Closed(conn, why));
                }
            }
            Effect::Close(conn) => {
                if let Some(connection) = self.connection.take_if(|c| c.conn == conn) {
                    // What was sent still gets out, also where this is the end of the worker.
                    self.farewell = Some(tokio::spawn(connection.finish(FAREWELL)));
                }
            }
            Effect::Submit(starts, locals) => {
                if let Some(blobs) = &self.blobs {
                    blobs.told(starts.iter().zip(locals.iter().copied()));
                }
                let specs = starts.into_iter().zip(locals).map(localised);
                self.local.submit(WorkerIx(0), specs.collect());
            }
            Effect::Cancel(ids, kill) => self.local.cancel(&ids, kill),
            Effect::Recall(ids) => self.local.recall(&ids),
            Effect::Exit(exit) => self.exit = Some(exit),
        }
    }
}

/// An attempt as the local executor is to see it: by its own id, with all inputs from the store.
fn localised((start, local): (StartAttempt, AttemptId)) -> AttemptSpec {
    let mut spec = Arc::unwrap_or_clone(start.spec);
    spec.attempt = local;
    spec.run = Some(start.attempt.run);
    let is_file = |source: &InputSource| matches!(source, InputSource::Workspace { .. });
    if spec
        .action
        .inputs
        .iter()
        .any(|input| is_file(&input.source))
    {
        store_inputs(Arc::make_mut(&mut spec.action));
    }
    spec
}

/// Workspace files are in the store under their digest.
fn store_inputs(action: &mut Action) {
    for input in &mut action.inputs {
        if let InputSource::Workspace { blob, .. } = input.source {
            input.source = InputSource::Stored(Artifact::File(blob));
        }
    }
}
