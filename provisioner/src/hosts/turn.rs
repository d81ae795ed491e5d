//! The record by which one host of a cluster at a time is upgraded.

use std::time::Duration;

use cellar_model::{CellName, HostUpgrade, Key, timestamp_text};
use cellar_system::clock;
use cellar_topology::{LeaseKeeper, Store, StoreError, TxnOutcome};

use crate::error::provision_error::{ProvisionError, Result};

/// How long the record outlives the process that holds it, in seconds: longer than etcd needs for a new leader.
const LEASE_SECONDS: u32 = 30;

/// How long etcd may take to give a lease.
const LEASE_TIMEOUT: Duration = Duration::from_secs(15);

/// How often the record is tried to be written.
const MAX_ATTEMPTS: u32 = 10;

/// The right to upgrade a host, until it is given back; at the latest when its process has ended for half a minute.
#[derive(Debug)]
pub(crate) struct Turn {
    store: Store,
    _keeper: LeaseKeeper,
    revision: i64,
}

/// Takes the right to upgrade the host of a cell.
///
/// # Errors
/// When another host is being upgraded.
pub(crate) async fn take_turn(store: &Store, cell: &CellName) -> Result<Turn> {
    let keeper = LeaseKeeper::start(store.kv().clone(), LEASE_SECONDS);
    let mut changes = keeper.subscribe();
    let lease = tokio::time::timeout(LEASE_TIMEOUT, changes.wait_for(Option::is_some)).await;
    let Ok(Ok(Some(lease))) = lease.map(|held| held.map(|held| *held)) else {
        return Err(StoreError::Retryable("it gives no lease".to_owned()).into());
    };
    let key = Key::HostUpgrade;
    let record = HostUpgrade { cell: cell.clone(), pid: std::process::id(), begun: Some(clock::now()) };
    for _ in 0..MAX_ATTEMPTS {
        let found = store.get::<HostUpgrade>(&key).await.map_err(explained)?;
        let revision = match &found {
            None => 0,
            // An answer that was lost.
            Some(found) if found.record == record => {
                return Ok(Turn { store: store.clone(), _keeper: keeper, revision: found.revision });
            }
            // This cell's own: of an upgrade here that was interrupted, since the directory's lock lets one run. Or of another
            // machine with this cell, which finds that it has lost the record before it starts anything anew.
            Some(found) if found.record.cell == *cell => found.revision,
            Some(found) => return Err(is_taken(&found.record)),
        };
        match store.transaction().expect(&key, revision).put_leased(&key, &record, lease).commit().await {
            Ok(TxnOutcome::Committed(revision)) => {
                return Ok(Turn { store: store.clone(), _keeper: keeper, revision });
            }
            Ok(TxnOutcome::Conflict) => {}
            Err(error) if error.is_retryable() => {}
            Err(error) => return Err(explained(error)),
        }
    }
    Err(StoreError::Retryable("the record of upgrades changes all the time".to_owned()).into())
}

/// The users of a cluster that an earlier version set up may not use the record.
fn explained(error: StoreError) -> ProvisionError {
    match error {
        StoreError::Terminal(reason) if reason.contains("permission denied") => {
            ProvisionError::UpgradeRefused {
                reason: format!("etcd does not let this host's multipooler record upgrades ({reason})"),
                hint:
                    "update the operator's machine first and run `cellar cluster wait` there: it grants that"
                        .to_owned(),
            }
        }
        error => error.into(),
    }
}

fn is_taken(holder: &HostUpgrade) -> ProvisionError {
    let since = holder.begun.map_or_else(String::new, |begun| format!(", since {}", timestamp_text(begun)));
    ProvisionError::UpgradeRefused {
        reason: format!("the host of cell {} is being upgraded{since}", holder.cell),
        hint: "hosts are upgraded one at a time: wait until it has ended there. If it was interrupted, that is known within half a minute".to_owned(),
    }
}

impl Turn {
    /// Whether it is still ours.
    pub(crate) async fn is_held(&self) -> Result<bool> {
        let found = self.store.get::<HostUpgrade>(&Key::HostUpgrade).await?;
        Ok(found.is_some_and(|found| found.revision == self.revision))
    }

    /// Gives it back. When etcd does not answer, its lease does that.
    pub(crate) async fn give_back(self) {
        let given = self.store.transaction().expect(&Key::HostUpgrade, self.revision);
        let _ = given.delete(&Key::HostUpgrade).commit().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cellar_model::Keyspace;
    use cellar_topology::MemoryKv;

    use super::*;

    #[tokio::test]
    async fn one_host_at_a_time_has_its_turn() {
        let store = Store::new(Arc::new(MemoryKv::default()), Keyspace::new(&"demo".parse().unwrap()));
        let (one, two): (CellName, CellName) = ("zone1".parse().unwrap(), "zone2".parse().unwrap());
        let turn = take_turn(&store, &one).await.unwrap();
        assert!(turn.is_held().await.unwrap());
        let refused = take_turn(&store, &two).await.unwrap_err();
        assert!(refused.to_string().contains("cell zone1 is being upgraded"), "{refused}");
        assert!(refused.hint().is_some());
        // The same host goes on from one that was interrupted, whose turn that is no more.
        let next = take_turn(&store, &one).await.unwrap();
        assert!(!turn.is_held().await.unwrap());
        turn.give_back().await;
        assert!(next.is_held().await.unwrap(), "who has lost it gives nothing back");
        next.give_back().await;
        take_turn(&store, &two).await.unwrap().give_back().await;
    }
}
