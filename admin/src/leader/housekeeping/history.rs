//! Bounding what is kept of the past.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use cellar_model::{BackupLabel, DatabaseName, JobId, JobKind, JobRecord, JobSpec, JobState};
use cellar_topology::{EndedJob, View};

use jiff::{SignedDuration, Timestamp};

use super::Forgotten;

/// Ended jobs kept per database: more than a year of daily backups. The simulation keeps fewer, to see some go.
pub(super) const KEPT: usize = if cfg!(cellar_sim) { 12 } else { 500 };

/// How long a job is kept at least, by the clocks of those who record it and forget it, which may be minutes apart: a
/// request that comes again with the same id, or late, finds its job instead of starting another.
pub(super) const MIN_AGE: SignedDuration = SignedDuration::from_mins(15);

/// Jobs that one transaction deletes. Each takes two guards and two deletions of etcd's 128.
const BATCH: usize = 40;

type Ended<'a> = (JobId, Cow<'a, EndedJob>);

/// The last drill that says something about each backup of one database: the listing shows it, and whatever chooses
/// among backups goes by it. Those of the newest backups only.
fn last_drills(ended: &[Ended<'_>]) -> BTreeSet<JobId> {
    let mut last: BTreeMap<&BackupLabel, &Ended<'_>> = BTreeMap::new();
    for drill in ended.iter().filter(|(_, job)| job.kind == JobKind::Drill && job.drill_passed.is_some()) {
        let Some(backup) = &drill.1.backup else { continue };
        let newest = last.entry(backup).or_insert(drill);
        if drill.1.create_time > newest.1.create_time {
            *newest = drill;
        }
    }
    // A label begins with the time of its backup.
    last.values().rev().take(KEPT / 2).map(|(id, _)| *id).collect()
}

/// The restores that a confirmation or a rollback still needs, and what fences a database.
fn in_use(view: &View) -> BTreeSet<JobId> {
    let incarnations = view.incarnations.values();
    let mut in_use: BTreeSet<JobId> =
        incarnations.flat_map(|incarnation| incarnation.job.into_iter().chain(incarnation.fence)).collect();
    in_use.extend(unconfirmed(view));
    in_use
}

/// Restores and rollbacks that took effect and whose old data was not deleted since, also those that others followed: a
/// confirmation goes by their records.
fn unconfirmed(view: &View) -> impl Iterator<Item = JobId> {
    let result = |record: &JobRecord| record.closure.as_ref()?.result.as_ref()?.restore().cloned();
    let deletes_all = |record: &JobRecord| match record.kind() {
        JobKind::Confirm => true,
        JobKind::Rollback => result(record).is_some_and(|result| !result.kept),
        _ => false,
    };
    let succeeded = |record: &JobRecord| {
        record.closure.as_ref().is_some_and(|closure| closure.state == JobState::Succeeded)
    };
    let deleted: BTreeSet<JobId> = view
        .jobs
        .values()
        .filter(|record| succeeded(record) && deletes_all(record))
        .flat_map(|record| record.spec.subject().into_iter().chain([record.id]))
        .collect();
    view.jobs
        .values()
        .filter(move |record| {
            let in_place = matches!(&record.spec, JobSpec::Restore(params) if params.in_place);
            result(record).is_some() && !in_place && !deleted.contains(&record.id)
        })
        .map(|record| record.id)
}

/// Jobs to forget, in batches, oldest first.
pub(super) fn forgettable(view: &View, now: Timestamp) -> Vec<Vec<Forgotten>> {
    let mut of_databases: BTreeMap<DatabaseName, Vec<Ended<'_>>> = BTreeMap::new();
    for (id, job) in view.ended_jobs() {
        match of_databases.get_mut(&job.database) {
            Some(ended) => ended.push((id, job)),
            None => drop(of_databases.insert(job.database.clone(), vec![(id, job)])),
        }
    }
    let in_use = in_use(view);
    let mut batches = Vec::new();
    for (database, mut ended) in of_databases {
        if ended.len() <= KEPT {
            continue;
        }
        let drills = last_drills(&ended);
        ended.retain(|(id, job)| {
            // A step is needed for as long as its parent is driven.
            let driven = job.parent.is_some_and(|parent| !view.has_ended(&parent));
            let needed = in_use.contains(id)
                || job.parent.is_some_and(|parent| in_use.contains(&parent))
                || drills.contains(id);
            !driven && !needed
        });
        let Some(surplus) = ended.len().checked_sub(KEPT).filter(|surplus| *surplus > 0) else { continue };
        ended.sort_unstable_by_key(|(id, job)| (job.create_time, *id));
        let lock = view.locks.get(&database);
        let forgotten: Vec<Forgotten> = ended[..surplus]
            .iter()
            // What is in the lock is taken out of it first; a claim that still lives goes first too.
            .filter(|(id, job)| {
                now.duration_since(job.create_time) >= MIN_AGE
                    && !lock.is_some_and(|lock| lock.holder == Some(*id) || lock.queue.contains(id))
                    && !view.claims.contains_key(&(database.clone(), job.cell.clone(), *id))
            })
            .map(|(id, job)| Forgotten {
                database: database.clone(),
                cell: job.cell.clone(),
                id: *id,
                job_revision: job.job_revision,
                run_revision: job.run_revision,
            })
            .collect();
        batches.extend(forgotten.chunks(BATCH).map(<[_]>::to_vec));
    }
    batches
}
