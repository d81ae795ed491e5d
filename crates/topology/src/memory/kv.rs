//! A store in this process: [`StoreState`] with a clock, and watches.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::error::StoreError;
use crate::kv::{Change, Entry, Guard, Kv, LeaseId, Listing, TxnOutcome, WatchStream, Write};
use crate::memory::state::{StoreState, below};

/// Leases expire without anybody calling, so a watch looks at the clock this often.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug)]
struct Watcher {
    prefix: String,
    from: i64,
    sender: mpsc::UnboundedSender<Result<Vec<Change>, StoreError>>,
}

#[derive(Debug, Default)]
struct Shared {
    store: StoreState,
    watchers: Vec<Watcher>,
    unreachable: bool,
    full: bool,
    begun: Option<Instant>,
}

impl Shared {
    fn now(&mut self) -> Duration {
        self.begun.get_or_insert_with(Instant::now).elapsed()
    }

    /// Sends the changes of one revision to the watches that they concern.
    fn publish(&mut self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        self.watchers.retain(|watcher| {
            let seen = below(changes, &watcher.prefix, watcher.from);
            if seen.is_empty() { !watcher.sender.is_closed() } else { watcher.sender.send(Ok(seen)).is_ok() }
        });
    }
}

/// A store in this process. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryKv {
    shared: Arc<Mutex<Shared>>,
}

impl MemoryKv {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if !shared.unreachable {
            let now = shared.now();
            for changes in shared.store.expire(now) {
                shared.publish(&changes);
            }
        }
        shared
    }

    fn reachable(&self) -> Result<MutexGuard<'_, Shared>, StoreError> {
        let shared = self.lock();
        if shared.unreachable { Err(unreachable()) } else { Ok(shared) }
    }

    /// Makes every call fail as if the store were down, and ends every watch, until called with
    /// `false`. Leases still expire.
    pub fn set_unreachable(&self, unreachable: bool) {
        let mut shared = self.lock();
        shared.unreachable = unreachable;
        if unreachable {
            for watcher in shared.watchers.drain(..) {
                let _ = watcher.sender.send(Err(self::unreachable()));
            }
        }
    }

    /// Makes it take no write, as an etcd whose database is full, until called with `false`.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Forgets all history before the present revision, as etcd's compaction does. An open
    /// watch goes on undisturbed.
    pub fn compact(&self) {
        self.lock().store.compact();
    }
}

fn unreachable() -> StoreError {
    StoreError::Retryable("made unreachable".to_owned())
}

#[async_trait]
impl Kv for MemoryKv {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.reachable()?.store.get(key))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        Ok(self.reachable()?.store.list(prefix))
    }

    async fn txn(&self, guards: Vec<Guard>, writes: Vec<Write>) -> Result<TxnOutcome, StoreError> {
        let mut shared = self.reachable()?;
        if shared.full && writes.iter().any(|write| matches!(write, Write::Put { .. })) {
            return Err(StoreError::Full("etcdserver: mvcc: database space exceeded".to_owned()));
        }
        let (outcome, changes) = shared.store.txn(&guards, writes)?;
        shared.publish(&changes);
        Ok(outcome)
    }

    async fn watch(&self, prefix: &str, revision: i64) -> Result<WatchStream, StoreError> {
        let mut shared = self.reachable()?;
        let (sender, receiver) = mpsc::unbounded_channel();
        // Nobody can have dropped the receiver yet.
        let _ = sender.send(Ok(Vec::new()));
        match shared.store.since(prefix, revision) {
            None => drop(sender.send(Err(StoreError::Compacted))),
            Some(past) => {
                if !past.is_empty() {
                    let _ = sender.send(Ok(past));
                }
                shared.watchers.push(Watcher { prefix: prefix.to_owned(), from: revision, sender });
            }
        }
        drop(shared);
        let changes = stream::unfold((self.clone(), receiver), |(this, mut receiver)| async move {
            loop {
                match tokio::time::timeout(EXPIRY_INTERVAL, receiver.recv()).await {
                    Ok(item) => return Some((item?, (this, receiver))),
                    Err(_) => drop(this.lock()),
                }
            }
        });
        Ok(changes.boxed())
    }

    async fn alarms(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.reachable()?.full.then(|| "NOSPACE".to_owned()).into_iter().collect())
    }

    async fn grant(&self, ttl: u32) -> Result<LeaseId, StoreError> {
        let mut shared = self.reachable()?;
        let now = shared.now();
        Ok(shared.store.grant(Duration::from_secs(u64::from(ttl)), now))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<bool, StoreError> {
        let mut shared = self.reachable()?;
        let now = shared.now();
        Ok(shared.store.keep_alive(lease, now))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut shared = self.reachable()?;
        let changes = shared.store.revoke(lease);
        shared.publish(&changes);
        Ok(())
    }
}
