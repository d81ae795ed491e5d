//! A claimed job's record in etcd: claimed, updated and ended by guarded transactions.
//!
//! A lease does not prove ownership: it says only that its holder was alive when it was last renewed. So every write
//! of a run checks ownership in its transaction, by the revisions of the job, the run and the claim as they were
//! just read.

use std::time::Duration;

use cellar_model::{
    JobId, JobRecord, JobState, Key, Lock, Progress, Run, RunResult, Transition, claimable, timestamp_ms,
};
use cellar_system::clock;
use cellar_topology::{StoreError, TxnOutcome, Versioned};

use crate::agent::Agent;
use crate::jobs::failure::JobFailure;

/// How long to wait before a write that etcd did not answer is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// A job that this process runs.
#[derive(Debug)]
pub(crate) struct ClaimedJob {
    /// The job as it was submitted.
    pub(crate) record: JobRecord,
    run: Run,
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

fn transition(agent: &Agent, state: JobState, note: &str) -> Transition {
    Transition { state, time: timestamp_ms(clock::now()), epoch: agent.epoch.clone(), note: note.to_owned() }
}

impl ClaimedJob {
    /// Claims a job. None when it cannot be claimed any more, or this process has no lease.
    pub(crate) async fn take(agent: &Agent, id: &JobId) -> Result<Option<Self>, StoreError> {
        let Some(lease) = agent.lease.current() else { return Ok(None) };
        let (record, job_revision, lock_revision) = {
            let view = agent.mirror.view();
            let Some(record) = view.jobs.get(id).cloned() else { return Ok(None) };
            let lock = view.locks.get(&agent.database).cloned().unwrap_or_else(Lock::default);
            if !claimable(&record, view.run(&record), &lock) {
                return Ok(None);
            }
            let keys = Keys::of(&record);
            let lock_revision = view.revision(&Key::Lock(agent.database.clone()));
            (record, view.revision(&keys.job), lock_revision)
        };
        let keys = Keys::of(&record);
        let now = timestamp_ms(clock::now());
        let run = Run {
            id: record.id,
            database: record.database.clone(),
            cell: record.cell.clone(),
            state: JobState::Running,
            epoch: agent.epoch.clone(),
            start_time: now,
            end_time: None,
            progress: Progress::default(),
            result: RunResult::default(),
            error: None,
            history: vec![transition(agent, JobState::Running, "")],
        };
        let outcome = agent
            .store
            .transaction()
            .expect(&keys.job, job_revision)
            .expect(&Key::Lock(agent.database.clone()), lock_revision)
            .expect_absent(&keys.run)
            .expect_absent(&keys.claim)
            .put_leased(&keys.claim, &agent.epoch, lease)
            .put(&keys.run, &run)
            .commit()
            .await?;
        if outcome == TxnOutcome::Conflict {
            return Ok(None);
        }
        tracing::info!(job = %record.id, kind = %record.kind, "claimed");
        Ok(Some(Self { record, run }))
    }

    /// Writes how far the job is, and claims it again if the lease was lost meanwhile. False when the job no longer
    /// belongs to this process.
    pub(crate) async fn progress(&mut self, agent: &Agent, progress: Progress) -> Result<bool, StoreError> {
        self.run.progress = progress;
        self.write(agent).await
    }

    /// Sets the result that is recorded even when the job fails.
    pub(crate) fn keep_result(&mut self, result: RunResult) {
        self.run.result = result;
    }

