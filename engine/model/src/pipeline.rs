//! The typed pipeline: what `dsl` makes of a file and `plan` reads.
//!
//! `defaults` are already applied, modules are already brought in, anchors are expanded. Templates are still trees: they
//! are evaluated by `plan` for each point of a job's axes.

use std::sync::Arc;

use indexmap::IndexMap;

use crate::{Expr, Grow, JobIx, Sources, Span, Spanned, Study, Template, Value, ValueTemplate};

/// A whole pipeline.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// The name; with the workspace it identifies the pipeline's history.
    pub name: Spanned<String>,
    /// Parameters in file order.
    pub params: IndexMap<String, Param>,
    /// Names of secrets that jobs may ask for.
    pub secrets: Vec<Spanned<String>>,
    /// The study, where there is one.
    pub study: Option<Study>,
    /// Jobs in file order; [`JobIx`] is the position here.
    pub jobs: IndexMap<String, Job>,
    /// What is laid into the working folder at the end.
    pub export: Vec<Export>,
    /// What reports are written.
    pub report: Report,
    /// The texts it was read from.
    pub sources: Sources,
}

impl Pipeline {
    /// The job of an index.
    pub fn job(&self, ix: JobIx) -> &Job {
        &self.jobs[ix.index()]
    }

    /// The index of a job's name.
    pub fn job_ix(&self, name: &str) -> Option<JobIx> {
        self.jobs.get_index_of(name).map(JobIx::from_index)
    }
}

/// A typed parameter.
#[derive(Clone, Debug)]
pub struct Param {
    /// Its type.
    pub ty: ParamType,
    /// The default; a parameter without one must be given.
    pub default: Option<Spanned<Value>>,
    /// The least number allowed.
    pub min: Option<f64>,
    /// The greatest number allowed.
    pub max: Option<f64>,
    /// The only values allowed; empty: any.
    pub choices: Vec<Value>,
    /// For people.
    pub description: String,
    /// Where it is declared.
    pub span: Span,
}

/// The type of a parameter, or of a JSON output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamType {
    /// `string`
    String,
    /// `int`
    Int,
    /// `float` (also called `number`): integers are accepted.
    Float,
    /// `bool`
    Bool,
    /// `list`
    List,
    /// `map`
    Map,
    /// `any`
    Any,
}

/// A job: a command with its inputs, outputs and axes. It is never executed; its nodes are.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its name.
    pub name: Spanned<String>,
    /// The jobs it needs, in file order.
    pub needs: Vec<Need>,
    /// Where it says that it needs `study`: it runs once the study has ended.
    pub after_study: Option<Span>,
    /// Its matrix.
    pub matrix: Matrix,
    /// Axes it takes over from needed jobs.
    pub for_each: Vec<Spanned<String>>,
    /// Its replicates.
    pub replicates: Option<Replicates>,
    /// Its condition.
    pub condition: Option<Expr>,
    /// Its inputs.
    pub inputs: Vec<Input>,
    /// Its outputs, by name.
    pub outputs: IndexMap<String, Output>,
    /// Where its standard output goes: the output of that name, which is also in `outputs`.
    pub stdout: Option<Spanned<String>>,
    /// What it does.
    pub recipe: Recipe,
    /// Declared environment variables: pipeline `env`, then `defaults`, then the job's own; later ones win.
    pub env: IndexMap<String, Template>,
    /// Names of variables passed through from the caller's environment, not in the key.
    pub pass_env: Vec<Spanned<String>>,
    /// Commands and files whose output and content enter the key.
    pub toolchain: Vec<Toolchain>,
    /// Secrets it gets as environment variables of the same name.
    pub secrets: Vec<Spanned<String>>,
    /// What it asks of a host.
    pub resources: ResourceTemplate,
    /// Threads it may use: sets `OMP_NUM_THREADS` and its kin, and is in the key.
    pub threads: Option<Template>,
    /// How long an attempt may take.
    pub timeout: Option<Template>,
    /// When it is tried again.
    pub retry: Retry,
    /// Whether it is cached.
    pub cache: CachePolicy,
    /// Counts as a success for dependents, but not for the exit code.
    pub continue_on_error: bool,
    /// Whether a straggling attempt may get a second one.
    pub speculate: bool,
    /// The executor profile it is bound to.
    pub executor: Option<Spanned<String>>,
    /// Where it stands.
    pub span: Span,
}

