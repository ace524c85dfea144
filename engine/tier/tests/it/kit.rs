//! Stores with a shared cache behind them.

use std::{path::PathBuf, sync::Arc, time::Duration};

use dagrun_model::{ActionDigest, Artifact, BlobRef, Digest, LogRef, Phases, Usage};
use dagrun_store::{
    ActionEntry, CommitReport, MadeBy, Store, StoreError, StoreOptions, Tier, conformance::Backend,
};
use dagrun_testkit::{AZURITE_ACCOUNT, BUCKET};
use dagrun_tier::{CacheOptions, Location, PublicKey, SharedCache, SigningKey};
use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, RetryConfig, aws::AmazonS3Builder,
    azure::MicrosoftAzureBuilder, path::Path,
};

/// Where the cache of a test is.
#[derive(Clone)]
pub(crate) enum Place {
    Folder(PathBuf),
    /// An endpoint of S3 with a bucket that is there, and a prefix.
    S3(String, String),
    /// An endpoint of Azurite with a container that is there, and a prefix.
    Azure(String, String),
}

/// How a test uses it.
pub(crate) struct How {
    pub(crate) write: bool,
    pub(crate) trust: Vec<PublicKey>,
    pub(crate) key: Option<SigningKey>,
    pub(crate) patience: Duration,
}

impl Default for How {
    fn default() -> Self {
        Self {
            write: true,
            trust: Vec::new(),
            key: None,
            patience: Duration::from_secs(20),
        }
    }
}

pub(crate) fn reader() -> How {
    How {
        write: false,
        ..How::default()
    }
}

/// A local store of its own with the shared cache behind it: a machine.
pub(crate) struct Machine {
    pub(crate) store: Store,
    pub(crate) shared: Arc<SharedCache>,
    pub(crate) folder: tempfile::TempDir,
}

pub(crate) fn machine(place: &Place, how: How) -> Machine {
    let folder = dagrun_testkit::scratch();
    let store = Store::open(&folder.path().join("store"), StoreOptions::default()).unwrap();
    let shared = Arc::new(open(place, how, &store));
    shared.attach();
    Machine {
        store,
        shared,
        folder,
    }
}

pub(crate) fn open(place: &Place, how: How, store: &Store) -> SharedCache {
    let options = |location: &str| CacheOptions {
        location: Location::parse(location).unwrap(),
        write: how.write,
        trust: how.trust,
        key: how.key,
        patience: how.patience,
    };
    match place {
        Place::Folder(path) => {
            let location = format!("file://{}", path.display());
            SharedCache::open(options(&location), store.clone()).unwrap()
        }
        Place::S3(endpoint, prefix) => SharedCache::over(
            s3(endpoint),
            Path::from(prefix.as_str()),
            options(&format!("s3://{BUCKET}/{prefix}")),
            store.clone(),
        )
        .unwrap(),
        Place::Azure(endpoint, prefix) => SharedCache::over(
            azure(endpoint),
            Path::from(prefix.as_str()),
            options(&format!("az://{BUCKET}/{prefix}")),
            store.clone(),
        )
        .unwrap(),
    }
}

/// A client of a bucket.
pub(crate) fn s3(endpoint: &str) -> Arc<dyn ObjectStore> {
    let (options, retry) = plain_and_once();
    let client = AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_bucket_name(BUCKET)
        .with_region("us-east-1")
        .with_access_key_id("test")
        .with_secret_access_key("test")
        .with_client_options(options)
        .with_retry(retry)
        .build();
    Arc::new(client.unwrap())
}

/// A client of a container.
fn azure(endpoint: &str) -> Arc<dyn ObjectStore> {
    let (options, retry) = plain_and_once();
    let (account, key) = AZURITE_ACCOUNT;
    let client = MicrosoftAzureBuilder::new()
        .with_endpoint(format!("{endpoint}/{account}"))
        .with_container_name(BUCKET)
        .with_account(account)
        .with_access_key(key)
        .with_client_options(options)
        .with_retry(retry)
        .build();
    Arc::new(client.unwrap())
}

