//! Workflow commands that GitHub Actions shows beside a run.

use dagrun_events::RunState;

use crate::{
    plural,
    statistics::{is_value, stderr, why_failed},
    study_text,
};

/// Annotations are cut here: GitHub shows ten of each kind for a step.
const MOST: usize = 10;

/// A line for each failed node, of the form `::error title=...::...`, and one for the study: a warning where trials failed, an
/// error where it did itself. Nodes of trials whose failure is a value of the study have none.
///
/// Reference: GitHub's "Workflow commands for GitHub Actions"; `%`, CR and LF are percent-encoded, and `:` and `,` in properties.
pub fn annotations(state: &RunState) -> Vec<String> {
    let path = state
        .started
        .as_ref()
        .map_or("", |started| started.path.as_str());
    let nodes = state
        .nodes
        .iter()
        .filter(|node| !is_value(state, node))
        .filter_map(|node| Some((node, why_failed(state, node)?)))
        .take(MOST)
        .map(|(node, mut message)| {
            if let Some(log) = stderr(state, node) {
                message.push('\n');
                message.push_str(&log.tail);
            }
            format!(
                "::error file={},title={}::{}",
                property(path),
                property(&format!("{} failed", node.id)),
                data(&message)
            )
        });
    study(state, path).into_iter().chain(nodes).collect()
}

fn study(state: &RunState, path: &str) -> Option<String> {
    let study = state.study.as_ref()?;
    let (level, title) = match (study.has_failed(), study.failed_now) {
        (true, _) => ("error", format!("study {} failed", study.study)),
        (false, 0) => return None,
        (false, n) => ("warning", format!("{} failed", plural(n, "trial"))),
    };
    Some(format!(
        "::{level} file={},title={}::{}",
        property(path),
        property(&title),
        data(study_text(state).trim_end())
    ))
}

fn data(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '%' => safe.push_str("%25"),
            '\r' => safe.push_str("%0D"),
            '\n' => safe.push_str("%0A"),
            '\t' => safe.push(c),
            // A terminal or a web page must not obey what a node printed.
            c if c.is_control() => safe.extend(c.escape_default()),
            c => safe.push(c),
        }
    }
    safe
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_an_annotation_early() {
        assert_eq!(data("a%\n::b"), "a%25%0A::b");
        assert_eq!(data("\u{1b}[2J"), "\\u{1b}[2J");
        assert_eq!(property("a[b=1,c=2]: x"), "a[b=1%2Cc=2]%3A x");
    }
}
