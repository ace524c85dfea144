//! What plans come to, from the text of a pipeline to keys and actions.

mod files;
mod world;