impl Job {
    /// Calls `visit` for every expression of the job, but for those of `replicates.grow`, which are about a study and not
    /// about a node.
    pub fn walk_exprs<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        let matrix = &self.matrix;
        let points = matrix.include.iter().chain(&matrix.exclude);
        for value in matrix.axes.values().chain(points) {
            value.walk_exprs(visit);
        }
        if let Some(replicates) = &self.replicates {
            replicates.n.walk_exprs(visit);
            replicates.min.iter().for_each(|v| v.walk_exprs(visit));
            let (Seeds::Common { base: seeds }
            | Seeds::PerTrial { base: seeds }
            | Seeds::List { values: seeds }) = &replicates.seeds;
            seeds.walk_exprs(visit);
        }
        self.condition.iter().for_each(&mut *visit);
        for input in &self.inputs {
            input.value.walk_exprs(visit);
        }
        for output in self.outputs.values() {
            output.path.exprs().for_each(&mut *visit);
        }
        let steps = match &self.recipe {
            Recipe::Run(command) => {
                command.walk_exprs(visit);
                [].as_slice()
            }
            Recipe::Steps(steps) => steps,
        };
        for step in steps {
            step.command.walk_exprs(visit);
            step.condition.iter().for_each(&mut *visit);
        }
        let env = steps.iter().flat_map(|step| step.env.values());
        let limits = [&self.threads, &self.timeout].into_iter().flatten();
        for template in self.env.values().chain(env).chain(limits) {
            template.exprs().for_each(&mut *visit);
        }
        let amounts = [&self.resources.cpus, &self.resources.memory];
        let amounts = amounts.into_iter().flatten();
        for amount in amounts.chain(self.resources.named.values()) {
            amount.walk_exprs(visit);
        }
    }
}

/// A need of another job.
#[derive(Clone, Debug)]
pub struct Need {
    /// The needed job.
    pub job: JobIx,
    /// `{missing: drop}`: a point that has no upstream node loses the need instead of being an error.
    pub missing_drop: bool,
    /// The least number of succeeded nodes in a gather; without it, all must succeed.
    pub min: Option<u32>,
    /// Where it stands.
    pub span: Span,
}

/// The matrix of a job.
#[derive(Clone, Debug, Default)]
pub struct Matrix {
    /// Axes in file order. Each value template gives a list (or, as one expression, evaluates to one).
    pub axes: IndexMap<String, ValueTemplate>,
    /// Points and attributes to add.
    pub include: Vec<ValueTemplate>,
    /// Points to leave out.
    pub exclude: Vec<ValueTemplate>,
    /// Where it stands.
    pub span: Span,
}

/// The replicates of a job.
#[derive(Clone, Debug)]
pub struct Replicates {
    /// How many.
    pub n: ValueTemplate,
    /// How seeds are made.
    pub seeds: Seeds,
    /// How many must succeed for gathering nodes to start; without it, all.
    pub min: Option<ValueTemplate>,
    /// When a trial gets more of them.
    pub grow: Option<Grow>,
    /// Where it stands.
    pub span: Span,
}

/// How the seeds of replicates are made.
#[derive(Clone, Debug)]
pub enum Seeds {
    /// The same seeds at every point: common random numbers.
    Common {
        /// The base of the permutation.
        base: ValueTemplate,
    },
    /// Seeds that differ from point to point.
    PerTrial {
        /// The base of the permutation.
        base: ValueTemplate,
    },
    /// Seeds as listed.
    List {
        /// The seeds; at least as many as replicates.
        values: ValueTemplate,
    },
}

/// An input of a job.
#[derive(Clone, Debug)]
pub struct Input {
    /// The name by which `inputs.NAME` finds it.
    pub name: Option<Spanned<String>>,
    /// Paths, globs or references to outputs; one, or a list that is flattened.
    pub value: ValueTemplate,
    /// The path may leave the project folder.
    pub external: bool,
    /// Where it stands.
    pub span: Span,
}

/// An output of a job.
#[derive(Clone, Debug)]
pub struct Output {
    /// The path below the node's folder.
    pub path: Template,
    /// Where it is a JSON value: what to read from the file.
    pub json: Option<JsonOutput>,
    /// It may be missing after exit 0.
    pub optional: bool,
    /// It may be dropped once it has been consumed.
    pub keep: bool,
    /// Where it stands.
    pub span: Span,
}

/// How a JSON output is read.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonOutput {
    /// A JSON pointer; empty for the whole document.
    pub pointer: String,
    /// The type the value must have.
    pub ty: ParamType,
}

impl JsonOutput {
    /// What was read from the file, as expressions see it.
    pub fn value(&self, json: &serde_json::Value) -> Value {
        match self.ty {
            ParamType::Float => Value::number_from_json(json),
            _ => Value::from_json(json),
        }
    }
}

/// What a job does.
#[derive(Clone, Debug)]
pub enum Recipe {
    /// One command.
    Run(Command),
    /// Several commands in one node; the first that fails ends it.
    Steps(Vec<Step>),
}

