//! Studies that are killed, stopped, changed and damaged, and trials that fail in every way.

use std::{
    collections::BTreeMap,
    fs,
    process::Command,
    time::{Duration, Instant},
};

use dagrun_testkit::{Fault, SmallDisk, require_program, skip};

use crate::kit::{Project, Said, dagrun, said, signal};

/// Two jobs of which the second gathers the replicates of the first for two targets.
const FIT: &str = r#"
dagrun: 1
name: fit
params:
  trials: {type: int, default: 12}
study:
  space:
    x: {uniform: [0, 1], digits: 3}
    k: {int: [0, 9]}
  sampler: {tpe: {seed: 7, startup: 4}}
  trials: ${{ params.trials }}
  order: ORDER
  in_flight: 3
  minimize: ${{ sum(jobs.score.outputs.loss) }}
jobs:
  once:
    outputs: {o: once.txt}
    run: echo 0.3 > ${{ outputs.o }}
  sim:
    needs: once
    replicates: 2
    inputs: {once: "${{ needs.once.outputs.o }}"}
    outputs: {o: sim.txt}
    env: {X: "${{ trial.x }}", K: "${{ trial.k }}", S: "${{ replicate.seed }}"}
    run: echo $X $K $(cat ${{ inputs.once }}) $((S % 7)) > ${{ outputs.o }}
  score:
    needs: sim
    matrix: {target: [1, 2]}
    inputs: {sims: "${{ needs.sim.outputs.o }}"}
    outputs: {loss: {json: loss.json}}
    env: {T: "${{ matrix.target }}"}
    run: |
      awk -v t="$T" '{s += ($1-$3)^2*t + ($2-4)^2/10 + $4/1000} END {printf "%.6f\n", s/NR}' ${{ inputs.sims }} > ${{ outputs.loss }}
"#;

fn fit(order: &str) -> Project {
    Project::new(&FIT.replace("ORDER", order))
}

/// A study of one job: `study` goes into its section, `job` into the job, `rest` behind it.
fn simple(study: &str, job: &str, script: &str, rest: &str) -> String {
    let script = script.trim().replace('\n', "\n      ");
    format!(
        "dagrun: 1\nname: s\nstudy:\n  space: {{x: {{int: [1, 100000]}}}}\n  sampler: {{random: {{seed: 7}}}}\n  minimize: ${{{{ jobs.sim.outputs.loss }}}}\n{study}\n\
         jobs:\n  sim:\n    outputs: {{loss: {{json: loss.json}}}}\n    env: {{X: \"${{{{ trial.x }}}}\"}}\n{job}\n    run: |\n      {script}\n{rest}\n"
    )
}

/// `x` from 1 up, one for each trial.
fn counted(trials: u64, study: &str, job: &str, script: &str, rest: &str) -> String {
    simple(study, job, script, rest)
        .replace("int: [1, 100000]", &format!("int: [1, {trials}]"))
        .replace("{random: {seed: 7}}", "grid")
}

/// The rows of a study's table by column.
fn whole_table(project: &Project, name: &str) -> Vec<BTreeMap<String, String>> {
    let text = project.read(&format!(".dagrun/studies/{name}/trials.csv"));
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    let row = |line: &str| {
        let cells = line.splitn(header.len(), ',').map(str::to_owned);
        let names = header.iter().map(|name| (*name).to_owned());
        names.zip(cells).collect()
    };
    lines.map(row).collect()
}

/// The same without what depends on time and on what was there.
fn table(project: &Project, name: &str) -> Vec<BTreeMap<String, String>> {
    let mut rows = whole_table(project, name);
    for row in &mut rows {
        row.remove("seconds");
        row.remove("hits");
    }
    rows
}

fn states(project: &Project, name: &str) -> [usize; 3] {
    let rows = table(project, name);
    ["complete", "failed", "cut off"]
        .map(|state| rows.iter().filter(|row| row["state"] == state).count())
}

/// More of the same where there is time for it.
fn long() -> bool {
    std::env::var_os("DAGRUN_LONG").is_some()
}

