//! Replicas: given to nodes themselves, and never read by anybody else where a node has written to them.

use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use dagrun_model::{Artifact, BlobRef, Digest, Outputs};
use dagrun_store::{PutMode, Received, Staging, Store, StoreOptions};
use dagrun_testkit::{require_plain_copies, skip};

fn store(folder: &Path) -> Store {
    Store::open(&folder.join("store"), StoreOptions::default()).unwrap()
}

fn large() -> Vec<u8> {
    (0..8_u32 << 20).map(|n| (n >> 8) as u8 ^ n as u8).collect()
}

/// A replica that came in pieces.
fn replica(store: &Store, bytes: &[u8]) -> Artifact {
    let digest = Digest::of(bytes);
    let mut incoming = store.receive_alone(&digest).unwrap().unwrap();
    incoming.set_replica();
    for piece in bytes.chunks(1 << 20) {
        incoming.write(piece).unwrap();
    }
    assert_eq!(incoming.finish(&digest).unwrap(), Received::Stored);
    Artifact::File(blob(&digest, bytes))
}

fn blob(digest: &Digest, bytes: &[u8]) -> BlobRef {
    BlobRef {
        digest: *digest,
        size: bytes.len() as u64,
        executable: false,
    }
}

fn digest(artifact: &Artifact) -> Digest {
    artifact.blob_digest().unwrap()
}

/// What a node does that may not, and can.
fn alter(path: &Path) {
    let meta = fs::metadata(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(b"altered", meta.len() - 7).unwrap();
}

#[test]
fn a_replica_is_given_to_one_node_and_copied_for_others() {
    let folder = tempfile::tempdir().unwrap();
    skip!("F43", require_plain_copies(folder.path()));
    let store = store(folder.path());
    let bytes = large();
    let artifact = replica(&store, &bytes);
    let [one, two, three] = ["one", "two", "a/three"].map(|name| folder.path().join(name));
    let inode = |path: &PathBuf| fs::metadata(path).unwrap().ino();
    let staged = store.stage(&artifact, &one, Staging::Auto).unwrap();
    assert_eq!(inode(&one), inode(&store.blob_path(&digest(&artifact))));
    assert_eq!(fs::metadata(&one).unwrap().mode() & 0o777, 0o444);
    let other = store.stage(&artifact, &two, Staging::Auto).unwrap();
    assert_ne!(inode(&two), inode(&one));
    assert_eq!(fs::read(&two).unwrap(), bytes);
    for (staged, path) in [(&staged, &one), (&other, &two)] {
        assert!(staged.check().unwrap().is_empty());
        fs::remove_file(path).unwrap();
        staged.gone();
    }
    // And to the next, also in a folder that has to be made first.
    let _staged = store.stage(&artifact, &three, Staging::Auto).unwrap();
    assert_eq!(inode(&three), inode(&store.blob_path(&digest(&artifact))));
    // People get files of their own.
    store.export(&artifact, &one).unwrap();
    assert_ne!(inode(&one), inode(&three));
    assert_eq!(fs::metadata(&one).unwrap().mode() & 0o7777, 0o644);
}

/// F43: a node's file is its own; nobody else gets what it wrote, before and after it has ended.
#[test]
fn what_a_node_writes_to_a_replica_is_read_by_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    skip!("F43", require_plain_copies(folder.path()));
    let bytes = large();
    for has_ended in [false, true] {
        let store = store(folder.path());
        let artifact = replica(&store, &bytes);
        let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
        let staged = store.stage(&artifact, &one, Staging::Auto).unwrap();
        alter(&one);
        if has_ended {
            assert!(
                staged.check().unwrap().is_empty(),
                "it wrote to what was its own"
            );
            assert!(!store.contains(&digest(&artifact)));
            fs::remove_file(&one).unwrap();
            staged.gone();
        }
        let error = store.stage(&artifact, &two, Staging::Auto).unwrap_err();
        assert!(error.is_lost_blob(), "{error}");
        assert!(store.read(&digest(&artifact)).is_err());
        assert!(staged.check().unwrap().is_empty());
        // The right bytes heal it.
        assert_eq!(
            store.receive_replica(&digest(&artifact), &bytes).unwrap(),
            Received::Stored
        );
        assert_eq!(store.read(&digest(&artifact)).unwrap(), bytes);
        drop(store);
        fs::remove_dir_all(folder.path()).unwrap();
        fs::create_dir(folder.path()).unwrap();
    }
}

#[test]
fn a_copy_of_what_a_node_just_writes_to_is_right_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = large();
    for round in 0..8 {
        let store = store(&folder.path().join(round.to_string()));
        let artifact = replica(&store, &bytes);
        let [one, two] = ["one", "two"].map(|name| folder.path().join(format!("{round}/{name}")));
        let _staged = store.stage(&artifact, &one, Staging::Auto).unwrap();
        fs::set_permissions(&one, fs::Permissions::from_mode(0o644)).unwrap();
        let file = fs::File::options().write(true).open(&one).unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // The copy has begun, and comes to the end of the file last.
                while !two.exists() && !is_over.load(Relaxed) {
                    std::hint::spin_loop();
                }
                file.write_all_at(b"altered", bytes.len() as u64 - 7)
                    .unwrap();
            });
            let staged = store.stage(&artifact, &two, Staging::Auto);
            is_over.store(true, Relaxed);
            match staged {
                Ok(_) => assert!(
                    fs::read(&two).unwrap() == bytes,
                    "altered bytes were staged"
                ),
                Err(error) => assert!(error.is_lost_blob() && !two.exists(), "{error}"),
            }
        });
    }
}

