//! Whether a restore can be rolled back or confirmed: what it kept must still be there.

use jiff::Timestamp;

use crate::decide::primary_fence;
use crate::decide::request::JobRequest;
use crate::decide::snapshot::Snapshot;
use crate::records::incarnation::check_in_use;
use crate::records::job::id::JobId;
use crate::records::job::record::{Job, JobRecord};
use crate::records::job::run::JobState;
use crate::records::job::spec::{JobKind, JobSpec};
use crate::types::code::{Code, Refusal};
use crate::types::name::{CellName, DatabaseName};

fn nothing_kept(message: String, subject: JobId) -> Refusal {
    Refusal::new(Code::NothingKept, message).about("job", subject)
}

fn unknown_restore(subject: JobId) -> Refusal {
    Refusal::new(Code::UnknownJob, format!("there is no job {subject}, and no database keeps data for it"))
        .hint("`cellar jobs list` shows the newest; ended jobs are kept for a while only")
        .about("job", subject)
}

fn check_database(request: &JobRequest, database: &DatabaseName, subject: JobId) -> Result<(), Refusal> {
    if request.database.as_ref().is_some_and(|named| named != database) {
        return Err(Refusal::new(Code::InvalidArgument, format!("job {subject} is of database {database}"))
            .about("field", "database"));
    }
    Ok(())
}

/// The database whose incarnation says that this restore can be confirmed or rolled back, and the cell that keeps the data
/// from before it. The incarnation says all that is needed for that, so it can also be done when the restore's job is
/// not recorded any more.
#[must_use]
pub fn open_restore<'a>(snapshot: &Snapshot<'a>, subject: JobId) -> Option<(&'a DatabaseName, &'a CellName)> {
    snapshot.incarnations.iter().find_map(|(database, incarnation)| {
        let kept_in = incarnation.kept_in.as_ref().filter(|_| incarnation.job == Some(subject));
        Some((database, kept_in?))
    })
}

/// Decides on the rollback of a restore, of whose job the record may be gone.
///
/// # Errors
/// Refused when there is nothing to go back to any more: it was confirmed or rolled back, it kept nothing, it never
/// took effect, or a later restore has taken its place; when the cell that keeps the old data is down; or when the
/// primary is silent, so that it could not be fenced, and nobody vouches that it takes no writes.
pub fn plan_rollback(
    snapshot: &Snapshot<'_>,
    request: &JobRequest,
    subject: JobId,
    restore: Option<&Job>,
    id: JobId,
    now: Timestamp,
) -> Result<JobRecord, Refusal> {
    if let Some(restore) = restore {
        check_subject(snapshot, request, restore, &[JobKind::Restore])?;
    }
    let Some((db, cell)) = open_restore(snapshot, subject) else {
        return Err(no_rollback(snapshot, subject, restore));
    };
    check_database(request, db, subject)?;
    snapshot.pooler(db, cell)?;
    snapshot.live_status(db, cell)?;
    let dead_primary = match snapshot.leaders.get(db) {
        Some(leader) => primary_fence::check(snapshot, db, leader, request.primary_is_dead)?,
        None => None,
    };
    let record = request.record(JobSpec::Rollback(subject), db, cell, id, now);
    Ok(JobRecord { dead_primary, ..record })
}

/// Why a restore cannot be rolled back.
fn no_rollback(snapshot: &Snapshot<'_>, subject: JobId, restore: Option<&Job>) -> Refusal {
    let Some(restore) = restore else { return unknown_restore(subject) };
    let current = snapshot.incarnations.get(&restore.record.database).and_then(|incarnation| incarnation.job);
    let why = match current {
        Some(current) if current == subject => {
            format!("restore {subject} has nothing to go back to: it was confirmed, or done in place")
        }
        Some(later) if restore.result.as_ref().is_some_and(|outcome| outcome.restore().is_some()) => {
            format!("restore {subject} is not the last one: job {later} came after it")
        }
        _ => format!("restore {subject} never took effect: the database is as it was before it"),
    };
    nothing_kept(why, subject)
}

