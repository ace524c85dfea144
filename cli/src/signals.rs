//! Signals that ask a command to end.

use crate::error::{CliError, Context};

/// Calls back, on a thread of its own, for every SIGINT, SIGTERM and SIGHUP from now on.
pub(crate) fn listen(heard: impl FnMut(&'static str) + Send + 'static) -> Result<(), CliError> {
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || wait(&ready, heard))
        .doing(|| "start a thread".into())?;
    match is_ready.recv() {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(CliError::environment(format!(
            "cannot listen for signals: {error}"
        ))),
        Err(_) => Err(CliError::environment(
            "cannot listen for signals: the thread ended",
        )),
    }
}

fn wait(ready: &std::sync::mpsc::Sender<std::io::Result<()>>, mut heard: impl FnMut(&'static str)) {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return drop(ready.send(Err(error))),
    };
    runtime.block_on(async {
        let signals = (|| {
            Ok((
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            ))
        })();
        let (mut interrupt, mut terminate, mut hangup) = match signals {
            Ok(signals) => signals,
            Err(error) => return drop(ready.send(Err(error))),
        };
        let _ = ready.send(Ok(()));
        loop {
            heard(tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
                _ = hangup.recv() => "SIGHUP",
            });
        }
    });
}
