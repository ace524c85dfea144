//! Which names may be used where.

use dagrun_model::CONTEXTS;

/// A place of expressions in a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `matrix` and `replicates`.
    Axes,
    /// The `if` of a job.
    Condition,
    /// The `if` of a step.
    StepCondition,
    Inputs,
    /// The path of an output.
    OutputPath,
    /// `run` and the `env` of jobs and steps.
    Run,
    /// `resources`, `timeout`, `threads`.
    Limits,
    Export,
    /// Values of `study` that are fixed before the first trial.
    Study,
    /// The `when` of a parameter of the space.
    SpaceWhen,
    /// `minimize`, `maximize` and `constraints`.
    Objective,
    /// The `when` of `grow`.
    Grow,
}

impl Place {
    /// How it is called in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Axes => "in `matrix` and `replicates`",
            Self::Condition => "in `if`",
            Self::StepCondition => "in the `if` of a step",
            Self::Inputs => "in `inputs`",
            Self::OutputPath => "in the path of an output",
            Self::Run => "in `run` and `env`",
            Self::Limits => "in `resources`, `timeout` and `threads`",
            Self::Export => "in `export`",
            Self::Study => "in `study`",
            Self::SpaceWhen => "in the `when` of a parameter",
            Self::Objective => "in `minimize`, `maximize` and `constraints`",
            Self::Grow => "in `grow`",
        }
    }

    /// Why a context cannot be used here, with what to do instead; `None` if it can.
    pub(super) fn refuses(self, context: &str) -> Option<&'static str> {
        let after = matches!(self, Self::Run | Self::StepCondition);
        match context {
            _ if self == Self::Export => (context != "jobs")
                .then_some("an export names an output of a job: `jobs.JOB.outputs.NAME`"),
            "params" => None,
            "trial" if matches!(self, Self::SpaceWhen | Self::Objective | Self::Grow) => None,
            "jobs" if self == Self::Objective => None,
            "study" if self == Self::Grow => None,
            _ if self == Self::Study => {
                Some("it is fixed before the first trial: it can only use `params`")
            }
            _ if self == Self::SpaceWhen => Some("it is decided while a point is drawn, by `trial.NAME` and `params`"),
            _ if self == Self::Objective => Some(
                "an objective is made of `jobs.JOB.outputs.NAME` (of this trial), `trial` and `params`",
            ),
            _ if self == Self::Grow => Some("it is decided for each trial, by `study.value`, `study.best`, `trial` and `params`"),
            "trial" if self == Self::Axes => Some(
                "axes are the same in all trials: they can only use `params`",
            ),
            "needs" if self == Self::Axes => Some(
                "the nodes are made before any of them runs: a matrix over outputs of another job comes in a later version",
            ),
            _ if self == Self::Axes => {
                Some("axes are made before there are nodes: they can only use `params`")
            }
            "inputs" | "outputs" => (!after)
                .then_some("paths are known where a node runs: in `run`, `env` and the `if` of a step"),
            "needs" => (!after && !matches!(self, Self::Condition | Self::Inputs)).then_some(
                "what needed jobs make is known when they have run: in `inputs`, `if`, `run` and `env`",
            ),
            "attempt" | "run" => (!after).then_some("it is known where a node runs: in `run` and `env`"),
            "jobs" => Some("only `export` and the study take outputs of all nodes; a job names `needs.JOB.outputs.NAME`"),
            _ => None,
        }
    }

    /// Whether status functions have a value here.
    pub(super) fn has_status(self) -> bool {
        self == Self::Condition
    }

    /// Whether `hashFiles` has a value here.
    pub(super) fn has_hash_files(self) -> bool {
        matches!(
            self,
            Self::Condition
                | Self::StepCondition
                | Self::Inputs
                | Self::OutputPath
                | Self::Run
                | Self::Limits
        )
    }
}

/// What to write instead of a context that other systems have.
pub(super) fn foreign(context: &str) -> Option<&'static str> {
    Some(match context {
        "github" => "use `git.commit` and `git.branch`, or hand the value over as a parameter",
        "steps" => {
            "steps of a job are one node; declare an output and read it as `needs.JOB.outputs.NAME`"
        }
        "strategy" | "runner" | "vars" => "use `params`",
        "wildcards" | "axis" | "axes" => "use `matrix`",
        "param" | "parameters" | "config" => "use `params`",
        "seed" => "use `replicate.seed`",
        "input" => "use `inputs`",
        "output" => "use `outputs`",
        "item" => "use `matrix`",
        "index" => "use `replicate.index`",
        _ => return None,
    })
}

/// Whether the language has this context.
pub(super) fn is_context(name: &str) -> bool {
    CONTEXTS.contains(&name)
}