fn kill_after(project: &Project, args: &[&str], delay: Duration) -> bool {
    let mut child = project.start(args);
    let until = Instant::now() + delay;
    while Instant::now() < until {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let killed = child.try_wait().unwrap().is_none();
    let _ = child.kill();
    child.wait().unwrap();
    killed
}

#[test]
fn a_study_that_is_killed_goes_on_as_if_it_was_not() {
    for order in ["{lag: 3}", "{batched: 4}", "async"] {
        let whole = fit(order);
        whole.ok(&["run", "-j", "3"]);
        let whole = table(&whole, "fit");
        assert_eq!(whole.len(), 12);
        let mut killed = 0;
        for first in (40..if long() { 900 } else { 240 }).step_by(if long() { 20 } else { 60 }) {
            let project = fit(order);
            for more in [0, 37, 91] {
                let delay = Duration::from_millis(first + more);
                killed += u32::from(kill_after(&project, &["run", "-j", "3"], delay));
            }
            project.ok(&["run", "-j", "3"]);
            let rows = table(&project, "fit");
            if order == "async" {
                let numbers: Vec<&str> = rows.iter().map(|row| row["trial"].as_str()).collect();
                let all: Vec<String> = (1..=12).map(|n| n.to_string()).collect();
                assert_eq!(numbers, all);
                assert_eq!(states(&project, "fit"), [12, 0, 0]);
            } else {
                assert_eq!(rows, whole, "{order} {first}");
            }
            project.ok(&["run"]);
            assert_eq!(project.executed(), 0);
        }
        assert!(killed > 3, "only {killed} of the runs were killed");
    }
}

#[test]
fn a_study_that_dies_at_any_system_call_goes_on() {
    skip!(
        "a_study_that_dies_at_any_system_call_goes_on",
        require_program("strace")
    );
    let whole = fit("{lag: 3}");
    whole.ok(&["run", "-p", "trials=6", "-j", "2"]);
    let whole = table(&whole, "fit");
    let mut injected = 0;
    let step = if long() { 1 } else { 4 };
    for (calls, most) in [
        ("fsync,fdatasync", 12),
        ("rename,renameat,renameat2", 8),
        ("write", 26),
    ] {
        for when in (1..=most).step_by(step) {
            let project = fit("{lag: 3}");
            let fault = Fault {
                calls: calls.into(),
                effect: "signal=KILL".into(),
                when: when.to_string(),
                path: None,
            };
            let args = ["run", "--quiet", "-j", "2", "-p", "trials=6"];
            let traced = skip!(
                "a_study_that_dies_at_any_system_call_goes_on",
                fault.run_with(dagrun(), &args, |command| project.prepare(command))
            );
            injected += u32::from(traced.injected);
            project.ok(&["run", "-p", "trials=6", "-j", "2"]);
            assert_eq!(table(&project, "fit"), whole, "{calls} {when}");
        }
    }
    assert!(injected > 4, "only {injected} faults hit");
}

/// Dies exactly where an ask is thought about, a node runs, or a result was just told: the sampler or the node kills dagrun.
#[test]
fn a_kill_in_the_middle_of_ask_run_and_tell_loses_nothing() {
    skip!(
        "a_kill_in_the_middle_of_ask_run_and_tell_loses_nothing",
        require_program("python3")
    );
    // Kills dagrun once, when a file is not there yet.
    let once = "def die():\n    if not os.path.exists('died'):\n        open('died', 'w').close()\n        os.kill(os.getppid(), 9)\n        time.sleep(60)\n";
    let answer = "say(trial=n, params={\"x\": n * 7})";
    let at_ask = format!("if n == 5:\n    die()\n{answer}");
    let node =
        "[ $X -ne 28 ] || [ -e DIED ] || { touch DIED; kill -9 $(cat PID); sleep 60; }; echo";
    for order in ["{lag: 2}", "async"] {
        let whole = exec(answer, 8, order);
        whole.ok(&["run"]);
        // What an async ask saw is a matter of time.
        let rows = |project: &Project| {
            let mut rows = table(project, "s");
            rows.iter_mut().for_each(|row| {
                row.retain(|name, _| order != "async" || name != "seen");
            });
            rows
        };
        let whole = rows(&whole);
        for place in ["ask", "run", "tell"] {
            let body = if place == "ask" { &at_ask } else { answer };
            let project = exec(body, 8, order);
            let mut sampler = project.read("sampler.py");
            sampler = sampler.replacen("told, pending", &format!("{once}told, pending"), 1);
            if place == "tell" {
                sampler = sampler.replacen(
                    "told[line",
                    "if line[\"tell\"][\"trial\"] == 3:\n            die()\n        told[line",
                    1,
                );
            }
            project.write("sampler.py", &sampler);
            if place == "run" {
                let path = |name: &str| project.dir().join(name).display().to_string();
                let node = node
                    .replace("DIED", &path("died"))
                    .replace("PID", &path("pid"));
                let text = project.read("pipeline.yaml").replacen("echo", &node, 1);
                project.write("pipeline.yaml", &text);
            }
            let mut child = project.start(&["run"]);
            project.write("pid", &child.id().to_string());
            let status = child.wait().unwrap();
            assert!(!status.success() && project.exists("died"), "{place}");
            project.ok(&["run"]);
            // A sampler that draws by the number of the trial gives the same whatever it was told.
            assert_eq!(rows(&project), whole, "{order}: killed in {place}");
            project.ok(&["run"]);
            assert_eq!(project.executed(), 0);
        }
    }
}

#[test]
fn a_stopped_study_goes_on_and_a_finished_one_is_raised() {
    let project = fit("{lag: 3}");
    let whole = fit("{lag: 3}");
    whole.ok(&["run", "-j", "3"]);
    for wait in [60, 150] {
        let child = project.start(&["run", "-j", "2"]);
        std::thread::sleep(Duration::from_millis(wait));
        // It may have ended by itself.
        let _ = Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .output();
        let said = said(child.wait_with_output().unwrap());
        assert!([0, 130, 1002].contains(&said.code), "{said:?}");
    }
    project.ok(&["run", "-j", "3"]);
    assert_eq!(table(&project, "fit"), table(&whole, "fit"));
    project.ok(&["run"]);
    assert_eq!(project.executed(), 0, "the same file again runs nothing");

    project.ok(&["run", "-p", "trials=15"]);
    let rows = table(&project, "fit");
    assert_eq!(rows.len(), 15);
    assert_eq!(rows[..12], table(&whole, "fit")[..]);

    fs::remove_dir_all(project.dir().join(".dagrun")).unwrap();
    project.ok(&["run", "-p", "trials=15"]);
    assert_eq!(project.executed(), 0, "with `lag` all nodes are hits");
    assert_eq!(table(&project, "fit"), rows);
}

#[test]
fn losses_that_are_none_are_values_and_the_study_goes_on() {
    let project = Project::new(&counted(
        100,
        "",
        "",
        "case $X in *5) echo NaN;; *) echo $X;; esac > loss.json",
        "",
    ));
    project.ok(&["run", "-j", "4"]).has("10 failed");
    assert_eq!(states(&project, "s"), [90, 10, 0]);
    assert_eq!(project.counts()[2], 0, "the nodes have not failed");
}

#[test]
fn every_kind_of_bad_trial_fails_with_its_reason() {
    let project = Project::new(&counted(
        14,
        "  stop: {failures: 100}",
        "    timeout: 400ms\n    resources: {memory: 60MiB}",
        r#"
case $X in
1) echo NaN > loss.json;;
2) echo Infinity > loss.json;;
3) echo '"text"' > loss.json;;
4) : > loss.json;;
5) ;;
6) echo 'the model says at length why it has diverged here' >&2; exit 7;;
7) sleep 20;;
8) kill -SEGV $$;;
9) echo '[1]' > loss.json;;
10) echo 'true' > loss.json;;
11) ln -s /etc/passwd loss.json;;
12) echo 1e999 > loss.json;;
*) echo 5 > loss.json;;
esac"#,
        "",
    ));
    project.ok(&["run", "-j", "3"]).has("best: 5.0 in trial 13");
    let rows = table(&project, "s");
    for (trial, why) in [
        (1, "NaN"),
        (2, "inf"),
        (3, "expected a number"),
        (4, "empty"),
        (5, "missing"),
        (
            6,
            "exit code 7: the model says at length why it has diverged here",
        ),
        (7, "timed out"),
        (8, "signal"),
        (9, "expected a number"),
        (10, "expected a number"),
        (11, "link"),
        (12, "out of range"),
    ] {
        let row = &rows[trial - 1];
        assert_eq!(row["state"], "failed", "{row:?}");
        let reason = row["reason"].to_lowercase();
        assert!(reason.contains(&why.to_lowercase()), "{trial}: {reason}");
    }
    assert_eq!(states(&project, "s"), [2, 12, 0]);
    // Through a pipe reasons are whole.
    let listed = project.ok(&["study", "trials", "--failed"]);
    listed.has("`sim[trial=6]` exit code 7: the model says at length why it has diverged here");
    // Failed trials are told: they are not tried again by themselves.
    project.ok(&["run"]);
    assert_eq!(project.executed(), 0);
}

#[test]
fn a_missing_pointer_is_a_failed_trial() {
    let text = counted(3, "", "", "echo '{\"a\": {\"b\": 1}}' > loss.json", "")
        .replace("{json: loss.json}", "{json: loss.json, pointer: /a/c}");
    let project = Project::new(&text);
    project.fails(1, &["run"]);
    let rows = table(&project, "s");
    assert!(rows[0]["reason"].contains("/a/c"), "{rows:?}");
}

