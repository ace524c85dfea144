//! `dagrun worker`: runs nodes for a coordinator.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use dagrun_cluster::{
    blobs::{BlobOptions, WorkerBlobs, own_ip},
    message::{Identity, Platform},
    security::Address,
    session::Exit,
    worker::{self, Notice, Order, WorkerOptions, host},
};
use dagrun_local::{LocalExecutor, LocalOptions};
use dagrun_model::{meant_resource, parse_bytes, parse_duration};
use dagrun_store::{Store, StoreOptions};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::{
    args::{Global, WorkerArgs},
    commands::run::MAX_SLOTS,
    credentials::{connector, gate, security_error},
    error::{CliError, Context, Done},
    leftovers::WorkName,
    settings::Settings,
    shared,
    term::{Ink, Style, log, shell_word},
};

/// How long a worker that is part of a run looks for it after the connection broke.
const LINGER: Duration = Duration::from_secs(5);

pub(crate) fn worker(args: &WorkerArgs, global: &Global, style: Style) -> Done {
    if let Some(parent) = args.part_of {
        end_with(parent)?;
    }
    let address: Address = args.connect.parse().map_err(security_error)?;
    let leave_within = parse_duration(&args.leave_within).map_err(CliError::invalid)?;
    let reach = parse_duration(&args.reach_within).map_err(CliError::invalid)?;
    let settings = Settings::load(Path::new("."), &global.cache)?;
    let store = Store::open(&settings.cache.value, StoreOptions::default())
        .doing(|| "open the cache".into())?;
    let _shared = shared::open(&settings, &store, style)?;
    store.check_writable().map_err(|error| {
        CliError::environment(format!("the cache does not take results: {error}"))
    })?;
    let own = match &args.work_name {
        Some(_) => None,
        None => {
            let work = store.root().join("work");
            Some(WorkName::claim(&work).doing(|| format!("work in {}", work.display()))?)
        }
    };
    let named = own
        .as_ref()
        .map(|own| &own.name)
        .or(args.work_name.as_ref());
    let name = named.expect("one of both is there").clone();
    let executor = local_executor(args, &settings, store.clone(), name)?;
    let blobs = match args.part_of {
        // The run that it is part of has the same store.
        Some(_) => None,
        None => Some(start_blobs(args, &address, &store, &settings)?),
    };
    let mut identity = identity(args, &executor, &store)?;
    identity.blobs = blobs
        .as_ref()
        .map_or_else(String::new, WorkerBlobs::address);
    let who = identity.name.clone();
    let (orders, received) = unbounded_channel();
    handle_signals(orders, leave_within)?;
    let options = WorkerOptions {
        address: address.clone(),
        connector: connector(&args.credentials, &settings)?,
        identity,
        blobs,
        store,
        reach,
        linger: args.part_of.map(|_| LINGER),
    };
    let quiet = style.quiet || args.part_of.is_some();
    let notice = |notice: Notice| {
        if !quiet {
            tell(&notice, &who, &address, style);
        }
    };
    let exit = run(options, executor, received, &notice)?;
    if exit == Exit::Left && !quiet {
        log(format_args!("{who} left"));
    }
    conclude(exit, &address)
}

/// Serves the blobs of the store, and fetches what it lacks.
fn start_blobs(
    args: &WorkerArgs,
    coordinator: &Address,
    store: &Store,
    settings: &Settings,
) -> Result<WorkerBlobs, CliError> {
    let listen = match &args.blobs {
        Some(text) => text.parse().map_err(security_error)?,
        None => Address::Tcp {
            host: own_ip(coordinator).to_string(),
            port: 0,
        },
    };
    let bytes = args.cache_size.as_deref().map(parse_bytes).transpose();
    let options = BlobOptions {
        coordinator: coordinator.clone(),
        listen,
        host: host_id(store)?,
        max_bytes: bytes.map_err(CliError::invalid)?,
    };
    let gate = gate(&args.credentials, settings)?;
    let connector = connector(&args.credentials, settings)?;
    WorkerBlobs::start(store, &gate, connector, options).map_err(security_error)
}

fn run(
    options: WorkerOptions,
    executor: LocalExecutor,
    orders: UnboundedReceiver<Order>,
    notice: &dyn Fn(Notice),
) -> Result<Exit, CliError> {
    worker::run(options, Arc::new(executor), orders, notice).doing(|| "start the worker".into())
}

fn tell(notice: &Notice, who: &str, address: &Address, style: Style) {
    match notice {
        Notice::Joined => log(format_args!(
            "{} {who} works for {address}",
            style.paint(Ink::Good, "connected:")
        )),
        Notice::Unreached(why) => log(format_args!(
            "{} {why}; trying to reach {address} again",
            style.paint(Ink::Warn, "waiting:")
        )),
        Notice::Disconnected(why) => log(format_args!(
            "{} {why}; trying to reach {address} again, what runs goes on",
            style.paint(Ink::Warn, "disconnected:")
        )),
        Notice::Leaving(why) => log(format_args!(
            "{} {why}; it takes nothing new, and ends when what it has is over",
            style.paint(Ink::Warn, "leaving:")
        )),
    }
}

