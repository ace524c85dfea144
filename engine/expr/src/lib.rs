//! Evaluates the expressions of the pipeline language.
//!
//! Owns: operators, functions, templates, words of an argument list, the rendering of scripts, and the list of what an
//! expression refers to. Knows nothing of how expressions are written (`dsl` reads them) nor of what the contexts hold
//! (`plan` and `run` answer through [`Context`]). Pure: no I/O, clock, environment or randomness, so equal contexts give
//! equal values on every machine.
//!
//! Choices that the language leaves open:
//!
//! - Strings compare by code points, and case matters, unlike GitHub's.
//! - `==` between different types is an error, but anything may be compared with `null`. Items inside lists and maps
//!   of different types are simply unequal.
//! - Integer overflow and division by zero are errors, also for `/` on floats: an infinite parameter is a mistake that
//!   would only show hours later. `%` has the sign of its left operand.
//! - `null`, and a map or list beside text, have no text: that is an error, and `default`, `toJSON` and `join` say
//!   what is meant.

#![forbid(unsafe_code)]

mod context;
mod error;
mod eval;
mod functions;
mod numbers;
mod ops;
mod reference;
mod script;
mod template;

pub use context::Context;
pub use error::{ErrorKind, EvalError};
pub use eval::eval;
pub use numbers::round_significant;
pub use reference::{Reference, ReferenceKind, references};
pub use script::{RenderedScript, VALUE_LIMIT, VALUES_LIMIT, render_script};
pub use template::{eval_template, eval_text, eval_value, eval_words};

/// How many list items one evaluation may make.
pub const MAX_ITEMS: usize = 1_000_000;

/// How many bytes of text one evaluation may make.
pub const MAX_TEXT: usize = 16 << 20;
