//! Programs without the rights of root.

use std::process::Command;

use crate::skip::{Unavailable, require_program, require_root};

/// The user and group `nobody` of every Linux.
pub const NOBODY: u32 = 65534;

/// The command as a user without rights: as it is, or as `nobody` where the test runs as root.
///
/// # Errors
/// Without the program `setpriv`, or where that user may not start this program.
pub fn unprivileged(command: &Command) -> Result<Command, Unavailable> {
    let mut other = if require_root().is_ok() {
        let as_nobody = || {
            let mut setpriv = Command::new("setpriv");
            setpriv
                .arg(format!("--reuid={NOBODY}"))
                .arg(format!("--regid={NOBODY}"))
                .arg("--clear-groups");
            setpriv
        };
        require_program("setpriv")?;
        let may = as_nobody()
            .args(["test", "-x"])
            .arg(command.get_program())
            .status();
        if !may.is_ok_and(|status| status.success()) {
            return Err(Unavailable(
                "needs a program that every user may start".into(),
            ));
        }
        let mut setpriv = as_nobody();
        setpriv.arg(command.get_program());
        setpriv
    } else {
        Command::new(command.get_program())
    };
    copy(command, &mut other);
    Ok(other)
}

/// Gives a command the arguments, the folder and the environment of another.
pub(crate) fn copy(from: &Command, to: &mut Command) {
    to.args(from.get_args());
    if let Some(folder) = from.get_current_dir() {
        to.current_dir(folder);
    }
    for (name, value) in from.get_envs() {
        match value {
            Some(value) => to.env(name, value),
            None => to.env_remove(name),
        };
    }
}
