//! From what is written to a definition, and everything that can be wrong with it.

use dagrun_expr::{Context, EvalError};
use dagrun_model::{
    DistributionKind, Expr, ExprKind, Objective, OrderSpec, SamplerSpec, SpaceParameter, Span,
    Spanned, StopSpec, Template, ValueTemplate,
};
use serde_json::{Value as Json, json};

use super::*;

struct Params;

impl Context for Params {
    fn lookup(&self, name: &str) -> Result<Value, EvalError> {
        match name {
            "params" => Ok(Value::from_json(&json!({"n": 12, "wet": "monsoon"}))),
            _ => Err(EvalError::new(format!("`{name}` is not known here"))),
        }
    }
}

/// Each text has its own place, so that messages can be told apart: a span counts the texts before it.
fn written(json: Json, at: usize) -> ValueTemplate {
    let span = Span::new(dagrun_model::FileIx(0), at, at + 1);
    match json {
        Json::String(text) if text.starts_with("params.") => ValueTemplate::Template(Template {
            parts: vec![dagrun_model::TemplatePart::Expr(path(&text))],
            span,
        }),
        Json::Object(map) => ValueTemplate::Map(
            map.into_iter()
                .zip(at + 1..)
                .map(|((key, item), at)| (key.as_str().into(), written(item, at)))
                .collect(),
            span,
        ),
        Json::Array(items) if items.iter().any(Json::is_string) => ValueTemplate::List(
            items.into_iter().map(|item| written(item, at)).collect(),
            span,
        ),
        other => ValueTemplate::Value(Spanned::new(Value::from_json(&other), span)),
    }
}

fn path(text: &str) -> Expr {
    let mut names = text.split('.');
    let first = names.next().expect("a path has a name");
    let root = Expr::new(ExprKind::Context(first.into()), Span::default());
    names.fold(root, |base, name| {
        Expr::new(
            ExprKind::Member(Box::new(base), name.into()),
            Span::default(),
        )
    })
}

/// `a == b` of two paths.
fn same(a: &str, b: &str) -> Expr {
    let sides = (Box::new(path(a)), Box::new(path(b)));
    Expr::new(
        ExprKind::Binary(dagrun_model::BinaryOp::Eq, sides.0, sides.1),
        Span::default(),
    )
}

/// A study as `dsl` would read it out of this, but with names in the order of the alphabet.
fn study(json: &Json) -> dagrun_model::Study {
    let entries = |name: &str| json[name].as_object().cloned().unwrap_or_default();
    let optional = |name: &str| (!json[name].is_null()).then(|| written(json[name].clone(), 40));
    let stop = |name: &str| {
        let it = &json["stop"][name];
        (!it.is_null()).then(|| written(it.clone(), 50))
    };
    let mut space = dagrun_model::Study {
        space: indexmap::IndexMap::new(),
        sampler: sampler(&json["sampler"]),
        trials: written(json["trials"].clone(), 30),
        in_flight: optional("in_flight"),
        order: match &json["order"] {
            Json::Null => OrderSpec::Async,
            it if !it["lag"].is_null() => OrderSpec::Lag(written(it["lag"].clone(), 60)),
            it => OrderSpec::Batched(written(it["batched"].clone(), 60)),
        },
        objectives: (0..json["objectives"].as_u64().unwrap_or(1))
            .map(|at| Objective {
                name: format!("f{at}"),
                direction: Direction::Minimize,
                value: path("trial.x"),
                span: Span::default(),
            })
            .collect(),
        constraints: Vec::new(),
        stop: StopSpec {
            wall: json["stop"]["wall"]
                .as_str()
                .map(|text| Template::text(text, Span::default())),
            no_gain: stop("no_gain"),
            target: stop("target"),
            failures: stop("failures"),
        },
        enqueue: json["enqueue"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|it| written(it.clone(), 70))
            .collect(),
        span: Span::default(),
    };
    for ((name, it), at) in entries("space").into_iter().zip(1..) {
        let (kind, arguments) = it
            .as_object()
            .and_then(|it| {
                it.iter()
                    .find_map(|(key, value)| Some((DistributionKind::from_name(key)?, value)))
            })
            .expect("a family");
        space.space.insert(
            name.clone(),
            SpaceParameter {
                name: Spanned::new(name, Span::default()),
                kind: Spanned::new(kind, Span::default()),
                arguments: written(arguments.clone(), at),
                digits: (!it["digits"].is_null()).then(|| written(it["digits"].clone(), at)),
                when: it["when"].as_str().map(|text| {
                    let (a, b) = text.split_once(" == ").expect("a comparison");
                    same(a, b)
                }),
                span: Span::default(),
            },
        );
    }
    space
}

