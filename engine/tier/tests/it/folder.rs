//! A shared folder: the suite of all stores, and what goes through.

use std::{fs, time::Duration};

use dagrun_model::Artifact;
use dagrun_store::{PutMode, Tier, conformance};

use crate::kit::{How, Place, action, blob, entry, machine, reader};

fn place() -> (tempfile::TempDir, Place) {
    let folder = dagrun_testkit::scratch();
    let place = Place::Folder(folder.path().join("shared"));
    (folder, place)
}

#[test]
fn a_shared_folder_keeps_what_every_store_promises() {
    let folder = dagrun_testkit::scratch();
    // Each opening is another machine: all that they have in common is the folder.
    let open = |name: &str| -> Box<dyn conformance::Backend> {
        let place = Place::Folder(folder.path().join(name));
        Box::new(machine(&place, How::default()))
    };
    conformance::run_with(&open, 20);
}

#[test]
fn entries_come_first_and_blobs_when_they_are_read() {
    let (_folder, place) = place();
    let maker = machine(&place, How::default());
    let made = maker.make(1, b"the result");

    let other = machine(&place, reader());
    assert_eq!(other.find(1), Some(made.clone()));
    let out = made.outputs["out"].blob_digest().unwrap();
    assert!(!other.store.contains(&out), "nobody has asked for it yet");
    assert_eq!(other.shared.traffic().bytes_in, 0);
    assert_eq!(other.store.read(&out).unwrap(), b"the result");
    let log = made.stdout.unwrap().blob.digest;
    assert_eq!(other.store.read(&log).unwrap(), b"a word of the node\n");
    assert_eq!(other.shared.traffic().blobs_in, 2);
    assert_eq!(other.find(2), None);
    assert!(other.warnings().is_empty());
}

#[test]
fn folders_go_there_and_back() {
    let (_folder, place) = place();
    let maker = machine(&place, How::default());
    let made = maker.folder.path().join("made");
    fs::create_dir_all(made.join("deep/empty")).unwrap();
    for n in 0..30 {
        fs::write(made.join(format!("deep/{n}")), format!("file {n}")).unwrap();
    }
    let tree = maker.store.put_tree(&made, PutMode::Copy).unwrap();
    maker.commit_and_offer(1, entry("n", &[("out", tree.clone())]));

    let other = machine(&place, reader());
    assert!(other.find(1).is_some());
    let dest = other.folder.path().join("dest");
    other.store.export(&tree, &dest).unwrap();
    assert_eq!(fs::read(dest.join("deep/29")).unwrap(), b"file 29");
    assert!(dest.join("deep/empty").is_dir());
    assert_eq!(other.shared.traffic().blobs_in, 31);

    // The same at once, as a driver asks for it.
    let third = machine(&place, reader());
    let (sender, receiver) = std::sync::mpsc::channel();
    let done = move || sender.send(()).unwrap();
    third.shared.fetch(vec![tree.clone()], Box::new(done));
    receiver.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(third.store.bring_artifacts([&tree]).unwrap().is_empty());
}

#[test]
fn who_only_reads_writes_nothing() {
    let (_folder, place) = place();
    let maker = machine(&place, How::default());
    maker.make(1, b"one");
    let other = machine(&place, reader());
    assert!(!other.shared.takes_results());
    other.make(2, b"two");
    assert_eq!(maker.find(2), None);
    assert_eq!(maker.shared.stat().unwrap().entries, 1);
}

#[test]
fn a_folder_that_is_not_there_is_made_for_writers_alone() {
    let (folder, place) = place();
    let options = |write| dagrun_tier::CacheOptions {
        location: dagrun_tier::Location::parse(&format!(
            "file://{}/shared",
            folder.path().display()
        ))
        .unwrap(),
        write,
        trust: Vec::new(),
        key: None,
        patience: Duration::from_secs(1),
    };
    let local = machine(&Place::Folder(folder.path().join("other")), How::default());
    let error = dagrun_tier::SharedCache::open(options(false), local.store.clone()).unwrap_err();
    assert!(error.contains("shared"), "{error}");
    dagrun_tier::SharedCache::open(options(true), local.store.clone()).unwrap();
    machine(&place, reader());
}

#[test]
fn a_whole_cache_moves() {
    let (_folder, place) = place();
    let maker = machine(&place, How::default());
    for n in 0..40 {
        let text = format!("result {n}");
        let blob = maker.store.put_bytes(text.as_bytes()).unwrap();
        let entry = entry("n", &[("out", Artifact::File(blob))]);
        maker.store.commit(vec![(action(n), entry)]).unwrap();
    }
    // One has lost its blob.
    let lost = blob(b"result 7").digest;
    fs::remove_file(maker.store.blob_path(&lost)).unwrap();

    let mut steps = 0;
    let moved = maker.shared.push(&mut |_| steps += 1).unwrap();
    assert_eq!((moved.results, moved.left, moved.cut), (39, 1, false));
    assert_eq!(steps, 40);
    let stat = maker.shared.stat().unwrap();
    assert_eq!((stat.blobs, stat.entries, stat.trusted), (39, 39, 39));
    let out = maker.shared.traffic().blobs_out;
    maker.shared.push(&mut |_| {}).unwrap();
    assert_eq!(maker.shared.traffic().blobs_out, out, "nothing goes twice");

    let other = machine(&place, reader());
    let moved = other.shared.pull(false, &mut |_| {});
    assert_eq!((moved.results, moved.left), (39, 0));
    assert_eq!(other.store.stat().unwrap().entries, 39);
    assert_eq!(other.store.stat().unwrap().blobs, 0);
    let moved = other.shared.pull(true, &mut |_| {});
    assert_eq!((moved.results, moved.left), (39, 0));
    assert_eq!(other.store.stat().unwrap().blobs, 39);
}

#[test]
fn large_blobs_go_in_parts_and_come_back() {
    let (_folder, place) = place();
    let maker = machine(&place, How::default());
    let bytes: Vec<u8> = (0..20_000_003_u32).map(|n| (n % 251) as u8).collect();
    maker.make(1, &bytes);
    let other = machine(&place, reader());
    assert!(other.find(1).is_some());
    let read = other.store.read(&blob(&bytes).digest).unwrap();
    assert!(read == bytes);
}

#[test]
fn a_store_is_closed_when_the_last_of_its_users_goes() {
    let (folder, place) = place();
    let local = folder.path().join("local");
    let options = dagrun_store::StoreOptions::default();
    let store = dagrun_store::Store::open(&local, options.clone()).unwrap();
    let shared = std::sync::Arc::new(crate::kit::open(&place, How::default(), &store));
    shared.attach();
    store.commit(vec![(action(1), entry("n", &[]))]).unwrap();
    let lease = store.lease("run").unwrap();
    drop((shared, lease, store));
    let again = dagrun_store::Store::open(&local, options).unwrap();
    assert!(!again.is_leased("run").unwrap());
    // A store that is closed has merged its segment into a table, or has ended it.
    assert!(again.lookup(&[action(1)]).unwrap()[0].is_some());
    let ended = std::fs::read_dir(local.join("actions")).unwrap();
    for file in ended {
        let file = std::fs::File::open(file.unwrap().path()).unwrap();
        assert!(file.try_lock_shared().is_ok(), "nobody writes any more");
    }
}
