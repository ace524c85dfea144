//! The keys of `study` and of what stands in it.

use dagrun_model::SamplerKind;

use super::{INT_OR_TEMPLATE, Key, NUMBER_OR_TEMPLATE, Shape, TEXT_OR_TEXTS, TEXTS, Table, key};

const COUNT_FROM_0: Shape = Shape::OneOf(&[Shape::Int(0), Shape::Template]);
const NUMBERS: Shape = Shape::OneOf(&[Shape::List(&NUMBER_OR_TEMPLATE), Shape::Template]);
const OBJECTIVES: Shape = Shape::OneOf(&[
    Shape::Text,
    Shape::List(&Shape::Text),
    Shape::Named(&Shape::Text),
]);
const SEED: Key = key(
    "seed",
    "What its random numbers follow from; 0 by default.",
    COUNT_FROM_0,
);

/// The samplers that need no options.
const SAMPLER_WORDS: &[&str] = &["grid", "random", "sobol", "lhs", "tpe", "cmaes", "optuna"];

/// A study.
pub(crate) static STUDY: Table = Table {
    what: "a study",
    name: "study",
    doc: "Trials of one space, asked from a sampler and told what they came to. One of `minimize` and `maximize` is needed.",
    keys: &[
        key(
            "space",
            "The parameters of a trial by name.",
            Shape::Named(&Shape::Table(&SPACE_PARAMETER)),
        ),
        key(
            "sampler",
            "What proposes trials; `tpe` by default.",
            Shape::OneOf(&[Shape::Enum(SAMPLER_WORDS), Shape::Table(&SAMPLER)]),
        ),
        key(
            "trials",
            "How many trials there are in all; `grid` has as many as its space has points.",
            INT_OR_TEMPLATE,
        ),
        key(
            "in_flight",
            "How many trials are under way at once; `auto` (the default) follows the slots.",
            Shape::OneOf(&[Shape::Enum(&["auto"]), INT_OR_TEMPLATE]),
        ),
        key(
            "order",
            "What an ask has seen: `async` (the default), `{batched: N}` or `{lag: L}`.",
            Shape::OneOf(&[Shape::Enum(&["async"]), Shape::Table(&ORDER)]),
        ),
        key(
            "minimize",
            "What is sought to be small: an expression, a list of them, or a map of names.",
            OBJECTIVES,
        ),
        key(
            "maximize",
            "What is sought to be great: an expression, a list of them, or a map of names.",
            OBJECTIVES,
        ),
        key(
            "constraints",
            "Expressions that a trial has to meet: a boolean, or a number that is at most 0.",
            TEXT_OR_TEXTS,
        ),
        key(
            "stop",
            "When the study ends before its trials are used up.",
            Shape::Table(&STOP),
        ),
        key(
            "enqueue",
            "Points to try first; parameters that one leaves out are sampled.",
            Shape::List(&Shape::OneOf(&[Shape::MapOf(&Shape::Any), Shape::Template])),
        ),
    ],
    later: &[],
    required: &["space"],
};

/// A parameter of the space.
pub(crate) static SPACE_PARAMETER: Table = Table {
    what: "a parameter of the space",
    name: "space_parameter",
    doc: "A parameter of a trial: one distribution, and what goes with it.",
    keys: &[
        key("uniform", "Any number of `[low, high]`, evenly.", NUMBERS),
        key(
            "log_uniform",
            "Any number of `[low, high]`, evenly by its logarithm.",
            NUMBERS,
        ),
        key("int", "A whole number of `[low, high]`.", NUMBERS),
        key(
            "log_int",
            "A whole number of `[low, high]`, evenly by its logarithm.",
            NUMBERS,
        ),
        key(
            "choice",
            "One of a list of values.",
            Shape::OneOf(&[Shape::List(&Shape::Any), Shape::Template]),
        ),
        key(
            "normal",
            "A number by a normal distribution, `[mean, standard deviation]`.",
            NUMBERS,
        ),
        key(
            "beta",
            "A number from 0 to 1 by a beta distribution, `[alpha, beta]`.",
            NUMBERS,
        ),
        key(
            "steps",
            "One of low, low + step, ... up to high: `[low, high, step]`.",
            NUMBERS,
        ),
        key(
            "digits",
            "Decimal places that its values are rounded to.",
            COUNT_FROM_0,
        ),
        key(
            "when",
            "An expression over parameters above; where it is false, this one is inactive and null.",
            Shape::OneOf(&[Shape::Text, Shape::Bool]),
        ),
    ],
    later: &[],
    required: &[],
};

