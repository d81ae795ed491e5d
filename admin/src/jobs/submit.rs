//! Recording a job: one transaction that creates it and takes its place at the database's lock.

use cellar_model::{
    Code, DatabaseName, DrilledBackup, ExpireParams, InstanceState, Job, JobId, JobKind, JobRecord,
    JobRequest, JobSpec, JobState, Key, Lock, LockDecision, PoolerStatus, RECONNECT, Refusal, join,
    plan_backup, plan_check, plan_confirm, plan_drill, plan_expire, plan_rebuild, plan_restore,
    plan_restore_plan, plan_rollback, plan_verify,
};
use cellar_system::clock;
use cellar_topology::{StoreError, TxnOutcome, View};
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::admin::Admin;
use crate::deadline::Deadline;
use crate::jobs::ended::{self, job_key};
use crate::jobs::stored::Stored;
use crate::refusal;

/// Races that may be lost before the caller is told to come back. Each lost race means that
/// somebody else's request succeeded.
const ATTEMPTS: u32 = 64;

/// How old a pooler's status may be while nothing is wrong: it writes at most one a second.
const STATUS_AGE: Duration = Duration::from_millis(1500);

/// A request for a job, parsed. What it leaves open in the spec is decided when it is planned.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) request: JobRequest,
    pub(crate) spec: JobSpec,
    /// Wait behind others rather than be refused.
    pub(crate) queue: bool,
}

/// The restore that a request is about.
fn subject(view: &View, id: JobId) -> Result<Job, Refusal> {
    view.job(&id).ok_or_else(|| refusal::unknown_job(id))
}

/// Drills of named backups that read the repo now or will. The pgBackRest of one that is lost died with its pooler.
fn drilled(view: &View, database: &DatabaseName) -> Vec<DrilledBackup> {
    let drills = view
        .jobs
        .values()
        .filter(|record| record.kind() == JobKind::Drill && record.database == *database)
        .filter(|record| {
            view.job(&record.id).is_some_and(|job| matches!(job.state, JobState::Pending | JobState::Running))
        });
    drills
        .filter_map(|record| {
            let JobSpec::Drill(params) = &record.spec else { return None };
            Some(DrilledBackup { job: record.id, backup: params.backup.clone()? })
        })
        .collect()
}

impl Wanted {
    fn plan(&self, view: &View, id: JobId, now: Timestamp) -> Result<JobRecord, Refusal> {
        let (snapshot, request) = (&view.snapshot(), &self.request);
        match &self.spec {
            JobSpec::Backup(params) => plan_backup(snapshot, request, params, id, now),
            JobSpec::Rebuild(_) => plan_rebuild(snapshot, request, id, now),
            JobSpec::Restore(params) => plan_restore(snapshot, request, params, id, now),
            JobSpec::Plan(params) => plan_restore_plan(snapshot, request, params, id, now),
            JobSpec::Rollback(restore) => {
                plan_rollback(snapshot, request, &subject(view, *restore)?, id, now)
            }
            JobSpec::Confirm(restore) => {
                let about = |record: &&JobRecord| {
                    record.spec.subject() == Some(*restore) && record.kind().is_driven()
                };
                let related: Vec<Job> =
                    view.jobs.values().filter(about).filter_map(|record| view.job(&record.id)).collect();
                plan_confirm(snapshot, request, &subject(view, *restore)?, &related, id, now)
            }
            JobSpec::Drill(params) => plan_drill(snapshot, request, params, id, now),
            JobSpec::Expire(params) => {
                let drilled = drilled(view, &self.database(view)?);
                plan_expire(snapshot, request, &ExpireParams { drilled, ..params.clone() }, id, now)
            }
            JobSpec::Verify => plan_verify(snapshot, request, id, now),
            JobSpec::Check => plan_check(snapshot, request, id, now),
            JobSpec::Fence | JobSpec::Recover(_) | JobSpec::Swap | JobSpec::Discard(_) => {
                let kind = self.spec.kind();
                Err(Refusal::new(Code::InvalidArgument, format!("a {kind} is a step, nobody asks for it")))
            }
        }
    }

    /// The database that the request is about.
    fn database(&self, view: &View) -> Result<DatabaseName, Refusal> {
        match &self.spec {
            JobSpec::Rollback(restore) | JobSpec::Confirm(restore) => {
                Ok(subject(view, *restore)?.record.database)
            }
            _ => Ok(view.snapshot().database(self.request.database.as_ref())?.name.clone()),
        }
    }