fn sampler(json: &Json) -> SamplerSpec {
    let (name, options) = match json {
        Json::Null => ("random", None),
        Json::String(name) => (name.as_str(), None),
        map => {
            let (name, options) = map
                .as_object()
                .and_then(|map| map.iter().next())
                .expect("a sampler");
            (name.as_str(), options.as_object())
        }
    };
    let kind = dagrun_model::SamplerKind::from_name(name).expect("a sampler");
    SamplerSpec {
        kind: Spanned::new(kind, Span::default()),
        options: options
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), written(value.clone(), 20)))
            .collect(),
    }
}

/// A whole study with other entries in place of its own.
fn with(changes: Json) -> Json {
    let mut whole = json!({
        "space": {"x": {"uniform": [0, 1]}, "season": {"choice": ["flat", "monsoon"]}},
        "trials": 100,
    });
    for (name, value) in changes.as_object().expect("a map") {
        whole[name] = value.clone();
    }
    whole
}

fn resolve(changes: Json) -> Result<Definition, Vec<String>> {
    let found = Definition::resolve(&study(&with(changes)), &Params);
    found.map_err(|errors| {
        for error in &errors {
            let mended = !error.help.is_empty() || error.code == "evaluation";
            assert!(mended, "{} says what to do", error.message);
        }
        errors.into_iter().map(|error| error.message).collect()
    })
}

#[test]
fn what_is_left_out_has_a_default() {
    let it = resolve(json!({})).expect("nothing is wrong");
    assert_eq!(
        (it.trials, it.in_flight, it.order),
        (100, None, Order::Async)
    );
    assert_eq!(it.stop.failures, 50);
    assert_eq!(it.options["seed"], Value::Int(0));
    let it = resolve(json!({"trials": 8, "stop": {"wall": "1h30m", "target": -2, "no_gain": 3}}))
        .expect("nothing is wrong");
    assert_eq!(it.stop.failures, 10);
    assert_eq!(it.stop.wall.map(|it| it.as_secs()), Some(5400));
    assert_eq!((it.stop.target, it.stop.no_gain), (Some(-2.0), Some(3)));
}

#[test]
fn everything_may_be_a_parameter() {
    let it = resolve(json!({
        "space": {
            "x": {"uniform": [0, "params.n"], "digits": 3},
            "season": {"choice": ["flat", "params.wet"]},
            "wet": {"int": [1, 9], "when": "trial.season == params.wet"},
            "s": {"steps": [0, 10, 4]},
            "t": {"steps": [0.0, 1.0, 0.25]},
        },
        "trials": "params.n",
        "in_flight": "params.n",
        "order": {"lag": "params.n"},
        "sampler": {"tpe": {"startup": "params.n"}},
        "enqueue": [{"x": "params.n", "wet": 3}],
    }))
    .expect("nothing is wrong");
    assert_eq!((it.trials, it.in_flight), (12, Some(12)));
    assert_eq!(it.order, Order::Lag(12));
    assert_eq!(it.options["startup"], Value::Int(12));
    assert_eq!(it.space.dims(), 5);
    assert_eq!(it.enqueued, [[None, None, None, Some(3.0), Some(12.0)]]);
    let find = |name: &str| &it.space.parameters[it.space.position(name).expect(name)];
    assert_eq!(find("x").bounds(), (0.0, 12.0));
    assert_eq!(find("x").digits, Some(3));
    assert_eq!(
        find("s").distribution,
        Distribution::Steps {
            low: 0.0,
            step: 4.0,
            count: 3,
            whole: true
        }
    );
    assert_eq!(find("t").bounds(), (0.0, 1.0));
    assert_eq!(find("t").value(0.25), Value::Float(0.25));
}

#[test]
fn a_grid_has_as_many_trials_as_points() {
    let space = json!({"a": {"int": [1, 3]}, "b": {"choice": [1, 2, 4]}});
    let grid = |more: Json| {
        let mut changes = json!({"space": space, "sampler": "grid", "trials": null});
        for (name, value) in more.as_object().expect("a map") {
            changes[name] = value.clone();
        }
        resolve(changes).map(|it| it.trials)
    };
    assert_eq!(grid(json!({})), Ok(9));
    assert_eq!(grid(json!({"enqueue": [{"a": 1}]})), Ok(10));
    assert_eq!(grid(json!({"trials": 4})), Ok(4));
}

