//! Seeded simulation of the scheduler.

mod build;

pub use build::PlanBuilder;
