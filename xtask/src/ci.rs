//! All that has to pass before a change lands, in the order in which it fails fastest.

use std::{path::Path, process::Command, time::Instant};

use crate::{
    soak, tidy,
    tools::{has, root, run, run_with},
};

/// Debian packages that tests use, and the program by which one sees that they are there.
const DEBIAN: &[(&str, &str)] = &[
    ("strace", "strace"),
    ("mkfs.xfs", "xfsprogs"),
    ("mkfs.ext4", "e2fsprogs"),
    ("python3", "python3"),
    ("bash", "bash"),
    ("git", "git"),
    ("faketime", "faketime"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("jq", "jq"),
];

/// Processes of a cluster that are killed.
const KILLS: &str = "12";

/// Runs everything; `quick` leaves out what needs a release build.
pub(crate) fn ci(quick: bool) -> Result<(), String> {
    let started = Instant::now();
    install();
    run_step("cargo", &["fmt", "--all", "--check"])?;
    run_step(
        "cargo",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
    )?;
    tidy::run()?;
    dependencies()?;
    run_step("cargo", &["test", "--workspace", "--no-fail-fast"])?;
    if !quick {
        run_step("cargo", &["doc", "--workspace", "--no-deps", "--quiet"])?;
        run_step("cargo", &["xtask", "codegen", "--check"])?;
        simulate()?;
        storm()?;
        examples()?;
        soak::soak(&["cluster", "--loops", KILLS])?;
    }
    println!("\nci: passed in {} s", started.elapsed().as_secs());
    Ok(())
}

/// Licences, banned crates and sources of dependencies; known vulnerabilities where the network has them.
fn dependencies() -> Result<(), String> {
    if !has("cargo-deny") {
        println!("SKIPPED cargo deny: it is not installed; `cargo install --locked cargo-deny`");
        return Ok(());
    }
    run_step(
        "cargo",
        &[
            "deny",
            "check",
            "--hide-inclusion-graph",
            "licenses",
            "bans",
            "sources",
        ],
    )?;
    match run("cargo", &["deny", "fetch", "db"]) {
        Ok(()) => run_step("cargo", &["deny", "--offline", "check", "advisories"]),
        Err(error) => {
            println!("SKIPPED advisories: their database cannot be fetched: {error}");
            Ok(())
        }
    }
}

fn run_step(program: &str, args: &[&str]) -> Result<(), String> {
    let started = Instant::now();
    run(program, args)?;
    println!("  ({} s)", started.elapsed().as_secs());
    Ok(())
}

/// Installs what tests use, where this is a Debian machine and the user may. What stays missing makes tests skip, loudly.
fn install() {
    let sbin = |program: &str| {
        Path::new("/usr/sbin").join(program).is_file() || Path::new("/sbin").join(program).is_file()
    };
    let missing: Vec<&str> = DEBIAN
        .iter()
        .filter(|(program, _)| !has(program) && !sbin(program))
        .map(|(_, package)| *package)
        .collect();
    if !missing.is_empty() && has("apt-get") && is_root() {
        let quiet = ["-qq", "-y", "--no-install-recommends", "install"];
        let installed = run("apt-get", &["-qq", "update"]).and_then(|()| {
            run(
                "apt-get",
                &quiet
                    .iter()
                    .copied()
                    .chain(missing.iter().copied())
                    .collect::<Vec<_>>(),
            )
        });
        if let Err(error) = installed {
            println!("SKIPPED installing {}: {error}", missing.join(", "));
        }
    } else if !missing.is_empty() {
        println!(
            "SKIPPED installing {}: needs Debian and root; tests that use them are skipped",
            missing.join(", ")
        );
    }
    if !has("cargo-nextest") {
        // The example `ci` runs its tests by nextest.
        if let Err(error) = run(
            "cargo",
            &["install", "--locked", "--quiet", "cargo-nextest"],
        ) {
            println!("SKIPPED installing cargo-nextest: {error}");
        }
    }
    install_python();
    install_azurite();
}

/// Servers from PyPI that tests talk to, in a virtual environment of their own below `target`.
const PYPI: &str = "moto[server,s3]==5.2.5";
/// The server from npm that tests talk to, in the same folder.
const NPM: &str = "azurite@3.35.0";

/// Makes the environment in which the test kit looks for servers.
fn install_python() {
    let environment = root().join("target/test-peers");
    if environment.join("bin/moto_server").exists() {
        return;
    }
    let python = environment.join("bin/python").display().to_string();
    let installed = run(
        "python3",
        &["-m", "venv", &environment.display().to_string()],
    )
    .and_then(|()| run(&python, &["-m", "pip", "install", "--quiet", PYPI]));
    if let Err(error) = installed {
        println!(
            "SKIPPED installing {PYPI}: {error}; tests against S3 are skipped unless moto_server is in PATH"
        );
    }
}

fn install_azurite() {
    let folder = root().join("target/test-peers");
    if folder.join("node_modules/.bin/azurite-blob").exists() {
        return;
    }
    let prefix = folder.display().to_string();
    let quiet = ["--silent", "--no-audit", "--no-fund", "--prefix", &prefix];
    let installed = match has("npm") {
        true => run("npm", &[&["install"], &quiet[..], &[NPM]].concat()),
        false => Err("there is no npm".into()),
    };
    if let Err(error) = installed {
        println!(
            "SKIPPED installing {NPM}: {error}; tests against Azure are skipped unless azurite-blob is in PATH"
        );
    }
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// The scheduler under 100,000 seeds of losses, delays, duplicates and crashes.
fn simulate() -> Result<(), String> {
    run_step(
        "cargo",
        &[
            "run",
            "--release",
            "--quiet",
            "-p",
            "dagrun-sched",
            "--features",
            "sim",
            "--example",
            "simulate",
            "--",
            "--seeds",
            "100000",
        ],
    )
}

/// The cluster over a simulated network. tokio's own choices can be seeded only where all is built for it, so this has a target folder
/// of its own: what others build is not built again each time.
fn storm() -> Result<(), String> {
    let started = Instant::now();
    run_with(
        &[("RUSTFLAGS", "--cfg tokio_unstable -D warnings")],
        "cargo",
        &[
            "test",
            "-p",
            "dagrun-cluster",
            "--lib",
            "--target-dir",
            "target/unstable",
            "--",
            "sim::storm",
        ],
    )?;
    println!("  ({} s)", started.elapsed().as_secs());
    Ok(())
}

/// An example: its folder and file, arguments that make it small, how many nodes run the second time (what says
/// `cache: never`), and the files that it must export.
type Example = (
    &'static str,
    &'static str,
    &'static [&'static str],
    u64,
    &'static [&'static str],
);

