//! What each database's lock should be.

use std::collections::BTreeMap;

use cellar_model::{DatabaseName, JobRecord, Key, Lock};
use cellar_topology::View;

use crate::jobs::stage::{Stage, has_ended, stage};

/// Databases that have a lock or need one, each with the lock as it should be if it is not so already.
pub(super) fn moved_on(view: &View) -> Vec<(DatabaseName, Lock)> {
    let mut orphaned = orphaned_jobs(view);
    let databases: Vec<DatabaseName> = view.locks.keys().chain(orphaned.keys()).cloned().collect();
    let mut moved = BTreeMap::new();
    for database in databases {
        let orphaned = orphaned.remove(&database).unwrap_or_default();
        if let Some(lock) = lock_of(view, &database, orphaned) {
            moved.entry(database).or_insert(lock);
        }
    }
    moved.into_iter().collect()
}

/// The lock as it should be; `None` when it is so already.
fn lock_of(view: &View, database: &DatabaseName, orphaned: Vec<&JobRecord>) -> Option<Lock> {
    let old = view.locks.get(database);
    if old.is_none() && view.revision(&Key::Lock(database.clone())) != 0 {
        // Unreadable: whoever holds it is not known. A person must look.
        return None;
    }
    let old = old.cloned().unwrap_or_default();
    let mut lock = old.advanced(|id| has_ended(view, database, id));
    for record in orphaned {
        if lock.holder.is_none() {
            lock.holder = Some(record.id);
        } else {
            lock.queue.push(record.id);
        }
    }
    (lock != old).then_some(lock)
}

/// Jobs that have not ended and are not in their database's lock: somebody changed the lock by hand.
/// Those that have begun come first, so that nothing is started beside them.
fn orphaned_jobs(view: &View) -> BTreeMap<DatabaseName, Vec<&JobRecord>> {
    let mut orphaned: BTreeMap<DatabaseName, Vec<(bool, &JobRecord)>> = BTreeMap::new();
    let may_hold = view
        .jobs
        .values()
        // A step works under its parent's place.
        .filter(|record| record.kind().takes_lock() && record.parent.is_none());
    for record in may_hold {
        let lock = view.locks.get(&record.database);
        let placed =
            lock.is_some_and(|lock| lock.holder == Some(record.id) || lock.queue.contains(&record.id));
        let stage = stage(view, record);
        if !placed && stage != Stage::Ended {
            orphaned.entry(record.database.clone()).or_default().push((stage == Stage::Pending, record));
        }
    }
    let sorted = orphaned.into_iter().map(|(database, mut jobs)| {
        jobs.sort_by_key(|(pending, record)| (*pending, record.create_time, record.id));
        (database, jobs.into_iter().map(|(_, record)| record).collect())
    });
    sorted.collect()
}
