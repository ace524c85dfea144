//! What can go wrong outside of nodes, for people: a kind that gives the exit code, a message and remedies.

use std::fmt;

/// The exit codes of every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nodes failed, or a check found something.
    Failed = 1,
    /// The pipeline, or the command line, is not valid.
    Invalid = 2,
    /// The machine, the cache or the workspace is in the way.
    Environment = 3,
}

/// An error of a command.
#[derive(Debug)]
pub(crate) struct CliError {
    pub(crate) kind: Kind,
    /// One lowercase sentence; empty where all has been said already.
    pub(crate) message: String,
    pub(crate) hints: Vec<String>,
}

impl CliError {
    fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self {
            kind,
            message: message.to_string(),
            hints: Vec::new(),
        }
    }

    pub(crate) fn invalid(message: impl fmt::Display) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub(crate) fn environment(message: impl fmt::Display) -> Self {
        Self::new(Kind::Environment, message)
    }

    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// Everything has been printed already.
    pub(crate) fn said(kind: Kind) -> Self {
        Self::new(kind, "")
    }

    pub(crate) fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hints.push(hint.to_string());
        self
    }
}

/// Adds what was being done to an error of the machine.
pub(crate) trait Context<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, CliError>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, CliError> {
        self.map_err(|error| CliError::environment(format!("cannot {}: {error}", what())))
    }
}

/// The code with which a command ends when nothing was an error.
pub(crate) type Done = Result<u8, CliError>;
