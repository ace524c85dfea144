//! Staging, commands, variables and outputs of actions.

use dagrun_model::Artifact;

use crate::world::{Results, World, action, all_succeed, failure, file, ids, node, staged, value};

#[test]
fn project_files_keep_their_paths_and_outputs_go_below_in() {
    let plan = World::jobs(
        r#"
a:
  replicates: 2
  outputs: {o: out/result.csv, d: dir/}
  run: [a]
b:
  needs: a
  inputs:
    code: src/
    all: ["data/*.csv", "${{ needs.a.outputs.o }}", extra.txt]
    one: main.py
    folders: "${{ needs.a.outputs.d }}"
  run: [b, "${{ inputs.code }}", "${{ inputs.all }}", "${{ inputs.one }}", "${{ inputs.folders }}"]
"#,
    )
    .file("src/x.py", "x")
    .file("src/sub/y.py", "y")
    .file("data/1.csv", "1")
    .file("data/2.csv", "2")
    .file("data/note.txt", "n")
    .file("extra.txt", "e")
    .file("main.py", "m")
    .plan();
    let results = all_succeed(&plan);
    let action = action(&plan, "b", &results);
    assert_eq!(
        staged(&action),
        [
            "data/1.csv <- data/1.csv",
            "data/2.csv <- data/2.csv",
            "extra.txt <- extra.txt",
            "in/all/000000/result.csv <- file",
            "in/all/000001/result.csv <- file",
            "in/folders/000000/dir <- file",
            "in/folders/000001/dir <- file",
            "main.py <- main.py",
            "src/sub/y.py <- src/sub/y.py",
            "src/x.py <- src/x.py",
        ]
    );
    assert_eq!(
        action.commands[0].argv.join(" "),
        "b src data/1.csv data/2.csv in/all/000000/result.csv in/all/000001/result.csv extra.txt main.py in/folders/000000/dir in/folders/000001/dir"
    );
}

#[test]
fn references_in_commands_are_inputs_by_themselves() {
    let plan = World::jobs(
        "a: {outputs: {o: o.csv, v: {json: v.json}}, run: [a]}\nb:\n  needs: a\n  env: {P: '${{ needs.a.outputs.o }}'}\n  run: cat ${{ needs.a.outputs.o }} ${{ needs.a.outputs.v }}\n",
    )
    .plan();
    let mut results = Results::default();
    results.succeed(
        node(&plan, "a"),
        [("o", file("o")), ("v", value(1.5.into()))],
    );
    let action = action(&plan, "b", &results);
    assert_eq!(staged(&action), ["in/a.o/o.csv <- file"]);
    assert_eq!(action.env, [("P".to_owned(), "in/a.o/o.csv".to_owned())]);
    let command = &action.commands[0];
    assert_eq!(
        command.script.as_deref().map(str::trim),
        Some("cat \"${DAGRUN_V0}\" \"${DAGRUN_V1}\"")
    );
    assert_eq!(command.env[1], ("DAGRUN_V1".to_owned(), "1.5".to_owned()));
}

#[test]
fn long_lists_have_a_file() {
    let plan = World::jobs(
        "a: {replicates: 2, outputs: {o: o}, run: [a]}\nb:\n  needs: a\n  inputs: {all: '${{ needs.a.outputs.o }}'}\n  run: [b, '${{ inputs.all.list }}']\n",
    )
    .plan();
    let action = action(&plan, "b", &all_succeed(&plan));
    assert_eq!(action.commands[0].argv, ["b", "in/all.list"]);
    assert!(
        staged(&action)
            .contains(&"in/all.list <- \"in/all/000000/o\\nin/all/000001/o\\n\"".to_owned())
    );
}

#[test]
fn a_command_line_that_is_too_long_names_the_list_file() {
    let plan = World::jobs(
        "a: {replicates: 90000, outputs: {o: o}, run: [a]}\nb:\n  needs: a\n  inputs: {all: '${{ needs.a.outputs.o }}'}\n  run: [b, '${{ inputs.all }}']\nc:\n  needs: a\n  inputs: {all: '${{ needs.a.outputs.o }}'}\n  run: c ${{ inputs.all }}\n",
    )
    .plan();
    let results = all_succeed(&plan);
    for id in ["b", "c"] {
        let message = failure(&plan, id, &results).to_string();
        assert!(message.contains("${{ inputs.all.list }}"), "{message}");
    }
}