#[test]
fn mistakes_of_a_space() {
    let parameter = |it: Json| {
        let errors = resolve(json!({"space": {"x": it}})).expect_err("it is wrong");
        errors.join("; ")
    };
    for (written, expected) in [
        (
            json!({"uniform": [1, 1]}),
            "`x` is no `uniform`: the low end 1 is not below the high end 1; a fixed value belongs into `params`",
        ),
        (
            json!({"uniform": [2, 1]}),
            "`x` is no `uniform`: the low end 2 is not below the high end 1; a fixed value belongs into `params`",
        ),
        (
            json!({"uniform": [1]}),
            "`x` is no `uniform`: it takes 2 numbers and has 1",
        ),
        (
            json!({"uniform": 1}),
            "`x` is no `uniform`: it is an integer",
        ),
        (
            json!({"uniform": [1, "b"]}),
            "`x` is no `uniform`: b is not a finite number",
        ),
        (
            json!({"uniform": [-1e308, 1e308]}),
            "`x` is no `uniform`: the interval is too wide for a float",
        ),
        (
            json!({"normal": [0, 1e308]}),
            "`x` is no `normal`: the distribution is too wide for a float",
        ),
        (
            json!({"log_uniform": [0, 1]}),
            "`x` is no `log_uniform`: the low end 0 has no logarithm",
        ),
        (
            json!({"log_int": [-5, 1]}),
            "`x` is no `log_int`: the low end -5 has no logarithm",
        ),
        (
            json!({"int": [0, 1.5]}),
            "`x` is no `int`: 1.5 is not a whole number",
        ),
        (
            json!({"int": [0, 1e17]}),
            "`x` is no `int`: 1e17 is beyond 2^53, where not every whole number is a float",
        ),
        (
            json!({"int": [9007199254740992i64, 9007199254740993i64]}),
            "`x` is no `int`: 9007199254740993 is beyond 2^53, where not every whole number is a float",
        ),
        (
            json!({"choice": []}),
            "`x` is no `choice`: there is nothing to choose from",
        ),
        (
            json!({"choice": [1, 2, 1.0]}),
            "`x` is no `choice`: 1.0 stands in it twice",
        ),
        (
            json!({"choice": [1, null]}),
            "`x` is no `choice`: null marks a parameter that is not active",
        ),
        (
            json!({"normal": [0, 0]}),
            "`x` is no `normal`: the standard deviation 0 is not above 0",
        ),
        (
            json!({"beta": [1e300, 1e300]}),
            "`x` is no `beta`: its shapes have to lie between 0.001 and 1000000: beyond that it is as good as a fixed value, which belongs into `params`",
        ),
        (
            json!({"beta": [0, 1]}),
            "`x` is no `beta`: both shapes have to be above 0",
        ),
        (
            json!({"steps": [0, 1]}),
            "`x` is no `steps`: it takes 3 numbers and has 2",
        ),
        (
            json!({"steps": [0, 1, -1]}),
            "`x` is no `steps`: the step -1 is not above 0",
        ),
        (
            json!({"steps": [0, 1e12, 1]}),
            "`x` is no `steps`: it has more than 2^32 values",
        ),
        (
            json!({"int": [0, 9], "digits": 2}),
            "`digits` rounds numbers, and `int` needs none",
        ),
        (json!({"uniform": [0, 1], "digits": 16}), "`digits` is 16"),
        (
            json!({"uniform": [0.41, 0.49], "digits": 1}),
            "`x` has no value with 1 decimal places from 0.41 to 0.49",
        ),
        (
            json!({"uniform": [0, "params.m"]}),
            "`params` has no member `m`",
        ),
    ] {
        assert_eq!(parameter(written), expected);
    }
    assert_eq!(
        resolve(json!({"space": {}})).expect_err("it is wrong"),
        ["the space of the study is empty"]
    );
}

