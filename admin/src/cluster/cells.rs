//! Cells come and go.
//!
//! Two cells that are added at once must not get the same index, and etcd
//! cannot guard "no other cell has come". So every change of the set of cells
//! guards one record and writes it again unchanged: the first database's. That
//! puts the changes in one order, and costs one operation where a guard on each
//! cell would break etcd's limit of 128 per transaction.

mod addition;
mod removal;

use cellar_api::{to_message, v1};
use cellar_model::{Database, Key, Refusal};
use cellar_topology::{StoreError, TxnOutcome, View};

use crate::admin::Admin;
use crate::deadline::Deadline;
use crate::jobs::submit::MIRROR_PATIENCE;
use crate::refusal;

pub(crate) use addition::NewCell;

/// Databases whose records one transaction changes. With up to three operations each and a few
/// more it stays below etcd's limit of 128.
const BATCH: usize = 30;

const ATTEMPTS: u32 = 40;

/// The record that puts changes of the set of cells in order.
#[derive(Debug, Clone)]
struct Serial {
    database: Database,
    revision: i64,
}

impl Serial {
    fn of(view: &View) -> Option<Self> {
        let database = view.databases.values().next()?.clone();
        let revision = view.revision(&Key::Database(database.name.clone()));
        Some(Self { database, revision })
    }

    fn key(&self) -> Key {
        Key::Database(self.database.name.clone())
    }
}

impl Admin {
    pub(crate) async fn list_cells(&self, deadline: Deadline) -> Result<v1::ListCellsResponse, Refusal> {
        self.fresh(deadline).await?;
        let view = self.view();
        // By index, the order in which everything numbered appears.
        let mut cells: Vec<_> = view.cells.values().collect();
        cells.sort_by_key(|cell| cell.index);
        let cells: Result<_, _> = cells.into_iter().map(to_message).collect();
        Ok(v1::ListCellsResponse { cells: cells.map_err(|error| refusal::internal(&error))? })
    }

    /// What to do after a transaction: `Ok(true)` when it committed, `Ok(false)` to look again.
    async fn settled(
        &self,
        outcome: Result<TxnOutcome, StoreError>,
        key: &Key,
        before: i64,
        attempt: u32,
        deadline: Deadline,
    ) -> Result<bool, Refusal> {
        match outcome {
            Ok(TxnOutcome::Committed(_)) => {
                // The next look must not see the old picture.
                let patience = MIRROR_PATIENCE.min(deadline.remaining());
                let _ = self.mirror.wait_for(patience, |view| view.revision(key) != before).await;
                Ok(true)
            }
            Ok(TxnOutcome::Conflict) => {
                // Somebody was faster; the mirror shows what they did in a moment.
                deadline.yield_to_others(attempt + 5).await;
                Ok(false)
            }
            Err(StoreError::Retryable(_)) if !deadline.has_passed() => {
                deadline.pause(attempt).await;
                Ok(false)
            }
            Err(error) => Err(refusal::of_store(error)),
        }
    }
}
