//! `dagrun plan`: what would run, what is a hit, and why.

use std::{collections::BTreeMap, sync::Arc};

use dagrun_model::{NodeIx, id_file_name};
use dagrun_plan::{Counts, Plan};
use dagrun_report::Forecast;
use dagrun_run::{Cause, Force, History, NodePreview, PreviewState, preview};
use dagrun_store::Store;
use serde_json::json;

use crate::{
    args::{Global, PlanArgs},
    commands::{forecast, plan_study, run, run_error},
    error::{CliError, Done},
    load::{Loaded, Planned},
    put,
    remote::Afar,
    say, shared,
    term::{Ink, Style, escape, first_of, plural, plural_of, table},
};

/// Nodes that are listed one by one before the rest is counted.
const LISTED: usize = 40;
/// Nodes that an `if` skips, of which so many are named.
const SKIPPED: usize = 5;
/// Trials whose nodes are listed.
const TRIALS_LISTED: usize = 2;

/// A plan that is shown, alone or as a part of what a study makes.
pub(super) struct Part {
    pub(super) plan: Arc<Plan>,
    pub(super) rows: Vec<NodePreview>,
    /// How often it is made.
    pub(super) times: u64,
    /// What it reads is not there before its time.
    pub(super) later: bool,
    /// It stands for trials that were not asked for: nothing of them is there.
    pub(super) unasked: bool,
}

impl Part {
    pub(super) fn new(plan: Arc<Plan>) -> Self {
        Self {
            plan,
            rows: Vec::new(),
            times: 1,
            later: false,
            unasked: false,
        }
    }

    fn look_up(
        &mut self,
        store: &Store,
        there: Option<&mut Afar>,
        history: &History,
        force: &Force,
    ) -> Result<(), CliError> {
        let rows = match there {
            None => preview(&self.plan, store, history, force).map_err(run_error)?,
            Some(afar) => afar.preview(&self.plan, history, force)?,
        };
        let own = |row: &NodePreview| self.plan.is_own(row.node);
        self.rows = rows.into_iter().filter(own).collect();
        if self.later {
            for row in &mut self.rows {
                row.state = PreviewState::Unknown;
                row.cause = Some(Cause::Upstream {
                    node: "study".into(),
                    others: 0,
                });
            }
        }
        if self.unasked {
            self.forget_results();
        }
        Ok(())
    }

    /// Nodes as they are before any of their trial has run.
    fn forget_results(&mut self) {
        let plan = &self.plan;
        for row in &mut self.rows {
            if matches!(row.state, PreviewState::Unknown | PreviewState::Skip) {
                continue;
            }
            let mut own = plan.upstream(row.node).filter(|node| plan.is_own(*node));
            (row.state, row.cause) = match own.next() {
                Some(node) => {
                    let (node, others) = (plan.id(node), own.count() as u64);
                    let cause = Cause::Upstream { node, others };
                    (PreviewState::Unknown, Some(cause))
                }
                None => (PreviewState::Run, Some(Cause::NeverRan)),
            };
        }
    }
}

/// Counts of all parts, as often as they are made.
pub(super) fn total(parts: &[Part]) -> Counts {
    let sum = |of: fn(&Counts) -> u64| {
        let parts = parts.iter();
        let each = parts.map(|part| of(&part.plan.counts()).saturating_mul(part.times));
        each.fold(0, u64::saturating_add)
    };
    Counts {
        naive: sum(|counts| counts.naive),
        nodes: sum(|counts| counts.nodes),
        units: sum(|counts| counts.units),
    }
}

pub(super) fn counts_json(counts: &Counts) -> serde_json::Value {
    json!({"naive": counts.naive, "nodes": counts.nodes, "units": counts.units})
}

