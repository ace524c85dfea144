//! The binary `dagrun`: arguments, settings, wiring, terminal. The only crate that names a concrete executor.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod credentials;
mod drawing;
mod error;
mod leftovers;
mod load;
mod remote;
mod resolve;
mod serve;
mod settings;
mod shared;
mod signals;
mod term;
mod trial;
mod typed;
mod workers;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory, Parser};

use crate::{
    args::{Cli, Command},
    term::{Ink, Style},
};

/// Planning and look-ups make many small allocations: a fifth less CPU for a re-run of 10,000 hits with an input file each.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if args
        .get(1)
        .is_some_and(|arg| arg == dagrun_worker::SPAWNER_COMMAND)
    {
        return dagrun_worker::spawner_main();
    }
    let cli = match Cli::try_parse_from(with_run(args)) {
        Ok(cli) => cli,
        Err(error) => {
            // clap prints help to standard output and errors to standard error, and its codes are 0 and 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let style = Style::new(&cli.global);
    log_to_stderr(style, keeps_a_log(&cli.command));
    match commands::dispatch(cli, style) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            if !error.message.is_empty() {
                say!(
                    "{} {}",
                    style.paint(Ink::Bad, "error:"),
                    term::escape(&error.message)
                );
            }
            for hint in &error.hints {
                say!(
                    "  {} {}",
                    style.paint(Ink::Info, "help:"),
                    term::escape(hint)
                );
            }
            ExitCode::from(error.kind as u8)
        }
    }
}

/// `dagrun FILE ...` is short for `dagrun run FILE ...`: the first word that is no flag and no command is a file.
fn with_run(mut args: Vec<OsString>) -> Vec<OsString> {
    let command = Cli::command();
    let flags: Vec<_> = command
        .get_arguments()
        .chain(
            command
                .find_subcommand("run")
                .into_iter()
                .flat_map(|run| run.get_arguments()),
        )
        .collect();
    let takes_value = |word: &str| {
        flags.iter().any(|flag| {
            let long = flag
                .get_long()
                .is_some_and(|name| word.strip_prefix("--") == Some(name));
            let short = flag
                .get_short()
                .is_some_and(|name| word.strip_prefix('-') == Some(&name.to_string()));
            (long || short) && flag.get_action().takes_values() && !flag.is_require_equals_set()
        })
    };
    let everywhere: Vec<_> = command.get_arguments().collect();
    let is_of_run = |word: &str| {
        let name = word.split('=').next().unwrap_or(word);
        let is = |flag: &&clap::Arg| {
            let long = flag.get_long().map(|long| format!("--{long}"));
            let short = flag.get_short().map(|short| format!("-{short}"));
            long.as_deref() == Some(name)
                || short.is_some_and(|short| !name.starts_with("--") && name.starts_with(&short))
        };
        flags.iter().copied().any(|it| is(&it)) && !everywhere.iter().copied().any(|it| is(&it))
    };
    let (mut at, mut of_run) = (1, false);
    while let Some(arg) = args.get(at).and_then(|arg| arg.to_str()) {
        if !arg.starts_with('-') {
            let known = arg == "help" || command.get_subcommands().any(|sub| sub.get_name() == arg);
            if !known && (looks_like_file(arg)) {
                args.insert(1, "run".into());
            } else if known && of_run {
                // `dagrun -p x=1 run FILE`: a command's flags may stand before it.
                args[1..=at].rotate_right(1);
            }
            return args;
        }
        of_run |= is_of_run(arg);
        at += if takes_value(arg) { 2 } else { 1 };
    }
    args
}

/// A mistyped command must not become a missing file.
fn looks_like_file(arg: &str) -> bool {
    arg.contains(['.', '/']) || std::path::Path::new(arg).exists()
}

/// Whether somebody reads later what it said: who was refused, and which certificate ends.
fn keeps_a_log(command: &Command) -> bool {
    matches!(command, Command::Serve(_) | Command::Worker(_))
}

fn log_to_stderr(style: Style, keeps_a_log: bool) {
    let level = match style.verbose {
        0 | 1 if keeps_a_log => "error,dagrun_cluster::security=warn",
        0 | 1 => "error",
        2 => "dagrun=debug,info",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("DAGRUN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(style.color)
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(args: &[&str]) -> Vec<String> {
        let args = args.iter().map(OsString::from).collect();
        with_run(args)
            .into_iter()
            .map(|arg| arg.into_string().unwrap())
            .collect()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_a_command_may_stand_before_it() {
        for (given, meant) in [
            (
                &["dagrun", "-p", "a=1", "run", "p.yaml"][..],
                &["dagrun", "run", "-p", "a=1", "p.yaml"][..],
            ),
            (
                &["dagrun", "-q", "-j2", "run"],
                &["dagrun", "run", "-q", "-j2"],
            ),
            (
                &["dagrun", "--param=a=1", "plan"],
                &["dagrun", "plan", "--param=a=1"],
            ),
            (&["dagrun", "-q", "run"], &["dagrun", "-q", "run"]),
            (&["dagrun", "--help", "run"], &["dagrun", "--help", "run"]),
        ] {
            assert_eq!(words(given), meant);
        }
    }

    #[test]
    fn a_file_alone_is_run() {
        assert_eq!(
            words(&["dagrun", "p.yaml", "-j", "2"]),
            ["dagrun", "run", "p.yaml", "-j", "2"]
        );
        assert_eq!(
            words(&["dagrun", "-p", "a=1", "p.yaml"]),
            ["dagrun", "run", "-p", "a=1", "p.yaml"]
        );
        assert_eq!(
            words(&["dagrun", "--only", "b", "p.yaml"]),
            ["dagrun", "run", "--only", "b", "p.yaml"]
        );
        assert_eq!(
            words(&["dagrun", "-v", "p.yaml"]),
            ["dagrun", "run", "-v", "p.yaml"]
        );
        assert_eq!(
            words(&["dagrun", "plan", "p.yaml"]),
            ["dagrun", "plan", "p.yaml"]
        );
        assert_eq!(words(&["dagrun", "plann"]), ["dagrun", "plann"]);
    }
}
