//! Turns every line of standard input into a frame on standard output.

use std::io::{self, BufRead, Write};

fn main() -> io::Result<()> {
    let mut out = Vec::new();
    for line in io::stdin().lock().lines() {
        parcel::frame::encode(line?.as_bytes(), &mut out).map_err(io::Error::other)?;
    }
    io::stdout().write_all(&out)
}
