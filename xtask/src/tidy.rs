//! Rules that no compiler checks: crate directions, purity of the core, generated files, no machine paths.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use crate::{
    generated,
    tools::{output, root, tracked_files},
};

/// Which crates of the project a crate may depend on. A new edge is a reviewed change of this table.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("dagrun-model", &[]),
    ("dagrun-expr", &["dagrun-model"]),
    ("dagrun-dsl", &["dagrun-model", "dagrun-expr"]),
    ("dagrun-plan", &["dagrun-model", "dagrun-expr"]),
    ("dagrun-sched", &["dagrun-model"]),
    ("dagrun-study", &["dagrun-model", "dagrun-expr"]),
    ("dagrun-events", &["dagrun-model"]),
    ("dagrun-store", &["dagrun-model"]),
    ("dagrun-tier", &["dagrun-model", "dagrun-store"]),
    (
        "dagrun-run",
        &[
            "dagrun-model",
            "dagrun-expr",
            "dagrun-plan",
            "dagrun-sched",
            "dagrun-study",
            "dagrun-events",
            "dagrun-store",
            "dagrun-executor-api",
        ],
    ),
    ("dagrun-report", &["dagrun-model", "dagrun-events"]),
    ("dagrun-executor-api", &["dagrun-model"]),
    ("dagrun-sys", &[]),
    (
        "dagrun-worker",
        &[
            "dagrun-model",
            "dagrun-executor-api",
            "dagrun-store",
            "dagrun-sys",
        ],
    ),
    (
        "dagrun-local",
        &[
            "dagrun-model",
            "dagrun-executor-api",
            "dagrun-store",
            "dagrun-worker",
        ],
    ),
    ("dagrun-proto", &[]),
    (
        "dagrun-cluster",
        &[
            "dagrun-model",
            "dagrun-executor-api",
            "dagrun-proto",
            "dagrun-store",
        ],
    ),
    ("dagrun-testkit", &["dagrun-model", "dagrun-sys"]),
];

/// Crates that may depend on every other: the binary, and the project's own tools.
const TOPS: &[&str] = &["dagrun", "xtask"];

/// Folders of the pure core: no I/O, clock, environment, randomness or tokio outside their tests.
const PURE: &[&str] = &[
    "dsl/src",
    "engine/model/src",
    "engine/expr/src",
    "engine/plan/src",
    "engine/sched/src",
    "engine/study/src",
];

/// What the pure core never names.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "Instant::now",
    "SystemTime",
    "tokio::",
    "rand::",
    "File::open",
    "RandomState",
];

/// The only crate that may hold `unsafe`.
const UNSAFE_CRATE: &str = "executors/sys";

/// Runs all rules and names every breach.
pub(crate) fn run() -> Result<(), String> {
    let mut breaches = Vec::new();
    directions(&mut breaches)?;
    sources(&mut breaches)?;
    named_tests(&mut breaches)?;
    generated::check(&mut breaches);
    if breaches.is_empty() {
        println!("tidy: ok");
        Ok(())
    } else {
        Err(format!(
            "tidy found {}:\n  {}",
            breaches.len(),
            breaches.join("\n  ")
        ))
    }
}

fn directions(breaches: &mut Vec<String>) -> Result<(), String> {
    let allowed: BTreeMap<_, _> = DIRECTIONS.iter().copied().collect();
    let text = output("cargo", &["metadata", "--format-version", "1", "--no-deps"])?;
    let metadata: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| format!("`cargo metadata` printed bad JSON: {error}"))?;
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        if TOPS.contains(&name) {
            continue;
        }
        let Some(allowed) = allowed.get(name) else {
            breaches.push(format!(
                "crate {name} is not in the table of directions in xtask/src/tidy.rs"
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = dependency["name"].as_str().unwrap_or_default();
            let for_tests = dependency["kind"] == "dev";
            if on.starts_with("dagrun") && !for_tests && !allowed.contains(&on) {
                breaches.push(format!("crate {name} may not depend on {on}"));
            }
        }
    }
    Ok(())
}

fn sources(breaches: &mut Vec<String>) -> Result<(), String> {
    for path in tracked_files()? {
        // What is not text has no words to look at.
        let Ok(text) = fs::read_to_string(root().join(&path)) else {
            continue;
        };
        machine_paths(&path, &text, breaches);
        let generated = path.iter().any(|name| name == "generated");
        if path.extension().is_some_and(|extension| extension == "rs") && !generated {
            rust_source(&path, &text, breaches);
        }
    }
    Ok(())
}