#[test]
fn an_output_is_never_where_an_input_is_staged() {
    let check = |outputs: &str, inputs: &str, expected: Option<&str>| {
        let world = World::jobs(&format!(
            "a:\n  matrix: {{x: [one, b]}}\n  inputs: {inputs}\n  outputs: {outputs}\n  run: [a, '${{{{ matrix.x }}}}']\n"
        ))
        .file("data.csv", "1")
        .file("src-x", "1")
        .file("src/b.rs", "1")
        .file("src/one/c.rs", "1");
        match expected {
            None => assert!(world.try_plan().is_ok(), "{outputs} {inputs}"),
            Some(words) => {
                let errors = world.errors();
                assert_eq!(errors.len(), 1, "{outputs} {inputs}: {errors:?}");
                assert!(errors[0].contains(words), "{outputs} {inputs}: {errors:?}");
            }
        }
    };
    check(
        "{o: data.csv}",
        "[data.csv]",
        Some("output `o` is at `data.csv`, where an input is staged"),
    );
    check(
        "{p: p, o: ./data.csv}",
        "{d: '*.csv'}",
        Some("where an input is staged"),
    );
    check(
        "{o: src}",
        "['src/**']",
        Some("the folder `src`, in which the input `src/b.rs`"),
    );
    check(
        "{o: data.csv/x/y}",
        "[data.csv]",
        Some("below the input file `data.csv`"),
    );
    check(
        "{o: 'src/${{ matrix.x }}.rs'}",
        "[src/]",
        Some("`src/b.rs`, where an input"),
    );
    check(
        "{o: 'src/${{ matrix.x }}'}",
        "{s: 'src/${{ matrix.x }}*'}",
        Some("in which the input `src/one/c.rs`"),
    );
    check(
        "{o: src/c.rs, p: 'p-${{ matrix.x }}'}",
        "['src/**', data.csv]",
        None,
    );
    check("{o: src}", "[src-x]", None);
    check("{o: in}", "[data.csv]", Some("inputs are staged in `in/`"));
    check(
        "{o: 'in/${{ matrix.x }}'}",
        "[data.csv]",
        Some("inputs are staged in `in/`"),
    );
    check("{o: inner/in}", "[data.csv]", None);
}

#[test]
fn an_export_that_an_input_finds_gets_a_warning() {
    let warnings = |input: &str, target: &str| {
        let text = World::jobs(&format!(
            "a:\n  matrix: {{x: [1]}}\n  inputs: [{input}]\n  outputs: {{o: o.csv}}\n  run: [a, '${{{{ matrix.x }}}}']\n"
        ))
        .text;
        World::text(&format!(
            "{text}export: {{{target}: '${{{{ jobs.a.outputs.o }}}}'}}\n"
        ))
        .file("data/a.csv", "1")
        .file("data/b.csv", "1")
        .file("res.csv", "1")
        .warnings()
    };
    for (input, target, file) in [
        ("'*.csv'", "res.csv", "res.csv"),
        ("data", "data/b.csv", "data/b.csv"),
        ("'data/*.csv'", "data/", "data/x=1.csv"),
    ] {
        let said = warnings(input, target);
        let pattern = input.trim_matches('\'');
        let expected = format!("`{file}` is exported, and the input `{pattern}` finds it");
        assert!(said.len() == 1 && said[0].contains(&expected), "{said:?}");
    }
    assert!(warnings("data", "res/").is_empty());
    assert!(warnings("'*.csv'", "data/x.csv").is_empty());
}

