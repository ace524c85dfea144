//! What becomes of the parts of a job that is written well.

use dagrun_dsl::{NoFiles, parse};
use dagrun_model::{
    CachePolicy, Command, Job, ParamType, Pipeline, Recipe, RetryCause, Seeds, Shell, Toolchain,
    Value, ValueTemplate,
};

fn valid(text: &str) -> Pipeline {
    let parsed = parse("dir/flow.yaml", text, &NoFiles);
    let rendered = dagrun_dsl::render(&parsed.diagnostics, &parsed.sources, false);
    assert_eq!(rendered, "", "in\n{text}");
    parsed.pipeline.expect("no errors, so a pipeline")
}

/// The job `a` of a pipeline, from its lines.
fn job(lines: &str) -> Job {
    let body: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    let mut pipeline = valid(&format!(
        "jobs:\n  b: {{run: x, matrix: {{m: [1, 2]}}, outputs: {{o: o.txt}}}}\n  a:\n{body}"
    ));
    pipeline.jobs.swap_remove("a").expect("it is there")
}

fn literal(value: &ValueTemplate) -> &Value {
    match value {
        ValueTemplate::Value(value) => &value.value,
        other => panic!("no plain value: {other:?}"),
    }
}

#[test]
fn scalars_keep_their_spelling() {
    let pipeline = valid(
        "params: {v: 3.10, n: 012, no: no, t: 12:30:00, u: 1_000, h: 0x1F, big: 1e400}\njobs: {a: {run: x}}\n",
    );
    let check = |name: &str, ty: ParamType, text: &str| {
        let param = &pipeline.params[name];
        let default = &param.default.as_ref().expect("it has a default").value;
        assert_eq!((param.ty, default.to_text().as_str()), (ty, text), "{name}");
    };
    check("v", ParamType::Float, "3.10");
    check("n", ParamType::Int, "012");
    check("no", ParamType::String, "no");
    check("t", ParamType::String, "12:30:00");
    check("u", ParamType::String, "1_000");
    check("h", ParamType::Int, "0x1F");
    check("big", ParamType::String, "1e400");
}

#[test]
fn spelled_words_reach_commands_and_variables() {
    let job = job("run: [x, 3.10, 012, yes, ~/y]\nenv: {A: 1.50, B: true, C: \"\"}");
    let Recipe::Run(Command::Argv(words, _)) = &job.recipe else {
        panic!("a list of words");
    };
    let words: Vec<_> = words.iter().map(|w| w.as_text().expect("plain")).collect();
    assert_eq!(words, ["x", "3.10", "012", "yes", "~/y"]);
    let env: Vec<_> = job
        .env
        .values()
        .map(|v| v.as_text().expect("plain"))
        .collect();
    assert_eq!(env, ["1.50", "true", ""]);
}

#[test]
fn tags_of_the_core_schema_decide_types() {
    let pipeline = valid("params: {a: !!str 3, b: !!float 3}\njobs: {a: {run: x}}\n");
    assert_eq!(pipeline.params["a"].ty, ParamType::String);
    assert_eq!(pipeline.params["b"].ty, ParamType::Float);
}

