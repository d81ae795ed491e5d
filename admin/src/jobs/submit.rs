//! Recording a job: one transaction that creates it and enters it in the database's lock.

use std::collections::BTreeSet;
use std::time::Duration;

use cellar_model::{
    Code, InstanceState, Job, JobId, JobRecord, Key, Lock, LockDecision, PoolerStatus, RECONNECT_TIMEOUT,
    Refusal, join,
};
use cellar_system::clock;
use cellar_topology::View;
use tokio::time::Instant;

use crate::admin::Admin;
use crate::deadline::Deadline;
use crate::jobs::job_records::JobRecords;
use crate::jobs::stage::{self, job_key};
use crate::jobs::submission::Submission;
use crate::refusal;
use crate::tries::Tries;

/// How long the status of a healthy pooler may be out of date: it writes at most one a second.
const MAX_STATUS_AGE: Duration = Duration::from_millis(1500);

/// A plan, and the lock and revisions that it depends on.
struct Attempt {
    record: JobRecord,
    pooler_revision: i64,
    lock: Lock,
    lock_revision: i64,
}

impl Admin {
    /// Records the job, or finds the one that the same request recorded before.
    pub(crate) async fn submit(&self, submission: &Submission, deadline: Deadline) -> Result<Job, Refusal> {
        self.fresh(deadline).await?;
        // One id for all attempts: when a transaction's outcome is unknown, reading it tells.
        let new_id = JobId::new(clock::new_id());
        let (database, id) = {
            let view = self.view();
            let database = submission.database(&view)?;
            let request_id = submission.request.request_id.as_ref();
            let id = request_id.map_or(new_id, |request| JobId::for_request(&database, request));
            (database, id)
        };
        if let Some(job) = self.known_job(id, deadline).await? {
            return submission.repeated(job);
        }
        let recorded = || deadline.retry(|| JobRecords::read(&self.store, &database, &id));
        let lock_key = Key::Lock(database.clone());
        let mut tries = Tries::of(format!("the lock of database {database}"), deadline);
        loop {
            // The first attempt relies on the view, which is current unless another request came first.
            let read_etcd = tries.begin()? > 0;
            if read_etcd && let Some(stored) = recorded().await? {
                return self.answer(submission, &stored, id, new_id, deadline).await;
            }
            let mut base = match self.attempt_within(submission, new_id, deadline).await {
                Ok(base) => base,
                Err(refusal) => {
                    return match recorded().await? {
                        Some(stored) => self.answer(submission, &stored, id, new_id, deadline).await,
                        None => Err(refusal),
                    };
                }
            };
            if read_etcd {
                let lock = deadline.retry(|| self.store.get::<Lock>(&lock_key)).await?;
                (base.lock, base.lock_revision) =
                    lock.map_or((Lock::default(), 0), |lock| (lock.record, lock.revision));
            }
            let lock = match self.lock_with_job(submission, &base, id, read_etcd, deadline).await? {
                Some(lock) => lock,
                None => continue,
            };
            let record = &base.record;
            // Until the view shows the job, so it is held to the end of this attempt.
            let reserved = self.open_jobs.reserve(&self.view(), record);
            let _place = match reserved {
                Ok(place) => place,
                Err(refusal) => {
                    return match recorded().await? {
                        Some(stored) => self.answer(submission, &stored, id, new_id, deadline).await,
                        None => Err(refusal),
                    };
                }
            };
            let mut transaction = self
                .store
                .transaction()
                .expect_absent(&job_key(record))
                // A cell that is being removed at this moment gets no new job.
                .expect(&Key::Pooler(database.clone(), record.cell.clone()), base.pooler_revision)
                .put(&job_key(record), record);
            if record.kind().takes_lock() {
                transaction = transaction.expect(&lock_key, base.lock_revision).put(&lock_key, &lock);
            }
            // When the answer is lost, the next attempt's first read shows whether it was committed.
            if self.commit(&mut tries, transaction, None).await? {
                tracing::info!(job = %id, kind = %record.kind(), cell = %record.cell, requested_by = record.requested_by, "recorded a job");
                return Ok(self.recorded_job(record, &lock, deadline).await);
            }
        }
    }

