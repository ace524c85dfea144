//! Measures the store: `store_bench FOLDER [ENTRIES] [MIB]`. Prints one line for each measurement.
//!
//! Build it with `--release`. The folder should lie on the file system that matters; what is in it stays for the next run,
//! so that a second run measures a fresh process on a full cache.

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Instant,
};

use dagrun_model::{Artifact, Digest};
use dagrun_store::{
    ActionEntry, FileHashes, MadeBy, PutMode, Staging, Store, StoreError, StoreOptions,
};

fn main() -> Result<(), StoreError> {
    let args: Vec<String> = std::env::args().collect();
    let folder = PathBuf::from(args.get(1).map_or("bench-store", String::as_str));
    let number = |ix: usize, default| args.get(ix).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (entries, mib) = (number(2, 100_000), number(3, 256));
    let root = folder.join("store");
    if !root.exists() {
        fill(&root, entries)?;
    }
    lookups(&root, entries)?;
    small_files(&root, &folder)?;
    commits(&root)?;
    large_file(&root, &folder, mib)?;
    file_hashes(&folder);
    Ok(())
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn action(n: u64) -> Digest {
    Digest::of(&n.to_le_bytes())
}

fn entry(n: u64, out: Artifact) -> ActionEntry {
    ActionEntry {
        outputs: [("result".to_owned(), out)].into_iter().collect(),
        stdout: None,
        stderr: None,
        phases: Default::default(),
        usage: Default::default(),
        made_by: MadeBy {
            run: "20260101-000000-abcd".into(),
            node: format!("simulate[trial={n},replicate=3]"),
            host: "localhost".into(),
            time_ms: 1,
        },
    }
}

fn fill(root: &Path, entries: u64) -> Result<(), StoreError> {
    let start = Instant::now();
    let all: Vec<u64> = (0..entries).collect();
    for part in all.chunks(100_000) {
        let store = Store::open(root, StoreOptions::default())?;
        let out = Artifact::File(store.put_bytes(b"the same for all")?);
        for group in part.chunks(1000) {
            let group = group.iter().map(|n| (action(*n), entry(*n, out.clone())));
            store.commit(group.collect())?;
        }
    }
    say(&format!("fill {entries} entries: {:?}", start.elapsed()));
    Ok(())
}

fn lookups(root: &Path, entries: u64) -> Result<(), StoreError> {
    let wanted: Vec<Digest> = (0..10_000).map(|n| action(n * 7919 % entries)).collect();
    let start = Instant::now();
    let store = Store::open(root, StoreOptions::default())?;
    let opened = start.elapsed();
    let found = store.lookup(&wanted)?;
    say(&format!(
        "10,000 look-ups in a fresh store of {entries}: open {opened:?}, all {:?}, {} hits",
        start.elapsed(),
        found.iter().flatten().count()
    ));
    let start = Instant::now();
    for action in &wanted {
        store.lookup(std::slice::from_ref(action))?;
    }
    say(&format!("10,000 single look-ups: {:?}", start.elapsed()));
    let missing: Vec<Digest> = (0..10_000).map(|n| action(entries + n)).collect();
    let start = Instant::now();
    store.lookup(&missing)?;
    say(&format!("10,000 misses: {:?}", start.elapsed()));
    Ok(())
}

fn small_files(root: &Path, folder: &Path) -> Result<(), StoreError> {
    let store = Store::open(root, StoreOptions::default())?;
    let _lease = store.lease("bench")?;
    let salt = Instant::now();
    let start = Instant::now();
    let mut blobs = Vec::new();
    for n in 0..2000 {
        blobs.push(store.put_bytes(format!("{salt:?} {n}").as_bytes())?);
    }
    say(&format!("put 2,000 small blobs: {:?}", start.elapsed()));
    let dest = folder.join("staged");
    let start = Instant::now();
    for (n, blob) in blobs.iter().enumerate() {
        let _ = store.stage_blob(blob, &dest.join(n.to_string()), Staging::Auto)?;
    }
    say(&format!("stage 2,000 small blobs: {:?}", start.elapsed()));
    let _ = std::fs::remove_dir_all(dest);
    Ok(())
}

fn commits(root: &Path) -> Result<(), StoreError> {
    let store = Store::open(root, StoreOptions::default())?;
    let salt = Instant::now();
    for size in [1, 100] {
        let start = Instant::now();
        for group in 0..10 {
            let mut entries = Vec::new();
            for n in 0..size {
                let text = format!("{salt:?} {size} {group} {n}");
                let out = Artifact::File(store.put_bytes(text.as_bytes())?);
                entries.push((Digest::of(text.as_bytes()), entry(n, out)));
            }
            store.commit(entries)?;
        }
        say(&format!(
            "commit of {size} new results: {:?}",
            start.elapsed() / 10
        ));
    }
    Ok(())
}

fn large_file(root: &Path, folder: &Path, mib: u64) -> Result<(), StoreError> {
    let path = folder.join("large");
    for mode in [PutMode::Move, PutMode::Copy] {
        let mut block = vec![0_u8; 1 << 20];
        let salt = format!("{:?}", Instant::now());
        let io = |source| StoreError::Io {
            op: "write",
            path: path.clone(),
            source,
        };
        let mut file = std::fs::File::create(&path).map_err(io)?;
        for n in 0..mib {
            let line = format!("{salt} {n} {mode:?}");
            block[..line.len()].copy_from_slice(line.as_bytes());
            file.write_all(&block).map_err(io)?;
        }
        drop(file);
        let store = Store::open(root, StoreOptions::default())?;
        let start = Instant::now();
        let out = store.put_file(&path, mode)?;
        let put = start.elapsed();
        let text = format!("{salt} {mode:?}");
        store.commit(vec![(
            Digest::of(text.as_bytes()),
            entry(0, Artifact::File(out)),
        )])?;
        say(&format!(
            "{mode:?} of {mib} MiB: put {put:?}, with commit {:?}",
            start.elapsed()
        ));
        let _ = std::fs::remove_file(store.blob_path(&out.digest));
    }
    Ok(())
}

fn file_hashes(folder: &Path) {
    let tree = folder.join("tree");
    let memory = folder.join("hashes");
    if !tree.exists() {
        for n in 0..10_000 {
            let folder = tree.join((n / 100).to_string());
            let _ = std::fs::create_dir_all(&folder);
            let _ = std::fs::write(folder.join(n.to_string()), vec![n as u8; 2000]);
        }
        std::thread::sleep(std::time::Duration::from_millis(2100));
    }
    for round in 0..2 {
        let start = Instant::now();
        let hashes = FileHashes::open(&memory);
        let opened = start.elapsed();
        let found = hashes.glob(&tree, "**", false).map_or(0, |f| f.len());
        say(&format!(
            "hash {found} files, round {round}: open {opened:?}, all {:?}",
            start.elapsed()
        ));
        let _ = hashes.save();
    }
}
