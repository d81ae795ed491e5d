//! etcd's copies of the newest records, written after the answer.
//!
//! A copy that cannot be written soon is given up: the log file has the record. The leader's housekeeping bounds their number.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cellar_model::{AuditOutcome, AuditRecord, Key};
use cellar_topology::{Store, StoreError, retry};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Records that may wait for etcd.
const MAX_QUEUED: usize = 256;

/// Records of one transaction: even the longest stay below etcd's 1.5 MiB.
const MAX_BATCH: usize = 32;

/// How long to try to write a copy.
const COPY_TIMEOUT: Duration = Duration::from_secs(5);

/// Copies a second of refused calls, and of failed ones: any caller can make many of them, which must not load etcd.
const MAX_UNSUCCESSFUL_PER_SECOND: u32 = 10;

/// The number of calls in the present second.
#[derive(Debug, Default)]
struct Rate {
    since: Option<Instant>,
    count: u32,
}

impl Rate {
    /// Counts a call; false when it exceeds the limit.
    fn admits(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1)) {
            *self = Self { since: Some(now), count: 0 };
        }
        self.count = self.count.saturating_add(1);
        if self.count == MAX_UNSUCCESSFUL_PER_SECOND + 1 {
            tracing::warn!(
                "many calls are refused or fail: the log file has them all, `cellar audit list` does not"
            );
        }
        self.count <= MAX_UNSUCCESSFUL_PER_SECOND
    }
}

/// A limit for each, so that refusals of one caller do not hide failures of another.
#[derive(Debug, Default)]
struct Rates {
    refused: Rate,
    failed: Rate,
}

/// The queue of records to copy.
#[derive(Debug, Clone)]
pub(super) struct Copies {
    queue: mpsc::Sender<AuditRecord>,
    rates: Arc<Mutex<Rates>>,
}

impl Copies {
    /// Starts to write to `store`, until the last clone is dropped.
    pub(super) fn start(store: Store) -> Self {
        let (queue, records) = mpsc::channel(MAX_QUEUED);
        tokio::spawn(write_all(store, records));
        Self { queue, rates: Arc::default() }
    }

    /// Queues a record to be copied, if its limit and the queue allow it. Never waits.
    pub(super) fn keep(&self, record: AuditRecord) {
        let admitted = {
            let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
            match record.outcome {
                AuditOutcome::Begun | AuditOutcome::Allowed => true,
                AuditOutcome::Refused => rates.refused.admits(Instant::now()),
                AuditOutcome::Failed => rates.failed.admits(Instant::now()),
            }
        };
        if admitted && let Err(error) = self.queue.try_send(record) {
            tracing::warn!(%error, "an audit record is not copied to etcd; the log file has it");
        }
    }
}

async fn write_all(store: Store, mut records: mpsc::Receiver<AuditRecord>) {
    let mut batch = Vec::new();
    while records.recv_many(&mut batch, MAX_BATCH).await > 0 {
        if let Err(error) = write(&store, &batch).await {
            tracing::warn!(%error, records = batch.len(), "audit records are not copied to etcd; the log file has them");
        }
        batch.clear();
    }
}

async fn write(store: &Store, batch: &[AuditRecord]) -> Result<(), StoreError> {
    // Safe to repeat: a record is never written with another content.
    let put = || {
        let transaction = store.transaction();
        batch
            .iter()
            .fold(transaction, |transaction, record| transaction.put(&Key::Audit(record.id), record))
            .commit()
    };
    retry(COPY_TIMEOUT, put).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_ten_a_second_are_copied() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        let admitted = |rate: &mut Rate, at: u64| {
            (0..1000).filter(|_| rate.admits(start + Duration::from_millis(at))).count()
        };
        assert_eq!(
            [admitted(&mut rate, 0), admitted(&mut rate, 999), admitted(&mut rate, 1000)],
            [10, 0, 10]
        );
    }
}
