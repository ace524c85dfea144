//! The store from outside: what is put comes back, what is committed is found, special files are refused.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use dagrun_model::{ActionDigest, Artifact, BlobRef, Digest, RelPath};
use dagrun_store::{
    ActionEntry, MadeBy, PutMode, Received, Staging, Store, StoreError, StoreOptions,
};

fn store(folder: &Path) -> Store {
    Store::open(&folder.join("store"), StoreOptions::default()).unwrap()
}

fn entry(node: &str, outputs: &[(&str, Artifact)]) -> ActionEntry {
    ActionEntry {
        outputs: outputs
            .iter()
            .map(|(name, artifact)| ((*name).to_owned(), artifact.clone()))
            .collect(),
        stdout: None,
        stderr: None,
        phases: Default::default(),
        usage: Default::default(),
        made_by: MadeBy {
            run: "run".into(),
            node: node.into(),
            host: "host".into(),
            time_ms: 1,
        },
    }
}

fn action(n: u32) -> ActionDigest {
    Digest::of(&n.to_le_bytes())
}

/// No file of the store may look finished and not be.
fn assert_sound(store: &Store) {
    for prefix in fs::read_dir(store.root().join("blobs")).unwrap() {
        let prefix = prefix.unwrap().path();
        let Ok(files) = fs::read_dir(&prefix) else {
            panic!("{} is left over", prefix.display());
        };
        for file in files {
            let path = file.unwrap().path();
            let name = format!(
                "{}{}",
                prefix.file_name().unwrap().to_str().unwrap(),
                path.file_name().unwrap().to_str().unwrap()
            );
            let bytes = fs::read(&path).unwrap();
            assert_eq!(Digest::of(&bytes).to_string(), name);
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o444);
        }
    }
}

#[test]
fn bytes_and_files_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let small = store.put_bytes(b"small").unwrap();
    assert_eq!(small, store.put_bytes(b"small").unwrap());
    for size in [0, 1, 256 << 10, (256 << 10) + 1, 17 << 20] {
        let bytes: Vec<u8> = (0..size).map(|i: u32| (i / 7) as u8).collect();
        for mode in [PutMode::Copy, PutMode::Move] {
            let path = folder.path().join("file");
            fs::write(&path, &bytes).unwrap();
            let blob = store.put_file(&path, mode).unwrap();
            assert_eq!(blob.digest, Digest::of(&bytes), "{size} {mode:?}");
            assert_eq!(blob.size, u64::from(size));
            assert_eq!(path.exists(), mode == PutMode::Copy);
            assert_eq!(store.read(&blob.digest).unwrap(), bytes);
        }
        let again = folder.path().join("again");
        fs::write(&again, &bytes).unwrap();
        store.put_file(&again, PutMode::Move).unwrap();
        assert!(!again.exists(), "a file that is there already goes as well");
    }
    assert_sound(&store);
}

#[test]
fn a_moved_file_is_not_copied_unless_it_has_other_links() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let path = folder.path().join("a");
    fs::write(&path, "text").unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    let blob = store.put_file(&path, PutMode::Move).unwrap();
    let stored = store.blob_path(&blob.digest);
    assert_eq!(fs::metadata(stored).unwrap().ino(), inode);

    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    fs::write(&one, "linked").unwrap();
    fs::hard_link(&one, &two).unwrap();
    let blob = store.put_file(&one, PutMode::Move).unwrap();
    fs::write(&two, "changed").unwrap();
    assert_eq!(store.read(&blob.digest).unwrap(), b"linked");
}

#[test]
fn entries_are_found_by_others_and_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let one = store(folder.path());
    let two = store(folder.path());
    let blob = one.put_bytes(b"out").unwrap();
    let result = entry("n", &[("out", Artifact::File(blob))]);
    assert_eq!(two.lookup(&[action(1)]).unwrap(), [None]);
    one.commit(vec![(action(1), result.clone())]).unwrap();
    two.refresh().unwrap();
    let expected = [Some(result.clone()), None];
    assert_eq!(two.lookup(&[action(1), action(2)]).unwrap(), expected);
    assert_eq!(one.lookup(&[action(1), action(2)]).unwrap(), expected);
    drop((one, two));
    let three = store(folder.path());
    assert_eq!(three.lookup(&[action(1), action(2)]).unwrap(), expected);
    assert!(three.take_warnings().is_empty());
}

