//! Why a run could not begin, or the workspace not be used.

use std::path::{Path, PathBuf};

use crate::Holder;

/// What scoring the trials of a changed study again would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rescore {
    /// Nothing: it is another study.
    Refused,
    /// It would need simulations.
    Simulations,
    /// Scores may be all that it runs.
    Scores,
}

/// Trouble of the environment: exit code 3. A node that fails is never one of these.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file of the workspace cannot be read or written.
    #[error("cannot {what} `{}`: {error}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Another run has the workspace.
    #[error("another run has this folder: {0}; wait for it or stop it")]
    Locked(Box<Holder>),
    /// Anybody could write into the workspace.
    #[error("`{}` can be written by everybody; run `chmod 700 {}`", .0.display(), .0.display())]
    WorldWritable(PathBuf),
    /// A journal is damaged in its middle.
    #[error(
        "`{}` is damaged at byte {at}{}; `dagrun journal repair {}` keeps a copy of it and all records that can still be read",
        path.display(),
        next.map(|n| format!(" and goes on at byte {n}")).unwrap_or_default(),
        run_of(path)
    )]
    CorruptJournal {
        /// The file.
        path: PathBuf,
        /// Where the damage begins.
        at: u64,
        /// Where good records go on; none where the header itself is bad.
        next: Option<u64>,
    },
    /// There is no such run.
    #[error("no run `{0}` in this folder; `dagrun runs` lists them")]
    UnknownRun(String),
    /// Nothing has run yet.
    #[error("nothing has run in this folder yet")]
    NoRun,
    /// Several runs begin with that text.
    #[error("`{0}` is the beginning of several runs; give more of the id")]
    AmbiguousRun(String),
    /// There is no such node.
    #[error("no node `{id}` in the plan{}", suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
    UnknownNode {
        /// What was asked for.
        id: String,
        /// The nearest id.
        suggestion: Option<String>,
    },
    /// The store does not answer.
    #[error("the store does not answer: {0}")]
    Store(String),
    /// The executor cannot start.
    #[error("the executor cannot start: {0}")]
    Executor(String),
    /// A study cannot go on.
    #[error("{0}")]
    Study(String),
    /// A study of this name was another one, and nothing is said of what becomes of it.
    #[error("study `{name}` has changed since its trials ended: {}", changes.join("; "))]
    StudyChanged {
        /// The study.
        name: String,
        /// What changed, in words.
        changes: Vec<String>,
        /// What scoring the trials again would do.
        rescore: Rescore,
    },
    /// Trials cannot be told again without simulations.
    #[error(
        "the simulations of {missing} of {scored} scored trials are not in the cache: what they depend on has changed, or they were collected; nothing was scored again"
    )]
    StudySimulations {
        /// Trials with a score.
        scored: u64,
        /// Of these, the ones without simulations.
        missing: u64,
    },
    /// Something that the plan needs cannot be found out.
    #[error("{0}")]
    Facts(String),
}

/// The run whose journal a file is.
fn run_of(path: &Path) -> String {
    path.parent()
        .and_then(Path::file_name)
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

impl RunError {
    pub(crate) fn io<'a>(
        what: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(std::io::Error) -> Self + 'a {
        move |error| Self::Io {
            what,
            path: path.to_path_buf(),
            error,
        }
    }
}
