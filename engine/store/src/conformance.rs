//! What every store has to promise, as one suite: a new backend runs it and has to pass.
//!
//! The local [`Store`] runs it in this crate's tests. Checks panic with what was broken.

use dagrun_model::{ActionDigest, Artifact, BlobRef, Digest};

use crate::{ActionEntry, CommitReport, MadeBy, Store, StoreError};

/// The part of a store that every backend has.
pub trait Backend {
    /// Puts bytes; see [`Store::put_bytes`].
    ///
    /// # Errors
    /// When they cannot be stored.
    fn put(&self, bytes: &[u8]) -> Result<BlobRef, StoreError>;
    /// Reads verified bytes; see [`Store::read`].
    ///
    /// # Errors
    /// When they cannot be had.
    fn get(&self, digest: &Digest) -> Result<Vec<u8>, StoreError>;
    /// Whether a blob is there; see [`Store::contains`].
    fn has(&self, digest: &Digest) -> bool;
    /// Makes results durable; see [`Store::commit`].
    ///
    /// # Errors
    /// When they cannot be.
    fn commit(&self, entries: Vec<(ActionDigest, ActionEntry)>)
    -> Result<CommitReport, StoreError>;
    /// Looks up actions after looking for what others have committed; see [`Store::lookup`].
    ///
    /// # Errors
    /// When the cache cannot be read.
    fn find(&self, actions: &[ActionDigest]) -> Result<Vec<Option<ActionEntry>>, StoreError>;
}

impl Backend for Store {
    fn put(&self, bytes: &[u8]) -> Result<BlobRef, StoreError> {
        self.put_bytes(bytes)
    }

    fn get(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        self.read(digest)
    }

    fn has(&self, digest: &Digest) -> bool {
        self.contains(digest)
    }

    fn commit(
        &self,
        entries: Vec<(ActionDigest, ActionEntry)>,
    ) -> Result<CommitReport, StoreError> {
        Store::commit(self, entries)
    }

    fn find(&self, actions: &[ActionDigest]) -> Result<Vec<Option<ActionEntry>>, StoreError> {
        self.refresh()?;
        self.lookup(actions)
    }
}

/// Opens a store by name: an empty one at first, the same one again for the same name.
pub type Open<'a> = &'a dyn Fn(&str) -> Box<dyn Backend>;

/// Runs the whole suite.
///
/// # Panics
/// When a promise is broken.
pub fn run(open: Open<'_>) {
    run_with(open, 300);
}

/// Likewise, with `many` entries from each of twelve sessions where many are meant: for backends on which each costs a request.
///
/// # Panics
/// When a promise is broken.
pub fn run_with(open: Open<'_>, many: u64) {
    blobs_are_what_was_put(open("blobs"));
    blobs_that_were_not_put_are_missing(open("missing"));
    entries_are_what_was_committed(open("entries"), &|| open("entries"));
    entries_need_their_blobs(open("needs"));
    the_first_result_holds(open("first"), &|| open("first"));
    many_entries_are_found(open("many"), &|| open("many"), many);
}

fn must<T>(what: &str, result: Result<T, StoreError>) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error}"))
}

fn action(n: u64) -> ActionDigest {
    Digest::of(&n.to_le_bytes())
}

fn entry(node: &str, blob: BlobRef) -> ActionEntry {
    ActionEntry {
        outputs: [("out".to_owned(), Artifact::File(blob))]
            .into_iter()
            .collect(),
        stdout: None,
        stderr: None,
        phases: dagrun_model::Phases::default(),
        usage: dagrun_model::Usage::default(),
        made_by: MadeBy {
            run: "run".into(),
            node: node.into(),
            host: "host".into(),
            time_ms: 1,
        },
    }
}

/// Bytes of every size come back, and twice the same bytes are one blob.
///
/// # Panics
/// When they do not.
pub fn blobs_are_what_was_put(store: Box<dyn Backend>) {
    for size in [0, 1, 4095, 4096, 70_000, 3_000_000] {
        let bytes: Vec<u8> = (0..size).map(|n: u32| (n % 251) as u8).collect();
        let blob = must("put", store.put(&bytes));
        assert_eq!(blob.digest, Digest::of(&bytes), "the digest is BLAKE3's");
        assert_eq!(blob.size, bytes.len() as u64);
        assert!(store.has(&blob.digest), "a blob is visible at once");
        assert_eq!(must("get", store.get(&blob.digest)), bytes);
        assert_eq!(must("put again", store.put(&bytes)), blob);
    }
}

