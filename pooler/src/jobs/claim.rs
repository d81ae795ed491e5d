//! A claimed job's record in etcd: claimed, updated and ended by guarded transactions.
//!
//! A lease does not prove ownership: it says only that its holder was alive when it was last renewed. So every write
//! of a run checks ownership in its transaction, by the revisions of the job, the run and the claim as they were
//! just read.

#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

use std::rc::Rc;
use std::time::Duration;

use cellar_model::{
    Code, JobError, JobId, JobOutcome, JobRecord, JobState, Key, Lock, Progress, Protocol, Run, Transition,
    claimable, timestamp_ms,
};
use cellar_system::clock;
use cellar_topology::{LeaseId, StoreError, TxnOutcome, Versioned};

use crate::jobs::claim_lease::ClaimLease;
use crate::member::Member;

/// How long to wait before a write that etcd did not answer is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// How long to wait before a write that etcd refused is tried again.
const REFUSED_RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// How a job ended.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a job has one, for a moment")]
pub enum Ending {
    /// It did what was asked.
    Succeeded(Option<JobOutcome>),
    /// It did not.
    Failed(JobError),
    /// It was canceled or closed.
    Canceled(JobError),
}

/// A job that this process runs.
#[derive(Debug)]
pub struct ClaimedJob {
    /// The job as it was submitted.
    pub record: JobRecord,
    run: Run,
    lease: Rc<ClaimLease>,
}

/// The keys of one job.
struct Keys {
    job: Key,
    run: Key,
    claim: Key,
}

impl Keys {
    fn of(record: &JobRecord) -> Self {
        let (db, cell, id) = (record.database.clone(), record.cell.clone(), record.id);
        Self {
            job: Key::Job(db.clone(), id),
            run: Key::Run(db.clone(), cell.clone(), id),
            claim: Key::Claim(db, cell, id),
        }
    }
}

/// The lease that the process has, for a claim to be bound to.
fn present_lease(member: &Member) -> Option<(LeaseId, ClaimLease)> {
    let lease = member.lease.current()?;
    Some((lease, ClaimLease::new(member, lease)?))
}

fn transition(member: &Member, state: JobState, note: &str) -> Transition {
    Transition { state, time: timestamp_ms(clock::now()), epoch: member.epoch.clone(), note: note.to_owned() }
}

/// Whether etcd refuses the write for its size, now and later. The text is etcd's own, the same from 3.4 to 3.6.
fn is_too_large(error: &StoreError) -> bool {
    matches!(error, StoreError::Encode(_))
        || matches!(error, StoreError::Terminal(text) if text.contains("request is too large"))
}

fn too_large(record: &JobRecord) -> JobError {
    JobError {
        code: Code::Internal,
        message: format!("the {} ended, and its result is too large to be recorded", record.kind()),
        hint: "look at the job's log for what it found".to_owned(),
        tool_output: String::new(),
    }
}

impl ClaimedJob {
    /// Claims a job. None when it cannot be claimed any more, or this process has no lease.
    pub(crate) async fn take(member: &Member, id: &JobId) -> Result<Option<Self>, StoreError> {
        let Some((lease, claim_lease)) = present_lease(member) else { return Ok(None) };
        let (record, job_revision, lock_revision) = {
            let view = member.mirror.view();
            let Some(record) = view.jobs.get(id).cloned() else { return Ok(None) };
            let lock = view.locks.get(&member.database).cloned().unwrap_or_else(Lock::default);
            if !claimable(&record, view.run(&record), &lock) {
                return Ok(None);
            }
            let keys = Keys::of(&record);
            let lock_revision = view.revision(&Key::Lock(member.database.clone()));
            (record, view.revision(&keys.job), lock_revision)
        };
        let keys = Keys::of(&record);
        let now = timestamp_ms(clock::now());
        let run = Run {
            id: record.id,
            database: record.database.clone(),
            cell: record.cell.clone(),
            state: JobState::Running,
            epoch: member.epoch.clone(),
            start_time: now,
            end_time: None,
            progress: Progress::default(),
            result: None,
            error: None,
            history: vec![transition(member, JobState::Running, "")],
            protocol: Protocol::OURS,
        };
        let outcome = member
            .transaction()
            .expect(&keys.job, job_revision)
            .expect(&Key::Lock(member.database.clone()), lock_revision)
            .expect_absent(&keys.run)
            .expect_absent(&keys.claim)
            .put_leased(&keys.claim, &member.epoch, lease)
            .put(&keys.run, &run)
            .commit()
            .await?;
        if outcome == TxnOutcome::Conflict {
            return Ok(None);
        }
        tracing::info!(job = %record.id, kind = %record.kind(), "claimed");
        Ok(Some(Self { record, run, lease: Rc::new(claim_lease) }))
    }

