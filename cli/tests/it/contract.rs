//! What scripts depend on: counts and rows of `plan --json` and `show --json`, exit codes, NDJSON, JUnit.

use serde_json::{Value, json};

use crate::kit::Project;

const TRIALS: &str = r#"
dagrun: 1
name: trials
params:
  replicates: {type: int, default: 5}
jobs:
  simulate:
    replicates: ${{ params.replicates }}
    outputs: {o: o.txt}
    run: echo ${{ replicate.seed }} > ${{ outputs.o }}
  score:
    needs: simulate
    matrix: {target: [a, b]}
    inputs: {sims: "${{ needs.simulate.outputs.o }}"}
    outputs: {loss: {json: loss.json, pointer: /loss}}
    run: |
      echo "{\"loss\": $(cat ${{ inputs.sims }} | wc -l), \"of\": \"${{ matrix.target }}\"}" > loss.json
"#;

#[test]
fn counts_of_a_trial() {
    let project = Project::new(TRIALS);
    let plan = project.json(&["plan", "--json"]);
    assert_eq!(plan["counts"], json!({"naive": 12, "nodes": 7, "units": 6}));
    let plan = project.json(&["plan", "--json", "-p", "replicates=10"]);
    assert_eq!(
        plan["counts"],
        json!({"naive": 22, "nodes": 12, "units": 11})
    );
}

#[test]
fn rows_of_plan_and_show() {
    let project = Project::new(TRIALS);
    let states = |plan: &Value| -> Vec<String> {
        plan["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| node["state"].as_str().unwrap().to_string())
            .collect()
    };
    let plan = project.json(&["plan", "pipeline.yaml", "--json"]);
    assert_eq!(
        states(&plan),
        ["run", "run", "run", "run", "run", "unknown", "unknown"]
    );
    let first = &plan["nodes"][0];
    assert_eq!(first["id"], "simulate[replicate=0]");
    assert_eq!(first["ids"], json!(["simulate[replicate=0]"]));
    assert_eq!(first["key"].as_str().unwrap().len(), 64);
    assert_eq!(first["cause"], "never_ran");

    project.ok(&["run", "pipeline.yaml"]);
    let shown = project.last_run();
    assert_eq!(
        shown["counts"],
        json!({"succeeded": 7, "cached": 0, "failed": 0, "skipped": 0, "cancelled": 0})
    );
    assert_eq!(shown["executed"], 7);
    assert!(shown["wall"].as_f64().unwrap() > 0.0);
    let score = shown["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|node| node["id"] == "score[target=a]")
        .unwrap();
    assert_eq!(score["outcome"], "succeeded");
    assert_eq!(
        score["outputs"]["loss"]["digest"].as_str().unwrap().len(),
        64
    );
    assert!(score["outputs"]["loss"]["size"].as_u64().unwrap() > 0);
    assert!(score["phases"]["compute"].as_f64().unwrap() >= 0.0);

    assert!(
        states(&project.json(&["plan", "--json"]))
            .iter()
            .all(|state| state == "hit")
    );
    assert_eq!(
        project.json(&["runs", "--json"]).as_array().unwrap().len(),
        1
    );
}

#[test]
fn a_cell_whose_if_is_false_is_a_skip() {
    let project = Project::new(
        "dagrun: 1\nname: conditional\njobs:\n  a:\n    matrix: {x: [1, 2]}\n    if: ${{ matrix.x == 1 }}\n    run: echo ${{ matrix.x }}\n",
    );
    let plan = project.json(&["plan", "--json"]);
    let rows: Vec<(&str, &str)> = plan["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| (n["id"].as_str().unwrap(), n["state"].as_str().unwrap()))
        .collect();
    assert_eq!(rows, [("a[x=1]", "run"), ("a[x=2]", "skip")]);
    project.ok(&["run"]);
}

#[test]
fn events_junit_and_profile() {
    let project = Project::new(&format!(
        "{TRIALS}report: {{junit: out/junit.xml, annotations: github}}\n"
    ));
    project.ok(&[
        "run",
        "--events",
        "events.ndjson",
        "--profile",
        "trace.json",
        "--json",
    ]);
    let kinds: Vec<String> = project
        .read("events.ndjson")
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["event"]
                .as_str()
                .unwrap()
                .to_string()
        })
        .collect();
    assert_eq!(kinds.first().map(String::as_str), Some("run_started"));
    assert_eq!(kinds.last().map(String::as_str), Some("run_ended"));
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| *kind == "attempt_started")
            .count(),
        7
    );
    assert!(project.read("out/junit.xml").contains("testcase"));
    let trace: Value = serde_json::from_str(&project.read("trace.json")).unwrap();
    assert!(
        trace["traceEvents"]
            .as_array()
            .is_some_and(|events| events.len() >= 7)
    );
}

#[test]
fn exit_codes() {
    let project = Project::new("dagrun: 1\nname: bad\njobs:\n  a:\n    run: exit 3\n");
    project.fails(1, &["run"]).has("exit code 3");
    project.write(
        "pipeline.yaml",
        "dagrun: 1\nname: bad\njobs:\n  a:\n    rum: exit 3\n",
    );
    project.fails(2, &["run"]).has("rum").has("did you mean");
    project
        .fails(2, &["run", "nowhere.yaml"])
        .has("nowhere.yaml");
    project.fails(2, &["frobnicate"]);
    let said = project
        .command(&["plan"])
        .env("DAGRUN_CACHE", "/proc/nowhere")
        .output()
        .unwrap();
    assert_ne!(said.status.code(), Some(0));
}

