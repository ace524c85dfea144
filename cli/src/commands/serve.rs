//! `dagrun serve`: a coordinator for many runs and people.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{Arc, mpsc::channel},
    time::Duration,
};

use dagrun_cluster::{
    blobs::{CoordinatorBlobs, WriteLimits},
    net::Routes,
    pool::{Config, LostWorker, News, Pool, RunOptions, WorkerStatus},
    runs::{ClusterService, Refusal, RunsService},
    security::{Address, Connector, MESSAGE},
    wire::encode_full,
    worker::host,
};
use dagrun_executor_api::Executor;
use dagrun_model::{Resources, parse_duration};
use dagrun_proto::v1::{
    ClusterStatus, Drained, LostWorker as WireLost, Resources as WireResources, WorkerRow,
    cluster_server::ClusterServer, runs_server::RunsServer,
};
use dagrun_store::Store;

use crate::{
    args::{Global, ServeArgs},
    credentials::{connector, gate, security_error},
    error::{CliError, Context, Done},
    load::open_store,
    say,
    serve::{Coordinator, FormerLosses, RunFor, WorkersOfHost, losses, next_epoch},
    settings::Settings,
    signals,
    term::{Ink, Style, escape_line, log, plural_of},
};

/// How long a run may take after a restart of the coordinator until it takes over what workers still run of it.
const ADOPTS: Duration = Duration::from_secs(60);
/// A shorter lease would expire while a busy machine is only slow.
const MIN_LEASE: Duration = Duration::from_secs(1);
/// A longer one is as good as none.
const MAX_LEASE: Duration = Duration::from_secs(600);

pub(crate) fn serve(args: &ServeArgs, global: &Global, style: Style) -> Done {
    let settings = Settings::load(Path::new("."), &global.cache)?;
    let store = open_store(&settings)?;
    store.check_writable().map_err(|error| {
        CliError::environment(format!("the cache does not take results: {error}"))
    })?;
    if let Some(location) = &settings.shared.at.value {
        say!(
            "{} the shared cache {location} is for runs on one machine: a coordinator shares its own",
            style.paint(Ink::Warn, "warning:")
        );
    }
    let state = match &args.state {
        Some(state) => state.clone(),
        None => default_state()?,
    };
    let _lock = lock(&state)?;
    let epoch = next_epoch(&state).doing(|| format!("begin in {}", state.display()))?;
    let at: Address = args.listen.parse().map_err(security_error)?;
    let bound = gate(&args.credentials, &settings)?
        .bind(&at)
        .map_err(security_error)?;
    let address = bound.at().clone();

    let mut config = Config::new(env!("CARGO_PKG_VERSION"), epoch);
    config.limits = settings.resources.value.clone();
    config.adopts = Some(ADOPTS);
    set_lease(&mut config, &args.lease)?;
    let blobs = start_blobs(&store, connector(&args.credentials, &settings)?)?;
    let pool = Pool::start(config, Some(blobs.witness())).doing(|| "start the pool".into())?;
    let pool = Arc::new(pool);
    let former = FormerLosses::load(&state).doing(|| format!("read {}", state.display()))?;
    pool.watch({
        let (state, quiet) = (state.clone(), style.quiet);
        move |news| {
            if let News::Lost(ix, worker, why) = news {
                losses::note(&state, ix.0, &worker.name, why);
            }
            if !quiet {
                log(escape_line(&news.to_string()));
            }
        }
    });
    let coordinator = Coordinator::open(
        &state,
        epoch,
        store.clone(),
        executors(&pool, &store),
        Box::new(PoolWorkers(Arc::clone(&pool), former)),
        args.runs,
        style.quiet,
    )
    .doing(|| format!("read {}", state.display()))?;
    let services = Routes::new(
        RunsServer::new(RunsService::new(Arc::clone(&coordinator)))
            .max_decoding_message_size(MESSAGE),
    )
    .add_service(ClusterServer::new(ClusterService::new(Arc::clone(
        &coordinator,
    ))))
    .add_service(blobs.service(WriteLimits::default()).into_server());
    pool.serve(bound, services);
    if !style.quiet {
        log(format_args!(
            "{} on {address} (epoch {epoch}, state in {})",
            style.paint(Ink::Good, "coordinator"),
            state.display()
        ));
    }
    coordinator.resume();
    wait(&coordinator, &pool, style)?;
    // The threads of runs may use it until the process has ended.
    std::mem::forget(blobs);
    Ok(0)
}

/// Workers say something five times a lease, and have half of it to come back when a connection
/// breaks, up to the usual 2 s each.
fn set_lease(config: &mut Config, text: &str) -> Result<(), CliError> {
    let lease = parse_duration(text).map_err(CliError::invalid)?;
    if !(MIN_LEASE..=MAX_LEASE).contains(&lease) {
        return Err(CliError::invalid(format!(
            "`--lease {text}` cannot be: write a time from 1s to 10m"
        )));
    }
    config.lease = lease;
    config.beat = config.beat.min(lease / 5);
    config.grace = config.grace.min(lease / 2);
    Ok(())
}

/// Knows from now on where workers have blobs, and gets from them what is needed here.
fn start_blobs(store: &Store, connector: Connector) -> Result<CoordinatorBlobs, CliError> {
    let host = host::host_id(store.root()).doing(|| "look at the cache".into())?;
    CoordinatorBlobs::start(store, host, connector).doing(|| "start threads for blobs".into())
}

