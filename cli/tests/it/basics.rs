//! Running, caching, early cut-off, parts of the graph, parameters.

use crate::kit::Project;

/// A source, three nodes that read it, one that gathers them.
const FAN: &str = r#"
dagrun: 1
name: fan
params:
  scale: {type: int, default: 2}
jobs:
  source:
    inputs: [number.txt]
    outputs: {n: n.txt}
    run: tr -d ' ' < number.txt > ${{ outputs.n }}
  times:
    needs: source
    matrix: {factor: [1, 2, 3]}
    inputs: {n: "${{ needs.source.outputs.n }}"}
    outputs: {product: product.txt}
    run: echo $(( $(cat ${{ inputs.n }}) * FACTOR )) > ${{ outputs.product }}
    env: {FACTOR: "${{ matrix.factor * params.scale }}"}
  total:
    needs: times
    inputs: {products: "${{ needs.times.outputs.product }}"}
    outputs: {total: total.txt}
    run: cat ${{ inputs.products }} | paste -sd+ | bc > ${{ outputs.total }} || awk '{s+=$1} END {print s}' ${{ inputs.products }} > ${{ outputs.total }}
export:
  total.txt: ${{ jobs.total.outputs.total }}
"#;

fn fan() -> Project {
    let project = Project::new(FAN);
    project.write("number.txt", "7\n");
    project
}

#[test]
fn a_pipeline_runs_and_then_comes_from_the_cache() {
    let project = fan();
    project.ok(&["pipeline.yaml"]);
    assert_eq!(project.read("total.txt"), "84\n");
    assert_eq!(project.counts(), [5, 0, 0, 0, 0]);
    project.ok(&["pipeline.yaml"]);
    assert_eq!(project.counts(), [0, 5, 0, 0, 0]);
    assert_eq!(project.executed(), 0);
}

/// What a hit wrote is with its entry in the cache, whoever made it.
#[test]
fn the_log_of_a_hit_is_that_of_the_run_that_made_it() {
    let text = FAN.replace("run: echo $((", "run: echo said; echo $((");
    let maker = Project::new(&text);
    maker.write("number.txt", "7\n");
    maker.ok(&["run", "-p", "scale=3"]);
    let other = Project::new(&text);
    other.write("number.txt", "7\n");
    let cache = maker.cache();
    let with_cache = |args: &[&str]| {
        let mut command = other.command(args);
        command.env("DAGRUN_CACHE", &cache);
        crate::kit::said(command.output().unwrap())
    };
    assert_eq!(with_cache(&["run", "-p", "scale=3"]).code, 0);
    assert_eq!(other.executed(), 0);
    let log = with_cache(&["log", "times[factor=2]"]);
    assert_eq!(
        (log.code, log.stdout.as_str()),
        (0, "said\n"),
        "{}",
        log.stderr
    );
    log.has("`times[factor=2]` was a hit in run")
        .has("made its result on");
    // Also of a run that was named from another folder.
    let above = |args: &[&str]| {
        let mut command = other.command(args);
        command.env("DAGRUN_CACHE", &cache);
        command.current_dir(other.folder.path());
        crate::kit::said(command.output().unwrap())
    };
    let run = above(&["p/pipeline.yaml", "-p", "scale=3"]);
    assert_eq!(run.code, 0, "{run:?}");
    let log = above(&["log", "times[factor=2]", "-f", "p/pipeline.yaml"]);
    assert_eq!((log.code, &*log.stdout), (0, "said\n"), "{log:?}");
    // Of another pipeline nothing is known of it any more.
    other.write("pipeline.yaml", &text.replace("echo said", "echo more"));
    let gone = with_cache(&["log", "times[factor=2]"]);
    assert_eq!(gone.code, 1);
    gone.has("it has no log there");
}

