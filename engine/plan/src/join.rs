//! Joins and gathers: which points of a needed job a point reads.
//!
//! A [`Grouping`] orders the rows of a job by their values on some of its axes. A need joins on the axes that both jobs
//! have: each point of the needing job finds one group, and the rows of the group are what it gathers.

use crate::axes::JobPoints;

/// No group, no set, no node.
pub(crate) const NONE: u32 = u32::MAX;

/// The rows of a job, grouped by their values on some axes.
#[derive(Clone, Debug)]
pub(crate) struct Grouping {
    /// The axes, ascending.
    pub(crate) axes: Vec<usize>,
    order: Vec<u32>,
    starts: Vec<u32>,
}

impl Grouping {
    pub(crate) fn new(points: &JobPoints, axes: Vec<usize>) -> Self {
        let mut order: Vec<u32> = (0..points.len as u32).collect();
        let compare = |a: u32, b: u32| {
            let (a, b) = (points.row(a as usize), points.row(b as usize));
            axes.iter()
                .map(|axis| a[*axis].cmp(&b[*axis]))
                .find(|ordering| ordering.is_ne())
                .unwrap_or(std::cmp::Ordering::Equal)
        };
        // Stable: rows of a group stay in plan order.
        order.sort_by(|a, b| compare(*a, *b));
        let mut starts = Vec::new();
        for (ix, row) in order.iter().enumerate() {
            if ix == 0 || compare(order[ix - 1], *row).is_ne() {
                starts.push(ix as u32);
            }
        }
        starts.push(order.len() as u32);
        Self {
            axes,
            order,
            starts,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// The rows of a group, in plan order.
    pub(crate) fn group(&self, group: u32) -> &[u32] {
        let range = self.starts[group as usize] as usize..self.starts[group as usize + 1] as usize;
        &self.order[range]
    }

    /// The group with these values; `hint` and the one after it are tried first.
    fn find(&self, points: &JobPoints, values: &[u32], hint: u32) -> Option<u32> {
        let compare = |group: u32| {
            let row = points.row(self.group(group)[0] as usize);
            self.axes
                .iter()
                .zip(values)
                .map(|(axis, value)| row[*axis].cmp(value))
                .find(|ordering| ordering.is_ne())
                .unwrap_or(std::cmp::Ordering::Equal)
        };
        // Points usually come in the order of the groups.
        for guess in [hint, hint + 1] {
            if (guess as usize) < self.len() && compare(guess).is_eq() {
                return Some(guess);
            }
        }
        let (mut low, mut high) = (0, self.len() as u32);
        while low < high {
            let middle = low + (high - low) / 2;
            match compare(middle) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(middle),
            }
        }
        None
    }
}

/// The axes of a needed job that the needing job also has: pairs of (needing, needed).
pub(crate) fn common_axes(needing: &JobPoints, needed: &JobPoints) -> Vec<(usize, usize)> {
    let pairs = needed.axes.iter().enumerate();
    pairs
        .filter_map(|(ix, axis)| Some((needing.axis(&axis.name)?, ix)))
        .collect()
}

/// For each row of the needing job the group that it reads; [`NONE`] where there is none.
pub(crate) fn join(
    needing: &JobPoints,
    needed: &JobPoints,
    common: &[(usize, usize)],
    grouping: &Grouping,
) -> Vec<u32> {
    let translations: Vec<Vec<u32>> = common
        .iter()
        .map(|(mine, theirs)| needing.axes[*mine].translate(&needed.axes[*theirs]))
        .collect();
    let mut groups = Vec::with_capacity(needing.len);
    let mut values = Vec::with_capacity(common.len());
    let mut last = 0;
    for row in 0..needing.len {
        values.clear();
        let mine = needing.row(row);
        values.extend(
            common
                .iter()
                .zip(&translations)
                .map(|((axis, _), translation)| translation[mine[*axis] as usize]),
        );
        let found = grouping.find(needed, &values, last);
        if let Some(group) = found {
            last = group;
        }
        groups.push(found.unwrap_or(NONE));
    }
    groups
}
