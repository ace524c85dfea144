//! Who may connect, who they are, and what they may do: TLS, certificates, tokens, roles, limits.
//!
//! Owns credentials on both sides. Knows nothing of what calls do. [`Gate`] is the server's half: it listens, finds out who calls,
//! and lets a call reach a service or not. [`Connector`] is the client's half. What a cluster's files are, and how they come about,
//! is [`authority`].
//!
//! Without TLS only a unix socket or the loopback is served, and only to the user that the server runs as. Everybody else needs TLS
//! 1.3, and a certificate of the cluster's CA or a token.

mod address;
pub mod authority;
mod calls;
mod connect;
mod connection;
mod error;
mod files;
mod gate;
mod guard;
mod identity;
mod listen;
mod loopback;
mod rate;
mod roles;
mod service;
mod tls;
mod tokens;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use self::{
    address::Address,
    calls::{About, CALLS, Call},
    connect::{Channel, Connector, Expect, ShowToken, TOKEN_VARIABLE},
    connection::{ConnectionOf, Io},
    error::{Error, Kind},
    gate::{Gate, Limits, MESSAGE},
    identity::{Facts, Identity, Proof},
    listen::{Bound, Incoming},
    rate::Rate,
    roles::{Role, Roles},
    service::{GateLayer, Gated, caller},
    tokens::{Secret, Token, Tokens, in_days},
};
