//! The store under injected faults. Names carry the number of the fault case.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use dagrun_model::{Artifact, BlobRef, Digest};
use dagrun_store::{Staging, Store, StoreError, StoreOptions};
use dagrun_testkit::{Fault, Fs, Loss, PowerCut, SmallDisk, example, scratch, skip};

mod check;
mod load;

fn open(root: &Path) -> Store {
    Store::open(root, StoreOptions::default()).unwrap()
}

fn load_program() -> std::path::PathBuf {
    example("dagrun-store", "store_load")
}

/// Kills the load program at the N-th of some system calls, for every N, of which there are so many at least, and checks what it
/// had acknowledged.
fn sweep(calls: &str, effect: &str, count: u32, expect_failure: bool, least: u32) {
    let program = load_program();
    let all: Vec<u32> = (0..count).collect();
    let count = count.to_string();
    let folder = scratch();
    let mut n = 1;
    loop {
        let root = folder.path().join(format!("{n}"));
        let fault = Fault {
            calls: calls.into(),
            effect: effect.into(),
            when: n.to_string(),
            path: None,
        };
        let args = [root.to_str().unwrap(), &count];
        let traced = skip!("sweep", fault.run(&program, &args));
        let printed = &traced.output.stdout;
        let acked = check::acks(printed);
        if traced.injected {
            if expect_failure {
                // What fails after the last acknowledgement takes nothing back.
                let failed = !traced.output.status.success();
                assert!(failed || acked == all, "{calls} {n}");
            }
        } else {
            assert_eq!(acked, all, "{}", String::from_utf8_lossy(printed));
            break;
        }
        check::assert_survived(&root, &acked);
        if !effect.starts_with("error") {
            // What a process has written is not lost with it, so no blob may be half under its name.
            let report = open(&root).verify(false).unwrap();
            assert_eq!(report.corrupt, [], "{calls} {n}");
        }
        // The next one takes over where the last one died.
        let again = Command::new(&program).args(args).output().unwrap();
        assert_eq!(check::acks(&again.stdout), all, "{calls} {n}");
        check::assert_survived(&root, &all);
        fs::remove_dir_all(&root).unwrap();
        n += 1;
    }
    assert!(n > least, "{calls}: only {n}");
}

#[test]
fn f02_killed_at_each_sync() {
    sweep("fsync,fdatasync", "signal=KILL", 6, true, 12);
}

#[test]
fn f02_killed_at_each_rename() {
    sweep("rename,renameat2", "signal=KILL", 6, true, 15);
}

#[test]
fn f02_killed_at_each_write() {
    sweep("write,pwrite64", "signal=KILL", 6, true, 40);
}

/// F10: after a failed sync nothing more is acknowledged, and what was before is there.
#[test]
fn f10_eio_at_each_sync() {
    sweep("fsync,fdatasync", "error=EIO", 6, true, 12);
}

/// F09 at every write: whatever does not fit, nothing half stays under a final name.
#[test]
fn f09_enospc_at_each_write() {
    sweep("write,pwrite64", "error=ENOSPC", 4, false, 25);
}

#[test]
fn f10_eio_at_each_rename() {
    sweep("rename,renameat2", "error=EIO", 4, true, 10);
}

#[test]
fn f10_a_failed_sync_stops_all_later_commits() {
    let folder = scratch();
    let root = folder.path().join("store");
    drop(open(&root));
    let fault = Fault {
        calls: "fdatasync".into(),
        effect: "error=EIO".into(),
        when: "2".into(),
        path: None,
    };
    let traced = skip!(
        "F10",
        fault.run(&load_program(), &[root.to_str().unwrap(), "12"])
    );
    let printed = String::from_utf8_lossy(&traced.output.stdout).into_owned();
    assert_eq!(check::acks(printed.as_bytes()), [0, 1, 2], "{printed}");
    assert!(printed.contains("stopped committing"), "{printed}");
    assert!(printed.contains("actions"), "it names the file: {printed}");
    check::assert_survived(&root, &[0, 1, 2]);
}

