//! For tests alone: a spawner when it is called as one, else an engine that runs one node until it is killed.

#![forbid(unsafe_code)]

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use dagrun_executor_api::{Executor, conformance::attempt};
use dagrun_local::{LocalExecutor, LocalOptions};
use dagrun_model::WorkerIx;
use dagrun_store::{Store, StoreOptions};

fn main() -> ExitCode {
    if dagrun_worker::is_spawner() {
        return dagrun_worker::spawner_main();
    }
    let mut args = std::env::args().skip(1);
    let (Some(root), Some(script)) = (args.next(), args.next()) else {
        return ExitCode::from(2);
    };
    let root = PathBuf::from(root);
    let store = Store::open(&root.join("store"), StoreOptions::default()).expect("a store");
    let me = std::env::current_exe().expect("this program has a path");
    let options = LocalOptions::new(store, &root, root.join("work"), me, "killed");
    let executor = LocalExecutor::new(options).expect("an executor");
    let (events, mut ends) = tokio::sync::mpsc::unbounded_channel();
    executor.start(events);
    let mut spec = attempt(1, &["sh", "-c", &script]);
    Arc::make_mut(&mut spec.action)
        .env
        .push(("ROOT".into(), root.display().to_string()));
    executor.submit(WorkerIx(0), vec![spec]);
    while let Some(event) = ends.blocking_recv() {
        if matches!(event, dagrun_executor_api::ExecutorEvent::Ended(..)) {
            std::thread::sleep(Duration::from_secs(1));
            return ExitCode::SUCCESS;
        }
    }
    ExitCode::FAILURE
}
