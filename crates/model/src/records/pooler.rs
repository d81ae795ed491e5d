//! Poolers: where one is, and what it last said of its instance.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::records::instance::{InstanceState, LagClass, Role};
use crate::records::leadership::Leadership;
use crate::records::topology::Durability;
use crate::types::host::HostName;
use crate::types::json;
use crate::types::lsn::{Lsn, SystemIdentifier, Timeline};
use crate::types::name::{CellName, DatabaseName};
use crate::types::pgbackrest_name::PgbackrestName;
use crate::types::protocol::Protocol;

/// The address card of the agent beside one PostgreSQL instance.
///
/// Everything a generated config needs about a member is here, so that any
/// pooler can render its own file from the pooler records alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pooler {
    /// The database it serves.
    pub database: DatabaseName,
    /// The cell it serves it in.
    pub cell: CellName,
    /// The cell's index, the order of the pgN entries.
    #[serde(default)]
    pub index: u32,
    /// DNS name under which the others reach it.
    pub host: HostName,
    /// PostgreSQL's port.
    pub postgres_port: u16,
    /// pgBackRest TLS server's port.
    pub pgbackrest_port: u16,
    /// The pooler's own gRPC port.
    pub grpc_port: u16,
    /// Port of its health endpoints for balancers; 0 in records from before there were any: then it has none.
    #[serde(default, skip_serializing_if = "is_no_port")]
    pub health_port: u16,
    /// Port of the cell's PgBouncer; 0 where none is asked for.
    #[serde(default, skip_serializing_if = "is_no_port")]
    pub pool_port: u16,
    /// Address its servers listen on: an unspecified one for all of the host, a loopback one for all loopback addresses
    /// that the host name leads to.
    pub listen: String,
    /// PostgreSQL's data directory.
    pub data_directory: String,
    /// Directory of PostgreSQL's unix socket, mode 0700.
    pub socket_directory: String,
    /// The generated `pgbackrest.conf`.
    pub config_path: String,
    /// Directory of `ca.crt`, `server.crt`, `server.key`.
    pub tls_directory: String,
    /// pgBackRest's log directory.
    pub log_directory: String,
    /// pgBackRest's lock directory.
    pub lock_directory: String,
    /// pgBackRest's spool directory.
    pub spool_directory: String,
    /// How often the certificates of this cell were revoked. Part of the name by which etcd knows its pooler, so that
    /// a stolen certificate has a name that etcd does not know any more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revocations: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_no_port(port: &u16) -> bool {
    *port == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// What PostgreSQL's archiver last did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Archiver {
    /// Last segment archived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_archived_wal: Option<String>,
    /// When.
    #[serde(with = "json::opt_time", skip_serializing_if = "Option::is_none")]
    pub last_archived_time: Option<Timestamp>,
    /// Last segment that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failed_wal: Option<String>,
    /// When.
    #[serde(with = "json::opt_time", skip_serializing_if = "Option::is_none")]
    pub last_failed_time: Option<Timestamp>,
}