#[test]
fn merging_segments_changes_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let reader = store(folder.path());
    for n in 0..40 {
        let writer = store(folder.path());
        let blob = writer.put_bytes(&[n as u8]).unwrap();
        let result = entry(&n.to_string(), &[("out", Artifact::File(blob))]);
        writer.commit(vec![(action(n), result)]).unwrap();
        drop(writer);
        reader.refresh().unwrap();
        let fresh = store(folder.path());
        for store in [&reader, &fresh] {
            let actions: Vec<_> = (0..=n + 1).map(action).collect();
            let found = store.lookup(&actions).unwrap();
            for (n, entry) in found[..found.len() - 1].iter().enumerate() {
                let entry = entry.as_ref().expect("it was committed");
                assert_eq!(entry.made_by.node, n.to_string());
            }
            assert_eq!(found.last().unwrap(), &None);
        }
    }
    let files = fs::read_dir(folder.path().join("store/actions")).unwrap();
    assert!(files.count() < 20, "segments were merged");
    assert!(reader.take_warnings().is_empty());
}

#[test]
fn a_commit_needs_its_blobs() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let gone = BlobRef {
        digest: Digest::of(b"gone"),
        size: 4,
        executable: false,
    };
    let result = entry("n", &[("out", Artifact::File(gone))]);
    let error = store.commit(vec![(action(1), result)]).unwrap_err();
    assert!(matches!(error, StoreError::Missing { digest } if digest == gone.digest));
    assert_eq!(store.lookup(&[action(1)]).unwrap(), [None]);
}

/// F44: the first result stays, the difference is told, and both are kept.
#[test]
fn a_differing_result_is_reported_and_does_not_replace() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let put = |text: &str| Artifact::File(store.put_bytes(text.as_bytes()).unwrap());
    let first = entry("n", &[("out", put("first"))]);
    let second = entry("n", &[("out", put("second"))]);
    let report = store.commit(vec![(action(1), first.clone())]).unwrap();
    assert!(report.differing.is_empty());
    let report = store.commit(vec![(action(1), first.clone())]).unwrap();
    assert!(
        report.differing.is_empty(),
        "the same again is no difference"
    );
    let report = store.commit(vec![(action(1), second.clone())]).unwrap();
    assert_eq!(report.differing.len(), 1);
    assert_eq!(report.differing[0].kept, first);
    assert_eq!(report.differing[0].other, second);
    assert_eq!(store.lookup(&[action(1)]).unwrap(), [Some(first.clone())]);

    // Where the first result is lost, the new one holds: else its node would run again for ever.
    fs::remove_file(store.blob_path(&first.outputs["out"].blob_digest().unwrap())).unwrap();
    let report = store.commit(vec![(action(1), second.clone())]).unwrap();
    assert!(report.differing[0].replaced);
    assert_eq!(store.lookup(&[action(1)]).unwrap(), [Some(second.clone())]);
    drop(store);
    let store = self::store(folder.path());
    assert_eq!(store.lookup(&[action(1)]).unwrap(), [Some(second)]);
}

