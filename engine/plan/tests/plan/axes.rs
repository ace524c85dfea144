//! Points: matrix, exclude, include, `for_each`, replicates; joins and gathers; and what is wrong with them.

use dagrun_model::Value;

use crate::world::{World, action, all_succeed, ids};

fn check_ids(jobs: &str, expected: &[&str]) {
    assert_eq!(ids(&World::jobs(jobs).plan()), expected, "{jobs}");
}

fn check_error(jobs: &str, expected: &str) {
    let errors = World::jobs(jobs).errors();
    assert!(
        errors.iter().any(|error| error.contains(expected)),
        "{errors:#?} has no {expected:?}"
    );
}

#[test]
fn points_are_row_major_and_included_ones_come_last() {
    check_ids(
        r#"
a:
  matrix:
    x: [1, 2]
    y: [p, q]
    exclude: [{x: 1, y: q}]
    include: [{x: 1, y: z}, {x: 3, y: p}]
  replicates: 2
  run: [a, "${{ matrix.x }}", "${{ matrix.y }}"]
"#,
        &[
            "a[x=1,y=p,replicate=0]",
            "a[x=1,y=p,replicate=1]",
            "a[x=2,y=p,replicate=0]",
            "a[x=2,y=p,replicate=1]",
            "a[x=2,y=q,replicate=0]",
            "a[x=2,y=q,replicate=1]",
            "a[x=1,y=z,replicate=0]",
            "a[x=1,y=z,replicate=1]",
            "a[x=3,y=p,replicate=0]",
            "a[x=3,y=p,replicate=1]",
        ],
    );
}

#[test]
fn include_with_fewer_axes_adds_attributes() {
    let plan = World::jobs(
        r#"
a:
  matrix:
    os: [linux, mac]
    v: [1, 2]
    include:
      - {os: linux, cc: gcc}
      - {os: linux, v: 2, cc: clang, extra: true}
      - {flags: -O2}
  run: [cc, "${{ default(matrix.cc, 'none') }}", "${{ matrix.flags }}", "${{ matrix.os }}", "${{ matrix.v }}"]
"#,
    )
    .plan();
    let results = all_succeed(&plan);
    let argv = |id: &str| action(&plan, id, &results).commands[0].argv.join(" ");
    assert_eq!(plan.len(), 4);
    assert_eq!(argv("a[os=linux,v=1]"), "cc gcc -O2 linux 1");
    assert_eq!(argv("a[os=linux,v=2]"), "cc clang -O2 linux 2");
    assert_eq!(argv("a[os=mac,v=2]"), "cc none -O2 mac 2");
}

#[test]
fn entries_that_match_nothing_are_said() {
    check_error(
        "a:\n  matrix: {x: [1, 2], y: [1], include: [{x: 3, z: 1}]}\n  run: [a, '${{ matrix.x }}']\n",
        "include-matches-nothing",
    );
    let warnings = World::jobs(
        "a:\n  matrix: {x: [1, 2], y: [1], exclude: [{x: 3}, {x: 2}], include: [{x: 1, y: 1}]}\n  run: [a, '${{ matrix.x }}']\n",
    )
    .warnings();
    assert_eq!(
        warnings,
        [
            "exclude-matches-nothing: this entry of `exclude` matches no point",
            "include-twice: this point is there already",
        ]
    );
}

#[test]
fn a_matrix_of_include_alone_has_the_common_keys_as_axes() {
    check_ids(
        r#"
a:
  matrix: {include: [{os: linux, cc: gcc, note: x}, {os: mac, cc: clang}]}
  run: [a, "${{ matrix.os }}"]
"#,
        &["a[os=linux,cc=gcc]", "a[os=mac,cc=clang]"],
    );
}

#[test]
fn objects_are_called_by_name_and_excluded_by_it() {
    check_ids(
        r#"
a:
  matrix:
    s: [{name: lo, v: 1}, {name: hi, v: 2}]
    b: [0.10, 0.2]
    exclude: [{s: lo, b: 0.1}]
  run: [a, "${{ matrix.s.v }}", "${{ matrix.b }}"]
"#,
        &["a[s=lo,b=0.2]", "a[s=hi,b=0.10]", "a[s=hi,b=0.2]"],
    );
}

#[test]
fn spelling_is_kept_in_commands() {
    let plan =
        World::jobs("a:\n  matrix: {v: [3.10, 012, no]}\n  run: [a, '${{ matrix.v }}']\n").plan();
    let results = all_succeed(&plan);
    let words: Vec<String> = plan
        .nodes()
        .map(|node| plan.action(node, &results).expect("an action").commands[0].argv[1].clone())
        .collect();
    assert_eq!(words, ["3.10", "012", "no"]);
}

