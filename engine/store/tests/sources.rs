//! Blobs that are not in the store come from its sources, for whoever reads, stages or exports.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dagrun_model::{Artifact, Digest};
use dagrun_store::{BlobSource, Excess, PutMode, Staging, Store, StoreError, StoreOptions};

/// Another store, as a host of a cluster has one.
struct Other {
    store: Store,
    asked: AtomicUsize,
}

impl BlobSource for Other {
    fn fetch(&self, store: &Store, blobs: &[Digest]) -> Result<(), StoreError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        for digest in blobs {
            if let Ok(bytes) = self.store.read(digest) {
                store.put_bytes(&bytes)?;
            }
        }
        Ok(())
    }
}

fn open(folder: &Path, name: &str) -> Store {
    Store::open(&folder.join(name), StoreOptions::default()).unwrap()
}

/// A store, and another one that it asks.
fn pair(folder: &Path) -> (Store, Arc<Other>) {
    let other = Arc::new(Other {
        store: open(folder, "other"),
        asked: AtomicUsize::new(0),
    });
    let store = open(folder, "here");
    store.add_source(other.clone());
    (store, other)
}

#[test]
fn what_is_not_here_is_fetched_to_be_read_staged_and_exported() {
    let folder = tempfile::tempdir().unwrap();
    let (store, other) = pair(folder.path());
    let read = other.store.put_bytes(b"read").unwrap();
    let staged = other.store.put_bytes(b"staged").unwrap();
    let exported = other.store.put_bytes(b"exported").unwrap();

    assert_eq!(store.read(&read.digest).unwrap(), b"read");
    let dest = folder.path().join("staged");
    store.stage_blob(&staged, &dest, Staging::Auto).unwrap();
    assert_eq!(fs::read(dest).unwrap(), b"staged");
    let dest = folder.path().join("exported");
    store.export(&Artifact::File(exported), &dest).unwrap();
    assert_eq!(fs::read(dest).unwrap(), b"exported");

    // What came stays.
    assert_eq!(other.asked.load(Ordering::Relaxed), 3);
    assert_eq!(store.read(&read.digest).unwrap(), b"read");
    assert_eq!(other.asked.load(Ordering::Relaxed), 3);
}

#[test]
fn folders_come_with_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let (store, other) = pair(folder.path());
    let made = folder.path().join("made");
    fs::create_dir_all(made.join("deep")).unwrap();
    fs::write(made.join("a"), "one").unwrap();
    fs::write(made.join("deep/b"), "two").unwrap();
    let tree = other.store.put_tree(&made, PutMode::Copy).unwrap();

    let dest = folder.path().join("staged");
    store.stage(&tree, &dest, Staging::Auto).unwrap();
    assert_eq!(fs::read(dest.join("deep/b")).unwrap(), b"two");
    // The manifest, and all files at once.
    assert_eq!(other.asked.load(Ordering::Relaxed), 2);
}

#[test]
fn a_damaged_blob_is_fetched_again() {
    let folder = tempfile::tempdir().unwrap();
    let (store, other) = pair(folder.path());
    let blob = other.store.put_bytes(b"bytes that are right").unwrap();
    let path = store.blob_path(&blob.digest);
    fs::write(&path, b"bytes that are wrong").unwrap();
    assert_eq!(store.read(&blob.digest).unwrap(), b"bytes that are right");
}

#[test]
fn what_nobody_has_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let (store, other) = pair(folder.path());
    let nowhere = Digest::of(b"nowhere");
    let error = store.read(&nowhere).unwrap_err();
    assert!(matches!(error, StoreError::Missing { digest } if digest == nowhere));
    assert_eq!(store.bring(&[nowhere, nowhere]).unwrap(), [nowhere]);
    assert_eq!(other.asked.load(Ordering::Relaxed), 2);
}

/// A source whose store has no room.
struct Full;

impl BlobSource for Full {
    fn fetch(&self, store: &Store, blobs: &[Digest]) -> Result<(), StoreError> {
        let incoming = store.receive_alone(&blobs[0])?;
        incoming.expect("nobody else receives it").expect(1 << 60)
    }
}

/// A full disk is no lost blob: running the producer again would not help.
#[test]
fn a_store_that_cannot_take_a_blob_says_so_instead_of_losing_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), "here");
    store.add_source(Arc::new(Full));
    let error = store.read(&Digest::of(b"large")).unwrap_err();
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
    assert!(!error.is_lost_blob());
}

/// A store that others can fill again gives up what was not used for longest, and nothing that somebody needs.
#[test]
fn what_is_beyond_a_bound_may_go_unless_it_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), "here");
    let blobs: Vec<_> = (0..4_u8)
        .map(|n| store.put_bytes(&[n; 1000]).unwrap())
        .collect();
    let lease = store.lease("attempt").unwrap();
    store.guard(&Artifact::File(blobs[1])).unwrap();
    assert_eq!(
        store.excess(4000, Duration::ZERO).unwrap(),
        Excess::default()
    );
    let excess = store.excess(1500, Duration::ZERO).unwrap();
    assert_eq!((excess.bytes, excess.candidates.len()), (2500, 3));
    assert!(
        excess
            .candidates
            .iter()
            .all(|(digest, size)| *size == 1000 && *digest != blobs[1].digest)
    );
    let young = store.excess(1500, Duration::from_secs(3600)).unwrap();
    assert_eq!(young.candidates, []);

    let all: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
    assert_eq!(store.remove_unguarded(&all[..3]).unwrap(), [all[0], all[2]]);
    let left = all.iter().map(|digest| store.contains(digest));
    assert_eq!(left.collect::<Vec<_>>(), [false, true, false, true]);
    drop(lease);
    assert_eq!(store.remove_unguarded(&all).unwrap().len(), 4);
    assert_eq!(store.stat().unwrap().blobs, 0);
}
