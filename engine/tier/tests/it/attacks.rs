//! A bucket that somebody else writes to: wrong bytes, wrong entries, other signatures, replays, floods.

use std::{fs, path::PathBuf};

use dagrun_model::Artifact;
use dagrun_store::StoreError;
use dagrun_tier::{PublicKey, SigningKey};

use crate::kit::{How, Machine, Place, action, blob, entry, key, machine, reader};

struct Bucket {
    _folder: tempfile::TempDir,
    root: PathBuf,
}

impl Bucket {
    fn new() -> Self {
        let folder = dagrun_testkit::scratch();
        let root = folder.path().join("shared");
        Self {
            _folder: folder,
            root,
        }
    }

    fn place(&self) -> Place {
        Place::Folder(self.root.clone())
    }

    fn blob(&self, text: &[u8]) -> PathBuf {
        let hex = blob(text).digest.to_string();
        self.root.join("blobs").join(&hex[..2]).join(&hex[2..])
    }

    fn action(&self, n: u64) -> PathBuf {
        let hex = action(n).to_string();
        self.root.join("actions").join(&hex[..2]).join(&hex[2..])
    }

    /// A writer that signs.
    fn signer(&self, key: SigningKey) -> Machine {
        let how = How {
            key: Some(key),
            ..How::default()
        };
        machine(&self.place(), how)
    }

    /// A reader that trusts.
    fn truster(&self, trust: &[PublicKey]) -> Machine {
        let how = How {
            trust: trust.to_vec(),
            ..reader()
        };
        machine(&self.place(), how)
    }
}

#[test]
fn blobs_with_other_bytes_are_missing_and_are_told_once() {
    let bucket = Bucket::new();
    let maker = machine(&bucket.place(), How::default());
    maker.make(1, b"right 1");
    maker.make(2, b"right 2");
    fs::write(bucket.blob(b"right 1"), b"wrong 1").unwrap();
    fs::write(bucket.blob(b"right 2"), b"of another length").unwrap();

    let reader = machine(&bucket.place(), reader());
    for (n, text) in [(1, b"right 1"), (2, b"right 2")] {
        assert!(reader.find(n).is_some());
        let error = reader.store.read(&blob(text).digest).unwrap_err();
        assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    }
    assert_eq!(
        reader.shared.traffic().wrong_blobs,
        4,
        "each is fetched once more"
    );
    let warnings = reader.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("other bytes than their digests say"));
    assert!(
        reader.store.stat().unwrap().quarantined >= 1,
        "it is kept as evidence"
    );
    // Known to be wrong, it is not asked for again.
    let asked = reader.shared.traffic().wrong_blobs;
    assert!(reader.store.read(&blob(b"right 1").digest).is_err());
    assert_eq!(reader.shared.traffic().wrong_blobs, asked);
}

#[test]
fn a_writer_heals_a_blob_that_it_saw_to_be_wrong() {
    let bucket = Bucket::new();
    machine(&bucket.place(), How::default()).make(1, b"right");
    fs::write(bucket.blob(b"right"), b"wrong").unwrap();

    let writer = machine(&bucket.place(), How::default());
    assert!(writer.find(1).is_some());
    assert!(writer.store.read(&blob(b"right").digest).is_err());
    // The node ran again.
    writer.make(1, b"right");
    assert_eq!(fs::read(bucket.blob(b"right")).unwrap(), b"right");
    let reader = machine(&bucket.place(), reader());
    assert_eq!(reader.store.read(&blob(b"right").digest).unwrap(), b"right");
}

#[test]
fn a_blob_without_end_is_not_received_beyond_its_size() {
    let bucket = Bucket::new();
    machine(&bucket.place(), How::default()).make(1, b"small");
    let huge = fs::File::create(bucket.blob(b"small")).unwrap();
    huge.set_len(1 << 40).unwrap();
    let reader = machine(&bucket.place(), reader());
    assert!(reader.find(1).is_some());
    assert!(reader.store.read(&blob(b"small").digest).is_err());
    assert_eq!(reader.shared.traffic().bytes_in, 0);
}

#[test]
fn only_what_trusted_keys_signed_counts() {
    let bucket = Bucket::new();
    let (ours, theirs) = (key(), key());
    let trust = [ours.public()];
    let mine = bucket.signer(ours);
    mine.make(1, b"ours");
    bucket.signer(theirs).make(2, b"theirs");
    machine(&bucket.place(), How::default()).make(3, b"nobody's");

    let reader = bucket.truster(&trust);
    assert!(reader.find(1).is_some());
    assert_eq!((reader.find(2), reader.find(3)), (None, None));
    assert_eq!(reader.shared.traffic().wrong_entries, 2);
    let warnings = reader.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("not signed by a key that is trusted"));
    assert_eq!(reader.shared.stat().unwrap().trusted, 1);

    let anybody = machine(&bucket.place(), crate::kit::reader());
    assert!((1..=3).all(|n| anybody.find(n).is_some()));
}

