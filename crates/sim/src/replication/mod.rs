//! Replication and quorum commit: the real code that replaces a lost primary, over a modelled PostgreSQL.
//!
//! multiadmin's `failover` and the multipooler's run here as they are ([`admin`], [`member`]), on a [`network`] between sites
//! whose links are cut. [`postgres`] models who streams from whom and which commits are acknowledged, [`data`] the WAL and
//! the archive, and [`member`] also what starts, stops and restores an instance.

pub mod admin;
pub mod data;
pub mod invariants;
pub mod member;
pub mod network;
pub mod postgres;
pub mod world;
