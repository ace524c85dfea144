//! Where templates stand, what is refused, and that no value ever becomes code in a real shell.

use std::{fs, process::Command};

use dagrun_expr::{Context, EvalError, render_script};
use dagrun_model::{Diagnostic, FileIx, Map, Quoting, Script, ScriptPart, Shell, Value};

use super::parse_script;
use crate::text::SourceText;

fn parse(text: &str, shell: Shell) -> (Script, Vec<Diagnostic>) {
    let mut out = Vec::new();
    let script = parse_script(&SourceText::plain(FileIx(0), text, 0), shell, &mut out);
    (script, out)
}

/// A script and one letter for the place of each value: bare, double or single.
fn check_places(table: &[(&str, &str)]) {
    for (text, wanted) in table {
        let (script, out) = parse(text, Shell::Bash);
        assert_eq!(out, [], "{text}");
        let places: String = script
            .parts
            .iter()
            .filter_map(|part| match part {
                ScriptPart::Text(_) => None,
                ScriptPart::Value { place, .. } => Some(match place {
                    Quoting::Bare => 'b',
                    Quoting::Double => 'd',
                    Quoting::Single => 's',
                }),
            })
            .collect();
        assert_eq!(places, *wanted, "{text}");
    }
}

#[test]
fn quoting_is_followed() {
    check_places(&[
        ("echo ${{ v }}", "b"),
        ("echo \"${{ v }}\" ${{ v }}", "db"),
        ("echo '${{ v }}' \"'${{ v }}'\" '\"${{ v }}\"'", "sds"),
        ("echo a'b'\"c\"${{ v }}", "b"),
        ("echo \\\"${{ v }}", "b"),
        ("echo \"\\\"${{ v }}\"", "d"),
        ("echo 'a\\' ${{ v }}", "b"),
        ("echo $'it\\'s' ${{ v }}", "b"),
        ("echo \"$'${{ v }}\"", "d"),
        ("echo $\"${{ v }}\"", "d"),
        ("echo $$ ${{ v }} $# ${{ v }} $? $! $'x'", "bb"),
        ("x=${{ v }} y=\"a${{ v }}\"", "bd"),
        ("a=\"$(cat ${{ v }})\"", "b"),
        ("a=\"$(cat \"${{ v }}\" '${{ v }}')${{ v }}\"", "dsd"),
        ("echo $(echo $(echo ${{ v }}) ${{ v }}) ${{ v }}", "bbb"),
        ("echo \"${x:-\"a b\"}\" ${{ v }}", "b"),
        ("echo \"${x#'}\" ${{ v }}", "b"),
        ("echo ${x#\\'} ${x%'}'} ${{ v }}", "b"),
        ("echo $((1 + (2))) ${{ v }}", "b"),
        ("((i = 1)); echo ${{ v }}", "b"),
        ("echo `date '+%H'` ${{ v }}", "b"),
        ("(cd x; echo ${{ v }})", "b"),
        ("# it's ${{ v }}\necho ${{ v }}", "b"),
        ("echo a#b ${{ v }} # don't", "b"),
        (
            "case x in\n  a) echo ${{ v }};;\n  'b') echo '${{ v }}';;\nesac\necho ${{ v }}",
            "bsb",
        ),
        ("a=\"$(case x in a) echo ${{ v }};; esac)${{ v }}\"", "bd"),
        ("cat <<EOF\nit's\nEOF\necho ${{ v }}", "b"),
        ("cat <<'EOF' > ${{ v }}\n\"\nEOF\necho '${{ v }}'", "bs"),
        ("cat <<-\"E F\"\n\t'\n\tE F\necho ${{ v }}", "b"),
        ("cat <<A <<B\n'\nA\n\"\nB\necho ${{ v }}", "b"),
        ("cat <<< ${{ v }}", "b"),
        ("x=$(cat <<EOF\n'\nEOF\n) ${{ v }}", "b"),
        ("f() { echo ${{ v }}; }", "b"),
        ("if [ ${{ v }} -eq 1 ]; then echo ${{ v }}; fi", "bb"),
        (
            "[[ ${{ v }} == a && ( x =~ ^(a|b)$ ) ]] && echo ${{ v }}",
            "bb",
        ),
        ("for x in ${{ v }}; do echo \"${{ v }}\"; done", "bd"),
        ("arr=(${{ v }} 'a' ${{ v }})", "bb"),
        ("cmd 2>&1 >& ${{ v }} &> ${{ v }}", "bb"),
        ("cmd \\\n  --x ${{ v }} \\\n  --y '${{ v }}'", "bs"),
        ("export X=${{ v }}; local y=\"${{ v }}\"", "bd"),
        ("python3 -c 'print(1)' ${{ v }}", "b"),
        ("bash script.sh -c ${{ v }}", "b"),
        ("bash -e ${{ v }}", "b"),
        ("head -c ${{ v }} x; wc -c \"${{ v }}\"", "bd"),
        ("printf -v x %s ${{ v }}", "b"),
        ("echo '$' ${{ v }} \"a$\" ${{ v }}", "bb"),
        ("echo $$${{ v }} \\$${{ v }}", "bb"),
        (
            "diff <(sort ${{ v }}) <(sort '${{ v }}') \"${{ v }}\"",
            "bsd",
        ),
        (
            "x=$(f() { case a in a) echo ${{ v }};; esac; }; f '${{ v }}') \"${{ v }}\"",
            "bsd",
        ),
        ("echo \"${{ '\"' }}\" ${{ \"'\" }}", "db"),
        ("echo [${{ v }}] a[${{ v }}] '[${{ v }}]'", "bbs"),
        (
            "x=[${{ v }}]; [ ${{ v }} = 1 ] && pip install a[${{ v }}]",
            "bbb",
        ),
    ]);
}

