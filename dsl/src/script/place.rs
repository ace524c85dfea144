//! What to say about a template in a place that no value may enter.

use std::ops::Range;

use dagrun_model::{Diagnostic, Expr, ExprKind};

use crate::text::SourceText;

/// A place in a shell script that no value may enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forbidden {
    /// The body of a heredoc, and whether its delimiter is quoted.
    Heredoc { quoted: bool },
    /// `$(( ))`, `(( ))`, `$[ ]`, an index, `let`, or a number comparison in `[[ ]]`.
    Arithmetic,
    /// Between backticks.
    Backticks,
    /// Inside `${ }`.
    Expansion,
    /// Inside `$'...'`.
    AnsiQuotes,
    /// In a word that a shell or interpreter reads as a program: `bash -c '...'`, `eval ...`.
    Program,
    /// In a word that names a variable: `unset`, `read`, `declare`.
    VariableName,
    /// Right behind a backslash or `$`, which would take the quote or the reference apart.
    Escaped,
}

/// The error for a template in a forbidden place of a shell script.
pub(super) fn refused(
    text: &SourceText,
    range: Range<usize>,
    expr: &Expr,
    place: Forbidden,
) -> Diagnostic {
    let template = &text.text()[range.clone()];
    let name = variable_name(expr);
    let error =
        |message: &str| Diagnostic::error("template-place", text.span_of(range.clone()), message);
    let declare = format!("declare `env: {{{name}: \"{template}\"}}`");
    match place {
        Forbidden::Heredoc { quoted: false } => {
            error("a value cannot stand in a heredoc").help(format!("{declare} and write `${name}` here"))
        }
        Forbidden::Heredoc { quoted: true } => error("a value cannot stand in a heredoc")
            .help(format!("{declare} and read the variable {name} in what the heredoc is for; or take the quotes off the delimiter and write `${name}`")),
        Forbidden::Arithmetic => error("a value cannot stand in shell arithmetic, which would run commands in it")
            .help(format!("calculate inside the expression, such as `${{{{ {} + 1 }}}}`", inner(template)))
            .help(format!("or {declare}, check that it is a number, and write `{name}` here")),
        Forbidden::Backticks => error("a value cannot stand between backticks")
            .help("write `$(...)` instead of the backticks")
            .help(format!("or {declare} and write `${name}`")),
        Forbidden::Expansion => error("a value cannot stand inside `${ }` of the shell")
            .help(format!("{declare} and write `${name}`, or assign it first: `x={template}`")),
        Forbidden::AnsiQuotes => error("a value cannot stand inside `$'...'`")
            .help(format!("end the quotes before it: `$'...'{template}$'...'`"))
            .help(format!("or {declare} and write `\"${name}\"`")),
        Forbidden::Program => error("a value cannot stand in the text of a program: it would become code")
            .help(format!("{declare} and read the variable {name} in the program"))
            .help("or hand it over as an argument: `bash -c '... \"$1\"' bash VALUE`"),
        Forbidden::VariableName => error("a value cannot be the name of a variable: the shell would run commands in it")
            .help(format!("write the name out; {declare} if you want a variable with this value")),
        Forbidden::Escaped => error("a `\\` or `$` stands right before `${{`")
            .help(format!("put it in quotes of its own, such as `'\\'{template}` or `'$'{template}`")),
    }
}

/// The error for a template in a script for another program than a shell.
pub(super) fn refused_in_program(
    text: &SourceText,
    range: Range<usize>,
    expr: &Expr,
    program: &str,
) -> Diagnostic {
    let template = &text.text()[range.clone()];
    let name = variable_name(expr);
    let read = read_variable(program, &name);
    Diagnostic::error(
        "template-place",
        text.span_of(range),
        format!("a value cannot stand in a script for `{program}`: it would become code"),
    )
    .help(format!(
        "declare `env: {{{name}: \"{template}\"}}` and write `{read}` here"
    ))
}

/// How a program reads an environment variable.
fn read_variable(program: &str, name: &str) -> String {
    let base = program.rsplit('/').next().unwrap_or(program);
    let base = base.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    match base {
        "python" | "pypy" | "uv" => format!("os.environ[\"{name}\"]"),
        "R" | "Rscript" | "littler" => format!("Sys.getenv(\"{name}\")"),
        "node" | "deno" | "bun" => format!("process.env.{name}"),
        "perl" => format!("$ENV{{{name}}}"),
        "ruby" | "julia" => format!("ENV[\"{name}\"]"),
        "pwsh" | "powershell" => format!("$env:{name}"),
        "zsh" | "ksh" | "dash" | "fish" => format!("\"${name}\""),
        _ => format!("${name}"),
    }
}

/// A variable name made of the last name of the reference: `matrix.beta` is BETA.
fn variable_name(expr: &Expr) -> String {
    const TAKEN: &[&str] = &[
        "PATH", "HOME", "USER", "SHELL", "LANG", "TZ", "TMPDIR", "IFS", "PWD",
    ];
    let mut last = None;
    expr.walk(&mut |expr| {
        if last.is_none()
            && let ExprKind::Member(_, name) = &expr.kind
        {
            last = Some(name.clone());
        }
    });
    let name: String = last
        .as_deref()
        .unwrap_or("value")
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect();
    if TAKEN.contains(&&*name) || name.starts_with(|c: char| c.is_ascii_digit()) {
        format!("MY_{name}")
    } else {
        name
    }
}

fn inner(template: &str) -> &str {
    template
        .trim_start_matches("${{")
        .trim_end_matches("}}")
        .trim()
}
