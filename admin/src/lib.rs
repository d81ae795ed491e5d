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
mod audit;
mod backups;
mod caller;
mod cancel;
mod cells;
mod closing;
mod databases;
mod deadline;
mod ended;
mod execute;
mod health;
mod housekeeping;
mod job_log;
mod jobs;
mod leader;
mod observations;
mod page;
mod pooler_clients;
mod poolers;
mod refusal;
mod renewal;
mod request;
mod scheduler;
mod schedules;
mod server;
mod service;
mod stored;
mod submit;
mod watch_job;

pub use admin::Admin;
pub use audit::{AuditLog, AuditLogError};
pub use leader::Leading;
pub use pooler_clients::{Dial, dial_with_tls};
pub use renewal::{OwnCertificates, Renewal};
pub use scheduler::Scheduler;
pub use server::{ServeError, serve};