const EXAMPLES: [Example; 5] = [
    ("sweep", "pipeline.yaml", &[], 0, &["sweep.svg"]),
    (
        "flu-1978",
        "pipeline.yaml",
        &[],
        0,
        &["heatmap.svg", "best-fit.svg", "ranking.csv"],
    ),
    (
        "flu-1978",
        "calibrate.yaml",
        &["-p", "trials=8", "-p", "batches=2"],
        0,
        &[
            "calibration-fit.svg",
            "calibration-trials.svg",
            "calibration.json",
        ],
    ),
    (
        "calibrate",
        "pipeline.yaml",
        &["-p", "trials=8", "-p", "replicates=3"],
        0,
        &["report.md", "report.svg"],
    ),
    ("ci", "pipeline.yaml", &[], 1, &[]),
];

/// Every example from an empty cache, and again.
fn examples() -> Result<(), String> {
    run_step("cargo", &["build", "--release", "--quiet", "-p", "dagrun"])?;
    let scratch = root().join("target/ci-examples");
    for (name, file, small, again, exported) in EXAMPLES {
        let folder = scratch.join(format!("{name}-{file}"));
        if scratch.exists() && folder.exists() {
            std::fs::remove_dir_all(&folder)
                .map_err(|error| format!("cannot clear {}: {error}", folder.display()))?;
        }
        let work = folder.join("work");
        copy_tree(&root().join("examples/pipelines").join(name), &work)?;
        let run = [&[file, "--color", "never"], small].concat();
        dagrun(&folder, &run)?;
        if let Some(lacking) = exported
            .iter()
            .find(|it| !work.join("results").join(it).is_file())
        {
            return Err(format!(
                "example {name}/{file}: results/{lacking} is not there"
            ));
        }
        dagrun(&folder, &run)?;
        let shown = dagrun(&folder, &["show", "--json"])?;
        let shown: serde_json::Value = serde_json::from_str(&shown)
            .map_err(|error| format!("`dagrun show --json` printed bad JSON: {error}"))?;
        if shown["executed"] != again {
            return Err(format!(
                "example {name}/{file}: the second run executed {}, expected {again}",
                shown["executed"]
            ));
        }
        println!(
            "example {name}/{file}: second run executed {again}, cached {}",
            shown["counts"]["cached"]
        );
    }
    Ok(())
}

fn dagrun(folder: &Path, args: &[&str]) -> Result<String, String> {
    println!("\n$ dagrun {}", args.join(" "));
    let output = Command::new(root().join("target/release/dagrun"))
        .args(args)
        .current_dir(folder.join("work"))
        .env("DAGRUN_CACHE", folder.join("cache"))
        .env("REGISTRY_TOKEN", "none-needed-to-package")
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot start dagrun: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "`dagrun {}` in {} failed: {}",
            args.join(" "),
            folder.display(),
            output.status
        ));
    }
    String::from_utf8(output.stdout)
        .map_err(|_| "dagrun printed something that is not UTF-8".into())
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), String> {
    let trouble = |error: std::io::Error| format!("cannot copy {}: {error}", from.display());
    std::fs::create_dir_all(to).map_err(trouble)?;
    for entry in std::fs::read_dir(from).map_err(trouble)? {
        let entry = entry.map_err(trouble)?;
        let name = entry.file_name();
        if [".dagrun", "target", "results", "__pycache__"]
            .iter()
            .any(|skip| name == *skip)
        {
            continue;
        }
        if entry.file_type().map_err(trouble)?.is_dir() {
            copy_tree(&entry.path(), &to.join(name))?;
        } else {
            std::fs::copy(entry.path(), to.join(name)).map_err(trouble)?;
        }
    }
    Ok(())
}
