//! Canceling a job.

use cellar_model::{CancelRequest, Code, Job, JobId, JobState, OperatorRole, Refusal, timestamp_ms};
use cellar_system::clock;

use crate::admin::Admin;
use crate::caller::Caller;
use crate::deadline::Deadline;
use crate::jobs::closure::{canceled_before_it_began, close, closed};
use crate::jobs::job_records::JobRecords;
use crate::jobs::stage::job_key;
use crate::refusal;
use crate::tries::Tries;

impl Admin {
    /// Records the cancel request. A pending job ends at once; a running one when its pooler has stopped it.
    /// Repeating the request changes nothing.
    ///
    /// Refuses a caller who may not ask for such a job: canceling it takes the same role.
    pub(crate) async fn cancel(
        &self,
        id: JobId,
        caller: &Caller,
        deadline: Deadline,
    ) -> Result<Job, Refusal> {
        self.fresh(deadline).await?;
        let mut tries = Tries::of(format!("job {id}"), deadline);
        loop {
            let _ = tries.begin()?;
            let stored = self.stored(id, deadline).await?;
            let job = stored.joined();
            let kind = job.record.kind();
            // To end a step is to end the job that it is a step of, and only administrators start those.
            let role = if job.record.parent.is_some() { OperatorRole::Admin } else { job.record.spec.role() };
            caller
                .check_role(role, &format!("cancel a {kind}"))
                .map_err(|refusal| refusal.about("job", id))?;
            if job.state.is_terminal() {
                return if job.state == JobState::Canceled { Ok(job) } else { Err(already_ended(&job)) };
            }
            // Whether it holds a lock that cannot be read is not known, so it may have begun.
            let is_unsure = kind.is_driven() && stored.lock.is_none() && stored.lock_revision != 0;
            if job.record.cancel.is_some() && (is_unsure || job.state != JobState::Pending) {
                return Ok(job);
            }
            let now = clock::now();
            let mut record = job.record.clone();
            record.cancel.get_or_insert_with(|| CancelRequest {
                requested_by: caller.identity.clone(),
                time: timestamp_ms(now),
            });
            let transaction = if job.state == JobState::Pending && !stored.claimed && !is_unsure {
                let record =
                    closed(&record, JobState::Canceled, canceled_before_it_began(&caller.identity), now);
                close(self.store.transaction(), &record, stored.closure_guards())
            } else {
                self.store
                    .transaction()
                    .expect(&job_key(&record), stored.job.revision)
                    .put(&job_key(&record), &record)
            };
            if self.commit(&mut tries, transaction, None).await? {
                tracing::info!(job = %id, requested_by = caller.identity, "a job was asked to cancel");
                return Ok(self.changed(id, &stored, deadline).await);
            }
        }
    }

    /// The job's records, read from etcd: a decision to change it needs the newest.
    async fn stored(&self, id: JobId, deadline: Deadline) -> Result<JobRecords, Refusal> {
        let database = self.view().place_of(&id).map(|(database, _)| database.clone());
        let stored = match database {
            Some(database) => deadline.retry(|| JobRecords::read(&self.store, &database, &id)).await?,
            None => self.look_up(id, deadline).await?,
        };
        stored.ok_or_else(|| refusal::unknown_job(id))
    }

    /// The job after a change, once the mirror shows it.
    async fn changed(&self, id: JobId, before: &JobRecords, deadline: Deadline) -> Job {
        let key = job_key(before.record());
        self.wait_until_seen(deadline, |view| view.revision(&key) > before.job.revision).await;
        let changed = self.known_job(id, deadline).await;
        changed.ok().flatten().unwrap_or_else(|| before.joined())
    }
}

fn already_ended(job: &Job) -> Refusal {
    let id = job.record.id;
    Refusal::new(Code::AlreadyEnded, format!("job {id} has ended already: it {}", job.state.as_str()))
        .about("job", id)
        .about("database", &job.record.database)
        .about("cell", &job.record.cell)
}
