//! Outputs that would be one file on some file system.

use dagrun_model::{Output, RelPath};
use rustc_hash::FxHashMap;

/// The outputs of a job so far, by what file systems without case make of their names and paths: the position of the first of each.
#[derive(Default)]
pub(super) struct Seen {
    names: FxHashMap<String, usize>,
    paths: FxHashMap<String, usize>,
}

impl Seen {
    /// Notes the name of output `ix`; gives an earlier one that differs in case alone.
    pub(super) fn name(&mut self, name: &str, ix: usize) -> Option<usize> {
        first(&mut self.names, name, ix)
    }

    /// Notes the path of output `ix`; gives an earlier one that is the same where case does not count.
    pub(super) fn path(&mut self, path: &RelPath, ix: usize) -> Option<usize> {
        first(&mut self.paths, path.as_str(), ix)
    }
}

fn first(seen: &mut FxHashMap<String, usize>, text: &str, ix: usize) -> Option<usize> {
    let first = *seen.entry(text.to_lowercase()).or_insert(ix);
    (first != ix).then_some(first)
}

/// The path of an output, where no expression decides it.
pub(super) fn literal_path(output: &Output) -> Option<RelPath> {
    RelPath::new(output.path.as_text()?).ok()
}
