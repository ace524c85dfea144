//! What a node's key was made of, in words: `explain` compares two of these.

use dagrun_expr::{ReferenceKind, references};
use dagrun_model::{
    CachePolicy, Command, ContentHash, ContentHasher, Digest, NodeIx, Recipe, ScriptPart, Toolchain,
};

use crate::{
    Phase, Plan, Upstream,
    axes::REPLICATE,
    context::CellContext,
    input::{Item, Stage},
    live::Live,
    staging::{as_file, staged_files},
    uses::recipe_exprs,
};

/// What a node's key was made of, in a fixed order.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct KeyManifest {
    /// The parts.
    pub parts: Vec<KeyPart>,
}

/// A part of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPart {
    /// What it is.
    pub kind: KeyPartKind,
    /// Which one; empty where there is only one.
    pub name: String,
    /// A short text, or the hex digits of a digest.
    pub value: String,
}

/// What a part of a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum KeyPartKind {
    Command,
    Param,
    Axis,
    Seed,
    Input,
    Env,
    Toolchain,
    Secret,
    Threads,
    Output,
    Platform,
    Isolation,
    Need,
}

impl KeyPartKind {
    /// A stable short name, for files and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Param => "param",
            Self::Axis => "axis",
            Self::Seed => "seed",
            Self::Input => "input",
            Self::Env => "env",
            Self::Toolchain => "toolchain",
            Self::Secret => "secret",
            Self::Threads => "threads",
            Self::Output => "output",
            Self::Platform => "platform",
            Self::Isolation => "isolation",
            Self::Need => "need",
        }
    }
}

/// Texts longer than this stand as a digest.
const SHORT: usize = 200;

impl Plan {
    /// What a node's key and action digest were made of; inputs from other nodes by content as far as `upstream` knows it.
    pub fn manifest(&self, node: NodeIx, upstream: &dyn Upstream) -> KeyManifest {
        let live = Live::new(self, upstream, node);
        let ctx = CellContext::new(&self.core, live.job, live.row, Some(&self.facts));
        let mut maker = Maker {
            plan: self,
            live,
            ctx,
            parts: Vec::new(),
        };
        maker.command();
        maker.values();
        maker.project_inputs();
        maker.upstream_inputs();
        maker.surroundings();
        KeyManifest { parts: maker.parts }
    }
}

struct Maker<'a> {
    plan: &'a Plan,
    live: Live<'a>,
    ctx: CellContext<'a>,
    parts: Vec<KeyPart>,
}