#[test]
fn trees_come_back_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let tree = folder.path().join("tree");
    fs::create_dir_all(tree.join("sub/empty")).unwrap();
    fs::write(tree.join("sub/file"), "text").unwrap();
    fs::write(tree.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(tree.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("../run.sh", tree.join("sub/link")).unwrap();
    let artifact = store.put_tree(&tree, PutMode::Copy).unwrap();
    let Artifact::Tree { files, size, .. } = &artifact else {
        panic!("{artifact:?}");
    };
    assert_eq!((*files, *size), (2, 14));
    assert_eq!(store.put_tree(&tree, PutMode::Move).unwrap(), artifact);
    for (dest, mode, export) in [("staged", 0o555, false), ("exported", 0o755, true)] {
        let dest = folder.path().join(dest);
        if export {
            store.export(&artifact, &dest).unwrap();
            fs::write(dest.join("extra"), "x").unwrap();
            store.export(&artifact, &dest).unwrap();
            assert!(!dest.join("extra").exists());
        } else {
            let _ = store.stage(&artifact, &dest, Staging::Auto).unwrap();
        }
        assert_eq!(fs::read(dest.join("sub/link")).unwrap(), b"#!/bin/sh\n");
        assert!(dest.join("sub/empty").is_dir());
        let meta = fs::metadata(dest.join("run.sh")).unwrap();
        assert_eq!(meta.mode() & 0o777, mode);
        assert_eq!(store.put_tree(&dest, PutMode::Copy).unwrap(), artifact);
    }
    let result = entry("n", &[("out", artifact)]);
    store.commit(vec![(action(1), result)]).unwrap();
    assert_sound(&store);
}

#[test]
fn staged_files_are_read_only_copies() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    for size in [10, 300 << 10] {
        let blob = store.put_bytes(&vec![7; size]).unwrap();
        let dest = folder.path().join(format!("a/b/{size}"));
        let staged = store
            .stage(&Artifact::File(blob), &dest, Staging::Auto)
            .unwrap();
        assert_eq!(staged.bytes, size as u64);
        let meta = fs::metadata(&dest).unwrap();
        assert_eq!((meta.mode() & 0o777, meta.nlink()), (0o444, 1));
        fs::set_permissions(&dest, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&dest, "altered").unwrap();
        assert_eq!(store.read(&blob.digest).unwrap().len(), size);
        assert!(staged.check().unwrap().is_empty());
    }
}

/// F43: a node that writes through a hard link is found out, and the blob is not used again.
#[test]
fn a_write_through_a_hard_link_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let blob = store.put_bytes(b"shared").unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let artifact = Artifact::File(blob);
    let staged = store.stage(&artifact, &one, Staging::HardLink).unwrap();
    assert_eq!(fs::metadata(&one).unwrap().nlink(), 2);
    let other = store.stage(&artifact, &two, Staging::HardLink).unwrap();
    fs::remove_file(&two).unwrap();
    assert!(
        staged.check().unwrap().is_empty(),
        "links alone are no change"
    );
    assert!(other.check().unwrap().is_empty());
    fs::set_permissions(&one, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&one, "SHARED").unwrap();
    assert_eq!(staged.check().unwrap()[0].digest, blob.digest);
    assert!(!store.contains(&blob.digest));
    // The right bytes heal it.
    store.put_bytes(b"shared").unwrap();
    assert_eq!(store.read(&blob.digest).unwrap(), b"shared");
}

/// F06: damaged bytes are never delivered, whatever the damage and whoever asks.
#[test]
fn damaged_blobs_are_quarantined() {
    let folder = tempfile::tempdir().unwrap();
    for size in [1000_usize, 300 << 10] {
        let good = vec![1; size];
        let mut flipped = good.clone();
        flipped[size / 2] ^= 1;
        for bad in [&good[..size / 2], &[], &flipped[..]] {
            for reader in 0..4 {
                let store = store(folder.path());
                let blob = store.put_bytes(&good).unwrap();
                let path = store.blob_path(&blob.digest);
                fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
                fs::write(&path, bad).unwrap();
                let dest = folder.path().join("dest");
                let artifact = Artifact::File(blob);
                let error = match reader {
                    0 => store.read(&blob.digest).unwrap_err(),
                    1 => store
                        .stage(&artifact, &dest, Staging::Auto)
                        .map(|_| ())
                        .unwrap_err(),
                    2 => store.export(&artifact, &dest).unwrap_err(),
                    _ => store.open_blob(&blob.digest).map(|_| ()).unwrap_err(),
                };
                assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
                assert!(!dest.exists(), "nothing is left behind");
                let again = store.read(&blob.digest).unwrap_err();
                assert!(matches!(again, StoreError::Missing { .. }), "{again}");
                assert_eq!(store.take_warnings().len(), 1);
            }
        }
    }
}

