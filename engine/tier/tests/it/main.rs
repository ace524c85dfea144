//! Shared caches from outside: in a folder, and in S3 and Azure as moto and Azurite have them, also behind a proxy that fails.

mod attacks;
mod buckets;
mod faults;
mod folder;
mod kit;