/// A step of a job.
#[derive(Clone, Debug)]
pub struct Step {
    /// A name for logs.
    pub name: Option<String>,
    /// What it runs.
    pub command: Command,
    /// Variables of this step alone.
    pub env: IndexMap<String, Template>,
    /// Whether it runs; decided before the node starts.
    pub condition: Option<Expr>,
    /// Where it stands.
    pub span: Span,
}

/// A command.
#[derive(Clone, Debug)]
pub enum Command {
    /// A list: no shell. An item that evaluates to a list becomes several words.
    Argv(Vec<Template>, Span),
    /// A string: a script for a shell.
    Script(Script),
}

impl Command {
    /// Calls `visit` for every expression in it.
    pub fn walk_exprs<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        match self {
            Self::Argv(words, _) => {
                for word in words {
                    word.exprs().for_each(&mut *visit);
                }
            }
            Self::Script(script) => {
                for part in &script.parts {
                    if let ScriptPart::Value { expr, .. } = part {
                        visit(expr);
                    }
                }
            }
        }
    }
}

/// A script, split at its templates.
#[derive(Clone, Debug)]
pub struct Script {
    /// The shell that runs it.
    pub shell: Shell,
    /// Texts and values in order.
    pub parts: Vec<ScriptPart>,
    /// Where it stands.
    pub span: Span,
}

/// What runs a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shell {
    /// `bash -euo pipefail`
    Bash,
    /// `sh -eu`
    Sh,
    /// Any other program that takes a script file as its last argument; values come by `env:` only.
    Other(Vec<String>),
}

/// A part of a script.
#[derive(Clone, Debug)]
pub enum ScriptPart {
    /// Text of the author.
    Text(Arc<str>),
    /// A value: it becomes a reference to an environment variable and never script text.
    Value {
        /// What to evaluate.
        expr: Expr,
        /// Where in the shell's syntax it stands.
        place: Quoting,
    },
}

/// Where a value stands in a shell script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quoting {
    /// Outside quotes: one quoted word, or a word for each item of a list.
    Bare,
    /// Between double quotes.
    Double,
    /// Between single quotes.
    Single,
}

/// A part of the toolchain: what enters the key besides inputs.
#[derive(Clone, Debug, PartialEq)]
pub enum Toolchain {
    /// A command; its standard output enters the key.
    Command(Spanned<Vec<String>>),
    /// A file of the project; its content enters the key.
    File(Spanned<String>),
}

/// What a job asks of a host; each value may have templates.
#[derive(Clone, Debug, Default)]
pub struct ResourceTemplate {
    /// CPUs, such as `1` or `0.5`.
    pub cpus: Option<ValueTemplate>,
    /// Memory, such as `500MiB`.
    pub memory: Option<ValueTemplate>,
    /// Named resources.
    pub named: IndexMap<String, ValueTemplate>,
}

/// When a failed node is tried again. Lost attempts are counted apart and never use this up.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// How many more attempts a failure may have.
    pub max: u32,
    /// The causes that are tried again; empty: all failures and timeouts.
    pub when: Vec<RetryCause>,
    /// The wait before the second attempt in seconds; it doubles with each one, with jitter.
    pub backoff_s: f64,
    /// The factor by which memory grows after an out-of-memory kill; 1 for none.
    pub memory_factor: f64,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max: 0,
            when: Vec::new(),
            backoff_s: 1.0,
            memory_factor: 1.0,
        }
    }
}

/// A class of failures that a retry may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryCause {
    /// `exit`: a non-zero exit code.
    Exit,
    /// `signal`: killed by a signal.
    Signal,
    /// `oom`: out of memory.
    OutOfMemory,
    /// `timeout`
    Timeout,
    /// `output`: a declared output was missing or wrong.
    Output,
    /// `exec`: the program could not be started.
    Exec,
}

/// Whether and how a job is cached.
#[derive(Clone, Debug, PartialEq)]
pub enum CachePolicy {
    /// By key.
    Auto,
    /// Never: it runs in every run, and is neither merged nor speculated.
    Never,
    /// By key with the values of these environment variables in it.
    Env(Vec<String>),
}

/// One line of `export`.
#[derive(Clone, Debug)]
pub struct Export {
    /// The path in the working folder; one that ends in `/` takes the files of all nodes, named by their axes.
    pub target: Spanned<String>,
    /// What is laid there: `jobs.JOB.outputs.NAME`.
    pub value: Expr,
}

/// What reports are written.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// A JUnit file, below the working folder.
    pub junit: Option<Spanned<String>>,
    /// `annotations: github`
    pub github_annotations: bool,
}