#[test]
fn defaults_are_replaced_and_the_top_level_is_added_to() {
    let text = "\
env: {A: top, B: top}
pass_env: [P]
toolchain: [[uname, -a]]
defaults: {env: {B: default, C: default}, timeout: 1m, pass_env: [Q], toolchain: [uv.lock]}
jobs:
  a: {run: x}
  b: {run: x, env: {B: own}, timeout: 2m, pass_env: [R, P], toolchain: [\"cc --version\"]}
";
    let pipeline = valid(text);
    let env = |job: &str| {
        let env = &pipeline.jobs[job].env;
        env.iter()
            .map(|(k, v)| format!("{k}={}", v.as_text().expect("plain")))
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(env("a"), "A=top B=default C=default");
    assert_eq!(env("b"), "A=top B=own");
    let timeout = |job: &str| {
        pipeline.jobs[job]
            .timeout
            .as_ref()
            .and_then(|t| t.as_text())
            .map(str::to_owned)
    };
    assert_eq!(
        (timeout("a").as_deref(), timeout("b").as_deref()),
        (Some("1m"), Some("2m"))
    );
    let pass = |job: &str| {
        pipeline.jobs[job]
            .pass_env
            .iter()
            .map(|n| n.value.as_str())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!((pass("a").as_str(), pass("b").as_str()), ("P Q", "P R"));
    assert!(
        matches!(&pipeline.jobs["a"].toolchain[1], Toolchain::File(file) if file.value == "uv.lock")
    );
    assert!(
        matches!(&pipeline.jobs["b"].toolchain[1], Toolchain::Command(words) if words.value == ["cc", "--version"])
    );
}

#[test]
fn needs_in_all_their_forms() {
    let check = |needs: &str, missing_drop: bool, min: Option<u32>| {
        let job = job(&format!("run: x\nneeds: {needs}"));
        let need = &job.needs[0];
        assert_eq!(
            (need.job.index(), need.missing_drop, need.min),
            (0, missing_drop, min),
            "{needs}"
        );
    };
    check("b", false, None);
    check("[b]", false, None);
    check("[[b]]", false, None);
    check("{b: }", false, None);
    check("{b: {missing: drop}}", true, None);
    check("{job: b, min: 1}", false, Some(1));
    check("[{job: b, missing: drop, min: 2}]", true, Some(2));
    check("[b: {min: 3}]", false, Some(3));
}

#[test]
fn inputs_flatten_and_keep_their_names() {
    let job = job(
        "needs: b\nrun: x\ninputs: [[a, [b]], \"${{ needs.b.outputs.o }}\", {path: /etc/hosts, external: true}, \"*.csv\"]",
    );
    assert_eq!(job.inputs.len(), 5);
    assert_eq!(literal(&job.inputs[1].value).as_str(), Some("b"));
    assert!(matches!(&job.inputs[2].value, ValueTemplate::Template(t) if t.as_expr().is_some()));
    assert!(job.inputs[3].external);
    let job = self::job("run: x\ninputs: {i: [a, [b, c]], j: 1.0, k: {path: [d, e]}}");
    let names: Vec<_> = job
        .inputs
        .iter()
        .filter_map(|i| i.name.as_ref())
        .map(|n| n.value.as_str())
        .collect();
    assert_eq!(names, ["i", "j", "k"]);
    assert!(matches!(&job.inputs[0].value, ValueTemplate::List(items, _) if items.len() == 2));
    assert_eq!(literal(&job.inputs[1].value).as_str(), Some("1.0"));
}

#[test]
fn outputs_in_all_their_forms() {
    let job = job(
        "run: x\nstdout: log\noutputs: {dir: out/, maybe: {path: m, optional: true, keep: false}, loss: {json: l.json, pointer: /loss}, tag: {json: l.json, pointer: /tag, type: string}}",
    );
    assert_eq!(job.outputs["dir"].path.as_text(), Some("out/"));
    assert!(job.outputs["maybe"].optional && !job.outputs["maybe"].keep);
    let loss = job.outputs["loss"].json.as_ref().expect("a value");
    assert_eq!(
        (loss.pointer.as_str(), loss.ty),
        ("/loss", ParamType::Float)
    );
    assert_eq!(
        job.outputs["tag"].json.as_ref().expect("a value").ty,
        ParamType::String
    );
    assert_eq!(job.outputs["log"].path.as_text(), Some("log"));
    assert_eq!(job.stdout.expect("it is set").value, "log");
    let job = self::job("run: x\nstdout: o\noutputs: {o: path.txt}");
    assert_eq!(job.outputs["o"].path.as_text(), Some("path.txt"));
}

#[test]
fn axes() {
    let job = job(
        "run: x\nneeds: b\nfor_each: m\nmatrix: {x: [1, {name: n, v: 2}, \"${{ 3 }}\"], include: [{x: 9}]}\nreplicates: {n: 4, seeds: {policy: list, values: [1, 2, 3, 4]}, min: 2}",
    );
    assert!(matches!(&job.matrix.axes["x"], ValueTemplate::List(items, _) if items.len() == 3));
    assert_eq!(job.matrix.include.len(), 1);
    assert_eq!(job.for_each[0].value, "m");
    let replicates = job.replicates.expect("it is set");
    assert_eq!(literal(&replicates.n).as_i64(), Some(4));
    assert!(
        matches!(&replicates.seeds, Seeds::List { values } if literal(values).as_list().map(<[Value]>::len) == Some(4))
    );
    let job = self::job("run: x\nreplicates: 3");
    assert!(
        matches!(job.replicates.expect("it is set").seeds, Seeds::Common { base } if literal(&base).as_i64() == Some(0))
    );
}

#[test]
fn policies() {
    let job = job(
        "run: x\nretry: {max: 2, when: [oom, timeout], backoff: 500ms, memory: 2x}\ncache: {env: [A]}\nresources: {cpus: 0.5, memory: 1GiB, gpu: 1}\nthreads: 4\nspeculate: true\ncontinue_on_error: true\nexecutor: big\nif: true",
    );
    assert_eq!(
        job.retry.when,
        [RetryCause::OutOfMemory, RetryCause::Timeout]
    );
    assert_eq!(
        (job.retry.max, job.retry.backoff_s, job.retry.memory_factor),
        (2, 0.5, 2.0)
    );
    assert_eq!(job.cache, CachePolicy::Env(vec!["A".into()]));
    assert_eq!(literal(&job.resources.named["gpu"]).as_i64(), Some(1));
    assert!(job.speculate && job.continue_on_error && job.condition.is_some());
    assert_eq!(job.executor.expect("it is set").value, "big");
    let job = self::job("run: x\nretry: 3\ncache: never");
    assert_eq!((job.retry.max, job.cache), (3, CachePolicy::Never));
}

#[test]
fn shells_and_steps() {
    let job = job(
        "shell: [python3, -u]\nsteps:\n  - {name: one, run: print(1)}\n  - {run: echo 2, shell: sh, env: {A: b}, if: \"${{ true }}\"}\n  - run: [a, b]",
    );
    let Recipe::Steps(steps) = &job.recipe else {
        panic!("steps");
    };
    let shell = |i: usize| match &steps[i].command {
        Command::Script(script) => script.shell.clone(),
        Command::Argv(..) => panic!("a script"),
    };
    assert_eq!(shell(0), Shell::Other(vec!["python3".into(), "-u".into()]));
    assert_eq!(shell(1), Shell::Sh);
    assert!(matches!(&steps[2].command, Command::Argv(words, _) if words.len() == 2));
    assert_eq!(steps[0].name.as_deref(), Some("one"));
    assert!(steps[1].condition.is_some() && steps[1].env.len() == 1);
}

#[test]
fn anchors_merges_and_keys_of_the_author() {
    let text = "\
x-base: &base {timeout: 5m, env: {A: base}}
x-other: &other {timeout: 9m, threads: 2}
jobs:
  a:
    <<: [*base, *other]
    env: {A: own}
    run: x
    x-note: anything at all
";
    let pipeline = valid(text);
    let job = &pipeline.jobs["a"];
    assert_eq!(job.timeout.as_ref().and_then(|t| t.as_text()), Some("5m"));
    assert_eq!(job.threads.as_ref().and_then(|t| t.as_text()), Some("2"));
    assert_eq!(job.env["A"].as_text(), Some("own"));
}

#[test]
fn a_pipeline_without_a_name_is_called_like_its_file() {
    assert_eq!(valid("jobs: {a: {run: x}}\n").name.value, "flow");
}

#[test]
fn templates_point_into_every_style_of_scalar() {
    for text in [
        "jobs:\n  a:\n    run: echo ${{ params.nope }}\n",
        "jobs:\n  a:\n    run: \"echo \\t é ${{ params.nope }}\"\n",
        "jobs:\n  a:\n    run: 'say ''it'' ${{ params.nope }}'\n",
        "jobs:\n  a:\n    run: |\n      one\n      echo ${{ params.nope }}\n",
        "jobs:\n  a:\n    run: >-\n      one\n      echo ${{ params.nope }}\n",
        "jobs:\n  a: {run: [echo, \"${{ params.nope }}\"]}\n",
    ] {
        let parsed = parse("p.yaml", text, &NoFiles);
        let found: Vec<&str> = parsed
            .diagnostics
            .iter()
            .map(|d| &text[d.span.start as usize..d.span.end as usize])
            .collect();
        assert!(
            matches!(found.as_slice(), ["params.nope" | "nope"]),
            "{found:?} in {text}"
        );
    }
}
