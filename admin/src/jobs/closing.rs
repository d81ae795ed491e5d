//! Closing a job: multiadmin's last word where no pooler can have one any more.
//!
//! The pooler's claim guards the job's revision, its outcome guards the claim,
//! and a closure guards all three records. So exactly one outcome wins,
//! whatever anybody believed when they began.

use cellar_model::{Closure, Code, JobError, JobOutcome, JobRecord, JobState};
use cellar_topology::Transaction;
use jiff::Timestamp;

use crate::jobs::ended::{claim_key, job_key, run_key};

/// The record with its closure.
pub(crate) fn closed(record: &JobRecord, state: JobState, error: JobError, now: Timestamp) -> JobRecord {
    ended(record, state, Some(error), None, now)
}

/// The record of a driven job with its closure, which may be a good one.
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

/// Adds the guards and the write that replace a job's record by a closed one.
pub(crate) fn close<'a>(
    transaction: Transaction<'a>,
    record: &JobRecord,
    job_revision: i64,
    run_revision: i64,
) -> Transaction<'a> {
    transaction
        .expect(&job_key(record), job_revision)
        .expect(&run_key(record), run_revision)
        .expect_absent(&claim_key(record))
        .put(&job_key(record), record)
}

/// Why a job that nobody had begun ends as canceled.
pub(crate) fn canceled_before_it_began(by: &str) -> JobError {
    JobError {
        code: Code::Canceled,
        message: format!("canceled by {by} before it began; nothing was done"),
        hint: String::new(),
        tool_output: String::new(),
    }
}
