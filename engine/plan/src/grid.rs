//! Points under construction: what `exclude` and `include` do to the product of the axes.

use std::sync::Arc;

use dagrun_model::{Diagnostic, Map, Span, Value, did_you_mean};
use rustc_hash::FxHashMap;

use crate::{
    axes::{Axis, AxisValues, JobPoints, REPLICATE, identity},
    points::Block,
};

/// Points under construction, without replicates.
pub(crate) struct Grid {
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

/// Entries of `exclude` that name the same axes: the axes, and by their values the number of the entry.
type Shape = (Vec<usize>, FxHashMap<Box<[u32]>, usize>);

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
                AxisValues::Trial(_) => Some(vec![axis.value(0)]),
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
    pub(crate) fn product(blocks: Vec<Block>, indexed: bool) -> Self {
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

    pub(crate) fn len(&self) -> usize {
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
    pub(crate) fn exclude(&mut self, entries: &[(Map, Span)], out: &mut Vec<Diagnostic>) {
        let mut shapes: Vec<Shape> = Vec::new();
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

    fn retain(&mut self, shapes: &[Shape], used: &mut [bool]) {
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
    pub(crate) fn include(&mut self, entry: &Map, span: Span, out: &mut Vec<Diagnostic>) {
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

    pub(crate) fn finish(self, replicates: Option<u32>) -> JobPoints {
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
