//! What is in a key and what is not; merging; pinned vectors.

use std::time::Duration;

use dagrun_model::Digest;
use dagrun_plan::{KeyPartKind, Plan};

use crate::{
    files::sweep,
    world::{Results, World, action, all_succeed, file, ids, node, value},
};

const BASE: &str = r#"
make:
  outputs: {o: o.txt}
  run: make > ${{ outputs.o }}
use:
  needs: make
  matrix: {x: [1, 2]}
  inputs: {data: "${{ needs.make.outputs.o }}", code: code.py}
  outputs: {r: r.txt}
  env: {A: "1"}
  run: [use, "${{ inputs.data }}", "${{ matrix.x }}"]
"#;

fn base(jobs: &str) -> World {
    let text = World::jobs(jobs)
        .text
        .replace("jobs:", "secrets: [S]\njobs:");
    World::text(&text)
        .file("code.py", "code")
        .file("other.py", "other")
}

fn keys(plan: &Plan) -> Vec<Digest> {
    plan.nodes().map(|node| plan.key(node)).collect()
}

/// Replaces a text in the base pipeline and says which keys change: of `make` and of `use`.
fn check(from: &str, to: &str, expected: (bool, bool)) {
    assert!(BASE.contains(from), "{from}");
    let before = keys(&base(BASE).plan());
    let after = keys(&base(&BASE.replace(from, to)).plan());
    assert_eq!(
        (before[0] != after[0], before[1] != after[1]),
        expected,
        "{from} -> {to}"
    );
}

#[test]
fn what_a_node_does_is_in_its_key() {
    check("make >", "make -j >", (true, true));
    check("[use,", "[use2,", (false, true));
    check("o.txt", "p.txt", (true, true));
    check("{A: \"1\"}", "{A: \"2\"}", (false, true));
    check("{A: \"1\"}", "{A: \"1\", B: x}", (false, true));
    check("r: r.txt", "r: s.txt", (false, true));
    check("r: r.txt", "q: r.txt", (false, true));
    check("code: code.py", "code: other.py", (false, true));
    check("x: [1, 2]", "x: [3, 2]", (false, true));
    check("x: [1, 2]", "x: [1.0, 2]", (false, true));
    check("  env:", "  secrets: [S]\n  env:", (false, true));
    check("  env:", "  threads: 2\n  env:", (false, true));
    check("  env:", "  cache: never\n  env:", (false, true));
    check(
        "{r: r.txt}",
        "{r: {path: r.txt, optional: true}}",
        (false, true),
    );
    check(
        "{r: r.txt}",
        "{r: {json: r.txt, pointer: /a}}",
        (false, true),
    );
    check("make > ", "set -x\n    make > ", (true, true));
    check("  run: make", "  shell: sh\n  run: make", (true, true));
}

#[test]
fn what_does_not_change_a_result_is_not() {
    for (from, to) in [
        ("  env:", "  timeout: 5m\n  env:"),
        ("  env:", "  resources: {cpus: 2, memory: 1GiB}\n  env:"),
        ("  env:", "  retry: {max: 2}\n  env:"),
        ("  env:", "  executor: big\n  env:"),
        ("  env:", "  pass_env: [FOO]\n  env:"),
        ("  env:", "  continue_on_error: true\n  env:"),
        ("  env:", "  speculate: true\n  env:"),
        ("code: code.py", "script: code.py"),
        ("x: [1, 2]", "x: [1, 2, 3]"),
        ("x: [1, 2]", "x: [1]"),
        ("x: [1, 2]", "x: [1, 2], y: [5]"),
        ("make:\n  out", "other: {run: [other]}\nmake:\n  out"),
    ] {
        if to.starts_with("other") {
            let before = base(BASE).plan();
            let after = base(&BASE.replace(from, to)).plan();
            assert_eq!(
                before.key(node(&before, "use[x=1]")),
                after.key(node(&after, "use[x=1]"))
            );
        } else {
            check(from, to, (false, false));
        }
    }
}

