//! The bytes of segment files: frames of records, each check-summed.
//!
//! A frame is what one commit appends: `FRM1`, length, CRC-32 of the body, body. The next frame is only written once the
//! last is on disk, so that a crash can tear the last frame and no other: a bad frame with a good one after it is damage.
//! A record inside is length, CRC-32, payload, so that one can be read alone. Pure: knows nothing of files.
//!
//! Results come first in a frame. Behind them stand the bytes of small blobs whose files are not on disk yet, and the word that
//! those of earlier frames are (`unsettled.rs`). Kinds that an older version does not know end its reading of a frame, not of the file.
//! Zeros after the last frame are room for the next one.

use dagrun_model::Digest;

/// How a segment file begins: the name of the format and its version.
pub(crate) const SEGMENT_MAGIC: &[u8; 8] = b"dagrseg\x01";
/// Length and CRC of a record.
pub(crate) const RECORD_HEAD: usize = 8;
const FRAME_MAGIC: &[u8; 4] = b"FRM1";
const FRAME_HEAD: usize = 12;
/// Kind, time and digest before the entry's own bytes.
const PAYLOAD_HEAD: usize = 1 + 8 + 32;
/// The largest record: table slots have 24 bits for its length.
pub(crate) const MAX_RECORD: usize = (8 << 20) + 4096;

/// What a record says about its action.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Its result. The earliest holds.
    Normal,
    /// A result that takes the place of one whose blobs were lost. The latest holds.
    Replace,
    /// Results up to this time hold no more.
    Evict,
    /// Another result of the same action, kept as evidence only.
    Alternate,
    /// The bytes of a blob, under its digest, whose file may not be on disk yet.
    Blob,
    /// The files of all blobs before this are on disk.
    Settled,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Normal,
            Self::Replace,
            Self::Evict,
            Self::Alternate,
            Self::Blob,
            Self::Settled,
        ]
        .into_iter()
        .find(|k| k.byte() == byte)
    }

    fn byte(self) -> u8 {
        match self {
            Self::Normal => 1,
            Self::Replace => 2,
            Self::Evict => 3,
            Self::Alternate => 4,
            Self::Blob => 5,
            Self::Settled => 6,
        }
    }
}

/// A record, its entry still in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) kind: Kind,
    /// Milliseconds since the epoch, and greater than that of any earlier record of the same writer.
    pub(crate) time: u64,
    pub(crate) action: Digest,
    pub(crate) entry: &'a [u8],
}

impl<'a> Record<'a> {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; RECORD_HEAD]);
        out.push(self.kind.byte());
        out.extend_from_slice(&self.time.to_le_bytes());
        out.extend_from_slice(&self.action.0);
        out.extend_from_slice(self.entry);
        let payload = &out[start + RECORD_HEAD..];
        let len = u32::try_from(payload.len()).expect("entries are limited to 8 MiB");
        let crc = crc32fast::hash(payload);
        out[start..start + 4].copy_from_slice(&len.to_le_bytes());
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads the record at the start of `bytes`; also gives its length.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let len = u32_at(bytes, 0)? as usize;
        let payload = bytes.get(RECORD_HEAD..RECORD_HEAD.checked_add(len)?)?;
        if len < PAYLOAD_HEAD || crc32fast::hash(payload) != u32_at(bytes, 4)? {
            return None;
        }
        let record = Self {
            kind: Kind::from_byte(payload[0])?,
            time: u64::from_le_bytes(payload[1..9].try_into().ok()?),
            action: Digest(payload[9..41].try_into().ok()?),
            entry: &payload[PAYLOAD_HEAD..],
        };
        Some((record, RECORD_HEAD + len))
    }
}

/// The frame of a list of records, already written one after the other.
pub(crate) fn frame(body: &[u8]) -> Option<Vec<u8>> {
    let len = u32::try_from(body.len()).ok()?;
    let mut out = Vec::with_capacity(FRAME_HEAD + body.len());
    out.extend_from_slice(FRAME_MAGIC);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    out.extend_from_slice(body);
    Some(out)
}

/// How a scan ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// At the end of the bytes, or where nothing but zeros follows.
    Clean,
    /// At an unfinished frame with nothing good after it: being written, or torn by a crash.
    Torn,
    /// At a bad frame with a good one after it, at this position.
    Damaged {
        /// Where the good one begins.
        next_good: usize,
    },
}