/// A sampler with options.
pub(crate) static SAMPLER: Table = Table {
    what: "`sampler`",
    name: "sampler",
    doc: "One sampler with its options.",
    keys: &[
        key("grid", "Every combination of values.", Shape::Table(&GRID)),
        key("random", "Independent draws.", Shape::Table(&RANDOM)),
        key("sobol", "A scrambled Sobol sequence.", Shape::Table(&SOBOL)),
        key(
            "lhs",
            "A Latin hypercube over all trials.",
            Shape::Table(&LHS),
        ),
        key(
            "tpe",
            "The tree-structured Parzen estimator.",
            Shape::Table(&TPE),
        ),
        key(
            "cmaes",
            "Covariance matrix adaptation; numbers only.",
            Shape::Table(&CMAES),
        ),
        key(
            "optuna",
            "A sampler of Optuna, in a Python process.",
            Shape::Table(&OPTUNA),
        ),
        key(
            "exec",
            "A program that speaks JSON lines.",
            Shape::OneOf(&[TEXTS, Shape::Table(&EXEC)]),
        ),
    ],
    later: &[],
    required: &[],
};

/// The table of a sampler's options.
pub(crate) fn sampler_options(kind: SamplerKind) -> &'static Table {
    match kind {
        SamplerKind::Grid => &GRID,
        SamplerKind::Random => &RANDOM,
        SamplerKind::Sobol => &SOBOL,
        SamplerKind::Lhs => &LHS,
        SamplerKind::Tpe => &TPE,
        SamplerKind::Cmaes => &CMAES,
        SamplerKind::Optuna => &OPTUNA,
        SamplerKind::Exec => &EXEC,
    }
}

static GRID: Table = Table {
    what: "the sampler `grid`",
    name: "grid",
    doc: "Options of `grid`.",
    keys: &[key(
        "levels",
        "How many values a parameter without values of its own gets; one number for all, or a map by name.",
        Shape::OneOf(&[INT_OR_TEMPLATE, Shape::Named(&INT_OR_TEMPLATE)]),
    )],
    later: &[],
    required: &[],
};

static RANDOM: Table = Table {
    what: "the sampler `random`",
    name: "random",
    doc: "Options of `random`.",
    keys: &[SEED],
    later: &[],
    required: &[],
};

static SOBOL: Table = Table {
    what: "the sampler `sobol`",
    name: "sobol",
    doc: "Options of `sobol`.",
    keys: &[SEED],
    later: &[],
    required: &[],
};

static LHS: Table = Table {
    what: "the sampler `lhs`",
    name: "lhs",
    doc: "Options of `lhs`.",
    keys: &[SEED],
    later: &[],
    required: &[],
};

static TPE: Table = Table {
    what: "the sampler `tpe`",
    name: "tpe",
    doc: "Options of `tpe`.",
    keys: &[
        SEED,
        key(
            "startup",
            "How many trials are drawn at random before the first estimate.",
            COUNT_FROM_0,
        ),
        key(
            "candidates",
            "How many candidates are drawn for a proposal.",
            INT_OR_TEMPLATE,
        ),
    ],
    later: &[],
    required: &[],
};

static CMAES: Table = Table {
    what: "the sampler `cmaes`",
    name: "cmaes",
    doc: "Options of `cmaes`.",
    keys: &[
        SEED,
        key(
            "population",
            "How many trials a generation has.",
            Shape::OneOf(&[Shape::Int(2), Shape::Template]),
        ),
        key(
            "sigma",
            "The first step size, as a part of each parameter's range.",
            NUMBER_OR_TEMPLATE,
        ),
    ],
    later: &[],
    required: &[],
};

static OPTUNA: Table = Table {
    what: "the sampler `optuna`",
    name: "optuna",
    doc: "Options of `optuna`.",
    keys: &[
        key(
            "sampler",
            "The class in `optuna.samplers`; `TPESampler` by default.",
            Shape::Text,
        ),
        SEED,
        key(
            "storage",
            "The address of an Optuna storage that keeps a copy of the study.",
            Shape::Text,
        ),
        key(
            "python",
            "The Python that has Optuna; `python3` by default.",
            Shape::Text,
        ),
        key(
            "options",
            "Keyword arguments of the sampler.",
            Shape::MapOf(&Shape::Any),
        ),
        TIMEOUT,
    ],
    later: &[],
    required: &[],
};