/// Scripts that are refused, and a part of the message or help.
#[test]
fn places_that_would_run_code_are_refused() {
    let table: &[(&str, &str)] = &[
        (
            "cat <<EOF\n${{ matrix.beta }}\nEOF",
            "declare `env: {BETA: \"${{ matrix.beta }}\"}` and write `$BETA` here",
        ),
        (
            "cat <<'EOF'\n  ${{ matrix.beta }}\nEOF",
            "take the quotes off",
        ),
        ("cat <<-EOF\n\t${{ matrix.beta }}\n\tEOF", "heredoc"),
        ("x=\"$(cat <<EOF\n${{ v }}\nEOF\n)\"", "heredoc"),
        ("echo $((${{ v.n }} + 1))", "${{ v.n + 1 }}"),
        ("echo \"$(( ${{ v }} ))\"", "arithmetic"),
        ("echo $[ ${{ v }} ]", "arithmetic"),
        ("((x = ${{ v }}))", "arithmetic"),
        ("for ((i=0; i<${{ v }}; i++)); do :; done", "arithmetic"),
        ("let x=${{ v }}", "arithmetic"),
        ("let \"x=${{ v }}\"", "arithmetic"),
        ("a[${{ v }}]=1", "arithmetic"),
        ("declare a[${{ v }}]=1", "arithmetic"),
        ("$cmd a[${{ v }}]=1", "arithmetic"),
        ("echo a {b[${{ v }}]}>c", "arithmetic"),
        ("[[ a[${{ v }}] == 1 ]]", "arithmetic"),
        ("echo ${a[\"${{ v }}\"]}", "inside `${ }`"),
        ("x=([${{ v }}]=1)", "arithmetic"),
        ("[[ ${{ v }} -eq 1 ]]", "arithmetic"),
        ("[[ 1 -lt \"${{ v }}\" && -n a ]]", "arithmetic"),
        ("[[ ( ${{ v }} -gt 1 ) ]]", "arithmetic"),
        ("[[ -v ${{ v }} ]]", "arithmetic"),
        ("test -v ${{ v }}", "name of a variable"),
        ("printf -v ${{ v }} %s a", "name of a variable"),
        ("declare -i n=${{ v }}", "arithmetic"),
        ("declare ${{ v }}=1", "name of a variable"),
        ("read ${{ v }}", "name of a variable"),
        ("unset '${{ v }}'", "name of a variable"),
        ("echo `cat ${{ v }}`", "`$(...)`"),
        ("echo \"`cat ${{ v }}`\"", "`$(...)`"),
        ("echo ${x:-${{ v }}}", "inside `${ }`"),
        ("echo \"${x:-${{ v }}}\"", "inside `${ }`"),
        ("echo \"${x:-\"${{ v }}\"}\"", "inside `${ }`"),
        ("echo $'a${{ v }}'", "$'...'"),
        ("echo \\${{ v }}", "right before"),
        ("echo \"\\${{ v }}\"", "right before"),
        ("echo $${{ v }}", "right before"),
        ("eval \"${{ v }}\"", "program"),
        ("eval echo ${{ v }}", "program"),
        ("trap 'echo ${{ v }}' EXIT", "program"),
        ("bash -c 'echo ${{ v }}'", "program"),
        ("sh -ec \"echo ${{ v }}\"", "program"),
        ("env X=1 bash -c \"echo ${{ v }}\"", "program"),
        ("find . -exec sh -c 'echo ${{ v }}' \\;", "program"),
        ("python3 -c \"print('${{ v }}')\"", "program"),
        ("/usr/bin/python3.12 -u -c \"${{ v }}\"", "program"),
        ("perl -ne 'print ${{ v }}'", "program"),
        ("Rscript \\\n  -e \"x <- ${{ v }}\"", "program"),
        ("x | node --eval \"${{ v }}\"", "program"),
    ];
    for (text, message) in table {
        let (_, out) = parse(text, Shell::Bash);
        let error = out.first().unwrap_or_else(|| panic!("accepted: {text}"));
        assert_eq!(
            (error.code, out.len()),
            ("template-place", 1),
            "{text}: {out:?}"
        );
        let words = format!("{} {}", error.message, error.help.join(" "));
        assert!(words.contains(message), "{text}: {words}");
        let place = &text[error.span.start as usize..error.span.end as usize];
        assert!(
            place.starts_with("${{") && place.ends_with("}}"),
            "{text}: {place}"
        );
    }
}

