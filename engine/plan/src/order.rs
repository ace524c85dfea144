//! The order of jobs, and cycles as paths.

use std::{cmp::Reverse, collections::BinaryHeap};

use dagrun_model::{Diagnostic, JobIx, Need, Pipeline};
use petgraph::{algo::kosaraju_scc, graph::DiGraph};

/// Plan order, or errors that name each cycle as a path.
pub(crate) fn order(pipeline: &Pipeline, errors: &mut Vec<Diagnostic>) -> Vec<usize> {
    let mut graph: DiGraph<(), (), u32> = DiGraph::with_capacity(pipeline.jobs.len(), 0);
    let nodes: Vec<_> = pipeline.jobs.values().map(|_| graph.add_node(())).collect();
    let mut waiting = vec![0usize; nodes.len()];
    let mut dependents: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (ix, job) in pipeline.jobs.values().enumerate() {
        for need in &job.needs {
            let needed = need.job.index();
            if needed == ix {
                errors.push(
                    Diagnostic::error(
                        "cycle",
                        need.span,
                        format!("job `{}` needs itself", job.name.value),
                    )
                    .help("remove this need"),
                );
                continue;
            }
            graph.add_edge(nodes[needed], nodes[ix], ());
            dependents[needed].push(ix);
            waiting[ix] += 1;
        }
    }
    for component in kosaraju_scc(&graph) {
        if component.len() > 1 {
            let members: Vec<usize> = component.iter().map(|node| node.index()).collect();
            errors.push(cycle(pipeline, &members));
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> = (0..nodes.len())
        .filter(|ix| waiting[*ix] == 0)
        .map(Reverse)
        .collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(job)) = ready.pop() {
        order.push(job);
        for dependent in &dependents[job] {
            waiting[*dependent] -= 1;
            if waiting[*dependent] == 0 {
                ready.push(Reverse(*dependent));
            }
        }
    }
    order
}

/// Walks along needs inside a component until a job comes again.
fn cycle(pipeline: &Pipeline, members: &[usize]) -> Diagnostic {
    let start = *members.iter().min().expect("a component has members");
    let mut path = vec![start];
    let mut at = start;
    let need = loop {
        let job = pipeline.job(JobIx::from_index(at));
        let inside = |need: &&Need| need.job.index() != at && members.contains(&need.job.index());
        let need = job
            .needs
            .iter()
            .find(inside)
            .expect("each job of a cycle needs another one of it");
        at = need.job.index();
        if let Some(first) = path.iter().position(|job| *job == at) {
            path.drain(..first);
            path.push(at);
            break need;
        }
        path.push(at);
    };
    let names: Vec<&str> = path
        .iter()
        .map(|ix| pipeline.job(JobIx::from_index(*ix)).name.value.as_str())
        .collect();
    let mut error = Diagnostic::error(
        "cycle",
        need.span,
        format!("jobs need each other: {}", names.join(" -> ")),
    )
    .help("remove one of these needs");
    for pair in path.windows(2) {
        let job = pipeline.job(JobIx::from_index(pair[0]));
        if let Some(need) = job.needs.iter().find(|need| need.job.index() == pair[1]) {
            error = error.related(need.span, format!("`{}` needs it here", job.name.value));
        }
    }
    error
}
