//! The plan as a graph of jobs.

use dagrun_model::JobIx;

use crate::{Plan, join::NONE};

/// That a job needs another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobEdge {
    /// The needed job.
    pub from: JobIx,
    /// The needing job.
    pub to: JobIx,
    /// Pairs of cells that it stands for.
    pub edges: u64,
    /// Outputs are read; without it, it is about order only.
    pub data: bool,
    /// Several nodes of the needed job are read as a list.
    pub gather: bool,
}

impl Plan {
    /// The needs between jobs, in file order of the needing job.
    pub fn job_edges(&self) -> Vec<JobEdge> {
        let mut edges = Vec::new();
        for (ix, plan) in self.core.jobs.iter().enumerate() {
            for need in &plan.needs {
                let sets = need.groups.iter().enumerate().filter(|(row, set)| {
                    **set != NONE && self.nodes.cell_node[plan.first_cell + row] != NONE
                });
                let count = sets
                    .map(|(_, set)| self.sets.cells(dagrun_model::SetIx(*set)).len() as u64)
                    .sum();
                edges.push(JobEdge {
                    from: JobIx::from_index(need.job),
                    to: JobIx::from_index(ix),
                    edges: count,
                    data: need.data,
                    gather: need.gather,
                });
            }
        }
        edges
    }

    /// For a job: its logical ids that are nodes, and its distinct nodes.
    pub fn job_counts(&self, job: JobIx) -> (u64, u64) {
        let plan = &self.core.jobs[job.index()];
        let cells = &self.nodes.cell_node[plan.first_cell..plan.first_cell + plan.points.len];
        let mut nodes: Vec<u32> = cells.iter().copied().filter(|node| *node != NONE).collect();
        let count = nodes.len() as u64;
        nodes.sort_unstable();
        nodes.dedup();
        (count, nodes.len() as u64)
    }
}