#[test]
fn names_may_be_short_and_mistyped_ones_are_guessed() {
    let project = fan();
    project.ok(&["run"]);
    // `times[factor=2]` is the whole id; `total` and `times` are jobs.
    project.ok(&["log", "source"]);
    project
        .fails(2, &["log", "times"])
        .has("`times` names 3 nodes");
    project
        .fails(2, &["get", "times"])
        .has("`times` names 3 nodes")
        .has("times[factor=1]");
    // The pipeline file stands for its last run.
    for command in ["show", "report"] {
        project.ok(&[command, "pipeline.yaml"]).has("fan");
    }
    project
        .fails(2, &["log", "pipeline.yaml"])
        .has("dagrun log NODE -f pipeline.yaml");
    for words in [
        &["runs", "pipelin.yaml"][..],
        &["study", "show", "pipelin.yaml"],
    ] {
        project.fails(2, words).has("did you mean `pipeline.yaml`?");
    }
    project.ok(&["-p", "scale=2", "run", "pipeline.yaml"]);
    assert_eq!(project.executed(), 0);
    project
        .fails(2, &["pipelin.yaml"])
        .has("did you mean `pipeline.yaml`?");
    project
        .fails(2, &["run", "-p", "skale=3"])
        .has("did you mean `scale`?")
        .has_not("pipeline.yaml:");
    let text = project.read("pipeline.yaml");
    project.write(
        "pipeline.yaml",
        &text.replace(
            "matrix: {factor: [1, 2, 3]}",
            "matrix: {factor: [1, 2, 3], unit: [a]}",
        ),
    );
    project.ok(&["run"]);
    project.ok(&["get", "times[factor=2]", "here"]);
    assert_eq!(project.read("here/product.txt"), "28\n");
    project.ok(&["log", "times[factor=2]"]);
    project.write(
        "pipeline.yaml",
        &text.replace("[number.txt]", "[nmuber.txt]"),
    );
    project
        .fails(2, &["plan"])
        .has("did you mean `number.txt`?");
    project.ok(&["help", "run"]).has("--force");
}

