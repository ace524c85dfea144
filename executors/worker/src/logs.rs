//! Captured logs on their way from the spawner into the store.

use std::{fs, io, path::Path};

use dagrun_model::LogRef;
use dagrun_store::{PutMode, Store, StoreError};

use crate::spawner::wire::{Log, LogFile};

/// Bytes of the tail that go into messages.
const TAIL: usize = 4 << 10;

/// The kept bytes in order.
pub(crate) fn read(log: &Log) -> io::Result<Vec<u8>> {
    let Some(file) = &log.file else {
        return Ok(log.inline.clone());
    };
    let bytes = fs::read(&file.path)?;
    Ok(in_order(bytes, file))
}

/// Turns the ring behind the head so that its oldest byte comes first.
fn in_order(mut bytes: Vec<u8>, file: &LogFile) -> Vec<u8> {
    let (head, start) = (file.head as usize, file.start as usize);
    if let Some(ring) = bytes.get_mut(head..)
        && start <= ring.len()
    {
        ring.rotate_left(start);
    }
    bytes
}

/// Puts a log into the store; `None` where nothing was written.
pub(crate) fn store(store: &Store, log: &Log) -> Result<Option<LogRef>, StoreError> {
    if log.total == 0 {
        return Ok(None);
    }
    let Some(file) = &log.file else {
        return Ok(Some(LogRef {
            blob: store.put_bytes(&log.inline)?,
            total: log.total,
            tail: tail(&log.inline),
        }));
    };
    let path = Path::new(&file.path);
    let bytes = read(log).map_err(|source| StoreError::Io {
        op: "read",
        path: path.into(),
        source,
    })?;
    // Only a ring that went round needs to be written anew.
    let blob = if file.start == 0 {
        store.put_file(path, PutMode::Move)?
    } else {
        store.put_bytes(&bytes)?
    };
    let _ = fs::remove_file(path);
    Ok(Some(LogRef {
        blob,
        total: log.total,
        tail: tail(&bytes),
    }))
}

/// The last lines, whole where that leaves anything.
fn tail(bytes: &[u8]) -> String {
    let mut last = &bytes[bytes.len().saturating_sub(TAIL)..];
    if last.len() < bytes.len()
        && let Some(end) = last[..last.len() - 1].iter().position(|b| *b == b'\n')
    {
        last = &last[end + 1..];
    }
    let mut text = String::from_utf8_lossy(last).into_owned();
    // Replacement characters are longer than what they replace.
    let mut cut = text.len().saturating_sub(TAIL);
    while !text.is_char_boundary(cut) {
        cut += 1;
    }
    text.drain(..cut);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_lines_and_bounded() {
        assert_eq!(tail(b"a\nb\n"), "a\nb\n");
        let long = "0123456789\n".repeat(1000);
        let got = tail(long.as_bytes());
        assert!(got.len() <= TAIL && got.starts_with("0123") && got.ends_with("9\n"));
        assert!(tail(&[0xff; 10_000]).len() <= TAIL);
        assert_eq!(tail(&[b'x'; 10_000]).len(), TAIL);
    }
}
