//! The page is well formed, obeys nobody, says what the data say, and stays small.

use dagrun_events::{NodeOutcome, RunEvent};
use dagrun_model::{AttemptResult, BlobRef, Digest, FailureCause, LogRef, Outcome};

use super::*;
use crate::kit::{done, ended, fold, start};

const NASTY: &str = "a[x=\"<b>&'\u{1b}[2J\"]";

/// A run with a failed node that prints what a page must not obey, and a hit.
fn state(stderr: &str) -> RunState {
    let mut result = AttemptResult::bare(Outcome::Failed(FailureCause::Exit {
        code: 3,
        step: String::new(),
    }));
    result.phases.compute = 4.0;
    result.stderr = Some(LogRef {
        blob: BlobRef {
            digest: Digest::empty(),
            size: 0,
            executable: false,
        },
        total: 0,
        tail: stderr.into(),
    });
    let row = |name: &str, value: serde_json::Value, origin: &str| ParamRow {
        name: name.into(),
        value,
        origin: origin.into(),
    };
    let events = [
        RunEvent::RunStarted(Box::new(RunStarted {
            run: "r1".into(),
            pipeline: "sample".into(),
            path: "my pipe.yaml".into(),
            params: vec![
                row("n", 3.into(), "command line"),
                row("s", "x y".into(), "command line"),
                row("m", 1.into(), "default"),
            ],
            settings: vec![row("jobs", "2".into(), "default")],
            ..RunStarted::default()
        })),
        RunEvent::WorkerJoined {
            worker: 0,
            host: "here".into(),
            slots: 2.0,
            memory: 0,
            process: String::new(),
        },
        start(NASTY, 1, None),
        ended(NASTY, 1, &result),
        done(NASTY, NodeOutcome::Failed),
        done("b", NodeOutcome::Cached),
        RunEvent::RunEnded {
            exit_code: 1,
            counts: NodeCounts::default(),
            plan: None,
            wall: 10.0,
        },
    ];
    let times = (0..).map(|i| 1000.0 + 4.0 * f64::from(i));
    fold(times.zip(events))
}

/// Names of elements in order; wants every element that is opened to be closed in its turn.
fn elements(page: &str) -> Vec<String> {
    let void = ["meta", "br"];
    let (mut open, mut all) = (Vec::new(), Vec::new());
    let mut rest = page.strip_prefix("<!doctype html>").expect("it is HTML");
    while let Some(at) = rest.find('<') {
        let tag = &rest[at + 1..];
        let end = tag.find('>').expect("a tag ends");
        let inside = &tag[..end];
        rest = &tag[end + 1..];
        if let Some(name) = inside.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "{rest:.80}");
            continue;
        }
        let name = inside.split([' ', '/', '\n']).next().unwrap().to_string();
        all.push(name.clone());
        let is_closed = inside.ends_with('/');
        if ["script", "style"].contains(&name.as_str()) {
            let close = format!("</{name}>");
            let end = rest.find(&close).expect("it is closed");
            rest = &rest[end + close.len()..];
        } else if !is_closed && !void.contains(&name.as_str()) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
    all
}

#[test]
fn the_page_is_well_formed_whatever_nodes_print() {
    let page = html(
        &state("</script><script>alert(1)</script>\n</pre><!-- \u{1b}[31m & \u{202e}"),
        &BTreeMap::new(),
        &[],
    );
    let all = elements(&page);
    for name in ["h1", "svg", "rect", "table", "details", "pre", "title"] {
        assert!(all.iter().any(|element| element == name), "no {name}");
    }
    // One element of data, and nothing that runs.
    assert_eq!(all.iter().filter(|name| *name == "script").count(), 1);
    for text in [
        "&lt;/script&gt;&lt;script&gt;alert(1)",
        "a[x=&quot;&lt;b&gt;&amp;&#39;\\u{1b}[2J&quot;]",
        "<b class=\"bad\">ended with exit code 1</b> after 10.0 s",
        "Where the time of slots went",
        "default-src 'none'",
    ] {
        assert!(page.contains(text), "no {text}");
    }
    let seen = &page[..page.find("<script").expect("there is data")];
    assert!(!page.contains('\u{1b}') && !seen.contains('\u{202e}'));
    assert!(!page.contains("http://") && !page.contains("https://"));
}

