//! Facts for the plans of a study: each is found once and holds for the whole run, so that all trials see the same files.

use dagrun_model::Digest;
use dagrun_plan::{FactRequest, Facts, FoundFile, GitFacts};
use dagrun_store::FileHashes;
use rustc_hash::FxHashMap;

use crate::{RunError, Workspace, facts};

/// What was found so far.
pub(crate) struct FactCache {
    hashes: FileHashes,
    workspace: Workspace,
    globs: FxHashMap<(String, bool), Vec<FoundFile>>,
    commands: FxHashMap<Vec<String>, Result<String, String>>,
    files: FxHashMap<String, Result<Digest, String>>,
    alike: FxHashMap<String, String>,
    env: FxHashMap<String, Option<String>>,
    git: Option<Option<GitFacts>>,
}

impl std::fmt::Debug for FactCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FactCache")
            .field("globs", &self.globs.len())
            .finish_non_exhaustive()
    }
}

impl FactCache {
    /// An empty cache that asks a workspace.
    pub(crate) fn new(workspace: &Workspace) -> Self {
        Self {
            hashes: FileHashes::open(&workspace.hashes_path()),
            workspace: workspace.clone(),
            alike: FxHashMap::default(),
            globs: FxHashMap::default(),
            commands: FxHashMap::default(),
            files: FxHashMap::default(),
            env: FxHashMap::default(),
            git: None,
        }
    }

    /// Forgets a path that this run has written.
    pub(crate) fn forget(&mut self, path: &str) {
        self.globs.retain(|(pattern, _), _| pattern != path);
    }

    /// Answers a request; asks only for what was never asked before.
    ///
    /// # Errors
    /// As [`facts::answer`].
    pub(crate) fn answer(&mut self, request: &FactRequest) -> Result<Facts, RunError> {
        let new = self.unknown(request);
        if new != FactRequest::default() {
            let found = facts::answer(&new, &self.hashes, &self.workspace)?;
            self.learn(&new, found);
            // What is remembered only saves work.
            let _ = self.hashes.save();
        }
        Ok(self.recall(request))
    }

    fn unknown(&self, request: &FactRequest) -> FactRequest {
        let globs = request.globs.iter();
        FactRequest {
            globs: globs
                .filter(|glob| {
                    !self
                        .globs
                        .contains_key(&(glob.pattern.clone(), glob.external))
                })
                .cloned()
                .collect(),
            commands: missing(&request.commands, |c| self.commands.contains_key(c)),
            files: missing(&request.files, |file| self.files.contains_key(file)),
            env: missing(&request.env, |name| self.env.contains_key(name)),
            git: request.git && self.git.is_none(),
        }
    }

    fn learn(&mut self, asked: &FactRequest, found: Facts) {
        let globs = asked.globs.iter().zip(found.globs);
        self.globs
            .extend(globs.map(|(glob, files)| ((glob.pattern.clone(), glob.external), files)));
        self.commands
            .extend(asked.commands.iter().cloned().zip(found.commands));
        self.files
            .extend(asked.files.iter().cloned().zip(found.files));
        self.alike.extend(found.alike);
        self.env.extend(asked.env.iter().cloned().zip(found.env));
        if asked.git {
            self.git = Some(found.git);
        }
    }

    fn recall(&self, request: &FactRequest) -> Facts {
        let globs = request.globs.iter();
        Facts {
            alike: self.alike.clone(),
            globs: globs
                .map(|glob| self.globs[&(glob.pattern.clone(), glob.external)].clone())
                .collect(),
            commands: recalled(&request.commands, &self.commands),
            files: recalled(&request.files, &self.files),
            env: recalled(&request.env, &self.env),
            git: request.git.then(|| self.git.clone().flatten()).flatten(),
        }
    }
}

fn missing<T: Clone>(wanted: &[T], is_known: impl Fn(&T) -> bool) -> Vec<T> {
    wanted
        .iter()
        .filter(|item| !is_known(item))
        .cloned()
        .collect()
}

fn recalled<K: std::hash::Hash + Eq, V: Clone>(wanted: &[K], known: &FxHashMap<K, V>) -> Vec<V> {
    wanted.iter().map(|key| known[key].clone()).collect()
}
