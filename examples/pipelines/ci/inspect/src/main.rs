//! Prints the frames that arrive on standard input: number, length, and length after compression.

use std::io::{self, Read};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut bytes = Vec::new();
    if let Err(error) = io::stdin().read_to_end(&mut bytes) {
        eprintln!("cannot read standard input: {error}");
        return ExitCode::FAILURE;
    }
    for (number, frame) in parcel::frame::decode_all(&bytes).enumerate() {
        match frame {
            Ok(payload) => {
                let packed = parcel::rle::compress(payload).len();
                println!("{number}: {} bytes, {packed} compressed", payload.len());
            }
            Err(error) => {
                eprintln!("frame {number}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
