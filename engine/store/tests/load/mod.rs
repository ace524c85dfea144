//! Results that follow from a number: what `examples/store_load.rs` makes and fault tests check.

use dagrun_model::{ActionDigest, Artifact, Digest, LogRef};
use dagrun_store::{ActionEntry, MadeBy, PutMode, Store, StoreError};

/// The action of result `n`.
pub(crate) fn action(n: u32) -> ActionDigest {
    Digest::of(format!("action {n}").as_bytes())
}

/// Bytes of output `n`: small ones, some over a page; every third too large to travel inside the log; every tenth larger still.
pub(crate) fn content(n: u32) -> Vec<u8> {
    let size = match n {
        n if n % 10 == 9 => 300_000,
        n if n % 3 == 1 => 40_000,
        n => n as usize * 7919 % 9000,
    };
    format!("result {n} ")
        .into_bytes()
        .into_iter()
        .cycle()
        .take(size + 10)
        .collect()
}

/// Puts result `n`: a file by copy or by move, a log, and every fifth a tree.
pub(crate) fn make(store: &Store, n: u32) -> Result<ActionEntry, StoreError> {
    let work = store.root().with_extension("work");
    let file = work.join(format!("{}-{n}", std::process::id()));
    let io = |result: std::io::Result<()>| {
        result.map_err(|source| StoreError::Io {
            op: "write",
            path: file.clone(),
            source,
        })
    };
    io(std::fs::create_dir_all(&work))?;
    let output = if n.is_multiple_of(2) {
        store.put_bytes(&content(n))?
    } else {
        io(std::fs::write(&file, content(n)))?;
        store.put_file(&file, PutMode::Move)?
    };
    let mut outputs = vec![("out".to_owned(), Artifact::File(output))];
    if n.is_multiple_of(5) {
        io(std::fs::create_dir_all(file.join("sub")))?;
        io(std::fs::write(file.join("sub/a"), format!("member {n}")))?;
        outputs.push(("tree".to_owned(), store.put_tree(&file, PutMode::Move)?));
        io(std::fs::remove_dir_all(&file))?;
    }
    let log = store.put_bytes(format!("log {n}\n").as_bytes())?;
    Ok(ActionEntry {
        outputs: outputs.into_iter().collect(),
        stdout: Some(LogRef {
            blob: log,
            total: log.size,
            tail: format!("log {n}\n"),
        }),
        stderr: None,
        phases: Default::default(),
        usage: Default::default(),
        made_by: MadeBy {
            run: "load".into(),
            node: n.to_string(),
            host: "test".into(),
            time_ms: 1,
        },
    })
}