    /// Plans, and plans again while the reason of a refusal is expected to pass by itself: a request that comes just
    /// after a rebuild or a restore has ended is not refused because of the state before its end.
    async fn attempt_within(
        &self,
        submission: &Submission,
        id: JobId,
        deadline: Deadline,
    ) -> Result<Attempt, Refusal> {
        let begun = Instant::now();
        // The caller must get the reason rather than a timeout.
        let limit = deadline.remaining().saturating_sub(Duration::from_secs(1));
        loop {
            let refusal = match self.attempt(submission, id) {
                Ok(attempt) => return Ok(attempt),
                Err(refusal) => refusal,
            };
            let wait = self.passes_within(submission, refusal.code).min(limit);
            let left = wait.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(refusal);
            }
            let now = clock::now();
            let changed = |view: &View| {
                submission.plan(view, id, now).err().map(|other| other.code) != Some(refusal.code)
            };
            // Changed or not, the next attempt decides.
            let _ = self.mirror.wait_for(left, changed).await;
        }
    }

    /// How soon the reason of a refusal passes by itself in a healthy cluster; zero for a reason that does not.
    fn passes_within(&self, submission: &Submission, code: Code) -> Duration {
        let is_starting = |status: &PoolerStatus| {
            submission.request.cell.as_ref() == Some(&status.cell)
                && matches!(status.state, InstanceState::Starting | InstanceState::Seeding)
        };
        match code {
            Code::WrongPrimary | Code::NoPrimary => RECONNECT_TIMEOUT + MAX_STATUS_AGE,
            Code::CellDown if self.view().status.values().any(is_starting) => MAX_STATUS_AGE,
            _ => Duration::ZERO,
        }
    }

    /// Refuses what planning refuses now. The lock may still refuse what passes.
    pub(crate) fn would_accept(&self, submission: &Submission) -> Result<(), Refusal> {
        self.attempt(submission, JobId::new(clock::new_id())).map(drop)
    }

    /// The lock with the job as its holder or in its queue; unchanged for a job that takes no lock. `None` when etcd must
    /// be read before the request can be refused.
    async fn lock_with_job(
        &self,
        submission: &Submission,
        base: &Attempt,
        id: JobId,
        read_etcd: bool,
        deadline: Deadline,
    ) -> Result<Option<Lock>, Refusal> {
        if !base.record.kind().takes_lock() {
            return Ok(Some(base.lock.clone()));
        }
        let ended = self.ended_in_lock(base, read_etcd, deadline).await?;
        match base.lock.request(id, submission.queue, |id| ended.contains(id)) {
            LockDecision::Granted(lock) | LockDecision::Queued(lock) => Ok(Some(lock)),
            // The view may have missed that the holder has ended.
            LockDecision::Busy(_) | LockDecision::QueueFull if !read_etcd => Ok(None),
            LockDecision::Busy(holder) => Err(self.busy(&base.record, holder, deadline).await),
            LockDecision::QueueFull => Err(queue_full(&base.record)),
        }
    }

    /// Plans on the view, with the revisions of the records that the plan depends on.
    fn attempt(&self, submission: &Submission, new_id: JobId) -> Result<Attempt, Refusal> {
        let view = self.view();
        let record = submission.plan(&view, new_id, clock::now())?;
        view.snapshot().new_enough(&record.database, &record.cell)?;
        let key = Key::Lock(record.database.clone());
        let path = self.store.keys().path(&key);
        if let Some(reason) = view.unreadable.get(&path) {
            // Overwriting it could let two jobs write to the stanza at once.
            return Err(refusal::unreadable(&path, reason));
        }
        Ok(Attempt {
            pooler_revision: view.revision(&Key::Pooler(record.database.clone(), record.cell.clone())),
            lock: view.locks.get(&record.database).cloned().unwrap_or_default(),
            lock_revision: view.revision(&key),
            record,
        })
    }

    /// Which of the jobs in the lock have ended. A job that the view does not have is read from etcd: another
    /// multiadmin may have recorded it a moment ago.
    async fn ended_in_lock(
        &self,
        base: &Attempt,
        read_etcd: bool,
        deadline: Deadline,
    ) -> Result<BTreeSet<JobId>, Refusal> {
        let database = &base.record.database;
        let mut ended = BTreeSet::new();
        let mut unsure = Vec::new();
        {
            let view = self.view();
            for id in base.lock.holder.iter().chain(&base.lock.queue) {
                let known = view.knows(id);
                if known && stage::has_ended(&view, database, id) {
                    ended.insert(*id);
                } else if read_etcd || !known {
                    unsure.push(*id);
                }
            }
        }
        for id in unsure {
            if deadline.retry(|| stage::has_ended_in(&self.store, database, &id)).await? {
                ended.insert(id);
            }
        }
        Ok(ended)
    }

    /// The answer when a job of this id exists: ours after a lost answer, or one of the same request id.
    async fn answer(
        &self,
        submission: &Submission,
        stored: &JobRecords,
        id: JobId,
        new_id: JobId,
        deadline: Deadline,
    ) -> Result<Job, Refusal> {
        let job = self.known_job(id, deadline).await?.unwrap_or_else(|| stored.joined());
        // No other request can have our own random id.
        if id == new_id { Ok(job) } else { submission.repeated(job) }
    }

    /// The job as the view shows it, or as it was written when the view is behind.
    async fn recorded_job(&self, record: &JobRecord, lock: &Lock, deadline: Deadline) -> Job {
        self.wait_until_seen(deadline, |view| view.knows(&record.id)).await;
        let known = self.known_job(record.id, deadline).await;
        known.ok().flatten().unwrap_or_else(|| join(record, None, false, Some(lock)))
    }

    /// The refusal when another job holds the lock.
    async fn busy(&self, record: &JobRecord, holder: JobId, deadline: Deadline) -> Refusal {
        let database = &record.database;
        let known = self.view().job(&holder);
        let job = match known {
            Some(job) => Some(job),
            None => match JobRecords::read(&self.store, database, &holder).await {
                Ok(stored) if !deadline.has_passed() => stored.map(|stored| stored.joined()),
                _ => None,
            },
        };
        let refusal = match job {
            None => Refusal::new(Code::Busy, format!("database {database} is busy with job {holder}")),
            Some(job) => {
                let (kind, cell) = (job.record.kind(), &job.record.cell);
                let since = match job.start_time {
                    Some(time) => format!("running since {}", cellar_model::timestamp_text(time)),
                    None => format!("waiting since {}", cellar_model::timestamp_text(job.record.create_time)),
                };
                Refusal::new(
                    Code::Busy,
                    format!("database {database} is busy: {kind} of cell {cell} (job {holder}), {since}"),
                )
            }
        };
        refusal
            .hint(format!(
                "wait for it (`cellar jobs watch {holder}`), or ask again with --queue to wait in line"
            ))
            .about("job", holder)
            .about("database", database)
            .about("cell", &record.cell)
    }
}

fn queue_full(record: &JobRecord) -> Refusal {
    let database = &record.database;
    Refusal::new(Code::QueueFull, format!("too many jobs wait for database {database} already"))
        .hint("look at them with `cellar jobs list` and cancel what is not needed")
        .about("database", database)
        .about("cell", &record.cell)
}
