//! The agent beside one PostgreSQL instance.
//!
//! Its loops are level-triggered: each looks at the present state, compares it with the wanted state, and acts. Each
//! may be killed at any point.
//!
//! - `instance::supervisor` creates, starts and watches PostgreSQL. A pure function, `instance::next_step`, decides
//!   what to do.
//! - `jobs::worker` runs the jobs addressed to this cell: one that takes the database's lock and one that only reads
//!   at the same time.
//! - `services::reporter` writes the status into etcd, bound to this process's lease.
//! - `services::server` answers gRPC.
//! - `services::pgbackrest_server` runs `pgbackrest server`, through which the backups of other cells read from this
//!   one when it is the primary.
//! - `services::pgbouncer` runs the cell's PgBouncer, where one is asked for.
//! - `services::certificates` puts new certificates and revocations into use.

mod agent;
mod arguments;
mod availability;
mod config_files;
mod data_layout;
mod disk;
mod given_settings;
mod instance;
mod instance_lock;
mod jobs;
mod listening;
mod member;
mod peers;
mod pooling;
mod record_fault;
mod report;
mod repository;
mod services;
mod slot_sync;
mod start;
mod wal_files;

pub use arguments::Arguments;
pub use jobs::claim::{ClaimedJob, Ending};
pub use jobs::claim_lease::ClaimLease;
pub use jobs::control::{Control, Interruption, interrupted_ending};
pub use jobs::lanes::{JobRunner, run_lanes};
pub use member::{ClaimError, ClaimOnCell, Claimed, Member};
pub use start::run;

/// Quorum commit on the side of one member, with what it needs of its host put in from outside.
pub mod failover {
    pub use crate::availability::kept::{Kept, KeptFile};
    pub use crate::availability::settings::{
        Archives, Awaits, FromArchive, Replication, copy_of, standby_name, under_quorum,
    };
    pub use crate::availability::{Availability, Report};
    pub use crate::config_files::ConfigFileError;
    pub use crate::instance::failover::canary::Canary;
    pub use crate::instance::failover::member::run;
    pub use crate::instance::failover::server::{NoAnswer, Server};
}
