//! The real binary on real pipelines, with real processes.

mod basics;
mod clock;
mod cluster;
mod contract;
mod credentials;
mod docs;
mod failures;
mod faults;
mod hostile;
mod hosts;
mod kit;
mod places;
mod rings;
mod serve;
mod shared;
mod stopping;
mod studies;
mod study_faults;