fn conclude(exit: Exit, address: &Address) -> Done {
    match exit {
        Exit::Left => Ok(0),
        Exit::Refused(reason) => Err(CliError::environment(format!(
            "the coordinator at {address} does not take this worker: {reason}"
        ))),
        Exit::Unreachable(reason) => Err(CliError::environment(format!(
            "cannot join a coordinator at {address}: {reason}"
        ))),
    }
}

fn local_executor(
    args: &WorkerArgs,
    settings: &Settings,
    store: Store,
    name: String,
) -> Result<LocalExecutor, CliError> {
    let spawner = std::env::current_exe().doing(|| "find dagrun's own program".into())?;
    let work = store.root().join("work");
    // Inputs come from the store alone.
    let mut options = LocalOptions::new(store, "/", work, spawner, name);
    let slots = args.slots.unwrap_or(settings.jobs.value);
    if slots == 0 || slots > MAX_SLOTS {
        return Err(CliError::invalid(format!(
            "`--slots {slots}` cannot be: write a number from 1 to {MAX_SLOTS}"
        )));
    }
    options.slots = u32::try_from(slots).unwrap_or(u32::MAX);
    let memory = match &args.memory {
        Some(text) => parse_bytes(text).map_err(CliError::invalid)?,
        None => settings.memory.value,
    };
    options.memory = Some(memory).filter(|bytes| *bytes > 0);
    options.named = settings.resources.value.clone();
    options.named.extend(amounts(&args.resources)?);
    options.secrets = settings.secret_values().map_err(CliError::environment)?;
    options.staging = settings.staging();
    options.profile.clone_from(&args.profile);
    LocalExecutor::new(options).doing(|| "run nodes here".into())
}

fn identity(
    args: &WorkerArgs,
    executor: &LocalExecutor,
    store: &Store,
) -> Result<Identity, CliError> {
    let info = executor.info();
    let speed = match args.part_of {
        // All workers of the run are on this machine.
        Some(_) => 1000,
        None => host::speed(),
    };
    Ok(Identity {
        version: env!("CARGO_PKG_VERSION").into(),
        platform: Platform::here(),
        name: args.name.clone().unwrap_or_else(host::host_name),
        host: host_id(store)?,
        incarnation: host::incarnation().doing(|| "read /dev/urandom".into())?,
        capacity: info.capacity.clone(),
        labels: pairs("--label", &args.labels)?,
        profile: info.profile.clone(),
        blobs: String::new(),
        speed,
        ahead: info.ahead,
        boot: host::boot_id(),
        pid: std::process::id(),
    })
}

fn host_id(store: &Store) -> Result<String, CliError> {
    host::host_id(store.root()).doing(|| "look at the cache".into())
}

fn pairs(flag: &str, texts: &[String]) -> Result<BTreeMap<String, String>, CliError> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(CliError::invalid(format!(
            "`{flag} {text}` names no value: write NAME=VALUE"
        ))),
    };
    texts.iter().map(pair).collect()
}

/// Amounts of named resources, in thousandths.
fn amounts(texts: &[String]) -> Result<BTreeMap<String, u64>, CliError> {
    let amount = |(name, text): (String, String)| {
        let flag = match meant_resource(&name) {
            Some("memory") => Some("--memory"),
            Some(_) => Some("--slots"),
            None => None,
        };
        if let Some(flag) = flag {
            let error = format!("`{name}` is no name for a resource of its own");
            return Err(CliError::invalid(error).hint(format!(
                "write `{flag} {}` in the place of `--resource {name}={text}`",
                shell_word(&text)
            )));
        }
        match text.parse::<f64>() {
            Ok(amount) if amount >= 0.0 => Ok((name, (amount * 1000.0).round() as u64)),
            _ => Err(CliError::invalid(format!(
                "`--resource {name}={text}` is no amount: write a number, such as {name}=1"
            ))),
        }
    };
    pairs("--resource", texts)?
        .into_iter()
        .map(amount)
        .collect()
}

/// First signal: leave. Second: quit.
fn handle_signals(orders: UnboundedSender<Order>, within: Duration) -> Result<(), CliError> {
    let mut first = true;
    crate::signals::listen(move |name| {
        let order = match std::mem::take(&mut first) {
            true => Order::Leave(within, format!("it was told to stop by {name}")),
            false => Order::Quit,
        };
        // A worker that is over needs no order.
        let _ = orders.send(order);
    })
}

/// Makes this process end with another one, however that ends.
fn end_with(parent: u32) -> Result<(), CliError> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .doing(|| "ask to end with the run".into())?;
    // It may have died before that was asked.
    let now = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if now != parent.cast_signed() {
        return Err(CliError::environment(
            "the run that this worker is part of is over",
        ));
    }
    Ok(())
}
