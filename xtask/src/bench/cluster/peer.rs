//! The other engines: one script that starts each with two workers and prints what it measured as JSON.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::{
    bench::{Bench, peers},
    tools::output,
};

const SCRIPT: &str = include_str!("peer.py");

/// An engine of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    Dask,
    HyperQueue,
    Ray,
}

impl Engine {
    /// What people call it.
    fn title(self) -> &'static str {
        match self {
            Self::Dask => "Dask distributed",
            Self::HyperQueue => "HyperQueue",
            Self::Ray => "Ray",
        }
    }

    /// Its package, which is its module too.
    fn package(self) -> &'static str {
        match self {
            Self::Dask => "distributed",
            Self::HyperQueue => "hyperqueue",
            Self::Ray => "ray",
        }
    }

    /// Its name with its version, where it is there.
    pub(super) fn named(self) -> String {
        match self.version() {
            Some(version) => format!("{} {version}", self.title()),
            None => self.title().to_owned(),
        }
    }

    fn version(self) -> Option<String> {
        if let Some(hq) = hyperqueue_program().filter(|_| self == Self::HyperQueue) {
            let version = output(&hq, &["--version"]).ok()?;
            return version.split_whitespace().last().map(str::to_owned);
        }
        let python = peers::python_with(self.package())?;
        let code = format!(
            "from importlib.metadata import version; print(version('{}'))",
            self.package()
        );
        let version = output(&python, &["-c", &code]).ok()?;
        Some(version.trim().to_owned())
    }

    /// Runs a part of the script; an error where the engine is not there or fails. HyperQueue's own program goes along as the last argument.
    pub(super) fn measure(self, bench: &Bench, part: &str, args: &[&str]) -> Result<Value, String> {
        let Some(python) = peers::python_with(self.package()) else {
            return Err("not installed: cargo xtask bench --peers".into());
        };
        let folder = bench.folder(&format!("cluster-{part}-{}", self.package()))?;
        let script = folder.join("peer.py");
        fs::write(&script, SCRIPT).map_err(|error| error.to_string())?;
        let hq = hyperqueue_program().filter(|_| self == Self::HyperQueue);
        let mut words = [&[self.package(), part], args].concat();
        words.extend(hq.as_deref());
        call(&python, &script, &folder, &words)
    }
}

fn call(python: &str, script: &Path, folder: &Path, args: &[&str]) -> Result<Value, String> {
    let output = Command::new(python)
        .arg(script)
        .args(args)
        .current_dir(folder)
        .output()
        .map_err(|error| format!("cannot start Python: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    // Engines print things of their own.
    let last = said.lines().rev().find(|line| line.starts_with('{'));
    match (output.status.success(), last) {
        (true, Some(line)) => {
            serde_json::from_str(line).map_err(|error| format!("bad JSON: {error}"))
        }
        _ => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let tail: Vec<&str> = stderr.lines().rev().take(3).collect();
            Err(format!("failed: {}", tail.join(" / ")))
        }
    }
}

/// HyperQueue's own program, which its package of PyPI has not.
pub(super) fn hyperqueue_program() -> Option<String> {
    peers::program("hq")
}

/// A list of numbers.
pub(super) fn numbers(value: &Value) -> Vec<f64> {
    let all = value.as_array().into_iter().flatten();
    all.filter_map(Value::as_f64).collect()
}