/// The keys of `use` with these inputs and this command.
fn keys_with_inputs(inputs: &str, run: &str) -> Vec<Digest> {
    let jobs = format!(
        r#"
make: {{outputs: {{o: o.txt, p: p.txt}}, run: [make]}}
use:
  needs: make
  matrix: {{x: [code, other]}}
  inputs: {inputs}
  run: {run}
"#
    );
    let plan = base(&jobs).plan();
    ["use[x=code]", "use[x=other]"]
        .map(|id| plan.key(node(&plan, id)))
        .to_vec()
}

#[test]
fn the_order_of_named_inputs_is_not_in_the_key() {
    let x = r#""${{ matrix.x }}.py""#;
    let (o, p) = (
        r#""${{ needs.make.outputs.o }}""#,
        r#""${{ needs.make.outputs.p }}""#,
    );
    for run in [
        r#"[use, "${{ inputs.a }}", "${{ inputs.b }}", "${{ inputs.c }}", "${{ inputs.d }}", "${{ inputs.e }}"]"#,
        r#"[use, "${{ inputs.a.list }}", "${{ inputs.d.list }}", "${{ inputs.b }}"]"#,
        "cat ${{ inputs.d }} ${{ inputs.b }}",
    ] {
        let one = keys_with_inputs(
            &format!("{{a: {o}, b: code.py, c: {p}, d: {x}, e: [code.py, other.py]}}"),
            run,
        );
        let other = keys_with_inputs(
            &format!("{{e: [code.py, other.py], d: {x}, c: {p}, b: code.py, a: {o}}}"),
            run,
        );
        assert_eq!(one, other, "{run}");
        let list = keys_with_inputs(
            &format!("{{e: [other.py, code.py], d: {x}, c: {p}, b: code.py, a: {o}}}"),
            run,
        );
        assert_ne!(one, list, "{run}: the order of a list");
        let swapped = keys_with_inputs(
            &format!("{{e: [code.py, other.py], d: {x}, c: {o}, b: code.py, a: {p}}}"),
            run,
        );
        assert_ne!(one, swapped, "{run}: what the names stand for");
    }
    let lists = |inputs: &str| {
        keys_with_inputs(
            inputs,
            r#"[use, "${{ inputs.a.list }}", "${{ inputs.b.list }}"]"#,
        )
    };
    assert_ne!(
        lists("{a: code.py, b: other.py}"),
        lists("{a: other.py, b: code.py}")
    );
    let whole = |inputs: &str| keys_with_inputs(inputs, r#"[use, "${{ join(inputs.*, ' ') }}"]"#);
    assert_ne!(
        whole("{a: code.py, b: other.py}"),
        whole("{b: other.py, a: code.py}")
    );
}

#[test]
fn names_of_jobs_and_axes_are_not_in_keys() {
    let renamed = BASE
        .replace("make:\n  out", "produce:\n  out")
        .replace("needs: make", "needs: produce");
    let renamed = renamed
        .replace("needs.make", "needs.produce")
        .replace("use:\n", "consume:\n");
    let renamed = renamed
        .replace("{x:", "{z:")
        .replace("matrix.x", "matrix.z");
    assert_eq!(keys(&base(BASE).plan()), keys(&base(&renamed).plan()));
}

#[test]
fn files_are_in_keys_by_content_and_path() {
    let before = keys(&base(BASE).plan());
    let after = keys(&base(BASE).file("code.py", "changed").plan());
    assert_eq!(
        (before[0] == after[0], before[1] == after[1]),
        (true, false)
    );
}

#[test]
fn platform_and_isolation_are_in_keys() {
    let before = keys(&base(BASE).plan());
    let arch = base(BASE).with(|options| options.arch = "riscv".into());
    let isolation = base(BASE).with(|options| options.isolation = "namespace".into());
    assert_ne!(before[0], keys(&arch.plan())[0]);
    assert_ne!(before[0], keys(&isolation.plan())[0]);
}

#[test]
fn order_only_needs_are_not_in_keys_but_are_waited_for() {
    let with = World::jobs("a: {run: [a]}\nb: {needs: a, run: [b]}\n").plan();
    let without = World::jobs("a: {run: [a]}\nb: {run: [b]}\n").plan();
    assert_eq!(keys(&with), keys(&without));
    assert_eq!(
        with.upstream(node(&with, "b")).collect::<Vec<_>>(),
        [node(&with, "a")]
    );
}

#[test]
fn cells_that_do_the_same_are_one_node() {
    let plan = World::jobs(
        r#"
a:
  matrix: {x: [1, 2], unused: [p, q, r]}
  resources: {cpus: "${{ matrix.unused == 'q' ? 3 : 1 }}"}
  timeout: 1m
  outputs: {o: o}
  run: [a, "${{ matrix.x }}"]
b:
  needs: a
  run: [b, "${{ needs.a.outputs.o }}"]
"#,
    )
    .plan();
    assert_eq!(ids(&plan), ["a[x=1,unused=p]", "a[x=2,unused=p]", "b"]);
    let first = node(&plan, "a[x=1,unused=r]");
    assert_eq!(
        plan.ids(first),
        ["a[x=1,unused=p]", "a[x=1,unused=q]", "a[x=1,unused=r]"]
    );
    assert_eq!(plan.class(first).resources.cpu_milli, 3000);
    assert_eq!(plan.counts().naive, 7);
    // The gather still has a position for each cell.
    let results = all_succeed(&plan);
    assert_eq!(action(&plan, "b", &results).inputs.len(), 6);
    let set = plan.sets(node(&plan, "b"))[0];
    assert_eq!(plan.members(set), [first, node(&plan, "a[x=2,unused=p]")]);
}

#[test]
fn jobs_that_do_the_same_are_one_node_with_the_largest_limits() {
    let plan = World::jobs(
        "a: {run: [x], timeout: 1m, retry: {max: 1}}\nb: {run: [x], timeout: 5m, resources: {memory: 1GiB}}\nc: {needs: a, run: [x]}\nd: {needs: c, run: [y]}\n",
    )
    .plan();
    let x = node(&plan, "a");
    assert_eq!(
        ids(&plan),
        ["a", "c", "d"],
        "c waits for a: it stays apart, and is a hit when its turn comes"
    );
    assert_eq!(plan.ids(x), ["a", "b"]);
    let class = plan.class(x);
    assert_eq!(class.timeout, Some(Duration::from_secs(300)));
    assert_eq!((class.max_retries, class.resources.memory), (1, 1 << 30));
    assert_eq!(plan.upstream(x).count(), 0);
}

#[test]
fn equal_work_is_not_merged_where_other_nodes_decide_about_it() {
    for (jobs, expected) in [
        (
            "bad: {run: [z]}\na: {needs: bad, run: [x]}\nb: {run: [x]}\n",
            vec!["bad", "a", "b"],
        ),
        (
            "f: {matrix: {i: [1, 2]}, run: [z, '${{ matrix.i }}']}\ng: {needs: [{job: f, min: 1}], run: [x]}\nh: {needs: f, run: [x]}\n",
            vec!["f[i=1]", "f[i=2]", "g", "h"],
        ),
        (
            "a: {run: [x], continue_on_error: true}\nb: {run: [x]}\n",
            vec!["a", "b"],
        ),
        (
            "n: {run: [z]}\na: {needs: n, run: [x]}\nb: {needs: n, run: [x]}\n",
            vec!["n", "a"],
        ),
    ] {
        assert_eq!(ids(&World::jobs(jobs).plan()), expected, "{jobs}");
    }
}

#[test]
fn merging_never_makes_a_node_wait_for_what_comes_after_it() {
    let plan = World::jobs(
        "a: {run: [x], outputs: {o: o}}\nb: {needs: a, run: [y, '${{ needs.a.outputs.o }}']}\nc: {needs: b, run: [x], outputs: {o: o}}\n",
    )
    .plan();
    assert_eq!(ids(&plan), ["a", "b", "c"]);
    assert_eq!(plan.key(node(&plan, "a")), plan.key(node(&plan, "c")));
    for node in plan.nodes() {
        assert!(plan.upstream(node).all(|above| above < node));
    }
}

#[test]
fn never_cached_nodes_are_never_merged() {
    let plan = World::jobs("a: {run: [x], cache: never}\nb: {run: [x], cache: never}\n").plan();
    assert_eq!(plan.len(), 2);
    assert!(plan.delta().classes.iter().all(|class| class.never_cache));
}

#[test]
fn own_replicates_are_never_merged() {
    let plan = World::jobs("a: {replicates: 3, run: [a]}\n").plan();
    assert_eq!(plan.len(), 3);
}

#[test]
fn more_replicates_keep_the_keys_of_the_first() {
    let few = World::jobs("a: {replicates: 3, run: [a]}\n").plan();
    let many = World::jobs("a: {replicates: 5, run: [a]}\n").plan();
    assert_eq!(keys(&few), keys(&many)[..3]);
}

#[test]
fn seeds_differ_between_points_only_under_per_trial() {
    let seeds = |policy: &str| {
        let plan = World::jobs(&format!(
            "a:\n  matrix: {{x: [1, 2]}}\n  replicates: {{n: 2, seeds: {policy}}}\n  run: [a, '${{{{ matrix.x }}}}', '${{{{ replicate.seed }}}}']\n"
        ))
        .plan();
        let results = all_succeed(&plan);
        plan.nodes()
            .map(|node| plan.action(node, &results).expect("an action").commands[0].argv[2].clone())
            .collect::<Vec<_>>()
    };
    let common = seeds("{base: 1, policy: common}");
    assert_eq!(common[..2], common[2..]);
    assert_ne!(common[0], common[1]);
    let per_trial = seeds("{base: 1, policy: per_trial}");
    assert_ne!(per_trial[0], per_trial[2]);
    assert_eq!(
        seeds("{policy: list, values: [7, 9]}"),
        ["7", "9", "7", "9"]
    );
}

#[test]
fn a_job_without_points_gets_a_warning() {
    for matrix in [
        "{x: [1], exclude: [{x: 1}]}",
        "{x: '${{ params.none }}', y: [1]}",
    ] {
        let jobs = World::jobs(&format!("a: {{matrix: {matrix}, run: [a]}}\n")).text;
        let warnings =
            World::text(&format!("params: {{none: {{default: []}}}}\n{jobs}")).warnings();
        assert_eq!(
            warnings,
            ["empty-matrix: job `a` has no nodes: its matrix has no points"]
        );
    }
}

#[test]
fn a_job_that_collapses_gets_a_warning() {
    let warnings = World::jobs("a: {matrix: {x: [1, 2]}, run: [a]}\n").warnings();
    assert_eq!(
        warnings,
        ["collapsed: all 2 cells of job `a` are the same node"]
    );
}

#[test]
fn an_axis_that_makes_no_difference_gets_a_warning() {
    let unused =
        "unused-axis: job `a` does not use its axis `y`: nodes that differ only in it run once";
    let warnings = |rest: &str| {
        let a = "a: {matrix: {x: [1, 2], y: [3, 4]}, outputs: {o: o.txt}, REST}\n";
        World::jobs(&a.replace("REST", rest)).warnings()
    };
    assert_eq!(warnings("run: [a, '${{ matrix.x }}']"), [unused]);
    for used in [
        "run: [a, '${{ matrix.x }}', '${{ matrix.y }}']",
        "run: [a, '${{ toJSON(matrix) }}']",
        "env: {Y: '${{ matrix.y }}'}, run: [a, '${{ matrix.x }}']",
        "if: '${{ matrix.y == 3 }}', run: [a, '${{ matrix.x }}']",
        "resources: {cpus: '${{ matrix.y }}'}, run: [a, '${{ matrix.x }}']",
        "cache: never, run: [a, '${{ matrix.x }}']",
    ] {
        assert_eq!(warnings(used), [""; 0], "{used}");
    }
    // Another job may use it: by the data of its own point, or by taking it over.
    let made =
        "m: {matrix: {y: [3, 4]}, outputs: {o: o.txt}, run: 'echo ${{ matrix.y }} > o.txt'}\n";
    let read = "inputs: ['${{ needs.m.outputs.o }}'], needs: m, run: [a, '${{ matrix.x }}']";
    let a = format!("{made}a: {{matrix: {{x: [1, 2], y: [3, 4]}}, {read}}}\n");
    assert_eq!(World::jobs(&a).warnings(), [""; 0]);
    let a =
        "a: {matrix: {x: [1, 2], y: [3, 4]}, outputs: {o: o.txt}, run: [a, '${{ matrix.x }}']}\n";
    let b = "b: {needs: a, for_each: y, inputs: ['${{ needs.a.outputs.o }}'], run: [b, '${{ matrix.y }}']}\n";
    assert_eq!(World::jobs(&format!("{a}{b}")).warnings(), [""; 0]);
}

#[test]
fn variables_in_keys_are_only_the_named_ones() {
    let world = World::jobs("a: {run: [a], cache: {env: [TOKEN]}}\n");
    let mut set = world.clone();
    set.env.insert("TOKEN".into(), "1".into());
    set.env.insert("OTHER".into(), "2".into());
    assert_ne!(keys(&world.plan()), keys(&set.plan()));
}

#[test]
fn toolchains_are_in_keys() {
    let mut world =
        World::jobs("a: {run: [a], toolchain: ['cc --version', lock.txt]}\n").file("lock.txt", "1");
    world.tools.insert("cc --version".into(), "cc 1".into());
    let before = keys(&world.plan());
    world.tools.insert("cc --version".into(), "cc 2".into());
    let other_tool = keys(&world.plan());
    assert_ne!(before, other_tool);
    assert_ne!(
        other_tool,
        keys(&world.clone().file("lock.txt", "2").plan())
    );
    world.tools.clear();
    let errors = world.errors();
    assert!(
        errors[0].contains("`cc --version` of `toolchain` cannot be used: not found"),
        "{errors:?}"
    );
}

#[test]
fn points_are_in_the_key_only_if_they_are_used() {
    let jobs = |used: &str, x: &str| {
        format!(
            "a:\n  matrix: {{x: {x}}}\n  outputs: {{o: o}}\n  run: [a]\nb:\n  needs: a\n  run: [b, '${{{{ needs.a.outputs.o }}}}'{used}]\n"
        )
    };
    let key = |used: &str, x: &str| {
        let plan = World::jobs(&jobs(used, x)).plan();
        plan.key(node(&plan, "b"))
    };
    assert_eq!(key("", "[1, 2]"), key("", "[3, 4]"));
    let used = ", '${{ toJSON(needs.a.points) }}'";
    assert_ne!(key(used, "[1, 2]"), key(used, "[3, 4]"));
}

#[test]
fn action_digests_follow_content() {
    let plan = base(BASE).plan();
    let (make, first) = (node(&plan, "make"), node(&plan, "use[x=1]"));
    let digest = |text: &str| {
        let mut results = Results::default();
        results.succeed(make, [("o", file(text))]);
        plan.action_digest(first, &results)
            .expect("a digest")
            .expect("it is cached")
    };
    assert_eq!(digest("same"), digest("same"));
    assert_ne!(digest("one"), digest("other"));
    // Early cut-off: another recipe of `make` with the same result.
    let changed = base(&BASE.replace("make >", "make -j >")).plan();
    let mut results = Results::default();
    results.succeed(node(&changed, "make"), [("o", file("same"))]);
    let after = changed.action_digest(node(&changed, "use[x=1]"), &results);
    assert_eq!(after, Ok(Some(digest("same"))));
    assert_ne!(plan.key(first), changed.key(node(&changed, "use[x=1]")));
    // What runs is what was looked up.
    let mut results = Results::default();
    results.succeed(make, [("o", file("same"))]);
    assert_eq!(action(&plan, "use[x=1]", &results).digest, digest("same"));
}

#[test]
fn values_are_compared_by_value_unless_their_file_is_staged() {
    let jobs = |used: &str| {
        format!(
            "a:\n  outputs: {{v: {{json: v.json, pointer: /v}}}}\n  run: [a]\nb:\n  needs: a\n  {used}\n"
        )
    };
    let digest = |used: &str, number: i64, file_text: &str| {
        let plan = World::jobs(&jobs(used)).plan();
        let mut results = Results::default();
        let artifact = match value(number.into()) {
            dagrun_model::Artifact::Value { value, .. } => dagrun_model::Artifact::Value {
                value,
                file: crate::world::blob(file_text),
            },
            other => other,
        };
        results.succeed(node(&plan, "a"), [("v", artifact)]);
        plan.action_digest(node(&plan, "b"), &results)
            .expect("a digest")
    };
    let by_value = "run: [b, '${{ needs.a.outputs.v }}']";
    assert_eq!(digest(by_value, 1, "x"), digest(by_value, 1, "y"));
    assert_ne!(digest(by_value, 1, "x"), digest(by_value, 2, "x"));
    let by_file = "{inputs: {v: '${{ needs.a.outputs.v }}'}, run: [b, '${{ inputs.v }}']}";
    let by_file = by_file
        .trim_start_matches('{')
        .trim_end_matches('}')
        .replace("}, run", "}\n  run");
    assert_ne!(digest(&by_file, 1, "x"), digest(&by_file, 1, "y"));
}

/// These are a promise: a change makes every cache entry a miss and needs a new `KEY_VERSION`.
#[test]
fn pinned_vectors() {
    let plan = base(BASE).plan();
    let results = all_succeed(&plan);
    let first = node(&plan, "use[x=1]");
    let digest = plan
        .action_digest(first, &results)
        .expect("a digest")
        .expect("it is cached");
    let pinned =
        [plan.key(node(&plan, "make")), plan.key(first), digest].map(|digest| digest.to_string());
    assert_eq!(
        pinned,
        [
            "23d9173f64cee77db485ad51b159e1e9f827644c2b085e3cee449a0b1aec28b2",
            "15d975c0e62a2b6c854ddea25735b9f6da820e3e5e12892a2660cd166240f454",
            "a703caac99b2dfa473fba96f7bd8281b98d1b499f5cdf3f9f000a8a8a2a452cf"
        ]
    );
    let plan = sweep().plan();
    assert_eq!(
        plan.key(node(&plan, "figure")).to_string(),
        "042d96630fd9f1171701d546e2c889aae5cc3b5a0ea293b0f0d9b879119f9263"
    );
}

#[test]
fn manifests_name_what_changed() {
    let plan = base(BASE).plan();
    let results = all_succeed(&plan);
    let manifest = plan.manifest(node(&plan, "use[x=2]"), &results);
    let part = |kind, name: &str| {
        let part = manifest
            .parts
            .iter()
            .find(|part| part.kind == kind && part.name == name);
        part.map(|part| part.value.as_str())
    };
    assert_eq!(part(KeyPartKind::Command, ""), Some("use ${{ }} ${{ }}"));
    assert_eq!(part(KeyPartKind::Axis, "x"), Some("2"));
    assert_eq!(part(KeyPartKind::Env, "A"), Some("1"));
    assert_eq!(
        part(KeyPartKind::Input, "code.py"),
        Some(&*Digest::of(b"code").to_string())
    );
    assert_eq!(part(KeyPartKind::Need, "make.o").map(str::len), Some(64));
    assert_eq!(part(KeyPartKind::Platform, ""), Some("linux x86_64"));
    let before = plan.manifest(node(&plan, "use[x=2]"), &Results::default());
    assert!(before.parts.iter().any(|part| part.value == "0 of 1 known"));
}