#[test]
fn mistakes_of_conditions() {
    let when = |text: &str| {
        let space = json!({"a": {"int": [0, 9], "when": text}, "b": {"int": [0, 9]}});
        resolve(json!({"space": space})).map(|_| ())
    };
    for (text, expected) in [
        ("trial.b == params.n", "`b` does not stand above `a`"),
        ("trial.a == params.n", "`a` does not stand above `a`"),
        ("trial.c == params.n", "`c` is not a parameter of the space"),
        (
            "study.best == params.n",
            "the condition of `a` is not about parameters",
        ),
        ("params.m == params.n", "`params` has no member `m`"),
    ] {
        assert_eq!(when(text), Err(vec![expected.to_owned()]), "{text}");
    }
    // Numbers are never equal to text: the parameter would never be active.
    let space =
        json!({"a": {"int": [0, 9]}, "b": {"int": [0, 9], "when": "trial.a == params.wet"}});
    let errors = resolve(json!({"space": space})).expect_err("it is wrong");
    assert_eq!(errors.len(), 1, "{errors:?}");
}

#[test]
fn mistakes_of_the_rest() {
    for (changes, expected) in [
        (json!({"trials": 0}), "`trials` is 0"),
        (json!({"trials": "many"}), "`trials` is many"),
        (
            json!({"trials": null}),
            "the study does not say how many trials there are",
        ),
        (json!({"in_flight": 0}), "`in_flight` is 0"),
        (json!({"order": {"lag": 0}}), "`lag` is 0"),
        (json!({"order": {"batched": 0}}), "`batched` is 0"),
        (json!({"objectives": 0}), "the study seeks nothing"),
        (
            json!({"objectives": 2, "stop": {"no_gain": 3}}),
            "`no_gain` needs one objective, and the study has several",
        ),
        (
            json!({"objectives": 2, "stop": {"target": 3}}),
            "`target` needs one objective, and the study has several",
        ),
        (json!({"stop": {"target": "low"}}), "`target` is low"),
        (json!({"stop": {"failures": 0}}), "`failures` is 0"),
        (json!({"stop": {"no_gain": -1}}), "`no_gain` is -1"),
        (
            json!({"stop": {"wall": "soon"}}),
            "`wall`: `soon` is not a duration; write a number with ms, s, m, h or d, such as `90s` or `1h30m`",
        ),
        (json!({"stop": {"wall": "0s"}}), "`wall` is no time at all"),
        (
            json!({"sampler": {"tpe": {"sead": 7}}}),
            "the sampler `tpe` has no option `sead`",
        ),
        (
            json!({"sampler": {"tpe": {"seed": -7}}}),
            "`seed` of the sampler is -7",
        ),
        (
            json!({"sampler": {"tpe": {"candidates": 0}}}),
            "`candidates` of the sampler is 0",
        ),
        (
            json!({"sampler": {"cmaes": {"sigma": 0}}, "space": {"x": {"uniform": [0, 1]}}}),
            "`sigma` of the sampler is 0",
        ),
        (
            json!({"sampler": "cmaes"}),
            "`cmaes` cannot sample `season`, which is no number",
        ),
        (
            json!({"sampler": "cmaes", "objectives": 2, "space": {"x": {"uniform": [0, 1]}}}),
            "`cmaes` seeks one objective",
        ),
        (
            json!({"sampler": {"grid": {"levels": {"z": 3}}}, "space": {"x": {"int": [0, 1]}}}),
            "`levels` names `z`, which is not a parameter of the space",
        ),
        (
            json!({"sampler": {"exec": {"command": []}}}),
            "`command` of the sampler is []",
        ),
        (
            json!({"sampler": "exec"}),
            "the sampler `exec` names no program",
        ),
        (
            json!({"enqueue": [{"y": 1}]}),
            "`y` is not a parameter of the space; did you mean `x`?",
        ),
        (
            json!({"enqueue": [{"x": 2}]}),
            "`x` cannot be 2: it is between 0.0 and 1.0",
        ),
        (
            json!({"enqueue": [{"season": "dry"}]}),
            "`season` cannot be dry: it is one of flat, monsoon",
        ),
        (json!({"enqueue": [7]}), "a point of `enqueue` is a integer"),
    ] {
        let errors = resolve(changes.clone()).expect_err("it is wrong");
        assert_eq!(errors, [expected], "{changes}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let errors = resolve(json!({
        "space": {"x": {"uniform": [1, 0]}, "y": {"choice": []}},
        "trials": 0,
        "order": {"lag": 0},
        "sampler": {"random": {"sed": 1}},
        "enqueue": [{"x": 5, "q": 1}],
    }))
    .expect_err("much is wrong");
    assert_eq!(errors.len(), 6, "{errors:#?}");
}
