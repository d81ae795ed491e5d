//! Whether a restore can be rolled back or confirmed: what it kept must still be there.

use jiff::Timestamp;

use crate::decide::request::JobRequest;
use crate::decide::snapshot::Snapshot;
use crate::records::job::id::JobId;
use crate::records::job::record::{Job, JobRecord};
use crate::records::job::run::JobState;
use crate::records::job::spec::{JobKind, JobSpec};
use crate::types::code::{Code, Refusal};

fn nothing_kept(message: String, subject: JobId) -> Refusal {
    Refusal::new(Code::NothingKept, message).about("job", subject)
}

fn restore_of(snapshot: &Snapshot<'_>, request: &JobRequest, restore: &Job) -> Result<(), Refusal> {
    let record = &restore.record;
    if record.kind() != JobKind::Restore {
        return Err(Refusal::new(
            Code::InvalidArgument,
            format!("job {} is a {}, not a restore", record.id, record.kind()),
        )
        .hint("`cellar jobs list` shows the restores")
        .about("field", "id"));
    }
    if request.database.as_ref().is_some_and(|named| *named != record.database) {
        return Err(Refusal::new(
            Code::InvalidArgument,
            format!("job {} is of database {}", record.id, record.database),
        )
        .about("field", "database"));
    }
    snapshot.database(Some(&record.database))?;
    if !restore.state.is_terminal() {
        return Err(Refusal::new(Code::Busy, format!("restore {} has not ended yet", record.id))
            .hint(format!(
                "wait for it: `cellar jobs watch {}`; or end it with `cellar jobs cancel`",
                record.id
            ))
            .about("job", record.id));
    }
    Ok(())
}

/// Decides on the rollback of a restore.
///
/// # Errors
/// Refused when there is nothing to go back to any more: it was confirmed or rolled back, it kept nothing, it never
/// took effect, or a later restore has taken its place; or when the cell that keeps the old data is down.
pub fn plan_rollback(
    snapshot: &Snapshot<'_>,
    request: &JobRequest,
    restore: &Job,
    id: JobId,
    now: Timestamp,
) -> Result<JobRecord, Refusal> {
    restore_of(snapshot, request, restore)?;
    let (db, subject) = (&restore.record.database, restore.record.id);
    let incarnation = snapshot.incarnations.get(db);
    let Some(incarnation) = incarnation.filter(|incarnation| incarnation.job == Some(subject)) else {
        let why = match incarnation.and_then(|incarnation| incarnation.job) {
            Some(later) if restore.result.as_ref().is_some_and(|outcome| outcome.restore().is_some()) => {
                format!("restore {subject} is not the last one: job {later} came after it")
            }
            _ => format!("restore {subject} never took effect: the database is as it was before it"),
        };
        return Err(nothing_kept(why, subject));
    };
    let Some(cell) = &incarnation.kept_in else {
        return Err(nothing_kept(
            format!("restore {subject} has nothing to go back to: it was confirmed, or done in place"),
            subject,
        ));
    };
    snapshot.pooler(db, cell)?;
    snapshot.live_status(db, cell)?;
    Ok(request.record(JobSpec::Rollback(subject), db, cell, id, now))
}

/// Decides on the confirmation of a restore. `related` are the rollbacks and confirmations of it that there are.
///
/// # Errors
/// Refused when it never took effect, kept nothing, was rolled back, or was confirmed already.
pub fn plan_confirm(
    snapshot: &Snapshot<'_>,
    request: &JobRequest,
    restore: &Job,
    related: &[Job],
    id: JobId,
    now: Timestamp,
) -> Result<JobRecord, Refusal> {
    restore_of(snapshot, request, restore)?;
    let (db, subject) = (&restore.record.database, restore.record.id);
    // What it recorded when it ended, not whether a rollback is still possible.
    let closure = restore.record.closure.as_ref();
    let Some(result) = closure.and_then(|closure| closure.result.as_ref()?.restore()) else {
        return Err(nothing_kept(
            format!("restore {subject} never took effect: there is nothing to confirm"),
            subject,
        ));
    };
    if !result.kept {
        return Err(nothing_kept(
            format!("restore {subject} was done in place and kept no old data"),
            subject,
        ));
    }
    let ended = |kind: JobKind| {
        related.iter().find(|job| job.record.kind() == kind && job.state == JobState::Succeeded)
    };
    if let Some(job) = ended(JobKind::Rollback) {
        return Err(nothing_kept(
            format!("restore {subject} was rolled back by job {}", job.record.id),
            subject,
        ));
    }
    if let Some(job) = ended(JobKind::Confirm) {
        return Err(nothing_kept(
            format!("restore {subject} was confirmed by job {} already", job.record.id),
            subject,
        ));
    }
    Ok(request.record(JobSpec::Confirm(subject), db, &result.cell, id, now))
}
