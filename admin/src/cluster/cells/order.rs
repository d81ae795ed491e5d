//! One order for all changes of the set of cells.
//!
//! Two cells that are added at once must not get the same index, and etcd
//! cannot guard "no other cell was added". So every change of the set of cells
//! guards one record and writes it again unchanged: the first database's. That
//! puts the changes in one order, and costs one operation where a guard on each
//! cell would break etcd's limit of 128 per transaction.

use cellar_model::{Database, Key, Refusal};
use cellar_topology::{StoreError, TxnOutcome, View};

use crate::admin::Admin;
use crate::deadline::Deadline;
use crate::refusal::{self, Setback};

/// Databases whose records one transaction changes. With up to three operations each and a few
/// more, the transaction stays below etcd's limit of 128.
pub(super) const MAX_DATABASES_PER_STEP: usize = 30;

/// Conflicts with other changes before the caller is asked to come back.
pub(super) const MAX_ATTEMPTS: u32 = 40;

/// The record that every change of the set of cells guards and writes.
#[derive(Debug, Clone)]
pub(super) struct OrderingRecord {
    pub(super) database: Database,
    pub(super) revision: i64,
}

impl OrderingRecord {
    pub(super) fn of(view: &View) -> Option<Self> {
        let database = view.databases.values().next()?.clone();
        let revision = view.revision(&Key::Database(database.name.clone()));
        Some(Self { database, revision })
    }

    pub(super) fn key(&self) -> Key {
        Key::Database(self.database.name.clone())
    }
}

impl Admin {
    /// How to go on after a transaction: `Ok(None)` when it committed, and why not when it is to be planned and tried again.
    pub(super) async fn committed(
        &self,
        outcome: Result<TxnOutcome, StoreError>,
        key: &Key,
        before: i64,
        attempt: u32,
        deadline: Deadline,
    ) -> Result<Option<Setback>, Refusal> {
        match outcome {
            Ok(TxnOutcome::Committed(_)) => {
                // The next plan must not be made on the old view.
                self.wait_until_seen(deadline, |view| view.revision(key) != before).await;
                Ok(None)
            }
            Ok(TxnOutcome::Conflict) => {
                // Another change came first; the mirror will show it in a moment.
                deadline.pause_after_conflict(attempt + 5).await;
                Ok(Some(Setback::of_conflict(self.view().revision(key) != before)))
            }
            Err(StoreError::Retryable(why)) if !deadline.has_passed() => {
                deadline.pause(attempt).await;
                Ok(Some(Setback::Unanswered(why)))
            }
            Err(error) => Err(refusal::of_store(error)),
        }
    }
}