pub(crate) fn plan(args: &PlanArgs, global: &Global, style: Style) -> Done {
    run::not_a_file(args.work.force.as_deref(), &args.work.pipeline.file)?;
    let loaded = Loaded::new(&args.work.pipeline.file, global, style)?;
    let mut planned = loaded.plan(&args.work.pipeline.params, &args.work.selection)?;
    planned.keep_to_the_end();
    let mut there = there(args, &loaded, &mut planned, global)?;
    if !args.counts && there.is_none() {
        shared::bring(&planned, style)?;
    }
    let study = match &planned.study {
        Some(study) => Some(plan_study::StudyPlan::new(&loaded, &planned, study)?),
        None => None,
    };
    let mut parts = match &study {
        Some(study) => study.parts(&loaded, &planned)?,
        None => vec![Part::new(Arc::clone(&planned.plan))],
    };
    let mut counts = counts_json(&total(&parts));
    if let Some(study) = &study {
        counts["trial"] = counts_json(&study.trial.counts());
    }
    if args.counts {
        if args.answer.json {
            put!("{}", json!({ "counts": counts }));
        } else {
            let total = total(&parts);
            put!(
                "naive {} nodes {} units {}",
                total.naive,
                total.nodes,
                total.units
            );
            if let Some(study) = &study {
                let trial = study.trial.counts();
                put!(
                    "a trial: naive {} nodes {} units {}, x {}",
                    trial.naive,
                    trial.nodes,
                    trial.units,
                    plural(study.left, "trial")
                );
            }
        }
        return Ok(0);
    }
    let force = run::force(args.work.force.as_deref(), &loaded, &planned)?;
    let history = History::load(&planned.workspace);
    for part in &mut parts {
        part.look_up(&planned.store, there.as_mut(), &history, &force)?;
    }
    let slots = match &mut there {
        None => loaded.settings.jobs.value,
        Some(afar) => afar.slots().unwrap_or(loaded.settings.jobs.value),
    };
    let forecast = forecast::forecast(&parts, &planned.workspace, slots);
    if args.answer.json {
        let mut answer = as_json(&parts);
        answer["counts"] = counts;
        answer["forecast"] = json!(forecast.as_ref().map(Forecast::json));
        answer["coordinator"] = json!(there.as_ref().map(Afar::address));
        if let Some(study) = &study {
            answer["study"] = study.as_json();
        }
        put!("{answer}");
    } else {
        if let Some(afar) = &there {
            put!("a run on {}", escape(afar.address()));
        }
        print_text(&parts, study.as_ref(), style);
        if let Some(forecast) = forecast {
            put!("{}", forecast.text());
        }
    }
    Ok(0)
}

/// The coordinator on which the run is planned, where one is named: the study is then the one that is there. Settings only say where
/// a run may go on.
fn there(
    args: &PlanArgs,
    loaded: &Loaded,
    planned: &mut Planned,
    global: &Global,
) -> Result<Option<Afar>, CliError> {
    let Some(mut afar) = Afar::of_project(&args.coordinator, global)? else {
        return Ok(None);
    };
    if args.coordinator.on.is_none() {
        let runs = afar.newer_runs(&planned.workspace)?;
        if let Some(run) = runs.iter().find(|run| !run.is_over) {
            say!(
                "run {} of this project goes on there, and this is the plan of a run here; `--on {}` plans one there",
                run.number,
                afar.address()
            );
        }
        return Ok(None);
    }
    if let Some(study) = &mut planned.study {
        let studies = afar.studies(&args.coordinator, &planned.workspace)?;
        let folder = id_file_name(loaded.study_name());
        let records = studies.map(|it| it.records(&folder)).transpose()?;
        study.elsewhere = Some(records.flatten().unwrap_or_default());
    }
    Ok(Some(afar))
}

fn as_json(parts: &[Part]) -> serde_json::Value {
    let known = parts.iter().filter(|part| !part.unasked);
    let nodes: Vec<_> = known.flat_map(nodes_json).collect();
    let plan = &parts[0].plan;
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
    json!({
        "pipeline": plan.pipeline().name.value,
        "params": params,
        "nodes": nodes,
    })
}

fn nodes_json(part: &Part) -> Vec<serde_json::Value> {
    let plan = &part.plan;
    let skipped = plan.skipped().into_iter().map(
        |id| json!({"id": id, "ids": [id], "key": null, "state": "skip", "cause": "condition"}),
    );
    let rows = part.rows.iter().map(|row| {
        json!({
            "id": plan.id(row.node),
            "ids": plan.ids(row.node),
            "job": plan.pipeline().job(plan.job(row.node)).name.value,
            "key": plan.key(row.node).to_string(),
            "state": state(row.state),
            "cause": row.cause.as_ref().map(Cause::code),
            "detail": row.cause.as_ref().map(Cause::describe),
        })
    });
    rows.chain(skipped).collect()
}

fn state(state: PreviewState) -> &'static str {
    match state {
        PreviewState::Hit => "hit",
        PreviewState::Run => "run",
        PreviewState::Unknown => "unknown",
        PreviewState::Skip => "skip",
    }
}

