//! Who may vouch for entries: ed25519 keys, as texts and files.
//!
//! A public key is written `ed25519:` and 64 hexadecimal digits. A private key is a file that only its owner should read.
//! Knows nothing of entries: it signs and checks bytes.

use std::{fmt, fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path, str::FromStr};

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

/// The first line of a private key's file.
const HEADER: &str = "dagrun cache key 1";
/// Bytes of a signature.
pub(crate) const SIGNATURE: usize = 64;

/// A key that entries can be checked with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub(crate) [u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.trim()
            .strip_prefix("ed25519:")
            .and_then(from_hex)
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| {
                format!(
                    "`{text}` is no public key; write `ed25519:` and the 64 digits that `dagrun cache keygen` prints"
                )
            })
    }
}

impl PublicKey {
    /// The key as the name of an object.
    pub(crate) fn file_name(&self) -> String {
        hex(&self.0)
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(message, signature)
            .is_ok()
    }
}

/// A key that entries are signed with. Never shown.
pub struct SigningKey(Ed25519KeyPair);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}

impl SigningKey {
    /// Makes a new key: `cache.key`, which only its owner may read, and `cache.pub` in a folder that is made where it is not
    /// there. Never overwrites.
    ///
    /// # Errors
    /// When a file is there already or cannot be written.
    pub fn generate(folder: &Path) -> Result<PublicKey, String> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new())
            .map_err(|_| "the system gives no random numbers".to_owned())?;
        let key = Self::from_pkcs8(pkcs8.as_ref()).expect("a key that was just made is one");
        fs::create_dir_all(folder)
            .map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        let private = format!("{HEADER}\n{}\n", hex(pkcs8.as_ref()));
        write_new(&folder.join("cache.key"), 0o600, &private)?;
        let public = format!("{}\n", key.public());
        write_new(&folder.join("cache.pub"), 0o644, &public)?;
        Ok(key.public())
    }

    /// Reads a key from the text of its file.
    ///
    /// # Errors
    /// When the text is none. It is never part of the message.
    pub fn from_text(text: &str) -> Result<Self, String> {
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        match lines[..] {
            [HEADER, body] => from_hex(body).and_then(|bytes| Self::from_pkcs8(&bytes)),
            _ => None,
        }
        .ok_or_else(|| {
            format!("is no private key of a cache: its first line must be `{HEADER}`; make one with `dagrun cache keygen DIR`")
        })
    }

    fn from_pkcs8(bytes: &[u8]) -> Option<Self> {
        Ed25519KeyPair::from_pkcs8(bytes).ok().map(Self)
    }

    /// The key that checks what this one signs.
    pub fn public(&self) -> PublicKey {
        let bytes = self.0.public_key().as_ref();
        PublicKey(bytes.try_into().expect("ed25519 keys have 32 bytes"))
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE] {
        let signature = self.0.sign(message);
        signature
            .as_ref()
            .try_into()
            .expect("ed25519 signatures have 64 bytes")
    }
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), String> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => format!(
                "{} is there already: choose another folder, for entries that it signed are worth nothing without it",
                path.display()
            ),
            _ => format!("cannot write {}: {error}", path.display()),
        })?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_come_back_from_their_files_and_sign() {
        let folder = tempfile::tempdir().unwrap();
        let public = SigningKey::generate(&folder.path().join("keys")).unwrap();
        let path = folder.path().join("keys/cache.key");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let key = SigningKey::from_text(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(key.public(), public);
        let text = fs::read_to_string(folder.path().join("keys/cache.pub")).unwrap();
        assert_eq!(text.parse(), Ok(public));

        let signature = key.sign(b"entry");
        assert!(public.verifies(b"entry", &signature));
        assert!(!public.verifies(b"Entry", &signature));
        let other = SigningKey::generate(&folder.path().join("others")).unwrap();
        assert!(!other.verifies(b"entry", &signature));
        assert!(
            SigningKey::generate(&folder.path().join("keys")).is_err(),
            "no key is overwritten"
        );
    }

    #[test]
    fn what_is_no_key_is_refused_without_showing_it() {
        for text in ["", "ed25519:", "ed25519:00", "rsa:00", "ed25519:zz"] {
            assert!(text.parse::<PublicKey>().is_err(), "{text}");
        }
        for text in ["", "5ec2e7", "dagrun cache key 1\n5ec2e7\n"] {
            let error = SigningKey::from_text(text).unwrap_err();
            assert!(error.contains("keygen") && !error.contains("5ec2e7"));
        }
    }
}
