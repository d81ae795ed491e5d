//! A job's records read from etcd, for when the view may be behind.

use cellar_model::{DatabaseName, Job, JobId, JobRecord, Key, Lock, Refusal, Run, join, with_steps};
use cellar_topology::{Store, StoreError, Versioned};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::admin::Admin;
use crate::deadline::Deadline;
use crate::jobs::closure::ClosureGuards;
use crate::jobs::stage::{claim_key, run_key};

/// Reads of etcd at once for one request.
const MAX_CONCURRENT_LOOKUPS: usize = 16;

/// A job's records as etcd has them, with the revisions that guard a change.
#[derive(Debug, Clone)]
pub(crate) struct JobRecords {
    pub(crate) job: Versioned<JobRecord>,
    pub(crate) run: Option<Versioned<Run>>,
    pub(crate) claimed: bool,
    pub(crate) lock: Option<Lock>,
    /// The revision of the lock's record, readable or not; 0 when there is none.
    pub(crate) lock_revision: i64,
}

impl JobRecords {
    /// Reads a job; `None` when there is none.
    pub(crate) async fn read(
        store: &Store,
        database: &DatabaseName,
        id: &JobId,
    ) -> Result<Option<Self>, StoreError> {
        let Some(job) = store.get::<JobRecord>(&Key::Job(database.clone(), *id)).await? else {
            return Ok(None);
        };
        let claim = store.keys().path(&claim_key(&job.record));
        // The claim before the run: a job that ends between the two reads is seen as ended.
        let claimed = store.kv().get(&claim).await?.is_some();
        let run = store.get::<Run>(&run_key(&job.record)).await?;
        // A claim that came between the two reads would look like a job that is lost.
        let claimed = claimed || run.is_some() && store.kv().get(&claim).await?.is_some();
        let lock = store.kv().get(&store.keys().path(&Key::Lock(database.clone()))).await?;
        let lock_revision = lock.as_ref().map_or(0, |lock| lock.revision);
        let lock = lock.and_then(|lock| serde_json::from_slice(&lock.value).ok());
        Ok(Some(Self { job, run, claimed, lock, lock_revision }))
    }

    pub(crate) fn record(&self) -> &JobRecord {
        &self.job.record
    }

    /// The revision of the run, 0 when there is none.
    pub(crate) fn run_revision(&self) -> i64 {
        self.run.as_ref().map_or(0, |run| run.revision)
    }

    /// What a closure of the job as it is here stands on.
    pub(crate) fn closure_guards(&self) -> ClosureGuards {
        ClosureGuards { job: self.job.revision, run: self.run_revision(), lock: self.lock_revision }
    }

    /// The job as the API shows it.
    pub(crate) fn joined(&self) -> Job {
        join(&self.job.record, self.run.as_ref().map(|run| &run.record), self.claimed, self.lock.as_ref())
    }
}

impl Admin {
    /// A job as it is now, with everything that is recorded of it. The view has summaries of jobs that have ended, so
    /// these are read from etcd; a driven one is whole there, but its steps are not.
    pub(crate) async fn known_job(&self, id: JobId, deadline: Deadline) -> Result<Option<Job>, Refusal> {
        let (job, ended, steps) = {
            let view = self.view();
            let job = view.job(&id);
            let driven = job.as_ref().is_some_and(|job| job.record.kind().is_driven());
            let of_job = view.ended.iter().filter(|(_, step)| driven && step.parent == Some(id));
            let steps: Vec<JobId> = of_job.map(|(step, _)| *step).collect();
            (job, view.ended.get(&id).map(|ended| ended.database.clone()), steps)
        };
        let Some(job) = job else {
            let Some(database) = ended else { return Ok(None) };
            let stored = deadline.retry(|| JobRecords::read(&self.store, &database, &id)).await?;
            return Ok(stored.map(|stored| stored.joined()));
        };
        if steps.is_empty() {
            return Ok(Some(job));
        }
        let database = &job.record.database;
        let mut steps: Vec<Job> = stream::iter(steps)
            .map(
                |step| async move { deadline.retry(|| JobRecords::read(&self.store, database, &step)).await },
            )
            .buffer_unordered(MAX_CONCURRENT_LOOKUPS)
            .try_filter_map(|found| async move { Ok(found.map(|found| found.joined())) })
            .try_collect()
            .await?;
        steps.extend(self.view().steps(&id));
        Ok(Some(with_steps(job, steps)))
    }

    /// Several jobs, in that order; those that are gone meanwhile are left out.
    pub(crate) async fn known_jobs(&self, ids: Vec<JobId>, deadline: Deadline) -> Result<Vec<Job>, Refusal> {
        stream::iter(ids)
            .map(|id| self.known_job(id, deadline))
            .buffered(MAX_CONCURRENT_LOOKUPS)
            .try_filter_map(|found| async move { Ok(found) })
            .try_collect()
            .await
    }

    /// Looks for a job that the view does not know in every database: another multiadmin may have
    /// recorded it a moment ago.
    pub(crate) async fn look_up(&self, id: JobId, deadline: Deadline) -> Result<Option<JobRecords>, Refusal> {
        let databases: Vec<DatabaseName> = self.view().databases.keys().cloned().collect();
        let found =
            stream::iter(databases)
                .map(|database| async move {
                    deadline.retry(|| JobRecords::read(&self.store, &database, &id)).await
                })
                .buffer_unordered(MAX_CONCURRENT_LOOKUPS)
                .try_filter_map(|found| async move { Ok(found) });
        let mut found = std::pin::pin!(found);
        found.try_next().await
    }
}
