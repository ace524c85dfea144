//! `dagrun plan`: what would run, what is a hit, and why.

use std::collections::BTreeMap;

use dagrun_model::NodeIx;
use dagrun_plan::Plan;
use dagrun_run::{Cause, History, NodePreview, PreviewState, preview};
use serde_json::json;

use crate::{
    args::{Global, PlanArgs},
    commands::{run, run_error},
    error::Done,
    load::Loaded,
    put, say,
    term::{Ink, Style, escape, plural, plural_of, table},
};

/// Nodes that are listed one by one before the rest is counted.
const LISTED: usize = 40;

pub(crate) fn plan(args: &PlanArgs, global: &Global, style: Style) -> Done {
    run::not_a_file(args.work.force.as_deref(), &args.work.pipeline.file)?;
    let loaded = Loaded::new(&args.work.pipeline.file, global, style)?;
    let planned = loaded.plan(&args.work.pipeline.params, &args.work.selection)?;
    let plan = &planned.plan;
    if args.counts {
        let counts = plan.counts();
        if args.answer.json {
            put!(
                "{}",
                json!({"counts": {"naive": counts.naive, "nodes": counts.nodes, "units": counts.units}})
            );
        } else {
            put!(
                "naive {} nodes {} units {}",
                counts.naive,
                counts.nodes,
                counts.units
            );
        }
        return Ok(0);
    }
    let force = run::force(args.work.force.as_deref(), plan)?;
    let history = History::load(&planned.workspace);
    let rows = preview(plan, &planned.store, &history, &force).map_err(run_error)?;
    if args.answer.json {
        print_json(plan, &rows);
    } else {
        print_text(plan, &rows, style);
    }
    Ok(0)
}

fn print_json(plan: &Plan, rows: &[NodePreview]) {
    let counts = plan.counts();
    let skipped = plan.skipped().into_iter().map(
        |id| json!({"id": id, "ids": [id], "key": null, "state": "skip", "cause": "condition"}),
    );
    let nodes: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "id": plan.id(row.node),
                "ids": plan.ids(row.node),
                "job": plan.pipeline().job(plan.job(row.node)).name.value,
                "key": plan.key(row.node).to_string(),
                "state": state(row.state),
                "cause": row.cause.as_ref().map(Cause::code),
                "detail": row.cause.as_ref().map(Cause::describe),
            })
        })
        .chain(skipped)
        .collect();
    let params: serde_json::Map<_, _> = plan
        .params()
        .iter()
        .map(|(name, param)| {
            (
                name.clone(),
                json!({"value": param.value.to_json(), "origin": param.origin.to_string()}),
            )
        })
        .collect();
    put!(
        "{}",
        json!({
            "pipeline": plan.pipeline().name.value,
            "counts": {"naive": counts.naive, "nodes": counts.nodes, "units": counts.units},
            "params": params,
            "nodes": nodes,
        })
    );
}

fn state(state: PreviewState) -> &'static str {
    match state {
        PreviewState::Hit => "hit",
        PreviewState::Run => "run",
        PreviewState::Unknown => "unknown",
        PreviewState::Skip => "skip",
    }
}

