//! JUnit XML, as Jenkins and GitLab read it: a suite for each job, a case for each node; a suite with one case for the study.

use std::{collections::BTreeMap, fmt::Write as _};

use dagrun_events::{NodeOutcome, NodeRow, RunState, StudyRow};

use crate::{
    escape::entities,
    job_of,
    statistics::{is_value, stderr, why_failed},
    study_text,
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
            .filter(|node| node.outcome == Some(NodeOutcome::Failed) && !is_value(state, node))
            .count()
    };
    let all: Vec<&NodeRow> = state.nodes.iter().collect();
    let study = state.study.as_ref().filter(|study| study.end.is_some());
    let study_failed = study.is_some_and(|study| study.has_failed());
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"{}\" tests=\"{}\" failures=\"{}\" time=\"{:.3}\">\n",
        escape(name),
        all.len() + usize::from(study.is_some()),
        failures(&all) + usize::from(study_failed),
        state.wall
    );
    for (job, nodes) in suites {
        let skipped = nodes.iter().filter(|node| is_skipped(state, node)).count();
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
    if let Some(study) = study {
        of_study(state, study, &mut text);
    }
    text.push_str("</testsuites>\n");
    text
}

fn of_study(state: &RunState, study: &StudyRow, text: &mut String) {
    let (name, failed) = (escape(&study.study), study.has_failed());
    let _ = writeln!(
        text,
        "  <testsuite name=\"study\" tests=\"1\" failures=\"{}\" errors=\"0\" skipped=\"0\" time=\"{:.3}\">",
        u8::from(failed),
        state.wall
    );
    let said = escape(&study_text(state));
    let _ = match failed {
        true => {
            let reason = study.end.as_ref().map_or("", |end| end.reason.as_str());
            writeln!(
                text,
                "    <testcase classname=\"study\" name=\"{name}\" time=\"{:.3}\">\n      <failure message=\"{}\">{said}</failure>\n    </testcase>",
                state.wall,
                escape(reason)
            )
        }
        false => writeln!(
            text,
            "    <testcase classname=\"study\" name=\"{name}\" time=\"{:.3}\">\n      <system-out>{said}</system-out>\n    </testcase>",
            state.wall
        ),
    };
    text.push_str("  </testsuite>\n");
}

/// A node that failed in a trial is no test that failed: the study has the failure as a value.
fn is_skipped(state: &RunState, node: &NodeRow) -> bool {
    match node.outcome {
        Some(NodeOutcome::Succeeded | NodeOutcome::Cached) => false,
        Some(NodeOutcome::Failed) => is_value(state, node),
        _ => true,
    }
}

fn case(state: &RunState, job: &str, node: &NodeRow, text: &mut String) {
    let seconds = state.phases(node).total();
    let _ = write!(
        text,
        "    <testcase classname=\"{}\" name=\"{}\" time=\"{seconds:.3}\"",
        escape(job),
        escape(&node.id)
    );
    let failed = why_failed(state, node);
    let (failed, value) = match is_value(state, node) {
        true => (None, failed),
        false => (failed, None),
    };
    if let Some(message) = failed {
        let tail = stderr(state, node).map_or("", |log| log.tail.as_str());
        let _ = write!(
            text,
            ">\n      <failure message=\"{}\">{}</failure>\n    </testcase>\n",
            escape(&message),
            escape(tail)
        );
    } else if is_skipped(state, node) {
        let why = match (value, node.because.as_deref()) {
            (Some(why), _) => format!("its trial failed: {why}"),
            (None, Some(because)) => format!("because of {because}"),
            (None, None) => "not run".into(),
        };
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
