//! Reads pipelines: YAML text to a typed pipeline, or to a list of diagnostics with spans.
#![forbid(unsafe_code)]
mod check;
mod expr;
mod script;
mod template;
mod text;
