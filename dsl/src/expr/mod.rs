//! Reads expressions.
