//! Keys and records on top of [`Kv`].

use std::sync::Arc;

use cellar_model::{Key, Keyspace};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::StoreError;
use crate::kv::{Guard, Kv, LeaseId, Listing, TxnOutcome, Write};

/// A record with the revision of its last change, for guards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<R> {
    /// The record.
    pub record: R,
    /// The revision of its last change.
    pub revision: i64,
}

/// The typed store of one cluster.
#[derive(Debug, Clone)]
pub struct Store {
    kv: Arc<dyn Kv>,
    keys: Keyspace,
}

impl Store {
    /// A store over `kv` with the keys of one cluster.
    #[must_use]
    pub fn new(kv: Arc<dyn Kv>, keys: Keyspace) -> Self {
        Self { kv, keys }
    }

    /// Where each record lies.
    #[must_use]
    pub fn keys(&self) -> &Keyspace {
        &self.keys
    }

    /// What lies below.
    #[must_use]
    pub fn kv(&self) -> &Arc<dyn Kv> {
        &self.kv
    }

    /// Reads one record, linearizably.
    ///
    /// # Errors
    /// When the store cannot be reached, or the value is not such a record.
    pub async fn get<R: DeserializeOwned>(&self, key: &Key) -> Result<Option<Versioned<R>>, StoreError> {
        let path = self.keys.path(key);
        let Some(entry) = self.kv.get(&path).await? else { return Ok(None) };
        let record = serde_json::from_slice(&entry.value)
            .map_err(|error| StoreError::Corrupt { key: path, reason: error.to_string() })?;
        Ok(Some(Versioned { record, revision: entry.revision }))
    }

    /// All entries below a prefix of [`Keyspace`].
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.kv.list(prefix).await
    }

    /// Begins a transaction.
    #[must_use]
    pub fn transaction(&self) -> Transaction<'_> {
        Transaction { store: self, guards: Vec::new(), writes: Ok(Vec::new()) }
    }
}

/// Guards and writes that happen together or not at all.
#[derive(Debug)]
#[must_use = "nothing happens until it is committed"]
pub struct Transaction<'a> {
    store: &'a Store,
    guards: Vec<Guard>,
    writes: Result<Vec<Write>, StoreError>,
}

impl Transaction<'_> {
    /// Only if the key was last changed at `revision`; 0 for a key that is not there.
    pub fn expect(mut self, key: &Key, revision: i64) -> Self {
        self.guards.push(Guard { key: self.store.keys.path(key), revision });
        self
    }

    /// Only if there is no such key.
    pub fn expect_absent(self, key: &Key) -> Self {
        self.expect(key, 0)
    }

    fn write(mut self, write: Result<Write, StoreError>) -> Self {
        self.writes = self.writes.and_then(|mut writes| {
            writes.push(write?);
            Ok(writes)
        });
        self
    }

    fn encoded<R: Serialize>(self, key: &Key, record: &R, lease: Option<LeaseId>) -> Self {
        let key = self.store.keys.path(key);
        let write = serde_json::to_vec(record)
            .map(|value| Write::Put { key, value, lease })
            .map_err(StoreError::Encode);
        self.write(write)
    }

    /// Sets a record.
    pub fn put<R: Serialize>(self, key: &Key, record: &R) -> Self {
        self.encoded(key, record, None)
    }

    /// Sets a record that goes with a lease.
    pub fn put_leased<R: Serialize>(self, key: &Key, record: &R, lease: LeaseId) -> Self {
        self.encoded(key, record, Some(lease))
    }

    /// Removes a record.
    pub fn delete(self, key: &Key) -> Self {
        let key = self.store.keys.path(key);
        self.write(Ok(Write::Delete { key }))
    }

    /// Does it all, or nothing.
    ///
    /// # Errors
    /// When the store cannot be reached; then it may or may not have happened.
    pub async fn commit(self) -> Result<TxnOutcome, StoreError> {
        self.store.kv.txn(self.guards, self.writes?).await
    }
}
