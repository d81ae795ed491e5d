//! One order for all changes of the set of cells.
//!
//! Two cells that are added at once must not get the same index, and etcd
//! cannot guard "no other cell was added". So every change of the set of cells
//! guards one record and writes it again unchanged: the first database's. That
//! puts the changes in one order, and costs one operation where a guard on each
//! cell would break etcd's limit of 128 per transaction.

use cellar_model::{Database, Key};
use cellar_topology::View;

/// Databases whose records one transaction changes. With up to three operations each and a few
/// more, the transaction stays below etcd's limit of 128.
pub(super) const MAX_DATABASES_PER_STEP: usize = 30;

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
