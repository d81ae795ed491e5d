//! Asking a job to end early.

use cellar_model::{CancelRequest, Code, Job, JobId, JobState, OperatorRole, Refusal, timestamp_ms};
use cellar_topology::{StoreError, TxnOutcome};
use jiff::Timestamp;

use crate::admin::Admin;
use crate::deadline::Deadline;
use crate::jobs::closing::{canceled_before_it_began, close, closed};
use crate::jobs::ended::job_key;
use crate::jobs::stored::Stored;
use crate::jobs::submit::MIRROR_PATIENCE;
use crate::refusal;

const ATTEMPTS: u32 = 32;

impl Admin {
    /// Records the wish. A job that nobody has begun ends at once; of any other its pooler says
    /// when it has ended. Asking again changes nothing.
    ///
    /// `role` is the caller's: it takes as much to cancel a job as to ask for it.
    pub(crate) async fn cancel(
        &self,
        id: JobId,
        by: &str,
        role: Option<OperatorRole>,
        deadline: Deadline,
    ) -> Result<Job, Refusal> {
        self.fresh(deadline).await?;
        for attempt in 0..ATTEMPTS {
            let stored = self.stored(id, deadline).await?;
            let job = stored.joined();
            let needed = job.record.kind().role();
            if role.is_some_and(|role| role < needed) {
                let message =
                    format!("{by} may not cancel a {}: it needs the role {needed}", job.record.kind());
                return Err(Refusal::new(Code::PermissionDenied, message).about("job", id));
            }
            if job.state.is_terminal() {
                return if job.state == JobState::Canceled { Ok(job) } else { Err(already_ended(&job)) };
            }
            if job.record.cancel.is_some() && job.state != JobState::Pending {
                return Ok(job);
            }
            let now = Timestamp::now();
            let mut record = job.record.clone();
            record.cancel.get_or_insert_with(|| CancelRequest {
                requested_by: by.to_owned(),
                time: timestamp_ms(now),
            });
            let transaction = if job.state == JobState::Pending && !stored.claimed {
                let record = closed(&record, JobState::Canceled, canceled_before_it_began(by), now);
                close(self.store.transaction(), &record, stored.job.revision, stored.run_revision())
            } else {
                self.store
                    .transaction()
                    .expect(&job_key(&record), stored.job.revision)
                    .put(&job_key(&record), &record)
            };
            match deadline.call(transaction.commit()).await {
                Ok(TxnOutcome::Committed(_)) => {
                    tracing::info!(job = %id, requested_by = by, "a job is to be canceled");
                    return Ok(self.changed(id, &stored, deadline).await);
                }
                Ok(TxnOutcome::Conflict) => deadline.yield_to_others(attempt).await,
                Err(StoreError::Retryable(_)) if !deadline.has_passed() => deadline.pause(attempt).await,
                Err(error) => return Err(refusal::of_store(error)),
            }
        }
        Err(refusal::contended(&format!("job {id}")))
    }

    /// The job's records, from etcd itself: a decision to change it wants the newest.
    async fn stored(&self, id: JobId, deadline: Deadline) -> Result<Stored, Refusal> {
        let database = self.view().jobs.get(&id).map(|record| record.database.clone());
        let stored = match database {
            Some(database) => deadline.retry(|| Stored::read(&self.store, &database, &id)).await?,
            None => self.look_up(id, deadline).await?,
        };
        stored.ok_or_else(|| unknown_job(id))
    }

    /// The job after a change, once the mirror shows it.
    async fn changed(&self, id: JobId, before: &Stored, deadline: Deadline) -> Job {
        let key = job_key(before.record());
        let patience = MIRROR_PATIENCE.min(deadline.remaining());
        let _ = self.mirror.wait_for(patience, |view| view.revision(&key) > before.job.revision).await;
        self.view().job(&id).unwrap_or_else(|| before.joined())
    }
}

fn already_ended(job: &Job) -> Refusal {
    let id = job.record.id;
    Refusal::new(Code::AlreadyEnded, format!("job {id} has ended already: it {}", job.state.as_str()))
        .about("job", id)
        .about("database", &job.record.database)
        .about("cell", &job.record.cell)
}

/// No database has such a job.
pub(crate) fn unknown_job(id: JobId) -> Refusal {
    Refusal::new(Code::UnknownJob, format!("there is no job {id}"))
        .hint("`cellar jobs list` shows the newest; ended jobs are kept for a while only")
        .about("job", id)
}
