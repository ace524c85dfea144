//! The vocabulary that every other crate shares.
//!
//! Owns: digests and content hashing, typed ids, values, spans and diagnostics, the typed [`Pipeline`] with its
//! [`Expr`]essions, what a plan hands to the scheduler ([`PlanDelta`]), what a worker is asked to do ([`Action`]) and what
//! it answers ([`AttemptResult`]).
//!
//! Knows nothing of files, clocks, the environment, randomness or any executor: it does no I/O and so cannot fail but on
//! malformed data.

#![forbid(unsafe_code)]

mod action;
mod diagnostic;
mod digest;
mod duration;
mod expr;
mod id;
mod outcome;
mod paged;
mod path;
mod pipeline;
mod plan;
mod resources;
mod study;
mod value;

pub use action::*;
pub use diagnostic::*;
pub use digest::*;
pub use duration::*;
pub use expr::*;
pub use id::*;
pub use outcome::*;
pub use paged::*;
pub use path::*;
pub use pipeline::*;
pub use plan::*;
pub use resources::*;
pub use study::*;
pub use value::*;
