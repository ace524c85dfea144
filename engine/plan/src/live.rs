//! What a node sees of the nodes before it while a plan runs.

use dagrun_expr::EvalError;
use dagrun_model::{Artifact, Function, NodeIx, Outputs, SetIx, Value};
use rustc_hash::FxHashSet;

use crate::{
    Plan,
    context::{LiveValues, one_or_list},
    input::find_files,
    join::NONE,
    layout::NeedPlan,
};

/// What the caller knows of nodes that have ended.
pub trait Upstream {
    /// The outputs of a node that has succeeded.
    fn outputs(&self, node: NodeIx) -> Option<&Outputs>;
    /// How a node ended, where it has.
    fn end(&self, node: NodeIx) -> Option<UpstreamEnd>;
    /// The id of the run: `run.id`.
    fn run_id(&self) -> &str;
    /// The number of the attempt that an action is made for, from 1: `attempt`, only for jobs that are never cached.
    fn attempt(&self, node: NodeIx) -> u32 {
        let _ = node;
        1
    }
}

/// How a node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamEnd {
    /// It has outputs, from the cache or not.
    Succeeded,
    /// It failed.
    Failed,
    /// It was not run because of another node.
    Skipped,
    /// Its own `if` is false.
    ConditionFalse,
    /// It was stopped.
    Cancelled,
}

/// Paths of staged inputs as expressions see them.
#[derive(Debug, Default)]
pub(crate) struct StagedValues {
    /// For each data input: its path, paths or value.
    pub(crate) data: Vec<Value>,
    /// For each declared input.
    pub(crate) inputs: Vec<Value>,
}

/// The live values of one node.
pub(crate) struct Live<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) upstream: &'a dyn Upstream,
    pub(crate) node: NodeIx,
    pub(crate) job: usize,
    pub(crate) row: usize,
    /// Inside an action; without it, inside an `if`.
    pub(crate) staged: Option<&'a StagedValues>,
}

impl<'a> Live<'a> {
    pub(crate) fn new(plan: &'a Plan, upstream: &'a dyn Upstream, node: NodeIx) -> Self {
        let (job, row) = plan.first(node);
        Self {
            plan,
            upstream,
            node,
            job,
            row,
            staged: None,
        }
    }

    pub(crate) fn need(&self, need: usize) -> &'a NeedPlan {
        &self.plan.core.jobs[self.job].needs[need]
    }

    /// The set of a need; `None` where this point goes without it.
    pub(crate) fn set(&self, need: usize) -> Option<SetIx> {
        match self.need(need).groups[self.row] {
            NONE => None,
            set => Some(SetIx(set)),
        }
    }

    /// Cells and outputs of the members that have succeeded, in order.
    pub(crate) fn succeeded(
        &self,
        need: usize,
    ) -> impl Iterator<Item = (u32, &'a Outputs)> + use<'a> {
        let (plan, upstream) = (self.plan, self.upstream);
        let set = self.set(need);
        set.into_iter().flat_map(move |set| {
            let members = plan.sets.cells(set).iter().zip(plan.sets.nodes(set));
            members.filter_map(move |(cell, node)| Some((*cell, upstream.outputs(*node)?)))
        })
    }

    /// How a need ended as a whole.
    pub(crate) fn result_of(&self, need: usize) -> &'static str {
        let Some(set) = self.set(need) else {
            return "skipped";
        };
        let (mut succeeded, mut cancelled) = (false, false);
        for member in self.plan.members(set) {
            match self.effective_end(*member) {
                Some(UpstreamEnd::Failed) => return "failure",
                Some(UpstreamEnd::Cancelled) => cancelled = true,
                Some(UpstreamEnd::Succeeded) => succeeded = true,
                _ => {}
            }
        }
        match (cancelled, succeeded) {
            (true, _) => "cancelled",
            (false, true) => "success",
            (false, false) => "skipped",
        }
    }

    /// `continue_on_error` counts as success for dependents.
    fn effective_end(&self, node: NodeIx) -> Option<UpstreamEnd> {
        let end = self.upstream.end(node);
        match end {
            Some(UpstreamEnd::Failed) if self.plan.class(node).continue_on_error => {
                Some(UpstreamEnd::Succeeded)
            }
            end => end,
        }
    }

    /// Whether all needs have what they ask for.
    fn all_succeeded(&self) -> bool {
        (0..self.plan.core.jobs[self.job].needs.len()).all(|need| {
            let Some(set) = self.set(need) else {
                return true;
            };
            let members = self.plan.members(set);
            let ends = || members.iter().map(|member| self.effective_end(*member));
            let succeeded = ends()
                .filter(|end| *end == Some(UpstreamEnd::Succeeded))
                .count();
            match self.plan.sets.gather(set) {
                None => succeeded > 0,
                Some(gather) => match gather.min {
                    Some(min) => succeeded >= min as usize,
                    None => {
                        let dropped = ends()
                            .filter(|end| *end == Some(UpstreamEnd::ConditionFalse))
                            .count();
                        succeeded > 0 && succeeded + dropped == members.len()
                    }
                },
            }
        })
    }

    /// Whether some node before this one, however far, ended in a way.
    fn any_above(&self, wanted: UpstreamEnd) -> bool {
        let mut seen = FxHashSet::default();
        let mut waiting: Vec<NodeIx> = self.plan.upstream(self.node).collect();
        while let Some(node) = waiting.pop() {
            if !seen.insert(node) {
                continue;
            }
            match self.effective_end(node) {
                end if end == Some(wanted) => return true,
                // What comes before a node that has succeeded has succeeded too, or does not matter to it.
                Some(UpstreamEnd::Succeeded) => {}
                _ => waiting.extend(self.plan.upstream(node)),
            }
        }
        false
    }
}