impl Maker<'_> {
    fn put(&mut self, kind: KeyPartKind, name: impl Into<String>, value: impl Into<String>) {
        let value: String = value.into();
        self.parts.push(KeyPart {
            kind,
            name: name.into(),
            value: match value.len() > SHORT {
                true => Digest::of(value.as_bytes()).to_string(),
                false => value,
            },
        });
    }

    fn command(&mut self) {
        match &self.ctx.job.recipe {
            Recipe::Run(command) => self.put(KeyPartKind::Command, "", command_text(command)),
            Recipe::Steps(steps) => {
                for (ix, step) in steps.iter().enumerate() {
                    self.put(
                        KeyPartKind::Command,
                        format!("step {}", ix + 1),
                        command_text(&step.command),
                    );
                }
            }
        }
    }

    /// The parameters and axis values that the recipe uses.
    fn values(&mut self) {
        let (mut params, mut axes) = (Vec::new(), Vec::new());
        let values = match &self.plan.core.phase {
            Phase::Trial(trial) => Some(&trial.values),
            _ => None,
        };
        let mut of_trial: Vec<&str> = Vec::new();
        let mut visit = |expr| {
            for reference in references(expr) {
                match reference.kind {
                    ReferenceKind::Param(Some(name)) => params.push(name.to_owned()),
                    ReferenceKind::Matrix(Some(name)) => axes.push(name.to_owned()),
                    ReferenceKind::Trial(wanted) => {
                        let names = values.into_iter().flat_map(|values| values.keys());
                        let used = |name: &&str| wanted.is_none_or(|wanted| wanted == *name);
                        of_trial.extend(names.map(|name| &**name).filter(used));
                    }
                    ReferenceKind::Replicate(Some("index")) => axes.push(REPLICATE.to_owned()),
                    _ => {}
                }
            }
        };
        recipe_exprs(self.ctx.job, &mut visit);
        self.ctx
            .job
            .inputs
            .iter()
            .for_each(|input| input.value.walk_exprs(&mut visit));
        for names in [&mut params, &mut axes] {
            names.sort();
            names.dedup();
        }
        for name in params {
            if let Some(param) = self.plan.core.params.get(&name) {
                self.put(KeyPartKind::Param, name, param.value.to_text());
            }
        }
        for name in axes {
            let path = if name == REPLICATE {
                ["replicate", "index"]
            } else {
                ["matrix", &name]
            };
            if let Some(Ok(value)) = dagrun_expr::Context::member(&self.ctx, &path) {
                self.put(KeyPartKind::Axis, name, value.to_text());
            }
        }
        of_trial.sort_unstable();
        of_trial.dedup();
        for name in of_trial {
            let value = values.and_then(|values| values.get(name));
            let value = value.map(dagrun_model::Value::to_text).unwrap_or_default();
            self.put(KeyPartKind::Axis, format!("trial.{name}"), value);
        }
        if let (true, Ok(seed)) = (self.live_job().own_replicates, self.ctx.seed()) {
            self.put(KeyPartKind::Seed, "", seed.to_string());
        }
    }

    fn live_job(&self) -> &crate::layout::JobPlan {
        &self.plan.core.jobs[self.live.job]
    }

    fn project_inputs(&mut self) {
        let core = &self.plan.core;
        let mut files: Vec<(String, Digest)> = Vec::new();
        for input in self.live_job().inputs.iter() {
            let Ok(resolved) = input.resolve(&self.ctx, &|_| false) else {
                continue;
            };
            for (position, item) in resolved.items.iter().enumerate() {
                let Item::Pattern(pattern) = item else {
                    continue;
                };
                let found = core
                    .patterns
                    .find(pattern, input.external)
                    .and_then(|ix| self.plan.facts.facts.globs.get(ix));
                let found = found.map_or(&[][..], Vec::as_slice);
                let position = resolved.list.then_some(position);
                let staged = staged_files(input, pattern, position, found);
                files.extend(staged.map(|(path, file)| (path, file.blob.digest)));
            }
        }
        files.sort();
        files.dedup();
        for (path, digest) in files {
            self.put(KeyPartKind::Input, path, digest.to_string());
        }
    }

    fn upstream_inputs(&mut self) {
        let core = &self.plan.core;
        for data in core.jobs[self.live.job].data.iter() {
            let need = &core.jobs[self.live.job].needs[data.need];
            let Some((output, _)) = core.pipeline.jobs[need.job].outputs.get_index(data.output)
            else {
                continue;
            };
            let mut contents = ContentHasher::new("manifest");
            let mut known = 0;
            for (_, outputs) in self.live.succeeded(data.need) {
                if let Some(artifact) = outputs.get(output) {
                    known += 1;
                    let artifact = if data.stage == Stage::Value {
                        artifact.clone()
                    } else {
                        as_file(artifact)
                    };
                    artifact.content_digest().content_hash(&mut contents);
                }
            }
            let of = self
                .live
                .set(data.need)
                .map_or(0, |set| self.plan.sets.cells(set).len());
            let name = format!("{}.{output}", core.job_name(need.job));
            let value = match (known, of) {
                (known, of) if known < of => format!("{known} of {of} known"),
                _ => contents.finish().to_string(),
            };
            self.put(KeyPartKind::Need, name, value);
        }
    }

    fn surroundings(&mut self) {
        let job = self.ctx.job;
        let mut env: Vec<_> = job.env.iter().collect();
        env.sort_by_key(|(name, _)| *name);
        for (name, template) in env {
            let value = dagrun_expr::eval_text(template, &self.ctx)
                .unwrap_or_else(|_| "known when it runs".into());
            self.put(KeyPartKind::Env, name, value);
        }
        if let CachePolicy::Env(names) = &job.cache {
            for name in names {
                let at = self.plan.facts.request.env.get_index_of(name);
                let value = at
                    .and_then(|at| self.plan.facts.facts.env.get(at))
                    .cloned()
                    .flatten();
                self.put(
                    KeyPartKind::Env,
                    name,
                    value.unwrap_or_else(|| "not set".into()),
                );
            }
        }
        for toolchain in &job.toolchain {
            let (facts, request) = (&self.plan.facts.facts, &self.plan.facts.request);
            let (name, value) = match toolchain {
                Toolchain::Command(command) => {
                    let at = request.commands.get_index_of(&command.value);
                    let output = at
                        .and_then(|at| facts.commands.get(at))
                        .and_then(|output| output.as_ref().ok());
                    (
                        command.value.join(" "),
                        output.map(|output| output.trim().to_owned()),
                    )
                }
                Toolchain::File(file) => {
                    let at = request.files.get_index_of(&file.value);
                    let digest = at
                        .and_then(|at| facts.files.get(at))
                        .and_then(|digest| digest.as_ref().ok());
                    (file.value.clone(), digest.map(ToString::to_string))
                }
            };
            self.put(KeyPartKind::Toolchain, name, value.unwrap_or_default());
        }
        for secret in &job.secrets {
            self.put(KeyPartKind::Secret, secret.value.clone(), "named");
        }
        if let Some(threads) = &job.threads {
            let value = dagrun_expr::eval_text(threads, &self.ctx).unwrap_or_default();
            self.put(KeyPartKind::Threads, "", value);
        }
        for (name, output) in &job.outputs {
            let path = dagrun_expr::eval_text(&output.path, &self.ctx).unwrap_or_default();
            let json = output
                .json
                .as_ref()
                .map_or(String::new(), |json| format!(" {}", json.pointer));
            self.put(KeyPartKind::Output, name, format!("{path}{json}"));
        }
        let [os, arch, isolation] = &self.plan.core.platform;
        self.put(KeyPartKind::Platform, "", format!("{os} {arch}"));
        self.put(KeyPartKind::Isolation, "", isolation.clone());
    }
}

/// The command as it was written, with `${{ }}` for its values: those stand apart.
fn command_text(command: &Command) -> String {
    let template = |template: &dagrun_model::Template| {
        let parts = template.parts.iter().map(|part| match part {
            dagrun_model::TemplatePart::Text(text) => &**text,
            dagrun_model::TemplatePart::Expr(_) => "${{ }}",
        });
        parts.collect::<String>()
    };
    match command {
        Command::Argv(words, _) => words.iter().map(template).collect::<Vec<_>>().join(" "),
        Command::Script(script) => {
            let parts = script.parts.iter().map(|part| match part {
                ScriptPart::Text(text) => &**text,
                ScriptPart::Value { .. } => "${{ }}",
            });
            parts.collect()
        }
    }
}
