//! multiadmin: the gRPC API for operators and programs.
//!
//! It validates requests against the topology, records jobs, and answers from
//! a mirror of etcd. It is stateless: any number may run beside each other, and
//! the transactions' guards decide which of two conflicting writes is done. One of them leads: it gives locks to the
//! next job, drives restores, closes jobs whose pooler cannot end them, bounds the history, starts scheduled jobs
//! and renews certificates. Each of them replaces lost primaries of databases with quorum commit. Every call that changes something is written to the audit log first.
//!
//! multiadmin never runs pgBackRest and never touches a data directory.

#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

mod admin;
mod api;
mod audit;
mod caller;
mod cluster;
mod deadline;
mod failover;
mod jobs;
mod leader;
mod member_reports;
mod message;
mod open_jobs;
mod page;
mod pooler_clients;
mod refusal;
mod tries;

pub use admin::Admin;
pub use api::server::{ServeError, serve};
pub use audit::log::{AuditLog, AuditLogError};
pub use failover::{AskMember, Failover};
pub use leader::election::Leading;
pub use leader::renewal::{OwnCertificates, Renewal};
pub use leader::scheduler::Scheduler;
pub use pooler_clients::{Dial, dial_with_tls};
