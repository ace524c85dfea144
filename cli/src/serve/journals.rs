//! The journals of one submission as one stream of records, read while they grow.
//!
//! A position names a journal and a byte in it, so that a reader goes on where it was without anybody remembering it.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use dagrun_events::journal::{self, HEADER_LEN};

/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;
/// Bits of a position that are bytes: journals stay far below a tebibyte.
const BYTES: u32 = 40;

/// Where a reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) journal: usize,
    pub(super) byte: u64,
}

impl From<u64> for Position {
    fn from(packed: u64) -> Self {
        Self {
            journal: (packed >> BYTES) as usize,
            byte: packed & ((1 << BYTES) - 1),
        }
    }
}

impl From<Position> for u64 {
    fn from(position: Position) -> Self {
        (position.journal as u64) << BYTES | position.byte
    }
}

/// The whole records of a journal from a byte on, and the byte after them. None where there is nothing new yet.
pub(super) fn read_some(path: &Path, byte: u64) -> io::Result<(Vec<Vec<u8>>, u64)> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), byte)),
        Err(error) => return Err(error),
    };
    let start = byte.max(HEADER_LEN as u64);
    let length = file.metadata()?.len();
    let mut piece = PIECE;
    if start >= length {
        return Ok((Vec::new(), start));
    }
    loop {
        let mut bytes = journal::header().to_vec();
        file.seek(SeekFrom::Start(start))?;
        file.by_ref().take(piece).read_to_end(&mut bytes)?;
        let decoded = journal::decode(&bytes);
        if let Some((at, last)) = decoded.records.last() {
            let end = (*at as usize + record_len(last)) as u64;
            let records = decoded.records.iter().map(|(_, it)| it.to_vec()).collect();
            return Ok((records, start + end - HEADER_LEN as u64));
        }
        if start + piece >= length {
            return Ok((Vec::new(), start));
        }
        // A record that is longer than a piece.
        piece *= 4;
    }
}

/// Bytes of a record with its head.
fn record_len(payload: &[u8]) -> usize {
    payload.len() + 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_once_each_while_the_journal_grows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.log");
        assert_eq!(read_some(&path, 0).unwrap(), (vec![], 0));
        let mut bytes = journal::header().to_vec();
        journal::encode(b"one", &mut bytes);
        journal::encode(b"two", &mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        let (records, at) = read_some(&path, 0).unwrap();
        assert_eq!(records, [b"one".to_vec(), b"two".to_vec()]);
        assert_eq!(at, bytes.len() as u64);

        // Half a record is not there yet.
        let whole = bytes.len();
        let long = vec![b'x'; 3 << 20];
        journal::encode(&long, &mut bytes);
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(read_some(&path, at).unwrap(), (vec![], whole as u64));
        std::fs::write(&path, &bytes).unwrap();
        let (records, end) = read_some(&path, at).unwrap();
        assert_eq!(records, [long]);
        assert_eq!(end, bytes.len() as u64);
        assert_eq!(read_some(&path, end).unwrap(), (vec![], end));
    }

    #[test]
    fn positions_are_numbers() {
        let position = Position {
            journal: 3,
            byte: 12_345,
        };
        assert_eq!(Position::from(u64::from(position)), position);
        assert_eq!(
            Position::from(0),
            Position {
                journal: 0,
                byte: 0
            }
        );
    }
}
