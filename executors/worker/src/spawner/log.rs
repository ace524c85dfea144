//! Logs as bytes: secrets are masked, a bounded part is kept, everything is counted.
//!
//! Knows nothing of processes or pipes. Up to [`INLINE`] bytes stay in memory; beyond that a file holds the first half of the cap
//! and, behind it, a ring of the second half, so that no log needs more than its cap on disk and one buffer in memory.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
};

use super::wire::{Log, LogFile};

/// Logs up to this size travel inside messages and never touch the disk on their way.
pub(crate) const INLINE: usize = 16 << 10;

/// What replaces a secret.
const MASKED: &[u8] = b"***";

/// Takes the bytes of one stream.
pub(crate) struct Capture {
    path: String,
    cap: u64,
    total: u64,
    buffer: Vec<u8>,
    file: Option<File>,
    masker: Option<Masker>,
    error: Option<io::Error>,
}

impl Capture {
    /// A log that spills to `path` and keeps `cap` bytes.
    pub(crate) fn new(path: String, cap: u64, mask: &[String]) -> Self {
        Self {
            path,
            cap: cap.max(2),
            total: 0,
            buffer: Vec::new(),
            file: None,
            masker: Masker::new(mask),
            error: None,
        }
    }

    /// Takes bytes as they come.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        match self.masker.take() {
            None => self.keep(bytes),
            Some(mut masker) => {
                let clear = masker.push(bytes);
                self.keep(&clear);
                self.masker = Some(masker);
            }
        }
    }

    /// Ends the log. The error is the first one met while writing it; what could be kept is there all the same.
    pub(crate) fn finish(&mut self) -> (Log, Option<io::Error>) {
        if let Some(mut masker) = self.masker.take() {
            let rest = masker.finish();
            self.keep(&rest);
        }
        self.spill();
        let mut log = Log {
            total: self.total,
            ..Log::default()
        };
        if self.file.is_some() {
            log.file = Some(self.layout());
        } else {
            log.inline = std::mem::take(&mut self.buffer);
        }
        (log, self.error.take())
    }

    fn keep(&mut self, bytes: &[u8]) {
        let fits = self.buffer.len() + bytes.len() <= INLINE.min(self.cap as usize);
        if self.file.is_none() && fits {
            self.buffer.extend_from_slice(bytes);
            self.total += bytes.len() as u64;
            return;
        }
        if self.file.is_none() && self.error.is_none() {
            self.open();
        }
        self.spill();
        self.write(bytes);
    }

    fn open(&mut self) {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.path);
        match file {
            Ok(file) => self.file = Some(file),
            Err(error) => self.error = Some(error),
        }
    }

    fn spill(&mut self) {
        if self.file.is_some() && !self.buffer.is_empty() {
            let buffer = std::mem::take(&mut self.buffer);
            self.total -= buffer.len() as u64;
            self.write(&buffer);
        }
    }

    fn write(&mut self, mut bytes: &[u8]) {
        let (head, ring) = (self.cap / 2, self.cap - self.cap / 2);
        while !bytes.is_empty() {
            let (at, room) = if self.total < head {
                (self.total, head - self.total)
            } else {
                let offset = (self.total - head) % ring;
                (head + offset, ring - offset)
            };
            let (now, rest) = bytes.split_at(bytes.len().min(room as usize));
            if let (Some(file), None) = (&self.file, &self.error)
                && let Err(error) = file.write_all_at(now, at)
            {
                self.error = Some(error);
            }
            self.total += now.len() as u64;
            bytes = rest;
        }
    }

    fn layout(&self) -> LogFile {
        let (head, ring) = (self.cap / 2, self.cap - self.cap / 2);
        let tail = self.total.saturating_sub(head);
        LogFile {
            path: self.path.clone(),
            head: head.min(self.total),
            ring: tail.min(ring),
            start: if tail > ring { tail % ring } else { 0 },
        }
    }
}

/// Replaces exact values in a stream, also where a value is cut by the border of two chunks.
struct Masker {
    /// Longest first, so that a secret which begins with another is masked whole.
    secrets: Vec<Vec<u8>>,
    held: Vec<u8>,
}

impl Masker {
    fn new(mask: &[String]) -> Option<Self> {
        let mut secrets: Vec<Vec<u8>> = mask
            .iter()
            .flat_map(|value| [value.as_str(), value.trim_end_matches(['\n', '\r'])])
            .filter(|value| !value.is_empty())
            .map(|value| value.as_bytes().to_vec())
            .collect();
        secrets.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        secrets.dedup();
        (!secrets.is_empty()).then(|| Self {
            secrets,
            held: Vec::new(),
        })
    }

    fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        self.mask(false)
    }

    fn finish(&mut self) -> Vec<u8> {
        self.mask(true)
    }

    /// Gives what is decided; bytes that may be the beginning of a secret are held until more is known.
    fn mask(&mut self, last: bool) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        let mut out = Vec::with_capacity(held.len());
        let mut at = 0;
        while at < held.len() {
            let rest = &held[at..];
            if !last && self.may_grow(rest) {
                break;
            }
            match self.secrets.iter().find(|secret| rest.starts_with(secret)) {
                Some(secret) => {
                    out.extend_from_slice(MASKED);
                    at += secret.len();
                }
                None => {
                    out.push(rest[0]);
                    at += 1;
                }
            }
        }
        self.held = held[at..].to_vec();
        out
    }

    /// Whether more bytes could make a secret, or a longer one, out of the beginning of `rest`.
    fn may_grow(&self, rest: &[u8]) -> bool {
        self.secrets
            .iter()
            .any(|secret| secret.len() > rest.len() && secret.starts_with(rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(secrets: &[&str], chunks: &[&str]) -> String {
        let secrets: Vec<String> = secrets.iter().map(|s| (*s).into()).collect();
        let mut capture = Capture::new("/nonexistent".into(), 1000, &secrets);
        for chunk in chunks {
            capture.push(chunk.as_bytes());
        }
        let (log, error) = capture.finish();
        assert!(error.is_none());
        assert_eq!(log.total, log.inline.len() as u64);
        String::from_utf8(log.inline).expect("the tests are text")
    }

    #[test]
    fn secrets_are_masked_wherever_chunks_are_cut() {
        let text = "a hunter2 b hunter2hunter2 hunte r2";
        for cut in 0..=text.len() {
            let (one, two) = text.split_at(cut);
            assert_eq!(masked(&["hunter2"], &[one, two]), "a *** b ****** hunte r2");
        }
        assert_eq!(masked(&["ab", "abc"], &["xa", "b", "cx", "ab"]), "x***x***");
        assert_eq!(masked(&["key\n"], &["key!"]), "***!");
        assert_eq!(masked(&["", "aab"], &["aaab"]), "a***");
    }

    /// What a log of `total` bytes keeps, read as the worker reads it.
    fn kept(total: usize, cap: u64, chunk: usize) -> (Vec<u8>, Vec<u8>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder
            .path()
            .join("log")
            .to_str()
            .expect("UTF-8")
            .to_owned();
        let bytes: Vec<u8> = (0..total).map(|i| (i % 251) as u8).collect();
        let mut capture = Capture::new(path, cap, &[]);
        for part in bytes.chunks(chunk) {
            capture.push(part);
        }
        let (log, error) = capture.finish();
        assert!(error.is_none());
        assert_eq!(log.total, total as u64);
        (bytes, crate::logs::read(&log).expect("the log can be read"))
    }

    #[test]
    fn a_log_keeps_its_head_and_its_tail() {
        for (total, cap) in [(0, 10), (10, 10), (100_000, 200_000), (100_000, 100_000)] {
            let (bytes, got) = kept(total, cap, 7_000);
            assert!(bytes == got, "{total} of {cap}");
        }
        for (total, cap, chunk) in [
            (11, 10, 3),
            (100, 10, 1),
            (100_000, 40_000, 9_999),
            (99_999, 30_001, 65_536),
        ] {
            let (bytes, got) = kept(total, cap, chunk);
            let half = (cap / 2) as usize;
            assert_eq!(got.len() as u64, cap);
            assert!(got[..half] == bytes[..half], "head of {total} in {cap}");
            let tail = got.len() - half;
            assert!(
                got[half..] == bytes[total - tail..],
                "tail of {total} in {cap}"
            );
        }
    }

    #[test]
    fn a_full_disk_is_an_error_and_not_a_panic() {
        let mut capture = Capture::new("/dev/full".into(), 1 << 20, &[]);
        capture.push(&[b'x'; 100_000]);
        let (log, error) = capture.finish();
        assert_eq!(log.total, 100_000);
        assert_eq!(error.and_then(|e| e.raw_os_error()), Some(libc_enospc()));
    }

    fn libc_enospc() -> i32 {
        rustix::io::Errno::NOSPC.raw_os_error()
    }
}
