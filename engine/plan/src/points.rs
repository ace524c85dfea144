//! Makes the points of a job: matrix, `exclude`, `include`, `for_each` and replicates.

use std::sync::Arc;

use dagrun_expr::{Context, eval_value};
use dagrun_model::{Diagnostic, Job, Map, Span, Value, ValueTemplate, did_you_mean};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    TrialPoint,
    axes::{Axis, AxisValues, JobPoints, REPLICATE, identity},
    grid::Grid,
};

/// The most axes a job may have: a mask has a bit for each.
const MAX_AXES: usize = 60;

/// What making the points of a job needs.
pub(crate) struct PointsRequest<'a> {
    pub(crate) job: &'a Job,
    /// Points of the needed jobs, in the order of `needs`.
    pub(crate) needed: Vec<&'a JobPoints>,
    /// Knows `params`.
    pub(crate) ctx: &'a dyn Context,
    /// The number of replicates.
    pub(crate) replicates: Option<u32>,
    /// The trial, for a job that has that axis.
    pub(crate) trial: Option<&'a TrialPoint>,
    /// How many points the job may have.
    pub(crate) budget: u64,
}

/// Axes that vary together, or one axis on its own: the points are the product of blocks.
pub(crate) struct Block {
    pub(crate) axes: Vec<Axis>,
    /// Tuples of value indices; without them, all values of the only axis.
    pub(crate) tuples: Option<Vec<u32>>,
}

impl Block {
    pub(crate) fn len(&self) -> usize {
        match &self.tuples {
            Some(tuples) => tuples.len() / self.axes.len(),
            None => self.axes[0].len(),
        }
    }
}