#[test]
fn other_programs_take_values_by_env() {
    for (program, wanted) in [
        ("python3", "os.environ[\"BETA\"]"),
        ("Rscript", "Sys.getenv(\"BETA\")"),
        ("/usr/bin/node", "process.env.BETA"),
        ("awk", "$BETA"),
    ] {
        let shell = Shell::Other(vec![program.into()]);
        let (_, out) = parse("x = ${{ matrix.beta }}\ny = ${{ matrix.beta }}", shell);
        assert_eq!(out.len(), 2);
        assert!(out[0].help[0].contains(wanted), "{:?}", out[0].help);
    }
}

#[test]
fn an_open_quote_is_a_warning() {
    for (text, at) in [("echo it's ${{ v }}", 7), ("echo \"a", 5), ("a=`b", 2)] {
        let (_, out) = parse(text, Shell::Bash);
        let found: Vec<_> = out
            .iter()
            .map(|d| (d.code, d.span.start, d.is_error()))
            .collect();
        assert_eq!(found, [("open-quote", at, false)], "{text}");
    }
}

/// Contexts that all are the same value.
struct One(Value);

impl Context for One {
    fn lookup(&self, _: &str) -> Result<Value, EvalError> {
        Ok(self.0.clone())
    }

    fn member(&self, _: &[&str]) -> Option<Result<Value, EvalError>> {
        Some(Ok(self.0.clone()))
    }
}

fn render(text: &str, value: Value) -> Result<(String, Vec<String>), EvalError> {
    let (script, out) = parse(text, Shell::Bash);
    assert_eq!(out, [], "{text}");
    let rendered = render_script(&script, &One(value))?;
    for (ix, (name, _)) in rendered.env.iter().enumerate() {
        assert_eq!(*name, format!("DAGRUN_V{ix}"));
    }
    let values = rendered.env.into_iter().map(|(_, value)| value).collect();
    Ok((rendered.text, values))
}

#[test]
fn values_become_references() {
    let text = |script: &str, value: Value| render(script, value).unwrap().0;
    let value = || Value::str("x");
    assert_eq!(text("a ${{ v }}", value()), "a \"${DAGRUN_V0}\"");
    assert_eq!(text("a \"b${{ v }}\"", value()), "a \"b${DAGRUN_V0}\"");
    assert_eq!(text("a 'b${{ v }}c'", value()), "a 'b'\"${DAGRUN_V0}\"'c'");
    assert_eq!(text("# ${{ v }}", value()), "# ${{ v }}");
    // Equal expressions share a variable, others do not.
    assert_eq!(
        text("${{ v }} ${{v}} ${{ w }}", value()),
        "\"${DAGRUN_V0}\" \"${DAGRUN_V0}\" \"${DAGRUN_V1}\""
    );
}

#[test]
fn lists_become_words() {
    let list = || Value::list([Value::str("a b"), Value::Int(2)]);
    let (text, values) = render("cat ${{ v }} > x", list()).unwrap();
    assert_eq!(text, "cat \"${DAGRUN_V0}\" \"${DAGRUN_V1}\" > x");
    assert_eq!(values, ["a b", "2"]);
    assert_eq!(render("cat (${{ v }})", list()).unwrap().1.len(), 2);
    assert_eq!(render("cat ${{ v }}", Value::list([])).unwrap().0, "cat ");
    for text in [
        "cat \"${{ v }}\"",
        "cat '${{ v }}'",
        "cat x${{ v }}",
        "cat ${{ v }}/x",
    ] {
        assert!(render(text, list()).unwrap_err().help.is_some(), "{text}");
    }
}

