//! The semantics of etcd that ours depend on, as a value: no clock, no tasks, the same answers every time.
//!
//! [`crate::MemoryKv`] puts a clock and watches around it; a simulation puts delays and losses around it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cellar_model::Keyspace;

use crate::error::StoreError;
use crate::kv::{Change, Entry, Guard, LeaseId, Listing, TxnOutcome, Write};

/// etcd's `--max-txn-ops`, which nobody raises: it holds for guards and for writes.
const MAX_TXN_OPS: usize = 128;

/// etcd's `--max-request-bytes`. What etcd counts is the encoded request, a little more.
const MAX_REQUEST_BYTES: usize = 3 << 19;

#[derive(Debug, Clone)]
struct Value {
    bytes: Vec<u8>,
    revision: i64,
    lease: Option<i64>,
}

impl Value {
    fn entry(&self, key: &str) -> Entry {
        Entry { key: key.to_owned(), value: self.bytes.clone(), revision: self.revision }
    }
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    expires: Duration,
}

/// Keys, their history and leases. Moments are durations since an instant of the caller's.
#[derive(Debug)]
pub struct StoreState {
    revision: i64,
    compacted: i64,
    values: BTreeMap<String, Value>,
    history: Vec<Change>,
    leases: BTreeMap<i64, Lease>,
    next_lease: i64,
}

impl Default for StoreState {
    fn default() -> Self {
        Self {
            // An empty etcd is at revision 1.
            revision: 1,
            compacted: 0,
            values: BTreeMap::new(),
            history: Vec::new(),
            leases: BTreeMap::new(),
            next_lease: 0,
        }
    }
}

impl StoreState {
    /// The key's entry.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Entry> {
        self.values.get(key).map(|value| value.entry(key))
    }

    /// All entries below `prefix`, in the order of their keys.
    #[must_use]
    pub fn list(&self, prefix: &str) -> Listing {
        let entries = self
            .values
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter(|(key, _)| Keyspace::is_in_range(prefix, key))
            .map(|(key, value)| value.entry(key))
            .collect();
        Listing { entries, revision: self.revision }
    }

    /// The present revision.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Writes everything if every guard holds. Also returns what changed.
    ///
    /// # Errors
    /// [`StoreError::Terminal`] for what etcd refuses before it looks at any guard, and for a lease that has ended.
    pub fn txn(
        &mut self,
        guards: &[Guard],
        writes: Vec<Write>,
    ) -> Result<(TxnOutcome, Vec<Change>), StoreError> {
        check(guards, &writes)?;
        let holds = guards
            .iter()
            .all(|guard| self.values.get(&guard.key).map_or(0, |value| value.revision) == guard.revision);
        if !holds {
            return Ok((TxnOutcome::Conflict, Vec::new()));
        }
        let unknown = |write: &Write| match write {
            Write::Put { lease: Some(lease), .. } => !self.leases.contains_key(&lease.0),
            _ => false,
        };
        if writes.iter().any(unknown) {
            return Err(StoreError::Terminal("requested lease not found".to_owned()));
        }
        let changes = self.apply(writes);
        Ok((TxnOutcome::Committed(self.revision), changes))
    }

    /// What changed below `prefix` from `revision` on; `None` when that has been compacted away.
    #[must_use]
    pub fn since(&self, prefix: &str, revision: i64) -> Option<Vec<Change>> {
        (revision >= self.compacted).then(|| below(&self.history, prefix, revision))
    }

    /// A new lease.
    pub fn grant(&mut self, ttl: Duration, now: Duration) -> LeaseId {
        self.next_lease += 1;
        self.leases.insert(self.next_lease, Lease { ttl, expires: now + ttl });
        LeaseId(self.next_lease)
    }

    /// Renews a lease; false when there is none.
    pub fn keep_alive(&mut self, lease: LeaseId, now: Duration) -> bool {
        self.leases.get_mut(&lease.0).map(|lease| lease.expires = now + lease.ttl).is_some()
    }

    /// Begins every lease's time again, as a new leader of etcd does.
    pub fn extend_leases(&mut self, now: Duration) {
        for lease in self.leases.values_mut() {
            lease.expires = now + lease.ttl;
        }
    }

    /// Ends a lease; returns the deletions of the keys bound to it.
    pub fn revoke(&mut self, lease: LeaseId) -> Vec<Change> {
        self.leases.remove(&lease.0);
        let bound: Vec<Write> = self
            .values
            .iter()
            .filter(|(_, value)| value.lease == Some(lease.0))
            .map(|(key, _)| Write::Delete { key: key.clone() })
            .collect();
        self.apply(bound)
    }

    /// Ends the leases whose time is over; returns the deletions that each caused, in batches of one revision.
    pub fn expire(&mut self, now: Duration) -> Vec<Vec<Change>> {
        let ended: Vec<i64> =
            self.leases.iter().filter(|(_, lease)| lease.expires <= now).map(|(id, _)| *id).collect();
        ended.into_iter().map(|lease| self.revoke(LeaseId(lease))).collect()
    }

    /// Forgets all history before the present revision, as etcd's compaction does.
    pub fn compact(&mut self) {
        self.compacted = self.revision;
        let at = self.revision;
        self.history.retain(|change| change.revision() >= at);
    }

    /// Does one transaction's writes, all at one revision. Writes that change nothing take none.
    fn apply(&mut self, writes: Vec<Write>) -> Vec<Change> {
        let revision = self.revision + 1;
        let mut changes = Vec::new();
        for write in writes {
            match write {
                Write::Put { key, value, lease } => {
                    let stored = Value { bytes: value.clone(), revision, lease: lease.map(|lease| lease.0) };
                    self.values.insert(key.clone(), stored);
                    changes.push(Change::Put(Entry { key, value, revision }));
                }
                Write::Delete { key } => {
                    if self.values.remove(&key).is_some() {
                        changes.push(Change::Delete { key, revision });
                    }
                }
            }
        }
        if !changes.is_empty() {
            self.revision = revision;
            self.history.extend(changes.iter().cloned());
        }
        changes
    }
}

/// The changes below a prefix from a revision on.
#[must_use]
pub fn below(changes: &[Change], prefix: &str, from: i64) -> Vec<Change> {
    changes
        .iter()
        .filter(|change| change.revision() >= from && Keyspace::is_in_range(prefix, change.key()))
        .cloned()
        .collect()
}

/// What etcd refuses before it looks at any guard.
fn check(guards: &[Guard], writes: &[Write]) -> Result<(), StoreError> {
    if guards.len() > MAX_TXN_OPS || writes.len() > MAX_TXN_OPS {
        return Err(StoreError::Terminal("too many operations in txn request".to_owned()));
    }
    let bytes = |write: &Write| match write {
        Write::Put { key, value, .. } => key.len() + value.len(),
        Write::Delete { key } => key.len(),
    };
    if writes.iter().map(bytes).sum::<usize>() > MAX_REQUEST_BYTES {
        return Err(StoreError::Terminal("request is too large".to_owned()));
    }
    let mut put = BTreeSet::new();
    let puts_differ = writes.iter().all(|write| match write {
        Write::Put { key, .. } => put.insert(key),
        Write::Delete { .. } => true,
    });
    let deletes_others = writes.iter().all(|write| match write {
        Write::Put { .. } => true,
        Write::Delete { key } => !put.contains(key),
    });
    if puts_differ && deletes_others {
        Ok(())
    } else {
        Err(StoreError::Terminal("duplicate key given in txn request".to_owned()))
    }
}