static EXEC: Table = Table {
    what: "the sampler `exec`",
    name: "exec",
    doc: "Options of `exec`.",
    keys: &[
        key("command", "The program and its arguments.", TEXTS),
        TIMEOUT,
    ],
    later: &[],
    required: &["command"],
};

const TIMEOUT: Key = key(
    "timeout",
    "How long it may think about a trial; `60s` by default.",
    Shape::Text,
);

/// What an ask has seen.
pub(crate) static ORDER: Table = Table {
    what: "`order`",
    name: "order",
    doc: "What an ask has seen.",
    keys: &[
        key(
            "batched",
            "So many trials are asked together when all before them are told.",
            INT_OR_TEMPLATE,
        ),
        key(
            "lag",
            "Ask k sees exactly the results of 1 to k-L: the study is the same whatever finishes first.",
            INT_OR_TEMPLATE,
        ),
    ],
    later: &[],
    required: &[],
};

/// When a study ends early.
pub(crate) static STOP: Table = Table {
    what: "`stop`",
    name: "stop",
    doc: "When a study ends before its trials are used up.",
    keys: &[
        key(
            "wall",
            "After this time, such as `4h`, counted over all resumes.",
            Shape::Scalar,
        ),
        key(
            "no_gain",
            "After so many trials in a row without a better one.",
            INT_OR_TEMPLATE,
        ),
        key(
            "target",
            "When the objective is at least this good.",
            NUMBER_OR_TEMPLATE,
        ),
        key(
            "failures",
            "When so many trials have failed; the study has failed then.",
            INT_OR_TEMPLATE,
        ),
    ],
    later: &[],
    required: &[],
};

/// Replicates that are added to promising trials.
pub(crate) static GROW: Table = Table {
    what: "`grow`",
    name: "grow",
    doc: "Replicates that are added to promising trials.",
    keys: &[
        key("to", "How many replicates there are then.", INT_OR_TEMPLATE),
        key(
            "when",
            "Whether a trial gets them: an expression over `study.value`, `study.best` and `trial`.",
            Shape::OneOf(&[Shape::Text, Shape::Bool]),
        ),
    ],
    later: &[],
    required: &["to", "when"],
};

/// What to write for a word of other tools in a table of the study.
pub(super) fn foreign(table: &str, name: &str) -> Option<&'static str> {
    Some(match (table, name) {
        ("space_parameter", "low" | "high" | "min" | "max" | "range" | "float" | "log") => {
            "write the interval as a list: `uniform: [0, 1]`, `log_uniform: [0.01, 1]` or `int: [0, 20]`"
        }
        ("space_parameter", "type" | "distribution") => {
            "the name of the distribution is the key: `uniform: [0, 1]`"
        }
        ("space_parameter", "categorical" | "choices" | "values" | "options") => {
            "write `choice: [a, b]`"
        }
        ("space_parameter", "step" | "quniform" | "discrete_uniform") => {
            "write `steps: [low, high, step]`"
        }
        ("space_parameter", "randint" | "integer") => "write `int: [low, high]`",
        ("space_parameter", "default" | "value" | "fixed") => {
            "a value that stays the same is in `params`; points to try first are in `enqueue` of the study"
        }
        ("space_parameter", "if") => "write `when:`",
        ("study", "parameters" | "params" | "search_space" | "distributions") => "write `space:`",
        ("study", "n_trials" | "max_trials" | "budget") => "write `trials:`",
        ("study", "n_jobs" | "parallel" | "max_parallel" | "concurrency") => "write `in_flight:`",
        ("study", "timeout") => "write `stop: {wall: 4h}`",
        (
            "study",
            "direction" | "directions" | "objective" | "objectives" | "metric" | "metrics",
        ) => {
            "write `minimize:` or `maximize:` with an expression such as `${{ jobs.JOB.outputs.loss }}`"
        }
        ("study", "seed") => "the seed belongs to the sampler: `sampler: {tpe: {seed: 7}}`",
        ("tpe", "n_startup_trials") => "write `startup:`",
        ("tpe", "n_ei_candidates") => "write `candidates:`",
        ("cmaes", "popsize" | "population_size") => "write `population:`",
        ("cmaes", "sigma0") => "write `sigma:`",
        ("order", "sync") => "write `batched: N`",
        ("job", "trial") => {
            "a job that uses `trial.NAME` in a template has a node for each trial; there is no key for it"
        }
        _ => return None,
    })
}
