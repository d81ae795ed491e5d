//! multiadmin: the gRPC API for operators and programs.
//!
//! It validates requests against the topology, records jobs, and answers from
//! a mirror of etcd. It is stateless: any number may run beside each other, and
//! the transactions' guards settle who wins. One of them leads and keeps house:
//! it moves locks on, closes what nobody else can end, bounds the history, and asks for what schedules want.
//! What changes something is written to the audit log first.
//!
//! multiadmin never runs pgBackRest and never touches a data directory.

mod admin;
mod api;
mod audit;
mod caller;
mod cluster;
mod deadline;
mod jobs;
mod leader;
mod page;
mod pooler_clients;
mod refusal;

pub use admin::Admin;
pub use api::server::{ServeError, serve};
pub use audit::log::{AuditLog, AuditLogError};
pub use leader::election::Leading;
pub use leader::renewal::{OwnCertificates, Renewal};
pub use leader::scheduler::Scheduler;
pub use pooler_clients::{Dial, dial_with_tls};
