//! Why an expression has no value.

use dagrun_model::{Diagnostic, Span};

/// Why an expression has no value, and what to do about it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct EvalError {
    /// The class, for callers that go on from some of them.
    pub kind: ErrorKind,
    /// The part of the expression it is about; the evaluator fills it in where a [`Context`](crate::Context) left it out.
    pub span: Option<Span>,
    /// One lowercase sentence that names the thing.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// The class of an [`EvalError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A member does not exist: `default(a, b)` gives `b` for it.
    Missing,
    /// The value is not known yet, such as a JSON output of a job that has not run. Never hidden by `default`.
    Pending,
    /// All else: wrong types, overflow, limits.
    Invalid,
}

impl EvalError {
    /// An error that no retry and no `default` mends.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Invalid,
            span: None,
            message: message.into(),
            help: None,
        }
    }

    /// A member or name that does not exist.
    pub fn missing(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Missing,
            ..Self::new(message)
        }
    }

    /// A value that is not known yet.
    pub fn pending(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Pending,
            ..Self::new(message)
        }
    }

    /// With a remedy.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// With a place, unless it has one: the innermost place is the best one.
    #[must_use]
    pub fn at(mut self, span: Span) -> Self {
        self.span.get_or_insert(span);
        self
    }

    /// As a diagnostic with the code `evaluation`; an error without a place points at `fallback`.
    pub fn to_diagnostic(&self, fallback: Span) -> Diagnostic {
        let diagnostic = Diagnostic::error(
            "evaluation",
            self.span.unwrap_or(fallback),
            self.message.clone(),
        );
        match &self.help {
            Some(help) => diagnostic.help(help.clone()),
            None => diagnostic,
        }
    }
}