/// Reads frames and gives each record with its position. Returns the position of the first byte that was not good.
pub(crate) fn scan(bytes: &[u8], mut each: impl FnMut(usize, Record<'_>)) -> (usize, End) {
    let mut at = 0;
    while at < bytes.len() {
        let Some(len) = good_frame(&bytes[at..]) else {
            if bytes[at..].iter().all(|b| *b == 0) {
                return (at, End::Clean);
            }
            let next = (at + 1..bytes.len().saturating_sub(FRAME_HEAD))
                .find(|p| good_frame(&bytes[*p..]).is_some());
            return match next {
                Some(next_good) => (at, End::Damaged { next_good }),
                None => (at, End::Torn),
            };
        };
        let mut inner = at + FRAME_HEAD;
        let end = at + len;
        while let Some((record, size)) = Record::read(&bytes[inner..end]) {
            each(inner, record);
            inner += size;
        }
        at = end;
    }
    (at, End::Clean)
}

/// The blobs that come after the last word that all are settled, each with where its bytes are.
pub(crate) fn unsettled(bytes: &[u8]) -> Vec<(Digest, std::ops::Range<usize>)> {
    let mut found = Vec::new();
    scan(bytes, |at, record| match record.kind {
        Kind::Blob => {
            let start = at + RECORD_HEAD + PAYLOAD_HEAD;
            found.push((record.action, start..start + record.entry.len()));
        }
        Kind::Settled => found.clear(),
        _ => {}
    });
    found
}

/// The length of the frame at the start of `bytes`, if it is whole. Zeros are not a frame.
fn good_frame(bytes: &[u8]) -> Option<usize> {
    if !bytes.starts_with(FRAME_MAGIC) {
        return None;
    }
    let len = u32_at(bytes, 4)? as usize;
    let body = bytes.get(FRAME_HEAD..FRAME_HEAD.checked_add(len)?)?;
    (len > 0 && crc32fast::hash(body) == u32_at(bytes, 8)?).then_some(FRAME_HEAD + len)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(frames: &[&[&str]]) -> Vec<u8> {
        let mut out = Vec::new();
        for entries in frames {
            let mut body = Vec::new();
            for entry in *entries {
                let record = Record {
                    kind: Kind::Normal,
                    time: 7,
                    action: Digest::of(entry.as_bytes()),
                    entry: entry.as_bytes(),
                };
                record.write(&mut body);
            }
            out.extend(frame(&body).unwrap());
        }
        out
    }

    fn read(bytes: &[u8]) -> (Vec<String>, usize, End) {
        let mut found = Vec::new();
        let (at, end) = scan(bytes, |offset, record| {
            assert_eq!(Record::read(&bytes[offset..]).unwrap().0, record);
            found.push(String::from_utf8(record.entry.to_vec()).unwrap());
        });
        (found, at, end)
    }

    #[test]
    fn frames_round_trip() {
        let bytes = log(&[&["a", "b"], &["c"]]);
        assert_eq!(
            read(&bytes),
            (
                vec!["a".into(), "b".into(), "c".into()],
                bytes.len(),
                End::Clean
            )
        );
    }

    /// F04: whatever is cut off the end, whole frames stay and the torn one goes as a whole.
    #[test]
    fn a_torn_tail_loses_only_its_frame() {
        let first = log(&[&["a", "b"]]).len();
        let bytes = log(&[&["a", "b"], &["c", "d"]]);
        for len in first + 1..bytes.len() {
            let (found, at, end) = read(&bytes[..len]);
            assert_eq!((found.len(), at, end), (2, first, End::Torn), "{len}");
        }
    }

    /// Room for more is no frame and no damage; what was begun in it is a torn tail.
    #[test]
    fn zeros_after_the_last_frame_are_room() {
        let mut bytes = log(&[&["a", "b"]]);
        let len = bytes.len();
        bytes.resize(len + 4096, 0);
        assert_eq!(
            read(&bytes),
            (vec!["a".into(), "b".into()], len, End::Clean)
        );
        bytes[len + 100] = 1;
        assert_eq!(read(&bytes).2, End::Torn);
    }

    #[test]
    fn blobs_are_unsettled_until_it_is_said() {
        let frame_of = |kinds: &[Kind]| {
            let mut body = Vec::new();
            for kind in kinds {
                Record {
                    kind: *kind,
                    time: 1,
                    action: Digest::of(b"x"),
                    entry: b"bytes",
                }
                .write(&mut body);
            }
            frame(&body).unwrap()
        };
        let mut bytes = frame_of(&[Kind::Normal, Kind::Blob, Kind::Blob]);
        assert_eq!(unsettled(&bytes).len(), 2);
        bytes.extend(frame_of(&[Kind::Normal, Kind::Settled, Kind::Blob]));
        let found = unsettled(&bytes);
        assert_eq!(found.len(), 1);
        assert_eq!(&bytes[found[0].1.clone()], b"bytes");
        bytes.extend(frame_of(&[Kind::Settled]));
        assert!(unsettled(&bytes).is_empty());
    }

    /// F05: any bit that flips in the first frame is seen, and told apart from a torn tail.
    #[test]
    fn a_flipped_bit_before_good_frames_is_damage() {
        let first = log(&[&["a"]]).len();
        let bytes = log(&[&["a"], &["b"]]);
        for bit in 0..first * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let (found, at, end) = read(&bad);
            assert_eq!((found.len(), at), (0, 0), "{bit}");
            assert_eq!(end, End::Damaged { next_good: first }, "{bit}");
        }
    }
}
