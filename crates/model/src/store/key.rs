//! Where each record lies in etcd.
//!
//! Every key has one kind of writer, so that etcd's permissions can hold the
//! walls: a pooler writes only `status/`, `runs/` and `claims/` below its own
//! `<db>/<cell>`, and `leaders/<db>`; whoever upgrades a host writes `upgrades/host` with its pooler's rights.

use uuid::Uuid;

use crate::records::audit::AuditId;
use crate::records::job::id::JobId;
use crate::types::name::{CellName, ClusterName, DatabaseName, ScheduleName};

/// The address of one record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `cells/<cell>`: [`crate::records::topology::Cell`].
    Cell(CellName),
    /// `databases/<db>`: [`crate::records::topology::Database`].
    Database(DatabaseName),
    /// `poolers/<db>/<cell>`: [`crate::records::pooler::Pooler`].
    Pooler(DatabaseName, CellName),
    /// `status/<db>/<cell>`: [`crate::records::pooler::PoolerStatus`], bound to a lease.
    Status(DatabaseName, CellName),
    /// `leaders/<db>`: [`crate::records::pooler::Leader`].
    Leader(DatabaseName),
    /// `failovers/<db>`: [`crate::records::failover::FailoverHistory`]; written by multiadmin only.
    Failovers(DatabaseName),
    /// `jobs/<db>/<id>`: [`crate::records::job::record::JobRecord`].
    Job(DatabaseName, JobId),
    /// `runs/<db>/<cell>/<id>`: [`crate::records::job::run::Run`].
    Run(DatabaseName, CellName, JobId),
    /// `claims/<db>/<cell>/<id>`: the epoch of the pooler process, bound to a lease.
    Claim(DatabaseName, CellName, JobId),
    /// `claims/<db>/<cell>/00000000-0000-0000-0000-000000000000`: [`crate::records::cell_claim::CellClaim`], bound to no lease.
    /// It lies among the claims of jobs, where every pooler may write its own, and no job has that id.
    CellClaim(DatabaseName, CellName),
    /// `locks/<db>`: [`crate::records::lock::Lock`].
    Lock(DatabaseName),
    /// Which copy of the database is the true one; written by multiadmin only.
    Incarnation(DatabaseName),
    /// `schedules/<db>/<name>`: [`crate::records::schedule::Schedule`].
    Schedule(DatabaseName, ScheduleName),
    /// `revocations/list`: [`crate::records::topology::RevocationList`].
    Revocations,
    /// `admins/leader`: the leading multiadmin, bound to a lease.
    AdminLeader,
    /// `audit/<id>`: [`crate::records::audit::AuditRecord`]; written by multiadmin only.
    Audit(AuditId),
    /// `upgrades/host`: [`crate::records::upgrade::HostUpgrade`], bound to a lease. There is one, so that hosts are
    /// upgraded one at a time.
    HostUpgrade,
    /// `restores/etcd`: which restore of etcd on hosts its data is of; absent when it is of none.
    EtcdRestore,
}

/// The keys of one cluster, all below `/cellar/<cluster>/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyspace {
    prefix: String,
}

impl Keyspace {
    /// The keyspace of a cluster.
    #[must_use]
    pub fn new(cluster: &ClusterName) -> Self {
        Self { prefix: format!("/cellar/{cluster}/") }
    }

    /// Prefix of all keys.
    #[must_use]
    pub fn all(&self) -> String {
        self.prefix.clone()
    }

    /// Prefix of a whole kind, such as `cells`.
    #[must_use]
    pub fn kind(&self, kind: &str) -> String {
        format!("{}{kind}/", self.prefix)
    }

    /// Prefix of the records of a kind that belong to one database, such as `jobs`.
    #[must_use]
    pub fn of_database(&self, kind: &str, database: &DatabaseName) -> String {
        format!("{}{kind}/{database}/", self.prefix)
    }

    /// Prefix of the records of a kind that belong to one pooler, such as `runs`.
    #[must_use]
    pub fn of_pooler(&self, kind: &str, database: &DatabaseName, cell: &CellName) -> String {
        format!("{}{kind}/{database}/{cell}/", self.prefix)
    }

    /// Whether a listing or a watch of `range` shows the key: of a text that ends with `/` all keys that begin with it, of
    /// any other the one key that it is.
    #[must_use]
    pub fn is_in_range(range: &str, path: &str) -> bool {
        if range.ends_with('/') { path.starts_with(range) } else { path == range }
    }

