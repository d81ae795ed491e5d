//! multiadmin over a store in memory; the daemon itself over a real etcd.
//!
//! One binary, so that it is linked once.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking")]

mod access;
mod arguments;
mod audit;
mod binary;
mod connections;
mod dead_primary;
mod jobs;
mod leader;
mod mixed_builds;
mod outage;
mod poolers;
mod schedules;
mod scope;
mod server;
mod support;
mod topology;
