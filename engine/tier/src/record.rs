//! The bytes of an entry in a shared cache, and whether somebody vouches for them.
//!
//! ```text
//! "dagrun entry 1\n"   15 bytes
//! action digest        32 bytes
//! length               4 bytes, little-endian
//! entry                as the local action cache has it: outputs, logs, who made it and when
//! 0                    unsigned, or
//! 1, key, signature    1 + 32 + 64 bytes
//! ```
//! What is signed is everything before the last part, so an entry is worth nothing under another action.

use dagrun_model::{ActionDigest, Digest};
use dagrun_store::ActionEntry;

use crate::sign::{PublicKey, SIGNATURE, SigningKey};

const MAGIC: &[u8] = b"dagrun entry 1\n";
/// Objects larger than this are no entries: the local action cache takes 8 MiB.
pub(crate) const LARGEST: u64 = 9 << 20;

/// An entry that was read, and who signed it.
#[derive(Debug, PartialEq)]
pub(crate) struct Vouched {
    pub(crate) entry: ActionEntry,
    pub(crate) signer: Option<PublicKey>,
}

/// Why bytes are no entry that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// They are no entry of a known version.
    Malformed,
    /// They are the entry of another action.
    OtherAction,
    /// The signature is not of these bytes.
    BadSignature,
    /// Nobody vouches, or somebody who is not on the list.
    NotTrusted,
}

impl Flaw {
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Malformed => "damaged, or of another version",
            Self::OtherAction => "of another action",
            Self::BadSignature => "signed wrongly",
            Self::NotTrusted => "not signed by a key that is trusted",
        }
    }
}

/// The bytes of an entry, signed where there is a key.
pub(crate) fn encode(
    action: &ActionDigest,
    entry: &ActionEntry,
    key: Option<&SigningKey>,
) -> Vec<u8> {
    let entry = entry.to_bytes();
    let mut bytes = Vec::with_capacity(MAGIC.len() + entry.len() + 140);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&action.0);
    let length = u32::try_from(entry.len()).expect("entries have at most 8 MiB");
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&entry);
    match key {
        None => bytes.push(0),
        Some(key) => {
            let signature = key.sign(&bytes);
            bytes.push(1);
            bytes.extend_from_slice(&key.public().0);
            bytes.extend_from_slice(&signature);
        }
    }
    bytes
}

/// Reads an entry of `action`. With `trusted`, only what one of these keys signed counts.
pub(crate) fn decode(
    bytes: &[u8],
    action: &ActionDigest,
    trusted: &[PublicKey],
) -> Result<Vouched, Flaw> {
    let parts = split(bytes).ok_or(Flaw::Malformed)?;
    let signer = match parts.rest {
        [0] => None,
        [1, rest @ ..] if rest.len() == 32 + SIGNATURE => {
            let (key, signature) = rest.split_at(32);
            let key = PublicKey(key.try_into().expect("it was split at 32"));
            if !key.verifies(parts.signed, signature) {
                return Err(Flaw::BadSignature);
            }
            Some(key)
        }
        _ => return Err(Flaw::Malformed),
    };
    if parts.action != *action {
        return Err(Flaw::OtherAction);
    }
    if !trusted.is_empty() && !signer.is_some_and(|key| trusted.contains(&key)) {
        return Err(Flaw::NotTrusted);
    }
    let entry = ActionEntry::from_bytes(parts.entry).ok_or(Flaw::Malformed)?;
    Ok(Vouched { entry, signer })
}

/// An entry's bytes in parts.
struct Parts<'a> {
    action: ActionDigest,
    entry: &'a [u8],
    signed: &'a [u8],
    rest: &'a [u8],
}

fn split(bytes: &[u8]) -> Option<Parts<'_>> {
    let head = MAGIC.len() + 36;
    if !bytes.starts_with(MAGIC) || bytes.len() < head {
        return None;
    }
    let action = Digest(bytes[MAGIC.len()..MAGIC.len() + 32].try_into().ok()?);
    let length = u32::from_le_bytes(bytes[head - 4..head].try_into().ok()?) as usize;
    let end = head.checked_add(length)?;
    let entry = bytes.get(head..end)?;
    Some(Parts {
        action,
        entry,
        signed: &bytes[..end],
        rest: &bytes[end..],
    })
}

#[cfg(test)]
mod tests {
    use dagrun_model::{Artifact, Phases, Usage};
    use dagrun_store::MadeBy;

    use super::*;

    fn entry() -> ActionEntry {
        ActionEntry {
            outputs: [("out".to_owned(), Artifact::Absent)].into_iter().collect(),
            stdout: None,
            stderr: None,
            phases: Phases::default(),
            usage: Usage::default(),
            made_by: MadeBy {
                run: "r".into(),
                node: "n".into(),
                host: "h".into(),
                time_ms: 1,
            },
        }
    }

    fn key() -> SigningKey {
        let folder = tempfile::tempdir().unwrap();
        SigningKey::generate(folder.path()).unwrap();
        let text = std::fs::read_to_string(folder.path().join("cache.key")).unwrap();
        SigningKey::from_text(&text).unwrap()
    }

    #[test]
    fn who_is_trusted_decides() {
        let (action, other) = (Digest::of(b"a"), Digest::of(b"b"));
        let (ours, theirs) = (key(), key());
        let unsigned = encode(&action, &entry(), None);
        let signed = encode(&action, &entry(), Some(&ours));
        let foreign = encode(&action, &entry(), Some(&theirs));
        let trust = [ours.public()];
        let good = |signer| {
            Ok(Vouched {
                entry: entry(),
                signer,
            })
        };
        assert_eq!(decode(&signed, &action, &trust), good(Some(ours.public())));
        assert_eq!(decode(&unsigned, &action, &trust), Err(Flaw::NotTrusted));
        assert_eq!(decode(&foreign, &action, &trust), Err(Flaw::NotTrusted));
        // Replayed under another action it is nothing, signed or not.
        assert_eq!(decode(&signed, &other, &trust), Err(Flaw::OtherAction));
        assert_eq!(decode(&unsigned, &other, &[]), Err(Flaw::OtherAction));
        // Without a list everything whole counts.
        assert_eq!(decode(&unsigned, &action, &[]), good(None));
        assert_eq!(decode(&foreign, &action, &[]), good(Some(theirs.public())));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_signed_entry_is_noticed() {
        let action = Digest::of(b"a");
        let key = key();
        let bytes = encode(&action, &entry(), Some(&key));
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                assert!(decode(&bad, &action, &[]).is_err(), "byte {at} bit {bit}");
            }
            assert!(decode(&bytes[..at], &action, &[]).is_err(), "cut at {at}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert_eq!(decode(&longer, &action, &[]), Err(Flaw::Malformed));
    }

    #[test]
    fn a_signature_cannot_be_stripped_where_keys_are_trusted() {
        let action = Digest::of(b"a");
        let key = key();
        let mut bytes = encode(&action, &entry(), Some(&key));
        bytes.truncate(bytes.len() - 32 - SIGNATURE - 1);
        bytes.push(0);
        assert_eq!(
            decode(&bytes, &action, &[key.public()]),
            Err(Flaw::NotTrusted)
        );
    }
}