#[test]
fn too_many_failures_end_a_study_and_none_that_succeeded_too() {
    let after = "  after:\n    needs: study\n    inputs: [\"${{ study.table }}\"]\n    outputs: {o: after.txt}\n    run: |\n      echo ${{ toJSON(study.best) }} ${{ study.failed }} > ${{ outputs.o }}\nexport: {after.txt: \"${{ jobs.after.outputs.o }}\"}";
    let project = Project::new(&counted(
        30,
        "  stop: {failures: 3}\n  in_flight: 2",
        "",
        "[ $X -le 5 ] && echo $X > loss.json",
        after,
    ));
    let said = project.fails(1, &["run", "-j", "1"]);
    said.has("stop: failures").has("trial 6 failed");
    assert!(table(&project, "s").len() < 12);
    assert!(project.read("after.txt").contains("\"trial\":1"));

    let project = Project::new(&counted(4, "", "", "exit 3", after));
    project.fails(1, &["run"]).has("4 failed");
    assert_eq!(project.read("after.txt").trim(), "null 4");
    // More trials than that are a new chance.
    project.fails(1, &["run"]);
    assert_eq!(project.executed(), 0);
}

#[test]
fn retries_conditions_and_jobs_that_may_fail() {
    let marks = Project::new("");
    let dir = marks.dir().display().to_string();
    let project = Project::new(&counted(
        6,
        "",
        "    retry: {max: 2, backoff: 0s}",
        &format!(
            "n=$(ls {dir} | grep -c \"^m$X-\" || true)\ntouch {dir}/m$X-$n\n[ $n -ge $((X % 3)) ] || exit 9\necho $X > loss.json"
        ),
        "  even:\n    if: ${{ trial.x % 2 == 0 }}\n    continue_on_error: true\n    run: |\n      exit 5",
    ));
    project.ok(&["run", "-j", "3"]);
    assert_eq!(states(&project, "s"), [6, 0, 0]);

    // An objective that reads a job that was skipped fails its trial.
    let project = Project::new(&counted(
        6,
        "",
        "    if: ${{ trial.x != 3 }}",
        "echo $X > loss.json",
        "",
    ));
    project.ok(&["run", "-j", "3"]);
    assert_eq!(states(&project, "s"), [5, 1, 0]);
    assert_eq!(table(&project, "s")[2]["state"], "failed");
}

/// F60: a score sees all replicates, or as many as `min` says.
#[test]
fn a_score_never_sees_a_part_of_its_replicates() {
    let pipeline = |min: &str| {
        format!(
            "dagrun: 1\nname: s\nstudy:\n  space: {{x: {{int: [1, 4]}}}}\n  sampler: grid\n  minimize: ${{{{ jobs.score.outputs.n }}}}\n\
             jobs:\n  sim:\n    replicates: {{n: 4{min}}}\n    outputs: {{o: o.txt}}\n    env: {{X: \"${{{{ trial.x }}}}\", R: \"${{{{ replicate.index }}}}\"}}\n    run: |\n      \
             [ $R -lt 3 ] || sleep 0.1\n      [ $((R + 1)) -ge $X ] || exit 1\n      echo $R > o.txt\n\
             \x20 score:\n    needs: sim\n    inputs: {{s: \"${{{{ needs.sim.outputs.o }}}}\"}}\n    outputs: {{n: {{json: n.json}}}}\n    run: |\n      cat ${{{{ inputs.s }}}} | wc -l > n.json\n"
        )
    };
    // Replicates count from 0: trial x misses x - 1 of 4.
    let project = Project::new(&pipeline(""));
    project.ok(&["run", "-j", "4"]);
    let losses: Vec<String> = table(&project, "s")
        .iter()
        .map(|row| row["values.loss"].clone())
        .collect();
    assert_eq!(losses, ["4.0", "", "", ""]);

    let project = Project::new(&pipeline(", min: 3"));
    project.ok(&["run", "-j", "4"]);
    let rows = table(&project, "s");
    let losses: Vec<&str> = rows.iter().map(|row| row["values.loss"].as_str()).collect();
    assert_eq!(losses, ["4.0", "3.0", "", ""]);
    assert_eq!(rows[1]["replicates"], "3");
}

#[test]
fn one_process_at_a_time_has_a_study() {
    let project = Project::new("");
    let mark = project.dir().join("mark").display().to_string();
    let script = format!("touch {mark}; sleep 1; echo $X > loss.json");
    project.write("pipeline.yaml", &simple("  trials: 3", "", &script, ""));
    let mut child = project.start(&["run", "-j", "1"]);
    project.wait_for("mark");
    let second = project.fails(3, &["run"]);
    second
        .has(&child.id().to_string())
        .has("another run has this folder");
    signal(&child, "INT");
    child.wait().unwrap();
    project.ok(&["run", "-j", "3"]);
    assert_eq!(states(&project, "s"), [3, 0, 0]);
}

#[test]
fn a_torn_log_goes_on_and_a_damaged_one_can_be_repaired() {
    for order in ["{lag: 3}", "async"] {
        let project = fit(order);
        project.ok(&["run"]);
        let whole = table(&project, "fit");
        let log = project.dir().join(".dagrun/studies/fit/log");
        let bytes = fs::read(&log).unwrap();

        for cut in [bytes.len() - 3, bytes.len() / 2, 20, 7] {
            fs::write(&log, &bytes[..cut]).unwrap();
            project.ok(&["run", "-j", "3"]);
            if order != "async" {
                assert_eq!(table(&project, "fit"), whole, "cut at {cut}");
                assert_eq!(project.executed(), 0, "cut at {cut}");
            }
        }
        for at in [bytes.len() / 3, bytes.len() / 2, bytes.len() - 300] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 8;
            fs::write(&log, &damaged).unwrap();
            let said = project.fails(3, &["run"]);
            said.has("damaged at byte").has("dagrun journal repair fit");
            project.ok(&["journal", "repair", "fit"]).has("kept");
            assert_eq!(fs::read(log.with_extension("damaged")).unwrap(), damaged);
            project.ok(&["run", "-j", "3"]);
            assert_eq!(states(&project, "fit"), [12, 0, 0]);
            if order != "async" {
                assert_eq!(table(&project, "fit"), whole, "damaged at {at}");
                assert_eq!(project.executed(), 0);
            }
        }
        project.ok(&["journal", "repair", "fit"]).has("whole");
        // Nothing is known without its first record.
        let mut damaged = bytes.clone();
        damaged[30] ^= 8;
        fs::write(&log, &damaged).unwrap();
        project
            .fails(3, &["journal", "repair", "fit"])
            .has("--study new");
        project.fails(3, &["run"]).has("damaged");
        project.ok(&["run", "--study", "new"]);
        assert!(project.exists(".dagrun/studies/fit@1/log"));
    }
}

