//! What goes wrong with credentials and connections, with the remedy beside it. Never holds a secret.

use std::fmt;

/// What kind of trouble it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Files or settings on this machine are not right.
    Settings,
    /// The other side could not be reached; trying again may help.
    Unreachable,
    /// One side does not trust the other.
    Untrusted,
}

/// An error with its remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What kind of trouble it is.
    pub kind: Kind,
    /// What is wrong: a fragment in lower case that names the thing.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Error {
    pub(crate) fn settings(message: impl Into<String>) -> Self {
        Self::new(Kind::Settings, message)
    }

    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unreachable, message)
    }

    pub(crate) fn untrusted(message: impl Into<String>) -> Self {
        Self::new(Kind::Untrusted, message)
    }

    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}
