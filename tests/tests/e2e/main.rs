//! End to end: real etcd, PostgreSQL and pgBackRest, run by the programs as a user runs them.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test ends where it must not go on")]

mod access;
mod audit;
mod bad_input;
mod bootstrap;
mod cells;
mod certificates;
mod crashes;
mod drills;
mod etcd_permissions;
mod exclusion;
mod job_logs;
mod ledger;
mod lifecycle;
mod named_source;
mod ordinary_user;
mod rebuild;
mod restore_bad_days;
mod restore_kills;
mod restore_plan;
mod restore_targets;
mod revocation;
mod role_change;
mod rotation;
mod runbooks;
mod schedules;
mod secrets;
mod upkeep;
