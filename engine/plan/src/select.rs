//! `--only`, `--until`, `--from`: which cells a plan keeps.
//!
//! A name is a job, or a logical id of which some axes may be left out. `until` and `only` keep the named cells and all
//! that they need, and drop what comes after them and their siblings: what they need runs only where it is not cached.
//! `from` keeps the named cells, all that needs them, and what those need in turn. Together: what comes after `from` as
//! far as `until` or `only` need it.

use dagrun_model::{Diagnostic, Span, did_you_mean, parse_logical_id};

use crate::{
    JobPhase, Phase, PlanOptions,
    axes::Axis,
    join::NONE,
    layout::{Core, JobPlan},
};

/// The selected cells, or `None` for all.
pub(crate) fn select(
    core: &Core,
    options: &PlanOptions,
) -> Result<Option<Vec<bool>>, Vec<Diagnostic>> {
    let mut errors = Vec::new();
    let mut marked = |names: &[String]| {
        let mut cells = vec![false; core.cells];
        for name in names {
            match matching(core, name) {
                Ok(found) => found.into_iter().for_each(|cell| cells[cell] = true),
                Err(error) => errors.push(error),
            }
        }
        cells
    };
    let ends: Vec<String> = options.only.iter().chain(&options.until).cloned().collect();
    if ends.is_empty() && options.from.is_empty() {
        return Ok(None);
    }
    let (mut until, mut from) = (marked(&ends), marked(&options.from));
    if !errors.is_empty() {
        return Err(errors);
    }
    let selected = match (ends.is_empty(), options.from.is_empty()) {
        (false, true) => {
            add_upstream(core, &mut until);
            until
        }
        (true, _) => {
            add_downstream(core, &mut from);
            add_upstream(core, &mut from);
            from
        }
        (false, false) => {
            add_upstream(core, &mut until);
            add_downstream(core, &mut from);
            let mut both: Vec<bool> = until.iter().zip(&from).map(|(a, b)| *a && *b).collect();
            add_upstream(core, &mut both);
            both
        }
    };
    Ok(Some(selected))
}

/// The cells that a job name or a logical id names.
pub(crate) fn matching(core: &Core, name: &str) -> Result<Vec<usize>, Diagnostic> {
    let place = Span::COMMAND_LINE;
    let Some((job, axes)) = parse_logical_id(name) else {
        return Err(Diagnostic::error(
            "bad-selector",
            place,
            format!("`{name}` names no node: a selector is `job` or `job[axis=value,...]`"),
        )
        .help("values of letters, digits and `_ . + -` stand bare, others as JSON strings: `build[profile=dev,features=\"tls,compression\"]`; quote it in a shell"));
    };
    let Some(ix) = core.pipeline.jobs.get_index_of(job) else {
        let error = Diagnostic::error("unknown-node", place, format!("there is no job `{job}`"));
        return Err(
            match did_you_mean(job, core.pipeline.jobs.keys().map(String::as_str)) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error.help("write a job's name, or a logical id such as `job[axis=value]`"),
            },
        );
    };
    if core.phases[ix] == JobPhase::Trial && !matches!(core.phase, Phase::Trial(_)) {
        return Err(Diagnostic::error(
            "unknown-node",
            place,
            format!("job `{job}` is part of each trial"),
        )
        .help(format!(
            "name its nodes in one trial, such as `{job}[trial=1]`, or a job that runs before or after the study"
        )));
    }
    if !core.included[ix] {
        return Ok(Vec::new());
    }
    let plan = &core.jobs[ix];
    let mut wanted = Vec::new();
    for (axis, label) in axes {
        let axes = &plan.points.axes;
        let Some(at) = plan.points.axis(&axis) else {
            let names: Vec<&str> = axes.iter().map(|axis| &*axis.name).collect();
            return Err(Diagnostic::error(
                "unknown-node",
                place,
                format!("job `{job}` has no axis `{axis}`"),
            )
            .help(match did_you_mean(&axis, names.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if names.is_empty() => format!("it has no axes: write `{job}`"),
                None => format!("its axes are {}", names.join(", ")),
            }));
        };
        let Some(value) = axes[at].find_label(&label) else {
            return Err(Diagnostic::error(
                "unknown-node",
                place,
                format!("the axis `{axis}` of job `{job}` has no value `{label}`"),
            )
            .help(known_values(&axes[at], &label)));
        };
        wanted.push((at, value));
    }
    let cells: Vec<usize> = (0..plan.points.len)
        .filter(|row| {
            let values = plan.points.row(*row);
            wanted.iter().all(|(axis, value)| values[*axis] == *value)
        })
        .map(|row| plan.first_cell + row)
        .collect();
    if cells.is_empty() && !wanted.is_empty() {
        return Err(
            Diagnostic::error("unknown-node", place, format!("there is no node `{name}`"))
                .help(nearest_point(plan, &wanted, job)),
        );
    }
    Ok(cells)
}

