//! Shared caches from outside: in a folder, and in S3 as moto has it, behind a proxy that fails.

mod attacks;
mod faults;
mod folder;
mod kit;
mod s3;
