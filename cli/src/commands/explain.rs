//! `dagrun explain`: why a node ran or would run, as the difference of its key to the nearest former one; and why it does
//! not start.

use dagrun_events::RunState;
use dagrun_model::NodeIx;
use dagrun_plan::Plan;
use dagrun_run::{
    Cause, Difference, Explanation, Force, History, PreviewState, explain as explain_node, preview,
};
use dagrun_store::MadeBy;
use serde_json::json;

use crate::{
    args::{ExplainArgs, Global},
    commands::{node::Found, report, run_error},
    error::{CliError, Done},
    put,
    remote::{Afar, RunThere},
    resolve::{Elsewhere, Resolved},
    say,
    term::{Ink, Style, escape, table},
};

pub(crate) fn explain(args: &ExplainArgs, global: &Global, style: Style) -> Done {
    let found = Found::new(&args.node, global, style)?;
    let plan = &found.planned.plan;
    let workspace = &found.planned.workspace;
    let history = History::load(workspace);
    let mut afar = Afar::of_project(&args.coordinator, global)?;
    let mut current = None;
    if let Some(afar) = &mut afar {
        let runs = afar.newer_runs(workspace)?;
        let goes_on = |there: &RunThere| !there.is_over && there.state.started.is_some();
        if let Some(there) = runs.into_iter().find(goes_on) {
            let run = format!("{} on {}", there.number, afar.address());
            current = live_in(&found, &there.state, &run);
        }
    }
    let current = match current {
        None => live(&found)?,
        there => there,
    };
    if let Some(live) = current {
        if args.answer.json {
            put!(
                "{}",
                json!({"id": plan.id(found.node), "live": {"state": live.state, "detail": live.detail, "waits_for": live.waits_for}})
            );
        } else {
            put!(
                "{} {}: {}",
                style.paint_out(Ink::Bold, &escape(&plan.id(found.node))),
                live.state,
                escape(&live.detail)
            );
            for need in live.waits_for.iter().take(10) {
                put!("  {}", escape(need));
            }
            if live.waits_for.len() > 10 {
                put!("  ... and {} more", live.waits_for.len() - 10);
            }
        }
        return Ok(0);
    }
    let explanation =
        explain_node(plan, &found.planned.store, &history, &args.node.node).map_err(run_error)?;
    let there = match explanation.state {
        PreviewState::Hit => None,
        _ => hit_there(&found, afar, global),
    };
    if args.answer.json {
        print_json(plan, &explanation, there.as_ref());
    } else if let Some(there) = &there {
        put!(
            "{} {} on {}\n  made by {} in run {} on {}",
            style.paint_out(Ink::Bold, &escape(&plan.id(found.node))),
            style.paint_out(Ink::Good, "is a hit"),
            there.address,
            escape(&there.made_by.node),
            escape(&there.made_by.run),
            escape(&there.made_by.host)
        );
    } else {
        print_text(&found, &explanation, style);
        if let Some(trouble) = too_large(&found) {
            put!(
                "\n{} {trouble}",
                style.paint_out(Ink::Warn, "cannot start:")
            );
        }
    }
    Ok(0)
}

/// A result that a coordinator has, and that is not here.
struct HitThere {
    address: String,
    made_by: MadeBy,
}

/// Asks the coordinator that is named, or that of the last run there, for the result of a node that is not here.
fn hit_there(found: &Found, afar: Option<Afar>, global: &Global) -> Option<HitThere> {
    let planned = &found.planned;
    let mut afar = afar.or_else(|| Afar::of_last_run(&planned.workspace, global))?;
    let resolve =
        |there: &Elsewhere| Resolved::new(&planned.plan, &planned.store, there, found.node);
    let resolved = match afar.resolve(resolve) {
        Ok(resolved) => resolved,
        Err(error) => {
            say!("{}; only what is here is looked at", error.message);
            return None;
        }
    };
    resolved.entry(found.node).map(|entry| HitThere {
        address: afar.address().to_owned(),
        made_by: entry.made_by.clone(),
    })
}

