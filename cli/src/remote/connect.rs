//! A connection to a coordinator, for commands that are not asynchronous themselves.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use dagrun_cluster::{
    runs::{CallError, RunsClient},
    security::{Address, Channel, Connector, Error, Expect, Kind},
};
use dagrun_run::Followed;
use tokio::runtime::Runtime;

use crate::{
    args::{Coordinator, Global},
    credentials::{connector, security_error},
    error::CliError,
    say,
    settings::Settings,
    term::shell_word,
};

/// A coordinator and the runtime over which it is talked to.
pub(crate) struct Remote {
    pub(crate) runtime: Runtime,
    pub(crate) client: RunsClient,
    /// As it was named, for messages.
    pub(crate) address: String,
    /// The flags that name it in a command.
    pub(super) flags: String,
    connector: Connector,
}

impl Remote {
    /// Connects, with the certificates or the token that settings name.
    pub(crate) fn connect(coordinator: &Coordinator, global: &Global) -> Result<Self, CliError> {
        Self::connect_within(REACH, coordinator, global)
    }

    /// Likewise, and tries again for so long.
    pub(super) fn connect_within(
        patience: Duration,
        coordinator: &Coordinator,
        global: &Global,
    ) -> Result<Self, CliError> {
        let settings = Settings::load(Path::new("."), &global.cache)?;
        let address = address(coordinator, &settings)?;
        let address = address.as_str();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| CliError::environment(format!("cannot start a runtime: {error}")))?;
        let to: Address = address.parse().map_err(security_error)?;
        let connector = connector(&coordinator.credentials, &settings)?;
        let channel = runtime
            .block_on(reach(patience, &connector, &to))
            .map_err(security_error)?;
        Ok(Self {
            runtime,
            client: RunsClient::new(channel),
            address: address.to_owned(),
            flags: flags(coordinator, Some(address)),
            connector,
        })
    }

    /// A command for the same coordinator, as it is typed.
    pub(super) fn typed(&self, words: &str) -> String {
        format!("dagrun {words}{}", self.flags)
    }

    /// A run there, for the lock of a folder.
    pub(super) fn followed(&self, run: &str) -> Followed {
        Followed {
            run: run.to_owned(),
            on: self.address.clone(),
        }
    }

    /// Whether settings name a coordinator.
    pub(super) fn is_named(global: &Global) -> Result<bool, CliError> {
        let settings = Settings::load(Path::new("."), &global.cache)?;
        Ok(settings.cluster_on.value.is_some())
    }

    /// What makes connections with the same credentials.
    pub(crate) fn connector(&self) -> Connector {
        self.connector.clone()
    }
}

/// The flags that name a coordinator, with a space before each.
pub(crate) fn flags(coordinator: &Coordinator, address: Option<&str>) -> String {
    let credentials = &coordinator.credentials;
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    // What the variable says, it says the next time too.
    let said = std::env::var(Coordinator::VARIABLE).ok();
    let address = address.filter(|address| said.as_deref() != Some(address));
    let given = [
        ("--on", address.map(str::to_owned)),
        ("--tls", path(&credentials.tls)),
        ("--token-file", path(&credentials.token_file)),
    ];
    let flags = given.into_iter().filter_map(|(flag, value)| {
        let value = value?;
        Some(format!(" {flag} {}", shell_word(&value)))
    });
    flags.collect()
}

/// How long it is tried to make a connection: a coordinator may be starting again.
const REACH: Duration = Duration::from_secs(5);
/// How long one may take to answer that is asked only because it may know more.
const AT_ONCE: Duration = Duration::from_secs(2);
/// How long a coordinator that was there and went away is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long between two tries.
const PAUSE: Duration = Duration::from_millis(250);

async fn reach(patience: Duration, connector: &Connector, to: &Address) -> Result<Channel, Error> {
    let until = Instant::now() + patience;
    let mut said = false;
    if patience.is_zero() {
        let connecting = connector.connect(to, Expect::Coordinator);
        let late = |_| Error {
            kind: Kind::Unreachable,
            message: format!("{to} does not answer"),
            hint: None,
        };
        return tokio::time::timeout(AT_ONCE, connecting)
            .await
            .map_err(late)?;
    }
    loop {
        match connector.connect(to, Expect::Coordinator).await {
            // A try itself may take longer than all of it: of an address behind a firewall nothing comes back.
            Err(error) if error.kind == Kind::Unreachable && Instant::now() < until => {
                if !std::mem::replace(&mut said, true) {
                    say!(
                        "{}; trying again for {} s",
                        error.message,
                        patience.as_secs()
                    );
                }
                tokio::time::sleep(PAUSE).await;
            }
            answer => return answer,
        }
    }
}

/// The patience that is left with a coordinator, for calls that may be repeated.
#[derive(Default)]
pub(super) struct Patience {
    until: Option<Instant>,
}

impl Patience {
    /// Waits before a call is made again.
    ///
    /// # Errors
    /// The call's own, where it is no use or was waited long enough.
    pub(super) async fn wait(&mut self, address: &str, error: CallError) -> Result<(), CallError> {
        let CallError::Away(why) = &error else {
            return Err(error);
        };
        let now = Instant::now();
        if self.until.is_some_and(|until| until <= now) {
            return Err(error);
        }
        self.until.get_or_insert_with(|| {
            say!("{address} went away ({why}); waiting for it");
            now + PATIENCE
        });
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}

/// Makes a call, again where the coordinator went away. It must be one that may be repeated.
pub(super) async fn patiently<T>(
    address: &str,
    mut call: impl AsyncFnMut() -> Result<T, CallError>,
) -> Result<T, CallError> {
    let mut patience = Patience::default();
    loop {
        match call().await {
            Ok(answer) => return Ok(answer),
            Err(error) => patience.wait(address, error).await?,
        }
    }
}

/// The address of a coordinator: a flag or DAGRUN_ON, else settings.
fn address(coordinator: &Coordinator, settings: &Settings) -> Result<String, CliError> {
    let named = coordinator
        .on
        .clone()
        .or_else(|| settings.cluster_on.value.clone());
    named.ok_or_else(|| {
        CliError::invalid("no coordinator is named").hint(
            "name one by `--on HOST:PORT`, DAGRUN_ON or `[cluster] on` in dagrun.toml; `dagrun serve` starts one",
        )
    })
}

/// A failed call as a command's error.
pub(crate) fn call_error(error: CallError) -> CliError {
    match error {
        CallError::Refused(why) => CliError::invalid(why),
        error => CliError::environment(error),
    }
}
