//! The crate against real files, real handshakes and the real pgBackRest.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml's leave for tests does not reach their helper functions"
)]

mod authority;
mod grpc;
mod handshake;
mod leaf;
mod pgbackrest;
mod probe;
mod support;
