//! Executors with their store and folders, for tests.

use std::path::{Path, PathBuf};

use dagrun_executor_api::conformance::Fixture;
use dagrun_local::{LocalExecutor, LocalOptions};
use dagrun_store::{Store, StoreOptions};
use tempfile::TempDir;

/// The program that serves as spawner, and as an engine that is killed.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_dagrun-test-engine");

pub(crate) fn fixture() -> Fixture {
    fixture_with(&TempDir::new().expect("a temporary folder").keep(), |_| {})
}

/// An executor with two slots in `root`: the project is `root/project`.
pub(crate) fn fixture_with(root: &Path, change: impl FnOnce(&mut LocalOptions)) -> Fixture {
    let store = Store::open(&root.join("store"), StoreOptions { durable: false }).expect("a store");
    let project = root.join("project");
    std::fs::create_dir_all(&project).expect("a project folder");
    let mut options = LocalOptions::new(store.clone(), project, root.join("work"), PROGRAM, "r1");
    options.slots = 2;
    change(&mut options);
    Fixture {
        executor: Box::new(LocalExecutor::new(options).expect("an executor")),
        read: Box::new(move |digest| store.read(digest).expect("the blob is there")),
        keep: Box::new(Remove(root.to_owned())),
    }
}

struct Remove(PathBuf);

impl Drop for Remove {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
