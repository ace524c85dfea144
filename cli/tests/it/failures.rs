//! Nodes that fail: what is said, what goes on, what is tried again.

use crate::kit::Project;

fn job(recipe: &str) -> Project {
    Project::new(&format!(
        "dagrun: 1\nname: failing\njobs:\n  a:\n{recipe}\n"
    ))
}

#[test]
fn a_failure_is_told_with_all_that_helps() {
    let project = Project::new(
        r#"
dagrun: 1
name: failing
jobs:
  bad:
    run: |
      echo out of luck >&2
      exit 7
  after:
    needs: bad
    run: echo never
  beside:
    run: echo fine
"#,
    );
    let said = project.fails(1, &["run"]);
    said.has("bad")
        .has("exit code 7")
        .has("out of luck")
        .has("--only bad")
        .has("1 node");
    assert_eq!(
        project.counts(),
        [1, 0, 1, 1, 0],
        "what does not depend on the failure goes on"
    );
    project.fails(1, &["run", "--fail-fast", "-j", "1"]);
    project.ok(&["log", "bad"]).has("out of luck");
}

#[test]
fn a_failure_names_the_remedy_where_it_has_one() {
    let forgot = job("    run: cat data.csv");
    forgot.write("data.csv", "1\n");
    forgot
        .fails(2, &["report"])
        .has("nothing has run")
        .has_not("latest");
    forgot
        .fails(1, &["run"])
        .has("`data.csv` is in the project, but a node sees only its inputs");
    let silent = job("    run: exit 1");
    silent
        .fails(1, &["run"])
        .has("empty; `dagrun shell a`")
        .has_not("dagrun log a");
    let large = job(
        "    run: x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo $x > o\n    resources: {memory: 20MB}",
    );
    large
        .fails(1, &["run"])
        .has("out of memory")
        .has("retry: {when: oom, memory: 2x}");
}

#[test]
fn every_way_to_die_has_its_name() {
    for (recipe, words) in [
        ("    run: exit 3", "exit code 3"),
        ("    run: exit 200", "exit code 200"),
        ("    run: kill -SEGV $$", "killed by signal 11 (SIGSEGV)"),
        (
            "    inputs: [program.bin]\n    run: [./program.bin]",
            "neither a program for this machine nor a script",
        ),
        (
            "    inputs: [script.sh]\n    run: [./script.sh]",
            "its interpreter `/no/such`",
        ),
        ("    run: [no-such-program-anywhere]", "ENOENT"),
        ("    inputs: [plain.txt]\n    run: [./plain.txt]", "EACCES"),
        ("    run: sleep 60\n    timeout: 300ms", "timed out"),
        (
            "    run: \"true\"\n    outputs: {o: o.txt}",
            "declared output missing",
        ),
        ("    run: mkfifo o.txt\n    outputs: {o: o.txt}", "o"),
        (
            "    run: ln -s /etc/passwd o.txt\n    outputs: {o: o.txt}",
            "o",
        ),
        (
            "    run: echo nonsense > o.json\n    outputs: {o: {json: o.json}}",
            "JSON",
        ),
        (
            "    run: echo '{\"a\":1}' > o.json\n    outputs: {o: {json: o.json, pointer: /b}}",
            "/b",
        ),
        (
            "    run: echo '\"text\"' > o.json\n    outputs: {o: {json: o.json}}",
            "number",
        ),
    ] {
        let project = job(recipe);
        project.write("plain.txt", "text");
        for (name, text) in [("program.bin", "text"), ("script.sh", "#!/no/such\n")] {
            project.write(name, text);
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(project.dir().join(name), mode).unwrap();
        }
        project.fails(1, &["run"]).has(words);
        assert_eq!(project.counts()[2], 1, "{recipe}");
    }
}

#[test]
fn a_missing_output_lists_what_there_is() {
    let project = job("    run: touch close.txt\n    outputs: {o: closed.txt}");
    project
        .fails(1, &["run"])
        .has("closed.txt")
        .has("close.txt");
}

#[test]
fn retries_are_counted_and_stop() {
    let project = job("    run: echo attempt >&2; exit 1\n    retry: {max: 2, backoff: 10ms}");
    project.fails(1, &["run"]);
    assert_eq!(project.executed(), 3);
    let project = job("    run: exit 1\n    retry: {max: 2, when: [timeout], backoff: 10ms}");
    project.fails(1, &["run"]);
    assert_eq!(
        project.executed(),
        1,
        "an exit code is not among the causes to retry"
    );
}