impl LiveValues for Live<'_> {
    fn output(&self, need: usize, output: usize) -> Result<Value, EvalError> {
        let plan = &self.plan.core.jobs[self.job];
        let needed = &self.plan.core.pipeline.jobs[plan.needs[need].job];
        let (name, def) = needed
            .outputs
            .get_index(output)
            .ok_or_else(|| EvalError::missing("there is no such output"))?;
        if let Some(json) = &def.json {
            let values = self
                .succeeded(need)
                .map(|(_, outputs)| match outputs.get(name) {
                    Some(Artifact::Value { value, .. }) => json.value(value),
                    _ => Value::Null,
                });
            return Ok(one_or_list(values, plan.needs[need].gather));
        }
        let staged = self.staged.zip(find_files(&plan.data, need, output));
        match staged.and_then(|(staged, data)| staged.data.get(data)) {
            Some(value) => Ok(value.clone()),
            None => Err(EvalError::new(format!(
                "`{name}` is a file or folder and has no value here"
            ))
            .help("an `if` can read outputs that are `{json: FILE, pointer: ...}`")),
        }
    }

    fn points(&self, need: usize) -> Result<Value, EvalError> {
        let core = &self.plan.core;
        let points = self.succeeded(need).map(|(cell, _)| {
            let (job, row) = core.cell(cell as usize);
            core.jobs[job].points.object(row)
        });
        Ok(Value::list(points))
    }

    fn result(&self, need: usize) -> Result<Value, EvalError> {
        Ok(Value::str(self.result_of(need)))
    }

    fn input(&self, input: usize) -> Result<Value, EvalError> {
        self.staged
            .and_then(|staged| staged.inputs.get(input))
            .cloned()
            .ok_or_else(|| {
                EvalError::new("`inputs` have no value here")
                    .help("they are known inside a node, not in its `if`")
            })
    }

    fn status(&self, function: Function) -> Result<bool, EvalError> {
        let in_action = self.staged.is_some();
        Ok(match function {
            Function::Always => true,
            // A step only runs where those before it have succeeded.
            Function::Success => in_action || self.all_succeeded(),
            Function::Failure => !in_action && self.any_above(UpstreamEnd::Failed),
            _ => !in_action && self.any_above(UpstreamEnd::Cancelled),
        })
    }

    fn attempt(&self) -> u32 {
        self.upstream.attempt(self.node)
    }

    fn run_id(&self) -> &str {
        self.upstream.run_id()
    }
}
