//! Checks what a load program has left behind.

use dagrun_model::Artifact;
use dagrun_store::Store;

use crate::load::{action, content};

/// The numbers that a load program acknowledged.
pub(crate) fn acks(printed: &[u8]) -> Vec<u32> {
    String::from_utf8_lossy(printed)
        .lines()
        .filter_map(|line| line.strip_prefix("ack ")?.parse().ok())
        .collect()
}

/// Every acknowledged result is there with the right bytes, and nothing else is wrong.
pub(crate) fn assert_survived(root: &std::path::Path, acked: &[u32]) {
    let store = Store::open(root, Default::default()).expect("the store opens");
    let actions: Vec<_> = acked.iter().map(|n| action(*n)).collect();
    let found = store.lookup(&actions).expect("the cache is readable");
    for (n, entry) in acked.iter().zip(found) {
        let entry = entry.unwrap_or_else(|| panic!("the entry of acknowledged {n} is lost"));
        let out = entry.outputs["out"].blob_digest().expect("a file");
        assert_eq!(store.read(&out).expect("its blob is there"), content(*n));
        let log = entry.stdout.expect("it has a log").blob.digest;
        assert_eq!(
            store.read(&log).expect("its log is there"),
            format!("log {n}\n").as_bytes()
        );
        if let Some(Artifact::Tree { digest, .. }) = entry.outputs.get("tree") {
            let members = store.read_tree(digest).expect("its tree is there");
            let dagrun_store::TreeKind::File(member) = &members[1].kind else {
                panic!("{members:?}");
            };
            let bytes = store.read(&member.digest).expect("its member is there");
            assert_eq!(bytes, format!("member {n}").as_bytes());
        }
    }
    // What was not acknowledged may be there or not, but never half.
    let report = store.verify(false).expect("the store is readable");
    assert!(report.damaged.is_empty(), "{report:?}");
}
