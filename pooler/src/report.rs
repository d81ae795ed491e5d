//! What this agent says about itself and its instance, beyond what PostgreSQL answered.
//!
//! Every part of the agent writes its own fields through [`crate::agent::Agent::update_report`];
//! `services::reporter` puts them into the status in etcd.

use cellar_model::{InstanceState, LogicalSlot, PgbackrestName};
use cellar_pgbackrest::Version;
use jiff::Timestamp;

/// The parts of the status that are not read from PostgreSQL.
#[derive(Debug, Default, Clone)]
pub(crate) struct Report {
    /// The state of the instance, as the supervisor sees it.
    pub(crate) state: InstanceState,
    /// Why the instance is in that state; empty when there is nothing to explain.
    pub(crate) message: String,
    /// The highest incarnation that data of this cell is marked with.
    pub(crate) highest_mark: Option<u32>,
    /// Whether the pgBackRest TLS server accepts connections.
    pub(crate) tls_server_up: bool,
    /// The names of the clients that the pgBackRest TLS server admits.
    pub(crate) tls_server_accepts: Vec<PgbackrestName>,
    /// Whether the kernel could not keep the pgBackRest TLS server to its files when it was started last.
    pub(crate) tls_server_unconfined: bool,
    /// Why the cell's PgBouncer does not do its work; empty when it does, or is not asked for.
    pub(crate) pool_problem: String,
    /// The instance's logical replication slots, as they were seen last.
    pub(crate) logical_slots: Vec<LogicalSlot>,
    /// pgBackRest's version, as it was when this agent began.
    pub(crate) pgbackrest_version: Option<Version>,
    /// When the first of this cell's certificates expires.
    pub(crate) certificate_expiry: Option<Timestamp>,
    /// Why new certificates are not in use, or revoked ones not refused everywhere; empty when they are.
    pub(crate) certificate_problem: String,
    /// A warning that a certificate expires soon; empty when none does.
    pub(crate) certificate_warning: String,
}