/// The points of a job, in plan order.
pub(crate) fn points_of(
    request: &PointsRequest<'_>,
    warnings: &mut Vec<Diagnostic>,
) -> Result<JobPoints, Vec<Diagnostic>> {
    let mut errors = Vec::new();
    let mut blocks = taken_over(request, &mut errors);
    let include = match maps(&request.job.matrix.include, request.ctx, "include") {
        Ok(include) => include,
        Err(error) => return Err(vec![error]),
    };
    for (name, template) in &request.job.matrix.axes {
        match matrix_axis(name, template, request.ctx) {
            Ok(axis) => blocks.push(Block {
                axes: vec![axis],
                tuples: None,
            }),
            Err(more) => errors.extend(more),
        }
    }
    let only_include = blocks.is_empty() && !include.is_empty() && errors.is_empty();
    if only_include {
        blocks.push(included_axes(&include));
    }
    check_axes(request, &blocks, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    check_budget(request, &blocks).map_err(|error| vec![error])?;
    let exclude = maps(&request.job.matrix.exclude, request.ctx, "exclude").map_err(|e| vec![e])?;
    let mut grid = Grid::product(blocks, !(exclude.is_empty() && include.is_empty()));
    let mut said = Vec::new();
    if !exclude.is_empty() {
        grid.exclude(&exclude, &mut said);
    }
    for (entry, span) in &include {
        grid.include(entry, *span, &mut said);
    }
    let (errors, more): (Vec<_>, Vec<_>) = said.into_iter().partition(Diagnostic::is_error);
    warnings.extend(more);
    if !errors.is_empty() {
        return Err(errors);
    }
    let points = grid.len() as u64 * u64::from(request.replicates.unwrap_or(1));
    if points > request.budget {
        return Err(vec![too_many(
            request,
            format!("with those of `include` {points} points"),
        )]);
    }
    let points = grid.finish(request.replicates);
    Ok(match request.trial {
        Some(trial) => points.with_trial(trial),
        None => points,
    })
}

/// The axes of `for_each`: the projection of the points of the job that has them.
fn taken_over(request: &PointsRequest<'_>, errors: &mut Vec<Diagnostic>) -> Vec<Block> {
    let names = &request.job.for_each;
    let mut done = vec![false; names.len()];
    let mut blocks = Vec::new();
    for points in &request.needed {
        let mut mine = Vec::new();
        for (ix, name) in names.iter().enumerate() {
            if let (false, Some(axis)) = (done[ix], points.axis(&name.value)) {
                done[ix] = true;
                mine.push(axis);
            }
        }
        if !mine.is_empty() {
            blocks.push(project(points, &mine));
        }
    }
    for (name, _) in names.iter().zip(&done).filter(|(_, done)| !**done) {
        let known: Vec<&str> = request
            .needed
            .iter()
            .flat_map(|points| points.axes.iter().map(|axis| &*axis.name))
            .collect();
        let error = Diagnostic::error(
            "unknown-axis",
            name.span,
            format!("no needed job has the axis `{}`", name.value),
        );
        errors.push(match did_you_mean(&name.value, known.iter().copied()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None if known.is_empty() => error.help("the needed jobs have no axes"),
            None => error.help(format!("the needed jobs have {}", known.join(", "))),
        });
    }
    blocks
}

fn project(points: &JobPoints, axes: &[usize]) -> Block {
    let width = axes.len();
    let mut tuples = Vec::with_capacity(points.len * width);
    for row in 0..points.len {
        let values = points.row(row);
        tuples.extend(axes.iter().map(|axis| values[*axis]));
    }
    // Regular points are row-major over all axes of the needed job, which need not be so over these.
    let tuple = |ix: u32| &tuples[ix as usize * width..(ix as usize + 1) * width];
    let mut order: Vec<u32> = (0..points.len as u32).collect();
    order.sort_by(|a, b| tuple(*a).cmp(tuple(*b)));
    order.dedup_by(|a, b| tuple(*a) == tuple(*b));
    Block {
        axes: axes.iter().map(|axis| points.axes[*axis].clone()).collect(),
        tuples: Some(
            order
                .iter()
                .flat_map(|ix| tuple(*ix).iter().copied())
                .collect(),
        ),
    }
}

fn matrix_axis(
    name: &str,
    template: &ValueTemplate,
    ctx: &dyn Context,
) -> Result<Axis, Vec<Diagnostic>> {
    let span = template.span();
    let value = eval_value(template, ctx).map_err(|error| vec![error.to_diagnostic(span)])?;
    let Value::List(values) = &value else {
        return Err(vec![
            Diagnostic::error(
                "matrix-not-a-list",
                span,
                format!(
                    "the axis `{name}` is {} and must be a list",
                    value.type_name()
                ),
            )
            .help(format!("write `{name}: [{value}]`")),
        ]);
    };
    check_distinct(name, template, values)?;
    Ok(Axis {
        name: name.into(),
        values: AxisValues::List(values.clone()),
    })
}

fn check_distinct(
    name: &str,
    template: &ValueTemplate,
    values: &[Value],
) -> Result<(), Vec<Diagnostic>> {
    let ints = |(a, b): (&Value, &Value)| matches!((a, b), (Value::Int(a), Value::Int(b)) if a < b);
    if values.len() > 1 && values.iter().zip(&values[1..]).all(ints) {
        return Ok(());
    }
    let place = |ix: usize| match template {
        ValueTemplate::List(items, _) => items.get(ix).map_or(template.span(), ValueTemplate::span),
        other => other.span(),
    };
    let mut identities: FxHashMap<String, usize> = FxHashMap::default();
    let mut labels: FxHashMap<String, usize> = FxHashMap::default();
    let mut errors = Vec::new();
    for (ix, value) in values.iter().enumerate() {
        if let Some(first) = identities.insert(identity(value), ix) {
            errors.push(
                Diagnostic::error(
                    "duplicate-value",
                    place(ix),
                    format!("the axis `{name}` has the value `{}` twice", value.label()),
                )
                .related(place(first), "first here")
                .help("remove one; numbers are equal whatever their spelling, objects by their `name`"),
            );
        } else if let Some(first) = labels.insert(value.label(), ix) {
            errors.push(
                Diagnostic::error(
                    "duplicate-label",
                    place(ix),
                    format!(
                        "two values of the axis `{name}` are both called `{}`",
                        value.label()
                    ),
                )
                .related(place(first), "first here")
                .help("nodes are named by these values: make them differ as text"),
            );
        }
        if errors.len() == 5 {
            break;
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}

/// A matrix of `include` alone: the keys that all entries have are its axes.
fn included_axes(include: &[(Map, Span)]) -> Block {
    let keys: Vec<Arc<str>> = include[0]
        .0
        .keys()
        .filter(|key| include.iter().all(|(entry, _)| entry.contains_key(*key)))
        .cloned()
        .collect();
    Block {
        axes: keys
            .into_iter()
            .map(|name| Axis {
                name,
                values: AxisValues::List(Arc::new([])),
            })
            .collect(),
        tuples: Some(Vec::new()),
    }
}

fn check_axes(request: &PointsRequest<'_>, blocks: &[Block], errors: &mut Vec<Diagnostic>) {
    let mut seen = FxHashSet::default();
    let span = request.job.matrix.span;
    let mut count = usize::from(request.replicates.is_some());
    if request.replicates.is_some() {
        seen.insert(REPLICATE);
    }
    for axis in blocks.iter().flat_map(|block| &block.axes) {
        count += 1;
        if !seen.insert(&axis.name) {
            errors.push(
                Diagnostic::error(
                    "duplicate-axis",
                    span,
                    format!("job `{}` has the axis `{}` twice", request.job.name.value, axis.name),
                )
                .help("an axis comes from `matrix`, `for_each` or `replicates`, and only from one of them"),
            );
        }
    }
    if blocks.iter().any(|block| block.axes.is_empty()) {
        errors.push(
            Diagnostic::error(
                "include-without-axes",
                span,
                "the entries of `include` have no key in common",
            )
            .help("keys that all entries have become the axes"),
        );
    }
    if count > MAX_AXES {
        errors.push(Diagnostic::error(
            "too-many-axes",
            span,
            format!(
                "job `{}` has {count} axes; the limit is {MAX_AXES}",
                request.job.name.value
            ),
        ));
    }
}

/// Refuses a product that is too large before anything of it is made.
fn check_budget(request: &PointsRequest<'_>, blocks: &[Block]) -> Result<(), Diagnostic> {
    let sizes = || {
        blocks
            .iter()
            .map(Block::len)
            .chain(request.replicates.map(|n| n as usize))
    };
    let product = sizes().fold(1u128, |all, len| all.saturating_mul(len as u128));
    if product <= u128::from(request.budget) {
        return Ok(());
    }
    let words: Vec<String> = sizes().map(|len| len.to_string()).collect();
    Err(too_many(
        request,
        format!("{} = {product} points", words.join(" x ")),
    ))
}

fn too_many(request: &PointsRequest<'_>, points: String) -> Diagnostic {
    Diagnostic::error(
        "too-many-nodes",
        request.job.name.span,
        format!(
            "job `{}` has {points}; the limit is {}",
            request.job.name.value, request.budget
        ),
    )
    .help("make the axes smaller, or raise the limit if this is meant")
}

fn maps(
    templates: &[ValueTemplate],
    ctx: &dyn Context,
    what: &str,
) -> Result<Vec<(Map, Span)>, Diagnostic> {
    let mut entries = Vec::new();
    for template in templates {
        let span = template.span();
        let value = eval_value(template, ctx).map_err(|error| error.to_diagnostic(span))?;
        let items = match &value {
            Value::List(items) => items.to_vec(),
            _ => vec![value],
        };
        for item in items {
            match item {
                Value::Map(map) => entries.push(((*map).clone(), span)),
                other => {
                    return Err(Diagnostic::error(
                        "not-a-map",
                        span,
                        format!(
                            "an entry of `{what}` is {} and must be a map of axes",
                            other.type_name()
                        ),
                    ));
                }
            }
        }
    }
    Ok(entries)
}