impl Archiver {
    /// Whether the last thing the archiver did was to fail.
    #[must_use]
    pub fn failing(&self) -> bool {
        match (self.last_failed_time, self.last_archived_time) {
            (Some(failed), Some(archived)) => failed > archived,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

/// Versions of what runs in the cell.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Versions {
    /// PostgreSQL, such as `15.18`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub postgres: String,
    /// pgBackRest, such as `2.45`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pgbackrest: String,
    /// multipooler.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub multipooler: String,
    /// What it expects of others, and others may expect of it.
    #[serde(skip_serializing_if = "Protocol::is_unnumbered")]
    pub protocol: Protocol,
    /// What an operator should know, such as a version that Cellar was not tested with, or files that lie where a restore
    /// would be refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A lasting logical replication slot of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LogicalSlot {
    /// Its name.
    pub name: String,
    /// PostgreSQL's database whose changes it decodes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub database: String,
    /// Whether standbys are to have copies of it (PostgreSQL 17 on).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub failover: bool,
    /// Whether it is a standby's copy of the primary's, and can be gone on with.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub synced: bool,
    /// Whether what it needs is gone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
}

/// What a living pooler says of its instance. Bound to the pooler's lease, written on change
/// and at most once a second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolerStatus {
    /// The database.
    pub database: DatabaseName,
    /// The cell.
    pub cell: CellName,
    /// This run of the pooler process; a new one after every restart.
    pub epoch: String,
    /// Its process on its host. A status outlives the process that wrote it until its lease ends; a reader on the
    /// same host can tell by this.
    #[serde(default)]
    pub pid: u32,
    /// Where the instance is in its life.
    #[serde(default)]
    pub state: InstanceState,
    /// Why, and what to do, when it is not well.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub message: String,
    /// The role it is observed in.
    #[serde(default)]
    pub role: Role,
    /// Its identity.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub system_identifier: Option<SystemIdentifier>,
    /// Its timeline.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timeline: Option<Timeline>,
    /// The cell it streams from, when it does and that cell is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub streams_from: Option<CellName>,
    /// How far what it received is behind what it knows of the primary.
    #[serde(default)]
    pub receive_lag: LagClass,
    /// How far what it replayed is behind what it knows of the primary.
    #[serde(default)]
    pub replay_lag: LagClass,
    /// How far a standby without a WAL receiver has the WAL, once that stands still: whoever has lost the primary knows by
    /// this which standby has most.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub held_lsn: Option<Lsn>,
    /// On which timeline that is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub held_timeline: Option<Timeline>,
    /// PostgreSQL's archiver.
    #[serde(default)]
    pub archiver: Archiver,
    /// Versions.
    #[serde(default)]
    pub versions: Versions,
    /// When the first of its certificates ends.
    #[serde(with = "json::opt_time", skip_serializing_if = "Option::is_none", default)]
    pub certificate_expiry: Option<Timestamp>,
    /// Whether the pgBackRest TLS server answers.
    #[serde(default)]
    pub tls_server_up: bool,
    /// The names that the running pgBackRest TLS server accepts; none while it does not run.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub tls_server_accepts: Vec<PgbackrestName>,
    /// The highest incarnation that data of this cell is marked with; none while no data is marked, and by older builds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub incarnation: Option<u32>,
    /// The settings that replay compares, as the instance runs with them; empty while it does not answer, and of older builds.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub replays: BTreeMap<String, u32>,
    /// Its logical replication slots; none known by older builds.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub logical_slots: Vec<LogicalSlot>,
    /// Records in etcd that this pooler could not read.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub unreadable_records: Vec<String>,
    /// When this was written.
    #[serde(with = "json::opt_time", skip_serializing_if = "Option::is_none", default)]
    pub update_time: Option<Timestamp>,
}

impl PoolerStatus {
    /// Whether it is a standby that streams from `primary`.
    #[must_use]
    pub fn streams_from(&self, primary: &CellName) -> bool {
        self.state == InstanceState::Running
            && self.role == Role::Standby
            && self.streams_from.as_ref() == Some(primary)
    }
}

/// The primary: as the database's poolers recorded it, or multiadmin for a database with quorum commit. A promotion raises the
/// timeline, so the record only ever moves to a higher one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leader {
    /// The cell whose instance is the primary.
    pub cell: CellName,
    /// Its timeline, which doubles as the term.
    pub term: Timeline,
    /// The database's identity. Absent only between the decision to run initdb and its end; once
    /// it is there initdb must never run again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub system_identifier: Option<SystemIdentifier>,
    /// Where it had got to when the record was written.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lsn: Option<Lsn>,
    /// Terms and rules of a database with quorum commit; none where there never were any. Written by multiadmin;
    /// poolers leave it as it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub leadership: Option<Leadership>,
}

impl Leader {
    /// What the members of a database go by, if it has quorum commit now: that of a restored database begins anew.
    #[must_use]
    pub fn governed_by(&self, durability: Durability, incarnation: u32) -> Option<&Leadership> {
        let governs = |it: &&Leadership| !it.ended && it.incarnation == incarnation;
        self.leadership.as_ref().filter(|_| durability == Durability::Quorum).filter(governs)
    }
}
