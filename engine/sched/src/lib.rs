//! The scheduler: events in, actions out.
//!
//! Owns: the state of every node, the ready queue, placement, retries, losses, speculation, cancellation and draining.
//! Knows nothing of time, files, processes, names or commands: time is an argument, what to do is a list of [`Action`]s
//! that the driver executes in order.

#![forbid(unsafe_code)]

mod event;

pub use event::*;