/// How many values of an axis are compared or listed.
const COMPARED: usize = 10_000;
const LISTED: usize = 8;

/// What to say about a value that an axis does not have.
fn known_values(axis: &Axis, label: &str) -> String {
    let labels: Vec<String> = (0..axis.len().min(COMPARED) as u32)
        .map(|ix| axis.label(ix))
        .collect();
    let near = did_you_mean(label, labels.iter().map(String::as_str));
    let first = || labels[..labels.len().min(LISTED)].join(", ");
    match (axis.len(), near) {
        (0, _) => "it has no values".into(),
        (1..=LISTED, _) => format!("its values are {}", first()),
        (_, Some(near)) => format!("did you mean `{near}`?"),
        (n, None) => format!("it has {n} values, such as {}", first()),
    }
}

/// The point that has most of the wanted values.
fn nearest_point(plan: &JobPlan, wanted: &[(usize, u32)], job: &str) -> String {
    let shared = |row: &usize| {
        let values = plan.points.row(*row);
        let same = wanted
            .iter()
            .filter(|(axis, value)| values[*axis] == *value);
        (same.count(), std::cmp::Reverse(*row))
    };
    match (0..plan.points.len).max_by_key(shared) {
        Some(row) => {
            let labels = plan.points.labels(row);
            let labels = labels.iter().map(|(a, l)| (a.as_str(), l.as_str()));
            format!("the nearest is `{}`", dagrun_model::logical_id(job, labels))
        }
        None => format!("job `{job}` has no nodes"),
    }
}

fn add_upstream(core: &Core, cells: &mut [bool]) {
    let mut seen: Vec<Vec<bool>> = core
        .groupings
        .iter()
        .map(|g| vec![false; g.len()])
        .collect();
    for job in core.order.iter().rev() {
        let plan = &core.jobs[*job];
        for need in &plan.needs {
            let grouping = &core.groupings[need.grouping];
            for (row, group) in need.groups.iter().enumerate() {
                let new = *group != NONE
                    && cells[plan.first_cell + row]
                    && !seen[need.grouping][*group as usize];
                if new {
                    seen[need.grouping][*group as usize] = true;
                    let first = core.jobs[need.job].first_cell;
                    grouping
                        .group(*group)
                        .iter()
                        .for_each(|row| cells[first + *row as usize] = true);
                }
            }
        }
    }
}

fn add_downstream(core: &Core, cells: &mut [bool]) {
    let mut seen: Vec<Vec<Option<bool>>> =
        core.groupings.iter().map(|g| vec![None; g.len()]).collect();
    for job in &core.order {
        let plan = &core.jobs[*job];
        for need in &plan.needs {
            let grouping = &core.groupings[need.grouping];
            let first = core.jobs[need.job].first_cell;
            for (row, group) in need
                .groups
                .iter()
                .enumerate()
                .filter(|(_, group)| **group != NONE)
            {
                let any = *seen[need.grouping][*group as usize].get_or_insert_with(|| {
                    grouping
                        .group(*group)
                        .iter()
                        .any(|row| cells[first + *row as usize])
                });
                cells[plan.first_cell + row] |= any;
            }
        }
    }
}
