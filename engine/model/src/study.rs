//! The `study` section as it is written: what `dsl` reads and `engine/study` resolves.
//!
//! Numbers may be templates over `params`; they are evaluated when a plan is made.

use indexmap::IndexMap;

use crate::{Expr, Span, Spanned, Template, ValueTemplate};

/// A study: trials of one space, asked from a sampler and told what they came to.
#[derive(Clone, Debug)]
pub struct Study {
    /// The parameters of a trial, in file order.
    pub space: IndexMap<String, SpaceParameter>,
    /// What proposes trials.
    pub sampler: SamplerSpec,
    /// How many trials there are in all; null (for `grid`): as many as its space has points.
    pub trials: ValueTemplate,
    /// How many trials are under way at once; without it (`auto`) it follows slots and replicates.
    pub in_flight: Option<ValueTemplate>,
    /// What an ask has seen.
    pub order: OrderSpec,
    /// What is sought; at least one.
    pub objectives: Vec<Objective>,
    /// Each is a boolean (false: infeasible) or a number (above 0: infeasible, by that much).
    pub constraints: Vec<Expr>,
    /// When the study ends before its trials are used up.
    pub stop: StopSpec,
    /// Points to try first: maps from parameter names to values; parameters that are left out are sampled.
    pub enqueue: Vec<ValueTemplate>,
    /// Where it stands.
    pub span: Span,
}

/// A parameter of the space.
#[derive(Clone, Debug)]
pub struct SpaceParameter {
    /// Its name.
    pub name: Spanned<String>,
    /// The family of its values.
    pub kind: Spanned<DistributionKind>,
    /// The arguments of the family: a list, as [`DistributionKind::arguments`] says.
    pub arguments: ValueTemplate,
    /// Decimal places that its values are rounded to.
    pub digits: Option<ValueTemplate>,
    /// The parameter is active only where this holds; it may refer to parameters above it by `trial.NAME`. An inactive
    /// parameter is null.
    pub when: Option<Expr>,
    /// Where it stands.
    pub span: Span,
}

macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident $name:literal $about:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type { $($(#[$variant_doc])* $variant),* }

        impl $type {
            /// All of them, in the order of the reference.
            pub const ALL: &[$type] = &[$($type::$variant),*];

            /// The name as it is written.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// What follows the name, for messages.
            pub fn arguments(self) -> &'static str {
                match self { $(Self::$variant => $about),* }
            }

            /// The one of a name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|it| it.name() == name)
            }
        }
    };
}

names! {
    /// The families of a parameter's values.
    DistributionKind {
        /// Any number of an interval, evenly.
        Uniform "uniform" "[low, high]";
        /// Any number of an interval, evenly by its logarithm.
        LogUniform "log_uniform" "[low, high], both above 0";
        /// A whole number of an interval, ends included.
        Int "int" "[low, high]";
        /// A whole number of an interval, evenly by its logarithm.
        LogInt "log_int" "[low, high], both above 0";
        /// One of a list.
        Choice "choice" "[value, ...]";
        /// A number by a normal distribution.
        Normal "normal" "[mean, standard deviation]";
        /// A number from 0 to 1 by a beta distribution.
        Beta "beta" "[alpha, beta]";
        /// One of the numbers low, low + step, ... up to high.
        Steps "steps" "[low, high, step]";
    }
}

names! {
    /// What proposes trials.
    SamplerKind {
        /// Every combination of values, each parameter in `levels` steps.
        Grid "grid" "levels";
        /// Independent draws.
        Random "random" "seed";
        /// A scrambled Sobol sequence.
        Sobol "sobol" "seed";
        /// A Latin hypercube over all trials.
        Lhs "lhs" "seed";
        /// The tree-structured Parzen estimator.
        Tpe "tpe" "seed, startup, candidates";
        /// Covariance matrix adaptation; numbers only.
        Cmaes "cmaes" "seed, population, sigma";
        /// Optuna in a Python process.
        Optuna "optuna" "sampler, seed, storage, python, options";
        /// A program that speaks JSON lines.
        Exec "exec" "[program, argument, ...]";
    }
}

/// The sampler and its options.
#[derive(Clone, Debug)]
pub struct SamplerSpec {
    /// Which one.
    pub kind: Spanned<SamplerKind>,
    /// Its options by name; for `exec` one option `command`, a list.
    pub options: IndexMap<String, ValueTemplate>,
}

/// What an ask has seen.
#[derive(Clone, Debug)]
pub enum OrderSpec {
    /// `async`: all that was told so far, in the order of time. A slot that frees asks at once.
    Async,
    /// `batched: n`: n trials are asked together when all before them are told.
    Batched(ValueTemplate),
    /// `lag: L`: ask k sees exactly the results of 1 to k-L, so that the study is the same whatever finishes first.
    Lag(ValueTemplate),
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Smaller.
    Minimize,
    /// Greater.
    Maximize,
}

/// A number that is sought to be small or great. It may refer to `jobs.JOB.outputs.NAME` (of this trial), `trial` and `params`.
#[derive(Clone, Debug)]
pub struct Objective {
    /// Its name in tables: as written, or `loss` for a single one to minimise, `score` to maximise, else with a number.
    pub name: String,
    /// Which way is better.
    pub direction: Direction,
    /// Its value.
    pub value: Expr,
    /// Where it stands.
    pub span: Span,
}

/// When a study ends before its trials are used up.
#[derive(Clone, Debug, Default)]
pub struct StopSpec {
    /// After this time, counted over all resumes.
    pub wall: Option<Template>,
    /// After this many trials in a row without a better one.
    pub no_gain: Option<ValueTemplate>,
    /// When the (single) objective is at least this good.
    pub target: Option<ValueTemplate>,
    /// When this many trials have failed: the study then has failed.
    pub failures: Option<ValueTemplate>,
}

/// Replicates that are added to promising trials.
#[derive(Clone, Debug)]
pub struct Grow {
    /// How many replicates there are then.
    pub to: ValueTemplate,
    /// Whether a trial gets them: may refer to `trial`, `study.value` (its objective so far) and `study.best`.
    pub when: Expr,
    /// Where it stands.
    pub span: Span,
}
