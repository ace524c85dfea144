//! Relative paths that cannot leave their folder.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize};

use crate::{ContentHash, ContentHasher};

/// A path below some folder: UTF-8, `/` between names, no `.`, `..`, empty names, NUL, newline or leading `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct RelPath(Arc<str>);

/// Why a text is not a [`RelPath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PathError {
    #[error("the path is empty")]
    Empty,
    #[error("`{0}` is an absolute path")]
    Absolute(String),
    #[error("`{0}` leaves its folder by `..`")]
    Escapes(String),
    #[error("{0:?} has a control character in it")]
    Control(String),
    #[error("a name in {0:?} is longer than 255 bytes")]
    LongName(String),
}

impl RelPath {
    /// Reads a path; `.` and doubled or trailing slashes are dropped.
    ///
    /// # Errors
    /// When the path could leave its folder or cannot be a path on every supported system.
    pub fn new(text: &str) -> Result<Self, PathError> {
        if text.starts_with('/') {
            return Err(PathError::Absolute(text.into()));
        }
        if text.chars().any(char::is_control) {
            return Err(PathError::Control(text.into()));
        }
        let mut names = Vec::new();
        for name in text.split('/') {
            match name {
                "" | "." => {}
                ".." => return Err(PathError::Escapes(text.into())),
                name if name.len() > 255 => return Err(PathError::LongName(text.into())),
                name => names.push(name),
            }
        }
        if names.is_empty() {
            return Err(PathError::Empty);
        }
        Ok(Self(names.join("/").into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last name.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The folder it is in, where it is in one.
    pub fn parent(&self) -> Option<RelPath> {
        self.0
            .rsplit_once('/')
            .map(|(parent, _)| Self(parent.into()))
    }

    /// This path with another below it.
    pub fn join(&self, below: &RelPath) -> RelPath {
        Self(format!("{}/{}", self.0, below.0).into())
    }

    /// Whether this is `folder` or lies below it.
    pub fn starts_with(&self, folder: &RelPath) -> bool {
        self.0
            .strip_prefix(&*folder.0)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<std::path::Path> for RelPath {
    fn as_ref(&self) -> &std::path::Path {
        std::path::Path::new(&*self.0)
    }
}

impl<'de> Deserialize<'de> for RelPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

impl ContentHash for RelPath {
    fn content_hash(&self, hasher: &mut ContentHasher) {
        self.as_str().content_hash(hasher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        assert_eq!(RelPath::new("./a//b/").unwrap().as_str(), "a/b");
        for bad in ["", ".", "/etc", "../x", "a/../../b", "a\0b", "a\nb"] {
            assert!(RelPath::new(bad).is_err(), "{bad:?}");
        }
        assert!(RelPath::new(&"x".repeat(256)).is_err());
    }

    #[test]
    fn prefixes_respect_names() {
        let path = |text| RelPath::new(text).unwrap();
        assert!(path("a/b").starts_with(&path("a")));
        assert!(!path("ab").starts_with(&path("a")));
        assert_eq!(path("a/b").parent(), Some(path("a")));
        assert_eq!(path("a/b").file_name(), "b");
    }
}
