//! End to end: real etcd, PostgreSQL and pgBackRest, run by the programs as a user runs them.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test ends where it must not go on")]

mod bad_input;
mod bootstrap;
mod cells;
mod crashes;
mod exclusion;
mod lifecycle;
mod named_source;
mod ordinary_user;
mod role_change;
