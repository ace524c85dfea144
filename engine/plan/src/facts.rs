//! What a plan has to know of the outside: asked for in one batch, answered in one batch.

use std::sync::{Arc, Mutex, OnceLock};

use dagrun_model::{BlobRef, ContentHasher, Digest, Span};
use indexmap::{Equivalent, IndexSet};
use rustc_hash::{FxBuildHasher, FxHashMap};
use serde::{Deserialize, Serialize};

/// What a plan needs to know before it can make keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FactRequest {
    /// Paths, folders and globs, each once.
    pub globs: Vec<GlobRequest>,
    /// Commands of `toolchain`, each once.
    pub commands: Vec<Vec<String>>,
    /// Files of `toolchain`, each once.
    pub files: Vec<String>,
    /// Variables of the caller's environment that enter keys.
    pub env: Vec<String>,
    /// Whether the state of the git repository is asked for.
    pub git: bool,
}

/// A path, folder or glob that some node has as input.
#[derive(Clone, Debug, PartialEq)]
pub struct GlobRequest {
    /// Relative to the project folder unless `external`.
    pub pattern: String,
    /// It may leave the project folder.
    pub external: bool,
    /// Where it stands.
    pub span: Span,
}

/// The answers to a [`FactRequest`]; each list is parallel to the request's.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The files that each pattern finds, sorted by path; folders are expanded to all files below them.
    pub globs: Vec<Vec<FoundFile>>,
    /// The standard output of each command, or why there is none.
    pub commands: Vec<Result<String, String>>,
    /// The digest of each file, or why there is none.
    pub files: Vec<Result<Digest, String>>,
    /// The value of each variable, where it is set.
    pub env: Vec<Option<String>>,
    /// The state of the repository, where there is one.
    pub git: Option<GitFacts>,
    /// For paths that find nothing, the first hundred of them, a path that exists and is spelled much alike.
    pub alike: FxHashMap<String, String>,
}

/// A file that a pattern found.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundFile {
    /// Relative to the project folder with `/` between names, or absolute if external.
    pub path: String,
    /// Its content.
    pub blob: BlobRef,
}

/// The state of a git repository.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GitFacts {
    /// The commit that is checked out, in hex.
    pub commit: String,
    /// The branch; empty where none is checked out.
    pub branch: String,
    /// Whether the working tree differs from the commit: files that were changed, staged or deleted, and new ones that are
    /// not ignored.
    pub dirty: bool,
}

/// Whether a path has a character that makes it a glob.
pub fn is_glob(path: &str) -> bool {
    path.contains(['*', '?', '[', '{'])
}

/// The patterns that were asked for, by number.
#[derive(Debug, Default)]
pub(crate) struct Patterns {
    table: IndexSet<(Box<str>, bool), FxBuildHasher>,
    spans: Vec<Span>,
}

/// A pattern to look for: hashes like the pairs of the table.
#[derive(Hash)]
struct PatternKey<'a>(&'a str, bool);

impl Equivalent<(Box<str>, bool)> for PatternKey<'_> {
    fn equivalent(&self, key: &(Box<str>, bool)) -> bool {
        (self.0, self.1) == (&*key.0, key.1)
    }
}

impl Patterns {
    /// Adds a pattern if it is new, and gives its number.
    pub(crate) fn add(&mut self, pattern: String, external: bool, span: Span) -> usize {
        let (ix, new) = self.table.insert_full((pattern.into(), external));
        if new {
            self.spans.push(span);
        }
        ix
    }

    /// The pattern of a number.
    pub(crate) fn get(&self, ix: usize) -> &str {
        &self.table[ix].0
    }

    pub(crate) fn find(&self, pattern: &str, external: bool) -> Option<usize> {
        self.table.get_index_of(&PatternKey(pattern, external))
    }

    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Those of the project, with the places where they stand.
    pub(crate) fn of_project(&self) -> impl Iterator<Item = (&str, Span)> {
        let entries = self.table.iter().zip(&self.spans);
        entries.filter_map(|((pattern, external), span)| (!external).then_some((&**pattern, *span)))
    }

    pub(crate) fn requests(&self) -> Vec<GlobRequest> {
        let entries = self.table.iter().zip(&self.spans);
        entries
            .map(|((pattern, external), span)| GlobRequest {
                pattern: pattern.to_string(),
                external: *external,
                span: *span,
            })
            .collect()
    }
}

/// The answers, as a plan keeps them.
#[derive(Debug, Default)]
pub(crate) struct FactTable {
    pub(crate) facts: Arc<Facts>,
    pub(crate) request: Arc<FactIndex>,
    /// Where other plans have the same answers.
    pub(crate) shared: Option<Arc<SharedFacts>>,
}

/// Answers that the plans of all trials have in common.
#[derive(Debug, Default)]
pub(crate) struct SharedFacts {
    /// The first answers that were given.
    pub(crate) facts: OnceLock<Arc<Facts>>,
    constants: Mutex<FxHashMap<usize, ConstantPart>>,
}

/// The part of a job's recipe that is the same for all cells, up to the files that it reads.
#[derive(Clone, Debug)]
pub(crate) struct ConstantPart {
    pub(crate) hasher: ContentHasher,
    /// Inputs may meet in `in/`.
    pub(crate) meeting: bool,
}

impl SharedFacts {
    /// The constant part of a job's recipe, where a plan has hashed it.
    pub(crate) fn constant(&self, job: usize) -> Option<ConstantPart> {
        self.constants.lock().ok()?.get(&job).cloned()
    }

    pub(crate) fn add_constant(&self, job: usize, constant: ConstantPart) {
        if let Ok(mut known) = self.constants.lock() {
            known.insert(job, constant);
        }
    }
}

/// Where in the answers a question stands.
#[derive(Debug, Default)]
pub(crate) struct FactIndex {
    pub(crate) commands: IndexSet<Vec<String>, FxBuildHasher>,
    pub(crate) files: IndexSet<String, FxBuildHasher>,
    pub(crate) env: IndexSet<String, FxBuildHasher>,
    pub(crate) git: bool,
    /// Some pattern has a value of the trial in it.
    pub(crate) of_trial: bool,
}

impl FactTable {
    /// The value of `hashFiles` of some patterns.
    pub(crate) fn hash_of(&self, patterns: &[usize]) -> Digest {
        let mut files: Vec<&FoundFile> = patterns
            .iter()
            .flat_map(|ix| &self.facts.globs[*ix])
            .collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        let mut hasher = ContentHasher::new("dagrun.hash-files.v1");
        for file in files {
            hasher = hasher
                .with(&file.path)
                .with(&file.blob.digest)
                .with(&file.blob.executable);
        }
        hasher.finish()
    }
}

/// Whether a missing file is an error: a glob may find nothing.
pub(crate) fn must_exist(pattern: &str) -> bool {
    !is_glob(pattern)
}
