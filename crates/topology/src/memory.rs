//! The in-memory twin of [`crate::EtcdKv`], for tests of what stands on the store.
//!
//! It keeps etcd's semantics where ours depend on them: revisions, guarded
//! transactions and their limits, ordered watches from a past revision,
//! compaction, leases that expire. The conformance suite runs against both.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::StoreError;
use crate::kv::{Change, Entry, Guard, Kv, LeaseId, Listing, TxnOutcome, WatchStream, Write};

/// etcd's `--max-txn-ops`, which nobody raises: it holds for guards and for writes.
const MAX_TXN_OPS: usize = 128;

/// etcd's `--max-request-bytes`. What etcd counts is the encoded request, a little more.
const MAX_REQUEST_BYTES: usize = 3 << 19;

/// Leases expire without anybody calling, so a watch looks at the clock this often.
const TICK: Duration = Duration::from_millis(20);

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
    expires: Instant,
}

#[derive(Debug)]
struct Watcher {
    prefix: String,
    from: i64,
    sender: mpsc::UnboundedSender<Result<Vec<Change>, StoreError>>,
}

#[derive(Debug)]
struct State {
    revision: i64,
    compacted: i64,
    values: BTreeMap<String, Value>,
    history: Vec<Change>,
    leases: HashMap<i64, Lease>,
    next_lease: i64,
    watchers: Vec<Watcher>,
    unreachable: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            // An empty etcd is at revision 1.
            revision: 1,
            compacted: 0,
            values: BTreeMap::new(),
            history: Vec::new(),
            leases: HashMap::new(),
            next_lease: 0,
            watchers: Vec::new(),
            unreachable: false,
        }
    }
}

impl State {
    /// Does one transaction's writes, all at one revision. Writes that change nothing take none.
    fn apply(&mut self, writes: Vec<Write>) -> i64 {
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
            self.watchers.retain(|watcher| {
                let seen = below(&changes, &watcher.prefix, watcher.from);
                if seen.is_empty() {
                    !watcher.sender.is_closed()
                } else {
                    watcher.sender.send(Ok(seen)).is_ok()
                }
            });
            self.history.extend(changes);
        }
        self.revision
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
}

/// The changes below a prefix from a revision on.
fn below(changes: &[Change], prefix: &str, from: i64) -> Vec<Change> {
    changes
        .iter()
        .filter(|change| change.revision() >= from && change.key().starts_with(prefix))
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
    let mut put = HashSet::new();
    let puts_anew = writes.iter().all(|write| match write {
        Write::Put { key, .. } => put.insert(key),
        Write::Delete { .. } => true,
    });
    let deletes_others = writes.iter().all(|write| match write {
        Write::Put { .. } => true,
        Write::Delete { key } => !put.contains(key),
    });
    if puts_anew && deletes_others {
        Ok(())
    } else {
        Err(StoreError::Terminal("duplicate key given in txn request".to_owned()))
    }
}

/// A store in this process. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryKv {
    state: Arc<Mutex<State>>,
}

impl MemoryKv {
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.unreachable {
            state.expire();
        }
        state
    }

    fn state(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.lock();
        if state.unreachable { Err(unreachable()) } else { Ok(state) }
    }

    /// Makes every call fail as if the store were down, and ends every watch, until called with
    /// `false`. Leases go on ageing.
    pub fn set_unreachable(&self, unreachable: bool) {
        let mut state = self.lock();
        state.unreachable = unreachable;
        if unreachable {
            for watcher in state.watchers.drain(..) {
                let _ = watcher.sender.send(Err(self::unreachable()));
            }
        }
    }

    /// Forgets all history before the present revision, as etcd's compaction does. A watch that
    /// stands does not notice.
    pub fn compact(&self) {
        let mut state = self.lock();
        let at = state.revision;
        state.compacted = at;
        state.history.retain(|change| change.revision() >= at);
    }
}

fn unreachable() -> StoreError {
    StoreError::Retryable("made unreachable".to_owned())
}

#[async_trait]
impl Kv for MemoryKv {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.state()?.values.get(key).map(|value| value.entry(key)))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let state = self.state()?;
        let entries = state
            .values
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| value.entry(key))
            .collect();
        Ok(Listing { entries, revision: state.revision })
    }

    async fn txn(&self, guards: Vec<Guard>, writes: Vec<Write>) -> Result<TxnOutcome, StoreError> {
        let mut state = self.state()?;
        check(&guards, &writes)?;
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
        Ok(TxnOutcome::Committed(state.apply(writes)))
    }

    async fn watch(&self, prefix: &str, revision: i64) -> Result<WatchStream, StoreError> {
        let mut state = self.state()?;
        let (sender, receiver) = mpsc::unbounded_channel();
        // Nobody can have dropped the receiver yet.
        let _ = sender.send(Ok(Vec::new()));
        if revision < state.compacted {
            let _ = sender.send(Err(StoreError::Compacted));
        } else {
            let past = below(&state.history, prefix, revision);
            if !past.is_empty() {
                let _ = sender.send(Ok(past));
            }
            state.watchers.push(Watcher { prefix: prefix.to_owned(), from: revision, sender });
        }
        drop(state);
        let changes = stream::unfold((self.clone(), receiver), |(this, mut receiver)| async move {
            loop {
                match tokio::time::timeout(TICK, receiver.recv()).await {
                    Ok(item) => return Some((item?, (this, receiver))),
                    Err(_) => drop(this.lock()),
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
        self.state()?.end_lease(lease.0);
        Ok(())
    }
}