    /// The key as text.
    #[must_use]
    pub fn path(&self, key: &Key) -> String {
        let p = &self.prefix;
        match key {
            Key::Cell(cell) => format!("{p}cells/{cell}"),
            Key::Database(db) => format!("{p}databases/{db}"),
            Key::Pooler(db, cell) => format!("{p}poolers/{db}/{cell}"),
            Key::Status(db, cell) => format!("{p}status/{db}/{cell}"),
            Key::Leader(db) => format!("{p}leaders/{db}"),
            Key::Failovers(db) => format!("{p}failovers/{db}"),
            Key::Job(db, id) => format!("{p}jobs/{db}/{id}"),
            Key::Run(db, cell, id) => format!("{p}runs/{db}/{cell}/{id}"),
            Key::Claim(db, cell, id) => format!("{p}claims/{db}/{cell}/{id}"),
            Key::CellClaim(db, cell) => format!("{p}claims/{db}/{cell}/{}", Uuid::nil()),
            Key::Lock(db) => format!("{p}locks/{db}"),
            Key::Incarnation(db) => format!("{p}incarnations/{db}"),
            Key::Schedule(db, name) => format!("{p}schedules/{db}/{name}"),
            Key::Revocations => format!("{p}revocations/list"),
            Key::AdminLeader => format!("{p}admins/leader"),
            Key::Audit(id) => format!("{p}audit/{id}"),
            Key::HostUpgrade => format!("{p}upgrades/host"),
            Key::EtcdRestore => format!("{p}restores/etcd"),
        }
    }

    /// Reads a key back; `None` for one that is not ours.
    #[must_use]
    pub fn parse(&self, path: &str) -> Option<Key> {
        let mut parts = path.strip_prefix(&self.prefix)?.split('/');
        let kind = parts.next()?;
        let key = match kind {
            "cells" => Key::Cell(parts.next()?.parse().ok()?),
            "databases" => Key::Database(parts.next()?.parse().ok()?),
            "leaders" => Key::Leader(parts.next()?.parse().ok()?),
            "failovers" => Key::Failovers(parts.next()?.parse().ok()?),
            "locks" => Key::Lock(parts.next()?.parse().ok()?),
            "incarnations" => Key::Incarnation(parts.next()?.parse().ok()?),
            "revocations" if parts.next()? == "list" => Key::Revocations,
            "audit" => Key::Audit(parts.next()?.parse().ok()?),
            "admins" if parts.next()? == "leader" => Key::AdminLeader,
            "upgrades" if parts.next()? == "host" => Key::HostUpgrade,
            "restores" if parts.next()? == "etcd" => Key::EtcdRestore,
            "poolers" | "status" => {
                let (db, cell) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
                if kind == "poolers" { Key::Pooler(db, cell) } else { Key::Status(db, cell) }
            }
            "schedules" => Key::Schedule(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?),
            "jobs" => Key::Job(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?),
            "runs" | "claims" => {
                let (db, cell, id) =
                    (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
                match kind {
                    "runs" => Key::Run(db, cell, id),
                    _ if id == JobId::new(Uuid::nil()) => Key::CellClaim(db, cell),
                    _ => Key::Claim(db, cell, id),
                }
            }
            _ => return None,
        };
        parts.next().is_none().then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn every_key() -> Vec<Key> {
        let db: DatabaseName = "app".parse().unwrap();
        let cell: CellName = "zone1".parse().unwrap();
        let id = JobId::new(uuid::Uuid::from_u128(7));
        vec![
            Key::Cell(cell.clone()),
            Key::Database(db.clone()),
            Key::Pooler(db.clone(), cell.clone()),
            Key::Status(db.clone(), cell.clone()),
            Key::Leader(db.clone()),
            Key::Failovers(db.clone()),
            Key::Job(db.clone(), id),
            Key::Run(db.clone(), cell.clone(), id),
            Key::Claim(db.clone(), cell.clone(), id),
            Key::CellClaim(db.clone(), cell),
            Key::Lock(db.clone()),
            Key::Incarnation(db.clone()),
            Key::Schedule(db, "nightly".parse().unwrap()),
            Key::Revocations,
            Key::AdminLeader,
            Key::Audit(AuditId::new(uuid::Uuid::from_u128(8))),
            Key::HostUpgrade,
            Key::EtcdRestore,
        ]
    }

    #[test]
    fn every_key_reads_back() {
        let keys = Keyspace::new(&"demo".parse().unwrap());
        for key in every_key() {
            assert_eq!(keys.parse(&keys.path(&key)), Some(key));
        }
        assert_eq!(keys.path(&Key::Lock("app".parse().unwrap())), "/cellar/demo/locks/app");
    }

    #[test]
    fn a_range_is_a_directory_or_one_key() {
        assert!(Keyspace::is_in_range("/cellar/demo/locks/", "/cellar/demo/locks/app"));
        assert!(Keyspace::is_in_range("/cellar/demo/locks/app", "/cellar/demo/locks/app"));
        assert!(!Keyspace::is_in_range("/cellar/demo/locks/app", "/cellar/demo/locks/app2"));
    }

    #[test]
    fn foreign_keys_are_not_ours() {
        let keys = Keyspace::new(&"demo".parse().unwrap());
        for path in [
            "/cellar/other/cells/zone1",
            "/cellar/demo/cells/zone1/x",
            "/cellar/demo/cells/",
            "/cellar/demo/x/y",
            "cells/zone1",
            "/cellar/demo/cells/ZONE",
        ] {
            assert_eq!(keys.parse(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_is_exact(path in "/cellar/demo/[a-z/0-9-]{0,60}") {
            let keys = Keyspace::new(&"demo".parse().unwrap());
            if let Some(key) = keys.parse(&path) {
                prop_assert_eq!(keys.path(&key), path);
            }
        }
    }
}
