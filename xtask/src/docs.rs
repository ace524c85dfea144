//! The page on the command line: a template by hand, filled in from the command line itself.
//!
//! In `xtask/templates/cli.md`, a line `{{command NAME}}` becomes what clap knows of a command, `{{global}}` the flags of all,
//! `{{exit-codes}}` their table. Every command has to be named there once.

use clap::{Arg, Command, CommandFactory};

use crate::generated::File;

/// The words of the command line. The binary has the behaviour.
#[path = "../../cli/src/args.rs"]
mod args;

const TEMPLATE: &str = include_str!("../templates/cli.md");

/// The page.
pub(crate) fn cli() -> Result<File, String> {
    Ok(File {
        path: "docs/reference/cli.md",
        text: fill(TEMPLATE)?,
    })
}

fn fill(template: &str) -> Result<String, String> {
    let mut cli = args::Cli::command();
    cli.build();
    let mut missing = Vec::new();
    leaves(&cli, "", &mut missing);
    let mut page = String::new();
    for line in template.lines() {
        let marker = line
            .strip_prefix("{{")
            .and_then(|rest| rest.strip_suffix("}}"));
        match marker.map(|marker| marker.split_once(' ').unwrap_or((marker, ""))) {
            None => page.push_str(line),
            Some(("global", _)) => page.push_str(&arguments(cli.get_arguments())),
            Some(("exit-codes", _)) => page.push_str(&exit_codes()),
            Some(("command", name)) => {
                let Some(at) = missing.iter().position(|missing| missing == name) else {
                    return Err(format!(
                        "the template of the command-line page names `{name}`, which is no command or stands there twice"
                    ));
                };
                missing.remove(at);
                let found = name
                    .split(' ')
                    .try_fold(&cli, |command, word| command.find_subcommand(word));
                page.push_str(&command(found.expect("it is one of the leaves")));
            }
            Some((other, _)) => {
                return Err(format!("the template has an unknown `{{{{{other}}}}}`"));
            }
        }
        page.push('\n');
    }
    if missing.is_empty() {
        Ok(page)
    } else {
        Err(format!(
            "xtask/templates/cli.md lacks commands; add a section with `{{{{command {}}}}}`",
            missing.join("}}` and `{{command ")
        ))
    }
}

/// Names of the commands that do something, with the names of the commands that they belong to.
fn leaves(command: &Command, path: &str, names: &mut Vec<String>) {
    for sub in command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help")
    {
        let name = format!("{path}{}", sub.get_name());
        if sub.has_subcommands() {
            leaves(sub, &format!("{name} "), names);
        } else {
            names.push(name);
        }
    }
}

fn command(command: &Command) -> String {
    let about = command
        .get_long_about()
        .or(command.get_about())
        .map(ToString::to_string)
        .unwrap_or_default();
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let rows = arguments(command.get_arguments().filter(|arg| !arg.is_global_set()));
    let rows = if rows.is_empty() {
        rows
    } else {
        format!("\n\n{rows}")
    };
    format!(
        "{}\n\n```text\n{usage}\n```{rows}",
        prose(&sentence(&about))
    )
}

/// A first line without its point gets one, where more follows.
fn sentence(about: &str) -> String {
    match about.split_once("\n\n") {
        Some((first, rest)) => format!("{}. {rest}", first.trim_end_matches('.')),
        None => format!("{}.", about.trim_end_matches('.')),
    }
}

fn prose(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A row for each argument; empty where there is none.
fn arguments<'a>(args: impl Iterator<Item = &'a Arg>) -> String {
    let rows: Vec<String> = args
        .filter(|arg| !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str()))
        .map(|arg| format!("| {} | {} |", words(arg), meaning(arg)))
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("| | |\n|---|---|\n{}", rows.join("\n"))
}

/// How an argument is written: `-p`, `--param NAME=VALUE`.
fn words(arg: &Arg) -> String {
    let name = arg
        .get_value_names()
        .and_then(|names| names.first())
        .map_or_else(|| arg.get_id().as_str().to_uppercase(), ToString::to_string);
    if arg.is_positional() {
        return format!("`{name}`");
    }
    let value = match arg.get_action().takes_values() {
        false => String::new(),
        true if arg.is_require_equals_set() => format!("[={name},...]"),
        true => format!(" {name}"),
    };
    let long = arg.get_long().map(|long| format!("`--{long}{value}`"));
    let short = arg.get_short().map(|short| format!("`-{short}`"));
    let both: Vec<String> = short.into_iter().chain(long).collect();
    both.join(", ")
}

fn meaning(arg: &Arg) -> String {
    let help = arg
        .get_long_help()
        .or(arg.get_help())
        .map(ToString::to_string)
        .unwrap_or_default();
    let mut text = prose(&if help.contains("\n\n") {
        sentence(&help)
    } else {
        help
    });
    let mut more = |words: String| {
        let dot = if text.ends_with('.') { " " } else { ". " };
        text.push_str(dot);
        text.push_str(&words);
        text.push('.');
    };
    let code = |words: &mut dyn Iterator<Item = String>| {
        words
            .map(|word| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let takes_values = arg.get_action().takes_values();
    let values = arg.get_possible_values();
    if takes_values && !values.is_empty() {
        let names = &mut values.iter().map(|value| value.get_name().to_string());
        more(format!("One of {}", code(names)));
    }
    let defaults = arg.get_default_values();
    if takes_values && !defaults.is_empty() {
        let names = &mut defaults.iter().map(|value| value.display().to_string());
        more(format!("Default: {}", code(names)));
    }
    if let Some(variable) = arg.get_env() {
        more(format!("Also the variable `{}`", variable.display()));
    }
    let repeats = matches!(arg.get_action(), clap::ArgAction::Append);
    let many = arg.get_num_args().is_some_and(|n| n.max_values() > 1);
    if repeats && (arg.is_positional() || !many) {
        more("May stand several times".into());
    }
    text.replace('|', "\\|")
}

fn exit_codes() -> String {
    let rows: Vec<String> = args::EXIT_CODES
        .iter()
        .map(|(code, meaning)| format!("| {code} | {meaning} |"))
        .collect();
    format!("| code | meaning |\n|---|---|\n{}", rows.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_names_every_command_once() {
        assert!(fill(TEMPLATE).is_ok());
        let lacks = TEMPLATE.replace("{{command gc}}", "");
        assert!(fill(&lacks).is_err_and(|error| error.contains("gc")));
        let twice = TEMPLATE.replace("{{command gc}}", "{{command gc}}\n{{command gc}}");
        assert!(fill(&twice).is_err_and(|error| error.contains("twice")));
    }

    #[test]
    fn a_flag_says_its_values_default_and_variable() {
        let page = fill(TEMPLATE).unwrap();
        for row in [
            "| `--color WHEN` | When to use colour; `NO_COLOR` is respected. One of `auto`, `always`, `never`. Default: `auto`. |",
            "| `--on HOST:PORT` | The coordinator, as HOST:PORT or unix:PATH. Also the variable `DAGRUN_ON`. |",
            "| `-p`, `--param NAME=VALUE` | Set a parameter: NAME=VALUE. May stand several times. |",
            "| 130 | interrupted |",
        ] {
            assert!(page.contains(row), "no {row}");
        }
    }
}
