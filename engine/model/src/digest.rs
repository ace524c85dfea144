//! Digests and the hash that makes them.
//!
//! Everything that enters a key goes through [`ContentHash`], never through serde or `derive(Hash)`: the byte stream is a
//! promise that caches on disk depend on, and pinned test vectors hold it.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A BLAKE3 digest of 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of no bytes at all.
    pub fn empty() -> Self {
        Self::of(b"")
    }

    /// The digest of plain bytes, without a domain: the digest of a blob.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Its 64 hex digits, as ASCII.
    pub fn hex(&self) -> [u8; 64] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        text
    }

    /// The first 12 hex digits, for people.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }

    /// The first eight bytes as a number, for hash tables: a digest is already uniformly distributed.
    pub fn prefix(&self) -> u64 {
        u64::from_le_bytes(self.0[..8].try_into().expect("a digest has 32 bytes"))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

/// The text is not 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a digest: expected 64 hex digits")]
pub struct ParseDigestError;

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        blake3::Hash::from_hex(text)
            .map(|hash| Self(*hash.as_bytes()))
            .map_err(|_| ParseDigestError)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Bytes that are gathered before they are hashed: one chunk of BLAKE3. Most keys are shorter, and its state has 2 KB that
/// every move and clone of a hasher would copy.
const GATHERED: usize = 1024;

/// What [`ContentHash`] values are fed to: BLAKE3 over all their bytes.
#[derive(Clone, Debug)]
pub struct ContentHasher {
    /// At most [`GATHERED`] bytes that `state` has yet to hear of.
    bytes: Vec<u8>,
    /// There once more bytes came than are gathered.
    state: Option<Box<blake3::Hasher>>,
}

impl ContentHasher {
    /// Starts a hash in a domain, so that equal bytes of different meaning have different digests.
    ///
    /// The domain carries its version, such as `dagrun.node-key.v1`.
    pub fn new(domain: &str) -> Self {
        let mut hasher = Self {
            bytes: Vec::with_capacity(GATHERED / 4),
            state: None,
        };
        domain.content_hash(&mut hasher);
        hasher
    }

    /// Feeds raw bytes, without a length.
    pub fn update(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() > GATHERED {
            self.spill(bytes);
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    #[cold]
    fn spill(&mut self, bytes: &[u8]) {
        let state = self.state.get_or_insert_default();
        state.update(&self.bytes);
        self.bytes.clear();
        if bytes.len() > GATHERED {
            state.update(bytes);
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Hashes what was fed so far, once for all clones: for a hasher that many long streams begin with.
    pub fn settle(&mut self) {
        let state = self.state.get_or_insert_default();
        state.update(&self.bytes);
        self.bytes.clear();
    }

    /// Feeds a value and returns the hasher, for chains.
    pub fn with<T: ContentHash + ?Sized>(mut self, value: &T) -> Self {
        value.content_hash(&mut self);
        self
    }

    /// The digest of all that was fed.
    pub fn finish(&self) -> Digest {
        let hash = match &self.state {
            None => blake3::hash(&self.bytes),
            Some(state) => {
                let mut state = state.clone();
                state.update(&self.bytes);
                state.finalize()
            }
        };
        Digest(*hash.as_bytes())
    }
}

/// A value with a stable, unambiguous byte stream.
///
/// Integers are 64-bit little-endian; strings, bytes and lists are preceded by their length; options and enums by a tag
/// byte. Two different values of one type never give the same stream.
pub trait ContentHash {
    /// Feeds this value into `hasher`.
    fn content_hash(&self, hasher: &mut ContentHasher);
}

impl ContentHash for u64 {
    fn content_hash(&self, hasher: &mut ContentHasher) {
        hasher.update(&self.to_le_bytes());
    }
}

impl ContentHash for i64 {
    fn content_hash(&self, hasher: &mut ContentHasher) {
        hasher.update(&self.to_le_bytes());
    }
}

impl ContentHash for u32 {
    fn content_hash(&self, hasher: &mut ContentHasher) {
        u64::from(*self).content_hash(hasher);
    }
}

impl ContentHash for bool {
    fn content_hash(&self, hasher: &mut ContentHasher) {
        hasher.update(&[u8::from(*self)]);
    }
}

impl ContentHash for f64 {
    fn content_hash(&self, hasher: &mut ContentHasher) {
        hasher.update(&self.to_bits().to_le_bytes());
    }
}

impl ContentHash for str {
    fn content_hash(&self, hasher: &mut ContentHasher) {
        self.as_bytes().content_hash(hasher);
    }
}

impl ContentHash for String {
    fn content_hash(&self, hasher: &mut ContentHasher) {
        self.as_str().content_hash(hasher);
    }
}

impl ContentHash for [u8] {
    fn content_hash(&self, hasher: &mut ContentHasher) {
        (self.len() as u64).content_hash(hasher);
        hasher.update(self);
    }
}

impl ContentHash for Digest {
    fn content_hash(&self, hasher: &mut ContentHasher) {
        hasher.update(&self.0);
    }
}

impl<T: ContentHash> ContentHash for Vec<T> {
    fn content_hash(&self, hasher: &mut ContentHasher) {
        (self.len() as u64).content_hash(hasher);
        for item in self {
            item.content_hash(hasher);
        }
    }
}

impl<T: ContentHash> ContentHash for Option<T> {
    fn content_hash(&self, hasher: &mut ContentHasher) {
        match self {
            None => hasher.update(&[0]),
            Some(value) => {
                hasher.update(&[1]);
                value.content_hash(hasher);
            }
        }
    }
}

impl<A: ContentHash, B: ContentHash> ContentHash for (A, B) {
    fn content_hash(&self, hasher: &mut ContentHasher) {
        self.0.content_hash(hasher);
        self.1.content_hash(hasher);
    }
}

impl<T: ContentHash + ?Sized> ContentHash for &T {
    fn content_hash(&self, hasher: &mut ContentHasher) {
        (**self).content_hash(hasher);
    }
}

impl<T: ContentHash + ?Sized> ContentHash for Arc<T> {
    fn content_hash(&self, hasher: &mut ContentHasher) {
        (**self).content_hash(hasher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These digests are a promise: a change invalidates every cache and needs a new domain version.
    #[test]
    fn pinned_vectors() {
        let digest = ContentHasher::new("dagrun.test.v1")
            .with("text")
            .with(&7_u64)
            .with(&vec![true, false])
            .with(&Some(1.5_f64))
            .with(&None::<u64>)
            .finish();
        assert_eq!(
            digest.to_string(),
            "9b042d29fbc505070176ba5a164a660f7671efeee421d6c3db02721c09250369"
        );
    }

    /// However the bytes are cut, the digest is that of all of them.
    #[test]
    fn long_streams_are_hashed_like_short_ones() {
        let bytes: Vec<u8> = (0..10_000_u32).map(|i| (i % 251) as u8).collect();
        for step in [1, 7, 1016, 1023, 1024, 1025, 5000] {
            for len in [0, 1, 1015, 1016, 1017, 2040, 4096, 10_000] {
                let mut hasher = ContentHasher::new("");
                for part in bytes[..len].chunks(step) {
                    hasher.update(part);
                }
                let mut all = vec![0; 8];
                all.extend_from_slice(&bytes[..len]);
                assert_eq!(hasher.finish(), Digest::of(&all), "{len} by {step}");
                hasher.settle();
                assert_eq!(hasher.clone().finish(), hasher.finish());
                assert_eq!(hasher.finish(), Digest::of(&all), "{len} by {step}");
            }
        }
    }

    #[test]
    fn digests_round_trip_through_text() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(digest.to_string().as_bytes(), digest.hex());
        assert_eq!("abc".parse::<Digest>(), Err(ParseDigestError));
        assert_eq!(digest.short().len(), 12);
    }

    #[test]
    fn lengths_keep_streams_apart() {
        let one = ContentHasher::new("d").with("ab").with("c").finish();
        let two = ContentHasher::new("d").with("a").with("bc").finish();
        assert_ne!(one, two);
    }
}
