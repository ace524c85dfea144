//! Remembers what is evaluated for a cell by the axes that it depends on.

use rustc_hash::FxHashMap;

use crate::axes::{ATTRIBUTES, JobPoints};

/// Values that depend on some axes of a job: each is made once for each combination that occurs.
pub(crate) enum Memo<T> {
    Constant(Option<T>),
    Axis(usize, Vec<Option<T>>),
    Map {
        axes: Vec<usize>,
        attributes: bool,
        known: FxHashMap<Box<[u32]>, T>,
        buffer: Vec<u32>,
    },
    /// Every cell has a value of its own: nothing is remembered.
    Direct,
}

impl<T: Clone> Memo<T> {
    /// For values that depend on the axes in `mask`.
    pub(crate) fn new(mask: u64, points: &JobPoints) -> Self {
        let varying = |ix: &usize| points.axes[*ix].len() > 1;
        let axes: Vec<usize> = (0..points.axes.len())
            .filter(|ix| mask >> ix & 1 == 1)
            .filter(varying)
            .collect();
        let attributes = mask & ATTRIBUTES != 0 && points.has_attributes();
        if axes.len() == (0..points.axes.len()).filter(varying).count() && points.len > 1 {
            return Self::Direct;
        }
        match (axes.as_slice(), attributes) {
            ([], false) => Self::Constant(None),
            ([axis], false) => Self::Axis(*axis, vec![None; points.axes[*axis].len()]),
            _ => Self::Map {
                axes,
                attributes,
                known: FxHashMap::default(),
                buffer: Vec::new(),
            },
        }
    }

    /// The value at a row, made by `make` where it is not known.
    pub(crate) fn get(&mut self, points: &JobPoints, row: usize, make: impl FnOnce() -> T) -> T {
        match self {
            Self::Constant(slot) => slot.get_or_insert_with(make).clone(),
            Self::Axis(axis, slots) => slots[points.row(row)[*axis] as usize]
                .get_or_insert_with(make)
                .clone(),
            Self::Map {
                axes,
                attributes,
                known,
                buffer,
            } => {
                buffer.clear();
                buffer.extend(axes.iter().map(|axis| points.row(row)[*axis]));
                if *attributes {
                    buffer.push(points.attribute_set(row));
                }
                if let Some(value) = known.get(buffer.as_slice()) {
                    return value.clone();
                }
                let value = make();
                known.insert(buffer.as_slice().into(), value.clone());
                value
            }
            Self::Direct => make(),
        }
    }
}