/// The pages that say which test shows what.
const REQUIREMENTS: &str = "docs/requirements.md";
const RELIABILITY: &str = "docs/reliability.md";

/// Tests that pages name are there: names in code with underscores, and whatever is a name in code in the last column of the
/// table of fault cases.
fn named_tests(breaches: &mut Vec<String>) -> Result<(), String> {
    let functions = functions()?;
    for page in [REQUIREMENTS, RELIABILITY] {
        let text = fs::read_to_string(root().join(page))
            .map_err(|error| format!("cannot read {page}: {error}"))?;
        for word in tests_named_by(&text) {
            if !functions.contains(word) {
                breaches.push(format!("{page}: there is no test `{word}`"));
            }
        }
    }
    Ok(())
}

/// The names of all functions in Rust files.
fn functions() -> Result<BTreeSet<String>, String> {
    let mut functions = BTreeSet::new();
    for path in tracked_files()? {
        if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(root().join(&path)).unwrap_or_default();
            let names = text.lines().filter_map(|line| {
                let line = line.trim_start();
                let line = line.strip_prefix("pub ").unwrap_or(line);
                let line = line.strip_prefix("async ").unwrap_or(line);
                let name = line.strip_prefix("fn ")?.split('(').next()?;
                Some(name.to_owned())
            });
            functions.extend(names);
        }
    }
    Ok(functions)
}

fn tests_named_by(page: &str) -> impl Iterator<Item = &str> {
    page.lines().flat_map(|line| {
        let case = line.strip_prefix("| F").unwrap_or_default();
        let is_case = case.starts_with(|c: char| c.is_ascii_digit());
        // Keys of the language have an underscore too, and no more.
        let (text, least) = if is_case {
            let cells = line.trim_end_matches(['|', ' ']);
            (cells.rsplit('|').next().unwrap_or(cells), 0)
        } else {
            (line, 2)
        };
        text.split('`')
            .skip(1)
            .step_by(2)
            .filter(move |word| is_name(word) && word.matches('_').count() >= least)
    })
}

fn is_name(word: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    word.chars().all(fits)
}

fn machine_paths(path: &Path, text: &str, breaches: &mut Vec<String>) {
    // The needles are put together here, so that this file does not hold them.
    let needles = ["work", "root", "home/[a-z]"].map(|folder| format!("/{folder}/"));
    if path.ends_with("tidy.rs") || path.ends_with("Cargo.lock") {
        return;
    }
    for (number, line) in text.lines().enumerate() {
        for needle in &needles[..2] {
            if let Some(at) = line.find(needle.as_str()) {
                let before = line[..at].chars().next_back();
                let starts_a_path = before.is_none_or(|c| {
                    !(c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '}' | ')' | '/'))
                });
                if starts_a_path {
                    breaches.push(format!(
                        "{}:{}: a path of some machine",
                        path.display(),
                        number + 1
                    ));
                }
            }
        }
    }
}

fn rust_source(path: &Path, text: &str, breaches: &mut Vec<String>) {
    let at = |number: usize| format!("{}:{}", path.display(), number + 1);
    let is_crate_root = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
    if is_crate_root
        && !path.starts_with(UNSAFE_CRATE)
        && !path.starts_with("examples")
        && !text.contains("#![forbid(unsafe_code)]")
    {
        breaches.push(format!(
            "{}: lacks `#![forbid(unsafe_code)]`",
            path.display()
        ));
    }
    if path.iter().any(|name| name == "src")
        && !path.starts_with("examples")
        && !text.trim_start().starts_with("//!")
    {
        breaches.push(format!(
            "{}: lacks a first `//!` line that says what it owns",
            path.display()
        ));
    }
    let pure = PURE.iter().any(|folder| path.starts_with(folder));
    // Unit tests stand at the end of a file or in files of their own; they may read files.
    let is_test = path
        .iter()
        .any(|name| name == "tests" || name == "tests.rs");
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("#[cfg(test)]") {
            break;
        }
        if line.trim_start().starts_with("//") {
            continue;
        }
        if pure && !is_test {
            for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                breaches.push(format!("{}: the pure core names `{word}`", at(number)));
            }
        }
        if line.trim_start().starts_with("#[ignore]") {
            breaches.push(format!("{}: an ignored test without a reason", at(number)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_name_tests_in_code() {
        let page = "`in_flight` and `any_order_of_ends`, `cargo xtask ci`\n\
                    | F46 | `not_a_test` | `size`, `bombs` |\n| 3 | `size` |\n";
        let named: Vec<&str> = tests_named_by(page).collect();
        assert_eq!(named, ["any_order_of_ends", "size", "bombs"]);
    }
}
