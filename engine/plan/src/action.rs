//! What a node becomes when its needs have ended: a condition, a digest, an action.

use std::{borrow::Cow, collections::BTreeMap};

use dagrun_expr::{
    EvalError, VALUE_LIMIT, VALUES_LIMIT, eval, eval_text, eval_words, render_script,
};
use dagrun_model::{
    Action, ActionCommand, ActionDigest, Artifact, CachePolicy, Command, ContentHash,
    ContentHasher, FailureCause, InputSource, Job, Limits, NodeIx, OutputSpec, Recipe, RelPath,
    Shell, StagedInput, Step, Template, Value,
};
use indexmap::IndexMap;

use crate::{
    Plan, Upstream,
    context::{CellContext, one_or_list},
    facts::is_glob,
    input::{DataInput, Item, Stage},
    keys::{data_shape, points_digest},
    layout::Condition,
    live::{Live, StagedValues},
    staging::{
        as_file, file_name, list_file, project_paths, rel_path, staged_files, upstream_path,
    },
};

/// The variables that `threads` sets, unless the job declares them itself.
pub const THREAD_VARIABLES: [&str; 4] = [
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
];

impl Plan {
    /// Whether a node's `if` lets it run; asked when its needs have ended (or succeeded, where only their outputs are in
    /// it).
    ///
    /// # Errors
    /// An expression that has no value.
    pub fn condition(&self, node: NodeIx, upstream: &dyn Upstream) -> Result<bool, FailureCause> {
        let live = Live::new(self, upstream, node);
        let (Condition::Succeeded(_) | Condition::Terminal(_)) = self.core.jobs[live.job].condition
        else {
            return Ok(true);
        };
        let ctx =
            CellContext::new(&self.core, live.job, live.row, Some(&self.facts)).with_live(&live);
        match &ctx.job.condition {
            Some(expr) => eval(expr, &ctx)
                .map(|value| value.truthy())
                .map_err(failure),
            None => Ok(true),
        }
    }

    /// The index of a node's result in the action cache; `None` for `cache: never`. All members of its sets that count
    /// must have their outputs.
    ///
    /// # Errors
    /// An output path that has no value.
    pub fn action_digest(
        &self,
        node: NodeIx,
        upstream: &dyn Upstream,
    ) -> Result<Option<ActionDigest>, FailureCause> {
        if self.class(node).never_cache {
            return Ok(None);
        }
        self.digest_of(&Live::new(self, upstream, node)).map(Some)
    }

    fn digest_of(&self, live: &Live<'_>) -> Result<ActionDigest, FailureCause> {
        let plan = &self.core.jobs[live.job];
        let mut hasher =
            ContentHasher::new("dagrun.action.v1").with(&self.nodes.recipes[live.node.index()]);
        for data in plan.data.iter() {
            let need = &plan.needs[data.need];
            data_shape(&self.core, data, need, &mut hasher);
            self.hash_data(live, data, &mut hasher)?;
        }
        for (ix, need) in plan.needs.iter().enumerate() {
            if need.points {
                self.points_of(live, ix).content_hash(&mut hasher);
            }
            if need.result {
                live.result_of(ix).content_hash(&mut hasher);
            }
        }
        Ok(hasher.finish())
    }

    fn hash_data(
        &self,
        live: &Live<'_>,
        data: &DataInput,
        hasher: &mut ContentHasher,
    ) -> Result<(), FailureCause> {
        let job = self.core.jobs[live.job].needs[data.need].job;
        let outputs = &self.core.pipeline.jobs[job].outputs;
        let Some((name, _)) = outputs.get_index(data.output) else {
            return Ok(());
        };
        let mut count = 0u64;
        for (cell, outputs) in live.succeeded(data.need) {
            count += 1;
            let artifact = outputs.get(name).unwrap_or(&Artifact::Absent);
            match data.stage {
                Stage::Value => artifact.content_digest().content_hash(hasher),
                Stage::Files { .. } => {
                    as_file(artifact).content_digest().content_hash(hasher);
                    file_name(&self.output_path(cell, data.output)?).content_hash(hasher);
                }
            }
        }
        count.content_hash(hasher);
        Ok(())
    }

    /// The digest of the points of a need's members that have succeeded: mostly all of them.
    fn points_of(&self, live: &Live<'_>, need: usize) -> dagrun_model::Digest {
        let Some(set) = live.set(need) else {
            return dagrun_model::Digest::empty();
        };
        let known = self.sets.gather(set).and_then(|gather| gather.points);
        match known {
            Some(known) if live.succeeded(need).count() == self.sets.cells(set).len() => known,
            _ => points_digest(&self.core, live.succeeded(need).map(|(cell, _)| cell)),
        }
    }

