//! Making an attempt ready to run: folder, inputs, scripts, environment.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use dagrun_model::{
    ActionCommand, Artifact, AttemptResult, AttemptSpec, Digest, FailureCause, InputSource,
    Outcome, RelPath, StagedInput,
};

use crate::{
    Finished, Worker, env,
    inputs::{Inputs, write_new},
    spawner::wire::{Cmd, Start},
    worker::io_failure,
};

/// So many files, of so many bytes together, are staged or stored in less time than another thread needs to wake up.
const FEW: usize = 4;
const SMALL: u64 = 256 << 10;

/// An attempt whose folder is ready.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) spec: AttemptSpec,
    pub(crate) folder: PathBuf,
    pub(crate) inputs: Inputs,
    /// Taken when it is started.
    pub(crate) order: Option<Box<Start>>,
    /// Seconds for the folder, and for staging.
    pub(crate) start: f64,
    pub(crate) fetch: f64,
}

impl Prepared {
    /// What it was made from.
    pub fn spec(&self) -> &AttemptSpec {
        &self.spec
    }

    /// The folder of the node.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How long it took to make it ready.
    pub fn took(&self) -> Duration {
        Duration::from_secs_f64(self.start + self.fetch)
    }

    /// Whether collecting it takes little enough to be done at once by a thread that has nothing else to do: what it made are
    /// a few small files.
    pub fn is_small(&self, finished: &Finished) -> bool {
        let outputs = self.spec.action.outputs.iter().map(|output| &output.path);
        let is_small = |path: &RelPath| match fs::symlink_metadata(self.folder.join(path)) {
            Ok(meta) => meta.is_file() && meta.len() <= SMALL,
            Err(_) => true,
        };
        self.spec.action.outputs.len() <= FEW
            && is_small_spec(&self.spec)
            && finished.is_small()
            && outputs.chain(&self.spec.action.stdout).all(is_small)
    }

    /// Whether collecting it does no more than remove an empty folder, apart from logs.
    pub fn is_light(&self) -> bool {
        is_light(&self.spec)
    }
}

/// Whether staging for an attempt takes no longer than handing it to another thread: a few small files.
fn is_small_spec(spec: &AttemptSpec) -> bool {
    let size = |input: &StagedInput| match &input.source {
        InputSource::Workspace { blob, .. } => blob.size,
        InputSource::Stored(Artifact::Tree { .. }) => u64::MAX,
        InputSource::Stored(artifact) => artifact.size(),
        InputSource::Text(text) => text.len() as u64,
    };
    let sizes = spec.action.inputs.iter().map(size);
    spec.action.inputs.len() <= FEW && sizes.fold(0, u64::saturating_add) <= SMALL
}

/// Whether preparing an attempt does no more than make a folder.
pub(crate) fn is_light(spec: &AttemptSpec) -> bool {
    let action = &spec.action;
    action.inputs.is_empty() && action.outputs.is_empty() && action.stdout.is_none()
}

impl Worker {
    /// Whether preparing this takes so little that it is not worth handing to another thread.
    pub fn is_light(&self, spec: &AttemptSpec) -> bool {
        is_light(spec)
            && spec
                .action
                .commands
                .iter()
                .all(|command| command.script.is_none())
    }

    /// Whether preparing this takes little enough to be done at once by a thread that has nothing else to do.
    pub fn is_small(&self, spec: &AttemptSpec) -> bool {
        is_small_spec(spec)
    }

    /// Makes the folder of an attempt and all that it may read.
    ///
    /// # Errors
    /// The attempt's result, where it cannot be made ready; nothing is left of it then.
    pub fn prepare(&self, spec: AttemptSpec) -> Result<Prepared, Box<AttemptResult>> {
        let began = Instant::now();
        let failed = |cause| Box::new(AttemptResult::bare(Outcome::Failed(cause)));
        let folder = self.folders.take().map_err(failed)?;
        self.try_prepare(&spec, &folder, began)
            .map(|ready| Prepared {
                spec,
                folder: folder.clone(),
                ..ready
            })
            .map_err(|cause| {
                self.folders.give_back(&folder);
                failed(cause)
            })
    }

    fn try_prepare(
        &self,
        spec: &AttemptSpec,
        folder: &Path,
        began: Instant,
    ) -> Result<Prepared, FailureCause> {
        let options = &self.options;
        let env = env::of_attempt(spec, &options.run, &self.session, &options.secrets)?;
        let staging = Instant::now();
        let inputs = self.stage(&spec.action, folder)?;
        let staged = Instant::now();
        make_output_folders(spec, folder)?;
        let commands = spec
            .action
            .commands
            .iter()
            .map(|command| self.command(command))
            .collect::<Result<_, _>>()?;
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let limits = &spec.action.limits;
        let order = Box::new(Start {
            id: spec.attempt.0,
            resources: spec.resources.clone(),
            token: env.token,
            commands,
            env: env.vars,
            folder: text(folder.to_path_buf()),
            scratch: text(self.scratch.join(format!("{}-", spec.attempt))),
            stdout: spec
                .action
                .stdout
                .as_ref()
                .map(|path| text(folder.join(path))),
            mask: env.secret_values,
            timeout: limits.timeout,
            grace: limits.grace,
            memory: limits.memory,
            log_cap: limits.log_cap,
        });
        Ok(Prepared {
            spec: spec.clone(),
            folder: PathBuf::new(),
            inputs,
            order: Some(order),
            start: (staging - began + staged.elapsed()).as_secs_f64(),
            fetch: (staged - staging).as_secs_f64(),
        })
    }

    fn command(&self, command: &ActionCommand) -> Result<Cmd, FailureCause> {
        let mut argv = command.argv.clone();
        if let Some(script) = &command.script {
            argv.push(self.script(script)?);
        }
        Ok(Cmd {
            name: command.name.clone(),
            argv,
            env: command.env.clone(),
        })
    }

    /// The path of a file with this script. Nodes of a job have the same script, because values travel by the environment.
    fn script(&self, text: &str) -> Result<String, FailureCause> {
        let digest = Digest::of(text.as_bytes());
        let path = self.scratch.join(format!("script-{}", digest.short()));
        let mut written = self
            .scripts
            .lock()
            .expect("nothing panics while it is held");
        if !written.contains(&digest) {
            write_new(&path, text.as_bytes(), false).map_err(|error| {
                let _ = fs::remove_file(&path);
                io_failure("write", &path, &error)
            })?;
            written.insert(digest);
        }
        Ok(path.to_string_lossy().into_owned())
    }
}

/// Programs may write their outputs without making folders first.
fn make_output_folders(spec: &AttemptSpec, folder: &Path) -> Result<(), FailureCause> {
    let outputs = spec.action.outputs.iter().map(|output| &output.path);
    for parent in outputs
        .chain(&spec.action.stdout)
        .filter_map(|path| path.parent())
    {
        let parent = folder.join(parent);
        fs::create_dir_all(&parent).map_err(|error| io_failure("make", &parent, &error))?;
    }
    Ok(())
}