fn print_json(plan: &Plan, explanation: &Explanation, there: Option<&HitThere>) {
    put!(
        "{}",
        json!({
            "id": plan.id(explanation.node),
            "ids": plan.ids(explanation.node),
            "key": plan.key(explanation.node).to_string(),
            "state": explanation.state,
            "cause": explanation.cause.as_ref().map(Cause::code),
            "detail": explanation.cause.as_ref().map(Cause::describe),
            "action": explanation.action.map(|digest| digest.to_string()),
            "former": explanation.former.as_ref().map(|past| json!({"id": past.id, "run": past.run})),
            "differences": explanation.differences,
            "parts": explanation.parts.iter().map(|part| json!({"kind": part.kind, "name": part.name, "value": part.value})).collect::<Vec<_>>(),
            "needs": needs(plan, explanation.node),
            "there": there.map(|there| json!({
                "coordinator": there.address,
                "run": there.made_by.run,
                "host": there.made_by.host,
            })),
        })
    );
}

/// What the node asks for that this machine, with these settings, does not have.
fn too_large(found: &Found) -> Option<String> {
    let wants = &found.planned.plan.class(found.node).resources;
    let settings = &found.loaded.settings;
    let slots = settings.jobs.value as f64;
    let cpus = wants.cpu_milli as f64 / 1000.0;
    if cpus > slots {
        return Some(format!(
            "it asks for {cpus} CPUs, and a run has {slots}; lower its `resources` or run with `-j {}`",
            cpus.ceil()
        ));
    }
    let memory = settings.memory.value;
    if memory > 0 && wants.memory > memory {
        let [wants, memory] = dagrun_model::format_bytes_alike([wants.memory, memory]);
        return Some(format!(
            "it asks for {wants} of memory, and `memory` in dagrun.toml is {memory}"
        ));
    }
    wants.named.iter().find_map(|(name, amount)| {
        let has = settings.resources.value.get(name).copied().unwrap_or(0);
        (*amount > has).then(|| {
            format!(
                "it asks for {} `{name}`, and `resources` in dagrun.toml has {}",
                *amount as f64 / 1000.0,
                has as f64 / 1000.0
            )
        })
    })
}

fn print_text(found: &Found, explanation: &Explanation, style: Style) {
    let plan = &found.planned.plan;
    let (word, ink) = match explanation.state {
        PreviewState::Hit => ("is a hit", Ink::Good),
        PreviewState::Run => ("would run", Ink::Info),
        PreviewState::Unknown => ("cannot be known yet", Ink::Warn),
        PreviewState::Skip => ("would be skipped", Ink::Warn),
    };
    let id = escape(&plan.id(explanation.node));
    let why = explanation.cause.as_ref().map_or(String::new(), |cause| {
        format!(": {}", escape(&cause.describe()))
    });
    put!(
        "{} {}{why}",
        style.paint_out(Ink::Bold, &id),
        style.paint_out(ink, word)
    );
    let others = plan.ids(explanation.node);
    if others.len() > 1 {
        let also: Vec<String> = others.iter().skip(1).take(5).map(|id| escape(id)).collect();
        put!(
            "  one node with {}{}",
            also.join(", "),
            if others.len() > 6 { ", ..." } else { "" }
        );
    }
    if let Some((run, node, host)) = &explanation.made_by {
        put!("  made by {} in run {run} on {host}", escape(node));
    }
    if let Some(former) = &explanation.former
        && !explanation.differences.is_empty()
    {
        put!(
            "\ncompared with {} of run {}:",
            escape(&former.id),
            former.run
        );
        put!("{}", differences(&explanation.differences).trim_end());
    }
    if style.verbose > 0 || (explanation.former.is_none() && !explanation.parts.is_empty()) {
        put!("\nits key is made of:");
        let rows: Vec<Vec<String>> = explanation
            .parts
            .iter()
            .map(|part| vec![part.kind.clone(), part.name.clone(), short(&part.value)])
            .collect();
        put!("{}", table(&["part", "name", "value"], &rows).trim_end());
    }
    let waits = needs(plan, explanation.node);
    if !waits.is_empty() && explanation.state != PreviewState::Hit {
        put!("\nit starts when these have ended:");
        let states = preview(
            plan,
            &found.planned.store,
            &History::default(),
            &Force::None,
        );
        let done = |id: &str| {
            let node = plan.find(id);
            states.as_ref().is_ok_and(|rows| {
                node.is_some_and(|node| rows[node.index()].state == PreviewState::Hit)
            })
        };
        for need in waits.iter().take(10) {
            let mark = if done(need) { "done" } else { "open" };
            put!("  {mark}  {}", escape(need));
        }
        if waits.len() > 10 {
            put!("  ... and {} more", waits.len() - 10);
        }
    }
}