    /// One guarded write of the run as it is.
    async fn write(&mut self, agent: &Agent) -> Result<bool, StoreError> {
        let keys = Keys::of(&self.record);
        for _ in 0..3 {
            let job: Option<Versioned<JobRecord>> = agent.store.get(&keys.job).await?;
            let Some(job) = job.filter(|job| job.record.closure.is_none()) else { return Ok(false) };
            let run: Option<Versioned<Run>> = agent.store.get(&keys.run).await?;
            let ours =
                |run: &Versioned<Run>| run.record.epoch == agent.epoch && !run.record.state.is_terminal();
            let Some(run) = run else { return Ok(false) };
            if run.record == self.run {
                // An earlier write succeeded, but its answer was lost.
                return Ok(true);
            }
            if !ours(&run) {
                return Ok(false);
            }
            let claim: Option<Versioned<String>> = agent.store.get(&keys.claim).await?;
            if claim.as_ref().is_some_and(|claim| claim.record != agent.epoch) {
                return Ok(false);
            }
            let mut transaction = agent
                .store
                .transaction()
                .expect(&keys.job, job.revision)
                .expect(&keys.run, run.revision)
                .expect(&keys.claim, claim.as_ref().map_or(0, |claim| claim.revision))
                .put(&keys.run, &self.run);
            if self.run.state.is_terminal() {
                transaction = transaction.delete(&keys.claim);
            } else if claim.is_none()
                && let Some(lease) = agent.lease.current()
            {
                tracing::info!(job = %self.record.id, "claiming again: the lease was lost");
                transaction = transaction.put_leased(&keys.claim, &agent.epoch, lease);
            }
            if transaction.commit().await? != TxnOutcome::Conflict {
                self.record = job.record;
                return Ok(true);
            }
        }
        Err(StoreError::Retryable("the records of the job change too fast".to_owned()))
    }

    /// Writes the outcome, and tries until etcd answers.
    pub(crate) async fn finish(mut self, agent: &Agent, outcome: Result<RunResult, JobFailure>) {
        let (state, error) = match outcome {
            Ok(result) => {
                self.run.result = result;
                (JobState::Succeeded, None)
            }
            Err(failure) => {
                let (state, error) = failure.ending();
                (state, Some(error))
            }
        };
        let note = error.as_ref().map_or("", |error| error.message.as_str()).to_owned();
        self.run.state = state;
        self.run.error = error;
        self.run.end_time = Some(timestamp_ms(clock::now()));
        self.run.history.push(transition(agent, state, &note));
        loop {
            match self.write(agent).await {
                Ok(true) => {
                    tracing::info!(job = %self.record.id, state = state.as_str(), note, "job ended");
                    return;
                }
                Ok(false) => {
                    tracing::warn!(job = %self.record.id, "the job was closed by multiadmin before it ended here");
                    return;
                }
                Err(error) if error.is_retryable() => tokio::time::sleep(RETRY_INTERVAL).await,
                Err(error) => {
                    tracing::error!(job = %self.record.id, %error, "the outcome cannot be written");
                    return;
                }
            }
        }
    }

    /// Takes over a run that an earlier process of this cell left behind, to write its outcome. None when the run
    /// has ended or cannot be taken over.
    ///
    /// The earlier process has ended, because this one holds the cell's pid file. Its claim may stand until its
    /// lease expires.
    pub(crate) async fn inherit(agent: &Agent, record: &JobRecord) -> Result<Option<Self>, StoreError> {
        let keys = Keys::of(record);
        let Some(lease) = agent.lease.current() else {
            return Err(StoreError::Retryable("no lease yet".to_owned()));
        };
        let Some(job) = agent.store.get::<JobRecord>(&keys.job).await? else { return Ok(None) };
        let Some(run) = agent.store.get::<Run>(&keys.run).await? else { return Ok(None) };
        if !cellar_model::lost_is_recoverable(&job.record, &run.record, &agent.epoch) {
            return Ok(None);
        }
        let claim: Option<Versioned<String>> = agent.store.get(&keys.claim).await?;
        let mut taken = run.record;
        taken.epoch.clone_from(&agent.epoch);
        taken.history.push(transition(agent, JobState::Running, "taken over after a restart of the pooler"));
        let outcome = agent
            .store
            .transaction()
            .expect(&keys.job, job.revision)
            .expect(&keys.run, run.revision)
            .expect(&keys.claim, claim.map_or(0, |claim| claim.revision))
            .put(&keys.run, &taken)
            .put_leased(&keys.claim, &agent.epoch, lease)
            .commit()
            .await?;
        match outcome {
            TxnOutcome::Conflict => Err(StoreError::Retryable("the records of the job changed".to_owned())),
            TxnOutcome::Committed(_) => Ok(Some(Self { record: job.record, run: taken })),
        }
    }
}
