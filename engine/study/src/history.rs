//! What trials came to, as columns: a finished trial costs 8 bytes for each parameter and objective and a few more.

/// Trials that were told, in the order in which asks see them.
///
/// Points and values are kept by number of trial and the order apart from them, so that a trial that was told and may not be
/// seen yet, or is to be told again, needs no second copy.
#[derive(Clone, Debug)]
pub struct History {
    dims: usize,
    objectives: usize,
    /// The numbers of the trials that are seen.
    order: Vec<u32>,
    points: Vec<f64>,
    values: Vec<f64>,
    /// By how much constraints are broken; 0: feasible; NaN: the trial failed, or was not told.
    violations: Vec<f64>,
}

/// One told trial.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Told<'a> {
    /// Its number, from 1.
    pub trial: u64,
    /// Its coordinates.
    pub point: &'a [f64],
    /// Its objectives, always to be minimised and finite; none: it failed.
    pub values: Option<&'a [f64]>,
    /// By how much constraints are broken in sum; 0: feasible.
    pub violation: f64,
}

impl History {
    /// An empty history of points with `dims` coordinates and `objectives` values.
    pub fn new(dims: usize, objectives: usize) -> Self {
        Self {
            dims,
            objectives,
            order: Vec::new(),
            points: Vec::new(),
            values: Vec::new(),
            violations: Vec::new(),
        }
    }

    /// Adds a trial at the end. Trials that were skipped take room too.
    ///
    /// # Panics
    /// When the point or the values have another length than this history was made for, or the number is 0.
    pub fn push(&mut self, told: Told<'_>) {
        while self.room() < told.trial {
            self.add_point(&vec![f64::NAN; self.dims]);
        }
        let at = self.at(told.trial);
        assert_eq!(
            told.point.len(),
            self.dims,
            "a coordinate for each parameter"
        );
        self.points[at * self.dims..][..self.dims].copy_from_slice(told.point);
        self.set(told.trial, told.values, told.violation);
        self.show(told.trial);
    }

    /// How many values a trial has.
    pub fn objectives(&self) -> usize {
        self.objectives
    }

    /// How many trials were told.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none was told.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The trial at a position.
    pub fn get(&self, at: usize) -> Told<'_> {
        self.trial(u64::from(self.order[at]))
    }

    /// All trials in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Told<'_>> {
        (0..self.len()).map(|at| self.get(at))
    }

    /// How many trials there is room for: the greatest number that was asked.
    pub(crate) fn room(&self) -> u64 {
        self.violations.len() as u64
    }

    /// Makes room for the next trial.
    pub(crate) fn add_point(&mut self, point: &[f64]) {
        assert_eq!(point.len(), self.dims, "a coordinate for each parameter");
        grow(&mut self.points, self.dims);
        grow(&mut self.values, self.objectives);
        grow(&mut self.violations, 1);
        self.points.extend_from_slice(point);
        self.values
            .extend(std::iter::repeat_n(f64::NAN, self.objectives));
        self.violations.push(f64::NAN);
    }

    /// Notes what a trial came to, without showing it.
    pub(crate) fn set(&mut self, trial: u64, values: Option<&[f64]>, violation: f64) {
        let at = self.at(trial);
        let row = &mut self.values[at * self.objectives..][..self.objectives];
        match values {
            Some(values) => {
                row.copy_from_slice(values);
                // Infinite ones rank like the greatest.
                self.violations[at] = violation.min(f64::MAX);
            }
            None => {
                row.fill(f64::NAN);
                self.violations[at] = f64::NAN;
            }
        }
    }

    /// Shows a trial to asks.
    pub(crate) fn show(&mut self, trial: u64) {
        grow(&mut self.order, 1);
        self.order
            .push(u32::try_from(trial).expect("fewer than 2^32 trials"));
    }

    /// Hides all trials.
    pub(crate) fn hide(&mut self) {
        self.order.clear();
    }

    /// A trial by its number, seen or not.
    pub(crate) fn trial(&self, trial: u64) -> Told<'_> {
        let at = self.at(trial);
        let failed = self.violations[at].is_nan();
        Told {
            trial,
            point: self.point(trial),
            values: (!failed).then(|| &self.values[at * self.objectives..][..self.objectives]),
            violation: if failed { 0.0 } else { self.violations[at] },
        }
    }

    /// The point of a trial by its number.
    pub(crate) fn point(&self, trial: u64) -> &[f64] {
        &self.points[self.at(trial) * self.dims..][..self.dims]
    }

    /// Bytes of memory that it holds.
    pub(crate) fn bytes(&self) -> usize {
        8 * (self.points.capacity() + self.values.capacity())
            + 4 * self.order.capacity()
            + 8 * self.violations.capacity()
    }

    fn at(&self, trial: u64) -> usize {
        usize::try_from(trial - 1).expect("trials are counted from 1")
    }
}

/// Makes room for `more` items, an eighth at a time: doubling would hold up to twice the memory.
pub(crate) fn grow<T>(items: &mut Vec<T>, more: usize) {
    if items.capacity() - items.len() < more {
        items.reserve_exact(more.max(items.len() / 8).max(64));
    }
}