/// F09: with no room left a put or a commit fails cleanly at every point, and works once there is room.
#[test]
fn f09_a_full_disk() {
    let disk = skip!("F09", SmallDisk::new(2 << 20, None));
    let root = disk.path().join("store");
    let store = open(&root);
    let mut made = 0;
    let error = loop {
        let result = load::make(&store, made).and_then(|entry| {
            store.commit(vec![(load::action(made), entry)])?;
            Ok(())
        });
        match result {
            Ok(()) => made += 1,
            Err(error) => break error,
        }
        assert!(made < 10_000, "the disk is never full");
    };
    let text = error.to_string();
    assert!(
        matches!(&error, StoreError::DiskFull { .. }) || text.contains("No space left"),
        "{text}"
    );
    assert!(text.contains(disk.path().to_str().unwrap()), "{text}");
    let filler = disk.fill();
    let full = store.put_bytes(&vec![3; 500_000]).unwrap_err();
    assert!(matches!(full, StoreError::DiskFull { .. }), "{full}");
    let acked: Vec<u32> = (0..made).collect();
    check::assert_survived(&root, &acked);
    assert!(no_temporary_files(&root), "temporary files are left over");

    fs::remove_file(filler).unwrap();
    disk.remount("size=8m");
    // The same store goes on: being full is no reason to distrust it.
    let entry = load::make(&store, made).unwrap();
    store.commit(vec![(load::action(made), entry)]).unwrap();
    check::assert_survived(&root, &(0..=made).collect::<Vec<_>>());
}

/// F09: the entry itself does not fit. Half a frame must not hide what is committed later.
#[test]
fn f09_a_full_disk_while_entries_are_appended() {
    let disk = skip!("F09", SmallDisk::new(4 << 20, None));
    let root = disk.path().join("store");
    let store = open(&root);
    let entry = load::make(&store, 1).unwrap();
    store.commit(vec![(load::action(1), entry)]).unwrap();
    let mut large = load::make(&store, 2).unwrap();
    large.made_by.run = "x".repeat(100_000);
    let filler = disk.fill();
    let error = store
        .commit(vec![(load::action(2), large.clone())])
        .unwrap_err();
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
    assert_eq!(store.lookup(&[load::action(2)]).unwrap(), [None]);
    fs::remove_file(filler).unwrap();
    store.commit(vec![(load::action(2), large)]).unwrap();
    drop(store);
    check::assert_survived(&root, &[1, 2]);
}

/// F11: out of inodes is told as a full disk, with the path.
#[test]
fn f11_out_of_inodes() {
    let disk = skip!("F11", SmallDisk::new(64 << 20, Some(300)));
    let store = open(&disk.path().join("store"));
    let error = (0..1000_u32)
        .find_map(|n| store.put_bytes(&n.to_le_bytes()).err())
        .expect("inodes run out");
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
    assert!(error.to_string().contains("blobs"), "{error}");
}

/// F11: a file system that was set read-only gives a clear error, and what is there can still be read.
#[test]
fn f11_a_read_only_store() {
    let disk = skip!("F11", SmallDisk::new(64 << 20, None));
    let root = disk.path().join("store");
    let store = open(&root);
    let blob = store.put_bytes(b"there").unwrap();
    let entry = load::make(&store, 1).unwrap();
    store.commit(vec![(load::action(1), entry)]).unwrap();
    drop(store);
    disk.remount("ro");
    let store = open(&root);
    let error = store.put_bytes(b"new").unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
    assert!(error.to_string().contains("DAGRUN_CACHE"), "{error}");
    assert_eq!(store.read(&blob.digest).unwrap(), b"there");
    assert!(store.lookup(&[load::action(1)]).unwrap()[0].is_some());
    drop(store);
    disk.remount("rw");
}

