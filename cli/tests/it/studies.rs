//! What a person sees of a study: its progress and end, `dagrun study`, and nodes of its trials in all other commands.

use serde_json::{Value, json};

use crate::kit::{Project, signal};

/// 2 targets, 5 replicates: 12 nodes a trial without deduplication, 7 with it, 6 units of work. Two of its ten trials fail.
const CALIBRATION: &str = r#"
name: cal
params:
  trials: {type: int, default: 10}
  x: {type: number, default: 0}
  k: {type: int, default: 0}
study:
  space:
    x: {uniform: [0, 1], digits: 3}
    k: {int: [0, 9]}
  sampler: {random: {seed: 3}}
  trials: ${{ params.trials }}
  order: {lag: 2}
  minimize: ${{ sum(jobs.score.outputs.loss) }}
  enqueue: [{x: 0.5, k: 7}, {x: 0.25, k: 4}, {x: 0.75, k: 7}]
jobs:
  prep:
    run: echo 3 > data.txt
    outputs: {data: data.txt}
  simulate:
    needs: prep
    inputs: {data: "${{ needs.prep.outputs.data }}"}
    replicates: 5
    run: |
      k=${{ trial.k }}
      if [ "$k" = 7 ]; then echo "bad k" >&2; exit 3; fi
      echo $k ${{ trial.x }} ${{ replicate.seed }} > sim.txt
    outputs: {sim: sim.txt}
  score:
    needs: simulate
    matrix: {target: [a, b]}
    inputs: {sims: "${{ needs.simulate.outputs.sim }}"}
    run: |
      awk '{s += ($1-4)^2 + ($2-0.25)^2} END {print "{\"loss\": " s/NR "}"}' ${{ inputs.sims }} > loss.json
      echo scored ${{ matrix.target }}
    outputs: {loss: {json: loss.json, pointer: /loss}}
  report:
    needs: study
    inputs: {table: "${{ study.table }}"}
    run: |
      echo best ${{ study.best.trial }} > out.txt; cat ${{ inputs.table }} >> out.txt
    outputs: {text: out.txt}
export:
  report.txt: ${{ jobs.report.outputs.text }}
report: {junit: junit.xml, annotations: github}
"#;

fn calibration() -> Project {
    Project::new(CALIBRATION)
}