#[test]
fn the_data_of_the_page_are_those_of_the_report() {
    let state = state("</script>");
    let page = html(&state, &BTreeMap::new(), &[]);
    let begin = "id=\"data\">";
    let at = page.find(begin).expect("there is data") + begin.len();
    let end = at + page[at..].find("</script>").expect("it ends");
    let data: serde_json::Value = serde_json::from_str(&page[at..end]).expect("it is JSON");
    assert_eq!(data, data::report(&state, &BTreeMap::new()));
    assert_eq!(data["failures"][0]["stderr"], "</script>");
    assert_eq!(data["failures"][0]["nodes"][0], NASTY);
    assert_eq!(data["jobs"][0]["p95"], 4.0);
    assert_eq!(data["settings"][0]["origin"], "default");
    assert_eq!(
        data::rerun(&state, "a[x=1]"),
        "dagrun 'my pipe.yaml' -p n=3 -p 's=x y' --only 'a[x=1]'"
    );
}

#[test]
fn a_run_that_never_began_has_a_page() {
    elements(&html(&RunState::default(), &BTreeMap::new(), &[]));
}

#[test]
fn the_page_of_a_long_run_stays_small() {
    let mut result = AttemptResult::bare(Outcome::Succeeded(Default::default()));
    result.phases.compute = 0.01;
    let (attempts, slots) = (20_000_u64, 4);
    let mut events = Vec::new();
    for attempt in 0..attempts {
        let begin = (attempt / slots) as f64 * 0.01;
        let node = format!("a[i={attempt}]");
        events.push((begin, start(&node, attempt, None)));
        if attempt % 2 == 0 {
            events.push((begin + 0.01, ended(&node, attempt, &result)));
        } else {
            // Each fails in its own way.
            let cause = FailureCause::Engine {
                message: format!("trouble {attempt}"),
            };
            let result = AttemptResult::bare(Outcome::Failed(cause));
            events.push((begin + 0.01, ended(&node, attempt, &result)));
            events.push((begin + 0.01, done(&node, NodeOutcome::Failed)));
        }
    }
    events.sort_by(|a, b| a.0.total_cmp(&b.0));
    let page = html(&fold(events), &BTreeMap::new(), &[]);
    assert!(page.len() < 3_000_000, "{} bytes", page.len());
}

/// A study of four trials, one of which failed.
fn studied(succeeded: bool) -> RunState {
    let told = |trial: u64, value: Option<f64>, best: f64| RunEvent::TrialEnded {
        trial,
        values: value.into_iter().collect(),
        reason: value
            .is_none()
            .then(|| format!("`a[trial={trial}]` says <b>")),
        seconds: 1.0,
        replicates: 2,
        nodes: 7,
        hits: 1,
        naive: 12,
        best: Some((1, best)),
    };
    let begun = |trial: u64| RunEvent::TrialStarted {
        trial,
        params: serde_json::json!({"x": trial, "s": "<i>"}),
    };
    let events = [
        RunEvent::StudyOpened {
            study: "s<1>".into(),
            trials: 4,
            told: 0,
            objectives: vec!["lo<ss".into()],
        },
        begun(1),
        begun(2),
        begun(3),
        told(1, Some(2.0), 2.0),
        told(2, None, 2.0),
        done("a[trial=2]", NodeOutcome::Failed),
        told(3, Some(1e9), 2.0),
        RunEvent::StudyEnded {
            reason: "all <done>".into(),
            told: 3,
            failed: 1,
            succeeded,
            best: Some((1, 2.0)),
        },
    ];
    fold((0..).map(|i| 1000.0 + f64::from(i)).zip(events))
}

