//! JUnit XML, as Jenkins and GitLab read it: a suite for each job, a case for each node.

use std::{collections::BTreeMap, fmt::Write as _};

use dagrun_events::{NodeOutcome, NodeRow, RunState};

use crate::{
    escape::entities,
    job_of,
    statistics::{stderr, why_failed},
};

/// The run as a JUnit document.
pub fn junit(state: &RunState) -> String {
    let mut suites: BTreeMap<&str, Vec<&NodeRow>> = BTreeMap::new();
    for node in &state.nodes {
        suites.entry(job_of(&node.id)).or_default().push(node);
    }
    let name = state
        .started
        .as_ref()
        .map_or("dagrun", |started| started.pipeline.as_str());
    let failures = |nodes: &[&NodeRow]| {
        nodes
            .iter()
            .filter(|node| node.outcome == Some(NodeOutcome::Failed))
            .count()
    };
    let all: Vec<&NodeRow> = state.nodes.iter().collect();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"{}\" tests=\"{}\" failures=\"{}\" time=\"{:.3}\">\n",
        escape(name),
        all.len(),
        failures(&all),
        state.wall
    );
    for (job, nodes) in suites {
        let skipped = nodes.iter().filter(|node| is_skipped(node)).count();
        let seconds: f64 = nodes.iter().map(|node| state.phases(node).total()).sum();
        let _ = writeln!(
            text,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{skipped}\" time=\"{seconds:.3}\">",
            escape(job),
            nodes.len(),
            failures(&nodes)
        );
        for node in nodes {
            case(state, job, node, &mut text);
        }
        text.push_str("  </testsuite>\n");
    }
    text.push_str("</testsuites>\n");
    text
}

fn is_skipped(node: &NodeRow) -> bool {
    !matches!(
        node.outcome,
        Some(NodeOutcome::Succeeded | NodeOutcome::Cached | NodeOutcome::Failed)
    )
}

fn case(state: &RunState, job: &str, node: &NodeRow, text: &mut String) {
    let seconds = state.phases(node).total();
    let _ = write!(
        text,
        "    <testcase classname=\"{}\" name=\"{}\" time=\"{seconds:.3}\"",
        escape(job),
        escape(&node.id)
    );
    if let Some(message) = why_failed(state, node) {
        let tail = stderr(state, node).map_or("", |log| log.tail.as_str());
        let _ = write!(
            text,
            ">\n      <failure message=\"{}\">{}</failure>\n    </testcase>\n",
            escape(&message),
            escape(tail)
        );
    } else if is_skipped(node) {
        let why = node.because.as_deref().map_or_else(
            || "not run".into(),
            |because| format!("because of {because}"),
        );
        let _ = write!(
            text,
            ">\n      <skipped message=\"{}\"/>\n    </testcase>\n",
            escape(&why)
        );
    } else {
        text.push_str("/>\n");
    }
}

/// XML has no way to write most control characters: they become U+FFFD.
fn escape(text: &str) -> String {
    let shown = |c| match c {
        '\n' | '\t' => c,
        c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => '\u{fffd}',
        c => c,
    };
    entities(&text.chars().map(shown).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::{done, fold};

    #[test]
    fn cases_are_well_formed_whatever_nodes_print() {
        let mut skipped = done("b", NodeOutcome::Skipped);
        if let dagrun_events::RunEvent::NodeDone { because, .. } = &mut skipped {
            *because = Some("a<b>".into());
        }
        let text = junit(&fold([
            (1.0, done("a[x=\"<&\"]", NodeOutcome::Failed)),
            (1.0, skipped),
            (1.0, done("c", NodeOutcome::Cached)),
        ]));
        assert!(
            text.contains("name=\"a[x=&quot;&lt;&amp;&quot;]\""),
            "{text}"
        );
        assert!(text.contains("tests=\"3\" failures=\"1\""), "{text}");
        assert!(
            text.contains("<skipped message=\"because of a&lt;b&gt;\"/>"),
            "{text}"
        );
        assert_eq!(escape("\u{1b}[31m"), "\u{fffd}[31m");
    }
}