/// F11: without the right to write.
#[test]
fn f11_a_store_of_somebody_else() {
    let folder = scratch();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let root = folder.path().join("s");
    let mut load = Command::new(load_program());
    load.arg(&root).arg("3");
    let mut load = skip!("F11 EACCES", dagrun_testkit::unprivileged(&load));
    let output = load.output().unwrap();
    assert!(!output.status.success());
    let printed = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(printed.contains("Permission denied"), "{printed}");
    assert!(printed.contains(root.to_str().unwrap()), "{printed}");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
}

/// F12: with too few files the store says so, with the limit, and stores nothing wrong.
#[test]
fn f12_too_many_open_files() {
    let folder = scratch();
    let prlimit = skip!("F12", dagrun_testkit::require_program("prlimit"));
    // Each has a store of its own: what failed ones leave behind takes files as well.
    let run = |root: &Path, files: u32| {
        drop(open(root));
        Command::new(&prlimit)
            .arg(format!("--nofile={files}"))
            .arg(load_program())
            .args([root.to_str().unwrap(), "12"])
            .output()
            .unwrap()
    };
    let mut failed = 0;
    for files in 4..24 {
        let root = folder.path().join(files.to_string());
        let begun = Instant::now();
        let output = run(&root, files);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            failed += 1;
            let message = format!("with a limit of {files}");
            assert!(printed.contains(&message), "{files}: {printed}");
        }
        // It waits for others to close files, but once and not at each file.
        assert!(begun.elapsed() < Duration::from_secs(10), "{files}");
        check::assert_survived(&root, &check::acks(&output.stdout));
    }
    assert!(failed > 2, "the limit was reached {failed} times");
    assert!(run(&folder.path().join("64"), 64).status.success());
}

/// F03: what was acknowledged before a power cut is there after it, with its bytes.
fn power_cuts(fs_kind: Fs, mib: u64, cuts: u32) {
    let cut = skip!("F03", PowerCut::new(fs_kind, mib));
    let program = load_program();
    let root = cut.path().join("store");
    let mut first = 0;
    let mut total = 0;
    for loss in Loss::ALL {
        for round in 0..cuts {
            let mut child = Command::new(&program)
                .arg(&root)
                .args(["100000", &first.to_string()])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            // Each round is cut at another point of the work.
            let wanted = 6 + 7 * round as usize;
            let mut acked = Vec::new();
            for line in lines.by_ref() {
                acked.extend(check::acks(line.unwrap().as_bytes()));
                if acked.len() >= wanted {
                    break;
                }
            }
            assert!(acked.len() >= wanted, "the program ended: {acked:?}");
            // Only what came before the cut counts.
            cut.cut(loss);
            let _ = child.kill();
            drop(lines);
            child.wait().unwrap();
            cut.restore();
            check::assert_survived(&root, &acked);
            total += acked.len();
            first += 100_000;
        }
    }
    assert!(total > 100, "{total}");
}

#[test]
fn f03_power_cuts_on_ext4() {
    power_cuts(Fs::Ext4, 256, 5);
}

#[test]
fn f03_power_cuts_on_xfs() {
    power_cuts(Fs::Xfs, 320, 5);
}