    /// Adopts a run of this process that it never began: the claim was written, and etcd's answer was lost. None when
    /// the run has ended or belongs to another process.
    ///
    /// The caller knows that this process never began it. The claim is written again if it ended with its lease.
    pub(crate) async fn adopt(member: &Member, id: &JobId) -> Result<Option<Self>, StoreError> {
        // Which lease the claim was bound to is not known, so it is bound again.
        let Some((lease, claim_lease)) = present_lease(member) else {
            return Err(StoreError::Retryable("no lease yet".to_owned()));
        };
        let bound = Self::bind_claim(member, id, lease).await?;
        Ok(bound.map(|(record, run)| Self { record, run, lease: Rc::new(claim_lease) }))
    }

    /// Binds the claim of a run of this process to a lease. None when the run has ended, its job was closed, or another
    /// process has it.
    async fn bind_claim(
        member: &Member,
        id: &JobId,
        lease: LeaseId,
    ) -> Result<Option<(JobRecord, Run)>, StoreError> {
        let Some(record) = member.mirror.view().jobs.get(id).cloned() else { return Ok(None) };
        let keys = Keys::of(&record);
        let Some(job) = member.store.get::<JobRecord>(&keys.job).await? else { return Ok(None) };
        let Some(run) = member.store.get::<Run>(&keys.run).await? else { return Ok(None) };
        let claim: Option<Versioned<String>> = member.store.get(&keys.claim).await?;
        let ours = run.record.epoch == member.epoch
            && run.record.state == JobState::Running
            && claim.as_ref().is_none_or(|claim| claim.record == member.epoch);
        if !ours || job.record.closure.is_some() {
            return Ok(None);
        }
        let transaction = member
            .transaction()
            .expect(&keys.job, job.revision)
            .expect(&keys.run, run.revision)
            .expect(&keys.claim, claim.map_or(0, |claim| claim.revision))
            .put_leased(&keys.claim, &member.epoch, lease);
        match transaction.commit().await? {
            TxnOutcome::Committed(_) => Ok(Some((job.record, run.record))),
            TxnOutcome::Conflict => Err(StoreError::Retryable("the records of the job changed".to_owned())),
        }
    }

    /// The lease of its claim.
    pub(crate) fn claim_lease(&self) -> Rc<ClaimLease> {
        Rc::clone(&self.lease)
    }

    /// Binds the claim of a job that this process runs to the current lease.
    pub(crate) async fn claim_again(
        member: &Member,
        id: &JobId,
        claim_lease: &ClaimLease,
    ) -> Result<(), StoreError> {
        let Some(lease) = member.lease.current() else { return Ok(()) };
        let Some(renewed) = member.lease.renewed(lease) else { return Ok(()) };
        if Self::bind_claim(member, id, lease).await?.is_some() {
            claim_lease.bind(lease, renewed);
            tracing::info!(job = %id, "claimed again: the lease was lost meanwhile");
        }
        Ok(())
    }

    /// Writes how far the job is. False when the job no longer belongs to this process.
    pub async fn progress(&mut self, member: &Member, progress: Progress) -> Result<bool, StoreError> {
        self.run.progress = progress;
        self.write(member).await
    }

    /// Sets the outcome that is recorded even when the job fails.
    pub fn keep_outcome(&mut self, outcome: JobOutcome) {
        self.run.result = Some(outcome);
    }

    /// The outcome as it is so far.
    pub(crate) fn outcome_mut(&mut self) -> &mut Option<JobOutcome> {
        &mut self.run.result
    }

