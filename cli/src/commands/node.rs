//! `dagrun get` and `shell`: one node at a time.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use dagrun_model::{Action, Artifact, AttemptId, AttemptSpec, NodeIx, Resources};
use dagrun_plan::JobPhase;
use dagrun_worker::{Worker, WorkerOptions};

use crate::{
    args::{Coordinator, GetArgs, Global, NodeOf, Selection, ShellArgs},
    commands::{no_such_node, only_one, plan_study::plan_after, report},
    error::{CliError, Context, Done},
    load::{Loaded, Planned},
    put,
    remote::{self, Afar},
    resolve::{Elsewhere, Resolved},
    say, shared,
    term::{Ink, Style, escape, shell_word},
    trial::{phase_of, trial_of},
    typed::Typed,
};

/// A pipeline, its plan, and the node that was named.
pub(crate) struct Found {
    pub(crate) loaded: Loaded,
    pub(crate) planned: Planned,
    pub(crate) node: NodeIx,
    /// For what messages tell people to type.
    typed: Typed,
}

impl Found {
    pub(crate) fn new(args: &NodeOf, global: &Global, style: Style) -> Result<Self, CliError> {
        let loaded = Loaded::new(
            &args.of.file,
            global,
            Style {
                quiet: true,
                ..style
            },
        )
        .map_err(|error| match args.of.file.exists() {
            true => error,
            false => error.hint("`-f FILE` names the pipeline where it is another file"),
        })?;
        let mut planned = loaded.plan(&args.of.params, &Selection::default())?;
        if let Some(study) = &planned.study {
            if let Some(number) = trial_of(&loaded.pipeline, &args.node)? {
                let plan = loaded.past_trial(study, &planned.workspace, number, None)?;
                planned.plan = Arc::new(plan);
                planned.trial = Some(number);
            } else if phase_of(&loaded.pipeline, &args.node) == Some(JobPhase::After)
                && let Some(plan) = plan_after(&loaded, &planned, study)?
            {
                planned.plan = Arc::new(plan);
            }
        }
        shared::bring(&planned, style)?;
        let plan = &planned.plan;
        let node = only_one(&args.node, plan.named(&args.node), |node| plan.id(*node))?
            .ok_or_else(|| no_such_node(&args.node, plan))?;
        Ok(Self {
            loaded,
            planned,
            node,
            typed: Typed::here(&args.of.file, &args.of.params),
        })
    }

    /// Likewise, where this coordinator was named.
    fn on(mut self, coordinator: &Coordinator) -> Self {
        let flags = remote::flags(coordinator, coordinator.on.as_deref());
        self.typed = self.typed.on(&flags);
        self
    }

    /// Resolves the node by the cache here. Where that is not `enough`, also by the coordinator that has run it: what is given
    /// beside it lets the store fetch from there for as long as it is kept.
    pub(super) fn resolve(
        &self,
        coordinator: &Coordinator,
        global: &Global,
        enough: impl Fn(&Resolved) -> bool,
    ) -> Result<(Resolved, Option<Afar>), CliError> {
        let Planned {
            plan,
            store,
            workspace,
            ..
        } = &self.planned;
        let resolve = |elsewhere: &Elsewhere| Resolved::new(plan, store, elsewhere, self.node);
        let here = resolve(&Elsewhere::new())?;
        if enough(&here) {
            return Ok((here, None));
        }
        let Some(mut afar) = Afar::connect(coordinator, workspace, global)? else {
            return Ok((here, None));
        };
        afar.serve(store);
        Ok((afar.resolve(resolve)?, Some(afar)))
    }

    /// Whether a node's result is here with all its blobs, those in trees aside.
    fn has(&self, resolved: &Resolved) -> bool {
        let is_here = |artifact: &Artifact| {
            let digest = artifact.blob_digest();
            digest.is_none_or(|digest| self.planned.store.contains(&digest))
        };
        let entry = resolved.entry(self.node);
        entry.is_some_and(|entry| entry.outputs.values().all(is_here))
    }

    /// Says that a node must run before `what` can be had.
    pub(crate) fn must_run(&self, node: NodeIx, what: &str) -> CliError {
        let id = self.planned.plan.id(node);
        CliError::failed(format!(
            "{what}: `{}` has no result in the cache",
            escape(&id)
        ))
        .hint(format!(
            "run it first: {}",
            self.typed.until(&self.planned.plan.id(self.node))
        ))
    }
}

pub(crate) fn get(args: &GetArgs, global: &Global, style: Style) -> Done {
    let (node, output) = split_output(&args.what);
    let of = NodeOf {
        node: node.into(),
        of: args.of.clone(),
    };
    let found = Found::new(&of, global, style)?.on(&args.coordinator);
    let (resolved, _afar) = found.resolve(&args.coordinator, global, |it| found.has(it))?;
    let entry = resolved
        .entry(found.node)
        .ok_or_else(|| found.must_run(resolved.missing.unwrap_or(found.node), "nothing to get"))?;
    let action = found
        .planned
        .plan
        .action(found.node, &resolved)
        .map_err(CliError::failed)?;
    if let Some(name) = output
        && !entry.outputs.contains_key(name)
    {
        let names: Vec<&str> = entry.outputs.keys().map(String::as_str).collect();
        return Err(
            CliError::invalid(format!("`{node}` has no output `{name}`"))
                .hint(format!("it has {}", names.join(", "))),
        );
    }
    let mut targets: BTreeMap<PathBuf, (&str, &Artifact)> = BTreeMap::new();
    for (name, artifact) in entry
        .outputs
        .iter()
        .filter(|(name, _)| output.is_none_or(|wanted| wanted == name.as_str()))
    {
        let path = action
            .outputs
            .iter()
            .find(|spec| spec.name == *name)
            .map(|spec| spec.path.file_name().to_owned());
        let target = args.dir.join(path.unwrap_or_else(|| name.clone()));
        // All of them or none.
        if !args.force && target.symlink_metadata().is_ok() {
            return Err(
                CliError::failed(format!("{} is there already", target.display()))
                    .hint("--force overwrites it, and another folder may be named last"),
            );
        }
        if let Some((other, _)) = targets.insert(target.clone(), (name, artifact)) {
            return Err(CliError::failed(format!(
                "the outputs `{other}` and `{name}` would both be {}",
                target.display()
            ))
            .hint(format!(
                "take one after the other, into folders of their own: `dagrun get {} DIR`",
                shell_word(&format!("{node}:{name}"))
            )));
        }
    }
    std::fs::create_dir_all(&args.dir).doing(|| format!("make {}", args.dir.display()))?;
    for (target, (_, artifact)) in targets {
        place(&found, artifact, &target)?;
        put!("{}", target.display());
    }
    Ok(0)
}

