//! Deterministic simulation of a cluster.
//!
//! The real code of multiadmin and of the multipooler's jobs runs here on hosts whose time, randomness and network
//! come from one seed: [`etcd`] answers late, twice or never, [`host`]s are killed and frozen between any two steps,
//! clocks are minutes apart, and a [`newer`] release writes what this one does not know. PostgreSQL, pgBackRest and disks are a model ([`outside`]). After each change of the
//! store the [`invariants`] of docs/architecture.md are looked at, and after each storm everything must come to rest.
//!
//! Replication and quorum commit are simulated apart from that, in [`replication`], in a world of its own.
//!
//! A seed that finds something finds it again: `make sim SEED=N`.

#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod admin;
pub mod etcd;
pub mod host;
pub mod invariants;
pub mod newer;
pub mod outside;
pub mod pooler;
pub mod random;
pub mod replication;
pub mod transcript;
pub mod vouching;
pub mod world;