/// F03: what was fetched is not synced. After a power cut it is whole or lost, for who reads it and for a node that gets the file.
fn replicas_after_power_cuts(fs_kind: Fs, mib: u64) {
    let cut = skip!("F03", PowerCut::new(fs_kind, mib));
    let root = cut.path().join("store");
    // So many that what was verified is written down.
    let all: Vec<Vec<u8>> = (0..600_usize)
        .map(|n| vec![n as u8; 1 + n + (300 << 10) * usize::from(n % 60 == 0)])
        .collect();
    let artifact = |bytes: &[u8]| {
        Artifact::File(BlobRef {
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            executable: false,
        })
    };
    for loss in Loss::ALL {
        let _ = std::fs::remove_dir_all(&root);
        let store = open(&root);
        for bytes in &all {
            store.receive_replica(&Digest::of(bytes), bytes).unwrap();
        }
        let lent = store.stage(&artifact(&all[0]), &root.join("work"), Staging::Auto);
        cut.cut(loss);
        drop((lent, store));
        cut.restore();
        let store = open(&root);
        let folder = scratch();
        let mut lost = 0;
        for (n, bytes) in all.iter().enumerate() {
            let dest = folder.path().join(n.to_string());
            // Within the file system of the store too, where files are lent.
            let near = root.join(format!("near{n}"));
            match store.stage(&artifact(bytes), &near, Staging::Auto) {
                Ok(_) => assert!(std::fs::read(&near).unwrap() == *bytes, "{n} {loss:?}"),
                Err(error) => {
                    assert!(error.is_lost_blob(), "{n} {loss:?}: {error}");
                    lost += 1;
                    store.receive_replica(&Digest::of(bytes), bytes).unwrap();
                }
            }
            store.export(&artifact(bytes), &dest).unwrap();
            assert!(std::fs::read(&dest).unwrap() == *bytes, "{n} {loss:?}");
        }
        assert!(loss != Loss::DataAndJournal || lost > 0, "nothing was lost");
        assert!(loss != Loss::Nothing || lost == 0, "{lost}");
    }
}

#[test]
fn f03_replicas_after_power_cuts_on_ext4() {
    replicas_after_power_cuts(Fs::Ext4, 256);
}

#[test]
fn f03_replicas_after_power_cuts_on_xfs() {
    replicas_after_power_cuts(Fs::Xfs, 320);
}

/// F08: collection in a loop, with no mercy, takes nothing that a run with a lease makes, finds or reads.
#[test]
fn f08_collection_during_a_run() {
    let folder = scratch();
    let root = folder.path().join("store");
    let ruthless = dagrun_store::GcOptions {
        max_age: Some(Duration::ZERO),
        max_bytes: Some(0),
        grace: Duration::ZERO,
        ..Default::default()
    };
    // Results of an earlier run, which the live run finds before collection starts.
    {
        let store = open(&root);
        let entries = (0..30)
            .map(|n| (load::action(n), load::make(&store, n).unwrap()))
            .collect();
        store.commit(entries).unwrap();
    }
    let store = open(&root);
    let lease = store.lease("run").unwrap();
    let hits: Vec<_> = (0..30).map(load::action).collect();
    let found = store.lookup(&hits).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let collected = std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let other = open(&root);
            let mut rounds = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) || rounds < 3 {
                let report = other.gc(&ruthless).unwrap();
                assert_eq!(report.leases, 1);
                rounds += 1;
            }
            rounds
        });
        for n in 30..120 {
            let entry = load::make(&store, n).unwrap();
            let dest = folder.path().join(format!("staged-{n}"));
            let artifact = entry.outputs["out"].clone();
            let staged = store.stage(&artifact, &dest, Staging::Auto).unwrap();
            assert_eq!(staged.bytes, load::content(n).len() as u64);
            store.commit(vec![(load::action(n), entry)]).unwrap();
        }
        for (n, entry) in found.iter().enumerate() {
            for artifact in entry.as_ref().expect("it was committed").outputs.values() {
                let dest = folder.path().join(format!("hit-{n}"));
                let _ = store.stage(artifact, &dest, Staging::Auto).unwrap();
                let _ = fs::remove_dir_all(&dest).or_else(|_| fs::remove_file(&dest));
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        collector.join().unwrap()
    });
    assert!(collected >= 3);
    check::assert_survived(&root, &(0..120).collect::<Vec<_>>());
    drop(lease);
    drop(store);
    let report = open(&root).gc(&ruthless).unwrap();
    assert_eq!((report.kept_blobs, report.entries), (0, 120));
}