/// A power cut takes the end of the log, also the asks of trials that ran: their nodes do not wait for it. No trial is lost or
/// told twice; what the log still has stays; with `lag` the same trials come again, as hits.
#[test]
fn trials_whose_asks_were_lost_are_asked_for_again() {
    for order in ["{lag: 3}", "async"] {
        let project = fit(order);
        project.ok(&["run", "-j", "3"]);
        let whole = table(&project, "fit");
        let log = project.dir().join(".dagrun/studies/fit/log");
        let bytes = fs::read(&log).unwrap();
        for part in [1, 3, 5, 7] {
            fs::write(&log, &bytes[..bytes.len() * part / 8]).unwrap();
            let rows = project.json(&["study", "trials", "--json", "--all"]);
            let told = |rows: &serde_json::Value| {
                let rows = rows.as_array().unwrap().iter();
                let told = rows.filter(|row| row["state"] == "complete");
                told.cloned().collect::<Vec<_>>()
            };
            let kept = told(&rows);
            project.ok(&["run", "-j", "3"]);
            assert_eq!(states(&project, "fit"), [12, 0, 0], "{order}, {part} of 8");
            let now = told(&project.json(&["study", "trials", "--json", "--all"]));
            assert!(
                kept.iter().all(|row| now.contains(row)),
                "{order}, {part} of 8"
            );
            let numbers: Vec<_> = now.iter().map(|row| row["trial"].as_u64()).collect();
            let all: Vec<_> = (1..=12).map(Some).collect();
            assert_eq!(numbers, all, "{order}, {part} of 8");
            if order != "async" {
                assert_eq!(table(&project, "fit"), whole);
                assert_eq!(project.executed(), 0);
            }
        }
    }
}

/// A sampler in Python: `BODY` answers `ask(number, told)` with parameters, or says what it likes.
const SAMPLER: &str = r#"
import json, random, sys, time, os
told, pending = {}, []
def say(**line):
    print(json.dumps(line), flush=True)
for text in sys.stdin:
    line = json.loads(text)
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "heard.txt"), "a") as heard:
        heard.write(text)
    if "tell" in line:
        told[line["tell"]["trial"]] = line["tell"]
    elif "pending" in line:
        pending.append(line["pending"])
    elif "ask" in line:
        n = line["ask"]["trial"]
        BODY
"#;

fn exec(body: &str, trials: u64, order: &str) -> Project {
    let body = body.trim().replace('\n', "\n        ");
    let project = Project::new(
        &simple(
            &format!("  trials: {trials}\n  order: {order}\n  in_flight: 2"),
            "",
            "echo $((X % 97)) > loss.json",
            "",
        )
        .replace(
            "{random: {seed: 7}}",
            "{exec: {command: [python3, sampler.py], timeout: 3s}}",
        ),
    );
    project.write("sampler.py", &SAMPLER.replace("BODY", &body));
    project
}

/// What the sampler heard of a kind, over all of its lives.
fn heard(project: &Project, kind: &str) -> usize {
    let mark = format!("{{\"{kind}\":");
    project
        .read("heard.txt")
        .lines()
        .filter(|line| line.starts_with(&mark))
        .count()
}

#[test]
fn a_sampler_of_ones_own_proposes_and_is_told_all_again() {
    skip!(
        "a_sampler_of_ones_own_proposes_and_is_told_all_again",
        require_program("python3")
    );
    let good = "random.seed(n)\nsay(trial=n, params={\"x\": random.randint(1, 100000)})";
    let project = exec(good, 8, "{lag: 2}");
    project.ok(&["run"]);
    assert_eq!(states(&project, "s"), [8, 0, 0]);
    assert_eq!(heard(&project, "ask"), 8);
    fs::remove_file(project.dir().join("heard.txt")).unwrap();
    let text = project
        .read("pipeline.yaml")
        .replace("trials: 8", "trials: 11");
    project.write("pipeline.yaml", &text);
    project.ok(&["run"]);
    assert_eq!(states(&project, "s"), [11, 0, 0]);
    assert_eq!(heard(&project, "ask"), 3);
    assert!(
        heard(&project, "tell") >= 9,
        "{}",
        project.read("heard.txt")
    );
}

#[test]
fn bad_samplers_end_the_study_with_what_is_wrong() {
    skip!(
        "bad_samplers_end_the_study_with_what_is_wrong",
        require_program("python3")
    );
    let good = "say(trial=n, params={\"x\": n * 7})";
    for (what, bad, why) in [
        ("dies", "sys.exit('no more ideas')", "no more ideas"),
        ("hangs", "time.sleep(100)", "did not answer within"),
        ("babbles", "print('hello there', flush=True)", "nonsense"),
        ("has no params", "say(trial=n)", "`params` is missing"),
        ("misses", "say(trial=n, params={})", "`x`"),
        ("unknown", "say(trial=n, params={'x': 3, 'y': 1})", "`y`"),
        ("beyond", "say(trial=n, params={'x': -3})", "-3"),
        ("no number", "say(trial=n, params={'x': 'three'})", "three"),
        ("not whole", "say(trial=n, params={'x': 2.5})", "2.5"),
        (
            "other trial",
            "say(trial=n + 1, params={'x': 3})",
            "answered for trial 4",
        ),
        ("error", "say(trial=n, error='I am lost')", "I am lost"),
        (
            "colours",
            "say(trial=n, error='\x1b[31mI am\x1b[0m red')",
            "I am",
        ),
        (
            "endless",
            "sys.stdout.write('x' * 3000000)",
            "a line of more than",
        ),
    ] {
        let body = format!("if n == 3:\n    {bad}\nelse:\n    {good}");
        let project = exec(&body, 5, "async");
        let said = project.fails(1, &["run"]);
        said.has("the sampler failed").has(why).has_not("\u{1b}");
        assert_eq!(states(&project, "s"), [2, 0, 0], "{what}: {said:?}");
        // Once it is mended, the study goes on.
        project.write("sampler.py", &SAMPLER.replace("BODY", good));
        project.ok(&["run"]);
        assert_eq!(states(&project, "s"), [5, 0, 0], "{what}");
    }
}

#[test]
fn a_sampler_that_ends_between_asks_is_told_of_and_one_that_is_missing_too() {
    skip!(
        "a_sampler_that_ends_between_asks_is_told_of_and_one_that_is_missing_too",
        require_program("python3")
    );
    let project = exec(
        "say(trial=n, params={\"x\": n})\nif n == 2: sys.exit('had enough')",
        4,
        "{batched: 2}",
    );
    project.fails(1, &["run"]).has("had enough");
    assert_eq!(states(&project, "s"), [2, 0, 0]);

    let text = project
        .read("pipeline.yaml")
        .replace("python3, sampler.py", "./nothing-here");
    let project = Project::new(&text);
    project
        .fails(1, &["run"])
        .has("nothing-here")
        .has("study.sampler");
}

