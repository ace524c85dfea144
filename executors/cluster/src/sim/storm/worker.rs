//! A worker's process as it is, with an executor whose nodes sleep.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use dagrun_executor_api::{Executor, ExecutorEvent};
use dagrun_model::{AttemptId, AttemptResult, AttemptSpec, Outcome, Outputs, Resources, WorkerIx};
use dagrun_store::{Store, StoreOptions};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::AbortHandle,
    time::sleep,
};
use turmoil::net::TcpStream;

use super::{
    coordinator::{PORT, VERSION},
    truth::{Shared, note},
};
use crate::{
    message::{Identity, Incarnation},
    security::{Address, Channel, Connector, Error},
    session::Exit,
    worker::{Way, Worker, WorkerOptions},
};

/// The coordinator's host.
pub(super) const COORDINATOR: &str = "coordinator";
/// How long a node goes on that was told to end.
const TERM: Duration = Duration::from_millis(100);
/// By how much nodes take longer here than their jobs say.
const STRETCH: u64 = 4;

/// Runs a worker until it leaves.
pub(super) async fn work(truth: Shared, at: usize) -> turmoil::Result {
    let incarnation = truth.borrow_mut().boot(at);
    let (orders, received) = unbounded_channel();
    truth.borrow_mut().places[at].orders = Some(orders);
    let options = WorkerOptions {
        address: address(),
        connector: Connector::open(None, None)?,
        identity: identity(&truth, at, incarnation),
        store: store(),
        blobs: None,
        reach: Duration::from_secs(3600),
        linger: None,
    };
    let way = OverTurmoil(options.connector.clone());
    let local = Arc::new(Sleepers::new(&truth, at, incarnation));
    let name = truth.borrow().places[at].name.clone();
    note(&truth, &format!("{name} begins"));
    let notice = |notice| note(&truth, &format!("{name}: {notice:?}"));
    let exit = Worker::new(options, way, local, &notice)?
        .run(received)
        .await;
    note(&truth, &format!("{name} ends: {exit:?}"));
    let mut truth = truth.borrow_mut();
    match exit {
        Exit::Left => {}
        // One that comes late.
        Exit::Refused(_) if truth.dismissed => {}
        exit => truth.violate(format!("{name} gave up: {exit:?}")),
    }
    Ok(())
}

fn address() -> Address {
    Address::Tcp {
        host: COORDINATOR.into(),
        port: PORT,
    }
}

/// Workers want one; no result here has blobs, so nothing is ever put there.
fn store() -> Store {
    static STORE: OnceLock<(tempfile::TempDir, Store)> = OnceLock::new();
    let (_, store) = STORE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let store = Store::open(folder.path(), StoreOptions::default());
        (folder, store.expect("a new store can be opened"))
    });
    store.clone()
}

fn identity(truth: &Shared, at: usize, incarnation: Incarnation) -> Identity {
    let place = &truth.borrow().places[at];
    Identity {
        version: VERSION.into(),
        capacity: Resources {
            cpu_milli: place.slots * 1000,
            ..Resources::none()
        },
        ahead: place.ahead,
        ..Identity::named(
            &format!("{}.{}", place.name, place.generation),
            &place.name,
            incarnation,
        )
    }
}

/// The way to the coordinator over the simulated network.
#[derive(Clone)]
struct OverTurmoil(Connector);

impl Way for OverTurmoil {
    async fn connect(&self) -> Result<Channel, Error> {
        let dial = tower::service_fn(async |_: Uri| {
            let stream = TcpStream::connect((COORDINATOR, PORT)).await?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        });
        self.0.connect_by(&address(), dial).await
    }
}

impl fmt::Display for OverTurmoil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        address().fmt(f)
    }
}

/// Runs what it is given in order, each for as long as its job says.
struct Sleepers {
    micros: Vec<Option<u64>>,
    /// By what results tell who made them.
    mark: u64,
    state: Arc<Mutex<State>>,
}

struct State {
    events: Option<UnboundedSender<ExecutorEvent>>,
    free: u64,
    queue: VecDeque<AttemptSpec>,
    running: BTreeMap<AttemptId, (u64, AbortHandle)>,
}

impl Sleepers {
    fn new(truth: &Shared, at: usize, incarnation: Incarnation) -> Self {
        let truth = truth.borrow();
        Self {
            micros: truth.run.jobs.iter().map(|job| job.micros).collect(),
            mark: super::super::world::mark(incarnation),
            state: Arc::new(Mutex::new(State {
                events: None,
                free: truth.places[at].slots * 1000,
                queue: VecDeque::new(),
                running: BTreeMap::new(),
            })),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends an attempt after a while, unless something else ends it first.
    fn end_after(&self, wait: Option<Duration>, id: AttemptId, outcome: Outcome) -> AbortHandle {
        let after = Self {
            micros: self.micros.clone(),
            mark: self.mark,
            state: Arc::clone(&self.state),
        };
        let end = async move {
            match wait {
                Some(wait) => sleep(wait).await,
                None => std::future::pending().await,
            }
            after.end(id, outcome);
        };
        tokio::spawn(end).abort_handle()
    }

    fn begin_what_fits(&self) {
        let mut state = self.state();
        while let Some(next) = state.queue.front()
            && next.resources.cpu_milli <= state.free
        {
            let spec = state.queue.pop_front().expect("it was looked at");
            state.free -= spec.resources.cpu_milli;
            let micros = self.micros[spec.node.index()];
            let wait = micros.map(|micros| Duration::from_micros(micros * STRETCH));
            let end = self.end_after(wait, spec.attempt, Outcome::Succeeded(Outputs::new()));
            let running = (spec.resources.cpu_milli, end);
            state.running.insert(spec.attempt, running);
            state.tell(ExecutorEvent::Started(spec.attempt));
        }
    }

    fn end(&self, id: AttemptId, outcome: Outcome) {
        let mut state = self.state();
        let Some((cpus, _)) = state.running.remove(&id) else {
            return;
        };
        state.free += cpus;
        state.tell_end(id, outcome, self.mark);
        drop(state);
        self.begin_what_fits();
    }
}

impl State {
    fn tell(&self, event: ExecutorEvent) {
        if let Some(events) = &self.events {
            let _ = events.send(event);
        }
    }

    fn tell_end(&self, id: AttemptId, outcome: Outcome, mark: u64) {
        let mut result = AttemptResult::bare(outcome);
        result.usage.written = mark;
        self.tell(ExecutorEvent::Ended(id, Box::new(result)));
    }
}

impl Executor for Sleepers {
    fn start(&self, events: UnboundedSender<ExecutorEvent>) {
        self.state().events = Some(events);
    }

    fn submit(&self, _: WorkerIx, attempts: Vec<AttemptSpec>) {
        self.state().queue.extend(attempts);
        self.begin_what_fits();
    }

    fn cancel(&self, attempts: &[AttemptId], kill: bool) {
        self.recall(attempts);
        for id in attempts {
            if kill {
                self.end(*id, Outcome::Cancelled);
            } else if let Some((_, end)) = self.state().running.get_mut(id) {
                end.abort();
                *end = self.end_after(Some(TERM), *id, Outcome::Cancelled);
            }
        }
    }

    fn recall(&self, attempts: &[AttemptId]) {
        let mut state = self.state();
        for id in attempts {
            let at = state.queue.iter().position(|spec| spec.attempt == *id);
            if let Some(at) = at {
                state.queue.remove(at);
                state.tell_end(*id, Outcome::Cancelled, self.mark);
            }
        }
    }

    fn shutdown(&self) {}
}
