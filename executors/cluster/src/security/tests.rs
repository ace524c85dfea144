//! Credentials of every kind against a real server, TLS on: who gets in, who does not, and what each is told.

mod hostile;
mod matrix;
mod trust;