    /// One guarded write of the run as it is.
    async fn write(&mut self, member: &Member) -> Result<bool, StoreError> {
        let keys = Keys::of(&self.record);
        for _ in 0..3 {
            let (job, run, claim) = tokio::join!(
                member.store.get::<JobRecord>(&keys.job),
                member.store.get::<Run>(&keys.run),
                member.store.get::<String>(&keys.claim)
            );
            let Some(job) = job?.filter(|job| job.record.closure.is_none()) else { return Ok(false) };
            let (run, claim) = (run?, claim?);
            let ours =
                |run: &Versioned<Run>| run.record.epoch == member.epoch && !run.record.state.is_terminal();
            let Some(run) = run else { return Ok(false) };
            if run.record == self.run && self.run.state.is_terminal() {
                // An earlier write of the outcome succeeded, but its answer was lost.
                return Ok(true);
            }
            if !ours(&run) {
                return Ok(false);
            }
            if run.record == self.run && claim.is_some() {
                self.record = job.record;
                return Ok(claim.is_some_and(|claim| claim.record == member.epoch));
            }
            if claim.as_ref().is_some_and(|claim| claim.record != member.epoch) {
                return Ok(false);
            }
            let mut transaction = member
                .transaction()
                .expect(&keys.job, job.revision)
                .expect(&keys.run, run.revision)
                .expect(&keys.claim, claim.as_ref().map_or(0, |claim| claim.revision))
                .put(&keys.run, &self.run);
            if self.run.state.is_terminal() {
                transaction = transaction.delete(&keys.claim);
            }
            if transaction.commit().await? != TxnOutcome::Conflict {
                self.record = job.record;
                return Ok(true);
            }
        }
        Err(StoreError::Retryable("the records of the job change too fast".to_owned()))
    }

    /// Writes the outcome, and tries until that succeeds: nobody else may write it, and without it the job would stay
    /// in the state RUNNING.
    ///
    /// A write that etcd refuses is tried again too: its database may be full, or a permission missing, for a while.
    /// Only a result that is too large for etcd is given up; the job then fails without it.
    pub(crate) async fn finish(mut self, member: &Member, ending: Ending) {
        let (state, error) = match ending {
            Ending::Succeeded(result) => {
                self.run.result = result;
                (JobState::Succeeded, None)
            }
            Ending::Failed(error) => (JobState::Failed, Some(error)),
            Ending::Canceled(error) => (JobState::Canceled, Some(error)),
        };
        self.run.result = self.run.result.take().map(JobOutcome::bounded);
        let error = error.map(JobError::bounded);
        let note = error.as_ref().map_or("", |error| error.message.as_str()).to_owned();
        self.run.state = state;
        self.run.error = error;
        self.run.end_time = Some(timestamp_ms(clock::now()));
        self.run.history.push(transition(member, state, &note));
        loop {
            match self.write(member).await {
                Ok(true) => {
                    tracing::info!(job = %self.record.id, state = state.as_str(), note, "job ended");
                    return;
                }
                Ok(false) => {
                    tracing::warn!(job = %self.record.id, "the job was closed by multiadmin before it ended here");
                    return;
                }
                Err(error) if error.is_retryable() => tokio::time::sleep(RETRY_INTERVAL).await,
                Err(error) if is_too_large(&error) && self.run.result.is_some() => {
                    tracing::error!(job = %self.record.id, %error, "the result is too large to be recorded");
                    self.run.result = None;
                    self.run.state = JobState::Failed;
                    self.run.error = Some(too_large(&self.record));
                }
                Err(error) => {
                    tracing::error!(job = %self.record.id, %error, "the outcome cannot be written yet");
                    tokio::time::sleep(REFUSED_RETRY_INTERVAL).await;
                }
            }
        }
    }