/// Whether a job can be the subject of a confirmation or a rollback at all.
fn check_subject(
    snapshot: &Snapshot<'_>,
    request: &JobRequest,
    job: &Job,
    kinds: &[JobKind],
) -> Result<(), Refusal> {
    let record = &job.record;
    let kind = record.kind();
    if !kinds.contains(&kind) {
        return Err(Refusal::new(
            Code::InvalidArgument,
            format!("job {} is a {kind}, not a restore", record.id),
        )
        .hint("`cellar jobs list` shows the restores")
        .about("field", "id"));
    }
    check_database(request, &record.database, record.id)?;
    snapshot.database(Some(&record.database))?;
    if !job.state.is_terminal() {
        return Err(Refusal::new(Code::Busy, format!("{kind} {} has not ended yet", record.id))
            .hint(format!(
                "wait for it: `cellar jobs watch {}`; or end it with `cellar jobs cancel`",
                record.id
            ))
            .about("job", record.id));
    }
    Ok(())
}

/// Decides on the confirmation of a restore, of whose job the record may be gone; or of a rollback that took effect and
/// then failed or was canceled, which has kept data of its own. `related` are the rollbacks and confirmations of it that
/// there are.
///
/// # Errors
/// Refused when it never took effect, kept nothing, was rolled back, or was confirmed already.
pub fn plan_confirm(
    snapshot: &Snapshot<'_>,
    request: &JobRequest,
    subject: JobId,
    job: Option<&Job>,
    related: &[Job],
    id: JobId,
    now: Timestamp,
) -> Result<JobRecord, Refusal> {
    if let Some(job) = job {
        check_subject(snapshot, request, job, &[JobKind::Restore, JobKind::Rollback])?;
    }
    // Without the record it is not known whether a cell that was away at an earlier confirmation still keeps data.
    let made = || {
        let made = snapshot.incarnations.iter().find(|(_, incarnation)| incarnation.job == Some(subject));
        made.and_then(|(db, incarnation)| Some((db, incarnation.cell.as_ref()?)))
    };
    if let Some((db, cell)) = open_restore(snapshot, subject).or_else(|| made().filter(|_| job.is_none())) {
        check_database(request, db, subject)?;
        snapshot.database(Some(db))?;
        // Nobody has seen the restored primary run, and the old data is the only way back from a copy that does not.
        check_in_use(snapshot.incarnations.get(db), snapshot.leaders.get(db), db)?;
        return Ok(request.record(JobSpec::Confirm(subject), db, cell, id, now));
    }
    let job = job.ok_or_else(|| unknown_restore(subject))?;
    let (db, kind) = (&job.record.database, job.record.kind());
    // What it recorded when it ended, not whether a rollback is still possible.
    let closure = job.record.closure.as_ref();
    let Some(result) = closure.and_then(|closure| closure.result.as_ref()?.restore()) else {
        return Err(nothing_kept(
            format!("{kind} {subject} never took effect: there is nothing to confirm"),
            subject,
        ));
    };
    if kind == JobKind::Rollback && job.state == JobState::Succeeded && !result.kept {
        return Err(nothing_kept(
            format!("rollback {subject} has deleted all that was kept: there is nothing to confirm"),
            subject,
        ));
    }
    // Not by whether a rollback is possible: data that is not whole is kept, too.
    if matches!(&job.record.spec, JobSpec::Restore(params) if params.in_place) {
        return Err(nothing_kept(
            format!("restore {subject} was done in place and kept no old data"),
            subject,
        ));
    }
    let ended = |kind: JobKind| {
        related.iter().find(|job| job.record.kind() == kind && job.state == JobState::Succeeded)
    };
    let keeps = |rollback: &&Job| {
        let closure = rollback.record.closure.as_ref();
        closure.and_then(|closure| closure.result.as_ref()?.restore()).is_some_and(|result| result.kept)
    };
    if let Some(rollback) = ended(JobKind::Rollback).filter(|rollback| !keeps(rollback)) {
        return Err(nothing_kept(
            format!("restore {subject} was rolled back by job {}", rollback.record.id),
            subject,
        ));
    }
    if let Some(confirmation) = ended(JobKind::Confirm) {
        return Err(nothing_kept(
            format!("{kind} {subject} was confirmed by job {} already", confirmation.record.id),
            subject,
        ));
    }
    Ok(request.record(JobSpec::Confirm(subject), db, &result.cell, id, now))
}