/// A blob that nobody put is missing, which is told apart from other errors.
///
/// # Panics
/// When it is not.
pub fn blobs_that_were_not_put_are_missing(store: Box<dyn Backend>) {
    let digest = Digest::of(b"never put");
    assert!(!store.has(&digest));
    let error = store.get(&digest).expect_err("nobody put it");
    assert!(
        matches!(error, StoreError::Missing { digest: named } if named == digest),
        "{error}"
    );
}

/// An entry comes back as it was, in the order that was asked for, here and after reopening.
///
/// # Panics
/// When it does not.
pub fn entries_are_what_was_committed(
    store: Box<dyn Backend>,
    again: &dyn Fn() -> Box<dyn Backend>,
) {
    let blob = must("put", store.put(b"out"));
    let (one, two) = (entry("one", blob), entry("two", blob));
    let entries = vec![(action(1), one.clone()), (action(2), two.clone())];
    assert_eq!(
        must("commit", store.commit(entries)),
        CommitReport::default()
    );
    let expected = [Some(two), None, Some(one)];
    let wanted = [action(2), action(3), action(1)];
    let other = again();
    assert_eq!(must("find", store.find(&wanted)), expected);
    assert_eq!(must("find from another", other.find(&wanted)), expected);
    drop((store, other));
    assert_eq!(
        must("find after reopening", again().find(&wanted)),
        expected
    );
}

/// An entry without its blobs is refused as a whole.
///
/// # Panics
/// When it is not.
pub fn entries_need_their_blobs(store: Box<dyn Backend>) {
    let gone = BlobRef {
        digest: Digest::of(b"gone"),
        size: 4,
        executable: false,
    };
    let there = must("put", store.put(b"there"));
    let entries = vec![
        (action(1), entry("there", there)),
        (action(2), entry("gone", gone)),
    ];
    let error = store.commit(entries).expect_err("a blob is missing");
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    assert_eq!(
        must("find", store.find(&[action(1), action(2)])),
        [None, None]
    );
}

/// Of two results of one action the first holds, and the difference is reported to the second committer.
///
/// # Panics
/// When it does not.
pub fn the_first_result_holds(store: Box<dyn Backend>, again: &dyn Fn() -> Box<dyn Backend>) {
    let first = entry("first", must("put", store.put(b"first")));
    must("commit", store.commit(vec![(action(1), first.clone())]));
    let other = again();
    let second = entry("second", must("put", other.put(b"second")));
    let report = must("commit", other.commit(vec![(action(1), second.clone())]));
    assert_eq!(report.differing.len(), 1);
    assert_eq!(
        (&report.differing[0].kept, &report.differing[0].other),
        (&first, &second)
    );
    let report = must("commit", other.commit(vec![(action(1), first.clone())]));
    assert!(report.differing.is_empty(), "equal results do not differ");
    for store in [store, other, again()] {
        assert_eq!(
            must("find", store.find(&[action(1)])),
            [Some(first.clone())]
        );
    }
}

/// Many entries from several sessions are all found, and no others.
///
/// # Panics
/// When they are not.
pub fn many_entries_are_found(
    store: Box<dyn Backend>,
    again: &dyn Fn() -> Box<dyn Backend>,
    many: u64,
) {
    drop(store);
    for session in 0..12 {
        let store = again();
        let blob = must("put", store.put(b"the same"));
        let entries = (0..many).map(|n| {
            let n = session * many + n;
            (action(n), entry(&n.to_string(), blob))
        });
        must("commit", store.commit(entries.collect()));
    }
    let store = again();
    let wanted: Vec<_> = (0..13 * many).map(action).collect();
    for (n, found) in must("find", store.find(&wanted)).into_iter().enumerate() {
        let node = found.map(|entry| entry.made_by.node);
        assert_eq!(node, ((n as u64) < 12 * many).then(|| n.to_string()));
    }
}
