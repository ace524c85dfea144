//! The spawner: one small process for each worker that starts the commands of nodes and leaves nothing behind.
//!
//! It is a program of its own for three reasons. Starting a process from a small one is cheap whatever the engine holds. As a
//! subreaper it becomes the parent of whatever a node leaves, so that no daemon gets away. And it notices by its socket that the
//! engine is gone, also after a kill -9, and then kills everything.
//!
//! It knows nothing of stores, inputs, outputs or plans: it gets folders that are ready, and reports how processes ended.

mod attempt;
mod cgroup;
mod exec;
mod launcher;
mod log;
mod serve;
pub(crate) mod tree;
pub(crate) mod wire;

use std::{
    ffi::OsString,
    io,
    os::{fd::AsFd, unix::net::UnixStream},
    process::ExitCode,
};

/// The hidden subcommand under which a program runs [`spawner_main`].
pub const SPAWNER_COMMAND: &str = "__spawner";

/// Whether this process was started as a spawner. To be asked before arguments are parsed.
pub fn is_spawner() -> bool {
    std::env::args_os()
        .nth(1)
        .is_some_and(|arg| arg == SPAWNER_COMMAND)
}

/// The main function of the spawner; its socket is the standard input. To be called from a program with a single thread.
///
/// Serves until the engine closes the socket or dies, then kills all that still runs.
pub fn spawner_main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(2).collect();
    match args.split_first() {
        Some((first, rest)) if first == cgroup::ENTER => cgroup::enter(rest),
        Some(_) => ExitCode::from(2),
        None => match serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!("the spawner stops: {error}");
                ExitCode::FAILURE
            }
        },
    }
}

fn serve() -> io::Result<()> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // Nodes inherit the standard input, and it must be empty.
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    // A session of its own keeps Ctrl-C at the terminal away from it and from the nodes: the engine decides what that means.
    let _ = rustix::process::setsid();
    dagrun_sys::catch_stop_signals();
    // Its nodes fill the CPUs, and each end of one leaves a slot empty until this process is heard.
    dagrun_sys::wake_promptly();
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        // A spawner that was stopped wakes up when the engine dies, and kills what runs.
        let _ =
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::CONT));
    }
    serve::Server::new(socket)?.run()
}
