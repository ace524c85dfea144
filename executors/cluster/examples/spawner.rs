//! The program that starts processes of nodes, for tests of workers.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    if dagrun_worker::is_spawner() {
        return dagrun_worker::spawner_main();
    }
    // Started by somebody else than a worker: nothing to do.
    ExitCode::from(2)
}