#[test]
fn for_each_takes_over_existing_points() {
    check_ids(
        r#"
a:
  matrix: {x: [1, 2], y: [p, q], exclude: [{x: 2, y: p}]}
  replicates: 2
  outputs: {o: o}
  run: [a, "${{ matrix.x }}", "${{ matrix.y }}"]
b:
  needs: a
  for_each: [y, x]
  run: [b, "${{ matrix.y }}", "${{ matrix.x }}"]
"#,
        &[
            "a[x=1,y=p,replicate=0]",
            "a[x=1,y=p,replicate=1]",
            "a[x=1,y=q,replicate=0]",
            "a[x=1,y=q,replicate=1]",
            "a[x=2,y=q,replicate=0]",
            "a[x=2,y=q,replicate=1]",
            "b[y=p,x=1]",
            "b[y=q,x=1]",
            "b[y=q,x=2]",
        ],
    );
}

#[test]
fn replicates_can_be_taken_over_with_their_seeds() {
    let plan = World::jobs(
        r#"
a:
  replicates: 2
  outputs: {o: o}
  run: [a, "${{ replicate.seed }}"]
b:
  needs: a
  for_each: replicate
  run: [b, "${{ replicate.index }}", "${{ replicate.seed }}", "${{ needs.a.outputs.o }}"]
"#,
    )
    .plan();
    let results = all_succeed(&plan);
    let a = action(&plan, "a[replicate=1]", &results).commands[0]
        .argv
        .clone();
    let b = action(&plan, "b[replicate=1]", &results).commands[0]
        .argv
        .clone();
    assert_eq!(b, ["b", "1", a[1].as_str(), "in/a.o/o"]);
}

#[test]
fn seeds_of_each_point_are_taken_over_with_all_its_axes() {
    let world = |b: &str| {
        World::jobs(&format!(
            r#"
a:
  matrix: {{x: [1, 2.0], y: [p]}}
  replicates: {{n: 2, seeds: {{policy: per_trial}}}}
  outputs: {{o: o}}
  run: [a, "${{{{ matrix.x }}}}", "${{{{ replicate.seed }}}}"]
b:
  needs: a
{b}
  outputs: {{o: o}}
  run: [b, "${{{{ replicate.seed }}}}"]
c:
  needs: b
  for_each: [x, y, replicate]
  run: [c, "${{{{ replicate.seed }}}}"]
"#
        ))
    };
    for (b, x) in [
        ("  for_each: [x, y, replicate]", "2.0"),
        ("  for_each: [replicate, y]\n  matrix: {x: [2]}", "2"),
    ] {
        let world = match x {
            "2" => World::text(&world(b).text.replace("[1, 2.0]", "[2.0]")),
            _ => world(b),
        };
        let plan = world.plan();
        let results = all_succeed(&plan);
        let seed = |job: &str, x: &str, replicate: u32| {
            let id = plan
                .nodes()
                .map(|node| plan.id(node))
                .find(|id| {
                    id.starts_with(job)
                        && id.contains(&format!("x={x}"))
                        && id.contains(&format!("replicate={replicate}"))
                })
                .expect("a node of the job");
            let argv = action(&plan, &id, &results).commands[0].argv.clone();
            argv.last().cloned()
        };
        let own = [seed("a", "2.0", 0), seed("a", "2.0", 1)];
        assert_ne!(own[0], own[1]);
        assert_eq!([seed("b", x, 0), seed("b", x, 1)], own);
        assert_eq!([seed("c", x, 0), seed("c", x, 1)], own);
    }
    let errors = World::jobs(
        "a:\n  matrix: {x: [1, 2]}\n  replicates: {n: 2, seeds: {policy: per_trial}}\n  run: [a, '${{ replicate.seed }}']\nb:\n  needs: a\n  for_each: replicate\n  run: [b, '${{ replicate.seed }}']\n",
    )
    .errors();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].contains("those of job `a` differ along its axis `x`"),
        "{errors:?}"
    );
}

#[test]
fn several_gathered_axes_give_one_flat_list() {
    let plan = World::jobs(
        r#"
a:
  matrix: {x: [1, 2], y: [p, q], include: [{x: 0, y: p}]}
  replicates: 2
  outputs: {o: "o-${{ matrix.x }}"}
  run: [a, "${{ matrix.x }}", "${{ matrix.y }}"]
b:
  needs: a
  matrix: {y: [q, p]}
  run: [b, "${{ needs.a.points.*.x }}", "${{ needs.a.points.*.replicate }}", "${{ needs.a.outputs.o }}"]
"#,
    )
    .plan();
    let results = all_succeed(&plan);
    assert_eq!(
        action(&plan, "b[y=p]", &results).commands[0].argv.join(" "),
        "b 1 1 2 2 0 0 0 1 0 1 0 1 in/a.o/000000/o-1 in/a.o/000001/o-1 in/a.o/000002/o-2 in/a.o/000003/o-2 in/a.o/000004/o-0 in/a.o/000005/o-0"
    );
    assert_eq!(
        action(&plan, "b[y=q]", &results).commands[0].argv.join(" "),
        "b 1 1 2 2 0 1 0 1 in/a.o/000000/o-1 in/a.o/000001/o-1 in/a.o/000002/o-2 in/a.o/000003/o-2"
    );
}

