//! Whole streams of frames, as a user of the crate sees them.

use parcel::frame::{Error, MAX_PAYLOAD, decode, decode_all, encode};

fn stream(payloads: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for payload in payloads {
        encode(payload, &mut out).expect("the payloads of these tests are short");
    }
    out
}

#[test]
fn many_frames_come_back_in_order() {
    let payloads: [&[u8]; 3] = [b"one", b"", b"three"];
    let bytes = stream(&payloads);
    let decoded: Vec<_> = decode_all(&bytes).collect::<Result<_, _>>().unwrap();
    assert_eq!(decoded, payloads);
}

#[test]
fn no_bytes_are_no_frames() {
    assert_eq!(decode_all(&[]).count(), 0);
}

#[test]
fn a_stream_ends_at_its_first_error() {
    let mut bytes = stream(&[b"whole", b"cut"]);
    bytes.pop();
    let decoded: Vec<_> = decode_all(&bytes).collect();
    assert_eq!(
        decoded,
        [Ok(&b"whole"[..]), Err(Error::Truncated { missing: 1 })]
    );
}

#[test]
fn every_byte_survives() {
    let payload: Vec<u8> = (0..=255).collect();
    let bytes = stream(&[&payload]);
    assert_eq!(decode_all(&bytes).next(), Some(Ok(&payload[..])));
}

#[test]
fn the_longest_payload_is_accepted() {
    let payload = vec![1; MAX_PAYLOAD];
    let bytes = stream(&[&payload]);
    assert_eq!(decode(&bytes), Ok((&payload[..], &[][..])));
}

#[test]
fn equal_payloads_are_separate_frames() {
    assert_eq!(decode_all(&stream(&[b"x".as_slice(); 5])).count(), 5);
}

#[test]
fn a_frame_may_hold_frames() {
    let inner = stream(&[b"a", b"b"]);
    let outer = stream(&[&inner]);
    let (payload, _) = decode(&outer).unwrap();
    assert_eq!(decode_all(payload).count(), 2);
}

#[test]
fn bytes_after_an_error_are_not_read() {
    let bytes = [&[0xff; 4][..], &stream(&[b"fine"])].concat();
    assert_eq!(decode_all(&bytes).count(), 1);
}
