//! Reading and evaluating together: the language as its authors meet it.

use dagrun_expr::{Context, EvalError, eval};
use dagrun_model::{Diagnostic, Expr, ExprKind, FileIx, Function, Map, TemplatePart, Value};
use proptest::prelude::*;

use crate::{
    template::{parse_expression, parse_template},
    text::SourceText,
};

fn source(text: &str) -> SourceText {
    SourceText::plain(FileIx(0), text, 0)
}

fn read(text: &str) -> Result<Expr, Vec<Diagnostic>> {
    let mut out = Vec::new();
    let expr = parse_expression(&source(text), &mut out);
    match expr {
        Some(expr) if out.is_empty() => Ok(expr),
        _ => Err(out),
    }
}

/// Contexts out of one JSON text.
struct Json(Value);

impl Json {
    fn sample() -> Self {
        let json = serde_json::json!({
            "matrix": {"beta": 0.1, "scenario": {"name": "vaccine", "coverage": 0.8}, "n": 3},
            "params": {"branch": "main", "list": [3, 1, 2], "empty": [], "nothing": null, "deep": [[1, 2], [3]]},
            "needs": {
                "a": {"result": "success", "outputs": {"loss": [1.5, 2.5], "file": "in/x/a.csv"}},
                "b-c": {"result": "failure", "outputs": {"loss": [4.0]}}
            }
        });
        Self(Value::from_json(&json))
    }
}

impl Context for Json {
    fn lookup(&self, name: &str) -> Result<Value, EvalError> {
        self.0
            .as_map()
            .and_then(|map| map.get(name))
            .cloned()
            .ok_or_else(|| EvalError::missing(format!("no context {name}")))
    }

    fn member(&self, path: &[&str]) -> Option<Result<Value, EvalError>> {
        // Answers one reference itself, so that both ways are tested.
        (path == ["matrix", "n"]).then(|| Ok(Value::Int(3)))
    }

    fn call_status(&self, function: Function) -> Result<bool, EvalError> {
        Ok(matches!(function, Function::Always | Function::Success))
    }
}

fn value(text: &str) -> Result<Value, EvalError> {
    let expr = read(text).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
    eval(&expr, &Json::sample())
}

/// Each expression and the text of its value.
fn check_values(table: &[(&str, &str)]) {
    for (text, wanted) in table {
        match value(text) {
            Ok(value) => assert_eq!(value.to_text(), *wanted, "{text}"),
            Err(error) => panic!("{text}: {error}"),
        }
    }
}

/// Each expression, the part that the error underlines, and a part of its message.
fn check_failures(table: &[(&str, &str, &str)]) {
    for (text, place, message) in table {
        let error = value(text).expect_err(text);
        let span = error.span.expect("the evaluator adds a place");
        assert_eq!(
            &text[span.start as usize..span.end as usize],
            *place,
            "{text}"
        );
        assert!(error.message.contains(message), "{text}: {}", error.message);
    }
}

#[test]
fn operators_have_their_precedence() {
    check_values(&[
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("7 - 2 - 1", "4"),
        ("7 / 2", "3.5"),
        ("6 / 2", "3.0"),
        ("7 % 4", "3"),
        ("-7 % 4", "-3"),
        ("-(2 + 1)", "-3"),
        ("- -3", "3"),
        ("1 + 1 == 2 && 'a' < 'b'", "true"),
        ("false || 1 < 2 ? 'yes' : 'no'", "yes"),
        ("false ? 1 : true ? 2 : 3", "2"),
        ("!false == true", "true"),
        ("matrix.n-1", "2"),
        ("2.5 + 1", "3.5"),
        ("1 == 1.0", "true"),
        ("9223372036854775807", "9223372036854775807"),
        ("-9223372036854775808", "-9223372036854775808"),
    ]);
}

#[test]
fn conditions_give_an_operand() {
    check_values(&[
        ("'' || 'b'", "b"),
        ("'a' && 'b'", "b"),
        ("0 && fromJSON('not json')", "0"),
        ("'a' || fromJSON('not json')", "a"),
        ("null == params.nothing", "true"),
        ("params.nothing != 'x'", "true"),
    ]);
}

