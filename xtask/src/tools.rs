//! Running other programs.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The top of the checkout.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies below the top of the checkout")
        .to_path_buf()
}

/// Runs a command at the top of the checkout; its output goes to the terminal.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<(), String> {
    run_with(&[], program, args)
}

/// Likewise, with environment variables.
pub(crate) fn run_with(
    variables: &[(&str, &str)],
    program: &str,
    args: &[&str],
) -> Result<(), String> {
    let line = format!("{program} {}", args.join(" "));
    let set = variables
        .iter()
        .map(|(name, value)| format!("{name}='{value}' "));
    println!("\n$ {}{line}", set.collect::<String>());
    let status = Command::new(program)
        .args(args)
        .envs(variables.iter().copied())
        .current_dir(root())
        .status()
        .map_err(|error| format!("cannot start `{line}`: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{line}` failed: {status}"))
    }
}

/// The standard output of a command at the top of the checkout.
pub(crate) fn output(program: &str, args: &[&str]) -> Result<String, String> {
    let line = format!("{program} {}", args.join(" "));
    let output = Command::new(program)
        .args(args)
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot start `{line}`: {error}"))?;
    if !output.status.success() {
        return Err(format!("`{line}` failed: {}", output.status));
    }
    String::from_utf8(output.stdout)
        .map_err(|_| format!("`{line}` printed something that is not UTF-8"))
}

/// Whether a program is on the PATH.
pub(crate) fn has(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    })
}

/// The files that git tracks, relative to the top.
pub(crate) fn tracked_files() -> Result<Vec<PathBuf>, String> {
    let list = output(
        "git",
        &[
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ],
    )?;
    Ok(list
        .split('\0')
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .filter(|path| root().join(path).is_file())
        .collect())
}
