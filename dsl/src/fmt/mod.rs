//! One spelling for pipeline files, by editing the text: comments, anchors, quotes and the order of keys stay.
//!
//! Owns: spaces, indentation and blank lines. Two steps, each on what the one before it made: [`spacing`] works between
//! the values, [`indent`] on the first columns of lines. The values before and after are compared, and a step that would
//! change one is left out.
//!
//! Knows nothing of pipelines: any YAML document within the limits can be formatted.

mod indent;
mod spacing;

use dagrun_model::{Diagnostic, FileIx, Span};

use crate::yaml::{self, Kind, NodeId, Tree};

/// Formats a file: indentation by two, no blanks at line ends, at most one blank line, `{a: 1}` and `[a, b]`, a space
/// after `#`, one line break at the end.
///
/// The values of the file stay as they are, and a formatted file comes out unchanged.
///
/// # Errors
/// What is wrong with the text as YAML. The spans are in a file of index 0.
pub fn fmt(text: &str) -> Result<String, Vec<Diagnostic>> {
    let file = FileIx(0);
    let Some(before) = yaml::read(file, text)? else {
        return Ok(spacing::comments_only(text));
    };
    // Old-style line ends would count as blanks at line ends.
    let unix = text.replace("\r\n", "\n");
    let spaced = step(&unix, text, &before, spacing::spaced);
    let indented = step(&spaced, text, &before, indent::indented);
    // Moving lines can bring blanks to new places.
    let formatted = step(&indented, text, &before, spacing::spaced);
    match yaml::read(file, &formatted) {
        Ok(Some(after)) if same(&before, text, &after, &formatted) => Ok(formatted),
        _ => Err(vec![
            Diagnostic::error(
                "cannot-format",
                Span::new(file, 0, 0),
                "this file cannot be formatted without changing a value",
            )
            .help("write it in a plainer style"),
        ]),
    }
}

/// Applies a step, unless a value would change by it.
fn step(now: &str, original: &str, before: &Tree, edit: fn(&str, &Tree) -> String) -> String {
    let Ok(Some(tree)) = yaml::read(FileIx(0), now) else {
        return now.to_owned();
    };
    let edited = edit(now, &tree);
    match yaml::read(FileIx(0), &edited) {
        Ok(Some(after)) if same(before, original, &after, &edited) => edited,
        _ => now.to_owned(),
    }
}

/// Whether two documents have the same values, aliases and styles.
fn same(a: &Tree, a_text: &str, b: &Tree, b_text: &str) -> bool {
    a.nodes().len() == b.nodes().len()
        && (0..a.nodes().len() as u32).all(|i| same_node(a, a_text, b, b_text, NodeId::new(i)))
}

fn same_node(a: &Tree, a_text: &str, b: &Tree, b_text: &str, id: NodeId) -> bool {
    let (left, right) = (a.node(id), b.node(id));
    let kinds = match (&left.kind, &right.kind) {
        (Kind::Scalar(x, _), Kind::Scalar(y, _)) => {
            x == y && a.text(id, a_text) == b.text(id, b_text)
        }
        (Kind::List(x), Kind::List(y)) => x == y,
        (Kind::Map(x), Kind::Map(y)) => x == y,
        (Kind::Alias(x), Kind::Alias(y)) => x == y,
        _ => false,
    };
    kinds && left.tag == right.tag
}

#[cfg(test)]
mod tests;