#[test]
fn literals_keep_their_spelling() {
    check_values(&[
        ("0.10", "0.10"),
        ("-0.50", "-0.50"),
        ("0x1F", "0x1F"),
        ("0x1F + 0", "31"),
        ("1e3", "1e3"),
        ("'it''s'", "it's"),
        (r#""say \"}}\" \\ \n""#, r#"say "}}" \ \n"#),
        ("[1, 0.50, 'x',]", r#"[1,0.5,"x"]"#),
        ("[]", "[]"),
    ]);
}

#[test]
fn members_and_stars() {
    check_values(&[
        ("matrix.beta", "0.1"),
        ("matrix['scenario'].coverage", "0.8"),
        (
            "matrix.scenario['na' == 'x' ? 'coverage' : 'name']",
            "vaccine",
        ),
        ("matrix.n", "3"),
        ("params.list[0]", "3"),
        ("params.list[len(params.list) - 1]", "2"),
        ("needs.*.result", r#"["success","failure"]"#),
        ("needs.*.outputs.loss", "[[1.5,2.5],[4.0]]"),
        ("needs.*.outputs.loss.*", "[1.5,2.5,4.0]"),
        ("needs[*].outputs.loss[0]", "[1.5,4.0]"),
        ("needs.b-c.result", "failure"),
        ("params.deep.*[0]", "[1,3]"),
        ("fromJSON('{\"a\": [1, {\"b\": 2}]}').a[1].b", "2"),
    ]);
}

#[test]
fn sequences_include_both_ends() {
    check_values(&[
        ("range(1, 4)", "[1,2,3,4]"),
        ("range(4, 1, -1)", "[4,3,2,1]"),
        ("range(1, 6, 2)", "[1,3,5]"),
        ("range(2, 1)", "[]"),
        ("range(0.1, 0.5, 0.1)", "[0.1,0.2,0.3,0.4,0.5]"),
        ("range(1, 2, 0.5)", "[1.0,1.5,2.0]"),
        ("linspace(0.1, 0.5, 5)", "[0.1,0.2,0.3,0.4,0.5]"),
        ("linspace(0, 10, 6)", "[0,2,4,6,8,10]"),
        ("linspace(0, 1, 3)", "[0.0,0.5,1.0]"),
        ("linspace(3, 9, 1)", "[3]"),
        ("logspace(-3, 0, 4)", "[0.001,0.01,0.1,1.0]"),
        ("logspace(0, 3, 4)", "[1,10,100,1000]"),
    ]);
}

#[test]
fn statistics() {
    check_values(&[
        ("sum(params.list)", "6"),
        ("sum([])", "0"),
        ("sum(1, 2.5)", "3.5"),
        ("min(params.list)", "1"),
        ("max(3, 4.5, 4)", "4.5"),
        ("mean(1, 2)", "1.5"),
        ("median(params.list)", "2"),
        ("median([4, 1, 2, 3])", "2.5"),
        ("mean(needs.*.outputs.loss.*)", "2.6666666666666665"),
        ("round(2.5)", "3"),
        ("round(-2.5)", "-3"),
        ("round(0.125, 2)", "0.13"),
        ("round(1.005, 2)", "1.0"),
        ("round(3.14159, 3)", "3.142"),
        ("round(1250, -2)", "1300"),
        ("round(7, 2)", "7"),
        ("isfinite(1.5)", "true"),
        ("isfinite(null)", "false"),
    ]);
}

#[test]
fn text_functions() {
    check_values(&[
        ("contains('hello', 'ell')", "true"),
        ("contains(params.list, 3)", "true"),
        ("contains(params.list, '3')", "false"),
        ("startsWith('abc', 'ab')", "true"),
        ("endsWith('abc', 'ab')", "false"),
        ("format('{1}-{0}', 'a', 0.50)", "0.50-a"),
        ("format('{{0}} {0}', 1)", "{0} 1"),
        ("join(params.list)", "3,1,2"),
        ("join(['a', 1.50], ' ')", "a 1.50"),
        ("join('a', ' ')", "a"),
        (
            "toJSON(matrix.scenario)",
            r#"{"coverage":0.8,"name":"vaccine"}"#,
        ),
        ("fromJSON('[1, 2.0, \"x\"]')", r#"[1,2.0,"x"]"#),
        ("len('größe')", "5"),
        ("len(params)", "5"),
        ("basename(needs.a.outputs.file)", "a.csv"),
        ("basename('out/')", "out"),
        ("basename(['a/b', 'c'])", r#"["b","c"]"#),
        ("default(params.nothing, 7)", "7"),
        ("default(params.missing, 7)", "7"),
        ("default(params.list[9], 7)", "7"),
        ("default(params.branch, 7)", "main"),
        ("always() && success() && !failure()", "true"),
    ]);
}

#[test]
fn failures_point_at_their_part() {
    check_failures(&[
        ("1 + matrix.bta", "matrix.bta", "has no member `bta`"),
        (
            "matrix.scenario.name.x",
            "matrix.scenario.name.x",
            "is a string",
        ),
        ("params.list.x", "params.list.x", "is a list"),
        ("params.nothing.x", "params.nothing.x", "is null"),
        ("params.list[3]", "params.list[3]", "outside"),
        ("params.list['a' + '']", "'a' + ''", "two numbers"),
        (
            "params.list[params.branch]",
            "params.list[params.branch]",
            "indexed by an integer",
        ),
        ("2 * ('a' + 1)", "'a' + 1", "two numbers"),
        ("'1' == 1", "'1' == 1", "compared"),
        ("true == 'true'", "true == 'true'", "compared"),
        ("1 < 'a'", "1 < 'a'", "`<` needs"),
        ("-'a'", "-'a'", "needs a number"),
        (
            "9223372036854775807 + 1",
            "9223372036854775807 + 1",
            "64 bits",
        ),
        ("1 / 0", "1 / 0", "division by zero"),
        ("5 % 0", "5 % 0", "division by zero"),
        ("range(1, 2, 0)", "range(1, 2, 0)", "step"),
        ("range(1, 2000000)", "range(1, 2000000)", "limit"),
        ("range(0, 9e99)", "range(0, 9e99)", "limit"),
        ("linspace(0, 1, 0)", "linspace(0, 1, 0)", "at least 1"),
        (
            "logspace(0, 999, 3)",
            "logspace(0, 999, 3)",
            "range of floats",
        ),
        ("min([])", "min([])", "empty list"),
        ("sum('a')", "sum('a')", "needs numbers"),
        ("format('{1}', 1)", "format('{1}', 1)", "only 1 values"),
        ("format('{x}', 1)", "format('{x}', 1)", "stands alone"),
        ("join([[1]], '')", "join([[1]], '')", "needs text"),
        ("fromJSON('{')", "fromJSON('{')", "not JSON"),
        ("default(1 / 0, 2)", "1 / 0", "division"),
        ("hashFiles('a')", "hashFiles('a')", "no value here"),
        (
            "params.branch.*",
            "params.branch.*",
            "needs a list or a map",
        ),
        ("basename(null)", "basename(null)", "not null"),
    ]);
}

#[test]
fn a_near_member_is_suggested() {
    let error = value("matrix.scenario.coverge").unwrap_err();
    assert_eq!(error.help.as_deref(), Some("did you mean `coverage`?"));
    let error = value("matrix.scenario.zzz").unwrap_err();
    let members = error.help.unwrap_or_default();
    assert!(
        members.contains("`name`") && members.contains("`coverage`"),
        "{members}"
    );
}

#[test]
fn growth_is_bounded() {
    let mut text = "'xxxxxxxxxx'".to_string();
    for _ in 0..20 {
        text = format!("format('{{0}}{{0}}{{0}}{{0}}{{0}}{{0}}{{0}}{{0}}', {text})");
    }
    assert!(value(&text).unwrap_err().message.contains("MiB of text"));
    let many = format!("[{}]", vec!["range(1, 100000)"; 30].join(", "));
    assert!(value(&many).unwrap_err().message.contains("list items"));
}

/// Each bad expression: the code, the underlined part, and a part of the message or help.
#[test]
fn errors_say_what_was_expected() {
    let table: &[(&str, &str, &str, &str)] = &[
        ("", "expression-syntax", "", "empty"),
        ("${{ }}", "expression-syntax", "", "empty"),
        (
            "1 +",
            "expression-syntax",
            "",
            "expected a value, found the end",
        ),
        ("1 2", "expression-syntax", "2", "expected an operator"),
        ("a.b c.d", "expression-syntax", "c", "expected an operator"),
        ("(1 + 2", "expression-syntax", "", "expected `)`"),
        ("[1, 2", "expression-syntax", "", "expected `,` or `]`"),
        ("len(1, ", "expression-syntax", "", "expected a value"),
        ("len(1; 2)", "expression-syntax", ";", "not part of"),
        ("params.", "expression-syntax", "", "expected a name or `*`"),
        ("params.1", "expression-syntax", "1", "`[1]`"),
        ("params[1", "expression-syntax", "", "expected `]`"),
        ("a ? b", "expression-syntax", "", "expected `:`"),
        ("a = b", "expression-syntax", "=", "`==`"),
        ("a & b", "expression-syntax", "&", "`&&`"),
        ("a | b", "expression-syntax", "|", "`||`"),
        ("a and b", "expression-syntax", "and", "`&&`"),
        ("a or b", "expression-syntax", "or", "`||`"),
        ("not a", "expression-syntax", "a", "`!`"),
        ("{a: 1}", "expression-syntax", "{", "fromJSON"),
        ("$x", "expression-syntax", "$", "without `$`"),
        ("'abc", "expression-syntax", "'", "no closing"),
        ("\"abc", "expression-syntax", "\"", "no closing"),
        ("3abc", "expression-syntax", "3abc", "neither a number"),
        ("0x", "expression-syntax", "0x", "neither a number"),
        (
            "99999999999999999999",
            "number",
            "99999999999999999999",
            "too large",
        ),
        ("1e999", "number", "1e999", "too large"),
        ("foo(1)", "unknown-function", "foo", "functions are"),
        ("log(1)", "unknown-function", "log", "let a job write it"),
        (
            "startswith('a', 'b')",
            "unknown-function",
            "startswith",
            "`startsWith`",
        ),
        ("len()", "arguments", "len()", "1 argument"),
        ("len(1, 2)", "arguments", "len(1, 2)", "1 argument"),
        (
            "round(1, 2, 3)",
            "arguments",
            "round(1, 2, 3)",
            "1 to 2 arguments",
        ),
        ("success(1)", "arguments", "success(1)", "no arguments"),
        ("range(1)", "arguments", "range(1)", "2 to 3"),
        ("${{ a", "unclosed-template", "${{", "no `}}`"),
        ("${{ 'a }}", "expression-syntax", "'", "no closing"),
        ("${{ a }} b", "text-beside-expression", "b", "${{ a b }}"),
        (
            "${{ a }} && ${{ b }}",
            "text-beside-expression",
            "&& ${{ b }}",
            "${{ a && b }}",
        ),
        ("!${{ a }}", "text-beside-expression", "!", "${{ ! a }}"),
        (
            "${{ ${{ a }} }}",
            "expression-syntax",
            "${{",
            "does not nest",
        ),
        ("a.b.*.c[", "expression-syntax", "", "expected a value"),
        (")", "expression-syntax", ")", "expected a value"),
    ];
    for (text, code, place, message) in table {
        let errors = read(text).expect_err(text);
        let error = &errors[0];
        assert_eq!(error.code, *code, "{text}: {error:?}");
        let (start, end) = (error.span.start as usize, error.span.end as usize);
        assert_eq!(&text[start..end], *place, "{text}");
        let words = format!("{} {}", error.message, error.help.join(" "));
        assert!(words.contains(message), "{text}: {words}");
    }
}

#[test]
fn an_open_bracket_is_shown() {
    let errors = read("1 + (2 * [3, 4)").unwrap_err();
    assert_eq!(errors[0].related[0].0.start, 9);
}

#[test]
fn several_errors_come_at_once() {
    let errors = read("foo(1) + bar(2) + len()").unwrap_err();
    let codes: Vec<_> = errors.iter().map(|error| error.code).collect();
    assert_eq!(codes, ["unknown-function", "unknown-function", "arguments"]);
    let mut out = Vec::new();
    parse_template(
        &source("a ${{ 1 + }} b ${{ ) }} c ${{ params.x }}"),
        &mut out,
    );
    assert_eq!(out.len(), 2);
}

#[test]
fn templates_split_by_lexing() {
    let mut out = Vec::new();
    let template = parse_template(&source("a ${{ '}}' }}-${{ \"x}}\" }}$"), &mut out);
    assert_eq!(out, []);
    let shown: Vec<String> = template
        .parts
        .iter()
        .map(|part| match part {
            TemplatePart::Text(text) => text.to_string(),
            TemplatePart::Expr(expr) => eval(expr, &Json::sample()).unwrap().to_text(),
        })
        .collect();
    assert_eq!(shown, ["a ", "}}", "-", "x}}", "$"]);
}

#[test]
fn literal_members_are_plain_references() {
    let expr = read("needs['b-c'].outputs").unwrap();
    assert_eq!(expr.as_path().unwrap(), ["needs", "b-c", "outputs"]);
}

#[test]
fn hostile_depth_is_an_error() {
    for text in [
        format!("{}1{}", "(".repeat(20_000), ")".repeat(20_000)),
        "!".repeat(20_000) + "a",
        "-".repeat(20_000) + "a",
        "[".repeat(20_000),
        "a?".repeat(20_000),
        vec!["1"; 20_000].join("+"),
        "a".to_string() + &".b".repeat(20_000),
        "a".to_string() + &"[0]".repeat(20_000),
        "len(".repeat(20_000),
    ] {
        let errors = read(&text).unwrap_err();
        assert!(
            errors.iter().any(|error| error.code == "expression-depth"),
            "{}: {:?}",
            &text[..20],
            errors[0]
        );
    }
    // What people write is far below the limits.
    read(&vec!["1"; 200].join("+")).unwrap();
    read(&format!("{}1{}", "(".repeat(50), ")".repeat(50))).unwrap();
}

#[test]
fn references_are_listed() {
    use dagrun_expr::{ReferenceKind as Kind, references};
    let table: &[(&str, &[(Kind<'_>, &str)])] = &[
        ("1 + 2", &[]),
        ("params.x", &[(Kind::Param(Some("x")), "params.x")]),
        ("params['x'].y", &[(Kind::Param(Some("x")), "params['x']")]),
        (
            "matrix.scenario.coverage",
            &[(Kind::Matrix(Some("scenario")), "matrix.scenario")],
        ),
        ("toJSON(matrix)", &[(Kind::Matrix(None), "matrix")]),
        (
            "params[matrix.name]",
            &[
                (Kind::Param(None), "params[matrix.name]"),
                (Kind::Matrix(Some("name")), "matrix.name"),
            ],
        ),
        (
            "replicate.seed",
            &[(Kind::Replicate(Some("seed")), "replicate.seed")],
        ),
        ("inputs.x", &[(Kind::Input(Some("x")), "inputs.x")]),
        ("inputs.x.list", &[(Kind::InputList("x"), "inputs.x.list")]),
        ("inputs.*", &[(Kind::Input(None), "inputs.*")]),
        ("outputs.x", &[(Kind::Output(Some("x")), "outputs.x")]),
        (
            "needs.a.outputs.b[0].c",
            &[(Kind::NeedOutput(Some("a"), Some("b")), "needs.a.outputs.b")],
        ),
        (
            "needs.a.outputs",
            &[(Kind::NeedOutput(Some("a"), None), "needs.a.outputs")],
        ),
        (
            "needs.a.points",
            &[(Kind::NeedPoints(Some("a")), "needs.a.points")],
        ),
        (
            "needs.*.result",
            &[(Kind::NeedResult(None), "needs.*.result")],
        ),
        ("needs.a", &[(Kind::Need(Some("a")), "needs.a")]),
        ("needs", &[(Kind::Need(None), "needs")]),
        (
            "jobs.a.outputs.b",
            &[(Kind::JobOutput(Some("a"), Some("b")), "jobs.a.outputs.b")],
        ),
        ("secrets.a", &[(Kind::Secret(Some("a")), "secrets.a")]),
        ("env.A", &[(Kind::Env(Some("A")), "env.A")]),
        ("git.branch", &[(Kind::Git(Some("branch")), "git.branch")]),
        ("attempt", &[(Kind::Attempt, "attempt")]),
        ("run.id", &[(Kind::Run(Some("id")), "run.id")]),
        (
            "trial.x + study.y",
            &[
                (Kind::Trial(Some("x")), "trial.x"),
                (Kind::Study(Some("y")), "study.y"),
            ],
        ),
        ("!always()", &[(Kind::Status(Function::Always), "always()")]),
        (
            "hashFiles(params.x)",
            &[
                (Kind::HashFiles, "hashFiles(params.x)"),
                (Kind::Param(Some("x")), "params.x"),
            ],
        ),
        (
            "env.A ? [git.branch] : fromJSON(params.x).y",
            &[
                (Kind::Env(Some("A")), "env.A"),
                (Kind::Git(Some("branch")), "git.branch"),
                (Kind::Param(Some("x")), "params.x"),
            ],
        ),
        ("unheard.of", &[(Kind::Unknown("unheard"), "unheard")]),
    ];
    for (text, wanted) in table {
        let expr = read(text).unwrap();
        let found: Vec<_> = references(&expr)
            .map(|r| (r.kind, &text[r.span.start as usize..r.span.end as usize]))
            .collect();
        assert_eq!(found, *wanted, "{text}");
    }
}

/// Prints a value as a literal of the language.
fn literal(value: &Value) -> String {
    match value {
        Value::Str(text) => format!("'{}'", text.replace('\'', "''")),
        Value::List(items) => {
            let items: Vec<_> = items.iter().map(literal).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_text(),
    }
}

fn literals() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<f64>()
            .prop_filter("a literal is finite", |f| f.is_finite())
            .prop_map(Value::Float),
        ".*".prop_map(Value::str),
    ];
    scalar.prop_recursive(4, 32, 8, |inner| {
        proptest::collection::vec(inner, 0..8).prop_map(Value::list)
    })
}

proptest! {
    #[test]
    fn printed_literals_read_back(value in literals()) {
        let text = literal(&value);
        let expr = read(&text).map_err(|errors| TestCaseError::fail(format!("{errors:?}")))?;
        let back = eval(&expr, &Json(Value::map(Map::new()))).unwrap();
        prop_assert_eq!(&back, &value);
        prop_assert_eq!(back.to_text(), value.to_text());
    }

    #[test]
    fn reading_never_panics(text in r#"(\$\{\{|\}\}|[a-z0-9.'"()\[\]?:!&|=<>+*/%, -]|needs|len\(|\PC){0,40}"#) {
        let mut out = Vec::new();
        parse_expression(&source(&text), &mut out);
        let template = parse_template(&source(&text), &mut out);
        for error in &out {
            prop_assert!(error.span.start <= error.span.end);
            prop_assert!(error.span.end as usize <= text.len());
        }
        for expr in template.exprs() {
            let _ = eval(expr, &Json::sample());
        }
    }

    #[test]
    fn spans_lie_on_characters(text in "\\PC{0,30}") {
        let mut out = Vec::new();
        parse_template(&source(&format!("${{{{ {text} }}}}")), &mut out);
        let whole = format!("${{{{ {text} }}}}");
        for error in out {
            prop_assert!(whole.get(error.span.start as usize..error.span.end as usize).is_some());
        }
    }
}

#[test]
fn precedence_is_in_the_tree() {
    let expr = read("a || b && c").unwrap();
    let ExprKind::Binary(op, ..) = expr.kind else {
        panic!("not a binary expression");
    };
    assert_eq!(op, dagrun_model::BinaryOp::Or);
}
