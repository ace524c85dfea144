//! `dagrun graph`: the jobs, or the nodes, as a drawing.

use std::collections::BTreeSet;

use dagrun_model::NodeIx;
use dagrun_plan::Plan;
use serde_json::json;

use crate::{
    args::{Global, GraphArgs, GraphFormat, Selection},
    drawing::{Edge, Graph, Node},
    error::{CliError, Context, Done},
    load::Loaded,
    put,
    term::Style,
};

/// A drawing with more boxes than this helps nobody.
const MOST_NODES: usize = 2_000;

pub(crate) fn graph(args: &GraphArgs, global: &Global, style: Style) -> Done {
    let loaded = Loaded::new(&args.pipeline.file, global, style)?;
    let planned = loaded.plan(&args.pipeline.params, &Selection::default())?;
    let plan = &planned.plan;
    if args.nodes && plan.len() > MOST_NODES {
        return Err(CliError::invalid(format!(
            "the plan has {} nodes; {MOST_NODES} can be drawn",
            plan.len()
        ))
        .hint("leave out --nodes to draw the jobs, or set parameters that make the plan smaller"));
    }
    let graph = if args.nodes { nodes(plan) } else { jobs(plan) };
    let text = match args.format {
        GraphFormat::Dot => graph.dot(),
        GraphFormat::Mermaid => graph.mermaid(),
        GraphFormat::Svg => graph.svg(),
        GraphFormat::Json => as_json(&graph),
    };
    match &args.output {
        Some(path) => std::fs::write(path, text).doing(|| format!("write {}", path.display()))?,
        None => put!("{}", text.trim_end()),
    }
    Ok(0)
}

fn jobs(plan: &Plan) -> Graph {
    let pipeline = plan.pipeline();
    let mut counts = vec![0_u64; pipeline.jobs.len()];
    for ix in 0..plan.len() {
        counts[plan.job(NodeIx::from_index(ix)).index()] += 1;
    }
    let nodes = pipeline
        .jobs
        .keys()
        .zip(&counts)
        .map(|(name, count)| Node {
            title: name.clone(),
            note: if *count == 1 {
                "1 node".into()
            } else {
                format!("{count} nodes")
            },
        })
        .collect();
    let edges = plan
        .job_edges()
        .into_iter()
        .map(|edge| Edge {
            from: edge.from.index(),
            to: edge.to.index(),
            label: if edge.gather {
                "gathers".into()
            } else {
                String::new()
            },
            data: edge.data,
        })
        .collect();
    Graph {
        name: pipeline.name.value.clone(),
        nodes,
        edges,
    }
}

fn nodes(plan: &Plan) -> Graph {
    let all = || (0..plan.len()).map(NodeIx::from_index);
    let mut edges = BTreeSet::new();
    for node in all() {
        for set in plan.sets(node) {
            edges.extend(
                plan.members(*set)
                    .iter()
                    .map(|member| (member.index(), node.index())),
            );
        }
    }
    Graph {
        name: plan.pipeline().name.value.clone(),
        nodes: all()
            .map(|node| Node {
                title: plan.id(node),
                note: String::new(),
            })
            .collect(),
        edges: edges
            .into_iter()
            .map(|(from, to)| Edge {
                from,
                to,
                label: String::new(),
                data: true,
            })
            .collect(),
    }
}

fn as_json(graph: &Graph) -> String {
    let nodes: Vec<_> = graph
        .nodes
        .iter()
        .map(|node| json!({"title": node.title, "note": node.note}))
        .collect();
    let edges: Vec<_> =
        graph.edges.iter().map(|edge| json!({"from": edge.from, "to": edge.to, "label": edge.label, "data": edge.data})).collect();
    json!({"name": graph.name, "nodes": nodes, "edges": edges}).to_string()
}