#[test]
fn runs_are_compared_where_they_are_alike() {
    let project = fan();
    let run = |args: &[&str]| {
        project.ok(args);
        let id = &project.last_run()["run"];
        id.as_str().unwrap().to_owned()
    };
    let first = run(&["run"]);
    let again = run(&["run", "--force", "-j", "1"]);
    let text = project.ok(&["compare", &first, &again]);
    text.has("nodes a slot-minute")
        .has("without any wait")
        .has("median of times");
    let json = project.json(&["compare", &first, "--json"]);
    let runs = json["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2, "one alone is compared with the last run");
    assert_eq!(
        (&runs[0]["done"], &runs[1]["hosts"][0]["slots"]),
        (&5.into(), &1.0.into())
    );
    for run in runs {
        assert!(run["bound"].as_f64() <= run["wall"].as_f64(), "{run}");
    }
    let other = run(&["run", "-p", "scale=3"]);
    let said = project.fails(2, &["compare", &first, &other]);
    said.has("not alike")
        .has("the parameter `scale` is 2 and 3")
        .has("--force");
    project
        .ok(&["compare", "--force", &first, &other])
        .has("warning: the parameter `scale`");
    project.write("number.txt", "8\n");
    let changed = run(&["run"]);
    project
        .fails(2, &["compare", &first, &changed])
        .has("other commands, code or data");
    project
        .ok(&["report", &first])
        .has("where the time of slots went");
    project.ok(&["run"]);
    project.ok(&["plan"]).has_not("at least");
    project.write("number.txt", "9\n");
    project
        .ok(&["plan"])
        .has("at least ")
        .has("at the times of former runs");
    let forecast = &project.json(&["plan", "--json"])["forecast"];
    assert!(
        forecast["work"].as_f64() >= forecast["bound"].as_f64(),
        "{forecast}"
    );
    assert_eq!(forecast["unknown"], serde_json::json!([]));
}

#[test]
fn equal_bytes_cut_off_what_comes_after() {
    let project = fan();
    project.ok(&["run"]);
    project.write("number.txt", " 7 \n");
    project.ok(&["run"]);
    assert_eq!(
        project.counts(),
        [1, 4, 0, 0, 0],
        "only `source` runs: its output has the same bytes"
    );
    project.write("number.txt", "8\n");
    project.ok(&["run"]);
    assert_eq!(project.counts(), [5, 0, 0, 0, 0]);
    assert_eq!(project.read("total.txt"), "96\n");
    project.write("number.txt", "7\n");
    project.ok(&["run"]);
    assert_eq!(project.executed(), 0, "the first results are still there");
    assert_eq!(project.read("total.txt"), "84\n");
}

#[test]
fn a_parameter_reaches_only_what_uses_it() {
    let project = fan();
    project.ok(&["run"]);
    project.ok(&["run", "-p", "scale=3"]);
    assert_eq!(
        project.counts(),
        [3, 2, 0, 0, 0],
        "2 x 3 is 3 x 2: that product is a hit"
    );
    assert_eq!(project.read("total.txt"), "126\n");
    project.fails(2, &["run", "-p", "scale=three"]).has("scale");
    project
        .fails(2, &["run", "-p", "skale=3"])
        .has("skale")
        .has("scale");
    project.write("more.yaml", "scale: 3\n");
    project.ok(&["run", "--params-file", "more.yaml"]);
    assert_eq!(project.executed(), 0);
}

#[test]
fn parts_of_the_graph() {
    let project = fan();
    project.ok(&["run", "--until", "times[factor=2]"]);
    assert_eq!(project.counts(), [2, 0, 0, 0, 0]);
    assert!(!project.exists("total.txt"));
    project.ok(&["run", "--only", "times"]);
    assert_eq!(project.executed(), 2);
    project.ok(&["run", "--from", "total"]);
    assert_eq!(project.executed(), 1);
    project.fails(2, &["run", "--only", "tines"]).has("times");
}

#[test]
fn force_runs_again_and_keeps_the_first_result() {
    let project = fan();
    project.ok(&["run"]);
    project.ok(&["run", "--force=times"]);
    assert_eq!(project.executed(), 3, "what comes after reads equal bytes");
    project.ok(&["run", "--force"]);
    assert_eq!(project.executed(), 5);
    project.fails(2, &["run", "--force=nobody"]).has("nobody");
}

#[test]
fn replicates_that_do_not_differ_are_one_node() {
    let project = Project::new(
        "dagrun: 1\nname: same\njobs:\n  a:\n    matrix: {x: [1, 2, 3]}\n    outputs: {o: o.txt}\n    run: echo same > ${{ outputs.o }}\n",
    );
    let plan = project.json(&["plan", "--json"]);
    assert_eq!(
        plan["counts"],
        serde_json::json!({"naive": 3, "nodes": 1, "units": 1})
    );
    assert_eq!(plan["nodes"][0]["ids"].as_array().unwrap().len(), 3);
    project.ok(&["run"]).has("1 ran");
}

/// For benches: what deduplication saves runs, and nothing of it is taken from the cache.
#[test]
fn without_deduplication_everything_runs() {
    let project = Project::new(
        r#"
dagrun: 1
name: apart
jobs:
  make: {replicates: 3, outputs: {o: o.txt}, run: echo same > o.txt}
  use:
    needs: make
    matrix: {by: [1, 2]}
    inputs: {all: "${{ needs.make.outputs.o }}"}
    outputs: {u: u.txt}
    run: cat ${{ inputs.all }} > u.txt; echo ${{ matrix.by }}
export: {u/: "${{ jobs.use.outputs.u }}"}
"#,
    );
    project.ok(&["run"]);
    assert_eq!(project.counts(), [5, 0, 0, 0, 0]);
    project.ok(&["run", "--no-dedup", "-j", "4"]);
    assert_eq!(
        project.counts(),
        [8, 0, 0, 0, 0],
        "two times three, and two"
    );
    assert_eq!(project.read_any("u").len(), 2);
    project.ok(&["log", "make[replicate=2,copy=1]"]);
    // The same again is no matter of sharing.
    project.ok(&["run", "--no-dedup"]);
    assert_eq!(project.counts(), [0, 8, 0, 0, 0]);
}

#[test]
fn equal_actions_run_once_though_their_keys_differ() {
    // Two different recipes make the same bytes; what reads them is the same action, and runs once.
    let project = Project::new(
        r#"
dagrun: 1
name: single-flight
jobs:
  make:
    matrix: {by: [echo, printf]}
    outputs: {o: o.txt}
    run: ${{ matrix.by }} 'x
      ' | tr -d '\n ' > ${{ outputs.o }}
  use:
    needs: make
    for_each: by
    inputs: {o: "${{ needs.make.outputs.o }}"}
    outputs: {u: u.txt}
    run: sleep 0.2; cp ${{ inputs.o }} ${{ outputs.u }}
"#,
    );
    project.ok(&["run", "-j", "4"]);
    assert_eq!(project.counts(), [3, 1, 0, 0, 0]);
    assert_eq!(project.executed(), 3);
}

#[test]
fn nodes_see_what_is_declared_and_nothing_else() {
    let project = Project::new(
        r#"
dagrun: 1
name: clean
env: {DECLARED: "yes"}
jobs:
  look:
    inputs: [seen.txt]
    outputs: {files: files.txt, env: env.txt}
    run: |
      ls -A > files.txt
      env > env.txt
export:
  files.txt: ${{ jobs.look.outputs.files }}
  env.txt: ${{ jobs.look.outputs.env }}
"#,
    );
    project.write("seen.txt", "");
    project.write("hidden.txt", "");
    let output = project
        .command(&["run"])
        .env("HIDDEN_VARIABLE", "1")
        .output()
        .unwrap();
    assert!(output.status.success());
    let files = project.read("files.txt");
    assert!(
        files.contains("seen.txt") && !files.contains("hidden.txt"),
        "{files}"
    );
    let env = project.read("env.txt");
    assert!(
        env.contains("DECLARED=yes") && !env.contains("HIDDEN_VARIABLE"),
        "{env}"
    );
}

#[test]
fn exports_never_overwrite_what_dagrun_did_not_write() {
    let project = fan();
    project.write("total.txt", "mine\n");
    project.fails(1, &["run"]).has("total.txt");
    assert_eq!(project.read("total.txt"), "mine\n");
    std::fs::remove_file(project.dir().join("total.txt")).unwrap();
    project.ok(&["run"]);
    assert_eq!(project.read("total.txt"), "84\n");
    project.write("number.txt", "8\n");
    project.ok(&["run"]);
    assert_eq!(
        project.read("total.txt"),
        "96\n",
        "dagrun's own file is replaced"
    );
    project.write("total.txt", "edited\n");
    project.fails(1, &["run"]);
    project.ok(&["run", "--overwrite"]);
    assert_eq!(project.read("total.txt"), "96\n");
}

#[test]
fn get_log_explain_and_the_small_commands() {
    let project = fan();
    project.ok(&["run"]);
    project.ok(&["get", "times[factor=3]:product", "out"]);
    assert_eq!(project.read("out/product.txt"), "42\n");
    project
        .ok(&["explain", "times[factor=3]", "-p", "scale=5"])
        .has("FACTOR");
    project.ok(&["runs"]).has("fan");
    project.ok(&["show"]).has("times");
    for format in ["dot", "mermaid", "svg", "json"] {
        project.ok(&["graph", "--format", format]).has("times");
    }
    project.ok(&["schema"]).has("\"$schema\"");
    project.ok(&["completions", "bash"]).has("_dagrun");
    project.ok(&["settings"]).has("DAGRUN_CACHE");
    project.ok(&["cache", "verify"]).has("0 problems");
    project.ok(&["man", "man"]);
    assert!(project.exists("man/dagrun-run.1"));
    project.fails(1, &["fmt", "--check"]);
    project.ok(&["fmt"]);
    project.ok(&["fmt", "--check"]);
    project
        .ok(&["shell", "times[factor=2]", "--", "cat", "in/n/n.txt"])
        .has("7");
}

#[test]
fn every_template_runs() {
    for template in ["hello", "sweep", "study", "calibrate"] {
        let project = Project::new("");
        project.ok(&["init", template, "new"]);
        match template {
            "study" | "calibrate" => project.ok(&["new/pipeline.yaml", "-p", "trials=4"]),
            _ => project.ok(&["new/pipeline.yaml"]),
        };
        project.ok(&["fmt", "--check", "new/pipeline.yaml"]);
        project.fails(2, &["init", template, "new"]).has("already");
    }
}

/// `cache: {env: [NAME]}` keys by the value that the node gets.
#[test]
fn variables_in_keys_reach_the_node() {
    let project = Project::new(
        "dagrun: 1\nname: k\njobs:\n  a:\n    cache: {env: [COLOUR]}\n    outputs: {o: o.txt}\n    run: echo \"${COLOUR-none}\" > ${{ outputs.o }}\nexport: {out.txt: \"${{ jobs.a.outputs.o }}\"}\n",
    );
    for (colour, expected) in [("red", "red\n"), ("blue", "blue\n")] {
        let mut command = project.command(&["run"]);
        let output = command.env("COLOUR", colour).output().unwrap();
        assert!(output.status.success());
        assert_eq!(project.read("out.txt"), expected);
    }
}

#[test]
fn get_lays_all_outputs_or_none() {
    let project = Project::new(
        "name: two\njobs:\n  a:\n    outputs: {one: out/data.txt, other: log/data.txt}\n    run: echo 1 > out/data.txt; echo 2 > log/data.txt\n  b:\n    outputs: {x: x.txt, y: y.txt}\n    run: echo x > x.txt; echo y > y.txt\n",
    );
    project.ok(&["run"]);
    for force in [&["get", "a", "got"][..], &["get", "a", "got", "--force"]] {
        project
            .fails(1, force)
            .has("would both be got/data.txt")
            .has("`dagrun get a:other DIR`");
    }
    assert!(!project.exists("got"));
    project.ok(&["get", "a:other", "got"]);
    assert_eq!(project.read("got/data.txt"), "2\n");
    // What is there stays, and nothing comes beside it.
    project.write("y.txt", "mine");
    project
        .fails(1, &["get", "b"])
        .has("y.txt is there already");
    assert!(!project.exists("x.txt"));
    project.ok(&["get", "b", "--force"]);
    assert_eq!(
        (project.read("x.txt"), project.read("y.txt")),
        ("x\n".into(), "y\n".into())
    );
}
