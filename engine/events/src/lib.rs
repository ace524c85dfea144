//! What a run says of itself, and how that is kept on disk.
//!
//! Owns: [`RunEvent`] (the one versioned event schema), the check-summed record format of the journal ([`journal`]), and
//! [`RunState`], the fold of events that every screen and report starts from.
//!
//! Knows nothing of files, clocks, schedulers or executors: bytes come in and go out.
//!
//! Change rule: fields may be added with a default, events may be added (old readers see [`RunEvent::Unknown`]); anything
//! else needs a new [`FORMAT`].

#![forbid(unsafe_code)]

mod event;
mod fold;
mod heading;
pub mod journal;
mod trials;
mod write;

pub use event::*;
pub use fold::*;
pub use heading::*;
pub use trials::*;