#[test]
fn what_is_too_long_for_the_system_is_found_in_the_plan() {
    let check = |job: &str, expected: Option<&str>| {
        let mut world = World::jobs(&format!("a: {job}\n")).param("long", &"x".repeat(140_000));
        world.text = format!(
            "params: {{long: {{type: string, default: ''}}}}\n{}",
            world.text
        );
        for n in 0..70 {
            world = world.file(&format!("{n:02}{}", "y".repeat(2000)), "1");
        }
        match (world.try_plan(), expected) {
            (Ok(_), None) => {}
            (Err(errors), Some(words)) => {
                let said = format!("{} {:?}", errors[0].message, errors[0].help);
                assert!(
                    errors.len() == 1 && said.contains(words),
                    "{job}: {errors:?}"
                );
            }
            (Ok(_), Some(_)) => panic!("{job} is accepted"),
            (Err(errors), None) => panic!("{job}: {errors:?}"),
        }
    };
    let one = Some("140000 bytes, and the limit is 128 KiB");
    let all = Some("the limit is 1 MiB");
    check("{run: [a, '${{ params.long }}']}", one);
    check("{run: 'a ${{ params.long }}'}", one);
    check("{env: {A: '${{ params.long }}'}, run: [a]}", one);
    check(
        "{matrix: {x: [1, 2]}, run: [a, '${{ matrix.x }}', '${{ params.long }}']}",
        one,
    );
    check("{run: [a, '${{ range(1, 200000) }}']}", all);
    check("{run: 'a ${{ range(1, 200000) }}'}", all);
    check(
        "{run: 'a ${{ range(1, 100000) }} ${{ range(1, 100000) }}'}",
        None,
    );
    check(
        "{steps: [{run: [a, '${{ range(1, 150000) }}']}, {run: [a, '${{ range(1, 150000) }}']}]}",
        None,
    );
    let list = "{inputs: {i: '*'}, run: [a, \"${{ inputs.i }}\", \"${{ inputs.i }}\", \"${{ inputs.i }}\", \"${{ inputs.i }}\", \"${{ inputs.i }}\", \"${{ inputs.i }}\", \"${{ inputs.i }}\", \"${{ inputs.i }}\"]}";
    check(list, Some("${{ inputs.i.list }}"));
    check("{inputs: {i: '*'}, run: [a, '${{ inputs.i }}']}", None);
}

#[test]
fn inputs_that_would_be_staged_at_one_path_are_found_in_the_plan() {
    let check = |inputs: &str, expected: Option<&str>| {
        let world = World::jobs(&format!(
            "m: {{outputs: {{list: o.txt, p: p.txt}}, run: [m]}}\na:\n  needs: m\n  inputs: {inputs}\n  run: [a, '${{{{ needs.m.outputs.p }}}}']\n"
        ))
        .file("in/x/o.txt", "1")
        .file("in/y", "1")
        .file("in/z/other", "1")
        .file("/d/a.csv", "1")
        .file("/e/a.csv", "2");
        match (world.try_plan(), expected) {
            (Ok(_), None) => {}
            (Err(errors), Some(path)) => {
                let expected = format!("two inputs would be staged at `{path}`");
                assert!(
                    errors.len() == 1 && errors[0].message == expected,
                    "{inputs}: {errors:?}"
                );
            }
            (Ok(_), Some(_)) => panic!("{inputs} is accepted"),
            (Err(errors), None) => panic!("{inputs}: {errors:?}"),
        }
    };
    let o = "'${{ needs.m.outputs.list }}'";
    check(&format!("{{x: {o}, f: in/x/o.txt}}"), Some("in/x/o.txt"));
    check(&format!("{{y: {o}, f: in}}"), Some("in/y"));
    check(&format!("{{z: {o}, f: in}}"), None);
    check(&format!("[{o}, {o}]"), None);
    let external = |path: &str| format!("{{path: {path}, external: true}}");
    let (d, e) = (external("/d/a.csv"), external("/e/a.csv"));
    check(&format!("[{d}, {e}]"), Some("in/external/a.csv"));
    check(&format!("{{d: {d}, e: {e}}}"), None);
    check(&format!("[{d}, {d}]"), None);
}

#[test]
fn threads_set_variables_unless_they_are_declared() {
    let plan = World::jobs("a: {threads: 3, env: {MKL_NUM_THREADS: '1'}, run: [a]}\n").plan();
    let action = action(&plan, "a", &all_succeed(&plan));
    let env: Vec<String> = action
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert_eq!(
        env,
        [
            "MKL_NUM_THREADS=1",
            "OMP_NUM_THREADS=3",
            "OPENBLAS_NUM_THREADS=3",
            "NUMEXPR_NUM_THREADS=3"
        ]
    );
}

