//! The suite that every executor passes, on the local executor.

mod common;

dagrun_executor_api::conformance_tests!(common::fixture);