/// F07: an entry whose blobs are gone is told apart from damage, and its node can commit again.
#[test]
fn f07_an_entry_without_its_blob() {
    let folder = scratch();
    let root = folder.path().join("store");
    let store = open(&root);
    let entry = load::make(&store, 3).unwrap();
    let artifact = entry.outputs["out"].clone();
    store.commit(vec![(load::action(3), entry)]).unwrap();
    let digest = artifact.blob_digest().unwrap();
    fs::remove_file(store.blob_path(&digest)).unwrap();
    let dest = folder.path().join("dest");
    let error = store
        .stage(&artifact, &dest, Staging::Auto)
        .map(|_| ())
        .unwrap_err();
    assert!(error.is_lost_blob(), "{error}");
    assert!(store.lookup(&[load::action(3)]).unwrap()[0].is_some());
    let report = store.verify(false).unwrap();
    assert!(report.is_sound());
    assert_eq!(report.missing[0].digest, digest);
    // The producer runs again; its blob is new and has to be synced again.
    let again = load::make(&store, 3).unwrap();
    let report = store.commit(vec![(load::action(3), again)]).unwrap();
    assert!(report.differing.is_empty());
    check::assert_survived(&root, &[3]);
}

/// F04 and F05 with real files: a torn tail costs its commit and one warning; damage costs the segment until a repair.
#[test]
fn f04_f05_torn_and_damaged_segments() {
    let folder = scratch();
    let write = |root: &Path| {
        let store = open(root);
        for n in 0..3 {
            let entry = load::make(&store, n).unwrap();
            store.commit(vec![(load::action(n), entry)]).unwrap();
        }
        let name = fs::read_dir(root.join("actions"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .find(|p| p.extension().is_some_and(|e| e == "log"))
            .unwrap();
        let bytes = fs::read(&name).unwrap();
        (name, bytes)
    };
    let hits = |store: &Store| {
        let actions: Vec<_> = (0..3).map(load::action).collect();
        let found = store.lookup(&actions).unwrap();
        found.iter().filter(|e| e.is_some()).count()
    };

    let root = folder.path().join("torn");
    let (segment, bytes) = write(&root);
    // Behind the last frame stand zeros: room for the next one.
    let last = bytes.iter().rposition(|b| *b != 0).unwrap();
    fs::write(&segment, &bytes[..last]).unwrap();
    let store = open(&root);
    assert_eq!(hits(&store), 2);
    assert_eq!(hits(&store), 2);
    assert_eq!(store.take_warnings().len(), 1, "one warning and no more");

    let root = folder.path().join("damaged");
    let (segment, mut bytes) = write(&root);
    bytes[40] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    let store = open(&root);
    assert_eq!(hits(&store), 0);
    let warnings = store.take_warnings();
    assert!(warnings[0].contains("at byte 8"), "{warnings:?}");
    assert!(warnings[0].contains("verify --fix"), "{warnings:?}");
    assert!(!segment.exists(), "it is in quarantine");
    let report = store.verify(true).unwrap();
    assert_eq!((report.saved, report.corrupt.len()), (2, 0));
    store.refresh().unwrap();
    assert_eq!(hits(&store), 2);
    assert_eq!(hits(&open(&root)), 2);
}

/// F03, without a power cut: what a dead writer had in its log alone becomes files again, whatever is left of these.
#[test]
fn f03_small_blobs_come_back_from_the_log_of_a_dead_writer() {
    let folder = scratch();
    let root = folder.path().join("store");
    let store = open(&root);
    let small = [0, 2, 3, 5, 6, 8];
    for n in small {
        let entry = load::make(&store, n).unwrap();
        store.commit(vec![(load::action(n), entry)]).unwrap();
    }
    // A copy has no writer, and its blobs were never said to be on disk.
    let copy = folder.path().join("copy");
    let copied = Command::new("cp").arg("-a").args([&root, &copy]).status();
    assert!(copied.unwrap().success());
    let copied = open(&copy);
    let spoil: [fn(&Path); 4] = [
        |path| fs::remove_file(path).unwrap(),
        |path| fs::write(path, "").unwrap(),
        |path| fs::write(path, vec![0; fs::metadata(path).unwrap().len() as usize]).unwrap(),
        |_| (),
    ];
    for (ix, n) in small.into_iter().enumerate() {
        let digest = dagrun_model::Digest::of(&load::content(n));
        let path = copied.blob_path(&digest);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        spoil[ix % spoil.len()](&path);
    }
    check::assert_survived(&copy, &small);
    let report = copied.verify(false).unwrap();
    assert_eq!((report.corrupt.len(), report.missing.len()), (0, 0));
    assert!(copied.take_warnings().is_empty());
    let mode = fs::metadata(copied.blob_path(&dagrun_model::Digest::of(&load::content(0))));
    assert_eq!(mode.unwrap().permissions().mode() & 0o777, 0o444);
    assert_eq!(copied.stat().unwrap().segments, 0, "they are merged");

    // What is damaged once all is settled is damage: nothing is brought back behind its owner's back.
    drop(store);
    let store = open(&root);
    let lost = dagrun_model::Digest::of(&load::content(2));
    fs::remove_file(store.blob_path(&lost)).unwrap();
    store.lookup(&[load::action(2)]).unwrap();
    assert!(matches!(store.read(&lost), Err(StoreError::Missing { .. })));
}

/// F05: damage in a merged file costs the records it hits, is told once, and a repair keeps all others.
#[test]
fn f05_a_damaged_table() {
    let folder = scratch();
    let root = folder.path().join("store");
    for n in 0..8 {
        let store = open(&root);
        let entry = load::make(&store, n).unwrap();
        store.commit(vec![(load::action(n), entry)]).unwrap();
    }
    let table = fs::read_dir(root.join("actions"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "tbl"))
        .expect("eight segments are merged");
    let mut bytes = fs::read(&table).unwrap();
    bytes[64 + 100] ^= 1;
    fs::write(&table, &bytes).unwrap();
    let all: Vec<_> = (0..8).map(load::action).collect();
    let hits = |store: &Store| {
        let found = store.lookup(&all).unwrap();
        found.iter().filter(|e| e.is_some()).count()
    };
    let store = open(&root);
    assert_eq!(hits(&store), 7);
    assert_eq!(hits(&store), 7);
    let warnings = store.take_warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("at byte 64 of"), "{warnings:?}");
    assert!(!store.verify(false).unwrap().is_sound());
    assert!(!store.verify(true).unwrap().is_sound());
    assert!(store.verify(false).unwrap().is_sound());
    assert_eq!((hits(&store), hits(&open(&root))), (7, 7));
    assert!(store.take_warnings().len() <= 1, "of the repair itself");
    assert!(
        root.join("quarantine")
            .join(table.file_name().unwrap())
            .exists()
    );

    // A table whose header is damaged cannot be read at all: that is told too, and nothing stands in the way.
    let table = fs::read_dir(root.join("actions"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "tbl"))
        .unwrap();
    fs::write(&table, b"garbage").unwrap();
    let store = open(&root);
    assert_eq!(hits(&store), 0);
    assert_eq!(store.take_warnings().len(), 1);
    let entry = load::make(&store, 1).unwrap();
    store.commit(vec![(load::action(1), entry)]).unwrap();
    store.verify(true).unwrap();
    assert!(store.verify(false).unwrap().is_sound());
    assert_eq!(hits(&store), 1);
}

/// F06: a check of the whole store finds each damaged blob, and a repair takes them out.
#[test]
fn f06_verify_finds_damage() {
    let folder = scratch();
    let root = folder.path().join("store");
    let store = open(&root);
    let blobs: Vec<_> = (0..20_u8)
        .map(|n| store.put_bytes(&[n; 1000]).unwrap())
        .collect();
    for blob in &blobs[..3] {
        let path = store.blob_path(&blob.digest);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&path, b"bad").unwrap();
    }
    let report = store.verify(false).unwrap();
    assert_eq!((report.blobs, report.corrupt.len()), (20, 3));
    assert!(!report.is_sound());
    assert_eq!(store.verify(true).unwrap().corrupt.len(), 3);
    let report = store.verify(false).unwrap();
    assert_eq!((report.blobs, report.corrupt.len()), (17, 0));
}

