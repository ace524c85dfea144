//! A program for fault tests: puts and commits results, and prints `ack N` for each once it is durable.
//!
//! `store_load STORE COUNT [FIRST]`. What result N holds follows from N, so that a checker can compute it: see
//! `tests/load/mod.rs`.

use std::{io::Write, path::Path, process::ExitCode};

use dagrun_store::{Store, StoreError, StoreOptions};

#[path = "../tests/load/mod.rs"]
mod load;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let number = |ix: usize| args.get(ix).and_then(|text| text.parse().ok());
    let (Some(root), Some(count)) = (args.get(1), number(2)) else {
        return ExitCode::from(2);
    };
    let first = number(3).unwrap_or(0);
    match run(Path::new(root), first, count) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(root: &Path, first: u32, count: u32) -> Result<(), StoreError> {
    let store = Store::open(root, StoreOptions::default())?;
    let _lease = store.lease("load")?;
    let all: Vec<u32> = (first..first + count).collect();
    for group in all.chunks(3) {
        let mut entries = Vec::new();
        for n in group {
            entries.push((load::action(*n), load::make(&store, *n)?));
        }
        store.commit(entries)?;
        for n in group {
            say(&format!("ack {n}"));
        }
    }
    Ok(())
}

/// One write, so that a line is never torn.
fn say(line: &str) {
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}