/// F40: what is neither a file nor a folder of its own is refused with a reason.
#[test]
fn special_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let node = folder.path().join("node");
    let tree = node.join("tree");
    let refuse = |why: &str| {
        let error = store
            .put_tree(&tree, PutMode::Copy)
            .unwrap_err()
            .to_string();
        assert!(error.contains(why), "{error}");
    };
    let fresh = || {
        let _ = fs::remove_dir_all(&node);
        fs::create_dir_all(&tree).unwrap();
    };
    fresh();
    fs::write(node.join("beside"), "x").unwrap();
    for target in ["/etc/passwd", "../beside", "..", "../../x"] {
        symlink(target, tree.join("link")).unwrap();
        refuse("leaves its output folder");
        fs::remove_file(tree.join("link")).unwrap();
    }
    fs::create_dir(tree.join("d")).unwrap();
    symlink("..", tree.join("d/up")).unwrap();
    symlink("d/up/..", tree.join("sly")).unwrap();
    refuse("leaves its output folder");

    fresh();
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        tree.join("fifo"),
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
    )
    .unwrap();
    refuse("is a fifo");

    fresh();
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("s")).unwrap();
    refuse("is a socket");

    fresh();
    fs::write(tree.join("line\nend"), "x").unwrap();
    refuse("control character");

    fresh();
    let name = std::ffi::OsString::from("\u{fffd}");
    let raw: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(vec![b'a', 0xff]);
    fs::write(tree.join(&raw), "x").unwrap();
    refuse("not UTF-8");
    drop(name);

    let error = store
        .put_file(Path::new("/dev/null"), PutMode::Copy)
        .unwrap_err();
    assert!(error.to_string().contains("is a device"), "{error}");
}

#[test]
fn huge_sparse_files_are_refused_at_once_and_small_ones_stay_sparse() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let path = folder.path().join("sparse");
    let file = fs::File::create(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    let error = store.put_file(&path, PutMode::Copy).unwrap_err();
    assert!(error.to_string().contains("sparse"), "{error}");
    file.set_len(64 << 20).unwrap();
    let blob = store.put_file(&path, PutMode::Copy).unwrap();
    let stored = fs::metadata(store.blob_path(&blob.digest)).unwrap();
    assert_eq!(stored.len(), 64 << 20);
    assert!(stored.blocks() * 512 < 8 << 20, "{}", stored.blocks());
}

#[test]
fn outputs_may_be_symlinks_inside_the_folder_only() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let node = folder.path().join("node");
    fs::create_dir_all(node.join("d")).unwrap();
    fs::write(node.join("real"), "text").unwrap();
    symlink("../real", node.join("d/link")).unwrap();
    symlink("/etc", node.join("etc")).unwrap();
    symlink("nowhere", node.join("dangling")).unwrap();
    let put = |path: &str| store.put_output(&node, &RelPath::new(path).unwrap(), PutMode::Move);
    let artifact = put("d/link").unwrap().unwrap();
    assert_eq!(artifact.blob_digest(), Some(Digest::of(b"text")));
    assert!(node.join("real").exists(), "it may be an output as well");
    assert_eq!(put("none").unwrap(), None);
    assert_eq!(put("real/below").unwrap(), None);
    for bad in ["etc/passwd", "etc", "dangling"] {
        assert!(matches!(put(bad), Err(StoreError::Refused { .. })), "{bad}");
    }
    assert!(put("d").is_err(), "the link leaves the folder d");
}

#[test]
fn other_folders_are_not_taken_for_stores() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.tex"), "x").unwrap();
    let open = || Store::open(folder.path(), StoreOptions::default());
    assert!(matches!(open(), Err(StoreError::NotAStore { .. })));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    fs::remove_file(folder.path().join("thesis.tex")).unwrap();
    fs::write(folder.path().join("VERSION"), "dagrun store 99\n").unwrap();
    let error = open().unwrap_err().to_string();
    assert!(error.contains("store 99"), "{error}");
}