#[test]
fn a_sampler_that_repeats_itself_gives_hits() {
    skip!(
        "a_sampler_that_repeats_itself_gives_hits",
        require_program("python3")
    );
    let project = exec("say(trial=n, params={\"x\": 5})", 6, "{lag: 1}");
    project.ok(&["run"]);
    assert_eq!(states(&project, "s"), [6, 0, 0]);
    assert_eq!(project.counts(), [1, 5, 0, 0, 0]);
    // In a space of two points it ends when both are known and one comes again.
    let project = exec("say(trial=n, params={\"x\": 1 + n % 2})", 6, "{lag: 1}");
    let text = project
        .read("pipeline.yaml")
        .replace("[1, 100000]", "[1, 2]");
    project.write("pipeline.yaml", &text);
    project.ok(&["run"]).has("every point has been tried");
    assert_eq!(states(&project, "s"), [2, 0, 0]);
}

#[test]
fn another_space_is_refused_and_nothing_is_lost() {
    let project = fit("{lag: 3}");
    project.ok(&["run"]);
    let log = project.read_bytes(".dagrun/studies/fit/log");
    let text = project.read("pipeline.yaml");
    project.write("pipeline.yaml", &text.replace("int: [0, 9]", "int: [0, 5]"));
    let said = project.fails(2, &["run"]);
    said.has("study `fit` has changed").has("`k`");
    said.has("--study new").has("--study keep");
    said.has_not("rescore");
    project
        .fails(2, &["rescore"])
        .has("`k`")
        .has_not("rescore FILE");
    assert_eq!(project.read_bytes(".dagrun/studies/fit/log"), log);

    project.ok(&["run", "--study", "keep"]);
    let known = table(&project, "fit");
    assert_eq!(known.len(), 12);
    assert_eq!(project.read_bytes(".dagrun/studies/fit@1/log"), log);
    project.write("pipeline.yaml", &text);
    project.fails(2, &["run"]);
    project.ok(&["run", "--study", "new"]);
    assert_eq!(project.executed(), 0, "all results are there");
    assert_eq!(project.read_bytes(".dagrun/studies/fit@1/log"), log);
    assert!(project.exists(".dagrun/studies/fit@2/log"));
}

#[test]
fn a_changed_objective_is_told_again_without_a_simulation() {
    let project = fit("{lag: 3}");
    project.ok(&["run"]);
    let text = project.read("pipeline.yaml");
    let changed = text.replace(
        "sum(jobs.score.outputs.loss)",
        "max(jobs.score.outputs.loss)",
    );
    project.write("pipeline.yaml", &changed);
    project.fails(2, &["run"]).has("dagrun rescore");
    let before = table(&project, "fit");
    project.ok(&["rescore"]);
    assert_eq!(project.executed(), 0);
    let rows = table(&project, "fit");
    assert_eq!(states(&project, "fit"), [12, 0, 0]);
    assert_ne!(rows, before);
    project.ok(&["run"]);
    assert_eq!(project.executed(), 0);

    // Of the targets only one changes: only its nodes run.
    let one = text.replace("matrix: {target: [1, 2]}", "matrix: {target: [1, 3]}");
    project.write("pipeline.yaml", &one);
    project.ok(&["rescore"]);
    let points: std::collections::BTreeSet<_> = rows
        .iter()
        .map(|row| (row["params.x"].clone(), row["params.k"].clone()))
        .collect();
    assert_eq!(project.executed(), points.len() as u64);
    assert_eq!(states(&project, "fit"), [12, 0, 0]);

    // Where simulations are gone nothing is told, unless they may run.
    fs::remove_dir_all(project.cache()).unwrap();
    project.write("pipeline.yaml", &text.replace("[1, 2]", "[4, 5]"));
    let told = table(&project, "fit");
    project
        .fails(2, &["rescore"])
        .has("12 of 12 scored trials are not in the cache")
        .has("--run-missing");
    assert_eq!(table(&project, "fit"), told);
    project.ok(&["rescore", "--run-missing"]);
    assert_eq!(states(&project, "fit"), [12, 0, 0]);
}

/// A rescore that is stopped keeps what it told, and whichever command comes next tells the rest, without a simulation.
#[test]
fn a_stopped_rescore_goes_on() {
    // The eighth score and those after it wait for a file.
    let slow = "echo >> MARK; [ -e GO ] || [ $(wc -l < MARK) -lt 8 ] || { touch WAITS; sleep 60; }\n      awk";
    let rescored = |gate: bool| {
        let project = fit("{lag: 3}");
        project.ok(&["run", "-j", "3"]);
        let mut text = project.read("pipeline.yaml").replacen("awk", slow, 1);
        for name in ["MARK", "GO", "WAITS"] {
            let path = project.dir().join(name.to_lowercase());
            text = text.replace(name, &path.display().to_string());
        }
        project.write("pipeline.yaml", &text.replace("[1, 2]}", "[1, 3]}"));
        if !gate {
            project.write("go", "");
        }
        project
    };
    let whole = rescored(false);
    whole.ok(&["rescore", "-j", "3"]);
    let whole = table(&whole, "fit");
    for (name, code, next) in [("INT", 130, "rescore"), ("TERM", 130, "run")] {
        let project = rescored(true);
        let child = project.start(&["rescore", "-j", "3"]);
        project.wait_for("waits");
        // Trials of which nodes run are told from those that wait, though the log says the same of both.
        let shown = project.json(&["study", "show", "--json"]);
        let [runs, waits] = ["running", "waiting"].map(|state| shown[state].as_u64().unwrap());
        assert!((1..=3).contains(&runs) && waits > 0, "{shown}");
        signal(&child, name);
        let stopped = said(child.wait_with_output().unwrap());
        assert_eq!(stopped.code, code, "{name}: {stopped:?}");
        let [told, failed, running] = states(&project, "fit");
        assert!(failed == 0 && told > 0 && running > 0, "{told} {running}");
        assert_eq!(told + running, 12);
        let plan = project.ok(&["plan"]);
        let open = format!("{running} trials cut off");
        plan.has(&open)
            .has_not("x 1")
            .has(&format!("and nodes of {} more trial", running - 2));
        project.write("go", "");
        project.ok(&[next, "-j", "3"]);
        assert_eq!(table(&project, "fit"), whole, "{name}, then {next}");
        let shown = project.last_run();
        let nodes = shown["nodes"].as_array().unwrap().iter();
        let mut ran = nodes
            .filter(|it| it["attempts"] != 0)
            .map(|it| it["id"].as_str().unwrap());
        assert!(ran.all(|id| id.starts_with("score[")), "a simulation ran");
        project.ok(&["run"]);
        assert_eq!(project.executed(), 0);
    }
}

