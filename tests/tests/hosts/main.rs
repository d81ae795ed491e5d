//! Hosts as the tests make them: how they see each other, what a cut does, and that nothing is left of them.

#![expect(clippy::unwrap_used, reason = "a test ends where it must not go on")]

mod bad_days;
mod bad_input;
mod certificates;
mod clocks;
mod cuts;
mod databases;
mod etcd;
mod failover;
mod left;
mod matrix;
mod names;
mod processes;
mod repository;
mod tour;
mod two_machines;
mod upgrade;
