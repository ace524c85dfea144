//! From the end of an attempt's processes to its result: logs, outputs, measurements, and the folder's removal.

use std::{
    path::PathBuf,
    sync::PoisonError,
    time::{Duration, Instant},
};

use dagrun_model::{
    Artifact, AttemptResult, FailureCause, LogRef, Outcome, OutputSpec, Outputs, Phases, RelPath,
    Usage, format_bytes_alike,
};
use dagrun_store::{Disk, PutMode, StoreError};
use rustc_hash::FxHashMap;

use crate::{
    Finished, Prepared, Worker, folder,
    inputs::Inputs,
    json, logs,
    spawner::wire::{End, How},
    worker::store_failure,
};

/// Files that are named where an output is missing.
const FOUND: usize = 20;
/// How long what was cleared away of an attempt that met a full disk explains the failure of another.
const JUST_NOW: Duration = Duration::from_secs(1);

/// When an attempt came and went, as its executor saw it.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// From being given to the worker to being given to its spawner, without the time in which it was prepared.
    pub queue: Duration,
}

/// The folder of an attempt whose result is made; to be given to [`Worker::clear`].
#[derive(Debug)]
#[must_use = "the folder stays where it is"]
pub struct Leftover {
    folder: Option<PathBuf>,
    /// Nothing can use it any more, so that another node may.
    free: bool,
    inputs: Inputs,
}

impl Worker {
    /// Makes the result of an attempt whose processes have ended, and removes its folder.
    pub fn collect(&self, prepared: Prepared, finished: Finished, timing: Timing) -> AttemptResult {
        let (result, leftover) = self.conclude(prepared, finished, timing);
        self.clear(leftover);
        result
    }

    /// Like [`Worker::collect`], but leaves the folder to be removed once the result is reported: others wait for that.
    pub fn conclude(
        &self,
        prepared: Prepared,
        finished: Finished,
        timing: Timing,
    ) -> (AttemptResult, Leftover) {
        let began = Instant::now();
        let End {
            how,
            stdout,
            stderr,
            ..
        } = &*finished.0;
        let (out, out_error) = self.log(stdout);
        let (err, err_error) = self.log(stderr);
        let outcome = match out_error.or(err_error) {
            Some(cause) => Outcome::Failed(self.noted(cause)),
            None => self.outcome(&prepared, how),
        };
        let (kept_folder, mut leftover) = self.leave(&prepared, &outcome, finished.0.leaked);
        let mut result = AttemptResult {
            stdout: out,
            stderr: err,
            leaked: finished.0.leaked,
            kept_folder,
            ..AttemptResult::bare(outcome)
        };
        measure(&mut result, &prepared, &finished.0, timing);
        leftover.inputs = prepared.inputs;
        result.phases.store = began.elapsed().as_secs_f64();
        (result, leftover)
    }

    /// Removes a folder, or gives it to the next node.
    pub fn clear(&self, leftover: Leftover) {
        if let Some(folder) = leftover.folder {
            if leftover.free {
                self.folders.give_back(&folder);
            } else {
                self.folders.remove(&folder);
            }
        }
        leftover.inputs.gone();
    }

    /// The result of an attempt that ended without its processes having been seen to end.
    pub fn give_up(&self, prepared: Prepared, outcome: Outcome) -> AttemptResult {
        self.folders.remove(&prepared.folder);
        AttemptResult::bare(outcome)
    }

    fn log(&self, log: &crate::spawner::wire::Log) -> (Option<LogRef>, Option<FailureCause>) {
        match logs::store(&self.options.store, log) {
            Ok(log) => (log, None),
            Err(error) => (None, Some(store_failure(&error))),
        }
    }

