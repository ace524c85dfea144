//! What happens to workers, for whoever looks after a cluster.

use std::{fmt, sync::Arc};

use dagrun_executor_api::FullDisk;
use dagrun_model::{WorkerIx, format_bytes};

use crate::message::Identity;

/// What happened to a worker.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// It is there for the first time.
    Joined {
        /// Who it is.
        worker: Arc<Identity>,
        /// Attempts that it has already, of an earlier coordinator.
        holds: usize,
    },
    /// These on different machines have one name.
    Namesakes(Vec<(WorkerIx, Arc<Identity>)>),
    /// Its connection broke; why. It has a while to come back.
    Silent(Arc<Identity>, String),
    /// It came back with what it had.
    Back(Arc<Identity>),
    /// Its disk had no room for an attempt; or it has room again.
    Disk(Arc<Identity>, Option<FullDisk>),
    /// It takes nothing new and goes; why.
    Leaves(Arc<Identity>, String),
    /// It has gone in order.
    Left(Arc<Identity>),
    /// It counts as lost; why. What it had starts elsewhere.
    Lost(WorkerIx, Arc<Identity>, String),
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joined { worker, holds } => {
                let slots = worker.capacity.cpu_milli as f64 / 1000.0;
                let memory = format_bytes(worker.capacity.memory);
                let slots = match slots {
                    1.0 => "1 slot".to_owned(),
                    more => format!("{more} slots"),
                };
                write!(f, "worker {} joined: {slots}, {memory}", worker.name)?;
                if !worker.blobs.is_empty() {
                    write!(f, ", blobs at {}", worker.blobs)?;
                }
                match holds {
                    0 => Ok(()),
                    1 => write!(f, "; it has 1 attempt"),
                    more => write!(f, "; it has {more} attempts"),
                }
            }
            Self::Namesakes(workers) => {
                let name = workers.first().map_or("", |(_, worker)| &worker.name);
                let each = workers.iter().map(|(ix, worker)| match &*worker.blobs {
                    "" => format!("number {} (process {})", ix.0, worker.pid),
                    blobs => format!("number {} (blobs at {blobs})", ix.0),
                });
                write!(
                    f,
                    "{} workers on different machines are called {name}: {}; `dagrun worker --name` tells them apart",
                    workers.len(),
                    each.collect::<Vec<_>>().join(", ")
                )
            }
            Self::Silent(worker, why) => write!(
                f,
                "the connection to worker {} broke: {why}; it may come back",
                worker.name
            ),
            Self::Back(worker) => write!(f, "worker {} came back", worker.name),
            Self::Leaves(worker, why) => {
                write!(f, "worker {} takes nothing new: {why}", worker.name)
            }
            Self::Disk(worker, Some(full)) => write!(
                f,
                "worker {} had too little room on its disk for a node: {full}; what another worker can take goes there",
                worker.name
            ),
            Self::Disk(worker, None) => {
                write!(f, "worker {} has room on its disk again", worker.name)
            }
            Self::Left(worker) => write!(f, "worker {} left", worker.name),
            Self::Lost(_, worker, why) => {
                write!(
                    f,
                    "worker {} is lost: {why}; what it had starts elsewhere",
                    worker.name
                )
            }
        }
    }
}
