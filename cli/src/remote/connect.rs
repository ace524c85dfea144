//! A connection to a coordinator, for commands that are not asynchronous themselves.

use std::path::Path;

use dagrun_cluster::{
    runs::{CallError, RunsClient},
    security::{Address, Connector, Expect},
};
use tokio::runtime::Runtime;

use crate::{
    args::{Coordinator, Global},
    credentials::{connector, security_error},
    error::CliError,
    settings::Settings,
};

/// A coordinator and the runtime over which it is talked to.
pub(crate) struct Remote {
    pub(crate) runtime: Runtime,
    pub(crate) client: RunsClient,
    /// As it was named, for messages.
    pub(crate) address: String,
    connector: Connector,
}

impl Remote {
    /// Connects, with the certificates or the token that settings name.
    pub(crate) fn connect(coordinator: &Coordinator, global: &Global) -> Result<Self, CliError> {
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
            .block_on(connector.connect(&to, Expect::Coordinator))
            .map_err(security_error)?;
        Ok(Self {
            runtime,
            client: RunsClient::new(channel),
            address: address.to_owned(),
            connector,
        })
    }

    /// What makes connections with the same credentials.
    pub(crate) fn connector(&self) -> Connector {
        self.connector.clone()
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