#[test]
fn a_study_is_on_the_page_with_its_curve() {
    let state = studied(true);
    let page = html(&state, &BTreeMap::new(), &[]);
    let all = elements(&page);
    assert!(all.iter().any(|name| name == "path"), "no curve");
    // Dots are round at any width, and values have marks.
    assert_eq!(page.matches("<circle class=\"trial\" cx=\"").count(), 2);
    for text in ["logarithmic scale", "%\">1000</span>"] {
        assert!(page.contains(text), "no {text} in {page}");
    }
    for text in [
        "<h2>Study s&lt;1&gt;</h2>",
        "3 of 4 trials ended, 1 failed; <b class=\"good\">all &lt;done&gt;</b>",
        "<b>lo&lt;ss = 2.0</b> in trial 1 (s=&lt;i&gt;, x=1)",
        "21 nodes in trials, 3 of them hits; an engine without deduplication would run 36",
        "<td>`a` says &lt;b&gt;</td><td>trial 2</td>",
    ] {
        assert!(page.contains(text), "no {text} in {page}");
    }
    assert!(!page.contains("earlier runs"));
    let mut later = state.clone();
    later.study.as_mut().unwrap().told_before = 20;
    let page = html(&later, &BTreeMap::new(), &[]);
    assert!(page.contains("; 20 trials of earlier runs are not drawn<"));
    // Where they are known they stand before those of this run.
    let trials: Vec<EarlierTrial> = (1..=20)
        .map(|trial| EarlierTrial {
            trial,
            value: 30.0 - trial as f64,
            feasible: true,
        })
        .collect();
    let page = html(&later, &BTreeMap::new(), &trials);
    elements(&page);
    assert!(
        page.contains("; 20 trials of earlier runs are pale, and before the time of this one<")
    );
    assert_eq!(page.matches("class=\"trial earlier\"").count(), 20);
    assert!(page.contains("<title>trial 20: 10.0</title>"), "{page}");
    assert!(page.contains("<line class=\"now\" x1=\"50.00%\""), "{page}");
    // A trial that failed is a value, and no failure of the run.
    assert!(!page.contains("<section id=\"failures\">"));
    assert_eq!(
        data::report(&state, &BTreeMap::new())["study"]["failed_now"],
        1
    );
}

#[test]
fn a_failed_study_fails_the_run_and_a_failed_trial_does_not() {
    for (succeeded, junit_failures, level) in [(true, 0, "::warning"), (false, 2, "::error")] {
        let state = studied(succeeded);
        let text = crate::junit(&state);
        let head = format!("tests=\"2\" failures=\"{junit_failures}\"");
        assert!(text.contains(&head), "{text}");
        let lines = crate::annotations(&state);
        assert!(lines[0].starts_with(level), "{lines:?}");
        assert_eq!(crate::failure_groups(&state).is_empty(), succeeded);
    }
}

/// A run of 10 s with a chain of two nodes, each of so many seconds, and `exports` exported files.
fn chain(seconds: f64, exports: usize) -> String {
    let mut result = AttemptResult::bare(Outcome::Succeeded(Default::default()));
    result.phases.compute = seconds;
    let mut events = vec![
        start("a", 1, None),
        ended("a", 1, &result),
        done("a", NodeOutcome::Succeeded),
        start("b", 2, Some("a")),
        ended("b", 2, &result),
        done("b", NodeOutcome::Succeeded),
    ];
    events.extend((0..exports).map(|n| RunEvent::Exported {
        target: format!("out/{n}"),
        node: "b".into(),
        output: "o".into(),
    }));
    events.push(RunEvent::RunEnded {
        exit_code: 0,
        counts: NodeCounts::default(),
        plan: None,
        wall: 10.0,
    });
    let times = [1.0, 1.0 + seconds, 1.0 + seconds, 2.0 + seconds];
    let ends = std::iter::repeat(2.0 + 2.0 * seconds);
    html(
        &fold(times.into_iter().chain(ends).zip(events)),
        &BTreeMap::new(),
        &[],
    )
}

#[test]
fn the_path_limits_a_run_only_where_it_takes_most_of_it() {
    assert!(chain(4.0, 0).contains("The run can only be shorter where one of them is"));
    let page = chain(1.0, 0);
    assert!(page.contains("what limits the run is its slots"), "{page}");
    assert!(!page.contains("can only be shorter"));
}

#[test]
fn of_many_exports_the_first_are_listed() {
    let page = chain(1.0, 121);
    assert!(page.contains("out/9<"));
    assert!(!page.contains("out/10<"));
    assert!(page.contains("and 111 more"));
}
