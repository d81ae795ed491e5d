//! Keys and records on top of [`Kv`].

use std::sync::Arc;

use cellar_model::{Key, Keyspace};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::StoreError;
use crate::kv::{Guard, Kv, LeaseId, Listing, TxnOutcome, Write};
use crate::unknown_fields::{Understood, kept, understood};

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

    /// The path of each record.
    #[must_use]
    pub fn keys(&self) -> &Keyspace {
        &self.keys
    }

    /// The key-value store below.
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

    /// Starts a transaction.
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
    /// Each with what this build understands of a value that it replaces.
    writes: Result<Vec<(Write, Understood)>, StoreError>,
}

impl Transaction<'_> {
    /// Commits only if the key was last changed at `revision`; 0 for a key that does not exist.
    pub fn expect(mut self, key: &Key, revision: i64) -> Self {
        self.guards.push(Guard { key: self.store.keys.path(key), revision });
        self
    }

    /// Commits only if the key does not exist.
    pub fn expect_absent(self, key: &Key) -> Self {
        self.expect(key, 0)
    }

    fn write(mut self, write: Result<Write, StoreError>, understood: Understood) -> Self {
        self.writes = self.writes.and_then(|mut writes| {
            writes.push((write?, understood));
            Ok(writes)
        });
        self
    }

    fn put_encoded<R: Serialize + DeserializeOwned>(
        self,
        key: &Key,
        record: &R,
        lease: Option<LeaseId>,
    ) -> Self {
        let key = self.store.keys.path(key);
        let write = serde_json::to_vec(record)
            .map(|value| Write::Put { key, value, lease })
            .map_err(StoreError::Encode);
        self.write(write, understood::<R>)
    }

    /// Sets a record. If a guard expects a certain revision of it, the fields of that revision that this build does not
    /// know are kept: another build's process wrote them.
    pub fn put<R: Serialize + DeserializeOwned>(self, key: &Key, record: &R) -> Self {
        self.put_encoded(key, record, None)
    }

    /// Sets a record that is deleted when the lease ends.
    pub fn put_leased<R: Serialize + DeserializeOwned>(self, key: &Key, record: &R, lease: LeaseId) -> Self {
        self.put_encoded(key, record, Some(lease))
    }

    /// Removes a record.
    pub fn delete(self, key: &Key) -> Self {
        let key = self.store.keys.path(key);
        self.write(Ok(Write::Delete { key }), |_| None)
    }

    /// Does all writes, or none.
    ///
    /// # Errors
    /// When a record cannot be encoded, or the store refuses or cannot be reached. After
    /// [`StoreError::Retryable`] the transaction may or may not have been committed.
    pub async fn commit(self) -> Result<TxnOutcome, StoreError> {
        let mut writes = self.writes?;
        for (write, understood) in &mut writes {
            let Write::Put { key, value, .. } = write else { continue };
            let is_rewritten = |guard: &&Guard| guard.key == *key && guard.revision != 0;
            let Some(guard) = self.guards.iter().find(is_rewritten) else { continue };
            match self.store.kv.get(key).await? {
                Some(entry) if entry.revision == guard.revision => {
                    *value = kept(&entry.value, std::mem::take(value), *understood);
                }
                // The guard would not hold.
                _ => return Ok(TxnOutcome::Conflict),
            }
        }
        self.store.kv.txn(self.guards, writes.into_iter().map(|(write, _)| write).collect()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::kv::MemoryKv;
    use cellar_model::Cell;

    fn store() -> Store {
        Store::new(Arc::new(MemoryKv::default()), Keyspace::new(&"demo".parse().unwrap()))
    }

    fn key() -> Key {
        Key::Cell("zone1".parse().unwrap())
    }

    fn cell(index: u32) -> Cell {
        Cell { name: "zone1".parse().unwrap(), index, host: "h".parse().unwrap(), directory: "/d".into() }
    }

    async fn put_raw(store: &Store, value: &[u8]) {
        let write = Write::Put { key: store.keys().path(&key()), value: value.to_vec(), lease: None };
        store.kv().txn(vec![], vec![write]).await.unwrap();
    }

    #[tokio::test]
    async fn a_record_is_read_with_its_revision() {
        let store = store();
        assert_eq!(store.get::<Cell>(&key()).await.unwrap(), None);
        let written = store.transaction().expect_absent(&key()).put(&key(), &cell(1)).commit().await.unwrap();
        let held = store.get::<Cell>(&key()).await.unwrap().unwrap();
        assert_eq!(held.record, cell(1));
        assert_eq!(written, TxnOutcome::Committed(held.revision));

        let conflict =
            store.transaction().expect_absent(&key()).put(&key(), &cell(2)).commit().await.unwrap();
        assert_eq!(conflict, TxnOutcome::Conflict);
        let transaction = store.transaction().expect(&key(), held.revision).delete(&key());
        assert!(matches!(transaction.commit().await.unwrap(), TxnOutcome::Committed(_)));
        assert_eq!(store.get::<Cell>(&key()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_record_that_cannot_be_read_is_named() {
        let store = store();
        for value in [b"".as_slice(), b"null", b"{}", b"\xff", br#"{"name":"ZONE","host":"","directory":""}"#]
        {
            put_raw(&store, value).await;
            match store.get::<Cell>(&key()).await.unwrap_err() {
                StoreError::Corrupt { key, reason } => {
                    assert_eq!(key, "/cellar/demo/cells/zone1");
                    assert!(!reason.is_empty());
                }
                error => panic!("{error}"),
            }
        }
        // It is still there for whoever repairs it.
        assert_eq!(store.list(&store.keys().all()).await.unwrap().entries.len(), 1);
    }

    #[tokio::test]
    async fn what_cannot_be_written_stops_the_whole_transaction() {
        let store = store();
        // JSON has no keys that are sequences.
        let odd = std::collections::BTreeMap::from([(vec![1], 1)]);
        let transaction = store.transaction().put(&key(), &odd).put(&Key::AdminLeader, &"a".to_owned());
        assert!(matches!(transaction.commit().await, Err(StoreError::Encode(_))));
        assert_eq!(store.list(&store.keys().all()).await.unwrap().entries, []);
    }

    #[tokio::test]
    async fn record_that_is_written_again_keeps_what_another_build_stored() {
        let store = store();
        put_raw(&store, br#"{"name":"zone1","index":1,"host":"h","directory":"/d","rack":{"row":4}}"#).await;
        let held = store.get::<Cell>(&key()).await.unwrap().unwrap();
        let changed = store.transaction().expect(&key(), held.revision).put(&key(), &cell(7));
        assert!(matches!(changed.commit().await.unwrap(), TxnOutcome::Committed(_)));
        let raw = store.kv().get(&store.keys().path(&key())).await.unwrap().unwrap().value;
        let raw: serde_json::Value = serde_json::from_slice(&raw).unwrap();
        assert_eq!((&raw["index"], &raw["rack"]["row"]), (&7.into(), &4.into()));
        // One that was changed since is left alone.
        let late = store.transaction().expect(&key(), held.revision).put(&key(), &cell(8));
        assert_eq!(late.commit().await.unwrap(), TxnOutcome::Conflict);
    }

    #[tokio::test]
    async fn leased_records_go_with_their_lease() {
        let store = store();
        let lease = store.kv().grant(60).await.unwrap();
        store
            .transaction()
            .put_leased(&key(), &cell(1), lease)
            .put(&Key::AdminLeader, &"a".to_owned())
            .commit()
            .await
            .unwrap();
        store.kv().revoke(lease).await.unwrap();
        assert_eq!(store.get::<Cell>(&key()).await.unwrap(), None);
        assert_eq!(store.get::<String>(&Key::AdminLeader).await.unwrap().unwrap().record, "a");
    }
}