#[test]
fn shells_and_steps() {
    let plan = World::jobs(
        r#"
a:
  matrix: {x: [1, 2]}
  steps:
    - {name: first, run: "echo ${{ matrix.x }}", shell: sh, env: {Q: "${{ matrix.x }}"}}
    - {run: print(1), shell: python3}
    - {name: only, if: "${{ matrix.x == 2 }}", run: [true]}
"#,
    )
    .plan();
    let results = all_succeed(&plan);
    let one = action(&plan, "a[x=1]", &results);
    let names: Vec<&str> = one
        .commands
        .iter()
        .map(|command| command.name.as_str())
        .collect();
    assert_eq!(names, ["first", "step 2"]);
    assert_eq!(one.commands[0].argv, ["sh", "-eu"]);
    assert_eq!(one.commands[0].env[0], ("Q".to_owned(), "1".to_owned()));
    assert_eq!(one.commands[1].argv, ["python3"]);
    assert_eq!(one.commands[1].script.as_deref(), Some("print(1)"));
    assert_eq!(action(&plan, "a[x=2]", &results).commands.len(), 3);
}

#[test]
fn outputs_know_their_paths() {
    let plan = World::jobs(
        "a:\n  matrix: {x: [1]}\n  outputs: {r: 'r-${{ matrix.x }}.txt', v: {json: v.json, pointer: /a, type: string}, log: log.txt}\n  stdout: log\n  run: [a, '${{ outputs.r }}']\n",
    )
    .plan();
    let action = action(&plan, "a[x=1]", &all_succeed(&plan));
    let paths: Vec<&str> = action
        .outputs
        .iter()
        .map(|output| output.path.as_str())
        .collect();
    assert_eq!(paths[..2], ["r-1.txt", "v.json"]);
    assert_eq!(
        action.outputs[1].json,
        Some(("/a".to_owned(), dagrun_model::JsonType::String))
    );
    assert_eq!(action.commands[0].argv[1], "r-1.txt");
    assert!(action.stdout.is_some());
}

#[test]
fn attempt_and_run_need_cache_never() {
    let plan =
        World::jobs("a: {cache: never, run: [a, '${{ attempt }}', '${{ run.id }}']}\n").plan();
    let action = action(&plan, "a", &all_succeed(&plan));
    assert_eq!(action.commands[0].argv, ["a", "1", "run-1"]);
}

#[test]
fn missing_files_are_errors_and_empty_globs_warnings() {
    let world = World::jobs(
        "a: {inputs: [gone.txt, '*.none', dir/], run: [a]}\nb: {inputs: [gone.txt], run: [b]}\n",
    );
    let errors = world.errors();
    assert_eq!(
        errors,
        [
            "4: missing-input: there is no file `gone.txt`",
            "4: missing-input: there is no file `dir`"
        ]
    );
    let world = World::jobs("a: {inputs: ['*.none'], run: [a]}\n");
    assert_eq!(world.warnings(), ["empty-glob: `*.none` matches no file"]);
}

#[test]
fn what_skipped_jobs_lack_is_no_error() {
    let plan =
        World::jobs("a: {if: '${{ 1 > 2 }}', inputs: [gone.txt], run: [a]}\nb: {run: [b]}\n")
            .plan();
    assert_eq!(plan.skipped(), ["a"]);
}

#[test]
fn a_place_that_jobs_share_is_said_once() {
    let world = World::text(
        "dagrun: 1\nname: t\ntoolchain: [cc --version]\njobs:\n  a: {run: [a]}\n  b: {run: [b]}\n",
    );
    assert_eq!(world.errors().len(), 1);
}

#[test]
fn paths_stay_in_the_project_unless_external() {
    for path in ["/etc/hosts", "../x", "a/../../x", "https://example.org/x"] {
        let parsed = dagrun_dsl::parse(
            "p",
            &format!("dagrun: 1\nname: t\njobs:\n  a: {{inputs: ['{path}'], run: [a]}}\n"),
            &dagrun_dsl::NoFiles,
        );
        let refused_by_reader = parsed
            .diagnostics
            .iter()
            .any(dagrun_model::Diagnostic::is_error);
        let refused = refused_by_reader
            || World::jobs(&format!("a: {{inputs: ['{path}'], run: [a]}}\n"))
                .try_plan()
                .is_err();
        assert!(refused, "{path}");
    }
    let plan = World::jobs("a: {inputs: {d: {path: /data/set, external: true}, f: {path: /data/x.csv, external: true}}, run: [a, '${{ inputs.d }}', '${{ inputs.f }}']}\n")
        .file("/data/set/1", "1")
        .file("/data/set/deep/2", "2")
        .file("/data/x.csv", "x")
        .plan();
    let action = action(&plan, "a", &all_succeed(&plan));
    assert_eq!(
        staged(&action),
        [
            "in/d/set/1 <- /data/set/1",
            "in/d/set/deep/2 <- /data/set/deep/2",
            "in/f/x.csv <- /data/x.csv",
        ]
    );
    assert_eq!(action.commands[0].argv, ["a", "in/d/set", "in/f/x.csv"]);
}