/// Without TLS, and tried again by nobody but the shared cache itself.
fn plain_and_once() -> (ClientOptions, RetryConfig) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = ClientOptions::new()
        .with_allow_http(true)
        .with_timeout_disabled();
    let retry = RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 0,
        retry_timeout: Duration::from_secs(1),
    };
    (options, retry)
}

impl Machine {
    /// Makes the result of an action, commits it here and uploads it.
    pub(crate) fn make(&self, n: u64, text: &[u8]) -> ActionEntry {
        let blob = self.store.put_bytes(text).unwrap();
        let log = self.store.put_bytes(b"a word of the node\n").unwrap();
        let mut entry = entry("node", &[("out", Artifact::File(blob))]);
        entry.stdout = Some(LogRef {
            blob: log,
            total: log.size,
            tail: "a word of the node\n".into(),
        });
        self.commit_and_offer(n, entry.clone());
        entry
    }

    pub(crate) fn commit_and_offer(&self, n: u64, entry: ActionEntry) {
        self.store.commit(vec![(action(n), entry)]).unwrap();
        self.shared.offer(vec![action(n)]);
        self.drain();
    }

    pub(crate) fn drain(&self) {
        let left = self.shared.drain(Duration::from_secs(60), &mut |_| true);
        assert_eq!(left.results, 0, "{:?}", self.warnings());
    }

    /// Looks for an action here, then in the shared cache.
    pub(crate) fn find(&self, n: u64) -> Option<ActionEntry> {
        let tier: &dyn Tier = &*self.shared;
        tier.find_now(vec![action(n)]);
        self.store.lookup(&[action(n)]).unwrap().pop().unwrap()
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.shared.take_warnings()
    }
}

pub(crate) fn action(n: u64) -> ActionDigest {
    Digest::of(&n.to_le_bytes())
}

pub(crate) fn blob(text: &[u8]) -> BlobRef {
    BlobRef {
        digest: Digest::of(text),
        size: text.len() as u64,
        executable: false,
    }
}

pub(crate) fn entry(node: &str, outputs: &[(&str, Artifact)]) -> ActionEntry {
    ActionEntry {
        outputs: outputs
            .iter()
            .map(|(name, artifact)| ((*name).to_owned(), artifact.clone()))
            .collect(),
        stdout: None,
        stderr: None,
        phases: Phases::default(),
        usage: Usage::default(),
        made_by: MadeBy {
            run: "run".into(),
            node: node.into(),
            host: format!("host-of-{node}"),
            time_ms: 1,
        },
    }
}

pub(crate) fn key() -> SigningKey {
    let folder = dagrun_testkit::scratch();
    SigningKey::generate(folder.path()).unwrap();
    let text = std::fs::read_to_string(folder.path().join("cache.key")).unwrap();
    SigningKey::from_text(&text).unwrap()
}

/// A machine as a backend of the suite: what it commits goes to the shared cache, what it lacks comes from there.
impl Backend for Machine {
    fn put(&self, bytes: &[u8]) -> Result<BlobRef, StoreError> {
        self.store.put_bytes(bytes)
    }

    fn get(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        self.store.read(digest)
    }

    fn has(&self, digest: &Digest) -> bool {
        self.store.contains(digest)
    }

    fn commit(
        &self,
        entries: Vec<(ActionDigest, ActionEntry)>,
    ) -> Result<CommitReport, StoreError> {
        let actions: Vec<_> = entries.iter().map(|(action, _)| *action).collect();
        let tier: &dyn Tier = &*self.shared;
        tier.find_now(actions.clone());
        let report = self.store.commit(entries)?;
        self.shared.offer(actions);
        self.drain();
        Ok(report)
    }

    fn find(&self, actions: &[ActionDigest]) -> Result<Vec<Option<ActionEntry>>, StoreError> {
        let tier: &dyn Tier = &*self.shared;
        tier.find_now(actions.to_vec());
        self.store.lookup(actions)
    }
}
