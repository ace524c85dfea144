//! `dagrun graph`: the jobs, or the nodes, as a drawing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::json;

use crate::{
    args::{Global, GraphArgs, GraphFormat, Selection},
    commands::{plan::Part, plan_study::StudyPlan},
    drawing::{Edge, Graph, Node},
    error::{CliError, Context, Done},
    load::Loaded,
    put,
    term::{Style, plural},
};

/// A drawing with more boxes than this helps nobody.
const MOST_NODES: usize = 2_000;

pub(crate) fn graph(args: &GraphArgs, global: &Global, style: Style) -> Done {
    let loaded = Loaded::new(&args.pipeline.file, global, style)?;
    let planned = loaded.plan(&args.pipeline.params, &Selection::default())?;
    planned.keep_to_the_end();
    let study = match &planned.study {
        Some(study) => Some(StudyPlan::new(&loaded, &planned, study)?),
        None => None,
    };
    let parts = match &study {
        Some(study) => study.outline(&planned),
        None => vec![Part::new(Arc::clone(&planned.plan))],
    };
    let count: usize = parts.iter().map(|part| part.plan.len()).sum();
    if args.nodes && count > MOST_NODES {
        return Err(CliError::invalid(format!(
            "the plan has {count} nodes; {MOST_NODES} can be drawn"
        ))
        .hint("leave out --nodes to draw the jobs, or set parameters that make the plan smaller"));
    }
    let graph = if args.nodes {
        nodes(&parts, study.is_some())
    } else {
        jobs(&parts, study.is_some())
    };
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

/// The jobs; of a study also a box for it, between the jobs that its objectives read and those that need it.
fn jobs(parts: &[Part], with_study: bool) -> Graph {
    let pipeline = parts[0].plan.pipeline();
    let mut notes: Vec<String> = vec!["0 nodes".into(); pipeline.jobs.len()];
    let mut edges = BTreeMap::new();
    for part in parts {
        let plan = &part.plan;
        let mut counts = BTreeMap::new();
        for node in plan.nodes().filter(|node| plan.is_own(*node)) {
            *counts.entry(plan.job(node).index()).or_insert(0_u64) += 1;
        }
        for (job, count) in counts {
            notes[job] = match part.times {
                1 => plural(count, "node"),
                times => format!("{} x {}", plural(count, "node"), plural(times, "trial")),
            };
        }
        for edge in plan.job_edges() {
            edges.insert(
                (edge.from.index(), edge.to.index()),
                (edge.gather, edge.data),
            );
        }
    }
    let mut nodes: Vec<Node> = (pipeline.jobs.keys().zip(notes))
        .map(|(name, note)| Node {
            title: name.clone(),
            note,
        })
        .collect();
    let mut edges: Vec<Edge> = edges
        .into_iter()
        .map(|((from, to), (gather, data))| Edge {
            from,
            to,
            label: if gather {
                "gathers".into()
            } else {
                String::new()
            },
            data,
        })
        .collect();
    if with_study {
        let study = nodes.len();
        let trial = &parts[1];
        nodes.push(Node {
            title: "study".into(),
            note: plural(trial.times, "trial"),
        });
        let read = trial.plan.objective_nodes().into_iter();
        let read: BTreeSet<usize> = read.map(|node| trial.plan.job(node).index()).collect();
        edges.extend(read.into_iter().map(|from| Edge {
            from,
            to: study,
            label: "tells".into(),
            data: true,
        }));
        let after = pipeline.jobs.values().enumerate();
        let after = after.filter(|(_, job)| job.after_study.is_some());
        edges.extend(after.map(|(to, _)| Edge {
            from: study,
            to,
            label: String::new(),
            data: true,
        }));
    }
    Graph {
        name: pipeline.name.value.clone(),
        nodes,
        edges,
    }
}

/// The nodes of all parts; what a part takes along of an earlier one is that one's. Of a study one trial, and a box for the rest.
fn nodes(parts: &[Part], with_study: bool) -> Graph {
    let mut nodes: Vec<Node> = Vec::new();
    let mut by_id: BTreeMap<String, usize> = BTreeMap::new();
    let mut edges = BTreeSet::new();
    let mut study = None;
    for part in parts {
        let plan = &part.plan;
        let places: Vec<usize> = plan
            .nodes()
            .map(|node| {
                let id = plan.id(node);
                *by_id.entry(id).or_insert_with_key(|id| {
                    nodes.push(Node {
                        title: id.clone(),
                        note: String::new(),
                    });
                    nodes.len() - 1
                })
            })
            .collect();
        for node in plan.nodes() {
            for set in plan.sets(node) {
                let members = plan.members(*set).iter();
                edges.extend(members.map(|it| (places[it.index()], places[node.index()])));
            }
        }
        if with_study && plan.trial().is_some() {
            let at = nodes.len();
            study = Some(at);
            nodes.push(Node {
                title: "study".into(),
                note: plural(part.times, "trial"),
            });
            let read = plan.objective_nodes().into_iter();
            edges.extend(read.map(|node| (places[node.index()], at)));
        } else if let Some(study) = study {
            let after = plan.nodes().filter(|node| {
                let job = plan.pipeline().job(plan.job(*node));
                plan.is_own(*node) && job.after_study.is_some()
            });
            edges.extend(after.map(|node| (study, places[node.index()])));
        }
    }
    Graph {
        name: parts[0].plan.pipeline().name.value.clone(),
        nodes,
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