/// What a trial took, and why it failed, is no matter of its score.
#[test]
fn a_rescore_keeps_what_trials_cost_and_why_they_failed() {
    let rest = "  score:\n    needs: sim\n    matrix: {t: [1, 2]}\n    inputs: {s: \"${{ needs.sim.outputs.loss }}\"}\n    outputs: {n: {json: n.json}}\n    \
        run: cp ${{ inputs.s }} n.json\n  \
        report:\n    needs: study\n    inputs: {t: \"${{ study.table }}\"}\n    outputs: {o: o.txt}\n    run: cp ${{ inputs.t }} o.txt";
    let text = simple(
        "  trials: 6\n  order: {lag: 2}\n  enqueue: [{x: 1}, {x: 2}]",
        "",
        "[ $X -gt 1 ] || exit 3\nsleep 0.05\necho $X > loss.json",
        rest,
    );
    let text = text.replace(
        "jobs.sim.outputs.loss }}\n",
        "sum(jobs.score.outputs.n) }}\n",
    );
    let project = Project::new(&text);
    project.ok(&["run"]);
    let before = whole_table(&project, "s");
    assert_eq!(states(&project, "s"), [5, 1, 0]);
    assert_eq!(before[0]["reason"], "`sim[trial=1]` exit code 3");
    project.ok(&["rescore"]);
    assert_eq!(project.executed(), 0, "not even the report");
    assert_eq!(whole_table(&project, "s"), before);

    // One score of each trial that has a simulation runs: both targets are the same node.
    let scored = text.replace(
        "cp ${{ inputs.s }} n.json",
        "expr 1 + $(cat ${{ inputs.s }}) > n.json",
    );
    project.write("pipeline.yaml", &scored);
    project.ok(&["rescore"]);
    assert_eq!(project.executed(), 6, "five scores and the report");
    let number = |row: &BTreeMap<String, String>, name: &str| row[name].parse::<f64>().unwrap();
    let after = whole_table(&project, "s");
    for (before, after) in before.iter().zip(&after).skip(1) {
        assert!(number(after, "seconds") > number(before, "seconds").max(0.05));
        assert_eq!([&after["nodes"], &after["hits"]], ["2", "0"]);
        assert_eq!(
            number(after, "values.loss"),
            number(before, "values.loss") + 2.0
        );
    }
    assert_eq!(after[0], before[0]);
    project.ok(&["run"]);
    assert_eq!(project.executed(), 0);
    assert_eq!(
        project.ok(&["study", "export"]).stdout,
        project.read(".dagrun/studies/s/trials.csv")
    );
}

/// Also a run that goes on with a rescore that was killed tells failed trials without a simulation.
#[test]
fn a_killed_rescore_tells_failed_trials_as_they_were() {
    let rest = "  score:\n    needs: sim\n    inputs: {s: \"${{ needs.sim.outputs.loss }}\"}\n    outputs: {n: {json: n.json}}\n    run: |\n      cp ${{ inputs.s }} n.json";
    let text = simple(
        "  trials: 4\n  in_flight: 2\n  order: {lag: 2}\n  enqueue: [{x: 1}, {x: 2}, {x: 3}, {x: 4}]",
        "",
        "[ $X -lt 4 ] || exit 3\necho $X > loss.json",
        rest,
    );
    let text = text.replace("jobs.sim.outputs.loss }}\n", "jobs.score.outputs.n }}\n");
    let project = Project::new(&text);
    project.ok(&["run"]);
    let go = project.dir().join("go").display().to_string();
    let waits = format!("touch {go}.waits; while [ ! -e {go} ]; do sleep 0.02; done; cp ${{{{");
    project.write("pipeline.yaml", &text.replace("cp ${{", &waits));
    let mut child = project.start(&["rescore"]);
    project.wait_for("go.waits");
    while !project.ok(&["study", "trials"]).stdout.contains("waiting") {}
    child.kill().unwrap();
    child.wait().unwrap();
    project.write("go", "");
    let plan = project.json(&["plan", "--json"]);
    let mut nodes = plan["nodes"].as_array().unwrap().iter();
    assert!(nodes.all(|node| node["id"] != "sim[trial=4]"), "{plan}");
    let nodes = plan["nodes"].as_array().unwrap().iter();
    let to_run = nodes.filter(|node| node["state"] != "hit");
    assert_eq!(to_run.count(), 3, "{plan}");
    project.ok(&["run"]);
    assert_eq!(project.executed(), 3, "the scores");
    let rows = table(&project, "s");
    assert_eq!(rows[3]["reason"], "`sim[trial=4]` exit code 3");
    assert_eq!(states(&project, "s"), [3, 1, 0]);
}

/// Trials that never ended are none of a rescore's.
#[test]
fn a_rescore_leaves_what_was_never_told() {
    let project = Project::new(&simple(
        "  trials: 8\n  in_flight: 2\n  order: {lag: 3}\n  enqueue: [{x: 1}, {x: 2}]",
        "",
        "[ -e GO ] || [ $X -lt 3 ] || { touch GO.waits; sleep 30; }\necho $X > loss.json",
        "  score:\n    needs: sim\n    inputs: {s: \"${{ needs.sim.outputs.loss }}\"}\n    outputs: {n: {json: n.json}}\n    run: |\n      cp ${{ inputs.s }} n.json",
    ).replace("minimize: ${{ jobs.sim.outputs.loss }}", "minimize: ${{ jobs.score.outputs.n }}"));
    let go = project.dir().join("go").display().to_string();
    let text = project.read("pipeline.yaml").replace("GO", &go);
    project.write("pipeline.yaml", &text);
    let child = project.start(&["run", "-j", "2"]);
    project.wait_for("go.waits");
    signal(&child, "INT");
    let stopped = said(child.wait_with_output().unwrap());
    assert_eq!(stopped.code, 130, "{stopped:?}");
    let [told, failed, running] = states(&project, "s");
    assert!(failed == 0 && running > 0, "{told} {running}");
    project.write(
        "pipeline.yaml",
        &text.replace("jobs.score.outputs.n }}", "1 + jobs.score.outputs.n }}"),
    );
    project.ok(&["rescore"]);
    assert_eq!(project.executed(), 0);
    assert_eq!(states(&project, "s"), [told, 0, running]);
    project.write("go", "");
    project.ok(&["run", "-j", "4"]);
    assert_eq!(states(&project, "s"), [8, 0, 0]);
}

#[test]
fn good_trials_get_more_replicates_and_keep_the_first() {
    let project = Project::new(
        "dagrun: 1\nname: s\nstudy:\n  space: {x: {int: [1, 6]}}\n  sampler: grid\n  order: {lag: 1}\n  minimize: ${{ jobs.score.outputs.n }}\n\
         jobs:\n  sim:\n    replicates: {n: 3, grow: {to: 10, when: \"${{ study.value < 3 }}\"}}\n    outputs: {o: o.txt}\n    env: {X: \"${{ trial.x }}\", S: \"${{ replicate.seed }}\"}\n    run: echo $X $S > o.txt\n\
         \x20 score:\n    needs: sim\n    inputs: {s: \"${{ needs.sim.outputs.o }}\"}\n    outputs: {n: {json: n.json}}\n    run: |\n      cat ${{ inputs.s }} | awk '{s += $1} END {print s / NR}' > n.json\n",
    );
    project.ok(&["run", "-j", "3"]);
    let rows = table(&project, "s");
    let replicates: Vec<&str> = rows.iter().map(|row| row["replicates"].as_str()).collect();
    assert_eq!(replicates, ["10", "10", "3", "3", "3", "3"]);
    // 6 times 3 and a score; 2 times 7 more and another score. What was there is a hit.
    assert_eq!(project.executed(), 6 * 4 + 2 * 8);
    project.ok(&["run"]);
    assert_eq!(project.executed(), 0);
}