fn print_text(plan: &Plan, rows: &[NodePreview], style: Style) {
    let counts = plan.counts();
    put!(
        "{}",
        style.paint_out(Ink::Bold, &plan.pipeline().name.value)
    );
    for (name, param) in plan.params() {
        put!(
            "  {name} = {}  {}",
            escape(&param.value.to_text()),
            style.paint_out(Ink::Dim, &format!("({})", param.origin))
        );
    }
    let mut jobs: BTreeMap<u32, [u64; 4]> = BTreeMap::new();
    for row in rows {
        let column = match row.state {
            PreviewState::Hit => 0,
            PreviewState::Run => 1,
            PreviewState::Unknown => 2,
            PreviewState::Skip => 3,
        };
        jobs.entry(plan.job(row.node).0).or_default()[column] += 1;
    }
    let table_rows: Vec<Vec<String>> = jobs
        .iter()
        .map(|(job, counts)| {
            let name = plan
                .pipeline()
                .job(dagrun_model::JobIx(*job))
                .name
                .value
                .clone();
            let total: u64 = counts.iter().sum();
            std::iter::once(name)
                .chain(std::iter::once(total).chain(*counts).map(blank_zero))
                .collect()
        })
        .collect();
    put!(
        "\n{}",
        table(
            &["job", ">nodes", ">hit", ">run", ">unknown", ">skip"],
            &table_rows
        )
        .trim_end()
    );
    print_nodes(plan, rows, style);
    let skipped = plan.skipped();
    if !skipped.is_empty() {
        put!("\nnot run because their `if` is false: {}", some(&skipped));
    }
    let saved = counts.naive.saturating_sub(counts.nodes);
    put!(
        "\n{}, {}{}",
        plural(counts.nodes, "node"),
        plural_of(counts.units, "unit of work", "units of work"),
        if saved > 0 {
            format!(
                "; an engine without deduplication would run {}",
                counts.naive
            )
        } else {
            String::new()
        }
    );
    let unknown = rows
        .iter()
        .filter(|row| row.state == PreviewState::Unknown)
        .count();
    if unknown > 0 && !style.quiet {
        say!("unknown: decided by what the nodes before them make; equal bytes leave them cached");
    }
}

fn blank_zero(n: u64) -> String {
    if n == 0 { String::new() } else { n.to_string() }
}

fn some(ids: &[String]) -> String {
    let shown: Vec<String> = ids.iter().take(5).map(|id| escape(id)).collect();
    let more = ids.len().saturating_sub(5);
    if more > 0 {
        format!("{} and {more} more", shown.join(", "))
    } else {
        shown.join(", ")
    }
}

fn print_nodes(plan: &Plan, rows: &[NodePreview], style: Style) {
    let shown: Vec<&NodePreview> = rows
        .iter()
        .filter(|row| row.state != PreviewState::Hit || style.verbose > 0)
        .collect();
    if shown.is_empty() {
        return;
    }
    put!("");
    let limit = if style.verbose > 0 {
        usize::MAX
    } else {
        LISTED
    };
    let groups = group(plan, &shown, style.verbose > 0);
    for (row, more) in groups.iter().take(limit) {
        let (word, ink) = match row.state {
            PreviewState::Hit => ("hit    ", Ink::Good),
            PreviewState::Run => ("run    ", Ink::Info),
            PreviewState::Unknown => ("unknown", Ink::Warn),
            PreviewState::Skip => ("skip   ", Ink::Dim),
        };
        let cause = row.cause.as_ref().map_or(String::new(), |cause| {
            let waits = match (cause, more) {
                (Cause::Upstream { .. }, 1..) => format!("{} and others", cause.describe()),
                _ => cause.describe(),
            };
            format!("  {}", style.paint_out(Ink::Dim, &escape(&waits)))
        });
        let more = match more {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        put!(
            "{} {}{more}{cause}",
            style.paint_out(ink, word),
            escape(&id_with_merged(plan, row.node))
        );
    }
    if groups.len() > limit {
        let left: usize = groups[limit..].iter().map(|(_, more)| more + 1).sum();
        put!("... and {left} more");
    }
    if groups.len() < shown.len() {
        put!("(-v lists all)");
    }
}

/// Nodes of the same job with the same state and cause: the first, and how many more. Each alone where all are wanted.
fn group<'a>(plan: &Plan, rows: &[&'a NodePreview], all: bool) -> Vec<(&'a NodePreview, usize)> {
    let mut groups: Vec<(&NodePreview, usize)> = Vec::new();
    let mut at = BTreeMap::new();
    for row in rows {
        let cause = row.cause.as_ref().map(|cause| match cause {
            // Which of the needs it is says nothing of the others.
            Cause::Upstream { .. } => String::new(),
            cause => cause.describe(),
        });
        let key = (plan.job(row.node).0, state(row.state), cause);
        let group = *at.entry(key).or_insert(groups.len());
        if all || group == groups.len() {
            groups.push((row, 0));
        } else {
            groups[group].1 += 1;
        }
    }
    groups
}

fn id_with_merged(plan: &Plan, node: NodeIx) -> String {
    let ids = plan.ids(node);
    match ids.len() {
        0 | 1 => plan.id(node),
        n => format!("{} (and {} equal)", plan.id(node), n - 1),
    }
}
