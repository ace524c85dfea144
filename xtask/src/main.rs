//! The project's own build steps: `cargo xtask ci`, `tidy`, `docs`, `bench`, `soak`.
//!
//! Everything that CI does is here, so that it runs the same on a laptop.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a build tool talks to a terminal"
)]

mod bench;
mod ci;
#[cfg(feature = "codegen")]
mod codegen;
mod docs;
mod generated;
mod protocol;
mod soak;
mod tidy;
mod tools;

use std::process::ExitCode;

const HELP: &str = "\
usage: cargo xtask COMMAND

  ci [--quick]     all that has to pass before a change lands: format, lints, tidy, docs, tests, simulation, examples
                   (--quick: without the 100,000-seed simulation and the release build)
  tidy             crate directions, generated files, purity of the core, no machine paths
  docs             writes what is generated: docs/reference/cli.md, protocol.md and schema.json
  codegen [--check]
                   turns the protobuf files of executors/proto into Rust (--check: compares only)
  bench [NAME ...] [--peers] [--quick] [--gate]
                   dagrun beside its peers and bounds, written to docs/benchmarks (--peers: install them first; --gate: write nothing,
                   and fail where a ratio is more than a tenth worse than on record)
  soak kill|cluster|power|hostile|flood [--loops N] [--seed N]
                   faults in a loop: kill -9 of a run, of a cluster, power cuts (root), damaged pipelines, hundreds of megabytes of output
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if args.is_empty()
        || args
            .iter()
            .any(|arg| ["help", "--help", "-h"].contains(arg))
    {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let done = match args.as_slice() {
        ["ci"] => ci::ci(false),
        ["ci", "--quick"] => ci::ci(true),
        ["tidy"] => tidy::run(),
        ["docs"] => generated::write(),
        ["codegen"] => codegen(&[]),
        ["codegen", "--check"] => codegen(&["--check"]),
        ["bench", names @ ..] => bench::bench(names),
        ["soak", args @ ..] => soak::soak(args),
        ["bench-node", args @ ..] => bench::bench_node(args),
        ["bench-study", n] => bench::bare_study(n),
        ["bench-link", args @ ..] => bench::bench_link(args),
        ["bench-spawn", n] => bench::bare_spawn_loop(n),
        other => Err(format!("unknown command `{}`\n\n{HELP}", other.join(" "))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The compiler of protobuf is heavy, so only this command builds it.
#[cfg(not(feature = "codegen"))]
fn codegen(flags: &[&str]) -> Result<(), String> {
    let run = [
        "run",
        "--quiet",
        "--package",
        "xtask",
        "--features",
        "codegen",
        "--",
        "codegen",
    ];
    tools::run("cargo", &[&run, flags].concat())
}

#[cfg(feature = "codegen")]
fn codegen(flags: &[&str]) -> Result<(), String> {
    codegen::codegen(!flags.is_empty())
}