fn differences(differences: &[Difference]) -> String {
    let cell = |value: &Option<String>| value.as_deref().map_or("-".into(), short);
    let rows: Vec<Vec<String>> = differences
        .iter()
        .map(|difference| {
            vec![
                difference.kind.clone(),
                difference.name.clone(),
                cell(&difference.former),
                cell(&difference.now),
            ]
        })
        .collect();
    table(&["part", "name", "then", "now"], &rows)
}

/// Digests by their beginning, and one line of everything else.
fn short(value: &str) -> String {
    let digest = value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit());
    let text = if digest { &value[..12] } else { value };
    let line = escape(text).replace('\n', "⏎");
    match line.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// Where a node is in the run that goes on now.
struct Live {
    state: &'static str,
    detail: String,
    /// The needs that have not ended.
    waits_for: Vec<String>,
}

/// What the journal of a run in progress says of the node; `None` where nothing runs here.
fn live(found: &Found) -> Result<Option<Live>, CliError> {
    let workspace = &found.planned.workspace;
    let (Some(holder), Some(run)) = (workspace.holder(), workspace.journaled_runs().pop()) else {
        return Ok(None);
    };
    let state = report::fold(workspace, &run)?;
    // What goes on has no journal here: a coordinator has it, or it has just begun.
    if state.exit_code.is_some() {
        return Ok(None);
    }
    let run = format!("{run} (process {})", holder.pid);
    Ok(live_in(found, &state, &run))
}

/// What a run in progress has come to, as to the node; `None` where it has nothing to do with it.
fn live_in(found: &Found, state: &RunState, run: &str) -> Option<Live> {
    let plan = &found.planned.plan;
    let row = state.find(&plan.id(found.node));
    if let Some(outcome) = row.and_then(|row| row.outcome) {
        return Some(Live {
            state: outcome.word(),
            detail: format!("in run {run}, which goes on"),
            waits_for: Vec::new(),
        });
    }
    let running = |node: usize| {
        state
            .attempts
            .iter()
            .filter(move |attempt| attempt.node == node && attempt.ended.is_none())
    };
    let own = row
        .and_then(|row| state.nodes.iter().position(|other| other.id == row.id))
        .and_then(|ix| running(ix).next_back());
    if let Some(attempt) = own {
        let seconds = (state.last_at - attempt.started).max(0.0);
        let detail = format!(
            "attempt {} since at least {}",
            attempt.number,
            dagrun_model::format_seconds(seconds)
        );
        return Some(Live {
            state: "running",
            detail,
            waits_for: Vec::new(),
        });
    }
    let ended = |id: &String| state.find(id).is_some_and(|row| row.outcome.is_some());
    let waits_for: Vec<String> = needs(plan, found.node)
        .into_iter()
        .filter(|id| !ended(id))
        .collect();
    if !waits_for.is_empty() {
        let detail = format!(
            "{} of what it needs has not ended in run {run}:",
            waits_for.len()
        );
        return Some(Live {
            state: "waiting",
            detail,
            waits_for,
        });
    }
    let busy = state
        .attempts
        .iter()
        .filter(|attempt| attempt.ended.is_none())
        .count();
    let there = state.workers.values().filter(|it| it.left.is_none());
    let slots: f64 = there.map(|worker| worker.slots).sum();
    let wants = &plan.class(found.node).resources;
    let detail = format!(
        "all it needs is there; it asks for {} CPUs{} and waits for room: {busy} attempts run on {slots} slots",
        wants.cpu_milli as f64 / 1000.0,
        if wants.memory > 0 {
            format!(" and {}", dagrun_model::format_bytes(wants.memory))
        } else {
            String::new()
        }
    );
    Some(Live {
        state: "ready",
        detail,
        waits_for: Vec::new(),
    })
}

/// The nodes that a node waits for.
fn needs(plan: &Plan, node: NodeIx) -> Vec<String> {
    let mut needs: Vec<_> = plan
        .sets(node)
        .iter()
        .flat_map(|set| plan.members(*set))
        .copied()
        .collect();
    needs.sort_unstable();
    needs.dedup();
    needs.into_iter().map(|node| plan.id(node)).collect()
}