#[test]
fn overlapping_globs_are_merged() {
    let plan = World::jobs("a: {inputs: ['src/**', src/x.py, 'src/*.py'], run: [a]}\n")
        .file("src/x.py", "x")
        .plan();
    assert_eq!(
        staged(&action(&plan, "a", &all_succeed(&plan))),
        ["src/x.py <- src/x.py"]
    );
}

#[test]
fn optional_outputs_that_are_absent_are_not_staged() {
    let plan = World::jobs(
        "a: {matrix: {x: [1, 2]}, outputs: {o: {path: o, optional: true}}, run: [a, '${{ matrix.x }}']}\nb: {needs: a, inputs: {all: '${{ needs.a.outputs.o }}'}, run: [b, '${{ inputs.all }}']}\n",
    )
    .plan();
    let mut results = Results::default();
    results.succeed(node(&plan, "a[x=1]"), [("o", Artifact::Absent)]);
    results.succeed(node(&plan, "a[x=2]"), [("o", file("2"))]);
    assert_eq!(
        action(&plan, "b", &results).commands[0].argv,
        ["b", "in/all/000000/o"]
    );
}

#[test]
fn overlapping_outputs_are_refused() {
    for outputs in [
        "{a: '${{ params.d }}', b: out/x.txt}",
        "{a: out/x.txt, b: '${{ params.d }}/x.txt'}",
    ] {
        let text = format!(
            "dagrun: 1\nname: t\nparams: {{d: {{type: string, default: out}}}}\njobs:\n  a: {{outputs: {outputs}, run: [a]}}\n"
        );
        let errors = World::text(&text).errors();
        assert!(errors[0].contains("overlapping-outputs"), "{errors:?}");
    }
}

#[test]
fn hash_files_is_known_when_the_plan_is_made() {
    let jobs = "a: {env: {H: \"${{ hashFiles('*.lock') }}\"}, run: [a]}\n";
    let hash = |content: &str| {
        let plan = World::jobs(jobs).file("x.lock", content).plan();
        let env = action(&plan, "a", &all_succeed(&plan)).env;
        (env[0].1.clone(), plan.key(node(&plan, "a")))
    };
    assert_eq!(hash("1").0.len(), 64);
    assert_ne!(hash("1"), hash("2"));
}

#[test]
fn git_is_asked_for_only_where_it_is_used() {
    let mut world = World::jobs("a: {run: [a, '${{ git.branch }}']}\n");
    assert!(world.expansion().expect("an expansion").facts_needed().git);
    assert!(world.errors()[0].contains("not in a git repository"));
    world.git = Some(dagrun_plan::GitFacts {
        commit: "abc".into(),
        branch: "main".into(),
        dirty: false,
    });
    let plan = world.plan();
    assert_eq!(
        action(&plan, "a", &all_succeed(&plan)).commands[0].argv,
        ["a", "main"]
    );
    assert!(
        !World::jobs("a: {run: [a]}\n")
            .expansion()
            .expect("an expansion")
            .facts_needed()
            .git
    );
}

#[test]
fn a_folder_target_takes_all_files_named_by_their_axes() {
    let world = |target: &str| {
        World::text(&format!(
            "dagrun: 1\nname: t\njobs:\n  a: {{matrix: {{x: [1, 'p/q']}}, outputs: {{o: out/r.csv}}, run: [a, '${{{{ matrix.x }}}}']}}\nexport: {{{target}: '${{{{ jobs.a.outputs.o }}}}'}}\n"
        ))
    };
    let plan = world("res/").plan();
    let targets: Vec<String> = plan
        .exports()
        .into_iter()
        .map(|export| export.target)
        .collect();
    assert_eq!(targets, ["res/x=1.csv", "res/x=p%2Fq.csv"]);
    let errors = world("res").errors();
    assert!(
        errors[0].contains("job `a` has 2 nodes, which cannot all be `res`"),
        "{errors:?}"
    );
    assert_eq!(ids(&plan).len(), 2);
}