    /// The path of an output of a cell, below its node's folder.
    pub(crate) fn output_path(
        &self,
        cell: u32,
        output: usize,
    ) -> Result<Cow<'_, str>, FailureCause> {
        let (job, row) = self.core.cell(cell as usize);
        let def = &self.core.pipeline.jobs[job].outputs[output];
        match def.path.as_text() {
            Some(text) => Ok(Cow::Borrowed(text)),
            None => {
                let ctx = CellContext::new(&self.core, job, row, Some(&self.facts));
                eval_text(&def.path, &ctx).map(Cow::Owned).map_err(failure)
            }
        }
    }

    /// Everything that a worker needs to run a node.
    ///
    /// # Errors
    /// An expression that has no value with what the needed nodes gave, inputs that would be staged into each other, or
    /// a command line that is too long.
    pub fn action(&self, node: NodeIx, upstream: &dyn Upstream) -> Result<Action, FailureCause> {
        let mut live = Live::new(self, upstream, node);
        let (values, files) = self.stage(&live)?;
        live.staged = Some(&values);
        let ctx =
            CellContext::new(&self.core, live.job, live.row, Some(&self.facts)).with_live(&live);
        let job = ctx.job;
        let class = self.class(node);
        let env = variables(&job.env, job.threads.as_ref(), &ctx)?;
        let action = Action {
            digest: self.digest_of(&live)?,
            commands: commands(&job.recipe, &ctx)?,
            env,
            pass_env: passed_env(job),
            secrets: job.secrets.iter().map(|name| name.value.clone()).collect(),
            inputs: staged_inputs(files)?,
            outputs: outputs(&ctx)?,
            stdout: match &job.stdout {
                Some(name) => Some(output_file(&name.value, &ctx)?),
                None => None,
            },
            limits: Limits {
                timeout: class.timeout,
                memory: class.resources.memory,
                ..Limits::default()
            },
        };
        check_size(&action, job)?;
        Ok(action)
    }

    /// What is staged, and the values that expressions see of it.
    fn stage(&self, live: &Live<'_>) -> Result<(StagedValues, Staged), FailureCause> {
        let plan = &self.core.jobs[live.job];
        let ctx = CellContext::new(&self.core, live.job, live.row, Some(&self.facts));
        let mut staged = Staged::default();
        let mut values = StagedValues {
            data: vec![Value::Null; plan.data.len()],
            inputs: Vec::with_capacity(plan.inputs.len()),
        };
        for input in plan.inputs.iter() {
            let gathered = |data: usize| plan.needs[plan.data[data].need].gather;
            let resolved =
                input
                    .resolve(&ctx, &gathered)
                    .map_err(|error| FailureCause::Expression {
                        message: error.message,
                    })?;
            let mut paths = Vec::new();
            let mut list = resolved.list;
            let mut next = 0;
            for (position, item) in resolved.items.iter().enumerate() {
                match item {
                    Item::Pattern(pattern) => {
                        let position = resolved.list.then_some(position);
                        list |= is_glob(pattern);
                        paths.extend(project_paths(
                            &self.core,
                            &self.facts,
                            input,
                            pattern,
                            position,
                        ));
                        self.stage_project(input, pattern, position, &mut staged)?;
                    }
                    Item::Upstream(data) => {
                        let (more, value) = self.stage_upstream(
                            live,
                            *data,
                            resolved.list,
                            &mut next,
                            &mut staged,
                        )?;
                        paths.extend(more);
                        values.data[*data] = value;
                    }
                }
            }
            if let (Some(name), true) = (&input.name, input.list_file) {
                let text: String = paths.iter().map(|path| format!("{path}\n")).collect();
                staged.add(&list_file(name), InputSource::Text(text.into()))?;
            }
            values
                .inputs
                .push(one_or_list(paths.into_iter().map(Value::str), list));
        }
        for (ix, data) in plan.data.iter().enumerate() {
            if let Stage::Files { input: None, .. } = data.stage {
                let list = plan.needs[data.need].gather;
                values.data[ix] = self.stage_upstream(live, ix, list, &mut 0, &mut staged)?.1;
            }
        }
        Ok((values, staged))
    }

    fn stage_project(
        &self,
        input: &crate::input::InputPlan,
        pattern: &str,
        position: Option<usize>,
        staged: &mut Staged,
    ) -> Result<(), FailureCause> {
        let found = self
            .core
            .patterns
            .find(pattern, input.external)
            .and_then(|ix| self.facts.facts.globs.get(ix));
        let found = found.map_or(&[][..], Vec::as_slice);
        for (path, file) in staged_files(input, pattern, position, found) {
            let source = InputSource::Workspace {
                path: file.path.clone(),
                blob: file.blob,
            };
            staged.add(&path, source)?;
        }
        Ok(())
    }

    /// Stages the outputs of a data input; `next` counts positions over all items of an input.
    fn stage_upstream(
        &self,
        live: &Live<'_>,
        data: usize,
        list: bool,
        next: &mut usize,
        staged: &mut Staged,
    ) -> Result<(Vec<String>, Value), FailureCause> {
        let plan = &self.core.jobs[live.job];
        let data = &plan.data[data];
        let need = &plan.needs[data.need];
        let outputs = &self.core.pipeline.jobs[need.job].outputs;
        let (Stage::Files { name, .. }, Some((output, _))) =
            (&data.stage, outputs.get_index(data.output))
        else {
            return Ok((Vec::new(), Value::Null));
        };
        let mut paths = Vec::new();
        for (cell, made) in live.succeeded(data.need) {
            let artifact = made.get(output).unwrap_or(&Artifact::Absent);
            if *artifact == Artifact::Absent {
                continue;
            }
            let file = self.output_path(cell, data.output)?;
            let path = upstream_path(name, list.then_some(*next), file_name(&file));
            *next += 1;
            staged.add(&path, InputSource::Stored(as_file(artifact)))?;
            paths.push(path);
        }
        let value = one_or_list(
            paths.iter().map(|path| Value::str(path.as_str())),
            need.gather,
        );
        Ok((paths, value))
    }
}