#[test]
fn the_plan_counts_a_trial_and_all_of_them() {
    let project = calibration();
    let plan = project.json(&["plan", "--json"]);
    assert_eq!(
        plan["counts"],
        json!({"naive": 122, "nodes": 72, "units": 62, "trial": {"naive": 12, "nodes": 7, "units": 6}})
    );
    let ids: Vec<&str> = plan["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), 9, "{ids:?}");
    assert!(
        ids.contains(&"prep")
            && ids.contains(&"report")
            && ids.contains(&"score[trial=1,target=b]"),
        "{ids:?}"
    );
    assert_eq!(
        plan["study"]["trial"],
        json!({"number": 1, "params": {"x": 0.5, "k": 7}, "origin": "the next one"})
    );
    assert_eq!(plan["params"]["trials"]["origin"], "default");
    project
        .ok(&["plan", "-p", "trials=20"])
        .has("study: 20 trials by random over 2 parameters, order lag: 2; 0 ended")
        .has("trials = 20  (command line)")
        .has("x 20 trials")
        .has("waits for `study`")
        .has("a trial: 7 nodes, 6 units of work; an engine without deduplication would run 12");
    project
        .ok(&["plan", "--counts"])
        .has("naive 122 nodes 72 units 62")
        .has("a trial: naive 12 nodes 7 units 6, x 10 trials");
    // A study goes on where it was: the next trial is shown, and those to come are counted.
    project.ok(&["run", "-p", "trials=2"]);
    let plan = project.json(&["plan", "--json"]);
    assert_eq!(plan["study"]["trial"]["number"], 3);
    assert_eq!(plan["study"]["told"], 2);
    assert_eq!(plan["study"]["left"], 8);
    assert_eq!(plan["counts"]["nodes"], 2 + 8 * 7);
    project.ok(&["plan"]).has("x 8 trials");
    let over = project.json(&["plan", "-p", "trials=2", "--json"]);
    assert_eq!(over["study"]["trial"]["origin"], "the study is over");
    assert_eq!(over["study"]["left"], 0);
    // Of another space the plan says what `run` will want.
    project.write("pipeline.yaml", &CALIBRATION.replace("[0, 9]", "[0, 8]"));
    project
        .ok(&["plan"])
        .has("`k` was int [0, 9], is int [0, 8]")
        .has("--study new");
}

/// Rows of the table of a plan, without spaces.
fn plan_rows(plan: &str) -> Vec<String> {
    let rows = plan.lines().skip_while(|line| !line.starts_with("job "));
    let rows = rows.skip(1).take_while(|line| !line.is_empty());
    rows.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// What a plan announces is what the run then executes: of trials that failed, that were cut off and that are to come.
#[test]
fn a_plan_of_a_study_says_what_a_run_will_do() {
    let project = Project::new(
        "name: s\nparams: {trials: {type: int, default: 5}}\npass_env: [GO]\n\
         study:\n  space: {x: {int: [1, 5]}}\n  sampler: grid\n  trials: ${{ params.trials }}\n  in_flight: 1\n  order: {lag: 1}\n  minimize: ${{ jobs.score.outputs.n }}\n\
         jobs:\n  sim:\n    replicates: 2\n    outputs: {o: o.txt}\n    run: |\n      \
         echo ${{ trial.x }} ${{ replicate.index }} > o.txt\n      \
         case ${{ trial.x }}${{ replicate.index }} in 20) exit 3;; 31) touch $GO.waits; while [ ! -e $GO ]; do sleep 0.02; done;; esac\n  \
         score:\n    needs: sim\n    inputs: {s: \"${{ needs.sim.outputs.o }}\"}\n    outputs: {n: {json: n.json}}\n    run: head -c1 ${{ inputs.s }} -q | head -c1 > n.json\n  \
         report:\n    needs: study\n    inputs: {t: \"${{ study.table }}\"}\n    outputs: {o: o.txt}\n    run: cp ${{ inputs.t }} o.txt\n",
    );
    let go = project.dir().join("go");
    let with_go = |args: &[&str]| {
        let mut command = project.command(args);
        command.env("GO", &go);
        command
    };
    let mut run = with_go(&["run", "-j", "2"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    project.wait_for("go.waits");
    while !project.ok(&["study", "trials"]).stdout.contains("running") {}
    signal(&run, "KILL");
    run.wait().unwrap();
    let plan = project.ok(&["plan"]);
    plan.has("2 ended").has("trial 3 (cut off)");
    assert_eq!(
        plan_rows(&plan.stdout),
        [
            "sim 2 1 1 1 trial cut off",
            "score 1 1 1 trial cut off",
            "sim 2 2 x 2 trials to come",
            "score 1 1 x 2 trials to come",
            "report 1 1"
        ]
    );
    plan.has("10 nodes")
        .has("5 nodes to run, and up to 4 more, by what they make");
    project.write("go", "");
    let ran = |args: &[&str]| {
        assert!(with_go(args).output().unwrap().status.success());
        project.executed()
    };
    assert_eq!(ran(&["run"]), 2 + 2 * 3 + 1);
    // The failed trial has ended, and nothing of it runs again.
    let plan = project.ok(&["plan"]);
    assert_eq!(plan_rows(&plan.stdout), ["report 1 1"]);
    plan.has("5 ended, and it is over")
        .has_not("sim[")
        .has_not("trial 1");
    plan.has("nothing is left to run");
    assert_eq!(ran(&["run"]), 0);
    // Fewer trials than there are: nothing is left to do, and nothing is lost.
    let few = project.ok(&["plan", "-p", "trials=2"]);
    assert_eq!(plan_rows(&few.stdout), ["report 1 1"]);
    project.ok(&["run", "-p", "trials=2"]).has(
        "5 trials ended, where 2 are asked for, none of them in this run; all trials are done",
    );
    assert_eq!(project.executed(), 0);
    // One of its nodes by itself does run.
    let only = ["--only", "sim[trial=2,replicate=0]"];
    let plan = project.ok(&["plan", only[0], only[1]]);
    assert_eq!(plan_rows(&plan.stdout), ["sim 1 1"], "{}", plan.stdout);
    assert!(
        !with_go(&["run", only[0], only[1]])
            .output()
            .unwrap()
            .status
            .success()
    );
    assert_eq!(project.executed(), 1);
}

/// A plan says that the run would refuse, and both name what has changed.
#[test]
fn a_changed_score_is_named_before_and_by_the_run() {
    let project = Project::new(&CALIBRATION.replace("{sims:", "{code: factor.txt, sims:"));
    project.write("factor.txt", "1\n");
    project.ok(&["run"]);
    assert_eq!(
        project.json(&["plan", "--json"])["study"]["changed"],
        Value::Null
    );
    project.write("factor.txt", "2\n");
    let changed = project.json(&["plan", "--json"])["study"]["changed"].to_string();
    assert!(
        changed.contains("factor.txt") && changed.contains("score"),
        "{changed}"
    );
    project
        .ok(&["plan"])
        .has("`dagrun run` will refuse")
        .has("factor.txt")
        .has("x 10 trials");
    project
        .fails(2, &["run"])
        .has("factor.txt")
        .has("dagrun rescore");
    project.ok(&["rescore"]);
}

/// The log of a study knows what its trials depend on: also where nothing of them is in the cache.
#[test]
fn every_change_of_a_study_is_named() {
    let text = CALIBRATION.replace("{sims:", "{code: factor.txt, sims:");
    let project = Project::new(&text);
    project.write("factor.txt", "1\n");
    project.ok(&["run", "-p", "trials=4"]);
    std::fs::rename(project.cache(), project.dir().join("old-cache")).unwrap();
    for (from, to, named) in [
        (
            "replicates: 5",
            "replicates: 6",
            "job `simulate` had 5 nodes a trial and has 6",
        ),
        (
            "target: [a, b]",
            "target: [a, b, c]",
            "job `score` had 2 nodes a trial and has 3",
        ),
        (
            "target: [a, b]",
            "target: [a]",
            "job `score` had 2 nodes a trial and has 1",
        ),
        (
            "sum(jobs.score",
            "mean(jobs.score",
            "objective `loss` changed",
        ),
        (
            "2 + ($2-0.25)",
            "2 + ($2-0.5)",
            "command changed (job `score`)",
        ),
        (
            "echo 3 > data",
            "echo 4 > data",
            "command changed (job `prep`)",
        ),
        (
            "    replicates: 5",
            "    env: {A: b}\n    replicates: 5",
            "env `A` is new (job `simulate`)",
        ),
    ] {
        let changed = text.replace(from, to);
        assert_ne!(changed, text, "{from}");
        project.write("pipeline.yaml", &changed);
        project.fails(2, &["run"]).has(named).has("--study new");
        project.ok(&["plan"]).has(named);
    }
    project.write(
        "pipeline.yaml",
        &text.replace("sum(jobs.score", "mean(jobs.score"),
    );
    project.write("factor.txt", "2\n");
    project
        .fails(2, &["run"])
        .has("input `factor.txt` changed (job `score`), objective `loss` changed");
    // What is told again stands on what is there now.
    project.ok(&["rescore", "--run-missing"]);
    project.ok(&["run", "-p", "trials=5"]);
}

/// Progress, `show`, `report` and `study show` go by one definition.
#[test]
fn the_pace_of_a_study_is_the_same_everywhere() {
    let project = Project::new(&CALIBRATION.replace("echo $k ", "sleep 0.1; echo $k "));
    let ran = project.ok(&["run", "-j", "2"]);
    let last = ran.stderr.lines().rfind(|line| line.contains("trials/min"));
    let of = |text: &str, unit: &str| -> f64 {
        let before = text.split(unit).next().unwrap().trim_end();
        before.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let told = of(last.unwrap(), "trials/min");
    let shown = project.ok(&["show"]).stdout;
    assert_eq!(of(&shown, "trials a minute"), told, "{shown}");
    let reported = project.ok(&["report"]).stdout;
    assert_eq!(of(&reported, "trials a minute"), told, "{reported}");
    let page = project.ok(&["report", "--html", "-"]).stdout;
    let page = page.replace('>', " ");
    assert_eq!(of(&page, "trials a minute"), told);
    // Its own log says it by another clock.
    let own = project.json(&["study", "show", "--json"])["trials_per_minute"].as_f64();
    let own = own.unwrap();
    assert!((own - told).abs() <= 0.5 + told * 0.02, "{own} {told}");
    // What is told again is no work of the study's.
    project.write(
        "pipeline.yaml",
        &project
            .read("pipeline.yaml")
            .replace("sum(jobs", "mean(jobs"),
    );
    project.ok(&["rescore"]);
    let again = project.json(&["study", "show", "--json"])["trials_per_minute"].as_f64();
    assert_eq!(again, Some(own));
}

/// A page shows the whole study, and not only what its run has told; values of another objective are no part of it.
#[test]
fn the_page_of_a_run_draws_what_runs_before_have_told() {
    let project = Project::new(
        "name: p\nparams: {trials: 4}\nstudy:\n  space: {x: {int: [1, 6]}}\n  sampler: grid\n  trials: ${{ params.trials }}\n  minimize: ${{ jobs.score.outputs.n }}\n\
         jobs:\n  score:\n    outputs: {n: {json: n.json}}\n    run: echo ${{ trial.x }} > n.json\n",
    );
    let pale = |run: &str| {
        let page = project.ok(&["report", run, "--html", "-"]).stdout;
        (
            page.matches("class=\"trial earlier\"").count(),
            page.contains("4 trials of earlier runs are not drawn"),
        )
    };
    project.ok(&["run"]);
    assert_eq!(pale("latest"), (0, false));
    project.ok(&["run", "-p", "trials=6"]);
    assert_eq!(pale("latest"), (4, false));
    let second = project.last_run()["run"].as_str().unwrap().to_owned();
    let text = project.read("pipeline.yaml");
    project.write(
        "pipeline.yaml",
        &text.replace("outputs.n }}", "outputs.n + 10 }}"),
    );
    project.ok(&["rescore", "-p", "trials=6"]);
    assert_eq!(pale(&second), (0, true));
}

/// A trial that grows finds its own first replicates again: they are no hits.
#[test]
fn a_trial_that_grows_has_made_its_first_replicates_itself() {
    let project = Project::new(
        "name: g\nstudy:\n  space: {x: {int: [1, 4]}}\n  sampler: grid\n  trials: 4\n  minimize: ${{ jobs.score.outputs.n }}\n\
         jobs:\n  sim:\n    replicates: {n: 2, grow: {to: 5, when: \"${{ study.value < 3 }}\"}}\n    outputs: {o: o.txt}\n    run: echo ${{ trial.x }} ${{ replicate.seed }} > o.txt\n  \
         score:\n    needs: sim\n    inputs: {s: \"${{ needs.sim.outputs.o }}\"}\n    outputs: {n: {json: n.json}}\n    run: head -qc1 ${{ inputs.s }} | head -c1 > n.json\n",
    );
    project.ok(&["run"]);
    let shown = project.json(&["study", "show", "--json"]);
    assert_eq!(
        (&shown["replicates"], &shown["hits"]),
        (&json!(14), &json!(0))
    );
    // Another study of the same trials finds all of them.
    project.ok(&["run", "--study", "new"]);
    let shown = project.json(&["study", "show", "--json"]);
    assert_eq!((&shown["nodes"], &shown["hits"]), (&json!(18), &json!(18)));
}

#[test]
fn a_sampler_in_another_process_is_not_started_for_a_plan() {
    let project = Project::new(
        &CALIBRATION
            .replace("{random: {seed: 3}}", "{exec: [no-such-program]}")
            .replace("enqueue:", "# "),
    );
    let plan = project.json(&["plan", "--json"]);
    assert_eq!(
        plan["study"]["trial"],
        json!({"number": 1, "params": {"x": 0.5, "k": 5}, "origin": "the middle of the space"})
    );
    assert_eq!(plan["counts"]["trial"]["nodes"], 7);
}

#[test]
fn failed_trials_are_values_everywhere() {
    let project = calibration();
    let said = project.ok(&["run", "-j", "2"]);
    said.has("cal: 10 trials, 1 node before them, 2 slots")
        .has("is the best so far")
        .has("trial 1 failed: `simulate[trial=1,replicate=")
        .has("failed in trials")
        .has("study cal: 10 of 10 trials ended; all trials are done")
        .has(" of 10 trials failed")
        .has("`simulate` exit code 3: bad k (trials 1, 3)")
        .has("rerun one: dagrun pipeline.yaml --only 'simulate[trial=")
        .has_not("FAILED")
        .has_not("failed: simulate");
    let shown = project.last_run();
    assert_eq!(shown["exit_code"], 0);
    assert_eq!(shown["study"]["told"], 10);
    assert_eq!(shown["study"]["succeeded"], true);
    assert_eq!(
        shown["study"]["failures"][0]["reason"],
        "`simulate` exit code 3: bad k"
    );
    let trials: Vec<&Value> = shown["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| &node["trial"])
        .collect();
    assert!(trials.contains(&&json!(3)) && trials.contains(&&Value::Null));
    let junit = project.read("junit.xml");
    assert!(
        junit.contains("failures=\"0\"") && !junit.contains("<failure"),
        "{junit}"
    );
    assert!(
        junit.contains("its trial failed: exit code 3")
            && junit.contains("<testcase classname=\"study\" name=\"cal\""),
        "{junit}"
    );
    project
        .ok(&["show"])
        .has("study cal: 10 of 10 trials ended")
        .has("trials a minute")
        .has_not("failed simulate");
    project
        .ok(&["report"])
        .has("an engine without deduplication would run 120")
        .has_not("failed: simulate");
    assert_eq!(project.json(&["report", "--json"])["failures"], json!([]));
    project.ok(&["report", "--html", "page.html"]);
    let page = project.read("page.html");
    assert!(
        page.contains("<section id=\"study\">") && page.contains("<path d=\"M"),
        "{page:.300}"
    );
    project.ok(&["runs"]).has("trials").has("10 of 10");
    assert_eq!(
        project.json(&["runs", "--json"])[0]["study"]["told_now"],
        10
    );
}

#[test]
fn annotations_warn_of_trials_and_do_not_call_them_errors() {
    let project = calibration();
    let mut command = project.command(&["run"]);
    let said = crate::kit::said(command.env("GITHUB_ACTIONS", "true").output().unwrap());
    assert_eq!(said.code, 0);
    said.has("::warning file=pipeline.yaml,title=")
        .has("trials failed::study cal")
        .has_not("::error");
}

#[test]
fn a_study_that_fails_says_why_as_a_run_does() {
    let project = Project::new(
        &CALIBRATION
            .replace("\"$k\" = 7", "1 = 1")
            .replace("enqueue:", "# "),
    );
    project
        .fails(1, &["run"])
        .has("failed: simulate[trial=1,replicate=")
        .has("bad k")
        .has("study cal: 10 of 10 trials ended; 10 trials failed")
        .has("10 of 10 trials failed");
    let junit = project.read("junit.xml");
    assert!(
        junit.contains("<failure message=\"10 trials failed"),
        "{junit}"
    );
    project
        .ok(&["study", "show"])
        .has("cal failed")
        .has("no trial has a value yet");
    project
        .fails(1, &["study", "best"])
        .has("no trial of study `cal` has a value that counts");
}

/// Details are kept of a thousand failures; every trial has its reason all the same.
#[test]
fn the_reason_of_a_failed_trial_does_not_depend_on_how_many_failed() {
    let project = Project::new(
        r#"
study:
  space: {x: {uniform: [0, 1]}}
  sampler: random
  trials: 1005
  stop: {failures: 1005}
  minimize: ${{ jobs.model.outputs.loss }}
jobs:
  model:
    run: [sh, -c, "exit 5", "${{ trial.x }}"]
    outputs: {loss: {json: loss.json}}
"#,
    );
    project.fails(1, &["run"]);
    let rows = project.json(&["study", "trials", "--json", "--all"]);
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 1005);
    for row in rows {
        let reason = row["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("exit code 5"), "{row}");
    }
}

#[test]
fn a_study_is_found_by_a_file_that_gives_it_no_name() {
    let project = calibration();
    let text = project.read("pipeline.yaml").replace("name: cal\n", "");
    project.write("fit.yaml", &text);
    project.ok(&["run", "fit.yaml"]);
    project.ok(&["study", "best", "fit.yaml"]).has("k = 4");
    project.write("list.yaml", "- 1\n");
    project
        .fails(2, &["study", "best", "list.yaml"])
        .has("it is no pipeline file");
}

#[test]
fn nodes_of_trials_are_known_by_every_command() {
    let project = calibration();
    project
        .fails(2, &["explain", "score[trial=2,target=a]"])
        .has("study `cal` has no trial 2")
        .has("none was asked for yet");
    project.ok(&["run"]);
    project
        .ok(&["explain", "score[trial=2,target=a]"])
        .has("is a hit")
        .has("made by score[trial=2,target=a]");
    project
        .ok(&["explain", "simulate[trial=1,replicate=0]"])
        .has("would run")
        .has("exit code 3");
    project
        .ok(&["log", "score[trial=2,target=b]"])
        .has("scored b");
    project.ok(&["get", "score[trial=2,target=a]:loss", "got"]);
    // What runs after the study is no part of a trial, and is known by the same commands.
    project.ok(&["explain", "report"]).has("hit");
    project.ok(&["get", "report:text", "got"]);
    assert!(project.read("got/out.txt").starts_with("best "));
    assert_eq!(project.read("got/loss.json").trim(), r#"{"loss": 0}"#);
    project
        .ok(&["check", "score[trial=2,target=a]"])
        .has("the same bytes");
    project.ok(&["shell", "score[trial=2,target=a]", "--", "ls"]);
    for (command, why) in [
        (
            ["explain", "score[trial=99,target=a]"],
            "10 were asked for so far, trials 1 to 10",
        ),
        (
            ["log", "score[trial=99,target=a]"],
            "study `cal` has no trial 99",
        ),
        (["get", "score[trial=99,target=a]"], "has no trial 99"),
        (["explain", "score[trial=x,target=a]"], "`x` is no number"),
        (
            ["explain", "score[trial=2,target=z]"],
            "nodes of `score` are named like score[trial=2,target=a]",
        ),
        (
            ["explain", "score"],
            "name its nodes in one, such as `score[trial=1]`",
        ),
    ] {
        project.fails(2, &command).has(why);
    }
    let drawn = project.ok(&["graph", "--format", "mermaid"]);
    drawn
        .has("5 nodes x 10 trials")
        .has("study<br/>10 trials")
        .has("tells");
    project
        .ok(&["graph", "--nodes", "--format", "json"])
        .has("score[trial=1,target=b]")
        .has("report");
    let drawn = project.ok(&["graph", "--nodes", "--format", "mermaid"]);
    drawn
        .has("\"study<br/>10 trials\"")
        .has("n7 --> n8")
        .has("n8 --> n9")
        .has("n9[\"report\"]");
}

#[test]
fn nodes_of_one_trial_run_beside_the_study() {
    let project = calibration();
    project.ok(&["run"]);
    let log = std::fs::read(project.dir().join(".dagrun/studies/cal/log")).unwrap();
    let report = project.read("report.txt");
    project
        .ok(&[
            "run",
            "--only",
            "score[trial=2,target=a]",
            "--force=score[trial=2,target=a],prep",
        ])
        .has("done");
    // Forced: the score and what prepares; the simulations are hits since that made the same.
    assert_eq!(project.counts(), [2, 5, 0, 0, 0]);
    project.ok(&["run", "--from", "simulate[trial=2]"]);
    assert_eq!(project.counts(), [0, 8, 0, 0, 0]);
    // Beside the study a failure is one of the run.
    project
        .fails(1, &["run", "--only", "simulate[trial=1,replicate=0]"])
        .has("bad k");
    project
        .ok(&["plan", "--only", "score[trial=2,target=a]"])
        .has("score")
        .has_not("x 10 trials");
    assert_eq!(
        std::fs::read(project.dir().join(".dagrun/studies/cal/log")).unwrap(),
        log
    );
    assert_eq!(project.read("report.txt"), report);
    project.ok(&["run", "--only", "prep"]).has_not("study cal");
    project.ok(&["run", "--only", "report"]).has("study cal");
    for (args, why) in [
        (vec!["run", "--only", "score"], "such as `score[trial=1]`"),
        (
            vec![
                "run",
                "--only",
                "score[trial=2]",
                "--only",
                "score[trial=4]",
            ],
            "one trial is run at a time",
        ),
        (
            vec!["run", "--only", "score[trial=2]", "--until", "prep"],
            "is no part of a trial",
        ),
        (vec!["run", "--only", "score[trial=77]"], "has no trial 77"),
        (
            vec!["run", "--force=score[trial=2,target=a]"],
            "--only 'score[trial=2,target=a]' --force",
        ),
        (
            vec!["rescore", "--only", "prep"],
            "the study is no part of what is selected",
        ),
    ] {
        project.fails(2, &args).has(why);
    }
}

#[test]
fn a_study_is_read_from_its_log() {
    let project = calibration();
    project
        .fails(2, &["study", "show"])
        .has("nothing has run in");
    project.ok(&["run"]);
    project
        .ok(&["study", "show"])
        .has("cal done: all trials are done")
        .has("best: trial 2: loss = 0.0")
        .has("`simulate` exit code 3: bad k (trials 1, 3")
        .has("loss of trials, and the best so far");
    let figures = project.json(&["study", "show", "--json"]);
    assert_eq!(
        (
            &figures["told"],
            &figures["state"],
            &figures["best"]["trial"]
        ),
        (&json!(10), &json!("done"), &json!(2))
    );
    assert_eq!(figures["failures"][0]["trials"][0], 1);
    // By file, by name, by folder; without the pipeline.
    for of in [
        vec!["pipeline.yaml"],
        vec!["cal"],
        vec!["cal", "-f", "pipeline.yaml"],
        vec!["-f", "pipeline.yaml"],
    ] {
        let words: Vec<&str> = ["study", "best"].into_iter().chain(of).collect();
        project
            .ok(&words)
            .has("trial 2: loss = 0.0")
            .has("x = 0.25")
            .has("k = 4");
    }
    let params = project.ok(&["study", "best", "--params"]).stdout;
    assert_eq!(params, "x: 0.25\nk: 4\n");
    project.write("best.yaml", &params);
    project
        .ok(&["plan", "--params-file", "best.yaml"])
        .has("x = 0.25  (best.yaml)");
    assert_eq!(
        project.json(&["study", "best", "--trial", "3", "--json"])["state"],
        "failed"
    );
    let top = project.json(&["study", "trials", "--top", "2", "--json"]);
    assert_eq!(
        (top.as_array().unwrap().len(), &top[0]["trial"]),
        (2, &json!(2))
    );
    project
        .ok(&["study", "trials", "--failed"])
        .has("exit code 3")
        .has_not("complete");
    project
        .ok(&["study", "trials"])
        .has("trial")
        .has("complete");
    project.ok(&["study", "list"]).has("cal").has("10 of 10");
    for (args, why) in [
        (["study", "show", "call"], "did you mean `cal`?"),
        (["study", "show", "other.yaml"], "there is no other.yaml"),
        (["study", "best", "--trial=44"], "has no trial 44"),
    ] {
        project.fails(2, &args).has(why);
    }
    std::fs::remove_file(project.dir().join("pipeline.yaml")).unwrap();
    project.ok(&["study", "show"]).has("cal done");
}

#[test]
fn tables_have_a_row_a_trial() {
    let project = calibration();
    project.ok(&["run"]);
    let csv = project.ok(&["study", "export"]).stdout;
    let header = "trial,state,params.x,params.k,values.loss,targets.score[target=a].loss,targets.score[target=b].loss,violation,replicates,seconds,nodes,hits,seen,reason";
    assert_eq!(csv.lines().next(), Some(header));
    assert_eq!(csv.lines().count(), 11);
    assert_eq!(csv, project.read(".dagrun/studies/cal/trials.csv"));
    project.ok(&["study", "export", "-o", "out/trials.json"]);
    let rows: Value = serde_json::from_str(&project.read("out/trials.json")).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 10);
    assert_eq!(rows[1]["params"], json!({"x": 0.25, "k": 4}));
    let lines = project.ok(&["study", "export", "--format", "jsonl"]).stdout;
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(Value::from(lines), rows);
    project.ok(&["study", "export", "-o", "trials.parquet"]);
    let parquet = std::fs::read(project.dir().join("trials.parquet")).unwrap();
    assert!(parquet.starts_with(b"PAR1") && parquet.ends_with(b"PAR1"));
    assert!(!project.exists("trials.parquet.tmp"));
    // The objective is the sum of what the targets came to.
    for row in rows.as_array().unwrap() {
        let targets = row["targets"].as_object().unwrap();
        if row["state"] == "failed" {
            continue;
        }
        let sum: f64 = targets.values().map(|it| it.as_f64().unwrap()).sum();
        assert_eq!(targets.len(), 2);
        assert!(
            (sum - row["values"]["loss"].as_f64().unwrap()).abs() < 1e-9,
            "{row}"
        );
    }
    project
        .fails(2, &["study", "export", "-o", "trials.xlsx"])
        .has("`.xlsx`")
        .has("`.parquet`");
    assert!(!project.exists("trials.xlsx"));
    project.ok(&["study", "export", "-o", "trials.xlsx", "--format", "csv"]);

    assert_eq!(
        project.last_run()["plan"],
        json!({"naive": 122, "nodes": 72, "units": 62})
    );
}

#[test]
fn a_run_of_a_study_with_nothing_to_do_says_so() {
    let project = Project::new(
        "name: s\nstudy:\n  space: {x: {int: [1, 3]}}\n  sampler: grid\n  minimize: ${{ jobs.sim.outputs.loss }}\n\
         jobs:\n  sim:\n    outputs: {loss: {json: loss.json}}\n    run: echo ${{ trial.x }}.123456789 > loss.json\n",
    );
    project.ok(&["run"]).has("best: 1.12346 in trial 1");
    assert_eq!(project.last_run()["plan"]["nodes"], 3);
    project.ok(&["run"]).has("nothing had to run");
    project
        .ok(&["show"])
        .has("nothing had to run")
        .has("3 of 3 trials ended, none of them in this run");
    // What is an objective by itself is no target besides.
    project
        .ok(&["study", "export"])
        .has("1.123456789")
        .has_not("targets.");
}

#[test]
fn several_objectives_have_a_front() {
    let project = Project::new(
        r#"
name: two
study:
  space: {x: {int: [1, 3]}}
  sampler: grid
  minimize: {cost: "${{ jobs.a.outputs.v }}", other: "${{ jobs.a.outputs.v == 2 ? 9 : 4 - jobs.a.outputs.v }}"}
jobs:
  a:
    run: echo ${{ trial.x }} > v.json
    outputs: {v: {json: v.json}}
"#,
    );
    project.ok(&["run"]).has("2 trials on the Pareto front");
    project.ok(&["study", "show"]).has("Pareto front: 2 trials");
    let front = project.json(&["study", "best", "--json"]);
    let trials: Vec<&Value> = front
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["trial"])
        .collect();
    assert_eq!(trials, [1, 3]);
    assert_eq!(front[1]["values"], json!({"cost": 3.0, "other": 1.0}));
    project
        .fails(2, &["study", "best", "--params"])
        .has("--trial 1");
    assert_eq!(
        project
            .ok(&["study", "best", "--params", "--trial", "3"])
            .stdout,
        "x: 3\n"
    );
    project
        .fails(2, &["study", "trials", "--sort"])
        .has("several objectives");
}

#[test]
fn a_former_study_is_kept_and_shown() {
    let project = calibration();
    project.ok(&["run", "-p", "trials=3"]);
    project
        .ok(&["run", "-p", "trials=4", "--study", "new"])
        .has("cal@1");
    let rows = project.json(&["study", "list", "--json"]);
    let names: Vec<&Value> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["study"])
        .collect();
    assert_eq!(names, ["cal", "cal@1"]);
    project.ok(&["study", "show"]).has("4 of 4 trials ended");
    project
        .ok(&["study", "show", "cal@1"])
        .has("3 of 3 trials ended");
}

#[test]
fn a_study_is_shown_while_it_runs() {
    let pipeline = CALIBRATION
        .replace("k=${{ trial.k }}", "k=${{ trial.k }}\n      if [ $k = 4 ]; then while [ ! -e $GO ]; do sleep 0.02; done; fi")
        .replace("jobs:\n", "pass_env: [GO]\njobs:\n");
    let project = Project::new(&pipeline);
    let go = project.dir().join("go");
    let mut run = project
        .command(&["run", "-j", "4"])
        .env("GO", &go)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    project.wait_for(".dagrun/studies/cal/log");
    let state = |want: &dyn Fn(&Value) -> bool| {
        for _ in 0..1_000 {
            let said = project.say(&["study", "show", "--json"]);
            if let Ok(shown) = serde_json::from_str::<Value>(&said.stdout)
                && want(&shown)
            {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("{:?}", project.say(&["study", "show"]));
    };
    // Trial 1 fails at once; trial 2 waits.
    state(&|shown| shown["told"] == 1 && shown["state"] == "running" && shown["running"] != 0);
    project
        .ok(&["study", "show"])
        .has("cal running")
        .has("1 of 10 trials ended, 1 failed");
    project.ok(&["study", "trials"]).has("running");
    signal(&run, "KILL");
    run.wait().unwrap();
    state(&|shown| shown["state"] == "cut off" && shown["running"] == 0 && shown["cut_off"] != 0);
    let shown = project.ok(&["study", "show"]).stdout;
    assert!(
        shown.lines().nth(1).unwrap().ends_with(" cut off"),
        "{shown}"
    );
    for format in ["csv", "json", "parquet"] {
        let table = project.ok(&["study", "export", "--format", format]).stdout;
        assert!(
            table.contains("cut off") && !table.contains("running"),
            "{table}"
        );
    }
    let trials = project.ok(&["study", "trials"]);
    assert!(!trials.has("cut off").stdout.contains("running"));
    project.write("go", "");
    let mut again = project.command(&["run"]);
    assert!(again.env("GO", &go).output().unwrap().status.success());
    state(&|shown| shown["told"] == 10 && shown["state"] == "done");
}

#[test]
fn events_tell_trials() {
    let project = calibration();
    project.ok(&["run", "--events", "events.jsonl"]);
    let text = project.read("events.jsonl");
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |kind: &str| {
        events
            .iter()
            .filter(|event| event["event"] == kind)
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(of("study_opened")[0]["trials"], 10);
    assert_eq!(
        (of("trial_started").len(), of("trial_ended").len()),
        (10, 10)
    );
    let second = of("trial_ended")
        .into_iter()
        .find(|event| event["trial"] == 2)
        .unwrap();
    assert_eq!(
        (&second["replicates"], &second["nodes"], &second["naive"]),
        (&json!(5), &json!(7), &json!(12))
    );
    assert_eq!(of("study_ended")[0]["succeeded"], true);
}