#[test]
fn colour_is_off_where_it_is_not_wanted() {
    let project = Project::new("dagrun: 1\nname: c\njobs:\n  a:\n    run: exit 1\n");
    project.fails(1, &["run"]).has_not("\u{1b}[");
    project
        .fails(1, &["run", "--color", "always"])
        .has("\u{1b}[");
    project
        .fails(1, &["run", "--color", "never"])
        .has_not("\u{1b}[");
}

#[test]
fn a_run_has_a_report_as_text_as_json_and_as_a_page() {
    let project = Project::new(TRIALS);
    project.ok(&["run", "-p", "replicates=3"]);
    project.ok(&["run", "-p", "replicates=3"]);
    // The hits of a run in which nothing ran are weighed by the run before.
    project
        .ok(&["report"])
        .has("5 hits saved about")
        .has("simulate");
    let report = project.json(&["report", "--json"]);
    assert_eq!(report["jobs"][0]["name"], "simulate");
    assert_eq!(report["jobs"][0]["cached"], 3);
    assert!(report["saved"].as_f64().unwrap() > 0.0);
    let origin = |of: &str, name: &str| {
        let rows = report[of].as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == name);
        row.unwrap()["origin"].as_str().unwrap().to_string()
    };
    assert_eq!(origin("params", "replicates"), "command line");
    assert_eq!(origin("settings", "cache"), "environment DAGRUN_CACHE");

    let first = project.json(&["runs", "--json"])[0]["run"].clone();
    project.ok(&["report", first.as_str().unwrap(), "--html", "out/page.html"]);
    let page = project.read("out/page.html");
    assert!(page.starts_with("<!doctype html>") && page.contains("id=\"timeline\""));
    let said = project.ok(&["report", "--html", "-"]);
    assert!(said.stdout.trim_end().ends_with("</html>"));
}

#[test]
fn exported_paths_are_told_as_seen_from_here() {
    let project = Project::new("");
    project.write(
        "sub/pipeline.yaml",
        "dagrun: 1\nname: e\njobs:\n  a:\n    outputs: {o: o.txt}\n    run: echo 1 > o.txt\nexport:\n  out/o.txt: ${{ jobs.a.outputs.o }}\n",
    );
    project
        .ok(&["run", "sub/pipeline.yaml"])
        .has("wrote sub/out/o.txt");
    assert!(project.exists("sub/out/o.txt"));
}

/// CPU and memory are those of the whole process tree, and every step of an attempt has its time and its bytes.
#[test]
fn an_attempt_says_what_it_took() {
    let project = Project::new(
        "name: took\njobs:\n  a:\n    inputs: [in.txt]\n    outputs: {o: o.txt, n: {json: n.json}}\n    run: |\n      \
         sh -c 'python3 -c \"import time; x = chr(65) * (64 << 20); end = time.process_time() + 0.3\nwhile time.process_time() < end: pass\"'\n      \
         head -c 2000 /dev/zero > o.txt; echo 12345 > n.json\n",
    );
    let text = project
        .read("pipeline.yaml")
        .replace("0.3\nwhile", "0.3\n      while");
    project.write("pipeline.yaml", &text);
    project.write("in.txt", &"x".repeat(1000));
    project.ok(&["run"]);
    let node = project.last_run()["nodes"][0].clone();
    let number = |of: &str, name: &str| node[of][name].as_f64().unwrap_or_else(|| panic!("{node}"));
    for phase in [
        "queue", "start", "fetch", "decode", "compute", "encode", "store",
    ] {
        assert!(number("phases", phase) >= 0.0, "{node}");
    }
    assert!(
        number("phases", "compute") >= 0.3 && number("usage", "cpu") >= 0.3,
        "{node}"
    );
    assert!(
        number("usage", "peak_memory") >= f64::from(64 << 20),
        "{node}"
    );
    assert_eq!(number("usage", "bytes_in"), 1000.0);
    assert!(number("usage", "bytes_out") >= 2000.0, "{node}");
    assert_eq!(node["outputs"]["o"]["size"], 2000);
}

/// A named resource is shared out whatever the slots.
#[test]
fn a_named_resource_limits_how_many_run() {
    let project = Project::new(
        "name: shared\npass_env: [LOCK]\njobs:\n  a:\n    replicates: 6\n    resources: {licence: 2}\n    outputs: {o: o.txt}\n    run: |\n      \
         mkdir $LOCK || exit 9; sleep 0.03; rmdir $LOCK; echo ${{ replicate.seed }} > o.txt\n",
    );
    let run = || {
        let mut command = project.command(&["run", "-j", "6"]);
        command.env("LOCK", project.dir().join("lock"));
        command.output().unwrap().status.code()
    };
    project.write("dagrun.toml", "[resources]\nlicence = 3\n");
    assert_eq!(run(), Some(0), "two of 2 are more than 3");
    assert_eq!(project.executed(), 6);
    // With enough for two they do meet: what was seen before is the limit.
    project.write("dagrun.toml", "[resources]\nlicence = 12\n");
    let text = project.read("pipeline.yaml").replace("0.03", "0.3");
    project.write("pipeline.yaml", &text);
    assert_eq!(run(), Some(1));
}
