//! The client's side of runs on a coordinator: `dagrun FILE --on HOST`, `attach`, `cancel`, `cluster status`.
//!
//! A run on a coordinator looks like one here: the same checks before, the same progress, and at its end the same exports, journal and
//! exit code, so that `show`, `log` and `report` answer as usual.

mod afar;
mod collect;
mod connect;
mod end;
mod follow;
mod submit;

pub(crate) use afar::{Afar, RunThere, StudiesThere};
pub(crate) use connect::{Remote, call_error, flags};
pub(crate) use follow::{attach, cancel};
pub(crate) use submit::run_on;
