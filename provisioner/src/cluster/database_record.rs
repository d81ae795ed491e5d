//! The database's record in etcd, changed while its poolers read it.

use cellar_model::{Database, DatabaseName, Key};
use cellar_topology::{Store, StoreError, TxnOutcome};

use crate::cluster::local_cluster::Cluster;
use crate::error::provision_error::Result;

/// Attempts to write a record that others change too.
const MAX_ATTEMPTS: u32 = 5;

impl Cluster {
    /// Changes a database's record, unless there is nothing to change.
    pub(crate) async fn change_database(
        &self,
        store: &Store,
        name: &DatabaseName,
        change: impl Fn(&Database) -> Option<Database>,
    ) -> Result<()> {
        let key = Key::Database(name.clone());
        for _ in 0..MAX_ATTEMPTS {
            // `up` makes the record, and makes it as it is to be.
            let Some(found) = store.get::<Database>(&key).await? else { return Ok(()) };
            let Some(record) = change(&found.record) else { return Ok(()) };
            let written =
                store.transaction().expect(&key, found.revision).put(&key, &record).commit().await?;
            if written != TxnOutcome::Conflict {
                return Ok(());
            }
        }
        Err(StoreError::Retryable(format!("{} changes all the time", store.keys().path(&key))).into())
    }

    /// Records how many full backups of each database are kept, where that was ever chosen.
    pub(crate) async fn record_retention(&self, store: &Store) -> Result<()> {
        for database in self.state.databases().filter(|database| database.retention_full.is_some()) {
            let retention = self.record_of(database).retention;
            let change = |found: &Database| {
                (found.retention != retention)
                    .then(|| Database { retention: retention.clone(), ..found.clone() })
            };
            self.change_database(store, &database.name, change).await?;
        }
        Ok(())
    }
}