/// F45: results of a broken machine are dropped, also for those who read the store already, and can be made again.
#[test]
fn f45_evicted_results_are_misses() {
    let folder = scratch();
    let root = folder.path().join("store");
    let reader = open(&root);
    for round in 0..3 {
        let store = open(&root);
        for n in 0..4 {
            let mut entry = load::make(&store, n).unwrap();
            entry.made_by.host = if n < 2 { "bad" } else { "good" }.into();
            store.commit(vec![(load::action(n), entry)]).unwrap();
        }
        drop(store);
        let all: Vec<_> = (0..4).map(load::action).collect();
        let there = |store: &Store| -> Vec<bool> {
            store.refresh().unwrap();
            let found = store.lookup(&all).unwrap();
            found.iter().map(Option::is_some).collect()
        };
        assert_eq!(there(&reader), [true; 4], "{round}");
        let evicted = open(&root)
            .evict(&|_, entry| entry.made_by.host == "bad")
            .unwrap();
        assert_eq!(evicted.len(), 2);
        assert_eq!(there(&reader), [false, false, true, true], "{round}");
        assert_eq!(there(&open(&root)), [false, false, true, true], "{round}");
        // Merging everything changes nothing.
        let report = open(&root).verify(true).unwrap();
        assert_eq!(report.entries, 2);
        assert_eq!(there(&reader), [false, false, true, true], "{round}");
    }
}