#[test]
fn a_flaky_node_succeeds_in_the_end() {
    // `external` gives the node a place outside its folder to count its attempts.
    let project = Project::new("");
    let counter = project.folder.path().join("count");
    project.write(
        "pipeline.yaml",
        &format!(
            "dagrun: 1\nname: flaky\njobs:\n  a:\n    retry: {{max: 3, backoff: 10ms}}\n    run: echo x >> {0}; test $(wc -l < {0}) -ge 3\n",
            counter.display()
        ),
    );
    project.ok(&["run"]);
    assert_eq!(project.executed(), 3);
    assert_eq!(project.counts(), [1, 0, 0, 0, 0]);
}

#[test]
fn continue_on_error_counts_for_dependents_but_is_shown() {
    let project = Project::new(
        "dagrun: 1\nname: c\njobs:\n  a:\n    continue_on_error: true\n    run: exit 1\n  b:\n    needs: a\n    run: echo on\n",
    );
    project.fails(1, &["run"]).has("a");
    assert_eq!(project.counts(), [1, 0, 1, 0, 0], "`b` ran all the same");
}

#[test]
fn conditions_on_how_needs_ended() {
    let project = Project::new(
        r#"
dagrun: 1
name: conditions
jobs:
  bad: {run: exit 1}
  clean:
    needs: bad
    if: always()
    run: echo cleaning
  mourn:
    needs: bad
    if: failure()
    run: echo mourning
  cheer:
    needs: bad
    if: success()
    run: echo cheering
"#,
    );
    project.fails(1, &["run"]);
    assert_eq!(project.counts(), [2, 0, 1, 1, 0]);
}

#[test]
fn steps_end_at_the_first_failure_and_name_it() {
    let project = job(
        "    steps:\n      - {name: one, run: echo 1}\n      - {name: two, run: exit 4}\n      - {name: three, run: echo 3}",
    );
    project
        .fails(1, &["run"])
        .has("step `two`")
        .has("exit code 4");
}

#[test]
fn leftovers_are_killed_and_told() {
    let project = job("    run: (setsid sleep 300 &) ; echo done");
    project.ok(&["run"]).has("left 1 process");
}

#[test]
fn a_secret_is_masked_and_a_missing_one_fails_its_job_only() {
    let project = Project::new(
        "dagrun: 1\nname: s\nsecrets: [TOKEN_X]\njobs:\n  a:\n    secrets: [TOKEN_X]\n    run: echo token is $TOKEN_X; exit 1\n  b:\n    run: echo fine\n",
    );
    project.fails(1, &["run"]).has("TOKEN_X").has("not set");
    assert_eq!(project.counts(), [1, 0, 1, 0, 0]);
    let canary = "canary-5e1f0c";
    let mut places = Vec::new();
    for args in [
        &[
            "run",
            "-vv",
            "--events",
            "e.ndjson",
            "--profile",
            "trace.json",
        ][..],
        &["plan", "--json"],
        &["explain", "a"],
        &["show", "--json"],
        &["report", "--html", "page.html"],
        &["log", "a"],
        &["graph", "--format", "svg"],
        &["settings"],
    ] {
        let output = project
            .command(args)
            .env("TOKEN_X", canary)
            .output()
            .unwrap();
        let code = if args[0] == "run" { 1 } else { 0 };
        assert_eq!(output.status.code(), Some(code), "{args:?} {output:?}");
        places.extend([output.stdout, output.stderr]);
    }
    for folder in [project.dir(), project.cache()] {
        collect(&folder, &mut places);
    }
    let has = |word: &str| {
        let mut found = places.iter();
        found.any(|bytes| {
            bytes
                .windows(word.len())
                .any(|part| part == word.as_bytes())
        })
    };
    assert!(
        has("token is ***"),
        "the places that would show it are looked at"
    );
    assert!(!has(canary), "the secret is somewhere");
}

fn collect(folder: &std::path::Path, places: &mut Vec<Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, places);
        } else {
            places.push(std::fs::read(&path).unwrap());
        }
    }
}

