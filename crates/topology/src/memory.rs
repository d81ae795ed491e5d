//! The in-memory twin of [`crate::EtcdKv`], for tests of what stands on the store.
//!
//! It keeps etcd's semantics where ours depend on them: revisions, guarded
//! transactions, ordered watches from a past revision, compaction, leases
//! that expire. The conformance suite runs against both.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::StoreError;
use crate::kv::{Change, Entry, Guard, Kv, LeaseId, Listing, TxnOutcome, WatchStream, Write};

#[derive(Debug, Clone)]
struct Value {
    bytes: Vec<u8>,
    revision: i64,
    lease: Option<i64>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    expires: Instant,
}

#[derive(Debug, Default)]
struct State {
    revision: i64,
    compacted: i64,
    values: BTreeMap<String, Value>,
    history: Vec<Change>,
    leases: HashMap<i64, Lease>,
    next_lease: i64,
    unreachable: bool,
}

impl State {
    fn apply(&mut self, writes: Vec<Write>) -> i64 {
        let mut revision = self.revision;
        for write in writes {
            match write {
                Write::Put { key, value, lease } => {
                    revision = self.revision + 1;
                    let stored = Value { bytes: value.clone(), revision, lease: lease.map(|lease| lease.0) };
                    self.values.insert(key.clone(), stored);
                    self.history.push(Change::Put(Entry { key, value, revision }));
                }
                Write::Delete { key } => {
                    if self.values.remove(&key).is_some() {
                        revision = self.revision + 1;
                        self.history.push(Change::Delete { key, revision });
                    }
                }
            }
        }
        self.revision = revision;
        revision
    }

    fn end_lease(&mut self, lease: i64) {
        self.leases.remove(&lease);
        let bound: Vec<Write> = self
            .values
            .iter()
            .filter(|(_, value)| value.lease == Some(lease))
            .map(|(key, _)| Write::Delete { key: key.clone() })
            .collect();
        self.apply(bound);
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let ended: Vec<i64> =
            self.leases.iter().filter(|(_, lease)| lease.expires <= now).map(|(id, _)| *id).collect();
        for lease in ended {
            self.end_lease(lease);
        }
    }

    fn changes(&self, prefix: &str, from: i64) -> Vec<Change> {
        self.history
            .iter()
            .filter(|change| {
                let (key, revision) = match change {
                    Change::Put(entry) => (&entry.key, entry.revision),
                    Change::Delete { key, revision } => (key, *revision),
                };
                revision >= from && key.starts_with(prefix)
            })
            .cloned()
            .collect()
    }
}

/// A store in this process. Clones share it.
#[derive(Debug, Clone)]
pub struct MemoryKv {
    state: Arc<Mutex<State>>,
    revision: watch::Sender<i64>,
}

impl Default for MemoryKv {
    fn default() -> Self {
        Self { state: Arc::default(), revision: watch::Sender::new(0) }
    }
}

impl MemoryKv {
    fn state(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.unreachable {
            return Err(StoreError::Retryable("made unreachable".to_owned()));
        }
        state.expire();
        self.announce(&state);
        Ok(state)
    }

    fn announce(&self, state: &State) {
        self.revision.send_if_modified(|seen| std::mem::replace(seen, state.revision) != state.revision);
    }

    /// Makes every call fail as if the store were down, and ends every watch, until called with
    /// `false`. Leases go on ageing.
    pub fn set_unreachable(&self, unreachable: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.unreachable = unreachable;
        let revision = if unreachable { -1 } else { state.revision };
        self.revision.send_replace(revision);
    }

    /// Forgets all history before the present revision, as etcd's compaction does.
    pub fn compact(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.compacted = state.revision;
        state.history.clear();
    }
}

#[async_trait]
impl Kv for MemoryKv {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let state = self.state()?;
        Ok(state.values.get(key).map(|value| Entry {
            key: key.to_owned(),
            value: value.bytes.clone(),
            revision: value.revision,
        }))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let state = self.state()?;
        let entries = state
            .values
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| Entry {
                key: key.clone(),
                value: value.bytes.clone(),
                revision: value.revision,
            })
            .collect();
        Ok(Listing { entries, revision: state.revision })
    }

    async fn txn(&self, guards: Vec<Guard>, writes: Vec<Write>) -> Result<TxnOutcome, StoreError> {
        let mut state = self.state()?;
        let holds = guards
            .iter()
            .all(|guard| state.values.get(&guard.key).map_or(0, |value| value.revision) == guard.revision);
        if !holds {
            return Ok(TxnOutcome::Conflict);
        }
        let unknown = |write: &Write| match write {
            Write::Put { lease: Some(lease), .. } => !state.leases.contains_key(&lease.0),
            _ => false,
        };
        if writes.iter().any(unknown) {
            return Err(StoreError::Terminal("requested lease not found".to_owned()));
        }
        let revision = state.apply(writes);
        self.announce(&state);
        Ok(TxnOutcome::Committed(revision))
    }

    async fn watch(&self, prefix: &str, revision: i64) -> Result<WatchStream, StoreError> {
        drop(self.state()?);
        let this = self.clone();
        let prefix = prefix.to_owned();
        let seen = self.revision.subscribe();
        let changes = stream::unfold(Some((seen, revision, true)), move |position| {
            let (this, prefix) = (this.clone(), prefix.clone());
            async move {
                let (mut seen, from, first) = position?;
                if first {
                    return Some((Ok(Vec::new()), Some((seen, from, false))));
                }
                loop {
                    seen.borrow_and_update();
                    let (changes, next) = match this.state() {
                        Ok(state) if from <= state.compacted => {
                            return Some((Err(StoreError::Compacted), None));
                        }
                        Ok(state) => (state.changes(&prefix, from), state.revision + 1),
                        Err(error) => return Some((Err(error), None)),
                    };
                    if !changes.is_empty() {
                        return Some((Ok(changes), Some((seen, next.max(from), false))));
                    }
                    // Leases expire without anybody writing, so the clock is looked at too.
                    let _ = tokio::time::timeout(Duration::from_millis(20), seen.changed()).await;
                }
            }
        });
        Ok(changes.boxed())
    }

    async fn grant(&self, ttl: u32) -> Result<LeaseId, StoreError> {
        let mut state = self.state()?;
        state.next_lease += 1;
        let id = state.next_lease;
        let ttl = Duration::from_secs(u64::from(ttl));
        state.leases.insert(id, Lease { ttl, expires: Instant::now() + ttl });
        Ok(LeaseId(id))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<bool, StoreError> {
        let mut state = self.state()?;
        Ok(state.leases.get_mut(&lease.0).map(|lease| lease.expires = Instant::now() + lease.ttl).is_some())
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut state = self.state()?;
        state.end_lease(lease.0);
        self.announce(&state);
        Ok(())
    }
}
