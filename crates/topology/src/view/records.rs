//! The records, and what is asked of them.

use std::collections::{BTreeMap, BTreeSet};

use cellar_model::{
    AuditId, AuditOutcome, Cell, CellClaim, CellName, Database, DatabaseName, FailoverHistory, Incarnation,
    Job, JobId, JobKind, JobOutcome, JobRecord, JobState, Key, Leader, Lock, Pooler, PoolerStatus,
    RevocationList, Run, Schedule, ScheduleName, Snapshot, join, state, with_steps,
};

use crate::view::ended_jobs::{EndedJob, Scope};

/// Where a run and its claim lie: below the pooler that writes them.
///
/// A job's own run is the one in its own cell. Another pooler can write a run with the same
/// id below its own prefix, and that one must not be taken for the job's.
pub type RunKey = (DatabaseName, CellName, JobId);

/// The records of a cluster, or of the part of it that a [`crate::Mirror`] follows.
///
/// A record that cannot be read, or names another subject than its key, is left out and
/// listed in `unreadable`: one bad record must not hide the good ones.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct View {
    /// All cells.
    pub cells: BTreeMap<CellName, Cell>,
    /// All databases.
    pub databases: BTreeMap<DatabaseName, Database>,
    /// All poolers.
    pub poolers: BTreeMap<(DatabaseName, CellName), Pooler>,
    /// Status of the poolers that report: the key goes with the pooler's lease.
    pub status: BTreeMap<(DatabaseName, CellName), PoolerStatus>,
    /// Each database's recorded primary.
    pub leaders: BTreeMap<DatabaseName, Leader>,
    /// Jobs as they were requested; see [`Scope`] for which.
    pub jobs: BTreeMap<JobId, JobRecord>,
    /// How jobs run or ended, by where each record lies; [`View::run`] finds a job's own.
    pub runs: BTreeMap<RunKey, Run>,
    /// Summaries of jobs that have ended and are not in `jobs`.
    pub ended: BTreeMap<JobId, EndedJob>,
    /// Which pooler process works on which job, by where each record lies; [`View::claim`] finds a job's own.
    pub claims: BTreeMap<RunKey, String>,
    /// Which process runs each cell, also when it does not live.
    pub cell_claims: BTreeMap<(DatabaseName, CellName), CellClaim>,
    /// Locks and queues.
    pub locks: BTreeMap<DatabaseName, Lock>,
    /// Which restored or original data is each database's present one.
    pub incarnations: BTreeMap<DatabaseName, Incarnation>,
    /// The changes of each database's primary, for people.
    pub failovers: BTreeMap<DatabaseName, FailoverHistory>,
    /// Schedules: jobs that multiadmin starts at set times.
    pub schedules: BTreeMap<(DatabaseName, ScheduleName), Schedule>,
    /// Revoked certificates.
    pub revocations: Option<RevocationList>,
    /// The leading multiadmin.
    pub admin_leader: Option<String>,
    /// The newest calls that etcd has a record of, and how each ended.
    pub audit: BTreeMap<AuditId, AuditOutcome>,
    /// Open jobs among the skipped ones that a process of a newer build can begin or drives: their kind is unknown here,
    /// or is one of those that multiadmin drives.
    pub newer_jobs: BTreeSet<JobId>,
    /// Keys that were skipped, and why.
    pub unreadable: BTreeMap<String, String>,
    pub(super) revisions: BTreeMap<Key, i64>,
    pub(super) scope: Scope,
    /// Set when records are needed again that were given up with a summary.
    pub(super) is_behind: bool,
}

fn run_key(record: &JobRecord) -> RunKey {
    (record.database.clone(), record.cell.clone(), record.id)
}

impl View {
    /// The revision of a record's last change, for a guard; 0 when there is no such record.
    #[must_use]
    pub fn revision(&self, key: &Key) -> i64 {
        self.revisions.get(key).copied().or_else(|| self.ended_revision(key)).unwrap_or(0)
    }

