//! Commands that messages tell people to type: they work where they are read as they stand.

use std::path::{Path, PathBuf};

use dagrun_proto::v1;
use dagrun_report::{params_flags, rerun_command};

use crate::{
    args::{Params, Pipeline, RunArgs},
    term::{escape, shell_word},
};

/// The file that commands take where none is named.
const USUAL: &str = "pipeline.yaml";

/// A pipeline, and where it runs, as the person names both.
#[derive(Clone)]
pub(crate) struct Typed {
    file: PathBuf,
    params: Vec<String>,
    /// The files of parameters.
    files: Vec<String>,
    /// The flags that name the coordinator, with a space before; empty for a run here.
    on: String,
}

impl Typed {
    /// Commands for a pipeline that runs here.
    pub(crate) fn here(file: &Path, params: &Params) -> Self {
        Self {
            file: file.to_path_buf(),
            params: params.params.clone(),
            files: (params.params_file.iter())
                .map(|file| file.display().to_string())
                .collect(),
            on: String::new(),
        }
    }

    /// Likewise on a coordinator, which these flags name.
    pub(crate) fn on(mut self, flags: &str) -> Self {
        flags.clone_into(&mut self.on);
        self
    }

    /// Those of who submitted a run: on the coordinator its files have other names.
    pub(crate) fn of_submitter(typed: &v1::Typed, pipeline: &Pipeline) -> Self {
        Self {
            file: PathBuf::from(&typed.file),
            params: pipeline.params.params.clone(),
            files: typed.params_files.clone(),
            on: typed.coordinator.clone(),
        }
    }

    /// For the coordinator.
    pub(crate) fn to_wire(&self) -> v1::Typed {
        v1::Typed {
            file: self.file(),
            params_files: self.files.clone(),
            coordinator: self.on.clone(),
        }
    }

    /// The pipeline's file.
    pub(crate) fn file(&self) -> String {
        self.file.display().to_string()
    }

    /// Runs the pipeline again, as it was run.
    pub(crate) fn again(&self, args: &RunArgs) -> String {
        let mut command = self.run();
        for (flag, given) in [("-j", args.jobs), ("--workers", args.workers)] {
            if let Some(number) = given {
                command.push_str(&format!(" {flag} {number}"));
            }
        }
        self.done(command)
    }

    /// Runs one node of it.
    pub(crate) fn only(&self, node: &str) -> String {
        self.done(format!("{} --only {}", self.run(), shell_word(node)))
    }

    /// Runs it as far as a node.
    pub(crate) fn until(&self, node: &str) -> String {
        self.done(format!("{} --until {}", self.run(), shell_word(node)))
    }

    /// Shows what a node wrote.
    pub(crate) fn log(&self, node: &str) -> String {
        self.done(format!(
            "dagrun log {}{}",
            shell_word(node),
            self.with_file()
        ))
    }

    /// Opens a shell in the place of a node.
    pub(crate) fn shell(&self, node: &str) -> String {
        let (params, files) = self.params();
        self.done(format!(
            "dagrun shell {}{}{}",
            shell_word(node),
            self.with_file(),
            params_flags(params, files)
        ))
    }

    /// Shows the last run, which is here when it has ended.
    pub(crate) fn show(&self) -> String {
        escape(&format!("dagrun show{}", self.with_file()))
    }

    fn run(&self) -> String {
        let (params, files) = self.params();
        rerun_command(&self.file(), params, files)
    }

    fn with_file(&self) -> String {
        match self.file.to_str() {
            Some(USUAL) => String::new(),
            _ => format!(" -f {}", shell_word(&self.file())),
        }
    }

    /// The parameters that were given, and the files of such.
    fn params(&self) -> (impl Iterator<Item = &str>, impl Iterator<Item = &str>) {
        let (params, files) = (self.params.iter(), self.files.iter());
        (params.map(String::as_str), files.map(String::as_str))
    }

    /// Whoever attaches to a run reads what somebody else has typed.
    fn done(&self, command: String) -> String {
        escape(&(command + &self.on))
    }
}
