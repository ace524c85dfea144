//! YAML text as an arena tree with byte spans.
//!
//! Owns: the tree, the core schema with kept spellings, the limits on size, depth and number of nodes, and the words for
//! syntax errors. Aliases stay indices, so a file that would expand to billions of nodes costs what its text costs.
//!
//! Knows nothing of pipelines. Only `reader` names the parser crate.

mod hints;
mod place;
mod reader;
mod scalar;
mod tree;

pub(crate) use place::source_text;
pub(crate) use reader::read;
pub(crate) use scalar::core_schema;
pub(crate) use tree::{Kind, Node, NodeId, Style, Tree};

/// The most bytes that one file may have.
pub const MAX_BYTES: usize = 4 << 20;

/// The most collections that may stand inside one another, aliases counted as what they stand for.
pub const MAX_DEPTH: usize = 64;

/// The most nodes in a file, and the most nodes that decoding a pipeline may visit; those behind aliases count fourfold.
pub const MAX_NODES: usize = 250_000;

/// The most bytes of one scalar; a longer script or expression is refused anyway, by then with copies of it.
pub(crate) const MAX_SCALAR: usize = 1 << 20;