fn print_text(parts: &[Part], study: Option<&plan_study::StudyPlan>, style: Style) {
    let plan = &parts[0].plan;
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
    if let Some(study) = study {
        study.print_head(style);
    }
    let rows = match study {
        None => job_rows(parts, None),
        Some(study) => study.job_rows(parts),
    };
    let mut header = vec!["job", ">nodes", ">hit", ">run", ">unknown", ">skip"];
    if study.is_some() {
        header.push("");
    }
    if !rows.is_empty() {
        put!("\n{}", table(&header, &rows).trim_end());
    }
    let most = match style.verbose {
        0 => TRIALS_LISTED,
        _ => usize::MAX,
    };
    let mut trials = 0;
    for part in parts.iter().filter(|part| !part.unasked) {
        if part.plan.trial().is_some() {
            trials += 1;
            if trials > most {
                continue;
            }
        }
        print_nodes(&part.plan, &part.rows, style);
        let skipped = part.plan.skipped();
        if !skipped.is_empty() {
            put!(
                "\nnot run because their `if` is false: {}",
                first_of(&skipped, SKIPPED)
            );
        }
    }
    if trials > most {
        let more = plural((trials - most) as u64, "more trial");
        put!("\n... and nodes of {more} (-v lists all)");
    }
    if let Some(study) = study {
        study.print_trial();
    }
    let counts = total(parts);
    match counts.nodes {
        0 => put!(""),
        _ => put!("\n{}", counted(&counts)),
    }
    put!("{}", to_run(parts));
    let mut rows = parts.iter().flat_map(|part| &part.rows);
    if rows.any(|row| row.state == PreviewState::Unknown) && !style.quiet {
        say!("unknown: decided by what the nodes before them make; equal bytes leave them cached");
    }
}

/// How many of the nodes a run would execute.
fn to_run(parts: &[Part]) -> String {
    let of = |state: PreviewState| {
        let nodes = |part: &Part| {
            let rows = part.rows.iter().filter(|row| row.state == state);
            (rows.count() as u64).saturating_mul(part.times)
        };
        parts.iter().map(nodes).fold(0, u64::saturating_add)
    };
    match (of(PreviewState::Run), of(PreviewState::Unknown)) {
        (0, 0) => "nothing is left to run".into(),
        (run, 0) => format!("{} to run", plural(run, "node")),
        (run, unknown) => format!(
            "{} to run, and up to {unknown} more, by what they make",
            plural(run, "node")
        ),
    }
}

/// Nodes and units of work, and what deduplication saves of them.
pub(super) fn counted(counts: &Counts) -> String {
    let saved = counts.naive > counts.nodes;
    format!(
        "{}, {}{}",
        plural(counts.nodes, "node"),
        plural_of(counts.units, "unit of work", "units of work"),
        if saved {
            format!(
                "; an engine without deduplication would run {}",
                counts.naive
            )
        } else {
            String::new()
        }
    )
}

/// A row for each job of some parts, with a last cell if there is one.
pub(super) fn job_rows(parts: &[Part], last: Option<&str>) -> Vec<Vec<String>> {
    let mut jobs: BTreeMap<u32, (&str, [u64; 4])> = BTreeMap::new();
    for (part, row) in parts
        .iter()
        .flat_map(|part| part.rows.iter().map(move |row| (part, row)))
    {
        let column = match row.state {
            PreviewState::Hit => 0,
            PreviewState::Run => 1,
            PreviewState::Unknown => 2,
            PreviewState::Skip => 3,
        };
        let job = part.plan.job(row.node);
        let name = &part.plan.pipeline().job(job).name.value;
        jobs.entry(job.0).or_insert((name, [0; 4])).1[column] += 1;
    }
    let rows = jobs.values().map(|(name, counts)| {
        let total: u64 = counts.iter().sum();
        let numbers = std::iter::once(total).chain(*counts).map(blank_zero);
        let mut cells = vec![(*name).to_owned()];
        cells.extend(numbers);
        cells.extend(last.map(str::to_owned));
        cells
    });
    rows.collect()
}

fn blank_zero(n: u64) -> String {
    if n == 0 { String::new() } else { n.to_string() }
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
    for Group { row, more, alike } in groups.iter().take(limit) {
        let (word, ink) = match row.state {
            PreviewState::Hit => ("hit    ", Ink::Good),
            PreviewState::Run => ("run    ", Ink::Info),
            PreviewState::Unknown => ("unknown", Ink::Warn),
            PreviewState::Skip => ("skip   ", Ink::Dim),
        };
        let cause = row.cause.as_ref().map_or(String::new(), |cause| {
            let waits = match cause {
                Cause::Upstream { node, .. } if !alike => format!("waits for `{node}` and others"),
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
        let left: usize = groups[limit..].iter().map(|it| it.more + 1).sum();
        put!("... and {left} more");
    }
    if groups.len() < shown.len() {
        put!("(-v lists all)");
    }
}

/// Nodes of the same job with the same state and cause.
struct Group<'a> {
    /// The first.
    row: &'a NodePreview,
    /// How many more.
    more: usize,
    /// All wait for the same.
    alike: bool,
}

/// Groups of nodes; each alone where all are wanted.
fn group<'a>(plan: &Plan, rows: &[&'a NodePreview], all: bool) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
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
            let (more, alike) = (0, true);
            groups.push(Group { row, more, alike });
        } else {
            groups[group].more += 1;
            groups[group].alike &= groups[group].row.cause == row.cause;
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
