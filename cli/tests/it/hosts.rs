//! The examples on workers and on hosts: the same digests as on one machine.
//!
//! Hosts are network namespaces with a cache each, that reach each other by TCP and TLS alone. The whole examples instead of small
//! ones: `DAGRUN_WHOLE_EXAMPLES=1 cargo test -p dagrun --test it -- hosts:: --nocapture`.

use std::{collections::BTreeMap, path::Path, process::Command};

use dagrun_testkit::{ClusterSettings, TestCluster, skip};
use serde_json::Value;

use crate::kit::{Project, dagrun, said};

/// An example's file, its folder, and what makes it small.
const EXAMPLES: [(&str, &str, &[&str]); 3] = [
    (
        "flu-1978",
        "pipeline.yaml",
        &[
            "transmission_steps=2",
            "recovery_steps=2",
            "replicates=2",
            "predictions=2",
        ],
    ),
    ("flu-1978", "calibrate.yaml", &["trials=5", "batches=1"]),
    ("calibrate", "pipeline.yaml", &["trials=3", "replicates=2"]),
];

/// The outputs of all nodes of the last run, by node.
type Digests = BTreeMap<String, Value>;

struct Example {
    project: Project,
    args: Vec<String>,
}

impl Example {
    fn new((name, file, small): (&str, &str, &[&str])) -> Self {
        let project = Project::new("");
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/pipelines");
        copy(&top.join(name), &project.dir());
        let is_whole = std::env::var_os("DAGRUN_WHOLE_EXAMPLES").is_some();
        let small = if is_whole { &[] } else { small };
        let params = small.iter().flat_map(|param| ["-p", param]);
        let words = [file, "--quiet"].into_iter().chain(params);
        Self {
            project,
            args: words.map(str::to_owned).collect(),
        }
    }

    fn digests(&self) -> Digests {
        let shown = self.project.last_run();
        let nodes = shown["nodes"].as_array().expect("a run has nodes");
        let rows = nodes.iter().map(|node| {
            assert_eq!(node["outcome"], "succeeded", "{node}");
            (node["id"].to_string(), node["outputs"].clone())
        });
        rows.collect()
    }

    /// Runs it with further arguments, in a project of its own.
    fn run_here(row: (&str, &str, &[&str]), more: &[&str]) -> Digests {
        let example = Self::new(row);
        let args = example.args.iter().map(String::as_str);
        let args: Vec<&str> = args.chain(more.iter().copied()).collect();
        example.project.ok(&args);
        example.digests()
    }

    fn run_on(row: (&str, &str, &[&str]), cluster: &TestCluster) -> Digests {
        let example = Self::new(row);
        let args: Vec<&str> = example.args.iter().map(String::as_str).collect();
        let mut client = cluster.client(&example.project.dir(), &args);
        let said = said(client.output().expect("dagrun can be started"));
        assert_eq!(said.code, 0, "{}\n{}", said.stderr, cluster.logs());
        example.digests()
    }
}

fn copy(from: &Path, to: &Path) {
    let mut tar = Command::new("cp");
    let copied = tar.arg("-rT").args([from, to]).status();
    assert!(copied.expect("cp can be started").success());
    for left in [".dagrun", "results"] {
        let _ = std::fs::remove_dir_all(to.join(left));
    }
}

#[test]
fn examples_have_the_same_digests_on_workers() {
    for row in EXAMPLES {
        let alone = Example::run_here(row, &[]);
        assert!(alone.len() > 5, "{alone:?}");
        assert_eq!(
            Example::run_here(row, &["--workers", "4"]),
            alone,
            "{row:?}"
        );
    }
}

#[test]
fn examples_have_the_same_digests_on_three_hosts() {
    let test = "examples_have_the_same_digests_on_three_hosts";
    let cluster = TestCluster::on_hosts(dagrun(), 3, ClusterSettings::default());
    let cluster = skip!(test, cluster);
    for row in EXAMPLES {
        let alone = Example::run_here(row, &[]);
        assert_eq!(Example::run_on(row, &cluster), alone, "{row:?}");
    }
}