#[test]
fn entries_are_worth_nothing_under_another_action_or_signer() {
    let bucket = Bucket::new();
    let (ours, theirs) = (key(), key());
    let trust = [ours.public()];
    let our_name = ours.public().to_string().replace("ed25519:", "");
    let their_name = theirs.public().to_string().replace("ed25519:", "");
    let maker = bucket.signer(ours);
    maker.make(1, b"good");
    bucket.signer(theirs).make(2, b"evil");

    // Replayed: our own entry of another action.
    let of_one = fs::read(bucket.action(1).join(&our_name)).unwrap();
    fs::create_dir_all(bucket.action(3)).unwrap();
    fs::write(bucket.action(3).join(&our_name), &of_one).unwrap();
    // Theirs under our name.
    let evil = fs::read(bucket.action(2).join(&their_name)).unwrap();
    fs::write(bucket.action(2).join(&our_name), &evil).unwrap();
    // Ours with other bytes.
    let mut bent = of_one;
    let at = bent.len() / 3;
    bent[at] ^= 1;
    fs::create_dir_all(bucket.action(4)).unwrap();
    fs::write(bucket.action(4).join(&our_name), &bent).unwrap();
    // Nothing at all, and too much.
    for n in [5, 6] {
        fs::create_dir_all(bucket.action(n)).unwrap();
    }
    fs::write(bucket.action(5).join(&our_name), b"").unwrap();
    let huge = fs::File::create(bucket.action(6).join(&our_name)).unwrap();
    huge.set_len(1 << 40).unwrap();

    let reader = bucket.truster(&trust);
    assert!(reader.find(1).is_some());
    for n in 2..=6 {
        assert_eq!(reader.find(n), None, "action {n}");
    }
    let warnings = reader.warnings().join("\n");
    for word in [
        "of another action",
        "signed wrongly",
        "not signed by",
        "damaged",
    ] {
        assert!(warnings.contains(word), "{word}: {warnings}");
    }
    // Who has the key puts right what stands under its name.
    for n in [3, 4, 5, 6] {
        maker.make(n, b"good");
    }
    let reader = bucket.truster(&trust);
    assert!((3..=6).all(|n| reader.find(n).is_some()));
}

#[test]
fn a_flood_of_entries_does_not_bury_the_trusted_one() {
    let bucket = Bucket::new();
    let ours = key();
    let trust = [ours.public()];
    bucket.signer(ours).make(1, b"good");
    for n in 0..500 {
        fs::write(bucket.action(1).join(format!("{n:064x}")), b"flood").unwrap();
    }
    let reader = bucket.truster(&trust);
    assert!(reader.find(1).is_some());
    assert!(reader.warnings().is_empty());
    // Who trusts everybody looks at a few and goes on.
    let anybody = machine(&bucket.place(), crate::kit::reader());
    anybody.find(1);
    assert!(anybody.shared.traffic().wrong_entries <= 16);
    assert_eq!(anybody.warnings().len(), 1);
}

#[test]
fn two_results_of_one_action_are_an_alarm_that_names_both_makers() {
    let bucket = Bucket::new();
    let first = machine(&bucket.place(), How::default());
    let second = machine(&bucket.place(), How::default());
    let out = |machine: &Machine, node: &str| {
        let blob = machine.store.put_bytes(node.as_bytes()).unwrap();
        entry(node, &[("out", Artifact::File(blob))])
    };
    let one = out(&first, "one");
    first.commit_and_offer(1, one.clone());
    second.commit_and_offer(1, out(&second, "two"));
    let warnings = second.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for word in ["host-of-one", "host-of-two", "neither was overwritten"] {
        assert!(warnings[0].contains(word), "{word}: {warnings:?}");
    }
    let reader = machine(&bucket.place(), reader());
    assert_eq!(reader.find(1), Some(one), "the first one holds");
}

#[test]
fn two_writers_at_once_keep_one_result_and_one_of_them_hears_of_it() {
    let bucket = Bucket::new();
    let keys = [key(), key()];
    let machines = keys.map(|key| bucket.signer(key));
    std::thread::scope(|scope| {
        for (at, machine) in machines.iter().enumerate() {
            scope.spawn(move || {
                for n in 0..20 {
                    // Half of them differ.
                    let text = format!("{n} of {}", if n % 2 == 0 { at } else { 0 });
                    machine.make(n, text.as_bytes());
                }
            });
        }
    });
    // Ten differ: for each of them one machine at least was told. Each machine has at most 20 warnings.
    let told: usize = machines
        .iter()
        .map(|machine| machine.warnings().len())
        .sum();
    assert!(told >= 10, "{told}");
    let reader = machine(&bucket.place(), reader());
    for n in 0..20 {
        let entry = reader.find(n).unwrap();
        let out = entry.outputs["out"].blob_digest().unwrap();
        assert!(reader.store.read(&out).is_ok());
    }
}
