//! Axes and points of a job, as rows of value indices.
//!
//! Rows are row-major over the axes in declared order (taken-over axes, matrix keys, then `replicate`); points that
//! `include` adds come last. A row costs four bytes for each axis and nothing else.

use std::sync::Arc;

use dagrun_model::{Map, Value, float_text};
use rustc_hash::FxHashMap;

use crate::{TrialPoint, phase::TRIAL};

/// The bit of a mask that stands for the attributes that `include` adds.
pub(crate) const ATTRIBUTES: u64 = 1 << 63;

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
    /// The one trial that the plan is of.
    Trial(TrialPoint),
}

impl Axis {
    pub(crate) fn len(&self) -> usize {
        match &self.values {
            AxisValues::List(values) => values.len(),
            AxisValues::Replicates(n) => *n as usize,
            AxisValues::Trial(_) => 1,
        }
    }

    pub(crate) fn value(&self, ix: u32) -> Value {
        match &self.values {
            AxisValues::List(values) => values[ix as usize].clone(),
            AxisValues::Replicates(_) => Value::Int(i64::from(ix)),
            AxisValues::Trial(trial) => Value::Map(trial.values.clone()),
        }
    }

    pub(crate) fn label(&self, ix: u32) -> String {
        match &self.values {
            AxisValues::List(values) => values[ix as usize].label(),
            AxisValues::Replicates(_) => ix.to_string(),
            AxisValues::Trial(trial) => trial.number.to_string(),
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
            AxisValues::Trial(trial) => (trial.number.to_string() == label).then_some(0),
        }
    }

    /// Whether both are one list, taken over.
    pub(crate) fn same_values(&self, other: &Axis) -> bool {
        match (&self.values, &other.values) {
            (AxisValues::List(a), AxisValues::List(b)) => Arc::ptr_eq(a, b),
            (AxisValues::Replicates(_), AxisValues::Replicates(_))
            | (AxisValues::Trial(_), AxisValues::Trial(_)) => true,
            _ => false,
        }
    }

    /// The equal value of this axis, or the value itself where there is none.
    pub(crate) fn spelled(&self, value: &Value) -> Value {
        let wanted = identity(value);
        let equal = (0..self.len() as u32).find(|ix| identity(&self.value(*ix)) == wanted);
        equal.map_or_else(|| value.clone(), |ix| self.value(ix))
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
            && (Arc::ptr_eq(a, b) || plainly_equal(a, b))
        {
            return (0..a.len() as u32).collect();
        }
        if let (AxisValues::Trial(_), AxisValues::Trial(_)) = (&self.values, &other.values) {
            return vec![0];
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

/// Whether two lists have the same integers and strings in the same order: the common case, where no identity is printed.
fn plainly_equal(a: &[Value], b: &[Value]) -> bool {
    let same = |(a, b): (&Value, &Value)| match (a, b) {
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::Str(a), Value::Str(b)) => a == b,
        _ => false,
    };
    a.len() == b.len() && a.iter().zip(b).all(same)
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
    pub(crate) rows: Vec<u32>,
    pub(crate) attribute_of: Vec<u32>,
    pub(crate) attribute_sets: Vec<Map>,
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

    /// Puts the axis `trial` first.
    pub(crate) fn with_trial(mut self, trial: &TrialPoint) -> Self {
        let mut rows = Vec::with_capacity(self.rows.len() + self.len);
        for row in 0..self.len {
            rows.push(0);
            rows.extend_from_slice(self.row(row));
        }
        self.rows = rows;
        let axis = Axis {
            name: TRIAL.into(),
            values: AxisValues::Trial(trial.clone()),
        };
        self.axes.insert(0, axis);
        self
    }

    /// The point as an object of its axes. `trial` is not among them: a plan has one trial, and keys see of it only what is
    /// used.
    pub(crate) fn object(&self, row: usize) -> Value {
        let values = self.axes.iter().zip(self.row(row));
        let values = values.filter(|(axis, _)| &*axis.name != TRIAL);
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
