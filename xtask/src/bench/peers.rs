//! Peers by package name: Debian's for ninja and make, PyPI's for the rest, in a virtual environment below `target/`.

use std::path::PathBuf;

use crate::tools::{has, output, root, run};

/// The PyPI packages that are compared with.
const PYPI: &[&str] = &[
    "snakemake",
    "dvc",
    "redun",
    "hyperqueue",
    // With what its CMA-ES and its Sobol sequences need.
    "optuna",
    "cmaes",
    "scipy",
    // What runs Optuna's trials in processes.
    "joblib",
    "distributed",
    "ray",
];

fn environment() -> PathBuf {
    root().join("target/bench-peers")
}

/// Installs what is missing. What cannot be had is shown as missing in the tables.
pub(crate) fn install() {
    for (program, package) in [
        ("ninja", "ninja-build"),
        ("make", "make"),
        ("b3sum", "b3sum"),
    ] {
        if !has(program) && has("apt-get") {
            let done = run("apt-get", &["-qq", "update"]).and_then(|()| {
                run(
                    "apt-get",
                    &["-qq", "-y", "--no-install-recommends", "install", package],
                )
            });
            if let Err(error) = done {
                println!("missing peer {package}: {error}");
            }
        }
    }
    let environment = environment();
    let python = environment.join("bin/python");
    if !python.exists()
        && let Err(error) = run(
            "python3",
            &["-m", "venv", &environment.display().to_string()],
        )
    {
        println!("missing peers {}: {error}", PYPI.join(", "));
        return;
    }
    for package in PYPI {
        if let Err(error) = run(
            &python.display().to_string(),
            &["-m", "pip", "install", "--quiet", package],
        ) {
            println!("missing peer {package}: {error}");
        }
    }
}

/// A program of Debian's, where it is there.
pub(crate) fn program(name: &str) -> Option<String> {
    has(name).then(|| name.to_string())
}

/// A program of the virtual environment, where it is there.
pub(crate) fn python_program(name: &str) -> Option<String> {
    let path = environment().join("bin").join(name);
    path.exists().then(|| path.display().to_string())
}

/// The Python of the virtual environment, where a package is there.
pub(crate) fn python_with(package: &str) -> Option<String> {
    let python = python_program("python")?;
    output(&python, &["-c", &format!("import {package}")])
        .ok()
        .map(|_| python)
}
