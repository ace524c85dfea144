//! What plans come to, from the text of a pipeline to keys and actions.

mod actions;
mod axes;
mod conditions;
mod files;
mod keys;
mod oracle;
mod selection;
mod study;
mod world;