    /// The records that planning reads.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot {
            cells: &self.cells,
            databases: &self.databases,
            poolers: &self.poolers,
            status: &self.status,
            leaders: &self.leaders,
            incarnations: &self.incarnations,
        }
    }

    /// A job joined with its run; a driven one also with its steps. None for one that the view has a summary of.
    #[must_use]
    pub fn job(&self, id: &JobId) -> Option<Job> {
        let record = self.jobs.get(id)?;
        let mut job = self.joined(record);
        if !record.kind().is_driven() {
            return Some(job);
        }
        if let (JobKind::Restore, Some(JobOutcome::Restore(restore))) = (record.kind(), &mut job.result) {
            // What the restore kept may have been confirmed, rolled back or replaced by a later restore since.
            let incarnation = self.incarnations.get(&record.database);
            restore.kept &=
                incarnation.is_some_and(|known| known.job == Some(*id) && known.kept_in.is_some());
        }
        Some(with_steps(job, self.steps(id)))
    }

    /// The state of a job.
    #[must_use]
    pub fn state(&self, record: &JobRecord) -> JobState {
        state(record, self.run(record), self.claim(record).is_some(), self.locks.get(&record.database))
    }

    fn joined(&self, record: &JobRecord) -> Job {
        join(record, self.run(record), self.claim(record).is_some(), self.locks.get(&record.database))
    }

    /// The steps of a job that multiadmin drives, in no order.
    #[must_use]
    pub fn steps(&self, parent: &JobId) -> Vec<Job> {
        self.jobs
            .values()
            .filter(|record| record.parent == Some(*parent))
            .map(|record| self.joined(record))
            .collect()
    }

    /// The incarnation of a database; the initial one when it was never restored.
    #[must_use]
    pub fn incarnation(&self, database: &DatabaseName) -> Incarnation {
        self.incarnations.get(database).cloned().unwrap_or_default()
    }

    /// The run that the job's own pooler wrote.
    #[must_use]
    pub fn run(&self, record: &JobRecord) -> Option<&Run> {
        self.runs.get(&run_key(record))
    }

    /// The process of the job's own pooler that works on it.
    #[must_use]
    pub fn claim(&self, record: &JobRecord) -> Option<&str> {
        self.claims.get(&run_key(record)).map(String::as_str)
    }

    /// How a job ended, if that is recorded. Also for jobs that multiadmin drives and that the view has a summary of.
    #[must_use]
    pub fn recorded_end(&self, id: &JobId) -> Option<JobState> {
        let of_record = |record: &JobRecord| {
            let closed = record.closure.as_ref().filter(|closure| closure.is_outcome_known());
            closed
                .map(|closure| closure.state)
                .or_else(|| self.run(record).map(|run| run.state).filter(|state| state.is_terminal()))
        };
        let ended = self.ended.get(id).filter(|ended| ended.is_outcome_known);
        ended.map(|ended| ended.state).or_else(|| self.jobs.get(id).and_then(of_record))
    }

    /// Whether a job is known to have ended otherwise than with success.
    #[must_use]
    pub fn is_known_to_have_failed(&self, id: &JobId) -> bool {
        self.recorded_end(id).is_some_and(|state| state != JobState::Succeeded)
    }

    /// Whether a job has ended. A job that is not there has ended; one that cannot be read may still run.
    ///
    /// Not for jobs that the view's [`Scope`] leaves out.
    #[must_use]
    pub fn has_ended(&self, id: &JobId) -> bool {
        let Some(record) = self.jobs.get(id) else {
            let (of_jobs, name) = ("/jobs/", format!("/{id}"));
            return !self.unreadable.keys().any(|path| path.contains(of_jobs) && path.ends_with(&name));
        };
        record.closure.is_some() || self.run(record).is_some_and(|run| run.state.is_terminal())
    }
}
