//! Bounding what is kept of the past.

use std::collections::{BTreeMap, BTreeSet};

use cellar_model::{BackupLabel, DatabaseName, JobId, JobKind, JobRecord};
use cellar_topology::View;

use super::Forgotten;
use crate::jobs::stage::{Stage, job_key, run_key, stage};

/// Ended jobs kept per database: more than a year of daily backups. The simulation keeps fewer, to see some go.
pub(super) const KEPT: usize = if cfg!(cellar_sim) { 12 } else { 500 };

/// Jobs that one transaction deletes. Each takes two guards and two deletions of etcd's 128.
const BATCH: usize = 40;

/// The last drill of each backup, which the listing of backups shows; those of the newest backups only.
fn last_drills(view: &View) -> BTreeSet<JobId> {
    let mut last: BTreeMap<(&DatabaseName, &BackupLabel), &JobRecord> = BTreeMap::new();
    for record in view.jobs.values().filter(|record| record.kind() == JobKind::Drill) {
        let Some(drill) = view.run(record).and_then(|run| run.result.as_ref()?.drill()) else { continue };
        let newest = last.entry((&record.database, &drill.backup)).or_insert(record);
        if record.create_time > newest.create_time {
            *newest = record;
        }
    }
    last.values().rev().take(KEPT / 2).map(|record| record.id).collect()
}

/// The restores that a confirmation or a rollback still needs, and what fences a database.
fn in_use(view: &View) -> BTreeSet<JobId> {
    let incarnations = view.incarnations.values();
    incarnations.flat_map(|incarnation| incarnation.job.into_iter().chain(incarnation.fence)).collect()
}

/// Jobs to forget, in batches, oldest first.
pub(super) fn forgettable(view: &View) -> Vec<Vec<Forgotten>> {
    let mut ended: BTreeMap<&DatabaseName, Vec<&JobRecord>> = BTreeMap::new();
    let (drills, in_use) = (last_drills(view), in_use(view));
    for record in view.jobs.values() {
        // A step is needed for as long as its parent is driven.
        let driven = record.parent.is_some_and(|parent| !view.has_ended(&parent));
        let needed = in_use.contains(&record.id)
            || record.parent.is_some_and(|parent| in_use.contains(&parent))
            || drills.contains(&record.id);
        if stage(view, record) == Stage::Ended && !driven && !needed {
            ended.entry(&record.database).or_default().push(record);
        }
    }
    let mut batches = Vec::new();
    for (database, mut records) in ended {
        let Some(surplus) = records.len().checked_sub(KEPT).filter(|surplus| *surplus > 0) else { continue };
        records.sort_unstable_by_key(|record| (record.create_time, record.id));
        let lock = view.locks.get(database);
        let forgotten: Vec<Forgotten> = records[..surplus]
            .iter()
            // What is in the lock is taken out of it first; a claim that still lives goes first too.
            .filter(|record| {
                !lock.is_some_and(|lock| lock.holder == Some(record.id) || lock.queue.contains(&record.id))
                    && view.claim(record).is_none()
            })
            .map(|record| Forgotten {
                database: record.database.clone(),
                cell: record.cell.clone(),
                id: record.id,
                job_revision: view.revision(&job_key(record)),
                run_revision: view.revision(&run_key(record)),
            })
            .collect();
        batches.extend(forgotten.chunks(BATCH).map(<[_]>::to_vec));
    }
    batches
}