#[test]
fn values_without_text_and_large_ones_are_errors() {
    for (value, message) in [
        (Value::Null, "null"),
        (Value::map(Map::new()), "map"),
        (Value::str("a\0b"), "NUL"),
        (Value::str("x".repeat(128 << 10)), "131072 bytes"),
        (
            Value::list(vec![Value::str("x".repeat(100_000)); 11]),
            "1 MiB together",
        ),
    ] {
        let error = render("echo ${{ inputs.sims }}", value).unwrap_err();
        assert!(error.message.contains(message), "{}", error.message);
        assert!(error.span.is_some());
    }
    let long = Value::str("x".repeat(200_000));
    assert!(render("echo ${{ v }}", Value::str("x".repeat(130_000))).is_ok());
    let error = render("echo ${{ inputs.sims }}", long).unwrap_err();
    assert!(error.help.unwrap().contains("inputs.sims.list"));
}

/// Values that run code, or fall apart, wherever they are pasted into a script.
const HOSTILE: [&str; 20] = [
    "x; touch PWN",
    "$(touch PWN)",
    "`touch PWN`",
    "\"; touch PWN; \"",
    "'; touch PWN; '",
    "\"$(touch PWN)\"",
    "'$(touch PWN)'",
    "x\ntouch PWN\n",
    "x && touch PWN",
    "x | touch PWN",
    "x > PWN",
    "a[$(touch PWN)]",
    "${x:=$(touch PWN)}",
    "\\\"; touch PWN; \\\"",
    "x & touch PWN #",
    "}; touch PWN; {",
    ") ; touch PWN ; (",
    "*",
    "  -rf  a   b  ",
    "$HOME ~ !! \\ \t é {a,b} %s",
];

/// Places of a value; each script prints the value and nothing else.
const POSITIONS: [&str; 8] = [
    "printf %s ${{ v }}",
    "printf %s \"${{ v }}\"",
    "printf %s '${{ v }}'",
    "x=${{ v }}; printf %s \"$x\"",
    "x=\"$(printf %s ${{ v }}; printf _)\"; printf %s \"${x%_}\"",
    "f() { case a in a) printf %s \"${{ v }}\";; esac; }; f",
    "cat <<'EOF' > /dev/null\n'\"\nEOF\nfor x in ${{ v }}; do printf '%s' \"$x\"; done",
    "if [[ ${{ v }} == '${{ v }}' ]]; then bash -c 'printf %s \"$1\"' _ ${{ v }}; fi",
];

/// Runs every value at every position and compares what comes out.
fn check_injection(shell: Shell, command: &[&str], positions: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("bystander"), "").unwrap();
    for (script, value) in positions
        .iter()
        .flat_map(|p| HOSTILE.map(|value| (*p, value)))
    {
        let (script, out) = parse(script, shell.clone());
        assert_eq!(out, []);
        let rendered = render_script(&script, &One(Value::str(value))).unwrap();
        let output = Command::new(command[0])
            .args(&command[1..])
            .args(["-c", &rendered.text])
            .envs(rendered.env)
            .current_dir(folder.path())
            .output()
            .unwrap();
        let what = format!("{value:?} in {}", rendered.text);
        assert_eq!(String::from_utf8_lossy(&output.stdout), value, "{what}");
        assert!(output.status.success(), "{what}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{what}");
    }
}

#[test]
fn no_value_becomes_code_in_bash() {
    check_injection(Shell::Bash, &["bash", "-euo", "pipefail"], &POSITIONS);
}

#[test]
fn no_value_becomes_code_in_sh() {
    // All but the last one, which is bash's own.
    check_injection(Shell::Sh, &["sh", "-eu"], &POSITIONS[..7]);
}

#[test]
fn the_largest_value_fits_into_the_environment() {
    let (script, _) = parse("printf %s ${{ v }} | wc -c", Shell::Bash);
    let largest = dagrun_expr::VALUE_LIMIT - "DAGRUN_V0=".len() - 1;
    let render = |bytes: usize| render_script(&script, &One(Value::str("x".repeat(bytes))));
    assert!(render(largest + 1).is_err());
    let rendered = render(largest).unwrap();
    let output = Command::new("bash")
        .args(["-c", &rendered.text])
        .envs(rendered.env)
        .output()
        .unwrap();
    let counted = String::from_utf8_lossy(&output.stdout).trim().to_string();
    assert_eq!(counted, largest.to_string());
}

proptest::proptest! {
    #[test]
    fn reading_scripts_never_panics(text in r#"(\$\{\{ v \}\}|\$\(|\$\(\(|\)\)|\$\{|<<E|\nE\n|case |esac|\[\[ | \]\]|[a-z'"`\\(){}\[\];#$\n -]|\PC){0,40}"#) {
        let (script, out) = parse(&text, Shell::Bash);
        for error in &out {
            proptest::prop_assert!(text.get(error.span.start as usize..error.span.end as usize).is_some());
        }
        if out.is_empty() {
            proptest::prop_assert!(render_script(&script, &One(Value::str("x"))).is_ok());
        }
    }
}