#[test]
fn exactly_as_many_trials_as_asked_for() {
    let project = Project::new(&simple(
        "  trials: 60\n  in_flight: 16",
        "",
        "echo $X > loss.json",
        "",
    ));
    project.ok(&["run", "-j", "8"]);
    assert_eq!(states(&project, "s"), [60, 0, 0]);
    assert_eq!(project.counts()[..2].iter().sum::<u64>(), 60);
}

#[test]
fn many_replicates_end_on_one_slot() {
    let sizes: &[(u64, u64, &str)] = if long() {
        &[(2, 200, "1"), (20, 200, "8")]
    } else {
        &[(2, 100, "1"), (4, 50, "4")]
    };
    for (trials, replicates, slots) in sizes {
        let text = counted(
            *trials,
            "",
            &format!("    replicates: {replicates}"),
            "echo $X > loss.json",
            "",
        )
        .replace("jobs.sim.outputs.loss", "sum(jobs.sim.outputs.loss)")
        .replace("env: {", "env: {S: \"${{ replicate.seed }}\", ");
        let project = Project::new(&text);
        project.ok(&["run", "-j", slots]);
        assert_eq!(project.counts()[0], trials * replicates);
        assert_eq!(table(&project, "s").len() as u64, *trials);
    }
}

#[test]
fn a_trial_that_cannot_be_planned_fails_as_a_value() {
    let text = counted(
        4,
        "",
        "    inputs: [\"data/${{ trial.x }}.txt\"]",
        "cat data/*.txt > loss.json",
        "",
    );
    let project = Project::new(&text);
    for n in [1, 2, 4] {
        project.write(&format!("data/{n}.txt"), &n.to_string());
    }
    project.ok(&["run"]).has("data/3.txt");
    assert_eq!(states(&project, "s"), [3, 1, 0]);
    assert!(table(&project, "s")[2]["reason"].contains("cannot be planned"));
}

#[test]
fn what_trials_export_lies_in_a_folder_and_comes_back() {
    let text = counted(
        5,
        "  order: {lag: 2}",
        "",
        "echo $X > loss.json",
        "export: {out/: \"${{ jobs.sim.outputs.loss }}\"}",
    );
    let project = Project::new(&text);
    project.ok(&["run", "-j", "3"]);
    let files = |project: &Project| {
        let mut files: Vec<(String, String)> = walk(&project.dir().join("out"));
        files.sort();
        files
    };
    let all = files(&project);
    assert_eq!(all.len(), 5, "{all:?}");
    let mut texts: Vec<&str> = all.iter().map(|(_, text)| text.trim()).collect();
    texts.sort_unstable();
    assert_eq!(texts, ["1", "2", "3", "4", "5"]);
    // One that was deleted is laid out again, and nothing runs.
    fs::remove_file(project.dir().join("out").join(&all[2].0)).unwrap();
    project.ok(&["run"]);
    assert_eq!(files(&project), all);
    assert_eq!(project.executed(), 0);
}

