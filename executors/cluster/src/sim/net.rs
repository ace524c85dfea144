//! Connections: words arrive in order, late or never.

use crate::pool::ConnIx;

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Worker,
    Coordinator,
}

impl End {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Worker => Self::Coordinator,
            Self::Coordinator => Self::Worker,
        }
    }

    pub(super) fn index(self) -> usize {
        self as usize
    }
}

/// A connection. Coordinators know it by its position.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    pub(super) place: usize,
    pub(super) generation: u64,
    /// What the worker calls it.
    pub(super) conn: ConnIx,
    pub(super) coordinator: usize,
    /// Whether each end holds it.
    pub(super) open: [bool; 2],
    /// Nothing that is under way arrives.
    pub(super) broken: bool,
    /// When the last word to each end arrives.
    pub(super) last: [u64; 2],
}