    fn outcome(&self, prepared: &Prepared, how: &How) -> Outcome {
        if let Err(cause) = self.check_blobs(&prepared.inputs) {
            return Outcome::Failed(cause);
        }
        match how {
            How::Exit { code: 0, .. } => match self.outputs(prepared) {
                Ok(outputs) => Outcome::Succeeded(outputs),
                Err(cause) => Outcome::Failed(self.noted(cause)),
            },
            How::Cancelled => Outcome::Cancelled,
            How::Displaced { free, limit, peak } => {
                let [limit, peak, free_text] =
                    format_bytes_alike([*limit, *peak, free.unwrap_or(*limit)]);
                let what = match free {
                    None => format!(
                        "the kernel killed it when the memory of its host, {limit}, was used up"
                    ),
                    Some(_) => format!(
                        "it was stopped as the newest node of its host, where {free_text} of {limit} of memory were free"
                    ),
                };
                Outcome::Lost(format!(
                    "{what}; it had taken up to {peak}; with `resources: {{memory: ...}}` no more nodes run at once than fit"
                ))
            }
            // People know the limit they wrote; the wall time has the grace time in it.
            How::TimedOut(seconds) => {
                let limit = prepared.spec.action.limits.timeout;
                Outcome::TimedOut(limit.map_or(*seconds, |limit| limit.as_secs_f64()))
            }
            how => Outcome::Failed(self.failure(prepared, how)),
        }
    }

    fn failure(&self, prepared: &Prepared, how: &How) -> FailureCause {
        let full = || FailureCause::DiskFull {
            path: prepared.folder.display().to_string(),
        };
        match how.clone() {
            // A program that meets a full disk says so in its own words; ours are clearer.
            How::Exit { .. } | How::Signal { .. }
                if Disk::of(&prepared.folder).is_ok_and(|disk| disk.is_full()) =>
            {
                self.noted(full())
            }
            // Another one that met it beside this was cleared away perhaps.
            How::Exit { .. } | How::Signal { .. } if self.was_full_just_now() => full(),
            How::Exit { code, step } => FailureCause::Exit { code, step },
            How::Signal { signal, core, step } => FailureCause::Signal { signal, core, step },
            How::OutOfMemory { limit, peak } => FailureCause::OutOfMemory { limit, peak },
            How::Exec {
                program,
                errno,
                reason,
            } => FailureCause::Exec {
                program,
                errno,
                reason,
            },
            How::DiskFull(path) => self.noted(FailureCause::DiskFull { path }),
            How::Trouble(message) => FailureCause::Engine { message },
            How::TimedOut(_) | How::Cancelled | How::Displaced { .. } => FailureCause::Engine {
                message: "an end that is no failure was taken for one".into(),
            },
        }
    }