/// F45, F51: the times of records run ahead of the clock where many are written at once, as they do where another host's clock is
/// ahead. An eviction and what is made after it come later all the same, in segments and in tables.
#[test]
fn f45_evictions_hold_for_entries_from_a_clock_ahead() {
    const COUNT: u32 = 3000;
    let folder = scratch();
    let root = folder.path().join("store");
    let all: Vec<_> = (0..COUNT).map(load::action).collect();
    let entry = load::make(&open(&root), 0).unwrap();
    let hits = |store: &Store| {
        store.refresh().unwrap();
        let found = store.lookup(&all).unwrap();
        found.iter().flatten().count()
    };
    for merged in [false, true] {
        // One commit: each of its records is a millisecond later than the one before.
        let made = all.iter().map(|action| (*action, entry.clone()));
        open(&root).commit(made.collect()).unwrap();
        if merged {
            open(&root).verify(true).unwrap();
        }
        let reader = open(&root);
        assert_eq!(hits(&reader), COUNT as usize, "{merged}");
        let evicted = open(&root).evict(&|_, _| true).unwrap();
        assert_eq!(evicted.len(), COUNT as usize, "{merged}");
        assert_eq!(hits(&reader), 0, "{merged}");
        assert_eq!(hits(&open(&root)), 0, "{merged}");
    }
    open(&root)
        .commit(vec![(all[COUNT as usize - 1], entry.clone())])
        .unwrap();
    for _ in 0..2 {
        assert_eq!(hits(&open(&root)), 1);
        open(&root).verify(true).unwrap();
    }
}