    /// Whether an existing job is what this request once asked for.
    ///
    /// Not a comparison of plans: a repeated request must find its job even when the cell has
    /// gone down since and planning would refuse.
    fn describes(&self, record: &JobRecord) -> bool {
        let same_cell = self.request.cell.as_ref().is_none_or(|cell| *cell == record.cell);
        same_cell && record.spec.answers(&self.spec)
    }

    /// The answer to a repeated request.
    fn repeated(&self, job: Job) -> Result<Job, Refusal> {
        if self.describes(&job.record) {
            return Ok(job);
        }
        Err(Refusal::new(
            Code::RequestIdReused,
            format!(
                "the request id was used before for another request: {} of cell {} is job {}",
                job.record.kind(),
                job.record.cell,
                job.record.id
            ),
        )
        .hint("use a new request id for a new request")
        .about("field", "request_id")
        .about("job", job.record.id)
        .about("database", &job.record.database))
    }
}

/// What one attempt is based on.
struct Attempt {
    record: JobRecord,
    pooler_revision: i64,
    lock: Lock,
    lock_revision: i64,
}

impl Admin {
    /// Records the job, or finds the one that the same request recorded before.
    pub(crate) async fn submit(&self, wanted: &Wanted, deadline: Deadline) -> Result<Job, Refusal> {
        self.fresh(deadline).await?;
        // One id for all attempts: when a transaction's outcome is unknown, reading it tells.
        let new_id = JobId::new(clock::new_id());
        let (database, id) = {
            let view = self.view();
            let database = wanted.database(&view)?;
            let request_id = wanted.request.request_id.as_ref();
            let id = request_id.map_or(new_id, |request| JobId::for_request(&database, request));
            if let Some(job) = view.job(&id) {
                return wanted.repeated(job);
            }
            (database, id)
        };
        let recorded = || deadline.retry(|| Stored::read(&self.store, &database, &id));
        let lock_key = Key::Lock(database.clone());
        for attempt in 0..ATTEMPTS {
            // The first attempt trusts the view; it is right unless somebody was faster.
            let thorough = attempt > 0;
            if thorough && let Some(stored) = recorded().await? {
                return self.answer(wanted, &stored, id, new_id);
            }
            let mut base = match self.patiently(wanted, new_id, deadline).await {
                Ok(base) => base,
                Err(refusal) => {
                    return match recorded().await? {
                        Some(stored) => self.answer(wanted, &stored, id, new_id),
                        None => Err(refusal),
                    };
                }
            };
            if thorough {
                let lock = deadline.retry(|| self.store.get::<Lock>(&lock_key)).await?;
                (base.lock, base.lock_revision) =
                    lock.map_or((Lock::default(), 0), |lock| (lock.record, lock.revision));
            }
            let lock = match self.place(wanted, &base, id, thorough, deadline).await? {
                Some(lock) => lock,
                None => continue,
            };
            let record = &base.record;
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
            match deadline.call(transaction.commit()).await {
                Ok(TxnOutcome::Committed(_)) => {
                    tracing::info!(job = %id, kind = %record.kind(), cell = %record.cell, requested_by = record.requested_by, "recorded a job");
                    return Ok(self.appeared(record, &lock, deadline).await);
                }
                Ok(TxnOutcome::Conflict) => deadline.yield_to_others(attempt).await,
                // Whether it happened is found out by the next attempt's first read.
                Err(StoreError::Retryable(_)) if !deadline.has_passed() => deadline.pause(attempt).await,
                Err(error) => return Err(refusal::of_store(error)),
            }
            if deadline.has_passed() {
                break;
            }
        }
        Err(refusal::contended(&format!("the lock of database {database}")))
    }

