//! etcd's copies of the newest records, made behind the answer's back.
//!
//! A copy that cannot be made soon is given up: the log file has the record. The leader's housekeeping bounds their number.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cellar_model::{AuditOutcome, AuditRecord, Key};
use cellar_topology::{Store, StoreError, retry};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Records that may wait for etcd.
const QUEUE: usize = 256;

/// Records of one transaction: even the longest stay below etcd's 1.5 MiB.
const BATCH: usize = 32;

/// Patience with etcd.
const PATIENCE: Duration = Duration::from_secs(5);

/// Copies a second of calls that did nothing: they cost the caller nothing, and must not keep etcd busy.
const FRUITLESS: u32 = 10;

/// How many calls there were in the present second.
#[derive(Debug, Default)]
struct Rate {
    since: Option<Instant>,
    count: u32,
}

impl Rate {
    /// Counts a call; false when it is one too many.
    fn admits(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1)) {
            *self = Self { since: Some(now), count: 0 };
        }
        self.count = self.count.saturating_add(1);
        if self.count == FRUITLESS + 1 {
            tracing::warn!(
                "many calls are refused or fail: the log file has them all, `cellar audit list` does not"
            );
        }
        self.count <= FRUITLESS
    }
}

/// One rate each, so that refusals of one caller do not hide the failures of another.
#[derive(Debug, Default)]
struct Rates {
    refused: Rate,
    failed: Rate,
}

/// The way into etcd.
#[derive(Debug, Clone)]
pub(super) struct Copies {
    queue: mpsc::Sender<AuditRecord>,
    rates: Arc<Mutex<Rates>>,
}

impl Copies {
    /// Begins to write to `store`, until the last clone is dropped.
    pub(super) fn start(store: Store) -> Self {
        let (queue, records) = mpsc::channel(QUEUE);
        tokio::spawn(write_all(store, records));
        Self { queue, rates: Arc::default() }
    }

    /// Copies a record if there is room and time. Waits for nothing.
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
    while records.recv_many(&mut batch, BATCH).await > 0 {
        if let Err(error) = write(&store, &batch).await {
            tracing::warn!(%error, records = batch.len(), "audit records are not copied to etcd; the log file has them");
        }
        batch.clear();
    }
}

async fn write(store: &Store, batch: &[AuditRecord]) -> Result<(), StoreError> {
    // Repeating it changes nothing: a record is never written differently.
    let put = || {
        let transaction = store.transaction();
        batch
            .iter()
            .fold(transaction, |transaction, record| transaction.put(&Key::Audit(record.id), record))
            .commit()
    };
    retry(PATIENCE, put).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_a_second_and_no_more() {
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
