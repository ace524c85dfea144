//! Fault injection for tests: small disks, power cuts, failing system calls, terminals, processes that stay behind, servers and
//! networks that fail.
//!
//! Development only; no crate of the product depends on it. Each tool says by [`Unavailable`] what the machine lacks, and
//! [`skip!`] makes a test that cannot run say so loudly, instead of passing in silence.

#![forbid(unsafe_code)]

mod buckets;
mod cluster;
mod disk;
mod measure;
mod net;
mod power;
mod proc;
mod proxy;
mod pty;
mod rights;
mod rounds;
mod skip;
mod subject;
mod syscall;
mod tcp;

pub use crate::{
    buckets::{AZURITE_ACCOUNT, BUCKET, BucketServer},
    cluster::{Settings as ClusterSettings, TestCluster},
    disk::SmallDisk,
    measure::{Measured, measure},
    net::NetLab,
    power::{Fs, Loss, PowerCut},
    proc::ProcWatch,
    proxy::{Asked, FaultProxy, Mishap},
    pty::Pty,
    rights::{NOBODY, unprivileged},
    rounds::{Round, Rounds},
    skip::{
        Unavailable, report_skipped, require_plain_copies, require_program, require_root, skipped,
    },
    subject::Subject,
    syscall::{Fault, Traced},
    tcp::{TcpFault, TcpProxy},
};

/// A folder for a test that goes with it. `DAGRUN_TEST_DIR` moves all of them to another file system.
///
/// # Panics
/// When it cannot be made.
pub fn scratch() -> tempfile::TempDir {
    let made = match std::env::var_os("DAGRUN_TEST_DIR") {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    made.expect("tests need a folder for temporary files")
}

/// An example binary of a crate, beside the running test; built where `cargo test --test NAME` left it out.
///
/// # Panics
/// When it cannot be built.
pub fn example(package: &str, name: &str) -> std::path::PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let profile = test
        .parent()
        .and_then(std::path::Path::parent)
        .expect("tests lie in PROFILE/deps");
    let path = profile.join("examples").join(name);
    let mut build = std::process::Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", package, "--example", name]);
    if let Some(target) = profile.parent() {
        build.arg("--target-dir").arg(target);
    }
    if profile.ends_with("release") {
        build.arg("--release");
    }
    let built = build.status().expect("cargo runs");
    assert!(built.success(), "cannot build the example {name}");
    path
}
