//! End to end: real etcd, PostgreSQL and pgBackRest, run by the programs as a user runs them.
//!
//! `Cluster::up` gives a copy of a cluster that the real `cellar up` made once in this process: same data, repository and
//! job records, its own ports, keys, configuration and records, which `cellar up` makes again. Tests of how a cluster
//! comes to be make theirs from nothing: all of `bootstrap`, `host_names` and `ordinary_user`; the full disks of `bad_input` and
//! `restore_bad_days`; `lifecycle::a_cluster_keeps_its_data_and_every_standby_can_be_backed_up` and the cluster for CI;
//! the passphrases and private keys of `secrets` and `support_bundle`; the lifetimes of certificates in `rotation`; the HAProxy of `routing` and the PgBouncers of `pooling`; the server that our client
//! talks to in `certificates`. The others need no other system identifier than that of the copies, which all have the same.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test ends where it must not go on")]

mod access;
mod archive;
mod audit;
mod bad_input;
mod bootstrap;
mod calendar;
mod cells;
mod certificates;
mod crashes;
mod drills;
mod etcd_permissions;
mod etcd_snapshots;
mod exclusion;
mod failover;
mod failover_bad_days;
mod failover_by_command;
mod failover_restores;
mod failover_slots;
mod files_elsewhere;
mod given_up;
mod host_names;
mod job_logs;
mod ledger;
mod lifecycle;
mod logical_slots;
mod logs;
mod member_settings;
mod member_slots;
mod named_source;
mod new_repository;
mod ordinary_user;
mod other_versions;
mod pooling;
mod quorum;
mod rebuild;
mod restore_bad_days;
mod restore_ends;
mod restore_kills;
mod restore_plan;
mod restore_targets;
mod revocation;
mod role_change;
mod rotation;
mod routing;
mod runbooks;
mod sealed_copies;
mod secrets;
mod server_files;
mod service_manager;
mod session_settings;
mod settings;
mod states;
mod store_faults;
mod stores;
mod support_bundle;
mod two_machines;
mod unreadable_marks;
mod upkeep;
mod worth;
