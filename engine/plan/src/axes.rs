//! Axes and points: matrix, `exclude`, `include`, `for_each` and replicates become rows of value indices.
//!
//! Rows are row-major over the axes in declared order (taken-over axes, matrix keys, then `replicate`); points that
//! `include` adds come last. A row costs four bytes for each axis and nothing else.

use std::sync::Arc;

use dagrun_expr::{Context, eval_value};
use dagrun_model::{Diagnostic, Job, Map, Span, Value, ValueTemplate, did_you_mean, float_text};
use indexmap::IndexSet;
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};

/// The bit of a mask that stands for the attributes that `include` adds.
pub(crate) const ATTRIBUTES: u64 = 1 << 63;

/// The most axes a job may have: a mask has a bit for each.
const MAX_AXES: usize = 60;

/// The name of the axis that `replicates` makes.
pub(crate) const REPLICATE: &str = "replicate";

/// A named dimension of a job.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub(crate) name: Arc<str>,
    pub(crate) values: AxisValues,
}

#[derive(Clone, Debug)]
pub(crate) enum AxisValues {
    List(Arc<[Value]>),
    Replicates(u32),
}

impl Axis {
    pub(crate) fn len(&self) -> usize {
        match &self.values {
            AxisValues::List(values) => values.len(),
            AxisValues::Replicates(n) => *n as usize,
        }
    }

    pub(crate) fn value(&self, ix: u32) -> Value {
        match &self.values {
            AxisValues::List(values) => values[ix as usize].clone(),
            AxisValues::Replicates(_) => Value::Int(i64::from(ix)),
        }
    }

    pub(crate) fn label(&self, ix: u32) -> String {
        match &self.values {
            AxisValues::List(values) => values[ix as usize].label(),
            AxisValues::Replicates(_) => ix.to_string(),
        }
    }

    /// The index of the value with a label.
    pub(crate) fn find_label(&self, label: &str) -> Option<u32> {
        match &self.values {
            AxisValues::List(values) => values
                .iter()
                .position(|v| v.label() == label)
                .map(|ix| ix as u32),
            AxisValues::Replicates(n) => label
                .parse()
                .ok()
                .filter(|ix: &u32| ix < n && ix.to_string() == label),
        }
    }

    /// For each value of `self`, the index of the equal value of `other`; `u32::MAX` where there is none.
    pub(crate) fn translate(&self, other: &Axis) -> Vec<u32> {
        if let (AxisValues::Replicates(a), AxisValues::Replicates(b)) =
            (&self.values, &other.values)
        {
            return (0..*a)
                .map(|ix| if ix < *b { ix } else { u32::MAX })
                .collect();
        }
        if let (AxisValues::List(a), AxisValues::List(b)) = (&self.values, &other.values)
            && Arc::ptr_eq(a, b)
        {
            return (0..a.len() as u32).collect();
        }
        let index: FxHashMap<String, u32> = (0..other.len() as u32)
            .map(|ix| (identity(&other.value(ix)), ix))
            .collect();
        (0..self.len() as u32)
            .map(|ix| {
                index
                    .get(&identity(&self.value(ix)))
                    .copied()
                    .unwrap_or(u32::MAX)
            })
            .collect()
    }
}

/// What makes two values the same on an axis: the language's equality, and an object's `name`.
pub(crate) fn identity(value: &Value) -> String {
    match value.typed() {
        Value::Null => "z".into(),
        Value::Bool(b) => format!("b{b}"),
        Value::Int(i) => format!("n{i}"),
        Value::Float(f) if f.fract() == 0.0 && f.abs() < 9e15 => format!("n{}", *f as i64),
        Value::Float(f) => format!("n{}", float_text(*f)),
        Value::Str(s) => format!("s{s}"),
        Value::Map(map) => match map.get("name") {
            Some(name) => identity(name),
            None => format!("j{}", value.to_text()),
        },
        _ => format!("j{}", value.to_text()),
    }
}

