//! For how long poolers have not reported, jobs have been open or lost and steps have ended, as the leader has observed
//! it.
//!
//! A missing status key shows that a pooler does not report, not since when; the same
//! holds for a claim. So the leader remembers when it first saw it missing, by
//! its own clock. A new leader, or one whose own view was out of date, starts to
//! count again: it may wait too long, never too short.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cellar_model::{CLAIM_LEASE_SECONDS, CellName, DatabaseName, JobId, JobRecord, LOST_TIMEOUT};
use cellar_topology::View;
use tokio::time::Instant;

use crate::jobs::stage::{Stage, stage};

type PoolerId = (DatabaseName, CellName);

/// Since when things have been as they are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observations {
    silent: BTreeMap<PoolerId, Duration>,
    lost: BTreeMap<JobId, Duration>,
    abandoned: BTreeMap<JobId, Duration>,
    ended: BTreeMap<JobId, Duration>,
    open: BTreeMap<JobId, Duration>,
    since: BTreeMap<Subject, Instant>,
    last: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Pooler(PoolerId),
    Job(JobId),
    AbandonedJob(JobId),
    EndedStep(JobId),
    OpenJob(JobId),
}

impl Observations {
    /// Updates the observations with the view at the moment `now`. They begin anew after a gap as long as a lease, as when
    /// this process stood still: a claim may have come back in it, and lapsed again a moment ago.
    pub(crate) fn observe(&mut self, view: &View, now: Instant) {
        let gap = Duration::from_secs(CLAIM_LEASE_SECONDS.into());
        if self.last.is_some_and(|last| now.saturating_duration_since(last) >= gap) {
            self.clear();
        }
        self.last = Some(now);
        let open = view.jobs.values().filter(|record| record.closure.is_none());
        let open = open.filter(|record| record.kind().is_driven() || stage(view, record) != Stage::Ended);
        let mut subjects: BTreeSet<Subject> = open.map(|record| Subject::OpenJob(record.id)).collect();
        for record in view.jobs.values().filter(|record| !record.kind().is_driven()) {
            match stage(view, record) {
                Stage::Pending => {
                    let id = (record.database.clone(), record.cell.clone());
                    if !view.status.contains_key(&id) {
                        subjects.insert(Subject::Pooler(id));
                    }
                }
                Stage::Lost => {
                    subjects.insert(Subject::Job(record.id));
                    if is_abandoned(view, record) {
                        subjects.insert(Subject::AbandonedJob(record.id));
                    }
                }
                Stage::Ended if is_step_of_open_job(view, record) => {
                    subjects.insert(Subject::EndedStep(record.id));
                }
                Stage::Running | Stage::Ended => {}
            }
        }
        self.since.retain(|subject, _| subjects.contains(subject));
        for subject in subjects {
            self.since.entry(subject).or_insert(now);
        }
        self.silent.clear();
        self.lost.clear();
        self.abandoned.clear();
        self.ended.clear();
        self.open.clear();
        for (subject, since) in &self.since {
            let age = now.saturating_duration_since(*since);
            match subject {
                Subject::Pooler(id) => drop(self.silent.insert(id.clone(), age)),
                Subject::Job(id) => drop(self.lost.insert(*id, age)),
                Subject::AbandonedJob(id) => drop(self.abandoned.insert(*id, age)),
                Subject::EndedStep(id) => drop(self.ended.insert(*id, age)),
                Subject::OpenJob(id) => drop(self.open.insert(*id, age)),
            }
        }
    }

    /// Forgets everything: after a gap it is not known what happened in it.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// For how long the pooler of a pending job has had no status.
    pub(crate) fn silent_for(&self, database: &DatabaseName, cell: &CellName) -> Duration {
        self.silent.get(&(database.clone(), cell.clone())).copied().unwrap_or_default()
    }

    /// How long after the last look the next job may be closed for a silent pooler or a lost claim: nobody writes
    /// anything at that moment, so nothing else wakes the leader.
    pub(crate) fn next_timeout(&self) -> Option<Duration> {
        let ages = self.silent.values().chain(self.lost.values()).chain(self.abandoned.values());
        ages.filter_map(|age| LOST_TIMEOUT.checked_sub(*age)).filter(|rest| !rest.is_zero()).min()
    }

    /// For how long each step of an open job has been seen ended.
    pub(crate) fn ended_for(&self) -> &BTreeMap<JobId, Duration> {
        &self.ended
    }

    /// For how long a job has been seen open.
    pub(crate) fn open_for(&self, id: &JobId) -> Duration {
        self.open.get(id).copied().unwrap_or_default()
    }

    /// As if all jobs had been seen since they were asked for.
    #[cfg(test)]
    pub(crate) fn seen_open(&mut self, view: &View, now: jiff::Timestamp) {
        let age = |record: &JobRecord| now.duration_since(record.create_time).try_into().unwrap_or_default();
        self.open = view.jobs.iter().map(|(id, record)| (*id, age(record))).collect();
    }

    /// For how long a job has been lost.
    pub(crate) fn lost_for(&self, id: &JobId) -> Duration {
        self.lost.get(id).copied().unwrap_or_default()
    }

    /// For how long another process of its cell than the one that ran a lost job has reported.
    pub(crate) fn abandoned_for(&self, id: &JobId) -> Duration {
        self.abandoned.get(id).copied().unwrap_or_default()
    }
}

/// Whether the cell of a lost job has another process now than the one that ran it.
fn is_abandoned(view: &View, record: &JobRecord) -> bool {
    let reporting = view.status.get(&(record.database.clone(), record.cell.clone()));
    reporting.zip(view.run(record)).is_some_and(|(status, run)| status.epoch != run.epoch)
}

fn is_step_of_open_job(view: &View, record: &JobRecord) -> bool {
    record.parent.and_then(|parent| view.jobs.get(&parent)).is_some_and(|parent| parent.closure.is_none())
}
