//! The worker's side: its connection to a coordinator, and the attempts that it holds for it.
//!
//! Owns: [`Core`], the state machine that decides when to connect, what to hand to the local executor, and what to tell of
//! it. Knows nothing of sockets, clocks, files or how nodes run: `worker` carries out what it says.
//!
//! What it promises: a result is kept until the coordinator says that it is settled; an attempt that nobody waits for is ended;
//! and what a former connection, or a coordinator that was replaced, still says changes nothing.

mod core;
mod held;

pub use self::core::{Config, Core, Effect, Event, Exit, Link};