/// The points of a job.
#[derive(Clone, Debug, Default)]
pub(crate) struct JobPoints {
    pub(crate) axes: Vec<Axis>,
    /// How many points.
    pub(crate) len: usize,
    /// Points before this one are row-major; those from here on were added by `include`.
    pub(crate) regular: usize,
    rows: Vec<u32>,
    attribute_of: Vec<u32>,
    attribute_sets: Vec<Map>,
}

impl JobPoints {
    pub(crate) fn row(&self, row: usize) -> &[u32] {
        let width = self.axes.len();
        &self.rows[row * width..(row + 1) * width]
    }

    pub(crate) fn has_attributes(&self) -> bool {
        !self.attribute_of.is_empty()
    }

    pub(crate) fn attribute_set(&self, row: usize) -> u32 {
        self.attribute_of.get(row).copied().unwrap_or(0)
    }

    /// The attributes of a point.
    pub(crate) fn attributes(&self, row: usize) -> Option<&Map> {
        self.attribute_sets.get(self.attribute_set(row) as usize)
    }

    /// Whether some point has an attribute of this name.
    pub(crate) fn is_attribute(&self, name: &str) -> bool {
        self.attribute_sets.iter().any(|set| set.contains_key(name))
    }

    pub(crate) fn axis(&self, name: &str) -> Option<usize> {
        self.axes.iter().position(|axis| &*axis.name == name)
    }

    pub(crate) fn all_axes(&self) -> u64 {
        (1 << self.axes.len()) - 1
    }

    /// The value of an axis at a point.
    pub(crate) fn value(&self, row: usize, axis: usize) -> Value {
        self.axes[axis].value(self.row(row)[axis])
    }

    /// Names and labels of a point.
    pub(crate) fn labels(&self, row: usize) -> Vec<(String, String)> {
        let values = self.axes.iter().zip(self.row(row));
        values
            .map(|(axis, ix)| (axis.name.to_string(), axis.label(*ix)))
            .collect()
    }

    /// The point as an object of its axes.
    pub(crate) fn object(&self, row: usize) -> Value {
        let values = self.axes.iter().zip(self.row(row));
        Value::map(
            values
                .map(|(axis, ix)| (axis.name.clone(), axis.value(*ix)))
                .collect(),
        )
    }

    /// The row of given value indices.
    pub(crate) fn find(&self, values: &[u32]) -> Option<usize> {
        let (mut low, mut high) = (0, self.regular);
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.row(middle).cmp(values) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(middle),
            }
        }
        (self.regular..self.len).find(|row| self.row(*row) == values)
    }
}

/// What making the points of a job needs.
pub(crate) struct PointsRequest<'a> {
    pub(crate) job: &'a Job,
    /// Points of the needed jobs, in the order of `needs`.
    pub(crate) needed: Vec<&'a JobPoints>,
    /// Knows `params`.
    pub(crate) ctx: &'a dyn Context,
    /// The number of replicates.
    pub(crate) replicates: Option<u32>,
    /// How many points the job may have.
    pub(crate) budget: u64,
}

/// Axes that vary together, or one axis on its own: the points are the product of blocks.
struct Block {
    axes: Vec<Axis>,
    /// Tuples of value indices; without them, all values of the only axis.
    tuples: Option<Vec<u32>>,
}

