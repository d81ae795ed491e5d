//! The interface between the typed store and etcd.

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use crate::error::StoreError;

/// A lease: keys bound to it are deleted when it is not kept alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId(pub(crate) i64);

/// One key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The revision of its last change.
    pub revision: i64,
}

/// All keys below a prefix at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// In the order of their keys.
    pub entries: Vec<Entry>,
    /// The store's revision at that moment; watch from the next.
    pub revision: i64,
}

/// Some of the keys below a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In the order of their keys.
    pub entries: Vec<Entry>,
    /// The revision that the whole listing shows.
    pub revision: i64,
    /// Where the next page begins; none after the last.
    pub next: Option<Vec<u8>>,
}

/// A condition of a transaction: the key was last changed at this revision. 0 means that there
/// is no such key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The key.
    pub key: String,
    /// The revision of its last change, 0 for none.
    pub revision: i64,
}

/// A write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// The lease it is bound to.
        lease: Option<LeaseId>,
    },
    /// Removes a key, if it is there.
    Delete {
        /// The key.
        key: String,
    },
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxnOutcome {
    /// All guards held and all writes were done, at this revision.
    Committed(i64),
    /// Some guard did not hold; nothing was written.
    Conflict,
}

/// A change seen by a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A key was set.
    Put(Entry),
    /// A key was removed or its lease ended.
    Delete {
        /// The key.
        key: String,
        /// The revision at which it was removed.
        revision: i64,
    },
}

impl Change {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision at which it changed.
    #[must_use]
    pub fn revision(&self) -> i64 {
        match self {
            Self::Put(entry) => entry.revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// Changes in the order they happened, those of one transaction always in one batch. An `Err` ends
/// the stream.
pub type WatchStream = BoxStream<'static, Result<Vec<Change>, StoreError>>;

/// A key-value store with revisions, such as etcd.
#[async_trait]
pub trait Kv: Send + Sync + std::fmt::Debug + 'static {
    /// The key's entry, read linearizably.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// All entries below `prefix`, which ends with `/`; of any other text the one entry of that key. So it is wherever a
    /// prefix is taken: see [`cellar_model::Keyspace::is_in_range`].
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// The entries below `prefix` a page at a time, so that nobody needs memory for all of them at once: the first page,
    /// or the one at `next` of the page before, with that page's revision.
    ///
    /// [`StoreError::Compacted`] when that revision has been compacted away between two pages. A store that has all
    /// entries in memory anyway may answer with one page.
    async fn list_page(&self, prefix: &str, next: Option<(Vec<u8>, i64)>) -> Result<Page, StoreError> {
        let _ = next;
        let Listing { entries, revision } = self.list(prefix).await?;
        Ok(Page { entries, revision, next: None })
    }

    /// Writes everything if every guard holds, and nothing otherwise. All writes get one revision;
    /// a transaction that changes nothing gets none and returns the present one.
    ///
    /// etcd's limits hold: at most 128 guards and 128 writes, 1.5 MiB in all, and no key may be put
    /// twice, or put and deleted. Exceeding them is [`StoreError::Terminal`], as is a lease that has ended.
    async fn txn(&self, guards: Vec<Guard>, writes: Vec<Write>) -> Result<TxnOutcome, StoreError>;

    /// Every change below `prefix` from `revision` (inclusive) on.
    ///
    /// The first item is an empty batch, sent when the watch is open. The stream ends with
    /// [`StoreError::Compacted`] when the revision has been compacted away.
    async fn watch(&self, prefix: &str, revision: i64) -> Result<WatchStream, StoreError>;

    /// The alarms that the store has set, such as `NOSPACE`.
    async fn alarms(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    /// A new lease of `ttl` seconds; etcd raises a TTL shorter than 1.5 election timeouts (2 s).
    async fn grant(&self, ttl: u32) -> Result<LeaseId, StoreError>;

    /// Renews a lease; false when it has ended or never existed.
    async fn keep_alive(&self, lease: LeaseId) -> Result<bool, StoreError>;

    /// Ends a lease and removes its keys. Does nothing when it has ended already.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;
}
