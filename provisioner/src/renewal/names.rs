//! Names that change with a revocation, where a list of revoked certificates does not reach.
//!
//! pgBackRest's servers check names and no revocation list. So after a revocation all cells get another name, which the
//! revoked certificate does not have: `cluster.json` holds it, the database's record gives it to the servers, and their
//! poolers report which names they accept. etcd reads its list only when a client connects; a client that is connected
//! already is known by its user's name, so the pooler of a cell whose certificates were revoked gets another one.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cellar_model::{Database, Key, PgbackrestName, Pooler, PoolerStatus};
use cellar_topology::Store;

use crate::cluster::database::Member;
use crate::cluster::local_cluster::Cluster;
use crate::error::provision_error::{ProvisionError, Result};

/// How often the poolers' reports are looked at.
const REPORT_INTERVAL: Duration = Duration::from_millis(200);

/// The member of the first running server that accepts other names than these, with those names.
fn first_with_other_names(
    names: &[PgbackrestName],
    statuses: impl IntoIterator<Item = PoolerStatus>,
) -> Option<(Member, String)> {
    let wanted: BTreeSet<_> = names.iter().collect();
    // One that does not run reads the new names when it starts.
    statuses.into_iter().filter(|status| status.tls_server_up).find_map(|status| {
        let found: BTreeSet<_> = status.tls_server_accepts.iter().collect();
        let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
        let member = Member { cell: status.cell, database: status.database };
        (found != wanted).then(|| (member, shown.join(" and ")))
    })
}

impl Cluster {
    /// Records these as the only accepted names, the first being that of new certificates, and waits until every server
    /// that runs accepts them and no others.
    pub(crate) async fn accept_names(
        &self,
        store: &Store,
        names: &[PgbackrestName],
        deadline: Instant,
    ) -> Result<()> {
        self.record_names(store, names).await?;
        let begun = Instant::now();
        loop {
            let listing = store.list(&store.keys().kind("status")).await?;
            let statuses =
                listing.entries.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok());
            let Some((member, found)) = first_with_other_names(names, statuses) else { return Ok(()) };
            if Instant::now() >= deadline {
                let next = match self.is_local() {
                    true => "`cellar up` continues",
                    false => "the same command, repeated, continues",
                };
                return Err(ProvisionError::NoAnswer {
                    what: format!("pgBackRest of cell {} with other names", self.state.shown(&member)),
                    after: begun.elapsed(),
                    reason: format!("it still accepts {found}; {next}"),
                    log: self.layout.log(),
                    tail: String::new(),
                });
            }
            tokio::time::sleep(REPORT_INTERVAL).await;
        }
    }

    async fn record_names(&self, store: &Store, names: &[PgbackrestName]) -> Result<()> {
        for database in self.state.databases() {
            self.change_database(store, &database.name, |found| {
                (found.accepted_names() != names)
                    .then(|| Database { pgbackrest_names: names.to_vec(), ..found.clone() })
            })
            .await?;
        }
        Ok(())
    }

    /// Finishes an interrupted change of names, and repeats it for an etcd with older records.
    pub(crate) async fn finish_name_change(&self, store: &Store, deadline: Instant) -> Result<()> {
        self.rename_users(store).await?;
        let wanted = [self.state.pgbackrest_name];
        for database in self.state.databases() {
            let found = store.get::<Database>(&Key::Database(database.name.clone())).await?;
            if found.is_some_and(|found| found.record.accepted_names() != wanted) {
                return self.accept_names(store, &wanted, deadline).await;
            }
        }
        Ok(())
    }

    /// Makes the pooler, and the multiadmin on the host, of cells whose certificates were revoked known under the names that
    /// they have since.
    pub(crate) async fn rename_users(&self, store: &Store) -> Result<()> {
        for cell in self.state.cells.iter().filter(|cell| cell.revocations > 0) {
            self.admit_multiadmin(&cell.name).await?;
            self.admit_poolers(&cell.name).await?;
            for member in self.state.members_in(&cell.name) {
                let key = Key::Pooler(member.database, member.cell);
                // No other program changes it, and `cells remove` waits for the lock on this directory.
                let found = store.get::<Pooler>(&key).await?;
                if let Some(found) = found.filter(|found| found.record.revocations != cell.revocations) {
                    let record = Pooler { revocations: cell.revocations, ..found.record };
                    store.transaction().expect(&key, found.revision).put(&key, &record).commit().await?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_running_server_with_other_names_is_told() {
        let old = PgbackrestName::default();
        let new = old.next();
        let status = |cell: &str, up: bool, accepts: &[PgbackrestName]| -> PoolerStatus {
            let text = serde_json::json!({
                "database": "app", "cell": cell, "epoch": "e", "tlsServerUp": up, "tlsServerAccepts": accepts,
            });
            serde_json::from_value(text).unwrap()
        };
        let found = |statuses: &[PoolerStatus]| first_with_other_names(&[new], statuses.to_vec());
        assert_eq!(found(&[status("zone1", true, &[new]), status("zone2", false, &[])]), None);
        let both = status("zone2", true, &[new, old]);
        let (cell, lets_in) = found(&[status("zone1", true, &[new]), both.clone()]).unwrap();
        assert_eq!((cell.cell.as_str(), lets_in.as_str()), ("zone2", "pgbackrest and pgbackrest:1"));
        assert_eq!(first_with_other_names(&[new, old], [both]), None);
        assert!(found(&[status("zone1", true, &[])]).is_some(), "it is not known which names it accepts");
    }
}