    /// Takes over a run that an earlier process of this cell left running, to write its outcome. None when the run has
    /// ended or cannot be taken over.
    ///
    /// The earlier process was one of this machine and has ended, because this one holds the cell's pid file. Its claim
    /// may stand until its lease expires. A run of another machine's process is left alone: its work may go on there, and
    /// multiadmin closes the job when it cannot any more.
    pub(crate) async fn inherit(member: &Member, record: &JobRecord) -> Result<Option<Self>, StoreError> {
        let keys = Keys::of(record);
        let Some((lease, claim_lease)) = present_lease(member) else {
            return Err(StoreError::Retryable("no lease yet".to_owned()));
        };
        let claim_lease = Rc::new(claim_lease);
        let Some(job) = member.store.get::<JobRecord>(&keys.job).await? else { return Ok(None) };
        let Some(run) = member.store.get::<Run>(&keys.run).await? else { return Ok(None) };
        let is_running = run.record.state == JobState::Running && job.record.closure.is_none();
        if is_running && run.record.epoch == member.epoch {
            // An earlier attempt was written, and etcd's answer was lost.
            return Ok(Some(Self { record: job.record, run: run.record, lease: claim_lease }));
        }
        let is_own = member.is_own(&run.record.epoch);
        if !is_own || !cellar_model::lost_is_recoverable(&job.record, &run.record, &member.epoch) {
            return Ok(None);
        }
        let claim: Option<Versioned<String>> = member.store.get(&keys.claim).await?;
        let mut taken = run.record;
        taken.epoch.clone_from(&member.epoch);
        taken.protocol = Protocol::OURS;
        taken.history.push(transition(member, JobState::Running, "taken over after a restart of the pooler"));
        let outcome = member
            .transaction()
            .expect(&keys.job, job.revision)
            .expect(&keys.run, run.revision)
            .expect(&keys.claim, claim.map_or(0, |claim| claim.revision))
            .put(&keys.run, &taken)
            .put_leased(&keys.claim, &member.epoch, lease)
            .commit()
            .await?;
        match outcome {
            TxnOutcome::Conflict => Err(StoreError::Retryable("the records of the job changed".to_owned())),
            TxnOutcome::Committed(_) => Ok(Some(Self { record: job.record, run: taken, lease: claim_lease })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::tests::{TestClock, member};
    use cellar_model::{JobSpec, OwnClaims, RebuildParams};
    use cellar_topology::MemoryKv;

    /// The record of a rebuild that a process runs, with its claim, in etcd.
    async fn running(by: &Member) -> JobRecord {
        let record = JobRecord::new(
            JobId::new(uuid::Uuid::from_u128(1)),
            JobSpec::Rebuild(RebuildParams::default()),
            by.database.clone(),
            by.cell.clone(),
            "test",
            clock::now(),
            clock::now(),
        );
        let run = Run {
            id: record.id,
            database: record.database.clone(),
            cell: record.cell.clone(),
            state: JobState::Running,
            epoch: by.epoch.clone(),
            start_time: clock::now(),
            end_time: None,
            progress: Progress::default(),
            result: None,
            error: None,
            history: vec![],
            protocol: Protocol::OURS,
        };
        let keys = Keys::of(&record);
        let written = by.store.transaction().put(&keys.job, &record).put(&keys.run, &run);
        let written = written.put(&keys.claim, &by.epoch).commit().await;
        assert!(matches!(written, Ok(TxnOutcome::Committed(_))));
        record
    }

    async fn claimed(kv: &MemoryKv, epoch: &str, own: OwnClaims) -> Member {
        let process = member(kv, epoch, own);
        let claimed = process.claim_cell(0, async |_| Ok(())).await.unwrap();
        assert_eq!(claimed, crate::member::Claimed::Yes);
        while present_lease(&process).is_none() {
            tokio::task::yield_now().await;
        }
        process
    }

    #[tokio::test]
    async fn run_is_taken_over_from_an_earlier_process_of_this_machine_only() {
        let (_clock, kv) = (TestClock::begin(), MemoryKv::default());
        let earlier = claimed(&kv, "e1", OwnClaims::default()).await;
        let record = running(&earlier).await;
        let restarted = claimed(&kv, "e2", OwnClaims::default().with(1, "e1")).await;
        let taken = ClaimedJob::inherit(&restarted, &record).await.unwrap();
        assert!(taken.is_some_and(|job| job.run.epoch == "e2"));

        // It lives on another machine.
        let kv = MemoryKv::default();
        let process = claimed(&kv, "e2", OwnClaims::default()).await;
        let others = running(&member(&kv, "e1", OwnClaims::default())).await;
        assert!(ClaimedJob::inherit(&process, &others).await.unwrap().is_none());
        let claim = process.store.get::<String>(&Keys::of(&others).claim).await.unwrap().unwrap();
        assert_eq!(claim.record, "e1", "it still has its claim");
    }
}
