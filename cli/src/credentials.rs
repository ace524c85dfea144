//! What this side shows to others in a cluster: flags first, then the environment, then settings.

use std::sync::Arc;

use dagrun_cluster::security::{Connector, Error, Gate, Kind, Limits, TOKEN_VARIABLE};

use crate::{args::Credentials, error::CliError, settings::Settings};

/// How connections to others are made.
pub(crate) fn connector(flags: &Credentials, settings: &Settings) -> Result<Connector, CliError> {
    let tls = flags.tls.as_ref().or(settings.cluster_tls.value.as_ref());
    let in_environment = std::env::var_os(TOKEN_VARIABLE).is_some_and(|token| !token.is_empty());
    let in_settings = settings.cluster_token.value.as_ref();
    let token = flags
        .token_file
        .as_ref()
        .or_else(|| in_settings.filter(|_| !in_environment));
    Connector::open(tls.map(|folder| &**folder), token.map(|file| &**file)).map_err(security_error)
}

/// What lets others in. `None` for the folder: only what is on this machine, and only its user.
pub(crate) fn gate(flags: &Credentials, settings: &Settings) -> Result<Arc<Gate>, CliError> {
    let tls = flags.tls.as_ref().or(settings.cluster_tls.value.as_ref());
    Gate::open(tls.map(|folder| &**folder), Limits::default()).map_err(security_error)
}

/// A trouble with credentials as a command's error.
pub(crate) fn security_error(error: Error) -> CliError {
    let told = match error.kind {
        Kind::Settings => CliError::invalid(error.message),
        Kind::Unreachable | Kind::Untrusted => CliError::environment(error.message),
    };
    match error.hint {
        Some(hint) => told.hint(hint),
        None => told,
    }
}
