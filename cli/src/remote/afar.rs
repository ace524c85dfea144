//! What a coordinator has of this project and this machine lacks: results and bytes of runs that were executed there.

use std::{collections::BTreeSet, fs, io, path::PathBuf, sync::Arc};

use dagrun_cluster::blobs::{FetchOptions, Fetcher, Hints, Peer, Peers};
use dagrun_model::{ActionDigest, RunId};
use dagrun_run::Workspace;
use dagrun_store::Store;
use serde::{Deserialize, Serialize};

use super::{Remote, call_error};
use crate::{
    args::{Coordinator, Credentials, Global},
    error::{CliError, Context},
    resolve::{Elsewhere, Resolved},
};

/// A coordinator that is asked for what is not here.
pub(crate) struct Afar(Remote);

impl Afar {
    /// Connects to the coordinator that is named, else to that of the last run of this project that was executed on one, else to that of
    /// the settings. Nothing where there is none.
    pub(crate) fn connect(
        flags: &Coordinator,
        workspace: &Workspace,
        global: &Global,
    ) -> Result<Option<Self>, CliError> {
        let origin = match &flags.on {
            Some(_) => None,
            None => Origin::of_last_run(workspace),
        };
        let remote = match origin {
            Some(origin) => Remote::connect(&origin.coordinator(&flags.credentials), global)?,
            None if flags.on.is_none() && !Remote::is_named(global)? => return Ok(None),
            None => Remote::connect(flags, global)?,
        };
        Ok(Some(Self(remote)))
    }

    /// From now on blobs that a store lacks come from the coordinator.
    pub(crate) fn serve(&self, store: &Store) {
        store.add_source(Arc::new(fetcher(&self.0)));
    }

    /// Resolves as far as results are here or there.
    pub(crate) fn resolve(
        &mut self,
        resolve: impl Fn(&Elsewhere) -> Result<Resolved, CliError>,
    ) -> Result<Resolved, CliError> {
        let mut elsewhere = Elsewhere::new();
        let mut asked = BTreeSet::new();
        loop {
            let resolved = resolve(&elsewhere)?;
            let missed = resolved.missed.iter().copied();
            let new: Vec<ActionDigest> = missed.filter(|it| asked.insert(*it)).collect();
            if new.is_empty() {
                return Ok(resolved);
            }
            let Remote {
                runtime, client, ..
            } = &mut self.0;
            let found = runtime.block_on(client.results(&new)).map_err(call_error)?;
            let found = new.into_iter().zip(found);
            elsewhere.extend(found.filter_map(|(digest, entry)| Some((digest, entry?))));
        }
    }
}

/// Blobs come from the coordinator, which gets them from its workers.
pub(super) fn fetcher(remote: &Remote) -> Fetcher {
    let coordinator: Peer = remote.address.as_str().into();
    let peers = Peers::new(remote.connector(), Some(Arc::clone(&coordinator)));
    let hints = Hints::new(peers.clone(), Some(Arc::clone(&coordinator)));
    Fetcher::new(
        remote.runtime.handle().clone(),
        peers,
        Arc::new(hints),
        Some(coordinator),
        FetchOptions::default(),
    )
}

/// The coordinator that executed a run, as it was named; kept beside the run's journal.
#[derive(Serialize, Deserialize)]
pub(super) struct Origin {
    on: String,
    tls: Option<PathBuf>,
    token_file: Option<PathBuf>,
}

impl Origin {
    pub(super) fn new(remote: &Remote, credentials: &Credentials) -> Self {
        // The next command may be given in another folder.
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        Self {
            on: remote.address.clone(),
            tls: credentials.tls.as_ref().map(absolute),
            token_file: credentials.token_file.as_ref().map(absolute),
        }
    }

    pub(super) fn keep(&self, workspace: &Workspace, run: &RunId) -> Result<(), CliError> {
        let path = path(workspace, run);
        let text = serde_json::to_vec(self).map_err(io::Error::from);
        text.and_then(|text| fs::write(&path, text))
            .doing(|| format!("write {}", path.display()))
    }

    /// That of the newest run which was executed elsewhere.
    fn of_last_run(workspace: &Workspace) -> Option<Self> {
        let runs = workspace.journaled_runs();
        runs.iter().rev().find_map(|run| {
            let text = fs::read(path(workspace, run)).ok()?;
            serde_json::from_slice(&text).ok()
        })
    }

    /// It with its own credentials, or those that are given now.
    fn coordinator(self, given: &Credentials) -> Coordinator {
        Coordinator {
            on: Some(self.on),
            credentials: Credentials {
                tls: given.tls.clone().or(self.tls),
                token_file: given.token_file.clone().or(self.token_file),
            },
        }
    }
}

fn path(workspace: &Workspace, run: &RunId) -> PathBuf {
    workspace.run_path(run).join("coordinator.json")
}
