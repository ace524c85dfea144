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
pub(crate) fn points_of(request: &PointsRequest<'_>) -> Result<JobPoints, Vec<Diagnostic>> {
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
    let mut grid = Grid::product(blocks);
    let exclude = maps(&request.job.matrix.exclude, request.ctx, "exclude").map_err(|e| vec![e])?;
    for (entry, span) in &exclude {
        grid.exclude(entry, *span, &mut errors);
    }
    for (entry, span) in &include {
        grid.include(entry, *span, &mut errors);
    }
    if errors.iter().any(Diagnostic::is_error) {
        return Err(errors);
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
    Err(Diagnostic::error(
        "too-many-nodes",
        request.job.name.span,
        format!(
            "job `{}` has {} = {product} points; the limit is {}",
            request.job.name.value,
            words.join(" x "),
            request.budget
        ),
    )
    .help("make the axes smaller, or raise the limit if this is meant"))
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
    axes: Vec<Axis>,
    rows: Vec<u32>,
    regular: usize,
    attribute_of: Vec<u32>,
    attribute_sets: Vec<Map>,
}

impl Grid {
    fn product(blocks: Vec<Block>) -> Self {
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
        Self {
            axes: blocks.into_iter().flat_map(|block| block.axes).collect(),
            rows,
            regular: count,
            attribute_of: Vec::new(),
            attribute_sets: vec![Map::new()],
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

    /// For the axes that `entry` names: which of their values it matches.
    fn matching(&self, entry: &Map) -> Vec<(usize, Vec<bool>)> {
        let mut tests = Vec::new();
        for (ix, axis) in self.axes.iter().enumerate() {
            if let Some(wanted) = entry.get(&axis.name) {
                let wanted = identity(wanted);
                let fits = (0..axis.len() as u32).map(|v| identity(&axis.value(v)) == wanted);
                tests.push((ix, fits.collect()));
            }
        }
        tests
    }

    fn exclude(&mut self, entry: &Map, span: Span, errors: &mut Vec<Diagnostic>) {
        for key in entry.keys() {
            if self.axes.iter().all(|axis| axis.name != *key) {
                errors.push(self.unknown_axis("exclude", key, span));
                return;
            }
        }
        let tests = self.matching(entry);
        let (width, rows) = (self.width(), std::mem::take(&mut self.rows));
        if width == 0 {
            return;
        }
        self.rows = Vec::with_capacity(rows.len());
        for row in rows.chunks_exact(width) {
            if !tests.iter().all(|(ix, fits)| fits[row[*ix] as usize]) {
                self.rows.extend_from_slice(row);
            }
        }
        self.regular = self.rows.len() / width;
    }

    fn unknown_axis(&self, what: &str, key: &str, span: Span) -> Diagnostic {
        let error = Diagnostic::error(
            "unknown-axis",
            span,
            format!("`{what}` names `{key}`, which is no axis"),
        );
        let names: Vec<&str> = self.axes.iter().map(|axis| &*axis.name).collect();
        match did_you_mean(key, names.iter().copied()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help(format!("the axes are {}", names.join(", "))),
        }
    }

    /// An entry with all axes adds a point; one with fewer gives attributes to the points that it matches.
    fn include(&mut self, entry: &Map, span: Span, errors: &mut Vec<Diagnostic>) {
        let attributes: Map = entry
            .iter()
            .filter(|(key, _)| self.axes.iter().all(|axis| axis.name != **key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let complete = entry.len() - attributes.len() == self.width();
        let matches = self.matches(entry);
        if complete && matches.is_empty() {
            let row = self.add_values(entry);
            self.rows.extend(row);
            if !self.attribute_of.is_empty() {
                self.attribute_of.push(0);
            }
            self.attach(&[self.len() - 1], &attributes);
        } else if matches.is_empty() {
            errors.push(
                Diagnostic::error(
                    "include-matches-nothing",
                    span,
                    "this entry of `include` matches no point",
                )
                .help(format!(
                    "name all axes ({}) to add a point",
                    self.axes
                        .iter()
                        .map(|axis| &*axis.name)
                        .collect::<Vec<_>>()
                        .join(", ")
                )),
            );
        } else {
            self.attach(&matches, &attributes);
        }
    }

    fn matches(&self, entry: &Map) -> Vec<usize> {
        let tests = self.matching(entry);
        let width = self.width();
        (0..self.len())
            .filter(|row| {
                let values = &self.rows[row * width..(row + 1) * width];
                tests.iter().all(|(ix, fits)| fits[values[*ix] as usize])
            })
            .collect()
    }

    /// The value indices of a new point; values that an axis does not have yet are appended to it.
    fn add_values(&mut self, entry: &Map) -> Vec<u32> {
        let mut row = Vec::with_capacity(self.axes.len());
        for axis in &mut self.axes {
            let wanted = &entry[&axis.name];
            let name = identity(wanted);
            let known = (0..axis.len() as u32).find(|ix| identity(&axis.value(*ix)) == name);
            row.push(known.unwrap_or_else(|| {
                let ix = axis.len() as u32;
                let values = (0..ix).map(|v| axis.value(v)).chain([wanted.clone()]);
                axis.values = AxisValues::List(values.collect());
                ix
            }));
        }
        row
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
            axes: self.axes,
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
