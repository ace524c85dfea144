//! What trials came to, as columns: a finished trial costs 8 bytes for each parameter and objective and a few more.

/// Trials that were told, in the order in which asks see them.
#[derive(Clone, Debug)]
pub struct History {
    dims: usize,
    objectives: usize,
    trials: Vec<u32>,
    points: Vec<f64>,
    values: Vec<f64>,
    /// By how much constraints are broken; 0: feasible; NaN: the trial failed.
    violations: Vec<f32>,
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
            trials: Vec::new(),
            points: Vec::new(),
            values: Vec::new(),
            violations: Vec::new(),
        }
    }

    /// Adds a trial at the end.
    ///
    /// # Panics
    /// When the point or the values have another length than this history was made for.
    pub fn push(&mut self, told: Told<'_>) {
        assert_eq!(
            told.point.len(),
            self.dims,
            "a coordinate for each parameter"
        );
        self.trials
            .push(u32::try_from(told.trial).expect("fewer than 2^32 trials"));
        self.points.extend_from_slice(told.point);
        match told.values {
            Some(values) => {
                assert_eq!(values.len(), self.objectives, "a value for each objective");
                self.values.extend_from_slice(values);
                self.violations.push(told.violation as f32);
            }
            None => {
                self.values
                    .extend(std::iter::repeat_n(f64::NAN, self.objectives));
                self.violations.push(f32::NAN);
            }
        }
    }

    /// How many trials were told.
    pub fn len(&self) -> usize {
        self.trials.len()
    }

    /// Whether none was told.
    pub fn is_empty(&self) -> bool {
        self.trials.is_empty()
    }

    /// The trial at a position.
    pub fn get(&self, at: usize) -> Told<'_> {
        let failed = self.violations[at].is_nan();
        let values = &self.values[at * self.objectives..(at + 1) * self.objectives];
        Told {
            trial: u64::from(self.trials[at]),
            point: &self.points[at * self.dims..(at + 1) * self.dims],
            values: (!failed).then_some(values),
            violation: if failed {
                0.0
            } else {
                f64::from(self.violations[at])
            },
        }
    }

    /// All trials in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Told<'_>> {
        (0..self.len()).map(|at| self.get(at))
    }
}
