//! The records of a new cluster: written once, directly into etcd, before any daemon writes there.
//!
//! The database's record is written last and completes the rest: once it is there, etcd decides which cells
//! exist and the provisioner follows.

use std::collections::BTreeMap;
use std::path::Path;

use cellar_model::{Cell, CellName, Database, DatabaseName, Key, Leader, Pooler, Repository};
use cellar_system::is_same_place;
use cellar_topology::{Listing, Store, StoreError, TxnOutcome};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use crate::cluster::local_cluster::Cluster;
use crate::cluster::state::{LocalCell, is_same_repository};
use crate::error::provision_error::{ProvisionError, Result};

/// How often a transaction whose outcome is not known is tried before giving up.
const MAX_ATTEMPTS: u32 = 5;

fn shown<R: Serialize>(record: &R) -> String {
    serde_json::to_string(record).unwrap_or_default()
}

/// A record that is not as this cluster would write it.
fn differs<R: Serialize>(store: &Store, key: &Key, found: &R, wanted: &R) -> ProvisionError {
    ProvisionError::RecordDiffers { key: store.keys().path(key), found: shown(found), wanted: shown(wanted) }
}

/// Creates the record unless it is there, and then it must be the same.
async fn ensure<R>(store: &Store, key: &Key, record: &R) -> Result<()>
where
    R: Serialize + DeserializeOwned + PartialEq,
{
    let mut attempts = 0;
    loop {
        if let Some(found) = store.get::<R>(key).await? {
            return if found.record == *record {
                Ok(())
            } else {
                Err(differs(store, key, &found.record, record))
            };
        }
        attempts += 1;
        match store.transaction().expect_absent(key).put(key, record).commit().await {
            Ok(TxnOutcome::Committed(_)) => return Ok(()),
            // Another process wrote it, or this one did and the answer was lost: read it again.
            Ok(TxnOutcome::Conflict) if attempts < MAX_ATTEMPTS => {}
            Err(error) if error.is_retryable() && attempts < MAX_ATTEMPTS => {}
            Ok(TxnOutcome::Conflict) => {
                let reason = format!("{} changes all the time", store.keys().path(key));
                return Err(StoreError::Retryable(reason).into());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn cell_path(store: &Store, cell: &CellName) -> String {
    store.keys().path(&Key::Cell(cell.clone()))
}

/// The path as it is recorded, if both lead to the same place: a cluster may be reached by another path than the one
/// that it was made with.
fn recorded_path(recorded: &str, wanted: String) -> String {
    if is_same_place(Path::new(recorded), Path::new(&wanted)) { recorded.to_owned() } else { wanted }
}

/// The repository as it is recorded, if both are the same one.
fn recorded_repository(recorded: Repository, wanted: Repository) -> Repository {
    if is_same_repository(&recorded, &wanted) { recorded } else { wanted }
}

/// How the cells in etcd whose directories are in this cluster's differ from the state file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reconciled {
    /// Cells that etcd has and the remembered state has not: `cells add` was interrupted.
    pub(crate) added: Vec<LocalCell>,
    /// Cells that the remembered state has and etcd has not: `cells remove` was interrupted.
    pub(crate) removed: Vec<CellName>,
}

impl Cluster {
    /// Writes the records of a new cluster and of new databases, or compares with those that there are.
    pub(crate) async fn write_records(&self, store: &Store) -> Result<Reconciled> {
        let mut new = Vec::new();
        for database in self.state.databases() {
            let key = Key::Database(database.name.clone());
            let Some(found) = store.get::<Database>(&key).await? else {
                new.push(database);
                continue;
            };
            let found = found.record;
            let own = self.record_of(database);
            // Names that are being changed, and another retention, are settled later.
            let wanted = Database {
                pgbackrest_names: found.pgbackrest_names.clone(),
                retention: found.retention.clone(),
                minimum_protocol: found.minimum_protocol,
                durability: found.durability,
                settings: found.settings.clone(),
                pause: found.pause.clone(),
                // One from before there were ids is not of another cluster.
                cluster_id: found.cluster_id.and(self.state.id),
                repository: recorded_repository(found.repository.clone(), own.repository),
                ..own
            };
            // Not with what another look would find: multiadmin may have changed it since.
            if found != wanted {
                return Err(differs(store, &key, &found, &wanted));
            }
        }
        // As long as no database is recorded nothing else decides which cells there are.
        let is_new_cluster = new.len() == self.state.databases().count();
        let mut writes = JoinSet::new();
        for cell in &self.state.cells {
            let (store, record) = (store.clone(), self.cell(cell));
            let poolers = new.iter().filter(|database| database.is_wanted_in(&cell.name));
            let poolers = poolers.map(|database| self.pooler(database, cell)).collect::<Result<Vec<_>>>()?;
            writes.spawn(async move {
                if is_new_cluster {
                    ensure(&store, &Key::Cell(record.name.clone()), &record).await?;
                }
                for pooler in poolers {
                    let key = Key::Pooler(pooler.database.clone(), pooler.cell.clone());
                    ensure(&store, &key, &pooler).await?;
                }
                Ok::<_, ProvisionError>(())
            });
        }
        while let Some(written) = writes.join_next().await {
            written
                .map_err(std::io::Error::from)
                .map_err(ProvisionError::io("write", self.layout.root()))??;
        }
        for database in new {
            ensure(store, &Key::Database(database.name.clone()), &self.record_of(database)).await?;
        }
        if is_new_cluster { Ok(Reconciled::default()) } else { self.reconcile(store).await }
    }

    async fn reconcile(&self, store: &Store) -> Result<Reconciled> {
        for database in self.state.databases() {
            self.restore_primary(store, &database.name).await?;
        }
        let listing = store.list(&store.keys().kind("cells")).await?;
        let mut recorded = BTreeMap::new();
        for entry in &listing.entries {
            match serde_json::from_slice::<Cell>(&entry.value) {
                Ok(cell) => drop(recorded.insert(cell.name.clone(), cell)),
                // One of ours that cannot be read is there all the same: it was not removed.
                Err(error)
                    if self.state.cells.iter().any(|cell| cell_path(store, &cell.name) == entry.key) =>
                {
                    let (key, reason) = (entry.key.clone(), error.to_string());
                    return Err(StoreError::Corrupt { key, reason }.into());
                }
                // Any other is multiadmin's to report.
                Err(_) => {}
            }
        }
        for cell in &self.state.cells {
            let Some(found) = recorded.get(&cell.name) else { continue };
            let wanted = self.cell_as_recorded(cell, found);
            if *found != wanted {
                return Err(differs(store, &Key::Cell(cell.name.clone()), found, &wanted));
            }
        }
        self.restore_poolers(store, &listing).await?;
        Ok(self.compare(&recorded))
    }

    /// The record that a cell is to have, with its directory as it is written in the one that is there if both are the same.
    pub(crate) fn cell_as_recorded(&self, cell: &LocalCell, found: &Cell) -> Cell {
        let mut wanted = self.cell(cell);
        wanted.directory = recorded_path(&found.directory, wanted.directory);
        wanted
    }

    /// Writes the record of a primary's cell if it is missing: that cell cannot be removed, so the record was lost.
    async fn restore_primary(&self, store: &Store, database: &DatabaseName) -> Result<()> {
        let leader = store.get::<Leader>(&Key::Leader(database.clone())).await?;
        let Some(cell) = leader.and_then(|leader| self.state.cell(&leader.record.cell)) else {
            return Ok(());
        };
        let key = Key::Cell(cell.name.clone());
        match store.get::<Cell>(&key).await? {
            Some(_) => Ok(()),
            None => ensure(store, &key, &self.cell(cell)).await,
        }
    }

    /// Writes the poolers' records that are missing although their cells are there: what removes a cell deletes both at
    /// once, so they were lost, and without them nothing happens in these cells.
    async fn restore_poolers(&self, store: &Store, cells: &Listing) -> Result<()> {
        for cell in &self.state.cells {
            let path = cell_path(store, &cell.name);
            let Some(found) = cells.entries.iter().find(|entry| entry.key == path) else { continue };
            for wanted in self.poolers(std::slice::from_ref(cell))? {
                let key = Key::Pooler(wanted.database.clone(), wanted.cell.clone());
                let transaction = store.transaction().expect(&Key::Cell(cell.name.clone()), found.revision);
                // A conflict: the cell is being removed at this moment, or the record is there again.
                match store.get::<Pooler>(&key).await? {
                    None => {
                        let _ = transaction.expect_absent(&key).put(&key, &wanted).commit().await?;
                    }
                    // One from before there were health endpoints gets a port for them.
                    Some(recorded) if recorded.record.health_port == 0 => {
                        let record = Pooler { health_port: wanted.health_port, ..recorded.record };
                        let _ =
                            transaction.expect(&key, recorded.revision).put(&key, &record).commit().await?;
                    }
                    // Its older names were taken from whoever stole a key: they are not given back.
                    Some(recorded) if recorded.record.revocations > wanted.revocations => {
                        return Err(ProvisionError::OlderDirectory {
                            dir: self.layout.root().to_owned(),
                            cell: cell.name.to_string(),
                            recorded: recorded.record.revocations,
                            known: wanted.revocations,
                        });
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }

    /// How the cells that are recorded differ from the state file, as far as they are in this cluster's directory.
    pub(crate) fn compare(&self, recorded: &BTreeMap<CellName, Cell>) -> Reconciled {
        let local = |cell: &&Cell| {
            let cell = LocalCell::new(cell.name.clone(), cell.index);
            is_same_place(Path::new(&self.cell(&cell).directory), Path::new(&recorded[&cell.name].directory))
        };
        let added = recorded
            .values()
            .filter(|cell| self.state.cell(&cell.name).is_none())
            // A cell on a host is known here by its specification or by `cells add`, never by its record.
            .filter(|_| self.is_local())
            .filter(local)
            .map(|cell| LocalCell::new(cell.name.clone(), cell.index))
            .collect();
        let gone = self.state.cells.iter().filter(|cell| !recorded.contains_key(&cell.name));
        Reconciled { added, removed: gone.map(|cell| cell.name.clone()).collect() }
    }
}