    /// Plans, and plans again while the reason of a refusal may go by itself: whoever has just seen a rebuild or a
    /// restore end is not refused by what was so until then.
    async fn patiently(&self, wanted: &Wanted, id: JobId, deadline: Deadline) -> Result<Attempt, Refusal> {
        let begun = Instant::now();
        // The caller is to learn the reason, and not that his time is up.
        let limit = deadline.remaining() / 2;
        loop {
            let refusal = match self.attempt(wanted, id) {
                Ok(attempt) => return Ok(attempt),
                Err(refusal) => refusal,
            };
            let patience = self.passes_within(wanted, refusal.code).min(limit);
            let left = patience.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(refusal);
            }
            let now = clock::now();
            let changed =
                |view: &View| wanted.plan(view, id, now).err().map(|other| other.code) != Some(refusal.code);
            // Whether it changed or not, the next round tells.
            let _ = self.mirror.wait_for(left, changed).await;
        }
    }

    /// In which time the reason of a refusal goes by itself when nothing is wrong; zero for one that stays.
    fn passes_within(&self, wanted: &Wanted, code: Code) -> Duration {
        let starts = |status: &PoolerStatus| {
            wanted.request.cell.as_ref() == Some(&status.cell)
                && matches!(status.state, InstanceState::Starting | InstanceState::Seeding)
        };
        match code {
            Code::WrongPrimary | Code::NoPrimary => RECONNECT + STATUS_AGE,
            Code::CellDown if self.view().status.values().any(starts) => STATUS_AGE,
            _ => Duration::ZERO,
        }
    }

    /// Whether the request would be taken on as things are, as far as planning sees it.
    pub(crate) fn would_accept(&self, wanted: &Wanted) -> Result<(), Refusal> {
        self.attempt(wanted, JobId::new(clock::new_id())).map(drop)
    }

    /// The lock with the job in its place; as it is for a job that needs none. None when that must be looked at more
    /// thoroughly.
    async fn place(
        &self,
        wanted: &Wanted,
        base: &Attempt,
        id: JobId,
        thorough: bool,
        deadline: Deadline,
    ) -> Result<Option<Lock>, Refusal> {
        if !base.record.kind().takes_lock() {
            return Ok(Some(base.lock.clone()));
        }
        let ended = self.ended_in_lock(base, thorough, deadline).await?;
        match base.lock.request(id, wanted.queue, |id| ended.contains(id)) {
            LockDecision::Granted(lock) | LockDecision::Queued(lock) => Ok(Some(lock)),
            // The view may have missed that the holder has ended.
            LockDecision::Busy(_) | LockDecision::QueueFull if !thorough => Ok(None),
            LockDecision::Busy(holder) => Err(self.busy(&base.record, holder, deadline).await),
            LockDecision::QueueFull => Err(queue_full(&base.record)),
        }
    }

    /// Plans on the view, and takes the revisions of what the plan stands on.
    fn attempt(&self, wanted: &Wanted, new_id: JobId) -> Result<Attempt, Refusal> {
        let view = self.view();
        let record = wanted.plan(&view, new_id, clock::now())?;
        let key = Key::Lock(record.database.clone());
        let path = self.store.keys().path(&key);
        if let Some(reason) = view.unreadable.get(&path) {
            // Overwriting it could let a second job at the stanza.
            return Err(refusal::unreadable(&path, reason));
        }
        Ok(Attempt {
            pooler_revision: view.revision(&Key::Pooler(record.database.clone(), record.cell.clone())),
            lock: view.locks.get(&record.database).cloned().unwrap_or_default(),
            lock_revision: view.revision(&key),
            record,
        })
    }

    /// Which of the jobs in the lock have ended. What the view does not know is asked of etcd: it
    /// may be a job that another multiadmin recorded a moment ago.
    async fn ended_in_lock(
        &self,
        base: &Attempt,
        thorough: bool,
        deadline: Deadline,
    ) -> Result<BTreeSet<JobId>, Refusal> {
        let database = &base.record.database;
        let mut ended = BTreeSet::new();
        let mut unsure = Vec::new();
        {
            let view = self.view();
            for id in base.lock.holder.iter().chain(&base.lock.queue) {
                let known = view.jobs.contains_key(id);
                if known && ended::has_ended(&view, database, id) {
                    ended.insert(*id);
                } else if thorough || !known {
                    unsure.push(*id);
                }
            }
        }
        for id in unsure {
            if deadline.retry(|| ended::has_ended_in(&self.store, database, &id)).await? {
                ended.insert(id);
            }
        }
        Ok(ended)
    }

    /// A job of the wanted id exists: ours after an unknown outcome, or the same request's.
    fn answer(&self, wanted: &Wanted, stored: &Stored, id: JobId, new_id: JobId) -> Result<Job, Refusal> {
        let job = self.view().job(&id).unwrap_or_else(|| stored.joined());
        // Nobody else can have drawn our own random id.
        if id == new_id { Ok(job) } else { wanted.repeated(job) }
    }

    /// The job as the mirror shows it, or as it was written when the mirror is slow.
    async fn appeared(&self, record: &JobRecord, lock: &Lock, deadline: Deadline) -> Job {
        self.wait_until_seen(deadline, |view| view.jobs.contains_key(&record.id)).await;
        self.view().job(&record.id).unwrap_or_else(|| join(record, None, false, Some(lock)))
    }

    async fn busy(&self, record: &JobRecord, holder: JobId, deadline: Deadline) -> Refusal {
        let database = &record.database;
        let known = self.view().job(&holder);
        let job = match known {
            Some(job) => Some(job),
            None => match Stored::read(&self.store, database, &holder).await {
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
