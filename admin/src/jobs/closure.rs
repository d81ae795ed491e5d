//! Closing a job: multiadmin records the outcome when no pooler can.
//!
//! A pooler's claim is guarded by the job's revision, its outcome by the claim,
//! and a closure by all three records. So exactly one outcome is recorded, even when
//! a pooler and multiadmin write at the same time.

use cellar_model::{Closure, Code, JobError, JobOutcome, JobRecord, JobState, Key};
use cellar_topology::Transaction;
use jiff::Timestamp;

use crate::jobs::stage::{claim_key, job_key, run_key};

/// The record with its closure.
pub(crate) fn closed(record: &JobRecord, state: JobState, error: JobError, now: Timestamp) -> JobRecord {
    ended(record, state, Some(error), None, now)
}

/// The record of a driven job with its closure, which may be a success.
pub(crate) fn ended(
    record: &JobRecord,
    state: JobState,
    error: Option<JobError>,
    result: Option<JobOutcome>,
    now: Timestamp,
) -> JobRecord {
    let time = cellar_model::timestamp_ms(now);
    JobRecord { closure: Some(Closure { state, time, error, result }), ..record.clone() }
}

/// What a decision to close a job stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClosureGuards {
    /// The revision of the job's record.
    pub(crate) job: i64,
    /// The revision of its run, 0 for none.
    pub(crate) run: i64,
    /// The revision of its database's lock, 0 for none. A job that multiadmin drives has neither run nor claim: it has
    /// begun when it holds the lock.
    pub(crate) lock: i64,
}

/// Adds the guards and the write that replace a job's record by a closed one.
pub(crate) fn close<'a>(
    transaction: Transaction<'a>,
    record: &JobRecord,
    guards: ClosureGuards,
) -> Transaction<'a> {
    let transaction = transaction
        .expect(&job_key(record), guards.job)
        .expect(&run_key(record), guards.run)
        .expect_absent(&claim_key(record))
        .put(&job_key(record), record);
    if record.kind().is_driven() {
        transaction.expect(&Key::Lock(record.database.clone()), guards.lock)
    } else {
        transaction
    }
}

/// The error of a job that was canceled before any pooler began it.
pub(crate) fn canceled_before_it_began(by: &str) -> JobError {
    JobError {
        code: Code::Canceled,
        message: format!("canceled by {by} before it began; nothing was done"),
        hint: String::new(),
        tool_output: String::new(),
    }
}
