//! Facts that belong to the surroundings of whoever wants a run, not to where it is planned: output of toolchain commands,
//! variables, git.
//!
//! A coordinator plans in a copy of the client's project. There these are taken from a file of the workspace, so that the
//! keys are those that the client would make itself.

use std::{collections::BTreeMap, path::PathBuf};

use dagrun_plan::{FactRequest, Facts, GitFacts};
use serde::{Deserialize, Serialize};

use crate::{RunError, Workspace, workspace::write_whole};

/// Answers that were found elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GivenFacts {
    /// Commands with what they printed, or why they printed nothing.
    commands: Vec<(Vec<String>, Result<String, String>)>,
    env: BTreeMap<String, Option<String>>,
    /// Asked and answered; the inner is `None` outside of a repository.
    git: Option<Option<GitFacts>>,
}

impl GivenFacts {
    /// Takes what of an answer belongs to the surroundings.
    pub fn learn(&mut self, request: &FactRequest, facts: &Facts) {
        for (argv, answer) in request.commands.iter().zip(&facts.commands) {
            if self.command(argv).is_none() {
                self.commands.push((argv.clone(), answer.clone()));
            }
        }
        let env = request.env.iter().cloned().zip(facts.env.iter().cloned());
        self.env.extend(env);
        if request.git {
            self.git = Some(facts.git.clone());
        }
    }

    /// Puts them into a workspace: from now on they are its answers.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn save(&self, workspace: &Workspace) -> Result<(), RunError> {
        let bytes = serde_json::to_vec(self).expect("given facts are plain data");
        write_whole(&path(workspace), &bytes)
    }

    /// Those of a workspace; none where nobody gave any.
    pub(crate) fn load(workspace: &Workspace) -> Result<Self, RunError> {
        let path = path(workspace);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(RunError::io("read", &path)(error)),
        };
        serde_json::from_slice(&bytes).map_err(|error| {
            RunError::Facts(format!(
                "{} is damaged: {error}; submit again",
                path.display()
            ))
        })
    }

    fn command(&self, argv: &[String]) -> Option<&Result<String, String>> {
        let found = self.commands.iter().find(|(known, _)| known == argv);
        found.map(|(_, answer)| answer)
    }

    /// The answers to commands; `ask` is asked for those that were not given.
    pub(crate) fn or_commands(
        &self,
        wanted: &[Vec<String>],
        ask: impl FnOnce(&[Vec<String>]) -> Vec<Result<String, String>>,
    ) -> Vec<Result<String, String>> {
        let unknown: Vec<Vec<String>> = wanted
            .iter()
            .filter(|argv| self.command(argv).is_none())
            .cloned()
            .collect();
        let mut asked = ask(&unknown).into_iter();
        wanted
            .iter()
            .map(|argv| match self.command(argv) {
                Some(answer) => answer.clone(),
                None => asked
                    .next()
                    .expect("there is an answer for each that was asked"),
            })
            .collect()
    }

    /// The values of variables.
    pub(crate) fn or_env(
        &self,
        wanted: &[String],
        ask: impl Fn(&str) -> Option<String>,
    ) -> Vec<Option<String>> {
        wanted
            .iter()
            .map(|name| match self.env.get(name) {
                Some(value) => value.clone(),
                None => ask(name),
            })
            .collect()
    }

    /// The state of the repository.
    pub(crate) fn or_git(&self, ask: impl FnOnce() -> Option<GitFacts>) -> Option<GitFacts> {
        self.git.clone().unwrap_or_else(ask)
    }
}

fn path(workspace: &Workspace) -> PathBuf {
    workspace.root().join("given.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use dagrun_store::FileHashes;

    #[test]
    fn what_was_found_elsewhere_is_the_answer_here() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(folder.path()).unwrap();
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let request = FactRequest {
            commands: vec![words(&["printf", "here"]), words(&["printf", "also here"])],
            env: words(&["PATH", "GIVEN_ELSEWHERE"]),
            git: true,
            ..FactRequest::default()
        };
        let git = GitFacts {
            commit: "abc".into(),
            ..GitFacts::default()
        };
        let mut given = GivenFacts::default();
        given.learn(
            &FactRequest {
                commands: request.commands[..1].to_vec(),
                env: request.env[1..].to_vec(),
                git: true,
                ..FactRequest::default()
            },
            &Facts {
                commands: vec![Ok("there".into())],
                env: vec![Some("there too".into())],
                git: Some(git.clone()),
                ..Facts::default()
            },
        );
        given.save(&workspace).unwrap();

        let hashes = FileHashes::open(&workspace.hashes_path());
        let facts = crate::facts::answer(&request, &hashes, &workspace).unwrap();
        assert_eq!(facts.commands, [Ok("there".into()), Ok("also here".into())]);
        assert_eq!(facts.env[1].as_deref(), Some("there too"));
        assert!(facts.env[0].is_some());
        assert_eq!(facts.git, Some(git));
    }
}