fn walk(folder: &std::path::Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut todo = vec![folder.to_path_buf()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

#[test]
fn fail_fast_is_for_what_is_no_trial() {
    let project = Project::new(&counted(
        6,
        "",
        "",
        "[ $X -ne 2 ] && echo $X > loss.json",
        "",
    ));
    project.ok(&["run", "--fail-fast", "-j", "2"]);
    assert_eq!(states(&project, "s"), [5, 1, 0]);
    let project = Project::new(&counted(
        6,
        "",
        "    needs: before",
        "echo $X > loss.json",
        "  before:\n    run: exit 4",
    ));
    project.fails(1, &["run", "--fail-fast", "-j", "2"]);
    assert_eq!(
        states(&project, "s")[1],
        0,
        "no trial is told for what failed outside"
    );
    project.fails(1, &["run", "-j", "2"]);
    assert_eq!(states(&project, "s")[1], 0, "nor without the flag");
    let text = project.read("pipeline.yaml").replace("exit 4", "exit 0");
    project.write("pipeline.yaml", &text);
    project.ok(&["run", "-j", "2"]);
    assert_eq!(states(&project, "s"), [6, 0, 0]);
}

#[test]
fn the_time_of_a_study_ends_also_while_a_sampler_thinks() {
    skip!(
        "the_time_of_a_study_ends_also_while_a_sampler_thinks",
        require_program("python3")
    );
    let project = exec(
        "if n == 3: time.sleep(60)\nsay(trial=n, params={\"x\": n})",
        5,
        "async",
    );
    let text = project
        .read("pipeline.yaml")
        .replace("timeout: 3s", "timeout: 50s")
        .replace("  in_flight: 2", "  in_flight: 2\n  stop: {wall: 1500ms}");
    project.write("pipeline.yaml", &text);
    project.ok(&["run"]).has("the time of `stop: wall` is over");
    assert_eq!(states(&project, "s"), [2, 0, 0]);
}

/// Also where no trial ends before the kill.
#[test]
fn the_time_of_killed_runs_counts() {
    let project = Project::new(&counted(
        4,
        "  in_flight: 1\n  stop: {wall: 6s}",
        "",
        "[ $X -gt 1 ] && sleep 5; echo $X > loss.json",
        "",
    ));
    for _ in 0..2 {
        assert!(kill_after(&project, &["run"], Duration::from_secs(3)));
    }
    let shown = project.json(&["study", "show", "--json"]);
    let wall = shown["wall"].as_f64().unwrap();
    assert!((2.0..6.0).contains(&wall), "{wall} s of two runs");
    project.ok(&["run"]).has("the time of `stop: wall` is over");
    assert_eq!(states(&project, "s"), [2, 0, 0]);
    // Once it is over, nothing more is asked for, and all that was told can be scored again.
    project.ok(&["run"]).has("the time of `stop: wall` is over");
    assert_eq!(states(&project, "s"), [2, 0, 0]);
    let text = project.read("pipeline.yaml");
    let slow = text.replace("[ $X -gt 1 ] && sleep 5", "sleep 2");
    project.write("pipeline.yaml", &slow);
    project.ok(&["rescore"]).has("2 of 2 trials ended");
    assert_eq!(states(&project, "s"), [2, 0, 0]);
}

#[test]
fn simulations_whose_bytes_are_gone_are_made_again_within_their_trial() {
    let project = fit("{lag: 3}");
    project.ok(&["run"]);
    let whole = table(&project, "fit");
    fs::remove_dir_all(project.cache().join("blobs")).unwrap();
    // The scores must read what the simulations made.
    let text = project.read("pipeline.yaml").replace("%.6f", "%.7f");
    project.write("pipeline.yaml", &text);
    project.fails(2, &["run"]).has("rescore");
    let said = project.say(&["rescore"]);
    said.has("--run-missing");
    project.ok(&["rescore", "--run-missing"]).has("made again");
    assert_eq!(states(&project, "fit"), [12, 0, 0]);
    assert_eq!(table(&project, "fit").len(), whole.len());
}

#[test]
fn a_full_disk_under_the_log_ends_the_run_and_loses_nothing() {
    let disk = skip!(
        "a_full_disk_under_the_log_ends_the_run_and_loses_nothing",
        SmallDisk::new(1 << 20, None)
    );
    let project = fit("{lag: 3}");
    fs::create_dir_all(project.dir().join(".dagrun")).unwrap();
    let place = disk.path().join("studies");
    fs::create_dir(&place).unwrap();
    std::os::unix::fs::symlink(&place, project.dir().join(".dagrun/studies")).unwrap();
    fs::write(disk.path().join("filler"), vec![b'x'; 1 << 19]).unwrap();
    let mut more = 0;
    while fs::write(disk.path().join(format!("f{more}")), vec![b'x'; 4096]).is_ok() {
        more += 1;
        if more > 400 {
            break;
        }
    }
    let said = project.say(&["run", "-j", "2"]);
    assert_eq!(said.code, 3, "{said:?}");
    said.has("cannot");
    for n in 0..=more {
        let _ = fs::remove_file(disk.path().join(format!("f{n}")));
    }
    project.ok(&["run", "-j", "2"]);
    // A table that does not fit leaves nothing of itself behind.
    while fs::write(disk.path().join(format!("g{more}")), vec![b'x'; 512]).is_ok() {
        more += 1;
    }
    let export = disk.path().join("trials.json").display().to_string();
    let said = project.say(&["study", "export", "-o", &export]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(!disk.path().join("trials.json.tmp").exists());
    assert_eq!(states(&project, "fit"), [12, 0, 0]);
}

/// The largest memory of a run in KiB, by the kernel's count.
fn peak(project: &Project, args: &[&str]) -> u64 {
    let mut child = project.start(args);
    let mut peak = 0;
    let status = format!("/proc/{}/status", child.id());
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let value = line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse().ok());
        peak = value.unwrap_or(0).max(peak);
        std::thread::sleep(Duration::from_millis(20));
    }
    let ended: Said = said(child.wait_with_output().unwrap());
    assert_eq!(ended.code, 0, "{ended:?}");
    peak
}

#[test]
fn memory_does_not_grow_with_the_trials_that_are_over() {
    // That no table keeps them is asserted at the end of every run of a debug build.
    if !long() {
        return;
    }
    let (few, many) = (300, 3000);
    let grown = |trials: u64| {
        let project = Project::new(&counted(
            trials,
            "  in_flight: 4",
            "",
            "echo $X > loss.json",
            "",
        ));
        peak(&project, &["run", "--quiet", "-j", "4"])
    };
    let (small, large) = (grown(few), grown(many));
    let bytes = large.saturating_sub(small) * 1024;
    // The store's index keeps pages of what it has read and written.
    let allowed = (many - few) * 200 + (16 << 20);
    assert!(
        bytes < allowed,
        "{small} KiB with {few} trials, {large} KiB with {many}"
    );
}

/// The model was wrong and is mended: what failed by it is out of date, and what it gives is not mixed with that.
#[test]
fn trials_that_failed_by_other_code_are_out_of_date() {
    let job = "    inputs: [model.sh]";
    let project = Project::new(&counted(
        3,
        "  trials: 3",
        job,
        "sh model.sh $X > loss.json",
        "",
    ));
    project.write("model.sh", "exit 3");
    project.fails(1, &["run"]);
    assert_eq!(states(&project, "s"), [0, 3, 0]);
    project.write("model.sh", "echo $1");
    project
        .fails(2, &["run"])
        .has("has changed since its trials ended")
        .has("--study new")
        .has("rescore FILE --run-missing");
    project.ok(&["rescore", "--run-missing"]);
    assert_eq!(states(&project, "s"), [3, 0, 0]);
    project.ok(&["run"]);
    assert_eq!(project.executed(), 0);
}

/// Known trials count as they are: the study goes on though they are of other code.
#[test]
fn a_study_that_keeps_trials_of_other_code_goes_on() {
    let job = "    inputs: [model.sh]";
    let study = "  trials: ${{ params.n }}";
    let text = simple(study, job, "sh model.sh $X > loss.json", "")
        .replace("study:", "params: {n: {type: int, default: 3}}\nstudy:");
    let project = Project::new(&text);
    project.write("model.sh", "echo $1");
    project.ok(&["run"]);
    project.write("model.sh", "echo $(($1 + 1))");
    project
        .fails(2, &["run", "-p", "n=5"])
        .has_not("`dagrun rescore FILE` tells");
    project.ok(&["run", "-p", "n=5", "--study", "keep"]);
    assert_eq!(project.executed(), 2);
    project.ok(&["run", "-p", "n=6"]);
    assert_eq!((project.executed(), states(&project, "s")), (1, [6, 0, 0]));
}

/// A file that is saved while a study runs ends it: no trial fails for good by that.
#[test]
fn an_input_that_changes_while_a_study_runs_fails_no_trial() {
    let job = "    inputs: [model.sh]";
    let script = "echo $X > loss.json; if [ -f $FLAG ]; then exit 0; fi; touch $FLAG; echo '# saved' >> $MODEL";
    let project = Project::new(&counted(4, "  trials: 4\n  in_flight: 1", job, script, ""));
    project.write("model.sh", "true");
    let text = project
        .read("pipeline.yaml")
        .replace("$FLAG", &project.dir().join("flag").display().to_string())
        .replace(
            "$MODEL",
            &project.dir().join("model.sh").display().to_string(),
        );
    project.write("pipeline.yaml", &text);
    project
        .fails(1, &["run", "-j", "1"])
        .has("changed while the node ran");
    project.ok(&["run", "-j", "1"]);
    assert_eq!(states(&project, "s"), [4, 0, 0]);
}

/// Jobs of a trial that no objective needs run again in a rescore too: what they export is not left behind.
#[test]
fn a_rescore_runs_what_reads_the_scores() {
    let rest = "  tail:\n    needs: sim\n    outputs: {o: o.txt}\n    run: echo ${{ needs.sim.outputs.loss }} > ${{ outputs.o }}\nexport: {out/: \"${{ jobs.tail.outputs.o }}\"}";
    let job = "    inputs: [model.sh]";
    let text = counted(2, "  trials: 2", job, "sh model.sh $X > loss.json", rest);
    let project = Project::new(&text);
    project.write("model.sh", "echo $1");
    project.ok(&["run"]);
    let before = project.read_any("out");
    project.write("model.sh", "echo $(($1 + 10))");
    project.ok(&["rescore"]);
    assert_ne!(project.read_any("out"), before);
}