impl Block {
    fn len(&self) -> usize {
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
    Ok(grid.finish(request.replicates))
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
    let mut seen: IndexSet<Vec<u32>, FxBuildHasher> = IndexSet::default();
    for row in 0..points.len {
        let values = points.row(row);
        seen.insert(axes.iter().map(|axis| values[*axis]).collect());
    }
    // Regular points are row-major over all axes of the needed job, which need not be so over these.
    seen.sort();
    Block {
        axes: axes.iter().map(|axis| points.axes[*axis].clone()).collect(),
        tuples: Some(seen.into_iter().flatten().collect()),
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

/// Points under construction, without replicates.
struct Grid {
    axes: Vec<GridAxis>,
    rows: Vec<u32>,
    regular: usize,
    /// Points that `include` added.
    added: FxHashMap<Box<[u32]>, usize>,
    attribute_of: Vec<u32>,
    attribute_sets: Vec<Map>,
    /// Comparisons that are left: entries times points must not take for ever.
    comparisons: usize,
}

/// An axis to which `include` may add values.
struct GridAxis {
    name: Arc<str>,
    /// Values, where they are not the indices of replicates.
    values: Option<Vec<Value>>,
    len: u32,
    index: FxHashMap<String, u32>,
}

/// More comparisons of points with entries than these take too long.
const MAX_COMPARISONS: usize = 200_000_000;

impl GridAxis {
    /// An axis; only an indexed one finds values.
    fn new(axis: Axis, indexed: bool) -> Self {
        let len = axis.len() as u32;
        let values = 0..if indexed { len } else { 0 };
        Self {
            index: values.map(|ix| (identity(&axis.value(ix)), ix)).collect(),
            values: match axis.values {
                AxisValues::List(values) => Some(values.to_vec()),
                AxisValues::Replicates(_) => None,
            },
            name: axis.name,
            len,
        }
    }

    fn find(&self, value: &Value) -> Option<u32> {
        self.index.get(&identity(value)).copied()
    }

    /// The index of a value, which is appended where it is new.
    fn add(&mut self, value: &Value) -> u32 {
        if let Some(known) = self.find(value) {
            return known;
        }
        let ix = self.len;
        let indices = || (0..ix).map(|ix| Value::Int(i64::from(ix))).collect();
        self.values.get_or_insert_with(indices).push(value.clone());
        self.index.insert(identity(value), ix);
        self.len += 1;
        ix
    }

    fn finish(self) -> Axis {
        Axis {
            name: self.name,
            values: match self.values {
                Some(values) => AxisValues::List(values.into()),
                None => AxisValues::Replicates(self.len),
            },
        }
    }
}

impl Grid {
    fn product(blocks: Vec<Block>, indexed: bool) -> Self {
        let count: usize = blocks.iter().map(Block::len).product();
        let width: usize = blocks.iter().map(|block| block.axes.len()).sum();
        let mut rows = Vec::with_capacity(count * width);
        let mut at = vec![0usize; blocks.len()];
        for _ in 0..count {
            for (block, ix) in blocks.iter().zip(&at) {
                match &block.tuples {
                    Some(tuples) => {
                        let wide = block.axes.len();
                        rows.extend_from_slice(&tuples[ix * wide..(ix + 1) * wide]);
                    }
                    None => rows.push(*ix as u32),
                }
            }
            for (block, ix) in blocks.iter().zip(&mut at).rev() {
                *ix += 1;
                if *ix < block.len() {
                    break;
                }
                *ix = 0;
            }
        }
        let axes = blocks.into_iter().flat_map(|block| block.axes);
        Self {
            axes: axes.map(|axis| GridAxis::new(axis, indexed)).collect(),
            rows,
            regular: count,
            added: FxHashMap::default(),
            attribute_of: Vec::new(),
            attribute_sets: vec![Map::new()],
            comparisons: MAX_COMPARISONS,
        }
    }

    fn width(&self) -> usize {
        self.axes.len()
    }

    fn len(&self) -> usize {
        match self.width() {
            0 => self.regular,
            width => self.rows.len() / width,
        }
    }

    fn row(&self, row: usize) -> &[u32] {
        &self.rows[row * self.width()..(row + 1) * self.width()]
    }

    /// The axes that an entry names, with the index of its value; no index where the axis has no such value.
    fn wanted(&self, entry: &Map) -> Vec<(usize, Option<u32>)> {
        let axes = self.axes.iter().enumerate();
        axes.filter_map(|(ix, axis)| Some((ix, axis.find(entry.get(&axis.name)?))))
            .collect()
    }

    /// Leaves out the points that some entry matches: one look-up for each set of axes that entries name.
    fn exclude(&mut self, entries: &[(Map, Span)], out: &mut Vec<Diagnostic>) {
        let mut shapes: Vec<(Vec<usize>, FxHashMap<Box<[u32]>, usize>)> = Vec::new();
        let mut used = vec![false; entries.len()];
        for (ix, (entry, span)) in entries.iter().enumerate() {
            let unknown = entry
                .keys()
                .find(|key| self.axes.iter().all(|axis| axis.name != **key));
            if let Some(key) = unknown {
                out.push(self.unknown_axis("exclude", key, *span));
                used[ix] = true;
                continue;
            }
            let wanted = self.wanted(entry);
            let axes: Vec<usize> = wanted.iter().map(|(axis, _)| *axis).collect();
            let Some(values) = wanted
                .iter()
                .map(|(_, value)| *value)
                .collect::<Option<Box<[u32]>>>()
            else {
                continue;
            };
            match shapes.iter_mut().find(|(known, _)| *known == axes) {
                Some((_, points)) => {
                    points.insert(values, ix);
                }
                None => shapes.push((axes, [(values, ix)].into_iter().collect())),
            }
        }
        if !self.spend(shapes.len(), entries.first().map(|(_, span)| *span), out) {
            return;
        }
        self.retain(&shapes, &mut used);
        for ((_, span), used) in entries.iter().zip(used) {
            if !used {
                out.push(Diagnostic::warning(
                    "exclude-matches-nothing",
                    *span,
                    "this entry of `exclude` matches no point",
                ));
            }
        }
    }

    fn retain(&mut self, shapes: &[(Vec<usize>, FxHashMap<Box<[u32]>, usize>)], used: &mut [bool]) {
        let width = self.width();
        if width == 0 {
            return;
        }
        let mut values = Vec::new();
        let rows = std::mem::take(&mut self.rows);
        self.rows.reserve(rows.len());
        for row in rows.chunks_exact(width) {
            let mut out = false;
            for (axes, points) in shapes {
                values.clear();
                values.extend(axes.iter().map(|axis| row[*axis]));
                if let Some(entry) = points.get(values.as_slice()) {
                    used[*entry] = true;
                    out = true;
                }
            }
            if !out {
                self.rows.extend_from_slice(row);
            }
        }
        self.regular = self.rows.len() / width;
    }

    /// Takes a pass over all points for each of `entries` out of the budget.
    fn spend(&mut self, entries: usize, span: Option<Span>, out: &mut Vec<Diagnostic>) -> bool {
        match self
            .comparisons
            .checked_sub(self.len().saturating_mul(entries))
        {
            Some(left) => {
                self.comparisons = left;
                true
            }
            None => {
                let place = span.unwrap_or_default();
                if out.iter().all(|error| error.code != "too-many-entries") {
                    out.push(
                        Diagnostic::error(
                            "too-many-entries",
                            place,
                            format!("too many entries for {} points", self.len()),
                        )
                        .help("name all axes in each entry, or make the axes smaller"),
                    );
                }
                false
            }
        }
    }

    fn unknown_axis(&self, what: &str, key: &str, span: Span) -> Diagnostic {
        let error = Diagnostic::error(
            "unknown-axis",
            span,
            format!("`{what}` names `{key}`, which is no axis"),
        );
        match did_you_mean(key, self.axes.iter().map(|axis| &*axis.name)) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help(format!("the axes are {}", self.axis_names())),
        }
    }

    fn axis_names(&self) -> String {
        self.axes
            .iter()
            .map(|axis| &*axis.name)
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// An entry with all axes adds a point; one with fewer gives attributes to the points that it matches.
    fn include(&mut self, entry: &Map, span: Span, out: &mut Vec<Diagnostic>) {
        let attributes: Map = entry
            .iter()
            .filter(|(key, _)| self.axes.iter().all(|axis| axis.name != **key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if entry.len() - attributes.len() == self.width() {
            return self.include_point(entry, span, &attributes, out);
        }
        if !self.spend(1, Some(span), out) {
            return;
        }
        let wanted = self.wanted(entry);
        let matches: Vec<usize> = (0..self.len())
            .filter(|row| {
                let values = self.row(*row);
                wanted
                    .iter()
                    .all(|(axis, value)| Some(values[*axis]) == *value)
            })
            .collect();
        if matches.is_empty() {
            out.push(
                Diagnostic::error(
                    "include-matches-nothing",
                    span,
                    "this entry of `include` matches no point",
                )
                .help(format!(
                    "name all axes ({}) to add a point",
                    self.axis_names()
                )),
            );
        }
        self.attach(&matches, &attributes);
    }

    fn include_point(
        &mut self,
        entry: &Map,
        span: Span,
        attributes: &Map,
        out: &mut Vec<Diagnostic>,
    ) {
        let values: Box<[u32]> = self
            .axes
            .iter_mut()
            .map(|axis| axis.add(&entry[&axis.name]))
            .collect();
        let known = match self.added.get(&values) {
            Some(row) => Some(*row),
            None => self.find_regular(&values),
        };
        let row = match known {
            Some(row) => {
                if attributes.is_empty() {
                    out.push(Diagnostic::warning(
                        "include-twice",
                        span,
                        "this point is there already",
                    ));
                }
                row
            }
            None => {
                let row = self.len();
                self.rows.extend_from_slice(&values);
                self.added.insert(values, row);
                if !self.attribute_of.is_empty() {
                    self.attribute_of.push(0);
                }
                row
            }
        };
        self.attach(&[row], attributes);
    }

    /// Regular points are sorted.
    fn find_regular(&self, values: &[u32]) -> Option<usize> {
        let (mut low, mut high) = (0, self.regular);
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.row(middle).cmp(values) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(middle),
            }
        }
        None
    }

    fn attach(&mut self, rows: &[usize], attributes: &Map) {
        if attributes.is_empty() {
            return;
        }
        if self.attribute_of.is_empty() {
            self.attribute_of = vec![0; self.len()];
        }
        // Rows with equal attributes so far have equal ones afterwards.
        let mut next: FxHashMap<u32, u32> = FxHashMap::default();
        for row in rows {
            let before = self.attribute_of[*row];
            let sets = &mut self.attribute_sets;
            self.attribute_of[*row] = *next.entry(before).or_insert_with(|| {
                let mut set = sets[before as usize].clone();
                set.extend(
                    attributes
                        .iter()
                        .map(|(key, value)| (key.clone(), value.clone())),
                );
                sets.push(set);
                sets.len() as u32 - 1
            });
        }
    }

    fn finish(self, replicates: Option<u32>) -> JobPoints {
        let points = JobPoints {
            len: self.len(),
            regular: self.regular,
            axes: self.axes.into_iter().map(GridAxis::finish).collect(),
            rows: self.rows,
            attribute_of: self.attribute_of,
            attribute_sets: self.attribute_sets,
        };
        match replicates {
            Some(n) => replicate(&points, n),
            None => points,
        }
    }
}

fn replicate(points: &JobPoints, n: u32) -> JobPoints {
    let each = n as usize;
    let mut rows = Vec::with_capacity(points.len * each * (points.axes.len() + 1));
    for row in 0..points.len {
        for ix in 0..n {
            rows.extend_from_slice(points.row(row));
            rows.push(ix);
        }
    }
    let mut axes = points.axes.clone();
    axes.push(Axis {
        name: REPLICATE.into(),
        values: AxisValues::Replicates(n),
    });
    let repeat = |set: &u32| std::iter::repeat_n(*set, each);
    JobPoints {
        axes,
        len: points.len * each,
        regular: points.regular * each,
        rows,
        attribute_of: points.attribute_of.iter().flat_map(repeat).collect(),
        attribute_sets: points.attribute_sets.clone(),
    }
}