/// Collection goes by last use, says whose the bytes were, and a dry run changes nothing.
#[test]
fn collection_by_size_takes_what_was_not_used() {
    let folder = scratch();
    let root = folder.path().join("store");
    {
        let store = open(&root);
        let old = |n: u32| {
            let blob = store.put_bytes(&vec![n as u8; 1000]).unwrap();
            let mut entry = load::make(&store, 1).unwrap();
            entry.stdout = None;
            entry.outputs = [("out".to_owned(), Artifact::File(blob))]
                .into_iter()
                .collect();
            entry.made_by.node = n.to_string();
            (load::action(n), entry)
        };
        store.commit((0..4).map(old).collect()).unwrap();
    }
    let options = dagrun_store::GcOptions {
        max_bytes: Some(1500),
        grace: Duration::ZERO,
        dry_run: true,
        ..Default::default()
    };
    let store = open(&root);
    let before = store.stat().unwrap();
    let report = store.gc(&options).unwrap();
    assert_eq!(store.stat().unwrap(), before);
    assert_eq!(report.kept_bytes, 1000);
    assert_eq!(report.rows.len(), 3);
    assert!(
        report
            .rows
            .iter()
            .all(|row| row.run == "load" && !row.entry)
    );
    let report = store
        .gc(&dagrun_store::GcOptions {
            dry_run: false,
            ..options
        })
        .unwrap();
    assert_eq!((report.kept_blobs, report.entries), (1, 0));
    let after = store.stat().unwrap();
    assert_eq!(
        (after.blobs, after.entries),
        (1, 4),
        "entries outlive blobs"
    );
}

fn no_temporary_files(root: &Path) -> bool {
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if entry.file_name().to_str().unwrap().starts_with(".tmp-") {
                return false;
            }
        }
    }
    true
}

/// Several processes put, commit and read at once; all results are there afterwards.
#[test]
fn several_processes_at_once() {
    let folder = scratch();
    let root = folder.path().join("store");
    let program = load_program();
    let children: Vec<_> = (0..4)
        .map(|n: u32| {
            Command::new(&program)
                .arg(&root)
                // Half of what each makes, another makes as well.
                .args(["60", &(n * 30).to_string()])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{printed}");
    }
    check::assert_survived(&root, &(0..150).collect::<Vec<_>>());
    let report = open(&root).verify(false).unwrap();
    assert!(report.is_sound() && report.missing.is_empty(), "{report:?}");
}

/// Many short processes, whose segments are merged all the time: whoever looks finds every acknowledged result.
#[test]
fn merging_while_others_read_and_write() {
    let folder = scratch();
    let root = folder.path().join("store");
    let program = load_program();
    let reader = open(&root);
    let acked = std::sync::Mutex::new(Vec::new());
    let running = std::sync::atomic::AtomicUsize::new(3);
    std::thread::scope(|scope| {
        for thread in 0..3_u32 {
            let (root, program, acked, running) = (&root, &program, &acked, &running);
            scope.spawn(move || {
                for session in 0..20 {
                    let first = (thread * 20 + session) * 3;
                    let output = Command::new(program)
                        .arg(root)
                        .args(["3", &first.to_string()])
                        .output()
                        .unwrap();
                    let mine = check::acks(&output.stdout);
                    assert_eq!(mine.len(), 3);
                    acked.lock().unwrap().extend(mine);
                }
                running.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            });
        }
        while running.load(std::sync::atomic::Ordering::Relaxed) > 0 {
            let known = acked.lock().unwrap().clone();
            let actions: Vec<_> = known.iter().map(|n| load::action(*n)).collect();
            for store in [&reader, &open(&root)] {
                store.refresh().unwrap();
                for (n, entry) in known.iter().zip(store.lookup(&actions).unwrap()) {
                    let entry = entry.unwrap_or_else(|| panic!("{n} is not found"));
                    assert_eq!(entry.made_by.node, n.to_string());
                }
            }
        }
    });
    let acked = acked.into_inner().unwrap();
    assert_eq!(acked.len(), 180);
    check::assert_survived(&root, &acked);
    let files = fs::read_dir(root.join("actions")).unwrap().count();
    assert!(files < 40, "segments were merged: {files} files");
    assert!(reader.take_warnings().is_empty());
}