/// What this store is to answer for, a node can no longer alter.
#[test]
fn a_replica_that_becomes_durable_is_lent_no_more() {
    let folder = tempfile::tempdir().unwrap();
    skip!("F43", require_plain_copies(folder.path()));
    for is_lent in [false, true] {
        let folder = folder.path().join(is_lent.to_string());
        let store = store(&folder);
        let bytes = large();
        let artifact = replica(&store, &bytes);
        let [one, two] = ["one", "two"].map(|name| folder.join(name));
        let staged = is_lent.then(|| store.stage(&artifact, &one, Staging::Auto).unwrap());
        // A node here has made the same bytes.
        let made = folder.join("made");
        fs::write(&made, &bytes).unwrap();
        let put = store.put_file(&made, PutMode::Move).unwrap();
        assert_eq!(put.digest, digest(&artifact));
        let outputs = Outputs::from_iter([("o".to_owned(), artifact.clone())]);
        store.sync_outputs(&outputs, &[]).unwrap();
        if let Some(staged) = staged {
            alter(&one);
            assert!(staged.check().unwrap().is_empty());
        }
        let other = store.stage(&artifact, &two, Staging::Auto).unwrap();
        assert_eq!(fs::metadata(&two).unwrap().nlink(), 1);
        assert_eq!(fs::read(&two).unwrap(), bytes);
        assert!(other.check().unwrap().is_empty());
        let kept = fs::metadata(store.blob_path(&digest(&artifact))).unwrap();
        assert_eq!((kept.mode() & 0o7777, kept.nlink()), (0o444, 1));
        assert!(store.verify(false).unwrap().is_sound());
    }
}

/// A process that died while a node had a replica leaves nothing that is believed without a look.
#[test]
fn a_replica_that_was_lent_by_a_dead_process_is_looked_at_again() {
    let folder = tempfile::tempdir().unwrap();
    skip!("F43", require_plain_copies(folder.path()));
    let bytes = large();
    let artifact = {
        let store = store(folder.path());
        let artifact = replica(&store, &bytes);
        std::mem::forget(store.stage(&artifact, &folder.path().join("one"), Staging::Auto));
        artifact
    };
    alter(&folder.path().join("one"));
    fs::remove_file(folder.path().join("one")).unwrap();
    let store = store(folder.path());
    let two = folder.path().join("two");
    let error = store.stage(&artifact, &two, Staging::Auto).unwrap_err();
    assert!(error.is_lost_blob(), "{error}");
}

#[test]
fn files_of_large_trees_are_lent_and_few_small_ones_copied() {
    let folder = tempfile::tempdir().unwrap();
    let source = store(&folder.path().join("source"));
    for (files, lent) in [(3, false), (500, true)] {
        let tree = folder.path().join(format!("tree{files}"));
        fs::create_dir_all(tree.join("sub")).unwrap();
        for n in 0..files {
            fs::write(tree.join(format!("sub/{n}")), format!("file {files} {n}")).unwrap();
        }
        let program = tree.join("run.sh");
        fs::write(&program, format!("#!/bin/sh\n# {files}")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let artifact = source.put_tree(&tree, PutMode::Copy).unwrap();
        let store = store(folder.path());
        let receive = |digest: &Digest| {
            let bytes = source.read(digest).unwrap();
            let received = store.receive_replica(digest, &bytes).unwrap();
            assert_eq!(received, Received::Stored);
        };
        receive(&digest(&artifact));
        for entry in source.read_tree(&digest(&artifact)).unwrap() {
            if let dagrun_store::TreeKind::File(blob) = entry.kind {
                receive(&blob.digest);
            }
        }
        let dest = folder.path().join(format!("dest{files}"));
        let staged = store.stage(&artifact, &dest, Staging::Auto).unwrap();
        let meta = |name: &str| fs::metadata(dest.join(name)).unwrap();
        assert_eq!(meta("sub/1").nlink() == 2, lent);
        assert_eq!(
            (meta("run.sh").nlink(), meta("run.sh").mode() & 0o777),
            (1, 0o555)
        );
        assert_eq!(store.put_tree(&dest, PutMode::Copy).unwrap(), artifact);
        alter(&dest.join("sub/1"));
        assert!(staged.check().unwrap().is_empty());
        fs::remove_dir_all(&dest).unwrap();
        staged.gone();
        let altered = Digest::of(format!("file {files} 1").as_bytes());
        assert_eq!(store.contains(&altered), !lent);
        assert_eq!(
            store
                .read(&Digest::of(format!("file {files} 2").as_bytes()))
                .unwrap(),
            format!("file {files} 2").as_bytes()
        );
    }
}