/// Waits until it is told to stop. What workers have goes on without it, as after a kill: what they were given is in the journals, and
/// what they have not told they tell the next coordinator. The second signal does not wait even for that.
fn wait(coordinator: &Coordinator, pool: &Pool, style: Style) -> Result<(), CliError> {
    let (sender, signals) = channel();
    let mut first = true;
    signals::listen(move |name| {
        if !std::mem::take(&mut first) {
            std::process::exit(0);
        }
        // Somebody listens until the first one.
        let _ = sender.send(name);
    })?;
    let Ok(name) = signals.recv() else {
        return Ok(());
    };
    let unfinished = coordinator.close();
    pool.close();
    if !style.quiet {
        let runs = match unfinished {
            0 => "no run is unfinished".to_owned(),
            runs => format!(
                "{} with the next start, and workers go on with what they have until then",
                plural_of(runs as u64, "run goes on", "runs go on")
            ),
        };
        log(format_args!(
            "{} by {name}: {runs}",
            style.paint(Ink::Warn, "stopped")
        ));
    }
    Ok(())
}

fn executors(pool: &Arc<Pool>, store: &Store) -> crate::serve::Executors {
    let (pool, store) = (Arc::clone(pool), store.clone());
    Box::new(move |run: RunFor| {
        let (pool, store) = (Arc::clone(&pool), store.clone());
        Box::new(move |context| {
            let executor = pool.executor(RunOptions {
                id: context.run.0.clone(),
                resumes: context.resumes.iter().map(|run| run.0.clone()).collect(),
                priority: run.priority,
                cpus: run.cpus,
                project: context.project.clone(),
                store,
            });
            Ok(executor as Arc<dyn Executor>)
        })
    })
}

/// The workers of a pool, and those that earlier ones had lost.
struct PoolWorkers(Arc<Pool>, FormerLosses);

impl WorkersOfHost for PoolWorkers {
    fn status(&self) -> ClusterStatus {
        let status = self.0.status();
        let mut lost = self.1.rows();
        lost.extend(status.lost.iter().map(lost_row));
        ClusterStatus {
            workers: status.workers.iter().map(worker_row).collect(),
            lost,
            waits: status.waits,
            ..ClusterStatus::default()
        }
    }

    fn running(&self) -> BTreeMap<Arc<str>, u64> {
        self.0.status().running
    }

    fn drain(&self, worker: &str) -> Result<Drained, Refusal> {
        let status = self.0.status();
        let rows = || status.workers.iter();
        let named: Vec<&WorkerStatus> = rows().filter(|row| row.identity.name == worker).collect();
        let numbered = rows().find(|row| row.worker.0.to_string() == worker);
        let row = match named[..] {
            [row] => row,
            [] => numbered.ok_or_else(|| {
                Refusal::Unknown(format!(
                    "there is no worker `{worker}` here; `dagrun cluster status` lists them"
                ))
            })?,
            [..] => {
                let numbers: Vec<String> =
                    named.iter().map(|row| row.worker.0.to_string()).collect();
                return Err(Refusal::Invalid(format!(
                    "{} workers are called `{worker}`; say which by its number: {}",
                    named.len(),
                    numbers.join(", ")
                )));
            }
        };
        self.0
            .drain(row.worker, "it was told to leave by `dagrun cluster drain`");
        Ok(Drained {
            attempts: row.running + row.queued,
        })
    }
}

fn worker_row(row: &WorkerStatus) -> WorkerRow {
    let identity = &row.identity;
    WorkerRow {
        worker: row.worker.0,
        name: identity.name.clone(),
        host: identity.host.clone(),
        state: row.state.into(),
        capacity: Some(wire(&identity.capacity)),
        used: Some(wire(&row.used)),
        running: row.running,
        queued: row.queued,
        speed: identity.speed,
        labels: identity.labels.clone(),
        silent_ms: millis(row.silent),
        free_bytes: row.free_bytes,
        blobs: identity.blobs.clone(),
        full: row.full.as_ref().map(encode_full),
    }
}

fn lost_row(lost: &LostWorker) -> WireLost {
    WireLost {
        worker: lost.worker.0,
        name: lost.identity.name.clone(),
        ago_ms: millis(lost.ago),
        why: lost.why.clone(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn wire(resources: &Resources) -> WireResources {
    WireResources {
        cpu_milli: resources.cpu_milli,
        memory: resources.memory,
        named: resources.named.clone(),
    }
}

/// The folder of a coordinator, where none is named.
fn default_state() -> Result<PathBuf, CliError> {
    let variable = std::env::var_os;
    state_below(variable("XDG_STATE_HOME"), variable("HOME")).ok_or_else(|| {
        CliError::environment("neither XDG_STATE_HOME nor HOME is set")
            .hint("say where the coordinator keeps its state by `--state DIR`")
    })
}

/// An empty variable is none.
fn state_below(state_home: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let set = |folder: &OsString| !folder.is_empty();
    let own = state_home.filter(set).map(PathBuf::from);
    let below_home = || Some(PathBuf::from(home.filter(set)?).join(".local/state"));
    Some(own.or_else(below_home)?.join("dagrun/serve"))
}

/// One coordinator in a state folder.
fn lock(state: &Path) -> Result<std::fs::File, CliError> {
    std::fs::create_dir_all(state).doing(|| format!("make {}", state.display()))?;
    let path = state.join("lock");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .doing(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => Err(CliError::environment(format!(
            "another coordinator has {}",
            state.display()
        ))
        .hint("one coordinator has one state folder: `--state DIR` names another, and `--listen` another address")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_where_the_reference_says() {
        let at = |state_home: Option<&str>, home: Option<&str>| {
            state_below(state_home.map(Into::into), home.map(Into::into))
        };
        assert_eq!(at(Some("/s"), Some("/h")), Some("/s/dagrun/serve".into()));
        let below_home = Some("/h/.local/state/dagrun/serve".into());
        assert_eq!(at(None, Some("/h")), below_home);
        assert_eq!(at(Some(""), Some("/h")), below_home);
        assert_eq!(at(Some(""), None), None);
    }
}
