//! The binary `parcel`: lines in, frames out.

use std::io::Write;
use std::process::{Command, Stdio};

fn frames_of(input: &str) -> Vec<u8> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_parcel"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary was built for this test");
    child
        .stdin
        .take()
        .expect("standard input is a pipe")
        .write_all(input.as_bytes())
        .expect("the binary reads all of its input");
    child
        .wait_with_output()
        .expect("the binary can be waited for")
        .stdout
}

#[test]
fn a_line_becomes_a_frame() {
    assert_eq!(frames_of("one\n"), b"\0\0\0\x03one");
}

#[test]
fn a_last_line_needs_no_newline() {
    assert_eq!(frames_of("one"), b"\0\0\0\x03one");
}

#[test]
fn an_empty_line_is_an_empty_frame() {
    assert_eq!(frames_of("\n"), [0, 0, 0, 0]);
}

#[test]
fn no_input_gives_no_frames() {
    assert_eq!(frames_of(""), []);
}

#[test]
fn lines_are_counted_in_bytes() {
    assert_eq!(frames_of("β\n"), b"\0\0\0\x02\xce\xb2");
}
