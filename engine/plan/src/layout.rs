//! What a plan knows before there are keys: jobs with their points, needs and inputs, and cells by number.

use std::sync::Arc;

use dagrun_model::{Pipeline, Value};
use indexmap::IndexMap;

use crate::{
    JobPhase, Phase, ResolvedParam, TrialPoint,
    axes::{AxisValues, JobPoints},
    facts::Patterns,
    input::{DataInput, InputPlan},
    join::{Grouping, NONE},
    seeds::SeedPlan,
    uses::Uses,
};

/// What a plan knows before there are keys.
#[derive(Clone, Debug)]
pub(crate) struct Core {
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) params: Arc<IndexMap<String, ResolvedParam>>,
    pub(crate) params_value: Value,
    /// In file order.
    pub(crate) jobs: Vec<JobPlan>,
    /// Jobs so that each comes after those that it needs, in file order where that leaves a choice: plan order.
    pub(crate) order: Vec<usize>,
    /// The first cell of each job, in that order.
    pub(crate) starts: Vec<u32>,
    pub(crate) cells: usize,
    /// Cells that were selected; without it, all.
    pub(crate) selected: Option<Vec<bool>>,
    pub(crate) groupings: Vec<Grouping>,
    pub(crate) patterns: Arc<Patterns>,
    pub(crate) platform: [String; 3],
    pub(crate) phase: Phase,
    /// The part of the pipeline that each job belongs to.
    pub(crate) phases: Arc<[JobPhase]>,
    /// Jobs that have nodes in this plan.
    pub(crate) included: Vec<bool>,
    /// How many replicates a trial that grows has.
    pub(crate) grow_to: Option<u32>,
    /// Nothing is shared: see [`PlanOptions::apart`](crate::PlanOptions::apart).
    pub(crate) apart: bool,
}

/// A job with its points, needs and inputs. One that is outside of the plan's phase has no points, no axes and no needs.
#[derive(Clone, Debug)]
pub(crate) struct JobPlan {
    pub(crate) points: JobPoints,
    pub(crate) first_cell: usize,
    pub(crate) seeds: Option<SeedPlan>,
    /// Its `replicate` axis is its own.
    pub(crate) own_replicates: bool,
    pub(crate) replicate_min: Option<u32>,
    pub(crate) needs: Vec<NeedPlan>,
    pub(crate) inputs: Arc<[InputPlan]>,
    pub(crate) data: Arc<[DataInput]>,
    pub(crate) condition: Condition,
    /// What all cells of the job share of their outputs' paths, where those do not vary.
    pub(crate) output_uses: Vec<Uses>,
    /// For each input and row, the pattern that the input comes to: see [`JobPlan::asked`].
    pub(crate) asked: Arc<[Vec<u32>]>,
}

/// When the `if` of a job is decided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Condition {
    /// There is none.
    None,
    /// When the plan is made.
    Static(Uses),
    /// When all needs have succeeded.
    Succeeded(Uses),
    /// When all needs have ended.
    Terminal(Uses),
}

/// A need of a job, joined.
#[derive(Clone, Debug)]
pub(crate) struct NeedPlan {
    /// The needed job.
    pub(crate) job: usize,
    /// It has axes that the needing job does not have: the need gives a list.
    pub(crate) gather: bool,
    /// The least number of succeeded members.
    pub(crate) min: Option<u32>,
    /// Outputs are read by the recipe or by inputs.
    pub(crate) data: bool,
    /// The recipe reads `points`.
    pub(crate) points: bool,
    /// The recipe reads `result`.
    pub(crate) result: bool,
    pub(crate) grouping: usize,
    /// For each row its group, and later its set.
    pub(crate) groups: Vec<u32>,
}

impl JobPlan {
    /// A job that is outside of the plan's phase.
    pub(crate) fn absent(first_cell: usize) -> Self {
        Self {
            points: JobPoints::default(),
            first_cell,
            seeds: None,
            own_replicates: false,
            replicate_min: None,
            needs: Vec::new(),
            inputs: [].into(),
            data: [].into(),
            condition: Condition::None,
            output_uses: Vec::new(),
            asked: [].into(),
        }
    }

    /// The number of the pattern that an input is at a row, where it is one pattern and no list; known once files were asked
    /// for.
    pub(crate) fn asked(&self, input: usize, row: usize) -> Option<usize> {
        let pattern = *self.asked.get(input)?.get(row)?;
        (pattern != NONE).then_some(pattern as usize)
    }
}

impl Core {
    /// The same at another trial: nothing but the values of `trial` differs.
    pub(crate) fn at(mut self, trial: TrialPoint) -> Self {
        for axis in self.jobs.iter_mut().flat_map(|job| &mut job.points.axes) {
            if let AxisValues::Trial(there) = &mut axis.values {
                there.clone_from(&trial);
            }
        }
        self.phase = Phase::Trial(trial);
        self
    }

    /// Whether the plan is about this job, and does not only take it along because another one needs it.
    pub(crate) fn is_own(&self, job: usize) -> bool {
        self.phases[job] == self.phase.own()
    }

    /// The job and row of a cell.
    pub(crate) fn cell(&self, cell: usize) -> (usize, usize) {
        let at = self.starts.partition_point(|start| *start as usize <= cell) - 1;
        // Jobs without points share their first cell with the next one, which comes after them.
        let job = self.order[at];
        (job, cell - self.jobs[job].first_cell)
    }

    pub(crate) fn is_selected(&self, cell: usize) -> bool {
        self.selected.as_ref().is_none_or(|selected| selected[cell])
    }

    pub(crate) fn logical_id(&self, cell: usize) -> String {
        let (job, row) = self.cell(cell);
        let points = &self.jobs[job].points;
        let values = points.axes.iter().zip(points.row(row));
        let labels = values.map(|(axis, ix)| (&*axis.name, axis.label(*ix)));
        dagrun_model::logical_id(self.job_name(job), labels)
    }

    pub(crate) fn job_name(&self, job: usize) -> &str {
        self.pipeline
            .jobs
            .get_index(job)
            .map_or("", |(name, _)| name)
    }
}