/// Lays one artifact at a path, over what is there.
fn place(found: &Found, artifact: &Artifact, target: &Path) -> Result<(), CliError> {
    if target.symlink_metadata().is_ok() {
        let gone = if target.is_dir() {
            std::fs::remove_dir_all(target)
        } else {
            std::fs::remove_file(target)
        };
        gone.doing(|| format!("replace {}", target.display()))?;
    }
    found
        .planned
        .store
        .export(artifact, target)
        .map_err(|error| {
            CliError::failed(error).hint(format!(
                "the cache lost it: run again with --force={}",
                shell_word(&found.planned.plan.id(found.node))
            ))
        })
}

/// `NODE:OUTPUT`; a colon inside the brackets of a logical id does not separate.
fn split_output(what: &str) -> (&str, Option<&str>) {
    let after = what.rfind(']').map_or(0, |at| at + 1);
    match what[after..].find(':') {
        Some(at) => (&what[..after + at], Some(&what[after + at + 1..])),
        None => (what, None),
    }
}

pub(crate) fn shell(args: &ShellArgs, global: &Global, style: Style) -> Done {
    if args.keep_failed {
        let folder = report::kept_folder(&args.node)?;
        say!("{} {}", style.paint(Ink::Dim, "in"), folder.display());
        let mut command = shell_command(&args.command);
        command.current_dir(&folder);
        return run_command(command);
    }
    let found = Found::new(&args.node, global, style)?.on(&args.coordinator);
    let has_inputs = |it: &Resolved| it.missing.is_none_or(|missing| missing == found.node);
    let (resolved, _afar) = found.resolve(&args.coordinator, global, has_inputs)?;
    let action: Action = match resolved.missing.filter(|missing| *missing != found.node) {
        Some(missing) => return Err(found.must_run(missing, "an input cannot be staged")),
        None => found
            .planned
            .plan
            .action(found.node, &resolved)
            .map_err(|cause| CliError::failed(format!("the node cannot be made ready: {cause}")))?,
    };
    let settings = &found.loaded.settings;
    let worker = Worker::new(WorkerOptions {
        store: found.planned.store.clone(),
        project: found.loaded.project.clone(),
        work_dir: found.planned.store.root().join("work"),
        run: format!("shell-{}", std::process::id()),
        secrets: settings.secret_values().map_err(CliError::environment)?,
        staging: settings.staging(),
    })
    .doing(|| "make a folder for the node".into())?;
    let spec = AttemptSpec {
        attempt: AttemptId(1),
        node: found.node,
        id: found.planned.plan.id(found.node),
        number: 1,
        action: Arc::new(action),
        resources: Resources::none(),
        keep_failed: false,
        run: None,
    };
    let commands = spec.action.commands.clone();
    let prepared = worker.prepare(spec).map_err(|result| {
        let why = match result.outcome {
            dagrun_model::Outcome::Failed(cause) => cause.to_string(),
            other => format!("{other:?}"),
        };
        CliError::failed(why)
    })?;
    let folder = prepared.folder().to_path_buf();
    if args.command.is_empty() {
        say!("{} {}", style.paint(Ink::Dim, "in"), folder.display());
        for command in &commands {
            let text = command.script.clone().unwrap_or_else(|| {
                command
                    .argv
                    .iter()
                    .map(|w| shell_word(w))
                    .collect::<Vec<_>>()
                    .join(" ")
            });
            say!(
                "{} {}",
                style.paint(Ink::Dim, "runs"),
                escape(text.trim_end())
            );
        }
    }
    let mut command = shell_command(&args.command);
    command
        .current_dir(&folder)
        .env_clear()
        .envs(worker.environment(&prepared));
    if let Some(term) = std::env::var_os("TERM") {
        command.env("TERM", term);
    }
    let done = run_command(command);
    worker.clean();
    // What cannot be removed now is left to `dagrun gc`.
    let _ = std::fs::remove_dir_all(worker.folder());
    done
}

fn shell_command(words: &[String]) -> Command {
    match words.split_first() {
        Some((program, rest)) => {
            let mut command = Command::new(program);
            command.args(rest);
            command
        }
        None => Command::new(std::env::var_os("SHELL").unwrap_or_else(|| "sh".into())),
    }
}

fn run_command(mut command: Command) -> Done {
    let status = command.status().doing(|| "start the shell".into())?;
    Ok(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_named_after_a_colon() {
        assert_eq!(split_output("a"), ("a", None));
        assert_eq!(split_output("a:o"), ("a", Some("o")));
        assert_eq!(split_output(r#"a[t="1:2"]"#), (r#"a[t="1:2"]"#, None));
        assert_eq!(
            split_output(r#"a[t="1:2"]:o"#),
            (r#"a[t="1:2"]"#, Some("o"))
        );
    }
}