#[test]
fn entries_may_name_blobs_that_are_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let blob = |text: &[u8]| BlobRef {
        digest: Digest::of(text),
        size: text.len() as u64,
        executable: false,
    };
    let (far, gone) = (blob(b"on another host"), blob(b"nowhere"));
    let tree = Artifact::Tree {
        digest: Digest::of(b"a manifest on another host"),
        size: 7,
        files: 1,
    };
    let here = store.put_bytes(b"here").unwrap();
    let elsewhere = |digest: &Digest| *digest == far.digest || tree.blob_digest() == Some(*digest);
    let good = entry(
        "good",
        &[
            ("far", Artifact::File(far)),
            ("here", Artifact::File(here)),
            ("tree", tree.clone()),
        ],
    );
    let bad = entry("bad", &[("gone", Artifact::File(gone))]);

    let both = vec![(action(1), good.clone()), (action(2), bad)];
    let error = store.commit_elsewhere(both, &elsewhere).unwrap_err();
    assert!(matches!(error, StoreError::Missing { digest } if digest == gone.digest));
    assert_eq!(store.lookup(&[action(1), action(2)]).unwrap(), [None, None]);

    let one = vec![(action(1), good.clone())];
    assert!(
        store.commit(one.clone()).is_err(),
        "a plain commit wants all of them here"
    );
    store.commit_elsewhere(one, &elsewhere).unwrap();
    assert_eq!(store.lookup(&[action(1)]).unwrap(), [Some(good.clone())]);
    assert!(store.read(&far.digest).unwrap_err().is_lost_blob());

    // What is elsewhere is not lost, so another result does not take its place.
    let other = entry("other", &[("here", Artifact::File(here))]);
    let report = store
        .commit_elsewhere(vec![(action(1), other.clone())], &elsewhere)
        .unwrap();
    assert!(!report.differing[0].replaced);
    // Who knows of no other place may replace it.
    let third = entry("third", &[]);
    let report = store.commit(vec![(action(1), third.clone())]).unwrap();
    assert!(report.differing[0].replaced);
    assert_eq!(store.lookup(&[action(1)]).unwrap(), [Some(third)]);
}

#[test]
fn a_tree_that_is_here_in_part_is_not_durable() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let path = folder.path().join("tree");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("file"), "in the tree").unwrap();
    let tree = store.put_tree(&path, PutMode::Copy).unwrap();
    fs::remove_file(store.blob_path(&Digest::of(b"in the tree"))).unwrap();
    let outputs = entry("n", &[("out", tree.clone())]).outputs;
    assert!(
        store
            .sync_outputs(&outputs, &[])
            .unwrap_err()
            .is_lost_blob()
    );
    let named = vec![(action(1), entry("n", &[("out", tree)]))];
    assert!(store.commit_elsewhere(named.clone(), &|_| false).is_err());
    store.put_bytes(b"in the tree").unwrap();
    store.sync_outputs(&outputs, &[]).unwrap();
    store.commit(named).unwrap();
}

#[test]
fn outputs_and_logs_become_durable_without_an_entry() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let out = store.put_bytes(b"out").unwrap();
    let log = |text: &[u8]| dagrun_model::LogRef {
        blob: BlobRef {
            digest: Digest::of(text),
            size: text.len() as u64,
            executable: false,
        },
        total: text.len() as u64,
        tail: String::new(),
    };
    store.put_bytes(b"said").unwrap();
    let outputs = entry("n", &[("out", Artifact::File(out))]).outputs;
    store.sync_outputs(&outputs, &[&log(b"said")]).unwrap();
    let error = store
        .sync_outputs(&outputs, &[&log(b"never said")])
        .unwrap_err();
    assert!(error.is_lost_blob(), "{error}");
    assert_eq!(store.stat().unwrap().entries, 0);
}

#[test]
fn received_blobs_are_visible_only_when_their_digest_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let good = Digest::of(b"one and two");
    let mut incoming = store.receive().unwrap();
    incoming.write(b"one").unwrap();
    incoming.write(b" and two").unwrap();
    assert_eq!(incoming.size(), 11);
    assert!(!store.contains(&good));
    assert_eq!(incoming.finish(&good).unwrap(), Received::Stored);
    assert_eq!(store.read(&good).unwrap(), b"one and two");

    let claimed = Digest::of(b"something else");
    let mut incoming = store.receive().unwrap();
    incoming.write(b"poison").unwrap();
    let found = incoming.finish(&claimed).unwrap();
    assert_eq!(found, Received::Wrong(Digest::of(b"poison")));
    assert!(!store.contains(&claimed));
    assert_eq!(
        store.stat().unwrap().quarantined,
        1,
        "it is kept as evidence"
    );

    let mut dropped = store.receive().unwrap();
    dropped.write(b"half").unwrap();
    drop(dropped);
    assert_sound(&store);
}

