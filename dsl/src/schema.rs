//! The keys of the language as tables: the decoder refuses what is not in them, and the JSON Schema is made from them.

mod json;
mod study;

pub use json::json_schema;
pub(crate) use study::{GROW, ORDER, SAMPLER, SPACE_PARAMETER, STOP, STUDY, sampler_options};

/// The keys that a map may have.
#[derive(Debug)]
pub(crate) struct Table {
    /// What the map is, for messages: `a job`.
    pub(crate) what: &'static str,
    /// Its name in the JSON Schema.
    name: &'static str,
    doc: &'static str,
    pub(crate) keys: &'static [Key],
    /// Keys of the language that this version does not know yet.
    pub(crate) later: &'static [&'static str],
    required: &'static [&'static str],
}

/// A key, what it means, and what it takes.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    doc: &'static str,
    shape: Shape,
}

/// What a key takes.
#[derive(Debug)]
enum Shape {
    Any,
    Text,
    Template,
    Scalar,
    Bool,
    Int(i64),
    Number,
    Enum(&'static [&'static str]),
    List(&'static Shape),
    /// Keys are names; a table keeps its own rule for them.
    Named(&'static Shape),
    MapOf(&'static Shape),
    Table(&'static Table),
    OneOf(&'static [Shape]),
}

const fn key(name: &'static str, doc: &'static str, shape: Shape) -> Key {
    Key { name, doc, shape }
}

impl Table {
    /// Whether a map of this kind may have the key.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.keys.iter().any(|key| key.name == name)
    }

    /// The names of all keys.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().map(|key| key.name)
    }
}

/// What to write in a map of a kind in place of a key of other tools.
pub(crate) fn foreign(table: &Table, name: &str) -> Option<&'static str> {
    if let Some(help) = study::foreign(table.name, name) {
        return Some(help);
    }
    Some(match name {
        "seed" if table.name == "replicates" => "write `seeds: {base: 7}`",
        "seed" | "seeds" if table.name == "job" => {
            "seeds belong to replicates: `replicates: {n: 3, seeds: {base: 7}}`"
        }
        "export" | "exports" if table.name == "job" => {
            "`export` is a key of the pipeline, beside `jobs`: `FILE: ${{ jobs.JOB.outputs.NAME }}` below it"
        }
        "runs-on" | "runs_on" => {
            "a job runs where there is room; `executor:` binds it to a profile"
        }
        "strategy" => "write `matrix:` in the job itself",
        "timeout-minutes" => "write a duration with its unit: `timeout: 10m`",
        "continue-on-error" => "write `continue_on_error:`",
        "working-directory" | "wdir" | "cwd" => {
            "a node has a folder of its own; use `cd` in its script"
        }
        "container" | "docker" => "containers are not in this version",
        "on" => "a pipeline runs when it is told to; other tools may start it",
        "depends_on" | "dependencies" | "after" => "write `needs:`",
        "cmd" | "command" | "script" | "shell_command" => "write `run:`",
        "deps" => "write `inputs:` for files and `needs:` for jobs",
        "outs" | "artifacts" => "write `outputs:`, with a name for each path",
        "stages" | "tasks" | "rules" => "write `jobs:`",
        "vars" | "variables" | "environment" => {
            "write `env:` for variables and `params:` for parameters"
        }
        _ => return None,
    })
}

const TEXTS: Shape = Shape::List(&Shape::Text);
const TEXT_OR_TEXTS: Shape = Shape::OneOf(&[Shape::Text, TEXTS]);
const INT_OR_TEMPLATE: Shape = Shape::OneOf(&[Shape::Int(1), Shape::Template]);
const NUMBER_OR_TEMPLATE: Shape = Shape::OneOf(&[Shape::Number, Shape::Template]);
const ENV: Shape = Shape::MapOf(&Shape::Scalar);
const COMMAND: Shape = Shape::OneOf(&[Shape::Text, Shape::List(&Shape::Any)]);
const NEED: Shape = Shape::OneOf(&[Shape::Text, Shape::Table(&NEED_ITEM)]);
const INPUT: Shape = Shape::OneOf(&[
    Shape::Text,
    Shape::List(&Shape::Any),
    Shape::Table(&INPUT_ITEM),
]);
const RETRIES: Shape = Shape::OneOf(&[Shape::Int(0), Shape::Table(&RETRY)]);
const CACHES: Shape = Shape::OneOf(&[Shape::Enum(&["auto", "never"]), Shape::Table(&CACHE_ENV)]);
const REPORT_ANNOTATIONS: &[&str] = &["github"];
pub(crate) const PARAM_TYPES: &[&str] = &[
    "string", "int", "float", "number", "bool", "list", "map", "any",
];
pub(crate) const RETRY_CAUSES: &[&str] = &["exit", "signal", "oom", "timeout", "output", "exec"];
pub(crate) const SEED_POLICIES: &[&str] = &["common", "per_trial", "list"];

const ENV_KEY: Key = key(
    "env",
    "Environment variables of the job. They enter the key; all others are hidden from it.",
    ENV,
);
const PASS_ENV: Key = key(
    "pass_env",
    "Names of variables that are passed through from the caller's environment and do not enter the key.",
    TEXTS,
);
const TOOLCHAIN: Key = key(
    "toolchain",
    "Commands whose output, and files whose content, enter the key. A text with a blank in it is a command, one without is a file.",
    Shape::List(&TEXT_OR_TEXTS),
);
const SECRETS: Key = key(
    "secrets",
    "Names of secrets. A job gets those it lists as environment variables; they are masked in logs and kept out of keys.",
    TEXTS,
);
const INPUTS: Key = key(
    "inputs",
    "Files, folders, globs and outputs of needed jobs that the job sees: a list, or a map of names.",
    Shape::OneOf(&[Shape::List(&INPUT), Shape::Named(&INPUT)]),
);
const SHELL: Key = key(
    "shell",
    "What runs a script: bash (the default), sh, or a program that takes a script file.",
    TEXT_OR_TEXTS,
);
const RESOURCES_KEY: Key = key(
    "resources",
    "What an attempt takes from its host. Never enters the key.",
    Shape::Table(&RESOURCES),
);
const THREADS: Key = key(
    "threads",
    "Threads the job may use: sets OMP_NUM_THREADS and its kin, and enters the key.",
    INT_OR_TEMPLATE,
);
const TIMEOUT: Key = key(
    "timeout",
    "How long an attempt may take, such as `90s` or `1h30m`.",
    Shape::Scalar,
);
const RETRY_KEY: Key = key(
    "retry",
    "When a failed node is tried again. Lost attempts never use this up.",
    RETRIES,
);
const CACHE: Key = key(
    "cache",
    "`auto`, `never`, or environment variables whose values enter the key.",
    CACHES,
);
const CONTINUE_ON_ERROR: Key = key(
    "continue_on_error",
    "A failure counts as a success for dependents, not for the exit code.",
    Shape::Bool,
);
const SPECULATE: Key = key(
    "speculate",
    "A straggling attempt may get a second one.",
    Shape::Bool,
);
const EXECUTOR: Key = key(
    "executor",
    "The executor profile the job is bound to.",
    Shape::Text,
);
const IMAGE: Key = key(
    "image",
    "Reserved for a container image; an error until an executor runs it.",
    Shape::Text,
);
const IF: Key = key(
    "if",
    "An expression; where it is false the node or step is skipped.",
    Shape::OneOf(&[Shape::Text, Shape::Bool]),
);

/// The top level of a file.
pub(crate) static PIPELINE: Table = Table {
    what: "a pipeline",
    name: "pipeline",
    doc: "A pipeline of jobs.",
    keys: &[
        key("dagrun", "The version of the language.", Shape::Int(1)),
        key(
            "name",
            "The name; with the workspace it identifies the pipeline's history.",
            Shape::Text,
        ),
        key(
            "params",
            "Typed parameters: a default value, or a map with a type. Override with `-p name=value`.",
            Shape::Named(&Shape::OneOf(&[
                Shape::Scalar,
                Shape::List(&Shape::Any),
                Shape::Table(&PARAM),
            ])),
        ),
        key("env", "Environment variables of all jobs.", ENV),
        PASS_ENV,
        TOOLCHAIN,
        SECRETS,
        key(
            "defaults",
            "Values for jobs that do not set the key themselves: replaced, not merged.",
            Shape::Table(&DEFAULTS),
        ),
        key(
            "study",
            "Trials of a space: an optimizer proposes, the jobs that use `trial` run.",
            Shape::Table(&STUDY),
        ),
        key(
            "jobs",
            "The jobs by name.",
            Shape::Named(&Shape::Table(&JOB)),
        ),
        key(
            "export",
            "What is laid into the working folder at the end: target path to expression. A target that ends in `/` takes the files of all nodes.",
            Shape::MapOf(&Shape::Text),
        ),
        key("report", "What reports are written.", Shape::Table(&REPORT)),
    ],
    later: &[],
    required: &["jobs"],
};

/// A job.
pub(crate) static JOB: Table = Table {
    what: "a job",
    name: "job",
    doc: "A command with its inputs, outputs and axes. One of `run`, `steps` and `uses` is needed.",
    keys: &[
        key(
            "needs",
            "The jobs it needs: joined on the axes that both have, gathered over the others. `study`: the job runs when the study has ended.",
            Shape::OneOf(&[
                Shape::Text,
                Shape::List(&NEED),
                Shape::Table(&NEED_ITEM),
                Shape::Named(&Shape::Any),
            ]),
        ),
        IF,
        key(
            "matrix",
            "Axes: a list of values for each name, with `include` and `exclude`.",
            Shape::Table(&MATRIX),
        ),
        key(
            "for_each",
            "Axes that are taken over from needed jobs.",
            TEXT_OR_TEXTS,
        ),
        key(
            "replicates",
            "How many replicates, each with its own seed.",
            Shape::OneOf(&[INT_OR_TEMPLATE, Shape::Table(&REPLICATES)]),
        ),
        INPUTS,
        key(
            "outputs",
            "Files and folders that it makes, by name.",
            Shape::Named(&Shape::OneOf(&[Shape::Text, Shape::Table(&OUTPUT)])),
        ),
        key(
            "stdout",
            "The output that takes the standard output.",
            Shape::Text,
        ),
        key(
            "run",
            "A text is a script; a list is a command without a shell.",
            COMMAND,
        ),
        SHELL,
        key(
            "steps",
            "Several commands in one node; the first that fails ends it.",
            Shape::List(&Shape::Table(&STEP)),
        ),
        ENV_KEY,
        PASS_ENV,
        TOOLCHAIN,
        SECRETS,
        RESOURCES_KEY,
        THREADS,
        TIMEOUT,
        RETRY_KEY,
        CACHE,
        CONTINUE_ON_ERROR,
        SPECULATE,
        EXECUTOR,
        IMAGE,
        key(
            "uses",
            "A file of jobs in the project, brought in under this name.",
            Shape::Text,
        ),
        key(
            "with",
            "Parameters of the file that `uses` names.",
            Shape::MapOf(&Shape::Any),
        ),
    ],
    later: &["call"],
    required: &[],
};

/// Defaults of jobs.
pub(crate) static DEFAULTS: Table = Table {
    what: "`defaults`",
    name: "defaults",
    doc: "Values for jobs that do not set the key themselves.",
    keys: &[
        INPUTS,
        SHELL,
        ENV_KEY,
        PASS_ENV,
        TOOLCHAIN,
        SECRETS,
        RESOURCES_KEY,
        THREADS,
        TIMEOUT,
        RETRY_KEY,
        CACHE,
        CONTINUE_ON_ERROR,
        SPECULATE,
        EXECUTOR,
        IMAGE,
    ],
    later: &["call"],
    required: &[],
};

/// A step of a job.
pub(crate) static STEP: Table = Table {
    what: "a step",
    name: "step",
    doc: "A command of a job with several.",
    keys: &[
        key("name", "A name for logs.", Shape::Text),
        key(
            "run",
            "A text is a script; a list is a command without a shell.",
            COMMAND,
        ),
        SHELL,
        ENV_KEY,
        IF,
    ],
    later: &[],
    required: &["run"],
};

/// A parameter.
pub(crate) static PARAM: Table = Table {
    what: "a parameter",
    name: "param",
    doc: "A typed parameter.",
    keys: &[
        key(
            "type",
            "The type; without it, that of the default.",
            Shape::Enum(PARAM_TYPES),
        ),
        key(
            "default",
            "The default; a parameter without one must be given.",
            Shape::Any,
        ),
        key("min", "The least number allowed.", Shape::Number),
        key("max", "The greatest number allowed.", Shape::Number),
        key(
            "choices",
            "The only values allowed.",
            Shape::List(&Shape::Any),
        ),
        key("description", "For people.", Shape::Text),
    ],
    later: &[],
    required: &[],
};

/// A need in its long form.
pub(crate) static NEED_ITEM: Table = Table {
    what: "a need",
    name: "need",
    doc: "A need of another job.",
    keys: &[
        key("job", "The needed job.", Shape::Text),
        key(
            "missing",
            "`drop`: a point without an upstream node loses the need instead of being an error.",
            Shape::Enum(&["drop", "error"]),
        ),
        key(
            "min",
            "The least number of succeeded nodes in a gather; without it, all must succeed.",
            Shape::Int(0),
        ),
    ],
    later: &[],
    required: &["job"],
};

/// A need where the job's name is the key.
pub(crate) static NEED_OPTIONS: Table = Table {
    what: "a need",
    name: "need_options",
    doc: "How a job is needed.",
    keys: &[
        key(
            "missing",
            "`drop`: a point without an upstream node loses the need instead of being an error.",
            Shape::Enum(&["drop", "error"]),
        ),
        key(
            "min",
            "The least number of succeeded nodes in a gather; without it, all must succeed.",
            Shape::Int(0),
        ),
    ],
    later: &[],
    required: &[],
};

/// The keys of a matrix that are no axes.
pub(crate) static MATRIX: Table = Table {
    what: "a matrix",
    name: "matrix",
    doc: "Axes by name, and points to add or leave out.",
    keys: &[
        key(
            "include",
            "Points to add, or attributes for the points that match.",
            Shape::List(&Shape::MapOf(&Shape::Any)),
        ),
        key(
            "exclude",
            "Points to leave out.",
            Shape::List(&Shape::MapOf(&Shape::Any)),
        ),
    ],
    later: &[],
    required: &[],
};

/// Replicates in their long form.
pub(crate) static REPLICATES: Table = Table {
    what: "`replicates`",
    name: "replicates",
    doc: "Replicates of a job.",
    keys: &[
        key("n", "How many.", INT_OR_TEMPLATE),
        key("seeds", "How seeds are made.", Shape::Table(&SEEDS)),
        key(
            "min",
            "How many must succeed for gathering nodes to start; without it, all.",
            INT_OR_TEMPLATE,
        ),
        key(
            "grow",
            "When a promising trial gets more of them.",
            Shape::Table(&GROW),
        ),
    ],
    later: &[],
    required: &["n"],
};

/// Seeds of replicates.
pub(crate) static SEEDS: Table = Table {
    what: "`seeds`",
    name: "seeds",
    doc: "How seeds are made.",
    keys: &[
        key(
            "base",
            "The base of the permutation that gives the seeds.",
            Shape::OneOf(&[Shape::Int(0), Shape::Template]),
        ),
        key(
            "policy",
            "`common`: the same at every point; `per_trial`: different from point to point; `list`: as in `values`.",
            Shape::Enum(SEED_POLICIES),
        ),
        key(
            "values",
            "The seeds, for the policy `list`.",
            Shape::OneOf(&[Shape::List(&Shape::Any), Shape::Template]),
        ),
    ],
    later: &[],
    required: &[],
};

/// An input in its long form.
pub(crate) static INPUT_ITEM: Table = Table {
    what: "an input",
    name: "input",
    doc: "An input.",
    keys: &[
        key("path", "A path, a glob, or a list of them.", TEXT_OR_TEXTS),
        key(
            "external",
            "The path may leave the project folder.",
            Shape::Bool,
        ),
    ],
    later: &[],
    required: &["path"],
};

/// An output in its long form.
pub(crate) static OUTPUT: Table = Table {
    what: "an output",
    name: "output",
    doc: "An output: a file or folder, or a value in a JSON file.",
    keys: &[
        key("path", "The path below the node's folder.", Shape::Text),
        key(
            "json",
            "The path of a JSON file, for an output that is a value.",
            Shape::Text,
        ),
        key(
            "pointer",
            "A JSON pointer into the file, such as `/loss`.",
            Shape::Text,
        ),
        key(
            "type",
            "The type of the value; `number` by default.",
            Shape::Enum(PARAM_TYPES),
        ),
        key("optional", "It may be missing.", Shape::Bool),
        key(
            "keep",
            "`false`: it may be dropped once it has been consumed.",
            Shape::Bool,
        ),
    ],
    later: &[],
    required: &[],
};

/// Resources; other keys are named resources.
pub(crate) static RESOURCES: Table = Table {
    what: "`resources`",
    name: "resources",
    doc: "CPUs, memory, and resources by any other name.",
    keys: &[
        key("cpus", "CPUs, such as `1` or `0.5`.", NUMBER_OR_TEMPLATE),
        key("memory", "Memory, such as `500MiB`.", Shape::Scalar),
    ],
    later: &[],
    required: &[],
};

/// A retry in its long form.
pub(crate) static RETRY: Table = Table {
    what: "`retry`",
    name: "retry",
    doc: "When a failed node is tried again.",
    keys: &[
        key(
            "max",
            "How many more attempts a failure may have.",
            Shape::Int(0),
        ),
        key(
            "when",
            "The causes that are tried again; all without it.",
            Shape::OneOf(&[
                Shape::Enum(RETRY_CAUSES),
                Shape::List(&Shape::Enum(RETRY_CAUSES)),
            ]),
        ),
        key(
            "backoff",
            "The wait before the second attempt; it doubles with each one.",
            Shape::Scalar,
        ),
        key(
            "memory",
            "The factor by which memory grows after an out-of-memory kill, such as `2x`.",
            Shape::Scalar,
        ),
    ],
    later: &[],
    required: &["max"],
};

/// A cache policy with variables.
pub(crate) static CACHE_ENV: Table = Table {
    what: "`cache`",
    name: "cache",
    doc: "Environment variables whose values enter the key.",
    keys: &[key("env", "Names of variables.", TEXTS)],
    later: &[],
    required: &["env"],
};

/// Reports.
pub(crate) static REPORT: Table = Table {
    what: "`report`",
    name: "report",
    doc: "What reports are written.",
    keys: &[
        key(
            "junit",
            "A JUnit file, below the working folder.",
            Shape::Text,
        ),
        key(
            "annotations",
            "Annotations for a forge.",
            Shape::Enum(REPORT_ANNOTATIONS),
        ),
    ],
    later: &[],
    required: &[],
};