    /// A cause that was found. What is only explained by an earlier one is not noted, or each would explain the next.
    fn noted(&self, cause: FailureCause) -> FailureCause {
        if matches!(cause, FailureCause::DiskFull { .. }) {
            *self.full.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        cause
    }

    fn was_full_just_now(&self) -> bool {
        let found = *self.full.lock().unwrap_or_else(PoisonError::into_inner);
        found.is_some_and(|found| found.elapsed() < JUST_NOW)
    }

    fn outputs(&self, prepared: &Prepared) -> Result<Outputs, FailureCause> {
        self.recheck(&prepared.inputs)?;
        let specs = &prepared.spec.action.outputs;
        let mut found = self.take_all(prepared, specs)?;
        let missing: Vec<String> = specs
            .iter()
            .filter(|spec| !spec.optional && !found.contains_key(&spec.path))
            .map(|spec| {
                if spec.name == spec.path.as_str() {
                    spec.name.clone()
                } else {
                    format!("{} ({})", spec.name, spec.path)
                }
            })
            .collect();
        if !missing.is_empty() {
            let inputs: Vec<&RelPath> = prepared
                .spec
                .action
                .inputs
                .iter()
                .map(|input| &input.path)
                .collect();
            return Err(FailureCause::MissingOutput {
                missing,
                found: folder::list(&prepared.folder, &inputs, FOUND),
            });
        }
        let mut outputs = Outputs::with_capacity(specs.len());
        for spec in specs {
            let artifact = match (found.get_mut(&spec.path), &spec.json) {
                (None, _) => Artifact::Absent,
                (Some(artifact), None) => artifact.clone(),
                (Some(artifact), Some((pointer, ty))) => {
                    let value = self.value(artifact, pointer, *ty);
                    value.map_err(|reason| bad(spec, reason))?
                }
            };
            outputs.insert(spec.name.clone(), artifact);
        }
        Ok(outputs)
    }

    /// Puts what is there into the store, each path once.
    fn take_all(
        &self,
        prepared: &Prepared,
        specs: &[OutputSpec],
    ) -> Result<FxHashMap<RelPath, Artifact>, FailureCause> {
        let mut found = FxHashMap::default();
        // All must be there before the first is moved away, so that a failed node's folder is whole for those who look.
        let is_missing = |spec: &&OutputSpec| {
            !spec.optional && std::fs::symlink_metadata(prepared.folder.join(&spec.path)).is_err()
        };
        if specs.iter().any(|spec| is_missing(&spec)) {
            found.extend(
                specs
                    .iter()
                    .filter(|spec| !is_missing(spec))
                    .map(|spec| (spec.path.clone(), Artifact::Absent)),
            );
            return Ok(found);
        }
        // What lies in a folder that is an output too is copied before the folder is moved.
        let mut order: Vec<&OutputSpec> = specs.iter().collect();
        order.sort_by_key(|spec| std::cmp::Reverse(spec.path.as_str().len()));
        for spec in order {
            if found.contains_key(&spec.path) {
                continue;
            }
            let is_inside =
                |other: &OutputSpec| other.path != spec.path && spec.path.starts_with(&other.path);
            let mode = if specs.iter().any(is_inside) {
                PutMode::Copy
            } else {
                PutMode::Move
            };
            let artifact = self
                .options
                .store
                .put_output(&prepared.folder, &spec.path, mode)
                .map_err(|error| put_failure(spec, &error))?;
            if let Some(artifact) = artifact {
                found.insert(spec.path.clone(), artifact);
            }
        }
        Ok(found)
    }

    fn value(
        &self,
        artifact: &Artifact,
        pointer: &str,
        ty: dagrun_model::JsonType,
    ) -> Result<Artifact, String> {
        let Artifact::File(file) = artifact else {
            return Err("it is a folder, not a JSON file".into());
        };
        if file.size > json::MAX_SIZE {
            return Err(format!(
                "the file has {}, more than the {} that are read for a value; make it an output of its own",
                dagrun_model::format_bytes(file.size),
                dagrun_model::format_bytes(json::MAX_SIZE)
            ));
        }
        let bytes = self
            .options
            .store
            .read(&file.digest)
            .map_err(|error| error.to_string())?;
        let value = json::extract(&bytes, pointer, ty)?;
        Ok(Artifact::Value { value, file: *file })
    }

    /// Where a folder is kept for people, and what is to be done with it otherwise.
    fn leave(
        &self,
        prepared: &Prepared,
        outcome: &Outcome,
        leaked: u32,
    ) -> (Option<String>, Leftover) {
        let Prepared { spec, folder, .. } = prepared;
        let failed = matches!(outcome, Outcome::Failed(_) | Outcome::TimedOut(_));
        if failed && spec.keep_failed {
            let kept = self.folders.keep(folder, &spec.id, spec.attempt);
            let none = Leftover {
                folder: None,
                free: false,
                inputs: Inputs::default(),
            };
            return (Some(kept.display().to_string()), none);
        }
        let over = matches!(outcome, Outcome::Succeeded(_) | Outcome::Failed(_));
        let leftover = Leftover {
            folder: Some(folder.clone()),
            free: over && leaked == 0,
            inputs: Inputs::default(),
        };
        (None, leftover)
    }
}

fn bad(spec: &OutputSpec, reason: String) -> FailureCause {
    FailureCause::BadOutput {
        name: spec.name.clone(),
        reason,
    }
}

fn put_failure(spec: &OutputSpec, error: &StoreError) -> FailureCause {
    match error {
        StoreError::Refused { why, .. } => bad(spec, format!("`{}` {why}", spec.path)),
        StoreError::Changed { .. } | StoreError::Denied { .. } | StoreError::Io { .. } => {
            bad(spec, error.to_string())
        }
        error => store_failure(error),
    }
}

fn measure(result: &mut AttemptResult, prepared: &Prepared, end: &End, timing: Timing) {
    result.phases = Phases {
        queue: timing.queue.as_secs_f64() + end.queued,
        start: prepared.start + end.spawn,
        fetch: prepared.fetch,
        compute: (end.wall - end.spawn).max(0.0),
        ..Phases::default()
    };
    let bytes_out = match &result.outcome {
        Outcome::Succeeded(outputs) => outputs.values().map(Artifact::size).sum(),
        _ => 0,
    };
    result.usage = Usage {
        cpu: end.cpu,
        peak_memory: end.peak_memory,
        read: end.read,
        written: end.written,
        bytes_in: prepared.inputs.bytes,
        bytes_out,
    };
    result.pressure = end.pressure;
}