/// Names in the folder where temporary files of a blob are.
fn partials(store: &Store, digest: &Digest) -> Vec<String> {
    let folder = store.blob_path(digest).parent().unwrap().to_owned();
    let names = fs::read_dir(folder).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".tmp-")).collect()
}

/// Many workers of a host may want the same blob at once, and each may die half-way.
#[test]
fn one_receives_a_blob_for_all_and_goes_on_where_a_dead_one_left_off() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (store(folder.path()), store(folder.path()));
    let bytes = [vec![7; 3 << 20], vec![0; 1 << 20]].concat();
    let digest = Digest::of(&bytes);
    let mut incoming = one.receive_alone(&digest).unwrap().unwrap();
    incoming.write(&bytes[..1 << 20]).unwrap();
    assert!(two.receive_alone(&digest).unwrap().is_none());
    assert!(one.receive_alone(&digest).unwrap().is_none());
    drop(incoming);
    assert!(
        partials(&one, &digest).is_empty(),
        "an error leaves nothing"
    );

    // What a process that was killed leaves.
    let hex = digest.to_string();
    let left = one
        .blob_path(&digest)
        .with_file_name(format!(".tmp-in-{}", &hex[2..]));
    fs::write(&left, &bytes[..2 << 20]).unwrap();
    let mut incoming = two.receive_alone(&digest).unwrap().unwrap();
    assert_eq!(incoming.size(), 2 << 20);
    incoming.expect(bytes.len() as u64).unwrap();
    for piece in bytes[2 << 20..].chunks(1 << 20) {
        incoming.write(piece).unwrap();
    }
    assert_eq!(incoming.finish(&digest).unwrap(), Received::Stored);
    assert_eq!(
        one.read(&digest).unwrap(),
        bytes,
        "with the hole at its end"
    );
    assert!(partials(&one, &digest).is_empty());

    // What it left may be wrong: then it is had again from the start.
    fs::remove_file(one.blob_path(&digest)).unwrap();
    fs::write(&left, b"something else").unwrap();
    let mut incoming = two.receive_alone(&digest).unwrap().unwrap();
    incoming.restart().unwrap();
    bytes
        .chunks(1 << 20)
        .for_each(|piece| incoming.write(piece).unwrap());
    assert_eq!(incoming.finish(&digest).unwrap(), Received::Stored);
    assert_sound(&one);
}

#[test]
fn received_bytes_heal_a_damaged_blob() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let blob = store.put_bytes(b"as it should be").unwrap();
    let path = store.blob_path(&blob.digest);
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"as it is not").unwrap();
    let received = store
        .receive_whole(&blob.digest, b"as it should be")
        .unwrap();
    assert_eq!(received, Received::Stored);
    assert_eq!(store.read(&blob.digest).unwrap(), b"as it should be");
    let wrong = store.receive_whole(&Digest::of(b"x"), b"y").unwrap();
    assert_eq!(wrong, Received::Wrong(Digest::of(b"y")));
}

#[test]
fn entries_are_bytes_for_caches_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let blob = store.put_bytes(b"x").unwrap();
    let one = entry("one", &[("out", Artifact::File(blob))]);
    assert_eq!(ActionEntry::from_bytes(&one.to_bytes()), Some(one.clone()));
    assert_eq!(ActionEntry::from_bytes(b"something else"), None);
    store.commit(vec![(action(1), one.clone())]).unwrap();
    let mut all = Vec::new();
    store
        .each_entry(&mut |action, entry| {
            all.push((action, entry));
            Ok(())
        })
        .unwrap();
    assert_eq!(all, [(action(1), one)]);
}
