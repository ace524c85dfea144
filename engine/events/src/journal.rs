//! The record format of journals: bytes in, bytes out.
//!
//! A journal is a header of 16 bytes (magic, version, check-sum) and records `length u32 | crc u32 | payload`, all
//! little-endian. The check-sum covers the length and the payload. Length 0 is invalid, so that zeros are never a record.
//!
//! On reading, the first bad record ends the journal where nothing good follows it (a torn write). Where something good
//! follows, records in the middle were damaged, and nothing may be built on what is left.

/// The bytes of a header.
pub const HEADER_LEN: usize = 16;
/// The version of the record format.
pub const VERSION: u32 = 1;
/// The largest payload that is taken for one.
pub const MAX_PAYLOAD: usize = 1 << 30;
const MAGIC: [u8; 8] = *b"dagrunj\n";
const RECORD_HEAD: usize = 8;

/// The header of a new journal.
pub fn header() -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..12]);
    bytes[12..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Appends a record to `out`.
///
/// # Panics
/// When the payload is empty or longer than [`MAX_PAYLOAD`].
pub fn encode(payload: &[u8], out: &mut Vec<u8>) {
    encode_with(out, |out| out.extend_from_slice(payload));
}

/// Appends a record whose payload `write` appends, without a copy of it.
///
/// # Panics
/// As [`encode`].
pub fn encode_with<R>(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    let start = out.len();
    out.extend_from_slice(&[0; RECORD_HEAD]);
    let result = write(out);
    let payload = &out[start + RECORD_HEAD..];
    assert!(
        !payload.is_empty() && payload.len() <= MAX_PAYLOAD,
        "a record has 1 to {MAX_PAYLOAD} bytes"
    );
    let length = u32::try_from(payload.len()).expect("checked against the limit above");
    let crc = checksum(length, payload);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + RECORD_HEAD].copy_from_slice(&crc.to_le_bytes());
    result
}

fn checksum(length: u32, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// A journal as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The good records before the end: where each begins, and its payload.
    pub records: Vec<(u64, &'a [u8])>,
    /// How it ends.
    pub end: End,
}

/// How a journal ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// After a whole record, or after the header.
    Clean,
    /// In the middle of a write: keep the bytes before `at` and drop the rest.
    Torn {
        /// Bytes to keep.
        at: u64,
    },
    /// A damaged record is followed by good ones.
    Corrupt {
        /// Where the damage begins.
        at: u64,
        /// Where the next good record begins.
        next: u64,
    },
    /// The header is not one of a journal of this version.
    BadHeader,
}

/// Reads a journal.
pub fn decode(bytes: &[u8]) -> Decoded<'_> {
    let mut records = Vec::new();
    let end = match header_end(bytes) {
        Some(end) => end,
        None => decode_from(bytes, HEADER_LEN, &mut records),
    };
    Decoded { records, end }
}

/// Reads the whole records at the beginning of a piece of a journal that begins where a record does: gives each with where it
/// begins in the piece, and how many bytes they take. What is left is the beginning of a record, or none: only [`decode`] of
/// the whole journal can tell.
pub fn decode_piece(bytes: &[u8], mut each: impl FnMut(u64, &[u8])) -> usize {
    let mut at = 0;
    while let Some(payload) = record_at(bytes, at) {
        each(at as u64, payload);
        at += RECORD_HEAD + payload.len();
    }
    at
}

/// All good records, also those behind damage: what a repair keeps.
pub fn salvage(bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut records = Vec::new();
    let mut at = if header_end(bytes).is_none() {
        HEADER_LEN
    } else {
        0
    };
    while let Some(next) = next_good(bytes, at) {
        at = next;
        decode_from(bytes, at, &mut records);
        let (start, payload) = records.last().expect("the record at `next` is good");
        at = *start as usize + RECORD_HEAD + payload.len();
    }
    records
}

/// How the journal ends already in its header; `None` where the header is good.
fn header_end(bytes: &[u8]) -> Option<End> {
    let expected = header();
    if bytes.len() >= HEADER_LEN && bytes[..HEADER_LEN] == expected {
        return None;
    }
    let head = &bytes[..bytes.len().min(HEADER_LEN)];
    // A crash right after the file was made leaves a part of the header, or zeros in its place.
    let torn = expected.starts_with(head) || bytes.iter().all(|b| *b == 0);
    Some(if torn {
        End::Torn { at: 0 }
    } else {
        End::BadHeader
    })
}

fn decode_from<'a>(bytes: &'a [u8], start: usize, records: &mut Vec<(u64, &'a [u8])>) -> End {
    let mut at = start;
    while at < bytes.len() {
        let Some(payload) = record_at(bytes, at) else {
            return match next_good(bytes, at + 1) {
                Some(next) => End::Corrupt {
                    at: at as u64,
                    next: next as u64,
                },
                None => End::Torn { at: at as u64 },
            };
        };
        records.push((at as u64, payload));
        at += RECORD_HEAD + payload.len();
    }
    End::Clean
}

