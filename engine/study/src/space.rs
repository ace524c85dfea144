//! The resolved space of a study.
//!
//! A point of the space is a row of coordinates, one `f64` for each parameter in file order: the number itself, the position in
//! the list of a `choice`, NaN where the parameter is not active.

use std::sync::Arc;

use dagrun_model::{Expr, Value};

/// The parameters of a trial.
#[derive(Clone, Debug, Default)]
pub struct Space {
    /// In file order.
    pub parameters: Vec<Parameter>,
}

/// A parameter of a trial.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name.
    pub name: Arc<str>,
    /// Its values.
    pub distribution: Distribution,
    /// Decimal places that its values are rounded to.
    pub digits: Option<u8>,
    /// It is active only where this holds.
    pub when: Option<Expr>,
}

/// The values of a parameter and how likely each is without knowledge.
#[derive(Clone, Debug, PartialEq)]
pub enum Distribution {
    /// Any number from `low` to `high`, evenly.
    Uniform {
        /// The least value.
        low: f64,
        /// The greatest value.
        high: f64,
    },
    /// Any number from `low` to `high`, evenly by its logarithm.
    LogUniform {
        /// The least value, above 0.
        low: f64,
        /// The greatest value.
        high: f64,
    },
    /// A whole number from `low` to `high`, ends included.
    Int {
        /// The least value.
        low: i64,
        /// The greatest value.
        high: i64,
    },
    /// A whole number from `low` to `high`, ends included, evenly by its logarithm.
    LogInt {
        /// The least value, above 0.
        low: i64,
        /// The greatest value.
        high: i64,
    },
    /// One of a list, at least one value, all different.
    Choice(Arc<[Value]>),
    /// A number by a normal distribution.
    Normal {
        /// Its mean.
        mean: f64,
        /// Its standard deviation, above 0.
        sd: f64,
    },
    /// A number from 0 to 1 by a beta distribution.
    Beta {
        /// The first shape, above 0.
        alpha: f64,
        /// The second shape, above 0.
        beta: f64,
    },
    /// `low + i * step` for i from 0 to `count - 1`.
    Steps {
        /// The first value.
        low: f64,
        /// The distance of two values, above 0.
        step: f64,
        /// How many values there are, at least 1.
        count: u32,
    },
}

impl Space {
    /// How many parameters there are.
    pub fn dims(&self) -> usize {
        self.parameters.len()
    }
}