#[test]
fn a_node_that_makes_other_bytes_is_found_out() {
    let project = job("    run: date +%N > ${{ outputs.o }}\n    outputs: {o: o.txt}");
    project.fails(1, &["check", "a", "--repeat", "3"]).has("o");
    let project = job("    run: echo same > ${{ outputs.o }}\n    outputs: {o: o.txt}");
    project.ok(&["check", "a", "--repeat", "3"]);
}

const SWEEP: &str = "dagrun: 1\nname: sweep\njobs:\n  score:\n    matrix: {x: [1, 2, 3, 4, 5, 6, 7, 8]}\n    outputs: {o: o.txt}\n    run: echo ${{ matrix.x }} > ${{ outputs.o }} && exit 3\n";

#[test]
fn one_bug_in_a_sweep_is_told_once() {
    let project = Project::new(SWEEP);
    let said = project.fails(1, &["run"]);
    said.has("and 7 more of `score` for the same reason: ");
    said.has("with DAGRUN_V1=o.txt");
    let told = said.stderr.matches("FAILED score[").count();
    assert_eq!(told, 5, "{said:?}");
    let shown = project.ok(&["show"]);
    shown.has("exit code 3 (and 7 more of `score`: ");
}

#[test]
fn a_node_that_failed_is_explained_by_its_failure() {
    let project = Project::new(SWEEP);
    project.fails(1, &["run"]);
    let planned = project.ok(&["plan"]);
    planned.has("score[x=1] and 7 more  failed in run ");
    project.ok(&["explain", "score[x=2]"]).has(": exit code 3");
    project
        .fails(2, &["log", "scor[x=1]"])
        .has("did you mean `score[x=1]`?");
    project
        .fails(2, &["log", "score"])
        .has("name one, such as score[x=");
}

#[test]
fn what_no_worker_has_is_named() {
    let project = Project::new(
        "dagrun: 1\nname: big\njobs:\n  a:\n    resources: {cpus: 64}\n    outputs: {o: o.txt}\n    run: touch o.txt\n",
    );
    let said = project.fails(3, &["run", "-j", "2"]);
    said.has("`a` asks for 64 CPUs, and the largest worker has 2 CPUs");
    said.has("1 not run");
    project.ok(&["explain", "a"]).has("it asks for 64 CPUs");
}

#[test]
fn a_limit_by_flag_takes_what_was_made_just_now() {
    let project = Project::new(
        "dagrun: 1\nname: g\njobs:\n  a:\n    outputs: {o: o.txt}\n    run: echo x > o.txt\n",
    );
    project.ok(&["run"]);
    project
        .ok(&["gc", "--max-size", "1"])
        .has("deleted 0 entries and 1 blob, 2 B; 0 B stay");
}

#[test]
fn threads_are_probed() {
    let project = Project::new(
        r#"
dagrun: 1
name: threads
jobs:
  work:
    matrix: {case: [good, bad]}
    outputs: {o: o.txt}
    run: |
      [ ${{ matrix.case }} = good ] || exit 3
      sleep $(awk "BEGIN {print 0.8 / ($OMP_NUM_THREADS * $OMP_NUM_THREADS)}"); echo done > ${{ outputs.o }}
  never: {if: "${{ 1 == 2 }}", outputs: {o: o.txt}, run: touch o.txt}
"#,
    );
    let probe = |node: &str| {
        [
            "probe".to_owned(),
            node.to_owned(),
            "--threads=1,4".to_owned(),
            "--repeat=2".to_owned(),
        ]
    };
    let good = probe("work[case=good]");
    let mut good: Vec<&str> = good.iter().map(String::as_str).collect();
    project
        .ok(&good)
        .has("threads")
        .has("speed-up")
        .has("best: 4 threads, alone");
    good.push("--json");
    let found = project.json(&good);
    let seconds = |ix: usize| found["threads"][ix]["seconds"].as_f64().unwrap();
    assert!(
        seconds(0) > seconds(1) && found["threads"][1]["threads"] == 4,
        "{found}"
    );
    let bad = probe("work[case=bad]");
    let bad: Vec<&str> = bad.iter().map(String::as_str).collect();
    project
        .fails(1, &bad)
        .has("no attempt succeeded")
        .has("exit code 3");
    project
        .fails(2, &["probe", "work[case=good]", "--threads", "0"])
        .has("write numbers such as 1,2,4");
    project.fails(2, &["probe", "never"]);
    // Nothing of it is cached.
    project.ok(&["plan"]).has_not("hit    ");
}
