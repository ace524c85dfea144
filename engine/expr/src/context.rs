//! What an evaluation asks the outside for.

use dagrun_model::{Function, Value};

use crate::EvalError;

/// The names that an expression may use at one point of a plan or run.
///
/// Planning evaluates a few expressions for each of a million nodes, so [`Context::member`] should answer the common
/// references without building the map that [`Context::lookup`] would give. Errors need no span: the evaluator adds it.
pub trait Context {
    /// The whole value of a context such as `matrix` or `needs`.
    fn lookup(&self, name: &str) -> Result<Value, EvalError>;

    /// The value of a dotted reference, `["matrix", "beta"]` for `matrix.beta`, or `None` to have it taken out of what
    /// the shorter path gives.
    ///
    /// For `matrix.scenario.coverage` it is asked for three names, then two, and only then is `matrix` looked up.
    fn member(&self, path: &[&str]) -> Option<Result<Value, EvalError>> {
        let _ = path;
        None
    }

    /// The value of `success()`, `failure()`, `always()` or `cancelled()`.
    fn call_status(&self, function: Function) -> Result<bool, EvalError> {
        Err(
            EvalError::new(format!("`{}()` has no value here", function.name()))
                .help("status functions stand in `if`"),
        )
    }

    /// The value of `hashFiles(patterns...)`.
    fn hash_files(&self, patterns: &[Value]) -> Result<Value, EvalError> {
        let _ = patterns;
        Err(EvalError::new("`hashFiles()` has no value here"))
    }
}