#[test]
fn a_gathered_axis_of_one_value_gives_a_list() {
    let plan = World::jobs(
        "a:\n  matrix: {x: [1]}\n  outputs: {o: o}\n  run: [a, '${{ matrix.x }}']\nb:\n  needs: a\n  run: [b, '${{ needs.a.outputs.o }}']\n",
    )
    .plan();
    let results = all_succeed(&plan);
    assert_eq!(
        action(&plan, "b", &results).commands[0].argv,
        ["b", "in/a.o/000000/o"]
    );
}

#[test]
fn joins_without_upstream_are_errors_unless_dropped() {
    let jobs = |need: &str| {
        format!(
            "a:\n  matrix: {{x: [1, 2]}}\n  outputs: {{o: o}}\n  run: [a, '${{{{ matrix.x }}}}']\nb:\n  needs: {need}\n  matrix: {{x: [1, 2, 3, 4]}}\n  run: [b, '${{{{ matrix.x }}}}', '${{{{ needs.a.outputs.o }}}}']\n"
        )
    };
    check_error(
        &jobs("[a]"),
        "9: join-without-upstream: `b[x=3]` needs `a`, which has no node at this point; the same holds for 1 more",
    );
    let plan = World::jobs(&jobs("[{job: a, missing: drop}]")).plan();
    assert_eq!(plan.len(), 6);
    let node = plan.find("b[x=3]").expect("a node");
    assert_eq!(plan.sets(node), []);
}

#[test]
fn equal_values_are_refused() {
    check_error(
        "a:\n  matrix: {x: \"${{ [1, 1.0] }}\"}\n  run: [a]\n",
        "the axis `x` has the value `1.0` twice",
    );
    check_error(
        "a:\n  matrix: {x: \"${{ [1, '1'] }}\"}\n  run: [a]\n",
        "two values of the axis `x` are both called `1`",
    );
}

#[test]
fn a_hostile_product_is_refused_before_it_is_made() {
    let axis = |name: &str| format!("{name}: \"${{{{ range(1, 1000) }}}}\"");
    let jobs = format!(
        "a:\n  matrix: {{{}, {}, {}, {}}}\n  run: [a]\n",
        axis("w"),
        axis("x"),
        axis("y"),
        axis("z")
    );
    check_error(
        &jobs,
        "job `a` has 1000 x 1000 x 1000 x 1000 = 1000000000000 points; the limit is 10000000",
    );
    check_error(
        "a:\n  replicates: \"${{ 2000000 * 1000 }}\"\n  run: [a]\n",
        "2000000000 replicates are more than the limit",
    );
    let small = World::jobs(
        "a:\n  matrix: {x: [1, 2]}\n  run: [a]\nb:\n  matrix: {x: [1, 2]}\n  run: [b]\n",
    );
    let errors = small.with(|options| options.max_nodes = 3).errors();
    assert!(
        errors[0].contains("with job `b` the plan has more than 3 nodes"),
        "{errors:?}"
    );
}

#[test]
fn cycles_are_shown_as_paths() {
    check_error(
        "a:\n  needs: c\n  run: [a]\nb:\n  needs: a\n  run: [b]\nc:\n  needs: [d, b]\n  run: [c]\nd:\n  run: [d]\n",
        "jobs need each other: a -> c -> b -> a",
    );
}

#[test]
fn empty_plans_have_no_nodes() {
    let plan =
        World::jobs("a:\n  matrix: {x: \"${{ [] }}\"}\n  run: [a, '${{ matrix.x }}']\n").plan();
    assert_eq!((plan.len(), plan.counts().naive), (0, 0));
    assert!(plan.delta().nodes.is_empty());
}

#[test]
fn params_are_typed_and_checked() {
    let world = World::text(
        "dagrun: 1\nname: t\nparams:\n  n: {type: int, default: 3, min: 1, max: 5}\n  s: {type: string, default: a, choices: [a, b]}\njobs:\n  a:\n    matrix: {x: \"${{ range(1, params.n) }}\"}\n    run: [a, \"${{ matrix.x }}\", \"${{ params.s }}\"]\n",
    );
    assert_eq!(world.plan().len(), 3);
    let plan = world.clone().param("n", "2").plan();
    assert_eq!(plan.len(), 2);
    assert_eq!(plan.params()["n"].value, Value::Int(2));
    assert_eq!(plan.params()["n"].origin, dagrun_plan::Origin::CommandLine);
    assert_eq!(plan.params()["s"].origin, dagrun_plan::Origin::Default);
    for (name, value, expected) in [
        (
            "n",
            "x",
            "parameter `n` cannot be `x` (command line): it must be an integer",
        ),
        ("n", "0", "the least allowed is 1"),
        ("n", "6", "the greatest allowed is 5"),
        ("s", "c", "it must be one of a, b"),
        ("m", "1", "the pipeline has no parameter `m`"),
    ] {
        let errors = world.clone().param(name, value).errors();
        assert!(errors[0].contains(expected), "{errors:?}");
    }
}
