//! What etcd lets each kind of process read and write.
//!
//! etcd knows its users by their certificates' common names. A pooler's certificate may be stolen with its host, so it
//! opens no more than one pooler needs; multiadmin is the writer of everything else.

use crate::store::key::{Key, Keyspace};
use crate::types::name::{CellName, DatabaseName};

/// Keys that a permission is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum GrantRange {
    /// One key.
    Key(String),
    /// All keys that begin so.
    Prefix(String),
}

/// One permission of an etcd role.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// The keys.
    pub range: GrantRange,
    /// Whether they may be written too; they may always be read.
    pub write: bool,
}

/// The kinds of records of which a database has one.
type Single = (&'static str, fn(DatabaseName) -> Key);
const SINGLE: [Single; 4] = [
    ("databases", Key::Database),
    ("leaders", Key::Leader),
    ("locks", Key::Lock),
    ("incarnations", Key::Incarnation),
];

impl Keyspace {
    /// What the pooler of a database in a cell follows, directories of keys and single ones: all that it may read.
    #[must_use]
    pub fn watched_by_pooler(&self, database: &DatabaseName, cell: &CellName) -> Vec<String> {
        let of_database = ["poolers", "status", "jobs"].map(|kind| self.of_database(kind, database));
        let own = ["runs", "claims"].map(|kind| self.of_pooler(kind, database, cell));
        let single = SINGLE.map(|(_, key)| self.path(&key(database.clone())));
        let shared = ["cells", "revocations"].map(|kind| self.kind(kind));
        of_database.into_iter().chain(own).chain(single).chain(shared).collect()
    }

    /// What a pooler may do: read what it follows; write its own status, what became of its own jobs, its claims on
    /// them, who the primary is, and whose host is being upgraded: that is done with the rights of the host's pooler.
    ///
    /// In a cluster that has this database alone it may read the records of all: poolers of the release before this follow
    /// the directories that they lie in.
    #[must_use]
    pub fn grants_of_pooler(&self, database: &DatabaseName, cell: &CellName, is_only: bool) -> Vec<Grant> {
        let own = ["runs", "claims"].map(|kind| self.of_pooler(kind, database, cell));
        let written_singly = self.path(&Key::Leader(database.clone()));
        let whole = if is_only { SINGLE.map(|(kind, _)| self.kind(kind)).to_vec() } else { Vec::new() };
        let is_in_whole = |key: &String| whole.iter().any(|range| Self::is_in_range(range, key));
        let read = self
            .watched_by_pooler(database, cell)
            .into_iter()
            .filter(|range| *range != written_singly && !is_in_whole(range))
            .chain(whole.clone())
            .map(|range| match range.ends_with('/') {
                true => Grant { write: own.contains(&range), range: GrantRange::Prefix(range) },
                false => Grant { write: false, range: GrantRange::Key(range) },
            });
        // Any cell may get the primary, and each pooler records that of its own instance.
        let written =
            [Key::Status(database.clone(), cell.clone()), Key::Leader(database.clone()), Key::HostUpgrade];
        let written = written.map(|key| Grant { range: GrantRange::Key(self.path(&key)), write: true });
        read.chain(written).collect()
    }

    /// What a multiadmin may do: everything in this cluster, and nothing beside it.
    #[must_use]
    pub fn grants_of_multiadmin(&self) -> Vec<Grant> {
        vec![Grant { range: GrantRange::Prefix(self.all()), write: true }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::job::id::JobId;

    #[test]
    fn pooler_may_write_its_own_records_only() {
        let keys = Keyspace::new(&"demo".parse().unwrap());
        let (app, web): (DatabaseName, DatabaseName) = ("app".parse().unwrap(), "web".parse().unwrap());
        let (zone1, zone10): (CellName, CellName) = ("zone1".parse().unwrap(), "zone10".parse().unwrap());
        let grants = keys.grants_of_pooler(&app, &zone1, false);
        let may = |write: bool, key: &Key| {
            let path = keys.path(key);
            grants.iter().filter(|grant| grant.write || !write).any(|grant| match &grant.range {
                GrantRange::Key(key) => *key == path,
                GrantRange::Prefix(prefix) => path.starts_with(prefix.as_str()),
            })
        };
        let id = JobId::new(uuid::Uuid::from_u128(7));
        for key in [
            Key::Status(app.clone(), zone1.clone()),
            Key::Run(app.clone(), zone1.clone(), id),
            Key::Claim(app.clone(), zone1.clone(), id),
            Key::CellClaim(app.clone(), zone1.clone()),
            Key::Leader(app.clone()),
            Key::HostUpgrade,
        ] {
            assert!(may(true, &key), "{key:?}");
        }
        for key in [
            Key::Status(app.clone(), zone10.clone()),
            Key::Status(web.clone(), zone1.clone()),
            Key::Run(app.clone(), zone10.clone(), id),
            Key::Run(web.clone(), zone1.clone(), id),
            Key::Claim(app.clone(), zone10.clone(), id),
            Key::CellClaim(app.clone(), zone10.clone()),
            Key::Leader(web.clone()),
            Key::Failovers(app.clone()),
            Key::Job(app.clone(), id),
            Key::Cell(zone1.clone()),
            Key::Database(app.clone()),
            Key::Pooler(app.clone(), zone1.clone()),
            Key::Lock(app.clone()),
            Key::Incarnation(app.clone()),
            Key::Schedule(app.clone(), "nightly".parse().unwrap()),
            Key::Revocations,
            Key::AdminLeader,
            Key::EtcdRestore,
        ] {
            assert!(!may(true, &key), "{key:?}");
        }
        assert!(may(false, &Key::Job(app, id)) && !may(false, &Key::Job(web.clone(), id)));
        assert!(!may(false, &Key::Status(web, zone1)) && !may(false, &Key::AdminLeader));
    }

    #[test]
    fn pooler_reads_what_it_follows_and_in_a_cluster_of_several_nothing_of_another_database() {
        let keys = Keyspace::new(&"demo".parse().unwrap());
        let (app, zone1): (DatabaseName, CellName) = ("app".parse().unwrap(), "zone1".parse().unwrap());
        // A name that begins as the other does.
        let other: DatabaseName = "app2".parse().unwrap();
        for is_only in [true, false] {
            let grants = keys.grants_of_pooler(&app, &zone1, is_only);
            let may_read = |range: &str| {
                grants.iter().any(|grant| match &grant.range {
                    GrantRange::Key(key) => key == range,
                    GrantRange::Prefix(prefix) => range.starts_with(prefix.as_str()),
                })
            };
            for followed in keys.watched_by_pooler(&app, &zone1) {
                assert!(may_read(&followed), "{followed} {is_only}");
            }
            let of = |database: &DatabaseName| SINGLE.map(|(_, key)| keys.path(&key(database.clone())));
            assert!(of(&app).iter().all(|key| may_read(key)), "{is_only}");
            assert!(of(&other).iter().all(|key| may_read(key) == is_only), "{is_only}");
            // What the release before this follows.
            assert_eq!(may_read(&keys.kind("leaders")), is_only);
        }
    }
}
