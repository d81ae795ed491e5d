//! Errors of the store. Which are worth repeating is decided once, here and in `etcd::errors`.

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached or has no leader: the same call may work later. A transaction
    /// that ends with it may or may not have been committed: read again before deciding.
    #[error("etcd cannot be reached ({0})")]
    Retryable(String),
    /// Its database is full: it takes no write until somebody frees space in it and ends its alarm.
    #[error("etcd's database is full ({0})")]
    Full(String),
    /// The same call will fail again.
    #[error("etcd refused the request ({0})")]
    Terminal(String),
    /// The watch's revision is gone: list again.
    #[error("the revision to watch from has been compacted away")]
    Compacted,
    /// A record could not be written as JSON: a bug.
    #[error("a record cannot be written as JSON")]
    Encode(#[source] serde_json::Error),
    /// The value of a key is not a record of that key's kind.
    #[error("the record {key} cannot be read: {reason}")]
    Corrupt {
        /// The key.
        key: String,
        /// Why.
        reason: String,
    },
}

impl StoreError {
    /// Whether the same call may work later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Retryable(_))
    }
}