/// Inputs by path.
#[derive(Default)]
struct Staged(BTreeMap<String, InputSource>);

impl Staged {
    /// The same file may be found by several patterns.
    fn add(&mut self, path: &str, source: InputSource) -> Result<(), FailureCause> {
        match self.0.get(path) {
            Some(there) if *there != source => Err(collision(path, path)),
            Some(_) => Ok(()),
            None => {
                self.0.insert(path.to_owned(), source);
                Ok(())
            }
        }
    }
}

fn staged_inputs(staged: Staged) -> Result<Vec<StagedInput>, FailureCause> {
    let mut inputs: Vec<StagedInput> = Vec::with_capacity(staged.0.len());
    for (path, source) in staged.0 {
        inputs.push(StagedInput {
            path: rel_path(&path)?,
            source,
        });
    }
    inputs.sort_by(|a, b| a.path.cmp(&b.path));
    let mut folders = rustc_hash::FxHashSet::default();
    for input in &inputs {
        let mut folder = input.path.parent();
        while let Some(path) = folder {
            folder = path.parent();
            if !folders.insert(path) {
                break;
            }
        }
    }
    match inputs.iter().find(|input| folders.contains(&input.path)) {
        Some(input) => Err(collision(input.path.as_str(), "a file below it")),
        None => Ok(inputs),
    }
}

fn collision(path: &str, other: &str) -> FailureCause {
    FailureCause::Staging {
        path: path.into(),
        reason: format!(
            "two inputs would be staged there ({other}); give one of them another name"
        ),
        missing_blob: false,
    }
}

fn failure(error: EvalError) -> FailureCause {
    FailureCause::Expression {
        message: match error.help {
            Some(help) => format!("{}; {help}", error.message),
            None => error.message,
        },
    }
}

fn variables(
    env: &IndexMap<String, Template>,
    threads: Option<&Template>,
    ctx: &CellContext<'_>,
) -> Result<Vec<(String, String)>, FailureCause> {
    let mut variables = Vec::with_capacity(env.len());
    for (name, template) in env {
        variables.push((name.clone(), eval_text(template, ctx).map_err(failure)?));
    }
    if let Some(threads) = threads {
        let threads = eval_text(threads, ctx).map_err(failure)?;
        for name in THREAD_VARIABLES {
            if !env.contains_key(name) {
                variables.push((name.into(), threads.clone()));
            }
        }
    }
    Ok(variables)
}

fn commands(recipe: &Recipe, ctx: &CellContext<'_>) -> Result<Vec<ActionCommand>, FailureCause> {
    match recipe {
        Recipe::Run(command) => Ok(vec![one_command(command, String::new(), Vec::new(), ctx)?]),
        Recipe::Steps(steps) => {
            let mut commands = Vec::with_capacity(steps.len());
            for (ix, step) in steps.iter().enumerate() {
                if runs(step, ctx)? {
                    let name = step
                        .name
                        .clone()
                        .unwrap_or_else(|| format!("step {}", ix + 1));
                    commands.push(one_command(
                        &step.command,
                        name,
                        variables(&step.env, None, ctx)?,
                        ctx,
                    )?);
                }
            }
            Ok(commands)
        }
    }
}