fn next_good(bytes: &[u8], from: usize) -> Option<usize> {
    (from..bytes.len().saturating_sub(RECORD_HEAD)).find(|at| record_at(bytes, *at).is_some())
}

fn record_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let head = bytes.get(at..at + RECORD_HEAD)?;
    let word = |range: std::ops::Range<usize>| {
        u32::from_le_bytes(head[range].try_into().expect("four bytes"))
    };
    let (length, crc) = (word(0..4), word(4..8));
    if length == 0 || length as usize > MAX_PAYLOAD {
        return None;
    }
    let start = at + RECORD_HEAD;
    let payload = bytes.get(start..start.checked_add(length as usize)?)?;
    (checksum(length, payload) == crc).then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payloads() -> Vec<Vec<u8>> {
        (0..40_u32)
            .map(|i| {
                format!(
                    r#"{{"at":{i}.5,"event":"rewound","node":"{}"}}"#,
                    "n".repeat(i as usize * 17)
                )
                .into_bytes()
            })
            .collect()
    }

    fn journal(payloads: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = header().to_vec();
        let mut starts = Vec::new();
        for payload in payloads {
            starts.push(bytes.len());
            encode(payload, &mut bytes);
        }
        (bytes, starts)
    }

    #[test]
    fn a_whole_journal_is_clean() {
        let payloads = payloads();
        let (bytes, starts) = journal(&payloads);
        let decoded = decode(&bytes);
        assert_eq!(decoded.end, End::Clean);
        for ((at, payload), (start, expected)) in
            decoded.records.iter().zip(starts.iter().zip(&payloads))
        {
            assert_eq!((*at as usize, *payload), (*start, expected.as_slice()));
        }
        assert_eq!(decoded.records.len(), payloads.len());
        assert_eq!(decode(&header()).end, End::Clean);
    }

    /// F04: a tail that was cut anywhere loses the torn record only.
    #[test]
    fn a_tail_cut_at_any_byte_of_the_last_three_records_is_torn() {
        let payloads = payloads();
        let (bytes, starts) = journal(&payloads);
        let n = starts.len();
        for cut in starts[n - 3]..bytes.len() {
            let decoded = decode(&bytes[..cut]);
            let whole = starts.iter().filter(|s| **s < cut).count() - 1;
            let boundary = starts.contains(&cut);
            if boundary {
                assert_eq!(decoded.end, End::Clean, "cut at {cut}");
                assert_eq!(decoded.records.len(), whole + 1);
            } else {
                let at = starts[whole] as u64;
                assert_eq!(decoded.end, End::Torn { at }, "cut at {cut}");
                assert_eq!(decoded.records.len(), whole);
            }
        }
    }

    /// F05: each flipped bit of a record in the middle is found, with its position.
    #[test]
    fn a_flipped_bit_in_the_middle_is_corruption() {
        let (bytes, starts) = journal(&payloads());
        let (start, end) = (starts[5], starts[6]);
        for bit in start * 8..end * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let decoded = decode(&bytes);
            let End::Corrupt { at, next } = decoded.end else {
                panic!("bit {bit}: {:?}", decoded.end);
            };
            assert_eq!((at as usize, next as usize), (start, end), "bit {bit}");
            assert_eq!(decoded.records.len(), 5);
            assert_eq!(salvage(&bytes).len(), starts.len() - 1);
        }
    }

    #[test]
    fn a_flipped_bit_in_the_last_record_is_a_torn_tail() {
        let (bytes, starts) = journal(&payloads());
        let last = *starts.last().unwrap();
        for bit in last * 8..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes).end, End::Torn { at: last as u64 });
        }
    }

    /// F05: zeros over 8 kB in the middle are corruption, at the end a torn tail.
    #[test]
    fn zeros_are_never_records() {
        let (mut bytes, starts) = journal(&payloads());
        let from = starts[9] + 3;
        assert!(bytes.len() > from + 8192 + 700);
        bytes[from..from + 8192].fill(0);
        let End::Corrupt { at, .. } = decode(&bytes).end else {
            panic!("{:?}", decode(&bytes).end);
        };
        assert_eq!(at as usize, starts[9]);

        let (mut bytes, _) = journal(&payloads());
        let clean = bytes.len();
        bytes.extend_from_slice(&[0; 8192]);
        assert_eq!(decode(&bytes).end, End::Torn { at: clean as u64 });
    }

    #[test]
    fn headers_are_checked() {
        for cut in 0..HEADER_LEN {
            assert_eq!(decode(&header()[..cut]).end, End::Torn { at: 0 }, "{cut}");
        }
        assert_eq!(decode(&[0; 4096]).end, End::Torn { at: 0 });
        assert_eq!(decode(b"something else entirely").end, End::BadHeader);
        let mut later = header();
        later[8] = 2;
        assert_eq!(decode(&later).end, End::BadHeader);
    }
}
