//! Frames: four bytes of length, most significant first, then the payload.

use std::fmt;

/// The longest payload that is accepted, so that a wrong length cannot claim gigabytes.
pub const MAX_PAYLOAD: usize = 1 << 20;

const HEADER: usize = 4;

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The bytes end inside a frame.
    Truncated { missing: usize },
    /// The payload is longer than [`MAX_PAYLOAD`].
    TooLong { length: usize },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { missing } => write!(f, "frame ends {missing} bytes too early"),
            Self::TooLong { length } => {
                write!(f, "payload of {length} bytes is over {MAX_PAYLOAD}")
            }
        }
    }
}

impl std::error::Error for Error {}

/// Appends the frame of `payload` to `out`.
pub fn encode(payload: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let length = payload.len();
    match u32::try_from(length) {
        Ok(prefix) if length <= MAX_PAYLOAD => out.extend(prefix.to_be_bytes()),
        _ => return Err(Error::TooLong { length }),
    }
    out.extend_from_slice(payload);
    Ok(())
}

/// Splits the first frame off; returns its payload and the bytes after it.
pub fn decode(bytes: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(Error::Truncated {
            missing: HEADER - bytes.len(),
        });
    };
    let length = u32::from_be_bytes(*header) as usize;
    if length > MAX_PAYLOAD {
        return Err(Error::TooLong { length });
    }
    rest.split_at_checked(length).ok_or(Error::Truncated {
        missing: length.saturating_sub(rest.len()),
    })
}

/// Decodes frame after frame; ends behind the last one or at the first error.
pub fn decode_all(mut bytes: &[u8]) -> impl Iterator<Item = Result<&[u8], Error>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        Some(match decode(bytes) {
            Ok((payload, rest)) => {
                bytes = rest;
                Ok(payload)
            }
            Err(error) => {
                bytes = &[];
                Err(error)
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_its_length_and_its_payload() {
        let mut out = Vec::new();
        encode(b"hello", &mut out).unwrap();
        assert_eq!(out, b"\0\0\0\x05hello");
    }

    #[test]
    fn an_empty_payload_is_a_frame() {
        assert_eq!(decode(&[0, 0, 0, 0]), Ok((&[][..], &[][..])));
    }

    #[test]
    fn what_follows_a_frame_is_left() {
        assert_eq!(decode(b"\0\0\0\x02abcd"), Ok((&b"ab"[..], &b"cd"[..])));
    }

    #[test]
    fn a_short_header_is_truncated() {
        assert_eq!(decode(&[0, 0]), Err(Error::Truncated { missing: 2 }));
    }

    #[test]
    fn a_short_payload_is_truncated() {
        assert_eq!(
            decode(b"\0\0\0\x05hel"),
            Err(Error::Truncated { missing: 2 })
        );
    }

    #[test]
    fn a_huge_length_is_refused_before_anything_is_read() {
        let length = u32::MAX as usize;
        assert_eq!(decode(&[0xff; 8]), Err(Error::TooLong { length }));
    }

    #[test]
    fn a_long_payload_is_not_encoded() {
        let mut out = Vec::new();
        let length = MAX_PAYLOAD + 1;
        assert_eq!(
            encode(&vec![0; length], &mut out),
            Err(Error::TooLong { length })
        );
        assert!(out.is_empty());
    }

    #[test]
    fn errors_name_the_numbers() {
        assert_eq!(
            Error::Truncated { missing: 3 }.to_string(),
            "frame ends 3 bytes too early"
        );
    }
}
