//! What each database's lock should be.

use std::collections::BTreeSet;

use cellar_model::{DatabaseName, JobRecord, Key, Lock};
use cellar_topology::View;

use crate::jobs::stage::{Stage, has_ended, stage};

/// Databases that have a lock or need one.
pub(super) fn databases(view: &View) -> BTreeSet<DatabaseName> {
    let of_jobs = view.jobs.values().map(|record| &record.database);
    view.locks.keys().chain(of_jobs).cloned().collect()
}

/// The lock as it should be; `None` when it is so already.
pub(super) fn moved_on(view: &View, database: &DatabaseName) -> Option<Lock> {
    let old = view.locks.get(database);
    if old.is_none() && view.revision(&Key::Lock(database.clone())) != 0 {
        // Unreadable: whoever holds it is not known. A person must look.
        return None;
    }
    let old = old.cloned().unwrap_or_default();
    let mut lock = old.advanced(|id| has_ended(view, database, id));
    for record in orphaned_jobs(view, database, &lock) {
        if lock.holder.is_none() {
            lock.holder = Some(record.id);
        } else {
            lock.queue.push(record.id);
        }
    }
    (lock != old).then_some(lock)
}

/// Jobs that have not ended and are not in the lock: somebody changed the lock by hand.
/// Those that have begun come first, so that nothing is started beside them.
fn orphaned_jobs<'a>(view: &'a View, database: &DatabaseName, lock: &Lock) -> Vec<&'a JobRecord> {
    let mut orphaned_jobs: Vec<(bool, &JobRecord)> = view
        .jobs
        .values()
        .filter(|record| record.database == *database)
        // A step works under its parent's place.
        .filter(|record| record.kind().takes_lock() && record.parent.is_none())
        .filter(|record| lock.holder != Some(record.id) && !lock.queue.contains(&record.id))
        .filter_map(|record| match stage(view, record) {
            Stage::Ended => None,
            stage => Some((stage == Stage::Pending, record)),
        })
        .collect();
    orphaned_jobs.sort_by_key(|(pending, record)| (*pending, record.create_time, record.id));
    orphaned_jobs.into_iter().map(|(_, record)| record).collect()
}