fn runs(step: &Step, ctx: &CellContext<'_>) -> Result<bool, FailureCause> {
    match &step.condition {
        Some(condition) => eval(condition, ctx)
            .map(|value| value.truthy())
            .map_err(failure),
        None => Ok(true),
    }
}

fn one_command(
    command: &Command,
    name: String,
    mut env: Vec<(String, String)>,
    ctx: &CellContext<'_>,
) -> Result<ActionCommand, FailureCause> {
    match command {
        Command::Argv(words, _) => {
            let mut argv = Vec::with_capacity(words.len());
            for word in words {
                argv.extend(eval_words(word, ctx).map_err(failure)?);
            }
            Ok(ActionCommand {
                name,
                argv,
                script: None,
                env,
            })
        }
        Command::Script(script) => {
            let rendered = render_script(script, ctx).map_err(failure)?;
            env.extend(rendered.env);
            Ok(ActionCommand {
                name,
                argv: shell_words(&script.shell),
                script: Some(rendered.text),
                env,
            })
        }
    }
}

fn shell_words(shell: &Shell) -> Vec<String> {
    let words: &[&str] = match shell {
        Shell::Bash => &["bash", "--noprofile", "--norc", "-euo", "pipefail"],
        Shell::Sh => &["sh", "-eu"],
        Shell::Other(words) => return words.clone(),
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn outputs(ctx: &CellContext<'_>) -> Result<Vec<OutputSpec>, FailureCause> {
    let mut specs = Vec::with_capacity(ctx.job.outputs.len());
    for (name, output) in &ctx.job.outputs {
        specs.push(OutputSpec {
            name: name.clone(),
            path: output_file(name, ctx)?,
            json: output
                .json
                .as_ref()
                .map(|json| (json.pointer.clone(), json.ty.into())),
            optional: output.optional,
        });
    }
    Ok(specs)
}

fn output_file(name: &str, ctx: &CellContext<'_>) -> Result<RelPath, FailureCause> {
    let output = ctx
        .job
        .outputs
        .get(name)
        .ok_or_else(|| FailureCause::Engine {
            message: format!("there is no output `{name}`"),
        })?;
    rel_path(&eval_text(&output.path, ctx).map_err(failure)?)
}

/// What to read in place of very many paths.
pub(crate) fn list_hint(job: &dagrun_model::Job) -> String {
    let named: Vec<String> = job
        .inputs
        .iter()
        .filter_map(|input| input.name.as_ref())
        .map(|name| format!("`${{{{ inputs.{}.list }}}}`", name.value))
        .collect();
    match named.is_empty() {
        true => "name the input `X` and read `${{ inputs.X.list }}`".into(),
        false => format!("read {}", named.join(" or ")),
    }
}

/// The system refuses longer ones with words that nobody understands.
fn check_size(action: &Action, job: &dagrun_model::Job) -> Result<(), FailureCause> {
    let too_long = |what: String| FailureCause::Expression {
        message: format!("{what}; {}, a file with one path a line", list_hint(job)),
    };
    let declared: usize = action
        .env
        .iter()
        .map(|(name, value)| name.len() + value.len() + 2)
        .sum();
    for command in &action.commands {
        let words = command
            .argv
            .iter()
            .chain(action.env.iter().map(|(_, value)| value));
        if let Some(word) = words
            .max_by_key(|word| word.len())
            .filter(|word| word.len() >= VALUE_LIMIT)
        {
            return Err(too_long(format!(
                "a word of the command has {} bytes, and the limit is 128 KiB",
                word.len()
            )));
        }
        let bytes: usize = command.argv.iter().map(|word| word.len() + 1).sum();
        let own: usize = command
            .env
            .iter()
            .map(|(name, value)| name.len() + value.len() + 2)
            .sum();
        if bytes + own + declared > VALUES_LIMIT {
            return Err(too_long(format!(
                "the command and its variables have {} bytes, and the limit is 1 MiB",
                bytes + own + declared
            )));
        }
    }
    Ok(())
}

/// The variables that a node gets from the caller's environment: those of `pass_env`, and those of `cache: {env}`, whose values
/// are in the key.
fn passed_env(job: &Job) -> Vec<String> {
    let mut names: Vec<String> = job.pass_env.iter().map(|name| name.value.clone()).collect();
    if let CachePolicy::Env(keyed) = &job.cache {
        let new: Vec<String> = keyed
            .iter()
            .filter(|name| !names.contains(name))
            .cloned()
            .collect();
        names.extend(new);
    }
    names
}
